//! A donor's file while it is read: where it has data, and its bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Advice, Mode, OFlags, SeekFrom, fadvise, open, seek};
use rustix::io::{ReadWriteFlags, preadv2};

use super::scan::Stamp;
use crate::direct::{Direct, PAGE, Pages};
use crate::error::{Error, Kind, Printable, Result};

/// An open file of the donor's tree.
#[derive(Debug)]
pub struct Source {
    file: File,
    direct: Option<Direct>,
    /// Whether the filesystem gave it less than its length, so that there are holes to look for.
    holed: bool,
    /// Its first bytes, of a file that is written on while it is read.
    head: Vec<u8>,
}

impl Source {
    /// Opens the file at `place`, never through a symlink, and only while it still has `stamp` when
    /// one is given.
    pub fn open(place: &Path, stamp: Option<Stamp>, holed: bool) -> Result<Source> {
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let opened = match open(place, flags | OFlags::NOATIME, Mode::empty()) {
            // Only the owner may leave the access time alone (open(2)).
            Err(rustix::io::Errno::PERM) => open(place, flags, Mode::empty()),
            other => other,
        };
        let file = File::from(opened.map_err(|e| vanished_or(place, e.into()))?);
        if let Some(stamp) = stamp {
            let stat = file.metadata().map_err(|e| Error::io("cannot read", place, e))?;
            if Stamp::of(&stat) != stamp {
                return Err(changed(place));
            }
        }
        Ok(Source { file, direct: None, holed, head: Vec::new() })
    }

    /// Reads the first `len` bytes now, before any other; they stay what they are.
    pub fn keep_head(&mut self, place: &Path, len: usize) -> Result<()> {
        let mut head = vec![0; len];
        self.read(place, 0, &mut head)?;
        self.head = head;
        self.holed = false;
        Ok(())
    }

    /// Prepares for a large file that is read once from front to end.
    pub fn announce(&mut self) {
        self.direct = Direct::reading(&self.file);
        // What goes past the cache must not be read into it ahead. Advice only: a filesystem that cannot
        // take it reads as it always does.
        let advice = if self.direct.is_some() { Advice::Random } else { Advice::Sequential };
        let _ = fadvise(&self.file, 0, None, advice);
    }

    /// The runs of data in `len` bytes from `offset`, relative to it; at most `most`, after which the
    /// rest counts as data.
    pub fn data(&self, offset: u64, len: u64, most: usize) -> io::Result<Vec<(u64, u64)>> {
        if !self.holed || len == 0 {
            return Ok(if len == 0 { vec![] } else { vec![(0, len)] });
        }
        let end = offset + len;
        let mut runs = Vec::new();
        let mut at = offset;
        while at < end {
            let start = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) if start < end => start,
                Ok(_) | Err(rustix::io::Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            let stop = if runs.len() + 1 == most { end } else { seek(&self.file, SeekFrom::Hole(start))?.min(end) };
            runs.push((start - offset, stop - start));
            at = stop;
        }
        Ok(runs)
    }

    /// Fills `bytes` with the runs that [`Source::data`] found from `offset` on, one after the other.
    ///
    /// Where they are a good part of what they span, all of that is read at once: a page-compressed tablespace
    /// has a hole in every page.
    pub fn read_runs(
        &self,
        place: &Path,
        offset: u64,
        runs: &[(u64, u64)],
        bytes: &mut [u8],
        scratch: &mut Pages,
    ) -> Result<()> {
        const PART: u64 = 8;
        let from = runs.first().map_or(0, |(start, _)| *start);
        let span = runs.last().map_or(0, |(start, len)| start + len - from);
        let together = runs.len() > 1 && bytes.len() as u64 >= span / PART;
        if together {
            scratch.resize(span as usize, 0);
            self.read(place, offset + from, scratch)?;
        }
        let mut rest = bytes;
        for (start, len) in runs {
            let (now, later) = rest.split_at_mut(*len as usize);
            if together {
                now.copy_from_slice(&scratch[(start - from) as usize..][..now.len()]);
            } else {
                self.read(place, offset + start, now)?;
            }
            rest = later;
        }
        Ok(())
    }

