//! SIGTERM to the programs of a transfer in the middle: they end at once and leave nothing locked.

use crate::support::cluster::Cluster;
use crate::support::scripts::ScriptRun;
use rustix::process::Signal;
use std::time::{Duration, Instant};

const LIMIT: Duration = Duration::from_secs(60);

fn in_the_middle(cluster: &mut Cluster, n: usize) -> ScriptRun {
    let before = cluster.log(1).matches("Highline donor: agreed with").count();
    cluster.spawn(2);
    let deadline = Instant::now() + LIMIT;
    while cluster.log(1).matches("Highline donor: agreed with").count() == before {
        assert!(Instant::now() < deadline, "no transfer began");
        std::thread::sleep(Duration::from_millis(20));
    }
    std::thread::sleep(Duration::from_secs(1));
    cluster.script_times(n).into_iter().rfind(ScriptRun::is_running).expect("a running script")
}

#[test]
fn either_program_is_asked_to_end_in_the_middle() {
    let mut cluster = Cluster::plan(2, "highline").highline("rate-limit=3M").build();
    cluster.start(1);
    cluster.prepare_sysbench(1, 4, 10_000);
    for n in [2, 1] {
        let run = in_the_middle(&mut cluster, n);
        run.signal(Signal::TERM);
        let asked = Instant::now();
        for n in 1..=2 {
            cluster.wait_scripts_gone(n, Duration::from_secs(3));
        }
        let status = cluster.wait_exit(2, Duration::from_secs(10));
        assert!(!status.success());
        cluster.sql(1, &format!("CREATE TABLE sb.unlocked{n} (id INT PRIMARY KEY)"));
        cluster.wait_synced(1, LIMIT);
        assert!(asked.elapsed() < Duration::from_secs(15), "node 1 was back after {:?}", asked.elapsed());
        for (n, side) in [(1, "donor"), (2, "joiner")] {
            let log = cluster.log(n);
            let said = log.lines().filter(|line| line.contains(&format!("Highline {side}")));
            let said: Vec<&str> = said.filter(|line| line.contains("ERROR")).collect();
            assert!(said.iter().any(|line| line.contains("SIGTERM")), "node {n} names the signal: {said:?}");
        }
    }
    for n in 1..=2 {
        cluster.options(n).highline.clear();
        cluster.write_options(n);
    }
    cluster.start(2);
    cluster.assert_equal_tables();
}
