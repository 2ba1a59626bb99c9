//! Hostile peers. Each is tested in three ways: it is refused within a second, a sentinel outside the joiner's data
//! directory and the old tree are untouched, and the harmless twin of the attack works.

use crate::support::hostile::{Frame, Script, batch, converse, dialer, entry, offer, start};
use crate::support::pair::{Both, Ended, Joiner, LIMIT, Pair, SECONDS, address, redirected};
use crate::support::tree::{self, MIB, file};
use highline::archive::{Batch, Codec, Extents, PageHints};
use highline::backup::DataSource;
use highline::direct::Pages;
use highline::error::{Error, Kind, Side};
use highline::link::{Control, Deadlines, Dialer, Lanes, Listener, ProvenConnection, Stream};
use highline::manifest::{CHUNK, Checksum, Digest};
use highline::progress::Quiet;
use highline::tls::proof::{Channel, prove};
use highline::tls::{Address, Identity, Pin, Policy, Secret, Ticket, Trust, server_config};
use highline::tree::{Content, Entry, RelPath};
use highline::wire::{
    Accept, Ack, Answer, BasisFile, Failure, FrameHeader, Message, Preamble, Purpose, Round, Speeds, WireBytes,
};
use std::fs;
use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;
use std::time::{Duration, Instant};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::sync::mpsc::Receiver;

const SECOND: Duration = Duration::from_secs(1);
const FILE: Content = Content::File { size: 1000 };

/// The joiner's answer to an attack, if it came, and how the joiner ended.
struct Refused {
    told: Error,
    joiner: Ended,
    after: Duration,
}

/// Plays a script against a fresh joiner with an old tree and a sentinel beside it.
fn attack(evil: &Script) -> Refused {
    let pair = Pair::default();
    tree::old(&pair.joiner);
    let before = tree::read(&pair.joiner);
    let sentinel = file(pair.home(), "sentinel", "safe");
    let beside = fs::read_dir(pair.home()).unwrap().count();
    let joiner = pair.receive(&["--idle-timeout", "2s"]);
    let started = Instant::now();
    let told = converse(evil.play(&joiner.ticket)).expect_err("the joiner took it");
    let after = started.elapsed();
    let joiner = joiner.running.end(SECONDS);
    tree::assert_same(&before, &tree::read(&pair.joiner));
    assert_eq!(fs::read_to_string(&sentinel).unwrap(), "safe");
    assert_eq!(fs::read_dir(pair.home()).unwrap().count(), beside, "something was made outside");
    assert!(!pair.joiner.join(".highline").exists());
    Refused { told, joiner, after }
}

#[track_caller]
fn benign(script: &Script) {
    let pair = Pair::default();
    tree::old(&pair.joiner);
    let joiner = pair.receive(&[]);
    let played = converse(script.play(&joiner.ticket));
    let joiner = joiner.running.end(SECONDS);
    assert!(played.is_ok(), "the benign twin was refused: {}\n{}", played.unwrap_err().report(), joiner.stderr);
    joiner.succeeded();
    assert!(!pair.joiner.join("old_schema").exists());
}

/// An attack: its name, what it does to an honest script, the exit code that follows, and what both sides say.
type Row<'a> = (&'a str, &'a dyn Fn(&mut Script), u8, &'a str);

