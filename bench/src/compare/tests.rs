//! The comparison as a whole, small.

use std::process::Command;

use super::origin::Origin;
use super::*;

#[test]
fn a_size_has_a_binary_unit_or_none() {
    assert_eq!(crate::values::bytes("1GiB"), Ok(1 << 30));
    assert_eq!(crate::values::bytes("32KiB"), Ok(32 << 10));
    assert!(crate::values::bytes("0").is_err() && crate::values::bytes("1GB").is_err());
}

#[test]
fn a_percentile_is_the_value_at_its_place() {
    let sorted: Vec<u64> = (0..=100).collect();
    assert_eq!(
        (at(&sorted, 0.0), at(&sorted, 50.0), at(&sorted, 100.0)),
        (Some(0), Some(50), Some(100))
    );
    assert_eq!(at(&[], 50.0), None);
}

/// Runs the programs that were built beside this test, as a person would.
#[test]
fn a_small_comparison_measures_our_proxy_and_the_floor() {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(std::path::Path::parent).unwrap();
    let (bench, ours) = (folder.join("bench"), folder.join("harbor-connector"));
    if !bench.is_file() || !ours.is_file() {
        eprintln!("SKIPPED: a_small_comparison: bench and harbor-connector are not built");
        return;
    }
    let results = tempfile::tempdir().unwrap();
    let json = results.path().join("run.jsonl");
    let said = Command::new(bench)
        .args(["compare", "--size", "16MiB", "--reps", "1", "--requests", "512"])
        .args([
            "--cases",
            "pull,push,push-chunked,pull-tls,push-tls-both,get-1k",
            "--peers",
            "none",
        ])
        .args(["--io", "epoll", "--no-namespace", "--json"])
        .arg(&json)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    if words.contains("unrecognized subcommand") {
        eprintln!("SKIPPED: a_small_comparison: the bench beside this test is an older one");
        return;
    }
    assert!(said.status.success(), "{words}");
    let table = String::from_utf8_lossy(&said.stdout).into_owned();
    assert!(table.contains("ours-epoll") && table.contains("floor"), "{table}");
    let lines = results::read(&json).unwrap();
    let costs = lines.iter().filter(|line| matches!(line, Line::Cost(cost) if cost.median() > 0.0));
    // Six of ours; four of the floor, which knows no TLS.
    assert_eq!(costs.count(), 10, "{lines:?}");
    assert!(matches!(lines.first(), Some(Line::Machine(_))));
}

/// A road that leads straight to an origin.
fn road(origin: &Origin, password: &str) -> drive::Road {
    drive::Road {
        address: origin.plain,
        path: "/v2/team/app".to_owned(),
        authorization: origin::authorization(origin::USER, password),
        inside: None,
    }
}

#[test]
fn every_byte_that_is_driven_arrives_at_the_origin_and_is_counted() {
    let (origin, bodies) = (Origin::start().unwrap(), Bodies::new().unwrap());
    let road = road(&origin, origin::PASSWORD);
    // More than a stock holds once, and no whole number of it.
    let length = (65 << 20) + (32 << 10);
    drive::pull(&road, length).unwrap();
    assert_eq!(origin.seen().received, 0);
    drive::push(&road, &bodies, length).unwrap();
    assert_eq!(origin.seen().received, length);
    drive::push_chunked(&road, &bodies, length).unwrap();
    assert_eq!(origin.seen().received, 2 * length);
    assert_eq!(drive::gets(&road, 3, 10).unwrap().len(), 12);
    assert_eq!(drive::idle(&road, 2).unwrap().len(), 2);
    // One GET, POST and PUT, POST and PATCH and PUT, twelve GETs, two GETs.
    assert_eq!((origin.seen().requests, origin.seen().refused), (20, 0));
}

#[test]
fn a_request_without_the_registrys_credential_is_counted_and_fails() {
    let origin = Origin::start().unwrap();
    let road = road(&origin, "the caller's own token");
    let cause = drive::pull(&road, 1 << 20).unwrap_err();
    assert!(cause.to_string().contains("401"), "{cause}");
    assert_eq!((origin.seen().requests, origin.seen().refused), (0, 1));
}
