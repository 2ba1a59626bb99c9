//! What this host's filesystem and memory mean for our transfers: how the donor's freeze would go, whether the page
//! cache is spared, and whether there is enough memory in addition to the server's.
//!
//! Tests the filesystem with unnamed files.

use std::path::Path;
use std::time::SystemTime;

use super::actor::server_on;
use super::{Channel, Node, Report};
use crate::backup::DataSource;
use crate::donor::{Abilities, FreezeMode};
use crate::error::{Printable, Side};
use crate::progress::status::{Seen, Status, look, span, unix};
use crate::progress::{bytes, seconds};
use crate::sst::layout::Layout;
use crate::sst::options::Settings;
use crate::tree::Filesystems;

const HERE: Channel = Channel::Host;

/// Bytes either end of a transfer may take: docs/performance.md.
const MEMORY: u64 = 256 << 20;

/// `used` are the bytes of the data directory.
pub(super) fn check(node: &Node, used: u64, report: &mut Report) {
    let Ok(settings) = Settings::resolve(&node.options.files, Side::Donor, &node.datadir()) else { return };
    let Ok(layout) = Layout::of_files(&node.datadir(), &node.options.files) else { return };
    if settings.backup.source == DataSource::Mariabackup {
        report.note(
            HERE,
            "as a donor this node sends a backup (source=mariabackup): its server is not frozen, and writes wait only for \
             mariadb-backup's own locks",
        );
    } else if let Ok(filesystems) = Filesystems::of(&layout.roots) {
        for (directory, tells) in filesystems.directories() {
            let shown = Printable::path(directory);
            match Abilities::of(directory) {
                Ok(abilities) => tell(&shown, &settings, used, abilities, tells, report),
                Err(why) => report.note(
                    HERE,
                    format!("cannot tell what the filesystem of {shown} supports ({why}): run this as root"),
                ),
            }
        }
    }
    if let Ok(Seen::Left(last)) = look(&node.datadir())
        && let Some(text) = last_freeze(&last, SystemTime::now())
    {
        report.note(HERE, text);
    }
    let server = server_on(&node.datadir(), node.options.server("pid-file").map(Path::new));
    let process = server.map_or("self".to_owned(), |pid| pid.to_string());
    match Limit::of(&Path::new("/proc").join(process), Path::new("/sys/fs/cgroup")) {
        Some(Limit { most, held }) if most.saturating_sub(held) < MEMORY => report.warning(
            HERE,
            format!(
                "the control group allows {} of memory, and {} are in use: a transfer may need {} more, or it may be killed",
                bytes(most),
                bytes(held),
                bytes(MEMORY)
            ),
            "raise MemoryMax in the server's unit, or the container's memory limit; or make innodb_buffer_pool_size smaller",
        ),
        Some(Limit { most, .. }) => {
            report.ok(HERE, format!("the control group allows {} of memory, enough for a transfer too", bytes(most)));
        }
        None => {}
    }
}

fn tell(
    shown: &Printable<'_>,
    settings: &Settings,
    used: u64,
    Abilities { clones, direct }: Abilities,
    times: bool,
    report: &mut Report,
) {
    if settings.freeze == FreezeMode::Clone && !clones {
        report.warning(
            HERE,
            format!(
                "freeze=clone, but the filesystem of {shown} cannot clone: as a donor this node reads what changed instead"
            ),
            "use freeze=auto, or XFS or btrfs",
        );
    }
    let how = match settings.freeze {
        freeze if freeze.is_whole(used, settings.rate_limit.0) => "everything is copied under the lock",
        FreezeMode::Clone if clones => "what changed is cloned under the lock",
        FreezeMode::Auto if clones => "what changed is read under the lock, or cloned if that would take over a second",
        _ => "what changed is read under the lock",
    };
    let whole = settings.freeze.is_whole(used, settings.rate_limit.0);
    let times =
        if times || whole { "" } else { "; every file is read then, because file times are not reliable there" };
    let cache = if direct { "past the page cache" } else { "through the page cache (no O_DIRECT)" };
    report.note(HERE, format!("in {shown} this node's freeze as a donor: {how}{times}; large files go {cache}"));
}

/// The next freeze is best judged by how long the last one was.
fn last_freeze(last: &Status, now: SystemTime) -> Option<String> {
    let ended = last.ended.as_ref().filter(|ended| ended.error.is_none() && last.role == Side::Donor)?;
    // By hand a stopped server is sent, and a backup freezes none.
    if last.frozen(now).is_zero() {
        return None;
    }
    Some(format!(
        "as a donor of {} this node was frozen for {} {} ago: expect about as much while clients write as much",
        bytes(last.tree_bytes),
        seconds(last.frozen(now)),
        seconds(span(ended.at, unix(now)))
    ))
}

