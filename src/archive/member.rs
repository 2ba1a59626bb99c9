//! Chunks and entries as members of a pax archive (POSIX.1-2017, `pax` interchange format).
//!
//! Name, mode, owner, modification time, link target and extended attributes use the standard fields and records.
//! Records of our own: `HIGHLINE.size` (the whole file's bytes), `HIGHLINE.offset` (the chunk's first byte),
//! `HIGHLINE.digest` (of the chunk), `HIGHLINE.data` (where the chunk has data, if it has holes). A patch, which
//! changes parts of an existing chunk, has two more: `HIGHLINE.patch` (what it covers) and `HIGHLINE.arrived` (the
//! digest of its own bytes). A file with only `HIGHLINE.size` brings just its metadata and length; with `HIGHLINE.empty`
//! instead of a digest the member is so many whole chunks in a row, all of them holes.

use std::io;
use std::ops::Range;

use tar::{Archive, Builder, EntryType, Header};

use super::extents::{Extents, ExtentsError};
use crate::direct::Pages;
use crate::manifest::{CHUNK, Checksum, Digest};
use crate::tree::{Content, Entry, Metadata, Mtime, PathError, RelPath};

const SIZE: &str = "HIGHLINE.size";
const OFFSET: &str = "HIGHLINE.offset";
const DIGEST: &str = "HIGHLINE.digest";
const DATA: &str = "HIGHLINE.data";
const PATCH: &str = "HIGHLINE.patch";
const ARRIVED: &str = "HIGHLINE.arrived";
const EMPTY: &str = "HIGHLINE.empty";
const XATTR: &str = "SCHILY.xattr.";
const BLOCK: usize = 512;

/// Why archive bytes are not what a lane may carry.
#[derive(Debug, thiserror::Error)]
pub enum MemberError {
    #[error("the archive is malformed: {0}")]
    Archive(#[from] io::Error),
    #[error("a member's pax records are missing or malformed")]
    Records,
    #[error("a member's name is refused: {0}")]
    Path(#[from] PathError),
    #[error("{path}: {source}")]
    Extents { path: RelPath, source: ExtentsError },
    #[error("{path}: the record {record} is missing or malformed")]
    Record { path: RelPath, record: &'static str },
    #[error("{path}: a member of this type may not be sent")]
    Type { path: RelPath },
    #[error("{path}: the chunk lies outside its file")]
    Outside { path: RelPath },
    #[error("a frame announced {announced} members but contains {found}")]
    Count { announced: u32, found: usize },
    #[error("{path}: {bytes} bytes of headers are too many")]
    Headers { path: RelPath, bytes: usize },
}

/// A chunk as it arrives: checked against its own bounds, not yet against its digest.
#[derive(Debug, PartialEq, Eq)]
pub struct Chunk<'a> {
    pub entry: Entry,
    pub offset: u64,
    /// Of the whole chunk, as it must be afterwards.
    pub digest: Digest,
    /// Where there is data; the rest of what is sent is a hole.
    pub extents: Extents,
    pub data: &'a [u8],
    /// `None`: the whole chunk is sent.
    pub patch: Option<Patch>,
}

/// What makes a chunk a patch.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Patch {
    /// The parts of the chunk that are replaced; the rest stays.
    pub covers: Extents,
    /// Of the bytes that are sent, one run after another.
    pub arrived: Digest,
}

impl Chunk<'_> {
    /// The chunk's length in the file, holes included.
    pub fn len(&self) -> u32 {
        let Content::File { size } = self.entry.content else { return 0 };
        chunk_len(size, self.offset)
    }

    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Whether the bytes arrived as they were sent. For a patch this says nothing about the whole chunk.
    pub fn is_intact(&self, checksum: Checksum) -> bool {
        match &self.patch {
            None => self.extents.digest(checksum, self.data, self.len()) == self.digest,
            Some(patch) => checksum.digest(self.data) == patch.arrived,
        }
    }
}

fn chunk_len(size: u64, offset: u64) -> u32 {
    u32::try_from(size.saturating_sub(offset).min(CHUNK)).unwrap_or(u32::MAX)
}

