//! The folder of manifests that a story's proxy runs on.
//!
//! File names and their YAML in, a set to write or edit out. The password and the tokens are marked
//! constants: [`super::leak`] looks for them wherever they must not be.

use std::collections::BTreeMap;

/// The registry account of every connector in the stories.
pub(crate) const USER: &str = "robot$ci";

/// Its password. Marked, and written differently in Base64 and in a URL than in plain text.
pub(crate) const PASSWORD: &str = "canary-K7x/pw+Q9=zz?%3;b";

/// The password after a rotation; marked as well.
pub(crate) const NEXT_PASSWORD: &str = "canary-rotated-M2w/pw+T4=yy?%7;c";

/// The token of the ServiceAccount `ci/builder`, which may use what [`Manifests::allow`] says.
pub(crate) const TOKEN: &str =
    "eyJhbGciOiJSUzI1NiIsImtpZCI6InQifQ.Y2FuYXJ5LXBvZC10b2tlbi1idWlsZGVy.Y2FuYXJ5LXNpZ25hdHVyZQ";

/// The token of the ServiceAccount `ops/stranger`, which is good but has no right.
pub(crate) const STRANGER_TOKEN: &str =
    "eyJhbGciOiJSUzI1NiIsImtpZCI6InQifQ.Y2FuYXJ5LXBvZC10b2tlbi1zdHJhbmdlcg.Y2FuYXJ5LXN0cmFuZ2U";

/// A set of files, by name.
#[derive(Clone, Default)]
pub(crate) struct Manifests(BTreeMap<String, String>);

impl Manifests {
    /// The connector `ci/harbor` at `address`, its Secret, `ci/builder` who may use every
    /// connector of `ci`, and `ops/stranger` who may use none.
    pub(crate) fn for_registry(address: &str) -> Self {
        Self::default()
            .with("connector.yaml", &connector("ci", "harbor", address, ""))
            .with("secret.yaml", &secret("ci", "harbor", PASSWORD))
            .with("callers.yaml", &callers())
            .with("rights.yaml", &right("ci"))
    }

    /// The same set with one more file, or another text in it.
    pub(crate) fn with(mut self, file: &str, text: &str) -> Self {
        self.0.insert(file.to_owned(), text.to_owned());
        self
    }

    /// The same set with one more usable connector, with the same account.
    pub(crate) fn with_connector(self, namespace: &str, name: &str, address: &str) -> Self {
        let text = format!(
            "{}---\n{}",
            connector(namespace, name, address, ""),
            secret(namespace, name, PASSWORD)
        );
        let set = self.with(&format!("{namespace}-{name}.yaml"), &text);
        if namespace == "ci" {
            return set;
        }
        set.with(&format!("{namespace}-rights.yaml"), &right(namespace))
    }

    /// The same set with one file less.
    pub(crate) fn without(mut self, file: &str) -> Self {
        self.0.remove(file);
        self
    }

    /// Name and text of each file.
    pub(crate) fn files(&self) -> impl Iterator<Item = (&str, &str)> {
        self.0.iter().map(|(name, text)| (name.as_str(), text.as_str()))
    }
}

/// A Connector whose Secret has its name. `more` is YAML that goes into `spec`, in flow style lines
/// indented by two.
pub(crate) fn connector(namespace: &str, name: &str, address: &str, more: &str) -> String {
    format!(
        "apiVersion: connectors.alauda.io/v1alpha1\n\
         kind: Connector\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec:\n  \
           connectorClassName: harbor\n  \
           address: {address}\n  \
           auth: {{name: basicAuth, secretRef: {{name: {name}}}}}\n{more}"
    )
}

/// A Connector without `spec.auth`.
pub(crate) fn anonymous_connector(namespace: &str, name: &str, address: &str) -> String {
    format!(
        "apiVersion: connectors.alauda.io/v1alpha1\n\
         kind: Connector\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         spec: {{connectorClassName: harbor, address: \"{address}\"}}\n"
    )
}

/// The Secret of a connector, for [`USER`].
pub(crate) fn secret(namespace: &str, name: &str, password: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Secret\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         type: kubernetes.io/basic-auth\n\
         stringData: {{username: {}, password: {}}}\n",
        quoted(USER),
        quoted(password)
    )
}

/// The same Secret as `kubectl get -o yaml` writes it: under `data`, in Base64.
pub(crate) fn encoded_secret(namespace: &str, name: &str, password: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Secret\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         type: kubernetes.io/basic-auth\n\
         data: {{username: {}, password: {}}}\n",
        super::base64(USER),
        super::base64(password)
    )
}

/// A Secret that holds a CA certificate.
pub(crate) fn ca_secret(namespace: &str, name: &str, pem: &str) -> String {
    format!(
        "apiVersion: v1\n\
         kind: Secret\n\
         metadata: {{name: {name}, namespace: {namespace}}}\n\
         type: Opaque\n\
         stringData: {{ca.crt: {}}}\n",
        quoted(pem)
    )
}

/// The tokens of `ci/builder` and `ops/stranger`.
pub(crate) fn callers() -> String {
    let one = |namespace: &str, account: &str, token: &str| {
        format!(
            "apiVersion: v1\n\
             kind: Secret\n\
             metadata:\n  \
               name: {account}-token\n  \
               namespace: {namespace}\n  \
               annotations: {{kubernetes.io/service-account.name: {account}}}\n\
             type: kubernetes.io/service-account-token\n\
             stringData: {{token: {}}}\n",
            quoted(token)
        )
    };
    format!("{}---\n{}", one("ci", "builder", TOKEN), one("ops", "stranger", STRANGER_TOKEN))
}

/// `ci/builder` may use the connectors of `namespace`.
pub(crate) fn right(namespace: &str) -> String {
    format!(
        "apiVersion: rbac.authorization.k8s.io/v1\n\
         kind: Role\n\
         metadata: {{name: use-connectors, namespace: {namespace}}}\n\
         rules:\n\
         - {{apiGroups: [connectors.alauda.io], resources: [connectors], verbs: [get]}}\n\
         ---\n\
         apiVersion: rbac.authorization.k8s.io/v1\n\
         kind: RoleBinding\n\
         metadata: {{name: use-connectors, namespace: {namespace}}}\n\
         roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: Role, name: use-connectors}}\n\
         subjects:\n\
         - {{kind: ServiceAccount, name: builder, namespace: ci}}\n"
    )
}

/// A JSON string, which is a YAML string too.
fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
