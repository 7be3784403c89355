//! One request of the API: which verb it is, whether it is allowed, what it answers.
//!
//! A request in, JSON or a [`Watch`] out. Errors are `Status` objects with the codes and reasons of
//! k8s.io/apimachinery `errors.go`.

use std::collections::BTreeMap;
use std::sync::atomic::Ordering;

use serde_json::{Value, json};

use super::access::{self, API_AUDIENCE, User, Wish};
use super::apply::{self, Author};
use super::lists::Lists;
use super::resources::{self, Place, Resource};
use super::store::{Key, metadata};
use super::{Shared, definitions, events, policies};

/// A request, read whole.
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
    pub(super) query: BTreeMap<String, String>,
    pub(super) token: Option<String>,
    pub(super) content_type: String,
    pub(super) accept: String,
    pub(super) agent: String,
    pub(super) body: Vec<u8>,
    /// What the server of custom resources has there, where there is one and it is written to.
    pub(super) old: Option<Value>,
}

/// What the answer is.
pub(super) enum Reply {
    Json(u16, Value),
    Watch(Watch),
    /// The server of custom resources answers, unless it would have to make the object and this
    /// says why that is refused.
    Extension(Option<(u16, Value)>),
}

/// A watch to be served from the store's changes.
pub(super) struct Watch {
    pub(super) place: Place,
    pub(super) after: u64,
    /// Whether the objects of now come first.
    pub(super) initial: bool,
    pub(super) bookmarks: bool,
    pub(super) seconds: u64,
    pub(super) selector: Selector,
    pub(super) metadata_only: bool,
}

/// Which objects of a collection are meant.
#[derive(Clone, Default)]
pub(super) struct Selector {
    fields: Vec<(String, bool, String)>,
    labels: Vec<(String, bool, String)>,
}

type Refusal = (u16, &'static str, String);

/// Answers a request.
pub(super) fn answer(shared: &Shared, asked: &Asked) -> Reply {
    match route(shared, asked) {
        Ok(reply) => reply,
        Err((code, reason, message)) => Reply::Json(code, status(code, reason, &message)),
    }
}

/// A failure as the API writes it.
pub(super) fn status(code: u16, reason: &str, message: &str) -> Value {
    json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
        "message": message, "reason": reason, "code": code,
    })
}

fn route(shared: &Shared, asked: &Asked) -> Result<Reply, Refusal> {
    let user = authenticate(shared, asked)?;
    let method = asked.method.as_str();
    match asked.path.as_str() {
        "/version" => {
            let version = json!({"major": "1", "minor": "36", "gitVersion": "v1.36.0"});
            return Ok(Reply::Json(200, version));
        }
        "/apis/authentication.k8s.io/v1/tokenreviews" if method == "POST" => {
            return review(shared, asked, &user, "authentication.k8s.io", "tokenreviews");
        }
        "/apis/authorization.k8s.io/v1/subjectaccessreviews" if method == "POST" => {
            return review(shared, asked, &user, "authorization.k8s.io", "subjectaccessreviews");
        }
        _ => {}
    }
    let unknown = || (404, "NotFound", "the server could not find the requested resource".into());
    let place = resources::place(&asked.path).ok_or_else(unknown)?;
    let verb = verb(asked, &place)?;
    let mut wish = wish(verb, &place);
    if wish.name.is_empty() {
        // A list by one name is allowed like that name (k8s.io/apiserver `requestinfo.go`).
        wish.name = selected_name(asked);
    }
    permit(shared, &user, &wish)?;
    if place.resource.is_extension() && shared.extensions.is_some() {
        // What is written is looked at before it goes there: all of it, unless it is a patch.
        if matches!(verb, "create" | "update" | "patch")
            && let Ok(object) = body(asked, &place)
        {
            by_policies(shared, &place, &object, asked.old.as_ref())?;
        }
        // Who makes an object by applying it needs the right to create it as well.
        let refusal =
            (verb == "patch").then(|| permit(shared, &user, &self::wish("create", &place)));
        let refusal = refusal.and_then(Result::err);
        return Ok(Reply::Extension(
            refusal.map(|(code, reason, message)| (code, status(code, reason, &message))),
        ));
    }
    if place.resource.definition.is_some() {
        definition(shared, place.resource).ok_or_else(unknown)?;
    }
    match (verb, place.subresource.as_str()) {
        ("get", "" | "status") => get(shared, asked, &place),
        ("list", "") => list(shared, asked, &place),
        ("watch", "") => watch(shared, asked, place),
        ("create", "token") if place.resource.plural == "serviceaccounts" => {
            token_request(shared, asked, &place)
        }
        ("create", "") => create(shared, asked, &place),
        ("update", "" | "status") => update(shared, asked, &place),
        ("patch", "" | "status") => patch(shared, asked, &place, &user),
        ("delete", "") => delete(shared, asked, &place),
        _ => Err(unknown()),
    }
}

