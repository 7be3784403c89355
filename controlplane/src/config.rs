//! Every flag, its environment variable and its default, and every bound of the data plane.
//!
//! The command line in, one struct per verb out. Nothing is started here. The numbers of
//! [`Limits`] stand in [`ProxyFlags::limits`], in sight and with their reasons.

mod bounds;
mod controller;
mod csi;
mod forward;
mod installed;
mod logging;
mod prints;
mod probes;

use std::net::SocketAddr;
use std::num::{NonZeroU32, NonZeroUsize};
use std::path::PathBuf;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use dataplane::IoMode;
use dataplane::limits::Limits;

pub use self::bounds::Bounds;
use self::bounds::seconds;
pub use self::controller::ControllerFlags;
pub use self::csi::{CsiFlags, VolumeForm};
pub use self::forward::{CaFlags, CaStep, ForwardFlags, PassthroughMode};
pub use self::installed::Installed;
pub use self::logging::{AuditPlace, Auditing, LogForm, Logging};
pub use self::prints::{CheckFlags, SeccompFlags};
pub use self::probes::Probes;
use crate::review::kube::Rules;

/// Puts a registry's credential into requests, so that workloads need not hold it.
#[derive(Debug, Parser)]
#[command(name = "harbor-connector", version, about)]
pub struct CommandLine {
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Serves connectors: the caller's token out, the registry's credential in.
    Proxy(Box<ProxyFlags>),
    /// Serves volumes in which Pods find everything they need to use their connectors.
    Csi(Box<CsiFlags>),
    /// Gives each Connector of a cluster its Service, and reports how it stands. Of several
    /// replicas one acts.
    Controller(Box<ControllerFlags>),
    /// Compiles the manifests of a folder and prints what is wrong; exit code 1 if anything is.
    Check(CheckFlags),
    /// Shows the interception CA that `proxy` keeps, or takes the next step of its rotation.
    Ca(CaFlags),
    /// Prints the custom resource definitions.
    Crds,
    /// Prints the seccomp profile that lets the proxy use io_uring, or puts it onto a node.
    Seccomp(SeccompFlags),
}

/// The flags of `proxy`.
#[derive(Debug, Args)]
pub struct ProxyFlags {
    /// Takes connectors, Secrets and rights from the manifests of this folder (*.yaml, *.yml,
    /// *.json) instead of from a cluster, and follows its changes. Without it the cluster is that
    /// of KUBECONFIG, or of the Pod.
    #[arg(long, value_name = "DIR", env = "HARBOR_CONNECTOR_FILE")]
    pub file: Option<PathBuf>,

    /// Where callers connect; may be given several times. Port 0 takes a free one.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "HARBOR_CONNECTOR_LISTEN",
        default_value = "0.0.0.0:8080",
        value_delimiter = ','
    )]
    pub listen: Vec<SocketAddr>,

    /// TLS with callers, and the forward proxy.
    #[command(flatten)]
    pub forward: ForwardFlags,

    /// Where /healthz, /readyz and /metrics are.
    #[arg(
        long,
        value_name = "ADDR:PORT",
        env = "HARBOR_CONNECTOR_ADMIN",
        default_value = "127.0.0.1:9090"
    )]
    pub admin: SocketAddr,

    /// How many cores serve; by default as many as the CPU quota and affinity allow.
    #[arg(long, value_name = "N", env = "HARBOR_CONNECTOR_CORES")]
    pub cores: Option<NonZeroUsize>,

    /// How the cores do I/O: io_uring if the kernel lets them (auto), io_uring or nothing (uring),
    /// or epoll.
    #[arg(long, value_enum, env = "HARBOR_CONNECTOR_IO", default_value = "auto")]
    pub io: Io,

    /// After SIGTERM: how long transfers under way may go on.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "HARBOR_CONNECTOR_DRAIN_SECONDS",
        default_value = "600",
        value_parser = seconds
    )]
    pub drain_seconds: Duration,

    /// After SIGTERM: how long new connections are still accepted, while others learn that this
    /// proxy is going away. At most as long as --drain-seconds.
    #[arg(
        long,
        value_name = "SECONDS",
        env = "HARBOR_CONNECTOR_DRAIN_GRACE_SECONDS",
        default_value = "5",
        value_parser = seconds,
        hide_short_help = true
    )]
    pub drain_grace_seconds: Duration,

    /// What follows `.svc.` in a Service's full name.
    #[arg(
        long,
        value_name = "DOMAIN",
        env = "HARBOR_CONNECTOR_CLUSTER_DOMAIN",
        default_value = "cluster.local"
    )]
    pub cluster_domain: String,

    /// The log.
    #[command(flatten)]
    pub logging: Logging,

    /// The audit.
    #[command(flatten)]
    pub auditing: Auditing,

    /// Lets connectors' addresses be on loopback although they come from a cluster: for a proxy on
    /// a developer's machine. Whoever may write Connectors then reaches what listens there.
    #[arg(long, env = "HARBOR_CONNECTOR_ALLOW_LOOPBACK", hide_short_help = true)]
    pub allow_loopback: bool,

    /// How callers are reviewed.
    #[command(flatten)]
    pub reviews: Reviews,

    /// How connectors are looked at.
    #[command(flatten)]
    pub probes: Probes,

    /// Bounds that rarely need another value.
    #[command(flatten)]
    pub bounds: Bounds,
}

