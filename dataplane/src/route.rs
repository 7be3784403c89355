//! Finds the connector that an allowed request names, in the snapshot of this moment.
//!
//! [`Allowed`] in, [`Routed`] out; no I/O. It runs after `authorise`, so only a caller that may use
//! a connector can learn that it is missing or not ready.

use std::sync::Arc;

use crate::account::Record;
use crate::authorise::Allowed;
use crate::body::Framing;
use crate::error::{Error, Kind, Stage};
use crate::parse::RequestHead;
use crate::pool::Key;
use crate::snapshot::Snapshot;
use crate::target::Target;
use crate::vocabulary::{Access, Connector, ConnectorRef};

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
}

/// Looks up what `allowed` names. A bare `/v2/` names nothing and is answered before.
pub(crate) fn find(
    allowed: Allowed,
    snapshot: &Snapshot,
    record: &mut Record,
) -> Result<Routed, Error> {
    let parsed = allowed.into_parsed();
    let reference = parsed.target.connector();
    let reference = reference.ok_or(Error::new(Stage::Route, Kind::NoConnector))?;
    let connector = ready(reference, snapshot, record)?;
    Ok(Routed { head: parsed.head, target: parsed.target, framing: parsed.framing, connector })
}

/// Looks once more, after a wait: whether the connector is another account by now, which then
/// serves the request. What a change took away is not used for a head that is still to be sent.
pub(crate) fn renew(
    routed: &mut Routed,
    snapshot: &Snapshot,
    record: &mut Record,
) -> Result<bool, Error> {
    let now = snapshot.connector(&routed.connector.reference);
    if now.is_some_and(|now| Arc::ptr_eq(now, &routed.connector)) {
        return Ok(false);
    }
    let now = ready(&routed.connector.reference, snapshot, record)?;
    let changed = Key::of(&now) != Key::of(&routed.connector);
    routed.connector = now;
    Ok(changed)
}

fn ready(
    reference: &ConnectorRef,
    snapshot: &Snapshot,
    record: &mut Record,
) -> Result<Arc<Connector>, Error> {
    let unready = Error::new(Stage::Route, Kind::ConnectorUnready);
    let Some(connector) = snapshot.connector(reference) else {
        // Allowed a moment ago, deleted since.
        record.detail = Some("ConnectorNotFound".into());
        return Err(unready);
    };
    if let Access::Unready(reason) = &connector.access {
        record.detail = Some(reason.clone());
        return Err(unready);
    }
    Ok(Arc::clone(connector))
}
