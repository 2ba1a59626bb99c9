//! The scan of a donor's roots: every entry that is sent, with the stamp that later shows whether it changed.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fs;
use std::ops::Deref;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::path::{Path, PathBuf};

use rustix::io::Errno;

use super::data_files::is_data_file;
use super::entry::{Attributes, Content, Entry, Metadata, Mtime};
use super::node_owned::is_key_file;
use super::path::{RelPath, RootName};
use super::roots::{Root, Roots, Scope, Shape};
use super::rules::Rules;
use super::stamp::Stamp;
use crate::error::{Error, Kind, Printable, Result};

/// An entry of the donor's tree. It goes from list to list: behind a pointer, so that two of them cost little more than
/// one.
#[derive(Clone, Debug)]
pub struct Found(Box<Facts>);

/// What a scan finds of an entry.
#[derive(Clone, Debug)]
pub struct Facts {
    pub entry: Entry,
    pub stamp: Stamp,
    /// Bytes allocated to it on disk.
    pub allocated: u64,
}

impl Deref for Found {
    type Target = Facts;

    fn deref(&self) -> &Facts {
        &self.0
    }
}

impl From<Found> for Entry {
    fn from(found: Found) -> Entry {
        found.0.entry
    }
}

impl Found {
    /// Length in bytes; 0 for anything but a regular file.
    pub fn size(&self) -> u64 {
        match self.entry.content {
            Content::File { size } => size,
            _ => 0,
        }
    }
}

/// What a scan ignores.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Tolerance {
    /// Nothing: nobody writes to the tree, so if something vanishes it is an error.
    None,
    /// What vanishes meanwhile: a server may be running.
    Vanished,
    /// What cannot be read: the tree is about to be replaced.
    Unreadable,
}

/// Scans all roots; the result is ordered by path.
///
/// Tablespaces outside every root, which a symlink or an `.isl` file points to, are found on the way: each of their
/// directories is added to `roots` as `external-1`, `external-2`, … and scanned too.
pub fn scan(roots: &mut Roots, rules: &Rules, tolerance: Tolerance) -> Result<Vec<Found>> {
    scan_fully(roots, rules, tolerance).map(|scanned| scanned.found)
}

/// The result of a scan.
#[derive(Debug)]
pub struct Scanned {
    /// What is sent, ordered by path.
    pub found: Vec<Found>,
    /// What stays behind: top-level names and the node's own deeper paths, with the option if one names them.
    pub stays: Vec<String>,
}

/// Like [`scan`], and also returns what stays behind.
///
/// # Errors
/// Unreadable entries; and a link in place of a data file that does not lead to one that is sent.
pub fn scan_fully(roots: &mut Roots, rules: &Rules, tolerance: Tolerance) -> Result<Scanned> {
    let mut scan = Scan::new(roots, rules, tolerance);
    scan.all_roots()?;
    while let Some(outside) = scan.outside.pop() {
        scan.external(&outside)?;
    }
    scan.links_lead_to_what_travels()?;
    let (mut found, mut stays) = (scan.found, scan.stays);
    found.sort_unstable_by(|a, b| a.entry.path.cmp(&b.entry.path));
    found.dedup_by(|a, b| a.entry.path == b.entry.path);
    stays.sort_unstable();
    stays.dedup();
    Ok(Scanned { found, stays })
}

/// What an old tree points to outside its roots: schemas and tables behind symlinks, tablespaces of `.isl` files. They
/// are listed but not entered. Unreadable entries are ignored, because an old tree may contain anything.
pub fn leads_outside(roots: &Roots) -> Result<Vec<PathBuf>> {
    let (mut roots, rules) = (roots.clone(), Rules::default());
    let mut scan = Scan::new(&mut roots, &rules, Tolerance::Unreadable);
    scan.all_roots()?;
    Ok(scan.outside.into_iter().map(|outside| outside.object).collect())
}

/// The local path of an entry of the donor's tree. `None` if its root is not one of `roots`.
pub fn locate(roots: &Roots, path: &RelPath) -> Option<PathBuf> {
    let root = roots.get(path.root_str())?;
    match path.parent() {
        Some(_) => Some(root.path.join(path.beneath())),
        None => Some(root.path.join(root.local_name(path.first()))),
    }
}

