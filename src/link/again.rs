//! Where a conversation's next connection comes from once one is lost, and how long to wait for it.

use std::time::{Duration, Instant};

use tokio::sync::mpsc;

use super::dial::Missed;
use super::{Dialer, Stream};
use crate::error::{Error, Kind, PEER_ENDED, Result};
use crate::wire::Purpose;

#[derive(Debug)]
pub(super) enum Again {
    /// From nowhere: the first loss is the end.
    Never,
    /// The donor dials.
    Dial(Box<Dialer>, Purpose),
    /// The joiner waits.
    Wait(mpsc::Receiver<Stream>),
}

impl Again {
    /// A new connection that replaces one which, as far as this side knows, still works. Cancel-safe.
    pub(super) async fn replaced(&mut self) -> Stream {
        if let Again::Wait(coming) = self
            && let Some(stream) = coming.recv().await
        {
            return stream;
        }
        std::future::pending().await
    }

    /// The next connection, after `broken` ended one at `since`. Waits for `idle`, unless the joiner is found to be
    /// gone.
    pub(super) async fn next(&mut self, broken: Error, since: Instant, idle: Duration, peer: &str) -> Result<Stream> {
        let late = |broken: &Error| {
            let what = format!("{}, and no new one could be made for {} s", broken.sentence(), idle.as_secs_f32());
            Error::new(broken.kind(), what)
                .remedy("check the log on the other side and the link; idle-timeout sets how long it may be down")
        };
        match self {
            Again::Never => Err(broken),
            Again::Wait(coming) => {
                let left = idle.saturating_sub(since.elapsed());
                tokio::time::timeout(left, coming.recv()).await.ok().flatten().ok_or_else(|| late(&broken))
            }
            Again::Dial(dialer, purpose) => {
                let mut tries = Tries::new(since, idle);
                loop {
                    let refused = match dialer.dial_once(*purpose, tries.left(Instant::now())).await {
                        Ok(stream) => return Ok(stream),
                        Err(Missed::Failed(error)) => return Err(error),
                        Err(Missed::Refused) => true,
                        Err(Missed::Lost) => false,
                    };
                    match tries.after(Instant::now(), refused) {
                        Next::Try(pause) => tokio::time::sleep(pause).await,
                        Next::Late => return Err(late(&broken)),
                        Next::Gone => {
                            let what = format!("{peer} closed the connection, and nobody is listening there any more");
                            return Err(Error::new(Kind::Disconnected, what).remedy(PEER_ENDED));
                        }
                    }
                }
            }
        }
    }
}

/// What follows a failed try.
#[derive(Debug, PartialEq, Eq)]
enum Next {
    Try(Duration),
    /// A living joiner listens until its end: its host answers, but it does not.
    Gone,
    Late,
}

/// Attempts to reach a joiner again.
#[derive(Debug)]
struct Tries {
    since: Instant,
    idle: Duration,
    pause: Duration,
    /// Since when every try has been refused, and how many.
    refused: Option<(Instant, u32)>,
}

impl Tries {
    const PAUSE: Duration = Duration::from_millis(100);
    const LONGEST_PAUSE: Duration = Duration::from_millis(400);
    /// How long, and how often, a port must refuse before the joiner counts as gone: a packet filter that is being
    /// reloaded may refuse for a moment too.
    const GONE: Duration = Duration::from_secs(1);
    const REFUSALS: u32 = 4;

    fn new(since: Instant, idle: Duration) -> Tries {
        Tries { since, idle, pause: Self::PAUSE, refused: None }
    }

    fn left(&self, now: Instant) -> Duration {
        self.idle.saturating_sub(now.saturating_duration_since(self.since))
    }

    fn after(&mut self, now: Instant, refused: bool) -> Next {
        self.refused = refused.then(|| self.refused.map_or((now, 1), |(first, count)| (first, count + 1)));
        if let Some((first, count)) = self.refused
            && count >= Self::REFUSALS
            && now.saturating_duration_since(first) >= Self::GONE
        {
            return Next::Gone;
        }
        let (left, pause) = (self.left(now), self.pause);
        self.pause = (pause * 2).min(Self::LONGEST_PAUSE);
        if left.is_zero() { Next::Late } else { Next::Try(pause.min(left)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// When the tries end, and how, if each fails at once.
    fn ends(idle: u64, refused: impl Fn(u64) -> bool) -> (u64, Next) {
        let start = Instant::now();
        let mut tries = Tries::new(start, Duration::from_millis(idle));
        let mut at = 0;
        loop {
            match tries.after(start + Duration::from_millis(at), refused(at)) {
                Next::Try(pause) => at += pause.as_millis() as u64,
                end => return (at, end),
            }
        }
    }

    #[test]
    fn a_port_that_refuses_is_given_up_soon_and_a_link_that_is_cut_is_not() {
        assert_eq!(ends(120_000, |_| true), (1100, Next::Gone));
        assert_eq!(ends(120_000, |_| false), (120_000, Next::Late));
        // It refuses for a moment, or is silent in between.
        assert_eq!(ends(10_000, |at| at < 1000).1, Next::Late);
        assert_eq!(ends(10_000, |at| at / 100 % 8 != 3).1, Next::Late);
        // After a silence that was long.
        assert_eq!(ends(10_000, |at| at > 5000), (6300, Next::Gone));
        assert_eq!(ends(300, |_| true), (300, Next::Late));
    }
}
