//! What is changed on the way, in both directions, and what is not.
//!
//! Rows B43 and B44 of the bad-input matrix stand here.

use std::sync::{Arc, Mutex};

use crate::support::caller::{request, upload};
use crate::support::{Answer, FakeRegistry, HOST, PREFIX, Proxy, TOKEN, answer, base64, digest_of};

/// A registry whose next answer's status and fields the story sets.
struct Scene {
    registry: FakeRegistry,
    proxy: Proxy,
    next: Arc<Mutex<(u16, String)>>,
}

impl Scene {
    fn new() -> Self {
        let next = Arc::new(Mutex::new((200, String::new())));
        let said = Arc::clone(&next);
        let registry = FakeRegistry::answering(move |_| {
            let (status, fields) = said.lock().expect("no story panics here").clone();
            answer(status, &fields, b"")
        });
        let proxy = Proxy::in_front_of(&registry);
        Self { registry, proxy, next }
    }

    /// The answer to `request` when the registry says `status` and `fields`.
    #[track_caller]
    fn when(&self, status: u16, fields: &str, request: &str) -> Answer {
        *self.next.lock().expect("no story panics here") = (status, fields.to_owned());
        self.proxy.ask(request)
    }
}

fn in_host_form(method: &str, target: &str) -> String {
    request(method, target, "Content-Length: 0\r\n")
        .replace("Host: proxy", &format!("Host: {HOST}"))
}

#[test]
fn the_callers_token_goes_and_the_connectors_credential_comes() {
    let scene = Scene::new();
    scene.when(200, "", &request("GET", &format!("{PREFIX}/team/app/manifests/v1"), ""));
    let seen = scene.registry.only_request();
    assert!(seen.is_the_robots(), "{:?}", seen.fields);
}

#[test]
fn fields_that_could_mislead_the_registry_are_stripped() {
    let scene = Scene::new();
    let fields = "Cookie: sid=1\r\nProxy-Authorization: Basic eA==\r\nProxy-Connection: close\r\n\
        Forwarded: host=evil\r\nX-Forwarded-Host: evil\r\nX-Forwarded-Proto: https\r\n\
        X-Forwarded-For: 10.0.0.1\r\nX-Forwarded-Port: 1\r\nX-Real-IP: 10.0.0.1\r\n\
        X-Harbor-CSRF-Token: t\r\nX-Harbor-Anything: t\r\nXsrf-Token: t\r\nVendorType: x\r\n\
        TE: trailers\r\nUpgrade: h2c\r\nHTTP2-Settings: AAMAAABk\r\nKeep-Alive: timeout=5\r\n\
        Connection: Upgrade, HTTP2-Settings, X-Mine\r\nX-Mine: hop\r\n";
    scene.when(200, "", &request("GET", &format!("{PREFIX}/team/app/manifests/v1"), fields));
    let seen = scene.registry.only_request();
    for line in fields.split("\r\n").filter(|line| !line.is_empty()) {
        let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
        let value = seen.field(&name).unwrap_or_default();
        let allowed = name == "connection" && ["", "keep-alive"].contains(&value);
        assert!(allowed || !seen.has(&name), "{name} reached the registry: {:?}", seen.fields);
    }
    assert!(seen.is_the_robots());
}

#[test]
fn fields_that_belong_to_the_registry_are_kept_as_they_are() {
    let scene = Scene::new();
    let kept = [
        ("Accept", "application/vnd.oci.image.index.v1+json, */*"),
        ("Accept-Encoding", "zstd;q=1.0, gzip;q=0.8, deflate;q=0.5"),
        ("User-Agent", "containers/5.23.1 (github.com/containers/image)"),
        ("If-Match", "\"a\""),
        ("Range", "bytes=5-"),
        ("If-Range", "\"b\""),
        ("Docker-Distribution-Api-Version", "registry/2.0"),
        ("X-Something-New", "1"),
    ];
    let fields: String = kept.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    scene.when(200, "", &request("GET", &format!("{PREFIX}/team/app/manifests/v1"), &fields));
    let seen = scene.registry.only_request();
    for (name, value) in kept {
        assert_eq!(seen.field(&name.to_ascii_lowercase()), Some(value), "{name}");
    }
}

