//! The API's conventions that this program lives by, asked of whatever cluster the stories get.
//!
//! Each holds for a real API server, so each that the stand-in kept differently would be a story
//! told to a dream. Requests in, codes and reasons out.

use serde_json::{Value, json};

use crate::support::Cluster;
use crate::support::cluster::CONTROLLER;

/// A Service of the story that leads to `host`.
fn service(cluster: &Cluster, host: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {"name": "c-harbor", "namespace": cluster.namespace},
        "spec": {"type": "ExternalName", "externalName": host},
    })
}

fn reason(answer: &(u16, Value)) -> (u16, &str) {
    (answer.0, answer.1["reason"].as_str().unwrap_or_default())
}

fn services(cluster: &Cluster) -> String {
    format!("/api/v1/namespaces/{}/services", cluster.namespace)
}

#[test]
fn a_write_over_an_old_version_is_a_conflict_and_a_second_create_too() {
    let cluster = Cluster::new();
    let path = services(&cluster);
    let json = "application/json";
    let wanted = service(&cluster, "one.example");
    let (status, first) = cluster.ask("POST", &path, Some((json, &wanted)));
    assert_eq!(status, 201, "{first}");
    let again = cluster.ask("POST", &path, Some((json, &wanted)));
    assert_eq!(reason(&again), (409, "AlreadyExists"));

    let path = format!("{path}/c-harbor");
    let mut second = first.clone();
    second["spec"]["externalName"] = "two.example".into();
    let (status, second) = cluster.ask("PUT", &path, Some((json, &second)));
    assert_eq!(status, 200, "{second}");
    assert_ne!(first["metadata"]["resourceVersion"], second["metadata"]["resourceVersion"]);
    assert_eq!(first["metadata"]["uid"], second["metadata"]["uid"]);
    let stale = cluster.ask("PUT", &path, Some((json, &first)));
    assert_eq!(reason(&stale), (409, "Conflict"));
}

#[test]
fn an_applied_field_belongs_to_who_applied_it_until_it_is_taken_or_given_up() {
    let cluster = Cluster::new();
    let path = format!("{}/c-harbor", services(&cluster));
    let apply = |manager: &str, force: bool, object: &Value| {
        let path = format!("{path}?fieldManager={manager}&force={force}");
        cluster.ask("PATCH", &path, Some(("application/apply-patch+yaml", object)))
    };
    let mut ours = service(&cluster, "one.example");
    ours["metadata"]["labels"] = json!({"kept": "yes", "given-up": "soon"});
    let (status, first) = apply("ours", false, &ours);
    assert_eq!(status, 201, "{first}");
    let (status, again) = apply("ours", false, &ours);
    assert_eq!(status, 200);
    assert_eq!(
        first["metadata"]["resourceVersion"], again["metadata"]["resourceVersion"],
        "an apply that changes nothing writes nothing"
    );

    let theirs = service(&cluster, "two.example");
    let refused = apply("theirs", false, &theirs);
    assert_eq!(reason(&refused), (409, "Conflict"));
    let message = refused.1["message"].as_str().unwrap_or_default();
    assert!(message.contains("\"ours\"") && message.contains(".spec.externalName"), "{message}");
    let (status, taken) = apply("theirs", true, &theirs);
    assert_eq!((status, &taken["spec"]["externalName"]), (200, &json!("two.example")));

    ours["metadata"]["labels"] = json!({"kept": "yes"});
    ours["spec"] = json!({"type": "ExternalName"});
    let (status, less) = apply("ours", false, &ours);
    assert_eq!((status, &less["metadata"]["labels"]), (200, &json!({"kept": "yes"})));
    assert_eq!(less["spec"]["externalName"], "two.example", "it is theirs now");
}

#[test]
fn an_apply_that_names_a_uid_means_that_object_and_no_other() {
    let cluster = Cluster::new();
    let path = format!("{}/c-harbor?fieldManager=ours&force=true", services(&cluster));
    let apply = |object: &Value| {
        cluster.ask("PATCH", &path, Some(("application/apply-patch+yaml", object)))
    };
    let mut wanted = service(&cluster, "one.example");
    wanted["metadata"]["uid"] = "11111111-0000-4000-8000-000000000000".into();
    assert_eq!(reason(&apply(&wanted)), (409, "Conflict"), "there is none with that uid");
    let (status, first) = apply(&service(&cluster, "one.example"));
    assert_eq!(status, 201, "{first}");
    wanted["spec"]["externalName"] = "two.example".into();
    assert_eq!(reason(&apply(&wanted)), (409, "Conflict"), "it is another one");
    wanted["metadata"]["uid"] = first["metadata"]["uid"].clone();
    let (status, second) = apply(&wanted);
    assert_eq!((status, &second["spec"]["externalName"]), (200, &json!("two.example")));
}

