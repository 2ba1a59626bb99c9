//! A server's files as the source: passes while it runs, its freeze, what had changed, its release.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::brought::{Agreed, Brought};
use super::hold::{Hold, Sent};
use super::lane::Lanes;
use super::passes::{Passes, guarded};
use super::rounds::FreezeMode;
use super::{FrozenReport, Keeper, SendOptions, Server};
use crate::error::{Error, Kind, Result};
use crate::link::Control;
use crate::position::GaleraGtid;
use crate::progress::{Phase, Reporter, seconds};
use crate::threads::blocking;

/// A tree that can be read as often as it takes.
pub(super) struct Files {
    server: Arc<dyn Server>,
    freeze: FreezeMode,
    freeze_limit: Option<Duration>,
    /// The server's position, unless it reports it itself once it is frozen.
    position: Option<GaleraGtid>,
    /// The bytes of all files.
    total: u64,
    /// There are passes while the server runs.
    live: bool,
    /// How long a copy of everything takes at the rate limit.
    paced: Option<Duration>,
}

impl Files {
    pub(super) fn new(options: &SendOptions, server: Arc<dyn Server>, total: u64) -> Files {
        let rate = options.rate.rate();
        Files {
            freeze: options.freeze,
            freeze_limit: options.freeze_limit,
            position: options.position.clone(),
            live: server.serves() && !options.freeze.is_whole(total, rate),
            total,
            paced: rate.map(|rate| Duration::from_secs(total / rate.max(1))),
            server,
        }
    }

    /// Whether what the joiner already has may be compared: a frozen server must not wait while the joiner reads.
    pub(super) fn may_reuse(&self) -> bool {
        self.live || self.server.keeper() == Keeper::Nobody
    }

    pub(super) async fn bring(self, control: &mut Control, lanes: Lanes, agreed: Agreed) -> Result<Brought> {
        let Files { server, freeze, freeze_limit, live, .. } = &self;
        let reporter = Arc::clone(&lanes.transfer.reporter);
        let mut passes = Passes::new(lanes, Arc::clone(server), agreed)?;
        if let Some(most) = self.paced.filter(|_| server.serves() && !live) {
            reporter.warn(&format!(
                "everything is copied under the lock, at rate-limit: writes wait for up to {}; any other freeze applies the \
                 limit only while the server runs",
                seconds(most)
            ));
        }
        let (mut clone, mut freezes) = (false, 0);
        let (frozen, position) = loop {
            if *live {
                let (passed, outlook) = passes.live(control, *freeze_limit).await?;
                clone = freeze.clones(&passed, outlook);
                if clone {
                    passes.examine_clones(control).await?;
                }
                reporter.note(&freeze.expects(&passed, outlook));
            }
            // Do not freeze a server while the link is down.
            control.stands().await?;
            let freezing = Instant::now();
            if server.serves() {
                reporter.phase(Phase::Freezing);
            }
            let asked = Arc::clone(server);
            let told = guarded(control, blocking(move || asked.freeze())).await?;
            let reaching = freezing.elapsed();
            if server.serves() {
                reporter.phase(Phase::Frozen);
            }
            let position = told.or_else(|| self.position.clone());
            let until = freeze_limit.filter(|_| *live).map(|limit| Instant::now() + limit);
            let cut = server.serves().then(|| freeze_limit.unwrap_or(CUT));
            let still = passes.still(control, &position, clone, Hold { until, cut }).await;
            let ours = freezing.elapsed() - reaching;
            let release = Arc::clone(server);
            let released = blocking(move || release.release()).await;
            reporter.phase(Phase::Scanning);
            // Release it first: telling the peer why this failed may take seconds.
            let still = still?;
            released?;
            if still == Sent::Whole {
                let (clones, cloned_bytes) = passes.cloned;
                let (reaching, ours) = (reaching.as_secs_f64(), ours.as_secs_f64());
                let frozen = FrozenReport { reaching, ours, clones, cloned_bytes };
                break (server.serves().then_some(frozen), position);
            }
            freezes += 1;
            broken_off(freezes, still, *freeze_limit, &*reporter)?;
        };
        passes.of_clones(control, &position).await?;
        passes.sound()?;
        let (seal, rounds) = passes.seal().await?;
        Ok(Brought { seal, bytes: self.total, rounds, frozen })
    }
}

/// How long a server may stay frozen while nothing reaches the joiner, if there is no freeze-limit.
const CUT: Duration = Duration::from_secs(30);

/// The server was released because its time was up; fails if that was the last try.
fn broken_off(freezes: u32, why: Sent, limit: Option<Duration>, reporter: &dyn Reporter) -> Result<()> {
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
