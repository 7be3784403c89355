//! The bounds of the data plane that have a flag, and how a time is written.
//!
//! Words of the command line in, durations and numbers out.

use std::num::NonZeroUsize;
use std::time::Duration;

use clap::Args;

/// The bounds that have a flag. Their defaults hold in production; tests shorten them.
#[derive(Debug, Args)]
#[command(next_help_heading = "Bounds")]
pub struct Bounds {
    /// From the first byte of a request's head to its last. Slower than the slowest honest caller,
    /// and short enough that a caller who trickles bytes does not keep a place for long.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_HEAD_SECONDS",
        default_value = "15", value_parser = seconds, hide_short_help = true)]
    pub head_seconds: Duration,

    /// How long a kept-alive connection may be without a request. Go's HTTP client closes after
    /// 90 s: it must be the one who closes, or its next request can meet our closing.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_IDLE_CALLER_SECONDS",
        default_value = "95", value_parser = seconds, hide_short_help = true)]
    pub idle_caller_seconds: Duration,

    /// How long no byte of a body may move.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_BODY_PROGRESS_SECONDS",
        default_value = "120", value_parser = seconds, hide_short_help = true)]
    pub body_progress_seconds: Duration,

    /// From an upload's last byte to the registry's answer: it may hash and copy gigabytes first.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_UPLOAD_ANSWER_SECONDS",
        default_value = "900", value_parser = seconds, hide_short_help = true)]
    pub upload_answer_seconds: Duration,

    /// From a request without a body to the registry's answer; below the 30 s at which many
    /// callers give up, so that they learn why.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_ANSWER_SECONDS",
        default_value = "25", value_parser = seconds, hide_short_help = true)]
    pub answer_seconds: Duration,

    /// Connecting to one address of a registry: a SYN is repeated after 1 s and 3 s.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_CONNECT_SECONDS",
        default_value = "5", value_parser = seconds, hide_short_help = true)]
    pub connect_seconds: Duration,

    /// After an answer that came before the end of the caller's body: how long the rest is read
    /// and dropped, so that the answer is not lost to a reset.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_LINGER_SECONDS",
        default_value = "5", value_parser = seconds, hide_short_help = true)]
    pub linger_seconds: Duration,

    /// A TLS handshake, with a registry or with a caller.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_HANDSHAKE_SECONDS",
        default_value = "10", value_parser = seconds, hide_short_help = true)]
    pub handshake_seconds: Duration,

    /// How long requests may come through one tunnel to a connector's host. The answer to the last
    /// of them ends it; a caller opens a new one soon enough, and is asked who it is.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_TUNNEL_AGE_SECONDS",
        default_value = "3600", value_parser = seconds, hide_short_help = true)]
    pub tunnel_age_seconds: Duration,

    /// How long nothing may move through a tunnel to a host that is no connector's.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_TUNNEL_IDLE_SECONDS",
        default_value = "600", value_parser = seconds, hide_short_help = true)]
    pub tunnel_idle_seconds: Duration,

    /// How long an unused connection to a registry is kept. The proxies in front of Harbor close
    /// theirs after 60 s to 75 s: we must be first.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_IDLE_REGISTRY_SECONDS",
        default_value = "30", value_parser = seconds, hide_short_help = true)]
    pub idle_registry_seconds: Duration,

    /// The largest manifest; registries themselves stop at 4 MiB.
    #[arg(
        long,
        value_name = "BYTES",
        env = "HARBOR_CONNECTOR_MANIFEST_BYTES",
        default_value = "8388608",
        hide_short_help = true
    )]
    pub manifest_bytes: u64,

    /// Callers' connections at one time; by default what the limit on open files allows.
    #[arg(long, value_name = "N", env = "HARBOR_CONNECTOR_CONNECTIONS", hide_short_help = true)]
    pub connections: Option<NonZeroUsize>,
}

/// Seconds, fractions allowed, up to a year.
pub(super) fn seconds(text: &str) -> Result<Duration, String> {
    let seconds: f64 = text.parse().map_err(|_| "write a number of seconds".to_owned())?;
    if !(0.0..=365.0 * 86_400.0).contains(&seconds) {
        return Err("write a number of seconds between 0 and a year".to_owned());
    }
    Duration::try_from_secs_f64(seconds).map_err(|cause| cause.to_string())
}
