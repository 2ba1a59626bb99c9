//! `listen`: where a joiner waits, as people write it.

use std::fmt;
use std::str::FromStr;

/// `HOST`, `HOST:PORT`, `:PORT` or `[IPv6]:PORT`; at least one of the two is there.
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
        let (host, port) = match text.rsplit_once(':') {
            // A bare IPv6 address has no port.
            Some((host, _)) if host.contains(':') && !host.ends_with(']') => (text, None),
            Some((host, port)) => (host, Some(port.parse().map_err(|_| wrong())?)),
            None => (text, None),
        };
        let inner = host.strip_prefix('[').and_then(|rest| rest.strip_suffix(']'));
        let bare = inner.unwrap_or(host);
        let is_v6 = bare.parse::<std::net::Ipv6Addr>().is_ok();
        let plain = bare.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_'));
        if !(is_v6 || plain && inner.is_none()) || bare.is_empty() && port.is_none() {
            return Err(wrong());
        }
        Ok(ListenOn { host: (!bare.is_empty()).then(|| bare.to_owned()), port })
    }
}

impl fmt::Display for ListenOn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.host {
            Some(host) if host.contains(':') => write!(f, "[{host}]")?,
            Some(host) => f.write_str(host)?,
            None => {}
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
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
