//! `HOST:PORT` as people and servers write it.

use std::fmt;
use std::net::Ipv6Addr;
use std::str::FromStr;

/// A host, which may be empty, and perhaps a port. An IPv6 address needs brackets if a port follows; otherwise they are
/// optional.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HostPort {
    /// Without brackets.
    pub host: String,
    pub port: Option<u16>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum HostPortError {
    #[error("a bracket is not closed")]
    Open,
    #[error("a port must follow the bracket")]
    Behind,
    #[error("only an IPv6 address may have brackets")]
    Bracket,
    #[error("it has several colons and is not an IPv6 address")]
    Colons,
    #[error("its port is not a number from 0 to 65535")]
    Port,
}

impl FromStr for HostPort {
    type Err = HostPortError;

    /// An empty port counts as no port.
    fn from_str(text: &str) -> Result<HostPort, HostPortError> {
        let (host, port) = match text.strip_prefix('[') {
            Some(bracketed) => {
                let (host, rest) = bracketed.split_once(']').ok_or(HostPortError::Open)?;
                host.parse::<Ipv6Addr>().map_err(|_| HostPortError::Bracket)?;
                (host, if rest.is_empty() { "" } else { rest.strip_prefix(':').ok_or(HostPortError::Behind)? })
            }
            None => match text.split_once(':') {
                Some((host, port)) if !port.contains(':') => (host, port),
                Some(_) if text.parse::<Ipv6Addr>().is_err() => return Err(HostPortError::Colons),
                _ => (text, ""),
            },
        };
        if host.contains(['[', ']']) {
            return Err(HostPortError::Bracket);
        }
        let port = if port.is_empty() { None } else { Some(port.parse().map_err(|_| HostPortError::Port)?) };
        Ok(HostPort { host: host.to_owned(), port })
    }
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.host.contains(':') {
            true => write!(f, "[{}]", self.host)?,
            false => f.write_str(&self.host)?,
        }
        self.port.map_or(Ok(()), |port| write!(f, ":{port}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_taken_apart() {
        for (text, host, port) in [
            ("192.0.2.1", "192.0.2.1", None),
            ("192.0.2.1:4445", "192.0.2.1", Some(4445)),
            ("node1.example:", "node1.example", None),
            (":1", "", Some(1)),
            ("", "", None),
            ("[2001:db8::1]:4444", "2001:db8::1", Some(4444)),
            ("[2001:db8::1]", "2001:db8::1", None),
            ("2001:db8::1", "2001:db8::1", None),
        ] {
            let read: HostPort = text.parse().unwrap();
            assert_eq!((read.host.as_str(), read.port), (host, port), "{text}");
            assert_eq!(read.to_string().parse(), Ok(read), "{text}");
        }
    }

    #[test]
    fn what_is_neither_is_refused() {
        for (text, why) in [
            ("h:99999", HostPortError::Port),
            ("h:-1", HostPortError::Port),
            ("[::1", HostPortError::Open),
            ("[::1]1", HostPortError::Behind),
            ("[db1]:1", HostPortError::Bracket),
            ("[]", HostPortError::Bracket),
            ("a]b", HostPortError::Bracket),
            ("tcp://h:1", HostPortError::Colons),
            ("1:2:3", HostPortError::Colons),
        ] {
            assert_eq!(text.parse::<HostPort>(), Err(why), "{text}");
        }
    }
}
