//! What travels on a lane: frames of archive bytes one way, acknowledgements the other.

use super::WireError;
use super::piece::Piece;

/// What a frame contains.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FrameKind {
    /// A run of whole archive members.
    Batch,
    /// The end of the lane: the donor sends nothing more on it.
    End,
    /// One piece of a byte stream ([`super::Piece`]).
    Piece,
}

/// The sixteen bytes before a frame's payload: kind, codec, then four big-endian numbers: the round
/// (two bytes), members in it, bytes on the wire, bytes when unpacked (four each).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FrameHeader {
    pub kind: FrameKind,
    /// A number that `archive` interprets.
    pub codec: u8,
    pub round: u16,
    pub members: u32,
    pub wire_len: u32,
    pub raw_len: u32,
}

impl FrameHeader {
    pub const LEN: usize = 16;
    /// The most bytes a frame may unpack to: one chunk or a batch, and its members' headers.
    pub const MAX_RAW: u32 = 2 << 20;

    pub fn end() -> FrameHeader {
        FrameHeader { kind: FrameKind::End, codec: 0, round: 0, members: 0, wire_len: 0, raw_len: 0 }
    }

    pub fn encode(self) -> [u8; Self::LEN] {
        let kind = match self.kind {
            FrameKind::Batch => 1,
            FrameKind::End => 2,
            FrameKind::Piece => 3,
        };
        let [y, z] = self.round.to_be_bytes();
        let [a, b, c, d] = self.members.to_be_bytes();
        let [e, f, g, h] = self.wire_len.to_be_bytes();
        let [i, j, k, l] = self.raw_len.to_be_bytes();
        [kind, self.codec, y, z, a, b, c, d, e, f, g, h, i, j, k, l]
    }

    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<FrameHeader, WireError> {
        let [kind, codec, y, z, a, b, c, d, e, f, g, h, i, j, k, l] = *bytes;
        let header = FrameHeader {
            kind: match kind {
                1 => FrameKind::Batch,
                2 => FrameKind::End,
                3 => FrameKind::Piece,
                _ => return Err(WireError::Frame),
            },
            codec,
            round: u16::from_be_bytes([y, z]),
            members: u32::from_be_bytes([a, b, c, d]),
            wire_len: u32::from_be_bytes([e, f, g, h]),
            raw_len: u32::from_be_bytes([i, j, k, l]),
        };
        let longest = header.wire_len.max(header.raw_len);
        if longest > Self::MAX_RAW {
            return Err(WireError::Length(longest.into()));
        }
        // A member has at least one block, so the bytes limit their number.
        let filled = header.members > 0 && header.wire_len > 0 && header.members <= header.raw_len / 512;
        let empty = header == FrameHeader::end();
        match header.kind {
            FrameKind::Batch if filled => Ok(header),
            FrameKind::End if empty => Ok(header),
            FrameKind::Piece if header.is_piece() => Ok(header),
            _ => Err(WireError::Frame),
        }
    }
}

impl FrameHeader {
    /// A stream has one round, and a piece is a frame of its own, which packing never makes longer.
    fn is_piece(self) -> bool {
        let packed = self.wire_len > 0 && self.wire_len <= self.raw_len;
        self.round == 0 && self.members == 1 && packed && Piece::fits(self.raw_len)
    }
}

/// The joiner has written and verified all of a lane's first `members` members.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Ack {
    pub round: u16,
    pub members: u64,
}

/// What a joiner sends on a lane: a kind, and two numbers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Answer {
    Ack(Ack),
    /// So many bytes have arrived on this lane's connection, written or not: shows that a slow link is moving.
    Arrived(u64),
    /// It has no room for this lane now, and closes it. Another try may succeed.
    TurnedAway,
}

impl Answer {
    pub const LEN: usize = 11;

