//! What goes wrong between the proxy and the registry, or the caller, and what each side is told.
//!
//! The numbers are those of the fault matrix. A broken body never ends cleanly in either
//! direction, and nothing is replayed that the registry could have seen.

use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::looking::in_flight;
use crate::support::caller::{request, upload};
use crate::support::programs::lacking;
use crate::support::{
    Broken, Caller, FakeRegistry, Gate, Manifests, PREFIX, Proxy, Visit, answer, digest_of,
    eventually, noise,
};

const MANIFEST: &str = "/v2/namespaces/ci/connectors/harbor/team/app/manifests/v1";
const UPLOAD: &str = "/v2/namespaces/ci/connectors/harbor/team/app/blobs/uploads/1?_state=s";

fn start(registry: &FakeRegistry, flags: &[&str]) -> Proxy {
    Proxy::start(&Manifests::for_registry(&registry.url()), flags)
}

fn blob() -> String {
    format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x"))
}

/// The connection ended without a proper end of the body, and what came is a part of `whole`.
#[track_caller]
fn assert_cut(result: Result<Vec<u8>, (Broken, Vec<u8>)>, whole: &[u8], what: &str) {
    let (broken, received) = match result {
        Err(broken) => broken,
        Ok(body) => panic!("{what}: ended cleanly after {} bytes", body.len()),
    };
    assert!(matches!(broken, Broken::Ended | Broken::Reset), "{what}: {broken:?}");
    assert!(received.len() < whole.len() && whole.starts_with(&received), "{what}");
}

// F01

#[test]
fn a_registry_that_refuses_the_connection_is_a_503_at_once_and_is_tried_anew_next_time() {
    let taken = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    drop(taken);
    let proxy = Proxy::start(&Manifests::for_registry(&format!("http://{address}")), &[]);

    let started = Instant::now();
    let reply = proxy.get(MANIFEST);
    assert_eq!((reply.status, reply.code().as_str()), (503, "UNAVAILABLE"), "{reply}");
    assert!(reply.has("retry-after"), "{reply}");
    assert!(started.elapsed() < Duration::from_secs(1), "{:?}", started.elapsed());

    let _registry = FakeRegistry::scripted_on(&address, |visit| {
        visit.serve(|_| answer(200, "", b"back"));
    });
    assert_eq!(proxy.get(MANIFEST).text(), "back");
}

#[test]
fn a_503_before_any_byte_of_an_upload_was_sent_says_when_to_try_again() {
    let proxy = Proxy::start(&Manifests::for_registry("http://127.0.0.1:1"), &[]);
    let mut caller = proxy.caller();
    caller.send(request("PATCH", UPLOAD, "Content-Length: 100000000\r\n"));
    caller.send_if_taken(vec![0; 100_000]);
    let reply = caller.answer().expect("an answer");
    assert_eq!((reply.status, reply.code().as_str()), (503, "UNAVAILABLE"));
    assert!(reply.has("retry-after"), "{reply}");
}

// F02

/// A port whose queue of connections is full: what is sent there is dropped, as by a firewall.
pub(crate) struct BlackHole {
    pub(crate) address: String,
    _listener: rustix::fd::OwnedFd,
    _queued: Vec<TcpStream>,
}

impl BlackHole {
    pub(crate) fn new(host: &str) -> Self {
        use rustix::net::{AddressFamily, SocketType, bind, getsockname, listen, socket};
        let listener = socket(AddressFamily::INET, SocketType::STREAM, None).expect("a socket");
        let place: std::net::SocketAddr = format!("{host}:0").parse().expect("an address");
        bind(&listener, &place).expect("a port");
        listen(&listener, 0).expect("listening");
        let bound = getsockname(&listener).expect("bound");
        let bound = std::net::SocketAddr::try_from(bound).expect("an address");
        let mut queued = Vec::new();
        while let Ok(socket) = TcpStream::connect_timeout(&bound, Duration::from_millis(200)) {
            queued.push(socket);
        }
        Self { address: bound.to_string(), _listener: listener, _queued: queued }
    }
}

