//! The flags of TLS with callers and of the forward proxy, and those of the verb `ca`.
//!
//! Like its parent: flags in, values out, nothing is started.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, ValueEnum};
use dataplane::vocabulary::is_dns_label;
use dataplane::{Hosts, Passthrough};

use super::Installed;
use super::bounds::seconds;

/// The flags of `proxy` that concern TLS with callers and the forward proxy.
#[derive(Debug, Args)]
#[command(next_help_heading = "TLS and forward proxy")]
pub struct ForwardFlags {
    /// Where callers connect with TLS and nothing else; may be given several times. The addresses
    /// of --listen take TLS as well, and tell it from its first byte.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "HARBOR_CONNECTOR_LISTEN_TLS",
        value_delimiter = ','
    )]
    pub listen_tls: Vec<SocketAddr>,

    /// Other names of this proxy's own address, beside those of connectors' Services: a request for
    /// one is served here even if it arrives as at a forward proxy, and TLS is met with a
    /// certificate for it.
    #[arg(
        long,
        value_name = "NAME",
        env = "HARBOR_CONNECTOR_SERVICE_NAMES",
        value_delimiter = ',',
        value_parser = host_name
    )]
    pub service_names: Vec<String>,

    /// Where the interception CA is kept: ca.key, and ca.crt, which callers must trust. Both are
    /// made at the first start. In a cluster the default is no folder but the Secret and the
    /// ConfigMap harbor-connector-ca of --namespace; else it is $STATE_DIRECTORY/ca, or, for
    /// root, /var/lib/harbor-connector/ca, and for others $XDG_STATE_HOME/harbor-connector/ca
    /// (~/.local/state/…). Where the default cannot be used the proxy serves without TLS to callers
    /// and refuses tunnels to connectors' hosts.
    #[arg(long, value_name = "DIR", env = "HARBOR_CONNECTOR_CA_DIR")]
    pub ca_dir: Option<PathBuf>,

    /// Where this program is installed.
    #[command(flatten)]
    pub installed: Installed,

    /// In a cluster the CA's root is replaced by itself, a year before it ends: the next one is
    /// published, signs after so long, and after as long again the old one is no longer trusted.
    /// By default 30 days, 720 times the hour that a Pod's token lives. The kubelet renews the
    /// files of a volume within two minutes; what takes longer are programs that read them only
    /// when they start.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "HARBOR_CONNECTOR_CA_OVERLAP_SECONDS",
        default_value = "2592000",
        value_parser = seconds,
        hide_short_help = true
    )]
    pub ca_overlap_seconds: Duration,

    /// Forward proxy: what becomes of hosts that are no listed connector's. `deny` refuses them;
    /// `list` lets those of --passthrough-hosts through; `public` lets every host with a public
    /// address through, which makes this proxy a way out of the cluster's network policies. What is
    /// let through is a tunnel that nobody looks into; loopback, link-local and metadata addresses
    /// never are.
    #[arg(long, value_enum, env = "HARBOR_CONNECTOR_PASSTHROUGH", default_value = "deny")]
    pub passthrough: PassthroughMode,

    /// The hosts of --passthrough list; a name that begins with a dot means all names below it.
    #[arg(
        long,
        value_name = "HOST",
        env = "HARBOR_CONNECTOR_PASSTHROUGH_HOSTS",
        value_delimiter = ',',
        value_parser = passthrough_host
    )]
    pub passthrough_hosts: Vec<String>,

    /// The ports that tunnels to other hosts may lead to.
    #[arg(
        long,
        value_name = "PORT",
        env = "HARBOR_CONNECTOR_PASSTHROUGH_PORTS",
        default_value = "443",
        value_delimiter = ',',
        value_parser = clap::value_parser!(u16).range(1..)
    )]
    pub passthrough_ports: Vec<u16>,
}

/// The flags of `ca`.
#[derive(Debug, Args)]
pub struct CaFlags {
    /// The folder of the CA.
    #[arg(long, value_name = "DIR", env = "HARBOR_CONNECTOR_CA_DIR")]
    pub ca_dir: Option<PathBuf>,

    /// Not a folder but the CA of the cluster of KUBECONFIG, or of the Pod: the Secret
    /// harbor-connector-ca.
    #[arg(long, env = "HARBOR_CONNECTOR_CLUSTER")]
    pub cluster: bool,

    /// Where this program is installed.
    #[command(flatten)]
    pub installed: Installed,

    /// What to do with it.
    #[arg(value_enum, default_value = "show")]
    pub step: CaStep,
}

/// The steps of a rotation, in order. A running proxy follows each within a second or two.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum CaStep {
    /// Prints the certificates, and which of them signs.
    Show,
    /// Makes the next root and adds it to ca.crt. It does not sign yet: wait until every caller
    /// has the new ca.crt, at least as long as the longest-lived Pod.
    PublishNext,
    /// Has the published root sign from now on. The old one stays in ca.crt.
    SignWithNext,
    /// Takes every root out of ca.crt but the one that signs.
    RetireOld,
}

/// See [`Hosts`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum PassthroughMode {
    /// No host.
    Deny,
    /// The hosts of a list.
    List,
    /// Every host with a public address.
    Public,
}

impl ForwardFlags {
    /// What becomes of hosts that are no connector's.
    pub fn passthrough(&self) -> Passthrough {
        let listed = || self.passthrough_hosts.iter().map(|name| name.as_str().into()).collect();
        let hosts = match self.passthrough {
            PassthroughMode::Deny => Hosts::Nobody,
            PassthroughMode::List => Hosts::Listed(listed()),
            PassthroughMode::Public => Hosts::Public,
        };
        Passthrough { hosts, ports: self.passthrough_ports.clone() }
    }
}

/// A name of our own, in the form in which names are compared.
fn host_name(text: &str) -> Result<String, String> {
    let name = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    if name.len() <= 253 && name.split('.').all(is_dns_label) {
        Ok(name)
    } else {
        Err("write a DNS name".to_owned())
    }
}

/// The same, or a zone that begins with a dot; `*.` is taken for that dot.
fn passthrough_host(text: &str) -> Result<String, String> {
    let text = text.strip_prefix('*').unwrap_or(text);
    match text.strip_prefix('.') {
        Some(zone) => host_name(zone).map(|zone| format!(".{zone}")),
        None => host_name(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_taken_in_the_form_in_which_they_are_compared() {
        assert_eq!(host_name("Proxy.System.svc.").as_deref(), Ok("proxy.system.svc"));
        assert_eq!(passthrough_host("*.Example.org").as_deref(), Ok(".example.org"));
        assert_eq!(passthrough_host(".example.org").as_deref(), Ok(".example.org"));
        for bad in ["", "a b", "a:443", "http://a", "a/", "..a", "*"] {
            assert!(passthrough_host(bad).is_err(), "{bad}");
        }
    }
}
