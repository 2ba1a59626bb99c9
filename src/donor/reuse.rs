//! What the joiner already has: whether it is worth comparing with, whether it is worth waiting for, and what the
//! joiner reports about each file.
//!
//! The decisions are pure: the sample, and what waiting has brought so far, are arguments.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::answer::{SLOW, answer};
use super::plan::Planned;
use super::transfer::{Round, Transfer};
use crate::archive::{Located, PageHints};
use crate::direct::Pages;
use crate::error::{Error, Kind, Result};
use crate::link::Control;
use crate::manifest::{CHUNK, Digest, FileDigests, chunks};
use crate::progress::{bytes, counted};
use crate::threads::blocking;
use crate::tree::{Entry, Found, RelPath, Roots, Source, locate};
use crate::wire::{BasisParts, Message, SampledChunk};

/// The rest is compared if at least one sampled page in this many is equal.
const SHARE: u64 = 20;
/// One chunk is sampled for each of so many bytes that both sides have, within these bounds.
const SAMPLED: u64 = 64 << 20;
const SAMPLES: std::ops::RangeInclusive<u64> = 16..=64;
/// Bytes to compare before a poor match ends it: the sample may have been lucky.
const PROBE: u64 = 256 << 20;
/// How long lanes wait before the joiner's pace is judged.
const PATIENCE: Duration = Duration::from_secs(3);
/// How many bytes longer than the donor's the old files may be in all, until they are truncated: no room was reserved
/// for that.
const LONGER: u64 = 64 << 20;
/// Files the joiner may report on at a time.
const TELLING: usize = 8;

/// A file that both sides have.
#[derive(Clone, Debug)]
struct Common {
    /// Its number in the joiner's list.
    file: u32,
    found: Found,
    /// The joiner's size.
    size: u64,
}

impl Common {
    /// Chunks that both have.
    fn chunks(&self) -> u64 {
        chunks(self.size.min(self.found.size()))
    }
}

/// The joiner's list, if `accept` said that one follows.
pub(super) async fn basis(control: &mut Control, idle: Duration) -> Result<Vec<(RelPath, u64)>> {
    let mut parts = BasisParts::default();
    loop {
        let pick = |m| if let Message::Basis { files, last } = m { Ok((files, last)) } else { Err(m) };
        let (files, last) = answer(control, idle, SLOW, pick).await?;
        parts.add(files)?;
        if last {
            return Ok(parts.complete());
        }
    }
}

/// The files in the joiner's list that this tree has too. `found` is ordered by path.
fn common(basis: &[(RelPath, u64)], found: &[Found]) -> Vec<Common> {
    let mut longer = 0u64;
    let mut seen = HashSet::new();
    let of = |(file, (path, size)): (u32, &(RelPath, u64))| {
        let place = found.binary_search_by(|found| found.entry.path.cmp(path)).ok()?;
        let found = found.get(place)?.clone();
        if found.size() == 0 || !seen.insert(place) {
            return None;
        }
        let more = longer.saturating_add(size.saturating_sub(found.size()));
        (more <= LONGER).then(|| {
            longer = more;
            Common { file, found, size: *size }
        })
    };
    (0u32..).zip(basis).filter_map(of).collect()
}

/// Chunks at equal distances through all that both sides have.
fn samples(common: &[Common]) -> Vec<(usize, u64)> {
    let all: u64 = common.iter().map(Common::chunks).sum();
    let count = (all / (SAMPLED / CHUNK)).clamp(*SAMPLES.start(), *SAMPLES.end()).min(all);
    let mut files = common.iter().map(Common::chunks).enumerate().peekable();
    let mut before = 0;
    let nth = |n: u64| {
        let at = (2 * n + 1) * all / (2 * count);
        while files.next_if(|(_, chunks)| before + chunks <= at).map(|(_, chunks)| before += chunks).is_some() {}
        files.peek().map(|(file, _)| (*file, at - before))
    };
    (0..count).map_while(nth).collect()
}

/// Whether, with `equal` of `sampled` pages, comparing everything is worth it.
fn is_worth_it(equal: u64, sampled: u64) -> bool {
    sampled > 0 && equal >= sampled.div_ceil(SHARE)
}

