//! Byte streams from a donor, or to a joiner, that knows the ticket and breaks the protocol.

use crate::support::hostile::{converse, dialer, start};
use crate::support::pair::SECONDS;
use crate::support::pipe::{KEEP, Pipes};
use highline::archive::Codec;
use highline::direct::Pages;
use highline::error::Result;
use highline::manifest::{Checksum, Digest, StreamSeal, StreamSealer};
use highline::wire::{Answer, FrameHeader, FrameKind, Message, Piece, PipeAccept, PipeOffer, Purpose, Speeds};
use std::time::Duration;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

const DATA: &[u8] = b"INSERT INTO t VALUES (1);\n";

fn digest() -> Digest {
    Checksum::Blake3.digest(DATA)
}

/// A frame with one piece.
fn frame(number: u64, digest: Digest, data: &[u8]) -> Vec<u8> {
    let payload = [Piece::head(number, digest).as_slice(), data].concat();
    let length = payload.len() as u32;
    let header =
        FrameHeader { kind: FrameKind::Piece, codec: 0, round: 0, members: 1, wire_len: length, raw_len: length };
    [header.encode().as_slice(), &payload].concat()
}

fn seal(pieces: u64) -> StreamSeal {
    let mut sealer = StreamSealer::new(Checksum::Blake3);
    (0..pieces).for_each(|_| sealer.add(DATA.len() as u32, digest()));
    sealer.finish()
}

/// Offers a stream, sends these bytes on a lane, waits for so many acknowledgements, and ends with this seal.
async fn play(ticket: &str, bytes: &[u8], acknowledged: u64, seal: StreamSeal) -> Result<()> {
    let dialer = dialer(ticket);
    let mut control = start(&dialer).await?;
    let speeds = Speeds { sha256: 0, blake3: 1000 };
    control.send(Message::Pipe(PipeOffer { speeds, lanes: 1, window: 8 })).await?;
    let accept: PipeAccept =
        control.expect(|m| if let Message::PipeAccept(accept) = m { Ok(accept) } else { Err(m) }).await?;
    assert_eq!((accept.lanes, accept.window, accept.checksum), (1, 8, Checksum::Blake3));
    let (mut lane, _) = dialer.dial(Purpose::Lane { number: 0 }).await?;
    let _ = lane.write_all(bytes).await;
    let _ = lane.flush().await;
    let mut answer = [0; Answer::LEN];
    while acknowledged > 0 && lane.read_exact(&mut answer).await.is_ok() {
        if matches!(Answer::decode(&answer), Ok(Answer::Ack(ack)) if ack.members >= acknowledged) {
            break;
        }
    }
    if acknowledged == 0 {
        // What is wrong with it is noticed without more.
        let error = tokio::time::timeout(std::time::Duration::from_secs(10), control.failed()).await;
        return Err(error.expect("the joiner notices nothing"));
    }
    control.send(Message::PipeEnd { pieces: seal.pieces, bytes: seal.bytes, digest: seal.digest }).await?;
    control.expect(|m| if let Message::Verified = m { Ok(()) } else { Err(m) }).await?;
    control.expect(|m| if let Message::Durable = m { Ok(()) } else { Err(m) }).await?;
    control.send(Message::Bye).await?;
    control.heard(std::time::Duration::from_secs(5)).await;
    Ok(())
}

#[test]
fn an_honest_donor_of_our_own_making_is_served() {
    let pipes = Pipes::default();
    let joiner = pipes.receive(&[], KEEP);
    // In any order, and one twice.
    let frames = [1, 0, 1, 2].map(|number| frame(number, digest(), DATA)).concat();
    converse(play(&joiner.ticket, &frames, 4, seal(3))).unwrap();
    joiner.running.end(SECONDS).succeeded();
    assert_eq!(pipes.kept().unwrap(), DATA.repeat(3));
}

