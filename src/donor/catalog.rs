//! The entries of a round, by number: what is done with each, and the digests that come in for it.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};

use super::pages::Suspect;
use super::plan::{Basis, Had, Planned, Rare, Task};
use super::queue::Work;
use super::unsure::Unsure;
use crate::archive::PageHints;
use crate::error::{Error, Kind, Result};
use crate::manifest::{CHUNK, Checksum, Digest, FileDigests, Seal, Sealer, chunks};
use crate::pages::Space;
use crate::threads::lock;
use crate::tree::{Content, Found, Roots, Source, Stillness, locate, system_tablespace};

/// The entries of a round. An entry's number is its index.
#[derive(Debug)]
pub(super) struct Catalog {
    roots: Roots,
    /// Without what the joiner has of them: that is in `state`.
    entries: Vec<Planned>,
    /// The server is frozen.
    still: bool,
    state: Mutex<State>,
    /// Bytes of page hints that may still be kept.
    hints_left: AtomicUsize,
}

#[derive(Debug)]
struct State {
    /// What the joiner has of each file's content.
    had: Vec<Option<Box<Had>>>,
    /// Large files that several lanes are reading, with the number of chunks still to come.
    open: HashMap<u32, (Arc<Source>, u64)>,
    /// Clones, with the number of unacknowledged chunks. Each is closed as soon as possible: while it is open the
    /// server's writes need room.
    clones: HashMap<u32, (Arc<Source>, u64)>,
    /// Files for which the joiner has reported, in this round, what it has.
    seeded: HashSet<u32>,
    /// Chunks read in this round but not acknowledged.
    unsure: Unsure,
    /// How the pages of large files are checked.
    spaces: HashMap<u32, Arc<Space>>,
}

/// The most bytes of page hints to keep: enough for 128 GiB of tables.
const HINTS: usize = 64 << 20;

/// What is known of a run of empty chunks before it is packed.
#[derive(Debug)]
pub(super) struct KnownRun {
    /// How many of them the joiner has as they are.
    pub(super) same: u64,
    /// The joiner itself has reported the file.
    pub(super) seeded: bool,
}

/// What is known of a chunk before it is read.
#[derive(Debug)]
pub(super) struct Known {
    pub(super) digest: Option<Digest>,
    pub(super) hints: Option<PageHints>,
    /// It was read earlier in this round and its lane broke: the joiner may have either version.
    pub(super) again: bool,
    /// The joiner must be sent the file's metadata and length.
    pub(super) touched: bool,
    /// The joiner itself has reported the file.
    pub(super) seeded: bool,
}

impl Catalog {
    /// `tells`: whether an equal stamp will later prove that a file's content is what is read now.
    pub(super) fn new(
        roots: Roots,
        mut entries: Vec<Planned>,
        still: bool,
        tells: impl Fn(&Found) -> bool,
    ) -> Result<Catalog> {
        if u32::try_from(entries.len()).is_err() {
            return Err(Error::new(
                Kind::Limit,
                format!("{} entries are more than one transfer can carry", entries.len()),
            ));
        }
        let kept = entries.iter().filter_map(|planned| planned.had.as_ref()).map(|had| had.hints.len()).sum::<usize>();
        // Files that change need them more.
        let spare = kept * PageHints::BYTES > HINTS / 2;
        let mut hints = 0usize;
        let mut had = Vec::with_capacity(entries.len());
        let mut clones = HashMap::new();
        for (number, Planned { found, task, had: before, .. }) in (0u32..).zip(&mut entries) {
            let before = before.take().map(|mut before| {
                if task.reads() {
                    match before.clone.take() {
                        Some(clone) => _ = clones.insert(number, (clone, chunks(found.size()))),
                        None => before.stamp_tells = tells(found),
                    }
                }
                if spare && *task == Task::Keep {
                    before.hints = Rare::default();
                }
                hints += before.hints.len() * PageHints::BYTES;
                before
            });
            had.push(before);
        }
        let (seeded, unsure) = (HashSet::new(), Unsure::default());
        let state = State { had, open: HashMap::new(), clones, seeded, unsure, spaces: HashMap::new() };
        let hints_left = AtomicUsize::new(HINTS.saturating_sub(hints));
        Ok(Catalog { roots, entries, still, state: Mutex::new(state), hints_left })
    }

    /// Of a byte stream, which has no entries: nothing is read by its path.
    pub(super) fn none() -> Result<Catalog> {
        Catalog::new(Roots::new(Path::new("/"), &BTreeMap::new())?, Vec::new(), true, |_| true)
    }

    pub(super) fn get(&self, number: u32) -> &Found {
        &self.entries[number as usize].found
    }

