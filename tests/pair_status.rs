//! A transfer seen from outside: `highline status` on both sides, and `--progress json`.

use crate::support::command::{bounded, run, text};
use crate::support::pair::{Ended, LIMIT, Pair};
use crate::support::tree;
use rustix::process::Signal;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

/// `highline status` of a data directory.
fn status(pair: &Pair, datadir: &Path, more: &[&str]) -> Ended {
    pair.run(&[&["status", "--datadir", datadir.to_str().unwrap()], more].concat())
}

fn object(pair: &Pair, datadir: &Path) -> serde_json::Value {
    serde_json::from_str(&status(pair, datadir, &["--json"]).stdout).unwrap()
}

#[track_caller]
fn becomes(pair: &Pair, datadir: &Path, phase: &str) -> serde_json::Value {
    let deadline = Instant::now() + LIMIT;
    loop {
        let now = object(pair, datadir);
        if now["phase"] == phase {
            return now;
        }
        assert!(Instant::now() < deadline, "it is {now}, not {phase}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn it_tells_a_transfer_from_its_beginning_to_its_end() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 12);
    for datadir in [&pair.donor, &pair.joiner] {
        let none = status(&pair, datadir, &[]);
        assert_eq!(none.code(), 3, "{}", none.stdout);
        assert!(none.stdout.contains("no record of an earlier one"), "{}", none.stdout);
    }
    let joiner = pair.receive(&[]);
    let waiting = status(&pair, &pair.joiner, &[]);
    assert_eq!(waiting.code(), 0);
    assert!(waiting.stdout.contains("role  joiner") && waiting.stdout.contains("state  waiting for a donor for"));
    let address = joiner.address().to_string();
    let donor = pair.send(&joiner.ticket, &["--rate-limit", "3M", "--progress", "json"]);
    let watch = ["status", "--watch", "--datadir", pair.joiner.to_str().unwrap()];
    becomes(&pair, &pair.donor, "copying");
    std::thread::sleep(Duration::from_millis(1500));
    for (datadir, role, peer) in [(&pair.donor, "donor", address.as_str()), (&pair.joiner, "joiner", "127.0.0.1:")] {
        let now = object(&pair, datadir);
        assert_eq!((&now["role"], &now["state"], &now["schema"]), (&role.into(), &"running".into(), &1.into()));
        assert!(now["peer"].as_str().unwrap().starts_with(peer), "{now}");
        let number = |name: &str| now[name].as_f64().unwrap();
        assert!(number("wire_bytes") > 0.0 && number("bytes") < number("total_bytes"), "{now}");
        assert!(number("idle_seconds") < 2.0 && number("wire_bytes_per_second") > 0.0, "{now}");
        assert_eq!(status(&pair, datadir, &[]).code(), 0);
    }
    let watched = pair.run(&watch);
    assert_eq!(watched.code(), 0, "{}", watched.stdout);
    assert!(watched.stdout.starts_with("joiner: copying for "), "{}", watched.stdout);
    assert!(watched.stdout.trim_end().lines().last().unwrap().starts_with("joiner: done "), "{}", watched.stdout);
    let (donor, joiner) = (donor.end(LIMIT), joiner.running.end(LIMIT));
    donor.succeeded();
    joiner.succeeded();
    for datadir in [&pair.donor, &pair.joiner] {
        let done = object(&pair, datadir);
        assert_eq!((&done["state"], &done["ended"]["error"]), (&"done".into(), &serde_json::Value::Null));
        assert_eq!(status(&pair, datadir, &[]).code(), 3);
    }
    tree::assert_equal(&pair.donor, &pair.joiner);
    assert_eq!(pair.verify().code(), 0, "what is beside the data is no part of it");

    let told = donor.stderr.lines().map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap());
    let told: Vec<serde_json::Value> = told.collect();
    let phases = told.iter().filter(|event| event["event"] == "progress").map(|event| event["phase"].as_str().unwrap());
    let mut phases: Vec<&str> = phases.collect();
    phases.dedup();
    let order = ["connecting", "agreeing", "scanning", "copying", "scanning", "verifying", "installing"];
    assert_eq!(phases, order, "{}", donor.stderr);
    assert!(told.iter().all(|event| event["role"] == "donor" && event["time"].is_f64() && event["schema"] == 1));
}

#[test]
fn it_knows_stuck_from_killed_from_failed() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 12);
    let joiner = pair.receive(&["--idle-timeout", "8s"]);
    let donor = pair.send(&joiner.ticket, &["--rate-limit", "2M"]);
    becomes(&pair, &pair.joiner, "copying");
    becomes(&pair, &pair.donor, "copying");
    donor.signal(Signal::STOP);
    std::thread::sleep(Duration::from_millis(2500));
    for datadir in [&pair.donor, &pair.joiner] {
        let stuck = status(&pair, datadir, &["--stuck-after", "1s"]);
        assert_eq!(stuck.code(), 4, "{}", stuck.stdout);
        assert!(stuck.stdout.contains("state  stuck: copying, and nothing has moved for "), "{}", stuck.stdout);
        assert_eq!(status(&pair, datadir, &["--stuck-after", "1h"]).code(), 0);
    }
    donor.signal(Signal::KILL);
    let joiner = joiner.running.end(LIMIT);
    assert!(matches!(joiner.code(), 32 | 110), "{}", joiner.stderr);
    let stale = status(&pair, &pair.donor, &[]);
    assert_eq!(stale.code(), 3);
    assert!(stale.stdout.contains("state  stale: it was copying, and its process ("), "{}", stale.stdout);
    let failed = status(&pair, &pair.joiner, &[]);
    assert_eq!(failed.code(), 3);
    assert!(failed.stdout.contains("state  failed "), "{}", failed.stdout);
    let watched = pair.run(&["status", "--watch", "--datadir", pair.joiner.to_str().unwrap()]);
    assert_eq!(watched.code(), joiner.code(), "{}", watched.stdout);
    // The next attempt is the one that is shown, and what the dead one left is in nobody's way.
    pair.arrives(&[], &[]);
    assert_eq!(object(&pair, &pair.donor)["state"], "done");
}

