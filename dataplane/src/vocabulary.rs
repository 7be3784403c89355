//! The nouns that both planes speak: what a connector is, who calls, what may be said about both.
//!
//! The control plane makes these values, the data plane reads them. Nothing here does I/O, nothing
//! is serialisable (what is serialisable is promised), and nothing knows that Kubernetes exists.

use std::fmt;
use std::sync::Arc;

use crate::error::Kind;
use crate::wiped::Wiped;

/// Which connector: a namespace and a name, both already checked to be DNS names.
///
/// Kept as one text `namespace/name`, because that is how it is hashed, compared and logged.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ConnectorRef {
    text: Box<str>,
    slash: usize,
}

impl ConnectorRef {
    /// The reference `namespace/name`. The caller has checked both parts; see [`is_dns_label`].
    pub fn new(namespace: &str, name: &str) -> Self {
        let text = [namespace, "/", name].concat().into_boxed_str();
        Self { text, slash: namespace.len() }
    }

    /// `namespace/name`.
    pub fn as_str(&self) -> &str {
        &self.text
    }

    /// The namespace the connector lives in.
    pub fn namespace(&self) -> &str {
        self.text.get(..self.slash).unwrap_or_default()
    }

    /// The connector's name within its namespace.
    pub fn name(&self) -> &str {
        self.text.get(self.slash + 1..).unwrap_or_default()
    }
}

impl fmt::Display for ConnectorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for ConnectorRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Whether `text` is a DNS label of RFC 1123 (1 to 63 of `a-z 0-9 -`, no `-` at either end), as
/// Kubernetes demands of a namespace and, through the Service `c-<name>`, of a connector's name.
pub fn is_dns_label(text: &str) -> bool {
    let inner = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-';
    (1..=63).contains(&text.len())
        && text.bytes().all(inner)
        && !text.starts_with('-')
        && !text.ends_with('-')
}

/// The scheme of a registry's address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Scheme {
    /// Plain HTTP/1.1.
    Http,
    /// HTTP/1.1 inside TLS, certificate verified.
    Https,
}

impl Scheme {
    /// The port that the scheme means when none is written.
    pub fn default_port(self) -> u16 {
        match self {
            Self::Http => 80,
            Self::Https => 443,
        }
    }

    /// `http` or `https`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Http => "http",
            Self::Https => "https",
        }
    }
}

/// Where a registry is: the only place that a connector's credential may be sent to.
///
/// The host is lower-case, without a trailing dot; an IPv6 address stands without brackets.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Origin {
    /// http or https.
    pub scheme: Scheme,
    /// A DNS name or an IP address, lower-case, no brackets, no trailing dot.
    pub host: Box<str>,
    /// The TCP port, never 0.
    pub port: u16,
}

impl Origin {
    /// The value of a `Host` field for this origin (RFC 9110 §7.2): the port only when it is not
    /// the scheme's own, IPv6 addresses in brackets.
    pub fn authority(&self) -> String {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        if self.port == self.scheme.default_port() {
            format!("{open}{}{close}", self.host)
        } else {
            format!("{open}{}{close}:{}", self.host, self.port)
        }
    }
}

impl Origin {
    /// Host and port, with the port even where it is the scheme's own.
    pub fn to_host_and_port(&self) -> String {
        let (open, close) = if self.host.contains(':') { ("[", "]") } else { ("", "") };
        format!("{open}{}{close}:{}", self.host, self.port)
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.scheme.as_str(), self.authority())
    }
}

/// Bytes that must never be printed, and are wiped when dropped.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Wiped);

impl Secret {
    /// Takes the bytes over. The vector must not have been grown beyond its first allocation with
    /// the secret inside, or the old allocation keeps a copy.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Wiped::new(bytes))
    }

    /// The bytes. In the data plane only `rewrite` and `login` call this (`tests/tidy.rs`).
    pub fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// A caller's ServiceAccount token, wiped when dropped. It is not a [`Secret`]: whoever reviews it
