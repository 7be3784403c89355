//! The resources that the stand-in stores, and nothing else: what it does not know it refuses.
//!
//! A path of the API in, which resource, namespace, name and subresource it means out
//! (Kubernetes API Concepts, "Resource URIs").

/// A kind of object as the API serves it.
#[derive(Debug)]
pub(crate) struct Resource {
    /// The API group; empty for the core group.
    pub(crate) group: &'static str,
    /// The one version served.
    pub(crate) version: &'static str,
    /// The name in paths.
    pub(crate) plural: &'static str,
    /// The kind.
    pub(crate) kind: &'static str,
    /// Whether its objects live in namespaces.
    pub(crate) namespaced: bool,
    /// Whether `status` is a subresource of its own.
    pub(crate) has_status: bool,
    /// The custom resource definition without which it is not served.
    pub(crate) definition: Option<&'static str>,
}

impl Resource {
    /// `apiVersion` of its objects.
    pub(crate) fn api_version(&self) -> String {
        match self.group {
            "" => self.version.to_owned(),
            group => format!("{group}/{}", self.version),
        }
    }

    /// Whether it is what apiextensions serves: custom resources and their definitions.
    pub(crate) fn is_extension(&self) -> bool {
        self.definition.is_some() || self.group == "apiextensions.k8s.io"
    }

    /// The name that messages use, such as `connectors.connectors.alauda.io`.
    pub(crate) fn qualified(&self) -> String {
        match self.group {
            "" => self.plural.to_owned(),
            group => format!("{}.{group}", self.plural),
        }
    }
}

/// What a path names.
#[derive(Debug)]
pub(crate) struct Place {
    pub(crate) resource: &'static Resource,
    /// Empty for all namespaces, or for a resource that has none.
    pub(crate) namespace: String,
    /// Empty for a collection.
    pub(crate) name: String,
    /// Empty, or such as `status`.
    pub(crate) subresource: String,
}

/// What the path names; nothing for one that the API does not have.
pub(crate) fn place(path: &str) -> Option<Place> {
    let mut parts = path.trim_start_matches('/').split('/');
    let group = match parts.next()? {
        "api" => "",
        "apis" => parts.next()?,
        _ => return None,
    };
    let version = parts.next()?;
    let mut rest: Vec<&str> = parts.collect();
    // `/api/v1/namespaces/x` is the Namespace itself, with more it is what lives in it.
    let mut namespace = "";
    if rest.len() > 2 && rest[0] == "namespaces" && find(group, version, rest[2]).is_some() {
        namespace = rest[1];
        rest.drain(..2);
    }
    let resource = find(group, version, rest.first()?)?;
    if !resource.namespaced && !namespace.is_empty() || rest.len() > 3 {
        return None;
    }
    let text = |index: usize| rest.get(index).copied().unwrap_or_default().to_owned();
    let namespace = namespace.to_owned();
    Some(Place { resource, namespace, name: text(1), subresource: text(2) })
}

/// The resource of a group, version and plural.
fn find(group: &str, version: &str, plural: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| {
        resource.group == group && resource.version == version && resource.plural == plural
    })
}

/// The resource of a kind.
pub(crate) fn of_kind(api_version: &str, kind: &str) -> Option<&'static Resource> {
    RESOURCES.iter().find(|resource| resource.kind == kind && resource.api_version() == api_version)
}

const OURS: &str = "connectors.alauda.io";
const RBAC: &str = "rbac.authorization.k8s.io";
const ADMISSION: &str = "admissionregistration.k8s.io";

#[rustfmt::skip]
pub(crate) static RESOURCES: [Resource; 17] = [
    core("namespaces", "Namespace", false),
    core("configmaps", "ConfigMap", true),
    core("secrets", "Secret", true),
    core("services", "Service", true),
    core("serviceaccounts", "ServiceAccount", true),
    core("pods", "Pod", true),
    Resource { group: "events.k8s.io", version: "v1", plural: "events", kind: "Event", namespaced: true, has_status: false, definition: None },
    Resource { group: "coordination.k8s.io", version: "v1", plural: "leases", kind: "Lease", namespaced: true, has_status: false, definition: None },
    Resource { group: "apiextensions.k8s.io", version: "v1", plural: "customresourcedefinitions", kind: "CustomResourceDefinition", namespaced: false, has_status: true, definition: None },
    Resource { group: OURS, version: "v1alpha1", plural: "connectors", kind: "Connector", namespaced: true, has_status: true, definition: Some("connectors.connectors.alauda.io") },
    Resource { group: OURS, version: "v1alpha1", plural: "connectorclasses", kind: "ConnectorClass", namespaced: false, has_status: true, definition: Some("connectorclasses.connectors.alauda.io") },
    policy("validatingadmissionpolicies", "ValidatingAdmissionPolicy"),
    policy("validatingadmissionpolicybindings", "ValidatingAdmissionPolicyBinding"),
    rbac("roles", "Role", true),
    rbac("rolebindings", "RoleBinding", true),
    rbac("clusterroles", "ClusterRole", false),
    rbac("clusterrolebindings", "ClusterRoleBinding", false),
];

const fn core(plural: &'static str, kind: &'static str, namespaced: bool) -> Resource {
    // Of the core kinds here only these have a status of their own.
    let has_status = !namespaced || matches!(kind.as_bytes(), b"Service" | b"Pod");
    let (group, version) = ("", "v1");
    Resource { group, version, plural, kind, namespaced, has_status, definition: None }
}

const fn rbac(plural: &'static str, kind: &'static str, namespaced: bool) -> Resource {
    let (group, version) = (RBAC, "v1");
    let has_status = false;
    Resource { group, version, plural, kind, namespaced, has_status, definition: None }
}

const fn policy(plural: &'static str, kind: &'static str) -> Resource {
    let (group, version, namespaced, definition) = (ADMISSION, "v1", false, None);
    // Only the policy has a status: the binding's name is the longer one.
    let has_status = kind.len() == "ValidatingAdmissionPolicy".len();
    Resource { group, version, plural, kind, namespaced, has_status, definition }
}
