//! What was typed after `highline status` and `highline rate`.

use std::path::PathBuf;

use clap::Args;

use crate::link::Timeout;
use crate::pace::RateLimit;

#[derive(Debug, Args)]
#[command(after_long_help = "\
Works on the donor and on the joiner, under Galera and by hand, for root and for
the server's user and group. It opens one file in the data directory and changes
nothing.

Exit code: 0 a transfer works, 3 there is none, 4 it is stuck; any other: the
status could not be read. With --watch the code is how the transfer ended: 0
well, else that of its failure.")]
pub struct StatusArgs {
    /// The server's data directory; by default what its option files say
    #[arg(long, value_name = "DIR")]
    pub datadir: Option<PathBuf>,

    /// A JSON object instead of the table; with --watch one a line
    #[arg(long)]
    pub json: bool,

    /// A line each second until the transfer is over
    #[arg(long)]
    pub watch: bool,

    /// After how long without any progress a transfer is called stuck
    #[arg(long, value_name = "TIME", default_value = "60s")]
    pub stuck_after: Timeout,
}

#[derive(Debug, Args)]
#[command(after_long_help = "\
It holds for the transfer that runs on this node as donor, until that ends; the
option file is not changed. Only root and the owner of the data directory, which
is the server's user, may do it. Bytes that go out under the lock are not held
back, unless all of the data does (freeze=whole).")]
pub struct RateArgs {
    /// The most bytes a second on the wire, such as 50M; K, M, G and T are powers of 1024, and 0 is no limit
    #[arg(value_name = "RATE")]
    pub rate: RateLimit,

    /// The server's data directory; by default what its option files say
    #[arg(long, value_name = "DIR")]
    pub datadir: Option<PathBuf>,
}
