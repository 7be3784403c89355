//! Why a volume is not served, and what to do about it: the text ends up in the Pod's events.
//!
//! A reason in, a gRPC code and a message out. Nothing here holds a token; what a user wrote is
//! shown quoted and cut.

use std::fmt;
use std::io;
use std::time::Duration;

use tonic::{Code, Status};

/// A refusal. Its message names what is wrong and what would make it right.
#[derive(Debug, thiserror::Error)]
#[rustfmt::skip]
pub enum Refusal {
    /// The kubelet left out a field that it must fill.
    #[error("the request has no {0}")]
    FieldMissing(&'static str),
    /// A kind of volume that this driver does not have.
    #[error("{0}")]
    Kind(&'static str),
    /// A path that is not this Pod's folder.
    #[error("the target path {0} is not one the kubelet makes for this Pod: {1}")]
    Target(Quoted, &'static str),
    /// No token for our audience.
    #[error("no token for the audience {0}: the CSIDriver connectors-csi needs tokenRequests with it, and podInfoOnMount: true")]
    TokenMissing(Quoted),
    /// Something that is no token.
    #[error("the token for the audience {0} cannot be read: it is empty or holds characters that no token has")]
    TokenForm(Quoted),
    /// A token whose time is over.
    #[error("the token for the audience {0} has expired: the kubelet will bring another")]
    TokenExpired(Quoted),
    /// An attribute that does not exist.
    #[error("unknown volume attribute {0}: there are connectors, connector.name, connector.namespace, configuration.names, configuration.params and token.expiration")]
    AttributeUnknown(Quoted),
    /// An attribute that says nothing.
    #[error("the volume attribute {0} is empty: leave it out, or write a value")]
    AttributeEmpty(&'static str),
    /// An attribute that is too long.
    #[error("the volume attribute {0} is too long: {1} bytes are the most")]
    AttributeLong(&'static str, usize),
    /// No connector is named.
    #[error("no connector is named: write the volume attribute connectors: \"namespace/name\" (or connector.name)")]
    ConnectorsMissing,
    /// Both ways of naming connectors at once.
    #[error("the volume attribute connectors stands beside {0}: write one of the two")]
    ConnectorsTwice(&'static str),
    /// Too many connectors.
    #[error("too many connectors: {0} are the most in one volume")]
    ConnectorsMany(usize),
    /// A name that no connector can have.
    #[error("{0} is no connector's name: write name or namespace/name, in small letters, digits and dashes")]
    ConnectorName(Quoted),
    /// A connector named twice.
    #[error("the connector {0} is named twice")]
    ConnectorRepeated(String),
    /// A connector that does not exist.
    #[error("connector \"{0}\" not found")]
    ConnectorNotFound(String),
    /// A connector that the Pod's account may not use.
    #[error("the ServiceAccount {account} may not use connector \"{connector}\": give it {right} in the namespace {namespace}, by a Role and a RoleBinding")]
    Forbidden {
        /// `namespace/name` of the account.
        account: String,
        /// The connector as `namespace/name`.
        connector: String,
        /// What is missing.
        right: String,
        /// Where it must be given.
        namespace: String,
    },
    /// A token that nobody vouches for.
    #[error("the Pod's token is not known: only the tokens of the manifests are, where connectors come from a folder")]
    TokenUnknown,
    /// A connector without a class, or with one that is not there.
    #[error("connector \"{connector}\": connectorclass.connectors.alauda.io {class} not found")]
    ClassNotFound {
        /// The connector.
        connector: String,
        /// Its class.
        class: Quoted,
    },
    /// A connector whose proxy address is not known yet.
    #[error("connector \"{0}\" has no proxy address yet (status.proxy.httpAddress.url): is its controller running?")]
    AddressMissing(String),
    /// A connector whose proxy address nobody can use.
    #[error("the proxy address {address} of connector \"{connector}\" {why}")]
    Address {
        /// The connector.
        connector: String,
        /// What its status says.
        address: Quoted,
        /// What is wrong with it.
        why: String,
    },
    /// A name in `configuration.names` that is none.
    #[error("{0} in configuration.names is neither a configuration's name nor !file")]
    ConfigurationName(Quoted),
    /// A configuration that the classes do not have.
    #[error("unknown configuration {name}: there are {known}")]
    ConfigurationUnknown {
        /// What was asked for.
        name: Quoted,
        /// What there is.
        known: String,
    },
    /// An excluded file that would not be there anyway.
    #[error("configuration.names leaves out the file {0}, which is none of this volume's")]
    FileUnknown(Quoted),
    /// A class that names a file as no file can be named.
    #[error("the configuration {configuration} of the class has a file {file}: a name has letters, digits, dots, dashes and underscores, at most {most}, and does not begin with two dots")]
    FileName {
        /// The configuration.
        configuration: Quoted,
        /// The file.
        file: Quoted,
        /// The longest name.
        most: usize,
    },
    /// `configuration.params` is not what it should be.
    #[error("configuration.params is not JSON of the form {{\"configuration\": {{\"parameter\": \"value\"}}}}: {0}")]
    Params(Quoted),
    /// Parameters for a configuration that is not asked for.
    #[error("configuration.params has values for {0}, which is not in configuration.names")]
    ParamsUnused(Quoted),
    /// A parameter that the configuration does not have.
    #[error("the configuration {configuration} has no parameter {name}: it has {known}")]
    ParamUnknown {
        /// The configuration.
        configuration: Quoted,
        /// The parameter.
        name: Quoted,
        /// What there is.
        known: String,
    },
    /// A parameter without a value.
    #[error("the configuration {configuration} needs the parameter {name}: write it in configuration.params")]
    ParamMissing {
        /// The configuration.
        configuration: Quoted,
        /// The parameter.
        name: Quoted,
    },
    /// A value that a parameter cannot have.
    #[error("the parameter {name} of the configuration {configuration} {why}")]
    ParamValue {
        /// The configuration.
        configuration: Quoted,
        /// The parameter.
        name: Quoted,
        /// What it can have.
        why: String,
    },
    /// A class whose configuration cannot be rendered.
    #[error("failed to generate configuration: {file} of {configuration}: {why}")]
    Template {
        /// The configuration.
        configuration: Quoted,
        /// The file.
        file: Quoted,
        /// What the renderer says.
        why: Quoted,
    },
    /// More bytes than a volume may hold.
    #[error("the files of this volume are larger than {0} bytes: leave some out with !file")]
    Large(usize),
    /// A duration that is none.
    #[error("token.expiration {0} is no duration of at least ten minutes: write one such as 30m or 1h30m")]
    Expiration(Quoted),
    /// A duration that the cluster's tokens do not have.
    #[error("token.expiration {asked} cannot be honoured: the kubelet's tokens live {given}; ask for no more (files are renewed while the Pod runs), or raise expirationSeconds of the CSIDriver connectors-csi")]
    ExpirationLong {
        /// What was asked for.
        asked: String,
        /// What the token has.
        given: String,
    },
    /// Whoever must be asked does not answer.
    #[error("could not get connector: {0}")]
    Source(String),
    /// The file system refused.
    #[error("could not {0}: {1}")]
    Io(&'static str, #[source] io::Error),
}

impl Refusal {
    /// The code that Kubernetes expects (CSI specification, "Error Scheme").
    pub fn code(&self) -> Code {
        match self {
            Self::ConnectorNotFound(_) | Self::ClassNotFound { .. } => Code::NotFound,
            Self::Forbidden { .. } => Code::PermissionDenied,
            Self::TokenUnknown | Self::TokenExpired(_) => Code::Unauthenticated,
            Self::AddressMissing(_)
            | Self::Address { .. }
            | Self::FileName { .. }
            | Self::Template { .. }
            | Self::ExpirationLong { .. } => Code::FailedPrecondition,
            Self::Large(_) => Code::ResourceExhausted,
            Self::Source(_) => Code::Unavailable,
            Self::Io(..) => Code::Internal,
            _ => Code::InvalidArgument,
        }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Self {
        Self::new(refusal.code(), refusal.to_string())
    }
}

/// What somebody wrote, quoted, with control characters escaped, and cut.
#[derive(Clone, PartialEq, Eq)]
pub struct Quoted(String);

impl Quoted {
    /// `text`, to be shown.
    pub fn new(text: &str) -> Self {
        let mut shown: String = text.chars().take(QUOTED_CHARS_MAX).collect();
        if shown.len() < text.len() {
            shown.push('…');
        }
        Self(shown)
    }
}

impl fmt::Display for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

impl fmt::Debug for Quoted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A duration as Kubernetes writes it, such as `1h30m`.
pub fn written(duration: Duration) -> String {
    let seconds = duration.as_secs();
    let mut text = String::new();
    for (unit, count) in [("h", seconds / 3600), ("m", seconds / 60 % 60), ("s", seconds % 60)] {
        if count > 0 || (unit == "s" && text.is_empty()) {
            text.push_str(&format!("{count}{unit}"));
        }
    }
    text
}

/// How much of a text is shown: enough to recognise it, too little to fill an event.
const QUOTED_CHARS_MAX: usize = 100;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_shown_is_quoted_and_cut() {
        assert_eq!(Quoted::new("a\nb\"").to_string(), r#""a\nb\"""#);
        assert_eq!(Quoted::new(&"x".repeat(500)).to_string().chars().count(), 103);
    }

    #[test]
    fn durations_are_written_as_kubernetes_writes_them() {
        for (seconds, expected) in [(0, "0s"), (600, "10m"), (5400, "1h30m"), (3601, "1h1s")] {
            assert_eq!(written(Duration::from_secs(seconds)), expected);
        }
    }
}
