//! What an Event must be (events.k8s.io/v1).
//!
//! An Event in, the causes why it is invalid out (k8s.io/kubernetes `pkg/apis/core/validation`,
//! `events.go`).

use serde_json::Value;

/// Checks an Event that is created or changed. What it says happened cannot be changed.
pub(super) fn check(object: &Value, old: Option<&Value>) -> Result<(), Vec<String>> {
    let mut causes = Vec::new();
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    if object["eventTime"].is_null() {
        causes.push("eventTime: Required value".to_owned());
    }
    for (name, longest) in [("reason", 128), ("action", 128), ("reportingInstance", 128)] {
        if text(name).is_empty() {
            causes.push(format!("{name}: Required value"));
        } else if text(name).len() > longest {
            causes.push(format!("{name}: can have at most {longest} characters"));
        }
    }
    if !is_qualified_name(text("reportingController")) {
        causes.push("reportingController: must be a qualified name".to_owned());
    }
    if !["Normal", "Warning"].contains(&text("type")) {
        causes.push("type: must be Normal or Warning".to_owned());
    }
    if text("note").len() > 1024 {
        causes.push("note: can have at most 1024 characters".to_owned());
    }
    let regarding = object["regarding"]["namespace"].as_str().unwrap_or("default");
    if Some(regarding) != object["metadata"]["namespace"].as_str() {
        causes.push("regarding.namespace: does not match event.namespace".to_owned());
    }
    let fixed = ["action", "eventTime", "note", "reason", "regarding", "reportingController"];
    for name in fixed {
        if old.is_some_and(|old| old[name] != object[name]) {
            causes.push(format!("{name}: field is immutable"));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(causes) }
}

/// `name` or `domain/name` (k8s.io/apimachinery `IsQualifiedName`).
fn is_qualified_name(text: &str) -> bool {
    let name = text.rsplit('/').next().unwrap_or_default();
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    let outer = |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_alphanumeric());
    name.len() <= 63
        && text.matches('/').count() <= 1
        && name.bytes().all(inner)
        && outer(name.bytes().next())
        && outer(name.bytes().last())
}
