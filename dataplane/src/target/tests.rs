//! Rows of targets: what each names, and what each odd one is refused with.

use super::*;
use crate::fuzzing::{self, Dice, limits};
use crate::parse;

const SHA: &str = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
const P: &str = "/v2/namespaces/ci/connectors/h";

fn target(line: &str, host: &str, fields: &str) -> Result<Target, Kind> {
    let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\n{fields}\r\n");
    let (head, _) = parse::request(head.as_bytes(), &limits())?.unwrap();
    of(&head, "cluster.local", &limits())
}

/// Checks what `line` names: route, connector, form, rest, repository, reference.
fn check(line: &str, expected: Result<&str, &str>) {
    check_at(line, "proxy.example.com", expected);
}

fn check_at(line: &str, host: &str, expected: Result<&str, &str>) {
    let described = target(line, host, "").map(|target| {
        let connector = target.connector().map_or("-".to_owned(), ToString::to_string);
        let (route, form) = (target.route().as_str(), target.form());
        let names = format!("{} {}", target.repository(), target.asked().reference());
        format!("{route} {connector} {form:?} {} {names}", target.rest()).trim_end().to_owned()
    });
    let described = described.map_err(|kind| kind.facts().word);
    assert_eq!(described.as_deref().map_err(|word| *word), expected, "{line} at {host}");
}

fn refused(line: &str, word: &str) {
    check(line, Err(word));
}

#[test]
fn the_path_form_names_connector_and_resource() {
    check(
        &format!("GET {P}/p/r/manifests/v1"),
        Ok("manifest ci/h Path /v2/p/r/manifests/v1 p/r v1"),
    );
    check(
        &format!("HEAD {P}/p/r/blobs/{SHA}"),
        Ok(&format!("blob ci/h Path /v2/p/r/blobs/{SHA} p/r {SHA}")),
    );
    check(
        &format!("GET {P}/r/manifests/{}", SHA.replace(':', "%3A")),
        Ok(&format!("manifest ci/h Path /v2/r/manifests/{0} r {0}", SHA.replace(':', "%3A"))),
    );
    check(
        &format!("POST {P}/p/r/blobs/uploads/"),
        Ok("upload ci/h Path /v2/p/r/blobs/uploads/ p/r"),
    );
    check(&format!("POST {P}/p/r/blobs/uploads"), Ok("upload ci/h Path /v2/p/r/blobs/uploads p/r"));
    check(
        &format!("PATCH {P}/p/r/blobs/uploads/4f-_.=?_state=a%3D&x"),
        Ok("upload ci/h Path /v2/p/r/blobs/uploads/4f-_.= p/r"),
    );
    check(
        &format!("GET {P}/p/r/tags/list?n=5&last=v1"),
        Ok("tags ci/h Path /v2/p/r/tags/list p/r"),
    );
    check(
        &format!("GET {P}/p/r/referrers/{SHA}"),
        Ok(&format!("referrers ci/h Path /v2/p/r/referrers/{SHA} p/r {SHA}")),
    );
}

#[test]
fn in_absolute_form_the_target_names_the_host() {
    check(
        "GET http://c-h.ci/v2/p/r/manifests/v1",
        Ok("manifest ci/h Host /v2/p/r/manifests/v1 p/r v1"),
    );
    check(&format!("GET HTTP://any:80{P}/p/tags/list"), Ok("tags ci/h Path /v2/p/tags/list p"));
}

