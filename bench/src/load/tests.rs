//! Loads over real sockets: on the embedded registry, and on peers that do not behave.

use std::io::{Read, Write};
use std::net::{Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::Mutex;
use std::sync::atomic::AtomicU64;

use rustls::pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use rustls::{ServerConfig, ServerConnection, StreamOwned};

use super::*;
use crate::caller::{Caller, Content};
use crate::framing::{Body, FIELDS_MAX, Fields};
use crate::registry::{Registry, Settings};
use crate::wire::{Take, Wire};

const ROBOT: (&str, &str) = ("robot$load", "right");

fn registry(login: bool) -> Registry {
    Registry::start(Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        login: login.then(|| (ROBOT.0.to_owned(), ROBOT.1.to_owned())),
        discard: false,
        log_accounts: false,
        markers: Vec::new(),
    })
    .unwrap()
}

/// A short closed loop of a dozen requests.
fn plan(scenario: Scenario, address: SocketAddr) -> Plan {
    Plan {
        scenario,
        size: Some(100_000),
        layers: 2,
        concurrency: 3,
        requests: Some(12),
        chunk_bytes: 7000,
        timeout: Duration::from_secs(5),
        ..Plan::for_target(format!("http://{address}"))
    }
}

fn load(plan: &Plan) -> Outcome {
    run(plan, &AtomicBool::new(false), |_| {}).unwrap()
}

#[track_caller]
fn assert_clean(outcome: &Outcome) {
    assert!(outcome.load.failures.is_empty(), "{:?}", outcome.examples);
}

#[test]
fn every_scenario_runs_on_the_embedded_registry() {
    let registry = registry(true);
    for scenario in <Scenario as clap::ValueEnum>::value_variants() {
        if matches!(scenario, Scenario::Idle | Scenario::SlowReaders | Scenario::TokenChurn) {
            continue;
        }
        let login = Some((ROBOT.0.to_owned(), ROBOT.1.to_owned()));
        let plan = Plan { login, cores: 2, ..plan(*scenario, registry.address()) };
        let outcome = load(&plan);
        assert_clean(&outcome);
        assert_eq!(outcome.load.requests, 12, "{scenario:?}");
        assert!(outcome.load.latency_us.iter().all(|micros| *micros > 0), "{scenario:?}");
        let (up, down) = (outcome.load.bytes_up, outcome.load.bytes_down);
        match scenario {
            Scenario::SmallBlobPull | Scenario::BigBlobPull => assert_eq!(down, 1_200_000),
            Scenario::Push => assert_eq!(up, 1_200_000),
            Scenario::PushChunked => assert!((1_200_000..1_205_000).contains(&up), "{up}"),
            Scenario::ParallelPush => assert!(up > 2_400_000),
            Scenario::ManifestHead => assert_eq!((up, down), (0, 0)),
            _ => assert!(down > 0),
        }
    }
    assert_eq!(registry.seen().refused, 0);
}

#[test]
fn a_number_of_bytes_ends_a_load_that_moved_them() {
    let registry = registry(false);
    let plan =
        Plan { requests: None, bytes: Some(950_000), ..plan(Scenario::Push, registry.address()) };
    let outcome = load(&plan);
    assert_clean(&outcome);
    assert_eq!(outcome.load.bytes_up, 1_000_000);
}

#[test]
fn churning_callers_have_another_credential_each_time() {
    let registry = registry(true);
    let login = Some((ROBOT.0.to_owned(), ROBOT.1.to_owned()));
    let base = Plan { login, ..plan(Scenario::TokenChurn, registry.address()) };

    let refused = load(&base);
    assert_eq!(refused.load.failures["status 401"], 12);

    let accepted = load(&Plan { accept_401: true, ..base.clone() });
    assert_clean(&accepted);
    assert_eq!(accepted.load.requests, 12);

    let tokens = vec!["wrong".to_owned(), ROBOT.1.to_owned()];
    let half = load(&Plan { tokens, ..base });
    assert_eq!((half.load.requests, half.load.failures["status 401"]), (6, 6));
}

