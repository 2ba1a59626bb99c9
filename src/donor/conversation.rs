//! The conversation with the joiner once connected: offer, rounds, freeze, release, seal, install.

use std::sync::atomic::AtomicU64;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use super::answer::{OLD_TREE, SLOW, answer};
use super::clock::Clock;
use super::compression::Chooser;
use super::hold::{Hold, Sent};
use super::offer::offer;
use super::passes::{Passes, guarded};
use super::transfer::{Reused, Rounds, Transfer};
use super::{FrozenReport, Keeper, Report, SendOptions, Server, kept, reuse, say_bye};
use crate::error::{Error, Kind, Result};
use crate::link::Control;
use crate::manifest::{Checksum, Seal};
use crate::progress::{self, Meter, Phase, Reporter, bytes, follow, listed, seconds};
use crate::threads::blocking;
use crate::tls::{Session, random};
use crate::tree::{Found, Roots};
use crate::wire::Message;

pub(super) async fn converse(
    options: SendOptions,
    (roots, found): (Roots, Vec<Found>),
    server: Arc<dyn Server>,
    reporter: &Arc<dyn Reporter>,
    control: &mut Control,
    session: Session,
) -> Result<Report> {
    let started = Instant::now();
    let (entries, total) = (found.len() as u64, found.iter().map(Found::size).sum());
    let rounds = server.serves() && !options.freeze.is_whole(total, options.rate.rate());
    // A frozen server must not wait for what the joiner reads.
    let reuse = rounds || server.keeper() == Keeper::Nobody;
    for part in offer(&options, &roots, &found, reuse)?.into_messages()? {
        control.send(part).await?;
    }
    // The scan that counts comes when the server is frozen; two in memory at once would be a lot.
    drop(found);
    let idle = options.dialer.deadlines.idle;
    let accept =
        answer(control, idle, OLD_TREE, |m| if let Message::Accept(accept) = m { Ok(accept) } else { Err(m) }).await?;
    let lanes = accept.lanes.clamp(1, options.lanes);

    if !offered(options.checksum, accept.checksum) {
        let what = format!("{} chose the checksum {}, which was not offered", control.peer(), accept.checksum);
        return Err(Error::new(Kind::Protocol, what));
    }

    let basis = match accept.basis {
        true if !reuse => {
            return Err(Error::new(Kind::Protocol, format!("{} offers what was not asked for", control.peer())));
        }
        true => reuse::basis(control, idle).await?,
        false => Vec::new(),
    };
    let (there, asked) = (roots.clone(), Arc::clone(&server));
    let theirs = blocking(move || kept::respected(&there, &asked.rules()?, &accept.kept)).await?;
    if !theirs.is_empty() {
        let names: Vec<String> = theirs.iter().map(ToString::to_string).collect();
        reporter.note(&format!("not sent, because the joiner has its own there: {}", listed(&names)));
    }
    let meter = Arc::new(Meter::default());
    let reports = follow(Arc::clone(&meter), Arc::clone(reporter));
    let checksum = accept.checksum;
    let transfer = Arc::new(Transfer {
        dialer: options.dialer,
        checksum,
        compression: Chooser::new(options.compression, Instant::now()),
        pace: Arc::clone(&options.rate),
        meter: Arc::clone(&meter),
        reporter: Arc::clone(reporter),
        seed: u64::from_ne_bytes(random()?),
        rounds: Rounds::default(),
        clock: Clock::new(Instant::now()),
        in_flight: AtomicU64::new(0),
        breaks: AtomicU64::new(0),
        acknowledged: AtomicU64::new(0),
        reused: Reused::default(),
        broken: Mutex::new(None),
    });
    reporter.note(&format!(
        "agreed with {}: {lanes} lanes, checksum {checksum}, compression {}; {} in {}",
        crate::error::Printable(accept.software.as_bytes()),
        options.compression,
        bytes(total),
        progress::entries(entries),
    ));
    reporter.phase(Phase::Scanning);
    let there = (roots, accept.without, theirs);
    let mut passes = Passes::new(Arc::clone(&transfer), Arc::clone(&server), there, basis, lanes)?;
    if let Some(rate) = options.rate.rate().filter(|_| server.serves() && !rounds) {
        let most = seconds(Duration::from_secs(total / rate.max(1)));
        reporter.warn(&format!(
            "everything is copied under the lock, at rate-limit: writes wait for up to {most}; any other freeze applies the limit only while the server runs"
        ));
    }
    let (mut clone, mut freezes) = (false, 0);
    let (frozen, reached, ours, position) = loop {
        if rounds {
            let (passed, outlook) = passes.live(control, options.freeze_limit).await?;
            clone = options.freeze.clones(&passed, outlook);
            if clone {
                passes.examine_clones(control).await?;
            }
            reporter.note(&options.freeze.expects(&passed, outlook));
        }
        // Do not freeze a server while the link is down.
        control.stands().await?;
        let freezing = Instant::now();
        if server.serves() {
            reporter.phase(Phase::Freezing);
        }
        let freeze = Arc::clone(&server);
        let frozen = guarded(control, blocking(move || freeze.freeze())).await?;
        let reached = freezing.elapsed();
        if server.serves() {
            reporter.phase(Phase::Frozen);
        }
        let position = frozen.or_else(|| options.position.clone());
        let until = options.freeze_limit.filter(|_| rounds).map(|limit| Instant::now() + limit);
        let cut = server.serves().then(|| options.freeze_limit.unwrap_or(CUT));
        let still = passes.still(control, &position, clone, Hold { until, cut }).await;
        let ours = freezing.elapsed() - reached;
        let release = Arc::clone(&server);
        let released = blocking(move || release.release()).await;
        reporter.phase(Phase::Scanning);
        // Release it first: telling the peer why this failed may take seconds.
        let still = still?;
        released?;
        if still == Sent::Whole {
            break (server.serves(), reached, ours, position);
        }
        freezes += 1;
        broken_off(freezes, still, options.freeze_limit, reporter)?;
    };
    let cloned = passes.cloned;
    passes.of_clones(control, &position).await?;
    drop(reports);

    reporter.phase(Phase::Verifying);
    let (Seal { entries, digest }, rounds) = passes.seal().await?;
    control.send(Message::Seal { entries, digest }).await?;
    answer(control, idle, SLOW, |m| if let Message::Verified = m { Ok(()) } else { Err(m) }).await?;
    reporter.phase(Phase::Installing);
    reporter.note("verified by the joiner, which is now syncing and installing");
    control.expect(|m| if let Message::Durable = m { Ok(()) } else { Err(m) }).await?;
    say_bye(control).await?;

    let end = meter.snapshot();
    Ok(Report {
        bytes: total,
        wire_bytes: end.wire,
        reused_bytes: transfer.reused.bytes(),
        entries,
        seconds: started.elapsed().as_secs_f64(),
        frozen: frozen.then_some(FrozenReport {
            reaching: reached.as_secs_f64(),
            ours: ours.as_secs_f64(),
            clones: cloned.0,
            cloned_bytes: cloned.1,
        }),
        rounds,
        lanes,
        checksum,
        compression: transfer.compression.summary(),
        session,
    })
}