/// must read it, while a registry's credential is read by `rewrite` and `login` alone.
#[derive(Clone)]
pub struct Token(Wiped);

impl Token {
    /// Takes the token's bytes over.
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Wiped::new(bytes))
    }

    /// The same for bytes that are wiped already.
    pub(crate) fn of(bytes: Wiped) -> Self {
        Self(bytes)
    }

    /// The token as the caller sent it.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[token]")
    }
}

/// What the registry asks of the connector: a ready `Authorization` field value.
#[derive(Debug)]
pub struct Credential {
    /// The whole field value, `Basic …` (RFC 7617).
    pub authorization: Secret,
    /// Changes whenever the Secret's content does (its resourceVersion, or a hash of it). A pooled
    /// connection or a registry token made under another version is never used again.
    pub version: Box<str>,
}

/// How a connector stands with its registry.
#[derive(Clone, Debug)]
pub enum Access {
    /// The connector has no `spec.auth`: requests go without a credential.
    Anonymous,
    /// Every request carries this credential.
    Credential(Arc<Credential>),
    /// The connector cannot be used; the word is a condition's reason such as `SecretNotFound`.
    Unready(Box<str>),
}

/// The certificates a registry's certificate is verified against.
#[derive(Debug, PartialEq, Eq)]
pub struct Trust {
    /// Equal ids mean equal anchors; a pool or session cache never mixes two.
    pub id: u64,
    /// DER certificates: the system's roots, then those of `spec.caCertSecretRef`.
    pub anchors: Vec<Arc<[u8]>>,
}

/// What of Harbor's own API (`/api/v2.0`) passes through a connector (class parameter `api`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum ApiPolicy {
    /// Nothing.
    Off,
    /// Reading projects, repositories, artifacts and the system's health: nothing that mints or
    /// reveals a credential.
    #[default]
    Read,
    /// Everything the connector's credential may do.
    Full,
}

/// Who goes where a registry redirects the reader of a blob (class parameter `redirects`).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub enum RedirectPolicy {
    /// The proxy itself: the caller needs no way to the storage.
    #[default]
    Follow,
    /// The caller: it is told the address as the registry wrote it.
    Pass,
}

/// What happens when a registry answers that a blob lies elsewhere (distribution-spec: a blob's
/// GET may be answered with a redirect; docker/distribution does so for object storage).
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Redirects {
    /// Who follows.
    pub policy: RedirectPolicy,
    /// Hosts that may be private, on plain http, or on loopback where registries may be (class
    /// parameter `redirectHosts`).
    pub hosts: Vec<ListedHost>,
}

impl Redirects {
    /// Whether `origin` is one of the hosts listed.
    pub fn lists(&self, origin: &Origin) -> bool {
        self.hosts.iter().any(|listed| {
            listed.host == origin.host && listed.port.is_none_or(|port| port == origin.port)
        })
    }
}

/// A host, and a port where only that one is meant. Written as [`Origin::host`] is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListedHost {
    /// A DNS name or an IP address, lower-case, no brackets, no trailing dot.
    pub host: Box<str>,
    /// The only port meant; `None` means every port.
    pub port: Option<u16>,
}

/// One usable connector, compiled from its manifests.
#[derive(Debug)]
pub struct Connector {
    /// Its namespace and name.
    pub reference: ConnectorRef,
    /// Distinguishes a deleted and re-created connector of the same name.
    pub uid: Box<str>,
    /// Where its registry is.
    pub origin: Origin,
    /// The path of `spec.address` without a trailing slash: empty, or `/prefix`.
    pub base_path: Box<str>,
    /// Other origins under which the registry may name itself (`spec.addressExtensions`).
    pub aliases: Vec<Origin>,
    /// Its credential, or why there is none.
    pub access: Access,
    /// What its registry's certificate is verified against.
    pub trust: Arc<Trust>,
    /// What of Harbor's own API passes.
    pub api: ApiPolicy,
    /// Where its registry's redirections may lead.
    pub redirects: Redirects,
    /// Hosts beyond its own that its registry may name as a token service (parameter `tokenHosts`).
    pub token_hosts: Vec<ListedHost>,
}

