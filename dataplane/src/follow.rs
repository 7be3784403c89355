//! The detour of a blob's reader whom the registry redirects to a storage (protocol: RFC 9110
//! §15.4; docker/distribution answers 307 with a pre-signed URL where its storage can do that).
//!
//! The registry's answer in, the last hop's answer out, and the connection its body comes from.
//! `exchange` takes it between a request and its response; it is no stage. Nothing of the
//! connector or of the caller's identity goes to a storage, a storage's connection is never one of
//! the registry's, and neither path nor query of where it leads is ever logged: they are a key.

use std::mem;

use crate::account::Record;
use crate::connect::{self, Outlet};
use crate::error::{Error, Kind, Stage};
use crate::io::within;
use crate::parse::{RequestHead, ResponseHead};
use crate::rewrite::{self, ReturnPath, is_redirection};
use crate::route::Routed;
use crate::stream::{self, Answered, Unanswered};
use crate::vocabulary::{Connector, Origin, Scheme};
use crate::wiped::Wiped;
use crate::worker::Core;

mod place;

pub(crate) use place::Place;

/// Follows where `answered`, the registry's answer to `routed`, redirects to; without such a
/// redirection it comes back as it is. Afterwards `outlet` is the connection of the answer that is
/// returned, and `back` knows whose it is.
///
/// Fails with [`Kind::RedirectRefused`] where the way leads to a place that is not gone to, and
/// with [`Kind::StorageUnreachable`] where it ends.
pub(crate) async fn to_the_end(
    outlet: &mut Outlet,
    answered: Answered,
    back: &mut ReturnPath,
    routed: &Routed,
    record: &mut Record,
    core: &Core,
) -> Result<Answered, Error> {
    let Some(location) = rewrite::redirection(&answered.head, back) else {
        return Ok(answered);
    };
    let location = Box::from(location);
    back.leads_to_storage(&answered.head);
    // On the heap: every connection would hold room for a detour that few take.
    let hops = Box::pin(hops(outlet, answered, location, routed, record, core));
    // As for any request without a body: what clients wait for an answer's head is limited.
    let walked = within(core.limits.answer_wait, hops).await;
    walked.unwrap_or(Err(Error::new(Stage::Stream, Kind::RegistrySilent)))
}

async fn hops(
    outlet: &mut Outlet,
    mut answered: Answered,
    mut location: Box<[u8]>,
    routed: &Routed,
    record: &mut Record,
    core: &Core,
) -> Result<Answered, Error> {
    let refused = |why| Error::new(Stage::Rewrite, Kind::RedirectRefused(why));
    let connector = &*routed.connector;
    let mut from = connector.origin.clone();
    for _ in 0..HOPS_MAX {
        let place = Place::of(&location, &from)
            .filter(|place| place.target().len() <= core.limits.target_bytes_max)
            .ok_or(refused("the address that the registry redirects to is malformed"))?;
        record.detail = Some(format!("redirected to {}", place.origin().authority()).into());
        check_scheme(&from, place.origin(), connector).map_err(refused)?;
        let (next, next_answered) = ask(&place, routed, core).await?;
        let last = mem::replace(outlet, next);
        let last_answered = mem::replace(&mut answered, next_answered);
        put_back(last, last_answered, core).await;
        if !is_redirection(answered.head.status) {
            return Ok(answered);
        }
        location = next_location(&answered.head)
            .ok_or(refused("the storage that the registry redirects to redirects nowhere"))?;
        from = place.into_origin();
    }
    Err(refused("the registry's redirection leads to others without end"))
}

/// Where a storage redirects to.
fn next_location(head: &ResponseHead) -> Option<Box<[u8]>> {
    let mut values = head.fields.all("location");
    let only = values.next().filter(|_| values.next().is_none());
    only.map(Box::from)
}

/// Whether the way from one origin to another keeps what the caller may rely on: what came over
/// TLS so far goes on so, and without TLS only a listed host or the connector's own address serves.
fn check_scheme(from: &Origin, to: &Origin, connector: &Connector) -> Result<(), &'static str> {
    match (from.scheme, to.scheme) {
        (_, Scheme::Https) => Ok(()),
        (Scheme::Https, Scheme::Http) => Err("a redirection from https to http is not followed"),
        (Scheme::Http, Scheme::Http) if *to == connector.origin => Ok(()),
        (Scheme::Http, Scheme::Http) if connector.redirects.lists(to) => Ok(()),
        (Scheme::Http, Scheme::Http) => {
            Err("the registry redirects to http: list the host in redirectHosts, or use https")
        }
    }
}

/// One hop: the request to `place`, repeated once on a fresh connection where the one used before
/// turns out to be closed.
async fn ask(place: &Place, routed: &Routed, core: &Core) -> Result<(Outlet, Answered), Error> {
    let at_connect = |kind| Error::new(Stage::Connect, of_storage(kind));
    let (connector, origin) = (&*routed.connector, place.origin());
    let (method, limits) = (routed.head.method, &*core.limits);
    let mut outlet = connect::open_storage(origin, connector, core).await.map_err(at_connect)?;
    core.counters.redirects.add(1);
    let mut answered =
        stream::ask_with(&mut outlet, head(&routed.head, place), method, limits).await;
    if outlet.reused && matches!(answered, Err(Unanswered::Closed)) {
        core.counters.resends.add(1);
        let fresh = connect::dial_storage(origin, connector, core, outlet.key).await;
        outlet = fresh.map_err(at_connect)?;
        answered = stream::ask_with(&mut outlet, head(&routed.head, place), method, limits).await;
    }
    match answered {
        Ok(answered) => Ok((outlet, answered)),
        Err(Unanswered::Closed) => Err(Error::new(Stage::Stream, of_storage(Kind::RegistryClosed))),
        Err(Unanswered::Failed(kind)) => Err(Error::new(Stage::Stream, of_storage(kind))),
    }
}

