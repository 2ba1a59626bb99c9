//! The contract with the database server, which starts an SST method as a child process.
//!
//! What it says to us (flags, environment, standard input, option files), what we say to it (a few lines on standard
//! output, files in the data directory) and whether it is still alive. Knows no TLS, no sockets and no transfer. The
//! contract itself is in `docs/sst-contract.md`.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod address;
pub mod agreement;
pub mod args;
pub mod binlog;
pub mod credentials;
pub mod descriptors;
pub mod dialogue;
pub mod flush;
pub mod grastate;
pub mod layout;
pub mod marker;
pub mod options;
mod own_paths;
mod paths;
pub mod server_args;
pub mod version;
pub mod watch;
