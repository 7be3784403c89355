//! What a load is to be: a [`Plan`], from flags, from a file of the same fields, or from code.
//!
//! Flags and TOML in, one checked plan out. Where both name a field the flag wins; a field that
//! does not exist is refused by its name. Nothing here opens a socket; the files that a plan names
//! are read here once.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, bail, ensure};
use clap::ValueEnum;
use serde::Deserialize;

pub(crate) use crate::values::{Shares, Size, Span};

/// One load on one target, checked and complete.
#[derive(Clone)]
pub(crate) struct Plan {
    /// `http://` or `https://`, host, port, and a path that precedes `/v2/`, if any.
    pub(crate) target: String,
    /// What the results call the target; its URL where nothing else is known.
    pub(crate) contender: String,
    /// User and password of the caller.
    pub(crate) login: Option<(String, String)>,
    /// PEM certificates that alone are trusted; the system's where there is no file.
    pub(crate) ca: Option<PathBuf>,
    /// A forward proxy, `http://[user:password@]host:port`.
    pub(crate) proxy: Option<String>,
    /// The repository that everything goes to and comes from.
    pub(crate) prefix: String,
    /// What is asked for.
    pub(crate) scenario: Scenario,
    /// How many callers there are, each with connections of its own.
    pub(crate) concurrency: usize,
    /// Requests a second: an open loop. Without it each caller goes on when it is answered.
    pub(crate) rate: Option<f64>,
    /// How an open loop's requests are spaced.
    pub(crate) arrivals: Arrivals,
    /// How long is measured, unless `requests` or `bytes` ends it.
    pub(crate) duration: Duration,
    /// Ends after this many requests instead of after `duration`.
    pub(crate) requests: Option<u64>,
    /// Ends after this many bytes of bodies instead of after `duration`.
    pub(crate) bytes: Option<u64>,
    /// How long the load runs before anything is measured.
    pub(crate) warm_up: Duration,
    /// Bytes of one blob; [`Scenario::size`] where nothing is said.
    pub(crate) size: Option<u64>,
    /// Layers of one image.
    pub(crate) layers: usize,
    /// Bytes of one chunk of a chunked push.
    pub(crate) chunk_bytes: u64,
    /// Whatever is drawn at random is drawn from this.
    pub(crate) seed: u64,
    /// Threads that make the load.
    pub(crate) cores: usize,
    /// Processors that those threads are bound to, in turn; none: wherever the kernel puts them.
    pub(crate) pin: Vec<usize>,
    /// Shares of pushes, pulls and looks in a CI day.
    pub(crate) shares: Shares,
    /// Passwords to take in turn where callers churn; none: made-up ones.
    pub(crate) tokens: Vec<String>,
    /// Whether 401 is an answer as good as any where callers churn.
    pub(crate) accept_401: bool,
    /// How fast one slow reader reads.
    pub(crate) bytes_per_second: u64,
    /// Every which download is hashed; 0: none; [`Scenario::verify_every`] where nothing is said.
    pub(crate) verify_every: Option<u64>,
    /// How long one request may take, and how long the last ones may after the end.
    pub(crate) timeout: Duration,
    /// Whether every push sends the same blobs, which a registry may then have already.
    pub(crate) repeat_blobs: bool,
    /// Whether what the scenario needs is uploaded first.
    pub(crate) set_up: bool,
    /// How many requests may fail before the run counts as failed.
    pub(crate) allow_failures: u64,
    /// A process whose memory is looked at while connections idle.
    pub(crate) pid: Option<i32>,
}

