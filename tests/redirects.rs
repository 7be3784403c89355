//! A registry that sends the reader of a blob to a storage elsewhere, as Harbor does with S3 and
//! its like: who goes there, what is said there, and where nobody goes.
//!
//! The registries stand at `localhost` and the storages at `127.0.0.1`: to the proxy two hosts, of
//! which the second is private and must be listed.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use crate::support::caller::request;
use crate::support::manifests::{ca_secret, connector};
use crate::support::programs::lacking;
use crate::support::{
    Answer, Broken, FakeRegistry, Manifests, PASSWORD, PREFIX, Proxy, TlsStorage, answer,
    digest_of, leak, noise,
};

/// A pre-signed URL's query. Whoever reads it can fetch the blob, so no log may hold it.
const SIGNED: &str = "X-Amz-Credential=key%2F20260101&X-Amz-Signature=canary0signature";

fn blob() -> String {
    format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x"))
}

/// A registry that redirects each blob's reader to what `to` is when it is asked.
fn redirecting(status: u16, to: &Arc<Mutex<String>>) -> FakeRegistry {
    let to = Arc::clone(to);
    FakeRegistry::answering(move |_| {
        let to = to.lock().expect("no story panics here").clone();
        let digest = digest_of(b"x");
        let fields = format!(
            "Location: {to}\r\nDocker-Content-Digest: {digest}\r\nContent-Type: text/html\r\n\
             Set-Cookie: sid=1\r\n"
        );
        answer(status, &fields, b"<a href=\"elsewhere\">Temporary Redirect</a>")
    })
}

/// The registry's address by its other name.
fn by_name(registry: &FakeRegistry) -> String {
    registry.url().replace("127.0.0.1", "localhost")
}

/// `ci/harbor` at `address` with these parameters.
fn with_parameters(address: &str, parameters: &[(&str, &str)]) -> Manifests {
    let list: Vec<String> = parameters
        .iter()
        .map(|(name, value)| format!("{{name: {name}, value: \"{value}\"}}"))
        .collect();
    let more = format!("  params: [{}]\n", list.join(", "));
    Manifests::for_registry(address)
        .with("connector.yaml", &connector("ci", "harbor", address, &more))
}

/// A proxy in front of `registry` whose connector lists the storages' host.
fn listing(registry: &FakeRegistry) -> Proxy {
    let manifests = with_parameters(&by_name(registry), &[("redirectHosts", "127.0.0.1")]);
    Proxy::start(&manifests, &[])
}

#[track_caller]
fn assert_refused(reply: &Answer, words: &[&str], what: &str) {
    assert_eq!((reply.status, reply.code().as_str()), (502, "UNKNOWN"), "{what}: {reply}");
    let text = reply.text();
    for word in [&["connector ci/harbor"], words].concat() {
        assert!(text.contains(word), "{what}: {word:?} in {reply}");
    }
    assert!(!text.contains("secret-path") && !text.contains("canary0"), "{what}: {reply}");
    assert!(!reply.has("location"), "{what}: {reply}");
}

// F19

