//! What has arrived: every entry of the tree, and for each file the digests of what was written.
//!
//! A later round brings newer versions of what changed: metadata, length, chunks. Whatever it does not bring stays as
//! it was, and the seal covers everything.

use std::collections::{BTreeMap, HashMap};
use std::mem::discriminant;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};

use super::basis::Origin;
use super::read_back::{patched, read_back};
use super::record::{Record, Seed, Staged};
use super::refusal::{announced, out_of_turn, short, twice};
use super::staged_tree::{StagedTree, failure};
use super::target::Target;
use crate::archive::{Chunk, Extents, Member};
use crate::error::{Error, Kind, Result};
use crate::manifest::{CHUNK, Checksum, Item, Manifest, Seen, chunks};
use crate::threads::lock;
use crate::tree::{Content, Entry, Metadata, RelPath};
use crate::wire::Round;

/// The record of all rounds. The threads of all lanes write to it.
#[derive(Debug)]
pub struct Ledger {
    checksum: Checksum,
    /// Read-locked while a member is taken, so that nothing of one round is written after the next has begun.
    round: RwLock<Round>,
    tree: StagedTree,
    records: Mutex<BTreeMap<RelPath, Arc<Record>>>,
    /// Bytes: the lengths of all files that have appeared.
    promised: AtomicU64,
    /// What they may add up to during a round: files that grew may come before files that shrank.
    allowed: AtomicU64,
    /// Bytes of all attributes, which are kept in memory until the end.
    attributes: AtomicU64,
    /// Files this node had, by the path they may become; `None` once it is too late for more.
    seeds: Mutex<Option<HashMap<RelPath, Seed>>>,
    /// Bytes of them that equal the donor's, as far as it has said.
    reused: [AtomicU64; 2],
    /// Nothing more is accepted.
    closed: AtomicBool,
}

/// The most bytes of extended attributes in one tree. A database uses none.
const ATTRIBUTES: u64 = 32 << 20;
/// The most bytes that all files may be long, holes included: each MiB has a digest that is hashed at the end, though
/// nothing need arrive for it.
const LARGEST: u64 = 1 << 50;
/// The most rounds. An honest donor needs a few.
pub(super) const ROUNDS: u16 = 100;

/// Bytes of the new tree that this node already had, by where.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Reused {
    pub old_tree: u64,
    pub earlier_attempt: u64,
}

impl Ledger {
    pub fn new(checksum: Checksum, round: Round, tree: StagedTree) -> Ledger {
        Ledger {
            checksum,
            allowed: AtomicU64::new(round.bytes),
            round: RwLock::new(round),
            tree,
            records: Mutex::new(BTreeMap::new()),
            promised: AtomicU64::new(0),
            attributes: AtomicU64::new(0),
            seeds: Mutex::new(Some(HashMap::new())),
            reused: Default::default(),
            closed: AtomicBool::new(false),
        }
    }

    /// Begins the next round, once the threads still writing for the last one are done. `withdrawn` paths are removed.
    pub fn begin(&self, next: Round, mut withdrawn: Vec<RelPath>) -> Result<()> {
        let mut round = self.round.write().unwrap_or_else(PoisonError::into_inner);
        if round.number.checked_add(1) != Some(next.number) || next.number >= ROUNDS {
            return Err(Error::new(Kind::Protocol, format!("round {} was announced out of turn", next.number)));
        }
        self.weed();
        // What is in a directory goes before the directory.
        withdrawn.sort_unstable();
        for path in withdrawn.into_iter().rev() {
            self.withdraw(&path)?;
        }
        self.allowed.store(self.promised.load(Ordering::Relaxed).saturating_add(next.bytes), Ordering::Relaxed);
        *round = next;
        Ok(())
    }

    /// A file that has come whole is called `to` from now on.
    pub(super) fn rename(&self, from: &RelPath, to: &RelPath) -> Result<()> {
        let _round = self.round.write().unwrap_or_else(PoisonError::into_inner);
        let mut records = lock(&self.records);
        if records.contains_key(to) {
            return Err(twice(to));
        }
        let whole = |record: &&Arc<Record>| record.file.as_ref().is_some_and(|file| lock(file).digests.is_complete());
        let Some(record) = records.get(from).filter(whole).cloned() else {
            return Err(Error::new(Kind::Protocol, format!("{from} is renamed and has not arrived")));
        };
        self.tree.examine(to, &record.content())?;
        self.tree.rename(from, to)?;
        records.remove(from);
        records.insert(to.clone(), record);
        Ok(())
    }

    fn withdraw(&self, path: &RelPath) -> Result<()> {
        // The donor may have been unable to read it when its turn came.
        let Some(record) = lock(&self.records).remove(path) else { return Ok(()) };
        self.charge(path, &record.meta, None)?;
        match (&record.content, &record.file) {
            (_, Some(file)) => {
                let (size, made) = {
                    let file = lock(file);
                    (file.size, file.made)
                };
                self.promised.fetch_sub(size, Ordering::Relaxed);
                if made { self.tree.remove_file(path) } else { Ok(()) }
            }
            (Content::Directory, _) => self.tree.remove_directory(path),
            _ => Ok(()),
        }
    }

    /// Takes a seed for the file that may come under `path`; says whether it did. After the file itself it is useless.
    pub(super) fn plant(&self, path: &RelPath, seed: Seed) -> bool {
        let records = lock(&self.records);
        match &mut *lock(&self.seeds) {
            Some(seeds) if !records.contains_key(path) => seeds.insert(path.clone(), seed).is_none(),
            _ => false,
        }
    }

