//! What a caller must not send, row by row: refused before anything reaches the registry.
//!
//! The numbers are those of the bad-input matrix. Every row carries a good token and a right, so
//! that nothing but the row itself is what keeps it out.

use crate::support::caller::{basic, request, upload};
use crate::support::{
    Answer, Broken, FakeRegistry, HOST, Manifests, PREFIX, Proxy, STRANGER_TOKEN, TOKEN, answer,
    base64, digest_of, eventually,
};

const MANIFEST: &str = "/v2/namespaces/ci/connectors/harbor/team/app/manifests/v1";
const UPLOADS: &str = "/v2/namespaces/ci/connectors/harbor/team/app/blobs/uploads/";

/// One proxy and one registry for a whole table.
struct Table {
    registry: FakeRegistry,
    proxy: Proxy,
}

impl Table {
    fn new() -> Self {
        let registry = FakeRegistry::obliging();
        let manifests =
            Manifests::for_registry(&registry.url()).with_connector("ci", "other", &registry.url());
        let proxy = Proxy::start(&manifests, &["--head-seconds", "2"]);
        Self { registry, proxy }
    }

    /// The answer to `bytes`, on a connection of their own.
    #[track_caller]
    fn send(&self, what: &str, bytes: &[u8]) -> Result<Answer, Broken> {
        let mut caller = self.proxy.caller();
        caller.send_if_taken(bytes);
        let answer = caller.answer();
        if let Ok(answer) = &answer {
            assert!(answer.status >= 400, "{what}: {answer}");
            if answer.has("content-type") {
                assert_ne!(answer.code(), "", "{what}");
            }
        }
        answer
    }

    /// `bytes` are refused with one of `statuses`, and nothing reaches the registry.
    #[track_caller]
    fn refuses(&self, what: &str, bytes: impl AsRef<[u8]>, statuses: &[u16]) {
        let answer = self.send(what, bytes.as_ref()).unwrap_or_else(|broken| {
            panic!("{what}: {broken:?}");
        });
        assert!(statuses.contains(&answer.status), "{what}: {answer}");
        assert!(self.registry.is_untouched(), "{what}: {:?}", self.registry.arrivals());
    }

    /// The same, and the connection ends: what follows on it could be read in two ways.
    #[track_caller]
    fn refuses_and_closes(&self, what: &str, bytes: impl AsRef<[u8]>, statuses: &[u16]) {
        let mut caller = self.proxy.caller();
        caller.send_if_taken(bytes.as_ref());
        let answer = caller.answer().unwrap_or_else(|broken| panic!("{what}: {broken:?}"));
        assert!(statuses.contains(&answer.status), "{what}: {answer}");
        assert_eq!(answer.field("connection"), Some("close"), "{what}: {answer}");
        caller.finish();
        let ended = caller.end();
        assert!(matches!(ended, Broken::Ended | Broken::Reset), "{what}: {ended:?}");
        assert!(self.registry.is_untouched(), "{what}: {:?}", self.registry.arrivals());
    }
}

/// A request whose target is written as it is.
fn get(target: &str) -> String {
    request("GET", target, "")
}

/// A request with raw bytes in the place of its fields.
fn with_fields(method: &str, target: &str, fields: &str) -> Vec<u8> {
    let authorization = basic(TOKEN);
    format!("{method} {target} HTTP/1.1\r\nAuthorization: {authorization}\r\n{fields}\r\n")
        .into_bytes()
}

// B01–B08, B31

