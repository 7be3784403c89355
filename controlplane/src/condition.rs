//! The conditions of a Connector: which there are, which count, and what they add up to.
//!
//! Findings and the conditions as they stand in, the conditions to write out; pure. Two programs
//! write them by server-side apply, each its own and under its own field manager: the controller
//! [`CONTROLLERS`] and `Ready`, the proxy that probes registries [`PROBERS`]. A condition keeps the
//! time of its last transition until its status changes, however often it is found, and says which
//! generation of the spec it speaks of.

use crate::crd::Condition;

/// The conditions that the controller finds out; it writes `Ready` too.
pub const CONTROLLERS: [&str; 2] = [CLASS_READY, SERVICE_READY];

/// The conditions that the proxy finds out, which has the credentials. The last does not count.
pub const PROBERS: [&str; 4] = [SECRET_READY, LIVENESS_READY, AUTH_READY, CA_CERT_READY];

/// The conditions that make up `Ready`, in the order in which a person would look for the cause.
pub const COUNTED: [&str; 5] =
    [CLASS_READY, SECRET_READY, LIVENESS_READY, AUTH_READY, SERVICE_READY];

/// The connector's class exists.
pub const CLASS_READY: &str = "ConnectorClassReady";

/// The connector's Secret exists and has what is needed, or none is needed.
pub const SECRET_READY: &str = "SecretReady";

/// The registry answers.
pub const LIVENESS_READY: &str = "LivenessReady";

/// The registry takes the credential.
pub const AUTH_READY: &str = "AuthReady";

/// The connector's Service exists and leads to the proxy.
pub const SERVICE_READY: &str = "ProxyServiceReady";

/// The registry's own CA certificates can be used; of severity `Info`.
pub const CA_CERT_READY: &str = "CACertReady";

/// The condition that sums the others up.
pub const READY: &str = "Ready";

/// What was found out about one condition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The condition's name, such as `SecretReady`.
    pub kind: &'static str,
    /// `True`, `False` or `Unknown`.
    pub status: &'static str,
    /// One word for programs; empty where the documented contract has none.
    pub reason: String,
    /// One sentence for people.
    pub message: String,
}

impl Finding {
    /// The condition holds, and there is nothing to say about it.
    pub fn holds(kind: &'static str) -> Self {
        Self { kind, status: TRUE, reason: String::new(), message: String::new() }
    }

    /// The condition does not hold, and why.
    pub fn fails(kind: &'static str, reason: &str, message: String) -> Self {
        Self { kind, status: FALSE, reason: reason.to_owned(), message }
    }

    /// Whether the condition holds is not known yet, and why.
    pub fn open(kind: &'static str, reason: &str, message: String) -> Self {
        Self { kind, status: UNKNOWN, reason: reason.to_owned(), message }
    }
}

/// The conditions to write for `findings` about the spec of `generation`, where `before` is what
/// stands there. `now` is the time of day in RFC 3339, in whole seconds.
pub fn written(
    findings: &[Finding],
    before: &[Condition],
    generation: Option<i64>,
    now: &str,
) -> Vec<Condition> {
    findings.iter().map(|finding| one(finding, before, generation, now)).collect()
}

fn one(finding: &Finding, before: &[Condition], generation: Option<i64>, now: &str) -> Condition {
    let old = before.iter().find(|condition| condition.kind == finding.kind);
    let since = old
        .filter(|old| old.status == finding.status)
        .and_then(|old| old.last_transition_time.clone());
    let text = |text: &str| (!text.is_empty()).then(|| text.to_owned());
    Condition {
        kind: finding.kind.to_owned(),
        status: finding.status.to_owned(),
        observed_generation: generation,
        reason: text(&finding.reason),
        message: text(&finding.message),
        severity: (finding.kind == CA_CERT_READY).then(|| "Info".to_owned()),
        last_transition_time: Some(since.unwrap_or_else(|| now.to_owned())),
    }
}

/// What `Ready` is for the spec of `generation`, given what was just found and what others have
/// `written`.
///
/// It is `True` when every counted condition is, takes reason and message of the first that is
/// `False`, and is `Unknown` while one has not been looked at, or only for an earlier generation.
pub fn ready(found: &[Finding], written: &[Condition], generation: Option<i64>) -> Finding {
    let standing = |kind| standing(kind, found, written, generation);
    let all: Vec<_> = COUNTED.into_iter().map(standing).collect();
    let failing = all.iter().find(|finding| finding.status == FALSE);
    let open = all.iter().find(|finding| finding.status != TRUE);
    match failing.or(open) {
        None => Finding::holds(READY),
        Some(cause) => Finding { kind: READY, ..cause.clone() },
    }
}

