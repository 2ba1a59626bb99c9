//! The work of a round: which chunks are still to be sent, shared by all lanes.
//!
//! The largest files come first, chunk by chunk, so that one huge tablespace fills every lane; then
//! the small entries, many to a batch. What a broken lane has not had acknowledged comes back.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use crate::manifest::{CHUNK, chunks};
use crate::threads::lock;
use crate::tree::Found;

/// One frame's worth of work; the numbers are those of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// One chunk of a file that has several.
    Chunk { file: u32, chunk: u64 },
    /// Small files, directories and links.
    Small(Vec<u32>),
}

#[derive(Debug)]
pub(super) struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    finished: Notify,
}

#[derive(Debug)]
struct State {
    /// Large files and their numbers of chunks; the one being handed out is last.
    large: Vec<(u32, u64)>,
    /// The next chunk of the last of `large`.
    next: u64,
    /// Batches of small entries; the next is last.
    small: Vec<Vec<u32>>,
    returned: Vec<Work>,
    /// Pieces of work handed out and not yet acknowledged.
    outstanding: usize,
    closed: bool,
}

/// What an entry costs in a batch beside its content, at most: two headers and its records.
fn headers(found: &Found) -> u64 {
    let name = found.entry.path.as_bytes().len() as u64;
    let attributes: usize = found.entry.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    // The list of runs of data, where there are holes: of every other page at most.
    let runs = if found.allocated < found.size() { (found.size() / 4096 + 1) * 24 } else { 0 };
    2048 + 2 * name + attributes as u64 + runs
}

const BATCH_ENTRIES: usize = 512;

impl Queue {
    pub(super) fn new(found: &[Found]) -> Queue {
        let (mut large, mut small) = (Vec::new(), Vec::new());
        let (mut batch, mut weight) = (Vec::new(), 0);
        for (number, found) in (0u32..).zip(found) {
            let size = found.size();
            if chunks(size) > 1 {
                large.push((number, chunks(size)));
                continue;
            }
            let cost = size + headers(found);
            if batch.len() == BATCH_ENTRIES || weight + cost > CHUNK {
                small.push(std::mem::take(&mut batch));
                weight = 0;
            }
            batch.push(number);
            weight += cost;
        }
        small.push(batch);
        small.retain(|batch| !batch.is_empty());
        small.reverse();
        large.sort_by_key(|(_, count)| *count);
        let state = State { large, next: 0, small, returned: Vec::new(), outstanding: 0, closed: false };
        Queue { state: Mutex::new(state), changed: Condvar::new(), finished: Notify::new() }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The next piece of work; blocks while there is none but some may still come back. `None`: all of
    /// it is acknowledged, or the queue is closed.
    pub(super) fn next(&self) -> Option<Work> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if let Some(work) = state.take() {
                state.outstanding += 1;
                return Some(work);
            }
            if state.outstanding == 0 {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A piece of work is written and verified on the joiner.
    pub(super) fn done(&self) {
        let mut state = self.state();
        state.outstanding = state.outstanding.saturating_sub(1);
        if state.outstanding == 0 {
            self.changed.notify_all();
            self.finished.notify_waiters();
        }
    }

    /// Returns when all of the work is acknowledged. Cancel-safe.
    pub(super) async fn finished(&self) {
        loop {
            let told = self.finished.notified();
            if self.is_finished() {
                return;
            }
            told.await;
        }
    }

    /// A lane broke: somebody else must do this.
    pub(super) fn give_back(&self, work: Work) {
        let mut state = self.state();
        state.outstanding = state.outstanding.saturating_sub(1);
        state.returned.push(work);
        self.changed.notify_all();
    }

    /// Wakes all who wait: nothing more is handed out.
    pub(super) fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    pub(super) fn is_finished(&self) -> bool {
        let state = self.state();
        let empty = state.large.is_empty() && state.small.is_empty() && state.returned.is_empty();
        empty && state.outstanding == 0
    }
}

impl State {
    fn take(&mut self) -> Option<Work> {
        if let Some(work) = self.returned.pop() {
            return Some(work);
        }
        if let Some(&(file, count)) = self.large.last() {
            let chunk = self.next;
            self.next += 1;
            if self.next == count {
                self.large.pop();
                self.next = 0;
            }
            return Some(Work::Chunk { file, chunk });
        }
        self.small.pop().map(Work::Small)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Roots, Rules, Stillness, scan};
    use std::collections::BTreeMap;

    fn queue(sizes: &[u64]) -> Queue {
        let dir = tempfile::tempdir().unwrap();
        for (index, size) in sizes.iter().enumerate() {
            std::fs::File::create(dir.path().join(format!("{index:06}"))).unwrap().set_len(*size).unwrap();
        }
        let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        Queue::new(&scan(&mut roots, &Rules::default(), Stillness::Frozen).unwrap())
    }

    #[test]
    fn the_largest_come_first_and_the_small_in_batches() {
        let queue = queue(&[10, 3 * CHUNK, 20, 2 * CHUNK + 1, CHUNK]);
        let mut order = Vec::new();
        while let Some(work) = queue.next() {
            order.push(work);
            queue.done();
        }
        assert_eq!(
            order[..6],
            [(3, 0), (3, 1), (3, 2), (1, 0), (1, 1), (1, 2)].map(|(file, chunk)| Work::Chunk { file, chunk })
        );
        assert_eq!(order[6..], [Work::Small(vec![0, 2]), Work::Small(vec![4])]);
        assert!(queue.is_finished());
    }

    #[test]
    fn small_files_share_frames() {
        let queue = queue(&[100; 2000]);
        let batches = std::iter::from_fn(|| queue.next().inspect(|_| queue.done())).count();
        assert!((4..=5).contains(&batches), "{batches}");
    }

    #[test]
    fn what_comes_back_is_handed_out_again() {
        let queue = queue(&[10]);
        let work = queue.next().unwrap();
        queue.give_back(work.clone());
        assert_eq!(queue.next(), Some(work));
        assert!(!queue.is_finished());
        queue.done();
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_closed_queue_wakes_those_who_wait() {
        let queue = queue(&[10]);
        queue.next().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.next());
            std::thread::sleep(std::time::Duration::from_millis(20));
            queue.close();
            assert_eq!(waiter.join().unwrap(), None);
        });
    }
}
