//! The verb `controller`: each Connector gets a Service and a status that says how it stands.
//!
//! Flags in; runs until a signal, or until its Lease is lost. Of several replicas one acts. It
//! reads Connectors, ConnectorClasses and Services and writes Services, statuses, a label and
//! Events. No Secret is among them: the conditions about credentials are the proxy's, and here they
//! only count towards `Ready`.

pub mod service;
pub mod known;
pub mod world;
pub mod reconcile;
pub mod class;
pub mod counts;
pub mod warning;
pub mod writer;
pub mod queue;
pub mod desk;

use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::runtime;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tracing_subscriber::filter::ParseError;

use self::counts::{Counts, Shown};
use self::desk::Desk;
use self::world::Installation;
use self::writer::Writer;
use crate::admin::{self, Metrics, Status};
use crate::cluster;
use crate::config::ControllerFlags;
use crate::lease::{Election, Held};
use crate::proxy::process;
use crate::telemetry::Telemetry;

/// Why the controller ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A filter that is none.
    #[error("--log-filter: {0}")]
    Filter(#[from] ParseError),
    /// There is no way to a cluster.
    #[error("{0}")]
    Cluster(#[from] cluster::Error),
    /// An address that cannot be had.
    #[error("cannot listen on {0}: {1}")]
    Listen(SocketAddr, #[source] io::Error),
    /// The Lease went to another replica, or could not be kept.
    #[error("the Lease was lost: another replica acts")]
    LeaseLost,
    /// Something that the system refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Runs until a signal.
pub fn run(flags: &ControllerFlags) -> Result<(), Error> {
    process::harden();
    let telemetry = Telemetry::start(flags.logging.log, &flags.logging.log_filter)?;
    let runtime =
        runtime::Builder::new_multi_thread().worker_threads(THREADS).enable_all().build()?;
    let ended = runtime.block_on(act(flags));
    // What still runs has nothing to say any more; a runtime that waits for it would hang.
    runtime.shutdown_background();
    drop(telemetry);
    ended
}

/// Takes part in the election, acts when elected, and gives the Lease up in the end.
async fn act(flags: &ControllerFlags) -> Result<(), Error> {
    let mut end = Signals::new()?;
    let client = cluster::client().await?;
    let (status, counts) = (Arc::new(Status::default()), Arc::new(Counts::default()));
    let identity = flags.identity();
    serve(flags, &status, &counts, &identity).await?;
    let election = Election::new(
        client.clone(),
        &flags.installed.namespace,
        LEASE,
        identity.clone(),
        flags.lease(),
    );
    let mut held = tokio::select! {
        held = election.hold(|| status.begins()) => held,
        () = end.received() => return Ok(()),
    };
    counts.acts.store(1, Ordering::Relaxed);
    let installation = Installation {
        namespace: flags.installed.namespace.clone(),
        proxy: flags.proxy_service.clone(),
        domain: flags.cluster_domain.clone(),
    };
    let tenure = held.tenure();
    let writer = Writer { client: client.clone(), tenure, identity, counts };
    let mut desk = Desk::new(&client, installation, writer);
    tokio::select! {
        () = desk.run() => {}
        () = held.lost() => return Err(Error::LeaseLost),
        () = end.received() => {}
    }
    status.drains();
    desk.finish(FINISH_WAIT).await;
    release(held).await;
    Ok(())
}

/// Gives the Lease up; where that fails another replica waits until it runs out.
async fn release(held: Held) {
    match tokio::time::timeout(RELEASE_WAIT, held.release()).await {
        Ok(Ok(())) => tracing::info!("the Lease is given up"),
        Ok(Err(cause)) => tracing::warn!(%cause, "the Lease was not given up"),
        Err(_) => tracing::warn!("the Lease was not given up: the API server does not answer"),
    }
}

/// Serves the admin address and says on stdout where it is.
async fn serve(
    flags: &ControllerFlags,
    status: &Arc<Status>,
    counts: &Arc<Counts>,
    identity: &str,
) -> Result<(), Error> {
    let listen = |cause| Error::Listen(flags.admin, cause);
    let listener = process::listen(flags.admin).and_then(admin::adopt).map_err(listen)?;
    let admin = listener.local_addr()?;
    let metrics = Metrics::showing(Box::new(Shown(Arc::clone(counts))), Arc::clone(status));
    tokio::spawn(admin::serve(listener, Arc::new(ArcSwap::from_pointee(metrics))));
    let line = serde_json::json!({"admin": admin, "identity": identity});
    let mut out = io::stdout().lock();
    // Nobody may be reading it.
    if let Err(cause) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        tracing::warn!(%cause, "the line of addresses could not be printed");
    }
    tracing::info!(%admin, identity, "taking part in the election");
    Ok(())
}

/// What ends the process.
struct Signals {
    terminate: Signal,
    interrupt: Signal,
}

impl Signals {
    fn new() -> io::Result<Self> {
        let terminate = signal(SignalKind::terminate())?;
        Ok(Self { terminate, interrupt: signal(SignalKind::interrupt())? })
    }

    async fn received(&mut self) {
        tokio::select! {
            _ = self.terminate.recv() => {}
            _ = self.interrupt.recv() => {}
        }
    }
}

/// The field manager, and the name under which it is known.
pub const MANAGER: &str = "harbor-connector-controller";

/// The Lease that decides which replica acts.
const LEASE: &str = "harbor-connector-controller";

/// Threads: the work is waiting.
const THREADS: usize = 2;

/// How long writes under way may take after a signal.
const FINISH_WAIT: Duration = Duration::from_secs(6);

/// How long giving up the Lease may take.
const RELEASE_WAIT: Duration = Duration::from_secs(5);
