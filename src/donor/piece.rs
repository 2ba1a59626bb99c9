//! A piece of a byte stream, in memory until it is acknowledged, and the seal over all of them.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex};

use crate::manifest::{Checksum, Digest, StreamSeal, StreamSealer};
use crate::threads::lock;

/// One piece: a frame of its own.
#[derive(Debug)]
pub struct Piece {
    pub(super) number: u64,
    pub(super) data: Vec<u8>,
    pub(super) sealing: Arc<Sealing>,
}

/// The same piece, not an equal one.
impl PartialEq for Piece {
    fn eq(&self, other: &Piece) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Piece {}

/// The digests of pieces, which lanes make in any order: those that wait for one before them are at most a window of pieces.
#[derive(Debug)]
pub(super) struct Sealing(Mutex<State>);

#[derive(Debug)]
struct State {
    sealer: StreamSealer,
    next: u64,
    waiting: BTreeMap<u64, (u32, Digest)>,
}

impl Sealing {
    pub(super) fn new(checksum: Checksum) -> Sealing {
        Sealing(Mutex::new(State { sealer: StreamSealer::new(checksum), next: 0, waiting: BTreeMap::new() }))
    }

    /// Piece `number` has so many bytes under this digest. A piece may be told of again.
    pub(super) fn take(&self, number: u64, length: u32, digest: Digest) {
        let mut state = lock(&self.0);
        if number >= state.next {
            state.waiting.insert(number, (length, digest));
        }
        let State { sealer, next, waiting } = &mut *state;
        while let Some((length, digest)) = waiting.remove(next) {
            sealer.add(length, digest);
            *next += 1;
        }
    }

    /// When every piece has been told of.
    pub(super) fn finish(self) -> StreamSeal {
        self.0.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner).sealer.finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_order_of_lanes_does_not_matter() {
        let digest = |n: u8| Digest::from_bytes([n; 32]);
        let seal = |order: &[u8]| {
            let sealing = Sealing::new(Checksum::Sha256);
            order.iter().for_each(|n| sealing.take((*n).into(), u32::from(*n) + 1, digest(*n)));
            assert!(lock(&sealing.0).waiting.is_empty());
            sealing.finish()
        };
        let straight = seal(&[0, 1, 2, 3]);
        assert_eq!((straight.pieces, straight.bytes), (4, 10));
        for order in [&[3, 2, 1, 0][..], &[1, 0, 0, 1, 3, 3, 2]] {
            assert_eq!(seal(order), straight, "{order:?}");
        }
    }
}
