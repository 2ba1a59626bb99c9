//! What a source is given when the joiner has agreed, and what it gives back.

use super::{FrozenReport, RoundReport};
use crate::manifest::Seal;
use crate::tree::{RelPath, RootName, Roots};

/// What both sides have agreed on.
pub(super) struct Agreed {
    pub(super) roots: Roots,
    /// Roots that the joiner has no use for.
    pub(super) without: Vec<RootName>,
    /// Where the joiner has its own.
    pub(super) theirs: Vec<RelPath>,
    /// What the joiner has already, by its own word; nothing where the source may not reuse it.
    pub(super) offered: Vec<(RelPath, u64)>,
}

/// What the joiner has now, all of it acknowledged.
pub(super) struct Brought {
    pub(super) seal: Seal,
    /// Of all files by length.
    pub(super) bytes: u64,
    pub(super) rounds: Vec<RoundReport>,
    /// `None` where no server had to hold still.
    pub(super) frozen: Option<FrozenReport>,
}
