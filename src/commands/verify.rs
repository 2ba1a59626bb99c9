//! `highline verify`: re-reads an installed tree against the manifest that its transfer left.

use std::collections::HashSet;
use std::fs::File;
use std::io::BufReader;
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::privileges::become_owner;
use super::{print, verify_pages};
use crate::cli::{TreeArgs, VerifyArgs};
use crate::config::{self, Placed};
use crate::error::{Error, Kind, Printable, Result};
use crate::install::MANIFEST;
use crate::manifest::{CHUNK, Checksum, ChunkDigests, Digest, Item, Manifest, chunks};
use crate::progress::{bytes, entries};
use crate::threads::on_all_cores;
use crate::tree::{Content, Roots, Rules, Source, Tolerance, locate, scan};

pub(super) fn run(args: &VerifyArgs) -> Result<()> {
    let (roots, rules) = configured(&args.tree)?;
    become_owner(roots.datadir())?;
    if args.pages {
        return verify_pages::run(&roots, &rules);
    }
    let manifest = installed(&roots)?;
    let faults = faults(&manifest, &roots, &rules)?;
    for fault in &faults {
        print(&mut std::io::stdout(), &format!("{fault}\n"))?;
    }
    let total: u64 = manifest.items().iter().map(size).sum();
    let all = manifest.items().len() as u64;
    let summary = format!("{}, {}, checksum {}", entries(all), bytes(total), manifest.checksum());
    if faults.is_empty() {
        return print(&mut std::io::stdout(), &format!("verified: {summary}\n"));
    }
    let (wrong, are) = (faults.len() as u64, if faults.len() == 1 { "is" } else { "are" });
    let what = format!("{} {are} not what was sent; the transfer had {}", entries(wrong), entries(all));
    Err(Error::new(Kind::Integrity, what)
        .remedy("a server that was started since the transfer has changed its files; otherwise reseed this node"))
}

/// The server's directories, and which files in them belong to the node alone, including its binary log index.
fn configured(args: &TreeArgs) -> Result<(Roots, Rules)> {
    let Placed { roots, own, mut keep, binlog, .. } = config::placed(args)?;
    keep.extend(binlog.and_then(|binlog| binlog.index.file_name()?.to_str().map(str::to_owned)));
    Ok((roots, Rules::new(keep, own)))
}

/// The manifest of the tree that is in place.
pub(super) fn installed(roots: &Roots) -> Result<Manifest> {
    let path = roots.datadir().join(MANIFEST);
    let file = File::open(&path).map_err(|e| {
        Error::io("cannot open the manifest", &path, e)
            .remedy("only a tree installed by Highline has one; give its directory with --datadir")
    })?;
    Manifest::read(BufReader::new(file))
}

fn size(item: &Item) -> u64 {
    match item.entry.content {
        Content::File { size } => size,
        _ => 0,
    }
}

/// One sentence for each entry that differs, is missing or is extra, ordered by path. What `rules` would not send is
/// not extra.
pub(super) fn faults(manifest: &Manifest, roots: &Roots, rules: &Rules) -> Result<Vec<String>> {
    let next = AtomicUsize::new(0);
    let check = || {
        let mut found = Vec::new();
        while let Some(item) = manifest.items().get(next.fetch_add(1, Ordering::Relaxed)) {
            found.extend(fault(item, roots, manifest.checksum()).map(|why| format!("{}: {why}", item.entry.path)));
        }
        Ok(found)
    };
    let mut all = on_all_cores(usize::MAX, check)?.concat();
    let known: HashSet<_> = manifest.items().iter().map(|item| &item.entry.path).collect();
    let extra = scan(&mut roots.clone(), rules, Tolerance::Vanished)?;
    all.extend(
        extra
            .iter()
            .map(|f| &f.entry.path)
            .filter(|path| !known.contains(path))
            .map(|path| format!("{path}: extra, it was not sent")),
    );
    all.sort();
    Ok(all)
}

/// What is wrong with one entry.
fn fault(item: &Item, roots: &Roots, checksum: Checksum) -> Option<String> {
    let place = match locate(roots, &item.entry.path) {
        Some(place) => place,
        None => return Some("its root was not given; use --root".into()),
    };
    let stat = match std::fs::symlink_metadata(&place) {
        Ok(stat) => stat,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Some("missing".into()),
        Err(error) => return Some(format!("cannot be read: {error}")),
    };
    let kind = match &item.entry.content {
        Content::Directory => stat.is_dir(),
        Content::File { .. } | Content::HardLink { .. } => stat.is_file(),
        Content::Symlink { .. } => stat.is_symlink(),
    };
    if !kind {
        return Some("is of another type".into());
    }
    match (&item.entry.content, item.digest) {
        (Content::HardLink { to }, _) => {
            let other = locate(roots, to).and_then(|place| std::fs::symlink_metadata(place).ok());
            if other.is_none_or(|other| (other.dev(), other.ino()) != (stat.dev(), stat.ino())) {
                return Some(format!("is no longer another name of {to}"));
            }
        }
        (Content::Symlink { target }, _) => match std::fs::read_link(&place) {
            Ok(now) if Printable::path(&now).0 == &**target => return None,
            _ => return Some("points elsewhere".into()),
        },
        (Content::File { size }, Some(digest)) => {
            if stat.len() != *size {
                return Some(format!("has {} bytes, {size} were sent", stat.len()));
            }
            match digest_of(&place, *size, stat.blocks() * 512 < *size, checksum) {
                Ok(now) if now == Some(digest) => {}
                Ok(_) => return Some("its content differs".into()),
                Err(error) => return Some(error.sentence()),
            }
        }
        _ => {}
    }
    // What the donor's server could do through group or other permissions, this one's may do as owner.
    let sent = item.entry.meta.mode;
    let given = [sent, sent | (sent >> 3 & 0o7) << 6, sent | (sent & 0o7) << 6];
    (!given.contains(&(stat.mode() & 0o7777)))
        .then(|| format!("its mode is {:04o}, {:04o} was sent", stat.mode() & 0o7777, item.entry.meta.mode))
}

fn digest_of(place: &Path, size: u64, holed: bool, checksum: Checksum) -> Result<Option<Digest>> {
    let source = Source::open(place, None, holed)?;
    let mut buffer = vec![0; size.min(CHUNK) as usize];
    let mut digests = ChunkDigests::new(size);
    let mut chunk = 0;
    while chunk < chunks(size) {
        let at = chunk * CHUNK;
        let data = source.next_data(at).min(size) / CHUNK;
        if data > chunk {
            digests.insert_run(chunk..data, checksum.of_empty_chunk());
            chunk = data;
            continue;
        }
        let now = (size - at).min(CHUNK) as usize;
        source.read(place, at, &mut buffer[..now])?;
        digests.insert(chunk, checksum.digest(&buffer[..now]));
        chunk += 1;
    }
    Ok(digests.fold(checksum))
}
