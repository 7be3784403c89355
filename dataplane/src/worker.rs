//! The cores: one pinned thread and one runtime each, started and drained together.
//!
//! A core shares nothing that it writes with another but its counters. What it is told from outside
//! (connections, verdicts, addresses, the order to drain) comes as mail; on a slow tick it looks
//! for a new snapshot and lets go of what is too old.

mod contained;
mod machine;

use std::cell::{Cell, RefCell};
use std::io;
use std::net::TcpListener;
use std::rc::Rc;
use std::sync::Arc;
use std::sync::mpsc;
use std::thread;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use rustls::server::ProducesTickets;

use self::contained::contained;
use self::machine::{pin, random};
use crate::accept;
use crate::account::RequestId;
use crate::authorise::Verdicts;
use crate::certificates::{Certificates, Commission};
use crate::counters::{AllCounters, Counters};
use crate::io as core_io;
use crate::limits::Limits;
use crate::login::Logins;
use crate::mailbox::{Cores, Entrance, Inbox, LoginQuestion, Mail, Postbox, Question, mailbox};
use crate::own::Own;
use crate::passthrough::Passthrough;
use crate::pipes::Pipes;
use crate::pool::{self, Key, Pool};
use crate::resolve::{self, Lookup, Names};
use crate::rewrite::via;
use crate::snapshot::{Publisher, Reader, Snapshot};
use crate::tls::TlsConfigs;
use crate::transport::Transport;

/// Which driver the cores run on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum IoMode {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// io_uring, or fail to start.
    Uring,
    /// epoll.
    Epoll,
}

/// What the data plane is started with.
pub struct Settings {
    /// The bound listening sockets.
    pub listeners: Vec<TcpListener>,
    /// Those where TLS alone is spoken.
    pub tls_listeners: Vec<TcpListener>,
    /// How many cores; at least one is started.
    pub cores: usize,
    /// Which driver.
    pub io: IoMode,
    /// The bounds.
    pub limits: Arc<Limits>,
    /// Where snapshots appear.
    pub snapshots: Publisher,
    /// Where questions about callers go; bounded.
    pub questions: Sender<Question>,
    /// Where wishes for certificates go; bounded.
    pub commissions: Sender<Commission>,
    /// Under what callers reach this proxy.
    pub own: Own,
    /// What becomes of tunnels to hosts that are no connector's.
    pub passthrough: Passthrough,
    /// Where questions about logins at registries go; bounded.
    pub login_questions: Sender<LoginQuestion>,
    /// Whether a registry may be on this machine's loopback: only under `--file`, since whoever
    /// owns the folder owns the machine.
    pub loopback_allowed: bool,
}

/// A running data plane. Dropping it stops nothing: the process ends it.
pub struct Dataplane {
    counters: AllCounters,
    postboxes: Arc<[Postbox]>,
    listeners: Vec<(Arc<TcpListener>, Entrance)>,
    driver: &'static str,
}

impl Dataplane {
    /// Starts the cores and begins to accept. Fails when a thread or its driver cannot be had, and
    /// when io_uring was demanded but is not allowed.
    pub fn start(settings: Settings) -> io::Result<Self> {
        let uring = match settings.io {
            IoMode::Epoll => false,
            IoMode::Auto => core_io::uring_works(),
            IoMode::Uring if core_io::uring_works() => true,
            IoMode::Uring => return Err(io::Error::other("io_uring is not allowed here")),
        };
        let count = settings.cores.max(1);
        let (postboxes, inboxes): (Vec<_>, Vec<_>) =
            (0..count).map(|_| mailbox()).collect::<io::Result<Vec<_>>>()?.into_iter().unzip();
        let postboxes: Arc<[Postbox]> = postboxes.into();
        let counters: AllCounters = (0..count).map(|_| Arc::default()).collect();
        let lookups = resolve::start_helpers()?;
        let (ready, started) = mpsc::channel();
        let own = Arc::new(settings.own);
        let passthrough = Arc::new(settings.passthrough);
        let tickets = rustls::crypto::ring::Ticketer::new().map_err(io::Error::other)?;
        let process = random()?;
        for (index, inbox) in inboxes.into_iter().enumerate() {
            let seed = Seed {
                index,
                limits: Arc::clone(&settings.limits),
                all: Arc::clone(&counters),
                postboxes: Arc::clone(&postboxes),
                snapshots: settings.snapshots.reader(),
                questions: settings.questions.clone(),
                login_questions: settings.login_questions.clone(),
                lookups: lookups.clone(),
                commissions: settings.commissions.clone(),
                own: Arc::clone(&own),
                passthrough: Arc::clone(&passthrough),
                tickets: Arc::clone(&tickets),
                process,
                loopback_allowed: settings.loopback_allowed,
            };
            let ready = ready.clone();
            let name = format!("core-{index}");
            thread::Builder::new().name(name).spawn(move || {
                pin(index);
                let began = ready.clone();
                let ran = core_io::run(uring, async move { seed.grow(inbox, &began).await });
                // Whoever starts us hears of a driver that could not be had; later nobody listens.
                let _ = ready.send(ran);
            })?;
        }
        for _ in 0..count {
            started.recv().map_err(io::Error::other)??;
        }
        let either = settings.listeners.into_iter().map(|one| (Arc::new(one), Entrance::Either));
        let tls = settings.tls_listeners.into_iter();
        let tls = tls.map(|one| (Arc::new(one), Entrance::TlsOnly));
        let listeners = either.chain(tls).collect();
        let driver = if uring { "io_uring" } else { "epoll" };
        let dataplane = Self { counters, postboxes, listeners, driver };
        dataplane.accept(settings.limits.connections_max)?;
        Ok(dataplane)
    }