    /// Fills `bytes` from `offset` on; a file that has become shorter is an error that says so.
    ///
    /// What is in the page cache is taken from there, by the first page of `bytes`. What was not in it before is
    /// not left in it: a copy must not push out the server's pages.
    pub fn read(&self, place: &Path, offset: u64, bytes: &mut [u8]) -> Result<()> {
        if offset == 0
            && let Some(head) = self.head.get(..bytes.len())
        {
            bytes.copy_from_slice(head);
            return Ok(());
        }
        let bytes_read = bytes.len() as u64;
        // A kernel or filesystem that cannot say (preadv2(2), RWF_NOWAIT) is read and left as it is.
        let cached =
            |bytes: &mut [u8]| preadv2(&self.file, &mut [io::IoSliceMut::new(bytes)], offset, ReadWriteFlags::NOWAIT);
        let forget = || {
            let len = std::num::NonZeroU64::new(bytes_read);
            let _ = fadvise(&self.file, offset, len, Advice::DontNeed);
        };
        if let Some(direct) = self.direct.as_ref().filter(|direct| direct.takes(offset, bytes.len()))
            && cached(&mut bytes[..PAGE]) != Ok(PAGE)
            && direct.read(bytes, offset).map_err(|e| Error::io("cannot read", place, e))?
        {
            // To ask for a page that is not there has brought it (`filemap_get_pages`, since Linux 5.9).
            forget();
            return Ok(());
        }
        let from_disk = match cached(bytes) {
            Ok(count) if count == bytes.len() => return Ok(()),
            Ok(_) | Err(rustix::io::Errno::AGAIN) => true,
            Err(_) => false,
        };
        self.file.read_exact_at(bytes, offset).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => changed(place),
            _ => Error::io("cannot read", place, error),
        })?;
        if from_disk {
            forget();
        }
        Ok(())
    }
}

/// A file is no longer what the scan saw.
pub fn changed(place: &Path) -> Error {
    Error::new(Kind::Changed, format!("{} changed while it was read", Printable::path(place))).remedy(STOP)
}

pub fn vanished(place: &Path) -> Error {
    Error::new(Kind::Changed, format!("{} vanished while the tree was read", Printable::path(place))).remedy(STOP)
}

const STOP: &str = "stop the server, or whatever else writes there, and start again";

