//! A cluster's Connectors become routes, and every change of them, whatever the API server does.
//!
//! Told to the stand-in, or to a real cluster (see `support/cluster.rs`); what only the stand-in
//! can do, such as going away, is skipped there.

use std::process::Command;
use std::time::{Duration, Instant};

use crate::support::caller::basic;
use crate::support::fake_registry::robots_authorization;
use crate::support::manifests::{NEXT_PASSWORD, anonymous_connector, connector, secret};
use crate::support::proxy::PROGRAM;
use crate::support::{
    Caller, Cluster, FakeRegistry, Gate, PASSWORD, PATIENCE, Proxy, answer, digest_of, eventually,
    within,
};

/// What the issue promises, and no more of the machine's slowness than it needs.
const LIVE: Duration = Duration::from_secs(2);

/// The target of a manifest through a connector of the story.
fn manifest(cluster: &Cluster, name: &str) -> String {
    format!("/v2/namespaces/{}/connectors/{name}/team/app/manifests/v1", cluster.namespace)
}

/// Status of a GET through the connector `name` by `token`.
fn status(proxy: &Proxy, cluster: &Cluster, token: &str, name: &str) -> u16 {
    proxy.get_as(token, &manifest(cluster, name)).status
}

/// A GET on a connection that stays.
fn get(token: &str, target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {}\r\n\r\n", basic(token))
}

#[test]
fn the_pages_manifests_become_a_working_route() {
    let registry = FakeRegistry::obliging();
    let cluster = Cluster::new();
    cluster.apply(&secret(&cluster.namespace, "harbor-secret", PASSWORD));
    cluster.apply(&format!(
        "# Harbor Connector\n\
         apiVersion: connectors.alauda.io/v1alpha1\n\
         kind: Connector\n\
         metadata:\n  name: harbor-connector\n  namespace: {}\n  annotations:\n    \
             cpaas.io/description: \"Connect to team development Harbor registry\"\n\
         spec:\n  connectorClassName: harbor\n  address: {}\n  auth:\n    name: basicAuth\n    \
             secretRef:\n      name: harbor-secret\n",
        cluster.namespace,
        registry.url()
    ));
    let proxy = Proxy::in_cluster(&cluster, &[]);
    assert_eq!(proxy.admin("/readyz").status, 200);

    let answer = proxy.get_as(&cluster.token("builder"), &manifest(&cluster, "harbor-connector"));
    assert_eq!(answer.status, 200, "{answer}");
    let seen = registry.only_request();
    assert_eq!(seen.field("authorization"), Some(robots_authorization(PASSWORD).as_str()));
    let forbidden = status(&proxy, &cluster, &cluster.token("stranger"), "harbor-connector");
    assert_eq!((forbidden, registry.requests().len()), (403, 1));
}

#[test]
fn a_new_connector_is_live_within_two_seconds_and_a_deleted_one_is_gone() {
    let registry = FakeRegistry::obliging();
    let cluster = Cluster::new();
    let proxy = Proxy::in_cluster(&cluster, &[]);
    let token = cluster.token("builder");
    assert_eq!(status(&proxy, &cluster, &token, "harbor"), 403);

    cluster.connect("harbor", &registry.url());
    within(LIVE, "the route", || (status(&proxy, &cluster, &token, "harbor") == 200).then_some(()));
    cluster.delete("connectors.alauda.io/v1alpha1", "Connector", "harbor");
    within(LIVE, "its end", || {
        // A right that is remembered for a moment makes it a 503 instead: it is gone either way.
        (status(&proxy, &cluster, &token, "harbor") != 200).then_some(())
    });
}

#[test]
fn a_replaced_password_reaches_the_registry_within_two_seconds() {
    let registry = FakeRegistry::obliging();
    let cluster = Cluster::new();
    cluster.connect("harbor", &registry.url());
    let proxy = Proxy::in_cluster(&cluster, &[]);
    let token = cluster.token("builder");
    assert_eq!(status(&proxy, &cluster, &token, "harbor"), 200);

    cluster.apply(&secret(&cluster.namespace, "harbor", NEXT_PASSWORD));
    let old = robots_authorization(PASSWORD);
    within(LIVE, "the new password", || {
        assert_eq!(status(&proxy, &cluster, &token, "harbor"), 200, "nobody notices");
        let requests = registry.requests();
        let last = requests.last().and_then(|seen| seen.field("authorization").map(str::to_owned));
        (last.as_deref() != Some(&old)).then_some(())
    });

    cluster.delete("v1", "Secret", "harbor");
    within(LIVE, "its end", || (status(&proxy, &cluster, &token, "harbor") == 503).then_some(()));
    cluster.apply(&secret(&cluster.namespace, "harbor", NEXT_PASSWORD));
    within(LIVE, "the recovery", || {
        (status(&proxy, &cluster, &token, "harbor") == 200).then_some(())
    });
}

