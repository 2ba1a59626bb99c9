//! One file of a tablespace: its pages, chunk by chunk.

use std::fs::File;
use std::ops::Range;
use std::os::unix::fs::FileExt;
use std::path::Path;

use super::be32;
use super::tablespace::{Fault, LARGEST, Page, Tablespace};
use crate::tree::{RelPath, RootName};

/// Whether a file is InnoDB's, by its name: a table, an undo tablespace, or a part of the system tablespace.
pub fn is_tablespace(path: &RelPath) -> bool {
    is_system(path) || path.root_str() == RootName::INNODB_UNDO || path.as_bytes().ends_with(b".ibd")
}

/// Whether it is a part of the system tablespace.
fn is_system(path: &RelPath) -> bool {
    path.root().is_innodb_data()
}

/// What is known about a file's pages before they are read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Space {
    /// One file is the whole tablespace.
    Table(Tablespace),
    /// A part of the system tablespace, whose pages are counted from its first file on. The byte ranges hold copies of
    /// other tablespaces' pages: the doublewrite buffer.
    System(Tablespace, Vec<Range<u64>>),
    /// It has pages, but nothing says how to check them: its first page was never written, or it is not known where the
    /// doublewrite buffer is.
    Unknown,
    /// Its first page is damaged, on which the reading of all others depends.
    Broken(Fault),
}

/// Why a page cannot be checked.
pub const UNKNOWN: &str = "no checksum covers their bytes in the file (page compression without full_crc32, or no checksums at all), or \
the first page of their file has not been written yet";

/// A page that is not what InnoDB wrote.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Damage {
    /// Where it is in the file, in pages and in bytes.
    pub page: u64,
    pub offset: u64,
    pub fault: Fault,
}

/// What was found in a chunk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Findings {
    /// Pages that are as they were written.
    pub good: u64,
    /// Pages that could not be checked.
    pub unknown: u64,
    /// Damaged pages that are free: InnoDB does not read them.
    pub free: u64,
    pub damaged: u64,
    /// The first of the damaged.
    pub first: Option<Damage>,
}

impl Space {
    /// For a table or an undo tablespace that begins with these bytes: at least [`Tablespace::HEADER`], or all of the
    /// first page, which is then checked too.
    pub fn of_table(first: &[u8]) -> Space {
        // The same answer however much of it was read.
        let header = first.get(..Tablespace::HEADER).unwrap_or(first);
        if header.iter().all(|&byte| byte == 0) {
            return Space::Unknown;
        }
        match Tablespace::of(first) {
            Err(fault) => Space::Broken(fault),
            Ok(table) => match first.get(..table.page_size()).map(|page| table.examine(Some(0), page)) {
                Some(Err(fault)) => Space::Broken(fault),
                _ => Space::Table(table),
            },
        }
    }

    /// For the file at `place` of the system tablespace whose first file is `first`. The server may be running: it writes
    /// what is read here only once, when it creates the files.
    pub fn of_system(first: &Path, place: &Path) -> Space {
        let read = || {
            let file = File::open(first).ok()?;
            let mut header = [0; Tablespace::HEADER];
            file.read_exact_at(&mut header, 0).ok()?;
            if header == [0; Tablespace::HEADER] {
                return None;
            }
            let Ok(tablespace) = Tablespace::of(&header) else { return Some(Err(Fault::Header)) };
            let mut page = vec![0; tablespace.page_size()];
            file.read_exact_at(&mut page, TRX_SYS * tablespace.page_size() as u64).ok()?;
            Some(Ok((tablespace, doublewrite(&page), file.metadata().ok()?.len())))
        };
        match read() {
            None => Space::Unknown,
            Some(Err(fault)) => Space::Broken(fault),
            Some(Ok((tablespace, blocks, length))) => match blocks.iter().all(|block| block.end <= length) {
                true if place == first => Space::System(tablespace, blocks),
                true => Space::System(tablespace, Vec::new()),
                false => Space::Unknown,
            },
        }
    }

