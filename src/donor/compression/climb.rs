//! The hill climb of `auto`: it counts the bytes the joiner acknowledges, tries the next codec up a ladder if the cores
//! could keep up with it, and keeps that if more bytes arrive. If no core is idle it tries the one below. Pure: time,
//! bytes and idle cores are arguments.

use std::time::{Duration, Instant};

use crate::archive::Codec;

/// From no work for the cores to the most.
const LADDER: [Codec; 5] = [Codec::None, Codec::Lz4, Codec::Zstd(1), Codec::Zstd(3), Codec::Zstd(6)];

/// Roughly how many bytes per second one core compresses at each step: enough to tell what is not worth trying.
const SPEEDS: [f64; 5] = [f64::INFINITY, 450e6, 400e6, 250e6, 100e6];

/// Bytes of files by length, since the transfer began.
#[derive(Clone, Copy, Debug)]
pub(super) struct Count {
    pub(super) written: u64,
    pub(super) packed: u64,
}

/// The hill climb of `auto`.
#[derive(Debug)]
pub(super) struct Climb {
    cores: f64,
    step: usize,
    /// While this step is on trial, the rate of the step it came from.
    trial: Option<(usize, f64)>,
    /// When the current window began, and the bytes and ticks then.
    since: Instant,
    bytes: u64,
    ticks: (u64, u64),
    /// Until this many bytes are written, what arrives was packed before the last change; the time limits the wait,
    /// because what a broken lane packed never arrives.
    settled: (u64, Instant),
    /// Nothing is tried before then; the pause grows with every trial that brought nothing.
    rest: Instant,
    patience: Duration,
    held: bool,
}

impl Climb {
    /// The shortest time to count bytes.
    const WINDOW: Duration = Duration::from_millis(400);
    /// Shorter the first time: a fast link shows itself at once.
    const FIRST: Duration = Duration::from_millis(200);
    /// Bytes that must arrive before a trial is judged, unless `SETTLE` passes first: on a slow link they come in
    /// pieces of 1 MiB.
    const ENOUGH: u64 = 16 << 20;
    const LONG_ENOUGH: Duration = Duration::from_secs(3);
    /// How long after a change what was packed before it may still be arriving, at most.
    const SETTLE: Duration = Duration::from_secs(8);
    const PATIENCE: Duration = Duration::from_secs(10);
    const MOST_PATIENCE: Duration = Duration::from_secs(160);
    /// To be kept, a step must bring a twentieth more.
    const GAIN: f64 = 1.05;
    /// Below this share of idle CPU time, compression competes with the transfer itself.
    const BUSY: f64 = 0.10;
    /// The share of the cores a transfer can claim, however busy others keep them.
    const CLAIM: f64 = 0.35;

    pub(super) fn new(now: Instant, ticks: (u64, u64), cores: usize) -> Climb {
        Climb {
            cores: cores as f64,
            step: 0,
            trial: None,
            since: now,
            bytes: 0,
            ticks,
            settled: (0, now),
            rest: now,
            patience: Self::PATIENCE,
            held: false,
        }
    }

    pub(super) fn codec(&self) -> Codec {
        LADDER[self.step]
    }

    /// Stays where it is from now on; a trial that is not over is none.
    pub(super) fn hold(&mut self) {
        self.step = self.trial.take().map_or(self.step, |(home, _)| home);
        self.held = true;
    }

    pub(super) fn tick(&mut self, now: Instant, count: Count, ticks: impl FnOnce() -> (u64, u64)) {
        let bytes = count.written;
        if self.held {
            return;
        }
        if bytes < self.settled.0 && now < self.settled.1 {
            (self.since, self.bytes) = (now, bytes);
            return;
        }
        let passed = now.saturating_duration_since(self.since);
        let few = bytes.saturating_sub(self.bytes) < Self::ENOUGH && passed < Self::LONG_ENOUGH;
        let window = if self.bytes == 0 { Self::FIRST } else { Self::WINDOW };
        if passed < window || (self.trial.is_some() && few) {
            return;
        }
        let ticks = ticks();
        let rate = bytes.saturating_sub(self.bytes) as f64 / passed.as_secs_f64();
        let total = ticks.1.saturating_sub(self.ticks.1).max(1);
        let idle = ticks.0.saturating_sub(self.ticks.0) as f64 / total as f64;
        let next = match self.trial.take() {
            Some((_, before)) if rate >= before * Self::GAIN => {
                self.patience = Self::PATIENCE;
                self.above(idle, rate)
            }
            Some((home, _)) => {
                self.rest = now + self.patience;
                self.patience = (self.patience * 2).min(Self::MOST_PATIENCE);
                home
            }
            None if now < self.rest => self.step,
            None if idle < Self::BUSY && self.step > 0 => self.step.saturating_sub(1),
            None => self.above(idle, rate),
        };
        if next != self.step {
            let home_again = self.rest > now;
            self.trial = (!home_again).then_some((self.step, rate));
            self.step = next;
            self.settled = (count.packed, now + Self::SETTLE);
        }
        (self.since, self.bytes, self.ticks) = (now, bytes, ticks);
    }

