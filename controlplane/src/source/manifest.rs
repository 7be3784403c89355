//! The text of one file becomes objects: documents, lists, kinds.
//!
//! YAML or JSON in (JSON is YAML), objects of [`Objects`] out. A document that cannot be read as
//! what it says it is makes the whole file unreadable; kinds that mean nothing here are passed
//! over. Values of a Secret are moved, never copied, and never part of an error.

use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dataplane::courtesy::cores_first;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use zeroize::{Zeroize as _, Zeroizing};

use super::{Found, Named, Objects, Place, SecretObject};
use crate::crd::{GROUP, VERSION};

/// Why a file could not be read: the folder's last good state stays in force.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// The text is not YAML.
    #[error("{place}: not YAML: {what}")]
    Syntax {
        /// Which document.
        place: Place,
        /// What the parser says, with the line.
        what: String,
    },
    /// A document is not an object of Kubernetes.
    #[error("{0}: the document has no apiVersion and kind: is it a Kubernetes manifest?")]
    Kind(Place),
    /// A document has no name.
    #[error("{place}: {kind} has no metadata.name: add one")]
    Nameless {
        /// Which document.
        place: Place,
        /// Its kind.
        kind: String,
    },
    /// A kind of ours in a version that is not known.
    #[error("{place}: {kind} has apiVersion {version:?}: write {expected}")]
    Version {
        /// Which document.
        place: Place,
        /// Its kind.
        kind: String,
        /// What it says.
        version: String,
        /// What it should say.
        expected: &'static str,
    },
    /// An object does not fit its schema.
    #[error("{place}: {named}: {what}")]
    Schema {
        /// Which document.
        place: Place,
        /// Which object.
        named: Named,
        /// What does not fit.
        what: String,
    },
    /// A file that cannot be opened, or is too large.
    #[error("{file}: {what}")]
    File {
        /// Its name.
        file: Arc<str>,
        /// Why.
        what: String,
    },
}

/// Adds the objects of the file `file` with the text `text` to `objects`.
pub fn read(file: &Arc<str>, text: &[u8], objects: &mut Objects) -> Result<(), Unreadable> {
    let options = serde_saphyr::options! {
        // A snippet would show the lines around an error, and they may hold a password.
        with_snippet: false,
        strict_booleans: true,
        leading_zero_numbers_as_strings: true,
    };
    let mut reader = text;
    let documents = serde_saphyr::read_with_options::<_, Value>(&mut reader, options);
    for (index, document) in documents.enumerate() {
        cores_first();
        let place = Place { file: Arc::clone(file), document: index + 1 };
        match document {
            Ok(document) => add(place, document, None, objects)?,
            Err(cause) => {
                let what = cause.render_with_formatter(&serde_saphyr::UserMessageFormatter);
                return Err(Unreadable::Syntax { place, what });
            }
        }
    }
    Ok(())
}

/// Adds one document, or each item of a list. `inherited` is the type of a list's items that name
/// none themselves, as in a `SecretList`.
fn add(
    place: Place,
    document: Value,
    inherited: Option<(&str, &str)>,
    objects: &mut Objects,
) -> Result<(), Unreadable> {
    let Value::Object(mut fields) = document else {
        wipe(document);
        return Err(Unreadable::Kind(place));
    };
    let (version, kind) = inherited.unwrap_or_default();
    let version = text(&fields, "apiVersion").unwrap_or(version).to_owned();
    let kind = text(&fields, "kind").unwrap_or(kind).to_owned();
    if version.is_empty() || kind.is_empty() {
        wipe(Value::Object(fields));
        return Err(Unreadable::Kind(place));
    }
    if let (Some(item_kind), true) = (kind.strip_suffix("List"), fields.contains_key("items")) {
        let inherited = (!item_kind.is_empty()).then_some((version.as_str(), item_kind));
        if let Some(Value::Array(items)) = fields.remove("items") {
            for item in items {
                add(place.clone(), item, inherited, objects)?;
            }
        }
        return Ok(());
    }
    one(place, &version, &kind, fields, objects)
}

