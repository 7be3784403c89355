//! Finds the connector that an allowed request names, in the snapshot of this moment.
//!
//! [`Allowed`] in, [`Routed`] out; no I/O. It runs after `authorise`, so only a caller that may use
//! a connector can learn that it is missing or not ready.

use std::sync::Arc;

use crate::accept::Parsed;
use crate::account::Record;
use crate::authorise::Allowed;
use crate::body::Framing;
use crate::error::{Error, Kind, Stage};
use crate::parse::RequestHead;
use crate::pool::Key;
use crate::snapshot::{Names, Served, Snapshot};
use crate::target::{Resource, Target};
use crate::vocabulary::{Access, Connector, ConnectorRef, Origin};

/// An allowed request and the connector that serves it.
pub(crate) struct Routed {
    /// The request's head.
    pub(crate) head: RequestHead,
    /// What it names.
    pub(crate) target: Target,
    /// How its body is framed.
    pub(crate) framing: Framing,
    /// The connector, ready to be used.
    pub(crate) connector: Arc<Connector>,
    /// The account that it is at its registry.
    pub(crate) account: Arc<Key>,
    /// Its names.
    pub(crate) names: Arc<Names>,
    /// The number of the snapshot that says so.
    seen: u64,
}

impl Routed {
    /// The request of these parts, served by what the snapshot with the number `seen` has.
    pub(crate) fn new(
        head: RequestHead,
        target: Target,
        framing: Framing,
        served: Served,
        seen: u64,
    ) -> Self {
        let Served { connector, account, names } = served;
        Self { head, target, framing, connector, account, names, seen }
    }
}

/// Looks up what `allowed` names. A bare `/v2/` names nothing and is answered before.
pub(crate) fn find(
    allowed: Allowed,
    snapshot: &Snapshot,
    record: &mut Record,
) -> Result<Box<Routed>, Error> {
    let parsed = allowed.into_parsed();
    let reference = parsed.target.connector();
    let reference = reference.ok_or(Error::new(Stage::Route, Kind::NoConnector))?;
    let served = ready(reference, parsed.target.origin(), snapshot, record)?;
    if let Resource::Foreign(kind) = *parsed.target.resource() {
        return Err(Error::new(Stage::Parse, kind));
    }
    let Parsed { head, target, framing, .. } = *parsed;
    Ok(Box::new(Routed::new(head, target, framing, served, snapshot.number())))
}

/// Looks once more, after a wait: whether the connector is another account by now, which then
/// serves the request. What a change took away is not used for a head that is still to be sent.
pub(crate) fn renew(
    routed: &mut Routed,
    snapshot: &Snapshot,
    record: &mut Record,
) -> Result<bool, Error> {
    if snapshot.number() == routed.seen {
        return Ok(false);
    }
    let (reference, origin) = (&routed.connector.reference, routed.target.origin());
    let served = ready(reference, origin, snapshot, record)?;
    let changed = served.account != routed.account;
    (routed.connector, routed.account) = (served.connector, served.account);
    (routed.names, routed.seen) = (served.names, snapshot.number());
    Ok(changed)
}

/// The connector, if it can serve a request; `origin` is the registry's, where the caller named it.
fn ready(
    reference: &ConnectorRef,
    origin: Option<&Origin>,
    snapshot: &Snapshot,
    record: &mut Record,
) -> Result<Served, Error> {
    let unready = Error::new(Stage::Route, Kind::ConnectorUnready);
    let Some(served) = snapshot.served(reference) else {
        // Allowed a moment ago, deleted since.
        record.detail = Some("ConnectorNotFound".into());
        return Err(unready);
    };
    if origin.is_some_and(|origin| !served.names.are_of(origin)) {
        // Its address has changed since: a tunnel leads to the host that it was opened to.
        return Err(Error::new(Stage::Route, Kind::HostDenied));
    }
    if let Access::Unready(reason) = &served.connector.access {
        record.detail = Some(reason.clone());
        return Err(unready);
    }
    Ok(served.clone())
}
