//! `highline status`: shows what this node's transfer is doing.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime};

use super::print;
use crate::check::options::Options;
use crate::cli::StatusArgs;
use crate::error::{Error, Printable, Result, Side};
use crate::progress::status::{Ended, Phase, SCHEMA, Seen, State, Status, look, span, unix};
use crate::progress::{bytes, entries, object, seconds};
use crate::sst::server_args::Defaults;

/// Exit codes for probes.
const NO_TRANSFER: u8 = 3;
const STUCK: u8 = 4;

pub(super) fn run(args: &StatusArgs) -> Result<u8> {
    const EVERY: Duration = Duration::from_secs(1);
    let datadir = datadir(args.datadir.as_deref())?;
    let out = &mut std::io::stdout();
    loop {
        let view = View::of(look(&datadir)?, args.stuck_after.limit(), SystemTime::now());
        let text = match (args.json, args.watch) {
            (true, true) => view.json().to_string(),
            (true, false) => format!("{:#}", view.json()),
            (false, true) => view.line(),
            (false, false) => view.table(),
        };
        print(out, &format!("{}\n", text.trim_end()))?;
        match view.state {
            _ if !args.watch => return Ok(view.exit_code()),
            State::Running | State::Stuck => std::thread::sleep(EVERY),
            _ => return Ok(view.end_code()),
        }
    }
}

/// The data directory given, or else the one the option files name.
pub(super) fn datadir(typed: Option<&Path>) -> Result<PathBuf> {
    let datadir = match typed {
        Some(typed) => typed.to_owned(),
        None => Options::read(&Defaults::default())?.datadir(),
    };
    datadir
        .canonicalize()
        .map_err(|e| Error::io("cannot open the data directory", &datadir, e).remedy("name it with --datadir"))
}

/// A status, seen at a given time.
struct View {
    status: Option<Status>,
    state: State,
    now: SystemTime,
}

impl View {
    fn of(seen: Seen, patience: Duration, now: SystemTime) -> View {
        let (status, alive) = match seen {
            Seen::Nothing => return View { status: None, state: State::None, now },
            Seen::Live(status) => (status, true),
            Seen::Left(status) => (status, false),
        };
        View { state: State::of(&status, alive, patience, now), status: Some(*status), now }
    }

    fn exit_code(&self) -> u8 {
        match self.state {
            State::Running => 0,
            State::Stuck => STUCK,
            State::None | State::Done | State::Failed | State::Stale => NO_TRANSFER,
        }
    }

    /// How the watched transfer ended.
    fn end_code(&self) -> u8 {
        let ended = self.status.as_ref().and_then(|status| status.ended.as_ref());
        match ended {
            Some(Ended { error: Some(error), .. }) => error.kind.exit_code(),
            Some(_) => 0,
            None => NO_TRANSFER,
        }
    }

    fn json(&self) -> serde_json::Value {
        match &self.status {
            Some(status) => object(status, self.state, self.now),
            None => serde_json::json!({"schema": SCHEMA, "state": self.state, "time": unix(self.now)}),
        }
    }

    /// In one sentence.
    fn line(&self) -> String {
        let Some(status) = &self.status else { return NOTHING.into() };
        let mut text = format!("{}: {}", status.role, self.doing(status));
        if let (Some(figures), State::Running | State::Stuck) = (figures(status), self.state) {
            let _ = write!(text, ", {figures}");
        }
        text
    }

    fn doing(&self, status: &Status) -> String {
        let ago = |at: f64| format!("{} ago", seconds(span(at, unix(self.now))));
        match (self.state, &status.ended) {
            (State::Stuck, _) => {
                format!("stuck: {}, and nothing has moved for {}", status.phase.words(), seconds(status.idle(self.now)))
            }
            (State::Stale, _) => format!(
                "stale: it was {}, and its process ({}) is gone; last written {}",
                status.phase.words(),
                status.pid,
                ago(status.progress_at)
            ),
            (_, Some(Ended { at, error: None })) => format!("done {}", ago(*at)),
            (_, Some(Ended { at, error: Some(error) })) => {
                let whose = if error.side == Side::Here { status.role } else { error.side };
                format!("failed {}, on the {whose}'s side: {}", ago(*at), Printable(error.text.as_bytes()))
            }
            _ => format!("{} for {}", status.phase.words(), seconds(status.in_phase(self.now))),
        }
    }