#[test]
fn a_registry_that_swallows_connections_is_given_up_in_time_and_slows_nobody_else() {
    let hole = BlackHole::new("127.0.0.1");
    let registry = FakeRegistry::obliging();
    let manifests = Manifests::for_registry(&format!("http://{}", hole.address)).with_connector(
        "ci",
        "good",
        &registry.url(),
    );
    let proxy = Proxy::start(&manifests, &["--connect-seconds", "1", "--cores", "1"]);
    let mut stuck = proxy.caller();
    let started = Instant::now();
    stuck.send(request("GET", MANIFEST, ""));
    while started.elapsed() < Duration::from_millis(700) {
        let asked = Instant::now();
        let target = "/v2/namespaces/ci/connectors/good/team/app/manifests/v1";
        assert_eq!(proxy.get(target).status, 200);
        assert!(asked.elapsed() < Duration::from_millis(500), "{:?}", asked.elapsed());
    }
    let reply = stuck.answer().expect("an answer");
    assert_eq!((reply.status, reply.code().as_str()), (503, "UNAVAILABLE"), "{reply}");
    let elapsed = started.elapsed();
    assert!((900..4000).contains(&elapsed.as_millis()), "{elapsed:?}");
}

#[test]
fn the_next_address_of_a_registry_is_tried_when_the_first_swallows_connections() {
    if lacking(&["mount namespaces"]) {
        return;
    }
    let hole = BlackHole::new("127.0.0.2");
    let port = hole.address.rsplit(':').next().expect("a port").to_owned();
    let listening = format!("127.0.0.1:{port}");
    let registry = FakeRegistry::scripted_on(&listening, |visit| {
        visit.serve(|_| answer(200, "", b"second address"));
    });
    let hosts = "127.0.0.2 registry.test\n127.0.0.1 registry.test\n127.0.0.1 localhost\n";
    let manifests = Manifests::for_registry(&format!("http://registry.test:{port}"));
    let proxy = Proxy::start_with_hosts(&manifests, &["--connect-seconds", "0.5"], Some(hosts));
    let reply = proxy.get(MANIFEST);
    assert_eq!((reply.status, reply.text().as_str()), (200, "second address"), "{reply}");
    let seen = registry.only_request();
    assert_eq!(seen.field("host"), Some(format!("registry.test:{port}").as_str()));
}

#[test]
fn a_registry_whose_name_is_unknown_is_a_503() {
    let proxy = Proxy::start(&Manifests::for_registry("http://nowhere.invalid"), &[]);
    let reply = proxy.get(MANIFEST);
    assert_eq!((reply.status, reply.code().as_str()), (503, "UNAVAILABLE"), "{reply}");
    assert!(reply.has("retry-after"), "{reply}");
}

// F05, F06

/// Answers the first request of the first connection, and ends that connection when the second
/// request arrives. Later connections are served.
fn dying_when_reused(visit: &mut Visit, reset: bool) {
    if visit.connection > 0 {
        visit.serve(|_| answer(200, "", b"fresh"));
        return;
    }
    if visit.head().is_some() {
        visit.send(answer(200, "", b"first"));
    }
    if let Some(mut request) = visit.head() {
        let length = if request.method == "PATCH" { 3 } else { 0 };
        visit.take(&mut request, length);
        if reset {
            visit.reset();
        } else {
            visit.close();
        }
    }
}

#[test]
fn a_bodiless_get_or_head_that_meets_a_dying_connection_is_sent_again_once() {
    for reset in [false, true] {
        for method in ["GET", "HEAD"] {
            let registry = FakeRegistry::scripted(move |visit| dying_when_reused(visit, reset));
            let proxy = start(&registry, &[]);
            let mut caller = proxy.caller();
            assert_eq!(caller.ask(&request("GET", MANIFEST, "")).text(), "first");
            let second = MANIFEST.replace("v1", "v2");
            let reply = caller.ask(&request(method, &second, ""));
            assert_eq!(reply.status, 200, "{method} {reset}: {reply}");
            assert_eq!(registry.arrivals().len(), 3, "{method} {reset}: {:?}", registry.arrivals());
            assert_eq!(registry.connections(), 2, "the second try is on a fresh connection");
        }
    }
}

#[test]
fn what_dies_twice_is_not_sent_a_third_time() {
    let registry = FakeRegistry::scripted(|visit| {
        if visit.connection == 0 {
            dying_when_reused(visit, false);
        } else {
            visit.head();
        }
    });
    let proxy = start(&registry, &[]);
    let mut caller = proxy.caller();
    assert_eq!(caller.ask(&request("GET", MANIFEST, "")).text(), "first");
    let reply = caller.ask(&request("GET", MANIFEST, ""));
    assert_eq!(reply.status, 502, "{reply}");
    assert_eq!(registry.arrivals().len(), 3);
}

