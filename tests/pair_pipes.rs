//! Byte streams: the consumer gets every byte in order, or never sees an end.

use crate::support::faulty_link::{Fate, Fault, FaultyLink, WELL};
use crate::support::pair::{Both, Joiner, LIMIT, Pair, Running, SECONDS, redirected};
use crate::support::pipe::{KEEP, Pipes};
use rustix::process::{Pid, Signal, kill_process, kill_process_group};
use std::time::{Duration, Instant};

const MIB: usize = 1 << 20;

#[test]
fn any_number_of_bytes_arrives_in_order() {
    for size in [0, 1, 4095, MIB - 1, MIB, MIB + 1, 70 * MIB + 7] {
        let pipes = Pipes::default();
        let sent = pipes.fill(size);
        let both = pipes.stream("cat in", KEEP);
        both.succeeded();
        assert!(pipes.kept().unwrap() == sent, "{size}");
        both.joiner.said("every byte matches the donor's seal");
        assert_eq!(both.donor.stderr.contains("warning: the stream was empty"), size == 0);
    }
}

#[test]
fn standard_input_arrives_at_standard_output() {
    for size in [0, 1, 5 * MIB + 3] {
        let pipes = Pipes::default();
        let sent = pipes.fill(size);
        let joiner = pipes.receive_stdout("", "> out");
        let donor = pipes.send_stdin(&joiner.ticket, "cat in");
        Both::of(donor, joiner, LIMIT).succeeded();
        assert!(std::fs::read(pipes.path("out")).unwrap() == sent, "{size}");
    }
}

#[test]
fn results_and_progress_leave_the_stream_alone() {
    let pipes = Pipes::default();
    pipes.fill(3 * MIB);
    let joiner = pipes.receive_stdout("--progress json --json", "> out");
    let options = ["--progress=json", "--json"];
    let donor = pipes.send(&joiner.ticket, &options, "cat in; echo a word >&2");
    let both = Both::of(donor, joiner, LIMIT);
    both.succeeded();
    assert_eq!(std::fs::metadata(pipes.path("out")).unwrap().len(), 3 << 20);
    let report: serde_json::Value = serde_json::from_str(&both.donor.stdout).unwrap();
    assert_eq!((&report["bytes"], &report["lanes"]), (&(3u64 << 20).into(), &8.into()));
    for end in [&both.donor, &both.joiner] {
        // The first line of the joiner's is the ticket.
        let lines = end.stderr.lines().filter(|line| !line.ends_with("/highline/1"));
        lines.for_each(|line| drop(serde_json::from_str::<serde_json::Value>(line).expect(line)));
    }
    assert!(both.donor.stderr.contains("sh: a word"));
}

#[test]
fn cut_connections_are_invisible_to_both_programs() {
    let pipes = Pipes::default();
    let sent = pipes.fill(60 * MIB);
    let joiner = pipes.receive(&[], KEEP);
    // Every connection of the first forty ends, the control connection soon, a lane within some of its first pieces.
    let fate = |number: usize| match number {
        0 => Fate { back: Fault::Cut(1500), ..WELL },
        1..40 => Fate { there: Fault::Cut(200_000 + number as u64 * 150_000), ..WELL },
        _ => WELL,
    };
    let link = FaultyLink::to(joiner.address(), fate);
    let donor = pipes.send(&redirected(&joiner.ticket, link.address), &["--compress=none"], "cat in");
    let both = Both::of(donor, joiner, LIMIT);
    both.succeeded();
    assert!(pipes.kept().unwrap() == sent);
    assert!(link.connections() > 20, "{}", link.connections());
    both.donor.said("is being dialled again");
}

#[test]
fn a_cut_of_everything_is_waited_for() {
    let pipes = Pipes::default();
    let sent = pipes.fill(40 * MIB);
    let joiner = pipes.receive(&[], KEEP);
    let link = FaultyLink::to(joiner.address(), |_| Fate { rate: 20_000_000, ..WELL });
    let donor = pipes.send(&redirected(&joiner.ticket, link.address), &["--lanes=3"], "cat in");
    link.passed(5_000_000);
    link.down();
    std::thread::sleep(Duration::from_secs(1));
    link.up();
    Both::of(donor, joiner, LIMIT).succeeded();
    assert!(pipes.kept().unwrap() == sent);
}

