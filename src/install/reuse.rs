//! What a transfer may take from this node instead of from the donor: `reuse`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

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

impl FromStr for Reuse {
    type Err = String;

    fn from_str(text: &str) -> Result<Reuse, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(Reuse::Auto),
            "staged" => Ok(Reuse::Staged),
            "off" => Ok(Reuse::Off),
            _ => Err(format!("`{text}` is none of auto, staged, off")),
        }
    }
}

impl fmt::Display for Reuse {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Reuse::Auto => "auto",
            Reuse::Staged => "staged",
            Reuse::Off => "off",
        })
    }
}