#[test]
fn idle_connections_and_slow_readers_are_kept_to_the_end() {
    let registry = registry(false);
    for scenario in [Scenario::Idle, Scenario::SlowReaders] {
        let plan = Plan {
            requests: None,
            duration: Duration::from_secs(1),
            concurrency: 50,
            bytes_per_second: 20_000,
            pid: Some(i32::try_from(std::process::id()).unwrap()),
            ..plan(scenario, registry.address())
        };
        let mut connections = 0;
        let report = |progress: &Progress| connections = connections.max(progress.connections);
        let outcome = run(&plan, &AtomicBool::new(false), report).unwrap();
        assert_clean(&outcome);
        let held = outcome.held.unwrap();
        assert_eq!((held.wanted, held.survived, connections), (50, 50, 50), "{scenario:?}");
        assert!(held.memory_kib.is_some());
        if scenario == Scenario::SlowReaders {
            // Fifty readers at 20,000 B/s for one second: nobody gets ahead of that.
            assert!((500_000..=1_000_000).contains(&outcome.load.bytes_down));
        }
    }
}

#[test]
fn a_stop_ends_a_load_with_what_was_measured_so_far() {
    let registry = registry(false);
    let plan = Plan {
        requests: None,
        duration: Duration::from_secs(600),
        ..plan(Scenario::ManifestGet, registry.address())
    };
    let stop = AtomicBool::new(false);
    let began = Instant::now();
    let report = |progress: &Progress| stop.store(progress.requests > 0, Ordering::Relaxed);
    let outcome = run(&plan, &stop, report).unwrap();
    assert!(outcome.interrupted && outcome.load.requests > 0);
    assert!(began.elapsed() < Duration::from_secs(60));
    assert_clean(&outcome);
}

/// What a peer does to the answers that pass it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Mischief {
    None,
    /// One byte of each blob differs.
    FlipAnswers,
    /// One byte of each upload differs.
    FlipUploads,
    /// Each blob ends ten bytes early, and so does the connection.
    Cut,
    /// Every tenth GET is answered 500.
    Fail,
    /// The connection ends without an answer, every tenth GET.
    Vanish,
    /// All answers wait for half a second, once.
    Stall,
    /// Uploads are said to have another digest.
    OtherDigest,
    /// Answers come in small chunks; nothing is wrong with that.
    Chunks,
    /// In chunks, too, and one blob's last chunk is missing.
    CutChunks,
}

/// A relay to `registry` that is up to mischief. It accepts absolute-form targets, too.
struct Peer {
    address: SocketAddr,
    mischief: Mischief,
    registry: SocketAddr,
    gets: AtomicU64,
    stalled: Mutex<bool>,
    proxy_fields: Mutex<Vec<String>>,
}

fn peer(registry: &Registry, mischief: Mischief) -> Arc<Peer> {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = Arc::new(Peer {
        address: listener.local_addr().unwrap(),
        mischief,
        registry: registry.address(),
        gets: AtomicU64::new(0),
        stalled: Mutex::new(false),
        proxy_fields: Mutex::default(),
    });
    let serving = Arc::clone(&peer);
    thread::spawn(move || {
        for stream in listener.incoming() {
            let (peer, stream) = (Arc::clone(&serving), stream.unwrap());
            thread::spawn(move || peer.serve(stream));
        }
    });
    peer
}

type Head = (String, String, Fields);

fn parse(bytes: &[u8]) -> std::io::Result<Option<(Head, usize)>> {
    let mut fields = [httparse::EMPTY_HEADER; FIELDS_MAX];
    let mut request = httparse::Request::new(&mut fields);
    let httparse::Status::Complete(used) = request.parse(bytes).unwrap() else {
        return Ok(None);
    };
    let (method, path) = (request.method.unwrap().to_owned(), request.path.unwrap().to_owned());
    Ok(Some(((method, path, Fields::from_parsed(request.headers)), used)))
}

