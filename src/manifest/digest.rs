//! Digests of chunks and files, and how fast this machine computes them.

use std::fmt;
use std::str::FromStr;
use std::sync::OnceLock;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};
use sha2::Digest as _;

use super::CHUNK;

/// The digest function both sides agreed on for one transfer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Checksum {
    /// FIPS 180-4.
    Sha256,
    Blake3,
}

impl Checksum {
    pub fn digest(self, bytes: &[u8]) -> Digest {
        let mut hasher = self.hasher();
        hasher.update(bytes);
        hasher.finish()
    }

    pub fn hasher(self) -> Hasher {
        match self {
            Checksum::Sha256 => Hasher::Sha256(sha2::Sha256::new()),
            Checksum::Blake3 => Hasher::Blake3(Box::default()),
        }
    }

    /// The digest of a file from those of its chunks, in order: with one chunk, its own; with more, the digest of all
    /// of them together.
    pub fn fold(self, chunks: &[Digest]) -> Digest {
        match chunks {
            [] => self.digest(b""),
            [one] => *one,
            many => {
                let mut hasher = self.hasher();
                many.iter().for_each(|digest| hasher.update(&digest.0));
                hasher.finish()
            }
        }
    }

    /// The same for a file of several chunks: how many in a row have which digest.
    pub fn fold_runs(self, runs: impl IntoIterator<Item = (u64, Digest)>) -> Digest {
        const AT_ONCE: usize = 256;
        let mut hasher = self.hasher();
        for (count, digest) in runs {
            let many = count.min(AT_ONCE as u64);
            let row = digest.0.repeat(many as usize);
            (0..count / many.max(1)).for_each(|_| hasher.update(&row));
            (0..count % many.max(1)).for_each(|_| hasher.update(&digest.0));
        }
        hasher.finish()
    }

    /// The digest of a whole chunk without data.
    pub fn of_empty_chunk(self) -> Digest {
        static KNOWN: [OnceLock<Digest>; 2] = [OnceLock::new(), OnceLock::new()];
        *KNOWN[self as usize].get_or_init(|| {
            let mut hasher = self.hasher();
            hasher.update_zeros(CHUNK);
            hasher.finish()
        })
    }

    /// MB/s of one thread: the best of four measurements of half a millisecond, so that a brief interruption does not
    /// matter.
    pub fn measure(self) -> u32 {
        let block = [0x5au8; 64 * 1024];
        let look = || {
            let (start, mut done) = (Instant::now(), 0u64);
            let mut hasher = self.hasher();
            while start.elapsed() < Duration::from_micros(500) {
                hasher.update(&block);
                done = done.saturating_add(block.len() as u64);
            }
            std::hint::black_box(hasher.finish());
            done as f64 / start.elapsed().as_secs_f64() / 1e6
        };
        (0..4).map(|_| look() as u32).max().unwrap_or_default().max(1)
    }

    pub fn name(self) -> &'static str {
        match self {
            Checksum::Sha256 => "sha256",
            Checksum::Blake3 => "blake3",
        }
    }
}

impl fmt::Display for Checksum {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// A digest being computed.
#[derive(Debug)]
pub enum Hasher {
    Sha256(sha2::Sha256),
    Blake3(Box<blake3::Hasher>),
}

impl Hasher {
    pub fn update(&mut self, bytes: &[u8]) {
        match self {
            Hasher::Sha256(hasher) => hasher.update(bytes),
            Hasher::Blake3(hasher) => {
                hasher.update(bytes);
            }
        }
    }

    /// Adds `count` zero bytes, as a hole reads.
    pub fn update_zeros(&mut self, count: u64) {
        static ZEROS: [u8; 64 * 1024] = [0; 64 * 1024];
        let mut left = count;
        while left > 0 {
            let now = left.min(ZEROS.len() as u64);
            self.update(&ZEROS[..now as usize]);
            left -= now;
        }
    }

    pub fn finish(self) -> Digest {
        Digest(match self {
            Hasher::Sha256(hasher) => hasher.finalize().into(),
            Hasher::Blake3(hasher) => hasher.finalize().into(),
        })
    }
}

/// 32 bytes; as text 64 hexadecimal digits.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Digest([u8; 32]);

impl Digest {
    pub const fn from_bytes(bytes: [u8; 32]) -> Digest {
        Digest(bytes)
    }

    pub fn as_bytes(&self) -> &[u8; 32] {
        &self.0
    }
}

/// The text is not 64 hexadecimal digits in lower case.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a digest is 64 hexadecimal digits in lower case")]
pub struct DigestError;

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Digest, DigestError> {
        let value = |b: u8| match b {
            b'0'..=b'9' => Ok(b - b'0'),
            b'a'..=b'f' => Ok(b - b'a' + 10),
            _ => Err(DigestError),
        };
        let mut bytes = [0; 32];
        let (pairs, rest) = text.as_bytes().as_chunks::<2>();
        if pairs.len() != bytes.len() || !rest.is_empty() {
            return Err(DigestError);
        }
        for (byte, [high, low]) in bytes.iter_mut().zip(pairs) {
            *byte = value(*high)? << 4 | value(*low)?;
        }
        Ok(Digest(bytes))
    }
}

impl TryFrom<String> for Digest {
    type Error = DigestError;

    fn try_from(text: String) -> Result<Digest, DigestError> {
        text.parse()
    }
}

impl From<Digest> for String {
    fn from(digest: Digest) -> String {
        digest.to_string()
    }
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{self}")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_answers() {
        let sha = "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad";
        let blake = "6437b3ac38465133ffb63b75273a8db548c558465d79db03fd359c6cd5bd9d85";
        assert_eq!(Checksum::Sha256.digest(b"abc").to_string(), sha);
        assert_eq!(Checksum::Blake3.digest(b"abc").to_string(), blake);
        assert_eq!(sha.parse::<Digest>().unwrap().to_string(), sha);
    }

    #[test]
    fn holes_digest_as_zeros() {
        for checksum in [Checksum::Sha256, Checksum::Blake3] {
            let mut hasher = checksum.hasher();
            hasher.update(b"x");
            hasher.update_zeros(200_000);
            assert_eq!(hasher.finish(), checksum.digest(&[b"x".as_slice(), &[0; 200_000]].concat()));
        }
    }

    #[test]
    fn what_is_no_digest_is_refused() {
        let good = "ab".repeat(32);
        for bad in ["", "ab", &good[1..], &format!("{good}0"), &"AB".repeat(32), &"é".repeat(32), &"g0".repeat(32)] {
            assert_eq!(bad.parse::<Digest>(), Err(DigestError), "{bad}");
        }
    }

    #[test]
    fn a_file_of_one_chunk_has_that_chunks_digest() {
        let c = Checksum::Blake3;
        let (a, b) = (c.digest(b"a"), c.digest(b"b"));
        assert_eq!(c.fold(&[a]), a);
        assert_ne!(c.fold(&[a, b]), c.fold(&[b, a]));
        assert_eq!(c.fold(&[]), c.digest(b""));
        let all = [vec![a; 3], vec![b; 1000], vec![a]].concat();
        assert_eq!(c.fold_runs([(3, a), (1000, b), (1, a), (0, b)]), c.fold(&all));
        for checksum in [Checksum::Sha256, c] {
            assert_eq!(checksum.of_empty_chunk(), checksum.digest(&vec![0; CHUNK as usize]));
        }
    }
}
