//! The process is ended, or fails, at every step of a switch; the tree must be wholly old or wholly new.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::Arc;

use super::failpoint::{Plan, arm, is_crash, set_without_exchange, steps};
use super::*;
use crate::error::{Error, Kind, Result};
use crate::manifest::Verified;
use crate::tree::{Content, Own, OwnName, OwnPath, RelPath, Root, RootName, Roots, Scope};

/// Every path beneath a directory with its content; what the program keeps for itself is left out.
type Tree = BTreeMap<PathBuf, Vec<u8>>;

fn read(dir: &Path) -> Tree {
    fn walk(base: &Path, dir: &Path, tree: &mut Tree) {
        for entry in fs::read_dir(dir).unwrap() {
            let path = entry.unwrap().path();
            if path.file_name().unwrap().as_encoded_bytes().starts_with(b".highline") {
                continue;
            }
            let kind = fs::symlink_metadata(&path).unwrap().file_type();
            let content = if kind.is_symlink() {
                [b"-> ", fs::read_link(&path).unwrap().as_os_str().as_encoded_bytes()].concat()
            } else if kind.is_dir() {
                walk(base, &path, tree);
                b"directory".to_vec()
            } else {
                fs::read(&path).unwrap()
            };
            tree.insert(path.strip_prefix(base).unwrap().to_owned(), content);
        }
    }
    let mut tree = Tree::new();
    walk(dir, dir, &mut tree);
    tree
}

fn write(base: &Path, files: &[(&str, &str)]) {
    for (name, content) in files {
        let path = base.join(name);
        fs::create_dir_all(path.parent().unwrap()).unwrap();
        match content.strip_prefix("-> ") {
            Some(target) => symlink(target, path).unwrap(),
            None => fs::write(path, content).unwrap(),
        }
    }
}

/// A joiner with an old tree in five directories.
struct Joiner {
    /// With the layers of it, which go later.
    _mount: Option<(Mounted, tempfile::TempDir)>,
    temp: tempfile::TempDir,
    roots: Roots,
}

/// Something mounted by `mount(8)`, until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    /// `None` without the right to mount.
    fn new(words: &[&str], at: &Path) -> Option<Mounted> {
        let done = std::process::Command::new("mount").args(words).arg(at).output();
        done.is_ok_and(|done| done.status.success()).then(|| Mounted(at.to_owned()))
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = std::process::Command::new("umount").arg("-l").arg(&self.0).output();
    }
}

thread_local! {
    /// Joiners of this thread have their old tree in the lower layer of an overlay, as in a container's image.
    static IN_IMAGE: std::cell::Cell<bool> = const { std::cell::Cell::new(false) };
}

const OLD: &[(&str, &str)] = &[
    ("data/ibdata1", "old system"),
    ("data/ibdata2", "old system 2"),
    ("far/second", "old second"),
    ("data/aria_log_control", "old aria"),
    ("data/aria_log.00000001", "old aria log"),
    ("data/mysql/user.frm", "old user"),
    ("data/gone/t.ibd", "old only"),
    ("data/app/t.ibd", "old table"),
    ("data/link", "-> gone"),
    ("data/ddl_recovery.log", "stale"),
    ("data/becomes_dir", "a file"),
    ("data/becomes_file/x", "a directory"),
    ("redo/ib_logfile0", "old redo"),
    ("data/undo/undo001", "old undo"),
    ("data/undo/undo002", "old undo 2"),
    ("outside/t1.ibd", "old outside"),
];

/// Stays whatever happens.
const STAYS: &[(&str, &str)] = &[
    ("data/galera.cache", "cache"),
    ("data/db1.err", "log"),
    ("data/server-key.pem", "key"),
    ("data/slow", "kept by rule"),
    ("data/logs/e.log", "only the node's own"),
    ("data/app/slow.log", "the node's own in a schema that comes again"),
    ("data/gone/tmp/x", "the node's own in a schema that goes"),
    ("redo/letter.txt", "not ours"),
    ("far/letter.txt", "not ours"),
    ("data/undo/letter.txt", "not ours"),
    ("outside/letter.txt", "not ours"),
];

const GRASTATE: (&str, &str) = ("data/grastate.dat", "old position");

/// By root, as it is staged.
const NEW: &[(&str, &str)] = &[
    ("innodb-data/ibdata1", "new system"),
    ("aria-log/aria_log_control", "new aria"),
    ("aria-log/aria_log.00000001", "new aria log"),
    ("aria-log/aria_log.00000002", "new aria log 2"),
    ("datadir/mysql/user.frm", "new user"),
    ("datadir/app/t.ibd", "new table"),
    ("datadir/app2/deep/t.ibd", "new only"),
    ("datadir/becomes_dir/x", "now a directory"),
    ("datadir/becomes_file", "now a file"),
    ("datadir/odd\n%name", "-> /nowhere"),
    ("innodb-data-2/second", "new second"),
    ("innodb-log/ib_logfile0", "new redo"),
    ("innodb-undo/undo001", "new undo"),
    ("external-1/t1.ibd", "new outside"),
    ("external-1/t2.ibd", "new outside 2"),
];

