//! The hot pieces one by one, and both ends together over loopback: `cargo bench --bench pieces`.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::path::Path;
use std::sync::Arc;

use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use highline::archive::{Batch, Codec, Extents, MemberError, unpack};
use highline::direct::Pages;
use highline::donor::queue::Queue;
use highline::donor::{self, Keeper, Unattended};
use highline::joiner::Waiting;
use highline::manifest::{CHUNK, Checksum};
use highline::progress::Quiet;
use highline::stop::Stop;
use highline::tree::{Content, Entry, Metadata, Mtime, RelPath, Roots, Rules, Tolerance, scan};

#[path = "../tests/support/ends.rs"]
mod ends;
use ends::{receiving, sending};

fn rows(bytes: usize) -> Vec<u8> {
    let row = |n: usize| format!("{:08}|customer-{:05}|2026-11-24|pending  |", n * 7919 % 100_000_000, n * 31 % 65536);
    (0..).flat_map(|n| row(n).into_bytes()).take(bytes).collect()
}

fn entry(size: u64) -> Entry {
    Entry {
        path: RelPath::parse(b"datadir/shop/orders.ibd").unwrap(),
        meta: Metadata { mode: 0o660, uid: 1, gid: 1, mtime: Mtime { secs: 1, nanos: 1 }, xattrs: Default::default() },
        content: Content::File { size },
    }
}

fn packed(data: &[u8]) -> Batch {
    let mut batch = Batch::default();
    let fill = |to: &mut [u8]| {
        to.copy_from_slice(data);
        Ok::<_, MemberError>(())
    };
    let extents = Extents::whole(data.len() as u32);
    batch.push_chunk(&entry(data.len() as u64), 0, &extents, Checksum::Blake3, fill).unwrap();
    batch
}

fn pieces(c: &mut Criterion) {
    let chunk = rows(CHUNK as usize);
    let mut group = c.benchmark_group("chunk");
    group.throughput(Throughput::Bytes(CHUNK));
    for checksum in [Checksum::Sha256, Checksum::Blake3] {
        group.bench_function(format!("digest {checksum}"), |b| b.iter(|| checksum.digest(black_box(&chunk))));
    }
    group.bench_function("pack", |b| b.iter(|| packed(black_box(&chunk))));
    group.bench_function("pack 256 small files", |b| {
        let (entry, extents) = (entry(4096), Extents::whole(4096));
        let fill = |to: &mut [u8]| {
            to.copy_from_slice(&chunk[..4096]);
            Ok::<_, MemberError>(())
        };
        let mut buffer = Pages::default();
        b.iter(|| {
            let mut batch = Batch::new(std::mem::take(&mut buffer));
            for _ in 0..256 {
                batch.push_chunk(&entry, 0, &extents, Checksum::Blake3, fill).unwrap();
            }
            buffer = batch.into_buffer();
        });
    });
    let batch = packed(&chunk);
    group.bench_function("unpack", |b| b.iter(|| unpack(black_box(batch.bytes()), 1).unwrap().len()));
    for codec in [Codec::Lz4, Codec::Zstd(1), Codec::Zstd(3)] {
        let (mut small, mut back) = (Pages::default(), Pages::default());
        group.bench_function(format!("compress {codec}"), |b| b.iter(|| codec.compress(&chunk, &mut small).unwrap()));
        codec.compress(&chunk, &mut small).unwrap();
        group.bench_function(format!("decompress {codec}"), |b| {
            b.iter(|| Codec::decompress(codec.id(), &small, chunk.len(), &mut back).unwrap())
        });
    }
    group.finish();
}

/// 10,000 small files and four large ones, handed out and acknowledged.
fn queue(c: &mut Criterion) {
    let dir = tempfile::tempdir().unwrap();
    for number in 0..10_000 {
        std::fs::write(dir.path().join(format!("t{number}.frm")), "a table").unwrap();
    }
    for number in 0..4 {
        std::fs::File::create(dir.path().join(format!("big{number}.ibd"))).unwrap().set_len(1 << 30).unwrap();
    }
    let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
    let found = scan(&mut roots, &Rules::default(), Tolerance::None).unwrap();
    c.bench_function("queue of 10,004 files", |b| {
        b.iter(|| {
            let queue = Queue::new((0..).zip(black_box(&found)), &Default::default());
            while queue.next().is_some() {
                queue.done();
            }
            assert!(queue.is_finished());
        });
    });
}

async fn transfer(from: &Path, to: &Path) {
    let waiting = Waiting::bind(receiving(to), &Quiet).unwrap();
    let order = sending(from, waiting.ticket().clone());
    let stop = Stop::never();
    let server = Unattended { keeper: Keeper::Nobody, rules: Rules::default() };
    let sent = donor::send(order, Arc::new(server), Arc::new(Quiet), &stop);
    tokio::try_join!(sent, waiting.receive(Arc::new(Quiet), &stop)).unwrap();
}

fn pair(c: &mut Criterion) {
    const SIZE: usize = 256 << 20;
    let source = tempfile::tempdir().unwrap();
    std::fs::write(source.path().join("large.ibd"), rows(SIZE)).unwrap();
    std::fs::create_dir(source.path().join("mysql")).unwrap();
    for part in ["ibdata1", "ib_logfile0", "aria_log_control"] {
        std::fs::write(source.path().join(part), "x").unwrap();
    }
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let mut group = c.benchmark_group("pair");
    group.sample_size(10).throughput(Throughput::Bytes(SIZE as u64));
    group.bench_function("loopback 256 MiB", |b| {
        b.iter_batched(
            || tempfile::tempdir().unwrap(),
            |target| {
                runtime.block_on(transfer(source.path(), target.path()));
                target
            },
            BatchSize::PerIteration,
        )
    });
    group.finish();
}

criterion_group!(benches, pieces, queue, pair);
criterion_main!(benches);
