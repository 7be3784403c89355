//! TLS on the caller's side: its first message is looked at, then it is met with a certificate.
//!
//! A plain connection and whom the caller must mean in, the same connection inside TLS out. It
//! never meets a caller under a name that it did not ask for, and everything that takes too long or
//! is too long ends the connection. The alert that says why is worth a try, not a wait.

use std::io::IoSlice;
use std::pin::pin;
use std::sync::Arc;
use std::time::{Duration, Instant};

use rustls::server::{Accepted, Acceptor};
use rustls::{Connection, ServerConfig};

use crate::buffer::Buffer;
use crate::certificates::Subject;
use crate::error::Kind;
use crate::io::within;
use crate::transport::Transport;
use crate::worker::Core;

/// Whom the caller must mean by its first message.
pub(crate) enum Meant {
    /// The host of its CONNECT. A name in the message must be that host; there may be none.
    Registry(Box<str>, Arc<ServerConfig>),
    /// This proxy, under whatever name of ours.
    Ourselves,
}

/// Ends the caller's TLS here. `buffer` has what was read of it already, and is empty afterwards.
pub(crate) async fn greet(
    transport: Transport,
    buffer: &mut Buffer,
    meant: Meant,
    core: &Core,
) -> Result<Transport, Kind> {
    let agreed = pin!(agree(transport, buffer, meant, core));
    let greeted = within(core.limits.handshake_wait, agreed).await;
    let greeted = greeted.unwrap_or(Err(Kind::HandshakeFailed));
    match &greeted {
        Ok(_) => core.counters.handshakes.add(1),
        Err(_) => core.counters.handshakes_failed.add(1),
    }
    greeted
}

async fn agree(
    transport: Transport,
    buffer: &mut Buffer,
    meant: Meant,
    core: &Core,
) -> Result<Transport, Kind> {
    let accepted = hello(&transport, buffer, core).await?;
    let config = match config(&accepted, meant, &transport, core).await {
        Ok(config) => config,
        Err((alert, kind)) => {
            say(&transport, &[ALERT, 3, 3, 0, 2, FATAL, alert]).await;
            return Err(kind);
        }
    };
    let mut session = match accepted.into_connection(config) {
        Ok(session) => session,
        Err((error, mut alert)) => {
            tracing::debug!(%error, "TLS with a caller failed");
            let mut bytes = Vec::new();
            if alert.write_all(&mut bytes).is_ok() {
                say(&transport, &bytes).await;
            }
            return Err(Kind::HandshakeFailed);
        }
    };
    while !buffer.is_empty() {
        let mut rest = buffer.filled();
        let count = session.read_tls(&mut rest).map_err(|_| Kind::HandshakeFailed)?;
        buffer.consume(count);
        session.process_new_packets().map_err(|_| Kind::HandshakeFailed)?;
    }
    let Transport::Plain(socket) = transport else { return Err(Kind::HandshakeFailed) };
    let transport = core.tls.borrow().wrap(socket, Connection::Server(session));
    match transport.handshake(core.limits.handshake_wait).await {
        Ok(()) => Ok(transport),
        Err(error) => {
            tracing::debug!(%error, "TLS with a caller failed");
            Err(Kind::HandshakeFailed)
        }
    }
}

/// The caller's first message, however it is cut into records and packets.
async fn hello(transport: &Transport, buffer: &mut Buffer, core: &Core) -> Result<Accepted, Kind> {
    let deadline = Instant::now() + core.limits.handshake_wait;
    let mut acceptor = Acceptor::default();
    let mut left = core.limits.hello_bytes_max;
    loop {
        while !buffer.is_empty() {
            if buffer.filled().first() != Some(&HANDSHAKE) && left == core.limits.hello_bytes_max {
                // Neither TLS nor anything that would understand an alert.
                return Err(Kind::HandshakeFailed);
            }
            let mut rest = buffer.filled();
            let count = acceptor.read_tls(&mut rest).map_err(|_| Kind::HandshakeFailed)?;
            buffer.consume(count);
            left = left.checked_sub(count).ok_or(Kind::HandshakeFailed)?;
            match acceptor.accept() {
                Ok(Some(accepted)) => return Ok(accepted),
                Ok(None) => {}
                Err((error, mut alert)) => {
                    tracing::debug!(%error, "a caller's first TLS message is none");
                    let mut bytes = Vec::new();
                    if alert.write_all(&mut bytes).is_ok() {
                        say(transport, &bytes).await;
                    }
                    return Err(Kind::HandshakeFailed);
                }
            }
        }
        let wait = deadline.saturating_duration_since(Instant::now());
        match transport.read(buffer.spare(), wait).await {
            Ok(count) if count > 0 => buffer.note_read(count),
            _ => return Err(Kind::HandshakeFailed),
        }
    }
}

/// With what the caller is met; or the alert that it gets.
async fn config(
    accepted: &Accepted,
    meant: Meant,
    transport: &Transport,
    core: &Core,
) -> Result<Arc<ServerConfig>, (u8, Kind)> {
    let asked = accepted.client_hello().server_name().map(|name| {
        let name = name.to_ascii_lowercase();
        name.strip_suffix('.').map(Box::from).unwrap_or_else(|| name.into_boxed_str())
    });
    let subject = match (meant, asked) {
        (Meant::Registry(_, config), None) => return Ok(config),
        (Meant::Registry(host, config), Some(asked)) if host == asked => return Ok(config),
        (Meant::Registry(..), Some(_)) => return Err((UNRECOGNIZED_NAME, Kind::HandshakeFailed)),
        (Meant::Ourselves, Some(asked)) if core.own.is_own_name(&asked) => Subject::Service(asked),
        (Meant::Ourselves, Some(_)) => return Err((UNRECOGNIZED_NAME, Kind::HandshakeFailed)),
        (Meant::Ourselves, None) => match transport.socket().local_address() {
            Ok(address) => Subject::Address(address.ip()),
            Err(_) => return Err((INTERNAL_ERROR, Kind::HandshakeFailed)),
        },
    };
    let config = core.certificates.of(&subject, &core.limits).await;
    config.map_err(|kind| match (&subject, kind) {
        // A Service that was deleted, or never was.
        (Subject::Service(_), Kind::CertificateMissing) => (UNRECOGNIZED_NAME, kind),
        _ => (INTERNAL_ERROR, kind),
    })
}

async fn say(transport: &Transport, bytes: &[u8]) {
    let _ = transport.write_all(&mut [IoSlice::new(bytes)], ALERT_WAIT).await;
}

/// The types of TLS records (RFC 8446 §5.1) and of alerts (§6) that are known here.
pub(crate) const HANDSHAKE: u8 = 0x16;
const ALERT: u8 = 0x15;
const FATAL: u8 = 2;
const INTERNAL_ERROR: u8 = 80;
const UNRECOGNIZED_NAME: u8 = 112;

const ALERT_WAIT: Duration = Duration::from_millis(200);
