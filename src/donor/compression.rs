//! Which codec the next batch gets.

use std::str::FromStr;
use std::sync::atomic::{AtomicU64, Ordering};

use crate::lane::{Codec, CodecError};

/// The operator's choice: `--compress`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum Compression {
    /// Whatever moves the most bytes, found by trying.
    #[default]
    Auto,
    Fixed(Codec),
}

impl FromStr for Compression {
    type Err = CodecError;

    fn from_str(text: &str) -> Result<Compression, CodecError> {
        match text {
            "auto" => Ok(Compression::Auto),
            other => other.parse().map(Compression::Fixed),
        }
    }
}

/// Chooses for all lanes together and keeps count.
#[derive(Debug)]
pub(super) struct Chooser {
    choice: Compression,
    /// Unpacked bytes sent with each codec, by its number.
    sent: [AtomicU64; 3],
}

impl Chooser {
    pub(super) fn new(choice: Compression) -> Chooser {
        Chooser { choice, sent: Default::default() }
    }

    pub(super) fn choose(&self) -> Codec {
        match self.choice {
            Compression::Auto => Codec::None,
            Compression::Fixed(codec) => codec,
        }
    }

    pub(super) fn count(&self, codec: u8, raw: u64) {
        if let Some(sum) = self.sent.get(usize::from(codec)) {
            sum.fetch_add(raw, Ordering::Relaxed);
        }
    }

    /// `auto: zstd 93 %, none 7 %`, for the log.
    pub(super) fn summary(&self) -> String {
        let sums = self.sent.each_ref().map(|sum| sum.load(Ordering::Relaxed));
        let total: u64 = sums.iter().sum();
        let mut parts: Vec<(u64, &str)> =
            sums.into_iter().zip(["none", "lz4", "zstd"]).filter(|(sum, _)| *sum > 0).collect();
        parts.sort_by_key(|(sum, _)| std::cmp::Reverse(*sum));
        let shown: Vec<String> = match parts.as_slice() {
            [(_, only)] => vec![(*only).to_owned()],
            parts => parts.iter().map(|(sum, name)| format!("{name} {} %", sum * 100 / total.max(1))).collect(),
        };
        match self.choice {
            Compression::Auto => format!("auto: {}", shown.join(", ")),
            Compression::Fixed(codec) if shown.len() == 1 && shown[0] == codec.name() => codec.to_string(),
            Compression::Fixed(codec) => format!("{codec}: {}", shown.join(", ")),
        }
    }
}