#[test]
fn repeated_accept_fields_stay_together_in_order() {
    let scene = Scene::new();
    let fields = "Accept: a/1\r\nAccept: b/2\r\nUser-Agent: x\r\nAccept: c/3\r\n";
    scene.when(200, "", &request("GET", &format!("{PREFIX}/team/app/manifests/v1"), fields));
    let seen = scene.registry.only_request();
    let accepted: Vec<_> = seen.fields.iter().filter(|(name, _)| name == "accept").collect();
    let joined: Vec<_> = accepted.iter().map(|(_, value)| value.as_str()).collect();
    assert_eq!(joined.join(", "), "a/1, b/2, c/3");
}

#[test]
fn a_connection_field_cannot_strip_what_the_proxy_puts_in() {
    let scene = Scene::new();
    let fields = "Connection: Authorization, Host, Content-Length, close\r\n";
    let target = format!("{PREFIX}/team/app/manifests/v1");
    let more = format!("{fields}Content-Length: 2\r\n");
    let reply = scene.when(201, "", &format!("{}{{}}", request("PUT", &target, &more)));
    if reply.status == 201 {
        let seen = scene.registry.only_request();
        assert!(seen.is_the_robots());
        assert_eq!(seen.field("host"), Some(scene.registry.authority().as_str()));
        assert_eq!(seen.body, b"{}");
    } else {
        assert_eq!(reply.status, 400, "{reply}");
        assert!(scene.registry.is_untouched());
    }
}

#[test]
fn a_query_passes_byte_for_byte_but_for_ns() {
    let scene = Scene::new();
    let rows = [
        ("n=5&last=b%2Fc", "n=5&last=b%2Fc"),
        ("last=%c3%a9&n=1000", "last=%c3%a9&n=1000"),
        ("ns=docker.example", ""),
        ("n=5&ns=docker.example&last=a", "n=5&last=a"),
        ("unknown=1&flag", "unknown=1&flag"),
    ];
    for (sent, expected) in rows {
        let target = format!("{PREFIX}/team/app/tags/list?{sent}");
        scene.when(200, "", &request("GET", &target, ""));
        let seen = scene.registry.requests().pop().expect("a request").target;
        let query = seen.split_once('?').map_or("", |(_, query)| query);
        assert_eq!(query, expected, "{sent}");
    }
}

#[test]
fn an_uploads_own_parameters_pass_byte_for_byte() {
    let scene = Scene::new();
    let digest = digest_of(b"x").replace(':', "%3A");
    let query = format!("_state=ab-_c%3D%3d&digest={digest}");
    let target = format!("{PREFIX}/team/app/blobs/uploads/0a-1b?{query}");
    scene.when(201, "", &request("PUT", &target, "Content-Length: 0\r\n"));
    let seen = scene.registry.only_request();
    assert_eq!(seen.target, format!("/v2/team/app/blobs/uploads/0a-1b?{query}"));
}

#[test]
fn a_manifest_put_with_tags_in_its_query_keeps_them_all() {
    let scene = Scene::new();
    let digest = digest_of(b"x");
    let target = format!("{PREFIX}/team/app/manifests/{digest}?tag=a&tag=b");
    scene.when(201, "OCI-Tag: a\r\nOCI-Tag: b\r\n", &upload("PUT", &target, "{}"));
    let seen = scene.registry.only_request();
    assert_eq!(seen.target, format!("/v2/team/app/manifests/{digest}?tag=a&tag=b"));
}