impl Plan {
    /// A closed loop of small pulls on `url` for ten seconds: what the flags' defaults mean.
    pub(crate) fn for_target(url: impl Into<String>) -> Self {
        let target = url.into();
        Self {
            contender: target.clone(),
            target,
            login: None,
            ca: None,
            proxy: None,
            prefix: "team/load".to_owned(),
            scenario: Scenario::SmallBlobPull,
            concurrency: 16,
            rate: None,
            arrivals: Arrivals::Poisson,
            duration: Duration::from_secs(10),
            requests: None,
            bytes: None,
            warm_up: Duration::ZERO,
            size: None,
            layers: 4,
            chunk_bytes: 64 << 10,
            seed: 1,
            cores: 1,
            pin: Vec::new(),
            shares: Shares::default(),
            tokens: Vec::new(),
            accept_401: false,
            bytes_per_second: 64 << 10,
            verify_every: None,
            timeout: Duration::from_secs(60),
            repeat_blobs: false,
            set_up: true,
            allow_failures: 0,
            pid: None,
        }
    }

    /// Bytes of one blob.
    pub(crate) fn blob_bytes(&self) -> u64 {
        self.size.unwrap_or_else(|| self.scenario.size())
    }

    /// Whether the end is a time, and not a number of requests or bytes.
    pub(crate) fn is_timed(&self) -> bool {
        self.requests.is_none() && self.bytes.is_none()
    }

    /// Refuses what cannot be run.
    ///
    /// # Errors
    /// With the field's name and what it may be.
    pub(crate) fn check(&self) -> anyhow::Result<()> {
        ensure!(self.concurrency > 0, "concurrency must be at least 1");
        ensure!(self.layers > 0, "layers must be at least 1");
        ensure!(self.cores > 0, "cores must be at least 1");
        ensure!(self.chunk_bytes > 0, "chunk-bytes must be at least 1");
        ensure!(self.bytes_per_second > 0, "bytes-per-second must be at least 1");
        ensure!(self.blob_bytes() >= SIZE_MIN, "size must be at least {SIZE_MIN} bytes");
        ensure!(self.rate.is_none_or(|rate| rate > 0.0 && rate <= RATE_MAX), "rate out of range");
        ensure!(
            self.requests.is_none() || self.bytes.is_none(),
            "give requests or bytes, not both"
        );
        ensure!(self.timeout > Duration::ZERO, "timeout must be more than 0");
        let held = matches!(self.scenario, Scenario::Idle | Scenario::SlowReaders);
        ensure!(!held || self.is_timed(), "{} ends after duration", self.scenario.name());
        ensure!(!held || self.rate.is_none(), "{} knows no rate", self.scenario.name());
        Ok(())
    }
}

/// What is asked for, again and again.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Scenario {
    /// GET a manifest by its tag.
    ManifestGet,
    /// HEAD a manifest by its tag.
    ManifestHead,
    /// GET blobs of a few KiB.
    SmallBlobPull,
    /// GET large layers.
    BigBlobPull,
    /// POST and one PUT per blob, its length known.
    Push,
    /// POST, one PATCH in chunks of unknown number, PUT.
    PushChunked,
    /// A whole image: all layers at once, then the config and the manifest.
    ParallelPush,
    /// Image pushes, image pulls and manifest HEADs in given shares.
    CiDay,
    /// GET a manifest with another credential each time.
    TokenChurn,
    /// Open connections, ask once on each, and keep them.
    Idle,
    /// Pull large layers, reading each at a given speed.
    SlowReaders,
}

impl Scenario {
    /// The name, as flags and results spell it.
    pub(crate) fn name(self) -> String {
        let value = self.to_possible_value();
        value.map_or_else(String::new, |value| value.get_name().to_owned())
    }

    /// Bytes of one blob where nobody says.
    pub(crate) fn size(self) -> u64 {
        match self {
            Self::BigBlobPull | Self::Push | Self::PushChunked | Self::SlowReaders => 64 << 20,
            Self::ParallelPush | Self::CiDay => 4 << 20,
            _ => 1 << 10,
        }
    }

    /// Every which download is hashed where nobody says: each small one, few of the large.
    pub(crate) fn verify_every(self, size: u64) -> u64 {
        if size > VERIFY_ALWAYS_MAX || self == Self::BigBlobPull { 16 } else { 1 }
    }
}

