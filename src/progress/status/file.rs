//! The status file: two records, written in turn, so that one is always whole; `flock` shows whether its writer is
//! alive. A third record is for requests to the transfer: [`Wish`].
//!
//! It is written in place. A rename would change the data directory, which must hold still for a
//! donor.

use std::fs::File;
use std::io;
use std::os::unix::fs::FileExt;
use std::path::Path;
use std::thread::sleep;
use std::time::{Duration, SystemTime};

use rustix::fs::{FileType, FlockOperation, Mode, OFlags, fchmod, flock, fstat, open};
use rustix::io::Errno;
use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::xxh3_64;

use super::{Status, unix};
use crate::error::{Error, Kind, Result};

/// Its name in the data directory. As a file it is not listed as a schema; it stays with the node.
pub const FILE: &str = ".highline.status";

/// Bytes of each record, padding included.
const RECORD: usize = 8192;

/// How often to try for the lock: a reader holds it while it reads.
const TRIES: u32 = 20;
const PAUSE: Duration = Duration::from_millis(10);

/// A record in the file: one line, the checksum first.
#[derive(Debug, Serialize, Deserialize)]
struct Record {
    number: u64,
    status: Status,
}

fn encode(record: &impl Serialize) -> io::Result<[u8; RECORD]> {
    let text = serde_json::to_vec(record)?;
    let mut bytes = [b' '; RECORD];
    let line = [checksum(&text).as_bytes(), b" ", &text].concat();
    let place = bytes.get_mut(..line.len()).filter(|_| line.len() < RECORD);
    place.ok_or_else(|| io::Error::other("the status is too long"))?.copy_from_slice(&line);
    bytes[RECORD - 1] = b'\n';
    Ok(bytes)
}

/// `None` if it is not whole.
fn decode<T: serde::de::DeserializeOwned>(bytes: &[u8]) -> Option<T> {
    let line = bytes.trim_ascii_end();
    let (sum, text) = line.split_at_checked(16)?;
    let text = text.strip_prefix(b" ")?;
    if sum != checksum(text).as_bytes() {
        return None;
    }
    serde_json::from_slice(text).ok()
}

fn read<T: serde::de::DeserializeOwned>(file: &File, place: u64) -> Option<T> {
    let mut bytes = vec![0; RECORD];
    file.read_exact_at(&mut bytes, place).ok()?;
    decode(&bytes)
}

fn checksum(text: &[u8]) -> String {
    format!("{:016x}", xxh3_64(text))
}

/// The writer's end: as long as it exists, the transfer counts as alive.
#[derive(Debug)]
pub struct StatusFile {
    file: File,
    next: u64,
}

impl StatusFile {
    /// Locks the file of `datadir` and writes `first` into it.
    ///
    /// # Errors
    /// [`Kind::Busy`] if another transfer has it.
    pub fn take(datadir: &Path, first: &Status) -> Result<StatusFile> {
        let path = datadir.join(FILE);
        let flags = OFlags::RDWR | OFlags::CREATE | SAFELY;
        let mode = Mode::RUSR | Mode::WUSR | Mode::RGRP;
        let fd = open(&path, flags, mode).map_err(|e| Error::io("cannot open", &path, e))?;
        let file = regular(fd.into(), &path)?;
        if !locked(&file).map_err(|e| Error::io("cannot lock", &path, e))? {
            return Err(Error::new(Kind::Busy, "another transfer of this data directory is using it"));
        }
        // Whatever the umask, the group may read it.
        let _ = fchmod(&file, mode);
        let last = records(&file).map(|record| record.number).max().unwrap_or(0);
        let mut made = StatusFile { file, next: last.saturating_add(1) };
        // Both, so that no later write needs more room.
        made.write(first).and_then(|()| made.write(first)).map_err(|e| failed(&path, e))?;
        Ok(made)
    }

    pub fn write(&mut self, status: &Status) -> io::Result<()> {
        let record = Record { number: self.next, status: status.clone() };
        self.file.write_all_at(&encode(&record)?, place(self.next))?;
        self.next = self.next.saturating_add(1);
        Ok(())
    }

    /// A request to `transfer`, whose file this is.
    pub fn wish(&self, transfer: &Status) -> Option<Wish> {
        let wish: Wish = read(&self.file, WISH)?;
        (wish.pid == transfer.pid && wish.started == transfer.started).then_some(wish)
    }
}

/// Follows no link and does not block.
const SAFELY: OFlags = OFlags::NOFOLLOW.union(OFlags::NONBLOCK).union(OFlags::CLOEXEC);
/// Offset of the third record.
const WISH: u64 = 2 * RECORD as u64;

