//! The integration tests, one binary. Each module is a subject; `support` holds what they share.
//!
//! Modules whose name starts with `pair` run both ends of a transfer on this host.
//! Modules whose name starts with `cluster` start real database servers; `.config/nextest.toml` runs those few at a time.
#![allow(clippy::unwrap_used, clippy::expect_used, reason = "a test ends by panicking")]
#![allow(unreachable_pub, reason = "a test binary has no outside")]

mod check_privileges;
mod check_transfers;
mod cluster_backup;
mod cluster_basics;
mod cluster_by_hand;
mod cluster_certs;
mod cluster_containers;
mod cluster_faults;
mod cluster_freeze;
mod cluster_layouts;
mod cluster_life;
mod cluster_link;
mod cluster_offer;
mod cluster_outside;
mod cluster_pages;
mod cluster_pipes;
mod cluster_pull;
mod cluster_reuse;
mod cluster_signals;
mod cluster_status;
mod cluster_trust;
mod cluster_under_the_freeze;
mod cluster_what_travels;
mod house;
mod option_files;
mod package;
mod pair_by_root;
mod pair_causes;
mod pair_cuts;
mod pair_durable;
mod pair_faults;
mod pair_hostile;
mod pair_kept;
mod pair_limits;
mod pair_offer;
mod pair_other_servers;
mod pair_pages;
mod pair_pipes;
mod pair_pipes_hostile;
mod pair_power;
mod pair_reuse;
mod pair_rounds;
mod pair_roundtrip;
mod pair_status;
mod pair_what_travels;
mod pair_words;
mod programs;
mod quotes;
mod support;