/// Tries each of these on an honest script of `entries`, which is their harmless twin.
fn attacks(entries: &[Entry], rows: &[Row<'_>]) {
    let honest = Script::honest(entries, 1);
    for &(name, act, code, words) in rows {
        let mut evil = honest.clone();
        act(&mut evil);
        let refused = attack(&evil);
        println!("{name}: {}", refused.told.report());
        assert!(refused.told.sentence().contains(words), "{name}: {}", refused.told.report());
        assert_eq!(refused.told.kind().exit_code(), code, "{name}: {}", refused.told.report());
        refused.joiner.failed(code.into(), &[words]);
        // A busy machine may be slow once.
        let after = if refused.after < SECOND { refused.after } else { attack(&evil).after };
        assert!(after < SECOND, "{name} took {after:?}");
    }
    benign(&honest);
}

fn one_file() -> Vec<Entry> {
    vec![entry("datadir/AA/f", FILE)]
}

#[test]
fn names() {
    let named = |honest: &str, evil: &str, code, words: &str| {
        let path = |name: &str| format!("path={name}\n").into_bytes();
        let act = |s: &mut Script| s.frames[0].replace(&path(honest), &path(evil));
        attacks(&[entry(honest, FILE)], &[(evil, &act, code, words)]);
    };
    named("datadir/AA/sentinel", "datadir/../sentinel", 71, "a part of the path is `..`");
    named("datadir/AA/sentinel", "/atadir/AA/sentinel", 71, "a root's name has");
    named("datadir/AA/f", "datadir/A\0/f", 71, "NUL");
    // Another root, the node's own state, our own journal and lock.
    for (honest, evil) in [
        ("datadir/AA/f", "nowhere/AA/f"),
        ("datadir/grastate.dax", "datadir/grastate.dat"),
        ("datadir/.highlinx/journal", "datadir/.highline/journal"),
        ("datadir/.highline.locx", "datadir/.highline.lock"),
        ("datadir/.highline.kepx.t", "datadir/.highline.kept.t"),
    ] {
        named(honest, evil, 22, &format!("{evil}: this node has no place for it"));
    }
}

#[test]
fn links() {
    let to = |path: &'static [u8]| move |s: &mut Script| s.frames[1].replace(b"linkpath=datadir/AA/f", path);
    let missing = "datadir/AA/g, which it links to, has not arrived";
    let link = Content::HardLink { to: RelPath::parse(b"datadir/AA/f").unwrap() };
    attacks(
        &[one_file(), vec![entry("datadir/h", link)]].concat(),
        &[
            ("to what never came", &to(b"linkpath=datadir/AA/g"), 71, missing),
            ("to outside", &to(b"linkpath=datadir/../f"), 71, "a part of the path is `..`"),
        ],
    );
}

#[test]
fn chunks() {
    let big = [entry("datadir/AA/f", Content::File { size: CHUNK + 5 })];
    let outside = "the chunk lies outside its file";
    let twice = "datadir/AA/f: the donor sent it twice, with different content";
    let offset = |to: &'static [u8]| move |s: &mut Script| s.frames[1].replace(b"HIGHLINE.offset=1048576", to);
    let size = |s: &mut Script| s.frames[1].replace(b"HIGHLINE.size=1048581", b"HIGHLINE.size=1048582");
    let mode = |s: &mut Script| {
        let mut other = big[0].clone();
        other.meta.mode = 0o777;
        s.frames[1] = Frame::of(batch(&other, CHUNK, &Extents::whole(5), 1).0);
    };
    let half = |s: &mut Script| drop(s.frames.remove(1));
    attacks(
        &big,
        &[
            ("another size for the same file", &size, 71, outside),
            ("another mode for the same file", &mode, 71, twice),
            ("outside its file", &offset(b"HIGHLINE.offset=9437184"), 71, outside),
            ("off the grid", &offset(b"HIGHLINE.offset=1048577"), 71, outside),
            ("half a file", &half, 74, "datadir/AA/f has no complete digest"),
        ],
    );
    // Of a run nothing arrives but its length.
    let run = |to: u64| {
        let (mut batch, size) = (Batch::default(), (to * CHUNK).max(1000));
        batch.push_empty(&entry("datadir/AA/f", Content::File { size }), 0..to).unwrap();
        Frame::of(batch)
    };
    let other = |s: &mut Script| s.frames[0] = run(1);
    let vast = |s: &mut Script| (s.round.bytes, s.frames[0]) = (u64::MAX, run(1 << 31));
    let endless = |s: &mut Script| {
        vast(s);
        s.frames[0].replace(b"HIGHLINE.empty=2147483648", b"HIGHLINE.empty=9999999999");
    };
    attacks(
        &one_file(),
        &[
            ("a run of a longer file", &other, 71, "more than the 1000 bytes that were announced"),
            ("a run of petabytes", &vast, 75, "with it the files are longer than 1 PiB in all"),
            ("a run beyond its file", &endless, 71, outside),
        ],
    );
    let content = |s: &mut Script| s.frames.extend(Script::honest(&one_file(), 9).frames);
    let damage = |s: &mut Script| s.frames[0].replace(&[1; 1000], &[2; 1000]);
    attacks(
        &one_file(),
        &[
            ("another content for the same file", &content, 71, twice),
            ("a wrong digest", &damage, 74, "datadir/AA/f: the chunk at 0 arrived damaged"),
        ],
    );
}

#[test]
fn announcements() {
    let (sealed, room) = ("the copy is not what the donor sealed", "and the donor sends");
    let vast = "the donor announced 1099511627776 entries after offering 2";
    let outside = |s: &mut Script| {
        s.offer.roots[0].name = "external-1".parse().unwrap();
        s.offer.roots[0].path = WireBytes::from(b"../etc".as_slice());
    };
    let root = |s: &mut Script| s.offer.roots[0].name = "elsewhere".parse().unwrap();
    let no_checksum = |s: &mut Script| s.offer.speeds = Speeds { sha256: 0, blake3: 0 };
    attacks(
        &one_file(),
        &[
            ("a wrong seal", &|s| s.seal.digest = Digest::from_bytes([3; 32]), 74, sealed),
            ("a wrong number in the seal", &|s| s.seal.entries += 1, 74, sealed),
            ("too many bytes", &|s| s.round.bytes -= 1, 71, "more than the 999 bytes that were announced"),
            ("too many entries", &|s| s.round.entries -= 1, 71, "more than the 1 entries that were announced"),
            ("too few entries", &|s| s.round.entries += 1, 71, "2 of 3 entries have arrived"),
            ("a round far above the offer", &|s| s.round.entries = 1 << 40, 71, vast),
            ("an offer of everything", &|s| s.offer.roots[0].allocated = u64::MAX, 28, room),
            ("an offer of too many", &|s| s.offer.roots[0].entries = u64::MAX, 28, room),
            ("an unknown root", &root, 22, "its root is unknown here"),
            ("a root at /etc", &outside, 22, "the donor has tablespaces outside its data directory"),
            ("no checksum", &no_checksum, 93, "no checksum in common"),
        ],
    );
}

#[test]
fn frames() {
    let truncated = |s: &mut Script| {
        s.frames[0].payload.truncate(2048);
        (s.frames[0].header.wire_len, s.frames[0].header.raw_len) = (2048, 2048);
    };
    let header = |change: fn(&mut FrameHeader)| move |s: &mut Script| change(&mut s.frames[0].header);
    let (long, two) = ("a length of 4294967295 bytes is over the limit", "a frame announced 2 members but contains 1");
    attacks(
        &one_file(),
        &[
            ("a truncated archive", &truncated, 71, "a frame from the donor was refused"),
            ("another number of members", &header(|h| h.members += 1), 71, two),
            ("no member", &header(|h| h.members = 0), 71, "frame"),
            ("an unknown codec", &header(|h| h.codec = 9), 71, "codec 9 is unknown"),
            ("another round", &header(|h| h.round = 100), 71, "a frame of round 100 came out of turn"),
            ("garbage as zstd", &header(|h| h.codec = 2), 71, "the payload does not decompress"),
            ("over the limit", &header(|h| h.wire_len = u32::MAX), 71, long),
        ],
    );
    // A batch is never empty: empty frames must not keep a joiner busy.
    let mut script = Script::honest(&one_file(), 1);
    let mut empty = Frame::of(Batch::default());
    empty.header.raw_len = 0;
    script.frames.insert(0, empty);
    attack(&script).joiner.failed(71, &["joiner: "]);
}

#[test]
fn symlinks_lead_nowhere() {
    let outside = tempfile::tempdir().unwrap();
    let sentinel = file(outside.path(), "sentinel", "safe");
    let door = Content::Symlink { target: outside.path().to_str().unwrap().as_bytes().into() };
    for order in [[0, 1], [1, 0]] {
        let entries = [entry("datadir/door", door.clone()), entry("datadir/door/sentinel", FILE)];
        let refused = attack(&Script::honest(&order.map(|at| entries[at].clone()), 1));
        refused.joiner.failed(5, &["joiner: cannot make the link datadir/door: File exists"]);
        assert_eq!(fs::read_to_string(&sentinel).unwrap(), "safe");
    }
    benign(&Script::honest(&[entry("datadir/door", door), entry("datadir/room/sentinel", FILE)], 1));
    assert_eq!(fs::read_to_string(&sentinel).unwrap(), "safe");
}

/// The program that prepares a backup would follow them, into the old tree or anywhere.
#[test]
fn a_backup_has_no_links() {
    let backup = |path: &str, content: Content| {
        let mut script = Script::honest(&[entry("datadir/AA/f", FILE), entry(path, content)], 1);
        script.offer.source = DataSource::Mariabackup;
        script
    };
    let symlink = Content::Symlink { target: b"../../../../old_schema/t.ibd"[..].into() };
    let link = Content::HardLink { to: RelPath::parse(b"datadir/AA/f").unwrap() };
    for evil in
        [backup("datadir/AA/t.ibd", symlink), backup("datadir/AA/t.ibd", link), backup("datadir/AA/t.isl", FILE)]
    {
        let refused = attack(&evil);
        assert_eq!(refused.told.kind(), Kind::Protocol, "{}", refused.told.report());
        assert!(!refused.joiner.stderr.contains("the backup is prepared now"), "{}", refused.joiner.stderr);
        refused.joiner.failed(71, &["a backup may not contain links, because mariadb-backup would follow them"]);
    }
    // Its twin comes as far as the program, which finds no backup.
    let refused = attack(&backup("datadir/AA/t.ibd", FILE));
    assert!(refused.joiner.stderr.contains("the backup is prepared now"), "{}", refused.joiner.stderr);
}

/// The donor hears how the removal of an old tree proceeds, so that it does not give the joiner up.
#[test]
fn a_long_removal_is_told() {
    let mut pair = Pair::default();
    let disk = pair.small_disk(2048);
    if disk.is_some() {
        pair.joiner = pair.home().join("disk/joiner");
        fs::create_dir(&pair.joiner).unwrap();
    }
    tree::old(&pair.joiner);
    for number in 0..150_000 {
        file(&pair.joiner, format!("schema{}/t{number}.ibd", number / 5000), "");
    }
    let joiner = pair.receive(&["--install", "inplace", "--idle-timeout", "1s"]);
    let told = converse(async {
        let mut control = start(&dialer(&joiner.ticket)).await.unwrap();
        control.send(Message::Offer(Box::new(offer(1, 1000)))).await.unwrap();
        let mut told = Vec::new();
        loop {
            match control.next().await.unwrap() {
                Message::Removing { entries } => told.push(entries),
                Message::Accept(_) => return told,
                other => panic!("{}", other.name()),
            }
        }
    });
    assert!(!told.is_empty() && told.is_sorted(), "{told:?}");
    joiner.running.end(SECONDS).failed(32, &["closed the connection"]);
}

/// Attributes are kept until the end, so they have a limit of their own.
#[test]
fn attributes() {
    let to = RelPath::parse(b"datadir/AA/f").unwrap();
    // A link's attributes would cost the disk nothing.
    let with = |count: usize| {
        let mut entries = one_file();
        for number in 0..count {
            let mut entry = entry(&format!("datadir/AA/link{number}"), Content::HardLink { to: to.clone() });
            entry.meta.xattrs = (0..7).map(|n| (format!("user.{n}"), vec![7; 60_000])).collect();
            entries.push(entry);
        }
        Script::honest(&entries, 1)
    };
    let refused = attack(&with(90));
    refused.joiner.failed(75, &["joiner: datadir/AA/link", "more than 32 MiB of extended attributes in one tree"]);
    assert!(refused.joiner.peak < 200 * 1024, "{} KiB", refused.joiner.peak);
    benign(&with(5));
}

/// Few bytes on the wire that would take a lot of memory or a whole disk.
#[test]
fn bombs() {
    let honest = Script::honest(&one_file(), 1);
    let mut zeros = Pages::default();
    Codec::Zstd(19).compress(&vec![0; 512 * MIB as usize], &mut zeros).unwrap();
    let mut bomb = honest.clone();
    bomb.frames[0] = bomb.frames[0].clone().compressed(Codec::Zstd(1));
    benign(&bomb);
    bomb.frames[0].header.wire_len = zeros.len() as u32;
    bomb.frames[0].payload = zeros.to_vec();
    let mut vast = honest.clone();
    vast.round.bytes = u64::MAX;
    let mut vaster = vast.clone();
    let endless = |size| Frame::of(batch(&entry("datadir/AA/f", Content::File { size }), 0, &Extents::default(), 0).0);
    (vast.frames, vaster.frames) = (vec![endless(1 << 50)], vec![endless(1 << 62)]);
    for (evil, code, words) in [
        (bomb, 71, "unpacks to a different length than announced"),
        (vast, 5, "cannot make room for datadir/AA/f"),
        (vaster, 75, "with it the files are longer than 1 PiB in all"),
    ] {
        let refused = attack(&evil);
        refused.joiner.failed(code, &["joiner: ", words]);
        assert!(refused.joiner.peak < 100 * 1024, "{} KiB for {words}", refused.joiner.peak);
    }
}

#[test]
fn messages_out_of_turn() {
    let good = offer(1, 1000);
    let round = Message::Round(Round { number: 0, entries: 1, bytes: 1000, streamed: false, position: None });
    let later = |number| Message::Round(Round { number, entries: 1, bytes: 1000, streamed: false, position: None });
    let withdrawn = |path: &[u8]| Message::Withdrawn { paths: vec![path.into()] };
    let seal = Message::Seal { entries: 1, digest: Digest::from_bytes([0; 32]) };
    for (said, words) in [
        (vec![seal.clone()], "sent `seal` out of turn"),
        (vec![Message::Durable], "sent `durable` out of turn"),
        (vec![Message::Bye], "sent `bye` out of turn"),
        (
            vec![Message::Offer(Box::new(good.clone())), Message::Offer(Box::new(good.clone()))],
            "sent `offer` out of turn",
        ),
        (
            vec![Message::Offer(Box::new(good.clone())), round.clone(), round.clone()],
            "round 0 was announced out of turn",
        ),
        (vec![Message::Offer(Box::new(good.clone())), round.clone(), later(2)], "round 2 was announced out of turn"),
        (vec![Message::Offer(Box::new(good.clone())), later(1)], "round 1 was announced out of turn"),
        (
            vec![Message::Offer(Box::new(good.clone())), round.clone(), withdrawn(b"datadir/../x")],
            "a part of the path is `..`",
        ),
        (vec![Message::Offer(Box::new(good.clone())), withdrawn(b"datadir/x")], "sent `withdrawn` out of turn"),
        (vec![Message::Offer(Box::new(good.clone())), round.clone(), Message::Verified], "sent `verified` out of turn"),
        (vec![Message::Offer(Box::new(good.clone())), round.clone(), seal.clone(), seal.clone()], ""),
        (vec![Message::Offer(Box::new(good)), round, seal], "0 of 1 entries have arrived"),
    ] {
        let pair = Pair::default();
        tree::old(&pair.joiner);
        let before = tree::read(&pair.joiner);
        let joiner = pair.receive(&[]);
        converse(async {
            let mut control = start(&dialer(&joiner.ticket)).await.unwrap();
            for message in said {
                let _ = control.send(message).await;
            }
            while control.next().await.is_ok() {}
        });
        joiner.running.end(SECONDS).failed(71, &["joiner: ", words]);
        tree::assert_same(&before, &tree::read(&pair.joiner));
    }
}

/// A joiner that waits with an old tree, and what must still work after strangers came.
struct Besieged {
    pair: Pair,
    joiner: Joiner,
}

impl Besieged {
    fn new() -> Besieged {
        let pair = Pair::default();
        tree::plain(&pair.donor, 2);
        tree::old(&pair.joiner);
        let joiner = pair.receive(&["--idle-timeout", "4s"]);
        Besieged { pair, joiner }
    }

    fn ticket(&self) -> &str {
        &self.joiner.ticket
    }

    /// A silent connection.
    async fn raw(&self, dialer: &Dialer) -> Stream {
        let tcp = tokio::net::TcpStream::connect(address(self.ticket())).await.unwrap();
        let name = "127.0.0.1".try_into().unwrap();
        tokio_rustls::TlsConnector::from(Arc::clone(&dialer.tls))
            .connect(name, tokio::io::BufReader::new(tcp))
            .await
            .unwrap()
            .into()
    }

    /// The real donor still gets in.
    fn holds(self) -> Ended {
        let donor = self.pair.send(&self.joiner.ticket, &[]);
        let both = Both::of(donor, self.joiner, LIMIT);
        both.succeeded();
        tree::assert_equal(&self.pair.donor, &self.pair.joiner);
        both.joiner
    }
}

/// The ticket with another secret or another pin, one letter changed.
fn altered(ticket: &str, at: usize) -> String {
    let mut bytes = ticket.as_bytes().to_vec();
    bytes[at] = if bytes[at] == b'A' { b'B' } else { b'A' };
    String::from_utf8(bytes).unwrap()
}

#[test]
fn wrong_secret_and_wrong_pin() {
    let besieged = Besieged::new();
    let secret = besieged.pair.send(&altered(besieged.ticket(), 50), &[]).end(Duration::from_secs(2));
    secret.failed(129, &["donor: the donor at ", "does not know the ticket's secret"]);
    let pin = besieged.pair.send(&altered(besieged.ticket(), 3), &[]).end(Duration::from_secs(2));
    pin.failed(129, &["the joiner at 127.0.0.1:"]);
    let joiner = besieged.holds();
    assert!(joiner.stderr.contains("refused a connection from 127.0.0.1:"), "{}", joiner.stderr);
}

#[test]
fn proof_of_another_connection() {
    let besieged = Besieged::new();
    converse(async {
        let dialer = dialer(besieged.ticket());
        let raw = async || besieged.raw(&dialer).await;
        let (seen, mut used) = (raw().await, raw().await);
        let proof = |stream| prove(&dialer.ticket.secret, Side::Donor, &Channel::of(stream).unwrap());
        let hello =
            |proof| Message::Hello { purpose: Purpose::Control { session: 1 }, proof, software: "replay".into() };
        for proof in [proof(&seen), Digest::from_bytes([0; 32])] {
            let mut stream = raw().await;
            stream.write_all(&Preamble::ours().encode()).await.unwrap();
            stream.write_all(&hello(proof).encode().unwrap()).await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            let answer = String::from_utf8_lossy(&answer);
            assert!(answer.contains("does not know the ticket's secret"), "{answer}");
        }
        // The twin: its own proof, byte by byte the same conversation.
        let own = proof(&used);
        used.write_all(&Preamble::ours().encode()).await.unwrap();
        used.write_all(&hello(own).encode().unwrap()).await.unwrap();
        let mut answer = vec![0; Preamble::LEN + 60];
        used.read_exact(&mut answer).await.unwrap();
        assert!(String::from_utf8_lossy(&answer).contains("welcome"), "{}", String::from_utf8_lossy(&answer));
    });
    // That was the donor, and it is gone.
    besieged.joiner.running.end(SECONDS).failed(32, &["closed the connection"]);
}

#[test]
fn man_in_the_middle() {
    let besieged = Besieged::new();
    converse(async {
        let identity = Identity::ephemeral().unwrap();
        let tls = server_config(&identity, Trust::Pin, &Policy::default()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let donor = besieged.pair.send(&redirected(besieged.ticket(), listener.local_addr().unwrap()), &[]);
        let (tcp, _) = listener.accept().await.unwrap();
        let accepted = tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await;
        // TLS 1.3: the donor may refuse the certificate after the server believes that all is well.
        if let Ok(mut stream) = accepted {
            let mut heard = Vec::new();
            let _ = stream.read_to_end(&mut heard).await;
            assert!(heard.is_empty(), "the donor spoke to a stranger");
        }
        let donor = tokio::task::spawn_blocking(move || donor.end(SECONDS)).await.unwrap();
        donor.failed(129, &["donor: the joiner at 127.0.0.1:"]);
    });
    besieged.holds();
}

#[test]
fn second_donor() {
    let besieged = Besieged::new();
    let second = besieged.pair.home().join("second");
    tree::plain(&second, 1);
    let first = besieged.pair.send(besieged.ticket(), &["--rate-limit", "2M"]);
    besieged.joiner.running.says("has proven itself");
    let words = ["send", "--datadir", second.to_str().unwrap(), besieged.ticket()];
    besieged.pair.run(&words).failed(16, &["joiner: this joiner has a donor already"]);
    Both::of(first, besieged.joiner, LIMIT).succeeded();
    tree::assert_equal(&besieged.pair.donor, &besieged.pair.joiner);
}

/// A donor that dials more lanes than a joiner has room for is told so on each surplus one, even while nobody takes lanes.
#[test]
fn surplus_lanes() {
    let pair = Pair::default();
    let joiner = pair.receive(&["--idle-timeout", "4s"]);
    converse(async {
        let dialer = dialer(&joiner.ticket);
        let control = start(&dialer).await.unwrap();
        let mut lanes = Vec::new();
        for number in 0..2 * Lanes::MAX + 2 {
            lanes.push(dialer.dial(Purpose::Lane { number }).await.unwrap().0);
        }
        for surplus in lanes.split_off(usize::from(2 * Lanes::MAX)).iter_mut() {
            let mut answer = [0; Answer::LEN];
            surplus.read_exact(&mut answer).await.expect("closed without an answer");
            assert_eq!(Answer::decode(&answer), Ok(Answer::TurnedAway));
        }
        drop(control);
    });
    drop(joiner);
}

#[test]
fn other_versions() {
    let besieged = Besieged::new();
    converse(async {
        let dialer = dialer(besieged.ticket());
        for (said, words) in [
            (*b"HIGHLINE\0\x03\0\x04", "it speaks protocol versions 3 to 4, this side 2 to 2"),
            (*b"HIGHLINE\0\x01\0\x01", "it speaks protocol versions 1 to 1, this side 2 to 2"),
            (*b"GET / HTTP/1", "it does not speak Highline's protocol"),
        ] {
            let mut stream = besieged.raw(&dialer).await;
            stream.write_all(&said).await.unwrap();
            let mut answer = Vec::new();
            let _ = stream.read_to_end(&mut answer).await;
            assert_eq!(answer, Preamble::ours().encode(), "the peer must be able to say why");
            besieged.joiner.running.says(words);
        }
    });
    besieged.holds();
}

#[test]
fn scanners_and_a_thousand_silent_connections() {
    let besieged = Besieged::new();
    let to = address(besieged.ticket());
    let quiet: Vec<TcpStream> = (0..1000).map(|_| TcpStream::connect(to).unwrap()).collect();
    for _ in 0..50 {
        drop(TcpStream::connect(to).unwrap());
    }
    for garbage in [
        b"GET / HTTP/1.0\r\n\r\n".to_vec(),
        tree::noise(1, 100_000),
        vec![0x16; 5000],
        vec![0; 70_000],
        b"\x16\x03\x01\xff\xff".to_vec(),
    ] {
        for _ in 0..10 {
            // It may be closed before everything is sent.
            let _ = TcpStream::connect(to).unwrap().write_all(&garbage);
        }
    }
    let joiner = besieged.holds();
    drop(quiet);
    println!("peak {} KiB", joiner.peak);
    assert!(joiner.peak < 100 * 1024, "{} KiB", joiner.peak);
    let lines = joiner.stderr.lines().filter(|line| line.contains("refused a connection")).count();
    assert!((1..60).contains(&lines), "{lines} lines in the log");
}

/// A joiner made by the test, with a real listener in front of it.
struct Host {
    ticket: String,
    connections: Receiver<ProvenConnection>,
}

impl Host {
    fn open() -> Host {
        let identity = Identity::ephemeral().unwrap();
        let listener = Listener::bind("127.0.0.1:0".parse().unwrap()).unwrap();
        let address = Address::new("127.0.0.1", listener.address().port()).unwrap();
        let ticket = Ticket { pin: identity.pin(), secret: Secret::generate().unwrap(), address };
        let text = ticket.reveal().to_string();
        let tls = server_config(&identity, Trust::Pin, &Policy::default()).unwrap();
        let connections = listener.open(tls, Trust::Pin, ticket.secret, Deadlines::default(), Arc::new(Quiet));
        Host { ticket: text, connections }
    }

    async fn control(&mut self) -> Control {
        let connection = self.connections.recv().await.unwrap();
        assert!(matches!(connection.purpose, Purpose::Control { .. }));
        Control::start(connection.stream, "the donor".into(), Deadlines::default())
    }

    async fn accept(&mut self) -> Control {
        self.accept_with(false).await
    }

    /// With a list of files that it already has, if `basis`.
    async fn accept_with(&mut self, basis: bool) -> Control {
        let mut control = self.control().await;
        control.next().await.unwrap();
        let accept =
            Accept { checksum: Checksum::Blake3, lanes: 1, without: vec![], kept: vec![], basis, software: "x".into() };
        control.send(Message::Accept(accept)).await.unwrap();
        control
    }
}

fn host(words: &[&str], code: i32, act: impl AsyncFnOnce(Host)) {
    let pair = Pair::default();
    tree::plain(&pair.donor, 3);
    converse(async {
        let host = Host::open();
        let donor = pair.send(&host.ticket, &["--lanes", "1", "--idle-timeout", "1s"]);
        let donor = tokio::task::spawn_blocking(move || donor.end(SECONDS));
        act(host).await;
        donor.await.unwrap().failed(code, words);
    });
    pair.arrives(&[], &[]);
}

/// Acknowledges `ack` after the first byte of the first lane, and stays.
async fn acknowledge(mut host: Host, ack: Ack) {
    let mut control = host.accept().await;
    let mut lane = host.connections.recv().await.unwrap().stream;
    let mut byte = [0];
    lane.read_exact(&mut byte).await.unwrap();
    lane.write_all(&Answer::Ack(ack).encode()).await.unwrap();
    lane.flush().await.unwrap();
    // It goes on reading, so that only the acknowledgement is wrong.
    let mut sink = vec![0; 65536];
    while lane.read(&mut sink).await.is_ok_and(|count| count > 0) {}
    while control.next().await.is_ok() {}
}

#[test]
fn joiners() {
    for message in [Message::Durable, Message::Verified] {
        let turn = format!("sent `{}` out of turn", message.name());
        host(&["donor: the joiner at ", &turn], 71, async |mut host| {
            let mut control = host.control().await;
            control.send(message.clone()).await.unwrap();
            while control.next().await.is_ok() {}
        });
    }
    for ack in [Ack { round: 0, members: u64::MAX }, Ack { round: 3, members: 1 }, Ack { round: 0, members: 1_000_000 }]
    {
        let words = ["donor: the joiner at ", " acknowledged what was not sent"];
        host(&words, 71, async |host| acknowledge(host, ack).await);
    }
    // Nothing is ever acknowledged.
    host(&["donor: the joiner at ", "has written nothing for 1 s"], 110, async |host| {
        acknowledge(host, Ack { round: 0, members: 0 }).await;
    });
    // It is alive but never accepts.
    host(&["donor: the joiner at ", "is still connected but has not answered for 5 s"], 110, async |mut host| {
        let mut control = host.control().await;
        while control.next().await.is_ok() {}
    });
    host(&["closed a lane"], 32, async |mut host| {
        let control = host.accept().await;
        for _ in 0..3 {
            drop(host.connections.recv().await.unwrap());
        }
        drop((control, host));
    });
    // Its words cannot forge lines of the log.
    host(&["joiner: full\\u{a}highline: done: all is well\\u{1b}[2J"], 28, async |mut host| {
        let control = host.control().await;
        let failure = Failure {
            kind: Kind::NoSpace,
            side: Side::Joiner,
            sentence: "full\nhighline: done: all is well\u{1b}[2J".into(),
            remedy: None,
        };
        control.send(Message::Failure(failure)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    for garbage in [b"\xff\xff\xff\xff....".as_slice(), b"\0\0\0\x08nonsense", b"\0\0\0\0"] {
        host(&["donor: "], 71, async |mut host| {
            let mut stream = host.connections.recv().await.unwrap().stream;
            stream.write_all(garbage).await.unwrap();
            stream.flush().await.unwrap();
            let mut sink = Vec::new();
            let _ = stream.read_to_end(&mut sink).await;
        });
    }
}

/// What a joiner says about the files it has is bounded, and may be wrong: the donor's seal is over what it read.
#[test]
fn joiners_that_say_what_they_have() {
    let list = |path: &str, size| Message::Basis {
        files: vec![BasisFile { path: WireBytes::from(path.as_bytes()), size }],
        last: true,
    };
    host(&["donor: a path from the joiner was refused", "`..`"], 71, async |mut host| {
        let mut control = host.accept_with(true).await;
        control.send(list("datadir/../../etc/passwd", 1 << 20)).await.unwrap();
        while control.next().await.is_ok() {}
    });
    host(&["donor: the joiner's list of files is too long"], 75, async |mut host| {
        let mut control = host.accept_with(true).await;
        let files = vec![BasisFile { path: WireBytes::from(b"datadir/x".as_slice()), size: 1 }; 1000];
        for _ in 0..200 {
            let message = Message::Basis { files: files.clone(), last: false };
            if control.send(message).await.is_err() {
                break;
            }
        }
        while control.next().await.is_ok() {}
    });
    // It never has what it says: the file's digests are made up, come out of turn, or never come.
    let size = 3 * MIB;
    let content = tree::noise(7, size as usize);
    let asked = async |mut host: Host| {
        let mut control = host.accept_with(true).await;
        control.send(list("innodb-data/ibdata1", size)).await.unwrap();
        let Ok(Message::Sample { seed, chunks }) = control.next().await else { panic!() };
        // It guesses right.
        let hint = |chunk: u64| PageHints::of(&content[(chunk * MIB) as usize..][..MIB as usize], seed);
        let hints = chunks.iter().map(|at| hint(at.chunk).to_bytes().collect::<Vec<u8>>().into()).collect();
        control.send(Message::Sampled { hints }).await.unwrap();
        let Ok(Message::Reuse { wanted }) = control.next().await else { panic!() };
        assert_eq!(wanted.as_bytes(), [1]);
        assert!(matches!(control.next().await, Ok(Message::Round(_))));
        (host, control)
    };
    let part = |from, chunks: usize| Message::Seeded {
        file: 0,
        from,
        digests: vec![1; 32 * chunks].into(),
        hints: vec![2; 512 * chunks].into(),
    };
    for said in [
        part(1, 1),
        part(0, 4),
        part(0, 0),
        Message::Seeded { file: 7, from: 0, digests: vec![1; 32].into(), hints: vec![2; 512].into() },
    ] {
        host(&["donor: the joiner at ", "told of a file's chunks out of turn"], 71, async |host| {
            let (_host, mut control) = asked(host).await;
            control.send(said.clone()).await.unwrap();
            while control.next().await.is_ok() {}
        });
    }
    host(&["donor: the joiner at ", "sent `verified` out of turn"], 71, async |host| {
        let (_host, mut control) = asked(host).await;
        control.send(Message::Verified).await.unwrap();
        while control.next().await.is_ok() {}
    });
    // Nothing is reported: the file is sent, and nobody takes it.
    host(&["donor: the joiner at ", "has written nothing for 1 s"], 110, async |host| {
        let (mut host, mut control) = asked(host).await;
        let _lane = host.connections.recv().await.unwrap();
        // What the joiner is told once the donor waits no longer, and what it says itself.
        while let Ok(message) = control.next().await {
            if message == Message::NoReuse {
                control.send(Message::SeedsOver).await.unwrap();
            }
        }
    });
}

/// An old tree may take longer to remove than the donor waits for an answer, as long as it gets smaller.
#[test]
fn joiner_that_says_how_much_it_has_removed() {
    let removing = async |control: &Control, entries: fn(u64) -> u64| {
        for number in 1..=14 {
            if control.send(Message::Removing { entries: entries(number) }).await.is_err() {
                return;
            }
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    };
    host(&["joiner: full"], 28, async |mut host| {
        let control = host.control().await;
        removing(&control, |number| number).await;
        let full = Failure::of(&Error::new(Kind::NoSpace, "full").on(Side::Joiner));
        control.send(Message::Failure(full)).await.unwrap();
        tokio::time::sleep(Duration::from_millis(300)).await;
    });
    host(&["is still connected but has not answered for 5 s"], 110, async |mut host| {
        let control = host.control().await;
        removing(&control, |_| 7).await;
    });
}

/// A joiner that answers a donor's preamble and hello with these bytes, and how that donor ends.
fn joiner_that_says(said: Vec<u8>) -> Ended {
    let pair = Pair::default();
    tree::plain(&pair.donor, 1);
    converse(async {
        let identity = Identity::ephemeral().unwrap();
        let tls = server_config(&identity, Trust::Pin, &Policy::default()).unwrap();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = Address::new("127.0.0.1", listener.local_addr().unwrap().port()).unwrap();
        let pin: Pin = identity.pin();
        let ticket = Ticket { pin, secret: Secret::generate().unwrap(), address };
        let donor = pair.send(&ticket.reveal(), &[]);
        let (tcp, _) = listener.accept().await.unwrap();
        let mut stream = tokio_rustls::TlsAcceptor::from(tls).accept(tcp).await.unwrap();
        let mut hello = [0; Preamble::LEN + 4];
        stream.read_exact(&mut hello).await.unwrap();
        stream.write_all(&said).await.unwrap();
        stream.flush().await.unwrap();
        tokio::task::spawn_blocking(move || donor.end(SECONDS)).await.unwrap()
    })
}

/// It has the key of the pin, but not the secret: somebody who stole one of the two.
#[test]
fn joiner_without_the_secret() {
    let welcome = Message::Welcome { proof: Digest::from_bytes([7; 32]) };
    let donor = joiner_that_says([Preamble::ours().encode().as_slice(), &welcome.encode().unwrap()].concat());
    donor.failed(129, &["donor: the joiner at ", "does not know the ticket's secret"]);
}

#[test]
fn joiner_of_another_version() {
    let donor = joiner_that_says(b"HIGHLINE\0\x01\0\x01".to_vec());
    assert!(donor.stderr.contains("remedy: install the same Highline release on both nodes"), "{}", donor.stderr);
    donor.failed(93, &["it speaks protocol versions 1 to 1, this side 2 to 2"]);
}
