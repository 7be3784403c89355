//! The log: text or JSON lines on stderr, written by a thread of its own; and beside it the audit.
//!
//! A form and a filter in, lines out. A core never waits for stderr: when whoever reads it is too
//! slow, lines are dropped and counted. What is of the target `audit` goes to the audit's journal
//! and never into the log, whatever the filter says.

mod audit;
mod journal;

use std::backtrace::Backtrace;
use std::panic;

use tracing_appender::non_blocking::{ErrorCounter, NonBlockingBuilder, WorkerGuard};
use tracing_subscriber::filter::{ParseError, filter_fn};
use tracing_subscriber::layer::SubscriberExt as _;
use tracing_subscriber::util::SubscriberInitExt as _;
use tracing_subscriber::{EnvFilter, Layer as _, fmt, registry};

pub use self::journal::{Journal, Numbers as AuditNumbers};
use crate::config::LogForm;

/// The running log. Dropping it writes what is still waiting.
pub struct Telemetry {
    _writer: WorkerGuard,
    dropped: ErrorCounter,
}

impl Telemetry {
    /// Starts the log, and makes panics part of it.
    pub fn start(form: LogForm, filter: &str) -> Result<Self, ParseError> {
        Self::start_with(form, filter, None)
    }

    /// The same, with the audit's lines for `journal`.
    pub fn start_with(
        form: LogForm,
        filter: &str,
        journal: Option<&Journal>,
    ) -> Result<Self, ParseError> {
        // kube's own lines can hold an answer as it came, and with it a token: we say ourselves
        // what failed.
        let filter = EnvFilter::builder()
            .parse(filter)?
            .add_directive("kube_client=off".parse()?)
            .add_directive("audit=off".parse()?);
        let (lines, writer) = NonBlockingBuilder::default()
            .lossy(true)
            .buffered_lines_limit(LINES_WAITING_MAX)
            .thread_name("log")
            .finish(std::io::stderr());
        let dropped = lines.error_counter();
        let log = fmt::layer().with_writer(lines);
        let log = match form {
            LogForm::Text => log.with_ansi(false).boxed(),
            LogForm::Json => log.json().flatten_event(true).boxed(),
        };
        let of_audit = filter_fn(|event| event.target() == audit::TARGET);
        match journal {
            None => registry().with(filter.and_then(log)).init(),
            Some(journal) => {
                let audit = audit::Audit(journal.lines()).with_filter(of_audit);
                registry().with(log.with_filter(filter)).with(audit).init();
            }
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