#[derive(Debug, PartialEq, Eq)]
pub enum Member<'a> {
    Chunk(Chunk<'a>),
    /// Whole chunks of a file, by number, that are all hole: at least one, none beyond its end.
    Empty {
        entry: Entry,
        chunks: Range<u64>,
    },
    /// A directory, symlink or hard link; or a file's metadata and length.
    Entry(Entry),
}

/// Members in the making: a run of whole archive members in one buffer.
#[derive(Debug, Default)]
pub struct Batch {
    /// Old content may follow `filled`, so that a reused buffer need not be cleared.
    buffer: Pages,
    filled: usize,
    members: u32,
}

impl Batch {
    /// Reuses `buffer`'s memory; its content is dropped.
    pub fn new(buffer: Pages) -> Batch {
        Batch { buffer, filled: 0, members: 0 }
    }

    pub fn members(&self) -> u32 {
        self.members
    }

    pub fn bytes(&self) -> &[u8] {
        self.buffer.get(..self.filled).unwrap_or_default()
    }

    pub fn into_buffer(mut self) -> Pages {
        self.buffer.truncate(self.filled);
        self.buffer
    }

    /// The next `len` bytes of the buffer, with arbitrary content.
    fn next(&mut self, len: usize) -> &mut [u8] {
        let end = self.filled.saturating_add(len);
        if self.buffer.len() < end {
            self.buffer.resize(end, 0);
        }
        self.buffer.get_mut(self.filled..end).unwrap_or_default()
    }

    /// Adds a directory, symlink or hard link, or a file's metadata and length without content.
    pub fn push_entry(&mut self, entry: &Entry) -> Result<(), MemberError> {
        let header = match entry.content {
            Content::File { size } => headers(entry, 0, &[(SIZE, number(size))])?,
            _ => headers(entry, 0, &[])?,
        };
        self.push_header(&header);
        Ok(())
    }

    fn push_header(&mut self, header: &[u8]) {
        self.next(header.len()).copy_from_slice(header);
        self.filled = self.filled.saturating_add(header.len());
        self.members = self.members.saturating_add(1);
    }

    /// Adds whole chunks of a file, by number, that are all hole.
    pub fn push_empty(&mut self, entry: &Entry, chunks: Range<u64>) -> Result<(), MemberError> {
        let (offset, count) = (chunks.start.saturating_mul(CHUNK), chunks.end.saturating_sub(chunks.start));
        let records = [(SIZE, number(size_of(entry)?)), (OFFSET, number(offset)), (EMPTY, number(count))];
        let header = headers(entry, 0, &records)?;
        self.push_header(&header);
        Ok(())
    }

