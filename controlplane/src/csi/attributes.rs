//! What a Pod asks for, read strictly from its volume's attributes.
//!
//! The kubelet's `volume_context` in, [`Asked`] out; pure. Every attribute is known, bounded and
//! checked against a grammar here, so that nothing a user wrote reaches a path or a file unchecked
//! (`csi.storage.k8s.io/…` is the kubelet's own; what we do not know of it is passed over).

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use dataplane::vocabulary::{ConnectorRef, is_dns_label};

use super::refusal::{Quoted, Refusal};

/// The Pod of a volume, as the kubelet describes it (`podInfoOnMount`).
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Pod {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Its uid.
    pub uid: String,
    /// Its ServiceAccount.
    pub account: String,
}

/// What a Pod asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Asked {
    /// Who asks.
    pub pod: Pod,
    /// The connectors, in order, at least one.
    pub connectors: Vec<ConnectorRef>,
    /// The configurations, in order.
    pub configurations: Vec<String>,
    /// The files that are left out.
    pub excluded: Vec<String>,
    /// Parameters by configuration.
    pub params: Params,
    /// How long a token should live.
    pub expiration: Option<Duration>,
}

/// Values by configuration and parameter.
pub type Params = BTreeMap<String, BTreeMap<String, String>>;

impl Asked {
    /// Reads the attributes.
    pub fn read(context: &HashMap<String, String>) -> Result<Self, Refusal> {
        check_names(context)?;
        let pod = pod(context)?;
        let connectors = connectors(context, &pod.namespace)?;
        let (configurations, excluded) = names(attribute(context, NAMES, LIST_BYTES_MAX)?)?;
        let params = match attribute(context, PARAMS, PARAMS_BYTES_MAX)? {
            None => Params::new(),
            Some(text) => serde_json::from_str(text)
                .map_err(|cause| Refusal::Params(Quoted::new(&cause.to_string())))?,
        };
        if let Some(unused) = params.keys().find(|name| !configurations.contains(name)) {
            return Err(Refusal::ParamsUnused(Quoted::new(unused)));
        }
        let expiration = attribute(context, EXPIRATION, VALUE_BYTES_MAX)?.map(duration);
        let expiration = expiration.transpose()?;
        Ok(Self { pod, connectors, configurations, excluded, params, expiration })
    }
}

/// Refuses the first attribute that is neither ours nor the kubelet's.
fn check_names(context: &HashMap<String, String>) -> Result<(), Refusal> {
    let known = [CONNECTORS, NAME, NAMESPACE, NAMES, PARAMS, EXPIRATION];
    let mut unknown: Vec<_> = context
        .keys()
        .filter(|name| !name.starts_with(KUBELET) && !known.contains(&name.as_str()))
        .collect();
    unknown.sort();
    unknown.first().map_or(Ok(()), |name| Err(Refusal::AttributeUnknown(Quoted::new(name))))
}

fn pod(context: &HashMap<String, String>) -> Result<Pod, Refusal> {
    let field = |key: &'static str| {
        let value = context.get(key).filter(|value| !value.is_empty());
        value.cloned().ok_or(Refusal::FieldMissing(key))
    };
    if context.get(EPHEMERAL).map(String::as_str) != Some("true") {
        return Err(Refusal::Kind(
            "only inline volumes are served: write the volume as csi: {driver: connectors-csi, …} in the Pod",
        ));
    }
    Ok(Pod {
        name: field(POD_NAME)?,
        namespace: field(POD_NAMESPACE)?,
        uid: field(POD_UID)?,
        account: field(ACCOUNT)?,
    })
}

/// The connectors, in the new form or in the older one.
fn connectors(context: &HashMap<String, String>, own: &str) -> Result<Vec<ConnectorRef>, Refusal> {
    let list = attribute(context, CONNECTORS, LIST_BYTES_MAX)?;
    let name = attribute(context, NAME, VALUE_BYTES_MAX)?;
    let namespace = attribute(context, NAMESPACE, VALUE_BYTES_MAX)?;
    let Some(list) = list else {
        let name = name.ok_or(Refusal::ConnectorsMissing)?;
        if name.contains('/') {
            return Err(Refusal::ConnectorName(Quoted::new(name)));
        }
        return Ok(vec![connector(namespace.unwrap_or(own), name, name)?]);
    };
    match (name, namespace) {
        (Some(_), _) => return Err(Refusal::ConnectorsTwice(NAME)),
        (None, Some(_)) => return Err(Refusal::ConnectorsTwice(NAMESPACE)),
        (None, None) => {}
    }
    let mut found: Vec<ConnectorRef> = Vec::new();
    for written in list.split(',').map(str::trim) {
        let (namespace, name) = written.split_once('/').unwrap_or((own, written));
        let connector = connector(namespace, name, written)?;
        if found.contains(&connector) {
            return Err(Refusal::ConnectorRepeated(connector.as_str().to_owned()));
        }
        if found.len() == CONNECTORS_MAX {
            return Err(Refusal::ConnectorsMany(CONNECTORS_MAX));
        }
        found.push(connector);
    }
    Ok(found)
}