/// How the callers of a cluster are reviewed; without meaning under --file.
#[derive(Debug, Args)]
#[command(next_help_heading = "Reviews")]
pub struct Reviews {
    /// Takes tokens for the API server itself as well, such as `kubectl create token` makes them.
    /// Whoever sees such a token can use the API server with it.
    #[arg(long, env = "HARBOR_CONNECTOR_ACCEPT_API_AUDIENCE")]
    pub accept_api_audience: bool,

    /// Asks for the verb * on connectors/proxy instead of get on connectors.
    #[arg(long, env = "HARBOR_CONNECTOR_REQUIRE_PROXY_RIGHT")]
    pub require_proxy_right: bool,

    /// After so long at most a right that was taken away, or a token that ended, is of no more use.
    /// Shorter means more reviews.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_REVOCATION_SECONDS",
        default_value = "60", value_parser = seconds, hide_short_help = true)]
    pub revocation_seconds: Duration,

    /// While the API server cannot be asked: how old an answer may be that still lets a caller in.
    /// 0 lets nobody in whom it has not just confirmed.
    #[arg(long, value_name = "SECONDS", env = "HARBOR_CONNECTOR_STALE_SECONDS",
        default_value = "900", value_parser = seconds, hide_short_help = true)]
    pub stale_seconds: Duration,

    /// Reviews a second at most, half of them for callers who were good before. 1,000 callers with
    /// one connector each need about 75 a second.
    #[arg(
        long,
        value_name = "N",
        env = "HARBOR_CONNECTOR_REVIEW_RATE",
        default_value = "200",
        hide_short_help = true
    )]
    pub review_rate: NonZeroU32,
}

/// See [`IoMode`].
#[derive(Clone, Copy, Debug, ValueEnum)]
pub enum Io {
    /// io_uring where the kernel allows it, else epoll.
    Auto,
    /// io_uring, or fail to start.
    Uring,
    /// epoll.
    Epoll,
}

impl ProxyFlags {
    /// How many cores.
    pub fn cores(&self) -> usize {
        self.cores.or_else(|| thread::available_parallelism().ok()).map_or(1, NonZeroUsize::get)
    }

    /// Which driver.
    pub fn io_mode(&self) -> IoMode {
        match self.io {
            Io::Auto => IoMode::Auto,
            Io::Uring => IoMode::Uring,
            Io::Epoll => IoMode::Epoll,
        }
    }

