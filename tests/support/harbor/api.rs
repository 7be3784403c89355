//! `/api/v2.0` and `/c`, as far as reading goes, and the two answers that hold a secret.
//!
//! A request in, JSON out (api/v2.0/swagger.yaml, src/server/v2.0/handler). Projects are the
//! settings' own; repositories and artifacts are read from what the docker-registry stored.

use std::fs;
use std::path::{Path, PathBuf};

use http_body_util::{BodyExt as _, Limited};
use hyper::header::AUTHORIZATION;
use serde_json::{Value, json};

use super::accounts::{self, Account, Kind, Right, Who};
use super::listen::{Answer, Cause, Request, json as answer_json, reply, set};
use super::rights::{may, name_of, refusal, visibility};
use super::target::{decoded, is_digest, pairs};
use super::token::{date, now};
use super::{Shared, Visibility, session};

/// Answers a request that is neither below `/v2` nor for a token.
pub(super) async fn answer(
    shared: &Shared,
    who: &Who,
    request: Request,
    path: &str,
) -> Result<Answer, Cause> {
    let method = request.method().clone();
    if path == "/c/login" && method == "POST" {
        return log_in(shared, request).await;
    }
    let Some(rest) = path.strip_prefix("/api/v2.0/") else {
        return Ok(reply(404, "text/html", "<html><title>404 Not Found</title></html>"));
    };
    let parts: Vec<_> = rest.split('/').collect();
    if method == "POST" && parts == ["robots"] {
        return create_robot(shared, who, request).await;
    }
    if method != "GET" && method != "HEAD" {
        return Ok(refusal(405, "METHOD_NOT_ALLOWED", "method not allowed"));
    }
    let offered = request.headers().contains_key(AUTHORIZATION);
    Ok(match parts.as_slice() {
        // src/server/v2.0/handler/ping.go; no database, so it needs no login.
        ["ping"] => reply(200, "text/plain; charset=utf-8", "Pong"),
        ["health"] => health(),
        ["systeminfo"] => system(shared, who, request.uri().host()),
        ["users", "current"] => current_user(who),
        ["users", "current", "permissions"] if name_of(who).is_empty() => unauthorised(),
        ["users", "current", "permissions"] => answer_json(200, &json!([])),
        ["users", number] => user(shared, who, number),
        ["projects"] => projects(shared, who),
        ["projects", project, rest @ ..] => {
            match visibility(shared, project) {
                None if name_of(who).is_empty() => return Ok(unauthorised()),
                // src/server/v2.0/handler/base.go: without the right, not even its absence shows.
                None => return Ok(forbidden()),
                Some(_) if may(shared, who, Right::Pull, project) => {}
                Some(_) if name_of(who).is_empty() || !offered => return Ok(unauthorised()),
                Some(_) => return Ok(forbidden()),
            }
            in_project(shared, project, rest)
        }
        _ => refusal(404, "NOT_FOUND", "The resource is not found"),
    })
}

fn unauthorised() -> Answer {
    refusal(401, "UNAUTHORIZED", "unauthorized: unauthorized")
}

fn forbidden() -> Answer {
    refusal(403, "FORBIDDEN", "forbidden")
}

/// src/controller/health: all components of an installation without a scanner.
fn health() -> Answer {
    let names = ["core", "database", "jobservice", "portal", "redis", "registry", "registryctl"];
    let components = names.map(|name| json!({"name": name, "status": "healthy"}));
    answer_json(200, &json!({"status": "healthy", "components": components}))
}

/// Whoever is not logged in does not see the version (since 2.13,
/// src/server/v2.0/handler/systeminfo.go).
fn system(shared: &Shared, who: &Who, host: Option<&str>) -> Answer {
    let mut system = json!({
        "auth_mode": "db_auth",
        "primary_auth_mode": false,
        "self_registration": false,
        "banner_message": "",
        "oidc_provider_name": "",
    });
    if !name_of(who).is_empty() {
        system["harbor_version"] = "v2.15.2-c50c7ddd".into();
        system["registry_url"] = host.unwrap_or("harbor").into();
        system["read_only"] = shared.switches().read_only.into();
        system["registry_storage_provider_name"] = "filesystem".into();
        system["current_time"] = date(now()).into();
    }
    answer_json(200, &system)
}

