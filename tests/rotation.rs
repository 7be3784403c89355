//! The interception CA of a cluster: one for all proxies, renewed without a caller noticing.
//!
//! Told to the stand-in, or to a real cluster. Each story has a CA of its own namespace; the
//! accounts have the rights that `deploy/` gives them, and no others.

use std::fs;
use std::time::Duration;

use rcgen::{BasicConstraints, CertificateParams, IsCa, KeyPair, KeyUsagePurpose};
use serde_json::{Value, json};
use time::OffsetDateTime;

use crate::support::caller::Hello;
use crate::support::kubelet::{Driver, Volume, outcome};
use crate::support::proxy::run_in;
use crate::support::{Caller, Cluster, FakeRegistry, Proxy, base64, eventually, within};

const NAME: &str = "harbor-connector-ca";

/// A cluster with the connector `harbor` and an empty CA of its own.
fn cluster(registry: &FakeRegistry) -> Cluster {
    let cluster = Cluster::new();
    cluster.own_ca();
    cluster.connect("harbor", &registry.url());
    cluster
}

fn flags(cluster: &Cluster) -> [&str; 2] {
    ["--namespace", &cluster.namespace]
}

fn path(cluster: &Cluster, plural: &str) -> String {
    format!("/api/v1/namespaces/{}/{plural}/{NAME}", cluster.namespace)
}

/// The certificates that the proxies publish.
fn published(cluster: &Cluster) -> Option<String> {
    let (_, map) = cluster.ask("GET", &path(cluster, "configmaps"), None);
    map["data"]["ca.crt"].as_str().map(str::to_owned)
}

fn secret(cluster: &Cluster) -> Value {
    cluster.ask("GET", &path(cluster, "secrets"), None).1["data"].clone()
}

/// Waits until something is published.
pub(crate) fn ca(cluster: &Cluster) -> String {
    eventually("the published CA", || published(cluster))
}

fn certificates(text: &str) -> usize {
    text.matches("BEGIN CERTIFICATE").count()
}

/// A caller of the proxy's own address who trusts `roots`.
fn met(proxy: &Proxy, cluster: &Cluster, roots: &str) -> Result<Caller, String> {
    let name = format!("c-harbor.{}.svc.cluster.local", cluster.namespace);
    proxy.caller().with_tls(&Hello::to(&name, roots))
}

/// Has the Secret hold these values, as an operator's tool does.
fn write(cluster: &Cluster, values: &[(&str, &str)]) {
    let data = values.iter().map(|(name, text)| ((*name).to_owned(), base64(text).into()));
    let data: serde_json::Map<String, Value> = data.collect();
    let patch = json!({"data": data});
    let kind = "application/merge-patch+json";
    let (status, answer) = cluster.ask("PATCH", &path(cluster, "secrets"), Some((kind, &patch)));
    assert_eq!(status, 200, "{answer}");
}

/// A root that ends within the year in which it is replaced: certificate and key.
fn old_root() -> (String, String) {
    let key = KeyPair::generate().expect("a key");
    let mut params = CertificateParams::new(Vec::new()).expect("parameters");
    params.distinguished_name.push(rcgen::DnType::CommonName, "an old root");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign];
    params.not_before = OffsetDateTime::now_utc() - Duration::from_secs(3600);
    params.not_after = OffsetDateTime::now_utc() + Duration::from_secs(100 * 24 * 3600);
    let certificate = params.self_signed(&key).expect("a certificate");
    (certificate.pem().replace("\r\n", "\n"), key.serialize_pem())
}

/// What each proxy has said must hold no key.
fn says_nothing_secret(proxy: &Proxy, cluster: &Cluster) {
    let keys = secret(cluster);
    let log = proxy.log();
    assert!(!log.contains("PRIVATE"), "{log}");
    for name in ["ca.key", "next.key"] {
        if let Some(key) = keys[name].as_str() {
            assert!(!log.contains(key), "{name}");
        }
    }
}

