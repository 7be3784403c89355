//! One look at what a registry takes: `GET /v2/` with the connector's credential, if it has one.
//!
//! A connector in, what was [`Found`] out. It is the only request whose refusal speaks of the
//! credential alone (Harbor answers 401 to a missing right as well), and one that robots may make.
//! Where the registry wants tokens the credential is put to the test at the token service, by
//! asking for a token without scopes, as a login does.

use std::sync::Arc;

use dataplane::vocabulary::{Access, Connector};

use super::breaker::{Found, Mode};
use super::challenge::{self, Challenge};
use super::token::{self, Fetched};
use crate::registry::{Ask, Dialer};

/// What a probe found.
pub(super) struct Probed {
    /// What it means.
    pub(super) found: Found,
    /// The host of a token service that is not trusted.
    pub(super) realm: Option<String>,
}

/// Probes the registry of `connector`.
pub(super) async fn probe(dialer: &Dialer, connector: &Connector) -> Probed {
    let found = |found| Probed { found, realm: None };
    let (authorization, own) = match &connector.access {
        Access::Credential(credential) => (Some(&credential.authorization), Mode::Basic),
        Access::Anonymous | Access::Unready(_) => (None, Mode::Open),
    };
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
            return found(failure.kind().map_or(Found::Unclear(own), Found::Away));
        }
    };
    match reply.status {
        401 => {}
        // Something before the registry answers in its stead, and knows nothing of credentials.
        500.. => return found(Found::Unclear(own)),
        _ => return found(Found::Accepted(own)),
    }
    let challenges = reply.fields.get_all("www-authenticate");
    let challenges = challenges.iter().filter_map(|value| value.to_str().ok());
    match challenge::read(challenges, connector) {
        Challenge::Bearer(realm) => {
            let mode = Mode::Bearer(Arc::new(realm));
            found(tested(dialer, connector, mode).await)
        }
        Challenge::Foreign(host) => Probed { found: Found::Foreign, realm: Some(host) },
        Challenge::Other if authorization.is_some() => found(Found::Rejected),
        // Without a credential nothing can be refused: requests are sent and answered.
        Challenge::Other => found(Found::Accepted(Mode::Open)),
    }
}

/// Puts the credential to the test where there is one and tokens are wanted.
async fn tested(dialer: &Dialer, connector: &Connector, mode: Mode) -> Found {
    let (Mode::Bearer(realm), Access::Credential(_)) = (&mode, &connector.access) else {
        return Found::Accepted(mode);
    };
    match token::fetch(dialer, connector, realm, "").await {
        Fetched::Rejected => Found::Rejected,
        // A service that gives no token without scopes has still not refused the credential.
        Fetched::Token(..) | Fetched::Denied | Fetched::Failed(_) => Found::Accepted(mode),
    }
}