impl Peer {
    fn serve(&self, stream: TcpStream) {
        let mut out = stream.try_clone().unwrap();
        let mut wire = Wire::new(stream, Duration::from_secs(30)).unwrap();
        let mut behind = Caller::new(self.registry, None);
        while let Ok(Some((method, target, fields))) = wire.head(parse) {
            let target = match target.strip_prefix("http://") {
                Some(rest) => rest[rest.find('/').unwrap()..].to_owned(),
                None => target,
            };
            let proxy = fields.first("proxy-authorization").map(str::to_owned);
            self.proxy_fields.lock().unwrap().extend(proxy);
            let mut body = fields.framing().unwrap().unwrap_or(Body::NONE);
            let mut sent = body.read_all(&mut wire, 64 << 20).unwrap().unwrap();
            if self.mischief == Mischief::FlipUploads && !sent.is_empty() {
                sent[7] ^= 1;
            }
            let kind = fields.first("content-type").unwrap_or_default();
            let content = Content::Bytes(kind, &sent);
            let asked = behind.ask(&method, &target, &content, &mut |_| {});
            let Ok((answer, said)) = asked else { return };
            if !self.answer(&mut out, (&method, &target), &answer, said) {
                drop(out.shutdown(Shutdown::Both));
                return;
            }
        }
    }

    fn answer(
        &self,
        out: &mut TcpStream,
        (method, target): (&str, &str),
        answer: &crate::caller::Answer,
        mut said: Vec<u8>,
    ) -> bool {
        let blob = method == "GET" && target.contains("/blobs/");
        let tenth = method == "GET" && self.gets.fetch_add(1, Ordering::Relaxed) % 10 == 9;
        if self.mischief == Mischief::Stall && method == "GET" {
            // Whoever comes during the stall waits behind it, too.
            let mut stalled = self.stalled.lock().unwrap();
            if tenth && !*stalled {
                *stalled = true;
                thread::sleep(STALL);
            }
        }
        let mut head = format!("HTTP/1.1 {} x\r\n", answer.status);
        let mut length = answer.fields.first("content-length").unwrap_or("0").to_owned();
        match self.mischief {
            Mischief::FlipAnswers if blob => said[99] ^= 1,
            Mischief::Cut if blob => said.truncate(said.len() - 10),
            Mischief::Fail if tenth => {
                said = b"{\"errors\":[{\"code\":\"UNKNOWN\"}]}".to_vec();
                length = said.len().to_string();
                "HTTP/1.1 500 Oops\r\n".clone_into(&mut head);
            }
            Mischief::Vanish if tenth => return false,
            _ => {}
        }
        if let Some(location) = answer.fields.first("location") {
            let location = location.replace(&self.registry.to_string(), &self.address.to_string());
            head.push_str(&format!("Location: {location}\r\n"));
        }
        if let Some(digest) = answer.fields.first("docker-content-digest") {
            let other = format!("sha256:{}", "0".repeat(64));
            let lies = self.mischief == Mischief::OtherDigest && method == "PUT";
            let digest = if lies { &other } else { digest };
            head.push_str(&format!("Docker-Content-Digest: {digest}\r\n"));
        }
        if matches!(self.mischief, Mischief::Chunks | Mischief::CutChunks) && method == "GET" {
            head.push_str("Transfer-Encoding: chunked\r\n\r\n");
            said = said.chunks(977).flat_map(framed).collect();
            if self.mischief == Mischief::Chunks || !blob {
                said.extend_from_slice(b"0\r\nTrailer: x\r\n\r\n");
            }
        } else {
            head.push_str(&format!("Content-Length: {length}\r\n\r\n"));
        }
        let sent = out.write_all(&[head.as_bytes(), &said].concat());
        let cuts = matches!(self.mischief, Mischief::Cut | Mischief::CutChunks);
        sent.is_ok() && !(cuts && blob)
    }
}

fn framed(piece: &[u8]) -> Vec<u8> {
    [format!("{:x}\r\n", piece.len()).as_bytes(), piece, b"\r\n"].concat()
}

