//! Examines a peer: one TLS handshake, and what it showed.

use std::io::{self, Read, Write};
use std::net::{TcpStream, ToSocketAddrs};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use rustls::ClientConnection;
use rustls_pki_types::CertificateDer;

use super::{Channel, Level, Report};
use crate::error::{Error, Kind, Printable, Result};
use crate::host_port::HostPort;
use crate::tls::certificate::Purpose;
use crate::tls::config::look_config;
use crate::tls::refusal::explain_io;
use crate::tls::verification::{peer_name, unix_time};
use crate::tls::{Authorities, Certificate, Identity, Session, Trust};

const HERE: Channel = Channel::Peer;
/// The longest wait for the connection, and again for the whole handshake.
const DEADLINE: Duration = Duration::from_secs(5);

/// A socket that fails when its time is up, however slowly the peer sends.
struct Timed {
    socket: TcpStream,
    end: Instant,
}

impl Timed {
    fn left(&self) -> io::Result<Duration> {
        let left = self.end.saturating_duration_since(Instant::now());
        if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
    }
}

fn deadline() -> Instant {
    let now = Instant::now();
    now.checked_add(DEADLINE).unwrap_or(now)
}

/// A timeout of the socket reads as `WouldBlock`.
fn in_words(error: io::Error) -> io::Error {
    if error.kind() == io::ErrorKind::WouldBlock { io::ErrorKind::TimedOut.into() } else { error }
}

impl Read for Timed {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.socket.set_read_timeout(Some(self.left()?))?;
        self.socket.read(buffer).map_err(in_words)
    }
}

impl Write for Timed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.socket.set_write_timeout(Some(self.left()?))?;
        self.socket.write(bytes).map_err(in_words)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.socket.flush()
    }
}

/// Connects to `address` (`HOST:PORT`), does a TLS handshake, and reports what it saw. Checks the chain if there are
/// authorities, and presents `identity` if the peer asks. Sends nothing after the handshake.
pub fn look(
    address: &str,
    identity: Option<&Identity>,
    authorities: Option<&Arc<Authorities>>,
    now: SystemTime,
    report: &mut Report,
) -> Result<()> {
    let shown = Printable(address.as_bytes()).to_string();
    let place: Option<HostPort> = address.trim().parse().ok();
    let place = place.filter(|place| place.port.is_some()).ok_or_else(|| {
        Error::new(Kind::Usage, format!("{shown} is not HOST:PORT"))
            .remedy("write 192.0.2.1:4444 or [2001:db8::1]:4567")
    })?;
    let name = peer_name(&place.host)?;
    let mut socket = dial(address, &shown)?;
    let mut connection =
        ClientConnection::new(look_config(identity)?, name.clone()).map_err(|e| crate::tls::explain(e, &shown))?;
    while connection.is_handshaking() {
        connection.complete_io(&mut socket).map_err(|e| explain_io(e, &shown))?;
    }
    let session = Session::seen(&connection);
    report.ok(HERE, format!("{shown}: {}, {}, {}", session.version, session.cipher, session.key_exchange));
    let chain: Vec<CertificateDer<'static>> = connection.peer_certificates().unwrap_or_default().to_vec();
    connection.send_close_notify();
    let _ = connection.complete_io(&mut socket);
    let Some((leaf, intermediates)) = chain.split_first() else { return Ok(()) };
    describe(leaf, intermediates, now, report);
    if !Certificate::is_for(leaf, &name) {
        report.note(
            HERE,
            format!(
                "its certificate is not for {}: VERIFY_IDENTITY refuses it under this address",
                Printable(place.host.as_bytes())
            ),
        );
    }
    match authorities {
        None => report.note(HERE, "its chain was not checked: no CA is configured here"),
        Some(authorities) => {
            match Trust::Chain(Arc::clone(authorities)).check(leaf, intermediates, unix_time(now), Purpose::Server) {
                Ok(()) => report.ok(HERE, format!("it is signed by an authority in {}", authorities.source())),
                Err(refusal) => report.failure(HERE, Level::Error, &refusal.about(&shown)),
            }
        }
    }
    Ok(())
}

fn describe(leaf: &CertificateDer<'_>, intermediates: &[CertificateDer<'_>], now: SystemTime, report: &mut Report) {
    let certificates = std::iter::once(leaf).chain(intermediates).filter_map(|der| Certificate::parse(der).ok());
    for (number, facts) in certificates.enumerate() {
        let days = facts.days_left(now);
        let what = match number {
            0 => format!(
                "certificate {}: {}, {}, {days} days left, pin {}",
                facts.title(),
                facts.all_names(),
                facts.key,
                facts.pin
            ),
            _ if facts.is_self_signed => format!("authority {}: {}, {days} days left", facts.title(), facts.key),
            _ => format!("intermediate {}: {}, {days} days left", facts.title(), facts.key),
        };
        match days {
            i64::MIN..0 => {
                report.error(HERE, format!("{what}: expired on {}", facts.not_after), "renew it on that host")
            }
            0..30 => report.warning(HERE, what, "renew it on that host"),
            _ => report.ok(HERE, what),
        }
    }
}

