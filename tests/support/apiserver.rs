//! A Kubernetes API server for the stories: small, over real HTTP and TLS, honest in what it does.
//!
//! It stores, lists, watches, applies, issues and reviews tokens, and evaluates RBAC for everyone
//! who asks; what it does not know it refuses. Its behaviour follows the API's conventions
//! (Kubernetes API Concepts; k8s.io/apimachinery errors), so that a story told to it can be told to
//! a real cluster. The switches at the end are what a real one does on bad days.

mod access;
mod apply;
mod definitions;
mod events;
mod extensions;
mod lists;
mod policies;
pub(crate) mod resources;
mod rest;
mod store;

use std::collections::{BTreeMap, BTreeSet};
use std::convert::Infallible;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll};
use std::time::Duration;

use http_body_util::BodyExt as _;
use hyper::body::{Body, Bytes, Frame, Incoming};
use hyper::header::{ACCEPT, AUTHORIZATION, CONTENT_TYPE, USER_AGENT};
use hyper::service::service_fn;
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{Instant, interval_at, sleep, sleep_until};
use tokio_rustls::TlsAcceptor;

use self::rest::{Asked, Reply, Watch};
use self::store::Store;

/// Everything that its connections share.
struct Shared {
    store: Mutex<Store>,
    writes: Mutex<()>,
    version: watch::Sender<u64>,
    cut: watch::Sender<u64>,
    signer: access::Signer,
    admin_token: String,
    counts: Mutex<BTreeMap<String, u64>>,
    delays: Mutex<Vec<(String, Duration)>>,
    extensions: Option<extensions::Extensions>,
    /// A watch that is too old is refused instead of begun.
    refuses_old: AtomicBool,
    /// Who made use of which right.
    used: Mutex<BTreeSet<(String, String)>>,
}

impl Shared {
    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whoever holds it is the only one who writes.
    fn writing(&self) -> MutexGuard<'_, ()> {
        self.writes.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Tells the watches that there is something new.
    fn changed(&self) {
        let version = self.store().version;
        self.version.send_replace(version);
    }
}

/// A running server.
pub(crate) struct ApiServer {
    runtime: Option<Runtime>,
    shared: Arc<Shared>,
    acceptor: TlsAcceptor,
    serving: Option<JoinHandle<()>>,
    /// Where it listens.
    pub(crate) address: SocketAddr,
    /// The certificate to trust, in PEM.
    pub(crate) certificate: String,
}

impl ApiServer {
    /// A server that holds the namespaces every cluster has, and nothing else.
    pub(crate) fn start() -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .thread_name("apiserver")
            .enable_all()
            .build()
            .expect("a runtime");
        let certified =
            rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let shared = Arc::new(Shared {
            store: Mutex::default(),
            writes: Mutex::default(),
            version: watch::Sender::default(),
            cut: watch::Sender::default(),
            signer: access::Signer::new(),
            admin_token: "story-admin".to_owned(),
            counts: Mutex::default(),
            delays: Mutex::default(),
            extensions: runtime.block_on(extensions::Extensions::start()),
            refuses_old: AtomicBool::default(),
            used: Mutex::default(),
        });
        for name in ["default", "kube-system", "kube-public"] {
            let key = ("namespaces".to_owned(), String::new(), name.to_owned());
            let object = json!({
                "apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name},
            });
            let resource = resources::of_kind("v1", "Namespace").expect("a resource");
            shared.store().create(resource, key, object);
        }
        let mut server = Self {
            runtime: Some(runtime),
            shared,
            acceptor: acceptor(&certified),
            serving: None,
            address: ([127, 0, 0, 1], 0).into(),
            certificate: certified.cert.pem(),
        };
        server.resume();
        server
    }

    /// The token of the cluster's administrator.
    pub(crate) fn admin_token(&self) -> &str {
        &self.shared.admin_token
    }

    /// A token for the proxy that ends sooner than a TokenRequest may ask for.
    pub(crate) fn brief_token(&self, namespace: &str, account: &str, seconds: u64) -> String {
        let store = self.shared.store();
        let key = ("serviceaccounts".to_owned(), namespace.to_owned(), account.to_owned());
        let account = store.get(&key).expect("a service account");
        self.shared.signer.issue(account, None, &["connectors-proxy".to_owned()], seconds)
    }

    /// Listens again, on the same port as before.
    pub(crate) fn resume(&mut self) {
        let listener = std::net::TcpListener::bind(self.address).expect("the port is free");
        listener.set_nonblocking(true).expect("a listener");
        self.address = listener.local_addr().expect("an address");
        let (shared, acceptor) = (Arc::clone(&self.shared), self.acceptor.clone());
        let runtime = self.runtime.as_ref().expect("it runs");
        self.serving = Some(runtime.spawn(serve(listener, acceptor, shared)));
    }

    /// Goes away: connections are cut, new ones refused. What it stores stays.
    pub(crate) fn stop(&mut self) {
        if let Some(serving) = self.serving.take() {
            serving.abort();
            let runtime = self.runtime.as_ref().expect("it runs");
            let _ = runtime.block_on(serving);
        }
    }

    /// Answers requests whose verb and path begin with `what` only after `delay`.
    pub(crate) fn delay(&self, what: &str, delay: Duration) {
        let mut delays = self.shared.delays.lock().expect("no panic");
        delays.retain(|(known, _)| known != what);
        delays.push((what.to_owned(), delay));
    }

    /// Cuts all watches.
    pub(crate) fn cut_watches(&self) {
        self.shared.cut.send_modify(|cut| *cut += 1);
    }

    /// Cuts all watches, and answers 410 to everyone who wants to go on where they were cut.
    pub(crate) fn expire_watches(&self) {
        self.shared.store().compact();
        self.cut_watches();
    }

    /// From now on a watch that is too old is answered 410 itself: a real server begins it in most
    /// cases, and its first line is the 410.
    pub(crate) fn refuse_old_watches(&self) {
        self.shared.refuses_old.store(true, Ordering::Relaxed);
    }

    /// The rights that a user has made use of, each as `verb group/resource` with the subresource.
    pub(crate) fn rights_used(&self, user: &str) -> BTreeSet<String> {
        let used = self.shared.used.lock().expect("no panic");
        used.iter().filter(|(who, _)| who == user).map(|(_, right)| right.clone()).collect()
    }

    /// How many requests there were whose verb and path, such as `POST /apis/…`, begin with `what`.
    pub(crate) fn count(&self, what: &str) -> u64 {
        let counts = self.shared.counts.lock().expect("no panic");
        counts.iter().filter(|(known, _)| known.starts_with(what)).map(|(_, count)| count).sum()
    }
}

