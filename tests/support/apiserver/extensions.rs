//! Kubernetes' own server of custom resources, behind the stand-in.
//!
//! `HARBOR_CONNECTOR_TEST_APIEXTENSIONS` names the program (k8s.io/apiextensions-apiserver, see
//! `tests/apiextensions`). The stand-in then keeps definitions and custom resources there, over an
//! etcd of the story's own: structural schemas, CEL, server-side apply, the status subresource and
//! watches are the real ones. Who asks, and whether they may, stays with the stand-in, as it does
//! with kube-aggregator.

use std::ffi::OsString;
use std::fs::{self, File};
use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Stdio};
use std::sync::Mutex;
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::Request;
use hyper::body::Bytes;
use hyper::header::{ACCEPT, CONTENT_TYPE, USER_AGENT};
use kube::client::Body;
use kube::config::{KubeConfigOptions, Kubeconfig};
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair};
use serde_json::{Value, json};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tokio::time::sleep;

use super::super::base64;
use super::rest::Asked;

/// The server and its etcd.
pub(super) struct Extensions {
    client: kube::Client,
    processes: Mutex<Vec<Child>>,
    folder: TempDir,
}

impl Extensions {
    /// The running server; nothing where none is named.
    pub(super) async fn start() -> Option<Self> {
        let program = std::env::var_os(PROGRAM)?;
        let folder = TempDir::new().expect("a temporary folder");
        let at = folder.path();
        let (store, peers, port) = (free_port(), free_port(), free_port());
        let store = format!("http://127.0.0.1:{store}");
        let mut etcd = Command::new("etcd");
        etcd.arg("--data-dir").arg(at.join("data"));
        for flag in ["--listen-client-urls", "--advertise-client-urls"] {
            etcd.args([flag, &store]);
        }
        etcd.arg(format!("--listen-peer-urls=http://127.0.0.1:{peers}"));
        let administrator = administrator(at);
        let processes = vec![run(etcd, at), run(server(&program, at, &store, port), at)];
        let kubeconfig = json!({
            "clusters": [{"name": "c", "cluster": {
                "server": format!("https://127.0.0.1:{port}"), "insecure-skip-tls-verify": true,
            }}],
            "users": [{"name": "u", "user": administrator}],
            "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
            "current-context": "x",
        });
        let kubeconfig: Kubeconfig = serde_json::from_value(kubeconfig).expect("a kubeconfig");
        let options = KubeConfigOptions::default();
        let config = kube::Config::from_custom_kubeconfig(kubeconfig, &options).await;
        let client = kube::Client::try_from(config.expect("a configuration")).expect("a client");
        let server = Self { client, processes: Mutex::new(processes), folder };
        server.wait().await;
        Some(server)
    }

    /// What it has there.
    pub(super) async fn get(&self, path: &str) -> Option<Value> {
        let request = Request::get(path).body(Body::empty()).expect("a request");
        let answer =
            self.client.send(request).await.ok().filter(|answer| answer.status() == 200)?;
        let body = answer.into_body().collect().await.ok()?.to_bytes();
        serde_json::from_slice(&body).ok()
    }

    async fn wait(&self) {
        for _ in 0..PATIENCE {
            let definitions = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions";
            if self.get(definitions).await.is_some() {
                return;
            }
            sleep(Duration::from_millis(100)).await;
        }
        let log = fs::read_to_string(self.folder.path().join("log")).unwrap_or_default();
        panic!("the server of custom resources does not answer: {log}");
    }

    /// The status and the body, piece by piece, until `cut` changes or nobody reads.
    pub(super) async fn answer(
        &self,
        asked: &Asked,
        target: &str,
        mut cut: watch::Receiver<u64>,
    ) -> (u16, mpsc::Receiver<Bytes>) {
        let mut request = Request::builder().method(asked.method.as_str()).uri(target);
        for (name, value) in [
            (CONTENT_TYPE, &asked.content_type),
            (ACCEPT, &asked.accept),
            (USER_AGENT, &asked.agent),
        ] {
            if !value.is_empty() {
                request = request.header(name, value);
            }
        }
        let request = request.body(Body::from(asked.body.clone())).expect("a request");
        let (sender, pieces) = mpsc::channel(64);
        let answer = match self.client.send(request).await {
            Ok(answer) => answer,
            Err(error) => {
                let _ = sender.try_send(error.to_string().into());
                return (502, pieces);
            }
        };
        let status = answer.status().as_u16();
        let mut body = answer.into_body();
        tokio::spawn(async move {
            loop {
                let frame = tokio::select! {
                    frame = body.frame() => frame,
                    _ = cut.changed() => return,
                    () = sender.closed() => return,
                };
                let Some(Ok(frame)) = frame else { return };
                if let Ok(piece) = frame.into_data()
                    && sender.send(piece).await.is_err()
                {
                    return;
                }
            }
        });
        (status, pieces)
    }
}

