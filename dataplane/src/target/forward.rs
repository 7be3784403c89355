//! Targets that name a registry by its own host: absolute URLs, CONNECT, and what comes inside.
//!
//! A request-target in, an [`Origin`] and a path out; strict, so that no two parsers read another
//! host (RFC 9112 §3.2, RFC 3986 §3.2). Which connector serves the host is not decided here.

use std::net::{Ipv4Addr, Ipv6Addr};

use super::{Asked, Form, Resource, Target, check_body, check_method, name, query, resource};
use crate::error::Kind;
use crate::limits::Limits;
use crate::parse::{Method, RequestHead, Span};
use crate::vocabulary::{ConnectorRef, Origin, Scheme};

/// The target of a CONNECT: `host:port` and nothing else (RFC 9110 §9.3.6).
pub(super) fn tunnel(head: &RequestHead) -> Result<Target, Kind> {
    let (host, port) = authority(head.target())
        .and_then(|(host, port)| Some((host, port?)))
        .ok_or(Kind::Malformed("the target of a CONNECT is a host and a port"))?;
    match authority(head.host()) {
        _ if head.host().is_empty() => {}
        Some((named, at)) if named == host && at.is_none_or(|at| at == port) => {}
        _ => return Err(Kind::Malformed("the Host of a CONNECT is not its target")),
    }
    let has_body = |length: &[u8]| length != b"0";
    let announced = head.fields.get("content-length").is_some_and(has_body);
    if announced || head.fields.get("transfer-encoding").is_some() {
        return Err(Kind::Malformed("a CONNECT has no body"));
    }
    let origin = Origin { scheme: Scheme::Https, host, port };
    Ok(target(origin, String::new(), None, Ok((Resource::Tunnel, Span::default()))))
}

/// Splits an absolute URL; `None` for a target that is a path.
pub(super) fn absolute(text: &str) -> Result<Option<(Scheme, &str, &str)>, Kind> {
    if text.starts_with('/') {
        return Ok(None);
    }
    let odd = Kind::Malformed("the target is neither a path nor an http or https URL with one");
    let (scheme, rest) = text.split_once("://").ok_or(odd)?;
    let scheme = match scheme {
        _ if scheme.eq_ignore_ascii_case("http") => Scheme::Http,
        _ if scheme.eq_ignore_ascii_case("https") => Scheme::Https,
        _ => return Err(odd),
    };
    let (authority, path) =
        rest.find('/').and_then(|slash| rest.split_at_checked(slash)).ok_or(odd)?;
    Ok(Some((scheme, authority, path)))
}

/// The origin that a URL's scheme and authority name.
pub(super) fn origin(scheme: Scheme, text: &str) -> Result<Origin, Kind> {
    let (host, port) =
        authority(text).ok_or(Kind::Malformed("the target's authority is not a host"))?;
    Ok(Origin { scheme, host, port: port.unwrap_or(scheme.default_port()) })
}

/// The target of a request for `path` at `origin`. What is wrong with its path is told only to
/// those whom a connector serves: others shall hear that none does.
pub(super) fn at(head: &RequestHead, origin: Origin, path: &str, limits: &Limits) -> Target {
    let (path, asked) = match path.split_once('?') {
        Some((path, asked)) => (path, Some(asked)),
        None => (path, None),
    };
    let checked = || {
        name::check_path(path)?;
        let (found, repository) = resource(path)?;
        check_method(head.method, found)?;
        if let Some(asked) = asked {
            query::check(asked, found)?;
        }
        check_body(head, found, limits)?;
        Ok((found, repository))
    };
    target(origin, path.to_owned(), asked, checked())
}

/// The target of a request that comes through the tunnel to `origin`, which `connector` serves.
/// Fails with [`Kind::Misdirected`] where it is meant for another host.
pub(crate) fn inside(
    head: &RequestHead,
    tunnel: &Origin,
    connector: &ConnectorRef,
    limits: &Limits,
) -> Result<Target, Kind> {
    if head.method == Method::Connect {
        return Err(Kind::Malformed("a CONNECT inside a tunnel"));
    }
    let path = match absolute(head.target())? {
        None => head.target(),
        Some((scheme, text, path)) if origin(scheme, text)? == *tunnel => path,
        Some(_) => return Err(Kind::Misdirected),
    };
    let named = authority(head.host());
    let is_the_tunnels = named.is_some_and(|(host, port)| {
        host == tunnel.host && port.unwrap_or(tunnel.scheme.default_port()) == tunnel.port
    });
    // HTTP/1.0 may name no host.
    if !is_the_tunnels && !head.host().is_empty() {
        return Err(Kind::Misdirected);
    }
    let mut target = at(head, tunnel.clone(), path, limits);
    target.connector = Some(connector.clone());
    Ok(target)
}

fn target(
    origin: Origin,
    rest: String,
    query: Option<&str>,
    found: Result<(Resource, Span), Kind>,
) -> Target {
    let (resource, repository) =
        found.unwrap_or_else(|kind| (Resource::Foreign(kind), Span::default()));
    Target {
        connector: None,
        origin: Some(Box::new(origin)),
        form: Form::Forward,
        resource,
        asked: Asked::new(&rest, resource, repository),
        query: query.map(Box::from),
    }
}

/// A host and a port: a DNS name, which becomes lower-case and loses a trailing dot, a dotted IPv4
/// address, or an IPv6 address in brackets, which lose them. No user information, no percent sign.
pub(crate) fn authority(text: &str) -> Option<(Box<str>, Option<u16>)> {
    let (host, port): (Box<str>, &str) = match text.strip_prefix('[') {
        Some(rest) => {
            let (host, port) = rest.split_once(']')?;
            (host.parse::<Ipv6Addr>().ok()?.to_string().into(), port)
        }
        None => {
            let (host, port) = text.split_at_checked(text.find(':').unwrap_or(text.len()))?;
            (name_or_v4(host)?, port)
        }
    };
    let port = match port.strip_prefix(':') {
        Some(digits) => {
            let plain = digits.bytes().all(|byte| byte.is_ascii_digit());
            Some(
                digits
                    .parse()
                    .ok()
                    .filter(|port| plain && *port > 0 && !digits.starts_with('0'))?,
            )
        }
        None if port.is_empty() => None,
        None => return None,
    };
    Some((host, port))
}

fn name_or_v4(text: &str) -> Option<Box<str>> {
    let host = text.strip_suffix('.').unwrap_or(text).to_ascii_lowercase();
    let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
    let is_label =
        |label: &str| (1..=LABEL_BYTES_MAX).contains(&label.len()) && label.bytes().all(inner);
    (host.len() <= HOST_BYTES_MAX && host.split('.').all(is_label)).then(|| host.into_boxed_str())
}

/// Whether `host` looks like a number without being an address as everybody writes it: resolvers
/// read `127.1`, `0x7f000001` or `2130706433` as addresses. No top-level domain begins with a digit.
pub(crate) fn is_odd_number(host: &str) -> bool {
    let last = host.rsplit('.').next().unwrap_or_default();
    let is_address = host.parse::<Ipv4Addr>().is_ok() || host.contains(':');
    !is_address && last.starts_with(|first: char| first.is_ascii_digit())
}

/// RFC 1035 §2.3.4.
const LABEL_BYTES_MAX: usize = 63;
const HOST_BYTES_MAX: usize = 253;
