//! The flags of the verb `controller`, their environment variables and their defaults.
//!
//! Where the API server is comes from `KUBECONFIG` or the Pod's own service account, as for every
//! verb that works in a cluster.

use std::net::SocketAddr;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;
use rustix::system::uname;

use super::{Installed, Logging};

/// The flags of `controller`.
#[derive(Debug, Args)]
pub struct ControllerFlags {
    /// Where this program is installed.
    #[command(flatten)]
    pub installed: Installed,

    /// The proxy's own Service in that namespace, to which the Service of each connector leads.
    #[arg(
        long,
        value_name = "NAME",
        env = "HARBOR_CONNECTOR_PROXY_SERVICE",
        default_value = "harbor-connector-proxy"
    )]
    pub proxy_service: String,

    /// What follows `.svc.` in a Service's full name.
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "HARBOR_CONNECTOR_CLUSTER_DOMAIN",
        default_value = "cluster.local"
    )]
    pub cluster_domain: String,

    /// Under which name this replica takes part in the election: the Pod's. By default the host's.
    #[arg(long, value_name = "NAME", env = "HARBOR_CONNECTOR_POD_NAME")]
    pub pod_name: Option<String>,

    /// After how many seconds without a sign of life another replica takes over; the one that acts
    /// stops after two thirds of them.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "HARBOR_CONNECTOR_LEASE_SECONDS",
        default_value_t = 15,
        value_parser = clap::value_parser!(u32).range(1..=3600)
    )]
    pub lease_seconds: u32,

    /// Where `/healthz`, `/readyz` and `/metrics` are.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "HARBOR_CONNECTOR_ADMIN",
        default_value = "127.0.0.1:9090"
    )]
    pub admin: SocketAddr,

    /// The log.
    #[command(flatten)]
    pub logging: Logging,
}

impl ControllerFlags {
    /// A name that no other replica has, not even an earlier process of the same Pod.
    pub fn identity(&self) -> String {
        let host = || uname().nodename().to_string_lossy().into_owned();
        let name = self.pod_name.clone().unwrap_or_else(host);
        let started = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        format!("{name}_{}_{:x}", std::process::id(), started.as_millis())
    }

    /// How long a Lease lasts that is not renewed.
    pub fn lease(&self) -> Duration {
        Duration::from_secs(self.lease_seconds.into())
    }
}
