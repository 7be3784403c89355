//! The names and addresses of this proxy itself: what it answers to, and never forwards to.
//!
//! Texts and addresses in, yes or no out. A request for one of these is served here, however it
//! arrives, and no connection is ever opened to one.

use std::net::{IpAddr, SocketAddr};

use crate::target::connector_of_host;
use crate::vocabulary::Origin;

/// Under what callers reach this proxy.
#[derive(Clone, Debug, Default)]
pub struct Own {
    /// What follows `.svc.` in a Service's full name, `cluster.local` as a rule.
    pub cluster_domain: Box<str>,
    /// Names beside those of connectors' Services: lower-case, without a trailing dot.
    pub names: Vec<Box<str>>,
    /// Where it listens.
    pub addresses: Vec<SocketAddr>,
}

impl Own {
    /// Whether `name`, in lower case, is that of a connector's Service or of this proxy.
    pub(crate) fn is_own_name(&self, name: &str) -> bool {
        self.names.iter().any(|own| **own == *name)
            || connector_of_host(name, &self.cluster_domain).is_some()
    }

    /// Whether `origin` is where a caller, whose connection arrived at `local`, already is.
    pub(crate) fn is_here(&self, origin: &Origin, local: Option<SocketAddr>) -> bool {
        let address = origin.host.parse::<IpAddr>();
        let address = address.map(|ip| SocketAddr::new(ip, origin.port)).ok();
        self.is_own_name(&origin.host)
            || address.is_some() && address == local
            || address.is_some_and(|address| self.addresses.contains(&address))
    }

    /// Whether a connection from `local` to `remote` leads back into this proxy: to one of its
    /// listening sockets, or to one that listens on every address of this machine.
    pub fn is_loop(&self, local: Option<SocketAddr>, remote: SocketAddr) -> bool {
        let same_machine = local.is_some_and(|local| local.ip() == remote.ip());
        self.addresses.iter().any(|own| {
            own.port() == remote.port()
                && (own.ip() == remote.ip() || own.ip().is_unspecified() && same_machine)
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vocabulary::Scheme;

    #[test]
    fn what_is_ours_is_known_by_name_and_by_address() {
        let own = Own {
            cluster_domain: "cluster.local".into(),
            names: vec!["proxy.system.svc".into()],
            addresses: vec!["127.0.0.1:8080".parse().unwrap(), "0.0.0.0:80".parse().unwrap()],
        };
        for name in ["proxy.system.svc", "c-h.ci", "c-h.ci.svc.cluster.local"] {
            assert!(own.is_own_name(name), "{name}");
        }
        assert!(!own.is_own_name("harbor.example.com") && !own.is_own_name("proxy"));
        let origin = |host: &str, port| Origin { scheme: Scheme::Http, host: host.into(), port };
        let local = Some("10.0.0.7:80".parse().unwrap());
        assert!(own.is_here(&origin("127.0.0.1", 8080), None));
        assert!(own.is_here(&origin("10.0.0.7", 80), local));
        assert!(!own.is_here(&origin("10.0.0.7", 81), local));
        assert!(!own.is_here(&origin("10.0.0.8", 80), local));
        let from = Some("10.0.0.7:34567".parse().unwrap());
        assert!(own.is_loop(None, "127.0.0.1:8080".parse().unwrap()));
        assert!(own.is_loop(from, "10.0.0.7:80".parse().unwrap()));
        assert!(!own.is_loop(from, "10.0.0.8:80".parse().unwrap()));
    }
}
