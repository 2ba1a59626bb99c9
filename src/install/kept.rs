//! What a failed attempt has left for the next one: plain files in the directories of the server's own roots.
//!
//! Files,
//! because a server lists every directory as a schema. Their content is never trusted: it only hints at what need not
//! be sent, and whoever uses it reads it all again. So no name here is followed anywhere: only regular files with a
//! single name, owned by this node's user, count.
//!
//! There are none in directories outside ([`Scope::Listed`]): whoever removes kept files must know
//! where to look.

use std::collections::HashSet;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::io::ErrorKind;
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use rustix::fs::{FileType, Mode, Stat, Timespec, Timestamps, UTIME_NOW};

use super::dir::Dir;
use super::failpoint;
use super::keep::HOME;
use super::resolved_roots::ResolvedRoots;
use super::reuse::Reuse;
use super::server_locks::locked_by_servers;
use super::switched_root::{INCOMING, SEEDS};
use crate::error::{Error, Result};
use crate::manifest::Escaped;
use crate::progress::bytes;
use crate::tree::{RelPath, Root, Roots, Scope, Shape, row};

/// The prefix of a kept file's name; its path beneath the root follows.
pub const KEPT: &str = ".highline.kept.";
/// Bytes. Shorter files are simply sent again.
const LEAST: u64 = 64 << 10;
/// `NAME_MAX`.
const LONGEST: usize = 255;
/// Nothing is kept for longer: by then the donor's tree has moved on.
const LIFETIME: Duration = Duration::from_secs(7 * 24 * 60 * 60);

/// A file left by an earlier attempt.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct KeptFile {
    /// Its path on a donor.
    pub path: RelPath,
    /// Its length in bytes; parts that have not arrived are holes.
    pub size: u64,
    /// The bytes allocated to it, and on which filesystem.
    pub allocated: u64,
    pub device: u64,
    /// Its name in its root's directory.
    pub(super) name: OsString,
}

impl KeptFile {
    /// Its name in its root's directory.
    pub fn name(&self) -> &OsStr {
        &self.name
    }
}

/// A number of kept files, and the bytes allocated to them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Tally {
    pub files: u64,
    pub bytes: u64,
}

impl Tally {
    fn add(&mut self, bytes: u64) {
        self.files += 1;
        self.bytes = self.bytes.saturating_add(bytes);
    }

    pub fn of(files: &[KeptFile]) -> Tally {
        let mut tally = Tally::default();
        files.iter().for_each(|file| tally.add(file.allocated));
        tally
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let plural = if self.files == 1 { "" } else { "s" };
        write!(f, "{} in {} file{plural}", bytes(self.bytes), self.files)
    }
}

fn allocated(stat: &Stat) -> u64 {
    u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512)
}

/// `None` if the name would be too long.
fn kept_name(beneath: &Path) -> Option<OsString> {
    let mut name = KEPT.as_bytes().to_vec();
    for &byte in beneath.as_os_str().as_bytes() {
        match byte {
            b' '..=b'~' if byte != b'%' && byte != b'/' => name.push(byte),
            _ => name.extend_from_slice(format!("%{byte:02x}").as_bytes()),
        }
    }
    (name.len() <= LONGEST).then(|| OsString::from_vec(name))
}

/// The path that a kept file stands for; `None` for a name that we would not have made.
fn path_of(name: &OsStr) -> Option<OsString> {
    let text = name.to_str()?.strip_prefix(KEPT)?.to_owned();
    let path = OsString::from_vec(Escaped::try_from(text).ok()?.into_bytes());
    (kept_name(Path::new(&path)).as_deref() == Some(name)).then_some(path)
}

/// Whether it is a file with a single name that is worth keeping.
fn is_plain(stat: &Stat) -> bool {
    FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile
        && stat.st_nlink == 1
        && u64::try_from(stat.st_size).is_ok_and(|size| size >= LEAST)
}

/// Whether a file may be read from and written to: nobody else has another name for it or can have it open for writing.
fn is_ours(stat: &Stat, directory: &Stat) -> bool {
    is_plain(stat) && (stat.st_uid == directory.st_uid || stat.st_uid == rustix::process::geteuid().as_raw())
}

