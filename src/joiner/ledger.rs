//! What has arrived: every entry of the round, and for each file the digests of what was written.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};

use super::staged_tree::{StagedTree, failure};
use super::target::Target;
use crate::archive::{Chunk, Member};
use crate::error::{Error, Kind, Result};
use crate::manifest::{CHUNK, Checksum, Digest, Item, Manifest, chunks};
use crate::threads::lock;
use crate::tree::{Content, Entry, Metadata, RelPath};
use crate::wire::Round;

/// The book of one round. Threads of all lanes write to it.
#[derive(Debug)]
pub struct Ledger {
    checksum: Checksum,
    round: Round,
    tree: StagedTree,
    records: Mutex<BTreeMap<RelPath, Arc<Record>>>,
    /// The lengths of all files that have appeared.
    promised: AtomicU64,
    /// The bytes of all attributes, which are kept in memory until the end.
    attributes: AtomicU64,
    /// Nothing more is taken.
    closed: AtomicBool,
}

/// The most bytes of extended attributes in one tree. A database keeps none.
const ATTRIBUTES: u64 = 32 << 20;

#[derive(Debug)]
struct Record {
    meta: Metadata,
    content: Content,
    progress: Mutex<Progress>,
}

#[derive(Debug)]
enum Progress {
    /// Nothing but a file has content to wait for.
    None,
    Open {
        file: Option<Arc<Target>>,
        /// By the chunk's number. It grows with what arrives, not with what a donor promises.
        digests: BTreeMap<u64, Digest>,
        left: u64,
        /// Threads that write to it now. The same chunk may be among them twice, after a lane broke; the
        /// modification time is set when the last has ended.
        writing: u32,
    },
    Written(Digest),
}

impl Ledger {
    pub fn new(checksum: Checksum, round: Round, tree: StagedTree) -> Ledger {
        Ledger {
            checksum,
            round,
            tree,
            records: Mutex::new(BTreeMap::new()),
            promised: AtomicU64::new(0),
            attributes: AtomicU64::new(0),
            closed: AtomicBool::new(false),
        }
    }

    /// The number of the round.
    pub fn round(&self) -> u16 {
        self.round.number
    }

    /// Takes nothing more: threads that still hold members find that out at the next one.
    pub fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    /// Takes one member; returns the bytes by length that it brings, when it is new.
    pub fn take(&self, member: Member<'_>) -> Result<u64> {
        if self.closed.load(Ordering::Relaxed) {
            return Err(Error::new(Kind::Interrupted, "the transfer has ended"));
        }
        match member {
            Member::Chunk(chunk) => self.chunk(chunk),
            Member::Entry(entry) => {
                if entry.content == Content::Directory {
                    self.tree.make_directory(&entry.path)?;
                }
                self.record(entry).map(|_| 0)
            }
        }
    }

    fn chunk(&self, chunk: Chunk<'_>) -> Result<u64> {
        let (offset, len, digest) = (chunk.offset, chunk.len(), chunk.digest);
        let path = chunk.entry.path.clone();
        if chunk.actual_digest(self.checksum) != digest {
            return Err(Error::new(Kind::Integrity, format!("{path}: the chunk at {offset} arrived damaged"))
                .remedy("memory, disk or network of one of the hosts corrupts data: test them before the next try"));
        }
        let Content::File { size } = chunk.entry.content else {
            return Err(Error::new(Kind::Protocol, format!("{path}: a chunk of something that is no file")));
        };
        let record = self.record(chunk.entry)?;
        let number = offset / CHUNK;
        let file = match &mut *lock(&record.progress) {
            Progress::Open { file, digests, writing, .. } => {
                match digests.get(&number) {
                    None => {}
                    Some(known) if *known == digest => return Ok(0),
                    Some(_) => return Err(twice(&path)),
                }
                *writing += 1;
                match file {
                    Some(file) => Arc::clone(file),
                    None => {
                        let filled = chunks(size) == 1 && chunk.extents.is_whole(len);
                        let made = self.tree.create(&path, if filled { 0 } else { size })?;
                        Arc::clone(file.insert(Arc::new(Target::new(made, size))))
                    }
                }
            }
            // A lane broke between the writing and its acknowledgement, and the chunk came again.
            Progress::Written(known) if chunks(size) > 1 || *known == digest => return Ok(0),
            _ => return Err(twice(&path)),
        };
        let mut rest = chunk.data;
        for run in chunk.extents.iter() {
            let (now, later) = rest.split_at_checked(run.len as usize).ok_or_else(|| twice(&path))?;
            file.write(now, offset + u64::from(run.start)).map_err(|e| failure("cannot write", &path, e))?;
            rest = later;
        }
        self.written(&path, &record, number, digest, file)?;
        Ok(len.into())
    }

