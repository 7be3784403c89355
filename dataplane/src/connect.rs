//! A connection to the registry: one that is open and idle, or a new one.
//!
//! A routed connector in, an [`Outlet`] out. Every address is checked at the moment it is dialled,
//! so a name that begins to point elsewhere leads nowhere (DNS rebinding). A certificate that is
//! not trusted ends here: not a byte of a request has been sent then.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Instant;

use crate::buffer::Buffer;
use crate::error::Kind;
use crate::io::{Socket, within};
use crate::pool::Key;
use crate::resolve::is_forbidden;
use crate::transport::Transport;
use crate::vocabulary::{Connector, Scheme};
use crate::worker::Core;

/// A connection to a registry.
pub(crate) struct Outlet {
    /// Its bytes.
    pub(crate) transport: Transport,
    /// What has been read from it and not yet dealt with.
    pub(crate) buffer: Buffer,
    /// Whose it is.
    pub(crate) key: Arc<Key>,
    /// Whether it has carried a request before: then it may have died unnoticed.
    pub(crate) reused: bool,
}

/// A connection for `connector`: the one used last, if it is still good, or a new one.
pub(crate) async fn open(connector: &Connector, core: &Core) -> Result<Outlet, Kind> {
    let key = Arc::new(Key::of(connector));
    loop {
        let idle = core.pool.borrow_mut().take(&key, Instant::now());
        match idle {
            Some(transport) if transport.is_quiet() => {
                core.counters.reuses.add(1);
                return Ok(Outlet { transport, buffer: Buffer::default(), key, reused: true });
            }
            Some(_dead) => {}
            None => return dial(connector, core, key).await,
        }
    }
}

/// A new connection for `connector`.
pub(crate) async fn dial(
    connector: &Connector,
    core: &Core,
    key: Arc<Key>,
) -> Result<Outlet, Kind> {
    let dialled = within(core.limits.connect_total_wait, async {
        let origin = &connector.origin;
        let addresses = core.names.addresses(&origin.host, origin.port, &core.limits).await?;
        let socket = first_reachable(&addresses, core).await?;
        secured(socket, connector, core).await
    });
    let transport = dialled.await.unwrap_or(Err(Kind::RegistryUnreachable))?;
    core.counters.dials.add(1);
    Ok(Outlet { transport, buffer: Buffer::default(), key, reused: false })
}

/// Gives a connection back, whose last exchange ended cleanly.
pub(crate) fn keep(outlet: Outlet, core: &Core) {
    if outlet.buffer.is_empty() {
        core.pool.borrow_mut().put(outlet.key, outlet.transport, Instant::now());
    }
}

async fn first_reachable(addresses: &[SocketAddr], core: &Core) -> Result<Socket, Kind> {
    let mut failure = Kind::RegistryUnresolved;
    for address in addresses {
        if is_forbidden(address.ip(), core.loopback_allowed) {
            failure = Kind::RegistryForbidden;
            continue;
        }
        match Socket::connect(*address, core.limits.connect_wait).await {
            Ok(socket) if core.own.is_loop(socket.local_address().ok(), *address) => {
                failure = Kind::Loop;
            }
            Ok(socket) => return Ok(socket),
            Err(error) => {
                tracing::warn!(%address, %error, "a registry cannot be reached");
                failure = Kind::RegistryUnreachable;
            }
        }
    }
    Err(failure)
}

async fn secured(socket: Socket, connector: &Connector, core: &Core) -> Result<Transport, Kind> {
    if connector.origin.scheme == Scheme::Http {
        return Ok(Transport::Plain(socket));
    }
    let transport = core.tls.borrow_mut().open(socket, &connector.origin, &connector.trust)?;
    match transport.handshake(core.limits.handshake_wait).await {
        Ok(()) => Ok(transport),
        Err(error) => {
            tracing::warn!(connector = %connector.reference, %error, "TLS to a registry failed");
            // rustls reports what it found wrong as invalid data; all else is the network's doing.
            Err(match error.kind() {
                io::ErrorKind::InvalidData => Kind::RegistryUntrusted,
                _ => Kind::RegistryUnreachable,
            })
        }
    }
}