#[test]
fn nothing_that_could_change_something_is_sent_again() {
    let upload_start = format!("{PREFIX}/team/app/blobs/uploads/");
    let rows = [
        request("POST", &upload_start, "Content-Length: 0\r\n"),
        upload("PATCH", UPLOAD, "abcdef"),
        upload("PUT", MANIFEST, "{}"),
        request("PUT", UPLOAD, "Content-Length: 0\r\n"),
        request("DELETE", MANIFEST, ""),
    ];
    for text in rows {
        for reset in [false, true] {
            let registry = FakeRegistry::scripted(move |visit| dying_when_reused(visit, reset));
            let proxy = start(&registry, &[]);
            let mut caller = proxy.caller();
            assert_eq!(caller.ask(&request("GET", MANIFEST, "")).text(), "first");
            let reply = caller.ask(&text);
            assert_eq!(reply.status, 502, "{text}: {reply}");
            assert_eq!(registry.arrivals().len(), 2, "{text}: {:?}", registry.arrivals());
        }
    }
}

#[test]
fn a_connection_that_the_registry_closed_while_it_was_idle_is_noticed_before_reuse() {
    let ended = Arc::new(AtomicUsize::new(0));
    let ending = Arc::clone(&ended);
    let registry = FakeRegistry::scripted(move |visit| {
        if visit.head().is_some() {
            visit.send(answer(202, "", b""));
            visit.finish();
            ending.fetch_add(1, Ordering::Release);
            visit.wait_for_end();
        }
    });
    let proxy = start(&registry, &[]);
    let mut caller = proxy.caller();
    let target = format!("{PREFIX}/team/app/blobs/uploads/");
    for round in 1..=5 {
        // On this machine's own network a FIN that has been sent has arrived.
        let reply = caller.ask(&request("POST", &target, "Content-Length: 0\r\n"));
        assert_eq!(reply.status, 202, "{reply}");
        eventually("the registry's end", || (ended.load(Ordering::Acquire) == round).then_some(()));
    }
    assert_eq!(registry.connections(), 5);
}

#[test]
fn an_idle_connection_to_the_registry_is_given_up_in_time() {
    let registry = FakeRegistry::obliging();
    let proxy = start(&registry, &["--idle-registry-seconds", "0.3"]);
    let mut caller = proxy.caller();
    assert_eq!(caller.ask(&request("GET", MANIFEST, "")).status, 200);
    eventually("its end", || (registry.endings().len() == 1).then_some(()));
    assert_eq!(caller.ask(&request("GET", MANIFEST, "")).status, 200);
    assert_eq!(registry.connections(), 2);
}

// F07, F08

#[test]
fn a_caller_that_dies_in_the_middle_of_an_upload_leaves_an_aborted_one_at_the_registry() {
    let chunked = "Transfer-Encoding: chunked\r\n";
    let sized = "Content-Length: 1000000\r\n";
    for (method, framing) in
        [("PATCH", chunked), ("PUT", sized), ("PATCH", sized), ("PUT", chunked)]
    {
        for dies in ["reset", "closes"] {
            let registry = FakeRegistry::scripted(|visit| {
                if let Some(mut request) = visit.head() {
                    visit.body(&mut request);
                    visit.wait_for_end();
                }
            });
            let proxy = start(&registry, &[]);
            let mut caller = proxy.caller();
            caller.send(request(method, UPLOAD, framing));
            if framing == chunked {
                caller.send("7a120\r\n");
            }
            caller.send(noise(9, 500_000));
            if framing == chunked {
                caller.send("\r\n");
            }
            eventually("half the body at the registry", || {
                (registry.raw(0).len() > 400_000).then_some(())
            });
            if dies == "reset" {
                caller.reset();
            } else {
                drop(caller);
            }
            let what = format!("{method} {framing} {dies}");
            eventually("the end of the upload", || (!registry.endings().is_empty()).then_some(()));
            assert!(!registry.only_request().complete, "{what}");
            assert!(!registry.raw(0).ends_with(b"0\r\n\r\n"), "{what}");
            eventually("a free place", || (in_flight(&proxy) == 0.0).then_some(()));
        }
    }
}

#[test]
fn a_caller_that_stalls_in_the_middle_of_an_upload_is_given_up() {
    let registry = FakeRegistry::scripted(|visit| {
        if let Some(mut request) = visit.head() {
            visit.body(&mut request);
            visit.wait_for_end();
        }
    });
    let proxy = start(&registry, &["--body-progress-seconds", "0.5"]);
    let mut caller = proxy.caller();
    caller.send(request("PATCH", UPLOAD, "Content-Length: 1000000\r\n"));
    caller.send(noise(9, 500_000));
    let started = Instant::now();
    match caller.answer() {
        Ok(reply) => assert_eq!(reply.status, 408, "{reply}"),
        Err(broken) => assert!(matches!(broken, Broken::Ended | Broken::Reset), "{broken:?}"),
    }
    assert!(started.elapsed() < Duration::from_secs(8), "{:?}", started.elapsed());
    eventually("the end of the upload", || (!registry.endings().is_empty()).then_some(()));
    assert!(!registry.only_request().complete);
}