/// The request for `place` in the stead of the caller's `asked`: what says which bytes are wanted
/// and in what form, and nothing else.
fn head(asked: &RequestHead, place: &Place) -> Wiped {
    let authority = place.origin().authority();
    let mut head = Wiped::with_room(asked.fields.head_bytes() + place.target().len() + 256);
    for part in [asked.method.as_str(), " ", place.target(), " HTTP/1.1\r\nHost: ", &authority] {
        head.extend_from_slice(part.as_bytes());
    }
    head.extend_from_slice(b"\r\n");
    for (name, value) in asked.fields.iter() {
        let kept = KEPT.iter().any(|kept| name.eq_ignore_ascii_case(kept.as_bytes()));
        if kept && !asked.fields.has_token("connection", name) {
            for part in [name, b": ", value, b"\r\n"] {
                head.extend_from_slice(part);
            }
        }
    }
    head.extend_from_slice(b"\r\n");
    head
}

/// Gives a connection back whose answer was a redirection, if it can be used again.
async fn put_back(mut outlet: Outlet, answered: Answered, core: &Core) {
    let whole = stream::swallow(&mut outlet, answered.framing, &core.limits).await;
    if whole && answered.head.keep_alive() {
        connect::keep(outlet, core);
    }
}

/// What a failure of a registry is called where it is a storage's.
fn of_storage(kind: Kind) -> Kind {
    match kind {
        Kind::RegistryForbidden => Kind::RedirectRefused(
            "the registry redirects to an address this proxy does not dial: if it is right, list its host in redirectHosts",
        ),
        Kind::RegistryUnresolved => {
            Kind::StorageUnreachable("the storage that the registry redirects to has no address")
        }
        Kind::RegistryUnreachable => {
            Kind::StorageUnreachable("the storage that the registry redirects to cannot be reached")
        }
        Kind::RegistryUntrusted => Kind::StorageUnreachable(
            "x509: the certificate of the storage that the registry redirects to is not trusted: add its CA to spec.caCertSecretRef",
        ),
        Kind::RegistryClosed => Kind::StorageUnreachable(
            "the storage that the registry redirects to closed the connection before it answered",
        ),
        other => other,
    }
}

/// Redirections followed for one request.
const HOPS_MAX: usize = 5;

/// The caller's fields that a storage gets (RFC 9110 §12.5, §13.1, §14.2, §10.1.5).
const KEPT: [&str; 9] = [
    "accept",
    "accept-encoding",
    "if-match",
    "if-modified-since",
    "if-none-match",
    "if-range",
    "if-unmodified-since",
    "range",
    "user-agent",
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::{connector, limits};
    use crate::parse;
    use crate::vocabulary::{ConnectorRef, ListedHost};

    fn origin(scheme: Scheme, host: &str) -> Origin {
        Origin { scheme, host: host.into(), port: scheme.default_port() }
    }

    #[test]
    fn a_storage_gets_what_says_which_bytes_are_wanted_and_nothing_else() {
        let asked = "GET /v2/namespaces/ci/connectors/harbor/a/b/blobs/x HTTP/1.1\r\nHost: proxy\r\n\
            Authorization: Basic cG9kOnRva2Vu\r\nCookie: sid=1\r\nProxy-Authorization: Basic eA==\r\n\
            X-Forwarded-For: 10.0.0.1\r\nX-Anything: 1\r\nX-Request-ID: 7\r\nForwarded: for=x\r\n\
            Referer: http://proxy/\r\nRange: bytes=5-9\r\nIf-Range: \"e\"\r\nIf-None-Match: \"f\"\r\n\
            Accept: a/b\r\nAccept: c/d\r\nAccept-Encoding: zstd\r\nUser-Agent: skopeo\r\n\
            Connection: If-None-Match\r\n\r\n";
        let (asked, _) = parse::request(asked.as_bytes(), &limits()).unwrap().unwrap();
        let place = Place::of(b"https://s3.example:9000/b/k?X-Sig=1%2F2&a", &asked_from()).unwrap();
        let head = String::from_utf8(head(&asked, &place).to_vec()).unwrap();
        assert_eq!(
            head,
            "GET /b/k?X-Sig=1%2F2&a HTTP/1.1\r\nHost: s3.example:9000\r\nRange: bytes=5-9\r\n\
             If-Range: \"e\"\r\nAccept: a/b\r\nAccept: c/d\r\nAccept-Encoding: zstd\r\n\
             User-Agent: skopeo\r\n\r\n"
        );
    }

    fn asked_from() -> Origin {
        origin(Scheme::Https, "harbor.example.com")
    }

    #[test]
    fn tls_is_never_given_up_on_the_way_and_http_goes_only_to_listed_hosts() {
        let mut connector = connector(ConnectorRef::new("ci", "harbor"));
        connector.origin = origin(Scheme::Http, "harbor");
        connector.redirects.hosts.push(ListedHost { host: "minio".into(), port: None });
        for (from, to, good) in [
            ((Scheme::Https, "a"), (Scheme::Https, "b"), true),
            ((Scheme::Http, "harbor"), (Scheme::Https, "b"), true),
            ((Scheme::Https, "a"), (Scheme::Http, "minio"), false),
            ((Scheme::Http, "harbor"), (Scheme::Http, "minio"), true),
            ((Scheme::Http, "minio"), (Scheme::Http, "harbor"), true),
            ((Scheme::Http, "harbor"), (Scheme::Http, "b"), false),
        ] {
            let (from, to) = (origin(from.0, from.1), origin(to.0, to.1));
            assert_eq!(check_scheme(&from, &to, &connector).is_ok(), good, "{from} {to}");
        }
    }
}