#[test]
fn the_host_form_is_the_fallback() {
    let manifest = "GET /v2/p/r/manifests/v1";
    let expected = Ok("manifest ci/h Host /v2/p/r/manifests/v1 p/r v1");
    for host in [
        "c-h.ci",
        "c-h.ci.svc",
        "c-h.ci.svc.cluster.local",
        "C-H.CI.Svc.Cluster.LOCAL",
        "c-h.ci.svc.cluster.local.:8080",
        "c-h.ci.",
    ] {
        check_at(manifest, host, expected);
    }
    for host in [
        "c-h",
        "h.ci.svc",
        "c-.ci.svc",
        "c-h.ci.pod",
        "c-h.ci.svc.other.domain",
        "c-h.svc.ci.x",
        "c-h.ci.svc.cluster.local.evil.com",
        "c-h.ci..",
        "c-h..svc",
        "[::1]",
        "192.0.2.1:5000",
        "c-h.ci.svcx",
        "c-h_.ci",
    ] {
        check_at(manifest, host, Err("no-connector"));
    }
    // The path decides where it has the whole prefix.
    check_at(
        &format!("GET {P}/r/manifests/v1"),
        "c-other.ns",
        Ok("manifest ci/h Path /v2/r/manifests/v1 r v1"),
    );
    check_at(
        "GET /v2/namespaces/ci/manifests/v1",
        "c-h.ci",
        Ok("manifest ci/h Host /v2/namespaces/ci/manifests/v1 namespaces/ci v1"),
    );
    check("GET /v2/namespaces/ci/connectors", Err("no-connector"));
}

#[test]
fn the_ping_names_no_connector() {
    check("GET /v2/", Ok("ping - Host /v2/"));
    check_at("HEAD /v2", "c-h.ci", Ok("ping - Host /v2"));
    refused("POST /v2/", "method-not-allowed");
}

#[test]
fn harbors_api_has_both_forms() {
    check(
        "GET /namespaces/ci/connectors/h/api/v2.0/projects?page=1&q=name=~a",
        Ok("api ci/h Path /api/v2.0/projects"),
    );
    check_at("POST /api/v2.0/robots", "c-h.ci", Ok("api ci/h Host /api/v2.0/robots"));
    let nested = "/api/v2.0/projects/p/repositories/a%252Fb/artifacts/sha256%3Aab/tags";
    check_at(&format!("GET {nested}"), "c-h.ci", Ok(&format!("api ci/h Host {nested}")));
    let token = "service/token?service=harbor-registry&scope=repository%3Aa%2Fb%3Apull";
    check_at(&format!("GET /{token}"), "c-h.ci", Ok("token ci/h Host /service/token"));
    let in_path = format!("GET /namespaces/ci/connectors/h/{token}");
    check_at(&in_path, "proxy", Ok("token ci/h Path /service/token"));
    check_at("POST /service/token", "c-h.ci", Err("method-not-allowed"));
    for path in [
        "/api/v2.0/",
        "/api/v2.0/projects/",
        "/api/v2.0/../../v2/",
        "/api/v2.0/a%252Fb",
        "/api/v1/x",
        "/api/v2.0/projects/p/repositories/a%2Fb",
        "/api/v2.0/repositories/%252e%252e",
        "/c/login",
        "/api/v2.0/projects//x",
        "/api/v2.0/x%3Ay",
        "/api/v2.0;x/projects",
        "/service/token/",
        "/service/tokens",
        "/namespaces/ci/connectors/h/service/token/x",
        "/",
        "/namespaces/ci/connectors/h/v2/p/r/manifests/v1",
        "/namespaces/ci/connectors/h/v2/",
        "/v2/namespaces/ci/connectors/h/api/v2.0/projects",
    ] {
        check_at(&format!("GET {path}"), "c-h.ci", Err("name-invalid"));
    }
}