    /// The next step up, if the cores could compress more than what arrives now. From none it is zstd at once: on a
    /// slow link lz4 would only be a detour.
    fn above(&self, idle: f64, rate: f64) -> usize {
        let up = if self.step == 0 { 2 } else { self.step + 1 }.min(LADDER.len() - 1);
        if rate * Self::GAIN > idle.max(Self::CLAIM) * self.cores * SPEEDS[up] { self.step } else { up }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Runs a climb for `seconds` on a link of `link` bytes a second, where each step of the ladder has a
    /// compression ratio, can do so many bytes a second at most and leaves a share of the cores idle. 16 MB
    /// are under way, packed as it was right when they were.
    fn climb(seconds: u64, link: f64, steps: [(f64, f64, f64); 5]) -> Vec<Codec> {
        const UNDER_WAY: f64 = 16e6;
        let start = Instant::now();
        let mut climb = Climb::new(start, (0, 0), 4);
        let (mut written, mut packed, mut idle, mut total) = (0.0, UNDER_WAY, 0.0, 0.0);
        let mut pipe = std::collections::VecDeque::from([(UNDER_WAY, 0)]);
        let mut seen = vec![climb.codec()];
        for tenth in 1..=seconds * 10 {
            let mut time = 0.1;
            while let Some((bytes, step)) = pipe.front_mut().filter(|_| time > 1e-9) {
                let (ratio, most, _) = steps[*step];
                let now = (time * (link * ratio).min(most)).min(*bytes);
                time -= now / (link * ratio).min(most);
                *bytes -= now;
                written += now;
                if *bytes < 1.0 {
                    pipe.pop_front();
                }
                pipe.push_back((now, climb.step));
                packed += now;
            }
            idle += steps[climb.step].2 * 20.0;
            total += 20.0;
            let count = Count { written: written as u64, packed: packed as u64 };
            climb.tick(start + Duration::from_millis(tenth * 100), count, || (idle as u64, total as u64));
            if seen.last() != Some(&climb.codec()) {
                seen.push(climb.codec());
            }
        }
        seen
    }

    const ROWS: [f64; 5] = [1.0, 1.3, 2.5, 2.4, 2.5];

    fn steps(ratios: [f64; 5], most: [f64; 5], idle: [f64; 5]) -> [(f64, f64, f64); 5] {
        std::array::from_fn(|i| (ratios[i], most[i], idle[i]))
    }

    #[test]
    fn a_slow_link_settles_on_what_it_can_use_within_seconds() {
        let slow = steps(ROWS, [900e6, 600e6, 400e6, 250e6, 120e6], [0.9, 0.8, 0.7, 0.5, 0.4]);
        let seen = climb(12, 12e6, slow);
        assert_eq!(seen, [Codec::None, Codec::Zstd(1), Codec::Zstd(3), Codec::Zstd(1)]);
    }

    #[test]
    fn busy_cores_are_left_alone() {
        let fast = steps(ROWS, [900e6, 300e6, 250e6, 150e6, 90e6], [0.02, 0.0, 0.0, 0.0, 0.0]);
        assert_eq!(climb(20, 10e9, fast), [Codec::None]);
    }

    #[test]
    fn a_fast_link_is_not_slowed_by_a_trial() {
        let fast = steps(ROWS, [1e9, 500e6, 450e6, 250e6, 90e6], [0.4, 0.1, 0.1, 0.1, 0.1]);
        assert_eq!(climb(20, 10e9, fast), [Codec::None]);
    }

    #[test]
    fn incompressible_data_is_sent_raw_but_for_rare_trials() {
        let noise = steps([1.0; 5], [900e6, 600e6, 400e6, 250e6, 120e6], [0.6, 0.5, 0.4, 0.3, 0.2]);
        let seen = climb(60, 119e6, noise);
        assert_eq!(seen.iter().filter(|codec| **codec == Codec::Zstd(1)).count(), 3);
        assert_eq!(seen.last(), Some(&Codec::None));
    }

    #[test]
    fn it_climbs_down_when_the_cores_get_busy() {
        let start = Instant::now();
        let mut climb = Climb { step: 2, ..Climb::new(start, (0, 0), 4) };
        climb.tick(start + Duration::from_secs(1), Count { written: 100, packed: 100 }, || (1, 200));
        assert_eq!(climb.codec(), Codec::Lz4);
    }

    #[test]
    fn later_passes_bring_few_bytes_and_change_nothing() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let count = |bytes| Count { written: bytes, packed: bytes };
        let mut climb = Climb::new(start, (0, 0), 4);
        climb.tick(at(1), count(50_000_000), || (100, 400));
        assert_eq!(climb.codec(), Codec::Zstd(1), "on trial");
        climb.hold();
        assert_eq!(climb.codec(), Codec::None);
        climb.tick(at(60), count(60_000_000), || (20_000, 24_000));
        assert_eq!(climb.codec(), Codec::None);
        let mut found = Climb { step: 2, ..Climb::new(start, (0, 0), 4) };
        found.hold();
        assert_eq!(found.codec(), Codec::Zstd(1));
    }
}
