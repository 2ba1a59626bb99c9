//! What a donor may not send, in words.

use crate::error::{Error, Kind};
use crate::tree::RelPath;
use crate::wire::Round;

pub(super) fn twice(path: &RelPath) -> Error {
    Error::new(Kind::Protocol, format!("{path}: the donor sent it twice, with different content"))
}

pub(super) fn short(path: &RelPath) -> Error {
    Error::new(Kind::Protocol, format!("{path}: a chunk has less data than its extents say"))
}

pub(super) fn announced(path: &RelPath, round: &Round) -> Error {
    Error::new(Kind::Protocol, format!("{path}: more than the {} bytes that were announced", round.bytes))
}

pub(super) fn out_of_turn(round: u16) -> Error {
    Error::new(Kind::Protocol, format!("a frame of round {round} came out of turn"))
}
