//! The format of `mariadb-backup --stream=mbstream`, also called xbstream: chunks of several files, interleaved.
//!
//! All numbers are little-endian. A chunk is `XBSTCK01`, a byte of flags, a byte of type, four bytes of path length and
//! the path, and then by type: `P` (eight bytes of length, eight of offset, four of CRC-32, and the data), `E` (the file
//! ends), `D` (the file is removed), `R` (four bytes of length and its new path), `S` (eight bytes: the next data goes
//! to that offset). Flag 1: a reader that does not know the type skips the chunk, which has the form of `P`. Flag 2: the
//! file is rewritten from the start. (`xb_stream_read_chunk`, `extra/mariabackup/xbstream_read.cc`.)
//!
//! Only one chunk's header is kept; the caller provides the memory for the data.

use std::io::{self, Read};

use crc32fast::Hasher;

const MAGIC: &[u8; 8] = b"XBSTCK01";
/// The longest path, in bytes: what mbstream itself takes (`FN_REFLEN` - 1).
const PATH: usize = 511;
const SKIPPABLE: u8 = 1;
const ANEW: u8 = 2;

/// Why a stream cannot be read on.
#[derive(Debug, thiserror::Error)]
pub enum StreamError {
    #[error("the stream breaks off in the middle of a chunk")]
    Cut,
    #[error("a chunk does not begin with XBSTCK01")]
    Magic,
    #[error("a chunk has the unknown type {0}")]
    Type(u8),
    #[error("a path has {0} bytes")]
    Path(u32),
    #[error("a chunk has {0} bytes at {1}")]
    Range(u64, u64),
    #[error("the data of a chunk does not match the CRC-32 in its header")]
    Crc,
    #[error("the stream cannot be read")]
    Io(#[source] io::Error),
}

impl From<io::Error> for StreamError {
    fn from(error: io::Error) -> StreamError {
        match error.kind() {
            io::ErrorKind::UnexpectedEof => StreamError::Cut,
            _ => StreamError::Io(error),
        }
    }
}

/// What a chunk says about the file at a path.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Said {
    /// `len` bytes of data at `offset`; [`Reader::data`] reads them.
    Data {
        offset: u64,
        len: u64,
    },
    /// The same from the start, and what came of the file before no longer counts.
    Anew {
        len: u64,
    },
    End,
    Removed,
    /// Its new name.
    Renamed(Vec<u8>),
    /// The next data goes elsewhere in a file that was already sent.
    Seek,
}

/// Reads the chunks of a stream.
#[derive(Debug)]
pub struct Reader<R> {
    input: R,
    /// Bytes of the chunk's data not read yet.
    left: u64,
    crc: Hasher,
    expected: u32,
}

impl<R: Read> Reader<R> {
    pub fn new(input: R) -> Reader<R> {
        Reader { input, left: 0, crc: Hasher::new(), expected: 0 }
    }

    /// The next chunk's path and what it says; data of the last one that was not read is skipped. `None` at the stream's end.
    pub fn chunk(&mut self) -> Result<Option<(Vec<u8>, Said)>, StreamError> {
        self.skip()?;
        loop {
            let Some([flags, kind]) = self.begin()? else { return Ok(None) };
            let path = self.path()?;
            let said = match kind {
                b'E' => Said::End,
                b'D' => Said::Removed,
                b'R' => Said::Renamed(self.path()?),
                b'S' => self.number().map(|_: [u8; 8]| Said::Seek)?,
                b'P' => match self.range()? {
                    Said::Data { offset: 0, len } if flags & ANEW != 0 => Said::Anew { len },
                    data => data,
                },
                _ if flags & SKIPPABLE != 0 => {
                    self.range()?;
                    self.skip()?;
                    continue;
                }
                other => return Err(StreamError::Type(other)),
            };
            return Ok(Some((path, said)));
        }
    }

    /// How much of the chunk's data has not been read yet.
    pub fn left(&self) -> u64 {
        self.left
    }

