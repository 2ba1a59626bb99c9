//! What our own transfer would do with its settings, and whether the other nodes would accept it: certificate, key,
//! authority, names, ciphers, address. Used by `highline check` and by the method itself before it says `ready` or
//! dials, so that both say the same.

use std::net::{SocketAddr, ToSocketAddrs, UdpSocket};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::SystemTime;

use rustls_pki_types::ServerName;

use crate::error::{Error, Kind, Printable, Result, Side};
use crate::sst::options::{ListenOn, Requested, SslMode, Tier, TlsSettings};
use crate::tls::certificate::Purpose;
use crate::tls::refusal::Fault;
use crate::tls::verification::peer_name;
use crate::tls::{Authorities, Identity, Policy, Trust, pem};

/// Where a joiner listens by default, as with the server's own methods.
pub const PORT: u16 = 4444;

/// Who we are and whom we trust.
#[derive(Debug)]
pub struct Own {
    /// The configured certificate; `None` if it does not matter.
    pub identity: Option<Identity>,
    /// How the peer is checked.
    pub trust: Trust,
    pub policy: Policy,
    /// What the operator should know.
    pub notes: Vec<String>,
}

impl Own {
    /// Loads and checks what `tls` names for the role `side`. `host`, if known, is the name or address that a joiner
    /// announces or a donor dials.
    ///
    /// # Errors
    /// Anything that would make the transfer fail on this side, or on every node with the same settings.
    pub fn of(tls: &TlsSettings, side: Side, host: Option<&str>, now: SystemTime) -> Result<Own> {
        let mut notes = Vec::new();
        let peer = match &tls.peer_name {
            Some(wish) => match (peer_name(&wish.text), tls.mode) {
                (Ok(name), _) => Some(name),
                (Err(error), _) if wish.tier == Tier::Highline => return Err(named(&wish.name, &error)),
                (Err(error), SslMode::VerifyIdentity) => {
                    return Err(named(&wish.name, &error).remedy(
                        "set peer-name in [highline] to a DNS name or an address that is in the peers' certificates",
                    ));
                }
                (Err(error), _) => {
                    notes.push(format!("{} has no effect: {}", wish.name, error.sentence()));
                    None
                }
            },
            None => None,
        };
        let policy = policy(tls, &mut notes)?;
        if !tls.verifies() {
            return Ok(Own { identity: unneeded(tls, now, &mut notes), trust: Trust::Pin, policy, notes });
        }
        let (Some(cert), Some(key)) = (&tls.cert, &tls.key) else {
            return Err(Error::new(
                Kind::Usage,
                format!("ssl-mode={} needs a certificate and key of this node, and none is configured", tls.mode),
            )
            .remedy("set cert and key in [highline]; highline certs node NAME makes them"));
        };
        let cas: Vec<PathBuf> = tls.ca.iter().chain(&tls.capath).cloned().collect();
        pem::all_there(cert, key, &cas, &tls.crls)?;
        let identity = Identity::load(cert, Some(key), now)?;
        let authorities = Arc::new(Authorities::load(&cas, &tls.crls)?);
        authorities.check_dates(now)?;
        // If peer-name is set here, the others may expect any name, which only they know.
        let dialled = match (tls.mode, &tls.peer_name, host) {
            (SslMode::VerifyIdentity, None, Some(host)) => Some(peer_name(host)?),
            _ => None,
        };
        let judge = |name: Option<ServerName<'static>>| match (tls.mode, name) {
            (SslMode::VerifyIdentity, Some(name)) => Trust::ChainAndName {
                authorities: Arc::clone(&authorities),
                names: vec![name],
                common_name: tls.match_common_name,
            },
            _ => Trust::Chain(Arc::clone(&authorities)),
        };
        let (trust, theirs, purpose) = match side {
            Side::Joiner => (judge(peer), judge(dialled), Purpose::Server),
            _ => (judge(peer.or(dialled)), judge(None), Purpose::Client),
        };
        identity.check_by(&theirs, purpose, now).map_err(|refusal| {
            let shown = Printable::path(cert);
            match (&refusal.fault, host) {
                (Fault::WrongName { presented, .. }, Some(host)) => Error::new(
                    Kind::Untrusted,
                    format!("{shown} is not for {host}, the address that other nodes connect to; it has {presented}"),
                )
                .remedy(format!(
                    "use highline certs node NAME --ip or --dns {host}, with every other name it has; or ssl-mode=VERIFY_CA in [highline] on every node"
                )),
                _ => refusal.about(&format!("our own certificate in {shown}")),
            }
        })?;
        Ok(Own { identity: Some(identity), trust, policy, notes })
    }
}

/// Pin and proof do not need the server's certificate.
fn unneeded(tls: &TlsSettings, now: SystemTime, notes: &mut Vec<String>) -> Option<Identity> {
    match Identity::load(tls.cert.as_ref()?, tls.key.as_deref(), now) {
        Ok(identity) => Some(identity),
        Err(error) => {
            notes.push(format!("not used, because ssl-mode does not ask for it: {}", error.sentence()));
            None
        }
    }
}

/// Settings meant for other programs do not bind a transfer if TLS 1.3 has no equivalent.
fn policy(tls: &TlsSettings, notes: &mut Vec<String>) -> Result<Policy> {
    let mut policy = Policy::default();
    for (wish, versions) in [(&tls.versions, true), (&tls.ciphers, false)] {
        let Some(Requested { text, tier, name }) = wish else { continue };
        let read = if versions { policy.read_versions(name, text) } else { policy.read_ciphers(name, text) };
        let for_others = *tier == Tier::Server || name.contains(" of sockopt ");
        match read {
            Ok(()) => {}
            Err(error) if for_others => notes.push(format!("{}: it is not applied to transfers", error.sentence())),
            Err(error) => return Err(error),
        }
    }
    notes.extend(policy.notes().iter().cloned());
    Ok(policy)
}

fn named(name: &str, error: &Error) -> Error {
    let made = Error::new(error.kind(), format!("{name}: {}", error.sentence()));
    match error.remedy_text() {
        Some(remedy) => made.remedy(remedy),
        None => made,
    }
}

/// Where a joiner that announces `host` listens, on `port` if the server gave one.
///
/// # Errors
/// `listen` does not name an address of this host.
pub fn listen_at(listen: Option<&ListenOn>, host: &str, port: Option<u16>) -> Result<SocketAddr> {
    let port = listen.and_then(|listen| listen.port).or(port).unwrap_or(PORT);
    let is_here = |ip: std::net::IpAddr| UdpSocket::bind((ip, 0)).is_ok();
    if let Some(own) = listen.and_then(|listen| listen.host.as_deref()) {
        let shown = Printable(own.as_bytes());
        let wrong = |why: &str| {
            Error::new(Kind::Usage, format!("listen in [highline]: {shown} {why}"))
                .remedy("name an address of this host (ip address show), or just a port, as in :4444")
        };
        let found = (own, port).to_socket_addrs().map_err(|e| wrong("cannot be resolved").because(e))?;
        return found
            .into_iter()
            .find(|address| is_here(address.ip()))
            .ok_or_else(|| wrong("is not an address of this host"));
    }
    // The announced address if it is one of this host's; any address if it is a name or behind NAT.
    let local = host.parse().ok().filter(|ip| is_here(*ip)).map(|ip| SocketAddr::new(ip, port));
    Ok(local.unwrap_or(SocketAddr::from(([0u16; 8], port))))
}
