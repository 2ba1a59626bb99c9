//! Is this node's traffic secured: clients, replication, state transfer; its certificates, and the host.
//!
//! Everything here reads the node's option files, looks at files, and reports findings with remedies. It changes
//! nothing, and opens no file that the server has locked.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod actor;
pub mod certificates;
pub mod clients;
pub mod finding;
pub mod host;
pub mod node;
pub mod options;
pub mod own;
pub mod peer;
pub mod privileges;
pub mod replication;
mod storage;
pub mod transfer;

use crate::sst::options::odd_quotes;
pub use finding::{Channel, Finding, Level, Report};
pub use node::Node;

/// Looks at all channels of `node`.
pub fn check(node: &Node) -> Report {
    let mut report = Report::default();
    let mut material = certificates::Materials::default();
    for odd in odd_quotes(&node.options.files) {
        report.warning(Channel::Host, odd, "put one pair of straight quotes around the value, or none");
    }
    clients::check(node, &mut material, &mut report);
    replication::check(node, &mut material, &mut report);
    transfer::check(node, &mut material, &mut report);
    material.check(node, &mut report);
    host::check(node, &mut report);
    report
}
