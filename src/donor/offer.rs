//! The offer: what this donor has, before anything is touched.

use std::collections::{BTreeSet, HashMap};
use std::os::unix::ffi::OsStrExt;
use std::os::unix::fs::MetadataExt;

use super::SendOptions;
use crate::backup::DataSource;
use crate::error::{Error, Result};
use crate::manifest::Checksum;
use crate::tree::{Found, InnodbFiles, Root, Roots, Scope, parts};
use crate::wire::{Offer, OfferedRoot, Speeds, WireBytes};

pub(super) fn offer(options: &SendOptions, roots: &Roots, found: &[Found], reuse: bool) -> Result<Offer> {
    let mut by_root: HashMap<&str, Vec<&Found>> = HashMap::new();
    for found in found {
        by_root.entry(found.entry.path.root_str()).or_default().push(found);
    }
    let here = |root: &Root| by_root.get(root.name.as_str()).map(Vec::as_slice).unwrap_or_default();
    // For a shared directory: which of its entries are sent. For binary logs: their base name here.
    let names = |root: &Root| -> Vec<WireBytes> {
        if let Some(stem) = &root.stem {
            return vec![WireBytes::from(stem.as_bytes())];
        }
        if root.scope != Scope::Listed {
            return Vec::new();
        }
        let first = here(root).iter().map(|found| found.entry.path.first().as_bytes());
        first.collect::<BTreeSet<_>>().into_iter().map(WireBytes::from).collect()
    };
    let of = |root: &Root| {
        let here = here(root);
        OfferedRoot {
            name: root.name.clone(),
            path: WireBytes::from(root.path.as_os_str().as_bytes()),
            names: names(root),
            bytes: here.iter().map(|found| found.size()).sum(),
            allocated: here.iter().map(|found| found.allocated).sum(),
            entries: here.len() as u64,
        }
    };
    let speed = |checksum: Checksum| match options.checksum {
        Some(only) if only != checksum => 0,
        _ => checksum.measure(),
    };
    let owner = std::fs::metadata(roots.datadir()).map_err(|e| Error::io("cannot read", roots.datadir(), e))?;
    let mut innodb = InnodbFiles::of(roots);
    if let Some(redo) = innodb.redo.as_mut().filter(|_| options.live) {
        // What it will hold once the server is frozen may differ from what it holds now.
        redo.empty = false;
    }
    Ok(Offer {
        bypass: false,
        position: options.position.clone(),
        server_version: options.server_version.clone(),
        innodb,
        lower_case_table_names: options.lower_case_table_names,
        owner: (owner.uid(), owner.gid()),
        roots: roots.iter().map(of).filter(|root| root.entries > 0).collect(),
        parts: parts(found.iter().map(|found| &found.entry)),
        speeds: Speeds { sha256: speed(Checksum::Sha256), blake3: speed(Checksum::Blake3) },
        lanes: options.lanes,
        reuse,
        source: if options.backup.is_some() { DataSource::Mariabackup } else { DataSource::Files },
    })
}