/// Adds one object that is no list.
fn one(
    place: Place,
    version: &str,
    kind: &str,
    fields: Map<String, Value>,
    objects: &mut Objects,
) -> Result<(), Unreadable> {
    let Some(known) = KINDS.iter().find(|known| known.is(version, kind)) else {
        tracing::debug!(%place, version, kind, "passed over: a kind that means nothing here");
        wipe(Value::Object(fields));
        return Ok(());
    };
    if version != known.version {
        wipe(Value::Object(fields));
        let (kind, version) = (kind.to_owned(), version.to_owned());
        return Err(Unreadable::Version { place, kind, version, expected: known.version });
    }
    let metadata = fields.get("metadata").and_then(Value::as_object);
    let Some(name) = metadata.and_then(|metadata| text(metadata, "name")) else {
        wipe(Value::Object(fields));
        return Err(Unreadable::Nameless { place, kind: kind.to_owned() });
    };
    let namespace = metadata.and_then(|metadata| text(metadata, "namespace"));
    let namespace = if known.namespaced { namespace.unwrap_or("default") } else { "" };
    let named = Named { kind: known.kind, namespace: namespace.into(), name: name.into() };
    match known.kind {
        "Connector" => push(&mut objects.connectors, place, named, fields, true),
        "ConnectorClass" => push(&mut objects.classes, place, named, fields, true),
        "Role" => push(&mut objects.roles, place, named, fields, false),
        "RoleBinding" => push(&mut objects.role_bindings, place, named, fields, false),
        "ClusterRole" => push(&mut objects.cluster_roles, place, named, fields, false),
        "ClusterRoleBinding" => {
            push(&mut objects.cluster_role_bindings, place, named, fields, false)
        }
        _ => {
            let object = Box::new(secret(fields));
            objects.secrets.push(Found { place, named, unknown_fields: Vec::new(), object });
            Ok(())
        }
    }
}

/// Reads `fields` as a `T`. With `spec_checked`, fields of `spec` that `T` does not keep are noted.
fn push<T: DeserializeOwned + Serialize>(
    list: &mut Vec<Found<T>>,
    place: Place,
    named: Named,
    fields: Map<String, Value>,
    spec_checked: bool,
) -> Result<(), Unreadable> {
    let spec = if spec_checked { fields.get("spec").cloned() } else { None };
    let object: Box<T> = serde_json::from_value(Value::Object(fields))
        .map_err(|cause| schema(place.clone(), named.clone(), cause.to_string()))?;
    let mut unknown_fields = Vec::new();
    if let Some(written) = spec {
        let kept = serde_json::to_value(&object).unwrap_or_default();
        lost(&written, kept.get("spec"), "spec", &mut unknown_fields);
    }
    list.push(Found { place, named, unknown_fields, object });
    Ok(())
}

/// Notes the paths of `written` that are not in `kept`.
fn lost(written: &Value, kept: Option<&Value>, path: &str, out: &mut Vec<String>) {
    match (written, kept) {
        (Value::Object(written), Some(Value::Object(kept))) => {
            for (key, value) in written {
                lost(value, kept.get(key), &format!("{path}.{key}"), out);
            }
        }
        (Value::Array(written), Some(Value::Array(kept))) => {
            for (index, (written, kept)) in written.iter().zip(kept).enumerate() {
                lost(written, Some(kept), &format!("{path}[{index}]"), out);
            }
        }
        (_, Some(_)) | (Value::Null, None) => {}
        (Value::Array(list), None) if list.is_empty() => {}
        (Value::Object(map), None) if map.is_empty() => {}
        (_, None) => out.push(path.to_owned()),
    }
}

/// Decodes a Secret. What is wrong with it names no value, and concerns this Secret alone.
pub(crate) fn secret(mut fields: Map<String, Value>) -> SecretObject {
    let decoded = secret_values(&mut fields);
    let mut metadata = fields.remove("metadata").unwrap_or_default();
    // `kubectl apply` leaves a copy of the whole Secret behind in this annotation.
    let annotations = metadata.get_mut("annotations").and_then(Value::as_object_mut);
    if let Some(copy) = annotations.and_then(|notes| notes.remove(LAST_APPLIED)) {
        wipe(copy);
    }
    let secret_type = text(&fields, "type").unwrap_or("Opaque").to_owned();
    wipe(Value::Object(fields));
    let metadata =
        serde_json::from_value(metadata).map_err(|_| "metadata is not that of an object");
    let defect = metadata.as_ref().err().or(decoded.as_ref().err()).copied();
    let (metadata, values) = (metadata.unwrap_or_default(), decoded.unwrap_or_default());
    SecretObject { metadata, secret_type, values, defect }
}

