//! InnoDB's pages: how those of a tablespace are checked, and which are not what InnoDB wrote.
//!
//! Without keys: an encrypted page is checked as far as a checksum covers its encrypted bytes. What cannot be checked is
//! counted, and never assumed to be good. Facts: MariaDB's documentation of `innodb_checksum_algorithm` and `innochecksum`;
//! `buf0checksum.cc`, `buf0buf.cc`, `fil0fil.h`, `fsp0types.h`, `fsp0fsp.h` and `trx0sys.h` of `storage/innobase`.

mod checksum;
mod space;
mod tablespace;

pub use space::{Damage, Findings, Space, UNKNOWN, is_tablespace};
pub use tablespace::{Fault, LARGEST, Tablespace};

/// The four bytes at `at` as a big-endian number; zero if there are fewer.
fn be32(bytes: &[u8], at: usize) -> u32 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |four| u32::from_be_bytes(*four))
}

/// The same with two bytes.
fn be16(bytes: &[u8], at: usize) -> u16 {
    bytes.get(at..).and_then(|rest| rest.first_chunk()).map_or(0, |two| u16::from_be_bytes(*two))
}
