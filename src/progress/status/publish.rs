//! A reporter that also keeps the status file and, if there is one, the metrics file. They are written on a separate
//! thread, so that a hung disk cannot delay a transfer's deadlines.

use std::path::Path;
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime};

use super::metrics::Metrics;
use super::{Phase, Status, StatusFile, Wish};
use crate::error::{Error, Side};
use crate::pace::Throttle;
use crate::progress::{Reporter, Snapshot, bytes};
use crate::threads::lock;

/// How old the record in the file may be.
const EVERY: Duration = Duration::from_secs(1);
/// How long to wait for the final record to be written.
const PATIENCE: Duration = Duration::from_secs(1);

/// Passes everything on, and publishes it.
#[derive(Debug)]
pub struct Published {
    inner: Arc<dyn Reporter>,
    /// What `inner` was last told.
    told: Mutex<Snapshot>,
    board: Arc<Board>,
}

/// Shared by the transfer's threads and the writing one.
#[derive(Debug)]
struct Board {
    page: Mutex<Page>,
    changed: Condvar,
}

#[derive(Debug)]
struct Page {
    status: Status,
    news: bool,
    written: bool,
}

/// What is published, and where.
#[derive(Debug)]
pub struct Publish<'a> {
    /// Where the status is kept; `None` for a byte stream, which has no directory of its own.
    pub datadir: Option<&'a Path>,
    pub role: Side,
    pub metrics: Option<&'a Path>,
    /// The donor's rate limit, which can be changed from outside.
    pub rate: Option<Arc<Throttle>>,
}

impl Published {
    /// For a transfer that begins now. If a file cannot be kept, `inner` is told and the transfer continues.
    pub fn new(inner: Arc<dyn Reporter>, publish: Publish<'_>) -> Arc<Published> {
        let Publish { datadir, role, metrics, rate } = publish;
        let mut status = Status::begin(role, SystemTime::now());
        status.rate_limit = rate.as_ref().and_then(|rate| rate.rate());
        let file = datadir.map(|datadir| StatusFile::take(datadir, &status));
        if let Some(Err(error)) = &file {
            inner.warn(&unseen(&error.sentence()));
        }
        let mut files = Files {
            status: file.and_then(Result::ok),
            metrics: metrics.map(Metrics::new),
            rate,
            wished: status.started,
        };
        let page = Page { status, news: true, written: false };
        let board = Arc::new(Board { page: Mutex::new(page), changed: Condvar::new() });
        let thread = std::thread::Builder::new().name("status".into()).spawn({
            let (board, inner) = (Arc::clone(&board), Arc::clone(&inner));
            move || {
                files.keep(&board, &*inner);
                // A process that is only about to end must not look like a transfer.
                drop(files);
                lock(&board.page).written = true;
                board.changed.notify_all();
            }
        });
        if let Err(error) = thread {
            lock(&board.page).written = true;
            inner.warn(&unseen(&error.to_string()));
        }
        Arc::new(Published { inner, told: Mutex::default(), board })
    }

    /// The transfer is over: with the number of reused bytes, or an error. Waits a moment until that is written.
    pub fn end(&self, outcome: Result<u64, &Error>) {
        self.update(|status| {
            status.reused_bytes = outcome.unwrap_or(0);
            status.end(outcome.err(), SystemTime::now());
        });
        let page = lock(&self.board.page);
        drop(self.board.changed.wait_timeout_while(page, PATIENCE, |page| !page.written));
    }

    fn update(&self, change: impl FnOnce(&mut Status)) {
        let mut page = lock(&self.board.page);
        change(&mut page.status);
        page.news = true;
        self.board.changed.notify_all();
    }

    fn tell_status(&self) {
        // Whatever waits for a terminal here, the board is free.
        let status = lock(&self.board.page).status.clone();
        self.inner.status(&status);
    }
}

fn unseen(why: &str) -> String {
    format!("`highline status` cannot show this transfer: {why}")
}

/// The files that can be written.
struct Files {
    status: Option<StatusFile>,
    metrics: Option<Metrics>,
    rate: Option<Arc<Throttle>>,
    /// The time of the last request that was granted.
    wished: f64,
}