    /// Adds the chunk at `offset` of a file. `fill` reads the bytes of all runs of `extents` into the slice it is
    /// given, and must write every byte of it; if it fails, nothing is added.
    pub fn push_chunk<E: From<MemberError>>(
        &mut self,
        entry: &Entry,
        offset: u64,
        extents: &Extents,
        checksum: Checksum,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<Digest, E> {
        let size = size_of(entry)?;
        let len = chunk_len(size, offset);
        let mut records = vec![(SIZE, number(size)), (OFFSET, number(offset)), (DIGEST, stand_in())];
        if !extents.is_whole(len) {
            records.push((DATA, extents.to_string().into_bytes()));
        }
        self.push_data(entry, extents, records, DIGEST, |data| {
            fill(data)?;
            Ok(extents.digest(checksum, data, len))
        })
    }

    /// Adds a patch of the chunk at `offset`, which has the digest `whole` afterwards. `extents` is where the part in
    /// `covers` has data; `fill` as for [`Batch::push_chunk`].
    pub fn push_patch<E: From<MemberError>>(
        &mut self,
        entry: &Entry,
        offset: u64,
        (covers, extents): (&Extents, &Extents),
        whole: Digest,
        checksum: Checksum,
        fill: impl FnOnce(&mut [u8]) -> Result<(), E>,
    ) -> Result<(), E> {
        let records = vec![
            (SIZE, number(size_of(entry)?)),
            (OFFSET, number(offset)),
            (DIGEST, whole.to_string().into_bytes()),
            (DATA, extents.to_string().into_bytes()),
            (PATCH, covers.to_string().into_bytes()),
            (ARRIVED, stand_in()),
        ];
        let pushed = self.push_data(entry, extents, records, ARRIVED, |data| {
            fill(data)?;
            Ok(checksum.digest(data))
        });
        pushed.map(|_| ())
    }

    /// Adds a member with data. `fill` writes the data and returns the digest that replaces the placeholder in the
    /// record `digest`.
    fn push_data<E: From<MemberError>>(
        &mut self,
        entry: &Entry,
        extents: &Extents,
        records: Vec<(&'static str, Vec<u8>)>,
        digest: &'static str,
        fill: impl FnOnce(&mut [u8]) -> Result<Digest, E>,
    ) -> Result<Digest, E> {
        let data_len = extents.data_len();
        let mut header = headers(entry, data_len as u64, &records)?;
        let in_header = Records::place(&header, digest).ok_or(MemberError::Records)?;
        let head = header.len();
        let padded = data_len.next_multiple_of(BLOCK);
        let place = self.next(head.saturating_add(padded));
        let (for_header, rest) = place.split_at_mut_checked(head).unwrap_or_default();
        let (data, padding) = rest.split_at_mut_checked(data_len).unwrap_or_default();
        let digest = fill(data)?;
        padding.fill(0);
        header.splice(in_header, digest.to_string().into_bytes());
        for_header.copy_from_slice(&header);
        self.filled = self.filled.saturating_add(head).saturating_add(padded);
        self.members = self.members.saturating_add(1);
        Ok(digest)
    }
}

fn number(n: u64) -> Vec<u8> {
    n.to_string().into_bytes()
}

/// A placeholder for a digest that is known only after the data has been read; the text's length is fixed.
fn stand_in() -> Vec<u8> {
    Digest::from_bytes([0; 32]).to_string().into_bytes()
}

fn size_of(entry: &Entry) -> Result<u64, MemberError> {
    match entry.content {
        Content::File { size } => Ok(size),
        _ => Err(MemberError::Type { path: entry.path.clone() }),
    }
}

/// The pax and the ustar header of one member.
fn headers(entry: &Entry, size: u64, own: &[(&'static str, Vec<u8>)]) -> Result<Vec<u8>, MemberError> {
    const MAX: usize = 512 * 1024;
    let Entry { path, meta, content } = entry;
    let mut header = Header::new_ustar();
    let (entry_type, link): (_, Option<&[u8]>) = match content {
        Content::Directory => (EntryType::Directory, None),
        Content::File { .. } => (EntryType::Regular, None),
        Content::Symlink { target } => (EntryType::Symlink, Some(target)),
        Content::HardLink { to } => (EntryType::Link, Some(to.as_bytes())),
    };
    header.set_entry_type(entry_type);
    header.set_mode(meta.mode);
    header.set_uid(meta.uid.into());
    header.set_gid(meta.gid.into());
    header.set_mtime(u64::try_from(meta.mtime.secs).unwrap_or(0));
    header.set_size(size);
    for (field, byte) in header.as_old_mut().name.iter_mut().zip(path.as_bytes()) {
        *field = *byte;
    }
    header.set_cksum();

    let mtime = time_text(meta.mtime);
    let mut records: Vec<(&str, &[u8])> = vec![("path", path.as_bytes()), ("mtime", mtime.as_bytes())];
    records.extend(link.map(|link| ("linkpath", link)));
    records.extend(own.iter().map(|(key, value)| (*key, value.as_slice())));
    let names: Vec<String> = meta.xattrs.iter().map(|(name, _)| format!("{XATTR}{name}")).collect();
    records.extend(names.iter().zip(meta.xattrs.iter()).map(|(name, (_, value))| (name.as_str(), value.as_slice())));

    let mut builder = Builder::new(Vec::with_capacity(BLOCK.saturating_mul(4)));
    builder.append_pax_extensions(records)?;
    builder.append(&header, io::empty())?;
    let mut bytes = builder.into_inner()?;
    // The builder ends an archive with two empty blocks; here more members follow.
    bytes.truncate(bytes.len().saturating_sub(BLOCK.saturating_mul(2)));
    if bytes.len() > MAX {
        return Err(MemberError::Headers { path: path.clone(), bytes: bytes.len() });
    }
    Ok(bytes)
}

/// Reads a frame's members, which must be `announced` in number and fill all of `raw`.
pub fn unpack(raw: &[u8], announced: u32) -> Result<Vec<Member<'_>>, MemberError> {
    let mut members = Vec::with_capacity(announced.min(4096) as usize);
    let mut archive = Archive::new(raw);
    let mut records: Option<&[u8]> = None;
    // Raw, because the crate's own parser ends a pax value at a line feed, and names may contain one.
    for archived in archive.entries()?.raw(true) {
        let archived = archived?;
        let from = usize::try_from(archived.raw_file_position()).unwrap_or(usize::MAX);
        let data = usize::try_from(archived.size()).ok().and_then(|len| raw.get(from..from.checked_add(len)?));
        let data = data.ok_or(io::Error::from(io::ErrorKind::UnexpectedEof))?;
        match (archived.header().entry_type(), records.take()) {
            (EntryType::XHeader, None) => records = Some(data),
            (_, Some(records)) => members.push(member(archived.header(), &Records::parse(records)?, data)?),
            (_, None) => return Err(MemberError::Records),
        }
    }
    if members.len() != announced as usize || records.is_some() {
        return Err(MemberError::Count { announced, found: members.len() });
    }
    Ok(members)
}

/// The records of one pax header: `LENGTH KEY=VALUE\n`, where the length counts the whole record.
struct Records<'a>(Vec<Record<'a>>);

/// A key and its value.
type Record<'a> = (&'a str, &'a [u8]);

impl<'a> Records<'a> {
    fn parse(mut bytes: &'a [u8]) -> Result<Records<'a>, MemberError> {
        let mut records = Vec::new();
        while !bytes.is_empty() {
            let (record, rest) = Self::first(bytes).ok_or(MemberError::Records)?;
            records.push(record);
            bytes = rest;
        }
        Ok(Records(records))
    }

    fn first(bytes: &'a [u8]) -> Option<(Record<'a>, &'a [u8])> {
        let space = bytes.iter().take(8).position(|&b| b == b' ')?;
        let length: usize = std::str::from_utf8(bytes.get(..space)?).ok()?.parse().ok()?;
        let (record, rest) = bytes.split_at_checked(length)?;
        let record = record.get(space..)?.strip_prefix(b" ")?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|&b| b == b'=')?;
        let (key, value) = record.split_at_checked(equals)?;
        Some(((std::str::from_utf8(key).ok()?, value.strip_prefix(b"=")?), rest))
    }

    /// Where the value of the record `key` is in the headers of one member.
    fn place(headers: &'a [u8], key: &str) -> Option<Range<usize>> {
        let mut rest = headers.get(BLOCK..)?;
        loop {
            let ((found, value), after) = Self::first(rest)?;
            if found == key {
                let end = headers.len().checked_sub(after.len())?.checked_sub(1)?;
                return Some(end.checked_sub(value.len())?..end);
            }
            rest = after;
        }
    }

    fn get(&self, key: &str) -> Option<&'a [u8]> {
        self.0.iter().find(|(k, _)| *k == key).map(|(_, value)| *value)
    }

    fn text(&self, key: &str) -> Option<&'a str> {
        self.get(key).and_then(|value| std::str::from_utf8(value).ok())
    }