impl Drop for ApiServer {
    fn drop(&mut self) {
        if let Some(extensions) = &self.shared.extensions {
            extensions.stop();
        }
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

fn acceptor(certified: &rcgen::CertifiedKey<rcgen::KeyPair>) -> TlsAcceptor {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let key = rustls_pki_types::PrivateKeyDer::try_from(certified.signing_key.serialize_der())
        .expect("a key");
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![certified.cert.der().clone()], key)
        .expect("a certificate");
    TlsAcceptor::from(Arc::new(config))
}

/// Accepts until it is aborted; its connections end with it.
async fn serve(listener: std::net::TcpListener, acceptor: TlsAcceptor, shared: Arc<Shared>) {
    let listener = TcpListener::from_std(listener).expect("a listener");
    let mut connections = JoinSet::new();
    loop {
        while connections.try_join_next().is_some() {}
        let Ok((socket, _)) = listener.accept().await else {
            continue;
        };
        let (acceptor, shared) = (acceptor.clone(), Arc::clone(&shared));
        connections.spawn(async move {
            // Whoever speaks no TLS, or goes away, has nothing to be told.
            if let Ok(stream) = acceptor.accept(socket).await {
                let _ = connection(stream, shared).await;
            }
        });
    }
}

async fn connection(
    stream: impl AsyncRead + AsyncWrite + Unpin,
    shared: Arc<Shared>,
) -> hyper::Result<()> {
    let answer = service_fn(|request| {
        let shared = Arc::clone(&shared);
        async move { Ok::<_, Infallible>(exchange(&shared, request).await) }
    });
    hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(stream), answer).await
}

async fn exchange(shared: &Arc<Shared>, request: Request<Incoming>) -> Response<Lines> {
    let (parts, body) = request.into_parts();
    let what = format!("{} {}", parts.method, parts.uri.path());
    *shared.counts.lock().expect("no panic").entry(what.clone()).or_default() += 1;
    let delay = shared
        .delays
        .lock()
        .expect("no panic")
        .iter()
        .find_map(|(known, delay)| what.starts_with(known.as_str()).then_some(*delay));
    if let Some(delay) = delay {
        sleep(delay).await;
    }
    let body = body.collect().await.map(|body| body.to_bytes().to_vec()).unwrap_or_default();
    let field = |name| {
        parts.headers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned()
    };
    let mut asked = Asked {
        method: parts.method.to_string(),
        path: parts.uri.path().to_owned(),
        query: query(parts.uri.query().unwrap_or_default()),
        token: field(AUTHORIZATION).strip_prefix("Bearer ").map(str::to_owned),
        content_type: field(CONTENT_TYPE),
        accept: field(ACCEPT),
        agent: field(USER_AGENT),
        body,
        old: None,
    };
    if let Some(server) = &shared.extensions
        && ["PATCH", "PUT"].contains(&asked.method.as_str())
    {
        asked.old = server.get(&asked.path).await;
    }
    match rest::answer(shared, &asked) {
        Reply::Json(code, value) => json_response(code, &value),
        Reply::Extension(refusal) => {
            let server = shared.extensions.as_ref().expect("only where there is one");
            if let Some((code, value)) = refusal
                && asked.old.is_none()
            {
                return json_response(code, &value);
            }
            let target = parts.uri.path_and_query().map_or("/", |target| target.as_str());
            let (code, pieces) = server.answer(&asked, target, shared.cut.subscribe()).await;
            response(code, pieces)
        }
        Reply::Watch(watch) => {
            let (sender, lines) = mpsc::channel(64);
            // The receiver's end, when the connection is gone, ends the task.
            tokio::spawn(follow(Arc::clone(shared), watch, sender));
            response(200, lines)
        }
    }
}

