//! What a ledger knows of one entry: the version that a round brought, and of a file which of its chunks have come.

use std::ffi::OsString;
use std::ops::Range;
use std::sync::{Arc, Mutex};

use super::basis::Origin;
use super::target::Target;
use crate::manifest::{FileDigests, Ranges, chunks};
use crate::threads::lock;
use crate::tree::{Content, Metadata};

#[derive(Debug)]
pub(super) struct Record {
    /// The round that brought its current version.
    pub(super) round: u16,
    pub(super) meta: Metadata,
    /// Of a file not its length, which [`Staged`] knows.
    pub(super) content: Content,
    /// Only files have content.
    pub(super) file: Option<Mutex<Staged>>,
}

impl Record {
    /// What it is now: a file may grow in a round that is streamed.
    pub(super) fn content(&self) -> Content {
        match &self.file {
            Some(file) => Content::File { size: lock(file).size },
            None => self.content.clone(),
        }
    }
}

/// A file in the staging area.
#[derive(Debug)]
pub(super) struct Staged {
    pub(super) size: u64,
    /// Open while it is being written.
    pub(super) target: Option<Arc<Target>>,
    /// It exists, though it may be closed.
    pub(super) made: bool,
    /// An earlier round has written to it: what is a hole now may not have been one then.
    pub(super) written_before: bool,
    pub(super) digests: FileDigests,
    /// Chunks of which only a part came last; they are read back at the end.
    pub(super) patched: Option<Box<Ranges>>,
    /// Threads writing to it now. The modification time is set when the last one ends.
    pub(super) writing: u32,
    /// It was a seed until this round.
    pub(super) seeded: Option<Origin>,
    /// It was made when less of it was known.
    pub(super) grown: bool,
}

impl Staged {
    pub(super) fn new(size: u64) -> Staged {
        Staged {
            size,
            target: None,
            made: false,
            written_before: false,
            digests: FileDigests::new(size),
            patched: None,
            writing: 0,
            seeded: None,
            grown: false,
        }
    }

    /// What a seed becomes: a file as if an earlier round had written it.
    pub(super) fn seeded(digests: FileDigests, size: u64, origin: Origin) -> Staged {
        let digests = digests.renewed(size);
        Staged { made: true, written_before: true, digests, seeded: Some(origin), ..Staged::new(size) }
    }

    /// The same file in a later round.
    pub(super) fn renewed(&self, size: u64) -> Staged {
        let digests = self.digests.clone().renewed(size);
        let mut patched = self.patched.clone();
        patched.iter_mut().for_each(|patched| patched.remove(chunks(size)..u64::MAX));
        Staged { made: self.made, written_before: self.made, digests, patched, ..Staged::new(size) }
    }

    /// These chunks need not be read back.
    pub(super) fn sent_whole(&mut self, chunks: Range<u64>) {
        self.patched.iter_mut().for_each(|patched| patched.remove(chunks.clone()));
    }

    /// The same file once more of it is known, in the same round.
    pub(super) fn grow(&mut self, size: u64) {
        self.digests.grow(size);
        (self.size, self.grown) = (size, true);
    }
}

/// A file of this node, beside the staged tree, that may become part of it.
#[derive(Debug)]
pub(super) struct Seed {
    /// Its name among the seeds.
    pub(super) name: OsString,
    pub(super) origin: Origin,
    /// It is a copy made for this transfer.
    pub(super) copied: bool,
    pub(super) size: u64,
    /// Digests of all its chunks, as they were read and written.
    pub(super) digests: FileDigests,
}
