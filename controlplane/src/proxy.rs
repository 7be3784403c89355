//! The verb `proxy`: wires the source, the review, the admin address and the data plane together.
//!
//! Flags and a folder in; when it serves, one line of JSON on stdout. It ends by a signal: no new
//! connections, transfers to their end or to the deadline, exit. Runtimes are never dropped.

mod authority;
mod drain;
mod process;
mod publish;

use std::io::{self, Write as _};
use std::net::{SocketAddr, TcpListener};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;

use crossbeam::channel::Sender;
use dataplane::snapshot::Publisher;
use dataplane::{Dataplane, LoginQuestion, Own, Settings};
use serde_json::Value;
use tokio::runtime::{self, Runtime};
use tracing_subscriber::filter::ParseError;

pub(crate) use self::authority::default_folder;
use self::publish::Publication;
use crate::admin::{self, Exposed, Metrics, Status};
use crate::authority::Authority;
use crate::authority::commission::{self, Workshop};
use crate::authority::folder::Folder as CaFolder;
use crate::bridge;
use crate::config::ProxyFlags;
use crate::login::Desk;
use crate::registry::Dialer;
use crate::source::file::{self, Folder, Seen};
use crate::source::manifest::Unreadable;
use crate::telemetry::Telemetry;

/// Why the proxy could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A filter that is none.
    #[error("--log-filter: {0}")]
    Filter(#[from] ParseError),
    /// The folder could not be read.
    #[error("{0}")]
    Folder(#[from] Unreadable),
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
/// the folder cannot be read at the start, after saying why.
pub fn run(flags: &ProxyFlags, folder: PathBuf) -> Result<bool, Error> {
    process::harden();
    let files_max = process::raise_files_max();
    let telemetry = Telemetry::start(flags.log, &flags.log_filter)?;
    let folder = Folder::new(folder);
    let texts = folder.texts()?;
    let status = Arc::new(Status::default());
    let mut publication = Publication::new(Arc::clone(&status));
    if !publication.update(Ok(&texts)) {
        tracing::error!("the manifests cannot be read: mend them and start again");
        return Ok(false);
    }
    let (listeners, tls_listeners) =
        (listen_all(&flags.listen)?, listen_all(&flags.forward.listen_tls)?);
    let admin = listen(flags.admin)?;
    let ca = authority::open(flags)?;
    let (questions, asked) = bridge::channel();
    bridge::answer(asked, publication.table())?;
    let (commissions, wanted) = commission::channel();
    let (listen, listen_tls) = (addresses(&listeners)?, addresses(&tls_listeners)?);
    let own = own(flags, &listen, &listen_tls);
    let bundle = ca.as_ref().map(|(folder, _)| folder.bundle());
    let runtime = control_runtime()?;
    let (login_questions, desk) = logins(flags, &runtime, publication.snapshots())?;
    let admin_address = admin.local_addr()?;
    let dataplane = Dataplane::start(Settings {
        listeners,
        tls_listeners,
        cores: flags.cores(),
        io: flags.io_mode(),
        limits: flags.limits(files_max, process::pipes_max()),
        snapshots: publication.snapshots(),
        questions,
        commissions,
        own: own.clone(),
        passthrough: flags.forward.passthrough(),
        login_questions,
        loopback_allowed: LOOPBACK_ALLOWED,
    })
    .map_err(Error::Dataplane)?;
    let snapshots = publication.snapshots();
    commission::answer(wanted, workshop(ca, snapshots, own, &dataplane))?;
    let connectors = publication.snapshots().current().len();
    let seen = Seen::of(Ok(&texts));
    drop(texts);
    follow(folder, seen, publication)?;
    let metrics = Metrics::new(Exposed {
        status: Arc::clone(&status),
        counters: dataplane.counters(),
        driver: dataplane.driver(),
        logins: desk.numbers(),
        dropped: Some(telemetry.dropped()),
    });
    let clean = runtime.block_on(async {
        tokio::spawn(admin::serve(admin::adopt(admin)?, Arc::new(metrics)));
        let mut signals = drain::Signals::listen()?;
        announce(&Announcement {
            listen,
            listen_tls,
            ca: bundle,
            admin: admin_address,
            io: dataplane.driver(),
            cores: flags.cores(),
            connectors,
        });
        signals.next().await;
        status.drains();
        io::Result::Ok(drain::drain(&dataplane, flags, &mut signals).await)
    })?;
    drop(telemetry);
    std::process::exit(if clean { 0 } else { 1 })
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
    ca: Option<PathBuf>,
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
    let path = ca.as_ref().map(|path| Value::from(path.to_string_lossy()).to_string());
    let path = path.map(|path| format!(r#","ca":{path}"#)).unwrap_or_default();
    let line = format!(
        r#"{{"listen":"{first}",{tls}"admin":"{admin}","io":"{io}","cores":{cores},"connectors":{connectors}{path}}}"#
    );
    let mut out = io::stdout().lock();
    if let Err(cause) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        tracing::warn!(%cause, "the line of addresses could not be printed");
    }
    let ca = ca.as_ref().map(|path| path.display().to_string());
    tracing::info!(?listen, ?listen_tls, %admin, io, cores, connectors, ca, "serving");
}

/// Who answers questions about logins at registries, and where they go.
fn logins(
    flags: &ProxyFlags,
    runtime: &Runtime,
    snapshots: Publisher,
) -> io::Result<(Sender<LoginQuestion>, Arc<Desk>)> {
    let dialer = Dialer::new(flags.bounds.connect_seconds, LOOPBACK_ALLOWED);
    let desk = Desk::open(runtime.handle(), snapshots, dialer);
    let (questions, asked) = bridge::login_channel();
    bridge::answer_logins(asked, Arc::clone(&desk))?;
    Ok((questions, desk))
}

/// Where certificates are made, if there is a CA.
fn workshop(
    ca: Option<(CaFolder, Authority)>,
    snapshots: Publisher,
    own: Own,
    dataplane: &Dataplane,
) -> Option<Workshop> {
    let (folder, authority) = ca?;
    let cores = dataplane.cores();
    Some(Workshop { folder, authority, snapshots, own, cores })
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

/// Whoever owns the folder owns the machine.
const LOOPBACK_ALLOWED: bool = true;

fn listen(address: SocketAddr) -> Result<TcpListener, Error> {
    process::listen(address).map_err(|cause| Error::Listen(address, cause))
}
