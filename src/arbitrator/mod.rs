//! `garbd`, Galera's arbitrator: it joins a cluster for a moment and asks for a state transfer behind which no server waits.
//!
//! Knows the program and what it says. Knows no transfer: it carries a ticket to the donor, and leaves the cluster at once.

#![cfg_attr(not(test), deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing))]

mod cluster;
mod provider;
mod run;
mod words;

pub use cluster::{Cluster, PORT, is_loopback};
pub use provider::carried;
pub use run::{Request, listen_near, program};
