//! A CONNECT: a change of the stream, not a request for a resource.
//!
//! An allowed CONNECT in, [`Next`] out. A connector's host is intercepted: `accept` ends TLS on the
//! same connection and asks for requests anew. Our own address needs no tunnel. Any other host is
//! refused, or passed through to.

use std::cell::Cell;
use std::io::IoSlice;
use std::pin::pin;

use futures_util::future::{Either, select};

use super::Next;
use crate::accept::{Inbound, Parsed};
use crate::account::Record;
use crate::authorise::{self, Allowed};
use crate::certificates::Subject;
use crate::counters::Route;
use crate::error::{Error, Kind, Stage};
use crate::intercept::{ESTABLISHED, Interception};
use crate::io::sleep;
use crate::passthrough;
use crate::route;
use crate::target::Form;
use crate::transport::Transport;
use crate::worker::Core;

/// Whether `parsed` asks for a tunnel to where its caller already is.
pub(super) fn leads_here(parsed: &Parsed, inbound: &Inbound, core: &Core) -> bool {
    let origin = parsed.target.origin().filter(|_| parsed.target.route() == Route::Connect);
    origin.is_some_and(|origin| {
        core.own.is_here(origin, inbound.transport.socket().local_address().ok())
    })
}

/// Whether no connector serves what `allowed` asks for.
pub(super) fn is_elsewhere(allowed: &Allowed) -> bool {
    allowed.target().form() == Form::Forward && allowed.target().connector().is_none()
}

/// Goes on as if the caller had connected without a tunnel.
pub(super) async fn to_here(
    inbound: &Inbound,
    record: &mut Record,
    core: &Core,
) -> Result<Next, Error> {
    check_plain(inbound)?;
    established(inbound, record, core).await?;
    Ok(Next::Restart)
}

/// Has the tunnel to a connector's host end here. What can be wrong is told before it stands.
pub(super) async fn to_connector(
    inbound: &Inbound,
    allowed: Allowed,
    record: &mut Record,
    core: &Core,
) -> Result<Next, Error> {
    check_plain(inbound)?;
    let elsewhere = Error::new(Stage::Route, Kind::HostDenied);
    let interception = Interception::of(&allowed).ok_or(elsewhere)?;
    core.with_snapshot(|snapshot| route::find(allowed, snapshot, record))?;
    let subject = Subject::Registry(interception.origin.host.clone());
    let config = core.certificates.of(&subject, &core.limits).await;
    let config = config.map_err(|kind| Error::new(Stage::Connect, kind))?;
    record.look();
    record.connected_after = Some(record.until_latest());
    established(inbound, record, core).await?;
    core.counters.interceptions.add(1);
    Ok(Next::Intercept(Box::new(interception), config))
}

/// Lets the caller through to a host that is no connector's, if the operator wants that, and for as
/// long as the caller would be let through anew.
pub(super) async fn elsewhere(
    inbound: &mut Inbound,
    allowed: &Allowed,
    record: &mut Record,
    core: &Core,
) -> Result<Next, Error> {
    let at_route = |kind| Error::new(Stage::Route, kind);
    let target = allowed.target();
    let Some(origin) = target.origin().filter(|_| target.route() == Route::Connect) else {
        // Plain http could be read and changed on its way, and says so to nobody.
        return Err(at_route(Kind::HostDenied));
    };
    core.passthrough.check(origin, &core.own.cluster_domain).map_err(at_route)?;
    check_plain(inbound)?;
    let dialled = passthrough::dial(origin, core).await;
    let host = dialled.map_err(|kind| Error::new(Stage::Connect, kind))?;
    record.look();
    record.connected_after = Some(record.until_latest());
    established(inbound, record, core).await?;
    core.counters.tunnels.add(1);
    core.counters.tunnels_open.up();
    let (up, down) = (Cell::new(0), Cell::new(0));
    let Inbound { transport, buffer, .. } = inbound;
    let tunnel = passthrough::run(transport.socket(), buffer, &host, (&up, &down), core);
    let ended = match select(pin!(tunnel), pin!(refusal(allowed, record, core))).await {
        Either::Left((ended, _)) => ended.map_err(|kind| Error::new(Stage::Stream, kind)),
        Either::Right((refused, _)) => Err(refused),
    };
    core.counters.tunnels_open.down();
    (record.bytes_up, record.bytes_down) = (up.get(), down.get());
    if let Err(error) = ended {
        // Neither side shall take what it has for the whole.
        transport.socket().reset_on_close();
        host.reset_on_close();
        record.end = Some(Err(error));
    }
    Ok(Next::Cut)
}

/// Why the caller would not be let through any more, once that is so. Nobody looks into its tunnel,
/// so a right that is taken away, or a token that ends, is noticed by asking again. What nobody can
/// say just now is no reason: a request under way is not cut off either.
async fn refusal(allowed: &Allowed, record: &mut Record, core: &Core) -> Error {
    loop {
        // An answer may be as old as that already when it is given.
        sleep(core.limits.verdict_age_max / 2).await;
        match authorise::again(allowed, core, record).await {
            Err(error) if matches!(error.kind, Kind::Denied | Kind::TokenRejected) => return error,
            Ok(()) | Err(_) => {}
        }
    }
}

/// TLS inside TLS of ours is not spoken: the proxy's URL begins with http://.
fn check_plain(inbound: &Inbound) -> Result<(), Error> {
    let why = "a tunnel through TLS of ours: write http:// in the proxy's URL";
    match inbound.transport {
        Transport::Plain(_) => Ok(()),
        Transport::Tls(_) => Err(Error::new(Stage::Route, Kind::Malformed(why))),
    }
}

async fn established(inbound: &Inbound, record: &mut Record, core: &Core) -> Result<(), Error> {
    let mut parts = [IoSlice::new(ESTABLISHED)];
    let said = inbound.transport.write_all(&mut parts, core.limits.body_progress_wait).await;
    said.map_err(|_| Error::new(Stage::Stream, Kind::CallerGone))?;
    record.status = 200;
    record.end = Some(Ok(()));
    Ok(())
}