#[test]
fn a_caller_that_goes_away_in_the_middle_of_a_download_frees_the_registry() {
    let registry = FakeRegistry::scripted(|visit| {
        visit.head();
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\n\r\n");
        let piece = noise(2, 1 << 20);
        while visit.send(&piece) {}
        visit.wait_for_end();
    });
    let proxy = start(&registry, &[]);
    let mut caller = proxy.caller();
    caller.send(request("GET", &blob(), ""));
    let head = caller.head().expect("a head");
    assert_eq!(head.status, 200);
    drop(caller);
    eventually("the end at the registry", || (!registry.endings().is_empty()).then_some(()));
    eventually("a free place", || (in_flight(&proxy) == 0.0).then_some(()));
}

// F09

#[test]
fn a_registry_that_breaks_off_a_blob_breaks_off_the_callers_too() {
    let whole = noise(7, 3 << 20);
    for chunked in [false, true] {
        for end in ["reset", "close"] {
            for sent in [0, 1, 1 << 20, (3 << 20) - 1] {
                let body = whole.clone();
                let registry = FakeRegistry::scripted(move |visit| {
                    visit.head();
                    if chunked {
                        visit.send("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n");
                        for piece in body[..sent].chunks(100_000) {
                            visit.send(format!("{:x}\r\n", piece.len()));
                            visit.send(piece);
                            visit.send("\r\n");
                        }
                    } else {
                        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\n");
                        visit.send(&body[..sent]);
                    }
                    if end == "reset" {
                        visit.reset();
                    } else {
                        visit.close();
                    }
                });
                let proxy = start(&registry, &[]);
                let what = format!("chunked {chunked}, {end} after {sent}");
                let mut caller = proxy.caller();
                caller.send(request("GET", &blob(), ""));
                match caller.head() {
                    // A reset may overtake the head: then the answer can still be an honest one.
                    Ok(head) if head.status == 502 => {}
                    Ok(head) => assert_cut(caller.body("GET", &head), &whole, &what),
                    Err(broken) => {
                        assert!(matches!(broken, Broken::Ended | Broken::Reset), "{what}");
                    }
                }
            }
        }
    }
}

#[test]
fn a_registry_that_stalls_in_the_middle_of_a_blob_is_given_up() {
    let gate = Gate::default();
    let waiting = gate.clone();
    let registry = FakeRegistry::scripted(move |visit| {
        visit.head();
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 3145728\r\n\r\nhalf");
        waiting.wait();
    });
    let proxy = start(&registry, &["--body-progress-seconds", "0.5"]);
    let mut caller = proxy.caller();
    caller.send(request("GET", &blob(), ""));
    let head = caller.head().expect("a head");
    let whole = [b"half".to_vec(), vec![0; 100]].concat();
    assert_cut(caller.body("GET", &head), &whole, "a stall");
    gate.open();
}

#[test]
fn a_slow_reader_costs_no_memory_and_loses_no_byte() {
    let size = 64 << 20;
    let registry = FakeRegistry::scripted(move |visit| {
        while visit.head().is_some() {
            visit.send(format!("HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n"));
            let piece = noise(2, 1 << 20);
            for _ in 0..64 {
                visit.send(&piece);
            }
        }
    });
    let proxy = start(&registry, &[]);
    let mut callers: Vec<Caller> = (0..4).map(|_| proxy.caller()).collect();
    for caller in &mut callers {
        caller.send(request("GET", &blob(), ""));
        assert_eq!(caller.head().expect("a head").status, 200);
    }
    let piece = noise(2, 1 << 20);
    for _ in 0..64 {
        for caller in &mut callers {
            let mut body = Vec::new();
            caller.take(1 << 20, &mut body).expect("a piece");
            assert!(body == piece);
        }
    }
    assert!(proxy.memory_peak() < 128 << 20, "{} bytes", proxy.memory_peak());
}

// F10

