//! Who is turned away, how, and what they can learn from it: nothing.

use crate::support::caller::{basic, request};
use crate::support::manifests::connector;
use crate::support::{
    Answer, FakeRegistry, HOST, Manifests, PREFIX, Proxy, STRANGER_TOKEN, TOKEN, USER, base64,
};

const TARGET: &str = "/v2/namespaces/ci/connectors/harbor/team/app/manifests/v1";

/// An answer without what differs from one to the next.
fn essence(answer: &Answer) -> (u16, Vec<(String, String)>, String) {
    let mut fields = answer.fields.clone();
    fields.retain(|(name, _)| name != "date" && name != "x-request-id");
    (answer.status, fields, answer.text())
}

#[test]
fn a_token_that_is_missing_or_wrong_is_a_401_with_a_challenge() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let wrong = TOKEN.replace("Y2Fu", "Z2Fu");
    let rows = [
        ("none", String::new()),
        ("another token", format!("Authorization: {}\r\n", basic(&wrong))),
        ("another bearer", format!("Authorization: Bearer {wrong}\r\n")),
        ("an empty password", format!("Authorization: Basic {}\r\n", base64("pod:"))),
        ("no colon", format!("Authorization: Basic {}\r\n", base64("pod"))),
        ("no Base64", "Authorization: Basic !!!\r\n".to_owned()),
        ("no scheme", format!("Authorization: {wrong}\r\n")),
        ("an unknown scheme", "Authorization: Harbor-Secret abc\r\n".to_owned()),
        ("not UTF-8", format!("Authorization: Basic {}\r\n", base64([0xff, b':', 0xfe]))),
        ("the registry's admin", format!("Authorization: Basic {}\r\n", base64("admin:Harbor1"))),
        ("an empty value", "Authorization: \r\n".to_owned()),
        (
            "32 KiB",
            format!("Authorization: Basic {}\r\n", base64(format!("pod:{}", "x".repeat(24_000)))),
        ),
    ];
    for (what, line) in rows {
        let answer = proxy.ask(&format!("GET {TARGET} HTTP/1.1\r\nHost: proxy\r\n{line}\r\n"));
        assert_eq!((answer.status, answer.code().as_str()), (401, "UNAUTHORIZED"), "{what}");
        assert_eq!(answer.field("www-authenticate"), Some("Basic realm=\"connectors\""), "{what}");
    }
    assert!(registry.is_untouched());
}

#[test]
fn two_authorization_fields_are_refused() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let second = format!("Authorization: Basic {}\r\n", base64("admin:Harbor1"));
    let answer = proxy.ask(&request("GET", TARGET, &second));
    assert!([400, 401].contains(&answer.status), "{answer}");
    assert!(registry.is_untouched());
}

#[test]
fn a_good_token_without_the_right_is_a_403() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let answer = proxy.get_as(STRANGER_TOKEN, TARGET);
    assert_eq!((answer.status, answer.code().as_str()), (403, "DENIED"));
    assert!(!answer.has("www-authenticate"), "{answer}");
    assert!(registry.is_untouched());
}

#[test]
fn an_unknown_connector_answers_byte_for_byte_as_a_forbidden_one() {
    let registry = FakeRegistry::obliging();
    let manifests =
        Manifests::for_registry(&registry.url()).with_connector("ops", "vault", &registry.url());
    let proxy = Proxy::start(&manifests.with("ops-rights.yaml", ""), &[]);
    let forbidden = "/v2/namespaces/ops/connectors/vault/team/app/manifests/v1";
    let unknown = "/v2/namespaces/ops/connectors/fault/team/app/manifests/v1";

    // The two names are equally long, so that a message that holds them may not differ in length.
    for method in ["GET", "HEAD", "PUT", "DELETE"] {
        let ask = |target: &str| {
            let more = if method == "PUT" { "Content-Length: 0\r\n" } else { "" };
            let answer = proxy.ask(&request(method, target, more));
            let (status, fields, text) = essence(&answer);
            let scrub = |text: &str| text.replace("vault", "NAME").replace("fault", "NAME");
            let fields: Vec<_> =
                fields.into_iter().map(|(name, value)| (name, scrub(&value))).collect();
            (status, fields, scrub(&text))
        };
        let (one, other) = (ask(forbidden), ask(unknown));
        assert_eq!(one.0, 403, "{method}");
        assert_eq!(one, other, "{method}");
    }
    let in_host_form = |host: &str| essence(&proxy.get_at(host, "/v2/team/app/manifests/v1"));
    let (one, other) = (in_host_form("c-vault.ops"), in_host_form("c-fault.ops"));
    assert_eq!((one.0, one.1.len()), (other.0, other.1.len()));
    assert!(registry.is_untouched());
}

