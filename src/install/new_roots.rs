//! A fresh node's own directories that do not exist yet.

use std::path::Path;

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;

use super::dir::give_as_root;
use super::lock::DirLock;
use crate::error::{Error, Kind, Printable, Result};
use crate::tree::{Roots, Scope};

/// Makes the missing directories of this server's own roots, and their parents, with the owner and mode of the data
/// directory. Those outside (`external-1`) are for the operator to make.
pub fn make_missing(lock: &DirLock, roots: &Roots) -> Result<()> {
    let like = lock.datadir.stat()?;
    for root in roots.iter().filter(|root| root.scope != Scope::Listed) {
        make(&root.path, &like).map_err(|(place, errno)| {
            let what = format!("{} of {} does not exist and cannot be made", Printable::path(&root.path), root.name);
            let kind = if errno == Errno::NOSPC { Kind::NoSpace } else { Kind::Permission };
            let error = Error::new(kind, what).because(Error::io("cannot make", place, errno));
            let (owner, mode) = (format!("-o {} -g {}", like.st_uid, like.st_gid), like.st_mode & 0o7777);
            error.remedy(format!("as root, run: install -d {owner} -m {mode:o} {}", Printable::path(&root.path)))
        })?;
    }
    Ok(())
}

fn make<'a>(path: &'a Path, like: &rustix::fs::Stat) -> std::result::Result<(), (&'a Path, Errno)> {
    let missing: Vec<&Path> =
        path.ancestors().take_while(|path| !path.as_os_str().is_empty() && !path.exists()).collect();
    for place in missing.into_iter().rev() {
        let failed = |errno| (place, errno);
        match rustix::fs::mkdir(place, Mode::RWXU) {
            Ok(()) => {}
            Err(Errno::EXIST) if place.is_dir() => continue,
            Err(errno) => return Err(failed(errno)),
        }
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let made = rustix::fs::open(place, flags, Mode::empty()).map_err(failed)?;
        give_as_root(&made, like).map_err(failed)?;
        rustix::fs::fchmod(&made, Mode::from_raw_mode(like.st_mode)).map_err(failed)?;
        if let Some(parent) = place.parent().filter(|parent| !parent.as_os_str().is_empty()) {
            let parent = rustix::fs::open(parent, flags.difference(OFlags::NOFOLLOW), Mode::empty());
            parent.and_then(rustix::fs::fsync).map_err(failed)?;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::RootName;
    use std::collections::BTreeMap;
    use std::os::unix::fs::{MetadataExt, PermissionsExt};

    #[test]
    fn missing_directories_are_made_like_the_data_directory() {
        let temp = tempfile::tempdir().unwrap();
        let data = temp.path().join("data");
        std::fs::create_dir(&data).unwrap();
        std::fs::set_permissions(&data, std::fs::Permissions::from_mode(0o750)).unwrap();
        let paths = [(RootName::INNODB_LOG, temp.path().join("far/redo")), (RootName::INNODB_UNDO, data.join("undo"))];
        let paths: BTreeMap<_, _> = paths.into_iter().map(|(name, path)| (name.parse().unwrap(), path)).collect();
        let roots = Roots::new(&data, &paths).unwrap();
        make_missing(&DirLock::take(&data).unwrap(), &roots).unwrap();
        for place in [temp.path().join("far"), temp.path().join("far/redo"), data.join("undo")] {
            assert_eq!(std::fs::metadata(place).unwrap().mode() & 0o7777, 0o750);
        }
    }

    #[test]
    fn one_that_cannot_be_made_is_told_with_what_to_do() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::write(temp.path().join("file"), "").unwrap();
        let data = temp.path().join("data");
        std::fs::create_dir(&data).unwrap();
        let paths = BTreeMap::from([(RootName::INNODB_LOG.parse().unwrap(), temp.path().join("file/redo"))]);
        let error = make_missing(&DirLock::take(&data).unwrap(), &Roots::new(&data, &paths).unwrap()).unwrap_err();
        let place = temp.path().join("file/redo");
        let told = format!("{} of innodb-log does not exist and cannot be made", place.display());
        assert!(error.sentence().starts_with(&told), "{}", error.sentence());
        assert!(
            error.remedy_text().unwrap().ends_with(&format!("-m 755 {}", place.display())),
            "{:?}",
            error.remedy_text()
        );
    }
}