    fn number(&self, key: &str) -> Option<u64> {
        self.text(key).filter(|text| text.bytes().all(|b| b.is_ascii_digit())).and_then(|text| text.parse().ok())
    }
}

fn member<'a>(header: &Header, records: &Records<'a>, data: &'a [u8]) -> Result<Member<'a>, MemberError> {
    let path = RelPath::parse(records.get("path").unwrap_or_default())?;
    let missing = |record| MemberError::Record { path: path.clone(), record };
    let id = |number: io::Result<u64>| number.ok().and_then(|id| u32::try_from(id).ok());
    let xattrs = records.0.iter().filter_map(|(key, value)| {
        let name = key.strip_prefix(XATTR).filter(|name| name.starts_with("user."))?;
        Some((name.to_owned(), value.to_vec()))
    });
    let meta = Metadata {
        // No data file needs set-user-id bits, whatever a donor says.
        mode: header.mode()? & if header.entry_type() == EntryType::Regular { 0o1777 } else { 0o7777 },
        uid: id(header.uid()).ok_or_else(|| missing("uid"))?,
        gid: id(header.gid()).ok_or_else(|| missing("gid"))?,
        mtime: records.text("mtime").and_then(parse_time).ok_or_else(|| missing("mtime"))?,
        xattrs: xattrs.collect(),
    };
    let link = || records.get("linkpath").ok_or_else(|| missing("linkpath"));
    let content = match header.entry_type() {
        EntryType::Regular => return chunk(path, meta, records, data),
        EntryType::Directory => Content::Directory,
        EntryType::Symlink => Content::Symlink { target: link()?.into() },
        EntryType::Link => Content::HardLink { to: RelPath::parse(link()?)? },
        _ => return Err(MemberError::Type { path }),
    };
    if !data.is_empty() {
        return Err(MemberError::Type { path });
    }
    Ok(Member::Entry(Entry { path, meta, content }))
}

