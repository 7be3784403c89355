//! The table that people read: a row a contender, a column a case, then the verdicts.
//!
//! Judged costs in, text out. Nothing is computed here.

use std::fmt::Write as _;

use super::bars::Entry;
use super::cases::Case;
use super::contenders::Contender;
use crate::results::{Cost, REFERENCE, Verdict, ratio, ratios};

/// Figures as `middle (lowest–highest)`: one table for processor time, one for its multiples of the
/// reference's, one for memory, one for wall clock.
pub(super) fn figures(entries: &[Entry]) -> String {
    let per_byte = |case: &Case| case.unit() == "cpu-s/GiB";
    let cases = |wanted: &dyn Fn(&Case) -> bool| -> Vec<Case> {
        Case::ALL.into_iter().filter(|case| wanted(case)).collect()
    };
    let samples = |cost: &Cost| spread(&cost.samples);
    let multiples = |cost: &Cost| {
        let mut costs = entries.iter().map(|entry| &entry.cost);
        let of_case = |other: &&Cost| other.case == cost.case && other.contender == REFERENCE;
        let reference = costs.find(of_case);
        reference.map_or_else(String::new, |reference| {
            around(ratio(cost, reference), &ratios(cost, reference))
        })
    };
    let speeds = |cost: &Cost| spread(&cost.gib_per_second);
    let is_there = entries.iter().any(|entry| entry.contender.name() == REFERENCE);
    let times = format!("Processor time as a multiple of {REFERENCE}'s: mean of the inner ratios");
    let timed = if is_there { cases(&|case| !case.is_of_memory()) } else { Vec::new() };
    let median = |title: &str| format!("{title}: median");
    [
        block(&median("CPU seconds per GiB"), &cases(&per_byte), entries, &samples),
        block(&median("CPU µs per request"), &[Case::Get1k], entries, &samples),
        block(&times, &timed, entries, &multiples),
        block(
            &median("KiB per connection (PSS and pipes)"),
            &[Case::Idle, Case::Active],
            entries,
            &samples,
        ),
        block(&median("GiB per second of wall time"), &cases(&per_byte), entries, &speeds),
    ]
    .concat()
}

fn block(title: &str, cases: &[Case], entries: &[Entry], cell: &dyn Fn(&Cost) -> String) -> String {
    let measured = |case: &&Case| entries.iter().any(|entry| entry.case == **case);
    let cases: Vec<Case> = cases.iter().filter(measured).copied().collect();
    if cases.is_empty() {
        return String::new();
    }
    let mut text = format!("\n{title} (lowest–highest)\n{:<11}", "");
    for case in &cases {
        let _ = write!(text, " {:>21}", case.name());
    }
    text.push('\n');
    for contender in contenders(entries) {
        let _ = write!(text, "{:<11}", contender.name());
        for case in &cases {
            let found = entries
                .iter()
                .find(|entry| entry.contender == contender && entry.case == *case)
                .map(|entry| cell(&entry.cost));
            let _ = write!(text, " {:>21}", found.unwrap_or_else(|| "–".to_owned()));
        }
        text.push('\n');
    }
    text
}

fn contenders(entries: &[Entry]) -> Vec<Contender> {
    let mut found: Vec<Contender> = entries.iter().map(|entry| entry.contender).collect();
    found.sort_unstable();
    found.dedup();
    found
}

/// `middle (lowest–highest)`.
pub(crate) fn spread(samples: &[f64]) -> String {
    around(crate::results::median(samples), samples)
}

fn around(middle: f64, samples: &[f64]) -> String {
    let Some(lowest) = samples.iter().copied().reduce(f64::min) else {
        return "–".to_owned();
    };
    let highest = samples.iter().copied().fold(lowest, f64::max);
    let places = if highest >= 10.0 { 1 } else { 3 };
    format!("{middle:.places$} ({lowest:.places$}–{highest:.places$})")
}

/// Every verdict, a line each.
pub(crate) fn verdicts(costs: &[&Cost]) -> String {
    let mut text = String::new();
    for cost in costs {
        let Some(verdict) = &cost.verdict else {
            continue;
        };
        if text.is_empty() {
            text.push_str("\nThe bars\n");
        }
        let (word, by) = standing(verdict);
        let Verdict { must, figure, .. } = verdict;
        let (contender, case) = (&cost.contender, &cost.case);
        let _ = writeln!(text, "{contender:<11} {case:<15} {figure:>8.2}  {word} {by}  {must}");
    }
    text
}

fn standing(verdict: &Verdict) -> (&'static str, String) {
    let share = (verdict.figure / verdict.limit - 1.0) * 100.0;
    if verdict.is_met() {
        ("met   ", format!("{:>7}", ""))
    } else {
        ("MISSED", format!("by {share:>2.0} %"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_figure_shows_its_middle_and_its_ends() {
        assert_eq!(spread(&[0.2, 0.1, 0.3]), "0.200 (0.100–0.300)");
        assert_eq!(spread(&[20.0, 10.0]), "15.0 (10.0–20.0)");
        assert_eq!(spread(&[]), "–");
    }

    #[test]
    fn a_bar_is_met_or_missed_by_a_share() {
        let verdict = |figure| Verdict { must: "x".into(), figure, limit: 0.8 };
        assert_eq!(standing(&verdict(0.8)).0, "met   ");
        assert_eq!(standing(&verdict(1.0)), ("MISSED", "by 25 %".to_owned()));
    }
}