#[test]
fn ten_proxies_that_start_at_once_make_one_ca() {
    let registry = FakeRegistry::obliging();
    let mut cluster = cluster(&registry);
    let more = [&flags(&cluster)[..], &["--cores", "1"]].concat();
    let mut proxies: Vec<Proxy> = (0..10).map(|_| Proxy::launched_in(&cluster, &more)).collect();
    for proxy in &mut proxies {
        proxy.await_ready();
    }
    let roots = ca(&cluster);
    assert_eq!(certificates(&roots), 1);
    for proxy in &proxies {
        eventually("TLS under that CA", || met(proxy, &cluster, &roots).ok());
        says_nothing_secret(proxy, &cluster);
        let name = format!("ConfigMap {}/{NAME}", cluster.namespace);
        assert_eq!(proxy.ready["ca"].as_str(), Some(name.as_str()));
    }
    assert!(!roots.contains("PRIVATE"), "the ConfigMap is for everybody");
    assert!(secret(&cluster)["ca.key"].is_string());
    let change = format!("PATCH {}", path(&cluster, "secrets"));
    if let Some(server) = cluster.stand_in() {
        // Those that lost the race wrote nothing more.
        assert!(server.count(&change) <= 10, "{}", server.count(&change));
    }
}

#[test]
fn a_root_that_ends_is_replaced_and_no_caller_with_a_fresh_volume_ever_fails() {
    let registry = FakeRegistry::obliging();
    let cluster = cluster(&registry);
    let (certificate, key) = old_root();
    write(&cluster, &[("ca.crt", &certificate), ("ca.key", &key)]);
    let url = format!("http://c-harbor.{}.svc.cluster.local", cluster.namespace);
    let status = json!({"status": {"proxy": {"httpAddress": {"url": url}}}});
    let group = "/apis/connectors.alauda.io/v1alpha1";
    let own = format!("{group}/namespaces/{}/connectors/harbor/status", cluster.namespace);
    let patch = Some(("application/merge-patch+json", &status));
    assert_eq!(cluster.ask("PATCH", &own, patch).0, 200);

    let more = [&flags(&cluster)[..], &["--ca-overlap-seconds", "4"]].concat();
    let proxies = [Proxy::in_cluster(&cluster, &more), Proxy::in_cluster(&cluster, &more)];
    assert!(ca(&cluster).starts_with(&certificate));
    let mut driver = Driver::in_cluster(&cluster.kubeconfig_of_driver(), &flags(&cluster));
    let token = cluster.token("builder");
    driver.tokens.push(token.clone());
    let volume = Volume::of("builder", &[("connector.name", "harbor")]);
    let volume = Volume { namespace: cluster.namespace.clone(), token, ..volume };
    let kubelet = driver.kubelet();
    let file = volume.path(&driver.kubelet_folder()).join("ca.crt");

    // A kubelet that comes by, and jobs that begin with whatever the volume holds then. The bundle
    // of a minute ago serves as well: the overlap is longer.
    let mut before: Option<String> = None;
    let mut seen = Vec::new();
    within(Duration::from_secs(40), "the old root's retirement", || {
        assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
        let roots = fs::read_to_string(&file).expect("ca.crt, without --ca-file");
        for proxy in &proxies {
            for roots in before.iter().chain([&roots]) {
                met(proxy, &cluster, roots).expect("nobody notices");
            }
        }
        if seen.last() != Some(&certificates(&roots)) {
            seen.push(certificates(&roots));
        }
        let done = !roots.contains(certificate.trim());
        before = Some(roots);
        done.then_some(())
    });
    assert_eq!(seen.last(), Some(&1));
    assert!(seen.contains(&2), "both were trusted for a while: {seen:?}");
    for proxy in &proxies {
        assert!(met(proxy, &cluster, &certificate).is_err(), "the old root signs no more");
        says_nothing_secret(proxy, &cluster);
    }
    assert_eq!(certificates(&ca(&cluster)), 1);
}