/// How an open loop's requests are spaced.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq, ValueEnum)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Arrivals {
    /// As independent callers come: at random, the rate being the mean.
    Poisson,
    /// Evenly.
    Constant,
}

macro_rules! fields {
    ($($(#[$about:meta])* $name:ident: $type:ty,)*) => {
        /// The fields of a plan as flags and as a TOML file spell them; all may be left out.
        #[derive(clap::Args, Default, Deserialize)]
        #[serde(default, deny_unknown_fields, rename_all = "kebab-case")]
        pub(crate) struct Fields {
            $($(#[$about])* #[arg(long)] $name: Option<$type>,)*
        }

        impl Fields {
            /// These fields, and where there is none, `other`'s.
            fn or(self, other: Self) -> Self {
                Self { $($name: self.$name.or(other.$name),)* }
            }
        }
    };
}

fields! {
    /// URL of a registry or proxy: http or https, with a path before /v2/ if need be
    target: String,
    /// What to call the target in the results
    contender: String,
    /// User to log in as (Basic)
    user: String,
    /// File with that user's password, or with a Pod's token
    password_file: PathBuf,
    /// PEM file of the certificates to trust instead of the system's
    ca: PathBuf,
    /// Forward proxy, http://[user:password@]host:port
    proxy: String,
    /// Repository to use, such as namespaces/demo/connectors/harbor/team/load [team/load]
    prefix: String,
    /// What to ask for [small-blob-pull]
    scenario: Scenario,
    /// Callers at once [16]
    concurrency: usize,
    /// Requests a second, whether or not earlier ones are answered; without it a closed loop
    rate: f64,
    /// How requests are spaced at that rate [poisson]
    arrivals: Arrivals,
    /// How long to measure, such as 30s or 5m [10s]
    duration: Span,
    /// End after this many requests instead
    requests: u64,
    /// End after this many bytes of bodies instead
    bytes: Size,
    /// How long to run before measuring [0s]
    warm_up: Span,
    /// Size of a blob, such as 1GiB [by scenario: 1KiB, 4MiB or 64MiB]
    size: Size,
    /// Layers of an image [4]
    layers: usize,
    /// Size of a chunk of push-chunked [64KiB]
    chunk_bytes: Size,
    /// What all noise and chance is drawn from [1]
    seed: u64,
    /// Threads that make the load [1]
    cores: usize,
    /// Processors to bind those threads to, such as 0,2
    pin: String,
    /// Shares of a ci-day [push=10,pull=60,head=30]
    shares: Shares,
    /// File with one password a line for token-churn, taken in turn; without it they are made up
    token_file: PathBuf,
    /// In token-churn, count 401 as an answer
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    accept_401: bool,
    /// How fast a slow reader reads [64KiB]
    bytes_per_second: Size,
    /// Hash every which download; 0 (for a registry that discards) none [1; 16 for big blobs]
    verify_every: u64,
    /// How long a request may take [60s]
    timeout: Span,
    /// Push the same blobs each time instead of new ones
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    repeat_blobs: bool,
    /// Upload nothing first: an earlier run with this seed and size did
    #[arg(num_args = 0..=1, default_missing_value = "true")]
    no_set_up: bool,
    /// How many requests may fail before the exit code is 1 [0]
    allow_failures: u64,
    /// A process whose memory to watch in the scenario idle
    pid: i32,
}

impl Fields {
    /// Fills what is missing from the TOML file at `path`.
    ///
    /// # Errors
    /// When it cannot be read, is no TOML, or has a field that no plan has.
    pub(crate) fn over(self, path: &Path) -> anyhow::Result<Self> {
        let text = fs::read_to_string(path)
            .with_context(|| format!("reading the plan {}", path.display()))?;
        let file: Self =
            toml::from_str(&text).with_context(|| format!("in the plan {}", path.display()))?;
        Ok(self.or(file))
    }

    /// The plan that these fields describe, everything else as [`Plan::for_target`] has it.
    ///
    /// # Errors
    /// When there is no target, a file that is named cannot be read, or [`Plan::check`] refuses.
    pub(crate) fn into_plan(self) -> anyhow::Result<Plan> {
        let login = self.login()?;
        let tokens = self.token_file.as_deref().map(lines_of).transpose()?;
        let pin = self.pin.as_deref().map(processors).transpose()?;
        let base = Plan::for_target(self.target.context("no target: give --target URL")?);
        let plan = Plan {
            contender: self.contender.unwrap_or(base.contender),
            login,
            ca: self.ca,
            proxy: self.proxy,
            prefix: self.prefix.unwrap_or(base.prefix).trim_matches('/').to_owned(),
            scenario: self.scenario.unwrap_or(base.scenario),
            concurrency: self.concurrency.unwrap_or(base.concurrency),
            rate: self.rate,
            arrivals: self.arrivals.unwrap_or(base.arrivals),
            duration: self.duration.map_or(base.duration, |span| span.0),
            requests: self.requests,
            bytes: self.bytes.map(|size| size.0),
            warm_up: self.warm_up.map_or(base.warm_up, |span| span.0),
            size: self.size.map(|size| size.0),
            layers: self.layers.unwrap_or(base.layers),
            chunk_bytes: self.chunk_bytes.map_or(base.chunk_bytes, |size| size.0),
            seed: self.seed.unwrap_or(base.seed),
            cores: self.cores.unwrap_or(base.cores),
            pin: pin.unwrap_or_default(),
            shares: self.shares.unwrap_or(base.shares),
            tokens: tokens.unwrap_or_default(),
            accept_401: self.accept_401.unwrap_or(base.accept_401),
            bytes_per_second: self.bytes_per_second.map_or(base.bytes_per_second, |size| size.0),
            verify_every: self.verify_every,
            timeout: self.timeout.map_or(base.timeout, |span| span.0),
            repeat_blobs: self.repeat_blobs.unwrap_or(base.repeat_blobs),
            set_up: !self.no_set_up.unwrap_or(false),
            allow_failures: self.allow_failures.unwrap_or(base.allow_failures),
            pid: self.pid,
            target: base.target,
        };
        plan.check()?;
        Ok(plan)
    }

    fn login(&self) -> anyhow::Result<Option<(String, String)>> {
        match (&self.user, &self.password_file) {
            (None, None) => Ok(None),
            (Some(_), None) => bail!("a user needs a password-file"),
            (user, Some(path)) => {
                let text = fs::read_to_string(path)
                    .with_context(|| format!("reading the password from {}", path.display()))?;
                let password = text.trim_end_matches(['\r', '\n']).to_owned();
                // A Pod's token is its whole identity: the user beside it may be anything.
                Ok(Some((user.clone().unwrap_or_else(|| "bench".to_owned()), password)))
            }
        }
    }
}

fn lines_of(path: &Path) -> anyhow::Result<Vec<String>> {
    let text = fs::read_to_string(path)
        .with_context(|| format!("reading the tokens from {}", path.display()))?;
    let lines = text.lines().map(str::trim).filter(|line| !line.is_empty());
    let tokens: Vec<_> = lines.map(str::to_owned).collect();
    ensure!(!tokens.is_empty(), "no token in {}", path.display());
    Ok(tokens)
}

fn processors(text: &str) -> anyhow::Result<Vec<usize>> {
    let numbers = text.split(',').map(|number| number.trim().parse());
    numbers.collect::<Result<_, _>>().context("pin is a list of processors, such as 0,2")
}

/// A blob has room for what makes it differ from all others.
const SIZE_MIN: u64 = 32;
const RATE_MAX: f64 = 1e6;
const VERIFY_ALWAYS_MAX: u64 = 1 << 20;

#[cfg(test)]
mod tests;
