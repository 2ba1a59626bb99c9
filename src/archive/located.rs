//! A chunk of an open file: where it has data, and the data.

use std::path::Path;

use super::{Extent, Extents, PageHints};
use crate::direct::Pages;
use crate::error::{Error, Kind, Printable, Result};
use crate::manifest::CHUNK;
use crate::tree::Source;

/// Where a chunk is in its file and where it has data. In bytes.
#[derive(Debug)]
pub struct Located {
    pub offset: u64,
    pub len: u32,
    pub extents: Extents,
    runs: Vec<(u64, u64)>,
}

impl Located {
    /// Chunk number `chunk` of a file of `size` bytes at `place`. `span` is memory that [`Located::read`] reuses.
    pub fn new(source: &Source, place: &Path, chunk: u64, size: u64, span: &mut Pages) -> Result<Located> {
        let offset = chunk.saturating_mul(CHUNK);
        let len = u32::try_from(size.saturating_sub(offset).min(CHUNK)).unwrap_or_default();
        let runs = source.data(place, offset, len.into(), Extents::MAX, span)?;
        let run = |(start, len): &(u64, u64)| Extent { start: *start as u32, len: *len as u32 };
        let extents = Extents::new(runs.iter().map(run).collect(), len)
            .map_err(|e| Error::new(Kind::Io, format!("cannot read {}", Printable::path(place))).because(e))?;
        Ok(Located { offset, len, extents, runs })
    }

    /// The same, with the chunk's data in `data`.
    pub fn load(
        source: &Source,
        place: &Path,
        (chunk, size): (u64, u64),
        data: &mut Pages,
        span: &mut Pages,
    ) -> Result<Located> {
        let located = Located::new(source, place, chunk, size, span)?;
        data.resize(located.extents.data_len(), 0);
        located.read(source, place, data, span)?;
        Ok(located)
    }

    /// The page hints; `data` is the chunk's data.
    pub fn hints(&self, data: &[u8], seed: u64) -> PageHints {
        PageHints::of_runs(&self.extents, data, self.len, seed)
    }

    /// Where it has data, in order, from its own beginning on: starts and lengths.
    pub fn runs(&self) -> &[(u64, u64)] {
        &self.runs
    }

    /// The first `len` bytes, of which holes are zeros, when `data` is its data.
    pub fn first(&self, data: &[u8], len: usize) -> Vec<u8> {
        let mut first = match self.runs.first() {
            Some((0, run)) => data.get(..len.min(*run as usize)).unwrap_or(data).to_vec(),
            _ => Vec::new(),
        };
        first.resize(len, 0);
        first
    }

    /// Fills `into`, which is as long as the data, with the runs one after another.
    pub fn read(&self, source: &Source, place: &Path, into: &mut [u8], span: &mut Pages) -> Result<()> {
        source.read_runs(place, self.offset, &self.runs, into, span)
    }
}
