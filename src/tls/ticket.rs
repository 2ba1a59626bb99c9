//! The ticket: one line that carries address, certificate pin and one-time secret from the joiner to
//! the donor.
//!
//! ```text
//! PIN:SECRET@HOST:PORT/highline/1
//! ```
//!
//! Pin and secret are 43 characters of base64url each. The part before the `@` is secret; Galera passes it to the
//! donor's script separately from the address, in the environment.

use std::fmt;
use std::str::FromStr;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::{Zeroize, ZeroizeOnDrop, Zeroizing};

use super::{Pin, random};
use crate::error::{Error, Kind, Result};
use crate::host_port::HostPort;

/// 256 random bits that only the two sides of one transfer know.
#[derive(Clone, Zeroize, ZeroizeOnDrop)]
pub struct Secret([u8; 32]);

impl Secret {
    /// # Errors
    /// The system cannot provide random numbers.
    pub fn generate() -> Result<Secret> {
        random().map(Secret)
    }

    /// The secret itself. For the proof and the ticket only.
    pub(super) fn expose(&self) -> &[u8; 32] {
        &self.0
    }

    #[cfg(test)]
    pub(super) fn for_test(bytes: [u8; 32]) -> Secret {
        Secret(bytes)
    }

    fn parse(text: &str) -> Option<Secret> {
        let bytes = Zeroizing::new(URL_SAFE_NO_PAD.decode(text).ok()?);
        Some(Secret(bytes.as_slice().try_into().ok()?))
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

/// A host and a port: a DNS name, an IPv4 address or an IPv6 address in brackets; the port is not 0.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Address {
    host: String,
    port: u16,
}

/// Why a text is not a ticket. The text itself is a secret and never part of it.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TicketError {
    #[error("a ticket has the form PIN:SECRET@HOST:PORT/highline/1")]
    Form,
    #[error("the ticket's pin is not 43 characters of base64url")]
    Pin,
    #[error("the ticket's secret is not 43 characters of base64url")]
    Secret,
    #[error("the ticket's address is not HOST:PORT or [IPV6]:PORT")]
    Address,
    #[error("the ticket has version {0}, but this program knows version 1")]
    Version(String),
}

impl From<TicketError> for Error {
    fn from(error: TicketError) -> Error {
        let (kind, remedy) = match error {
            TicketError::Version(_) => (Kind::Incompatible, "install the same Highline release on both nodes"),
            _ => (Kind::Usage, "copy the whole line that `highline receive` printed on the joiner"),
        };
        Error::new(kind, error.to_string()).remedy(remedy)
    }
}

impl Address {
    /// `host` is a name or an address; IPv6 with or without brackets.
    pub fn new(host: &str, port: u16) -> Result<Address, TicketError> {
        let bare = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']')).unwrap_or(host);
        let v6 = bare.parse::<std::net::Ipv6Addr>().is_ok();
        let name = !bare.is_empty()
            && bare.len() <= 253
            && bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if port == 0 || !(v6 || name) {
            return Err(TicketError::Address);
        }
        Ok(Address { host: bare.to_owned(), port })
    }

    /// Without brackets.
    pub fn host(&self) -> &str {
        &self.host
    }

    pub fn port(&self) -> u16 {
        self.port
    }
}

impl FromStr for Address {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Address, TicketError> {
        let HostPort { host, port } = text.parse().map_err(|_| TicketError::Address)?;
        Address::new(&host, port.ok_or(TicketError::Address)?)
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HostPort { host: self.host.clone(), port: Some(self.port) }.fmt(f)
    }
}

/// Everything a donor needs to find a joiner and prove itself to it. Valid for one transfer.
#[derive(Clone, Debug)]
pub struct Ticket {
    pub pin: Pin,
    pub secret: Secret,
    pub address: Address,
}

impl Ticket {
    const SUFFIX: &str = "/highline/1";

