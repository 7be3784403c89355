//! Every bound of the data plane, named, in one struct.
//!
//! No `Default`: whoever starts the data plane chooses (`controlplane/src/config.rs` holds the
//! numbers in sight, with their reasons). Sizes are bytes; waits are [`Duration`]s.

use std::time::Duration;

/// The bounds. Exceeding one is an answer to one caller, never a loss for another.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A message's head: request or status line and fields. Beyond it 431, or 502 from a registry.
    pub head_bytes_max: usize,
    /// Fields in one head.
    pub head_fields_max: usize,
    /// The request-target. Beyond it 414.
    pub target_bytes_max: usize,
    /// From the first byte of a request's head to its last.
    pub head_wait: Duration,
    /// A kept-alive connection without a request. Longer than Go's own 90 s, so that the client
    /// closes first and never races with our FIN.
    pub idle_caller_wait: Duration,
    /// A body of which no byte moves.
    pub body_progress_wait: Duration,
    /// From an upload's last byte to the registry's answer: it may hash and copy gigabytes.
    pub upload_answer_wait: Duration,
    /// From a bodiless request to the head of the registry's answer.
    pub answer_wait: Duration,
    /// Connecting to one address of a registry.
    pub connect_wait: Duration,
    /// Connecting to a registry, over all its addresses, TLS included.
    pub connect_total_wait: Duration,
    /// A TLS handshake.
    pub handshake_wait: Duration,
    /// A caller's first TLS message. Beyond it the connection ends.
    pub hello_bytes_max: usize,
    /// How long a connection waits for a certificate.
    pub certificate_wait: Duration,
    /// Certificates remembered per core.
    pub certificates_max: usize,
    /// Connectors one caller may list in `Proxy-Authorization`.
    pub listed_connectors_max: usize,
    /// How long requests may come through one intercepted tunnel.
    pub interception_age_max: Duration,
    /// How long no byte may move through a tunnel to a host that is no connector's.
    pub tunnel_idle_wait: Duration,
    /// A name's resolution.
    pub resolve_wait: Duration,
    /// How long a resolved address serves new connections before the name is asked for again.
    pub resolve_age_max: Duration,
    /// How long the last good addresses serve while the resolver fails.
    pub resolve_stale_max: Duration,
    /// An unused connection to a registry: below the keep-alive of the proxies in front of Harbor.
    pub idle_registry_wait: Duration,
    /// Unused connections kept that long per connector and core …
    pub idle_registry_max: usize,
    /// … and how long those beyond it are kept, which the next requests of a burst use again.
    pub surplus_registry_wait: Duration,
    /// Unused connections kept per connector and core, however short.
    pub burst_registry_max: usize,
    /// After an early answer: how long the rest of the caller's body is read and dropped …
    pub linger_wait: Duration,
    /// … and how much of it.
    pub linger_bytes_max: u64,
    /// A manifest's body. Beyond it 413.
    pub manifest_bytes_max: u64,
    /// An error body of the registry that is read to be replaced.
    pub error_body_bytes_max: usize,
    /// Accounts in an answer of Harbor's API, which are looked through for secrets. Beyond it 502.
    pub accounts_bytes_max: usize,
    /// Interim (1xx) answers of a registry before it is given up.
    pub interim_answers_max: usize,
    /// Callers' connections over all cores; beyond it none is accepted until one ends.
    pub connections_max: usize,
    /// A caller's token.
    pub token_bytes_max: usize,
    /// How long a verdict "allowed" is remembered.
    pub verdict_age_max: Duration,
    /// How long a verdict "denied" is remembered, so that a new right works quickly.
    pub denial_age_max: Duration,
    /// How long a verdict "unauthenticated" is remembered.
    pub rejection_age_max: Duration,
    /// Verdicts remembered per core.
    pub verdicts_max: usize,
    /// How long a request waits for a verdict. Beyond it 503.
    pub verdict_wait: Duration,
    /// How long a request waits for the connector's login at its registry. Beyond it 503.
    pub login_wait: Duration,
    /// Registries' tokens remembered per core.
    pub registry_tokens_max: usize,
    /// The buffer one direction of one body is copied through.
    pub body_buffer_bytes: usize,
    /// A body with at least this much left is spliced rather than copied.
    pub splice_bytes_min: u64,
    /// The pipe one direction of one body is spliced through, while pipes are plenty.
    pub pipe_bytes: usize,
    /// All pipes of one core together. Beyond half of it pipes are smaller, beyond all of it bodies
    /// are copied.
    pub pipe_bytes_per_core: usize,
    /// A body at least this long, or of unknown length, is a long transfer: it counts when
    /// transfers are spread over the cores.
    pub long_transfer_bytes: u64,
}
