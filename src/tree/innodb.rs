//! What InnoDB's own files say about themselves: the header of the redo log, and the first page of the system
//! tablespace.
//!
//! Offsets and values: `log0log.h`, `log0recv.cc`, `fsp0fsp.h`, `fsp0types.h` of `storage/innobase`; checked against
//! redo logs of 10.5.23 and 10.11.19.

use std::collections::BTreeSet;
use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::path::RootName;
use super::roots::{Roots, Scope};
use crate::version::Series;

/// What only the files say, and a server that starts on them must be able to handle.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct InnodbFiles {
    /// `None` if there is no readable redo log.
    pub redo: Option<RedoLog>,
    /// Of the system tablespace, in bytes; `None` if there is no readable one.
    pub page_size: Option<u32>,
}

impl InnodbFiles {
    /// Of the server whose directories are `roots`; it may be running.
    pub fn of(roots: &Roots) -> InnodbFiles {
        let open = |root: &str, name: &str| File::open(roots.get(root)?.path.join(name)).ok();
        let read = |file: &File, at: u64, length: usize| {
            let mut bytes = vec![0; length];
            file.read_exact_at(&mut bytes, at).ok().map(|()| bytes)
        };
        let redo = open(RootName::INNODB_LOG, "ib_logfile0");
        let redo = redo.and_then(|file| RedoLog::parse(|at, length| read(&file, at, length)));
        let first = open(RootName::INNODB_DATA, &first_data_file(roots));
        let page_size = first.and_then(|file| page_size(&read(&file, 0, FIRST_PAGE)?));
        InnodbFiles { redo, page_size }
    }
}

/// The first file of the system tablespace, where it must be.
pub fn system_tablespace(roots: &Roots) -> Option<PathBuf> {
    Some(roots.get(RootName::INNODB_DATA)?.path.join(first_data_file(roots)))
}

/// The name of the system tablespace's first file here.
fn first_data_file(roots: &Roots) -> String {
    match roots.get(RootName::INNODB_DATA).map(|root| &root.scope) {
        Some(Scope::Names(names)) => names.first().map(|name| name.replace('#', "1")),
        _ => None,
    }
    .unwrap_or_else(|| "ibdata1".to_owned())
}

/// The header of `ib_logfile0`.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct RedoLog {
    /// `log_t::format`, with its bit for an encrypted log.
    pub format: u32,
    /// The server that made the file, `MariaDB 10.11.19`, which may be older or newer than today's.
    pub creator: String,
    /// Known to contain nothing after its last checkpoint, as after a clean shutdown. Determined only for logs older
    /// than 10.8, where newer servers depend on it.
    pub empty: bool,
}

/// `log_t::FORMAT_10_8`: `Phys`.
const V10_8: u32 = 0x5068_7973;
/// `log_t::FORMAT_10_5`: `PHYS`.
const V10_5: u32 = 0x5048_5953;
/// `log_t::FORMAT_10_2` to `FORMAT_10_4`.
const BEFORE: [u32; 3] = [1, 103, 104];
/// `log_t::FORMAT_ENCRYPTED`.
const ENCRYPTED: u32 = 1 << 31;

/// What a server does with a redo log that is not its own.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recovery {
    Possible,
    /// Older than the server's own format, and not known to be empty: *Upgrade after a crash is not supported*.
    FormatTooOld,
    /// Newer than the server knows: *Unsupported redo log format*.
    FormatTooNew,
    /// None of MariaDB's formats since 10.2.
    FormatUnknown,
}

impl RedoLog {
    /// `read` returns that many bytes at that offset of the file, or `None`.
    fn parse(mut read: impl FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<RedoLog> {
        const CREATOR: std::ops::Range<usize> = 16..48;
        let header = read(0, CREATOR.end)?;
        let format = u32::try_from(number(&header, 0, 4)?).ok()?;
        let creator = header.get(CREATOR)?.split(|&b| b == 0).next()?;
        let creator: String =
            creator.iter().filter(|b| b.is_ascii_graphic() || **b == b' ').map(|&b| char::from(b)).collect();
        let older = BEFORE.contains(&(format & !ENCRYPTED)) || format & !ENCRYPTED == V10_5;
        let empty = older && is_empty(&mut read).unwrap_or(false);
        Some(RedoLog { format, creator, empty })
    }

    pub fn is_encrypted(&self) -> bool {
        self.format & ENCRYPTED != 0
    }

    /// The version of the server that made the file.
    pub fn creator_version(&self) -> Option<&str> {
        // A prepared backup says `Backup`.
        let version = self.creator.strip_prefix("MariaDB ").or_else(|| self.creator.strip_prefix("Backup "))?;
        Series::of(version).map(|_| version)
    }

    /// The series that write this format.
    pub fn written_by(&self) -> Option<&'static str> {
        match self.format & !ENCRYPTED {
            V10_8 => Some("10.8 and later"),
            V10_5 => Some("10.5 to 10.7"),
            format if BEFORE.contains(&format) => Some("10.4 and earlier"),
            _ => None,
        }
    }

