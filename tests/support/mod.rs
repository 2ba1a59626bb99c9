//! What the integration tests share: both ends of a transfer and the link between them, real servers
//! and load on them, bounded commands.
#![allow(dead_code, reason = "a fixture offers more than today's tests use")]

pub mod block;
pub mod cluster;
pub mod command;
pub mod disk;
pub mod ends;
pub mod fake_server;
pub mod faulty_link;
pub mod hostile;
pub mod load;
pub mod node;
pub mod pair;
pub mod pipe;
pub mod scripts;
pub mod template;
pub mod tree;

/// The SST method of the tests that any correct method passes. `HIGHLINE_LAB_METHOD=mariabackup` runs them with another.
pub fn method() -> String {
    std::env::var("HIGHLINE_LAB_METHOD").unwrap_or_else(|_| "highline".to_owned())
}