#[test]
fn a_seal_that_does_not_match_ends_both() {
    let good = seal(2);
    for bad in [
        StreamSeal { bytes: good.bytes + 1, ..good },
        StreamSeal { pieces: 1, ..good },
        StreamSeal { pieces: 3, ..good },
        StreamSeal { digest: digest(), ..good },
        seal(1),
        seal(3),
        seal(0),
    ] {
        let pipes = Pipes::default();
        let joiner = pipes.receive(&[], KEEP);
        let frames = [0, 1].map(|number| frame(number, digest(), DATA)).concat();
        let started = std::time::Instant::now();
        let error = converse(play(&joiner.ticket, &frames, 2, bad)).unwrap_err();
        assert!(error.sentence().starts_with("the stream is not what the donor sealed: "), "{}", error.sentence());
        let ended = joiner.running.end(SECONDS);
        // This donor leaves at once, and the joiner gives it three seconds to come back and hear why.
        assert!(started.elapsed() < Duration::from_millis(4500), "{:?}", started.elapsed());
        ended.failed(74, &["the stream is not what the donor sealed"]);
        pipes.never_ended();
    }
}

#[test]
fn pieces_that_break_the_rules_end_both() {
    let other = Checksum::Blake3.digest(b"other");
    let with = |change: fn(&mut FrameHeader)| {
        let whole = frame(0, digest(), DATA);
        let mut header = FrameHeader::decode(whole.first_chunk().unwrap()).unwrap();
        change(&mut header);
        [header.encode().as_slice(), &whole[FrameHeader::LEN..]].concat()
    };
    let bomb = {
        let mut packed = Pages::default();
        Codec::Zstd(1).compress(&vec![0; 2 << 20], &mut packed).unwrap();
        let header = FrameHeader {
            kind: FrameKind::Piece,
            codec: Codec::Zstd(1).id(),
            round: 0,
            members: 1,
            wire_len: packed.len() as u32,
            raw_len: 1000,
        };
        [header.encode().as_slice(), &packed].concat()
    };
    for (bytes, code, says) in [
        (frame(0, other, DATA), 74, "piece 0 of the stream is damaged"),
        (frame(8, digest(), DATA), 71, "piece 8 of the stream is beyond the window"),
        (frame(u64::MAX, digest(), DATA), 71, "is beyond the window"),
        ([frame(1, digest(), DATA), frame(1, other, b"other")].concat(), 71, "came twice, and not as the same"),
        // It is the first of the window, so none of them is acknowledged.
        (frame(1, digest(), DATA).repeat(9), 71, "a lane brought more pieces of the stream than were agreed on"),
        (with(|header| header.round = 1), 71, "a lane frame is malformed"),
        (with(|header| header.members = 2), 71, "a lane frame is malformed"),
        (with(|header| header.kind = FrameKind::End), 71, "a lane frame is malformed"),
        (with(|header| header.raw_len = 2 << 20), 71, "a lane frame is malformed"),
        (with(|header| (header.kind, header.raw_len) = (FrameKind::Batch, 4096)), 71, "what does not belong to this"),
        (with(|header| header.wire_len += 1), 71, "a lane frame is malformed"),
        (with(|header| header.codec = 9), 71, "was refused"),
        (bomb, 71, "was refused"),
    ] {
        let pipes = Pipes::default();
        let joiner = pipes.receive(&[], KEEP);
        let error = converse(play(&joiner.ticket, &bytes, 0, seal(0))).unwrap_err();
        assert!(error.sentence().contains(says), "{says}: {}", error.sentence());
        joiner.running.end(SECONDS).failed(code, &[says]);
        pipes.never_ended();
    }
}

/// A piece is a frame of a stream, and not of a tree.
#[test]
fn a_tree_takes_no_pieces() {
    use crate::support::hostile::Script;
    use crate::support::pair::Pair;
    let pair = Pair::default();
    let joiner = pair.receive(&[]);
    let entries = [crate::support::hostile::entry("datadir/t", highline::tree::Content::File { size: 9 })];
    let mut script = Script::honest(&entries, 7);
    let payload = [Piece::head(0, digest()).as_slice(), DATA].concat();
    let first = script.frames.first_mut().unwrap();
    let length = payload.len() as u32;
    first.header =
        FrameHeader { kind: FrameKind::Piece, members: 1, wire_len: length, raw_len: length, ..first.header };
    first.payload = payload;
    let error = converse(script.play(&joiner.ticket)).unwrap_err();
    assert!(error.sentence().contains("sent what does not belong to this transfer"), "{}", error.sentence());
    joiner.running.end(SECONDS).failed(71, &["sent what does not belong to this transfer"]);
}
