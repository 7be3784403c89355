//! The controller gives each Connector its Service and its status, and nothing to anybody else.
//!
//! Told to the stand-in, or to a real cluster (see `support/cluster.rs`), under an account with the
//! rules of `deploy/base/controller-rbac.yaml`. What the proxy finds out about a credential is
//! written here by the story, under a field manager of its own.

use std::time::{Duration, Instant};

use rustix::process::Signal;
use serde_json::{Value, json};

use crate::support::cluster::{CONTROLLER, SYSTEM};
use crate::support::controller::Controller;
use crate::support::manifests::anonymous_connector;
use crate::support::{Cluster, eventually, within};

/// The page's own example, word for word.
pub(crate) const PAGE: &str = "\
# Harbor Connector
apiVersion: connectors.alauda.io/v1alpha1
kind: Connector
metadata:
  name: harbor-connector
spec:
  connectorClassName: harbor
  address: https://harbor.example.com
";

const CONNECTORS: &str = "connectors.alauda.io/v1alpha1";

/// A cluster in which the proxy is installed.
pub(crate) fn cluster() -> Cluster {
    let cluster = Cluster::new();
    cluster.apply(&proxy_service());
    cluster
}

fn proxy_service() -> String {
    format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: harbor-connector-proxy, \
         namespace: {SYSTEM}}}, spec: {{ports: [{{name: http, port: 80, targetPort: 8080}}], \
         selector: {{app.kubernetes.io/component: proxy}}}}}}"
    )
}

fn path_of(cluster: &Cluster, name: &str) -> String {
    format!("/apis/{CONNECTORS}/namespaces/{}/connectors/{name}", cluster.namespace)
}

fn connector(cluster: &Cluster, name: &str) -> Value {
    cluster.ask("GET", &path_of(cluster, name), None).1
}

/// The Service of a connector, if there is one.
fn service(cluster: &Cluster, name: &str) -> Option<Value> {
    let path = format!("/api/v1/namespaces/{}/services/c-{name}", cluster.namespace);
    let (status, service) = cluster.ask("GET", &path, None);
    (status == 200).then_some(service)
}

fn condition(object: &Value, kind: &str) -> Value {
    let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().find(|one| one["type"] == kind).cloned().unwrap_or_default()
}

/// `status reason` of a condition.
fn standing(object: &Value, kind: &str) -> String {
    let condition = condition(object, kind);
    let text = |field: &str| condition[field].as_str().unwrap_or_default().to_owned();
    format!("{} {}", text("status"), text("reason")).trim().to_owned()
}

/// Waits until a condition of the connector stands so.
#[track_caller]
fn until(cluster: &Cluster, name: &str, kind: &str, expected: &str) -> Value {
    eventually(&format!("{kind} {expected} of {name}"), || {
        let object = connector(cluster, name);
        (standing(&object, kind) == expected).then_some(object)
    })
}

/// Writes what the proxy finds out, about the generation of now.
fn probed(cluster: &Cluster, name: &str, auth: &str) {
    let generation = connector(cluster, name)["metadata"]["generation"].clone();
    let conditions: Vec<Value> = ["SecretReady", "LivenessReady", "AuthReady"]
        .into_iter()
        .map(|kind| {
            let status = if kind == "AuthReady" { auth } else { "True" };
            let mut condition =
                json!({"type": kind, "status": status, "observedGeneration": generation});
            if status == "False" {
                condition["reason"] = "AuthenticationFailed".into();
                condition["message"] = "Authentication failed: status code 401".into();
            }
            condition
        })
        .collect();
    let object = json!({
        "apiVersion": CONNECTORS, "kind": "Connector", "metadata": {},
        "status": {"conditions": conditions},
    });
    let path = format!("{}/status?fieldManager=story-prober", path_of(cluster, name));
    let answer = cluster.ask("PATCH", &path, Some(("application/apply-patch+yaml", &object)));
    assert_eq!(answer.0, 200, "{}", answer.1);
}

