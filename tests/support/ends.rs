//! Both ends of a transfer in one process, over loopback and with nothing but the ticket: their options, apart from those
//! test changes.

use highline::donor::{Compression, FreezeMode, SendOptions};
use highline::install::{OwnFile, Reuse};
use highline::joiner::{Facts, InstallMode, Node, ReceiveOptions};
use highline::link::{Deadlines, Dialer};
use highline::tls::{Identity, Policy, Ticket, Trust, client_config};
use highline::tree::Roots;
use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;

/// A node about which nothing is known.
#[derive(Debug)]
pub(crate) struct Nobody;

impl Node for Nobody {
    fn facts(&self) -> Facts {
        Facts::default()
    }

    fn own_files(&self, _: &highline::wire::Round) -> highline::error::Result<Vec<OwnFile>> {
        Ok(Vec::new())
    }
}

fn roots(dir: &Path) -> Roots {
    Roots::new(dir, &BTreeMap::new()).unwrap()
}

pub(crate) fn receiving(to: &Path) -> ReceiveOptions {
    ReceiveOptions {
        roots: roots(to),
        keep: Vec::new(),
        own: Default::default(),
        install: InstallMode::Auto,
        reuse: Reuse::Auto,
        prepare: Default::default(),
        listen: "127.0.0.1:0".parse().unwrap(),
        advertise: "127.0.0.1".into(),
        identity: Identity::ephemeral().unwrap(),
        trust: Trust::Pin,
        policy: Policy::default(),
        deadlines: Deadlines::default(),
        lanes: 64,
        checksum: None,
        node: Arc::new(Nobody),
        software: "test".into(),
    }
}

pub(crate) fn sending(from: &Path, ticket: Ticket) -> SendOptions {
    let tls = client_config(None, ticket.pin, Trust::Pin, &Policy::default()).unwrap();
    SendOptions {
        dialer: Dialer { ticket, tls, trust: Trust::Pin, deadlines: Deadlines::default(), software: "test".into() },
        roots: roots(from),
        lanes: 4,
        compression: Compression::Auto,
        checksum: None,
        rate: Default::default(),
        backup: None,
        freeze: FreezeMode::default(),
        freeze_limit: None,
        position: None,
        server_version: None,
        lower_case_table_names: None,
        live: false,
        verify_pages: false,
    }
}