    /// What a server of `series` does with it (`recv_sys_t::find_checkpoint`, `log0recv.cc`): it recovers its own
    /// format whatever is in the log, an older one only if the log is empty.
    pub fn recovery(&self, series: Series) -> Recovery {
        let (first, last) = match self.format & !ENCRYPTED {
            V10_8 => (Series::new(10, 8), Series::new(u32::MAX, 0)),
            V10_5 => (Series::new(10, 5), Series::new(10, 7)),
            format if BEFORE.contains(&format) => (Series::new(10, 2), Series::new(10, 4)),
            _ => return Recovery::FormatUnknown,
        };
        if series < first {
            Recovery::FormatTooNew
        } else if series > last && !self.empty {
            Recovery::FormatTooOld
        } else {
            Recovery::Possible
        }
    }
}

/// Whether a log older than 10.8 ends at its checkpoint (`recv_log_recover_10_5`): the checkpoint's block is filled up
/// to it and no further.
fn is_empty(read: &mut impl FnMut(u64, usize) -> Option<Vec<u8>>) -> Option<bool> {
    const BLOCK: u64 = 512;
    const CHECKPOINTS: [u64; 2] = [BLOCK, 3 * BLOCK];
    const FIRST: u64 = 4 * BLOCK;
    let mut newest = (0, 0);
    for place in CHECKPOINTS {
        let checkpoint = read(place, 24)?;
        newest = newest.max((number(&checkpoint, 0, 8)?, number(&checkpoint, 16, 8)?));
    }
    let offset = newest.1;
    if offset < FIRST {
        return None;
    }
    let used = number(&read(offset - offset % BLOCK, 6)?, 4, 2)?;
    Some(used == offset % BLOCK)
}

/// Bytes of the first page to read.
const FIRST_PAGE: usize = 58;

/// The page size, in bytes, of a system tablespace that begins with `page`.
fn page_size(page: &[u8]) -> Option<u32> {
    /// `FIL_PAGE_TYPE_FSP_HDR`.
    const FSP_HEADER: u64 = 8;
    let flags = number(page, 54, 4)?;
    if number(page, 24, 2)? != FSP_HEADER || number(page, 38, 4)? != 0 {
        return None;
    }
    // `fil_space_t::full_crc32`: a marker, in a place where other tablespaces have part of a size they never have.
    let shift = if flags & 0x10 != 0 { flags & 0xf } else { flags >> 6 & 0xf };
    match shift {
        0 if flags & 0x10 == 0 => Some(16 * 1024),
        3..=7 => Some(512 << shift),
        _ => None,
    }
}

/// The big-endian number of `length` bytes (at most 8) at `at`.
fn number(bytes: &[u8], at: usize, length: usize) -> Option<u64> {
    let bytes = bytes.get(at..at.checked_add(length)?)?;
    Some(bytes.iter().fold(0, |number, &byte| number << 8 | u64::from(byte)))
}

