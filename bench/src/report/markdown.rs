//! The table of a report as Markdown.
//!
//! Runs in, text out. A name from a file cannot leave its cell.

use super::runs::{Loads, Run, pace, per_second};
use super::words;
use crate::calendar;
use crate::results::{Cost, median};

/// All runs, one after the other.
pub(crate) fn of(runs: &[Run]) -> String {
    runs.iter().map(of_run).collect::<Vec<_>>().join("\n")
}

fn of_run(run: &Run) -> String {
    let mut text = format!("## {}\n\n", cell(&run.name));
    for (name, value) in machine(run) {
        text.push_str(&format!("- {name}: {}\n", cell(&value)));
    }
    if !run.costs.is_empty() {
        text.push_str("\n| case | contender | median | spread | unit | GiB/s | bar | verdict |\n");
        text.push_str("|---|---|--:|--:|---|--:|---|---|\n");
    }
    for unit in run.units() {
        for case in run.cases(unit) {
            run.costs_of(case, unit).iter().for_each(|cost| text.push_str(&cost_row(cost)));
        }
    }
    if !run.loads.is_empty() {
        text.push_str("\n| case | contender | requests/s | bytes/s | p50 | p99 | p99.9 | failed |");
        text.push_str("\n|---|---|--:|--:|--:|--:|--:|---|\n");
    }
    for case in run.load_cases() {
        run.loads_of(case).iter().for_each(|loads| text.push_str(&load_row(loads)));
    }
    text
}

fn cost_row(cost: &Cost) -> String {
    let [median, spread, speed, must, verdict] = cost_cells(cost);
    row(&[&cost.case, &cost.contender, &median, &spread, &cost.unit, &speed, &must, &verdict])
}

fn load_row(loads: &Loads) -> String {
    let [rate, bytes, middle, late, latest, failed] = load_cells(loads);
    row(&[&loads.case, &loads.contender, &rate, &bytes, &middle, &late, &latest, &failed])
}

/// Median, spread, GiB/s, bar and verdict of `cost`.
pub(crate) fn cost_cells(cost: &Cost) -> [String; 5] {
    let spread = words::spread(&cost.samples)
        .map(|(low, high)| format!("{}–{}", words::figure(low), words::figure(high)));
    let speed =
        (!cost.gib_per_second.is_empty()).then(|| words::figure(median(&cost.gib_per_second)));
    let must = cost.verdict.as_ref().map(|verdict| verdict.must.clone());
    let verdict = cost.verdict.as_ref().map(words::verdict);
    let or_empty = Option::unwrap_or_default;
    let median = words::figure(cost.median());
    [median, or_empty(spread), or_empty(speed), or_empty(must), or_empty(verdict)]
}

/// Requests a second, bytes a second, three latencies and the failures of `loads`.
pub(crate) fn load_cells(loads: &Loads) -> [String; 6] {
    let latencies = loads.latencies();
    let latency = |percentile: f64| {
        words::at_percentile(&latencies, percentile).map(words::duration).unwrap_or_default()
    };
    let mut failed: Vec<String> =
        loads.failures().iter().map(|(cause, count)| format!("{count} {cause}")).collect();
    if loads.repetitions.iter().any(|load| load.generator_bound) {
        failed.push("the generator was the bottleneck".to_owned());
    }
    [
        words::figure(loads.middle(|load| per_second(load, load.requests as f64))),
        words::pace(loads.middle(pace)),
        latency(50.0),
        latency(99.0),
        latency(99.9),
        failed.join(", "),
    ]
}

/// What is known of the machine of `run`, as names and values.
pub(crate) fn machine(run: &Run) -> Vec<(&'static str, String)> {
    let Some(machine) = &run.machine else {
        return Vec::new();
    };
    let place = if machine.own_namespace { "own network namespace" } else { "host's network" };
    let versions = machine.versions.iter();
    let versions: Vec<String> =
        versions.map(|(name, said)| format!("{name} {}", words::version(said))).collect();
    vec![
        ("Measured", calendar::date(machine.unix_time)),
        ("CPU", format!("{} × {}", machine.cpus, machine.cpu)),
        ("Memory", format!("{} GiB", words::figure(machine.memory_mib as f64 / 1024.0))),
        ("Kernel", machine.kernel.clone()),
        ("Network", format!("{}, {place}", machine.congestion_control)),
        ("Programs", versions.join(", ")),
        ("Command", machine.command.clone()),
    ]
}

fn row(cells: &[&str]) -> String {
    let cells: Vec<String> = cells.iter().map(|text| cell(text)).collect();
    format!("| {} |\n", cells.join(" | "))
}

/// `text` as it may stand in a cell: no new line, no new column, no markup of its own.
pub(crate) fn cell(text: &str) -> String {
    let mut safe = String::with_capacity(text.len());
    for sign in text.chars() {
        match sign {
            '|' | '\\' | '`' | '*' | '_' | '[' | ']' => safe.extend(['\\', sign]),
            '<' => safe.push_str("&lt;"),
            '&' => safe.push_str("&amp;"),
            sign if sign.is_control() => safe.push(' '),
            sign => safe.push(sign),
        }
    }
    safe
}
