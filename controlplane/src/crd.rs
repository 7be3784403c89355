//! The two resources of `connectors.alauda.io/v1alpha1`: the user's contract.
//!
//! Manifests in, typed values out, and the CRDs themselves for `harbor-connector crds`. The schema
//! is the published one; what a value must be is said to the API server by the CEL rules here, and
//! decided once more by `compile`, which also reads manifests that no server has seen. A rule
//! cannot see `metadata.namespace`: that a Secret is the connector's own is asked for by the
//! policy in `deploy/base/admission.yaml`. Sub-trees that no part of this program reads stay JSON,
//! exactly as written.

mod rules;

use std::collections::BTreeMap;

use k8s_openapi::api::core::v1::ObjectReference;
use kube::CustomResource;
use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The API group of both kinds.
pub const GROUP: &str = "connectors.alauda.io";

/// The version of both kinds.
pub const VERSION: &str = "v1alpha1";

/// What a user says about one registry.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "connectors.alauda.io",
    version = "v1alpha1",
    kind = "Connector",
    plural = "connectors",
    singular = "connector",
    category = "alauda",
    namespaced,
    status = "ConnectorStatus",
    printcolumn = r#"{"name":"Class","type":"string","jsonPath":".spec.connectorClassName"}"#,
    printcolumn = r#"{"name":"Address","type":"string","jsonPath":".spec.address"}"#,
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#,
    validation = rules::name()
)]
#[schemars(extend("x-kubernetes-validations" = rules::spec()))]
#[serde(rename_all = "camelCase")]
pub struct ConnectorSpec {
    /// Where the registry is: an http or https URL, with a path prefix if need be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 2048), extend("x-kubernetes-validations" = rules::address()))]
    pub address: Option<String>,
    /// Other addresses of the same registry.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub address_extensions: Vec<Parameter>,
    /// How the connector authenticates at the registry; without it, requests go anonymously.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<Auth>,
    /// The Secret in the connector's own namespace that holds the registry's CA certificates.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ca_cert_secret_ref: Option<LocalSecret>,
    /// The ConnectorClass, `harbor`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub connector_class_name: Option<String>,
    /// Values of the parameters that the class declares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<Parameter>,
}

/// How a connector authenticates at its registry.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules::auth()))]
#[serde(rename_all = "camelCase")]
pub struct Auth {
    /// One of the class's auth types, `basicAuth`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(length(max = 253))]
    pub name: Option<String>,
    /// Values of the parameters that the auth type declares.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<Parameter>,
    /// The Secret with the credential, in the connector's own namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<ObjectReference>,
}

/// A named value.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct Parameter {
    /// Its name, as the class declares it.
    pub name: String,
    /// Its value; only texts are of use today.
    #[schemars(schema_with = "any")]
    pub value: Value,
}

/// A Secret in the same namespace.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[schemars(extend("x-kubernetes-validations" = rules::local_secret()))]
pub struct LocalSecret {
    /// Its name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What the controller reports about a Connector.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectorStatus {
    /// Facts for other programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Where the platform's API serves the connector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiPath>,
    /// The conditions, `Ready` among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// Where callers reach the connector.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyAddress>,
}

/// A path relative to the platform's API.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct ApiPath {
    /// The path.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// One condition.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct Condition {
    /// Its name, such as `SecretReady`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// The generation of the spec that it speaks of; `kubectl wait` looks at it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// One word for programs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// One sentence for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub message: Option<String>,
    /// `Info` where the condition does not count towards `Ready`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub severity: Option<String>,
    /// When the status last changed (RFC 3339).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<String>,
}

/// Where callers reach a connector.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ProxyAddress {
    /// The address for HTTP callers.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub http_address: Option<Endpoint>,
}

/// An address and what a caller needs to use it.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct Endpoint {
    /// The URL.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// PEM certificates to trust.
    #[serde(default, rename = "CACerts", skip_serializing_if = "Option::is_none")]
    pub ca_certs: Option<String>,
    /// The audience a caller's token should have.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub audience: Option<String>,
    /// The address's name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// What all connectors of one kind have in common.
