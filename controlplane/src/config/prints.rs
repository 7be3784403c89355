//! The flags of the verbs that print and end: `check` and `seccomp`.
//!
//! Like its parent: flags in, values out, nothing is started.

use std::path::PathBuf;

use clap::Args;

/// The flags of `check`.
#[derive(Debug, Args)]
pub struct CheckFlags {
    /// The folder with the manifests (*.yaml, *.yml, *.json).
    #[arg(value_name = "DIR", env = "HARBOR_CONNECTOR_FILE")]
    pub folder: PathBuf,
}

/// The flags of `seccomp`.
#[derive(Debug, Args)]
pub struct SeccompFlags {
    /// Writes the profile to this file instead of to stdout. Whoever reads it meanwhile reads the
    /// old or the new one, whole. A kubelet looks below its `seccomp` folder, such as
    /// /var/lib/kubelet/seccomp.
    #[arg(long, value_name = "FILE", env = "HARBOR_CONNECTOR_INSTALL")]
    pub install: Option<PathBuf>,
}
