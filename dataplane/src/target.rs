//! What a request names: the connector, and the resource behind it.
//!
//! [`RequestHead`] in, [`Target`] out. It never decodes a path: a path that two servers could
//! normalise differently is refused, so that what is allowed here is what the registry reads.

pub(crate) mod api;
mod asked;
pub(crate) mod forward;
mod host;
pub(crate) mod name;
mod query;

use std::borrow::Cow;

use crate::counters::Route;
use crate::error::Kind;
use crate::limits::Limits;
use crate::parse::{Method, RequestHead, Span, is_host};
use crate::vocabulary::{ConnectorRef, Origin, Scheme, is_dns_label};

pub(crate) use asked::Asked;
pub(crate) use host::connector as connector_of_host;

/// How the caller named the connector: it decides how a `Location` is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// `/v2/namespaces/<namespace>/connectors/<name>/…`.
    Path,
    /// The host `c-<name>.<namespace>.svc…`.
    Host,
    /// The registry's own host, and the connectors that the caller lists.
    Forward,
}

/// What of the registry is asked for. The spans lie in [`Target::rest`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Resource {
    /// The bare `/v2/`, which is answered here.
    Ping,
    /// `manifests/<reference>`.
    Manifest { reference: Span },
    /// `blobs/<digest>`.
    Blob { digest: Span },
    /// `blobs/uploads/`, where an upload begins.
    UploadStart,
    /// `blobs/uploads/<id>`.
    Upload,
    /// `tags/list`.
    Tags,
    /// `referrers/<digest>`.
    Referrers { digest: Span },
    /// Harbor's token service, in whose stead we answer.
    Token,
    /// Harbor's own API; [`api::api_permits`] decides about it.
    Api,
    /// Whatever the caller will say: a CONNECT.
    Tunnel,
    /// Nothing that a registry has, for this reason. Known in the forward form only, where it is
    /// told after the caller's right is.
    Foreign(Kind),
}

/// What a request names. Its texts are byte for byte what the caller wrote.
#[derive(Debug)]
pub(crate) struct Target {
    connector: Option<ConnectorRef>,
    origin: Option<Box<Origin>>,
    form: Form,
    resource: Resource,
    asked: Asked,
    query: Option<Box<str>>,
}

impl Target {
    /// The connector; `None` for [`Resource::Ping`], and in the forward form until it is known
    /// which of the listed ones serves.
    pub(crate) fn connector(&self) -> Option<&ConnectorRef> {
        self.connector.as_ref()
    }

    /// Says which connector serves a target of the forward form.
    pub(crate) fn serve_by(&mut self, connector: ConnectorRef) {
        self.connector = Some(connector);
    }

    /// The registry that a target of the forward form names.
    pub(crate) fn origin(&self) -> Option<&Origin> {
        self.origin.as_deref()
    }

    /// How the connector was named.
    pub(crate) fn form(&self) -> Form {
        self.form
    }

    /// What was asked for, as a label.
    pub(crate) fn route(&self) -> Route {
        match self.resource {
            Resource::Ping => Route::Ping,
            Resource::Manifest { .. } => Route::Manifest,
            Resource::Blob { .. } => Route::Blob,
            Resource::UploadStart | Resource::Upload => Route::Upload,
            Resource::Tags => Route::Tags,
            Resource::Referrers { .. } => Route::Referrers,
            Resource::Token => Route::Token,
            Resource::Api => Route::Api,
            Resource::Tunnel => Route::Connect,
            Resource::Foreign(_) => Route::Unknown,
        }
    }

    /// The repository, without the connector's prefix; empty for a ping and Harbor's API.
    pub(crate) fn repository(&self) -> &str {
        self.asked.repository()
    }

    /// The path and the names in it.
    pub(crate) fn asked(&self) -> &Asked {
        &self.asked
    }

    /// The digest of the blob that an upload ends as, where its query says it.
    pub(crate) fn uploaded(&self) -> &str {
        match self.resource {
            Resource::Upload | Resource::UploadStart => query::digest(self.query.as_deref()),
            _ => "",
        }
    }

    /// The raw path without the connector's prefix: it begins with `/v2` or `/api/v2.0/`.
    pub(crate) fn rest(&self) -> &str {
        self.asked.rest()
    }

    /// The raw query, without its question mark.
    pub(crate) fn query(&self) -> Option<&str> {
        self.query.as_deref()
    }

    /// What was asked for.
    pub(crate) fn resource(&self) -> &Resource {
        &self.resource
    }
}