#[track_caller]
fn assert_found(outcome: &Outcome, cause: &str, count: u64) {
    assert_eq!(outcome.load.failures.get(cause), Some(&count), "{:?}", outcome.examples);
    assert_eq!(outcome.load.failures.len(), 1, "{:?}", outcome.examples);
    assert!(outcome.examples[0].starts_with(cause), "{:?}", outcome.examples);
}

#[test]
fn a_byte_that_differs_a_body_that_ends_early_and_a_500_are_found() {
    let registry = registry(false);
    let pull = |mischief| load(&plan(Scenario::SmallBlobPull, peer(&registry, mischief).address));
    assert_clean(&pull(Mischief::None));
    assert_found(&pull(Mischief::FlipAnswers), "wrong digest", 12);
    assert_found(&pull(Mischief::Cut), "short body", 12);
    assert_found(&pull(Mischief::Fail), "status 500", 1);
    let vanished = pull(Mischief::Vanish);
    assert_eq!(vanished.load.failures.values().sum::<u64>(), 1, "{:?}", vanished.examples);
}

#[test]
fn answers_in_chunks_are_read_to_their_last() {
    let registry = registry(false);
    for verify_every in [Some(0), Some(1)] {
        let pull = |mischief| {
            let base = plan(Scenario::SmallBlobPull, peer(&registry, mischief).address);
            load(&Plan { verify_every, ..base })
        };
        let outcome = pull(Mischief::Chunks);
        assert_clean(&outcome);
        assert_eq!(outcome.load.bytes_down, 1_200_000);
        assert_found(&pull(Mischief::CutChunks), "short body", 12);
    }
}

/// Refuses three uploads, each within its body, of which it reads no more while it hangs on.
fn refuse_early(listener: &TcpListener, tls: Option<&Arc<ServerConfig>>) {
    let mut held = Vec::new();
    for stream in listener.incoming().take(3) {
        let (stream, wait) = (stream.unwrap(), Duration::from_secs(30));
        let session = tls.map(|tls| ServerConnection::new(Arc::clone(tls)).unwrap());
        let mut wire = match session {
            Some(session) => Wire::secured(stream, wait, session).unwrap(),
            None => Wire::new(stream, wait).unwrap(),
        };
        wire.head(parse).unwrap();
        let location = "Location: /v2/team/load/blobs/uploads/x";
        let started = format!("HTTP/1.1 202 Go\r\n{location}\r\nContent-Length: 0\r\n\r\n");
        wire.send(started.as_bytes(), false).unwrap();
        wire.head(parse).unwrap();
        let (mut scratch, mut read) = (vec![0; 64 << 10], 0);
        while read < 3 << 20 {
            read += wire.read_some(&mut scratch, Take::Drop).unwrap();
        }
        wire.send(b"HTTP/1.1 413 Big\r\nContent-Length: 0\r\n\r\n", false).unwrap();
        held.push(wire);
    }
}

#[test]
fn an_upload_that_is_refused_early_ends_early_in_the_clear_and_under_tls() {
    let (config, pem) = identity();
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), pem).unwrap();
    for (tls, scenario) in [
        (None, Scenario::Push),
        (None, Scenario::PushChunked),
        (Some(&config), Scenario::Push),
        (Some(&config), Scenario::PushChunked),
    ] {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let port = listener.local_addr().unwrap().port();
        let scheme = if tls.is_some() { "https" } else { "http" };
        thread::scope(|scope| {
            let refusing = scope.spawn(|| refuse_early(&listener, tls));
            let outcome = load(&Plan {
                target: format!("{scheme}://localhost:{port}"),
                ca: tls.map(|_| ca.path().to_owned()),
                size: Some(64 << 20),
                chunk_bytes: 32 << 10,
                concurrency: 1,
                requests: Some(3),
                ..plan(scenario, listener.local_addr().unwrap())
            });
            refusing.join().unwrap();
            assert_found(&outcome, "status 413", 3);
            assert!(outcome.load.bytes_up < 100 << 20, "{scheme}: {}", outcome.load.bytes_up);
        });
    }
}

