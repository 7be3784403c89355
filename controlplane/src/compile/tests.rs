use dataplane::vocabulary::{ApiPolicy, Trust};
use expect_test::expect;

use super::*;
use crate::source::manifest;

/// A connector in namespace `ci` whose spec has these lines, and the Secrets it may name.
fn with_spec(lines: &str) -> Compiled {
    compiled(&format!(
        "apiVersion: connectors.alauda.io/v1alpha1\nkind: Connector\n\
         metadata: {{name: harbor, namespace: ci}}\nspec: {{{lines}}}\n---\n{SECRETS}"
    ))
}

const SECRETS: &str = r#"
apiVersion: v1
kind: SecretList
items:
- {metadata: {name: good, namespace: ci}, type: kubernetes.io/basic-auth,
   stringData: {username: robot, password: hunter2}}
- {metadata: {name: elsewhere, namespace: prod}, type: kubernetes.io/basic-auth,
   stringData: {username: robot, password: hunter2}}
- {metadata: {name: echoed, namespace: ci}, type: kubernetes.io/basic-auth,
   data: {username: cm9ib3Q=, password: aHVudGVyMgo=}}
- {metadata: {name: opaque, namespace: ci}, stringData: {username: robot, password: hunter2}}
- {metadata: {name: not-a-ca, namespace: ci}, stringData: {ca.crt: hunter2}}
"#;

const BASE: &str = "connectorClassName: harbor, address: 'https://harbor.example.com'";

fn compiled(text: &str) -> Compiled {
    let mut objects = Objects::default();
    manifest::read(&"a.yaml".into(), text.as_bytes(), &mut objects).unwrap();
    compile(&objects, &Arc::new(Trust { id: 0, anchors: Vec::new() }))
}

fn problems(compiled: &Compiled) -> String {
    compiled.problems.iter().map(|problem| format!("{problem}\n")).collect()
}

/// The access of the one connector in a word, and the problems.
fn access(lines: &str) -> (String, String) {
    let compiled = with_spec(lines);
    let access = match compiled.connectors.first().map(|connector| &connector.access) {
        None => "left out".to_owned(),
        Some(Access::Anonymous) => "anonymous".to_owned(),
        Some(Access::Unready(reason)) => reason.to_string(),
        Some(Access::Credential(credential)) => {
            String::from_utf8(credential.authorization.expose().to_vec()).unwrap()
        }
    };
    (access, problems(&compiled))
}

#[test]
fn a_connector_is_compiled_whole() {
    let compiled = with_spec(
        &format!(
            "{BASE}/prefix', auth: {{name: basicAuth, secretRef: {{name: good}}}}, \
         addressExtensions: [{{name: public, value: 'http://public.example:8080'}}], \
         params: [{{name: api, value: full}}]"
        )
        .replace("com'/prefix'", "com/prefix'"),
    );
    assert_eq!(problems(&compiled), "");
    let connector = &compiled.connectors[0];
    assert_eq!(connector.reference.to_string(), "ci/harbor");
    assert_eq!(connector.origin.to_string(), "https://harbor.example.com");
    assert_eq!(&*connector.base_path, "/prefix");
    assert_eq!(connector.aliases[0].to_string(), "http://public.example:8080");
    assert_eq!(connector.api, ApiPolicy::Full);
}

#[test]
fn a_credential_is_there_or_a_reason_why_not() {
    let auth = |secret: &str| format!("{BASE}, auth: {{name: basicAuth, secretRef: {secret}}}");
    for (lines, expected) in [
        (BASE.to_owned(), "anonymous"),
        (format!("{BASE}, auth: {{name: basicAuth}}"), "anonymous"),
        (auth("{name: good}"), "Basic cm9ib3Q6aHVudGVyMg=="),
        (auth("{name: good, namespace: ci}"), "Basic cm9ib3Q6aHVudGVyMg=="),
        (auth("{name: absent}"), "SecretNotFound"),
        (auth("{}"), "SecretNotFound"),
        (auth("{name: elsewhere}"), "SecretNotFound"),
        (auth("{name: elsewhere, namespace: prod}"), "InvalidSecret"),
        (auth("{name: echoed}"), "InvalidSecret"),
        (auth("{name: opaque}"), "InvalidSecret"),
        (format!("{BASE}, auth: {{name: bearer, secretRef: {{name: good}}}}"), "InvalidAuth"),
        (format!("{BASE}, caCertSecretRef: {{name: not-a-ca}}"), "InvalidPEM"),
        (format!("{BASE}, caCertSecretRef: {{name: absent}}"), "SecretNotFound"),
    ] {
        let (access, problems) = access(&lines);
        assert_eq!(access, expected, "{lines}");
        let ready = access == "anonymous" || access.starts_with("Basic ");
        assert_eq!(problems.is_empty(), ready, "{lines}: {problems}");
        assert!(!problems.contains("hunter2"), "{problems}");
    }
}

