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
use crate::snapshot::Snapshot;
use crate::target::{Resource, Target};
use crate::vocabulary::{Access, Connector};

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
    if let Resource::Foreign(kind) = *parsed.target.resource() {
        return Err(Error::new(Stage::Parse, kind));
    }
    let connector = Arc::clone(connector);
    Ok(Routed { head: parsed.head, target: parsed.target, framing: parsed.framing, connector })
}