/// 412 for whoever is not a user (src/server/v2.0/handler/user.go).
fn current_user(who: &Who) -> Answer {
    match who {
        Who::Account(account) if account.kind == Kind::Robot => {
            let message = "get current user not available for security context: robot";
            refusal(412, "PRECONDITION", message)
        }
        Who::Account(account) => answer_json(200, &user_json(account, 3)),
        _ => unauthorised(),
    }
}

/// Any user, for an administrator. The number is the place in the settings' accounts.
fn user(shared: &Shared, who: &Who, number: &str) -> Answer {
    if !matches!(who, Who::Account(account) if account.kind == Kind::Administrator) {
        return if name_of(who).is_empty() { unauthorised() } else { forbidden() };
    }
    let all = shared.accounts.all();
    let place = number.parse::<usize>().ok();
    match place.and_then(|place| all.get(place).map(|account| (place, account))) {
        Some((place, account)) if account.kind != Kind::Robot => {
            answer_json(200, &user_json(account, place))
        }
        _ => refusal(404, "NOT_FOUND", &format!("user {number} not found")),
    }
}

/// The CLI secret of an OIDC user stands there in plain text
/// (src/server/v2.0/handler/model/user.go).
fn user_json(account: &Account, number: usize) -> Value {
    let mut user = json!({
        "user_id": number,
        "username": account.name,
        "email": format!("{}@example.org", account.name),
        "realname": account.name,
        "sysadmin_flag": account.kind == Kind::Administrator,
        "admin_role_in_auth": false,
        "creation_time": date(now()),
        "update_time": date(now()),
    });
    if let Some(secret) = &account.oidc_secret {
        user["oidc_user_meta"] = json!({
            "id": number,
            "user_id": number,
            "secret": secret,
            "subiss": format!("{}https://issuer.example.org", account.name),
        });
    }
    user
}

/// The projects that `who` may read; anybody sees the public ones.
fn projects(shared: &Shared, who: &Who) -> Answer {
    let all = shared.settings.projects.iter();
    let seen = all.filter(|(name, _)| may(shared, who, Right::Pull, name));
    let list: Vec<_> = seen.map(|(name, _)| project_json(shared, name)).collect();
    counted(list)
}

fn project_json(shared: &Shared, name: &str) -> Value {
    let number = shared.settings.projects.iter().position(|(known, _)| *known == name);
    let is_public = visibility(shared, name) == Some(Visibility::Public);
    json!({
        "project_id": number.unwrap_or(0) + 1,
        "name": name,
        "repo_count": repositories(shared, name).len(),
        "metadata": {"public": is_public.to_string()},
    })
}

fn in_project(shared: &Shared, project: &str, rest: &[&str]) -> Answer {
    let missing = |what: &str| refusal(404, "NOT_FOUND", &format!("{what} not found"));
    match rest {
        [] => answer_json(200, &project_json(shared, project)),
        ["repositories"] => {
            let list = repositories(shared, project).into_iter().map(|name| {
                let count = artifacts(shared, &name).len();
                json!({"name": name, "artifact_count": count})
            });
            counted(list.collect())
        }
        ["repositories", name, rest @ ..] => {
            // The name comes encoded twice, because nginx decodes it once.
            let name = format!("{project}/{}", decoded(name).unwrap_or_default());
            let all = artifacts(shared, &name);
            match rest {
                [] if all.is_empty() => missing(&format!("repository {name}")),
                [] => answer_json(200, &json!({"name": name, "artifact_count": all.len()})),
                ["artifacts"] => counted(all),
                ["artifacts", reference] => {
                    let found = all.into_iter().find(|one| is_called(one, reference));
                    let mark = if is_digest(reference) { '@' } else { ':' };
                    let artifact = || missing(&format!("artifact {name}{mark}{reference}"));
                    found.map_or_else(artifact, |one| answer_json(200, &one))
                }
                _ => missing("the resource"),
            }
        }
        _ => missing("the resource"),
    }
}

