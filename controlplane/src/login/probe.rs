//! One look at what a registry takes: `GET /v2/` with the connector's credential, if it has one.
//!
//! A connector in, what was [`Found`] and what was [`Seen`] out. It is the only request whose
//! refusal speaks of the credential alone (Harbor answers 401 to a missing right as well), and one
//! that robots may make. Where the registry wants tokens the credential is put to the test at the
//! token service, by asking for a token without scopes, as a login does.

use std::sync::Arc;

use dataplane::vocabulary::{Access, Connector, Secret};

use super::breaker::{Found, Mode};
use super::challenge::{self, Challenge};
use super::token::{self, Fetched};
use crate::registry::{Ask, Dialer, Failure, whole};

/// What a probe found.
pub(super) struct Probed {
    /// What it means for requests.
    pub(super) found: Found,
    /// What it looks like to people.
    pub(super) seen: Seen,
}

/// What became of a probe, in words for people.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Seen {
    /// The credential was taken, or none is needed.
    Taken,
    /// The credential was refused with 401.
    Refused,
    /// A credential is asked for, and the connector has none.
    Wanted,
    /// The registry answered with a status that says nothing about a credential.
    Status(u16),
    /// There was no answer.
    Failure(Failure),
    /// The token service failed; why.
    Service(String),
    /// The registry names a token service that is not trusted; its host.
    Foreign(String),
}

/// Probes the registry of `connector`. A defect of ours that its answer brings to light is an
/// answer that cannot be read: requests wait for this one, and must be told something.
pub(super) async fn probe(dialer: &Dialer, connector: &Connector) -> Probed {
    let (authorization, own) = match &connector.access {
        Access::Credential(credential) => (Some(&credential.authorization), Mode::Basic),
        Access::Anonymous | Access::Unready(_) => (None, Mode::Open),
    };
    let seen = Seen::Failure(Failure::Malformed);
    let broken = Probed { found: Found::Unclear(own.clone()), seen };
    whole(ask(dialer, connector, authorization, own), broken).await
}

/// Asks with `authorization`; `own` is how requests are then sent.
async fn ask(
    dialer: &Dialer,
    connector: &Connector,
    authorization: Option<&Secret>,
    own: Mode,
) -> Probed {
    let target = format!("{}/v2/", connector.base_path);
    let ask = Ask {
        origin: &connector.origin,
        trust: &connector.trust,
        target: &target,
        authorization,
        purpose: "probe",
    };
    let reply = match dialer.get(&ask).await {
        Ok(reply) => reply,
        Err(failure) => {
            let found = failure.kind().map_or(Found::Unclear(own), Found::Away);
            return Probed { found, seen: Seen::Failure(failure) };
        }
    };
    match reply.status {
        401 => {}
        200..=299 => return Probed { found: Found::Accepted(own), seen: Seen::Taken },
        status => {
            // From 500 on something before the registry answers in its stead, and knows nothing of
            // credentials.
            let found = if status < 500 { Found::Accepted(own) } else { Found::Unclear(own) };
            return Probed { found, seen: Seen::Status(status) };
        }
    }
    let challenges = reply.fields.get_all("www-authenticate");
    let challenges = challenges.iter().filter_map(|value| value.to_str().ok());
    match challenge::read(challenges, connector) {
        Challenge::Bearer(realm) => {
            let mode = Mode::Bearer(Arc::new(realm));
            tested(dialer, connector, mode).await
        }
        Challenge::Foreign(host) => Probed { found: Found::Foreign, seen: Seen::Foreign(host) },
        Challenge::Other if authorization.is_some() => {
            Probed { found: Found::Rejected, seen: Seen::Refused }
        }
        // Without a credential nothing can be refused: requests are sent and answered.
        Challenge::Other => Probed { found: Found::Accepted(Mode::Open), seen: Seen::Wanted },
    }
}

/// Puts the credential to the test where there is one and tokens are wanted.
async fn tested(dialer: &Dialer, connector: &Connector, mode: Mode) -> Probed {
    let (Mode::Bearer(realm), Access::Credential(_)) = (&mode, &connector.access) else {
        return Probed { found: Found::Accepted(mode), seen: Seen::Taken };
    };
    let seen = match token::fetch(dialer, connector, realm, "").await {
        Fetched::Rejected => return Probed { found: Found::Rejected, seen: Seen::Refused },
        // A service that gives no token without scopes has still not refused the credential.
        Fetched::Token(..) | Fetched::Denied => Seen::Taken,
        Fetched::Failed(why) => Seen::Service(why),
    };
    Probed { found: Found::Accepted(mode), seen }
}
