//! The verb `proxy`: wires the source, the review, the admin address and the data plane together.
//!
//! Flags in; when it serves a folder or a cluster, one line of JSON on stdout. It ends by a signal:
//! no new connections, transfers to their end or to the deadline, exit. Runtimes are never dropped.

mod authority;
mod drain;
pub(crate) mod process;
mod publish;

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::Path;
use std::sync::Arc;
use std::thread;

use arc_swap::ArcSwap;
use crossbeam::channel::Sender;
use dataplane::snapshot::Publisher;
use dataplane::{Dataplane, LoginQuestion, Own, Question, Settings};
use kube::Client;
use serde_json::Value;
use tokio::runtime::{self, Runtime};
use tokio::sync::{oneshot, watch};
use tracing_appender::non_blocking::ErrorCounter;
use tracing_subscriber::filter::ParseError;

use self::authority::Ca;
pub(crate) use self::authority::default_folder;
use self::publish::Publication;
use crate::admin::{self, Exposed, Metrics, Status};
use crate::authority::commission::{self, Workshop};
use crate::config::ProxyFlags;
use crate::login;
use crate::probe::facts::Facts;
use crate::probe::{Prober, Probing};
use crate::registry::Dialer;
use crate::review::kube::{Counts, Desk};
use crate::source::file::{self, Folder, Seen};
use crate::source::manifest::Unreadable;
use crate::telemetry::{AuditNumbers, Journal, Telemetry};
use crate::{bridge, cluster, review, source};

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A filter that is none.
    #[error("--log-filter: {0}")]
    Filter(#[from] ParseError),
    /// The audit's file could not be opened.
    #[error("--audit: {0}")]
    Audit(io::Error),
    /// The folder could not be read.
    #[error("{0}")]
    Folder(#[from] Unreadable),
    /// There is no way to a cluster.
    #[error("{0}")]
    Cluster(#[from] cluster::Error),
    /// An address that could not be listened on.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, io::Error),
    /// The folder of the interception CA cannot be used.
    #[error("--ca-dir: {0}")]
    Authority(#[from] authority::Error),
    /// The cores did not start.
    #[error("the data plane did not start: {0}")]
    Dataplane(io::Error),
    /// Something else that the system refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Serves until a signal; then the process ends. Returns, with `false`, only if the manifests of
/// a folder cannot be read at the start, after saying why, and with `true` on a signal before there
/// was anything to serve.
pub fn run(flags: &ProxyFlags) -> Result<bool, Error> {
    process::harden();
    let files_max = process::raise_files_max();
    let journal = Journal::open(&flags.auditing.audit).map_err(Error::Audit)?;
    let (form, filter) = (flags.logging.log, &flags.logging.log_filter);
    let telemetry = Telemetry::start_with(form, filter, journal.as_ref())?;
    let status = Arc::new(Status::default());
    let runtime = control_runtime()?;
    let (dropped, audited) = (telemetry.dropped(), journal.as_ref().map(Journal::numbers));
    let proxy = Proxy { flags, files_max, dropped, audited, status, runtime };
    let clean = match &flags.file {
        Some(folder) => proxy.serve_folder(folder)?,
        None => proxy.serve_cluster()?,
    };
    drop((journal, telemetry));
    match clean {
        Some(clean) => std::process::exit(if clean { 0 } else { 1 }),
        None => Ok(flags.file.is_none()),
    }
}

/// What all ways of serving need.
struct Proxy<'a> {
    flags: &'a ProxyFlags,
    files_max: u64,
    dropped: ErrorCounter,
    audited: Option<Arc<AuditNumbers>>,
    status: Arc<Status>,
    /// Of everything that is not a core's; it ends with the process.
    runtime: Runtime,
}

impl Proxy<'_> {
    /// Serves the manifests of a folder. Whether it ended clean; nothing if it never began.
    fn serve_folder(&self, folder: &Path) -> Result<Option<bool>, Error> {
        let folder = Folder::new(folder);
        let texts = folder.texts()?;
        let mut publication = Publication::new(Arc::clone(&self.status));
        if !publication.update(Ok(&texts)) {
            tracing::error!("the manifests cannot be read: mend them and start again");
            return Ok(None);
        }
        let listeners = self.listeners()?;
        let admin = listen(self.flags.admin)?;
        let (questions, asked) = bridge::channel();
        bridge::answer(asked, publication.table())?;
        let ca = authority::in_folder(self.flags)?;
        let serving = self.start(listeners, publication.snapshots(), questions, ca)?;
        let seen = Seen::of(Ok(&texts));
        drop(texts);
        follow(folder, seen, publication)?;
        let metrics = self.metrics(Some(&serving), None);
        let clean = self.runtime.block_on(async {
            let shown = Arc::new(ArcSwap::from_pointee(metrics));
            let admin_address = admin.local_addr()?;
            tokio::spawn(admin::serve(admin::adopt(admin)?, shown));
            let mut signals = drain::Signals::listen()?;
            self.until_drained(serving, admin_address, &mut signals).await
        })?;
        Ok(Some(clean))
    }

    /// Serves the connectors of a cluster, from the moment at which all of them are known: an empty
    /// snapshot would deny what is only not known yet. Until then only the admin address answers.
    fn serve_cluster(&self) -> Result<Option<bool>, Error> {
        let admin = listen(self.flags.admin)?;
        self.runtime.block_on(async {
            let counts = Arc::<Counts>::default();
            let metrics = self.metrics(None, Some(&counts));
            let shown = Arc::new(ArcSwap::from_pointee(metrics));
            let admin_address = admin.local_addr()?;
            tokio::spawn(admin::serve(admin::adopt(admin)?, Arc::clone(&shown)));
            let mut signals = drain::Signals::listen()?;
            let client = cluster::client().await?;
            let mut publication = Publication::new(Arc::clone(&self.status));
            let (snapshots, facts) = (publication.snapshots(), publication.facts());
            let (first, is_known) = oneshot::channel();
            let mut first = Some(first);
            tokio::spawn(source::kube::follow(client.clone(), move |objects| {
                publication.follow(objects);
                // Whoever waited may have been told to stop.
                first.take().map(|first| first.send(()));
            }));
            tracing::info!("waiting for the API server's connectors");
            tokio::select! {
                _ = is_known => {}
                () = signals.next() => return Ok(None),
            }
            let (words, spoken) = review::kube::words();
            let (questions, asked) = bridge::channel();
            bridge::forward(asked, words.clone())?;
            let rules = self.flags.rules();
            let ca = authority::in_cluster(self.flags, client.clone()).await?;
            let reviews = client.clone();
            let desk = Desk::new(reviews, rules, snapshots.clone(), words, Arc::clone(&counts));
            tokio::spawn(desk.serve(spoken));
            let mut serving = self.start(self.listeners()?, snapshots, questions, ca)?;
            serving.probing = self.probes(client, facts, &serving);
            shown.store(Arc::new(self.metrics(Some(&serving), Some(&counts))));
            Ok(Some(self.until_drained(serving, admin_address, &mut signals).await?))
        })
    }

    fn listeners(&self) -> Result<Listeners, Error> {
        let flags = self.flags;
        let plain = listen_all(&flags.listen)?;
        Ok(Listeners { plain, tls: listen_all(&flags.forward.listen_tls)? })
    }

    /// Starts the data plane.
    fn start(
        &self,
        listeners: Listeners,
        snapshots: Publisher,
        questions: Sender<Question>,
        ca: Option<Ca>,
    ) -> Result<Serving, Error> {
        let flags = self.flags;
        let bundle = ca.as_ref().map(|(keeper, _)| keeper.bundle());
        let (listen, listen_tls) = (addresses(&listeners.plain)?, addresses(&listeners.tls)?);
        let own = own(flags, &listen, &listen_tls);
        let connectors = snapshots.current().len();
        // Whoever owns the folder owns the machine; whoever writes Connectors does not.
        let loopback_allowed = flags.file.is_some() || flags.allow_loopback;
        let dialer = Dialer::new(flags.bounds.connect_seconds, loopback_allowed, own.clone());
        let dialer = Arc::new(dialer);
        let (login_questions, desk) = self.logins(snapshots.clone(), &dialer)?;
        let (commissions, wanted) = commission::channel();
        let dataplane = Dataplane::start(Settings {
            listeners: listeners.plain,
            tls_listeners: listeners.tls,
            cores: flags.cores(),
            io: flags.io_mode(),
            limits: flags.limits(self.files_max, process::pipes_max()),
            snapshots: snapshots.clone(),
            questions,
            commissions,
            own: own.clone(),
            passthrough: flags.forward.passthrough(),
            login_questions,
            loopback_allowed,
        })
        .map_err(Error::Dataplane)?;
        commission::answer(wanted, workshop(ca, snapshots, own, &dataplane))?;
        let logins = Logins { desk, dialer };
        Ok(Serving { dataplane, listen, listen_tls, ca: bundle, connectors, logins, probing: None })
    }

    /// Who answers questions about logins at registries, and where they go.
    fn logins(
        &self,
        snapshots: Publisher,
        dialer: &Arc<Dialer>,
    ) -> io::Result<(Sender<LoginQuestion>, Arc<login::Desk>)> {
        let desk = login::Desk::open(self.runtime.handle(), snapshots, Arc::clone(dialer));
        let (questions, asked) = bridge::login_channel();
        bridge::answer_logins(asked, Arc::clone(&desk))?;
        Ok((questions, desk))
    }

    /// Begins to take part in looking at the connectors of a cluster.
    fn probes(
        &self,
        client: Client,
        facts: watch::Receiver<Arc<Facts>>,
        serving: &Serving,
    ) -> Option<Probing> {
        let rules = self.flags.probes.rules(&self.flags.forward.installed.namespace)?;
        let Logins { desk, dialer } = &serving.logins;
        let (desk, dialer) = (Arc::clone(desk), Arc::clone(dialer));
        Some(Probing::start(Prober { client, facts, desk, dialer, rules, numbers: Arc::default() }))
    }

    fn metrics(&self, serving: Option<&Serving>, reviews: Option<&Arc<Counts>>) -> Metrics {
        let dataplane = serving.map(|serving| &serving.dataplane);
        Metrics::new(Exposed {
            status: Arc::clone(&self.status),
            counters: dataplane.map_or_else(|| Vec::new().into(), Dataplane::counters),
            driver: dataplane.map_or("none", Dataplane::driver),
            logins: serving.map_or_else(Arc::default, |serving| serving.logins.desk.numbers()),
            dropped: Some(self.dropped.clone()),
            audited: self.audited.clone(),
            reviews: reviews.map(Arc::clone),
            probes: serving.and_then(|serving| serving.probing.as_ref()).map(Probing::numbers),
        })
    }

    /// Says that it serves, and ends by a signal. Whether the end was clean.
    async fn until_drained(
        &self,
        mut serving: Serving,
        admin: SocketAddr,
        signals: &mut drain::Signals,
    ) -> io::Result<bool> {
        announce(&Announcement {
            listen: serving.listen.clone(),
            listen_tls: serving.listen_tls.clone(),
            ca: serving.ca.clone(),
            admin,
            io: serving.dataplane.driver(),
            cores: self.flags.cores(),
            connectors: serving.connectors,
        });
        signals.next().await;
        self.status.drains();
        let probing = serving.probing.take();
        let probes_end = async {
            if let Some(probing) = probing {
                probing.end().await;
            }
        };
        let drained = drain::drain(&serving.dataplane, self.flags, signals);
        let (clean, ()) = tokio::join!(drained, probes_end);
        Ok(clean)
    }
}

/// What callers connect to.
struct Listeners {
    plain: Vec<TcpListener>,
    tls: Vec<TcpListener>,
}

/// A data plane that serves.
struct Serving {
    dataplane: Dataplane,
    listen: Vec<SocketAddr>,
    listen_tls: Vec<SocketAddr>,
    /// Where the interception CA's certificate is.
    ca: Option<String>,
    connectors: usize,
    logins: Logins,
    probing: Option<Probing>,
}

/// How registries are spoken to on the control plane's own behalf.
struct Logins {
    desk: Arc<login::Desk>,
    dialer: Arc<Dialer>,
}

/// The runtime of everything that is not a core's. One thread serves scrapes, while the first one
/// waits for signals.
fn control_runtime() -> io::Result<Runtime> {
    runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("control")
        .enable_all()
        .build()
}

/// Publishes every change of the folder, on a thread of its own.
fn follow(folder: Folder, seen: Seen, mut publication: Publication) -> io::Result<()> {
    let name = thread::Builder::new().name("source".to_owned());
    name.spawn(move || {
        file::watch(&folder, seen, move |change| {
            publication.update(change.as_ref());
        });
    })?;
    Ok(())
}

/// The line on stdout.
struct Announcement {
    listen: Vec<SocketAddr>,
    listen_tls: Vec<SocketAddr>,
    ca: Option<String>,
    admin: SocketAddr,
    io: &'static str,
    cores: usize,
    connectors: usize,
}

/// Prints the line. Nobody may be reading, and that is no reason not to serve.
fn announce(serving: &Announcement) {
    let Announcement { listen, listen_tls, ca, admin, io, cores, connectors } = serving;
    let first = listen.first().map(ToString::to_string).unwrap_or_default();
    let tls = listen_tls.first().map(|first| format!(r#""listen_tls":"{first}","#));
    // Written by hand for the order of its fields; addresses and numbers need no escaping.
    let tls = tls.unwrap_or_default();
    let path = ca.as_ref().map(|path| Value::from(path.as_str()).to_string());
    let path = path.map(|path| format!(r#","ca":{path}"#)).unwrap_or_default();
    let line = format!(
        r#"{{"listen":"{first}",{tls}"admin":"{admin}","io":"{io}","cores":{cores},"connectors":{connectors}{path}}}"#
    );
    let mut out = io::stdout().lock();
    if let Err(cause) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        tracing::warn!(%cause, "the line of addresses could not be printed");
    }
    tracing::info!(?listen, ?listen_tls, %admin, io, cores, connectors, ca, "serving");
}

/// Where certificates are made, if there is a CA.
fn workshop(
    ca: Option<Ca>,
    snapshots: Publisher,
    own: Own,
    dataplane: &Dataplane,
) -> Option<Workshop> {
    let (keeper, authority) = ca?;
    let cores = dataplane.cores();
    Some(Workshop { keeper, authority, snapshots, own, cores })
}

/// Under what callers reach this proxy.
fn own(flags: &ProxyFlags, listen: &[SocketAddr], listen_tls: &[SocketAddr]) -> Own {
    Own {
        cluster_domain: flags.cluster_domain.to_ascii_lowercase().into(),
        names: flags.forward.service_names.iter().map(|name| name.as_str().into()).collect(),
        addresses: listen.iter().chain(listen_tls).copied().collect(),
    }
}

fn listen_all(addresses: &[SocketAddr]) -> Result<Vec<TcpListener>, Error> {
    addresses.iter().map(|address| listen(*address)).collect()
}

fn addresses(listeners: &[TcpListener]) -> io::Result<Vec<SocketAddr>> {
    listeners.iter().map(TcpListener::local_addr).collect()
}

fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    process::listen(address).map_err(|cause| Error::Listen(address, cause))
}