#[test]
fn a_path_that_could_be_normalised_is_refused() {
    for rest in [
        "/..%2f..%2f..%2fnamespaces/b/connectors/y/p/r/manifests/v1",
        "/../../b/connectors/y/p/r/manifests/v1",
        "/%2e%2e/%2e%2e/api/v2.0/users",
        "/p/./r/manifests/v1",
        "//p/r/manifests/v1",
        "/p//r/manifests/v1",
        "/p/r/manifests/v1/",
        "/p/r/manifests/",
        "/p/r/tags/list/",
        "/p%252fr/manifests/v1",
        "/p/%c0%af/manifests/v1",
        "/p/%00/manifests/v1",
        "/p/r%0d%0a/manifests/v1",
        "/%70/r/manifests/v1",
        "/p/r/%6danifests/v1",
        "/p/r/manifests/%76",
        "/p/r/manifests/v1%3A",
        "/p/r/manifests/v1#x",
        "/p\\r/manifests/v1",
        "/p|r/manifests/v1",
        "/{p}/manifests/v1",
        "/p;a=b/manifests/v1",
        "/p/r/blobs/uploads/..",
        "/p/r/blobs/uploads/a/b",
        "/p/r/blobs/uploads/a%2Fb",
        "/p/r/manifests/v1%",
    ] {
        refused(&format!("GET {P}{rest}"), "name-invalid");
    }
    refused("GET /v2/%6eamespaces/ci/connectors/h/p/manifests/v1", "name-invalid");
    refused(&format!("GET {P}/p\u{e9}/manifests/v1"), "malformed");
    refused(&format!("GET {P}/p\t/manifests/v1"), "malformed");
    refused("GET https://c-h.ci/v2/p/r/manifests/v1", "malformed");
    refused("GET http://u@c-h.ci/v2/p/r/manifests/v1", "malformed");
    refused("GET c-h.ci:80", "malformed");
    refused("GET *", "malformed");
}

#[test]
fn names_keep_to_their_grammar() {
    let long = "a".repeat(256);
    for repository in [
        "P/r", "p/R", "-p", "p-", ".p", "p.", "_p", "p_", "p___r", "p..r", "p._r", "p.-r", "p__-r",
        "p/~r", "p:r", &long,
    ] {
        refused(&format!("GET {P}/{repository}/manifests/v1"), "name-invalid");
    }
    for repository in
        ["p", "p/r/s", "p.q", "p_q", "p__q", "p---q", "0/1", &"a".repeat(255), "a/manifests"]
    {
        let rest = format!("/v2/{repository}/manifests/v1");
        let expected = format!("manifest ci/h Path {rest} {repository} v1");
        check(&format!("GET {P}/{repository}/manifests/v1"), Ok(&expected));
    }
    for prefix in ["CI/connectors/h", "ci/connectors/H", "-ci/connectors/h", "ci/connectors/h.x"] {
        refused(&format!("GET /v2/namespaces/{prefix}/p/r/manifests/v1"), "name-invalid");
    }
    let tag = "t".repeat(128);
    check(
        &format!("GET {P}/r/manifests/{tag}"),
        Ok(&format!("manifest ci/h Path /v2/r/manifests/{tag} r {tag}")),
    );
    for reference in
        [&format!("{tag}t"), "-v", ".v", "sha256:ab", &SHA.to_uppercase(), "md5:", ":a", "a:b:c"]
    {
        refused(&format!("GET {P}/r/manifests/{reference}"), "name-invalid");
    }
    for rest in ["/manifests/v1", "/tags/list", "/blobs/uploads/", "/"] {
        let method = if rest.ends_with("uploads/") { "POST" } else { "GET" };
        refused(&format!("{method} {P}{rest}"), "name-invalid");
    }
    refused(&format!("GET {P}/r/blobs/latest"), "name-invalid");
    refused(&format!("GET {P}/r/referrers/v1"), "name-invalid");
    refused(&format!("GET {P}/r"), "name-invalid");
    refused(&format!("GET {P}/_catalog"), "policy-denied");
}