/// The hints of chunks of this tree; `None` for one that cannot be read.
fn own_hints(common: &[Common], samples: &[(usize, u64)], roots: &Roots, seed: u64) -> Vec<Option<PageHints>> {
    let (mut span, mut data) = (Pages::default(), Pages::default());
    let hints = |(file, chunk): &(usize, u64)| {
        let found = &common.get(*file)?.found;
        let place = locate(roots, &found.entry.path)?;
        let source = Source::open(&place, None, found.allocated < found.size()).ok()?;
        let located = Located::load(&source, &place, (*chunk, found.size()), &mut data, &mut span).ok()?;
        Some(located.hints(&data, seed))
    };
    samples.iter().map(hints).collect()
}

/// Finds out what the joiner's list is worth, and tells the joiner which of its files are wanted.
pub(super) async fn arrange(
    control: &mut Control,
    transfer: &Transfer,
    roots: &Roots,
    basis: Vec<(RelPath, u64)>,
    found: &[Found],
) -> Result<Option<Awaited>> {
    let common = common(&basis, found);
    let total: u64 = common.iter().map(|common| common.size.min(common.found.size())).sum();
    if common.is_empty() {
        control.send(Message::NoReuse).await?;
        transfer.reporter.note("the joiner has none of these files: everything is sent");
        return Ok(None);
    }
    let picked = samples(&common);
    let asked = picked.iter().map(|(file, chunk)| SampledChunk { file: common[*file].file, chunk: *chunk }).collect();
    control.send(Message::Sample { seed: transfer.seed, chunks: asked }).await?;
    let (roots, seed) = (roots.clone(), transfer.seed);
    let ours = blocking(move || Ok((own_hints(&common, &picked, &roots, seed), common)));
    let pick = |m| if let Message::Sampled { hints } = m { Ok(hints) } else { Err(m) };
    let theirs = answer(control, transfer.dialer.deadlines.idle, SLOW, pick);
    let ((ours, common), theirs) = tokio::try_join!(ours, theirs)?;
    let pairs = ours.iter().zip(&theirs).filter_map(|(ours, theirs)| ours.as_ref().map(|ours| (ours, theirs)));
    let (equal, sampled) = pairs.fold((0, 0), |(equal, sampled), (ours, theirs)| {
        let (same, all) = ours.shared(&PageHints::from_bytes(theirs.as_bytes()), seed);
        (equal + same, sampled + all)
    });
    let what = format!(
        "the joiner already has {} of {}; of {sampled} pages sampled, {}",
        counted(common.len() as u64, "file", "files"),
        bytes(total),
        counted(equal, "is the same here", "are the same here"),
    );
    if !is_worth_it(equal, sampled) {
        control.send(Message::NoReuse).await?;
        transfer.reporter.note(&format!("{what}: everything is sent"));
        return Ok(None);
    }
    transfer.reporter.note(&format!("{what}: its files are compared, and what differs is sent"));
    let mut wanted = vec![0u8; basis.len().div_ceil(8)];
    for Common { file, .. } in &common {
        if let Some(byte) = wanted.get_mut(*file as usize / 8) {
            *byte |= 1 << (file % 8);
        }
    }
    control.send(Message::Reuse { wanted: wanted.into() }).await?;
    Ok(Some(Awaited::new(common)))
}

/// Files for which the joiner is going to report what it has.
#[derive(Debug)]
pub(super) struct Awaited {
    /// By path until the round is known, then by their numbers in the joiner's list.
    common: HashMap<RelPath, (u32, u64)>,
    files: HashMap<u32, File>,
    telling: BTreeMap<u32, Told>,
    /// Bytes of files still awaited, and of files reported.
    left: u64,
    told: u64,
    over: bool,
    given_up: bool,
    course: Course,
}

/// A file that is awaited.
#[derive(Clone, Copy, Debug)]
struct File {
    /// Its number in the round.
    number: u32,
    /// The joiner's size, and the donor's.
    theirs: u64,
    ours: u64,
}