struct Scan<'a> {
    roots: &'a mut Roots,
    rules: &'a Rules,
    tolerance: Tolerance,
    found: Vec<Found>,
    /// The first path of each file that has several, by root, device and inode.
    links: HashMap<(RootName, u64, u64), RelPath>,
    /// The roots' real paths; what is beneath them is found there.
    inside: Vec<PathBuf>,
    outside: Vec<Outside>,
    /// The same objects as in `outside`, for fast lookup.
    seen: HashSet<PathBuf>,
    /// Links in place of data files or schemas, with what they point to.
    data_links: Vec<(PathBuf, PathBuf)>,
    stays: Vec<String>,
    /// How many of them belong to the node; sockets and pipes belong to nobody.
    owned: usize,
}

/// An object outside every root that is sent.
#[derive(Debug, PartialEq, Eq)]
struct Outside {
    object: PathBuf,
    /// An `.isl` file names it, so it is in a directory named like its schema.
    by_isl: bool,
}

impl<'a> Scan<'a> {
    fn new(roots: &'a mut Roots, rules: &'a Rules, tolerance: Tolerance) -> Scan<'a> {
        let standing = roots.iter().filter(|root| root.scope != Scope::Listed);
        let mut inside: Vec<PathBuf> =
            standing.map(|root| fs::canonicalize(&root.path).unwrap_or_else(|_| root.path.clone())).collect();
        inside.sort_unstable();
        inside.dedup();
        Scan {
            roots,
            rules,
            tolerance,
            found: Vec::new(),
            links: HashMap::new(),
            inside,
            outside: Vec::new(),
            seen: HashSet::new(),
            data_links: Vec::new(),
            stays: Vec::new(),
            owned: 0,
        }
    }

    fn all_roots(&mut self) -> Result<()> {
        let directories: Vec<PathBuf> = self.roots.directories().into_iter().map(Path::to_path_buf).collect();
        directories.iter().try_for_each(|directory| self.root(directory))
    }

    fn root(&mut self, directory: &Path) -> Result<()> {
        for name in list(directory)? {
            let place = directory.join(&name);
            let shape = Shape::at(&place);
            let Some(owner) = self.roots.owner(directory, &name, shape) else { continue };
            if self.is_root(&place) {
                continue;
            }
            if !self.rules.travels(&owner.name, directory, &name, shape) {
                self.stay(&place);
                continue;
            }
            let (owner, called) = (owner.name.clone(), owner.wire_name(&name).into_owned());
            self.entry(&owner, called.as_bytes(), &place)?;
        }
        Ok(())
    }

    fn is_root(&self, place: &Path) -> bool {
        self.roots.iter().any(|root| root.path == place)
    }

    /// Notes that something is not sent.
    fn stay(&mut self, place: &Path) {
        let (parent, name) = (place.parent().unwrap_or(place), place.file_name().unwrap_or_default());
        let within = place.strip_prefix(self.roots.datadir()).unwrap_or(place);
        let shown = Printable::path(within);
        self.owned += 1;
        self.stays.push(match self.rules.option(parent, name) {
            Some(option) => format!("{shown} ({option})"),
            None => shown.to_string(),
        });
    }

    /// An object outside every root: its directory becomes a root, and only the object is sent.
    fn external(&mut self, outside: &Outside) -> Result<()> {
        let object = outside.object.as_path();
        let (Some(parent), Some(name)) = (object.parent(), object.file_name()) else { return Ok(()) };
        // An InnoDB file of `DATA DIRECTORY` is in a directory named after its schema, which the server makes itself:
        // what both nodes must have is the directory above.
        let isl = outside.by_isl;
        let (directory, beneath) = match (isl, parent.parent(), parent.file_name()) {
            (true, Some(above), Some(schema)) => (above, Path::new(schema).join(name)),
            _ => (parent, PathBuf::from(name)),
        };
        let known = self.roots.iter().find(|root| root.path == directory && root.scope == Scope::Listed);
        let root = match known.map(|root| root.name.clone()) {
            Some(name) => name,
            None => {
                let number = 1 + self.roots.iter().filter(|root| root.name.as_str().starts_with("external-")).count();
                let name: RootName = format!("external-{number}").parse().map_err(|e| {
                    Error::new(Kind::Limit, "too many directories outside the data directory").because(e)
                })?;
                self.roots.push(Root {
                    name: name.clone(),
                    path: directory.to_path_buf(),
                    scope: Scope::Listed,
                    stem: None,
                });
                name
            }
        };
        if let (true, Some(schema)) = (isl, parent.file_name()) {
            self.single(&root, schema.as_bytes(), parent)?;
        }
        self.entry(&root, beneath.as_os_str().as_bytes(), object)
    }

    /// One entry and, for a directory, everything beneath. A directory that contains only the node's own files stays
    /// behind with them.
    fn entry(&mut self, root: &RootName, beneath: &[u8], place: &Path) -> Result<()> {
        let (before, owned) = (self.found.len(), self.owned);
        let directory = match self.single(root, beneath, place) {
            Err(error) if self.passes_over(&error) => return Ok(()),
            other => other?,
        };
        if directory {
            let names = match list(place) {
                Err(error) if self.passes_over(&error) => return Ok(()),
                other => other?,
            };
            for name in names {
                let path = place.join(&name);
                if self.is_root(&path) {
                    continue;
                }
                if self.rules.owns(place, &name, || Shape::at(&path)) {
                    self.stay(&path);
                    continue;
                }
                let child = [beneath, b"/", name.as_bytes()].concat();
                self.entry(root, &child, &path)?;
            }
            if self.owned > owned && self.found.len() == before + 1 {
                self.found.truncate(before);
            }
        }
        Ok(())
    }

    fn passes_over(&self, error: &Error) -> bool {
        match self.tolerance {
            Tolerance::None => false,
            Tolerance::Vanished => is_gone(error),
            Tolerance::Unreadable => true,
        }
    }

    /// Just one entry; says whether it is a directory.
    fn single(&mut self, root: &RootName, beneath: &[u8], place: &Path) -> Result<bool> {
        let stat = fs::symlink_metadata(place).map_err(|e| Error::io("cannot read", place, e))?;
        let path = RelPath::new(root, beneath)
            .map_err(|e| Error::new(Kind::Usage, format!("{} cannot be sent", Printable::path(place))).because(e))?;
        let kind = stat.file_type();
        let content = if kind.is_dir() {
            Content::Directory
        } else if kind.is_symlink() {
            let target = fs::read_link(place).map_err(|e| Error::io("cannot read the link", place, e))?;
            if stands_for_data(root, beneath, place) {
                self.follow(place)?;
            }
            Content::Symlink { target: target.into_os_string().into_vec().into() }
        } else if kind.is_file() {
            if place.extension() == Some(OsStr::new("isl")) {
                self.follow_isl(place)?;
            } else if self.holds_a_key(root, place) {
                self.stay(place);
                return Ok(false);
            }
            match self.links.get(&(root.clone(), stat.dev(), stat.ino())) {
                Some(first) if stat.nlink() > 1 => Content::HardLink { to: first.clone() },
                _ => Content::File { size: stat.size() },
            }
        } else {
            // A socket or pipe belongs to a running program; a device is not data.
            let what = if kind.is_socket() {
                "a socket"
            } else if kind.is_fifo() {
                "a pipe"
            } else {
                "a device"
            };
            self.stays.push(format!("{} ({what})", Printable::path(place)));
            return Ok(false);
        };
        if stat.nlink() > 1 && matches!(content, Content::File { .. }) {
            self.links.insert((root.clone(), stat.dev(), stat.ino()), path.clone());
        }
        let meta = Metadata {
            // No data file needs set-user-id bits.
            mode: stat.mode() & if kind.is_file() { 0o1777 } else { 0o7777 },
            uid: stat.uid(),
            gid: stat.gid(),
            mtime: Mtime { secs: stat.mtime(), nanos: u32::try_from(stat.mtime_nsec()).unwrap_or(0) },
            xattrs: if kind.is_symlink() { Attributes::default() } else { user_attributes(place)?.into() },
        };
        let directory = content == Content::Directory;
        let entry = Entry { path, meta, content };
        self.found.push(Found(Box::new(Facts { entry, stamp: Stamp::of(&stat), allocated: stat.blocks() * 512 })));
        Ok(directory)
    }

    /// Follows a link in place of a schema or data file: what it points to is sent too if it is outside every root.
    fn follow(&mut self, link: &Path) -> Result<()> {
        let object = match fs::canonicalize(link) {
            Ok(object) => object,
            Err(_) if self.tolerance == Tolerance::Unreadable => return Ok(()),
            // Dropped meanwhile.
            Err(_) if link.symlink_metadata().is_err() => return Ok(()),
            Err(error) => return Err(stray(link, "leads to nothing").because(error)),
        };
        self.data_links.push((link.to_path_buf(), object.clone()));
        self.bring(Outside { object, by_isl: false });
        Ok(())
    }

    /// An `.isl` file contains the path of a tablespace (`DATA DIRECTORY`; `RemoteDatafile`, `fsp0file.cc`).
    fn follow_isl(&mut self, isl: &Path) -> Result<()> {
        let text = fs::read(isl).map_err(|e| Error::io("cannot read", isl, e))?;
        let target = Path::new(OsStr::from_bytes(text.trim_ascii_end()));
        let object = fs::canonicalize(target).map_err(|e| {
            Error::io("cannot find the tablespace", target, e)
                .remedy(format!("{} points there; restore the file or drop the table", Printable::path(isl)))
        })?;
        let by_isl = object.extension() == Some(OsStr::new("ibd")) && object.is_file();
        self.bring(Outside { object, by_isl });
        Ok(())
    }

    fn bring(&mut self, outside: Outside) {
        if !self.inside.iter().any(|root| outside.object.starts_with(root)) && self.seen.insert(outside.object.clone())
        {
            self.outside.push(outside);
        }
    }

    /// Refuses links in place of data that lead into a root, to something that stays behind: they would arrive as bare
    /// links.
    fn links_lead_to_what_travels(&self) -> Result<()> {
        if self.data_links.is_empty() || self.tolerance == Tolerance::Unreadable {
            return Ok(());
        }
        let travels: HashSet<_> = self.found.iter().map(|found| (found.stamp.device(), found.stamp.inode())).collect();
        for (link, object) in &self.data_links {
            match fs::metadata(object) {
                Ok(stat) if travels.contains(&(stat.dev(), stat.ino())) => {}
                // Dropped meanwhile; or the node's own directory, which is not a schema.
                Err(_) if self.tolerance == Tolerance::Vanished => {}
                _ => {
                    let what = format!("leads to {}, which is not sent", Printable::path(object));
                    return Err(stray(link, &what));
                }
            }
        }
        Ok(())
    }

    /// Whether a file that no root claims is a private key, whatever its name.
    fn holds_a_key(&self, root: &RootName, place: &Path) -> bool {
        let named = self.roots.get(root.as_str()).is_some_and(|root| matches!(root.scope, Scope::Names(_)));
        !named && self.tolerance != Tolerance::Unreadable && is_key_file(place)
    }
}

