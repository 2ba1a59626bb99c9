//! One authenticated connection: sockets, TLS and messages on it, each with its deadline.
//!
//! Knows how
//! to reach, authenticate and talk to a peer. Knows nothing about trees and chunks.

mod again;
mod control;
mod dial;
mod followers;
mod lanes;
mod line;
mod listener;
mod sequence;
mod socket;
mod timeout;

pub use control::Control;
pub use dial::Dialer;
pub use followers::Followers;
pub use lanes::Lanes;
pub use listener::{Listener, ProvenConnection};
pub use timeout::Timeout;

use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};
use tokio::net::TcpStream;
use tokio_rustls::TlsStream;

use crate::error::{Error, Kind, Result};
use crate::wire::Message;

/// A TLS connection of either side. Buffered, because rustls reads only one record (16 KiB) at a time.
pub type Stream = TlsStream<BufReader<TcpStream>>;

/// How long a side waits for what. The database server sets no deadlines, so these are the only ones.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Deadlines {
    /// Until there is a connection to the joiner, retries included.
    pub connect: Duration,
    /// From a connection's first byte to its proof.
    pub handshake: Duration,
    /// Without hearing anything from the peer. Heartbeats come at a fifth of this, and at least every five seconds.
    pub silence: Duration,
    /// Without a chunk written, while chunks are in flight; and without a control connection.
    pub idle: Duration,
    /// From the ticket, or from when a donor was asked, to the donor's arrival; `None` waits forever.
    pub arrival: Option<Duration>,
}

impl Default for Deadlines {
    fn default() -> Deadlines {
        Deadlines {
            connect: Timeout::CONNECT.limit(),
            handshake: Duration::from_secs(10),
            silence: Duration::from_secs(30),
            idle: Timeout::IDLE.limit(),
            arrival: None,
        }
    }
}

impl Deadlines {
    pub fn heartbeat(&self) -> Duration {
        (self.silence / 5).clamp(Duration::from_millis(50), Duration::from_secs(5))
    }
}

/// Reads one message. Not cancel-safe: dropped half-way, it has consumed part of the message.
async fn read_message(stream: &mut (impl AsyncRead + Unpin), peer: &str) -> Result<Message> {
    let lost = |e| Error::net(format!("{peer} closed the connection"), e);
    let mut prefix = [0; 4];
    stream.read_exact(&mut prefix).await.map_err(lost)?;
    let mut json = vec![0; Message::length(prefix)?];
    stream.read_exact(&mut json).await.map_err(lost)?;
    Ok(Message::decode(&json)?)
}

async fn write_message(stream: &mut (impl AsyncWrite + Unpin), message: &Message, peer: &str) -> Result<()> {
    let lost = |e| Error::net(format!("{peer} closed the connection"), e);
    stream.write_all(&message.encode()?).await.map_err(lost)?;
    stream.flush().await.map_err(lost)
}

/// Runs `future`, or fails with an error of kind `Timeout` that says what it waited for.
async fn within<T>(
    limit: Duration,
    waiting: impl FnOnce() -> String,
    future: impl Future<Output = Result<T>>,
) -> Result<T> {
    match tokio::time::timeout(limit, future).await {
        Ok(result) => result,
        Err(_) => Err(Error::new(Kind::Timeout, format!("{} for {} s", waiting(), limit.as_secs_f32()))),
    }
}