fn keep(roots: &Roots) -> KeepRules {
    let data = roots.datadir();
    let own = |directory: &str, name, option: &str| OwnPath {
        directory: data.join(directory),
        name,
        option: option.to_owned(),
    };
    KeepRules::new(
        ["slow".to_owned()],
        Own::from_iter([
            own("logs", OwnName::File("e.log".into()), "log-error"),
            own("app", OwnName::File("slow.log".into()), "slow-query-log-file"),
            own("gone", OwnName::Directory("tmp".into()), "tmpdir"),
            own("nowhere", OwnName::Directory("tmp".into()), "tmpdir"),
        ]),
    )
}

fn directory_of(root: &str) -> &str {
    match root {
        "innodb-data-2" => "far",
        "innodb-log" => "redo",
        "innodb-undo" => "data/undo",
        "external-1" => "outside",
        _ => "data",
    }
}

fn tree_of(files: &[&[(&str, &str)]]) -> Tree {
    let temp = tempfile::tempdir().unwrap();
    for dir in ["data/undo", "redo", "far", "outside"] {
        fs::create_dir_all(temp.path().join(dir)).unwrap();
    }
    for files in files {
        write(temp.path(), files);
    }
    read(temp.path())
}

fn old_tree() -> Tree {
    tree_of(&[OLD, STAYS, &[GRASTATE]])
}

fn new_tree() -> Tree {
    let new: Vec<(String, &str)> = NEW
        .iter()
        .map(|(name, content)| {
            let (root, rest) = name.split_once('/').unwrap();
            (format!("{}/{rest}", directory_of(root)), *content)
        })
        .collect();
    let new: Vec<(&str, &str)> = new.iter().map(|(name, content)| (name.as_str(), *content)).collect();
    tree_of(&[&new, STAYS, &[("data/grastate.dat", "new position")]])
}

impl Joiner {
    fn new(old: &[(&str, &str)]) -> Joiner {
        // Thousands of switches, each with dozens of syncs: in memory where that is possible.
        let memory = Path::new("/dev/shm");
        let temp = if memory.is_dir() { tempfile::tempdir_in(memory) } else { tempfile::tempdir() }.unwrap();
        let layers = IN_IMAGE.get().then(|| tempfile::tempdir_in(temp.path().parent().unwrap()).unwrap());
        let base = layers.as_ref().map_or(temp.path().to_owned(), |layers| layers.path().join("image"));
        for dir in ["data/undo", "redo", "far", "outside"] {
            fs::create_dir_all(base.join(dir)).unwrap();
        }
        write(&base, old);
        write(&base, STAYS);
        let mount = layers.map(|layers| {
            for name in ["upper", "work"] {
                fs::create_dir(layers.path().join(name)).unwrap();
            }
            let dirs = layers.path().to_str().unwrap();
            let options = format!("lowerdir={dirs}/image,upperdir={dirs}/upper,workdir={dirs}/work,redirect_dir=off");
            let mounted = Mounted::new(&["-t", "overlay", "overlay", "-o", &options], temp.path());
            (mounted.expect("the right to mount was looked for"), layers)
        });
        let paths = ["innodb-log", "innodb-undo", "external-1"]
            .map(|root| (root.parse::<RootName>().unwrap(), temp.path().join(directory_of(root))));
        let mut roots = Roots::new(&temp.path().join("data"), &BTreeMap::from(paths)).unwrap();
        roots.push(Root {
            name: "innodb-data-2".parse().unwrap(),
            path: temp.path().join("far"),
            scope: Scope::Names(vec!["second".to_owned()]),
            stem: None,
        });
        Joiner { _mount: mount, temp, roots }
    }

    fn lock(&self) -> Arc<DirLock> {
        Arc::new(DirLock::take(self.roots.datadir()).unwrap())
    }

    fn stage(&self, lock: &Arc<DirLock>) -> Staging {
        arm(Plan::Nothing);
        let staging =
            Staging::prepare(Arc::clone(lock), &self.roots, keep(&self.roots), OldTree::Stays, Reuse::Auto).unwrap();
        for root in self.roots.iter() {
            let files: Vec<(&str, &str)> = NEW
                .iter()
                .filter_map(|(name, content)| {
                    Some((name.strip_prefix(root.name.as_str())?.strip_prefix('/')?, *content))
                })
                .collect();
            write(&root.path.join(HOME).join("incoming").join(root.name.as_str()), &files);
        }
        write(self.roots.datadir(), &[(".highline/manifest.new", "manifest")]);
        staging
    }

