//! Rows of rewrites, whole heads where they are short, and the rules that hold for any of them.

use std::sync::Arc;

use expect_test::expect;

use super::*;
use crate::body;
use crate::fuzzing::{self, CREDENTIAL, Dice, connector, limits};
use crate::parse;
use crate::snapshot::Served;
use crate::target;
use crate::vocabulary::{Access, ApiPolicy, Connector, ConnectorRef, Credential, Origin, Scheme};

const P: &str = "/v2/namespaces/ci/connectors/h";
const PUSH: &str = "POST /v2/namespaces/ci/connectors/h/p/r/blobs/uploads/";

/// The request `line` for connector `ci/h`, changed by `change`.
fn routed_by(line: &str, fields: &str, change: impl FnOnce(&mut Connector)) -> Routed {
    let host = if line.contains("/namespaces/ci/") { "proxy" } else { "c-h.ci.svc" };
    let (line, version) = line.split_once(" HTTP/").unwrap_or((line, "1.1"));
    let head = format!("{line} HTTP/{version}\r\nHost: {host}\r\n{fields}\r\n");
    let (head, _) = parse::request(head.as_bytes(), &limits()).unwrap().unwrap();
    let target = target::of(&head, "cluster.local", &limits()).unwrap();
    let framing = body::of_request(&head).unwrap();
    let mut connector = connector(ConnectorRef::new("ci", "h"));
    change(&mut connector);
    Routed::new(head, target, framing, Served::of(connector), 1)
}

fn routed(line: &str, fields: &str) -> Routed {
    routed_by(line, fields, |_| {})
}

/// The registry's request, with what the connector has of its own.
fn request(routed: &Routed, request_id: &str) -> Result<Outbound, Kind> {
    let presented = Presented::own(&routed.connector.access)?;
    super::request(routed, &presented, Mount::Keep, request_id)
}

/// The registry's head, with the credential and the fields that are always there taken out.
fn sent(line: &str, fields: &str) -> String {
    let outbound = request(&routed(line, fields), "id-1").unwrap();
    let head = String::from_utf8(outbound.head.to_vec()).unwrap();
    let ours = format!("Authorization: {}\r\n", str::from_utf8(CREDENTIAL).unwrap());
    assert!(head.contains(&ours));
    let head = head.replace(&ours, "").replace("X-Request-ID: id-1\r\n", "");
    let head = head.replace("Via: 1.1 harbor-connector-id\r\n", "");
    head.replace("Host: harbor.example.com\r\n", "").replace("\r\n", "\n")
}

/// The registry's request-target for `line`.
fn asked(line: &str) -> String {
    let head = sent(line, "");
    head.split(' ').nth(1).unwrap().to_owned()
}

/// The caller's answer for the registry's `answer` to `line`: a head, or what became of it.
fn answered_by(line: &str, answer: &str, change: impl FnOnce(&mut Connector)) -> String {
    let routed = routed_by(line, "", change);
    let back = request(&routed, "id-1").unwrap().return_path;
    let answer = format!("HTTP/1.1 {answer}\r\n").replace('\n', "\r\n").replace("\r\r", "\r");
    let (head, _) = parse::response(answer.as_bytes(), &limits()).unwrap().unwrap();
    let framing = body::of_response(routed.head.method, &head).unwrap();
    match response(&head, framing, &back, true, routed.head.version) {
        Ok(Reply::Relay(answer)) => {
            String::from_utf8(answer.head).unwrap().trim_end().replace("\r\n", "\n")
        }
        Ok(Reply::Hold(held)) => format!("held: {held:?}"),
        Ok(Reply::Replace(kind)) => format!("replace: {}", kind.facts().word),
        Ok(Reply::ReplaceBody { status, retry_after }) => format!("body: {status} {retry_after:?}"),
        Err(kind) => kind.facts().word.to_owned(),
    }
}

fn answered(line: &str, answer: &str) -> String {
    answered_by(line, answer, |_| {})
}

/// The caller's `Location` for the registry's, in an answer of 202 to `line`.
fn location(line: &str, registrys: &str) -> String {
    field(&answered(line, &format!("202 Accepted\nLocation: {registrys}\nContent-Length: 0\n")))
}