/// What was reported about a file so far.
#[derive(Debug)]
struct Told {
    next: u64,
    digests: FileDigests,
    hints: Vec<(u64, PageHints)>,
}

/// How fast things went.
#[derive(Debug)]
struct Course {
    began: Instant,
    /// When the joiner last said something.
    heard: Instant,
    /// Since when lanes have had nothing else to do.
    waiting: Option<Instant>,
    /// When the link was last looked at, and what had been acknowledged then.
    looked: (Instant, u64),
    /// The best rate so far, in acknowledged bytes on the wire per second.
    link: f64,
}

/// What waiting for the joiner has brought so far.
#[derive(Clone, Copy, Debug)]
struct Outlook {
    /// Bytes compared, and bytes found equal.
    compared: u64,
    equal: u64,
    /// Bytes still awaited, and bytes the joiner reports on per second.
    left: u64,
    pace: f64,
    /// Bytes per second on the link, at best.
    link: f64,
    /// How long the lanes have had nothing else to do.
    waited: Duration,
    /// How long the joiner has said nothing, and how long it may.
    silent: Duration,
    patience: Duration,
}

impl Outlook {
    /// Why waiting is no longer worth it.
    fn hopeless(self) -> Option<&'static str> {
        if self.compared >= PROBE && self.equal < self.compared / SHARE {
            return Some("too little of what the joiner has is the same here");
        }
        if self.silent > self.patience {
            return Some("the joiner makes no progress reading what it has");
        }
        let (waiting, sending) = (self.left as f64 / self.pace, self.left as f64 / self.link);
        (self.waited >= PATIENCE && waiting > sending * 1.25)
            .then_some("sending takes less time than waiting for the joiner to read what it has")
    }
}

impl Course {
    fn new(now: Instant) -> Course {
        Course { began: now, heard: now, waiting: None, looked: (now, 0), link: 0.0 }
    }
}

impl Awaited {
    fn new(common: Vec<Common>) -> Awaited {
        let common =
            common.into_iter().map(|Common { file, found, size }| (Entry::from(found).path, (file, size))).collect();
        Awaited {
            common,
            files: HashMap::new(),
            telling: BTreeMap::new(),
            left: 0,
            told: 0,
            over: false,
            given_up: false,
            course: Course::new(Instant::now()),
        }
    }

    /// The numbers of the entries of a round that wait for the joiner's report.
    pub(super) fn of_round(&mut self, entries: &[Planned]) -> HashSet<u32> {
        for (number, planned) in (0u32..).zip(entries) {
            let ours = planned.found.size();
            if let Some((file, theirs)) = self.common.remove(&planned.found.entry.path).filter(|_| ours > 0) {
                self.files.insert(file, File { number, theirs, ours });
                self.left += ours;
            }
        }
        self.common.clear();
        self.course = Course::new(Instant::now());
        self.files.values().map(|file| file.number).collect()
    }

    /// Takes one message from the joiner.
    pub(super) fn heard(&mut self, message: Message, control: &Control, round: &Round) -> Result<()> {
        self.course.heard = Instant::now();
        match message {
            Message::Seeded { file, from, digests, hints } if !self.over => {
                let told = self.seeded(file, from, digests.as_bytes(), hints.as_bytes());
                let told = told.ok_or_else(|| {
                    let what = format!("{} told of a file's chunks out of turn", control.peer());
                    Error::new(Kind::Protocol, what)
                })?;
                if let Some((number, Told { digests, hints, .. })) = told {
                    round.catalog.seed(number, digests, hints);
                    round.queue.release(number);
                }
            }
            Message::NoSeed { file } if !self.over => {
                self.telling.remove(&file);
                if let Some(File { number, ours, .. }) = self.files.remove(&file) {
                    self.left -= ours;
                    round.queue.release(number);
                }
            }
            Message::SeedsOver if !self.over => {
                self.over = true;
                self.release_all(round);
            }
            other => return Err(control.unexpected(&other)),
        }
        Ok(())
    }

