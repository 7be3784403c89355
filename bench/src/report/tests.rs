//! Reports of made-up results: what must be on the page, and what must never be.

use std::collections::BTreeMap;
use std::path::PathBuf;

use super::runs::Run;
use super::{Flags, markdown, page, read, run, runs};
use crate::results::{Cost, Line, Load, Machine, Verdict, append};

/// A machine that nobody has.
fn machine() -> Machine {
    let versions = [("haproxy", "2.6.12"), ("nginx", "1.22.1"), ("envoy", "1.40.0")];
    Machine {
        unix_time: 1_795_464_879,
        cpu: "Imaginary 9000 <at 3 GHz>".into(),
        cpus: 2,
        kernel: "6.18.0".into(),
        memory_mib: 24_000,
        congestion_control: "reno".into(),
        own_namespace: true,
        versions: versions.map(|(name, version)| (name.into(), version.into())).into(),
        command: "bench compare --reps 5 --peers haproxy,nginx,envoy".into(),
    }
}

/// Costs roughly as they were measured once: case, unit, contender, median.
fn costs() -> Vec<Cost> {
    let contenders = ["ours-uring", "ours-epoll", "haproxy", "nginx", "envoy", "floor"];
    let cases = [
        ("pull", "cpu-s/GiB", [0.149, 0.156, 0.158, 0.399, 0.474, 0.152], 1.1),
        ("push", "cpu-s/GiB", [0.151, 0.149, 0.139, 0.404, 0.458, 0.150], 1.1),
        ("push-chunked", "cpu-s/GiB", [0.36, 0.37, 0.609, 0.549, 0.474, 0.168], 0.8),
        ("pull-tls", "cpu-s/GiB", [0.603, 0.618, 0.913, 0.745, 0.723, 0.58], 1.0),
        ("push-tls", "cpu-s/GiB", [0.684, 0.69, 0.895, 0.923, 0.671, 0.65], 1.0),
        ("uploads-50", "cpu-s/GiB", [0.19, 0.2, 0.195, 0.463, 0.583, 0.18], 1.1),
        ("get-1k", "us/request", [17.8, 19.2, 23.1, 20.9, 69.8, 16.2], 1.0),
        ("idle", "KiB/connection", [5.1, 4.8, 14.0, 9.0, 54.0, 2.0], 8.0),
        ("active", "KiB/connection", [31.0, 30.0, 47.0, 238.0, 1560.0, 12.0], 40.0),
    ];
    let mut costs = Vec::new();
    for (case, unit, medians, limit) in cases {
        for (place, (contender, median)) in contenders.iter().zip(medians).enumerate() {
            let wobble = [1.0, 0.94, 1.03, 0.985, 1.07];
            let figure = match unit {
                "KiB/connection" => median,
                _ => median / medians[2..5].iter().copied().fold(f64::INFINITY, f64::min),
            };
            let must = if limit > 2.0 {
                format!("at most {limit:.0} KiB")
            } else {
                format!("at most {limit:.2} of the best peer")
            };
            costs.push(Cost {
                contender: (*contender).into(),
                case: case.into(),
                unit: unit.into(),
                samples: wobble.map(|factor| median * factor).into(),
                gib_per_second: if unit == "cpu-s/GiB" { vec![0.9 / median] } else { vec![] },
                verdict: (place == 0).then_some(Verdict { must, figure, limit }),
            });
        }
    }
    costs
}

/// Loads of `case` with a latency curve each.
fn loads(case: &str) -> Vec<Load> {
    let contenders = [("ours-uring", 1.0), ("haproxy", 1.1), ("nginx", 1.4), ("envoy", 3.1)];
    let shape = [90, 120, 150, 180, 230, 320, 420, 900, 1_300, 3_100, 9_000, 21_000];
    let mut loads = Vec::new();
    for (contender, slow) in contenders {
        for repetition in 0..3 {
            let latency = |us: u64| (us as f64 * slow * (1.0 + repetition as f64 / 50.0)) as u64;
            let second = |at: u64| {
                ((1.0 + (at * 7 % 5) as f64 / 40.0) * 2e9 / slow) as u64 / 8 * u64::from(at > 0)
            };
            let by_second: Vec<u64> = (1..=20).map(second).collect();
            loads.push(Load {
                contender: contender.into(),
                case: case.into(),
                repetition,
                seconds: 20.0,
                requests: 180_000,
                failures: BTreeMap::from([("answered 500".into(), u64::from(slow > 3.0) * 4)]),
                bytes_up: 0,
                bytes_down: by_second.iter().sum(),
                latency_us: shape.map(latency).into(),
                bytes_by_second: by_second,
                generator_cpu_seconds: 9.1,
                generator_bound: slow < 1.05,
            });
        }
    }
    loads
}

/// A whole results file in a folder of its own.
fn file() -> (tempfile::TempDir, PathBuf) {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("imaginary-9000.jsonl");
    let mut lines = vec![Line::Machine(machine())];
    lines.extend(costs().into_iter().map(Line::Cost));
    lines.extend(["get-1k", "pull"].iter().flat_map(|case| loads(case)).map(Line::Load));
    append(&path, &lines).unwrap();
    (folder, path)
}

