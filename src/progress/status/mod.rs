//! What a transfer is doing, as one value: for the status file, `highline status` and `--progress json`.
//!
//! Pure: the time is an argument. The fields are documented in docs/status.md.

mod file;
mod metrics;
mod publish;

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};

pub use file::{FILE, Seen, StatusFile, Wish, look};
pub use publish::{Publish, Published};

use super::Snapshot;
use crate::error::{Error, Kind, Side};

/// The version of the fields: grows when one of them changes its meaning or is removed. New ones may be added at any
/// time.
pub const SCHEMA: u32 = 1;

/// Bytes. Longer texts are cut, because a record has a fixed size in the file.
const TEXT: usize = 1500;

/// What a transfer is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Phase {
    /// The joiner waits for a donor.
    Waiting,
    /// The donor scans its tree.
    Scanning,
    /// The donor dials.
    Connecting,
    /// Both find out whether the joiner can take the data.
    Agreeing,
    Copying,
    /// The joiner waits for the donor's next round.
    Pausing,
    /// The donor's server was asked to freeze.
    Freezing,
    /// The donor's server is frozen, and what changed is sent.
    Frozen,
    Verifying,
    /// The joiner prepares the backup that has arrived; on the donor until it has installed it.
    Preparing,
    /// The joiner syncs and switches.
    Installing,
    /// Its process is still running.
    Over,
}

impl Phase {
    /// Whether there must be progress in this phase; in others there is nothing to count.
    fn moves(self) -> bool {
        matches!(self, Phase::Copying | Phase::Freezing | Phase::Frozen)
    }

    /// Whether the donor's clients have to wait.
    fn holds_writes(self) -> bool {
        matches!(self, Phase::Freezing | Phase::Frozen)
    }

    pub fn words(self) -> &'static str {
        match self {
            Phase::Waiting => "waiting for a donor",
            Phase::Scanning => "looking at the tree",
            Phase::Connecting => "connecting to the joiner",
            Phase::Agreeing => "finding out whether the joiner can take the data",
            Phase::Copying => "copying",
            Phase::Pausing => "waiting for the donor's next round",
            Phase::Freezing => "waiting for the server to freeze its tables",
            Phase::Frozen => "frozen, sending what changed",
            Phase::Verifying => "verifying",
            Phase::Preparing => "preparing the backup",
            Phase::Installing => "syncing and installing",
            Phase::Over => "over",
        }
    }
}

/// One transfer as one side sees it. Times are seconds since 1970-01-01 00:00 UTC.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Status {
    pub schema: u32,
    pub role: Side,
    pub pid: u32,
    /// The peer's address, once it is known.
    pub peer: Option<String>,
    pub phase: Phase,
    pub started: f64,
    pub phase_since: f64,
    /// When something last moved.
    pub progress_at: f64,
    /// The pass over the tree that the next two fields are about, from 0.
    pub round: u64,
    pub bytes: u64,
    pub total_bytes: u64,
    /// The most a pass had to read: the first has the whole tree.
    pub tree_bytes: u64,
    /// Of all passes.
    pub wire_bytes: u64,
    pub entries: u64,
    /// Not sent because the joiner already had it; known at the end.
    pub reused_bytes: u64,
    /// Since bytes began to flow.
    pub seconds: f64,
    pub bytes_per_second: f64,
    pub wire_bytes_per_second: f64,
    /// The donor's limit, in bytes per second on the wire; `null` means none.
    pub rate_limit: Option<u64>,
    /// `null` if nothing moves.
    pub eta_seconds: Option<f64>,
    /// How long the server's clients had to wait, up to `phase_since`.
    pub frozen_seconds: f64,
    pub ended: Option<Ended>,
}

/// How a transfer ended.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Ended {
    pub at: f64,
    /// `null` means success.
    pub error: Option<Failed>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Failed {
    pub kind: Kind,
    pub side: Side,
    pub text: String,
    pub remedy: Option<String>,
}

/// Seconds since 1970-01-01 00:00 UTC.
pub fn unix(time: SystemTime) -> f64 {
    let seconds = time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs_f64();
    (seconds * 1000.0).round() / 1000.0
}

/// The span between two such times; zero if the clock was set back.
pub fn span(from: f64, to: f64) -> Duration {
    Duration::try_from_secs_f64(to - from).unwrap_or_default()
}

impl Status {
    pub fn begin(role: Side, now: SystemTime) -> Status {
        let at = unix(now);
        let phase = if role == Side::Donor { Phase::Scanning } else { Phase::Waiting };
        Status {
            schema: SCHEMA,
            role,
            pid: std::process::id(),
            peer: None,
            phase,
            started: at,
            phase_since: at,
            progress_at: at,
            round: 0,
            bytes: 0,
            total_bytes: 0,
            tree_bytes: 0,
            wire_bytes: 0,
            entries: 0,
            reused_bytes: 0,
            seconds: 0.0,
            bytes_per_second: 0.0,
            wire_bytes_per_second: 0.0,
            rate_limit: None,
            eta_seconds: None,
            frozen_seconds: 0.0,
            ended: None,
        }
    }

    pub fn enter(&mut self, phase: Phase, now: SystemTime) {
        if phase == self.phase {
            return;
        }
        let at = unix(now);
        if self.phase.holds_writes() {
            self.frozen_seconds += span(self.phase_since, at).as_secs_f64();
        }
        // The joiner's pauses and the donor's scans recur, and are not progress.
        (self.phase, self.phase_since, self.progress_at) = (phase, at, at);
        (self.bytes_per_second, self.wire_bytes_per_second, self.eta_seconds) = (0.0, 0.0, None);
    }

