//! START HERE: one request and its response, seen through the stages in their order.
//!
//! `accept` (a head is read and parsed) → `authorise` → `route` → `rewrite` → `connect` → `stream`
//! → `account`. Only this file, its second half `response` and its detour `follow` call stages;
//! none of them calls another. What goes wrong before the response has begun becomes a refusal;
//! afterwards the connection is cut, so that a broken body is never taken for a whole one.

use std::cell::Cell;
use std::io::IoSlice;
use std::rc::Rc;
use std::sync::Arc;

use rustls::ServerConfig;

mod held;
mod response;
mod tunnel;

use crate::accept::{self, Inbound, Parsed};
use crate::account::Record;
use crate::authorise;
use crate::balance::{self, Transfer};
use crate::body::Framing;
use crate::connect::{self, Outlet};
use crate::counters::Route;
use crate::error::{Error, Kind, Stage};
use crate::follow;
use crate::intercept::Interception;
use crate::io;
use crate::limits::Limits;
use crate::login::{self, Shown};
use crate::parse::{Method, Version};
use crate::reply;
use crate::rewrite::{self, Mount, Outbound};
use crate::route::{self, Routed};
use crate::stream::{self, Answered, Unanswered};
use crate::target::Form;
use crate::transport::Transport;
use crate::worker::Core;

/// What becomes of the caller's connection.
pub(crate) enum Next {
    /// Another request may follow.
    Another,
    /// It is closed: the answer is whole.
    Close,
    /// It is closed without a word: what was sent may not be taken for whole.
    Cut,
    /// It is closed once what the caller still sends has been read and dropped.
    Linger,
    /// It moves to another core, where a long transfer is already counted.
    Move(usize, Transfer),
    /// The caller begins anew on it, as if it had just connected.
    Restart,
    /// TLS is ended on it in a registry's stead, and requests come inside.
    Intercept(Box<Interception>, Arc<ServerConfig>),
}

/// Serves the request whose first bytes are there.
pub(crate) async fn one(inbound: &mut Inbound, core: &Core) -> Next {
    let mut record = Record::open(&core.counters, inbound.peer);
    let parsed = match accept::read_head(inbound, core).await {
        Ok(Some(parsed)) => parsed,
        Ok(None) => {
            record.discard();
            return Next::Close;
        }
        Err(error) => {
            return Box::pin(response::refuse(inbound, error, true, &mut record, core)).await;
        }
    };
    let transfer = match transfer(inbound, &parsed, core) {
        Ok(transfer) => transfer,
        Err((index, transfer)) => {
            record.discard();
            return Next::Move(index, transfer);
        }
    };
    // What leads to a long transfer is no reason for long transfers to go in smaller pieces.
    let begins_upload =
        (parsed.head.method, parsed.target.route()) == (Method::Post, Route::Upload);
    if transfer.is_none() && !begins_upload {
        io::note_small();
    }
    inbound.buffer.consume(parsed.length);
    // However long the exchange takes, it holds no room for the next head.
    inbound.buffer.release();
    note(&parsed, &mut record, core);
    let is_old =
        |tunnel: &Rc<Interception>| tunnel.since.elapsed() >= core.limits.interception_age_max;
    let old = parsed.interception.as_ref().is_some_and(is_old);
    let ahead = Ahead {
        close: !parsed.head.keep_alive() || core.is_draining() || old,
        body_follows: !matches!(parsed.framing, Framing::None | Framing::Length(0)),
        expects_continue: parsed.expects_continue,
        version: parsed.head.version,
    };
    let next = through(inbound, parsed, &ahead, &mut record, core).await;
    drop(transfer);
    match next {
        Ok(next) => next,
        Err(error) => {
            // Through another tunnel, and under another token, the caller may be welcome.
            let over = matches!(error.kind, Kind::TokenRejected | Kind::HostDenied);
            let over = over && inbound.interception.is_some();
            let close = ahead.close || ahead.body_follows || over;
            Box::pin(response::refuse(inbound, error, close, &mut record, core)).await
        }
    }
}

