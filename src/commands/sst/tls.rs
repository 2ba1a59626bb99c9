//! What the option files say of certificates, turned into who we are and whom we trust.

use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use super::Run;
use crate::error::{Error, Result};
use crate::progress::Reporter;
use crate::sst::options::{Requested, SslMode, Tier};
use crate::tls::verification::peer_name;
use crate::tls::{Authorities, Identity, Policy, Trust};

impl Run {
    /// This node's certificate: the configured one, or none where it is of no consequence.
    pub(super) fn identity(&self) -> Result<Option<Identity>> {
        let tls = &self.settings.tls;
        let Some(cert) = &tls.cert else { return Ok(None) };
        match Identity::load(cert, tls.key.as_deref(), SystemTime::now()) {
            Ok(identity) => Ok(Some(identity)),
            // Pin and proof need no certificate of the server's.
            Err(error) if matches!(tls.mode, SslMode::Unset | SslMode::Required) => {
                self.log.note(&format!("not used, for ssl-mode does not ask for it: {}", error.sentence()));
                Ok(None)
            }
            Err(error) => Err(error),
        }
    }

    /// `names` are whom the peer's certificate may be for.
    pub(super) fn trust(&self, names: &[String]) -> Result<Trust> {
        let tls = &self.settings.tls;
        let authorities = || {
            let paths: Vec<PathBuf> = tls.ca.iter().chain(&tls.capath).cloned().collect();
            Ok::<_, Error>(Arc::new(Authorities::load(&paths, &tls.crls)?))
        };
        Ok(match tls.mode {
            SslMode::Unset | SslMode::Required => Trust::Pin,
            SslMode::VerifyCa => Trust::Chain(authorities()?),
            SslMode::VerifyIdentity if names.is_empty() => Trust::Chain(authorities()?),
            SslMode::VerifyIdentity => Trust::ChainAndName {
                authorities: authorities()?,
                names: names.iter().map(|name| peer_name(name)).collect::<Result<_>>()?,
                common_name: tls.match_common_name,
            },
        })
    }

    /// What the server's own groups say about client connections does not bind a transfer.
    pub(super) fn policy(&self) -> Result<Policy> {
        let tls = &self.settings.tls;
        let text = |wish: &Option<Requested>| wish.as_ref().map(|wish| wish.text.clone());
        match Policy::parse(text(&tls.versions).as_deref(), text(&tls.ciphers).as_deref()) {
            Ok(policy) => {
                policy.notes().iter().for_each(|note| self.log.note(note));
                Ok(policy)
            }
            Err(error) => {
                let servers = |wish: &Option<Requested>| wish.as_ref().is_none_or(|w| w.tier == Tier::Server);
                if servers(&tls.versions) && servers(&tls.ciphers) {
                    self.log.note(&format!("not applied to transfers: {}", error.sentence()));
                    return Ok(Policy::default());
                }
                Err(error)
            }
        }
    }
}
