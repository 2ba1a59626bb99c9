//! The checksums that InnoDB has written over the years. A page does not say which one it has, so each one that a
//! current server still accepts is tried, the newest first.

use super::{be16, be32};

/// What a page has instead of a checksum if none was written (`BUF_NO_CHECKSUM_MAGIC`).
const NONE: u32 = 0xDEAD_BEEF;

/// Offsets in a page (`fil0fil.h`). Before them is the checksum, or in full_crc32 the key version.
const NUMBER: usize = 4;
const LSN: usize = 16;
const KIND: usize = 24;
/// Only full_crc32 covers the 8 bytes from here: the key version and, in an encrypted page, a checksum.
const KEY_VERSION: usize = 26;
const CRYPT_CHECKSUM: usize = 30;
const SPACE: usize = 34;
const DATA: usize = 38;

/// What a page's checksums say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Says {
    Right,
    Wrong,
    /// There is none to check.
    Nothing,
}

impl From<bool> for Says {
    fn from(right: bool) -> Says {
        if right { Says::Right } else { Says::Wrong }
    }
}

fn part(page: &[u8], range: std::ops::Range<usize>) -> &[u8] {
    page.get(range).unwrap_or_default()
}

/// The low half of the LSN, which is at both ends of a page.
fn lsn(page: &[u8]) -> u32 {
    be32(page, LSN + 4)
}

/// A page of `full_crc32`: the last four bytes are the CRC-32C of everything before them, encrypted or not. Of a
/// compressed page only as many bytes count as its type says, in units of 256.
pub(super) fn full_crc32(page: &[u8]) -> Says {
    const PACKED: u16 = 1 << 15;
    let kind = be16(page, KIND);
    let packed = kind & PACKED != 0;
    let size = if packed { usize::from(kind & !PACKED) << 8 } else { page.len() };
    let Some(end) = size.checked_sub(4).filter(|_| size < page.len() || !packed) else { return Says::Wrong };
    if crc32c::crc32c(part(page, 0..end)) != be32(page, end) {
        return Says::Wrong;
    }
    let encrypted = be32(page, 0) != 0;
    Says::from(packed || encrypted || be32(page, end.saturating_sub(4)) == lsn(page))
}

/// A page from before `full_crc32`: its checksum is at both ends.
pub(super) fn at_both_ends(page: &[u8]) -> Says {
    let end = page.len().saturating_sub(8);
    let (first, last) = (be32(page, 0), be32(page, end));
    if lsn(page) != be32(page, end + 4) {
        return Says::Wrong;
    }
    let crc = crc32c::crc32c(part(page, NUMBER..KEY_VERSION)) ^ crc32c::crc32c(part(page, DATA..end));
    let encrypted = be32(page, KEY_VERSION) != 0;
    if (first, last) == (crc, crc) || (encrypted && be32(page, CRYPT_CHECKSUM) == crc) {
        return Says::Right;
    }
    // The default before MySQL 5.7 and MariaDB 10.2; a page keeps it until it is written again.
    let fold = fold(part(page, NUMBER..KEY_VERSION)).wrapping_add(fold(part(page, DATA..end)));
    let old = self::fold(part(page, 0..KEY_VERSION));
    // The earliest releases had the LSN there.
    let right = [crc, fold, NONE].contains(&first) && [crc, old, be32(page, LSN), NONE].contains(&last);
    match right {
        true if first == NONE || last == NONE => Says::Nothing,
        right => right.into(),
    }
}

/// A page of `ROW_FORMAT=COMPRESSED`: its checksum is at its beginning.
pub(super) fn of_compressed_row(page: &[u8]) -> Says {
    let parts = [part(page, NUMBER..LSN), part(page, KIND..KEY_VERSION), part(page, SPACE..page.len())];
    let crc = parts.iter().fold(0, |crc, part| crc ^ crc32c::crc32c(part));
    let encrypted = be32(page, KEY_VERSION) != 0;
    match be32(page, 0) {
        NONE => Says::Nothing,
        stored if stored == crc || (encrypted && be32(page, CRYPT_CHECKSUM) == crc) => Says::Right,
        stored => Says::from(stored == adler32(&parts)),
    }
}

