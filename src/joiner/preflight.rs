//! The examination before anything is touched: are all roots known here, is there room.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::staged_tree::Owners;
use crate::error::{Error, Kind, Printable, Result};
use crate::progress::bytes;
use crate::tree::{Root, RootName, Roots, Scope, leads_outside};
use crate::wire::{Offer, OfferedRoot, Round};

/// What becomes of the old tree while the new one arrives: `--install`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InstallMode {
    /// Staged, and refused where there is no room for both.
    #[default]
    Auto,
    /// The old tree stays until the new one is verified.
    Staged,
    /// The old tree goes first.
    InPlace,
}

/// Refuses, by name, what cannot end well. Adds the donor's roots outside its data directory to `roots`;
/// returns those that this node has no use for.
pub(super) fn examine(roots: &mut Roots, offer: &Offer, mode: InstallMode) -> Result<Vec<RootName>> {
    let datadir = stat(roots.datadir())?;
    let mut without = Vec::new();
    let mut led = None;
    for offered in &offer.roots {
        if let Some(root) = roots.get(offered.name.as_str()).filter(|root| root.scope != Scope::Listed) {
            // A node that writes no binary log, or calls it otherwise.
            if root.scope == Scope::Names(Vec::new()) || called_otherwise(root, offered) {
                without.push(offered.name.clone());
            }
            continue;
        }
        let named = roots.get(offered.name.as_str()).map(|root| root.path.clone());
        let path = outside(offered, named.as_deref(), datadir.uid())?;
        if named.is_some() {
            continue;
        }
        // What is replaced there must be this server's own: reached from its old tree.
        let led = match &mut led {
            Some(led) => led,
            None => {
                let mut paths = leads_outside(roots)?;
                paths.sort_unstable();
                led.insert(paths)
            }
        };
        for name in &offered.names {
            let place = path.join(OsStr::from_bytes(name.as_bytes()));
            if place.symlink_metadata().is_ok() && !leads_there(led, &place) {
                return Err(Error::new(
                    Kind::Usage,
                    format!(
                        "{} would be replaced, and no tablespace of this node leads to it",
                        Printable::path(&place)
                    ),
                )
                .remedy(format!(
                    "move it away; by hand, `highline receive --root {}={}` agrees to it",
                    offered.name,
                    Printable::path(&path)
                )));
            }
        }
        roots.push(Root { name: offered.name.clone(), path, scope: Scope::Listed, stem: None });
    }
    room(roots, offer, mode)?;
    Ok(without)
}

/// Whether one of `paths`, which are in order, lies in `place` or is it.
fn leads_there(paths: &[PathBuf], place: &Path) -> bool {
    let first = paths.partition_point(|path| path.as_path() < place);
    paths.get(first).is_some_and(|path| path.starts_with(place))
}

/// Whether the donor's binary logs have another name than this node's. A log names itself inside, and the server, which
/// recovers from the one that was in use, would look for that name (`TC_LOG_BINLOG::recover`, `sql/log.cc`).
fn called_otherwise(root: &Root, offered: &OfferedRoot) -> bool {
    match (&root.stem, offered.names.first()) {
        (Some(here), Some(there)) => here.as_bytes() != there.as_bytes(),
        _ => false,
    }
}

/// Where a directory of the donor's that is not its data directory lies here: at the same path, because
/// the files that lead to it hold that path.
fn outside(offered: &OfferedRoot, named: Option<&Path>, owner: u32) -> Result<PathBuf> {
    let path = PathBuf::from(OsStr::from_bytes(offered.path.as_bytes()));
    let shown = Printable::path(&path).to_string();
    let refuse = |why: &str| {
        let what = format!("the donor has tablespaces outside its data directory, in {shown}, and {why}");
        Error::new(Kind::Usage, what).remedy("make that directory here for the server's user, or move the tables")
    };
    if !path.is_absolute() || !offered.name.as_str().starts_with("external-") {
        return Err(refuse("its root is unknown here"));
    }
    if named.is_some_and(|named| named != path) {
        return Err(refuse("they cannot lie elsewhere here: the server looks for them by that path"));
    }
    let here = std::fs::symlink_metadata(&path).map_err(|_| refuse("there is no such directory here"))?;
    if !here.is_dir() || (named.is_none() && here.uid() != owner) {
        return Err(refuse("here it is no directory of the server's user"));
    }
    Ok(path)
}

fn stat(path: &Path) -> Result<std::fs::Metadata> {
    std::fs::metadata(path).map_err(|e| Error::io("cannot read", path, e))
}

/// The offer was made before the freeze, and a tree may have grown since; but not out of all proportion, for
/// the room that was looked for and the memory for each entry depend on it.
pub(super) fn fits_offer(round: &Round, offer: &Offer) -> Result<()> {
    const GROWN: u64 = 100_000;
    let offered = offer.roots.iter().fold(0u64, |sum, root| sum.saturating_add(root.entries));
    if round.entries > offered.saturating_mul(2).saturating_add(GROWN) {
        let what = format!("the donor announced {} entries after it had offered {offered}", round.entries);
        return Err(Error::new(Kind::Protocol, what));
    }
    Ok(())
}

