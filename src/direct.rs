//! Reading and writing past the page cache (open(2), `O_DIRECT`).
//!
//! InnoDB caches its pages itself and opens its files this way too, so having them in the kernel's cache helps nobody.
//! It costs a copy of every byte, memory, and a long sync at the end. Small pieces are better off in the cache, where
//! the kernel gathers them.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use aligned_vec::{AVec, ConstAlign};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, open, statx};

/// The default alignment, in bytes, of memory, offset and length; enough for every device.
pub const PAGE: usize = 4096;

/// Bytes. Smaller pieces go through the page cache.
const SMALLEST: usize = 128 << 10;

/// Page-aligned bytes, which can go to a device without a copy.
#[derive(Debug)]
pub struct Pages(AVec<u8, ConstAlign<PAGE>>);

impl Default for Pages {
    fn default() -> Pages {
        // The type fixes the alignment; the argument is for vectors that choose it at run time.
        Pages(AVec::new(0))
    }
}

impl From<&[u8]> for Pages {
    fn from(bytes: &[u8]) -> Pages {
        Pages(AVec::from_slice(0, bytes))
    }
}

impl Deref for Pages {
    type Target = AVec<u8, ConstAlign<PAGE>>;

    fn deref(&self) -> &Self::Target {
        &self.0
    }
}

impl DerefMut for Pages {
    fn deref_mut(&mut self) -> &mut Self::Target {
        &mut self.0
    }
}

/// A second descriptor of an open file, past the page cache.
#[derive(Debug)]
pub struct Direct {
    file: File,
    /// Addresses must be multiples of this.
    memory: usize,
}

thread_local! {
    /// For bytes that are not aligned as the device requires.
    static BOUNCE: RefCell<Pages> = RefCell::default();
}

impl Direct {
    /// `None` if the filesystem does not support it: then everything goes through the cache.
    pub fn reading(file: &File) -> Option<Direct> {
        // Only the owner may leave the access time alone (open(2)).
        Direct::reopen(file, OFlags::RDONLY | OFlags::NOATIME).or_else(|| Direct::reopen(file, OFlags::RDONLY))
    }

    /// See [`Direct::reading`].
    pub fn writing(file: &File) -> Option<Direct> {
        Direct::reopen(file, OFlags::WRONLY)
    }

    fn reopen(file: &File, access: OFlags) -> Option<Direct> {
        // Through the descriptor, so that it is the same file whatever its name is by now.
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = File::from(open(again, access | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).ok()?);
        // Kernels before 6.1 do not say (statx(2), STATX_DIOALIGN).
        let (offsets, memory) = match statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
            Ok(told) if told.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
                (told.stx_dio_offset_align as usize, told.stx_dio_mem_align as usize)
            }
            _ => (PAGE, PAGE),
        };
        let possible = |align: usize| align.is_power_of_two() && align <= PAGE;
        (possible(offsets) && possible(memory)).then_some(Direct { file, memory })
    }

    /// Whether these bytes of the file may go past the cache. Only whole pages, even if the device allows less: a page
    /// must never go both ways.
    pub fn takes(&self, offset: u64, len: usize) -> bool {
        len >= SMALLEST && len.is_multiple_of(PAGE) && offset.is_multiple_of(PAGE as u64)
    }

    /// Fills `bytes` from `offset`. False if the file ends earlier or the device requires something else: then use the
    /// cache, which will say why.
    pub fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<bool> {
        let len = bytes.len();
        if self.suits(bytes) {
            return all(self.file.read_at(bytes, offset), len);
        }
        BOUNCE.with_borrow_mut(|bounce| {
            bounce.resize(len, 0);
            let done = all(self.file.read_at(bounce, offset), len)?;
            bytes.copy_from_slice(bounce);
            Ok(done)
        })
    }

    /// Writes `bytes` at `offset`. False if they are not all written and must go through the cache.
    pub fn write(&self, bytes: &[u8], offset: u64) -> io::Result<bool> {
        if self.suits(bytes) {
            return all(self.file.write_at(bytes, offset), bytes.len());
        }
        BOUNCE.with_borrow_mut(|bounce| {
            bounce.clear();
            bounce.extend_from_slice(bytes);
            all(self.file.write_at(bounce, offset), bytes.len())
        })
    }

    fn suits(&self, bytes: &[u8]) -> bool {
        bytes.as_ptr().addr().is_multiple_of(self.memory)
    }
}