    fn table(&self) -> String {
        let Some(status) = &self.status else { return NOTHING.into() };
        let mut rows = vec![("role", status.role.to_string()), ("state", self.doing(status))];
        if let Some(peer) = &status.peer {
            rows.push(("peer", Printable(peer.as_bytes()).to_string()));
        }
        let running = matches!(self.state, State::Running | State::Stuck);
        if running {
            rows.push(("process", status.pid.to_string()));
            rows.push(("last progress", format!("{} ago", seconds(status.idle(self.now)))));
            rows.extend(figures(status).map(|figures| ("now", figures)));
        }
        if status.entries > 0 {
            rows.push(("so far", format!("{} on the wire, {}", bytes(status.wire_bytes), entries(status.entries))));
        }
        if let Some(rate) = status.rate_limit.filter(|_| running) {
            rows.push(("rate limit", format!("{}/s", bytes(rate))));
        }
        if status.reused_bytes > 0 {
            rows.push(("reused", format!("{} that the joiner already had", bytes(status.reused_bytes))));
        }
        let frozen = status.frozen(self.now);
        if !frozen.is_zero() {
            rows.push(("writes waited", seconds(frozen)));
        }
        if let Some(remedy) = status.ended.as_ref().and_then(|ended| ended.error.as_ref()?.remedy.as_deref()) {
            rows.push(("remedy", Printable(remedy.as_bytes()).to_string()));
        }
        let row = |(name, value): (&str, String)| format!("{name:>14}  {value}\n");
        rows.into_iter().map(row).collect()
    }
}

const NOTHING: &str = "there is no transfer, and no record of an earlier one";

/// Progress of the current pass.
fn figures(status: &Status) -> Option<String> {
    let counted = matches!(status.phase, Phase::Copying | Phase::Frozen) && status.total_bytes > 0;
    counted.then(|| {
        let percent = (status.bytes.saturating_mul(100) / status.total_bytes).min(100);
        let (done, total) = (bytes(status.bytes), bytes(status.total_bytes));
        let (rate, wire) = (bytes(status.bytes_per_second as u64), bytes(status.wire_bytes_per_second as u64));
        let left = status.eta_seconds.and_then(|eta| Duration::try_from_secs_f64(eta).ok());
        let left = left.map_or_else(String::new, |left| format!(", {} left", seconds(left)));
        format!("round {}: {percent} %, {done} of {total}, {rate}/s ({wire}/s on the wire){left}", status.round)
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Kind;

    fn at(seconds: u64) -> SystemTime {
        SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds)
    }

    fn copying() -> Status {
        let mut status = Status::begin(Side::Donor, at(0));
        status.meet("192.0.2.7:4444");
        status.enter(Phase::Copying, at(2));
        let (done, total, rate, wire_rate) = (1_200_000_000, 2_600_000_000, 310e6, 120e6);
        let elapsed = Duration::from_secs(4);
        let (wire, entries, round) = (600_000_000, 90, 1);
        let now = crate::progress::Snapshot { total, done, wire, entries, round, elapsed, rate, wire_rate };
        status.count(&now, at(6));
        status
    }

    fn view(seen: Seen, second: u64) -> View {
        View::of(seen, Duration::from_secs(60), at(second))
    }

    #[test]
    fn a_probe_is_told_by_the_code_and_a_person_by_the_line() {
        let status = || Box::new(copying());
        let mut failed = copying();
        failed.end(Some(&Error::new(Kind::NoSpace, "cannot write x\x1b").on(Side::Joiner).remedy("free space")), at(9));
        let mut done = copying();
        done.end(None, at(9));
        let running =
            "donor: copying for 5.0 s, round 1: 46 %, 1.2 GB of 2.6 GB, 310 MB/s (120 MB/s on the wire), 4.5 s left";
        for (seen, second, code, end, line) in [
            (Seen::Nothing, 7, 3, 3, NOTHING),
            (Seen::Live(status()), 7, 0, 3, running),
            (
                Seen::Live(status()),
                70,
                4,
                3,
                "donor: stuck: copying, and nothing has moved for 1 min 4 s, round 1: 46 %",
            ),
            (Seen::Left(status()), 7, 3, 3, "donor: stale: it was copying, and its process ("),
            (Seen::Left(Box::new(done)), 12, 3, 0, "donor: done 3.0 s ago"),
            (
                Seen::Left(Box::new(failed)),
                12,
                3,
                28,
                "donor: failed 3.0 s ago, on the joiner's side: cannot write x\\u{1b}",
            ),
        ] {
            let view = view(seen, second);
            assert_eq!((view.exit_code(), view.end_code()), (code, end), "{line}");
            assert!(view.line().starts_with(line), "{}", view.line());
        }
    }

    #[test]
    fn a_table_has_what_one_looks_for() {
        let table = view(Seen::Live(Box::new(copying())), 7).table();
        for row in [
            "          role  donor\n",
            "         state  copying for 5.0 s\n",
            "          peer  192.0.2.7:4444\n",
            " last progress  1.0 s ago\n",
            "        so far  600 MB on the wire, 90 entries\n",
        ] {
            assert!(table.contains(row), "{table}");
        }
        assert_eq!(view(Seen::Nothing, 0).json()["state"], "none");
        assert_eq!(view(Seen::Live(Box::new(copying())), 7).json()["idle_seconds"], 1.0);
    }
}
