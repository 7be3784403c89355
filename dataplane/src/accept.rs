//! A caller's connection: accepted, given to a core, asked for one request after another.
//!
//! One thread per listener accepts and hands each connection to the core that has the least to do.
//! On that core [`serve`] reads head after head, each a [`Parsed`], and has `exchange` see it
//! through; requests that arrive together are served in their order, never before the answer to
//! the one before them is complete.

use std::io;
use std::net::{SocketAddr, TcpListener};
use std::pin::pin;
use std::rc::Rc;
use std::time::{Duration, Instant};

use crate::balance::{self, Place, Transfer};
use crate::body::{self, Framing};
use crate::buffer::{Buffer, IDLE_BYTES};
use crate::counters::AllCounters;
use crate::error::{Error, Kind, Stage};
use crate::exchange::{self, Next};
use crate::handshake::{self, Meant};
use crate::intercept::Interception;
use crate::io::{Socket, canonical, until, within};
use crate::limits::Limits;
use crate::mailbox::{Entrance, Handover, Mail, Postbox};
use crate::parse::{self, Method, RequestHead};
use crate::reply;
use crate::rewrite::via;
use crate::target::{self, Target};
use crate::transport::Transport;
use crate::worker::Core;

/// A connection to a caller, on the core that serves it.
pub(crate) struct Inbound {
    /// Its bytes.
    pub(crate) transport: Transport,
    /// What has been read from it and not yet dealt with.
    pub(crate) buffer: Buffer,
    /// The caller's address.
    pub(crate) peer: SocketAddr,
    /// The long transfer that moved it here, until its request is met again.
    pub(crate) transfer: Option<Transfer>,
    /// The tunnel through which its requests come, if they do.
    pub(crate) interception: Option<Rc<Interception>>,
}

/// A request's head, read and found to mean one thing only.
pub(crate) struct Parsed {
    /// The head.
    pub(crate) head: RequestHead,
    /// What it names.
    pub(crate) target: Target,
    /// How the body after it is framed.
    pub(crate) framing: Framing,
    /// Whether the caller waits for `100 Continue`.
    pub(crate) expects_continue: bool,
    /// How many bytes of the connection's buffer it takes.
    pub(crate) length: usize,
    /// The tunnel through which it came.
    pub(crate) interception: Option<Rc<Interception>>,
}

/// Accepts on `listener` until it is shut down, and gives each connection to a core.
#[expect(clippy::disallowed_methods, reason = "a thread of its own, not a core: it may sleep")]
pub(crate) fn listen(
    listener: &TcpListener,
    entrance: Entrance,
    cores: &[Postbox],
    counters: &AllCounters,
    connections_max: usize,
) {
    loop {
        while open_connections(counters) >= connections_max {
            std::thread::sleep(FULL_PAUSE);
        }
        match listener.accept() {
            Ok((socket, peer)) => {
                let index = balance::for_connection(counters);
                if let (Some(core), Some(counters)) = (cores.get(index), counters.get(index)) {
                    counters.connections_total.add(1);
                    let place = Place::take(counters);
                    let already_read = Buffer::default();
                    let transfer = None;
                    let peer = canonical(peer);
                    let handover =
                        Handover { socket, peer, entrance, already_read, place, transfer };
                    core.send(Mail::Connection(handover));
                }
            }
            // EINVAL is what shutting the listener down looks like from here.
            Err(error) if error.kind() == io::ErrorKind::InvalidInput => return,
            // The caller gave up before it was accepted.
            Err(error) if error.kind() == io::ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // Out of descriptors or memory: a pause lets some connections end.
                tracing::error!(%error, "cannot accept");
                std::thread::sleep(FULL_PAUSE);
            }
        }
    }
}

fn open_connections(counters: &AllCounters) -> usize {
    let open: u64 = counters.iter().map(|core| core.connections.get()).sum();
    usize::try_from(open).unwrap_or(usize::MAX)
}