fn is_called(artifact: &Value, reference: &str) -> bool {
    let tags = artifact["tags"].as_array().into_iter().flatten();
    artifact["digest"] == reference || tags.into_iter().any(|tag| tag["name"] == reference)
}

/// A list and its length in `X-Total-Count` (src/server/v2.0/handler/base.go).
fn counted(list: Vec<Value>) -> Answer {
    let count = list.len().to_string();
    let mut answer = answer_json(200, &Value::from(list));
    set(&mut answer, "x-total-count", &count);
    answer
}

/// The repositories that hold manifests, below `project`.
fn repositories(shared: &Shared, project: &str) -> Vec<String> {
    let root = shared.storage.repositories();
    let mut found = Vec::new();
    let mut open = vec![root.join(project)];
    while let Some(folder) = open.pop() {
        if folder.join("_manifests").is_dir()
            && let Ok(name) = folder.strip_prefix(&root)
        {
            found.push(name.display().to_string());
        }
        open.extend(folders(&folder).filter(|path| !name_of_file(path).starts_with('_')));
    }
    found.sort();
    found
}

/// The artifacts of a repository: each digest with its tags.
fn artifacts(shared: &Shared, repository: &str) -> Vec<Value> {
    let place = shared.storage.repositories().join(repository).join("_manifests");
    let tags: Vec<_> = folders(&place.join("tags"))
        .filter_map(|path| {
            let digest = fs::read_to_string(path.join("current/link")).ok()?;
            Some((name_of_file(&path), digest))
        })
        .collect();
    let mut digests: Vec<_> = folders(&place.join("revisions/sha256"))
        .filter(|path| path.join("link").is_file())
        .map(|path| format!("sha256:{}", name_of_file(&path)))
        .collect();
    digests.sort();
    let artifact = |digest: &String| {
        let names = tags.iter().filter(|(_, one)| one == digest);
        let names: Vec<_> = names.map(|(name, _)| json!({"name": name})).collect();
        json!({"digest": digest, "type": "IMAGE", "repository_name": repository, "tags": names})
    };
    digests.iter().map(artifact).collect()
}

fn folders(place: &Path) -> impl Iterator<Item = PathBuf> + use<> {
    let entries = fs::read_dir(place).into_iter().flatten().flatten();
    entries.map(|entry| entry.path()).filter(|path| path.is_dir())
}

fn name_of_file(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// Makes a robot and shows its secret, once (src/server/v2.0/handler/robot.go).
async fn create_robot(shared: &Shared, who: &Who, request: Request) -> Result<Answer, Cause> {
    if !matches!(who, Who::Account(account) if account.kind == Kind::Administrator) {
        return Ok(if name_of(who).is_empty() { unauthorised() } else { forbidden() });
    }
    let body: Value = serde_json::from_slice(&text(request).await?)?;
    let name = format!("{}{}", shared.settings.robot_prefix, body["name"].as_str().unwrap_or("x"));
    let secret = session::chance();
    shared.accounts.add(Account::robot(&name, &secret, &[]));
    let robot = json!({"id": 1, "name": name, "secret": secret, "expires_at": -1});
    Ok(answer_json(201, &robot))
}

/// Begins a session for a user (src/core/controllers/base.go).
async fn log_in(shared: &Shared, request: Request) -> Result<Answer, Cause> {
    let form = pairs(std::str::from_utf8(&text(request).await?)?).unwrap_or_default();
    let value = |name: &str| form.iter().find(|(known, _)| known == name).map(|(_, one)| one);
    let (name, password) = (value("principal"), value("password"));
    let Some((name, password)) = name.zip(password) else {
        return Ok(reply(401, "text/plain; charset=utf-8", ""));
    };
    shared.record.login(name);
    if accounts::login(shared, name, password).await.is_none() {
        return Ok(reply(401, "text/plain; charset=utf-8", ""));
    }
    let mut answer = reply(200, "text/plain; charset=utf-8", "");
    set(&mut answer, "set-cookie", &session::cookie());
    Ok(answer)
}

async fn text(request: Request) -> Result<hyper::body::Bytes, Cause> {
    Ok(Limited::new(request.into_body(), 64 << 10).collect().await?.to_bytes())
}