#[test]
fn an_operator_rotates_by_the_same_three_steps_as_in_a_folder() {
    let registry = FakeRegistry::obliging();
    let cluster = cluster(&registry);
    let step = |step: &str| {
        let words = [&["ca", step, "--cluster"], &flags(&cluster)[..]].concat();
        run_in(&cluster, &words)
    };
    let (code, _, error) = step("show");
    assert!(code == Some(1) && error.contains("no CA in this cluster yet"), "{error}");
    let proxy = Proxy::in_cluster(&cluster, &flags(&cluster));
    let old = ca(&cluster);
    let (code, shown, error) = step("show");
    assert!(code == Some(0) && shown.contains(": signs"), "{shown}{error}");
    assert!(shown.contains("holds these certificates") && !shown.contains("PRIVATE"), "{shown}");
    let (code, _, error) = step("sign-with-next");
    assert!(code == Some(1) && error.contains("no next root is published"), "{error}");

    assert_eq!(step("publish-next").0, Some(0));
    let both = eventually("both", || published(&cluster).filter(|it| certificates(it) == 2));
    assert!(both.starts_with(&old));
    for roots in [&old, &both] {
        met(&proxy, &cluster, roots).expect("while the next root is only published");
    }
    let (code, _, error) = step("retire-old");
    assert!(code == Some(1) && error.contains("the old one is needed"), "{error}");
    let (code, shown, error) = step("sign-with-next");
    assert!(code == Some(0) && shown.contains("signed before"), "{shown}{error}");
    eventually("the new root signs", || {
        met(&proxy, &cluster, &both).expect("the bundle of the rotation");
        met(&proxy, &cluster, &old).err()
    });
    proxy.logged(&["another root signs"]);
    assert_eq!(step("retire-old").0, Some(0));
    let new =
        eventually("the new one alone", || published(&cluster).filter(|it| certificates(it) == 1));
    met(&proxy, &cluster, &new).expect("the new root alone");
    says_nothing_secret(&proxy, &cluster);
}

#[test]
fn the_next_root_cannot_sign_before_callers_can_read_it() {
    let registry = FakeRegistry::obliging();
    let cluster = cluster(&registry);
    let step =
        |step: &str| run_in(&cluster, &[&["ca", step, "--cluster"], &flags(&cluster)[..]].concat());
    let mut proxy = Proxy::in_cluster(&cluster, &flags(&cluster));
    ca(&cluster);
    proxy.terminate();
    proxy.exit(Duration::from_secs(20));
    let (code, shown, _) = step("publish-next");
    assert!(code == Some(0) && shown.contains("is to hold these certificates"), "{shown}");
    let (code, _, error) = step("sign-with-next");
    assert!(code == Some(1) && error.contains("does not hold the next root yet"), "{error}");
    let _proxy = Proxy::in_cluster(&cluster, &flags(&cluster));
    eventually("both", || published(&cluster).filter(|it| certificates(it) == 2));
    assert_eq!(step("sign-with-next").0, Some(0));
}

#[test]
fn a_secret_that_is_removed_stops_nobody_and_is_put_back() {
    let registry = FakeRegistry::obliging();
    let cluster = cluster(&registry);
    let proxy = Proxy::in_cluster(&cluster, &flags(&cluster));
    let roots = ca(&cluster);
    met(&proxy, &cluster, &roots).expect("before");
    let key = secret(&cluster)["ca.key"].clone();

    cluster.delete("v1", "Secret", NAME);
    // It may not make Secrets, and says who can.
    proxy.logged(&["is not there", "apply deploy/base/ca.yaml"]);
    met(&proxy, &cluster, &roots).expect("while it is gone");
    cluster.own_ca();
    eventually("the same keys", || (secret(&cluster)["ca.key"] == key).then_some(()));
    proxy.logged(&["they are put back"]);
    cluster.delete("v1", "ConfigMap", NAME);
    cluster.own_ca();
    eventually("the same certificates", || (published(&cluster)? == roots).then_some(()));
    let second = Proxy::in_cluster(&cluster, &flags(&cluster));
    for proxy in [&proxy, &second] {
        met(proxy, &cluster, &roots).expect("one CA for both");
    }
    says_nothing_secret(&proxy, &cluster);
}

