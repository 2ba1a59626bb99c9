//! Writes files of keys and certificates so that nothing is lost or exposed.
//!
//! A file appears whole under its name or not at all, is synced, and belongs to the owner of its directory: root makes
//! the files, but the database server must read them.

use std::fs::{self, File};
use std::io::Write;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;

use crate::error::{Error, Kind, Printable, Result};

/// Who may read a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Secrecy {
    /// Mode 0600: a private key.
    Private,
    /// Mode 0644: a certificate.
    Public,
}

/// What to do if a file of that name exists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    Refuse,
    Replace,
}

pub fn write(path: &Path, text: &str, secrecy: Secrecy, existing: Existing) -> Result<()> {
    let dir = path.parent().filter(|dir| !dir.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let cannot = |e: std::io::Error| Error::io("cannot write", path, e);
    // Created with O_EXCL and mode 0600 under a random name; the mode is widened only once everything is written.
    let mut file = tempfile::NamedTempFile::new_in(dir).map_err(cannot)?;
    file.write_all(text.as_bytes()).map_err(cannot)?;
    if rustix::process::geteuid().is_root() {
        let owner = fs::metadata(dir).map_err(cannot)?;
        chown(file.path(), Some(owner.uid()), Some(owner.gid())).map_err(cannot)?;
    }
    let mode = if secrecy == Secrecy::Private { 0o600 } else { 0o644 };
    file.as_file().set_permissions(fs::Permissions::from_mode(mode)).map_err(cannot)?;
    file.as_file().sync_all().map_err(cannot)?;
    match existing {
        Existing::Replace => file.persist(path).map(|_| ()).map_err(|e| cannot(e.error))?,
        Existing::Refuse => file.persist_noclobber(path).map(|_| ()).map_err(|e| match e.error.kind() {
            std::io::ErrorKind::AlreadyExists => {
                Error::new(Kind::Usage, format!("{} already exists and was not changed", Printable::path(path)))
                    .remedy("choose another --dir, or use --force to replace it")
            }
            _ => cannot(e.error),
        })?,
    }
    File::open(dir).and_then(|dir| dir.sync_all()).map_err(cannot)
}

/// Makes a directory that only its owner may enter, unless it exists.
pub fn make_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    if path.is_dir() {
        return Ok(());
    }
    fs::DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(path)
        .map_err(|e| Error::io("cannot make the directory", path, e))
}