#[test]
fn a_resource_has_its_methods_only() {
    let blob = format!("{P}/r/blobs/{SHA}");
    for line in [
        format!("POST {P}/r/manifests/v1"),
        format!("PATCH {P}/r/manifests/v1"),
        format!("PUT {blob}"),
        format!("POST {blob}"),
        format!("GET {P}/r/blobs/uploads/"),
        format!("PUT {P}/r/blobs/uploads/"),
        format!("POST {P}/r/blobs/uploads/u"),
        format!("DELETE {P}/r/tags/list"),
        format!("POST {P}/r/referrers/{SHA}"),
    ] {
        refused(&line, "method-not-allowed");
    }
    assert!(target(&format!("DELETE {blob}"), "h", "").is_ok());
    assert!(target(&format!("DELETE {P}/r/blobs/uploads/u"), "h", "").is_ok());
}

#[test]
fn a_query_is_read_one_way() {
    let start = format!("POST {P}/r/blobs/uploads/");
    for query in [
        "",
        "a",
        "=",
        "&",
        "mount=sha256:ab&from=p/q",
        "mount=sha256%3Aab&from=p%2Fq&origin=h:80",
        "tag=a&tag=b",
        "_state=AbC-_%3D&digest=x",
        "x=a+b",
        "x=%C3%A9",
        "ns=docker.io",
    ] {
        assert!(target(&format!("{start}?{query}"), "h", "").is_ok(), "{query}");
    }
    for query in [
        "from=a&from=b",
        "from=a&mount=b&from",
        "mount=a&mount=a",
        "digest=a&digest=b",
        "_state=a&_state=b",
        "a;b",
        "a=b;from=c",
        "%zz",
        "a=%",
        "a=%4",
        "a=%00",
        "a=%0d%0a",
        "%66rom=a",
        "fro%6d=a",
        "a=%7f",
        "a=\"",
        "a=<",
        "a=\\",
        "a=|",
        "a=#",
        "a=[x]",
        "_method=PUT",
    ] {
        let refused =
            target(&format!("{start}?{query}"), "h", "").map_err(|kind| kind.facts().word);
        assert_eq!(refused.map(|_| ()), Err("query-invalid"), "{query}");
    }
    let long = format!("{start}?a={}", "b".repeat(16 * 1024));
    refused(&long, "target-too-long");
}

#[test]
fn an_upload_is_never_a_form() {
    let word = |line: &str, content_type: &str| {
        let fields = format!("Content-Type: {content_type}\r\n");
        target(line, "h", &fields).map(|_| "fine").unwrap_or_else(|kind| kind.facts().word)
    };
    let start = format!("POST {P}/r/blobs/uploads/");
    for content_type in [
        "application/x-www-form-urlencoded",
        "Application/X-WWW-Form-urlencoded ; charset=utf-8",
        "multipart/form-data; boundary=x",
        "multipart/mixed",
        "\u{a0}application/x-www-form-urlencoded",
        "appl\u{130}cation/x-www-form-urlencoded",
        "application/json\r\nContent-Type: application/x-www-form-urlencoded",
    ] {
        assert_eq!(word(&start, content_type), "form-body", "{content_type:?}");
    }
    assert_eq!(word(&format!("PUT {P}/r/blobs/uploads/u"), "multipart/form-data"), "form-body");
    assert_eq!(word(&start, "application/json"), "fine");
    assert_eq!(word(&start, "application/octet-stream"), "fine");
    assert_eq!(word(&start, ""), "fine");
}

#[test]
fn a_manifest_beyond_its_bound_is_refused_by_its_length() {
    let word = |length: u64| {
        let fields = format!("Content-Length: {length}\r\n");
        target(&format!("PUT {P}/r/manifests/v1"), "h", &fields).map_err(|kind| kind.facts().word)
    };
    assert!(word(8 * 1024 * 1024).is_ok());
    assert_eq!(word(8 * 1024 * 1024 + 1).map(|_| ()), Err("manifest-too-large"));
}