    fn install(&self, staging: Staging, plan: Plan) -> Result<Installed> {
        let own = OwnFile {
            root: RootName::datadir(),
            name: "grastate.dat".into(),
            content: b"new position".to_vec(),
            mode: 0o660,
        };
        arm(plan);
        staging.install(Verified::for_test(), &[own])
    }

    /// What the server sees: symlinks of ours stand for what they lead to, or for nothing.
    fn seen(&self) -> Tree {
        let mut tree = Tree::new();
        for (path, content) in read(self.temp.path()) {
            let full = self.temp.path().join(&path);
            if !content.starts_with(b"-> ") || !String::from_utf8_lossy(&content).contains(".highline/") {
                tree.insert(path, content);
                continue;
            }
            let target = full.parent().unwrap().join(fs::read_link(&full).unwrap());
            let Ok(meta) = fs::symlink_metadata(&target) else { continue };
            if meta.is_symlink() {
                let to = fs::read_link(&target).unwrap();
                tree.insert(path, [b"-> ", to.as_os_str().as_encoded_bytes()].concat());
            } else if meta.is_dir() {
                tree.extend(read(&target).into_iter().map(|(inner, content)| (path.join(inner), content)));
                tree.insert(path, b"directory".to_vec());
            } else {
                tree.insert(path, fs::read(&target).unwrap());
            }
        }
        tree
    }

    fn sees_new(&self) -> bool {
        self.seen().get(Path::new("data/ibdata1")).map(Vec::as_slice) == Some(b"new system")
    }

    fn assert_clean(&self, what: &str) {
        for root in self.roots.iter() {
            assert!(!root.path.join(HOME).exists(), "{what}: {}", root.path.display());
        }
    }
}

fn all_old() -> Vec<(&'static str, &'static str)> {
    [OLD, &[GRASTATE]].concat()
}

/// How many steps an install has that nothing disturbs.
fn count() -> usize {
    let joiner = Joiner::new(&all_old());
    let lock = joiner.lock();
    let left = joiner.install(joiner.stage(&lock), Plan::Nothing).unwrap().leftover;
    assert!(left.is_none(), "{left:?}");
    steps()
}

#[test]
fn a_switch_is_whole_and_clean() {
    let joiner = Joiner::new(&all_old());
    let lock = joiner.lock();
    assert_eq!(read(joiner.temp.path()), old_tree());
    let inode = fs::metadata(joiner.roots.datadir()).unwrap().ino();
    // A server has them open.
    let own = ["logs", "logs/e.log", "app/slow.log", "gone/tmp/x"].map(|name| joiner.roots.datadir().join(name));
    let inodes = || own.each_ref().map(|place| fs::metadata(place).unwrap().ino());
    let before = inodes();
    let done = joiner.install(joiner.stage(&lock), Plan::Nothing).unwrap();
    assert!(done.leftover.is_none());
    assert_eq!(read(joiner.temp.path()), new_tree());
    assert_eq!(fs::metadata(joiner.roots.datadir()).unwrap().ino(), inode);
    assert_eq!(inodes(), before);
    assert_eq!(fs::read(joiner.roots.datadir().join(".highline.manifest")).unwrap(), b"manifest");
    joiner.assert_clean("after a switch");
    assert_eq!(recover(&lock).unwrap(), Recovered::Nothing);
}

#[test]
fn a_joiner_without_a_tree_gets_one() {
    let joiner = Joiner::new(&[]);
    let lock = joiner.lock();
    let left = joiner.install(joiner.stage(&lock), Plan::Nothing).unwrap().leftover;
    assert!(left.is_none(), "{left:?}");
    assert_eq!(read(joiner.temp.path()), new_tree());
}

fn crash_everywhere(exchange: bool) {
    set_without_exchange(!exchange);
    let (old, new) = (old_tree(), new_tree());
    let total = count();
    assert!(total > 100, "{total}");
    let (mut seen_old, mut seen_new) = (0, 0);
    for at in 0..total {
        let joiner = Joiner::new(&all_old());
        let lock = joiner.lock();
        let error = joiner.install(joiner.stage(&lock), Plan::Crash(at)).unwrap_err();
        assert!(is_crash(&error), "{at}: {}", error.sentence());
        let why = format!("crash at {at} of {total}, {}", error.sentence());
        let (seen, live_new) = (joiner.seen(), joiner.sees_new());
        *(if live_new { &mut seen_new } else { &mut seen_old }) += 1;
        let expected = if live_new { &new } else { &old };
        let difference = difference(&seen, expected);
        let directory = |path| !seen.contains_key(path) && expected.get(path).is_some_and(|what| what == b"directory");
        let window = !exchange && matches!(difference.as_slice(), [one] if directory(one));
        assert!(difference.is_empty() || window, "{why}: {difference:?}");
        arm(Plan::Nothing);
        let recovered = recover(&lock).unwrap_or_else(|error| panic!("{why}: {}", error.sentence()));
        match recovered {
            Recovered::Nothing | Recovered::Undone if !live_new => assert_eq!(read(joiner.temp.path()), old, "{why}"),
            Recovered::Nothing | Recovered::Finished if live_new => {
                assert_eq!(read(joiner.temp.path()), new, "{why}");
            }
            other => panic!("{why}: {other:?}"),
        }
        if recovered != Recovered::Nothing {
            joiner.assert_clean(&why);
        }
    }
    assert!(seen_old > 20 && seen_new > 20, "{seen_old} {seen_new}");
}

