//! What `mariadb-backup` says on standard error: which of it belongs in the log, and which is the cause of a failure.

use std::io::Read;
use std::sync::Arc;
use std::thread::JoinHandle;

use crate::programs::lines;
use crate::progress::Reporter;

/// The longest line that is kept, in bytes.
const LINE: u64 = 4096;

/// A thread that reads it until the program has ended, and returns the cause of a failure if the program gave one.
pub(super) fn listen(
    said: impl Read + Send + 'static,
    reporter: Arc<dyn Reporter>,
    alive: impl Fn() + Send + 'static,
) -> JoinHandle<Option<String>> {
    std::thread::spawn(move || {
        let (mut cause, mut last) = (None, None);
        lines(said, LINE, |line| {
            alive();
            let told = bare(line);
            if told.is_empty() {
                return;
            }
            match weight(told) {
                Weight::Detail => {}
                Weight::Note => reporter.note(&format!("mariadb-backup: {told}")),
                Weight::Warning => reporter.warn(&format!("mariadb-backup: {told}")),
                Weight::Error => {
                    reporter.warn(&format!("mariadb-backup: {told}"));
                    // The first says why; the others are consequences.
                    cause.get_or_insert_with(|| told.to_owned());
                }
            }
            last = Some(told.to_owned());
        });
        cause.or(last)
    })
}

/// A line without the thread and the time before it: `[00] 2026-11-25 10:00:00 `.
fn bare(line: &str) -> &str {
    let mut rest = line;
    for lead in [thread, date, time] {
        rest = lead(rest).unwrap_or(rest).trim_start();
    }
    rest
}

fn thread(line: &str) -> Option<&str> {
    let (number, rest) = line.strip_prefix('[')?.split_once(']')?;
    number.bytes().all(|byte| byte.is_ascii_digit()).then_some(rest)
}

fn date(line: &str) -> Option<&str> {
    let (date, rest) = line.split_once(' ')?;
    (date.len() == 10 && date.bytes().all(|byte| byte.is_ascii_digit() || byte == b'-')).then_some(rest)
}

fn time(line: &str) -> Option<&str> {
    let (time, rest) = line.split_once(' ')?;
    (!time.is_empty() && time.bytes().all(|byte| byte.is_ascii_digit() || byte == b':')).then_some(rest)
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Weight {
    /// Two lines for each table, one every second.
    Detail,
    Note,
    Warning,
    Error,
}

fn weight(line: &str) -> Weight {
    let lower = line.to_ascii_lowercase();
    let begins = |words: &[&str]| words.iter().any(|word| lower.starts_with(word));
    let holds = |words: &[&str]| words.iter().any(|word| lower.contains(word));
    if holds(&["error", "failed", "denied", "cannot ", "can't ", "corrupt", "signal "])
        && !begins(&["copying", "streaming"])
    {
        return Weight::Error;
    }
    if holds(&["[warning]", "warning:", "warning "]) {
        return Weight::Warning;
    }
    if begins(&["starting backup stage", "finished backup stage", "acquired locks", "last binlog", "completed ok"])
        || holds(&["to recover", "starting crash recovery", "redo log (from"])
    {
        return Weight::Note;
    }
    Weight::Detail
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::progress::Recorder;

    #[test]
    fn the_log_is_short_and_the_first_error_is_the_cause() {
        let said = "[00] 2026-11-25 10:00:00 Connecting to MariaDB server host: localhost\n\
                    [01] 2026-11-25 10:00:01 Streaming ./a/error.ibd\n\
                    [00] 2026-11-25 10:00:02 Acquired locks for BACKUP STAGE BLOCK_COMMIT\n\
                    2026-11-25 10:00:03 0 [Warning] InnoDB: slow\n\
                    [00] 2026-11-25 10:00:04 Failed to connect to MariaDB server: Access denied for user 'x'@'localhost'.\n\
                    [00] FATAL ERROR: 2026-11-25 10:00:05 gives up\x1b[2J\n";
        let recorder = Arc::new(Recorder::default());
        let count = Arc::new(std::sync::atomic::AtomicU32::new(0));
        let counted = Arc::clone(&count);
        let alive = move || _ = counted.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let cause = listen(std::io::Cursor::new(said), Arc::clone(&recorder) as _, alive).join().unwrap();
        assert_eq!(cause.unwrap(), "Failed to connect to MariaDB server: Access denied for user 'x'@'localhost'.");
        assert_eq!(count.load(std::sync::atomic::Ordering::Relaxed), 6);
        let told = format!("{recorder:?}");
        for (words, there) in
            [("Acquired locks", true), ("slow", true), ("gives up", true), ("error.ibd", false), ("\x1b", false)]
        {
            assert_eq!(told.contains(words), there, "{words}: {told}");
        }
    }
}
