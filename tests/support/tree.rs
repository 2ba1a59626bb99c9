//! Trees on disk: how tests make them, and compare two.

use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::fs::{self, File};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::{FileExt, MetadataExt, PermissionsExt, symlink};
use std::path::{Path, PathBuf};
use std::time::{Duration, UNIX_EPOCH};

pub const MIB: u64 = 1 << 20;

/// Everything that a transfer keeps of an entry.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    mode: u32,
    owner: (u32, u32),
    mtime: (i64, i64),
    content: Content,
    xattrs: Vec<(String, Vec<u8>)>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Content {
    Directory,
    File {
        size: u64,
        digest: blake3::Hash,
    },
    Link(Vec<u8>),
    /// Another name of the file at this path.
    Same(Vec<u8>),
}

pub type Tree = BTreeMap<Vec<u8>, Node>;

/// Reads a tree. What belongs to a node alone, beneath its first level, is left out.
pub fn read(root: &Path) -> Tree {
    let mut tree = Tree::new();
    walk(root, root, &mut tree, &mut HashMap::new());
    tree
}

fn private(name: &OsStr) -> bool {
    let text = name.to_string_lossy();
    text.starts_with(".highline") || matches!(&*text, "grastate.dat" | "galera.cache") || text.ends_with(".pem")
}

fn walk(root: &Path, directory: &Path, tree: &mut Tree, seen: &mut HashMap<u64, Vec<u8>>) {
    let mut names: Vec<_> = fs::read_dir(directory).unwrap().map(|item| item.unwrap().file_name()).collect();
    names.sort();
    for name in names {
        let place = directory.join(&name);
        if directory == root && private(&name) {
            continue;
        }
        let path = place.strip_prefix(root).unwrap().as_os_str().as_bytes().to_vec();
        let stat = fs::symlink_metadata(&place).unwrap();
        let content = if stat.is_dir() {
            Content::Directory
        } else if stat.is_symlink() {
            Content::Link(fs::read_link(&place).unwrap().as_os_str().as_bytes().to_vec())
        } else if let Some(first) = seen.get(&stat.ino()).filter(|_| stat.nlink() > 1) {
            Content::Same(first.clone())
        } else {
            seen.insert(stat.ino(), path.clone());
            let mut hasher = blake3::Hasher::new();
            hasher.update_reader(File::open(&place).unwrap()).unwrap();
            Content::File { size: stat.len(), digest: hasher.finalize() }
        };
        let node = Node {
            mode: stat.mode() & 0o7777,
            owner: (stat.uid(), stat.gid()),
            mtime: (stat.mtime(), stat.mtime_nsec()),
            xattrs: if stat.is_symlink() { vec![] } else { attributes(&place) },
            content,
        };
        tree.insert(path, node);
        if stat.is_dir() {
            walk(root, &place, tree, seen);
        }
    }
}

fn attributes(place: &Path) -> Vec<(String, Vec<u8>)> {
    let mut names = vec![0; 65536];
    let length = rustix::fs::llistxattr(place, names.as_mut_slice()).unwrap_or(0);
    let names = names[..length].split(|&b| b == 0).filter(|name| name.starts_with(b"user."));
    let mut found: Vec<_> = names
        .map(|name| {
            let name = std::str::from_utf8(name).unwrap();
            let mut value = vec![0; 65536];
            let length = rustix::fs::lgetxattr(place, name, value.as_mut_slice()).unwrap();
            value.truncate(length);
            (name.to_owned(), value)
        })
        .collect();
    found.sort();
    found
}

/// Panics with the names of what differs.
#[track_caller]
pub fn assert_equal(left: &Path, right: &Path) {
    assert_same(&read(left), &read(right));
}

#[track_caller]
pub fn assert_same(left: &Tree, right: &Tree) {
    let names = left.keys().chain(right.keys().filter(|name| !left.contains_key(*name)));
    let differing = names.filter(|name| left.get(*name) != right.get(*name));
    let told: Vec<String> = differing
        .take(5)
        .map(|name| format!("{}: {:?} and {:?}", String::from_utf8_lossy(name), left.get(name), right.get(name)))
        .collect();
    assert!(told.is_empty(), "the trees differ:\n{}", told.join("\n"));
}

/// A number that is the same for the same seed.
pub fn random(seed: u64) -> u64 {
    u64::from_le_bytes(blake3::hash(&seed.to_le_bytes()).as_bytes()[..8].try_into().unwrap())
}

/// Bytes that do not compress, the same for the same seed.
pub fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut bytes = vec![0; length];
    blake3::Hasher::new().update(&seed.to_le_bytes()).finalize_xof().fill(&mut bytes);
    bytes
}

/// Writes a file, with the directories above it.
pub fn file(root: &Path, name: impl AsRef<Path>, content: impl AsRef<[u8]>) -> PathBuf {
    let place = root.join(name);
    fs::create_dir_all(place.parent().unwrap()).unwrap();
    fs::write(&place, content).unwrap();
    place
}

/// Adds what every data directory has, if it is missing: a donor offers no less.
pub fn complete(root: &Path) {
    for (name, content) in [
        ("ibdata1", "x"),
        ("ib_logfile0", "x"),
        ("aria_log_control", "x"),
        ("mysql/db.opt", "default-character-set=utf8mb4"),
    ] {
        if root.join(name).symlink_metadata().is_err() {
            file(root, name, content);
        }
    }
}

