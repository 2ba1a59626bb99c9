//! The examination before anything is touched: does this node know all of the donor's roots.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use super::staged_tree::Owners;
use crate::choice::words;
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{Part, Root, RootName, Roots, Scope, leads_outside};
use crate::wire::{Offer, OfferedRoot};

/// What happens to the old tree while the new one arrives: `--install`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum InstallMode {
    /// Staged, and refused where there is no room for both.
    #[default]
    Auto,
    /// The old tree stays until the new one is verified.
    Staged,
    /// The old tree is removed first.
    InPlace,
}

words!(InstallMode { Auto = "auto", Staged = "staged", InPlace = "inplace" });

/// Refuses, by name, what cannot end well. Adds the donor's roots outside its data directory to `roots`; returns those
/// this node cannot use.
pub(super) fn examine(roots: &mut Roots, offer: &Offer) -> Result<Vec<RootName>> {
    complete(&offer.parts)?;
    let datadir = stat(roots.datadir())?;
    let mut without = Vec::new();
    let mut led = None;
    for offered in &offer.roots {
        if let Some(root) = roots.get(offered.name.as_str()).filter(|root| root.scope != Scope::Listed) {
            // A node that writes no binary log, or uses another name for it.
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
        // Only what this server's old tree points to may be replaced there.
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
                        "{} would be replaced, but no tablespace of this node points to it",
                        Printable::path(&place)
                    ),
                )
                .remedy(format!(
                    "move it away; by hand, `highline receive --root {}={}` allows it",
                    offered.name,
                    Printable::path(&path)
                )));
            }
        }
        roots.push(Root { name: offered.name.clone(), path, scope: Scope::Listed, stem: None });
    }
    Ok(without)
}

/// Whether one of `paths`, which are sorted, is `place` or inside it.
fn leads_there(paths: &[PathBuf], place: &Path) -> bool {
    let first = paths.partition_point(|path| path.as_path() < place);
    paths.get(first).is_some_and(|path| path.starts_with(place))
}

/// Refuses a donor whose tree is not a server's data directory.
fn complete(parts: &BTreeSet<Part>) -> Result<()> {
    let lacks: Vec<String> = Part::ALL.iter().filter(|part| !parts.contains(part)).map(ToString::to_string).collect();
    if lacks.is_empty() {
        return Ok(());
    }
    let what = format!("what the donor sends is not a server's whole data directory: it lacks {}", lacks.join(", "));
    Err(Error::new(Kind::Incompatible, what).remedy(
        "the data here is unchanged; on the donor, check the path of the data directory, and name the other directories in the option file (by hand: --defaults-file or --root)",
    ))
}

/// Whether the donor's binary logs have a different name from this node's. A log contains its own name, and the server,
/// which recovers from the last one in use, would look for that name (`TC_LOG_BINLOG::recover`, `sql/log.cc`).
fn called_otherwise(root: &Root, offered: &OfferedRoot) -> bool {
    match (&root.stem, offered.names.first()) {
        (Some(here), Some(there)) => here.as_bytes() != there.as_bytes(),
        _ => false,
    }
}

/// Where a directory outside the donor's data directory goes here: to the same path, because the files that point to it
/// contain that path.
fn outside(offered: &OfferedRoot, named: Option<&Path>, owner: u32) -> Result<PathBuf> {
    let path = PathBuf::from(OsStr::from_bytes(offered.path.as_bytes()));
    let shown = Printable::path(&path).to_string();
    let refuse = |why: &str| {
        let what = format!("the donor has tablespaces outside its data directory, in {shown}, and {why}");
        Error::new(Kind::Usage, what)
            .remedy("create that directory here, owned by the server's user, or move the tables")
    };
    if !path.is_absolute() || !offered.name.as_str().starts_with("external-") {
        return Err(refuse("its root is unknown here"));
    }
    if named.is_some_and(|named| named != path) {
        return Err(refuse("they cannot go elsewhere here: the server looks for them by that path"));
    }
    let here = std::fs::symlink_metadata(&path).map_err(|_| refuse("there is no such directory here"))?;
    if !here.is_dir() || (named.is_none() && here.uid() != owner) {
        return Err(refuse("here it is not a directory owned by the server's user"));
    }
    Ok(path)
}

