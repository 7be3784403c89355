//! The forward proxy: image names stay as they are, and the proxy's URL says who calls.
//!
//! Rows B36, B37 and B40 to B42 of the bad-input matrix and F61 of the fault matrix stand here.

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};

use crate::support::caller::{basic, listing, proxied, request};
use crate::support::dockerd::{self, Dockerd, Surroundings};
use crate::support::fake_registry::robots_authorization;
use crate::support::image::Layout;
use crate::support::manifests::{anonymous_connector, ca_secret, connector, secret};
use crate::support::programs::{Job, lacking};
use crate::support::{
    Answer, Broken, Caller, DockerRegistry, FakeRegistry, Manifests, PASSWORD, PREFIX, Proxy,
    STRANGER_TOKEN, TOKEN, TlsStorage, USER, answer, docker_registry, netns,
};

/// An image's manifest at `registry`, as a client names it.
fn url(registry: &FakeRegistry) -> String {
    format!("{}/v2/team/app/manifests/v1", registry.url())
}

#[track_caller]
fn check_407(answer: &Answer, why: &str) {
    assert_eq!(answer.status, 407, "{answer}");
    assert_eq!(answer.field("proxy-authenticate"), Some("Basic realm=\"connectors\""));
    assert!(!answer.has("www-authenticate"), "{answer}");
    assert!(answer.reason.contains(why), "{:?}", answer.reason);
    assert!(answer.has("content-length"), "curl goes on only after a body with an end: {answer}");
}

#[test]
fn an_absolute_request_is_served_by_the_connector_at_its_host() {
    let registry = FakeRegistry::answering(|seen| match seen.method.as_str() {
        "POST" => answer(202, "Location: /v2/team/app/blobs/uploads/4f?_state=a\r\n", b""),
        _ => answer(200, "", b"served"),
    });
    let proxy = Proxy::in_front_of(&registry);
    let mut caller = proxy.caller();
    for user in ["ci/harbor", "ci%2Fharbor", "ci%2fharbor"] {
        let answer = caller.ask(&proxied("GET", &url(&registry), user, ""));
        assert_eq!((answer.status, answer.text().as_str()), (200, "served"), "{user}: {answer}");
    }
    let uploads = format!("{}/v2/team/app/blobs/uploads/", registry.url());
    let opened = caller.ask(&proxied("POST", &uploads, "ci/harbor", "Content-Length: 0\r\n"));
    let location = opened.field("location");
    assert_eq!(location, Some("/v2/team/app/blobs/uploads/4f?_state=a"), "{opened}");
    let ping = caller.ask(&proxied("GET", &format!("{}/v2/", registry.url()), "ci/harbor", ""));
    assert_eq!(ping.status, 200);
    for seen in registry.requests() {
        assert!(seen.is_the_robots() && !seen.has("proxy-authorization"), "{seen:?}");
        assert_eq!(seen.field("host"), Some(registry.authority().as_str()));
        let via = seen.field("via").unwrap_or_default();
        assert!(via.starts_with("1.1 harbor-connector-"), "{via:?}");
    }
    proxy.logged(&["GET", "manifest", "ci/harbor", &registry.authority(), "status=200"]);
}

#[test]
fn https_is_spoken_for_a_caller_who_opens_no_tunnel_and_the_registry_must_prove_itself() {
    let registry = TlsStorage::answering(|_| {
        answer(202, "Location: /v2/team/app/blobs/uploads/4f?_state=a\r\n", b"")
    });
    let registry = registry.taken_for_a_registry();
    let ask = |proxy: &Proxy| {
        let uploads = format!("{}/v2/team/app/blobs/uploads/", registry.url());
        proxy.ask(&proxied("POST", &uploads, "ci/harbor", "Content-Length: 0\r\n"))
    };
    let wary = Proxy::start(&Manifests::for_registry(&registry.url()), &[]);
    let refused = ask(&wary);
    assert!(refused.status == 503 && refused.text().contains("x509"), "{refused}");
    assert!(registry.heads().is_empty(), "no head goes to whom nobody vouches for");

    let trusting = "  caCertSecretRef: {name: harbor-ca}\n";
    let manifests = Manifests::for_registry(&registry.url())
        .with("connector.yaml", &connector("ci", "harbor", &registry.url(), trusting))
        .with("ca.yaml", &ca_secret("ci", "harbor-ca", &registry.ca));
    let opened = ask(&Proxy::start(&manifests, &[]));
    let location = opened.field("location");
    assert_eq!(location, Some("/v2/team/app/blobs/uploads/4f?_state=a"), "{opened}");
    let heads = registry.heads();
    let line = "POST /v2/team/app/blobs/uploads/ HTTP/1.1\r\n";
    let posted = heads.iter().find(|head| head.starts_with(line)).expect("the request");
    assert!(posted.contains(&robots_authorization(PASSWORD)), "{posted}");
    assert!(!posted.to_ascii_lowercase().contains("proxy-authorization"), "{posted}");
}

