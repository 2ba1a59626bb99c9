//! What a backup must contain: the tables that were there before it began. An option of the program's own, in a file
//! that this one does not read, can leave some out, and the program succeeds.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use super::unpack::Unpacked;
use crate::error::{Error, Kind, Result};
use crate::tree::{Content, Found, RelPath, RootName, Roots, Stamp, locate};

/// The files of tables and views, by their endings. Whatever the engine, there is an `.frm`. Of InnoDB's files one may be
/// missing: if the server had not written its first page yet, it is made from the redo log (observed on 10.11.19).
const ENDINGS: [&str; 5] = ["frm", "MYD", "MYI", "MAD", "MAI"];

/// Tables' files, and which file each was.
#[derive(Debug, Default)]
pub(super) struct Expected(BTreeMap<RelPath, Stamp>);

impl Expected {
    pub(super) fn of(found: &[Found]) -> Expected {
        let tables = found
            .iter()
            .filter(|found| matches!(found.entry.content, Content::File { .. }) && is_of_a_table(&found.entry.path));
        Expected(tables.map(|found| (found.entry.path.clone(), found.stamp)).collect())
    }

    /// Refuses a backup without a table's file that is still there: under its name, or renamed. What the joiner has of
    /// its own is not sent.
    pub(super) fn all_in(&self, backup: &Unpacked, roots: &Roots, theirs: &[RelPath]) -> Result<()> {
        let missing = self.0.iter().filter(|(path, _)| !backup.has(path) && !theirs.iter().any(|own| own.holds(path)));
        let mut renamed = HashMap::new();
        for (path, stamp) in missing {
            // Dropped, unless another name has it.
            match locate(roots, path).map(std::fs::symlink_metadata) {
                Some(Err(error)) if error.kind() == std::io::ErrorKind::NotFound => {
                    renamed.insert(stamp.inode(), *stamp);
                }
                _ => return Err(left_out(path)),
            }
        }
        if renamed.is_empty() { Ok(()) } else { none_renamed(&renamed, backup, roots) }
    }
}

/// Looks for these files in all schemas, and refuses one that is not in the backup.
fn none_renamed(files: &HashMap<u64, Stamp>, backup: &Unpacked, roots: &Roots) -> Result<()> {
    let datadir = roots.datadir();
    let failed = |e| Error::io("cannot read", datadir, e);
    for schema in std::fs::read_dir(datadir).map_err(failed)? {
        let schema = schema.map_err(failed)?;
        // Dropped meanwhile, or no directory.
        let Ok(inside) = std::fs::read_dir(schema.path()) else { continue };
        for file in inside.flatten() {
            let Ok(stat) = file.metadata() else { continue };
            if !files.get(&stat.ino()).is_some_and(|known| known.is_same_file(Stamp::of(&stat))) {
                continue;
            }
            let name = [schema.file_name().as_bytes(), b"/", file.file_name().as_bytes()].concat();
            let Ok(path) = RelPath::new(&RootName::datadir(), &name) else { continue };
            if is_of_a_table(&path) && !backup.has(&path) {
                return Err(left_out(&path));
            }
        }
    }
    Ok(())
}

fn is_of_a_table(path: &RelPath) -> bool {
    let beneath = path.beneath().as_os_str().as_bytes();
    let mut parts = beneath.split(|&byte| byte == b'/');
    let (Some(schema), Some(file), None) = (parts.next(), parts.next(), parts.next()) else { return false };
    let ending = std::path::Path::new(OsStr::from_bytes(file)).extension();
    path.root_str() == RootName::datadir().as_str()
        && !schema.starts_with(b".")
        && !file.starts_with(b"#sql")
        && ending.is_some_and(|ending| ENDINGS.iter().any(|known| ending == *known))
}

fn left_out(path: &RelPath) -> Error {
    Error::new(Kind::Integrity, format!("mariadb-backup left out {path}, so this is no whole copy")).remedy(
        "remove databases, tables and the like from [mariabackup], [mariadb-backup] and [xtrabackup] in the donor's option \
         files; if the table was renamed just now, start the transfer again",
    )
}

#[cfg(test)]
mod tests {
    use super::super::unpack::tests::of;
    use super::*;
    use crate::backup::mbstream::tests::end;
    use crate::tree::{Rules, Tolerance, scan};

    #[test]
    fn a_table_that_was_there_before_and_still_is_must_be_in_the_backup() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        std::fs::create_dir(place("d")).unwrap();
        for name in ["a.frm", "a.ibd", "a.MAD", "r.MYD", "#sql-1.frm", "db.opt", "notes.txt"] {
            std::fs::write(place("d").join(name), name).unwrap();
        }
        let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        let expected = Expected::of(&scan(&mut roots, &Rules::default(), Tolerance::None).unwrap());
        let check = |names: &[&str], theirs: &[&str]| {
            let names: Vec<Vec<u8>> = names.iter().map(|name| end(name)).collect();
            let theirs: Vec<RelPath> = theirs.iter().map(|path| RelPath::parse(path.as_bytes()).unwrap()).collect();
            expected.all_in(&of(&names), &roots, &theirs).map_err(|error| {
                assert_eq!(error.kind(), Kind::Integrity);
                error.sentence()
            })
        };
        let without = |name: &str| Err(format!("mariadb-backup left out datadir/d/{name}, so this is no whole copy"));
        assert_eq!(check(&["d/a.frm", "d/a.MAD", "d/r.MYD"], &[]), Ok(()));
        assert_eq!(check(&["d/a.frm", "d/r.MYD"], &[]), without("a.MAD"));
        assert_eq!(check(&["x/y"], &["datadir/d"]), Ok(()));
        std::fs::rename(place("d/r.MYD"), place("d/s.MYD")).unwrap();
        assert_eq!(check(&["d/a.frm", "d/a.MAD"], &[]), without("s.MYD"));
        assert_eq!(check(&["d/a.frm", "d/a.MAD", "d/s.MYD"], &[]), Ok(()));
        assert_eq!(check(&["d/a.frm", "d/a.MAD", "d/r.MYD"], &[]), Ok(()));
        std::fs::remove_file(place("d/s.MYD")).unwrap();
        assert_eq!(check(&["d/a.frm", "d/a.MAD"], &[]), Ok(()));
    }
}
