//! What root runs on another user's directory: it cannot be misled, and everything it creates belongs to that user.

use crate::support::disk::SmallDisk;
use crate::support::pair::{LIMIT, Pair, SECONDS};
use crate::support::tree::{self, file};
use rustix::process::Signal;
use sha2::Digest;
use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown, symlink};
use std::path::{Path, PathBuf};

const USER: u32 = 65534;

/// Both data directories belong to an unprivileged user, and root runs the commands.
fn pair() -> Option<Pair> {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: this needs root");
        return None;
    }
    let pair = Pair::beneath(&std::env::temp_dir());
    fs::set_permissions(pair.home(), fs::Permissions::from_mode(0o755)).unwrap();
    tree::plain(&pair.donor, 2);
    tree::old(&pair.joiner);
    for place in [&pair.donor, &pair.joiner] {
        everything(place).into_iter().for_each(|path| std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap());
    }
    Some(pair)
}

fn everything(place: &Path) -> Vec<PathBuf> {
    let mut all = vec![place.to_owned()];
    if place.is_dir() && !place.is_symlink() {
        all.extend(fs::read_dir(place).unwrap().flat_map(|item| everything(&item.unwrap().path())));
    }
    all
}

/// A directory of root's, with a file that nobody else may read or write.
fn victim(pair: &Pair) -> PathBuf {
    let victim = file(pair.home(), "roots/victim", "precious");
    fs::set_permissions(&victim, fs::Permissions::from_mode(0o600)).unwrap();
    victim
}

#[test]
fn all_that_root_receives_is_the_servers() {
    let Some(pair) = pair() else { return };
    let foreign = file(&pair.donor, "schema/foreign.ibd", "root's, and the server reads it");
    fs::set_permissions(&foreign, fs::Permissions::from_mode(0o604)).unwrap();
    let group = file(&pair.donor, "schema/group.ibd", "the server reads it by its group");
    fs::set_permissions(&group, fs::Permissions::from_mode(0o040)).unwrap();
    chown(&group, Some(0), Some(USER)).unwrap();
    pair.transfer(&[], &[]).succeeded();
    for path in everything(&pair.joiner) {
        let stat = fs::symlink_metadata(&path).unwrap();
        assert_eq!((stat.uid(), stat.gid()), (USER, USER), "{}", path.display());
    }
    let mode = |name: &str| fs::metadata(pair.joiner.join(name)).unwrap().mode() & 0o777;
    assert_eq!((mode("schema/foreign.ibd"), mode("schema/group.ibd")), (0o604, 0o440));
    pair.verify().succeeded();
}

#[test]
fn what_the_servers_user_plants_steers_root_nowhere() {
    let Some(pair) = pair() else { return };
    let victim = victim(&pair);
    let home = pair.joiner.join(".highline");
    fs::create_dir(&home).unwrap();
    for name in ["manifest.new", "manifest.new.tmp", "journal.tmp", "incoming"] {
        symlink(&victim, home.join(name)).unwrap();
    }
    symlink(&victim, pair.joiner.join(".highline.lock")).unwrap();
    for path in everything(&home).into_iter().chain([pair.joiner.join(".highline.lock")]) {
        std::os::unix::fs::lchown(path, Some(USER), Some(USER)).unwrap();
    }
    let recover = || pair.run(&["recover", "--datadir", pair.joiner.to_str().unwrap()]);
    let precious = || assert_eq!(fs::read_to_string(&victim).unwrap(), "precious");
    assert_ne!(recover().code(), 0);
    precious();
    fs::remove_file(pair.joiner.join(".highline.lock")).unwrap();
    // Whether it succeeds or is refused, root's file stays as it is.
    fs::remove_file(home.join("incoming")).unwrap();
    pair.transfer(&[], &[]).succeeded();
    precious();

    // A journal that names a directory of root's, whose old entries are to be removed.
    let theirs = pair.home().join("roots/.highline/previous/external-1");
    file(&theirs, "t.ibd", "precious");
    fs::create_dir(&home).unwrap();
    let roots = pair.home().join("roots");
    let body = format!(
        "{{\"version\":1,\"phase\":\"finished\",\"roots\":[{{\"name\":\"datadir\",\"path\":\"\",\"scope\":\"whole\"}},\
         {{\"name\":\"external-1\",\"path\":\"{}\",\"scope\":\"listed\"}}],\"keep\":[],\"own\":[]}}\n",
        roots.display()
    );
    let seal: String = sha2::Sha256::digest(&body).iter().map(|byte| format!("{byte:02x}")).collect();
    fs::write(home.join("journal"), format!("{body}{seal}\n")).unwrap();
    for path in everything(&home) {
        chown(path, Some(USER), Some(USER)).unwrap();
    }
    assert_ne!(recover().code(), 0);
    assert_eq!(fs::read_to_string(theirs.join("t.ibd")).unwrap(), "precious");
    precious();
}

