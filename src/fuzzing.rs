//! The bodies of the fuzz targets: one for each parser of bytes from outside. Not part of the public API.
//!
//! A body must not panic whatever the bytes are, and asserts what must hold for everything a parser accepts: writing it
//! gives the same bytes, and a log shows it as one printable line. It returns whether the bytes were accepted, so that
//! stale seeds are noticed.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a body fails by panicking")]

use std::ffi::OsString;
use std::fmt::Display;
use std::os::unix::ffi::OsStringExt;
use std::path::Path;
use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, ServerName};

use crate::archive::{Batch, Chunk, Codec, Member, MemberError, unpack};
use crate::direct::Pages;
use crate::error::{Error, Kind, Side};
use crate::manifest::{Checksum, Manifest};
use crate::sst::args::SstArgs;
use crate::sst::options::{OptionFiles, Settings};
use crate::sst::server_args::ServerArgs;
use crate::tls::pem::Pem;
use crate::tls::ticket::Ticket;
use crate::tls::{Certificate, Pin};
use crate::wire::{Answer, FrameHeader, Message, Piece, Preamble};

/// A target's name and its body.
pub type Target = (&'static str, fn(&[u8]) -> bool);

pub const TARGETS: &[Target] = &[
    ("preamble", preamble),
    ("message", message),
    ("frame", frame),
    ("piece", piece),
    ("members", members),
    ("codec", codec),
    ("manifest", manifest),
    ("ticket", ticket),
    ("options", options),
    ("sst_args", sst_args),
    ("server_args", server_args),
    ("server_files", server_files),
    ("certificate", certificate),
    ("journal", journal),
    ("mbstream", mbstream),
];

/// The first twelve bytes of a connection.
pub fn preamble(data: &[u8]) -> bool {
    let Some(bytes) = data.first_chunk() else { return false };
    match Preamble::decode(bytes) {
        Ok(theirs) => {
            assert_eq!(theirs.encode(), *bytes);
            match Preamble::ours().agree(theirs) {
                Ok(_) => true,
                Err(error) => refused(error),
            }
        }
        Err(error) => refused(error),
    }
}

/// A control message: its length and its JSON.
pub fn message(data: &[u8]) -> bool {
    let Some((prefix, json)) = data.split_first_chunk() else { return false };
    let _ = Message::length(*prefix);
    let message = match Message::decode(json) {
        Ok(message) => message,
        Err(error) => return refused(error),
    };
    let bytes = message.encode().unwrap();
    let length = Message::length(*bytes.first_chunk().unwrap()).unwrap();
    assert_eq!(length, bytes.len() - 4);
    assert_eq!(Message::decode(&bytes[4..]).unwrap(), message);
    if let Message::Failure(failure) = message {
        let told = failure.into_error();
        one_line(told.sentence());
        one_line(told.remedy_text().unwrap_or_default());
    }
    true
}

/// A lane's frame header, or the acknowledgement that comes back.
pub fn frame(data: &[u8]) -> bool {
    if let Some(bytes) = data.first_chunk()
        && let Ok(answer) = Answer::decode(bytes)
    {
        assert_eq!(answer.encode(), *bytes);
    }
    let Some(bytes) = data.first_chunk() else { return false };
    match FrameHeader::decode(bytes) {
        Ok(header) => {
            assert_eq!(header.encode(), *bytes);
            assert!(header.raw_len.max(header.wire_len) <= FrameHeader::MAX_RAW);
            true
        }
        Err(error) => refused(error),
    }
}

/// The payload of a frame with a piece of a byte stream.
pub fn piece(data: &[u8]) -> bool {
    match Piece::parse(data) {
        Ok(piece) => {
            assert_eq!([Piece::head(piece.number, piece.digest).as_slice(), piece.data].concat(), data);
            assert!(Piece::fits(data.len() as u32));
            true
        }
        Err(error) => refused(error),
    }
}

/// The members of a frame: their number in the first byte, then the archive. Read as it is, and again with the headers'
/// checksums corrected, which mutations would never get right.
pub fn members(data: &[u8]) -> bool {
    let Some((&announced, raw)) = data.split_first() else { return false };
    let mut repaired = raw.to_vec();
    set_checksums(&mut repaired);
    unpacked(raw, announced) | unpacked(&repaired, announced)
}

fn unpacked(raw: &[u8], announced: u8) -> bool {
    let members = match unpack(raw, announced.into()) {
        Ok(members) => members,
        Err(error) => return refused(error),
    };
    assert_eq!(members.len(), usize::from(announced));
    let mut again = Batch::default();
    for member in &members {
        match member {
            Member::Entry(entry) => again.push_entry(entry).unwrap(),
            Member::Empty { entry, chunks } => again.push_empty(entry, chunks.clone()).unwrap(),
            Member::Chunk(chunk) => repack(&mut again, chunk).unwrap(),
        }
    }
    let mut back = unpack(again.bytes(), announced.into()).unwrap();
    for (back, member) in back.iter_mut().zip(&members) {
        if let (Member::Chunk(back), Member::Chunk(chunk)) = (back, member) {
            assert!(back.is_intact(Checksum::Blake3));
            back.digest = chunk.digest;
            back.patch.clone_from(&chunk.patch);
        }
    }
    assert_eq!(back, members);
    true
}

fn repack(again: &mut Batch, chunk: &Chunk<'_>) -> Result<(), MemberError> {
    let Chunk { entry, offset, digest, extents, data, patch } = chunk;
    let fill = |place: &mut [u8]| {
        place.copy_from_slice(data);
        Ok::<_, MemberError>(())
    };
    let checksum = Checksum::Blake3;
    match patch {
        None => again.push_chunk(entry, *offset, extents, checksum, fill).map(|_| ()),
        Some(patch) => again.push_patch(entry, *offset, (&patch.covers, extents), *digest, checksum, fill),
    }
}

/// Walks the archive's blocks as a reader would, as far as the sizes make sense.
fn set_checksums(archive: &mut [u8]) {
    let mut rest = archive;
    while let Some((block, behind)) = rest.split_first_chunk_mut::<512>() {
        let mut header = tar::Header::from_byte_slice(block).clone();
        header.set_cksum();
        block.copy_from_slice(header.as_bytes());
        let size = header.entry_size().ok().and_then(|size| usize::try_from(size).ok()).unwrap_or(usize::MAX);
        let Some(data) = size.checked_next_multiple_of(512).filter(|data| *data <= behind.len()) else { return };
        rest = &mut behind[data..];
    }
}

/// A frame's payload: the codec's number, the announced length (two bytes), the payload.
pub fn codec(data: &[u8]) -> bool {
    let [id, high, low, payload @ ..] = data else { return false };
    let announced = usize::from(u16::from_be_bytes([*high, *low]));
    let mut out = Pages::default();
    match Codec::decompress(*id, payload, announced, &mut out) {
        Ok(()) => {
            assert_eq!(out.len(), announced);
            true
        }
        Err(error) => {
            assert!(*id == Codec::None.id() || out.len() <= announced + 1, "{} bytes came out", out.len());
            refused(error)
        }
    }
}

/// The text of a manifest.
pub fn manifest(data: &[u8]) -> bool {
    match Manifest::read(data) {
        Ok(manifest) => {
            let mut text = Vec::new();
            manifest.write(&mut text).unwrap();
            assert_eq!(Manifest::read(text.as_slice()).unwrap(), manifest);
            true
        }
        Err(error) => refused(error),
    }
}

/// A ticket.
pub fn ticket(data: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(data) else { return false };
    match text.parse::<Ticket>() {
        Ok(ticket) => {
            let text = ticket.reveal();
            assert_eq!(text.parse::<Ticket>().unwrap().reveal(), text);
            one_line(&ticket.address);
            true
        }
        Err(error) => refused(error),
    }
}

/// What `my_print_defaults` printed for `[highline]`, `[sst]` and the server; zero bytes between the three.
pub fn options(data: &[u8]) -> bool {
    let mut parts = data.splitn(3, |&byte| byte == 0);
    let mut next = || parts.next().unwrap_or_default();
    let files = OptionFiles::of_output(next(), next(), next());
    let taken = [Side::Joiner, Side::Donor].map(|side| match Settings::resolve(&files, side, Path::new("/d")) {
        Ok(settings) => {
            assert!(settings.lanes.is_none_or(|lanes| (1..=crate::link::Lanes::MAX).contains(&lanes.get())));
            true
        }
        Err(error) => refused(error),
    });
    taken.contains(&true)
}

/// The arguments that the server passes, each followed by a zero byte.
pub fn sst_args(data: &[u8]) -> bool {
    match SstArgs::parse(words(data)) {
        Ok(args) => !args.datadir.as_os_str().is_empty(),
        Err(error) => {
            assert!(error.sentence().starts_with("--"), "no flag is named: {}", error.sentence());
            refused(error)
        }
    }
}

/// The server's own command line, a zero byte after each argument.
pub fn server_args(data: &[u8]) -> bool {
    let args = ServerArgs::parse(words(data));
    args.defaults();
    for (name, _) in args.iter() {
        assert!(args.last(name).is_some() && (name.len() == 1 || !name.contains('_')), "{name}");
    }
    args.iter().next().is_some()
}

fn words(data: &[u8]) -> impl Iterator<Item = OsString> {
    data.strip_suffix(&[0]).unwrap_or(data).split(|&byte| byte == 0).map(|word| OsString::from_vec(word.to_vec()))
}

/// What the server and Galera write for us: `grastate.dat`, the answer to a flush, the joiner's credentials.
pub fn server_files(data: &[u8]) -> bool {
    let state = std::str::from_utf8(data).ok().and_then(|text| crate::sst::grastate::Grastate::parse(text).ok());
    if let Some(state) = &state {
        let again = crate::sst::grastate::Grastate::parse(&state.to_string()).unwrap();
        assert_eq!(again.to_string(), state.to_string());
    }
    let frozen = crate::sst::flush::parse(data);
    let auth = crate::sst::credentials::Credentials::of_lines(data);
    state.is_some() || matches!(frozen, Ok(Some(_))) || matches!(auth, Ok(auth) if auth.remote.is_some())
}

/// A certificate, as DER or in a PEM text: what we say of it, and whether it is for a name.
pub fn certificate(data: &[u8]) -> bool {
    let pem = Pem::parse(data).unwrap_or_default();
    let found = pem.certificates.iter().map(|der| described(der)).filter(|known| *known).count();
    described(&CertificateDer::from(data)) || found > 0
}

fn described(der: &CertificateDer<'_>) -> bool {
    let Ok(certificate) = Certificate::parse(der) else { return false };
    let Certificate { subject, issuer, key, not_before, not_after, .. } = &certificate;
    for line in [subject, issuer, &key.to_string(), &not_before.to_string(), &not_after.to_string()] {
        one_line(line);
    }
    one_line(certificate.title());
    one_line(certificate.all_names());
    certificate.days_left(SystemTime::UNIX_EPOCH);
    assert_eq!(certificate.pin, Pin::of_spki(&certificate.spki));
    for name in ["node1", "192.0.2.1"] {
        Certificate::is_for(der, &ServerName::try_from(name).unwrap());
    }
    true
}

/// The journal of an install, without its seal.
pub fn journal(data: &[u8]) -> bool {
    let datadir = Path::new("/nonexistent/datadir");
    let _ = crate::install::journal::parse(data, datadir);
    let sealed = [data, crate::install::journal::digest(data).as_bytes(), b"\n"].concat();
    crate::install::journal::parse(&sealed, datadir).is_ok()
}

fn refused(why: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> bool {
    one_line(Error::new(Kind::Protocol, "refused").because(why).sentence());
    false
}

/// What strangers send ends up in logs: it must not start a line or control a terminal.
fn one_line(text: impl Display) {
    let text = text.to_string();
    assert!(!text.chars().any(char::is_control), "{text:?}");
}

/// The stream of `mariadb-backup`.
pub fn mbstream(data: &[u8]) -> bool {
    use crate::backup::mbstream::{Reader, Said};
    let mut reader = Reader::new(data);
    let mut scratch = [0; 7];
    loop {
        match reader.chunk() {
            Ok(None) => return true,
            Ok(Some((path, Said::Data { len, .. } | Said::Anew { len }))) => {
                assert!(path.len() <= 511);
                let mut read = 0;
                while reader.left() > 0 {
                    match reader.data(&mut scratch) {
                        Ok(count) => read += count as u64,
                        Err(error) => {
                            one_line(error);
                            return false;
                        }
                    }
                }
                assert_eq!(read, len);
            }
            Ok(Some(_)) => {}
            Err(error) => {
                one_line(error);
                return false;
            }
        }
    }
}
