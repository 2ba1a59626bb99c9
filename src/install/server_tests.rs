//! The switch under a real server: at every step `mariadbd --wsrep_recover` must start and end well,
//! because `galera_recovery` runs it before each start.
//!
//! Needs `mariadbd` and `mariadb-install-db`; as root, the server runs as `mysql`. Skipped, with a
//! line that says so, where they are missing.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use super::failpoint::{Plan, arm, is_crash, steps};
use super::*;
use crate::manifest::Verified;
use crate::tree::{RootName, Roots, Rules, Shape};

fn server() -> Option<&'static Path> {
    static FOUND: OnceLock<Option<PathBuf>> = OnceLock::new();
    let found = FOUND.get_or_init(|| {
        let install = Command::new("mariadb-install-db").arg("--help").output().is_ok();
        let server = ["/usr/sbin/mariadbd", "/usr/libexec/mariadbd", "/usr/bin/mariadbd"];
        server.iter().map(PathBuf::from).find(|path| path.exists()).filter(|_| install)
    });
    if found.is_none() {
        eprintln!("skipped: no mariadbd or mariadb-install-db here");
    }
    found.as_deref()
}

/// A folder that the server's user may enter.
fn folder() -> tempfile::TempDir {
    let temp = tempfile::tempdir().unwrap();
    fs::set_permissions(temp.path(), fs::Permissions::from_mode(0o777)).unwrap();
    temp
}

fn user() -> Vec<&'static str> {
    if rustix::process::geteuid().is_root() { vec!["--user=mysql"] } else { Vec::new() }
}

fn make_tree(datadir: &Path, undo: u32) {
    let made = Command::new("mariadb-install-db")
        // A server that starts removes the temporary tables of all others in its folder.
        .env("TMPDIR", datadir.parent().unwrap())
        .arg("--no-defaults")
        .args(user())
        .arg(format!("--datadir={}", datadir.display()))
        .args(["--auth-root-authentication-method=normal", "--skip-test-db", "--innodb-log-file-size=4M"])
        .arg(format!("--innodb-undo-tablespaces={undo}"))
        .output()
        .unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
}

fn start(datadir: &Path, more: &[&str]) -> Child {
    Command::new(server().unwrap())
        .env("TMPDIR", datadir.parent().unwrap())
        .arg("--no-defaults")
        .args(user())
        .arg(format!("--datadir={}", datadir.display()))
        .arg(format!("--socket={}", datadir.join("s.sock").display()))
        .arg(format!("--log-error={}", datadir.join("server.err").display()))
        .args(["--skip-networking", "--innodb-log-file-size=4M", "--innodb-buffer-pool-size=8M"])
        .args(more)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .unwrap()
}

fn wsrep_recover(datadir: &Path, undo: u32, when: &str) {
    let log = datadir.join("server.err");
    let _ = fs::remove_file(&log);
    let undo = format!("--innodb-undo-tablespaces={undo}");
    let status = start(datadir, &["--wsrep-recover", &undo]).wait().unwrap();
    assert!(status.success(), "{when}: {status}\n{}", fs::read_to_string(&log).unwrap());
}