#[test]
fn a_page_shows_every_case_and_needs_nothing_but_itself() {
    let (folder, path) = file();
    let html = folder.path().join("report.html");
    let flags = Flags { files: vec![path], html: Some(html.clone()), markdown: None };
    run(&flags).unwrap();
    let page = std::fs::read_to_string(&html).unwrap();
    if let Ok(keep) = std::env::var("KEEP_REPORT") {
        std::fs::copy(&html, keep).unwrap();
    }
    for expected in [
        "8 of 9",
        "Pull, TLS to the registry",
        "missed by 2 %",
        "Imaginary 9000 &lt;at 3 GHz&gt;",
        "2026-11-23",
        "prefers-color-scheme",
        "12 answered 500",
        "the generator was the bottleneck",
    ] {
        assert!(page.contains(expected), "{expected}");
    }
    assert_eq!(page.matches("<svg").count(), 13, "nine cases, two of them with two curves");
    for never in ["<script", "http:", "https:", "url(", "@import", "<link", "NaN", "inf"] {
        assert!(!page.contains(never), "{never}");
    }
}

#[test]
fn a_name_from_a_file_cannot_break_the_page() {
    let evil = "<script>alert(1)</script>\"'|`";
    let cost = Cost {
        contender: evil.into(),
        case: evil.into(),
        unit: evil.into(),
        samples: vec![1.0, 2.0],
        verdict: Some(Verdict { must: evil.into(), figure: 1.0, limit: 2.0 }),
        ..Cost::default()
    };
    let load = Load {
        contender: evil.into(),
        case: evil.into(),
        failures: BTreeMap::from([(evil.into(), 1)]),
        ..loads("x").remove(0)
    };
    let machine = Machine { command: evil.into(), cpu: evil.into(), ..machine() };
    let lines = vec![Line::Machine(machine), Line::Cost(cost), Line::Load(load)];
    let runs = runs::of(evil, lines);
    let page = page::of(&runs);
    assert!(!page.contains("<script") && !page.contains("\"'|"));
    let table = markdown::of(&runs);
    assert!(!table.contains("<script") && !table.contains("'|"));
    assert!(table.lines().filter(|line| line.starts_with("| ")).count() == 4);
}

#[test]
fn a_table_holds_median_spread_and_verdict() {
    let (_folder, path) = file();
    let table = markdown::of(&read(&path).unwrap());
    let row = "| pull | ours-uring | 0.149 | 0.140–0.159 | cpu-s/GiB | 6.04 | \
               at most 1.10 of the best peer | met, 14 % to spare |";
    assert!(table.contains(row), "{table}");
    assert!(table.contains("| get-1k | envoy | 9,000 |"), "{table}");
}

#[test]
fn each_machine_line_begins_a_run_and_figures_of_two_runs_are_not_mixed() {
    let cost = |sample: f64| {
        Line::Cost(Cost { contender: "a".into(), samples: vec![sample], ..Cost::default() })
    };
    let start = || Line::Machine(Machine::default());
    let runs: Vec<Run> =
        runs::of("x", vec![start(), cost(1.0), cost(3.0), start(), cost(9.0), start()]);
    let samples: Vec<&[f64]> = runs.iter().map(|run| run.costs[0].samples.as_slice()).collect();
    assert_eq!(samples, [&[1.0, 3.0][..], &[9.0]]);
}

#[test]
fn loads_made_soon_after_one_another_on_one_machine_are_one_run() {
    let at = |unix_time: u64| Line::Machine(Machine { unix_time, ..machine() });
    let load = |contender: &str| {
        Line::Load(Load { contender: contender.into(), case: "x".into(), ..Load::default() })
    };
    let names = |lines: Vec<Line>| -> Vec<Vec<(String, usize)>> {
        let of = |run: &Run| {
            let shown = |loads: &runs::Loads| (loads.contender.clone(), loads.repetitions.len());
            run.loads.iter().map(shown).collect()
        };
        runs::of("f", lines).iter().map(of).collect()
    };
    let soon = vec![at(0), load("a"), at(60), load("b"), at(120), load("a")];
    assert_eq!(names(soon), [[("a".to_owned(), 2), ("b".to_owned(), 1)]]);
    let late = vec![at(0), load("a"), at(7200), load("b")];
    assert_eq!(names(late).len(), 2);
    let elsewhere = Line::Machine(Machine { cpus: 64, ..Machine::default() });
    assert_eq!(names(vec![at(0), load("a"), elsewhere, load("b")]).len(), 2);
}

#[test]
fn a_file_without_figures_is_refused() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("empty.jsonl");
    append(&path, &[Line::Machine(machine())]).unwrap();
    assert!(read(&path).is_err());
    assert!(read(&folder.path().join("none.jsonl")).is_err());
}