    /// Reads as much of the chunk's data as there is, and no more than `into` holds; says how much.
    pub fn data(&mut self, into: &mut [u8]) -> Result<usize, StreamError> {
        let len = usize::try_from(self.left).unwrap_or(usize::MAX).min(into.len());
        let Some(into) = into.get_mut(..len) else { return Ok(0) };
        self.input.read_exact(into)?;
        self.crc.update(into);
        self.left = self.left.saturating_sub(len as u64);
        if self.left == 0 && self.crc.clone().finalize() != self.expected {
            return Err(StreamError::Crc);
        }
        Ok(len)
    }

    fn skip(&mut self) -> Result<(), StreamError> {
        let mut scratch = [0; 8192];
        while self.left > 0 {
            self.data(&mut scratch)?;
        }
        Ok(())
    }

    /// Flags and type of the next chunk.
    fn begin(&mut self) -> Result<Option<[u8; 2]>, StreamError> {
        let mut first = Vec::with_capacity(1);
        // Only here may a stream end.
        if self.input.by_ref().take(1).read_to_end(&mut first)? == 0 {
            return Ok(None);
        }
        let rest: [u8; 9] = self.number()?;
        let [magic @ .., flags, kind] = rest;
        if MAGIC.strip_prefix(first.as_slice()).is_none_or(|rest| rest != magic) {
            return Err(StreamError::Magic);
        }
        Ok(Some([flags, kind]))
    }

    fn number<const N: usize>(&mut self) -> Result<[u8; N], StreamError> {
        let mut bytes = [0; N];
        self.input.read_exact(&mut bytes)?;
        Ok(bytes)
    }

    fn path(&mut self) -> Result<Vec<u8>, StreamError> {
        let said = u32::from_le_bytes(self.number()?);
        let len = usize::try_from(said).ok().filter(|len| *len <= PATH).ok_or(StreamError::Path(said))?;
        let mut path = vec![0; len];
        self.input.read_exact(&mut path)?;
        Ok(path)
    }