/// One that takes nothing for longer than the idle deadline is no failure, and costs neither side memory.
#[test]
fn a_slow_consumer_bounds_the_memory_of_both_sides() {
    let pipes = Pipes::default();
    let idle = ["--idle-timeout=1s"];
    let joiner = pipes.receive(&idle, "sleep 4; wc -c > out; echo > ended");
    let options = [&idle[..], &["--lanes=2", "--compress=none"]].concat();
    // What it has written so far is in `so-far`.
    let script = "for i in $(seq 400); do head -c 1048576 /dev/urandom; echo $i >> so-far; done";
    let donor = pipes.send(&joiner.ticket, &options, script);
    std::thread::sleep(Duration::from_millis(3500));
    let so_far = std::fs::read_to_string(pipes.path("so-far")).unwrap().lines().count();
    // The window, the piece that is being read, and two pipes of a mebibyte.
    assert!((16..=19).contains(&so_far), "{so_far} MiB were read ahead");
    let both = Both::of(donor, joiner, LIMIT);
    both.succeeded();
    assert_eq!(pipes.kept().unwrap().trim_ascii(), (400 * MIB).to_string().as_bytes());
    // Two lanes: a window of 16 MiB, some frames of each lane, and the program itself.
    for end in [&both.donor, &both.joiner] {
        assert!(end.peak < 90_000, "the {} had {} KiB", end.name, end.peak);
    }
}

#[test]
fn what_a_slow_producer_has_written_arrives_meanwhile() {
    let pipes = Pipes::default();
    let joiner = pipes.receive(&["--idle-timeout=1s"], KEEP);
    let donor = pipes.send(&joiner.ticket, &["--idle-timeout=1s"], "echo first; sleep 3; echo second");
    assert_eq!(pipes.wait_for("out"), "first\n");
    assert!(!pipes.path("ended").exists());
    Both::of(donor, joiner, LIMIT).succeeded();
    assert_eq!(pipes.kept().unwrap(), b"first\nsecond\n");
}

#[test]
fn a_producer_that_never_pauses_and_never_fills_a_piece_is_in_time() {
    let pipes = Pipes::default();
    let joiner = pipes.receive(&["--idle-timeout=1s"], KEEP);
    let script = "for i in $(seq 60); do printf x; sleep 0.05; done";
    let donor = pipes.send(&joiner.ticket, &["--idle-timeout=1s"], script);
    Both::of(donor, joiner, LIMIT).succeeded();
    assert_eq!(pipes.kept().unwrap(), [b'x'; 60]);
}

#[test]
fn the_rate_limit_holds() {
    let pipes = Pipes::default();
    pipes.fill(6 * MIB);
    let joiner = pipes.receive(&[], KEEP);
    let started = Instant::now();
    let donor = pipes.send(&joiner.ticket, &["--rate-limit=3M"], "cat in");
    Both::of(donor, joiner, LIMIT).succeeded();
    let took = started.elapsed().as_secs_f64();
    assert!((1.7..4.0).contains(&took), "{took}");
}

