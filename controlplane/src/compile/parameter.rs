//! The parameters of a class and of a connector, and what they mean.
//!
//! A class's defaults and a connector's values in, [`Parameters`] out; pure. A value that cannot be
//! read is a problem, and what is meant by it is then the narrowest it could be.

use dataplane::vocabulary::{ApiPolicy, ListedHost, RedirectPolicy, Redirects};
use serde_json::Value;

use super::address;
use super::problem::Cause;
use crate::crd;

/// What the parameters say.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Parameters {
    /// `api`: what of Harbor's own API passes.
    pub(super) api: ApiPolicy,
    /// `redirects` and `redirectHosts`.
    pub(super) redirects: Redirects,
    /// `tokenHosts`.
    pub(super) token_hosts: Vec<ListedHost>,
}

impl Parameters {
    /// The defaults that a class gives, over those that are built in.
    pub(super) fn of_class(spec: &crd::ConnectorClassSpec, causes: &mut Vec<Cause>) -> Self {
        let mut parameters = Self::default();
        for rule in &spec.params {
            if let Some(value) = &rule.default {
                // A class may declare what other programs read.
                parameters.set(&rule.name, value, causes);
            }
        }
        parameters
    }

    /// The values of a connector, over those of its class.
    pub(super) fn of_connector(
        mut self,
        spec: &crd::ConnectorSpec,
        causes: &mut Vec<Cause>,
    ) -> Self {
        for parameter in &spec.params {
            if !self.set(&parameter.name, &parameter.value, causes) {
                causes.push(Cause::ParameterUnknown(parameter.name.clone()));
            }
        }
        self
    }

    /// Sets the parameter `name`. `false`: there is none of that name.
    fn set(&mut self, name: &str, value: &Value, causes: &mut Vec<Cause>) -> bool {
        match name {
            API => {
                self.api = api(value).unwrap_or_else(|cause| {
                    causes.push(cause);
                    ApiPolicy::Off
                });
            }
            REDIRECTS => {
                self.redirects.policy = policy(value).unwrap_or_else(|cause| {
                    causes.push(cause);
                    RedirectPolicy::Follow
                });
            }
            REDIRECT_HOSTS => self.redirects.hosts = hosts(REDIRECT_HOSTS, value, causes),
            TOKEN_HOSTS => self.token_hosts = hosts(TOKEN_HOSTS, value, causes),
            _ => return false,
        }
        true
    }
}

fn api(value: &Value) -> Result<ApiPolicy, Cause> {
    match value.as_str() {
        Some("off") => Ok(ApiPolicy::Off),
        Some("read") => Ok(ApiPolicy::Read),
        Some("full") => Ok(ApiPolicy::Full),
        _ => Err(Cause::Api(value.to_string())),
    }
}

fn policy(value: &Value) -> Result<RedirectPolicy, Cause> {
    match value.as_str() {
        Some("follow") => Ok(RedirectPolicy::Follow),
        Some("pass") => Ok(RedirectPolicy::Pass),
        _ => Err(Cause::Redirects(value.to_string())),
    }
}

/// The hosts of a list between commas. A bad one is a problem and is left out.
fn hosts(parameter: &'static str, value: &Value, causes: &mut Vec<Cause>) -> Vec<ListedHost> {
    let Some(text) = value.as_str() else {
        causes.push(Cause::Hosts(parameter, value.to_string()));
        return Vec::new();
    };
    let mut hosts = Vec::new();
    for written in text.split(',').map(str::trim).filter(|written| !written.is_empty()) {
        match address::host(written) {
            Ok((host, port)) => hosts.push(ListedHost { host: host.into(), port }),
            Err(why) => causes.push(Cause::Host { parameter, host: written.to_owned(), why }),
        }
    }
    hosts
}

const API: &str = "api";
const REDIRECTS: &str = "redirects";
const REDIRECT_HOSTS: &str = "redirectHosts";
const TOKEN_HOSTS: &str = "tokenHosts";

#[cfg(test)]
mod tests {
    use super::*;

    fn of(params: Value) -> (Parameters, Vec<Cause>) {
        let spec = serde_json::from_value(serde_json::json!({ "params": params })).unwrap();
        let mut causes = Vec::new();
        (Parameters::default().of_connector(&spec, &mut causes), causes)
    }

    #[test]
    fn hosts_are_read_one_by_one_and_a_bad_one_costs_itself_alone() {
        let (parameters, causes) = of(serde_json::json!([
            {"name": "redirectHosts", "value": "Minio:9000, s3.internal,0x7f.1, [FD00::1]:81,"},
        ]));
        let listed = |host: &str, port| ListedHost { host: host.into(), port };
        assert_eq!(
            parameters.redirects.hosts,
            [listed("minio", Some(9000)), listed("s3.internal", None), listed("fd00::1", Some(81))]
        );
        let host = "0x7f.1".to_owned();
        assert_eq!(
            causes,
            [Cause::Host { parameter: REDIRECT_HOSTS, host, why: address::Refusal::Host }]
        );
    }

    #[test]
    fn a_value_that_cannot_be_read_is_a_problem_and_the_narrowest_holds() {
        let (parameters, causes) = of(serde_json::json!([
            {"name": "redirects", "value": "yes"},
            {"name": "redirectHosts", "value": 7},
            {"name": "api", "value": "some"},
            {"name": "reditects", "value": "pass"},
        ]));
        assert_eq!(parameters.redirects, Redirects::default());
        assert_eq!(parameters.api, ApiPolicy::Off);
        assert_eq!(causes.len(), 4, "{causes:?}");
    }

    #[test]
    fn a_connector_overrides_its_class() {
        let class = serde_json::from_value(serde_json::json!({ "params": [
            {"name": "redirects", "type": "string", "default": "pass"},
            {"name": "redirectHosts", "type": "string", "default": "minio"},
            {"name": "somebody-elses", "default": 1},
        ]}));
        let mut causes = Vec::new();
        let class = Parameters::of_class(&class.unwrap(), &mut causes);
        assert_eq!(class.redirects.policy, RedirectPolicy::Pass);
        let own = serde_json::json!({"params": [{"name": "redirects", "value": "follow"}]});
        let own = class.of_connector(&serde_json::from_value(own).unwrap(), &mut causes);
        assert_eq!((own.redirects.policy, own.redirects.hosts.len()), (RedirectPolicy::Follow, 1));
        assert_eq!(causes, []);
    }
}