/// The events of a connector, as `type reason`, the oldest first.
fn events(cluster: &Cluster, name: &str) -> Vec<String> {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{}/events", cluster.namespace);
    let (_, list) = cluster.ask("GET", &path, None);
    let mut events: Vec<Value> = list["items"].as_array().cloned().unwrap_or_default();
    events.retain(|event| {
        event["regarding"]["name"] == name
            && event["reportingController"] == "harbor-connector-controller"
    });
    events.sort_by_key(|event| event["eventTime"].as_str().map(str::to_owned));
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    events.iter().map(|event| text(&event["type"]) + " " + &text(&event["reason"])).collect()
}

#[test]
fn the_pages_connector_pasted_gets_its_service_its_address_and_its_conditions() {
    let mut cluster = cluster();
    let controller = Controller::elected(&cluster, &[]);
    cluster.apply(PAGE);
    let name = "harbor-connector";
    let object = until(&cluster, name, "ProxyServiceReady", "True");
    let own = cluster.namespace.clone();
    let url = format!("http://c-harbor-connector.{own}.svc.cluster.local");
    assert_eq!(object["status"]["proxy"], json!({"httpAddress": {"url": url}}));
    assert_eq!(object["metadata"]["labels"]["connectors.alauda.io/connectorclass"], "harbor");
    assert_eq!(object["status"]["observedGeneration"], object["metadata"]["generation"]);
    assert_eq!(standing(&object, "ConnectorClassReady"), "True");
    assert_eq!(standing(&object, "Ready"), "Unknown Pending", "nobody has probed it");

    let service = service(&cluster, name).expect("its Service");
    assert_eq!(service["spec"]["type"], "ExternalName");
    let host = "harbor-connector-proxy.harbor-connector-system.svc.cluster.local";
    assert_eq!(service["spec"]["externalName"], host);
    assert_eq!(service["spec"]["ports"][0]["port"], 80);
    let owner = &service["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["name"]), (&json!("Connector"), &json!(name)));
    assert_eq!((&owner["uid"], &owner["controller"]), (&object["metadata"]["uid"], &json!(true)));
    let written_by = |object: &Value, operation: &str| {
        let managers = object["metadata"]["managedFields"].as_array().expect("managers");
        managers.iter().any(|one| {
            one["manager"] == "harbor-connector-controller" && one["operation"] == operation
        })
    };
    assert!(written_by(&object, "Apply") && !written_by(&object, "Update"));
    assert!(written_by(&service, "Update"), "made by a create");

    probed(&cluster, name, "True");
    let object = until(&cluster, name, "Ready", "True");
    let since = condition(&object, "ProxyServiceReady")["lastTransitionTime"].clone();
    assert!(since.as_str().is_some_and(|time| time.ends_with('Z')), "{since}");
    probed(&cluster, name, "False");
    let object = until(&cluster, name, "Ready", "False AuthenticationFailed");
    let message = condition(&object, "Ready")["message"].clone();
    assert_eq!(message, "Authentication failed: status code 401");
    assert_eq!(condition(&object, "ProxyServiceReady")["lastTransitionTime"], since);
    eventually("its events", || {
        (events(&cluster, name) == ["Normal Ready", "Warning AuthenticationFailed"]).then_some(())
    });
    let shown =
        |status: &str| controller.metric(&format!("controller_connectors{{ready=\"{status}\"}}"));
    eventually("the metric", || shown("False").filter(|count| *count >= 1.0));
    if let Some(server) = cluster.stand_in() {
        let secrets = server.count("GET /api/v1/secrets")
            + server.count(&format!("GET /api/v1/namespaces/{own}/secrets"));
        assert_eq!(secrets, 0, "no Secret is asked for");
    }
}

#[test]
fn a_ca_that_cannot_be_used_is_an_event_and_does_not_count() {
    let cluster = cluster();
    let _controller = Controller::elected(&cluster, &[]);
    cluster.apply(PAGE);
    let name = "harbor-connector";
    until(&cluster, name, "ProxyServiceReady", "True");
    probed(&cluster, name, "True");
    until(&cluster, name, "Ready", "True");
    let generation = connector(&cluster, name)["metadata"]["generation"].clone();
    let path = format!("{}/status?fieldManager=story-ca", path_of(&cluster, name));
    for (status, reason) in
        [("False", "SecretNotFound"), ("False", "InvalidPEM"), ("True", "Valid")]
    {
        let condition = json!({
            "type": "CACertReady", "status": status, "reason": reason, "severity": "Info",
            "message": "CA secret \"harbor-ca\"", "observedGeneration": generation,
        });
        let object = json!({
            "apiVersion": CONNECTORS, "kind": "Connector", "metadata": {},
            "status": {"conditions": [condition]},
        });
        let body = Some(("application/apply-patch+yaml", &object));
        assert_eq!(cluster.ask("PATCH", &path, body).0, 200);
        let told = match reason {
            "SecretNotFound" => "Warning CACertSecretNotFound",
            _ => "Warning InvalidCACert",
        };
        eventually(told, || (events(&cluster, name).last()? == told).then_some(()));
    }
    assert_eq!(events(&cluster, name).len(), 3, "and nothing twice");
    until(&cluster, name, "Ready", "True");
}

#[test]
fn a_changed_spec_is_pending_until_it_has_been_probed_again() {
    let cluster = cluster();
    let _controller = Controller::elected(&cluster, &[]);
    cluster.apply(PAGE);
    let name = "harbor-connector";
    until(&cluster, name, "ProxyServiceReady", "True");
    probed(&cluster, name, "True");
    let before = until(&cluster, name, "Ready", "True");
    cluster.apply(&PAGE.replace("harbor.example.com", "harbor.example.org"));
    let object = eventually("the new generation", || {
        let object = connector(&cluster, name);
        (object["status"]["observedGeneration"] == object["metadata"]["generation"]
            && object["metadata"]["generation"] != before["metadata"]["generation"])
            .then_some(object)
    });
    assert_eq!(standing(&object, "Ready"), "Unknown Pending");
    let ready = condition(&object, "Ready");
    assert_eq!(ready["observedGeneration"], object["metadata"]["generation"]);
    assert_eq!(ready["message"], "SecretReady has not been checked yet");
    probed(&cluster, name, "True");
    until(&cluster, name, "Ready", "True");
}

#[test]
fn a_foreign_service_of_the_same_name_is_left_alone_and_once_it_is_gone_all_is_well() {
    let cluster = cluster();
    let own = &cluster.namespace;
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: c-harbor-connector, namespace: {own}}}, \
         spec: {{ports: [{{port: 8080}}], selector: {{app: theirs}}}}}}"
    ));
    let before = service(&cluster, "harbor-connector").expect("theirs");
    let controller = Controller::elected(&cluster, &[]);
    cluster.apply(PAGE);
    let object =
        until(&cluster, "harbor-connector", "ProxyServiceReady", "False ProxyServiceConflict");
    let message = condition(&object, "ProxyServiceReady")["message"].clone();
    let message = message.as_str().unwrap_or_default();
    assert!(message.contains("\"c-harbor-connector\" already exists"), "{message}");
    assert!(message.contains("delete it"), "{message}");
    assert_eq!(standing(&object, "Ready"), "False ProxyServiceConflict");
    assert!(object["status"]["proxy"].is_null(), "{object}");
    assert_eq!(service(&cluster, "harbor-connector"), Some(before), "not a byte of it");
    eventually("the event", || {
        (events(&cluster, "harbor-connector") == ["Warning ProxyServiceConflict"]).then_some(())
    });
    assert_eq!(controller.metric("controller_writes_total{object=\"service\"}"), Some(0.0));

    cluster.delete("v1", "Service", "c-harbor-connector");
    let object = until(&cluster, "harbor-connector", "ProxyServiceReady", "True");
    assert!(object["status"]["proxy"]["httpAddress"]["url"].is_string());
    assert_eq!(
        service(&cluster, "harbor-connector").expect("ours")["spec"]["type"],
        "ExternalName"
    );
}

