//! The values of options that name files, normalised so that one directory has one name.

use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::{Path, PathBuf};

use crate::error::{Error, Kind, Printable, Result};

/// Reads `name:size;name:size:autoextend[:max:size]` (`SysTablespace::parse_params`, InnoDB).
pub(super) fn file_names(text: &OsStr, option: &str) -> Result<Vec<OsString>> {
    let mut names = Vec::new();
    for file in text.as_bytes().split(|&b| b == b';').map(<[u8]>::trim_ascii).filter(|file| !file.is_empty()) {
        let mut parts = file.split(|&b| b == b':');
        let name = parts.next().unwrap_or_default();
        let size = parts.next().unwrap_or_default();
        if name.is_empty() || !size.first().is_some_and(u8::is_ascii_digit) {
            return Err(refuse(option, OsStr::from_bytes(file), "it does not have the form NAME:SIZE"));
        }
        if size.ends_with(b"raw") {
            return Err(refuse(option, OsStr::from_bytes(file), "raw devices cannot be transferred"));
        }
        names.push(OsString::from_vec(name.to_vec()));
    }
    if names.is_empty() { Err(refuse(option, text, "it names no file")) } else { Ok(names) }
}

/// A file's name as a pattern that matches only itself.
pub(super) fn literal(name: &OsStr, option: &str) -> Result<String> {
    match name.to_str() {
        Some(text) if !text.contains(['*', '#']) => Ok(text.to_owned()),
        _ => Err(refuse(option, name, "a name must be UTF-8 and contain neither * nor #")),
    }
}

pub(super) fn refuse(option: &str, value: &OsStr, why: &str) -> Error {
    Error::new(Kind::Usage, format!("{option}: {}: {why}", Printable(value.as_bytes())))
}

/// The absolute path of a directory with symbolic links resolved, so that one directory has one name. What does not
/// exist yet is resolved as far as it exists.
pub(super) fn real(path: &Path) -> Result<PathBuf> {
    match std::fs::canonicalize(path) {
        Ok(path) => Ok(path),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => match (path.parent(), path.file_name()) {
            (Some(parent), Some(name)) => {
                Ok(real(if parent == Path::new("") { Path::new(".") } else { parent })?.join(name))
            }
            _ => Err(Error::io("cannot resolve", path, error)),
        },
        Err(error) => Err(Error::io("cannot resolve", path, error)),
    }
}
