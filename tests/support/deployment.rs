//! What `deploy/` gives to a cluster: each overlay, rendered by kubectl.
//!
//! The name of an overlay in, its objects out, with the few questions that stories ask about them.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde_json::Value;
use tempfile::TempDir;

use super::cluster::documents;

/// What the stories about manifests need to be installed.
pub(crate) const NEEDED: [&str; 2] = ["kubectl", "kubernetes-validate"];

/// Everything that `kubectl apply -k` is given in the documentation.
pub(crate) const OVERLAYS: [&str; 5] = ["crds", "base", "gateway", "io-uring", "demo"];

/// The overlays that are whole installations.
pub(crate) const INSTALLATIONS: [&str; 3] = ["base", "gateway", "io-uring"];

/// The objects of one overlay.
pub(crate) struct Deployment {
    text: String,
    /// Every object.
    pub(crate) objects: Vec<Value>,
}

impl Deployment {
    /// What `kubectl kustomize deploy/<overlay>` renders.
    #[track_caller]
    pub(crate) fn render(overlay: &str) -> Self {
        Self::render_folder(&folder().join(overlay))
    }

    /// What `kubectl kustomize` renders of any folder.
    #[track_caller]
    pub(crate) fn render_folder(folder: &Path) -> Self {
        let overlay = folder.display();
        let output = Command::new("kubectl")
            .arg("kustomize")
            .arg(folder)
            .stdin(Stdio::null())
            .output()
            .expect("kubectl starts");
        let said = String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.is_empty(), "{overlay}: {said}");
        let text = String::from_utf8(output.stdout).expect("YAML is UTF-8");
        let objects = documents(&text);
        assert!(!objects.is_empty(), "{overlay} is empty");
        Self { text, objects }
    }

    /// The objects of a kind.
    pub(crate) fn of_kind<'a>(&'a self, kind: &'a str) -> impl Iterator<Item = &'a Value> {
        self.objects.iter().filter(move |object| object["kind"] == kind)
    }

    /// The one object of a kind and a name.
    #[track_caller]
    pub(crate) fn one<'a>(&'a self, kind: &'a str, name: &str) -> &'a Value {
        let mut found = self.of_kind(kind).filter(|object| object["metadata"]["name"] == name);
        let object = found.next().unwrap_or_else(|| panic!("no {kind} {name}"));
        assert!(found.next().is_none(), "{kind} {name} is there twice");
        object
    }

    /// Everything that makes Pods.
    pub(crate) fn workloads(&self) -> impl Iterator<Item = &Value> {
        self.objects.iter().filter(|object| object["spec"]["template"]["spec"].is_object())
    }

    /// The rights that a service account is granted, each as `verb group/resource`; which names or
    /// namespaces they are for is left out.
    pub(crate) fn rights(&self, account: &str) -> BTreeSet<String> {
        let speaks_of = |binding: &&Value| {
            let mut subjects = binding["subjects"].as_array().into_iter().flatten();
            subjects
                .any(|subject| subject["kind"] == "ServiceAccount" && subject["name"] == account)
        };
        let bindings = self.of_kind("ClusterRoleBinding").chain(self.of_kind("RoleBinding"));
        let mut found = BTreeSet::new();
        for binding in bindings.filter(speaks_of) {
            let text = |field: &str| binding["roleRef"][field].as_str().expect("a role");
            let (kind, name) = (text("kind").to_owned(), text("name"));
            for rule in self.one(&kind, name)["rules"].as_array().expect("rules") {
                let list = |field: &str| rule[field].as_array().into_iter().flatten();
                for (group, resource) in
                    list("apiGroups").flat_map(|group| list("resources").map(move |r| (group, r)))
                {
                    let [group, resource] =
                        [group, resource].map(|text| text.as_str().expect("text"));
                    found.extend(list("verbs").map(|verb| {
                        format!("{} {group}/{resource}", verb.as_str().expect("a verb"))
                    }));
                }
            }
        }
        found
    }

    /// What the schemas of a version of Kubernetes say against it, a line each. `strict` refuses
    /// fields that the version does not know. Kinds of our own have no schema there.
    pub(crate) fn complaints(&self, version: &str, strict: bool) -> String {
        let scratch = TempDir::new().expect("a temporary folder");
        let file = scratch.path().join("rendered.yaml");
        fs::write(&file, &self.text).expect("a file");
        let mut validate = Command::new("kubernetes-validate");
        validate
            .args(["--quiet", "--kubernetes-version", version])
            .args(strict.then_some("--strict"));
        let output = validate.arg(&file).stdin(Stdio::null()).output().expect("it starts");
        let text = [output.stdout, output.stderr].concat();
        let text = String::from_utf8_lossy(&text);
        let ours = |line: &&str| !line.contains("api version connectors.alauda.io/");
        let lines: Vec<&str> = text.lines().filter(ours).collect();
        assert!(output.status.success() || !lines.is_empty(), "it failed, and does not say why");
        lines.join("\n")
    }
}

/// The containers of a workload's Pods, those that go first included.
pub(crate) fn containers(workload: &Value) -> impl Iterator<Item = &Value> {
    let pod = &workload["spec"]["template"]["spec"];
    ["initContainers", "containers"]
        .into_iter()
        .flat_map(move |list| pod[list].as_array().into_iter().flatten())
}

/// The values of a container's environment.
pub(crate) fn variables(container: &Value) -> impl Iterator<Item = (&str, &Value)> {
    let entries = container["env"].as_array().into_iter().flatten();
    entries.map(|entry| (entry["name"].as_str().expect("a name"), &entry["value"]))
}

/// The folder `deploy`.
pub(crate) fn folder() -> PathBuf {
    PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy"))
}
