//! `listen`: where a joiner waits, as written in an option file.

use std::fmt;
use std::str::FromStr;

use crate::host_port::HostPort;

/// `HOST`, `HOST:PORT`, `:PORT` or `[IPv6]:PORT`; at least one of the two is given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenOn {
    /// A name or an address, without brackets.
    pub host: Option<String>,
    pub port: Option<u16>,
}

impl FromStr for ListenOn {
    type Err = String;

    fn from_str(text: &str) -> Result<ListenOn, String> {
        let wrong =
            || format!("`{text}` is not HOST, HOST:PORT or :PORT, such as 192.0.2.1:4444 or [2001:db8::1]:4444");
        let HostPort { host, port } = text.parse().map_err(|_| wrong())?;
        let is_v6 = host.parse::<std::net::Ipv6Addr>().is_ok();
        let plain = host.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        // A colon without a port: somebody forgot it.
        let forgotten = port.is_none() && text.ends_with(':') && !is_v6;
        if !(is_v6 || plain) || forgotten || host.is_empty() && port.is_none() {
            return Err(wrong());
        }
        Ok(ListenOn { host: (!host.is_empty()).then_some(host), port })
    }
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        HostPort { host: self.host.clone().unwrap_or_default(), port: self.port }.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn places_to_listen() {
        for (text, host, port) in [
            (":4445", None, Some(4445)),
            ("192.0.2.1", Some("192.0.2.1"), None),
            ("192.0.2.1:1", Some("192.0.2.1"), Some(1)),
            ("db-1.example:0", Some("db-1.example"), Some(0)),
            ("2001:db8::1", Some("2001:db8::1"), None),
            ("[2001:db8::1]", Some("2001:db8::1"), None),
            ("[::]:4444", Some("::"), Some(4444)),
        ] {
            let read: ListenOn = text.parse().unwrap();
            assert_eq!((read.host.as_deref(), read.port), (host, port), "{text}");
            assert_eq!(read.to_string().parse(), Ok(read), "{text}");
        }
        for wrong in ["", ":", "[]", "h:", "h:x", "h:65536", ":-1", "[db1]:1", "a b:1", "1:2:3", "tcp://h:1", "[::1]1"]
        {
            let why = wrong.parse::<ListenOn>().unwrap_err();
            assert!(why.starts_with(&format!("`{wrong}` is not HOST, HOST:PORT or :PORT")), "{wrong}: {why}");
        }
    }
}
