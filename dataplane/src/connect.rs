//! A connection to the registry, or to a storage it redirects to: one that is open and idle, or a
//! new one.
//!
//! A routed connector in, an [`Outlet`] out. Every address is checked at the moment it is dialled,
//! so a name that begins to point elsewhere leads nowhere (DNS rebinding). A certificate that is
//! not trusted ends here: not a byte of a request has been sent then.

use std::io;
use std::net::{IpAddr, SocketAddr};
use std::pin::pin;
use std::sync::Arc;
use std::time::Instant;

use crate::buffer::Buffer;
use crate::error::Kind;
use crate::io::{Socket, lately, within};
use crate::pool::Key;
use crate::resolve::{is_forbidden, is_private};
use crate::transport::Transport;
use crate::vocabulary::{Connector, Origin, Scheme};
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

/// A connection for `connector`, whose key is `key`, at `now`: the one used last, if it is still
/// good, or a new one.
pub(crate) async fn open(
    connector: &Connector,
    key: Arc<Key>,
    now: Instant,
    core: &Core,
) -> Result<Outlet, Kind> {
    match idle(&key, now, core) {
        Some(outlet) => Ok(outlet),
        // On the heap, because most requests need no room for it.
        None => Box::pin(dial(connector, key, core)).await,
    }
}

/// A new connection for `connector`.
pub(crate) async fn dial(
    connector: &Connector,
    key: Arc<Key>,
    core: &Core,
) -> Result<Outlet, Kind> {
    dial_at(&connector.origin, connector, Reach::Registry, core, key).await
}

/// A connection to a storage at `origin`, that the registry of `connector` redirects to. It is none
/// that ever carries the connector's credential.
pub(crate) async fn open_storage(
    origin: &Origin,
    connector: &Connector,
    core: &Core,
) -> Result<Outlet, Kind> {
    let key = Arc::new(Key::of_storage(connector, origin));
    match idle(&key, Instant::now(), core) {
        Some(outlet) => Ok(outlet),
        None => Box::pin(dial_storage(origin, connector, core, key)).await,
    }
}

/// A new connection to such a storage.
pub(crate) async fn dial_storage(
    origin: &Origin,
    connector: &Connector,
    core: &Core,
    key: Arc<Key>,
) -> Result<Outlet, Kind> {
    let listed = connector.redirects.lists(origin) || origin.host == connector.origin.host;
    let reach = if listed { Reach::Registry } else { Reach::Public };
    dial_at(origin, connector, reach, core, key).await
}

/// Gives a connection back, whose last exchange ended cleanly.
pub(crate) fn keep(outlet: Outlet, core: &Core) {
    if outlet.buffer.is_empty() {
        core.pool.borrow_mut().put(outlet.key, outlet.transport, lately());
    }
}

/// Which addresses a name may lead to.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Reach {
    /// Those that a connector's own address may lead to: private networks too.
    Registry,
    /// Those of public networks: a registry must not make this proxy knock at its neighbours.
    Public,
}

impl Reach {
    fn covers(self, address: IpAddr, core: &Core) -> bool {
        match self {
            Self::Registry => !is_forbidden(address, core.loopback_allowed),
            Self::Public => !is_forbidden(address, false) && !is_private(address),
        }
    }
}

/// The connection used last under `key`, if there is one and it is still good.
fn idle(key: &Arc<Key>, now: Instant, core: &Core) -> Option<Outlet> {
    loop {
        let transport = core.pool.borrow_mut().take(key, now)?;
        if transport.is_quiet() {
            core.counters.reuses.add(1);
            let key = Arc::clone(key);
            return Some(Outlet { transport, buffer: Buffer::default(), key, reused: true });
        }
    }
}

async fn dial_at(
    origin: &Origin,
    connector: &Connector,
    reach: Reach,
    core: &Core,
    key: Arc<Key>,
) -> Result<Outlet, Kind> {
    if core.own.is_loop_name(&origin.host) {
        return Err(Kind::Loop);
    }
    let dialling = pin!(async {
        let addresses = core.names.addresses(&origin.host, origin.port, &core.limits).await?;
        let socket = first_reachable(&addresses, reach, core).await?;
        secured(socket, origin, connector, core).await
    });
    let dialled = within(core.limits.connect_total_wait, dialling);
    let transport = dialled.await.unwrap_or(Err(Kind::RegistryUnreachable))?;
    core.counters.dials.add(1);
    Ok(Outlet { transport, buffer: Buffer::default(), key, reused: false })
}

async fn first_reachable(
    addresses: &[SocketAddr],
    reach: Reach,
    core: &Core,
) -> Result<Socket, Kind> {
    let mut failure = Kind::RegistryUnresolved;
    for address in addresses {
        if !reach.covers(address.ip(), core) {
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

async fn secured(
    socket: Socket,
    origin: &Origin,
    connector: &Connector,
    core: &Core,
) -> Result<Transport, Kind> {
    if origin.scheme == Scheme::Http {
        return Ok(Transport::Plain(socket));
    }
    let transport = core.tls.borrow_mut().open(socket, origin, &connector.trust)?;
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
