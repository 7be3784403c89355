//! What can be wrong with a set of manifests, in words that say what to do.
//!
//! [`Cause`] is one mistake, [`Problem`] is a mistake and the object that has it. Texts hold names
//! and addresses of the manifests, never a value of a Secret.

use super::address::Refusal;
use super::credential::Defect;
use crate::source::{Found, Named, Place};

/// A mistake, and where it stands.
#[derive(Debug, PartialEq, thiserror::Error)]
#[error("{place}: {named}: {cause}")]
pub struct Problem {
    /// The file and document.
    pub place: Place,
    /// The object.
    pub named: Named,
    /// The mistake.
    pub cause: Cause,
}

impl Problem {
    /// `cause`, met in `found`.
    pub fn at<T>(found: &Found<T>, cause: Cause) -> Self {
        Self { place: found.place.clone(), named: found.named.clone(), cause }
    }
}

/// A mistake.
#[derive(Debug, PartialEq, thiserror::Error)]
#[rustfmt::skip]
pub enum Cause {
    /// Two objects of one kind and name.
    #[error("written a second time, and the one in {0} counts: remove one of them")]
    Duplicate(Place),
    /// A field that has no meaning.
    #[error("{0} is not a field of this kind and is ignored: check its spelling")]
    FieldUnknown(String),
    /// A namespace that cannot be one.
    #[error("the namespace {0:?} is not a DNS label: use at most 63 of a-z, 0-9 and -")]
    Namespace(String),
    /// A connector's name that cannot be a Service's.
    #[error("the name {0:?} cannot become the Service c-<name>: use at most 61 of a-z, 0-9 and -, no dots")]
    Name(String),
    /// No class.
    #[error("spec.connectorClassName is missing: write harbor")]
    ClassMissing,
    /// A class that does not exist.
    #[error("connectorclass.connectors.alauda.io {0:?} not found: write harbor")]
    ClassNotFound(String),
    /// A class that something else serves.
    #[error("connectors of class {0:?} are not served here: write harbor")]
    ClassForeign(String),
    /// No address.
    #[error("spec.address is missing: write the registry's URL, such as https://harbor.example.com")]
    AddressMissing,
    /// An address that cannot be used.
    #[error("{field} {why}")]
    Address {
        /// Which field, and its value where that can hold no secret.
        field: String,
        /// What is wrong with it.
        why: Refusal,
    },
    /// An address that adds nothing.
    #[error("{0} repeats an address that the connector has already: remove it")]
    AddressRepeated(String),
    /// A parameter that no class declares.
    #[error("spec.params has {0:?}, which the class does not declare: remove it")]
    ParameterUnknown(String),
    /// A value of the parameter `api`.
    #[error("the parameter api is {0}: write off, read or full")]
    Api(String),
    /// A value of the parameter `redirects`.
    #[error("the parameter redirects is {0}: write follow or pass")]
    Redirects(String),
    /// A host in one of the lists of hosts.
    #[error("the parameter {parameter} has the host {host:?}, which {why}")]
    Host {
        /// `redirectHosts` or `tokenHosts`.
        parameter: &'static str,
        /// As it is written.
        host: String,
        /// What is wrong with it.
        why: Refusal,
    },
    /// A list of hosts that is no text.
    #[error("the parameter {0} is {1}: write hosts with or without a port, between commas")]
    Hosts(&'static str, String),
    /// An auth type that the class does not have.
    #[error("spec.auth.name {0:?} is not an auth type of the class: write basicAuth")]
    AuthName(String),
    /// A Secret of another namespace.
    #[error("spec.auth.secretRef.namespace {0:?} is not the connector's own: move the Secret beside the Connector")]
    SecretElsewhere(String),
    /// No such Secret.
    #[error("secrets {0:?} not found: create it in the connector's namespace, or remove spec.auth")]
    SecretNotFound(String),
    /// A Secret that holds no credential.
    #[error("secret {name:?} {why}")]
    Secret {
        /// Its name.
        name: String,
        /// What is wrong with it.
        why: Defect,
    },
    /// A Secret that cannot be decoded.
    #[error("{0}")]
    Undecoded(&'static str),
    /// No such Secret with certificates.
    #[error("CA secret {0:?} not found: create it in the connector's namespace, or remove spec.caCertSecretRef")]
    CaNotFound(String),
    /// A Secret without a certificate.
    #[error("secret {0:?} contains invalid PEM data: put the registry's CA certificate under a key that ends in .crt or .pem")]
    CaInvalid(String),
    /// A token that cannot be told to be anyone's.
    #[error("a service account token needs the annotation kubernetes.io/service-account.name: add it")]
    TokenNameless,
    /// A Secret of a token's type without a token.
    #[error("the key \"token\" is missing or empty: add the caller's token, without a line end")]
    TokenMissing,
    /// One token for two service accounts.
    #[error("its token is also that of {0}: give each service account a token of its own")]
    TokenShared(Named),
    /// A role that is computed from others.
    #[error("aggregationRule is not evaluated here: write the rules out")]
    Aggregation,
    /// A binding to nothing.
    #[error("roleRef names {0}, which is not here: add it, or correct roleRef")]
    RoleNotFound(Named),
    /// A binding to something that is no role.
    #[error("roleRef.kind {0:?} is unknown: write Role or ClusterRole")]
    RoleKind(String),
}

impl Cause {
    /// The word by which a connector with this problem is unready: a condition's reason.
    pub fn reason(&self) -> &'static str {
        match self {
            Self::SecretNotFound(_) | Self::CaNotFound(_) => "SecretNotFound",
            Self::CaInvalid(_) => "InvalidPEM",
            Self::AuthName(_) => "InvalidAuth",
            _ => "InvalidSecret",
        }
    }
}
