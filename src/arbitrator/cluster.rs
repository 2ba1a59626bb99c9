//! Where a cluster is: the hosts of `wsrep_cluster_address`, and which of them answers.

use std::fmt;
use std::net::{IpAddr, TcpStream, ToSocketAddrs};
use std::str::FromStr;
use std::time::{Duration, Instant};

use crate::error::{Error, Kind, Printable, Result};
use crate::host_port::HostPort;

/// Where Galera listens by default (`gmcast.listen_addr`).
pub const PORT: u16 = 4567;

/// Nodes of one cluster, at least one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cluster(Vec<HostPort>);

/// `gcomm://host1,host2:4567?options`, or the hosts alone. What follows `?` is dropped: the provider's options say that.
impl FromStr for Cluster {
    type Err = String;

    fn from_str(text: &str) -> Result<Cluster, String> {
        let bare = text.trim();
        let bare = bare.strip_prefix("gcomm://").unwrap_or(bare);
        let hosts = bare.split('?').next().unwrap_or_default();
        let host = |text: &str| {
            let read: HostPort = text.parse().map_err(|why| format!("`{}`: {why}", Printable(text.as_bytes())))?;
            let letter = |c: char| c.is_ascii_alphanumeric() || ".-_:".contains(c);
            if read.host.is_empty() || read.port == Some(0) || !read.host.chars().all(letter) {
                return Err(format!("`{}` is not a host or HOST:PORT", Printable(text.as_bytes())));
            }
            Ok(read)
        };
        let named = hosts.split(',').map(str::trim).filter(|host| !host.is_empty());
        let hosts = named.map(host).collect::<Result<Vec<_>, String>>()?;
        if hosts.is_empty() {
            return Err("it names no host".to_owned());
        }
        Ok(Cluster(hosts))
    }
}

/// As the provider reads it.
impl fmt::Display for Cluster {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("gcomm://")?;
        for (at, host) in self.0.iter().enumerate() {
            write!(f, "{}{host}", if at == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

impl Cluster {
    /// The address of this host by which a node that listens sees it: a loopback address, which is no use to other hosts,
    /// only if no node is reached by another. Takes at most `limit`, and blocks.
    ///
    /// # Errors
    /// No node listens: each with its reason.
    pub fn reach(&self, limit: Duration) -> Result<IpAddr> {
        const A_NODE: Duration = Duration::from_secs(3);
        let deadline = Instant::now() + limit;
        let mut failures = Vec::new();
        let mut places = Vec::new();
        for host in &self.0 {
            match (host.host.as_str(), host.port.unwrap_or(PORT)).to_socket_addrs() {
                Ok(found) => places.extend(found),
                Err(error) => failures.push(format!("{host}: {error}")),
            }
        }
        let seen = places.into_iter().filter_map(|address| {
            let left = deadline.saturating_duration_since(Instant::now()).min(A_NODE);
            if left.is_zero() {
                failures.push(format!("{address}: no time was left"));
                return None;
            }
            let here = TcpStream::connect_timeout(&address, left).and_then(|stream| stream.local_addr());
            here.map(|here| here.ip()).map_err(|error| failures.push(format!("{address}: {error}"))).ok()
        });
        if let Some(here) = of_use(seen) {
            return Ok(here);
        }
        let what = format!("no node of the cluster can be reached: {}", failures.join("; "));
        Err(Error::new(Kind::Network, what).remedy(
            "give the address and the replication port (4567) of a node that is up as --cluster-address; \
             a firewall may be in the way",
        ))
    }
}

/// The first address that other hosts can use, or else the first.
fn of_use(mut addresses: impl Iterator<Item = IpAddr>) -> Option<IpAddr> {
    let first = addresses.next()?;
    if !is_loopback(first) {
        return Some(first);
    }
    Some(addresses.find(|address| !is_loopback(*address)).unwrap_or(first))
}

/// Whether only this host can use the address.
pub fn is_loopback(address: IpAddr) -> bool {
    address.to_canonical().is_loopback()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_loopback_address_is_the_last_resort() {
        for (seen, chosen) in [
            (&["127.0.1.1", "10.0.0.14", "10.0.1.14"][..], Some("10.0.0.14")),
            (&["::ffff:127.0.0.1", "::1", "fd00::2"], Some("fd00::2")),
            (&["127.0.1.1", "::1"], Some("127.0.1.1")),
            (&[], None),
        ] {
            let seen = seen.iter().map(|address| address.parse().unwrap());
            assert_eq!(of_use(seen), chosen.map(|address| address.parse().unwrap()));
        }
        // No more nodes are tried than it takes.
        let mut seen = ["10.0.0.14", "127.0.0.1"].map(|address| address.parse().unwrap()).into_iter();
        of_use(&mut seen).unwrap();
        assert_eq!(seen.len(), 1);
    }

    #[test]
    fn the_servers_own_value_is_understood() {
        for (text, shown) in [
            ("gcomm://10.0.0.1,10.0.0.2:4568", "gcomm://10.0.0.1,10.0.0.2:4568"),
            ("db1.example, db2", "gcomm://db1.example,db2"),
            ("gcomm://[::1]:4567,?pc.wait_prim=no", "gcomm://[::1]:4567"),
        ] {
            assert_eq!(text.parse::<Cluster>().unwrap().to_string(), shown);
        }
        for (text, why) in [
            ("", "it names no host"),
            ("gcomm://", "it names no host"),
            ("a;b", "`a;b` is not a host or HOST:PORT"),
            ("h:0", "`h:0` is not a host or HOST:PORT"),
            ("h:x", "`h:x`: its port is not a number from 0 to 65535"),
            ("tcp://h:1", "`tcp://h:1`: it has several colons and is not an IPv6 address"),
        ] {
            assert_eq!(text.parse::<Cluster>().unwrap_err(), why);
        }
    }

    #[test]
    fn a_node_that_listens_is_found_among_those_that_do_not() {
        let closed = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let limit = Duration::from_secs(10);
        let error = closed.to_string().parse::<Cluster>().unwrap().reach(limit).unwrap_err();
        assert_eq!(error.kind(), Kind::Network);
        assert!(
            error
                .sentence()
                .starts_with(&format!("no node of the cluster can be reached: {closed}: Connection refused"))
        );
        let open = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        let both: Cluster = format!("{closed},{}", open.local_addr().unwrap()).parse().unwrap();
        assert_eq!(both.reach(limit).unwrap().to_string(), "127.0.0.1");
    }
}
