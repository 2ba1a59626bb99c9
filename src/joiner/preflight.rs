//! The examination before anything is touched: are all roots known here, do the servers fit, is there
//! room.

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
pub(super) fn examine(
    roots: &mut Roots,
    offer: &Offer,
    mode: InstallMode,
    server: Option<&str>,
) -> Result<Vec<RootName>> {
    if let (Some(theirs), Some(ours)) = (offer.server_version.as_deref(), server) {
        fits(theirs, ours)?;
    }
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
            None => led.insert(leads_outside(roots)?),
        };
        for name in &offered.names {
            let place = path.join(OsStr::from_bytes(name.as_bytes()));
            if place.symlink_metadata().is_ok() && !led.iter().any(|own| own.starts_with(&place)) {
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

/// A server can start on the files of its own series or an older one, not on those of a newer one.
fn fits(theirs: &str, ours: &str) -> Result<()> {
    let series = |version: &str| {
        let mut numbers = version.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
        numbers.next().zip(numbers.next())
    };
    match (series(theirs), series(ours)) {
        (Some(donor), Some(joiner)) if donor > joiner => Err(Error::new(
            Kind::Incompatible,
            format!(
                "the donor's server is {}, this node's is {}, which cannot read its files",
                Printable(theirs.as_bytes()),
                ours
            ),
        )
        .remedy("upgrade this node's server first")),
        _ => Ok(()),
    }
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

/// Each filesystem must hold what arrives on it, beside the old tree or in its place. What goes in its place is asked for
/// by [`room_in_place`], when it is known how much goes.
fn room(roots: &Roots, offer: &Offer, mode: InstallMode) -> Result<()> {
    if mode == InstallMode::InPlace {
        return Ok(());
    }
    enough(roots, offer, &[], "say --install inplace: it removes the old data before the new arrives")
}

/// The same where the old tree goes first; `gives` is what that brings, by filesystem.
pub(super) fn room_in_place(roots: &Roots, offer: &Offer, gives: &[(u64, u64)]) -> Result<()> {
    enough(roots, offer, gives, "give it a larger disk: the old data would be gone, and the new would not fit")
}

fn enough(roots: &Roots, offer: &Offer, gives: &[(u64, u64)], otherwise: &str) -> Result<()> {
    let mut needs: BTreeMap<u64, (u64, &Path)> = BTreeMap::new();
    for offered in &offer.roots {
        let Some(root) = roots.get(offered.name.as_str()) else { continue };
        let need = needs.entry(stat(&root.path)?.dev()).or_insert((0, &root.path));
        // A block for each name, and what the filesystem itself needs to keep account.
        let entries = offered.entries.saturating_mul(4096);
        need.0 =
            need.0.saturating_add(offered.allocated).saturating_add(offered.allocated / 100).saturating_add(entries);
    }
    for (device, (needed, path)) in needs {
        let stat = rustix::fs::statvfs(path).map_err(|e| Error::io("cannot ask for the space of", path, e))?;
        let given =
            gives.iter().filter(|(at, _)| *at == device).fold(0u64, |sum, (_, bytes)| sum.saturating_add(*bytes));
        let free = stat.f_bavail.saturating_mul(stat.f_frsize).saturating_add(given);
        if needed > free {
            return Err(Error::new(
                Kind::NoSpace,
                format!("{} has {} free, and the donor sends {}", Printable::path(path), bytes(free), bytes(needed)),
            )
            .remedy(format!("free space there, or {otherwise}")));
        }
    }
    Ok(())
}

/// Only root may give files away.
pub(super) fn owners(datadir: &Path, offer: &Offer) -> Result<Owners> {
    let here = stat(datadir)?;
    let here = rustix::process::geteuid().is_root().then(|| (here.uid(), here.gid()));
    Ok(Owners { there: offer.owner, here })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::wire::{Speeds, WireBytes};

    fn offer(name: &str, path: &Path, allocated: u64) -> Offer {
        Offer {
            bypass: false,
            position: None,
            domain: None,
            server_version: None,
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
    fn a_newer_donor_is_refused() {
        for (theirs, ours, ok) in [
            ("10.11.19-MariaDB", "10.11.2-MariaDB", true),
            ("10.6.1-MariaDB", "11.4.0-MariaDB", true),
            ("11.4.0-MariaDB", "10.11.2-MariaDB", false),
            ("strange", "10.11.2-MariaDB", true),
        ] {
            assert_eq!(fits(theirs, ours).is_ok(), ok, "{theirs} {ours}");
        }
        let error = fits("11.4.0-MariaDB", "10.11.2-MariaDB").unwrap_err();
        assert_eq!(
            error.report(),
            "the donor's server is 11.4.0-MariaDB, this node's is 10.11.2-MariaDB, which cannot read its files\n  \
             remedy: upgrade this node's server first"
        );
    }

    #[test]
    fn what_does_not_fit_is_refused_unless_the_old_tree_goes_first() {
        let dir = tempfile::tempdir().unwrap();
        let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        let huge = offer(RootName::DATADIR, dir.path(), 1 << 60);
        let error = examine(&mut roots, &huge, InstallMode::Auto, None).unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(error.sentence().ends_with("and the donor sends 1.2 EB"), "{}", error.sentence());
        assert!(examine(&mut roots, &huge, InstallMode::InPlace, None).is_ok());
        assert!(examine(&mut roots, &offer(RootName::DATADIR, dir.path(), 1), InstallMode::Auto, None).is_ok());
    }

    #[test]
    fn what_arrives_on_one_filesystem_is_added_up() {
        let dir = tempfile::tempdir().unwrap();
        let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        let stat = rustix::fs::statvfs(dir.path()).unwrap();
        let most = stat.f_bavail * stat.f_frsize / 10 * 6;
        let mut offer = offer(RootName::DATADIR, dir.path(), most);
        examine(&mut roots, &offer, InstallMode::Auto, None).unwrap();
        offer.roots.push(OfferedRoot { name: RootName::INNODB_UNDO.parse().unwrap(), ..offer.roots[0].clone() });
        assert_eq!(examine(&mut roots, &offer, InstallMode::Auto, None).unwrap_err().kind(), Kind::NoSpace);
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
            assert_eq!(examine(&mut roots, &offer, InstallMode::Auto, None).unwrap().len(), without, "{there}");
        }
    }

    #[test]
    fn a_directory_outside_must_be_here_and_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (data, far) = (dir.path().join("data"), dir.path().join("far"));
        std::fs::create_dir(&data).unwrap();
        let mut roots = Roots::new(&data, &BTreeMap::new()).unwrap();
        let error = examine(&mut roots, &offer("external-1", &far, 1), InstallMode::Auto, None).unwrap_err();
        assert!(error.sentence().ends_with("and there is no such directory here"), "{}", error.sentence());
        let strange = examine(&mut roots, &offer("strange", &far, 1), InstallMode::Auto, None).unwrap_err();
        assert!(strange.sentence().ends_with("and its root is unknown here"), "{}", strange.sentence());
        std::fs::create_dir(&far).unwrap();
        std::fs::create_dir(far.join("sb")).unwrap();
        let foreign = examine(&mut roots, &offer("external-1", &far, 1), InstallMode::Auto, None).unwrap_err();
        assert!(foreign.sentence().ends_with("would be replaced, and no tablespace of this node leads to it"));
        std::fs::write(far.join("sb/t.ibd"), "t").unwrap();
        std::fs::write(data.join("t.isl"), far.join("sb/t.ibd").as_os_str().as_bytes()).unwrap();
        examine(&mut roots, &offer("external-1", &far, 1), InstallMode::Auto, None).unwrap();
        assert_eq!(roots.get("external-1").unwrap().path, far);
    }
}