/// Whether something is gone, or has become something else: a file in place of a directory or link, a link or directory
/// in place of a file.
fn is_gone(error: &Error) -> bool {
    let cause = std::error::Error::source(error).and_then(|cause| cause.downcast_ref::<std::io::Error>());
    let code = cause.and_then(std::io::Error::raw_os_error).map(Errno::from_raw_os_error);
    error.kind() == Kind::NotFound || matches!(code, Some(Errno::NOTDIR | Errno::LOOP | Errno::ISDIR | Errno::INVAL))
}

fn stray(link: &Path, why: &str) -> Error {
    let what = format!("{} is a link in place of a data file, and {why}", Printable::path(link));
    Error::new(Kind::Usage, what).remedy("put the file itself there, or make the link point to where it is")
}

/// Whether a symlink is one of the server's own: a schema (a top-level link to a directory), a system file by the names
/// of its root, or a table's file. Any other link is sent as it is.
fn stands_for_data(root: &RootName, beneath: &[u8], link: &Path) -> bool {
    let name = link.file_name().unwrap_or_default();
    let first = !beneath.contains(&b'/');
    let system = first && root.as_str() != RootName::DATADIR && !root.as_str().starts_with("external-");
    system || is_data_file(name) || (first && link.is_dir())
}

fn list(directory: &Path) -> Result<Vec<OsString>> {
    let failed = |e| Error::io("cannot read the directory", directory, e);
    let mut names = Vec::new();
    for item in fs::read_dir(directory).map_err(failed)? {
        names.push(item.map_err(failed)?.file_name());
    }
    names.sort_unstable();
    Ok(names)
}

