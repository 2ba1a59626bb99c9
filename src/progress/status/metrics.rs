//! The metrics file: a status in Prometheus' text format, for node_exporter's textfile collector.
//!
//! It is replaced as a whole, by a rename in its directory. What it says about the other role is
//! kept.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::io::{self, Read, Write};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::{Ended, Phase, Status};
use crate::error::Side;

/// How old a value may be.
const EVERY: Duration = Duration::from_secs(5);
/// More than the file ever has, in bytes.
const LONGEST: u64 = 64 << 10;

/// A gauge: name, help text, and its value if there is one.
type Gauge = (&'static str, &'static str, fn(&Status) -> Option<f64>);

const GAUGES: &[Gauge] = &[
    ("highline_transfer_running", "Whether a transfer is under way.", |now| Some(f64::from(now.ended.is_none()))),
    ("highline_transfer_start_timestamp_seconds", "When it began.", |now| Some(now.started)),
    ("highline_transfer_progress_timestamp_seconds", "When it last made progress.", |now| Some(now.progress_at)),
    ("highline_transfer_pass_bytes", "Bytes of files done in the current pass.", |now| Some(now.bytes as f64)),
    ("highline_transfer_pass_expected_bytes", "Bytes of files to do in the current pass.", |now| {
        Some(now.total_bytes as f64)
    }),
    ("highline_transfer_wire_bytes", "Bytes on the wire so far.", |now| Some(now.wire_bytes as f64)),
    ("highline_last_transfer_success", "Whether the last transfer succeeded.", |now| {
        Some(f64::from(now.ended.as_ref()?.error.is_none()))
    }),
    ("highline_last_transfer_exit_code", "Its exit code.", |now| {
        let error = now.ended.as_ref()?.error.as_ref();
        Some(error.map_or(0.0, |error| f64::from(error.kind.exit_code())))
    }),
    ("highline_last_transfer_end_timestamp_seconds", "When it ended.", |now| Some(now.ended.as_ref()?.at)),
    ("highline_last_transfer_duration_seconds", "How long it took, including the wait for the peer.", |now| {
        let Ended { at, .. } = now.ended.as_ref()?;
        Some((at - now.started).max(0.0))
    }),
    ("highline_last_transfer_tree_bytes", "Bytes of all files in the transfer.", |now| {
        now.ended.as_ref().map(|_| now.tree_bytes as f64)
    }),
    ("highline_last_transfer_wire_bytes", "Bytes on the wire.", |now| {
        now.ended.as_ref().map(|_| now.wire_bytes as f64)
    }),
    ("highline_last_transfer_reused_bytes", "Bytes not sent because the joiner already had them.", |now| {
        now.ended.as_ref().map(|_| now.reused_bytes as f64)
    }),
    ("highline_last_transfer_frozen_seconds", "How long clients' writes waited on the donor.", |now| {
        now.ended.as_ref().map(|_| now.frozen_seconds)
    }),
];

/// The file and its values.
#[derive(Debug)]
pub(super) struct Metrics {
    path: PathBuf,
    /// By the gauge's index in the list and the role.
    values: BTreeMap<(usize, String), f64>,
    written: Option<(Instant, Phase)>,
}

impl Metrics {
    /// Reads what an earlier transfer left there.
    pub(super) fn new(path: &Path) -> Metrics {
        let mut text = String::new();
        if path.is_file() {
            let _ = std::fs::File::open(path).and_then(|file| file.take(LONGEST).read_to_string(&mut text));
        }
        Metrics { path: path.to_owned(), values: text.lines().filter_map(sample).collect(), written: None }
    }

    /// Writes the file if it is due.
    pub(super) fn tell(&mut self, status: &Status, now: Instant) -> io::Result<()> {
        let fresh = |(at, phase): (Instant, Phase)| phase == status.phase && now.saturating_duration_since(at) < EVERY;
        if self.written.is_some_and(fresh) {
            return Ok(());
        }
        for (number, (_, _, value)) in GAUGES.iter().enumerate() {
            if let Some(value) = value(status) {
                self.values.insert((number, status.role.to_string()), value);
            }
        }
        self.replace()?;
        self.written = Some((now, status.phase));
        Ok(())
    }

