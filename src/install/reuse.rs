//! What a transfer may take from this node instead of from the donor: `reuse`.

use serde::{Deserialize, Serialize};

use crate::choice::words;

/// Which local bytes may be used instead of the donor's if their digests agree.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Reuse {
    /// Those of the old tree and of an earlier attempt.
    #[default]
    Auto,
    /// Only those of an earlier attempt.
    Staged,
    /// None; and a failed attempt leaves nothing.
    Off,
}

impl Reuse {
    /// Whether what an attempt has staged is kept for the next.
    pub fn keeps(self) -> bool {
        self != Reuse::Off
    }
}

words!(Reuse { Auto = "auto", Staged = "staged", Off = "off" });