fn all(moved: io::Result<usize>, len: usize) -> io::Result<bool> {
    match moved {
        Ok(count) => Ok(count == len),
        Err(error) => match error.kind() {
            io::ErrorKind::InvalidInput | io::ErrorKind::Interrupted | io::ErrorKind::Unsupported => Ok(false),
            _ => Err(error),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A file with `len` bytes that differ from place to place, beside the build's other files: a filesystem in
    /// memory would not show much.
    fn scratch(len: usize) -> (File, Vec<u8>) {
        let bytes: Vec<u8> = (0..len as u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        let file = tempfile::tempfile_in(env!("CARGO_MANIFEST_DIR")).unwrap();
        file.write_all_at(&bytes, 0).unwrap();
        (file, bytes)
    }

    #[test]
    fn what_is_read_and_written_wherever_it_lies_in_memory() {
        const LEN: usize = 256 << 10;
        let (file, bytes) = scratch(4 * LEN);
        let (reading, writing) = (Direct::reading(&file).unwrap(), Direct::writing(&file).unwrap());
        for begin in [0, 512, 1] {
            let mut memory = Pages::default();
            memory.resize(begin + LEN, 0);
            assert!(reading.read(&mut memory[begin..], LEN as u64).unwrap());
            assert_eq!(&memory[begin..], &bytes[LEN..2 * LEN]);
            assert!(writing.write(&memory[begin..], 2 * LEN as u64).unwrap());
            let mut back = vec![0; LEN];
            file.read_exact_at(&mut back, 2 * LEN as u64).unwrap();
            assert_eq!(back, &bytes[LEN..2 * LEN]);
            file.write_all_at(&bytes[2 * LEN..3 * LEN], 2 * LEN as u64).unwrap();
        }
    }

    #[test]
    fn a_file_that_ends_before_is_left_to_the_cache() {
        let (file, bytes) = scratch(SMALLEST + 5);
        let mut memory = Pages::default();
        memory.resize(2 * SMALLEST, 0);
        assert!(!Direct::reading(&file).unwrap().read(&mut memory, 0).unwrap());
        assert_eq!(file.metadata().unwrap().len(), bytes.len() as u64);
    }

    #[test]
    fn small_and_odd_pieces_are_left_to_the_cache() {
        let direct = Direct { file: tempfile::tempfile().unwrap(), memory: 512 };
        let cases = [
            (0, SMALLEST, true),
            (4096, SMALLEST + 4096, true),
            (0, SMALLEST - 4096, false),
            (512, SMALLEST, false),
            (0, SMALLEST + 512, false),
        ];
        for (offset, len, taken) in cases {
            assert_eq!(direct.takes(offset, len), taken, "{offset} {len}");
        }
    }

    #[test]
    fn only_the_devices_own_wishes_lead_back_to_the_cache() {
        let error = |code| Err(io::Error::from_raw_os_error(code));
        for back in [rustix::io::Errno::INVAL, rustix::io::Errno::OPNOTSUPP, rustix::io::Errno::INTR] {
            assert!(!all(error(back.raw_os_error()), 1).unwrap());
        }
        for fatal in [rustix::io::Errno::IO, rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT] {
            let error = all(error(fatal.raw_os_error()), 1).unwrap_err();
            assert_eq!(error.raw_os_error(), Some(fatal.raw_os_error()));
        }
    }

    #[test]
    fn buffers_begin_at_a_page() {
        let used = Pages::from([1, 2, 3].as_slice());
        assert_eq!((used.as_ptr().addr() % PAGE, used.as_slice()), (0, [1, 2, 3].as_slice()));
    }
}
