//! The work of a round: which chunks are still to be sent, shared by all lanes.
//!
//! The largest files come first, a few side by side, chunk by chunk, so that even one huge tablespace keeps every lane
//! busy; then the small entries, many to a batch. A broken lane's unacknowledged work comes back.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::parcel::Parcel;
use super::piece::Piece;
use crate::manifest::{CHUNK, chunks};
use crate::threads::lock;
use crate::tree::{Found, Stillness};

/// One frame's worth of work; numbers are those of the catalog.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Work {
    /// One chunk of a file that has several; or more of them in a row, if they are all hole.
    Chunks { file: u32, first: u64, count: u64 },
    /// Small files, directories and links.
    Small(Vec<u32>),
    /// What a stream has brought.
    Parcel(Arc<Parcel>),
    /// A piece of a byte stream.
    Piece(Arc<Piece>),
}

impl Work {
    /// How many of its `bytes` tell how fast the link is: none of a run of holes.
    pub(super) fn weight(&self, bytes: u64) -> u64 {
        if matches!(self, Work::Chunks { count: 2.., .. }) { 0 } else { bytes }
    }
}

/// What is left of a round. Lanes take work from it and report how it ended.
#[derive(Debug)]
pub struct Queue {
    state: Mutex<State>,
    changed: Condvar,
    finished: Notify,
}

#[derive(Debug)]
struct State {
    /// The largest is last.
    large: Vec<Large>,
    /// Which of the side-by-side files had the last turn, counted from the largest.
    turn: usize,
    /// Batches of small entries; the next is last.
    small: Vec<Vec<u32>>,
    returned: Vec<Work>,
    /// What [`Queue::push`] has brought.
    pushed: VecDeque<Work>,
    /// More of it may come.
    open: bool,
    /// Entries that wait for [`Queue::release`], and their chunks.
    awaited: HashMap<u32, Large>,
    /// Pieces of work handed out and not yet acknowledged.
    outstanding: usize,
    /// Work that comes back is not handed out again.
    abandoned: bool,
    closed: bool,
}

#[derive(Debug)]
struct Large {
    file: u32,
    /// The next chunk, and where they end.
    next: u64,
    count: u64,
    /// The redo log comes first: the server writes to it all the time, so a clone of it costs room.
    journal: bool,
}

/// How many large files are sent at once. A filesystem may let only one write at a time fill a file's holes (ext4 past
/// the page cache), so a single file would keep a fast disk waiting.
const SIDE_BY_SIDE: usize = 4;

/// Bytes an entry takes in a batch besides its content, at most: two headers and its records.
fn headers(found: &Found) -> u64 {
    let name = found.entry.path.as_bytes().len() as u64;
    let attributes: usize = found.entry.meta.xattrs.iter().map(|(name, value)| name.len() + value.len() + 32).sum();
    // The list of runs if there are holes: at most every other page.
    let runs = if found.allocated < found.size() { (found.size() / 4096 + 1) * 24 } else { 0 };
    2048 + 2 * name + attributes as u64 + runs
}

const BATCH_ENTRIES: usize = 512;