fn copy(from: &Path, to: &Path) {
    let done = Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

/// A trace of a tree that a server's start does not change: `old` and `new` each have a schema of
/// their own beside the common ones, with a file that says which tree it is.
fn mark(datadir: &Path, which: &str) {
    let schema = datadir.join(format!("only_{which}"));
    fs::create_dir(&schema).unwrap();
    fs::write(schema.join("db.opt"), "default-character-set=utf8mb4\n").unwrap();
    fs::write(datadir.join("mysql").join("which"), which).unwrap();
    let owner = fs::metadata(datadir.join("ibdata1")).unwrap();
    for path in [schema.clone(), schema.join("db.opt"), datadir.join("mysql/which")] {
        chown(path, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
}

fn stage(lock: &Arc<DirLock>, new: &Path) -> Staging {
    let roots = Roots::new(lock.datadir(), &Default::default()).unwrap();
    arm(Plan::Nothing);
    let staging =
        Staging::prepare(Arc::clone(lock), &roots, KeepRules::default(), OldTree::Stays, Reuse::Auto).unwrap();
    for entry in fs::read_dir(new).unwrap() {
        let name = entry.unwrap().file_name();
        // As a donor does, which sends nothing that a joiner keeps.
        let shape = Shape::at(&new.join(&name));
        if !Rules::default().travels(&RootName::datadir(), new, &name, shape) {
            continue;
        }
        let root = roots.owner(lock.datadir(), &name, shape).unwrap().name.as_str();
        copy(&new.join(&name), &lock.datadir().join(HOME).join("incoming").join(root));
    }
    staging
}

fn crash_and_start(stride: usize, old_undo: u32, new_undo: u32) {
    if server().is_none() {
        return;
    }
    let temp = folder();
    let (old, new) = (temp.path().join("old"), temp.path().join("new"));
    make_tree(&old, old_undo);
    mark(&old, "old");
    make_tree(&new, new_undo);
    mark(&new, "new");
    let _ = fs::remove_file(new.join("ib_buffer_pool"));

    let mut at = 0;
    let (mut starts_old, mut starts_new) = (0, 0);
    loop {
        let data = temp.path().join("data");
        let _ = fs::remove_dir_all(&data);
        copy(&old, &data);
        let lock = Arc::new(DirLock::take(&data).unwrap());
        let staging = stage(&lock, &new);
        arm(Plan::Crash(at));
        let result = staging.install(Verified::for_test(), &[]);
        let total = steps();
        arm(Plan::Nothing);
        let why = match &result {
            Ok(_) => format!("after all {total} steps"),
            Err(error) => {
                assert!(is_crash(error), "{}", error.sentence());
                format!("crash at {at}, {}", error.sentence())
            }
        };
        let is_new = data.join("only_new/db.opt").exists();
        *(if is_new { &mut starts_new } else { &mut starts_old }) += 1;
        wsrep_recover(&data, if is_new { new_undo } else { old_undo }, &why);
        let recovered = recover(&lock).unwrap_or_else(|error| panic!("{why}: {}", error.sentence()));
        let which = if is_new { "new" } else { "old" };
        assert!(
            recovered == Recovered::Nothing
                || recovered == if is_new { Recovered::Finished } else { Recovered::Undone }
        );
        assert_eq!(fs::read_to_string(data.join("mysql/which")).unwrap(), which, "{why}");
        assert_eq!(data.join("only_old").exists(), which == "old", "{why}");
        assert_eq!(data.join("only_new").exists(), which == "new", "{why}");
        for entry in fs::read_dir(&data).unwrap() {
            let path = entry.unwrap().path();
            assert!(!path.is_symlink(), "{why}: {} remains", path.display());
        }
        if at % 10 == 0 {
            wsrep_recover(&data, if which == "new" { new_undo } else { old_undo }, &format!("{why}, recovered"));
        }
        if result.is_ok() {
            break;
        }
        // In the old tree's removal, after some 60 steps, all are alike.
        at += if starts_new > 60 { 50 } else { stride };
    }
    assert!(starts_old > 10 && starts_new > 10, "{starts_old} {starts_new}");
}

#[test]
fn a_server_starts_after_a_crash_at_every_step() {
    crash_and_start(1, 0, 0);
}

#[test]
fn a_server_with_undo_tablespaces_starts_after_a_crash() {
    crash_and_start(5, 0, 3);
}

#[test]
fn a_server_starts_wherever_the_spending_of_its_tree_was_broken_off() {
    if server().is_none() {
        return;
    }
    let temp = folder();
    let (old, data) = (temp.path().join("old"), temp.path().join("data"));
    make_tree(&old, 0);
    for at in (0..).step_by(2) {
        let _ = fs::remove_dir_all(&data);
        copy(&old, &data);
        let lock = Arc::new(DirLock::take(&data).unwrap());
        let roots = Roots::new(lock.datadir(), &Default::default()).unwrap();
        arm(Plan::Nothing);
        let mut staging =
            Staging::prepare(Arc::clone(&lock), &roots, KeepRules::default(), OldTree::Stays, Reuse::Auto).unwrap();
        arm(Plan::Crash(at));
        let result = staging.spend_old_tree(&["grastate.dat"]);
        arm(Plan::Nothing);
        let why = result.as_ref().map_or_else(|e| format!("crash at {at}, {}", e.sentence()), |_| "spent".into());
        wsrep_recover(&data, 0, &why);
        recover(&lock).unwrap_or_else(|error| panic!("{why}: {}", error.sentence()));
        wsrep_recover(&data, 0, &format!("{why}, recovered"));
        if result.is_ok() || why.contains("remove ") && why.contains("/previous/") {
            break;
        }
    }
}

/// Runs a server until it is ready, and `during` with it.
fn with_server<T>(datadir: &Path, during: impl FnOnce() -> T) -> T {
    let log = datadir.join("server.err");
    let _ = fs::remove_file(&log);
    let mut child = start(datadir, &[]);
    let deadline = Instant::now() + Duration::from_secs(30);
    // It may ignore a TERM that comes before it is ready.
    let ready = || fs::read_to_string(&log).is_ok_and(|log| log.contains("ready for connections"));
    while !ready() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
    let result = std::panic::catch_unwind(std::panic::AssertUnwindSafe(during));
    let pid = rustix::process::Pid::from_child(&child);
    let signal = if ready() { rustix::process::Signal::TERM } else { rustix::process::Signal::KILL };
    rustix::process::kill_process(pid, signal).unwrap();
    let ended = child.wait().unwrap();
    assert!(ended.success(), "{ended}\n{}", fs::read_to_string(&log).unwrap());
    result.unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

thread_local! {
    static DATA: std::cell::RefCell<PathBuf> = const { std::cell::RefCell::new(PathBuf::new()) };
    static WAITING: std::cell::RefCell<Option<Child>> = const { std::cell::RefCell::new(None) };
}

/// Starts a server that must stop at a lock, and lets it wait there.
fn start_and_wait() {
    let data = DATA.with_borrow(PathBuf::clone);
    let log = data.join("server.err");
    let _ = fs::remove_file(&log);
    let mut child = start(&data, &[]);
    let deadline = Instant::now() + Duration::from_secs(20);
    let locked = || {
        let log = fs::read_to_string(&log).unwrap_or_default();
        log.contains("lock aria control file") || log.contains("Unable to lock")
    };
    while !locked() {
        assert!(child.try_wait().unwrap().is_none(), "it ended: {}", fs::read_to_string(&log).unwrap_or_default());
        assert!(Instant::now() < deadline, "no lock stopped it: {}", fs::read_to_string(&log).unwrap_or_default());
        std::thread::sleep(Duration::from_millis(20));
    }
    WAITING.set(Some(child));
}

fn start_and_kill() {
    start_and_wait();
    let mut child = WAITING.take().unwrap();
    child.kill().unwrap();
    child.wait().unwrap();
}

/// While the switch goes on, a server gets neither tree, and the switch does not notice it.
#[test]
fn a_server_that_starts_during_the_switch_stops_at_a_lock() {
    if server().is_none() {
        return;
    }
    let temp = folder();
    let (old, new, data) = (temp.path().join("old"), temp.path().join("new"), temp.path().join("data"));
    make_tree(&old, 0);
    mark(&old, "old");
    make_tree(&new, 0);
    mark(&new, "new");
    DATA.set(data.clone());
    let install = |plan: Plan| {
        let _ = fs::remove_dir_all(&data);
        copy(&old, &data);
        let lock = Arc::new(DirLock::take(&data).unwrap());
        let staging = stage(&lock, &new);
        arm(plan);
        let done = staging.install(Verified::for_test(), &[]).unwrap();
        let total = steps();
        arm(Plan::Nothing);
        assert!(done.unguarded.is_none());
        total
    };
    let total = install(Plan::Nothing);
    // Of the first steps some come before the locks; after so many only the old tree is removed.
    let mut visits = 0;
    for at in 40..total.min(130) {
        install(Plan::Visit(at, start_and_kill));
        assert_eq!(fs::read_to_string(data.join("mysql/which")).unwrap(), "new", "{at}");
        visits += 1;
    }
    assert!(visits > 50, "{visits} of {total}");
    wsrep_recover(&data, 0, "after a server came by");

    // One that has opened the old tree's file and waits for its lock must not go on with it beside the new tree.
    install(Plan::Visit(46, start_and_wait));
    let mut child = WAITING.take().unwrap();
    let status = child.wait().unwrap();
    assert!(!status.success(), "a server went on with files of both trees");
    let _ = fs::remove_file(data.join("server.err"));
    with_server(&data, || assert!(data.join("only_new").exists()));
}

#[test]
fn a_running_server_is_seen_and_not_disturbed() {
    if server().is_none() {
        return;
    }
    let temp = folder();
    let (data, new) = (temp.path().join("data"), temp.path().join("new"));
    make_tree(&data, 0);
    let roots = Roots::new(&data, &Default::default()).unwrap();
    assert_eq!(server_holding(&roots).unwrap(), None);
    let held = with_server(&data, || [(); 3].map(|()| server_holding(&roots).unwrap()));
    assert_eq!(held, [(); 3].map(|()| Some(data.join("aria_log_control"))));
    assert_eq!(server_holding(&roots).unwrap(), None);

    // Half way through a switch the server works too, and the switch waits for its end. Which step that is depends on
    // what there is to switch and on the order in which the filesystem lists it.
    copy(&data, &new);
    fs::remove_file(new.join("server.err")).unwrap();
    let old = temp.path().join("old");
    copy(&data, &old);
    let half_way = (30..120).step_by(6).find_map(|step| {
        fs::remove_dir_all(&data).unwrap();
        copy(&old, &data);
        let lock = Arc::new(DirLock::take(&data).unwrap());
        let staging = stage(&lock, &new);
        arm(Plan::Crash(step));
        staging.install(Verified::for_test(), &[]).unwrap_err();
        arm(Plan::Nothing);
        data.join("ibdata1").is_symlink().then_some(lock)
    });
    let lock = half_way.expect("ibdata1 is a symlink for a while");
    // Another time the server's own user may have to go on with it.
    let owner = |path: &Path| fs::metadata(path).unwrap().uid();
    for name in ["", "journal", "previous", "previous/innodb-data", "incoming/datadir", "aside", "old", "new"] {
        assert_eq!(owner(&data.join(HOME).join(name)), owner(&data), "{name}");
    }
    assert_eq!(owner(&data.join(LOCK)), owner(&data));
    let error = with_server(&data, || recover(&lock).unwrap_err());
    assert_eq!(error.to_string(), format!("a running server is using {}", data.join("aria_log_control").display()));
    // The old tree or the new one, whichever that server has changed.
    let is_new = unfinished(&lock).unwrap() == Recovered::Finished;
    assert_eq!(recover(&lock).unwrap(), if is_new { Recovered::Finished } else { Recovered::Undone });
    with_server(&data, || assert!(!data.join("ibdata1").is_symlink()));
}

/// What a failed attempt leaves is nothing to a server: it starts on the old tree and lists the schemas that it has.
#[test]
fn a_server_lists_nothing_of_what_a_failed_attempt_left() {
    if server().is_none() {
        return;
    }
    let temp = folder();
    let (data, new) = (temp.path().join("data"), temp.path().join("new"));
    make_tree(&data, 0);
    mark(&data, "old");
    make_tree(&new, 0);
    let schemas = || {
        with_server(&data, || {
            let socket = format!("--socket={}", data.join("s.sock").display());
            let words = ["--no-defaults", "-uroot", "-N", "-e", "SHOW DATABASES"];
            let shown = Command::new("mariadb").args(words).arg(socket).output().unwrap();
            assert!(shown.status.success(), "{}", String::from_utf8_lossy(&shown.stderr));
            String::from_utf8(shown.stdout).unwrap()
        })
    };
    let before = schemas();
    assert!(before.contains("only_old"), "{before}");
    let lock = Arc::new(DirLock::take(&data).unwrap());
    drop(stage(&lock, &new));
    let roots = Roots::new(&data, &Default::default()).unwrap();
    discard(&lock, &roots, Reuse::Auto).unwrap();
    let left = kept(&roots).unwrap();
    assert!(left.len() > 3, "{left:?}");
    assert_eq!(schemas(), before);
    assert_eq!(kept(&roots).unwrap(), left);
    wsrep_recover(&data, 0, "with kept files");

    // In place of an old tree that goes first, they are in no server's way either.
    let mut staging = stage(&lock, &new);
    staging.spend_old_tree(&[]).unwrap();
    drop(staging);
    discard(&lock, &roots, Reuse::Auto).unwrap();
    assert!(kept(&roots).unwrap().len() >= left.len());
    wsrep_recover(&data, 0, "after the old tree was spent");
}
