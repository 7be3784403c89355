//! How far a comparison is, on stderr: a bar on a terminal, else a line a measurement.
//!
//! Names of measurements in, lines out. It never writes to stdout, which is for results.

use std::io::{IsTerminal, Write as _, stderr};
use std::time::Instant;

/// A known number of measurements, one after another.
pub(crate) struct Steps {
    total: usize,
    done: usize,
    started: Instant,
    redraws: bool,
}

impl Steps {
    /// Begins.
    pub(crate) fn new(total: usize) -> Self {
        Self { total, done: 0, started: Instant::now(), redraws: stderr().is_terminal() }
    }

    /// A measurement begins.
    pub(crate) fn begin(&self, step: &str) {
        if self.redraws {
            let filled = self.done * BAR / self.total.max(1);
            let (full, rest) = ("█".repeat(filled), "·".repeat(BAR - filled));
            self.say(&format!("\r{full}{rest} {step}{}\x1b[K", self.left()));
        }
    }

    /// A measurement has ended with `result`.
    pub(crate) fn end(&mut self, step: &str, result: &str) {
        self.done += 1;
        let (before, after) = if self.redraws { ("\r", "\x1b[K\n") } else { ("", "\n") };
        let place = format!("[{}/{}]", self.done, self.total);
        self.say(&format!("{before}{place:>9} {step:<28} {result}{}{after}", self.left()));
    }

    /// The time left, if those that come take as long as those that were.
    fn left(&self) -> String {
        if self.done == 0 || self.done == self.total {
            return String::new();
        }
        let each = self.started.elapsed().as_secs_f64() / self.done as f64;
        let left = (each * (self.total - self.done) as f64).ceil() as u64;
        format!("  {}:{:02} left", left / 60, left % 60)
    }

    fn say(&self, text: &str) {
        // A terminal that went away is no reason to stop.
        drop(stderr().write_all(text.as_bytes()));
    }
}

const BAR: usize = 20;