impl Extensions {
    /// Ends both programs: connections that still wait keep hold of what is shared.
    pub(super) fn stop(&self) {
        for mut process in self.processes.lock().expect("no panic").drain(..) {
            let _ = process.kill();
            let _ = process.wait();
        }
    }
}

/// The server's command line: it trusts the story's authority and asks nobody else; what it would
/// need a core API for is switched off.
fn server(program: &OsString, folder: &Path, store: &str, port: u16) -> Command {
    let nobody = folder.join("nobody");
    let kubeconfig = json!({
        "apiVersion": "v1", "kind": "Config", "current-context": "x",
        "clusters": [{"name": "c", "cluster": {"server": "http://127.0.0.1:9"}}],
        "users": [{"name": "u", "user": {}}],
        "contexts": [{"name": "x", "context": {"cluster": "c", "user": "u"}}],
    });
    fs::write(&nobody, kubeconfig.to_string()).expect("a kubeconfig");
    let mut server = Command::new(program);
    server.args(["--etcd-servers", store, "--bind-address", "127.0.0.1"]);
    server.arg(format!("--secure-port={port}"));
    server.arg("--cert-dir").arg(folder.join("certificates"));
    server.arg("--client-ca-file").arg(folder.join("ca.crt"));
    for flag in ["--kubeconfig", "--authentication-kubeconfig", "--authorization-kubeconfig"] {
        server.arg(flag).arg(&nobody);
    }
    server.args(["--authentication-skip-lookup", "--authentication-tolerate-lookup-failure"]);
    server.arg(
        "--disable-admission-plugins=NamespaceLifecycle,MutatingAdmissionWebhook,\
         ValidatingAdmissionWebhook,ValidatingAdmissionPolicy,MutatingAdmissionPolicy",
    );
    server
}

/// The authority in `ca.crt` of `folder`, and a user of a kubeconfig that it signed: a member of
/// `system:masters`, who is asked nothing (Kubernetes, "User-facing roles").
fn administrator(folder: &Path) -> Value {
    let mut authority = CertificateParams::new([]).expect("names");
    authority.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    let authority_key = KeyPair::generate().expect("a key");
    let root = authority.self_signed(&authority_key).expect("a certificate");
    fs::write(folder.join("ca.crt"), root.pem()).expect("a file");
    let mut member = CertificateParams::new([]).expect("names");
    member.distinguished_name.push(DnType::OrganizationName, "system:masters");
    member.distinguished_name.push(DnType::CommonName, "stand-in");
    member.extended_key_usages.push(rcgen::ExtendedKeyUsagePurpose::ClientAuth);
    let key = KeyPair::generate().expect("a key");
    let issuer = Issuer::from_params(&authority, &authority_key);
    let certificate = member.signed_by(&key, &issuer).expect("a certificate");
    json!({
        "client-certificate-data": base64(certificate.pem()),
        "client-key-data": base64(key.serialize_pem()),
    })
}

fn run(mut command: Command, folder: &Path) -> Child {
    let log = File::options().create(true).append(true).open(folder.join("log")).expect("a log");
    command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(log);
    command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))
}

/// A port that is free now. Neither program can say which one it chose for itself.
fn free_port() -> u16 {
    let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port");
    listener.local_addr().expect("an address").port()
}

/// Names the program.
pub(super) const PROGRAM: &str = "HARBOR_CONNECTOR_TEST_APIEXTENSIONS";

/// Tenths of a second until it must answer.
const PATIENCE: u32 = 600;
