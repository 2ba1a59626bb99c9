//! What a source is given once the joiner has agreed, and what it returns.

use super::{FrozenReport, RoundReport};
use crate::manifest::Seal;
use crate::tree::{RelPath, RootName, Roots};

/// What both sides have agreed on.
pub(super) struct Agreed {
    pub(super) roots: Roots,
    /// Roots that the joiner has no use for.
    pub(super) without: Vec<RootName>,
    /// Where the joiner has files of its own.
    pub(super) theirs: Vec<RelPath>,
    /// What the joiner says it already has; nothing if the source may not reuse it.
    pub(super) offered: Vec<(RelPath, u64)>,
}

/// What the joiner has now, all acknowledged.
pub(super) struct Brought {
    pub(super) seal: Seal,
    /// The lengths of all files.
    pub(super) bytes: u64,
    pub(super) rounds: Vec<RoundReport>,
    /// `None` if no server had to be frozen.
    pub(super) frozen: Option<FrozenReport>,
}
