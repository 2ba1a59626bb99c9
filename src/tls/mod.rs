//! Who we are and who they are: identities, authorities, and the verification of the peer.
//!
//! TLS 1.3 only, with the hybrid key exchange X25519MLKEM768 first. Nothing here opens a socket: it makes `rustls`
//! configurations and explains why a peer was refused.
#![cfg_attr(
    not(test),
    deny(clippy::unwrap_used, clippy::expect_used, clippy::indexing_slicing, clippy::arithmetic_side_effects)
)]

pub mod authorities;
pub mod authority;
pub mod certificate;
pub mod config;
pub mod identity;
pub mod pem;
pub mod pin;
pub mod policy;
pub mod proof;
pub mod provider;
mod random;
pub mod refusal;
pub mod safe_file;
pub mod session;
pub mod ticket;
pub mod verification;

pub use authorities::Authorities;
pub use certificate::Certificate;
pub use config::{ALPN, client_config, server_config};
pub use identity::Identity;
pub use pin::Pin;
pub use policy::Policy;
pub use random::random;
pub use refusal::{explain, explain_io};
pub use session::Session;
pub use ticket::{Address, Secret, Ticket, TicketError};
pub use verification::Trust;

#[cfg(test)]
mod handshake_tests;
#[cfg(test)]
mod identity_tests;
#[cfg(test)]
pub(crate) mod testing;