    /// Takes part of the report on a file. `None`: it is not valid; `Some(None)`: more is to come, or nobody waits for
    /// it.
    fn seeded(&mut self, file: u32, from: u64, digests: &[u8], hints: &[u8]) -> Option<Option<(u32, Told)>> {
        let Some(&File { number, theirs, ours }) = self.files.get(&file) else {
            return self.given_up.then_some(None);
        };
        if from == 0 && self.telling.len() < TELLING {
            let told = Told { next: 0, digests: FileDigests::new(theirs), hints: Vec::new() };
            self.telling.insert(file, told);
        }
        let told = self.telling.get_mut(&file).filter(|told| told.next == from)?;
        let (digests, []) = digests.as_chunks::<32>() else { return None };
        let mut hints = hints;
        for digest in digests {
            let chunk = told.next;
            let length = theirs.checked_sub(chunk * CHUNK).filter(|_| chunk < chunks(theirs))?;
            let (these, rest) = hints.split_at_checked(PageHints::bytes_of(length))?;
            hints = rest;
            // The rest is useless.
            if chunk < chunks(ours) {
                told.digests.take(chunk, Digest::from_bytes(*digest));
                told.hints.push((chunk, PageHints::from_bytes(these)));
            }
            told.next += 1;
        }
        if digests.is_empty() || !hints.is_empty() {
            return None;
        }
        if told.next < chunks(theirs) {
            return Some(None);
        }
        let mut told = self.telling.remove(&file)?;
        self.files.remove(&file);
        self.left -= ours;
        self.told += ours;
        told.digests = told.digests.renewed(ours);
        Some(Some((number, told)))
    }

    fn release_all(&mut self, round: &Round) {
        self.telling.clear();
        self.files.drain().for_each(|(_, file)| round.queue.release(file.number));
        self.left = 0;
    }

    pub(super) fn is_over(&self) -> bool {
        self.over
    }

    /// Stops waiting if that is no longer worth it; returns why, once.
    pub(super) fn give_up(&mut self, transfer: &Transfer, round: &Round, now: Instant) -> Option<&'static str> {
        if self.over || self.given_up {
            return None;
        }
        let course = &mut self.course;
        course.waiting = if round.queue.only_awaits() { course.waiting.or(Some(now)) } else { None };
        let acknowledged = transfer.acknowledged.load(Ordering::Relaxed);
        let since = now.saturating_duration_since(course.looked.0);
        if since >= Duration::from_secs(2) {
            let rate = acknowledged.saturating_sub(course.looked.1) as f64 / since.as_secs_f64();
            (course.link, course.looked) = (course.link.max(rate), (now, acknowledged));
        }
        let outlook = Outlook {
            compared: transfer.reused.compared.load(Ordering::Relaxed),
            equal: transfer.reused.bytes(),
            left: self.left,
            pace: self.told as f64 / now.saturating_duration_since(course.began).as_secs_f64().max(1e-3),
            link: course.link,
            silent: now.saturating_duration_since(course.heard),
            patience: transfer.dialer.deadlines.idle / 2,
            waited: course.waiting.map_or(Duration::ZERO, |since| now.saturating_duration_since(since)),
        };
        let why = outlook.hopeless()?;
        // What was awaited is sent once the joiner has heard: it may have to make room first.
        self.given_up = true;
        Some(why)
    }

    /// Stops waiting: what the joiner still reports is ignored.
    pub(super) fn abandon(&mut self, round: &Round) {
        self.given_up = true;
        self.release_all(round);
    }
}

