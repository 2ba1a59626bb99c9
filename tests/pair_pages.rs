//! A donor with damaged tables: what is damaged is found, named and not sent; what is only half written is read again.

use crate::support::ends::{receiving, sending};
use crate::support::pair::Pair;
use crate::support::tree;
use highline::donor::{self, FreezeMode, Keeper, Server};
use highline::error::{Kind, Result};
use highline::joiner::Waiting;
use highline::position::GaleraGtid;
use highline::progress::Recorder;
use highline::stop::Stop;
use highline::tree::Rules;
use std::fs::{self, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

const PAGE: usize = 16 << 10;

/// How many pages each tablespace says that it has.
const LEAST: u32 = 6;

/// A page as `full_crc32` has it.
fn page(number: u32, seed: u64) -> Vec<u8> {
    let mut page = tree::noise(seed, PAGE);
    page[..8].fill(0);
    page[4..8].copy_from_slice(&number.to_be_bytes());
    page[24..26].fill(0);
    if number == 0 {
        page[46..50].copy_from_slice(&LEAST.to_be_bytes());
        page[50..58].copy_from_slice(&[0xff, 0xff, 0xff, 0xff, 0, 0, 0, 0x15]);
        // The descriptors: no page is free.
        page[150..PAGE - 8].fill(0);
    }
    page.copy_within(20..24, PAGE - 8);
    let crc = crc32c::crc32c(&page[..PAGE - 4]);
    page[PAGE - 4..].copy_from_slice(&crc.to_be_bytes());
    page
}

/// A tablespace of this many pages, every seventh never written.
fn table(root: &Path, name: &str, pages: u32) -> PathBuf {
    let pages = (0..pages).map(|n| if n % 7 == 6 { vec![0; PAGE] } else { page(n, u64::from(n) + 1) });
    tree::file(root, name, pages.collect::<Vec<_>>().concat())
}

fn flip(file: &Path, at: u64) {
    let file = OpenOptions::new().read(true).write(true).open(file).unwrap();
    let mut byte = [0];
    file.read_exact_at(&mut byte, at).unwrap();
    file.write_all_at(&[byte[0] ^ 4], at).unwrap();
}

/// A complete tree in which everything of InnoDB's is sound.
fn donor(root: &Path) {
    tree::complete(root);
    for (name, pages) in [("ibdata1", 12), ("shop/small.ibd", 6), ("shop/large.ibd", 200)] {
        table(root, name, pages);
    }
    fs::write(root.join("shop/notes.ibd.txt"), "no tablespace").unwrap();
}

#[test]
fn a_flipped_bit_is_named_and_refused() {
    let pair = Pair::default();
    donor(&pair.donor);
    tree::old(&pair.joiner);
    let before = tree::read(&pair.joiner);
    for (name, at, number) in
        [("shop/large.ibd", 150 * PAGE as u64 + 777, 150), ("shop/small.ibd", 5, 0), ("shop/large.ibd", 60, 0)]
    {
        let place = pair.donor.join(name);
        flip(&place, at);
        let both = pair.transfer(&[], &["--verify-pages"]);
        let from = format!("page {number} of {}, at byte {}, is damaged", place.display(), number * PAGE);
        both.failed(74, &[&from]);
        both.donor.said("Without verify-pages everything is sent as it is");
        tree::assert_same(&before, &tree::read(&pair.joiner));
        flip(&place, at);
    }
    let both = pair.arrives(&[], &["--verify-pages"]);
    // Of 218 pages 29 were never written.
    both.donor.said("InnoDB's pages: 189 were read and are as InnoDB wrote them\n");
    flip(&pair.donor.join("shop/large.ibd"), 90_000);
    pair.arrives(&[], &[]);
}

#[test]
fn a_page_in_another_place_and_one_that_cannot_be_checked() {
    let pair = Pair::default();
    donor(&pair.donor);
    let place = pair.donor.join("shop/large.ibd");
    let file = OpenOptions::new().write(true).open(&place).unwrap();
    file.write_all_at(&page(101, 102), 100 * PAGE as u64).unwrap();
    pair.transfer(&[], &["--verify-pages"]).failed(74, &["page 100 of ", "it is page 101 of a tablespace"]);
    file.write_all_at(&page(100, 101), 100 * PAGE as u64).unwrap();
    // A server that was killed may leave a table whose first page is only in its redo log.
    let fresh = table(&pair.donor, "shop/fresh.ibd", 6);
    OpenOptions::new().write(true).open(&fresh).unwrap().write_all_at(&[0; PAGE], 0).unwrap();
    let both = pair.arrives(&[], &["--verify-pages"]);
    both.donor.said("1 could NOT be checked, because no checksum covers their bytes");
    both.donor.said(&format!("the first is in {}", fresh.display()));
}

/// InnoDB never reads a free page: after a crash it may stay half written forever.
#[test]
fn a_damaged_page_that_is_free_stops_nothing() {
    let pair = Pair::default();
    donor(&pair.donor);
    let place = pair.donor.join("shop/large.ibd");
    let file = OpenOptions::new().write(true).open(&place).unwrap();
    let with_descriptors = |free: u64, limit: u32| {
        let mut first = page(0, 1);
        first[50..54].copy_from_slice(&limit.to_be_bytes());
        // The descriptors of 64 pages each: 24 bytes, then two bits a page.
        first[150..150 + 4 * 40].fill(0);
        let (extent, within) = ((free / 64) as usize, (free % 64) as usize);
        first[150 + extent * 40 + 24 + within / 4] = 1 << (within % 4 * 2);
        let crc = crc32c::crc32c(&first[..PAGE - 4]);
        first[PAGE - 4..].copy_from_slice(&crc.to_be_bytes());
        file.write_all_at(&first, 0).unwrap();
    };
    flip(&place, 150 * PAGE as u64 + 99);
    with_descriptors(149, 192);
    pair.transfer(&[], &["--verify-pages"]).failed(74, &["page 150 of "]);
    for (free, limit) in [(150, 192), (0, 128)] {
        with_descriptors(free, limit);
        let both = pair.arrives(&[], &["--verify-pages"]);
        both.donor.said("; 1 is damaged but free, so it holds nothing");
    }
}

#[test]
fn a_directory_is_checked_by_itself() {
    let pair = Pair::default();
    donor(&pair.donor);
    let check = || pair.run(&["verify", "--pages", "--datadir", pair.donor.to_str().unwrap()]);
    let ended = check();
    ended.succeeded();
    assert_eq!(ended.stdout, "checked: 3 files, 189 pages are as InnoDB wrote them, 0 cannot be checked\n");
    let (small, large) = (pair.donor.join("shop/small.ibd"), pair.donor.join("shop/large.ibd"));
    for (place, at) in [(&small, 99), (&large, 3 * PAGE as u64), (&large, 199 * PAGE as u64)] {
        flip(place, at);
    }
    let ended = check();
    ended.failed(74, &["3 pages are damaged; 3 files were checked"]);
    let expected = format!(
        "{}: page 3, at byte 49152: its checksum is wrong; 1 more of its pages is damaged\n{}: page 0, at byte 0: \
         its checksum is wrong\n",
        large.display(),
        small.display()
    );
    assert_eq!(ended.stdout, expected);
}

/// What is outside the data directory is checked too, and what has lost its end is not sound.
#[test]
fn a_file_outside_and_one_that_lost_its_end() {
    let pair = Pair::default();
    donor(&pair.donor);
    let far = pair.home().join("far");
    let outside = table(&far, "shop/outside.ibd", 8);
    fs::write(pair.donor.join("shop/outside.isl"), outside.to_str().unwrap()).unwrap();
    let check = || pair.run(&["verify", "--pages", "--datadir", pair.donor.to_str().unwrap()]);
    let ended = check();
    ended.succeeded();
    assert_eq!(ended.stdout, "checked: 4 files, 196 pages are as InnoDB wrote them, 0 cannot be checked\n");
    flip(&outside, 3 * PAGE as u64);
    let ended = check();
    ended.failed(74, &["1 page is damaged; 4 files were checked"]);
    assert!(ended.stdout.starts_with(&format!("{}: page 3, at byte 49152", outside.display())), "{}", ended.stdout);
    fs::remove_file(pair.donor.join("shop/outside.isl")).unwrap();
    let short = pair.donor.join("shop/small.ibd");
    OpenOptions::new().write(true).open(&short).unwrap().set_len(5 * PAGE as u64).unwrap();
    let words = "page 0, at byte 0: it says that its file has 6 pages, and the file is shorter";
    let ended = check();
    ended.failed(74, &["1 page is damaged"]);
    assert_eq!(ended.stdout, format!("{}: {words}\n", short.display()));
    fs::remove_dir_all(&far).unwrap();
    pair.transfer(&[], &["--verify-pages"]).failed(74, &["it says that its file has 6 pages"]);
    fs::write(&short, "").unwrap();
    let ended = check();
    ended.succeeded();
    assert!(ended.stdout.contains(", 1 cannot be checked"), "{}", ended.stdout);
}

/// A server with a half-written page until it is frozen, or forever.
#[derive(Debug)]
struct Tearing {
    place: PathBuf,
    mends: bool,
}

const TORN: u64 = 130;

impl Server for Tearing {
    fn freeze(&self) -> Result<Option<GaleraGtid>> {
        if self.mends {
            let file = OpenOptions::new().write(true).open(&self.place).unwrap();
            file.write_all_at(&page(TORN as u32, TORN + 1), TORN * PAGE as u64).unwrap();
        }
        Ok(None)
    }

    fn release(&self) -> Result<()> {
        Ok(())
    }

    fn rules(&self) -> Result<Rules> {
        Ok(Rules::default())
    }

    fn keeper(&self) -> Keeper {
        Keeper::Caller
    }

    fn serves(&self) -> bool {
        true
    }
}

#[test]
fn a_page_that_is_half_written_while_the_server_works_is_read_again_under_the_lock() {
    for (mends, freeze) in [(true, FreezeMode::Rounds), (true, FreezeMode::Clone), (false, FreezeMode::Rounds)] {
        let pair = Pair::default();
        donor(&pair.donor);
        let place = pair.donor.join("shop/large.ibd");
        flip(&place, TORN * PAGE as u64 + 8000);
        // Long ago, so that an equal stamp would prove the file unchanged.
        let then = std::time::SystemTime::now() - std::time::Duration::from_secs(3600);
        OpenOptions::new().write(true).open(&place).unwrap().set_modified(then).unwrap();
        let runtime = tokio::runtime::Runtime::new().unwrap();
        let done = runtime.block_on(async {
            let (reporter, stop) = (Arc::new(Recorder::default()), Stop::never());
            let waiting = Waiting::bind(receiving(&pair.joiner), &*reporter).unwrap();
            let ticket = waiting.ticket().clone();
            let options = donor::SendOptions { freeze, verify_pages: true, ..sending(&pair.donor, ticket) };
            let server = Arc::new(Tearing { place: place.clone(), mends });
            let sends = donor::send(options, server, Arc::<Recorder>::clone(&reporter), &stop);
            let (sent, took) = tokio::join!(sends, waiting.receive(reporter, &stop));
            assert_eq!(sent.is_ok(), took.is_ok());
            sent
        });
        match done {
            Ok(report) => {
                assert!(mends && report.rounds.len() > 1, "{report}");
                tree::assert_equal(&pair.donor, &pair.joiner);
            }
            Err(error) => {
                assert!(!mends && error.kind() == Kind::Integrity, "{error:?}");
                assert!(error.sentence().contains("page 130 of "), "{error:?}");
            }
        }
    }
}
