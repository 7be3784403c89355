//! Answers of a registry that would hand a caller what opens the registry without us: a token, the
//! secret of an account, the credential itself in an error.
//!
//! Every caller searches what it received for the marked password when it is dropped, so an answer
//! that shows it fails its story without another word.

use crate::support::caller::{basic, request};
use crate::support::fake_registry::robots_authorization;
use crate::support::manifests::{anonymous_connector, connector};
use crate::support::{
    Answer, FakeRegistry, HOST, Manifests, PASSWORD, PREFIX, Proxy, TOKEN, answer,
};

const API: &str = "/namespaces/ci/connectors/harbor";
const JSON: &str = "Content-Type: application/json; charset=utf-8\r\n";

/// A proxy whose connector passes all of Harbor's API on.
fn with_full_api(registry: &FakeRegistry) -> Proxy {
    let more = "  params: [{name: api, value: full}]\n";
    let manifests = Manifests::for_registry(&registry.url())
        .with("connector.yaml", &connector("ci", "harbor", &registry.url(), more));
    Proxy::start(&manifests, &[])
}

// The token service

#[test]
fn the_token_service_answers_a_caller_with_a_token_that_opens_nothing() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let query = "service=harbor-registry&scope=repository%3Ateam%2Fapp%3Apull&scope=a:b:c";
    let in_path_form = proxy.get(&format!("{API}/service/token?{query}"));
    let in_host_form = proxy.get_at(HOST, &format!("/service/token?{query}"));
    for reply in [in_path_form, in_host_form, proxy.get(&format!("{API}/service/token"))] {
        assert_eq!(reply.status, 200, "{reply}");
        let json: serde_json::Value = serde_json::from_slice(&reply.body).expect("JSON");
        assert_eq!(json["token"], "connector");
        assert_eq!(json["access_token"], "connector");
        assert_eq!(json["expires_in"], 1800);
        let issued = json["issued_at"].as_str().expect("a date");
        assert!(
            issued.starts_with("20") && issued.len() == 20 && issued.ends_with('Z'),
            "{issued}"
        );
        assert_eq!(reply.field("cache-control"), Some("no-store"));
    }
    let head = proxy.ask(&request("HEAD", &format!("{API}/service/token"), ""));
    assert_eq!((head.status, head.body.len()), (200, 0));
    for method in ["POST", "PUT", "DELETE"] {
        let form = "Content-Type: application/x-www-form-urlencoded\r\nContent-Length: 0\r\n";
        let reply = proxy.ask(&request(method, &format!("{API}/service/token"), form));
        assert_eq!(reply.status, 405, "Harbor has no OAuth2 form either: {reply}");
    }
    assert!(registry.is_untouched());
}

#[test]
fn only_an_allowed_caller_gets_that_token_and_it_is_no_callers_token() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let target = format!("{API}/service/token?service=harbor-registry");
    let without = proxy.ask(&format!("GET {target} HTTP/1.1\r\nHost: proxy\r\n\r\n"));
    assert_eq!(without.status, 401, "{without}");
    assert_eq!(without.field("www-authenticate"), Some("Basic realm=\"connectors\""));
    let stranger = proxy.get_as(crate::support::STRANGER_TOKEN, &target);
    let unknown = proxy.get(&target.replace("/harbor/", "/nobodys/"));
    assert_eq!((stranger.status, unknown.status), (403, 403));
    for target in [target, format!("{PREFIX}/team/app/manifests/v1")] {
        let reply = proxy.ask(&format!(
            "GET {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: Bearer connector\r\n\r\n"
        ));
        assert_eq!(reply.status, 401, "{reply}");
    }
    assert!(registry.is_untouched());
}

#[test]
fn nothing_else_of_harbor_stands_beside_its_apis() {
    let registry = FakeRegistry::obliging();
    let proxy = with_full_api(&registry);
    for path in ["/c/login", "/c/oidc/login", "/service/token/", "/service/notifications", "/"] {
        for reply in [proxy.get(&format!("{API}{path}")), proxy.get_at(HOST, path)] {
            assert_eq!(reply.status, 400, "{path}: {reply}");
        }
    }
    for path in ["internalconfig", "InternalConfig", "internalconfig/x"] {
        let reply = proxy.get(&format!("{API}/api/v2.0/{path}"));
        assert_eq!(reply.status, 403, "{path}: {reply}");
    }
    assert!(registry.is_untouched());
}

