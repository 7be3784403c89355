//! The sockets of the front and of the object storage: HTTP/1.1, with and without TLS.
//!
//! A listener and a function from request to answer in; each connection is a task. An `Err` in
//! place of an answer closes the connection without one.

use std::io::Read as _;
use std::net::{SocketAddr, TcpListener};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt as _, Full};
use hyper::body::{Body as HttpBody, Bytes, Frame, Incoming, SizeHint};
use hyper::header::{CONTENT_TYPE, HeaderName};
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use rustls_pki_types::pem::PemObject as _;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::runtime::Runtime;
use tokio_rustls::TlsAcceptor;

use crate::support::docker_registry::Certificates;

/// Why there is no answer, or not all of one.
pub(super) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// A body on its way out.
pub(super) type Body = UnsyncBoxBody<Bytes, Cause>;

/// An answer.
pub(super) type Answer = hyper::Response<Body>;

/// An answer instead of what was asked for; boxed, because it seldom is.
pub(super) type Refused = Box<Answer>;

/// A request, its body still to be read.
pub(super) type Request = hyper::Request<Incoming>;

/// A socket of our own at `address`, and where that is.
pub(super) fn bind(address: &str) -> (TcpListener, SocketAddr) {
    let listener = TcpListener::bind(address).expect("an address of our own");
    listener.set_nonblocking(true).expect("nonblocking");
    let address = listener.local_addr().expect("bound");
    (listener, address)
}

/// TLS with the leaf of `certificates`.
pub(super) fn tls(certificates: &Certificates) -> Arc<rustls::ServerConfig> {
    let leaf = CertificateDer::from_pem_slice(certificates.leaf.as_bytes()).expect("a certificate");
    let key = PrivateKeyDer::from_pem_slice(certificates.key.as_bytes()).expect("a key");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_single_cert(vec![leaf], key)
        .expect("a certificate and its key");
    Arc::new(config)
}

/// Answers what comes to `listener` until the runtime ends.
pub(super) fn serve<A, F>(
    runtime: &Runtime,
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    answer: A,
) where
    A: Fn(Request) -> F + Clone + Send + 'static,
    F: Future<Output = Result<Answer, Cause>> + Send + 'static,
{
    let guard = runtime.enter();
    let listener = tokio::net::TcpListener::from_std(listener).expect("a listener");
    drop(guard);
    let acceptor = tls.map(TlsAcceptor::from);
    runtime.spawn(async move {
        while let Ok((socket, _)) = listener.accept().await {
            let _ = socket.set_nodelay(true);
            let (acceptor, answer) = (acceptor.clone(), answer.clone());
            tokio::spawn(async move {
                match acceptor {
                    None => speak(socket, answer).await,
                    Some(acceptor) => {
                        if let Ok(socket) = acceptor.accept(socket).await {
                            speak(socket, answer).await;
                        }
                    }
                }
            });
        }
    });
}

async fn speak<S, A, F>(socket: S, answer: A)
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Fn(Request) -> F,
    F: Future<Output = Result<Answer, Cause>>,
{
    // Names are written as Go and nginx write them: a proxy must not rely on small letters.
    let mut connection = http1::Builder::new();
    connection.title_case_headers(true);
    let _ = connection.serve_connection(TokioIo::new(socket), service_fn(answer)).await;
}

/// An answer of a known body.
pub(super) fn reply(status: u16, kind: &str, body: impl Into<Bytes>) -> Answer {
    let body = Full::new(body.into()).map_err(|never| match never {}).boxed_unsync();
    let answer = hyper::Response::builder().status(status).header(CONTENT_TYPE, kind);
    answer.body(body).expect("a status and a media type")
}

/// An answer of JSON.
pub(super) fn json(status: u16, value: &serde_json::Value) -> Answer {
    reply(status, "application/json; charset=utf-8", format!("{value}\n"))
}

/// Sets a field of an answer.
pub(super) fn set(answer: &mut Answer, name: &'static str, value: &str) {
    let value = value.parse().expect("a field value");
    answer.headers_mut().insert(HeaderName::from_static(name), value);
}

/// The bytes of a file from where it stands, `left` of them, broken off after `cut`.
pub(super) struct Piece {
    file: std::fs::File,
    left: u64,
    cut: Option<u64>,
}

impl Piece {
    /// The next `left` bytes of `file`; the connection breaks after `cut` of them.
    pub(super) fn new(file: std::fs::File, left: u64, cut: Option<u64>) -> Self {
        Self { file, left, cut }
    }
}

impl HttpBody for Piece {
    type Data = Bytes;
    type Error = Cause;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        _: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Cause>>> {
        if self.left == 0 {
            return Poll::Ready(None);
        }
        let most = self.left.min(64 << 10).min(self.cut.unwrap_or(u64::MAX));
        if most == 0 {
            return Poll::Ready(Some(Err("the story cuts the connection here".into())));
        }
        let mut bytes = vec![0; usize::try_from(most).expect("a small number")];
        if let Err(cause) = self.file.read_exact(&mut bytes) {
            return Poll::Ready(Some(Err(cause.into())));
        }
        self.left -= most;
        self.cut = self.cut.map(|cut| cut - most);
        Poll::Ready(Some(Ok(Frame::data(bytes.into()))))
    }

    fn size_hint(&self) -> SizeHint {
        SizeHint::with_exact(self.left)
    }
}