#[test]
fn the_first_listed_connector_that_has_the_address_serves() {
    let (one, two) = (FakeRegistry::obliging(), FakeRegistry::obliging());
    let manifests = Manifests::for_registry(&one.url())
        .with_connector("ci", "second", &two.url())
        .with_connector("ops", "third", &two.url());
    let proxy = Proxy::start(&manifests, &[]);
    let mut caller = proxy.caller();
    let both = "ci/harbor,ops/third,ci/second";
    assert_eq!(caller.ask(&proxied("GET", &url(&one), both, "")).status, 200);
    assert_eq!(caller.ask(&proxied("GET", &url(&two), both, "")).status, 200);
    assert!(one.only_request().is_the_robots() && two.only_request().is_the_robots());
    proxy.logged(&["connector=ops/third", "status=200"]);
    // A connector that is not listed serves nobody.
    let answer = caller.ask(&proxied("GET", &url(&two), "ci/harbor", ""));
    assert_eq!(answer.status, 403, "{answer}");
    assert_eq!((one.requests().len(), two.requests().len()), (1, 1));
}

#[test]
fn without_a_good_credential_the_answer_is_407_with_the_cause_and_an_end() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let target = url(&registry);
    let mut caller = proxy.caller();
    let authority = registry.authority();
    let with = |value: &str| match value {
        "" => String::new(),
        value => format!("Proxy-Authorization: {value}\r\n"),
    };
    for (value, why) in [
        (String::new(), "token is needed"),
        // What is meant for a registry does not count here.
        (format!("X\r\nAuthorization: {}", basic(TOKEN)), "expired or invalid"),
        (listing("ci/harbor", "wrong-token"), "expired or invalid"),
        (listing("harbor", TOKEN), "<namespace>/<connector>"),
        (listing("", TOKEN), "<namespace>/<connector>"),
        (format!("Bearer {TOKEN}"), "expired or invalid"),
    ] {
        for ask in [
            format!("GET {target} HTTP/1.1\r\nHost: x\r\n{}\r\n", with(&value)),
            format!("CONNECT {authority} HTTP/1.1\r\nHost: {authority}\r\n{}\r\n", with(&value)),
        ] {
            let why = if value.starts_with('X') { "token is needed" } else { why };
            let value = value.strip_prefix("X\r\n").map(str::to_owned);
            let ask = value.map_or(ask.clone(), |more| {
                let line = ask.lines().next().unwrap_or_default();
                format!("{line}\r\nHost: {authority}\r\n{more}\r\n\r\n")
            });
            check_407(&caller.ask(&ask), why);
        }
    }
    assert_eq!(caller.ask(&proxied("GET", &target, "ci/harbor", "")).status, 200);
    assert_eq!(registry.requests().len(), 1);
}

#[test]
fn a_forbidden_connector_and_an_unknown_one_are_refused_alike() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let ask = |connector: &str, token: &str| {
        let value = listing(connector, token);
        let target = url(&registry);
        let answer = proxy.ask(&format!(
            "GET {target} HTTP/1.1\r\nHost: x\r\nProxy-Authorization: {value}\r\n\r\n"
        ));
        (
            answer.status,
            answer.reason.replace(connector, "X"),
            answer.text().replace(connector, "X"),
        )
    };
    let forbidden = ask("ci/harbor", STRANGER_TOKEN);
    assert_eq!(forbidden.0, 403);
    assert!(forbidden.1.contains("connector X"), "{forbidden:?}");
    assert_eq!(forbidden, ask("ci/unknown", STRANGER_TOKEN));
    assert_eq!(ask("ci/unknown,ci/harbor", TOKEN).0, 200, "one of them suffices");
    assert_eq!(registry.requests().len(), 1);
}

