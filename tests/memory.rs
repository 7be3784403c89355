//! Constant memory: how large a body is must not be seen in the process that moves it.
//!
//! The registry and the callers here keep nothing of what they send and receive, so that gigabytes
//! pass in seconds.

use std::io::{Read, Write};
use std::net::{TcpListener, TcpStream};
use std::os::fd::OwnedFd;
use std::sync::Arc;
use std::thread;

use rustix::pipe::{fcntl_getpipe_size, fcntl_setpipe_size};
use rustix::process::Uid;
use rustix::thread::set_thread_uid;
use rustls::crypto::ring::default_provider;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use crate::support::caller::{Hello, request};
use crate::support::docker_registry::Certificates;
use crate::support::manifests::{ca_secret, connector};
use crate::support::programs::lacking;
use crate::support::{FakeRegistry, Manifests, PREFIX, Proxy, answer, eventually, noise};

/// A body that no buffer holds by accident.
const BODY: u64 = 8 << 30;
const PIECE: usize = 1 << 20;
const CHUNK: usize = 32 << 10;

/// Ways a body can be framed.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Way {
    Length,
    Chunks,
    /// Chunks whose heads are not written as the proxy writes them.
    OddChunks,
}

/// A registry that answers each request with a body of [`BODY`] bytes, or takes one.
fn bottomless(way: Way) -> String {
    listening(move |mut connection| serve(&mut connection, way))
}

/// The same behind TLS, its bodies of known length, and the CA that it is trusted by.
fn sealed_and_bottomless() -> (String, String) {
    let Certificates { ca, leaf, key } = Certificates::issue(&["127.0.0.1", "localhost"]);
    let chain = vec![CertificateDer::from_pem_slice(leaf.as_bytes()).expect("a certificate")];
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).expect("a key");
    let config = ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .and_then(|config| config.with_no_client_auth().with_single_cert(chain, key))
        .map(Arc::new)
        .expect("a configuration");
    let authority = listening(move |connection| {
        let session = ServerConnection::new(Arc::clone(&config)).expect("a session");
        serve(&mut StreamOwned::new(session, connection), Way::Length);
    });
    (authority, ca)
}

/// Has `serve` serve each connection on a thread of its own, and says where.
fn listening(serve: impl Fn(TcpStream) + Clone + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("its address");
    thread::spawn(move || {
        for connection in listener.incoming() {
            let (connection, serve) = (connection.expect("a connection"), serve.clone());
            thread::spawn(move || serve(connection));
        }
    });
    address.to_string()
}

fn serve(connection: &mut (impl Read + Write), way: Way) {
    let head = head_of(connection);
    if head.starts_with("GET") {
        send_body(connection, "HTTP/1.1 200 OK\r\nContent-Type: x/y\r\n", way);
    } else {
        swallow(connection, way);
        let answer = "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n";
        connection.write_all(answer.as_bytes()).expect("an answer");
    }
    connection.flush().expect("all of it sent");
    // The next request never comes: one body a connection.
    let _ = connection.read(&mut [0]);
}

fn head_of(connection: &mut impl Read) -> String {
    let mut head = Vec::new();
    let mut byte = [0];
    while !head.ends_with(b"\r\n\r\n") {
        connection.read_exact(&mut byte).expect("a head");
        head.push(byte[0]);
    }
    String::from_utf8(head).expect("text")
}

/// Sends `head` and a body of [`BODY`] bytes after it.
fn send_body(connection: &mut impl Write, head: &str, way: Way) {
    let (framing, piece) = match way {
        Way::Length => (format!("Content-Length: {BODY}"), vec![7; PIECE]),
        Way::Chunks => ("Transfer-Encoding: chunked".to_owned(), chunks("8000\r\n")),
        Way::OddChunks => ("Transfer-Encoding: chunked".to_owned(), chunks("08000\r\n")),
    };
    connection.write_all(format!("{head}{framing}\r\n\r\n").as_bytes()).expect("a head");
    for _ in 0..BODY / PIECE as u64 {
        connection.write_all(&piece).expect("a piece");
    }
    if way != Way::Length {
        connection.write_all(b"0\r\n\r\n").expect("the last chunk");
    }
}

/// [`PIECE`] bytes of payload in chunks that begin with `head`.
fn chunks(head: &str) -> Vec<u8> {
    let chunk = [head.as_bytes(), &[7; CHUNK], b"\r\n"].concat();
    chunk.repeat(PIECE / CHUNK)
}

