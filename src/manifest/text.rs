//! A manifest as text: one line per entry, so that a person can read it and `grep` finds a file.
//!
//! ```text
//! # highline manifest 1, checksum blake3, chunk 1048576
//! f 0660 999 999 1764000000.000000000 98304 <64 hex digits> datadir/sbtest/t1.ibd
//! d 0700 999 999 1764000000.000000000 - - datadir/sbtest
//! l 0777 999 999 1764000000.000000000 - - datadir/link target
//! h 0660 999 999 1764000000.000000000 - - datadir/name datadir/other-name
//! ```
//!
//! The columns: kind, mode, owner, group, modification time, bytes, digest, path, then the target of
//! a link, then `user.NAME=HEX` for each extended attribute. Bytes other than `!` to `~`, `%` itself
//! and an empty target are written `%xx`.

use std::fmt::Write as _;
use std::io::{BufRead, Write};

use super::escaped::{escape, hex, unescape};
use super::{CHUNK, Checksum, Digest, Item, Manifest};
use crate::error::{Error, Kind, Result};
use crate::tree::{Content, Entry, Metadata, Mtime, RelPath};

const LONGEST_LINE: u64 = 512 * 1024;

/// Appends the line of one entry, with its newline.
pub(super) fn line(entry: &Entry, digest: Option<Digest>, out: &mut String) {
    let Entry { path, meta, content } = entry;
    let (kind, size, target): (_, _, Option<&[u8]>) = match content {
        Content::File { size } => ('f', Some(size), None),
        Content::Directory => ('d', None, None),
        Content::Symlink { target } => ('l', None, Some(target)),
        Content::HardLink { to } => ('h', None, Some(to.as_bytes())),
    };
    let Metadata { mode, uid, gid, mtime, xattrs } = meta;
    // Writing to a String cannot fail.
    let _ = write!(out, "{kind} {mode:04o} {uid} {gid} {}.{:09} ", mtime.secs, mtime.nanos);
    let _ = match size {
        Some(size) => write!(out, "{size} "),
        None => write!(out, "- "),
    };
    let _ = match digest {
        Some(digest) => write!(out, "{digest} "),
        None => write!(out, "- "),
    };
    escape(path.as_bytes(), out);
    if let Some(target) = target {
        out.push(' ');
        escape(target, out);
    }
    for (name, value) in xattrs.iter() {
        out.push(' ');
        escape(name.as_bytes(), out);
        out.push('=');
        value.iter().for_each(|byte| {
            let _ = write!(out, "{byte:02x}");
        });
    }
    out.push('\n');
}

impl Manifest {
    pub fn write(&self, mut out: impl Write) -> std::io::Result<()> {
        writeln!(out, "# highline manifest 1, checksum {}, chunk {CHUNK}", self.checksum)?;
        let mut text = String::new();
        for item in &self.items {
            text.clear();
            line(&item.entry, item.digest, &mut text);
            out.write_all(text.as_bytes())?;
        }
        out.flush()
    }

    /// Reads what [`Manifest::write`] wrote; an error names the line.
    pub fn read(mut input: impl BufRead) -> Result<Manifest> {
        let mut number = 0u64;
        let mut next = |text: &mut String| {
            text.clear();
            number += 1;
            let bad = |e: std::io::Error| {
                Error::new(Kind::Usage, format!("cannot read line {number} of the manifest")).because(e)
            };
            let read = std::io::Read::take(&mut input, LONGEST_LINE).read_line(text).map_err(bad)?;
            Ok::<_, Error>((read > 0).then_some(number))
        };
        let malformed = |number| {
            Error::new(Kind::Usage, format!("line {number} of the manifest is malformed"))
                .remedy("the manifest was changed or truncated; only a transfer can write it")
        };
        let mut text = String::new();
        next(&mut text)?;
        let checksum = [Checksum::Sha256, Checksum::Blake3]
            .into_iter()
            .find(|c| text == format!("# highline manifest 1, checksum {c}, chunk {CHUNK}\n"))
            .ok_or_else(|| malformed(1))?;
        let mut items = Vec::new();
        while let Some(number) = next(&mut text)? {
            items.push(text.strip_suffix('\n').and_then(parse_line).ok_or_else(|| malformed(number))?);
        }
        Manifest::new(checksum, items)
    }
}

