use kube::CustomResourceExt as _;
use kube_cel::cel::{self, Context, Program};

use super::*;

#[test]
fn the_crds_have_the_names_that_users_type() {
    let connector = Connector::crd();
    assert_eq!(connector.metadata.name.as_deref(), Some("connectors.connectors.alauda.io"));
    assert_eq!(connector.spec.scope, "Namespaced");
    let class = ConnectorClass::crd();
    assert_eq!(class.metadata.name.as_deref(), Some("connectorclasses.connectors.alauda.io"));
    assert_eq!(class.spec.scope, "Cluster");
    assert_eq!((GROUP, VERSION), ("connectors.alauda.io", "v1alpha1"));
}

#[test]
fn a_connector_is_read_from_the_published_form() {
    let spec: ConnectorSpec = serde_json::from_value(serde_json::json!({
        "connectorClassName": "harbor",
        "address": "https://harbor.example.com",
        "auth": {"name": "basicAuth", "secretRef": {"name": "harbor-secret"}},
        "caCertSecretRef": {"name": "ca"},
    }))
    .unwrap();
    let name = spec.auth.and_then(|auth| auth.secret_ref).and_then(|secret| secret.name);
    assert_eq!(name.as_deref(), Some("harbor-secret"));
}

/// What the rules of the definition say to a spec.
fn refusals(spec: &Value) -> Vec<String> {
    let definition = serde_json::to_value(Connector::crd()).unwrap();
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let object = serde_json::json!({
        "apiVersion": "connectors.alauda.io/v1alpha1", "kind": "Connector",
        "metadata": {"name": "h"}, "spec": spec,
    });
    match kube_cel::validate(schema, &object, None) {
        Ok(()) => Vec::new(),
        Err(errors) => errors.into_vec().into_iter().map(|error| error.message).collect(),
    }
}

#[test]
fn the_rules_take_every_address_that_compile_takes_and_one_message_says_what_is_wrong() {
    let said = |address: &str| {
        refusals(&serde_json::json!({"connectorClassName": "harbor", "address": address}))
    };
    for good in [
        "https://harbor.example.com",
        "HTTPS://Harbor.Example.COM/",
        "http://harbor:8080/prefix/",
        "https://h.example:443/a/b",
        "http://127.0.0.1:5000",
        "http://[FD00:0::1]:81",
        "https://[::1]",
        "https://h/a.b/~c",
    ] {
        assert_eq!(said(good), [""; 0], "{good}");
    }
    for (bad, word) in [
        ("", "is not an http or https URL"),
        ("harbor.example.com", "is not an http or https URL"),
        ("ftp://h", "is not an http or https URL"),
        ("https:/h", "is not an http or https URL"),
        ("https://user:pass@h", "user or password"),
        ("https://h?x", "query or fragment"),
        ("https://h/#x", "query or fragment"),
        ("https://", "is not plain"),
        ("https:///path", "is not plain"),
        ("https://h:0", "is not plain"),
        ("https://h:080", "is not plain"),
        ("https://h:", "is not plain"),
        ("https://h.", "is not plain"),
        ("https://h..example", "is not plain"),
        ("https://-h", "is not plain"),
        ("https://h_x", "is not plain"),
        ("https://h /", "is not plain"),
        ("https://h\\@evil", "user or password"),
        ("https://b\u{fc}cher.example", "is not plain"),
        ("https://h/a//b", "is not plain"),
        ("https://h/../a", "is not plain"),
        ("https://h/./a", "is not plain"),
        ("https://h/a%2fb", "is not plain"),
    ] {
        let said = said(bad);
        assert!(said.len() == 1 && said[0].contains(word), "{bad}: {said:?}");
    }
}

#[test]
fn the_rules_of_the_definition_are_those_that_were_reviewed() {
    let definition = serde_json::to_value(Connector::crd()).unwrap();
    let version = &definition["spec"]["versions"][0];
    assert_eq!(definition["spec"]["names"]["categories"], serde_json::json!(["alauda"]));
    assert_eq!(version["subresources"], serde_json::json!({"status": {}}));
    let mut rules = Vec::new();
    collect("", &version["schema"]["openAPIV3Schema"], &mut rules);
    expect_test::expect_file!["tests/rules.txt"].assert_eq(&rules.join("\n"));
}

