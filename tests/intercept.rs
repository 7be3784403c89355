//! TLS that ends at the proxy: in a registry's stead inside a CONNECT, and in its own name.
//!
//! Rows B38 and B39 of the bad-input matrix stand here; B43 to B45, which are those of `rewriting`
//! and `revealing`, once more for callers who reach a registry by its own name.

use std::io::{Read as _, Write as _};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use crate::support::caller::{Hello, basic, listing, proxied, request, upload};
use crate::support::manifests::{ca_secret, connector, right};
use crate::support::{
    Answer, Broken, Caller, FakeRegistry, HOST, Manifests, PASSWORD, PREFIX, Proxy, STRANGER_TOKEN,
    TOKEN, TlsStorage, answer, digest_of, eventually, noise,
};

const NAME: &str = "harbor.example.com";
const AT: &str = "harbor.example.com:443";

/// A connector whose registry is also called `https://harbor.example.com`.
fn manifests(registry: &FakeRegistry) -> Manifests {
    let more = format!("  addressExtensions:\n  - {{name: public, value: \"https://{NAME}\"}}\n");
    Manifests::for_registry(&registry.url())
        .with("connector.yaml", &connector("ci", "harbor", &registry.url(), &more))
}

fn proxy(registry: &FakeRegistry) -> Proxy {
    Proxy::start(&manifests(registry), &[])
}

/// A caller inside the tunnel to [`AT`], TLS included.
#[track_caller]
fn inside(proxy: &Proxy) -> Caller {
    let mut caller = proxy.caller();
    let answer = caller.connect_to(AT, "ci/harbor");
    assert_eq!((answer.status, answer.reason.as_str()), (200, "Connection Established"));
    assert!(answer.fields.is_empty(), "a tunnel begins after the empty line: {answer}");
    caller.with_tls(&Hello::to(NAME, &proxy.ca())).expect("TLS in the registry's name")
}

/// A request as a registry's client writes it: without any credential.
fn plain(method: &str, target: &str, more: &str) -> String {
    format!("{method} {target} HTTP/1.1\r\nHost: {NAME}\r\n{more}\r\n")
}

#[test]
fn a_client_that_verifies_meets_the_registry_and_the_registry_sees_the_robot() {
    let registry = FakeRegistry::answering(|_| {
        answer(200, "Content-Type: application/json\r\nVia: 1.1 nginx\r\n", b"{}")
    });
    let proxy = proxy(&registry);
    let mut caller = inside(&proxy);
    for _ in 0..3 {
        let answer = caller.ask(&plain("GET", "/v2/team/app/manifests/v1", ""));
        assert_eq!((answer.status, answer.text().as_str()), (200, "{}"), "{answer}");
    }
    let seen = registry.requests();
    assert!(seen.iter().all(|seen| seen.is_the_robots()));
    assert_eq!(seen[0].target, "/v2/team/app/manifests/v1", "names stay as they are");
    assert!(!seen[0].has("proxy-authorization"));
    assert_eq!(registry.connections(), 1);
    assert_eq!(proxy.metric("interceptions_total"), Some(1.0));
    assert_eq!(proxy.metric("handshakes_total{end=\"done\"}"), Some(1.0));
    proxy.logged(&["CONNECT", "connect", AT, "status=200"]);
}

#[test]
fn what_comes_inside_brings_no_credential_of_its_own() {
    let registry = FakeRegistry::obliging();
    let proxy = proxy(&registry);
    let more = format!(
        "Authorization: {}\r\nProxy-Authorization: {}\r\nProxy-Connection: keep-alive\r\n",
        basic(STRANGER_TOKEN),
        basic(STRANGER_TOKEN)
    );
    let answer = inside(&proxy).ask(&plain("GET", "/v2/team/app/manifests/v1", &more));
    assert_eq!(answer.status, 200);
    let seen = registry.only_request();
    assert!(seen.is_the_robots() && !seen.has("proxy-authorization"));
    assert!(!seen.has("proxy-connection"));
}

