//! Two runs side by side: what became dearer, what cheaper, and what only wobbled.
//!
//! Two results files in, a table on stdout and an exit code out. Of a file with several runs the
//! last one counts. A difference is named one only where the two spreads do not overlap: medians of
//! a shared machine always differ by something.

use std::path::PathBuf;

use anyhow::Context as _;

use crate::report::runs::{Loads, Run, pace};
use crate::report::words;
use crate::results::{Cost, REFERENCE, median, ratio};

/// The verb `diff`.
#[derive(clap::Args, Default)]
pub(crate) struct Flags {
    /// The results that are compared with.
    #[arg(value_name = "A")]
    before: PathBuf,
    /// The results that are compared.
    #[arg(value_name = "B")]
    after: PathBuf,
    /// Fail when a cost rose by more than this many percent and beyond its spread.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    fail_over: Option<f64>,
    /// Compare what processor time costs as multiples of the reference in the same run, and fail
    /// when a multiple differs by more than this many percent.
    #[arg(long, value_name = "PERCENT", value_parser = percent)]
    ratios_within: Option<f64>,
    /// The contender that the others are multiples of.
    #[arg(long, value_name = "NAME", default_value = REFERENCE)]
    reference: String,
}

fn percent(text: &str) -> Result<f64, String> {
    let value: f64 = text.parse().map_err(|_| "not a number".to_owned())?;
    if value.is_finite() && value >= 0.0 { Ok(value) } else { Err("below 0".to_owned()) }
}

/// One figure in both runs.
struct Pair {
    case: String,
    contender: String,
    unit: String,
    before: Vec<f64>,
    after: Vec<f64>,
}

/// Runs the verb `diff`.
///
/// # Errors
/// When a file cannot be read, the runs have nothing in common, or `--fail-over` is exceeded.
pub(crate) fn run(flags: &Flags) -> anyhow::Result<()> {
    let before = last_run(&flags.before)?;
    let after = last_run(&flags.after)?;
    let pairs = pairs(&before, &after);
    anyhow::ensure!(!pairs.is_empty(), "the two runs have no case and contender in common");
    print!("{}", table(&pairs, &|pair| pair.verdict().to_owned()));
    for line in [only_in(&before, &after), only_in(&after, &before)].into_iter().flatten() {
        println!("{line}");
    }
    if let Some(limit) = flags.ratios_within {
        agree(&before, &after, &flags.reference, limit)?;
    }
    let Some(limit) = flags.fail_over else {
        return Ok(());
    };
    let risen: Vec<String> = pairs
        .iter()
        .filter(|pair| pair.ratio() > 1.0 + limit / 100.0 && pair.is_beyond_spread())
        .map(|pair| format!("{} of {} ({:+.1} %)", pair.case, pair.contender, pair.change()))
        .collect();
    anyhow::ensure!(risen.is_empty(), "rose by more than {limit} %: {}", risen.join(", "));
    Ok(())
}

/// Shows every multiple of `reference` in both runs, and fails unless all agree.
fn agree(before: &Run, after: &Run, reference: &str, limit: f64) -> anyhow::Result<()> {
    let known = multiples(before, reference);
    let pairs: Vec<Pair> = multiples(after, reference)
        .into_iter()
        .filter_map(|pair| {
            let old = known.iter().find(|old| old.key() == pair.key())?;
            Some(Pair { before: old.after.clone(), ..pair })
        })
        .collect();
    anyhow::ensure!(!pairs.is_empty(), "the runs share no multiple of {reference}");
    // From the smaller to the larger one, so that it does not matter which run came first.
    let apart = |pair: &Pair| (pair.ratio().max(1.0 / pair.ratio()) - 1.0) * 100.0;
    let is_beyond = |pair: &&Pair| apart(pair) > limit;
    let verdict = |pair: &Pair| {
        let word = if is_beyond(&pair) { "beyond" } else { "within" };
        format!("{word}, {:.1} % apart", apart(pair))
    };
    print!("\n{}", table(&pairs, &verdict));
    let beyond: Vec<String> = pairs
        .iter()
        .filter(is_beyond)
        .map(|pair| format!("{} of {} ({:.1} %)", pair.case, pair.contender, apart(pair)))
        .collect();
    println!("{} of {} ratios within {limit} %", pairs.len() - beyond.len(), pairs.len());
    anyhow::ensure!(beyond.is_empty(), "more than {limit} % apart: {}", beyond.join(", "));
    Ok(())
}

/// What processor time costs everybody as a multiple of `reference`, case by case.
fn multiples(run: &Run, reference: &str) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for unit in PROCESSOR_TIME {
        for case in run.cases(unit) {
            let (of, others): (Vec<&Cost>, Vec<&Cost>) =
                run.costs_of(case, unit).into_iter().partition(|cost| cost.contender == reference);
            let Some(of) = of.first() else { continue };
            let unit = format!("× {reference}");
            pairs.extend(
                others
                    .into_iter()
                    .map(|cost| Pair::of(case, &cost.contender, &unit, vec![ratio(cost, of)])),
            );
        }
    }
    pairs
}