#[test]
fn conditions_are_a_map_so_that_two_programs_can_write_them() {
    for definition in [Connector::crd(), ConnectorClass::crd()] {
        let definition = serde_json::to_value(definition).unwrap();
        let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
        let conditions = &schema["properties"]["status"]["properties"]["conditions"];
        assert_eq!(conditions["x-kubernetes-list-type"], "map");
        assert_eq!(conditions["x-kubernetes-list-map-keys"], serde_json::json!(["type"]));
        assert_eq!(conditions["items"]["required"], serde_json::json!(["status", "type"]));
    }
}

#[test]
fn the_printer_columns_are_the_documented_ones() {
    let columns = |definition: Value| {
        let columns = definition["spec"]["versions"][0]["additionalPrinterColumns"].clone();
        let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
        let shown = |column: &Value| [text(&column["name"]), text(&column["jsonPath"])].join(" ");
        columns.as_array().unwrap().iter().map(shown).collect::<Vec<_>>()
    };
    let ready = [
        "Ready .status.conditions[?(@.type==\"Ready\")].status",
        "Reason .status.conditions[?(@.type==\"Ready\")].reason",
        "Age .metadata.creationTimestamp",
    ];
    let class = columns(serde_json::to_value(ConnectorClass::crd()).unwrap());
    assert_eq!(class, ready);
    let connector = columns(serde_json::to_value(Connector::crd()).unwrap());
    assert_eq!(connector[..2], ["Class .spec.connectorClassName", "Address .spec.address"]);
    assert_eq!(connector[2..], ready);
}

/// The rules of a schema, each with the path of the field that has it.
fn collect(path: &str, schema: &Value, rules: &mut Vec<String>) {
    for rule in schema["x-kubernetes-validations"].as_array().into_iter().flatten() {
        let text = |field: &str| rule[field].as_str().unwrap_or_default().to_owned();
        rules.push(format!("{path}\n  {}\n  {}\n", text("rule"), text("message")));
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        collect(&format!("{path}.{name}"), schema, rules);
    }
}

#[test]
fn the_policy_takes_only_secrets_of_the_connectors_own_namespace() {
    let text = include_str!("../../../deploy/base/admission.yaml");
    let policy: Value = serde_saphyr::from_multiple(text).unwrap().into_iter().next().unwrap();
    let rule = policy["spec"]["validations"][0]["expression"].as_str().unwrap();
    let rule = Program::compile(rule).unwrap();
    let allowed = |operation: &str, before: Option<&str>, now: Option<&str>| {
        let object = |namespace: Option<&str>| {
            let mut secret = serde_json::json!({"name": "s"});
            if let Some(namespace) = namespace {
                secret["namespace"] = namespace.into();
            }
            serde_json::json!({
                "metadata": {"name": "h", "namespace": "ci"},
                "spec": {"auth": {"name": "basicAuth", "secretRef": secret}},
            })
        };
        let old = if operation == "UPDATE" { object(before) } else { Value::Null };
        let request = serde_json::json!({"operation": operation, "namespace": "ci"});
        let mut context = Context::default();
        for (name, value) in [("object", object(now)), ("oldObject", old), ("request", request)] {
            context.add_variable(name, value).unwrap();
        }
        matches!(rule.execute(&context), Ok(cel::Value::Bool(true)))
    };
    for (namespace, expected) in
        [(None, true), (Some("ci"), true), (Some(""), true), (Some("ops"), false)]
    {
        assert_eq!(allowed("CREATE", None, namespace), expected, "{namespace:?}");
        assert_eq!(allowed("UPDATE", None, namespace), expected, "{namespace:?}");
    }
    assert!(allowed("UPDATE", Some("ops"), Some("ops")), "whoever labels it need not mend it");
    assert!(!allowed("UPDATE", Some("ops"), Some("dev")));
}
