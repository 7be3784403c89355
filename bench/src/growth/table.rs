//! What people read of a run of `growth`: a line a figure, then the verdicts.
//!
//! Costs in, text out. Nothing is computed here.

use std::fmt::Write as _;

use crate::compare::{spread, verdicts};
use crate::results::Cost;

/// All of it.
pub(super) fn of(costs: &[Cost]) -> String {
    let mut text = String::new();
    for cost in costs {
        if text.is_empty() {
            text.push_str("\nMedian (lowest–highest)\n");
        }
        let Cost { contender, case, unit, samples, .. } = cost;
        let _ = write!(text, "{contender:<11} {case:<31} {:>26} {unit}", spread(samples));
        let speed = crate::results::median(&cost.gib_per_second);
        match cost.gib_per_second.is_empty() {
            true => text.push('\n'),
            false => drop(writeln!(text, ", {speed:.2} GiB/s meanwhile")),
        }
    }
    text + &verdicts(&costs.iter().collect::<Vec<_>>())
}
