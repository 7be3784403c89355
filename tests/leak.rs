//! The marked password and the marked tokens are nowhere but where they belong.
//!
//! Every story searches what it captured (see `support::leak`); the stories here go where a secret
//! would most likely slip out: errors, verbose logs, and what can be read of the process itself.

use std::fs;
use std::io::ErrorKind;

use crate::support::caller::{request, upload};
use crate::support::leak::{everything, find, passwords};
use crate::support::manifests::connector;
use crate::support::{FakeRegistry, Manifests, PREFIX, Proxy, answer};

#[test]
fn nothing_slips_out_of_a_proxy_that_logs_everything() {
    let registry = FakeRegistry::answering(|seen| {
        let status = seen.target.rsplit('/').next().and_then(|tag| tag.parse().ok());
        answer(status.unwrap_or(202), "WWW-Authenticate: Basic realm=\"x\"\r\n", b"no")
    });
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &["--log-filter", "trace"]);
    for status in [200, 400, 401, 403, 404, 500, 502, 503] {
        proxy.get(&format!("{PREFIX}/team/app/manifests/{status}"));
        proxy.ask(&upload("PUT", &format!("{PREFIX}/team/app/manifests/{status}"), "{}"));
    }
    proxy.get("/v2/");
    proxy.get("/v2/nothing/../at/all");
    let mut caller = proxy.caller();
    caller.send_if_taken(format!("{}garbage\r\n\r\n", request("GET", "/v2/", "")));
    let _ = caller.answer();
    assert!(!proxy.log().is_empty());
    // The search itself happens when proxy, callers and registry are dropped.
}

#[test]
fn a_broken_secret_is_complained_about_without_being_quoted() {
    let registry = FakeRegistry::obliging();
    let marked = crate::support::PASSWORD.replace('"', "");
    let rows = [
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: harbor, namespace: ci}}\n\
             type: kubernetes.io/basic-auth\ndata: {{username: eA==, password: \"{marked}\"}}\n"
        ),
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: harbor, namespace: ci}}\n\
             type: kubernetes.io/basic-auth\nstringData: {{username: x, password: [\"{marked}\"]}}\n"
        ),
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: harbor, namespace: ci}}\n\
             type: kubernetes.io/basic-auth\nstringData: {{username: x, password: \"{marked}\n"
        ),
        format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: harbor, namespace: ci}}\n\
             type: kubernetes.io/basic-auth\nstringData: {{username: \"a:b\", password: \"{marked}\"}}\n"
        ),
    ];
    for text in rows {
        let proxy = Proxy::in_front_of(&registry);
        proxy.write("secret.yaml", &text);
        proxy.logged(&[".yaml, document 1"]);
        let folder = proxy.folder();
        let (code, stdout, stderr) =
            crate::support::proxy::run(&["check", folder.to_str().expect("a plain path")]);
        assert_eq!(code, Some(1), "{stdout}{stderr}");
    }
}

#[test]
fn a_password_written_into_an_address_is_not_repeated() {
    let address = format!("http://robot:{}@127.0.0.1:1", "canary-K7x/pw+Q9=zz?%3;b");
    let manifests = Manifests::for_registry("http://127.0.0.1:1")
        .with("connector.yaml", &connector("ci", "harbor", &format!("\"{address}\""), ""));
    let proxy = Proxy::start(&manifests, &[]);
    proxy.logged(&["connector.yaml"]);
    proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));
}

#[test]
fn the_process_shows_no_secret_in_its_arguments_or_environment() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    assert_eq!(proxy.get(&format!("{PREFIX}/team/app/manifests/v1")).status, 200);
    for file in ["cmdline", "environ"] {
        match fs::read(format!("/proc/{}/{file}", proxy.pid())) {
            Ok(text) => assert_eq!(find(&everything(), &text), None, "{file}"),
            // The process keeps its memory from all users but root, and its environment with it.
            Err(cause) => assert_eq!(cause.kind(), ErrorKind::PermissionDenied, "{file}"),
        }
    }
}

#[test]
fn the_registry_gets_the_password_and_only_the_registry_does() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));
    // The search is not blind: where the password belongs, it finds it.
    assert_eq!(find(&passwords(), &registry.raw(0)), Some("Base64"));
    assert_eq!(find(&everything(), proxy.log().as_bytes()), None);
}
