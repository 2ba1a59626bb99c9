//! A position in the cluster's history: `uuid:seqno`, with or without the domain that MariaDB appends.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A Galera GTID as the server prints it: the cluster's UUID and the number of the last write set.
///
/// A `seqno` of -1 means that the position is unknown (`wsrep::seqno::undefined`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    uuid: String,
    seqno: i64,
}

/// Why a text is not a position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    #[error("a position has the form UUID:SEQNO")]
    Form,
    #[error("the UUID of a position has 36 characters, hexadecimal in groups of 8-4-4-4-12")]
    Uuid,
    #[error("the seqno of a position is an integer, -1 or greater")]
    Seqno,
    #[error("the domain of a position is a 32-bit number")]
    Domain,
}

impl Position {
    pub fn new(uuid: &str, seqno: i64) -> Result<Position, PositionError> {
        let groups: Vec<usize> = uuid.split('-').map(str::len).collect();
        if groups != [8, 4, 4, 4, 12] || !uuid.bytes().all(|b| b == b'-' || b.is_ascii_hexdigit()) {
            return Err(PositionError::Uuid);
        }
        if seqno < -1 {
            return Err(PositionError::Seqno);
        }
        Ok(Position { uuid: uuid.to_ascii_lowercase(), seqno })
    }

    pub fn uuid(&self) -> &str {
        &self.uuid
    }

    pub fn seqno(&self) -> i64 {
        self.seqno
    }

    /// Whether a node can start from it: a real cluster and a known seqno.
    pub fn is_known(&self) -> bool {
        self.seqno >= 0 && self.uuid.bytes().any(|b| b != b'0' && b != b'-')
    }
}

impl FromStr for Position {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<Position, PositionError> {
        let (uuid, seqno) = text.rsplit_once(':').ok_or(PositionError::Form)?;
        Position::new(uuid, seqno.parse().map_err(|_| PositionError::Seqno)?)
    }
}

impl TryFrom<String> for Position {
    type Error = PositionError;

    fn try_from(text: String) -> Result<Position, PositionError> {
        text.parse()
    }
}

impl From<Position> for String {
    fn from(position: Position) -> String {
        position.to_string()
    }
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.uuid, self.seqno)
    }
}

/// A position as server and script exchange it: `uuid:seqno` or `uuid:seqno domain`.
///
/// The domain is `wsrep_gtid_domain_id`; a server without `wsrep_gtid_mode` ignores it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct GaleraGtid {
    pub position: Position,
    pub domain: Option<u32>,
}

impl From<Position> for GaleraGtid {
    fn from(position: Position) -> GaleraGtid {
        GaleraGtid { position, domain: None }
    }
}

impl FromStr for GaleraGtid {
    type Err = PositionError;

    fn from_str(text: &str) -> Result<GaleraGtid, PositionError> {
        let (position, domain) = match text.split_once(' ') {
            Some((position, domain)) => (position, Some(domain.parse().map_err(|_| PositionError::Domain)?)),
            None => (text, None),
        };
        Ok(GaleraGtid { position: position.parse()?, domain })
    }
}

impl TryFrom<String> for GaleraGtid {
    type Error = PositionError;

    fn try_from(text: String) -> Result<GaleraGtid, PositionError> {
        text.parse()
    }
}

impl From<GaleraGtid> for String {
    fn from(gtid: GaleraGtid) -> String {
        gtid.to_string()
    }
}

impl fmt::Display for GaleraGtid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.position.fmt(f)?;
        self.domain.map_or(Ok(()), |domain| write!(f, " {domain}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002";

    #[test]
    fn round_trip() {
        for seqno in [-1, 0, 42, i64::MAX] {
            let text = format!("{UUID}:{seqno}");
            assert_eq!(text.parse::<Position>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn what_is_no_position_is_refused() {
        for (text, why) in [
            ("", PositionError::Form),
            (UUID, PositionError::Form),
            ("5d1fa5a7:1", PositionError::Uuid),
            ("5d1fa5a7-0e29-11f0-8b7e-0242ac12000g:1", PositionError::Uuid),
            ("5d1fa5a7-0e29-11f0-8b7e-0242ac120002:-2", PositionError::Seqno),
            ("5d1fa5a7-0e29-11f0-8b7e-0242ac120002:1 2", PositionError::Seqno),
        ] {
            assert_eq!(text.parse::<Position>(), Err(why), "{text}");
        }
    }

    #[test]
    fn a_domain_is_optional_and_whole() {
        for (domain, tail) in [(None, ""), (Some(0), " 0"), (Some(u32::MAX), " 4294967295")] {
            let gtid = GaleraGtid { position: Position::new(UUID, 5).unwrap(), domain };
            assert_eq!(gtid.to_string(), format!("{UUID}:5{tail}"));
            assert_eq!(gtid.to_string().parse(), Ok(gtid));
        }
        for tail in [" ", " x", " -1", " 4294967296", " 1 2", "  1"] {
            assert_eq!(format!("{UUID}:5{tail}").parse::<GaleraGtid>(), Err(PositionError::Domain), "{tail}");
        }
    }

    #[test]
    fn zeros_are_no_starting_point() {
        assert!(!"00000000-0000-0000-0000-000000000000:5".parse::<Position>().unwrap().is_known());
        assert!(!format!("{UUID}:-1").parse::<Position>().unwrap().is_known());
        assert!(format!("{UUID}:0").parse::<Position>().unwrap().is_known());
    }
}
