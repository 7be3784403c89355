//! The flags of the verb `csi`, their environment variables and their defaults.

use std::path::PathBuf;

use clap::{Args, ValueEnum};

use super::{Installed, Logging};
use crate::csi::volume::Storage;

/// The flags of `csi`.
#[derive(Debug, Args)]
pub struct CsiFlags {
    /// Takes connectors and rights from the manifests of this folder (*.yaml, *.yml, *.json)
    /// instead of from a cluster, and follows its changes. In a cluster KUBECONFIG or the service
    /// account of the Pod says where the API server is.
    #[arg(long, value_name = "DIR", env = "HARBOR_CONNECTOR_FILE")]
    pub file: Option<PathBuf>,

    /// The Unix socket on which the kubelet calls.
    #[arg(
        long,
        value_name = "unix:///PATH",
        env = "HARBOR_CONNECTOR_ENDPOINT",
        default_value = "unix:///csi/csi.sock"
    )]
    pub endpoint: String,

    /// Asks the driver that serves at --endpoint whether it is well, and ends: for a liveness probe
    /// in its Pod. The exit code is the answer.
    #[arg(long, env = "HARBOR_CONNECTOR_PROBE")]
    pub probe: bool,

    /// The name of this node.
    #[arg(long, value_name = "NAME", env = "HARBOR_CONNECTOR_NODE_ID")]
    pub node_id: String,

    /// The kubelet's folder; volumes are made below its `pods`, and nowhere else.
    #[arg(
        long,
        value_name = "DIR",
        env = "HARBOR_CONNECTOR_KUBELET_DIR",
        default_value = "/var/lib/kubelet"
    )]
    pub kubelet_dir: PathBuf,

    /// Registers with the kubelet by a socket in this folder (its `plugins_registry`), so that no
    /// node-driver-registrar is needed.
    #[arg(long, value_name = "DIR", env = "HARBOR_CONNECTOR_PLUGINS_REGISTRY")]
    pub plugins_registry: Option<PathBuf>,

    /// The path by which the kubelet reaches the socket of --endpoint, where it sees another one
    /// than this process.
    #[arg(long, value_name = "PATH", env = "HARBOR_CONNECTOR_KUBELET_ENDPOINT")]
    pub kubelet_endpoint: Option<String>,

    /// The CA certificates of the forward proxy, in PEM; they are read again for every volume. In a
    /// cluster the default is what the proxies publish, the ConfigMap harbor-connector-ca of
    /// --namespace.
    #[arg(long, value_name = "FILE", env = "HARBOR_CONNECTOR_CA_FILE")]
    pub ca_file: Option<PathBuf>,

    /// Where this program is installed.
    #[command(flatten)]
    pub installed: Installed,

    /// The audience of the tokens that Pods use the proxy with.
    #[arg(
        long,
        value_name = "AUDIENCE",
        env = "HARBOR_CONNECTOR_AUDIENCE",
        default_value = "connectors-proxy"
    )]
    pub audience: String,

    /// Names and addresses that Pods reach without the forward proxy, besides loopback and the
    /// cluster's own names.
    #[arg(
        long,
        value_name = "NAME,…",
        env = "HARBOR_CONNECTOR_NO_PROXY",
        value_delimiter = ',',
        value_parser = direct_name
    )]
    pub no_proxy: Vec<String>,

    /// What holds a volume's files: a tmpfs of its own, or a plain folder for those who may not
    /// mount (the files may then reach a disk).
    #[arg(long, value_enum, env = "HARBOR_CONNECTOR_VOLUMES", default_value = "memory")]
    pub volumes: VolumeForm,

    /// Asks for the verb `*` on `connectors/proxy` instead of `get` on the connector, as the proxy
    /// does with the same flag. Only in a cluster.
    #[arg(long, env = "HARBOR_CONNECTOR_REQUIRE_PROXY_RIGHT", conflicts_with = "file")]
    pub require_proxy_right: bool,

    /// What follows `.svc.` in a Service's full name.
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "HARBOR_CONNECTOR_CLUSTER_DOMAIN",
        default_value = "cluster.local"
    )]
    pub cluster_domain: String,

    /// The log.
    #[command(flatten)]
    pub logging: Logging,
}

/// See [`Storage`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum VolumeForm {
    /// A tmpfs.
    Memory,
    /// A folder.
    Folder,
}

impl CsiFlags {
    /// What holds a volume's files.
    pub fn storage(&self) -> Storage {
        match self.volumes {
            VolumeForm::Memory => Storage::Memory,
            VolumeForm::Folder => Storage::Folder,
        }
    }
}

/// An entry of `no_proxy`: what a shell and a tool can read without quotes.
fn direct_name(text: &str) -> Result<String, String> {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._:/*[]".contains(&byte);
    let text = text.trim();
    if text.is_empty() || !text.bytes().all(plain) {
        return Err(
            "write a name, a .suffix, an address or a network such as 10.0.0.0/8".to_owned()
        );
    }
    Ok(text.to_owned())
}
