//! What the API server refuses by itself: CEL rules, and what each says to do.
//!
//! Rules out, as `x-kubernetes-validations` wants them. They say in the words of `compile` what
//! `compile` decides once more. A rule is looked at only where the narrower ones before it hold, so
//! that one mistake gives one message.

use kube::core::Rule;
use serde_json::{Value, json};

/// A rule of the whole object. Of its metadata a rule sees the name alone.
pub(super) fn name() -> Rule {
    Rule::new("self.metadata.name.size() <= 61 && !self.metadata.name.contains('.')").message(
        "the name cannot become the Service c-<name>: use at most 61 of a-z, 0-9 and -, no dots",
    )
}

/// Rules of `spec`.
pub(super) fn spec() -> Value {
    rules(&[
        ("has(self.connectorClassName)", "spec.connectorClassName is missing: write harbor"),
        (
            "has(self.address)",
            "spec.address is missing: write the registry's URL, such as https://harbor.example.com",
        ),
        (
            "!has(self.connectorClassName) || self.connectorClassName != 'harbor' \
             || !has(self.auth) || !has(self.auth.name) || self.auth.name == 'basicAuth'",
            "spec.auth.name is not an auth type of the class harbor: write basicAuth",
        ),
    ])
}

/// Rules of `spec.address`; see `compile::address`.
pub(super) fn address() -> Value {
    let url = "self.matches('^[hH][tT][tT][pP][sS]?://')";
    let userless = "!self.matches('^[^/]*//[^/]*@')";
    let bare = "!self.contains('?') && !self.contains('#')";
    let label = "[a-zA-Z0-9]([a-zA-Z0-9-]*[a-zA-Z0-9])?";
    // A backslash of a regular expression is two in a CEL text.
    let host = format!(r"(\\[[0-9a-fA-F:.]+\\]|{label}([.]{label})*)");
    let path = "(/[a-zA-Z0-9._~!$&()*+,;=:@-]+)*/?";
    let plain = format!(
        "self.matches('^[a-zA-Z]+://{host}(:[1-9][0-9]{{0,4}})?{path}$') \
         && !self.matches('/[.]{{1,2}}(/|$)')"
    );
    rules(&[
        (
            url,
            "spec.address is not an http or https URL: write one such as \
             https://harbor.example.com",
        ),
        (
            &format!("!{url} || {userless}"),
            "spec.address has a user or password in it: put them into the Secret",
        ),
        (
            &format!("!{url} || !({userless}) || {bare}"),
            "spec.address has a query or fragment: remove it",
        ),
        (
            &format!("!{url} || !({userless}) || !({bare}) || {plain}"),
            "spec.address is not plain: write a DNS name or IP address in full, without a trailing \
             dot, a port from 1 to 65535 if need be, and a path such as /prefix",
        ),
    ])
}

/// Rules of `spec.auth`.
pub(super) fn auth() -> Value {
    rules(&[
        ("!has(self.secretRef) || has(self.name)", "spec.auth.name is missing: write basicAuth"),
        (
            "!has(self.secretRef) || has(self.secretRef.name) && self.secretRef.name != ''",
            "spec.auth.secretRef.name is missing: write the Secret's name, or remove spec.auth",
        ),
    ])
}

/// A rule of `spec.caCertSecretRef`.
pub(super) fn local_secret() -> Value {
    rules(&[(
        "has(self.name) && self.name != ''",
        "spec.caCertSecretRef.name is missing: write the Secret's name, or remove \
         spec.caCertSecretRef",
    )])
}

fn rules(rules: &[(&str, &str)]) -> Value {
    rules.iter().map(|(rule, message)| json!({"rule": rule, "message": message})).collect()
}