    pub fn encode(self) -> [u8; Self::LEN] {
        let (kind, round, number) = match self {
            Answer::Ack(Ack { round, members }) => (1, round, members),
            Answer::TurnedAway => (2, 0, 0),
            Answer::Arrived(bytes) => (3, 0, bytes),
        };
        let [a, b] = round.to_be_bytes();
        let [c, d, e, f, g, h, i, j] = number.to_be_bytes();
        [kind, a, b, c, d, e, f, g, h, i, j]
    }

    pub fn decode(bytes: &[u8; Self::LEN]) -> Result<Answer, WireError> {
        let [kind, a, b, c, d, e, f, g, h, i, j] = *bytes;
        let (round, number) = (u16::from_be_bytes([a, b]), u64::from_be_bytes([c, d, e, f, g, h, i, j]));
        match (kind, round, number) {
            (1, round, members) => Ok(Answer::Ack(Ack { round, members })),
            (2, 0, 0) => Ok(Answer::TurnedAway),
            (3, 0, bytes) => Ok(Answer::Arrived(bytes)),
            _ => Err(WireError::Answer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn no_header_panics_and_good_ones_round_trip(bytes: [u8; 16]) {
            if let Ok(header) = FrameHeader::decode(&bytes) {
                prop_assert_eq!(header.encode(), bytes);
                prop_assert!(header.raw_len <= FrameHeader::MAX_RAW);
            }
        }

        #[test]
        fn acks_round_trip(round: u16, members: u64) {
            let ack = Answer::Ack(Ack { round, members });
            prop_assert_eq!(Answer::decode(&ack.encode()), Ok(ack));
        }

        #[test]
        fn no_answer_panics_and_good_ones_round_trip(bytes: [u8; 11]) {
            if let Ok(answer) = Answer::decode(&bytes) {
                prop_assert_eq!(answer.encode(), bytes);
            }
        }
    }

    #[test]
    fn a_lane_that_is_turned_away_hears_no_acknowledgement() {
        assert_eq!(Answer::decode(&Answer::TurnedAway.encode()), Ok(Answer::TurnedAway));
        assert_eq!(Answer::decode(&Answer::Arrived(7).encode()), Ok(Answer::Arrived(7)));
        for bytes in [*b"{\"message\":", [0; 11], [2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]] {
            assert_eq!(Answer::decode(&bytes), Err(WireError::Answer));
        }
    }

    #[test]
    fn lengths_are_bounded() {
        let batch =
            FrameHeader { kind: FrameKind::Batch, codec: 0, round: 7, members: 1, wire_len: 700, raw_len: 1024 };
        assert_eq!(FrameHeader::decode(&batch.encode()), Ok(batch));
        let over = FrameHeader { raw_len: FrameHeader::MAX_RAW + 1, ..batch };
        assert_eq!(FrameHeader::decode(&over.encode()), Err(WireError::Length(2 * 1024 * 1024 + 1)));
        let crowded = FrameHeader { members: 3, ..batch };
        assert_eq!(FrameHeader::decode(&crowded.encode()), Err(WireError::Frame));
        let piece = FrameHeader { kind: FrameKind::Piece, codec: 2, round: 0, members: 1, wire_len: 9, raw_len: 41 };
        assert_eq!(FrameHeader::decode(&piece.encode()), Ok(piece));
        for bad in [
            FrameHeader { round: 1, ..piece },
            FrameHeader { members: 2, ..piece },
            FrameHeader { wire_len: 0, ..piece },
            FrameHeader { wire_len: 42, ..piece },
            FrameHeader { raw_len: 40, ..piece },
            FrameHeader { raw_len: 41 + (1 << 20), ..piece },
        ] {
            assert_eq!(FrameHeader::decode(&bad.encode()), Err(WireError::Frame), "{bad:?}");
        }
        let filled_end = FrameHeader { kind: FrameKind::End, ..batch };
        assert_eq!(FrameHeader::decode(&filled_end.encode()), Err(WireError::Frame));
    }
}
