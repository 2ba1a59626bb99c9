//! One byte stream as what is sent, in place of a tree: offer, consent, the stream, its seal.
//!
//! A piece is read only while the window has room for it, and is kept until the joiner has handed it to its consumer. So
//! memory is bounded, and a cut lane's pieces go out again on others.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::answer::SLOW;
use super::catalog::Catalog;
use super::compression::Compression;
use super::hold::arrived;
use super::lane::Lanes;
use super::piece::{Piece, Sealing};
use super::queue::Work;
use super::transfer::{Round, Transfer};
use super::{connect, say_bye};
use crate::error::{Error, Kind, Printable, Result, Side};
use crate::link::{Control, Dialer};
use crate::manifest::{Checksum, StreamSeal};
use crate::pace::Throttle;
use crate::pipe::{End, Producer, Read};
use crate::progress::{Meter, Phase, Reporter, bytes, follow};
use crate::stop::Stop;
use crate::threads::{alone, blocking, or_never};
use crate::tls::Session;
use crate::wire::{self, Message, PipeAccept, PipeOffer, Speeds};

/// How many pieces a lane may have that are not acknowledged: each is in memory, here or there.
const A_LANE: u32 = 8;

/// How old the first byte of a piece may be that is not full; where `idle-timeout` is short, a quarter of that.
const OLD: Duration = Duration::from_secs(1);

/// What a donor of a stream is asked to do; every value is checked.
#[derive(Debug)]
pub struct PipeOptions {
    pub dialer: Dialer,
    /// 1 to [`crate::link::Lanes::MAX`].
    pub lanes: u16,
    pub compression: Compression,
    /// `None` lets both sides measure and takes whichever is faster on the slower side.
    pub checksum: Option<Checksum>,
    /// Limits bytes on the wire.
    pub rate: Arc<Throttle>,
    pub producer: End,
}

/// A stream that has gone over, for the log and `--json`.
#[derive(Clone, Debug, serde::Serialize)]
pub struct PipeReport {
    pub bytes: u64,
    pub wire_bytes: u64,
    pub seconds: f64,
    pub lanes: u16,
    pub checksum: Checksum,
    pub compression: String,
    pub session: Session,
}

impl fmt::Display for PipeReport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let rate = (self.bytes as f64 / self.seconds.max(0.001)) as u64;
        write!(f, "{}, {} on the wire, ", bytes(self.bytes), bytes(self.wire_bytes))?;
        write!(f, "{:.1} s, {}/s; ", self.seconds, bytes(rate))?;
        write!(f, "{} lanes, checksum {}, compression {}", self.lanes, self.checksum, self.compression)
    }
}

/// Sends one stream to its end. Returns once the joiner has compared it and its consumer has ended well.
pub async fn pipe(options: PipeOptions, reporter: Arc<dyn Reporter>, stop: &Stop) -> Result<PipeReport> {
    let (mut control, session) = connect(&options.dialer, &reporter, stop).await?;
    let sent = tokio::select! {
        sent = converse(options, &reporter, &mut control, session) => sent,
        asked = stop.requested() => Err(asked),
    };
    match sent {
        Ok(report) => Ok(report),
        Err(error) => Err(control.give_up(error, Side::Donor).await),
    }
}

async fn converse(
    options: PipeOptions,
    reporter: &Arc<dyn Reporter>,
    control: &mut Control,
    session: Session,
) -> Result<PipeReport> {
    let accept = agree(&options, control).await?;
    let (checksum, lanes) = (accept.checksum, accept.lanes.clamp(1, options.lanes));
    let window = accept.window.min(A_LANE * u32::from(lanes)).max(1) as usize;
    let meter = Arc::new(Meter::default());
    let reports = follow(Arc::clone(&meter), Arc::clone(reporter));
    let (rate, telling) = (Arc::clone(&options.rate), (Arc::clone(&meter), Arc::clone(reporter)));
    let transfer = Arc::new(Transfer::new(options.dialer, checksum, options.compression, rate, telling)?);
    reporter.note(&format!(
        "agreed with {}: {lanes} lanes, checksum {checksum}, compression {}; at most {window} MiB under way",
        Printable(accept.software.as_bytes()),
        options.compression,
    ));
    reporter.phase(Phase::Copying);
    let started = Instant::now();
    let mut running = Lanes::dial(Arc::clone(&transfer), lanes);
    let producer = Producer::start(options.producer, Arc::clone(reporter))?;
    let seal = bring(control, &mut running, producer, window).await?;
    drop(reports);
    reporter.phase(Phase::Verifying);
    let StreamSeal { pieces, bytes, digest } = seal;
    if bytes == 0 {
        reporter.warn("the stream was empty");
    }
    control.send(Message::PipeEnd { pieces, bytes, digest }).await?;
    let idle = transfer.dialer.deadlines.idle;
    within(idle, told(control, |m| if let Message::Verified = m { Ok(()) } else { Err(m) })).await?;
    reporter.note("verified by the joiner, whose consumer now comes to its end");
    told(control, |m| if let Message::Durable = m { Ok(()) } else { Err(m) }).await?;
    say_bye(control).await?;
    Ok(PipeReport {
        bytes,
        wire_bytes: meter.snapshot().wire,
        seconds: started.elapsed().as_secs_f64(),
        lanes,
        checksum,
        compression: transfer.compression.summary(),
        session,
    })
}

