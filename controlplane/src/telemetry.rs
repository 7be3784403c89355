//! The log: text or JSON lines on stderr, written by a thread of its own.
//!
//! A form and a filter in, lines out. A core never waits for stderr: when whoever reads it is too
//! slow, lines are dropped and counted.

use std::backtrace::Backtrace;
use std::panic;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::ParseError;

use crate::config::LogForm;

/// The running log. Dropping it writes what is still waiting.
pub struct Telemetry {
    _writer: WorkerGuard,
    dropped: ErrorCounter,
}

impl Telemetry {
    /// Starts the log, and makes panics part of it.
    pub fn start(form: LogForm, filter: &str) -> Result<Self, ParseError> {
        // kube's own lines can hold an answer as it came, and with it a token: we say ourselves
        // what failed.
        let filter = EnvFilter::builder().parse(filter)?.add_directive("kube_client=off".parse()?);
        let (lines, writer) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_WAITING_MAX)
            .thread_name("log")
            .finish(std::io::stderr());
        let dropped = lines.error_counter();
        let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(lines);
        match form {
            LogForm::Text => log.with_ansi(false).init(),
            LogForm::Json => log.json().flatten_event(true).init(),
        }
        report_panics();
        Ok(Self { _writer: writer, dropped })
    }

    /// Counts the lines that were dropped.
    pub fn dropped(&self) -> ErrorCounter {
        self.dropped.clone()
    }
}

/// A panic is logged by its place alone: its message may hold what a peer sent.
fn report_panics() {
    panic::set_hook(Box::new(|panic| {
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        let trace = Backtrace::capture();
        tracing::error!(place, %trace, "panic");
    }));
}

/// Lines that may wait for stderr: some seconds of a busy proxy, a few megabytes.
const LINES_WAITING_MAX: usize = 16_384;
