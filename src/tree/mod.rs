//! What travels: roots, the paths beneath them, the rules, and the scan of a donor's tree.
//!
//! Knows files and names. Knows no network, no digests and no protocol.

mod entry;
mod filesystem;
mod innodb;
mod path;
mod roots;
mod rules;
mod scan;
mod source;
mod stillness;

pub use entry::{Content, Entry, Metadata, Mtime};
pub use filesystem::Filesystems;
pub use innodb::{InnodbFiles, Recovery, RedoLog};
pub use path::{PathError, RelPath, RootName};
pub use roots::{Root, Roots, Scope, matches};
pub use rules::{REPLICA, Rules};
pub use scan::{Found, Stamp, Tolerance, leads_outside, locate, scan};
pub use source::{Source, changed, readable, vanished};
pub use stillness::{Stillness, likely_writer, may_vanish};
