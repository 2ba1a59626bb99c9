//! What the joiner put before the `@` of its address, as the donor's server passes it on, and the account that the server
//! itself names for transfers.
//!
//! Up to 11.x in the environment, from 12.x on standard input (MDEV-31809). None of it is ever printed.

use std::ffi::OsString;
use std::fmt;
use std::io::Read;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;
use zeroize::Zeroizing;

use crate::error::{Error, Kind, Result, Side};

/// The variable in which servers up to 11.x pass it, as `user:secret`.
pub const VARIABLE: &str = "WSREP_SST_OPT_REMOTE_AUTH";

/// The variable in which servers up to 11.x pass their own `wsrep_sst_auth`, in the same form.
pub const ACCOUNT: &str = "WSREP_SST_OPT_AUTH";

/// The most bytes to read from standard input.
const MAX_BYTES: usize = 8192;

/// How long the server may take to write it and to close the pipe.
const DEADLINE: Duration = Duration::from_secs(10);

/// User and secret, of a joiner or of an account; both are wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct RemoteAuth {
    user: Zeroizing<String>,
    secret: Zeroizing<String>,
}

/// What a donor's server passes on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Credentials {
    /// The joiner's.
    pub remote: Option<RemoteAuth>,
    /// The account of `wsrep_sst_auth`, or one that the server has made for this transfer.
    pub account: Option<RemoteAuth>,
}

impl Credentials {
    /// Each from standard input if that is a pipe that contains it, otherwise from the value of [`VARIABLE`] or
    /// [`ACCOUNT`]. `None` if it is in neither.
    pub fn read(stdin: impl Read + AsFd, remote: Option<OsString>, account: Option<OsString>) -> Result<Credentials> {
        let piped = if is_pipe(&stdin) {
            Credentials::of_lines(&read_to_end(stdin, DEADLINE)?)?
        } else {
            Credentials::default()
        };
        let of = |piped: Option<RemoteAuth>, variable: Option<OsString>| match (piped, variable) {
            (Some(piped), _) => Ok::<_, Error>(Some(piped)),
            (None, None) => Ok(None),
            (None, Some(variable)) => {
                let variable = Zeroizing::new(variable.into_vec());
                let text = std::str::from_utf8(&variable).map_err(|_| refuse("is not UTF-8"))?;
                Ok(RemoteAuth::of_pair(text))
            }
        };
        Ok(Credentials { remote: of(piped.remote, remote)?, account: of(piped.account, account)? })
    }

    /// `key=value` lines; other keys are ignored.
    pub(crate) fn of_lines(text: &[u8]) -> Result<Credentials> {
        let text = std::str::from_utf8(text).map_err(|_| refuse("on standard input is not UTF-8"))?;
        let value = |key: &str| {
            let found = text.lines().filter_map(|line| line.split_once('=')).rfind(|(name, _)| *name == key);
            found.map_or("", |(_, value)| value)
        };
        let of = |user, password| RemoteAuth::of(value(user), value(password));
        Ok(Credentials {
            remote: of("sst_remote_user", "sst_remote_password"),
            account: of("sst_user", "sst_password"),
        })
    }
}

impl RemoteAuth {
    /// `user:secret`, split at the first `:`.
    pub fn of_pair(text: &str) -> Option<RemoteAuth> {
        let (user, secret) = text.split_once(':').unwrap_or((text, ""));
        RemoteAuth::of(user, secret)
    }

    fn of(user: &str, secret: &str) -> Option<RemoteAuth> {
        let wipe = |text: &str| Zeroizing::new(text.to_owned());
        (!user.is_empty() || !secret.is_empty()).then(|| RemoteAuth { user: wipe(user), secret: wipe(secret) })
    }

    pub fn user(&self) -> &str {
        &self.user
    }

    pub fn secret(&self) -> &str {
        &self.secret
    }
}

impl fmt::Debug for RemoteAuth {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("RemoteAuth(***)")
    }
}

fn is_pipe(stdin: &impl AsFd) -> bool {
    rustix::fs::fstat(stdin)
        .is_ok_and(|stat| matches!(FileType::from_raw_mode(stat.st_mode), FileType::Fifo | FileType::Socket))
}