/// Whichever program fails, and however: both ends say which and how, and no consumer sees an end.
#[test]
fn a_program_that_fails_fails_both_ends() {
    const PID: &str = "echo $$ > pid;";
    for (producer, consumer, words) in [
        (
            "cat in; echo 'Got error: 1045' >&2; exit 2",
            KEEP,
            "sh ended with exit status 2; the last it said: Got error: 1045",
        ),
        ("exit 9", KEEP, "sh ended with exit status 9"),
        ("cat in; kill -9 $$", KEEP, "sh was killed by signal 9"),
        ("cat in; exec 1>&-; sleep 0.5; exit 3", KEEP, "sh ended with exit status 3"),
        (
            "cat in",
            "head -c 9; echo 'ERROR 1064' >&2; exit 1",
            "sh ended with exit status 1; the last it said: ERROR 1064",
        ),
        ("cat in", "head -c 9; kill -9 $$", "sh was killed by signal 9"),
        ("cat in", "head -c 9", "sh ended with exit status 0, but stopped reading before the end of the stream"),
        ("echo 1234567890", "head -c 2; sleep 0.3", "stopped reading before the end of the stream"),
        ("cat in", "cat > out; exit 5", "sh ended with exit status 5"),
    ] {
        let pipes = Pipes::default();
        pipes.fill(5 * MIB);
        let started = Instant::now();
        let both = pipes.stream(&format!("{PID} {producer}"), consumer);
        let took = started.elapsed();
        assert!(took < Duration::from_secs(2), "{producer} | {consumer}: {took:?}");
        both.failed(125, &[words]);
        pipes.never_ended();
    }
}

/// In the middle of a long stream, from outside.
#[test]
fn a_program_that_is_killed_fails_both_ends_at_once() {
    for whose in ["producer", "consumer"] {
        let pipes = Pipes::default();
        let joiner = pipes.receive(&[], &format!("echo $$ > consumer; {KEEP}"));
        let donor = pipes.send(&joiner.ticket, &["--rate-limit=10M"], "echo $$ > producer; cat /dev/urandom");
        pipes.wait_for("out");
        let pid = Pid::from_raw(pipes.wait_for(whose).trim().parse().unwrap()).unwrap();
        let killed = Instant::now();
        kill_process(pid, Signal::KILL).unwrap();
        let both = Both::of(donor, joiner, SECONDS);
        assert!(killed.elapsed() < Duration::from_secs(2), "{whose}: {:?}", killed.elapsed());
        both.failed(125, &["sh was killed by signal 9"]);
        both.joiner.said("is not whole and not verified; throw it away");
        pipes.never_ended();
    }
}

#[test]
fn a_program_that_cannot_be_run_fails_both_ends_before_the_other_begins() {
    let pipes = Pipes::default();
    let joiner = pipes.receive(&[], KEEP);
    let mut command = pipes.command(env!("CARGO_BIN_EXE_highline"));
    command.args(["send", "-", "--", "no-such-program", "--x"]);
    let donor = Running::start_with_line("donor", command, &joiner.ticket);
    Both::of(donor, joiner, SECONDS).failed(2, &["cannot run no-such-program: No such file or directory"]);
    pipes.never_ended();

    let mut command = pipes.command(env!("CARGO_BIN_EXE_highline"));
    command.args(["receive", "--listen", "127.0.0.1:0", "--", "no-such-program"]);
    let mut running = Running::start("joiner", command);
    let ticket = running.first_line();
    let joiner = Joiner { ticket, running };
    let donor = pipes.send(&joiner.ticket, &[], "echo > began");
    Both::of(donor, joiner, SECONDS).failed(2, &["cannot run no-such-program: No such file or directory"]);
    assert!(!pipes.path("began").exists());
}

#[test]
fn a_link_that_stays_cut_fails_both_ends() {
    let pipes = Pipes::default();
    let joiner = pipes.receive(&["--idle-timeout=1s"], KEEP);
    let link = FaultyLink::to(joiner.address(), |_| WELL);
    let ticket = redirected(&joiner.ticket, link.address);
    let donor = pipes.send(&ticket, &["--idle-timeout=1s", "--rate-limit=10M"], "cat /dev/urandom");
    link.passed(3_000_000);
    let cut = Instant::now();
    link.down();
    let both = Both::of(donor, joiner, SECONDS);
    // The deadline, and two seconds.
    assert!(cut.elapsed() < Duration::from_secs(3), "{:?}", cut.elapsed());
    assert!(both.donor.code() != 0 && both.joiner.code() != 0);
    pipes.never_ended();
}