#[test]
fn a_host_that_is_no_connectors_is_refused_by_name_and_with_what_to_do() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let mut caller = proxy.caller();
    for authority in [
        "registry.example.org:443",
        "harbor.example.com.evil.com:443",
        "169.254.169.254:80",
        "127.0.0.1:10250",
        "kubernetes.default.svc:443",
        "[::ffff:169.254.169.254]:80",
        "0x7f000001:443",
        "localhost.:443",
        "github.example:22",
    ] {
        let answer = caller.connect_to(authority, "ci/harbor");
        assert_eq!(answer.status, 403, "{authority}: {answer}");
        assert!(answer.reason.contains("NO_PROXY"), "{authority}: {:?}", answer.reason);
    }
    let answer = caller.connect_to("Registry.Example.org:443", "ci/harbor");
    assert!(answer.reason.contains("(registry.example.org:443)"), "{:?}", answer.reason);
    let page = proxied("GET", "http://www.example.org/index.html", "ci/harbor", "");
    let answer = caller.ask(&page);
    assert!(answer.status == 403 && answer.reason.contains("www.example.org:80"), "{answer}");
    assert!(registry.is_untouched());
}

#[test]
fn a_credential_goes_to_exactly_the_scheme_host_and_port_of_its_connector() {
    let registry = FakeRegistry::obliging();
    let port = registry.authority().rsplit(':').next().map(str::to_owned).expect("a port");
    let text = connector("ci", "harbor", "https://harbor.example.com", "");
    let plain = format!("http://harbor.example.com:{port}");
    let manifests = Manifests::for_registry(&registry.url())
        .with("connector.yaml", &text)
        .with_connector("ci", "plain", &plain);
    let proxy = Proxy::start(&manifests, &[]);
    let both = "ci/harbor,ci/plain";
    let mut caller = proxy.caller();
    for authority in [
        "harbor.example.com:8443".to_owned(),
        format!("harbor.example.com:{port}"),
        "evilharbor.example.com:443".to_owned(),
        "harbor.example.com.evil.com:443".to_owned(),
        "harbor.example.co:443".to_owned(),
    ] {
        assert_eq!(caller.connect_to(&authority, both).status, 403, "{authority}");
    }
    for target in [
        "http://harbor.example.com/v2/a/b/manifests/v1".to_owned(),
        format!("https://harbor.example.com:{port}/v2/a/b/manifests/v1"),
        format!("http://evilharbor.example.com:{port}/v2/a/b/manifests/v1"),
    ] {
        assert_eq!(caller.ask(&proxied("GET", &target, both, "")).status, 403, "{target}");
    }
    // Case and a final dot are the same host: here it has no address, so 503 says that it was met.
    for target in [
        format!("http://HARBOR.example.com.:{port}/v2/a/b/manifests/v1"),
        format!("{plain}/v2/a/b/manifests/v1"),
    ] {
        let answer = caller.ask(&proxied("GET", &target, both, ""));
        assert_eq!(answer.status, 503, "{target}: {answer}");
    }
    assert!(registry.is_untouched());
}

#[test]
fn odd_authorities_are_refused_before_anyone_is_asked() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let ask = |line: &str, host: &str, more: &str| {
        let value = listing("ci/harbor", TOKEN);
        proxy.ask(&format!(
            "{line} HTTP/1.1\r\nHost: {host}\r\nProxy-Authorization: {value}\r\n{more}\r\n"
        ))
    };
    for authority in [
        "harbor.example.com",
        "harbor.example.com:",
        "harbor.example.com:0",
        "harbor.example.com:65536",
        "harbor.example.com:0443",
        "harbor.example.com:443/",
        "/v2/",
        "*",
        "user@harbor.example.com:443",
        "user:x@harbor.example.com:443",
        "[::1:443",
        "::1:443",
        "a..b:443",
        "http://harbor.example.com:443/",
    ] {
        let answer = ask(&format!("CONNECT {authority}"), "harbor.example.com", "");
        assert_eq!(answer.status, 400, "{authority}: {answer}");
    }
    let connect = "CONNECT harbor.example.com:443";
    assert_eq!(ask(connect, "other.example.com:443", "").status, 400);
    assert_eq!(ask(connect, "harbor.example.com:444", "").status, 400);
    assert_eq!(ask(connect, "harbor.example.com:443", "Content-Length: 3\r\n\r\nabc").status, 400);
    let chunked = "Transfer-Encoding: chunked\r\n\r\n0\r\n";
    assert_eq!(ask(connect, "harbor.example.com:443", chunked).status, 400);
    let authority = registry.authority();
    for target in [
        format!("http://{authority}@evil/v2/a/b/manifests/v1"),
        format!("http://{authority}%40evil/v2/a/b/manifests/v1"),
        format!("http://user:x@{authority}/v2/a/b/manifests/v1"),
        format!("ftp://{authority}/v2/a/b/manifests/v1"),
        format!("http:{authority}/v2/a/b/manifests/v1"),
    ] {
        assert_eq!(ask(&format!("GET {target}"), "x", "").status, 400, "{target}");
    }
    assert!(registry.is_untouched());
}

