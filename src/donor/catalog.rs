//! What travels in a round, by number, and the digests that come in for it.

use std::collections::{BTreeSet, HashMap};
use std::fs;
use std::mem::discriminant;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard};

use crate::error::{Error, Kind, Result};
use crate::manifest::{CHUNK, Checksum, Digest, FileDigests, Seal, Sealer, Seen, chunks};
use crate::threads::lock;
use crate::tree::{Content, Found, RelPath, Roots, Source, Stamp, Stillness, locate};

/// The entries of a scan. An entry is known by its place in it.
#[derive(Debug)]
pub(super) struct Catalog {
    roots: Roots,
    found: Vec<Found>,
    /// The roots' own directories, as they were before the scan.
    tops: Vec<(PathBuf, Stamp)>,
    /// A change is no reason to read again: nobody keeps the tree still, so nobody may write to it.
    strict: bool,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Of each file, what the joiner has of it.
    digests: Vec<Option<FileDigests>>,
    /// Large files that several lanes read.
    open: HashMap<u32, Arc<Source>>,
    /// Files that changed while they were read.
    changed: BTreeSet<u32>,
}

/// What a later scan found otherwise.
#[derive(Debug, Default)]
pub(super) struct Differences {
    /// What changed or is new, by its number in the later scan.
    pub(super) again: Vec<u32>,
    /// What is there no longer, or has become something else.
    pub(super) withdrawn: Vec<RelPath>,
    /// Those of them without which the copy is no copy.
    pub(super) pressing: Vec<Difference>,
}

#[derive(Debug)]
pub(super) enum Difference {
    Changed(RelPath),
    Vanished(RelPath),
    Appeared(RelPath),
}

impl Difference {
    pub(super) fn path(&self) -> &RelPath {
        let (Difference::Changed(path) | Difference::Vanished(path) | Difference::Appeared(path)) = self;
        path
    }
}

/// The directories of the roots, to be looked at before a scan.
pub(super) fn tops(roots: &Roots) -> Vec<(PathBuf, Stamp)> {
    let stamp = |path: &Path| Some((path.to_path_buf(), Stamp::of(&fs::metadata(path).ok()?)));
    roots.directories().into_iter().filter_map(stamp).collect()
}

impl Catalog {
    pub(super) fn new(roots: Roots, tops: Vec<(PathBuf, Stamp)>, found: Vec<Found>, strict: bool) -> Result<Catalog> {
        if u32::try_from(found.len()).is_err() {
            return Err(Error::new(
                Kind::Limit,
                format!("{} entries are more than one transfer can carry", found.len()),
            ));
        }
        let of = |found: &Found| match found.entry.content {
            Content::File { size } => Some(FileDigests::new(size)),
            _ => None,
        };
        let state = Mutex::new(State { digests: found.iter().map(of).collect(), ..State::default() });
        Ok(Catalog { roots, found, tops, strict, state })
    }

    pub(super) fn get(&self, number: u32) -> &Found {
        &self.found[number as usize]
    }

    pub(super) fn found(&self) -> &[Found] {
        &self.found
    }

    pub(super) fn roots(&self) -> &Roots {
        &self.roots
    }

    pub(super) fn bytes(&self) -> u64 {
        self.found.iter().map(Found::size).sum()
    }

    pub(super) fn place(&self, found: &Found) -> Result<PathBuf> {
        self.locate(&found.entry.path)
    }

    pub(super) fn locate(&self, path: &RelPath) -> Result<PathBuf> {
        locate(&self.roots, path).ok_or_else(|| Error::new(Kind::Usage, format!("{path} has no root here")))
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
        let (place, stillness) = (self.place(found)?, found.stillness());
        let holed = found.allocated < found.size();
        let mut source = Source::open(&place, (stillness == Stillness::Still).then_some(found.stamp), holed)?;
        if chunks(found.size()) == 1 {
            return Ok(Arc::new(source));
        }
        source.announce();
        if stillness == Stillness::Journal {
            source.keep_head(&place, CHUNK as usize)?;
        }
        // Who came first counts: its head was read before anything else.
        let source = Arc::new(source);
        Ok(Arc::clone(self.state().open.entry(number).or_insert(source)))
    }