    /// Every bound of the data plane. `files_max` is how many files the process may have open,
    /// `pipes_max` how many bytes its pipes may hold.
    pub fn limits(&self, files_max: u64, pipes_max: usize) -> Arc<Limits> {
        let bounds = &self.bounds;
        Arc::new(Limits {
            // What Go and nginx in front of Harbor take is less; a token of 16 KiB must fit.
            head_bytes_max: 64 << 10,
            head_fields_max: 128,
            // Two digests, a repository of 255 and an upload's `_state` are below 2 KiB.
            target_bytes_max: 8 << 10,
            head_wait: bounds.head_seconds,
            idle_caller_wait: bounds.idle_caller_seconds,
            body_progress_wait: bounds.body_progress_seconds,
            upload_answer_wait: bounds.upload_answer_seconds,
            answer_wait: bounds.answer_seconds,
            connect_wait: bounds.connect_seconds,
            // Two dead addresses and then a good one with its handshake.
            connect_total_wait: bounds.connect_seconds * 3,
            handshake_wait: bounds.handshake_seconds,
            // What TLS itself allows one handshake message to be, about.
            hello_bytes_max: 64 << 10,
            certificate_wait: Duration::from_secs(5),
            // About 2 KiB each.
            certificates_max: 4096,
            // With their names they fit into a head many times over.
            listed_connectors_max: 64,
            interception_age_max: bounds.tunnel_age_seconds,
            tunnel_idle_wait: bounds.tunnel_idle_seconds,
            // As long as a resolver with two servers needs to try each once.
            resolve_wait: Duration::from_secs(5),
            // A failover by DNS is followed within seconds …
            resolve_age_max: Duration::from_secs(5),
            // … and a short outage of DNS goes unnoticed.
            resolve_stale_max: Duration::from_secs(5 * 60),
            idle_registry_wait: bounds.idle_registry_seconds,
            // No more of each core of each node than Harbor's front likes to hold …
            idle_registry_max: 32,
            // … but a burst does not dial for one request what it closed after another.
            surplus_registry_wait: Duration::from_secs(5),
            // More than a core has under way at one time, as a rule.
            burst_registry_max: 256,
            linger_wait: bounds.linger_seconds,
            linger_bytes_max: 64 << 20,
            manifest_bytes_max: bounds.manifest_bytes,
            // Harbor's error bodies are below 1 KiB.
            error_body_bytes_max: 64 << 10,
            accounts_bytes_max: 1 << 20,
            // `103` and `100` come in ones and twos; an endless row of them is an attack.
            interim_answers_max: 32,
            connections_max: self.connections_max(files_max),
            // A projected token is about 1 KiB; one with many groups has been seen at 8 KiB.
            token_bytes_max: 16 << 10,
            verdict_age_max: self.verdict_age_max(),
            denial_age_max: self.refusal_age_max(Duration::from_secs(5)),
            rejection_age_max: self.refusal_age_max(Duration::from_secs(10)),
            // About 300 bytes each: 3 MB a core.
            verdicts_max: 10_000,
            verdict_wait: Duration::from_secs(5),
            // A first probe over a slow way, or a suspicion's pause and its probe.
            login_wait: Duration::from_secs(15),
            // Up to 8 KiB each, a thousand images at one time.
            registry_tokens_max: 1000,
            body_buffer_bytes: 256 << 10,
            // Below it the calls cost more than the copy.
            splice_bytes_min: 64 << 10,
            // The most that the kernel gives without privileges, and half the cost of 64 KiB.
            pipe_bytes: 1 << 20,
            pipe_bytes_per_core: pipes_max / self.cores(),
            long_transfer_bytes: 1 << 20,
        })
    }

    /// How reviews are made. What the desk remembers and what a core then remembers of its answer
    /// add up to 46 of the promised 60 s. The API server itself remembers a good token for ten
    /// (k8s.io/kubernetes `kubeapiserver/options/authentication.go`, `TokenSuccessCacheTTL`); the
    /// rest is for the review that ends all three.
    pub fn rules(&self) -> Rules {
        let reviews = &self.reviews;
        let fresh = reviews.revocation_seconds.mul_f64(0.6);
        Rules {
            accept_api_audience: reviews.accept_api_audience,
            require_proxy_right: reviews.require_proxy_right,
            fresh,
            // With a core's second: 10 s, and 5 s so that a new RoleBinding works soon.
            rejection: Duration::from_secs(9).min(fresh),
            denial: Duration::from_secs(4).min(fresh),
            stale: reviews.stale_seconds,
            rate: reviews.review_rate.get(),
        }
    }