    fn written(&self, path: &RelPath, record: &Record, number: u64, digest: Digest, file: Arc<Target>) -> Result<()> {
        let mut progress = lock(&record.progress);
        let Progress::Open { digests, left, writing, .. } = &mut *progress else { return Ok(()) };
        *writing = writing.saturating_sub(1);
        match digests.insert(number, digest) {
            None => *left = left.saturating_sub(1),
            Some(known) if known == digest => {}
            Some(_) => return Err(twice(path)),
        }
        if *left == 0 && *writing == 0 {
            let all: Vec<Digest> = digests.values().copied().collect();
            *progress = Progress::Written(self.checksum.fold(&all));
            drop(progress);
            self.tree.settle(path, file.as_file(), &record.meta)?;
        }
        Ok(())
    }

    /// The record of `entry`, which must be the same each time it is named.
    fn record(&self, entry: Entry) -> Result<Arc<Record>> {
        let Entry { path, meta, content } = entry;
        let mut records = lock(&self.records);
        if let Some(known) = records.get(&path) {
            let same = known.meta == meta && known.content == content;
            return if same { Ok(Arc::clone(known)) } else { Err(twice(&path)) };
        }
        self.tree.examine(&path)?;
        if records.len() as u64 >= self.round.entries {
            return Err(Error::new(
                Kind::Protocol,
                format!("{path}: more than the {} entries that were announced", self.round.entries),
            ));
        }
        let attributes = meta.xattrs.iter().map(|(name, value)| (name.len() + value.len()) as u64).sum::<u64>();
        if self.attributes.fetch_add(attributes, Ordering::Relaxed).saturating_add(attributes) > ATTRIBUTES {
            return Err(Error::new(
                Kind::Limit,
                format!("{path}: more than 32 MiB of extended attributes in one tree"),
            )
            .remedy("remove the attributes in user.* on the donor: a database keeps none"));
        }
        let progress = match content {
            Content::File { size } => {
                let promised = self.promised.load(Ordering::Relaxed).saturating_add(size);
                if promised > self.round.bytes {
                    return Err(Error::new(
                        Kind::Protocol,
                        format!("{path}: more than the {} bytes that were announced", self.round.bytes),
                    ));
                }
                self.promised.store(promised, Ordering::Relaxed);
                Progress::Open { file: None, digests: BTreeMap::new(), left: chunks(size), writing: 0 }
            }
            _ => Progress::None,
        };
        let record = Arc::new(Record { meta, content, progress: Mutex::new(progress) });
        records.insert(path, Arc::clone(&record));
        Ok(record)
    }