#[test]
fn reading_harbors_api_reveals_no_credential() {
    use crate::vocabulary::ApiPolicy::{Full, Off, Read};
    let permits = |policy, method, path: &str| {
        api::api_permits(policy, method, &format!("/api/v2.0/{path}")).is_ok()
    };
    for path in [
        "ping",
        "health",
        "systeminfo",
        "projects",
        "projects/p",
        "projects/p/summary",
        "labels",
        "labels/1",
        "repositories",
        "projects/p/repositories",
        "projects/p/repositories/a%252Fb",
        "projects/p/repositories/r/artifacts",
        "projects/p/repositories/r/artifacts/v1",
        "projects/p/repositories/r/artifacts/v1/tags",
        "projects/p/repositories/r/artifacts/v1/additions/vulnerabilities",
    ] {
        assert!(permits(Read, Method::Get, path), "{path}");
        assert!(!permits(Read, Method::Post, path), "{path}");
        assert!(!permits(Off, Method::Get, path), "{path}");
        assert!(permits(Full, Method::Delete, path), "{path}");
    }
    for path in [
        "robots",
        "robots/1",
        "users",
        "users/current",
        "users/1",
        "registries",
        "replication/policies",
        "scanners",
        "projects/p/webhook/policies",
        "projects/p/robots",
        "projects/p/members",
        "configurations",
        "internalconfig",
        "ldap/users/search",
        "system/gc",
        "jobservice/pools",
        "systeminfo/getcert",
        "projects/p/scanner",
        "projects/p/repositories/r/artifacts/v1/scan/1/log",
        "",
        "pingx",
    ] {
        assert!(!permits(Read, Method::Get, path), "{path}");
        let internal = path == "internalconfig";
        assert_eq!(permits(Full, Method::Get, path), !internal, "{path}");
    }
}

#[test]
fn any_target_that_is_taken_has_one_meaning() {
    let mut taken = 0;
    for seed in 0..6000 {
        let mut dice = Dice::new(seed);
        let mut text =
            dice.pick(&["GET ", "HEAD ", "POST ", "PUT ", "PATCH ", "DELETE "]).to_owned();
        text.push_str(dice.pick(&[
            "/v2/",
            P,
            "/api/v2.0/",
            "/namespaces/a/connectors/b/api/v2.0/",
        ]));
        for _ in 0..dice.below(8) {
            text.push_str(dice.pick(&[
                "/",
                "p/r",
                "manifests/",
                "v1",
                "blobs/",
                "uploads/",
                "uploads",
                "tags/list",
                ".",
                "..",
                "%2f",
                "%3A",
                "%252F",
                "referrers/",
                SHA,
                "?",
                "from=",
                "&",
                "mount=a",
                "namespaces/x/",
                "connectors/y/",
                "projects",
                "repositories/",
                "//",
                "u",
                "/p/r/",
                "_catalog",
            ]));
        }
        text.push_str(" HTTP/1.1\r\nHost: ");
        text.push_str(dice.pick(&["c-h.ci", "c-h.ci.svc.cluster.local.:80", "h"]));
        text.push_str("\r\n\r\n");
        println!("seed {seed}");
        taken += usize::from(fuzzing::target(text.as_bytes()));
    }
    assert!(taken > 200, "only {taken} were taken");
}