/// How long a server may stay frozen while nothing reaches the joiner, if there is no freeze-limit.
const CUT: Duration = Duration::from_secs(30);

/// The server was released because its time was up; fails if that was the last try.
fn broken_off(freezes: u32, why: Sent, limit: Option<Duration>, reporter: &Arc<dyn Reporter>) -> Result<()> {
    const MOST: u32 = 3;
    let (what, remedy) = match why {
        Sent::Cut => (
            format!("the link to the joiner was down for {} s under the lock", limit.unwrap_or(CUT).as_secs_f32()),
            "check the link between the nodes, and start again when it is stable",
        ),
        _ => (
            format!(
                "what had changed could not be sent within the freeze-limit of {} s",
                limit.unwrap_or_default().as_secs_f32()
            ),
            "raise freeze-limit, choose a quieter hour, or use a filesystem with clones (XFS, btrfs)",
        ),
    };
    if freezes < MOST {
        reporter.warn(&format!("{what}; the server is released, and another pass follows"));
        return Ok(());
    }
    Err(Error::new(Kind::Timeout, format!("{what}, {MOST} times")).remedy(remedy))
}

/// Whether the offer allowed this checksum.
fn offered(only: Option<Checksum>, chosen: Checksum) -> bool {
    only.is_none_or(|only| only == chosen)
}