/// What `head` names. `cluster_domain` is what follows `.svc.` in a Service's full name.
///
/// The path decides when it has the whole prefix; the `Host` is the fallback. Fails where the
/// target lies outside the distribution API's grammar, where its method does not exist, or where
/// its query or its body could smuggle a parameter past a check of the registry.
pub(crate) fn of(
    head: &RequestHead,
    cluster_domain: &str,
    limits: &Limits,
) -> Result<Target, Kind> {
    if head.method == Method::Connect {
        return forward::tunnel(head);
    }
    let asked = head.target();
    let absolute = forward::absolute(asked)?;
    let (host, target) = match absolute {
        Some((_, authority, _)) if !is_host(authority.as_bytes()) => {
            return Err(Kind::Malformed("the target's authority is not a host"));
        }
        // The target's own authority counts and the `Host` is ignored (RFC 9112 §3.2.2).
        Some((_, authority, path)) => (Some(authority), path),
        None => (None, asked),
    };
    if let Some((scheme, authority, path)) = absolute
        && !is_ours(authority, path, cluster_domain)
    {
        let origin = forward::origin(scheme, authority)?;
        return Ok(forward::at(head, origin, path, limits));
    }
    if matches!(absolute, Some((Scheme::Https, ..))) {
        return Err(Kind::Malformed("our own address in a URL is written with http://"));
    }
    local(head, host, target, cluster_domain, limits)
}

/// The same for a request that is known to be for this proxy's own address, whatever its target
/// says: in absolute form its authority may be any of our names.
pub(crate) fn of_own_address(
    head: &RequestHead,
    cluster_domain: &str,
    limits: &Limits,
) -> Result<Target, Kind> {
    let (host, target) = match forward::absolute(head.target())? {
        Some((_, authority, path)) => (Some(authority), path),
        None => (None, head.target()),
    };
    local(head, host, target, cluster_domain, limits)
}

/// Whether an absolute URL is of our own address by what it says: the host of a connector's
/// Service, or a path that names a connector.
fn is_ours(authority: &str, path: &str, cluster_domain: &str) -> bool {
    let path = path.split('?').next().unwrap_or_default();
    let start = path.strip_prefix("/v2/").or_else(|| path.strip_prefix('/')).unwrap_or_default();
    host::connector(authority, cluster_domain).is_some() || name::split_prefix(start).is_some()
}

/// `host` is the authority of the target, where it has one; else the `Host` field counts.
fn local(
    head: &RequestHead,
    host: Option<&str>,
    target: &str,
    cluster_domain: &str,
    limits: &Limits,
) -> Result<Target, Kind> {
    let (path, query) = match name::split_once(target, b'?') {
        Some((path, query)) => (path, Some(query)),
        None => (target, None),
    };
    name::check_path(path)?;
    let named = match path {
        "/v2" | "/v2/" => Named { connector: None, form: Form::Host, rest: path.into() },
        _ => named(path, || host.unwrap_or_else(|| head.host()), cluster_domain)?,
    };
    let (resource, repository) = resource(&named.rest)?;
    check_method(head.method, resource)?;
    if let Some(query) = query {
        query::check(query, resource)?;
    }
    check_body(head, resource, limits)?;
    Ok(Target {
        connector: named.connector,
        origin: None,
        form: named.form,
        resource,
        asked: Asked::new(&named.rest, resource, repository),
        query: query.map(Box::from),
    })
}

/// Where Harbor has its token service (src/server/route.go).
const TOKEN_SERVICE: &str = "/service/token";

/// A path that has been told apart from the connector it names.
struct Named<'a> {
    connector: Option<ConnectorRef>,
    form: Form,
    rest: Cow<'a, str>,
}

/// Finds the connector that `path`, or else `host`, names.
fn named<'a>(
    path: &'a str,
    host: impl FnOnce() -> &'a str,
    cluster_domain: &str,
) -> Result<Named<'a>, Kind> {
    // The path form has its prefix after `/v2/`, as an image's name has; Harbor's API before all.
    let (start, rest) = match path.strip_prefix("/v2/") {
        Some(rest) => ("/v2/", rest),
        None => ("/", path.strip_prefix('/').unwrap_or_default()),
    };
    if let Some(((namespace, name), rest)) = name::split_prefix(rest) {
        if !is_dns_label(namespace) || !is_dns_label(name) {
            return Err(Kind::NameInvalid("the connector's namespace or name is no DNS label"));
        }
        let rest = [start, rest].concat();
        if start == "/" && !rest.starts_with(api::ROOT) && rest != TOKEN_SERVICE {
            return Err(Kind::NameInvalid(
                "only /api/v2.0/ and /service/token stand behind this prefix",
            ));
        }
        let connector = Some(ConnectorRef::new(namespace, name));
        return Ok(Named { connector, form: Form::Path, rest: rest.into() });
    }
    let connector = host::connector(host(), cluster_domain).ok_or(Kind::NoConnector)?;
    Ok(Named { connector: Some(connector), form: Form::Host, rest: path.into() })
}

