//! The measurements of growth as a whole, small.

use std::process::Command;

use crate::results::{self, Line};

/// Runs the programs that were built beside this test, as a person would.
#[test]
fn growth_is_measured_with_few_of_everything() {
    let test = std::env::current_exe().unwrap();
    let folder = test.parent().and_then(std::path::Path::parent).unwrap();
    let (bench, ours) = (folder.join("bench"), folder.join("harbor-connector"));
    if !bench.is_file() || !ours.is_file() {
        eprintln!("SKIPPED: growth_is_measured: bench and harbor-connector are not built");
        return;
    }
    let results = tempfile::tempdir().unwrap();
    let json = results.path().join("run.jsonl");
    let said = Command::new(bench)
        .args(["growth", "--reps", "1", "--io", "epoll", "--no-namespace"])
        .args([
            "--connectors",
            "70",
            "--connections",
            "80",
            "--window",
            "300ms",
            "--requests",
            "256",
        ])
        .args([
            "--size",
            "16MiB",
            "--cases",
            "fairness-tls,connectors,connections,publishing",
            "--json",
        ])
        .arg(&json)
        .output()
        .unwrap();
    let words = String::from_utf8_lossy(&said.stderr).into_owned();
    if words.contains("unrecognized subcommand") {
        eprintln!("SKIPPED: growth_is_measured: the bench beside this test is an older one");
        return;
    }
    assert!(said.status.success(), "{words}");
    let table = String::from_utf8_lossy(&said.stdout).into_owned();
    for case in ["fairness-tls", "stall-published", "request-connectors-70"] {
        assert!(table.contains(case), "{table}");
    }
    let lines = results::read(&json).unwrap();
    let of = |name: &str| {
        let mut costs = lines.iter().filter_map(|line| match line {
            Line::Cost(cost) if cost.case == name => Some(cost),
            _ => None,
        });
        costs.next().map(results::Cost::median)
    };
    // What the figures are is the machine's business; that they are is ours.
    for case in ["byte-connections-80", "request-busy-connections-80", "head-p99-direct-tls"] {
        assert!(of(case).is_some_and(|figure| figure > 0.0), "{case}: {lines:?}");
    }
}