impl Queue {
    /// The work for these entries, by number. Those in `awaited` are held back.
    pub fn new<'a>(entries: impl IntoIterator<Item = (u32, &'a Found)>, awaited: &HashSet<u32>) -> Queue {
        let mut held = HashMap::new();
        let (mut large, mut small) = (Vec::new(), Vec::new());
        let (mut batch, mut weight) = (Vec::new(), 0);
        for (number, found) in entries {
            let size = found.size();
            let journal = found.stillness() == Stillness::Journal;
            let whole = Large { file: number, next: 0, count: chunks(size), journal };
            if awaited.contains(&number) {
                held.insert(number, whole);
                continue;
            }
            if whole.count > 1 {
                large.push(whole);
                continue;
            }
            let cost = size + headers(found);
            if batch.len() == BATCH_ENTRIES || weight + cost > CHUNK {
                small.push(std::mem::take(&mut batch));
                weight = 0;
            }
            batch.push(number);
            weight += cost;
        }
        small.push(batch);
        small.retain(|batch| !batch.is_empty());
        small.reverse();
        large.sort_by_key(Large::order);
        let state = State {
            large,
            turn: 0,
            small,
            returned: Vec::new(),
            pushed: VecDeque::new(),
            open: false,
            awaited: held,
            outstanding: 0,
            abandoned: false,
            closed: false,
        };
        Queue { state: Mutex::new(state), changed: Condvar::new(), finished: Notify::new() }
    }

    /// Without any work yet: it is pushed.
    pub(super) fn open() -> Queue {
        let queue = Queue::new([], &HashSet::new());
        queue.state().open = true;
        queue
    }

    /// Adds a piece of work, and waits while `most` pieces are not acknowledged: so long is each of them kept. `false`: the
    /// queue is closed.
    pub(super) fn push(&self, work: Work, most: usize) -> bool {
        let mut state = self.state();
        while !state.closed && state.pushed.len() + state.returned.len() + state.outstanding >= most {
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
        state.pushed.push_back(work);
        self.changed.notify_all();
        !state.closed
    }

    /// Whether everything that was pushed is acknowledged.
    pub(super) fn is_idle(&self) -> bool {
        let state = self.state();
        state.outstanding == 0 && state.pushed.is_empty() && state.returned.is_empty()
    }

    /// Nothing more is pushed.
    pub(super) fn end(&self) {
        self.state().open = false;
        self.changed.notify_all();
        self.finished.notify_waiters();
    }

    fn state(&self) -> MutexGuard<'_, State> {
        lock(&self.state)
    }

    /// The next piece of work; blocks while there is none but some may still come back. `None`: everything is
    /// acknowledged, or the queue is closed.
    pub fn next(&self) -> Option<Work> {
        let mut state = self.state();
        loop {
            if state.closed {
                return None;
            }
            if let Some(work) = state.take() {
                state.outstanding += 1;
                return Some(work);
            }
            if state.outstanding == 0 && state.awaited.is_empty() && !state.open {
                return None;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// Hands out more chunks together with `file`'s last one, which came before `next`: up to `end`, if nobody has taken
    /// the next one since. Returns where what is handed out ends now.
    pub fn widen(&self, file: u32, next: u64, end: u64) -> u64 {
        let mut state = self.state();
        let turns = state.large.len().saturating_sub(SIDE_BY_SIDE);
        let found = state.large[turns..].iter().position(|large| large.file == file && large.next == next);
        let Some(place) = found.map(|place| turns + place) else { return next };
        let large = &mut state.large[place];
        large.next = end.clamp(next, large.count);
        let end = large.next;
        if end == large.count {
            state.large.remove(place);
        }
        end
    }

    /// Stops holding this entry back.
    pub fn release(&self, number: u32) {
        let mut state = self.state();
        let Some(released) = state.awaited.remove(&number) else { return };
        if released.count > 1 {
            let place = state.large.partition_point(|large| large.order() <= released.order());
            state.large.insert(place, released);
        } else {
            state.small.push(vec![number]);
        }
        self.changed.notify_all();
    }

    /// Whether only held-back entries are left.
    pub fn only_awaits(&self) -> bool {
        let state = self.state();
        state.is_empty() && state.outstanding == 0 && !state.awaited.is_empty()
    }

    /// A piece of work is written and verified on the joiner.
    pub fn done(&self) {
        let mut state = self.state();
        state.outstanding = state.outstanding.saturating_sub(1);
        if state.outstanding == 0 || state.open {
            self.changed.notify_all();
            self.finished.notify_waiters();
        }
    }

    /// Returns once all work is acknowledged. Cancel-safe.
    pub async fn finished(&self) {
        loop {
            let told = self.finished.notified();
            if self.is_finished() {
                return;
            }
            told.await;
        }
    }

    /// A lane broke: somebody else must do this.
    pub fn give_back(&self, work: Work) {
        let mut state = self.state();
        state.outstanding = state.outstanding.saturating_sub(1);
        if state.abandoned {
            if state.outstanding == 0 {
                self.finished.notify_waiters();
            }
        } else {
            match work {
                // Not all of it need be a hole by then.
                Work::Chunks { file, first, count } if count > 1 => {
                    state.large.push(Large { file, next: first, count: first + count, journal: false });
                }
                work => state.returned.push(work),
            }
        }
        self.changed.notify_all();
    }

    /// Hands out nothing more, but still waits for what was handed out.
    pub fn abandon(&self) {
        let mut state = self.state();
        (state.large, state.small, state.returned, state.awaited) = Default::default();
        state.abandoned = true;
        if state.outstanding == 0 {
            self.finished.notify_waiters();
        }
        self.changed.notify_all();
    }

    pub fn is_abandoned(&self) -> bool {
        self.state().abandoned
    }

    /// Hands out nothing more and wakes everyone who waits.
    pub fn close(&self) {
        self.state().closed = true;
        self.changed.notify_all();
    }

    /// All of the work is acknowledged.
    pub fn is_finished(&self) -> bool {
        let state = self.state();
        state.is_empty() && state.awaited.is_empty() && state.outstanding == 0
    }
}

impl Large {
    fn order(&self) -> (bool, u64) {
        (self.journal, self.count)
    }
}

impl State {
    fn is_empty(&self) -> bool {
        let pushed = self.open || !self.pushed.is_empty();
        self.large.is_empty() && self.small.is_empty() && self.returned.is_empty() && !pushed
    }

    /// Of a stream's pieces the earliest: the consumer waits for it.
    fn first_returned(&self) -> Option<usize> {
        let number = |work: &Work| if let Work::Piece(piece) = work { piece.number } else { 0 };
        (0..self.returned.len()).rev().min_by_key(|place| self.returned.get(*place).map(number))
    }

    fn take(&mut self) -> Option<Work> {
        if let Some(place) = self.first_returned() {
            return Some(self.returned.swap_remove(place));
        }
        let side_by_side = self.large.len().min(SIDE_BY_SIDE);
        if side_by_side > 0 {
            self.turn = (self.turn + 1) % side_by_side;
            let place = self.large.len() - 1 - self.turn;
            let Large { file, next, count, .. } = &mut self.large[place];
            let work = Work::Chunks { file: *file, first: *next, count: 1 };
            *next += 1;
            if next == count {
                self.large.remove(place);
            }
            return Some(work);
        }
        self.small.pop().map(Work::Small).or_else(|| self.pushed.pop_front())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::{Roots, Rules, Tolerance, scan};
    use std::collections::BTreeMap;

    fn queue(sizes: &[u64]) -> Queue {
        awaiting(sizes, &[])
    }

    fn awaiting(sizes: &[u64], awaited: &[u32]) -> Queue {
        let dir = tempfile::tempdir().unwrap();
        for (index, size) in sizes.iter().enumerate() {
            std::fs::File::create(dir.path().join(format!("{index:06}"))).unwrap().set_len(*size).unwrap();
        }
        let mut roots = Roots::new(dir.path(), &BTreeMap::new()).unwrap();
        let found = scan(&mut roots, &Rules::default(), Tolerance::None).unwrap();
        Queue::new((0..).zip(&found), &awaited.iter().copied().collect())
    }

    #[test]
    fn the_largest_come_first_and_the_small_in_batches() {
        let queue = queue(&[10, 3 * CHUNK, 20, 2 * CHUNK + 1, CHUNK]);
        let order: Vec<Work> = std::iter::from_fn(|| queue.next().inspect(|_| queue.done())).collect();
        let chunks = [(1, 0), (3, 0), (1, 1), (3, 1), (1, 2), (3, 2)].map(|(file, first)| Work::Chunks {
            file,
            first,
            count: 1,
        });
        assert_eq!(order[..6], chunks);
        assert_eq!(order[6..], [Work::Small(vec![0, 2]), Work::Small(vec![4])]);
        assert!(queue.is_finished());
    }

    #[test]
    fn every_chunk_of_many_large_files_is_handed_out_once_and_in_order() {
        let sizes = [5, 2, 9, 2, 3, 7, 2].map(|chunks| chunks * CHUNK);
        let queue = queue(&sizes);
        let mut next = [0; 7];
        let mut under_way = Vec::new();
        while let Some(Work::Chunks { file, first: chunk, .. }) = queue.next() {
            queue.done();
            assert_eq!(chunk, next[file as usize]);
            next[file as usize] += 1;
            under_way.push((0..7).filter(|&file| (1..chunks(sizes[file])).contains(&next[file])).count());
        }
        assert_eq!(next, [5, 2, 9, 2, 3, 7, 2]);
        assert_eq!(under_way.iter().max(), Some(&SIDE_BY_SIDE));
    }

    #[test]
    fn small_files_share_frames() {
        let queue = queue(&[100; 2000]);
        let batches = std::iter::from_fn(|| queue.next().inspect(|_| queue.done())).count();
        assert!((4..=5).contains(&batches), "{batches}");
    }

    #[test]
    fn what_comes_back_is_handed_out_again() {
        let queue = queue(&[10]);
        let work = queue.next().unwrap();
        queue.give_back(work.clone());
        assert_eq!(queue.next(), Some(work));
        assert!(!queue.is_finished());
        queue.done();
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn of_the_pieces_that_come_back_the_earliest_goes_first() {
        use super::super::piece::Sealing;
        let sealing = Arc::new(Sealing::new(crate::manifest::Checksum::Blake3));
        let queue = Queue::open();
        let piece = |number| Work::Piece(Arc::new(Piece { number, data: vec![0], sealing: Arc::clone(&sealing) }));
        let pieces = [0, 1, 2, 3, 4].map(piece);
        pieces.iter().for_each(|work| assert!(queue.push(work.clone(), 9)));
        let out: Vec<_> = (0..4).map(|_| queue.next().unwrap()).collect();
        [2, 1, 3, 0].into_iter().for_each(|number| queue.give_back(out[number].clone()));
        assert_eq!((0..5).map(|_| queue.next().unwrap()).collect::<Vec<_>>(), pieces);
    }

    #[test]
    fn what_is_awaited_is_held_back_until_it_is_released() {
        let queue = awaiting(&[10, 3 * CHUNK, 2 * CHUNK, 70_000], &[1, 3]);
        let all =
            || std::iter::from_fn(|| (!queue.only_awaits()).then(|| queue.next().inspect(|_| queue.done())).flatten());
        let chunk = |file, first| Work::Chunks { file, first, count: 1 };
        assert_eq!(all().collect::<Vec<_>>(), [chunk(2, 0), chunk(2, 1), Work::Small(vec![0])]);
        assert!(queue.only_awaits() && !queue.is_finished());
        queue.release(7);
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.next());
            std::thread::sleep(std::time::Duration::from_millis(20));
            queue.release(3);
            assert_eq!(waiter.join().unwrap(), Some(Work::Small(vec![3])));
        });
        queue.done();
        queue.release(1);
        queue.release(1);
        assert_eq!(all().collect::<Vec<_>>(), [chunk(1, 0), chunk(1, 1), chunk(1, 2)]);
        assert!(queue.is_finished());
        let queue = awaiting(&[70_000], &[0]);
        queue.abandon();
        assert!(queue.is_finished() && queue.next().is_none());
    }

    #[test]
    fn a_run_is_handed_out_at_once_and_comes_back_as_its_chunks() {
        let queue = queue(&[5 * CHUNK]);
        let next = || match queue.next() {
            Some(Work::Chunks { first, count, .. }) => Some((first, count)),
            _ => None,
        };
        assert_eq!((next(), next()), (Some((0, 1)), Some((1, 1))));
        assert_eq!(queue.widen(0, 1, 4), 1, "somebody has the next one");
        assert_eq!(queue.widen(0, 2, 4), 4);
        assert_eq!(queue.widen(0, 4, 9), 5, "there are no more");
        queue.give_back(Work::Chunks { file: 0, first: 1, count: 3 });
        assert_eq!([next(), next(), next()], [Some((1, 1)), Some((2, 1)), Some((3, 1))]);
        (0..4).for_each(|_| queue.done());
        assert!(queue.is_finished() && next().is_none());
        assert_eq!(queue.widen(0, 5, 9), 5);
    }

    #[test]
    fn an_abandoned_queue_waits_for_what_is_out_and_hands_out_nothing_more() {
        let queue = queue(&[10, 3 * CHUNK]);
        let (one, two) = (queue.next().unwrap(), queue.next().unwrap());
        queue.abandon();
        assert!(!queue.is_finished());
        queue.give_back(one);
        assert!(!queue.is_finished());
        drop(two);
        queue.done();
        assert!(queue.is_finished());
        assert_eq!(queue.next(), None);
    }

    #[test]
    fn a_closed_queue_wakes_those_who_wait() {
        let queue = queue(&[10]);
        queue.next().unwrap();
        std::thread::scope(|scope| {
            let waiter = scope.spawn(|| queue.next());
            std::thread::sleep(std::time::Duration::from_millis(20));
            queue.close();
            assert_eq!(waiter.join().unwrap(), None);
        });
    }

    #[test]
    fn what_is_pushed_stays_until_it_is_acknowledged_and_no_more_than_is_allowed() {
        let queue = Queue::open();
        let parcel = || Work::Parcel(Arc::new(Parcel::default()));
        assert!(queue.push(parcel(), 2) && queue.push(parcel(), 2) && !queue.is_finished());
        std::thread::scope(|scope| {
            let third = scope.spawn(|| queue.push(parcel(), 2));
            let first = queue.next().unwrap();
            queue.give_back(first.clone());
            assert_eq!(queue.next(), Some(first), "a broken lane's comes again");
            std::thread::sleep(std::time::Duration::from_millis(20));
            assert!(!third.is_finished(), "there are two that are not acknowledged");
            queue.done();
            assert!(third.join().unwrap());
        });
        queue.end();
        assert!(!queue.is_finished());
        std::iter::from_fn(|| queue.next().inspect(|_| queue.done())).for_each(drop);
        assert!(queue.is_finished());
        queue.close();
        assert!(!queue.push(parcel(), 9));
    }
}