fn vanished_or(place: &Path, error: io::Error) -> Error {
    match error.raw_os_error().map(rustix::io::Errno::from_raw_os_error) {
        Some(rustix::io::Errno::NOENT) => vanished(place),
        // It has become a link.
        Some(rustix::io::Errno::LOOP) => changed(place),
        _ => Error::io("cannot open", place, error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holes_are_found_and_data_is_read() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("f");
        let file = File::create(&place).unwrap();
        file.set_len(1 << 20).unwrap();
        file.write_all_at(&[7; 8192], 65536).unwrap();
        let source = Source::open(&place, None, true).unwrap();
        assert_eq!(source.data(0, 1 << 20, 100).unwrap(), [(65536, 8192)]);
        assert_eq!(source.data(65536, 4096, 100).unwrap(), [(0, 4096)]);
        assert_eq!(source.data(131072, 4096, 100).unwrap(), []);
        let mut bytes = [0; 8192];
        source.read(&place, 65536, &mut bytes).unwrap();
        assert_eq!(bytes, [7; 8192]);
    }

    #[test]
    fn a_large_file_is_read_the_same_cached_or_not_and_leaves_no_more_in_the_cache() {
        let mut file = tempfile::NamedTempFile::new_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        let content: Vec<u8> = (0..2u32 << 20).map(|n| (n.wrapping_mul(2_654_435_761) >> 11) as u8).collect();
        std::io::Write::write_all(&mut file, &content).unwrap();
        file.as_file().sync_all().unwrap();
        let mut source = Source::open(file.path(), None, false).unwrap();
        source.announce();
        let in_cache = |page: u64| {
            let mut byte = [0];
            let slice = &mut [io::IoSliceMut::new(&mut byte)];
            preadv2(file.as_file(), slice, page * PAGE as u64, ReadWriteFlags::NOWAIT) == Ok(1)
        };
        let mut bytes = vec![0; 1 << 20];
        for (warm, len) in [(2 << 20, 1 << 20), (0, 1 << 20), (4096, 1 << 20), (2 << 20, 999_999), (0, 999_999)] {
            fadvise(file.as_file(), 0, None, Advice::DontNeed).unwrap();
            fadvise(file.as_file(), 0, None, Advice::Random).unwrap();
            file.as_file().read_exact_at(&mut vec![0; warm], 0).unwrap();
            source.read(file.path(), 1 << 20, &mut bytes[..len]).unwrap();
            assert!(bytes[..len] == content[1 << 20..][..len]);
            source.read(file.path(), 0, &mut bytes[..len]).unwrap();
            assert!(bytes[..len] == content[..len]);
            assert_eq!(in_cache(300), warm == 2 << 20, "{warm} {len}");
        }
    }

    #[test]
    fn runs_are_read_together_or_one_by_one() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("f");
        let file = File::create(&place).unwrap();
        file.set_len(1 << 20).unwrap();
        let runs = [(8192, 4096), (16384, 8192), (1 << 19, 4096)];
        for (number, (start, len)) in (1..).zip(runs) {
            file.write_all_at(&vec![number; len as usize], 1024 + start).unwrap();
        }
        let source = Source::open(&place, None, true).unwrap();
        let mut scratch = Pages::default();
        for (runs, together) in [(&runs[..2], true), (&runs[..], false), (&runs[..1], false), (&[], false)] {
            let expected: Vec<u8> =
                (1..).zip(runs).flat_map(|(number, (_, len))| vec![number; *len as usize]).collect();
            let mut bytes = vec![0; expected.len()];
            scratch.clear();
            source.read_runs(&place, 1024, runs, &mut bytes, &mut scratch).unwrap();
            assert!(bytes == expected, "{runs:?}");
            assert_eq!(!scratch.is_empty(), together);
        }
    }

    #[test]
    fn a_file_that_shrank_changed_or_vanished_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("f");
        std::fs::write(&place, [1; 100]).unwrap();
        let stamp = Stamp::of(&std::fs::metadata(&place).unwrap());
        let source = Source::open(&place, Some(stamp), false).unwrap();
        std::fs::write(&place, [1; 50]).unwrap();
        let error = source.read(&place, 0, &mut [0; 100]).unwrap_err();
        assert_eq!(error.kind(), Kind::Changed);
        assert_eq!(error.sentence(), format!("{} changed while it was read", place.display()));
        assert_eq!(Source::open(&place, Some(stamp), false).unwrap_err().kind(), Kind::Changed);
        std::fs::remove_file(&place).unwrap();
        let error = Source::open(&place, Some(stamp), false).unwrap_err();
        assert_eq!(error.sentence(), format!("{} vanished while the tree was read", place.display()));
    }

    #[test]
    fn a_symlink_is_not_followed() {
        let dir = tempfile::tempdir().unwrap();
        std::os::unix::fs::symlink("/etc/passwd", dir.path().join("f")).unwrap();
        let error = Source::open(&dir.path().join("f"), None, false).unwrap_err();
        assert_eq!(error.kind(), Kind::Changed);
    }

    #[test]
    fn the_head_stays_what_it_was() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), [1; 100]).unwrap();
        let mut source = Source::open(file.path(), None, true).unwrap();
        source.keep_head(file.path(), 50).unwrap();
        std::fs::File::options().write(true).open(file.path()).unwrap().write_all_at(&[2; 100], 0).unwrap();
        let mut bytes = [0; 50];
        source.read(file.path(), 0, &mut bytes).unwrap();
        assert_eq!(bytes, [1; 50]);
        source.read(file.path(), 50, &mut bytes).unwrap();
        assert_eq!(bytes, [2; 50]);
    }
}
