//! Progress as JSON on standard error, one object per line, for programs.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::status::{SCHEMA, State, Status, unix};
use super::{Reporter, Snapshot};
use crate::error::Side;

/// Objects with the field `event`: `note`, `warning`, or `progress` with the fields of the status.
#[derive(Debug)]
pub struct Json {
    role: Side,
}

impl Json {
    pub fn new(role: Side) -> Json {
        Json { role }
    }

    fn say(&self, event: &str, text: &str) {
        let time = unix(SystemTime::now());
        super::line(
            &json!({"event": event, "schema": SCHEMA, "time": time, "role": self.role, "text": text}).to_string(),
        );
    }
}

impl Reporter for Json {
    fn note(&self, line: &str) {
        self.say("note", line);
    }

    fn warn(&self, line: &str) {
        self.say("warning", line);
    }

    /// The status has it all.
    fn progress(&self, _: &Snapshot) {}

    fn status(&self, status: &Status) {
        super::line(&progress(status, SystemTime::now()).to_string());
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }
}

/// A status as an object: the fields of the file, plus those that depend on the current time.
pub fn object(status: &Status, state: State, now: SystemTime) -> Value {
    let mut object = json!(status);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("state".into(), json!(state));
        fields.insert("time".into(), json!(unix(now)));
        fields.insert("phase_seconds".into(), json!(status.in_phase(now).as_secs_f64()));
        fields.insert("idle_seconds".into(), json!(status.idle(now).as_secs_f64()));
        fields.insert("frozen_seconds".into(), json!(status.frozen(now).as_secs_f64()));
    }
    object
}

fn progress(status: &Status, now: SystemTime) -> Value {
    let mut object = object(status, State::Running, now);
    if let Some(fields) = object.as_object_mut() {
        fields.insert("event".into(), "progress".into());
    }
    object
}

#[cfg(test)]
mod tests {
    use super::super::Phase;
    use super::*;

    /// The page that says what each field means.
    const PAGE: &str = include_str!("../../docs/status.md");

    #[test]
    fn an_object_has_the_documented_fields_and_no_others() {
        let now = SystemTime::now();
        let mut status = Status::begin(Side::Donor, now);
        status.count(&Snapshot { total: 10, done: 5, rate: 1.0, ..Snapshot::default() }, now);
        let object = progress(&status, now);
        assert_eq!((&object["eta_seconds"], &object["bytes"]), (&5.0.into(), &5.into()));
        let told = object.as_object().unwrap().keys().filter(|name| *name != "event");
        let mut told: Vec<&str> = told.map(String::as_str).collect();
        let (_, table) = PAGE.split_once("| field |").unwrap();
        let row = |line: &'static str| line.strip_prefix("| `")?.split_once('`').map(|(name, _)| name);
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let mut documented: Vec<&str> = rows.filter_map(row).collect();
        told.sort_unstable();
        documented.sort_unstable();
        assert_eq!(told, documented);
        assert!(PAGE.contains(&format!("`schema` is {SCHEMA}")));
    }

    #[test]
    fn the_page_has_a_row_for_each_phase() {
        let (_, table) = PAGE.split_once("| `phase` | side |").unwrap();
        let rows = table.lines().skip(2).take_while(|line| line.starts_with('|'));
        let names: Vec<&str> = rows.filter_map(|row| row.strip_prefix("| `")?.split('`').next()).collect();
        let mut phase = Phase::Waiting;
        for name in &names {
            assert_eq!(json!(phase), *name);
            // A new phase does not compile here before it is documented.
            phase = match phase {
                Phase::Waiting => Phase::Scanning,
                Phase::Scanning => Phase::Connecting,
                Phase::Connecting => Phase::Agreeing,
                Phase::Agreeing => Phase::Copying,
                Phase::Copying => Phase::Pausing,
                Phase::Pausing => Phase::Freezing,
                Phase::Freezing => Phase::Frozen,
                Phase::Frozen => Phase::Verifying,
                Phase::Verifying => Phase::Preparing,
                Phase::Preparing => Phase::Installing,
                Phase::Installing | Phase::Over => Phase::Over,
            };
        }
        assert_eq!((names.last(), names.len()), (Some(&"over"), 12));
    }
}
