//! A cluster to tell stories in: the stand-in, or a real one that `KUBECONFIG` names.
//!
//! YAML in, objects in the cluster, a kubeconfig for the program and tokens for callers out. It
//! talks to the API as any client does, so a story cannot tell the two apart; what only the
//! stand-in can do is behind [`Cluster::stand_in`]. What it made it removes.

use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use futures_util::StreamExt as _;
use http_body_util::BodyExt as _;
use hyper::Request;
use kube::client::Body;
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::runtime::Runtime;

use super::apiserver::{ApiServer, resources};
use super::manifests::PASSWORD;
use super::{base64, eventually, manifests};

/// Set to tell the stories to the cluster of `KUBECONFIG`.
const REAL: &str = "HARBOR_CONNECTOR_TEST_CLUSTER";

/// The namespace that the program is installed in.
pub(crate) const SYSTEM: &str = "harbor-connector-system";

/// The service account of the proxy there.
pub(crate) const PROXY: &str = "harbor-connector-proxy";

/// That of the controller.
pub(crate) const CONTROLLER: &str = "harbor-connector-controller";

/// A cluster with the definitions, the class, and what the proxy needs.
pub(crate) struct Cluster {
    stand_in: Option<ApiServer>,
    runtime: Runtime,
    client: kube::Client,
    scratch: TempDir,
    /// The namespace of the story.
    pub(crate) namespace: String,
    /// The file that leads the proxy here, as its own service account.
    pub(crate) kubeconfig: PathBuf,
    /// The `cluster` of a kubeconfig that leads here.
    way: Value,
}

impl Cluster {
    /// A cluster, and a namespace in it with the service accounts `builder`, who may get its
    /// connectors, and `stranger`, who may not.
    pub(crate) fn new() -> Self {
        static STORIES: AtomicU32 = AtomicU32::new(0);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("a runtime");
        let _ = rustls::crypto::ring::default_provider().install_default();
        let stand_in = std::env::var_os(REAL).is_none().then(ApiServer::start);
        let scratch = TempDir::new().expect("a temporary folder");
        let config = match &stand_in {
            Some(server) => {
                let file = kubeconfig(scratch.path(), "admin", server, server.admin_token());
                let config = kube::config::Kubeconfig::read_from(file).expect("a kubeconfig");
                runtime.block_on(kube::Config::from_custom_kubeconfig(config, &Default::default()))
            }
            None => runtime.block_on(kube::Config::from_kubeconfig(&Default::default())),
        };
        let config = config.expect("a configuration");
        let way = way(&config);
        let client = runtime.block_on(async { kube::Client::try_from(config) }).expect("a client");
        let number = STORIES.fetch_add(1, Ordering::Relaxed);
        // One of an earlier run may still be there: nobody need have finished its removal.
        let since = SystemTime::now().duration_since(UNIX_EPOCH).expect("after 1970").as_secs();
        let namespace = format!("hc-{:x}-{}-{number}", since, std::process::id());
        let kubeconfig = PathBuf::new();
        let mut cluster = Self { stand_in, runtime, client, scratch, namespace, kubeconfig, way };
        cluster.install();
        cluster.kubeconfig = cluster.kubeconfig_of(PROXY);
        cluster
    }

    /// The file that leads a program here as a service account of the system namespace: [`PROXY`],
    /// who also probes registries, or [`CONTROLLER`].
    pub(crate) fn kubeconfig_of(&self, account: &str) -> PathBuf {
        let file = self.scratch.path().join(account);
        let token = self.token_for(SYSTEM, account, &json!({"expirationSeconds": 3600}));
        write_kubeconfig(&file, &self.way, &token);
        file
    }

    /// The stand-in, when this is it.
    pub(crate) fn stand_in(&mut self) -> Option<&mut ApiServer> {
        self.stand_in.as_mut()
    }

    /// Whether this is a real cluster.
    pub(crate) fn is_real(&self) -> bool {
        self.stand_in.is_none()
    }