/// The first-level names (with their directory) that differ.
fn difference(one: &Tree, other: &Tree) -> Vec<PathBuf> {
    let lacks = |a: &Tree, b: &Tree| a.iter().filter(|(k, v)| b.get(*k) != Some(v)).map(|(k, _)| k.clone()).collect();
    let both: [Vec<PathBuf>; 2] = [lacks(one, other), lacks(other, one)];
    let mut names: Vec<PathBuf> = both.concat().iter().map(|path| path.iter().take(2).collect()).collect();
    names.sort();
    names.dedup();
    names
}

#[test]
fn a_crash_at_every_step_leaves_a_whole_tree_and_recovers() {
    crash_everywhere(true);
}

#[test]
fn a_crash_at_every_step_recovers_where_names_cannot_be_exchanged() {
    crash_everywhere(false);
}

#[test]
fn recovery_may_be_broken_off_at_every_step() {
    let (old, new) = (old_tree(), new_tree());
    let total = count();
    for at in (0..total).step_by(5) {
        for again in (0..total).step_by(3) {
            let joiner = Joiner::new(&all_old());
            let lock = joiner.lock();
            joiner.install(joiner.stage(&lock), Plan::Crash(at)).unwrap_err();
            arm(Plan::Crash(again));
            let first = recover(&lock);
            arm(Plan::Nothing);
            match first {
                Ok(_) => break,
                Err(error) => assert!(is_crash(&error), "{at} {again}: {}", error.sentence()),
            }
            let live_new = joiner.sees_new();
            recover(&lock).unwrap_or_else(|e| panic!("{at} {again}: {}", e.sentence()));
            assert_eq!(read(joiner.temp.path()), if live_new { new.clone() } else { old.clone() }, "{at} {again}");
            joiner.assert_clean(&format!("{at} {again}"));
        }
    }
}

/// Whether this process may mount.
fn mounts() -> bool {
    let temp = tempfile::tempdir().unwrap();
    let may = Mounted::new(&["-t", "tmpfs", "t"], temp.path()).is_some();
    if !may {
        eprintln!("skipped: this needs the right to mount");
    }
    may
}

/// Directories of a lower layer cannot be renamed: they move entry by entry, which a crash may break off.
#[test]
fn an_old_tree_in_a_lower_layer_is_replaced_or_kept_whole() {
    if !mounts() {
        return;
    }
    IN_IMAGE.set(true);
    let (old, new) = (old_tree(), new_tree());
    let total = count();
    let (mut partly, mut undone) = (0, 0);
    for plan in (0..total).flat_map(|at| [Plan::Crash(at), Plan::Fail(at)]) {
        let joiner = Joiner::new(&all_old());
        let lock = joiner.lock();
        let result = joiner.install(joiner.stage(&lock), plan);
        arm(Plan::Nothing);
        let Err(error) = result else { continue };
        let why = format!("{plan:?} of {total}, {}", error.sentence());
        let live_new = joiner.sees_new();
        let lost = difference(&joiner.seen(), if live_new { &new } else { &old });
        // Only a crash, and then only one directory.
        assert!(lost.is_empty() || (lost.len() == 1 && is_crash(&error)), "{why}: {lost:?}");
        partly += lost.len();
        recover(&lock).unwrap_or_else(|error| panic!("{why}: {}", error.sentence()));
        undone += usize::from(!live_new);
        assert_eq!(read(joiner.temp.path()), if live_new { new.clone() } else { old.clone() }, "{why}");
        let done =
            joiner.install(joiner.stage(&lock), Plan::Nothing).unwrap_or_else(|e| panic!("{why}: {}", e.sentence()));
        assert!(done.leftover.is_none(), "{why}");
        assert_eq!(read(joiner.temp.path()), new, "{why}");
    }
    assert!(partly > 0 && undone > 20, "{partly} {undone}");
}