#[test]
fn an_early_refusal_of_an_upload_reaches_a_caller_that_is_still_sending() {
    let body = br#"{"errors":[{"code":"DENIED","message":"quota"}]}"#;
    for (status, expected) in [(401, 403), (403, 403), (413, 413), (429, 429), (503, 502)] {
        for framing in ["Content-Length: 1073741824\r\n", "Transfer-Encoding: chunked\r\n"] {
            let registry = FakeRegistry::scripted(move |visit| {
                if let Some(mut request) = visit.head() {
                    visit.take(&mut request, 200_000);
                    let fields = "Content-Type: application/json\r\nConnection: close\r\n";
                    visit.send(answer(status, fields, body));
                    visit.finish();
                    visit.wait_for_end();
                }
            });
            let proxy = start(&registry, &[]);
            let mut caller = proxy.caller();
            caller.send(request("PATCH", UPLOAD, framing));
            let mut sending = caller.sending_half();
            let chunked = framing.starts_with("Transfer");
            let sender = std::thread::spawn(move || send_until_refused(&mut sending, chunked));
            let reply = caller.answer().expect("the refusal and not a reset");
            let what = format!("{status} {framing}");
            assert_eq!(reply.status, expected, "{what}: {reply}");
            assert_ne!(reply.code(), "", "{what}");
            assert_eq!(reply.field("connection"), Some("close"), "{what}");
            let ended = caller.end();
            assert!(matches!(ended, Broken::Ended | Broken::Reset), "{what}: {ended:?}");
            let taken = sender.join().expect("the sender");
            assert!(taken < 128 << 20, "{what}: {taken} bytes were taken");
        }
    }
}

/// Sends a body of a gibibyte until the other side has had enough; how much it took.
fn send_until_refused(socket: &mut TcpStream, chunked: bool) -> usize {
    use std::io::Write as _;
    let piece = noise(3, 1 << 20);
    let mut taken = 0;
    for _ in 0..1024 {
        let framed =
            if chunked { [b"100000\r\n", &*piece, b"\r\n"].concat() } else { piece.clone() };
        if socket.write_all(&framed).is_err() {
            break;
        }
        taken += piece.len();
    }
    taken
}

#[test]
fn an_early_refusal_of_our_own_reaches_a_caller_that_is_still_sending() {
    let registry = FakeRegistry::obliging();
    let proxy = start(&registry, &["--manifest-bytes", "100000"]);
    let wrong = request("PATCH", UPLOAD, "Content-Length: 1073741824\r\n")
        .replace(&crate::support::caller::basic(crate::support::TOKEN), "Bearer wrong");
    let large = request("PUT", MANIFEST, "Content-Length: 1073741824\r\n");
    let endless = request("PUT", MANIFEST, "Transfer-Encoding: chunked\r\n");
    for (head, status, chunked) in [(wrong, 401, false), (large, 413, false), (endless, 413, true)]
    {
        let mut caller = proxy.caller();
        caller.send(&head);
        let mut sending = caller.sending_half();
        let sender = std::thread::spawn(move || send_until_refused(&mut sending, chunked));
        let reply = caller.answer().expect("the refusal and not a reset");
        assert_eq!(reply.status, status, "{reply}");
        assert_eq!(reply.field("connection"), Some("close"));
        assert!(sender.join().expect("the sender") < 128 << 20);
    }
    assert!(registry.requests().iter().all(|seen| !seen.complete), "nothing was stored");
}

#[test]
fn an_early_answer_that_is_good_news_is_relayed_while_the_body_still_flows() {
    // Answers and bodies run in both directions at once: the answer to an upload may come before
    // the upload ends, and the registry may go on reading.
    let registry = FakeRegistry::scripted(|visit| {
        if let Some(mut request) = visit.head() {
            visit.send("HTTP/1.1 202 Accepted\r\nContent-Length: 4\r\n\r\nea");
            visit.body(&mut request);
            visit.send("rl");
            visit.wait_for_end();
        }
    });
    let proxy = start(&registry, &[]);
    let mut caller = proxy.caller();
    caller.send(request("PATCH", UPLOAD, "Content-Length: 1000000\r\n"));
    caller.send(noise(1, 500_000));
    let head = caller.head().expect("an early head");
    assert_eq!(head.status, 202);
    caller.send_if_taken(noise(1, 500_000));
    if let Ok(body) = caller.body("PATCH", &head) {
        assert_eq!(body, b"earl");
    }
}

// F11

