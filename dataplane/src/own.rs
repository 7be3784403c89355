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
        self.is_named(name) || connector_of_host(name, &self.cluster_domain).is_some()
    }

    /// Whether whoever dials `name`, in lower case, would come back to this proxy, or to another of
    /// its fleet: behind a Service nothing shows in the address. Short names are not among them,
    /// for `c-<name>.<namespace>` may be a domain of somebody's.
    pub fn is_loop_name(&self, name: &str) -> bool {
        let of_cluster = name.splitn(3, '.').nth(2).is_some();
        self.is_named(name) || of_cluster && self.is_own_name(name)
    }

    fn is_named(&self, name: &str) -> bool {
        self.names.iter().any(|own| **own == *name)
    }

    /// Whether `origin` is where a caller, whose connection arrived at `local`, already is.
    pub(crate) fn is_here(&self, origin: &Origin, local: Option<SocketAddr>) -> bool {
        let is_at = |address: &SocketAddr, ip: IpAddr| {
            address.port() == origin.port && address.ip().to_canonical() == ip
        };
        let ip = origin.host.parse::<IpAddr>().map(|ip| ip.to_canonical());
        self.is_own_name(&origin.host)
            || ip.is_ok_and(|ip| self.addresses.iter().chain(&local).any(|own| is_at(own, ip)))
    }

    /// Whether a connection from `local` to `remote` leads back into this proxy: to one of its
    /// listening sockets, or to one that listens on every address of this machine.
    pub fn is_loop(&self, local: Option<SocketAddr>, remote: SocketAddr) -> bool {
        // A socket of IPv6 also takes, and shows, addresses of IPv4 (RFC 4291 §2.5.5.2).
        let ip = remote.ip().to_canonical();
        let same_machine =
            ip.is_loopback() || local.is_some_and(|local| local.ip().to_canonical() == ip);
        self.addresses.iter().any(|own| {
            let own_ip = own.ip().to_canonical();
            own.port() == remote.port() && (own_ip == ip || own_ip.is_unspecified() && same_machine)
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
        for name in ["proxy.system.svc", "c-h.ci.svc", "c-h.ci.svc.cluster.local"] {
            assert!(own.is_loop_name(name), "{name}");
        }
        for name in ["c-h.ci", "c-h.example.com", "c-h.ci.svc.example.com", "harbor.example.com"] {
            assert!(!own.is_loop_name(name), "{name}");
        }
        let origin = |host: &str, port| Origin { scheme: Scheme::Http, host: host.into(), port };
        let local = Some("10.0.0.7:80".parse().unwrap());
        assert!(own.is_here(&origin("127.0.0.1", 8080), None));
        assert!(own.is_here(&origin("10.0.0.7", 80), local));
        assert!(!own.is_here(&origin("10.0.0.7", 81), local));
        assert!(!own.is_here(&origin("10.0.0.8", 80), local));
        let from = Some("10.0.0.7:34567".parse().unwrap());
        assert!(own.is_loop(None, "127.0.0.1:8080".parse().unwrap()));
        assert!(own.is_loop(from, "10.0.0.7:80".parse().unwrap()));
        assert!(own.is_loop(None, "127.0.0.2:80".parse().unwrap()), "all of it is this machine");
        assert!(!own.is_loop(from, "10.0.0.8:80".parse().unwrap()));
        assert!(!own.is_loop(from, "10.0.0.7:81".parse().unwrap()));
    }

    #[test]
    fn an_address_of_ipv4_is_the_same_one_inside_ipv6() {
        let own = Own {
            addresses: vec!["127.0.0.1:8080".parse().unwrap(), "[::]:80".parse().unwrap()],
            ..Own::default()
        };
        let origin = |host: &str, port| Origin { scheme: Scheme::Http, host: host.into(), port };
        let local = Some("[::ffff:10.0.0.7]:80".parse().unwrap());
        assert!(own.is_here(&origin("10.0.0.7", 80), local));
        assert!(own.is_here(&origin("::ffff:10.0.0.7", 80), local));
        assert!(own.is_here(&origin("::ffff:127.0.0.1", 8080), None));
        assert!(own.is_loop(None, "[::ffff:127.0.0.1]:8080".parse().unwrap()));
        let from = Some("10.0.0.7:34567".parse().unwrap());
        assert!(own.is_loop(from, "10.0.0.7:80".parse().unwrap()));
        assert!(own.is_loop(from, "[::ffff:10.0.0.7]:80".parse().unwrap()));
    }
}
