//! Programs of others: found as a shell finds them, and heard line by line. Knows none of them.

use std::ffi::OsStr;
use std::io::{BufRead, BufReader, Read};
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::error::Printable;

/// The first of `names` that is a program in `PATH`.
pub(crate) fn find(names: &[&str]) -> Option<PathBuf> {
    find_in(&std::env::var_os("PATH").unwrap_or_default(), names)
}

/// The same in the directories of `path`.
pub(crate) fn find_in(path: &OsStr, names: &[&str]) -> Option<PathBuf> {
    let runs = |place: &PathBuf| {
        std::fs::metadata(place).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    names.iter().flat_map(|name| std::env::split_paths(path).map(move |dir| dir.join(name))).find(runs)
}

/// Gives `heard` each line, printable and without what surrounds it, until a program's output ends. A line of more than
/// `most` bytes counts as several.
pub(crate) fn lines(said: impl Read, most: u64, mut heard: impl FnMut(&str)) {
    let (mut said, mut line) = (BufReader::new(said), Vec::new());
    while let Ok(1..) = said.by_ref().take(most).read_until(b'\n', &mut line) {
        heard(&Printable(line.trim_ascii()).to_string());
        line.clear();
    }
}
