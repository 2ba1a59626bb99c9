//! The offer, split into messages.

use serde::Serialize;

use super::WireBytes;
use super::contents::{Offer, OfferedRoot};
use super::message::Message;
use crate::error::{Error, Kind, Result};

impl Offer {
    /// The most bytes of JSON that all roots of an offer may take, and the most roots and names: both limit what a
    /// joiner has to keep.
    pub const MAX_BYTES: usize = 16 << 20;
    pub const MAX_NAMES: usize = 100_000;

    /// The offer as messages, the last of them an `offer`. An offer too long for a joiner is refused here.
    pub fn into_messages(mut self) -> Result<Vec<Message>> {
        // Leaves room for the other fields, a root without its names, and a name.
        const PART: usize = Message::MAX / 2;
        let mut messages = Vec::new();
        let mut part = Part::default();
        let mut total = Total::default();
        for mut root in std::mem::take(&mut self.roots) {
            let names = std::mem::take(&mut root.names);
            let alone = length(&root)?;
            total.add(1, alone)?;
            if part.bytes.saturating_add(alone) > PART {
                messages.push(std::mem::take(&mut part).message());
            }
            let again = OfferedRoot { bytes: 0, allocated: 0, entries: 0, ..root.clone() };
            part.push(root, alone);
            for name in names {
                let longer = length(&name)?.saturating_add(1);
                total.add(1, longer)?;
                if part.bytes.saturating_add(longer) > PART {
                    messages.push(std::mem::take(&mut part).message());
                    part.push(again.clone(), alone);
                }
                part.name(name, longer);
            }
        }
        self.roots = part.roots;
        messages.push(Message::Offer(Box::new(self)));
        Ok(messages)
    }
}

/// The roots of one message, and the bytes they take there.
#[derive(Default)]
struct Part {
    roots: Vec<OfferedRoot>,
    bytes: usize,
}

impl Part {
    fn push(&mut self, root: OfferedRoot, bytes: usize) {
        self.roots.push(root);
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn name(&mut self, name: WireBytes, bytes: usize) {
        if let Some(root) = self.roots.last_mut() {
            root.names.push(name);
        }
        self.bytes = self.bytes.saturating_add(bytes);
    }

    fn message(self) -> Message {
        Message::OfferPart { roots: self.roots }
    }
}

/// Running totals of an offer.
#[derive(Debug, Default)]
struct Total {
    names: usize,
    bytes: usize,
}

impl Total {
    fn add(&mut self, names: usize, bytes: usize) -> Result<()> {
        self.names = self.names.saturating_add(names);
        self.bytes = self.bytes.saturating_add(bytes);
        if self.names <= Offer::MAX_NAMES && self.bytes <= Offer::MAX_BYTES {
            return Ok(());
        }
        let what = format!(
            "too much lies outside the data directory: an offer names at most {} directories and files there, in {} MiB",
            Offer::MAX_NAMES,
            Offer::MAX_BYTES >> 20
        );
        Err(Error::new(Kind::Limit, what)
            .remedy("move tables with a DATA DIRECTORY back into the data directory, or into fewer directories"))
    }
}

/// The parts of an offer as they arrive.
#[derive(Debug, Default)]
pub struct OfferParts {
    roots: Vec<OfferedRoot>,
    total: Total,
}

impl OfferParts {
    /// Adds the roots of one message; the first may continue the last root of the part before, with more names.
    pub fn add(&mut self, roots: Vec<OfferedRoot>) -> Result<()> {
        for root in roots {
            let bytes = length(&root)?;
            match self.roots.last_mut().filter(|last| last.name == root.name && last.path == root.path) {
                Some(last) => {
                    self.total.add(root.names.len(), bytes)?;
                    last.names.extend(root.names);
                    last.bytes = last.bytes.saturating_add(root.bytes);
                    last.allocated = last.allocated.saturating_add(root.allocated);
                    last.entries = last.entries.saturating_add(root.entries);
                }
                None => {
                    self.total.add(root.names.len().saturating_add(1), bytes)?;
                    self.roots.push(root);
                }
            }
        }
        Ok(())
    }

