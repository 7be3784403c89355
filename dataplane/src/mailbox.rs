//! How other threads reach a core: a queue and a doorbell.
//!
//! A core's tasks are woken only by their own thread: monoio 0.2.4 changes a task's state with
//! plain loads and stores, so a waker that fires elsewhere would race. Other threads therefore put
//! [`Mail`] into the core's queue and ring the doorbell, a socket on which one task of the core
//! waits; that task hands the mail to whoever waits for it.

use std::io::{self, Write};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::balance::{Place, Transfer};
use crate::buffer::Buffer;
use crate::certificates::Certificate;
use crate::vocabulary::{ConnectorRef, Token, Verdict};

/// What a core is told.
pub(crate) enum Mail {
    /// A caller's connection to serve.
    Connection(Handover),
    /// The answer to question `number`.
    Verdict(u64, Verdict),
    /// The addresses that name look-up `number` found.
    Addresses(u64, io::Result<Vec<SocketAddr>>),
    /// The answer to commission `number`.
    Certificate(u64, Option<Certificate>),
    /// The CA has changed: certificates are to be asked for anew.
    ForgetCertificates,
    /// Finish what runs, keep no connection alive.
    Drain,
}

/// What a listening socket takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Entrance {
    /// HTTP, or TLS if that is how it begins.
    Either,
    /// TLS alone.
    TlsOnly,
}

/// A caller's connection on its way to a core.
pub(crate) struct Handover {
    /// The socket.
    pub(crate) socket: TcpStream,
    /// The caller's address, for the log.
    pub(crate) peer: SocketAddr,
    /// How it came in.
    pub(crate) entrance: Entrance,
    /// What another core has read from it already.
    pub(crate) already_read: Buffer,
    /// Its place among the connections of the core it goes to.
    pub(crate) place: Place,
    /// The long transfer that is about to start there, counted before it arrives.
    pub(crate) transfer: Option<Transfer>,
}

/// The sending end of a core's mailbox.
#[derive(Clone, Debug)]
pub struct Postbox {
    queue: Sender<Mail>,
    doorbell: Arc<UnixStream>,
}

impl Postbox {
    /// Delivers. The queue needs no bound of its own: every verdict and address answers a question
    /// that took a place in a bounded queue, and connections are bounded by `connections_max`.
    pub(crate) fn send(&self, mail: Mail) {
        if self.queue.send(mail).is_ok() {
            // A full doorbell is one that already rings.
            let _ = (&*self.doorbell).write(&[1]);
        }
    }
}

/// All cores of a data plane.
#[derive(Clone, Debug)]
pub struct Cores(Arc<[Postbox]>);

impl Cores {
    pub(crate) fn new(postboxes: &Arc<[Postbox]>) -> Self {
        Self(Arc::clone(postboxes))
    }

    /// Has every core ask for certificates anew: the CA has changed. What was answered before this
    /// call is forgotten, what is answered after it is kept.
    pub fn forget_certificates(&self) {
        for postbox in self.0.iter() {
            postbox.send(Mail::ForgetCertificates);
        }
    }
}

/// The receiving end; only the core itself holds it.
pub(crate) struct Inbox {
    /// What has arrived.
    pub(crate) queue: Receiver<Mail>,
    /// Readable when something has.
    pub(crate) doorbell: UnixStream,
}

/// A mailbox: the end for others, the end for the core.
pub(crate) fn mailbox() -> io::Result<(Postbox, Inbox)> {
    let (ring, doorbell) = UnixStream::pair()?;
    ring.set_nonblocking(true)?;
    doorbell.set_nonblocking(true)?;
    let (sender, queue) = unbounded();
    Ok((Postbox { queue: sender, doorbell: Arc::new(ring) }, Inbox { queue, doorbell }))
}

/// May the bearer of this token use this connector? Seam 2: asked by a core over a bounded channel,
/// answered by the control plane.
#[derive(Debug)]
pub struct Question {
    /// The token as the caller sent it.
    pub token: Token,
    /// The connector, or `None` when only the token itself is in question (the bare `/v2/`).
    pub connector: Option<ConnectorRef>,
    pub(crate) number: u64,
    pub(crate) postbox: Postbox,
}

impl Question {
    /// Answers. A question that is dropped instead is answered by the asking core's deadline.
    pub fn answer(self, verdict: Verdict) {
        self.postbox.send(Mail::Verdict(self.number, verdict));
    }
}
