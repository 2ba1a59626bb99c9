//! One byte stream as what is received: consent, the lanes, the comparison with the seal, the consumer's end.

use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use tokio::sync::{mpsc, watch};

use super::conversation::{agree, bye};
use super::lane::{Shared, Sink};
use super::lanes::Lanes;
use super::outlet::Outlet;
use super::port::{Port, donor};
use crate::error::{Error, Kind, Result, Side};
use crate::link::{Control, Deadlines, Followers, ProvenConnection};
use crate::manifest::{Checksum, StreamSeal};
use crate::pipe::{Consumer, End};
use crate::progress::{Meter, Phase, Reporter, bytes, follow};
use crate::stop::Stop;
use crate::threads::{alone, blocking, or_never};
use crate::tls::{Identity, Policy, Session, Ticket, Trust, server_config};
use crate::wire::{Message, PipeAccept, PipeOffer};

/// The most pieces, of 1 MiB at most, that are in memory here.
const WINDOW: u32 = 256;

/// What a joiner of a stream is asked to do; every value is checked.
#[derive(Debug)]
pub struct PipeOptions {
    pub listen: SocketAddr,
    /// The host that donors are told to dial.
    pub advertise: String,
    pub identity: Identity,
    pub trust: Trust,
    pub policy: Policy,
    pub deadlines: Deadlines,
    /// The most lanes a donor may open, 1 to 32.
    pub lanes: u16,
    /// `None` takes whichever is faster on the slower side.
    pub checksum: Option<Checksum>,
    /// This program and its version, for the peer's log.
    pub software: String,
    pub consumer: End,
}

/// A stream that has come to its end, for the log and `--json`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PipeReport {
    pub bytes: u64,
    pub wire_bytes: u64,
    /// From the donor's arrival to the consumer's end.
    pub seconds: f64,
    pub lanes: u16,
    pub checksum: Checksum,
    pub session: Session,
}

impl fmt::Display for PipeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {} on the wire, {:.1} s", bytes(self.bytes), bytes(self.wire_bytes), self.seconds)
    }
}

/// A joiner of a stream that is ready to listen, and the ticket for its donor.
#[derive(Debug)]
pub struct PipeWaiting {
    options: PipeOptions,
    port: Port,
}

/// What an operator has to know first when a stream has failed.
const NOT_WHOLE: &str = "what the consumer has got so far is not whole and not verified; throw it away";

impl PipeWaiting {
    /// Binds the port and makes the ticket. Needs a runtime.
    pub fn bind(options: PipeOptions) -> Result<PipeWaiting> {
        let port = Port::bind(options.listen, &options.advertise, &options.identity)?;
        Ok(PipeWaiting { options, port })
    }

    pub fn ticket(&self) -> &Ticket {
        &self.port.ticket
    }

    /// Where the donor is told to dial, and where this node listens if that differs.
    pub fn place(&self) -> String {
        self.port.place()
    }

    /// Waits for the donor that holds the ticket, and gives its stream to the consumer.
    ///
    /// The consumer sees the end of its input only if the stream matched its seal: its program is killed before that. Where
    /// it is no program of ours, the caller must end this process on an error, with a status that says so.
    pub async fn receive(self, reporter: Arc<dyn Reporter>, stop: &Stop) -> Result<PipeReport> {
        let PipeWaiting { options, port: Port { listener, ticket } } = self;
        let tls = server_config(&options.identity, options.trust.clone(), &options.policy)?;
        let secret = ticket.secret;
        let mut connections =
            listener.open(tls, options.trust.clone(), secret, options.deadlines, Arc::clone(&reporter));
        let (connection, number) = tokio::select! {
            arrived = donor(&mut connections, std::future::ready(()), options.deadlines.arrival) => arrived,
            asked = stop.requested() => Err(asked),
        }
        .map_err(|e| e.on(Side::Joiner))?;
        let session = connection.session.clone();
        let (donor, software) = (connection.address, connection.software.clone());
        let Followers { lanes, control } = Followers::of(connections, number);
        let mut control = Control::answer(connection, control, options.deadlines, Arc::clone(&reporter));
        reporter.note(&format!("the donor at {donor} has proven itself ({software}): {session}"));
        reporter.meet(&donor.to_string());
        reporter.phase(Phase::Agreeing);
        let conversation = Conversation { connections: lanes, reporter: Arc::clone(&reporter), meter: Arc::default() };
        match conversation.converse(options, &mut control, session, stop).await {
            Ok(report) => Ok(report),
            Err(error) => Err(control.give_up(error, Side::Joiner).await),
        }
    }
}

struct Conversation {
    connections: mpsc::Receiver<ProvenConnection>,
    reporter: Arc<dyn Reporter>,
    meter: Arc<Meter>,
}

impl Conversation {
    async fn converse(
        mut self,
        options: PipeOptions,
        control: &mut Control,
        session: Session,
        stop: &Stop,
    ) -> Result<PipeReport> {
        let started = Instant::now();
        let offer = tokio::select! {
            offer = offered(control) => offer?,
            asked = stop.requested() => return Err(asked),
        };
        let checksum = agree(options.checksum, offer.speeds)?;
        let (lanes, window) = (options.lanes.min(offer.lanes).max(1), offer.window.clamp(1, WINDOW));
        // Before the donor's producer begins.
        let consumer = Consumer::start(options.consumer, Arc::clone(&self.reporter))?;
        let accept = PipeAccept { checksum, lanes, window, software: options.software.clone() };
        let reports = follow(Arc::clone(&self.meter), Arc::clone(&self.reporter));
        let ended = tokio::select! {
            ended = self.take(control, accept, &consumer, options.deadlines.idle) => ended,
            asked = stop.requested() => Err(asked),
        };
        drop(reports);
        let program = consumer.program();
        let done = match ended {
            Ok(seals) => {
                let end = self.end(control, consumer, seals);
                tokio::select! {
                    done = end => done,
                    asked = stop.requested() => Err(asked),
                }
            }
            Err(error) => {
                consumer.kill();
                Err(error)
            }
        };
        let bytes = done.inspect_err(|_| {
            // One whose end is under way.
            program.iter().for_each(|program| program.kill());
            if self.meter.snapshot().done > 0 {
                self.reporter.warn(NOT_WHOLE);
            }
        })?;
        let (wire_bytes, seconds) = (self.meter.snapshot().wire, started.elapsed().as_secs_f64());
        Ok(PipeReport { bytes, wire_bytes, seconds, lanes, checksum, session })
    }