#[test]
fn a_push_goes_through_with_its_locations_as_the_client_addressed_them() {
    let state = "_state=c29tZQ%3D%3D";
    let registry = FakeRegistry::answering(move |seen| {
        let upload = format!("https://{NAME}/v2/team/app/blobs/uploads/4f?{state}");
        let location = |to: &str| format!("Location: {to}\r\n");
        match seen.method.as_str() {
            "POST" | "PATCH" => answer(202, &location(&upload), b""),
            _ => answer(201, &location(&format!("https://{NAME}/v2/team/app/blobs/x")), b""),
        }
    });
    let proxy = proxy(&registry);
    let mut caller = inside(&proxy);
    let start = "/v2/team/app/blobs/uploads/?from=team/base&mount=sha256:x";
    let mount = start.replace("sha256:x", &digest_of(b"x"));
    let opened = caller.ask(&plain("POST", &mount, "Content-Length: 0\r\n"));
    let expected = format!("/v2/team/app/blobs/uploads/4f?{state}");
    assert_eq!(opened.field("location"), Some(expected.as_str()), "{opened}");
    let blob = noise(3, 3_000_000);
    let sized = format!("Content-Length: {}\r\n", blob.len());
    caller.send(plain("PATCH", &expected, &sized));
    caller.send(&blob);
    assert_eq!(caller.answer().expect("an answer").status, 202);
    let seen = registry.requests();
    assert_eq!(seen[0].target, mount.replace("team/base", "team%2Fbase"));
    assert_eq!(digest_of(&seen[1].body), digest_of(&blob));
}

#[test]
fn large_bodies_arrive_whole_both_ways_and_a_broken_one_is_never_taken_for_whole() {
    let blob = noise(9, 5_000_001);
    let body = blob.clone();
    let registry = FakeRegistry::scripted(move |visit| {
        while let Some(mut seen) = visit.head() {
            assert!(visit.body(&mut seen));
            let head = "HTTP/1.1 200 OK\r\n";
            match seen.target.rsplit('/').next() {
                Some("sized") => {
                    visit.send(answer(200, "", &body));
                }
                Some("until-close") => {
                    visit.send(format!("{head}Connection: close\r\n\r\n"));
                    visit.send(&body);
                    return;
                }
                _ => {
                    visit.send(format!("{head}Content-Length: {}\r\n\r\n", body.len()));
                    visit.send(&body[..1_000_000]);
                    return;
                }
            }
        }
    });
    let proxy = proxy(&registry);
    for tag in ["sized", "until-close"] {
        let target = format!("/v2/team/app/manifests/{tag}");
        let answer = inside(&proxy).ask(&plain("GET", &target, ""));
        assert!(answer.body == blob, "{tag}: {} bytes", answer.body.len());
    }
    let mut caller = inside(&proxy);
    caller.send(plain("GET", "/v2/team/app/manifests/cut", ""));
    let head = caller.head().expect("a head");
    let (broken, _) = caller.body("GET", &head).expect_err("a body that breaks off");
    assert!(matches!(broken, Broken::Ended | Broken::Reset), "{broken:?}");
}

#[test]
fn requests_that_come_together_are_served_in_their_order() {
    let registry = FakeRegistry::answering(|seen| answer(200, "", seen.target.as_bytes()));
    let proxy = proxy(&registry);
    let mut caller = inside(&proxy);
    let target = |number: usize| format!("/v2/team/app/manifests/v{number}");
    let all: String = (0..40).map(|number| plain("GET", &target(number), "")).collect();
    caller.send(all);
    for number in 0..40 {
        assert_eq!(caller.answer().expect("an answer").text(), target(number));
    }
}

