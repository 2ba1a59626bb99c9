//! Work on threads of its own. A thread that panics costs whoever waits for it an error, and nobody else.

use tokio::task::{JoinError, spawn_blocking};

use crate::error::{Error, Kind, Result};

/// Does `work`, which may block, where nobody else has to wait for it.
pub(crate) async fn blocking<T: Send + 'static>(work: impl FnOnce() -> Result<T> + Send + 'static) -> Result<T> {
    ended("a worker thread", spawn_blocking(work).await)
}

/// What became of a task or thread, which `who` names.
pub(crate) fn ended<T>(who: &str, joined: std::result::Result<Result<T>, JoinError>) -> Result<T> {
    joined.unwrap_or_else(|_| Err(Error::new(Kind::Io, format!("{who} ended unexpectedly"))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_panic_is_an_error() {
        assert_eq!(blocking(|| Ok(7)).await.unwrap(), 7);
        let error = blocking(|| -> Result<()> { panic!("on purpose") }).await.unwrap_err();
        assert_eq!(error.sentence(), "a worker thread ended unexpectedly");
    }
}
