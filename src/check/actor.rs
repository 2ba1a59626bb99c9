//! Who would run a transfer: a user with groups, capabilities and limits, read from `/proc` and the account files.
//!
//! Finds and describes a process without touching the files it has open.

use std::fs::Metadata;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use crate::error::Printable;

/// `linux/capability.h`.
pub const CAPABILITIES: [(&str, u32); 7] = [
    ("CAP_CHOWN", 0),
    ("CAP_DAC_OVERRIDE", 1),
    ("CAP_DAC_READ_SEARCH", 2),
    ("CAP_FOWNER", 3),
    ("CAP_SETGID", 6),
    ("CAP_SETUID", 7),
    ("CAP_NET_BIND_SERVICE", 10),
];

/// What a process may do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Actor {
    pub uid: u32,
    pub groups: Vec<u32>,
    /// The effective set, as bits.
    pub capabilities: u64,
    /// The soft limit of open files, if known.
    pub files: Option<u64>,
}

impl Actor {
    /// This process.
    pub fn myself() -> Option<Actor> {
        let proc = Path::new("/proc/self");
        Actor::of_status(&std::fs::read_to_string(proc.join("status")).ok()?, "CapEff", open_files(proc))
    }

    /// What a program started by process `pid` gets, as a server's scripts do: root gets the whole bounding set,
    /// another user only the ambient one (`capabilities(7)`).
    pub fn child_of(pid: u32) -> Option<Actor> {
        let proc = PathBuf::from(format!("/proc/{pid}"));
        let status = std::fs::read_to_string(proc.join("status")).ok()?;
        let user = Actor::of_status(&status, "CapAmb", open_files(&proc))?;
        if user.uid == 0 { Actor::of_status(&status, "CapBnd", user.files) } else { Some(user) }
    }

    /// An account without a process; without capabilities unless it is root.
    pub fn of_account(uid: u32, gid: u32) -> Actor {
        let groups = std::fs::read_to_string("/etc/group").unwrap_or_default();
        let mut member = vec![gid];
        if let Some(name) = user_name(uid) {
            member.extend(groups.lines().filter_map(|line| {
                let mut fields = line.split(':').skip(2);
                let gid = fields.next()?.parse::<u32>().ok()?;
                fields.next()?.split(',').any(|user| user == name).then_some(gid)
            }));
        }
        Actor { uid, groups: member, capabilities: if uid == 0 { u64::MAX } else { 0 }, files: None }
    }

    /// Reads `/proc/PID/status` (`proc(5)`).
    fn of_status(text: &str, set: &str, files: Option<u64>) -> Option<Actor> {
        let field = |name: &str| text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
        // Of real, effective, saved and filesystem.
        let effective = |name| field(name)?.split_whitespace().nth(1)?.parse().ok();
        let mut groups: Vec<u32> = vec![effective("Gid")?];
        groups.extend(field("Groups")?.split_whitespace().filter_map(|gid| gid.parse::<u32>().ok()));
        let capabilities = u64::from_str_radix(field(set)?.trim(), 16).ok()?;
        Some(Actor { uid: effective("Uid")?, groups, capabilities, files })
    }

    /// Whether it has this capability of [`CAPABILITIES`].
    pub fn has(&self, name: &str) -> bool {
        CAPABILITIES.iter().any(|(known, bit)| *known == name && self.capabilities >> bit & 1 == 1)
    }

    /// Whether the mode bits, or a capability, let it do `wanted` (4 read, 2 write, 1 execute or search).
    pub fn may(&self, wanted: u32, file: &Metadata) -> bool {
        let class = match () {
            () if self.uid == file.uid() => 6,
            () if self.groups.contains(&file.gid()) => 3,
            () => 0,
        };
        let missing = wanted & !(file.mode() >> class);
        missing == 0
            || self.has("CAP_DAC_OVERRIDE") && (file.is_dir() || missing & 1 == 0)
            || self.has("CAP_DAC_READ_SEARCH") && missing & if file.is_dir() { 2 } else { 3 } == 0
    }
}

/// The soft limit; only the process's own user and root may read it.
fn open_files(proc: &Path) -> Option<u64> {
    let limits = std::fs::read_to_string(proc.join("limits")).ok()?;
    let line = limits.lines().find_map(|line| line.strip_prefix("Max open files"))?;
    let soft = line.split_whitespace().next()?;
    if soft == "unlimited" { Some(u64::MAX) } else { soft.parse().ok() }
}

/// The process of a server that runs on `datadir`: found by its working directory or, if that may not be read, by its
/// pid file.
pub fn server_on(datadir: &Path, pid_file: Option<&Path>) -> Option<u32> {
    let same = std::fs::metadata(datadir).ok().map(|dir| (dir.dev(), dir.ino()))?;
    let at_work = |pid: u32| {
        let cwd = std::fs::metadata(format!("/proc/{pid}/cwd"));
        is_server(pid) && cwd.is_ok_and(|cwd| (cwd.dev(), cwd.ino()) == same)
    };
    let processes = std::fs::read_dir("/proc").ok()?.flatten();
    let mut pids = processes.filter_map(|entry| entry.file_name().to_str()?.parse().ok());
    pids.find(|pid| at_work(*pid)).or_else(|| {
        let text = std::fs::read_to_string(datadir.join(pid_file?)).ok()?;
        text.trim().parse().ok().filter(|pid| is_server(*pid))
    })
}