/// What is known of the caller's side from its head, however the stages end.
struct Ahead {
    /// Whether its connection ends with this exchange.
    close: bool,
    /// Whether a body follows the head.
    body_follows: bool,
    /// Whether it waits to be told to send that body.
    expects_continue: bool,
    /// The version it speaks.
    version: Version,
}

/// Everything between the request's head and the response's last byte.
async fn through(
    inbound: &mut Inbound,
    parsed: Box<Parsed>,
    ahead: &Ahead,
    record: &mut Record,
    core: &Core,
) -> Result<Next, Error> {
    if tunnel::leads_here(&parsed, inbound, core) {
        return Box::pin(tunnel::to_here(inbound, record, core)).await;
    }
    let allowed = authorise::check(parsed, core, record).await?;
    if tunnel::is_elsewhere(&allowed) {
        return Box::pin(tunnel::elsewhere(inbound, &allowed, record, core)).await;
    }
    if record.route == Route::Connect {
        return Box::pin(tunnel::to_connector(inbound, allowed, record, core)).await;
    }
    if matches!(record.route, Route::Ping | Route::Token) {
        return Ok(Box::pin(response::own(inbound, ahead, record, core)).await);
    }
    let mut routed = core.with_snapshot(|snapshot| route::find(allowed, snapshot, record))?;
    rewrite::permitted(&routed).map_err(|kind| Error::new(Stage::Rewrite, kind))?;
    let mut ready = prepare(&mut routed, Mount::Keep, None, record, core).await?;
    record.connected_after = Some(record.until_latest());
    let (ready, answered) = if ahead.body_follows {
        // A transfer may outlive its connector: once the head is sent nothing of it is kept, least
        // of all the credential.
        drop(routed);
        let answered = Box::pin(upload(inbound, &mut ready, ahead, record, core)).await?;
        // Too late to ask again: the caller's body is on its way. The next request will know.
        learn(&ready, &answered, core);
        (ready, answered)
    } else {
        let (mut ready, answered) = without_body(ready, &mut routed, record, core).await?;
        let Ready { outlet, outbound, .. } = &mut *ready;
        let back = &mut outbound.return_path;
        let answered = follow::to_the_end(outlet, answered, back, &routed, record, core).await?;
        if back.is_of_storage() {
            ready.shown = Shown::Nothing;
        }
        (ready, answered)
    };
    record.answered(&answered.head);
    response::answer(inbound, ready, answered, ahead, record, core).await
}

/// A request that can be sent at once.
struct Ready {
    outlet: Outlet,
    outbound: Outbound,
    shown: Shown,
}

/// Gets everything together: what to show the registry, the head, a connection; `open` is one that
/// may be used if it still fits. Whatever took time is followed by another look at the snapshot, so
/// that no head goes out with a credential that has been replaced.
async fn prepare(
    routed: &mut Routed,
    mount: Mount,
    mut open: Option<Outlet>,
    record: &mut Record,
    core: &Core,
) -> Result<Box<Ready>, Error> {
    let at = |stage| move |kind| Error::new(stage, kind);
    for _ in 0..CHANGES_MAX {
        let key = Arc::clone(&routed.account);
        let source = match mount {
            Mount::Keep => rewrite::mount_source(routed),
            Mount::Drop => None,
        };
        let now = record.latest();
        let presented = login::present(routed, &key, source.as_deref(), now, core).await;
        let Some(presented) = presented.map_err(unpresented)? else {
            core.with_snapshot(|snapshot| route::renew(routed, snapshot, record))?;
            continue;
        };
        let outbound = rewrite::request(routed, &presented, mount, record.request_id.as_str());
        let outbound = outbound.map_err(at(Stage::Rewrite))?;
        let outlet = match open.take().filter(|open| open.key == key) {
            Some(open) => open,
            None => {
                let opened = connect::open(&routed.connector, key, record.look(), core).await;
                let opened = opened.map_err(at(Stage::Connect))?;
                if !opened.reused {
                    record.look();
                }
                opened
            }
        };
        if !core.with_snapshot(|snapshot| route::renew(routed, snapshot, record))? {
            return Ok(Box::new(Ready { shown: presented.shown(routed), outlet, outbound }));
        }
    }
    Err(Error::new(Stage::Login, Kind::LoginUnsettled))
}