#[test]
#[expect(clippy::too_many_lines, reason = "a table: one row per path")]
fn a_path_that_two_servers_could_read_differently_is_refused() {
    let table = Table::new();
    let other = "namespaces/ci/connectors/other/team/app/manifests/v1";
    let rows = [
        format!("{PREFIX}/..%2f..%2f..%2f..%2f{other}"),
        format!("{PREFIX}/../../../../{other}"),
        format!("{PREFIX}/team/../../other/app/manifests/v1"),
        format!("{PREFIX}/%2e%2e/%2e%2e/api/v2.0/users"),
        format!("{PREFIX}/%2E%2E/manifests/v1"),
        format!("{PREFIX}/team/./app/manifests/v1"),
        format!("{PREFIX}//team/app/manifests/v1"),
        format!("/{PREFIX}/team/app/manifests/v1"),
        format!("{PREFIX}/team/app//manifests/v1"),
        format!("{PREFIX}/team/app/manifests/v1/"),
        format!("{PREFIX}/team/app/manifests/"),
        format!("{PREFIX}/team/app/tags/list/"),
        "/v2//namespaces/ci/connectors/harbor/team/app/manifests/v1".into(),
        "/v2/namespaces//connectors/harbor/team/app/manifests/v1".into(),
        "/v2/namespaces/ci/connectors//team/app/manifests/v1".into(),
        "/v2/./namespaces/ci/connectors/harbor/team/app/manifests/v1".into(),
        format!("{PREFIX}/team/app%252f/manifests/v1"),
        format!("{PREFIX}/team/%c0%afapp/manifests/v1"),
        format!("{PREFIX}/team/app%00/manifests/v1"),
        format!("{PREFIX}/team/app%0d%0aX:y/manifests/v1"),
        format!("{PREFIX}/team/app%zz/manifests/v1"),
        format!("{PREFIX}/team/app%2/manifests/v1"),
        format!("{PREFIX}/team%2fapp/manifests/v1"),
        "/v2/%6eamespaces/ci/connectors/harbor/team/app/manifests/v1".into(),
        "/v2/namespaces/ci/connectors/h%61rbor/team/app/manifests/v1".into(),
        format!("{PREFIX}/team/%41pp/manifests/v1"),
        format!("{PREFIX}/team/app/manifests/%76%31"),
        "/v2/namespaces/CI/connectors/harbor/team/app/manifests/v1".into(),
        "/v2/namespaces/ci/connectors/Harbor/team/app/manifests/v1".into(),
        "/v2/namespaces/-ci/connectors/harbor/team/app/manifests/v1".into(),
        "/v2/namespaces/ci/connectors/harbor-/team/app/manifests/v1".into(),
        "/v2/namespaces/c.i/connectors/harbor/team/app/manifests/v1".into(),
        format!("{PREFIX}/team/App/manifests/v1"),
        format!("{PREFIX}/-team/app/manifests/v1"),
        format!("{PREFIX}/team./app/manifests/v1"),
        format!("{PREFIX}/team/_app/manifests/v1"),
        format!("{PREFIX}/team/a___b/manifests/v1"),
        format!("{PREFIX}/team/a..b/manifests/v1"),
        format!("{PREFIX}/{}/manifests/v1", "a".repeat(256)),
        format!("{PREFIX}/manifests/v1"),
        format!("{PREFIX}/tags/list"),
        format!("{PREFIX}/blobs/uploads/"),
        PREFIX.to_owned(),
        format!("{PREFIX}/"),
        format!("{PREFIX}/team/app"),
        format!("{PREFIX}/team/app/manifests/{}", "t".repeat(129)),
        format!("{PREFIX}/team/app/manifests/.."),
        format!("{PREFIX}/team/app/manifests/.tag"),
        format!("{PREFIX}/team/app/blobs/sha256:abc"),
        format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x").to_uppercase()),
        format!("{PREFIX}/team/app/blobs/nonsense"),
        format!("{PREFIX}/team/app/nonsense/v1"),
        format!("{PREFIX}/team/app/manifests/v1#fragment"),
        format!("{PREFIX}/team\\app/manifests/v1"),
        format!("{PREFIX}/team|app/manifests/v1"),
        format!("{PREFIX}/team{{app}}/manifests/v1"),
        format!("{PREFIX}/team/app/manifests/v1;x=y"),
        "/v3/namespaces/ci/connectors/harbor/team/app/manifests/v1".into(),
        "/V2/namespaces/ci/connectors/harbor/team/app/manifests/v1".into(),
        "v2/namespaces/ci/connectors/harbor/team/app/manifests/v1".into(),
        "*".into(),
    ];
    for target in rows {
        table.refuses(&target, get(&target), &[400]);
        let in_host_form = get(&target).replace("Host: proxy", &format!("Host: {HOST}"));
        if !target.starts_with("/v2/namespaces/") {
            table.refuses(&target, in_host_form, &[400]);
        }
    }
}

#[test]
fn a_path_that_is_refused_says_name_invalid() {
    let table = Table::new();
    for target in [format!("{PREFIX}/../x/manifests/v1"), format!("{PREFIX}/team/App/manifests/v1")]
    {
        let answer = table.send(&target, get(&target).as_bytes()).expect("an answer");
        assert_eq!((answer.status, answer.code().as_str()), (400, "NAME_INVALID"), "{target}");
    }
}