    /// For `path` at `place`; the system tablespace begins at `system`. `first` reads that many bytes of `file`, or all
    /// of it if it has fewer.
    ///
    /// # Errors
    /// Those of `first`.
    pub fn of<E>(
        path: &RelPath,
        (file, place): (&File, &Path),
        system: &Path,
        first: impl FnOnce(usize) -> Result<Vec<u8>, E>,
    ) -> Result<Space, E> {
        if is_system(path) {
            return Ok(Space::of_system(system, place));
        }
        let space = Space::of_table(&first(LARGEST)?);
        // A server cuts undo tablespaces as it runs. The length is asked for after the first page was read: only so may a
        // growing file be believed.
        let (Space::Table(table), true, Ok(about)) = (&space, path.as_bytes().ends_with(b".ibd"), file.metadata())
        else {
            return Ok(space);
        };
        Ok(table.fits(about.len()).err().map_or(space, Space::Broken))
    }

    /// Examines the chunk of `len` bytes at `offset` of the file, a multiple of [`LARGEST`]. `runs` are where it has data,
    /// relative to its start and in order, and `data` is that data; the rest is zeros. `read` fills bytes from an offset
    /// in the file, and says whether it could.
    pub fn examine(
        &self,
        (offset, len): (u64, u64),
        runs: &[(u64, u64)],
        data: &[u8],
        mut read: impl FnMut(u64, &mut [u8]) -> bool,
    ) -> Findings {
        let mut findings = Findings::default();
        let (tablespace, elsewhere, numbered): (_, &[Range<u64>], _) = match self {
            Space::Table(tablespace) => (tablespace, &[], true),
            Space::System(tablespace, elsewhere) => (tablespace, elsewhere, false),
            Space::Unknown => {
                findings.unknown = u64::from(len == 0 || data.iter().any(|&byte| byte != 0));
                return findings;
            }
            Space::Broken(fault) => {
                let first = Damage { page: 0, offset: 0, fault: *fault };
                return Findings { damaged: 1, first: Some(first), ..findings };
            }
        };
        let size = tablespace.page_size();
        each_page(size, len, runs, data, |at, page| {
            let at = offset + at;
            if elsewhere.iter().any(|copies| copies.contains(&at)) {
                return;
            }
            let Some(page) = page else {
                findings.unknown += 1;
                return;
            };
            let place = at / size as u64;
            let number = numbered.then(|| u32::try_from(place).unwrap_or(u32::MAX));
            match tablespace.examine(number, page) {
                Ok(Page::Good) => findings.good += 1,
                Ok(Page::Unknown) => findings.unknown += 1,
                Ok(Page::Empty) => {}
                Err(_) if tablespace.is_free(place, &mut read) => findings.free += 1,
                Err(fault) => {
                    findings.damaged += 1;
                    findings.first.get_or_insert(Damage { page: place, offset: at, fault });
                }
            }
        });
        findings
    }
}

/// Calls `visit` for each page with data: its place in the chunk, and the page, or `None` if the file ends in it.
fn each_page(size: usize, len: u64, runs: &[(u64, u64)], data: &[u8], mut visit: impl FnMut(u64, Option<&[u8]>)) {
    let step = size as u64;
    let mut visit = |start: u64, page: &[u8]| visit(start, (start + step <= len).then_some(page));
    // A page in several runs, or only partly in one.
    let mut gathered: Option<(u64, Vec<u8>)> = None;
    let mut rest = data;
    for &(start, run) in runs {
        let (mut at, end) = (start, start + run);
        while at < end {
            let page = at - at % step;
            if let Some((other, bytes)) = gathered.take_if(|(other, _)| *other != page) {
                visit(other, &bytes);
            }
            let now = (page + step).min(end) - at;
            let (bytes, later) = rest.split_at(rest.len().min(now as usize));
            if bytes.len() == size {
                visit(page, bytes);
            } else {
                let (_, whole) = gathered.get_or_insert_with(|| (page, vec![0; size]));
                let from = (at - page) as usize;
                if let Some(into) = whole.get_mut(from..from + bytes.len()) {
                    into.copy_from_slice(bytes);
                }
            }
            (at, rest) = (at + now, later);
        }
    }
    if let Some((page, bytes)) = gathered {
        visit(page, &bytes);
    }
}

/// The page of the system tablespace that says where the doublewrite buffer is (`trx0sys.h`).
const TRX_SYS: u64 = 5;