/// A request to a running transfer. Only those who may write the file, its owner and root, can leave one.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Wish {
    /// Of which transfer.
    pid: u32,
    started: f64,
    /// The time of the request, which identifies it.
    pub at: f64,
    /// Bytes per second on the wire; `null` means no limit.
    pub rate_limit: Option<u64>,
}

impl Wish {
    /// A new rate limit for `transfer`, in bytes per second.
    pub fn rate(transfer: &Status, rate_limit: Option<u64>, now: SystemTime) -> Wish {
        Wish { pid: transfer.pid, started: transfer.started, at: unix(now), rate_limit }
    }

    /// Writes it to the file of `datadir`, replacing an earlier one.
    pub fn leave(&self, datadir: &Path) -> Result<()> {
        let path = datadir.join(FILE);
        let flags = OFlags::WRONLY | SAFELY;
        let fd = open(&path, flags, Mode::empty()).map_err(|e| Error::io("cannot open", &path, e))?;
        let written = regular(fd.into(), &path)?.write_all_at(&encode(self).map_err(|e| failed(&path, e))?, WISH);
        written.map_err(|e| failed(&path, e))
    }
}

fn failed(path: &Path, error: io::Error) -> Error {
    Error::io("cannot write", path, error)
}

fn place(number: u64) -> u64 {
    (number % 2) * RECORD as u64
}

/// What is in a data directory's status file.
#[derive(Clone, Debug, PartialEq)]
pub enum Seen {
    Nothing,
    /// Its writer is alive.
    Live(Box<Status>),
    /// It does not.
    Left(Box<Status>),
}

/// Reads the status file of `datadir`. Follows no link and waits at most a fifth of a second.
pub fn look(datadir: &Path) -> Result<Seen> {
    let path = datadir.join(FILE);
    let flags = OFlags::RDONLY | SAFELY;
    let file = match open(&path, flags, Mode::empty()) {
        Err(Errno::NOENT) => return Ok(Seen::Nothing),
        opened => regular(opened.map_err(|e| Error::io("cannot open", &path, e))?.into(), &path)?,
    };
    for _ in 0..TRIES {
        // Held while reading, so that no transfer begins meanwhile.
        let free = match flock(&file, FlockOperation::NonBlockingLockShared) {
            Ok(()) => true,
            Err(Errno::WOULDBLOCK) => false,
            Err(error) => return Err(Error::io("cannot tell whether a transfer holds", &path, error)),
        };
        match newest(&file) {
            Some(status) if free => return Ok(Seen::Left(status)),
            // A transfer that has just begun has not yet replaced the last one's record.
            Some(status) if status.ended.is_none() => return Ok(Seen::Live(status)),
            _ if free => return Ok(Seen::Nothing),
            _ => sleep(PAUSE),
        }
    }
    Ok(newest(&file).map_or(Seen::Nothing, Seen::Left))
}

fn newest(file: &File) -> Option<Box<Status>> {
    records(file).max_by_key(|record| record.number).map(|record| Box::new(record.status))
}

fn records(file: &File) -> impl Iterator<Item = Record> + '_ {
    [0, 1].into_iter().filter_map(|number| read(file, place(number)))
}

fn locked(file: &File) -> rustix::io::Result<bool> {
    for _ in 0..TRIES {
        match flock(file, FlockOperation::NonBlockingLockExclusive) {
            Err(Errno::WOULDBLOCK) => sleep(PAUSE),
            done => return done.map(|()| true),
        }
    }
    Ok(false)
}

