//! Speaks to a registry, or to its token service, on the control plane's own behalf.
//!
//! One bounded GET in; a status, fields and a small body out, or a word that tells why there is
//! none. Every address is checked when it is dialled, redirections are not followed, and whoever
//! asks decides what it may show to whom.

use std::collections::HashMap;
use std::fmt;
use std::io;
use std::panic::AssertUnwindSafe;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use dataplane::error::Kind;
use dataplane::vocabulary::{Origin, Scheme, Secret, Trust};
use dataplane::{Own, is_forbidden, tls_config};
use futures_util::FutureExt as _;
use http_body_util::{BodyExt as _, Empty};
use hyper::body::{Bytes, Incoming};
use hyper::header::{
    ACCEPT, ACCEPT_ENCODING, AUTHORIZATION, CONNECTION, CONTENT_ENCODING, HOST, HeaderMap,
    HeaderValue, USER_AGENT,
};
use hyper::{Request, Response};
use hyper_util::rt::TokioIo;
use rustls::CertificateError;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, lookup_host};
use tokio::time::timeout;
use tokio_rustls::TlsConnector;
use zeroize::Zeroizing;

/// One request. Its target is in origin form; `purpose` stands in the `User-Agent`.
pub struct Ask<'a> {
    /// Where to.
    pub origin: &'a Origin,
    /// Who vouches for that origin's certificate.
    pub trust: &'a Trust,
    /// Path and query.
    pub target: &'a str,
    /// The value of `Authorization`, if any.
    pub authorization: Option<&'a Secret>,
    /// What it is for: `probe`, `ping` or `token`.
    pub purpose: &'static str,
}

/// A whole answer. Its body is wiped: it may hold a token.
pub struct Reply {
    /// The status code.
    pub status: u16,
    /// The fields.
    pub fields: HeaderMap,
    /// The body, at most [`BODY_BYTES_MAX`].
    pub body: Zeroizing<Vec<u8>>,
}

/// Why there is no answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Failure {
    /// The name has no address.
    #[error("its name has no address")]
    Unresolved,
    /// Its addresses are never dialled.
    #[error("its address is one that is never dialled")]
    Forbidden,
    /// It leads back to this proxy.
    #[error("its address is this proxy's own")]
    Loop,
    /// Nobody listens there.
    #[error("its host refuses the connection")]
    Refused,
    /// Nobody answers the connection.
    #[error("it does not accept a connection in time")]
    Unanswered,
    /// There is no way to it, or the connection broke before the request had gone.
    #[error("it cannot be reached")]
    Unreachable,
    /// It is not who it should be, as far as TLS can tell.
    #[error("{0}")]
    Untrusted(Distrust),
    /// It accepted the connection and did not answer in time.
    #[error("it does not answer in time")]
    Silent,
    /// What it answers is no HTTP, or encoded.
    #[error("its answer cannot be read")]
    Malformed,
    /// The body is longer than any honest one.
    #[error("its answer is too long")]
    TooLarge,
}

/// What is wrong with a TLS handshake.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Distrust {
    /// Nobody we trust has signed the certificate.
    #[error("its certificate is signed by an unknown authority")]
    Issuer,
    /// The certificate is another host's.
    #[error("its certificate is not for this host")]
    Name,
    /// The certificate is not good any more.
    #[error("its certificate has expired")]
    Expired,
    /// The certificate is not good yet.
    #[error("its certificate is not valid yet")]
    Early,
    /// Something else is wrong with the certificate.
    #[error("its certificate is not trusted")]
    Certificate,
    /// It is no TLS that comes back.
    #[error("it does not speak TLS")]
    Plain,
    /// It ended the handshake.
    #[error("it refuses the TLS handshake")]
    Refused,
}

impl Failure {
    /// What a caller is told whose request needs that registry: the same as if its own request had
    /// failed so. `None` where another request may well succeed.
    pub fn kind(self) -> Option<Kind> {
        match self {
            Self::Unresolved => Some(Kind::RegistryUnresolved),
            Self::Forbidden => Some(Kind::RegistryForbidden),
            Self::Loop => Some(Kind::Loop),
            Self::Refused | Self::Unanswered | Self::Unreachable => Some(Kind::RegistryUnreachable),
            Self::Untrusted(_) => Some(Kind::RegistryUntrusted),
            Self::Silent | Self::Malformed | Self::TooLarge => None,
        }
    }
}

