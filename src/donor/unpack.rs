//! Takes a backup's stream apart: its files become chunks, and small ones share parcels.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io::Read;
use std::sync::{Arc, Mutex};

use super::parcel::{Chunk, Parcel, Piece};
use crate::backup::mbstream::{Reader, Said, StreamError};
use crate::backup::{CHECKPOINTS, GALERA_INFO, position};
use crate::error::{Error, Kind, Printable, Result};
use crate::manifest::{CHUNK, Checksum, FileDigests, Seal, Sealer};
use crate::position::GaleraGtid;
use crate::threads::lock;
use crate::tree::{Content, Entry, Metadata, RelPath, RootName, Roots, is_link_file};

/// The most files that may be open at once; of each at most one chunk is held.
const OPEN: usize = 128;
/// The most pieces in a parcel.
const PIECES: usize = 256;

/// What a stream contained, once all of it has been passed on.
#[derive(Debug, Default)]
pub(super) struct Unpacked {
    /// Ordered by path, under the names that files have at the end.
    files: BTreeMap<RelPath, Held>,
    /// What arrived and no longer counts.
    pub(super) withdrawn: Vec<RelPath>,
    /// The server's position, as the backup reports it.
    pub(super) position: Option<GaleraGtid>,
}

#[derive(Debug)]
struct Held {
    entry: Entry,
    /// Of a file.
    digests: Option<Arc<Mutex<FileDigests>>>,
    /// The name it was sent under.
    sent: RelPath,
}

impl Unpacked {
    /// Of all files by length.
    pub(super) fn bytes(&self) -> u64 {
        self.files.values().fold(0, |sum, held| match held.entry.content {
            Content::File { size } => sum.saturating_add(size),
            _ => sum,
        })
    }

    /// Files that have been renamed since they were sent, in an order in which each new name is free; of two that swap
    /// names, one gets a third name in between.
    pub(super) fn renamed(&self) -> Result<Vec<(RelPath, RelPath)>> {
        let other = self.files.iter().filter(|(path, held)| **path != held.sent);
        let mut left: BTreeMap<RelPath, RelPath> = other.map(|(to, held)| (held.sent.clone(), to.clone())).collect();
        let mut renamed = Vec::new();
        while let Some((first, _)) = left.first_key_value() {
            let mut next = first.clone();
            // From one to whichever file has its new name: to the last, or back to the first.
            while let Some(to) = left.get(&next).filter(|to| left.contains_key(to) && **to != *first) {
                next = to.clone();
            }
            let Some(to) = left.remove(&next) else { break };
            if left.contains_key(&to) {
                let aside = aside(&next, renamed.len())?;
                renamed.push((next, aside.clone()));
                left.insert(aside, to);
            } else {
                renamed.push((next, to));
            }
        }
        Ok(renamed)
    }

    /// Whether a file is there, under the name that it has at the end.
    pub(super) fn has(&self, path: &RelPath) -> bool {
        self.files.contains_key(path)
    }

    pub(super) fn entries(&self) -> u64 {
        self.files.len() as u64
    }

    /// The seal over all of it, once every chunk has been sent.
    pub(super) fn seal(&self, checksum: Checksum) -> Result<Seal> {
        let mut sealer = Sealer::new(checksum);
        for (path, Held { entry, digests, .. }) in &self.files {
            let digest = match digests {
                Some(digests) => Some(
                    lock(digests)
                        .fold(checksum)
                        .ok_or_else(|| Error::new(Kind::Integrity, format!("{path} has no complete digest")))?,
                ),
                None => None,
            };
            sealer.add(entry, digest);
        }
        Ok(sealer.finish())
    }
}

/// Where a stream's files belong, and what they have in common.
#[derive(Clone, Debug)]
pub(super) struct Frame {
    pub(super) roots: Roots,
    /// Where the joiner has files of its own: nothing is sent.
    pub(super) theirs: Vec<RelPath>,
    /// Of each file; the stream has none.
    pub(super) file: Metadata,
    pub(super) directory: Metadata,
}

