//! What the joiner already has, as it tells the donor: a list of files, then digests and hints of their chunks. All
//! that only says what need not be sent; only the seal proves the content.

use super::WireBytes;
use super::contents::BasisFile;
use super::message::Message;
use crate::error::{Error, Kind, Result};
use crate::tree::RelPath;

/// The files of a basis, collected from any number of messages.
#[derive(Debug, Default)]
pub struct BasisParts {
    files: Vec<(RelPath, u64)>,
    bytes: usize,
}

impl BasisParts {
    /// The most files in a basis, and the most bytes of their paths. The largest files go in first.
    pub const MAX_FILES: usize = 100_000;
    pub const MAX_BYTES: usize = 16 << 20;
    /// The most files in one message, in addition to the limit [`Message::MAX_PATHS`].
    const PART: usize = 1000;

    /// One or more messages, the last of which says that it is the last.
    pub fn messages<'a>(files: impl Iterator<Item = (&'a RelPath, u64)>) -> Vec<Message> {
        let (mut messages, mut part, mut bytes) = (Vec::new(), Vec::new(), 0usize);
        for (path, size) in files {
            let path = path.as_bytes();
            bytes = bytes.saturating_add(path.len());
            if part.len() == Self::PART || bytes > Message::MAX_PATHS {
                messages.push(Message::Basis { files: std::mem::take(&mut part), last: false });
                bytes = path.len();
            }
            part.push(BasisFile { path: WireBytes::from(path), size });
        }
        messages.push(Message::Basis { files: part, last: true });
        messages
    }

    /// Adds the files of one message.
    pub fn add(&mut self, files: Vec<BasisFile>) -> Result<()> {
        for BasisFile { path, size } in files {
            self.bytes = self.bytes.saturating_add(path.as_bytes().len());
            if self.files.len() >= Self::MAX_FILES || self.bytes > Self::MAX_BYTES {
                return Err(Error::new(Kind::Limit, "the joiner's list of files is too long"));
            }
            let path = RelPath::parse(path.as_bytes())
                .map_err(|e| Error::new(Kind::Protocol, "a path from the joiner was refused").because(e))?;
            self.files.push((path, size));
        }
        Ok(())
    }

    pub fn complete(self) -> Vec<(RelPath, u64)> {
        self.files
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_list_fits_its_messages_and_comes_back() {
        let path =
            |n: u32| RelPath::parse(format!("datadir/{n:06}/{}", "\u{ff}".repeat(n as usize % 100 + 1)).as_bytes());
        let files: Vec<(RelPath, u64)> = (0..4000).map(|n| (path(n).unwrap(), u64::MAX)).collect();
        let messages = BasisParts::messages(files.iter().map(|(path, size)| (path, *size)));
        let mut parts = BasisParts::default();
        let mut ends = Vec::new();
        for message in &messages {
            assert!(message.encode().unwrap().len() <= Message::MAX, "{}", message.name());
            let Message::Basis { files, last } = message else { panic!() };
            parts.add(files.clone()).unwrap();
            ends.push(*last);
        }
        assert!(messages.len() > 4 && ends.pop() == Some(true) && !ends.contains(&true));
        assert!(parts.complete() == files);
        assert_eq!(BasisParts::messages(std::iter::empty()), [Message::Basis { files: vec![], last: true }]);
    }

    #[test]
    fn a_list_has_bounds_and_only_paths_beneath_roots() {
        let of = |path: &str| BasisFile { path: WireBytes::from(path.as_bytes()), size: 1 };
        for path in ["datadir/../x", "/etc/passwd", "datadir", "datadir/a//b", ""] {
            let error = BasisParts::default().add(vec![of(path)]).unwrap_err();
            assert_eq!((error.kind(), error.sentence().contains("was refused")), (Kind::Protocol, true), "{path}");
        }
        let mut parts = BasisParts::default();
        parts.add(vec![of("datadir/x"); BasisParts::MAX_FILES]).unwrap();
        assert_eq!(parts.add(vec![of("datadir/x")]).unwrap_err().kind(), Kind::Limit);
        let long = format!("datadir/{}", "a/".repeat(30) + &"b".repeat(200));
        let mut parts = BasisParts::default();
        parts.add(vec![of(&long); BasisParts::MAX_BYTES / long.len()]).unwrap();
        assert_eq!(parts.add(vec![of(&long)]).unwrap_err().kind(), Kind::Limit);
    }
}
