//! What went wrong, on whose side, and what to do about it.
//!
//! All rooms use one error type. It has a kind (which is also the exit code), the side at fault, a sentence that names
//! its subject, and a remedy. The narrow layers (`wire`, `tls`, `tree`) have small enums, which they convert where they
//! define them.

use std::fmt;
use std::io;
use std::path::Path;

use rustix::io::Errno;
use serde::{Deserialize, Serialize};

pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The remedy if a peer disappears without a message.
pub const PEER_ENDED: &str = "see its log for why it ended; if it says nothing, its process was killed (out of memory?), its host went down, or something between the two cut the connection";

/// The kind of a failure. Its number is the process's exit code and an `errno`, because the database
/// server prints a script's exit code through `strerror` (`wsp::process::wait`, `sql/wsrep_utils.cc`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// A file, directory or program is missing: `ENOENT`.
    NotFound,
    /// Stopped by a signal: `EINTR`.
    Interrupted,
    /// Reading or writing failed: `EIO`.
    Io,
    /// Permission denied: `EACCES`.
    Permission,
    /// In use by another: `EBUSY`.
    Busy,
    /// Wrong option, configuration or input from the operator: `EINVAL`.
    Usage,
    /// A filesystem is, or would be, full: `ENOSPC`.
    NoSpace,
    /// The peer went away: `EPIPE`.
    Disconnected,
    /// A limit that protects this host was exceeded: `EOVERFLOW`.
    Limit,
    /// The peer broke the protocol: `EPROTO`.
    Protocol,
    /// Data was damaged: `EBADMSG`.
    Integrity,
    /// The two sides have no version, or no capability, in common: `EPROTONOSUPPORT`.
    Incompatible,
    /// The network refused or failed: `ECONNREFUSED`.
    Network,
    /// A deadline passed: `ETIMEDOUT`.
    Timeout,
    /// A program at the end of a pipe failed: `ECANCELED`.
    Program,
    /// The database server that started this transfer is gone: `EOWNERDEAD`.
    ServerGone,
    /// The peer could not prove who it is: `EKEYREJECTED`.
    Untrusted,
    /// The tree changed while it was being read: `ESTALE`.
    Changed,
}

impl Kind {
    pub const ALL: [Kind; 18] = [
        Kind::NotFound,
        Kind::Interrupted,
        Kind::Io,
        Kind::Permission,
        Kind::Busy,
        Kind::Usage,
        Kind::NoSpace,
        Kind::Disconnected,
        Kind::Limit,
        Kind::Protocol,
        Kind::Integrity,
        Kind::Incompatible,
        Kind::Network,
        Kind::Timeout,
        Kind::Program,
        Kind::ServerGone,
        Kind::Untrusted,
        Kind::Changed,
    ];

    pub fn exit_code(self) -> u8 {
        match self {
            Kind::NotFound => 2,
            Kind::Interrupted => 4,
            Kind::Io => 5,
            Kind::Permission => 13,
            Kind::Busy => 16,
            Kind::Usage => 22,
            Kind::NoSpace => 28,
            Kind::Disconnected => 32,
            Kind::Protocol => 71,
            Kind::Integrity => 74,
            Kind::Limit => 75,
            Kind::Incompatible => 93,
            Kind::Timeout => 110,
            Kind::Network => 111,
            Kind::Changed => 116,
            Kind::Program => 125,
            Kind::Untrusted => 129,
            Kind::ServerGone => 130,
        }
    }

    /// In words, for the manual.
    pub fn meaning(self) -> &'static str {
        match self {
            Kind::NotFound => "a file, directory or program is missing",
            Kind::Interrupted => "stopped by a signal",
            Kind::Io => "reading or writing failed",
            Kind::Permission => "permission denied",
            Kind::Busy => "in use by a running server, another Highline or another donor",
            Kind::Usage => "wrong option, configuration or input",
            Kind::NoSpace => "a filesystem is, or would be, full",
            Kind::Disconnected => "the peer went away",
            Kind::Protocol => "the peer broke the protocol",
            Kind::Integrity => "data was damaged, or `verify` found a difference",
            Kind::Limit => "a limit that protects this host was exceeded",
            Kind::Incompatible => "the two sides share no protocol version or checksum, or the donor's server is newer",
            Kind::Timeout => "a deadline passed",
            Kind::Network => "the network refused or failed",
            Kind::Changed => "the data changed while it was being read",
            Kind::Untrusted => "the peer could not prove who it is",
            Kind::Program => "a program at the end of a pipe failed, or stopped reading too early",
            Kind::ServerGone => "the database server that started the transfer is gone",
        }
    }

    /// How much the kind says: of two errors about one failure the more telling one is shown, so that a broken pipe
    /// never hides the full disk that caused it.
    pub fn weight(self) -> u8 {
        match self {
            Kind::Disconnected => 0,
            Kind::Network => 1,
            Kind::Timeout => 2,
            Kind::Interrupted => 3,
            Kind::Protocol => 4,
            _ => 5,
        }
    }

    fn of_io(error: &io::Error) -> Kind {
        use io::ErrorKind as E;
        match error.kind() {
            E::NotFound => Kind::NotFound,
            E::PermissionDenied | E::ReadOnlyFilesystem => Kind::Permission,
            E::StorageFull | E::QuotaExceeded => Kind::NoSpace,
            E::ConnectionRefused | E::HostUnreachable | E::NetworkUnreachable | E::AddrInUse | E::AddrNotAvailable => {
                Kind::Network
            }
            E::ConnectionReset | E::ConnectionAborted | E::BrokenPipe | E::UnexpectedEof | E::NotConnected => {
                Kind::Disconnected
            }
            E::TimedOut => Kind::Timeout,
            E::Interrupted => Kind::Interrupted,
            E::InvalidData => Kind::Protocol,
            _ => Kind::Io,
        }
    }
}