#[test]
fn a_foreign_service_that_the_watch_has_not_shown_yet_is_left_alone_too() {
    let mut cluster = cluster();
    let own = cluster.namespace.clone();
    let Some(server) = cluster.stand_in() else {
        return;
    };
    server.delay("GET /api/v1/services", Duration::from_secs(2));
    let _controller = Controller::elected(&cluster, &[]);
    let class = format!("/apis/{CONNECTORS}/connectorclasses/harbor");
    eventually("the first list", || {
        (standing(&cluster.ask("GET", &class, None).1, "Ready") == "True").then_some(())
    });
    // The watch after that list begins late. Nobody owns the type of such a Service, so an apply
    // would conflict with nothing.
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: c-harbor-connector, namespace: {own}}}, \
         spec: {{ports: [{{port: 8080}}]}}}}"
    ));
    let before = service(&cluster, "harbor-connector").expect("theirs");
    cluster.apply(PAGE);
    until(&cluster, "harbor-connector", "ProxyServiceReady", "False ProxyServiceConflict");
    assert_eq!(service(&cluster, "harbor-connector"), Some(before), "not a byte of it");
}

#[test]
fn what_others_change_in_a_connectors_service_is_mended_and_what_they_add_stays() {
    let cluster = cluster();
    let _controller = Controller::elected(&cluster, &[]);
    cluster.apply(PAGE);
    let name = "harbor-connector";
    until(&cluster, name, "ProxyServiceReady", "True");
    let made = service(&cluster, name).expect("its Service");
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: c-{name}, labels: {{team: a}}}}, \
         spec: {{type: ExternalName, externalName: elsewhere.example}}}}"
    ));
    let mended = eventually("the mended Service", || {
        let service = service(&cluster, name)?;
        (service["spec"]["externalName"] == made["spec"]["externalName"]).then_some(service)
    });
    assert_eq!(mended["metadata"]["labels"]["team"], "a");

    cluster.delete("v1", "Service", &format!("c-{name}"));
    eventually("a new Service", || service(&cluster, name));
    let label = "connectors.alauda.io/connectorclass";
    let none = json!({"metadata": {"labels": {label: null}}});
    let merge = Some(("application/merge-patch+json", &none));
    assert_eq!(cluster.ask("PATCH", &path_of(&cluster, name), merge).0, 200);
    eventually("the label", || {
        (connector(&cluster, name)["metadata"]["labels"][label] == "harbor").then_some(())
    });
}