fn standing(
    kind: &'static str,
    found: &[Finding],
    written: &[Condition],
    generation: Option<i64>,
) -> Finding {
    if let Some(finding) = found.iter().find(|finding| finding.kind == kind) {
        return finding.clone();
    }
    let current = |condition: &&Condition| {
        condition.kind == kind && condition.observed_generation == generation
    };
    let Some(condition) = written.iter().find(current) else {
        return Finding::open(kind, PENDING, format!("{kind} has not been checked yet"));
    };
    let status = match condition.status.as_str() {
        TRUE => TRUE,
        FALSE => FALSE,
        _ => UNKNOWN,
    };
    let text = |text: &Option<String>| text.clone().unwrap_or_default();
    Finding { kind, status, reason: text(&condition.reason), message: text(&condition.message) }
}

/// The reason of a condition that nobody has looked at yet.
pub const PENDING: &str = "Pending";

/// The status of a condition that holds.
pub const TRUE: &str = "True";

/// The status of one that does not.
pub const FALSE: &str = "False";

/// The status of one that is not known.
pub const UNKNOWN: &str = "Unknown";

#[cfg(test)]
mod tests {
    use super::*;

    /// Conditions of generation 2.
    fn standing(pairs: &[(&str, &str)]) -> Vec<Condition> {
        let condition = |(kind, status): &(&str, &str)| Condition {
            kind: (*kind).into(),
            status: (*status).into(),
            observed_generation: Some(2),
            ..Default::default()
        };
        pairs.iter().map(condition).collect()
    }

    const PROBED: [(&str, &str); 3] =
        [(SECRET_READY, "True"), (LIVENESS_READY, "True"), (AUTH_READY, "True")];

    fn ours() -> [Finding; 2] {
        CONTROLLERS.map(Finding::holds)
    }

    #[test]
    fn ready_is_true_only_when_every_counted_condition_is() {
        assert_eq!(ready(&ours(), &standing(&PROBED), Some(2)).status, "True");
        let pending = ready(&ours(), &[], Some(2));
        assert_eq!((pending.status, pending.reason.as_str()), ("Unknown", "Pending"));
    }

    #[test]
    fn what_was_found_out_about_an_earlier_spec_says_nothing_about_this_one() {
        let pending = ready(&ours(), &standing(&PROBED), Some(3));
        assert_eq!((pending.status, pending.reason.as_str()), ("Unknown", "Pending"));
    }

    #[test]
    fn ready_names_the_first_failure_even_where_something_is_still_open() {
        let failing = Finding::fails(SERVICE_READY, "ProxyServiceConflict", "taken".to_owned());
        let found = ready(&[Finding::holds(CLASS_READY), failing], &[], Some(2));
        assert_eq!((found.kind, found.status), ("Ready", "False"));
        assert_eq!(found.reason, "ProxyServiceConflict");
    }

    #[test]
    fn the_certificate_condition_does_not_count() {
        let mut standing = standing(&PROBED);
        standing.push(Condition {
            kind: CA_CERT_READY.into(),
            status: "False".into(),
            observed_generation: Some(2),
            ..Default::default()
        });
        assert_eq!(ready(&ours(), &standing, Some(2)).status, "True");
        let said = written(&[Finding::holds(CA_CERT_READY)], &[], Some(2), "t");
        assert_eq!(said.first().and_then(|one| one.severity.as_deref()), Some("Info"));
    }

    #[test]
    fn the_time_of_a_transition_stays_until_the_status_changes() {
        let time = |conditions: &[Condition]| conditions[0].last_transition_time.clone();
        let first = written(&[Finding::holds(SECRET_READY)], &[], Some(1), "t1");
        let again = written(&[Finding::holds(SECRET_READY)], &first, Some(2), "t2");
        assert_eq!(time(&again).as_deref(), Some("t1"));
        assert_eq!(again[0].observed_generation, Some(2));
        let lost = Finding::fails(SECRET_READY, "SecretNotFound", "gone".into());
        let changed = written(&[lost], &again, Some(2), "t3");
        assert_eq!(time(&changed).as_deref(), Some("t3"));
    }
}
