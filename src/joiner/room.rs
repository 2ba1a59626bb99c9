//! Whether there is room for what arrives, beside the old tree or in its place.

use std::collections::{BTreeMap, HashSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::InstallMode;
use crate::error::{Error, Kind, Printable, Result};
use crate::install::{HOME, kept as kept_files};
use crate::progress::bytes;
use crate::tree::{Roots, Scope, Shape, free_space};
use crate::wire::Offer;

/// What one filesystem must hold.
struct Need<'a> {
    path: &'a Path,
    /// Bytes allocated on the donor's filesystem, plus what this one needs for its own bookkeeping.
    allocated: u64,
    with_names: u64,
}

/// There is room.
#[derive(Debug, Default)]
pub(super) struct Room {
    /// Warnings for the log.
    pub(super) warnings: Vec<String>,
    /// Only if what an earlier attempt left becomes part of the new tree or is removed; likewise an old tree that is
    /// removed first, whatever of it is kept.
    pub(super) counts_on_kept: bool,
}

/// Each filesystem must have room for what arrives on it; `kept` says which top-level names of a directory stay when
/// the old tree is removed first.
pub(super) fn room(
    roots: &Roots,
    offer: &Offer,
    mode: InstallMode,
    kept: &dyn Fn(&Path, &OsStr, Shape) -> bool,
) -> Result<Room> {
    let mut needs: BTreeMap<u64, Need<'_>> = BTreeMap::new();
    for offered in &offer.roots {
        let Some(root) = roots.get(offered.name.as_str()) else { continue };
        let stat = fs::metadata(&root.path).map_err(|e| Error::io("cannot read", &root.path, e))?;
        let need = needs.entry(stat.dev()).or_insert_with(|| Need { path: &root.path, allocated: 0, with_names: 0 });
        need.allocated = need.allocated.saturating_add(offered.allocated);
        // A block for each name, and the filesystem's own bookkeeping.
        let entries = offered.entries.saturating_mul(4096);
        need.with_names = need
            .with_names
            .saturating_add(offered.allocated)
            .saturating_add(offered.allocated / 100)
            .saturating_add(entries);
    }
    let mut found = Room::default();
    let mut earlier: BTreeMap<u64, u64> = BTreeMap::new();
    for file in kept_files(roots)? {
        let bytes = earlier.entry(file.device).or_default();
        *bytes = bytes.saturating_add(file.allocated);
    }
    let mut old = None;
    for (device, need) in needs {
        let path = Printable::path(need.path);
        let free = free_space(need.path)?;
        let earlier = earlier.get(&device).copied().unwrap_or(0);
        let needed = if mode == InstallMode::InPlace { need.allocated } else { need.with_names };
        if needed <= free {
            continue;
        }
        found.counts_on_kept = true;
        if mode != InstallMode::InPlace {
            if needed <= free.saturating_add(earlier) {
                continue;
            }
            let what = format!("{path} has {} free, and the donor sends {}", bytes(free), bytes(needed));
            return Err(Error::new(Kind::NoSpace, what).remedy(
                "free space there, or use install=inplace: it removes the old data before the new data arrives",
            ));
        }
        let old = match &old {
            Some(old) => old,
            None => old.insert(old_tree(roots, kept)),
        };
        let old = match old {
            Ok(old) => old.get(&device).copied().unwrap_or(0),
            Err(error) => {
                found
                    .warnings
                    .push(format!("cannot tell how much room removing the old data would free on {path}: {error}"));
                continue;
            }
        };
        if needed <= free.saturating_add(earlier).saturating_add(old) {
            continue;
        }
        let what = format!(
            "{path} has {} free, the old data that would go first takes {} there, and the donor sends {}",
            bytes(free),
            bytes(old),
            bytes(needed)
        );
        if compresses(need.path) {
            found.warnings.push(format!("{what}: it fits only if this filesystem compresses it well"));
        } else {
            let remedy = "the old data is unchanged; free space there, or give the node a larger filesystem";
            return Err(Error::new(Kind::NoSpace, what).remedy(remedy));
        }
    }
    Ok(found)
}

/// Bytes freed, by filesystem, when the old tree and what an earlier run left staged are removed.
fn old_tree(roots: &Roots, kept: &dyn Fn(&Path, &OsStr, Shape) -> bool) -> io::Result<BTreeMap<u64, u64>> {
    let mut taken = Taken::default();
    for directory in roots.directories() {
        for item in fs::read_dir(directory)? {
            let name = item?.file_name();
            let shape = Shape::at(&directory.join(&name));
            let ours = roots.owner(directory, &name, shape).is_some_and(|root| root.scope != Scope::Listed);
            if name == HOME || ours && !kept(directory, &name, shape) {
                taken.add(&directory.join(name))?;
            }
        }
    }
    Ok(taken.bytes)
}