/// Receives a body of [`BODY`] bytes, whose chunks are of [`CHUNK`] bytes, and keeps nothing.
fn swallow(connection: &mut impl Read, way: Way) {
    let framing = if way == Way::Length { 0 } else { BODY / CHUNK as u64 * 8 + 5 };
    let mut left = BODY + framing;
    let mut piece = vec![0; PIECE];
    while left > 0 {
        let wanted = piece.len().min(usize::try_from(left).unwrap_or(usize::MAX));
        let count = connection.read(&mut piece[..wanted]).expect("a piece");
        assert!(count > 0, "{left} bytes are missing");
        left -= count as u64;
    }
}

/// A request's head that lacks its last fields and the empty line after them.
fn begun(method: &str, target: &str) -> String {
    request(method, target, "").strip_suffix("\r\n").expect("an empty line").to_owned()
}

#[test]
fn eight_gibibytes_pass_in_every_framing_and_leave_no_trace_in_memory() {
    for way in [Way::Length, Way::Chunks, Way::OddChunks] {
        let manifests = Manifests::for_registry(&format!("http://{}", bottomless(way)));
        leaves_no_trace(&Proxy::start(&manifests, &[]), way);
    }
}

#[test]
fn eight_gibibytes_pass_through_an_intercepted_tunnel_and_leave_no_trace_in_memory() {
    let (authority, ca) = sealed_and_bottomless();
    let address = format!("https://{authority}");
    let at = "harbor.example.com";
    let more = format!(
        "  caCertSecretRef: {{name: harbor-ca}}\n\
         \x20 addressExtensions:\n  - {{name: public, value: \"https://{at}\"}}\n"
    );
    let manifests = Manifests::for_registry(&address)
        .with("connector.yaml", &connector("ci", "harbor", &address, &more))
        .with("ca.yaml", &ca_secret("ci", "harbor-ca", &ca));
    let proxy = Proxy::start(&manifests, &[]);
    let inside = || {
        let mut caller = proxy.caller();
        let answer = caller.connect_to(&format!("{at}:443"), "ci/harbor");
        assert_eq!(answer.status, 200, "{}", answer.reason);
        StreamOwned::new(Hello::to(at, &proxy.ca()).session(), caller.sending_half())
    };
    // The first handshake has a certificate made.
    let mut first = inside();
    let ping = format!("GET /v2/ HTTP/1.1\r\nHost: {at}\r\n\r\n");
    first.write_all(ping.as_bytes()).expect("a request");
    assert!(head_of(&mut first).starts_with("HTTP/1.1 200"));
    leaves_no_trace_along(&proxy, Way::Length, inside, |method, path| {
        format!("{method} /v2/{path} HTTP/1.1\r\nHost: {at}\r\n")
    });
}

#[test]
fn eight_gibibytes_pass_to_and_from_a_registry_behind_tls_and_leave_no_trace_in_memory() {
    let (authority, ca) = sealed_and_bottomless();
    let address = format!("https://{authority}");
    let more = "  caCertSecretRef: {name: harbor-ca}\n";
    let manifests = Manifests::for_registry(&address)
        .with("connector.yaml", &connector("ci", "harbor", &address, more))
        .with("ca.yaml", &ca_secret("ci", "harbor-ca", &ca));
    leaves_no_trace(&Proxy::start(&manifests, &[]), Way::Length);
}

/// Has a body pulled through `proxy` and another pushed, and measures what that leaves.
fn leaves_no_trace(proxy: &Proxy, way: Way) {
    // Whatever the first request of a kind takes is taken before the measurement.
    proxy.get("/v2/");
    let open = || TcpStream::connect(proxy.listen).expect("a connection");
    leaves_no_trace_along(proxy, way, open, |method, path| {
        begun(method, &format!("{PREFIX}/{path}"))
    });
}

/// The same over connections of the caller's making; `head` is a request's without the empty line.
fn leaves_no_trace_along<C: Read + Write>(
    proxy: &Proxy,
    way: Way,
    open: impl Fn() -> C,
    head: impl Fn(&str, &str) -> String,
) {
    let before = proxy.memory_peak();

    let mut puller = open();
    let blob = head("GET", &format!("team/app/blobs/sha256:{}", "a".repeat(64)));
    puller.write_all(format!("{blob}\r\n").as_bytes()).expect("a request");
    assert!(head_of(&mut puller).starts_with("HTTP/1.1 200"));
    swallow(&mut puller, if way == Way::Length { way } else { Way::Chunks });

    let mut pusher = open();
    let target = format!("team/app/blobs/uploads/1?digest=sha256:{}", "b".repeat(64));
    send_body(&mut pusher, &head("PUT", &target), way);
    assert!(head_of(&mut pusher).starts_with("HTTP/1.1 201"));

    let grown = proxy.memory_peak().saturating_sub(before);
    assert!(grown <= 8 << 20, "{way:?}: {grown} bytes more");
}