#[test]
fn a_request_for_our_own_address_is_served_here_and_loops_end() {
    let registry = FakeRegistry::obliging();
    let own = TcpListener::bind("127.0.0.1:0").and_then(|free| free.local_addr());
    let own = own.expect("a free address").to_string();
    // One goes to the registry at once; with a credential the registry is asked about that first.
    let (_, port) = own.rsplit_once(':').expect("a port");
    let loops = [
        ("loop", format!("http://{own}")),
        ("mapped-loop", format!("http://[::ffff:127.0.0.1]:{port}")),
        // Behind a Service nothing shows in the address that is dialled.
        ("service-loop", "http://c-harbor.ci.svc.cluster.local".to_owned()),
        ("name-loop", "https://proxy.system.svc".to_owned()),
    ];
    let mut text = String::new();
    for (name, address) in &loops {
        text += &format!("{}---\n", anonymous_connector("ci", name, address));
        text += &format!("{}---\n", connector("ci", &format!("{name}-in"), address, ""));
        text += &format!("{}---\n", secret("ci", &format!("{name}-in"), PASSWORD));
    }
    let manifests = Manifests::for_registry(&registry.url()).with("loop.yaml", &text);
    let flags = ["--listen", &own, "--service-names", "proxy.system.svc"];
    let proxy = Proxy::start(&manifests, &flags);
    let at = proxy.ready["listen"].as_str().expect("an address").to_owned();
    let reverse = |host: &str, path: &str| {
        let more = format!("Proxy-Authorization: {}\r\n", listing("ci/harbor", TOKEN));
        proxy.ask(&request("GET", &format!("http://{host}{path}"), &more))
    };
    for host in ["proxy.system.svc", "c-harbor.ci.svc.cluster.local", &at, "whatever"] {
        let answer = reverse(host, &format!("{PREFIX}/a/b/manifests/v1"));
        assert_eq!(answer.status, 200, "{host}: {answer}");
    }
    assert_eq!(reverse("c-harbor.ci", "/v2/a/b/manifests/v1").status, 200);
    assert_eq!(reverse(&at, "/v2/").status, 200, "the ping of our own address");
    assert_eq!(registry.requests().len(), 5);

    // A connector that leads back to us is found out before a byte of a request is sent.
    for name in loops.iter().flat_map(|(name, _)| [(*name).to_owned(), format!("{name}-in")]) {
        let answer = proxy.get(&format!("/v2/namespaces/ci/connectors/{name}/a/b/manifests/v1"));
        assert_eq!(answer.status, 508, "{name}: {answer}");
        assert!(answer.text().contains("came back to the proxy"), "{answer}");
    }
    // And what comes back to us by a longer way is known by its Via.
    let via = registry.requests()[0].field("via").expect("a Via").to_owned();
    let ask = request("GET", &format!("{PREFIX}/a/b/manifests/v1"), &format!("Via: {via}\r\n"));
    assert_eq!(proxy.ask(&ask).status, 508);
    let other = ask.replace(&via, "1.1 harbor-connector-0123456789abcdef");
    assert_eq!(proxy.ask(&other).status, 200, "another proxy may stand before us");

    // A tunnel to ourselves is no tunnel.
    let mut caller = proxy.caller();
    let connect = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n\r\n");
    caller.send(connect);
    assert_eq!(caller.head().expect("an answer").status, 200);
    let answer = caller.ask(&request("GET", &format!("{PREFIX}/a/b/manifests/v1"), ""));
    assert_eq!(answer.status, 200, "{answer}");
}