#[test]
fn what_cannot_move_is_refused_before_anything_is_staged() {
    let refused = |joiner: &Joiner, old: OldTree| {
        let error = Staging::prepare(joiner.lock(), &joiner.roots, keep(&joiner.roots), old, Reuse::Auto).unwrap_err();
        assert!(error.remedy_text().is_some());
        assert_eq!(read(joiner.temp.path()), old_tree(), "nothing has moved");
        error.sentence()
    };
    if !mounts() {
        return;
    }
    // A bind mount of the same filesystem, on a directory, within one, and on a file.
    for (place, file) in [("data/app", false), ("data/becomes_file", false), ("data/ibdata1", true)] {
        let joiner = Joiner::new(&all_old());
        let at = joiner.temp.path().join(place);
        let _mount = Mounted::new(&["--bind", at.to_str().unwrap()], &at).unwrap();
        assert_eq!(file, at.is_file());
        for old in [OldTree::Stays, OldTree::GoesFirst] {
            let told = refused(&joiner, old);
            let expected = format!("{} is a mount point, so it can be neither moved nor removed", at.display());
            assert_eq!(told, expected);
        }
    }
    let joiner = Joiner::new(&all_old());
    fs::create_dir(joiner.temp.path().join("data/app/deep")).unwrap();
    let at = joiner.temp.path().join("data/app/deep");
    let mount = Mounted::new(&["-t", "tmpfs", "t"], &at).unwrap();
    let error =
        Staging::prepare(joiner.lock(), &joiner.roots, KeepRules::default(), OldTree::Stays, Reuse::Auto).unwrap_err();
    assert!(error.sentence().contains("/data/app/deep"), "{}", error.sentence());
    drop(mount);
    // What is kept may be a mount.
    let joiner = Joiner::new(&all_old());
    let at = joiner.temp.path().join("data/slow");
    let _mount = Mounted::new(&["--bind", at.to_str().unwrap()], &at).unwrap();
    let _ = joiner.install(joiner.stage(&joiner.lock()), Plan::Nothing).unwrap();
}

#[test]
fn an_immutable_entry_is_refused_by_its_attribute_and_what_is_deep_hinders_no_later_run() {
    let joiner = Joiner::new(&all_old());
    let chattr = |sign: &str, name: &str| {
        let file = joiner.temp.path().join(name);
        std::process::Command::new("chattr").arg(sign).arg(file).output().is_ok_and(|done| done.status.success())
    };
    if !chattr("+i", "data/app") {
        eprintln!("skipped: this needs chattr, and the right to use it");
        return;
    }
    let prepare = |old| Staging::prepare(joiner.lock(), &joiner.roots, keep(&joiner.roots), old, Reuse::Auto);
    let error = prepare(OldTree::Stays).unwrap_err();
    let place = joiner.temp.path().join("data/app");
    assert_eq!(
        error.sentence(),
        format!("{} has an attribute that forbids moving or removing it (see lsattr)", place.display())
    );
    assert_eq!(error.remedy_text(), Some(format!("chattr -i -a {}", place.display()).as_str()));
    assert!(chattr("-i", "data/app") && chattr("+i", "data/app/t.ibd"));
    let error = prepare(OldTree::GoesFirst).unwrap_err();
    assert!(error.sentence().starts_with(&format!("{}/t.ibd has an attribute", place.display())));

    // The switch moves its directory; what is left of the old tree is told of, and in nobody's way.
    let lock = joiner.lock();
    let done = joiner.install(joiner.stage(&lock), Plan::Nothing).unwrap();
    assert!(done.leftover.is_some_and(|left| left.sentence().contains("t.ibd")));
    assert_eq!(recover(&lock).unwrap(), Recovered::Finished);
    let left = leftover(&lock, &joiner.roots).unwrap();
    assert!(left.sentence().contains("/.highline/leftover/"), "{}", left.sentence());
    let _ = joiner.install(joiner.stage(&lock), Plan::Nothing).unwrap();
    assert_eq!(read(joiner.temp.path()), new_tree());
    assert!(chattr("-i", "data/.highline/leftover/datadir-0/app/t.ibd"));
    assert!(leftover(&lock, &joiner.roots).is_none());
    joiner.assert_clean("nothing is left");
}

fn fail_everywhere(exchange: bool) {
    set_without_exchange(!exchange);
    let (old, new) = (old_tree(), new_tree());
    let total = count();
    let mut undone = 0;
    for at in 0..total {
        let joiner = Joiner::new(&all_old());
        let lock = joiner.lock();
        let result = joiner.install(joiner.stage(&lock), Plan::Fail(at));
        arm(Plan::Nothing);
        match result {
            Err(error) => {
                undone += 1;
                assert_eq!(error.kind(), Kind::Permission, "{at}");
                let why = format!("failure at {at} of {total}: {}", error.sentence());
                if recover(&lock).unwrap() == Recovered::Finished {
                    assert_eq!(read(joiner.temp.path()), new, "{why}");
                } else {
                    assert_eq!(read(joiner.temp.path()), old, "{why}");
                }
            }
            Ok(done) => {
                assert!(done.leftover.is_some(), "{at}");
                recover(&lock).unwrap();
                assert_eq!(read(joiner.temp.path()), new);
                joiner.assert_clean(&format!("{at}"));
            }
        }
    }
    assert!(undone > 50, "{undone}");
}

