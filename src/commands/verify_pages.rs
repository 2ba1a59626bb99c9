//! `highline verify --pages`: checks every page of InnoDB's tablespaces by its checksum.

use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::time::Duration;

use super::print;
use crate::archive::Located;
use crate::direct::Pages;
use crate::error::{Error, Kind, Printable, Result};
use crate::manifest::chunks;
use crate::pages::{Damage, Findings, Space, UNKNOWN, is_tablespace};
use crate::progress::counted;
use crate::threads::{lock, on_all_cores};
use crate::tree::{Found, Roots, Rules, Source, Tolerance, locate, scan, system_tablespace};

/// If a server is running, a page may be caught half written: how often it is read, and the pause in between.
const TRIES: u32 = 5;
const PAUSE: Duration = Duration::from_millis(50);

/// One file and what was found in it.
#[derive(Debug)]
struct Looked {
    place: PathBuf,
    findings: Findings,
}

pub(super) fn run(roots: &Roots, rules: &Rules) -> Result<()> {
    // Scanning finds the directories outside.
    let mut roots = roots.clone();
    let found = scan(&mut roots, rules, Tolerance::Vanished)?;
    let files: Vec<Found> = found.into_iter().filter(|found| is_tablespace(&found.entry.path)).collect();
    let looked = all(&files, &roots)?;
    let (mut good, mut unknown, mut damaged) = (0, 0, 0);
    for Looked { place, findings } in &looked {
        good += findings.good;
        damaged += findings.damaged;
        if let Some(Damage { page, offset, fault }) = findings.first {
            let more = findings.damaged.saturating_sub(1);
            let words = counted(more, "more of its pages is damaged", "more of its pages are damaged");
            let more = if more == 0 { String::new() } else { format!("; {words}") };
            let place = Printable::path(place);
            print(&mut std::io::stdout(), &format!("{place}: page {page}, at byte {offset}: {fault}{more}\n"))?;
        }
        if findings.free > 0 {
            let (place, free) = (Printable::path(place), findings.free);
            let words = counted(
                free,
                "page is damaged but free, so it holds nothing",
                "pages are damaged but free, so they hold nothing",
            );
            print(&mut std::io::stdout(), &format!("{place}: {words}\n"))?;
        }
        if findings.unknown > 0 {
            unknown += findings.unknown;
            let pages = counted(findings.unknown, "page", "pages");
            let line = format!("{}: {pages} cannot be checked, because {UNKNOWN}\n", Printable::path(place));
            print(&mut std::io::stdout(), &line)?;
        }
    }
    let count = counted(looked.len() as u64, "file", "files");
    let missed = files.len() - looked.len();
    if missed > 0 {
        let words = counted(missed as u64, "file has gone or changed", "files have gone or changed");
        print(&mut std::io::stdout(), &format!("{words} meanwhile and could not be checked\n"))?;
    }
    if damaged == 0 {
        let good = counted(good, "page is as InnoDB wrote it", "pages are as InnoDB wrote them");
        let line = format!("checked: {count}, {good}, {unknown} cannot be checked\n");
        return print(&mut std::io::stdout(), &line);
    }
    let damaged = counted(damaged, "page is damaged", "pages are damaged");
    let were = if looked.len() == 1 { "was" } else { "were" };
    Err(Error::new(Kind::Integrity, format!("{damaged}; {count} {were} checked")).remedy(
        "after a crash, first start and stop the server, which repairs half-written pages; otherwise restore those tables",
    ))
}

/// What was found in each file, in their order.
fn all(files: &[Found], roots: &Roots) -> Result<Vec<Looked>> {
    let system = system_tablespace(roots).unwrap_or_default();
    let next = Mutex::new(files.iter().enumerate());
    let work = || {
        let (mut data, mut span, mut looked) = (Pages::default(), Pages::default(), Vec::new());
        loop {
            let Some((number, found)) = lock(&next).next() else { return Ok(looked) };
            let Some(place) = locate(roots, &found.entry.path) else {
                return Err(Error::new(Kind::Usage, format!("{}: there is no such directory here", found.entry.path)));
            };
            match file(found, &place, &system, &mut data, &mut span) {
                Ok(findings) => looked.push((number, Looked { place, findings })),
                // A running server has dropped it, or made it smaller.
                Err(error) if error.kind() == Kind::Changed => {}
                Err(error) => return Err(error),
            }
        }
    };
    let mut looked: Vec<_> = on_all_cores(files.len(), work)?.into_iter().flatten().collect();
    looked.sort_by_key(|(number, _)| *number);
    Ok(looked.into_iter().map(|(_, looked)| looked).collect())
}

fn file(found: &Found, place: &Path, system: &Path, data: &mut Pages, span: &mut Pages) -> Result<Findings> {
    let size = found.size();
    let mut source = Source::open(place, None, found.allocated < size)?;
    if chunks(size) > 1 {
        source.announce();
    }
    let space = || {
        let first = |most: usize| {
            let mut first = vec![0; most.min(usize::try_from(size).unwrap_or(most))];
            source.read(place, 0, &mut first).map(|()| first)
        };
        Space::of(&found.entry.path, (source.as_file(), place), system, first)
    };
    let mut total = Findings::default();
    let mut known = space()?;
    for chunk in 0..chunks(size) {
        let mut findings = Findings::default();
        for tries in 0..TRIES {
            if tries > 0 {
                std::thread::sleep(PAUSE);
                known = space()?;
            }
            let located = Located::load(&source, place, (chunk, size), data, span)?;
            let more = |at, into: &mut [u8]| tries + 1 == TRIES && source.read(place, at, into).is_ok();
            findings = known.examine((located.offset, located.len.into()), located.runs(), data, more);
            if findings.damaged == 0 {
                break;
            }
        }
        total.good += findings.good;
        total.unknown += findings.unknown;
        total.free += findings.free;
        total.damaged += findings.damaged;
        total.first = total.first.or(findings.first);
        // The reading of all other pages depends on the first.
        if matches!(known, Space::Broken(_)) {
            break;
        }
    }
    Ok(total)
}
