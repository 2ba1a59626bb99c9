//! Reading and writing past the page cache (open(2), `O_DIRECT`).
//!
//! InnoDB keeps its pages itself and opens its files this way too, so a copy of them in the kernel's cache
//! serves nobody. It costs a copy of every byte, memory that the host has to find, and a long sync at
//! the end. Small pieces are better off in the cache, where the kernel gathers them.

use std::cell::RefCell;
use std::fs::File;
use std::io;
use std::ops::{Deref, DerefMut};
use std::os::fd::AsRawFd;
use std::os::unix::fs::FileExt;

use aligned_vec::{AVec, ConstAlign};
use rustix::fs::{AtFlags, Mode, OFlags, StatxFlags, open, statx};

/// Where memory, offset and length begin when nobody says less; enough for every device.
const PAGE: usize = 4096;

/// Pieces of fewer bytes go through the page cache.
const SMALLEST: usize = 128 << 10;

/// Bytes that begin at a page, so that they can go to a device as they are.
#[derive(Debug)]
pub struct Pages(AVec<u8, ConstAlign<PAGE>>);

impl Default for Pages {
    fn default() -> Pages {
        // The alignment is the type's; the argument is for vectors that choose theirs.
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

/// An open file once more, past the page cache.
#[derive(Debug)]
pub struct Direct {
    file: File,
    /// Offsets and lengths are multiples of this.
    offsets: usize,
    /// Addresses are multiples of this.
    memory: usize,
}

thread_local! {
    /// For bytes that begin elsewhere than the device wants.
    static BOUNCE: RefCell<Pages> = RefCell::default();
}

impl Direct {
    /// None where the filesystem cannot: then everything goes through the cache.
    pub fn reading(file: &File) -> Option<Direct> {
        Direct::reopen(file, OFlags::RDONLY)
    }

    /// See [`Direct::reading`].
    pub fn writing(file: &File) -> Option<Direct> {
        Direct::reopen(file, OFlags::WRONLY)
    }

    fn reopen(file: &File, access: OFlags) -> Option<Direct> {
        // By its descriptor, so that it is the same file whatever its name is by now.
        let again = format!("/proc/self/fd/{}", file.as_raw_fd());
        let file = File::from(open(again, access | OFlags::DIRECT | OFlags::CLOEXEC, Mode::empty()).ok()?);
        // Kernels before 6.1 do not tell (statx(2), STATX_DIOALIGN).
        let (offsets, memory) = match statx(&file, "", AtFlags::EMPTY_PATH, StatxFlags::DIOALIGN) {
            Ok(told) if told.stx_mask & StatxFlags::DIOALIGN.bits() != 0 => {
                (told.stx_dio_offset_align as usize, told.stx_dio_mem_align as usize)
            }
            _ => (PAGE, PAGE),
        };
        let possible = |align: usize| align.is_power_of_two() && align <= PAGE;
        (possible(offsets) && possible(memory)).then_some(Direct { file, offsets, memory })
    }

    /// May these bytes of the file go past the cache?
    pub fn takes(&self, offset: u64, len: usize) -> bool {
        len >= SMALLEST && len.is_multiple_of(self.offsets) && offset.is_multiple_of(self.offsets as u64)
    }

    /// Fills `bytes` from `offset`. False when it could not, for a reason that does not concern the cache:
    /// the file ends before, or the device wants something else.
    pub fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<bool> {
        self.through(bytes, |bytes| self.file.read_at(bytes, offset))
    }

    /// Writes `bytes` at `offset`. False when they are not all written and have to go through the cache.
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

    fn through(&self, bytes: &mut [u8], read: impl Fn(&mut [u8]) -> io::Result<usize>) -> io::Result<bool> {
        if self.suits(bytes) {
            let len = bytes.len();
            return all(read(bytes), len);
        }
        BOUNCE.with_borrow_mut(|bounce| {
            bounce.resize(bytes.len(), 0);
            let done = all(read(bounce), bytes.len())?;
            bytes.copy_from_slice(bounce);
            Ok(done)
        })
    }

    fn suits(&self, bytes: &[u8]) -> bool {
        bytes.as_ptr().addr().is_multiple_of(self.memory)
    }
}

fn all(moved: io::Result<usize>, len: usize) -> io::Result<bool> {
    match moved {
        Ok(count) => Ok(count == len),
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::Interrupted) => Ok(false),
        Err(error) if error.kind() == io::ErrorKind::Unsupported => Ok(false),
        Err(error) => Err(error),
    }
}
