//! One proxy looks at every connector's registry and says in its status what it found.
//!
//! Told to the real proxy in a cluster, with Harbor's stand-in and registries that fail as they
//! are told to. Each condition is False for each of its causes, and True again when that is mended.

use std::collections::HashMap;
use std::net::{SocketAddr, TcpListener};
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::controller::PAGE;
use crate::support::controller::Controller;
use crate::support::harbor::{Account, Right, Settings};
use crate::support::manifests::{NEXT_PASSWORD, anonymous_connector, ca_secret, connector, secret};
use crate::support::programs::lacking;
use crate::support::{
    Cluster, FakeRegistry, Harbor, PASSWORD, Proxy, answer, docker_registry, eventually, leak,
    within,
};

/// Looks every second, and another takes over within a few.
const OFTEN: [&str; 4] = ["--probe-seconds", "1", "--probe-lease-seconds", "3"];

/// What the issue promises of a change, the first election, and the machine.
const SOON: Duration = Duration::from_secs(10);

/// The conditions of a connector, by type. Nothing in its status is a secret.
fn conditions(cluster: &Cluster, name: &str) -> HashMap<String, Value> {
    let (status, object) = cluster.ask("GET", &path_of(cluster, name), None);
    assert_eq!(status, 200, "{object}");
    let text = object["status"].to_string();
    leak::assert_absent(&leak::everything(), text.as_bytes(), "the status");
    let generation = &object["metadata"]["generation"];
    let all = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
    // What was found out about an earlier spec is as good as nothing.
    let current = all.into_iter().filter(|one| one["observedGeneration"] == *generation);
    current.map(|one| (text_of(&one["type"]), one)).collect()
}

fn path_of(cluster: &Cluster, name: &str) -> String {
    let own = &cluster.namespace;
    format!("/apis/connectors.alauda.io/v1alpha1/namespaces/{own}/connectors/{name}")
}

fn text_of(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}