fn last_run(path: &std::path::Path) -> anyhow::Result<Run> {
    let mut runs = crate::report::read(path)?;
    runs.pop().with_context(|| format!("{} holds no run", path.display()))
}

/// Every figure that both runs have; less is better in all of them.
fn pairs(before: &Run, after: &Run) -> Vec<Pair> {
    figures(after)
        .into_iter()
        .filter_map(|mut pair| {
            let same = |old: &&Pair| pair.key() == old.key();
            let known = figures(before);
            pair.before = known.iter().find(same)?.after.clone();
            Some(pair)
        })
        .collect()
}

/// The figures of one run, as the later half of pairs.
fn figures(run: &Run) -> Vec<Pair> {
    let mut pairs = Vec::new();
    for unit in run.units() {
        for case in run.cases(unit) {
            let costs = run.costs_of(case, unit).into_iter();
            pairs.extend(
                costs.map(|cost| Pair::of(case, &cost.contender, unit, cost.samples.clone())),
            );
        }
    }
    for case in run.load_cases() {
        run.loads_of(case).into_iter().for_each(|loads| pairs.extend(of_loads(loads)));
    }
    pairs
}

/// What a load is compared by: seconds a GiB where bytes moved, and two latencies.
fn of_loads(loads: &Loads) -> Vec<Pair> {
    let each = |figure: &dyn Fn(&crate::results::Load) -> f64| {
        loads.repetitions.iter().map(figure).collect::<Vec<f64>>()
    };
    let latency = |wanted: f64| {
        each(&|load| {
            let all: Vec<f64> = load.latency_us.iter().map(|us| *us as f64).collect();
            words::at_percentile(&all, wanted).unwrap_or_default()
        })
    };
    let named = [
        ("p50 us", latency(50.0)),
        ("p99 us", latency(99.0)),
        ("wall s/GiB", each(&|load| GIB / pace(load))),
    ];
    named
        .into_iter()
        .filter(|(_, samples)| samples.iter().all(|sample| sample.is_finite() && *sample > 0.0))
        .map(|(unit, samples)| Pair::of(&loads.case, &loads.contender, unit, samples))
        .collect()
}

impl Pair {
    fn of(case: &str, contender: &str, unit: &str, after: Vec<f64>) -> Self {
        let [case, contender, unit] = [case, contender, unit].map(str::to_owned);
        Self { case, contender, unit, before: Vec::new(), after }
    }

    fn key(&self) -> (&str, &str, &str) {
        (&self.case, &self.contender, &self.unit)
    }

    /// The later median as a multiple of the earlier one.
    fn ratio(&self) -> f64 {
        median(&self.after) / median(&self.before)
    }

    fn change(&self) -> f64 {
        (self.ratio() - 1.0) * 100.0
    }

    /// Whether no sample of one run lies among those of the other.
    fn is_beyond_spread(&self) -> bool {
        match (words::spread(&self.before), words::spread(&self.after)) {
            (Some(before), Some(after)) => after.0 > before.1 || after.1 < before.0,
            _ => false,
        }
    }

    fn verdict(&self) -> &'static str {
        match (self.is_beyond_spread(), self.ratio() > 1.0) {
            (false, _) => "within the spread",
            (true, true) => "dearer",
            (true, false) => "cheaper",
        }
    }
}

fn table(pairs: &[Pair], verdict: &dyn Fn(&Pair) -> String) -> String {
    let mut rows = vec![["case", "contender", "unit", "A", "B", "B/A", ""].map(str::to_owned)];
    rows.extend(pairs.iter().map(|pair| {
        [
            pair.case.clone(),
            pair.contender.clone(),
            pair.unit.clone(),
            words::figure(median(&pair.before)),
            words::figure(median(&pair.after)),
            format!("{:.3}", pair.ratio()),
            verdict(pair),
        ]
    }));
    let width = |column: usize| rows.iter().map(|row| row[column].chars().count()).max();
    let widths: Vec<usize> = (0..7).map(|column| width(column).unwrap_or_default()).collect();
    let shown = |row: &[String; 7]| {
        let cells: Vec<String> = row.iter().zip(&widths).enumerate().map(aligned).collect();
        format!("{}\n", cells.join("  ").trim_end())
    };
    rows.iter().map(shown).collect()
}

/// Names to the left, figures to the right.
fn aligned((column, (text, width)): (usize, (&String, &usize))) -> String {
    if (3..6).contains(&column) { format!("{text:>width$}") } else { format!("{text:<width$}") }
}

