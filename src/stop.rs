//! A request to stop: a signal, or a database server that is gone.

use std::sync::Arc;

use rustix::process::Signal;
use tokio::sync::watch;

use crate::error::{Error, Kind, Result};

/// Why a transfer must end now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// A signal, by name.
    Signal(&'static str),
    /// The database server that started this process.
    ServerGone { pid: u32 },
}

impl Reason {
    pub fn into_error(self) -> Error {
        match self {
            Reason::Signal(name) => Error::new(Kind::Interrupted, format!("ended by {name}"))
                .remedy("start the transfer again when it may go on"),
            Reason::ServerGone { pid } => {
                Error::new(Kind::ServerGone, format!("the database server (process {pid}) is gone"))
                    .remedy("see its error log for why it ended")
            }
        }
    }
}

/// Learns of a request to stop. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Stop {
    reason: watch::Receiver<Option<Reason>>,
    /// Held so that waiting for a request never ends without one.
    _sender: Arc<watch::Sender<Option<Reason>>>,
}

/// Requests the stop.
#[derive(Clone, Debug)]
pub struct Stopper(Arc<watch::Sender<Option<Reason>>>);

impl Stopper {
    /// The first reason stays.
    pub fn stop(&self, reason: Reason) {
        self.0.send_if_modified(|known| {
            let first = known.is_none();
            if first {
                *known = Some(reason);
            }
            first
        });
    }
}

impl Stop {
    pub fn pair() -> (Stopper, Stop) {
        let (sender, reason) = watch::channel(None);
        let sender = Arc::new(sender);
        (Stopper(Arc::clone(&sender)), Stop { reason, _sender: sender })
    }

    /// Never requested.
    pub fn never() -> Stop {
        Stop::pair().1
    }

    /// Resolves when a stop is requested. Cancel-safe.
    pub async fn requested(&self) -> Error {
        let mut reason = self.reason.clone();
        let asked = reason.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        match asked {
            Some(reason) => reason.into_error(),
            None => std::future::pending().await,
        }
    }

    /// A stop requested by SIGTERM, SIGHUP and SIGINT, which then no longer kill the process, nor does SIGXFSZ. Needs a
    /// runtime.
    ///
    /// # Errors
    /// The kernel has no room for another watcher.
    pub fn on_signals() -> Result<(Stopper, Stop)> {
        use tokio::signal::unix::{SignalKind, signal};
        let (stopper, stop) = Stop::pair();
        let kinds = [
            (SignalKind::terminate(), "SIGTERM"),
            (SignalKind::hangup(), "SIGHUP"),
            (SignalKind::interrupt(), "SIGINT"),
        ];
        for (kind, name) in kinds {
            let mut signal = signal(kind).map_err(|e| Error::new(Kind::Io, "cannot watch for signals").because(e))?;
            let stopper = stopper.clone();
            tokio::spawn(async move {
                if signal.recv().await.is_some() {
                    stopper.stop(Reason::Signal(name));
                }
            });
        }
        // A file that may not grow (setrlimit(2), RLIMIT_FSIZE) is an error that tells itself, not a death without a word.
        let _ = signal(SignalKind::from_raw(Signal::XFSZ.as_raw()));
        Ok((stopper, stop))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_first_reason_stays() {
        let (stopper, stop) = Stop::pair();
        stopper.stop(Reason::ServerGone { pid: 7 });
        stopper.stop(Reason::Signal("SIGTERM"));
        let error = stop.requested().await;
        assert_eq!(
            error.report(),
            "the database server (process 7) is gone\n  remedy: see its error log for why it ended"
        );
    }
}