#[test]
fn a_connector_that_is_made_again_waits_until_the_old_ones_service_is_gone() {
    let mut cluster = cluster();
    let _controller = Controller::elected(&cluster, &[]);
    cluster.apply(PAGE);
    let name = "harbor-connector";
    until(&cluster, name, "ProxyServiceReady", "True");
    let old = service(&cluster, name).expect("its Service");
    cluster.delete(CONNECTORS, "Connector", name);
    cluster.apply(PAGE);
    if cluster.stand_in().is_some() {
        until(&cluster, name, "ProxyServiceReady", "False ProxyServiceConflict");
    }
    cluster.collect(&old);
    let object = until(&cluster, name, "ProxyServiceReady", "True");
    let new = eventually("the new one", || {
        service(&cluster, name).filter(|new| new["metadata"]["uid"] != old["metadata"]["uid"])
    });
    assert_eq!(new["metadata"]["ownerReferences"][0]["uid"], object["metadata"]["uid"]);
}

#[test]
fn a_missing_class_and_a_missing_proxy_are_said_and_mended() {
    let cluster = Cluster::new();
    let proxy = format!("/api/v1/namespaces/{SYSTEM}/services/harbor-connector-proxy");
    cluster.ask("DELETE", &proxy, None);
    let _controller = Controller::elected(&cluster, &[]);
    let name = "harbor-connector";
    cluster.apply(&PAGE.replace("ClassName: harbor", "ClassName: nobodys"));
    let object = until(&cluster, name, "ConnectorClassReady", "False ConnectorClassNotFound");
    let message = condition(&object, "ConnectorClassReady")["message"].clone();
    assert_eq!(message, "connectorclass.connectors.alauda.io \"nobodys\" not found");
    assert_eq!(standing(&object, "Ready"), "False ConnectorClassNotFound");
    assert_eq!(service(&cluster, name), None);

    cluster.apply(PAGE);
    let object = until(&cluster, name, "ProxyServiceReady", "False ProxyServiceNotFound");
    assert_eq!(standing(&object, "ConnectorClassReady"), "True");
    let message = condition(&object, "ProxyServiceReady")["message"].clone();
    assert_eq!(
        message,
        "Service harbor-connector-proxy not found in namespace harbor-connector-system"
    );
    let class =
        || cluster.ask("GET", &format!("/apis/{CONNECTORS}/connectorclasses/harbor"), None).1;
    let ready = |expected: &str| {
        eventually("the class", || (standing(&class(), "Ready") == expected).then_some(class()))
    };
    ready("False ProxyServiceNotFound");
    cluster.apply(&proxy_service());
    until(&cluster, name, "ProxyServiceReady", "True");
    let class = ready("True");
    assert_eq!(standing(&class, "APIReady"), "True NonAPI");
    let url = "http://harbor-connector-proxy.harbor-connector-system.svc.cluster.local";
    assert_eq!(class["status"]["proxy"]["httpAddress"]["url"], url);
}

