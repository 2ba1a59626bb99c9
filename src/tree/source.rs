//! A donor's file while it is being read: where it has data, and its bytes.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;

use rustix::fs::{Advice, FsWord, Mode, OFlags, SeekFrom, fadvise, fdatasync, fstatfs, open, seek};
use rustix::io::{Errno, ReadWriteFlags, preadv2};

use super::entry::Content;
use super::roots::Roots;
use super::scan::{Found, locate};
use super::stamp::Stamp;
use crate::direct::{Direct, PAGE, Pages};
use crate::error::{Error, Kind, Printable, Result};

/// Bytes. Smaller files are read whole rather than asked about holes.
const SMALL: u64 = 1 << 20;

/// An open file of the donor's tree.
#[derive(Debug)]
pub struct Source {
    file: File,
    direct: Option<Direct>,
    holes: Holes,
    /// The first bytes of a file that is written while it is read.
    head: Vec<u8>,
}

/// How the holes of a file are found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Holes {
    /// The filesystem has allocated its whole length: there are none.
    None,
    /// By `SEEK_HOLE` (lseek(2)).
    Ask,
    /// By reading everything: zeros may be holes.
    Read,
}

impl Holes {
    /// Filesystems whose answers have been right for years, even for bytes not on disk yet. Others were wrong about
    /// such bytes (openzfs issues 11900, 15526 and 15933), and FUSE, NFS and overlayfs may hide any of them.
    const TRUSTED: [FsWord; 4] = [0xEF53, 0x5846_5342, 0x9123_683E, 0x0102_1994];

    /// For a file that has fewer blocks than bytes.
    fn of(file: &File, size: u64) -> Holes {
        // A small file is cheaper to read than to ask about. A large one is synced first, so that the answer is
        // unambiguous.
        if Holes::are_told(file, size) && fdatasync(file).is_ok() { Holes::Ask } else { Holes::Read }
    }

    fn are_told(file: &File, size: u64) -> bool {
        size > SMALL && fstatfs(file).is_ok_and(|told| Holes::TRUSTED.contains(&told.f_type))
    }
}