    /// What every cluster with this program has: definitions, class, rights; and the story's own.
    fn install(&self) {
        let (_, definitions, _) = super::proxy::run(&["crds"]);
        self.apply(&definitions);
        for kind in ["connectors", "connectorclasses"] {
            // A definition is served a moment after it was accepted.
            let path = format!("/apis/connectors.alauda.io/v1alpha1/{kind}");
            eventually("the definition", || (self.ask("GET", &path, None).0 == 200).then_some(()));
        }
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base");
        for file in [
            "namespaces.yaml",
            "class.yaml",
            "admission.yaml",
            "ca.yaml",
            "proxy-rbac.yaml",
            "controller-rbac.yaml",
        ] {
            self.apply(&fs::read_to_string(deploy.join(file)).expect("a manifest"));
        }
        let own = &self.namespace;
        self.apply(&namespace(own));
        for account in ["builder", "stranger"] {
            self.apply(&format!(
                "{{apiVersion: v1, kind: ServiceAccount, metadata: {{name: {account}, namespace: {own}}}}}"
            ));
        }
        self.allow();
    }

    /// Installs a CA of the story's own, so that stories do not share one; the flags that lead to
    /// it.
    pub(crate) fn own_ca(&self) -> [&str; 2] {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base");
        for file in ["ca.yaml", "proxy-rbac.yaml", "csi-rbac.yaml"] {
            let text = fs::read_to_string(deploy.join(file)).expect("a manifest");
            for mut object in documents(&text) {
                let kind = object["kind"].as_str().unwrap_or_default();
                if ["Secret", "ConfigMap", "Role", "RoleBinding"].contains(&kind) {
                    object["metadata"]["namespace"] = self.namespace.as_str().into();
                    let (status, answer) = self.try_apply(&object);
                    assert!((200..300).contains(&status), "{status} {answer} for {object}");
                }
            }
        }
        ["--namespace", &self.namespace]
    }

    /// The proxy's kubeconfig, with a token of the CSI driver's account and its rights instead.
    pub(crate) fn kubeconfig_of_driver(&self) -> String {
        let deploy = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/base/csi-rbac.yaml");
        self.apply(&fs::read_to_string(deploy).expect("a manifest"));
        let text = fs::read_to_string(&self.kubeconfig).expect("a file");
        let mut config: Value = serde_json::from_str(&text).expect("JSON");
        let spec = json!({"expirationSeconds": 3600});
        let token = self.token_for("harbor-connector-csi", "harbor-connector-csi", &spec);
        config["users"][0]["user"]["token"] = token.into();
        config.to_string()
    }

    /// Gives `builder` the right to get the connectors.
    pub(crate) fn allow(&self) {
        let own = &self.namespace;
        let text = manifests::right(own)
            .replace("name: builder, namespace: ci", &format!("name: builder, namespace: {own}"));
        self.apply(&text);
    }

    /// Takes that right away.
    pub(crate) fn forbid(&self) {
        self.delete("rbac.authorization.k8s.io/v1", "RoleBinding", "use-connectors");
    }

    /// The connector `name` at `address` with its Secret, for the marked account.
    pub(crate) fn connect(&self, name: &str, address: &str) {
        self.apply(&manifests::secret(&self.namespace, name, PASSWORD));
        self.apply(&manifests::connector(&self.namespace, name, address, ""));
    }

    /// Applies every document of `text`, as `kubectl apply --server-side` does.
    #[track_caller]
    pub(crate) fn apply(&self, text: &str) {
        for document in documents(text) {
            let (status, answer) = self.try_apply(&document);
            assert!((200..300).contains(&status), "{status} {answer} for {document}");
        }
    }

    /// Applies one object: the status and the answer.
    pub(crate) fn try_apply(&self, object: &Value) -> (u16, Value) {
        let path = format!("{}?fieldManager=stories&force=true", self.path(object));
        self.ask("PATCH", &path, Some(("application/apply-patch+yaml", object)))
    }