#[test]
fn only_the_secrets_that_connectors_name_are_read() {
    let registry = FakeRegistry::obliging();
    let mut cluster = Cluster::new();
    cluster.connect("harbor", &registry.url());
    cluster.apply(&secret(&cluster.namespace, "somebody-elses", NEXT_PASSWORD));
    let proxy = Proxy::in_cluster(&cluster, &[]);
    let token = cluster.token("builder");
    assert_eq!(status(&proxy, &cluster, &token, "harbor"), 200);
    let path = format!("GET /api/v1/namespaces/{}/secrets/", cluster.namespace);
    let Some(server) = cluster.stand_in() else {
        return;
    };
    assert_eq!(server.count(&format!("{path}harbor")), 1);
    assert_eq!(server.count(&path), 1, "and no other");
    assert_eq!(server.count("GET /api/v1/secrets"), 2, "one list and one watch of metadata");
}

#[test]
fn a_connector_that_is_made_again_under_its_name_is_another_one() {
    let (old, new) = (FakeRegistry::obliging(), FakeRegistry::obliging());
    let cluster = Cluster::new();
    cluster.connect("harbor", &old.url());
    let proxy = Proxy::in_cluster(&cluster, &[]);
    let token = cluster.token("builder");
    assert_eq!(status(&proxy, &cluster, &token, "harbor"), 200);
    let before = old.requests().len();

    cluster.delete("connectors.alauda.io/v1alpha1", "Connector", "harbor");
    cluster.apply(&secret(&cluster.namespace, "other", NEXT_PASSWORD));
    let text = connector(&cluster.namespace, "harbor", &new.url(), "");
    cluster.apply(&text.replace("secretRef: {name: harbor}", "secretRef: {name: other}"));
    within(LIVE, "the new one", || {
        (!new.requests().is_empty()).then_some(()).or_else(|| {
            status(&proxy, &cluster, &token, "harbor");
            None
        })
    });
    let after = old.requests().len();
    assert_eq!(status(&proxy, &cluster, &token, "harbor"), 200);
    assert_eq!(old.requests().len(), after, "{before} before");
    for seen in new.requests() {
        assert_ne!(seen.field("authorization"), Some(robots_authorization(PASSWORD).as_str()));
    }
}

#[test]
fn a_change_of_address_lets_transfers_end_where_they_began() {
    let gate = Gate::default();
    let (body, opened) = (vec![7; 1 << 20], gate.clone());
    let blob = body.clone();
    let old = FakeRegistry::scripted(move |visit| {
        if !visit.head().is_some_and(|seen| seen.target.contains("/blobs/")) {
            visit.send(answer(200, "", b"still the old one"));
            return;
        }
        let bytes = answer(200, "Content-Type: application/octet-stream\r\n", &blob);
        let (first, rest) = bytes.split_at(bytes.len() / 2);
        visit.send(first);
        opened.wait();
        visit.send(rest);
    });
    let new = FakeRegistry::obliging();
    let cluster = Cluster::new();
    cluster.connect("harbor", &old.url());
    let proxy = Proxy::in_cluster(&cluster, &[]);
    let token = cluster.token("builder");
    let target = format!(
        "/v2/namespaces/{}/connectors/harbor/team/app/blobs/{}",
        cluster.namespace,
        digest_of(&body)
    );
    let mut caller = proxy.caller();
    caller.send(get(&token, &target));
    let head = caller.head().expect("a head");
    assert_eq!(head.status, 200);

    cluster.apply(&connector(&cluster.namespace, "harbor", &new.url(), ""));
    within(LIVE, "the new address", || {
        status(&proxy, &cluster, &token, "harbor");
        (!new.requests().is_empty()).then_some(())
    });
    gate.open();
    assert_eq!(caller.body("GET", &head).map(|received| received == body), Ok(true));
}

