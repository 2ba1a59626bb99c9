//! The control connection once it stands: messages both ways, heartbeats, and the peer's failure.

use std::time::Duration;

use tokio::io::{ReadHalf, WriteHalf, split};
use tokio::sync::{mpsc, oneshot, watch};

use super::dial::unexpected;
use super::{Deadlines, Stream, read_message, within, write_message};
use crate::error::{Error, Kind, Result};
use crate::wire::{Failure, Message};

/// A running control connection. Two tasks of its own read and write; dropping it ends them.
#[derive(Debug)]
pub struct Control {
    peer: String,
    outgoing: mpsc::Sender<(Message, oneshot::Sender<Result<()>>)>,
    incoming: mpsc::Receiver<Message>,
    ended: watch::Receiver<Option<Ended>>,
    tasks: tokio::task::JoinSet<()>,
}

/// Why nothing more comes from the peer.
#[derive(Clone, Debug)]
struct Ended(Failure);

impl Control {
    /// `peer` names the other side in messages: "the joiner at 192.0.2.1:4444".
    pub fn start(stream: Stream, peer: String, deadlines: Deadlines) -> Control {
        let (reader, writer) = split(stream);
        let (outgoing, to_send) = mpsc::channel(8);
        let (arrived, incoming) = mpsc::channel(8);
        let (end, ended) = watch::channel(None);
        let mut tasks = tokio::task::JoinSet::new();
        let name = peer.clone();
        tasks.spawn(async move {
            let why = hear(reader, &name, arrived, deadlines.silence).await;
            end.send_replace(Some(Ended(Failure::of(&why))));
            // The channel lives on for those who ask later.
            end.closed().await;
        });
        tasks.spawn(speak(writer, peer.clone(), to_send, deadlines.heartbeat()));
        Control { peer, outgoing, incoming, ended, tasks }
    }

    pub fn peer(&self) -> &str {
        &self.peer
    }

    /// Sends a message; returns when it has been written to the socket.
    pub async fn send(&self, message: Message) -> Result<()> {
        let (written, done) = oneshot::channel();
        let gone = || Error::new(Kind::Disconnected, format!("{} closed the connection", self.peer));
        if self.outgoing.send((message, written)).await.is_err() {
            return Err(self.cause(gone()).await);
        }
        match done.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => Err(self.cause(error).await),
            Err(_) => Err(self.cause(gone()).await),
        }
    }

    /// The peer's next message. Cancel-safe.
    pub async fn next(&mut self) -> Result<Message> {
        match self.incoming.recv().await {
            Some(message) => Ok(message),
            None => Err(self.failed().await),
        }
    }

    /// The next message, if `pick` takes it; anything else is an error.
    pub async fn expect<T>(&mut self, pick: impl FnOnce(Message) -> std::result::Result<T, Message>) -> Result<T> {
        let message = self.next().await?;
        pick(message).map_err(|other| self.unexpected(&other))
    }

    /// `message` was not one that may come now.
    pub fn unexpected(&self, message: &Message) -> Error {
        unexpected(&self.peer, message)
    }

    /// Resolves when the peer has failed or fallen silent, and says why. Cancel-safe.
    pub async fn failed(&self) -> Error {
        let mut ended = self.ended.clone();
        let seen = ended.wait_for(Option::is_some).await;
        match seen.ok().and_then(|end| end.clone()) {
            Some(Ended(failure)) => failure.into_error(),
            None => Error::new(Kind::Disconnected, format!("{} closed the connection", self.peer)),
        }
    }

    /// `error`, or the peer's own account of what happened when that tells more: it may be on its way.
    pub async fn cause(&self, error: Error) -> Error {
        if error.kind().weight() > Kind::Timeout.weight() {
            return error;
        }
        // Whoever knows no more than that the line is dead waits longer than whoever saw a deadline pass, or
        // both would wait for each other and end without an answer.
        let patience = if error.kind() == Kind::Timeout { 300 } else { 1500 };
        match tokio::time::timeout(Duration::from_millis(patience), self.failed()).await {
            Ok(theirs) => error.or_more_telling(theirs),
            Err(_) => error,
        }
    }

    /// Tells the peer why this side gives up, and gives it a moment to read it.
    pub async fn fail(mut self, error: &Error) {
        let telling = async {
            let _ = self.send(Message::Failure(Failure::of(error))).await;
            self.failed().await;
        };
        let _ = tokio::time::timeout(Duration::from_secs(1), telling).await;
        self.tasks.shutdown().await;
    }
}

async fn hear(mut reader: ReadHalf<Stream>, peer: &str, arrived: mpsc::Sender<Message>, silence: Duration) -> Error {
    loop {
        let waiting = || format!("nothing was heard from {peer}");
        match within(silence, waiting, read_message(&mut reader, peer)).await {
            Ok(Message::Heartbeat) => {}
            Ok(Message::Failure(failure)) => return failure.into_error(),
            Ok(message) => {
                if arrived.send(message).await.is_err() {
                    return Error::new(Kind::Protocol, format!("{peer} spoke after the end"));
                }
            }
            Err(error) => return error,
        }
    }
}

async fn speak(
    mut writer: WriteHalf<Stream>,
    peer: String,
    mut to_send: mpsc::Receiver<(Message, oneshot::Sender<Result<()>>)>,
    heartbeat: Duration,
) {
    loop {
        match tokio::time::timeout(heartbeat, to_send.recv()).await {
            Ok(Some((message, written))) => {
                let result = write_message(&mut writer, &message, &peer).await;
                let failed = result.is_err();
                let _ = written.send(result);
                if failed {
                    return;
                }
            }
            Ok(None) => return,
            Err(_) => {
                if write_message(&mut writer, &Message::Heartbeat, &peer).await.is_err() {
                    return;
                }
            }
        }
    }
}
