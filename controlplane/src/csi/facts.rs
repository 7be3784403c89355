//! What files are made of: connectors with their addresses, their classes, a token, certificates.
//!
//! Objects of the source in, plain facts out, checked once so that rendering need not doubt them.
//! No registry's credential is among them: this process never has one.

use std::sync::Arc;

use dataplane::vocabulary::{ConnectorRef, Origin};
use serde_json::{Value, json};
use zeroize::Zeroizing;

use super::refusal::{Quoted, Refusal};
use crate::compile::address;
use crate::crd;

/// Everything that the files of one volume are made of.
pub struct Facts<'a> {
    /// The connectors, in the order they were asked for.
    pub connectors: &'a [ConnectorFacts],
    /// Their classes, in the order they first appear.
    pub classes: &'a [Arc<ClassFacts>],
    /// The Pod's token.
    pub token: &'a str,
    /// The certificates.
    pub trust: &'a Trust,
    /// What is never asked of the forward proxy, besides what always is.
    pub direct: &'a Direct,
}

/// One connector.
#[derive(Clone, Debug)]
pub struct ConnectorFacts {
    /// Which one.
    pub reference: ConnectorRef,
    /// Its registry's address, as written.
    pub address: String,
    /// The hosts of its registry.
    pub registry_hosts: Vec<String>,
    /// Its proxy's address, as its status says.
    pub proxy_url: String,
    /// Where that is.
    pub proxy: Origin,
    /// The certificates that its status tells callers to trust.
    pub ca: Option<String>,
    /// `metadata`, `spec` and `status.proxyAddress`, for the templates of a class.
    pub value: Value,
}

/// One class.
#[derive(Clone, Debug)]
pub struct ClassFacts {
    /// Its name.
    pub name: String,
    /// The address of the class's own proxy, empty if it has none.
    pub proxy_url: String,
    /// The configurations it defines.
    pub configurations: Vec<ClassConfiguration>,
}

/// A configuration that a class defines (`spec.configurations[]`).
#[derive(Clone, Debug, serde::Deserialize)]
pub struct ClassConfiguration {
    /// Its name.
    pub name: String,
    /// Templates by file name.
    #[serde(default)]
    pub data: std::collections::BTreeMap<String, String>,
    /// Its parameters.
    #[serde(default)]
    pub params: Vec<crd::ParameterRule>,
}

/// The certificates that a Pod gets.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Trust {
    /// Ours: the CA of the forward proxy, in PEM. Nothing where there is none.
    pub own: Option<String>,
    /// The system's roots, in PEM.
    pub system: Arc<str>,
}

/// Names that are reached without the forward proxy.
#[derive(Clone, Debug, Default)]
pub struct Direct {
    /// What follows `.svc.` in a Service's full name.
    pub cluster_domain: String,
    /// More names, such as the address of the API server.
    pub more: Vec<String>,
}

impl ConnectorFacts {
    /// The facts of a connector. `fallback` is its proxy's address where its status has none.
    pub fn new(
        reference: ConnectorRef,
        connector: &crd::Connector,
        fallback: Option<String>,
    ) -> Result<Self, Refusal> {
        let name = || reference.as_str().to_owned();
        let status = connector.status.as_ref().and_then(|status| status.proxy.as_ref());
        let endpoint = status.and_then(|proxy| proxy.http_address.as_ref());
        let proxy_url = endpoint.and_then(|endpoint| endpoint.url.clone()).or(fallback);
        let proxy_url = proxy_url.ok_or_else(|| Refusal::AddressMissing(name()))?;
        let (proxy, _) = address::parse(&proxy_url).map_err(|why| Refusal::Address {
            connector: name(),
            address: Quoted::new(&proxy_url),
            why: why.to_string(),
        })?;
        let address = connector.spec.address.clone().unwrap_or_default();
        let extensions = connector.spec.address_extensions.iter();
        let addresses = extensions.filter_map(|extension| extension.value.as_str());
        let registry_hosts = std::iter::once(address.as_str())
            .chain(addresses)
            .filter_map(|address| address::parse(address).ok())
            .map(|(origin, _)| origin.host.to_string())
            .collect();
        let mut metadata = serde_json::to_value(&connector.metadata).unwrap_or_default();
        if let Some(fields) = metadata.as_object_mut() {
            fields.remove("managedFields");
            fields.insert("namespace".to_owned(), reference.namespace().into());
        }
        let value = json!({
            "metadata": metadata,
            "spec": connector.spec,
            "status": {"proxyAddress": proxy_url},
        });
        let ca = endpoint.and_then(|endpoint| endpoint.ca_certs.clone());
        let ca = ca.filter(|ca| !ca.trim().is_empty());
        Ok(Self { reference, address, registry_hosts, proxy_url, proxy, ca, value })
    }
}

impl ClassFacts {
    /// The facts of a class. A configuration that cannot be read is left out and logged: only who
    /// asks for it is concerned.
    pub fn new(name: &str, class: Option<&crd::ConnectorClass>) -> Self {
        let status = class.and_then(|class| class.status.as_ref());
        let proxy = status.and_then(|status| status.proxy.as_ref());
        let url = proxy.and_then(|proxy| proxy.http_address.as_ref()?.url.clone());
        let written = class.map_or(&[][..], |class| &class.spec.configurations);
        let mut configurations = Vec::new();
        for one in written {
            match serde_json::from_value(one.clone()) {
                Ok(configuration) => configurations.push(configuration),
                Err(cause) => tracing::warn!(class = name, %cause, "a configuration is no such"),
            }
        }
        Self { name: name.to_owned(), proxy_url: url.unwrap_or_default(), configurations }
    }
}

/// The Basic credential of a caller: any user, and the token as password (`protocol` of registries:
/// RFC 7617). The user must not be empty, because containerd and oras send no such credential.
pub(super) fn basic(token: &str) -> Zeroizing<String> {
    use base64::Engine as _;
    let pair = Zeroizing::new([USER, ":", token].concat());
    Zeroizing::new(base64::engine::general_purpose::STANDARD.encode(pair.as_bytes()))
}

const USER: &str = "connector";
