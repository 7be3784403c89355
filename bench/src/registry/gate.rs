//! Who may do what: Basic, or Harbor's tokens beside it.
//!
//! A request's head and route in; a refusal, or nothing, out. As Harbor does it: every refusal is
//! 401, never 403, and which challenge comes with it tells whether a credential was shown at all.
//! Source: Harbor's `server/middleware/v2auth`.

use super::http::{Head, Reply};
use super::route::Route;
use super::seen::basic_of;
use super::tokens::{Tokens, challenge, is_public, unix_now};

/// Refuses what `head` may not do; `None` lets it pass. `login` is the one account there is, and
/// without one everybody may do everything.
pub(crate) fn refusal(
    login: Option<&(String, String)>,
    tokens: Option<&Tokens>,
    head: &Head,
    route: &Route<'_>,
) -> Option<Reply> {
    let login = login?;
    if *route == Route::Ping || basic_of(head).as_ref() == Some(login) {
        return None;
    }
    let Some(tokens) = tokens else {
        return Some(refused(BASIC.to_owned()));
    };
    let wanted = wanted(head, route);
    let shown = head.fields.first("authorization").is_some();
    if shown && is_open(tokens, head, route, wanted.as_ref()) {
        return None;
    }
    // Whoever showed a credential is not sent to the token service again: it would give the same.
    let basic = shown || *route == Route::Catalog;
    let scope = wanted.as_ref().map(|wanted| (wanted.name, wanted.scope()));
    Some(refused(if basic { BASIC.to_owned() } else { challenge(head, scope) }))
}

/// The account whose password `head` shows, if it is right.
pub(crate) fn account<'a>(login: Option<&'a (String, String)>, head: &Head) -> Option<&'a str> {
    let login = login?;
    (basic_of(head).as_ref() == Some(login)).then_some(login.0.as_str())
}

fn is_open(tokens: &Tokens, head: &Head, route: &Route<'_>, wanted: Option<&Wanted<'_>>) -> bool {
    // What is public can be pulled with any credential, right or wrong, but not without one.
    if wanted.is_some_and(|wanted| wanted.action == "pull" && is_public(wanted.name)) {
        return true;
    }
    let Some(grant) = bearer_of(head).and_then(|token| tokens.grant(token, unix_now())) else {
        return false;
    };
    let allowed = |wanted: &Wanted<'_>| {
        grant.allows(wanted.name, wanted.action)
            && wanted.source.is_none_or(|source| grant.allows(source, "pull"))
    };
    match wanted {
        Some(wanted) => allowed(wanted),
        // Harbor lists repositories to accounts, not to bearers of a repository's token.
        None => *route == Route::Base && !grant.sub.is_empty(),
    }
}

/// What a request wants of a repository.
struct Wanted<'a> {
    name: &'a str,
    action: &'static str,
    /// The repository that a blob is to be mounted from.
    source: Option<&'a str>,
}

impl Wanted<'_> {
    /// The actions that a challenge names.
    fn scope(&self) -> &'static str {
        match self.action {
            "push" => "pull,push",
            action => action,
        }
    }
}

fn wanted<'a>(head: &'a Head, route: &Route<'a>) -> Option<Wanted<'a>> {
    let (Route::Tags(name)
    | Route::Manifest(name, _)
    | Route::Blob(name, _)
    | Route::Uploads(name)
    | Route::Upload(name, _)
    | Route::Referrers(name, _)) = route
    else {
        return None;
    };
    let upload = matches!(route, Route::Uploads(_) | Route::Upload(..));
    let action = match head.method.as_str() {
        "GET" | "HEAD" if !upload => "pull",
        "DELETE" if !upload => "delete",
        _ => "push",
    };
    let mounts = upload && head.parameter("mount").is_some();
    let source = head.parameter("from").filter(|_| mounts);
    Some(Wanted { name, action, source })
}

/// The request's Bearer token (RFC 6750 §2.1), if it has exactly one credential.
fn bearer_of(head: &Head) -> Option<&str> {
    let value = head.fields.only("authorization")?;
    let (scheme, token) = value.split_once(' ')?;
    scheme.eq_ignore_ascii_case("bearer").then(|| token.trim())
}

fn refused(challenge: String) -> Reply {
    Reply::error(401, "UNAUTHORIZED", "unauthorized: authentication required")
        .with("WWW-Authenticate", challenge)
}

const BASIC: &str = "Basic realm=\"harbor\"";