/// `ut_fold_binary`, of which the low 32 bits are kept.
fn fold(bytes: &[u8]) -> u32 {
    const MASKS: (u32, u32) = (1_463_735_687, 1_653_893_711);
    let pair = |n: u32, byte: &u8| {
        let byte = u32::from(*byte);
        (((n ^ byte ^ MASKS.1) << 8).wrapping_add(n) ^ MASKS.0).wrapping_add(byte)
    };
    bytes.iter().fold(0, pair)
}

/// Adler-32 (RFC 1950), but starting at 0 instead of 1.
fn adler32(parts: &[&[u8]]) -> u32 {
    const PRIME: u32 = 65521;
    /// This many bytes cannot overflow 32 bits.
    const RUN: usize = 5552;
    let (mut a, mut b) = (0u32, 0u32);
    for run in parts.iter().flat_map(|part| part.chunks(RUN)) {
        for byte in run {
            a = a.wrapping_add(u32::from(*byte));
            b = b.wrapping_add(a);
        }
        (a, b) = (a % PRIME, b % PRIME);
    }
    b << 16 | a
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Pages with the old algorithms' checksums, made here by their formulas; current ones are tested on a server's own
    /// files (`tests/cluster_pages.rs`).
    #[test]
    fn those_of_long_ago_are_known() {
        let mut page: Vec<u8> = (0..16384u32).map(|n| (n.wrapping_mul(2_654_435_761) >> 13) as u8).collect();
        page[KEY_VERSION..SPACE].fill(0);
        let end = page.len() - 8;
        page.copy_within(LSN + 4..LSN + 8, end + 4);
        let put = |page: &mut [u8], at: usize, number: u32| page[at..at + 4].copy_from_slice(&number.to_be_bytes());
        assert_eq!(at_both_ends(&page), Says::Wrong);
        let new = fold(&page[NUMBER..KEY_VERSION]).wrapping_add(fold(&page[DATA..end]));
        put(&mut page, 0, new);
        let old = fold(&page[..KEY_VERSION]);
        put(&mut page, end, old);
        assert_eq!(at_both_ends(&page), Says::Right);
        page[5000] ^= 1;
        assert_eq!(at_both_ends(&page), Says::Wrong);
        put(&mut page, 0, NONE);
        put(&mut page, end, NONE);
        assert_eq!(at_both_ends(&page), Says::Nothing);
        page[end + 7] ^= 1;
        assert_eq!(at_both_ends(&page), Says::Wrong, "the LSN");
    }

    #[test]
    fn a_compressed_row_page_of_long_ago() {
        let mut page: Vec<u8> = (0..8192u32).map(|n| (n.wrapping_mul(40_503) >> 5) as u8).collect();
        page[KEY_VERSION..SPACE].fill(0);
        assert_eq!(of_compressed_row(&page), Says::Wrong);
        let adler = adler32(&[&page[NUMBER..LSN], &page[KIND..KEY_VERSION], &page[SPACE..]]);
        page[..4].copy_from_slice(&adler.to_be_bytes());
        assert_eq!(of_compressed_row(&page), Says::Right);
        page[8191] ^= 128;
        assert_eq!(of_compressed_row(&page), Says::Wrong);
    }

    /// RFC 1950's own, whose `a` begins at 1.
    #[test]
    fn adler() {
        let one = |text: &[u8]| {
            let zero = adler32(&[text]);
            ((zero >> 16) + text.len() as u32) << 16 | ((zero & 0xffff) + 1)
        };
        assert_eq!(one(b"Wikipedia"), 0x11E6_0398);
        assert_eq!(adler32(&[b"Wiki", b"pedia"]), adler32(&[b"Wikipedia"]));
        assert_eq!(adler32(&[&[255; 1 << 20]]), adler32(&[&[255; 5000], &[255; (1 << 20) - 5000]]));
    }

    #[test]
    fn bytes_of_any_length_are_taken() {
        for length in [0, 3, 8, 37, 40, 1024] {
            for byte in [0xff, 0x80, 1] {
                let page = vec![byte; length];
                full_crc32(&page);
                at_both_ends(&page);
                of_compressed_row(&page);
            }
        }
    }
}
