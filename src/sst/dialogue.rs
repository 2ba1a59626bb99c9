//! The lines that the server reads from our standard output, and their only writer.
//!
//! The server treats every unknown line as the end or an error, so nothing else may reach that pipe:
//! [`Dialogue::take_stdout`] moves it out of reach of everything that prints.

use std::fmt;
use std::fs::File;
use std::io::Write;

use zeroize::Zeroizing;

use super::address::{SstAddress, is_auth_byte};
use crate::error::{Error, Kind, Result, Side};
use crate::position::{GaleraGtid, Position};

/// One line to the server (`sst_joiner_thread`, `sst_donor_thread`, `sql/wsrep_sst.cc`).
#[derive(Debug)]
pub enum Line<'a> {
    /// Joiner, first: where the donor should connect.
    Ready(&'a Ready),
    /// Bytes to expect, and bytes that arrived; only if the server asked for progress.
    Total(u64),
    Complete(u64),
    /// Donor: freeze all writes and answer with a file, see `flush`.
    FlushTables,
    /// Donor: release the server.
    Continue,
    /// Donor, last: the joiner has everything. After it the server ignores the exit code.
    Done(&'a Position),
    /// Joiner, last: the data directory is at this position. The server ignores anything after it.
    Position(&'a GaleraGtid),
}

/// The address a joiner announces, with the authentication before it.
pub struct Ready {
    auth: Option<Zeroizing<String>>,
    address: SstAddress,
}

impl Ready {
    /// Bytes of the whole line, without its end: with it, 511 bytes are what `fgets` reads into the server's buffer of
    /// 512. A line end read on its own would be taken for the final line.
    pub const MAX_BYTES: usize = 510;

    /// `auth` is `user` and `secret`, each only of the characters `A-Za-z0-9._-`. It reaches the donor's script in its
    /// environment or on its standard input, never on its command line.
    pub fn new(auth: Option<(&str, &str)>, address: SstAddress) -> Result<Ready> {
        let auth = match auth {
            None => None,
            Some((user, secret)) => {
                if !user.bytes().chain(secret.bytes()).all(is_auth_byte) {
                    return Err(refused("the authentication contains a character that the donor's server refuses"));
                }
                Some(Zeroizing::new(format!("{user}:{secret}")))
            }
        };
        let ready = Ready { auth, address };
        if ready.line().len() > Self::MAX_BYTES {
            return Err(refused("the ready line is longer than the 510 bytes that the server reads"));
        }
        Ok(ready)
    }

    fn line(&self) -> Zeroizing<String> {
        Zeroizing::new(match &self.auth {
            Some(auth) => format!("ready {}@{}", auth.as_str(), self.address),
            None => format!("ready {}", self.address),
        })
    }
}

impl fmt::Debug for Ready {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let auth = if self.auth.is_some() { "***@" } else { "" };
        write!(f, "ready {auth}{}", self.address)
    }
}

/// How far a conversation has got.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Stage {
    Started,
    /// Joiner: `ready` was sent.
    Ready,
    /// The final line was sent.
    Ended,
}

/// The only writer to the server's pipe. It enforces the order that the server expects.
#[derive(Debug)]
pub struct Dialogue<W> {
    out: W,
    side: Side,
    progress: bool,
    stage: Stage,
}

impl Dialogue<File> {
    /// Takes standard output away from the process: the pipe moves to another descriptor, which no child inherits, and
    /// anything printed from now on goes to standard error.
    pub fn take_stdout(side: Side, progress: bool) -> Result<Dialogue<File>> {
        let failed = |error: rustix::io::Errno| {
            Error::new(Kind::Io, "cannot take over standard output").because(std::io::Error::from(error)).on(side)
        };
        let pipe = rustix::io::fcntl_dupfd_cloexec(std::io::stdout(), 3).map_err(failed)?;
        rustix::stdio::dup2_stdout(std::io::stderr()).map_err(failed)?;
        Ok(Dialogue::new(File::from(pipe), side, progress))
    }
}

impl<W: Write> Dialogue<W> {
    /// `progress`: whether the server asked for `total` and `complete` (`--progress 1`); other servers would treat
    /// those lines as an error.
    pub fn new(out: W, side: Side, progress: bool) -> Dialogue<W> {
        Dialogue { out, side, progress, stage: Stage::Started }
    }

    /// Writes one line and flushes it. Progress that nobody asked for is dropped.
    ///
    /// A line out of order is refused and not written; [`Kind::ServerGone`] means that nobody is
    /// reading any more.
    pub fn say(&mut self, line: &Line<'_>) -> Result<()> {
        use Stage::{Ended, Started};
        let joiner = self.side == Side::Joiner;
        let (fits, next) = match line {
            Line::Ready(_) => (joiner && self.stage == Started, Stage::Ready),
            Line::Position(_) => (joiner && self.stage == Stage::Ready, Ended),
            Line::FlushTables | Line::Continue => (!joiner && self.stage == Started, Started),
            Line::Done(_) => (!joiner && self.stage == Started, Ended),
            Line::Total(_) | Line::Complete(_) => {
                (self.stage == if joiner { Stage::Ready } else { Started }, self.stage)
            }
        };
        if !fits {
            return Err(refused(&format!("{line:?} is out of order after {:?}", self.stage)).on(self.side));
        }
        if matches!(line, Line::Total(_) | Line::Complete(_)) && !self.progress {
            return Ok(());
        }
        let text = Zeroizing::new(match line {
            Line::Ready(ready) => format!("{}\n", ready.line().as_str()),
            Line::Total(bytes) => format!("total {bytes}\n"),
            Line::Complete(bytes) => format!("complete {bytes}\n"),
            Line::FlushTables => "flush tables\n".to_owned(),
            Line::Continue => "continue\n".to_owned(),
            Line::Done(position) => format!("done {position}\n"),
            Line::Position(gtid) => format!("{gtid}\n"),
        });
        self.out.write_all(text.as_bytes()).and_then(|()| self.out.flush()).map_err(|error| {
            let kind = match error.kind() {
                std::io::ErrorKind::BrokenPipe => Kind::ServerGone,
                _ => Kind::Io,
            };
            Error::new(kind, "the database server is not reading our answers").because(error).on(self.side)
        })?;
        self.stage = next;
        Ok(())
    }

