//! Where a stream's pieces come together: lanes bring them in any order, one thread writes them in theirs.
//!
//! At most a window of pieces is here, whatever the donor sends.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Condvar, Mutex, PoisonError};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, watch};

use crate::direct::Pages;
use crate::error::{Error, Kind, Result};
use crate::manifest::{Checksum, Digest, StreamSeal, StreamSealer};
use crate::pipe::Writer;
use crate::progress::Meter;
use crate::threads::lock;
use crate::wire::Piece;

#[derive(Debug)]
pub(super) struct Outlet {
    checksum: Checksum,
    /// How far a piece may be ahead of the first that is not written.
    window: u64,
    state: Mutex<State>,
    changed: Condvar,
    /// How many pieces are written.
    written: watch::Sender<u64>,
    /// Buffers to be used again.
    pub(super) spare: Arc<Mutex<Vec<Pages>>>,
}

#[derive(Debug)]
struct State {
    next: u64,
    waiting: BTreeMap<u64, Arc<Held>>,
    sealer: StreamSealer,
    /// Since when the next piece is being written.
    writing: Option<Instant>,
    closed: bool,
}

/// A piece as it came.
#[derive(Debug)]
struct Held {
    digest: Digest,
    payload: Pages,
}

impl Outlet {
    pub(super) fn new(checksum: Checksum, window: u32) -> Outlet {
        let state = State {
            next: 0,
            waiting: BTreeMap::new(),
            sealer: StreamSealer::new(checksum),
            writing: None,
            closed: false,
        };
        let (state, written) = (Mutex::new(state), watch::channel(0).0);
        Outlet { checksum, window: window.into(), state, changed: Condvar::new(), written, spare: Arc::default() }
    }

    /// Takes a piece as it came, and returns its number. Never waits: who brings a later one may have the next behind it.
    ///
    /// # Errors
    /// It is damaged, beyond the window, or another than the one that came before under that number.
    pub(super) fn take(&self, payload: Pages) -> Result<u64> {
        let Piece { number, digest, data } = Piece::parse(&payload)?;
        if self.checksum.digest(data) != digest {
            let what = format!("piece {number} of the stream is damaged: its bytes do not match its digest");
            return Err(Error::new(Kind::Integrity, what)
                .remedy("start again; if it happens twice, check the memory of both hosts"));
        }
        let mut state = lock(&self.state);
        let refuse = |why: &str| Err(Error::new(Kind::Protocol, format!("piece {number} of the stream {why}")));
        if number >= state.next.saturating_add(self.window) {
            return refuse("is beyond the window that was agreed on");
        }
        if number < state.next {
            // Its lane broke before it was acknowledged.
            return Ok(number);
        }
        match state.waiting.get(&number) {
            Some(before) if before.digest != digest => return refuse("came twice, and not as the same"),
            Some(_) => {}
            None => {
                state.waiting.insert(number, Arc::new(Held { digest, payload }));
                self.changed.notify_all();
            }
        }
        Ok(number)
    }

    /// Writes pieces in their order until [`Outlet::close`].
    pub(super) fn write_all(&self, mut writer: Writer, meter: &Meter) -> Result<()> {
        loop {
            let held = {
                let mut state = lock(&self.state);
                loop {
                    if state.closed {
                        return Ok(());
                    }
                    if let Some(held) = state.waiting.get(&state.next).map(Arc::clone) {
                        state.writing = Some(Instant::now());
                        break held;
                    }
                    state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
                }
            };
            let data = Piece::parse(&held.payload)?.data;
            writer.write(data)?;
            meter.add_done(data.len() as u64);
            let next = {
                let mut state = lock(&self.state);
                let number = state.next;
                state.waiting.remove(&number);
                state.sealer.add(data.len() as u32, held.digest);
                state.writing = None;
                state.next += 1;
                state.next
            };
            if let Some(Held { payload, .. }) = Arc::into_inner(held) {
                lock(&self.spare).push(payload);
            }
            self.written.send_replace(next);
        }
    }

    /// Nothing more is written.
    pub(super) fn close(&self) {
        lock(&self.state).closed = true;
        self.changed.notify_all();
    }

    /// How long the consumer has not taken what is there.
    pub(super) fn held(&self, now: Instant) -> Duration {
        lock(&self.state).writing.map_or(Duration::ZERO, |since| now.saturating_duration_since(since))
    }

    /// The seal over what was written. Nothing is written any more.
    pub(super) fn finish(self) -> StreamSeal {
        self.state.into_inner().unwrap_or_else(PoisonError::into_inner).sealer.finish()
    }

    pub(super) fn written(&self) -> watch::Receiver<u64> {
        self.written.subscribe()
    }

    /// For a lane that brings pieces.
    pub(super) fn delivered(&self) -> Delivered {
        Delivered::new(self.window)
    }
}

/// The pieces that one lane has brought, in the order in which it did.
#[derive(Debug)]
pub(super) struct Delivered {
    numbers: Mutex<VecDeque<u64>>,
    /// So many may wait: an honest donor has no more that are not acknowledged.
    window: u64,
    more: Notify,
}

