//! The donor's end of a connection: dial, TLS handshake, proof.

use std::io;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio_rustls::TlsConnector;

use super::{Deadlines, Stream, read_message, socket, within, write_message};
use crate::error::{Error, Kind, Result, Side};
use crate::tls::proof::{Channel, is_proven, prove};
use crate::tls::{Session, Ticket, Trust, explain_io};
use crate::wire::{Message, Preamble, Purpose};

/// Makes proven connections to one joiner.
#[derive(Clone, Debug)]
pub struct Dialer {
    pub ticket: Ticket,
    pub tls: Arc<rustls::ClientConfig>,
    pub trust: Trust,
    pub deadlines: Deadlines,
    /// This program and its version, for the peer's log.
    pub software: String,
}

impl Dialer {
    /// Names the peer in messages.
    pub fn peer(&self) -> String {
        format!("the joiner at {}", self.ticket.address)
    }

    /// Dials until `Deadlines::connect` has passed. On the connection both sides have proven that they know the
    /// ticket's secret.
    pub async fn dial(&self, purpose: Purpose) -> Result<(Stream, Session)> {
        let address = &self.ticket.address;
        let started = Instant::now();
        loop {
            let left = self.deadlines.connect.saturating_sub(started.elapsed());
            let tcp = socket::connect(address.host(), address.port(), left, self.deadlines.connect).await?;
            match self.shake(tcp, purpose).await {
                // A joiner crowded by strangers drops the oldest unproven connection, which may be this one.
                Err(error) if error.kind() == Kind::Disconnected && started.elapsed() < self.deadlines.connect / 2 => {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
                shaken => return shaken,
            }
        }
    }

    /// One try, of at most `limit`, to reach a joiner that was reached before.
    pub(super) async fn dial_once(&self, purpose: Purpose, limit: Duration) -> Result<Stream, Missed> {
        /// A lost packet is resent at ever longer intervals, so a fresh try gets through sooner.
        const CONNECT: Duration = Duration::from_secs(3);
        let address = &self.ticket.address;
        let whole = async {
            let tcp = socket::connect_once(address.host(), address.port(), CONNECT).await.map_err(|error| {
                if error.kind() == io::ErrorKind::ConnectionRefused { Missed::Refused } else { Missed::Lost }
            })?;
            match self.shake(tcp, purpose).await {
                Ok((stream, _)) => Ok(stream),
                Err(error) if error.is_of_the_line() => Err(Missed::Lost),
                Err(error) => Err(Missed::Failed(error)),
            }
        };
        tokio::time::timeout(limit, whole).await.unwrap_or(Err(Missed::Lost))
    }

    async fn shake(&self, tcp: tokio::net::TcpStream, purpose: Purpose) -> Result<(Stream, Session)> {
        socket::tune(&tcp, &self.deadlines);
        let peer = self.peer();
        within(
            self.deadlines.handshake,
            || format!("{peer} did not finish the handshake"),
            self.greet(tcp, purpose, &peer),
        )
        .await
    }

    async fn greet(&self, tcp: tokio::net::TcpStream, purpose: Purpose, peer: &str) -> Result<(Stream, Session)> {
        let lost = |e| Error::net(format!("{peer} closed the connection"), e);
        let name = ServerName::try_from(self.ticket.address.host().to_owned())
            .map_err(|e| Error::new(Kind::Usage, format!("{} is not a host name", self.ticket.address)).because(e))?;
        let connector = TlsConnector::from(Arc::clone(&self.tls));
        let stream = connector.connect(name, BufReader::new(tcp)).await.map_err(|e| explain_io(e, peer))?;
        let session = Session::of(stream.get_ref().1, &self.trust, true, peer)?;
        let mut stream = Stream::from(stream);
        let channel = Channel::of(&stream)?;

        let proof = prove(&self.ticket.secret, Side::Donor, &channel);
        stream.write_all(&Preamble::ours().encode()).await.map_err(lost)?;
        let hello = Message::Hello { purpose, proof, software: self.software.clone() };
        write_message(&mut stream, &hello, peer).await?;

        let mut preamble = [0; Preamble::LEN];
        stream.read_exact(&mut preamble).await.map_err(|e| explain_io(e, peer))?;
        Preamble::ours().agree(Preamble::decode(&preamble)?)?;
        match read_message(&mut stream, peer).await? {
            Message::Welcome { proof } if is_proven(&proof, &self.ticket.secret, Side::Joiner, &channel) => {
                Ok((stream, session))
            }
            Message::Welcome { .. } => {
                Err(Error::new(Kind::Untrusted, format!("{peer} does not know the ticket's secret"))
                    .remedy("something may sit between the two hosts; get a fresh ticket over a channel you trust"))
            }
            Message::Failure(failure) => Err(failure.into_error()),
            other => Err(unexpected(peer, &other)),
        }
    }
}

/// Why a try to reach a joiner again failed.
#[derive(Debug)]
pub(super) enum Missed {
    /// Its host answers, but nobody is listening.
    Refused,
    /// The link does not let it through.
    Lost,
    /// Another try would end the same way.
    Failed(Error),
}

pub(super) fn unexpected(peer: &str, message: &Message) -> Error {
    Error::new(Kind::Protocol, format!("{peer} sent `{}` out of turn", message.name()))
}
