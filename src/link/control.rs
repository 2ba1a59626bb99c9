//! The control connection: messages both ways, heartbeats, and the peer's failure. If it is lost it is dialled again,
//! and the conversation continues where it was ([`super::sequence`]).

use std::sync::atomic::AtomicBool;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{Notify, mpsc, watch};
use tokio::task::JoinSet;

use super::again::Again;
use super::dial::unexpected;
use super::line::{Line, State};
use super::{Deadlines, Dialer, ProvenConnection, Stream};
use crate::error::{Error, Kind, Result, Side};
use crate::progress::{Quiet, Reporter};
use crate::threads::lock;
use crate::tls::{Session, random};
use crate::wire::{Failure, Message, Purpose};

/// A running conversation. A separate task reads and writes; dropping this ends it.
#[derive(Debug)]
pub struct Control {
    line: Arc<Line>,
    incoming: mpsc::Receiver<Message>,
    state: watch::Receiver<State>,
    tasks: JoinSet<()>,
}

impl Control {
    /// The donor's: dials the joiner, and dials again if the connection is lost.
    pub async fn dial(dialer: &Dialer, reporter: Arc<dyn Reporter>) -> Result<(Control, Session)> {
        let purpose = Purpose::Control { session: u64::from_ne_bytes(random()?) };
        let (stream, session) = dialer.dial(purpose).await?;
        let again = Again::Dial(Box::new(dialer.clone()), purpose);
        Ok((Control::begin(stream, dialer.peer(), dialer.deadlines, reporter, again), session))
    }

    /// The joiner's: on `connection`, and on later ones from the same donor, which arrive through `again`.
    pub fn answer(
        connection: ProvenConnection,
        again: mpsc::Receiver<Stream>,
        deadlines: Deadlines,
        reporter: Arc<dyn Reporter>,
    ) -> Control {
        let peer = connection.peer();
        Control::begin(connection.stream, peer, deadlines, reporter, Again::Wait(again))
    }

    /// One that ends with this connection. `peer` names the other side in messages: "the joiner at 192.0.2.1:4444".
    pub fn start(stream: Stream, peer: String, deadlines: Deadlines) -> Control {
        Control::begin(stream, peer, deadlines, Arc::new(Quiet), Again::Never)
    }

    fn begin(stream: Stream, peer: String, deadlines: Deadlines, reporter: Arc<dyn Reporter>, again: Again) -> Control {
        let (arrived, incoming) = mpsc::channel(8);
        let (told, state) = watch::channel(State::Stands);
        let (sequence, alive) = (Mutex::default(), Mutex::new(Instant::now()));
        let (changed, written) = (Notify::new(), Notify::new());
        let goodbye = AtomicBool::default();
        let line = Arc::new(Line { peer, deadlines, reporter, sequence, changed, written, alive, goodbye });
        let mut tasks = JoinSet::new();
        let keep = Arc::clone(&line);
        tasks.spawn(async move {
            keep.keep(stream, &arrived, &told, again).await;
            drop(arrived);
            // The state stays for those who ask later.
            told.closed().await;
        });
        Control { line, incoming, state, tasks }
    }

    pub fn peer(&self) -> &str {
        &self.line.peer
    }

    /// Sends a message. It will arrive, over however many connections, unless the conversation
    /// ends.
    pub async fn send(&self, message: Message) -> Result<()> {
        loop {
            let changed = self.line.changed.notified();
            if let Some(error) = self.end() {
                return Err(error);
            }
            if lock(&self.line.sequence).has_room() {
                return self.say(&message);
            }
            tokio::select! {
                () = changed => {}
                error = self.failed() => return Err(error),
            }
        }
    }

    fn say(&self, message: &Message) -> Result<()> {
        lock(&self.line.sequence).say(message)?;
        self.line.note_goodbye(message);
        self.line.changed.notify_waiters();
        Ok(())
    }

    /// The peer's next message. Cancel-safe.
    pub async fn next(&mut self) -> Result<Message> {
        tokio::select! {
            biased;
            Some(message) = self.incoming.recv() => Ok(message),
            error = failed(self.state.clone(), &self.line.peer) => match self.incoming.try_recv() {
                Ok(message) => Ok(message),
                Err(_) => Err(error),
            },
        }
    }

    /// The next message, if `pick` takes it; anything else is an error.
    pub async fn expect<T>(&mut self, pick: impl FnOnce(Message) -> std::result::Result<T, Message>) -> Result<T> {
        let message = self.next().await?;
        pick(message).map_err(|other| self.unexpected(&other))
    }

    /// The error for a message that may not come now.
    pub fn unexpected(&self, message: &Message) -> Error {
        unexpected(&self.line.peer, message)
    }

    /// Resolves with the cause when the peer has failed, or no connection can be made any more. Cancel-safe.
    pub async fn failed(&self) -> Error {
        failed(self.state.clone(), &self.line.peer).await
    }

    fn end(&self) -> Option<Error> {
        match &*self.state.borrow() {
            State::Ended(failure) => Some(failure.clone().into_error()),
            _ => None,
        }
    }

    fn is_cut(&self) -> bool {
        matches!(*self.state.borrow(), State::Cut(_))
    }