fn parse_line(line: &str) -> Option<Item> {
    let mut columns = line.split(' ');
    let kind = columns.next()?;
    let mode = u32::from_str_radix(columns.next()?, 8).ok().filter(|&mode| mode <= 0o7777)?;
    let uid = columns.next()?.parse().ok()?;
    let gid = columns.next()?.parse().ok()?;
    let (secs, nanos) = columns.next()?.split_once('.')?;
    let mtime = Mtime { secs: secs.parse().ok()?, nanos: nanos.parse().ok().filter(|&n| n < 1_000_000_000)? };
    let size = columns.next()?;
    let digest = columns.next()?;
    let path = RelPath::parse(&unescape(columns.next()?)?).ok()?;
    let (content, digest) = match kind {
        "f" => (Content::File { size: size.parse().ok()? }, Some(digest.parse().ok()?)),
        "d" => (Content::Directory, None),
        "l" => (Content::Symlink { target: unescape(columns.next()?)?.into() }, None),
        "h" => (Content::HardLink { to: RelPath::parse(&unescape(columns.next()?)?).ok()? }, None),
        _ => return None,
    };
    let mut xattrs = Vec::new();
    for column in columns {
        let (name, value) = column.split_once('=')?;
        let (pairs, rest) = value.as_bytes().as_chunks::<2>();
        let value: Option<Vec<u8>> = pairs.iter().map(|[high, low]| hex(*high, *low)).collect();
        xattrs.push((String::from_utf8(unescape(name)?).ok()?, value.filter(|_| rest.is_empty())?));
    }
    let meta = Metadata { mode, uid, gid, mtime, xattrs: xattrs.into() };
    Some(Item { entry: Entry { path, meta, content }, digest })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::collection::vec;
    use proptest::prelude::*;

    fn any_item() -> impl Strategy<Value = Item> {
        let path = vec(vec(any::<u8>().prop_filter("", |b| *b != 0 && *b != b'/'), 1..20), 1..4)
            .prop_map(|parts| [b"datadir".as_slice(), b"/", &parts.join(&b'/')].concat())
            .prop_filter_map("no path", |bytes| RelPath::parse(&bytes).ok());
        let xattrs = vec(("user\\.[a-z=% é]{1,9}", vec(any::<u8>(), 0..20)), 0..3);
        let content = prop_oneof![
            any::<u64>().prop_map(|size| Content::File { size }),
            Just(Content::Directory),
            vec(any::<u8>(), 0..30).prop_map(|target| Content::Symlink { target: target.into() }),
            Just(Content::HardLink { to: RelPath::parse(b"datadir/other name").unwrap() }),
        ];
        let numbers = (0..=0o7777u32, any::<u32>(), any::<u32>(), any::<i64>(), 0..1_000_000_000u32);
        (path, xattrs, content, numbers).prop_map(|(path, xattrs, content, (mode, uid, gid, secs, nanos))| {
            let digest = matches!(content, Content::File { .. }).then(|| Checksum::Blake3.digest(path.as_bytes()));
            let meta = Metadata { mode, uid, gid, mtime: Mtime { secs, nanos }, xattrs: xattrs.into() };
            Item { entry: Entry { path, meta, content }, digest }
        })
    }

    proptest! {
        #[test]
        fn round_trip(items in vec(any_item(), 0..6)) {
            let Ok(manifest) = Manifest::new(Checksum::Blake3, items) else { return Ok(()) };
            let mut bytes = Vec::new();
            manifest.write(&mut bytes).unwrap();
            prop_assert_eq!(Manifest::read(bytes.as_slice()).unwrap(), manifest);
        }

        #[test]
        fn no_bytes_panic(bytes in vec(any::<u8>(), 0..200)) {
            let text = [b"# highline manifest 1, checksum blake3, chunk 1048576\nf ".as_slice(), &bytes].concat();
            let _ = Manifest::read(text.as_slice());
        }
    }

    #[test]
    fn an_error_names_the_line() {
        let head = "# highline manifest 1, checksum sha256, chunk 1048576\n";
        for (text, what) in [
            ("", "line 1 of the manifest is malformed"),
            ("# highline manifest 2, checksum sha256, chunk 1048576\n", "line 1 of the manifest is malformed"),
            (&format!("{head}f 0660"), "line 2 of the manifest is malformed"),
            (&format!("{head}d 0700 1 1 0.000000000 - - datadir/../x\n"), "line 2 of the manifest is malformed"),
        ] {
            assert_eq!(Manifest::read(text.as_bytes()).unwrap_err().sentence(), what, "{text}");
        }
    }
}
