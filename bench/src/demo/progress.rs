//! How far a long step is, on stderr: one line redrawn on a terminal, else a line every tenth.
//!
//! Byte counts in, lines out. It never writes to stdout, which is for results.

use std::io::{IsTerminal, Write, stderr};
use std::time::{Duration, Instant};

/// One step that moves a known number of bytes.
pub(crate) struct Progress {
    label: &'static str,
    total: u64,
    moved: u64,
    started: Instant,
    drawn: Instant,
    tenths: u64,
    redraws: bool,
}

impl Progress {
    /// Begins a step of `total` bytes.
    pub(crate) fn new(label: &'static str, total: u64) -> Self {
        let started = Instant::now();
        let redraws = stderr().is_terminal();
        Self { label, total, moved: 0, started, drawn: started, tenths: 0, redraws }
    }

    /// `count` more bytes have moved.
    pub(crate) fn add(&mut self, count: u64) {
        self.moved += count;
        let tenths = self.moved * 10 / self.total.max(1);
        let due = if self.redraws { self.drawn.elapsed() >= REDRAW } else { tenths > self.tenths };
        if due && self.moved < self.total {
            self.tenths = tenths;
            self.draw("");
        }
    }

    /// The step is over.
    pub(crate) fn finish(mut self) {
        self.draw(if self.redraws { "\n" } else { "" });
    }

    fn draw(&mut self, end: &str) {
        self.drawn = Instant::now();
        let (before, after) = if self.redraws { ("\r", "\x1b[K") } else { ("", "\n") };
        let share = self.moved * 100 / self.total.max(1);
        let seconds = self.started.elapsed().as_secs_f64().max(1e-9);
        let (moved, total) = (gib(self.moved), gib(self.total));
        let line = format!(
            "{:<14} {share:>3} %  {moved:.2} of {total:.2} GiB  {:.2} GiB/s",
            self.label,
            moved / seconds
        );
        // A terminal that went away is no reason to stop.
        drop(write!(stderr(), "{before}{line}{after}{end}"));
    }
}

/// Bytes as GiB.
pub(crate) fn gib(bytes: u64) -> f64 {
    bytes as f64 / (1u64 << 30) as f64
}

const REDRAW: Duration = Duration::from_millis(100);
