//! The registry of the comparison: as little registry as a transfer needs, as cheap as it gets.
//!
//! Connections in, answers and counts out, over HTTP and HTTPS. It checks the credential of every
//! request and the framing and length of every body, and looks at no body's bytes. One thread a
//! connection; it goes on until the process ends.

use std::io;
use std::net::{Ipv4Addr, SocketAddr, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread;
use std::time::Duration;

use base64::prelude::{BASE64_STANDARD, Engine};
use rcgen::{BasicConstraints, CertificateParams, IsCa, Issuer, KeyPair};
use rustls::ServerConfig;
use rustls::crypto::CryptoProvider;
use rustls::crypto::ring::{self, cipher_suite};
use rustls_pki_types::PrivatePkcs8KeyDer;

use super::link::{Link, Stock};
use crate::wire::malformed;

/// An origin that listens.
pub(crate) struct Origin {
    /// Where it speaks HTTP.
    pub(crate) plain: SocketAddr,
    /// Where it speaks HTTPS, under [`NAME`], as `localhost` and as `127.0.0.1`.
    pub(crate) sealed: SocketAddr,
    /// The certificate, PEM, that its own is issued by.
    pub(crate) ca: String,
    /// Its own, PEM, for whoever meets callers in its name, and the key, PEM.
    pub(crate) leaf: (String, String),
    shared: Arc<Shared>,
}

struct Shared {
    authorization: String,
    stock: Stock,
    chunks: Stock,
    received: AtomicU64,
    requests: AtomicU64,
    refused: AtomicU64,
}

/// What an origin has seen so far.
#[derive(Clone, Copy)]
pub(crate) struct Seen {
    /// Bytes of request bodies, framing left out.
    pub(crate) received: u64,
    /// Requests with the registry's credential.
    pub(crate) requests: u64,
    /// Requests without it.
    pub(crate) refused: u64,
}

impl Origin {
    /// Listens on two free ports of loopback.
    ///
    /// # Errors
    /// When ports, keys, memory or threads cannot be had.
    pub(crate) fn start() -> anyhow::Result<Self> {
        let shared = Arc::new(Shared {
            authorization: authorization(USER, PASSWORD),
            stock: Stock::noise(STOCK_BYTES)?,
            chunks: Stock::chunks(STOCK_BYTES, CHUNK_BYTES)?,
            received: AtomicU64::new(0),
            requests: AtomicU64::new(0),
            refused: AtomicU64::new(0),
        });
        let Identity { ca, leaf, settings } = identity()?;
        let plain = listen(&shared, None)?;
        let sealed = listen(&shared, Some(Arc::new(settings)))?;
        Ok(Self { plain, sealed, ca, leaf, shared })
    }

    /// The counts so far.
    pub(crate) fn seen(&self) -> Seen {
        let read = |count: &AtomicU64| count.load(Ordering::Relaxed);
        Seen {
            received: read(&self.shared.received),
            requests: read(&self.shared.requests),
            refused: read(&self.shared.refused),
        }
    }
}

/// The value of `Authorization` for a user and a password (RFC 7617).
pub(crate) fn authorization(user: &str, password: &str) -> String {
    format!("Basic {}", BASE64_STANDARD.encode([user, ":", password].concat()))
}

/// A digest under which the origin has a blob of `length` bytes: the length itself.
pub(crate) fn digest(length: u64) -> String {
    format!("sha256:{length:064x}")
}

/// A digest under which the origin has the same blob and sends it in chunks.
pub(crate) fn digest_in_chunks(length: u64) -> String {
    format!("sha256:{IN_CHUNKS}{length:063x}")
}

/// Only TLS 1.3 with AES-128-GCM, so that every contender has the same arithmetic to do, whatever
/// its library would prefer.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    let cipher_suites = vec![cipher_suite::TLS13_AES_128_GCM_SHA256];
    Arc::new(CryptoProvider { cipher_suites, ..ring::default_provider() })
}

/// A CA, a certificate of it with its key, and our side of TLS with them.
struct Identity {
    ca: String,
    leaf: (String, String),
    settings: ServerConfig,
}

/// Keys are of P-256, as those are that our own proxy makes.
fn identity() -> anyhow::Result<Identity> {
    let ca_key = KeyPair::generate()?;
    let mut ca = CertificateParams::new(Vec::new())?;
    ca.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    ca.distinguished_name.push(rcgen::DnType::CommonName, "bench compare");
    let certificate = ca.self_signed(&ca_key)?;
    let issuer = Issuer::new(ca, ca_key);
    let key = KeyPair::generate()?;
    let names = [NAME, "localhost", "127.0.0.1"].map(str::to_owned);
    let leaf = CertificateParams::new(names)?.signed_by(&key, &issuer)?;
    let settings = ServerConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS13])?
        .with_no_client_auth()
        .with_single_cert(
            vec![leaf.der().clone()],
            PrivatePkcs8KeyDer::from(key.serialize_der()).into(),
        )?;
    Ok(Identity { ca: certificate.pem(), leaf: (leaf.pem(), key.serialize_pem()), settings })
}

