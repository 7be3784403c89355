//! Server-side apply: who owns which field, what conflicts, what is removed.
//!
//! A stored object, an applied one and a manager in; the merged object or the conflicts out
//! (Kubernetes, "Server-Side Apply"). A list of `x-kubernetes-list-type: map` (see [`lists`]) is
//! owned item by item; every other list is owned whole.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value, json};

use super::lists::{self, Lists, named};
use super::store::{metadata, now};

/// The path of a field: the names from the root.
type Path = Vec<String>;

/// Who wrote: the manager, and whether by `Apply` or `Update`, and on which subresource.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Author {
    pub(super) manager: String,
    pub(super) operation: &'static str,
    pub(super) subresource: String,
}

type Owners = BTreeMap<Author, BTreeSet<Path>>;

/// Applies `wanted` over `old`. Fails with one line for each field that another author owns with
/// another value, unless `force`.
pub(super) fn apply(
    old: Option<&Value>,
    wanted: &Value,
    author: &Author,
    force: bool,
    lists: &Lists,
) -> Result<Value, Vec<String>> {
    let old = old.cloned().unwrap_or_else(|| json!({}));
    let (mut object, wanted) = (lists.keyed(&old), &lists.keyed(wanted));
    let mut owners = owners(&object);
    let paths = leaves(wanted);
    let mut conflicts = Vec::new();
    for (other, owned) in &mut owners {
        if other == author {
            continue;
        }
        let taken: Vec<Path> = paths
            .iter()
            .filter(|path| owned.contains(*path) && at(&object, path) != at(wanted, path))
            .filter(|path| !at(wanted, path).is_some_and(Value::is_object))
            .cloned()
            .collect();
        for path in taken {
            if force {
                owned.remove(&path);
            } else {
                conflicts.push(format!("conflict with \"{}\": {}", other.manager, named(&path)));
            }
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }
    for path in owners.get(author).cloned().unwrap_or_default() {
        let shared = owners.iter().any(|(other, owned)| other != author && owned.contains(&path));
        if !paths.contains(&path) && !shared {
            remove(&mut object, &path);
        }
    }
    for path in &paths {
        match at(wanted, path) {
            // An empty map takes nothing from what others have put there.
            Some(Value::Object(_)) if at(&object, path).is_some_and(Value::is_object) => {}
            Some(value) => set(&mut object, path, value.clone()),
            None => {}
        }
    }
    owners.insert(author.clone(), paths);
    record(&mut object, owners);
    Ok(lists.listed(&object, &[&old, wanted]))
}

/// Notes that `author` owns every field in which `new` differs from `old`.
pub(super) fn updated(old: Option<&Value>, new: &mut Value, author: &Author, lists: &Lists) {
    let mut owners = old.map(owners).unwrap_or_default();
    let before = old.map_or_else(|| json!({}), |old| lists.keyed(old));
    let after = lists.keyed(new);
    let changed: BTreeSet<Path> =
        leaves(&after).into_iter().filter(|path| at(&before, path) != at(&after, path)).collect();
    let gone: BTreeSet<Path> =
        leaves(&before).into_iter().filter(|path| at(&after, path).is_none()).collect();
    for owned in owners.values_mut() {
        owned.retain(|path| !gone.contains(path) && !changed.contains(path));
    }
    owners.entry(author.clone()).or_default().extend(changed);
    record(new, owners);
}

/// The fields of an object that can have an owner: not what says which object it is, and not what
/// the server fills in.
fn leaves(object: &Value) -> BTreeSet<Path> {
    let mut found = BTreeSet::new();
    walk(object, &mut Vec::new(), &mut found);
    found.retain(|path| {
        let names: Vec<&str> = path.iter().map(String::as_str).collect();
        !matches!(
            names.as_slice(),
            ["apiVersion" | "kind", ..]
                | [
                    "metadata",
                    "name"
                        | "namespace"
                        | "uid"
                        | "resourceVersion"
                        | "generation"
                        | "creationTimestamp"
                        | "managedFields",
                    ..
                ]
        )
    });
    found
}

fn walk(value: &Value, path: &mut Path, found: &mut BTreeSet<Path>) {
    match value {
        Value::Object(fields) if !fields.is_empty() => {
            for (name, value) in fields {
                path.push(name.clone());
                walk(value, path, found);
                path.pop();
            }
        }
        _ if path.is_empty() => {}
        _ => {
            found.insert(path.clone());
        }
    }
}

fn at<'a>(object: &'a Value, path: &[String]) -> Option<&'a Value> {
    path.iter().try_fold(object, |value, name| value.get(name))
}

