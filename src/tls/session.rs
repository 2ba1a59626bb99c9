//! What a connection agreed on, for the log.

use std::fmt;

use rustls::CommonState;

use super::Certificate;
use super::config::require_alpn;
use super::policy::suite_name;
use super::verification::Trust;
use crate::error::Result;

/// One finished handshake. `Display` makes the line for the log.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Session {
    /// `TLSv1.3`
    pub version: String,
    /// `TLS_AES_256_GCM_SHA384`
    pub cipher: String,
    /// `X25519MLKEM768`
    pub key_exchange: String,
    /// The name in the peer's certificate, if it presented one.
    pub peer: Option<String>,
    /// How the peer's certificate was verified: "pin and chain".
    pub verified: String,
}

impl Session {
    /// Describes a connection of the donor (`pinned`) or of the joiner after its handshake.
    ///
    /// # Errors
    /// The peer did not agree on Highline's protocol (ALPN). `subject` is the peer, for the sentence.
    pub fn of(connection: &CommonState, trust: &Trust, pinned: bool, subject: &str) -> Result<Session> {
        require_alpn(connection.alpn_protocol(), subject)?;
        let trust = if pinned { trust.clone() } else { trust.clone().of_joiner() };
        let verified = match (&trust, pinned) {
            (Trust::Pin, true) => "pin",
            (Trust::Pin, false) => "no certificate requested",
            (Trust::Chain(_), true) => "pin and chain",
            (Trust::Chain(_), false) => "chain",
            (Trust::ChainAndName { .. }, true) => "pin, chain and name",
            (Trust::ChainAndName { .. }, false) => "chain and name",
        };
        let mut session = Session::seen(connection);
        verified.clone_into(&mut session.verified);
        Ok(session)
    }

    /// Describes a connection whose peer was only examined.
    pub fn seen(connection: &CommonState) -> Session {
        let unknown = || "unknown".to_owned();
        Session {
            version: connection
                .protocol_version()
                .and_then(|v| v.as_str())
                .map_or_else(unknown, |name| name.replacen("TLSv1_", "TLSv1.", 1)),
            cipher: connection.negotiated_cipher_suite().map_or_else(unknown, suite_name),
            key_exchange: connection
                .negotiated_key_exchange_group()
                .map_or_else(unknown, |group| format!("{:?}", group.name())),
            peer: connection
                .peer_certificates()
                .and_then(|chain| chain.first())
                .and_then(|leaf| Certificate::parse(leaf).ok())
                .map(|facts| facts.title().trim_matches('"').to_owned()),
            verified: "not verified".to_owned(),
        }
    }
}

impl fmt::Display for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}, {}, {}, ", self.version, self.cipher, self.key_exchange)?;
        match &self.peer {
            Some(peer) => write!(f, "peer \"{peer}\" verified by {}", self.verified),
            None => write!(f, "peer: {}", self.verified),
        }
    }
}
