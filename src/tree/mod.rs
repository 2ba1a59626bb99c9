//! What is sent: roots, the paths beneath them, the rules, and the scan of a donor's tree.
//!
//! Knows files and names. Knows no network, no digests and no protocol.

mod complete;
mod data_files;
mod entry;
mod filesystem;
mod innodb;
mod node_owned;
mod own;
mod path;
mod roots;
mod rules;
mod scan;
mod source;
mod stamp;
mod stillness;

pub use complete::{Part, is_of_mysql, lacks, parts};
pub use data_files::{holds_tables, is_data_file, is_link_file};
pub use entry::{Attributes, Content, Entry, Metadata, Mtime};
pub use filesystem::{Filesystems, free_space};
pub use innodb::{InnodbFiles, Recovery, RedoLog, system_tablespace};
pub use node_owned::{Row, TABLE, is_key_file, row};
pub use own::{Own, OwnName, OwnPath};
pub use path::{PathError, RelPath, RootName};
pub use roots::{Root, Roots, Scope, Shape, matches, names};
pub use rules::Rules;
pub use scan::{Found, Scanned, Tolerance, leads_outside, locate, scan, scan_fully};
pub use source::{Source, changed, data_runs, readable, vanished};
pub use stamp::Stamp;
pub use stillness::{Stillness, likely_writer, may_vanish};