/// The definition of a custom resource.
fn definition(shared: &Shared, resource: &Resource) -> Option<Value> {
    let definitions = "customresourcedefinitions.apiextensions.k8s.io".to_owned();
    let key = (definitions, String::new(), resource.definition?.to_owned());
    shared.store().get(&key).cloned()
}

fn lists(shared: &Shared, resource: &Resource) -> Lists {
    Lists::of(resource, definition(shared, resource).as_ref())
}

fn authenticate(shared: &Shared, asked: &Asked) -> Result<User, Refusal> {
    let unauthorized = || (401, "Unauthorized", "Unauthorized".to_owned());
    let token = asked.token.as_deref().ok_or_else(unauthorized)?;
    if token == shared.admin_token {
        return Ok(User::admin());
    }
    let found = shared.signer.authenticate(&shared.store(), token, &[]);
    found.map(|(user, _)| user).ok_or_else(unauthorized)
}

fn wish(verb: &str, place: &Place) -> Wish {
    Wish {
        verb: verb.to_owned(),
        group: place.resource.group.to_owned(),
        resource: place.resource.plural.to_owned(),
        subresource: place.subresource.clone(),
        namespace: place.namespace.clone(),
        name: place.name.clone(),
    }
}

fn permit(shared: &Shared, user: &User, wish: &Wish) -> Result<(), Refusal> {
    let what = match wish.subresource.as_str() {
        "" => wish.resource.clone(),
        subresource => format!("{}/{subresource}", wish.resource),
    };
    if access::allowed(&shared.store(), &user.name, &user.groups, wish) {
        let right = format!("{} {}/{what}", wish.verb, wish.group);
        shared.used.lock().expect("no panic").insert((user.name.clone(), right));
        return Ok(());
    }
    let scope = match wish.namespace.as_str() {
        "" => "at the cluster scope".to_owned(),
        namespace => format!("in the namespace \"{namespace}\""),
    };
    let message = format!(
        "{what} \"{}\" is forbidden: User \"{}\" cannot {} resource \"{what}\" in API group \
         \"{}\" {scope}",
        wish.name, user.name, wish.verb, wish.group
    );
    Err((403, "Forbidden", message))
}

/// The verb of RBAC (Kubernetes, "Authorization: Determine the request verb").
fn verb(asked: &Asked, place: &Place) -> Result<&'static str, Refusal> {
    let one = !place.name.is_empty();
    let watches = asked.query.get("watch").is_some_and(|value| value == "true" || value == "1");
    Ok(match asked.method.as_str() {
        "GET" if one => "get",
        "GET" if watches => "watch",
        "GET" => "list",
        "POST" if !one || place.subresource == "token" => "create",
        "PUT" if one => "update",
        "PATCH" if one => "patch",
        "DELETE" if one => "delete",
        _ => {
            let message = "the server does not allow this method on the requested resource";
            return Err((405, "MethodNotAllowed", message.to_owned()));
        }
    })
}

fn key(place: &Place) -> Key {
    (place.resource.qualified(), place.namespace.clone(), place.name.clone())
}

fn not_found(resource: &Resource, name: &str) -> Refusal {
    (404, "NotFound", format!("{} \"{name}\" not found", resource.qualified()))
}

fn bad(message: impl Into<String>) -> Refusal {
    (400, "BadRequest", message.into())
}

fn get(shared: &Shared, asked: &Asked, place: &Place) -> Result<Reply, Refusal> {
    let store = shared.store();
    let object = store.get(&key(place)).ok_or_else(|| not_found(place.resource, &place.name))?;
    Ok(Reply::Json(200, shown(object, wants_metadata(asked)?)))
}