    /// The round that may use seeds is over.
    fn weed(&self) {
        for (path, seed) in lock(&self.seeds).take().into_iter().flatten() {
            // What an earlier attempt left stays for the next one, in case this one fails. What cannot be removed now
            // goes with the staging area.
            if seed.copied {
                let _ = self.tree.remove_seed(&path, &seed.name);
            }
        }
    }

    /// A new file for `path`: its seed, if there is one.
    fn staged(&self, path: &RelPath, size: u64) -> Result<Staged> {
        let seed = lock(&self.seeds).as_mut().and_then(|seeds| seeds.remove(path));
        let Some(seed) = seed else { return Ok(Staged::new(size)) };
        self.tree.adopt(path, &seed.name)?;
        let known = if seed.size == size { size } else { seed.size.min(size) / CHUNK * CHUNK };
        self.reused[seed.origin as usize].fetch_add(known, Ordering::Relaxed);
        Ok(Staged::seeded(seed.digests, size, seed.origin))
    }

    /// Bytes of this node's own files that equal the donor's. Known once the first round is over.
    pub(super) fn reused(&self) -> Reused {
        let of = |origin: Origin| self.reused[origin as usize].load(Ordering::Relaxed);
        Reused { old_tree: of(Origin::OldTree), earlier_attempt: of(Origin::EarlierAttempt) }
    }

    /// Bytes of all files, as announced by the current round.
    pub(super) fn announced(&self) -> u64 {
        self.round.read().unwrap_or_else(PoisonError::into_inner).bytes
    }

    /// Whether the donor itself learns what this round comes to as it goes.
    pub(super) fn is_streamed(&self) -> bool {
        self.round.read().unwrap_or_else(PoisonError::into_inner).streamed
    }

    pub(super) fn tree(&self) -> &StagedTree {
        &self.tree
    }