#[test]
fn a_name_that_is_not_the_tunnels_is_an_alert_and_another_host_is_misdirected() {
    let registry = FakeRegistry::obliging();
    let proxy = proxy(&registry);
    let mut caller = proxy.caller();
    assert_eq!(caller.connect_to(AT, "ci/harbor").status, 200);
    let refused = caller.with_tls(&Hello::to("other.example.com", &proxy.ca()));
    let why = refused.err().expect("no TLS in another name");
    assert!(why.contains("UnrecognisedName") || why.contains("unrecognized"), "{why}");

    for (target, host) in [
        ("/v2/team/app/manifests/v1", "other.example.com"),
        ("/v2/team/app/manifests/v1", "harbor.example.com:8443"),
        ("/v2/team/app/manifests/v1", "harbor.example.com.evil.com"),
        ("https://other.example.com/v2/team/app/manifests/v1", NAME),
        ("http://harbor.example.com/v2/team/app/manifests/v1", NAME),
    ] {
        let ask = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let answer = inside(&proxy).ask(&ask);
        assert_eq!(answer.status, 421, "{target} at {host}: {answer}");
    }
    for ask in [
        "CONNECT harbor.example.com:443 HTTP/1.1\r\nHost: harbor.example.com\r\n\r\n",
        "GET https://harbor.example.com@evil/v2/ HTTP/1.1\r\nHost: harbor.example.com\r\n\r\n",
    ] {
        assert_eq!(inside(&proxy).ask(ask).status, 400, "{ask}");
    }
    assert!(registry.is_untouched());

    for (target, host) in [
        ("https://HARBOR.example.com/v2/team/app/manifests/v1", NAME),
        ("/v2/team/app/manifests/v1", "Harbor.Example.COM."),
        ("/v2/team/app/manifests/v1", AT),
    ] {
        let ask = format!("GET {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(inside(&proxy).ask(&ask).status, 200, "{target} at {host}");
    }
}

#[test]
fn a_host_may_be_spelled_as_anybody_likes_and_its_name_need_not_be_said() {
    let registry = FakeRegistry::obliging();
    let more = format!(
        "  addressExtensions:\n  - {{name: public, value: \"https://{NAME}\"}}\n  \
         - {{name: number, value: \"https://[fd00:0::7]:8443\"}}\n"
    );
    let text = connector("ci", "harbor", &registry.url(), &more);
    let proxy = Proxy::start(&manifests(&registry).with("connector.yaml", &text), &[]);
    let ca = proxy.ca();
    for (at, name, host) in [
        ("HARBOR.Example.com:443", NAME, NAME),
        ("harbor.example.com.:443", NAME, "harbor.example.com."),
        (AT, "HARBOR.Example.com", "Harbor.Example.com:443"),
        (AT, "harbor.example.com.", NAME),
        ("[FD00::0:7]:8443", "fd00::7", "[fd00:0:0::7]:8443"),
    ] {
        let mut caller = proxy.caller();
        assert_eq!(caller.connect_to(at, "ci/harbor").status, 200, "{at}");
        let mut caller = caller.with_tls(&Hello::to(name, &ca)).expect("one host");
        let ask = format!("GET /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: {host}\r\n\r\n");
        assert_eq!(caller.ask(&ask).status, 200, "{at} as {name}");
    }
    let mut caller = proxy.caller();
    assert_eq!(caller.connect_to(AT, "ci/harbor").status, 200);
    let silent = Hello { says_name: false, ..Hello::to(NAME, &ca) };
    let mut caller = caller.with_tls(&silent).expect("the host of the CONNECT counts");
    assert_eq!(caller.ask(&plain("GET", "/v2/team/app/manifests/v1", "")).status, 200);
    assert!(registry.requests().iter().all(|seen| seen.is_the_robots()));
}

#[test]
fn a_registry_that_is_an_address_is_served_under_it_and_must_prove_it() {
    let registry = TlsStorage::answering(|_| answer(200, "", b"{}")).taken_for_a_registry();
    let url = registry.url();
    let at = url.trim_start_matches("https://");
    let target = "/v2/team/app/manifests/v1";
    let ask = format!("GET {target} HTTP/1.1\r\nHost: {at}\r\n\r\n");
    let inside = |proxy: &Proxy| {
        let mut caller = proxy.caller();
        assert_eq!(caller.connect_to(at, "ci/harbor").status, 200);
        // The certificate is for the address (RFC 2818 §3.1); no name is said.
        caller.with_tls(&Hello::to("127.0.0.1", &proxy.ca())).expect("TLS for an address")
    };
    let trusting = "  caCertSecretRef: {name: harbor-ca}\n";
    let manifests = Manifests::for_registry(&url)
        .with("connector.yaml", &connector("ci", "harbor", &url, trusting))
        .with("ca.yaml", &ca_secret("ci", "harbor-ca", &registry.ca));
    let proxy = Proxy::start(&manifests, &[]);
    assert_eq!(inside(&proxy).ask(&ask).status, 200);

    let before = registry.heads().len();
    let wary = Proxy::start(&Manifests::for_registry(&url), &[]);
    let refused = inside(&wary).ask(&ask);
    assert!(refused.status == 503 && refused.text().contains("x509"), "{refused}");
    assert_eq!(registry.heads().len(), before, "no head goes to whom nobody vouches for");
}

#[test]
fn a_registry_misleads_and_binds_nobody_who_reaches_it_by_its_own_name() {
    let next = Arc::new(Mutex::new(String::new()));
    let said = Arc::clone(&next);
    let registry = FakeRegistry::answering(move |seen| {
        let fields = said.lock().expect("no story panics here").clone();
        let echo = seen.field("authorization").unwrap_or_default();
        match seen.target.rsplit('/').next().and_then(|tag| tag.parse().ok()) {
            Some(status) => answer(status, "Content-Type: text/plain\r\n", echo.as_bytes()),
            None if seen.method == "POST" => answer(202, &fields, b""),
            None => answer(200, &fields, b"{}"),
        }
    });
    let proxy = proxy(&registry);
    let through =
        |method: &str, path: &str, more: &str| inside(&proxy).ask(&plain(method, path, more));
    let without = |method: &str, path: &str, more: &str| {
        let url = format!("{}{path}", registry.url());
        proxy.ask(&proxied(method, &url, "ci/harbor", more))
    };
    let say = |fields: &str| fields.clone_into(&mut next.lock().expect("no story panics here"));
    for ask in [&through as &dyn Fn(&str, &str, &str) -> Answer, &without] {
        for location in [
            "//evil.example/v2/team/app/blobs/uploads/1",
            "http:evil",
            "\\\\evil.example\\v2",
            "/v2/team/app/blobs/uploads/1\r\n Set-Cookie: evil",
            "/v2/team/app/blobs/uploads/1\rSet-Cookie: evil",
            "https://harbor.example.com@evil.example/v2/team/app/blobs/uploads/1",
            "https://harbor.example.com.evil.example/v2/team/app/blobs/uploads/1",
        ] {
            say(&format!("Location: {location}\r\n"));
            let reply = ask("POST", "/v2/team/app/blobs/uploads/", "Content-Length: 0\r\n");
            assert_eq!(reply.status, 502, "{location}: {reply}");
            assert!(!reply.has("location") && !reply.text().contains("evil"), "{reply}");
        }
        say("Link: <https://evil.example/>; rel=\"next\"\r\n");
        let reply = ask("GET", "/v2/team/app/tags/list?n=2", "");
        assert!(reply.status == 502 || !reply.has("link"), "{reply}");

        let gone = "WWW-Authenticate: Basic realm=\"x\"\r\nSet-Cookie: sid=1\r\n\
            Strict-Transport-Security: max-age=1\r\nAlt-Svc: h3=\":443\"\r\n\
            Proxy-Authenticate: Basic realm=\"x\"\r\n";
        say(&format!(
            "{gone}Docker-Content-Digest: sha256:abc\r\n\
            Connection: close, Docker-Content-Digest\r\n"
        ));
        let reply = ask("GET", "/v2/team/app/manifests/v1", "");
        assert_eq!(reply.field("docker-content-digest"), Some("sha256:abc"), "{reply}");
        for line in gone.lines() {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            assert!(!reply.has(&name), "{name}: {reply}");
        }
        // The caller's own search for secrets, when it is dropped, is the test.
        for (status, expected) in [(401, 403), (404, 404), (500, 500)] {
            let reply = ask("GET", &format!("/v2/team/app/manifests/{status}"), "");
            assert_eq!(reply.status, expected, "{reply}");
            assert_ne!(reply.code(), "", "{reply}");
        }
    }
}

#[test]
fn a_tunnel_that_is_old_ends_with_an_answer() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::start(&manifests(&registry), &["--tunnel-age-seconds", "1"]);
    let mut caller = inside(&proxy);
    let opened = Instant::now();
    let last = eventually("the end of the tunnel", || {
        let answer = caller.ask(&plain("GET", "/v2/team/app/manifests/v1", ""));
        assert_eq!(answer.status, 200, "whoever asks is answered: {answer}");
        (answer.field("connection") == Some("close")).then_some(answer)
    });
    assert!(opened.elapsed() > Duration::from_millis(900), "{last}");
    assert!(matches!(caller.end(), Broken::Ended | Broken::Reset));
}