    /// The counters of all cores.
    pub fn counters(&self) -> AllCounters {
        Arc::clone(&self.counters)
    }

    /// `io_uring` or `epoll`: what the cores really run on.
    pub fn driver(&self) -> &'static str {
        self.driver
    }

    /// Keeps no connection alive any longer: requests under way, and those that still arrive, are
    /// answered with `Connection: close`, and idle connections end.
    pub fn drain(&self) {
        for postbox in self.postboxes.iter() {
            postbox.send(Mail::Drain);
        }
    }

    /// Stops accepting. Connections that are open go on.
    pub fn close_listeners(&self) {
        for (listener, _) in &self.listeners {
            // Shutting a listening socket down also wakes the thread that accepts on it.
            if let Err(error) = rustix::net::shutdown(listener, rustix::net::Shutdown::Both) {
                tracing::warn!(%error, "cannot stop listening");
            }
        }
    }

    /// The cores, for what they are told while they run.
    pub fn cores(&self) -> Cores {
        Cores::new(&self.postboxes)
    }

    /// Callers' connections that are open.
    pub fn connections(&self) -> u64 {
        self.counters.iter().map(|core| core.connections.get()).sum()
    }

    fn accept(&self, connections_max: usize) -> io::Result<()> {
        for (number, (listener, entrance)) in self.listeners.iter().enumerate() {
            let (listener, entrance) = (Arc::clone(listener), *entrance);
            // The thread that accepts does nothing else: it waits in the call itself.
            listener.set_nonblocking(false)?;
            let postboxes = Arc::clone(&self.postboxes);
            let counters = Arc::clone(&self.counters);
            thread::Builder::new().name(format!("accept-{number}")).spawn(move || {
                accept::listen(&listener, entrance, &postboxes, &counters, connections_max);
            })?;
        }
        Ok(())
    }
}

/// What one core is, and what its tasks share. Never leaves its thread.
pub(crate) struct Core {
    /// Its place among the cores.
    pub(crate) index: usize,
    /// The bounds.
    pub(crate) limits: Arc<Limits>,
    /// Its own counters.
    pub(crate) counters: Arc<Counters>,
    /// The counters of all cores.
    pub(crate) all: AllCounters,
    /// The mailboxes of all cores.
    pub(crate) postboxes: Arc<[Postbox]>,
    /// What it knows of callers.
    pub(crate) verdicts: Verdicts,
    /// What it knows of logins at registries.
    pub(crate) logins: Logins,
    /// What it knows of registries' names.
    pub(crate) names: Names,
    /// Its idle connections to registries.
    pub(crate) pool: RefCell<Pool<Transport>>,
    /// The pipes that bodies are spliced through.
    pub(crate) pipes: Rc<Pipes>,
    /// Its TLS configurations.
    pub(crate) tls: RefCell<TlsConfigs>,
    /// What it knows of certificates to meet callers with.
    pub(crate) certificates: Certificates,
    /// See [`Settings::own`].
    pub(crate) own: Arc<Own>,
    /// See [`Settings::passthrough`].
    pub(crate) passthrough: Arc<Passthrough>,
    /// What this process calls itself in `Via`.
    pub(crate) pseudonym: Box<str>,
    /// See [`Settings::loopback_allowed`].
    pub(crate) loopback_allowed: bool,
    snapshots: RefCell<Reader>,
    draining: Cell<bool>,
    requests: Cell<u64>,
    process: u64,
}

impl Core {
    /// Shows `look` the newest snapshot.
    pub(crate) fn with_snapshot<T>(&self, look: impl FnOnce(&Snapshot) -> T) -> T {
        look(self.snapshots.borrow_mut().current())
    }

    /// Whether connections are to end with the exchange they are in.
    pub(crate) fn is_draining(&self) -> bool {
        self.draining.get()
    }

    /// An id for the next request, unlike any other's.
    pub(crate) fn next_request_id(&self) -> RequestId {
        let number = self.requests.get() + 1;
        self.requests.set(number);
        RequestId::new(self.process, self.index, number)
    }