#[test]
fn the_class_chooses_the_form_of_the_address() {
    let cluster = cluster();
    let _controller = Controller::elected(&cluster, &[]);
    let name = "harbor-connector";
    cluster.apply(PAGE);
    until(&cluster, name, "ProxyServiceReady", "True");
    let class = include_str!("../deploy/base/class.yaml");
    let annotated = class.replace(
        "  annotations:\n",
        "  annotations:\n    connectors.cpaas.io/proxy-resolver: path\n",
    );
    cluster.apply(&annotated);
    let host = format!("http://c-{name}.{}.svc.cluster.local", cluster.namespace);
    let url = |expected: &str| {
        eventually("the address", || {
            let url = connector(&cluster, name)["status"]["proxy"]["httpAddress"]["url"].clone();
            (url == expected).then_some(())
        });
    };
    url(&format!("{host}/namespaces/{}/connectors/{name}", cluster.namespace));
    cluster.apply(class);
    url(&host);
}

#[test]
fn connectors_of_other_classes_are_left_to_their_own_controllers() {
    let cluster = cluster();
    let own = cluster.namespace.clone();
    cluster.apply(&format!(
        "{{apiVersion: {CONNECTORS}, kind: ConnectorClass, metadata: {{name: {own}}}, spec: {{}}}}"
    ));
    cluster.apply(&PAGE.replace("ClassName: harbor", &format!("ClassName: {own}")));
    let _controller = Controller::elected(&cluster, &[]);
    cluster.apply(&PAGE.replace("name: harbor-connector", "name: ours"));
    until(&cluster, "ours", "ProxyServiceReady", "True");
    let theirs = connector(&cluster, "harbor-connector");
    assert!(theirs["status"].is_null() && theirs["metadata"]["labels"].is_null(), "{theirs}");
    assert_eq!(service(&cluster, "harbor-connector"), None);

    cluster.apply(
        &PAGE
            .replace("name: harbor-connector", "name: ours")
            .replace("ClassName: harbor", &format!("ClassName: {own}")),
    );
    let given_up = eventually("the status without what was ours", || {
        let object = connector(&cluster, "ours");
        object["status"]["conditions"].as_array().is_none_or(Vec::is_empty).then_some(object)
    });
    assert!(given_up["status"]["proxy"].is_null(), "{given_up}");
    let label = &given_up["metadata"]["labels"]["connectors.alauda.io/connectorclass"];
    assert!(label.is_null(), "{given_up}");
    let path = format!("/apis/{CONNECTORS}/connectorclasses/{own}");
    assert_eq!(cluster.ask("DELETE", &path, None).0, 200);
}