#[test]
fn an_html_page_of_an_ingress_becomes_an_oci_error_with_the_same_status() {
    let page = format!("<html><h1>413 Too Large</h1>{}</html>", "x".repeat(30_000));
    for status in [404, 413, 500, 502, 503, 504] {
        let body = page.clone();
        let registry = FakeRegistry::answering(move |_| {
            let fields = "Content-Type: text/html\r\nServer: nginx\r\nSet-Cookie: a=b\r\n";
            answer(status, fields, body.as_bytes())
        });
        let proxy = start(&registry, &[]);
        let mut caller = proxy.caller();
        for _ in 0..2 {
            let reply = caller.ask(&request("GET", MANIFEST, ""));
            assert_eq!(reply.status, status, "{reply}");
            assert_ne!(reply.code(), "", "{reply}");
            assert!(!reply.text().contains("<h1>") && !reply.has("set-cookie"), "{reply}");
        }
    }
}

#[test]
fn an_endless_html_page_is_not_read_to_its_end() {
    let registry = FakeRegistry::scripted(|visit| {
        visit.head();
        visit.send(
            "HTTP/1.1 502 Bad\r\nContent-Type: text/html\r\nTransfer-Encoding: chunked\r\n\r\n",
        );
        while visit.send(format!("1000\r\n{}\r\n", "x".repeat(4096))) {}
    });
    let proxy = start(&registry, &[]);
    let reply = proxy.get(MANIFEST);
    assert_eq!(reply.status, 502, "{reply}");
    assert!(!reply.text().contains("xxx"));
    assert_ne!(reply.code(), "");
}

// F12, F13

#[test]
fn a_registry_that_dies_after_bytes_of_an_upload_is_a_502_and_the_end_of_the_connection() {
    for method in ["PUT", "PATCH"] {
        for (taken, end) in
            [(1, "reset"), (200_000, "reset"), (200_000, "close"), (500_000, "close")]
        {
            let registry = FakeRegistry::scripted(move |visit| {
                if let Some(mut request) = visit.head() {
                    visit.take(&mut request, taken);
                    if end == "reset" {
                        visit.reset();
                    } else {
                        visit.close();
                    }
                }
            });
            let proxy = start(&registry, &[]);
            let mut caller = proxy.caller();
            caller.send(request(method, UPLOAD, "Content-Length: 500000\r\n"));
            caller.send_if_taken(noise(8, 500_000));
            let reply = caller.answer().expect("an answer and not a reset");
            assert_eq!((reply.status, reply.code().as_str()), (502, "UNKNOWN"), "{method} {taken}");
            assert!(!reply.has("retry-after"), "{reply}");
            assert_eq!(reply.field("connection"), Some("close"));
            assert_eq!(registry.arrivals().len(), 1);
        }
    }
}

#[test]
fn a_registry_that_takes_an_upload_and_never_answers_is_given_up_as_502() {
    let gate = Gate::default();
    let waiting = gate.clone();
    let registry = FakeRegistry::scripted(move |visit| {
        if let Some(mut request) = visit.head() {
            visit.body(&mut request);
            waiting.wait();
        }
    });
    let proxy = start(&registry, &["--upload-answer-seconds", "0.5", "--answer-seconds", "0.2"]);
    let reply = proxy.ask(&upload("PUT", UPLOAD, "hello"));
    assert_eq!(reply.status, 502, "{reply}");
    assert_eq!(registry.arrivals().len(), 1);
    gate.open();
}

// F14

#[test]
fn a_registry_that_drips_or_keeps_silent_is_given_up_as_504() {
    for drips in [false, true] {
        let registry = FakeRegistry::scripted(move |visit| {
            visit.head();
            if drips {
                let head = b"HTTP/1.1 200 OK\r\nX-Very-Long-Name-Of-A-Field: 1\r\n\r\n";
                visit.drip(head, Duration::from_millis(100));
            }
            visit.wait_for_end();
        });
        let proxy = start(&registry, &["--answer-seconds", "0.5"]);
        let started = Instant::now();
        let reply = proxy.get(MANIFEST);
        assert_eq!((reply.status, reply.code().as_str()), (504, "UNAVAILABLE"), "{reply}");
        assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
        eventually("the connection's end", || (!registry.endings().is_empty()).then_some(()));
    }
}

// F15, F16, F18

#[test]
fn an_answer_that_breaks_http_is_a_502_or_a_cut_and_its_connection_is_not_kept() {
    for (what, bytes) in broken_answers() {
        let first = bytes.clone();
        let registry = FakeRegistry::scripted(move |visit| {
            if visit.connection > 0 {
                visit.serve(|_| answer(200, "", b"fresh"));
                return;
            }
            visit.head();
            visit.send(&first);
            visit.wait_for_end();
        });
        let proxy = start(&registry, &[]);
        let mut caller = proxy.caller();
        caller.patience(Duration::from_secs(8));
        caller.send(request("GET", MANIFEST, ""));
        match caller.head() {
            Ok(head) if head.status == 502 => {
                assert_eq!(
                    head.field("content-type").map(|kind| &kind[..16]),
                    Some("application/json")
                );
            }
            Ok(head) => {
                assert!(bytes.contains("chunked\r\n\r\n"), "{what}: {head}");
                assert_cut(caller.body("GET", &head), b"hello!!", what);
            }
            Err(broken) => {
                assert!(matches!(broken, Broken::Ended | Broken::Reset), "{what}: {broken:?}");
                assert!(bytes.contains("chunked\r\n\r\n"), "{what}: a 502 was possible");
            }
        }
        drop(caller);
        assert_eq!(proxy.get(MANIFEST).text(), "fresh", "{what}: the connection was kept");
    }
}

