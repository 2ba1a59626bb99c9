//! A command started by root runs as the owner of the data directory. Whatever the server's user has put there can then
//! make it do nothing that this user could not do anyway, and all files it makes belong to the server's user.

use std::ffi::{CString, OsStr};
use std::path::Path;

use nix::unistd::{Gid, Uid, User, initgroups, setgid, setgroups, setuid};

use crate::error::{Error, Kind, Printable, Result};

/// Becomes that owner for good. Does nothing if this process is not root or the directory belongs to root.
///
/// Call it
/// before anything in the directory is opened, and before there is a second thread.
pub(super) fn become_owner(datadir: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let owner = match std::fs::metadata(datadir) {
        Ok(stat) if Uid::effective().is_root() && stat.uid() != 0 => {
            (Uid::from_raw(stat.uid()), Gid::from_raw(stat.gid()))
        }
        // If it is missing, whoever needs it says so.
        _ => return Ok(()),
    };
    become_user(owner.0, owner.1).map_err(|e| {
        let what = format!("cannot become the owner of {} (user {})", Printable::path(datadir), owner.0);
        Error::new(Kind::Permission, what).because(e).remedy("run this command as that user")
    })
}

fn become_user(user: Uid, group: Gid) -> nix::Result<()> {
    let name = User::from_uid(user).ok().flatten().and_then(|user| CString::new(user.name).ok());
    match name {
        // With its supplementary groups, which may be what lets it read the certificates.
        Some(name) => initgroups(&name, group)?,
        None => setgroups(&[group])?,
    }
    setgid(group)?;
    setuid(user)
}

/// Gives an empty directory of root's to `user`, so that a server can use what is put there; by default to `mysql`, if there
/// is such an account. It is empty if it has only names that are `ours`. Does nothing if this process is not root or the
/// directory is somebody else's, or a symlink.
pub(super) fn give(directory: &Path, user: Option<&str>, ours: impl Fn(&OsStr) -> bool) -> Result<()> {
    use std::os::unix::ffi::OsStrExt;
    use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
    if !Uid::effective().is_root() {
        return match user {
            Some(_) => Err(Error::new(Kind::Permission, "only root can give a directory to another user")
                .remedy("leave --user out, or run this as root")),
            None => Ok(()),
        };
    }
    let failed = |e| Error::io("cannot open the directory", directory, e);
    let flags = rustix::fs::OFlags::DIRECTORY | rustix::fs::OFlags::NOFOLLOW;
    let opened = std::fs::File::options().read(true).custom_flags(flags.bits().cast_signed()).open(directory);
    let opened = match opened {
        Err(_) if directory.is_dir() => return Ok(()),
        opened => opened.map_err(failed)?,
    };
    let owner = opened.metadata().map_err(failed)?.uid();
    let account = User::from_name(user.unwrap_or("mysql")).ok().flatten();
    match (account, user) {
        (None, Some(user)) => {
            let user = Printable(user.as_bytes());
            Err(Error::new(Kind::Usage, format!("there is no account {user}")).remedy("see --user"))
        }
        (Some(account), _) if owner == 0 => {
            // Of what was opened, not of what has this path by now.
            let unread = |e: rustix::io::Errno| Error::io("cannot read the directory", directory, e);
            for item in rustix::fs::Dir::read_from(&opened).map_err(unread)? {
                let item = item.map_err(unread)?;
                let name = item.file_name().to_bytes();
                if !matches!(name, b"." | b"..") && !ours(OsStr::from_bytes(name)) {
                    return Ok(());
                }
            }
            std::os::unix::fs::fchown(&opened, Some(account.uid.as_raw()), Some(account.gid.as_raw()))
                .map_err(|e| Error::io("cannot give away the directory", directory, e))
        }
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::MetadataExt;

    use super::*;

    #[test]
    fn only_an_empty_directory_is_given_away() {
        if !Uid::effective().is_root() {
            return;
        }
        let dir = tempfile::tempdir().unwrap();
        let owner = || std::fs::metadata(dir.path()).unwrap().uid();
        std::fs::write(dir.path().join("thesis.txt"), "x").unwrap();
        give(dir.path(), Some("nobody"), |name| name == "lost+found").unwrap();
        assert_eq!(owner(), 0);
        std::fs::rename(dir.path().join("thesis.txt"), dir.path().join("lost+found")).unwrap();
        give(dir.path(), Some("nobody"), |name| name == "lost+found").unwrap();
        assert_ne!(owner(), 0);
    }
}
