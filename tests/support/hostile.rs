//! A donor made by the test, which knows the ticket and says whatever it likes.

use highline::archive::{Batch, Codec, Extents, MemberError};
use highline::direct::Pages;
use highline::error::{Error, Result};
use highline::link::{Control, Deadlines, Dialer, Stream};
use highline::manifest::{CHUNK, Checksum, Digest, Item, Manifest, Seal, chunks};
use highline::tls::{Policy, Ticket, Trust, client_config};
use highline::tree::{Content, Entry, Metadata, Mtime, Part, RelPath, RootName};
use highline::wire::{Answer, FrameHeader, FrameKind, Message, Offer, OfferedRoot, Purpose, Round, Speeds, WireBytes};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

pub fn dialer(ticket: &str) -> Dialer {
    let ticket: Ticket = ticket.parse().unwrap();
    let tls = client_config(None, ticket.pin, Trust::Pin, &Policy::default()).unwrap();
    Dialer { ticket, tls, trust: Trust::Pin, deadlines: Deadlines::default(), software: "enemy".into() }
}

pub fn entry(path: &str, content: Content) -> Entry {
    let meta = Metadata { mode: 0o640, uid: 0, gid: 0, mtime: Mtime { secs: 1, nanos: 2 }, xattrs: Default::default() };
    Entry { path: RelPath::parse(path.as_bytes()).unwrap(), meta, content }
}

/// One frame as it is on the wire.
#[derive(Clone, Debug)]
pub struct Frame {
    pub header: FrameHeader,
    pub payload: Vec<u8>,
}

impl Frame {
    pub fn of(batch: Batch) -> Frame {
        let (members, payload) = (batch.members(), batch.into_buffer().to_vec());
        let length = payload.len() as u32;
        let header =
            FrameHeader { kind: FrameKind::Batch, codec: 0, round: 0, members, wire_len: length, raw_len: length };
        Frame { header, payload }
    }

    #[must_use]
    pub fn compressed(mut self, codec: Codec) -> Frame {
        let mut packed = Pages::default();
        codec.compress(&self.payload, &mut packed).unwrap();
        self.header.codec = codec.id();
        self.header.wire_len = packed.len() as u32;
        self.payload = packed.to_vec();
        self
    }

    /// Replaces the first `from` with as many bytes.
    pub fn replace(&mut self, from: &[u8], to: &[u8]) {
        assert_eq!(from.len(), to.len());
        let at = self.payload.windows(from.len()).position(|window| window == from).unwrap();
        self.payload[at..at + to.len()].copy_from_slice(to);
    }
}

/// All that a donor says after the offer.
#[derive(Clone, Debug)]
pub struct Script {
    pub offer: Offer,
    pub round: Round,
    pub frames: Vec<Frame>,
    pub seal: Seal,
}

impl Script {
    /// An honest donor of these entries, followed by the directories above them; every byte of a file is `byte`.
    pub fn honest(entries: &[Entry], byte: u8) -> Script {
        let mut entries = entries.to_vec();
        let mut at = 0;
        while let Some(parent) = entries.get(at).map(|entry| entry.path.parent()) {
            let missing = parent.filter(|parent| entries.iter().all(|entry| entry.path != *parent));
            entries.extend(missing.map(|path| Entry { path, ..entry("datadir/x", Content::Directory) }));
            at += 1;
        }
        let (mut frames, mut items, mut bytes) = (Vec::new(), Vec::new(), 0);
        for entry in &entries {
            let mut digests: Vec<Digest> = Vec::new();
            match entry.content {
                Content::File { size } => {
                    bytes += size;
                    for chunk in 0..chunks(size) {
                        let len = (size - chunk * CHUNK).min(CHUNK) as u32;
                        let (batch, digest) = batch(entry, chunk * CHUNK, &Extents::whole(len), byte);
                        frames.push(Frame::of(batch));
                        digests.push(digest);
                    }
                }
                _ => {
                    let mut batch = Batch::default();
                    batch.push_entry(entry).unwrap();
                    frames.push(Frame::of(batch));
                }
            }
            let digest = (!digests.is_empty()).then(|| Checksum::Blake3.fold(&digests));
            items.push(Item { entry: entry.clone(), digest });
        }
        let round = Round { number: 0, entries: entries.len() as u64, bytes, streamed: false, position: None };
        let seal = Manifest::new(Checksum::Blake3, items).unwrap().seal();
        Script { offer: offer(entries.len() as u64, bytes), round, frames, seal }
    }