    /// The whole offer, with its last part.
    pub fn complete(mut self, mut offer: Offer) -> Result<Offer> {
        self.add(std::mem::take(&mut offer.roots))?;
        offer.roots = self.roots;
        Ok(offer)
    }
}

/// Bytes of JSON.
fn length(value: &impl Serialize) -> Result<usize> {
    let json = serde_json::to_vec(value).map_err(|e| Error::new(Kind::Protocol, "an offer").because(e))?;
    Ok(json.len())
}

#[cfg(test)]
mod tests {
    use super::super::contents::Speeds;
    use super::*;

    fn root(name: &str, path: &str, names: impl IntoIterator<Item = String>) -> OfferedRoot {
        OfferedRoot {
            name: name.parse().unwrap(),
            path: WireBytes::from(path.as_bytes()),
            names: names.into_iter().map(|name| WireBytes::from(name.as_bytes())).collect(),
            bytes: 3,
            allocated: 2,
            entries: 1,
        }
    }

    fn offer(roots: Vec<OfferedRoot>) -> Offer {
        Offer {
            owner: (999, 999),
            roots,
            parts: crate::tree::Part::ALL.into(),
            speeds: Speeds { sha256: 1, blake3: 1 },
            lanes: 1,
            ..Offer::default()
        }
    }

    /// Writes and reads every message, as the wire does.
    fn travels(offer: &Offer) -> (usize, Result<Offer>) {
        let messages = offer.clone().into_messages().unwrap();
        let count = messages.len();
        let mut parts = OfferParts::default();
        for message in messages {
            let bytes = message.encode().unwrap();
            match Message::decode(&bytes[4..]).unwrap() {
                Message::OfferPart { roots } => parts.add(roots).unwrap(),
                Message::Offer(last) => return (count, parts.complete(*last)),
                other => panic!("{}", other.name()),
            }
        }
        panic!("no end")
    }

    #[test]
    fn an_offer_of_any_length_arrives_as_it_was() {
        // As bad as it gets: each byte of the path is three, and each of a name is two.
        let odd = |n: usize| format!("{}{n}", "\"\\".repeat(100));
        let many =
            (0..9000).map(|n| root(&format!("external-{n}"), &format!("/far/{n}/{}", "\n".repeat(900)), [odd(n)]));
        for (roots, parts) in [
            (vec![], 1),
            (vec![root("datadir", "/var/lib/mysql", [])], 1),
            (vec![root("datadir", "/d", []), root("external-1", "/far", (0..20_000).map(odd))], 60),
            (many.take(4000).collect(), 80),
        ] {
            let whole = offer(roots);
            let (count, arrived) = travels(&whole);
            assert!(count >= parts && count < parts + 60, "{count} messages, not {parts}");
            assert!(arrived.unwrap() == whole);
        }
    }

    #[test]
    fn an_offer_without_measure_is_refused_by_both_sides() {
        let many = |count: usize| vec![root("external-1", "/far", (0..count).map(|n| n.to_string()))];
        let error = offer(many(100_000)).into_messages().unwrap_err();
        assert_eq!(error.kind(), Kind::Limit);
        assert_eq!(
            error.sentence(),
            "too much lies outside the data directory: an offer names at most 100000 directories and files there, in 16 MiB"
        );
        assert!(offer(many(99_999)).into_messages().is_ok());
        let mut parts = OfferParts::default();
        parts.add(many(99_999)).unwrap();
        assert_eq!(parts.add(many(1)).unwrap_err().kind(), Kind::Limit);
        let mut parts = OfferParts::default();
        let long = || vec![root("external-1", &"x".repeat(4000), [])];
        let refused = (0..10_000).find_map(|_| parts.add(long()).err());
        assert_eq!(refused.unwrap().kind(), Kind::Limit);
        assert!(parts.roots.len() < 10);
    }
}