#[test]
fn bytes_that_no_target_has_are_refused() {
    let table = Table::new();
    for byte in [0_u8, 1, b'\t', b' ', b'\r', b'\n', 0x7f, 0x80, 0xc3, 0xff] {
        let mut bytes = get(MANIFEST).into_bytes();
        let place = bytes.windows(3).position(|part| part == b"app").expect("the repository");
        bytes[place + 1] = byte;
        table.refuses_and_closes(&format!("byte {byte:#x}"), bytes, &[400]);
    }
}

#[test]
fn only_the_colon_of_a_digest_may_be_escaped_and_it_passes_as_it_was_written() {
    let table = Table::new();
    for colon in ["%3A", "%3a", ":"] {
        let digest = digest_of(b"x").replace(':', colon);
        let before = table.registry.requests().len();
        let answer = table.proxy.get(&format!("{PREFIX}/team/app/blobs/{digest}"));
        assert_eq!(answer.status, 200, "{colon}: {answer}");
        let seen = &table.registry.requests()[before];
        assert_eq!(seen.target, format!("/v2/team/app/blobs/{digest}"));
    }
}

// B09–B14, B16

#[test]
fn framing_that_could_be_read_in_two_ways_is_refused_and_ends_the_connection() {
    let table = Table::new();
    let body = "4\r\nabcd\r\n0\r\n\r\n";
    let rows = [
        "Transfer-Encoding: chunked\r\nContent-Length: 4\r\n",
        "Content-Length: 4\r\nTransfer-Encoding: chunked\r\n",
        "Content-Length: 4\r\nContent-Length: 5\r\n",
        "Content-Length: 4\r\nContent-Length: 4\r\n",
        "Content-Length: 4, 4\r\n",
        "Content-Length: +4\r\n",
        "Content-Length: -1\r\n",
        "Content-Length: 0x4\r\n",
        "Content-Length: 4 4\r\n",
        "Content-Length: 4.0\r\n",
        "Content-Length: \r\n",
        "Content-Length: 99999999999999999999\r\n",
        "Content-Length: 18446744073709551616\r\n",
        "Content-Length : 4\r\n",
        "Transfer-Encoding: xchunked\r\n",
        "Transfer-Encoding: chunked, identity\r\n",
        "Transfer-Encoding: chunked, chunked\r\n",
        "Transfer-Encoding: gzip, chunked\r\n",
        "Transfer-Encoding: identity\r\n",
        "Transfer-Encoding: \r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
        "Transfer-Encoding: chunked;a=b\r\n",
        "Transfer-Encoding:\r\n chunked\r\n",
        "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n",
        "transfer-encoding: chunked\r\nTransfer-Encoding: identity\r\n",
    ];
    for framing in rows {
        let fields = format!("Host: proxy\r\n{framing}");
        let bytes = [with_fields("PUT", MANIFEST, &fields), body.as_bytes().to_vec()].concat();
        table.refuses_and_closes(framing, bytes, &[400, 501]);
    }
}

#[test]
fn an_unknown_coding_is_told_from_a_broken_one() {
    let table = Table::new();
    let bytes = with_fields("PUT", MANIFEST, "Host: proxy\r\nTransfer-Encoding: gzip, chunked\r\n");
    table.refuses_and_closes("gzip", bytes, &[501]);
}

#[test]
fn http_1_0_has_no_transfer_coding() {
    let table = Table::new();
    let text = request("PUT", MANIFEST, "Transfer-Encoding: chunked\r\n");
    let text = text.replace("HTTP/1.1", "HTTP/1.0") + "0\r\n\r\n";
    table.refuses_and_closes("1.0", text, &[400]);
}

#[test]
fn http_1_0_without_a_coding_is_served_and_then_closed() {
    let table = Table::new();
    let mut caller = table.proxy.caller();
    let answer = caller.ask(&get(MANIFEST).replace("HTTP/1.1", "HTTP/1.0"));
    assert_eq!(answer.status, 200, "{answer}");
    assert_eq!(caller.end(), Broken::Ended);
}