/// A directory that even its owner may not enter is opened up to be moved, on both sides of the switch.
#[test]
fn a_schema_of_mode_0555_is_replaced_and_arrives() {
    let Some(pair) = pair() else { return };
    for (place, name) in [(&pair.donor, "schema"), (&pair.joiner, "sealed")] {
        let inside = file(place, format!("{name}/x"), "x");
        for path in [inside.as_path(), inside.parent().unwrap()] {
            chown(path, Some(USER), Some(USER)).unwrap();
        }
        fs::set_permissions(inside.parent().unwrap(), fs::Permissions::from_mode(0o555)).unwrap();
    }
    for mode in ["auto", "inplace"] {
        pair.arrives(&["--install", mode], &[]);
    }
    assert!(!pair.joiner.join("sealed").exists());
}

#[test]
fn after_a_killed_joiner_in_place_everybody_says_what_is_there() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 6);
    file(&pair.donor, "ibdata1", "system");
    tree::old(&pair.joiner);
    file(&pair.joiner, "ibdata1", "old system");
    let recover = || pair.run(&["recover", "--datadir", pair.joiner.to_str().unwrap()]);
    let mut joiner = pair.receive(&["--install", "inplace"]);
    let donor = pair.send(&joiner.ticket, &["--rate-limit", "1M"]);
    joiner.running.says("agreed with the donor");
    joiner.running.signal(Signal::KILL);
    joiner.running.child.wait().unwrap();
    donor.end(LIMIT).failed(32, &["closed the connection"]);
    assert!(!pair.joiner.join("ibdata1").exists());

    let next = pair.receive(&[]);
    next.running
        .says("holds what an earlier transfer had staged but no database: install=inplace had removed the old data");
    next.running.signal(Signal::TERM);
    next.running.end(SECONDS).failed(4, &[]);
    let ended = recover();
    ended.failed(2, &["holds no database now", "install=inplace removes the old data before the new data arrives"]);
    assert!(ended.stderr.contains("remedy: start the server as a joiner"), "{}", ended.stderr);
    assert!(!pair.joiner.join(".highline").exists());
    pair.arrives(&[], &[]);
    assert_eq!(recover().code(), 0);
}

#[test]
fn in_place_an_offer_that_can_never_fit_costs_nothing() {
    let mut pair = Pair::default();
    let Some(_disk): Option<SmallDisk> = pair.small_disk(5) else { return };
    pair.joiner = pair.home().join("disk/joiner");
    fs::create_dir(&pair.joiner).unwrap();
    tree::plain(&pair.donor, 6);
    tree::old(&pair.joiner);
    let before = tree::read(&pair.joiner);
    let both = pair.transfer(&["--install", "inplace"], &[]);
    both.failed(28, &["joiner: ", "and the donor sends"]);
    assert!(both.joiner.stderr.contains("the old data is unchanged"), "{}", both.joiner.stderr);
    tree::assert_same(&before, &tree::read(&pair.joiner));
}
