//! The ways to name a connector: in the path, in the Host, and both at once.

use crate::support::caller::request;
use crate::support::{FakeRegistry, HOST, Manifests, PREFIX, Proxy, STRANGER_TOKEN, TOKEN};

#[test]
fn the_path_form_names_the_connector_and_its_prefix_is_taken_off() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);

    let answer = proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));

    assert_eq!((answer.status, answer.text().as_str()), (200, "obliging"));
    let seen = registry.only_request();
    assert_eq!(seen.target, "/v2/team/app/manifests/v1");
    assert_eq!(seen.field("host"), Some(registry.authority().as_str()));
    assert!(seen.is_the_robots());
}

#[test]
fn every_spelling_of_the_host_form_names_the_connector() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let port = proxy.listen.port();
    let spellings = [
        HOST.to_owned(),
        "c-harbor.ci".to_owned(),
        "c-harbor.ci.svc".to_owned(),
        format!("{HOST}:80"),
        format!("{HOST}:{port}"),
        format!("c-harbor.ci:{port}"),
        format!("c-harbor.ci.svc:{port}"),
        "C-Harbor.CI.svc.cluster.local".to_owned(),
    ];
    for (place, host) in spellings.iter().enumerate() {
        let answer = proxy.get_at(host, "/v2/team/app/manifests/v1");
        assert_eq!(answer.status, 200, "{host}: {answer}");
        let seen = registry.requests().pop().expect("a request");
        assert_eq!(registry.requests().len(), place + 1, "{host}");
        assert_eq!(seen.target, "/v2/team/app/manifests/v1", "{host}");
        assert_eq!(seen.field("host"), Some(registry.authority().as_str()), "{host}");
    }
}

#[test]
fn the_cluster_domain_is_a_flag() {
    let registry = FakeRegistry::obliging();
    let manifests = Manifests::for_registry(&registry.url());
    let proxy = Proxy::start(&manifests, &["--cluster-domain", "corp.example"]);
    let target = "/v2/team/app/manifests/v1";
    assert_eq!(proxy.get_at("c-harbor.ci.svc.corp.example", target).status, 200);
    assert_eq!(proxy.get_at(HOST, target).code(), "NAME_INVALID");
}

#[test]
fn the_path_decides_when_both_name_a_connector() {
    let (mine, other) = (FakeRegistry::obliging(), FakeRegistry::obliging());
    let manifests =
        Manifests::for_registry(&mine.url()).with_connector("ci", "other", &other.url());
    let proxy = Proxy::start(&manifests, &[]);

    let target = "/v2/namespaces/ci/connectors/other/team/app/manifests/v1";
    assert_eq!(proxy.get_at(HOST, target).status, 200);

    assert!(mine.is_untouched());
    assert_eq!(other.only_request().target, "/v2/team/app/manifests/v1");
}

#[test]
fn a_project_called_namespaces_is_reached_through_the_prefixed_form() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let target = format!("{PREFIX}/namespaces/app/manifests/v1");
    assert_eq!(proxy.get(&target).status, 200);
    assert_eq!(registry.only_request().target, "/v2/namespaces/app/manifests/v1");
}

#[test]
fn a_host_that_names_no_connector_is_told_how_to_name_one() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    for host in ["proxy", "127.0.0.1:5000", "c-.ci", "harbor.ci.svc", "c-harbor", "[::1]:80"] {
        let answer = proxy.get_at(host, "/v2/team/app/manifests/v1");
        assert_eq!((answer.status, answer.code().as_str()), (400, "NAME_INVALID"), "{host}");
        assert!(answer.text().contains("/v2/namespaces/"), "{host}: {answer}");
    }
    assert!(registry.is_untouched());
}

#[test]
fn the_bare_ping_is_answered_here_for_every_token_that_is_good() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    for host in ["proxy", HOST] {
        for token in [TOKEN, STRANGER_TOKEN] {
            let authorization = crate::support::caller::basic(token);
            let answer = proxy.ask(&format!(
                "GET /v2/ HTTP/1.1\r\nHost: {host}\r\nAuthorization: {authorization}\r\n\r\n"
            ));
            assert_eq!((answer.status, answer.text().as_str()), (200, "{}"), "{host}");
            let version = answer.field("docker-distribution-api-version");
            assert_eq!(version, Some("registry/2.0"));
            assert!(
                answer.field("content-type").unwrap_or_default().starts_with("application/json")
            );
        }
    }
    assert!(registry.is_untouched());
}

#[test]
fn the_bare_ping_without_a_token_asks_for_basic() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let answer = proxy.ask("GET /v2/ HTTP/1.1\r\nHost: proxy\r\n\r\n");
    assert_eq!((answer.status, answer.code().as_str()), (401, "UNAUTHORIZED"));
    assert_eq!(answer.field("www-authenticate"), Some("Basic realm=\"connectors\""));
    assert_eq!(answer.field("docker-distribution-api-version"), Some("registry/2.0"));
}

#[test]
fn basic_with_any_user_and_bearer_are_both_a_token() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let user = |user: &str| format!("Basic {}", crate::support::base64(format!("{user}:{TOKEN}")));
    let spellings =
        [user("pod"), user(""), user("a/b"), format!("Bearer {TOKEN}"), format!("bearer {TOKEN}")];
    for authorization in spellings {
        let answer = proxy.ask(&format!(
            "GET {PREFIX}/team/app/manifests/v1 HTTP/1.1\r\nHost: proxy\r\n\
             Authorization: {authorization}\r\n\r\n"
        ));
        assert_eq!(answer.status, 200, "{answer}");
    }
    assert!(registry.requests().iter().all(|seen| seen.is_the_robots()));
}

#[test]
fn harbors_api_is_reached_in_both_forms() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let path = "/namespaces/ci/connectors/harbor/api/v2.0/projects?page_size=5";
    assert_eq!(proxy.get(path).status, 200);
    assert_eq!(proxy.get_at(HOST, "/api/v2.0/projects?page_size=5").status, 200);
    let arrivals = registry.arrivals();
    assert_eq!(arrivals, ["GET /api/v2.0/projects?page_size=5"; 2]);
    assert!(registry.requests().iter().all(|seen| seen.is_the_robots()));
}

#[test]
fn an_address_with_a_path_goes_before_the_request() {
    let registry = FakeRegistry::obliging();
    let manifests = Manifests::for_registry(&format!("{}/base/", registry.url()));
    let proxy = Proxy::start(&manifests, &[]);
    assert_eq!(proxy.get(&format!("{PREFIX}/team/app/manifests/v1")).status, 200);
    assert_eq!(registry.only_request().target, "/base/v2/team/app/manifests/v1");
}

#[test]
fn requests_on_one_connection_are_answered_in_order_even_when_they_come_at_once() {
    let registry =
        FakeRegistry::answering(|seen| crate::support::answer(200, "", seen.target.as_bytes()));
    let proxy = Proxy::in_front_of(&registry);
    let mut caller = proxy.caller();
    let all: String = (0..20)
        .map(|number| request("GET", &format!("{PREFIX}/team/app/manifests/v{number}"), ""))
        .collect();
    caller.send(all);
    for number in 0..20 {
        let answer = caller.answer().expect("an answer");
        assert_eq!(answer.text(), format!("/v2/team/app/manifests/v{number}"));
    }
    assert_eq!(registry.connections(), 1, "and on one connection to the registry");
}
