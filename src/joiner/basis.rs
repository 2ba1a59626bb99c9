//! What this node already has of what the donor offers: the files of its old tree, and what an earlier attempt left.
//!
//! Both may hold anything. Files of the old tree are found by the same rules as in the donor's scan, opened one name at
//! a time, never through a symlink, and only read.

use std::collections::HashSet;
use std::ffi::OsStr;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;

use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;

use crate::archive::Located;
use crate::direct::Pages;
use crate::error::{Error, Kind, Result};
use crate::install::{KeepRules, KeptFile, Reuse, Staging, kept};
use crate::manifest::chunks;
use crate::tree::{Content, Entry, RelPath, Roots, Rules, Scope, Source, Tolerance, locate, scan};
use crate::wire::{Base64, BasisParts, Message, Offer, SampledChunk};

/// Bytes. Sending smaller files is quicker than comparing them.
const SMALLEST: u64 = 64 << 10;
/// The most chunks a donor may ask about.
const SAMPLES: usize = 64;

/// The files this node has, the largest first. A file's number is its index here.
#[derive(Debug)]
pub(super) struct Basis {
    roots: Roots,
    files: Vec<Had>,
}

/// A file this node has.
#[derive(Debug)]
pub(super) struct Had {
    /// Its path on the donor.
    pub(super) path: RelPath,
    pub(super) size: u64,
    /// Where it is, if not in the old tree.
    pub(super) kept: Option<KeptFile>,
    pub(super) origin: Origin,
}

/// Where a file comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    OldTree,
    EarlierAttempt,
}

/// An open file.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) size: u64,
    /// Bytes allocated to it on disk.
    pub(super) allocated: u64,
}

impl Basis {
    pub(super) fn none(roots: &Roots) -> Basis {
        Basis { roots: roots.clone(), files: Vec::new() }
    }

    /// The files that may become part of the donor's tree: kept files, and the old tree if it is still there, by this
    /// node's rules. Kept files that are not `earlier` come from an old tree that was removed first.
    pub(super) fn find(
        roots: &Roots,
        offer: &Offer,
        staging: &Staging,
        reuse: Reuse,
        earlier: &[KeptFile],
        old_tree: Option<&KeepRules>,
    ) -> Result<Basis> {
        if !offer.reuse || reuse == Reuse::Off {
            return Ok(Basis::none(roots));
        }
        let travels = |path: &RelPath| {
            let offered = offer.roots.iter().find(|root| root.name.as_str() == path.root_str());
            let (Some(offered), Some(root)) = (offered, roots.get(path.root_str())) else { return false };
            // In a directory outside, only what the donor has there is ours.
            let named = || offered.names.iter().any(|name| path.first() == OsStr::from_bytes(name.as_bytes()));
            root.scope != Scope::Listed || named()
        };
        let before: HashSet<&RelPath> = earlier.iter().map(|kept| &kept.path).collect();
        let mut files: Vec<Had> = Vec::new();
        for kept in kept(roots)? {
            let origin = if before.contains(&kept.path) { Origin::EarlierAttempt } else { Origin::OldTree };
            files.push(Had { path: kept.path.clone(), size: kept.size, kept: Some(kept), origin });
        }
        if let Some(keep) = old_tree.filter(|_| reuse == Reuse::Auto) {
            let known: HashSet<RelPath> = files.iter().map(|file| file.path.clone()).collect();
            let rules = Rules::new(keep.extra().to_vec(), keep.own().clone());
            let found = scan(&mut roots.clone(), &rules, Tolerance::Unreadable)?;
            let found =
                found.into_iter().filter(|found| found.size() >= SMALLEST && !known.contains(&found.entry.path));
            files.extend(found.map(|found| {
                let size = found.size();
                Had { path: Entry::from(found).path, size, kept: None, origin: Origin::OldTree }
            }));
        }
        files.retain(|Had { path, size, .. }| travels(path) && staging.accepts(path, &Content::File { size: *size }));
        files.sort_by_key(|file| std::cmp::Reverse(file.size));
        let mut bytes = 0;
        let mut fits = |file: &Had| {
            bytes += file.path.as_bytes().len();
            bytes <= BasisParts::MAX_BYTES
        };
        let count = files.iter().take(BasisParts::MAX_FILES).take_while(|file| fits(file)).count();
        files.truncate(count);
        Ok(Basis { roots: roots.clone(), files })
    }