/// A file of which more may come.
struct Open {
    path: RelPath,
    /// The name that the joiner is told: another one if a file was already sent under `path`.
    sent: RelPath,
    /// How much has arrived; `held` is the end of it.
    len: u64,
    held: Vec<u8>,
    digests: Arc<Mutex<FileDigests>>,
    /// It is not sent.
    stays: bool,
}

/// Reads `stream` to its end. `send` is given each parcel, may wait, and says whether more is wanted.
///
/// # Errors
/// A stream that is malformed, or is not a complete backup.
pub(super) fn unpack(stream: impl Read, frame: &Frame, mut send: impl FnMut(Parcel) -> bool) -> Result<Unpacked> {
    let mut unpacking = Unpacking {
        frame,
        send: &mut send,
        open: HashMap::new(),
        directories: HashSet::new(),
        sent: HashSet::new(),
        small: (Parcel::default(), 0),
        unpacked: Unpacked::default(),
        whole: false,
    };
    let mut reader = Reader::new(stream);
    while let Some((name, said)) = reader.chunk().map_err(malformed)? {
        match said {
            Said::Data { offset, .. } => unpacking.data(&name, offset, &mut reader)?,
            Said::Anew { .. } => {
                unpacking.remove(&name)?;
                unpacking.data(&name, 0, &mut reader)?;
            }
            Said::End => unpacking.end(&name)?,
            Said::Removed => unpacking.remove(&name)?,
            Said::Renamed(to) => unpacking.rename(&name, &to)?,
            Said::Seek => {
                let what = format!("{} was changed again after mariadb-backup had sent it", Printable(&name));
                return Err(Error::new(Kind::Changed, what)
                    .remedy("start the transfer again, or set source=files on the donors"));
            }
        }
    }
    unpacking.finish()
}

struct Unpacking<'a> {
    frame: &'a Frame,
    send: &'a mut dyn FnMut(Parcel) -> bool,
    open: HashMap<Vec<u8>, Open>,
    /// Those that have been sent.
    directories: HashSet<RelPath>,
    /// All names under which a file was sent.
    sent: HashSet<RelPath>,
    /// Small files that wait for others, and their weight.
    small: (Parcel, u64),
    unpacked: Unpacked,
    /// The file that marks a finished backup has arrived.
    whole: bool,
}

