//! What messages carry: bytes as text, the offer, what the joiner has.

use std::collections::BTreeSet;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD_NO_PAD;
use serde::{Deserialize, Serialize};

use super::WireBytes;
use crate::backup::DataSource;
use crate::manifest::Checksum;
use crate::position::GaleraGtid;
use crate::tree::{InnodbFiles, RootName};

/// How fast a side digests with one thread, in MB/s. Zero: it will not use that checksum.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Speeds {
    pub sha256: u32,
    pub blake3: u32,
}

/// One root of the donor and its size.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct OfferedRoot {
    pub name: RootName,
    /// Its path on the donor.
    pub path: WireBytes,
    /// For a directory that is not the server's alone: the top-level names that are sent.
    #[serde(default)]
    pub names: Vec<WireBytes>,
    /// Bytes by length, and bytes allocated on disk.
    pub bytes: u64,
    pub allocated: u64,
    pub entries: u64,
}

/// What the donor has, before anything is touched. The default is empty, with everything unknown.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Offer {
    /// The donor has nothing to send: the joiner's own data is recent enough (IST).
    pub bypass: bool,
    pub position: Option<GaleraGtid>,
    /// Such as `10.11.19-MariaDB`.
    pub server_version: Option<String>,
    /// What a server that starts on these files must be able to handle.
    #[serde(default)]
    pub innodb: InnodbFiles,
    /// The donor's setting, if known.
    #[serde(default)]
    pub lower_case_table_names: Option<u8>,
    /// User and group of the donor's data directory.
    pub owner: (u32, u32),
    pub roots: Vec<OfferedRoot>,
    /// Which parts of a data directory there are; a tree that lacks one is incomplete.
    #[serde(default)]
    pub parts: BTreeSet<crate::tree::Part>,
    pub speeds: Speeds,
    pub lanes: u16,
    /// The donor can compare with what the joiner already has.
    #[serde(default)]
    pub reuse: bool,
    /// A backup has to be prepared before it is a tree.
    #[serde(default)]
    pub source: DataSource,
}

/// A donor that has one stream of bytes, instead of a tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeOffer {
    pub speeds: Speeds,
    pub lanes: u16,
    /// The most pieces that it keeps until they are acknowledged.
    pub window: u32,
}

/// The joiner's consent to that.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct PipeAccept {
    pub checksum: Checksum,
    pub lanes: u16,
    /// How far a piece's number may be ahead of the first that is not written yet.
    pub window: u32,
    /// The peer's software, for the log.
    pub software: String,
}

/// Bytes as text: base64 without padding (RFC 4648 §4).
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Base64(Vec<u8>);

impl Base64 {
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl From<Vec<u8>> for Base64 {
    fn from(bytes: Vec<u8>) -> Base64 {
        Base64(bytes)
    }
}

impl TryFrom<String> for Base64 {
    type Error = &'static str;

    fn try_from(text: String) -> Result<Base64, &'static str> {
        STANDARD_NO_PAD.decode(text).map(Base64).map_err(|_| "the text is not base64")
    }
}

impl From<Base64> for String {
    fn from(bytes: Base64) -> String {
        STANDARD_NO_PAD.encode(bytes.0)
    }
}

/// A file that the joiner has.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BasisFile {
    /// `root/part/part`.
    pub path: WireBytes,
    pub size: u64,
}

/// A chunk of one of these files; `file` is its index in the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct SampledChunk {
    pub file: u32,
    pub chunk: u64,
}
