//! What was typed. `clap` lives here alone; what it means is decided in `config` and the commands.

mod certs;
mod check;
pub mod pages;
mod status;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::donor::{Compression, FreezeMode};
use crate::install::Reuse;
use crate::joiner::InstallMode;
use crate::link::{Lanes, Timeout};
use crate::manifest::ChecksumChoice;
use crate::pace::{ByteCount, RateLimit};
use crate::sst::options::SslMode;

pub use certs::{CaArgs, CertsArgs, CertsVerb, NodeArgs, ShowArgs};
pub use check::CheckArgs;
pub use status::{RateArgs, StatusArgs};

/// What `--version` says after the name.
const VERSION: &str =
    if cfg!(feature = "fips") { concat!(env!("CARGO_PKG_VERSION"), " (FIPS)") } else { env!("CARGO_PKG_VERSION") };

/// Moves a whole MariaDB data directory from one Galera node to another: always encrypted, always
/// verified, on parallel connections.
#[derive(Debug, Parser)]
#[command(name = "highline", version = VERSION, about, long_about = None, propagate_version = true, arg_required_else_help = true)]
#[command(
    after_help = "Start with `highline demo`. To reseed a node by hand, stop its server, run `highline receive` \
on it, and give the line that it prints to `highline send` on a donor."
)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Wait for a donor and take its data (the joiner's side)
    Receive(ReceiveArgs),
    /// Send this node's data to a waiting joiner (the donor's side)
    Send(SendArgs),
    /// Make a tree, move it over loopback, verify it, and show the figures
    Demo(DemoArgs),
    /// Re-read an installed tree and name every file that is not what was sent
    Verify(VerifyArgs),
    /// Finish or undo an installation that was cut short
    Recover(RecoverArgs),
    /// Remove what transfers that failed have left for the next
    Discard(DiscardArgs),
    /// Show the transfer of this node: phase, rate, time left, and whether it is stuck
    Status(StatusArgs),
    /// Change the rate limit of the transfer that this node sends
    Rate(RateArgs),
    /// Make and show certificates for all traffic of a cluster
    Certs(CertsArgs),
    /// Examine this node's configuration: is every kind of traffic secured?
    Check(CheckArgs),
    /// Be called by the database server (`wsrep_sst_method=highline`)
    #[command(disable_help_flag = true)]
    Sst(SstArgs),
    /// Write man pages and shell completions
    #[command(hide = true)]
    Generate(GenerateArgs),
}

/// Where the server keeps its files.
#[derive(Args, Clone, Debug, Default)]
pub struct TreeArgs {
    /// The server's data directory
    #[arg(long, value_name = "DIR")]
    pub datadir: PathBuf,

    /// Another directory that the server uses: innodb-data, innodb-log, innodb-undo, aria-log or binlog; repeatable.
    /// A name that is not given lies in the data directory. On a joiner `external-1=PATH`, with the donor's own path,
    /// agrees that tablespaces outside the data directory replace what is in their way there
    #[arg(long = "root", value_name = "NAME=PATH")]
    pub roots: Vec<OsString>,

    /// The server's option file, which says instead of --root where its other directories are, what it calls its binary
    /// logs, and what in them is this node's own: logs, sockets, temporary directories, certificates and keys
    #[arg(long, value_name = "FILE")]
    pub defaults_file: Option<PathBuf>,

    /// Of that file also the groups whose names end so
    #[arg(long, value_name = "SUFFIX", requires = "defaults_file")]
    pub defaults_group_suffix: Option<OsString>,
}

/// Who we are and whom we trust, beyond the ticket.
#[derive(Args, Clone, Debug, Default)]
pub struct IdentityArgs {
    /// This node's certificate (PEM); made for this one run when not given
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// The certificate's private key (PEM); not needed when the certificate's file holds it
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,

    /// Authorities that must have signed the peer's certificate: a PEM file or a directory; repeatable
    #[arg(long, value_name = "FILE")]
    pub ca: Vec<PathBuf>,

    /// Certificate revocation lists: a PEM file or a directory; repeatable
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub crl: Vec<PathBuf>,

    /// Beside pin and secret, what the peer's certificate must hold: REQUIRED (nothing more), VERIFY_CA (the default
    /// with --ca) or VERIFY_IDENTITY (authority and name)
    #[arg(long, value_name = "MODE")]
    pub ssl_mode: Option<SslMode>,

    /// With VERIFY_IDENTITY: a name that the peer's certificate may have. A donor takes the address that it dials,
    /// a joiner any donor of the authority, when none is given; repeatable
    #[arg(long, value_name = "NAME")]
    pub peer_name: Vec<String>,
}

/// How long to wait for what.
#[derive(Args, Clone, Debug)]
pub struct DeadlineArgs {
    /// How long a transfer may stand still before it fails; 0 is for ever
    #[arg(long, value_name = "TIME", default_value_t = Timeout::IDLE)]
    pub idle_timeout: Timeout,
}