/// The directories that may hold kept files; missing ones are skipped.
fn directories(roots: &Roots) -> Result<Vec<Dir>> {
    let mut open = Vec::new();
    for path in roots.directories() {
        if roots.iter().all(|root| root.path != path || root.scope == Scope::Listed) {
            continue;
        }
        match path.symlink_metadata() {
            Err(error) if error.kind() == ErrorKind::NotFound => {}
            _ => open.push(Dir::open(path)?),
        }
    }
    Ok(open)
}

/// All usable kept files, directory by directory.
pub fn kept(roots: &Roots) -> Result<Vec<KeptFile>> {
    let mut all = Vec::new();
    for dir in directories(roots)? {
        let about = dir.stat()?;
        for (name, _) in dir.entries()?.into_iter().filter(|(name, _)| name.as_bytes().starts_with(KEPT.as_bytes())) {
            let Some(stat) = dir.stat_of(&name)?.filter(|stat| is_ours(stat, &about)) else { continue };
            let Some(path) = path_of(&name).and_then(|beneath| wire_path(roots, dir.path(), Path::new(&beneath)))
            else {
                continue;
            };
            let size = u64::try_from(stat.st_size).unwrap_or(0);
            all.push(KeptFile { path, size, allocated: allocated(&stat), device: stat.st_dev, name });
        }
    }
    Ok(all)
}

/// The donor's path for the file at `beneath` in this directory; `None` for what it would never send.
fn wire_path(roots: &Roots, directory: &Path, beneath: &Path) -> Option<RelPath> {
    let mut parts = beneath.iter();
    let first = parts.next()?;
    let rest = parts.as_path();
    let shape = if rest.as_os_str().is_empty() { Shape::File } else { Shape::Directory };
    let root = roots.owner(directory, first, shape)?;
    let mut wire = PathBuf::from(&*root.wire_name(first));
    if shape == Shape::Directory {
        wire.push(rest);
    }
    RelPath::new(&root.name, wire.as_os_str().as_bytes()).ok()
}

/// Removes all kept files, and whatever else has such a name and is not a directory.
///
/// # Errors
/// The first that could not be removed; what could is gone.
pub fn drop_kept(roots: &Roots) -> Result<Tally> {
    drop_where(roots, |_, _| true)
}

/// The same, except for the files at these places.
pub fn drop_kept_but(roots: &Roots, stay: &HashSet<PathBuf>) -> Result<Tally> {
    drop_where(roots, |place, _| !stay.contains(place))
}

/// Removes what was kept more than seven days before `now`.
pub(super) fn drop_aged(roots: &Roots, now: SystemTime) -> Result<Tally> {
    drop_where(roots, |_, stat| {
        let kept = UNIX_EPOCH + Duration::from_secs(u64::try_from(stat.st_mtime).unwrap_or(0));
        // A clock that was wrong then, or is wrong now, must not keep it forever.
        now.duration_since(kept).unwrap_or_else(|ahead| ahead.duration()) > LIFETIME
    })
}

fn drop_where(roots: &Roots, goes: impl Fn(&Path, &Stat) -> bool) -> Result<Tally> {
    let (mut tally, mut first) = (Tally::default(), Ok(()));
    for dir in directories(roots)? {
        for (name, kind) in dir.entries()? {
            if !name.as_bytes().starts_with(KEPT.as_bytes()) || kind == FileType::Directory {
                continue;
            }
            let Some(stat) = dir.stat_of(&name)?.filter(|stat| goes(&dir.join(&name), stat)) else { continue };
            match failpoint::past(dir.remove(&name))? {
                Ok(()) => tally.add(allocated(&stat)),
                Err(error) => first = first.and(Err(error)),
            }
        }
    }
    first.map(|()| tally)
}