#[test]
fn a_failure_at_every_step_is_undone_or_recovered() {
    fail_everywhere(true);
    fail_everywhere(false);
}

fn refused(joiner: &Joiner, stray: &str) -> Error {
    let lock = joiner.lock();
    let staging = joiner.stage(&lock);
    let content = if stray.ends_with("/letter.txt") || stray.ends_with("/ibdata7") {
        "a letter"
    } else {
        "-> .highline/live/datadir/x"
    };
    write(joiner.temp.path(), &[(stray, content)]);
    joiner.install(staging, Plan::Nothing).unwrap_err()
}

#[test]
fn what_is_not_the_roots_to_switch_is_refused_before_anything_moves() {
    for (stray, named) in [
        ("data/.highline/incoming/datadir/galera.cache", "datadir/galera.cache"),
        ("data/.highline/incoming/datadir/gvwstate.dat", "datadir/gvwstate.dat"),
        ("data/.highline/incoming/datadir/ibdata7", "datadir/ibdata7"),
        ("data/.highline/incoming/datadir/undo", "datadir/undo"),
        ("data/.highline/incoming/datadir/x", "datadir/x"),
        ("redo/.highline/incoming/innodb-log/letter.txt", "innodb-log/letter.txt"),
    ] {
        let joiner = Joiner::new(&all_old());
        let error = refused(&joiner, stray);
        assert_eq!(error.to_string(), format!("{named} must not be replaced"));
        assert_eq!(read(joiner.temp.path()), old_tree());
    }
}

#[test]
fn what_is_the_nodes_own_is_told_and_accepted_from_nobody() {
    let joiner = Joiner::new(&all_old());
    let lock = joiner.lock();
    let staging = joiner.stage(&lock);
    let kept: Vec<String> = staging.kept().unwrap().iter().map(|(path, why)| format!("{path} ({why})")).collect();
    for told in [
        "datadir/app/slow.log (slow-query-log-file)",
        "datadir/gone/tmp (tmpdir)",
        "datadir/logs/e.log (log-error)",
        "datadir/nowhere/tmp (tmpdir)",
        "datadir/slow (keep)",
        "datadir/undo (it holds another directory of the server's)",
    ] {
        assert!(kept.iter().any(|kept| kept == told), "{told} in {kept:?}");
    }
    let file = || Content::File { size: 1 };
    for (path, content, accepted) in [
        ("datadir/app/slow.log", file(), false),
        ("datadir/app/slow.log.1", file(), false),
        ("datadir/app/t.ibd", file(), true),
        ("datadir/app", Content::Directory, true),
        ("datadir/gone/tmp", Content::Directory, false),
        ("datadir/gone/tmp/deep/x", file(), false),
        ("datadir/grastate.dat", file(), false),
        ("datadir/grastate.dat", Content::Symlink { target: (*b"/x").into() }, false),
        ("datadir/ibdata1", file(), false),
        ("innodb-data/ibdata1", file(), true),
        ("datadir/ibdata1", Content::Directory, true),
        ("datadir/undo7", Content::Symlink { target: (*b"/x").into() }, true),
        ("innodb-undo/undo007", file(), true),
        ("innodb-undo/undo7", Content::Directory, false),
        ("datadir/ibtmp_archive", Content::Directory, true),
        ("datadir/ibtmp_archive", Content::Symlink { target: (*b"/x").into() }, false),
    ] {
        let given = RelPath::parse(path.as_bytes()).unwrap();
        assert_eq!(staging.accepts(&given, &content), accepted, "{path} {content:?}");
    }
}

#[test]
fn a_schema_in_the_place_of_something_that_stays_is_refused() {
    for (stays, came) in
        [("data/core", "datadir/core"), ("data/app.sock", "datadir/app.sock"), ("data/slow_x", "datadir/slow_x")]
    {
        let joiner = Joiner::new(&all_old());
        let place = joiner.temp.path().join(stays);
        let _socket;
        match came {
            "datadir/core" => fs::write(&place, "memory").unwrap(),
            _ => _socket = std::os::unix::net::UnixListener::bind(&place).unwrap(),
        }
        let lock = joiner.lock();
        let staging = joiner.stage(&lock);
        write(&joiner.roots.datadir().join(".highline/incoming"), &[(&format!("{came}/db.opt"), "x")]);
        let error = joiner.install(staging, Plan::Nothing).unwrap_err();
        assert_eq!(error.to_string(), format!("{came} must not be replaced"));
    }
}

#[test]
fn a_hostile_journal_moves_and_deletes_nothing() {
    let joiner = Joiner::new(&all_old());
    let lock = joiner.lock();
    for text in ["", "x", "{}", "{\"version\":1,\"phase\":\"finished\",\"roots\":[],\"keep\":[],\"own\":[]}\n"] {
        write(joiner.roots.datadir(), &[(".highline/journal", text), (".highline/previous/datadir/x", "precious")]);
        let error = recover(&lock).unwrap_err();
        assert_eq!(error.kind(), Kind::Integrity);
        assert!(error.to_string().contains("data/.highline/journal"), "{error}");
        assert!(joiner.roots.datadir().join(".highline/previous/datadir/x").exists());
        assert_eq!(read(joiner.temp.path()), old_tree());
    }
}

