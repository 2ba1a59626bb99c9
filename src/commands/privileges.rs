//! A command that root starts works as the owner of the data directory: what the server's user has put there can then steer
//! it to nothing that this user could not do alone, and all that it makes is the server's.

use std::ffi::CString;
use std::path::Path;

use nix::unistd::{Gid, Uid, User, initgroups, setgid, setgroups, setuid};

use crate::error::{Error, Kind, Printable, Result};

/// Becomes that owner for good; nothing where this process is not root's or the directory is root's own.
///
/// To be called before anything in the directory is opened, and before there is a second thread.
pub(super) fn become_owner(datadir: &Path) -> Result<()> {
    use std::os::unix::fs::MetadataExt;
    let owner = match std::fs::metadata(datadir) {
        Ok(stat) if Uid::effective().is_root() && stat.uid() != 0 => {
            (Uid::from_raw(stat.uid()), Gid::from_raw(stat.gid()))
        }
        // One that is missing is told of by whoever needs it.
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
        // With its other groups, which may be what lets it read certificates.
        Some(name) => initgroups(&name, group)?,
        None => setgroups(&[group])?,
    }
    setgid(group)?;
    setuid(user)
}
