//! What was typed. Only this room uses `clap`; `config` and the commands decide what it means.

mod certs;
mod check;
mod manual;
pub mod pages;
mod pull;
mod status;

use std::ffi::OsString;
use std::path::PathBuf;

use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand, ValueEnum};

use crate::backup::{DataSource, Prepare, ProgramOptions};
use crate::donor::{Compression, FreezeMode};
use crate::install::Reuse;
use crate::joiner::InstallMode;
use crate::link::{Lanes, Timeout};
use crate::manifest::ChecksumChoice;
use crate::pace::{ByteCount, RateLimit};
use crate::sst::options::SslMode;

pub use certs::{CaArgs, CertsArgs, CertsVerb, NodeArgs, ShowArgs};
pub use check::CheckArgs;
pub use pull::{ArbitrateArgs, PullArgs};
pub use status::{RateArgs, StatusArgs};

const PIPE_SEND: &str = "A dump, from this host into a server on another:
  other$ highline receive -- mariadb
  here$  highline send - -- mariadb-dump --all-databases --single-transaction

docs/pipes.md has more of them.";
const PIPE_RECEIVE: &str = "A dump, from another host into the server on this one:
  here$  highline receive -- mariadb
  other$ highline send - -- mariadb-dump --all-databases --single-transaction

docs/pipes.md has more of them.";

/// What `--version` says after the name.
const VERSION: &str =
    if cfg!(feature = "fips") { concat!(env!("CARGO_PKG_VERSION"), " (FIPS)") } else { env!("CARGO_PKG_VERSION") };

/// Moves a whole MariaDB data directory from one Galera node to another: always encrypted, always
/// verified, over parallel connections.
#[derive(Debug, Parser)]
#[command(name = "highline", version = VERSION, about, long_about = None, propagate_version = true, arg_required_else_help = true)]
pub struct Cli {
    #[command(subcommand)]
    pub command: Command,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Wait for a donor and take its data, or a byte stream (run it on the joiner)
    Receive(ReceiveArgs),
    /// Send this node's data, or a byte stream, to a waiting joiner (run it on the donor)
    Send(SendArgs),
    /// Take a copy of a running cluster's data from a chosen node, with no server here
    Pull(PullArgs),
    /// Make a sample tree, move it over loopback, verify it, and show the figures
    Demo(DemoArgs),
    /// Re-read an installed tree and name every file that differs from what was sent
    Verify(VerifyArgs),
    /// Finish or undo an installation that was cut short
    Recover(RecoverArgs),
    /// Remove what failed transfers have left for the next one
    Discard(DiscardArgs),
    /// Show this node's transfer: phase, rate, time left, and whether it is stuck
    Status(StatusArgs),
    /// Change the rate limit of a transfer this node is sending
    Rate(RateArgs),
    /// Make and show certificates for all of a cluster's traffic
    Certs(CertsArgs),
    /// Say whether every kind of this node's traffic is secured
    Check(CheckArgs),
    /// Kill the program that a stream goes to when the process that feeds it is gone
    #[command(hide = true)]
    Guard {
        /// Keep standard output, a pipe, open as long as anybody reads it
        #[arg(long)]
        hold: bool,
    },
    /// For the database server, which calls it (`wsrep_sst_method=highline`)
    #[command(disable_help_flag = true)]
    Sst(SstArgs),
    /// Become garbd, and end when the caller does
    #[command(hide = true)]
    Arbitrate(ArbitrateArgs),
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
    /// Those not given are in the data directory. On a joiner, `external-1=PATH` with the donor's path for it allows
    /// tablespaces outside the data directory to replace what is in their way there
    #[arg(long = "root", value_name = "NAME=PATH")]
    pub roots: Vec<OsString>,

    /// The server's option file. Replaces --root: it says where the other directories are, what the binary logs are
    /// called, and which files belong to this node alone (logs, sockets, temporary directories, certificates, keys)
    #[arg(long, value_name = "FILE")]
    pub defaults_file: Option<PathBuf>,

    /// Also read that file's groups with this suffix
    #[arg(long, value_name = "SUFFIX", requires = "defaults_file")]
    pub defaults_group_suffix: Option<OsString>,
}

