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

/// The first control connection that has proven itself, and the donor's number for this conversation. `None` waits forever.
pub(super) async fn donor(
    connections: &mut mpsc::Receiver<ProvenConnection>,
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
    match limit {
        None => arrival.await,
        Some(limit) => tokio::time::timeout(limit, arrival).await.unwrap_or_else(|_| {
            Err(Error::new(Kind::Timeout, format!("no donor connected within {} s", limit.as_secs_f64()))
                .remedy("see the donor's log for the reason; a firewall may block this port"))
        }),
    }
}
