//! What the API server itself refuses by the definitions that the program prints, in which words.

use std::fs;
use std::io::Write as _;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::support::{Cluster, eventually};

/// A connector of the story with `spec`.
fn connector(cluster: &Cluster, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "connectors.alauda.io/v1alpha1", "kind": "Connector",
        "metadata": {"name": name, "namespace": cluster.namespace}, "spec": spec,
    })
}

#[test]
fn a_connector_that_cannot_work_is_refused_with_a_word_on_what_to_do() {
    let cluster = Cluster::new();
    let good = json!({"connectorClassName": "harbor", "address": "https://harbor.example.com"});
    let with = |field: &str, value: Value| {
        let mut spec = good.clone();
        spec[field] = value;
        spec
    };
    let without = |field: &str| {
        let mut spec = good.clone();
        spec.as_object_mut().map(|fields| fields.remove(field));
        spec
    };
    let secret = |value: Value| with("auth", json!({"name": "basicAuth", "secretRef": value}));
    let long = "a".repeat(62);
    let rows = [
        ("h", good.clone(), ""),
        ("h", secret(json!({"name": "s"})), ""),
        ("h", with("auth", json!({"name": "basicAuth"})), ""),
        ("h", with("address", json!("http://[fd00::1]:8080/prefix/")), ""),
        ("h.dotted", good.clone(), "no dots"),
        (&long, good.clone(), "at most 61"),
        ("h", without("address"), "write the registry's URL"),
        ("h", without("connectorClassName"), "write harbor"),
        ("h", with("address", json!("harbor.example.com")), "write one such as https://"),
        ("h", with("address", json!("https://u:p@h")), "put them into the Secret"),
        ("h", with("address", json!("https://h/?x")), "remove it"),
        ("h", with("address", json!("https://h.")), "without a trailing dot"),
        ("h", with("address", json!("https://h:0")), "a port from 1 to 65535"),
        ("h", with("auth", json!({"name": "tokenAuth"})), "write basicAuth"),
        ("h", with("auth", json!({"secretRef": {"name": "s"}})), "write basicAuth"),
        ("h", secret(json!({})), "write the Secret's name"),
        ("h", with("caCertSecretRef", json!({})), "write the Secret's name"),
    ];
    for (name, spec, word) in rows {
        let (status, answer) = cluster.try_apply(&connector(&cluster, name, &spec));
        let message = answer["message"].as_str().unwrap_or_default();
        if word.is_empty() {
            assert!(status < 300, "{spec}: {message}");
        } else {
            assert_eq!(
                (status, answer["reason"].as_str()),
                (422, Some("Invalid")),
                "{name} {spec}"
            );
            assert!(message.contains(word), "{spec}: {message}");
        }
    }
    // By apply, a value of the wrong type is an internal error of the API server.
    let path =
        format!("/apis/connectors.alauda.io/v1alpha1/namespaces/{}/connectors", cluster.namespace);
    let wrong = connector(&cluster, "typed", &with("address", json!(7)));
    let (status, answer) = cluster.ask("POST", &path, Some(("application/json", &wrong)));
    let message = answer["message"].as_str().unwrap_or_default();
    assert!(status == 422 && message.contains("must be of type string"), "{status} {message}");
}

/// What no rule of a definition can see; a policy does, a moment after it was made.
#[test]
fn a_connector_whose_secret_is_in_another_namespace_is_refused_and_its_own_may_be_written() {
    let cluster = Cluster::new();
    let naming = |name: &str, namespace: &str| {
        let secret = json!({"name": "s", "namespace": namespace});
        let spec = json!({
            "connectorClassName": "harbor", "address": "https://harbor.example.com",
            "auth": {"name": "basicAuth", "secretRef": secret},
        });
        cluster.try_apply(&connector(&cluster, name, &spec))
    };
    let (status, answer) = eventually("the policy", || {
        Some(naming("foreign", "kube-system")).filter(|answer| answer.0 >= 300)
    });
    let message = answer["message"].as_str().unwrap_or_default();
    assert_eq!((status, answer["reason"].as_str()), (422, Some("Invalid")), "{message}");
    assert!(message.contains("move the Secret beside the Connector"), "{message}");
    for own in [cluster.namespace.as_str(), ""] {
        let (status, answer) = naming("own", own);
        assert!(status < 300, "{own:?}: {answer}");
    }
    let (status, _) = naming("own", "kube-system");
    assert_eq!(status, 422, "nor can it be changed so");
}

