//! A tree that must hold still: it is looked at again until it does. For what may change all the same, and who writes
//! it, see `tree::Stillness`.

use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use super::plan::{Basis, Plan};
use super::{Keeper, Server};
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{
    Found, RelPath, Roots, Stamp, Tolerance, changed, likely_writer, locate, may_vanish, scan, vanished,
};

/// How many rounds may follow the first under the lock.
pub(super) const AGAIN: u16 = 8;
/// How long a writer gets before the tree is looked at again; twice as long each time.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(1);
/// Two changes within this time may leave the same timestamp on a file: the kernel's clock may tick only 100 times a
/// second (`CONFIG_HZ`), and before Linux 6.13 file times are those of the last tick.
const TICK: Duration = Duration::from_millis(20);

/// The pause before look number `look`, counted from 0.
pub(super) fn pause(look: u16) -> Duration {
    match look {
        0 | 1 => Duration::ZERO,
        look => (PAUSE * 2u32.saturating_pow(u32::from(look) - 2)).min(LONGEST_PAUSE),
    }
}

/// The roots' own directories, which are in no scan.
pub(super) type Tops = Vec<(PathBuf, Stamp)>;

pub(super) fn tops(roots: &Roots) -> Tops {
    let stamp = |path: &Path| Some((path.to_path_buf(), Stamp::of(&std::fs::metadata(path).ok()?)));
    roots.directories().into_iter().filter_map(stamp).collect()
}

/// Scans a tree that holds still, such that anything that changes later gets a stamp other than the one seen.
pub(super) fn look(roots: &mut Roots, server: &dyn Server) -> Result<Vec<Found>> {
    // A file may vanish in the middle of a scan; a missing tablespace stays missing.
    const TRIES: usize = 5;
    let rules = server.rules()?;
    let mut tries = 0;
    let found = loop {
        tries += 1;
        match scan(roots, &rules, Tolerance::None) {
            Err(error) if error.kind() == Kind::NotFound && tries < TRIES => {}
            scanned => break scanned?,
        }
    };
    let newest = found.iter().filter_map(|found| found.stamp.changed()).max().unwrap_or_default();
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    std::thread::sleep(newest.saturating_add(TICK).saturating_sub(now).min(TICK));
    Ok(found)
}

/// Whether, since the last look, nothing has changed but what may, and the joiner has everything.
pub(super) fn holds(basis: &Basis, before: &Tops, roots: &Roots) -> bool {
    let still = |(found, had): &(Found, Option<Box<super::plan::Had>>)| {
        let stat = locate(roots, &found.entry.path).and_then(|place| std::fs::symlink_metadata(place).ok());
        let known = had.as_ref().is_none_or(|had| had.digests.is_complete() || had.clone.is_some());
        known && stat.is_some_and(|stat| found.stillness().holds(found.stamp, Stamp::of(&stat)))
    };
    *before == tops(roots) && basis.iter().all(still)
}

/// Judges what changed while the tree was read: fails if reading it again would not help.
pub(super) fn judge(plan: &Plan, roots: &Roots, keeper: Keeper, looks: u16) -> Result<()> {
    let place = |path: &RelPath| locate(roots, path).unwrap_or_else(|| path.beneath().to_owned());
    let now = |path: &&RelPath| plan.entries.binary_search_by(|planned| planned.found.entry.path.cmp(path)).is_ok();
    if let Some(gone) = plan.removed.iter().filter(|path| !now(path)).find(|path| !may_vanish(path)) {
        return Err(remedied(vanished(&place(gone)), gone, keeper));
    }
    let Some(first) = first(plan) else { return Ok(()) };
    if keeper == Keeper::Nobody {
        return Err(changed(&place(first)));
    }
    if looks > AGAIN {
        let what = format!(
            "{} does not hold still: it changed each of the {looks} times it was read",
            Printable::path(&place(first))
        );
        return Err(remedied(Error::new(Kind::Changed, what), first, keeper));
    }
    Ok(())
}

/// Why another round is needed, for the log.
pub(super) fn why(plan: &Plan, roots: &Roots) -> String {
    let count = plan.work().count() + plan.removed.len();
    let first = first(plan).and_then(|path| locate(roots, path)).unwrap_or_default();
    format!(
        "{count} of {} entries changed while the tree was read and are looked at again; the first is {}",
        plan.entries.len(),
        Printable::path(&first)
    )
}

fn first(plan: &Plan) -> Option<&RelPath> {
    plan.work().map(|planned| &planned.found.entry.path).chain(&plan.removed).next()
}

/// Adds a remedy that names who may have written to it.
fn remedied(error: Error, path: &RelPath, keeper: Keeper) -> Error {
    match keeper {
        Keeper::Galera => {
            let keep = "; use keep in [highline] to leave out what is not the server's data";
            error.remedy(format!("{}{keep}", likely_writer(path)))
        }
        Keeper::Caller => error.remedy("stop the server, or freeze it until this command has ended"),
        Keeper::Nobody => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_grow_and_end() {
        let pauses: Vec<u128> = (0..10).map(|look| pause(look).as_millis()).collect();
        assert_eq!(pauses, [0, 0, 50, 100, 200, 400, 800, 1000, 1000, 1000]);
    }
}