impl Unpacking<'_> {
    fn data<R: Read>(&mut self, name: &[u8], offset: u64, reader: &mut Reader<R>) -> Result<()> {
        let mut open = match self.open.remove(name) {
            Some(open) => open,
            None => self.begin(name)?,
        };
        if offset != open.len {
            let what = format!("{} continues at {offset}, not at {}", open.path, open.len);
            return Err(refuse(&what));
        }
        while reader.left() > 0 {
            if open.held.len() as u64 == CHUNK {
                // More follows, so the file is longer than this.
                self.chunk(&mut open, false)?;
            }
            if open.stays {
                open.held.clear();
            }
            let from = open.held.len();
            let room = (CHUNK - from as u64).min(reader.left());
            open.held.resize(from + room as usize, 0);
            reader.data(&mut open.held[from..]).map_err(malformed)?;
            open.len += room;
        }
        self.open.insert(name.to_vec(), open);
        Ok(())
    }

    fn begin(&mut self, name: &[u8]) -> Result<Open> {
        if self.open.len() >= OPEN {
            return Err(refuse(&format!("more than {OPEN} files are open at once")));
        }
        let path = self.path(name)?;
        if is_link_file(&path) {
            return Err(outside_tables(&format!("to which {path} leads")));
        }
        // Binary logs are this node's own; the joiner's server starts new ones.
        let stays = path.root_str() == RootName::BINLOG || self.frame.theirs.iter().any(|own| own.holds(&path));
        if self.unpacked.files.contains_key(&path) || self.open.values().any(|open| open.path == path) {
            return Err(refuse(&format!("{path} appears twice")));
        }
        let sent = if self.sent.contains(&path) { aside(&path, self.sent.len())? } else { path.clone() };
        if !stays {
            self.sent.insert(sent.clone());
        }
        Ok(Open { path, sent, len: 0, held: Vec::new(), digests: Arc::new(Mutex::new(FileDigests::new(0))), stays })
    }

    fn path(&self, name: &[u8]) -> Result<RelPath> {
        let beneath = name.strip_prefix(b"./").unwrap_or(name);
        let first = std::str::from_utf8(beneath).ok().filter(|name| !name.contains('/'));
        let root = first.and_then(|name| self.frame.roots.called(name.as_ref()));
        let root = root.map_or_else(RootName::datadir, |root| root.name.clone());
        RelPath::new(&root, beneath).map_err(|e| refuse("a path is invalid").because(e))
    }

    /// What arrived of a file no longer counts; if it never arrived, there is nothing to do.
    fn remove(&mut self, name: &[u8]) -> Result<()> {
        if let Some(open) = self.open.get(name) {
            return Err(refuse(&format!("{} is removed before its end", open.path)));
        }
        let path = self.path(name)?;
        if self.unpacked.files.get(&path).is_some_and(|held| held.digests.is_some()) {
            let gone = self.unpacked.files.remove(&path);
            self.unpacked.withdrawn.extend(gone.map(|held| held.sent));
        }
        Ok(())
    }

    fn rename(&mut self, name: &[u8], to: &[u8]) -> Result<()> {
        let (from, path) = (self.path(name)?, self.path(to)?);
        if is_link_file(&path) {
            return Err(outside_tables(&format!("to which {path} leads")));
        }
        if self.open.contains_key(name) || self.open.contains_key(to) {
            return Err(refuse(&format!("{from} is renamed before its end")));
        }
        // It never arrived, or arrived under its new name: mbstream does nothing either.
        if self.unpacked.files.get(&from).is_none_or(|held| held.digests.is_none()) {
            return Ok(());
        }
        let Some(mut held) = self.unpacked.files.remove(&from) else { return Ok(()) };
        self.above(&path)?;
        held.entry.path = path.clone();
        let gone = self.unpacked.files.insert(path, held);
        self.unpacked.withdrawn.extend(gone.map(|held| held.sent));
        Ok(())
    }

    fn end(&mut self, name: &[u8]) -> Result<()> {
        let mut open = match self.open.remove(name) {
            Some(open) => open,
            None => self.begin(name)?,
        };
        if open.stays {
            return Ok(());
        }
        let called = open.path.beneath().to_str().unwrap_or_default();
        if GALERA_INFO.contains(&called) && open.len < CHUNK {
            self.unpacked.position = position(&open.held);
        }
        self.whole |= CHECKPOINTS.contains(&called) && open.len > 0;
        self.chunk(&mut open, true)
    }

    /// Passes on what is held.
    fn chunk(&mut self, open: &mut Open, last: bool) -> Result<()> {
        if open.stays {
            open.held.clear();
            return Ok(());
        }
        self.above(&open.path)?;
        let data = std::mem::take(&mut open.held);
        let offset = open.len - data.len() as u64;
        // If it continues, it has at least one more byte.
        let size = open.len + u64::from(!last);
        lock(&open.digests).grow(size);
        let (meta, content) = (self.frame.file.clone(), Content::File { size });
        let entry = Entry { path: open.sent.clone(), meta, content };
        if last {
            let called = Entry { path: open.path.clone(), ..entry.clone() };
            let digests = Some(Arc::clone(&open.digests));
            self.unpacked.files.insert(open.path.clone(), Held { entry: called, digests, sent: open.sent.clone() });
        }
        self.add(Piece { entry, chunk: Some(Chunk { offset, data, last, digests: Arc::clone(&open.digests) }) })
    }

    /// Sends the directories that a file is in.
    fn above(&mut self, path: &RelPath) -> Result<()> {
        let mut above = path.parent();
        let mut named = Vec::new();
        while let Some(directory) = above.filter(|directory| !self.directories.contains(directory)) {
            above = directory.parent();
            named.push(directory);
        }
        for path in named.into_iter().rev() {
            self.directories.insert(path.clone());
            let meta = self.frame.directory.clone();
            let entry = Entry { path: path.clone(), meta, content: Content::Directory };
            self.unpacked.files.insert(path.clone(), Held { entry: entry.clone(), digests: None, sent: path });
            self.add(Piece { entry, chunk: None })?;
        }
        Ok(())
    }

    fn add(&mut self, piece: Piece) -> Result<()> {
        let len = piece.chunk.as_ref().map_or(0, |chunk| chunk.data.len() as u64);
        // Two headers with the name, and its record.
        let weight = len + 2048 + 3 * piece.entry.path.as_bytes().len() as u64;
        if self.small.1 + weight > CHUNK || self.small.0.pieces.len() == PIECES {
            self.flush()?;
        }
        self.small.0.pieces.push(piece);
        self.small.1 += weight;
        if self.small.1 >= CHUNK { self.flush() } else { Ok(()) }
    }

    fn flush(&mut self) -> Result<()> {
        let (parcel, _) = std::mem::take(&mut self.small);
        if parcel.pieces.is_empty() || (self.send)(parcel) {
            return Ok(());
        }
        Err(Error::new(Kind::Interrupted, "the transfer has ended"))
    }

    fn finish(mut self) -> Result<Unpacked> {
        if let Some(open) = self.open.values().next() {
            return Err(breaks_off(&format!("it ends in the middle of {}", open.path)));
        }
        if !self.whole {
            return Err(breaks_off("its file of checkpoints is missing"));
        }
        self.flush()?;
        Ok(self.unpacked)
    }
}

