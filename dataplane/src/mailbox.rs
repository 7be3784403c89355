//! How other threads reach a core: a queue and a doorbell.
//!
//! A core's tasks are woken only by their own thread: monoio 0.2.4 changes a task's state with
//! plain loads and stores, so a waker that fires elsewhere would race. Other threads therefore put
//! [`Mail`] into the core's queue and ring the doorbell, a socket on which one task of the core
//! waits; that task hands the mail to whoever waits for it.

use std::io::{self, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::Arc;
use std::time::Duration;

use crossbeam::channel::{Receiver, Sender, unbounded};

use crate::balance::{Place, Transfer};
use crate::buffer::Buffer;
use crate::certificates::Certificate;
use crate::error::Kind;
use crate::pool::Key;
use crate::vocabulary::{ConnectorRef, RegistryToken, Standing, Token, Verdict};

/// What a core is told.
pub(crate) enum Mail {
    /// A caller's connection to serve.
    Connection(Handover),
    /// The answer to question `number`.
    Verdict(u64, Verdict),
    /// How an account stands from now on, and for how long that may be remembered.
    Standing(Arc<Key>, Standing, Duration),
    /// The answer to the question for a token with these scopes.
    Token(Arc<Key>, Box<str>, Granted),
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

/// A registry's token and how long it may be remembered, or why there is none.
pub type Granted = Result<(Arc<RegistryToken>, Duration), Kind>;

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
    /// Delivers. The queue needs no bound of its own: every verdict, token and address answers a
    /// question that took a place in a bounded queue, connections are bounded by `connections_max`,
    /// and a standing changes a few times a minute at most.
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

impl Postbox {
    /// Tells the core how `account` stands, and that it may remember it for `age_max`.
    pub fn tell_standing(&self, account: &Arc<Key>, standing: Standing, age_max: Duration) {
        self.send(Mail::Standing(Arc::clone(account), standing, age_max));
    }

    /// Gives the core the token that it asked for, or the reason why there is none.
    pub fn give_token(&self, account: &Arc<Key>, scopes: &str, granted: Granted) {
        self.send(Mail::Token(Arc::clone(account), scopes.into(), granted));
    }

    /// Whether both lead to the same core.
    pub fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.doorbell, &other.doorbell)
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
    /// Where the token came from.
    pub source: IpAddr,
    pub(crate) number: u64,
    pub(crate) postbox: Postbox,
}

impl Question {
    /// Answers. A question that is dropped instead is answered by the asking core's deadline.
    pub fn answer(self, verdict: Verdict) {
        self.postbox.send(Mail::Verdict(self.number, verdict));
    }
}

/// What a core asks about a connector's own login at its registry. Seam 2 as well, over a channel
/// of its own: callers that wait for a slow registry take no place from those who ask about rights.
#[derive(Debug)]
pub struct LoginQuestion {
    /// Whose login.
    pub account: Arc<Key>,
    /// What about it.
    pub wish: Wish,
    /// Where the answer goes, and later changes of the standing.
    pub postbox: Postbox,
}

/// See [`LoginQuestion`].
#[derive(Debug)]
pub enum Wish {
    /// How the account stands: answered once known, and told again whenever it changes.
    Standing,
    /// The registry answered 401 to what the account showed. No answer is expected.
    Refused {
        /// The registry's `WWW-Authenticate`, where it asks for a token.
        challenge: Option<Box<str>>,
    },
    /// A token for these scopes, which stand with a space between them.
    Token {
        /// The scopes.
        scopes: Box<str>,
        /// The token with this serial is no longer taken.
        refused: Option<u64>,
    },
}