#[test]
fn a_watch_that_is_too_old_lists_again_and_what_is_missing_is_gone() {
    let registry = FakeRegistry::obliging();
    let mut cluster = Cluster::new();
    cluster.connect("harbor", &registry.url());
    cluster.connect("second", &registry.url());
    let proxy = Proxy::in_cluster(&cluster, &[]);
    let token = cluster.token("builder");
    assert_eq!(status(&proxy, &cluster, &token, "second"), 200);
    let Some(server) = cluster.stand_in() else {
        return;
    };
    server.stop();
    server.resume();
    cluster.delete("connectors.alauda.io/v1alpha1", "Connector", "second");
    cluster.connect("third", &registry.url());
    let server = cluster.stand_in().expect("the stand-in");
    let before = server.count("GET /apis/connectors.alauda.io/v1alpha1/connectors");
    server.expire_watches();
    eventually("the new list", || {
        let seen = status(&proxy, &cluster, &token, "third");
        (seen == 200 && status(&proxy, &cluster, &token, "second") != 200).then_some(())
    });
    assert_eq!(status(&proxy, &cluster, &token, "harbor"), 200);
    let server = cluster.stand_in().expect("the stand-in");
    let after = server.count("GET /apis/connectors.alauda.io/v1alpha1/connectors");
    assert!(after > before && after - before < 20, "{before} {after}");
}

#[test]
fn a_proxy_that_starts_before_the_api_server_waits_and_is_not_ready() {
    let registry = FakeRegistry::obliging();
    let mut cluster = Cluster::new();
    cluster.connect("harbor", &registry.url());
    let token = cluster.token("builder");
    let Some(server) = cluster.stand_in() else {
        return;
    };
    server.stop();
    let mut proxy = Proxy::launched_in(&cluster, &[]);
    proxy.logged(&["the API server cannot be followed"]);
    cluster.stand_in().expect("the stand-in").resume();
    proxy.await_ready();
    assert_eq!(proxy.admin("/readyz").status, 200);
    assert_eq!(status(&proxy, &cluster, &token, "harbor"), 200);
}

#[test]
fn a_proxy_that_still_waits_for_the_api_server_ends_clean_when_it_is_told_to() {
    let mut cluster = Cluster::new();
    let Some(server) = cluster.stand_in() else {
        return;
    };
    server.stop();
    let mut proxy = Proxy::launched_in(&cluster, &[]);
    proxy.logged(&["the API server cannot be followed"]);
    proxy.terminate();
    assert_eq!(proxy.exit(PATIENCE).code(), Some(0));
}

#[test]
fn a_proxy_without_its_rights_asks_less_and_less_often_and_serves_once_it_has_them() {
    let registry = FakeRegistry::obliging();
    let mut cluster = Cluster::new();
    cluster.connect("harbor", &registry.url());
    let token = cluster.token("builder");
    if cluster.is_real() {
        // Others there need the rights.
        return;
    }
    let rbac = "rbac.authorization.k8s.io/v1";
    cluster.delete(rbac, "ClusterRoleBinding", "harbor-connector-proxy");
    let server = cluster.stand_in().expect("the stand-in");
    let list = "GET /apis/connectors.alauda.io/v1alpha1/connectors";
    let before = server.count(list);
    let mut proxy = Proxy::launched_in(&cluster, &[]);
    let started = Instant::now();
    let server = cluster.stand_in().expect("the stand-in");
    eventually("six attempts", || (server.count(list) >= before + 6).then_some(()));
    // At least half of 100, 200, 400, 800 and 1,600 ms.
    assert!(started.elapsed() > Duration::from_millis(1500), "{:?}", started.elapsed());
    proxy.logged(&["cannot be followed", "forbidden"]);

    cluster.apply(include_str!("../deploy/base/proxy-rbac.yaml"));
    proxy.await_ready();
    assert_eq!(status(&proxy, &cluster, &token, "harbor"), 200);
}

/// An API server that has just started may not know our rights yet.
#[test]
fn a_secret_that_may_not_be_read_for_a_while_stays_as_it_was_and_is_read_once_it_may_be() {
    let registry = FakeRegistry::obliging();
    let cluster = Cluster::new();
    let own = &cluster.namespace;
    cluster.connect("harbor", &registry.url());
    let token = cluster.token("builder");
    if cluster.is_real() {
        // Others there need the rights.
        return;
    }
    let rbac = include_str!("../deploy/base/proxy-rbac.yaml");
    let less = rbac.replace(
        "verbs: [get, list, watch]\n- apiGroups: [auth",
        "verbs: [list, watch]\n- apiGroups: [auth",
    );
    assert_ne!(less, rbac);
    let proxy = Proxy::in_cluster(&cluster, &[]);
    assert_eq!(status(&proxy, &cluster, &token, "harbor"), 200);
    cluster.apply(&less);
    cluster.apply(&secret(own, "harbor", NEXT_PASSWORD));
    proxy.logged(&["we may not get this Secret"]);
    assert_eq!(status(&proxy, &cluster, &token, "harbor"), 200, "with what was known");
    let late = Proxy::in_cluster(&cluster, &[]);
    assert_eq!(status(&late, &cluster, &token, "harbor"), 503, "nobody waits for it");
    cluster.apply(rbac);
    let old = robots_authorization(PASSWORD);
    for proxy in [&proxy, &late] {
        eventually("the new password", || {
            let answer = status(proxy, &cluster, &token, "harbor");
            let requests = registry.requests();
            let last = requests.last().and_then(|seen| seen.field("authorization"));
            (answer == 200 && last.is_some_and(|last| last != old)).then_some(())
        });
    }
}

