//! The verb `csi`: a Pod's volume holds everything it needs to use its connectors.
//!
//! The kubelet calls, over a Unix socket; files appear in the Pod. The driver decides nothing and
//! mints nothing: the token is the Pod's own, brought by the kubelet, and no registry's credential
//! is ever here. It logs no request.

pub mod attributes;
pub mod refusal;
pub mod facts;
pub mod render;
mod configuration;
mod template;
pub mod tokens;
pub mod trust;
pub mod bundle;
pub mod connectors;
pub mod cluster;
pub mod target;
pub mod volume;
pub mod wire;
pub mod identity;
pub mod node;
pub mod registration;
pub mod probe;
mod socket;

use std::io::{self, Write as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::Mode;
use rustix::process::umask;
use tokio::runtime::{self, Runtime};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::UnixListenerStream;
use tonic::transport::Server;
use tonic::transport::server::Router;
use tracing_subscriber::filter::ParseError;

use self::bundle::Bundle;
use self::cluster::Cluster;
use self::connectors::{Connectors, Manifests};
use self::facts::Direct;
use self::identity::{Card, DRIVER};
use self::node::{Service, Shelf, Workshop};
use self::registration::Plugin;
use self::socket::Socket;
use self::trust::{Authority, Own};
use self::wire::csi::identity_server::IdentityServer;
use self::wire::csi::node_server::NodeServer;
use self::wire::registration::registration_server::RegistrationServer;
use crate::config::CsiFlags;
use crate::proxy::process;
use crate::source::file::Folder;
use crate::telemetry::Telemetry;

/// Why the driver could not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A filter that is none.
    #[error("--log-filter: {0}")]
    Filter(#[from] ParseError),
    /// There is no way to a cluster.
    #[error("{0}")]
    Cluster(#[from] crate::cluster::Error),
    /// An endpoint that is no path.
    #[error("--endpoint {0:?} is not of the form unix:///path")]
    Endpoint(String),
    /// A socket that could not be made.
    #[error("cannot listen on {0}: {1}")]
    Listen(PathBuf, #[source] io::Error),
    /// A driver that was asked whether it is well, and is not.
    #[error("the driver at {0} is not well: {1}")]
    Sick(PathBuf, probe::Sick),
    /// Something else that the system refused.
    #[error(transparent)]
    System(#[from] io::Error),
}

/// Serves until a signal, or until the kubelet refuses the driver; whether it ended clean. Returns
/// `false` as well, after saying why, if the manifests of a folder cannot be read at the start.
/// With `--probe` it serves nothing, and only asks the driver that does.
pub fn run(flags: &CsiFlags) -> Result<bool, Error> {
    process::harden();
    if flags.probe {
        let path = path_of(flags)?;
        let asked = driver_runtime()?.block_on(probe::ask(&path));
        return asked.map(|()| true).map_err(|cause| Error::Sick(path, cause));
    }
    // Whatever is made here is for root, until it is opened to its readers.
    umask(Mode::RWXG | Mode::RWXO);
    let telemetry = Telemetry::start(flags.logging.log, &flags.logging.log_filter)?;
    let runtime = driver_runtime()?;
    let Some((connectors, own)) = sources(flags, &runtime)? else {
        return Ok(false);
    };
    let service = Service::new(workshop(flags, connectors, own));
    let clean = runtime.block_on(serve(flags, service))?;
    drop(telemetry);
    Ok(clean)
}

/// Where connectors come from, and the certificates of the forward proxy; nothing, after saying
/// why, if it is a folder that cannot be read.
fn sources(flags: &CsiFlags, runtime: &Runtime) -> Result<Option<(Connectors, Own)>, Error> {
    let file = flags.ca_file.clone().map(Own::File);
    let Some(folder) = &flags.file else {
        let (client, calls) = (runtime.block_on(crate::cluster::client())?, runtime.handle());
        let published =
            || Bundle::follow(client.clone(), &flags.installed.namespace, calls.clone());
        let own = file.unwrap_or_else(|| Own::Cluster(published()));
        let cluster = Cluster::new(client, calls.clone(), flags.require_proxy_right);
        return Ok(Some((Connectors::Cluster(cluster), own)));
    };
    match Manifests::follow(Folder::new(folder), &flags.cluster_domain) {
        Ok(manifests) => Ok(Some((Connectors::Folder(manifests), file.unwrap_or(Own::Nowhere)))),
        Err(reasons) => {
            for reason in reasons {
                tracing::error!("{reason}");
            }
            tracing::error!("the manifests cannot be read: mend them and start again");
            Ok(None)
        }
    }
}

fn workshop(flags: &CsiFlags, connectors: Connectors, own: Own) -> Workshop {
    let mut more = flags.no_proxy.clone();
    // The API server's address as every Pod sees it; it is in no Pod's interest to ask the proxy.
    more.extend(std::env::var("KUBERNETES_SERVICE_HOST").ok().filter(|host| !host.is_empty()));
    Workshop {
        node_id: flags.node_id.clone(),
        kubelet: flags.kubelet_dir.clone(),
        storage: flags.storage(),
        audience: flags.audience.clone(),
        direct: Direct { cluster_domain: flags.cluster_domain.clone(), more },
        authority: Authority::new(own),
        connectors,
        shelf: Shelf::default(),
    }
}

fn driver_runtime() -> io::Result<Runtime> {
    runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .max_blocking_threads(BLOCKING_THREADS_MAX)
        .thread_name("csi")
        .enable_all()
        .build()
}

async fn serve(flags: &CsiFlags, service: Service) -> Result<bool, Error> {
    let path = path_of(flags)?;
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let (end, ended) = watch::channel(());
    let (refused, mut refusals) = mpsc::channel(1);
    let driver = Server::builder()
        .add_service(IdentityServer::new(Card))
        .add_service(NodeServer::new(service));
    let mut serving = tokio::task::JoinSet::new();
    let socket = listen(&path)?;
    serving.spawn(answer(driver, socket, ended.clone()));
    if let Some(folder) = &flags.plugins_registry {
        // The kubelet looks for plugins by their sockets, so this one comes after the driver's.
        let place = flags.kubelet_endpoint.clone().unwrap_or_else(|| path.display().to_string());
        let plugin = RegistrationServer::new(Plugin::new(place, refused));
        let socket = listen(&folder.join(format!("{DRIVER}-reg.sock")))?;
        serving.spawn(answer(Server::builder().add_service(plugin), socket, ended));
    }
    announce(&path, &flags.node_id);
    let clean = tokio::select! {
        _ = terminate.recv() => true,
        _ = interrupt.recv() => true,
        Some(_) = refusals.recv() => false,
        Some(_) = serving.join_next() => false,
    };
    drop(end);
    // Calls under way come to their end; what is left then the kubelet asks for again.
    let rest = async { while serving.join_next().await.is_some() {} };
    if tokio::time::timeout(DRAIN_WAIT, rest).await.is_err() {
        tracing::warn!("calls were cut off");
    }
    Ok(clean)
}

fn path_of(flags: &CsiFlags) -> Result<PathBuf, Error> {
    socket::path_of(&flags.endpoint).ok_or_else(|| Error::Endpoint(flags.endpoint.clone()))
}

fn listen(path: &Path) -> Result<Socket, Error> {
    Socket::listen(path).map_err(|cause| Error::Listen(path.to_owned(), cause))
}

/// Answers calls until the end.
async fn answer(router: Router, mut socket: Socket, mut ended: watch::Receiver<()>) {
    let Some(listener) = socket.listener.take() else {
        return;
    };
    let calls = UnixListenerStream::new(listener);
    let end = async move {
        // The sender says nothing; it is dropped.
        let _ = ended.changed().await;
    };
    if let Err(cause) = router.serve_with_incoming_shutdown(calls, end).await {
        tracing::error!(%cause, "calls are not answered any more");
    }
}

/// Prints the line of JSON that says that calls are answered. Nobody may be reading it.
fn announce(path: &Path, node: &str) {
    let line = serde_json::json!({"endpoint": path, "driver": DRIVER, "node": node});
    let mut out = io::stdout().lock();
    if let Err(cause) = writeln!(out, "{line}").and_then(|()| out.flush()) {
        tracing::warn!(%cause, "the line of addresses could not be printed");
    }
    tracing::info!(endpoint = %path.display(), node, "serving");
}

/// Calls that work at files at one time; others wait.
const BLOCKING_THREADS_MAX: usize = 32;

/// How long calls under way may take after a signal.
const DRAIN_WAIT: Duration = Duration::from_secs(10);