/// Who we are and whom we trust, in addition to the ticket.
#[derive(Args, Clone, Debug, Default)]
pub struct IdentityArgs {
    /// This node's certificate (PEM); by default one made for this run
    #[arg(long, value_name = "FILE")]
    pub cert: Option<PathBuf>,

    /// The certificate's private key (PEM); not needed if the certificate file contains it
    #[arg(long, value_name = "FILE", requires = "cert")]
    pub key: Option<PathBuf>,

    /// Authorities that must have signed the peer's certificate: a PEM file or a directory; repeatable
    #[arg(long, value_name = "FILE")]
    pub ca: Vec<PathBuf>,

    /// Certificate revocation lists: a PEM file or a directory; repeatable
    #[arg(long, value_name = "FILE", requires = "ca")]
    pub crl: Vec<PathBuf>,

    /// What to check in addition to pin and secret: REQUIRED (nothing more), VERIFY_CA (the default
    /// with --ca) or VERIFY_IDENTITY (authority and name)
    #[arg(long, value_name = "MODE")]
    pub ssl_mode: Option<SslMode>,

    /// With VERIFY_IDENTITY: a name the peer's certificate may have; repeatable. By default a donor expects the address
    /// it dials, and a joiner accepts any donor of the authority
    #[arg(long, value_name = "NAME")]
    pub peer_name: Vec<String>,
}

impl IdentityArgs {
    /// Whether any of it was typed.
    pub fn says_something(&self) -> bool {
        self.cert.is_some() || !self.ca.is_empty() || self.ssl_mode.is_some() || !self.peer_name.is_empty()
    }
}

/// How long to wait for what.
#[derive(Args, Clone, Debug)]
pub struct DeadlineArgs {
    /// How long a transfer may make no progress before it fails; 0 means forever
    #[arg(long, value_name = "TIME", default_value_t = Timeout::IDLE)]
    pub idle_timeout: Timeout,
}

/// How a command talks.
#[derive(Args, Clone, Debug, Default)]
pub struct TalkArgs {
    /// How progress is shown on standard error
    #[arg(long, value_enum, default_value_t)]
    pub progress: ProgressStyle,

    /// Keep metrics for this transfer and the previous one in this file, in Prometheus' text format
    #[arg(long, value_name = "FILE")]
    pub metrics: Option<PathBuf>,

    /// Print the result as one JSON object at the end (`send` on standard output, `receive` on standard error)
    #[arg(long)]
    pub json: bool,
}

#[derive(Clone, Copy, Debug, Default, ValueEnum)]
pub enum ProgressStyle {
    /// A bar on a terminal, otherwise a line every ten seconds
    #[default]
    Auto,
    Bar,
    Lines,
    /// One JSON object per line
    Json,
    /// Warnings only
    None,
}

/// What the donor chooses.
#[derive(Args, Clone, Debug, Default)]
pub struct LaneArgs {
    /// Parallel connections, 1 to 32; by default one per core, 8 to 16
    #[arg(long, value_name = "N")]
    pub lanes: Option<Lanes>,

    /// Compression: auto, none, lz4, zstd or zstd:LEVEL (1 to 19)
    #[arg(long, value_name = "CODEC", default_value_t)]
    pub compress: Compression,

    /// Checksum: auto (whichever is faster on the slower node), sha256 or blake3
    #[arg(long, value_name = "NAME", default_value_t)]
    pub checksum: ChecksumChoice,

    /// The most bytes per second on the wire, such as 200M or 1.5G; K, M, G and T are powers of 1024, and 0 means no
    /// limit
    #[arg(long, value_name = "RATE")]
    pub rate_limit: Option<RateLimit>,
}

/// How a backup is prepared, where the donor sends one (`source=mariabackup`).
#[derive(Args, Clone, Debug, Default)]
pub struct PrepareArgs {
    /// Memory for preparing a backup (the donor's source=mariabackup), such as 1G; by default a quarter of what is free,
    /// from 128 MiB to 1 GiB
    #[arg(long, value_name = "BYTES")]
    pub use_memory: Option<ByteCount>,

    /// More options for `mariadb-backup --prepare`, in one word: --inno-apply-opts='--a --b=c'
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub inno_apply_opts: Option<ProgramOptions>,
}