#[test]
fn a_caller_of_one_namespace_cannot_use_a_connector_of_another() {
    let registry = FakeRegistry::obliging();
    let manifests =
        Manifests::for_registry(&registry.url()).with_connector("ops", "vault", &registry.url());
    let proxy = Proxy::start(&manifests.with("ops-rights.yaml", ""), &[]);
    let answer = proxy.get("/v2/namespaces/ops/connectors/vault/team/app/manifests/v1");
    assert_eq!((answer.status, answer.code().as_str()), (403, "DENIED"));
    assert_eq!(proxy.get(TARGET).status, 200);
    assert_eq!(registry.requests().len(), 1);
}

#[test]
fn a_head_request_says_why_in_a_field_because_it_has_no_body() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let nobody = format!("HEAD {TARGET} HTTP/1.1\r\nHost: proxy\r\n\r\n");
    let stranger = format!(
        "HEAD {TARGET} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {}\r\n\r\n",
        basic(STRANGER_TOKEN)
    );
    for (request, status) in [(nobody, 401), (stranger, 403)] {
        // A second request on the same connection shows that no body came after the first answer.
        let mut caller = proxy.caller();
        let answer = caller.ask(&request);
        assert_eq!(answer.status, status);
        assert!(answer.field("x-connector-error").is_some_and(|why| !why.is_empty()), "{answer}");
        assert_eq!(caller.ask(&request).status, status);
    }
}

#[test]
fn rights_are_checked_for_each_request_and_not_for_each_connection() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let mut caller = proxy.caller();
    assert_eq!(caller.ask(&request("GET", TARGET, "")).status, 200);
    let stranger = request("GET", TARGET, "").replace(&basic(TOKEN), &basic(STRANGER_TOKEN));
    assert_eq!(caller.ask(&stranger).status, 403);
    assert_eq!(caller.ask(&format!("GET {TARGET} HTTP/1.1\r\nHost: p\r\n\r\n")).status, 401);
    assert_eq!(caller.ask(&request("GET", TARGET, "")).status, 200);
    assert_eq!(registry.requests().len(), 2);
}

#[test]
fn a_role_with_resource_names_and_a_cluster_role_are_rights_too() {
    let registry = FakeRegistry::obliging();
    let rights = |kind: &str, rule: &str, binding: &str| {
        let place = |kind: &str| {
            if kind.starts_with("Cluster") { "" } else { ", namespace: ci" }
        };
        format!(
            "apiVersion: rbac.authorization.k8s.io/v1\nkind: {kind}\n\
             metadata: {{name: r{}}}\nrules:\n- {rule}\n---\n\
             apiVersion: rbac.authorization.k8s.io/v1\nkind: {binding}\n\
             metadata: {{name: b{}}}\n\
             roleRef: {{apiGroup: rbac.authorization.k8s.io, kind: {kind}, name: r}}\n\
             subjects:\n- {{kind: ServiceAccount, name: builder, namespace: ci}}\n",
            place(kind),
            place(binding)
        )
    };
    let named = "{apiGroups: [connectors.alauda.io], resources: [connectors], \
                 resourceNames: [NAME], verbs: [get]}";
    let all = "{apiGroups: ['*'], resources: ['*'], verbs: ['*']}";
    let list = "{apiGroups: [connectors.alauda.io], resources: [connectors], verbs: [list]}";
    let core = "{apiGroups: [''], resources: [connectors], verbs: [get]}";
    let rows = [
        (rights("Role", &named.replace("NAME", "harbor"), "RoleBinding"), 200),
        (rights("Role", &named.replace("NAME", "other"), "RoleBinding"), 403),
        (rights("ClusterRole", all, "ClusterRoleBinding"), 200),
        (rights("ClusterRole", all, "RoleBinding"), 200),
        (rights("Role", list, "RoleBinding"), 403),
        (rights("Role", core, "RoleBinding"), 403),
        (rights("Role", all, "RoleBinding").replace("name: builder", "name: tester"), 403),
        (
            rights("Role", all, "RoleBinding").replace(
                "{kind: ServiceAccount, name: builder, namespace: ci}",
                "{kind: Group, apiGroup: rbac.authorization.k8s.io, \
                 name: 'system:serviceaccounts:ci'}",
            ),
            200,
        ),
    ];
    for (text, status) in rows {
        let manifests = Manifests::for_registry(&registry.url()).with("rights.yaml", &text);
        let proxy = Proxy::start(&manifests, &[]);
        assert_eq!(proxy.get(TARGET).status, status, "{text}");
    }
}

