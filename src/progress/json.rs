//! Progress as JSON on standard error, one object a line, for programs.

use std::time::Duration;

use serde_json::json;

use super::{Reporter, Snapshot};

/// Objects with the field `event`: `note`, `warning` or `progress`.
#[derive(Debug)]
pub struct Json;

impl Reporter for Json {
    fn note(&self, line: &str) {
        eprintln!("{}", json!({"event": "note", "text": line}));
    }

    fn warn(&self, line: &str) {
        eprintln!("{}", json!({"event": "warning", "text": line}));
    }

    fn progress(&self, now: &Snapshot) {
        eprintln!("{}", object(now));
    }

    fn interval(&self) -> Duration {
        Duration::from_secs(1)
    }
}

fn object(now: &Snapshot) -> serde_json::Value {
    json!({
        "event": "progress",
        "bytes": now.done,
        "total_bytes": now.total,
        "wire_bytes": now.wire,
        "entries": now.entries,
        "round": now.round,
        "seconds": now.elapsed.as_secs_f64(),
        "bytes_per_second": now.rate,
        "eta_seconds": now.eta().map(|eta| eta.as_secs_f64()),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_object_has_the_documented_fields() {
        let object = object(&Snapshot { total: 10, done: 5, rate: 1.0, ..Snapshot::default() });
        assert_eq!(object["eta_seconds"], 5.0);
        assert_eq!(object["bytes"], 5);
        assert_eq!(object.as_object().unwrap().len(), 9);
    }
}