    /// Takes the stream until the donor says that it has ended; the seal over what was written, and the donor's.
    async fn take(
        &mut self,
        control: &mut Control,
        accept: PipeAccept,
        consumer: &Consumer,
        idle: Duration,
    ) -> Result<(StreamSeal, StreamSeal)> {
        let most = accept.lanes;
        let outlet = Arc::new(Outlet::new(accept.checksum, accept.window));
        self.reporter.note(&format!(
            "agreed with the donor: {most} lanes at most, checksum {}; at most {} MiB under way",
            accept.checksum, accept.window
        ));
        self.reporter.phase(Phase::Copying);
        let writer = consumer.writer().ok_or_else(|| Error::new(Kind::Io, "the consumer has ended"))?;
        let writing = blocking({
            let (outlet, meter) = (Arc::clone(&outlet), Arc::clone(&self.meter));
            move || outlet.write_all(writer, &meter)
        });
        let closing = Closing(Arc::clone(&outlet));
        control.send(Message::PipeAccept(accept)).await?;
        let program = consumer.program();
        let failed = or_never(program.as_ref().map(|program| program.failed()));
        let (sink, meter) = (Sink::Pipe(Arc::clone(&outlet)), Arc::clone(&self.meter));
        let shared = Shared { sink, meter, in_hand: Arc::default(), turn: watch::channel(0).1 };
        let gathered = self.gather(control, &outlet, Lanes::new(shared, most));
        let mut writing = std::pin::pin!(writing);
        let donors = tokio::select! {
            biased;
            written = &mut writing => {
                written?;
                return Err(Error::new(Kind::Io, "the writing of the stream has ended before it"));
            }
            donors = gathered => donors?,
            error = failed => return Err(error),
        };
        outlet.close();
        writing.await?;
        drop(closing);
        let outlet = alone(outlet, idle).await;
        let outlet = outlet.ok_or_else(|| Error::new(Kind::Timeout, "a lane's thread does not end"))?;
        Ok((outlet.finish(), donors))
    }

    async fn gather(&mut self, control: &mut Control, outlet: &Outlet, mut lanes: Lanes) -> Result<StreamSeal> {
        // The shortest idle deadlines are seconds.
        const TELL: Duration = Duration::from_millis(250);
        /// After so long an operator is told.
        const LONG: Duration = Duration::from_secs(60);
        let mut tick = tokio::time::interval(TELL);
        let mut warned = false;
        loop {
            tokio::select! {
                Some(connection) = self.connections.recv() => lanes.take(connection),
                Some(ended) = lanes.ended() => ended?,
                message = control.next() => match message? {
                    Message::PipeEnd { pieces, bytes, digest } => {
                        lanes.farewell().await?;
                        return Ok(StreamSeal { pieces, bytes, digest });
                    }
                    other => return Err(control.unexpected(&other)),
                },
                _ = tick.tick() => {
                    let held = outlet.held(Instant::now());
                    if held >= TELL {
                        control.send(Message::PipeHeld).await?;
                    }
                    if held > LONG && !warned {
                        self.reporter.warn(&format!("the consumer has taken nothing for {} s", held.as_secs()));
                    }
                    warned = held > LONG;
                }
            }
        }
    }

    /// Compares, and only then lets the consumer see the end.
    async fn end(&self, control: &mut Control, consumer: Consumer, seals: (StreamSeal, StreamSeal)) -> Result<u64> {
        self.reporter.phase(Phase::Verifying);
        let (ours, donors) = seals;
        // Dropped by any of these, the consumer is killed.
        let whole = ours.verify(donors)?;
        control.send(Message::Verified).await?;
        self.reporter.note("verified: every byte matches the donor's seal; the consumer now comes to its end");
        let bytes = whole.bytes();
        blocking(move || consumer.end(&whole)).await?;
        if control.send(Message::Durable).await.is_ok() {
            let _ = control.farewell(bye).await;
        }
        Ok(bytes)
    }
}

/// However it ends, the writing thread stops.
struct Closing(Arc<Outlet>);

impl Drop for Closing {
    fn drop(&mut self) {
        self.0.close();
    }
}

/// The donor's offer of a stream.
async fn offered(control: &mut Control) -> Result<PipeOffer> {
    control
        .expect(|m| match m {
            Message::Pipe(_) | Message::Offer(_) | Message::OfferPart { .. } => Ok(m),
            other => Err(other),
        })
        .await
        .and_then(|offer| match offer {
            Message::Pipe(offer) => Ok(offer),
            _ => Err(Error::new(
                Kind::Usage,
                "the donor sends a data directory, and this joiner waits for a byte stream",
            )
            .remedy(
                "give the joiner a --datadir (by hand), or the donor `highline send --stdin` or a program after `--`",
            )),
        })
}