/// Waits until a condition has this status and reason, and a message with `words`.
#[track_caller]
fn until(cluster: &Cluster, name: &str, expected: (&str, &str, &str), words: &str) -> Value {
    let (kind, status, reason) = expected;
    let mut last = Value::Null;
    let started = Instant::now();
    loop {
        if let Some(found) = conditions(cluster, name).remove(kind) {
            let is_it = text_of(&found["status"]) == status
                && text_of(&found["reason"]) == reason
                && text_of(&found["message"]).contains(words);
            if is_it {
                return found;
            }
            last = found;
        }
        assert!(started.elapsed() < 2 * SOON, "no {expected:?} with {words:?}: {last}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Waits until all four conditions of the proxy are True.
#[track_caller]
fn until_all_hold(cluster: &Cluster, name: &str) -> HashMap<String, Value> {
    let kinds = ["SecretReady", "LivenessReady", "AuthReady", "CACertReady"];
    let mut last = HashMap::new();
    let started = Instant::now();
    loop {
        let found = conditions(cluster, name);
        if kinds.iter().all(|kind| found.get(*kind).is_some_and(|one| one["status"] == "True")) {
            return found;
        }
        last = if found.is_empty() { last } else { found };
        assert!(started.elapsed() < 2 * SOON, "not all hold: {last:?}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

/// Harbor as the connector `harbor`, and a proxy that looks.
fn with_harbor(settings: Settings) -> (Harbor, Cluster, Proxy) {
    let harbor = Harbor::start(settings);
    let cluster = Cluster::new();
    cluster.connect("harbor", &harbor.url());
    let proxy = Proxy::in_cluster(&cluster, &OFTEN);
    (harbor, cluster, proxy)
}

#[test]
fn the_pages_connector_pasted_becomes_ready_and_follows_its_registry() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let cluster = crate::controller::cluster();
    let _controller = Controller::elected(&cluster, &[]);
    let proxy = Proxy::in_cluster(&cluster, &OFTEN);
    let page = PAGE.replace("https://harbor.example.com", &harbor.url());
    let started = Instant::now();
    cluster.apply(&page);
    let name = "harbor-connector";
    let first = until(&cluster, name, ("Ready", "True", ""), "");
    println!("ready after {:?}", started.elapsed());
    let path = path_of(&cluster, name);
    let object = || cluster.ask("GET", &path, None).1;
    let url = format!("http://c-{name}.{}.svc.cluster.local", cluster.namespace);
    assert_eq!(object()["status"]["proxy"]["httpAddress"]["url"], url);
    assert_eq!(conditions(&cluster, name).len(), 7, "all that the contract names");

    // Two writers, and nobody who writes without a reason.
    let version = object()["metadata"]["resourceVersion"].clone();
    let looks = || proxy.metric("probes_looks_total").unwrap_or_default();
    let after = looks();
    eventually("three more looks", || (looks() >= after + 3.0).then_some(()));
    assert_eq!(object()["metadata"]["resourceVersion"], version);

    cluster.apply(&page.replace(&harbor.url(), "http://127.0.0.1:1"));
    until(&cluster, name, ("Ready", "False", "ConnectionFailed"), "refuses the connection");
    cluster.apply(&page);
    let last = until(&cluster, name, ("Ready", "True", ""), "");
    assert!(text_of(&last["lastTransitionTime"]) >= text_of(&first["lastTransitionTime"]));
}

#[test]
fn a_good_connector_is_told_so_with_its_ca_and_one_without_a_secret_too() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let harbor = Harbor::https();
    let cluster = Cluster::new();
    let own = &cluster.namespace;
    cluster.apply(&ca_secret(own, "harbor-ca", harbor.ca()));
    cluster.apply(&secret(own, "harbor", PASSWORD));
    let ca = "  caCertSecretRef: {name: harbor-ca}\n";
    cluster.apply(&connector(own, "harbor", &harbor.url(), ca));
    let open = connector(own, "open", &harbor.url(), ca);
    let auth = "  auth: {name: basicAuth, secretRef: {name: open}}\n";
    cluster.apply(&open.replace(auth, ""));
    let _proxy = Proxy::in_cluster(&cluster, &OFTEN);

    let found = until_all_hold(&cluster, "harbor");
    assert_eq!(found["CACertReady"]["reason"], "Valid");
    assert_eq!(found["CACertReady"]["severity"], "Info");
    assert_eq!(found["SecretReady"].get("reason"), None, "{found:?}");
    let found = until_all_hold(&cluster, "open");
    assert_eq!(found["SecretReady"]["reason"], "SecretOptional");
    assert_eq!(found["AuthReady"]["reason"], "NonAuthProbe");
}

#[test]
fn a_secret_that_is_missing_or_lacks_a_key_is_told_until_it_is_there() {
    let registry = FakeRegistry::obliging();
    let cluster = Cluster::new();
    let own = &cluster.namespace;
    cluster.apply(&connector(own, "harbor", &registry.url(), ""));
    let _proxy = Proxy::in_cluster(&cluster, &OFTEN);
    until(&cluster, "harbor", ("SecretReady", "False", "SecretNotFound"), "secrets \"harbor\"");
    until(&cluster, "harbor", ("AuthReady", "Unknown", "NotChecked"), "SecretReady");
    until(&cluster, "harbor", ("LivenessReady", "True", ""), "");

    let whole = secret(own, "harbor", PASSWORD);
    let keyless = whole.replace("username:", "user:");
    cluster.apply(&keyless);
    until(&cluster, "harbor", ("SecretReady", "False", "InvalidSecret"), "no key \"username\"");
    cluster.apply(&whole);
    until_all_hold(&cluster, "harbor");
    cluster.delete("v1", "Secret", "harbor");
    until(&cluster, "harbor", ("SecretReady", "False", "SecretNotFound"), "secrets \"harbor\"");
}

#[test]
fn a_registry_that_cannot_be_reached_says_how_and_a_condition_keeps_its_time() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address: SocketAddr = listener.local_addr().expect("bound");
    drop(listener);
    let cluster = Cluster::new();
    cluster.connect("harbor", &format!("http://{address}"));
    let _proxy = Proxy::in_cluster(&cluster, &OFTEN);
    let liveness = ("LivenessReady", "False", "ConnectionFailed");
    let first = until(&cluster, "harbor", liveness, "refuses the connection");
    until(&cluster, "harbor", ("AuthReady", "Unknown", "NotChecked"), "LivenessReady");

    // Its name is the next thing that is wrong, and then what stands before it.
    let own = &cluster.namespace;
    cluster.apply(&connector(own, "harbor", "http://no-such-host.invalid", ""));
    let second = until(&cluster, "harbor", liveness, "lookup no-such-host.invalid: no such host");
    let gateway =
        FakeRegistry::answering(|_| answer(502, "Content-Type: text/html\r\n", b"<html>"));
    cluster.apply(&connector(own, "harbor", &gateway.url(), ""));
    let third = until(&cluster, "harbor", liveness, "status code 502");
    for later in [&second, &third] {
        assert_eq!(later["lastTransitionTime"], first["lastTransitionTime"]);
    }

    let registry = FakeRegistry::obliging();
    cluster.apply(&connector(own, "harbor", &registry.url(), ""));
    until_all_hold(&cluster, "harbor");
}

#[test]
fn a_registry_that_comes_back_is_seen_without_any_change_of_the_connector() {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = listener.local_addr().expect("bound").to_string();
    drop(listener);
    let cluster = Cluster::new();
    cluster.connect("harbor", &format!("http://{address}"));
    let _proxy = Proxy::in_cluster(&cluster, &OFTEN);
    let liveness = ("LivenessReady", "False", "ConnectionFailed");
    until(&cluster, "harbor", liveness, "refuses the connection");
    let _registry = FakeRegistry::scripted_on(&address, |visit| {
        visit.serve(|_| answer(200, "Content-Type: text/plain\r\n", b"Pong"));
    });
    until_all_hold(&cluster, "harbor");
}

#[test]
fn a_certificate_that_nobody_vouches_for_is_told_until_its_ca_is_named() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let (harbor, cluster, _proxy) = with_harbor(Settings { tls: true, ..Settings::default() });
    let liveness = ("LivenessReady", "False", "ConnectionFailed");
    until(&cluster, "harbor", liveness, "unknown authority");

    let own = &cluster.namespace;
    let ca = "  caCertSecretRef: {name: harbor-ca}\n";
    cluster.apply(&connector(own, "harbor", &harbor.url(), ca));
    until(&cluster, "harbor", ("CACertReady", "False", "SecretNotFound"), "CA secret");
    until(&cluster, "harbor", liveness, "nothing is sent to the registry without its CA");
    cluster.apply(&ca_secret(own, "harbor-ca", "no certificate"));
    until(&cluster, "harbor", ("CACertReady", "False", "InvalidPEM"), "invalid PEM data");
    cluster.apply(&ca_secret(own, "harbor-ca", harbor.ca()));
    until_all_hold(&cluster, "harbor");
    assert!(harbor.logins().iter().all(|name| name == "robot$ci"));
}

/// F27: looking adds no failed login to those of the requests.
#[test]
fn a_wrong_password_is_told_after_two_logins_and_good_again_with_the_next_secret() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let mut settings = Settings::default();
    settings.accounts.push(Account::user("dev", PASSWORD, &[("team", &[Right::Pull])]));
    let harbor = Harbor::start(settings);
    let cluster = Cluster::new();
    let own = &cluster.namespace;
    let wrong = secret(own, "harbor", NEXT_PASSWORD).replace("robot$ci", "dev");
    cluster.apply(&wrong);
    cluster.apply(&connector(own, "harbor", &harbor.url(), ""));
    let proxy = Proxy::in_cluster(&cluster, &OFTEN);
    let refused = ("AuthReady", "False", "AuthenticationFailed");
    until(&cluster, "harbor", refused, "status code 401: wrong username or password");
    let token = cluster.token("builder");
    let target = format!("/v2/namespaces/{own}/connectors/harbor/team/app/tags/list");
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(4) {
        assert_eq!(proxy.get_as(&token, &target).status, 403);
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(harbor.logins(), ["dev", "dev"], "four looks and forty requests later");

    cluster.apply(&secret(own, "harbor", PASSWORD).replace("robot$ci", "dev"));
    until_all_hold(&cluster, "harbor");
}

#[test]
fn a_robot_that_is_disabled_is_told_and_seen_again_once_it_may_be_tried() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let (harbor, cluster, _proxy) = with_harbor(Settings::default());
    until_all_hold(&cluster, "harbor");
    harbor.change_account("robot$ci", |robot| robot.disabled = true);
    let refused = ("AuthReady", "False", "AuthenticationFailed");
    until(&cluster, "harbor", refused, "took this same credential before");
    harbor.change_account("robot$ci", |robot| robot.disabled = false);
    // It is put aside for half a minute and a fifth of that.
    within(Duration::from_secs(50), "its recovery", || {
        let found = conditions(&cluster, "harbor");
        (found["AuthReady"]["status"] == "True").then_some(())
    });
}

#[test]
fn where_nothing_changes_nothing_is_written_and_nothing_read() {
    let registry = FakeRegistry::obliging();
    let mut cluster = Cluster::new();
    for name in ["a", "b", "c"] {
        cluster.connect(name, &registry.url());
    }
    let proxy = Proxy::in_cluster(&cluster, &OFTEN);
    for name in ["a", "b", "c"] {
        until_all_hold(&cluster, name);
    }
    let looks = || proxy.metric("probes_looks_total").unwrap_or_default();
    let after = looks();
    // Not the namespace of the interception CA, which is made meanwhile.
    let own = format!("/api/v1/namespaces/{}/", cluster.namespace);
    let counted = |cluster: &mut Cluster| {
        cluster.stand_in().map(|server| {
            let read = server.count(&format!("GET {own}"));
            let asked = ["PATCH /apis", "POST /", "DELETE /", "GET /apis/connectors"];
            (asked.map(|what| server.count(what)), read)
        })
    };
    let before = counted(&mut cluster);
    let path = path_of(&cluster, "a");
    let version = |cluster: &Cluster| {
        cluster.ask("GET", &path, None).1["metadata"]["resourceVersion"].clone()
    };
    let first = version(&cluster);
    eventually("five more rounds", || (looks() >= after + 15.0).then_some(()));
    assert_eq!(version(&cluster), first);
    let now = counted(&mut cluster);
    if let (Some(before), Some(now)) = (before, now) {
        // The two questions of this story itself.
        let ([patched, posted, deleted, asked], read) = before;
        assert_eq!(now, ([patched, posted, deleted, asked + 2], read));
    }
    assert_eq!(proxy.metric("probes_failures_total"), Some(0.0));
}

#[test]
fn two_hundred_connectors_do_not_wait_for_the_dead_registry_of_half_of_them() {
    let registry = FakeRegistry::obliging();
    // It accepts connections, as the kernel does for it, and never answers.
    let dead = TcpListener::bind("127.0.0.1:0").expect("a port");
    let silent = format!("http://{}", dead.local_addr().expect("bound"));
    let cluster = Cluster::new();
    let own = cluster.namespace.clone();
    cluster.apply_many((0..200).map(|number| {
        let address = if number % 2 == 0 { &silent } else { &registry.url() };
        anonymous_connector(&own, &format!("c{number}"), address)
    }));
    let proxy = Proxy::in_cluster(&cluster, &["--probe-seconds", "60"]);
    let statuses = || {
        let path = format!("/apis/connectors.alauda.io/v1alpha1/namespaces/{own}/connectors");
        let (_, list) = cluster.ask("GET", &path, None);
        let mut counts: HashMap<String, usize> = HashMap::new();
        for item in list["items"].as_array().expect("a list") {
            for one in item["status"]["conditions"].as_array().into_iter().flatten() {
                if one["type"] == "LivenessReady" {
                    *counts.entry(text_of(&one["status"])).or_default() += 1;
                }
            }
        }
        counts
    };
    let started = Instant::now();
    let counts = eventually("the living", || {
        Some(statuses()).filter(|counts| counts.get("True") == Some(&100))
    });
    println!(
        "100 living after {:?}, dead told by then: {:?}",
        started.elapsed(),
        counts.get("False")
    );
    assert_eq!(counts.get("False"), None, "the dead one's five seconds are not over");
    let counts = eventually("the dead", || {
        Some(statuses()).filter(|counts| counts.get("False") == Some(&100))
    });
    println!("100 dead after {:?}: {counts:?}", started.elapsed());
    assert_eq!(proxy.metric("probes_pings_total"), Some(2.0), "one for each registry");
    assert_eq!(proxy.metric("probes_writes_total"), Some(200.0), "one for each connector");
}

/// Both writers at work, from cold until all is well; and then nobody writes.
#[test]
fn a_thousand_connectors_become_ready_within_a_minute_and_then_all_is_quiet() {
    let registry = FakeRegistry::obliging();
    let mut cluster = crate::controller::cluster();
    let own = cluster.namespace.clone();
    cluster.apply_many(
        (0..1000).map(|number| anonymous_connector(&own, &format!("c{number}"), &registry.url())),
    );
    let kinds = ["", "GET ", "POST ", "PATCH ", "PUT "];
    let counted = |cluster: &mut Cluster| {
        cluster.stand_in().map(|server| kinds.map(|kind| server.count(kind)))
    };
    let before = counted(&mut cluster);
    let started = Instant::now();
    // A Lease as installed: a busy machine may keep a renewal waiting for seconds.
    let controller = Controller::start(&cluster, &["--lease-seconds", "15"]);
    let proxy = Proxy::in_cluster(&cluster, &["--probe-seconds", "60"]);
    let ready = "controller_connectors{ready=\"True\"}";
    within(Duration::from_secs(60), "a thousand that are ready", || {
        controller.metric(ready).filter(|count| *count >= 1000.0)
    });
    println!("1,000 connectors ready after {:?}", started.elapsed());
    assert_eq!(conditions(&cluster, "c999")["Ready"]["status"], "True");
    if let (Some(before), Some(after)) = (before, counted(&mut cluster)) {
        let sum: Vec<_> = kinds.iter().zip(after).zip(before).collect();
        let sum = sum.iter().map(|((kind, after), before)| (*kind, after - before));
        println!("requests: {:?}", sum.collect::<Vec<_>>());
    }
    let writes = |proxy: &Proxy| controller.writes() + proxy.metric("probes_writes_total").unwrap();
    let (settled, quiet) = (writes(&proxy), Instant::now());
    let before = counted(&mut cluster);
    let looks = proxy.metric("probes_looks_total").unwrap();
    within(2 * SOON + Duration::from_secs(60), "a look at each", || {
        proxy.metric("probes_looks_total").filter(|count| *count >= looks + 1000.0)
    });
    assert_eq!(writes(&proxy), settled, "nobody writes");
    if let (Some(before), Some(after)) = (before, counted(&mut cluster)) {
        let sum = after[0] - before[0];
        println!("{sum} requests in {:?}, two Leases renewed among them", quiet.elapsed());
    }
}

#[test]
fn a_watch_that_may_not_begin_again_becomes_a_new_list() {
    let registry = FakeRegistry::obliging();
    let mut cluster = Cluster::new();
    let own = cluster.namespace.clone();
    cluster.apply(&anonymous_connector(&own, "first", &registry.url()));
    let _proxy = Proxy::in_cluster(&cluster, &OFTEN);
    until_all_hold(&cluster, "first");
    let Some(server) = cluster.stand_in() else {
        return;
    };
    server.refuse_old_watches();
    // Those that begin again are late, and too old by then.
    server.delay("GET /apis/connectors.alauda.io/v1alpha1/connectors", Duration::from_secs(1));
    server.stop();
    server.resume();
    cluster.apply(&anonymous_connector(&own, "second", &registry.url()));
    cluster.stand_in().expect("the stand-in").expire_watches();
    until_all_hold(&cluster, "second");
}

#[test]
fn one_proxy_looks_and_another_takes_over_when_it_ends_or_is_killed() {
    let registry = FakeRegistry::obliging();
    let cluster = Cluster::new();
    cluster.connect("harbor", &registry.url());
    let first = Proxy::in_cluster(&cluster, &OFTEN);
    until_all_hold(&cluster, "harbor");
    let elected = |proxy: &Proxy| proxy.metric("probes_elected") == Some(1.0);
    let mut second = Proxy::in_cluster(&cluster, &OFTEN);
    let looks = |proxy: &Proxy| proxy.metric("probes_looks_total").unwrap_or_default();
    let after = looks(&first);
    eventually("three rounds", || (looks(&first) >= after + 3.0).then_some(()));
    assert!(elected(&first) && !elected(&second) && looks(&second) == 0.0);

    // Dropped, it is killed.
    drop(first);
    let killed = Instant::now();
    within(SOON, "the second", || elected(&second).then_some(()));
    println!("took over {:?} after the kill", killed.elapsed());
    cluster.delete("v1", "Secret", "harbor");
    until(&cluster, "harbor", ("SecretReady", "False", "SecretNotFound"), "");

    let third = Proxy::in_cluster(&cluster, &OFTEN);
    second.terminate();
    let told = Instant::now();
    within(SOON, "the third", || elected(&third).then_some(()));
    println!("took over {:?} after the signal", told.elapsed());
    second.exit(SOON);
}

#[test]
fn the_proxys_account_may_write_a_status_and_nothing_else_of_a_connector() {
    let cluster = Cluster::new();
    cluster.connect("harbor", "http://127.0.0.1:1");
    let path = path_of(&cluster, "harbor");
    let object = serde_json::json!({
        "apiVersion": "connectors.alauda.io/v1alpha1", "kind": "Connector",
        "spec": {"address": "http://elsewhere.example"},
    });
    let apply = Some(("application/apply-patch+yaml", &object));
    let proxy = crate::support::cluster::PROXY;
    let asked = |path: String| cluster.ask_as(proxy, "PATCH", &path, apply).0;
    assert_eq!(asked(format!("{path}?fieldManager=x&force=true")), 403);
    assert_eq!(asked(format!("{path}/status?fieldManager=x&force=true")), 200);
    let lease = "/apis/coordination.k8s.io/v1/namespaces/harbor-connector-system/leases";
    let status =
        cluster.ask_as(proxy, "GET", &format!("{lease}/harbor-connector-controller"), None);
    assert_eq!(status.0, 403, "not the controller's");
}

#[test]
fn a_proxy_on_a_folder_looks_at_nothing_by_itself() {
    let registry = FakeRegistry::obliging();
    let manifests = crate::support::Manifests::for_registry(&registry.url());
    let proxy = Proxy::start(&manifests, &["--probe-seconds", "0.05"]);
    let target = format!("{}/team/app/manifests/v1", crate::support::PREFIX);
    for _ in 0..20 {
        assert_eq!(proxy.get(&target).status, 200);
        std::thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(registry.requests().len(), 20, "the callers' own");
    assert_eq!(registry.probes().len(), 1);
    assert_eq!(proxy.metric("probes_looks_total"), None);
}
