//! A piece of a byte stream, as a frame's payload: its number, the digest of its bytes, and the bytes.

use super::WireError;
use crate::manifest::{CHUNK, Digest};

/// One piece. A stream's pieces are numbered from 0, without a gap.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Piece<'a> {
    pub number: u64,
    pub digest: Digest,
    /// 1 byte to [`Piece::MAX`].
    pub data: &'a [u8],
}

impl Piece<'_> {
    /// Bytes before the data: the number, eight bytes big-endian, and the digest.
    pub const HEAD: usize = 40;
    /// The most bytes of a stream in one piece.
    pub const MAX: usize = CHUNK as usize;

    /// Whether an unpacked payload may be so long.
    pub fn fits(length: u32) -> bool {
        let data = usize::try_from(length).unwrap_or(usize::MAX).saturating_sub(Self::HEAD);
        (1..=Self::MAX).contains(&data)
    }

    pub fn head(number: u64, digest: Digest) -> [u8; Piece::HEAD] {
        let mut head = [0; Piece::HEAD];
        let (first, rest) = head.split_at_mut(8);
        first.copy_from_slice(&number.to_be_bytes());
        rest.copy_from_slice(digest.as_bytes());
        head
    }

    pub fn parse(payload: &[u8]) -> Result<Piece<'_>, WireError> {
        let (number, rest) = payload.split_first_chunk().ok_or(WireError::Frame)?;
        let (digest, data) = rest.split_first_chunk().ok_or(WireError::Frame)?;
        if data.is_empty() || data.len() > Self::MAX {
            return Err(WireError::Length(data.len() as u64));
        }
        Ok(Piece { number: u64::from_be_bytes(*number), digest: Digest::from_bytes(*digest), data })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_payload_panics_and_good_ones_round_trip(payload in proptest::collection::vec(any::<u8>(), 0..100)) {
            match Piece::parse(&payload) {
                Ok(piece) => {
                    let back = [Piece::head(piece.number, piece.digest).as_slice(), piece.data].concat();
                    prop_assert_eq!(back, payload);
                }
                Err(_) => prop_assert!(payload.len() <= Piece::HEAD),
            }
        }
    }

    #[test]
    fn the_bytes_are_frozen() {
        let head = Piece::head(258, Digest::from_bytes([7; 32]));
        assert_eq!(head[..9], [0, 0, 0, 0, 0, 0, 1, 2, 7]);
        let lengths = [(40, false), (41, true), (40 + (1 << 20), true), (41 + (1 << 20), false)];
        for (length, fits) in lengths {
            assert_eq!(
                (Piece::fits(length), Piece::parse(&vec![0; length as usize]).is_ok()),
                (fits, fits),
                "{length}"
            );
        }
    }
}
