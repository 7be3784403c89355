//! What was seen of a connector, its registry and its credential becomes conditions.
//!
//! A [`Fact`], a [`Pulse`] and what the registry thinks of the credential in, four findings out;
//! pure. Their words tell apart what a person would do differently about, are the same for the same
//! state, and hold names and addresses, never a value of a Secret.

use dataplane::vocabulary::{Access, Connector};

use super::facts::Fact;
use crate::condition::{AUTH_READY, CA_CERT_READY, Finding, LIVENESS_READY, SECRET_READY, TRUE};
use crate::login::{Checked, Seen};
use crate::registry::Failure;

/// Whether a registry is alive.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pulse {
    /// It is.
    Alive,
    /// It answered a ping with another status than 200.
    Status(u16),
    /// It did not answer.
    Silent(Failure),
}

/// What is known of the credential.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Login {
    /// Nobody looked, because something else has to come first.
    Unasked,
    /// It was looked at.
    Checked(Checked),
    /// There was no answer within the time for one connector.
    Late,
}

/// Whether the credential is to be looked at, given what is known otherwise. A registry that is
/// away is not asked, and a connector without a credential is asked about nothing but where tokens
/// come from.
pub fn wants_login(fact: &Fact, pulse: Option<&Pulse>) -> bool {
    let is_alive = pulse.is_none_or(|pulse| *pulse == Pulse::Alive);
    let usable = fact.registry().filter(|found| !matches!(found.access, Access::Unready(_)));
    fact.has_auth_probe && is_alive && usable.is_some()
}

/// What to say of the connector. `pulse` is that of its registry, where it was looked at.
pub fn findings(fact: &Fact, pulse: Option<&Pulse>, login: &Login) -> [Finding; 4] {
    let mut all =
        [secret(fact), liveness(fact, pulse), auth(fact, pulse, login), certificates(fact)];
    for finding in &mut all {
        finding.message = bounded(std::mem::take(&mut finding.message));
    }
    all
}

fn secret(fact: &Fact) -> Finding {
    match (&fact.flaws.secret, &fact.secret) {
        (Some(flaw), _) => Finding::fails(SECRET_READY, flaw.reason, flaw.message.clone()),
        (None, None) => noted(SECRET_READY, "SecretOptional", ""),
        (None, Some(_)) if fact.connector.is_none() => waits(SECRET_READY, LIVENESS_READY),
        (None, Some(_)) => Finding::holds(SECRET_READY),
    }
}

fn certificates(fact: &Fact) -> Finding {
    match (&fact.flaws.ca, &fact.ca) {
        (Some(flaw), _) => Finding::fails(CA_CERT_READY, flaw.reason, flaw.message.clone()),
        (None, None) => noted(CA_CERT_READY, "NoCACert", ""),
        (None, Some(_)) if fact.connector.is_none() => waits(CA_CERT_READY, LIVENESS_READY),
        (None, Some(name)) => {
            noted(CA_CERT_READY, "Valid", &format!("CA certificate loaded from secret {name:?}"))
        }
    }
}

fn liveness(fact: &Fact, pulse: Option<&Pulse>) -> Finding {
    let fails = |message| Finding::fails(LIVENESS_READY, "ConnectionFailed", message);
    if let Some(what) = &fact.flaws.address {
        return fails(what.clone());
    }
    if let Some(flaw) = &fact.flaws.ca {
        // Without its CA the registry cannot be told from another, so the proxy sends nothing.
        return fails(format!("nothing is sent to the registry without its CA: {}", flaw.message));
    }
    match (fact.registry(), pulse) {
        _ if !fact.has_liveness_probe => noted(LIVENESS_READY, "NonLivenessProbe", ""),
        (_, Some(Pulse::Alive)) => Finding::holds(LIVENESS_READY),
        (Some(connector), Some(Pulse::Status(status))) => {
            fails(format!("{}: {}", asked(connector, PING), answered(*status)))
        }
        (Some(connector), Some(Pulse::Silent(failure))) => {
            fails(format!("{}: {}", asked(connector, PING), failed(connector, *failure)))
        }
        (None, _) | (_, None) => Finding::open(LIVENESS_READY, NOT_CHECKED, String::new()),
    }
}

