//! Sockets that notice a dead peer.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::error::{Error, Kind, Result};

/// No delay for small messages, and an end to connections whose peer has vanished: keepalive probes
/// when it is quiet, `TCP_USER_TIMEOUT` (tcp(7)) when bytes stay unacknowledged.
pub(super) fn tune(stream: &TcpStream, silence: Duration) {
    let millis = u32::try_from(silence.as_millis()).unwrap_or(u32::MAX);
    // None of these is vital: a kernel that refuses one leaves the heartbeats to notice.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(10));
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5));
    let _ = sockopt::set_tcp_keepcnt(stream, 4);
    let _ = sockopt::set_tcp_user_timeout(stream, millis);
}

/// Listens on `address`; on `[::]` for IPv4 too, and on `0.0.0.0` where there is no IPv6.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener> {
    let failed = |e: std::io::Error| {
        let busy = e.kind() == std::io::ErrorKind::AddrInUse;
        let error = Error::net(format!("cannot listen on {address}"), e);
        if busy {
            error.remedy(format!(
                "see who holds the port with `ss -ltnp 'sport = :{}'`, or choose another with --listen",
                address.port()
            ))
        } else {
            error
        }
    };
    let open = |address: SocketAddr| -> std::io::Result<TcpListener> {
        let socket = if address.is_ipv6() { TcpSocket::new_v6()? } else { TcpSocket::new_v4()? };
        socket.set_reuseaddr(true)?;
        if address.is_ipv6() {
            let _ = sockopt::set_ipv6_v6only(&socket, false);
        }
        socket.bind(address)?;
        socket.listen(1024)
    };
    match open(address) {
        Err(e) if address.ip() == IpAddr::from([0u16; 8]) && e.kind() != std::io::ErrorKind::AddrInUse => {
            open(SocketAddr::from(([0, 0, 0, 0], address.port()))).map_err(failed)
        }
        other => other.map_err(failed),
    }
}

/// Resolves and connects to any of a name's addresses, IPv6 and IPv4 in turn, until `limit` has passed.
pub(super) async fn connect(host: &str, port: u16, limit: Duration) -> Result<TcpStream> {
    let deadline = tokio::time::Instant::now() + limit;
    let mut pause = Duration::from_millis(50);
    loop {
        let error = match try_all(host, port, deadline).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        if tokio::time::Instant::now() + pause >= deadline {
            return Err(Error::new(
                if error.kind() == std::io::ErrorKind::TimedOut { Kind::Timeout } else { Kind::Network },
                format!("cannot reach the joiner at {host}:{port} within {} s", limit.as_secs()),
            )
            .because(error)
            .remedy("look whether `receive` still waits there, and whether a firewall lets the port through"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// Every address gets its turn, and no dead one eats the time of the next: a quarter second's start,
/// then the next is tried beside it (RFC 8305).
async fn try_all(host: &str, port: u16, deadline: tokio::time::Instant) -> std::io::Result<TcpStream> {
    let mut addresses: Vec<SocketAddr> = tokio::net::lookup_host((host, port)).await?.collect();
    addresses.sort_by_key(SocketAddr::is_ipv4);
    let mut tries = tokio::task::JoinSet::new();
    for (index, address) in addresses.into_iter().take(16).enumerate() {
        let start = Duration::from_millis(250) * u32::try_from(index).unwrap_or(0);
        tries.spawn(async move {
            tokio::time::sleep(start).await;
            TcpStream::connect(address).await
        });
    }
    let mut last = std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address");
    while let Some(tried) = tokio::time::timeout_at(deadline, tries.join_next())
        .await
        .map_err(|_| std::io::Error::from(std::io::ErrorKind::TimedOut))?
    {
        match tried {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) => last = error,
            Err(_) => {}
        }
    }
    Err(last)
}
