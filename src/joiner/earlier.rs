//! What an attempt leaves for the next: when it is kept, when it is removed, and how the log says so.

use std::path::Path;

use crate::error::{Error, Kind, Printable, Result, Side};
use crate::install::{DirLock, KEPT, Reuse, Tally, discard, drop_kept, holds_database, kept};
use crate::progress::Reporter;
use crate::tree::{Roots, Scope};

/// Logs what was removed, if anything was.
pub(super) fn tell(reporter: &dyn Reporter, gone: Tally, which: &str) {
    if gone.files > 0 {
        reporter.note(&format!("removed {gone}, {which}"));
    }
}

/// Ends an attempt that failed because of `cause`. Returns what the log must say about what is kept for the next one.
pub(super) fn leave(lock: &DirLock, roots: &Roots, reuse: Reuse, cause: &Cause) -> Result<Option<String>> {
    discard(lock, roots, if cause.full { Reuse::Off } else { reuse })?;
    let short = match cause.full {
        true => Some("a filesystem here is, or would be, full".to_owned()),
        false => short(roots),
    };
    if let Some(why) = short {
        let dropped = drop_kept(roots)?;
        return Ok((dropped.files > 0).then(|| format!("nothing is kept for the next attempt, because {why}")));
    }
    let left = Tally::of(&kept(roots)?);
    Ok((left.files > 0).then(|| {
        format!(
            "kept for the next attempt: {left}, called {KEPT}* in the server's directories; a full transfer, an IST or a \
             week removes them, and so does `highline discard --datadir {}`",
            Printable::path(roots.datadir())
        )
    }))
}

/// What decides, after a failure, whether anything is kept.
pub(super) struct Cause {
    full: bool,
}

impl From<&Error> for Cause {
    fn from(error: &Error) -> Cause {
        Cause { full: error.kind() == Kind::NoSpace && error.side() != Side::Donor }
    }
}

/// Removes all staged and kept files; nobody needs them any more.
pub(super) fn forget(lock: &DirLock, roots: &Roots) -> Result<Tally> {
    discard(lock, roots, Reuse::Off)?;
    drop_kept(roots)
}

/// Why the old tree's server needs the room more than a later attempt would.
fn short(roots: &Roots) -> Option<String> {
    if !holds_database(roots.datadir()) {
        return None;
    }
    let ours = roots.iter().filter(|root| root.scope != Scope::Listed);
    let place = ours.map(|root| root.path.as_path()).find(|place| is_short(place))?;
    Some(format!("less than a twentieth of the filesystem of {} is free", Printable::path(place)))
}

fn is_short(place: &Path) -> bool {
    rustix::fs::statvfs(place).is_ok_and(|stat| stat.f_bavail < stat.f_blocks / 20)
}
