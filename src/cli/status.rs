//! What was typed after `highline status` and `highline rate`.

use std::path::PathBuf;

use clap::Args;

use crate::link::Timeout;
use crate::pace::RateLimit;

#[derive(Debug, Args)]
pub struct StatusArgs {
    /// The server's data directory; by default the one its option files name
    #[arg(long, value_name = "DIR")]
    pub datadir: Option<PathBuf>,

    /// Print a JSON object instead of the table; with --watch, one per line
    #[arg(long)]
    pub json: bool,

    /// Print a line every second until the transfer is over
    #[arg(long)]
    pub watch: bool,

    /// How long without progress before a transfer counts as stuck
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub stuck_after: Timeout,
}

#[derive(Debug, Args)]
pub struct RateArgs {
    /// The most bytes per second on the wire, such as 50M; K, M, G and T are powers of 1024, and 0 means no limit
    #[arg(value_name = "RATE")]
    pub rate: RateLimit,

    /// The server's data directory; by default the one its option files name
    #[arg(long, value_name = "DIR")]
    pub datadir: Option<PathBuf>,
}
