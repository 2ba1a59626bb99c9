//! The freeze: `flush tables`, and the file by which the server answers.
//!
//! `sst_flush_tables` (`sql/wsrep_sst.cc`) takes the global read lock, stops InnoDB's own writes and then writes
//! `tables_flushed` into the data directory, or `sst_error` if that failed. It writes the first file twice, each time
//! by rename, so a file removed too early comes back.

use std::fs::{self, File};
use std::io::{Read, Write};
use std::os::fd::OwnedFd;
use std::path::{Path, PathBuf};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::inotify::{self, CreateFlags, WatchFlags};

use super::dialogue::{Dialogue, Line};
use crate::error::{Error, Kind, Printable, Result, Side};
use crate::position::{GaleraGtid, Position};

const FLUSHED: &str = "tables_flushed";
const FAILED: &str = "sst_error";

/// How often to look at the data directory, at least.
const EVERY: Duration = Duration::from_millis(20);

/// How long to wait for the second write. It follows the first within microseconds.
const SECOND_WRITE: Duration = Duration::from_millis(200);

/// The most bytes of an answer to read; the server's own buffer has 100.
const MAX_BYTES: u64 = 1024;

/// What the log says while the server has not frozen yet.
#[derive(Debug)]
pub struct Waiting {
    next: Duration,
}

impl Default for Waiting {
    fn default() -> Waiting {
        Waiting { next: Waiting::FIRST }
    }
}

impl Waiting {
    /// Long enough for most servers to flush their dirty pages.
    const FIRST: Duration = Duration::from_secs(5);
    const AGAIN: Duration = Duration::from_secs(60);

    /// A line, if one is due after waiting for `waited`. `deadline` limits the whole wait.
    pub fn line(&mut self, waited: Duration, deadline: Duration) -> Option<String> {
        if waited < self.next {
            return None;
        }
        self.next = waited.saturating_add(Waiting::AGAIN);
        Some(format!(
            "the server has not frozen its tables for {} s: it is flushing dirty pages, or waiting for a client that holds a lock (LOCK TABLES, FLUSH TABLES WITH READ LOCK, BACKUP STAGE) or runs a long statement; until then other clients' writes on this node wait too. SHOW FULL PROCESSLIST shows that client; with the plugin metadata_lock_info, SELECT * FROM information_schema.METADATA_LOCK_INFO says who holds which lock. Highline gives up after {} s (lock-timeout)",
            waited.as_secs(),
            deadline.as_secs()
        ))
    }
}

/// Watches for names that appear in a directory (inotify(7)), so that an answer is noticed at once.
struct Arrivals(Option<OwnedFd>);

impl Arrivals {
    /// If the kernel has no more watches, it only waits.
    fn of(directory: &Path) -> Arrivals {
        let watched = inotify::init(CreateFlags::NONBLOCK | CreateFlags::CLOEXEC).and_then(|fd| {
            inotify::add_watch(&fd, directory, WatchFlags::MOVED_TO | WatchFlags::CREATE)?;
            Ok(fd)
        });
        Arrivals(watched.ok())
    }

    /// Returns when a name has appeared, or after `most`.
    fn wait(&self, most: Duration) {
        let Some(fd) = &self.0 else { return thread::sleep(most) };
        let time = Timespec { tv_sec: 0, tv_nsec: most.subsec_nanos().into() };
        if poll(&mut [PollFd::new(fd, PollFlags::IN)], Some(&time)).is_ok_and(|ready| ready > 0) {
            let mut told = [0u8; 4096];
            while rustix::io::read(fd, &mut told).is_ok_and(|count| count > 0) {}
        }
    }
}

/// The server's two answer files. They and their unfinished forms are removed when it is dropped.
#[derive(Debug)]
pub struct Freeze {
    datadir: PathBuf,
}

