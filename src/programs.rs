//! Programs of others, found as a shell finds them. Knows none of them.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

/// The first of `names` that is a program in `PATH`.
pub(crate) fn find(names: &[&str]) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let runs = |place: &PathBuf| {
        std::fs::metadata(place).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    names.iter().flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name))).find(runs)
}
