//! What this node has already of what the donor offers: the files of its old tree.
//!
//! The old tree may hold anything. Its files are found by the rules of the donor's scan, opened one name at a time and
//! never through a symlink, and only read.

use std::ffi::OsStr;
use std::fmt;
use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::str::FromStr;

use rustix::fs::{Mode, OFlags, open, openat};
use rustix::io::Errno;

use crate::archive::{Located, PageHints};
use crate::direct::Pages;
use crate::error::{Error, Kind, Result};
use crate::install::{KeepRules, Staging};
use crate::manifest::chunks;
use crate::tree::{RelPath, Roots, Rules, Scope, Source, Tolerance, locate, scan};
use crate::wire::{Base64, BasisParts, Message, Offer, SampledChunk};

/// What of this node's files a transfer may use: `reuse`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ReuseMode {
    /// The old tree, and what an earlier attempt left.
    #[default]
    Auto,
    /// What an earlier attempt left.
    Staged,
    /// Nothing: all of it is sent.
    Off,
}

impl FromStr for ReuseMode {
    type Err = String;

    fn from_str(text: &str) -> Result<ReuseMode, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(ReuseMode::Auto),
            "staged" => Ok(ReuseMode::Staged),
            "off" => Ok(ReuseMode::Off),
            _ => Err(format!("`{text}` is none of auto, staged, off")),
        }
    }
}

impl fmt::Display for ReuseMode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            ReuseMode::Auto => "auto",
            ReuseMode::Staged => "staged",
            ReuseMode::Off => "off",
        })
    }
}

/// Smaller files are sent sooner than they are compared.
const SMALLEST: u64 = 64 << 10;
/// The most chunks that a donor may ask about.
const SAMPLES: usize = 64;

/// The files that this node has, the largest first. A file is known by its place.
#[derive(Debug)]
pub(super) struct Basis {
    roots: Roots,
    files: Vec<(RelPath, u64)>,
}

/// A file of it that is open.
#[derive(Debug)]
pub(super) struct Opened {
    pub(super) file: File,
    pub(super) size: u64,
    /// Bytes that the filesystem has given to it.
    pub(super) allocated: u64,
}

impl Basis {
    pub(super) fn none(roots: &Roots) -> Basis {
        Basis { roots: roots.clone(), files: Vec::new() }
    }

    /// The files of the old tree that lie where the donor's may be staged.
    pub(super) fn of_old_tree(roots: &Roots, keep: &KeepRules, offer: &Offer, staging: &Staging) -> Result<Basis> {
        let rules = Rules::new(keep.extra().to_vec(), keep.own().clone());
        let travels = |path: &RelPath| {
            let offered = offer.roots.iter().find(|root| root.name.as_str() == path.root_str());
            let (Some(offered), Some(root)) = (offered, roots.get(path.root_str())) else { return false };
            // Of a directory outside only what the donor has there is ours.
            let named = || offered.names.iter().any(|name| path.first() == OsStr::from_bytes(name.as_bytes()));
            root.scope != Scope::Listed || named()
        };
        let mut files: Vec<(RelPath, u64)> = scan(&mut roots.clone(), &rules, Tolerance::Unreadable)?
            .into_iter()
            .filter(|found| found.size() >= SMALLEST)
            .filter(|found| travels(&found.entry.path) && staging.accepts(&found.entry.path, &found.entry.content))
            .map(|found| (found.entry.path.clone(), found.size()))
            .collect();
        files.sort_by_key(|(_, size)| std::cmp::Reverse(*size));
        let mut bytes = 0;
        let mut fits = |(path, _): &(RelPath, u64)| {
            bytes += path.as_bytes().len();
            bytes <= BasisParts::MAX_BYTES
        };
        let count = files.iter().take(BasisParts::MAX_FILES).take_while(|file| fits(file)).count();
        files.truncate(count);
        Ok(Basis { roots: roots.clone(), files })
    }

    pub(super) fn is_empty(&self) -> bool {
        self.files.is_empty()
    }

    pub(super) fn len(&self) -> usize {
        self.files.len()
    }

    pub(super) fn messages(&self) -> Vec<Message> {
        BasisParts::messages(self.files.iter().map(|(path, size)| (path, *size)))
    }

    pub(super) fn get(&self, number: u32) -> Option<&(RelPath, u64)> {
        self.files.get(number as usize)
    }

    /// Where a file lies, for messages.
    pub(super) fn place(&self, path: &RelPath) -> PathBuf {
        locate(&self.roots, path).unwrap_or_else(|| path.beneath().to_owned())
    }

    /// Opens a file while it has the size that it was listed with.
    pub(super) fn open(&self, path: &RelPath, size: u64) -> io::Result<Opened> {
        let root = self.roots.get(path.root_str()).ok_or(io::ErrorKind::NotFound)?;
        let directory = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        // The root itself is the operator's word.
        let mut at: OwnedFd = open(&root.path, directory, Mode::empty())?;
        let (beneath, local) = (path.beneath(), root.local_name(path.first()));
        if let Some(parent) = path.parent() {
            for name in parent.beneath().components() {
                at = openat(&at, name.as_os_str(), directory | OFlags::NOFOLLOW, Mode::empty())?;
            }
        }
        let name = if path.parent().is_some() { beneath.file_name().unwrap_or_default() } else { &*local };
        // What has become a pipe must not make anybody wait.
        let flags = OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
        let file = match openat(&at, name, flags | OFlags::NOATIME, Mode::empty()) {
            // Only the owner may leave the access time alone (open(2)).
            Err(Errno::PERM) => openat(&at, name, flags, Mode::empty()),
            other => other,
        };
        let file = File::from(file?);
        let stat = file.metadata()?;
        if !stat.is_file() || stat.len() != size {
            return Err(io::Error::other("it is not what it was"));
        }
        Ok(Opened { file, size, allocated: stat.blocks().saturating_mul(512) })
    }

    /// The hints of chunks that the donor asks about.
    pub(super) fn hints(&self, asked: &[SampledChunk], seed: u64) -> Result<Vec<Base64>> {
        let strange = || Error::new(Kind::Protocol, "the donor asked about a chunk of a file that was not listed");
        if asked.len() > SAMPLES {
            return Err(Error::new(Kind::Protocol, format!("the donor asked about {} chunks at once", asked.len())));
        }
        let (mut span, mut data) = (Pages::default(), Pages::default());
        let hints = asked.iter().map(|SampledChunk { file, chunk }| {
            let (path, size) = self.get(*file).filter(|(_, size)| *chunk < chunks(*size)).ok_or_else(strange)?;
            let Ok(opened) = self.open(path, *size) else { return Ok(Base64::default()) };
            let source = opened.source();
            let place = self.place(path);
            let read = Located::new(&source, &place, *chunk, *size, &mut span).and_then(|located| {
                data.resize(located.extents.data_len(), 0);
                located.read(&source, &place, &mut data, &mut span)?;
                Ok(PageHints::of_runs(&located.extents, &data, located.len, seed))
            });
            // What cannot be read is not reused.
            Ok(read.map_or_else(|_| Base64::default(), |hints| hints.to_bytes().collect::<Vec<u8>>().into()))
        });
        hints.collect()
    }
}

impl Opened {
    fn holed(&self) -> bool {
        self.allocated < self.size
    }

    pub(super) fn source(self) -> Source {
        let holed = self.holed();
        Source::still(self.file, self.size, holed)
    }
}