    /// Reads the two halves as Galera passes them: `PIN:SECRET` and `HOST:PORT/highline/1`.
    pub fn from_halves(credentials: &str, place: &str) -> Result<Ticket, TicketError> {
        let (pin, secret) = credentials.split_once(':').ok_or(TicketError::Form)?;
        let (address, version) = place.split_once("/highline/").ok_or(TicketError::Form)?;
        if version != "1" {
            let shown = version.chars().filter(char::is_ascii_graphic).take(10).collect();
            return Err(TicketError::Version(shown));
        }
        Ok(Ticket {
            pin: pin.parse().map_err(|_| TicketError::Pin)?,
            secret: Secret::parse(secret).ok_or(TicketError::Secret)?,
            address: address.parse()?,
        })
    }

    /// The ticket as text. It contains the secret: only for standard output or for Galera.
    pub fn reveal(&self) -> Zeroizing<String> {
        let secret = Zeroizing::new(URL_SAFE_NO_PAD.encode(self.secret.expose()));
        Zeroizing::new(format!("{}:{}@{}{}", self.pin, *secret, self.address, Self::SUFFIX))
    }
}

impl FromStr for Ticket {
    type Err = TicketError;

    fn from_str(text: &str) -> Result<Ticket, TicketError> {
        let (credentials, place) = text.trim().rsplit_once('@').ok_or(TicketError::Form)?;
        Ticket::from_halves(credentials, place)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn ticket(host: &str) -> Ticket {
        Ticket {
            pin: Pin::of_spki(b"key"),
            secret: Secret::generate().unwrap(),
            address: Address::new(host, 4444).unwrap(),
        }
    }

    #[test]
    fn round_trip_within_the_servers_characters() {
        for (host, shown) in
            [("db1.example.com", "db1.example.com:4444"), ("::1", "[::1]:4444"), ("[fe80::1]", "[fe80::1]:4444")]
        {
            let made = ticket(host);
            let text = made.reveal();
            assert!(text.bytes().all(|b| b.is_ascii_alphanumeric() || b"._:/@[]-".contains(&b)), "{}", *text);
            let back: Ticket = text.parse().unwrap();
            assert_eq!(back.reveal(), text);
            assert_eq!(back.address.to_string(), shown);
            assert!(text.len() < 200);
        }
    }

    #[test]
    fn a_secret_is_never_printed() {
        let made = ticket("h");
        let shown = format!("{made:?}");
        assert!(!shown.contains(&URL_SAFE_NO_PAD.encode(made.secret.expose())));
        assert!(shown.contains("Secret(…)"));
    }

    #[test]
    fn what_is_no_ticket_is_refused_without_showing_it() {
        let good = ticket("h").reveal().to_string();
        let (credentials, place) = good.split_once('@').unwrap();
        let (pin, secret) = credentials.split_once(':').unwrap();
        for (text, why) in [
            (String::new(), TicketError::Form),
            (format!("{credentials}{place}"), TicketError::Form),
            (format!("{pin}@{place}"), TicketError::Form),
            (format!("x:{secret}@{place}"), TicketError::Pin),
            (format!("{pin}:x@{place}"), TicketError::Secret),
            (format!("{pin}:{secret}x@{place}"), TicketError::Secret),
            (format!("{credentials}@h/highline/1"), TicketError::Address),
            (format!("{credentials}@h:0/highline/1"), TicketError::Address),
            (format!("{credentials}@h:65536/highline/1"), TicketError::Address),
            (format!("{credentials}@::1:4444/highline/1"), TicketError::Address),
            (format!("{credentials}@a b:4444/highline/1"), TicketError::Address),
            (format!("{credentials}@h:4444/highline/2"), TicketError::Version("2".into())),
            (format!("{credentials}@h:4444/xtrabackup_sst//1"), TicketError::Form),
        ] {
            let error = text.parse::<Ticket>().unwrap_err();
            assert_eq!(error, why);
            assert!(!error.to_string().contains(secret));
        }
    }
}