impl Source {
    /// Opens the file at `place`, never through a symlink, and only while it still has `stamp` when
    /// one is given. `holed`: less than its length is allocated, so there are holes to look for.
    pub fn open(place: &Path, stamp: Option<Stamp>, holed: bool) -> Result<Source> {
        // If it has become a pipe, opening must not block.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let opened = match open(place, flags | OFlags::NOATIME, Mode::empty()) {
            // Only the owner may leave the access time alone (open(2)).
            Err(Errno::PERM) => open(place, flags, Mode::empty()),
            other => other,
        };
        let file = File::from(opened.map_err(|e| vanished_or(place, e.into()))?);
        let stat = file.metadata().map_err(|e| Error::io("cannot read", place, e))?;
        if !stat.is_file() || stamp.is_some_and(|stamp| Stamp::of(&stat) != stamp) {
            return Err(changed(place));
        }
        let holes = if holed { Holes::of(&file, stat.len()) } else { Holes::None };
        Ok(Source { file, direct: None, holes, head: Vec::new() })
    }

    /// Reads the first `len` bytes now, before any others, and keeps them.
    pub fn keep_head(&mut self, place: &Path, len: usize) -> Result<()> {
        let mut head = vec![0; len];
        self.read(place, 0, &mut head)?;
        self.head = head;
        self.holes = Holes::None;
        Ok(())
    }

    /// An open file of `size` bytes that nobody changes: a clone, or a file of an old tree. A clone is entirely on
    /// disk, because what is shared must be (`generic_remap_file_range_prep`, `fs/remap_range.c`); syncing it again
    /// would cost time under the lock.
    pub fn still(file: File, size: u64, holed: bool) -> Source {
        let holes = match holed {
            true if Holes::are_told(&file, size) => Holes::Ask,
            true => Holes::Read,
            false => Holes::None,
        };
        let mut source = Source { file, direct: None, holes, head: Vec::new() };
        source.announce();
        source
    }

    /// The open file itself.
    pub fn as_file(&self) -> &File {
        &self.file
    }

    /// Prepares for a large file that is read once from front to end.
    pub fn announce(&mut self) {
        self.direct = Direct::reading(&self.file);
        // What goes past the cache must not be read into it ahead. Only advice: a filesystem may ignore it.
        let advice = if self.direct.is_some() { Advice::Random } else { Advice::Sequential };
        let _ = fadvise(&self.file, 0, None, advice);
    }

    /// The runs of data in `len` bytes from `offset`, relative to it; at most `most`, after which the rest counts as
    /// data. If the bytes had to be read for that, `scratch` holds them afterwards.
    pub fn data(
        &self,
        place: &Path,
        offset: u64,
        len: u64,
        most: usize,
        scratch: &mut Pages,
    ) -> Result<Vec<(u64, u64)>> {
        if len == 0 {
            return Ok(Vec::new());
        }
        match self.holes {
            Holes::None => Ok(vec![(0, len)]),
            Holes::Ask => self.ask(offset, len, most).map_err(|e| Error::io("cannot read", place, e)),
            Holes::Read => {
                scratch.resize(usize::try_from(len).unwrap_or(usize::MAX), 0);
                self.read(place, offset, scratch)?;
                Ok(data_runs(scratch, most))
            }
        }
    }

    /// Where the next data is, as far as the filesystem tells: `offset` itself, if it is not asked. `u64::MAX`: there is
    /// none up to the end.
    pub fn next_data(&self, offset: u64) -> u64 {
        if self.holes != Holes::Ask {
            return offset;
        }
        match seek(&self.file, SeekFrom::Data(offset)) {
            Ok(start) => start,
            Err(Errno::NXIO) => u64::MAX,
            Err(_) => offset,
        }
    }

    fn ask(&self, offset: u64, len: u64, most: usize) -> io::Result<Vec<(u64, u64)>> {
        let end = offset + len;
        let mut runs = Vec::new();
        let mut at = offset;
        while at < end {
            let start = match seek(&self.file, SeekFrom::Data(at)) {
                Ok(start) if start < end => start,
                Ok(_) | Err(Errno::NXIO) => break,
                Err(error) => return Err(error.into()),
            };
            let stop = if runs.len() + 1 == most { end } else { seek(&self.file, SeekFrom::Hole(start))?.min(end) };
            runs.push((start - offset, stop - start));
            at = stop;
        }
        Ok(runs)
    }

    /// Fills `bytes` with the runs that [`Source::data`] found from `offset`, one after another; `scratch` must be as
    /// that left it.
    ///
    /// If they make up much of what they span, all of that is read at once: a page-compressed tablespace has a hole in
    /// every page.
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
        let read = self.holes == Holes::Read;
        let from = if read { 0 } else { from };
        let together = read || (runs.len() > 1 && bytes.len() as u64 >= span / PART);
        if together && !read {
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

    /// Fills `bytes` from `offset`; fails, and says so, if the file has become shorter.
    ///
    /// If the first page of `bytes` is in the page cache, they are read through it. What was not cached before is not
    /// left in the cache: a copy must not push out the server's pages.
    pub fn read(&self, place: &Path, offset: u64, bytes: &mut [u8]) -> Result<()> {
        if offset == 0
            && let Some(head) = self.head.get(..bytes.len())
        {
            bytes.copy_from_slice(head);
            return Ok(());
        }
        let bytes_read = bytes.len() as u64;
        // If the kernel or filesystem cannot say (preadv2(2), RWF_NOWAIT), read and leave the cache as it is.
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
            // Asking for a missing page has already loaded it (`filemap_get_pages`, since Linux 5.9).
            forget();
            return Ok(());
        }
        let from_disk = match cached(bytes) {
            Ok(count) if count == bytes.len() => return Ok(()),
            Ok(_) | Err(Errno::AGAIN) => true,
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

/// Where blocks of bytes are not all zero: start and length of each run; at most `most`, after which the rest counts as
/// data.
pub fn data_runs(bytes: &[u8], most: usize) -> Vec<(u64, u64)> {
    const ZEROS: &[u8] = &[0; PAGE];
    let mut runs: Vec<(u64, u64)> = Vec::new();
    let mut at = 0;
    for block in bytes.chunks(PAGE) {
        let len = block.len() as u64;
        if *block != ZEROS[..block.len()] {
            let full = runs.len() == most;
            match runs.last_mut() {
                Some((start, run)) if full || *start + *run == at => *run = at + len - *start,
                _ => runs.push((at, len)),
            }
        }
        at += len;
    }
    runs
}

/// Opens every file of a live tree once, and says which may not be read: that tests modes, access lists and policies
/// alike.
///
/// # Errors
/// The first of them, with the names of some more.
pub fn readable(roots: &Roots, found: &[Found]) -> Result<()> {
    const NAMED: usize = 5;
    let mut refused: Option<(io::Error, Vec<String>, usize)> = None;
    for found in found.iter().filter(|found| matches!(found.entry.content, Content::File { .. })) {
        let Some(place) = locate(roots, &found.entry.path) else { continue };
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        match open(&place, flags, Mode::empty()) {
            // It, or a directory above it, has vanished or become something else.
            Ok(_) | Err(Errno::NOENT | Errno::NOTDIR | Errno::LOOP | Errno::NXIO) => {}
            Err(error) => {
                let (_, names, count) = refused.get_or_insert_with(|| (error.into(), Vec::new(), 0));
                *count += 1;
                if names.len() < NAMED {
                    names.push(Printable::path(&place).to_string());
                }
            }
        }
    }
    let Some((error, names, count)) = refused else { return Ok(()) };
    let more = if count > names.len() { format!(" and {} more", count - names.len()) } else { String::new() };
    Err(Error::io("cannot open", Path::new(&format!("{}{more}", names.join(", "))), error))
}

/// The error for a file that is no longer what the scan saw.
pub fn changed(place: &Path) -> Error {
    Error::new(Kind::Changed, format!("{} changed while it was read", Printable::path(place))).remedy(STOP)
}

pub fn vanished(place: &Path) -> Error {
    Error::new(Kind::Changed, format!("{} vanished while the tree was read", Printable::path(place))).remedy(STOP)
}

const STOP: &str = "stop the server, or whatever else writes there, and start again";

fn vanished_or(place: &Path, error: io::Error) -> Error {
    match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::NOTDIR) => vanished(place),
        // It has become a link, or a socket.
        Some(Errno::LOOP | Errno::NXIO) => changed(place),
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
        file.set_len(4 << 20).unwrap();
        file.write_all_at(&[7; 8192], 65536).unwrap();
        let mut source = Source::open(&place, None, true).unwrap();
        let mut scratch = Pages::default();
        for holes in [Holes::Ask, Holes::Read] {
            source.holes = holes;
            let mut data = |offset, len, most| source.data(&place, offset, len, most, &mut scratch).unwrap();
            assert_eq!(data(0, 1 << 20, 100), [(65536, 8192)], "{holes:?}");
            assert_eq!(data(65536, 4096, 100), [(0, 4096)]);
            assert_eq!(data(131072, 4096, 100), []);
            assert_eq!(data(0, 0, 100), []);
            let mut bytes = [0; 8192];
            let runs = source.data(&place, 0, 1 << 20, 100, &mut scratch).unwrap();
            source.read_runs(&place, 0, &runs, &mut bytes, &mut scratch).unwrap();
            assert_eq!(bytes, [7; 8192]);
            let asked = holes == Holes::Ask;
            assert_eq!(source.next_data(0), if asked { 65536 } else { 0 });
            assert_eq!(source.next_data(131_072), if asked { u64::MAX } else { 131_072 });
        }
    }

    #[test]
    fn zeros_are_found_by_reading() {
        let mut bytes = vec![0; 10 * PAGE + 5];
        for place in [PAGE, 2 * PAGE + 7, 5 * PAGE, 10 * PAGE + 4] {
            bytes[place] = 1;
        }
        let page = PAGE as u64;
        assert_eq!(data_runs(&bytes, 9), [(page, 2 * page), (5 * page, page), (10 * page, 5)]);
        assert_eq!(data_runs(&bytes, 2), [(page, 2 * page), (5 * page, 5 * page + 5)]);
        assert_eq!((data_runs(&[], 9), data_runs(&[0; 9], 9), data_runs(&[0, 1], 9)), (vec![], vec![], vec![(0, 2)]));
    }

    /// A hidden hole would be zeros on the joiner: what may not be trusted is not asked.
    #[test]
    fn small_files_and_unknown_filesystems_are_read() {
        let small = tempfile::tempfile().unwrap();
        assert_eq!(Holes::of(&small, SMALL), Holes::Read);
        let unknown = File::open("/proc/self/maps").unwrap();
        assert_eq!(Holes::of(&unknown, 9 * SMALL), Holes::Read);
    }

    #[test]
    fn nobody_waits_for_a_pipe() {
        let dir = tempfile::tempdir().unwrap();
        let place = dir.path().join("f");
        rustix::fs::mknodat(rustix::fs::CWD, &place, rustix::fs::FileType::Fifo, Mode::RUSR, 0).unwrap();
        assert_eq!(Source::open(&place, None, false).unwrap_err().kind(), Kind::Changed);
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
        let mut source = Source::open(&place, None, true).unwrap();
        source.holes = Holes::Ask;
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
