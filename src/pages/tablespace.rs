//! What the first page of a tablespace says about all its pages, and the check of one page against that.

use super::checksum::{Says, at_both_ends, full_crc32, of_compressed_row};
use super::{be16, be32};

/// The largest page, in bytes (`UNIV_PAGE_SIZE_MAX`).
pub const LARGEST: usize = 64 << 10;

/// Offsets in a page (`fil0fil.h`), and in the first one (`fsp0fsp.h`).
const NUMBER: usize = 4;
const KIND: usize = 24;
const SPACE: usize = 34;
const OWN_SPACE: usize = 38;
const PAGES: usize = 46;
const FLAGS: usize = 54;
/// Page types of compressed pages (`PAGE_COMPRESSED=1`) before full_crc32: they have no checksum.
const PACKED: [u16; 2] = [34354, 37401];

/// How the pages of a tablespace are checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tablespace {
    form: Form,
    /// Size of a page in the file, in bytes: 1 to 64 KiB.
    page: u32,
    /// Size of a page in memory, on which extents are based.
    logical: u32,
    space: u32,
    /// How many there are at least.
    pages: u32,
    /// Pages may be compressed.
    packs: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    FullCrc32,
    BothEnds,
    CompressedRows,
}

/// A page that has nothing wrong with it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Page {
    /// It was never written.
    Empty,
    Good,
    /// There was no checksum to check.
    Unknown,
}

/// What is wrong with a page.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Fault {
    #[error("its checksum is wrong")]
    Checksum,
    #[error("it is page {0} of a tablespace, in the place of another page")]
    Number(u32),
    #[error("it is a page of tablespace {0}, in another tablespace's file")]
    Space(u32),
    #[error("its page size does not exist")]
    Header,
    #[error("it says that its file has {0} pages, and the file is shorter")]
    Short(u32),
}

impl Tablespace {
    /// How much of the first page is needed, in bytes.
    pub const HEADER: usize = 58;

    /// From the beginning of its first page: the flags there (`fsp0types.h`).
    pub fn of(first: &[u8]) -> Result<Tablespace, Fault> {
        let flags = be32(first, FLAGS);
        let size = |shift: u32| if (1..=7).contains(&shift) { Ok(512u32 << shift) } else { Err(Fault::Header) };
        let (space, pages) = (be32(first, OWN_SPACE), be32(first, PAGES));
        // In other formats, the marker of full_crc32 is part of a size that never occurs.
        if flags & 0x10 != 0 {
            let page = size(flags & 0xf)?;
            return if page < 4096 {
                Err(Fault::Header)
            } else {
                Ok(Tablespace { form: Form::FullCrc32, page, logical: page, space, pages, packs: true })
            };
        }
        let logical = match flags >> 6 & 0xf {
            0 => 16 << 10,
            shift => size(shift)?,
        };
        let (form, page) = match flags >> 1 & 0xf {
            0 => (Form::BothEnds, logical),
            shift => (Form::CompressedRows, size(shift)?),
        };
        if logical < 4096 || page > logical {
            return Err(Fault::Header);
        }
        Ok(Tablespace { form, page, logical, space, pages, packs: flags & 1 << 16 != 0 })
    }

    /// Bytes of a page in the file.
    pub fn page_size(&self) -> usize {
        self.page as usize
    }

    /// Whether a file of `length` bytes has all its pages: a server makes the file longer before it says so on the first page
    /// (`FSP_SIZE`, `fsp0fsp.h`).
    pub fn fits(&self, length: u64) -> Result<(), Fault> {
        let needed = u64::from(self.pages).saturating_mul(self.page.into());
        if needed > length { Err(Fault::Short(self.pages)) } else { Ok(()) }
    }

    /// Examines one page, of that many bytes; `number` is its place in the file, if the tablespace is a single file.
    pub fn examine(&self, number: Option<u32>, page: &[u8]) -> Result<Page, Fault> {
        if is_empty(page) {
            return Ok(Page::Empty);
        }
        let says = match self.form {
            Form::FullCrc32 => full_crc32(page),
            Form::BothEnds if self.packs && PACKED.contains(&be16(page, KIND)) => Says::Nothing,
            Form::BothEnds => at_both_ends(page),
            Form::CompressedRows => of_compressed_row(page),
        };
        let page_is = match says {
            Says::Wrong => return Err(Fault::Checksum),
            Says::Right => Page::Good,
            Says::Nothing => Page::Unknown,
        };
        let Some(number) = number else { return Ok(page_is) };
        match (be32(page, NUMBER), be32(page, SPACE)) {
            (other, _) if other != number => Err(Fault::Number(other)),
            // In full_crc32 the checksum covers it, and it may be encrypted.
            (_, other) if self.form == Form::BothEnds && other != self.space => Err(Fault::Space(other)),
            _ => Ok(page_is),
        }
    }

