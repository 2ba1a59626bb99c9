//! What travels in a round, by number, and the digests that come in for it.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Kind, Result};
use crate::manifest::{Checksum, Digest, Seal, Sealer, chunks};
use crate::threads::lock;
use crate::tree::{Content, Found, Roots, Source, locate, unchanged};

/// The entries of a scan. An entry is known by its place in it.
#[derive(Debug)]
pub(super) struct Catalog {
    roots: Roots,
    found: Vec<Found>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// A file's digest, once all of its chunks have one.
    digests: Vec<Option<Digest>>,
    /// The chunks of files that are under way.
    chunks: HashMap<u32, BTreeMap<u64, Digest>>,
    /// Large files that several lanes read.
    open: HashMap<u32, Arc<Source>>,
}

impl Catalog {
    pub(super) fn new(roots: Roots, found: Vec<Found>) -> Result<Catalog> {
        if u32::try_from(found.len()).is_err() {
            return Err(Error::new(
                Kind::Limit,
                format!("{} entries are more than one transfer can carry", found.len()),
            ));
        }
        let digests = vec![None; found.len()];
        let state = State { digests, chunks: HashMap::new(), open: HashMap::new() };
        Ok(Catalog { roots, found, state: Mutex::new(state) })
    }

    pub(super) fn get(&self, number: u32) -> &Found {
        &self.found[number as usize]
    }

    pub(super) fn place(&self, found: &Found) -> Result<PathBuf> {
        locate(&self.roots, &found.entry.path)
            .ok_or_else(|| Error::new(Kind::Usage, format!("{} has no root here", found.entry.path)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The file's content; a file of several chunks stays open until [`Catalog::record`] has them all.
    pub(super) fn source(&self, number: u32) -> Result<Arc<Source>> {
        let found = self.get(number);
        if let Some(open) = self.state().open.get(&number) {
            return Ok(Arc::clone(open));
        }
        let holed = found.allocated < found.size();
        let mut source = Source::open(&self.place(found)?, (!found.only_grows()).then_some(found.stamp), holed)?;
        if chunks(found.size()) == 1 {
            return Ok(Arc::new(source));
        }
        source.announce();
        let source = Arc::new(source);
        self.state().open.insert(number, Arc::clone(&source));
        Ok(source)
    }

    /// Notes a chunk's digest. A chunk that is sent again must be what it was.
    pub(super) fn record(&self, number: u32, chunk: u64, digest: Digest, checksum: Checksum) -> Result<()> {
        let found = self.get(number);
        let count = chunks(found.size());
        let mut state = self.state();
        let known = match state.digests[number as usize] {
            Some(whole) => (count == 1).then_some(whole),
            None => {
                let known = state.chunks.entry(number).or_default().insert(chunk, digest);
                if state.chunks.get(&number).is_some_and(|all| all.len() as u64 == count) {
                    let all: Vec<Digest> = state.chunks.remove(&number).unwrap_or_default().into_values().collect();
                    state.digests[number as usize] = Some(checksum.fold(&all));
                    state.open.remove(&number);
                }
                known
            }
        };
        match known {
            Some(known) if known != digest => {
                Err(Error::new(Kind::Changed, format!("{} changed between two readings", found.entry.path)))
            }
            _ => Ok(()),
        }
    }

    /// Fails on the first file that is no longer what the scan saw.
    pub(super) fn unchanged(&self) -> Result<()> {
        let files = self.found.iter().filter(|f| matches!(f.entry.content, Content::File { .. }) && !f.only_grows());
        for found in files {
            unchanged(&self.place(found)?, found.stamp)?;
        }
        Ok(())
    }

    /// The seal over all entries, which the scan has put in order. Fails when a chunk was never sent.
    pub(super) fn seal(&self, checksum: Checksum) -> Result<Seal> {
        let state = self.state();
        let mut sealer = Sealer::new(checksum);
        for (found, digest) in self.found.iter().zip(&state.digests) {
            if matches!(found.entry.content, Content::File { .. }) != digest.is_some() {
                return Err(Error::new(Kind::Integrity, format!("{} has no complete digest", found.entry.path)));
            }
            sealer.add(&found.entry, *digest);
        }
        Ok(sealer.finish())
    }
}
