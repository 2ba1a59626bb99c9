//! The directory that a transfer by hand writes into: what may be replaced, and what a new copy needs.

use std::ffi::{OsStr, OsString};
use std::os::unix::fs::DirBuilderExt;
use std::path::Path;

use super::privileges;
use crate::error::{Error, Kind, Printable, Result, Side};
use crate::install::{HOME, KEPT, LOCK, MANIFEST, holds_database, refuse_half_switched};
use crate::progress::status;
use crate::tree::{Roots, Shape};

/// Everything in the directory will be replaced, so a mistyped one must be refused.
pub(super) fn looks_like_a_datadir(datadir: &Path) -> Result<()> {
    const SIGNS: [&str; 8] =
        ["ibdata1", "ib_logfile0", "aria_log_control", "mysql", "grastate.dat", "galera.cache", MANIFEST, HOME];
    if is_empty(datadir)? || SIGNS.iter().any(|sign| datadir.join(sign).symlink_metadata().is_ok()) {
        return Ok(());
    }
    let what = format!("{} is not empty and does not look like a data directory", Printable::path(datadir));
    Err(Error::new(Kind::Usage, what)
        .on(Side::Joiner)
        .remedy("check the path; if it is right, empty the directory first"))
}

/// Refuses to put a new copy where anything is.
pub(super) fn unused(roots: &Roots) -> Result<()> {
    for directory in roots.directories() {
        let used = if directory == roots.datadir() { !is_empty(directory)? } else { holds_ours(roots, directory)? };
        if used {
            let has = if holds_database(roots.datadir()) {
                "already holds a copy or a server's data"
            } else {
                "is not empty"
            };
            return Err(Error::new(Kind::Usage, format!("{} {has}", Printable::path(directory))).remedy(
                "name another directory; or give --replace, which keeps what is there until the new copy is verified",
            ));
        }
    }
    refuse_half_switched(roots).map_err(|error| {
        let datadir = Printable::path(roots.datadir());
        error.remedy(format!("run `highline recover --datadir {datadir}`, which also says what is left there"))
    })
}

/// Makes the directory for a copy, if there is none. Where root is the caller, an empty one of root's becomes `user`'s.
pub(super) fn make(to: &Path, user: Option<&str>) -> Result<()> {
    match std::fs::DirBuilder::new().mode(0o700).create(to) {
        Ok(()) => {}
        Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
        Err(error) => return Err(Error::io("cannot make the directory", to, error)),
    }
    privileges::give(to, user, is_ours)
}

/// What an empty filesystem contains, and what an earlier attempt left, do not count.
fn is_empty(directory: &Path) -> Result<bool> {
    Ok(names(directory)?.iter().all(|name| is_ours(name)))
}

fn is_ours(name: &OsStr) -> bool {
    matches!(name.to_str(), Some("lost+found" | LOCK | status::FILE | HOME))
        || name.as_encoded_bytes().starts_with(KEPT.as_bytes())
}

/// Whether a directory beside the data directory has files that the roots would replace.
fn holds_ours(roots: &Roots, directory: &Path) -> Result<bool> {
    Ok(names(directory)?.iter().any(|name| roots.owner(directory, name, Shape::File).is_some()))
}

fn names(directory: &Path) -> Result<Vec<OsString>> {
    let all = std::fs::read_dir(directory).and_then(|items| items.map(|item| Ok(item?.file_name())).collect());
    all.map_err(|e| Error::io("cannot read the directory", directory, e))
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn a_mistyped_directory_is_not_taken_for_a_servers() {
        let dir = tempfile::tempdir().unwrap();
        looks_like_a_datadir(dir.path()).unwrap();
        std::fs::write(dir.path().join(".highline.kept.ibdata1"), "x").unwrap();
        looks_like_a_datadir(dir.path()).unwrap();
        std::fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        let error = looks_like_a_datadir(dir.path()).unwrap_err();
        assert!(error.sentence().ends_with("is not empty and does not look like a data directory"));
        std::fs::write(dir.path().join("ibdata1"), "x").unwrap();
        looks_like_a_datadir(dir.path()).unwrap();
    }

    #[test]
    fn an_interrupted_install_is_not_an_empty_directory() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        std::fs::create_dir(dir.path().join(HOME)).unwrap();
        unused(&roots).unwrap();
        std::fs::write(dir.path().join(".highline/journal"), "garbage").unwrap();
        let error = unused(&roots).unwrap_err();
        assert!(error.sentence().contains("is not usable"), "{}", error.sentence());
        let remedy = error.remedy_text().unwrap();
        assert!(remedy.starts_with(&format!("run `highline recover --datadir {}`", dir.path().display())), "{remedy}");
    }

    #[test]
    fn a_copy_goes_where_nothing_is() {
        let dir = tempfile::tempdir().unwrap();
        let (data, undo) = (dir.path().join("copy"), dir.path().join("undo"));
        make(&data, None).unwrap();
        make(&data, None).unwrap();
        std::fs::create_dir(&undo).unwrap();
        let paths = BTreeMap::from([("innodb-undo".parse().unwrap(), undo.clone())]);
        let roots = Roots::new(&data, &paths).unwrap();
        for left in [".highline.kept.ibdata1", ".highline.lock", "lost+found"] {
            std::fs::write(data.join(left), "x").unwrap();
        }
        std::fs::write(undo.join("readme"), "x").unwrap();
        unused(&roots).unwrap();
        std::fs::write(undo.join("undo001"), "x").unwrap();
        assert_eq!(unused(&roots).unwrap_err().sentence(), format!("{} is not empty", undo.display()));
        std::fs::remove_file(undo.join("undo001")).unwrap();
        std::fs::write(data.join("thesis.txt"), "x").unwrap();
        assert_eq!(unused(&roots).unwrap_err().sentence(), format!("{} is not empty", data.display()));
        std::fs::write(data.join("ibdata1"), "x").unwrap();
        let error = unused(&roots).unwrap_err();
        assert_eq!(error.sentence(), format!("{} already holds a copy or a server's data", data.display()));
        assert!(error.remedy_text().unwrap().contains("--replace"));
        let error = make(&dir.path().join("no/such"), None).unwrap_err();
        assert!(error.sentence().starts_with("cannot make the directory"), "{}", error.sentence());
    }
}