impl Freeze {
    /// Asks the server to freeze and waits until it has.
    ///
    /// Removes stale answers first. `check` is called at least every 20 ms, and its error ends the wait: a signal, a
    /// dead server, a lost peer. `deadline` limits the whole wait; the server itself has only `lock_wait_timeout`, a
    /// day by default. After an error the freeze may still happen: the server undoes it when the pipe ends, so exit
    /// soon.
    pub fn begin<W: Write>(
        dialogue: &mut Dialogue<W>,
        datadir: &Path,
        deadline: Duration,
        mut check: impl FnMut() -> Result<()>,
    ) -> Result<(Freeze, GaleraGtid)> {
        let freeze = Freeze { datadir: datadir.to_owned() };
        freeze.clear()?;
        let arrivals = Arrivals::of(&freeze.datadir);
        dialogue.say(&Line::FlushTables)?;
        let started = Instant::now();
        let mut first: Option<(Instant, GaleraGtid)> = None;
        loop {
            check()?;
            match freeze.answer()? {
                Some((frozen, true)) => return Ok((freeze, frozen)),
                Some((frozen, false)) if first.is_none() => first = Some((Instant::now(), frozen)),
                _ => {}
            }
            if let Some((_, frozen)) = first.take_if(|(seen, _)| seen.elapsed() >= SECOND_WRITE) {
                return Ok((freeze, frozen));
            }
            if started.elapsed() >= deadline {
                return Err(Error::new(
                    Kind::Timeout,
                    format!("the server did not freeze its tables within {} s", deadline.as_secs_f64()),
                )
                .on(Side::Donor)
                .remedy(
                    "a client on the donor holds a lock or runs a long statement: SHOW FULL PROCESSLIST there shows it, and KILL ends it; until then the donor's server keeps waiting for its lock and other clients' writes wait behind it. Raise lock-timeout to wait longer",
                ));
            }
            arrivals.wait(EVERY);
        }
    }

    /// The answer there now, and whether it is the second, final one.
    fn answer(&self) -> Result<Option<(GaleraGtid, bool)>> {
        if self.datadir.join(FAILED).exists() {
            return Err(Error::new(Kind::Busy, "the server could not flush and lock its tables")
                .on(Side::Donor)
                .remedy("the donor's error log, just above, says why"));
        }
        let path = self.datadir.join(FLUSHED);
        let mut text = Vec::new();
        match File::open(&path).map(|file| file.take(MAX_BYTES)).and_then(|mut file| file.read_to_end(&mut text)) {
            Ok(_) => {}
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(Error::io("cannot read", &path, error).on(Side::Donor)),
        }
        // The first write ends in an empty line, the second does not.
        let last = !text.ends_with(b"\n\n");
        Ok(parse(&text)?.map(|frozen| (frozen, last)))
    }

    fn clear(&self) -> Result<()> {
        for name in [FLUSHED, FAILED] {
            for name in [name.to_owned(), format!("{name}.tmp")] {
                let path = self.datadir.join(name);
                match fs::remove_file(&path) {
                    Err(_) if path.is_dir() => {
                        let what = format!(
                            "{} is a schema, but the server must create a file there when it is frozen",
                            Printable::path(&path)
                        );
                        return Err(Error::new(Kind::Usage, what)
                            .on(Side::Donor)
                            .remedy("move its tables to a schema with another name, and drop it"));
                    }
                    Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                        return Err(Error::io("cannot remove the stale", &path, error).on(Side::Donor));
                    }
                    _ => {}
                }
            }
        }
        Ok(())
    }
}

impl Drop for Freeze {
    fn drop(&mut self) {
        let _ = self.clear();
    }
}