/// Serves one connection until it ends or moves to another core.
pub(crate) async fn serve(handover: Handover, core: Rc<Core>) {
    let Handover { socket, peer, entrance, already_read, place, transfer } = handover;
    let Ok(socket) = Socket::adopt(socket) else {
        return;
    };
    let transport = Transport::Plain(socket);
    // What another core has handed over has begun there.
    let mut begins = already_read.is_empty();
    let buffer = already_read;
    let mut inbound = Inbound { transport, buffer, peer, transfer, interception: None };
    while next_request(&mut inbound, &core).await {
        if begins {
            begins = false;
            match first_byte(&inbound) {
                Some(handshake::HANDSHAKE) => {
                    let met = Box::pin(met(inbound, Meant::Ourselves, &core)).await;
                    let Some(met) = met else { break };
                    inbound = met;
                    continue;
                }
                Some(_) if entrance == Entrance::TlsOnly => {
                    Box::pin(refuse_plain(&inbound, &core.limits)).await;
                    break;
                }
                _ => {}
            }
        }
        // Boxed like the other rare or short waits, so that an idle connection does not hold the
        // room that they need.
        match Box::pin(exchange::one(&mut inbound, &core)).await {
            Next::Another => {}
            Next::Close => {
                Box::pin(inbound.transport.farewell(FAREWELL_WAIT)).await;
                break;
            }
            Next::Cut => break,
            Next::Restart => begins = true,
            Next::Intercept(interception, config) => {
                let meant = Meant::Registry(interception.origin.host.clone(), config);
                let Some(met) = Box::pin(met(inbound, meant, &core)).await else { break };
                inbound = Inbound { interception: Some(Rc::from(interception)), ..met };
            }
            Next::Linger => {
                Box::pin(inbound.transport.farewell(FAREWELL_WAIT)).await;
                Box::pin(linger(&inbound, &core.limits)).await;
                break;
            }
            Next::Move(index, transfer) => {
                hand_over(inbound, index, transfer, &core);
                break;
            }
        }
    }
    drop(place);
}

/// Waits for the first bytes of the next request. `false`: there will be none.
async fn next_request(inbound: &mut Inbound, core: &Core) -> bool {
    let Inbound { transport, buffer, .. } = inbound;
    if !buffer.is_empty() {
        return true;
    }
    buffer.release_above(IDLE_BYTES);
    let mut filling = pin!(transport.fill(buffer, IDLE_BYTES));
    let wait = core.limits.idle_caller_wait;
    let mut filled = until(wait, filling.as_mut(), || core.is_draining()).await;
    if filled.is_none() && core.is_draining() {
        // A request may be on its way just now: it still gets its answer.
        filled = within(DRAINING_IDLE_WAIT, filling).await;
    }
    // Where it was given up the connection ends.
    matches!(filled, Some(Ok(1..)))
}

/// Reads the head of the next request; `None` when the caller closed before its first byte.
pub(crate) async fn read_head(
    inbound: &mut Inbound,
    core: &Core,
) -> Result<Option<Box<Parsed>>, Error> {
    let limits = &core.limits;
    let fail = |kind| Error::new(Stage::Parse, kind);
    let mut deadline = None;
    loop {
        if let Some((head, length)) =
            parse::request(inbound.buffer.filled(), limits).map_err(fail)?
        {
            let framing = body::of_request(&head).map_err(fail)?;
            if via::has_passed(&head.fields, &core.pseudonym) {
                return Err(fail(Kind::Loop));
            }
            let interception = inbound.interception.clone();
            let target = target(&head, inbound, core).map_err(fail)?;
            let expects_continue = head.expects_continue().map_err(fail)?;
            let parsed = Parsed { head, target, framing, expects_continue, length, interception };
            // On the heap, like what is made of it: it goes from stage to stage, and a pointer is
            // less to move, and less to keep room for, than all of it.
            return Ok(Some(Box::new(parsed)));
        }
        // Most heads are there at once.
        let now = Instant::now();
        let wait = deadline.get_or_insert(now + limits.head_wait).saturating_duration_since(now);
        let begun = !inbound.buffer.is_empty();
        match inbound.transport.read(inbound.buffer.spare(), wait).await {
            Ok(0) if !begun => return Ok(None),
            Ok(0) => return Err(fail(Kind::CallerGone)),
            Ok(count) => inbound.buffer.note_read(count),
            Err(error) if error.kind() == io::ErrorKind::TimedOut => {
                return Err(fail(Kind::HeadTimeout));
            }
            Err(_) if !begun => return Ok(None),
            Err(_) => return Err(fail(Kind::CallerGone)),
        }
    }
}