#[test]
fn without_a_cluster_and_without_a_folder_the_proxy_says_what_to_do() {
    let output = Command::new(PROGRAM)
        .args(["proxy", "--admin", "127.0.0.1:0"])
        .env_remove("KUBECONFIG")
        .env_remove("KUBERNETES_SERVICE_HOST")
        .env_remove("HARBOR_CONNECTOR_FILE")
        .output()
        .expect("the program starts");
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    assert_eq!(output.status.code(), Some(1), "{said}");
    assert!(said.contains("set KUBECONFIG; `proxy` and `csi` also take --file DIR"), "{said}");
}

#[test]
fn fifty_known_callers_go_on_while_the_api_server_is_away_and_a_new_one_is_told_to_wait() {
    let registry = FakeRegistry::obliging();
    let mut cluster = Cluster::new();
    cluster.connect("harbor", &registry.url());
    // A promise of two seconds, so that everything that is remembered becomes old meanwhile.
    let proxy = Proxy::in_cluster(&cluster, &["--revocation-seconds", "2"]);
    let tokens: Vec<String> = (0..50).map(|_| cluster.token("builder")).collect();
    let late = cluster.token("builder");
    let target = manifest(&cluster, "harbor");
    let mut callers: Vec<Caller> = tokens.iter().map(|_| proxy.caller()).collect();
    let mut all = |expected: u16| {
        for (caller, token) in callers.iter_mut().zip(&tokens) {
            let answer = caller.ask(&get(token, &target));
            assert_eq!(answer.status, expected, "{answer}");
        }
    };
    all(200);
    let Some(server) = cluster.stand_in() else {
        return;
    };
    server.stop();
    let away = Instant::now();
    while away.elapsed() < Duration::from_secs(8) {
        all(200);
        let answer = proxy.get_as(&late, &target);
        assert_eq!(answer.status, 503, "never 401 or 403: {answer}");
        assert!(answer.has("retry-after"), "{answer}");
        std::thread::sleep(Duration::from_millis(250));
    }
    assert!(proxy.metric("reviews_stale_total").is_some_and(|count| count > 0.0));

    cluster.stand_in().expect("the stand-in").resume();
    eventually("the new caller", || (proxy.get_as(&late, &target).status == 200).then_some(()));
    cluster.forbid();
    // The promise, the second after which a failed review is tried again, and the machine.
    let bound = Duration::from_secs(6);
    within(bound, "the denial", || (proxy.get_as(&tokens[0], &target).status == 403).then_some(()));
}

#[test]
fn ten_thousand_connectors_are_served() {
    let registry = FakeRegistry::obliging();
    let cluster = Cluster::new();
    let own = &cluster.namespace;
    cluster.connect("harbor", &registry.url());
    let count = 10_000;
    cluster.apply_many((1..count).map(|number| {
        let name = format!("harbor-{number}");
        match number % 10 {
            // Every tenth has a Secret of its own; the others are for public projects.
            0 => format!(
                "{}---\n{}",
                secret(own, &name, PASSWORD),
                connector(own, &name, &registry.url(), "")
            ),
            _ => anonymous_connector(own, &name, &registry.url()),
        }
    }));
    let started = Instant::now();
    let proxy = Proxy::in_cluster(&cluster, &[]);
    println!("ready after {:?} with {count} connectors", started.elapsed());
    assert!(proxy.metric("snapshot_connectors").is_some_and(|seen| seen >= f64::from(count)));
    let token = cluster.token("builder");
    let last = format!("harbor-{}", count - 10);
    for name in ["harbor", "harbor-1", &last] {
        assert_eq!(status(&proxy, &cluster, &token, name), 200, "{name}");
    }
    let changed = Instant::now();
    cluster.apply(&secret(own, "harbor", NEXT_PASSWORD));
    within(PATIENCE, "the new password", || {
        status(&proxy, &cluster, &token, "harbor");
        let requests = registry.requests();
        let last = requests.last().and_then(|seen| seen.field("authorization").map(str::to_owned));
        (last != Some(robots_authorization(PASSWORD))).then_some(())
    });
    println!("a rotation among them took {:?}", changed.elapsed());
    assert_eq!(proxy.metric("source_problems"), Some(0.0));
}
