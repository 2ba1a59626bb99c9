//! Where the program is.

use std::path::PathBuf;

use crate::error::{Error, Kind, Result};
use crate::programs::find;

/// Its name since 10.4, and the older one that still works.
const NAMES: [&str; 2] = ["mariadb-backup", "mariabackup"];

/// The program in `PATH`.
pub fn program() -> Result<PathBuf> {
    find(&NAMES).ok_or_else(|| {
        Error::new(Kind::Usage, "the program mariadb-backup is not installed here")
            .remedy("install the package mariadb-backup on every node, or set source=files on every donor")
    })
}