#[test]
fn harbors_api_passes_as_the_policy_says() {
    let registry = FakeRegistry::obliging();
    let rows = [
        ("", "GET", "projects", true),
        ("", "GET", "projects/team/repositories/app/artifacts", true),
        ("", "GET", "ping", true),
        ("", "GET", "health", true),
        ("", "GET", "systeminfo", true),
        ("", "POST", "projects", false),
        ("", "DELETE", "projects/team/repositories/app", false),
        ("", "GET", "users/current", false),
        ("", "GET", "robots", false),
        ("", "POST", "robots", false),
        ("", "GET", "configurations", false),
        ("", "GET", "projects/team/webhook/policies", false),
        ("off", "GET", "projects", false),
        ("full", "POST", "projects", true),
        ("full", "GET", "projects", true),
    ];
    for policy in ["", "off", "full"] {
        let more = match policy {
            "" => String::new(),
            value => format!("  params: [{{name: api, value: \"{value}\"}}]\n"),
        };
        let manifests = Manifests::for_registry(&registry.url())
            .with("connector.yaml", &connector("ci", "harbor", &registry.url(), &more));
        let proxy = Proxy::start(&manifests, &[]);
        for (_, method, path, passes) in rows.iter().filter(|row| row.0 == policy) {
            let before = registry.requests().len();
            let target = format!("/namespaces/ci/connectors/harbor/api/v2.0/{path}");
            let body = if *method == "POST" { "Content-Length: 0\r\n" } else { "" };
            let answer = proxy.ask(&request(method, &target, body));
            let expected = if *passes { 200 } else { 403 };
            assert_eq!(answer.status, expected, "{policy:?} {method} {path}: {answer}");
            let arrived = registry.requests().len() - before;
            assert_eq!(arrived, usize::from(*passes), "{policy:?} {method} {path}");
        }
    }
}

#[test]
fn the_catalog_and_what_mints_credentials_do_not_pass() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    for path in ["/v2/_catalog", "/c/login", "/"] {
        let answer = proxy.get_at(HOST, path);
        assert!([400, 403, 404].contains(&answer.status), "{path}: {answer}");
    }
    let answer = proxy.get(&format!("{PREFIX}/_catalog"));
    assert!([400, 403].contains(&answer.status), "{answer}");
    assert!(registry.is_untouched());
}

#[test]
fn a_credential_that_the_registry_refuses_is_the_connectors_fault_and_not_the_callers() {
    let registry = FakeRegistry::answering(|_| {
        let fields =
            "WWW-Authenticate: Basic realm=\"harbor\"\r\nContent-Type: application/json\r\n";
        crate::support::answer(401, fields, br#"{"errors":[{"code":"UNAUTHORIZED"}]}"#)
    });
    let proxy = Proxy::in_front_of(&registry);
    let answer = proxy.get(TARGET);
    assert_eq!((answer.status, answer.code().as_str()), (403, "DENIED"));
    assert!(!answer.has("www-authenticate"), "{answer}");
    assert!(!answer.text().contains(USER), "{answer}");
}

#[test]
fn curl_reads_the_refusals_as_json() {
    if crate::support::programs::lacking(&["curl"]) {
        return;
    }
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let unknown = TARGET.replace("harbor", "harbour");
    let wrong = TOKEN.replace("Y2Fu", "Z2Fu");
    let rows = [
        (wrong.as_str(), TARGET, "401", "UNAUTHORIZED"),
        (STRANGER_TOKEN, TARGET, "403", "DENIED"),
        (STRANGER_TOKEN, &unknown, "403", "DENIED"),
    ];
    for (token, target, status, code) in rows {
        let output = std::process::Command::new("curl")
            .args(["-sS", "--noproxy", "*", "-w", "\n%{http_code}", "-u", &format!("pod:{token}")])
            .arg(format!("http://{}{target}", proxy.listen))
            .output()
            .expect("curl starts");
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let (body, seen) = text.rsplit_once('\n').expect("a body and a status");
        assert_eq!(seen, status, "{text}");
        let json: serde_json::Value = serde_json::from_str(body).expect("JSON");
        assert_eq!(json["errors"][0]["code"], code, "{text}");
    }
    assert!(registry.is_untouched());
}