#[test]
fn a_redirect_of_a_blob_is_followed_without_a_word_about_who_asks() {
    let body = noise(1, 3 << 20);
    let sent = body.clone();
    let storage = FakeRegistry::answering(move |seen| {
        let fields = "Content-Type: binary/octet-stream\r\nETag: \"e\"\r\nServer: s3\r\n\
            Set-Cookie: s=1\r\nStrict-Transport-Security: max-age=1\r\nX-Amz-Id: 7\r\n";
        let whole = answer(200, fields, &sent);
        if seen.method == "HEAD" { whole[..whole.len() - sent.len()].to_vec() } else { whole }
    });
    let to = Arc::new(Mutex::new(format!("{}/bucket/secret-path?{SIGNED}", storage.url())));
    for status in [301, 302, 303, 307, 308] {
        let registry = redirecting(status, &to);
        let proxy = listing(&registry);
        let mut caller = proxy.caller();
        for method in ["GET", "HEAD", "GET"] {
            let fields = "Cookie: sid=1\r\nX-Harbor-CSRF-Token: t\r\nX-Forwarded-For: 10.0.0.1\r\n\
                Proxy-Authorization: Basic eA==\r\nX-Mine: 1\r\nReferer: http://pod/\r\n\
                Accept: a/b\r\nAccept-Encoding: zstd;q=1.0\r\nUser-Agent: skopeo/1\r\n\
                If-None-Match: \"f\"\r\n";
            let reply = caller.ask(&request(method, &blob(), fields));
            assert_eq!(reply.status, 200, "{status} {method}");
            assert!(method == "HEAD" || reply.body == body, "{status}: the body differs");
            assert_eq!(reply.field("content-length"), Some("3145728"), "{status} {method}");
            assert_eq!(reply.field("etag"), Some("\"e\""));
            let digest = digest_of(b"x");
            assert_eq!(reply.field("docker-content-digest"), Some(digest.as_str()));
            for gone in ["location", "set-cookie", "strict-transport-security"] {
                assert!(!reply.has(gone), "{gone}: {status} {method}");
            }
        }
        assert!(
            registry.requests().iter().all(super::support::fake_registry::Received::is_the_robots)
        );
        proxy.logged(&["access", "redirected to 127.0.0.1"]);
        for hidden in ["X-Amz", "canary0signature", "secret-path"] {
            assert!(!proxy.log().contains(hidden), "{hidden} was logged:\n{}", proxy.log());
        }
        assert_eq!(proxy.metric("registry_redirects_total"), Some(3.0));
    }
    for seen in storage.requests() {
        assert_eq!(seen.target, format!("/bucket/secret-path?{SIGNED}"));
        let names: Vec<_> = seen.fields.iter().map(|(name, _)| name.as_str()).collect();
        let kept = ["host", "accept", "accept-encoding", "user-agent", "if-none-match"];
        assert_eq!(names, kept, "{:?}", seen.fields);
        assert_eq!(seen.field("host"), Some(storage.authority().as_str()));
    }
    for connection in 0..storage.connections() {
        let raw = storage.raw(connection);
        leak::assert_absent(&leak::everything(), &raw, "what a storage received");
    }
    assert_eq!(storage.connections(), 5, "one for each proxy, used again");
}

#[test]
fn a_range_reaches_the_storage_and_whatever_it_answers_is_passed() {
    let whole = noise(2, 100_000);
    let sent = whole.clone();
    let storage = FakeRegistry::answering(move |seen| match seen.field("range") {
        Some("bytes=99000-") => {
            answer(206, "Content-Range: bytes 99000-99999/100000\r\n", &sent[99_000..])
        }
        Some("bytes=200000-") => answer(
            416,
            "Content-Range: bytes */100000\r\nContent-Type: application/xml\r\n",
            b"<Error><Code>InvalidRange</Code></Error>",
        ),
        _ => answer(200, "", &sent),
    });
    let to = Arc::new(Mutex::new(format!("{}/b?{SIGNED}", storage.url())));
    let registry = redirecting(307, &to);
    let proxy = listing(&registry);
    let ask = |range: &str| {
        let fields = format!("Range: bytes={range}\r\nIf-Range: \"e\"\r\n");
        proxy.ask(&request("GET", &blob(), &fields))
    };
    let part = ask("99000-");
    assert_eq!((part.status, part.body.as_slice()), (206, &whole[99_000..]));
    assert_eq!(part.field("content-range"), Some("bytes 99000-99999/100000"));
    let ignored = ask("5-");
    assert_eq!((ignored.status, ignored.body == whole), (200, true), "a Range may be ignored");
    let refused = ask("200000-");
    assert_eq!(refused.status, 416, "{refused}");
    assert_ne!(refused.code(), "", "XML is for nobody who reads registries' errors");
    assert_eq!(refused.field("content-range"), None);
    assert!(storage.requests().iter().all(|seen| seen.field("if-range") == Some("\"e\"")));
}