/// Killed without a chance to say anything, a process's pipes are closed: the consumer must not take that for the end.
#[test]
fn a_joiner_that_is_killed_takes_its_consumer_with_it() {
    let pipes = Pipes::default();
    let joiner = pipes.receive(&[], KEEP);
    let donor = pipes.send(&joiner.ticket, &["--rate-limit=10M"], "cat /dev/urandom");
    pipes.wait_for("out");
    let killed = Instant::now();
    joiner.running.signal(Signal::KILL);
    let both = Both::of(donor, joiner, SECONDS);
    assert!(killed.elapsed() < Duration::from_secs(3), "{:?}", killed.elapsed());
    both.donor.failed(32, &["the joiner at", "nobody is listening there any more"]);
    pipes.never_ended();
}

/// Whom no kill from here reaches, as one of another user, must not take the end of our process for that of the stream.
#[test]
fn a_consumer_that_cannot_be_killed_sees_no_end() {
    for (consumer, killed) in [("exec setsid", false), ("exec setsid", true), ("setsid", false), ("setsid", true)] {
        let pipes = Pipes::default();
        let joiner = pipes.receive(&[], &format!("{consumer} sh -c 'echo $$ > pid; {KEEP}'; exit 1"));
        let producer = if killed { "cat /dev/urandom" } else { "head -c 9000000 /dev/urandom; sleep 1; exit 9" };
        let donor = pipes.send(&joiner.ticket, &["--rate-limit=10M"], producer);
        pipes.wait_for("out");
        if killed {
            joiner.running.signal(Signal::KILL);
        }
        let both = Both::of(donor, joiner, SECONDS);
        if !killed {
            both.failed(125, &["sh ended with exit status 9"]);
            both.joiner.said(
                "sh or what it started still runs, as another user or outside its process group; its input stays open",
            );
        }
        pipes.never_ended();
        assert_eq!(pipes.holders(), 1);
        // The shell and its `cat`: the leader of the session, and all that is in it.
        let group = Pid::from_raw(pipes.wait_for("pid").trim().parse().unwrap()).unwrap();
        kill_process_group(group, Signal::KILL).unwrap();
        let deadline = Instant::now() + LIMIT;
        while pipes.holders() > 0 {
            assert!(Instant::now() < deadline, "a process is left behind");
            std::thread::sleep(Duration::from_millis(5));
        }
        pipes.never_ended();
    }
}

#[test]
fn a_donor_that_is_killed_leaves_no_end() {
    let pipes = Pipes::default();
    let joiner = pipes.receive(&["--idle-timeout=1s"], KEEP);
    let donor = pipes.send(&joiner.ticket, &["--rate-limit=10M"], "cat /dev/urandom");
    pipes.wait_for("out");
    donor.signal(Signal::KILL);
    let joiner = joiner.running.end(SECONDS);
    assert_ne!(joiner.code(), 0);
    pipes.never_ended();
}

#[test]
fn a_request_to_stop_ends_both_programs() {
    for whose in ["donor", "joiner"] {
        let pipes = Pipes::default();
        let joiner = pipes.receive(&[], KEEP);
        let donor = pipes.send(&joiner.ticket, &["--rate-limit=10M"], "cat /dev/urandom");
        pipes.wait_for("out");
        let asked = if whose == "donor" { &donor } else { &joiner.running };
        asked.signal(Signal::TERM);
        Both::of(donor, joiner, SECONDS).failed(4, &["ended by SIGTERM"]);
        pipes.never_ended();
    }
}

/// After the comparison the consumer may take long; what it comes to in the end counts.
#[test]
fn the_last_word_is_the_consumers() {
    for (end, code) in [("sleep 1", 0), ("sleep 1; echo 'disk full' >&2; exit 1", 125)] {
        let pipes = Pipes::default();
        pipes.fill(2 * MIB);
        let both = pipes.stream("cat in", &format!("cat > out; {end}"));
        assert_eq!((both.donor.code(), both.joiner.code()), (code, code), "{end}");
        if code != 0 {
            both.failed(code, &["sh ended with exit status 1; the last it said: disk full"]);
        }
    }
}