#[derive(Default)]
struct Taken {
    bytes: BTreeMap<u64, u64>,
    /// Files with several names that were counted already.
    linked: HashSet<(u64, u64)>,
}

impl Taken {
    fn add(&mut self, place: &Path) -> io::Result<()> {
        let stat = fs::symlink_metadata(place)?;
        if stat.is_dir() {
            for item in fs::read_dir(place)? {
                self.add(&item?.path())?;
            }
        } else if stat.nlink() > 1 && !self.linked.insert((stat.dev(), stat.ino())) {
            return Ok(());
        }
        let bytes = self.bytes.entry(stat.dev()).or_default();
        *bytes = bytes.saturating_add(stat.blocks().saturating_mul(512));
        Ok(())
    }
}

/// Whether a filesystem may need less room for a file than the donor's did.
fn compresses(path: &Path) -> bool {
    /// btrfs, ZFS, bcachefs, F2FS: `linux/magic.h`, and OpenZFS.
    const MAGIC: [i64; 4] = [0x9123_683e, 0x2fc1_2fc1, 0xca45_1a4e, 0xf2f5_2010];
    #[allow(clippy::unnecessary_cast, reason = "the type depends on the architecture")]
    rustix::fs::statfs(path).is_ok_and(|stat| MAGIC.contains(&(stat.f_type as i64)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::RootName;
    use crate::wire::{OfferedRoot, Speeds, WireBytes};

    fn offer(allocated: u64) -> Offer {
        Offer {
            roots: vec![OfferedRoot {
                name: RootName::datadir(),
                path: WireBytes::from(b"/d".as_slice()),
                names: Vec::new(),
                bytes: allocated,
                allocated,
                entries: 1,
            }],
            parts: crate::tree::Part::ALL.into(),
            speeds: Speeds { sha256: 1, blake3: 1 },
            lanes: 1,
            ..Offer::default()
        }
    }

    fn nothing(_: &Path, _: &OsStr, _: Shape) -> bool {
        false
    }

    #[test]
    fn what_does_not_fit_beside_the_old_tree_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        let error = room(&roots, &offer(1 << 60), InstallMode::Auto, &nothing).unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(error.sentence().ends_with("and the donor sends 1.2 EB"), "{}", error.sentence());
        assert!(room(&roots, &offer(1), InstallMode::Auto, &nothing).is_ok());
    }

    #[test]
    fn what_arrives_on_one_filesystem_is_added_up() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        let stat = rustix::fs::statvfs(dir.path()).unwrap();
        let mut offer = offer(stat.f_bavail * stat.f_frsize / 10 * 6);
        room(&roots, &offer, InstallMode::Auto, &nothing).unwrap();
        offer.roots.push(OfferedRoot { name: RootName::INNODB_UNDO.parse().unwrap(), ..offer.roots[0].clone() });
        assert_eq!(room(&roots, &offer, InstallMode::Auto, &nothing).unwrap_err().kind(), Kind::NoSpace);
    }

    #[test]
    fn what_fits_not_even_in_place_of_the_old_tree_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        fs::create_dir(dir.path().join("db")).unwrap();
        fs::write(dir.path().join("db/t.ibd"), vec![1; 3 << 20]).unwrap();
        fs::hard_link(dir.path().join("db/t.ibd"), dir.path().join("db/again.ibd")).unwrap();
        fs::write(dir.path().join("kept.cache"), vec![1; 5 << 20]).unwrap();
        let old = |kept: &dyn Fn(&Path, &OsStr, Shape) -> bool| old_tree(&roots, kept).unwrap().values().sum::<u64>();
        let kept = |_: &Path, name: &OsStr, _: Shape| name == "kept.cache";
        assert!((3 << 20..4 << 20).contains(&old(&kept)), "{}", old(&kept));
        assert!((8 << 20..9 << 20).contains(&old(&nothing)));
        if compresses(dir.path()) {
            return;
        }
        let error = room(&roots, &offer(1 << 60), InstallMode::InPlace, &kept).unwrap_err();
        assert_eq!(error.kind(), Kind::NoSpace);
        assert!(
            error
                .sentence()
                .contains(" free, the old data that would go first takes 3.1 MB there, and the donor sends 1.2 EB"),
            "{}",
            error.sentence()
        );
    }
}
