//! How a new tree replaces an old one: staging, the switch, its journal, recovery.
//!
//! Works on the filesystem alone: no network, no protocol, no clock. What it installs must be
//! [`crate::manifest::Verified`]. The data directory is the server's working directory, so roots themselves are never
//! renamed or replaced, only their entries.
//!
//! In the order of use: [`DirLock::take`], [`recover`], [`Staging::prepare`], with [`Staging::spend_old_tree`] if there
//! is no room for two trees, then [`Staging::directory`] and [`Staging::accepts`] while entries arrive, and
//! [`Staging::install`].

mod carry;
mod dir;
mod durable;
mod failpoint;
pub(crate) mod journal;
mod keep;
mod kept;
mod lock;
mod new_roots;
mod recovery;
mod rehearsal;
mod resolved_roots;
mod reuse;
mod server_locks;
#[cfg(test)]
mod server_tests;
mod staging;
mod switch;
mod switched_root;
#[cfg(test)]
mod tests;
mod unfinished;

pub use dir::removed;
pub use keep::{HOME, KeepRules, LOCK, MANIFEST};
pub use kept::{KEPT, KeptFile, Tally, drop_kept, drop_kept_but, kept};
pub use lock::{DirLock, running, server_holding};
pub use new_roots::make_missing;
pub use recovery::{Recovered, clear_earlier, discard, holds_database, leftover, recover, recover_staged, unfinished};
pub use reuse::Reuse;
pub use staging::{Installed, OldTree, OwnFile, Staging};
pub use unfinished::refuse_half_switched;

/// Leaves an install in `datadir` that was interrupted after this many steps, with one staged file.
#[cfg(test)]
pub(crate) fn cut_short_for_test(datadir: &std::path::Path, steps: usize) {
    use failpoint::{Plan, arm};
    let roots = crate::tree::Roots::new(datadir, &std::collections::BTreeMap::new()).unwrap();
    let lock = std::sync::Arc::new(DirLock::take(datadir).unwrap());
    let staging = Staging::prepare(lock, &roots, KeepRules::default(), OldTree::Stays, Reuse::Off).unwrap();
    std::fs::write(datadir.join(HOME).join("incoming/innodb-data/ibdata1"), "new").unwrap();
    arm(Plan::Crash(steps));
    staging.install(crate::manifest::Verified::for_test(), &[]).unwrap_err();
    arm(Plan::Nothing);
}