#[test]
fn of_big_blobs_the_first_is_hashed_and_then_every_sixteenth() {
    let registry = registry(false);
    let peer = peer(&registry, Mischief::FlipAnswers);
    let base = Plan { requests: Some(33), ..plan(Scenario::BigBlobPull, peer.address) };
    assert_found(&load(&base), "wrong digest", 3);
    assert_clean(&load(&Plan { verify_every: Some(0), ..base }));
}

#[test]
fn a_registry_that_took_other_bytes_is_found() {
    let registry = registry(false);
    let push = |mischief| load(&plan(Scenario::Push, peer(&registry, mischief).address));
    assert_clean(&push(Mischief::None));
    assert_found(&push(Mischief::FlipUploads), "status 400", 12);
    assert_found(&push(Mischief::OtherDigest), "wrong digest", 12);
}

#[test]
fn nobody_there_is_a_failure_and_not_a_hang() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let plan = plan(Scenario::Push, closed);
    assert_found(&load(&plan), "connection refused", 12);
    let pull = Plan { scenario: Scenario::SmallBlobPull, ..plan };
    let refused = run(&pull, &AtomicBool::new(false), |_| {}).err().unwrap();
    assert!(refused.to_string().contains("setting up: connection refused"), "{refused}");
}

#[test]
fn a_stall_shows_in_an_open_loop_and_hides_in_a_closed_one() {
    let registry = registry(false);
    let p99 = |rate: Option<f64>| {
        let plan = Plan {
            rate,
            arrivals: crate::plan::Arrivals::Constant,
            requests: None,
            size: Some(1000),
            duration: Duration::from_millis(2500),
            concurrency: 2,
            ..plan(Scenario::SmallBlobPull, peer(&registry, Mischief::Stall).address)
        };
        let outcome = load(&plan);
        assert_clean(&outcome);
        let place = results::PERCENTILES.iter().position(|p| (p - 99.0).abs() < 1e-9).unwrap();
        (outcome.load.latency_us[place], outcome.load.requests)
    };
    // Two hundred a second were meant to come: a hundred of them during the stall.
    let (open, requests) = p99(Some(200.0));
    assert_eq!(requests, 500);
    assert!(open > 400_000, "{open} µs");
    let (closed, _) = p99(None);
    assert!(closed < 400_000, "{closed} µs");
}

#[test]
fn a_rate_beyond_the_targets_power_is_a_failure() {
    let registry = registry(false);
    let plan = Plan {
        rate: Some(200_000.0),
        requests: None,
        duration: Duration::from_millis(300),
        ..plan(Scenario::ManifestGet, registry.address())
    };
    let outcome = load(&plan);
    let never = outcome.load.failures.get("never started").copied().unwrap_or_default();
    assert!(never > 0 && never + outcome.load.requests > 50_000, "{:?}", outcome.load.failures);
}

#[test]
fn a_forward_proxy_is_asked_for_whole_urls_with_its_own_credential() {
    let registry = registry(false);
    let peer = peer(&registry, Mischief::None);
    let proxy = Some(format!("http://pod:token@{}", peer.address));
    let plan = plan(Scenario::CiDay, peer.address);
    assert_clean(&load(&Plan { proxy, ..plan }));
    let fields = peer.proxy_fields.lock().unwrap();
    assert!(fields.len() > 12 && fields.iter().all(|field| field == "Basic cG9kOnRva2Vu"));
}

/// Our side of TLS as `localhost`, and its certificate in PEM.
fn identity() -> (Arc<ServerConfig>, String) {
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(made.signing_key.serialize_der()));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_no_client_auth()
        .with_single_cert(vec![made.cert.der().clone()], key)
        .unwrap();
    (Arc::new(config), made.cert.pem())
}

/// Speaks TLS and relays what is in it to `registry`, `Host` and all; its certificate in PEM.
fn sealed(registry: SocketAddr) -> (SocketAddr, String) {
    let (config, pem) = identity();
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let session = ServerConnection::new(Arc::clone(&config)).unwrap();
            let sealed = StreamOwned::new(session, stream.unwrap());
            thread::spawn(move || relay_sealed(sealed, registry));
        }
    });
    (address, pem)
}