fn chunk<'a>(path: RelPath, meta: Metadata, records: &Records<'a>, data: &'a [u8]) -> Result<Member<'a>, MemberError> {
    let missing = |record| MemberError::Record { path: path.clone(), record };
    let digest = |record| records.text(record).and_then(|text| text.parse().ok()).ok_or_else(|| missing(record));
    let size = records.number(SIZE).ok_or_else(|| missing(SIZE))?;
    if i64::try_from(size).is_err() {
        return Err(MemberError::Outside { path });
    }
    if [OFFSET, DIGEST, EMPTY].iter().all(|key| records.get(key).is_none()) && data.is_empty() {
        return Ok(Member::Entry(Entry { path, meta, content: Content::File { size } }));
    }
    let offset = records.number(OFFSET).ok_or_else(|| missing(OFFSET))?;
    if records.get(EMPTY).is_some() {
        let count = records.number(EMPTY).filter(|count| *count > 0).ok_or_else(|| missing(EMPTY))?;
        let end = count.checked_mul(CHUNK).and_then(|bytes| offset.checked_add(bytes));
        if !data.is_empty() || !offset.is_multiple_of(CHUNK) || end.is_none_or(|end| end > size) {
            return Err(MemberError::Outside { path });
        }
        let first = offset / CHUNK;
        let entry = Entry { path, meta, content: Content::File { size } };
        return Ok(Member::Empty { entry, chunks: first..first.saturating_add(count) });
    }
    let whole = digest(DIGEST)?;
    if !offset.is_multiple_of(CHUNK) || (offset >= size && offset > 0) {
        return Err(MemberError::Outside { path });
    }
    let len = chunk_len(size, offset);
    let runs = |text| Extents::parse(text, len).map_err(|source| MemberError::Extents { path: path.clone(), source });
    let extents = records.text(DATA).map(runs).transpose()?;
    let patch = match records.text(PATCH).map(runs).transpose()? {
        None => None,
        Some(covers) => Some(Patch { covers, arrived: digest(ARRIVED)? }),
    };
    let extents = extents.unwrap_or_else(|| Extents::whole(len));
    let outside = patch.as_ref().is_some_and(|patch| !patch.covers.contains(&extents));
    if data.len() != extents.data_len() || outside {
        return Err(MemberError::Outside { path });
    }
    let entry = Entry { path, meta, content: Content::File { size } };
    Ok(Member::Chunk(Chunk { entry, offset, digest: whole, extents, data, patch }))
}

/// Seconds as a decimal number, the format of the pax record `mtime`.
fn time_text(time: Mtime) -> String {
    let nanos_down = 1_000_000_000u32.saturating_sub(time.nanos);
    match time.secs {
        secs if secs < 0 && time.nanos > 0 => format!("-{}.{nanos_down:09}", secs.saturating_add(1).unsigned_abs()),
        secs => format!("{secs}.{:09}", time.nanos),
    }
}