#[test]
fn what_is_staged_can_be_thrown_away() {
    let joiner = Joiner::new(&all_old());
    let lock = joiner.lock();
    joiner.stage(&lock);
    discard(&lock, &joiner.roots, Reuse::Auto).unwrap();
    joiner.assert_clean("discarded");
    assert_eq!(read(joiner.temp.path()), old_tree());
    joiner.install(joiner.stage(&lock), Plan::Crash(150)).unwrap_err();
    assert_eq!(discard(&lock, &joiner.roots, Reuse::Auto).unwrap_err().kind(), Kind::Usage);
}

#[test]
fn spending_the_old_tree_leaves_what_is_kept() {
    let rest = tree_of(&[STAYS, &[("outside/t1.ibd", "old outside")]]);
    let spend = |plan| {
        let joiner = Joiner::new(&all_old());
        let lock = joiner.lock();
        arm(Plan::Nothing);
        let mut staging =
            Staging::prepare(Arc::clone(&lock), &joiner.roots, keep(&joiner.roots), OldTree::Stays, Reuse::Auto)
                .unwrap();
        arm(plan);
        let result = staging.spend_old_tree(&["grastate.dat"]);
        (joiner, lock, result)
    };
    let (joiner, _lock, result) = spend(Plan::Nothing);
    let total = steps();
    result.unwrap();
    assert_eq!(read(joiner.temp.path()), rest);
    assert!(total > 60, "{total}");
    for exchange in [true, false] {
        set_without_exchange(!exchange);
        for plan in (0..total).flat_map(|at| [Plan::Crash(at), Plan::Fail(at)]) {
            let (joiner, lock, result) = spend(plan);
            arm(Plan::Nothing);
            let Err(error) = result else { continue };
            let why = format!("{plan:?} {}", error.sentence());
            let seen = joiner.seen();
            let system = ["data/ibdata1", "redo/ib_logfile0", "far/second"].map(|name| {
                let file = seen.get(Path::new(name));
                file.is_some_and(|content| content.starts_with(b"old "))
            });
            assert!(system == [system[0]; 3], "{why}: {system:?}");
            assert!(system[0] || !joiner.roots.datadir().join("grastate.dat").exists(), "{why}");
            match recover(&lock).unwrap_or_else(|error| panic!("{why}: {}", error.sentence())) {
                Recovered::Nothing if system[0] => assert_eq!(read(joiner.temp.path()), old_tree(), "{why}"),
                Recovered::Nothing | Recovered::Spent => assert_eq!(read(joiner.temp.path()), rest, "{why}"),
                Recovered::Undone => assert_eq!(read(joiner.temp.path()), old_tree(), "{why}"),
                Recovered::Finished => panic!("{why}"),
            }
            let staging = joiner.stage(&lock);
            let done = joiner.install(staging, Plan::Nothing).unwrap_or_else(|e| panic!("{why}: {}", e.sentence()));
            assert!(done.leftover.is_none());
            assert_eq!(read(joiner.temp.path()), new_tree(), "{why}");
        }
    }
}