async fn agree(options: &PipeOptions, control: &mut Control) -> Result<PipeAccept> {
    let speed = |checksum: Checksum| match options.checksum {
        Some(only) if only != checksum => 0,
        _ => checksum.measure(),
    };
    let speeds = Speeds { sha256: speed(Checksum::Sha256), blake3: speed(Checksum::Blake3) };
    let window = A_LANE * u32::from(options.lanes);
    control.send(Message::Pipe(PipeOffer { speeds, lanes: options.lanes, window })).await?;
    let accept = told(control, |m| if let Message::PipeAccept(accept) = m { Ok(accept) } else { Err(m) });
    let accept = within(options.dialer.deadlines.idle, accept).await?;
    if options.checksum.is_some_and(|only| only != accept.checksum) {
        let what = format!("{} chose the checksum {}, which was not offered", control.peer(), accept.checksum);
        return Err(Error::new(Kind::Protocol, what));
    }
    Ok(accept)
}

/// Brings the whole stream over; its seal, when every piece is acknowledged and the producer has ended well.
async fn bring(control: &mut Control, lanes: &mut Lanes, producer: Producer, window: usize) -> Result<StreamSeal> {
    let transfer = Arc::clone(&lanes.transfer);
    let round = Arc::new(Round::open(Catalog::none()?));
    transfer.clock.acknowledged(Instant::now());
    transfer.rounds.begin(Arc::clone(&round));
    let sealing = Arc::new(Sealing::new(transfer.checksum));
    let (reader, program) = producer.parts();
    let old = OLD.min(transfer.dialer.deadlines.idle / 4);
    let reading = blocking({
        let (transfer, round, sealing) = (Arc::clone(&transfer), Arc::clone(&round), Arc::clone(&sealing));
        move || {
            // While the joiner has work the clock is moved by that alone, else the producer may take its time.
            let wanted = || {
                if round.queue.is_idle() {
                    transfer.clock.acknowledged(Instant::now());
                }
                !transfer.rounds.is_closed()
            };
            let mut number = 0;
            reader.pieces(wire::Piece::MAX, old, wanted, |data| {
                let piece = Piece { number, data, sealing: Arc::clone(&sealing) };
                number += 1;
                round.queue.push(Work::Piece(Arc::new(piece)), window)
            })
        }
    });
    let all = async {
        let read = reading.await?;
        let read = read.ok_or_else(|| Error::new(Kind::Io, "the transfer ended before the producer did"))?;
        round.queue.end();
        Ok(read)
    };
    let both = async { tokio::try_join!(all, arrived(lanes, &round)).map(|(read, _)| read) };
    let failed = or_never(program.as_ref().map(|program| program.failed()));
    let held = async {
        loop {
            match control.next().await {
                Ok(Message::PipeHeld) => transfer.clock.acknowledged(Instant::now()),
                Ok(other) => return control.unexpected(&other),
                Err(error) => return error,
            }
        }
    };
    let sent = tokio::select! {
        sent = both => sent,
        error = failed => Err(error),
        error = held => Err(error),
    };
    let read = sent.map_err(|error| {
        // Who still pushes is woken by that, and ends.
        transfer.rounds.close();
        program.iter().for_each(|program| program.kill());
        transfer.rounds.failure().unwrap_or(error)
    })?;
    transfer.rounds.end();
    lanes.farewell().await;
    drop(round);
    let sealing = alone(sealing, transfer.dialer.deadlines.idle).await;
    let sealing = sealing.ok_or_else(|| Error::new(Kind::Timeout, "a packing thread does not end"))?;
    sealed(read, sealing.finish())
}

/// The seal, if it is over all that was read: it is made of what the lanes have packed.
fn sealed(read: Read, seal: StreamSeal) -> Result<StreamSeal> {
    if (read.pieces, read.bytes) == (seal.pieces, seal.bytes) {
        return Ok(seal);
    }
    let what = format!(
        "not all of the stream was sent: {} in {} pieces were read, and {} in {} were sealed",
        bytes(read.bytes),
        read.pieces,
        bytes(seal.bytes),
        seal.pieces
    );
    Err(Error::new(Kind::Integrity, what).remedy("start again, and report this: it must not happen"))
}

/// The joiner's answer; it has five times `idle` for it.
async fn within<T>(idle: Duration, answer: impl Future<Output = Result<T>>) -> Result<T> {
    let limit = idle.saturating_mul(5);
    tokio::time::timeout(limit, answer).await.unwrap_or_else(|_| {
        let what = format!("the joiner is still connected but has not answered for {} s", limit.as_secs());
        Err(Error::new(Kind::Timeout, what).remedy(SLOW))
    })
}

/// The joiner's next word; that it was held up before does not matter any more.
async fn told<T>(control: &mut Control, pick: impl FnOnce(Message) -> Result<T, Message>) -> Result<T> {
    loop {
        match control.next().await? {
            Message::PipeHeld => {}
            word => return pick(word).map_err(|other| control.unexpected(&other)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::StreamSealer;

    #[test]
    fn a_seal_over_less_than_was_read_is_none() {
        let mut sealer = StreamSealer::new(Checksum::Blake3);
        sealer.add(3, Checksum::Blake3.digest(b"one"));
        let seal = sealer.finish();
        assert_eq!(sealed(Read { pieces: 1, bytes: 3 }, seal).unwrap(), seal);
        for (pieces, bytes) in [(2, 3), (1, 4), (0, 0)] {
            assert_eq!(sealed(Read { pieces, bytes }, seal).unwrap_err().kind(), Kind::Integrity);
        }
    }
}
