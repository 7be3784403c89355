//! Whether a driver is well: asked through its own socket, by the call that is made for it.
//!
//! An endpoint in, nothing or the reason out. A driver that hangs still accepts connections, so it
//! has to answer `Identity.Probe` (CSI specification 1.12, "Probe"). Nothing is changed or mounted.

use std::io;
use std::path::Path;
use std::time::Duration;

use http_body_util::{BodyExt as _, Full};
use hyper::body::Bytes;
use hyper::{Request, StatusCode, Uri};
use hyper_util::rt::{TokioExecutor, TokioIo};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// Why a driver does not count as well.
#[derive(Debug, thiserror::Error)]
pub enum Sick {
    /// Nobody listens.
    #[error("it cannot be reached: {0}")]
    Unreachable(#[from] io::Error),
    /// It speaks no gRPC.
    #[error("it does not answer as a driver does: {0}")]
    Foreign(#[from] hyper::Error),
    /// It said so itself.
    #[error("it answers with HTTP status {0} and gRPC status {1}")]
    Status(StatusCode, String),
    /// Nothing came.
    #[error("it does not answer within {} s", ANSWER_WAIT.as_secs())]
    Silent,
}

/// Asks the driver at `path`.
pub(super) async fn ask(path: &Path) -> Result<(), Sick> {
    timeout(ANSWER_WAIT, call(path)).await.unwrap_or(Err(Sick::Silent))
}

async fn call(path: &Path) -> Result<(), Sick> {
    let socket = TokioIo::new(UnixStream::connect(path).await?);
    let (mut calls, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), socket).await?;
    tokio::spawn(connection);
    let mut request = Request::new(Full::new(Bytes::from_static(NOTHING)));
    *request.method_mut() = hyper::Method::POST;
    *request.uri_mut() = Uri::from_static("http://localhost/csi.v1.Identity/Probe");
    for (name, value) in [("content-type", "application/grpc"), ("te", "trailers")] {
        request.headers_mut().insert(name, hyper::header::HeaderValue::from_static(value));
    }
    let (head, body) = calls.send_request(request).await?.into_parts();
    let collected = body.collect().await?;
    // A call that fails at once has its status in the head.
    let status = collected.trailers().and_then(|trailers| trailers.get(GRPC_STATUS));
    let status = status.or_else(|| head.headers.get(GRPC_STATUS));
    let status = status.and_then(|status| status.to_str().ok()).unwrap_or("none");
    match (head.status, status) {
        (StatusCode::OK, "0") => Ok(()),
        (http, grpc) => Err(Sick::Status(http, grpc.to_owned())),
    }
}

/// A message without fields, not compressed, of length 0.
const NOTHING: &[u8] = &[0; 5];

const GRPC_STATUS: &str = "grpc-status";

/// A kubelet waits for a probe as long as its manifest says, which is longer.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
