//! What the joiner answers, and how long it may take.

use std::time::Duration;

use crate::error::{Error, Kind, Result};
use crate::link::Control;
use crate::wire::Message;

/// Remedies for a joiner that is slow to answer.
pub(super) const OLD_TREE: &str =
    "check its log and its disk; if removing its old data takes that long, raise idle-timeout here";
pub(super) const SLOW: &str = "check its log and its disk; if the disk is only slow, raise idle-timeout here";

/// Waits for the joiner's answer. Heartbeats alone do not extend the wait: the joiner has five times `idle`, because it
/// may still have the last chunks to write; and again as long each time it has removed more of its old tree.
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
    let what = format!("{} is still connected but has not answered for {} s", control.peer(), limit.as_secs_f64());
    Err(Error::new(Kind::Timeout, what).remedy(remedy))
}
