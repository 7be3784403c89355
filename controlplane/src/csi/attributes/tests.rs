use super::*;

/// The kubelet's part and these attributes.
fn read(attributes: &[(&str, &str)]) -> Result<Asked, Refusal> {
    let kubelet = [
        (POD_NAME, "job"),
        (POD_NAMESPACE, "ci"),
        (POD_UID, "uid"),
        (ACCOUNT, "builder"),
        (EPHEMERAL, "true"),
        ("csi.storage.k8s.io/something.new", "x"),
    ];
    let all = kubelet.iter().chain(attributes);
    Asked::read(&all.map(|(key, value)| ((*key).to_owned(), (*value).to_owned())).collect())
}

fn connectors_of(attributes: &[(&str, &str)]) -> String {
    match read(attributes) {
        Ok(asked) => {
            asked.connectors.iter().map(ConnectorRef::as_str).collect::<Vec<_>>().join(" ")
        }
        Err(refusal) => refusal.to_string(),
    }
}

#[test]
fn connectors_are_named_in_the_new_form_or_in_the_older_one() {
    assert_eq!(connectors_of(&[("connectors", "ops/a, b")]), "ops/a ci/b");
    assert_eq!(connectors_of(&[("connector.name", "harbor")]), "ci/harbor");
    let both = [("connector.name", "harbor"), ("connector.namespace", "ops")];
    assert_eq!(connectors_of(&both), "ops/harbor");
}

#[test]
fn a_name_that_no_connector_has_goes_no_further() {
    let long = "x".repeat(62);
    for name in ["../etc", "a/b/c", "a\nb", "{{.x}}", "A", "a.b", "a,", ",", "/", "a/", &long] {
        let refusal = read(&[("connectors", name)]).unwrap_err();
        assert!(matches!(refusal, Refusal::ConnectorName(_)), "{name}: {refusal}");
    }
    for (attributes, expected) in [
        (&[][..], "no connector is named"),
        (&[("connectors", "a"), ("connector.name", "a")], "stands beside connector.name"),
        (&[("connectors", "a,ci/a")], "ci/a is named twice"),
        (&[("connectors", " ")], "is empty"),
        (&[("connector.name", "ops/a")], "is no connector's name"),
        (&[("connector.nmae", "a")], "unknown volume attribute \"connector.nmae\""),
        (&[("connectors", "a"), ("../x", "")], "unknown volume attribute \"../x\""),
    ] {
        let refusal = read(attributes).unwrap_err().to_string();
        assert!(refusal.contains(expected), "{attributes:?}: {refusal}");
    }
    let many: Vec<String> = (0..17).map(|number| format!("c{number}")).collect();
    assert!(matches!(read(&[("connectors", &many.join(","))]), Err(Refusal::ConnectorsMany(16))));
}

#[test]
fn configurations_and_excluded_files_are_told_apart() {
    let names = "config,buildkitd, !context.token,!.env,config";
    let asked = read(&[("connectors", "a"), ("configuration.names", names)]).unwrap();
    assert_eq!(asked.configurations, ["config", "buildkitd"]);
    assert_eq!(asked.excluded, ["context.token", ".env"]);
    for bad in ["!", "!../x", "a,,b", "!..data", "a b", "!/etc/passwd", "{{x}}", "a\nb"] {
        let refusal = read(&[("connectors", "a"), ("configuration.names", bad)]).unwrap_err();
        assert!(matches!(refusal, Refusal::ConfigurationName(_)), "{bad:?}: {refusal}");
    }
    let refusal = read(&[("connectors", "a"), ("configuration.names", "")]).unwrap_err();
    assert!(matches!(refusal, Refusal::AttributeEmpty("configuration.names")));
}

#[test]
fn parameters_are_json_of_texts_and_no_more_than_there_may_be() {
    let with = |params: &str| {
        let names = ("configuration.names", "buildkitd");
        read(&[("connectors", "a"), names, ("configuration.params", params)])
    };
    let asked = with(r#"{"buildkitd": {"tls": "true"}}"#).unwrap();
    assert_eq!(asked.params["buildkitd"]["tls"], "true");
    for bad in ["{", "[]", r#"{"buildkitd": "x"}"#, r#"{"buildkitd": {"tls": true}}"#] {
        assert!(matches!(with(bad), Err(Refusal::Params(_))), "{bad}");
    }
    assert!(matches!(with(r#"{"config": {}}"#), Err(Refusal::ParamsUnused(_))));
    let large = format!(r#"{{"buildkitd": {{"tls": "{}"}}}}"#, "x".repeat(1 << 20));
    assert!(matches!(with(&large), Err(Refusal::AttributeLong("configuration.params", _))));
}

#[test]
fn an_expiration_is_a_duration_of_ten_minutes_or_more() {
    for (text, seconds) in [("30m", 1800), ("1h", 3600), ("1h30m5s", 5405), ("600s", 600)] {
        let asked = read(&[("connectors", "a"), ("token.expiration", text)]).unwrap();
        assert_eq!(asked.expiration, Some(Duration::from_secs(seconds)), "{text}");
    }
    for bad in ["9m", "1", "h", "-1h", "1d", "1.5h", "9999999999h", "1h ago"] {
        let refusal = read(&[("connectors", "a"), ("token.expiration", bad)]).unwrap_err();
        assert!(matches!(refusal, Refusal::Expiration(_)), "{bad}: {refusal}");
    }
}

#[test]
fn only_an_inline_volume_with_its_pod_is_served() {
    let mut context: HashMap<String, String> =
        [(POD_NAME, "job"), (POD_NAMESPACE, "ci"), (POD_UID, "uid"), (EPHEMERAL, "true")]
            .map(|(key, value)| (key.to_owned(), value.to_owned()))
            .into();
    assert!(matches!(Asked::read(&context), Err(Refusal::FieldMissing(ACCOUNT))));
    context.insert(EPHEMERAL.to_owned(), "false".to_owned());
    assert!(matches!(Asked::read(&context), Err(Refusal::Kind(_))));
}
