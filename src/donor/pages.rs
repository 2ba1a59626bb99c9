//! What was found out about InnoDB's pages, and the refusal of damaged ones (`verify-pages`).
//!
//! While the server writes, a page may be caught half written. So one that fails is read once more, and if it fails
//! again it is only a suspect: its file is read again in the next round. A suspect in the last round is damaged. If no
//! server writes there is no such round.

use std::fmt;
use std::path::Path;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::error::{Error, Kind, Printable};
use crate::pages::{Damage, Findings, UNKNOWN};
use crate::progress::{counted, listed};
use crate::threads::lock;

/// How a transfer's pages were found; what was read twice counts twice.
#[derive(Debug, Default)]
pub(super) struct PageCheck {
    good: AtomicU64,
    unknown: AtomicU64,
    free: AtomicU64,
    /// The file with the first page that could not be checked.
    where_unknown: Mutex<Option<String>>,
}

impl PageCheck {
    pub(super) fn count(&self, findings: Findings, place: &Path) {
        self.good.fetch_add(findings.good, Ordering::Relaxed);
        self.free.fetch_add(findings.free, Ordering::Relaxed);
        if self.unknown.fetch_add(findings.unknown, Ordering::Relaxed) == 0 && findings.unknown > 0 {
            *lock(&self.where_unknown) = Some(Printable::path(place).to_string());
        }
    }
}

impl fmt::Display for PageCheck {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let good = counted(
            self.good.load(Ordering::Relaxed),
            "was read and is as InnoDB wrote it",
            "were read and are as InnoDB wrote them",
        );
        write!(f, "InnoDB's pages: {good}")?;
        let free = self.free.load(Ordering::Relaxed);
        if free > 0 {
            let words =
                counted(free, "is damaged but free, so it holds nothing", "are damaged but free, so they hold nothing");
            write!(f, "; {words}")?;
        }
        match lock(&self.where_unknown).as_deref() {
            None => Ok(()),
            Some(first) => write!(
                f,
                "; {} could NOT be checked, because {UNKNOWN}; the first is in {first}",
                self.unknown.load(Ordering::Relaxed)
            ),
        }
    }
}

/// Damaged pages of one chunk: the first, and their number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Suspect {
    pub(super) first: Damage,
    pub(super) count: u64,
}

/// The error for damaged pages, given by file and chunk.
pub(super) fn refuse(damaged: &[(String, Suspect)]) -> Error {
    let Some((place, Suspect { first, .. })) = damaged.first() else {
        return Error::new(Kind::Integrity, "a page is damaged");
    };
    let Damage { page, offset, fault } = first;
    let mut what = format!("page {page} of {place}, at byte {offset}, is damaged: {fault}");
    let others = damaged.iter().map(|(_, suspect)| suspect.count).sum::<u64>().saturating_sub(1);
    if others > 0 {
        let mut files: Vec<String> = damaged.iter().map(|(place, _)| place.clone()).collect();
        files.dedup();
        what = format!("{what}; {others} more pages are damaged, in {}", listed(&files));
    }
    Error::new(Kind::Integrity, what).remedy(
        "use another donor, and restore here what CHECK TABLE finds broken; after a crash, first start and stop this server, \
         which repairs half-written pages. Without verify-pages everything is sent as it is",
    )
}