    /// Whether the final line was said.
    pub fn is_ended(&self) -> bool {
        self.stage == Stage::Ended
    }
}

fn refused(why: &str) -> Error {
    Error::new(Kind::Protocol, format!("the dialogue with the database server: {why}"))
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    const UUID: &str = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002";

    fn address() -> SstAddress {
        SstAddress::new("::1", 4444, &["highline", "1"]).unwrap()
    }

    #[test]
    fn a_joiner_says_ready_then_progress_then_its_position() {
        let position = Position::new(UUID, 7).unwrap();
        let ready = Ready::new(Some(("pin", "s3.cr-t_")), address()).unwrap();
        let mut pipe = Dialogue::new(Vec::new(), Side::Joiner, true);
        let gtid = GaleraGtid { position: position.clone(), domain: Some(0) };
        let last = Line::Position(&gtid);
        for early in [&last, &Line::Total(1), &Line::FlushTables, &Line::Done(&position)] {
            assert_eq!(pipe.say(early).unwrap_err().kind(), Kind::Protocol);
        }
        pipe.say(&Line::Ready(&ready)).unwrap();
        assert!(pipe.say(&Line::Ready(&ready)).is_err());
        pipe.say(&Line::Total(10)).unwrap();
        pipe.say(&Line::Complete(10)).unwrap();
        pipe.say(&last).unwrap();
        assert!(pipe.is_ended());
        assert!(pipe.say(&Line::Complete(11)).is_err() && pipe.say(&last).is_err());
        let said = String::from_utf8(pipe.out).unwrap();
        assert_eq!(said, format!("ready pin:s3.cr-t_@[::1]:4444/highline/1\ntotal 10\ncomplete 10\n{UUID}:7 0\n"));
    }

    #[test]
    fn a_donor_may_freeze_again_but_says_nothing_after_done() {
        let position = Position::new(UUID, i64::MAX).unwrap();
        let mut pipe = Dialogue::new(Vec::new(), Side::Donor, false);
        pipe.say(&Line::Total(u64::MAX)).unwrap();
        for line in [Line::FlushTables, Line::Continue, Line::FlushTables, Line::Continue, Line::Done(&position)] {
            pipe.say(&line).unwrap();
        }
        assert!(pipe.say(&Line::Continue).is_err());
        let said = String::from_utf8(pipe.out).unwrap();
        assert_eq!(said, format!("flush tables\ncontinue\nflush tables\ncontinue\ndone {position}\n"));
        assert!(said.lines().all(|line| line.len() <= 127), "the donor's server reads 127 bytes a line");
    }

    #[test]
    fn a_ready_line_that_the_server_would_split_or_refuse_is_none() {
        for (user, secret, fits) in [
            ("", "x", true),
            ("pin", &"s".repeat(478), true),
            ("pin", &"s".repeat(479), false),
            ("a b", "x", false),
            ("pin", "a+b", false),
            ("pin", "a:b", false),
            ("pin", "a@b", false),
            ("pin", "a\nb", false),
        ] {
            let ready = Ready::new(Some((user, secret)), address());
            assert_eq!(ready.is_ok(), fits, "{user} {secret}");
            if let Ok(ready) = ready {
                assert!(ready.line().len() <= Ready::MAX_BYTES);
                assert!(!format!("{ready:?}").contains(secret), "a secret shows in Debug");
            }
        }
        assert_eq!(Ready::new(None, address()).unwrap().line().as_str(), "ready [::1]:4444/highline/1");
    }

    #[test]
    fn a_closed_pipe_is_a_gone_server() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let error = Dialogue::new(writer, Side::Donor, false).say(&Line::Continue).unwrap_err();
        assert_eq!((error.kind(), error.side()), (Kind::ServerGone, Side::Donor));
    }

    /// Runs in a process of its own, started by the test below.
    #[test]
    #[ignore = "started by another test"]
    fn child_that_takes_stdout() {
        let mut pipe = Dialogue::take_stdout(Side::Donor, false).unwrap();
        println!("a stray print");
        rustix::io::write(rustix::stdio::stdout(), b"a stray write\n").unwrap();
        std::process::Command::new("echo").arg("a stray child").status().unwrap();
        pipe.say(&Line::Continue).unwrap();
    }

    #[test]
    fn nothing_else_reaches_the_server() {
        let output = std::process::Command::new(std::env::current_exe().unwrap())
            .args(["--exact", "sst::dialogue::tests::child_that_takes_stdout"])
            .args(["--ignored", "--nocapture", "--test-threads=1"])
            .output()
            .unwrap();
        let (out, err) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
        assert!(output.status.success(), "{out}{err}");
        assert!(out.ends_with("continue\n") && !out.contains("stray"), "{out}");
        for stray in ["a stray print", "a stray write", "a stray child"] {
            assert!(err.contains(stray), "{err}");
        }
    }
}