fn parse_time(text: &str) -> Option<Mtime> {
    let (negative, digits) = match text.strip_prefix('-') {
        Some(digits) => (true, digits),
        None => (false, text),
    };
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    let whole: i64 = if negative { format!("-{whole}").parse().ok()? } else { whole.parse().ok()? };
    let nanos: u32 = format!("{fraction:0<9}").get(..9)?.parse().ok()?;
    match (negative, nanos) {
        (true, 1..) => Some(Mtime { secs: whole.checked_sub(1)?, nanos: 1_000_000_000u32.checked_sub(nanos)? }),
        _ => Some(Mtime { secs: whole, nanos }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::archive::Extent;
    use proptest::prelude::*;

    fn file(path: &[u8], size: u64) -> Entry {
        Entry {
            path: RelPath::parse(path).unwrap(),
            meta: Metadata {
                mode: 0o640,
                uid: 4_000_000_000,
                gid: 7,
                mtime: Mtime { secs: 1_764_000_000, nanos: 123_456_789 },
                xattrs: vec![("user.a".into(), b"\0=\n\xff".to_vec())].into(),
            },
            content: Content::File { size },
        }
    }

    fn push(batch: &mut Batch, entry: &Entry, offset: u64, extents: &Extents, byte: u8) -> Digest {
        let filled = batch.push_chunk::<MemberError>(entry, offset, extents, Checksum::Blake3, |data| {
            data.fill(byte);
            Ok(())
        });
        filled.unwrap()
    }

    #[test]
    fn round_trip() {
        let long = [b"datadir/".as_slice(), &[b'x'; 200], b"/\xff\n \xc3\xa4".as_slice()].concat();
        let big = file(&long, 3 * CHUNK + 5);
        let small = file(b"datadir/s", 3);
        let empty = file(b"datadir/e", 0);
        let holed =
            Extents::new(vec![Extent { start: 4096, len: 4096 }, Extent { start: 16384, len: 1 }], 1 << 20).unwrap();
        let mut batch = Batch::new([1; 10].as_slice().into());
        let digests = [
            push(&mut batch, &big, CHUNK, &Extents::whole(1 << 20), 1),
            push(&mut batch, &small, 0, &Extents::whole(3), 2),
            push(&mut batch, &empty, 0, &Extents::whole(0), 3),
            push(&mut batch, &big, 2 * CHUNK, &holed, 4),
            push(&mut batch, &big, 3 * CHUNK, &Extents::whole(5), 5),
        ];
        let entry = |content| Entry { path: RelPath::parse(b"datadir/d").unwrap(), meta: big.meta.clone(), content };
        let others = [
            entry(Content::Directory),
            entry(Content::Symlink { target: (*b"../x\xff").into() }),
            entry(Content::HardLink { to: RelPath::parse(&long).unwrap() }),
        ];
        others.iter().for_each(|entry| batch.push_entry(entry).unwrap());

        let members = unpack(batch.bytes(), batch.members()).unwrap();
        assert_eq!(members.len(), 8);
        for (member, digest) in members.iter().zip(digests) {
            let Member::Chunk(chunk) = member else { panic!("{member:?}") };
            assert_eq!(chunk.digest, digest);
            assert!(chunk.is_intact(Checksum::Blake3));
        }
        let Member::Chunk(chunk) = &members[3] else { panic!() };
        assert_eq!((chunk.offset, chunk.len(), chunk.data.len()), (2 * CHUNK, 1 << 20, 4097));
        assert_eq!((&chunk.entry, &chunk.extents), (&big, &holed));
        for (member, entry) in members[5..].iter().zip(others) {
            assert_eq!(*member, Member::Entry(entry));
        }
    }

    #[test]
    fn patches_and_lengths_round_trip() {
        let big = file(b"datadir/b", CHUNK + 40_000);
        let runs = |text, len| Extents::parse(text, len).unwrap();
        let (covers, data) = (runs("0+16384,32768+7232", 40_000), runs("4096+12288,32768+7232", 40_000));
        let whole = Checksum::Blake3.digest(b"as it must be");
        let mut batch = Batch::default();
        let patched =
            batch.push_patch::<MemberError>(&big, CHUNK, (&covers, &data), whole, Checksum::Blake3, |place| {
                place.fill(7);
                Ok(())
            });
        patched.unwrap();
        batch.push_entry(&big).unwrap();
        let long = file(b"datadir/c", 9 * CHUNK + 5);
        batch.push_empty(&long, 2..9).unwrap();
        let members = unpack(batch.bytes(), 3).unwrap();
        let Member::Chunk(chunk) = &members[0] else { panic!("{members:?}") };
        assert_eq!((&chunk.entry, chunk.offset, chunk.digest, &chunk.extents), (&big, CHUNK, whole, &data));
        assert_eq!(chunk.patch.as_ref().unwrap().covers, covers);
        assert!(chunk.is_intact(Checksum::Blake3) && chunk.data == [7; 12288 + 7232]);
        assert_eq!(members[1..], [Member::Entry(big), Member::Empty { entry: long, chunks: 2..9 }]);
        let mut damaged = batch.bytes().to_vec();
        let at = damaged.iter().rposition(|&b| b == 7).unwrap();
        damaged[at] ^= 1;
        let Member::Chunk(chunk) = &unpack(&damaged, 3).unwrap()[0] else { panic!() };
        assert!(!chunk.is_intact(Checksum::Blake3));
    }

    /// The header is as if it had been made with the digest, whatever else in it looks like one.
    #[test]
    fn a_header_tells_the_digest_of_what_was_filled_in() {
        let zeros = Digest::from_bytes([0; 32]).to_string();
        let confusing = format!("datadir/\n84 HIGHLINE.digest={zeros}\n");
        let holed = Extents::new(vec![Extent { start: 4096, len: 4096 }], 1 << 20).unwrap();
        for path in ["datadir/a", &"datadir/long".repeat(40), &confusing] {
            for (size, extents) in [(0, Extents::whole(0)), (700, Extents::whole(700)), (CHUNK, holed.clone())] {
                let mut entry = file(path.as_bytes(), size);
                entry.meta.xattrs = vec![(DIGEST.to_owned(), zeros.clone().into_bytes())].into();
                let mut batch = Batch::default();
                let digest = push(&mut batch, &entry, 0, &extents, 7).to_string().into_bytes();
                let mut records =
                    vec![(SIZE, size.to_string().into_bytes()), (OFFSET, b"0".to_vec()), (DIGEST, digest)];
                if size == CHUNK {
                    records.push((DATA, b"4096+4096".to_vec()));
                }
                let header = headers(&entry, extents.data_len() as u64, &records).unwrap();
                assert_eq!(batch.bytes()[..header.len()], header);
            }
        }
    }

    #[test]
    fn nothing_of_a_used_buffer_travels() {
        let fill = |mut batch: Batch| {
            push(&mut batch, &file(b"datadir/a", 3), 0, &Extents::whole(3), 7);
            batch.into_buffer()
        };
        let used = vec![0xaa; 1 << 20];
        assert_eq!(*fill(Batch::new(used.as_slice().into())), *fill(Batch::default()));
    }

    #[test]
    fn any_tar_reads_a_lane() {
        let mut batch = Batch::default();
        push(&mut batch, &file(b"datadir/a b", 3), 0, &Extents::whole(3), b'x');
        let mut archive = Archive::new(batch.bytes());
        let entry = archive.entries().unwrap().next().unwrap().unwrap();
        assert_eq!(entry.path().unwrap().as_os_str(), "datadir/a b");
        assert_eq!(entry.size(), 3);
    }

    #[test]
    fn every_cut_is_refused() {
        let mut batch = Batch::default();
        push(&mut batch, &file(b"datadir/a", 700), 0, &Extents::whole(700), 9);
        let bytes = batch.bytes();
        for cut in 0..bytes.len() - (1024 - 700) {
            assert!(unpack(&bytes[..cut], 1).is_err(), "cut at {cut}");
        }
        unpack(bytes, 1).unwrap();
        assert!(matches!(unpack(bytes, 2), Err(MemberError::Count { announced: 2, found: 1 })));
    }

    /// One member made by hand, as a hostile donor would.
    fn hostile(path: &str, entry_type: EntryType, records: &[(&str, &str)]) -> Vec<u8> {
        let mut header = Header::new_ustar();
        header.set_entry_type(entry_type);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_size(0);
        header.set_cksum();
        let mut builder = Builder::new(Vec::new());
        let all = [("path", path), ("mtime", "1.0")];
        builder.append_pax_extensions(all.iter().chain(records).map(|(k, v)| (*k, v.as_bytes()))).unwrap();
        builder.append(&header, io::empty()).unwrap();
        builder.into_inner().unwrap()
    }

    #[test]
    fn a_hostile_member_is_refused() {
        let digest = Checksum::Blake3.digest(b"").to_string();
        let good = [(SIZE, "0"), (OFFSET, "0"), (DIGEST, digest.as_str())];
        let with =
            |key: &'static str, value: &'static str| good.map(|(k, v)| if k == key { (k, value) } else { (k, v) });
        let patch = [good[0], good[1], good[2], (PATCH, ""), (ARRIVED, digest.as_str())];
        let outside = patch.map(|(k, v)| if k == PATCH { (k, "0+1") } else { (k, v) });
        assert!(unpack(&hostile("datadir/a", EntryType::Regular, &patch), 1).is_ok());
        let run = [(SIZE, "3145729"), (OFFSET, "1048576"), (EMPTY, "2")];
        let empty = |at: usize, value| {
            let mut records = run;
            records[at].1 = value;
            hostile("datadir/a", EntryType::Regular, &records)
        };
        assert!(unpack(&empty(2, "2"), 1).is_ok());
        let ok = hostile("datadir/a", EntryType::Regular, &good);
        assert!(unpack(&ok, 1).is_ok(), "the benign twin works");
        for (what, bytes) in [
            ("..", hostile("datadir/../a", EntryType::Regular, &good)),
            ("absolute", hostile("/etc/passwd", EntryType::Regular, &good)),
            ("device", hostile("datadir/a", EntryType::Char, &good)),
            ("fifo", hostile("datadir/a", EntryType::Fifo, &good)),
            ("link out", hostile("datadir/a", EntryType::Link, &[("linkpath", "../../etc/passwd")])),
            ("no size", hostile("datadir/a", EntryType::Regular, &good[1..])),
            ("no digest", hostile("datadir/a", EntryType::Regular, &good[..2])),
            ("no offset", hostile("datadir/a", EntryType::Regular, &[good[0], good[2]])),
            ("a patch without a digest of its own", hostile("datadir/a", EntryType::Regular, &patch[..4])),
            ("a patch outside its chunk", hostile("datadir/a", EntryType::Regular, &outside)),
            ("offset past the end", hostile("datadir/a", EntryType::Regular, &with(OFFSET, "1048576"))),
            ("offset not aligned", hostile("datadir/a", EntryType::Regular, &with(OFFSET, "1"))),
            ("huge size", hostile("datadir/a", EntryType::Regular, &with(SIZE, "18446744073709551615"))),
            ("data missing", hostile("datadir/a", EntryType::Regular, &with(SIZE, "10"))),
            ("a run of no chunks", empty(2, "0")),
            ("a run past the end", empty(2, "3")),
            ("a run that overflows", empty(2, "18446744073709551615")),
            ("a run that overflows when it is added", empty(2, "17592186044415")),
            ("a run off the grid", empty(1, "1048577")),
            ("a run of a shorter file", empty(0, "3145727")),
            ("a run that is no number", empty(2, "x")),
            ("a run that begins nowhere", hostile("datadir/a", EntryType::Regular, &[run[0], run[2]])),
            ("negative", hostile("datadir/a", EntryType::Regular, &with(SIZE, "-1"))),
        ] {
            assert!(unpack(&bytes, 1).is_err(), "{what}");
        }
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2048), at in 0usize..2000, byte: u8) {
            let _ = unpack(&bytes, 1);
            let mut batch = Batch::default();
            push(&mut batch, &file(b"datadir/a", 300), 0, &Extents::whole(300), 9);
            let mut good = batch.into_buffer();
            let at = at.min(good.len() - 1);
            good[at] = byte;
            let _ = unpack(&good, 1);
        }

        #[test]
        fn times_round_trip(secs in -10_000_000_000i64..10_000_000_000, nanos in 0u32..1_000_000_000) {
            let time = Mtime { secs, nanos };
            prop_assert_eq!(parse_time(&time_text(time)), Some(time));
        }
    }
}
