//! `highline receive`: the joiner, by hand.

use std::io::Write;
use std::sync::Arc;

use super::destination::looks_like_a_datadir;
use super::privileges::become_owner;
use super::{block_on, json, pipe};
use crate::cli::ReceiveArgs;
use crate::config;
use crate::error::{Error, Kind, Result, Side};
use crate::joiner::{Outcome, Waiting};
use crate::pipe::End;
use crate::progress::{Publish, Published, Reporter, Style, line};
use crate::sst::grastate::NO_POSITION;
use crate::stop::Stop;

pub(super) fn run(args: &ReceiveArgs) -> Result<()> {
    let consumer = match args.program.as_slice() {
        [] => args.stdout.then(End::stdout).transpose()?,
        program => Some(End::Program(program.to_vec())),
    };
    if let Some(consumer) = consumer {
        return pipe::receive(args, consumer).map_err(|e| e.on(Side::Joiner));
    }
    let order = config::joiner(args)?;
    become_owner(order.roots.datadir())?;
    looks_like_a_datadir(order.roots.datadir())?;
    let reporter: Arc<dyn Reporter> = Style::from(args.talk.progress).reporter(Side::Joiner);
    let outcome = block_on(async {
        let (_, stop) = Stop::on_signals()?;
        let datadir = order.roots.datadir().to_owned();
        let waiting = Waiting::bind(order, &*reporter)?;
        // Only now, with the directory locked, may this process publish a status there.
        let metrics = args.talk.metrics.as_deref();
        let publish = Publish { datadir: Some(&datadir), role: Side::Joiner, metrics, rate: None };
        let published = Published::new(Arc::clone(&reporter), publish);
        let received = async {
            writeln!(std::io::stdout(), "{}", *waiting.ticket().reveal())
                .map_err(|e| Error::new(Kind::Io, "cannot print the ticket").because(e))?;
            reporter.note(&format!(
                "waiting for a donor at {}; give it the ticket: highline send --datadir DIR TICKET",
                waiting.place()
            ));
            waiting.receive(Arc::clone(&published) as _, &stop).await
        };
        let outcome = received.await;
        published.end(outcome.as_ref().map(Outcome::reused));
        outcome
    })
    .map_err(|e| e.on(Side::Joiner))?;
    tell(&outcome, &*reporter, "the node can join by IST from there");
    if let (Outcome::Installed(report), true) = (&outcome, args.talk.json) {
        line(&json(report)?);
    }
    Ok(())
}

/// How it ended, and what the position is good for.
pub(super) fn tell(outcome: &Outcome, reporter: &dyn Reporter, then: &str) {
    match outcome {
        Outcome::Bypass(_) => reporter.note("the donor had nothing to send; nothing was changed"),
        Outcome::Installed(report) => {
            reporter.note(&format!("installed: {report}"));
            match &report.position {
                Some(gtid) => reporter.note(&format!("position {}: {then}", gtid.position)),
                None => reporter.warn(NO_POSITION),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    /// Every path beneath a directory.
    fn names(dir: &Path) -> Vec<std::path::PathBuf> {
        let mut all: Vec<_> = std::fs::read_dir(dir).unwrap().map(|item| item.unwrap().path()).collect();
        let below: Vec<_> = all.iter().filter(|path| path.is_dir() && !path.is_symlink()).cloned().collect();
        all.extend(below.iter().flat_map(|dir| names(dir)));
        all.sort();
        all
    }

    /// Tells a joiner on `datadir` that it needs nothing.
    async fn bypass(datadir: &Path) -> Outcome {
        use crate::cli::{DeadlineArgs, IdentityArgs, PrepareArgs, ProgressStyle, TalkArgs, TreeArgs};
        let order = config::joiner(&ReceiveArgs {
            tree: Some(TreeArgs { datadir: datadir.to_owned(), ..TreeArgs::default() }),
            stdout: false,
            program: Vec::new(),
            listen: "127.0.0.1:0".into(),
            advertise: None,
            install: Default::default(),
            reuse: Default::default(),
            force_older: false,
            checksum: Default::default(),
            initial_timeout: Some(crate::link::Timeout::seconds(10)),
            prepare: PrepareArgs::default(),
            identity: IdentityArgs::default(),
            deadlines: DeadlineArgs { idle_timeout: crate::link::Timeout::IDLE },
            talk: TalkArgs { progress: ProgressStyle::None, metrics: None, json: false },
        })
        .unwrap();
        let reporter = Style::from(ProgressStyle::None).reporter(Side::Joiner);
        let (_, stop) = Stop::on_signals().unwrap();
        let waiting = Waiting::bind(order, &*reporter).unwrap();
        let ticket = waiting.ticket().reveal().parse::<crate::tls::Ticket>().unwrap();
        let trust = crate::tls::Trust::Pin;
        let tls = crate::tls::client_config(None, ticket.pin, trust.clone(), &crate::tls::Policy::default()).unwrap();
        let deadlines = crate::link::Deadlines::default();
        let dialer = crate::link::Dialer { ticket, tls, trust, deadlines, software: "test".into() };
        let position = "5d1fa5a7-0e29-11f0-8b7e-0242ac120002:9".parse().unwrap();
        let (joined, told) = tokio::join!(waiting.receive(reporter, &stop), crate::donor::bypass(&dialer, position));
        told.unwrap();
        joined.unwrap()
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_bypass_recovers_nothing() {
        let mut live = std::collections::BTreeSet::new();
        for steps in (30..60).step_by(3) {
            let dir = tempfile::tempdir().unwrap();
            std::fs::write(dir.path().join("ibdata1"), "old").unwrap();
            crate::install::cut_short_for_test(dir.path(), steps);
            let before = (names(dir.path()), std::fs::read_to_string(dir.path().join("ibdata1")).unwrap());
            if !dir.path().join(".highline/journal").exists() {
                continue;
            }
            assert!(matches!(bypass(dir.path()).await, Outcome::Bypass { .. }));
            let after = (names(dir.path()), std::fs::read_to_string(dir.path().join("ibdata1")).unwrap());
            assert_eq!(before, after, "{steps}");
            live.insert(after.1);
        }
        assert_eq!(live.len(), 2, "the old tree was live, and the new one");
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn a_bypass_removes_what_attempts_have_left() {
        let dir = tempfile::tempdir().unwrap();
        let place = |name: &str| dir.path().join(name);
        for (name, size) in [("ibdata1", 10), (".highline.kept.t", 70_000), (".highline.kept.small", 1)] {
            std::fs::write(place(name), vec![1; size]).unwrap();
        }
        std::fs::create_dir_all(place(".highline/incoming/datadir")).unwrap();
        std::fs::write(place(".highline/incoming/datadir/t"), vec![1; 70_000]).unwrap();
        assert!(matches!(bypass(dir.path()).await, Outcome::Bypass { .. }));
        assert_eq!(names(dir.path()), [place(".highline.lock"), place("ibdata1")]);
    }
}
