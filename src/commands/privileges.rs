//! A command started by root runs as the owner of the data directory. Whatever the server's user has put there can then
//! make it do nothing that this user could not do anyway, and all files it makes belong to the server's user.

use std::ffi::CString;
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