/// A failure to learn what to show. A registry that could not be reached for it is as far away as
/// it would be for the request itself.
fn unpresented(kind: Kind) -> Error {
    let away = matches!(
        kind,
        Kind::RegistryUnresolved
            | Kind::RegistryForbidden
            | Kind::Loop
            | Kind::RegistryUnreachable
            | Kind::RegistryUntrusted
    );
    Error::new(if away { Stage::Connect } else { Stage::Login }, kind)
}

/// Asks, and asks again where that is sound: without the mount that the registry refuses, and once
/// more with what is shown instead of what it no longer takes.
async fn without_body(
    ready: Box<Ready>,
    routed: &mut Routed,
    record: &mut Record,
    core: &Core,
) -> Result<(Box<Ready>, Answered), Error> {
    let mut mount = Mount::Keep;
    let mut asked = ask(ready, routed, mount, record, core).await?;
    if asked.0.outbound.mounts && is_mount_refused(&asked.1) {
        // Whatever is wrong with the mount's source, the caller can still upload the blob, while
        // some clients give the whole push up at such an answer (distribution-spec end-11 lets a
        // registry answer any mount with 202).
        mount = Mount::Drop;
        asked = Box::pin(again(asked, routed, mount, record, core)).await?;
    }
    let better = learn(&asked.0, &asked.1, core);
    if asked.1.head.status == 401 {
        let changed = core.with_snapshot(|snapshot| route::renew(routed, snapshot, record))?;
        if better || changed {
            core.counters.logins_repeated.add(1);
            asked = Box::pin(again(asked, routed, mount, record, core)).await?;
            learn(&asked.0, &asked.1, core);
        }
    }
    Ok(asked)
}

/// Notes what the registry's answer says of what it was shown. Whether the same request could fare
/// better with what would be shown next.
fn learn(ready: &Ready, answered: &Answered, core: &Core) -> bool {
    let account = &ready.outlet.key;
    if answered.head.status == 401 {
        return login::refused(account, &ready.shown, &answered.head, core);
    }
    login::taken(account, &ready.shown, core);
    false
}

/// Prepares the same request anew and asks, on the same connection if that lives on.
async fn again(
    (mut ready, refused): (Box<Ready>, Answered),
    routed: &mut Routed,
    mount: Mount,
    record: &mut Record,
    core: &Core,
) -> Result<(Box<Ready>, Answered), Error> {
    let whole = stream::swallow(&mut ready.outlet, refused.framing, &core.limits).await;
    let lives = whole && refused.head.keep_alive() && ready.outlet.buffer.is_empty();
    let open = lives.then_some(ready.outlet);
    let ready = prepare(routed, mount, open, record, core).await?;
    ask(ready, routed, mount, record, core).await
}