/// The two blocks of the doublewrite buffer, as byte ranges; none if it was never created.
fn doublewrite(page: &[u8]) -> Vec<Range<u64>> {
    const MAGIC: u32 = 536_853_855;
    /// `FSP_EXTENT_SIZE`: 1 MiB, or 64 pages if that is more.
    const EXTENT: (u64, u64) = (1 << 20, 64);
    let size = page.len() as u64;
    let place = page.len().saturating_sub(200);
    if be32(page, place + 10) != MAGIC {
        return Vec::new();
    }
    let block = |at| {
        let start = u64::from(be32(page, place + at)) * size;
        start..start + EXTENT.0.max(EXTENT.1 * size)
    };
    vec![block(14), block(18)]
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(text: &str) -> RelPath {
        RelPath::parse(text.as_bytes()).unwrap()
    }

    #[test]
    fn tablespaces_are_known_by_name() {
        for (name, one) in [
            ("datadir/shop/orders.ibd", true),
            ("datadir/shop/t#P#p0.ibd", true),
            ("external-1/shop/t.ibd", true),
            ("innodb-data/ibdata1", true),
            ("innodb-data-2/more", true),
            ("innodb-undo/undo001", true),
            ("innodb-log/ib_logfile0", false),
            ("datadir/shop/t.MYD", false),
            ("datadir/shop/t.ibd.bak", false),
            ("binlog/binlog.000001", false),
        ] {
            assert_eq!(is_tablespace(&path(name)), one, "{name}");
        }
    }

    #[test]
    fn pages_are_put_together_from_runs() {
        let data: Vec<u8> = (0..48 << 10).map(|n| (n >> 10) as u8 + 1).collect();
        let seen = |len: u64, runs: &[(u64, u64)]| {
            let mut seen = Vec::new();
            let bytes = runs.iter().map(|(_, len)| *len as usize).sum();
            each_page(16 << 10, len, runs, &data[..bytes], |at, page| {
                let zeros = page.map(|page| page.iter().filter(|&&byte| byte == 0).count());
                seen.push((at >> 10, zeros));
            });
            seen
        };
        let k = |n: u64| n << 10;
        assert_eq!(seen(k(48), &[(0, k(48))]), [(0, Some(0)), (16, Some(0)), (32, Some(0))]);
        assert_eq!(seen(k(64), &[(k(16), k(16))]), [(16, Some(0))]);
        // As page compression leaves them: each page its own hole.
        assert_eq!(seen(k(64), &[(0, k(4)), (k(16), k(8))]), [(0, Some(12 << 10)), (16, Some(8 << 10))]);
        assert_eq!(
            seen(k(64), &[(k(4), k(4)), (k(12), k(24))]),
            [(0, Some(8 << 10)), (16, Some(0)), (32, Some(12 << 10))]
        );
        assert_eq!(seen(k(20), &[(0, k(20))]), [(0, Some(0)), (16, None)]);
        assert_eq!(seen(k(20), &[]), []);
    }

    #[test]
    fn the_doublewrite_buffer_is_where_it_is_said_to_be() {
        let mut page = vec![0; 16 << 10];
        assert_eq!(doublewrite(&page), []);
        let place = page.len() - 200;
        for (at, number) in [(10, 536_853_855u32), (14, 64), (18, 128)] {
            page[place + at..place + at + 4].copy_from_slice(&number.to_be_bytes());
        }
        assert_eq!(doublewrite(&page), [1 << 20..2 << 20, 2 << 20..3 << 20]);
        let mut large = vec![0; 64 << 10];
        let end = large.len() - 200;
        large[end..].copy_from_slice(&page[place..]);
        assert_eq!(doublewrite(&large)[0], 4 << 20..8 << 20);
    }

    #[test]
    fn a_file_whose_first_page_tells_nothing() {
        assert_eq!(Space::of_table(&[0; 64]), Space::Unknown);
        let mut written_later = vec![0; LARGEST];
        written_later[40 << 10..].fill(7);
        assert_eq!(Space::of_table(&written_later), Space::Unknown);
        assert_eq!(Space::of_table(&[0xff; 64]), Space::Broken(Fault::Header));
        let found = |space: Space| space.examine((0, 1 << 20), &[(0, 4096)], &[1; 4096], |_, _| false);
        assert_eq!(found(Space::Unknown).unknown, 1);
        assert_eq!(Space::Unknown.examine((0, 0), &[], &[], |_, _| false).unknown, 1, "it has lost everything");
        let broken = found(Space::Broken(Fault::Header));
        assert_eq!(broken.first, Some(Damage { page: 0, offset: 0, fault: Fault::Header }));
    }
}
