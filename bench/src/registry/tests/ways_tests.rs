//! TLS, tokens and redirects over real sockets.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use rustls::crypto::ring;
use rustls::{ClientConfig, ClientConnection, RootCertStore};
use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;

use super::*;
use crate::registry::{Ways, tls};
use crate::wire::{Take, Wire};

fn started(ways: Ways) -> Registry {
    let settings = Settings {
        listen: LOOPBACK.parse().unwrap(),
        login: Some((ROBOT.0.to_owned(), ROBOT.1.to_owned())),
        discard: false,
        log_accounts: false,
        markers: Vec::new(),
    };
    Registry::start_with(settings, ways).unwrap()
}

/// A registry with tokens, in which `team/app` and `library/app` hold the same blob.
fn with_tokens() -> (Registry, String) {
    let registry = started(Ways { tokens: true, ..Ways::default() });
    let mut robot = Robot::of(&registry);
    let digest = robot.push("team/app", b"layer");
    assert_eq!(robot.push("library/app", b"layer"), digest);
    (registry, digest)
}

/// Sends a request without a body, with `fields`, and returns the answer.
fn ask(address: SocketAddr, method: &str, target: &str, fields: &str) -> String {
    let text = format!("{method} {target} HTTP/1.1\r\nHost: r.example\r\n{fields}\r\n");
    let mut stream = TcpStream::connect(address).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

fn status(answer: &str) -> u16 {
    answer.split(' ').nth(1).unwrap().parse().unwrap()
}

fn field<'a>(answer: &'a str, name: &str) -> Option<&'a str> {
    answer.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(": "))
}

fn json_of(answer: &str) -> Value {
    serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap()
}

/// A token for `scope`, with or without an account, as a field.
fn token(registry: &Registry, scope: &str, fields: &str) -> String {
    let target = format!("/service/token?service=harbor-registry&scope={scope}");
    let answer = json_of(&ask(registry.address(), "GET", &target, fields));
    format!("Authorization: Bearer {}\r\n", answer["token"].as_str().unwrap())
}

/// Asks over TLS, trusting `ca` only, and returns the answer.
fn ask_secured(address: SocketAddr, ca: &str, text: &str) -> std::io::Result<String> {
    let mut roots = RootCertStore::empty();
    roots.add(CertificateDer::from_pem_slice(ca.as_bytes()).unwrap()).unwrap();
    let config = ClientConfig::builder_with_provider(Arc::new(ring::default_provider()))
        .with_safe_default_protocol_versions()
        .unwrap()
        .with_root_certificates(roots)
        .with_no_client_auth();
    let name = address.ip().to_string().try_into().unwrap();
    let session = ClientConnection::new(Arc::new(config), name).unwrap();
    let stream = TcpStream::connect(address).unwrap();
    let mut wire = Wire::secured(stream, Duration::from_secs(5), session)?;
    wire.send(text.as_bytes(), false)?;
    let (mut answer, mut piece) = (Vec::new(), vec![0; 64 << 10]);
    loop {
        match wire.read_some(&mut piece, Take::Copy)? {
            0 => return Ok(String::from_utf8_lossy(&answer).into_owned()),
            count => answer.extend_from_slice(&piece[..count]),
        }
    }
}

#[test]
fn over_tls_a_caller_that_trusts_the_ca_is_served_and_sees_https_in_every_url() {
    let shown = tls::own(vec!["127.0.0.1".to_owned()]).unwrap();
    let registry = started(Ways { tls: Some(shown.config), ..Ways::default() });
    let bytes = "x".repeat(700_000);
    let digest = digest_of(bytes.as_bytes(), "");
    let text = format!(
        "POST /v2/a/blobs/uploads/?digest={digest} HTTP/1.1\r\nHost: r.example\r\n{BASIC}\r\n\
         Content-Length: {}\r\nConnection: close\r\n\r\n{bytes}",
        bytes.len()
    );
    let answer = ask_secured(registry.address(), &shown.ca, &text).unwrap();
    assert_eq!(status(&answer), 201, "{answer}");
    let url = format!("https://r.example/v2/a/blobs/{digest}");
    assert_eq!(field(&answer, "Location"), Some(&*url));

    let text = format!(
        "GET /v2/a/blobs/{digest} HTTP/1.1\r\nHost: r.example\r\n{BASIC}\r\n\
         Connection: close\r\n\r\n"
    );
    let answer = ask_secured(registry.address(), &shown.ca, &text).unwrap();
    assert_eq!(answer.split_once("\r\n\r\n").unwrap().1, bytes);
}

#[test]
fn a_caller_that_trusts_another_ca_ends_the_handshake() {
    let shown = tls::own(vec!["127.0.0.1".to_owned()]).unwrap();
    let other = tls::own(vec!["127.0.0.1".to_owned()]).unwrap();
    let registry = started(Ways { tls: Some(shown.config), ..Ways::default() });
    let text = "GET /v2/ HTTP/1.1\r\nHost: r\r\n\r\n";
    assert!(ask_secured(registry.address(), &other.ca, text).is_err());
}