/// Keeps what attempts have staged in these roots. May be interrupted and repeated.
pub(super) fn harvest_staged(roots: &Roots) -> Result<()> {
    for root in roots.iter().filter(|root| root.scope != Scope::Listed && root.path.exists()) {
        let dir = Dir::open(&root.path)?;
        let Some(home) = dir.find(HOME)? else { continue };
        if let Some(seeds) = home.find(SEEDS)?.map(|all| all.find(root.name.as_str())).transpose()?.flatten() {
            for name in seeds.names()?.iter().filter(|name| path_of(name).is_some()) {
                let _ = failpoint::past(keep(&seeds, name, &dir, name))?;
            }
        }
        Harvest { root, to: &dir, was_switched: false }.of_root(&home, INCOMING)?;
    }
    Ok(())
}

/// Keeps what is in the directory `kind` of a switch: a new tree that did not come into place, or an old one that is
/// removed first.
pub(super) fn harvest_switched(resolved: &ResolvedRoots, kind: &str) -> Result<()> {
    for root in resolved.roots.iter().filter(|root| root.scope != Scope::Listed) {
        let dir = Dir::open(&root.path)?;
        if let Some(home) = dir.find(HOME)? {
            Harvest { root, to: &dir, was_switched: true }.of_root(&home, kind)?;
        }
    }
    Ok(())
}

/// Moves the files of an abandoned tree to their kept names.
pub(super) struct Harvest<'a> {
    pub(super) root: &'a Root,
    /// The root's directory.
    pub(super) to: &'a Dir,
    /// A server may have opened this tree's files and be waiting for a lock on them. It must then find them empty
    /// ([`super::server_locks::ServerLocks::release`]), so those files are not kept.
    pub(super) was_switched: bool,
}

impl<'a> Harvest<'a> {
    /// For an old tree that is removed first; `None` if nothing of it may stay.
    pub(super) fn of_old_tree(resolved: &ResolvedRoots, root: &'a Root, to: &'a Dir) -> Option<Harvest<'a>> {
        let stays = resolved.reuse == Reuse::Auto && root.scope != Scope::Listed;
        stays.then_some(Harvest { root, to, was_switched: true })
    }

    /// Keeps everything in the root's directory `kind`. What cannot be kept is left there.
    pub(super) fn of_root(&self, home: &Dir, kind: &str) -> Result<()> {
        let Some(trees) = home.find(kind)? else { return Ok(()) };
        match trees.find(self.root.name.as_str())? {
            Some(tree) => self.beneath(&tree, Path::new("")),
            None => Ok(()),
        }
    }

    fn beneath(&self, from: &Dir, at: &Path) -> Result<()> {
        from.entries()?.into_iter().try_for_each(|(name, kind)| self.take(from, &name, kind, at))
    }

    /// Keeps `name` in `from`; `at` is the path of `from` beneath the root.
    pub(super) fn take(&self, from: &Dir, name: &OsStr, kind: FileType, at: &Path) -> Result<()> {
        failpoint::past(self.entry(from, name, kind, at)).map(drop)
    }

    fn entry(&self, from: &Dir, name: &OsStr, kind: FileType, at: &Path) -> Result<()> {
        let place = at.join(name);
        if kind == FileType::Directory && place.components().count() < RelPath::MAX_PARTS {
            from.open_up(name, Mode::RWXU)?;
            return self.beneath(&from.child(name)?, &place);
        }
        let first_level = at.as_os_str().is_empty();
        let never_sent = || row(name, Shape::File).is_some_and(|row| !row.sent);
        let locked = || self.was_switched && locked_by_servers(self.root, name.as_bytes());
        if kind != FileType::RegularFile || (first_level && (never_sent() || locked())) {
            return Ok(());
        }
        kept_name(&place).map_or(Ok(()), |kept| keep(from, name, self.to, &kept))
    }
}