#[test]
fn a_socket_that_listens_on_every_address_knows_itself_by_each() {
    let registry = FakeRegistry::obliging();
    for (every, hosts) in [
        ("0.0.0.0", ["127.0.0.1", "127.0.0.2", "[::ffff:127.0.0.1]"].as_slice()),
        ("[::]", &["127.0.0.1", "127.0.0.2", "[::ffff:127.0.0.1]", "[::1]"]),
    ] {
        let own = TcpListener::bind(format!("{every}:0")).and_then(|free| free.local_addr());
        let port = own.expect("a free port").port();
        let mut manifests = Manifests::for_registry(&registry.url());
        for (number, host) in hosts.iter().enumerate() {
            let name = format!("loop-{number}");
            manifests = manifests.with_connector("ci", &name, &format!("http://{host}:{port}"));
        }
        let proxy = Proxy::start(&manifests, &["--listen", &format!("{every}:{port}")]);
        for (number, host) in hosts.iter().enumerate() {
            let target = format!("/v2/namespaces/ci/connectors/loop-{number}/a/b/manifests/v1");
            let answer = proxy.get(&target);
            assert_eq!(answer.status, 508, "{host} of {every}: {answer}");
        }
        // And a caller who names the address it came to is served.
        let at = format!("127.0.0.1:{port}");
        let mut caller = Caller::connect(at.parse().expect("an address"));
        let target = format!("http://{at}{PREFIX}/a/b/manifests/v1");
        assert_eq!(caller.ask(&request("GET", &target, "")).status, 200, "{every}");
    }
    assert_eq!(registry.requests().len(), 2);
}

/// Each side says something and ends, the caller first: what it asked for still comes.
fn ask_and_end(mut caller: Caller, mut far: TcpStream) {
    caller.send(b"question");
    caller.finish();
    let mut asked = Vec::new();
    far.read_to_end(&mut asked).expect("an end");
    assert_eq!(asked, b"question");
    far.write_all(&vec![b'a'; 3_000_000]).expect("the caller reads");
    drop(far);
    let mut answered = Vec::new();
    caller.take(3_000_000, &mut answered).expect("the answer");
    assert_eq!(caller.end(), Broken::Ended);
}

/// Each side says something and ends, the host first.
fn speak_both_ways(mut caller: Caller, mut far: TcpStream) {
    caller.send(vec![b'q'; 300_000]);
    let mut asked = vec![0; 300_000];
    far.read_exact(&mut asked).expect("the question");
    far.write_all(&vec![b'a'; 200_000]).expect("the caller reads");
    far.shutdown(Shutdown::Write).expect("half a close");
    let mut answered = Vec::new();
    caller.take(200_000, &mut answered).expect("the answer");
    assert_eq!(caller.end(), Broken::Ended);
    caller.send(b"and on");
    caller.finish();
    let mut rest = Vec::new();
    far.read_to_end(&mut rest).expect("an end");
    assert_eq!(rest, b"and on", "half a close is not the other half");
}