/// A name beside `path` that nobody else has.
fn aside(path: &RelPath, number: usize) -> Result<RelPath> {
    let name = [path.as_bytes(), format!(".highline-{number}").as_bytes()].concat();
    RelPath::parse(&name).map_err(|e| refuse("a path is too long").because(e))
}

/// Tables with `DATA DIRECTORY`, and where.
pub(super) fn outside_tables(place: &str) -> Error {
    let what = format!("there are tables outside the data directory, {place}, which source=mariabackup cannot carry");
    Error::new(Kind::Usage, what).remedy("set source=files on the donors, or move the tables")
}

fn refuse(why: &str) -> Error {
    of_kind(Kind::Protocol, why)
}

/// What has arrived was good, but it is not everything.
fn breaks_off(why: &str) -> Error {
    of_kind(Kind::Disconnected, why)
}

fn of_kind(kind: Kind, why: &str) -> Error {
    Error::new(kind, format!("the stream from mariadb-backup is not a complete backup: {why}"))
        .remedy("see what mariadb-backup says in the donor's log")
}

fn malformed(error: StreamError) -> Error {
    match error {
        StreamError::Cut | StreamError::Io(_) => breaks_off(&error.to_string()),
        _ => refuse(&error.to_string()),
    }
}

#[cfg(test)]
pub(super) mod tests {
    use super::*;
    use crate::backup::mbstream::tests::{anew, chunk, data, end, renamed};
    use std::path::Path;

    fn frame(theirs: &[&str]) -> Frame {
        let mut roots = Roots::new(Path::new("/data"), &BTreeMap::new()).unwrap();
        let binlog = roots.get_mut(RootName::BINLOG).unwrap();
        binlog.scope = crate::tree::Scope::Names(vec!["bin.#".into()]);
        let theirs = theirs.iter().map(|path| RelPath::parse(path.as_bytes()).unwrap()).collect();
        Frame { roots, theirs, file: Metadata::default(), directory: Metadata::default() }
    }

    /// What comes of a stream.
    pub(crate) fn of(stream: &[Vec<u8>]) -> Unpacked {
        unpack(whole(stream).as_slice(), &frame(&[]), |_| true).unwrap()
    }

    /// The files in a stream, with the content of their pieces.
    type Files = (Unpacked, BTreeMap<String, Vec<u8>>, Vec<Parcel>);

    fn files(stream: &[u8], frame: &Frame) -> Result<Files> {
        let (mut files, mut parcels) = (BTreeMap::<String, Vec<u8>>::new(), Vec::new());
        let unpacked = unpack(stream, frame, |parcel| {
            parcels.push(parcel);
            true
        })?;
        for piece in parcels.iter().flat_map(|parcel| &parcel.pieces) {
            let content = files.entry(piece.entry.path.to_string()).or_default();
            let Some(chunk) = &piece.chunk else { continue };
            assert_eq!(chunk.offset, content.len() as u64);
            content.extend_from_slice(&chunk.data);
            let Content::File { size } = piece.entry.content else { panic!() };
            assert!(if chunk.last { size == content.len() as u64 } else { size > content.len() as u64 });
            lock(&chunk.digests).take(chunk.offset / CHUNK, Checksum::Blake3.digest(&chunk.data));
        }
        Ok((unpacked, files, parcels))
    }