#[test]
fn a_connector_from_before_the_policy_may_still_be_labelled() {
    let cluster = Cluster::new();
    let policy = include_str!("../deploy/base/admission.yaml");
    let bindings = "/apis/admissionregistration.k8s.io/v1/validatingadmissionpolicybindings";
    let path = format!("{bindings}/connectors.connectors.alauda.io");
    assert_eq!(cluster.ask("DELETE", &path, None).0, 200);
    let spec = json!({
        "connectorClassName": "harbor", "address": "https://harbor.example.com",
        "auth": {"name": "basicAuth", "secretRef": {"name": "s", "namespace": "kube-system"}},
    });
    let mut old = connector(&cluster, "old", &spec);
    eventually("a connector without the policy", || {
        (cluster.try_apply(&old).0 < 300).then_some(())
    });
    cluster.apply(policy);
    let new = connector(&cluster, "new", &spec);
    eventually("the policy", || (cluster.try_apply(&new).0 == 422).then_some(()));
    old["metadata"]["labels"] = json!({"team": "a"});
    let (status, answer) = cluster.try_apply(&old);
    assert_eq!(status, 200, "{answer}");
    old["spec"]["address"] = "https://harbor.example.org".into();
    assert_eq!(cluster.try_apply(&old).0, 422, "whoever changes it is to mend it");
}

#[test]
fn the_columns_are_the_documented_ones() {
    let cluster = Cluster::new();
    let path = "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/";
    for (name, columns) in [
        ("connectors", &["Class", "Address", "Ready", "Reason", "Age"][..]),
        ("connectorclasses", &["Ready", "Reason", "Age"][..]),
    ] {
        let (status, found) =
            cluster.ask("GET", &format!("{path}{name}.connectors.alauda.io"), None);
        assert_eq!(status, 200);
        let version = &found["spec"]["versions"][0];
        let shown = version["additionalPrinterColumns"].as_array().expect("columns");
        assert_eq!(shown.iter().map(|column| &column["name"]).collect::<Vec<_>>(), columns);
        assert!(version["subresources"]["status"].is_object(), "{found}");
    }
}

#[test]
fn kubernetes_itself_refuses_a_secret_of_another_namespace_by_our_policy() {
    // Only tests/apiextensions has its evaluator; what others would ask is the unit test's.
    let Some(evaluator) = std::env::var_os("HARBOR_CONNECTOR_TEST_POLICY") else {
        return;
    };
    let text = fs::read_to_string(crate::support::deployment::folder().join("base/admission.yaml"));
    let policy = crate::support::cluster::documents(&text.expect("a manifest")).remove(0);
    let rules = policy["spec"]["validations"].as_array().expect("rules");
    let expressions: Vec<&Value> = rules.iter().map(|rule| &rule["expression"]).collect();
    let secret = |namespace: Value| {
        let reference = json!({"name": "s", "namespace": namespace});
        json!({"auth": {"name": "basicAuth", "secretRef": reference}})
    };
    let rows = [
        (json!({}), "true\n"),
        (json!({"auth": {"name": "basicAuth", "secretRef": {"name": "s"}}}), "true\n"),
        (secret("".into()), "true\n"),
        (secret("ci".into()), "true\n"),
        (secret("ops".into()), "false\n"),
    ];
    for (spec, expected) in rows {
        let object = json!({
            "apiVersion": "connectors.alauda.io/v1alpha1", "kind": "Connector",
            "metadata": {"name": "h", "namespace": "ci"}, "spec": spec,
        });
        let question = json!({"expressions": expressions, "object": object}).to_string();
        let mut asked = Command::new(&evaluator)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("the evaluator starts");
        asked.stdin.take().expect("a pipe").write_all(question.as_bytes()).expect("it reads");
        let answer = asked.wait_with_output().expect("it ends");
        assert_eq!(String::from_utf8_lossy(&answer.stdout), expected, "{spec}");
    }
}