#[test]
fn what_a_storage_refuses_is_its_own_answer_and_no_verdict_on_the_credential() {
    for (status, expected) in [(401, 403), (403, 403), (404, 404), (503, 503)] {
        let storage = FakeRegistry::answering(move |_| {
            let fields = "Content-Type: application/xml\r\nWWW-Authenticate: AWS\r\n";
            answer(status, fields, b"<Error><Code>AccessDenied</Code></Error>")
        });
        let to = Arc::new(Mutex::new(format!("{}/b?{SIGNED}", storage.url())));
        let registry = redirecting(307, &to);
        let proxy = listing(&registry);
        for _ in 0..3 {
            let reply = proxy.get(&blob());
            assert_eq!(reply.status, expected, "{reply}");
            assert!(!reply.text().contains("credential"), "{reply}");
            assert!(reply.text().contains("redirected to 127.0.0.1"), "{reply}");
            assert!(!reply.has("www-authenticate") && !reply.has("docker-content-digest"));
        }
        assert_eq!(registry.arrivals().len(), 3, "the registry is asked as before");
    }
}

#[test]
fn a_path_of_the_registrys_own_host_outside_its_api_is_asked_without_the_credential() {
    let registry = FakeRegistry::answering(|seen| {
        if seen.target.starts_with("/minio/") {
            return answer(200, "", b"from the storage beside");
        }
        answer(307, &format!("Location: /minio/bucket/a?{SIGNED}\r\n"), b"")
    });
    let proxy = Proxy::in_front_of(&registry);
    let mut caller = proxy.caller();
    for _ in 0..2 {
        let reply = caller.ask(&request("GET", &blob(), ""));
        assert_eq!(reply.text(), "from the storage beside", "{reply}");
    }
    for seen in registry.requests() {
        let at_storage = seen.target.starts_with("/minio/");
        assert_eq!(seen.has("authorization"), !at_storage, "{:?}", seen.fields);
        assert_eq!(seen.connection, usize::from(at_storage), "a connection has one purpose");
    }
}

#[test]
fn a_redirect_within_the_registrys_api_goes_to_the_caller_in_its_own_terms() {
    // Harbor's proxy cache of Docker Hub adds `library/` that way.
    let digest = digest_of(b"x");
    let located = format!("/v2/cache/library/app/blobs/{digest}");
    let fields = format!("Location: {located}\r\n");
    let registry = FakeRegistry::answering(move |_| answer(301, &fields, b""));
    let proxy = Proxy::in_front_of(&registry);
    let reply = proxy.get(&format!("{PREFIX}/cache/app/blobs/{digest}"));
    assert_eq!(reply.status, 301, "{reply}");
    let expected = format!("{PREFIX}/cache/library/app/blobs/{digest}");
    assert_eq!(reply.field("location"), Some(expected.as_str()));
    assert_eq!(registry.arrivals().len(), 1);
}

#[test]
fn nothing_but_a_blobs_reader_is_redirected_to_another_host() {
    let storage = FakeRegistry::obliging();
    let to = Arc::new(Mutex::new(format!("{}/b?{SIGNED}", storage.url())));
    let registry = redirecting(307, &to);
    let proxy = listing(&registry);
    for (method, path) in [
        ("GET", "manifests/v1".to_owned()),
        ("GET", "tags/list".to_owned()),
        ("DELETE", format!("blobs/{}", digest_of(b"x"))),
        ("POST", "blobs/uploads/".to_owned()),
        ("PATCH", "blobs/uploads/1".to_owned()),
        ("PUT", "blobs/uploads/1".to_owned()),
    ] {
        let fields = if method == "GET" { "" } else { "Content-Length: 0\r\n" };
        let reply = proxy.ask(&request(method, &format!("{PREFIX}/team/app/{path}"), fields));
        assert_refused(&reply, &["another host"], path.as_str());
    }
    assert!(storage.is_untouched());
}

// F20