/// Does a round's `work` while listening to the joiner and telling it how far the comparison is.
pub(super) async fn attended<T>(
    control: &mut Control,
    transfer: &Arc<Transfer>,
    round: &Round,
    awaited: &mut Option<Awaited>,
    work: impl Future<Output = Result<T>>,
) -> Result<T> {
    const EVERY: Duration = Duration::from_millis(500);
    let mut work = std::pin::pin!(work);
    let mut told = 0;
    let done = loop {
        tokio::select! {
            biased;
            done = &mut work => break done?,
            message = control.next() => {
                let message = message?;
                match awaited {
                    Some(awaited) => awaited.heard(message, control, round)?,
                    None => return Err(control.unexpected(&message)),
                }
                transfer.clock.acknowledged(Instant::now());
            }
            () = tokio::time::sleep(EVERY) => {}
        }
        // Not in a separate arm: the joiner may have so much to say that it would never be reached.
        let compared = round.compared.load(Ordering::Relaxed);
        if compared > told {
            told = compared;
            control.send(Message::Compared { bytes: compared }).await?;
        }
        if let Some(awaited) = awaited
            && let Some(why) = awaited.give_up(transfer, round, Instant::now())
        {
            transfer.reporter.note(&format!("{why}: the rest is sent"));
            control.send(Message::NoReuse).await?;
        }
    };
    if let Some(mut awaited) = awaited.take() {
        if !awaited.is_over() && !awaited.given_up {
            awaited.abandon(round);
            control.send(Message::NoReuse).await?;
        }
        // Whatever the joiner was reporting, nothing of it may come later.
        while !awaited.is_over() {
            let message = answer(control, transfer.dialer.deadlines.idle, SLOW, Ok).await?;
            awaited.heard(message, control, round)?;
        }
    }
    Ok(done)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Rules, Tolerance, scan};
    use std::collections::BTreeMap as Map;

    /// Files of a donor and what the joiner has under the same names.
    fn both(sizes: &[(&str, u64, u64)]) -> (Vec<Found>, Vec<(RelPath, u64)>) {
        let dir = tempfile::tempdir().unwrap();
        for (name, ours, _) in sizes {
            std::fs::File::create(dir.path().join(name)).unwrap().set_len(*ours).unwrap();
        }
        let found =
            scan(&mut Roots::new(dir.path(), &Map::new()).unwrap(), &Rules::default(), Tolerance::None).unwrap();
        let theirs = |(name, _, theirs): &(&str, u64, u64)| {
            let path = found.iter().find(|found| found.entry.path.beneath() == std::path::Path::new(name)).unwrap();
            (path.entry.path.clone(), *theirs)
        };
        let basis = sizes.iter().map(theirs).collect();
        (found, basis)
    }

    #[test]
    fn what_both_have_is_compared_but_for_what_would_take_more_room() {
        let (found, mut basis) = both(&[
            ("a", 3 * CHUNK, 3 * CHUNK),
            ("grown", 9 * CHUNK, CHUNK),
            ("cut", CHUNK, 41 * CHUNK),
            ("cut too", CHUNK, 41 * CHUNK),
            ("emptied", 0, CHUNK),
        ]);
        basis.push(basis[0].clone());
        basis.push((RelPath::parse(b"datadir/other").unwrap(), CHUNK));
        basis.push((RelPath::parse(b"elsewhere/a").unwrap(), CHUNK));
        let files: Vec<u32> = common(&basis, &found).iter().map(|common| common.file).collect();
        assert_eq!(files, [0, 1, 2]);
    }

    #[test]
    fn samples_are_spread_by_bytes() {
        let of = |sizes: &[(&str, u64, u64)]| {
            let (found, basis) = both(sizes);
            samples(&common(&basis, &found))
        };
        assert_eq!(of(&[]), []);
        assert_eq!(of(&[("a", 70_000, 70_000), ("b", 2 * CHUNK, 9 * CHUNK)]), [(0, 0), (1, 0), (1, 1)]);
        let many = of(&[("a", 1000 * CHUNK, 1000 * CHUNK), ("b", 3000 * CHUNK, 3000 * CHUNK), ("c", 1, 70_000)]);
        assert_eq!((many.len(), many.iter().filter(|(file, _)| *file == 0).count()), (62, 15));
        assert!(many.iter().all(|(file, chunk)| *chunk < [1000, 3000, 1][*file]), "{many:?}");
        assert_eq!(of(&[("a", 1 << 43, 1 << 43)]).len(), 64);
    }

    #[test]
    fn one_page_in_twenty_is_worth_it() {
        for (equal, sampled, worth) in [(0, 0, false), (0, 9, false), (1, 20, true), (1, 21, false), (400, 4000, true)]
        {
            assert_eq!(is_worth_it(equal, sampled), worth, "{equal} {sampled}");
        }
    }

    #[test]
    fn waiting_ends_when_sending_is_faster_or_the_sample_was_lucky() {
        let seconds = Duration::from_secs;
        let outlook = Outlook {
            compared: 0,
            equal: 0,
            left: 1 << 30,
            pace: 2e8,
            link: 1e8,
            waited: seconds(60),
            silent: seconds(1),
            patience: seconds(60),
        };
        assert_eq!(outlook.hopeless(), None);
        assert_eq!(Outlook { link: 0.0, pace: 0.0, ..outlook }.hopeless(), None, "nobody knows the link");
        assert!(Outlook { link: 3e8, ..outlook }.hopeless().is_some());
        assert!(Outlook { pace: 0.0, ..outlook }.hopeless().is_some());
        assert_eq!(Outlook { link: 3e8, waited: seconds(1), ..outlook }.hopeless(), None, "there is other work");
        let compared = Outlook { compared: PROBE, ..outlook };
        assert!(Outlook { equal: PROBE / 30, ..compared }.hopeless().is_some());
        assert_eq!(Outlook { equal: PROBE / 10, ..compared }.hopeless(), None);
        assert!(Outlook { silent: seconds(61), ..outlook }.hopeless().is_some());
    }

    fn awaited(ours: u64, theirs: u64) -> Awaited {
        let mut awaited = Awaited::new(Vec::new());
        awaited.files.insert(3, File { number: 7, theirs, ours });
        awaited.left = ours;
        awaited
    }

    /// What is told of so many chunks of a file of `size` bytes, from one on.
    fn part(size: u64, from: u64, count: u64) -> (Vec<u8>, Vec<u8>) {
        let hints = (from..from + count).map(|chunk| PageHints::bytes_of(size - chunk * CHUNK)).sum();
        (vec![1; count as usize * 32], vec![2; hints])
    }

    #[test]
    fn a_file_is_told_of_in_parts() {
        for (ours, theirs, known) in [
            (3 * CHUNK + 5, 3 * CHUNK + 5, 4),
            (9 * CHUNK, 3 * CHUNK + 5, 3),
            (CHUNK + 9, 3 * CHUNK, 1),
            (70_000, 70_000, 1),
        ] {
            let mut awaited = awaited(ours, theirs);
            let first = chunks(theirs).div_ceil(2);
            let mut told = None;
            for (from, count) in [(0, first), (first, chunks(theirs) - first)].into_iter().filter(|part| part.1 > 0) {
                assert!(told.is_none());
                let (digests, hints) = part(theirs, from, count);
                told = awaited.seeded(3, from, &digests, &hints).unwrap();
            }
            let (number, told) = told.unwrap();
            let digests = (0..20).filter(|chunk| told.digests.get(*chunk).is_some()).count();
            assert_eq!((number, digests, awaited.left, awaited.files.len()), (7, known, 0, 0), "{ours} {theirs}");
        }
    }

    #[test]
    fn what_is_told_out_of_turn_is_refused() {
        let size = 3 * CHUNK;
        let (digests, hints) = part(size, 0, 1);
        let refused =
            |file, from, digests: &[u8], hints: &[u8]| awaited(size, size).seeded(file, from, digests, hints).is_none();
        assert!(!refused(3, 0, &digests, &hints));
        assert!(refused(4, 0, &digests, &hints), "it was not asked for");
        assert!(refused(3, 1, &digests, &hints), "it begins at the second chunk");
        assert!(refused(3, 0, &[], &[]));
        assert!(refused(3, 0, &digests[1..], &hints));
        assert!(refused(3, 0, &digests, &hints[8..]) && refused(3, 0, &digests, &[&hints[..], &[0; 8]].concat()));
        let (long, more) = (vec![1; 4 * 32], vec![2; 4 * PageHints::BYTES]);
        assert!(refused(3, 0, &long, &more), "more chunks than the file has");
        let mut twice = awaited(size, size);
        assert!(twice.seeded(3, 0, &digests, &hints).is_some());
        assert!(twice.seeded(3, 2, &digests, &hints).is_none(), "a gap");
        let mut late = awaited(size, size);
        late.files.clear();
        late.given_up = true;
        assert!(late.seeded(3, 0, &digests, &hints).unwrap().is_none(), "nobody waits for it any more");
    }
}