/// Moves one file to a kept name, unless it is not ours to keep or more of it is kept already.
fn keep(from: &Dir, name: &OsStr, to: &Dir, kept: &OsStr) -> Result<()> {
    if !from.stat_of(name)?.as_ref().is_some_and(is_plain) {
        return Ok(());
    }
    let about = to.stat()?;
    let path = from.join(name);
    let failed = |e| Error::io("cannot keep", &path, e);
    let file = from.open_any(name)?;
    // If this process is root, a file still being written belongs to root.
    to.give(&file, &path)?;
    let stat = rustix::fs::fstat(&file).map_err(failed)?;
    if !is_ours(&stat, &about) {
        return Ok(());
    }
    let more = |there: Stat| is_ours(&there, &about) && there.st_blocks > stat.st_blocks;
    if to.stat_of(kept)?.is_some_and(more) {
        return Ok(());
    }
    rustix::fs::fchmod(&file, Mode::RUSR | Mode::WUSR).map_err(failed)?;
    // Its age counts from now, not from the donor's file time.
    let now = Timespec { tv_sec: 0, tv_nsec: UTIME_NOW };
    rustix::fs::futimens(&file, &Timestamps { last_access: now, last_modification: now }).map_err(failed)?;
    from.rename(name, to, kept)
}