    /// Deals with one piece of mail.
    fn open(self: &Rc<Self>, mail: Mail) {
        match mail {
            Mail::Connection(handover) => {
                let serving = accept::serve(handover, Rc::clone(self));
                core_io::spawn(contained(serving, Arc::clone(&self.counters)));
            }
            Mail::Verdict(number, verdict) => {
                self.verdicts.deliver(number, &verdict, &self.limits);
            }
            Mail::Standing(account, standing, age_max) => {
                self.logins.told(account, standing, age_max);
            }
            Mail::Token(account, scopes, granted) => {
                self.logins.given(account, scopes, granted, &self.limits);
            }
            Mail::Addresses(number, found) => self.names.deliver(number, found, Instant::now()),
            Mail::Certificate(number, made) => {
                self.certificates.deliver(number, made, &self.limits);
            }
            Mail::ForgetCertificates => self.certificates.forget(),
            Mail::Drain => {
                self.draining.set(true);
                core_io::wake_all();
            }
        }
    }

    /// Lets go of what is too old, and of what the newest snapshot no longer knows.
    fn tidy(&self) {
        let now = Instant::now();
        let mut snapshots = self.snapshots.borrow_mut();
        let snapshot = snapshots.current();
        let is_live = |key: &Key| {
            let served = snapshot.served(key.reference());
            served.is_some_and(|served| key.may_serve(&served.connector, &served.account))
        };
        // A connection that its registry has closed would otherwise be kept half open until then.
        self.pool.borrow_mut().expire(now, is_live, Transport::is_quiet);
        self.names.expire(now, self.limits.resolve_stale_max);
        self.verdicts.expire(&self.limits);
        self.certificates.expire(now, &self.limits);
        self.logins.expire(is_live, &self.limits);
    }
}

/// What a core grows from, on its own thread.
struct Seed {
    index: usize,
    limits: Arc<Limits>,
    all: AllCounters,
    postboxes: Arc<[Postbox]>,
    snapshots: Reader,
    questions: Sender<Question>,
    login_questions: Sender<LoginQuestion>,
    lookups: Sender<Lookup>,
    commissions: Sender<Commission>,
    own: Arc<Own>,
    passthrough: Arc<Passthrough>,
    tickets: Arc<dyn ProducesTickets>,
    process: u64,
    loopback_allowed: bool,
}

impl Seed {
    /// Runs the core; returns only when its mailbox breaks.
    async fn grow(self, inbox: Inbox, began: &mpsc::Sender<io::Result<()>>) {
        let doorbell = core_io::Doorbell::adopt(inbox.doorbell);
        let core = self.core().map(Rc::new);
        let (doorbell, core) = match (doorbell, core) {
            (Ok(doorbell), Ok(core)) => (doorbell, core),
            (Err(error), _) | (_, Err(error)) => {
                let _ = began.send(Err(error));
                return;
            }
        };
        if began.send(Ok(())).is_err() {
            return;
        }
        let ticking = Rc::clone(&core);
        core_io::spawn(async move {
            loop {
                core_io::sleep(TICK).await;
                ticking.tidy();
            }
        });
        while doorbell.rung().await.is_ok() {
            for mail in inbox.queue.try_iter() {
                core.open(mail);
            }
        }
        tracing::error!("a core's mailbox broke");
    }

    fn core(self) -> io::Result<Core> {
        let missing = || io::Error::other("a core without counters or mailbox");
        let counters = Arc::clone(self.all.get(self.index).ok_or_else(missing)?);
        let postbox = self.postboxes.get(self.index).ok_or_else(missing)?.clone();
        Ok(Core {
            index: self.index,
            verdicts: Verdicts::new(self.questions, postbox.clone(), Arc::clone(&counters)),
            certificates: Certificates::new(
                self.commissions,
                postbox.clone(),
                Arc::clone(&counters),
                self.tickets,
            ),
            logins: Logins::new(self.login_questions, postbox.clone(), Arc::clone(&counters)),
            names: Names::new(self.lookups, postbox),
            pool: RefCell::new(Pool::new(pool::Rules::of(&self.limits))),
            pipes: Pipes::new(&self.limits, &counters),
            tls: RefCell::default(),
            own: self.own,
            passthrough: self.passthrough,
            pseudonym: via::pseudonym(&format!("{:016x}", self.process)).into(),
            loopback_allowed: self.loopback_allowed,
            snapshots: RefCell::new(self.snapshots),
            draining: Cell::new(false),
            requests: Cell::new(0),
            process: self.process,
            limits: self.limits,
            counters,
            all: self.all,
            postboxes: self.postboxes,
        })
    }
}

/// How often a core looks around: a revoked password is let go of within a second.
const TICK: Duration = Duration::from_millis(500);

#[cfg(test)]
mod tests;