    pub(super) fn task(&self, number: u32) -> Task {
        match self.entries[number as usize].task {
            Task::Send if self.state().seeded.contains(&number) => Task::Compare,
            task => task,
        }
    }

    /// The joiner has earlier content of a file that was to be sent, with these digests and hints.
    pub(super) fn seed(&self, number: u32, digests: FileDigests, hints: Vec<(u64, PageHints)>) {
        let mut state = self.state();
        if let Some(had) = state.had.get_mut(number as usize).and_then(Option::as_mut) {
            had.digests = digests;
            had.hints = Rare::default();
            let kept = hints.into_iter().take_while(|_| self.may_keep_hints());
            kept.for_each(|(chunk, hints)| had.hints.insert(chunk, hints));
            state.seeded.insert(number);
        }
    }

    pub(super) fn place(&self, found: &Found) -> Result<PathBuf> {
        locate(&self.roots, &found.entry.path)
            .ok_or_else(|| Error::new(Kind::Usage, format!("{} has no root here", found.entry.path)))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The file's content. A file of several chunks stays open until [`Catalog::finished`] has been called for all of
    /// them.
    pub(super) fn source(&self, number: u32) -> Result<Arc<Source>> {
        let found = self.get(number);
        {
            let state = self.state();
            if let Some((open, _)) = state.clones.get(&number).or_else(|| state.open.get(&number)) {
                return Ok(Arc::clone(open));
            }
        }
        let mut source = Source::open(&self.place(found)?, None, found.allocated < found.size())?;
        let count = chunks(found.size());
        if count == 1 {
            return Ok(Arc::new(source));
        }
        source.announce();
        if self.still && found.stillness() == Stillness::Journal {
            source.keep_head(&self.place(found)?, CHUNK as usize)?;
        }
        // The first one counts: its beginning was read before anything else.
        let source = Arc::new(source);
        Ok(Arc::clone(&self.state().open.entry(number).or_insert((source, count)).0))
    }

    /// How the pages of a tablespace are checked, which begins with `first` where that was just read.
    pub(super) fn space(
        &self,
        number: u32,
        source: &Source,
        place: &Path,
        first: Option<Vec<u8>>,
    ) -> Result<Arc<Space>> {
        if let Some(space) = self.state().spaces.get(&number).filter(|_| first.is_none()) {
            return Ok(Arc::clone(space));
        }
        let found = self.get(number);
        let read = |most: usize| match first {
            Some(first) => Ok(first),
            None => {
                let mut first = vec![0; most.min(usize::try_from(found.size()).unwrap_or(most))];
                source.read(place, 0, &mut first).map(|()| first)
            }
        };
        let system = system_tablespace(&self.roots).unwrap_or_default();
        let space = Space::of(&found.entry.path, (source.as_file(), place), &system, read)?;
        let space = Arc::new(space);
        if chunks(found.size()) > 1 {
            self.state().spaces.insert(number, Arc::clone(&space));
        }
        Ok(space)
    }

    pub(super) fn known(&self, number: u32, chunk: u64) -> Known {
        let state = self.state();
        match &state.had[number as usize] {
            None => Known { digest: None, hints: None, again: false, touched: false, seeded: false },
            Some(had) => Known {
                digest: had.digests.get(chunk),
                hints: had.hints.get(chunk).cloned(),
                again: had.digests.is_fresh(chunk),
                touched: had.touched,
                seeded: state.seeded.contains(&number),
            },
        }
    }

    /// Notes what a chunk was when it was read. If its lane broke, it is read again; if it has changed by then, either
    /// version may have arrived, so it comes again in the next round.
    pub(super) fn record(
        &self,
        number: u32,
        chunk: u64,
        digest: Digest,
        hints: Option<PageHints>,
        suspect: Option<Suspect>,
    ) {
        let mut state = self.state();
        if let Some(had) = &mut state.had[number as usize] {
            match suspect {
                Some(suspect) => had.suspects.insert(chunk, suspect),
                None => had.suspects.retain(|other| other != chunk),
            }
            had.digests.take(chunk, digest);
            if let Some(hints) = hints.filter(|_| had.hints.get(chunk).is_some() || self.may_keep_hints()) {
                had.hints.insert(chunk, hints);
            }
        }
        state.unsure.read(number, chunk..chunk + 1);
        Self::finished(&mut state, number, 1);
    }

    /// How many whole chunks of a file from `chunk` on are all hole, as far as its filesystem tells.
    pub(super) fn empty(&self, number: u32, chunk: u64) -> u64 {
        let found = self.get(number);
        // The first chunk tells what the file is.
        if chunk == 0 || found.allocated >= found.size() {
            return 0;
        }
        let Ok(source) = self.source(number) else { return 0 };
        let data = source.next_data(chunk * CHUNK).min(found.size());
        (data / CHUNK).saturating_sub(chunk)
    }

    pub(super) fn known_run(&self, number: u32, run: Range<u64>, digest: Digest) -> KnownRun {
        let state = self.state();
        let had = state.had[number as usize].as_ref();
        let parts = had.map(|had| had.digests.split(run)).unwrap_or_default();
        let again = |part: &Range<u64>| had.is_some_and(|had| had.digests.has_fresh(part.clone()));
        let same = parts.iter().filter(|(part, known)| *known == Some(digest) && !again(part));
        let same = same.map(|(part, _)| part.end - part.start).sum();
        KnownRun { same, seeded: state.seeded.contains(&number) }
    }

    /// Notes that these chunks were all hole when they were looked at.
    pub(super) fn record_run(&self, number: u32, run: Range<u64>, digest: Digest) {
        let mut state = self.state();
        if let Some(had) = &mut state.had[number as usize] {
            had.suspects.retain(|chunk| !run.contains(&chunk));
            had.hints.retain(|chunk| !run.contains(&chunk));
            had.digests.take_run(run.clone(), digest);
        }
        state.unsure.read(number, run.clone());
        Self::finished(&mut state, number, run.end - run.start);
    }

    /// A chunk that could not be read because the file changed meanwhile.
    pub(super) fn skip(&self, number: u32, chunk: u64) {
        let mut state = self.state();
        if let Some(had) = &mut state.had[number as usize] {
            had.digests.tear(chunk..chunk + 1);
        }
        Self::finished(&mut state, number, 1);
    }

    fn finished(state: &mut State, number: u32, count: u64) {
        if let Some((_, left)) = state.open.get_mut(&number) {
            *left = left.saturating_sub(count);
            if *left == 0 {
                state.open.remove(&number);
            }
        }
    }

    /// The joiner has written this work, so it will not be read again.
    pub(super) fn acknowledged(&self, work: &Work) {
        let (numbers, first, count) = match work {
            Work::Chunks { file, first, count } => (std::slice::from_ref(file), *first, *count),
            Work::Small(numbers) => (numbers.as_slice(), 0, 1),
            Work::Parcel(_) | Work::Piece(_) => return,
        };
        let mut state = self.state();
        for number in numbers {
            state.unsure.acknowledged(*number, first..first + count);
            if let Some((_, left)) = state.clones.get_mut(number) {
                *left = left.saturating_sub(count);
                if *left == 0 {
                    state.clones.remove(number);
                }
            }
        }
    }

    fn may_keep_hints(&self) -> bool {
        let take = |left: usize| left.checked_sub(PageHints::BYTES);
        self.hints_left.fetch_update(Ordering::Relaxed, Ordering::Relaxed, take).is_ok()
    }

    /// Whether hints are still worth making.
    pub(super) fn wants_hints(&self) -> bool {
        self.hints_left.load(Ordering::Relaxed) >= PageHints::BYTES
    }

    /// What the joiner has once all of the round's work is acknowledged. `whole`: no work was left out; otherwise some
    /// may have been read and then lost with its lane.
    pub(super) fn into_basis(self, whole: bool) -> (Roots, Basis) {
        let mut state = self.state.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
        for (number, run) in state.unsure.drain().into_iter().filter(|_| !whole) {
            if let Some(had) = state.had.get_mut(number as usize).and_then(Option::as_mut) {
                had.digests.tear(run);
            }
        }
        let mut had = state.had.into_iter();
        let basis = self.entries.into_iter().map(|Planned { found, task, .. }| {
            let had = had.next().flatten();
            let had = had.map(|mut had| {
                if task.reads() {
                    // For the others it is not known whether metadata was sent, nor what was read.
                    had.touched &= !whole;
                    had.stamp_tells &= whole && had.suspects.is_empty();
                }
                had
            });
            let unsure = !whole && had.is_none() && matches!(task, Task::Send | Task::Update);
            (found, if unsure { Some(Had::nothing(0)) } else { had })
        });
        (self.roots, basis.collect())
    }
}

/// The seal over a whole tree, which must be sorted by path, as the scan makes it.
pub(super) fn seal(basis: &Basis, checksum: Checksum) -> Result<Seal> {
    let mut sealer = Sealer::new(checksum);
    for (found, had) in basis {
        let digest = had.as_ref().and_then(|had| had.digests.fold(checksum));
        if matches!(found.entry.content, Content::File { .. }) != digest.is_some() {
            return Err(Error::new(Kind::Integrity, format!("{} has no complete digest", found.entry.path)));
        }
        sealer.add(&found.entry, digest);
    }
    Ok(sealer.finish())
}
