//! A registry's challenge: which token service it names, and whether that one may be spoken to.
//!
//! The values of `WWW-Authenticate` and a connector in, a [`Challenge`] out. The credential goes to
//! a token service only on a host that is the connector's own or was listed for it: otherwise a
//! registry could collect it by naming a place of its choice.

use dataplane::vocabulary::{Connector, Origin, Scheme};

use crate::compile::address;

/// A token service.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Realm {
    /// Where it is.
    pub(super) origin: Origin,
    /// Path and query.
    pub(super) target: String,
    /// The value of `service`, if one is named.
    pub(super) service: Option<String>,
}

/// What a registry asks for.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Challenge {
    /// No token.
    Other,
    /// A token of this service.
    Bearer(Realm),
    /// A token of a service that is not trusted; its host, for the log.
    Foreign(String),
}

/// Reads the challenges of one answer (RFC 9110 §11.6.1, distribution "Token Authentication").
pub(super) fn read<'a>(values: impl Iterator<Item = &'a str>, connector: &Connector) -> Challenge {
    let mut challenge = Challenge::Other;
    for value in values {
        for parsed in http_auth::parse_challenges(value).unwrap_or_default() {
            if !parsed.scheme.eq_ignore_ascii_case("bearer") {
                continue;
            }
            let parameter = |name: &str| {
                let found =
                    parsed.params.iter().find(|(known, _)| known.eq_ignore_ascii_case(name));
                found.map(|(_, value)| value.to_unescaped())
            };
            let Some(written) = parameter("realm") else {
                continue;
            };
            match realm(&written) {
                Some((origin, target)) if is_trusted(&origin, connector) => {
                    let service = parameter("service").filter(|service| !service.is_empty());
                    return Challenge::Bearer(Realm { origin, target, service });
                }
                Some((origin, _)) => challenge = Challenge::Foreign(origin.to_string()),
                None => challenge = Challenge::Foreign("an address that is none".to_owned()),
            }
        }
    }
    challenge
}

/// An http or https URL without a user and a fragment: its origin, and its path with its query.
fn realm(written: &str) -> Option<(Origin, String)> {
    if written.contains('#') || written.bytes().any(|byte| !byte.is_ascii_graphic()) {
        return None;
    }
    let (scheme, rest) = written.split_once("://")?;
    let end = rest.find(['/', '?']).unwrap_or(rest.len());
    let (authority, target) = rest.split_at_checked(end)?;
    let (origin, _) = address::parse(&format!("{scheme}://{authority}")).ok()?;
    let slash = if target.starts_with('/') { "" } else { "/" };
    Some((origin, format!("{slash}{target}")))
}

/// Whether the credential may go there.
fn is_trusted(realm: &Origin, connector: &Connector) -> bool {
    let own = [&connector.origin].into_iter().chain(&connector.aliases);
    let is_own = own.clone().any(|origin| origin.host == realm.host);
    let is_listed = connector.token_hosts.iter().any(|listed| {
        listed.host == realm.host && listed.port.is_none_or(|port| port == realm.port)
    });
    let is_sealed = realm.scheme == Scheme::Https || connector.origin.scheme == Scheme::Http;
    (is_own || is_listed) && is_sealed
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use dataplane::vocabulary::{Access, ApiPolicy, ConnectorRef, ListedHost, Redirects, Trust};

    use super::*;

    fn connector(address: &str) -> Connector {
        let (origin, _) = address::parse(address).unwrap();
        Connector {
            reference: ConnectorRef::new("ci", "h"),
            uid: "u".into(),
            origin,
            base_path: "".into(),
            aliases: vec![address::parse("https://alias.example").unwrap().0],
            access: Access::Anonymous,
            trust: Arc::new(Trust { id: 0, anchors: Vec::new() }),
            api: ApiPolicy::Read,
            redirects: Redirects::default(),
            token_hosts: vec![ListedHost { host: "auth.example".into(), port: Some(8443) }],
        }
    }

    fn read_one(value: &str) -> String {
        match read([value].into_iter(), &connector("https://harbor.example")) {
            Challenge::Other => "other".to_owned(),
            Challenge::Foreign(host) => format!("foreign {host}"),
            Challenge::Bearer(Realm { origin, target, service }) => {
                format!("{origin}{target} {}", service.unwrap_or_default())
            }
        }
    }

    #[test]
    fn a_token_service_is_found_among_the_challenges() {
        for (value, expected) in [
            (
                r#"Bearer realm="https://harbor.example/service/token",service="harbor-registry",scope="repository:a/b:pull""#,
                "https://harbor.example/service/token harbor-registry",
            ),
            (
                r#"Basic realm="x", bearer Realm="https://harbor.example/t?a=b", service="s, t""#,
                "https://harbor.example/t?a=b s, t",
            ),
            (r#"Bearer realm="https://harbor.example:8443""#, "https://harbor.example:8443/ "),
            (r#"Bearer realm="https://alias.example/t""#, "https://alias.example/t "),
            (r#"Bearer realm="https://auth.example:8443/t""#, "https://auth.example:8443/t "),
            (r#"Basic realm="harbor""#, "other"),
            (r#"Bearer service="s""#, "other"),
            ("", "other"),
            ("\"", "other"),
        ] {
            assert_eq!(read_one(value), expected, "{value}");
        }
    }

    #[test]
    fn a_credential_goes_nowhere_that_was_not_named_for_it() {
        for realm in [
            "https://evil.example/token",
            "https://auth.example/token",
            "https://harbor.example.evil.example/token",
            "https://harbor.example@evil.example/token",
            "http://harbor.example/token",
            "//harbor.example/token",
            "https://harbor.example/token#x",
            "https://harbor.example\\\\@evil.example/",
            "/token",
        ] {
            let found = read_one(&format!("Bearer realm=\"{realm}\""));
            assert!(found.starts_with("foreign "), "{realm}: {found}");
        }
        let plain = connector("http://harbor.example");
        let value = "Bearer realm=\"http://harbor.example/token\"";
        assert!(matches!(read([value].into_iter(), &plain), Challenge::Bearer(_)));
    }
}
