//! A registry that behaves as Harbor 2.x does: Debian's docker-registry behind a front of ours.
//!
//! [`Settings`] in, a running registry out: Harbor itself cannot be installed where stories run.
//! Every behaviour names the file of goharbor/harbor (v2.15.2) that it was read from. Blobs and
//! manifests are the docker-registry's own; the front never makes one up. What callers must not
//! show to a registry is searched for in all that arrived, at the front and at the object storage.

mod accounts;
mod api;
mod front;
mod listen;
mod policy;
mod record;
mod referrers;
mod rights;
mod session;
mod storage;
mod target;
mod token;
mod v2;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use super::docker_registry::Certificates;
use super::manifests::{ca_secret, connector};
use super::{DockerRegistry, Manifests, PASSWORD, USER};

pub(crate) use accounts::{Account, Right};
pub(crate) use record::{Authorization, Seen};
pub(crate) use token::{ExpiresIn, TokenService};

/// What a Harbor has when it starts.
pub(crate) struct Settings {
    /// Whether it speaks TLS, with a certificate of [`Harbor::ca`].
    pub(crate) tls: bool,
    /// Whether its object storage speaks TLS, with a certificate of the same CA.
    pub(crate) storage_tls: bool,
    /// The address that the object storage listens on; another than Harbor's.
    pub(crate) storage_host: &'static str,
    /// What the names of robots begin with (`robot_name_prefix`, src/lib/config).
    pub(crate) robot_prefix: &'static str,
    /// The projects, and whether anybody may pull from them.
    pub(crate) projects: Vec<(&'static str, Visibility)>,
    /// Who may log in.
    pub(crate) accounts: Vec<Account>,
}

impl Default for Settings {
    /// Projects `library` (public), `team` and `other` (private); the stories' own robot, which
    /// may pull, push and delete in `library` and `team`.
    fn default() -> Self {
        let all = [Right::Pull, Right::Push, Right::Delete];
        Self {
            tls: false,
            storage_tls: false,
            storage_host: "127.0.0.2",
            robot_prefix: "robot$",
            projects: vec![
                ("library", Visibility::Public),
                ("team", Visibility::Private),
                ("other", Visibility::Private),
            ],
            accounts: vec![Account::robot(USER, PASSWORD, &[("library", &all), ("team", &all)])],
        }
    }
}

/// Who may pull from a project.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Visibility {
    /// Anybody, though not without an `Authorization` (src/server/middleware/v2auth/auth.go).
    Public,
    /// Accounts with the right.
    Private,
}

/// What a story changes while Harbor runs.
#[derive(Clone, Default)]
pub(crate) struct Switches {
    /// Nothing may be modified (src/server/middleware/readonly).
    pub(crate) read_only: bool,
    /// The bytes that a project may hold (src/server/middleware/quota).
    pub(crate) quotas: BTreeMap<String, u64>,
    /// Tags that stay what they are, as `team/app:v1` (src/server/middleware/immutable).
    pub(crate) immutable: Vec<String>,
    /// Projects that only cache another registry (src/server/middleware/repoproxy).
    pub(crate) proxy_caches: Vec<String>,
    /// 429 with this `Retry-After` below `/v2`, as proxy caches and ingresses answer.
    pub(crate) too_many: Option<u32>,
    /// Where blobs are pulled from.
    pub(crate) blobs: Blobs,
    /// How often the object storage redirects to itself before it serves.
    pub(crate) storage_hops: u32,
    /// After how many bytes of an object the object storage resets the connection.
    pub(crate) storage_cut: Option<u64>,
    /// The object storage answers 200 to a request for a range.
    pub(crate) storage_ignores_ranges: bool,
    /// The realm of Bearer challenges, instead of the one with the request's own Host.
    pub(crate) realm: Option<String>,
    /// What the token service does.
    pub(crate) token_service: TokenService,
    /// How long tokens are good (`token_expiration`); Harbor's 30 minutes when absent.
    pub(crate) token_lifetime: Option<Duration>,
    /// How long an expired token is still taken (`JwtLeeway`); Harbor's 60 s when absent.
    pub(crate) token_leeway: Option<Duration>,
    /// What the token service says of a token's lifetime.
    pub(crate) expires_in: ExpiresIn,
}

/// Where blobs are pulled from.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Blobs {
    /// From the registry itself (`storage_service.redirect.disable: true`).
    #[default]
    Here,
    /// From the object storage: 307 with a signed query (docker/distribution,
    /// registry/storage/blobserver.go).
    InStorage,
    /// 307 to an address of the story's choice.
    At(String),
}

/// A running Harbor.
pub(crate) struct Harbor {
    shared: Arc<Shared>,
    registry: DockerRegistry,
    address: SocketAddr,
    tls: bool,
    ca: String,
    // Last, so that what it runs goes on until the rest is gone.
    _runtime: tokio::runtime::Runtime,
}

/// What all requests share.
struct Shared {
    settings: Settings,
    switches: Mutex<Switches>,
    accounts: accounts::Accounts,
    record: record::Record,
    tokens: token::Tokens,
    uploads: policy::Uploads,
    storage: storage::Place,
    registry: String,
}

