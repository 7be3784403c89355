//! Lists that are maps: which there are, and how an item is named in `managedFields`.
//!
//! A resource in, the places of its lists of `x-kubernetes-list-type: map` out; an object in, the
//! same object out with each such list as an object of its items, and back again (Kubernetes,
//! "Server-Side Apply: Merge strategy"; structured-merge-diff `fieldpath.PathElement`).

use serde_json::{Map, Value, json};

use super::resources::Resource;

/// The lists of a resource whose items have keys.
#[derive(Debug, Default)]
pub(super) struct Lists(Vec<List>);

#[derive(Debug)]
struct List {
    path: Vec<String>,
    keys: Vec<String>,
}

impl Lists {
    /// The lists of `resource`; those of a custom one as its `definition` says.
    pub(super) fn of(resource: &Resource, definition: Option<&Value>) -> Self {
        let mut lists = Self::default();
        lists.add(&["metadata", "ownerReferences"], &["uid"]);
        if resource.plural == "services" {
            lists.add(&["spec", "ports"], &["port", "protocol"]);
        }
        if let Some(definition) = definition {
            let schema = &definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"];
            lists.find(schema, &mut Vec::new());
        }
        lists
    }

    fn add(&mut self, path: &[&str], keys: &[&str]) {
        let owned = |texts: &[&str]| texts.iter().map(|text| (*text).to_owned()).collect();
        self.0.push(List { path: owned(path), keys: owned(keys) });
    }

    fn find(&mut self, schema: &Value, path: &mut Vec<String>) {
        if schema["x-kubernetes-list-type"] == "map" {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            let keys = keys.filter_map(Value::as_str).map(str::to_owned).collect();
            self.0.push(List { path: path.clone(), keys });
        }
        for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
            path.push(name.clone());
            self.find(schema, path);
            path.pop();
        }
    }

    /// `object` with each of the lists as an object, by the keys of its items.
    pub(super) fn keyed(&self, object: &Value) -> Value {
        let mut object = object.clone();
        for list in &self.0 {
            if let Some(value) = at(&mut object, &list.path)
                && let Some(items) = value.as_array()
            {
                let items = items.iter().map(|item| (list.key(item), item.clone()));
                *value = Value::Object(items.collect());
            }
        }
        object
    }

    /// The reverse. The items come in the order that they have in the first of `orders`, then in
    /// the next; an object there may be keyed already.
    pub(super) fn listed(&self, object: &Value, orders: &[&Value]) -> Value {
        let mut object = object.clone();
        for list in &self.0 {
            let mut known = Vec::new();
            for order in orders {
                let mut order = (*order).clone();
                match at(&mut order, &list.path) {
                    Some(Value::Array(items)) => known.extend(items.iter().map(|i| list.key(i))),
                    Some(Value::Object(items)) => known.extend(items.keys().cloned()),
                    _ => {}
                }
            }
            if let Some(value) = at(&mut object, &list.path)
                && let Some(items) = value.as_object_mut()
            {
                let mut listed: Vec<Value> =
                    known.iter().filter_map(|key| items.remove(key)).collect();
                listed.extend(std::mem::take(items).into_iter().map(|(_, item)| item));
                *value = listed.into();
            }
        }
        object
    }
}

impl List {
    /// The name of an item: `k:` and its keys.
    fn key(&self, item: &Value) -> String {
        let keys: Map<String, Value> = self
            .keys
            .iter()
            .map(|key| {
                // The one key that has a default, a port's protocol.
                let default = if key == "protocol" { json!("TCP") } else { Value::Null };
                (key.clone(), item.get(key).cloned().unwrap_or(default))
            })
            .collect();
        format!("k:{}", Value::Object(keys))
    }
}

/// A name of a path as `fieldsV1` writes it.
pub(super) fn field(name: &str) -> String {
    if name.starts_with("k:") { name.to_owned() } else { format!("f:{name}") }
}

/// A path as messages write it, such as `.status.conditions[type="Ready"].reason`.
pub(super) fn named(path: &[String]) -> String {
    let mut text = String::new();
    for name in path {
        match name.strip_prefix("k:").and_then(|keys| serde_json::from_str::<Value>(keys).ok()) {
            None => text.push_str(&format!(".{name}")),
            Some(keys) => {
                let keys = keys.as_object().into_iter().flatten();
                let keys: Vec<String> = keys.map(|(key, value)| format!("{key}={value}")).collect();
                text.push_str(&format!("[{}]", keys.join(",")));
            }
        }
    }
    text
}

fn at<'a>(object: &'a mut Value, path: &[String]) -> Option<&'a mut Value> {
    path.iter().try_fold(object, |value, name| value.get_mut(name))
}