fn list(shared: &Shared, asked: &Asked, place: &Place) -> Result<Reply, Refusal> {
    let selector = Selector::of(asked, place.resource)?;
    let limit: usize = number(asked, "limit")?.unwrap_or(0).try_into().unwrap_or(usize::MAX);
    let limit = if limit == 0 { usize::MAX } else { limit };
    let metadata_only = wants_metadata(asked)?;
    let store = shared.store();
    // A continue token is the version of the first page and the last key of the page before.
    let (version, last) = match asked.query.get("continue").filter(|token| !token.is_empty()) {
        None => (store.version, None),
        Some(token) => {
            let token = token.replace('~', "\0");
            let mut parts = token.split('\0').map(str::to_owned);
            let mut part = || parts.next().unwrap_or_default();
            let version: u64 = part().parse().map_err(|_| bad("continue key is not valid"))?;
            if version < store.compacted {
                return Err((410, "Expired", "The provided continue parameter is too old".into()));
            }
            (version, Some((place.resource.qualified(), part(), part())))
        }
    };
    let matching: Vec<(&Key, &Value)> = store
        .list(&place.resource.qualified(), &place.namespace)
        .filter(|(key, object)| {
            selector.takes(object) && last.as_ref().is_none_or(|last| *key > last)
        })
        .collect();
    let page: Vec<Value> =
        matching.iter().take(limit).map(|(_, object)| shown(object, metadata_only)).collect();
    let mut list_metadata = json!({"resourceVersion": version.to_string()});
    if matching.len() > page.len()
        && let Some((key, _)) = matching.get(page.len() - 1)
    {
        list_metadata["continue"] = format!("{version}~{}~{}", key.1, key.2).into();
        list_metadata["remainingItemCount"] = (matching.len() - page.len()).into();
    }
    let (api_version, kind) = match metadata_only {
        true => ("meta.k8s.io/v1".to_owned(), "PartialObjectMetadataList".to_owned()),
        false => (place.resource.api_version(), format!("{}List", place.resource.kind)),
    };
    let list = json!({
        "kind": kind, "apiVersion": api_version, "metadata": list_metadata, "items": page,
    });
    Ok(Reply::Json(200, list))
}

fn watch(shared: &Shared, asked: &Asked, place: Place) -> Result<Reply, Refusal> {
    let selector = Selector::of(asked, place.resource)?;
    let version = asked.query.get("resourceVersion").map_or("", String::as_str);
    let initial = matches!(version, "" | "0");
    let now = shared.store().version;
    let after = if initial {
        now
    } else {
        version.parse().map_err(|_| bad(format!("Invalid value: \"{version}\"")))?
    };
    let store = shared.store();
    if shared.refuses_old.load(Ordering::Relaxed) && after < store.compacted {
        let message = format!("too old resource version: {after} ({})", store.compacted);
        return Err((410, "Expired", message));
    }
    drop(store);
    let bookmarks = asked.query.get("allowWatchBookmarks").is_some_and(|value| value == "true");
    let seconds = number(asked, "timeoutSeconds")?.unwrap_or(1800);
    let metadata_only = wants_metadata(asked)?;
    Ok(Reply::Watch(Watch { place, after, initial, bookmarks, seconds, selector, metadata_only }))
}

fn create(shared: &Shared, asked: &Asked, place: &Place) -> Result<Reply, Refusal> {
    let _writing = shared.writing();
    let mut object = body(asked, place)?;
    let mut name = object["metadata"]["name"].as_str().unwrap_or_default().to_owned();
    if let ("", Some(prefix)) = (name.as_str(), object["metadata"]["generateName"].as_str()) {
        name = format!("{prefix}{:05x}", shared.store().version);
        metadata(&mut object).insert("name".into(), name.clone().into());
    }
    if name.is_empty() {
        let message =
            format!("{} \"\" is invalid: metadata.name: Required value", place.resource.kind);
        return Err((422, "Invalid", message));
    }
    let place = Place {
        name,
        resource: place.resource,
        namespace: place.namespace.clone(),
        subresource: String::new(),
    };
    in_namespace(shared, &place)?;
    if shared.store().get(&key(&place)).is_some() {
        let message = format!("{} \"{}\" already exists", place.resource.qualified(), place.name);
        return Err((409, "AlreadyExists", message));
    }
    admit(shared, &place, &mut object, None)?;
    let lists = lists(shared, place.resource);
    apply::updated(None, &mut object, &author(asked, &place, "Update"), &lists);
    let created = shared.store().create(place.resource, key(&place), object);
    shared.changed();
    Ok(Reply::Json(201, created))
}

