//! What can go wrong, where, whose fault it is, and what the caller is told: one table.
//!
//! A stage fails with a [`Kind`]; [`Kind::facts`] is the only place that turns it into a status, an
//! OCI error code (distribution-spec v1.1 §"Error Codes"), a blame and a word for logs and metrics.
//! No text is built on the failing path: `reply` renders the row.

use std::fmt;

/// How far a request had come. The order is that of the stage files.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// Reading and checking the head.
    Parse,
    /// Asking whether the caller may use the connector.
    Authorise,
    /// Looking the connector up.
    Route,
    /// Learning what to show the registry: a credential, one of its tokens, or nothing.
    Login,
    /// Turning the head into the registry's, or the registry's into the caller's.
    Rewrite,
    /// Getting a connection to the registry.
    Connect,
    /// Moving heads and bodies.
    Stream,
    /// The exchange ended as it should.
    Done,
}

impl Stage {
    /// All stages, in order: the closed label set of metrics.
    pub const ALL: [Self; 8] = [
        Self::Parse,
        Self::Authorise,
        Self::Route,
        Self::Login,
        Self::Rewrite,
        Self::Connect,
        Self::Stream,
        Self::Done,
    ];

    /// The word for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Parse => "parse",
            Self::Authorise => "authorise",
            Self::Route => "route",
            Self::Login => "login",
            Self::Rewrite => "rewrite",
            Self::Connect => "connect",
            Self::Stream => "stream",
            Self::Done => "done",
        }
    }
}

/// Who has to act, or who ended a good exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Fault {
    /// Nobody: the exchange is complete.
    Nobody,
    /// The caller, or its network.
    Caller,
    /// Whoever wrote the Connector, its Secret or the rights to it.
    Connector,
    /// The registry, or the way to it.
    Registry,
    /// This proxy, or its control plane.
    Proxy,
}

impl Fault {
    /// All faults: the closed label set of metrics.
    pub const ALL: [Self; 5] =
        [Self::Nobody, Self::Caller, Self::Connector, Self::Registry, Self::Proxy];

    /// The word for logs and labels.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nobody => "nobody",
            Self::Caller => "caller",
            Self::Connector => "connector",
            Self::Registry => "registry",
            Self::Proxy => "proxy",
        }
    }
}

