//! The Service of a Connector: `c-<name>`, by which callers reach the proxy under a name of the
//! connector's own.
//!
//! A Connector in, the Service that should be there out, or why there can be none; pure. It is an
//! ExternalName Service (Kubernetes, "Service: Type ExternalName"): a thousand connectors cost no
//! endpoints, and whether callers stay on their node is decided once, by the proxy's own Service.

use std::collections::BTreeMap;

use dataplane::vocabulary::is_dns_label;
use k8s_openapi::api::core::v1::{Service, ServicePort, ServiceSpec};
use kube::Resource as _;
use kube::api::ObjectMeta;

use super::MANAGER;
use crate::crd::Connector;

/// What a connector's Service must be called; nothing where its name allows none.
pub fn name_for(connector: &str) -> Option<String> {
    let name = format!("{PREFIX}{connector}");
    is_dns_label(&name).then_some(name)
}

/// The connector whose Service would be called `service`.
pub fn connector_of(service: &str) -> Option<&str> {
    service.strip_prefix(PREFIX)
}

/// The Service named `name` for `connector`, leading to `proxy`, the proxy Service's full name.
/// Nothing for an object that the API server has not stored yet.
pub fn desired(connector: &Connector, name: &str, proxy: &str) -> Option<Service> {
    let owner = connector.controller_owner_ref(&())?;
    let own = connector.metadata.name.clone()?;
    let labels = [
        ("app.kubernetes.io/name", "harbor-connector"),
        ("app.kubernetes.io/component", "connector"),
        ("app.kubernetes.io/part-of", "harbor-connector"),
        ("app.kubernetes.io/managed-by", MANAGER),
        ("connectors.alauda.io/connector", &own),
    ];
    let labels = labels.map(|(label, value)| (label.to_owned(), value.to_owned()));
    let port = ServicePort {
        name: Some("http".to_owned()),
        port: 80,
        protocol: Some("TCP".to_owned()),
        ..Default::default()
    };
    Some(Service {
        metadata: ObjectMeta {
            name: Some(name.to_owned()),
            namespace: connector.metadata.namespace.clone(),
            labels: Some(BTreeMap::from(labels)),
            owner_references: Some(vec![owner]),
            ..Default::default()
        },
        spec: Some(ServiceSpec {
            type_: Some("ExternalName".to_owned()),
            external_name: Some(proxy.to_owned()),
            ports: Some(vec![port]),
            ..Default::default()
        }),
        ..Default::default()
    })
}

/// Whether `service` is this very connector's. One of the same name that somebody else made, or
/// that belongs to an earlier connector of this name, is left alone.
pub fn is_of(service: &Service, connector: &Connector) -> bool {
    let owners = service.metadata.owner_references.as_deref().unwrap_or_default();
    let uid = connector.metadata.uid.as_deref();
    owners.iter().any(|owner| owner.controller == Some(true) && Some(owner.uid.as_str()) == uid)
}

/// Whether everything that we want is there, whatever else others have added.
pub fn is_same(there: &Service, wanted: &Service) -> bool {
    let spec = |service: &Service| service.spec.clone().unwrap_or_default();
    let (is, should) = (spec(there), spec(wanted));
    let ports = is.ports.unwrap_or_default();
    let has_port = |port: &ServicePort| {
        let same = |other: &ServicePort| (&other.name, other.port) == (&port.name, port.port);
        ports.iter().any(same)
    };
    let labels = there.metadata.labels.clone().unwrap_or_default();
    let mut wanted_labels = wanted.metadata.labels.iter().flatten();
    is.type_ == should.type_
        && is.external_name == should.external_name
        && should.ports.iter().flatten().all(has_port)
        && wanted_labels.all(|(label, value)| labels.get(label) == Some(value))
}

/// What stands before the connector's name.
const PREFIX: &str = "c-";

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::ConnectorSpec;

    fn connector(uid: &str) -> Connector {
        let mut connector = Connector::new("harbor", ConnectorSpec::default());
        connector.metadata.namespace = Some("ci".into());
        connector.metadata.uid = Some(uid.into());
        connector
    }

    #[test]
    fn a_service_leads_to_the_proxy_and_belongs_to_its_connector() {
        let service = desired(&connector("1"), "c-harbor", "proxy.system.svc").unwrap();
        let spec = service.spec.clone().unwrap();
        assert_eq!(spec.external_name.as_deref(), Some("proxy.system.svc"));
        assert!(is_of(&service, &connector("1")));
        assert!(!is_of(&service, &connector("2")), "a connector made anew is another");
        assert!(!is_of(&Service::default(), &connector("1")));
    }

    #[test]
    fn what_others_add_to_a_service_is_no_difference() {
        let wanted = desired(&connector("1"), "c-harbor", "proxy.system.svc").unwrap();
        let mut there = wanted.clone();
        there.metadata.labels.get_or_insert_default().insert("team".into(), "a".into());
        let spec = there.spec.as_mut().unwrap();
        spec.session_affinity = Some("None".into());
        let more = ServicePort { name: Some("more".into()), port: 81, ..Default::default() };
        spec.ports.get_or_insert_default().push(more);
        assert!(is_same(&there, &wanted));
        there.spec.as_mut().unwrap().external_name = Some("elsewhere".into());
        assert!(!is_same(&there, &wanted));
    }

    #[test]
    fn a_name_that_no_service_can_have_is_told() {
        assert_eq!(name_for("harbor").as_deref(), Some("c-harbor"));
        assert_eq!(name_for("a.b"), None);
        assert_eq!(name_for(&"a".repeat(62)), None);
        assert_eq!(connector_of("c-harbor"), Some("harbor"));
        assert_eq!(connector_of("harbor"), None);
    }
}
