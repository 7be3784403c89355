//! Where in a cluster this program is installed: a flag of every verb that works in one.
//!
//! A word of the command line in, a namespace out.

use clap::Args;

/// Where this program is installed.
#[derive(Debug, Args)]
pub struct Installed {
    /// The namespace of this program's own objects in a cluster: its Leases, the proxy's Service,
    /// and the Secret and the ConfigMap of the interception CA.
    #[arg(
        long,
        value_name = "NAME",
        env = "HARBOR_CONNECTOR_NAMESPACE",
        default_value = "harbor-connector-system"
    )]
    pub namespace: String,
}