#[test]
fn other_hosts_pass_only_as_the_operator_said_and_only_to_addresses_that_are_nobodys_own() {
    if lacking(&["unshare", "ip", "mount namespaces"]) {
        return;
    }
    netns::apart(&["8.8.4.4", "10.9.8.7"], || {
        let registry = FakeRegistry::obliging();
        let manifests = Manifests::for_registry(&registry.url());
        let hosts = "127.0.0.1 localhost inside.example\n8.8.4.4 mirror.example.org\n\
                     10.9.8.7 private.example.org\n169.254.169.254 meta.example.org\n";
        let host = TcpListener::bind("0.0.0.0:0").expect("a host");
        let port = host.local_addr().expect("its address").port();
        let ports = ["--passthrough-ports", &port.to_string()].map(str::to_owned);
        let start = |flags: &[&str]| {
            let flags: Vec<&str> =
                flags.iter().copied().chain(ports.iter().map(String::as_str)).collect();
            Proxy::start_with_hosts(&manifests, &flags, Some(hosts))
        };
        let listed = start(&[
            "--passthrough",
            "list",
            "--passthrough-hosts",
            "private.example.org,*.example,meta.example.org",
        ]);
        let public = start(&["--passthrough", "public"]);
        let tunnel = |proxy: &Proxy, name: &str| {
            let mut caller = proxy.caller();
            let answer = caller.connect_to(&format!("{name}:{port}"), "ci/harbor");
            (answer.status, caller)
        };
        for (proxy, name) in [
            (&listed, "mirror.example.org"),
            (&listed, "inside.example"),
            (&listed, "meta.example.org"),
            (&public, "private.example.org"),
            (&public, "10.9.8.7"),
            (&public, "inside.example"),
            (&public, "127.0.0.1"),
            (&public, "[::ffff:127.0.0.1]"),
            (&public, "[::1]"),
            (&public, "meta.example.org"),
            (&public, "169.254.169.254"),
            (&public, "0x08080404"),
            (&public, "localhost."),
        ] {
            assert_eq!(tunnel(proxy, name).0, 403, "{name}");
        }
        let other = public.caller().connect_to("mirror.example.org:1", "ci/harbor");
        assert_eq!(other.status, 403, "another port");
        let value = listing("ci/harbor", "wrong");
        let at = format!("mirror.example.org:{port}");
        let nobody = public.ask(&format!(
            "CONNECT {at} HTTP/1.1\r\nHost: {at}\r\nProxy-Authorization: {value}\r\n\r\n"
        ));
        assert_eq!(nobody.status, 407, "only for callers that are known");

        for (proxy, name) in [(&listed, "private.example.org"), (&public, "mirror.example.org")] {
            let (status, caller) = tunnel(proxy, name);
            assert_eq!(status, 200, "{name}");
            let (far, _) = host.accept().expect("the tunnel's end");
            speak_both_ways(caller, far);
            let line = proxy.logged(&["CONNECT", &format!("{name}:{port}"), "status=200"]);
            assert!(line.contains("bytes_up=300006 bytes_down=200000"), "{line}");
            assert!(line.contains("builder"), "whoever passes is named: {line}");
            assert_eq!(proxy.metric("tunnels_total"), Some(1.0));
            let (status, caller) = tunnel(proxy, name);
            assert_eq!(status, 200, "{name}");
            ask_and_end(caller, host.accept().expect("the tunnel's end").0);
            proxy.logged(&["CONNECT", &format!("{name}:{port}"), "bytes_down=3000000"]);
        }
        assert!(registry.is_untouched());
    });
}

#[test]
fn what_no_tunnel_may_lead_to_is_refused_in_every_mode_and_nothing_is_dialled() {
    if lacking(&["unshare", "ip", "mount namespaces"]) {
        return;
    }
    netns::apart(&["169.254.169.254", "10.96.0.1"], || {
        let registry = FakeRegistry::obliging();
        let hosts = "127.0.0.1 localhost\n10.96.0.1 kubernetes.default.svc\n\
                     ::169.254.169.254 compatible.example\n\
                     ::ffff:0:169.254.169.254 translated.example\n\
                     64:ff9b::a9fe:a9fe nat64.example\n64:ff9b:1::a9fe:a9fe local.example\n";
        // A socket on [::] takes connections to addresses of IPv4 as well.
        let traps = [80, 443, 10250].map(|port| {
            let trap = TcpListener::bind(("::", port)).expect("a port");
            trap.set_nonblocking(true).expect("a socket that does not wait");
            trap
        });
        let ports = ["--passthrough-ports", "80,443,10250"];
        let listed = "169.254.169.254,127.0.0.1,localhost,*.example";
        for mode in ["deny", "list", "public"] {
            let manifests = Manifests::for_registry(&registry.url());
            let flags = ["--passthrough", mode, "--passthrough-hosts", listed];
            let flags = [&flags[..], &ports].concat();
            let proxy = Proxy::start_with_hosts(&manifests, &flags, Some(hosts));
            for authority in [
                "169.254.169.254:80",
                "127.0.0.1:10250",
                "kubernetes.default.svc:443",
                "[::ffff:169.254.169.254]:80",
                "0x7f000001:443",
                "2130706433:443",
                "127.1:443",
                "localhost.:443",
                "LOCALHOST:443",
                "[::1]:443",
                "[::127.0.0.1]:443",
                "[::ffff:0:169.254.169.254]:80",
                "[64:ff9b:1::a9fe:a9fe]:80",
                "compatible.example:80",
                "translated.example:80",
                "nat64.example:80",
                "local.example:80",
            ] {
                let answer = proxy.caller().connect_to(authority, "ci/harbor");
                assert_eq!(answer.status, 403, "{authority} with {mode}: {answer}");
            }
        }
        for trap in &traps {
            let nobody = trap.accept().expect_err("nobody comes");
            assert_eq!(nobody.kind(), std::io::ErrorKind::WouldBlock);
        }
        assert!(registry.is_untouched());
    });
}