/// Copies both ways on one thread: whichever side has nothing to say is asked again soon.
fn relay_sealed(mut sealed: StreamOwned<ServerConnection, TcpStream>, registry: SocketAddr) {
    let mut plain = TcpStream::connect(registry).unwrap();
    for stream in [&plain, &sealed.sock] {
        stream.set_read_timeout(Some(Duration::from_millis(1))).unwrap();
    }
    let mut bytes = vec![0; 64 << 10];
    loop {
        match sealed.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => plain.write_all(&bytes[..count]).unwrap(),
            Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
        match plain.read(&mut bytes) {
            Ok(0) => return,
            Ok(count) => {
                // The registry does not know that it is spoken to through TLS.
                let text = &bytes[..count];
                let from = b"Location: http://";
                let at = text.windows(from.len()).position(|part| part == from);
                let said = match at {
                    Some(at) => {
                        [&text[..at], b"Location: https://", &text[at + from.len()..]].concat()
                    }
                    None => text.to_vec(),
                };
                if sealed.write_all(&said).is_err() {
                    return;
                }
            }
            Err(cause) if cause.kind() == std::io::ErrorKind::WouldBlock => {}
            Err(_) => return,
        }
    }
}

/// A proxy that opens tunnels to `there`, whatever name it is asked for.
fn tunnel(there: SocketAddr) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap();
    thread::spawn(move || {
        for stream in listener.incoming() {
            let mut here = stream.unwrap();
            let mut head = Vec::new();
            while !head.ends_with(b"\r\n\r\n") {
                let mut byte = [0];
                here.read_exact(&mut byte).unwrap();
                head.push(byte[0]);
            }
            let head = String::from_utf8(head).unwrap();
            if !head.contains("\r\nProxy-Authorization: Basic cG9kOnRva2Vu\r\n") {
                here.write_all(b"HTTP/1.1 407 Who\r\nContent-Length: 0\r\n\r\n").unwrap();
                continue;
            }
            here.write_all(b"HTTP/1.1 200 Go\r\n\r\n").unwrap();
            let there = TcpStream::connect(there).unwrap();
            let (mut a, mut b) = (here.try_clone().unwrap(), there.try_clone().unwrap());
            let (mut c, mut d) = (there, here);
            thread::spawn(move || drop(std::io::copy(&mut a, &mut b)));
            thread::spawn(move || drop(std::io::copy(&mut c, &mut d)));
        }
    });
    address
}

#[test]
fn https_is_spoken_directly_and_through_a_tunnel_with_the_authority_that_is_given() {
    let registry = registry(false);
    let (address, pem) = sealed(registry.address());
    let ca = tempfile::NamedTempFile::new().unwrap();
    std::fs::write(ca.path(), pem).unwrap();
    let target = format!("https://localhost:{}", address.port());
    let base = Plan {
        target: target.clone(),
        ca: Some(ca.path().to_owned()),
        verify_every: Some(1),
        ..plan(Scenario::CiDay, address)
    };
    assert_clean(&load(&base));
    assert_clean(&load(&Plan { scenario: Scenario::PushChunked, ..base.clone() }));

    let proxy = |login: &str| Some(format!("http://{login}@{}", tunnel(address)));
    assert_clean(&load(&Plan { proxy: proxy("pod:token"), ..base.clone() }));

    let refused = Plan { proxy: proxy("pod:wrong"), scenario: Scenario::Push, ..base.clone() };
    assert_found(&load(&refused), "tunnel refused", 12);

    let other = tempfile::NamedTempFile::new().unwrap();
    let foreign = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    std::fs::write(other.path(), foreign.cert.pem()).unwrap();
    let distrust = Plan { ca: Some(other.path().to_owned()), scenario: Scenario::Push, ..base };
    let outcome = load(&distrust);
    assert_eq!(outcome.load.requests, 0);
    assert!(outcome.examples[0].contains("certificate"), "{:?}", outcome.examples);
}

const STALL: Duration = Duration::from_millis(700);