/// Who holds the Lease.
fn holder(cluster: &Cluster) -> String {
    let path = format!(
        "/apis/coordination.k8s.io/v1/namespaces/{SYSTEM}/leases/harbor-connector-controller"
    );
    let (_, lease) = cluster.ask("GET", &path, None);
    lease["spec"]["holderIdentity"].as_str().unwrap_or_default().to_owned()
}

#[test]
fn of_two_replicas_one_acts_and_when_it_is_killed_the_other_takes_over() {
    let cluster = cluster();
    let mut first = Controller::elected(&cluster, &[]);
    let second = Controller::start(&cluster, &[]);
    eventually("its readiness", || (second.admin("/readyz").status == 200).then_some(()));
    assert_eq!(holder(&cluster), first.identity);
    cluster.apply(PAGE);
    until(&cluster, "harbor-connector", "ProxyServiceReady", "True");
    // Two Leases' time: it does not change hands while its holder lives.
    let started = Instant::now();
    while started.elapsed() < Duration::from_secs(6) {
        assert!(first.acts() && !second.acts());
        std::thread::sleep(Duration::from_millis(100));
    }
    assert_eq!(second.writes(), 0.0, "only one writes");
    first.signal(Signal::KILL);
    first.exit();
    eventually("the other one", || second.acts().then_some(()));
    assert_eq!(holder(&cluster), second.identity);
    cluster.apply(&PAGE.replace("name: harbor-connector", "name: next"));
    until(&cluster, "next", "ProxyServiceReady", "True");
}

#[test]
fn a_replica_that_was_frozen_while_another_took_over_writes_nothing_more() {
    let mut cluster = cluster();
    let mut first = Controller::elected(&cluster, &[]);
    let second = Controller::start(&cluster, &[]);
    // It has seen the connector when it freezes, and finds on thawing that it has no Service.
    let foreign = format!(
        "{{apiVersion: v1, kind: Service, metadata: {{name: c-harbor-connector, namespace: {}}}, \
         spec: {{ports: [{{port: 8080}}]}}}}",
        cluster.namespace
    );
    cluster.apply(&foreign);
    cluster.apply(PAGE);
    until(&cluster, "harbor-connector", "ProxyServiceReady", "False ProxyServiceConflict");
    first.signal(Signal::STOP);
    cluster.delete("v1", "Service", "c-harbor-connector");
    eventually("the other one", || second.acts().then_some(()));
    let object = until(&cluster, "harbor-connector", "ProxyServiceReady", "True");
    let writes = second.writes();
    let patches = cluster.stand_in().map(|server| server.count("PATCH "));
    first.signal(Signal::CONT);
    assert_eq!(first.exit().code(), Some(1), "{}", first.log());
    assert!(first.log().contains("the Lease was lost"), "{}", first.log());
    assert_eq!(connector(&cluster, "harbor-connector"), object);
    assert_eq!(cluster.stand_in().map(|server| server.count("PATCH ")), patches);
    assert_eq!((second.writes(), holder(&cluster)), (writes, second.identity.clone()));
}

#[test]
fn a_replica_that_is_told_to_end_gives_the_lease_up() {
    let cluster = cluster();
    // So long that nobody could wait for its end.
    let flags = ["--lease-seconds", "600", "--pod-name", "first"];
    let mut first = Controller::elected(&cluster, &flags);
    assert!(holder(&cluster).starts_with("first_"));
    first.signal(Signal::TERM);
    assert_eq!(first.exit().code(), Some(0), "{}", first.log());
    assert_eq!(holder(&cluster), "");
    drop(first);
    let mut waiting = Controller::elected(&cluster, &[]);
    waiting.signal(Signal::INT);
    assert_eq!(waiting.exit().code(), Some(0));
}

