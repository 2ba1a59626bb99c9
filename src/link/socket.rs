//! Sockets that notice a dead peer.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use rustix::net::sockopt;
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use super::Deadlines;
use crate::error::{Error, Kind, Result};

/// No delay for small messages, and an end to connections whose peer has vanished: keepalive probes if it is quiet,
/// `TCP_USER_TIMEOUT` (tcp(7)) if bytes stay unacknowledged. The latter also counts time during which a living peer
/// keeps its window closed, so it is never shorter than the idle deadline.
pub(super) fn tune(stream: &TcpStream, deadlines: &Deadlines) {
    // An int in the kernel. With a margin, so that the idle deadline is noticed first.
    let longest = deadlines.silence.max(deadlines.idle).saturating_add(Duration::from_secs(5));
    let millis = i32::try_from(longest.as_millis()).unwrap_or(i32::MAX).unsigned_abs();
    // None of these is vital: if the kernel refuses one, the heartbeats still notice.
    let _ = stream.set_nodelay(true);
    let _ = sockopt::set_socket_keepalive(stream, true);
    let _ = sockopt::set_tcp_keepidle(stream, Duration::from_secs(10));
    let _ = sockopt::set_tcp_keepintvl(stream, Duration::from_secs(5));
    let _ = sockopt::set_tcp_keepcnt(stream, 4);
    let _ = sockopt::set_tcp_user_timeout(stream, millis);
}

/// Listens on `address`; `[::]` includes IPv4, and becomes `0.0.0.0` if there is no IPv6.
pub(super) fn listen(address: SocketAddr) -> Result<TcpListener> {
    let failed = |e: std::io::Error| {
        let busy = e.kind() == std::io::ErrorKind::AddrInUse;
        let what = format!("cannot listen on {address}");
        if !busy {
            return Error::net(what, e);
        }
        Error::new(Kind::Busy, what).because(e).remedy(format!(
            "find out who has the port with `ss -ltnp 'sport = :{}'`, or choose another with listen",
            address.port()
        ))
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

/// Resolves and connects to any of a name's addresses, IPv6 and IPv4 in turn, until `left` of `limit` has passed.
pub(super) async fn connect(host: &str, port: u16, left: Duration, limit: Duration) -> Result<TcpStream> {
    let deadline = tokio::time::Instant::now() + left;
    let mut pause = Duration::from_millis(50);
    loop {
        let error = match try_all(host, port, deadline).await {
            Ok(stream) => return Ok(stream),
            Err(error) => error,
        };
        if tokio::time::Instant::now() + pause >= deadline {
            return Err(Error::new(
                if error.kind() == std::io::ErrorKind::TimedOut { Kind::Timeout } else { Kind::Network },
                format!("cannot reach the joiner at {host}:{port} within {} s", limit.as_secs_f32()),
            )
            .because(error)
            .remedy("check that the joiner is still waiting there and that no firewall blocks the port"));
        }
        tokio::time::sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(1));
    }
}

/// The same, once.
pub(super) async fn connect_once(host: &str, port: u16, limit: Duration) -> std::io::Result<TcpStream> {
    try_all(host, port, tokio::time::Instant::now() + limit).await
}

/// Looks the name up and tries every address, until `deadline`.
async fn try_all(host: &str, port: u16, deadline: tokio::time::Instant) -> std::io::Result<TcpStream> {
    let tried = tokio::time::timeout_at(deadline, try_addresses(host, port)).await;
    tried.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into()))
}

/// Each address a quarter of a second after the one before, so that a dead one does not delay the rest (RFC 8305).
/// Refused only if all of them refuse.
async fn try_addresses(host: &str, port: u16) -> std::io::Result<TcpStream> {
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
    let refused = |error: &std::io::Error| error.kind() == std::io::ErrorKind::ConnectionRefused;
    let mut last: Option<std::io::Error> = None;
    while let Some(tried) = tries.join_next().await {
        match tried {
            Ok(Ok(stream)) => return Ok(stream),
            Ok(Err(error)) if !refused(&error) || last.is_none() => last = Some(error),
            _ => {}
        }
    }
    Err(last.unwrap_or_else(|| std::io::Error::new(std::io::ErrorKind::NotFound, "the name has no address")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};

    async fn connected(deadlines: &Deadlines) -> (TcpStream, TcpStream) {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let there = TcpStream::connect(listener.local_addr().unwrap()).await.unwrap();
        tune(&there, deadlines);
        (there, listener.accept().await.unwrap().0)
    }

    #[tokio::test]
    async fn no_peer_is_given_up_before_the_idle_deadline() {
        for (idle, least) in [(120, 120_000), (1, 30_000), (u64::MAX, 0x7fff_ffff)] {
            let deadlines = Deadlines { idle: Duration::from_secs(idle), ..Deadlines::default() };
            let (stream, _peer) = connected(&deadlines).await;
            assert!(sockopt::tcp_user_timeout(&stream).unwrap() >= least, "{idle}");
        }
    }

    /// A joiner whose disk stands still reads nothing more, and its window closes.
    #[tokio::test]
    async fn a_closed_window_is_no_dead_peer() {
        let short = Duration::from_millis(500);
        let deadlines = Deadlines { silence: short, idle: Duration::from_secs(60), ..Deadlines::default() };
        let (mut donor, mut joiner) = connected(&deadlines).await;
        let sending = tokio::spawn(async move {
            donor.write_all(&vec![7; 32 << 20]).await.unwrap();
            donor.shutdown().await.unwrap();
        });
        tokio::time::sleep(short * 5).await;
        let mut taken = Vec::new();
        joiner.read_to_end(&mut taken).await.unwrap();
        sending.await.unwrap();
        assert_eq!(taken.len(), 32 << 20);
    }
}