fn read_to_end(mut stdin: impl Read + AsFd, deadline: Duration) -> Result<Zeroizing<Vec<u8>>> {
    let failed = |error: std::io::Error| {
        Error::new(Kind::Io, "cannot read the credentials from standard input").because(error).on(Side::Donor)
    };
    // Allocated in full: a growing vector leaves copies of the secret behind.
    let mut text = Zeroizing::new(vec![0; MAX_BYTES]);
    let mut filled: usize = 0;
    let started = Instant::now();
    loop {
        let left = deadline.saturating_sub(started.elapsed());
        let wait = Timespec { tv_sec: left.as_secs().cast_signed(), tv_nsec: left.subsec_nanos().into() };
        match poll(&mut [PollFd::new(&stdin, PollFlags::IN)], Some(&wait)) {
            Ok(0) => return Err(Error::new(Kind::Timeout, "the server did not close standard input").on(Side::Donor)),
            Ok(_) => {}
            Err(rustix::io::Errno::INTR) => continue,
            Err(error) => return Err(failed(error.into())),
        }
        let Some(rest) = text.get_mut(filled..).filter(|rest| !rest.is_empty()) else {
            return Err(Error::new(
                Kind::Limit,
                "standard input holds more than 8192 bytes, the limit for credentials",
            )
            .on(Side::Donor));
        };
        match stdin.read(rest) {
            Ok(0) => break,
            Ok(count) => filled = filled.saturating_add(count),
            Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
            Err(error) => return Err(failed(error)),
        }
    }
    text.truncate(filled);
    Ok(text)
}

fn refuse(why: &str) -> Error {
    Error::new(Kind::Protocol, format!("the joiner's authentication {why}")).on(Side::Donor)
}

#[cfg(test)]
mod tests {
    use std::fs::File;
    use std::io::Write;

    use super::*;

    fn piped(text: &[u8]) -> io::PipeReader {
        let (reader, mut writer) = io::pipe().unwrap();
        writer.write_all(text).unwrap();
        reader
    }

    use std::io;

    #[test]
    fn the_pipe_comes_first_and_the_environment_second() {
        let lines = b"sst_user=u\nsst_password=p=w\nsst_remote_user=pin\nsst_remote_password=se=cr:et\n";
        let own = b"sst_user=u\nsst_password=p\n";
        for (pipe, variable, expected) in [
            (Some(lines.as_slice()), Some("a:b"), Some(("pin", "se=cr:et"))),
            (Some(own), Some("a:b:c"), Some(("a", "b:c"))),
            (Some(b""), None, None),
            (None, Some("CN:"), Some(("CN", ""))),
            (None, Some(":x"), Some(("", "x"))),
            (None, Some("alone"), Some(("alone", ""))),
            (None, Some(":"), None),
            (None, Some(""), None),
            (None, None, None),
        ] {
            let variable = variable.map(OsString::from);
            let read = match pipe {
                Some(text) => Credentials::read(piped(text), variable, None),
                None => Credentials::read(File::open("/dev/null").unwrap(), variable, None),
            };
            let read = read.unwrap().remote;
            assert_eq!(read.as_ref().map(|auth| (auth.user(), auth.secret())), expected);
        }
    }

    #[test]
    fn the_account_comes_the_same_way() {
        let null = || File::open("/dev/null").unwrap();
        let account = |read: Credentials| read.account.map(|auth| (auth.user().to_owned(), auth.secret().to_owned()));
        let of = |user: &str, secret: &str| Some((user.to_owned(), secret.to_owned()));
        let piped = piped(b"sst_user=u\nsst_password=p=w\nsst_remote_user=pin\n");
        assert_eq!(account(Credentials::read(piped, None, Some("a:b".into())).unwrap()), of("u", "p=w"));
        assert_eq!(
            account(Credentials::read(null(), Some("c:d".into()), Some("a:b:c".into())).unwrap()),
            of("a", "b:c")
        );
        assert_eq!(account(Credentials::read(null(), Some("c:d".into()), Some("".into())).unwrap()), None);
    }

    #[test]
    fn a_flood_or_an_open_pipe_is_no_reason_to_wait_for_ever() {
        let flood = Credentials::read(piped(&[b'x'; 9000]), None, None).unwrap_err();
        assert_eq!(flood.kind(), Kind::Limit);
        let (reader, _writer) = io::pipe().unwrap();
        assert_eq!(read_to_end(reader, Duration::from_millis(30)).unwrap_err().kind(), Kind::Timeout);
    }

    #[test]
    fn nothing_shows_in_debug() {
        assert_eq!(format!("{:?}", RemoteAuth::of_pair("user:secret").unwrap()), "RemoteAuth(***)");
    }
}