fn update(shared: &Shared, asked: &Asked, place: &Place) -> Result<Reply, Refusal> {
    let _writing = shared.writing();
    let mut object = body(asked, place)?;
    let mut store = shared.store();
    let old = store.get(&key(place)).cloned();
    let old = old.ok_or_else(|| not_found(place.resource, &place.name))?;
    is_current(place, &old, &object)?;
    metadata(&mut object).insert("managedFields".into(), old["metadata"]["managedFields"].clone());
    confine(place, &old, &mut object);
    drop(store);
    admit(shared, place, &mut object, Some(&old))?;
    let lists = lists(shared, place.resource);
    store = shared.store();
    apply::updated(Some(&old), &mut object, &author(asked, place, "Update"), &lists);
    let stored = store.replace(place.resource, key(place), object);
    drop(store);
    shared.changed();
    Ok(Reply::Json(200, stored))
}

fn patch(shared: &Shared, asked: &Asked, place: &Place, user: &User) -> Result<Reply, Refusal> {
    let _writing = shared.writing();
    let old = shared.store().get(&key(place)).cloned();
    let lists = lists(shared, place.resource);
    let mut object = match asked.content_type.as_str() {
        "application/apply-patch+yaml" => {
            let wanted = body(asked, place)?;
            let force = asked.query.get("force").is_some_and(|force| force == "true");
            if !asked.query.contains_key("fieldManager") {
                return Err((
                    422,
                    "Invalid",
                    "PatchOptions.meta.k8s.io \"\" is invalid: \
                    fieldManager: Required value: is required for apply patch"
                        .into(),
                ));
            }
            if !wanted["metadata"]["managedFields"].is_null() {
                return Err(bad("metadata.managedFields must be nil"));
            }
            let author = author(asked, place, "Apply");
            is_the_one_meant(&wanted, old.as_ref(), place)?;
            if old.is_none() {
                // Who makes an object by applying it needs the right to create it as well.
                permit(shared, user, &wish("create", place))?;
            }
            apply::apply(old.as_ref(), &wanted, &author, force, &lists).map_err(|conflicts| {
                let (count, all) = (conflicts.len(), conflicts.join(", "));
                (409, "Conflict", format!("Apply failed with {count} conflict(s): {all}"))
            })?
        }
        "application/merge-patch+json" => {
            let old = old.clone().ok_or_else(|| not_found(place.resource, &place.name))?;
            let patch: Value = serde_json::from_slice(&asked.body)
                .map_err(|cause| bad(format!("error decoding patch: {cause}")))?;
            let mut new = old.clone();
            merge(&mut new, &patch);
            is_current(place, &old, &new)?;
            apply::updated(Some(&old), &mut new, &author(asked, place, "Update"), &lists);
            new
        }
        other => {
            let message = format!("the body of the request was in an unknown format - {other}");
            return Err((415, "UnsupportedMediaType", message));
        }
    };
    if place.subresource == "status" && old.is_none() {
        return Err(not_found(place.resource, &place.name));
    }
    in_namespace(shared, place)?;
    if let Some(old) = &old {
        confine(place, old, &mut object);
    } else {
        let metadata = metadata(&mut object);
        metadata.insert("name".into(), place.name.clone().into());
        if place.resource.has_status {
            object.as_object_mut().map(|fields| fields.remove("status"));
        }
    }
    admit(shared, place, &mut object, old.as_ref())?;
    let (code, stored) = match old {
        Some(_) => (200, shared.store().replace(place.resource, key(place), object)),
        None => (201, shared.store().create(place.resource, key(place), object)),
    };
    shared.changed();
    Ok(Reply::Json(code, stored))
}

/// An apply that names a uid or a version means that object and no other (k8s.io/apiserver
/// `registry/rest/update.go`).
fn is_the_one_meant(wanted: &Value, old: Option<&Value>, place: &Place) -> Result<(), Refusal> {
    let empty = Value::Null;
    let stored = &old.unwrap_or(&empty)["metadata"];
    let meant = &wanted["metadata"];
    let conflict = |what: &str| {
        let (resource, name) = (place.resource.qualified(), &place.name);
        let message = format!("Operation cannot be fulfilled on {resource} \"{name}\": {what}");
        Err((409, "Conflict", message))
    };
    if !meant["uid"].is_null() && meant["uid"] != stored["uid"] {
        return conflict("uid mismatch");
    }
    if old.is_some()
        && !meant["resourceVersion"].is_null()
        && meant["resourceVersion"] != stored["resourceVersion"]
    {
        return conflict("the object has been modified");
    }
    Ok(())
}

