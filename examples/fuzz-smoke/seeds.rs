//! The seeds: real values, written by the code that writes them in a transfer.

use std::path::Path;
use std::time::{Duration, SystemTime};

use highline::archive::{Batch, Codec, Extent, Extents, MemberError};
use highline::direct::Pages;
use highline::error::{Error, Kind, Side};
use highline::manifest::{Checksum, Digest, Item, Manifest};
use highline::tls::authority::{AuthorityDir, NewKey, NodeRequest};
use highline::tls::safe_file::Existing;
use highline::tls::{Address, Pin, Secret, Ticket};
use highline::tree::{Content, Entry, InnodbFiles, Metadata, Mtime, Part, RedoLog, RelPath, RootName};
use highline::wire::{
    Accept, Ack, Answer, BasisFile, Failure, FrameHeader, FrameKind, Kept, Message, Offer, OfferedRoot, Piece,
    PipeAccept, PipeOffer, Preamble, Purpose, Round, SampledChunk, Speeds, WireBytes,
};

const POSITION: &str = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002:42";

/// Fills `folder/TARGET` for every target.
pub(crate) fn write(folder: &Path) {
    let put = |target: &str, seeds: Vec<Vec<u8>>| {
        let folder = folder.join(target);
        let _ = std::fs::remove_dir_all(&folder);
        std::fs::create_dir_all(&folder).unwrap();
        for (number, seed) in seeds.iter().enumerate() {
            std::fs::write(folder.join(format!("{number:02}")), seed).unwrap();
        }
    };
    put("preamble", vec![Preamble::ours().encode().to_vec(), Preamble { min: 1, max: 9 }.encode().to_vec()]);
    put("message", messages().iter().map(|message| message.encode().unwrap()).collect());
    put("frame", frames());
    put("piece", [1u64, u64::MAX].map(|number| piece(number, b"INSERT INTO t VALUES (1);\n")).to_vec());
    put("members", vec![members(&entries()), members(&entries()[..1])]);
    put("codec", payloads());
    put("manifest", vec![manifest(Checksum::Sha256), manifest(Checksum::Blake3)]);
    put("ticket", ["node1.example.org", "192.0.2.1", "2001:db8::1"].map(ticket).to_vec());
    put("options", OPTIONS.map(Vec::from).to_vec());
    put("sst_args", SST_ARGS.map(words).to_vec());
    put("server_args", SERVER_ARGS.map(words).to_vec());
    put("server_files", SERVER_FILES.map(Vec::from).to_vec());
    put("certificate", certificates());
    put("journal", JOURNALS.map(Vec::from).to_vec());
    put("mbstream", vec![mbstream(), Vec::new()]);
}

/// Chunks of two files, one of which is renamed.
fn mbstream() -> Vec<u8> {
    let chunk = |kind: u8, path: &[u8], rest: &[u8]| {
        let length = (path.len() as u32).to_le_bytes();
        [b"XBSTCK01\0".as_slice(), &[kind], &length, path, rest].concat()
    };
    let data = |path: &[u8], offset: u64, bytes: &[u8]| {
        let (len, crc) = ((bytes.len() as u64).to_le_bytes(), crc32fast::hash(bytes).to_le_bytes());
        chunk(b'P', path, &[len.as_slice(), &offset.to_le_bytes(), &crc, bytes].concat())
    };
    let to = [3u32.to_le_bytes().as_slice(), b"a/c"].concat();
    [
        data(b"a/b", 0, b"12345"),
        data(b"ibdata1", 0, b"1"),
        data(b"a/b", 5, b"6"),
        chunk(b'E', b"a/b", &[]),
        chunk(b'R', b"a/b", &to),
        chunk(b'E', b"ibdata1", &[]),
    ]
    .concat()
}

fn digest() -> Digest {
    Checksum::Blake3.digest(b"seed")
}

