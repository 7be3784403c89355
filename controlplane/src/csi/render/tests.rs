use std::sync::Arc;

use dataplane::vocabulary::ConnectorRef;
use expect_test::{Expect, expect};
use serde_json::json;

use super::*;
use crate::crd;
use crate::csi::attributes::{Params, Pod};
use crate::csi::facts::{ClassFacts, ConnectorFacts, Trust};

const TOKEN: &str = "eyJhbGciOiJub25lIn0.e30.c2lnbmF0dXJl";

/// The connector `reference` whose status has the proxy `url`.
fn connector(reference: &str, url: &str) -> ConnectorFacts {
    at(reference, url, "https://harbor.example.com")
}

fn at(reference: &str, url: &str, address: &str) -> ConnectorFacts {
    let (namespace, name) = reference.split_once('/').unwrap();
    let object: crd::Connector = serde_json::from_value(json!({
        "apiVersion": "connectors.alauda.io/v1alpha1",
        "kind": "Connector",
        "metadata": {"name": name, "namespace": namespace, "labels": {"team": "blue"}},
        "spec": {"connectorClassName": "harbor", "address": address},
        "status": {"proxy": {"httpAddress": {"url": url}}},
    }))
    .unwrap();
    ConnectorFacts::new(ConnectorRef::new(namespace, name), &object, None).unwrap()
}

const HARBOR: &str = "http://c-harbor.ci.svc.cluster.local";

fn asked(configurations: &[&str], excluded: &[&str], params: serde_json::Value) -> Asked {
    let text = |list: &[&str]| list.iter().map(|text| (*text).to_owned()).collect();
    let pod = Pod {
        name: "job".to_owned(),
        namespace: "ci".to_owned(),
        uid: "5c8a".to_owned(),
        account: "builder".to_owned(),
    };
    let params: Params = serde_json::from_value(params).unwrap();
    Asked {
        pod,
        connectors: Vec::new(),
        configurations: text(configurations),
        excluded: text(excluded),
        params,
        expiration: None,
    }
}

fn class(configurations: serde_json::Value) -> ClassFacts {
    let spec = json!({"spec": {"configurations": configurations}, "metadata": {"name": "harbor"},
        "apiVersion": "connectors.alauda.io/v1alpha1", "kind": "ConnectorClass"});
    ClassFacts::new("harbor", Some(&serde_json::from_value(spec).unwrap()))
}

fn rendered(
    connectors: &[ConnectorFacts],
    asked: &Asked,
    class: ClassFacts,
) -> Result<Files, Refusal> {
    let trust = Trust { own: Some("-- ours --\n".to_owned()), system: "-- system --\n".into() };
    let direct =
        Direct { cluster_domain: "cluster.local".to_owned(), more: vec!["10.96.0.1".into()] };
    let classes = [Arc::new(class)];
    render(
        asked,
        &Facts { connectors, classes: &classes, token: TOKEN, trust: &trust, direct: &direct },
    )
}

fn files(connectors: &[ConnectorFacts], asked: &Asked) -> Files {
    rendered(connectors, asked, class(json!([]))).unwrap()
}

/// One file's text.
fn text(files: &Files, name: &str) -> String {
    let content = files.iter().find(|(file, _)| *file == name).map(|(_, content)| content);
    String::from_utf8(content.unwrap_or_else(|| panic!("no {name}")).to_vec()).unwrap()
}

fn check(files: &Files, expected: &Expect) {
    let all: Vec<String> = files
        .iter()
        .map(|(name, content)| format!("== {name}\n{}\n", String::from_utf8_lossy(content)))
        .collect();
    expected.assert_eq(&all.concat());
}