    /// Makes the links, settles the directories and gives the manifest of all that was written.
    pub fn finish(self) -> Result<Manifest> {
        let records = self.records.into_inner().unwrap_or_else(|broken| broken.into_inner());
        if records.len() as u64 != self.round.entries {
            return Err(Error::new(
                Kind::Protocol,
                format!("{} of {} entries have arrived", records.len(), self.round.entries),
            ));
        }
        for (path, record) in &records {
            let held =
                |parent| records.get(&parent).is_some_and(|record: &Arc<Record>| record.content == Content::Directory);
            if !path.parent().is_none_or(held) {
                return Err(Error::new(
                    Kind::Protocol,
                    format!("{path} has arrived, and the directory it lies in has not"),
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
        // Deepest first: what happens inside a directory changes its modification time.
        for (path, record) in records.iter().rev().filter(|(_, record)| record.content == Content::Directory) {
            self.tree.settle_directory(path, &record.meta)?;
        }
        let items = records.into_iter().map(|(path, record)| {
            let digest = match &*lock(&record.progress) {
                Progress::Written(digest) => Some(*digest),
                _ => None,
            };
            let entry = Entry { path, meta: record.meta.clone(), content: record.content.clone() };
            Item { entry, digest }
        });
        Manifest::new(self.checksum, items.collect())
    }
}

fn twice(path: &RelPath) -> Error {
    Error::new(Kind::Protocol, format!("{path}: the donor sent it twice, and not the same"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::{Batch, Extents, MemberError, unpack};
    use crate::tree::Mtime;

    fn entry(path: &str, content: Content) -> Entry {
        let meta = Metadata { mode: 0o600, uid: 0, gid: 0, mtime: Mtime { secs: 1, nanos: 2 }, xattrs: vec![] };
        Entry { path: RelPath::parse(path.as_bytes()).unwrap(), meta, content }
    }

    fn ledger(dir: &std::path::Path, entries: u64, bytes: u64) -> Ledger {
        let tree = crate::joiner::staged_tree_for_test(dir);
        Ledger::new(Checksum::Blake3, Round { number: 0, entries, bytes, position: None, domain: None }, tree)
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
        unpack(batch.bytes(), batch.members()).unwrap().into_iter().map(|member| ledger.take(member)).sum()
    }

    #[test]
    fn chunks_in_any_order_make_the_file_and_a_repeated_one_is_harmless() {
        let dir = tempfile::tempdir().unwrap();
        let file = entry("datadir/s/f", Content::File { size: CHUNK + 3 });
        let ledger = ledger(dir.path(), 3, CHUNK + 3);
        ledger.take(Member::Entry(entry("datadir/s", Content::Directory))).unwrap();
        ledger.take(Member::Entry(entry("datadir/h", Content::HardLink { to: file.path.clone() }))).unwrap();
        assert_eq!(take(&ledger, &batch(&file, CHUNK, 2)).unwrap(), 3);
        assert_eq!(take(&ledger, &batch(&file, CHUNK, 2)).unwrap(), 0);
        assert_eq!(take(&ledger, &batch(&file, 0, 1)).unwrap(), CHUNK);
        assert_eq!(take(&ledger, &batch(&file, 0, 1)).unwrap(), 0);
        let manifest = ledger.finish().unwrap();
        let content = std::fs::read(dir.path().join(".highline/incoming/datadir/h")).unwrap();
        assert_eq!(content, [vec![1; CHUNK as usize], vec![2; 3]].concat());
        let digests = [Checksum::Blake3.digest(&content[..CHUNK as usize]), Checksum::Blake3.digest(&[2; 3])];
        assert_eq!(manifest.items()[2].digest, Some(Checksum::Blake3.fold(&digests)));
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
        wrong(take(&ledger, &batch(&file, 0, 2)), "datadir/f: the donor sent it twice, and not the same");
        let longer = entry("datadir/f", Content::File { size: 6 });
        wrong(take(&ledger, &batch(&longer, 0, 1)), "datadir/f: the donor sent it twice, and not the same");
        let below = entry("datadir/f/g", Content::File { size: 1 });
        assert!(take(&ledger, &batch(&below, 0, 1)).is_err());
        assert!(ledger.finish().unwrap_err().sentence().ends_with("of 9 entries have arrived"));
    }

    #[test]
    fn a_directory_that_only_a_path_implies_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path(), 2, 5);
        ledger.take(Member::Entry(entry("datadir/a", Content::Directory))).unwrap();
        take(&ledger, &batch(&entry("datadir/a/b/f", Content::File { size: 5 }), 0, 1)).unwrap();
        let error = ledger.finish().unwrap_err();
        assert_eq!(error.sentence(), "datadir/a/b/f has arrived, and the directory it lies in has not");
    }

    #[test]
    fn a_damaged_chunk_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let ledger = ledger(dir.path(), 1, 5);
        let mut bytes = batch(&entry("datadir/f", Content::File { size: 5 }), 0, 1).into_buffer();
        let at = bytes.len() - 512;
        bytes[at] ^= 1;
        let member = unpack(&bytes, 1).unwrap().pop().unwrap();
        let error = ledger.take(member).unwrap_err();
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
}