/// On which side a failure happened.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Side {
    Donor,
    Joiner,
    /// Neither: a command that works alone, or a failure before the roles are known.
    Here,
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Side::Donor => "donor",
            Side::Joiner => "joiner",
            Side::Here => "here",
        })
    }
}

/// A failure: kind, side, a sentence about its subject, and what to do.
///
/// `Display` shows only this layer; [`Error::report`] adds the causes and the remedy.
#[derive(Debug)]
pub struct Error {
    kind: Kind,
    side: Side,
    what: String,
    remedy: Option<String>,
    source: Option<Box<dyn std::error::Error + Send + Sync>>,
}

impl Error {
    /// `what` names the subject: the file, the option, the peer.
    pub fn new(kind: Kind, what: impl Into<String>) -> Error {
        Error { kind, side: Side::Here, what: what.into(), remedy: None, source: None }
    }

    /// A system call on `path` failed. `doing` is a verb phrase: "cannot read".
    pub fn io(doing: &str, path: &Path, error: impl Into<io::Error>) -> Error {
        let error = error.into();
        let kind = Kind::of_io(&error);
        let remedy = match Errno::from_io_error(&error) {
            Some(Errno::ROFS) => {
                Some("see `dmesg`: after an error of the disk the kernel lets nobody write there; or mount it rw")
            }
            Some(Errno::MFILE) => Some("raise the limit of open files: ulimit -n, or LimitNOFILE in the server's unit"),
            Some(Errno::FBIG) => Some(
                "raise the limit of a file's size: ulimit -f, or LimitFSIZE in the server's unit; or take another filesystem",
            ),
            Some(Errno::IO) => Some("see `dmesg` for what the disk did"),
            _ => match kind {
                Kind::Permission => Some("run it as the user that owns the data directory, usually mysql"),
                Kind::NoSpace => Some("free space on that filesystem and start again"),
                Kind::NotFound => Some("see whether the path is right, and whether something removes files there"),
                _ => None,
            },
        };
        let mut made = Error::new(kind, format!("{doing} {}", Printable::path(path))).because(error);
        made.remedy = remedy.map(str::to_owned);
        made
    }

    /// A connection failed. `doing` is a verb phrase with the peer in it.
    pub fn net(doing: impl Into<String>, error: impl Into<io::Error>) -> Error {
        let error = error.into();
        let kind = match Kind::of_io(&error) {
            Kind::Io => Kind::Network,
            other => other,
        };
        let mut made = Error::new(kind, doing);
        if kind == Kind::Disconnected {
            made = made.remedy(PEER_ENDED);
        }
        // An early end only means that the peer closed, and rustls says it with a link to its manual.
        if error.kind() == io::ErrorKind::UnexpectedEof { made } else { made.because(error) }
    }

    #[must_use]
    pub fn because(mut self, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Error {
        self.source = Some(source.into());
        self
    }

    #[must_use]
    pub fn remedy(mut self, remedy: impl Into<String>) -> Error {
        self.remedy = Some(remedy.into());
        self
    }

    /// Sets the side unless it is already known.
    #[must_use]
    pub fn on(mut self, side: Side) -> Error {
        if self.side == Side::Here {
            self.side = side;
        }
        self
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    pub fn side(&self) -> Side {
        self.side
    }

    pub fn remedy_text(&self) -> Option<&str> {
        self.remedy.as_deref()
    }

    /// The sentence and its causes, without side and remedy: "cannot read x: Permission denied". Always one printable
    /// line, even if a cause repeats what a stranger sent.
    pub fn sentence(&self) -> String {
        let mut text = self.what.clone();
        let mut cause = self.source.as_deref().map(|s| s as &dyn std::error::Error);
        while let Some(error) = cause {
            text.push_str(": ");
            text.push_str(&error.to_string());
            cause = error.source();
        }
        Printable(text.as_bytes()).to_string()
    }

    /// The lines for the operator: side, sentence, causes, remedy.
    pub fn report(&self) -> String {
        self.report_on(Side::Here)
    }

    /// The same for the log of `here`, without naming that side.
    pub fn report_on(&self, here: Side) -> String {
        let mut text = match self.side {
            Side::Here => self.sentence(),
            side if side == here => self.sentence(),
            side => format!("{side}: {}", self.sentence()),
        };
        if let Some(remedy) = &self.remedy {
            text.push_str("\n  remedy: ");
            text.push_str(&Printable(remedy.as_bytes()).to_string());
        }
        text
    }

    /// Whether it is only about a connection that failed or could not be made: another one may
    /// work.
    pub fn is_of_the_line(&self) -> bool {
        matches!(self.kind, Kind::Disconnected | Kind::Network | Kind::Timeout)
    }

    /// Of two errors about one failure, the one that says more; the first if they are equal.
    #[must_use]
    pub fn or_more_telling(self, other: Error) -> Error {
        if other.kind.weight() > self.kind.weight() { other } else { self }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.what)
    }
}

impl std::error::Error for Error {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.source.as_deref().map(|s| s as _)
    }
}

