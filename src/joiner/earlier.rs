//! What an attempt leaves for the next, and what this one found: when it stays, when it goes, and how the log says so.

use std::path::Path;

use crate::error::{Error, Kind, Printable, Result, Side};
use crate::install::{DirLock, KEPT, Reuse, Tally, discard, drop_kept, holds_database, kept};
use crate::progress::Reporter;
use crate::tree::{Roots, Scope};

/// Tells the log what was removed, if anything was.
pub(super) fn tell(reporter: &dyn Reporter, gone: Tally, which: &str) {
    if gone.files > 0 {
        reporter.note(&format!("removed {gone}, {which}"));
    }
}

/// Ends an attempt that `cause` made fail. Returns what the log must tell of what stays for the next.
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

/// What of a failure decides whether anything is kept.
pub(super) struct Cause {
    full: bool,
}

impl From<&Error> for Cause {
    fn from(error: &Error) -> Cause {
        Cause { full: error.kind() == Kind::NoSpace && error.side() != Side::Donor }
    }
}

/// Removes what is staged and what is kept: nobody needs it any more.
pub(super) fn forget(lock: &DirLock, roots: &Roots) -> Result<Tally> {
    discard(lock, roots, Reuse::Off)?;
    drop_kept(roots)
}

/// Why the old tree's server needs the room more than a later attempt does.
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
