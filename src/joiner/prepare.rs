//! Makes a server's tree of a backup that has arrived: all its files go into one directory, are prepared there, and return
//! to their roots.
//!
//! Whatever of the old tree is still there is not touched by any of it.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::Arc;

use crate::backup::{self, Prepare};
use crate::error::{Error, Kind, Printable, Result};
use crate::install::Staging;
use crate::position::GaleraGtid;
use crate::progress::Reporter;
use crate::stop::Stop;
use crate::tree::{RedoLog, RootName, Roots, Scope};
use crate::wire::Offer;

/// Refuses, before anything is touched, if a backup could not be prepared here.
pub(super) fn examine(roots: &Roots, offer: &Offer, how: &Prepare) -> Result<()> {
    backup::program()?;
    if offer.innodb.redo.as_ref().is_some_and(RedoLog::is_encrypted) && !how.has_keys() {
        return Err(Error::new(Kind::Usage, "the donor's redo log is encrypted, and this node's option files load no plugin with keys")
            .remedy("set plugin_load_add and the plugin's options under [mysqld] as on the donor, or set source=files on the donors"));
    }
    let datadir = device(roots.datadir())?;
    let gathered = |scope: &Scope| matches!(scope, Scope::Names(names) if !names.is_empty());
    for root in roots.iter().filter(|root| root.name.as_str() != RootName::BINLOG && gathered(&root.scope)) {
        if device(&root.path)? != datadir {
            let what = format!(
                "{} ({}) is on another filesystem than the data directory, and a backup is prepared in one directory",
                Printable::path(&root.path),
                root.name
            );
            return Err(Error::new(Kind::Usage, what)
                .remedy("set source=files on the donors, or move it to the data directory's filesystem"));
        }
    }
    Ok(())
}

/// The filesystem of a directory, or the one where it will be made.
fn device(path: &Path) -> Result<u64> {
    let failed = |e| Error::io("cannot read", path, e);
    let mut above = path;
    loop {
        match (std::fs::metadata(above), above.parent()) {
            (Err(error), Some(parent)) if error.kind() == std::io::ErrorKind::NotFound => above = parent,
            (stat, _) => return Ok(stat.map_err(failed)?.dev()),
        }
    }
}

/// Prepares what is staged, of pages that have `page_size` bytes; returns the position that it reports.
pub(super) async fn prepare(
    staging: &Staging,
    how: &Prepare,
    page_size: Option<u32>,
    reporter: &Arc<dyn Reporter>,
    stop: &Stop,
) -> Result<Option<GaleraGtid>> {
    let dir = staging.gather()?;
    how.run(&dir, page_size, Arc::clone(reporter), stop).await?;
    let info = backup::GALERA_INFO.iter().find_map(|name| std::fs::read(dir.join(name)).ok());
    staging.scatter(backup::is_left_over)?;
    Ok(info.and_then(|info| backup::position(&info)))
}

/// The position to report: that of the prepared tree, with the domain that the donor knew.
pub(super) fn position(sent: Option<GaleraGtid>, prepared: Option<GaleraGtid>) -> Option<GaleraGtid> {
    let domain = sent.as_ref().and_then(|gtid| gtid.domain);
    match prepared {
        Some(gtid) => Some(GaleraGtid { domain: gtid.domain.or(domain), ..gtid }),
        None => sent,
    }
}