impl Files {
    /// Writes changes until the final record is written, or neither file can be written.
    fn keep(&mut self, board: &Board, inner: &dyn Reporter) {
        while self.status.is_some() || self.metrics.is_some() {
            let (status, news) = {
                let page = lock(&board.page);
                let waited = board.changed.wait_timeout_while(page, EVERY, |page| !page.news);
                let (mut page, _) = waited.unwrap_or_else(PoisonError::into_inner);
                (page.status.clone(), std::mem::take(&mut page.news))
            };
            // The board is not locked while this waits for a disk.
            if let Some(wish) = self.new_wish(&status) {
                self.grant(&wish, board, inner);
                continue;
            }
            if !news {
                continue;
            }
            if let Some(Err(error)) = self.status.as_mut().map(|file| file.write(&status)) {
                inner.warn(&unseen(&error.to_string()));
                self.status = None;
            }
            if let Some(Err(error)) = self.metrics.as_mut().map(|file| file.tell(&status, Instant::now())) {
                inner.warn(&format!("the metrics file cannot be written: {error}"));
                self.metrics = None;
            }
            if status.ended.is_some() {
                return;
            }
        }
    }

    fn new_wish(&self, status: &Status) -> Option<Wish> {
        self.rate.as_ref()?;
        self.status.as_ref()?.wish(status).filter(|wish| wish.at != self.wished)
    }

    /// Carries out a request to this transfer.
    fn grant(&mut self, wish: &Wish, board: &Board, inner: &dyn Reporter) {
        self.wished = wish.at;
        if let Some(rate) = &self.rate {
            rate.set(wish.rate_limit, Instant::now());
        }
        {
            let mut page = lock(&board.page);
            (page.status.rate_limit, page.news) = (wish.rate_limit, true);
        }
        inner.note(&match wish.rate_limit {
            Some(rate) => format!("rate-limit is {}/s from now on: set with `highline rate`", bytes(rate)),
            None => "there is no rate-limit from now on: set with `highline rate`".into(),
        });
    }
}

impl Reporter for Published {
    fn note(&self, line: &str) {
        self.inner.note(line);
    }

    fn warn(&self, line: &str) {
        self.inner.warn(line);
    }

    fn progress(&self, now: &Snapshot) {
        self.update(|status| status.count(now, SystemTime::now()));
        let mut told = lock(&self.told);
        // The runtime's clock ticks in milliseconds.
        let due = self.inner.interval().saturating_sub(Duration::from_millis(5));
        if now.elapsed.saturating_sub(told.elapsed) >= due {
            self.inner.progress(&now.since(&told));
            self.tell_status();
            *told = *now;
        }
    }

    fn interval(&self) -> Duration {
        self.inner.interval().min(EVERY)
    }

    fn phase(&self, phase: Phase) {
        self.update(|status| status.enter(phase, SystemTime::now()));
        self.inner.phase(phase);
        self.tell_status();
    }

    fn meet(&self, peer: &str) {
        self.update(|status| status.meet(peer));
        self.inner.meet(peer);
    }

    fn done(&self, last: &Snapshot) {
        self.update(|status| status.count(last, SystemTime::now()));
        self.inner.done(last);
        self.tell_status();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;
    use crate::progress::Recorder;
    use crate::progress::status::{Seen, State, look};

    fn publish(datadir: &Path, role: Side) -> Publish<'_> {
        Publish { datadir: Some(datadir), role, metrics: None, rate: None }
    }

    fn state(dir: &Path) -> (State, Status) {
        let (status, alive) = match look(dir).unwrap() {
            Seen::Live(status) => (status, true),
            Seen::Left(status) => (status, false),
            Seen::Nothing => panic!(),
        };
        (State::of(&status, alive, Duration::from_secs(60), SystemTime::now()), *status)
    }

