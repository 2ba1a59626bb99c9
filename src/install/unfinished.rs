//! Whether a switch stopped half-way in a tree that is about to be sent: then top-level names are links, with one tree
//! or the other behind them.

use std::fs;
use std::path::{Path, PathBuf};

use super::dir::Dir;
use super::journal::{self, Phase};
use super::keep::{HOME, LIVE};
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::Roots;

/// Refuses roots in which an install was interrupted. Leftovers of a finished or undone one do no harm.
///
/// # Errors
/// Also an unreadable journal: then nobody knows.
pub fn refuse_half_switched(roots: &Roots) -> Result<()> {
    let datadir = roots.datadir();
    let remedy = || {
        format!(
            "stop this node's server, run `highline recover --datadir {}` and start it again; meanwhile another node can be the donor",
            datadir.display()
        )
    };
    let refuse = |what: String| Err(Error::new(Kind::Busy, what).remedy(remedy()));
    for directory in roots.directories() {
        if let Some(link) = link_through_selector(directory)? {
            return refuse(format!(
                "an install was interrupted on this node: {} leads through its selector",
                Printable::path(&link)
            ));
        }
    }
    let Some(home) = Dir::open(datadir)?.find(HOME)? else { return Ok(()) };
    match journal::read(&home, datadir) {
        Ok(None | Some((_, Phase::Finished | Phase::Undone))) => Ok(()),
        Ok(Some((_, Phase::Switching | Phase::Spending))) => {
            refuse(format!("an install was interrupted on this node: see {}", Printable::path(home.path())))
        }
        Err(error) => Err(error.remedy(remedy())),
    }
}

/// A top-level symlink that goes through `.highline/live`.
fn link_through_selector(directory: &Path) -> Result<Option<PathBuf>> {
    let failed = |e| Error::io("cannot read the directory", directory, e);
    for item in fs::read_dir(directory).map_err(failed)? {
        let item = item.map_err(failed)?;
        if !item.file_type().is_ok_and(|kind| kind.is_symlink()) {
            continue;
        }
        let target = fs::read_link(item.path()).unwrap_or_default();
        let parts: Vec<_> = target.iter().collect();
        if parts.windows(2).any(|pair| pair[0] == HOME && pair[1] == LIVE) {
            return Ok(Some(item.path()));
        }
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    #[test]
    fn links_and_journals_of_a_switch_are_told_from_others() {
        let dir = tempfile::tempdir().unwrap();
        let data = dir.path();
        fs::create_dir_all(data.join(".highline")).unwrap();
        let roots = Roots::new(data, &BTreeMap::new()).unwrap();
        symlink("/srv/live/shop", data.join("shop")).unwrap();
        refuse_half_switched(&roots).unwrap();
        for target in [Path::new(".highline/live/datadir/shop"), &data.join(".highline/live/datadir/shop")] {
            let link = data.join("sold");
            symlink(target, &link).unwrap();
            let error = refuse_half_switched(&roots).unwrap_err();
            assert_eq!(error.kind(), Kind::Busy);
            assert!(error.sentence().ends_with("/sold leads through its selector"), "{}", error.sentence());
            assert!(error.remedy_text().unwrap().contains("highline recover --datadir /"));
            fs::remove_file(link).unwrap();
        }
        fs::write(data.join(".highline/journal"), "garbage").unwrap();
        assert!(refuse_half_switched(&roots).unwrap_err().sentence().contains("is not usable"));
    }
}