#[test]
fn a_certificate_from_files_is_shown_and_a_missing_one_is_named() {
    let folder = tempfile::tempdir().unwrap();
    let (cert, key) = (folder.path().join("cert.pem"), folder.path().join("key.pem"));
    let made = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(&cert, made.cert.pem()).unwrap();
    let missing = tls::from_files(&cert, &key).unwrap_err();
    assert!(format!("{missing:#}").contains("key.pem"), "{missing:#}");
    std::fs::write(&key, made.signing_key.serialize_pem()).unwrap();
    let config = tls::from_files(&cert, &key).unwrap();
    let registry = started(Ways { tls: Some(config), ..Ways::default() });
    let text = "GET /api/v2.0/ping HTTP/1.1\r\nHost: r\r\nConnection: close\r\n\r\n";
    let answer = ask_secured(registry.address(), &made.cert.pem(), text).unwrap();
    assert!(answer.ends_with("Pong"), "{answer}");
}

#[test]
fn a_request_without_a_credential_is_sent_to_the_token_service_on_its_own_host() {
    let (registry, digest) = with_tokens();
    let challenge = |method: &str, target: &str, fields: &str| {
        let answer = ask(registry.address(), method, target, fields);
        assert_eq!(status(&answer), 401, "{answer}");
        field(&answer, "WWW-Authenticate").unwrap().to_owned()
    };
    let realm = "Bearer realm=\"http://r.example/service/token\",service=\"harbor-registry\"";
    assert_eq!(challenge("GET", "/v2/", ""), realm);
    let blob = format!("/v2/team/app/blobs/{digest}");
    let pull = format!("{realm},scope=\"repository:team/app:pull\"");
    assert_eq!(challenge("GET", &blob, ""), pull);
    // Public or not: without a credential nothing is answered.
    let public = format!("/v2/library/app/blobs/{digest}");
    assert_eq!(challenge("HEAD", &public, ""), pull.replace("team", "library"));
    let push = format!("{realm},scope=\"repository:team/app:pull,push\"");
    assert_eq!(challenge("POST", "/v2/team/app/blobs/uploads/", ""), push);
    // Whoever showed a credential, and whoever wants the catalogue, is asked for Basic.
    assert_eq!(challenge("GET", "/v2/_catalog", ""), "Basic realm=\"harbor\"");
    let wrong = "Authorization: Basic cm9ib3Q6d3Jvbmc=\r\n";
    assert_eq!(challenge("GET", &blob, wrong), "Basic realm=\"harbor\"");
    let nonsense = "Authorization: Bearer a.b.c\r\n";
    assert_eq!(challenge("GET", &blob, nonsense), "Basic realm=\"harbor\"");
}

#[test]
fn an_accounts_token_opens_the_repositories_it_was_asked_for_and_no_other() {
    let (registry, digest) = with_tokens();
    let basic = format!("{BASIC}\r\n");
    let field = token(&registry, "repository:team/app:pull", &basic);
    let status =
        |method: &str, target: &str| status(&ask(registry.address(), method, target, &field));
    assert_eq!(status("GET", "/v2/"), 200);
    assert_eq!(status("GET", &format!("/v2/team/app/blobs/{digest}")), 200);
    // All of the account's actions, whatever was asked for.
    assert_eq!(status("POST", "/v2/team/app/blobs/uploads/"), 202);
    assert_eq!(status("GET", &format!("/v2/team/other/blobs/{digest}")), 401);
    assert_eq!(status("GET", "/v2/_catalog"), 401);
    let mount = |from: &str| format!("/v2/team/app/blobs/uploads/?mount={digest}&from={from}");
    assert_eq!(status("POST", &mount("team/app")), 201);
    assert_eq!(status("POST", &mount("library/app")), 401);
}

#[test]
fn nobodys_token_pulls_what_is_public() {
    let (registry, digest) = with_tokens();
    let public = format!("/v2/library/app/blobs/{digest}");
    let field = token(&registry, "repository:library/app:pull,push", "");
    let with_it =
        |method: &str, target: &str| status(&ask(registry.address(), method, target, &field));
    assert_eq!(with_it("GET", &public), 200);
    assert_eq!(with_it("POST", "/v2/library/app/blobs/uploads/"), 401);
    assert_eq!(with_it("GET", &format!("/v2/team/app/blobs/{digest}")), 401);
    assert_eq!(with_it("GET", "/v2/"), 401);
    // A wrong password pulls it as well, and so does not show that it is wrong.
    let wrong = "Authorization: Basic cm9ib3Q6d3Jvbmc=\r\n";
    assert_eq!(status(&ask(registry.address(), "GET", &public, wrong)), 200);
}

#[test]
fn the_token_service_knows_get_one_service_and_who_asks() {
    let (registry, _) = with_tokens();
    let ask = |method: &str, query: &str, fields: &str| {
        ask(registry.address(), method, &format!("/service/token{query}"), fields)
    };
    let basic = format!("{BASIC}\r\n");
    let named = "?service=harbor-registry";
    assert_eq!(status(&ask("POST", named, &basic)), 405);
    assert_eq!(status(&ask("GET", "", &basic)), 400);
    assert_eq!(status(&ask("GET", "?service=other", &basic)), 400);
    assert_eq!(status(&ask("GET", named, "")), 401);
    let answer = ask("GET", named, &basic);
    assert_eq!(status(&answer), 200);
    let answer = json_of(&answer);
    assert_eq!((&answer["expires_in"], &answer["access_token"]), (&json!(1800), &json!("")));
    assert!(answer["issued_at"].as_str().unwrap().ends_with('Z'));
}

