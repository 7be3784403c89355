//! The right of a caller who names a registry's host: one of the connectors it lists serves it.
//!
//! Each listed connector is asked about, in order, before any of them is looked up: whoever may not
//! use a connector does not learn that it exists. A request inside an intercepted tunnel brings the
//! identity of its CONNECT along, and is asked about again.

use std::rc::Rc;
use std::sync::Arc;

use super::{Allowed, Asker, listed};
use crate::accept::Parsed;
use crate::account::Record;
use crate::error::{Error, Kind, Stage};
use crate::intercept::Interception;
use crate::snapshot::Snapshot;
use crate::vocabulary::{ConnectorRef, Token, Verdict};
use crate::worker::Core;

/// See [`super::check`].
pub(super) async fn check(
    parsed: Box<Parsed>,
    core: &Core,
    record: &mut Record,
) -> Result<Allowed, Error> {
    if let Some(interception) = parsed.interception.clone() {
        return inside(parsed, &interception, core, record).await;
    }
    let (listed, token) = listed::of(&parsed.head.fields, &core.limits).map_err(fail)?;
    let mut allowed = Vec::with_capacity(listed.len());
    let mut denied = None;
    for connector in listed {
        match ask(&token, &connector, core, record).await? {
            true => allowed.push(connector),
            false => denied = denied.or(Some(connector)),
        }
    }
    let mut parsed = parsed;
    let mut reviewed = Vec::new();
    let serving = parsed.target.origin().and_then(|origin| {
        core.with_snapshot(|snapshot| snapshot.serving(&allowed, origin).cloned())
    });
    if let Some(connector) = serving {
        record.connector = Some(connector.clone());
        parsed.target.serve_by(connector);
    } else if let Some(connector) = denied {
        record.connector = Some(connector);
        return Err(fail(Kind::Denied));
    } else {
        reviewed = allowed;
    }
    Ok(Allowed { parsed, token: Some(token), listed: reviewed })
}

/// See [`super::again`].
pub(super) async fn again(
    allowed: &Allowed,
    core: &Core,
    record: &mut Record,
) -> Result<(), Error> {
    let Some(token) = &allowed.token else {
        return Ok(());
    };
    for connector in &allowed.listed {
        if !ask(token, connector, core, record).await? {
            return Err(fail(Kind::Denied));
        }
    }
    Ok(())
}

async fn inside(
    parsed: Box<Parsed>,
    interception: &Rc<Interception>,
    core: &Core,
    record: &mut Record,
) -> Result<Allowed, Error> {
    let Interception { token, connector, .. } = &**interception;
    match ask(token, connector, core, record).await? {
        true => Ok(Allowed { parsed, token: None, listed: Vec::new() }),
        false => Err(fail(Kind::Denied)),
    }
}

async fn ask(
    token: &Token,
    connector: &ConnectorRef,
    core: &Core,
    record: &mut Record,
) -> Result<bool, Error> {
    let rights = core.with_snapshot(Snapshot::rights);
    let asker = Asker { rights, source: record.source() };
    let (now, limits) = (record.look(), &core.limits);
    let verdict = core.verdicts.of(token.clone(), Some(connector), asker, now, limits).await;
    match verdict.map_err(fail)? {
        (Verdict::Allowed(caller), since) => {
            record.allowed(caller, since);
            Ok(true)
        }
        (Verdict::Denied(caller), _) => {
            record.caller = Some(Arc::clone(&caller));
            Ok(false)
        }
        (Verdict::Unauthenticated, _) => Err(fail(Kind::TokenRejected)),
        (Verdict::Unavailable, _) => Err(fail(Kind::ReviewUnavailable)),
    }
}

fn fail(kind: Kind) -> Error {
    Error::new(Stage::Authorise, kind)
}