#[test]
fn whoever_reads_standard_output_must_read_it_all() {
    let pipes = Pipes::default();
    pipes.fill(5 * MIB);
    let mut command = pipes.command("bash");
    command.args(["-c", "set -o pipefail; $HIGHLINE receive --listen 127.0.0.1:0 --stdout | head -c 5 > out"]);
    let running = Running::start("joiner", command);
    running.says("/highline/1");
    let ticket = running.said().lines().next().unwrap().to_owned();
    let joiner = Joiner { ticket, running };
    let donor = pipes.send(&joiner.ticket, &[], "cat in");
    let what = "whoever reads the stream from standard output stopped reading before the end of the stream";
    Both::of(donor, joiner, SECONDS).failed(125, &[what]);
}

/// A write that hangs does not keep a process that has failed.
#[test]
fn a_reader_that_takes_nothing_does_not_hold_up_a_failure() {
    let pipes = Pipes::default();
    let mut command = pipes.command(env!("CARGO_BIN_EXE_highline"));
    command.args(["receive", "--listen", "127.0.0.1:0", "--stdout"]);
    // Its standard output is read after its end.
    let running = Running::start("joiner", command);
    running.says("/highline/1");
    let ticket = running.said().lines().next().unwrap().to_owned();
    let joiner = Joiner { ticket, running };
    let started = Instant::now();
    let donor = pipes.send(&joiner.ticket, &[], "yes | head -c 20000000; exit 3");
    Both::of(donor, joiner, SECONDS).failed(125, &["sh ended with exit status 3"]);
    assert!(started.elapsed() < Duration::from_secs(3), "{:?}", started.elapsed());
}

#[test]
fn a_stream_and_a_directory_do_not_meet() {
    let (pipes, pair) = (Pipes::default(), Pair::default());
    for name in ["ibdata1", "ib_logfile0", "aria_log_control", "mysql/x"] {
        let place = pair.donor.join(name);
        std::fs::create_dir_all(place.parent().unwrap()).unwrap();
        std::fs::write(place, name).unwrap();
    }
    let joiner = pipes.receive(&[], "echo > began; cat > out");
    let donor = pair.send(&joiner.ticket, &[]);
    let words = "the donor sends a data directory, and this joiner waits for a byte stream";
    Both::of(donor, joiner, SECONDS).failed(22, &[words]);
    assert!(!pipes.path("began").exists());

    std::fs::write(pair.joiner.join("ibdata1"), "old").unwrap();
    let joiner = pair.receive(&[]);
    let donor = pipes.send(&joiner.ticket, &[], "echo > began");
    let words = "the donor sends one byte stream, and this joiner waits for a data directory";
    let both = Both::of(donor, joiner, SECONDS);
    both.failed(22, &[words]);
    both.joiner.said("this node's data is unchanged");
    assert!(!pipes.path("began").exists());
    let names: Vec<_> = std::fs::read_dir(&pair.joiner).unwrap().map(|item| item.unwrap().file_name()).collect();
    assert!(
        names.iter().all(|name| name == "ibdata1" || name.to_str().unwrap().starts_with(".highline.")),
        "{names:?}"
    );
}

#[test]
fn what_cannot_be_meant_is_refused() {
    let pair = Pair::default();
    for (words, says) in [
        (&["receive"][..], "neither a data directory nor a stream is named"),
        (&["send", "x"], "a ticket has the form"),
        (&["receive", "--stdout", "--datadir", "/d"], "cannot be used with"),
        (&["receive", "--stdout", "--", "cat"], "cannot be used with"),
        (&["send", "--stdin", "--live", "x"], "cannot be used with"),
        (&["send", "--stdin", "x", "--", "cat"], "cannot be used with"),
        (&["send", "--stdin", "-"], "there was no ticket on standard input"),
        (&["send", "--root", "a=b", "x"], "datadir"),
    ] {
        let ended = pair.run(words);
        assert_eq!(ended.code(), 22, "{words:?}: {}", ended.stderr);
        ended.said(says);
    }
}