/// The page's way: a URL from a file, exported under the names that clients read.
pub(crate) fn job_behind(proxy: &Proxy, connectors: &str) -> Job {
    let user = connectors.replace('/', "%2F");
    let url = format!("http://{user}:{TOKEN}@{}", proxy.listen);
    let ca = proxy.ca_path().display().to_string();
    Job::new("nowhere.example", "nobody", "nothing")
        .with("http_proxy", &url)
        .with("https_proxy", &url)
        .with("HTTP_PROXY", &url)
        .with("HTTPS_PROXY", &url)
        .with("no_proxy", "localhost,127.0.0.1")
        .with("NO_PROXY", "localhost,127.0.0.1")
        .with("SSL_CERT_FILE", &ca)
        .with("CURL_CA_BUNDLE", &ca)
}

const NAME: &str = "harbor.example.com";

/// A proxy with more `flags` on which `harbor.example.com` is this machine; nobody else can
/// resolve it.
pub(crate) fn proxy_for(registries: &[(&str, &DockerRegistry)], flags: &[&str]) -> Proxy {
    let mut manifests = Manifests::default();
    for (name, registry) in registries {
        let more = match registry.ca() {
            "" => String::new(),
            _ => format!("  caCertSecretRef: {{name: {name}-ca}}\n"),
        };
        if manifests.files().next().is_none() {
            manifests = Manifests::for_registry(&registry.url());
        }
        manifests = manifests
            .with_connector("ci", name, &registry.url())
            .with(&format!("ci-{name}.yaml"), &{
                let text = connector("ci", name, &registry.url(), &more);
                let secret = secret("ci", name, PASSWORD);
                format!("{text}---\n{secret}")
            })
            .with(
                &format!("{name}-ca.yaml"),
                &ca_secret("ci", &format!("{name}-ca"), registry.ca()),
            );
    }
    let hosts = format!("127.0.0.1 localhost {NAME} second.example.com\n");
    Proxy::start_with_hosts(&manifests.without("connector.yaml"), flags, Some(&hosts))
}

pub(crate) fn lacks_clients() -> bool {
    let needed = ["skopeo", "buildah", "podman", "curl", "mount namespaces"];
    lacking(&[docker_registry::NEEDED.as_slice(), &needed].concat())
}

/// Pushes and pulls with every client, and compares what `registry` then holds.
pub(crate) fn clients_work_with(registry: &DockerRegistry, job: &Job, verify: &str) {
    let at = registry.authority();
    let layout = Layout::image(&job.path("image"), 3, 21);
    job.run(&format!(
        "skopeo copy --preserve-digests --dest-tls-verify={verify} {} docker://{at}/team/app:v1",
        layout.source()
    ));
    assert_eq!(registry.digest("team/app", "v1").as_ref(), Some(&layout.digest));
    let pulled = job.path("pulled").display().to_string();
    job.run(&format!(
        "skopeo copy --preserve-digests --src-tls-verify={verify} docker://{at}/team/app:v1 dir:{pulled}"
    ));
    let containerfile = job.path("Containerfile");
    std::fs::write(job.path("file"), "content").expect("a file");
    std::fs::write(&containerfile, "FROM scratch\nCOPY file /file\n").expect("a Containerfile");
    let folder = job.path("").display().to_string();
    let tag = format!("{at}/team/built:v1");
    job.run(&format!(
        "buildah build --isolation chroot -f {} -t {tag} {folder}",
        containerfile.display()
    ));
    job.run(&format!("buildah push --tls-verify={verify} {tag}"));
    assert!(registry.digest("team/built", "v1").is_some(), "a build was pushed");
    job.run(&format!("podman pull --tls-verify={verify} {at}/team/app:v1"));
    job.run(&format!("podman push --tls-verify={verify} {at}/team/app:v1 {at}/team/again:v1"));
    assert!(registry.digest("team/again", "v1").is_some());
    let scheme = registry.url().split("://").next().map(str::to_owned).unwrap_or_default();
    let tags = job.run(&format!("curl -sS --fail {scheme}://{at}/v2/team/app/tags/list"));
    assert!(tags.contains("\"v1\""), "{tags}");
}

