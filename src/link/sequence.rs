//! What one side of a conversation has sent and received, so that it can continue over another connection where it was
//! interrupted: no message is lost, and none is received twice.
//!
//! Messages carry no numbers on the wire: both sides count them, from 1 in each direction. A heartbeat does not count;
//! it says how many were received. On every connection it comes first, and nothing else is sent until the peer's has
//! come. What was sent is kept until the peer has received it.
//!
//! Pure: no sockets, no clock.

use std::collections::VecDeque;

use crate::error::{Error, Kind};
use crate::wire::{Message, WireError};

#[derive(Debug, Default)]
pub(super) struct Sequence {
    /// Encoded messages not known to be received; the first is number `acknowledged` + 1.
    kept: VecDeque<Vec<u8>>,
    bytes: usize,
    /// How many the peer says it has received.
    acknowledged: u64,
    /// The highest number written to any connection.
    given: u64,
    /// The highest number written to this connection; `None` until the peer has said what it received.
    at: Option<u64>,
    heard: u64,
    /// The last `heard` the peer was told on this connection.
    told: Option<u64>,
    /// What was last handed out is still being written.
    writing: bool,
}

impl Sequence {
    /// The most bytes kept for a peer that receives nothing: more than the longest offer.
    const MOST: usize = 32 << 20;

    /// A new connection begins: what the peer has received is unknown again.
    pub(super) fn begin(&mut self) {
        (self.at, self.told, self.writing) = (None, None, false);
    }

    /// Whether one more message may be queued. A peer that receives none must not cost unbounded memory.
    pub(super) fn has_room(&self) -> bool {
        self.bytes < Self::MOST
    }

    /// # Errors
    /// The message is too long.
    pub(super) fn say(&mut self, message: &Message) -> Result<(), WireError> {
        let bytes = message.encode()?;
        self.bytes = self.bytes.saturating_add(bytes.len());
        self.kept.push_back(bytes);
        Ok(())
    }

    /// One more message has come from the peer.
    pub(super) fn hear(&mut self) {
        self.heard = self.heard.saturating_add(1);
    }

    /// The peer says how many it has received.
    ///
    /// # Errors
    /// It said more before, or that many were never sent.
    pub(super) fn acknowledge(&mut self, heard: u64) -> Result<(), Error> {
        if heard < self.acknowledged || heard > self.given {
            let what = format!("the peer has heard {heard} messages, of {} to {}", self.acknowledged, self.given);
            return Err(Error::new(Kind::Protocol, what));
        }
        while self.acknowledged < heard {
            self.bytes = self.bytes.saturating_sub(self.kept.pop_front().map_or(0, |message| message.len()));
            self.acknowledged += 1;
        }
        self.at = Some(self.at.unwrap_or(heard).max(heard));
        Ok(())
    }

    /// What to write next, if anything.
    pub(super) fn next(&mut self) -> Option<Vec<u8>> {
        let next = self.due();
        self.writing = next.is_some();
        next
    }

    fn due(&mut self) -> Option<Vec<u8>> {
        if self.told != Some(self.heard) {
            return self.heartbeat();
        }
        let at = self.at?;
        let message = self.kept.get(usize::try_from(at.checked_sub(self.acknowledged)?).ok()?)?.clone();
        self.at = Some(at.saturating_add(1));
        self.given = self.given.max(at.saturating_add(1));
        Some(message)
    }

    /// A heartbeat that says how many were received, even if that is not new.
    pub(super) fn heartbeat(&mut self) -> Option<Vec<u8>> {
        self.told = Some(self.heard);
        self.writing = true;
        Message::Heartbeat { heard: self.heard }.encode().ok()
    }

    /// The peer has received everything.
    pub(super) fn is_heard(&self) -> bool {
        self.kept.is_empty()
    }