#[test]
fn an_absolute_url_or_a_connect_names_the_registry_by_its_own_host() {
    let forward = |line: &str| {
        target(line, "proxy", "").map_err(|kind| kind.facts().word).map(|target| {
            let origin = target.origin().map(ToString::to_string).unwrap_or_default();
            format!("{} {:?} {origin} {}", target.route().as_str(), target.form(), target.rest())
        })
    };
    for (line, expected) in [
        (
            "GET http://harbor.example.com/v2/p/r/manifests/v1",
            "manifest Forward http://harbor.example.com /v2/p/r/manifests/v1",
        ),
        (
            "GET https://HARBOR.example.com.:443/v2/p/r/tags/list?n=1",
            "tags Forward https://harbor.example.com /v2/p/r/tags/list",
        ),
        ("GET http://[FD00::7]:5000/v2/", "ping Forward http://[fd00::7]:5000 /v2/"),
        // Foreign to a registry; whether it is told so depends on who asks.
        (
            "GET http://www.example.com/index.html",
            "unknown Forward http://www.example.com /index.html",
        ),
        ("PUT http://www.example.com/v2/", "unknown Forward http://www.example.com /v2/"),
    ] {
        assert_eq!(forward(line).as_deref(), Ok(expected), "{line}");
    }
    let connect = |target: &str, host: &str| {
        let text = format!("CONNECT {target} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let (head, _) = parse::request(text.as_bytes(), &limits()).unwrap().unwrap();
        let found = of(&head, "cluster.local", &limits());
        found.map(|found| found.origin().unwrap().to_host_and_port()).ok()
    };
    let at = Some("harbor.example.com:443".to_owned());
    for host in ["harbor.example.com:443", "harbor.example.com", "Harbor.example.com."] {
        assert_eq!(connect("harbor.example.com:443", host), at, "{host}");
    }
    assert_eq!(connect("[::1]:443", "[::1]:443"), Some("[::1]:443".to_owned()));
    assert_eq!(connect("harbor.example.com:443", "other.example.com"), None);
    assert_eq!(connect("harbor.example.com", "harbor.example.com"), None);
}

#[test]
fn inside_a_tunnel_the_host_is_the_tunnels_and_names_stay_as_they_are() {
    use crate::vocabulary::Scheme;
    let origin = Origin { scheme: Scheme::Https, host: "h.example".into(), port: 443 };
    let inside = |line: &str, host: &str| {
        let head = format!("{line} HTTP/1.1\r\nHost: {host}\r\n\r\n");
        let (head, _) = parse::request(head.as_bytes(), &limits()).unwrap().unwrap();
        let connector = ConnectorRef::new("ci", "h");
        let found = forward::inside(&head, &origin, &connector, &limits());
        found.map(|found| found.rest().to_owned()).map_err(|kind| kind.facts().word)
    };
    let path = "/v2/namespaces/a/connectors/b/r/manifests/v1";
    for host in ["h.example", "h.example:443", "H.example."] {
        assert_eq!(inside(&format!("GET {path}"), host).as_deref(), Ok(path), "{host}");
    }
    assert_eq!(inside(&format!("GET https://h.example{path}"), "h.example").as_deref(), Ok(path));
    for (line, host) in [
        ("GET /v2/", "other.example"),
        ("GET /v2/", "h.example:80"),
        ("GET http://h.example/v2/", "h.example"),
        ("GET https://other.example/v2/", "h.example"),
    ] {
        assert_eq!(inside(line, host), Err("misdirected"), "{line} at {host}");
    }
    assert_eq!(inside("CONNECT h.example:443", "h.example:443"), Err("malformed"));
}

#[test]
fn whatever_callers_of_the_forward_proxy_write_has_one_meaning() {
    use base64::Engine as _;
    let mut taken = 0;
    for seed in 0..4000 {
        let mut dice = Dice::new(seed);
        let mut piece = |count: usize, choices: &[&str]| -> String {
            (0..1 + dice.below(count)).map(|_| dice.pick(choices).to_owned()).collect()
        };
        let user = piece(6, &["ci", "/", "%2F", ",", "h", "A", "-", " "]);
        let pair = format!("{user}{}", piece(2, &[":", "t", ":t"]));
        let value = format!("Basic {}", base64::engine::general_purpose::STANDARD.encode(pair));
        let choices =
            ["a", ".", "B", ":", "443", "0", "[::1]", "[", "]", "@", "-", "%", "10.0.0.1"];
        let text = [value.as_bytes(), b"\0", piece(6, &choices).as_bytes()].concat();
        taken += usize::from(fuzzing::forward(&text));
    }
    assert!(taken > 200, "only {taken} were taken");
}
