//! Where a stream comes from: it is read in pieces, as they come.

use std::fs::File;
use std::io::Read as _;
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};

use super::program::Stream;
use super::{End, Program, widen};
use crate::error::{Error, Kind, Result};
use crate::progress::Reporter;

/// How long a piece that is not full waits for more.
const PAUSE: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// The producer.
#[derive(Debug)]
pub struct Producer {
    reader: Reader,
    program: Option<Arc<Program>>,
}

/// Its output, and how it ends.
#[derive(Debug)]
pub struct Reader {
    file: File,
    program: Option<Arc<Program>>,
}

/// What has been read in all.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Read {
    pub pieces: u64,
    pub bytes: u64,
}

impl Producer {
    /// Runs the program, if there is one.
    pub fn start(end: End, reporter: Arc<dyn Reporter>) -> Result<Producer> {
        let (file, program) = match end {
            End::Open(file) => (file, None),
            End::Program(words) => {
                let (reads, writes) =
                    std::io::pipe().map_err(|e| Error::new(Kind::Io, "cannot make a pipe").because(e))?;
                let program = Program::start(&words, Stream::From(writes), None, reporter)?;
                (File::from(OwnedFd::from(reads)), Some(Arc::new(program)))
            }
        };
        widen(&file);
        Ok(Producer { reader: Reader { file, program: program.clone() }, program })
    }

    pub fn parts(self) -> (Reader, Option<Arc<Program>>) {
        (self.reader, self.program)
    }
}

impl Reader {
    /// Gives all that comes to `take`, in pieces of `most` bytes, or of fewer where nothing more has come for a moment, or
    /// its first byte is so `old`. Returns how many they were, and their bytes, when the producer has ended well; `None` as
    /// soon as `take` or `wanted`, which is asked at least that often while nothing is taken, says that nothing more is
    /// wanted.
    ///
    /// # Errors
    /// It cannot be read, or its program ended badly.
    pub fn pieces(
        mut self,
        most: usize,
        old: Duration,
        wanted: impl Fn() -> bool,
        mut take: impl FnMut(Vec<u8>) -> bool,
    ) -> Result<Option<Read>> {
        let failed = |e: std::io::Error| Error::new(Kind::Io, "cannot read the stream to be sent").because(e);
        let mut piece = vec![0; most];
        let (mut filled, mut begun) = (0, Instant::now());
        let mut all = Read::default();
        loop {
            if filled == 0 {
                begun = Instant::now();
            }
            if self.comes().map_err(failed)? {
                let rest = piece.get_mut(filled..).unwrap_or_default();
                match self.file.read(rest) {
                    Ok(0) => break,
                    Ok(count) => {
                        all.pieces += u64::from(filled == 0);
                        all.bytes += count as u64;
                        filled += count;
                    }
                    Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                    Err(error) => return Err(failed(error)),
                }
                if filled < most && begun.elapsed() < old {
                    continue;
                }
            }
            if filled < most && !wanted() {
                return Ok(None);
            }
            if filled > 0 {
                let whole = if filled == most {
                    std::mem::replace(&mut piece, vec![0; most])
                } else {
                    piece[..filled].to_vec()
                };
                filled = 0;
                if !take(whole) {
                    return Ok(None);
                }
            }
        }
        if filled > 0 {
            piece.truncate(filled);
            if !take(piece) {
                return Ok(None);
            }
        }
        match self.program.as_ref().map(|program| program.wait(wanted)) {
            None | Some(Some(Ok(()))) => Ok(Some(all)),
            Some(None) => Ok(None),
            Some(Some(Err(error))) => Err(error),
        }
    }

    /// Whether there is something to read, or the end.
    fn comes(&self) -> std::io::Result<bool> {
        let mut files = [PollFd::new(&self.file, PollFlags::IN)];
        match poll(&mut files, Some(&PAUSE)) {
            Ok(count) => Ok(count > 0),
            Err(rustix::io::Errno::INTR) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Recorder;
    use std::io::Write;

    fn read(end: End, most: usize) -> (Vec<Vec<u8>>, Result<Option<Read>>) {
        let mut pieces = Vec::new();
        let (reader, _program) = Producer::start(end, Arc::new(Recorder::default())).unwrap().parts();
        let ended = reader.pieces(
            most,
            Duration::from_secs(1),
            || true,
            |piece| {
                pieces.push(piece);
                true
            },
        );
        (pieces, ended)
    }

    fn shell(script: &str) -> End {
        End::Program(["sh", "-c", script].map(Into::into).into())
    }

    #[test]
    fn pieces_are_full_or_what_there_is() {
        let (pieces, ended) = read(shell("printf 1234567; sleep 0.5; printf 89"), 4);
        assert_eq!(ended.unwrap(), Some(Read { pieces: 3, bytes: 9 }));
        assert_eq!(pieces, [b"1234".to_vec(), b"567".to_vec(), b"89".to_vec()]);
        let (pieces, ended) = read(shell(":"), 4);
        assert!(pieces.is_empty());
        assert_eq!(ended.unwrap(), Some(Read::default()));
        let slowly = "for i in 1 2 3 4 5 6 7 8 9 10 11 12 13 14 15 16 17 18 19 20 21 22 23 24 25 26; do printf x; sleep 0.05; done";
        let (pieces, ended) = read(shell(slowly), 1000);
        ended.unwrap();
        assert!(pieces.len() > 1 && pieces.concat().len() == 26, "it never pauses: {}", pieces.len());
        let mut file = tempfile::tempfile().unwrap();
        file.write_all(b"12345678").unwrap();
        std::io::Seek::rewind(&mut file).unwrap();
        assert_eq!(read(End::Open(file), 4).0, [b"1234".to_vec(), b"5678".to_vec()]);
    }

    #[test]
    fn a_program_that_fails_has_no_end_of_the_stream() {
        let (pieces, ended) = read(shell("printf 12345; exit 3"), 4);
        assert_eq!(pieces.concat(), b"12345");
        assert_eq!(ended.unwrap_err().kind(), Kind::Program);
    }

    #[test]
    fn who_wants_nothing_more_is_not_kept_and_has_no_end_of_the_stream() {
        let (reader, program) = Producer::start(shell("exec sleep 60"), Arc::new(Recorder::default())).unwrap().parts();
        assert_eq!(reader.pieces(4, Duration::from_secs(1), || false, |_| true).unwrap(), None);
        drop(program);
        for (script, wanted) in [("printf 12345", true), ("printf 123", true), ("exec 1>&-; exec sleep 60", false)] {
            let (reader, program) = Producer::start(shell(script), Arc::new(Recorder::default())).unwrap().parts();
            assert_eq!(reader.pieces(4, Duration::from_secs(1), || wanted, |_| false).unwrap(), None, "{script}");
            drop(program);
        }
    }
}
