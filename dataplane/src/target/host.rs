//! The connector that a `Host` field names.
//!
//! It never resolves anything: the names are those that the controller gives its Services.

use crate::vocabulary::{ConnectorRef, is_dns_label};

/// The connector behind `c-<name>.<namespace>`, `….svc` or `….svc.<cluster domain>`: in any case,
/// with or without a port and a trailing dot.
pub(crate) fn connector(host: &str, cluster_domain: &str) -> Option<ConnectorRef> {
    let host = host.split_once(':').map_or(host, |(name, _port)| name);
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    let (service, rest) = host.split_once('.')?;
    let (namespace, zone) = rest.split_once('.').unwrap_or((rest, ""));
    let zone_is_ours = match zone.strip_prefix("svc") {
        Some("") => true,
        Some(domain) => domain
            .strip_prefix('.')
            .is_some_and(|domain| domain.eq_ignore_ascii_case(cluster_domain)),
        None => zone.is_empty() && !rest.ends_with('.'),
    };
    let name = service.strip_prefix("c-")?;
    let labels_are_good = is_dns_label(service) && is_dns_label(name) && is_dns_label(namespace);
    (zone_is_ours && labels_are_good).then(|| ConnectorRef::new(namespace, name))
}