/// The values of `data`, and over them those of `stringData`.
fn secret_values(fields: &mut Map<String, Value>) -> Result<Values, &'static str> {
    let mut values = Values::new();
    for (field, encoded) in [("data", true), ("stringData", false)] {
        let entries = match fields.remove(field) {
            None | Some(Value::Null) => continue,
            Some(Value::Object(entries)) => entries,
            Some(other) => {
                wipe(other);
                return Err("data and stringData are maps of texts");
            }
        };
        for (key, value) in entries {
            let value = match value {
                Value::String(value) => Zeroizing::new(value),
                Value::Null => Zeroizing::default(),
                other => {
                    wipe(other);
                    return Err("a value of data or stringData is not a text: put it in quotes");
                }
            };
            let bytes = if encoded { decode(&value)? } else { value.as_bytes().to_vec().into() };
            values.insert(key, bytes);
        }
    }
    Ok(values)
}

/// Decodes Base64, into a buffer that never moves.
fn decode(value: &str) -> Result<Zeroizing<Vec<u8>>, &'static str> {
    // Folded YAML texts have line ends in them, which Kubernetes accepts as well.
    let mut compact = Zeroizing::new(Vec::with_capacity(value.len()));
    compact.extend(value.bytes().filter(|byte| !matches!(byte, b'\n' | b'\r')));
    let mut bytes = Zeroizing::new(vec![0; compact.len() / 4 * 3 + 3]);
    let length = STANDARD
        .decode_slice(&*compact, &mut bytes)
        .map_err(|_| "a value of data is not Base64: encode it, or move it to stringData")?;
    bytes.truncate(length);
    Ok(bytes)
}

fn schema(place: Place, named: Named, what: String) -> Unreadable {
    Unreadable::Schema { place, named, what }
}

fn text<'a>(fields: &'a Map<String, Value>, key: &str) -> Option<&'a str> {
    fields.get(key).and_then(Value::as_str)
}

/// Overwrites every text of a tree that is not needed any more.
fn wipe(value: Value) {
    match value {
        Value::String(mut text) => text.zeroize(),
        Value::Array(items) => items.into_iter().for_each(wipe),
        Value::Object(fields) => fields.into_iter().for_each(|(_, value)| wipe(value)),
        Value::Null | Value::Bool(_) | Value::Number(_) => {}
    }
}

type Values = std::collections::BTreeMap<String, Zeroizing<Vec<u8>>>;

/// A kind that has a meaning here.
struct Kind {
    group: &'static str,
    version: &'static str,
    kind: &'static str,
    namespaced: bool,
}

impl Kind {
    /// Whether an object of `version` and `kind` is of this kind, in whatever version of its group.
    fn is(&self, version: &str, kind: &str) -> bool {
        let group = version.rsplit_once('/').map_or("", |(group, _)| group);
        self.kind == kind && self.group == group
    }
}

const LAST_APPLIED: &str = "kubectl.kubernetes.io/last-applied-configuration";
const OURS: &str = "connectors.alauda.io/v1alpha1";
const RBAC_GROUP: &str = "rbac.authorization.k8s.io";
const RBAC: &str = "rbac.authorization.k8s.io/v1";

const KINDS: [Kind; 7] = [
    Kind { group: GROUP, version: OURS, kind: "Connector", namespaced: true },
    Kind { group: GROUP, version: OURS, kind: "ConnectorClass", namespaced: false },
    Kind { group: "", version: "v1", kind: "Secret", namespaced: true },
    Kind { group: RBAC_GROUP, version: RBAC, kind: "Role", namespaced: true },
    Kind { group: RBAC_GROUP, version: RBAC, kind: "RoleBinding", namespaced: true },
    Kind { group: RBAC_GROUP, version: RBAC, kind: "ClusterRole", namespaced: false },
    Kind { group: RBAC_GROUP, version: RBAC, kind: "ClusterRoleBinding", namespaced: false },
];

const _: () = assert!(OURS.len() == GROUP.len() + 1 + VERSION.len());

#[cfg(test)]
mod tests;
