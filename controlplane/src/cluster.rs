//! The way to the Kubernetes API: where it is, who we are, and how long a request may take.
//!
//! The environment in, a [`Client`] out: `KUBECONFIG` where it is set, else the service account of
//! the Pod. A developer's `~/.kube/config` is left alone: nobody should serve a cluster by mistake.

use std::env;
use std::time::Duration;

use kube::config::{InClusterError, KubeConfigOptions, KubeconfigError};
use kube::{Client, Config};
use rustls::crypto::ring;

/// Why there is no way to a cluster.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The file that `KUBECONFIG` names.
    #[error("KUBECONFIG: {0}")]
    Kubeconfig(#[from] KubeconfigError),
    /// Not a Pod either.
    #[error(
        "{0}: run in a Pod with a service account, or set KUBECONFIG; `proxy` and `csi` also take \
         --file DIR"
    )]
    InCluster(#[from] InClusterError),
    /// Settings that cannot be used.
    #[error("the way to the API server: {0}")]
    Client(#[from] kube::Error),
}

/// A client of the cluster's API. Nothing is connected to yet. Must be called inside a runtime.
pub async fn client() -> Result<Client, Error> {
    // kube takes the process's provider; there is one, and a second start changes nothing.
    let _ = ring::default_provider().install_default();
    let mut config = match env::var_os("KUBECONFIG") {
        Some(_) => Config::from_kubeconfig(&KubeConfigOptions::default()).await?,
        None => Config::incluster()?,
    };
    config.connect_timeout = Some(CONNECT_WAIT);
    // Whoever asks decides when to ask again: with jitter, a bound, and stale answers meanwhile.
    config.default_retry = false;
    Ok(Client::try_from(config)?)
}

/// Connecting: an API server that is up answers a SYN at once, and there may be others.
const CONNECT_WAIT: Duration = Duration::from_secs(5);