fn regular(file: File, path: &Path) -> Result<File> {
    let stat = fstat(&file).map_err(|e| Error::io("cannot look at", path, e))?;
    if FileType::from_raw_mode(stat.st_mode) == FileType::RegularFile {
        return Ok(file);
    }
    Err(Error::new(Kind::Usage, format!("{} is not a file", crate::error::Printable::path(path))).remedy("remove it"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::Side;

    fn status() -> Status {
        Status::begin(Side::Donor, SystemTime::UNIX_EPOCH + Duration::from_secs(1_764_000_000))
    }

    #[test]
    fn a_live_one_is_never_taken_for_a_dead_one_nor_the_other_way_round() {
        let dir = tempfile::tempdir().unwrap();
        assert_eq!(look(dir.path()).unwrap(), Seen::Nothing);
        let mut file = StatusFile::take(dir.path(), &status()).unwrap();
        for entries in 1..6 {
            let now = Status { entries, ..status() };
            file.write(&now).unwrap();
            assert_eq!(look(dir.path()).unwrap(), Seen::Live(Box::new(now)));
        }
        assert_eq!(StatusFile::take(dir.path(), &status()).unwrap_err().kind(), Kind::Busy);
        drop(file);
        let left = Status { entries: 5, ..status() };
        assert_eq!(look(dir.path()).unwrap(), Seen::Left(Box::new(left)));
        // The next one goes on with the numbers, so that what is left never hides it.
        let _next = StatusFile::take(dir.path(), &status()).unwrap();
        assert_eq!(look(dir.path()).unwrap(), Seen::Live(Box::new(status())));
    }

    #[test]
    fn a_record_that_is_not_whole_leaves_the_one_before() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StatusFile::take(dir.path(), &status()).unwrap();
        let before = Status { entries: 1, ..status() };
        file.write(&before).unwrap();
        let next = encode(&Record { number: file.next, status: Status { entries: 2, ..status() } }).unwrap();
        for cut in [1, 17, 100, 200] {
            file.file.write_all_at(&next[..cut], place(file.next)).unwrap();
            assert_eq!(look(dir.path()).unwrap(), Seen::Live(Box::new(before.clone())), "{cut}");
        }
        drop(file);
        assert_eq!(look(dir.path()).unwrap(), Seen::Left(Box::new(before)));
        // Whatever somebody put there.
        for junk in [&b""[..], b"\n", &[0xff; 20_000], &[b'0'; 2 * RECORD]] {
            std::fs::write(dir.path().join(FILE), junk).unwrap();
            assert_eq!(look(dir.path()).unwrap(), Seen::Nothing);
        }
    }

    #[test]
    fn the_directory_around_it_does_not_change() {
        use std::os::unix::fs::MetadataExt;
        let dir = tempfile::tempdir().unwrap();
        let mut file = StatusFile::take(dir.path(), &status()).unwrap();
        let stamp = || {
            let stat = std::fs::metadata(dir.path()).unwrap();
            (stat.mtime(), stat.mtime_nsec(), stat.ctime(), stat.ctime_nsec())
        };
        let before = stamp();
        sleep(Duration::from_millis(30));
        file.write(&status()).unwrap();
        look(dir.path()).unwrap();
        assert_eq!(stamp(), before);
    }

    #[test]
    fn a_wish_is_for_one_transfer() {
        let dir = tempfile::tempdir().unwrap();
        let file = StatusFile::take(dir.path(), &status()).unwrap();
        assert_eq!(file.wish(&status()), None);
        let wish = Wish::rate(&status(), Some(7), SystemTime::now());
        wish.leave(dir.path()).unwrap();
        assert_eq!(file.wish(&status()), Some(wish));
        assert_eq!(look(dir.path()).unwrap(), Seen::Live(Box::new(status())), "and no news of the transfer");
        for other in [Status { pid: 1, ..status() }, Status { started: 1.0, ..status() }] {
            assert_eq!(file.wish(&other), None);
        }
    }

    #[test]
    fn no_link_is_followed() {
        let dir = tempfile::tempdir().unwrap();
        let target = dir.path().join("target");
        std::fs::write(&target, "x").unwrap();
        std::os::unix::fs::symlink(&target, dir.path().join(FILE)).unwrap();
        assert!(Wish::rate(&status(), None, SystemTime::now()).leave(dir.path()).is_err());
        assert!(look(dir.path()).is_err() && StatusFile::take(dir.path(), &status()).is_err());
        assert_eq!(std::fs::read(&target).unwrap(), b"x");
    }

    #[test]
    fn readers_and_a_writer_at_once_see_whole_records() {
        let dir = tempfile::tempdir().unwrap();
        let mut file = StatusFile::take(dir.path(), &status()).unwrap();
        std::thread::scope(|scope| {
            let place = dir.path();
            let reader = scope.spawn(move || {
                let mut last = 0;
                for _ in 0..2000 {
                    let Seen::Live(status) = look(place).unwrap() else { panic!() };
                    assert!(status.entries >= last && status.wire_bytes == status.entries * 3);
                    last = status.entries;
                }
            });
            let mut entries = 0;
            while !reader.is_finished() {
                entries += 1;
                let peer = Some("x".repeat((entries % 1000) as usize));
                file.write(&Status { entries, wire_bytes: entries * 3, peer, ..status() }).unwrap();
            }
            reader.join().unwrap();
        });
    }

    proptest::proptest! {
        #[test]
        fn no_content_ends_the_process(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..300)) {
            let _ = (decode::<Record>(&bytes), decode::<Wish>(&bytes));
        }
    }
}