impl Distrust {
    /// What rustls found.
    fn of(cause: &io::Error) -> Self {
        let found = cause.get_ref().and_then(|inner| inner.downcast_ref::<rustls::Error>());
        let certificate = match found {
            Some(rustls::Error::InvalidCertificate(certificate)) => certificate,
            Some(rustls::Error::InvalidMessage(_)) => return Self::Plain,
            Some(rustls::Error::AlertReceived(_)) => return Self::Refused,
            _ => return Self::Certificate,
        };
        match certificate {
            CertificateError::UnknownIssuer => Self::Issuer,
            CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => {
                Self::Name
            }
            CertificateError::Expired | CertificateError::ExpiredContext { .. } => Self::Expired,
            CertificateError::NotValidYet | CertificateError::NotValidYetContext { .. } => {
                Self::Early
            }
            _ => Self::Certificate,
        }
    }
}

/// What comes of `asking`, or `broken` where that panics. A defect of ours that one registry's
/// answer brings to light must not cost whoever waits for it, or comes after it, their turn.
pub fn whole<T>(asking: impl Future<Output = T>, broken: T) -> impl Future<Output = T> {
    AssertUnwindSafe(asking).catch_unwind().map(|outcome| outcome.unwrap_or(broken))
}

/// Opens connections.
pub struct Dialer {
    connect_wait: Duration,
    loopback_allowed: bool,
    own: Own,
    tls: Mutex<HashMap<u64, TlsConnector>>,
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer").finish_non_exhaustive()
    }
}

impl Dialer {
    /// `connect_wait` is for one address; loopback is dialled only where the source allows it, and
    /// a name or address of `own` never.
    pub fn new(connect_wait: Duration, loopback_allowed: bool, own: Own) -> Self {
        Self { connect_wait, loopback_allowed, own, tls: Mutex::default() }
    }

    /// Asks once, on a connection of its own.
    pub async fn get(&self, ask: &Ask<'_>) -> Result<Reply, Failure> {
        let request = request(ask).ok_or(Failure::Malformed)?;
        let connecting = timeout(self.connect_wait * 2, self.connect(ask.origin));
        let socket = connecting.await.unwrap_or(Err(Failure::Unanswered))?;
        match ask.origin.scheme {
            Scheme::Http => answered(socket, request).await,
            Scheme::Https => {
                let secured = timeout(HANDSHAKE_WAIT, self.secure(socket, ask));
                let secured = secured.await.unwrap_or(Err(Failure::Unanswered))?;
                answered(secured, request).await
            }
        }
    }

    async fn connect(&self, origin: &Origin) -> Result<TcpStream, Failure> {
        if self.own.is_loop_name(&origin.host) {
            return Err(Failure::Loop);
        }
        let found = lookup_host((&*origin.host, origin.port)).await;
        let mut failure = Failure::Unresolved;
        for address in found.map_err(|_| Failure::Unresolved)? {
            if is_forbidden(address.ip(), self.loopback_allowed) {
                failure = Failure::Forbidden;
                continue;
            }
            match timeout(self.connect_wait, TcpStream::connect(address)).await {
                // To ourselves the connector's credential would look like a bad token.
                Ok(Ok(socket)) if self.own.is_loop(socket.local_addr().ok(), address) => {
                    failure = Failure::Loop;
                }
                Ok(Ok(socket)) => return Ok(socket),
                Ok(Err(cause)) if cause.kind() == io::ErrorKind::ConnectionRefused => {
                    failure = Failure::Refused;
                }
                Ok(Err(_)) => failure = Failure::Unreachable,
                Err(_) => failure = Failure::Unanswered,
            }
        }
        Err(failure)
    }

