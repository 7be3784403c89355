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
    bound(&mut config, SILENCE_MAX);
    Ok(Client::try_from(config)?)
}

/// Gives each request its bounds. `silence`: how long nothing may come where something should.
fn bound(config: &mut Config, silence: Duration) {
    config.connect_timeout = Some(CONNECT_WAIT);
    // Else a list that is never answered is waited for until the process ends.
    config.read_timeout = Some(silence);
    config.reset_reader_on_write = true;
    // Whoever asks decides when to ask again: with jitter, a bound, and stale answers meanwhile.
    config.default_retry = false;
}

/// Connecting: an API server that is up answers a SYN at once, and there may be others.
const CONNECT_WAIT: Duration = Duration::from_secs(5);

/// More than the minute within which a watch gets a bookmark (k8s.io/apiserver
/// `storage/cacher`, `bookmarkFrequency`).
const SILENCE_MAX: Duration = Duration::from_secs(90);

#[cfg(test)]
mod tests {
    use kube::api::ListParams;
    use kube::core::Request;
    use tokio::net::TcpListener;

    use super::*;

    #[tokio::test]
    async fn an_api_server_that_accepts_and_never_answers_is_not_waited_for_for_ever() {
        let _ = ring::default_provider().install_default();
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut config = Config::new(format!("http://{address}").parse().unwrap());
        bound(&mut config, Duration::from_millis(100));
        let client = Client::try_from(config).unwrap();
        let list = Request::new("/api/v1/secrets").list(&ListParams::default()).unwrap();
        let asked = client.request_text(list);
        let answer = tokio::time::timeout(Duration::from_secs(20), asked).await;
        assert!(matches!(answer, Ok(Err(_))), "{answer:?}");
    }
}