fn set(object: &mut Value, path: &[String], value: Value) {
    let Some((last, parents)) = path.split_last() else {
        return;
    };
    let mut place = object;
    for name in parents {
        if !place[name].is_object() {
            place[name] = json!({});
        }
        place = &mut place[name];
    }
    place[last] = value;
}

/// Removes a field, and the parents that hold nothing any more.
fn remove(object: &mut Value, path: &[String]) {
    let [first, rest @ ..] = path else {
        return;
    };
    let Some(fields) = object.as_object_mut() else {
        return;
    };
    if rest.is_empty() {
        fields.remove(first);
    } else if let Some(child) = fields.get_mut(first) {
        remove(child, rest);
        if child.as_object().is_some_and(Map::is_empty) {
            fields.remove(first);
        }
    }
}

/// The owners as `metadata.managedFields` says.
fn owners(object: &Value) -> Owners {
    let entries = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let one = |entry: &Value| {
        let operation = if entry["operation"] == "Apply" { "Apply" } else { "Update" };
        let (manager, subresource) = (text(entry, "manager"), text(entry, "subresource"));
        let mut paths = BTreeSet::new();
        unfold(&entry["fieldsV1"], &mut Vec::new(), &mut paths);
        (Author { manager, operation, subresource }, paths)
    };
    entries.iter().map(one).collect()
}

/// Reads `{"f:spec": {"f:type": {}}}`.
fn unfold(fields: &Value, path: &mut Path, paths: &mut BTreeSet<Path>) {
    match fields.as_object() {
        Some(fields) if !fields.is_empty() => {
            for (name, rest) in fields {
                path.push(name.trim_start_matches("f:").to_owned());
                unfold(rest, path, paths);
                path.pop();
            }
        }
        _ if path.is_empty() => {}
        _ => {
            paths.insert(path.clone());
        }
    }
}

/// Writes the owners into `metadata.managedFields`. An entry that says the same as before keeps
/// its time, so that an apply that changes nothing writes nothing.
fn record(object: &mut Value, owners: Owners) {
    let api_version = object["apiVersion"].clone();
    let before = object["metadata"]["managedFields"].as_array().cloned().unwrap_or_default();
    let mut entries = Vec::new();
    for (author, paths) in owners.into_iter().filter(|(_, paths)| !paths.is_empty()) {
        let mut fields = json!({});
        for path in &paths {
            let path: Path = path.iter().map(|name| lists::field(name)).collect();
            set(&mut fields, &path, json!({}));
        }
        let mut entry = json!({
            "manager": author.manager,
            "operation": author.operation,
            "apiVersion": api_version,
            "fieldsType": "FieldsV1",
            "fieldsV1": fields,
        });
        if !author.subresource.is_empty() {
            entry["subresource"] = author.subresource.into();
        }
        let same = before.iter().find(|known| {
            let mut known = (*known).clone();
            known.as_object_mut().map(|fields| fields.remove("time"));
            known == entry
        });
        entry["time"] = same.map_or_else(|| now().into(), |known| known["time"].clone());
        entries.push(entry);
    }
    metadata(object).insert("managedFields".into(), entries.into());
}
