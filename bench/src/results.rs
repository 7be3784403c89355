//! What a measurement leaves behind: one JSON object a line, so that runs can be kept, compared and
//! drawn long after.
//!
//! `run` and `compare` write these, `report` and `diff` read them. A field is only ever added, with
//! a default, so that an old file stays readable.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{self, BufRead as _, BufReader, Write as _};
use std::path::Path;

use serde::{Deserialize, Serialize};

/// One line of a results file.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "record")]
pub(crate) enum Line {
    /// The machine and the programs: the first line of every file.
    Machine(Machine),
    /// One load, as `run` or one repetition of `compare` saw it.
    Load(Load),
    /// What one contender cost in one case of `compare` or `growth`, over its repetitions.
    Cost(Cost),
}

/// Where and with what a measurement was made.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Machine {
    /// Seconds since 1970.
    pub(crate) unix_time: u64,
    /// The processor's name.
    pub(crate) cpu: String,
    /// How many processors the run could use.
    pub(crate) cpus: usize,
    /// The kernel's release.
    pub(crate) kernel: String,
    /// Memory in MiB.
    pub(crate) memory_mib: u64,
    /// TCP congestion control in force.
    pub(crate) congestion_control: String,
    /// Whether the run was made in a network namespace of its own.
    pub(crate) own_namespace: bool,
    /// Name and version of every program measured.
    pub(crate) versions: BTreeMap<String, String>,
    /// The command line.
    pub(crate) command: String,
}

/// One load and what came of it.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Load {
    /// What was loaded: a contender's name, or the target's URL without credentials.
    pub(crate) contender: String,
    /// The scenario or case.
    pub(crate) case: String,
    /// Which repetition, from 0.
    pub(crate) repetition: usize,
    /// Seconds that were measured, warm-up left out.
    pub(crate) seconds: f64,
    /// Requests that were answered as they should be.
    pub(crate) requests: u64,
    /// What failed, by cause.
    pub(crate) failures: BTreeMap<String, u64>,
    /// Body bytes sent.
    pub(crate) bytes_up: u64,
    /// Body bytes received.
    pub(crate) bytes_down: u64,
    /// Latency in microseconds at the percentiles of [`PERCENTILES`], from the intended start.
    pub(crate) latency_us: Vec<u64>,
    /// Bytes moved in each second of the run.
    pub(crate) bytes_by_second: Vec<u64>,
    /// CPU seconds that the generator itself used.
    pub(crate) generator_cpu_seconds: f64,
    /// Whether the generator was the bottleneck, so that the figures say little of the contender.
    pub(crate) generator_bound: bool,
}

/// The percentiles that [`Load::latency_us`] holds, in order.
pub(crate) const PERCENTILES: [f64; 12] =
    [0.0, 10.0, 25.0, 50.0, 75.0, 90.0, 95.0, 99.0, 99.5, 99.9, 99.99, 100.0];

/// What one contender cost in one case.
#[derive(Clone, Debug, Default, Deserialize, PartialEq, Serialize)]
pub(crate) struct Cost {
    /// `ours-uring`, `ours-epoll`, `haproxy`, `nginx`, `envoy`, `floor`.
    pub(crate) contender: String,
    /// `pull`, `push`, `push-chunked`, `pull-tls`, `push-tls`, `pull-tls-both`, `push-tls-both`,
    /// `uploads-50`, `get-1k`, `idle`, `active`; or a figure of `growth`.
    pub(crate) case: String,
    /// What [`Cost::samples`] count: `cpu-s/GiB`, `us/request`, `KiB/connection`, `us` or `ratio`.
    pub(crate) unit: String,
    /// One figure a repetition, in the order they were measured.
    pub(crate) samples: Vec<f64>,
    /// GiB a second of wall time, one a repetition, where bytes moved.
    #[serde(default)]
    pub(crate) gib_per_second: Vec<f64>,
    /// The bar of the case, as a sentence, and whether it was met; none for other contenders.
    #[serde(default)]
    pub(crate) verdict: Option<Verdict>,
}

/// How a figure stands to its bar.
#[derive(Clone, Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Verdict {
    /// The bar, such as `at most 1.10 of haproxy`.
    pub(crate) must: String,
    /// The figure as a multiple of what the bar is measured by, or the figure itself.
    pub(crate) figure: f64,
    /// The largest figure that meets the bar.
    pub(crate) limit: f64,
}