    /// Applies the documents of many texts, several at a time.
    pub(crate) fn apply_many(&self, texts: impl Iterator<Item = String>) {
        let objects: Vec<Value> = texts.flat_map(|text| documents(&text)).collect();
        self.runtime.block_on(async {
            let applied = objects.iter().map(|object| async move {
                let path = format!("{}?fieldManager=stories&force=true", self.path(object));
                let body = Body::from(object.to_string().into_bytes());
                let request = Request::patch(path)
                    .header("Content-Type", "application/apply-patch+yaml")
                    .body(body)
                    .expect("a request");
                let answer = self.client.send(request).await.expect("the API server answers");
                assert!(answer.status().is_success(), "{} for {object}", answer.status());
                answer.into_body().collect().await.expect("a body");
            });
            futures_util::stream::iter(applied).buffer_unordered(16).collect::<()>().await;
        });
    }

    /// Removes an object of the story's namespace, which must be there.
    #[track_caller]
    pub(crate) fn delete(&self, api_version: &str, kind: &str, name: &str) {
        let object = json!({
            "apiVersion": api_version, "kind": kind,
            "metadata": {"name": name, "namespace": self.namespace},
        });
        let (status, answer) = self.ask("DELETE", &self.path(&object), None);
        assert!((200..300).contains(&status), "{status} {answer}");
    }

    /// A token of a service account of the story, as a volume of a Pod holds it.
    pub(crate) fn token(&self, account: &str) -> String {
        let spec = json!({"audiences": ["connectors-proxy"], "expirationSeconds": 3600});
        self.token_for(&self.namespace, account, &spec)
    }

    /// A token with the `spec` of a TokenRequest.
    #[track_caller]
    pub(crate) fn token_for(&self, namespace: &str, account: &str, spec: &Value) -> String {
        let path = format!("/api/v1/namespaces/{namespace}/serviceaccounts/{account}/token");
        let request = json!({
            "apiVersion": "authentication.k8s.io/v1", "kind": "TokenRequest", "spec": spec,
        });
        let (status, answer) = self.ask("POST", &path, Some(("application/json", &request)));
        assert_eq!(status, 201, "{answer}");
        answer["status"]["token"].as_str().expect("a token").to_owned()
    }

