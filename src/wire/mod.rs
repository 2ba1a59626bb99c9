//! The conversation as bytes: the preamble, the messages of the control connection, the frames of a
//! lane.
//!
//! Pure: no sockets, no clock, no files. Writing and reading are side by side, and every length is checked before it is
//! used.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod basis;
mod contents;
mod frame;
mod message;
mod offer;
mod piece;
mod preamble;

pub use basis::BasisParts;
pub use contents::{Base64, BasisFile, Offer, OfferedRoot, PipeAccept, PipeOffer, SampledChunk, Speeds};
pub use frame::{Ack, Answer, FrameHeader, FrameKind};
pub use message::{Accept, Failure, Kept, Message, Purpose, Round};
pub use offer::OfferParts;
pub use piece::Piece;
pub use preamble::{Preamble, VERSION};

pub use crate::manifest::Escaped as WireBytes;

/// How bytes violate the protocol.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum WireError {
    #[error("it does not speak Highline's protocol")]
    Magic,
    #[error("it speaks protocol versions {theirs_min} to {theirs_max}, this side {ours_min} to {ours_max}")]
    Version { ours_min: u16, ours_max: u16, theirs_min: u16, theirs_max: u16 },
    #[error("a length of {0} bytes is over the limit")]
    Length(u64),
    #[error("a lane frame is malformed")]
    Frame,
    #[error("an answer on a lane is malformed")]
    Answer,
    #[error("a message is malformed: {0}")]
    Message(String),
}

impl From<WireError> for crate::error::Error {
    fn from(error: WireError) -> Self {
        use crate::error::{Error, Kind};
        let kind = match error {
            WireError::Version { .. } => Kind::Incompatible,
            _ => Kind::Protocol,
        };
        let versions = matches!(error, WireError::Version { .. });
        let made = Error::new(kind, format!("the peer's bytes were refused: {error}"));
        if versions { made.remedy("install the same Highline release on both nodes") } else { made }
    }
}