#[test]
fn skopeo_fetches_a_token_and_pushes_and_pulls_with_it_over_tls() {
    if !has_skopeo("skopeo_fetches_a_token_and_pushes_and_pulls_with_it_over_tls") {
        return;
    }
    let folder = tempfile::tempdir().unwrap();
    let shown = tls::own(vec!["127.0.0.1".to_owned()]).unwrap();
    std::fs::write(folder.path().join("ca.crt"), &shown.ca).unwrap();
    let storage = Some(LOOPBACK.parse().unwrap());
    let ways = Ways { tls: Some(shown.config), tokens: true, storage, ..Ways::default() };
    let registry = started(ways);
    let trust = format!("cert-dir={}", folder.path().display());
    round_trip(&registry, &[&trust, "creds=robot$demo:right"]);
    let seen = registry.seen();
    assert!(seen.foreign > 5, "requests went with a Bearer token: {seen:?}");
    assert!(seen.users["robot$demo"] >= 1, "the token service was asked: {seen:?}");
}

/// A registry that redirects, a blob in it, and where the storage is.
fn redirecting(url: Option<&str>) -> (Registry, String, SocketAddr) {
    let storage = Some(LOOPBACK.parse().unwrap());
    let storage_url = url.map(str::to_owned);
    let registry = started(Ways { storage, storage_url, ..Ways::default() });
    let digest = Robot::of(&registry).push("team/app", b"layer");
    let storage = registry.storage().unwrap();
    (registry, digest, storage)
}

#[test]
fn a_blob_is_read_at_a_signed_url_of_the_storage_and_nowhere_else() {
    let (registry, digest, storage) = redirecting(None);
    let blob = format!("/v2/team/app/blobs/{digest}");
    let basic = format!("{BASIC}\r\n");
    let signed = |method: &str| {
        let answer = ask(registry.address(), method, &blob, &basic);
        assert_eq!(status(&answer), 307, "{answer}");
        let url = field(&answer, "Location").unwrap().to_owned();
        url.strip_prefix(&format!("http://{storage}")).unwrap().to_owned()
    };
    let get = signed("GET");
    let answer = ask(storage, "GET", &get, "");
    assert_eq!((status(&answer), answer.ends_with("layer")), (200, true), "{answer}");
    let answer = ask(storage, "GET", &get, "Range: bytes=1-2\r\n");
    assert_eq!((status(&answer), answer.ends_with("\r\n\r\nay")), (206, true), "{answer}");
    assert_eq!(status(&ask(storage, "HEAD", &signed("HEAD"), "")), 200);
    // Signed for one method, one path and one time only; and never beside another credential.
    assert_eq!(status(&ask(storage, "HEAD", &get, "")), 403);
    assert_eq!(status(&ask(storage, "GET", &get.replace("team", "meat"), "")), 403);
    assert_eq!(status(&ask(storage, "GET", &get.replace("expires=1", "expires=2"), "")), 403);
    assert_eq!(status(&ask(storage, "GET", get.split_once('?').unwrap().0, "")), 403);
    assert_eq!(status(&ask(storage, "GET", &get, &basic)), 400);
    assert_eq!(status(&ask(storage, "GET", "/v2/", "")), 403);
    // What there is not is not redirected.
    let unknown = blob.replace("team/app", "team/other");
    assert_eq!(status(&ask(registry.address(), "GET", &unknown, &basic)), 404);
}

#[test]
fn the_storage_can_go_by_another_name() {
    let (registry, digest, storage) = redirecting(Some("https://storage.example/"));
    let blob = format!("/v2/team/app/blobs/{digest}");
    let answer = ask(registry.address(), "GET", &blob, &format!("{BASIC}\r\n"));
    let url = field(&answer, "Location").unwrap();
    let path = url.strip_prefix("https://storage.example").unwrap();
    assert_eq!(status(&ask(storage, "GET", path, "")), 200);
}

#[test]
fn a_signed_url_expires() {
    let storage = crate::registry::Storage::new("http://s").unwrap();
    let store = crate::registry::Store::new(false).unwrap();
    let at = |method: &str, target: String| {
        let text = format!("{method} {target} HTTP/1.1\r\nHost: s\r\n\r\n");
        crate::registry::http::parse(text.as_bytes()).unwrap().unwrap().0
    };
    let url = storage.redirect("GET", "a", "sha256:0", 1000);
    let head = at("GET", url.field("Location").unwrap().replace("http://s", ""));
    assert_eq!(storage.answer(&store, &head, 1000 + 20 * 60).status, 404);
    assert_eq!(storage.answer(&store, &head, 1000 + 20 * 60 + 1).status, 403);
}

const LOOPBACK: &str = "127.0.0.1:0";