#[test]
fn a_location_stays_inside_the_form_that_the_caller_used() {
    let scene = Scene::new();
    let authority = scene.registry.authority();
    let path = "/v2/team/app/blobs/uploads/0a?_state=x%3D_-y";
    let spellings = [
        path.to_owned(),
        format!("http://{authority}{path}"),
        // A load balancer that ends TLS in front of a registry makes it name the other scheme.
        format!("https://{authority}{path}"),
        "0a?_state=x%3D_-y".to_owned(),
        "/v2/team/app/blobs/../blobs/uploads/0a?_state=x%3D_-y".to_owned(),
    ];
    let start = "team/app/blobs/uploads/";
    for (place, location) in spellings.iter().enumerate() {
        let fields = format!("Location: {location}\r\nDocker-Upload-UUID: 0a\r\nRange: 0-0\r\n");
        let by_path = request("POST", &format!("{PREFIX}/{start}"), "Content-Length: 0\r\n");
        let reply = scene.when(202, &fields, &by_path);
        if place == 4 {
            // Ambiguous to anyone who follows it: refused or resolved, but never passed on.
            assert_ne!(reply.field("location").map(|seen| seen.contains("..")), Some(true));
            continue;
        }
        let expected = format!("{PREFIX}/{start}0a?_state=x%3D_-y");
        assert_eq!(reply.field("location"), Some(expected.as_str()), "{location}");
        assert_eq!(reply.field("docker-upload-uuid"), Some("0a"));
        assert_eq!(reply.field("range"), Some("0-0"));

        let reply = scene.when(202, &fields, &in_host_form("POST", &format!("/v2/{start}")));
        assert_eq!(reply.field("location"), Some(path), "{location} in the host form");
    }
}

#[test]
fn the_location_of_a_stored_blob_manifest_or_redirect_is_rewritten_too() {
    let scene = Scene::new();
    let authority = scene.registry.authority();
    let digest = digest_of(b"x");
    let rows = [
        (201, "PUT", format!("blobs/uploads/0a?digest={digest}"), format!("blobs/{digest}")),
        (201, "PUT", "manifests/v1".to_owned(), format!("manifests/{digest}")),
        (301, "GET", "manifests/v1".to_owned(), "manifests/v2".to_owned()),
    ];
    for (status, method, sent, located) in rows {
        let fields = format!("Location: http://{authority}/v2/team/app/{located}\r\n");
        let length = if method == "PUT" { "Content-Length: 0\r\n" } else { "" };
        let target = format!("{PREFIX}/team/app/{sent}");
        let reply = scene.when(status, &fields, &request(method, &target, length));
        assert_eq!(reply.status, status, "{sent}");
        let expected = format!("{PREFIX}/team/app/{located}");
        assert_eq!(reply.field("location"), Some(expected.as_str()), "{sent}");
    }
}

#[test]
fn an_upload_location_on_another_host_is_never_passed_on() {
    let scene = Scene::new();
    let authority = scene.registry.authority();
    let locations = [
        "http://evil.example/v2/team/app/blobs/uploads/0a".to_owned(),
        "//evil.example/v2/team/app/blobs/uploads/0a".to_owned(),
        format!("http://{authority}@evil.example/v2/team/app/blobs/uploads/0a"),
        format!("http://evil.example@{authority}/v2/team/app/blobs/uploads/0a"),
        format!("http://{authority}.evil.example/v2/team/app/blobs/uploads/0a"),
        format!("http://{authority}/somewhere/else"),
        "http:evil".to_owned(),
        "\\\\evil.example\\v2".to_owned(),
        "/\\evil.example/v2/".to_owned(),
        "javascript:alert(1)".to_owned(),
        "/v2/../../etc".to_owned(),
        "/api/v2.0/users".to_owned(),
        "/v2/team/app/blobs/uploads/1\rSet-Cookie: evil".to_owned(),
        "/v2/team/app/blobs/uploads/1\r\n Set-Cookie: evil".to_owned(),
        "/v2/team/app/blobs/uploads/1\tevil".to_owned(),
    ];
    let target = format!("{PREFIX}/team/app/blobs/uploads/");
    for location in locations {
        let fields = format!("Location: {location}\r\n");
        let reply = scene.when(202, &fields, &request("POST", &target, "Content-Length: 0\r\n"));
        assert_eq!(reply.status, 502, "{location}: {reply}");
        assert!(!reply.has("location"), "{location}: {reply}");
        assert!(!reply.text().contains("evil"), "{location}: {reply}");
    }
    let twice = "Location: /v2/team/app/blobs/uploads/1\r\nLocation: /v2/a/b/blobs/uploads/2\r\n";
    let reply = scene.when(202, twice, &request("POST", &target, "Content-Length: 0\r\n"));
    assert_eq!(reply.status, 502, "{reply}");
}