#[test]
fn a_secret_that_holds_rubbish_leaves_the_last_good_root_in_force() {
    let registry = FakeRegistry::obliging();
    let cluster = cluster(&registry);
    let proxy = Proxy::in_cluster(&cluster, &flags(&cluster));
    let roots = ca(&cluster);
    let good = secret(&cluster);
    let rubbish = "-----BEGIN PRIVATE KEY-----\nc2VjcmV0LXJ1YmJpc2g=\n-----END PRIVATE KEY-----\n";

    write(&cluster, &[("ca.key", rubbish)]);
    proxy.logged(&["the CA cannot be followed just now", "the CA's key cannot be read"]);
    met(&proxy, &cluster, &roots).expect("the last good root");
    assert!(!proxy.log().contains("c2VjcmV0LXJ1YmJpc2g"), "what it holds is nobody's to read");
    assert_eq!(published(&cluster).as_deref(), Some(roots.as_str()));

    let late = Proxy::in_cluster(&cluster, &flags(&cluster));
    late.logged(&["callers are served without TLS"]);
    let token = cluster.token("builder");
    let own = format!("/v2/namespaces/{}/connectors/harbor/a/b/manifests/v1", cluster.namespace);
    assert_eq!(late.get_as(&token, &own).status, 200, "without TLS all goes on");
    assert!(met(&late, &cluster, &roots).is_err(), "there is no CA yet");
    let patch = json!({"data": good});
    let kind = "application/merge-patch+json";
    assert_eq!(cluster.ask("PATCH", &path(&cluster, "secrets"), Some((kind, &patch))).0, 200);
    eventually("the CA, once it is mended", || met(&late, &cluster, &roots).ok());
}

#[test]
fn while_the_api_server_is_away_certificates_are_signed_all_the_same() {
    let registry = FakeRegistry::obliging();
    let mut cluster = cluster(&registry);
    cluster.connect("second", &registry.url());
    let proxy = Proxy::in_cluster(&cluster, &flags(&cluster));
    let roots = ca(&cluster);
    met(&proxy, &cluster, &roots).expect("before");
    let Some(server) = cluster.stand_in() else {
        return;
    };
    server.stop();
    let name = format!("c-second.{}.svc", cluster.namespace);
    proxy.caller().with_tls(&Hello::to(&name, &roots)).expect("a name that nobody asked for yet");
    cluster.stand_in().expect("the stand-in").resume();
    let words = ["ca", "publish-next", "--cluster"];
    assert_eq!(run_in(&cluster, &[&words, &flags(&cluster)[..]].concat()).0, Some(0));
    within(Duration::from_secs(90), "the change after the outage", || {
        published(&cluster).filter(|it| certificates(it) == 2)
    });
}

#[test]
fn a_volume_gets_the_ca_once_there_is_one_and_its_driver_may_not_read_the_keys() {
    let registry = FakeRegistry::obliging();
    let cluster = cluster(&registry);
    let status = json!({"status": {"proxy": {"httpAddress": {"url": "http://proxy.example"}}}});
    let group = "/apis/connectors.alauda.io/v1alpha1";
    let own = format!("{group}/namespaces/{}/connectors/harbor/status", cluster.namespace);
    let patch = Some(("application/merge-patch+json", &status));
    assert_eq!(cluster.ask("PATCH", &own, patch).0, 200);
    let mut driver = Driver::in_cluster(&cluster.kubeconfig_of_driver(), &flags(&cluster));
    let token = cluster.token("builder");
    driver.tokens.push(token.clone());
    let volume = Volume::of("builder", &[("connector.name", "harbor")]);
    let volume = Volume { namespace: cluster.namespace.clone(), token, ..volume };
    let kubelet = driver.kubelet();
    let file = volume.path(&driver.kubelet_folder()).join("ca.crt");
    assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
    assert!(!file.exists(), "there is no CA yet");

    let _proxy = Proxy::in_cluster(&cluster, &flags(&cluster));
    let roots = ca(&cluster);
    let found = eventually("ca.crt", || {
        assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
        fs::read_to_string(&file).ok()
    });
    assert_eq!(found, roots);
    let bundle = fs::read_to_string(file.with_file_name("ca-bundle.crt")).expect("a bundle");
    assert!(bundle.ends_with(&roots));

    let account = "system:serviceaccount:harbor-connector-system:harbor-connector-csi";
    for (verb, resource) in [("get", "secrets"), ("list", "secrets"), ("patch", "configmaps")] {
        let review = json!({
            "apiVersion": "authorization.k8s.io/v1", "kind": "SubjectAccessReview",
            "spec": {"user": account, "resourceAttributes": {
                "namespace": cluster.namespace, "verb": verb, "resource": resource, "name": NAME,
            }},
        });
        let path = "/apis/authorization.k8s.io/v1/subjectaccessreviews";
        let (_, answer) = cluster.ask("POST", path, Some(("application/json", &review)));
        assert_eq!(answer["status"]["allowed"], false, "{verb} {resource}");
    }
}