/// A tree that looks like an old data directory.
pub fn old(root: &Path) {
    complete(root);
    file(root, "ibdata1", noise(1, 300_000));
    file(root, "ib_logfile0", noise(2, 200_000));
    file(root, "old_schema/t1.ibd", noise(3, 100_000));
    file(root, "old_schema/t2.ibd", "two");
    symlink("/nowhere/at/all", root.join("old_link")).unwrap();
}

/// A tree of `mib` MiB in one large file and some small ones.
pub fn plain(root: &Path, mib: u64) {
    complete(root);
    file(root, "ibdata1", noise(7, (mib * MIB) as usize));
    file(root, "ib_logfile0", noise(8, 70_000));
    for number in 0..50u64 {
        file(root, format!("schema/t{number}.ibd"), noise(100 + number, (number * 700) as usize));
    }
}

/// One of everything that a filesystem can hold and a transfer carries.
pub fn everything(root: &Path) {
    complete(root);
    file(root, "ibdata1", noise(1, (3 * MIB + 17) as usize));
    file(root, "ib_logfile0", vec![0; 2 * MIB as usize]);
    file(root, "large", noise(2, (2 * MIB) as usize));
    file(root, "empty", "");
    file(root, "text", "compress me ".repeat(100_000));
    let names: [&[u8]; 6] = [b"new\nline", b"\xff\xfe.ibd", b" ", b"-rf", b"a\\b*?[", "\u{202e}\u{e9}".as_bytes()];
    for (number, name) in (0u64..).zip(names) {
        file(root, Path::new("odd").join(OsStr::from_bytes(name)), noise(number, 10));
        file(root, Path::new(OsStr::from_bytes(name)).join("inside"), noise(number, 10));
    }
    let deep: PathBuf = ["d"; 60].iter().collect();
    file(root, deep.join("x"), "deep");
    file(root, "n".repeat(255), "long name");
    fs::create_dir_all(root.join("hollow/inner")).unwrap();

    symlink("ibdata1", root.join("link")).unwrap();
    symlink(OsStr::from_bytes(b"gone\n\xff"), root.join("dangling")).unwrap();
    symlink("../ibdata1", root.join("odd/up")).unwrap();
    fs::hard_link(root.join("text"), root.join("text again")).unwrap();
    fs::hard_link(root.join("large"), root.join("odd/large again")).unwrap();
    fs::hard_link(root.join("empty"), root.join("a first name of empty")).unwrap();

    holes(root);
    for (place, mode) in [("text", 0o1751), ("empty", 0o400), ("hollow", 0o1777), ("hollow/inner", 0o500)] {
        fs::set_permissions(root.join(place), fs::Permissions::from_mode(mode)).unwrap();
    }
    if rustix::process::geteuid().is_root() {
        std::os::unix::fs::chown(root.join("odd/ "), Some(12_345), Some(54_321)).unwrap();
    }
    for (name, value) in [("user.a", b"1".as_slice()), ("user.bytes", b"\0\n=\xff"), ("user.empty", b"")] {
        let set = rustix::fs::setxattr(root.join("ibdata1"), name, value, rustix::fs::XattrFlags::empty());
        if let Err(errno) = set {
            assert_eq!(errno, rustix::io::Errno::NOTSUP);
        }
    }
    let _ = rustix::fs::setxattr(root.join("hollow"), "user.dir", b"d", rustix::fs::XattrFlags::empty());
    for (place, nanos) in [("text", 1), ("hollow/inner", 999_999_999), ("hollow", 123_456_789)] {
        age(&root.join(place), 1_600_000_000, nanos);
    }
    age(&root.join("ib_logfile0"), 0, 5);
}

fn age(place: &Path, seconds: u64, nanos: u32) {
    File::open(place).unwrap().set_modified(UNIX_EPOCH + Duration::new(seconds, nanos)).unwrap();
}

fn holes(root: &Path) {
    let make = |name: &str, size: u64, pieces: &[(u64, usize)]| {
        let file = File::create(root.join(name)).unwrap();
        file.set_len(size).unwrap();
        for (at, length) in pieces {
            file.write_all_at(&noise(*at, *length), *at).unwrap();
        }
    };
    make("all hole", 20 * MIB + 1, &[]);
    make("hole first", 5 * MIB, &[(4 * MIB, MIB as usize)]);
    make("hole last", 5 * MIB, &[(0, 4096)]);
    let pages: Vec<_> = (0..200).map(|page| (page * 65536, 16384)).collect();
    make("punched", 200 * 65536, &pages);
}

/// Bytes that the filesystem has given to all files of a tree.
pub fn allocated(root: &Path) -> u64 {
    let mut sum = 0;
    for item in fs::read_dir(root).unwrap() {
        let stat = fs::symlink_metadata(item.as_ref().unwrap().path()).unwrap();
        if stat.is_dir() {
            sum += allocated(&item.unwrap().path());
        } else if stat.is_file() {
            sum += stat.blocks() * 512 / stat.nlink();
        }
    }
    sum
}
