//! Rows: what was seen, and what the conditions say about it.

use super::*;
use crate::probe::facts::tests::fact_of;
use crate::registry::Distrust;

const SECRET: &str = "apiVersion: v1\nkind: Secret\nmetadata: {name: s, namespace: ci}\n\
     type: kubernetes.io/basic-auth\nstringData: {username: robot, password: hunter2}\n";
const OPEN: &str = "{connectorClassName: harbor, address: 'https://h.example/p'}";
const WITH_SECRET: &str = "{connectorClassName: harbor, address: 'https://h.example/p', \
     auth: {name: basicAuth, secretRef: {name: s}}}";

fn line(finding: &Finding) -> String {
    let Finding { kind, status, reason, message } = finding;
    format!("{kind}|{status}|{reason}|{message}")
}

/// The findings, a line each.
fn said(spec: &str, more: &str, pulse: Option<Pulse>, login: &Login) -> Vec<String> {
    let fact = fact_of(spec, more);
    findings(&fact, pulse.as_ref(), login).iter().map(line).collect()
}

fn checked(seen: Seen, was_good: bool) -> Login {
    Login::Checked(Checked { seen, was_good })
}

#[test]
fn all_is_well_with_and_without_a_secret() {
    let taken = checked(Seen::Taken, true);
    assert_eq!(
        said(WITH_SECRET, SECRET, Some(Pulse::Alive), &taken),
        [
            "SecretReady|True||",
            "LivenessReady|True||",
            "AuthReady|True||",
            "CACertReady|True|NoCACert|"
        ]
    );
    assert_eq!(
        said(OPEN, "", Some(Pulse::Alive), &taken),
        [
            "SecretReady|True|SecretOptional|",
            "LivenessReady|True||",
            "AuthReady|True|NonAuthProbe|requests go without a credential",
            "CACertReady|True|NoCACert|",
        ]
    );
}

#[test]
fn what_is_wrong_with_a_registry_is_told_apart() {
    let ping = "LivenessReady|False|ConnectionFailed|Get \"https://h.example/p/api/v2.0/ping\": ";
    for (pulse, expected) in [
        (Pulse::Silent(Failure::Unresolved), "lookup h.example: no such host"),
        (Pulse::Silent(Failure::Refused), "its host refuses the connection"),
        (Pulse::Silent(Failure::Unanswered), "it does not accept a connection in time"),
        (Pulse::Silent(Failure::Silent), "it does not answer in time"),
        (
            Pulse::Silent(Failure::Untrusted(Distrust::Issuer)),
            "its certificate is signed by an unknown authority",
        ),
        (Pulse::Silent(Failure::Untrusted(Distrust::Name)), "its certificate is not for this host"),
        (Pulse::Silent(Failure::Untrusted(Distrust::Expired)), "its certificate has expired"),
        (Pulse::Status(502), "status code 502: what stands before the registry cannot reach it"),
        (Pulse::Status(500), "status code 500: the registry itself fails"),
        (Pulse::Status(404), "status code 404: no Harbor 2.x is at this address"),
        (Pulse::Status(308), "status code 308: write the address that it redirects to"),
    ] {
        let found = said(WITH_SECRET, SECRET, Some(pulse), &Login::Unasked);
        assert_eq!(found[1], format!("{ping}{expected}"));
        assert_eq!(found[0], "SecretReady|True||");
        assert_eq!(
            found[2], "AuthReady|Unknown|NotChecked|not checked before LivenessReady is True",
            "a registry that is away says nothing about a credential"
        );
    }
}

#[test]
fn what_is_wrong_with_a_credential_is_told_apart() {
    let no = "AuthReady|False|AuthenticationFailed|Authentication failed: ";
    let open = "AuthReady|Unknown|NotChecked|Get \"https://h.example/p/v2/\": ";
    for (login, prefix, words) in [
        (checked(Seen::Refused, false), no, "status code 401: wrong username or password in"),
        (checked(Seen::Refused, true), no, "status code 401: the registry took this same"),
        (checked(Seen::Status(403), false), no, "status code 403: "),
        (checked(Seen::Foreign("https://t.example".into()), false), no, "the registry names"),
        (checked(Seen::Status(502), true), open, "status code 502: what stands before"),
        (checked(Seen::Failure(Failure::Silent), true), open, "it does not answer in time"),
        (checked(Seen::Service("it answers 500".into()), true), open, "the registry's token"),
        (Login::Late, open, "no verdict in time"),
    ] {
        let found = said(WITH_SECRET, SECRET, Some(Pulse::Alive), &login);
        assert!(found[2].starts_with(&format!("{prefix}{words}")), "{login:?}: {}", found[2]);
    }
    let found = said(OPEN, "", Some(Pulse::Alive), &checked(Seen::Wanted, true));
    assert!(found[2].contains("add spec.auth"), "{}", found[2]);
}

