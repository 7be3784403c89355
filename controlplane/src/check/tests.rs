use std::fs;

use expect_test::expect;

use super::*;

fn checked(text: &str) -> (bool, String) {
    let folder = tempfile::tempdir().unwrap();
    fs::write(folder.path().join("a.yaml"), text).unwrap();
    let mut out = Vec::new();
    let flags = CheckFlags { folder: folder.path().to_owned() };
    let clean = check(&flags, &mut out).unwrap();
    (clean, String::from_utf8(out).unwrap())
}

#[test]
fn a_clean_folder_is_summed_up_in_one_line() {
    let (clean, text) = checked(
        "{apiVersion: connectors.alauda.io/v1alpha1, kind: Connector, metadata: {name: h}, \
         spec: {connectorClassName: harbor, address: 'https://h.example'}}",
    );
    assert!(clean, "{text}");
    expect![[""]].assert_eq(&text);
}

#[test]
fn a_problem_is_a_line_with_file_document_object_and_advice() {
    let (clean, text) = checked(
        "{apiVersion: connectors.alauda.io/v1alpha1, kind: Connector, metadata: {name: h}, \
         spec: {connectorClassName: harbor, address: 'https://h.example/?x'}}",
    );
    assert!(!clean);
    expect![[""]].assert_eq(&text);
}

#[test]
fn a_folder_that_cannot_be_read_is_not_clean() {
    assert!(!checked("[").0);
}

#[test]
fn both_definitions_are_printed_as_yaml() {
    let mut out = Vec::new();
    crds(&mut out).unwrap();
    let text = String::from_utf8(out).unwrap();
    let definitions: Vec<serde_json::Value> = serde_saphyr::from_multiple(&text).unwrap();
    let names: Vec<_> = definitions.iter().map(|one| one["metadata"]["name"].as_str()).collect();
    let expected = ["connectors.connectors.alauda.io", "connectorclasses.connectors.alauda.io"];
    assert_eq!(names, expected.map(Some));
}
