//! What the joiner answers, and how long it may take.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::link::Control;
use crate::wire::Message;

/// Remedies for a joiner that is slow to answer.
pub(super) const OLD_TREE: &str =
    "see its log and its disk; where removing its old tree takes that long, raise idle-timeout here";
pub(super) const SLOW: &str = "see its log and its disk; where that is only slow, raise idle-timeout here";

/// What the joiner answers. Heartbeats alone do not extend the wait: it has five times `idle`, for before it has verified it
/// may have the last chunks to write; and again from each time that it has removed more of its old tree.
pub(super) async fn answer<T>(
    control: &mut Control,
    idle: Duration,
    remedy: &'static str,
    pick: impl FnOnce(Message) -> std::result::Result<T, Message>,
) -> Result<T> {
    let limit = idle.saturating_mul(5);
    let mut removed = 0;
    let mut deadline = tokio::time::Instant::now() + limit;
    while let Ok(message) = tokio::time::timeout_at(deadline, control.next()).await {
        match message? {
            Message::Removing { entries } if entries > removed => {
                removed = entries;
                deadline = tokio::time::Instant::now() + limit;
            }
            Message::Removing { .. } => {}
            answer => return pick(answer).map_err(|other| control.unexpected(&other)),
        }
    }
    let what = format!("{} is still connected but has not answered for {} s", control.peer(), limit.as_secs());
    Err(Error::new(Kind::Timeout, what).remedy(remedy))
}