    fn range(&mut self) -> Result<Said, StreamError> {
        let (len, offset) = (u64::from_le_bytes(self.number()?), u64::from_le_bytes(self.number()?));
        self.expected = u32::from_le_bytes(self.number()?);
        // No file is longer (off_t).
        let end = offset.checked_add(len).filter(|end| i64::try_from(*end).is_ok());
        if end.is_none() {
            return Err(StreamError::Range(len, offset));
        }
        (self.crc, self.left) = (Hasher::new(), len);
        if len == 0 && self.expected != 0 {
            return Err(StreamError::Crc);
        }
        Ok(Said::Data { offset, len })
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// A chunk of this type, with what follows its path.
    pub(crate) fn chunk(flags: u8, kind: u8, path: &str, rest: &[u8]) -> Vec<u8> {
        let length = u32::try_from(path.len()).unwrap().to_le_bytes();
        [MAGIC.as_slice(), &[flags, kind], &length, path.as_bytes(), rest].concat()
    }

    pub(crate) fn data(path: &str, offset: u64, bytes: &[u8]) -> Vec<u8> {
        let (len, crc) = (bytes.len() as u64, crc32fast::hash(bytes));
        chunk(0, b'P', path, &[len.to_le_bytes().as_slice(), &offset.to_le_bytes(), &crc.to_le_bytes(), bytes].concat())
    }

    pub(crate) fn anew(mut data: Vec<u8>) -> Vec<u8> {
        data[8] = ANEW;
        data
    }

    pub(crate) fn renamed(path: &str, to: &str) -> Vec<u8> {
        let length = u32::try_from(to.len()).unwrap().to_le_bytes();
        chunk(0, b'R', path, &[length.as_slice(), to.as_bytes()].concat())
    }

    pub(crate) fn end(path: &str) -> Vec<u8> {
        chunk(0, b'E', path, &[])
    }

    /// Everything a stream says, with its data.
    fn read(bytes: &[u8]) -> Result<Vec<(String, Said, Vec<u8>)>, StreamError> {
        let (mut reader, mut all) = (Reader::new(bytes), Vec::new());
        while let Some((path, said)) = reader.chunk()? {
            let mut content = Vec::new();
            let mut piece = [0; 3];
            while reader.left() > 0 {
                let count = reader.data(&mut piece)?;
                content.extend_from_slice(&piece[..count]);
            }
            all.push((String::from_utf8(path).unwrap(), said, content));
        }
        Ok(all)
    }

    #[test]
    fn chunks_of_several_files_are_told_apart() {
        let stream =
            [data("a/t.ibd", 0, b"12345"), data("b", 0, b"x"), data("a/t.ibd", 5, b"6"), end("b"), end("a/t.ibd")];
        let all = read(&stream.concat()).unwrap();
        let said: Vec<_> = all.iter().map(|(path, said, _)| (path.as_str(), said.clone())).collect();
        let of = |offset, len| Said::Data { offset, len };
        let expected =
            [("a/t.ibd", of(0, 5)), ("b", of(0, 1)), ("a/t.ibd", of(5, 1)), ("b", Said::End), ("a/t.ibd", Said::End)];
        assert_eq!(said, expected);
        assert_eq!((all[0].2.as_slice(), all[2].2.as_slice()), (b"12345".as_slice(), b"6".as_slice()));
        // What was not read is skipped.
        let bytes = stream.concat();
        let mut reader = Reader::new(bytes.as_slice());
        let paths = std::iter::from_fn(|| reader.chunk().unwrap().map(|(path, _)| path.len()));
        assert_eq!(paths.collect::<Vec<_>>(), [7, 1, 7, 1, 7]);
        assert_eq!(read(b"").unwrap(), []);
    }

    #[test]
    fn changes_to_a_file_are_reported_and_skippable_chunks_skipped() {
        for (changed, said) in [
            (chunk(0, b'D', "a", &[]), Said::Removed),
            (renamed("a", "b"), Said::Renamed(b"b".to_vec())),
            (chunk(0, b'S', "a", &[7; 8]), Said::Seek),
            (anew(data("a", 0, b"1")), Said::Anew { len: 1 }),
            (anew(data("a", 1, b"1")), Said::Data { offset: 1, len: 1 }),
        ] {
            assert_eq!(read(&changed).unwrap()[0].1, said);
        }
        let unknown = data("a", 0, b"123");
        let unknown = [&unknown[..8], &[1, b'Q'], &unknown[10..], &end("b")].concat();
        assert_eq!(read(&unknown).unwrap().len(), 1);
    }

    #[test]
    fn every_cut_is_noticed() {
        let stream = [data("a", 0, b"12345"), end("a")].concat();
        let first = data("a", 0, b"12345").len();
        for cut in (1..stream.len()).filter(|cut| *cut != first) {
            assert!(matches!(read(&stream[..cut]), Err(StreamError::Cut)), "{cut}");
        }
    }

    #[test]
    fn a_hostile_stream_is_refused() {
        let range = |len: u64, offset: u64| {
            chunk(0, b'P', "a", &[len.to_le_bytes().as_slice(), &offset.to_le_bytes(), &[0; 4]].concat())
        };
        let mut flipped = data("a", 0, b"12345");
        *flipped.last_mut().unwrap() ^= 1;
        for (stream, why) in [
            (b"XBSTCK02P\0\0\0\0\0\0".to_vec(), "a chunk does not begin with XBSTCK01"),
            (chunk(0, b'Q', "a", &[]), "a chunk has the unknown type 81"),
            ([MAGIC.as_slice(), &[0, b'P'], &[255; 4]].concat(), "a path has 4294967295 bytes"),
            (chunk(0, b'P', &"a".repeat(512), &[]), "a path has 512 bytes"),
            (range(u64::MAX, 1), "a chunk has 18446744073709551615 bytes at 1"),
            (range(1, i64::MAX as u64), "a chunk has 1 bytes at 9223372036854775807"),
            (range(1 << 62, 0), "the stream breaks off in the middle of a chunk"),
            (flipped, "the data of a chunk does not match the CRC-32 in its header"),
        ] {
            assert_eq!(read(&stream).unwrap_err().to_string(), why);
        }
    }

    proptest::proptest! {
        #[test]
        fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..200)) {
            let _ = read(&[MAGIC.as_slice(), &bytes].concat());
        }
    }
}