fn delete(shared: &Shared, asked: &Asked, place: &Place) -> Result<Reply, Refusal> {
    let _writing = shared.writing();
    let mut store = shared.store();
    let options: Value = serde_json::from_slice(&asked.body).unwrap_or_default();
    is_the_one_meant(
        &json!({"metadata": options["preconditions"]}),
        store.get(&key(place)),
        place,
    )?;
    let deleted =
        store.delete(&key(place)).ok_or_else(|| not_found(place.resource, &place.name))?;
    if place.resource.plural == "namespaces" {
        for resource in resources::RESOURCES.iter().filter(|resource| resource.namespaced) {
            let keys: Vec<Key> = store
                .list(&resource.qualified(), &place.name)
                .map(|(key, _)| key.clone())
                .collect();
            for key in keys {
                store.delete(&key);
            }
        }
    }
    drop(store);
    shared.changed();
    Ok(Reply::Json(200, deleted))
}

/// TokenReview or SubjectAccessReview.
fn review(
    shared: &Shared,
    asked: &Asked,
    user: &User,
    group: &str,
    resource: &str,
) -> Result<Reply, Refusal> {
    let (group, resource) = (group.to_owned(), resource.to_owned());
    let wish = Wish { verb: "create".into(), group, resource: resource.clone(), ..Wish::default() };
    permit(shared, user, &wish)?;
    let mut object: Value =
        serde_json::from_slice(&asked.body).map_err(|cause| bad(cause.to_string()))?;
    let spec = object["spec"].clone();
    let store = shared.store();
    object["status"] = if resource == "tokenreviews" {
        let token = spec["token"].as_str().unwrap_or_default();
        match shared.signer.authenticate(&store, token, &texts(&spec["audiences"])) {
            Some((user, audiences)) => json!({
                "authenticated": true,
                "user": {
                    "username": user.name, "uid": user.uid, "groups": user.groups,
                    "extra": user.extra,
                },
                "audiences": audiences,
            }),
            None => json!({"user": {}, "error": "[invalid bearer token]"}),
        }
    } else {
        let wanted = &spec["resourceAttributes"];
        let text = |field: &str| wanted[field].as_str().unwrap_or_default().to_owned();
        let wish = Wish {
            verb: text("verb"),
            group: text("group"),
            resource: text("resource"),
            subresource: text("subresource"),
            namespace: text("namespace"),
            name: text("name"),
        };
        let user = spec["user"].as_str().unwrap_or_default();
        let allowed = access::allowed(&store, user, &texts(&spec["groups"]), &wish);
        json!({"allowed": allowed})
    };
    Ok(Reply::Json(201, object))
}

fn token_request(shared: &Shared, asked: &Asked, place: &Place) -> Result<Reply, Refusal> {
    let mut object: Value =
        serde_json::from_slice(&asked.body).map_err(|cause| bad(cause.to_string()))?;
    let spec = object["spec"].clone();
    let store = shared.store();
    let own = (place.resource.qualified(), place.namespace.clone(), place.name.clone());
    let account = store.get(&own).ok_or_else(|| not_found(place.resource, &place.name))?;
    let seconds = spec["expirationSeconds"].as_u64().unwrap_or(3600);
    if seconds < 600 {
        let message = "TokenRequest.authentication.k8s.io is invalid: spec.expirationSeconds: \
                       Invalid value: may not specify a duration less than 10 minutes";
        return Err((422, "Invalid", message.to_owned()));
    }
    let pod = match spec["boundObjectRef"]["name"].as_str() {
        None => None,
        Some(name) => {
            let key = ("pods".to_owned(), place.namespace.clone(), name.to_owned());
            let missing = || (404, "NotFound", format!("pods \"{name}\" not found"));
            Some(store.get(&key).ok_or_else(missing)?)
        }
    };
    let mut audiences = texts(&spec["audiences"]);
    if audiences.is_empty() {
        audiences.push(API_AUDIENCE.to_owned());
    }
    let token = shared.signer.issue(account, pod, &audiences, seconds);
    object["status"] = json!({"token": token, "expirationTimestamp": super::store::now()});
    Ok(Reply::Json(201, object))
}