fn listen(shared: &Arc<Shared>, tls: Option<Arc<ServerConfig>>) -> io::Result<SocketAddr> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?;
    let address = listener.local_addr()?;
    let shared = Arc::clone(shared);
    thread::Builder::new().name("origin".to_owned()).spawn(move || {
        loop {
            let Ok((stream, _)) = listener.accept() else {
                thread::sleep(ACCEPT_PAUSE);
                continue;
            };
            let (shared, tls) = (Arc::clone(&shared), tls.clone());
            let builder = thread::Builder::new().stack_size(STACK_BYTES);
            // A connection's end is nobody's news here: whoever drives the load sees it.
            drop(builder.spawn(move || drop(serve(stream, tls.as_ref(), &shared))));
        }
    })?;
    Ok(address)
}

fn serve(stream: TcpStream, tls: Option<&Arc<ServerConfig>>, shared: &Shared) -> io::Result<()> {
    let mut link = Link::new(stream, tls, IDLE_WAIT)?;
    while let Some(length) = link.head()? {
        let asked = parse(&link.ahead()[..length], &shared.authorization)?;
        link.used(length);
        if !asked.credited {
            shared.refused.fetch_add(1, Ordering::Relaxed);
            // The body is not read, so the connection cannot go on.
            return link.send(REFUSAL, false);
        }
        shared.requests.fetch_add(1, Ordering::Relaxed);
        let received = match asked.body {
            Body::Length(length) => link.skip(length).map(|()| length)?,
            Body::Chunked => link.skip_chunks()?,
        };
        shared.received.fetch_add(received, Ordering::Relaxed);
        match asked.wants {
            Wants::Blob(length) => {
                link.send(blob_head(length).as_bytes(), length > 0)?;
                link.send_stock(&shared.stock, length)?;
            }
            Wants::Chunks(length) => {
                link.send(CHUNKS_HEAD, true)?;
                link.send_stock(&shared.chunks, framed(length))?;
                link.send(b"0\r\n\r\n", false)?;
            }
            Wants::Manifest => link.send(&MANIFEST, false)?,
            Wants::ManifestHead => {
                link.send(&MANIFEST[..MANIFEST.len() - MANIFEST_BYTES], false)?
            }
            Wants::Upload => link.send(STARTED, false)?,
            Wants::Part => link.send(TAKEN, false)?,
            Wants::Commit => link.send(CREATED, false)?,
        }
    }
    Ok(())
}

/// What a request is after.
enum Wants {
    Blob(u64),
    Chunks(u64),
    Manifest,
    ManifestHead,
    Upload,
    Part,
    Commit,
}

enum Body {
    Length(u64),
    Chunked,
}

struct Asked {
    wants: Wants,
    body: Body,
    credited: bool,
}

/// Reads a head. Whatever is not one of the few requests of the comparison is an error.
fn parse(head: &[u8], authorization: &str) -> io::Result<Asked> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    if !request.parse(head).is_ok_and(|parsed| parsed.is_complete()) {
        return Err(malformed("bad request"));
    }
    let target = request.path.unwrap_or_default();
    let wants = match request.method.unwrap_or_default() {
        "GET" if target.contains("/manifests/") => Wants::Manifest,
        "HEAD" if target.contains("/manifests/") => Wants::ManifestHead,
        // Asked by a proxy that makes sure of its credential first.
        "GET" if target == "/v2/" => Wants::Manifest,
        "GET" => blob(target).ok_or_else(|| malformed("unknown blob"))?,
        "POST" => Wants::Upload,
        "PATCH" => Wants::Part,
        "PUT" => Wants::Commit,
        _ => return Err(malformed("unknown method")),
    };
    let (mut length, mut chunked, mut credited) = (None, false, false);
    for field in request.headers.iter() {
        if field.name.eq_ignore_ascii_case("authorization") {
            credited = field.value == authorization.as_bytes();
        } else if field.name.eq_ignore_ascii_case("content-length") {
            let digits = std::str::from_utf8(field.value).ok();
            length = digits.and_then(|digits| digits.parse().ok());
        } else if field.name.eq_ignore_ascii_case("transfer-encoding") {
            chunked = field.value.eq_ignore_ascii_case(b"chunked");
        }
    }
    let body = match (length, chunked) {
        (Some(_), true) => return Err(malformed("ambiguous framing")),
        (None, true) => Body::Chunked,
        (length, false) => Body::Length(length.unwrap_or_default()),
    };
    Ok(Asked { wants, body, credited })
}