// Accounts

/// What Harbor shows of an OIDC account (src/server/v2.0/handler/model/user.go).
const ACCOUNT: &str = r#"{"email":"a@b.c","oidc_user_meta":{"creation_time":"2026-01-01","id":1,"secret":"canary-cli-secret","subiss":"x"},"user_id":3,"username":"a","secret":"kept"}"#;

#[test]
fn the_secrets_of_accounts_do_not_pass_and_all_else_of_them_does() {
    let registry = FakeRegistry::answering(|seen| {
        let body = match seen.target.as_str() {
            "/api/v2.0/users" => format!("[{ACCOUNT},{ACCOUNT}]\n"),
            _ => ACCOUNT.to_owned(),
        };
        if seen.method == "HEAD" {
            return answer(200, JSON, b"");
        }
        if seen.target.ends_with("/9") {
            let chunks = format!("{:x}\r\n{body}\r\n0\r\n\r\n", body.len());
            let head = format!("HTTP/1.1 200 OK\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n");
            return (head + &chunks).into_bytes();
        }
        answer(200, JSON, body.as_bytes())
    });
    let proxy = with_full_api(&registry);
    let mut caller = proxy.caller();
    let masked = ACCOUNT.replace("canary-cli-secret", "*****************");
    for path in ["users/current", "users/3", "users/9", "users?page=1"] {
        let fields = "Accept-Encoding: gzip, zstd\r\nRange: bytes=0-20\r\nIf-Range: \"a\"\r\n";
        let reply = caller.ask(&request("GET", &format!("{API}/api/v2.0/{path}"), fields));
        assert_eq!((reply.status, reply.text()), (200, masked.clone()), "{path}");
        assert_eq!(reply.field("content-type"), Some("application/json; charset=utf-8"));
    }
    let reply = caller.ask(&request("GET", &format!("{API}/api/v2.0/users"), ""));
    assert_eq!(reply.text(), format!("[{masked},{masked}]\n"));
    let head = caller.ask(&request("HEAD", &format!("{API}/api/v2.0/users"), ""));
    assert_eq!((head.status, head.body.len()), (200, 0));
    for seen in registry.requests() {
        assert_eq!(seen.field("accept-encoding"), Some("identity"), "{:?}", seen.fields);
        assert!(!seen.has("range") && !seen.has("if-range"), "{:?}", seen.fields);
    }
    assert_eq!(registry.connections(), 1, "its body was read to its end");
}

#[test]
fn accounts_in_a_form_that_cannot_be_looked_through_do_not_pass() {
    let registry = FakeRegistry::answering(|seen| {
        let last = seen.target.rsplit('/').next().unwrap_or_default();
        match last {
            "encoded" => {
                answer(200, &format!("{JSON}Content-Encoding: gzip\r\n"), ACCOUNT.as_bytes())
            }
            "part" => {
                answer(206, &format!("{JSON}Content-Range: bytes 0-1/2\r\n"), ACCOUNT.as_bytes())
            }
            "html" => answer(200, "Content-Type: text/html\r\n", b"canary-cli-secret"),
            "cut" => answer(200, JSON, &ACCOUNT.as_bytes()[..100]),
            _ => answer(200, JSON, format!("\"{}\"", "x".repeat(1 << 20)).as_bytes()),
        }
    });
    let proxy = with_full_api(&registry);
    for path in ["encoded", "part", "html", "cut", "long"] {
        let reply = proxy.get(&format!("{API}/api/v2.0/users/{path}"));
        assert_eq!((reply.status, reply.code().as_str()), (502, "UNKNOWN"), "{path}: {reply}");
        assert!(reply.text().contains("accounts"), "{path}: {reply}");
        assert!(!reply.text().contains("canary-cli"), "{path}: {reply}");
    }
}

