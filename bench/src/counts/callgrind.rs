//! The bench under callgrind: this program runs itself there and reads how many instructions that
//! took.
//!
//! A stage and a number of operations in, instructions out. Needs valgrind; Debian has a package.

use std::fs;
use std::process::{Command, Stdio};

use anyhow::{Context as _, ensure};

/// The version that valgrind gives itself; `None` where it is not installed.
pub(crate) fn version() -> Option<String> {
    let output = Command::new("valgrind").arg("--version").output().ok()?;
    let text = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    (output.status.success() && !text.is_empty()).then_some(text)
}

/// The instructions of a whole process that does `stage` `times` times.
///
/// # Errors
/// When the process fails or callgrind's figures cannot be read.
pub(crate) fn count(stage: &str, times: u64) -> anyhow::Result<u64> {
    let folder = tempfile::tempdir().context("making a folder for callgrind")?;
    let path = folder.path().join("callgrind.out");
    let own = std::env::current_exe().context("finding this program")?;
    let output = Command::new("valgrind")
        .args(["--tool=callgrind", "--quiet"])
        .arg(format!("--callgrind-out-file={}", path.display()))
        .arg(own)
        .args(["counts", "--stage", stage, "--iterations", &times.to_string()])
        // Of all the environment only this can matter, and what differs would be counted.
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap_or_default())
        .stdin(Stdio::null())
        .output()
        .context("running valgrind")?;
    let said = String::from_utf8_lossy(&output.stderr);
    ensure!(output.status.success(), "{stage} under callgrind: {}", said.trim());
    let text = fs::read_to_string(&path).context("reading what callgrind wrote")?;
    total(&text).with_context(|| format!("{stage}: callgrind wrote no total"))
}

/// The sum at the end of callgrind's output.
fn total(text: &str) -> Option<u64> {
    let figures = |line: &str| {
        let rest = line.strip_prefix("totals:").or(line.strip_prefix("summary:"))?;
        rest.split_whitespace().next()?.parse().ok()
    };
    text.lines().rev().find_map(figures)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_total_is_the_last_sum() {
        let text = "version: 1\nevents: Ir\nsummary: 5\n\nfn=(1)\n3 4\n\ntotals: 1234567\n";
        assert_eq!(total(text), Some(1_234_567));
        assert_eq!(total("events: Ir\nsummary: 77\n"), Some(77));
        assert_eq!(total("events: Ir\n"), None);
    }
}
