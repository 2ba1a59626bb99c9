//! How many connections carry a transfer.

use std::fmt;
use std::str::FromStr;

use crate::threads::cores;

/// 1 to [`Lanes::MAX`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Lanes(u16);

impl Lanes {
    /// The most either side opens. Each lane takes a few MiB of memory on both sides, and 256 MiB are the limit.
    pub const MAX: u16 = 32;

    /// `count`, brought within the bounds.
    pub fn near(count: u64) -> Lanes {
        Lanes(u16::try_from(count).unwrap_or(Lanes::MAX).clamp(1, Lanes::MAX))
    }

    pub fn get(self) -> u16 {
        self.0
    }
}

/// One per core, 8 to 16: a lane waits by turns for the disk and for the link.
impl Default for Lanes {
    fn default() -> Lanes {
        Lanes::near(cores().clamp(8, 16) as u64)
    }
}

impl FromStr for Lanes {
    type Err = String;

    fn from_str(text: &str) -> Result<Lanes, String> {
        let count = text.parse().ok().filter(|count| (1..=Lanes::MAX).contains(count));
        count.map(Lanes).ok_or_else(|| format!("`{text}` is not a number from 1 to {}", Lanes::MAX))
    }
}

impl fmt::Display for Lanes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts() {
        for (text, count) in
            [("1", Some(1)), ("32", Some(32)), ("0", None), ("33", None), ("", None), ("-1", None), ("4x", None)]
        {
            assert_eq!(text.parse::<Lanes>().ok().map(Lanes::get), count, "{text}");
        }
        assert_eq!([0, 7, 100_000].map(|count| Lanes::near(count).get()), [1, 7, 32]);
        assert!((8..=16).contains(&Lanes::default().get()));
    }
}