fn json_response(code: u16, value: &Value) -> Response<Lines> {
    let (sender, lines) = mpsc::channel(1);
    let _ = sender.try_send(Bytes::from(value.to_string()));
    response(code, lines)
}

fn response(code: u16, lines: mpsc::Receiver<Bytes>) -> Response<Lines> {
    Response::builder()
        .status(code)
        .header(CONTENT_TYPE, "application/json")
        .body(Lines(lines))
        .expect("a response")
}

/// A body that is written as it comes.
struct Lines(mpsc::Receiver<Bytes>);

impl Body for Lines {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|line| line.map(|line| Ok(Frame::data(line))))
    }
}

/// Serves a watch until its time is over, it is cut, or nobody reads.
async fn follow(shared: Arc<Shared>, watch: Watch, sender: mpsc::Sender<Bytes>) {
    let resource = watch.place.resource.qualified();
    let mut version = shared.version.subscribe();
    let mut cut = shared.cut.subscribe();
    let mut after = watch.after;
    if watch.initial {
        let lines: Vec<Bytes> = shared
            .store()
            .list(&resource, &watch.place.namespace)
            .filter(|(_, object)| watch.selector.takes(object))
            .map(|(_, object)| event("ADDED", &rest::shown(object, watch.metadata_only)))
            .collect();
        for line in lines {
            if sender.send(line).await.is_err() {
                return;
            }
        }
    }
    let end = sleep_until(Instant::now() + Duration::from_secs(watch.seconds));
    let mut bookmarks = interval_at(Instant::now() + BOOKMARKS, BOOKMARKS);
    tokio::pin!(end);
    loop {
        let expired = || shared.store().since(after).is_none();
        let (last, lines) = (expired(), news(&shared, &watch, &resource, &mut after));
        for line in lines {
            if sender.send(line).await.is_err() {
                return;
            }
        }
        if last {
            return;
        }
        tokio::select! {
            changed = version.changed() => if changed.is_err() { return },
            () = &mut end => return,
            _ = cut.changed() => return,
            () = sender.closed() => return,
            _ = bookmarks.tick(), if watch.bookmarks => {
                let object = json!({
                    "kind": watch.place.resource.kind,
                    "apiVersion": watch.place.resource.api_version(),
                    "metadata": {"resourceVersion": after.to_string(), "creationTimestamp": null},
                });
                if sender.send(event("BOOKMARK", &object)).await.is_err() {
                    return;
                }
            }
        }
    }
}

/// The events since `after`, which moves on; a 410 if they are forgotten.
fn news(shared: &Shared, watch: &Watch, resource: &str, after: &mut u64) -> Vec<Bytes> {
    let store = shared.store();
    let Some(changes) = store.since(*after) else {
        let message = format!("too old resource version: {after} ({})", store.compacted);
        return vec![event("ERROR", &rest::status(410, "Expired", &message))];
    };
    let namespace = &watch.place.namespace;
    let lines = changes
        .iter()
        .filter(|change| change.key.0 == resource)
        .filter(|change| namespace.is_empty() || change.key.1 == *namespace)
        .filter(|change| watch.selector.takes(&change.object))
        .map(|change| event(change.kind, &rest::shown(&change.object, watch.metadata_only)))
        .collect();
    *after = store.version;
    lines
}

/// One line of a watch.
fn event(kind: &str, object: &Value) -> Bytes {
    format!("{}\n", json!({"type": kind, "object": object})).into()
}

/// A query's parameters, percent-decoded.
fn query(text: &str) -> BTreeMap<String, String> {
    text.split('&')
        .filter_map(|pair| pair.split_once('='))
        .map(|(name, value)| (decoded(name), decoded(value)))
        .collect()
}

fn decoded(text: &str) -> String {
    let mut bytes = Vec::new();
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        bytes.push(match byte {
            b'+' => b' ',
            b'%' => {
                let digits: Vec<u8> = rest.by_ref().take(2).collect();
                let digits = std::str::from_utf8(&digits).unwrap_or_default();
                u8::from_str_radix(digits, 16).unwrap_or(b'%')
            }
            other => other,
        });
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// A real server sends one about every minute; a story has less time.
const BOOKMARKS: Duration = Duration::from_secs(1);