#[test]
fn a_location_on_a_declared_alias_of_the_registry_is_rewritten() {
    let registry = FakeRegistry::answering(|_| {
        let fields = "Location: https://harbor.example.com/v2/team/app/blobs/uploads/0a\r\n";
        answer(202, fields, b"")
    });
    let more = "  addressExtensions: [{name: external, value: \"https://harbor.example.com\"}]\n";
    let text = crate::support::manifests::connector("ci", "harbor", &registry.url(), more);
    let manifests =
        crate::support::Manifests::for_registry(&registry.url()).with("connector.yaml", &text);
    let proxy = Proxy::start(&manifests, &[]);
    let target = format!("{PREFIX}/team/app/blobs/uploads/");
    let reply = proxy.ask(&request("POST", &target, "Content-Length: 0\r\n"));
    let expected = format!("{PREFIX}/team/app/blobs/uploads/0a");
    assert_eq!((reply.status, reply.field("location")), (202, Some(expected.as_str())), "{reply}");
}

#[test]
fn every_reference_in_a_link_is_rewritten_and_its_parameters_are_kept() {
    let scene = Scene::new();
    let authority = scene.registry.authority();
    let target = format!("{PREFIX}/team/app/tags/list?n=2");
    let inside = format!("{PREFIX}/team/app/tags/list?last=b&n=2");
    let rows = [
        ("</v2/team/app/tags/list?last=b&n=2>; rel=\"next\"".to_owned(),
         format!("<{inside}>; rel=\"next\"")),
        (format!("<http://{authority}/v2/team/app/tags/list?last=b&n=2>; rel=\"next\""),
         format!("<{inside}>; rel=\"next\"")),
        ("</v2/team/app/tags/list?last=b&n=2>; rel=\"next\", </v2/team/app/tags/list?n=2>; rel=first".to_owned(),
         format!("<{inside}>; rel=\"next\", <{PREFIX}/team/app/tags/list?n=2>; rel=first")),
    ];
    for (link, expected) in rows {
        let fields = format!("Link: {link}\r\n");
        let reply = scene.when(200, &fields, &request("GET", &target, ""));
        assert_eq!(reply.field("link"), Some(expected.as_str()), "{link}");
    }
    let fields = "Link: </v2/team/app/tags/list?last=b>; rel=\"next\"\r\n";
    let reply = scene.when(
        200,
        fields,
        &in_host_form("GET", "/v2/team/app/tags/list").replace("Content-Length: 0\r\n", ""),
    );
    assert_eq!(reply.field("link"), Some("</v2/team/app/tags/list?last=b>; rel=\"next\""));

    let reply = scene.when(
        200,
        "Link: <https://evil.example/>; rel=next\r\n",
        &request("GET", &target, ""),
    );
    assert!(reply.status == 502 || !reply.has("link"), "{reply}");
}

#[test]
fn what_would_bind_a_caller_to_the_registry_is_stripped_from_answers() {
    let scene = Scene::new();
    let fields = "WWW-Authenticate: Bearer realm=\"https://harbor.example/service/token\"\r\n\
        Set-Cookie: sid=1; Path=/\r\nSet-Cookie: _gorilla_csrf=2\r\n\
        Strict-Transport-Security: max-age=31536000\r\nAlt-Svc: h2=\":443\"\r\n\
        X-Harbor-CSRF-Token: t\r\nAuthentication-Info: a\r\nProxy-Authenticate: Basic\r\n\
        Proxy-Authentication-Info: a\r\nKeep-Alive: timeout=5\r\nUpgrade: h2\r\n";
    for status in [200, 403, 404] {
        let target = format!("{PREFIX}/team/app/manifests/v1");
        let reply = scene.when(status, fields, &request("GET", &target, ""));
        assert_eq!(reply.status, status);
        for line in fields.split("\r\n").filter(|line| !line.is_empty()) {
            let name = line.split(':').next().unwrap_or_default().to_ascii_lowercase();
            assert!(!reply.has(&name), "{name} reached the caller: {reply}");
        }
    }
}

