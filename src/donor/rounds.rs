//! Another unlocked pass, or the freeze? And under the freeze: read, or clone?
//!
//! Pure: the figures of earlier passes and the expected cost of a freeze are arguments.

use crate::choice::words;
use crate::progress::bytes;

/// The most unlocked passes.
const MOST: usize = 5;
/// A pass must take at most this share of the one before it, or another would gain little.
const SHORTER: f64 = 0.7;
/// Seconds under the lock that are good enough.
const ENOUGH: f64 = 1.0;
/// Bytes. A smaller tree is copied in one pass: a second look would take about as long.
const SMALL: u64 = 64 << 20;
/// With a rate limit, this many seconds of it count as small.
const MOMENT: u64 = 1;

/// How the donor's server is frozen: `freeze`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum FreezeMode {
    /// Whatever is estimated to make the freeze shortest.
    #[default]
    Auto,
    /// Passes while the server runs, then what changed is read under the lock.
    Rounds,
    /// Passes while the server runs, then what changed is cloned under the lock if the filesystem can.
    Clone,
    /// One pass, all of it under the lock.
    Whole,
}

words!(FreezeMode { Auto = "auto", Rounds = "rounds", Clone = "clone", Whole = "whole" });

/// The figures of one unlocked pass.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Pass {
    pub(super) seconds: f64,
    /// Bytes read, and bytes sent on the wire.
    pub(super) read: u64,
    pub(super) wire: u64,
    /// Of these, bytes that the joiner had before the transfer; they say nothing about what changes meanwhile.
    pub(super) reused: u64,
}

/// What would have to be read under the lock if the freeze came now.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Outlook {
    /// Bytes of files that changed since they were read.
    pub(super) changed: u64,
}

impl FreezeMode {
    /// Whether the tree is copied in one pass under the lock.
    ///
    /// `rate` is the limit in bytes a second.
    pub fn is_whole(self, bytes: u64, rate: Option<u64>) -> bool {
        match self {
            FreezeMode::Whole => true,
            FreezeMode::Auto => bytes < SMALL && rate.is_none_or(|rate| bytes < rate.saturating_mul(MOMENT)),
            FreezeMode::Rounds | FreezeMode::Clone => false,
        }
    }

    /// Whether changed files are cloned under the lock, if they can be.
    pub(super) fn clones(self, passes: &[Pass], outlook: Outlook) -> bool {
        match self {
            FreezeMode::Clone => true,
            FreezeMode::Auto => seconds_to_read(passes, outlook) > ENOUGH,
            FreezeMode::Rounds | FreezeMode::Whole => false,
        }
    }

    /// One line for the log: what the freeze is expected to cost.
    pub(super) fn expects(self, passes: &[Pass], outlook: Outlook) -> String {
        let clones = if self.clones(passes, outlook) { "; they will be cloned if the filesystem can" } else { "" };
        format!(
            "{} of files changed since they were read; reading them under the lock would take about {:.1} s{clones}",
            bytes(outlook.changed),
            seconds_to_read(passes, outlook)
        )
    }
}

/// Seconds under the lock, from the fastest reading rate of all passes and the share of bytes that the last one had to
/// send.
pub(super) fn seconds_to_read(passes: &[Pass], outlook: Outlook) -> f64 {
    let rate =
        |of: fn(&Pass) -> u64| passes.iter().map(|pass| of(pass) as f64 / pass.seconds.max(1e-3)).fold(1.0, f64::max);
    let share =
        passes.last().map_or(1.0, |last| last.wire as f64 / last.read.saturating_sub(last.reused).max(1) as f64);
    let changed = outlook.changed as f64;
    (changed / rate(|pass| pass.read)).max(changed * share / rate(|pass| pass.wire))
}

/// Whether another unlocked pass is worth it before the freeze. `over`: a freeze now would exceed freeze-limit.
pub(super) fn another(passes: &[Pass], outlook: Outlook, over: bool) -> bool {
    let shrinking = match passes {
        [] | [_] => true,
        [.., before, last] => last.seconds < before.seconds * SHORTER,
    };
    passes.len() < MOST && (over || (shrinking && seconds_to_read(passes, outlook) > ENOUGH))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pass(seconds: f64, read: u64, wire: u64) -> Pass {
        Pass { seconds, read, wire, reused: 0 }
    }

    const GB: u64 = 1_000_000_000;

    #[test]
    fn the_estimate_is_what_takes_longer_of_reading_and_sending() {
        let changed = Outlook { changed: GB };
        // Read at 1 GB/s, and all of it sent.
        assert!((seconds_to_read(&[pass(10.0, 10 * GB, 10 * GB)], changed) - 1.0).abs() < 1e-9);
        // A link of 0.1 GB/s.
        assert!((seconds_to_read(&[pass(100.0, 10 * GB, 10 * GB)], changed) - 10.0).abs() < 1e-9);
        // The second pass had to send a tenth of what it read.
        let passes = [pass(100.0, 10 * GB, 10 * GB), pass(1.0, GB, GB / 10)];
        assert!((seconds_to_read(&passes, changed) - 1.0).abs() < 1e-9);
        assert!(seconds_to_read(&passes, Outlook { changed: 0 }) < 1e-9);
        // Nine tenths were there before; what changes has to be sent all the same.
        let reusing = Pass { reused: 9 * GB, ..pass(10.0, 10 * GB, GB) };
        assert!((seconds_to_read(&[reusing], changed) - 10.0).abs() < 1e-9);
    }

    #[test]
    fn passes_go_on_while_each_is_shorter_and_the_freeze_would_be_long() {
        let hot = Outlook { changed: 5 * GB };
        let first = pass(10.0, 10 * GB, 10 * GB);
        let second = |seconds| pass(seconds, 5 * GB, 5 * GB);
        for (passes, outlook, over, more) in [
            (vec![], hot, false, true),
            (vec![first], hot, false, true),
            (vec![first], Outlook { changed: GB / 2 }, false, false),
            (vec![first, second(5.0)], hot, false, true),
            (vec![first, second(8.0)], hot, false, false),
            (vec![first, second(8.0)], hot, true, true),
            (vec![first; 5], hot, true, false),
        ] {
            assert_eq!(another(&passes, outlook, over), more, "{passes:?} {over}");
        }
    }

    #[test]
    fn the_mode_decides_where_it_is_given() {
        let (slow, fast) = (Outlook { changed: 5 * GB }, Outlook { changed: 1 });
        let passes = [pass(1.0, GB, GB)];
        for (mode, whole, when_slow, when_fast) in [
            (FreezeMode::Auto, false, true, false),
            (FreezeMode::Rounds, false, false, false),
            (FreezeMode::Clone, false, true, true),
            (FreezeMode::Whole, true, false, false),
        ] {
            assert_eq!(mode.is_whole(GB, None), whole, "{mode:?}");
            assert_eq!((mode.clones(&passes, slow), mode.clones(&passes, fast)), (when_slow, when_fast), "{mode:?}");
        }
        let small = |mode: FreezeMode, rate| mode.is_whole(1 << 20, rate);
        assert!(small(FreezeMode::Auto, None) && small(FreezeMode::Auto, Some(2 << 20)));
        assert!(!small(FreezeMode::Auto, Some(1 << 19)) && !small(FreezeMode::Rounds, None));
    }
}