/// How an account stands with its registry: what a request is to show, or why it need not try.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Standing {
    /// The registry takes the credential itself.
    Basic,
    /// The registry asks for nothing, or there is nothing to give it.
    Open,
    /// The registry wants tokens of its token service.
    Bearer,
    /// The registry refused the credential; it is not shown again for a while.
    Refused,
    /// The registry refused the credential once, and a probe is to tell: requests wait.
    Suspect,
    /// The registry cannot be spoken to, or not be trusted with the credential.
    Unavailable(Kind),
    /// The connector has changed meanwhile: this account is no more.
    Gone,
}

/// A token that a registry's token service gave a connector. No caller ever sees it.
#[derive(Debug)]
pub struct RegistryToken {
    /// The whole field value, `Bearer …` (RFC 6750 §2.1).
    pub authorization: Secret,
    /// What it was asked for: scopes with a space between them.
    pub scopes: Box<str>,
    /// Tells it from every other token of this process.
    pub serial: u64,
}

/// Who sent a request, as the cluster (or the manifests) knows them.
#[derive(Clone, Debug, PartialEq, Eq, Default)]
pub struct Caller {
    /// For example `system:serviceaccount:ci:builder`.
    pub user: Box<str>,
    /// The Pod the token is bound to, `namespace/name`, when the token says so.
    pub pod: Option<Box<str>>,
}

/// What is known about a token, and about its right to the connector that was asked for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// The token is good; if a connector was named, its bearer may use it.
    Allowed(Arc<Caller>),
    /// The token is good, but its bearer may not use the connector, or there is no such connector.
    Denied(Arc<Caller>),
    /// The token is not good.
    Unauthenticated,
    /// Nobody could be asked. Never remembered, never turned into a refusal.
    Unavailable,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reference_keeps_its_two_parts() {
        let reference = ConnectorRef::new("ci", "harbor");
        assert_eq!((reference.namespace(), reference.name()), ("ci", "harbor"));
        assert_eq!(reference.to_string(), "ci/harbor");
    }

    #[test]
    fn an_authority_names_only_a_port_that_is_not_the_schemes_own() {
        let origin = |scheme, host: &str, port| Origin { scheme, host: host.into(), port };
        assert_eq!(
            origin(Scheme::Https, "harbor.example.com", 443).authority(),
            "harbor.example.com"
        );
        assert_eq!(
            origin(Scheme::Http, "harbor.example.com", 443).authority(),
            "harbor.example.com:443"
        );
        assert_eq!(origin(Scheme::Https, "fd00::1", 8443).authority(), "[fd00::1]:8443");
    }

    #[test]
    fn a_listed_host_is_meant_with_its_port_or_with_every_port() {
        let listed = |host: &str, port| ListedHost { host: host.into(), port };
        let hosts = vec![listed("minio", None), listed("s3.internal", Some(9000))];
        let redirects = Redirects { policy: RedirectPolicy::Follow, hosts };
        for (host, port, expected) in [
            ("minio", 80, true),
            ("minio", 9000, true),
            ("s3.internal", 9000, true),
            ("s3.internal", 443, false),
            ("x.minio", 80, false),
        ] {
            let origin = Origin { scheme: Scheme::Https, host: host.into(), port };
            assert_eq!(redirects.lists(&origin), expected, "{host}:{port}");
        }
    }

    #[test]
    fn a_secret_cannot_be_printed() {
        assert_eq!(format!("{:?}", Secret::new(b"hunter2".to_vec())), "[secret]");
    }

    #[test]
    fn dns_labels_are_told_from_everything_else() {
        for good in ["a", "a-b", "0", "x1"] {
            assert!(is_dns_label(good), "{good}");
        }
        for bad in ["", "-a", "a-", "A", "a.b", "a_b", &"a".repeat(64)] {
            assert!(!is_dns_label(bad), "{bad}");
        }
    }
}
