//! What was typed after `highline check`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Read only this option file
    #[arg(long, value_name = "FILE")]
    pub defaults_file: Option<PathBuf>,
    /// Read this option file after the global ones
    #[arg(long, value_name = "FILE")]
    pub defaults_extra_file: Option<PathBuf>,
    /// Also read groups with this suffix
    #[arg(long, value_name = "SUFFIX")]
    pub defaults_group_suffix: Option<OsString>,
    /// Also connect to a listening `highline receive`, or to a server's replication port (4567), and say what it
    /// presents
    #[arg(long, value_name = "HOST:PORT")]
    pub peer: Option<String>,
    /// Check the peer's chain against this CA file or directory instead of the configured one
    #[arg(long, value_name = "FILE", requires = "peer")]
    pub ca: Option<PathBuf>,
    /// Print one JSON object instead of the table
    #[arg(long)]
    pub json: bool,
}