#[test]
fn what_clients_read_in_answers_is_kept_even_when_connection_names_it() {
    let scene = Scene::new();
    let kept = [
        ("Docker-Content-Digest", "sha256:abc"),
        ("Docker-Distribution-Api-Version", "registry/2.0"),
        ("Content-Type", "application/vnd.oci.image.index.v1+json"),
        ("Content-Encoding", "gzip"),
        ("Etag", "\"sha256:abc\""),
        ("Accept-Ranges", "bytes"),
        ("OCI-Subject", "sha256:def"),
        ("OCI-Filters-Applied", "artifactType"),
        ("OCI-Chunk-Min-Length", "65536"),
        ("Warning", "299 - \"deprecated\""),
        ("Retry-After", "7"),
        ("RateLimit-Limit", "100;w=21600"),
    ];
    let fields: String = kept.iter().map(|(name, value)| format!("{name}: {value}\r\n")).collect();
    let fields =
        format!("{fields}Connection: Docker-Content-Digest, Content-Type, X-Hop\r\nX-Hop: 1\r\n");
    let target = format!("{PREFIX}/team/app/manifests/v1");
    let reply = scene.when(200, &fields, &request("GET", &target, ""));
    for (name, value) in kept {
        assert_eq!(reply.field(&name.to_ascii_lowercase()), Some(value), "{name}");
    }
    assert!(!reply.has("x-hop"), "{reply}");

    let fields = "Location: /v2/team/app/blobs/uploads/0a\r\n\
        Connection: close, Location, Content-Length\r\n";
    let target = format!("{PREFIX}/team/app/blobs/uploads/");
    let reply = scene.when(202, fields, &request("POST", &target, "Content-Length: 0\r\n"));
    let expected = format!("{target}0a");
    assert_eq!((reply.status, reply.field("location")), (202, Some(expected.as_str())), "{reply}");
    assert_eq!(reply.field("content-length"), Some("0"), "{reply}");
}

#[test]
fn an_error_of_the_registry_reaches_the_caller_unchanged() {
    let body = br#"{"errors":[{"code":"MANIFEST_UNKNOWN","message":"manifest unknown"}]}"#;
    for status in [400, 403, 404, 412, 429, 500] {
        let registry = FakeRegistry::answering(move |_| {
            answer(
                status,
                "Content-Type: application/json; charset=utf-8\r\nRetry-After: 3\r\n",
                body,
            )
        });
        let proxy = Proxy::in_front_of(&registry);
        let reply = proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));
        assert_eq!((reply.status, reply.body.as_slice()), (status, body.as_slice()));
        assert_eq!(reply.field("retry-after"), Some("3"));
        assert_eq!(registry.arrivals().len(), 1, "{status} is not tried again");
    }
}

#[test]
fn an_error_body_that_echoes_the_credential_is_replaced() {
    let registry = FakeRegistry::answering(|seen| {
        let echo: String =
            seen.fields.iter().map(|(name, value)| format!("{name}: {value}\n")).collect();
        let status = seen.target.rsplit('/').next().and_then(|tag| tag.parse().ok());
        answer(status.unwrap_or(500), "Content-Type: text/plain\r\n", echo.as_bytes())
    });
    let proxy = Proxy::in_front_of(&registry);
    for status in [400, 404, 500, 503] {
        // The caller's own search for secrets, when it is dropped, is the test.
        let reply = proxy.get(&format!("{PREFIX}/team/app/manifests/{status}"));
        assert_eq!(reply.status, status);
        assert_ne!(reply.code(), "");
    }
}

#[test]
fn a_callers_own_harbor_login_never_arrives() {
    let scene = Scene::new();
    let target = format!("{PREFIX}/team/app/manifests/v1");
    for value in [format!("Basic {}", base64("admin:Harbor12345")), "Harbor-Secret abc".to_owned()]
    {
        let request = format!(
            "GET {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {value}\r\n\
             Proxy-Authorization: Bearer {TOKEN}\r\n\r\n"
        );
        assert_eq!(scene.when(200, "", &request).status, 401);
    }
    assert!(scene.registry.is_untouched());
}
