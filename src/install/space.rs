//! How much room the filesystems behind the roots have.

use crate::error::{Error, Result};
use crate::tree::{RootName, Roots};

/// One filesystem and the roots that lie on it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Filesystem {
    pub roots: Vec<RootName>,
    /// Bytes that a process without privileges may still write.
    pub available: u64,
    /// Files that may still be made, or `None` where the filesystem does not count them.
    pub files: Option<u64>,
}

/// The filesystems behind these roots. Every root's directory must exist.
pub fn space(roots: &Roots) -> Result<Vec<Filesystem>> {
    let mut found: Vec<(u64, Filesystem)> = Vec::new();
    for root in roots.iter() {
        let failed = |e| Error::io("cannot examine the filesystem of", &root.path, e);
        let device = rustix::fs::stat(&root.path).map_err(failed)?.st_dev;
        if let Some((_, filesystem)) = found.iter_mut().find(|(known, _)| *known == device) {
            filesystem.roots.push(root.name.clone());
            continue;
        }
        let stat = rustix::fs::statvfs(&root.path).map_err(failed)?;
        let available = stat.f_bavail.saturating_mul(stat.f_frsize);
        let files = (stat.f_files > 0).then_some(stat.f_favail);
        found.push((device, Filesystem { roots: vec![root.name.clone()], available, files }));
    }
    Ok(found.into_iter().map(|(_, filesystem)| filesystem).collect())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    #[test]
    fn roots_of_one_filesystem_are_counted_once() {
        let temp = tempfile::tempdir().unwrap();
        let paths = BTreeMap::from([("external-1".parse().unwrap(), "/proc".into())]);
        let found = space(&Roots::new(temp.path(), &paths).unwrap()).unwrap();
        assert_eq!(found.len(), 2);
        assert_eq!(found[0].roots.len(), 6);
        assert!(found[0].available > 0);
        assert_eq!(found[1].available, 0);
    }
}
