//! The flags of the probes: which proxy of a cluster looks at the registries, and how often.
//!
//! Words of the command line in, [`Rules`] out.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use clap::Args;

use super::bounds::seconds;
use crate::probe::Rules;

/// How connectors are looked at; without meaning under --file, where there is no status to write.
#[derive(Debug, Args)]
#[command(next_help_heading = "Probes")]
pub struct Probes {
    /// How often each connector's registry and credential are looked at, by one proxy of the
    /// cluster. 0: never by this one.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_PROBE_SECONDS",
        default_value = "60", value_parser = seconds)]
    pub probe_seconds: Duration,

    /// How long a proxy that looks may be silent before another one does; each asks for the Lease
    /// seven times in that time.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_PROBE_LEASE_SECONDS",
        default_value = "60", value_parser = seconds, hide_short_help = true)]
    pub probe_lease_seconds: Duration,

    /// Under which name this process holds a Lease: its Pod's. By default the host's.
    #[arg(long, value_name = "NAME", env = "HARBOR_CONNECTOR_POD_NAME", hide_short_help = true)]
    pub pod_name: Option<String>,
}

impl Probes {
    /// When it is looked, and as whom, by a Lease in `namespace`; nothing where this process does
    /// not take part.
    pub fn rules(&self, namespace: &str) -> Option<Rules> {
        let period = self.probe_seconds;
        (!period.is_zero()).then(|| Rules {
            period,
            lease: self.probe_lease_seconds,
            namespace: namespace.to_owned(),
            identity: self.identity(),
        })
    }

    /// A name that no other process has, not even an earlier one of the same Pod.
    fn identity(&self) -> String {
        let host = || rustix::system::uname().nodename().to_string_lossy().into_owned();
        let name = self.pod_name.clone().unwrap_or_else(host);
        let started = SystemTime::now().duration_since(UNIX_EPOCH);
        let started = started.map_or(0, |started| started.as_millis());
        format!("{name}_{}_{started:x}", std::process::id())
    }
}