/// Of an old tree that goes first the larger files stay as a basis, wherever that is broken off; a hard link's other name is
/// safe, and nothing is kept that a server may wait to lock.
#[test]
fn spending_keeps_the_larger_files_of_the_old_tree() {
    const LARGE: usize = 64 << 10;
    let large = |name: &str| vec![name.len() as u8; LARGE];
    let names = ["data/app/big.ibd", "data/gone/big.ibd", "data/gone/deep/x.ibd", "data/mysql/help.ibd"];
    let locked = ["data/ibdata1", "redo/ib_logfile0", "data/undo/undo001"];
    let kept_paths =
        ["datadir/app/big.ibd", "datadir/gone/big.ibd", "datadir/gone/deep/x.ibd", "datadir/mysql/help.ibd"];
    let spend = |plan, reuse| {
        let joiner = Joiner::new(&all_old());
        let place = |name: &str| joiner.temp.path().join(name);
        fs::create_dir(place("data/gone/deep")).unwrap();
        for name in names.iter().chain(&locked) {
            fs::write(place(name), [b"old ".as_slice(), &large(name)].concat()).unwrap();
        }
        fs::write(place("data/ib_buffer_pool"), large("x")).unwrap();
        fs::write(place("precious"), large("precious")).unwrap();
        fs::hard_link(place("precious"), place("data/app/linked.ibd")).unwrap();
        let before = read(joiner.temp.path());
        let lock = joiner.lock();
        arm(Plan::Nothing);
        let rules = keep(&joiner.roots);
        let mut staging = Staging::prepare(Arc::clone(&lock), &joiner.roots, rules, OldTree::Stays, reuse).unwrap();
        arm(plan);
        let result = staging.spend_old_tree(&["grastate.dat"]);
        (joiner, lock, before, result)
    };
    let found = |joiner: &Joiner| -> Vec<String> {
        kept(&joiner.roots).unwrap().iter().map(|file| file.path.to_string()).collect()
    };
    let rest = tree_of(&[STAYS, &[("outside/t1.ibd", "old outside")]]);
    let spent = |joiner: &Joiner, why: &str| {
        let mut now = read(joiner.temp.path());
        assert_eq!(now.remove(Path::new("precious")), Some(large("precious")), "{why}");
        now.remove(Path::new("data/gone/deep"));
        assert_eq!(now, rest, "{why}");
    };
    for reuse in [Reuse::Staged, Reuse::Off] {
        let (joiner, _lock, _, result) = spend(Plan::Nothing, reuse);
        assert!(result.unwrap().is_none());
        spent(&joiner, "nothing is kept");
        assert_eq!(found(&joiner), [""; 0], "{reuse}");
    }
    let (joiner, lock, _, result) = spend(Plan::Nothing, Reuse::Auto);
    let total = steps();
    assert!(result.unwrap().is_none());
    spent(&joiner, "spent");
    assert_eq!(found(&joiner), kept_paths);
    let staging = joiner.stage(&lock);
    assert!(joiner.install(staging, Plan::Nothing).unwrap().leftover.is_none());
    assert_eq!(found(&joiner), [""; 0], "a new tree is there");

    let (mut undone, mut ended) = (0, 0);
    for exchange in [true, false] {
        set_without_exchange(!exchange);
        for plan in (0..total).flat_map(|at| [Plan::Crash(at), Plan::Fail(at)]) {
            let (joiner, lock, before, result) = spend(plan, Reuse::Auto);
            arm(Plan::Nothing);
            let why = format!("{plan:?} {:?}", result.as_ref().map_err(Error::sentence));
            // What could not be moved stays where it is, and is told of.
            if matches!(result, Ok(Some(_))) {
                continue;
            }
            let crashed = result.as_ref().is_err_and(is_crash);
            let whole =
                joiner.seen().get(Path::new("data/ibdata1")).is_some_and(|content| content.starts_with(b"old "));
            match recover(&lock).unwrap_or_else(|error| panic!("{why}: {}", error.sentence())) {
                Recovered::Nothing | Recovered::Undone if whole => {
                    assert_eq!(read(joiner.temp.path()), before, "{why}");
                    assert_eq!(found(&joiner), [""; 0], "{why}");
                    undone += 1;
                }
                Recovered::Nothing | Recovered::Spent => {
                    spent(&joiner, &why);
                    // A file that could not be kept is gone with the others.
                    let all = found(&joiner);
                    assert!(all == kept_paths || (!crashed && all.len() == 3), "{why}: {all:?}");
                    ended += 1;
                }
                other => panic!("{why}: {other:?}"),
            }
            for name in &names {
                let kept = format!(".highline.kept.{}", name.trim_start_matches("data/").replace('/', "%2f"));
                if let Ok(content) = fs::read(joiner.roots.datadir().join(kept)) {
                    assert_eq!(content, [b"old ".as_slice(), &large(name)].concat(), "{why}");
                }
            }
        }
    }
    assert!(undone > 40 && ended > 40, "{undone} {ended}");
}

/// A switch that had not come: what was staged is a basis for the next attempt; once it has come, nobody needs one.
#[test]
fn recovery_keeps_what_was_staged_and_drops_it_once_it_is_in_place() {
    let total = count();
    let (mut undone, mut finished) = (0, 0);
    for at in (0..total).step_by(3) {
        let joiner = Joiner::new(&all_old());
        let lock = joiner.lock();
        let staging = joiner.stage(&lock);
        let incoming = joiner.roots.datadir().join(".highline/incoming");
        fs::write(incoming.join("datadir/app/t.ibd"), vec![1; 64 << 10]).unwrap();
        fs::write(joiner.roots.datadir().join(".highline.kept.app2%2fx"), vec![1; 64 << 10]).unwrap();
        joiner.install(staging, Plan::Crash(at)).unwrap_err();
        arm(Plan::Nothing);
        let found = || kept(&joiner.roots).unwrap().iter().map(|file| file.path.to_string()).collect::<Vec<_>>();
        match recover(&lock).unwrap() {
            Recovered::Undone => {
                assert_eq!(found(), ["datadir/app/t.ibd", "datadir/app2/x"], "{at}");
                undone += 1;
            }
            Recovered::Finished => {
                assert_eq!(found(), [""; 0], "{at}");
                finished += 1;
            }
            _ => {}
        }
    }
    assert!(undone > 8 && finished > 8, "{undone} {finished}");
}