/// Each filesystem must hold what arrives on it, beside the old tree or in its place.
fn room(roots: &Roots, offer: &Offer, mode: InstallMode) -> Result<()> {
    let mut needs: BTreeMap<u64, (u64, &Path)> = BTreeMap::new();
    for offered in &offer.roots {
        let Some(root) = roots.get(offered.name.as_str()) else { continue };
        let need = needs.entry(stat(&root.path)?.dev()).or_insert((0, &root.path));
        // A block for each name, and what the filesystem itself needs to keep account.
        let entries = offered.entries.saturating_mul(4096);
        need.0 =
            need.0.saturating_add(offered.allocated).saturating_add(offered.allocated / 100).saturating_add(entries);
    }
    for (needed, path) in needs.into_values() {
        let stat = rustix::fs::statvfs(path).map_err(|e| Error::io("cannot ask for the space of", path, e))?;
        let free = stat.f_bavail.saturating_mul(stat.f_frsize);
        if needed > free && mode != InstallMode::InPlace {
            return Err(Error::new(
                Kind::NoSpace,
                format!("{} has {} free, and the donor sends {}", Printable::path(path), bytes(free), bytes(needed)),
            )
            .remedy("free space there, or say --install inplace: it removes the old data before the new arrives"));
        }
    }
    Ok(())
}

/// Only root may give files away.
pub(super) fn owners(datadir: &Path, offer: &Offer) -> Result<Owners> {
    if !rustix::process::geteuid().is_root() {
        return Ok(Owners::Ours);
    }
    let here = stat(datadir)?;
    Ok(Owners::Map { there: offer.owner, here: (here.uid(), here.gid()) })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::InnodbFiles;
    use crate::wire::{Speeds, WireBytes};

    fn offer(name: &str, path: &Path, allocated: u64) -> Offer {
        Offer {
            bypass: false,
            position: None,
            server_version: None,
            innodb: InnodbFiles::default(),
            lower_case_table_names: None,
            owner: (0, 0),
            roots: vec![OfferedRoot {
                name: name.parse().unwrap(),
                path: WireBytes::from(path.as_os_str().as_bytes()),
                names: vec![WireBytes::from(b"sb".as_slice())],
                bytes: allocated,
                allocated,
                entries: 1,
            }],
            speeds: Speeds { sha256: 1, blake3: 1 },
            lanes: 1,
        }
    }

    #[test]
    fn what_does_not_fit_is_refused_unless_the_old_tree_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        let huge = offer(RootName::DATADIR, dir.path(), 1 << 60);
        let error = examine(&mut roots, &huge, InstallMode::Auto).unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(error.sentence().ends_with("and the donor sends 1.2 EB"), "{}", error.sentence());
        assert!(examine(&mut roots, &huge, InstallMode::InPlace).is_ok());
        assert!(examine(&mut roots, &offer(RootName::DATADIR, dir.path(), 1), InstallMode::Auto).is_ok());
    }

    #[test]
    fn what_arrives_on_one_filesystem_is_added_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        let stat = rustix::fs::statvfs(dir.path()).unwrap();
        let most = stat.f_bavail * stat.f_frsize / 10 * 6;
        let mut offer = offer(RootName::DATADIR, dir.path(), most);
        examine(&mut roots, &offer, InstallMode::Auto).unwrap();
        offer.roots.push(OfferedRoot { name: RootName::INNODB_UNDO.parse().unwrap(), ..offer.roots[0].clone() });
        assert_eq!(examine(&mut roots, &offer, InstallMode::Auto).unwrap_err().kind(), Kind::NoSpace);
    }

    #[test]
    fn binary_logs_of_another_name_stay_with_the_donor() {
        let dir = tempfile::tempdir().unwrap();
        let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        let root = roots.get_mut(RootName::BINLOG).unwrap();
        (root.scope, root.stem) = (Scope::Names(vec!["ours.#".into()]), Some("ours".into()));
        for (there, without) in [("ours", 0), ("theirs", 1)] {
            let mut offer = offer(RootName::BINLOG, dir.path(), 1);
            offer.roots[0].names = vec![there.as_bytes().into()];
            assert_eq!(examine(&mut roots, &offer, InstallMode::Auto).unwrap().len(), without, "{there}");
        }
    }

    #[test]
    fn a_directory_outside_must_be_here_and_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (data, far) = (dir.path().join("data"), dir.path().join("far"));
        std::fs::create_dir(&data).unwrap();
        let mut roots = Roots::new(&data, &BTreeMap::new()).unwrap();
        let error = examine(&mut roots, &offer("external-1", &far, 1), InstallMode::Auto).unwrap_err();
        assert!(error.sentence().ends_with("and there is no such directory here"), "{}", error.sentence());
        let strange = examine(&mut roots, &offer("strange", &far, 1), InstallMode::Auto).unwrap_err();
        assert!(strange.sentence().ends_with("and its root is unknown here"), "{}", strange.sentence());
        std::fs::create_dir(&far).unwrap();
        std::fs::create_dir(far.join("sb")).unwrap();
        let foreign = examine(&mut roots, &offer("external-1", &far, 1), InstallMode::Auto).unwrap_err();
        assert!(foreign.sentence().ends_with("would be replaced, and no tablespace of this node leads to it"));
        std::fs::write(far.join("sb/t.ibd"), "t").unwrap();
        std::fs::write(data.join("t.isl"), far.join("sb/t.ibd").as_os_str().as_bytes()).unwrap();
        examine(&mut roots, &offer("external-1", &far, 1), InstallMode::Auto).unwrap();
        assert_eq!(roots.get("external-1").unwrap().path, far);
    }
}