    /// Resolves once the link has been down, or silent, for `bound`; never after the conversation has ended.
    /// Cancel-safe.
    pub fn cut_for(&self, bound: Duration) -> impl Future<Output = ()> + use<> {
        let (line, mut state) = (Arc::clone(&self.line), self.state.clone());
        // The peer is heard from once per heartbeat.
        let silence = bound.max(line.deadlines.heartbeat() * 3);
        async move {
            loop {
                let end = match *state.borrow_and_update() {
                    State::Stands => *lock(&line.alive) + silence,
                    State::Cut(since) => since + bound,
                    State::Ended(_) => return std::future::pending().await,
                };
                if end <= Instant::now() {
                    return;
                }
                tokio::select! {
                    () = tokio::time::sleep_until(end.into()) => {}
                    changed = state.changed() => if changed.is_err() {
                        return std::future::pending().await;
                    },
                }
            }
        }
    }

    /// Returns as soon as there is a connection, at once if there is one now.
    ///
    /// # Errors
    /// There will never be one.
    pub async fn stands(&self) -> Result<()> {
        let mut state = self.state.clone();
        let _ = state.wait_for(|state| !matches!(state, State::Cut(_))).await;
        self.end().map_or(Ok(()), Err)
    }

    /// Whether, within `limit`, the peer has received everything sent.
    pub async fn heard(&self, limit: Duration) -> bool {
        let mut state = self.state.clone();
        let all = async {
            loop {
                let changed = self.line.changed.notified();
                if lock(&self.line.sequence).is_heard() {
                    return true;
                }
                if matches!(*state.borrow_and_update(), State::Ended(_)) {
                    return false;
                }
                tokio::select! {
                    () = changed => {}
                    changed = state.changed() => if changed.is_err() {
                        return false;
                    },
                }
            }
        };
        tokio::time::timeout(limit, all).await.unwrap_or(false)
    }

    /// Waits for the peer's last message and acknowledges it. If the connection is lost but the peer has received
    /// everything, it may be gone: it needs nothing more.
    pub async fn farewell(&mut self, pick: impl FnOnce(Message) -> std::result::Result<(), Message>) -> Result<()> {
        const PATIENCE: Duration = Duration::from_secs(5);
        let mut state = self.state.clone();
        loop {
            let cut = matches!(*state.borrow_and_update(), State::Cut(_));
            if cut && lock(&self.line.sequence).is_heard() {
                return Ok(());
            }
            tokio::select! {
                word = self.next() => {
                    pick(word?).map_err(|other| self.unexpected(&other))?;
                    break;
                }
                _ = state.changed() => {}
                () = tokio::time::sleep(PATIENCE), if !cut => {
                    let what = format!("{} has not sent its last message for {} s", self.line.peer, PATIENCE.as_secs());
                    return Err(Error::new(Kind::Timeout, what));
                }
            }
        }
        self.written().await;
        Ok(())
    }

    /// Waits a moment for everything to be written to a connection.
    async fn written(&self) {
        let all = async {
            loop {
                let written = self.line.written.notified();
                if lock(&self.line.sequence).is_written() {
                    return;
                }
                written.await;
            }
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), all).await;
    }

    /// `error`, or the peer's own account of what happened if that says more: it may be on its way.
    pub async fn cause(&self, error: Error) -> Error {
        if error.kind().weight() > Kind::Timeout.weight() {
            return error;
        }
        // A side that knows only that the line is dead waits longer than one that saw a deadline pass; otherwise both
        // would wait for each other and end without an answer.
        let patience = if error.kind() == Kind::Timeout { 300 } else { 1500 };
        match tokio::time::timeout(Duration::from_millis(patience), self.failed()).await {
            Ok(theirs) => error.or_more_telling(theirs),
            Err(_) => error,
        }
    }

    /// Ends the conversation because of `error` on this `side`: the peer is told the cause, which is returned.
    pub async fn give_up(self, error: Error, side: Side) -> Error {
        let error = self.cause(error.on(side)).await;
        self.fail(&error).await;
        error
    }

    /// Tells the peer why this side gives up, and gives it a moment to hear: longer if the link is down, unless this
    /// process was asked to stop.
    pub async fn fail(mut self, error: &Error) {
        const PATIENCE: Duration = Duration::from_secs(1);
        const CUT: Duration = Duration::from_secs(3);
        if self.say(&Message::Failure(Failure::of(error))).is_ok() {
            match self.end() {
                // There is no connection, and there will be none.
                Some(_) if self.incoming.is_closed() => {}
                Some(_) => self.written().await,
                None => {
                    let hurried = matches!(error.kind(), Kind::Interrupted | Kind::ServerGone);
                    let longest = match self.is_cut() {
                        true if hurried => Duration::ZERO,
                        true => CUT,
                        false => PATIENCE,
                    };
                    self.heard(longest).await;
                }
            }
        }
        self.tasks.shutdown().await;
    }
}

async fn failed(mut state: watch::Receiver<State>, peer: &str) -> Error {
    let seen = state.wait_for(|state| matches!(state, State::Ended(_))).await;
    match seen.as_deref() {
        Ok(State::Ended(failure)) => failure.clone().into_error(),
        _ => Error::new(Kind::Disconnected, format!("{peer} closed the connection")),
    }
}
