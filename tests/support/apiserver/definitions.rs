//! What a kind's own rules refuse: Secrets, and custom resources by the definition that is stored.
//!
//! An object in, changed as the server would change it (values encoded, unknown fields pruned), or
//! the causes why it is invalid. CEL rules are evaluated by kube-cel.

use serde_json::{Map, Value};

use super::super::base64;

/// A Secret's `stringData` goes into `data`; its type is fixed, and the basic-auth type has a
/// username or a password (k8s.io/kubernetes `pkg/apis/core/validation`).
pub(super) fn secret(object: &mut Value, old: Option<&Value>) -> Result<(), Vec<String>> {
    let fields = object.as_object_mut().expect("an object");
    if let Some(Value::Object(texts)) = fields.remove("stringData") {
        let data = fields.entry("data").or_insert_with(|| Value::Object(Map::new()));
        for (name, text) in texts {
            data[name] = base64(text.as_str().unwrap_or_default()).into();
        }
    }
    fields.entry("type").or_insert_with(|| "Opaque".into());
    if old.is_some_and(|old| old["type"] != object["type"]) {
        return Err(vec!["type: Invalid value: field is immutable".to_owned()]);
    }
    let basic = object["type"] == "kubernetes.io/basic-auth";
    if basic && object["data"]["username"].is_null() && object["data"]["password"].is_null() {
        let all = ["username", "password"];
        return Err(all.map(|key| format!("data[{key}]: Required value")).to_vec());
    }
    Ok(())
}

/// Prunes and checks a custom resource by its stored definition.
pub(super) fn custom(
    definition: &Value,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Vec<String>> {
    let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
    let mut causes = Vec::new();
    for field in ["spec", "status"] {
        if let (Some(value), false) = (object.get_mut(field), schema["properties"][field].is_null())
        {
            check(&schema["properties"][field], value, field, &mut causes);
        }
    }
    for required in schema["required"].as_array().into_iter().flatten() {
        let name = required.as_str().unwrap_or_default();
        if object.get(name).is_none() {
            causes.push(format!("{name}: Required value"));
        }
    }
    if causes.is_empty()
        && let Err(errors) = kube_cel::validate(schema, object, old)
    {
        causes.extend(errors.into_vec().iter().map(ToString::to_string));
    }
    if causes.is_empty() { Ok(()) } else { Err(causes) }
}

/// Checks a value by a structural schema and removes the fields that the schema does not know.
fn check(schema: &Value, value: &mut Value, path: &str, causes: &mut Vec<String>) {
    if value.is_null() && schema["nullable"] == true {
        return;
    }
    let fits = match schema["type"].as_str() {
        Some("object") => value.is_object(),
        Some("array") => value.is_array(),
        Some("string") => value.is_string(),
        Some("integer") => value.is_i64() || value.is_u64(),
        Some("boolean") => value.is_boolean(),
        _ => true,
    };
    if !fits {
        let kind = schema["type"].as_str().unwrap_or_default();
        causes.push(format!("{path}: Invalid value: must be of type {kind}"));
        return;
    }
    let most = |limit: &str| schema[limit].as_u64().map_or(usize::MAX, |limit| limit as usize);
    if value.as_str().is_some_and(|text| text.len() > most("maxLength")) {
        causes.push(format!("{path}: Too long"));
    }
    if let Some(items) = value.as_array_mut() {
        if items.len() > most("maxItems") {
            causes.push(format!("{path}: Too many"));
        }
        for (index, item) in items.iter_mut().enumerate() {
            check(&schema["items"], item, &format!("{path}[{index}]"), causes);
        }
    }
    let Some(fields) = value.as_object_mut() else {
        return;
    };
    for required in schema["required"].as_array().into_iter().flatten() {
        let name = required.as_str().unwrap_or_default();
        if !fields.contains_key(name) {
            causes.push(format!("{path}.{name}: Required value"));
        }
    }
    let open = schema["x-kubernetes-preserve-unknown-fields"] == true
        || !schema["additionalProperties"].is_null();
    if let Some(known) = schema["properties"].as_object() {
        fields.retain(|name, _| open || known.contains_key(name));
        for (name, schema) in known {
            if let Some(value) = fields.get_mut(name) {
                check(schema, value, &format!("{path}.{name}"), causes);
            }
        }
    } else if !open {
        fields.clear();
    }
}