#[test]
fn two_managers_share_the_conditions_and_each_owns_its_own() {
    let cluster = Cluster::new();
    cluster.connect("harbor", "https://harbor.example.com");
    let path = format!(
        "/apis/connectors.alauda.io/v1alpha1/namespaces/{}/connectors/harbor/status",
        cluster.namespace
    );
    let apply = |manager: &str, force: bool, conditions: Value| {
        let path = format!("{path}?fieldManager={manager}&force={force}");
        let object = json!({
            "apiVersion": "connectors.alauda.io/v1alpha1", "kind": "Connector",
            "status": {"conditions": conditions},
        });
        cluster.ask("PATCH", &path, Some(("application/apply-patch+yaml", &object)))
    };
    let kinds = |object: &Value| -> Vec<String> {
        let conditions = object["status"]["conditions"].as_array().into_iter().flatten();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        conditions.map(|one| text(&one["type"]) + "=" + &text(&one["status"])).collect()
    };
    let ready = json!({"type": "Ready", "status": "Unknown"});
    let auth = json!({"type": "AuthReady", "status": "True", "message": "robot$ci"});
    let (status, answer) = apply("controller", false, json!([ready]));
    assert_eq!(status, 200, "{answer}");
    let (_, both) = apply("prober", false, json!([auth]));
    assert_eq!(kinds(&both), ["Ready=Unknown", "AuthReady=True"]);

    let ready = json!({"type": "Ready", "status": "True"});
    let (_, changed) = apply("controller", false, json!([ready]));
    assert_eq!(kinds(&changed), ["Ready=True", "AuthReady=True"]);
    let (_, again) = apply("controller", false, json!([ready]));
    let version = |object: &Value| object["metadata"]["resourceVersion"].clone();
    assert_eq!(version(&changed), version(&again), "nothing was written");

    let theirs = json!({"type": "AuthReady", "status": "False"});
    let refused = apply("controller", false, json!([ready, theirs]));
    assert_eq!(reason(&refused), (409, "Conflict"));
    let message = refused.1["message"].as_str().unwrap_or_default();
    assert!(message.contains(r#".status.conditions[type="AuthReady"].status"#), "{message}");

    let (_, given_up) = apply("prober", false, json!([]));
    assert_eq!(kinds(&given_up), ["Ready=True"], "what nobody owns any more is gone");
    let (_, none) = apply("controller", false, json!([]));
    assert_eq!(kinds(&none), [""; 0]);
}

#[test]
fn an_event_says_when_what_and_who_and_is_told_in_the_namespace_it_is_about() {
    let cluster = Cluster::new();
    let own = &cluster.namespace;
    let path = format!("/apis/events.k8s.io/v1/namespaces/{own}/events");
    let event = json!({
        "apiVersion": "events.k8s.io/v1", "kind": "Event",
        "metadata": {"generateName": "harbor.", "namespace": own},
        "eventTime": "2026-11-24T02:00:00.000000Z", "type": "Normal", "reason": "Ready",
        "action": "Reconcile", "reportingController": "stories", "reportingInstance": "one",
        "regarding": {"kind": "Connector", "namespace": own, "name": "harbor"},
    });
    let tell = |event: &Value| cluster.ask("POST", &path, Some(("application/json", event)));
    let (status, answer) = tell(&event);
    assert_eq!(status, 201, "{answer}");
    let long = "x".repeat(1025);
    for (field, value) in [
        ("eventTime", Value::Null),
        ("reason", Value::Null),
        ("action", json!("")),
        ("reportingController", json!("not a name")),
        ("note", json!(long)),
        ("regarding", json!({"kind": "Connector", "namespace": "default", "name": "harbor"})),
    ] {
        let mut event = event.clone();
        event[field] = value;
        assert_eq!(reason(&tell(&event)), (422, "Invalid"), "{field}");
    }
}

#[test]
fn whoever_makes_an_object_by_applying_it_needs_the_right_to_create_it() {
    let cluster = Cluster::new();
    cluster.connect("harbor", "https://harbor.example.com");
    let own = &cluster.namespace;
    let apply = |path: &str, object: &Value| {
        let path = format!("{path}?fieldManager=ours");
        let body = Some(("application/apply-patch+yaml", object));
        cluster.ask_as(CONTROLLER, "PATCH", &path, body)
    };
    let connectors = format!("/apis/connectors.alauda.io/v1alpha1/namespaces/{own}/connectors");
    let labelled = |name: &str| {
        json!({
            "apiVersion": "connectors.alauda.io/v1alpha1", "kind": "Connector",
            "metadata": {"name": name, "namespace": own, "labels": {"a": "b"}},
        })
    };
    let (status, answer) = apply(&format!("{connectors}/harbor"), &labelled("harbor"));
    assert_eq!(status, 200, "{answer}");
    let refused = apply(&format!("{connectors}/other"), &labelled("other"));
    assert_eq!(reason(&refused), (403, "Forbidden"));
    let service = service(&cluster, "one.example");
    let (status, answer) = apply(&format!("{}/c-harbor", services(&cluster)), &service);
    assert_eq!(status, 201, "{answer}");
    let secrets = format!("/api/v1/namespaces/{own}/secrets");
    assert_eq!(reason(&cluster.ask_as(CONTROLLER, "GET", &secrets, None)), (403, "Forbidden"));
}

#[test]
fn status_is_written_by_its_own_path_and_by_no_other() {
    let cluster = Cluster::new();
    cluster.connect("harbor", "https://harbor.example.com");
    let path = format!(
        "/apis/connectors.alauda.io/v1alpha1/namespaces/{}/connectors/harbor",
        cluster.namespace
    );
    let merge = |path: &str, patch: Value| {
        cluster.ask("PATCH", path, Some(("application/merge-patch+json", &patch)))
    };
    let reported = json!({"status": {"observedGeneration": 1}, "spec": {"address": "http://x"}});
    let (status, object) = merge(&format!("{path}/status"), reported);
    assert_eq!(status, 200, "{object}");
    assert_eq!(object["status"]["observedGeneration"], 1);
    assert_eq!(object["spec"]["address"], "https://harbor.example.com");
    assert_eq!(object["metadata"]["generation"], 1);
    let (_, object) = merge(&path, json!({"status": null, "spec": {"address": "http://y"}}));
    assert_eq!(object["status"]["observedGeneration"], 1);
    assert_eq!(object["metadata"]["generation"], 2, "only a change of spec counts");
}

#[test]
fn a_list_comes_in_pages_that_hold_everything_once() {
    let cluster = Cluster::new();
    for number in 0..7 {
        cluster.connect(&format!("harbor-{number}"), "https://harbor.example.com");
    }
    let path =
        format!("/apis/connectors.alauda.io/v1alpha1/namespaces/{}/connectors", cluster.namespace);
    let (mut names, mut next) = (Vec::new(), String::new());
    for _ in 0..3 {
        let (status, page) = cluster.ask("GET", &format!("{path}?limit=3&continue={next}"), None);
        assert_eq!(status, 200, "{page}");
        let items = page["items"].as_array().expect("items");
        names.extend(items.iter().map(|item| item["metadata"]["name"].to_string()));
        next = page["metadata"]["continue"].as_str().unwrap_or_default().to_owned();
    }
    names.dedup();
    assert_eq!((names.len(), next.as_str()), (7, ""));
}

#[test]
fn what_the_api_does_not_have_it_refuses() {
    let cluster = Cluster::new();
    let own = &cluster.namespace;
    cluster.connect("harbor", "https://harbor.example.com");
    let connector =
        format!("/apis/connectors.alauda.io/v1alpha1/namespaces/{own}/connectors/harbor");
    let json = "application/json";
    let strategic = "application/strategic-merge-patch+json";
    let empty = json!({});
    let elsewhere = json!({
        "apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s", "namespace": "nowhere"},
    });
    let rows = [
        ("GET", "/apis/nobody.example/v1/things".to_owned(), None, (404, "NotFound")),
        ("GET", format!("{connector}-not"), None, (404, "NotFound")),
        ("GET", format!("{connector}/scale"), None, (404, "NotFound")),
        ("POST", connector.clone(), Some((json, &empty)), (405, "MethodNotAllowed")),
        ("PATCH", connector, Some((strategic, &empty)), (415, "UnsupportedMediaType")),
        (
            "POST",
            "/api/v1/namespaces/nowhere/secrets".to_owned(),
            Some((json, &elsewhere)),
            (404, "NotFound"),
        ),
    ];
    for (method, path, body, expected) in rows {
        let answer = cluster.ask(method, &path, body);
        // A path beyond every resource is not always answered with a Status.
        let (code, reason) = reason(&answer);
        assert_eq!(code, expected.0, "{method} {path}: {}", answer.1);
        assert!(reason == expected.1 || reason.is_empty(), "{method} {path}: {reason}");
    }
}
