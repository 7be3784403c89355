//! What a ValidatingAdmissionPolicy refuses (admissionregistration.k8s.io/v1).
//!
//! The stored policies and an object that is to be written in, what they have against it out.
//! Expressions see the object as it is, under its fields' own names (k8s.io/apiserver
//! `admission/conversion.go`). kube-cel's own evaluator of policies is not used: it knows fields by
//! the escaped names of a definition's rules alone. Of a policy's fields only those are known that
//! our own has; one with others is refused when it is made.

use kube_cel::cel::{self, Context, Program};
use serde_json::{Value, json};

use super::resources::Place;
use super::store::Store;

/// Checks a policy that is to be stored.
pub(super) fn check(policy: &Value) -> Result<(), Vec<String>> {
    let known = ["failurePolicy", "matchConstraints", "validations"];
    let constraints = ["resourceRules"];
    let mut causes = unknown(&policy["spec"], "spec", &known);
    causes.extend(unknown(
        &policy["spec"]["matchConstraints"],
        "spec.matchConstraints",
        &constraints,
    ));
    if policy["spec"]["validations"].as_array().is_none_or(Vec::is_empty) {
        causes.push("spec.validations: Required value".to_owned());
    }
    for one in policy["spec"]["validations"].as_array().into_iter().flatten() {
        if let Err(cause) = Program::compile(text(&one["expression"])) {
            causes.push(format!("spec.validations.expression: Invalid value: {cause}"));
        }
    }
    if causes.is_empty() { Ok(()) } else { Err(causes) }
}

/// What the bound policies have against writing `object` at `place`: a status' reason and message.
pub(super) fn refusal(
    store: &Store,
    place: &Place,
    object: &Value,
    old: Option<&Value>,
) -> Option<(String, String)> {
    let bindings = "validatingadmissionpolicybindings.admissionregistration.k8s.io";
    store.list(bindings, "").find_map(|(_, binding)| {
        let policies = "validatingadmissionpolicies.admissionregistration.k8s.io".to_owned();
        let name = text(&binding["spec"]["policyName"]);
        let policy = store.get(&(policies, String::new(), name.to_owned()))?;
        let operation = if old.is_some() { "UPDATE" } else { "CREATE" };
        let rules = policy["spec"]["matchConstraints"]["resourceRules"].as_array()?;
        if !rules.iter().any(|rule| matches(rule, place, operation)) {
            return None;
        }
        let (reason, message) = failed(policy, place, object, old, operation)?;
        let binding = text(&binding["metadata"]["name"]);
        let (resource, object) = (place.resource.qualified(), &place.name);
        let message = format!(
            "{resource} \"{object}\" is forbidden: ValidatingAdmissionPolicy '{name}' with binding \
             '{binding}' denied request: {message}"
        );
        Some((reason, message))
    })
}

/// The first validation that does not hold.
fn failed(
    policy: &Value,
    place: &Place,
    object: &Value,
    old: Option<&Value>,
    operation: &str,
) -> Option<(String, String)> {
    let request = json!({
        "operation": operation, "name": place.name, "namespace": place.namespace,
    });
    let variables = [("object", object), ("oldObject", old.unwrap_or(&Value::Null))];
    let mut context = Context::default();
    for (name, value) in variables.into_iter().chain([("request", &request)]) {
        context.add_variable(name, value).expect("JSON");
    }
    let holds = |one: &&Value| {
        let program = Program::compile(text(&one["expression"])).expect("checked");
        matches!(program.execute(&context), Ok(cel::Value::Bool(true)))
    };
    let one = policy["spec"]["validations"].as_array()?.iter().find(|one| !holds(one))?;
    let reason = one["reason"].as_str().unwrap_or("Invalid").to_owned();
    Some((reason, text(&one["message"]).to_owned()))
}

/// Whether a rule of `matchConstraints` speaks of such a write. Subresources are named in it.
fn matches(rule: &Value, place: &Place, operation: &str) -> bool {
    let has = |list: &Value, wanted: &str| {
        list.as_array().into_iter().flatten().any(|one| one == wanted || one == "*")
    };
    place.subresource.is_empty()
        && has(&rule["apiGroups"], place.resource.group)
        && has(&rule["apiVersions"], place.resource.version)
        && has(&rule["operations"], operation)
        && has(&rule["resources"], place.resource.plural)
}

fn unknown(object: &Value, path: &str, known: &[&str]) -> Vec<String> {
    let fields = object.as_object().into_iter().flat_map(|fields| fields.keys());
    let unknown = fields.filter(|name| !known.contains(&name.as_str()));
    unknown.map(|name| format!("{path}.{name}: the stand-in does not know it")).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