fn connector(namespace: &str, name: &str, written: &str) -> Result<ConnectorRef, Refusal> {
    let good = is_dns_label(namespace) && is_dns_label(name) && name.len() <= NAME_BYTES_MAX;
    if good {
        Ok(ConnectorRef::new(namespace, name))
    } else {
        Err(Refusal::ConnectorName(Quoted::new(written)))
    }
}

/// Configurations and excluded files.
fn names(list: Option<&str>) -> Result<(Vec<String>, Vec<String>), Refusal> {
    let (mut included, mut excluded) = (Vec::new(), Vec::new());
    let mut seen = HashSet::new();
    for written in list.into_iter().flat_map(|list| list.split(',')).map(str::trim) {
        let (name, list) = match written.strip_prefix('!') {
            Some(file) => (file, &mut excluded),
            None => (written, &mut included),
        };
        if !is_file_name(name) {
            return Err(Refusal::ConfigurationName(Quoted::new(written)));
        }
        if seen.insert(written) {
            list.push(name.to_owned());
        }
    }
    Ok((included, excluded))
}

/// Whether a file may have this name. Names that begin with two dots are the volume's own.
pub(super) fn is_file_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"._-".contains(&byte);
    (1..=FILE_NAME_BYTES_MAX).contains(&name.len())
        && name.bytes().all(plain)
        && name != "."
        && !name.starts_with("..")
}

/// A duration as Go writes it (`time.ParseDuration`), in hours, minutes and seconds.
fn duration(text: &str) -> Result<Duration, Refusal> {
    let refusal = || Refusal::Expiration(Quoted::new(text));
    let mut seconds: u64 = 0;
    let mut number = String::new();
    for letter in text.chars() {
        let unit = match letter {
            '0'..='9' if number.len() < 9 => {
                number.push(letter);
                continue;
            }
            'h' => 3600,
            'm' => 60,
            's' => 1,
            _ => return Err(refusal()),
        };
        let count: u64 = number.parse().map_err(|_| refusal())?;
        seconds += count * unit;
        number.clear();
    }
    if !number.is_empty() || seconds < EXPIRATION_SECONDS_MIN {
        return Err(refusal());
    }
    Ok(Duration::from_secs(seconds))
}

/// The attribute `name`, if it is there: neither empty nor too long.
fn attribute<'a>(
    context: &'a HashMap<String, String>,
    name: &'static str,
    most: usize,
) -> Result<Option<&'a str>, Refusal> {
    match context.get(name).map(|value| value.trim()) {
        Some("") => Err(Refusal::AttributeEmpty(name)),
        Some(value) if value.len() > most => Err(Refusal::AttributeLong(name, most)),
        value => Ok(value),
    }
}

const CONNECTORS: &str = "connectors";
const NAME: &str = "connector.name";
const NAMESPACE: &str = "connector.namespace";
const NAMES: &str = "configuration.names";
const PARAMS: &str = "configuration.params";
const EXPIRATION: &str = "token.expiration";

/// What the kubelet adds (Kubernetes, `pkg/volume/csi`: podInfoOnMount).
const KUBELET: &str = "csi.storage.k8s.io/";
const POD_NAME: &str = "csi.storage.k8s.io/pod.name";
const POD_NAMESPACE: &str = "csi.storage.k8s.io/pod.namespace";
const POD_UID: &str = "csi.storage.k8s.io/pod.uid";
const ACCOUNT: &str = "csi.storage.k8s.io/serviceAccount.name";
const EPHEMERAL: &str = "csi.storage.k8s.io/ephemeral";

/// A name with its namespace, or a duration.
const VALUE_BYTES_MAX: usize = 256;
/// As many names as a volume may have connectors, and then some.
const LIST_BYTES_MAX: usize = 4 << 10;
const PARAMS_BYTES_MAX: usize = 64 << 10;

/// Each is asked for at every mount; a job that uses more registries is not known.
const CONNECTORS_MAX: usize = 16;

/// A connector's Service is `c-<name>`, and a Service's name is a DNS label of at most 63.
const NAME_BYTES_MAX: usize = 61;

/// The longest name of a file in a volume.
pub(super) const FILE_NAME_BYTES_MAX: usize = 128;

/// The shortest life that a token can be asked for (Kubernetes, TokenRequest).
const EXPIRATION_SECONDS_MIN: u64 = 600;

#[cfg(test)]
mod tests;