    fn whole(parts: &[Vec<u8>]) -> Vec<u8> {
        let last = [data("xtrabackup_checkpoints", 0, b"to_lsn = 1"), end("xtrabackup_checkpoints")].concat();
        [parts.concat(), last].concat()
    }

    #[test]
    fn files_that_come_in_interleaved_pieces_are_whole_again() {
        let chunk = CHUNK as usize;
        let large: Vec<u8> = (0..2 * chunk + 7).map(|n| (n % 251) as u8).collect();
        let exact = vec![3; chunk];
        let info = b"5d1fa5a7-0e29-11f0-8b7e-0242ac120002:7 2";
        let stream = whole(&[
            data("./d/t.ibd", 0, &large[..chunk + 3]),
            data("ibdata1", 0, &exact[..5]),
            data("./d/t.ibd", chunk as u64 + 3, &large[chunk + 3..]),
            data("bin.000007", 0, b"a binary log"),
            end("bin.000007"),
            data("ibdata1", 5, &exact[5..]),
            end("ibdata1"),
            end("./d/t.ibd"),
            end("d/empty.frm"),
            data("xtrabackup_galera_info", 0, info),
            end("xtrabackup_galera_info"),
            data("d/own/x", 0, b"the joiner has its own"),
            end("d/own/x"),
        ]);
        let (unpacked, files, parcels) = files(&stream, &frame(&["datadir/d/own"])).unwrap();
        let names: Vec<&str> = files.keys().map(String::as_str).collect();
        let expected = [
            "datadir/d",
            "datadir/d/empty.frm",
            "datadir/d/t.ibd",
            "datadir/xtrabackup_checkpoints",
            "datadir/xtrabackup_galera_info",
            "innodb-data/ibdata1",
        ];
        assert_eq!(names, expected);
        assert!(files["datadir/d/t.ibd"] == large && files["innodb-data/ibdata1"] == exact);
        let position = unpacked.position.clone().unwrap();
        assert_eq!((position.position.seqno(), position.domain), (7, Some(2)));
        assert_eq!((unpacked.entries(), unpacked.bytes()), (6, (3 * chunk + 7 + 40 + 10) as u64));
        assert_eq!(parcels.iter().map(Parcel::entries).sum::<u64>(), 6);
        assert!(parcels.iter().all(|parcel| parcel.bytes() <= CHUNK));
        assert_eq!(unpacked.seal(Checksum::Blake3).unwrap().entries, 6);
    }

    #[test]
    fn a_stream_that_is_not_a_complete_backup_is_refused() {
        let many: Vec<Vec<u8>> = (0..OPEN + 1).map(|n| data(&n.to_string(), 0, b"1")).collect();
        for (stream, why) in [
            (vec![], "its file of checkpoints is missing"),
            (end("xtrabackup_checkpoints"), "its file of checkpoints is missing"),
            (whole(&[data("a", 0, b"1")]), "it ends in the middle of datadir/a"),
            (whole(&[data("a", 1, b"1")]), "datadir/a continues at 1, not at 0"),
            (whole(&[data("a", 0, b"1"), data("a", 2, b"1")]), "datadir/a continues at 2, not at 1"),
            (whole(&[end("a"), end("./a")]), "datadir/a appears twice"),
            (whole(&[data("a", 0, b"1"), data("./a", 0, b"1")]), "datadir/a appears twice"),
            (whole(&[end("../a")]), "a path is invalid"),
            (whole(&[end("/etc/passwd")]), "a path is invalid"),
            (whole(&[data("a", 0, b"1"), chunk(0, b'D', "a", &[])]), "datadir/a is removed before its end"),
            (whole(&[data("a", 0, b"1"), renamed("a", "b")]), "datadir/a is renamed before its end"),
            (whole(&[end("a"), renamed("a", "../b")]), "a path is invalid"),
            (whole(&many), "more than 128 files are open at once"),
            (b"XBSTCK0".to_vec(), "the stream breaks off in the middle of a chunk"),
        ] {
            let error = files(&stream, &frame(&[])).map(|_| ()).unwrap_err();
            let ends = ["is missing", "it ends", "breaks off"].iter().any(|words| why.contains(words));
            assert_eq!(error.kind(), if ends { Kind::Disconnected } else { Kind::Protocol }, "{why}");
            let sentence = error.sentence();
            assert!(
                sentence.starts_with(&format!("the stream from mariadb-backup is not a complete backup: {why}")),
                "{sentence}"
            );
        }
        for stream in [whole(&[end("d/t.isl")]), whole(&[end("d/t"), renamed("d/t", "d/t.isl")])] {
            let error = files(&stream, &frame(&[])).map(|_| ()).unwrap_err();
            let why =
                "tables outside the data directory, to which datadir/d/t.isl leads, which source=mariabackup cannot";
            assert!(error.kind() == Kind::Usage && error.sentence().contains(why), "{}", error.sentence());
        }
        let sought = whole(&[end("d/t.MYI"), chunk(0, b'S', "d/t.MYI", &[0; 8])]);
        let error = files(&sought, &frame(&[])).map(|_| ()).unwrap_err();
        assert_eq!(error.kind(), Kind::Changed);
        assert_eq!(error.sentence(), "d/t.MYI was changed again after mariadb-backup had sent it");
    }