/// How a command talks.
#[derive(Args, Clone, Debug, Default)]
pub struct TalkArgs {
    /// How progress is shown on standard error
    #[arg(long, value_enum, default_value_t)]
    pub progress: ProgressStyle,

    /// Keep the figures of this transfer and the last one in a file, in Prometheus' text format
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,

    /// Print the result as one JSON object at the end (`send` on standard output, `receive` on standard error)
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ProgressStyle {
    /// A bar on a terminal, else a line every ten seconds
    #[default]
    Auto,
    Bar,
    Lines,
    /// One JSON object a line
    Json,
    /// Warnings only
    None,
}

/// What the donor chooses.
#[derive(Args, Clone, Debug, Default)]
pub struct LaneArgs {
    /// Parallel connections, 1 to 32; by default as many as cores, 8 to 16
    #[arg(long, value_name = "N")]
    pub lanes: Option<Lanes>,

    /// auto, none, lz4, zstd or zstd:LEVEL
    #[arg(long, value_name = "CODEC", default_value_t)]
    pub compress: Compression,

    /// auto (the faster on the slower side), sha256 or blake3
    #[arg(long, value_name = "NAME", default_value_t)]
    pub checksum: ChecksumChoice,

    /// The most bytes a second on the wire, such as 200M or 1.5G; units K, M, G and T are powers of 1024, and 0 means no limit
    #[arg(long, value_name = "RATE")]
    pub rate_limit: Option<RateLimit>,
}

#[derive(Args, Debug)]
pub struct ReceiveArgs {
    #[command(flatten)]
    pub tree: TreeArgs,

    /// Address and port to listen on; port 0 takes a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "[::]:4444")]
    pub listen: String,

    /// The host that the ticket names; by default the address of --listen, else this host's name
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,

    /// What becomes of the old data: `staged` keeps it until the new data is verified, `inplace` removes it first,
    /// `auto` is staged where there is room for both and refuses where there is not
    #[arg(long, value_name = "MODE", default_value_t)]
    pub install: InstallMode,

    /// Which of this node's own bytes need not be sent where they are the donor's: `auto` takes those of the old data and
    /// of an attempt that failed, `staged` only the latter, `off` none, and then a failed attempt leaves nothing
    #[arg(long, value_name = "WHICH", default_value_t)]
    pub reuse: Reuse,

    /// Take data that is older than this node's own: without it a donor that stands at an earlier position is refused
    #[arg(long)]
    pub force_older: bool,

    /// auto (the faster on the slower side), sha256 or blake3
    #[arg(long, value_name = "NAME", default_value_t)]
    pub checksum: ChecksumChoice,

    /// How long to wait for the donor; for ever when not given
    #[arg(long, value_name = "TIME")]
    pub initial_timeout: Option<Timeout>,

    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub deadlines: DeadlineArgs,
    #[command(flatten)]
    pub talk: TalkArgs,
}

#[derive(Args, Debug)]
pub struct SendArgs {
    #[command(flatten)]
    pub tree: TreeArgs,

    /// The line that `highline receive` printed; `-` reads it from standard input, so that it is in no process list
    // A pin may begin with a hyphen.
    #[arg(value_name = "TICKET", allow_hyphen_values = true)]
    pub ticket: String,

    /// The caller has frozen the server that runs on this data; without it a running server is refused
    #[arg(long)]
    pub live: bool,

    /// The server works on while its data is copied, and this freezes it for the last round: a command for the shell
    /// that prints a line as soon as nothing writes any more, and lets go when its standard input ends. Such as:
    /// 'sudo -n systemctl stop mariadb && echo stopped'
    #[arg(long, value_name = "COMMAND")]
    pub freeze_command: Option<OsString>,

    /// How the time under the lock is kept short, with --freeze-command: `rounds` reads what changed, `clone` clones it
    /// where the filesystem can, `whole` copies all of it under the lock, `auto` takes what is shortest
    #[arg(long, value_name = "HOW", default_value = "auto", requires = "freeze_command")]
    pub freeze: FreezeMode,

    /// With --freeze-command: release the server and make another pass rather than hold it for longer, such as 2s
    #[arg(long, value_name = "TIME", requires = "freeze_command")]
    pub freeze_limit: Option<Timeout>,

    /// How long to try to reach the joiner; 0 is for ever
    #[arg(long, value_name = "TIME", default_value_t = Timeout::CONNECT)]
    pub connect_timeout: Timeout,

    #[command(flatten)]
    pub lanes: LaneArgs,
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub deadlines: DeadlineArgs,
    #[command(flatten)]
    pub talk: TalkArgs,
}

#[derive(Args, Debug)]
pub struct DemoArgs {
    /// How much data to make
    #[arg(long, value_name = "BYTES", default_value = "512M")]
    pub size: ByteCount,