#[test]
fn every_problem_says_what_to_do() {
    let texts = [
        "address: 'https://h.example'",
        "connectorClassName: git, address: 'https://h.example'",
        "connectorClassName: harbor",
        "connectorClassName: harbor, address: 'ftp://h.example'",
        "connectorClassName: harbor, address: 'https://robot:hunter2@h.example'",
        "connectorClassName: harbor, address: 'https://h.example', adress: x",
        "connectorClassName: harbor, address: 'https://h.example', params: [{name: x, value: y}]",
        "connectorClassName: harbor, address: 'https://h.example', params: [{name: api, value: 1}]",
        "connectorClassName: harbor, address: 'https://h.example', \
         addressExtensions: [{name: a, value: 'https://h.example/'}, {name: b, value: 1}]",
        "connectorClassName: harbor, address: 'https://h.example', \
         auth: {name: basicAuth, secretRef: {name: echoed}}",
        "connectorClassName: harbor, address: 'https://h.example', \
         auth: {name: basicAuth, secretRef: {name: good, namespace: prod}}",
        "connectorClassName: harbor, address: 'https://h.example', \
         auth: {name: basicAuth, secretRef: {name: absent}}, caCertSecretRef: {name: not-a-ca}",
    ];
    let all: String = texts.into_iter().map(|text| problems(&with_spec(text))).collect();
    assert!(!all.contains("hunter2"));
    expect![[r#"
        a.yaml, document 1: Connector ci/harbor: spec.connectorClassName is missing: write harbor
        a.yaml, document 1: Connector ci/harbor: connectorclass.connectors.alauda.io "git" not found: write harbor
        a.yaml, document 1: Connector ci/harbor: spec.address is missing: write the registry's URL, such as https://harbor.example.com
        a.yaml, document 1: Connector ci/harbor: spec.address "ftp://h.example" is not an http or https URL: write one such as https://harbor.example.com
        a.yaml, document 1: Connector ci/harbor: spec.address has a user or password in it: put them into the Secret
        a.yaml, document 1: Connector ci/harbor: spec.adress is not a field of this kind and is ignored: check its spelling
        a.yaml, document 1: Connector ci/harbor: spec.params has "x", which the class does not declare: remove it
        a.yaml, document 1: Connector ci/harbor: the parameter api is 1: write off, read or full
        a.yaml, document 1: Connector ci/harbor: spec.addressExtensions a repeats an address that the connector has already: remove it
        a.yaml, document 1: Connector ci/harbor: spec.addressExtensions b is not an http or https URL: write one such as https://harbor.example.com
        a.yaml, document 1: Connector ci/harbor: secret "echoed" has a line end after its password, as `echo … | base64` leaves one: encode it with `echo -n`, or use stringData
        a.yaml, document 1: Connector ci/harbor: spec.auth.secretRef.namespace "prod" is not the connector's own: move the Secret beside the Connector
        a.yaml, document 1: Connector ci/harbor: secrets "absent" not found: create it in the connector's namespace, or remove spec.auth
        a.yaml, document 1: Connector ci/harbor: secret "not-a-ca" contains invalid PEM data: put the registry's CA certificate under a key that ends in .crt or .pem
    "#]].assert_eq(&all);
}

fn connector(name: &str, address: &str) -> String {
    format!(
        "---\napiVersion: connectors.alauda.io/v1alpha1\nkind: Connector\n\
         metadata: {{name: {name}, namespace: ci}}\n\
         spec: {{connectorClassName: harbor, address: '{address}'}}\n"
    )
}

#[test]
fn a_broken_connector_costs_no_other() {
    let text = connector("a", "nonsense") + &connector("b", "https://b.example");
    let compiled = compiled(&text);
    assert_eq!(compiled.connectors.len(), 1);
    assert_eq!(&compiled.connectors[0].reference.to_string(), "ci/b");
    assert_eq!(compiled.problems.len(), 1);
}

#[test]
fn of_two_connectors_of_one_name_the_first_counts() {
    let text = connector("a", "https://first.example") + &connector("a", "https://second.example");
    let compiled = compiled(&text);
    assert_eq!(compiled.connectors[0].origin.to_string(), "https://first.example");
    expect![[r#"
        a.yaml, document 2: Connector ci/a: written a second time, and the one in a.yaml, document 1 counts: remove one of them
    "#]].assert_eq(&problems(&compiled));
}

#[test]
fn a_name_must_fit_into_a_service_name() {
    for (name, good) in [("a".repeat(61), true), ("a".repeat(62), false), ("a.b".into(), false)] {
        let compiled = compiled(&connector(&name, "https://h.example"));
        assert_eq!(compiled.connectors.len() == 1, good, "{name}");
    }
}

#[test]
fn the_class_sets_the_api_policy_that_a_connector_may_override() {
    let class = |name: &str, default: &str| {
        format!(
            "---\napiVersion: connectors.alauda.io/v1alpha1\nkind: ConnectorClass\n\
             metadata: {{name: {name}}}\n\
             spec: {{params: [{{name: api, type: string, default: {default}}}]}}\n"
        )
    };
    let plain = connector("a", "https://h.example");
    let own = plain.replace("spec: {", "spec: {params: [{name: api, value: 'read'}], ");
    for (text, expected) in [
        (plain.clone(), ApiPolicy::Read),
        (class("harbor", "'off'") + &plain, ApiPolicy::Off),
        (class("harbor", "full") + &plain, ApiPolicy::Full),
        (class("harbor", "full") + &own, ApiPolicy::Read),
        (class("other", "full") + &plain, ApiPolicy::Read),
    ] {
        let compiled = compiled(&text);
        assert_eq!(compiled.connectors[0].api, expected, "{text}");
        assert_eq!(problems(&compiled), "");
    }
}
