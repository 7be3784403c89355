//! What came of a load, for people.
//!
//! A [`Plan`] and an [`Outcome`] in, text out; pure.

use std::fmt::Write as _;

use crate::load::Outcome;
use crate::plan::{Plan, Scenario};
use crate::results::PERCENTILES;

/// The table, each line ended.
pub(crate) fn table(plan: &Plan, outcome: &Outcome) -> String {
    let load = &outcome.load;
    let per_second = |count: f64| if load.seconds > 0.0 { count / load.seconds } else { 0.0 };
    let gib = |bytes: u64| per_second(bytes as f64 / f64::from(1 << 30));
    let whole = if outcome.interrupted { ", interrupted" } else { "" };
    let mut text = String::new();
    let mut row = |name: &str, value: String| {
        // Writing into a text cannot fail.
        let _ = writeln!(text, "{name:<11} {value}");
    };
    row("target", plan.contender.clone());
    row("scenario", format!("{}, {}", load.case, pace(plan)));
    row("measured", format!("{:.1} s{whole}", load.seconds));
    let exchanges = outcome.exchanges;
    row("requests", format!("{} answered well, {exchanges} HTTP exchanges", load.requests));
    row("rate", format!("{:.1} requests/s", per_second(load.requests as f64)));
    let (up, down) = (gib(load.bytes_up), gib(load.bytes_down));
    row("bodies", format!("{up:.3} GiB/s up, {down:.3} GiB/s down"));
    row("latency", latency(&load.latency_us));
    if let Some(held) = &outcome.held {
        let what = if plan.scenario == Scenario::Idle { "idle" } else { "slow" };
        row("held", format!("{} of {} {what} connections survived", held.survived, held.wanted));
        if let Some((before, with)) = held.memory_kib {
            let each = with.saturating_sub(before) as f64 / held.wanted.max(1) as f64;
            row("memory", format!("{before} KiB before, {with} KiB with them: {each:.1} KiB each"));
        }
    }
    let failed: u64 = load.failures.values().sum();
    row("failed", failed.to_string());
    for ((cause, count), example) in load.failures.iter().zip(&outcome.examples) {
        let example = example.strip_prefix(cause.as_str()).unwrap_or(example);
        row("", format!("{count} × {cause}{example}"));
    }
    let cores = plan.cores.min(plan.concurrency);
    let share = per_second(load.generator_cpu_seconds) / cores as f64 * 100.0;
    let threads = if cores == 1 { "thread" } else { "threads" };
    let cpu = load.generator_cpu_seconds;
    row("generator", format!("{cpu:.2} CPU s, {share:.0} % of {cores} {threads}"));
    if load.generator_bound {
        let late = outcome.late_us as f64 / 1000.0;
        let why = if share >= BUSY_PERCENT {
            "its threads were busy all the time: give it more --cores".to_owned()
        } else {
            format!("it began requests up to {late:.1} ms late (p99): the machine starves it")
        };
        row("WARNING", format!("the generator was the bottleneck; {why}"));
    }
    text
}

fn pace(plan: &Plan) -> String {
    let callers = plan.concurrency;
    match plan.rate {
        _ if matches!(plan.scenario, Scenario::Idle | Scenario::SlowReaders) => {
            format!("{callers} connections")
        }
        Some(rate) => format!("open loop of {rate} requests/s, {callers} callers"),
        None => format!("closed loop of {callers} callers"),
    }
}

fn latency(micros: &[u64]) -> String {
    let shown = [(50.0, "p50"), (90.0, "p90"), (99.0, "p99"), (99.9, "p99.9"), (100.0, "max")];
    if micros.iter().all(|micros| *micros == 0) {
        return "no request was answered well".to_owned();
    }
    let mut parts = Vec::new();
    for (percentile, value) in PERCENTILES.iter().zip(micros) {
        let known = shown.iter().find(|(wanted, _)| (wanted - percentile).abs() < 1e-9);
        if let Some((_, name)) = known {
            parts.push(format!("{name} {}", span(*value)));
        }
    }
    parts.join("  ")
}

/// Three digits and a unit.
fn span(micros: u64) -> String {
    let (value, unit) = match micros {
        0..1_000 => return format!("{micros} µs"),
        1_000..1_000_000 => (micros as f64 / 1e3, "ms"),
        _ => (micros as f64 / 1e6, "s"),
    };
    let digits = if value < 10.0 { 2 } else { usize::from(value < 100.0) };
    format!("{value:.digits$} {unit}")
}

const BUSY_PERCENT: f64 = 90.0;

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;
    use crate::load::Held;
    use crate::results::Load;

    #[test]
    fn a_table_says_everything_there_is_to_say() {
        let plan = Plan { scenario: Scenario::Idle, ..Plan::for_target("http://h") };
        let outcome = Outcome {
            load: Load {
                case: "idle".to_owned(),
                seconds: 2.0,
                requests: 100,
                failures: BTreeMap::from([("short body".to_owned(), 3)]),
                bytes_up: 0,
                bytes_down: 1 << 30,
                latency_us: vec![1, 2, 3, 400, 5, 6_000, 7, 80_000, 9, 100_000, 11, 2_500_000],
                generator_cpu_seconds: 1.9,
                generator_bound: true,
                ..Load::default()
            },
            examples: vec!["short body: GET /v2/x: the body ended after 7 bytes".to_owned()],
            exchanges: 103,
            late_us: 0,
            interrupted: true,
            held: Some(Held { wanted: 100, survived: 97, memory_kib: Some((1000, 1500)) }),
        };
        let expected = "\
target      http://h
scenario    idle, 16 connections
measured    2.0 s, interrupted
requests    100 answered well, 103 HTTP exchanges
rate        50.0 requests/s
bodies      0.000 GiB/s up, 0.500 GiB/s down
latency     p50 400 µs  p90 6.00 ms  p99 80.0 ms  p99.9 100 ms  max 2.50 s
held        97 of 100 idle connections survived
memory      1000 KiB before, 1500 KiB with them: 5.0 KiB each
failed      3
            3 × short body: GET /v2/x: the body ended after 7 bytes
generator   1.90 CPU s, 95 % of 1 thread
WARNING     the generator was the bottleneck; its threads were busy all the time: give it more \
                        --cores
";
        assert_eq!(table(&plan, &outcome), expected);
    }
}
