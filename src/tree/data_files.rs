//! How a server's data files are named.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use super::path::RelPath;

/// Extensions of the files that make up tables, views, triggers and the like.
const ENDINGS: &[&str] = &[
    "ARM", "ARN", "ARZ", "CSM", "CSV", "MAD", "MAI", "MRG", "MYD", "MYI", "TRG", "TRN", "cfg", "cfp", "frm", "ibd",
    "isl", "opt", "par", "sdi",
];

/// Whether a file by that name is part of a table or schema.
pub fn is_data_file(name: &OsStr) -> bool {
    let mut parts = name.as_bytes().rsplit(|&b| b == b'.');
    let ending = parts.next().unwrap_or_default();
    parts.next().is_some() && ENDINGS.iter().any(|known| known.as_bytes() == ending)
}

/// Whether the file's content is the path of a tablespace that lies elsewhere (`CREATE TABLE … DATA DIRECTORY`).
pub fn is_link_file(path: &RelPath) -> bool {
    path.as_bytes().ends_with(b".isl")
}

/// Whether tables, or files that make a directory a schema, are in it or beneath. An unreadable directory counts as
/// holding some.
pub fn holds_tables(directory: &Path) -> bool {
    let Ok(entries) = std::fs::read_dir(directory) else { return true };
    entries.flatten().any(|entry| match entry.file_type() {
        Ok(kind) if kind.is_dir() => holds_tables(&entry.path()),
        // Temporary tables are not data.
        _ => is_data_file(&entry.file_name()) && !entry.file_name().as_bytes().starts_with(b"#sql"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_known_by_their_endings() {
        for (name, data) in [
            ("t.ibd", true),
            ("db.opt", true),
            ("t#P#p0.MYD", true),
            ("ibd", false),
            ("t.ibd.bak", false),
            ("x.log", false),
        ] {
            assert_eq!(is_data_file(name.as_ref()), data, "{name}");
        }
    }
}