    pub(super) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Relaxed)
    }

    /// Accepts nothing more: threads that still hold members find out at the next one.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Takes one member of a frame of round `number`; returns the bytes it adds, by length, if it is new. What a dead
    /// lane still had of an earlier round is ignored: another lane has brought it.
    pub fn take(&self, number: u16, member: Member<'_>) -> Result<u64> {
        let round = self.round.read().unwrap_or_else(PoisonError::into_inner);
        if self.is_closed() {
            return Err(Error::new(Kind::Interrupted, "the transfer has ended"));
        }
        if number < round.number {
            return Ok(0);
        }
        if number > round.number {
            return Err(out_of_turn(number));
        }
        match member {
            Member::Chunk(chunk) => self.chunk(&round, chunk),
            Member::Empty { entry, chunks } => self.empty(&round, entry, chunks),
            Member::Entry(entry) => {
                if entry.content == Content::Directory {
                    self.tree.make_directory(&entry.path)?;
                }
                let path = entry.path.clone();
                let record = self.record(&round, entry)?;
                self.touch(&path, &record)?;
                Ok(0)
            }
        }
    }

    fn chunk(&self, round: &Round, chunk: Chunk<'_>) -> Result<u64> {
        let (offset, len, digest) = (chunk.offset, chunk.len(), chunk.digest);
        let path = chunk.entry.path.clone();
        if !chunk.is_intact(self.checksum) {
            return Err(Error::new(Kind::Integrity, format!("{path}: the chunk at {offset} arrived damaged"))
                .remedy("memory, disk or network of one of the hosts corrupted it: test them before you try again"));
        }
        let record = self.record(round, chunk.entry)?;
        let Some(file) = &record.file else {
            return Err(Error::new(Kind::Protocol, format!("{path}: a chunk of something that is not a file")));
        };
        let (target, punch) = {
            let mut file = lock(file);
            let size = file.size;
            let number = offset / CHUNK;
            if chunk.patch.is_some() && file.digests.get(number).is_none() {
                return Err(Error::new(Kind::Protocol, format!("{path}: a patch of a chunk that is not there")));
            }
            let replaced = file.seeded.filter(|_| file.digests.get(number).is_some());
            // A lane broke between writing and acknowledging, so the chunk came again; or the file changed in between,
            // and then it comes again in a later round.
            if file.digests.take(number, digest) != Seen::New {
                drop(file);
                return self.touch(&path, &record).map(|()| 0);
            }
            match &chunk.patch {
                Some(_) => file.patched.get_or_insert_default().insert(number..number.saturating_add(1)),
                None => file.sent_whole(number..number.saturating_add(1)),
            }
            if let Some(origin) = replaced {
                let bytes = chunk.patch.as_ref().map_or(len as usize, |patch| patch.covers.data_len());
                self.reused[origin as usize].fetch_sub(bytes as u64, Ordering::Relaxed);
            }
            let filled = chunks(size) == 1 && chunk.extents.is_whole(len);
            let target = self.open(&path, size, &mut file, filled)?;
            file.writing += 1;
            (target, file.written_before)
        };
        let failed = |e| failure("cannot write", &path, e);
        if punch {
            let covers = chunk.patch.as_ref().map_or_else(|| Extents::whole(len), |patch| patch.covers.clone());
            for gap in chunk.extents.gaps(&covers) {
                target.clear(offset + u64::from(gap.start), gap.len.into()).map_err(failed)?;
            }
        }
        if chunk.data.len() < chunk.extents.data_len() {
            return Err(short(&path));
        }
        target.write_runs(&chunk.extents, chunk.data, offset).map_err(failed)?;
        self.written(&path, &record)?;
        Ok(len.into())
    }

    /// Takes whole chunks that are all hole: nothing is written but where there was something before.
    fn empty(&self, round: &Round, entry: Entry, run: Range<u64>) -> Result<u64> {
        let path = entry.path.clone();
        let record = self.record(round, entry)?;
        let Some(file) = &record.file else {
            return Err(Error::new(Kind::Protocol, format!("{path}: a chunk of something that is not a file")));
        };
        let (target, clear, new) = {
            let mut file = lock(file);
            let new = file.digests.take_run(run, self.checksum.of_empty_chunk());
            if new.is_empty() {
                drop(file);
                return self.touch(&path, &record).map(|()| 0);
            }
            for (part, had) in &new {
                file.sent_whole(part.clone());
                if let Some(origin) = file.seeded.filter(|_| *had) {
                    self.reused[origin as usize].fetch_sub(length(part), Ordering::Relaxed);
                }
            }
            let size = file.size;
            let target = self.open(&path, size, &mut file, false)?;
            file.writing += 1;
            (target, file.written_before, new)
        };
        for (part, _) in new.iter().filter(|_| clear) {
            target.clear(part.start * CHUNK, length(part)).map_err(|e| failure("cannot write", &path, e))?;
        }
        self.written(&path, &record)?;
        Ok(new.iter().map(|(part, _)| length(part)).sum())
    }

    /// Of a newer version, perhaps only the metadata or the length is new.
    fn touch(&self, path: &RelPath, record: &Record) -> Result<()> {
        let Some(file) = &record.file else { return Ok(()) };
        let mut file = lock(file);
        if !file.written_before || !file.digests.is_complete() {
            return Ok(());
        }
        let size = file.size;
        self.open(path, size, &mut file, false)?;
        file.writing += 1;
        drop(file);
        self.written(path, record)
    }

    /// The open file, of `size` bytes; a new one is empty if the writing itself makes it that long.
    fn open(&self, path: &RelPath, size: u64, file: &mut Staged, filled: bool) -> Result<Arc<Target>> {
        if let Some(target) = &file.target {
            return Ok(Arc::clone(target));
        }
        let open = if file.made {
            self.tree.reopen(path, size)?
        } else {
            self.tree.create(path, if filled { 0 } else { size })?
        };
        file.made = true;
        Ok(Arc::clone(file.target.insert(Arc::new(Target::new(open, size)))))
    }

    /// One thread is done with a file.
    fn written(&self, path: &RelPath, record: &Record) -> Result<()> {
        let Some(file) = &record.file else { return Ok(()) };
        let mut file = lock(file);
        file.writing = file.writing.saturating_sub(1);
        if file.writing > 0 || !file.digests.is_complete() {
            return Ok(());
        }
        let Some(target) = file.target.take() else { return Ok(()) };
        let grown = file.grown.then_some(file.size);
        drop(file);
        if let Some(size) = grown {
            // It ends with a hole, perhaps.
            target.as_file().set_len(size).map_err(|e| failure("cannot make room for", path, e))?;
        }
        self.tree.settle(path, target.as_file(), &record.meta)
    }

    /// The record of `entry`, which must be the same each time a round names it.
    fn record(&self, round: &Round, entry: Entry) -> Result<Arc<Record>> {
        let Entry { path, meta, content } = entry;
        let mut records = lock(&self.records);
        let known = records.get(&path).cloned();
        if let Some(known) = &known {
            let this = known.round == round.number;
            if this && round.streamed && known.meta == meta && self.grows(&path, round, known, &content)? {
                return Ok(Arc::clone(known));
            }
            match this {
                true if known.meta == meta && known.content() == content => return Ok(Arc::clone(known)),
                false if discriminant(&known.content) == discriminant(&content) => {}
                _ => return Err(twice(&path)),
            }
        } else {
            self.tree.examine(&path, &content)?;
            if records.len() as u64 >= round.entries {
                return Err(Error::new(
                    Kind::Protocol,
                    format!("{path}: more than the {} entries that were announced", round.entries),
                ));
            }
        }
        self.charge(&path, known.as_ref().map_or(&Metadata::default(), |known| &known.meta), Some(&meta))?;
        let file = match content {
            Content::File { size } => {
                let before = known.as_ref().and_then(|known| known.file.as_ref()).map(|file| lock(file).size);
                let others = self.promised.load(Ordering::Relaxed).saturating_sub(before.unwrap_or(0));
                self.promise(&path, round, others.saturating_add(size))?;
                let known = known.as_ref().and_then(|known| known.file.as_ref());
                Some(Mutex::new(match known {
                    Some(known) => lock(known).renewed(size),
                    None => self.staged(&path, size)?,
                }))
            }
            _ => None,
        };
        let record = Arc::new(Record { round: round.number, meta, content, file });
        records.insert(path, Arc::clone(&record));
        Ok(record)
    }

    /// Notes what all files add up to now.
    fn promise(&self, path: &RelPath, round: &Round, bytes: u64) -> Result<()> {
        if bytes > self.allowed.load(Ordering::Relaxed) {
            return Err(announced(path, round));
        }
        if bytes > LARGEST {
            return Err(Error::new(Kind::Limit, format!("{path}: with it the files are longer than 1 PiB in all"))
                .remedy("the donor has a file whose length is wrong: most of it must be a hole"));
        }
        self.promised.store(bytes, Ordering::Relaxed);
        Ok(())
    }

    /// Whether `known` is the same file as this one of a stream, which may tell that it is longer.
    fn grows(&self, path: &RelPath, round: &Round, known: &Record, content: &Content) -> Result<bool> {
        let (Some(file), Content::File { size }) = (&known.file, content) else { return Ok(false) };
        let mut file = lock(file);
        if *size > file.size {
            let promised = self.promised.load(Ordering::Relaxed).saturating_add(size.saturating_sub(file.size));
            self.promise(path, round, promised)?;
            file.grow(*size);
        }
        Ok(true)
    }

    /// Counts the attributes an entry has now instead of those it had.
    fn charge(&self, path: &RelPath, before: &Metadata, now: Option<&Metadata>) -> Result<()> {
        let of = |meta: &Metadata| meta.xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum();
        let (before, now): (u64, u64) = (of(before), now.map_or(0, of));
        self.attributes.fetch_sub(before, Ordering::Relaxed);
        if self.attributes.fetch_add(now, Ordering::Relaxed).saturating_add(now) > ATTRIBUTES {
            return Err(Error::new(
                Kind::Limit,
                format!("{path}: more than 32 MiB of extended attributes in one tree"),
            )
            .remedy("remove the user.* attributes on the donor: a database uses none"));
        }
        Ok(())
    }

    /// Makes the links, settles the directories, and returns the manifest of all that was written, with the last
    /// round's announcement.
    pub fn finish(self) -> Result<(Manifest, Round)> {
        self.weed();
        let records = self.records.into_inner().unwrap_or_else(PoisonError::into_inner);
        let round = self.round.into_inner().unwrap_or_else(PoisonError::into_inner);
        if records.len() as u64 != round.entries {
            return Err(Error::new(
                Kind::Protocol,
                format!("{} of {} entries have arrived", records.len(), round.entries),
            ));
        }
        read_back(&self.tree, self.checksum, &patched(&records))?;
        for (path, record) in &records {
            let held =
                |parent| records.get(&parent).is_some_and(|record: &Arc<Record>| record.content == Content::Directory);
            if !path.parent().is_none_or(held) {
                return Err(Error::new(
                    Kind::Protocol,
                    format!("{path} has arrived, but the directory it is in has not"),
                ));
            }
            match &record.content {
                Content::Symlink { target } => self.tree.make_symlink(path, target, &record.meta)?,
                Content::HardLink { to } => {
                    if !records.get(to).is_some_and(|target| matches!(target.content, Content::File { .. })) {
                        return Err(Error::new(
                            Kind::Protocol,
                            format!("{path}: {to}, which it links to, has not arrived"),
                        ));
                    }
                    self.tree.make_hard_link(path, to)?;
                }
                _ => {}
            }
        }
        // Deepest first: changes inside a directory change its modification time.
        for (path, record) in records.iter().rev().filter(|(_, record)| record.content == Content::Directory) {
            self.tree.settle_directory(path, &record.meta)?;
        }
        let mut items = Vec::with_capacity(records.len());
        let mut bytes = 0u64;
        for (path, record) in records {
            let digest = match &record.file {
                Some(file) if lock(file).digests.is_torn() => return Err(twice(&path)),
                Some(file) => lock(file).digests.fold(self.checksum),
                None => None,
            };
            let content = record.content();
            if let Content::File { size } = content {
                bytes = bytes.saturating_add(size);
                if bytes > round.bytes {
                    return Err(announced(&path, &round));
                }
            }
            items.push(Item { entry: Entry { path, meta: record.meta.clone(), content }, digest });
        }
        Ok((Manifest::new(self.checksum, items)?, round))
    }
}