#[test]
fn clients_work_with_an_https_registry_that_they_verify_and_cannot_resolve() {
    if lacks_clients() {
        return;
    }
    let registry = DockerRegistry::https_called(NAME);
    let proxy = proxy_for(&[("harbor", &registry)], &[]);
    clients_work_with(&registry, &job_behind(&proxy, "ci/harbor"), "true");
    let without = Job::new("nowhere.example", "nobody", "nothing")
        .with("https_proxy", &format!("http://ci%2Fharbor:{TOKEN}@{}", proxy.listen));
    let url = format!("{}/v2/team/app/tags/list", registry.url());
    let (ok, _, error) = without.try_run(&format!("curl -sS {url}"));
    assert!(!ok && error.contains("certificate"), "our CA is nobody's by itself: {error}");
}

#[test]
fn clients_work_with_an_http_registry_through_the_same_url() {
    if lacks_clients() {
        return;
    }
    let registry = DockerRegistry::http_called(NAME);
    let proxy = proxy_for(&[("harbor", &registry)], &[]);
    clients_work_with(&registry, &job_behind(&proxy, "ci/harbor"), "false");
}

#[test]
fn one_proxy_url_with_two_connectors_copies_from_one_registry_to_the_other() {
    if lacks_clients() {
        return;
    }
    let one = DockerRegistry::https_called(NAME);
    let two = DockerRegistry::https_called("second.example.com");
    let proxy = proxy_for(&[("harbor", &one), ("second", &two)], &[]);
    let job = job_behind(&proxy, "ci/harbor,ci/second");
    let layout = Layout::image(&job.path("image"), 2, 22);
    let (from, to) = (one.authority(), two.authority());
    job.run(&format!("skopeo copy --preserve-digests {} docker://{from}/a/b:v1", layout.source()));
    job.run(&format!("skopeo copy --preserve-digests docker://{from}/a/b:v1 docker://{to}/c/d:v1"));
    assert_eq!(two.digest("c/d", "v1").as_ref(), Some(&layout.digest));
    for registry in [&one, &two] {
        assert!(registry.log().contains(USER), "each registry saw its own account");
    }
    let other = job_behind(&proxy, "ci/harbor");
    let (ok, _, error) = other.try_run(&format!("skopeo inspect docker://{to}/c/d:v1"));
    assert!(!ok && error.contains("NO_PROXY"), "the client shows why: {error}");
}

#[test]
fn a_docker_daemon_with_its_proxy_configured_pushes_and_pulls_under_the_registrys_name() {
    let needed = [docker_registry::NEEDED.as_slice(), &dockerd::NEEDED, &["mount namespaces"]];
    if lacking(&needed.concat()) {
        return;
    }
    let registry = DockerRegistry::https_called(NAME);
    let proxy = proxy_for(&[("harbor", &registry)], &[]);
    let url = format!("http://ci%2Fharbor:{TOKEN}@{}", proxy.listen);
    let ca = proxy.ca_path().display().to_string();
    let environment = [("HTTP_PROXY", &*url), ("HTTPS_PROXY", &*url), ("SSL_CERT_FILE", &*ca)];
    let docker = Dockerd::start(&Surroundings { environment: &environment, ..Default::default() });
    let name = format!("{}/team/app:v1", registry.authority());
    docker.make(&name, 31);
    let made = docker.content(&name);
    docker.run(&["push", &name]);
    assert!(registry.digest("team/app", "v1").is_some(), "it was pushed");
    docker.run(&["rmi", &name]);
    docker.run(&["pull", &name]);
    assert_eq!(docker.content(&name), made);
    let (ok, _, why) = docker.try_run(&["pull", "elsewhere.example.org/team/app:v1"]);
    assert!(!ok && why.contains("NO_PROXY"), "docker shows the reason: {why}");
}