#[test]
fn nothing_is_written_while_nothing_changes() {
    let mut cluster = cluster();
    let own = cluster.namespace.clone();
    cluster.apply_many(
        (0..20)
            .map(|number| anonymous_connector(&own, &format!("h-{number}"), "https://h.example")),
    );
    let controller = Controller::elected(&cluster, &[]);
    for number in 0..20 {
        until(&cluster, &format!("h-{number}"), "ProxyServiceReady", "True");
    }
    eventually("rest", || (controller.metric("controller_waiting") == Some(0.0)).then_some(()));
    let before = controller.writes();
    // A watch that begins anew, and a replica that does, find that all is well.
    let seen = cluster.stand_in().map(|server| {
        server.expire_watches();
        ["PATCH", "POST", "DELETE"].map(|verb| server.count(&format!("{verb} /api")))
    });
    let started = Instant::now();
    std::thread::sleep(Duration::from_secs(3));
    assert_eq!(controller.writes(), before);
    if let (Some(seen), Some(server)) = (seen, cluster.stand_in()) {
        let now = ["PATCH", "POST", "DELETE"].map(|verb| server.count(&format!("{verb} /api")));
        assert_eq!(now, seen);
        let all = server.count("");
        println!("{all} requests in all, none of them a write in {:?}", started.elapsed());
    }
    drop(controller);
    let again = Controller::elected(&cluster, &[]);
    let shown = "controller_connectors{ready=\"Unknown\"}";
    eventually("its view", || again.metric(shown).filter(|count| *count >= 20.0));
    assert_eq!(again.writes(), 0.0);
}

#[test]
fn a_thousand_connectors_are_reconciled_within_a_minute() {
    let mut cluster = cluster();
    let own = cluster.namespace.clone();
    cluster.apply_many(
        (0..1000)
            .map(|number| anonymous_connector(&own, &format!("h-{number}"), "https://h.example")),
    );
    let before = cluster.stand_in().map(|server| server.count(""));
    let started = Instant::now();
    let controller = Controller::elected(&cluster, &["--lease-seconds", "15"]);
    let path = format!("/apis/{CONNECTORS}/namespaces/{own}/connectors/");
    let shown = "controller_connectors{ready=\"Unknown\"}";
    within(Duration::from_secs(60), "a thousand statuses", || {
        controller.metric(shown).filter(|count| *count >= 1000.0)
    });
    let took = started.elapsed();
    let writes = controller.writes();
    println!("1,000 connectors in {took:?} with {writes} writes");
    if let (Some(before), Some(server)) = (before, cluster.stand_in()) {
        println!("{} requests in all", server.count("") - before);
        assert_eq!(server.count(&format!("GET {path}")), 0, "nobody is read alone");
    }
    // Service, label and status of each; and the class. Others may have some in a real cluster.
    assert!(cluster.is_real() || writes <= 3001.0, "{writes}");
    let last = connector(&cluster, "h-999");
    assert_eq!(standing(&last, "ProxyServiceReady"), "True");
    assert!(service(&cluster, "h-999").is_some());
}

#[test]
fn while_the_api_server_is_away_the_controller_waits_and_then_goes_on() {
    let mut cluster = cluster();
    let controller = Controller::elected(&cluster, &["--lease-seconds", "10"]);
    cluster.apply(PAGE);
    until(&cluster, "harbor-connector", "ProxyServiceReady", "True");
    let Some(server) = cluster.stand_in() else {
        return;
    };
    server.stop();
    // Longer than a renewal is away, shorter than the Lease.
    std::thread::sleep(Duration::from_secs(3));
    cluster.stand_in().expect("the stand-in").resume();
    assert!(controller.acts());
    cluster.apply(&PAGE.replace("name: harbor-connector", "name: next"));
    until(&cluster, "next", "ProxyServiceReady", "True");
}