/// What `one` measured and `other` did not, as a line; `None` where nothing is missing.
fn only_in(one: &Run, other: &Run) -> Option<String> {
    let known = figures(other);
    let missing: Vec<String> = figures(one)
        .iter()
        .filter(|pair| !known.iter().any(|other| other.key() == pair.key()))
        .map(|pair| format!("{} of {}", pair.case, pair.contender))
        .collect();
    (!missing.is_empty()).then(|| format!("only in {}: {}", one.name, missing.join(", ")))
}

const GIB: f64 = 1024.0 * 1024.0 * 1024.0;
/// The units in which processor time is counted.
const PROCESSOR_TIME: [&str; 2] = ["cpu-s/GiB", "us/request"];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::results::{Line, Load, append};

    fn written(folder: &tempfile::TempDir, name: &str, samples: &[f64]) -> PathBuf {
        let path = folder.path().join(name);
        let cost = Cost {
            contender: "ours-uring".into(),
            case: "pull".into(),
            unit: "cpu-s/GiB".into(),
            samples: samples.to_vec(),
            ..Cost::default()
        };
        let load = Load {
            contender: "ours-uring".into(),
            case: "pull".into(),
            seconds: 2.0,
            bytes_down: 4 << 30,
            latency_us: vec![10; 12],
            ..Load::default()
        };
        append(&path, &[Line::Cost(cost), Line::Load(load)]).unwrap();
        path
    }

    fn compared(before: &[f64], after: &[f64], fail_over: Option<f64>) -> anyhow::Result<()> {
        let folder = tempfile::tempdir().unwrap();
        let before = written(&folder, "a.jsonl", before);
        let after = written(&folder, "b.jsonl", after);
        run(&Flags { before, after, fail_over, ..Flags::default() })
    }

    #[test]
    fn a_rise_fails_only_where_asked_beyond_the_limit_and_beyond_the_spread() {
        let (old, risen, wide) = ([0.10, 0.11, 0.12], [0.20, 0.21, 0.22], [0.11, 0.21, 0.3]);
        compared(&old, &risen, None).unwrap();
        let cause = compared(&old, &risen, Some(50.0)).unwrap_err().to_string();
        assert!(cause.contains("pull of ours-uring (+90.9 %)"), "{cause}");
        compared(&old, &risen, Some(95.0)).unwrap();
        compared(&old, &wide, Some(50.0)).unwrap();
        compared(&risen, &old, Some(5.0)).unwrap();
    }

    #[test]
    fn medians_stand_side_by_side_with_their_ratio() {
        let folder = tempfile::tempdir().unwrap();
        let before = last_run(&written(&folder, "a.jsonl", &[0.2, 0.21])).unwrap();
        let after = last_run(&written(&folder, "b.jsonl", &[0.1, 0.11])).unwrap();
        let text = table(&pairs(&before, &after), &|pair| pair.verdict().to_owned());
        let row = "pull  ours-uring  cpu-s/GiB   0.205  0.105  0.512  cheaper";
        assert!(text.contains(row), "{text}");
        let row = "pull  ours-uring  wall s/GiB  0.500  0.500  1.000  within the spread";
        assert!(text.contains(row), "{text}");
    }

    #[test]
    fn multiples_of_the_reference_agree_or_are_named() {
        let folder = tempfile::tempdir().unwrap();
        let written = |name: &str, ours: f64, machine: f64| {
            let path = folder.path().join(name);
            let cost = |contender: &str, figure: f64| {
                Line::Cost(Cost {
                    contender: contender.into(),
                    case: "pull".into(),
                    unit: "cpu-s/GiB".into(),
                    samples: vec![figure * machine, figure * machine * 1.5],
                    ..Cost::default()
                })
            };
            append(&path, &[cost("ours-uring", ours), cost("haproxy", 0.2)]).unwrap();
            path
        };
        // The machine became three times as slow for both; the multiple hardly changed.
        let (a, b) = (written("a.jsonl", 0.20, 1.0), written("b.jsonl", 0.22, 3.0));
        let within = |percent: f64, reference: &str| {
            run(&Flags {
                before: a.clone(),
                after: b.clone(),
                ratios_within: Some(percent),
                reference: reference.to_owned(),
                ..Flags::default()
            })
        };
        within(15.0, "haproxy").unwrap();
        let cause = within(5.0, "haproxy").unwrap_err().to_string();
        assert!(cause.contains("pull of ours-uring (10.0 %)"), "{cause}");
        assert!(within(15.0, "nginx").is_err());
    }

    #[test]
    fn what_only_one_run_has_is_named() {
        let folder = tempfile::tempdir().unwrap();
        let mut before = last_run(&written(&folder, "a.jsonl", &[0.2])).unwrap();
        let after = last_run(&written(&folder, "b.jsonl", &[0.1])).unwrap();
        before.loads.clear();
        let line = only_in(&after, &before).unwrap();
        assert!(line.starts_with("only in b: pull of ours-uring"), "{line}");
        assert!(only_in(&before, &after).is_none());
    }
}
