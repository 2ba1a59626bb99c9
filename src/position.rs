//! A position in the cluster's history: `uuid:seqno`.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A Galera GTID as the server prints it: the cluster's UUID and the number of the last write set.
///
/// A `seqno` of -1 means that the position is not known (`wsrep::seqno::undefined`).
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Position {
    uuid: String,
    seqno: i64,
}

/// Why a text is no position.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PositionError {
    #[error("a position has the form UUID:SEQNO")]
    Form,
    #[error("the UUID of a position has 36 characters, hexadecimal in groups of 8-4-4-4-12")]
    Uuid,
    #[error("the number of a position is an integer from -1 up")]
    Seqno,
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

    /// Whether a node can start from it: a real cluster and a known number.
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

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002";

    #[test]
    fn positions_round_trip() {
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
    fn zeros_are_no_starting_point() {
        assert!(!"00000000-0000-0000-0000-000000000000:5".parse::<Position>().unwrap().is_known());
        assert!(!format!("{UUID}:-1").parse::<Position>().unwrap().is_known());
        assert!(format!("{UUID}:0").parse::<Position>().unwrap().is_known());
    }
}
