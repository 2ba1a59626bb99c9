//! The seal over one stream of bytes: its length, and the digests of its pieces in order.

use super::{Checksum, Digest, Hasher};
use crate::error::{Error, Kind, Result};
use crate::progress::bytes;

/// Seals a stream piece by piece, in their order.
#[derive(Debug)]
pub struct StreamSealer {
    hasher: Hasher,
    pieces: u64,
    bytes: u64,
}

/// What a stream was in all.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct StreamSeal {
    pub pieces: u64,
    pub bytes: u64,
    /// Over each piece's length (four bytes, big-endian) and digest.
    pub digest: Digest,
}

impl StreamSealer {
    pub fn new(checksum: Checksum) -> StreamSealer {
        StreamSealer { hasher: checksum.hasher(), pieces: 0, bytes: 0 }
    }

    pub fn add(&mut self, length: u32, digest: Digest) {
        self.hasher.update(&length.to_be_bytes());
        self.hasher.update(digest.as_bytes());
        self.pieces += 1;
        self.bytes = self.bytes.saturating_add(length.into());
    }

    pub fn finish(self) -> StreamSeal {
        StreamSeal { pieces: self.pieces, bytes: self.bytes, digest: self.hasher.finish() }
    }
}

impl StreamSeal {
    /// The comparison: what was written here, against the donor's seal.
    pub fn verify(self, donors: StreamSeal) -> Result<Whole> {
        if self == donors {
            return Ok(Whole(self));
        }
        let told = |seal: &StreamSeal| format!("{} in {} pieces under {}", bytes(seal.bytes), seal.pieces, seal.digest);
        let what = format!("the stream is not what the donor sealed: {} here, {} there", told(&self), told(&donors));
        Err(Error::new(Kind::Integrity, what).remedy("throw away what has come of it, and start again"))
    }
}

/// Evidence that every byte of a stream, in order, is what the donor sealed. Only with it may a consumer see the end.
#[derive(Debug)]
pub struct Whole(StreamSeal);

impl Whole {
    pub fn bytes(&self) -> u64 {
        self.0.bytes
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seal(pieces: &[&[u8]]) -> StreamSeal {
        let mut sealer = StreamSealer::new(Checksum::Blake3);
        pieces.iter().for_each(|piece| sealer.add(piece.len() as u32, Checksum::Blake3.digest(piece)));
        sealer.finish()
    }

    #[test]
    fn order_length_and_content_count() {
        let sent = seal(&[b"one", b"two"]);
        assert_eq!(sent.verify(sent).unwrap().bytes(), 6);
        let digest = |pieces: &[&[u8]]| StreamSeal { digest: seal(pieces).digest, ..sent };
        for other in [
            seal(&[b"two", b"one"]),
            seal(&[b"one"]),
            seal(&[b"one", b"two", b""]),
            seal(&[b"onetwo"]),
            digest(&[b"one", b"twO"]),
            StreamSeal { bytes: 7, ..sent },
            StreamSeal { pieces: 3, ..sent },
        ] {
            let error = other.verify(sent).unwrap_err();
            assert_eq!(error.kind(), Kind::Integrity);
            assert!(error.sentence().starts_with("the stream is not what the donor sealed: "), "{}", error.sentence());
        }
    }

    #[test]
    fn the_empty_stream_has_a_seal() {
        assert_eq!(seal(&[]).verify(seal(&[])).unwrap().bytes(), 0);
    }
}