/// Answers that no registry may give, each with what is wrong with it.
fn broken_answers() -> Vec<(&'static str, String)> {
    let long = format!("X: {}\r\n", "y".repeat(70_000));
    let many = "X: y\r\n".repeat(1000);
    vec![
        ("a head of 70 KiB", format!("HTTP/1.1 200 OK\r\n{long}Content-Length: 0\r\n\r\n")),
        ("a thousand fields", format!("HTTP/1.1 200 OK\r\n{many}Content-Length: 0\r\n\r\n")),
        (
            "both framings",
            "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n"
                .into(),
        ),
        (
            "two lengths",
            "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nContent-Length: 3\r\n\r\nabc".into(),
        ),
        ("a list of lengths", "HTTP/1.1 200 OK\r\nContent-Length: 2, 3\r\n\r\nabc".into()),
        ("a negative length", "HTTP/1.1 200 OK\r\nContent-Length: -2\r\n\r\nabc".into()),
        ("a signed length", "HTTP/1.1 200 OK\r\nContent-Length: +2\r\n\r\nabc".into()),
        (
            "an endless length",
            "HTTP/1.1 200 OK\r\nContent-Length: 99999999999999999999\r\n\r\nabc".into(),
        ),
        ("another coding", "HTTP/1.1 200 OK\r\nTransfer-Encoding: gzip\r\n\r\nabc".into()),
        (
            "chunked twice",
            "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked, chunked\r\n\r\n0\r\n\r\n".into(),
        ),
        ("a bare LF", "HTTP/1.1 200 OK\nContent-Length: 2\n\nab".into()),
        ("a folded field", "HTTP/1.1 200 OK\r\nX: a\r\n b\r\nContent-Length: 0\r\n\r\n".into()),
        ("a space in a name", "HTTP/1.1 200 OK\r\nX : a\r\nContent-Length: 0\r\n\r\n".into()),
        ("no HTTP at all", "220 smtp.example ESMTP\r\n\r\n".into()),
        ("another version", "HTTP/2.0 200 OK\r\nContent-Length: 0\r\n\r\n".into()),
        ("a status of two digits", "HTTP/1.1 20 OK\r\nContent-Length: 0\r\n\r\n".into()),
        ("a switch of protocols", "HTTP/1.1 101 Switching\r\nUpgrade: x\r\n\r\n".into()),
        ("a chunk size of hex prefix", chunked_answer("0x5\r\nhello\r\n0\r\n\r\n")),
        ("a chunk size with a sign", chunked_answer("+5\r\nhello\r\n0\r\n\r\n")),
        ("a chunk size that is negative", chunked_answer("-1\r\nhello\r\n0\r\n\r\n")),
        ("a chunk size of 17 digits", chunked_answer("00000000000000005\r\nhello\r\n0\r\n\r\n")),
        ("a chunk that runs over", chunked_answer("5\r\nhello!\r\n0\r\n\r\n")),
        ("a chunk line with LF only", chunked_answer("5\nhello\r\n0\r\n\r\n")),
        ("an empty chunk size", chunked_answer("\r\nhello\r\n0\r\n\r\n")),
    ]
}

fn chunked_answer(chunks: &str) -> String {
    format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{chunks}")
}

#[test]
fn interim_answers_are_dropped_up_to_a_bound() {
    let rows = [(5, 200), (1000, 502)];
    for (count, status) in rows {
        let registry = FakeRegistry::scripted(move |visit| {
            visit.head();
            let interim = "HTTP/1.1 103 Early Hints\r\nLink: </a>; rel=preload\r\n\r\n";
            let more = "HTTP/1.1 100 Continue\r\n\r\n";
            visit.send(format!("{}{more}", interim.repeat(count)));
            visit.send(answer(200, "", b"late"));
            visit.wait_for_end();
        });
        let proxy = start(&registry, &[]);
        let reply = proxy.get(MANIFEST);
        assert_eq!(reply.status, status, "{count}: {reply}");
        assert_eq!(reply.interim, [0; 0], "{count}");
    }
}