#[test]
fn addresses_that_are_private_or_nobodys_are_not_dialled_unless_they_are_listed() {
    let storage = FakeRegistry::answering(|_| answer(200, "", b"here"));
    let port = storage.authority().rsplit(':').next().expect("a port").to_owned();
    let to = Arc::new(Mutex::new(String::new()));
    let registry = redirecting(307, &to);
    let proxy = Proxy::start(&Manifests::for_registry(&by_name(&registry)), &[]);
    let secure = Proxy::start(
        &with_parameters(&by_name(&registry), &[("redirectHosts", "other.example, 10.9.9.9:1")]),
        &[],
    );
    for host in [
        "127.0.0.1",
        "127.0.0.2",
        "169.254.169.254",
        "10.0.0.1",
        "192.168.0.1",
        "172.16.5.5",
        "100.64.0.1",
        "100.100.100.200",
        "0.0.0.0",
        "[::1]",
        "[::ffff:127.0.0.1]",
        "[64:ff9b::7f00:1]",
        "[fd00:ec2::254]",
        "[fe80::1]",
        "[fd12::1]",
    ] {
        *to.lock().unwrap() = format!("https://{host}:{port}/secret-path?{SIGNED}");
        for proxy in [&proxy, &secure] {
            let reply = proxy.get(&blob());
            assert_refused(&reply, &["redirectHosts", host], host);
        }
    }
    for odd in ["0x7f.1", "2130706433", "127.1", "0177.0.0.1", "127.0.0.1@evil.example"] {
        *to.lock().unwrap() = format!("https://{odd}:{port}/secret-path?{SIGNED}");
        assert_refused(&proxy.get(&blob()), &["malformed"], odd);
    }
    assert_eq!(storage.connections(), 0, "nothing was dialled");
    // The same place, when it is listed.
    *to.lock().unwrap() = format!("{}/secret-path?{SIGNED}", storage.url());
    assert_refused(&proxy.get(&blob()), &["list the host in redirectHosts"], "http");
    assert_eq!(storage.connections(), 0);
    for listed in ["127.0.0.1".to_owned(), format!("minio.example,127.0.0.1:{port}")] {
        let manifests = with_parameters(&by_name(&registry), &[("redirectHosts", listed.as_str())]);
        assert_eq!(Proxy::start(&manifests, &[]).get(&blob()).text(), "here", "{listed}");
    }
    let elsewhere = with_parameters(&by_name(&registry), &[("redirectHosts", "127.0.0.1:1")]);
    assert_eq!(Proxy::start(&elsewhere, &[]).get(&blob()).status, 502);
    assert_eq!(storage.connections(), 2);
}

#[test]
fn metadata_addresses_are_not_dialled_even_where_they_are_listed() {
    let to = Arc::new(Mutex::new(format!("http://169.254.169.254/secret-path?{SIGNED}")));
    let registry = redirecting(307, &to);
    let listed = [("redirectHosts", "169.254.169.254,[fd00:ec2::254]")];
    let proxy = Proxy::start(&with_parameters(&by_name(&registry), &listed), &[]);
    assert_refused(&proxy.get(&blob()), &["does not dial"], "IPv4");
    *to.lock().unwrap() = "http://[fd00:ec2::254]/secret-path".to_owned();
    assert_refused(&proxy.get(&blob()), &["does not dial"], "IPv6");
}

#[test]
fn a_name_that_leads_to_a_private_address_is_not_dialled() {
    if lacking(&["mount namespaces"]) {
        return;
    }
    let storage = FakeRegistry::obliging();
    let port = storage.authority().rsplit(':').next().expect("a port").to_owned();
    let to = Arc::new(Mutex::new(format!("https://cdn.test:{port}/secret-path?{SIGNED}")));
    let registry = redirecting(307, &to);
    let hosts = "127.0.0.1 localhost cdn.test\n169.254.169.254 metadata.test\n";
    let manifests = Manifests::for_registry(&by_name(&registry));
    let proxy = Proxy::start_with_hosts(&manifests, &[], Some(hosts));
    assert_refused(&proxy.get(&blob()), &["cdn.test", "does not dial"], "loopback");
    *to.lock().unwrap() = "https://metadata.test/secret-path".to_owned();
    assert_refused(&proxy.get(&blob()), &["metadata.test", "does not dial"], "metadata");
    assert_eq!(storage.connections(), 0, "nothing was dialled");
    *to.lock().unwrap() = "https://nobody.test/secret-path".to_owned();
    let reply = proxy.get(&blob());
    assert_eq!((reply.status, reply.code().as_str()), (503, "UNAVAILABLE"), "{reply}");
    assert!(reply.text().contains("has no address (redirected to nobody.test)"), "{reply}");
    assert!(reply.has("retry-after"), "{reply}");
}