/// The object of a body, in JSON or YAML, after a check that it is of the resource.
fn body(asked: &Asked, place: &Place) -> Result<Value, Refusal> {
    let text = std::str::from_utf8(&asked.body).map_err(|_| bad("not UTF-8"))?;
    let object: Value = serde_saphyr::from_str(text).map_err(|cause| bad(cause.to_string()))?;
    let (version, kind) = (object["apiVersion"].as_str(), object["kind"].as_str());
    let expected = place.resource.api_version();
    if (version, kind) != (Some(expected.as_str()), Some(place.resource.kind)) {
        let message = format!("no kind {kind:?} is registered for version {version:?} here");
        return Err(bad(message));
    }
    let name = object["metadata"]["name"].as_str();
    if name.is_some_and(|name| !place.name.is_empty() && name != place.name) {
        return Err(bad("the name of the object does not match the name on the URL"));
    }
    let namespace = object["metadata"]["namespace"].as_str();
    if namespace.is_some_and(|namespace| namespace != place.namespace) {
        return Err(bad("the namespace of the provided object does not match the request"));
    }
    Ok(object)
}

/// What every write must pass: the checks of the kind, and the schema of a custom resource.
fn admit(
    shared: &Shared,
    place: &Place,
    object: &mut Value,
    old: Option<&Value>,
) -> Result<(), Refusal> {
    let invalid = |causes: Vec<String>| {
        let (kind, name) = (place.resource.kind, &place.name);
        (422, "Invalid", format!("{kind} \"{name}\" is invalid: {}", causes.join(", ")))
    };
    if place.resource.plural == "secrets" {
        definitions::secret(object, old).map_err(invalid)?;
    }
    if place.resource.plural == "services" && (place.name.len() > 63 || place.name.contains('.')) {
        return Err(invalid(vec!["metadata.name: must be a DNS-1035 label".to_owned()]));
    }
    if place.resource.plural == "events" {
        metadata(object).insert("namespace".into(), place.namespace.clone().into());
        events::check(object, old).map_err(invalid)?;
    }
    if place.resource.plural == "validatingadmissionpolicies" {
        policies::check(object).map_err(invalid)?;
    }
    if let Some(definition) = definition(shared, place.resource) {
        definitions::custom(&definition, object, old).map_err(invalid)?;
    }
    by_policies(shared, place, object, old)
}

/// What the cluster's own policies say against it (k8s.io/apiserver, the admission plugin
/// ValidatingAdmissionPolicy, which is asked last).
fn by_policies(
    shared: &Shared,
    place: &Place,
    object: &Value,
    old: Option<&Value>,
) -> Result<(), Refusal> {
    match policies::refusal(&shared.store(), place, object, old) {
        None => Ok(()),
        Some((reason, message)) if reason == "Invalid" => Err((422, "Invalid", message)),
        Some((_, message)) => Err((403, "Forbidden", message)),
    }
}

fn in_namespace(shared: &Shared, place: &Place) -> Result<(), Refusal> {
    if !place.resource.namespaced {
        return Ok(());
    }
    let key = ("namespaces".to_owned(), String::new(), place.namespace.clone());
    let missing = || (404, "NotFound", format!("namespaces \"{}\" not found", place.namespace));
    shared.store().get(&key).map(|_| ()).ok_or_else(missing)
}

/// A write that names a version must name the one it replaces, in an update and in a patch alike.
fn is_current(place: &Place, old: &Value, object: &Value) -> Result<(), Refusal> {
    let expected = &object["metadata"]["resourceVersion"];
    if expected.is_null() || *expected == old["metadata"]["resourceVersion"] {
        return Ok(());
    }
    let message = format!(
        "Operation cannot be fulfilled on {} \"{}\": the object has been modified; please \
         apply your changes to the latest version and try again",
        place.resource.qualified(),
        place.name
    );
    Err((409, "Conflict", message))
}

