//! The flags of the log, which every verb that serves has.
//!
//! Words of the command line in, a form and a filter out; the log itself is `telemetry`'s.

use clap::{Args, ValueEnum};

/// The flags of the log.
#[derive(Debug, Args)]
pub struct Logging {
    /// The form of the log on stderr.
    #[arg(long, value_enum, env = "HARBOR_CONNECTOR_LOG", default_value = "text")]
    pub log: LogForm,

    /// What is logged, such as `info` or `warn,access=info`.
    #[arg(
        long,
        value_name = "FILTER",
        env = "HARBOR_CONNECTOR_LOG_FILTER",
        default_value = "info"
    )]
    pub log_filter: String,
}

/// The form of the log.
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum LogForm {
    /// For people.
    Text,
    /// For programs, one object a line.
    Json,
}