    /// Everything, including the acknowledgement of all that was received, is written to this connection.
    pub(super) fn is_written(&self) -> bool {
        let all = self.acknowledged.saturating_add(self.kept.len() as u64);
        !self.writing && self.told == Some(self.heard) && self.at == Some(all)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn said(number: u16) -> Message {
        Message::RoundOver { number }
    }

    fn decoded(bytes: &[u8]) -> Message {
        Message::decode(&bytes[4..]).unwrap()
    }

    /// One side, and what its conversation was given.
    #[derive(Default)]
    struct Side {
        sequence: Sequence,
        arrived: Vec<Message>,
    }

    impl Side {
        fn take(&mut self, bytes: &[u8]) {
            match decoded(bytes) {
                Message::Heartbeat { heard } => self.sequence.acknowledge(heard).unwrap(),
                message => {
                    self.arrived.push(message);
                    self.sequence.hear();
                }
            }
        }
    }

    fn rest(sequence: &mut Sequence) -> Vec<Message> {
        std::iter::from_fn(|| sequence.next()).map(|bytes| decoded(&bytes)).collect()
    }

    #[test]
    fn nothing_is_said_before_the_peer_has_told_what_it_heard() {
        let mut ours = Sequence::default();
        ours.begin();
        ours.say(&said(1)).unwrap();
        assert_eq!(rest(&mut ours), [Message::Heartbeat { heard: 0 }]);
        assert!(!ours.is_written());
        ours.acknowledge(0).unwrap();
        assert_eq!(rest(&mut ours), [said(1)]);
        assert!(ours.is_written() && !ours.is_heard());
        ours.acknowledge(1).unwrap();
        assert!(ours.is_written() && ours.is_heard());
        ours.hear();
        assert!(!ours.is_written(), "the peer must be told");
        assert_eq!(rest(&mut ours), [Message::Heartbeat { heard: 1 }]);
    }

    #[test]
    fn after_a_cut_what_was_not_heard_is_said_again() {
        let mut ours = Sequence::default();
        ours.begin();
        ours.acknowledge(0).unwrap();
        for number in 1..=4 {
            ours.say(&said(number)).unwrap();
        }
        assert_eq!(rest(&mut ours).len(), 5);
        ours.acknowledge(1).unwrap();
        ours.begin();
        ours.say(&said(5)).unwrap();
        assert_eq!(rest(&mut ours), [Message::Heartbeat { heard: 0 }]);
        // It had heard the second and third too, and its word of that was lost.
        ours.acknowledge(3).unwrap();
        assert_eq!(rest(&mut ours), [said(4), said(5)]);
    }

    #[test]
    fn a_peer_that_lies_about_what_it_heard_is_found_out() {
        let mut ours = Sequence::default();
        ours.begin();
        ours.acknowledge(0).unwrap();
        ours.say(&said(1)).unwrap();
        ours.say(&said(2)).unwrap();
        assert!(ours.acknowledge(1).is_err(), "nothing was given to it yet");
        rest(&mut ours);
        assert!(ours.acknowledge(u64::MAX).is_err());
        ours.acknowledge(2).unwrap();
        let error = ours.acknowledge(1).unwrap_err();
        assert_eq!(
            (error.kind(), error.sentence()),
            (Kind::Protocol, "the peer has heard 1 messages, of 2 to 2".into())
        );
    }

    #[test]
    fn a_peer_that_hears_nothing_costs_no_more_than_so_much() {
        let mut ours = Sequence::default();
        let long = Message::Withdrawn { paths: vec![[b'x'; 4000].as_slice().into(); 50] };
        let mut count = 0;
        while ours.has_room() {
            ours.say(&long).unwrap();
            count += 1;
        }
        assert!(count > 100 && ours.bytes <= Sequence::MOST + Message::MAX);
        ours.begin();
        ours.acknowledge(0).unwrap();
        rest(&mut ours);
        ours.acknowledge(count).unwrap();
        assert_eq!((ours.bytes, ours.has_room()), (0, true));
    }

    proptest! {
        /// Two sides, cut at any moment: whatever was under way is lost, and yet all arrives, once and in order.
        #[test]
        fn whatever_is_cut_all_arrives_once_and_in_order(steps in proptest::collection::vec(0u8..12, 0..400)) {
            let mut sides = [Side::default(), Side::default()];
            let mut wires = [VecDeque::<Vec<u8>>::new(), VecDeque::new()];
            let mut counts = [0u16; 2];
            for step in steps.into_iter().chain(std::iter::once(11)).chain(std::iter::repeat_n([4, 5, 6, 7], 2000).flatten()) {
                let side = usize::from(step % 2);
                match step {
                    0..4 => {
                        counts[side] += 1;
                        sides[side].sequence.say(&said(counts[side])).unwrap();
                    }
                    4 | 5 => wires[side].extend(sides[side].sequence.next()),
                    6 | 7 => if let Some(bytes) = wires[1 - side].pop_front() {
                        sides[side].take(&bytes);
                    },
                    8 | 9 => wires[side].extend(sides[side].sequence.heartbeat()),
                    _ => {
                        wires.iter_mut().for_each(VecDeque::clear);
                        sides.iter_mut().for_each(|side| side.sequence.begin());
                    }
                }
            }
            for side in 0..2 {
                let all: Vec<Message> = (1..=counts[1 - side]).map(said).collect();
                prop_assert_eq!(&sides[side].arrived, &all);
                prop_assert!(sides[side].sequence.is_heard() && sides[side].sequence.is_written());
            }
        }
    }
}