fn messages() -> Vec<Message> {
    let software = || "highline 0.2.0".to_owned();
    let roots = ["datadir", "innodb-undo"].map(|name| OfferedRoot {
        name: name.parse().unwrap(),
        path: WireBytes::from(b"/var/lib/mysql".as_slice()),
        names: Vec::new(),
        bytes: 9 << 30,
        allocated: 8 << 30,
        entries: 700,
    });
    vec![
        Message::Hello { purpose: Purpose::Control { session: 1 }, proof: digest(), software: software() },
        Message::Hello { purpose: Purpose::Lane { number: 3 }, proof: digest(), software: software() },
        Message::Welcome { proof: digest() },
        Message::Offer(Box::new(Offer {
            bypass: false,
            position: Some(POSITION.parse().unwrap()),
            server_version: Some("10.11.19-MariaDB".into()),
            innodb: InnodbFiles {
                redo: Some(RedoLog { format: 0x5068_7973, creator: "MariaDB 10.11.19".into(), empty: false }),
                page_size: Some(16384),
            },
            lower_case_table_names: Some(0),
            owner: (999, 999),
            roots: roots.to_vec(),
            parts: Part::ALL.into(),
            speeds: Speeds { sha256: 400, blake3: 3000 },
            lanes: 4,
            reuse: true,
            source: Default::default(),
        })),
        Message::Accept(Accept {
            checksum: Checksum::Blake3,
            lanes: 4,
            without: vec![RootName::datadir()],
            kept: vec![Kept { path: WireBytes::from(b"datadir/tmp".as_slice()), why: "tmpdir".into() }],
            basis: true,
            software: software(),
        }),
        Message::Round(Round { number: 0, entries: 5, bytes: 6, streamed: true, position: None }),
        Message::Seal { entries: 5, digest: digest() },
        Message::Verified,
        Message::Durable,
        Message::Bye,
        Message::Heartbeat { heard: 7 },
        Message::Failure(Failure::of(&Error::new(Kind::NoSpace, "it is full").remedy("free some").on(Side::Joiner))),
        Message::Basis {
            files: vec![BasisFile { path: WireBytes::from(b"datadir/shop/orders.ibd".as_slice()), size: 9 << 30 }],
            last: true,
        },
        Message::Sample { seed: 7, chunks: vec![SampledChunk { file: 0, chunk: 8000 }] },
        Message::Sampled { hints: vec![vec![1; 512].into()] },
        Message::Reuse { wanted: vec![1].into() },
        Message::Seeded { file: 0, from: 256, digests: vec![2; 64].into(), hints: vec![3; 1024].into() },
        Message::NoSeed { file: 0 },
        Message::Compared { bytes: 5 << 30 },
        Message::Pipe(PipeOffer { speeds: Speeds { sha256: 1700, blake3: 3000 }, lanes: 8, window: 64 }),
        Message::PipeAccept(PipeAccept {
            checksum: Checksum::Blake3,
            lanes: 8,
            window: 64,
            software: "highline 0.2.0".into(),
        }),
        Message::PipeHeld,
        Message::PipeEnd { pieces: 954, bytes: 1_000_000_000, digest: Checksum::Blake3.digest(b"") },
    ]
}

fn piece(number: u64, data: &[u8]) -> Vec<u8> {
    [Piece::head(number, Checksum::Blake3.digest(data)).as_slice(), data].concat()
}

fn frames() -> Vec<Vec<u8>> {
    let batch = FrameHeader { kind: FrameKind::Batch, codec: 1, round: 7, members: 3, wire_len: 700, raw_len: 4096 };
    vec![
        batch.encode().to_vec(),
        FrameHeader { wire_len: 1 << 20, raw_len: FrameHeader::MAX_RAW, ..batch }.encode().to_vec(),
        FrameHeader::end().encode().to_vec(),
        FrameHeader { kind: FrameKind::Piece, round: 0, members: 1, raw_len: 700, ..batch }.encode().to_vec(),
        Answer::Ack(Ack { round: 1, members: 70_000 }).encode().to_vec(),
    ]
}

