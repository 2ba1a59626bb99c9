//! Reads back what came in parts: only the disk can say whether they add up to the donor's chunk.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::record::Record;
use super::staged_tree::{StagedTree, failure};
use super::target::Target;
use crate::direct::Pages;
use crate::error::{Error, Kind, Result};
use crate::manifest::{CHUNK, Checksum, Digest};
use crate::threads::{lock, on_all_cores};
use crate::tree::RelPath;

/// A file of `size` bytes, and the chunks of which only a part came last, each with the donor's digest.
pub(super) struct Patched<'a> {
    pub(super) path: &'a RelPath,
    pub(super) size: u64,
    pub(super) chunks: Vec<(u64, Digest)>,
}

/// The chunks of which only a part came last.
pub(super) fn patched(records: &BTreeMap<RelPath, Arc<Record>>) -> Vec<Patched<'_>> {
    let patched = records.iter().filter_map(|(path, record)| {
        let file = lock(record.file.as_ref()?);
        let chunks = file.patched.as_ref()?.iter().flatten();
        let chunks = chunks.filter_map(|chunk| Some((chunk, file.digests.get(chunk)?)));
        let patched = Patched { path, size: file.size, chunks: chunks.collect() };
        (!patched.chunks.is_empty()).then_some(patched)
    });
    patched.collect()
}

/// Reads every such chunk, on several threads, and compares it with its digest.
///
/// # Errors
/// [`Kind::Integrity`] if one differs from the donor's.
pub(super) fn read_back(tree: &StagedTree, checksum: Checksum, patched: &[Patched<'_>]) -> Result<()> {
    let next = AtomicUsize::new(0);
    let work = || {
        let mut bytes = Pages::default();
        while let Some(Patched { path, size, chunks }) = patched.get(next.fetch_add(1, Ordering::Relaxed)) {
            let file = Target::reading(tree.read(path)?);
            for (chunk, digest) in chunks {
                let offset = chunk * CHUNK;
                bytes.resize(size.saturating_sub(offset).min(CHUNK) as usize, 0);
                file.read(&mut bytes, offset).map_err(|e| failure("cannot read", path, e))?;
                if checksum.digest(&bytes) != *digest {
                    let what = format!(
                        "{path}: the chunk at {offset} differs from the donor's, although its parts were right"
                    );
                    return Err(
                        Error::new(Kind::Integrity, what).remedy("start the transfer again; nothing was installed")
                    );
                }
            }
        }
        Ok(())
    };
    on_all_cores(patched.len(), work).map(drop)
}
