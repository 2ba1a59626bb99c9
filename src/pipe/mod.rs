//! The two ends of a byte stream, and the programs that Highline runs there.
//!
//! Knows nothing of lanes and peers. What a consumer gets is not known to be whole before its end; the end is shown only
//! to whom [`crate::manifest::Whole`] was given.

mod consumer;
mod guard;
mod producer;
mod program;

use std::ffi::OsString;
use std::fs::File;
use std::io::IsTerminal;
use std::os::fd::AsFd;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::FileType;

use crate::error::{Error, Kind, Result};

pub use consumer::{Consumer, Writer};
pub use guard::{guard, hold};
pub use producer::{Producer, Read, Reader};
pub use program::Program;

/// One end of a stream, as the operator names it.
#[derive(Debug)]
pub enum End {
    /// An open file that belongs to others: standard input or output.
    Open(File),
    /// A program and its arguments, at least the former, which is run when both sides have agreed.
    Program(Vec<OsString>),
}

impl End {
    /// Standard input.
    pub fn stdin() -> Result<End> {
        End::open(std::io::stdin(), "standard input is a terminal, and not a stream")
    }

    /// Standard output.
    pub fn stdout() -> Result<End> {
        End::open(std::io::stdout(), "standard output is a terminal, and the stream may hold anything")
    }

    fn open(stream: impl AsFd + IsTerminal, refused: &str) -> Result<End> {
        if stream.is_terminal() {
            let remedy = "connect it to another program or a file, or name a program after `--`";
            return Err(Error::new(Kind::Usage, refused).remedy(remedy));
        }
        let again = stream.as_fd().try_clone_to_owned();
        Ok(End::Open(again.map_err(|e| Error::new(Kind::Io, "cannot open the stream").because(e))?.into()))
    }
}

fn is(file: impl AsFd, kind: FileType) -> bool {
    rustix::fs::fstat(file).is_ok_and(|stat| FileType::from_raw_mode(stat.st_mode) == kind)
}

/// Whether nobody has the reading end of this pipe open any more (poll(2), `POLLERR`).
fn is_closed(file: impl AsFd) -> bool {
    let mut files = [PollFd::new(&file, PollFlags::empty())];
    poll(&mut files, Some(&Timespec { tv_sec: 0, tv_nsec: 0 })).is_ok() && files[0].revents().contains(PollFlags::ERR)
}

/// Bytes that a pipe may hold, if the kernel lets it: fewer changes from one process to another.
const ROOM: usize = 1 << 20;

fn widen(pipe: impl AsFd) {
    // It is no pipe, or the user has too many (pipe(7)): it works as it is.
    let _ = rustix::pipe::fcntl_setpipe_size(pipe, ROOM);
}