#[test]
fn the_first_message_may_come_in_any_pieces_and_anything_else_ends_the_tunnel() {
    let registry = FakeRegistry::obliging();
    let proxy = proxy(&registry);
    let tunnel = || {
        let mut caller = proxy.caller();
        assert_eq!(caller.connect_to(AT, "ci/harbor").status, 200);
        caller
    };
    // A record for every byte of the message (RFC 8446 §5.1 allows it).
    let ca = proxy.ca();
    let mut session = Hello::to(NAME, &ca).session();
    let mut hello = Vec::new();
    session.write_tls(&mut hello).expect("a message");
    let caller = tunnel();
    let mut socket = caller.sending_half();
    let cut: Vec<u8> = hello[5..].iter().flat_map(|byte| [0x16, 3, 1, 0, 1, *byte]).collect();
    for piece in cut.chunks(600) {
        socket.write_all(piece).expect("the proxy reads");
    }
    while session.is_handshaking() {
        session.complete_io(&mut socket).expect("a handshake");
    }

    let sslv2 = [0x80, 0x2e, 1, 0, 2, 0, 0x15, 0, 0, 0, 0x10];
    let endless = [[0x16, 3, 1, 0x40, 0].as_slice(), &[1, 0, 0xff, 0xff], &[0; 0x3ffc]].concat();
    let endless = [endless, [[0x16, 3, 1, 0x40, 0].as_slice(), &[0; 0x4000]].concat().repeat(5)];
    for odd in [
        b"GET /v2/ HTTP/1.1\r\nHost: harbor.example.com\r\n\r\n".as_slice(),
        b"SSH-2.0-OpenSSH_9.2\r\n",
        &sslv2,
        &endless.concat(),
        &[0x16, 3, 1, 0xff, 0xff, 1],
    ] {
        let mut caller = tunnel();
        caller.send_if_taken(odd);
        let mut socket = caller.sending_half();
        let mut rest = Vec::new();
        // An alert may come, an answer in clear may not.
        let _ = socket.read_to_end(&mut rest);
        assert!(rest.is_empty() || rest[0] == 0x15, "{odd:02x?}: {rest:02x?}");
    }
    let h2 = Hello { alpn: &["h2"], ..Hello::to(NAME, &ca) };
    let why = tunnel().with_tls(&h2).err().expect("HTTP/2 is not spoken");
    assert!(why.contains("NoApplicationProtocol"), "{why}");
    let many = Hello { alpn: &["h2", "http/1.1"], old: true, ..Hello::to(NAME, &ca) };
    tunnel().with_tls(&many).expect("TLS 1.2, and the protocol that both speak");
    tunnel().with_tls(&Hello { alpn: &[], ..Hello::to(NAME, &ca) }).expect("no protocol at all");
    assert!(registry.is_untouched());
}

