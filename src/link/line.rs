//! The task behind a [`super::Control`]: one connection after another, until the conversation ends.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::io::{AsyncWrite, AsyncWriteExt, ReadHalf, split};
use tokio::sync::{Notify, mpsc, watch};

use super::again::Again;
use super::sequence::Sequence;
use super::{Deadlines, Stream, read_message, within};
use crate::error::{Error, Kind};
use crate::progress::Reporter;
use crate::threads::lock;
use crate::wire::{Failure, Message};

/// What the task and the conversation share.
#[derive(Debug)]
pub(super) struct Line {
    pub(super) peer: String,
    pub(super) deadlines: Deadlines,
    pub(super) reporter: Arc<dyn Reporter>,
    pub(super) sequence: Mutex<Sequence>,
    /// Something was sent or received.
    pub(super) changed: Notify,
    /// Everything that was to be written is written.
    pub(super) written: Notify,
    /// When the peer was last heard from.
    pub(super) alive: Mutex<Instant>,
    /// The donor has said its last word.
    pub(super) goodbye: AtomicBool,
}

#[derive(Clone, Debug)]
pub(super) enum State {
    Stands,
    /// Since when.
    Cut(Instant),
    /// Why nothing more comes from the peer.
    Ended(Failure),
}

/// Why nothing more comes over one connection.
enum Hush {
    Broken(Error),
    /// Another connection would not help.
    Final(Error),
}

impl Line {
    /// Runs one connection after another until the conversation ends.
    pub(super) async fn keep(
        &self,
        mut stream: Stream,
        arrived: &mpsc::Sender<Message>,
        state: &watch::Sender<State>,
        mut again: Again,
    ) {
        loop {
            lock(&self.sequence).begin();
            let (reader, writer) = split(stream);
            let hearing = async {
                match self.hear(reader, arrived).await {
                    Hush::Broken(error) => error,
                    Hush::Final(error) => {
                        state.send_replace(State::Ended(Failure::of(&error)));
                        // What is waiting is still sent.
                        std::future::pending().await
                    }
                }
            };
            let broken = tokio::select! {
                broken = hearing => broken,
                broken = self.speak(writer) => broken,
                next = again.replaced() => {
                    self.reporter.note("the donor has dialled the control connection again");
                    stream = next;
                    continue;
                }
            };
            if matches!(*state.borrow(), State::Ended(_)) {
                return;
            }
            if self.is_over() {
                state.send_replace(State::Ended(Failure::of(&broken)));
                return;
            }
            let silent = if broken.kind() == Kind::Timeout { self.deadlines.silence } else { Duration::ZERO };
            let now = Instant::now();
            let since = now.checked_sub(silent).unwrap_or(now);
            state.send_replace(State::Cut(since));
            if !matches!(again, Again::Never) {
                self.reporter.warn(&format!("the control connection is lost: {}", broken.sentence()));
            }
            stream = match again.next(broken, since, self.deadlines.idle, &self.peer).await {
                Ok(stream) => stream,
                Err(error) => {
                    state.send_replace(State::Ended(Failure::of(&error)));
                    return;
                }
            };
            self.reporter.note(&format!("the control connection is back after {:.1} s", since.elapsed().as_secs_f64()));
            *lock(&self.alive) = Instant::now();
            state.send_replace(State::Stands);
        }
    }

    /// A message that is said or heard: was it the last?
    pub(super) fn note_goodbye(&self, message: &Message) {
        self.goodbye.fetch_or(matches!(message, Message::Bye), Ordering::Relaxed);
    }

    /// Whether a connection that closes now is no cut.
    fn is_over(&self) -> bool {
        self.goodbye.load(Ordering::Relaxed) && lock(&self.sequence).is_heard()
    }

    async fn hear(&self, mut reader: ReadHalf<Stream>, arrived: &mpsc::Sender<Message>) -> Hush {
        let waiting = || format!("nothing was heard from {}", self.peer);
        loop {
            // Reserve a place first: what has been read counts as received, and must not be lost with this connection.
            let place = loop {
                match tokio::time::timeout(self.deadlines.heartbeat(), arrived.reserve()).await {
                    Ok(Ok(place)) => break place,
                    Ok(Err(_)) => {
                        let what = format!("{} sent something after the end", self.peer);
                        return Hush::Final(Error::new(Kind::Protocol, what));
                    }
                    // It is this side that is not listening.
                    Err(_) => *lock(&self.alive) = Instant::now(),
                }
            };
            let message = match within(self.deadlines.silence, waiting, read_message(&mut reader, &self.peer)).await {
                Ok(message) => message,
                Err(error) if error.is_of_the_line() => return Hush::Broken(error),
                Err(error) => return Hush::Final(error),
            };
            *lock(&self.alive) = Instant::now();
            let end = {
                let mut sequence = lock(&self.sequence);
                match message {
                    Message::Heartbeat { heard } => sequence.acknowledge(heard).err(),
                    Message::Failure(failure) => {
                        sequence.hear();
                        Some(failure.into_error())
                    }
                    message => {
                        sequence.hear();
                        self.note_goodbye(&message);
                        place.send(message);
                        None
                    }
                }
            };
            self.changed.notify_waiters();
            if let Some(error) = end {
                return Hush::Final(error);
            }
        }
    }

    async fn speak(&self, mut writer: impl AsyncWrite + Unpin) -> Error {
        let lost = |e| Error::net(format!("{} closed the connection", self.peer), e);
        let mut spoken = Instant::now();
        loop {
            let changed = self.changed.notified();
            let next = lock(&self.sequence).next();
            let bytes = match next {
                Some(bytes) => bytes,
                None => {
                    self.written.notify_waiters();
                    // From the last word on, not from what was heard: of two that wait for each other one stays mute.
                    let due = spoken + self.deadlines.heartbeat();
                    if tokio::time::timeout_at(due.into(), changed).await.is_ok() && Instant::now() < due {
                        continue;
                    }
                    lock(&self.sequence).heartbeat().unwrap_or_default()
                }
            };
            spoken = Instant::now();
            if let Err(error) = writer.write_all(&bytes).await {
                return lost(error);
            }
            if let Err(error) = writer.flush().await {
                return lost(error);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Quiet;

    #[tokio::test]
    async fn who_hears_all_the_time_is_heard_of_too() {
        let deadlines = Deadlines { silence: Duration::from_millis(250), ..Deadlines::default() };
        let (changed, written) = (Notify::new(), Notify::new());
        let (sequence, alive, reporter) = (Mutex::default(), Mutex::new(Instant::now()), Arc::new(Quiet));
        let line = Line {
            peer: "the donor".into(),
            deadlines,
            reporter,
            sequence,
            changed,
            written,
            alive,
            goodbye: AtomicBool::default(),
        };
        lock(&line.sequence).begin();
        let (ours, mut theirs) = tokio::io::duplex(1 << 16);
        let hearing = async {
            loop {
                tokio::time::sleep(Duration::from_millis(30)).await;
                line.changed.notify_waiters();
            }
        };
        let beats = async {
            for _ in 0..4 {
                read_message(&mut theirs, "the joiner").await.unwrap();
            }
        };
        tokio::select! {
            () = beats => {}
            () = hearing => {}
            error = line.speak(ours) => panic!("{}", error.report()),
            () = tokio::time::sleep(Duration::from_secs(5)) => panic!("nothing was said"),
        }
    }
}