    /// Removes an object as a garbage collector would, which neither the stand-in nor a bare API
    /// server has: unless it is gone, or another one by now.
    #[track_caller]
    pub(crate) fn collect(&self, object: &Value) {
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions",
            "preconditions": {"uid": object["metadata"]["uid"]},
        });
        let body = Some(("application/json", &options));
        let (status, answer) = self.ask("DELETE", &self.path(object), body);
        assert!(matches!(status, 200 | 404 | 409), "{status} {answer}");
    }

    /// One request as the administrator: the status and the body.
    pub(crate) fn ask(
        &self,
        method: &str,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> (u16, Value) {
        self.send(&self.client, method, path, body)
    }

    /// The same as a service account of the system namespace.
    pub(crate) fn ask_as(
        &self,
        account: &str,
        method: &str,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> (u16, Value) {
        let file = self.kubeconfig_of(account);
        let client = self.runtime.block_on(async {
            let config = kube::config::Kubeconfig::read_from(file).expect("a kubeconfig");
            let config = kube::Config::from_custom_kubeconfig(config, &Default::default()).await;
            kube::Client::try_from(config.expect("a configuration")).expect("a client")
        });
        self.send(&client, method, path, body)
    }

    fn send(
        &self,
        client: &kube::Client,
        method: &str,
        path: &str,
        body: Option<(&str, &Value)>,
    ) -> (u16, Value) {
        let request = || {
            let mut request = Request::builder().method(method).uri(path);
            let mut bytes = Vec::new();
            if let Some((kind, value)) = body {
                request = request.header("Content-Type", kind);
                bytes = value.to_string().into_bytes();
            }
            request.body(Body::from(bytes)).expect("a request")
        };
        self.runtime.block_on(async {
            let mut answer = client.send(request()).await;
            if answer.is_err() {
                // The connection was one to the server before it was stopped.
                answer = client.send(request()).await;
            }
            let answer = answer.expect("the API server answers");
            let status = answer.status().as_u16();
            let body = answer.into_body().collect().await.expect("a body").to_bytes();
            (status, serde_json::from_slice(&body).unwrap_or_default())
        })
    }

    /// Leaves a real cluster as it was. The connectors go first: a namespace is emptied later, and
    /// beside a bare API server by nobody, while the next story counts every connector there is.
    fn leave(&self) {
        let own = format!("/api/v1/namespaces/{}", self.namespace);
        let connectors =
            format!("/apis/connectors.alauda.io/v1alpha1/namespaces/{}/connectors", self.namespace);
        // Thousands may take longer than the server allows one request.
        let gone = (0..10).any(|_| self.ask("DELETE", &connectors, None).0 == 200);
        // Nor is the next one to wait for the end of a Lease whose holder was killed.
        let leases = format!("/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases");
        for lease in [CONTROLLER, "harbor-connector-prober"] {
            self.ask("DELETE", &format!("{leases}/{lease}"), None);
        }
        let (status, answer) = self.ask("DELETE", &own, None);
        if (!gone || status >= 300) && !std::thread::panicking() {
            panic!("the namespace stays: {status} {answer}");
        }
    }

    fn path(&self, object: &Value) -> String {
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let (version, kind) = (text(&object["apiVersion"]), text(&object["kind"]));
        let resource = resources::of_kind(&version, &kind).expect("a known kind");
        let group = if version.contains('/') { "apis" } else { "api" };
        let namespace = match (resource.namespaced, object["metadata"]["namespace"].as_str()) {
            (false, _) => String::new(),
            (true, namespace) => format!("/namespaces/{}", namespace.unwrap_or(&self.namespace)),
        };
        let name = text(&object["metadata"]["name"]);
        format!("/{group}/{version}{namespace}/{}/{name}", resource.plural)
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if self.is_real() {
            self.leave();
        }
        let _ = fs::remove_dir_all(self.scratch.path());
    }
}

/// The documents of a text, as JSON.
pub(crate) fn documents(text: &str) -> Vec<Value> {
    let mut reader = text.as_bytes();
    serde_saphyr::read::<_, Value>(&mut reader)
        .map(|document| document.expect("YAML"))
        .filter(|document| !document.is_null())
        .collect()
}

fn namespace(name: &str) -> String {
    format!("{{apiVersion: v1, kind: Namespace, metadata: {{name: {name}}}}}")
}

fn kubeconfig(folder: &Path, name: &str, server: &ApiServer, token: &str) -> PathBuf {
    let file = folder.join(name);
    let url = format!("https://{}", server.address);
    let authority = base64(&server.certificate);
    let way = json!({"server": url, "certificate-authority-data": authority});
    write_kubeconfig(&file, &way, token);
    file
}

/// The `cluster` of a kubeconfig that leads where `config` does.
fn way(config: &kube::Config) -> Value {
    let url = config.cluster_url.to_string();
    let mut way = json!({"server": url.trim_end_matches('/')});
    let pem = |der: &Vec<u8>| {
        let body = base64(der);
        format!("-----BEGIN CERTIFICATE-----\n{body}\n-----END CERTIFICATE-----\n")
    };
    if let Some(certificates) = &config.root_cert {
        let authority: String = certificates.iter().map(pem).collect();
        way["certificate-authority-data"] = base64(authority).into();
    }
    if config.accept_invalid_certs {
        way["insecure-skip-tls-verify"] = true.into();
    }
    if let Some(name) = &config.tls_server_name {
        way["tls-server-name"] = name.as_str().into();
    }
    way
}

fn write_kubeconfig(file: &Path, way: &Value, token: &str) {
    let config = json!({
        "apiVersion": "v1",
        "kind": "Config",
        "current-context": "story",
        "contexts": [{"name": "story", "context": {"cluster": "story", "user": "story"}}],
        "clusters": [{
            "name": "story",
            "cluster": way,
        }],
        "users": [{"name": "story", "user": {"token": token}}],
    });
    fs::write(file, config.to_string()).expect("a kubeconfig");
}