/// Reads `uuid:seqno domain`; some servers leave out the domain, and mysql-wsrep adds more after it. `None` while the
/// first line is incomplete.
pub(crate) fn parse(text: &[u8]) -> Result<Option<GaleraGtid>> {
    let Some((line, _)) = text.iter().position(|&b| b == b'\n').and_then(|end| text.split_at_checked(end)) else {
        return Ok(None);
    };
    let strange = || {
        Error::new(Kind::Protocol, format!("the server wrote no valid position to {FLUSHED}: {}", Printable(line)))
            .on(Side::Donor)
    };
    let line = std::str::from_utf8(line).map_err(|_| strange())?;
    let mut words = line.split_ascii_whitespace();
    let position: Position = words.next().unwrap_or_default().parse().map_err(|error| strange().because(error))?;
    if !position.is_known() {
        return Err(strange().remedy("the donor is not in a primary component; start again once it is Synced"));
    }
    Ok(Some(GaleraGtid { position, domain: words.next().and_then(|domain| domain.parse().ok()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const UUID: &str = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002";

    fn put(dir: &Path, name: &str, text: &str) {
        let tmp = dir.join(format!("{name}.tmp"));
        fs::write(&tmp, text).unwrap();
        fs::rename(tmp, dir.join(name)).unwrap();
    }

    fn begin(dir: &Path, deadline: u64, check: impl FnMut() -> Result<()>) -> Result<(Freeze, GaleraGtid)> {
        let mut dialogue = Dialogue::new(Vec::new(), Side::Donor, false);
        Freeze::begin(&mut dialogue, dir, Duration::from_millis(deadline), check)
    }

    #[test]
    fn a_schema_called_like_the_servers_answer_is_named() {
        for name in [FLUSHED, FAILED] {
            let dir = tempfile::tempdir().unwrap();
            fs::create_dir(dir.path().join(name)).unwrap();
            let error = begin(dir.path(), 5000, || Ok(())).unwrap_err();
            assert!(
                error.sentence().contains(&format!(
                    "{name} is a schema, but the server must create a file there when it is frozen"
                ))
            );
        }
    }

    #[test]
    fn the_second_write_is_the_answer_and_both_files_go() {
        let dir = tempfile::tempdir().unwrap();
        put(dir.path(), FLUSHED, &format!("{UUID}:1 0\n"));
        put(dir.path(), FAILED, "");
        let mut looks = 0;
        let (freeze, frozen) = begin(dir.path(), 5000, || {
            looks += 1;
            match looks {
                1 => assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0, "stale answers are gone"),
                2 => put(dir.path(), FLUSHED, &format!("{UUID}:5 0\n\n")),
                3 => put(dir.path(), FLUSHED, &format!("{UUID}:6 9\n")),
                _ => {}
            }
            Ok(())
        })
        .unwrap();
        assert_eq!((frozen.position.seqno(), frozen.domain, looks), (6, Some(9), 3));
        put(dir.path(), FLUSHED, "reappears");
        drop(freeze);
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 0);
    }

    #[test]
    fn a_server_that_writes_once_is_believed_after_a_moment() {
        let dir = tempfile::tempdir().unwrap();
        let (_, frozen) = begin(dir.path(), 5000, || {
            if !dir.path().join(FLUSHED).exists() {
                put(dir.path(), FLUSHED, &format!("{UUID}:5 0\n\n"));
            }
            Ok(())
        })
        .unwrap();
        assert_eq!(frozen.position.seqno(), 5);
    }

    #[test]
    fn no_freeze_is_an_error_with_its_reason() {
        let dir = tempfile::tempdir().unwrap();
        let kind = |name: &'static str, text: &'static str| {
            let answer = || {
                put(dir.path(), name, text);
                Ok(())
            };
            begin(dir.path(), 50, answer).unwrap_err().kind()
        };
        assert_eq!(kind(FAILED, ""), Kind::Busy);
        assert_eq!(kind(FLUSHED, "garbage\n"), Kind::Protocol);
        assert_eq!(kind(FLUSHED, "00000000-0000-0000-0000-000000000000:-1 0\n"), Kind::Protocol);
        assert_eq!(kind(FLUSHED, "half"), Kind::Timeout);
        assert_eq!(begin(dir.path(), 50, || Ok(())).unwrap_err().kind(), Kind::Timeout);
        let gone = || Err(Error::new(Kind::ServerGone, "gone"));
        assert_eq!(begin(dir.path(), 5000, gone).unwrap_err().kind(), Kind::ServerGone);
    }

    #[test]
    fn a_long_wait_is_told_now_and_then() {
        let (mut waiting, seconds) = (Waiting::default(), Duration::from_secs);
        let told: Vec<u64> = (0..200).filter(|&n| waiting.line(seconds(n), seconds(300)).is_some()).collect();
        assert_eq!(told, [5, 65, 125, 185]);
        let line = Waiting::default().line(seconds(7), seconds(300)).unwrap();
        assert!(line.starts_with("the server has not frozen its tables for 7 s: "), "{line}");
        assert!(line.ends_with("gives up after 300 s (lock-timeout)"), "{line}");
    }

    #[test]
    fn answers_of_other_servers() {
        for (text, domain) in [
            (format!("{UUID}:5\n"), None),
            (format!("{UUID}:5 {UUID}:1 3\n"), None),
            (format!("{UUID}:5 4294967295\n"), Some(u32::MAX)),
        ] {
            assert_eq!(parse(text.as_bytes()).unwrap().unwrap().domain, domain, "{text}");
        }
        assert_eq!(parse(format!("{UUID}:5").as_bytes()).unwrap(), None);
    }
}