#[test]
fn it_is_for_root_and_the_owner_and_follows_no_link() {
    if !rustix::process::geteuid().is_root() {
        eprintln!("not run: this needs root");
        return;
    }
    let home = tempfile::Builder::new().prefix("status").tempdir_in("/var/tmp").unwrap();
    let mut pair = Pair::beneath(home.path());
    for dir in [home.path(), pair.home()] {
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o755)).unwrap();
    }
    pair.program = home.path().join("highline");
    std::fs::copy(env!("CARGO_BIN_EXE_highline"), &pair.program).unwrap();
    std::os::unix::fs::chown(&pair.joiner, Some(77), Some(78)).unwrap();
    let as_user = |user: &str, group: &str| {
        let mut command = Command::new("setpriv");
        command.args([format!("--reuid={user}"), format!("--regid={group}"), "--clear-groups".into()]);
        command.arg(&pair.program).args(["status", "--datadir"]).arg(&pair.joiner);
        command.output().unwrap()
    };
    let joiner = pair.receive(&[]);
    assert_eq!(status(&pair, &pair.joiner, &[]).code(), 0);
    for (user, group, code) in [("77", "77", 0), ("79", "78", 0), ("79", "79", 13)] {
        let output = as_user(user, group);
        assert_eq!(output.status.code(), Some(code), "{user} {group}: {}", String::from_utf8_lossy(&output.stderr));
    }
    drop(joiner);
    let file = pair.joiner.join(".highline.status");
    std::fs::remove_file(&file).unwrap();
    std::os::unix::fs::symlink("/etc/shadow", &file).unwrap();
    let refused = status(&pair, &pair.joiner, &[]);
    assert!(!matches!(refused.code(), 0 | 3 | 4) && !refused.stderr.contains("root:"), "{}", refused.stderr);
}

/// The exposition format and the names, judged by Prometheus' own tool.
#[track_caller]
fn prometheus_takes(file: &Path) -> String {
    let mut tool = bounded(LIMIT, "promtool");
    tool.args(["check", "metrics"]).stdin(std::fs::File::open(file).unwrap());
    let told = run(&mut tool);
    let (metrics, said) = (std::fs::read_to_string(file).unwrap(), text(&told.stderr));
    assert!(told.status.success() && said.is_empty(), "promtool ({}): {said}\n{metrics}", told.status);
    metrics
}

#[test]
fn it_keeps_metrics_that_prometheus_takes() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 12);
    let files = ["donor", "joiner"].map(|role| (role, pair.home().join(role).with_extension("prom")));
    let [from, to] = files.each_ref().map(|(_, file)| ["--metrics", file.to_str().unwrap()]);
    let joiner = pair.receive(&to);
    let donor = pair.send(&joiner.ticket, &[&from[..], &["--rate-limit", "3M"]].concat());
    becomes(&pair, &pair.donor, "copying");
    std::thread::sleep(Duration::from_millis(500));
    for (role, file) in &files {
        let metrics = prometheus_takes(file);
        assert!(metrics.contains(&format!("highline_transfer_running{{role=\"{role}\"}} 1\n")), "{metrics}");
        assert!(!metrics.contains("highline_last_transfer"), "there was none: {metrics}");
    }
    donor.end(LIMIT).succeeded();
    joiner.running.end(LIMIT).succeeded();
    for (role, file) in &files {
        let metrics = prometheus_takes(file);
        for line in
            ["highline_transfer_running{role=\"ROLE\"} 0\n", "highline_last_transfer_success{role=\"ROLE\"} 1\n"]
        {
            assert!(metrics.contains(&line.replace("ROLE", role)), "{metrics}");
        }
    }
}

#[test]
fn the_rate_is_changed_while_bytes_flow() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 24);
    let rate = |datadir: &Path, limit: &str| pair.run(&["rate", limit, "--datadir", datadir.to_str().unwrap()]);
    rate(&pair.donor, "5M").failed(2, &["no transfer is sending"]);
    let joiner = pair.receive(&[]);
    let donor = pair.send(&joiner.ticket, &["--rate-limit", "1M", "--compress", "none"]);
    becomes(&pair, &pair.donor, "copying");
    rate(&pair.joiner, "5M").failed(22, &["the rate is set on the donor"]);
    let changed = rate(&pair.donor, "8M");
    changed.succeeded();
    assert_eq!(changed.stdout, "8.4 MB/s from now on (was 1.0 MB/s)\n");
    donor.says("rate-limit is 8.4 MB/s from now on: set with `highline rate`");
    assert_eq!(object(&pair, &pair.donor)["rate_limit"], 8 << 20);
    assert_eq!(rate(&pair.donor, "0").stdout, "no limit from now on (was 8.4 MB/s)\n");
    let donor = donor.end(Duration::from_secs(10));
    donor.succeeded();
    assert!(donor.took < Duration::from_secs(9), "24 MB at 1 MB/s would take longer: {:?}", donor.took);
    joiner.running.end(LIMIT).succeeded();
}