fn is_server(pid: u32) -> bool {
    let name = std::fs::read_to_string(format!("/proc/{pid}/comm")).unwrap_or_default();
    matches!(name.trim_end(), "mariadbd" | "mysqld")
}

/// User and group of an account in `/etc/passwd`, by name or number.
pub fn account(user: &str) -> Option<(u32, u32)> {
    let number = user.parse().ok();
    passwd(|name, uid, gid| (name == user || Some(uid) == number).then_some((uid, gid)))
}

/// "mysql", or "uid 999" if the account has no name here.
pub fn called(uid: u32) -> String {
    user_name(uid).map_or_else(|| format!("uid {uid}"), |name| Printable(name.as_bytes()).to_string())
}

/// The same, in the form that `chown` and `setpriv` accept.
pub fn word(uid: u32) -> String {
    user_name(uid).map_or_else(|| uid.to_string(), |name| Printable(name.as_bytes()).to_string())
}

/// Owner and login group, in the form that `chown` accepts; a user without a name has no login group.
pub fn owner(uid: u32) -> String {
    user_name(uid).map_or_else(|| uid.to_string(), |name| format!("{}:", Printable(name.as_bytes())))
}

fn user_name(uid: u32) -> Option<String> {
    passwd(|name, of, _| (of == uid).then(|| name.to_owned()))
}

fn passwd<T>(pick: impl Fn(&str, u32, u32) -> Option<T>) -> Option<T> {
    let accounts = std::fs::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let (name, _, uid, gid) = (fields.next()?, fields.next()?, fields.next()?, fields.next()?);
        pick(name, uid.parse().ok()?, gid.parse().ok()?)
    })
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    const STATUS: &str = "Name:\tmariadbd\nUid:\t0\t102\t102\t102\nGid:\t0\t105\t105\t105\nGroups:\t4 7 \n\
        CapInh:\t0\nCapPrm:\t0\nCapEff:\t000000000000000a\nCapBnd:\t000001ffffffffff\nCapAmb:\t0000000000000400\n";

    #[test]
    fn a_status_is_read() {
        let actor = Actor::of_status(STATUS, "CapEff", Some(1024)).unwrap();
        assert_eq!((actor.uid, &*actor.groups, actor.files), (102, &[105, 4, 7][..], Some(1024)));
        let all = CAPABILITIES.map(|(name, _)| actor.has(name));
        assert_eq!(all, [false, true, false, true, false, false, false]);
        assert!(Actor::of_status(STATUS, "CapAmb", None).unwrap().has("CAP_NET_BIND_SERVICE"));
        for cut in ["", "Uid:\t1\n", "Uid:\t1\t2\nGid:\t1\t1\nGroups:\t\nCapEff:\tx\n"] {
            assert_eq!(Actor::of_status(cut, "CapEff", None), None, "{cut}");
        }
        assert!(Actor::myself().unwrap().files.is_some());
    }

    #[test]
    fn modes_and_capabilities_decide_as_in_the_kernel() {
        let temp = tempfile::tempdir().unwrap();
        let own = std::fs::metadata(temp.path()).unwrap();
        let (owner, group, other) = ((own.uid(), 9), (9, own.gid()), (9, 9));
        let path = temp.path().join("x");
        std::fs::create_dir(&path).unwrap();
        for (mode, (uid, gid), capability, wanted, may) in [
            (0o700, owner, 0, 7, true),
            (0o700, group, 0, 1, false),
            (0o070, group, 0, 7, true),
            // The owner is judged by his own bits alone.
            (0o077, owner, 0, 4, false),
            (0o005, other, 0, 5, true),
            (0o005, other, 0, 2, false),
            (0o000, other, 1 << 1, 7, true),
            (0o000, other, 1 << 2, 5, true),
            (0o000, other, 1 << 2, 2, false),
            (0o000, other, 1 << 3, 4, false),
        ] {
            std::fs::set_permissions(&path, PermissionsExt::from_mode(mode)).unwrap();
            let actor = Actor { uid, groups: vec![gid], capabilities: capability, files: None };
            let file = std::fs::metadata(&path).unwrap();
            assert_eq!(actor.may(wanted, &file), may, "{mode:o} {uid} {gid} {capability} {wanted}");
        }
    }

    #[test]
    fn accounts_have_names_and_numbers() {
        assert_eq!(account("root"), Some((0, 0)));
        assert_eq!(account("0"), Some((0, 0)));
        assert_eq!(account("no such user"), None);
        assert_eq!((called(0).as_str(), called(4_000_000_000).as_str()), ("root", "uid 4000000000"));
        assert_eq!((word(0).as_str(), word(4_000_000_000).as_str()), ("root", "4000000000"));
        assert_eq!((owner(0).as_str(), owner(4_000_000_000).as_str()), ("root:", "4000000000"));
        assert!(Actor::of_account(0, 0).has("CAP_CHOWN") && !Actor::of_account(1, 1).has("CAP_CHOWN"));
    }
}