#[derive(CustomResource, Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[kube(
    group = "connectors.alauda.io",
    version = "v1alpha1",
    kind = "ConnectorClass",
    plural = "connectorclasses",
    singular = "connectorclass",
    category = "alauda",
    status = "ConnectorClassStatus",
    printcolumn = r#"{"name":"Ready","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].status"}"#,
    printcolumn = r#"{"name":"Reason","type":"string","jsonPath":".status.conditions[?(@.type==\"Ready\")].reason"}"#,
    printcolumn = r#"{"name":"Age","type":"date","jsonPath":".metadata.creationTimestamp"}"#
)]
#[serde(rename_all = "camelCase")]
pub struct ConnectorClassSpec {
    /// What a connector's address must be.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any")]
    pub address: Option<Value>,
    /// Which further addresses a connector has.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_list")]
    pub address_extensions: Vec<Value>,
    /// The API behind the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any")]
    pub api: Option<Value>,
    /// The ways a connector may authenticate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub auth: Option<ClassAuth>,
    /// How a credential is checked.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_list")]
    pub auth_probes: Vec<Value>,
    /// The files that a volume may hold.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_list")]
    pub configurations: Vec<Value>,
    /// How a registry is found alive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any")]
    pub liveness_probe: Option<Value>,
    /// The parameters that a connector may set.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<ParameterRule>,
    /// The proxy that serves the class.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any")]
    pub proxy: Option<Value>,
}

/// The ways a connector of a class may authenticate.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct ClassAuth {
    /// One entry each.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub types: Vec<AuthType>,
}

/// One way to authenticate.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct AuthType {
    /// Its name, to which `spec.auth.name` of a connector refers.
    pub name: String,
    /// Its name for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub display_name: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// The type of the Secret it reads.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_type: Option<String>,
    /// Whether a connector may do without a Secret.
    #[serde(default)]
    pub optional: bool,
    /// The keys it reads from the Secret.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub params: Vec<ParameterRule>,
    /// How a credential is put into a request.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any")]
    pub generator: Option<Value>,
    /// Facts for other programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
}

/// A parameter that a class declares.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct ParameterRule {
    /// Its name.
    pub name: String,
    /// Its type; only `string` is known.
    #[serde(default, rename = "type", skip_serializing_if = "Option::is_none")]
    pub kind: Option<String>,
    /// What it is.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub description: Option<String>,
    /// Its value where a connector sets none.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any")]
    pub default: Option<Value>,
    /// The values it may have.
    #[serde(default, rename = "enum", skip_serializing_if = "Vec::is_empty")]
    #[schemars(schema_with = "any_list")]
    pub one_of: Vec<Value>,
    /// Facts for other programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// Rules for values that are objects.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    #[schemars(schema_with = "any")]
    pub properties: Option<Value>,
}

/// What the controller reports about a ConnectorClass.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
#[serde(rename_all = "camelCase")]
pub struct ConnectorClassStatus {
    /// Facts for other programs.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// The generation that the conditions speak of.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub observed_generation: Option<i64>,
    /// The API behind the class, resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub api: Option<ApiAddress>,
    /// The proxy that serves the class, resolved.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<ProxyAddress>,
    /// The conditions, `Ready` among them.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    #[schemars(extend("x-kubernetes-list-type" = "map", "x-kubernetes-list-map-keys" = ["type"]))]
    pub conditions: Vec<Condition>,
}

/// Where the API behind a class is.
#[derive(Clone, Debug, Default, Deserialize, Serialize, JsonSchema)]
pub struct ApiAddress {
    /// The address.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub address: Option<Endpoint>,
}

/// The schema of a value that is kept as it was written.
fn any(_: &mut SchemaGenerator) -> Schema {
    json_schema!({ "x-kubernetes-preserve-unknown-fields": true })
}

/// The schema of a list of such values.
fn any_list(_: &mut SchemaGenerator) -> Schema {
    json_schema!({
        "type": "array",
        "items": { "x-kubernetes-preserve-unknown-fields": true }
    })
}

#[cfg(test)]
mod tests;
