//! Being looked at: `/healthz`, `/readyz` and `/metrics` on an address of their own.
//!
//! [`Status`] and the data plane's counters in, short answers out. It runs on the control plane's
//! runtime, never on a core, and shows neither a connector's name nor anything of a Secret.

mod metrics;

use std::convert::Infallible;
use std::io;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;
use http_body_util::Full;
use hyper::body::{Bytes, Incoming};
use hyper::header::{ALLOW, CONTENT_TYPE, HeaderValue};
use hyper::service::service_fn;
use hyper::{Method, Request, Response, StatusCode};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;

pub(crate) use self::metrics::Page;
pub use self::metrics::{Exposed, Metrics};

/// How the control plane stands.
#[derive(Debug, Default)]
pub struct Status {
    draining: AtomicBool,
    broken: AtomicBool,
    connectors: AtomicU64,
    problems: AtomicU64,
    generation: AtomicU64,
    changed_at: AtomicU64,
}

impl Status {
    /// A snapshot was published.
    pub fn published(&self, connectors: usize, problems: usize) {
        let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        self.connectors.store(connectors as u64, Ordering::Relaxed);
        self.problems.store(problems as u64, Ordering::Relaxed);
        self.changed_at.store(now.as_secs(), Ordering::Relaxed);
        self.broken.store(false, Ordering::Relaxed);
        self.generation.fetch_add(1, Ordering::Release);
    }

    /// The source cannot be read; what was published before stays.
    pub fn broke(&self) {
        self.broken.store(true, Ordering::Relaxed);
    }

    /// What needs no snapshot is ready.
    pub fn begins(&self) {
        self.generation.fetch_max(1, Ordering::Release);
    }

    /// The process is about to end.
    pub fn drains(&self) {
        self.draining.store(true, Ordering::Release);
    }

    /// Whether callers should be sent here.
    fn ready(&self) -> bool {
        self.generation.load(Ordering::Acquire) > 0 && !self.draining.load(Ordering::Acquire)
    }
}

/// Answers on `listener` until the process ends.
pub async fn serve(listener: TcpListener, metrics: Arc<ArcSwap<Metrics>>) {
    let places = Arc::new(Semaphore::new(CONNECTIONS_MAX));
    // The semaphore is never closed, so the loop ends with the process.
    while let Ok(place) = Arc::clone(&places).acquire_owned().await {
        let socket = match listener.accept().await {
            Ok((socket, _)) => socket,
            Err(cause) => {
                tracing::warn!(%cause, "the admin address could not accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        let metrics = metrics.load_full();
        tokio::spawn(async move {
            // Whoever looks at us and goes away, or is slow, has nothing to be told.
            let _ = tokio::time::timeout(CONNECTION_WAIT, connection(socket, &metrics)).await;
            drop(place);
        });
    }
}

async fn connection(socket: TcpStream, metrics: &Metrics) -> hyper::Result<()> {
    let answer = |request: Request<Incoming>| async move {
        Ok::<_, Infallible>(answer(request.method(), request.uri().path(), metrics))
    };
    hyper::server::conn::http1::Builder::new()
        .timer(TokioTimer::new())
        .header_read_timeout(HEAD_WAIT)
        .serve_connection(TokioIo::new(socket), service_fn(answer))
        .await
}

/// The answer to one request.
fn answer(method: &Method, path: &str, metrics: &Metrics) -> Response<Full<Bytes>> {
    if !matches!(*method, Method::GET | Method::HEAD) {
        let mut response = text(StatusCode::METHOD_NOT_ALLOWED, "only GET and HEAD\n");
        response.headers_mut().insert(ALLOW, HeaderValue::from_static("GET, HEAD"));
        return response;
    }
    match path {
        "/healthz" => text(StatusCode::OK, "ok\n"),
        "/readyz" if metrics.status().ready() => text(StatusCode::OK, "ready\n"),
        "/readyz" => text(StatusCode::SERVICE_UNAVAILABLE, "not ready\n"),
        "/metrics" => match metrics.render() {
            Ok(rendered) => {
                let mut response = text(StatusCode::OK, rendered);
                response.headers_mut().insert(CONTENT_TYPE, HeaderValue::from_static(OPENMETRICS));
                response
            }
            Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "the metrics cannot be written\n"),
        },
        _ => text(StatusCode::NOT_FOUND, "try /healthz, /readyz or /metrics\n"),
    }
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    let plain = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, plain);
    response
}

/// Takes a listening socket over into the runtime. Must be called inside it.
pub fn adopt(listener: std::net::TcpListener) -> io::Result<TcpListener> {
    listener.set_nonblocking(true)?;
    TcpListener::from_std(listener)
}

const OPENMETRICS: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Probes and scrapers at one time.
const CONNECTIONS_MAX: usize = 64;

/// A scraper that cannot write its request in this time is broken.
const HEAD_WAIT: Duration = Duration::from_secs(10);

/// A kept-alive connection is ended after this, so that a place is never taken for good.
const CONNECTION_WAIT: Duration = Duration::from_secs(300);

/// After an accept that failed, most likely for want of descriptors.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

#[cfg(test)]
mod tests {
    use super::*;

    fn metrics() -> Metrics {
        Metrics::new(Exposed {
            status: Arc::default(),
            counters: vec![Arc::default(), Arc::default()].into(),
            driver: "epoll",
            logins: Arc::default(),
            dropped: None,
            reviews: None,
        })
    }

    #[test]
    fn ready_means_published_and_not_draining() {
        let metrics = metrics();
        let ready = || answer(&Method::GET, "/readyz", &metrics).status().as_u16();
        assert_eq!(ready(), 503);
        metrics.status().published(1, 0);
        assert_eq!(ready(), 200);
        metrics.status().broke();
        assert_eq!(ready(), 200, "a broken edit leaves the last good state in force");
        metrics.status().drains();
        assert_eq!(ready(), 503);
        assert_eq!(answer(&Method::GET, "/healthz", &metrics).status(), 200);
    }

    #[test]
    fn what_is_not_there_is_not_found() {
        assert_eq!(answer(&Method::GET, "/", &metrics()).status(), 404);
        assert_eq!(answer(&Method::POST, "/metrics", &metrics()).status(), 405);
    }

    #[test]
    fn the_metrics_are_openmetrics_with_every_name_prefixed() {
        let metrics = metrics();
        metrics.status().published(3, 1);
        let rendered = metrics.render().unwrap();
        assert!(rendered.ends_with("# EOF\n"));
        for line in rendered.lines().filter(|line| !line.starts_with('#')) {
            assert!(line.starts_with("harbor_connector_"), "{line}");
        }
        for line in [
            "harbor_connector_snapshot_connectors 3",
            "harbor_connector_source_problems 1",
            "harbor_connector_connections{core=\"1\"} 0",
            "harbor_connector_exchanges_total{route=\"blob\",status=\"2xx\"} 0",
            "harbor_connector_exchange_duration_seconds_bucket{le=\"+Inf\"} 0",
        ] {
            assert!(rendered.lines().any(|found| found == line), "{line} in\n{rendered}");
        }
    }
}
