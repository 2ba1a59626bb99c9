//! Which checksum a side insists on.

use std::fmt;
use std::str::FromStr;

use super::Checksum;
use crate::choice::none_of;

/// `None`: whichever is faster on the slower side.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ChecksumChoice(pub Option<Checksum>);

impl FromStr for ChecksumChoice {
    type Err = String;

    fn from_str(text: &str) -> Result<ChecksumChoice, String> {
        match text.to_ascii_lowercase().as_str() {
            "auto" => Ok(ChecksumChoice(None)),
            "sha256" => Ok(ChecksumChoice(Some(Checksum::Sha256))),
            "blake3" => Ok(ChecksumChoice(Some(Checksum::Blake3))),
            _ => Err(none_of(text, &["auto", "sha256", "blake3"])),
        }
    }
}

impl fmt::Display for ChecksumChoice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.0 {
            None => f.write_str("auto"),
            Some(checksum) => checksum.fmt(f),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_of_three_words() {
        for text in ["auto", "sha256", "blake3"] {
            assert_eq!(text.parse::<ChecksumChoice>().unwrap().to_string(), text);
            assert!(text.to_ascii_uppercase().parse::<ChecksumChoice>().is_ok());
        }
        assert_eq!("md5".parse::<ChecksumChoice>().unwrap_err(), "`md5` is none of auto, sha256 and blake3");
    }
}