#[test]
fn a_missing_or_wrong_secret_says_so_and_nothing_is_asked_with_it() {
    let (alive, unasked) = (Some(Pulse::Alive), Login::Unasked);
    let typed = SECRET.replace("kubernetes.io/basic-auth", "Opaque");
    let keyless = SECRET.replace("username", "user");
    for (secret, expected) in [
        ("", "SecretReady|False|SecretNotFound|secrets \"s\" not found"),
        (&typed, "SecretReady|False|InvalidSecret|secret \"s\" is not of type"),
        (&keyless, "SecretReady|False|InvalidSecret|secret \"s\" has no key \"username\""),
    ] {
        let found = said(WITH_SECRET, secret, alive.clone(), &unasked);
        assert!(found[0].starts_with(expected), "{}", found[0]);
        assert_eq!(found[1], "LivenessReady|True||");
        assert!(found[2].ends_with("not checked before SecretReady is True"), "{}", found[2]);
        assert!(!found.concat().contains("hunter2"));
        assert!(!wants_login(&fact_of(WITH_SECRET, secret), alive.as_ref()));
    }
    assert!(wants_login(&fact_of(WITH_SECRET, SECRET), alive.as_ref()));
    assert!(!wants_login(&fact_of(WITH_SECRET, SECRET), Some(&Pulse::Status(502))));
}

#[test]
fn without_its_ca_a_registry_is_not_spoken_to() {
    let spec = OPEN.replace('}', ", caCertSecretRef: {name: c}}");
    let ca = "apiVersion: v1\nkind: Secret\nmetadata: {name: c, namespace: ci}\n\
         stringData: {ca.crt: nonsense}\n";
    for (more, reason, words) in [
        ("", "SecretNotFound", "CA secret \"c\" not found"),
        (ca, "InvalidPEM", "secret \"c\" contains invalid PEM data"),
    ] {
        let found = said(&spec, more, None, &Login::Unasked);
        assert!(found[3].starts_with(&format!("CACertReady|False|{reason}|{words}")), "{found:?}");
        assert!(found[1].starts_with("LivenessReady|False|ConnectionFailed|nothing is sent"));
        assert!(found[2].ends_with("not checked before CACertReady is True"));
        assert_eq!(fact_of(&spec, more).place(), None);
    }
    let pem = rcgen::generate_simple_self_signed(["h.example".to_owned()]).unwrap().cert.pem();
    let good = ca.replace("nonsense", &serde_json::Value::from(pem).to_string());
    let found = said(&spec, &good, Some(Pulse::Alive), &checked(Seen::Taken, true));
    assert_eq!(found[3], "CACertReady|True|Valid|CA certificate loaded from secret \"c\"");
}

#[test]
fn a_connector_without_an_address_says_what_is_wrong() {
    let found = said("{connectorClassName: harbor}", "", None, &Login::Unasked);
    assert!(found[1].starts_with("LivenessReady|False|ConnectionFailed|spec.address is missing"));
}

#[test]
fn a_class_without_probes_asks_for_none() {
    let class = "apiVersion: connectors.alauda.io/v1alpha1\nkind: ConnectorClass\n\
         metadata: {name: harbor}\nspec: {}\n";
    let found = said(WITH_SECRET, &format!("{SECRET}---\n{class}"), None, &Login::Unasked);
    assert_eq!(found[1], "LivenessReady|True|NonLivenessProbe|");
    assert_eq!(found[2], "AuthReady|True|NonAuthProbe|");
}

#[test]
fn a_long_message_is_cut_between_characters() {
    let text = bounded("é".repeat(MESSAGE_BYTES_MAX));
    assert_eq!(text.len(), MESSAGE_BYTES_MAX);
    assert!(bounded("x".repeat(MESSAGE_BYTES_MAX - 1) + "é").len() < MESSAGE_BYTES_MAX);
}
