//! One file a verb.

pub mod certs;
pub mod check;