impl From<&PrepareArgs> for Prepare {
    fn from(args: &PrepareArgs) -> Prepare {
        Prepare {
            memory: args.use_memory.map(|count| count.0),
            options: args.inno_apply_opts.clone().unwrap_or_default(),
            ..Prepare::default()
        }
    }
}

#[derive(Args, Debug)]
#[command(
    override_usage = "highline receive --datadir DIR [OPTIONS]\n       highline receive [OPTIONS] -- PROGRAM [ARGS]\n       highline receive --stdout [OPTIONS]",
    after_help = PIPE_RECEIVE,
    mut_arg("datadir", |datadir| datadir.required(false))
)]
pub struct ReceiveArgs {
    #[command(flatten)]
    pub tree: Option<TreeArgs>,

    /// Write the byte stream that comes to standard output; the ticket goes to standard error. It is known to be whole only
    /// when this command ends with 0, which a program that reads it from a pipe cannot see: it sees an end in any case.
    /// Name the program after `--` instead, which is safe
    #[arg(long, conflicts_with_all = ["TreeArgs", "install", "reuse", "force_older"])]
    pub stdout: bool,

    /// Run this program, and give it the byte stream as its standard input. It sees the end of it only when all of it is
    /// verified, and is killed when that cannot be; when it fails both ends fail. Only what runs on this host, as this user,
    /// in its process group can be killed: behind `ssh`, `docker exec` or `kubectl exec` it is not safe
    #[arg(last = true, value_name = "PROGRAM", conflicts_with_all = ["stdout", "TreeArgs", "install", "reuse", "force_older"])]
    pub program: Vec<OsString>,

    /// Address and port to listen on; port 0 picks a free one
    #[arg(long, value_name = "HOST:PORT", default_value = "[::]:4444")]
    pub listen: String,

    /// The host name or address to put in the ticket; by default that of --listen, or else this host's name
    #[arg(long, value_name = "HOST")]
    pub advertise: Option<String>,

    /// What happens to the old data: `staged` keeps it until the new data is verified, `inplace` removes it first,
    /// `auto` is staged if there is room for both and refuses otherwise
    #[arg(long, value_name = "MODE", default_value_t)]
    pub install: InstallMode,

    /// Which local data to reuse where it equals the donor's: `auto` the old data and what a failed attempt left,
    /// `staged` only the latter, `off` nothing, and then a failed attempt leaves nothing
    #[arg(long, value_name = "WHICH", default_value_t)]
    pub reuse: Reuse,

    /// Accept data that is older than this node's own; otherwise a donor at an earlier position is refused
    #[arg(long)]
    pub force_older: bool,

    /// Checksum: auto (whichever is faster on the slower node), sha256 or blake3
    #[arg(long, value_name = "NAME", default_value_t)]
    pub checksum: ChecksumChoice,

    /// How long to wait for the donor; forever by default
    #[arg(long, value_name = "TIME")]
    pub initial_timeout: Option<Timeout>,

    #[command(flatten)]
    pub prepare: PrepareArgs,
    #[command(flatten)]
    pub identity: IdentityArgs,
    #[command(flatten)]
    pub deadlines: DeadlineArgs,
    #[command(flatten)]
    pub talk: TalkArgs,
}

#[derive(Args, Debug)]
#[command(
    override_usage = "highline send --datadir DIR [OPTIONS] TICKET\n       highline send [OPTIONS] TICKET -- PROGRAM [ARGS]\n       highline send --stdin [OPTIONS] TICKET",
    after_help = PIPE_SEND,
    mut_arg("datadir", |datadir| datadir.required(false))
)]
pub struct SendArgs {
    #[command(flatten)]
    pub tree: Option<TreeArgs>,

    /// Send the byte stream that comes on standard input, after the ticket's line if that is `-`. A program that failed
    /// looks like one that came to its end: `set -o pipefail` tells your shell, when the other end has already taken the
    /// stream for whole. Name the program after `--` instead, which is safe
    #[arg(long, conflicts_with_all = ["TreeArgs", "source", "live", "freeze_command", "verify_pages"])]
    pub stdin: bool,

    /// The line that `highline receive` printed; `-` reads it from standard input, which keeps it out of process lists
    // A pin may begin with a hyphen.
    #[arg(value_name = "TICKET", allow_hyphen_values = true)]
    pub ticket: String,

