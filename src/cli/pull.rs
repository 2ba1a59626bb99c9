//! What was typed after `highline pull`, and after the hidden `arbitrate`.

use std::ffi::OsString;
use std::path::PathBuf;

use clap::Args;

use super::{DeadlineArgs, IdentityArgs, PrepareArgs, TalkArgs};
use crate::arbitrator::Cluster;
use crate::link::Timeout;
use crate::manifest::ChecksumChoice;

#[derive(Debug, Args)]
pub struct PullArgs {
    /// The directory for the copy; it is made if it does not exist
    #[arg(long, value_name = "DIR")]
    pub to: PathBuf,

    /// The node that sends (its wsrep_node_name). Several, separated by commas, are tried in this order; a comma at the
    /// end lets the cluster choose another if none of them can
    #[arg(long, value_name = "NODE")]
    pub donor: String,

    /// Where the cluster is: HOST[:PORT], separated by commas; one node that is up will do. By default
    /// wsrep_cluster_address in --defaults-file
    #[arg(long, value_name = "HOSTS")]
    pub cluster_address: Option<Cluster>,

    /// The cluster's wsrep_cluster_name; by default that in --defaults-file
    #[arg(long, value_name = "NAME")]
    pub cluster_name: Option<String>,

    /// What the provider needs to talk to the cluster, such as 'socket.ssl_ca=FILE;socket.ssl_cert=FILE;socket.ssl_key=FILE';
    /// by default what wsrep_provider_options in --defaults-file says about that
    #[arg(long, value_name = "OPTIONS")]
    pub provider_options: Option<String>,

    /// Where garbd listens for the cluster's nodes; by default the address by which they see this host, and port 4567 or,
    /// if that is in use, another
    #[arg(long, value_name = "HOST:PORT")]
    pub group_listen: Option<String>,

    /// A node's option file: says where the cluster is, and which certificates replication and transfers use. If DIR is
    /// its datadir, then also where the server's other directories are
    #[arg(long, value_name = "FILE")]
    pub defaults_file: Option<PathBuf>,

    /// Also read that file's groups with this suffix
    #[arg(long, value_name = "SUFFIX", requires = "defaults_file")]
    pub defaults_group_suffix: Option<OsString>,

    /// Replace the copy or the data that DIR holds: it stays until the new one is verified, and what is equal is not sent
    /// again
    #[arg(long)]
    pub replace: bool,

    /// If root runs this: whose an empty DIR of root's becomes; by default mysql, if there is such an account
    #[arg(long, value_name = "USER")]
    pub user: Option<String>,

    /// Address and port to listen on for the donor; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "[::]:4444")]
    pub listen: String,

    /// The host name or address by which the donor reaches this host; by default that of --listen, or else the address by
    /// which the cluster sees this host
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,

    /// Checksum: auto (whichever is faster on the slower node), sha256 or blake3
    #[arg(long, value_name = "NAME", default_value_t)]
    pub checksum: ChecksumChoice,

    /// How long to try to reach the cluster and to have a donor; 0 means forever
    #[arg(long, value_name = "TIME", default_value_t = Timeout::CONNECT)]
    pub connect_timeout: Timeout,

    /// How long to wait for the donor that was chosen; 0 means forever
    #[arg(long, value_name = "TIME", default_value_t = Timeout::seconds(120))]
    pub initial_timeout: Timeout,

    #[command(flatten)]
    pub prepare: PrepareArgs,
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub deadlines: DeadlineArgs,
    #[command(flatten)]
    pub talk: TalkArgs,
}

#[derive(Debug, Args)]
pub struct ArbitrateArgs {
    /// The process that this one does not outlive
    #[arg(long, value_name = "PID")]
    pub parent: i32,

    /// The program and its arguments
    #[arg(last = true, required = true)]
    pub words: Vec<OsString>,
}