    pub fn meet(&mut self, peer: &str) {
        self.peer = Some(cut(peer));
    }

    pub fn count(&mut self, now: &Snapshot, time: SystemTime) {
        let counters = |status: &Status| (status.round, status.bytes, status.wire_bytes, status.entries);
        let before = counters(self);
        (self.round, self.bytes, self.total_bytes) = (now.round, now.done, now.total);
        self.tree_bytes = self.tree_bytes.max(now.total);
        (self.wire_bytes, self.entries) = (now.wire, now.entries);
        self.seconds = now.elapsed.as_secs_f64();
        (self.bytes_per_second, self.wire_bytes_per_second) = (now.rate, now.wire_rate);
        self.eta_seconds = now.eta().map(|eta| eta.as_secs_f64());
        if counters(self) != before {
            self.progress_at = unix(time);
        }
    }

    pub fn end(&mut self, error: Option<&Error>, now: SystemTime) {
        self.enter(Phase::Over, now);
        let failed = |error: &Error| Failed {
            kind: error.kind(),
            side: error.side(),
            text: cut(&error.sentence()),
            remedy: error.remedy_text().map(cut),
        };
        self.ended = Some(Ended { at: unix(now), error: error.map(failed) });
    }

    /// How long there has been no progress.
    pub fn idle(&self, now: SystemTime) -> Duration {
        span(self.progress_at, unix(now))
    }

    pub fn in_phase(&self, now: SystemTime) -> Duration {
        span(self.phase_since, unix(now))
    }

    /// How long the server's clients have had to wait so far.
    pub fn frozen(&self, now: SystemTime) -> Duration {
        let before = Duration::try_from_secs_f64(self.frozen_seconds).unwrap_or_default();
        if self.phase.holds_writes() { before.saturating_add(self.in_phase(now)) } else { before }
    }
}

/// Whether a transfer is running, and how it is doing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// There is no record of any transfer.
    None,
    Running,
    /// It is running but has made no progress for long.
    Stuck,
    Done,
    Failed,
    /// Its process is gone without a final status: killed, or the host went down.
    Stale,
}

impl State {
    /// `alive`: the writer of `status` is still running. `patience`: how long it may make no progress.
    pub fn of(status: &Status, alive: bool, patience: Duration, now: SystemTime) -> State {
        match &status.ended {
            Some(Ended { error: None, .. }) => State::Done,
            Some(_) => State::Failed,
            None if !alive => State::Stale,
            None if status.phase.moves() && status.idle(now) > patience => State::Stuck,
            None => State::Running,
        }
    }
}

fn cut(text: &str) -> String {
    match text.char_indices().find(|(at, _)| *at > TEXT) {
        Some((at, _)) => format!("{}…", text.get(..at).unwrap_or_default()),
        None => text.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    const PATIENCE: Duration = Duration::from_secs(60);

    #[test]
    fn the_freeze_is_what_clients_waited_for() {
        let mut status = Status::begin(Side::Donor, at(0));
        for (phase, second) in [
            (Phase::Copying, 10),
            (Phase::Freezing, 20),
            (Phase::Frozen, 21),
            (Phase::Copying, 23),
            (Phase::Freezing, 30),
            (Phase::Frozen, 31),
        ] {
            status.enter(phase, at(second));
        }
        assert_eq!(status.frozen(at(35)), Duration::from_secs(8));
        status.enter(Phase::Verifying, at(36));
        assert_eq!(status.frozen(at(99)), Duration::from_secs(9));
    }

    #[test]
    fn only_what_has_to_move_can_be_stuck() {
        let mut status = Status::begin(Side::Joiner, at(0));
        let state = |status: &Status, second| State::of(status, true, PATIENCE, at(second));
        assert_eq!(state(&status, 9999), State::Running, "a joiner may wait for its donor");
        status.enter(Phase::Copying, at(100));
        assert_eq!((state(&status, 160), state(&status, 161)), (State::Running, State::Stuck));
        let mut snapshot = Snapshot { wire: 1, ..Snapshot::default() };
        status.count(&snapshot, at(161));
        assert_eq!(state(&status, 162), State::Running);
        status.count(&snapshot, at(221));
        assert_eq!(state(&status, 222), State::Stuck, "the same numbers again are no progress");
        snapshot.wire = 2;
        status.count(&snapshot, at(222));
        status.enter(Phase::Installing, at(223));
        assert_eq!(state(&status, 9999), State::Running);
        assert_eq!(State::of(&status, false, PATIENCE, at(224)), State::Stale);
        let error = Error::new(Kind::NoSpace, "x".repeat(9000)).on(Side::Joiner).remedy("free space");
        let mut failed = status.clone();
        failed.end(Some(&error), at(230));
        status.end(None, at(230));
        assert_eq!((state(&status, 231), state(&failed, 231)), (State::Done, State::Failed));
        assert!(failed.ended.unwrap().error.unwrap().text.len() < TEXT + 10);
    }

    #[test]
    fn a_clock_that_is_set_back_breaks_nothing() {
        let mut status = Status::begin(Side::Donor, at(100));
        status.enter(Phase::Frozen, at(50));
        status.enter(Phase::Copying, at(0));
        assert_eq!((status.frozen(at(0)), status.idle(at(0))), (Duration::ZERO, Duration::ZERO));
    }
}