    #[test]
    fn what_is_told_can_be_seen_until_the_end_and_after_it() {
        let dir = tempfile::tempdir().unwrap();
        let recorder = Arc::new(Recorder::default());
        let published = Published::new(Arc::clone(&recorder) as _, publish(dir.path(), Side::Joiner));
        published.meet("192.0.2.1:4444");
        published.phase(Phase::Copying);
        published.done(&Snapshot { wire: 9, ..Snapshot::default() });
        let deadline = std::time::Instant::now() + Duration::from_secs(5);
        while state(dir.path()).1.phase != Phase::Copying {
            assert!(std::time::Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(5));
        }
        assert_eq!(state(dir.path()).0, State::Running);
        published.end(Err(&Error::new(Kind::NoSpace, "cannot write x").on(Side::Joiner)));
        let (state, status) = state(dir.path());
        let failed = status.ended.unwrap().error.unwrap();
        assert_eq!((state, failed.kind, failed.text.as_str()), (State::Failed, Kind::NoSpace, "cannot write x"));
        assert_eq!((status.peer.as_deref(), status.wire_bytes), (Some("192.0.2.1:4444"), 9));
        assert!(recorder.lines().is_empty());
    }

    #[test]
    fn a_reporter_is_shown_what_is_in_the_file() {
        #[derive(Debug, Default)]
        struct Shown(Mutex<Vec<Status>>);
        impl Reporter for Shown {
            fn note(&self, _: &str) {}
            fn warn(&self, _: &str) {}
            fn progress(&self, _: &Snapshot) {}
            fn status(&self, status: &Status) {
                lock(&self.0).push(status.clone());
            }
            fn interval(&self) -> Duration {
                EVERY
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let shown = Arc::new(Shown::default());
        let rate = Some(Arc::new(Throttle::new(Some(7), Instant::now())));
        let published = Published::new(Arc::clone(&shown) as _, Publish { rate, ..publish(dir.path(), Side::Donor) });
        published.phase(Phase::Copying);
        published.progress(&Snapshot { wire: 3, elapsed: Duration::from_millis(10), ..Snapshot::default() });
        published.progress(&Snapshot { wire: 5, elapsed: EVERY, ..Snapshot::default() });
        published.done(&Snapshot { wire: 9, ..Snapshot::default() });
        let told: Vec<_> = lock(&shown.0).iter().map(|now| (now.phase, now.wire_bytes, now.rate_limit)).collect();
        assert_eq!(told, [0, 5, 9].map(|wire| (Phase::Copying, wire, Some(7))));
        published.end(Ok(0));
    }

    #[test]
    fn a_status_that_cannot_be_kept_is_told_and_costs_nothing_else() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir(dir.path().join(super::super::FILE)).unwrap();
        let recorder = Arc::new(Recorder::default());
        let nowhere = dir.path().join("nowhere/m.prom");
        let published = Published::new(
            Arc::clone(&recorder) as _,
            Publish { metrics: Some(&nowhere), ..publish(dir.path(), Side::Donor) },
        );
        published.note("goes on");
        published.end(Ok(0));
        let lines = recorder.lines();
        assert!(
            lines.iter().any(|line| line.starts_with("warning: the metrics file cannot be written: ")),
            "{lines:?}"
        );
        assert!(lines[0].starts_with("warning: `highline status` cannot show this transfer: cannot open"), "{lines:?}");
        assert!(lines.iter().any(|line| line == "goes on"));
    }

    #[test]
    fn each_is_told_as_often_as_it_asks() {
        #[derive(Debug, Default)]
        struct Slow(Mutex<Vec<f64>>);
        impl Reporter for Slow {
            fn note(&self, _: &str) {}
            fn warn(&self, _: &str) {}
            fn progress(&self, now: &Snapshot) {
                lock(&self.0).push(now.rate);
            }
            fn interval(&self) -> Duration {
                Duration::from_secs(10)
            }
        }
        let dir = tempfile::tempdir().unwrap();
        let slow = Arc::new(Slow::default());
        let published = Published::new(Arc::clone(&slow) as _, publish(dir.path(), Side::Donor));
        assert_eq!(published.interval(), EVERY);
        for second in 1..=20 {
            let elapsed = Duration::from_secs(second);
            published.progress(&Snapshot { done: second * second, total: 1000, elapsed, ..Snapshot::default() });
        }
        // Over ten seconds each: 100 bytes, then 300 more.
        assert_eq!(*lock(&slow.0), [10.0, 30.0]);
        published.end(Ok(0));
    }
}