    async fn secure(
        &self,
        socket: TcpStream,
        ask: &Ask<'_>,
    ) -> Result<tokio_rustls::client::TlsStream<TcpStream>, Failure> {
        let name = ServerName::try_from(ask.origin.host.to_string());
        let name = name.map_err(|_| Failure::Untrusted(Distrust::Name))?;
        let connector = self.connector(ask.trust)?;
        connector.connect(name, socket).await.map_err(|cause| match cause.kind() {
            // rustls reports what it found wrong as invalid data; all else is the network's doing.
            io::ErrorKind::InvalidData => Failure::Untrusted(Distrust::of(&cause)),
            _ => Failure::Unreachable,
        })
    }

    /// The TLS configuration of a trust, made when first needed.
    fn connector(&self, trust: &Trust) -> Result<TlsConnector, Failure> {
        let mut known = self.tls.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(connector) = known.get(&trust.id) {
            return Ok(connector.clone());
        }
        let config = tls_config(trust).map_err(|_| Failure::Untrusted(Distrust::Certificate))?;
        if known.len() >= TRUSTS_MAX {
            known.clear();
        }
        let connector = TlsConnector::from(Arc::new(config));
        known.insert(trust.id, connector.clone());
        Ok(connector)
    }
}

fn request(ask: &Ask<'_>) -> Option<Request<Empty<Bytes>>> {
    let agent = concat!("harbor-connector/", env!("CARGO_PKG_VERSION"));
    let mut request = Request::get(ask.target)
        .header(HOST, ask.origin.authority())
        .header(USER_AGENT, format!("{agent} ({})", ask.purpose))
        .header(ACCEPT, "application/json")
        .header(ACCEPT_ENCODING, "identity")
        .header(CONNECTION, "close")
        .body(Empty::new())
        .ok()?;
    if let Some(authorization) = ask.authorization {
        let mut value = HeaderValue::from_bytes(authorization.expose()).ok()?;
        value.set_sensitive(true);
        request.headers_mut().insert(AUTHORIZATION, value);
    }
    Some(request)
}

async fn answered<S>(stream: S, request: Request<Empty<Bytes>>) -> Result<Reply, Failure>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let exchange = async {
        let (mut sender, connection) = hyper::client::conn::http1::Builder::new()
            .max_buf_size(HEAD_BYTES_MAX)
            .handshake(TokioIo::new(stream))
            .await
            .map_err(|_| Failure::Malformed)?;
        let driving = Driving(tokio::spawn(async move {
            // What ends the connection is told to whoever waits for the answer.
            let _ = connection.await;
        }));
        let answer = sender.send_request(request).await.map_err(|_| Failure::Malformed)?;
        let reply = read(answer).await;
        drop(driving);
        reply
    };
    timeout(ANSWER_WAIT, exchange).await.unwrap_or(Err(Failure::Silent))
}

/// Ends the connection with whoever waited for its answer.
struct Driving(tokio::task::JoinHandle<()>);

impl Drop for Driving {
    fn drop(&mut self) {
        self.0.abort();
    }
}

async fn read(answer: Response<Incoming>) -> Result<Reply, Failure> {
    let (head, mut body) = answer.into_parts();
    let coding = head.headers.get(CONTENT_ENCODING);
    if coding.is_some_and(|coding| !coding.as_bytes().eq_ignore_ascii_case(b"identity")) {
        return Err(Failure::Malformed);
    }
    let mut bytes = Zeroizing::new(Vec::new());
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|_| Failure::Malformed)?;
        let data = frame.data_ref().map_or(&[][..], |data| data);
        if bytes.len() + data.len() > BODY_BYTES_MAX {
            return Err(Failure::TooLarge);
        }
        bytes.extend_from_slice(data);
    }
    Ok(Reply { status: head.status.as_u16(), fields: head.headers, body: bytes })
}

/// A token of 8 KiB is rare; no honest answer comes near this.
pub const BODY_BYTES_MAX: usize = 128 << 10;
const HEAD_BYTES_MAX: usize = 64 << 10;
const HANDSHAKE_WAIT: Duration = Duration::from_secs(5);
/// Harbor holds a failed login back for 1.5 s; a directory behind it may take a few more.
const ANSWER_WAIT: Duration = Duration::from_secs(5);
const TRUSTS_MAX: usize = 1024;

#[cfg(test)]
mod tests;
