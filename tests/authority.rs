//! The interception CA on disk: made once, said where, rotated without a caller noticing.
//!
//! Row F50 of the fault matrix stands here, and in `rotation` for the CA of a cluster.

use std::fs;
use std::os::unix::fs::PermissionsExt as _;

use crate::support::caller::{Hello, request};
use crate::support::manifests::connector;
use crate::support::proxy::run;
use crate::support::{Caller, FakeRegistry, HOST, Manifests, PREFIX, Proxy, eventually};

fn step(proxy: &Proxy, step: &str) -> (Option<i32>, String, String) {
    let folder = proxy.ca_path().parent().expect("a folder").display().to_string();
    run(&["ca", step, "--ca-dir", &folder])
}

fn is_met(proxy: &Proxy, roots: &str) -> Result<Caller, String> {
    proxy.caller().with_tls(&Hello::to(HOST, roots))
}

const NAME: &str = "harbor.example.com";

/// The same in the name of the registry [`NAME`], in a tunnel.
fn is_met_inside(proxy: &Proxy, roots: &str) -> Result<Caller, String> {
    let mut caller = proxy.caller();
    assert_eq!(caller.connect_to(&format!("{NAME}:443"), "ci/harbor").status, 200);
    caller.with_tls(&Hello::to(NAME, roots))
}

#[test]
fn the_proxy_says_where_the_ca_is_and_keeps_its_key_to_itself() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let path = proxy.ca_path();
    assert!(path.ends_with("ca.crt") && proxy.ca().starts_with("-----BEGIN CERTIFICATE-----"));
    proxy.logged(&["serving", "ca.crt"]);
    let mode = |path| fs::metadata(path).expect("a file").permissions().mode() & 0o777;
    assert_eq!(mode(path.clone()), 0o644);
    assert_eq!(mode(path.with_file_name("ca.key")), 0o600);
    let (code, shown, _) = step(&proxy, "show");
    assert!(code == Some(0) && shown.contains(": signs"), "{shown}");
    assert!(!shown.contains("PRIVATE") && !proxy.log().contains("PRIVATE"));
}

#[test]
fn proxies_that_share_a_folder_share_the_ca() {
    let registry = FakeRegistry::obliging();
    let first = Proxy::in_front_of(&registry);
    let folder = first.ca_path().parent().expect("a folder").display().to_string();
    let manifests = Manifests::for_registry(&registry.url());
    let second = Proxy::start_with_ca(&manifests, &[], &folder);
    assert_eq!(first.ca(), second.ca());
    is_met(&second, &first.ca()).expect("one CA for both");
}

#[test]
fn callers_with_the_old_and_the_new_bundle_are_met_all_through_a_rotation() {
    let registry = FakeRegistry::obliging();
    let more = format!("  addressExtensions: [{{name: public, value: \"https://{NAME}\"}}]\n");
    let text = connector("ci", "harbor", &registry.url(), &more);
    let manifests = Manifests::for_registry(&registry.url()).with("connector.yaml", &text);
    let proxy = Proxy::start(&manifests, &[]);
    let old = proxy.ca();
    let leaf = is_met(&proxy, &old).expect("before").leaf();
    let mut tunnel = is_met_inside(&proxy, &old).expect("before");
    let leaf_inside = tunnel.leaf();

    assert_eq!(step(&proxy, "sign-with-next").0, Some(1), "nothing is published yet");
    assert_eq!(step(&proxy, "publish-next").0, Some(0));
    let both = proxy.ca();
    assert!(both.starts_with(&old) && both.len() > old.len());
    let mode = |name| {
        let file = fs::metadata(proxy.ca_path().with_file_name(name)).expect("a file");
        file.permissions().mode() & 0o777
    };
    assert_eq!((mode("ca.key"), mode("next.key")), (0o600, 0o600));
    for roots in [&old, &both] {
        is_met(&proxy, roots).expect("while the next root is only published");
        is_met_inside(&proxy, roots).expect("while the next root is only published");
    }
    assert_eq!(step(&proxy, "retire-old").0, Some(1), "the old one still signs");
    let (code, shown, error) = step(&proxy, "sign-with-next");
    assert!(code == Some(0) && shown.contains("signed before"), "{shown}{error}");
    assert_eq!(mode("ca.key"), 0o600);
    // Whoever has the published bundle never notices; the leaves that were given out are gone.
    eventually("the new root signs", || {
        let caller = is_met(&proxy, &both).expect("the bundle of the rotation");
        let inside = is_met_inside(&proxy, &both).expect("the bundle of the rotation");
        (caller.leaf() != leaf && inside.leaf() != leaf_inside).then_some(())
    });
    let ask = format!("GET /v2/a/b/manifests/v1 HTTP/1.1\r\nHost: {NAME}\r\n\r\n");
    assert_eq!(tunnel.ask(&ask).status, 200, "a tunnel outlives the root it was met with");
    proxy.logged(&["another root signs"]);
    assert!(is_met(&proxy, &old).is_err(), "the old bundle alone no longer does");
    assert!(is_met_inside(&proxy, &old).is_err(), "nor inside a tunnel");
    assert_eq!(step(&proxy, "retire-old").0, Some(0));
    let mut caller = is_met(&proxy, &proxy.ca()).expect("the new root alone");
    let answer = caller.ask(&request("GET", &format!("{PREFIX}/a/b/manifests/v1"), ""));
    assert_eq!(answer.status, 200, "{answer}");
}

#[test]
fn a_folder_that_was_asked_for_and_cannot_be_used_is_an_error() {
    let scratch = tempfile::tempdir().expect("a folder");
    let file = scratch.path().join("file");
    fs::write(&file, "").expect("a file");
    let manifests = scratch.path().join("manifests");
    fs::create_dir(&manifests).expect("a folder");
    let (file, manifests) = (file.display().to_string(), manifests.display().to_string());
    let at = ["--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"];
    let words = [["proxy", "--file", &manifests, "--ca-dir", &file].as_slice(), &at].concat();
    let (code, _, error) = run(&words);
    assert_eq!(code, Some(1), "{error}");
    assert!(error.contains("--ca-dir"), "{error}");
    assert_eq!(run(&["ca", "--ca-dir", "/nowhere/at/all"]).0, Some(1));
}
