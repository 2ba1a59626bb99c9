//! Compression of one batch.

use std::fmt;
use std::future::Future;
use std::pin::pin;
use std::str::FromStr;
use std::task::{Context, Poll, Waker};

use async_compression::Level;
use async_compression::tokio::bufread::{Lz4Decoder, Lz4Encoder, ZstdDecoder, ZstdEncoder};
use tokio::io::{AsyncRead, AsyncReadExt};

use crate::direct::Pages;

/// How the bytes of a frame are compressed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Codec {
    None,
    Lz4,
    /// The level is 1 to 19; the receiver need not know it.
    Zstd(u8),
}

/// Why a frame's payload cannot be unpacked, or a text is not a codec.
#[derive(Debug, thiserror::Error)]
pub enum CodecError {
    #[error("codec {0} is unknown")]
    Unknown(u8),
    #[error("`{0}` is not a codec: none, lz4, zstd or zstd:LEVEL with a level from 1 to 19")]
    Name(String),
    #[error("the payload does not decompress: {0}")]
    Corrupt(std::io::Error),
    #[error("the payload unpacks to a different length than announced")]
    Length,
    #[error("compression does not make it smaller")]
    NoSmaller,
}

impl Codec {
    pub fn id(self) -> u8 {
        match self {
            Codec::None => 0,
            Codec::Lz4 => 1,
            Codec::Zstd(_) => 2,
        }
    }

    pub fn name(self) -> &'static str {
        match self {
            Codec::None => "none",
            Codec::Lz4 => "lz4",
            Codec::Zstd(_) => "zstd",
        }
    }

    /// Replaces the content of `out` with the compressed `raw`; fails if that is not smaller.
    pub fn compress(self, raw: &[u8], out: &mut Pages) -> Result<(), CodecError> {
        out.resize(raw.len(), 0);
        let length = match self {
            Codec::None => return Err(CodecError::NoSmaller),
            Codec::Lz4 => fill(Lz4Encoder::new(raw), out)?,
            Codec::Zstd(level) => fill(ZstdEncoder::with_quality(raw, Level::Precise(level.into())), out)?,
        };
        out.truncate(length);
        if length < raw.len() { Ok(()) } else { Err(CodecError::NoSmaller) }
    }

    /// Replaces the content of `out` with the unpacked `payload`, which must be `raw_len` bytes. Never writes more than
    /// one byte beyond that, whatever the payload says.
    pub fn decompress(id: u8, payload: &[u8], raw_len: usize, out: &mut Pages) -> Result<(), CodecError> {
        // One byte more, to notice a payload that is longer than announced.
        out.resize(raw_len.saturating_add(1), 0);
        let length = match id {
            0 => fill(payload, out)?,
            1 => fill(Lz4Decoder::new(payload), out)?,
            2 => fill(ZstdDecoder::new(payload), out)?,
            other => return Err(CodecError::Unknown(other)),
        };
        out.truncate(raw_len);
        if length == raw_len { Ok(()) } else { Err(CodecError::Length) }
    }
}

/// Reads until `out` is full or the source ends; returns the number of bytes.
fn fill(source: impl AsyncRead, out: &mut [u8]) -> Result<usize, CodecError> {
    let mut source = pin!(source);
    let mut filled = 0usize;
    while let Some(rest) = out.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match at_once(source.read(rest)).map_err(CodecError::Corrupt)? {
            0 => break,
            count => filled = filled.saturating_add(count),
        }
    }
    Ok(filled)
}

/// Runs a future whose source is in memory, so that it never has to wait.
fn at_once<F: Future>(future: F) -> F::Output {
    let mut future = pin!(future);
    loop {
        if let Poll::Ready(output) = future.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return output;
        }
    }
}

impl FromStr for Codec {
    type Err = CodecError;

    fn from_str(text: &str) -> Result<Codec, CodecError> {
        let bad = || CodecError::Name(text.to_owned());
        match text.split_once(':') {
            None if text == "none" => Ok(Codec::None),
            None if text == "lz4" => Ok(Codec::Lz4),
            None if text == "zstd" => Ok(Codec::Zstd(1)),
            Some(("zstd", level)) => {
                level.parse().ok().filter(|level| (1..=19).contains(level)).map(Codec::Zstd).ok_or_else(bad)
            }
            _ => Err(bad()),
        }
    }
}

impl fmt::Display for Codec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Codec::Zstd(level) => write!(f, "zstd:{level}"),
            other => f.write_str(other.name()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn batches_round_trip(raw in proptest::collection::vec(any::<u8>(), 0..3000), copies in 1usize..30) {
            let raw = raw.repeat(copies);
            let (mut packed, mut back) = (Pages::default(), Pages::default());
            for codec in [Codec::None, Codec::Lz4, Codec::Zstd(1), Codec::Zstd(7)] {
                let (id, payload) = match codec.compress(&raw, &mut packed) {
                    Ok(()) => (codec.id(), packed.as_slice()),
                    Err(_) => (0, raw.as_slice()),
                };
                prop_assert!(payload.len() < raw.len() || id == 0);
                Codec::decompress(id, payload, raw.len(), &mut back).unwrap();
                prop_assert_eq!(back.as_slice(), raw.as_slice());
            }
        }

        #[test]
        fn no_payload_panics(id in 0u8..4, payload in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut out = Pages::default();
            let _ = Codec::decompress(id, &payload, 100, &mut out);
            prop_assert!(out.len() <= 300);
        }
    }

    #[test]
    fn a_bomb_stops_at_the_announced_length() {
        let (mut packed, mut out) = (Pages::default(), Pages::default());
        for codec in [Codec::Lz4, Codec::Zstd(3)] {
            codec.compress(&vec![0; 8 << 20], &mut packed).unwrap();
            let error = Codec::decompress(codec.id(), &packed, 1000, &mut out).unwrap_err();
            assert!(matches!(error, CodecError::Length));
            assert!(out.capacity() < 64 * 1024);
        }
    }

    #[test]
    fn names() {
        for (text, codec) in [("none", Codec::None), ("lz4", Codec::Lz4), ("zstd:19", Codec::Zstd(19))] {
            assert_eq!(text.parse::<Codec>().unwrap(), codec);
            assert_eq!(codec.to_string(), text);
        }
        for bad in ["", "gzip", "zstd:", "zstd:0", "zstd:20", "lz4:1", "zstd:x"] {
            assert!(bad.parse::<Codec>().is_err(), "{bad}");
        }
    }
}