fn entries() -> Vec<Entry> {
    let entry = |path: &[u8], content| Entry {
        path: RelPath::parse(path).unwrap(),
        meta: Metadata {
            mode: 0o660,
            uid: 999,
            gid: 999,
            mtime: Mtime { secs: 1_764_000_000, nanos: 5 },
            xattrs: vec![("user.note".into(), b"a=b\n".to_vec())].into(),
        },
        content,
    };
    let long = [b"datadir/shop/".as_slice(), &[b'x'; 200], b"#P#p0.ibd"].concat();
    vec![
        entry(b"datadir/shop/orders.ibd", Content::File { size: 3 }),
        entry(&long, Content::File { size: 0 }),
        entry(b"datadir/shop/sparse.ibd", Content::File { size: 4096 }),
        entry(b"datadir/shop", Content::Directory),
        entry(b"datadir/link", Content::Symlink { target: b"/srv/elsewhere".as_slice().into() }),
        entry(b"datadir/twin", Content::HardLink { to: RelPath::parse(b"datadir/shop/orders.ibd").unwrap() }),
    ]
}

/// The number of members, then the archive: as `fuzzing::members` wants it.
fn members(entries: &[Entry]) -> Vec<u8> {
    let mut batch = Batch::default();
    for entry in entries {
        let extents = match entry.content {
            // One page of data, the rest holes.
            Content::File { size: 4096 } => Extents::new(vec![Extent { start: 1024, len: 512 }], 4096).unwrap(),
            Content::File { size } => Extents::whole(size as u32),
            _ => {
                batch.push_entry(entry).unwrap();
                continue;
            }
        };
        let filled = batch.push_chunk::<MemberError>(entry, 0, &extents, Checksum::Blake3, |place| {
            place.fill(b'd');
            Ok(())
        });
        filled.unwrap();
    }
    [&[batch.members() as u8], batch.bytes()].concat()
}

/// The codec's number, the length in two bytes, the payload.
fn payloads() -> Vec<Vec<u8>> {
    let raw = b"Highline moves a whole database directory. ".repeat(9);
    let seed = |id: u8, payload: &[u8]| [&[id], (raw.len() as u16).to_be_bytes().as_slice(), payload].concat();
    let packed = |codec: Codec| {
        let mut payload = Pages::default();
        codec.compress(&raw, &mut payload).unwrap();
        seed(codec.id(), &payload)
    };
    let packed = [Codec::Lz4, Codec::Zstd(1), Codec::Zstd(9)].map(packed);
    [&[seed(0, &raw)], packed.as_slice()].concat()
}

fn manifest(checksum: Checksum) -> Vec<u8> {
    let items = entries().into_iter().map(|entry| {
        let digest = matches!(entry.content, Content::File { .. }).then(|| checksum.digest(b"content"));
        Item { entry, digest }
    });
    let mut text = Vec::new();
    Manifest::new(checksum, items.collect()).unwrap().write(&mut text).unwrap();
    text
}

fn ticket(host: &str) -> Vec<u8> {
    let address = Address::new(host, 4444).unwrap();
    let ticket = Ticket { pin: Pin::of_spki(b"key"), secret: Secret::generate().unwrap(), address };
    ticket.reveal().as_bytes().to_vec()
}

/// An authority's certificate and a node's, for each kind of key, as PEM and as DER.
fn certificates() -> Vec<Vec<u8>> {
    let mut seeds = vec![b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n".to_vec()];
    for key in [NewKey::default(), NewKey::Rsa2048] {
        let temp = tempfile::tempdir().unwrap();
        let dir = AuthorityDir::new(temp.path());
        // Always a year ago, so that no two runs differ by their dates alone.
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000);
        dir.create("Seed CA", 3650, key, Existing::Refuse, now).unwrap();
        let request = NodeRequest {
            name: "node1".parse().unwrap(),
            dns: vec!["node1.example.org".into()],
            addresses: vec!["192.0.2.1".parse().unwrap(), "2001:db8::1".parse().unwrap()],
            days: 825,
            key,
            replace_key: false,
        };
        let made = dir.sign(&request, now).unwrap();
        let [ca, node] = [dir.ca_file(), made.certificate_file].map(|file| std::fs::read(file).unwrap());
        let pem = highline::tls::pem::Pem::parse(&node).unwrap();
        seeds.extend(pem.certificates.iter().map(|der| der.to_vec()));
        seeds.push([node, ca].concat());
    }
    seeds
}