/// Bytes or text from outside, made safe to print: control and other unprintable characters are escaped, so that a name
/// can neither forge a log line nor control a terminal.
#[derive(Debug)]
pub struct Printable<'a>(pub &'a [u8]);

impl<'a> Printable<'a> {
    pub fn path(path: &'a Path) -> Printable<'a> {
        use std::os::unix::ffi::OsStrExt;
        Printable(path.as_os_str().as_bytes())
    }
}

impl fmt::Display for Printable<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for chunk in self.0.utf8_chunks() {
            for c in chunk.valid().chars() {
                let bidi = matches!(c, '\u{200e}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
                if c.is_control() || bidi { write!(f, "{}", c.escape_unicode())? } else { write!(f, "{c}")? }
            }
            for byte in chunk.invalid() {
                write!(f, "\\x{byte:02x}")?;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_are_distinct_and_never_success() {
        let mut codes: Vec<u8> = Kind::ALL.iter().map(|kind| kind.exit_code()).collect();
        codes.sort_unstable();
        codes.dedup();
        assert_eq!(codes.len(), Kind::ALL.len());
        assert!(!codes.contains(&0));
    }

    #[test]
    fn the_readme_lists_the_kinds_as_they_are() {
        let rows = include_str!("../README.md").lines().filter(|line| line.starts_with("| ") && line.contains(" | `E"));
        let rows: Vec<_> = rows.map(|row| row.split('|').map(str::trim).collect::<Vec<_>>()).collect();
        let mut kinds = Kind::ALL;
        kinds.sort_unstable_by_key(|kind| kind.exit_code());
        assert_eq!(rows.len(), kinds.len());
        for (row, kind) in rows.iter().zip(kinds) {
            let name = serde_json::to_value(kind).unwrap();
            assert_eq!(
                (row[1], row[3], row[4]),
                (&*kind.exit_code().to_string(), name.as_str().unwrap(), kind.meaning())
            );
        }
    }

    #[test]
    fn a_report_has_side_subject_cause_and_remedy() {
        let error =
            Error::io("cannot write", Path::new("/d/ibdata1"), io::Error::from_raw_os_error(28)).on(Side::Joiner);
        assert_eq!(
            error.report(),
            "joiner: cannot write /d/ibdata1: No space left on device (os error 28)\n  \
             remedy: free space on that filesystem and start again"
        );
        assert_eq!(error.kind(), Kind::NoSpace);
        let many = Error::io("cannot open", Path::new("/d"), io::Error::from_raw_os_error(24));
        assert!(many.remedy_text().is_some_and(|remedy| remedy.contains("LimitNOFILE")));
    }

    #[test]
    fn the_root_cause_wins_over_the_broken_pipe() {
        let pipe = || Error::new(Kind::Disconnected, "the peer closed the connection");
        let disk = || Error::new(Kind::NoSpace, "cannot write x");
        assert_eq!(pipe().or_more_telling(disk()).kind(), Kind::NoSpace);
        assert_eq!(disk().or_more_telling(pipe()).kind(), Kind::NoSpace);
    }

    #[test]
    fn the_first_side_stays() {
        assert_eq!(Error::new(Kind::Io, "x").on(Side::Donor).on(Side::Joiner).side(), Side::Donor);
    }

    #[test]
    fn foreign_names_cannot_forge_lines() {
        assert_eq!(Printable(b"a\nb\x1b[31m\xff\xe2\x80\xaec").to_string(), "a\\u{a}b\\u{1b}[31m\\xff\\u{202e}c");
        let cause = io::Error::other("no member \"x\n\"");
        let error = Error::new(Kind::Protocol, "refused").because(cause).remedy("go\non");
        assert_eq!(error.report(), "refused: no member \"x\\u{a}\"\n  remedy: go\\u{a}on");
    }
}