/// Through `status` only the status changes, and elsewhere it does not.
fn confine(place: &Place, old: &Value, object: &mut Value) {
    if !place.resource.has_status {
        return;
    }
    if place.subresource == "status" {
        let (status, managed) =
            (object["status"].clone(), object["metadata"]["managedFields"].clone());
        *object = old.clone();
        object["status"] = status;
        metadata(object).insert("managedFields".into(), managed);
    } else {
        match old.get("status") {
            Some(status) => object["status"] = status.clone(),
            None => {
                object.as_object_mut().map(|fields| fields.remove("status"));
            }
        }
    }
}

fn author(asked: &Asked, place: &Place, operation: &'static str) -> Author {
    let agent = asked.agent.split('/').next().unwrap_or_default().to_owned();
    let manager = asked.query.get("fieldManager").cloned().unwrap_or(agent);
    Author { manager, operation, subresource: place.subresource.clone() }
}

/// RFC 7396.
fn merge(target: &mut Value, patch: &Value) {
    let Some(fields) = patch.as_object() else {
        *target = patch.clone();
        return;
    };
    if !target.is_object() {
        *target = json!({});
    }
    for (name, value) in fields {
        if value.is_null() {
            target.as_object_mut().map(|fields| fields.remove(name));
        } else {
            merge(&mut target[name], value);
        }
    }
}

/// Whether only metadata is asked for, in the form `as=PartialObjectMetadata…`.
fn wants_metadata(asked: &Asked) -> Result<bool, Refusal> {
    if asked.accept.contains("as=PartialObjectMetadata") {
        return Ok(true);
    }
    let acceptable = ["", "*/*", "application/json"].contains(&asked.accept.as_str())
        || asked.accept.split(',').any(|part| part.trim() == "application/json");
    let message = "only the following media types are accepted: application/json".to_owned();
    if acceptable { Ok(false) } else { Err((406, "NotAcceptable", message)) }
}

/// The object, or its metadata alone.
pub(super) fn shown(object: &Value, metadata_only: bool) -> Value {
    if !metadata_only {
        return object.clone();
    }
    json!({
        "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1",
        "metadata": object["metadata"],
    })
}

fn texts(list: &Value) -> Vec<String> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).map(str::to_owned).collect()
}

fn number(asked: &Asked, name: &str) -> Result<Option<u64>, Refusal> {
    let parse = |text: &String| text.parse().map_err(|_| bad(format!("{name}: invalid {text:?}")));
    asked.query.get(name).filter(|text| !text.is_empty()).map(parse).transpose()
}

fn selected_name(asked: &Asked) -> String {
    let fields = asked.query.get("fieldSelector").map_or("", String::as_str);
    fields.strip_prefix("metadata.name=").unwrap_or_default().trim_start_matches('=').to_owned()
}

impl Selector {
    fn of(asked: &Asked, resource: &Resource) -> Result<Self, Refusal> {
        let text = |name: &str| asked.query.get(name).map_or("", String::as_str);
        let fields = requirements(text("fieldSelector"))?;
        for (field, ..) in &fields {
            let known = ["metadata.name", "metadata.namespace"].contains(&field.as_str())
                || resource.plural == "secrets" && field == "type";
            if !known {
                return Err(bad(format!("field label not supported: {field}")));
            }
        }
        Ok(Self { fields, labels: requirements(text("labelSelector"))? })
    }

    /// Whether it takes the object.
    pub(super) fn takes(&self, object: &Value) -> bool {
        let field = |path: &str| path.split('.').fold(object, |value, name| &value[name]).as_str();
        let label = |name: &str| object["metadata"]["labels"][name].as_str();
        self.fields.iter().all(|(path, equal, value)| (field(path) == Some(value)) == *equal)
            && self.labels.iter().all(|(name, equal, value)| (label(name) == Some(value)) == *equal)
    }
}

/// `a=b,c!=d`, and of labels nothing else.
fn requirements(text: &str) -> Result<Vec<(String, bool, String)>, Refusal> {
    text.split(',')
        .filter(|one| !one.is_empty())
        .map(|one| {
            let (name, equal, value) = match one.split_once("!=") {
                Some((name, value)) => (name, false, value),
                None => {
                    let unknown = || bad(format!("unable to parse requirement: {one}"));
                    let (name, value) = one.split_once('=').ok_or_else(unknown)?;
                    (name, true, value.trim_start_matches('='))
                }
            };
            Ok((name.to_owned(), equal, value.to_owned()))
        })
        .collect()
}