// F21

#[test]
fn five_hops_are_followed_and_a_sixth_or_a_loop_is_not() {
    let storage = FakeRegistry::answering(|seen| {
        let left = seen.target.trim_start_matches('/').parse::<usize>().unwrap_or(0);
        match left {
            0 => answer(200, "", b"at last"),
            _ => answer(302, &format!("Location: /{}\r\n", left - 1), b"<html>moved</html>"),
        }
    });
    let to = Arc::new(Mutex::new(format!("{}/4", storage.url())));
    let registry = redirecting(307, &to);
    let proxy = listing(&registry);
    assert_eq!(proxy.get(&blob()).text(), "at last");
    assert_eq!(storage.requests().len(), 5);
    assert!(storage.connections() <= 2, "connections are used again");
    *to.lock().unwrap() = format!("{}/5", storage.url());
    assert_refused(&proxy.get(&blob()), &["without end"], "six hops");
    assert_eq!(storage.requests().len(), 10, "the sixth hop was not made");

    let itself = FakeRegistry::answering(|_| answer(307, "Location: /secret-path?a\r\n", b""));
    *to.lock().unwrap() = format!("{}/secret-path?a", itself.url());
    assert_refused(&proxy.get(&blob()), &["without end"], "a loop");
    assert_eq!(itself.requests().len(), 5);
}

#[test]
fn a_way_that_began_with_tls_does_not_go_on_without() {
    let plain = FakeRegistry::obliging();
    let to = format!("Location: {}/secret-path?{SIGNED}\r\n", plain.url());
    let secure = TlsStorage::answering(move |_| answer(302, &to, b""));
    let to = Arc::new(Mutex::new(format!("{}/a", secure.url())));
    let registry = redirecting(307, &to);
    let more = "  params: [{name: redirectHosts, value: \"127.0.0.1\"}]\n  \
        caCertSecretRef: {name: ca}\n";
    let manifests = Manifests::for_registry(&by_name(&registry))
        .with("connector.yaml", &connector("ci", "harbor", &by_name(&registry), more))
        .with("ca.yaml", &ca_secret("ci", "ca", &secure.ca));
    let proxy = Proxy::start(&manifests, &[]);
    assert_refused(&proxy.get(&blob()), &["from https to http", "127.0.0.1"], "a downgrade");
    assert_eq!((secure.heads().len(), plain.connections()), (1, 0));
}

// F22

#[test]
fn a_storage_that_breaks_off_breaks_off_the_callers_body_and_a_range_goes_on() {
    let whole = noise(3, 1_000_000);
    let sent = whole.clone();
    let visits = Arc::new(AtomicUsize::new(0));
    let storage = FakeRegistry::scripted(move |visit| {
        let Some(seen) = visit.head() else { return };
        if visits.fetch_add(1, Ordering::AcqRel) == 0 {
            visit.send(&answer(200, "", &sent)[..400_000]);
            visit.close();
            return;
        }
        let from: usize = seen
            .field("range")
            .and_then(|range| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok())
            .expect("a range");
        let fields = format!("Content-Range: bytes {from}-999999/1000000\r\n");
        visit.send(answer(206, &fields, &sent[from..]));
    });
    let to = Arc::new(Mutex::new(format!("{}/b", storage.url())));
    let registry = redirecting(307, &to);
    let proxy = listing(&registry);
    let mut caller = proxy.caller();
    caller.send(request("GET", &blob(), ""));
    let head = caller.head().expect("a head");
    let (broken, mut received) = caller.body("GET", &head).expect_err("it breaks off");
    assert!(matches!(broken, Broken::Ended | Broken::Reset), "{broken:?}");
    assert!(!received.is_empty() && whole.starts_with(&received));
    let rest = format!("Range: bytes={}-\r\n", received.len());
    let reply = proxy.ask(&request("GET", &blob(), &rest));
    assert_eq!(reply.status, 206, "{:?}", reply.fields);
    received.extend(reply.body);
    assert!(received == whole);
}