#[test]
fn a_write_that_is_refused_is_said_in_the_status_and_tried_again() {
    let cluster = cluster();
    if cluster.is_real() {
        // Others there need the rights.
        return;
    }
    let rbac = include_str!("../deploy/base/controller-rbac.yaml");
    cluster.apply(&rbac.replace("verbs: [list, watch, create, patch]", "verbs: [list, watch]"));
    let controller = Controller::elected(&cluster, &[]);
    cluster.apply(PAGE);
    let object =
        until(&cluster, "harbor-connector", "ProxyServiceReady", "False ProxyServiceRefused");
    let message = condition(&object, "ProxyServiceReady")["message"].clone();
    assert!(message.as_str().is_some_and(|text| text.contains("forbidden")), "{message}");
    // It counts what failed once all that can be written is.
    eventually("the count", || {
        controller.metric("controller_failures_total").filter(|count| *count >= 1.0)
    });
    cluster.apply(rbac);
    until(&cluster, "harbor-connector", "ProxyServiceReady", "True");
}

/// Policies of others about labels are common.
#[test]
fn a_label_that_is_refused_keeps_neither_service_nor_status_from_a_connector() {
    let cluster = cluster();
    let own = &cluster.namespace;
    cluster.apply(&format!(
        "apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicy\n\
         metadata: {{name: {own}}}\n\
         spec:\n  matchConstraints:\n    resourceRules:\n    - {{apiGroups: [connectors.alauda.io], \
         apiVersions: [v1alpha1], operations: [CREATE, UPDATE], resources: [connectors]}}\n  \
         validations:\n  - expression: request.namespace != '{own}' || \
         !has(object.metadata.labels)\n    message: no labels here\n---\n\
         apiVersion: admissionregistration.k8s.io/v1\nkind: ValidatingAdmissionPolicyBinding\n\
         metadata: {{name: {own}}}\nspec: {{policyName: {own}, validationActions: [Deny]}}\n"
    ));
    let labelled = PAGE.replace("name: harbor-connector", "name: x\n  labels: {a: b}");
    let labelled = crate::support::cluster::documents(&labelled).remove(0);
    eventually("the policy", || (cluster.try_apply(&labelled).0 == 422).then_some(()));

    let _controller = Controller::elected(&cluster, &[]);
    cluster.apply(PAGE);
    let name = "harbor-connector";
    let object = until(&cluster, name, "ProxyServiceReady", "True");
    assert!(object["status"]["proxy"]["httpAddress"]["url"].is_string(), "{object}");
    assert!(service(&cluster, name).is_some());
    assert!(object["metadata"]["labels"].is_null(), "{object}");
    let admission = "/apis/admissionregistration.k8s.io/v1";
    for kind in ["validatingadmissionpolicybindings", "validatingadmissionpolicies"] {
        assert_eq!(cluster.ask("DELETE", &format!("{admission}/{kind}/{own}"), None).0, 200);
    }
    // It is tried again, and the connector is labelled once it may be.
    eventually("the label", || {
        let label =
            &connector(&cluster, name)["metadata"]["labels"]["connectors.alauda.io/connectorclass"];
        (label == "harbor").then_some(())
    });
}

#[test]
fn a_replica_is_ready_once_the_api_server_has_shown_it_the_lease() {
    let mut cluster = cluster();
    let file = cluster.kubeconfig_of(CONTROLLER);
    let Some(server) = cluster.stand_in() else {
        return;
    };
    server.stop();
    let mut replica = Controller::launch(&file, &[]);
    eventually("a line about it", || replica.log().contains("cannot be looked at").then_some(()));
    assert_eq!(replica.admin("/healthz").status, 200);
    assert_eq!(replica.admin("/readyz").status, 503);
    assert_eq!(replica.metric("controller_acts"), Some(0.0));
    cluster.stand_in().expect("the stand-in").resume();
    eventually("its readiness", || (replica.admin("/readyz").status == 200).then_some(()));
    replica.signal(Signal::TERM);
    assert_eq!(replica.exit().code(), Some(0), "{}", replica.log());
}