#[test]
fn every_volume_has_these_files() {
    let files = files(&[connector("ci/harbor", HARBOR)], &asked(&[], &[], json!({})));
    check(
        &files,
        &expect![[r#"
        == .env
        http_proxy=http://ci%2Fharbor:eyJhbGciOiJub25lIn0.e30.c2lnbmF0dXJl@c-harbor.ci.svc.cluster.local:80
        https_proxy=http://ci%2Fharbor:eyJhbGciOiJub25lIn0.e30.c2lnbmF0dXJl@c-harbor.ci.svc.cluster.local:80
        no_proxy=localhost,127.0.0.1,::1,.svc,.svc.cluster.local,.cluster.local,kubernetes.default,10.96.0.1

        == ca-bundle.crt
        -- system --
        -- ours --

        == ca.cert
        -- ours --

        == ca.crt
        -- ours --

        == connector.status.proxyAddress
        http://c-harbor.ci.svc.cluster.local
        == context.proxy.caCert
        -- ours --

        == context.token
        eyJhbGciOiJub25lIn0.e30.c2lnbmF0dXJl
        == http.proxy
        http://ci%2Fharbor:eyJhbGciOiJub25lIn0.e30.c2lnbmF0dXJl@c-harbor.ci.svc.cluster.local:80
        == https.proxy
        http://ci%2Fharbor:eyJhbGciOiJub25lIn0.e30.c2lnbmF0dXJl@c-harbor.ci.svc.cluster.local:80
    "#]],
    );
}

#[test]
fn configurations_are_what_tools_read() {
    let names = ["config", "registry-config", "buildkitd", "harbor-cli-config"];
    let hidden = [
        ".env",
        "http.proxy",
        "https.proxy",
        "context.token",
        "ca.crt",
        "ca.cert",
        "ca-bundle.crt",
        "context.proxy.caCert",
        "connector.status.proxyAddress",
    ];
    let connectors = [
        connector("ci/harbor", HARBOR),
        connector("ops/other", "http://10.0.0.7:31567/namespaces/ops/connectors/other"),
    ];
    check(
        &files(&connectors, &asked(&names, &hidden, json!({}))),
        &expect![[r#"
        == HARBOR_ENCRYPTION_KEY
        BaMz7thBxIQdLZUTQdzFavXTocdggZaa3gwP9oh/LUs=
        == buildkitd.toml
        insecure-entitlements = ["network.host", "security.insecure"]

        [registry."10.0.0.7:31567"]
        http = true

        [registry."c-harbor.ci.svc.cluster.local"]
        http = true

        == config.json
        {
          "auths": {
            "10.0.0.7:31567": {
              "auth": "Y29ubmVjdG9yOmV5SmhiR2NpT2lKdWIyNWxJbjAuZTMwLmMybG5ibUYwZFhKbA=="
            },
            "c-harbor.ci.svc.cluster.local": {
              "auth": "Y29ubmVjdG9yOmV5SmhiR2NpT2lKdWIyNWxJbjAuZTMwLmMybG5ibUYwZFhKbA=="
            }
          }
        }
        == config.yaml
        current-credential-name: ci/harbor
        credentials:
        - name: ci/harbor
          username: connector-proxy
          password: BhjAWoW+RQSq8Ewjj4Xm8+wSZrd29eY8+EeX7iLPkrKNp6snyWaT7gdW3MrB
          serveraddress: https://harbor.example.com
        - name: ops/other
          username: connector-proxy
          password: O6sQTrXvjfRp19sRuQE6iVW1cBaioampcgvKiXU6uBHuDZeY2i7VgC6uDD9e
          serveraddress: https://harbor.example.com

    "#]],
    );
}

#[test]
fn several_connectors_share_one_proxy_url() {
    let connectors = [
        connector("ci/a", "http://c-a.ci.svc.cluster.local"),
        connector("ops/b", "http://c-b.ops.svc.cluster.local:8080"),
    ];
    let files = files(&connectors, &asked(&[], &[], json!({})));
    let expected = format!("http://ci%2Fa,ops%2Fb:{TOKEN}@c-b.ops.svc.cluster.local:8080");
    assert_eq!(text(&files, "http.proxy"), expected);
}

#[test]
fn buildkit_is_told_of_tls_where_there_is_tls() {
    let toml = |url: &str, params: serde_json::Value| {
        let asked = asked(&["buildkitd"], &[], json!({"buildkitd": params}));
        rendered(&[connector("ci/harbor", url)], &asked, class(json!([])))
            .map(|files| text(&files, "buildkitd.toml"))
    };
    let expected = "[registry.\"c-harbor.ci.svc.cluster.local\"]\nca = [\"/connectors/ca.crt\"]\n";
    let params = json!({"tls": "true", "mountPath": "/connectors/", "entitlements": "false"});
    assert_eq!(toml(HARBOR, params.clone()).unwrap(), expected);
    assert_eq!(toml("https://c-harbor.ci.svc.cluster.local", params).unwrap(), expected);
    for (params, expected) in [
        (json!({"tls": "true"}), "needs the parameter \"mountPath\""),
        (json!({"tls": "yes"}), "is \"true\" or \"false\""),
        (json!({"mountPath": "x", "tls": "true"}), "absolute path"),
        (json!({"tsl": "true"}), "no parameter \"tsl\": it has entitlements, mountPath, tls"),
    ] {
        let refusal = toml(HARBOR, params).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{refusal}");
    }
}

#[test]
fn loopback_and_cluster_names_are_reached_directly_but_a_registry_never_is() {
    let direct = |address: &str, url: &str| {
        let env =
            text(&files(&[at("ci/harbor", url, address)], &asked(&[], &[], json!({}))), ".env");
        env.lines().last().unwrap().to_owned()
    };
    assert_eq!(
        direct("https://harbor.example.com", "http://proxy.example.org:31567"),
        "no_proxy=localhost,127.0.0.1,::1,.svc,.svc.cluster.local,.cluster.local,\
         kubernetes.default,10.96.0.1,proxy.example.org"
    );
    assert_eq!(
        direct("http://harbor.harbor.svc.cluster.local", HARBOR),
        "no_proxy=localhost,127.0.0.1,::1,.svc,kubernetes.default,10.96.0.1,\
         c-harbor.ci.svc.cluster.local"
    );
}

#[test]
fn a_class_renders_its_own_configurations() {
    let class = class(json!([
        {"name": "netrc", "params": [{"name": "login", "default": "u"}, {"name": "port"}],
         "data": {
            ".netrc": "{{ $url := urlParse .connector.status.proxyAddress -}}\n\
                machine {{ $url.host }}:{{ .configurations.port }} login {{ .configurations.login }} \
                password {{ .context.token }}\n",
            "auth": "{{ printf \":%s\" \"x\" | b64enc }} {{ .connector.metadata.labels.team | upper }}",
            "all": "{{ range $i, $c := .connectors }}{{ if $i }},{{ end }}{{ $c.metadata.name }}{{ end }}",
            "http.proxy": "mine",
         }},
        {"name": "config", "data": {"config.json": "{}"}},
    ]));
    let asked = asked(&["netrc", "config"], &["ca-bundle.crt"], json!({"netrc": {"port": "81"}}));
    let connectors = [connector("ci/a", HARBOR), connector("ci/b", HARBOR)];
    let files = rendered(&connectors, &asked, class).unwrap();
    assert_eq!(
        text(&files, ".netrc"),
        format!("machine c-harbor.ci.svc.cluster.local:81 login u password {TOKEN}\n")
    );
    assert_eq!(text(&files, "auth"), "Ong= BLUE");
    assert_eq!(text(&files, "all"), "a,b");
    assert_eq!(text(&files, "http.proxy"), "mine");
    assert_eq!(text(&files, "config.json"), "{}");
    assert!(!files.contains("ca-bundle.crt"));
}

#[test]
fn what_a_template_cannot_do_is_refused_by_name() {
    let refusal = |template: &str, file: &str, params: serde_json::Value| {
        let class = class(json!([{"name": "x", "data": {file: template},
            "params": [{"name": "p", "default": "1", "enum": ["1", "2"]}]}]));
        let asked = asked(&["x"], &[], json!({"x": params}));
        rendered(&[connector("ci/a", HARBOR)], &asked, class).unwrap_err().to_string()
    };
    for (template, expected) in [
        ("{{ genPrivateKey \"rsa\" }}", "the function genPrivateKey is not supported"),
        ("{{ if false }}{{ lookup \"v1\" }}{{ end }}", "the function lookup is not supported"),
        ("{{ .Secret.StringData.password }}", ""),
        ("{{ .connector.metadata.labels.nothing }}", "a value that is not there"),
        ("{{ range $i := 100000000 }}x{{ end }}", ""),
        ("{{ if }}", ""),
        ("{{ index .context.token .context.token }}", ""),
        ("{{ urlParse .context.token }}", ""),
        ("{{ define \"a\" }}{{ template \"a\" }}{{ end }}{{ template \"a\" }}", ""),
    ] {
        let refusal = refusal(template, "f", json!({}));
        assert!(
            refusal.starts_with("failed to generate configuration: \"f\" of \"x\""),
            "{refusal}"
        );
        assert!(refusal.contains(expected), "{refusal}");
        assert!(!refusal.contains(TOKEN), "{refusal}");
    }
    assert!(refusal("", "../f", json!({})).contains("has a file \"../f\""));
    assert!(refusal("", "f", json!({"p": "3"})).contains("is one of \"1\", \"2\""));
    assert!(refusal("", "f", json!({"q": "3"})).contains("has no parameter \"q\": it has p"));
}

#[test]
fn names_that_are_none_are_refused() {
    let refusal = |names: &[&str], excluded: &[&str]| {
        let asked = asked(names, excluded, json!({}));
        rendered(&[connector("ci/a", HARBOR)], &asked, class(json!([]))).unwrap_err().to_string()
    };
    assert_eq!(
        refusal(&["confg"], &[]),
        "unknown configuration \"confg\": there are buildkitd, config, harbor-cli-config, \
         registry-config"
    );
    assert!(refusal(&[], &["config.json"]).contains("leaves out the file \"config.json\""));
}