// B45

/// Errors that show the credential in one way each.
fn echoes() -> Vec<(&'static str, String)> {
    let authorization = robots_authorization(PASSWORD);
    let encoded = authorization.trim_start_matches("Basic ").to_owned();
    let percent: String = PASSWORD.bytes().map(|byte| format!("%{byte:02x}")).collect();
    let escaped: String = PASSWORD.chars().map(|c| format!("\\u{:04x}", u32::from(c))).collect();
    vec![
        ("the field", authorization),
        ("the pair", encoded),
        ("the password", PASSWORD.to_owned()),
        ("the password in a URL", percent),
        ("the password in JSON", escaped),
    ]
}

#[track_caller]
fn assert_hidden(reply: &Answer, status: u16, what: &str) {
    assert_eq!(reply.status, status, "{what}: {reply}");
    assert_ne!(reply.code(), "", "{what}: {reply}");
    assert!(!reply.text().contains("said the registry"), "{what}: {reply}");
}

#[test]
fn an_error_that_shows_the_credential_is_replaced_whatever_its_type_and_framing() {
    for (what, echo) in echoes() {
        for status in [400, 404, 500, 503] {
            let echo = echo.clone();
            let registry = FakeRegistry::answering(move |seen| {
                let body = format!(
                    "{{\"errors\":[{{\"code\":\"X\",\"message\":\"said the registry: {echo}\"}}]}}"
                );
                if seen.target.ends_with("chunked") {
                    let (one, two) = body.split_at(body.len() / 2);
                    let (a, b) = (one.len(), two.len());
                    return format!(
                        "HTTP/1.1 {status} No\r\n{JSON}Transfer-Encoding: chunked\r\n\r\n\
                         {a:x}\r\n{one}\r\n{b:x}\r\n{two}\r\n0\r\n\r\n"
                    )
                    .into_bytes();
                }
                answer(status, JSON, body.as_bytes())
            });
            let proxy = with_full_api(&registry);
            let mut caller = proxy.caller();
            for target in [
                format!("{PREFIX}/team/app/manifests/v1"),
                format!("{PREFIX}/team/app/manifests/chunked"),
                format!("{API}/api/v2.0/projects"),
            ] {
                let reply = caller.ask(&request("GET", &target, ""));
                assert_hidden(&reply, status, what);
            }
            proxy.logged(&["WARN", "may show the credential"]);
        }
    }
}

#[test]
fn an_upload_refused_with_the_credential_in_the_answer_does_not_show_it() {
    let registry = FakeRegistry::answering(|seen| {
        let echo = seen.field("authorization").unwrap_or_default();
        answer(403, JSON, format!("{{\"message\":\"said the registry: {echo}\"}}").as_bytes())
    });
    let proxy = Proxy::in_front_of(&registry);
    let target = format!("{PREFIX}/team/app/blobs/uploads/1?_state=s");
    let reply = proxy.ask(&crate::support::caller::upload("PUT", &target, "a layer"));
    assert_hidden(&reply, 403, "an upload");
}

#[test]
fn an_error_with_the_credential_in_a_field_is_replaced_too() {
    let registry = FakeRegistry::answering(|seen| {
        let echo = seen.field("authorization").unwrap_or_default();
        answer(404, &format!("{JSON}X-Seen: {echo}\r\n"), b"{\"said the registry\":1}")
    });
    let proxy = Proxy::in_front_of(&registry);
    let reply = proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));
    assert_hidden(&reply, 404, "a field");
    assert!(!reply.has("x-seen"));
}