/// The memory of a control group, in bytes (cgroups(7)).
#[derive(Debug, PartialEq, Eq)]
struct Limit {
    most: u64,
    /// Used by processes; the page cache gives way.
    held: u64,
}

impl Limit {
    /// The tightest of the groups that the process of `proc` is in; `None` if there is no limit, or it is unknown.
    fn of(proc: &Path, mount: &Path) -> Option<Limit> {
        let groups = std::fs::read_to_string(proc.join("cgroup")).ok()?;
        let group = |start: &str| groups.lines().find_map(|line| line.strip_prefix(start));
        let first = groups.lines().find_map(|line| line.split_once(":memory:"));
        let (mount, path, most, held) = match (first, group("0::")) {
            (Some((_, path)), _) => (mount.join("memory"), path, "memory.limit_in_bytes", "total_rss "),
            (None, path) => (mount.to_owned(), path?, "memory.max", "anon "),
        };
        let limits = Path::new(path.trim_start_matches('/')).ancestors().filter_map(|above| {
            let directory = mount.join(above);
            let read = |name: &str| std::fs::read_to_string(directory.join(name)).ok();
            // Version 1 writes a huge number for no limit.
            let most = read(most)?.trim().parse().ok().filter(|most| *most < 1 << 60)?;
            let stat = read("memory.stat")?;
            let held = stat.lines().find_map(|line| line.strip_prefix(held))?.trim().parse().ok()?;
            Some(Limit { most, held })
        });
        limits.min_by_key(|limit: &Limit| limit.most.saturating_sub(limit.held))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::{Error, Kind};
    use crate::progress::Phase;
    use std::time::Duration;

    #[test]
    fn a_donor_that_was_frozen_says_for_how_long() {
        let at = |seconds: u64| SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000 + seconds);
        let donor = |error: Option<&Error>| {
            let mut status = Status::begin(Side::Donor, at(0));
            status.enter(Phase::Frozen, at(10));
            status.tree_bytes = 2_000_000_000;
            status.end(error, at(12));
            status
        };
        assert_eq!(
            last_freeze(&donor(None), at(132)).unwrap(),
            "as a donor of 2.0 GB this node was frozen for 2.0 s 2 min 0 s ago: expect about as much while clients write as much"
        );
        let mut backup = Status::begin(Side::Donor, at(0));
        backup.enter(Phase::Copying, at(1));
        backup.end(None, at(9));
        assert_eq!(last_freeze(&backup, at(132)), None);
        assert_eq!(last_freeze(&donor(Some(&Error::new(Kind::NoSpace, "x"))), at(132)), None);
        assert_eq!(last_freeze(&Status::begin(Side::Joiner, at(0)), at(132)), None);
    }

    #[test]
    fn the_tightest_limit_counts() {
        let dir = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = dir.path().join(name);
            std::fs::create_dir_all(path.parent().unwrap()).unwrap();
            std::fs::write(path, text).unwrap();
        };
        let limit = || Limit::of(dir.path(), &dir.path().join("sys"));
        assert_eq!(limit(), None);
        put("cgroup", "0::/system.slice/mariadb.service\n");
        put("sys/system.slice/mariadb.service/memory.max", "max\n");
        put("sys/system.slice/mariadb.service/memory.stat", "anon 5\nfile 9\n");
        assert_eq!(limit(), None, "nobody limits it");
        put("sys/system.slice/memory.max", "1000\n");
        put("sys/system.slice/memory.stat", "anon 400\nfile 900\n");
        assert_eq!(limit(), Some(Limit { most: 1000, held: 400 }));
        put("sys/system.slice/mariadb.service/memory.max", "500\n");
        assert_eq!(limit(), Some(Limit { most: 500, held: 5 }));
        put("cgroup", "9:cpu:/\n4:memory:/docker/x\n0::/\n");
        put("sys/memory/docker/x/memory.limit_in_bytes", "9223372036854771712\n");
        put("sys/memory/docker/x/memory.stat", "total_rss 7\n");
        assert_eq!(limit(), None);
        put("sys/memory/docker/x/memory.limit_in_bytes", "64\n");
        assert_eq!(limit(), Some(Limit { most: 64, held: 7 }));
    }
}