impl Delivered {
    pub(super) fn new(window: u64) -> Delivered {
        Delivered { numbers: Mutex::default(), window, more: Notify::new() }
    }

    /// # Errors
    /// The window is full.
    pub(super) fn push(&self, number: u64) -> Result<()> {
        let mut numbers = lock(&self.numbers);
        if numbers.len() as u64 >= self.window {
            return Err(Error::new(Kind::Protocol, "a lane brought more pieces of the stream than were agreed on"));
        }
        numbers.push_back(number);
        self.more.notify_one();
        Ok(())
    }

    /// How many more are written, of those that no earlier one of this lane waits before. Waits until there is one;
    /// `None`: nothing more will be. Cancel-safe.
    pub(super) async fn written(&self, written: &mut watch::Receiver<u64>) -> Option<u64> {
        loop {
            let next = *written.borrow_and_update();
            let count = {
                let mut numbers = lock(&self.numbers);
                let before = numbers.len();
                while numbers.front().is_some_and(|number| *number < next) {
                    numbers.pop_front();
                }
                (before - numbers.len()) as u64
            };
            if count > 0 {
                return Some(count);
            }
            tokio::select! {
                changed = written.changed() => changed.ok()?,
                () = self.more.notified() => {}
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pipe::{Consumer, End};
    use crate::progress::Quiet;
    use std::io::Read;

    fn payload(number: u64, data: &[u8]) -> Pages {
        let head = Piece::head(number, Checksum::Blake3.digest(data));
        Pages::from([head.as_slice(), data].concat().as_slice())
    }

    fn outlet(window: u32) -> Arc<Outlet> {
        Arc::new(Outlet::new(Checksum::Blake3, window))
    }

    #[test]
    fn pieces_are_written_in_order_whoever_brings_them() {
        let outlet = outlet(4);
        let (mut reads, writes) = std::io::pipe().unwrap();
        let file = std::fs::File::from(std::os::fd::OwnedFd::from(writes));
        let consumer = Consumer::start(End::Open(file), Arc::new(Quiet)).unwrap();
        let meter = Arc::new(Meter::default());
        let writing = std::thread::spawn({
            let (outlet, writer, meter) = (Arc::clone(&outlet), consumer.writer().unwrap(), Arc::clone(&meter));
            move || outlet.write_all(writer, &meter)
        });
        for number in [2, 1, 2, 0, 0] {
            assert_eq!(outlet.take(payload(number, &[b'a' + number as u8])).unwrap(), number);
        }
        let mut written = outlet.written();
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        runtime.block_on(written.wait_for(|next| *next == 3)).unwrap();
        assert_eq!(outlet.take(payload(1, b"late")).unwrap(), 1, "it is written already");
        outlet.close();
        writing.join().unwrap().unwrap();
        drop(consumer);
        let mut text = String::new();
        reads.read_to_string(&mut text).unwrap();
        assert_eq!((text.as_str(), meter.snapshot().done), ("abc", 3));
        let seal = Arc::into_inner(outlet).unwrap().finish();
        assert_eq!((seal.pieces, seal.bytes), (3, 3));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let outlet = outlet(4);
        outlet.take(payload(3, b"x")).unwrap();
        let mut damaged = payload(1, b"x");
        damaged[45 - 5] ^= 1;
        let too_long = payload(1, &vec![0; (1 << 20) + 1]);
        for (payload, kind, says) in [
            (payload(4, b"x"), Kind::Protocol, "piece 4 of the stream is beyond the window that was agreed on"),
            (payload(u64::MAX, b"x"), Kind::Protocol, "is beyond the window"),
            (payload(3, b"y"), Kind::Protocol, "piece 3 of the stream came twice, and not as the same"),
            (damaged, Kind::Integrity, "piece 1 of the stream is damaged"),
            (payload(1, b""), Kind::Protocol, "a length of 0 bytes"),
            (too_long, Kind::Protocol, "a length of 1048577 bytes"),
            (Pages::default(), Kind::Protocol, "a lane frame is malformed"),
        ] {
            let error = outlet.take(payload).unwrap_err();
            assert_eq!(error.kind(), kind, "{says}");
            assert!(error.sentence().contains(says), "{}", error.sentence());
        }
        assert_eq!(lock(&outlet.state).waiting.len(), 1);
    }

    #[tokio::test]
    async fn a_lane_acknowledges_what_is_written_of_its_first() {
        let (sender, mut written) = watch::channel(0);
        let delivered = Delivered::new(3);
        [3, 0, 1].into_iter().for_each(|number| delivered.push(number).unwrap());
        assert_eq!(delivered.push(3).unwrap_err().kind(), Kind::Protocol);
        sender.send_replace(2);
        let none = tokio::time::timeout(Duration::from_millis(20), delivered.written(&mut written)).await;
        assert!(none.is_err(), "the lane's first is not written");
        sender.send_replace(4);
        assert_eq!(delivered.written(&mut written).await, Some(3));
        delivered.push(2).unwrap();
        assert_eq!(delivered.written(&mut written).await, Some(1), "written before it came again");
        drop(sender);
        assert_eq!(delivered.written(&mut written).await, None);
    }
}
