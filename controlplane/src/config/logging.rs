//! The flags of the log, which every verb that serves has, and that of the audit, which is
//! `proxy`'s.
//!
//! Words of the command line in, forms, a filter and a place out; the rest is `telemetry`'s.

use std::path::PathBuf;

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

/// The flag of the audit.
#[derive(Debug, Args)]
pub struct Auditing {
    /// Where a line of JSON goes for every pull, push and deletion, and for every one that is
    /// refused: `off`, `stdout`, `stderr` or the path of a file, which is appended to, and opened
    /// anew when it has been moved away. docs/reference/audit.md says what the lines hold.
    #[arg(
        long,
        value_name = "WHERE",
        env = "HARBOR_CONNECTOR_AUDIT",
        default_value = "off",
        value_parser = audit_place
    )]
    pub audit: AuditPlace,
}

/// Where the audit goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AuditPlace {
    /// Nowhere.
    Off,
    /// The process's stdout, which also has the line of addresses, once, at the start.
    Stdout,
    /// The process's stderr, which also has the log.
    Stderr,
    /// A file.
    File(PathBuf),
}

/// A word, or a path, which is told from a misspelt word by its slash.
fn audit_place(text: &str) -> Result<AuditPlace, String> {
    match text {
        "off" => Ok(AuditPlace::Off),
        "stdout" => Ok(AuditPlace::Stdout),
        "stderr" => Ok(AuditPlace::Stderr),
        path if path.contains('/') => Ok(AuditPlace::File(path.into())),
        _ => Err("write off, stdout, stderr, or a path with a slash in it".to_owned()),
    }
}
