//! The figures that are kept in git, and how new ones stand to them.
//!
//! A JSON file in and out; tables and complaints as text.

use std::collections::BTreeMap;
use std::path::Path;
use std::{fs, io};

use anyhow::Context as _;
use serde::{Deserialize, Serialize};

use crate::report::words::figure;

/// Instructions an operation, by stage.
pub(crate) type Counts = BTreeMap<String, u64>;

/// What a file of figures holds.
#[derive(Debug, Deserialize, PartialEq, Serialize)]
pub(crate) struct Kept {
    /// The valgrind that counted.
    pub(crate) valgrind: String,
    /// The figures.
    pub(crate) instructions: Counts,
}

/// The figures in the file at `path`; `None` where there is none.
///
/// # Errors
/// When it cannot be read or understood.
pub(crate) fn read(path: &Path) -> anyhow::Result<Option<Kept>> {
    match fs::read_to_string(path) {
        Ok(text) => {
            let kept = serde_json::from_str(&text);
            Ok(Some(kept.with_context(|| format!("understanding {}", path.display()))?))
        }
        Err(cause) if cause.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(cause) => Err(cause).with_context(|| format!("reading {}", path.display())),
    }
}

/// Writes `kept` to the file at `path`, and makes its folder if need be.
///
/// # Errors
/// What the file system says.
pub(crate) fn write(path: &Path, kept: &Kept) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        fs::create_dir_all(folder)?;
    }
    fs::write(path, serde_json::to_string_pretty(kept)? + "\n")
}

/// One line a stage: what it takes, what it took, and the change.
pub(crate) fn table(counts: &Counts, kept: Option<&Kept>) -> String {
    let mut text =
        format!("{:<18} {:>14} {:>12} {:>9}\n", "stage", "instructions", "kept", "change");
    for (stage, count) in counts {
        let old = kept.and_then(|kept| kept.instructions.get(stage));
        let (old, change) = match old {
            Some(old) => (figure(*old as f64), format!("{:+.1} %", change(*count, *old))),
            None => ("–".to_owned(), "new".to_owned()),
        };
        let count = figure(*count as f64);
        text.push_str(&format!("{stage:<18} {count:>14} {old:>12} {change:>9}\n"));
    }
    text
}

/// The stages that take more than `limit` percent more than was kept, and those that are gone.
pub(crate) fn risen(counts: &Counts, kept: &Counts, limit: f64) -> Vec<String> {
    let mut complaints = Vec::new();
    for (stage, old) in kept {
        match counts.get(stage) {
            None => complaints.push(format!("{stage} is no longer counted")),
            Some(count) if change(*count, *old) > limit => {
                complaints.push(format!("{stage} {:+.1} %", change(*count, *old)));
            }
            Some(_) => {}
        }
    }
    let uncompared = counts.keys().filter(|stage| !kept.contains_key(*stage));
    complaints.extend(uncompared.map(|stage| format!("{stage} has no kept figure")));
    complaints
}

fn change(count: u64, old: u64) -> f64 {
    count as f64 * 100.0 / old.max(1) as f64 - 100.0
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts(figures: &[(&str, u64)]) -> Counts {
        figures.iter().map(|(stage, count)| ((*stage).to_owned(), *count)).collect()
    }

    #[test]
    fn only_a_rise_beyond_the_limit_is_a_complaint() {
        let kept = counts(&[("a", 1000), ("b", 1000), ("c", 1000)]);
        let now = counts(&[("a", 1050), ("b", 1051), ("c", 200)]);
        assert_eq!(risen(&now, &kept, 5.0), ["b +5.1 %"]);
    }

    #[test]
    fn a_stage_that_comes_or_goes_is_a_complaint() {
        let complaints = risen(&counts(&[("new", 1)]), &counts(&[("old", 1)]), 5.0);
        assert_eq!(complaints, ["old is no longer counted", "new has no kept figure"]);
    }

    #[test]
    fn figures_that_were_kept_are_found_again() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("counts/arch-dev.json");
        assert_eq!(read(&path).unwrap(), None);
        let kept = Kept { valgrind: "valgrind-3".into(), instructions: counts(&[("a", 5)]) };
        write(&path, &kept).unwrap();
        assert_eq!(read(&path).unwrap().as_ref(), Some(&kept));
        let table = table(&counts(&[("a", 6), ("b", 12_345)]), Some(&kept));
        assert!(table.contains("+20.0 %") && table.contains("12,345"), "{table}");
        fs::write(&path, "{").unwrap();
        assert!(read(&path).is_err());
    }
}