/// Bytes of whole chunks.
fn length(run: &Range<u64>) -> u64 {
    run.end.saturating_sub(run.start).saturating_mul(CHUNK)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Batch, Extents, MemberError, unpack};
    use crate::manifest::FileDigests;
    use crate::tree::Mtime;

    fn entry(path: &str, content: Content) -> Entry {
        let meta =
            Metadata { mode: 0o600, uid: 0, gid: 0, mtime: Mtime { secs: 1, nanos: 2 }, xattrs: Default::default() };
        Entry { path: RelPath::parse(path.as_bytes()).unwrap(), meta, content }
    }

    fn ledger(dir: &std::path::Path, entries: u64, bytes: u64) -> Ledger {
        let tree = crate::joiner::staged_tree_for_test(dir);
        Ledger::new(Checksum::Blake3, Round { number: 0, entries, bytes, streamed: false, position: None }, tree)
    }

    fn round(number: u16, entries: u64, bytes: u64) -> Round {
        Round { number, entries, bytes, streamed: false, position: None }
    }

    fn batch(entry: &Entry, offset: u64, byte: u8) -> Batch {
        let Content::File { size } = entry.content else { panic!() };
        let len = (size - offset).min(CHUNK) as u32;
        let mut batch = Batch::default();
        let filled = batch.push_chunk::<MemberError>(entry, offset, &Extents::whole(len), Checksum::Blake3, |data| {
            data.fill(byte);
            Ok(())
        });
        filled.unwrap();
        batch
    }

    fn take(ledger: &Ledger, batch: &Batch) -> Result<u64> {
        unpack(batch.bytes(), batch.members()).unwrap().into_iter().map(|member| ledger.take(0, member)).sum()
    }

    #[test]
    fn chunks_in_any_order_make_the_file_and_a_repeated_one_is_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let file = entry("datadir/s/f", Content::File { size: CHUNK + 3 });
        let ledger = ledger(dir.path(), 3, CHUNK + 3);
        ledger.take(0, Member::Entry(entry("datadir/s", Content::Directory))).unwrap();
        ledger.take(0, Member::Entry(entry("datadir/h", Content::HardLink { to: file.path.clone() }))).unwrap();
        assert_eq!(take(&ledger, &batch(&file, CHUNK, 2)).unwrap(), 3);
        assert_eq!(take(&ledger, &batch(&file, CHUNK, 2)).unwrap(), 0);
        assert_eq!(take(&ledger, &batch(&file, 0, 1)).unwrap(), CHUNK);
        assert_eq!(take(&ledger, &batch(&file, 0, 1)).unwrap(), 0);
        let (manifest, _) = ledger.finish().unwrap();
        let content = std::fs::read(dir.path().join(".highline/incoming/datadir/h")).unwrap();
        assert_eq!(content, [vec![1; CHUNK as usize], vec![2; 3]].concat());
        let digests = [Checksum::Blake3.digest(&content[..CHUNK as usize]), Checksum::Blake3.digest(&[2; 3])];
        assert_eq!(manifest.items()[2].digest, Some(Checksum::Blake3.fold(&digests)));
    }

    #[test]
    fn in_a_stream_a_file_grows_and_only_there() {
        let dir = tempfile::tempdir().unwrap();
        let of = |size| entry("datadir/f", Content::File { size });
        let tree = crate::joiner::staged_tree_for_test(dir.path());
        let streamed = Round { streamed: true, ..round(0, 9, 3 * CHUNK) };
        let ledger = Ledger::new(Checksum::Blake3, streamed, tree);
        // The last first, with a hole at its end; then those that were sent when less was known.
        let mut last = Batch::default();
        let extents = Extents::new(vec![crate::archive::Extent { start: 0, len: 5 }], 9).unwrap();
        let filled =
            last.push_chunk::<MemberError>(&of(2 * CHUNK + 9), 2 * CHUNK, &extents, Checksum::Blake3, |data| {
                data.fill(3);
                Ok(())
            });
        filled.unwrap();
        take(&ledger, &last).unwrap();
        assert_eq!(take(&ledger, &batch(&of(CHUNK + 1), 0, 1)).unwrap(), CHUNK);
        assert_eq!(take(&ledger, &batch(&of(2 * CHUNK + 1), CHUNK, 2)).unwrap(), CHUNK);
        assert_eq!(take(&ledger, &batch(&of(CHUNK + 1), 0, 1)).unwrap(), 0);
        let mut beyond = Batch::default();
        beyond.push_entry(&of(3 * CHUNK + 1)).unwrap();
        let error = take(&ledger, &beyond).unwrap_err();
        assert_eq!(error.sentence(), "datadir/f: more than the 3145728 bytes that were announced");
        ledger.begin(round(1, 1, 2 * CHUNK + 9), Vec::new()).unwrap();
        let path = |text: &str| RelPath::parse(text.as_bytes()).unwrap();
        for (from, to, why) in [
            ("datadir/f", "datadir/f", "datadir/f: the donor sent it twice, with different content"),
            ("datadir/g", "datadir/h", "datadir/g is renamed and has not arrived"),
            ("datadir/f", "datadir/grastate.dat", "datadir/grastate.dat: this node has no place for it"),
        ] {
            assert_eq!(ledger.rename(&path(from), &path(to)).unwrap_err().sentence(), why);
        }
        ledger.rename(&path("datadir/f"), &path("datadir/g")).unwrap();
        let (manifest, _) = ledger.finish().unwrap();
        assert_eq!(manifest.items()[0].entry, Entry { path: path("datadir/g"), ..of(2 * CHUNK + 9) });
        let content = std::fs::read(dir.path().join(".highline/incoming/datadir/g")).unwrap();
        let chunk = CHUNK as usize;
        assert!(content == [vec![1; chunk], vec![2; chunk], vec![3; 5], vec![0; 4]].concat());
    }

    #[test]
    fn a_run_of_holes_clears_what_was_there_before() {
        let dir = tempfile::tempdir().unwrap();
        let file = entry("datadir/f", Content::File { size: 5 * CHUNK + 3 });
        let ledger = ledger(dir.path(), 1, 5 * CHUNK + 3);
        let run = |round, chunks: std::ops::Range<u64>| {
            let mut batch = Batch::default();
            batch.push_empty(&file, chunks).unwrap();
            at(&ledger, round, &batch)
        };
        for chunk in [0, 2, 5] {
            take(&ledger, &batch(&file, chunk * CHUNK, 1)).unwrap();
        }
        assert_eq!([run(0, 3..5), run(0, 1..2), run(0, 1..2)].map(|bytes| bytes.unwrap() / CHUNK), [2, 1, 0]);
        // A later round: the run replaces one chunk and a patch of another, and is replaced in turn.
        ledger.begin(round(1, 1, 5 * CHUNK + 3), vec![]).unwrap();
        at(&ledger, 1, &patch(&file, 0, &[vec![7; 16_384], vec![1; (1 << 20) - 16_384]].concat(), "0+16384")).unwrap();
        ledger.begin(round(2, 1, 5 * CHUNK + 3), vec![]).unwrap();
        assert_eq!(run(2, 0..4).unwrap(), 2 * CHUNK, "two of them were so already");
        at(&ledger, 2, &batch(&file, 4 * CHUNK, 9)).unwrap();
        let (manifest, _) = ledger.finish().unwrap();
        let content = std::fs::read(dir.path().join(".highline/incoming/datadir/f")).unwrap();
        assert!(content == [vec![0; 4 << 20], vec![9; 1 << 20], vec![1; 3]].concat());
        let digests: Vec<_> = content.chunks(1 << 20).map(|part| Checksum::Blake3.digest(part)).collect();
        assert_eq!(manifest.items()[0].digest, Some(Checksum::Blake3.fold(&digests)));
        use std::os::unix::fs::MetadataExt;
        let blocks = std::fs::metadata(dir.path().join(".highline/incoming/datadir/f")).unwrap().blocks();
        assert!(blocks * 512 < 2 * CHUNK, "{blocks}");
    }

    #[test]
    fn what_was_not_announced_or_changes_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let file = entry("datadir/f", Content::File { size: 5 });
        let wrong = |result: Result<u64>, what: &str| {
            let error = result.unwrap_err();
            assert_eq!((error.kind(), error.sentence().as_str()), (Kind::Protocol, what));
        };
        wrong(
            take(&ledger(dir.path(), 0, 5), &batch(&file, 0, 1)),
            "datadir/f: more than the 0 entries that were announced",
        );
        wrong(
            take(&ledger(dir.path(), 1, 4), &batch(&file, 0, 1)),
            "datadir/f: more than the 4 bytes that were announced",
        );
        let ledger = ledger(dir.path(), 9, 99);
        take(&ledger, &batch(&file, 0, 1)).unwrap();
        let longer = entry("datadir/f", Content::File { size: 6 });
        wrong(take(&ledger, &batch(&longer, 0, 1)), "datadir/f: the donor sent it twice, with different content");
        let below = entry("datadir/f/g", Content::File { size: 1 });
        assert!(take(&ledger, &batch(&below, 0, 1)).is_err());
        assert!(ledger.finish().unwrap_err().sentence().ends_with("of 9 entries have arrived"));
    }

    #[test]
    fn a_directory_that_only_a_path_implies_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path(), 2, 5);
        ledger.take(0, Member::Entry(entry("datadir/a", Content::Directory))).unwrap();
        take(&ledger, &batch(&entry("datadir/a/b/f", Content::File { size: 5 }), 0, 1)).unwrap();
        let error = ledger.finish().unwrap_err();
        assert_eq!(error.sentence(), "datadir/a/b/f has arrived, but the directory it is in has not");
    }

    #[test]
    fn a_damaged_chunk_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path(), 1, 5);
        let mut bytes = batch(&entry("datadir/f", Content::File { size: 5 }), 0, 1).into_buffer();
        let at = bytes.len() - 512;
        bytes[at] ^= 1;
        let member = unpack(&bytes, 1).unwrap().pop().unwrap();
        let error = ledger.take(0, member).unwrap_err();
        assert_eq!(
            (error.kind(), error.sentence().as_str()),
            (Kind::Integrity, "datadir/f: the chunk at 0 arrived damaged")
        );
        assert!(!dir.path().join(".highline/incoming/datadir/f").exists());
    }

    #[test]
    fn a_file_with_a_missing_chunk_cannot_be_sealed() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path(), 1, 2 * CHUNK);
        take(&ledger, &batch(&entry("datadir/f", Content::File { size: 2 * CHUNK }), 0, 1)).unwrap();
        assert_eq!(ledger.finish().unwrap_err().sentence(), "datadir/f has no complete digest");
    }

    fn holed(entry: &Entry, data: &str) -> Batch {
        let Content::File { size } = entry.content else { panic!() };
        let mut batch = Batch::default();
        let runs = Extents::parse(data, size as u32).unwrap();
        batch
            .push_chunk::<MemberError>(entry, 0, &runs, Checksum::Blake3, |place| {
                place.fill(9);
                Ok(())
            })
            .unwrap();
        batch
    }

    fn at(ledger: &Ledger, round: u16, batch: &Batch) -> Result<u64> {
        unpack(batch.bytes(), batch.members()).unwrap().into_iter().map(|member| ledger.take(round, member)).sum()
    }

    #[test]
    fn a_later_round_brings_newer_versions_and_nothing_old_stays() {
        let dir = tempfile::tempdir().unwrap();
        let staged = dir.path().join(".highline/incoming/datadir");
        let file = |name: &str, size| entry(&format!("datadir/{name}"), Content::File { size });
        let ledger = ledger(dir.path(), 7, 9 * CHUNK);
        ledger.take(0, Member::Entry(entry("datadir/s", Content::Directory))).unwrap();
        for name in ["s/gone", "shorter", "longer", "holed", "touched", "again"] {
            let file = file(name, CHUNK + 5);
            take(&ledger, &batch(&file, CHUNK, 2)).unwrap();
            take(&ledger, &batch(&file, 0, 1)).unwrap();
        }
        ledger
            .begin(round(1, 6, 9 * CHUNK), vec![file("s/gone", 0).path, entry("datadir/s", Content::Directory).path])
            .unwrap();
        assert!(!staged.join("s").exists());
        assert_eq!(at(&ledger, 0, &batch(&file("longer", CHUNK + 5), 0, 7)).unwrap(), 0, "of a dead lane");
        assert!(at(&ledger, 2, &batch(&file("longer", CHUNK + 5), 0, 7)).is_err());

        // Only what changed comes: of one its length, of one its last chunk, of one its mode.
        let mut touched = file("touched", CHUNK + 5);
        (touched.meta.mode, touched.meta.mtime.secs) = (0o400, 77);
        for entry in [file("shorter", CHUNK), file("longer", CHUNK + 9), touched.clone(), file("holed", CHUNK)] {
            ledger.take(1, Member::Entry(entry)).unwrap();
        }
        assert_eq!(at(&ledger, 1, &batch(&file("longer", CHUNK + 9), CHUNK, 3)).unwrap(), 9);
        at(&ledger, 1, &holed(&file("holed", CHUNK), "4096+4096")).unwrap();
        // A chunk that changes within a round leaves the file open, until it has come whole in a later one.
        at(&ledger, 1, &batch(&file("again", CHUNK + 5), 0, 4)).unwrap();
        at(&ledger, 1, &batch(&file("again", CHUNK + 5), 0, 5)).unwrap();
        at(&ledger, 1, &batch(&file("fresh", 3), 0, 6)).unwrap();
        ledger.begin(round(2, 6, 9 * CHUNK), vec![]).unwrap();
        for (offset, byte) in [(0, 5), (CHUNK, 2)] {
            at(&ledger, 2, &batch(&file("again", CHUNK + 5), offset, byte)).unwrap();
        }
        // A file that its owner may not write to any more.
        touched.content = Content::File { size: CHUNK + 6 };
        let mut fresh = file("fresh", 3);
        fresh.meta.mode = 0o400;
        assert_eq!(at(&ledger, 2, &batch(&fresh, 0, 6)).unwrap(), 0);
        at(&ledger, 2, &batch(&touched, CHUNK, 8)).unwrap();

        let (manifest, last) = ledger.finish().unwrap();
        assert_eq!((manifest.items().len(), last.number), (6, 2));
        let first = |byte| vec![byte; CHUNK as usize];
        let mut hole = vec![0; CHUNK as usize];
        hole[4096..8192].fill(9);
        for (name, content) in [
            ("shorter", first(1)),
            ("longer", [first(1), vec![3; 9]].concat()),
            ("holed", hole),
            ("touched", [first(1), vec![8; 6]].concat()),
            ("again", [first(5), vec![2; 5]].concat()),
            ("fresh", vec![6; 3]),
        ] {
            assert!(std::fs::read(staged.join(name)).unwrap() == content, "{name}");
            let item = manifest.items().iter().find(|item| item.entry.path == file(name, 0).path).unwrap();
            let digests: Vec<_> = content.chunks(CHUNK as usize).map(|part| Checksum::Blake3.digest(part)).collect();
            assert_eq!(item.digest, Some(Checksum::Blake3.fold(&digests)), "{name}");
        }
        use std::os::unix::fs::MetadataExt;
        let stat = std::fs::metadata(staged.join("touched")).unwrap();
        assert_eq!((stat.mode() & 0o777, stat.mtime()), (0o400, 77));
        assert_eq!(std::fs::metadata(staged.join("fresh")).unwrap().mode() & 0o777, 0o400);
        assert!(std::fs::metadata(staged.join("holed")).unwrap().blocks() * 512 < CHUNK / 2);
    }

    fn seed(name: &str, size: u64, digests: FileDigests) -> Seed {
        Seed { name: name.into(), origin: Origin::OldTree, copied: true, size, digests }
    }

    /// A seed of `content`, as if this node had it.
    fn planted(ledger: &Ledger, path: &str, content: &[u8]) -> bool {
        let path = RelPath::parse(path.as_bytes()).unwrap();
        std::io::Write::write_all(&mut ledger.tree().make_seed(&path, "4".as_ref()).unwrap(), content).unwrap();
        let mut digests = FileDigests::new(content.len() as u64);
        for (chunk, bytes) in (0..).zip(content.chunks(CHUNK as usize)) {
            digests.take(chunk, Checksum::Blake3.digest(bytes));
        }
        ledger.plant(&path, seed("4", content.len() as u64, digests))
    }

    fn patch(entry: &Entry, offset: u64, whole: &[u8], covers: &str) -> Batch {
        let mut batch = Batch::default();
        let covers = Extents::parse(covers, whole.len() as u32).unwrap();
        let digest = Checksum::Blake3.digest(whole);
        let packed =
            batch.push_patch::<MemberError>(entry, offset, (&covers, &covers), digest, Checksum::Blake3, |place| {
                let run = covers.iter().next().unwrap();
                place.copy_from_slice(&whole[run.start as usize..][..run.len as usize]);
                Ok(())
            });
        packed.unwrap();
        batch
    }

    #[test]
    fn a_seed_becomes_the_file_when_it_is_spoken_of() {
        let mib = CHUNK as usize;
        let old: Vec<u8> = [vec![1; mib], vec![2; mib], vec![3; 500]].concat();
        let changed = |at: std::ops::Range<usize>, byte, size| {
            let mut now = old.clone();
            now.resize(size, byte);
            now[at].fill(byte);
            now
        };
        let end = old.len();
        // What the donor has now, the chunks that it sends whole or as patches, and what is reused.
        for (now, whole, patched, reused) in [
            (old.clone(), vec![], None, end),
            (changed(16_384..32_768, 7, end), vec![], Some("16384+16384"), end - 16_384),
            (changed(mib..2 * mib, 7, end), vec![1], None, end - mib),
            (changed(0..0, 7, end + mib), vec![2, 3], None, 2 * mib),
            (changed(0..0, 7, mib + 3), vec![1], None, mib),
            (changed(0..0, 7, 100), vec![0], None, 0),
            (changed(0..end, 0, end), vec![0, 1, 2], None, 0),
        ] {
            let dir = tempfile::tempdir().unwrap();
            let file = entry("datadir/f", Content::File { size: now.len() as u64 });
            let ledger = ledger(dir.path(), 1, now.len() as u64);
            assert!(planted(&ledger, "datadir/f", &old));
            assert!(!dir.path().join(".highline/incoming/datadir/f").exists());
            ledger.take(0, Member::Entry(file.clone())).unwrap();
            assert!(!planted_again(&ledger), "too late");
            let mut digests = Vec::new();
            for (chunk, bytes) in (0..).zip(now.chunks(mib)) {
                digests.push(Checksum::Blake3.digest(bytes));
                if whole.contains(&chunk) {
                    // What is all zeros comes as a hole.
                    let zeros = bytes.iter().all(|byte| *byte == 0);
                    let runs = if zeros { Extents::default() } else { Extents::whole(bytes.len() as u32) };
                    let mut batch = Batch::default();
                    let filled =
                        batch.push_chunk::<MemberError>(&file, chunk * CHUNK, &runs, Checksum::Blake3, |data| {
                            data.copy_from_slice(&bytes[..data.len()]);
                            Ok(())
                        });
                    filled.unwrap();
                    take(&ledger, &batch).unwrap();
                }
            }
            if let Some(covers) = patched {
                take(&ledger, &patch(&file, 0, &now[..mib], covers)).unwrap();
            }
            assert_eq!(
                ledger.reused(),
                Reused { old_tree: reused as u64, earlier_attempt: 0 },
                "{whole:?} {patched:?}"
            );
            let (manifest, _) = ledger.finish().unwrap();
            assert!(std::fs::read(dir.path().join(".highline/incoming/datadir/f")).unwrap() == now, "{whole:?}");
            assert_eq!(manifest.items()[0].digest, Some(Checksum::Blake3.fold(&digests)));
            let seeds = std::fs::read_dir(dir.path().join(".highline/seeds/datadir")).unwrap().count();
            assert_eq!(seeds, 0);
        }
    }

    fn planted_again(ledger: &Ledger) -> bool {
        let path = RelPath::parse(b"datadir/f").unwrap();
        ledger.plant(&path, seed("5", 1, FileDigests::new(1)))
    }

    /// The file came whole before anybody knew of the seed, and the seeds of a round are of no use in the next.
    #[test]
    fn a_seed_that_is_late_or_of_no_use_goes() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path(), 2, 99);
        let seeds = || std::fs::read_dir(dir.path().join(".highline/seeds/datadir")).unwrap().count();
        take(&ledger, &batch(&entry("datadir/f", Content::File { size: 5 }), 0, 1)).unwrap();
        assert!(!planted_again(&ledger));
        assert!(planted(&ledger, "datadir/g", b"hello") && seeds() == 1);
        ledger.begin(round(1, 2, 99), vec![]).unwrap();
        assert_eq!(seeds(), 0);
        assert!(!planted(&ledger, "datadir/h", b"hello"), "its round is over");
        let new = entry("datadir/g", Content::File { size: 5 });
        at(&ledger, 1, &batch(&new, 0, 3)).unwrap();
        ledger.finish().unwrap();
        assert_eq!(std::fs::read(dir.path().join(".highline/incoming/datadir/g")).unwrap(), [3; 5]);
    }

    /// Whoever believes digests that are not those of the content is found out: by the seal where nothing was sent, by
    /// what is read back where a part was.
    #[test]
    fn a_lie_about_a_seed_ends_in_a_refusal() {
        let dir = tempfile::tempdir().unwrap();
        let now = vec![1; CHUNK as usize];
        let file = entry("datadir/f", Content::File { size: CHUNK });
        let sealed = |dir: &std::path::Path, old: &[u8], what: &dyn Fn(&Ledger)| {
            let ledger = ledger(dir, 1, CHUNK);
            assert!(planted(&ledger, "datadir/f", old));
            ledger.take(0, Member::Entry(file.clone())).unwrap();
            what(&ledger);
            let theirs = Manifest::new(
                Checksum::Blake3,
                vec![Item { entry: file.clone(), digest: Some(Checksum::Blake3.digest(&now)) }],
            );
            ledger.finish().and_then(|(manifest, _)| manifest.verify(theirs.unwrap().seal()))
        };
        assert!(sealed(dir.path(), &now, &|_| {}).is_ok());
        let mut old = now.clone();
        old[700_000] = 9;
        let dir = tempfile::tempdir().unwrap();
        let error = sealed(dir.path(), &old, &|_| {}).unwrap_err();
        assert!(error.sentence().starts_with("the copy is not what the donor sealed"), "{}", error.sentence());
        let dir = tempfile::tempdir().unwrap();
        let patched = |ledger: &Ledger| _ = take(ledger, &patch(&file, 0, &now, "0+16384")).unwrap();
        let error = sealed(dir.path(), &old, &patched).unwrap_err();
        assert!(
            error.sentence().ends_with("differs from the donor's, although its parts were right"),
            "{}",
            error.sentence()
        );
    }

    #[test]
    fn what_stays_torn_or_grows_is_refused_at_the_end() {
        let dir = tempfile::tempdir().unwrap();
        let torn = ledger(dir.path(), 1, 5);
        let file = entry("datadir/f", Content::File { size: 5 });
        take(&torn, &batch(&file, 0, 1)).unwrap();
        take(&torn, &batch(&file, 0, 2)).unwrap();
        assert_eq!(torn.finish().unwrap_err().sentence(), "datadir/f: the donor sent it twice, with different content");

        let dir = tempfile::tempdir().unwrap();
        let grows = ledger(dir.path(), 1, 5);
        take(&grows, &batch(&file, 0, 1)).unwrap();
        grows.begin(round(1, 1, 5), vec![]).unwrap();
        at(&grows, 1, &batch(&entry("datadir/f", Content::File { size: 9 }), 0, 1)).unwrap();
        assert_eq!(grows.finish().unwrap_err().sentence(), "datadir/f: more than the 5 bytes that were announced");
    }
}
