//! What a lane carries: chunks as members of a POSIX pax archive, in batches, compressed or not.
//!
//! Packing and unpacking are side by side. Bytes in, bytes out: no sockets, and no files except the one a chunk is read
//! from.

#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

mod codec;
mod extents;
mod located;
mod member;
mod page_hints;

pub use codec::{Codec, CodecError};
pub use extents::{Extent, Extents};
pub use located::Located;
pub use member::{Batch, Chunk, Member, MemberError, Patch, unpack};
pub use page_hints::PageHints;