    /// Whether a page is known to be free, from its extent's descriptor (`fsp0fsp.h`), which is never encrypted. Pages are
    /// counted from the beginning of the file; `read` fills bytes from an offset in it.
    pub fn is_free(&self, page: u64, read: &mut impl FnMut(u64, &mut [u8]) -> bool) -> bool {
        /// Where descriptors begin, and where the bitmap is in one: two bits a page, of which the first means free.
        const DESCRIPTORS: (u64, u64) = (150, 24);
        /// Where the first page says beyond which page no descriptor is in use.
        const LIMIT: usize = 50;
        let size = u64::from(self.page);
        let extent = (1 << 20) / u64::from(self.logical);
        let extent = extent.max(64);
        let (of, within) = (page - page % size, page % size);
        // The first pages of each stretch are the descriptors themselves.
        if within < 2 {
            return false;
        }
        let mut descriptors = vec![0; self.page_size()];
        let number = u32::try_from(of).unwrap_or(u32::MAX);
        let mut whole = |at: u64, number, into: &mut [u8]| {
            read(at * size, into) && self.examine(Some(number), into) == Ok(Page::Good)
        };
        if !whole(0, 0, &mut descriptors) {
            return false;
        }
        if page >= u64::from(be32(&descriptors, LIMIT)) {
            return true;
        }
        if of > 0 && !whole(of, number, &mut descriptors) {
            return false;
        }
        let one = DESCRIPTORS.1 + extent / 4;
        let at = DESCRIPTORS.0 + within / extent * one + DESCRIPTORS.1 + within % extent / 4;
        let byte = usize::try_from(at).ok().and_then(|at| descriptors.get(at)).copied().unwrap_or_default();
        byte >> (within % 4 * 2) & 1 == 1
    }
}

/// A page that was never written. Bytes where early releases had an LSN, and only there, do not count.
fn is_empty(page: &[u8]) -> bool {
    const LSN_OF_FLUSH: std::ops::Range<usize> = 26..34;
    let zero = |range: std::ops::Range<usize>| page.get(range).unwrap_or_default().iter().all(|&byte| byte == 0);
    zero(0..LSN_OF_FLUSH.start) && zero(LSN_OF_FLUSH.end..page.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn first(flags: u32) -> Vec<u8> {
        let mut page = vec![0; Tablespace::HEADER];
        page[FLAGS..].copy_from_slice(&flags.to_be_bytes());
        page
    }

    #[test]
    fn flags_tell_form_and_page_size() {
        for (flags, form, page) in [
            (0x15, Form::FullCrc32, 16 << 10),
            (0x13, Form::FullCrc32, 4 << 10),
            (0x17, Form::FullCrc32, 64 << 10),
            (0, Form::BothEnds, 16 << 10),
            (0x21, Form::BothEnds, 16 << 10),
            (0xE1, Form::BothEnds, 4 << 10),
            (0x1_01E1, Form::BothEnds, 64 << 10),
            // KEY_BLOCK_SIZE of 8 and 1, and of 4 with pages of 8.
            (0x29, Form::CompressedRows, 8 << 10),
            (0x23, Form::CompressedRows, 1 << 10),
            (0x127, Form::CompressedRows, 4 << 10),
        ] {
            let of = Tablespace::of(&first(flags)).unwrap();
            assert_eq!((of.form, of.page), (form, page), "{flags:x}");
        }
        for flags in [0x10, 0x12, 0x18, 0x40, 0x3C0, 0xFFFF_FFFF, 0x0D, 0xEB] {
            assert_eq!(Tablespace::of(&first(flags)), Err(Fault::Header), "{flags:x}");
        }
        assert!(Tablespace::of(&[]).is_ok_and(|of| of.page == 16 << 10));
    }

    #[test]
    fn a_page_in_another_place_is_known() {
        let tablespace = Tablespace::of(&first(0x15)).unwrap();
        let mut page = vec![7; 16 << 10];
        page[..8].copy_from_slice(&[0, 0, 0, 0, 0, 0, 0, 9]);
        page[KIND..KIND + 2].fill(0);
        let end = page.len() - 4;
        let crc = crc32c::crc32c(&page[..end]);
        page[end..].copy_from_slice(&crc.to_be_bytes());
        assert_eq!(tablespace.examine(Some(9), &page), Ok(Page::Good));
        assert_eq!(tablespace.examine(None, &page), Ok(Page::Good));
        assert_eq!(tablespace.examine(Some(8), &page), Err(Fault::Number(9)));
        assert_eq!(tablespace.examine(Some(8), &vec![0; 16 << 10]), Ok(Page::Empty), "never written");
    }
}