fn auth(fact: &Fact, pulse: Option<&Pulse>, login: &Login) -> Finding {
    let fails = |message| Finding::fails(AUTH_READY, "AuthenticationFailed", message);
    if let Some(first) = before_login(fact, pulse) {
        return waits(AUTH_READY, first);
    }
    let (true, Some(connector)) = (fact.has_auth_probe, fact.registry()) else {
        return noted(AUTH_READY, "NonAuthProbe", "");
    };
    let unclear = |what: String| {
        Finding::open(AUTH_READY, NOT_CHECKED, format!("{}: {what}", asked(connector, "/v2/")))
    };
    let checked = match login {
        Login::Checked(checked) => checked,
        Login::Unasked => return waits(AUTH_READY, LIVENESS_READY),
        Login::Late => return unclear("no verdict in time".to_owned()),
    };
    match &checked.seen {
        Seen::Taken if matches!(connector.access, Access::Anonymous) => {
            noted(AUTH_READY, "NonAuthProbe", "requests go without a credential")
        }
        Seen::Taken => Finding::holds(AUTH_READY),
        Seen::Refused if checked.was_good => fails(
            "Authentication failed: status code 401: the registry took this same credential \
             before: its password was changed there, or the account was disabled, locked or has \
             expired"
                .to_owned(),
        ),
        Seen::Refused => fails(format!(
            "Authentication failed: status code 401: wrong username or password in secret {:?}, or \
             a robot account that is disabled or has expired: Harbor answers these alike",
            fact.secret.as_deref().unwrap_or_default()
        )),
        Seen::Wanted => fails(
            "Authentication failed: status code 401: the registry asks for a user and a password: \
             add spec.auth"
                .to_owned(),
        ),
        Seen::Status(403) => fails(format!("Authentication failed: {}", answered(403))),
        Seen::Status(status) => unclear(answered(*status)),
        Seen::Failure(failure) => unclear(failed(connector, *failure)),
        Seen::Service(why) => unclear(format!("the registry's token service failed: {why}")),
        Seen::Foreign(host) => fails(format!(
            "Authentication failed: the registry names a token service at {host}, which may not \
             have the credential: list its host in the parameter tokenHosts if that is right"
        )),
    }
}

/// The condition that has to hold before there is anything to say about the credential.
fn before_login(fact: &Fact, pulse: Option<&Pulse>) -> Option<&'static str> {
    let flaws = &fact.flaws;
    let is_dead = pulse.is_some_and(|pulse| *pulse != Pulse::Alive);
    match () {
        () if flaws.secret.is_some() => Some(SECRET_READY),
        () if flaws.ca.is_some() => Some(CA_CERT_READY),
        () if flaws.address.is_some() || is_dead => Some(LIVENESS_READY),
        () => None,
    }
}

/// The condition holds, and there is something to say about how.
fn noted(kind: &'static str, reason: &str, message: &str) -> Finding {
    Finding { kind, status: TRUE, reason: reason.to_owned(), message: message.to_owned() }
}

fn waits(kind: &'static str, first: &str) -> Finding {
    Finding::open(kind, NOT_CHECKED, format!("not checked before {first} is True"))
}

fn asked(connector: &Connector, target: &str) -> String {
    format!("Get \"{}{}{target}\"", connector.origin, connector.base_path)
}

fn failed(connector: &Connector, failure: Failure) -> String {
    match failure {
        Failure::Unresolved => format!("lookup {}: no such host", connector.origin.host),
        other => other.to_string(),
    }
}

/// A status that is none of the expected ones, and what it may mean.
fn answered(status: u16) -> String {
    let hint = match status {
        301 | 302 | 303 | 307 | 308 => "write the address that it redirects to",
        401 | 403 => "something before the registry refuses requests",
        404 => "no Harbor 2.x is at this address",
        407 => "a proxy in between asks for a password",
        429 => "the registry asks for fewer requests",
        502..=504 => "what stands before the registry cannot reach it",
        500.. => "the registry itself fails",
        _ => "no Harbor 2.x answers so",
    };
    format!("status code {status}: {hint}")
}

/// A message that fits into a status, whatever a registry named in it.
fn bounded(mut message: String) -> String {
    if message.len() > MESSAGE_BYTES_MAX {
        let end = (0..=MESSAGE_BYTES_MAX).rev().find(|end| message.is_char_boundary(*end));
        message.truncate(end.unwrap_or_default());
    }
    message
}

/// Where a Harbor says that it is alive, without a login and without its database
/// (src/server/v2.0/handler/ping.go).
pub const PING: &str = "/api/v2.0/ping";

/// The reason of a condition that waits for something else; the published contract has none.
const NOT_CHECKED: &str = "NotChecked";

const MESSAGE_BYTES_MAX: usize = 1024;

#[cfg(test)]
mod tests;