    fn replace(&self) -> io::Result<()> {
        let directory = self.path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
        // The collector reads only files that end in `.prom`.
        let mut file = tempfile::Builder::new().prefix(".highline-").suffix(".new").tempfile_in(directory)?;
        file.write_all(self.text().as_bytes())?;
        // Whatever the umask: the collector runs as another user.
        file.as_file().set_permissions(std::fs::Permissions::from_mode(0o644))?;
        file.persist(&self.path).map(drop).map_err(|failed| failed.error)
    }

    fn text(&self) -> String {
        let mut text = String::new();
        for (number, (name, help, _)) in GAUGES.iter().enumerate() {
            let mut samples = self.values.range((number, String::new())..(number + 1, String::new())).peekable();
            if samples.peek().is_some() {
                let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} gauge");
            }
            for ((_, role), value) in samples {
                let _ = writeln!(text, "{name}{{role=\"{role}\"}} {value}");
            }
        }
        text
    }
}

/// A line as this program writes it.
fn sample(line: &str) -> Option<((usize, String), f64)> {
    let (name, rest) = line.split_once("{role=\"")?;
    let (role, value) = rest.split_once("\"} ")?;
    let number = GAUGES.iter().position(|(known, _, _)| *known == name)?;
    let role = [Side::Donor, Side::Joiner].into_iter().map(|side| side.to_string()).find(|known| known == role)?;
    let value: f64 = value.parse().ok()?;
    value.is_finite().then_some(((number, role), value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use std::time::{SystemTime, UNIX_EPOCH};

    fn at(seconds: u64) -> SystemTime {
        UNIX_EPOCH + Duration::from_secs(seconds)
    }

    #[test]
    fn both_roles_and_the_last_transfer_are_there() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("highline.prom");
        let text = || std::fs::read_to_string(&path).unwrap();
        std::fs::write(&path, "foreign 1\nhighline_transfer_running{role=\"x\"} 1\n# TYPE").unwrap();
        let mut donor = Status::begin(Side::Donor, at(1000));
        donor.end(None, at(1010));
        Metrics::new(&path).tell(&donor, Instant::now()).unwrap();
        let mut joiner = Status::begin(Side::Joiner, at(2000));
        let mut metrics = Metrics::new(&path);
        metrics.tell(&joiner, Instant::now()).unwrap();
        for line in [
            "highline_transfer_running{role=\"donor\"} 0\nhighline_transfer_running{role=\"joiner\"} 1\n",
            "# TYPE highline_last_transfer_duration_seconds gauge\n\
             highline_last_transfer_duration_seconds{role=\"donor\"} 10\n#",
            "highline_last_transfer_success{role=\"donor\"} 1\n",
        ] {
            assert!(text().contains(line), "{}", text());
        }
        assert!(!text().contains("foreign") && !text().contains("role=\"x\""));
        joiner.end(Some(&Error::new(Kind::NoSpace, "x")), at(2005));
        metrics.tell(&joiner, Instant::now()).unwrap();
        assert!(text().contains("highline_last_transfer_exit_code{role=\"joiner\"} 28\n"), "{}", text());
        assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o644);
        assert_eq!(std::fs::read_dir(dir.path()).unwrap().count(), 1, "nothing else is left there");
    }

    #[test]
    fn a_phase_is_written_at_once_and_figures_now_and_then() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("m.prom");
        let (mut metrics, start) = (Metrics::new(&path), Instant::now());
        let mut status = Status::begin(Side::Donor, at(1));
        let mut written = |status: &Status, seconds| {
            let _ = std::fs::remove_file(&path);
            metrics.tell(status, start + Duration::from_secs(seconds)).unwrap();
            path.exists()
        };
        assert!(written(&status, 0) && !written(&status, 4) && written(&status, 5));
        status.enter(Phase::Copying, at(6));
        assert!(written(&status, 6));
    }

    #[test]
    fn names_follow_the_rules() {
        for (name, help, _) in GAUGES {
            let plain = |c: char| c.is_ascii_lowercase() || c == '_';
            assert!(name.starts_with("highline_") && name.chars().all(plain) && !name.ends_with("_total"), "{name}");
            assert!(help.ends_with('.') && !help.contains('\n') && !help.contains('\\'), "{help}");
        }
    }

    proptest::proptest! {
        #[test]
        fn no_line_ends_the_process(line in "highline_transfer_running[{]role=\"(donor|x)\"[}] [ -~]{0,12}") {
            let _ = sample(&line);
        }
    }
}