    pub(super) fn roots(&self) -> &Roots {
        &self.roots
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn messages(&self) -> Vec<Message> {
        BasisParts::messages(self.files.iter().map(|file| (&file.path, file.size)))
    }

    pub(super) fn get(&self, number: u32) -> Option<&Had> {
        self.files.get(number as usize)
    }

    /// Where a file is, for messages.
    pub(super) fn place(&self, had: &Had) -> PathBuf {
        let root = self.roots.get(had.path.root_str()).map(|root| root.path.as_path());
        match (&had.kept, root) {
            (Some(kept), Some(root)) => root.join(kept.name()),
            _ => locate(&self.roots, &had.path).unwrap_or_else(|| had.path.beneath().to_owned()),
        }
    }

    /// Opens a file, provided that it still has the size it was listed with.
    pub(super) fn open(&self, had: &Had) -> io::Result<Opened> {
        let (path, root) = (&had.path, self.roots.get(had.path.root_str()).ok_or(io::ErrorKind::NotFound)?);
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The root itself is the operator's word.
        let mut at: OwnedFd = open(&root.path, directory, Mode::empty())?;
        let local = root.local_name(path.first());
        let name = match (&had.kept, path.parent()) {
            (Some(kept), _) => kept.name(),
            (None, None) => &*local,
            (None, Some(parent)) => {
                for name in parent.beneath().components() {
                    at = openat(&at, name.as_os_str(), directory | OFlags::NOFOLLOW, Mode::empty())?;
                }
                path.beneath().file_name().unwrap_or_default()
            }
        };
        // If it has become a pipe, opening must not block.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&at, name, flags | OFlags::NOATIME, Mode::empty()) {
            // Only the owner may leave the access time alone (open(2)).
            Err(Errno::PERM) => openat(&at, name, flags, Mode::empty()),
            other => other,
        };
        Opened::new(File::from(file?), had.size)
    }

    /// The page hints of the chunks that the donor asks about.
    pub(super) fn hints(&self, asked: &[SampledChunk], seed: u64) -> Result<Vec<Base64>> {
        let strange = || Error::new(Kind::Protocol, "the donor asked about a chunk of a file that was not listed");
        if asked.len() > SAMPLES {
            return Err(Error::new(Kind::Protocol, format!("the donor asked about {} chunks at once", asked.len())));
        }
        let (mut span, mut data) = (Pages::default(), Pages::default());
        let hints = asked.iter().map(|SampledChunk { file, chunk }| {
            let had = self.get(*file).filter(|had| *chunk < chunks(had.size)).ok_or_else(strange)?;
            let Ok(opened) = self.open(had) else { return Ok(Base64::default()) };
            let source = opened.source();
            let place = self.place(had);
            let read = Located::load(&source, &place, (*chunk, had.size), &mut data, &mut span);
            // What cannot be read is not reused.
            Ok(read.map_or_else(
                |_| Base64::default(),
                |located| located.hints(&data, seed).to_bytes().collect::<Vec<u8>>().into(),
            ))
        });
        hints.collect()
    }
}

impl Opened {
    /// Fails unless `file` is a regular file of `size` bytes.
    pub(super) fn new(file: File, size: u64) -> io::Result<Opened> {
        let stat = file.metadata()?;
        if !stat.is_file() || stat.len() != size {
            return Err(io::Error::other("it has changed"));
        }
        Ok(Opened { file, size, allocated: stat.blocks().saturating_mul(512) })
    }

    pub(super) fn source(self) -> Source {
        let holed = self.allocated < self.size;
        Source::still(self.file, self.size, holed)
    }
}
