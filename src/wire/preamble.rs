//! The first twelve bytes of every connection, in both directions. They never change.
//!
//! Protocol versions:
//! 1. the first: one pass over the tree, chunk acknowledgements, pax members, seal.
//! 2. passes while the server runs, patches of pages, runs of empty chunks, a conversation that outlives its
//!    connections, byte streams.

use super::WireError;

/// The protocol versions this build speaks, lowest and highest.
pub const VERSION: (u16, u16) = (2, 2);

/// `HIGHLINE`, then the lowest and the highest protocol version, two bytes each, big-endian.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Preamble {
    pub min: u16,
    pub max: u16,
}

impl Preamble {
    pub const LEN: usize = 12;
    const MAGIC: [u8; 8] = *b"HIGHLINE";

    pub fn ours() -> Preamble {
        Preamble { min: VERSION.0, max: VERSION.1 }
    }

    pub fn encode(self) -> [u8; Self::LEN] {
        let [m0, m1, m2, m3, m4, m5, m6, m7] = Self::MAGIC;
        let ([a, b], [c, d]) = (self.min.to_be_bytes(), self.max.to_be_bytes());
        [m0, m1, m2, m3, m4, m5, m6, m7, a, b, c, d]
    }

    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Preamble, WireError> {
        let [magic @ .., a, b, c, d] = *bytes;
        let preamble = Preamble { min: u16::from_be_bytes([a, b]), max: u16::from_be_bytes([c, d]) };
        if magic != Self::MAGIC || preamble.min > preamble.max {
            return Err(WireError::Magic);
        }
        Ok(preamble)
    }

    /// The highest version that both sides speak.
    pub fn agree(self, theirs: Preamble) -> Result<u16, WireError> {
        let version = self.max.min(theirs.max);
        if version < self.min.max(theirs.min) {
            return Err(WireError::Version {
                ours_min: self.min,
                ours_max: self.max,
                theirs_min: theirs.min,
                theirs_max: theirs.max,
            });
        }
        Ok(version)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_bytes_are_frozen() {
        assert_eq!(Preamble { min: 1, max: 0x0203 }.encode(), *b"HIGHLINE\x00\x01\x02\x03");
        assert_eq!(Preamble::decode(b"HIGHLINE\x00\x01\x02\x03"), Ok(Preamble { min: 1, max: 0x0203 }));
    }

    #[test]
    fn strangers_are_told_apart() {
        for bytes in [b"GET / HTTP/1", b"HIGHLINF\0\x01\0\x01", b"HIGHLINE\0\x02\0\x01"] {
            assert_eq!(Preamble::decode(bytes), Err(WireError::Magic));
        }
    }

    #[test]
    fn versions_meet_at_the_highest_in_common() {
        let p = |min, max| Preamble { min, max };
        assert_eq!(p(1, 3).agree(p(2, 5)), Ok(3));
        assert_eq!(p(2, 2).agree(p(1, 2)), Ok(2));
        let error = p(1, 1).agree(p(2, 3)).unwrap_err();
        assert_eq!(error.to_string(), "it speaks protocol versions 2 to 3, this side 1 to 1");
        assert!(p(2, 3).agree(p(1, 1)).is_err());
    }
}