/// The `user.*` attributes of a file; none if the filesystem does not support them (`xattr(7)`).
fn user_attributes(place: &Path) -> Result<Vec<(String, Vec<u8>)>> {
    const LONGEST: usize = 64 * 1024;
    let failed = |e: Errno| Error::io("cannot read the attributes of", place, e);
    let mut names = vec![0; 4096];
    let length = match rustix::fs::llistxattr(place, names.as_mut_slice()) {
        Ok(0) | Err(Errno::NOTSUP) => return Ok(Vec::new()),
        Err(Errno::RANGE) => {
            names.resize(LONGEST, 0);
            rustix::fs::llistxattr(place, names.as_mut_slice()).map_err(failed)?
        }
        other => other.map_err(failed)?,
    };
    names.truncate(length);
    let mut attributes = Vec::new();
    for name in names.split(|&b| b == 0).filter(|name| name.starts_with(b"user.")) {
        let Ok(name) = std::str::from_utf8(name) else { continue };
        let mut value = vec![0; LONGEST];
        let length = rustix::fs::lgetxattr(place, name, value.as_mut_slice()).map_err(failed)?;
        // Not the size of the largest possible value.
        value.truncate(length);
        value.shrink_to_fit();
        attributes.push((name.to_owned(), value));
    }
    attributes.sort();
    Ok(attributes)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeMap;
    use std::os::unix::fs::symlink;

    fn names(found: &[Found]) -> Vec<String> {
        found.iter().map(|f| f.entry.path.to_string()).collect()
    }

    #[test]
    fn entries_find_their_roots_and_private_names_stay() {
        let dir = tempfile::tempdir().unwrap();
        let (data, undo) = (dir.path().join("data"), dir.path().join("data/undo logs"));
        fs::create_dir_all(data.join("sb")).unwrap();
        fs::create_dir_all(&undo).unwrap();
        for name in [
            "ibdata1",
            "ib_logfile0",
            "grastate.dat",
            "sb/t.ibd",
            "sb/x.log",
            "letter",
            "undo logs/undo001",
            "undo logs/x",
        ] {
            fs::write(data.join(name), name).unwrap();
        }
        fs::hard_link(data.join("sb/t.ibd"), data.join("sb/u.ibd")).unwrap();
        symlink("letter", data.join("inner")).unwrap();
        let paths = BTreeMap::from([("innodb-undo".parse().unwrap(), undo)]);
        let mut roots = Roots::new(&data, &paths).unwrap();
        let found = scan(&mut roots, &Rules::default(), Tolerance::None).unwrap();
        assert_eq!(
            names(&found),
            [
                "datadir/inner",
                "datadir/letter",
                "datadir/sb",
                "datadir/sb/t.ibd",
                "datadir/sb/u.ibd",
                "datadir/sb/x.log",
                "innodb-data/ibdata1",
                "innodb-log/ib_logfile0",
                "innodb-undo/undo001",
            ]
        );
        assert_eq!(found[4].entry.content, Content::HardLink { to: found[3].entry.path.clone() });
        assert_eq!(locate(&roots, &found[8].entry.path).unwrap(), data.join("undo logs/undo001"));
    }

    #[test]
    fn tablespaces_outside_come_along() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        let (data, far) = (base.join("data"), base.join("far"));
        fs::create_dir_all(data.join("sb")).unwrap();
        fs::create_dir_all(far.join("ext/sb")).unwrap();
        fs::create_dir_all(far.join("schema")).unwrap();
        fs::write(far.join("ext/sb/t.ibd"), "t").unwrap();
        fs::write(far.join("schema/u.MYD"), "u").unwrap();
        fs::write(data.join("sb/t.isl"), far.join("ext/sb/t.ibd").as_os_str().as_bytes()).unwrap();
        symlink(far.join("schema"), data.join("schema")).unwrap();
        let mut roots = Roots::new(&data, &BTreeMap::new()).unwrap();
        let found = scan(&mut roots, &Rules::default(), Tolerance::None).unwrap();
        let outside: Vec<_> = found.iter().filter(|f| f.entry.path.root_str().starts_with("external-")).collect();
        let located: Vec<_> = outside.iter().map(|f| locate(&roots, &f.entry.path).unwrap()).collect();
        for place in [far.join("ext/sb"), far.join("ext/sb/t.ibd"), far.join("schema"), far.join("schema/u.MYD")] {
            assert!(located.contains(&place), "{place:?} in {located:?}");
        }
        assert_eq!(roots.get("external-1").unwrap().scope, Scope::Listed);
    }

    #[test]
    fn an_old_tree_may_hold_anything_and_is_not_left() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        let data = base.join("data");
        fs::create_dir(&data).unwrap();
        fs::write(base.join("t.ibd"), "t").unwrap();
        symlink("/", data.join("everything")).unwrap();
        symlink("/nowhere", data.join("dangling")).unwrap();
        fs::write(data.join("t.isl"), base.join("t.ibd").as_os_str().as_bytes()).unwrap();
        fs::write(data.join("bad.isl"), b"\0\xff").unwrap();
        let roots = Roots::new(&data, &BTreeMap::new()).unwrap();
        assert_eq!(leads_outside(&roots).unwrap(), [PathBuf::from("/"), base.join("t.ibd")]);
    }

    #[test]
    fn other_links_travel_as_they_stand() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        fs::create_dir_all(base.join("data/sb")).unwrap();
        fs::write(base.join("key"), "secret").unwrap();
        symlink(base.join("key"), base.join("data/key")).unwrap();
        symlink(base.join("key"), base.join("data/sb/t.ibd.bak")).unwrap();
        symlink("/nowhere", base.join("data/sb/dangling")).unwrap();
        let mut roots = Roots::new(&base.join("data"), &BTreeMap::new()).unwrap();
        let found = scan(&mut roots, &Rules::default(), Tolerance::None).unwrap();
        assert_eq!(names(&found), ["datadir/key", "datadir/sb", "datadir/sb/dangling", "datadir/sb/t.ibd.bak"]);
        assert!(roots.get("external-1").is_none());
    }

    #[test]
    fn sockets_and_pipes_stay_and_are_named() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("sb")).unwrap();
        let _socket = std::os::unix::net::UnixListener::bind(dir.path().join("sb/a")).unwrap();
        let (mode, pipe) = (rustix::fs::Mode::RUSR, rustix::fs::FileType::Fifo);
        for name in ["b", "t.isl"] {
            rustix::fs::mknodat(rustix::fs::CWD, dir.path().join(name), pipe, mode, 0).unwrap();
        }
        let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        let Scanned { found, stays } = scan_fully(&mut roots, &Rules::default(), Tolerance::None).unwrap();
        assert_eq!(names(&found), ["datadir/sb"]);
        let name = |name: &str, what: &str| format!("{} ({what})", dir.path().join(name).display());
        assert_eq!(stays, [name("b", "a pipe"), name("sb/a", "a socket"), name("t.isl", "a pipe")]);
    }

    #[test]
    fn what_vanishes_under_a_live_server_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("t.isl"), "/nowhere/sb/t.ibd").unwrap();
        fs::write(dir.path().join("u"), "u").unwrap();
        let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        assert_eq!(names(&scan(&mut roots, &Rules::default(), Tolerance::Vanished).unwrap()), ["datadir/u"]);
        assert!(scan(&mut roots, &Rules::default(), Tolerance::None).is_err());
    }

    #[test]
    fn what_becomes_another_thing_under_a_live_server_is_passed_over() {
        let dir = tempfile::tempdir().unwrap();
        let (file, link) = (dir.path().join("file"), dir.path().join("link"));
        fs::write(&file, "").unwrap();
        symlink("link", &link).unwrap();
        let io = |error| Error::io("cannot read", &file, error);
        for error in [
            list(&file).unwrap_err(),
            list(&dir.path().join("none")).unwrap_err(),
            list(&file.join("beneath")).unwrap_err(),
            io(fs::read_link(&file).unwrap_err()),
            io(fs::read(dir.path()).unwrap_err()),
            io(fs::read(&link).unwrap_err()),
            io(fs::symlink_metadata(file.join("beneath")).unwrap_err()),
        ] {
            assert!(is_gone(&error), "{}", error.sentence());
        }
        for code in [Errno::ACCESS, Errno::IO, Errno::MFILE] {
            assert!(!is_gone(&io(code.into())), "{code}");
        }
    }

    #[test]
    fn a_missing_tablespace_is_named_with_the_file_that_points_to_it() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("t.isl"), "/nowhere/sb/t.ibd\n").unwrap();
        let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        let error = scan(&mut roots, &Rules::default(), Tolerance::None).unwrap_err();
        assert!(error.sentence().starts_with("cannot find the tablespace /nowhere/sb/t.ibd: No such file"));
        assert!(error.remedy_text().unwrap().contains("t.isl points there"));
    }

    #[test]
    fn a_link_that_stands_for_a_data_file_brings_it_along() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        let (data, far) = (base.join("data"), base.join("far"));
        fs::create_dir_all(data.join("sb")).unwrap();
        fs::create_dir_all(&far).unwrap();
        for name in ["ibdata1", "undo001", "aria_log_control", "t.ibd", "t.frm", "u.MYD", "v.MAI", "p#P#p0.ibd"] {
            fs::write(far.join(name), name).unwrap();
            let place = if name.contains('.') { data.join("sb") } else { data.clone() };
            symlink(far.join(name), place.join(name)).unwrap();
            let mut roots = Roots::new(&data, &BTreeMap::new()).unwrap();
            let found = scan(&mut roots, &Rules::default(), Tolerance::None).unwrap();
            let place = far.join(name);
            let there = found.iter().any(|f| locate(&roots, &f.entry.path).unwrap() == place);
            assert!(there && roots.get("external-1").unwrap().path == far, "{name}");
        }
    }

    #[test]
    fn a_data_file_that_would_arrive_as_a_bare_link_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let base = fs::canonicalize(dir.path()).unwrap();
        let (data, undo) = (base.join("data"), base.join("undo"));
        fs::create_dir_all(data.join("sb")).unwrap();
        fs::create_dir_all(&undo).unwrap();
        fs::write(undo.join("t.ibd"), "t").unwrap();
        fs::write(data.join("s.err"), "t").unwrap();
        for (link, target, why) in [
            ("ibdata1", Path::new("/nowhere"), "leads to nothing"),
            ("sb/t.ibd", Path::new("gone.ibd"), "leads to nothing"),
            ("sb/t.ibd", &undo.join("t.ibd"), "which is not sent"),
            ("ib_logfile0", Path::new("s.err"), "which is not sent"),
        ] {
            symlink(target, data.join(link)).unwrap();
            for tolerance in [Tolerance::None, Tolerance::Vanished] {
                let paths = BTreeMap::from([("innodb-undo".parse().unwrap(), undo.clone())]);
                let error = scan(&mut Roots::new(&data, &paths).unwrap(), &Rules::default(), tolerance).unwrap_err();
                let said = error.sentence();
                assert!(said.contains(why) && said.contains(link), "{link}: {said}");
            }
            fs::remove_file(data.join(link)).unwrap();
        }
    }

    #[test]
    fn what_is_the_nodes_own_stays_at_any_depth_and_is_named() {
        use super::super::own::{Own, OwnName, OwnPath};
        let dir = tempfile::tempdir().unwrap();
        let data = fs::canonicalize(dir.path()).unwrap();
        for name in ["logs", "db", "tmp/deep", "tls", "ibtmp_archive", "undo7", "lost+found", ".ssh", "empty"] {
            fs::create_dir_all(data.join(name)).unwrap();
        }
        for name in [
            "ibdata1",
            "galera.cache",
            "logs/e",
            "logs/e.1",
            "db/x",
            "db/x.ibd",
            "db/t.ibd",
            "tmp/deep/#sql_1.MAD",
            "tls/a.pem",
            "undo7/db.opt",
            ".ssh/id",
        ] {
            fs::write(data.join(name), name).unwrap();
        }
        fs::write(data.join("db/odd"), "x\n-----BEGIN EC PRIVATE KEY-----\n").unwrap();
        let path = |directory: PathBuf, name: OwnName, option: &str| OwnPath { directory, name, option: option.into() };
        let own = Own::from_iter([
            path(data.join("logs"), OwnName::File("e".into()), "log-error"),
            path(data.join("db"), OwnName::File("x".into()), "general-log-file"),
            path(data.clone(), OwnName::Directory("tmp".into()), "tmpdir"),
        ]);
        let rules = Rules::new(Vec::new(), own);
        let mut roots = Roots::new(&data, &BTreeMap::new()).unwrap();
        let scanned = scan_fully(&mut roots, &rules, Tolerance::None).unwrap();
        assert_eq!(
            names(&scanned.found),
            [
                "datadir/db",
                "datadir/db/t.ibd",
                "datadir/db/x.ibd",
                "datadir/empty",
                "datadir/ibtmp_archive",
                "datadir/undo7",
                "datadir/undo7/db.opt",
                "innodb-data/ibdata1",
            ]
        );
        assert_eq!(
            scanned.stays,
            [
                ".ssh",
                "db/odd",
                "db/x (general-log-file)",
                "galera.cache",
                "logs/e (log-error)",
                "logs/e.1 (log-error)",
                "lost+found",
                "tls/a.pem",
                "tmp (tmpdir)",
            ]
        );
    }
}
