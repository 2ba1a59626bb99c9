//! Work on separate threads and processes, and the values that threads share. A thread that panics gives an error to
//! whoever waits for it, and to nobody else.

use std::process::{Child, ExitStatus};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use tokio::task::spawn_blocking;

use crate::error::{Error, Kind, Result};

/// Does `work`, which may block, on a thread of its own.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    ended("a worker thread", spawn_blocking(work).await)
}

/// The result of a task or thread, which `who` names.
pub(crate) fn ended<T, E>(who: &str, joined: std::result::Result<Result<T>, E>) -> Result<T> {
    joined.unwrap_or_else(|_| Err(Error::new(Kind::Io, format!("{who} ended unexpectedly"))))
}

/// How many cores this process may use, at least 1.
pub(crate) fn cores() -> usize {
    std::thread::available_parallelism().map_or(1, |n| n.get())
}

/// Does `work` on as many threads as there are cores, 16 and `most` at most; what each returned, or the first error.
pub(crate) fn on_all_cores<T: Send>(most: usize, work: impl Fn() -> Result<T> + Sync) -> Result<Vec<T>> {
    let threads = cores().min(16).min(most.max(1));
    std::thread::scope(|scope| {
        let workers: Vec<_> = (0..threads).map(|_| scope.spawn(&work)).collect();
        workers.into_iter().map(|worker| ended("a worker thread", worker.join())).collect()
    })
}

/// The value itself, once nobody else holds it; `None` if that takes longer than `limit`.
pub(crate) async fn alone<T>(mut shared: Arc<T>, limit: Duration) -> Option<T> {
    let deadline = Instant::now() + limit;
    loop {
        match Arc::try_unwrap(shared) {
            Ok(value) => return Some(value),
            Err(_) if Instant::now() > deadline => return None,
            Err(still) => shared = still,
        }
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
}

/// The result of `work`; if there is none, waits forever.
pub(crate) async fn or_never<T>(work: Option<impl Future<Output = T>>) -> T {
    match work {
        Some(work) => work.await,
        None => std::future::pending().await,
    }
}

/// How `child` ended; `None` if it is still running after `limit`.
pub(crate) fn ended_within(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait()? {
            None if Instant::now() <= deadline => std::thread::sleep(Duration::from_millis(5)),
            ended => return Ok(ended),
        }
    }
}

/// How `child` ended. Cancel-safe.
pub(crate) async fn exited(child: &mut Child) -> std::io::Result<ExitStatus> {
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

/// As [`ended_within`], for a task.
pub(crate) async fn exited_within(child: &mut Child, limit: Duration) -> std::io::Result<Option<ExitStatus>> {
    tokio::time::timeout(limit, exited(child)).await.map_or(Ok(None), |ended| ended.map(Some))
}

/// What `thread` returned; `None` if it panicked or is still running after `limit`.
pub(crate) async fn joined_within<T>(thread: JoinHandle<T>, limit: Duration) -> Option<T> {
    let deadline = Instant::now() + limit;
    while !thread.is_finished() {
        if Instant::now() > deadline {
            return None;
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    thread.join().ok()
}

/// A process that does not outlive this, unless its kernel cannot end it.
#[derive(Debug)]
pub(crate) struct Killed(pub(crate) Child);

impl Drop for Killed {
    fn drop(&mut self) {
        let _ = self.0.kill();
        // A disk that does not respond may hold it; nobody waits for that.
        let _ = ended_within(&mut self.0, Duration::from_secs(1));
    }
}

/// Locks `mutex`, even after a thread has panicked with it, so no change to its value may be half done where a panic is
/// possible.
pub(crate) fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error() {
        assert_eq!(blocking(|| Ok(7)).await.unwrap(), 7);
        let error = blocking(|| -> Result<()> { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(error.sentence(), "a worker thread ended unexpectedly");
    }

    #[test]
    fn a_process_is_waited_for_no_longer_than_the_limit() {
        let spawn = |script| std::process::Command::new("sh").args(["-c", script]).spawn().unwrap();
        let ended = ended_within(&mut spawn("exit 3"), Duration::from_secs(60)).unwrap();
        assert_eq!(ended.unwrap().code(), Some(3));
        let mut child = spawn("exec sleep 60");
        assert_eq!(ended_within(&mut child, Duration::from_millis(20)).unwrap(), None);
        child.kill().unwrap();
        child.wait().unwrap();
    }

    #[tokio::test]
    async fn tasks_wait_no_longer_than_the_limit_either() {
        let mut child = Killed(std::process::Command::new("sleep").arg("60").spawn().unwrap());
        assert_eq!(exited_within(&mut child.0, Duration::from_millis(20)).await.unwrap(), None);
        child.0.kill().unwrap();
        assert!(exited(&mut child.0).await.is_ok());
        assert_eq!(joined_within(std::thread::spawn(|| 7), Duration::from_secs(60)).await, Some(7));
        let long = std::thread::spawn(|| std::thread::sleep(Duration::from_secs(2)));
        assert_eq!(joined_within(long, Duration::from_millis(20)).await, None);
    }

    #[test]
    fn what_a_panic_leaves_is_used_on() {
        let mutex = Mutex::new(1);
        std::thread::scope(|scope| {
            let panics = || {
                *lock(&mutex) = 2;
                let _held = lock(&mutex);
                panic!("on purpose");
            };
            scope.spawn(panics).join().unwrap_err();
        });
        assert!(mutex.is_poisoned());
        assert_eq!(*lock(&mutex), 2);
    }
}