    /// Where to make it; by default the directory for temporary files
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    #[command(flatten)]
    pub lanes: LaneArgs,
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub tree: TreeArgs,
}

#[derive(Args, Debug)]
pub struct RecoverArgs {
    /// The server's data directory
    #[arg(long, value_name = "DIR")]
    pub datadir: PathBuf,
}

#[derive(Args, Debug)]
pub struct DiscardArgs {
    #[command(flatten)]
    pub tree: TreeArgs,
}

#[derive(Args, Debug)]
pub struct SstArgs {
    /// The server's own flags for the method
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAG")]
    pub flags: Vec<OsString>,
}

#[derive(Args, Debug)]
pub struct GenerateArgs {
    /// Where `man` and `completions` are made
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,
}

/// Reads the command line; help and mistakes come back as what `clap` made of them.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    // The server's flags may hold these words; alone they are a person's.
    if let [_, verb, asked] = args.as_mut_slice()
        && verb == "sst"
        && (asked == "--help" || asked == "-h")
    {
        (*verb, *asked) = ("help".into(), "sst".into());
    }
    Cli::try_parse_from(args)
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    #[test]
    fn the_definitions_agree() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_ticket_may_look_like_a_flag() {
        for typed in ["-", "-fx:y@h:1/highline/1", "--x:y@h:1/highline/1", "_x"] {
            for words in [["--datadir", "/d", "--lanes", "2", typed], [typed, "--lanes", "2", "--datadir", "/d"]] {
                let cli = parse(["highline", "send"].into_iter().chain(words).map(OsString::from)).unwrap();
                let Command::Send(args) = cli.command else { panic!() };
                assert_eq!((args.ticket.as_str(), args.lanes.lanes), (typed, Some(Lanes::near(2))));
            }
        }
        let mistyped = ["highline", "send", "--datadir", "/d", "--lane", "2", "x:y@h:1/highline/1"];
        assert!(parse(mistyped.map(OsString::from)).is_err());
    }

    #[test]
    fn the_servers_flags_pass_untouched() {
        let typed = ["highline", "sst", "--role", "joiner", "--help", "--mysqld-args", "-x"];
        let cli = parse(typed.map(OsString::from)).unwrap();
        let Command::Sst(args) = cli.command else { panic!() };
        assert_eq!(args.flags, ["--role", "joiner", "--help", "--mysqld-args", "-x"]);
        for asked in ["--help", "-h"] {
            let help = parse(["highline", "sst", asked].map(OsString::from)).unwrap_err();
            assert!(!help.use_stderr() && help.to_string().contains("wsrep_sst_method=highline"), "{help}");
        }
    }

    /// One value, one parser: what an option file takes, the command line takes, with the same words where it does not.
    #[test]
    fn values_are_read_as_in_the_option_file() {
        use crate::error::Side;
        use crate::sst::options::{OptionFiles, Settings};
        for (verb, option, value) in [
            ("send", "rate-limit", "1.5M"),
            ("send", "rate-limit", "0"),
            ("send", "rate-limit", "200MB/s"),
            ("send", "rate-limit", "fast"),
            ("send", "idle-timeout", "500ms"),
            ("send", "idle-timeout", "0"),
            ("send", "idle-timeout", "soon"),
            ("send", "connect-timeout", "2 h"),
            ("send", "connect-timeout", "99999h"),
            ("send", "lanes", "32"),
            ("send", "lanes", "33"),
            ("send", "compress", "ZSTD:19"),
            ("send", "compress", "zstd:20"),
            ("send", "checksum", "Blake3"),
            ("send", "checksum", "md5"),
            ("receive", "initial-timeout", "0"),
            ("receive", "initial-timeout", "-1"),
            ("receive", "install", "InPlace"),
            ("receive", "install", "never"),
            ("receive", "reuse", "Staged"),
            ("receive", "reuse", "on"),
            ("receive", "ssl-mode", "required"),
            ("receive", "ssl-mode", "verify"),
            ("receive", "ssl-mode", "DISABLED"),
        ] {
            let mut words: Vec<OsString> = ["highline", verb, "--datadir", "/d"].iter().map(Into::into).collect();
            words.push(format!("--{option}={value}").into());
            if verb == "send" {
                words.push("-".into());
            }
            let typed = parse(words);
            let side = if verb == "send" { Side::Donor } else { Side::Joiner };
            let files = OptionFiles::of_output(format!("--{option}={value}\n").as_bytes(), b"", b"");
            match (typed, Settings::resolve(&files, side, std::path::Path::new("/d"))) {
                (Ok(_), Ok(_)) => {}
                (Err(typed), Err(written)) => {
                    let (typed, written) = (typed.to_string(), written.sentence());
                    let (name, why) = written.split_once(": ").unwrap();
                    assert_eq!(name, format!("{option} in [highline]"));
                    assert!(typed.contains(why) && typed.contains(&format!("--{option}")), "{typed}\n{written}");
                }
                (typed, written) => panic!("{option}={value}: {typed:?} {written:?}"),
            }
        }
    }
}