impl Verdict {
    /// Whether the bar was met.
    pub(crate) fn is_met(&self) -> bool {
        self.figure <= self.limit
    }
}

impl Cost {
    /// The middle sample; 0 where there is none.
    pub(crate) fn median(&self) -> f64 {
        median(&self.samples)
    }
}

/// The middle of `samples`, or the mean of the two in the middle; 0 where there is none.
pub(crate) fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    let middle = sorted.len() / 2;
    let at = |place: usize| sorted.get(place).copied().unwrap_or_default();
    if sorted.len() % 2 == 1 {
        at(middle)
    } else {
        (at(middle.saturating_sub(1)) + at(middle)) / 2.0
    }
}

/// What `one` costs as a multiple of `other`, taken repetition by repetition, because two
/// measurements a moment apart share what the machine was doing: the mean of the ratios without the
/// smallest and the largest. It uses more of five samples than the middle one does, and one bad
/// moment does not move it. The ratio of the medians where some repetition is missing.
pub(crate) fn ratio(one: &Cost, other: &Cost) -> f64 {
    let mut ratios = ratios(one, other);
    ratios.sort_by(f64::total_cmp);
    let inner = match ratios.len() {
        0 => return one.median() / other.median().max(f64::MIN_POSITIVE),
        1 | 2 => ratios.as_slice(),
        count => ratios.get(1..count - 1).unwrap_or_default(),
    };
    inner.iter().sum::<f64>() / inner.len() as f64
}

/// The ratio of each repetition; none where some repetition is missing.
pub(crate) fn ratios(one: &Cost, other: &Cost) -> Vec<f64> {
    if one.samples.len() != other.samples.len() {
        return Vec::new();
    }
    let pairs = one.samples.iter().zip(&other.samples).filter(|(_, other)| **other > 0.0);
    pairs.map(|(one, other)| one / other).collect()
}

/// The peer of which costs are shown as multiples.
pub(crate) const REFERENCE: &str = "haproxy";

/// Appends `lines` to the file at `path`, which is made if need be.
pub(crate) fn append(path: &Path, lines: &[Line]) -> io::Result<()> {
    let mut file = OpenOptions::new().create(true).append(true).open(path)?;
    for line in lines {
        writeln!(file, "{}", serde_json::to_string(line)?)?;
    }
    Ok(())
}

/// Reads the file at `path`; a line that is none names its number.
pub(crate) fn read(path: &Path) -> io::Result<Vec<Line>> {
    let file = BufReader::new(File::open(path)?);
    file.lines()
        .enumerate()
        .map(|(number, line)| {
            let parsed = serde_json::from_str(&line?);
            parsed.map_err(|cause| io::Error::other(format!("line {}: {cause}", number + 1)))
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_can_be_read_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("run.jsonl");
        let cost =
            Cost { contender: "floor".into(), samples: vec![0.3, 0.1, 0.2], ..Cost::default() };
        assert!((cost.median() - 0.2).abs() < 1e-9);
        let lines =
            [Line::Machine(Machine::default()), Line::Cost(cost), Line::Load(Load::default())];
        append(&path, &lines[..1]).unwrap();
        append(&path, &lines[1..]).unwrap();
        assert_eq!(read(&path).unwrap(), lines);
    }

    #[test]
    fn a_ratio_is_taken_repetition_by_repetition() {
        let cost = |samples: &[f64]| Cost { samples: samples.to_vec(), ..Cost::default() };
        // The machine became twice as slow after the first; it stayed at 1.2.
        let of = |one: &[f64], other: &[f64]| ratio(&cost(one), &cost(other));
        assert!((of(&[1.2, 2.4, 2.4], &[1.0, 2.0, 2.0]) - 1.2).abs() < 1e-9);
        assert!((of(&[1.2, 2.4, 2.4], &[1.0, 2.0]) - 1.6).abs() < 1e-9);
        // One bad moment on either side moves nothing.
        assert!((of(&[1.2, 9.0, 1.2, 1.2], &[1.0, 1.0, 9.0, 1.0]) - 1.2).abs() < 1e-9);
    }

    #[test]
    fn the_median_of_an_even_number_lies_between_the_middle_two() {
        assert!((median(&[4.0, 1.0, 3.0, 2.0]) - 2.5).abs() < 1e-9);
        assert!(median(&[]).abs() < 1e-9);
    }
}
