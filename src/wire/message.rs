//! The messages of the control connection, and the greeting of every lane.
//!
//! A message is four bytes of length, big-endian, and that many bytes of JSON. Unknown fields are ignored, so that a
//! later version can add some; unknown messages are errors.

use serde::{Deserialize, Serialize};

use super::contents::{Base64, BasisFile, Offer, OfferedRoot, PipeAccept, PipeOffer, SampledChunk};
use super::{WireBytes, WireError};
use crate::error::{Error, Kind, Side};
use crate::manifest::{Checksum, Digest};
use crate::position::GaleraGtid;
use crate::tree::RootName;

/// What a connection is for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Purpose {
    /// A number the donor chooses and repeats whenever it dials this conversation again: it distinguishes one donor
    /// with the ticket from another.
    Control {
        session: u64,
    },
    Lane {
        number: u16,
    },
}

/// A path that belongs to the joiner.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// `root/part/part`.
    pub path: WireBytes,
    /// The option that names it, or another reason.
    pub why: String,
}

/// The joiner's consent.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Accept {
    pub checksum: Checksum,
    pub lanes: u16,
    /// Roots that the joiner cannot use: they are not sent.
    pub without: Vec<RootName>,
    /// What is on the joiner and stays, so that nothing may arrive there.
    #[serde(default)]
    pub kept: Vec<Kept>,
    /// A list of files that the joiner has follows: `Basis`.
    #[serde(default)]
    pub basis: bool,
    /// The peer's software, for the log.
    pub software: String,
}

/// One pass over the tree, announced before its first chunk. The first sends everything, a later one what has changed
/// since; the figures describe the whole tree as it is then.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Round {
    pub number: u16,
    pub entries: u64,
    /// Bytes of all files by length.
    pub bytes: u64,
    /// What is sent becomes known as it goes: entries and bytes are the most that it may come to, and a file may be longer
    /// each time that it is named.
    #[serde(default)]
    pub streamed: bool,
    /// The position of this tree, as the server reports it once it is frozen.
    pub position: Option<GaleraGtid>,
}

/// Why a side gives up, for the other side to show.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    pub kind: Kind,
    pub side: Side,
    pub sentence: String,
    pub remedy: Option<String>,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "message", rename_all = "kebab-case")]
pub enum Message {
    Accept(Accept),
    /// Joiner, after `Accept`: the files it already has, in one or more messages.
    Basis {
        files: Vec<BasisFile>,
        last: bool,
    },
    /// Donor: the joiner's `Durable` has arrived, nothing follows.
    Bye,
    /// Donor: so many bytes of this round were compared and equal the joiner's. Shows that it is working.
    Compared {
        bytes: u64,
    },
    /// Joiner: everything is on disk and installed.
    Durable,
    Failure(Failure),
    /// Both: how many of the peer's messages have come, not counting heartbeats and greetings. The first message after
    /// the greeting.
    Heartbeat {
        heard: u64,
    },
    /// Donor: the first message of every connection.
    Hello {
        purpose: Purpose,
        proof: Digest,
        software: String,
    },
    /// Donor: what the joiner has is not used, or no longer.
    NoReuse,
    /// Joiner: this file of its list, counted from 0, cannot be used after all.
    NoSeed {
        file: u32,
    },
    /// The last part of an offer; for most offers the only one.
    Offer(Box<Offer>),
    /// Donor: roots of an offer that is too long for one message, sent before it.
    OfferPart {
        roots: Vec<OfferedRoot>,
    },
    /// Donor, in place of an offer: it has one stream of bytes.
    Pipe(PipeOffer),
    PipeAccept(PipeAccept),
    /// Donor: the stream's end and seal. All of it is acknowledged.
    PipeEnd {
        pieces: u64,
        bytes: u64,
        digest: Digest,
    },
    /// Joiner, while it lasts: the next piece is here, and its consumer does not take it.
    PipeHeld,
    /// Joiner, before `Accept`: how many entries of its old tree it has removed so far. Shows that it is working.
    Removing {
        entries: u64,
    },
    /// Donor: which files of the joiner's list are wanted, one bit each, the first in the lowest bit of the first byte.
    Reuse {
        wanted: Base64,
    },
    /// Donor, in a round that follows a streamed one: files that are called otherwise than when they came, one after the
    /// other.
    Renamed {
        files: Vec<(WireBytes, WireBytes)>,
    },
    Round(Round),
    /// Donor: all of this round has been acknowledged. What comes next, perhaps a freeze, may take a while.
    RoundOver {
        number: u16,
    },
    /// Donor: asks for the hints of these chunks; the joiner makes all its hints with this seed.
    Sample {
        seed: u64,
        chunks: Vec<SampledChunk>,
    },
    /// Joiner: the hints of each of them, in order; empty for one that could not be read.
    Sampled {
        hints: Vec<Base64>,
    },
    /// Joiner: digests and hints of a file of its list, from chunk `from` on. After the last chunk the file is ready to
    /// be compared with.
    Seeded {
        file: u32,
        from: u64,
        /// 32 bytes per chunk.
        digests: Base64,
        /// Eight bytes per page.
        hints: Base64,
    },
    /// Joiner: it will report nothing more about its list.
    SeedsOver,
    /// Donor: the digest over the whole manifest.
    Seal {
        entries: u64,
        digest: Digest,
    },
    /// Joiner: its own manifest has the same seal.
    Verified,
    /// Joiner: the answer to `Hello`.
    Welcome {
        proof: Digest,
    },
    /// Donor: these paths are in no later round. Sent before the next `Round`, in one or more messages.
    Withdrawn {
        paths: Vec<WireBytes>,
    },
}