/// The blob that a digest stands for; see [`digest`].
fn blob(target: &str) -> Option<Wants> {
    let (_, digits) = target.rsplit_once("/blobs/sha256:")?;
    let digits = digits.get(..64)?;
    let (wants, digits): (fn(u64) -> Wants, _) = match digits.strip_prefix(IN_CHUNKS) {
        Some(digits) => (Wants::Chunks, digits),
        None => (Wants::Blob, digits),
    };
    u64::from_str_radix(digits, 16).ok().map(wants)
}

/// What `length` bytes, which must be whole chunks, take with their framing: each chunk is its
/// payload, a size line and two line ends.
pub(crate) fn framed(length: u64) -> u64 {
    let framing = format!("{CHUNK_BYTES:x}\r\n\r\n").len() as u64;
    length / CHUNK_BYTES * (CHUNK_BYTES + framing)
}

fn blob_head(length: u64) -> String {
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\
         Docker-Distribution-Api-Version: registry/2.0\r\nContent-Length: {length}\r\n\r\n"
    )
}

/// The whole answer to a manifest's GET, made once. Its body is 1 KiB.
static MANIFEST: std::sync::LazyLock<Vec<u8>> = std::sync::LazyLock::new(|| {
    let media_type = "application/vnd.oci.image.manifest.v1+json";
    let empty = format!(r#"{{"schemaVersion":2,"mediaType":"{media_type}","pad":""}}"#);
    let pad = " ".repeat(MANIFEST_BYTES - empty.len());
    let body = empty.replace(r#""pad":"""#, &format!(r#""pad":"{pad}""#));
    let known = ring_digest(body.as_bytes());
    format!(
        "HTTP/1.1 200 OK\r\nContent-Type: {media_type}\r\n\
         Docker-Distribution-Api-Version: registry/2.0\r\nDocker-Content-Digest: {known}\r\n\
         Content-Length: {MANIFEST_BYTES}\r\n\r\n{body}"
    )
    .into_bytes()
});

fn ring_digest(bytes: &[u8]) -> String {
    let sum = ::ring::digest::digest(&::ring::digest::SHA256, bytes);
    let hex: String = sum.as_ref().iter().map(|byte| format!("{byte:02x}")).collect();
    format!("sha256:{hex}")
}

/// The name that the registry's certificate has for callers who meet it through a proxy.
pub(crate) const NAME: &str = "registry.example";
/// The robot that every proxy must speak for.
pub(crate) const USER: &str = "robot$bench";
/// Its password, good for nothing but this origin.
pub(crate) const PASSWORD: &str = "pretend-password-of-the-comparison";
/// What a chunk carries.
pub(crate) const CHUNK_BYTES: u64 = 32 << 10;
/// The length of a manifest.
pub(crate) const MANIFEST_BYTES: usize = 1024;

const REFUSAL: &[u8] = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic realm=\"bench\"\r\n\
    Connection: close\r\nContent-Length: 0\r\n\r\n";
const STARTED: &[u8] =
    b"HTTP/1.1 202 Accepted\r\nLocation: /v2/team/app/blobs/uploads/1?_state=s\r\n\
    Docker-Upload-UUID: 1\r\nRange: 0-0\r\nContent-Length: 0\r\n\r\n";
const TAKEN: &[u8] =
    b"HTTP/1.1 202 Accepted\r\nLocation: /v2/team/app/blobs/uploads/1?_state=t\r\n\
    Docker-Upload-UUID: 1\r\nContent-Length: 0\r\n\r\n";
const CREATED: &[u8] =
    b"HTTP/1.1 201 Created\r\nLocation: /v2/team/app/blobs/1\r\nContent-Length: 0\r\n\r\n";
const CHUNKS_HEAD: &[u8] = b"HTTP/1.1 200 OK\r\nContent-Type: application/octet-stream\r\n\
    Docker-Distribution-Api-Version: registry/2.0\r\nTransfer-Encoding: chunked\r\n\r\n";
/// The first digit of the digest of what is sent in chunks; no length begins with it.
const IN_CHUNKS: &str = "c";
const STOCK_BYTES: u64 = 64 << 20;
const FIELDS_MAX: usize = 64;
const IDLE_WAIT: Duration = Duration::from_secs(120);
const ACCEPT_PAUSE: Duration = Duration::from_millis(20);
const STACK_BYTES: usize = 128 << 10;
