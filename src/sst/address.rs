//! The address in `ready ADDRESS` and `--address ADDRESS`: host, port and a path with the method's own meaning.
//!
//! Resolves and binds nothing.

use std::fmt;
use std::str::FromStr;

use crate::error::{Error, Kind, Printable, Result};
use crate::host_port::{HostPort, HostPortError};

/// `host[:port][/part…]`, in the characters that the donor's server allows (`address_char`,
/// `sql/wsrep_sst.cc`): letters, digits and `. _ - : [ ] /`.
///
/// An IPv6 host has brackets in the text but not in [`SstAddress::host`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SstAddress {
    place: HostPort,
    parts: Vec<String>,
}

impl SstAddress {
    /// Bytes of the longest address that fits into a `ready` line of 510.
    pub const MAX_BYTES: usize = 504;

    pub fn new(host: &str, port: u16, parts: &[&str]) -> Result<SstAddress> {
        let address = SstAddress {
            place: HostPort { host: host.to_owned(), port: Some(port) },
            parts: parts.iter().map(|&part| part.to_owned()).collect(),
        };
        let text = address.to_string();
        match text.parse() {
            Ok(SstAddress { .. }) if host.is_empty() => Err(refuse(&text, "it names no host")),
            Ok(same) if same == address => Ok(address),
            Ok(_) => Err(refuse(&text, "a part of it contains a separator")),
            Err(error) => Err(error),
        }
    }

    /// Empty if the server knew none, which means every local address.
    pub fn host(&self) -> &str {
        &self.place.host
    }

    pub fn port(&self) -> Option<u16> {
        self.place.port
    }

    /// What follows the first `/`, split at every `/`.
    pub fn parts(&self) -> &[String] {
        &self.parts
    }
}

impl FromStr for SstAddress {
    type Err = Error;

    /// Drops any part before an `@`: newer servers remove it and pass it on in another way.
    fn from_str(text: &str) -> Result<SstAddress> {
        let text = text.trim().rsplit('@').next().unwrap_or_default();
        if text.len() > Self::MAX_BYTES {
            return Err(refuse("…", "it is longer than 504 bytes"));
        }
        if let Some(odd) = text.bytes().find(|&b| !is_address_byte(b)) {
            return Err(refuse(text, &format!("{} is not allowed in it", Printable(&[odd]))));
        }
        let (authority, parts) = match text.split_once('/') {
            Some((authority, path)) => (authority, path.split('/').map(str::to_owned).collect()),
            None => (text, Vec::new()),
        };
        let place = authority.parse().map_err(|error: HostPortError| refuse(text, &error.to_string()))?;
        Ok(SstAddress { place, parts })
    }
}

impl fmt::Display for SstAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.place.fmt(f)?;
        self.parts.iter().try_for_each(|part| write!(f, "/{part}"))
    }
}

/// Whether the server allows this byte in the address.
pub(super) fn is_address_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-:[]/".contains(&byte)
}

/// Whether the server allows this byte in either half of the part before the `@`.
pub(super) fn is_auth_byte(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"._-".contains(&byte)
}

fn refuse(text: &str, why: &str) -> Error {
    Error::new(Kind::Usage, format!("the address {} cannot be used: {why}", Printable(text.as_bytes())))
        .remedy("set wsrep_sst_receive_address to HOST, HOST:PORT or [IPv6]:PORT")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_round_trip() {
        for (text, host, port, parts) in [
            ("127.0.0.1", "127.0.0.1", None, &[][..]),
            ("db1.example.org:4444", "db1.example.org", Some(4444), &[]),
            ("[::1]", "::1", None, &[]),
            ("[fe80::1]:4444/highline/1", "fe80::1", Some(4444), &["highline", "1"]),
            ("10.0.0.2:4444/xtrabackup_sst//1", "10.0.0.2", Some(4444), &["xtrabackup_sst", "", "1"]),
            ("", "", None, &[]),
        ] {
            let address: SstAddress = text.parse().unwrap();
            assert_eq!((address.host(), address.port()), (host, port), "{text}");
            assert_eq!(address.parts(), parts);
            assert_eq!(address.to_string(), text);
        }
    }

    #[test]
    fn a_bare_ipv6_address_is_understood_and_an_auth_part_dropped() {
        assert_eq!("fe80::1".parse::<SstAddress>().unwrap().to_string(), "[fe80::1]");
        assert_eq!("cn:secret@h:1".parse::<SstAddress>().unwrap().to_string(), "h:1");
    }

    #[test]
    fn what_the_server_would_stop_is_refused() {
        for (text, why) in [
            ("a;b", "; is not allowed in it"),
            ("a\n", ""),
            ("a b", " is not allowed in it"),
            ("fe80::1%eth0", "% is not allowed in it"),
            ("h:99999", "not a number from 0 to 65535"),
            ("[::1", "not closed"),
            ("[::1]x", "must follow the bracket"),
            ("a]b", "only an IPv6 address may have brackets"),
        ] {
            match text.parse::<SstAddress>() {
                Ok(address) => assert!(why.is_empty(), "{text} gave {address}"),
                Err(error) => assert!(error.sentence().contains(why) && !why.is_empty(), "{text}: {error}"),
            }
        }
        assert!(SstAddress::new("h", 1, &["a/b"]).is_err());
        assert!(SstAddress::new("", 1, &[]).is_err());
        assert!(SstAddress::new(&"h".repeat(600), 1, &[]).is_err());
        assert_eq!(SstAddress::new("::1", 4444, &["highline", "1"]).unwrap().to_string(), "[::1]:4444/highline/1");
    }
}
