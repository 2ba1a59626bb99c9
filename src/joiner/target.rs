//! A joiner's file while it is being written.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;

use rustix::fs::{FallocateFlags, fallocate};

use crate::archive::Extents;
use crate::direct::Direct;
use crate::manifest::CHUNK;

/// An open file of the staging area. It may be written in any order and from several threads.
#[derive(Debug)]
pub(super) struct Target {
    file: File,
    direct: Option<Direct>,
}

impl Target {
    /// `size` is the file's final length in bytes.
    pub(super) fn new(file: File, size: u64) -> Target {
        let direct = if size >= CHUNK { Direct::writing(&file) } else { None };
        Target { file, direct }
    }

    /// A file that has been written, to be read back.
    pub(super) fn reading(file: File) -> Target {
        let direct = Direct::reading(&file);
        Target { file, direct }
    }

    /// Fills `bytes` from `offset`, past the page cache if possible.
    pub(super) fn read(&self, bytes: &mut [u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = self.direct.as_ref().filter(|direct| direct.takes(offset, bytes.len()))
            && direct.read(bytes, offset)?
        {
            return Ok(());
        }
        self.file.read_exact_at(bytes, offset)
    }

    pub(super) fn as_file(&self) -> &File {
        &self.file
    }

    /// Large pieces go past the page cache, the others through it; no page belongs to both.
    pub(super) fn write(&self, bytes: &[u8], offset: u64) -> io::Result<()> {
        if let Some(direct) = self.direct.as_ref().filter(|direct| direct.takes(offset, bytes.len()))
            && direct.write(bytes, offset)?
        {
            return Ok(());
        }
        self.file.write_all_at(bytes, offset)
    }

    /// Writes the runs of a chunk at `offset`; `data` holds them one after another.
    pub(super) fn write_runs(&self, runs: &Extents, mut data: &[u8], offset: u64) -> io::Result<()> {
        for run in runs.iter() {
            let (now, later) = data.split_at_checked(run.len as usize).ok_or(io::ErrorKind::UnexpectedEof)?;
            self.write(now, offset + u64::from(run.start))?;
            data = later;
        }
        Ok(())
    }

    /// Punches a hole, or writes zeros if the filesystem has no holes.
    pub(super) fn clear(&self, offset: u64, len: u64) -> io::Result<()> {
        const ZEROS: &[u8] = &[0; 64 << 10];
        let punched = fallocate(&self.file, FallocateFlags::PUNCH_HOLE | FallocateFlags::KEEP_SIZE, offset, len);
        if punched.is_ok() {
            return Ok(());
        }
        let mut at = offset;
        while at < offset + len {
            let piece = (ZEROS.len() as u64).min(offset + len - at);
            self.file.write_all_at(&ZEROS[..piece as usize], at)?;
            at += piece;
        }
        Ok(())
    }
}