/// Moves one kept file to the seeds, if it has not changed since it was found.
pub(super) fn take(dir: &Dir, name: &OsStr, seeds: &Dir) -> Result<bool> {
    let about = dir.stat()?;
    if !dir.stat_of(name)?.is_some_and(|stat| is_ours(&stat, &about)) {
        return Ok(false);
    }
    dir.rename(name, seeds, name)?;
    Ok(seeds.stat_of(name)?.is_some_and(|stat| is_ours(&stat, &about)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::failpoint::{Plan, arm, is_crash, steps};
    use crate::install::{DirLock, KeepRules, OldTree, Staging, clear_earlier, discard};
    use crate::tree::RootName;
    use std::collections::BTreeMap;
    use std::fs;
    use std::os::unix::fs::{MetadataExt, PermissionsExt, symlink};
    use std::sync::Arc;

    const LARGE: usize = LEAST as usize;

    /// A data directory with a redo log of its own place, whose binary logs are called `db1`.
    struct Ground {
        temp: tempfile::TempDir,
        roots: Roots,
        lock: Arc<DirLock>,
    }

    impl Ground {
        fn new() -> Ground {
            let temp = tempfile::tempdir().unwrap();
            let places = ["data", "redo", "outside"].map(|name| temp.path().join(name));
            places.iter().for_each(|place| fs::create_dir(place).unwrap());
            let paths = [(RootName::INNODB_LOG, &places[1]), ("external-1", &places[2])]
                .map(|(name, place)| (name.parse().unwrap(), place.clone()));
            let mut roots = Roots::new(&places[0], &BTreeMap::from(paths)).unwrap();
            let binlog = roots.get_mut(RootName::BINLOG).unwrap();
            (binlog.scope, binlog.stem) = (Scope::Names(vec!["db1.#".into()]), Some("db1".into()));
            let lock = Arc::new(DirLock::take(&places[0]).unwrap());
            Ground { temp, roots, lock }
        }

        fn at(&self, name: &str) -> PathBuf {
            self.temp.path().join(name)
        }

        fn write(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
            let place = self.at(name);
            fs::create_dir_all(place.parent().unwrap()).unwrap();
            fs::write(&place, content).unwrap();
            place
        }

        fn stage(&self) -> Staging {
            let (lock, rules) = (Arc::clone(&self.lock), KeepRules::default());
            Staging::prepare(lock, &self.roots, rules, OldTree::Stays, Reuse::Auto).unwrap()
        }

        /// An attempt that came so far.
        fn attempt(&self) -> Staging {
            let staging = self.stage();
            for name in ["datadir/shop/t.ibd", "datadir/shop/t#P#p%0.ibd", "binlog/db1.000007"] {
                self.write(&format!("data/.highline/incoming/{name}"), vec![7; LARGE]);
            }
            self.write("redo/.highline/incoming/innodb-log/ib_logfile0", vec![8; LARGE + 1]);
            self.write("data/.highline/incoming/datadir/shop/small.ibd", vec![7; LARGE - 1]);
            self.write("outside/.highline/incoming/external-1/far.ibd", vec![7; LARGE]);
            self.write(&format!("data/.highline/incoming/datadir/shop/{}.ibd", "n".repeat(245)), vec![7; LARGE]);
            staging
        }

        fn kept(&self) -> Vec<String> {
            kept(&self.roots).unwrap().iter().map(|file| format!("{} {}", file.path, file.size)).collect()
        }

        fn names(&self, of: &str) -> Vec<String> {
            let names = fs::read_dir(self.at(of)).unwrap().map(|item| item.unwrap().file_name());
            let mut names: Vec<String> = names.map(|name| name.to_string_lossy().into_owned()).collect();
            names.sort();
            names
        }
    }

    const ALL: [&str; 4] = [
        "binlog/binlog.000007 65536",
        "datadir/shop/t#P#p%0.ibd 65536",
        "datadir/shop/t.ibd 65536",
        "innodb-log/ib_logfile0 65537",
    ];

    #[test]
    fn names_are_read_as_they_are_written_and_no_others() {
        for path in ["ibdata1", "shop/t.ibd", "a/b/c", "a%2fb", "a\n/\u{e9} b", "%", "\u{ff}"] {
            let name = kept_name(Path::new(path)).unwrap();
            assert!(!name.as_bytes().contains(&b'/'));
            assert_eq!(path_of(&name).as_deref(), Some(OsStr::new(path)), "{name:?}");
        }
        assert_eq!(kept_name(Path::new("shop/t.ibd")).unwrap(), ".highline.kept.shop%2ft.ibd");
        assert!(kept_name(Path::new(&"x".repeat(240))).is_some() && kept_name(Path::new(&"x".repeat(241))).is_none());
        for foreign in ["%2F", "%", "%2", "%zz", "%41", "%2f%2", "a/b", "\n", "%+f"] {
            assert_eq!(path_of(OsStr::new(&format!("{KEPT}{foreign}"))), None, "{foreign}");
        }
        assert_eq!(path_of(OsStr::new(".highline.manifest")), None);
    }

    proptest::proptest! {
        #[test]
        fn any_path_comes_back(path in proptest::collection::vec(proptest::num::u8::ANY, 0..120)) {
            let path = OsString::from_vec(path);
            if let Some(name) = kept_name(Path::new(&path)) {
                proptest::prop_assert_eq!(path_of(&name), Some(path));
            }
        }

        #[test]
        fn no_name_ends_the_process(name in proptest::collection::vec(proptest::num::u8::ANY, 0..60)) {
            let name = OsString::from_vec([KEPT.as_bytes(), &name].concat());
            if let Some(path) = path_of(&name) {
                proptest::prop_assert_eq!(kept_name(Path::new(&path)), Some(name));
            }
        }
    }

    #[test]
    fn what_was_staged_stays_as_plain_files_and_becomes_seeds() {
        let ground = Ground::new();
        let staging = ground.attempt();
        fs::set_permissions(ground.at("data/.highline/incoming/datadir/shop"), fs::Permissions::from_mode(0o500))
            .unwrap();
        let old = ground.at("data/.highline/incoming/datadir/shop/t.ibd");
        fs::File::open(&old).unwrap().set_modified(UNIX_EPOCH).unwrap();
        fs::set_permissions(&old, fs::Permissions::from_mode(0o040)).unwrap();
        drop(staging);
        discard(&ground.lock, &ground.roots, Reuse::Staged).unwrap();
        assert_eq!(ground.kept(), ALL);
        let plain = ["binlog", "shop"].len();
        assert_eq!(ground.names("data").len(), plain + 2, "{:?}", ground.names("data"));
        assert!(ground.names("outside").is_empty());
        let stat = fs::metadata(ground.at("data/.highline.kept.shop%2ft.ibd")).unwrap();
        assert_eq!(stat.mode() & 0o777, 0o600);
        assert!(stat.modified().unwrap().elapsed().unwrap() < Duration::from_secs(60));

        let staging = ground.stage();
        for file in kept(&ground.roots).unwrap() {
            let name = staging.take_kept(&file).unwrap().unwrap();
            assert_eq!(staging.take_kept(&file).unwrap(), None);
            let seeds = staging.seeds(file.path.root_str()).unwrap();
            assert_eq!(
                rustix::fs::statat(seeds, name, rustix::fs::AtFlags::empty()).unwrap().st_size as u64,
                file.size
            );
        }
        assert_eq!(ground.kept(), [""; 0]);
        // What nobody adopted is as it was.
        discard(&ground.lock, &ground.roots, Reuse::Staged).unwrap();
        assert_eq!(ground.kept(), ALL);
        assert_eq!(drop_kept(&ground.roots).unwrap().files, 4);
        assert_eq!(ground.names("data"), [".highline.lock"]);
        ground.attempt();
        discard(&ground.lock, &ground.roots, Reuse::Off).unwrap();
        assert_eq!(ground.names("data"), [".highline.lock"]);
    }

    #[test]
    fn a_crash_at_every_step_loses_nothing_that_was_staged() {
        type End = fn(&Ground) -> Result<()>;
        let tries: [(&str, End); 2] = [
            ("discard", |ground| discard(&ground.lock, &ground.roots, Reuse::Auto)),
            ("clear_earlier", |ground| {
                clear_earlier(&ground.lock, &ground.roots, Reuse::Auto, SystemTime::now()).map(drop)
            }),
        ];
        for (name, end) in tries {
            let ground = Ground::new();
            ground.attempt();
            arm(Plan::Nothing);
            end(&ground).unwrap();
            let total = steps();
            assert!(total > 8, "{total}");
            for at in 0..total {
                let ground = Ground::new();
                ground.attempt();
                arm(Plan::Crash(at));
                let error = end(&ground).unwrap_err();
                arm(Plan::Nothing);
                assert!(is_crash(&error), "{name} {at}: {}", error.sentence());
                end(&ground).unwrap();
                assert_eq!(ground.kept(), ALL, "{name} {at}");
                let ground = Ground::new();
                ground.attempt();
                arm(Plan::Fail(at));
                let ended = end(&ground);
                arm(Plan::Nothing);
                // One that could not be kept goes with the rest.
                assert!(ended.is_ok() || ground.kept() == ALL, "{name} {at}");
                assert!(ground.kept().len() >= 3, "{name} {at}");
            }
        }
    }

    #[test]
    fn of_two_the_one_with_more_in_it_stays() {
        for (there, staged, expected) in [(LARGE, 3 * LARGE, 7), (3 * LARGE, LARGE, 1), (LARGE, LARGE, 7)] {
            let ground = Ground::new();
            let sparse = |name: &str, byte: u8, filled: usize| {
                let place = ground.write(name, vec![byte; filled]);
                fs::File::options().write(true).open(&place).unwrap().set_len(4 * LEAST).unwrap();
            };
            sparse("data/.highline.kept.shop%2ft.ibd", 1, there);
            let _staging = ground.stage();
            sparse("data/.highline/incoming/datadir/shop/t.ibd", 7, staged);
            discard(&ground.lock, &ground.roots, Reuse::Auto).unwrap();
            assert_eq!(ground.kept().len(), 1);
            assert_eq!(fs::read(ground.at("data/.highline.kept.shop%2ft.ibd")).unwrap()[0], expected);
        }
    }

    #[test]
    fn foreign_things_are_neither_followed_nor_written_to_nor_listed() {
        let ground = Ground::new();
        let precious = ground.write("precious", vec![9; LARGE]);
        let plant = |name: &str| ground.at("data").join(name);
        let fill = || {
            symlink(&precious, plant(".highline.kept.a")).unwrap();
            fs::hard_link(&precious, plant(".highline.kept.b")).unwrap();
            rustix::fs::mknodat(rustix::fs::CWD, plant(".highline.kept.c"), FileType::Fifo, Mode::RUSR | Mode::WUSR, 0)
                .unwrap();
            ground.write("data/.highline.kept.d", vec![9; LARGE - 1]);
            ground.write("data/.highline.kept.x%2f..%2f..%2fprecious", vec![9; LARGE]);
            ground.write("data/.highline.kept.%2fetc", vec![9; LARGE]);
            ground.write("data/.highline.kept.%2F", vec![9; LARGE]);
            ground.write("data/.highline.kept.undo", vec![9; LARGE]);
        };
        fill();
        fs::create_dir(plant(".highline.kept.dir")).unwrap();
        let good = "datadir/undo 65536";
        assert_eq!(ground.kept(), [good]);
        // What was found may be something else when it is taken.
        let staging = ground.stage();
        let file = kept(&ground.roots).unwrap().remove(0);
        for planted in [".highline.kept.a", ".highline.kept.b", ".highline.kept.c"] {
            let other = KeptFile { name: planted.into(), ..file.clone() };
            assert_eq!(staging.take_kept(&other).unwrap(), None, "{planted}");
            assert!(plant(planted).symlink_metadata().is_ok());
        }
        // Staged things of the same names take their places, or go; so do staged things that are not plain files.
        for name in ["a", "b", "c", "dir"] {
            ground.write(&format!("data/.highline/incoming/datadir/{name}"), vec![7; LARGE]);
        }
        fs::hard_link(&precious, ground.at("data/.highline/incoming/datadir/linked")).unwrap();
        symlink(&precious, ground.at("data/.highline/incoming/datadir/led")).unwrap();
        symlink(ground.at("redo"), ground.at("data/.highline/incoming/datadir/away")).unwrap();
        ground.write("redo/letter", vec![9; LARGE]);
        symlink(&precious, ground.at("data/.highline/seeds/datadir/.highline.kept.led")).unwrap();
        fs::hard_link(&precious, ground.at("data/.highline/seeds/datadir/.highline.kept.linked")).unwrap();
        drop(staging);
        discard(&ground.lock, &ground.roots, Reuse::Auto).unwrap();
        assert_eq!(ground.kept(), ["datadir/a 65536", "datadir/b 65536", "datadir/c 65536", good]);
        assert!(ground.at("redo/letter").exists() && plant(".highline.kept.dir").is_dir());
        drop_kept(&ground.roots).unwrap();
        fill();
        drop_kept(&ground.roots).unwrap();
        assert_eq!(ground.names("data"), [".highline.kept.dir", ".highline.lock"]);
        let stat = fs::metadata(&precious).unwrap();
        assert_eq!((fs::read(&precious).unwrap(), stat.nlink()), (vec![9; LARGE], 1));
    }

    #[test]
    fn another_users_file_is_not_ours() {
        if !rustix::process::geteuid().is_root() {
            eprintln!("skipped: this needs root");
            return;
        }
        let ground = Ground::new();
        let own = |name: &str, user| std::os::unix::fs::chown(ground.at(name), Some(user), Some(user)).unwrap();
        own("data", 12_345);
        ground.write("data/.highline.kept.mine", vec![9; LARGE]);
        own("data/.highline.kept.mine", 12_345);
        ground.write("data/.highline.kept.theirs", vec![9; LARGE]);
        own("data/.highline.kept.theirs", 54_321);
        assert_eq!(ground.kept(), ["datadir/mine 65536"]);
        // Root's own staged file becomes the owner's.
        let _staging = ground.stage();
        ground.write("data/.highline/incoming/datadir/t", vec![7; LARGE]);
        discard(&ground.lock, &ground.roots, Reuse::Auto).unwrap();
        assert_eq!(fs::metadata(ground.at("data/.highline.kept.t")).unwrap().uid(), 12_345);
    }

    #[test]
    fn nothing_is_kept_for_ever() {
        let ground = Ground::new();
        let now = SystemTime::now();
        let day = Duration::from_secs(24 * 60 * 60);
        for (name, time) in [("old", now - 8 * day), ("new", now - 6 * day), ("ahead", now + 8 * day)] {
            let place = ground.write(&format!("data/.highline.kept.{name}"), vec![9; LARGE]);
            fs::File::open(place).unwrap().set_modified(time).unwrap();
        }
        let gone = clear_earlier(&ground.lock, &ground.roots, Reuse::Staged, now).unwrap();
        assert_eq!((gone.files, ground.kept()), (2, vec!["datadir/new 65536".to_owned()]));
        clear_earlier(&ground.lock, &ground.roots, Reuse::Off, now).unwrap();
        assert_eq!(ground.kept(), [""; 0]);
        fs::remove_dir(ground.at("redo")).unwrap();
        assert_eq!(drop_kept(&ground.roots).unwrap(), Tally::default());
    }
}