#[test]
fn whoever_says_nothing_in_a_tunnel_or_stops_in_its_first_message_is_let_go() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::start(&manifests(&registry), &["--handshake-seconds", "1"]);
    let ca = proxy.ca();
    let mut hello = Vec::new();
    Hello::to(NAME, &ca).session().write_tls(&mut hello).expect("a message");
    // Who waits for the other side to speak first, as SSH's clients may, waits in vain.
    for begun in [&hello[..0], &hello[..1], &hello[..hello.len() - 1]] {
        let mut caller = proxy.caller();
        assert_eq!(caller.connect_to(AT, "ci/harbor").status, 200);
        let started = Instant::now();
        caller.send(begun);
        let mut rest = Vec::new();
        let _ = caller.sending_half().read_to_end(&mut rest);
        assert!(rest.is_empty() || rest[0] == 0x15, "{rest:02x?}");
        let took = started.elapsed();
        assert!(took > Duration::from_millis(500) && took < Duration::from_secs(5), "{took:?}");
    }
    assert!(registry.is_untouched());
}

#[test]
fn a_client_that_does_not_wait_for_the_tunnel_loses_nothing() {
    let registry = FakeRegistry::obliging();
    let proxy = proxy(&registry);
    let ca = proxy.ca();
    let mut session = Hello::to(NAME, &ca).session();
    let mut text = format!(
        "CONNECT {AT} HTTP/1.1\r\nHost: {AT}\r\nProxy-Authorization: {}\r\n\r\n",
        listing("ci/harbor", TOKEN)
    )
    .into_bytes();
    session.write_tls(&mut text).expect("a message");
    let caller = proxy.caller();
    let mut socket = caller.sending_half();
    socket.write_all(&text).expect("the proxy reads");
    let (mut head, mut byte) = (Vec::new(), [0]);
    while !head.ends_with(b"\r\n\r\n") {
        socket.read_exact(&mut byte).expect("an answer");
        head.push(byte[0]);
    }
    assert!(head.starts_with(b"HTTP/1.1 200 "));
    while session.is_handshaking() {
        session.complete_io(&mut socket).expect("a handshake");
    }
}