#[test]
fn chunks_that_break_their_grammar_abort_the_upload() {
    let rows = [
        ("a hex prefix", "0x10\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("a sign", "+5\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("negative", "-1\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("17 digits", "00000000000000005\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("an endless extension", format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1 << 20))),
        ("no CRLF after a chunk", "5\r\nhelloX\r\n0\r\n\r\n".to_owned()),
        ("LF only", "5\nhello\n0\n\n".to_owned()),
        ("a bare CR in the size", "5\rx\nhello\r\n0\r\n\r\n".to_owned()),
        ("a space before the size", " 5\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("a space after the size", "5 \r\nhello\r\n0\r\n\r\n".to_owned()),
        ("an empty size", "\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("not hex", "5g\r\nhello\r\n0\r\n\r\n".to_owned()),
        ("a trailer with a bare LF", "5\r\nhello\r\n0\r\nX: y\n\r\n".to_owned()),
    ];
    for (what, chunks) in rows {
        let registry = FakeRegistry::scripted(|visit| {
            if let Some(mut request) = visit.head() {
                visit.body(&mut request);
                visit.wait_for_end();
            }
        });
        let proxy = Proxy::in_front_of(&registry);
        let mut caller = proxy.caller();
        let head = request("PATCH", &format!("{UPLOADS}1"), "Transfer-Encoding: chunked\r\n");
        caller.send_if_taken(format!("{head}{chunks}"));
        match caller.answer() {
            Ok(answer) => {
                assert_eq!(answer.status, 400, "{what}: {answer}");
                assert_eq!(answer.field("connection"), Some("close"), "{what}");
            }
            Err(broken) => assert_eq!(broken, Broken::Reset, "{what}"),
        }
        drop(caller);
        if !registry.is_untouched() {
            eventually("the aborted upload", || (!registry.endings().is_empty()).then_some(()));
            assert!(registry.requests().iter().all(|seen| !seen.complete), "{what}");
            assert!(!registry.raw(0).ends_with(b"0\r\n\r\n"), "{what}");
        }
    }
}

#[test]
fn trailers_and_chunk_extensions_never_reach_the_registry() {
    let registry = FakeRegistry::answering(|_| answer(202, "", b""));
    let proxy = Proxy::in_front_of(&registry);
    let head = request("PATCH", &format!("{UPLOADS}1"), "Transfer-Encoding: chunked\r\n");
    let chunks =
        "5;name=value\r\nhello\r\n0\r\nAuthorization: Basic eA==\r\nContent-Length: 9\r\n\r\n";
    let mut caller = proxy.caller();
    caller.send(format!("{head}{chunks}"));
    let answer = caller.answer().expect("an answer");
    if answer.status == 202 {
        assert_eq!(registry.only_request().body, b"hello");
    } else {
        assert_eq!(answer.status, 400, "{answer}");
    }
    let raw = String::from_utf8_lossy(&registry.raw(0)).to_lowercase();
    assert!(!raw.contains("name=value") && !raw.contains("basic ea=="), "{raw}");
}

#[test]
fn heads_that_break_their_grammar_are_refused_and_end_the_connection() {
    let table = Table::new();
    let rows: [(&str, &[u8]); 16] = [
        ("a bare CR in a value", b"X: a\rb\r\n"),
        ("a bare LF between lines", b"X: a\nY: b\r\n"),
        ("a NUL in a value", b"X: a\0b\r\n"),
        ("a control byte in a value", b"X: a\x01b\r\n"),
        ("a space in a name", b"X y: a\r\n"),
        ("a space before the colon", b"X : a\r\n"),
        ("no colon", b"nonsense\r\n"),
        ("UTF-8 in a name", b"X\xc3\xa9: a\r\n"),
        ("an empty name", b": a\r\n"),
        ("a line that starts with a space", b" X: a\r\n"),
        ("a folded line", b"X: a\r\n b\r\n"),
        ("a tab in a name", b"X\ty: a\r\n"),
        ("a bracket in a name", b"X(y): a\r\n"),
        ("two hosts", b"Host: other\r\n"),
        ("the same host twice", b"Host: proxy\r\n"),
        ("a CR before the colon", b"X\r: a\r\n"),
    ];
    for (what, line) in rows {
        let mut bytes = with_fields("GET", MANIFEST, "Host: proxy\r\n");
        bytes.truncate(bytes.len() - 2);
        bytes.extend_from_slice(line);
        bytes.extend_from_slice(b"\r\n");
        table.refuses_and_closes(what, bytes, &[400]);
    }
    for (what, host) in [
        ("no host", ""),
        ("user information", "Host: user@proxy\r\n"),
        ("a path", "Host: proxy/x\r\n"),
        ("a space", "Host: pro xy\r\n"),
        ("an empty host", "Host: \r\n"),
        ("a port that is none", "Host: proxy:http\r\n"),
        ("a port too large", "Host: proxy:65536\r\n"),
        ("a percent sign", "Host: c-harbor%2eci\r\n"),
    ] {
        table.refuses_and_closes(what, with_fields("GET", MANIFEST, host), &[400]);
    }
}

#[test]
fn an_absolute_target_names_the_connector_and_the_host_field_does_not() {
    let (mine, other) = (FakeRegistry::obliging(), FakeRegistry::obliging());
    let manifests =
        Manifests::for_registry(&mine.url()).with_connector("ci", "other", &other.url());
    let proxy = Proxy::start(&manifests, &[]);
    let target = "http://c-other.ci.svc/v2/team/app/manifests/v1";
    let answer = proxy.get_at(HOST, target);
    assert!(mine.is_untouched(), "the Host never wins over an absolute target");
    assert_eq!(answer.status, 200, "{answer}");
    assert_eq!(other.only_request().target, "/v2/team/app/manifests/v1");
    for target in [
        "http://c-other.ci.svc@evil/v2/a/manifests/v1",
        "http://c-other.ci.svc%2f/v2/a/manifests/v1",
        "http:///v2/a/manifests/v1",
        "https://c-other.ci.svc/v2/a/manifests/v1",
        "http://c-other.ci.svc",
        "c-other.ci.svc:80",
        "*",
    ] {
        assert_eq!(proxy.get_at(HOST, target).status, 400, "{target}");
    }
}

// B15

#[test]
fn fields_with_an_underscore_never_reach_the_registry() {
    let table = Table::new();
    for name in ["Content_Length: 4", "X_Forwarded_For: 1", "Transfer_Encoding: chunked"] {
        let answer = table.proxy.ask(&request("GET", MANIFEST, &format!("{name}\r\n")));
        assert!([200, 400].contains(&answer.status), "{name}: {answer}");
    }
    let seen = table.registry.requests();
    assert!(seen.iter().all(|seen| seen.fields.iter().all(|(name, _)| !name.contains('_'))));
}

// B17

#[test]
fn a_request_hidden_in_a_body_is_authorised_on_its_own() {
    let registry = FakeRegistry::answering(|seen| answer(200, "", seen.target.as_bytes()));
    let proxy = Proxy::in_front_of(&registry);
    let hidden = format!("GET {MANIFEST} HTTP/1.1\r\nHost: proxy\r\n\r\n");
    let outer = request("PUT", MANIFEST, "Content-Length: 2\r\n");
    let mut caller = proxy.caller();
    caller.send(format!("{outer}{{}}{hidden}"));
    assert_eq!(caller.answer().expect("an answer").status, 200);
    let second = caller.answer().expect("an answer");
    assert_eq!((second.status, second.code().as_str()), (401, "UNAUTHORIZED"));
    assert_eq!(registry.arrivals().len(), 1);

    let wrapped = request("PUT", MANIFEST, &format!("Content-Length: {}\r\n", hidden.len()));
    let mut caller = proxy.caller();
    caller.send(format!("{wrapped}{hidden}"));
    assert_eq!(caller.answer().expect("an answer").status, 200);
    assert_eq!(registry.requests()[1].body, hidden.as_bytes(), "it was a body and stays one");
}

// B18

#[test]
fn heads_and_targets_beyond_their_bounds_are_told_so() {
    let table = Table::new();
    let long = format!("X: {}\r\n", "y".repeat(70_000));
    table.refuses_and_closes("70 KiB in one field", request("GET", MANIFEST, &long), &[431]);
    let many: String = (0..200).map(|number| format!("X-{number}: y\r\n")).collect();
    table.refuses_and_closes("200 fields", request("GET", MANIFEST, &many), &[431]);
    let endless = format!("GET {MANIFEST} HTTP/1.1\r\n{}", "X: y\r\n".repeat(20_000));
    table.refuses_and_closes("a head without an end", endless, &[431]);
    let target = format!("{MANIFEST}?x={}", "y".repeat(32_000));
    table.refuses_and_closes("32 KiB of target", get(&target), &[414]);
    let target = format!("GET /{}", "y".repeat(100_000));
    table.refuses_and_closes("a target without an end", target, &[414]);
}

#[test]
fn sixteen_kilobytes_of_ordinary_fields_pass() {
    let table = Table::new();
    let accept = "Accept: application/vnd.oci.image.manifest.v1+json\r\n".repeat(60);
    let fields = format!("{accept}X-Long: {}\r\n", "z".repeat(13_000));
    assert_eq!(table.proxy.ask(&request("GET", MANIFEST, &fields)).status, 200);
}

#[test]
fn a_head_that_drips_is_given_up_and_an_idle_connection_too() {
    let registry = FakeRegistry::obliging();
    let manifests = Manifests::for_registry(&registry.url());
    let flags = ["--head-seconds", "0.5", "--idle-caller-seconds", "0.5"];
    let proxy = Proxy::start(&manifests, &flags);
    let mut dripping = proxy.caller();
    dripping.send("GET /v2/ HT");
    let started = std::time::Instant::now();
    let answer = dripping.answer().expect("an answer");
    assert_eq!(answer.status, 408, "{answer}");
    assert_eq!(answer.field("connection"), Some("close"));
    assert_eq!(dripping.end(), Broken::Ended);

    let mut silent = proxy.caller();
    assert_eq!(silent.end(), Broken::Ended, "without an answer to a question nobody asked");
    let mut kept = proxy.caller();
    assert_eq!(kept.ask(&get("/v2/")).status, 200);
    assert_eq!(kept.end(), Broken::Ended);
    assert!(started.elapsed().as_secs() < 10);
}

#[test]
fn a_head_may_arrive_byte_by_byte() {
    let table = Table::new();
    let mut caller = table.proxy.caller();
    for byte in get(MANIFEST).bytes() {
        caller.send([byte]);
    }
    assert_eq!(caller.answer().expect("an answer").status, 200);
}

// B23, B24, B54

#[test]
fn an_upgrade_is_ignored_and_the_http_2_preface_refused() {
    let table = Table::new();
    let fields = "Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMA\r\n";
    assert_eq!(table.proxy.ask(&request("GET", MANIFEST, fields)).status, 200);
    let websocket = "Connection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: x\r\n";
    assert_eq!(table.proxy.ask(&request("GET", MANIFEST, websocket)).status, 200);
    assert!(table.registry.requests().iter().all(|seen| !seen.has("upgrade")));

    let table = Table::new();
    let preface = "PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
    table.refuses_and_closes("the preface", preface, &[400, 405, 505]);
}

#[test]
fn a_tls_hello_that_never_ends_is_given_up_at_its_deadline() {
    let registry = FakeRegistry::obliging();
    let manifests = Manifests::for_registry(&registry.url());
    let proxy = Proxy::start(&manifests, &["--handshake-seconds", "0.5"]);
    let mut caller = proxy.caller();
    let started = std::time::Instant::now();
    caller.send_if_taken(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03");
    let ended = caller.end();
    // Go's clients fall back to http when they read HTTP, and when the connection just ends.
    assert_ne!(ended, Broken::Silent);
    assert!(started.elapsed().as_millis() < 5000, "{:?}", started.elapsed());
    // Its connection is closed, and then it is counted.
    eventually("its count", || {
        (proxy.metric("handshakes_total{end=\"failed\"}") == Some(1.0)).then_some(())
    });
}

#[test]
fn methods_that_the_distribution_api_does_not_have_never_pass() {
    let table = Table::new();
    let long = "A".repeat(1024);
    for method in ["TRACE", "CONNECT", "OPTIONS", "PROPFIND", "get", "Get", "PRI", &long, "G@T"] {
        table.refuses(method, request(method, MANIFEST, ""), &[400, 405, 501]);
    }
    let blob = format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x"));
    let tags = format!("{PREFIX}/team/app/tags/list");
    for (method, target) in [
        ("POST", MANIFEST),
        ("PATCH", MANIFEST),
        ("PUT", &blob),
        ("DELETE", &tags),
        ("GET", UPLOADS),
        ("PUT", "/v2/"),
    ] {
        let text = request(method, target, "Content-Length: 0\r\n");
        table.refuses(&format!("{method} {target}"), text, &[400, 405]);
    }
    table.refuses(
        "CONNECT",
        "CONNECT harbor.example.com:443 HTTP/1.1\r\nHost: h\r\n\r\n",
        &[400, 405],
    );
}

#[test]
fn a_body_where_none_belongs_is_refused_and_ends_the_connection() {
    let table = Table::new();
    for method in ["GET", "HEAD", "DELETE"] {
        for framing in ["Content-Length: 5\r\n", "Transfer-Encoding: chunked\r\n"] {
            let text = request(method, MANIFEST, framing) + "0\r\n\r\n";
            let mut caller = table.proxy.caller();
            caller.send(text);
            let answer = caller.answer_to(method).expect("an answer");
            assert_eq!(answer.status, 400, "{method} {framing}: {answer}");
            assert_eq!(answer.field("connection"), Some("close"));
            assert!(table.registry.is_untouched());
        }
    }
}

#[test]
fn an_empty_length_on_a_get_is_harmless() {
    let table = Table::new();
    assert_eq!(table.proxy.ask(&request("GET", MANIFEST, "Content-Length: 0\r\n")).status, 200);
}

// B19, B32, B35

#[test]
fn a_strangers_token_learns_nothing_about_what_exists() {
    let table = Table::new();
    let unknown = MANIFEST.replace("harbor", "barhor");
    let (one, other) = (
        table.proxy.get_as(STRANGER_TOKEN, MANIFEST),
        table.proxy.get_as(STRANGER_TOKEN, &unknown),
    );
    assert_eq!((one.status, other.status), (403, 403));
    assert_eq!(one.body.len(), other.body.len());
    assert!(table.registry.is_untouched());
}

#[test]
fn a_credential_that_is_no_token_is_a_401_and_never_passes() {
    let table = Table::new();
    let huge = base64(format!("pod:{}", "x".repeat(40_000)));
    let rows = [
        format!("Basic {}", base64("admin:Harbor12345")),
        "Harbor-Secret x".to_owned(),
        format!("Basic {}", base64([0xff, 0xfe, b':', 0xff])),
        format!("Basic {}", base64("nocolon")),
        format!("Basic {}", base64("pod:")),
        "Basic".to_owned(),
        "Bearer".to_owned(),
        "Bearer a.b".to_owned(),
        format!("Basic {huge}"),
    ];
    for value in rows {
        let text =
            format!("GET {MANIFEST} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {value}\r\n\r\n");
        let what: String = value.chars().take(40).collect();
        table.refuses(&what, text, &[401]);
    }
}

// B25–B28

#[test]
fn a_mount_from_anywhere_but_this_connector_loses_both_its_parameters() {
    let table = Table::new();
    let digest = digest_of(b"x");
    let from = [
        "namespaces/ci/connectors/other/team/app",
        "namespaces%2Fci%2Fconnectors%2Fother%2Fteam%2Fapp",
        "namespaces/ops/connectors/harbor/team/app",
        "team/app",
        "../x",
        "namespaces/ci/connectors/harbor/../other/team/app",
        "namespaces/ci/connectors/harbor%2f..%2fother/app",
        "namespaces/ci/connectors/harbor/",
        "namespaces/ci/connectors/harbor",
        "namespaces/ci/connectors/harbor2/team/app",
        "/namespaces/ci/connectors/harbor/team/app",
        "",
    ];
    for from in from {
        for query in [format!("mount={digest}&from={from}"), format!("from={from}&mount={digest}")]
        {
            let before = table.registry.requests().len();
            let target = format!("{UPLOADS}?{query}");
            let answer = table.proxy.ask(&request("POST", &target, "Content-Length: 0\r\n"));
            if answer.status == 400 {
                assert_eq!(table.registry.requests().len(), before, "{query}");
                continue;
            }
            assert_eq!(answer.status, 200, "{query}: {answer}");
            let seen = &table.registry.requests()[before].target;
            assert!(seen.starts_with("/v2/team/app/blobs/uploads/"), "{query}: {seen}");
            assert!(!seen.contains("from") && !seen.contains("mount"), "{query}: {seen}");
        }
    }
}

#[test]
fn a_mount_in_a_form_body_is_refused() {
    let table = Table::new();
    let form = "from=secret/repo&mount=sha256:x";
    for kind in [
        "application/x-www-form-urlencoded",
        "Application/X-WWW-Form-Urlencoded; charset=utf-8",
        " application/x-www-form-urlencoded ;x",
        "multipart/form-data; boundary=x",
    ] {
        for (method, target) in [
            ("POST", UPLOADS.to_owned()),
            ("PUT", format!("{UPLOADS}1")),
            ("PATCH", format!("{UPLOADS}1")),
        ] {
            let text = upload(method, &target, form).replace("application/octet-stream", kind);
            table.refuses(&format!("{method} {kind}"), text, &[400, 415]);
        }
    }
}

#[test]
fn a_query_with_a_parameter_twice_or_in_disguise_is_refused() {
    let table = Table::new();
    let digest = digest_of(b"x");
    let inside = "namespaces/ci/connectors/harbor/team/app";
    let rows = [
        format!("mount={digest}&from={inside}&from=team/victim"),
        format!("mount={digest}&mount={digest}&from={inside}"),
        format!("mount={digest}&from={inside}&%66rom=team/victim"),
        format!("mount={digest}&f%72om=team/victim"),
        format!("mount={digest};from=team/victim"),
        format!("mount={digest}&from={inside};x"),
        "digest=%zz".to_owned(),
        "digest=%2".to_owned(),
        "_state=a&_state=b".to_owned(),
        format!("digest={digest}&digest={digest}"),
        "x=%00".to_owned(),
    ];
    for query in &rows {
        let text = request("POST", &format!("{UPLOADS}?{query}"), "Content-Length: 0\r\n");
        table.refuses(query, text, &[400]);
    }
    let long = format!("{UPLOADS}?x={}", "y".repeat(16_000));
    table.refuses("16 KiB", request("POST", &long, "Content-Length: 0\r\n"), &[400, 414]);
}

// B29, B30

#[test]
fn an_upload_of_one_connector_is_not_continued_under_another() {
    let (mine, other) = (FakeRegistry::obliging(), FakeRegistry::obliging());
    let manifests =
        Manifests::for_registry(&mine.url()).with_connector("ci", "other", &other.url());
    let proxy = Proxy::start(&manifests, &[]);
    let target = "/v2/namespaces/ci/connectors/other/team/app/blobs/uploads/1?_state=of-harbor";
    proxy.ask(&upload("PATCH", target, "hello"));
    assert!(mine.is_untouched(), "what the path names is what is asked");
    assert_eq!(other.only_request().target, "/v2/team/app/blobs/uploads/1?_state=of-harbor");
}

#[test]
fn a_manifest_beyond_its_bound_is_refused_before_it_is_read() {
    let registry = FakeRegistry::obliging();
    let manifests = Manifests::for_registry(&registry.url());
    let proxy = Proxy::start(&manifests, &["--manifest-bytes", "1000"]);
    let mut caller = proxy.caller();
    caller.send(request("PUT", MANIFEST, "Content-Length: 1001\r\n"));
    let answer = caller.answer().expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (413, "MANIFEST_INVALID"));
    assert!(registry.is_untouched());
    assert_eq!(proxy.ask(&upload("PUT", MANIFEST, &"x".repeat(1000))).status, 200);

    let mut caller = proxy.caller();
    let head = request("PUT", MANIFEST, "Transfer-Encoding: chunked\r\n");
    caller.send_if_taken(format!("{head}3e9\r\n{}\r\n0\r\n\r\n", "x".repeat(1001)));
    let answer = caller.answer().expect("an answer");
    assert_eq!(answer.status, 413, "{answer}");
    assert!(registry.requests().iter().skip(1).all(|seen| !seen.complete));
}

// Bounds on callers themselves

#[test]
fn connections_beyond_the_bound_wait_and_are_then_served() {
    let registry = FakeRegistry::obliging();
    let manifests = Manifests::for_registry(&registry.url());
    let proxy = Proxy::start(&manifests, &["--connections", "4"]);
    let mut held: Vec<_> = (0..4)
        .map(|_| {
            let mut caller = proxy.caller();
            assert_eq!(caller.ask(&get(MANIFEST)).status, 200);
            caller
        })
        .collect();
    let mut fifth = proxy.caller();
    fifth.send(get(MANIFEST));
    assert_eq!(held[0].ask(&get(MANIFEST)).status, 200, "who is in is served");
    held.remove(0);
    match fifth.answer() {
        Ok(answer) => assert!([200, 503].contains(&answer.status), "{answer}"),
        Err(broken) => panic!("{broken:?}"),
    }
}

#[test]
fn garbage_of_any_kind_is_answered_or_closed_and_never_passed() {
    let table = Table::new();
    for seed in 0..200_u64 {
        let length = 1 + (seed as usize * 37) % 3000;
        let mut bytes = crate::support::noise(seed + 1, length);
        match seed % 4 {
            0 => {}
            1 => bytes.iter_mut().for_each(|byte| *byte = 0x20 + *byte % 0x5f),
            2 => bytes.splice(0..0, get(MANIFEST).into_bytes().into_iter().take(60)).for_each(drop),
            _ => {
                let mut good = get(MANIFEST).into_bytes();
                let place = seed as usize * 7 % good.len();
                good[place] = bytes[0] | 0x80;
                bytes = good;
            }
        }
        let mut caller = table.proxy.caller();
        caller.send_if_taken(&bytes);
        caller.finish();
        match caller.answer() {
            Ok(answer) => assert!(answer.status >= 400 || seed % 4 == 3, "{seed}: {answer}"),
            Err(broken) => assert_ne!(broken, Broken::Silent, "{seed}"),
        }
    }
    assert_eq!(table.proxy.get(MANIFEST).status, 200, "and the proxy is as well as before");
}