    /// Run this program, and send what it writes to standard output. When it fails both ends fail. It is given nothing on
    /// its standard input, and no terminal
    #[arg(last = true, value_name = "PROGRAM", conflicts_with_all = ["stdin", "TreeArgs", "source", "live", "freeze_command", "verify_pages"])]
    pub program: Vec<OsString>,

    /// What is sent: `files`, the server's own; or `mariabackup`, a backup that mariadb-backup makes of the running server,
    /// logging in as the server's user or as --defaults-file says, and that the joiner prepares
    #[arg(long, value_name = "SOURCE", default_value_t, conflicts_with_all = ["live", "freeze_command"])]
    pub source: DataSource,

    /// With --source mariabackup: more options for `mariadb-backup --backup`, in one word
    #[arg(long, value_name = "OPTIONS", allow_hyphen_values = true)]
    pub inno_backup_opts: Option<ProgramOptions>,

    /// Send although a server is running on this data: you have frozen it yourself
    #[arg(long)]
    pub live: bool,

    /// Copy from a running server, and freeze it with this shell command for the last round: it must print a line once
    /// nothing writes any more, and release the server when its standard input ends. For example 'sudo -n systemctl
    /// stop mariadb && echo stopped'
    #[arg(long, value_name = "COMMAND")]
    pub freeze_command: Option<OsString>,

    /// With --freeze-command, what to do under the lock: `rounds` reads what changed, `clone` clones it if the
    /// filesystem can, `whole` copies everything, `auto` does whatever is shortest
    #[arg(long, value_name = "HOW", default_value = "auto", requires = "freeze_command")]
    pub freeze: FreezeMode,

    /// With --freeze-command: release the server and make another pass rather than hold it for longer than this, such
    /// as 2s
    #[arg(long, value_name = "TIME", requires = "freeze_command")]
    pub freeze_limit: Option<Timeout>,

    /// Check every page of InnoDB's tablespaces as it is read, and refuse to send one that is damaged
    #[arg(long)]
    pub verify_pages: bool,

    /// How long to try to reach the joiner; 0 means forever
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

    /// Where to make it; by default the temporary directory
    #[arg(long, value_name = "DIR")]
    pub dir: Option<PathBuf>,

    #[command(flatten)]
    pub lanes: LaneArgs,
}

#[derive(Args, Debug)]
pub struct VerifyArgs {
    #[command(flatten)]
    pub tree: TreeArgs,

    /// Check the pages of InnoDB's tablespaces by their checksums, of any data directory and whether or not its server
    /// runs; nothing is compared with what was sent
    #[arg(long)]
    pub pages: bool,
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
    /// Where to create `man` and `completions`
    #[arg(value_name = "DIR")]
    pub dir: PathBuf,

    /// The date that the man pages bear
    #[arg(long, value_name = "YYYY-MM-DD")]
    pub date: String,
}

/// Reads the command line, program name first. Help and mistakes come back as `clap`'s error.
pub fn parse(args: impl IntoIterator<Item = OsString>) -> Result<Cli, clap::Error> {
    let mut args: Vec<OsString> = args.into_iter().collect();
    // The server's flags may contain these words; on their own they come from a person.
    if let [_, verb, asked] = args.as_mut_slice()
        && verb == "sst"
        && (asked == "--help" || asked == "-h")
    {
        (*verb, *asked) = ("help".into(), "sst".into());
    }
    let matches = command().try_get_matches_from(args)?;
    Cli::from_arg_matches(&matches).map_err(|told| told.format(&mut command()))
}

/// The command line with its manual.
fn command() -> clap::Command {
    manual::told(Cli::command(), "highline")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_definitions_agree() {
        command().debug_assert();
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
            ("receive", "use-memory", "1.5G"),
            ("receive", "use-memory", "much"),
            ("receive", "inno-apply-opts", "--x --y='a b'"),
            ("receive", "inno-apply-opts", "--password=x"),
            ("send", "inno-backup-opts", "--throttle=4"),
            ("send", "inno-backup-opts", "--stream=tar"),
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
            let files =
                OptionFiles::of_output(format!("--source=mariabackup\n--{option}={value}\n").as_bytes(), b"", b"");
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