fn stat(path: &Path) -> Result<std::fs::Metadata> {
    std::fs::metadata(path).map_err(|e| Error::io("cannot read", path, e))
}

/// Bytes and entries of the offer.
pub(super) fn offered(offer: &Offer) -> (u64, u64) {
    let of = |what: fn(&OfferedRoot) -> u64| offer.roots.iter().map(what).fold(0, u64::saturating_add);
    (of(|root| root.bytes), of(|root| root.entries))
}

/// The tree may have grown since the offer, but not out of all proportion: the check for room and the memory for each
/// entry depend on it.
pub(super) fn fits_offer(offer: &Offer, entries: u64) -> Result<()> {
    const GROWN: u64 = 100_000;
    let (_, offered) = self::offered(offer);
    if entries > offered.saturating_mul(2).saturating_add(GROWN) {
        let what = format!("the donor announced {entries} entries after offering {offered}");
        return Err(Error::new(Kind::Protocol, what));
    }
    Ok(())
}

/// Whose the files become. Only root may change a file's owner.
pub(super) fn owners(datadir: &Path, offer: &Offer) -> Result<Owners> {
    let here = stat(datadir)?;
    let here = rustix::process::geteuid().is_root().then(|| (here.uid(), here.gid()));
    Ok(Owners { there: offer.owner, here })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::wire::{Speeds, WireBytes};

    fn offer(name: &str, path: &Path, allocated: u64) -> Offer {
        Offer {
            roots: vec![OfferedRoot {
                name: name.parse().unwrap(),
                path: WireBytes::from(path.as_os_str().as_bytes()),
                names: vec![WireBytes::from(b"sb".as_slice())],
                bytes: allocated,
                allocated,
                entries: 1,
            }],
            parts: Part::ALL.into(),
            speeds: Speeds { sha256: 1, blake3: 1 },
            lanes: 1,
            ..Offer::default()
        }
    }

    #[test]
    fn what_a_donors_tree_lacks_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        let mut offer = offer(RootName::DATADIR, dir.path(), 1);
        offer.parts.remove(&Part::MysqlSchema);
        offer.parts.remove(&Part::RedoLog);
        let error = examine(&mut roots, &offer).unwrap_err();
        assert_eq!(
            error.sentence(),
            "what the donor sends is not a server's whole data directory: it lacks the redo log (ib_logfile0), the schema mysql"
        );
        assert!(
            error
                .remedy_text()
                .unwrap()
                .starts_with("the data here is unchanged; on the donor, check the path of the data")
        );
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
            assert_eq!(examine(&mut roots, &offer).unwrap().len(), without, "{there}");
        }
    }

    #[test]
    fn a_directory_outside_must_be_here_and_ours() {
        let dir = tempfile::tempdir().unwrap();
        let (data, far) = (dir.path().join("data"), dir.path().join("far"));
        std::fs::create_dir(&data).unwrap();
        let mut roots = Roots::new(&data, &BTreeMap::new()).unwrap();
        let error = examine(&mut roots, &offer("external-1", &far, 1)).unwrap_err();
        assert!(error.sentence().ends_with("and there is no such directory here"), "{}", error.sentence());
        let strange = examine(&mut roots, &offer("strange", &far, 1)).unwrap_err();
        assert!(strange.sentence().ends_with("and its root is unknown here"), "{}", strange.sentence());
        std::fs::create_dir(&far).unwrap();
        std::fs::create_dir(far.join("sb")).unwrap();
        let foreign = examine(&mut roots, &offer("external-1", &far, 1)).unwrap_err();
        assert!(foreign.sentence().ends_with("would be replaced, but no tablespace of this node points to it"));
        std::fs::write(far.join("sb/t.ibd"), "t").unwrap();
        std::fs::write(data.join("t.isl"), far.join("sb/t.ibd").as_os_str().as_bytes()).unwrap();
        examine(&mut roots, &offer("external-1", &far, 1)).unwrap();
        assert_eq!(roots.get("external-1").unwrap().path, far);
    }
}