#[test]
fn a_storage_that_cannot_be_had_is_a_503_that_names_its_host() {
    let gone = FakeRegistry::obliging().authority();
    let closing = FakeRegistry::scripted(|visit| {
        visit.head();
        visit.close();
    });
    let to = Arc::new(Mutex::new(String::new()));
    let registry = redirecting(307, &to);
    let proxy = listing(&registry);
    for (place, words) in [
        (format!("http://{gone}/secret-path"), "cannot be reached"),
        (format!("{}/secret-path", closing.url()), "closed the connection"),
    ] {
        *to.lock().unwrap() = place;
        let reply = proxy.get(&blob());
        assert_eq!((reply.status, reply.code().as_str()), (503, "UNAVAILABLE"), "{reply}");
        assert!(reply.text().contains(words) && reply.text().contains("127.0.0.1"), "{reply}");
        assert!(!reply.text().contains("secret-path") && reply.has("retry-after"), "{reply}");
    }
}

#[test]
fn a_redirect_is_handed_to_the_caller_where_the_connector_says_so() {
    let storage = FakeRegistry::obliging();
    let to = Arc::new(Mutex::new(format!("{}/bucket/a?{SIGNED}", storage.url())));
    let registry = redirecting(307, &to);
    let manifests = with_parameters(&by_name(&registry), &[("redirects", "pass")]);
    let proxy = Proxy::start(&manifests, &[]);
    for method in ["GET", "HEAD"] {
        let reply = proxy.ask(&request(method, &blob(), ""));
        assert_eq!(reply.status, 307, "{reply}");
        assert_eq!(reply.field("location"), Some(to.lock().unwrap().as_str()), "untouched");
        assert!(!reply.has("set-cookie"), "{reply}");
    }
    assert_eq!(storage.connections(), 0);
    assert!(!proxy.log().contains("canary0signature"));
}

#[test]
fn an_https_storage_is_verified_with_the_connectors_ca() {
    let body = noise(4, 300_000);
    let sent = body.clone();
    let storage = TlsStorage::answering(move |_| answer(200, "", &sent));
    let to = Arc::new(Mutex::new(format!("{}/secret-path?{SIGNED}", storage.url())));
    let registry = redirecting(307, &to);
    let proxy = listing(&registry);
    let reply = proxy.get(&blob());
    assert_eq!((reply.status, reply.code().as_str()), (503, "UNAVAILABLE"), "{reply}");
    assert!(reply.text().contains("x509") && reply.text().contains("127.0.0.1"), "{reply}");
    assert_eq!(storage.heads().len(), 0, "not a byte of a request");

    let more = "  params: [{name: redirectHosts, value: \"127.0.0.1\"}]\n  \
        caCertSecretRef: {name: ca}\n";
    let manifests = Manifests::for_registry(&by_name(&registry))
        .with("connector.yaml", &connector("ci", "harbor", &by_name(&registry), more))
        .with("ca.yaml", &ca_secret("ci", "ca", &storage.ca));
    let proxy = Proxy::start(&manifests, &[]);
    let mut caller = proxy.caller();
    for _ in 0..3 {
        assert!(caller.ask(&request("GET", &blob(), "")).body == body);
    }
    let heads = storage.heads();
    assert_eq!(heads.len(), 3);
    assert!(heads.iter().all(|head| !head.to_ascii_lowercase().contains("authorization")));
    assert!(!heads.concat().contains(PASSWORD));
}