// F17

#[test]
fn bytes_after_an_answer_never_become_part_of_another() {
    let smuggled = "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil";
    for later in [false, true] {
        let sent = Arc::new(AtomicUsize::new(0));
        let sending = Arc::clone(&sent);
        let registry = FakeRegistry::scripted(move |visit| {
            let mut number = 0;
            while visit.head().is_some() {
                number += 1;
                let good = answer(200, "", b"good");
                if number > 1 || visit.connection > 0 {
                    visit.send(good);
                } else if later {
                    visit.send(good);
                    visit.send(smuggled);
                } else {
                    visit.send([&good, smuggled.as_bytes()].concat());
                }
                sending.fetch_add(1, Ordering::Release);
            }
        });
        let proxy = start(&registry, &["--cores", "1"]);
        let mut caller = proxy.caller();
        for round in 0..6 {
            let reply = caller.ask(&request("GET", MANIFEST, ""));
            assert_eq!(reply.text(), "good", "round {round}, later {later}");
            // What comes after the next request was sent is an answer to it, whoever meant what.
            eventually("the bytes after the answer", || {
                (sent.load(Ordering::Acquire) > round).then_some(())
            });
        }
        let _other: Vec<Caller> = (0..3)
            .map(|_| {
                let mut other = proxy.caller();
                assert_eq!(other.ask(&request("GET", MANIFEST, "")).text(), "good");
                other
            })
            .collect();
    }
}

#[test]
fn a_body_after_an_answer_that_has_none_never_becomes_part_of_another() {
    for (method, first) in [
        ("HEAD", "HTTP/1.1 200 OK\r\nContent-Length: 4\r\n\r\nevil"),
        ("GET", "HTTP/1.1 304 Not Modified\r\nContent-Length: 4\r\n\r\nevil"),
        ("GET", "HTTP/1.1 204 No Content\r\n\r\nevil"),
    ] {
        let registry = FakeRegistry::scripted(move |visit| {
            if visit.connection == 0 && visit.head().is_some() {
                visit.send(first);
            }
            visit.serve(|_| answer(200, "", b"good"));
        });
        let proxy = start(&registry, &["--cores", "1"]);
        let mut caller = proxy.caller();
        caller.ask(&request(method, MANIFEST, ""));
        let reply = caller.ask(&request("GET", MANIFEST, ""));
        assert!(reply.status == 502 || reply.text() == "good", "{method}: {reply}");
    }
}

#[test]
fn an_answer_that_ends_with_its_connection_is_relayed_whole() {
    let body = noise(12, 300_000);
    let sent = body.clone();
    let registry = FakeRegistry::scripted(move |visit| {
        visit.head();
        visit.send("HTTP/1.0 200 OK\r\nContent-Type: text/plain\r\n\r\n");
        visit.send(&sent);
        visit.finish();
        visit.wait_for_end();
    });
    let proxy = start(&registry, &[]);
    assert!(proxy.get(MANIFEST).body == body);
}

#[test]
fn a_registry_that_closes_after_each_answer_costs_latency_and_nothing_else() {
    let registry = FakeRegistry::scripted(|visit| {
        visit.head();
        visit.send(answer(200, "Connection: close\r\n", b"bye"));
        visit.close();
    });
    let proxy = start(&registry, &[]);
    let mut caller = proxy.caller();
    for _ in 0..20 {
        assert_eq!(caller.ask(&request("GET", MANIFEST, "")).text(), "bye");
    }
    assert_eq!((registry.connections(), registry.arrivals().len()), (20, 20));
}

#[test]
fn a_download_that_dies_at_the_registry_is_logged_as_the_registrys_fault() {
    let registry = FakeRegistry::scripted(|visit| {
        visit.head();
        visit.send("HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\nhalf");
        visit.close();
    });
    let proxy = start(&registry, &[]);
    let mut caller = proxy.caller();
    caller.send(request("GET", MANIFEST, ""));
    let _ = caller.answer();
    proxy.logged(&["access", "registry/stream"]);
}

#[test]
fn a_black_hole_swallows_connections_and_a_refusal_does_not() {
    let hole = BlackHole::new("127.0.0.1");
    let address = hole.address.parse().expect("an address");
    let tried = TcpStream::connect_timeout(&address, Duration::from_millis(300));
    let kind = tried.expect_err("nothing answers").kind();
    assert_eq!(kind, std::io::ErrorKind::TimedOut);
}
