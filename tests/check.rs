//! `harbor-connector check DIR`: the same problems as the proxy would log, and an exit code.

use std::fs;

use tempfile::TempDir;

use crate::support::manifests::{connector, secret};
use crate::support::proxy::run;
use crate::support::{Manifests, PASSWORD, Proxy};

const ADDRESS: &str = "http://127.0.0.1:1";

fn check(manifests: &Manifests) -> (Option<i32>, String) {
    let folder = TempDir::new().expect("a temporary folder");
    for (name, text) in manifests.files() {
        fs::write(folder.path().join(name), text).expect("a manifest");
    }
    let (code, stdout, stderr) = run(&["check", folder.path().to_str().expect("a plain path")]);
    (code, stdout + &stderr)
}

#[test]
fn a_good_folder_passes() {
    let (code, said) = check(&Manifests::for_registry(ADDRESS));
    assert_eq!(code, Some(0), "{said}");
}

#[test]
fn each_problem_is_printed_with_its_file_and_the_exit_code_is_one() {
    let foreign = "  auth: {name: basicAuth, secretRef: {name: x, namespace: other}}\n";
    let rows = [
        ("syntax", "kind: [\n".to_owned(), ""),
        ("no secret", connector("ci", "alone", ADDRESS, ""), "alone"),
        ("no scheme", connector("ci", "x", "ftp://127.0.0.1", ""), "ftp"),
        ("user in the address", connector("ci", "x", "http://me:pw@127.0.0.1", ""), "spec.address"),
        (
            "a class that nobody has",
            connector("ci", "x", ADDRESS, "").replace("ClassName: harbor", "ClassName: nexus"),
            "nexus",
        ),
        (
            "a secret of another namespace",
            connector("ci", "x", ADDRESS, "")
                .replace("  auth: {name: basicAuth, secretRef: {name: x}}\n", foreign),
            "other",
        ),
        (
            "a secret without a password",
            secret("ci", "x", PASSWORD).replace(", password", ", pass"),
            "password",
        ),
        ("a name with a dot", connector("ci", "x.y", ADDRESS, ""), "x.y"),
    ];
    for (problem, text, word) in rows {
        let text = if problem == "a secret without a password" {
            format!("{text}---\n{}", connector("ci", "x", ADDRESS, ""))
        } else {
            text
        };
        let (code, said) = check(&Manifests::for_registry(ADDRESS).with("odd.yaml", &text));
        assert_eq!(code, Some(1), "{problem}: {said}");
        assert!(said.contains("odd.yaml") && said.contains(word), "{problem}: {said}");
    }
}

#[test]
fn a_folder_that_is_missing_is_a_failure() {
    let (code, _, stderr) = run(&["check", "no/such/folder"]);
    assert_eq!(code, Some(1));
    assert!(stderr.contains("no/such/folder"), "{stderr}");
}

#[test]
fn what_check_prints_the_proxy_logs() {
    let manifests =
        Manifests::for_registry(ADDRESS).with("odd.yaml", &connector("ci", "alone", ADDRESS, ""));
    let proxy = Proxy::start(&manifests, &[]);
    proxy.logged(&["odd.yaml", "alone"]);
}

#[test]
fn json_manifests_and_several_documents_in_one_file_are_read() {
    let all: Vec<_> =
        Manifests::for_registry(ADDRESS).files().map(|(_, text)| text.to_owned()).collect();
    let one = Manifests::default().with("all.yaml", &format!("---\n{}", all.join("---\n")));
    let (code, said) = check(&one);
    assert_eq!(code, Some(0), "{said}");
}