impl Shared {
    fn switches(&self) -> Switches {
        locked(&self.switches).clone()
    }
}

impl Harbor {
    /// One that speaks plain HTTP, with the projects and the robot of [`Settings::default`].
    pub(crate) fn http() -> Self {
        Self::start(Settings::default())
    }

    /// The same over TLS.
    pub(crate) fn https() -> Self {
        Self::start(Settings { tls: true, storage_tls: true, ..Settings::default() })
    }

    /// One with `settings`.
    pub(crate) fn start(settings: Settings) -> Self {
        let registry = DockerRegistry::for_account(v2::INTERNAL_USER, v2::INTERNAL_PASSWORD);
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a runtime");
        let certificates = Certificates::issue(&["127.0.0.1", settings.storage_host, "localhost"]);
        let config = listen::tls(&certificates);
        let tls = settings.tls;
        let storage_tls = settings.storage_tls.then(|| config.clone());
        let host = format!("{}:0", settings.storage_host);
        let (listener, storage_address) = listen::bind(&host);
        let shared = Arc::new(Shared {
            switches: Mutex::default(),
            accounts: accounts::Accounts::new(&settings.accounts),
            record: record::Record::default(),
            tokens: token::Tokens::new(),
            uploads: policy::Uploads::default(),
            storage: storage::Place::new(&settings, storage_address, registry.blobs()),
            registry: registry.authority(),
            settings,
        });
        let at_storage = Arc::clone(&shared);
        listen::serve(&runtime, listener, storage_tls, move |request| {
            let shared = Arc::clone(&at_storage);
            async move { storage::answer(&shared, &request) }
        });
        let (listener, address) = listen::bind("127.0.0.1:0");
        let at_front = Arc::clone(&shared);
        listen::serve(&runtime, listener, tls.then_some(config), move |request| {
            front::answer(Arc::clone(&at_front), request)
        });
        Self { shared, registry, address, tls, ca: certificates.ca, _runtime: runtime }
    }

    /// What goes into a connector's `spec.address`.
    pub(crate) fn url(&self) -> String {
        format!("{}://{}", if self.tls { "https" } else { "http" }, self.authority())
    }

    /// `host:port`, for those who may go to it directly.
    pub(crate) fn authority(&self) -> String {
        self.address.to_string()
    }

    /// Where it listens.
    pub(crate) fn address(&self) -> SocketAddr {
        self.address
    }

    /// The PEM certificate of the CA of both its hosts.
    pub(crate) fn ca(&self) -> &str {
        &self.ca
    }

    /// The connector `ci/harbor` to it, with the stories' own robot and with its CA where it has
    /// one, and all that belongs to it (see [`Manifests::for_registry`]).
    pub(crate) fn manifests(&self) -> Manifests {
        let manifests = Manifests::for_registry(&self.url());
        if !self.tls {
            return manifests;
        }
        let more = "  caCertSecretRef: {name: harbor-ca}\n";
        manifests
            .with("connector.yaml", &connector("ci", "harbor", &self.url(), more))
            .with("ca.yaml", &ca_secret("ci", "harbor-ca", &self.ca))
    }

    /// The object storage's `scheme://host:port`.
    pub(crate) fn storage_url(&self) -> String {
        self.shared.storage.url()
    }

    /// The docker-registry behind it: what is really stored.
    pub(crate) fn registry(&self) -> &DockerRegistry {
        &self.registry
    }

    /// Changes how it behaves from now on.
    pub(crate) fn switch(&self, change: impl FnOnce(&mut Switches)) {
        change(&mut locked(&self.shared.switches));
    }

    /// Gives an account another password from now on; the old one is refused at once.
    pub(crate) fn replace_password(&self, account: &str, password: &str) {
        self.shared.accounts.replace_password(account, password);
    }

    /// Changes an account: disables it, lets it expire, takes rights away.
    pub(crate) fn change_account(&self, account: &str, change: impl FnOnce(&mut Account)) {
        self.shared.accounts.change(account, change);
    }

    /// Refuses all tokens issued so far, as after another private key.
    pub(crate) fn forget_tokens(&self) {
        self.shared.tokens.forget();
    }

    /// All tokens issued so far; no caller of the proxy may see one.
    pub(crate) fn tokens(&self) -> Vec<String> {
        self.shared.tokens.issued()
    }

    /// Who had a Basic credential checked below `/v2`, `/service/token`, `/api` or at `/c/login`,
    /// in order, one entry per check, whatever its outcome.
    pub(crate) fn logins(&self) -> Vec<String> {
        self.shared.record.logins()
    }

    /// What arrived at the front, in order of arrival.
    pub(crate) fn requests(&self) -> Vec<Seen> {
        self.shared.record.front()
    }

    /// What arrived at the object storage.
    pub(crate) fn storage_requests(&self) -> Vec<Seen> {
        self.shared.record.storage()
    }
}

impl Drop for Harbor {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let requests = self.requests();
            let last = &requests[requests.len().saturating_sub(40)..];
            let lines: Vec<_> = last.iter().map(ToString::to_string).collect();
            eprintln!("--- Harbor's last requests\n{}\n---", lines.join("\n"));
        }
        self.shared.record.assert_free_of_tokens();
    }
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests;