    /// Plays it to its end: `Ok` once the joiner has installed, otherwise what the joiner said.
    pub async fn play(&self, ticket: &str) -> Result<()> {
        let dialer = dialer(ticket);
        let mut control = start(&dialer).await?;
        control.send(Message::Offer(Box::new(self.offer.clone()))).await?;
        control.expect(|m| if let Message::Accept(_) = m { Ok(()) } else { Err(m) }).await?;
        control.send(Message::Round(self.round.clone())).await?;
        let (mut lane, _) = dialer.dial(Purpose::Lane { number: 0 }).await?;
        let written = tokio::select! {
            written = self.write(&mut lane) => written,
            error = control.failed() => return Err(error),
        };
        if let Err(error) = written {
            return Err(control.cause(Error::net("the lane", error)).await);
        }
        control.send(Message::Seal { entries: self.seal.entries, digest: self.seal.digest }).await?;
        control.expect(|m| if let Message::Verified = m { Ok(()) } else { Err(m) }).await?;
        control.expect(|m| if let Message::Durable = m { Ok(()) } else { Err(m) }).await?;
        control.send(Message::Bye).await?;
        control.heard(std::time::Duration::from_secs(5)).await;
        Ok(())
    }

    async fn write(&self, lane: &mut Stream) -> std::io::Result<()> {
        for frame in &self.frames {
            lane.write_all(&frame.header.encode()).await?;
            lane.write_all(&frame.payload).await?;
        }
        lane.flush().await?;
        let members: u64 = self.frames.iter().map(|frame| u64::from(frame.header.members)).sum();
        let mut answer = [0; Answer::LEN];
        // The seal must not overtake a lane. A refused lane ends here.
        while !self.frames.is_empty() && lane.read_exact(&mut answer).await.is_ok() {
            if matches!(Answer::decode(&answer), Ok(Answer::Ack(ack)) if ack.members >= members) {
                break;
            }
        }
        lane.write_all(&FrameHeader::end().encode()).await?;
        lane.flush().await
    }
}

pub fn offer(entries: u64, bytes: u64) -> Offer {
    let root = |name: RootName, bytes, entries| OfferedRoot {
        name,
        path: WireBytes::from(b"/var/lib/mysql".as_slice()),
        names: Vec::new(),
        bytes,
        allocated: bytes.min(1 << 20),
        entries,
    };
    Offer {
        roots: vec![root(RootName::datadir(), bytes, entries)],
        parts: Part::ALL.into(),
        speeds: Speeds { sha256: 0, blake3: 1000 },
        lanes: 1,
        ..Offer::default()
    }
}

pub async fn start(dialer: &Dialer) -> Result<Control> {
    let (stream, _) = dialer.dial(Purpose::Control { session: 1 }).await?;
    Ok(Control::start(stream, dialer.peer(), dialer.deadlines))
}

pub fn batch(entry: &Entry, offset: u64, extents: &Extents, byte: u8) -> (Batch, Digest) {
    let mut batch = Batch::default();
    let digest = batch.push_chunk::<MemberError>(entry, offset, extents, Checksum::Blake3, |data| {
        data.fill(byte);
        Ok(())
    });
    (batch, digest.unwrap())
}

/// Runs a conversation to its end, in bounded time.
pub fn converse<T>(work: impl Future<Output = T>) -> T {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let limit = std::time::Duration::from_secs(20);
    let done = runtime.block_on(async { tokio::time::timeout(limit, work).await });
    runtime.shutdown_background();
    done.expect("a conversation has no end")
}
