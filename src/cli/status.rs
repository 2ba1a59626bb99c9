//! What was typed after `highline status` and `highline rate`.

use std::path::PathBuf;

use clap::Args;

use crate::link::Timeout;
use crate::pace::RateLimit;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Works on the donor and on the joiner, under Galera and by hand, for root and for
the server's user and group. It reads one file in the data directory and changes
nothing.

Exit code: 0 a transfer is running, 3 there is none, 4 it is stuck; any other:
the status could not be read. With --watch the code says how the transfer ended:
0 for success, otherwise that of its failure.")]
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
#[command(after_long_help = "\
Applies to the transfer this node is sending, until that ends; the option file is
not changed. Only root and the owner of the data directory (the server's user)
may do it. What is sent under the lock is not slowed down, unless that is
everything (freeze=whole).")]
pub struct RateArgs {
    /// The most bytes per second on the wire, such as 50M; K, M, G and T are powers of 1024, and 0 means no limit
    #[arg(value_name = "RATE")]
    pub rate: RateLimit,

    /// The server's data directory; by default the one its option files name
    #[arg(long, value_name = "DIR")]
    pub datadir: Option<PathBuf>,
}
