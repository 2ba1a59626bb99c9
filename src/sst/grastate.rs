//! `grastate.dat`: the position that Galera keeps beside the data.
//!
//! Read from a donor's directory, and written for a node that is seeded by hand. Under a running server the file
//! belongs to Galera, which keeps it open and locked: never touch it in an SST.

use std::fmt::{self, Write};
use std::fs::File;
use std::io::Read;
use std::path::Path;

use crate::error::{Error, Kind, Printable, Result};
use crate::position::{GaleraGtid, Position};

/// What `SavedState` (galera, `saved_state.cpp`) writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Grastate {
    /// `seqno` is -1 while a server runs, and after a crash.
    pub position: Position,
    pub safe_to_bootstrap: bool,
}

/// What both sides say if the donor's position is not known.
pub const NO_POSITION: &str = "the donor's grastate.dat has no position, so the joiner will ask for a full SST at its next start; after a crash `mariadbd --wsrep-recover` on the donor prints the position and a clean stop writes it";

impl Grastate {
    pub const NAME: &str = "grastate.dat";

    /// The most bytes to read. Galera writes about 130.
    const MAX_BYTES: u64 = 8192;

    /// `None` if the file is missing or empty: a node that never joined a cluster.
    pub fn read(datadir: &Path) -> Result<Option<Grastate>> {
        let path = datadir.join(Self::NAME);
        let mut text = Vec::new();
        let file = match File::open(&path) {
            Ok(file) => file,
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("cannot open", &path, error)),
        };
        file.take(Self::MAX_BYTES).read_to_end(&mut text).map_err(|error| Error::io("cannot read", &path, error))?;
        let text = String::from_utf8_lossy(&text);
        if text.trim().is_empty() {
            return Ok(None);
        }
        let strange = |why: &str| Error::new(Kind::Usage, format!("{}: {why}", Printable::path(&path)));
        Self::parse(&text).map(Some).map_err(|why| strange(&why))
    }

    /// The position of the data in this directory; `None` if no file has a known one.
    pub fn position(datadir: &Path) -> Result<Option<GaleraGtid>> {
        let state = Self::read(datadir)?;
        Ok(state.map(|state| state.position).filter(Position::is_known).map(GaleraGtid::from))
    }

    /// Reads `key: value` lines; other keys, comments and odd lines are ignored.
    pub fn parse(text: &str) -> Result<Grastate, String> {
        let (mut uuid, mut seqno, mut safe) = (None, None, false);
        for line in text.lines().filter(|line| !line.starts_with('#')) {
            let Some((key, value)) = line.split_once(':') else { continue };
            match (key.trim(), value.trim()) {
                ("uuid", value) => uuid = Some(value),
                ("seqno", value) => seqno = Some(value),
                ("safe_to_bootstrap", value) => safe = value == "1",
                _ => {}
            }
        }
        let uuid = uuid.ok_or("it has no uuid")?;
        let seqno = seqno.map_or(Ok(-1), str::parse).map_err(|_| "its seqno is not a number")?;
        let position = Position::new(uuid, seqno).map_err(|error| error.to_string())?;
        Ok(Grastate { position, safe_to_bootstrap: safe })
    }

    /// For a node that joins others: it may not bootstrap a cluster.
    pub fn for_joiner(position: Position) -> Grastate {
        Grastate { position, safe_to_bootstrap: false }
    }
}

impl fmt::Display for Grastate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("# GALERA saved state\nversion: 2.1\n")?;
        write!(f, "uuid:    {}\nseqno:   {}\n", self.position.uuid(), self.position.seqno())?;
        writeln!(f, "safe_to_bootstrap: {}", u8::from(self.safe_to_bootstrap))?;
        f.write_char('\n')
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002";

    #[test]
    fn what_is_written_is_read() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(Grastate::read(dir.path()).unwrap(), None);
        let state = Grastate::for_joiner(Position::new(UUID, 8).unwrap());
        for (text, read) in [(String::new(), None), (state.to_string(), Some(state))] {
            std::fs::write(dir.path().join("grastate.dat"), text).unwrap();
            assert_eq!(Grastate::read(dir.path()).unwrap(), read);
        }
        std::fs::write(dir.path().join("grastate.dat"), "\u{0}junk").unwrap();
        assert!(Grastate::read(dir.path()).unwrap_err().sentence().ends_with("grastate.dat: it has no uuid"));
    }

    #[test]
    fn galeras_own_files() {
        for (text, seqno, safe) in [
            (
                format!("# GALERA saved state\nversion: 2.1\nuuid:    {UUID}\nseqno:   -1\nsafe_to_bootstrap: 0\n"),
                -1,
                false,
            ),
            (format!("uuid: {UUID}\nseqno: 42\nsafe_to_bootstrap: 1\nnew: thing\nodd"), 42, true),
            (format!("version: 2.0\nuuid:{UUID}\ncert_index:\n"), -1, false),
        ] {
            let state = Grastate::parse(&text).unwrap();
            assert_eq!((state.position.seqno(), state.safe_to_bootstrap), (seqno, safe), "{text}");
        }
        for (text, why) in [
            ("seqno: 1", "no uuid"),
            ("uuid: x", "36 characters"),
            (&format!("uuid: {UUID}\nseqno: x"), "not a number"),
        ] {
            assert!(Grastate::parse(text).unwrap_err().contains(why), "{text}");
        }
    }
}