/// The `Location` or `Link` of an answer; the answer itself where it is no head.
fn field(answer: &str) -> String {
    let mut lines = answer
        .lines()
        .filter_map(|line| line.strip_prefix("Location: ").or_else(|| line.strip_prefix("Link: ")));
    let first = lines.next().map(str::to_owned);
    first.unwrap_or_else(|| if answer.starts_with("HTTP") { "none" } else { answer }.to_owned())
}

#[test]
fn the_registrys_head_holds_the_credential_and_not_the_callers() {
    let fields = "Authorization: Basic eDp0b2tlbg==\r\nAccept: a\r\nAccept: b\r\n\
                  Content-Type: application/octet-stream\r\nContent-Range: 0-9\r\n\
                  Content-Length: 10\r\nUser-Agent: docker/28\r\n";
    let routed = routed(&format!("PATCH {P}/p/r/blobs/uploads/u?_state=aB%3D-_"), fields);
    let outbound = request(&routed, "id-1").unwrap();
    assert_eq!((outbound.method, outbound.framing), (Method::Patch, Framing::Length(10)));
    let head = String::from_utf8(outbound.head.to_vec()).unwrap();
    expect![[r#"
        PATCH /v2/p/r/blobs/uploads/u?_state=aB%3D-_ HTTP/1.1
        Host: harbor.example.com
        Accept: a
        Accept: b
        Content-Type: application/octet-stream
        Content-Range: 0-9
        User-Agent: docker/28
        Authorization: Basic cm9ib3Q6czNjcmV0
        X-Request-ID: id-1
        Via: 1.1 harbor-connector-id
        Content-Length: 10

    "#]]
    .assert_eq(&head.replace("\r\n", "\n"));
}

#[test]
fn a_field_is_written_as_any_other_however_the_caller_wrote_it() {
    let fields = "Accept:a\r\nX-B:  b\t\r\nX-C: c\r\nX-D:\r\nx-e: \r\n";
    let outbound = request(&routed(&format!("GET {P}/p/r/tags/list"), fields), "id-1").unwrap();
    let head = String::from_utf8(outbound.head.to_vec()).unwrap();
    let written = "Accept: a\r\nX-B: b\r\nX-C: c\r\nX-D: \r\nx-e: \r\n";
    assert!(head.contains(written), "{head}");
}

#[test]
fn what_could_turn_the_registrys_mind_stays_here() {
    let fields = [
        "Cookie: sid=1",
        "X-Harbor-CSRF-Token: x",
        "X-Harbor-Anything: x",
        "Xsrf-Token: x",
        "X-Forwarded-Host: evil",
        "X-Forwarded-Proto: http",
        "X-Forwarded-For: ::1",
        "Forwarded: host=evil",
        "X-Real-IP: ::1",
        "VendorType: x",
        "Proxy-Authorization: x",
        "Proxy-Connection: x",
        "TE: trailers",
        "Trailer: x",
        "Upgrade: h2c",
        "HTTP2-Settings: x",
        "Connection: Upgrade, HTTP2-Settings, X-Foo",
        "X-Foo: x",
        "Keep-Alive: 5",
        "Expect: 100-continue",
        "X-Request-Id: theirs",
        "X-HTTP-Method-Override: DELETE",
        "X-Original-URL: /api",
        "Host2: kept",
    ];
    let head = sent(&format!("GET {P}/p/r/manifests/v1"), &(fields.join("\r\n") + "\r\n"));
    expect![[r#"
        GET /v2/p/r/manifests/v1 HTTP/1.1
        Host2: kept

    "#]]
    .assert_eq(&head);
}

#[test]
fn a_caller_cannot_take_the_credential_out_again() {
    let head = sent(
        &format!("PUT {P}/p/r/manifests/v1"),
        "Connection: Authorization, Host, Content-Length, X-Request-ID\r\nContent-Length: 3\r\n",
    );
    assert!(head.ends_with("Content-Length: 3\n\n"), "{head}");
}

#[test]
fn harbors_own_agent_is_not_impersonated() {
    let head = sent(&format!("GET {P}/r/manifests/v1"), "User-Agent: harbor-registry-client\r\n");
    assert!(head.contains("User-Agent: harbor-connector\n"), "{head}");
}

#[test]
fn a_body_keeps_its_framing() {
    let framing = |line: &str, fields: &str| {
        let head = sent(line, fields);
        head.lines()
            .filter(|line| line.contains("-Encoding") || line.contains("-Length"))
            .collect::<String>()
    };
    let patch = format!("PATCH {P}/r/blobs/uploads/u");
    assert_eq!(framing(&patch, "Transfer-Encoding: chunked\r\n"), "Transfer-Encoding: chunked");
    assert_eq!(framing(&patch, "Content-Length: 007\r\n"), "Content-Length: 7");
    assert_eq!(framing(&patch, ""), "Content-Length: 0");
    assert_eq!(framing(&format!("GET {P}/r/manifests/v1"), "Content-Length: 0\r\n"), "");
}

#[test]
fn the_base_path_and_the_port_of_the_address_are_the_registrys() {
    let routed = routed_by(&format!("GET {P}/r/tags/list?n=5"), "", |connector| {
        connector.base_path = "/harbor".into();
        connector.origin = Origin { scheme: Scheme::Http, host: "fd00::1".into(), port: 8080 };
        connector.access = Access::Anonymous;
    });
    let outbound = request(&routed, "id-1").unwrap();
    let head = String::from_utf8(outbound.head.to_vec()).unwrap();
    let start = "GET /harbor/v2/r/tags/list?n=5 HTTP/1.1\r\nHost: [fd00::1]:8080\r\nX-Request-ID:";
    assert!(head.starts_with(start), "{head}");
}

#[test]
fn a_connector_that_cannot_be_used_sends_nothing() {
    let refused = |change: fn(&mut Connector)| {
        let routed = routed_by("GET /api/v2.0/robots", "", change);
        request(&routed, "id-1").map(|_| ()).unwrap_err().facts().word
    };
    assert_eq!(refused(|connector| connector.api = ApiPolicy::Read), "policy-denied");
    assert_eq!(refused(|connector| connector.api = ApiPolicy::Off), "policy-denied");
    let unready = Access::Unready("SecretNotFound".into());
    let routed = routed_by("GET /api/v2.0/robots", "", |connector| connector.access = unready);
    assert_eq!(request(&routed, "id-1").map(|_| ()).unwrap_err(), Kind::ConnectorUnready);
    let routed = routed_by("GET /api/v2.0/robots", "", |connector| {
        connector.access = Access::Credential(Arc::new(Credential {
            authorization: Secret::new(b"Basic x\r\nX: y".to_vec()),
            version: "1".into(),
        }));
    });
    assert_eq!(request(&routed, "id-1").map(|_| ()).unwrap_err(), Kind::ConnectorUnready);
}

#[test]
fn a_mount_comes_from_the_same_connector_or_not_at_all() {
    let rows = [
        (
            "?mount=sha256%3Aab&from=namespaces%2Fci%2Fconnectors%2Fh%2Fq%2Fs",
            "?mount=sha256%3Aab&from=q%2Fs",
        ),
        (
            "?from=namespaces/ci/connectors/h/q/s&mount=sha256:ab&origin=h",
            "?from=q%2Fs&mount=sha256:ab&origin=h",
        ),
        ("?mount=sha256:ab&from=namespaces/OTHER/connectors/h/q/s", ""),
        ("?mount=sha256:ab&from=namespaces/ci/connectors/other/q/s&a=b", "?a=b"),
        ("?mount=sha256:ab&from=q/s", ""),
        ("?mount=sha256:ab&from=../x&origin=h", ""),
        ("?mount=sha256:ab&from=", ""),
        ("?mount=sha256:ab&from", ""),
        ("?mount=sha256:ab&from=namespaces/ci/connectors/h/", ""),
        ("?mount=sha256:ab&from=namespaces/ci/connectors/h", ""),
        ("?mount=sha256:ab&from=namespaces/ci/connectors/h/../../x/q", ""),
        ("?mount=sha256:ab&from=namespaces/ci/connectors/h/q%252Fs", ""),
        ("?mount=sha256:ab&from=namespaces/ci/connectors/h/one", ""),
        ("?mount=sha256:ab", "?mount=sha256:ab"),
        ("?ns=docker.io&n=5", "?n=5"),
        ("?ns=docker.io", ""),
        ("?a&&b=%3D&a", "?a&b=%3D&a"),
        ("?", ""),
    ];
    for (query, expected) in rows {
        let registrys = asked(&format!("{PUSH}{query}"));
        assert_eq!(registrys, format!("/v2/p/r/blobs/uploads/{expected}"), "{query}");
    }
}

#[test]
fn in_the_host_form_a_mount_may_come_without_prefix() {
    let start = "/v2/p/r/blobs/uploads/";
    let rows = [
        ("?mount=sha256:ab&from=q/s", "?mount=sha256:ab&from=q%2Fs"),
        ("?mount=sha256:ab&from=namespaces/ci/connectors/h/q/s", "?mount=sha256:ab&from=q%2Fs"),
        ("?mount=sha256:ab&from=namespaces/ci/connectors/i/q/s", ""),
        ("?mount=sha256:ab&from=../x", ""),
    ];
    for (query, expected) in rows {
        assert_eq!(asked(&format!("POST {start}{query}")), format!("{start}{expected}"), "{query}");
    }
}

#[test]
fn a_refused_mount_can_be_asked_for_as_an_upload() {
    let mount =
        routed(&format!("{PUSH}?mount=sha256:ab&from=namespaces/ci/connectors/h/q/s&a=b"), "");
    assert!(request(&mount, "id-1").unwrap().mounts);
    let presented = Presented::own(&mount.connector.access).unwrap();
    let plain = super::request(&mount, &presented, Mount::Drop, "id-1").unwrap();
    assert!(!plain.mounts);
    assert!(plain.head.starts_with(b"POST /v2/p/r/blobs/uploads/?a=b HTTP/1.1\r\n"));
    assert!(!request(&routed(PUSH, ""), "id-1").unwrap().mounts);
}

#[test]
fn an_answer_keeps_what_a_registrys_client_reads() {
    let answer = "200 OK\nContent-Type: application/json\nContent-Length: 12\nDocker-Content-Digest: d\n\
                  Connection: close, Docker-Content-Digest, X-Hop\nX-Hop: x\nKeep-Alive: 5\n\
                  WWW-Authenticate: Bearer realm=x\nSet-Cookie: sid=1\nStrict-Transport-Security: x\n\
                  Alt-Svc: x\nProxy-Authenticate: x\nX-Harbor-CSRF-Token: x\nLocation: /x\n\
                  Docker-Distribution-Api-Version: registry/2.0\nEtag: \"e\"\nWarning: 299 - \"w\"\n";
    expect![[r#"
        HTTP/1.1 200 OK
        Content-Type: application/json
        Docker-Content-Digest: d
        Docker-Distribution-Api-Version: registry/2.0
        Etag: "e"
        Warning: 299 - "w"
        Content-Length: 12"#]]
    .assert_eq(&answered(&format!("GET {P}/p/r/manifests/v1"), answer));
}

#[test]
fn an_answers_framing_is_ours() {
    let framing = |line: &str, answer: &str| {
        let head = answered(line, answer);
        head.lines().skip(1).collect::<Vec<_>>().join("; ")
    };
    let (get, head) =
        (format!("GET {P}/r/blobs/sha256:{}", "a".repeat(64)), format!("HEAD {P}/r/manifests/v1"));
    let (chunked, old) = ("200 OK\nTransfer-Encoding: chunked\n", format!("{get} HTTP/1.0"));
    assert_eq!(framing(&get, chunked), "Transfer-Encoding: chunked");
    assert_eq!(framing(&get, "200 OK\n"), "Connection: close");
    assert_eq!(framing(&get, "304 x\nContent-Length: 7\n"), "Content-Length: 7");
    assert_eq!(framing(&get, "204 x\nContent-Length: 7\n"), "");
    assert_eq!(framing(&head, "200 OK\nContent-Length: 7\n"), "Content-Length: 7");
    assert_eq!(framing(&head, "200 OK\n"), "");
    assert_eq!(
        framing(&head, "404 x\nContent-Length: 7\nContent-Type: text/html\n"),
        "Content-Type: text/html; Content-Length: 7"
    );
    assert_eq!(framing(&old, chunked), "Connection: close");
}

#[test]
fn an_old_caller_is_told_that_its_connection_lives() {
    let keeps = |keep_alive, version| {
        let routed = routed(&format!("GET {P}/r/manifests/v1"), "");
        let back = request(&routed, "id-1").unwrap().return_path;
        let (head, _) = parse::response(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\n\r\n", &limits())
            .unwrap()
            .unwrap();
        match response(&head, Framing::Length(1), &back, keep_alive, version) {
            Ok(Reply::Relay(answer)) => String::from_utf8(answer.head).unwrap(),
            other => panic!("{other:?}"),
        }
    };
    assert!(keeps(true, Version::Http10).contains("Connection: keep-alive\r\n"));
    assert!(keeps(false, Version::Http10).contains("Connection: close\r\n"));
    assert!(keeps(false, Version::Http11).contains("Connection: close\r\n"));
    assert!(!keeps(true, Version::Http11).contains("Connection"));
}

#[test]
fn a_location_stays_behind_the_connector() {
    let upload = "/v2/p/r/blobs/uploads/u?_state=aB%3D-_";
    let prefixed = format!("{P}/p/r/blobs/uploads/u?_state=aB%3D-_");
    for registrys in [
        upload,
        &format!("https://harbor.example.com{upload}"),
        &format!("http://harbor.example.com{upload}"),
        &format!("HTTPS://Harbor.Example.com.:443{upload}"),
        &format!("https://registry.example.com{upload}"),
        "u?_state=aB%3D-_",
    ] {
        assert_eq!(location(PUSH, registrys), prefixed, "{registrys}");
        assert_eq!(location("POST /v2/p/r/blobs/uploads/", registrys), upload, "{registrys}");
    }
    assert_eq!(location(PUSH, "?a=b"), format!("{P}/p/r/blobs/uploads/?a=b"));
}

#[test]
fn a_location_that_leads_elsewhere_is_never_passed_on() {
    for registrys in [
        "//evil/",
        "//harbor.example.com/v2/p",
        "http:evil",
        "https:/v2/x",
        "\\\\evil",
        "/\\evil/v2/",
        "https://evil/v2/p/r",
        "https://harbor.example.com@evil/v2/",
        "https://evil@harbor.example.com/v2/x",
        "https://harbor.example.com:8443/v2/p",
        "https://harbor.example.com.evil.com/v2/p",
        "https://evilharbor.example.com/v2/p",
        "ftp://harbor.example.com/v2/p",
        "javascript:alert(1)",
        "https://harbor.example.com",
        "https://harbor.example.com/",
        "https://harbor.example.com/api/v2.0/x",
        "/api/v2.0/users",
        "/v2",
        "/v2/../api/v2.0/users",
        "/v2/%2e%2e/api",
        "/v2/a%2fb",
        "/v2/a%252e",
        "/v2//a",
        "/v2/a/./b",
        "../../../../c/login",
        "..",
        "/v2/a#b",
        "/v2/a b",
        "/v2/a\tb",
        "/v2/a\u{e9}",
        "",
        "https://harbor.example.com:/v2/p",
        "https://harbor.example.com%2eevil/v2/p",
        "https://[::1/v2/p",
        "x://",
    ] {
        let passed = location(PUSH, registrys);
        assert_eq!(passed, "registry-malformed", "{registrys:?}");
    }
    let another = location("POST /v2/p/r/blobs/uploads/", "/v2/namespaces/x/connectors/y/p/r");
    assert_eq!(another, "registry-malformed");
    let twice = "202 x\nLocation: /v2/a\nLocation: /v2/b\nContent-Length: 0\n";
    assert_eq!(answered(PUSH, twice), "registry-malformed");
}

#[test]
fn a_base_path_is_taken_off_a_location() {
    let below = |registrys: &str| {
        let answer = format!("201 Created\nLocation: {registrys}\nContent-Length: 0\n");
        field(&answered_by(PUSH, &answer, |connector| connector.base_path = "/harbor".into()))
    };
    assert_eq!(below("https://harbor.example.com/harbor/v2/p/r/x"), format!("{P}/p/r/x"));
    assert_eq!(below("/harbor/v2/p/r/x"), format!("{P}/p/r/x"));
    assert_eq!(below("/v2/p/r/x"), format!("{P}/p/r/x"));
    assert_eq!(below("u"), format!("{P}/p/r/blobs/uploads/u"));
    assert_eq!(below("/harborx/v2/p/r/x"), "registry-malformed");
}

#[test]
fn a_redirection_is_rewritten_and_only_a_blobs_may_leave() {
    let redirected = |line: &str, to: &str| {
        field(&answered(line, &format!("307 x\nLocation: {to}\nContent-Length: 0\n")))
    };
    let blob = format!("GET {P}/p/r/blobs/sha256:{}", "a".repeat(64));
    let manifest = format!("GET {P}/p/r/manifests/v1");
    let store = "https://store.example.com/b?X-Amz-Signature=a%2Fb";
    assert_eq!(redirected(&blob, store), store);
    assert_eq!(redirected(&blob, "//store.example.com/b"), "registry-malformed");
    assert_eq!(redirected(&manifest, store), "registry-malformed");
    assert_eq!(
        redirected(&manifest, "/v2/p/library/r/manifests/v1"),
        format!("{P}/p/library/r/manifests/v1")
    );
    let secured = answered_by(
        &manifest,
        "308 x\nLocation: https://harbor.example.com/v2/p/r/manifests/v1\nContent-Length: 0\n",
        |connector| {
            connector.origin =
                Origin { scheme: Scheme::Http, host: "harbor.example.com".into(), port: 80 };
        },
    );
    assert_eq!(secured, "registry-malformed", "it would redirect for ever");
}

#[test]
fn a_link_leads_to_the_next_page_behind_the_connector() {
    let tags = format!("GET {P}/p/r/tags/list");
    let link = |line: &str, value: &str| {
        field(&answered(line, &format!("200 OK\nContent-Length: 0\nLink: {value}\n")))
    };
    assert_eq!(
        link(&tags, "</v2/p/r/tags/list?last=b&n=50>; rel=\"next\""),
        format!("<{P}/p/r/tags/list?last=b&n=50>; rel=\"next\"")
    );
    assert_eq!(
        link(
            &tags,
            "<https://harbor.example.com/v2/p/r/tags/list?n=1>; rel=next, <?n=2>; rel=last"
        ),
        format!("<{P}/p/r/tags/list?n=1>; rel=next, <{P}/p/r/tags/list?n=2>; rel=last")
    );
    for bad in ["<https://evil/>; rel=\"next\"", "<//evil/>", "</v2/..>", "</v2/a", "<>"] {
        assert_eq!(link(&tags, bad), "registry-malformed", "{bad}");
        assert_eq!(link(&format!("GET {P}/p/r/manifests/v1"), bad), "none", "{bad}");
    }
}

#[test]
fn harbors_api_is_linked_and_located_too() {
    let line = "GET /namespaces/ci/connectors/h/api/v2.0/projects";
    let prefix = "/namespaces/ci/connectors/h";
    let answer = |field: &str| format!("201 x\nContent-Length: 0\n{field}\n");
    assert_eq!(
        field(&answered(line, &answer("Location: /api/v2.0/projects/5"))),
        format!("{prefix}/api/v2.0/projects/5")
    );
    assert_eq!(
        field(&answered(line, &answer("Link: </api/v2.0/projects?page=2>; rel=\"next\""))),
        format!("<{prefix}/api/v2.0/projects?page=2>; rel=\"next\"")
    );
    assert_eq!(field(&answered(line, &answer("Location: /c/login"))), "registry-malformed");
    let html = "500 x\nContent-Type: text/html\nContent-Length: 5\n";
    assert_eq!(answered(line, html), "held: Error");
    let accounts = "200 x\nContent-Type: application/json\nContent-Length: 5\n";
    for path in ["users", "users/3", "users/current"] {
        let line = format!("GET /api/v2.0/{path}");
        assert_eq!(answered(&line, accounts), "held: Accounts", "{path}");
    }
    assert!(answered(line, accounts).starts_with("HTTP/1.1 200"));
}

#[test]
fn a_refusal_of_the_credential_is_not_the_callers() {
    let challenge = "401 x\nWWW-Authenticate: Basic realm=\"harbor\"\nContent-Length: 5\n";
    for line in
        [PUSH.to_owned(), format!("HEAD {P}/r/manifests/v1"), "GET /api/v2.0/projects".to_owned()]
    {
        assert_eq!(answered(&line, challenge), "replace: credential-refused");
    }
    assert_eq!(answered(PUSH, "407 x\nContent-Length: 0\n"), "registry-malformed");
    assert_eq!(answered(PUSH, "101 x\nUpgrade: h2c\n"), "registry-malformed");
}

#[test]
fn an_error_that_no_client_can_read_gets_a_body_of_ours() {
    let line = format!("GET {P}/p/r/manifests/v1");
    let html = "Content-Type: text/html\nContent-Length: 5\n";
    assert_eq!(answered(&line, &format!("413 x\n{html}")), "body: 413 None");
    let again = answered(&line, &format!("503 x\nRetry-After: 7\n{html}"));
    assert_eq!(again, "body: 503 Some(\"7\")");
    assert_eq!(answered(&line, "502 x\n"), "body: 502 None");
    for json in ["application/json; charset=utf-8", "Application/Problem+JSON"] {
        let answer = answered(&line, &format!("404 x\nContent-Type: {json}\nContent-Length: 5\n"));
        assert_eq!(answer, "held: Error");
    }
    assert!(answered(&line, "404 x\nContent-Length: 0\n").starts_with("HTTP/1.1 404"));
}

#[test]
fn any_rewrite_keeps_its_promises() {
    let mut relayed = 0;
    for seed in 0..6000 {
        let mut dice = Dice::new(seed);
        let text = [any_request(&mut dice), any_answer(&mut dice)].join("\0");
        println!("seed {seed}");
        relayed += usize::from(fuzzing::rewrite(text.as_bytes()));
    }
    assert!(relayed > 1000, "only {relayed} got all the way");
}

fn any_request(dice: &mut Dice) -> String {
    let mut text = dice.pick(&["GET ", "POST ", "PUT ", "PATCH ", "HEAD "]).to_owned();
    text.push_str(dice.pick(&[P, P, "/v2", "/api/v2.0"]));
    let ends =
        ["/p/r/manifests/v1", "/p/r/blobs/uploads/", "/p/r/blobs/uploads/u", "/p/r/tags/list"];
    text.push_str(dice.pick(&ends));
    text.push('?');
    let own = "namespaces/ci/connectors/h/";
    let escaped = "namespaces%2Fci%2Fconnectors%2Fh%2F";
    for _ in 0..dice.below(4) {
        let parts = ["from=", own, escaped, "&", "mount=a", "ns=x", "q/s", "%2F", "..", "="];
        text.push_str(dice.pick(&parts));
    }
    text.push_str(" HTTP/1.1\r\nHost: c-h.ci\r\n");
    for _ in 0..dice.below(4) {
        let fields = [
            "Authorization: x\r\n",
            "Connection: authorization, host\r\n",
            "Cookie: x\r\n",
            "A:b\r\n",
            "Content-Length: 5\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Forwarded: host=evil\r\n",
        ];
        text.push_str(dice.pick(&fields));
    }
    text + "\r\n"
}

fn any_answer(dice: &mut Dice) -> String {
    let statuses = ["200", "201", "202", "307", "404", "401", "304", "204"];
    let mut text = ["HTTP/1.1 ", dice.pick(&statuses), " x\r\n"].concat();
    for _ in 0..dice.below(4) {
        let fields = [
            "Location: ",
            "Link: <",
            "Set-Cookie: x\r\n",
            "Content-Length: 5\r\n",
            "Connection: link\r\n",
            "Transfer-Encoding: chunked\r\n",
            "Content-Type: application/json\r\n",
        ];
        let field = dice.pick(&fields);
        text.push_str(field);
        if !field.ends_with('\n') {
            for _ in 0..dice.below(5) {
                let host = dice.pick(&["harbor.example.com", "evil", "registry.example.com"]);
                let odd = dice.pick(&["//", "@", "..", "%2e", "\\", "#", ">", ":443"]);
                let part =
                    dice.pick(&["/v2/", "/v2/p/r", "https://", host, host, odd, "/", "u", "?a"]);
                text.push_str(part);
            }
            text.push_str("\r\n");
        }
    }
    text + "\r\n"
}

#[test]
fn a_number_is_written_as_it_is_read() {
    for number in [0, 9, 10, 416, 65_536, 1 << 40, u64::MAX] {
        let mut head = Vec::new();
        push_number(&mut head, number);
        assert_eq!(String::from_utf8(head).unwrap(), number.to_string());
    }
}
