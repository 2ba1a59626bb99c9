//! A source gets the lanes once the joiner has agreed, and sends the whole tree over them.
//!
//! The conversation is the same for every source. It does not know whether a tree is read once or several times, nor
//! what a source asks of the server meanwhile.

use super::brought::{Agreed, Brought};
use super::files::Files;
use super::lane::Lanes;
use super::stream::Stream;
use crate::error::Result;
use crate::link::Control;
use crate::progress::Phase;

/// Where a tree comes from.
pub(super) enum Source {
    /// A server's files.
    Files(Files),
    /// A backup that another program makes.
    Stream(Stream),
}

impl Source {
    /// Whether what the joiner already has may be compared with it: a stream is read only once.
    pub(super) fn may_reuse(&self) -> bool {
        match self {
            Source::Files(files) => files.may_reuse(),
            Source::Stream(_) => false,
        }
    }

    /// What the joiner does once it has verified the tree.
    pub(super) fn afterwards(&self) -> Phase {
        match self {
            Source::Files(_) => Phase::Installing,
            Source::Stream(_) => Phase::Preparing,
        }
    }

    /// Returns when the joiner has acknowledged all of it.
    pub(super) async fn bring(self, control: &mut Control, lanes: Lanes, agreed: Agreed) -> Result<Brought> {
        match self {
            Source::Files(files) => files.bring(control, lanes, agreed).await,
            Source::Stream(stream) => stream.bring(control, lanes, agreed).await,
        }
    }
}
