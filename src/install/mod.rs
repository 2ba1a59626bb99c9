//! Placeholder until the install room is merged.

use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};

use crate::error::{Error, Result};
use crate::manifest::Verified;
use crate::tree::{RootName, Roots};

#[derive(Debug)]
pub struct Staging {
    dirs: Vec<(RootName, PathBuf, PathBuf)>,
}

impl Staging {
    pub fn prepare(roots: &Roots) -> Result<Staging> {
        let mut dirs = Vec::new();
        for root in roots.iter() {
            let dir = root.path.join(".highline/incoming").join(root.name.as_str());
            let _ = std::fs::remove_dir_all(&dir);
            std::fs::create_dir_all(&dir).map_err(|e| Error::io("cannot make", &dir, e))?;
            dirs.push((root.name.clone(), dir, root.path.clone()));
        }
        Ok(Staging { dirs })
    }

    pub fn directories(&self) -> Result<Vec<(RootName, OwnedFd)>> {
        self.dirs.iter().map(|(n, d, _)| Ok((n.clone(), crate::joiner::open_root(d)?))).collect()
    }

    pub fn install(self, _: &Verified) -> Result<()> {
        for (_, dir, to) in &self.dirs {
            for item in std::fs::read_dir(dir).map_err(|e| Error::io("x", dir, e))? {
                let item = item.map_err(|e| Error::io("x", dir, e))?;
                std::fs::rename(item.path(), to.join(item.file_name())).map_err(|e| Error::io("x", to, e))?;
            }
        }
        Ok(())
    }

    pub fn sync(&self) -> Result<()> {
        for (_, dir, _) in &self.dirs {
            let f = std::fs::File::open(dir).map_err(|e| Error::io("x", dir, e))?;
            rustix::fs::syncfs(&f).map_err(|e| Error::io("x", dir, e))?;
        }
        Ok(())
    }
}

pub fn manifest_path(datadir: &Path) -> PathBuf {
    datadir.join(".highline/manifest")
}
