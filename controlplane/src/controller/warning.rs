//! What people are warned of beside `Ready`: CA certificates that cannot be used and do not count.
//!
//! A connector in, the Event that its `CACertReady` is worth out, once for each change. What stood
//! there when this replica began to act was told by the one before it.

use std::collections::HashMap;

use super::known::{Key, key};
use crate::condition::{CA_CERT_READY, FALSE, Finding};
use crate::crd::Connector;

/// The warnings that were told and still hold: the reason of each.
#[derive(Default)]
pub struct Warnings(HashMap<Key, String>);

impl Warnings {
    /// Takes what stands there as told.
    pub fn begin<'a>(&mut self, connectors: impl Iterator<Item = &'a Connector>) {
        for connector in connectors {
            self.news(connector);
        }
    }

    /// What there is to tell about `connector`.
    pub fn news(&mut self, connector: &Connector) -> Option<Finding> {
        let key = key(connector);
        let Some(warning) = warning(connector) else {
            self.0.remove(&key);
            return None;
        };
        let told = self.0.insert(key, warning.reason.clone());
        (told.as_ref() != Some(&warning.reason)).then_some(warning)
    }

    /// The connector is gone.
    pub fn forget(&mut self, key: &Key) {
        self.0.remove(key);
    }
}

/// The Event for the condition as it stands, in the documented words.
fn warning(connector: &Connector) -> Option<Finding> {
    let conditions = &connector.status.as_ref()?.conditions;
    let standing = conditions.iter().find(|condition| condition.kind == CA_CERT_READY)?;
    let is_current = standing.observed_generation == connector.metadata.generation;
    if standing.status != FALSE || !is_current {
        return None;
    }
    let reason = match standing.reason.as_deref()? {
        "SecretNotFound" => "CACertSecretNotFound",
        _ => "InvalidCACert",
    };
    let message = standing.message.clone().unwrap_or_default();
    Some(Finding::fails(CA_CERT_READY, reason, message))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::crd::{Condition, ConnectorSpec, ConnectorStatus};

    fn connector(status: &str, reason: &str) -> Connector {
        let condition = Condition {
            kind: CA_CERT_READY.into(),
            status: status.into(),
            reason: Some(reason.into()),
            ..Default::default()
        };
        let mut connector = Connector::new("harbor", ConnectorSpec::default());
        connector.status =
            Some(ConnectorStatus { conditions: vec![condition], ..Default::default() });
        connector
    }

    #[test]
    fn each_change_is_told_once_and_what_was_there_before_is_not() {
        let mut warnings = Warnings::default();
        let missing = connector("False", "SecretNotFound");
        warnings.begin([&missing].into_iter());
        assert_eq!(warnings.news(&missing), None);
        let mut told = |connector: &Connector| warnings.news(connector).map(|it| it.reason);
        let invalid = connector("False", "InvalidPEM");
        assert_eq!(told(&invalid).as_deref(), Some("InvalidCACert"));
        assert_eq!(told(&invalid), None);
        assert_eq!(told(&connector("True", "Valid")), None);
        assert_eq!(told(&missing).as_deref(), Some("CACertSecretNotFound"));
        let mut changed = connector("False", "InvalidPEM");
        changed.metadata.generation = Some(2);
        assert_eq!(told(&changed), None, "that speaks of an earlier spec");
    }
}
