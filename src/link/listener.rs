//! The joiner's end: one port, open to many strangers and one donor.
//!
//! A connection has a deadline to prove that it knows the ticket's secret. Only a fixed number of unproven ones may be
//! open; one more pushes out the oldest, so that silent or garbage connections do not keep the donor out.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use tokio::io::{AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::TlsAcceptor;

use super::dial::unexpected;
use super::{Deadlines, Stream, read_message, socket, within, write_message};
use crate::error::{Error, Kind, Result, Side};
use crate::progress::Reporter;
use crate::tls::proof::{Channel, is_proven, prove};
use crate::tls::{Secret, Session, Trust, explain_io};
use crate::wire::{Failure, Message, Preamble, Purpose};

/// How many unproven connections may be open at once.
const STRANGERS: usize = 64;
/// Bytes read by one system call; memory that each connection takes, even a stranger's.
const READ_AT_ONCE: usize = 256 << 10;
/// After this many refusals, only every hundredth is logged.
const LOGGED: u64 = 20;

/// A connection that has proven itself.
#[derive(Debug)]
pub struct ProvenConnection {
    pub purpose: Purpose,
    pub stream: Stream,
    pub session: Session,
    pub address: SocketAddr,
    pub software: String,
}

impl ProvenConnection {
    /// Names the peer in messages.
    pub fn peer(&self) -> String {
        caller(self.address)
    }
}

/// What the listener checks a connection against.
#[derive(Clone)]
struct Check {
    tls: TlsAcceptor,
    trust: Trust,
    secret: Secret,
    deadlines: Deadlines,
}

/// A bound port. Nothing is accepted before [`Listener::open`].
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: SocketAddr,
}

impl Listener {
    /// Binds `address`; port 0 picks a free one. Needs a runtime.
    pub fn bind(address: SocketAddr) -> Result<Listener> {
        let listener = socket::listen(address)?;
        let address = listener.local_addr().map_err(|e| Error::net(format!("cannot listen on {address}"), e))?;
        Ok(Listener { listener, address })
    }

    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Lets in whoever proves that it knows `secret`. The listener closes when the receiver is dropped.
    pub fn open(
        self,
        tls: Arc<rustls::ServerConfig>,
        trust: Trust,
        secret: Secret,
        deadlines: Deadlines,
        reporter: Arc<dyn Reporter>,
    ) -> mpsc::Receiver<ProvenConnection> {
        let (inside, connections) = mpsc::channel(4);
        let check = Check { tls: TlsAcceptor::from(tls), trust, secret, deadlines };
        tokio::spawn(async move {
            tokio::select! {
                () = keep(self.listener, check, inside.clone(), reporter) => {}
                () = inside.closed() => {}
            }
        });
        connections
    }
}

async fn keep(
    listener: TcpListener,
    check: Check,
    inside: mpsc::Sender<ProvenConnection>,
    reporter: Arc<dyn Reporter>,
) {
    let refused = Arc::new(AtomicU64::new(0));
    let mut strangers: VecDeque<tokio::task::JoinHandle<()>> = VecDeque::new();
    loop {
        let (tcp, address) = match listener.accept().await {
            Ok(accepted) => accepted,
            Err(error) => {
                // No descriptors left, or the peer has gone already: neither may end the wait.
                reporter.warn(&format!("a connection could not be accepted: {error}"));
                tokio::time::sleep(std::time::Duration::from_millis(100)).await;
                continue;
            }
        };
        strangers.retain(|stranger| !stranger.is_finished());
        if strangers.len() >= STRANGERS
            && let Some(oldest) = strangers.pop_front()
        {
            oldest.abort();
        }
        let (check, inside) = (check.clone(), inside.clone());
        let (reporter, refused) = (Arc::clone(&reporter), Arc::clone(&refused));
        strangers.push_back(tokio::spawn(async move {
            match check.admit(tcp, address).await {
                Ok(connection) => {
                    let _ = inside.send(connection).await;
                }
                Err(error) => {
                    let count = refused.fetch_add(1, Ordering::Relaxed);
                    if count < LOGGED || count.is_multiple_of(100) {
                        reporter.warn(&refusal(address, &error));
                    }
                }
            }
        }));
    }
}

/// A line for the joiner's log, with the address only once.
fn refusal(address: SocketAddr, error: &Error) -> String {
    let (sentence, peer) = (error.sentence(), caller(address));
    let why = sentence.strip_prefix(&format!("{peer}: ")).map_or_else(|| sentence.replace(&peer, "it"), str::to_owned);
    format!("refused a connection from {address}: {why}")
}

fn caller(address: SocketAddr) -> String {
    format!("the donor at {address}")
}

impl Check {
    async fn admit(&self, tcp: TcpStream, address: SocketAddr) -> Result<ProvenConnection> {
        socket::tune(&tcp, &self.deadlines);
        let limit = self.deadlines.handshake;
        within(limit, || "it did not finish the handshake".into(), self.greet(tcp, address)).await
    }

    async fn greet(&self, tcp: TcpStream, address: SocketAddr) -> Result<ProvenConnection> {
        let peer = caller(address);
        let lost = |e| Error::net(format!("{peer} closed the connection"), e);
        let tcp = BufReader::with_capacity(READ_AT_ONCE, tcp);
        let stream = self.tls.accept(tcp).await.map_err(|e| explain_io(e, &peer))?;
        let session = Session::of(stream.get_ref().1, &self.trust, false, &peer)?;
        let mut stream = Stream::from(stream);
        let channel = Channel::of(&stream)?;

        let mut preamble = [0; Preamble::LEN];
        stream.read_exact(&mut preamble).await.map_err(lost)?;
        stream.write_all(&Preamble::ours().encode()).await.map_err(lost)?;
        let theirs = Preamble::decode(&preamble)?;
        if let Err(error) = Preamble::ours().agree(theirs) {
            // The peer reads our preamble and reports the same itself.
            stream.flush().await.map_err(lost)?;
            return Err(error.into());
        }
        let (purpose, proof, software) = match read_message(&mut stream, &peer).await? {
            Message::Hello { purpose, proof, software } => (purpose, proof, software),
            other => return Err(unexpected(&peer, &other)),
        };
        if !is_proven(&proof, &self.secret, Side::Donor, &channel) {
            let error = Error::new(Kind::Untrusted, format!("{peer} does not know the ticket's secret"))
                .on(Side::Donor)
                .remedy("a ticket is good for one transfer: use the one that the waiting joiner printed");
            write_message(&mut stream, &Message::Failure(Failure::of(&error)), &peer).await?;
            let _ = stream.shutdown().await;
            return Err(error);
        }
        let welcome = Message::Welcome { proof: prove(&self.secret, Side::Joiner, &channel) };
        write_message(&mut stream, &welcome, &peer).await?;
        Ok(ProvenConnection {
            purpose,
            stream,
            session,
            address,
            software: crate::error::Printable(software.as_bytes()).to_string(),
        })
    }
}
