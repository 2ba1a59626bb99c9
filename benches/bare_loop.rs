//! The upper bound that transfers are measured against: read, TLS, write, sync, and nothing else. No digests, no
//! archive, no metadata, no acknowledgements, no install; files are dealt out in pieces of 1 MiB, and written past
//! the page cache as Highline writes them.
//!
//! ```text
//! cargo bench --bench bare_loop -- FROM TO [LANES]
//! ```
//!
//! `TO` is an empty directory. Prints one line of JSON: bytes, seconds, lanes.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::fs::File;
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use highline::direct::{Direct, Pages};
use highline::tls::{Identity, Policy, Trust, client_config, server_config};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::mpsc;
use tokio_rustls::{TlsAcceptor, TlsConnector};

const PIECE: usize = 1 << 20;

/// A piece of a file: which file, and where.
type Place = (u32, u64, u32);

fn main() {
    let args: Vec<String> = std::env::args().filter(|arg| arg != "--bench").collect();
    let [_, from, to, rest @ ..] = args.as_slice() else {
        eprintln!("bare_loop: nothing to do without FROM and TO");
        return;
    };
    let lanes = rest.first().map_or(4, |lanes| lanes.parse().expect("LANES is a number"));
    let runtime = tokio::runtime::Builder::new_multi_thread().enable_all().build().unwrap();
    runtime.block_on(transfer(Path::new(from), Path::new(to), lanes));
}

async fn transfer(from: &Path, to: &Path, lanes: usize) {
    let mut sources = Vec::new();
    list(from, from, to, &mut sources);
    sources.sort_by_key(|(path, _)| std::cmp::Reverse(path.metadata().unwrap().len()));
    let started = Instant::now();
    let mut pieces = Vec::new();
    let (mut inputs, mut outputs) = (Vec::new(), Vec::new());
    for (number, (source, target)) in (0u32..).zip(&sources) {
        let input = File::open(source).unwrap();
        let size = input.metadata().unwrap().len();
        let output = File::create(target).unwrap();
        output.set_len(size).unwrap();
        pieces.extend((0..size).step_by(PIECE).map(|at| (number, at, (size - at).min(PIECE as u64) as u32)));
        inputs.push(input);
        let direct = Direct::writing(&output).filter(|_| size >= PIECE as u64);
        outputs.push((output, direct));
    }
    let bytes: u64 = pieces.iter().map(|(_, _, len)| u64::from(*len)).sum();
    let (inputs, outputs, pieces) = (Arc::new(inputs), Arc::new(outputs), Arc::new(pieces));
    let next = Arc::new(AtomicUsize::new(0));

    let identity = Identity::ephemeral().unwrap();
    let policy = Policy::default();
    let acceptor = TlsAcceptor::from(server_config(&identity, Trust::Pin, &policy).unwrap());
    let connector = TlsConnector::from(client_config(None, identity.pin(), Trust::Pin, &policy).unwrap());
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let mut work = tokio::task::JoinSet::new();
    for _ in 0..lanes {
        let (connector, pieces, inputs, next) = (connector.clone(), pieces.clone(), inputs.clone(), next.clone());
        work.spawn(async move {
            let stream = TcpStream::connect(address).await.unwrap();
            let mut stream = connector.connect(ServerName::try_from("bare").unwrap(), stream).await.unwrap();
            let (ready, mut filled) = mpsc::channel::<(Place, Pages)>(2);
            let (back, mut spare) = mpsc::channel::<Pages>(8);
            tokio::task::spawn_blocking(move || {
                while let Some(&(file, at, len)) = pieces.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let mut buffer = spare.try_recv().unwrap_or_default();
                    buffer.resize(len as usize, 0);
                    inputs[file as usize].read_exact_at(&mut buffer, at).unwrap();
                    if ready.blocking_send(((file, at, len), buffer)).is_err() {
                        return;
                    }
                }
            });
            while let Some(((file, at, len), buffer)) = filled.recv().await {
                stream.write_u32(file).await.unwrap();
                stream.write_u64(at).await.unwrap();
                stream.write_u32(len).await.unwrap();
                stream.write_all(&buffer).await.unwrap();
                stream.flush().await.unwrap();
                let _ = back.try_send(buffer);
            }
            stream.shutdown().await.unwrap();
        });
        let (stream, _) = listener.accept().await.unwrap();
        let (acceptor, outputs) = (acceptor.clone(), outputs.clone());
        work.spawn(async move {
            let mut stream = acceptor.accept(stream).await.unwrap();
            let (arrived, mut filled) = mpsc::channel::<(Place, Pages)>(2);
            let (back, mut spare) = mpsc::channel::<Pages>(8);
            let writing = tokio::task::spawn_blocking(move || {
                while let Some(((file, at, _), buffer)) = filled.blocking_recv() {
                    let (cached, direct) = &outputs[file as usize];
                    let past = direct.as_ref().filter(|direct| direct.takes(at, buffer.len()));
                    if !past.is_some_and(|direct| direct.write(&buffer, at).unwrap()) {
                        cached.write_all_at(&buffer, at).unwrap();
                    }
                    let _ = back.try_send(buffer);
                }
            });
            while let Ok(file) = stream.read_u32().await {
                let at = stream.read_u64().await.unwrap();
                let len = stream.read_u32().await.unwrap();
                let mut buffer = spare.try_recv().unwrap_or_default();
                buffer.resize(len as usize, 0);
                stream.read_exact(&mut buffer).await.unwrap();
                arrived.send(((file, at, len), buffer)).await.unwrap();
            }
            drop(arrived);
            writing.await.unwrap();
        });
    }
    while let Some(done) = work.join_next().await {
        done.unwrap();
    }
    rustix::fs::syncfs(File::open(to).unwrap()).unwrap();
    let seconds = started.elapsed().as_secs_f64();
    println!("{{\"bytes\":{bytes},\"seconds\":{seconds:.3},\"lanes\":{lanes}}}");
}

/// All regular files beneath `from`, with their places beneath `to`, whose directories are made.
fn list(top: &Path, from: &Path, to: &Path, found: &mut Vec<(PathBuf, PathBuf)>) {
    for item in std::fs::read_dir(from).unwrap() {
        let item = item.unwrap();
        let target = to.join(item.path().strip_prefix(top).unwrap());
        match item.file_type().unwrap() {
            kind if kind.is_dir() => {
                std::fs::create_dir(&target).unwrap();
                list(top, &item.path(), to, found);
            }
            kind if kind.is_file() => found.push((item.path(), target)),
            _ => {}
        }
    }
}
