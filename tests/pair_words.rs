//! What a person at a terminal is told: causes once, first and with a remedy.

use crate::support::command::{bounded, run, text};
use crate::support::pair::{LIMIT, Pair, SECONDS};
use crate::support::tree;
use rustix::process::Signal;
use std::io::Write;
use std::net::{TcpListener, TcpStream};
use std::time::Duration;

#[test]
fn a_joiner_that_is_told_to_end_says_that_nothing_was_changed() {
    for waits in [true, false] {
        let pair = Pair::default();
        tree::plain(&pair.donor, 8);
        tree::old(&pair.joiner);
        let before = tree::read(&pair.joiner);
        let joiner = pair.receive(&[]);
        let donor = (!waits).then(|| pair.send(&joiner.ticket, &["--rate-limit", "2M"]));
        if !waits {
            joiner.running.says("agreed with the donor");
        }
        joiner.running.signal(Signal::INT);
        let joiner = joiner.running.end(SECONDS);
        joiner.failed(4, &["ended by SIGINT"]);
        joiner.said("this node's data is unchanged\n");
        tree::assert_same(&before, &tree::read(&pair.joiner));
        if let Some(donor) = donor {
            let donor = donor.end(SECONDS);
            donor.failed(4, &["joiner: ended by SIGINT"]);
            assert!(donor.stderr.matches("broke and is being dialled again").count() < 2, "{}", donor.stderr);
        }
    }
}

#[test]
fn a_peer_that_is_killed_is_told_once_and_with_a_remedy() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 8);
    let joiner = pair.receive(&[]);
    let donor = pair.send(&joiner.ticket, &["--rate-limit", "2M"]);
    donor.says("agreed with");
    std::thread::sleep(Duration::from_millis(500));
    joiner.running.signal(Signal::KILL);
    let donor = donor.end(SECONDS);
    donor.failed(32, &["closed the connection, and nobody is listening there any more"]);
    donor.failed(32, &["remedy: see its log for why it ended; if it says nothing, its process was killed"]);
    assert!(donor.stderr.matches("broke and is being dialled again").count() < 2, "{}", donor.stderr);
}

#[test]
fn a_port_that_is_taken_is_busy() {
    let pair = Pair::default();
    let taken = TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = taken.local_addr().unwrap().to_string();
    let joiner = pair.joiner.to_str().unwrap();
    let busy = pair.run(&["receive", "--datadir", joiner, "--listen", &listen]);
    busy.failed(16, &["cannot listen on", "Address already in use"]);
    let typed = pair.run(&["receive", "--datadir", joiner, "--connect-timeout", "3s"]);
    assert_eq!(typed.code(), 22, "a joiner dials nobody: {}", typed.stderr);
}

#[test]
fn a_refusal_names_the_caller_once() {
    let pair = Pair::default();
    let joiner = pair.receive(&["--initial-timeout", "2s"]);
    let mut stranger = TcpStream::connect(joiner.address()).unwrap();
    stranger.write_all(b"GET / HTTP/1.0\r\n\r\n").unwrap();
    let from = format!("refused a connection from {}: ", stranger.local_addr().unwrap());
    let joiner = joiner.running.end(LIMIT);
    let line = joiner.stderr.lines().find(|line| line.contains(&from)).unwrap_or_else(|| panic!("{}", joiner.stderr));
    assert_eq!(line.matches(&stranger.local_addr().unwrap().to_string()).count(), 1, "{line}");
}

#[test]
fn a_wait_says_where_it_listens_and_where_it_is_dialled() {
    let pair = Pair::default();
    let joiner = pair.receive(&["--advertise", "localhost"]);
    joiner.running.says("waiting for a donor at localhost:");
    joiner.running.says("(this node listens on 127.0.0.1:");
}

/// On a terminal: nothing is drawn before there is something to count, and sixty columns are enough.
#[test]
fn a_bar_is_drawn_when_there_is_something_to_count() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 6);
    let program = pair.program.display();
    let line = format!(
        "stty rows 24 cols 60; {program} receive --datadir {} --listen 127.0.0.1:0 --progress none | {program} send --datadir {} \
         --rate-limit 2M - >/dev/null",
        pair.joiner.display(),
        pair.donor.display()
    );
    let shown = run(bounded(LIMIT, "script").args(["-qec", &line, "/dev/null"]));
    let shown = text(&shown.stdout);
    assert!(shown.contains(" of 7.2 MB  "), "{shown:?}");
    assert!(!shown.contains("0 B of 0 B"), "{shown:?}");
    // Each redrawn line fits: what a narrow terminal wraps is never cleared.
    let drawn = shown.split(['\r', '\n']).filter(|line| line.contains('█') || line.contains('░'));
    let widest = drawn.map(|line| plain(line).trim_end().chars().count()).max().unwrap();
    assert!(widest <= 60, "{widest}: {shown:?}");
}

/// Without the terminal's control sequences.
fn plain(line: &str) -> String {
    let mut text = String::new();
    let mut rest = line;
    while let Some((before, after)) = rest.split_once('\u{1b}') {
        text.push_str(before);
        rest = after.trim_start_matches('[').trim_start_matches(|c: char| c.is_ascii_digit() || c == ';');
        rest = rest.get(1..).unwrap_or_default();
    }
    text + rest
}

#[test]
fn a_result_for_programs_has_the_peers_name_as_it_is() {
    let pair = Pair::default();
    tree::plain(&pair.donor, 1);
    let both = pair.arrives(&[], &["--json"]);
    let result: serde_json::Value = serde_json::from_str(&both.donor.stdout).unwrap();
    assert_eq!(result["session"]["peer"], "CN=highline, this run only");
    both.donor.said("peer \"CN=highline, this run only\" verified by pin");
}