impl Message {
    /// The most bytes of JSON in one message.
    pub const MAX: usize = 256 * 1024;
    /// The most bytes of raw paths that a sender puts into one message: as text a byte may take three.
    pub const MAX_PATHS: usize = 64 * 1024;
    /// The most characters to keep of why a message is malformed.
    const MAX_REASON: usize = 200;

    pub fn encode(&self) -> Result<Vec<u8>, WireError> {
        let json = serde_json::to_vec(self).map_err(|e| WireError::Message(e.to_string()))?;
        let length = u32::try_from(json.len()).ok().filter(|_| json.len() <= Self::MAX);
        let length = length.ok_or(WireError::Length(json.len() as u64))?;
        Ok([length.to_be_bytes().as_slice(), &json].concat())
    }

    /// The number of bytes that follow the four of `prefix`.
    pub fn length(prefix: [u8; 4]) -> Result<usize, WireError> {
        let length = u32::from_be_bytes(prefix);
        usize::try_from(length).ok().filter(|&l| l > 0 && l <= Self::MAX).ok_or(WireError::Length(length.into()))
    }

    pub fn decode(json: &[u8]) -> Result<Message, WireError> {
        serde_json::from_slice(json).map_err(|e| {
            // It repeats the peer's text, however long.
            WireError::Message(e.to_string().chars().take(Self::MAX_REASON).collect())
        })
    }

    /// Its name, for a log line.
    pub fn name(&self) -> &'static str {
        match self {
            Message::Accept(_) => "accept",
            Message::Bye => "bye",
            Message::Durable => "durable",
            Message::Failure(_) => "failure",
            Message::Heartbeat { .. } => "heartbeat",
            Message::Hello { .. } => "hello",
            Message::Offer(_) => "offer",
            Message::Removing { .. } => "removing",
            Message::OfferPart { .. } => "offer-part",
            Message::Pipe(_) => "pipe",
            Message::PipeAccept(_) => "pipe-accept",
            Message::PipeEnd { .. } => "pipe-end",
            Message::PipeHeld => "pipe-held",
            Message::Renamed { .. } => "renamed",
            Message::Round(_) => "round",
            Message::RoundOver { .. } => "round-over",
            Message::Basis { .. } => "basis",
            Message::Compared { .. } => "compared",
            Message::NoReuse => "no-reuse",
            Message::NoSeed { .. } => "no-seed",
            Message::Reuse { .. } => "reuse",
            Message::Sample { .. } => "sample",
            Message::Sampled { .. } => "sampled",
            Message::Seeded { .. } => "seeded",
            Message::SeedsOver => "seeds-over",
            Message::Seal { .. } => "seal",
            Message::Verified => "verified",
            Message::Welcome { .. } => "welcome",
            Message::Withdrawn { .. } => "withdrawn",
        }
    }
}

impl Failure {
    const MAX_TEXT: usize = 2000;

    pub fn of(error: &Error) -> Failure {
        let cut = |text: &str| text.chars().take(Self::MAX_TEXT).collect::<String>();
        Failure {
            kind: error.kind(),
            side: error.side(),
            sentence: cut(&error.sentence()),
            remedy: error.remedy_text().map(cut),
        }
    }

