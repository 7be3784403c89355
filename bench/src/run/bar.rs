//! How far the load is, on stderr: a bar redrawn on a terminal, else a line now and then.
//!
//! [`Progress`] in, text out. It never writes to stdout, which is for results, and nothing at all
//! about a phase on a terminal that is over within two seconds.

use std::io::{IsTerminal as _, Write as _, stderr};
use std::time::{Duration, Instant};

use crate::load::{Phase, Progress};

/// What shows progress.
pub(crate) struct Bar {
    redraws: bool,
    drawn: bool,
    phase: Option<Phase>,
    shown: Instant,
    before: (Instant, u64, u64),
}

impl Bar {
    /// A bar on this process's stderr.
    pub(crate) fn new() -> Self {
        let now = Instant::now();
        let redraws = stderr().is_terminal();
        Self { redraws, drawn: false, phase: None, shown: now, before: (now, 0, 0) }
    }

    /// Shows it, if it is worth it.
    pub(crate) fn show(&mut self, progress: &Progress) {
        let now = Instant::now();
        if self.phase != Some(progress.phase) {
            self.end();
            self.phase = Some(progress.phase);
            self.before = (now, progress.requests, progress.bytes);
            self.shown = now;
            if !self.redraws {
                say(&format!("{}\n", name(progress.phase)));
            }
            return;
        }
        let whole = progress.elapsed.as_secs_f64() / progress.share.max(1e-9);
        let due =
            if self.redraws { whole > SHORT_SECONDS } else { now - self.shown >= PLAIN_EVERY };
        if !due {
            return;
        }
        let (since, requests, bytes) = self.before;
        let text = line(progress, now - since, requests, bytes);
        self.shown = now;
        if now - since >= RATE_OVER {
            self.before = (now, progress.requests, progress.bytes);
        }
        if self.redraws {
            self.drawn = true;
            say(&format!("\r{text}\x1b[K"));
        } else {
            say(&format!("{text}\n"));
        }
    }

    /// Takes the bar away.
    pub(crate) fn end(&mut self) {
        if std::mem::take(&mut self.drawn) {
            say("\r\x1b[K");
        }
    }
}

fn say(text: &str) {
    // A terminal that went away is no reason to stop.
    drop(stderr().write_all(text.as_bytes()));
}

fn line(progress: &Progress, since: Duration, requests: u64, bytes: u64) -> String {
    let seconds = since.as_secs_f64().max(1e-9);
    let rate = progress.requests.saturating_sub(requests) as f64 / seconds;
    let gib = progress.bytes.saturating_sub(bytes) as f64 / seconds / f64::from(1 << 30);
    let done = (progress.share * WIDTH as f64) as usize;
    let left = progress.elapsed.as_secs_f64() * (1.0 / progress.share.max(1e-3) - 1.0);
    let failed = match progress.failed {
        0 => String::new(),
        failed => format!("  {failed} failed"),
    };
    format!(
        "{:<10} [{:<WIDTH$}] {:>3.0} %  {rate:.0} requests/s  {gib:.2} GiB/s  {} connections\
         {failed}  {left:.0} s left",
        name(progress.phase),
        "#".repeat(done.min(WIDTH)),
        progress.share * 100.0,
        progress.connections,
    )
}

fn name(phase: Phase) -> &'static str {
    match phase {
        Phase::SetUp => "setting up",
        Phase::WarmUp => "warming up",
        Phase::Measuring => "measuring",
        Phase::Ending => "ending",
    }
}

const WIDTH: usize = 20;
const SHORT_SECONDS: f64 = 2.0;
const PLAIN_EVERY: Duration = Duration::from_secs(5);
/// Rates are over at least so long, lest they flicker.
const RATE_OVER: Duration = Duration::from_secs(1);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_has_rate_failures_and_time_left() {
        let progress = Progress {
            phase: Phase::Measuring,
            elapsed: Duration::from_secs(5),
            share: 0.5,
            requests: 3000,
            failed: 2,
            bytes: 3 << 30,
            connections: 16,
        };
        expect(
            &line(&progress, Duration::from_secs(2), 1000, 1 << 30),
            "measuring  [##########          ]  50 %  1000 requests/s  1.00 GiB/s  \
             16 connections  2 failed  5 s left",
        );
    }

    fn expect(line: &str, expected: &str) {
        assert_eq!(line, expected);
    }
}