/// A zero byte behind each word.
fn words(line: &str) -> Vec<u8> {
    line.split(' ').flat_map(|word| word.bytes().chain([0])).collect()
}

const OPTIONS: [&str; 4] = [
    "--ssl-mode=VERIFY_IDENTITY\n--ca=/etc/mysql/tls/ca.pem\n--cert=/c.pem\n--key=/k.pem\n--lanes=8\n--compress=zstd:3\n\
     --rate-limit=200M\n--idle-timeout=2min\n--install=staged\0--encrypt=4\n--rlimit=100m\n--progress=1\n\
     --compressor=lz4\n--backup-threads=4\n--sst-initial-timeout=60\n--cpat=.*\\.pem$|.*init\\.ok$\0\
     --wsrep_sst_method=highline\n--ssl_ca=/ca.pem\n--wsrep-provider-options=socket.ssl_key=/k.pem;socket.ssl_cert=/c.pem\n",
    "--listen=[::]:4445\n--checksum=sha256\0--tca=/ca.pem\n--tcert=/c.pem\n--tkey=/k.pem\n--sockopt=,commonname=node2\n\
     --sst-idle-timeout=0\n--tmpdir=/srv/tmp\n--sst-max-binlogs=-1\0--skip-ssl\n--datadir=/a b\n--log-bin\n",
    "\0--ssl-mode=DISABLED\n\0",
    "\0\0",
];

const SST_ARGS: [&str; 3] = [
    "--role joiner --address 192.0.2.1:4444 --datadir /var/lib/mysql/ --defaults-file /etc/mysql/my.cnf --parent 77 \
     --progress 0 --binlog bin --binlog-index bin.index --mysqld-args --datadir=/var/lib/mysql --log_bin=bin",
    "--role donor --address [2001:db8::1]:4444/highline/1 --local-port 3306 --socket /run/mysqld/mysqld.sock \
     --progress 1 --datadir /var/lib/mysql/ --gtid 5d1fa5a7-0e29-11f0-8b7e-0242ac120002:42 --gtid-domain-id 9 --bypass",
    "--role=joiner --address=h --datadir=/d --innodb-data-home-dir=/i --innodb_undo_directory=/u --mysqld-version 8.0.33",
];

const SERVER_ARGS: [&str; 2] = [
    "--defaults-file=/etc/my.cnf --datadir /a --loose_innodb_log-group_home_dir=/x --log-bin -h /d -umysql",
    "--wsrep-new-cluster --innodb-data-home-dir= --defaults-extra-file=/e --defaults-group-suffix=1 -- stray",
];

const SERVER_FILES: [&str; 4] = [
    "# GALERA saved state\nversion: 2.1\nuuid:    5d1fa5a7-0e29-11f0-8b7e-0242ac120002\nseqno:   -1\nsafe_to_bootstrap: 0\n",
    "5d1fa5a7-0e29-11f0-8b7e-0242ac120002:42 9\n",
    "5d1fa5a7-0e29-11f0-8b7e-0242ac120002:42\nmore\n",
    "sst_user=u\nsst_password=p=w\nsst_remote_user=pin\nsst_remote_password=secret\n",
];

const JOURNALS: [&str; 2] = [
    r#"{
  "version": 1,
  "phase": "switching",
  "roots": [
    { "name": "datadir", "path": "", "scope": { "names": ["*", "x?"] } },
    { "name": "innodb-undo", "path": "undo%0alogs", "scope": "whole" },
    { "name": "binlog", "path": "/srv/binlog", "scope": "listed" }
  ],
  "keep": ["x*"],
  "own": [["datadir", "grastate.dat"], ["datadir", "a%25%ff"]]
}
"#,
    r#"{"version":1,"phase":"undone","roots":[{"name":"datadir","path":"","scope":"whole"}],"keep":[],"own":[]}
"#,
];
