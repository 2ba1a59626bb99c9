//! A bound port, the ticket that leads to it, and the first donor that comes with it.

use std::net::SocketAddr;
use std::time::Duration;

use tokio::sync::mpsc;

use crate::error::{Error, Kind, Result};
use crate::link::{Listener, ProvenConnection};
use crate::tls::{Address, Identity, Secret, Ticket};
use crate::wire::Purpose;

#[derive(Debug)]
pub(super) struct Port {
    pub(super) listener: Listener,
    pub(super) ticket: Ticket,
}

impl Port {
    /// Binds `listen` and makes the ticket; `advertise` is the host that donors are told to dial. Needs a runtime.
    pub(super) fn bind(listen: SocketAddr, advertise: &str, identity: &Identity) -> Result<Port> {
        let listener = Listener::bind(listen)?;
        let address = Address::new(advertise, listener.address().port()).map_err(|e| {
            Error::from(e)
                .remedy("give the name or address by which donors reach this host: wsrep_sst_receive_address, or --advertise by hand")
        })?;
        let ticket = Ticket { pin: identity.pin(), secret: Secret::generate()?, address };
        Ok(Port { listener, ticket })
    }

    /// Where the donor is told to dial, and where this node listens if that differs.
    pub(super) fn place(&self) -> String {
        let (announced, listens) = (self.ticket.address.to_string(), self.listener.address().to_string());
        if announced == listens { announced } else { format!("{announced} (this node listens on {listens})") }
    }
}

/// The first control connection that has proven itself, and the donor's number for this conversation. The limit begins
/// when somebody was `asked` to send; `None` waits forever.
pub(super) async fn donor(
    connections: &mut mpsc::Receiver<ProvenConnection>,
    asked: impl Future<Output = ()>,
    limit: Option<Duration>,
) -> Result<(ProvenConnection, u64)> {
    let arrival = async {
        while let Some(connection) = connections.recv().await {
            if let Purpose::Control { session } = connection.purpose {
                return Ok((connection, session));
            }
        }
        Err(Error::new(Kind::Network, "the port was closed"))
    };
    let Some(limit) = limit else { return arrival.await };
    let late = async {
        asked.await;
        tokio::time::sleep(limit).await;
    };
    tokio::select! {
        biased;
        arrived = arrival => arrived,
        () = late => {
            Err(Error::new(Kind::Timeout, format!("no donor connected within {} s", limit.as_secs_f64()))
                .remedy("see the donor's log for the reason; a firewall may block this port"))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn the_donors_time_begins_when_it_was_asked() {
        let (_open, mut connections) = mpsc::channel(1);
        let limit = Some(Duration::from_millis(20));
        let (answered, asked) = tokio::sync::oneshot::channel::<()>();
        let asked = async { _ = asked.await };
        let mut arrival = std::pin::pin!(donor(&mut connections, asked, limit));
        let early = tokio::time::timeout(Duration::from_millis(200), &mut arrival).await;
        assert!(early.is_err(), "nobody was asked yet");
        answered.send(()).unwrap();
        let error = arrival.await.unwrap_err();
        assert_eq!((error.kind(), error.sentence().as_str()), (Kind::Timeout, "no donor connected within 0.02 s"));
    }
}