    #[test]
    fn what_is_dropped_renamed_and_written_anew_meanwhile_is_as_it_is_at_the_end() {
        let file = |name: &str, content: &[u8]| [data(name, 0, content), end(name)].concat();
        let stream = whole(&[
            file("d/dropped", b"0"),
            file("d/a", b"1"),
            file("d/b", b"2"),
            file("d/anew", b"3"),
            chunk(0, b'D', "d/dropped", &[]),
            chunk(0, b'D', "d/never came", &[]),
            renamed("d/never came", "d/a"),
            renamed("d/a", "d/x"),
            renamed("d/b", "d/a"),
            renamed("d/x", "e/b"),
            anew(data("d/anew", 0, b"44")),
            data("d/anew", 2, b"4"),
            end("d/anew"),
            file("d/dropped", b"5"),
            renamed("d/dropped", "d/b"),
        ]);
        let (unpacked, sent, _) = files(&stream, &frame(&[])).unwrap();
        // As the joiner does it.
        let mut there: BTreeMap<String, Vec<u8>> = sent.clone();
        unpacked.withdrawn.iter().for_each(|path| drop(there.remove(&path.to_string()).unwrap()));
        for (from, to) in unpacked.renamed().unwrap() {
            let content = there.remove(&from.to_string()).unwrap();
            assert_eq!(there.insert(to.to_string(), content), None, "{to}");
        }
        let there: Vec<(&str, &[u8])> =
            there.iter().map(|(name, content)| (name.as_str(), content.as_slice())).collect();
        let expected: [(&str, &[u8]); 7] = [
            ("datadir/d", b""),
            ("datadir/d/a", b"2"),
            ("datadir/d/anew", b"444"),
            ("datadir/d/b", b"5"),
            ("datadir/e", b""),
            ("datadir/e/b", b"1"),
            ("datadir/xtrabackup_checkpoints", b"to_lsn = 1"),
        ];
        assert_eq!(there, expected);
        assert_eq!((unpacked.entries(), unpacked.bytes()), (7, 16));
        let swapped =
            whole(&[file("a", b"1"), file("b", b"2"), renamed("a", "c"), renamed("b", "a"), renamed("c", "b")]);
        let renamed = files(&swapped, &frame(&[])).unwrap().0.renamed().unwrap();
        let renamed: Vec<String> = renamed.iter().map(|(from, to)| format!("{from} {to}")).collect();
        let expected = ["datadir/b datadir/b.highline-0", "datadir/a datadir/b", "datadir/b.highline-0 datadir/a"];
        assert_eq!(renamed, expected);
    }

    #[test]
    fn reading_ends_when_nobody_takes_the_parcels() {
        let error = unpack(whole(&[]).as_slice(), &frame(&[]), |_| false).unwrap_err();
        assert_eq!(error.kind(), Kind::Interrupted);
    }
}
