//! How a new tree takes the place of an old one: staging, the switch, its journal, recovery.
//!
//! Works on the filesystem alone: no network, no protocol, no clock. What it installs must be
//! [`crate::manifest::Verified`]. The server's working directory is the data directory, so roots are
//! never renamed or replaced themselves; their entries are.
//!
//! In the order of use: [`DirLock::take`], [`recover`], [`Staging::prepare`], with [`Staging::spend_old_tree`]
//! where there is no room for two trees, then [`Staging::directory`] and [`Staging::accepts`] while entries
//! come, and [`Staging::install`].

mod carry;
mod dir;
mod failpoint;
pub(crate) mod journal;
mod keep;
mod lock;
mod resolved_roots;
#[cfg(test)]
mod server_tests;
mod staging;
mod switch;
#[cfg(test)]
mod tests;
mod unfinished;

pub use keep::{HOME, KeepRules, LOCK, MANIFEST, NEW_MANIFEST};
pub use lock::{DirLock, server_holding};
pub use staging::{Installed, OwnFile, Recovered, Staging, discard, recover};
pub use unfinished::refuse_half_switched;
