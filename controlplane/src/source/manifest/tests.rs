use expect_test::expect;

use super::*;

fn objects(text: &str) -> Result<Objects, Unreadable> {
    let mut objects = Objects::default();
    read(&"a.yaml".into(), text.as_bytes(), &mut objects)?;
    Ok(objects)
}

fn refused(text: &str) -> String {
    objects(text).expect_err("is refused").to_string()
}

#[test]
fn a_file_holds_any_number_of_documents_and_lists() {
    let objects = objects(
        r#"
# A comment before the first document.
---
apiVersion: connectors.alauda.io/v1alpha1
kind: Connector
metadata: {name: harbor, namespace: ci}
spec: {address: "https://harbor.example.com"}
---
---
apiVersion: v1
kind: List
items:
- {apiVersion: v1, kind: Secret, metadata: {name: a}}
- {apiVersion: v1, kind: Pod, metadata: {name: b}}
---
apiVersion: rbac.authorization.k8s.io/v1
kind: RoleList
items:
- {metadata: {name: r, namespace: ci}, rules: []}
"#,
    )
    .unwrap();
    let names: Vec<String> = [&objects.connectors[0].named, &objects.secrets[0].named]
        .into_iter()
        .chain([&objects.roles[0].named])
        .map(ToString::to_string)
        .collect();
    assert_eq!(names, ["Connector ci/harbor", "Secret default/a", "Role ci/r"]);
    assert_eq!(objects.roles[0].place.to_string(), "a.yaml, document 3");
}

#[test]
fn anchors_and_json_are_yaml() {
    let objects = objects(
        r#"{"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "a"}, "type": "x"}
---
apiVersion: v1
kind: Secret
metadata: {name: &name b, labels: {app: *name}}
"#,
    )
    .unwrap();
    assert_eq!(objects.secrets[1].object.metadata.labels.as_ref().unwrap()["app"], "b");
}

#[test]
fn string_data_wins_over_data() {
    let objects = objects(
        "{apiVersion: v1, kind: Secret, metadata: {name: a}, data: {k: b2xk, l: b2xk}, \
         stringData: {k: new, n: '007'}}",
    )
    .unwrap();
    let values = &objects.secrets[0].object.values;
    let value = |key: &str| String::from_utf8(values[key].to_vec()).unwrap();
    assert_eq!([value("k"), value("l"), value("n")], ["new", "old", "007"]);
}

#[test]
fn fields_that_the_schema_does_not_know_are_noted() {
    let objects = objects(
        "{apiVersion: connectors.alauda.io/v1alpha1, kind: Connector, metadata: {name: h}, \
         spec: {adress: x, auth: {secretref: {name: s}}, params: [{name: p, value: {any: 1}}]}}",
    )
    .unwrap();
    assert_eq!(objects.connectors[0].unknown_fields, ["spec.adress", "spec.auth.secretref"]);
}

#[test]
fn what_cannot_be_read_is_named_with_file_document_and_line() {
    let texts = [
        "apiVersion: v1\nkind: Pod\nmetadata: {name: a}\n---\nc: [",
        "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\n---\nhello",
        "{apiVersion: v1, kind: Secret}",
        "{apiVersion: connectors.alauda.io/v1, kind: Connector, metadata: {name: h}}",
        "{apiVersion: connectors.alauda.io/v1alpha1, kind: Connector, metadata: {name: h}, \
         spec: {address: [1]}}",
        "a: 1\na: 2",
    ];
    let all: Vec<String> = texts.into_iter().map(refused).collect();
    expect![[r#"
        a.yaml, document 2: not YAML: unclosed bracket '[' at line 5, column 4
        a.yaml, document 2: the document has no apiVersion and kind: is it a Kubernetes manifest?
        a.yaml, document 1: Secret has no metadata.name: add one
        a.yaml, document 1: Connector has apiVersion "connectors.alauda.io/v1": write connectors.alauda.io/v1alpha1
        a.yaml, document 1: Connector default/h: invalid type: sequence, expected a string
        a.yaml, document 1: not YAML: duplicate mapping key `a` is not allowed here at line 2, column 1"#]].assert_eq(&all.join("\n"));
}

#[test]
fn an_alias_bomb_is_refused() {
    let mut text = String::from("a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n");
    for level in 1..12 {
        let before = level - 1;
        let row = vec![format!("*a{before}"); 10].join(", ");
        text.push_str(&format!("a{level}: &a{level} [{row}]\n"));
    }
    assert!(refused(&text).contains("not YAML"));
}

#[test]
fn a_secret_that_cannot_be_decoded_costs_no_other_object() {
    for rest in [
        "metadata: {name: a}, data: {password: hunter2!}",
        "metadata: {name: a}, data: hunter2",
        "metadata: {name: a, labels: hunter2}, data: {}",
        "metadata: {name: a}, stringData: {p: [hunter2]}",
    ] {
        let objects = objects(&format!("{{apiVersion: v1, kind: Secret, {rest}}}")).unwrap();
        let secret = &objects.secrets[0].object;
        assert!(secret.values.is_empty(), "{rest}");
        assert!(secret.defect.is_some_and(|what| !what.contains("hunter2")), "{rest}");
    }
}

#[test]
fn a_text_that_is_not_yaml_is_refused_without_its_values() {
    for text in [
        "apiVersion: v1\nkind: Secret\nstringData:\n  password: hunter2\n x: 'hunter2",
        "apiVersion: v1\nkind: Secret\nstringData:\n  password: *hunter2",
        "apiVersion: v1\nkind: Secret\nstringData:\n  password: !!int hunter2",
        "apiVersion: v1\nkind: Secret\nstringData:\n  password: !!float hunter2",
        "apiVersion: v1\nkind: Secret\nstringData:\n  password: !!bool hunter2",
        "apiVersion: v1\nkind: Secret\ndata:\n  password: !!binary hunter2",
        "apiVersion: v1\nkind: Secret\nstringData:\n  <<: hunter2",
        "apiVersion: v1\nkind: Secret\nstringData:\n  password: \"hunter2\\q\"",
    ] {
        let message = objects(text).map_err(|cause| cause.to_string()).err();
        assert!(message.is_none_or(|message| !message.contains("hunter2")), "{text}");
    }
}