/// How many undo tablespaces have rollback segments, as the page `TRX_SYS` of the system tablespace says
/// (`trx0sys.h`: 128 slots of space and page from byte 56 on). That page is never encrypted.
///
/// `None` if the file is not InnoDB's or cannot be read.
pub(super) fn undo_tablespaces(system: &Path) -> Option<usize> {
    const TRX_SYS: (u64, u64) = (5, 7);
    const SLOTS: (usize, usize) = (56, 128);
    let file = File::open(system).ok()?;
    let mut first = [0; FIRST_PAGE];
    file.read_exact_at(&mut first, 0).ok()?;
    let mut page = [0; SLOTS.0 + SLOTS.1 * 8];
    file.read_exact_at(&mut page, TRX_SYS.0 * u64::from(page_size(&first)?)).ok()?;
    if number(&page, 24, 2)? != TRX_SYS.1 {
        return None;
    }
    let slots = (0..SLOTS.1).map(|slot| SLOTS.0 + slot * 8);
    let spaces = slots.filter_map(|at| Some((number(&page, at, 4)?, number(&page, at + 4, 4)?)));
    let used: BTreeSet<u64> =
        spaces.filter(|(space, page)| *space != 0 && *page != u64::from(u32::MAX)).map(|(space, _)| space).collect();
    Some(used.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(file: &[u8]) -> Option<RedoLog> {
        RedoLog::parse(|at, length| {
            let at = usize::try_from(at).ok()?;
            file.get(at..at.checked_add(length)?).map(<[u8]>::to_vec)
        })
    }

    /// The parts of an `ib_logfile0` that are read: creator, and the two checkpoints as number and place; `used` is
    /// what the block at the newer one holds.
    fn log(format: u32, creator: &str, checkpoints: [(u64, u64); 2], used: u16) -> Vec<u8> {
        let mut file = vec![0; 64 * 512];
        file[..4].copy_from_slice(&format.to_be_bytes());
        file[16..16 + creator.len()].copy_from_slice(creator.as_bytes());
        for ((number, place), at) in checkpoints.into_iter().zip([512, 1536]) {
            file[at..at + 8].copy_from_slice(&number.to_be_bytes());
            file[at + 16..at + 24].copy_from_slice(&place.to_be_bytes());
            let block = (place / 512 * 512) as usize;
            if number == checkpoints.iter().map(|c| c.0).max().unwrap() && block + 6 < file.len() {
                file[block + 4..block + 6].copy_from_slice(&used.to_be_bytes());
            }
        }
        file
    }

    #[test]
    fn which_log_a_server_recovers() {
        use Recovery::*;
        // The places are those that 10.5.23 wrote when it was stopped, and while it ran.
        let stopped = log(V10_5, "MariaDB 10.5.23", [(1, 2060), (2, 5810)], 178);
        let running = log(V10_5, "MariaDB 10.5.23", [(1, 2060), (0, 0)], 512);
        let killed = log(V10_5 | ENCRYPTED, "MariaDB 10.5.23", [(0, 0), (0, 0)], 0);
        let today = log(V10_8, "MariaDB 10.11.19", [(9, 9), (9, 9)], 0);
        let old = log(104, "MariaDB 10.4.1", [(1, 2060), (2, 5810)], 512);
        let mysql = log(6, "MySQL 8.0.33", [(0, 0), (0, 0)], 0);
        let (v10_4, v10_6, v10_11) = (Series::new(10, 4), Series::new(10, 6), Series::new(10, 11));
        for (file, series, recovery) in [
            (&stopped, v10_11, Possible),
            (&running, v10_11, FormatTooOld),
            (&killed, v10_11, FormatTooOld),
            (&killed, v10_6, Possible),
            (&stopped, v10_4, FormatTooNew),
            (&today, v10_11, Possible),
            (&today, Series::new(12, 3), Possible),
            (&today, v10_6, FormatTooNew),
            (&old, v10_6, FormatTooOld),
            (&old, v10_4, Possible),
            (&mysql, Series::new(8, 0), FormatUnknown),
        ] {
            let log = parse(file).unwrap();
            assert_eq!(log.recovery(series), recovery, "{} {series}", log.creator);
        }
        assert!(parse(&killed).unwrap().is_encrypted());
        assert_eq!(parse(&stopped).unwrap().creator_version(), Some("10.5.23"));
        assert_eq!(parse(&mysql).unwrap().creator_version(), None);
        assert_eq!(parse(&stopped[..47]), None);
    }

    #[test]
    fn page_sizes() {
        let page = |flags: u32| {
            let mut page = vec![0; FIRST_PAGE];
            page[25] = 8;
            page[54..].copy_from_slice(&flags.to_be_bytes());
            page
        };
        // Full CRC-32, as 10.5 and later make it; then the older form, where 16 KiB is zero.
        for (flags, size) in [
            (0x15, Some(16384)),
            (0x13, Some(4096)),
            (0x17, Some(65536)),
            (0x18, None),
            (0, Some(16384)),
            (0x21, Some(16384)),
            (3 << 6, Some(4096)),
            (6 << 6, Some(32768)),
            (1 << 6, None),
        ] {
            assert_eq!(page_size(&page(flags)), size, "{flags:x}");
        }
        let other = [&[0; 24], [0u8, 5].as_slice(), &[0; 32]].concat();
        assert_eq!(page_size(&other), None, "not the first page of a tablespace");
    }

    proptest::proptest! {
        #[test]
        fn any_bytes_are_some_log_or_none(
            format in proptest::sample::select(vec![V10_5, V10_8, 104, 1 | ENCRYPTED, 7]),
            mut file in proptest::collection::vec(proptest::prelude::any::<u8>(), 0..2100),
        ) {
            if let Some(start) = file.first_chunk_mut() {
                *start = format.to_be_bytes();
            }
            if let Some(log) = parse(&file) {
                proptest::prop_assert!(log.creator.len() <= 32 && log.creator.bytes().all(|b| b == b' ' || b.is_ascii_graphic()));
            }
            page_size(&file);
        }
    }
}
