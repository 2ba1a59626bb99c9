//! Drives the fuzz targets' bodies by their seeds and by changed seeds, on a stable compiler.
//!
//! `fuzz-smoke SECONDS [TARGET…]` gives each target so many seconds; `fuzz-smoke --write-seeds` makes the
//! seeds anew. It knows nothing of coverage: for long runs there is `cargo fuzz` on the same bodies.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a tool for developers ends by panicking")]

mod mutation;
mod seeds;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use highline::fuzzing::{TARGETS, Target};
use mutation::Mutator;

/// No parser may need longer for one input.
const SLOW: Duration = Duration::from_secs(1);
/// How many accepted inputs are kept to be changed further.
const POOL: usize = 512;

fn main() {
    let mut args = std::env::args().skip(1);
    let first = args.next().expect("SECONDS or --write-seeds");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fuzz");
    if first == "--write-seeds" {
        return seeds::write(&folder.join("seeds"));
    }
    let time = Duration::from_secs_f64(first.parse().expect("SECONDS is a number"));
    let chosen: Vec<String> = args.collect();
    let targets = TARGETS.iter().filter(|(name, _)| chosen.is_empty() || chosen.iter().any(|one| one == name));
    let failed = targets.filter(|target| !drive(target, &folder, time)).count();
    std::process::exit(if failed == 0 { 0 } else { 1 });
}

/// Whether the body stood everything.
fn drive(&(name, body): &Target, folder: &Path, time: Duration) -> bool {
    let mut pool = read(&folder.join("seeds").join(name));
    // A digest of the time would do as well, but a run that failed should fail again.
    let mut mutator = Mutator::new(name, &pool);
    let (started, mut runs, mut accepted) = (Instant::now(), 0u64, 0u64);
    let seeds = pool.len();
    let valid = pool.iter().filter(|seed| body(seed)).count();
    assert!(valid > 0, "{name}: no seed is accepted any more; make them anew with --write-seeds");
    while started.elapsed() < time {
        for _ in 0..64 {
            let input = mutator.change(&pool);
            let begun = Instant::now();
            let outcome = catch_unwind(AssertUnwindSafe(|| body(&input)));
            runs += 1;
            match outcome {
                Ok(taken) if begun.elapsed() < SLOW => {
                    accepted += u64::from(taken);
                    if taken {
                        keep(&mut pool, seeds, input, runs);
                    }
                }
                _ => {
                    let file = folder.join("artifacts").join(format!("{name}-{runs}"));
                    std::fs::create_dir_all(folder.join("artifacts")).unwrap();
                    std::fs::write(&file, &input).unwrap();
                    println!("{name}: failed or took {:?}; the input is in {}", begun.elapsed(), file.display());
                    return false;
                }
            }
        }
    }
    println!("{name:14} {seeds:3} seeds, {valid:3} of them valid, {runs:9} runs, {accepted:8} accepted");
    true
}

fn keep(pool: &mut Vec<Vec<u8>>, seeds: usize, input: Vec<u8>, runs: u64) {
    if pool.len() < POOL {
        pool.push(input);
    } else if let Some(place) = pool[seeds..].get_mut((runs % POOL as u64) as usize) {
        *place = input;
    }
}

fn read(folder: &Path) -> Vec<Vec<u8>> {
    let mut files: Vec<PathBuf> =
        std::fs::read_dir(folder).expect("a folder of seeds").map(|file| file.unwrap().path()).collect();
    files.sort();
    files.iter().map(|file| std::fs::read(file).unwrap()).collect()
}
