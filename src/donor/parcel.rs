//! What was read from a stream. It cannot be read again, so it stays in memory until the joiner has it.

use std::sync::{Arc, Mutex};

use crate::manifest::FileDigests;
use crate::tree::Entry;

/// One frame's worth.
#[derive(Debug, Default)]
pub struct Parcel {
    pub(super) pieces: Vec<Piece>,
}

/// The same parcel, not an equal one.
impl PartialEq for Parcel {
    fn eq(&self, other: &Parcel) -> bool {
        std::ptr::eq(self, other)
    }
}

impl Eq for Parcel {}

/// A directory, or a chunk of a file.
#[derive(Debug)]
pub(super) struct Piece {
    /// If a file's length is not known yet, with the smallest it can have.
    pub(super) entry: Entry,
    pub(super) chunk: Option<Chunk>,
}

#[derive(Debug)]
pub(super) struct Chunk {
    pub(super) offset: u64,
    pub(super) data: Vec<u8>,
    /// It is the end of the file.
    pub(super) last: bool,
    /// Of the whole file, which the lanes fill in.
    pub(super) digests: Arc<Mutex<FileDigests>>,
}

impl Parcel {
    pub(super) fn bytes(&self) -> u64 {
        self.pieces.iter().filter_map(|piece| piece.chunk.as_ref()).map(|chunk| chunk.data.len() as u64).sum()
    }

    /// Entries that are complete with it.
    pub(super) fn entries(&self) -> u64 {
        self.pieces.iter().filter(|piece| piece.chunk.as_ref().is_none_or(|chunk| chunk.last)).count() as u64
    }
}
