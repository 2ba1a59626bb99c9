//! One file a verb.

pub mod certs;