/// What went wrong. Texts inside are ours, never the peer's.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// A head or body that RFC 9112 forbids, or that two parsers could read differently.
    Malformed(&'static str),
    /// A request-target outside the distribution API's grammar, or written ambiguously.
    NameInvalid(&'static str),
    /// A query with doubled, malformed or contradictory parameters.
    QueryInvalid(&'static str),
    /// No connector is named, neither by the path nor by the Host.
    NoConnector,
    /// A head beyond `head_bytes_max` or `head_fields_max`.
    HeadTooLarge,
    /// A target beyond `target_bytes_max`.
    TargetTooLong,
    /// A method that this resource does not have.
    MethodNotAllowed,
    /// A form body where the registry would read parameters from it.
    FormBody,
    /// An `Expect` other than `100-continue`.
    ExpectationUnknown,
    /// A transfer coding other than `chunked`.
    CodingUnknown,
    /// A manifest beyond `manifest_bytes_max`.
    ManifestTooLarge,
    /// The head did not arrive within `head_wait`.
    HeadTimeout,
    /// No usable credential in `Authorization`.
    TokenMissing,
    /// The token is not, or no longer, good.
    TokenRejected,
    /// The caller may not use the connector, or it does not exist.
    Denied,
    /// Nobody could say whether the caller may use the connector.
    ReviewUnavailable,
    /// A bounded queue of ours is full.
    Overloaded,
    /// The connector has no credential to use just now.
    ConnectorUnready,
    /// An address that the connector's policy keeps closed.
    PolicyDenied(&'static str),
    /// The list of connectors in `Proxy-Authorization` is none.
    ListInvalid,
    /// No listed connector serves the host, and the passthrough policy does not let it pass.
    HostDenied,
    /// A host that may pass, at an address that may not be dialled.
    HostForbidden,
    /// A host that may pass cannot be reached.
    HostUnreachable,
    /// A host that was let through to broke the tunnel.
    HostGone,
    /// Neither side of a tunnel said anything within `tunnel_idle_wait`.
    TunnelIdle,
    /// A request inside a tunnel that is meant for another host than the tunnel.
    Misdirected,
    /// The request has been here before, or is about to come back to us.
    Loop,
    /// There is no certificate to meet the caller with.
    CertificateMissing,
    /// TLS with the caller could not be agreed on.
    HandshakeFailed,
    /// The registry's name has no address.
    RegistryUnresolved,
    /// The registry's address may not be dialled.
    RegistryForbidden,
    /// The registry refused the connection or could not be reached in time.
    RegistryUnreachable,
    /// The registry's certificate is not trusted, or TLS failed otherwise.
    RegistryUntrusted,
    /// The registry refused the connector's credential.
    CredentialRefused,
    /// A push through a connector that has no credential.
    PushAnonymous,
    /// Nobody could say in time how the connector stands with its registry.
    LoginUnsettled,
    /// The registry names a token service that the connector does not trust.
    RealmForeign,
    /// The registry's token service gave no token.
    TokenServiceFailed,
    /// The registry did not answer in time, and no body had been sent.
    RegistrySilent,
    /// The registry failed after body bytes of an upload had gone to it.
    UploadInterrupted,
    /// The registry failed before it answered, and nothing of a body had gone to it.
    RegistryClosed,
    /// The registry's answer breaks HTTP, or points at a place we may not send the caller to.
    RegistryMalformed(&'static str),
    /// The registry redirects a blob's reader to a place the proxy does not go to.
    RedirectRefused(&'static str),
    /// The storage that the registry redirects to cannot be had.
    StorageUnreachable(&'static str),
    /// The registry's body ended before its end: the caller's is cut off too.
    RegistryTruncated,
    /// The caller went away, or stalled beyond `body_progress_wait`.
    CallerGone,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Facts {
    /// The status the caller gets, if an answer can still be sent.
    pub status: u16,
    /// The OCI (or docker) error code.
    pub code: &'static str,
    /// Who must act.
    pub fault: Fault,
    /// The word for logs and labels.
    pub word: &'static str,
    /// What the caller is told, and what to do about it.
    pub message: &'static str,
    /// Seconds for `Retry-After`, where trying again can help.
    pub retry_after: Option<u8>,
}

impl Kind {
    /// Its row.
    pub fn facts(self) -> Facts {
        let (status, code, fault, word, retry_after) = self.row();
        Facts { status, code, fault, word, message: self.message(), retry_after }
    }

    #[rustfmt::skip]
    fn row(self) -> (u16, &'static str, Fault, &'static str, Option<u8>) {
        use Fault::{Caller, Connector, Proxy, Registry};
        match self {
            Self::Malformed(_) => (400, "UNKNOWN", Caller, "malformed", None),
            Self::NameInvalid(_) => (400, "NAME_INVALID", Caller, "name-invalid", None),
            Self::QueryInvalid(_) => (400, "UNSUPPORTED", Caller, "query-invalid", None),
            Self::NoConnector => (400, "NAME_INVALID", Caller, "no-connector", None),
            Self::HeadTooLarge => (431, "UNKNOWN", Caller, "head-too-large", None),
            Self::TargetTooLong => (414, "NAME_INVALID", Caller, "target-too-long", None),
            Self::MethodNotAllowed => (405, "UNSUPPORTED", Caller, "method-not-allowed", None),
            Self::FormBody => (415, "UNSUPPORTED", Caller, "form-body", None),
            Self::ExpectationUnknown => (417, "UNSUPPORTED", Caller, "expectation-unknown", None),
            Self::CodingUnknown => (501, "UNSUPPORTED", Caller, "coding-unknown", None),
            Self::ManifestTooLarge => (413, "MANIFEST_INVALID", Caller, "manifest-too-large", None),
            Self::HeadTimeout => (408, "UNKNOWN", Caller, "head-timeout", None),
            Self::TokenMissing => (401, "UNAUTHORIZED", Caller, "token-missing", None),
            Self::TokenRejected => (401, "UNAUTHORIZED", Caller, "token-rejected", None),
            Self::Denied => (403, "DENIED", Caller, "denied", None),
            Self::ReviewUnavailable => (503, "UNAVAILABLE", Proxy, "review-unavailable", Some(2)),
            Self::Overloaded => (503, "UNAVAILABLE", Proxy, "overloaded", Some(1)),
            Self::ConnectorUnready => (503, "UNAVAILABLE", Connector, "connector-unready", Some(10)),
            Self::PolicyDenied(_) => (403, "DENIED", Caller, "policy-denied", None),
            Self::ListInvalid => (401, "UNAUTHORIZED", Caller, "list-invalid", None),
            Self::HostDenied => (403, "DENIED", Caller, "host-denied", None),
            Self::HostForbidden => (403, "DENIED", Caller, "host-forbidden", None),
            Self::HostUnreachable => (503, "UNAVAILABLE", Registry, "host-unreachable", Some(2)),
            Self::HostGone => (502, "UNKNOWN", Registry, "host-gone", None),
            Self::TunnelIdle => (408, "UNKNOWN", Caller, "tunnel-idle", None),
            Self::Misdirected => (421, "UNSUPPORTED", Caller, "misdirected", None),
            Self::Loop => (508, "UNSUPPORTED", Connector, "loop", None),
            Self::CertificateMissing => (503, "UNAVAILABLE", Proxy, "certificate-missing", Some(10)),
            Self::HandshakeFailed => (400, "UNSUPPORTED", Caller, "handshake-failed", None),
            Self::RegistryUnresolved => (503, "UNAVAILABLE", Registry, "registry-unresolved", Some(5)),
            Self::RegistryForbidden => (503, "UNAVAILABLE", Connector, "registry-forbidden", None),
            Self::RegistryUnreachable => (503, "UNAVAILABLE", Registry, "registry-unreachable", Some(2)),
            Self::RegistryUntrusted => (503, "UNAVAILABLE", Connector, "registry-untrusted", Some(10)),
            Self::CredentialRefused => (403, "DENIED", Connector, "credential-refused", None),
            Self::PushAnonymous => (403, "DENIED", Connector, "push-anonymous", None),
            Self::LoginUnsettled => (503, "UNAVAILABLE", Registry, "login-unsettled", Some(2)),
            Self::RealmForeign => (503, "UNAVAILABLE", Connector, "realm-foreign", Some(30)),
            Self::TokenServiceFailed => (503, "UNAVAILABLE", Registry, "token-service-failed", Some(5)),
            Self::RegistrySilent => (504, "UNAVAILABLE", Registry, "registry-silent", None),
            Self::UploadInterrupted => (502, "UNKNOWN", Registry, "upload-interrupted", None),
            Self::RegistryClosed => (502, "UNKNOWN", Registry, "registry-closed", None),
            Self::RegistryMalformed(_) => (502, "UNKNOWN", Registry, "registry-malformed", None),
            Self::RedirectRefused(_) => (502, "UNKNOWN", Registry, "redirect-refused", None),
            Self::StorageUnreachable(_) => (503, "UNAVAILABLE", Registry, "storage-unreachable", Some(2)),
            Self::RegistryTruncated => (502, "UNKNOWN", Registry, "registry-truncated", None),
            Self::CallerGone => (408, "UNKNOWN", Caller, "caller-gone", None),
        }
    }

    /// What the caller is told. ASCII without quotes: it goes into fields and into JSON as it is.
    fn message(self) -> &'static str {
        match self {
            Self::Malformed(why)
            | Self::NameInvalid(why)
            | Self::QueryInvalid(why)
            | Self::PolicyDenied(why)
            | Self::RegistryMalformed(why)
            | Self::RedirectRefused(why)
            | Self::StorageUnreachable(why) => why,
            Self::NoConnector => {
                "no connector is named: use /v2/namespaces/<namespace>/connectors/<name>/<repository>/ or the host c-<name>.<namespace>.svc"
            }
            Self::HeadTooLarge => "the request's head is too large",
            Self::TargetTooLong => "the request-target is too long",
            Self::MethodNotAllowed => "this method is not part of the distribution API here",
            Self::FormBody => "an upload may not be a form: send application/octet-stream",
            Self::ExpectationUnknown => "the only expectation known is 100-continue",
            Self::CodingUnknown => "the only transfer coding known is chunked",
            Self::ManifestTooLarge => "the manifest is larger than this proxy lets pass",
            Self::HeadTimeout => "the request's head did not arrive in time",
            Self::TokenMissing => {
                "a ServiceAccount token is needed: Basic with any user and the token as password, or Bearer"
            }
            Self::TokenRejected => "service account token expired or invalid",
            Self::Denied => {
                "this service account may not use the connector: it needs the right to get it (connectors.connectors.alauda.io)"
            }
            Self::ReviewUnavailable => "the caller's rights could not be checked just now",
            Self::Overloaded => "the proxy is at its limit just now",
            Self::ConnectorUnready => "the connector is not ready",
            Self::ListInvalid => {
                "the proxy's user must be <namespace>/<connector>, or several of them with commas between"
            }
            Self::HostDenied => {
                "no listed connector serves this host: put it into NO_PROXY to reach it directly"
            }
            Self::HostForbidden => "this host has an address that this proxy never dials",
            Self::HostUnreachable => "this host cannot be reached",
            Self::HostGone => "the host broke the tunnel",
            Self::TunnelIdle => "nothing came through the tunnel for too long",
            Self::Misdirected => "the request is for another host than the tunnel it came through",
            Self::Loop => "the request came back to the proxy that sent it",
            Self::CertificateMissing => {
                "this proxy has no certificate for the host: see --ca-dir and the proxy's log"
            }
            Self::HandshakeFailed => "TLS with the caller failed",
            Self::RegistryUnresolved => "the registry's name has no address",
            Self::RegistryForbidden => "the registry's address is one this proxy never dials",
            Self::RegistryUnreachable => "the registry cannot be reached",
            Self::RegistryUntrusted => {
                "x509: the registry's certificate is not trusted: name its CA in spec.caCertSecretRef"
            }
            Self::CredentialRefused => {
                "the registry refused the connector's credential, or it has no right on this project"
            }
            Self::PushAnonymous => {
                "it has no credential, and the registry lets nobody push without one: name a Secret in spec.auth"
            }
            Self::LoginUnsettled => "the registry has not yet said whether it takes the credential",
            Self::RealmForeign => {
                "the registry names a token service on a host that is not its own: if it is to be trusted, add the host to the parameter tokenHosts"
            }
            Self::TokenServiceFailed => "the registry's token service gave no token",
            Self::RegistrySilent => "the registry did not answer in time",
            Self::UploadInterrupted => "upload interrupted, start again",
            Self::RegistryClosed => "the registry closed the connection before it answered",
            Self::RegistryTruncated => "the registry's answer broke off",
            Self::CallerGone => "the request's body stopped",
        }
    }
}

/// A failed exchange: what, and how far it had come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Error {
    /// How far the request had come.
    pub stage: Stage,
    /// What went wrong.
    pub kind: Kind,
}

impl Error {
    /// `kind`, met in `stage`.
    pub fn new(stage: Stage, kind: Kind) -> Self {
        Self { stage, kind }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let facts = self.kind.facts();
        write!(f, "{} in {}: {}", facts.word, self.stage.as_str(), facts.message)
    }
}

impl std::error::Error for Error {}