#[test]
fn errors_too_long_to_be_looked_through_or_broken_off_are_replaced() {
    let registry = FakeRegistry::scripted(|visit| {
        while let Some(seen) = visit.head() {
            let long = format!("{{\"said the registry\":\"{}\"}}", "x".repeat(70_000));
            match seen.target.rsplit('/').next().unwrap_or_default() {
                "long" => {
                    visit.send(answer(500, JSON, long.as_bytes()));
                }
                "chunked" => {
                    let head = "HTTP/1.1 400 No\r\nTransfer-Encoding: chunked\r\n";
                    visit.send(format!("{head}{JSON}\r\n{:x}\r\n{long}\r\n", long.len()));
                }
                _ => {
                    visit.send(&answer(404, JSON, &long.as_bytes()[..1000])[..300]);
                    visit.close();
                }
            }
        }
    });
    let proxy = Proxy::in_front_of(&registry);
    for (tag, status) in [("long", 500), ("chunked", 400), ("cut", 404)] {
        let reply = proxy.get(&format!("{PREFIX}/team/app/manifests/{tag}"));
        assert_hidden(&reply, status, tag);
    }
}

#[test]
fn harbors_own_errors_pass_unchanged_as_its_clients_know_them() {
    // Read-only mode, quota, immutable tag, proxy project (F28); a limit (F29).
    let errors = [
        (403, "DENIED", "The system is in read only mode. Any modification is prohibited."),
        (
            403,
            "DENIED",
            "adding 2 GiB of storage resource, which will exceed the configured upper limit",
        ),
        (412, "PRECONDITION", "configured as immutable"),
        (403, "DENIED", "can not push artifact to a proxy project: cache"),
        (429, "TOOMANYREQUESTS", "too many requests"),
    ];
    for (status, code, message) in errors {
        let body = format!(r#"{{"errors":[{{"code":"{code}","message":"{message}"}}]}}"#);
        let sent = body.clone();
        let registry = FakeRegistry::answering(move |_| {
            answer(
                status,
                &format!("{JSON}Retry-After: 9\r\nSet-Cookie: sid=1\r\n"),
                sent.as_bytes(),
            )
        });
        let proxy = Proxy::in_front_of(&registry);
        let mut caller = proxy.caller();
        let put = format!("{PREFIX}/team/app/manifests/v1");
        for request in [
            crate::support::caller::upload("PUT", &put, "{}"),
            request("POST", &format!("{PREFIX}/team/app/blobs/uploads/"), "Content-Length: 0\r\n"),
        ] {
            let reply = caller.ask(&request);
            assert_eq!((reply.status, reply.text()), (status, body.clone()), "{message}");
            assert_eq!(reply.field("retry-after"), Some("9"));
            assert!(!reply.has("set-cookie"), "{reply}");
        }
        assert_eq!(registry.arrivals().len(), 2, "nothing is sent again");
        assert_eq!(registry.connections(), 1, "an error's body is read to its end");
    }
}

#[test]
fn an_anonymous_connectors_errors_pass() {
    let registry = FakeRegistry::answering(|_| answer(404, JSON, b"{\"errors\":[]}"));
    let manifests = Manifests::for_registry(&registry.url())
        .with("connector.yaml", &anonymous_connector("ci", "harbor", &registry.url()));
    let proxy = Proxy::start(&manifests, &[]);
    let reply = proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));
    assert_eq!((reply.status, reply.text().as_str()), (404, "{\"errors\":[]}"));
}

// Harbor's parts

#[test]
fn a_caller_cannot_pass_for_a_part_of_harbor_nor_open_a_session() {
    let registry = FakeRegistry::answering(|_| {
        answer(200, "Set-Cookie: sid=1; Path=/; HttpOnly\r\nSet-Cookie: _gorilla_csrf=2\r\n", b"")
    });
    let proxy = with_full_api(&registry);
    let mut caller = proxy.caller();
    let fields = "User-Agent: harbor-registry-client\r\nVendorType: RETENTION\r\nCookie: sid=1\r\n";
    for target in [format!("{PREFIX}/team/app/manifests/v1"), format!("{API}/api/v2.0/projects")] {
        let reply = caller.ask(&request("GET", &target, fields));
        assert!(!reply.has("set-cookie"), "{reply}");
    }
    for seen in registry.requests() {
        assert_eq!(seen.field("user-agent"), Some("harbor-connector"), "{:?}", seen.fields);
        assert!(!seen.has("vendortype") && !seen.has("cookie"), "{:?}", seen.fields);
        assert_ne!(seen.field("authorization"), Some(basic(TOKEN).as_str()));
    }
}