fn dial(address: &str, shown: &str) -> Result<Timed> {
    let addresses = address
        .to_socket_addrs()
        .map_err(|e| Error::net(format!("cannot resolve {shown}"), e).remedy("check the name, or give an address"))?;
    let mut last = None;
    for address in addresses {
        match TcpStream::connect_timeout(&address, DEADLINE) {
            Ok(socket) => return Ok(Timed { socket, end: deadline() }),
            Err(e) => last = Some(e),
        }
    }
    let failed = Error::new(Kind::Network, format!("cannot connect to {shown}"));
    Err(match last {
        Some(e) => Error::net(format!("cannot connect to {shown}"), e),
        None => failed,
    }
    .remedy("check the address, port and firewall; a joiner listens only while it waits for its donor"))
}

#[cfg(test)]
mod tests {
    use std::net::TcpListener;

    use rustls::ServerConnection;

    use super::*;
    use crate::tls::testing::Ca;
    use crate::tls::{Policy, server_config};

    /// Listens on loopback, serves one connection with `serve`, and gives its address.
    fn listen(serve: impl FnOnce(TcpStream) + Send + 'static) -> String {
        let socket = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = socket.local_addr().unwrap().to_string();
        std::thread::spawn(move || serve(socket.accept().unwrap().0));
        address
    }

    fn listen_tls(identity: &Identity, trust: Trust) -> String {
        let config = server_config(identity, trust, &Policy::default()).unwrap();
        listen(move |mut socket| {
            let mut connection = ServerConnection::new(config).unwrap();
            let _ = connection.complete_io(&mut socket);
            let _ = connection.complete_io(&mut socket);
        })
    }

    fn seen(address: &str, ca: Option<&Ca>) -> Result<String> {
        let mut report = Report::default();
        let authorities = ca.map(Ca::authorities);
        look(address, None, authorities.as_ref(), SystemTime::now(), &mut report)?;
        Ok(report.to_string())
    }

    #[test]
    fn a_listener_is_described() {
        let ca = Ca::new("Lab CA");
        let node = ca.node("node1", &["127.0.0.1"]);
        let said = seen(&listen_tls(&node, Trust::Pin), Some(&ca)).unwrap();
        for line in [
            "TLSv1.3, TLS_AES_256_GCM_SHA384, X25519MLKEM768",
            &format!("certificate \"CN=node1\": 127.0.0.1, ECDSA P-256, 29 days left, pin {}", node.pin()),
            "it is signed by an authority in ",
        ] {
            assert!(said.contains(line) || said.contains(&line.replace("29 days", "30 days")), "{line}\n{said}");
        }
        assert!(!said.contains("is not for 127.0.0.1"), "{said}");
        let other = Ca::new("Other CA");
        let said = seen(&listen_tls(&ca.node("node2", &["node2"]), Trust::Pin), Some(&other)).unwrap();
        assert!(said.contains("its certificate is not for 127.0.0.1"), "{said}");
        assert!(said.contains("was issued by \"CN=Lab CA\", which is not among"), "{said}");
        // One that demands a certificate of ours is described too.
        let said = seen(&listen_tls(&node, Trust::Chain(ca.authorities())), None).unwrap();
        assert!(said.contains("its chain was not checked"), "{said}");
    }

    #[test]
    fn what_is_no_tls_is_said() {
        let greeter = listen(|mut socket| {
            let _ = socket.write_all(b"5.5.5-10.11.19-MariaDB\0 and more of a greeting");
            let _ = std::io::copy(&mut socket, &mut std::io::sink());
        });
        let error = seen(&greeter, None).unwrap_err();
        assert!(error.sentence().contains(" sent something that is not TLS"), "{}", error.sentence());
        let slow = listen(|mut socket| {
            // The beginning of a handshake record, a byte at a time, for longer than anybody should wait.
            for byte in [22, 3, 3, 0x10, 0].iter().chain(std::iter::repeat_n(&2, 100)) {
                let _ = socket.write_all(&[*byte]);
                std::thread::sleep(Duration::from_millis(200));
            }
        });
        let began = Instant::now();
        let error = seen(&slow, None).unwrap_err();
        assert_eq!(error.kind(), Kind::Timeout, "{}", error.sentence());
        assert!(began.elapsed() < 2 * DEADLINE);
        let silent = listen(drop);
        let error = seen(&silent, None).unwrap_err();
        assert!(error.sentence().starts_with(&format!("{silent}: the TLS handshake failed")), "{}", error.sentence());
        let error = seen("127.0.0.1:1", None).unwrap_err();
        assert_eq!(error.kind(), Kind::Network);
        assert!(error.sentence().starts_with("cannot connect to 127.0.0.1:1: "), "{}", error.sentence());
        assert_eq!(seen("127.0.0.1", None).unwrap_err().sentence(), "127.0.0.1 is not HOST:PORT");
    }
}