#[test]
fn two_hundred_uploads_at_once_pass_without_privileges() {
    if lacking(&["setpriv", "mount namespaces"]) {
        return;
    }
    let body = noise(77, 256 << 10);
    let registry = FakeRegistry::answering(|_| answer(201, "", b""));
    let manifests = Manifests::for_registry(&registry.url());
    let proxy = Proxy::start_as_a_user(&manifests, &["--cores", "2"]);
    let target = format!("{PREFIX}/team/app/blobs/uploads/1?digest=sha256:{}", "b".repeat(64));
    let head = request("PUT", &target, &format!("Content-Length: {}\r\n", body.len()));
    let (first, rest) = body.split_at(body.len() / 2);
    // All have begun before one may end: each holds its pipe, a small one.
    let mut callers: Vec<_> = (0..200).map(|_| proxy.caller()).collect();
    for caller in &mut callers {
        caller.send(&head);
        caller.send(first);
    }
    let decided = || {
        let lent = proxy.metric("pipes_lent_total")?;
        let refused = proxy.metric("pipes_refused_total")?;
        (lent + refused >= 200.0).then_some((lent, refused))
    };
    let (lent, refused) = eventually("a decision on each body", decided);
    assert_eq!((lent, refused), (200.0, 0.0), "pipes and refusals");
    for caller in &mut callers {
        caller.send(rest);
        assert_eq!(caller.answer().expect("an answer").status, 201);
    }
    let arrived = registry.requests();
    assert_eq!(arrived.len(), 200);
    assert!(arrived.iter().all(|seen| seen.complete && seen.body == body));
}

#[test]
fn where_no_pipe_is_to_be_had_bodies_are_copied_and_arrive() {
    if lacking(&["setpriv"]) {
        return;
    }
    let user = 66_000 + std::process::id() % 4_000;
    // The user has nothing left for the program that is to run as this user.
    let taken = every_pipe_of(user);
    let blob = noise(78, 3 << 20);
    let served = blob.clone();
    let registry = FakeRegistry::answering(move |seen| match seen.method == "GET" {
        true => answer(200, "Content-Type: application/octet-stream\r\n", &served),
        false => answer(201, "", b""),
    });
    let manifests = Manifests::for_registry(&registry.url());
    let proxy = Proxy::start_as(user, &manifests, &[]);
    let digest = "b".repeat(64);
    let mut caller = proxy.caller();
    caller.send(request("GET", &format!("{PREFIX}/team/app/blobs/sha256:{digest}"), ""));
    assert!(caller.answer().expect("an answer").body == blob, "a pull");

    let target = format!("{PREFIX}/team/app/blobs/uploads/1?digest=sha256:{digest}");
    let lengthy = format!("Content-Length: {}\r\n", blob.len());
    let chunked: Vec<u8> = blob
        .chunks(CHUNK)
        .flat_map(|data| [format!("{:x}\r\n", data.len()).as_bytes(), data, b"\r\n"].concat())
        .chain(*b"0\r\n\r\n")
        .collect();
    for (field, body) in [(lengthy.as_str(), &blob), ("Transfer-Encoding: chunked\r\n", &chunked)] {
        caller.send(request("PUT", &target, field));
        caller.send(body);
        assert_eq!(caller.answer().expect("an answer").status, 201);
        let seen = registry.requests().pop().expect("a request");
        assert!(seen.complete && seen.body == blob, "{field}");
    }
    assert_eq!(proxy.metric("pipes_lent_total"), Some(0.0));
    assert!(proxy.metric("pipes_refused_total").is_some_and(|refused| refused >= 3.0));
    drop(taken);
}

/// All that `user` may have of pipes (`fs.pipe-user-pages-soft`, pipe(7)), held.
fn every_pipe_of(user: u32) -> Vec<(OwnedFd, OwnedFd)> {
    let take = move || {
        // This thread alone becomes that user, without privileges.
        set_thread_uid(Uid::from_raw(user)).expect("another user");
        let mut taken = Vec::new();
        loop {
            let pipe = rustix::pipe::pipe().expect("a pipe");
            // Beyond the limit a new one has two pages.
            let full = fcntl_getpipe_size(&pipe.1).expect("its size") < 64 << 10;
            // What is left may not be enough for a large one.
            let _ = fcntl_setpipe_size(&pipe.1, 1 << 20);
            taken.push(pipe);
            if full {
                return taken;
            }
        }
    };
    thread::spawn(take).join().expect("pipes")
}