/// Sends a request without a body; once more on a fresh connection if the registry had closed the
/// one it was sent on, and if nothing can have come of the first.
async fn ask(
    mut ready: Box<Ready>,
    routed: &mut Routed,
    mount: Mount,
    record: &mut Record,
    core: &Core,
) -> Result<(Box<Ready>, Answered), Error> {
    let reads = matches!(ready.outbound.method, Method::Get | Method::Head);
    let repeatable = ready.outlet.reused && reads;
    let mut answered = stream::ask(&mut ready.outlet, &mut ready.outbound, &core.limits).await;
    if repeatable && matches!(answered, Err(Unanswered::Closed)) {
        core.counters.resends.add(1);
        let key = Arc::clone(&ready.outlet.key);
        let fresh = Box::pin(connect::dial(&routed.connector, key, core)).await;
        let fresh = fresh.map_err(|kind| Error::new(Stage::Connect, kind))?;
        ready = Box::pin(prepare(routed, mount, Some(fresh), record, core)).await?;
        answered = stream::ask(&mut ready.outlet, &mut ready.outbound, &core.limits).await;
    }
    let answered = answered.map_err(|unanswered| {
        let kind = match unanswered {
            Unanswered::Closed => Kind::RegistryClosed,
            Unanswered::Failed(kind) => kind,
        };
        Error::new(Stage::Stream, kind)
    })?;
    Ok((ready, answered))
}

/// Harbor's ways to say that the source of a mount is not to be had: 401 where it may not be read,
/// 400 where its name has one component (harbor #22078).
fn is_mount_refused(answered: &Answered) -> bool {
    matches!(answered.head.status, 400 | 401 | 403 | 404)
}

async fn upload(
    inbound: &mut Inbound,
    ready: &mut Ready,
    ahead: &Ahead,
    record: &mut Record,
    core: &Core,
) -> Result<Answered, Error> {
    if ahead.expects_continue {
        let mut interim = [IoSlice::new(reply::CONTINUE)];
        let told = inbound.transport.write_all(&mut interim, core.limits.body_progress_wait).await;
        told.map_err(|_| Error::new(Stage::Stream, Kind::CallerGone))?;
    }
    let moved = Cell::new(0);
    let bytes_max = body_bytes_max(record.route, &core.limits);
    let Ready { outlet, outbound, .. } = ready;
    let answered = stream::upload(inbound, outlet, outbound, bytes_max, &moved, core).await;
    record.bytes_up = moved.get();
    answered.map_err(|kind| Error::new(Stage::Stream, kind))
}

/// How long the request's body may be. A manifest that says it is longer was refused with its
/// head; one that does not say is stopped where it turns out to be.
fn body_bytes_max(route: Route, limits: &Limits) -> u64 {
    if route == Route::Manifest { limits.manifest_bytes_max } else { u64::MAX }
}

/// Counts the long transfer that `parsed` begins, if it begins one; the error is where it should
/// rather run.
fn transfer(
    inbound: &mut Inbound,
    parsed: &Parsed,
    core: &Core,
) -> Result<Option<Transfer>, (usize, Transfer)> {
    let moved_here = inbound.transfer.take();
    let long = match parsed.framing {
        Framing::Length(length) => length >= core.limits.long_transfer_bytes,
        Framing::Chunked | Framing::UntilClose => true,
        // How long a blob is only its registry knows.
        Framing::None => (parsed.head.method, parsed.target.route()) == (Method::Get, Route::Blob),
    };
    match moved_here {
        _ if !long => Ok(None),
        Some(transfer) => Ok(Some(transfer)),
        // A TLS session stays on the core that has it.
        None if matches!(inbound.transport, Transport::Tls(_)) => {
            Ok(Some(Transfer::start(&core.counters)))
        }
        None => match balance::elsewhere(&core.all, core.index) {
            Some(elsewhere) => Err(elsewhere),
            None => Ok(Some(Transfer::start(&core.counters))),
        },
    }
}

/// Notes what the head says.
fn note(parsed: &Parsed, record: &mut Record, core: &Core) {
    record.method = parsed.head.method.as_str();
    record.route = parsed.target.route();
    record.connector = parsed.target.connector().cloned();
    record.asked = Some(parsed.target.asked().clone());
    record.uploads(parsed.target.uploaded());
    record.request_id = core.next_request_id();
    record.host = parsed.target.origin().map(|origin| origin.to_host_and_port().into());
    record.proxied = parsed.target.form() == Form::Forward && parsed.interception.is_none();
}

/// How often a connector may change under a request before it is given up.
const CHANGES_MAX: usize = 4;
