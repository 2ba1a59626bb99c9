//! Where the program is.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;

use crate::error::{Error, Kind, Result};

/// Its name since 10.4, and the older one that still works.
const NAMES: [&str; 2] = ["mariadb-backup", "mariabackup"];

/// The program in `PATH`.
pub fn program() -> Result<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let runs = |place: &PathBuf| {
        std::fs::metadata(place).is_ok_and(|file| file.is_file() && file.permissions().mode() & 0o111 != 0)
    };
    let mut places = NAMES.iter().flat_map(|name| std::env::split_paths(&path).map(move |dir| dir.join(name)));
    places.find(runs).ok_or_else(|| {
        Error::new(Kind::Usage, "the program mariadb-backup is not installed here")
            .remedy("install the package mariadb-backup on every node, or set source=files on every donor")
    })
}