    /// Notes a chunk's digest. False: the joiner has this chunk, from an earlier round.
    pub(super) fn record(&self, number: u32, chunk: u64, digest: Digest) -> Result<bool> {
        let found = self.get(number);
        let mut state = self.state();
        let State { digests, open, changed } = &mut *state;
        let Some(Some(file)) = digests.get_mut(number as usize) else { return Ok(true) };
        let seen = file.take(chunk, digest);
        if file.is_complete() && found.stillness() == Stillness::Still {
            open.remove(&number);
        }
        if seen == Seen::Torn && changed.insert(number) && self.strict {
            drop(state);
            return Err(crate::tree::changed(&self.place(found)?));
        }
        Ok(seen == Seen::New)
    }

    /// Passes over a file that changed while it was read: it comes again in the next round.
    pub(super) fn pass_over(&self, number: u32, error: Error) -> Result<()> {
        if self.strict || error.kind() != Kind::Changed {
            return Err(error);
        }
        let mut state = self.state();
        state.changed.insert(number);
        state.open.remove(&number);
        Ok(())
    }

    /// Whether nothing at all has changed since the scan but what may.
    pub(super) fn holds_still(&self) -> Result<bool> {
        if !self.state().changed.is_empty() || self.tops != tops(&self.roots) {
            return Ok(false);
        }
        for found in &self.found {
            let Ok(stat) = fs::symlink_metadata(self.place(found)?) else { return Ok(false) };
            if !found.stillness().holds(found.stamp, Stamp::of(&stat)) {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Compares with a later scan; both are in the order of paths.
    pub(super) fn differences(&self, later: &[Found]) -> Differences {
        let mut differences = Differences::default();
        let Differences { again, withdrawn, pressing } = &mut differences;
        let state = self.state();
        let mut before = (0u32..).zip(&self.found).peekable();
        let gone = |found: &Found, withdrawn: &mut Vec<RelPath>, pressing: &mut Vec<Difference>| {
            withdrawn.push(found.entry.path.clone());
            pressing.push(Difference::Vanished(found.entry.path.clone()));
        };
        for (number, now) in (0u32..).zip(later) {
            let path = &now.entry.path;
            while let Some((_, found)) = before.next_if(|(_, found)| found.entry.path < *path) {
                gone(found, withdrawn, pressing);
            }
            let Some((was, found)) = before.next_if(|(_, found)| found.entry.path == *path) else {
                again.push(number);
                pressing.push(Difference::Appeared(path.clone()));
                continue;
            };
            let torn = state.changed.contains(&was);
            let other = discriminant(&found.entry.content) != discriminant(&now.entry.content);
            if torn || other || found.stamp != now.stamp || found.entry != now.entry {
                again.push(number);
                let held = match now.entry.content {
                    // What matters of a directory is what is in it.
                    Content::Directory => true,
                    _ => found.stillness().holds(found.stamp, now.stamp),
                };
                if torn || other || !held {
                    pressing.push(Difference::Changed(path.clone()));
                }
            }
            if other {
                withdrawn.push(path.clone());
            }
        }
        before.for_each(|(_, found)| gone(found, withdrawn, pressing));
        differences
    }

    /// The same with what a later scan found. Nothing more may be recorded here.
    pub(super) fn renewed(
        &self,
        roots: Roots,
        tops: Vec<(PathBuf, Stamp)>,
        later: Vec<Found>,
        again: &[u32],
    ) -> Result<Catalog> {
        let next = Catalog::new(roots, tops, later, self.strict)?;
        let mut known = std::mem::take(&mut self.state().digests).into_iter();
        let mut before = self.found.iter().peekable();
        let mut again = again.iter().peekable();
        let mut state = next.state();
        for ((number, now), digests) in (0u32..).zip(&next.found).zip(&mut state.digests) {
            let again = again.next_if(|next| **next == number).is_some();
            while before.next_if(|found| found.entry.path < now.entry.path).is_some() {
                known.next();
            }
            if before.next_if(|found| found.entry.path == now.entry.path).is_none() {
                continue;
            }
            if let (Some(Some(known)), Content::File { size }) = (known.next(), &now.entry.content) {
                *digests = Some(if again { known.renewed(*size) } else { known });
            }
        }
        drop(state);
        Ok(next)
    }

    /// The seal over all entries, which the scan has put in order. Fails when a chunk was never sent.
    pub(super) fn seal(&self, checksum: Checksum) -> Result<Seal> {
        let state = self.state();
        let mut sealer = Sealer::new(checksum);
        for (found, digests) in self.found.iter().zip(&state.digests) {
            let digest = digests.as_ref().and_then(|digests| digests.fold(checksum));
            if digests.is_some() != digest.is_some() {
                return Err(Error::new(Kind::Integrity, format!("{} has no complete digest", found.entry.path)));
            }
            sealer.add(&found.entry, digest);
        }
        Ok(sealer.finish())
    }
}