    /// How long a core remembers "allowed". Under --file a change of rights is known at once, so
    /// the whole promise is the core's.
    fn verdict_age_max(&self) -> Duration {
        let promise = self.reviews.revocation_seconds;
        if self.file.is_some() { promise } else { promise / 6 }
    }

    /// How long a core remembers a refusal: under --file this long, else for a moment, because the
    /// desk remembers it too.
    fn refusal_age_max(&self, alone: Duration) -> Duration {
        let age = if self.file.is_some() { alone } else { Duration::from_secs(1) };
        age.min(self.verdict_age_max())
    }

    /// A caller's connection needs one descriptor itself and one to its registry.
    fn connections_max(&self, files_max: u64) -> usize {
        let files_max = usize::try_from(files_max).unwrap_or(usize::MAX).min(FILES_USED_MAX);
        let left = files_max.saturating_sub(FILES_RESERVED + FILES_PER_CORE * self.cores());
        self.bounds.connections.map_or((left / 2).max(1), NonZeroUsize::get)
    }
}

/// Descriptors of the process itself: listeners, the watch of the folder, admin connections, logs,
/// and the 32 connections that the probes may have open at one time.
const FILES_RESERVED: usize = 128;

/// Descriptors of a core: its ring or epoll, doorbell, and a pool of pipes for bodies.
const FILES_PER_CORE: usize = 80;

/// Container runtimes leave the limit at a thousand million; memory ends long before.
const FILES_USED_MAX: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn flags(words: &[&str]) -> ProxyFlags {
        let words = ["harbor-connector", "proxy"].into_iter().chain(words.iter().copied());
        match CommandLine::try_parse_from(words).unwrap().verb {
            Verb::Proxy(flags) => *flags,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_flag_has_an_environment_variable_of_its_name() {
        let command = CommandLine::command();
        let flags =
            ["proxy", "csi", "controller"].map(|verb| command.find_subcommand(verb).unwrap());
        let named = flags
            .into_iter()
            .flat_map(clap::Command::get_arguments)
            .filter_map(|flag| Some((flag.get_long()?, flag.get_env())));
        for (long, variable) in named.filter(|(long, _)| *long != "help") {
            let expected = format!("HARBOR_CONNECTOR_{}", long.to_uppercase().replace('-', "_"));
            assert_eq!(variable.and_then(|name| name.to_str()), Some(&*expected));
        }
        CommandLine::command().debug_assert();
    }

    #[test]
    fn seconds_may_be_fractions_and_nothing_else() {
        let flags = flags(&["--head-seconds", "0.5", "--listen", "127.0.0.1:0,[::1]:0"]);
        assert_eq!(flags.limits(1024, 1 << 20).head_wait, Duration::from_millis(500));
        assert_eq!(flags.listen.len(), 2);
        for bad in ["-1", "nan", "inf", "x", "", "1e300"] {
            assert!(seconds(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn what_desk_and_core_remember_stays_within_the_promise() {
        for words in [&[][..], &["--revocation-seconds", "6"]] {
            let flags = flags(words);
            let (rules, limits) = (flags.rules(), flags.limits(1024, 1 << 20));
            let promise = flags.reviews.revocation_seconds;
            let remembered = rules.fresh + limits.verdict_age_max;
            assert!(remembered + promise / 6 + promise / 20 <= promise, "{remembered:?}");
            assert!(rules.denial + limits.denial_age_max <= Duration::from_secs(5));
            assert!(rules.rejection + limits.rejection_age_max <= Duration::from_secs(10));
        }
        let file = flags(&["--file", "x"]).limits(1024, 1 << 20);
        assert_eq!(file.verdict_age_max, Duration::from_secs(60));
        assert_eq!(file.rejection_age_max, Duration::from_secs(10));
    }

    #[test]
    fn connections_fit_into_the_limit_on_open_files() {
        let flags = flags(&["--cores", "2"]);
        assert_eq!(flags.limits(1024, 1 << 20).connections_max, (1024 - 128 - 160) / 2);
        assert_eq!(flags.limits(10, 1 << 20).connections_max, 1);
        assert!(flags.limits(u64::MAX, 1 << 20).connections_max < FILES_USED_MAX);
    }
}