/// What the head names: inside a tunnel, at our own address, or at a registry's.
fn target(head: &RequestHead, inbound: &Inbound, core: &Core) -> Result<Target, Kind> {
    let (limits, domain) = (&*core.limits, &*core.own.cluster_domain);
    if let Some(tunnel) = &inbound.interception {
        return target::forward::inside(head, &tunnel.origin, &tunnel.connector, limits);
    }
    let found = target::of(head, domain, limits)?;
    let Some(origin) = found.origin().filter(|_| head.method != Method::Connect) else {
        return Ok(found);
    };
    let local = inbound.transport.socket().local_address().ok();
    if core.own.is_here(origin, local) {
        return target::of_own_address(head, domain, limits);
    }
    Ok(found)
}

/// The first byte of what a caller has sent, without taking it.
fn first_byte(inbound: &Inbound) -> Option<u8> {
    if let Some(byte) = inbound.buffer.filled().first() {
        return Some(*byte);
    }
    let mut byte = [0; 1];
    let count = inbound.transport.socket().try_peek(&mut byte).ok()?;
    byte.get(..count)?.first().copied()
}

/// The same connection inside TLS; `None` if that could not be agreed on.
async fn met(inbound: Inbound, meant: Meant, core: &Core) -> Option<Inbound> {
    let Inbound { transport, mut buffer, peer, transfer, interception } = inbound;
    match handshake::greet(transport, &mut buffer, meant, core).await {
        Ok(transport) => Some(Inbound { transport, buffer, peer, transfer, interception }),
        Err(kind) => {
            tracing::debug!(%peer, why = kind.facts().word, "TLS with a caller was not agreed on");
            None
        }
    }
}

/// Tells a caller who speaks HTTP where TLS is spoken.
async fn refuse_plain(inbound: &Inbound, limits: &Limits) {
    let mut parts = [io::IoSlice::new(reply::TLS_WANTED)];
    if inbound.transport.write_all(&mut parts, limits.handshake_wait).await.is_ok() {
        linger(inbound, limits).await;
    }
}

/// Keeps the caller's connection half open after an early answer, so that the answer is not lost to
/// a reset: what the caller still sends is read and dropped, within bounds (RFC 9112 §9.6).
async fn linger(inbound: &Inbound, limits: &Limits) {
    let socket = inbound.transport.socket();
    socket.finish();
    let mut left = limits.linger_bytes_max;
    let mut dropped = vec![0; LINGER_READ_BYTES];
    let all_dropped = pin!(async {
        while left > 0 {
            match socket.try_discard(&mut dropped) {
                Ok(0) => return,
                Ok(count) => left = left.saturating_sub(u64::try_from(count).unwrap_or(u64::MAX)),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    if socket.readable(limits.linger_wait).await.is_err() {
                        return;
                    }
                }
                Err(_) => return,
            }
            socket.fairly().await;
        }
    });
    // However it ends, the connection is closed now.
    let _ = within(limits.linger_wait, all_dropped).await;
}

/// Gives the connection, with what was read of the request that is about to begin, to core `index`.
fn hand_over(inbound: Inbound, index: usize, transfer: Transfer, core: &Core) {
    let Inbound { transport: Transport::Plain(socket), buffer, peer, .. } = inbound else {
        return;
    };
    let (Some(postbox), Some(counters)) = (core.postboxes.get(index), core.all.get(index)) else {
        return;
    };
    if let Ok(socket) = socket.detach() {
        core.counters.handed_over.add(1);
        let place = Place::take(counters);
        let transfer = Some(transfer);
        let entrance = Entrance::Either;
        let handover = Handover { socket, peer, entrance, already_read: buffer, place, transfer };
        postbox.send(Mail::Connection(handover));
    }
}

/// Between two looks whether a connection may be accepted again.
const FULL_PAUSE: Duration = Duration::from_millis(20);
/// How long an idle connection is still listened to once the process drains.
const DRAINING_IDLE_WAIT: Duration = Duration::from_secs(1);
/// How long a TLS session's last word may take.
const FAREWELL_WAIT: Duration = Duration::from_millis(500);
const LINGER_READ_BYTES: usize = 256 << 10;
