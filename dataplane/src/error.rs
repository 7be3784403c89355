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
    pub const ALL: [Self; 7] = [
        Self::Parse,
        Self::Authorise,
        Self::Route,
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
    /// The registry did not answer in time, and no body had been sent.
    RegistrySilent,
    /// The registry failed after body bytes of an upload had gone to it.
    UploadInterrupted,
    /// The registry failed before it answered, and nothing of a body had gone to it.
    RegistryClosed,
    /// The registry's answer breaks HTTP, or points at a place we may not send the caller to.
    RegistryMalformed(&'static str),
    /// The registry's body ended before its end: the caller's is cut off too.
    RegistryTruncated,
    /// The caller went away, or stalled beyond `body_progress_wait`.
    CallerGone,
    /// A defect of ours; the connection ends, the core goes on.
    Panicked,
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
    #[rustfmt::skip]
    #[expect(clippy::too_many_lines, reason = "a table: one row per kind")]
    pub fn facts(self) -> Facts {
        use Fault::{Caller, Connector, Proxy, Registry};
        let row = |status, code, fault, word, message| Facts { status, code, fault, word, message, retry_after: None };
        let again = |seconds, facts| Facts { retry_after: Some(seconds), ..facts };
        match self {
            Self::Malformed(why) => row(400, "UNKNOWN", Caller, "malformed", why),
            Self::NameInvalid(why) => row(400, "NAME_INVALID", Caller, "name-invalid", why),
            Self::QueryInvalid(why) => row(400, "UNSUPPORTED", Caller, "query-invalid", why),
            Self::NoConnector => row(400, "NAME_INVALID", Caller, "no-connector",
                "no connector is named: use /v2/namespaces/<namespace>/connectors/<name>/<repository>/… or the host c-<name>.<namespace>.svc"),
            Self::HeadTooLarge => row(431, "UNKNOWN", Caller, "head-too-large", "the request's head is too large"),
            Self::TargetTooLong => row(414, "NAME_INVALID", Caller, "target-too-long", "the request-target is too long"),
            Self::MethodNotAllowed => row(405, "UNSUPPORTED", Caller, "method-not-allowed", "this method is not part of the distribution API here"),
            Self::FormBody => row(415, "UNSUPPORTED", Caller, "form-body", "an upload may not be a form: send application/octet-stream"),
            Self::ExpectationUnknown => row(417, "UNSUPPORTED", Caller, "expectation-unknown", "the only expectation known is 100-continue"),
            Self::CodingUnknown => row(501, "UNSUPPORTED", Caller, "coding-unknown", "the only transfer coding known is chunked"),
            Self::ManifestTooLarge => row(413, "MANIFEST_INVALID", Caller, "manifest-too-large", "the manifest is larger than this proxy lets pass"),
            Self::HeadTimeout => row(408, "UNKNOWN", Caller, "head-timeout", "the request's head did not arrive in time"),
            Self::TokenMissing => row(401, "UNAUTHORIZED", Caller, "token-missing",
                "a ServiceAccount token is needed: Basic with any user and the token as password, or Bearer"),
            Self::TokenRejected => row(401, "UNAUTHORIZED", Caller, "token-rejected", "service account token expired or invalid"),
            Self::Denied => row(403, "DENIED", Caller, "denied",
                "this service account may not use the connector: it needs the right to get it (connectors.connectors.alauda.io)"),
            Self::ReviewUnavailable => again(2, row(503, "UNAVAILABLE", Proxy, "review-unavailable", "the caller's rights could not be checked just now")),
            Self::Overloaded => again(1, row(503, "UNAVAILABLE", Proxy, "overloaded", "the proxy is at its limit just now")),
            Self::ConnectorUnready => again(10, row(503, "UNAVAILABLE", Connector, "connector-unready", "the connector is not ready")),
            Self::PolicyDenied(why) => row(403, "DENIED", Caller, "policy-denied", why),
            Self::RegistryUnresolved => again(5, row(503, "UNAVAILABLE", Registry, "registry-unresolved", "the registry's name has no address")),
            Self::RegistryForbidden => row(503, "UNAVAILABLE", Connector, "registry-forbidden", "the registry's address is one this proxy never dials"),
            Self::RegistryUnreachable => again(2, row(503, "UNAVAILABLE", Registry, "registry-unreachable", "the registry cannot be reached")),
            Self::RegistryUntrusted => again(10, row(503, "UNAVAILABLE", Connector, "registry-untrusted",
                "x509: the registry's certificate is not trusted: name its CA in spec.caCertSecretRef")),
            Self::CredentialRefused => row(403, "DENIED", Connector, "credential-refused",
                "the registry refused the connector's credential, or it has no right on this project"),
            Self::RegistrySilent => row(504, "UNAVAILABLE", Registry, "registry-silent", "the registry did not answer in time"),
            Self::UploadInterrupted => row(502, "UNKNOWN", Registry, "upload-interrupted", "upload interrupted, start again"),
            Self::RegistryClosed => row(502, "UNKNOWN", Registry, "registry-closed", "the registry closed the connection before it answered"),
            Self::RegistryMalformed(why) => row(502, "UNKNOWN", Registry, "registry-malformed", why),
            Self::RegistryTruncated => row(502, "UNKNOWN", Registry, "registry-truncated", "the registry's answer broke off"),
            Self::CallerGone => row(408, "UNKNOWN", Caller, "caller-gone", "the request's body stopped"),
            Self::Panicked => row(500, "UNKNOWN", Proxy, "panicked", "internal error"),
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