#[test]
fn a_right_that_is_taken_away_ends_at_the_next_request_inside_the_tunnel() {
    let registry = FakeRegistry::obliging();
    let proxy = proxy(&registry);
    let mut caller = inside(&proxy);
    let ask = plain("GET", "/v2/team/app/manifests/v1", "");
    assert_eq!(caller.ask(&ask).status, 200);
    proxy.remove("rights.yaml");
    eventually("the right is gone", || (caller.ask(&ask).status == 403).then_some(()));
    proxy.write("rights.yaml", &right("ci"));
    eventually("the right is back", || (caller.ask(&ask).status == 200).then_some(()));
    proxy.remove("callers.yaml");
    eventually("the token is gone", || {
        let answer = caller.ask(&ask);
        assert!(matches!(answer.status, 200 | 401), "{answer}");
        (answer.status == 401 && answer.field("connection") == Some("close")).then_some(())
    });
}

#[test]
fn a_tunnel_leads_to_the_host_that_it_was_opened_to_and_ends_when_its_connector_has_left_that() {
    let (registry, other) = (FakeRegistry::obliging(), FakeRegistry::obliging());
    let proxy = proxy(&registry);
    let mut caller = inside(&proxy);
    let ask = plain("GET", "/v2/team/app/manifests/v1", "");
    assert_eq!(caller.ask(&ask).status, 200);
    proxy.write("connector.yaml", &connector("ci", "harbor", &other.url(), ""));
    let refused = eventually("the new address", || {
        let answer = caller.ask(&ask);
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((refused.status, refused.field("connection")), (403, Some("close")), "{refused}");
    assert!(refused.text().contains("NO_PROXY") && refused.text().contains(AT), "{refused}");
    assert!(matches!(caller.end(), Broken::Ended | Broken::Reset));
    assert_eq!(proxy.caller().connect_to(AT, "ci/harbor").status, 403);
    assert!(other.is_untouched(), "what was meant for one host never goes to another");
}

#[test]
fn a_tunnel_to_a_connector_that_is_not_ready_is_refused_before_it_stands() {
    let registry = FakeRegistry::obliging();
    let proxy = proxy(&registry);
    proxy.remove("secret.yaml");
    eventually("the Secret is gone", || {
        let answer = proxy.caller().connect_to(AT, "ci/harbor");
        (answer.status == 503 && answer.reason.contains("ci/harbor")).then_some(())
    });
}

#[test]
fn tls_on_our_own_address_is_known_by_its_first_byte_and_has_the_services_names() {
    let registry = FakeRegistry::obliging();
    let flags = ["--listen-tls", "127.0.0.1:0", "--service-names", "proxy.system.svc"];
    let proxy = Proxy::start(&manifests(&registry), &flags);
    let tls = proxy.ready["listen_tls"].as_str().and_then(|text| text.parse().ok());
    let tls = tls.expect("where TLS is spoken");
    let ca = proxy.ca();
    let target = format!("{PREFIX}/team/app/manifests/v1");
    for address in [proxy.listen, tls] {
        for name in [HOST, "c-harbor.ci.svc", "c-harbor.ci", "proxy.system.svc", "127.0.0.1"] {
            let caller = Caller::connect(address).with_tls(&Hello::to(name, &ca));
            let mut caller = caller.unwrap_or_else(|why| panic!("{name}: {why}"));
            let answer: Answer = caller.ask(&request("GET", &target, ""));
            assert_eq!(answer.status, 200, "{name} at {address}: {answer}");
            let body = upload("PUT", &target, "{\"schemaVersion\":2}");
            assert_eq!(caller.ask(&body).status, 200);
        }
        for name in [NAME, "c-other.ci.svc", "evil.example", "c-harbor.ci.svc.evil.example"] {
            let refused = Caller::connect(address).with_tls(&Hello::to(name, &ca));
            assert!(refused.is_err(), "{name}");
        }
    }
    let mut caller = Caller::connect(tls);
    caller.patience(Duration::from_secs(5));
    let answer = caller.ask(&request("GET", &target, ""));
    assert_eq!((answer.status, answer.field("connection")), (400, Some("close")), "{answer}");
    assert!(answer.text().contains("https"), "{answer}");
    assert!(matches!(caller.end(), Broken::Ended | Broken::Reset));
    assert!(!answer.text().contains(PASSWORD));
}