/// The resource and, where there is one, the repository that `rest` names.
///
/// It is read from its end: repositories may have components called `manifests` or `blobs`.
fn resource(rest: &str) -> Result<(Resource, Span), Kind> {
    let place = |part: &str| Span::of(rest.as_bytes(), part.as_bytes());
    if matches!(rest, "/v2" | "/v2/") {
        return Ok((Resource::Ping, Span::default()));
    }
    if rest == TOKEN_SERVICE {
        return Ok((Resource::Token, Span::default()));
    }
    if let Some(path) = rest.strip_prefix(api::ROOT) {
        return api::check_path(path).map(|()| (Resource::Api, Span::default()));
    }
    let Some(path) = rest.strip_prefix("/v2/") else {
        return Err(Kind::NameInvalid("the path is neither of /v2/ nor of /api/v2.0/"));
    };
    if path == "_catalog" {
        return Err(Kind::PolicyDenied("the catalog of a registry does not pass this proxy"));
    }
    let unknown = Kind::NameInvalid("the path names nothing of the distribution API");
    let (resource, repository) = if let Some(repository) = path.strip_suffix("/tags/list") {
        (Resource::Tags, repository)
    } else if let Some(repository) = strip_either(path, "/blobs/uploads/", "/blobs/uploads") {
        (Resource::UploadStart, repository)
    } else {
        let (parent, last) = name::rsplit_once(path, b'/').ok_or(unknown)?;
        if let Some(repository) = parent.strip_suffix("/manifests") {
            name::check_reference(last)?;
            (Resource::Manifest { reference: place(last) }, repository)
        } else if let Some(repository) = parent.strip_suffix("/referrers") {
            name::check_digest(last)?;
            (Resource::Referrers { digest: place(last) }, repository)
        } else if let Some(repository) = parent.strip_suffix("/blobs/uploads") {
            name::check_upload(last)?;
            (Resource::Upload, repository)
        } else if let Some(repository) = parent.strip_suffix("/blobs") {
            name::check_digest(last)?;
            (Resource::Blob { digest: place(last) }, repository)
        } else {
            return Err(unknown);
        }
    };
    if !name::is_repository(repository) {
        return Err(Kind::NameInvalid(
            "the repository's name breaks the distribution API's grammar",
        ));
    }
    Ok((resource, place(repository)))
}

fn strip_either<'a>(path: &'a str, one: &str, other: &str) -> Option<&'a str> {
    path.strip_suffix(one).or_else(|| path.strip_suffix(other))
}

/// Whether the resource has the method. Harbor's API has all of them; its policy comes later.
fn check_method(method: Method, resource: Resource) -> Result<(), Kind> {
    use Method::{Delete, Get, Head, Patch, Post, Put};
    let has_it = match resource {
        // Harbor's token service has no OAuth2 form either: it answers POST with 405.
        Resource::Ping | Resource::Tags | Resource::Token | Resource::Referrers { .. } => {
            matches!(method, Get | Head)
        }
        Resource::Manifest { .. } => matches!(method, Get | Head | Put | Delete),
        Resource::Blob { .. } => matches!(method, Get | Head | Delete),
        Resource::UploadStart => method == Post,
        Resource::Upload => matches!(method, Get | Head | Patch | Put | Delete),
        Resource::Api => true,
        Resource::Tunnel => method == Method::Connect,
        Resource::Foreign(_) => false,
    };
    if has_it { Ok(()) } else { Err(Kind::MethodNotAllowed) }
}

/// Refuses bodies that must not reach the registry, by what the head says about them.
///
/// docker/distribution prefers the parameters of a form body to those of the query, while Harbor
/// checks the query's: a form could mount a blob that nobody checked. Go trims and lower-cases by
/// Unicode before it compares the type, so a type that is not ASCII is refused with the forms.
fn check_body(head: &RequestHead, resource: Resource, limits: &Limits) -> Result<(), Kind> {
    if matches!(resource, Resource::UploadStart | Resource::Upload) {
        for content_type in head.fields.all("content-type") {
            let main = content_type.split(|byte| *byte == b';').next().unwrap_or_default();
            let main = main.trim_ascii().to_ascii_lowercase();
            let is_form = main == b"application/x-www-form-urlencoded";
            if is_form || main.starts_with(b"multipart/") || !content_type.is_ascii() {
                return Err(Kind::FormBody);
            }
        }
    }
    // A length that is no number is `body`'s to refuse.
    let length = head.fields.get("content-length").and_then(|value| str::from_utf8(value).ok());
    let length = length.and_then(|digits| digits.parse::<u64>().ok()).unwrap_or_default();
    if matches!(resource, Resource::Manifest { .. }) && length > limits.manifest_bytes_max {
        return Err(Kind::ManifestTooLarge);
    }
    Ok(())
}

#[cfg(test)]
mod tests;