    /// The peer's failure as an error of this process: the same kind, side, sentence and remedy.
    pub fn into_error(self) -> Error {
        let printable = |text: &str| {
            let text: String = text.chars().take(Self::MAX_TEXT).collect();
            crate::error::Printable(text.as_bytes()).to_string()
        };
        let error = Error::new(self.kind, printable(&self.sentence)).on(self.side);
        match self.remedy {
            Some(remedy) => error.remedy(printable(&remedy)),
            None => error,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::contents::Speeds;
    use super::*;
    use crate::backup::DataSource;
    use crate::tree::Part;
    use crate::tree::{InnodbFiles, RedoLog};

    fn samples() -> Vec<Message> {
        let digest = Digest::from_bytes([7; 32]);
        let position: GaleraGtid = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002:9 1".parse().unwrap();
        vec![
            Message::Hello { purpose: Purpose::Lane { number: 3 }, proof: digest, software: "highline 0.2.0".into() },
            Message::Hello {
                purpose: Purpose::Control { session: u64::MAX },
                proof: digest,
                software: "highline 0.2.0".into(),
            },
            Message::Welcome { proof: digest },
            Message::Offer(Box::new(Offer {
                bypass: false,
                position: Some(position),
                server_version: Some("10.11.19-MariaDB".into()),
                innodb: InnodbFiles {
                    redo: Some(RedoLog { format: 0x5068_7973, creator: "MariaDB 10.11.19".into(), empty: false }),
                    page_size: Some(16384),
                },
                lower_case_table_names: Some(0),
                owner: (999, 999),
                roots: vec![OfferedRoot {
                    name: RootName::datadir(),
                    path: WireBytes::from(b"/var/lib/my sql\xff".as_slice()),
                    names: vec![WireBytes::from(b"a=%".as_slice())],
                    bytes: 9,
                    allocated: 8,
                    entries: 7,
                }],
                parts: [Part::RedoLog, Part::AriaControl].into(),
                speeds: Speeds { sha256: 400, blake3: 3000 },
                lanes: 4,
                reuse: true,
                source: DataSource::Mariabackup,
            })),
            Message::OfferPart { roots: Vec::new() },
            Message::Accept(Accept {
                checksum: Checksum::Blake3,
                lanes: 4,
                without: vec![],
                kept: vec![Kept { path: WireBytes::from(b"datadir/logs/e".as_slice()), why: "log-error".into() }],
                basis: true,
                software: "highline 0.2.0".into(),
            }),
            Message::Basis {
                files: vec![BasisFile { path: WireBytes::from(b"datadir/a b".as_slice()), size: u64::MAX }],
                last: true,
            },
            Message::Sample { seed: u64::MAX, chunks: vec![SampledChunk { file: 1, chunk: 2 }] },
            Message::Sampled { hints: vec![vec![1, 2, 255].into(), Base64::default()] },
            Message::Reuse { wanted: vec![5].into() },
            Message::NoReuse,
            Message::Seeded { file: 1, from: 0, digests: vec![7; 32].into(), hints: vec![9; 512].into() },
            Message::NoSeed { file: 1 },
            Message::SeedsOver,
            Message::Compared { bytes: 9 },
            Message::Round(Round { number: 0, entries: 5, bytes: 6, streamed: true, position: None }),
            Message::RoundOver { number: 0 },
            Message::Renamed {
                files: vec![(WireBytes::from(b"datadir/a b".as_slice()), WireBytes::from(b"datadir/c".as_slice()))],
            },
            Message::Withdrawn { paths: vec![WireBytes::from(b"datadir/a b\xff".as_slice())] },
            Message::Seal { entries: 5, digest },
            Message::Removing { entries: 7 },
            Message::Pipe(PipeOffer { speeds: Speeds { sha256: 1, blake3: 2 }, lanes: 8, window: 64 }),
            Message::PipeAccept(PipeAccept {
                checksum: Checksum::Blake3,
                lanes: 8,
                window: 64,
                software: "highline 0.2.0".into(),
            }),
            Message::PipeHeld,
            Message::PipeEnd { pieces: 7, bytes: u64::MAX, digest },
            Message::Verified,
            Message::Durable,
            Message::Bye,
            Message::Heartbeat { heard: 7 },
            Message::Failure(Failure::of(&Error::new(Kind::NoSpace, "full").remedy("free some").on(Side::Joiner))),
        ]
    }

    #[test]
    fn round_trip_and_every_cut_is_refused() {
        for message in samples() {
            let bytes = message.encode().unwrap();
            let length = Message::length(bytes[..4].try_into().unwrap()).unwrap();
            assert_eq!(length, bytes.len() - 4);
            assert_eq!(Message::decode(&bytes[4..]).unwrap(), message);
            for cut in 4..bytes.len() {
                assert!(Message::decode(&bytes[4..cut]).is_err(), "{} cut at {cut}", message.name());
            }
        }
    }

    #[test]
    fn lengths_are_bounded() {
        assert_eq!(Message::length([0, 0, 0, 0]), Err(WireError::Length(0)));
        assert_eq!(Message::length([0xff; 4]), Err(WireError::Length(u32::MAX.into())));
        assert_eq!(Message::length([0, 4, 0, 0]), Ok(Message::MAX));
    }

    #[test]
    fn a_failure_keeps_its_words_and_cannot_forge_lines() {
        let failure = Failure {
            kind: Kind::NoSpace,
            side: Side::Joiner,
            sentence: "cannot write a\nb".into(),
            remedy: Some("free space".into()),
        };
        let report = failure.into_error().report();
        assert_eq!(report, "joiner: cannot write a\\u{a}b\n  remedy: free space");
    }

    #[test]
    fn unknown_fields_pass_and_unknown_messages_do_not() {
        assert_eq!(Message::decode(br#"{"message":"bye","later":1}"#), Ok(Message::Bye));
        let long = format!(r#"{{"message":"hullo\u0007{}"}}"#, "o".repeat(1000));
        let reason = Error::from(Message::decode(long.as_bytes()).unwrap_err()).sentence();
        assert!(reason.contains("hullo\\u{7}") && reason.len() < 300, "{reason}");
        assert!(Message::decode(br#"{"message":"round","number":-1,"entries":0,"bytes":0}"#).is_err());
    }
}
