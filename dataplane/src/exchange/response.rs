//! The second half of an exchange: the registry's answer, or ours, to the caller.
//!
//! An [`Answered`] request in, [`Next`] out. Until the response has begun every failure is still an
//! `Error` that becomes a refusal; from then on it is noted in the record, and the connection is
//! cut.

use std::cell::Cell;
use std::time::SystemTime;

use super::{Ahead, Next, Ready, held};
use crate::accept::Inbound;
use crate::account::Record;
use crate::body::Framing;
use crate::connect::{self, Outlet};
use crate::counters::Route;
use crate::error::{Error, Kind, Stage};
use crate::parse::Version;
use crate::reply;
use crate::rewrite::{self, Reply};
use crate::stream::{self, Answered, Broken};
use crate::wiped::Wiped;
use crate::worker::Core;

/// Brings the registry's answer to the caller.
pub(super) async fn answer(
    inbound: &mut Inbound,
    mut ready: Box<Ready>,
    answered: Answered,
    ahead: &Ahead,
    record: &mut Record,
    core: &Core,
) -> Result<Next, Error> {
    let Answered { head, framing, early } = answered;
    let Ready { outlet, outbound, shown } = &mut *ready;
    let back = &outbound.return_path;
    let close = ahead.close || early || framing == Framing::UntilClose || core.is_draining();
    let next = if early { Next::Linger } else { after(close) };
    let reusable = head.keep_alive() && !early && framing != Framing::UntilClose;
    let reply = if record.bytes_up > 0 && invites_repetition(head.status) {
        Reply::Replace(Kind::UploadInterrupted)
    } else {
        rewrite::response(&head, framing, back, !close, ahead.version)
            .map_err(|kind| Error::new(Stage::Rewrite, kind))?
    };
    match reply {
        Reply::Relay(answer) => {
            record.status = answer.status;
            let end = relay(inbound, outlet, answer.head, framing, ahead, record, core).await;
            record.end = Some(end);
            if end.is_err() {
                return Ok(Next::Cut);
            }
        }
        Reply::Replace(kind) => {
            let error = Error::new(Stage::Stream, kind);
            let next = Box::pin(refuse(inbound, error, close, record, core)).await;
            let whole = Box::pin(stream::swallow(outlet, framing, &core.limits)).await;
            if whole && reusable {
                connect::keep(ready.outlet, core);
            }
            return Ok(next);
        }
        Reply::Hold(held) => {
            let (head, version) = (&head, ahead.version);
            let answer = held::Answer { head, framing, back, held, shown, close, version };
            if !Box::pin(held::look_through(inbound, outlet, answer, record, core)).await? {
                return Ok(next);
            }
        }
        Reply::ReplaceBody { status, retry_after } => {
            let bytes = reply::unreadable(status, retry_after.as_deref(), record, close);
            record.status = status;
            record.end = Some(Box::pin(say(inbound, bytes, core)).await);
            if !Box::pin(stream::swallow(outlet, framing, &core.limits)).await {
                return Ok(next);
            }
        }
    }
    if reusable {
        connect::keep(ready.outlet, core);
    }
    Ok(next)
}

/// Whether clients repeat an upload at the same address after this status (containerd does). Once
/// the registry has some of the body it refuses the repetition and cancels the upload, so such an
/// answer becomes 502, after which they start anew.
fn invites_repetition(status: u16) -> bool {
    matches!(status, 500 | 503 | 504)
}

/// Relays the registry's answer. A body that breaks off on the registry's side is cut off on the
/// caller's; where only the close would end it, the close is a reset.
async fn relay(
    inbound: &mut Inbound,
    outlet: &mut Outlet,
    head: Vec<u8>,
    framing: Framing,
    ahead: &Ahead,
    record: &mut Record,
    core: &Core,
) -> Result<(), Error> {
    let chunked_out = framing == Framing::Chunked && ahead.version == Version::Http11;
    let moved = Cell::new(0);
    let relayed = stream::relay(inbound, outlet, head, framing, chunked_out, &moved, core).await;
    record.bytes_down = moved.get();
    relayed.map_err(|broken| {
        let kind = match broken {
            Broken::SinkGone => Kind::CallerGone,
            _ => Kind::RegistryTruncated,
        };
        let ends_with_close = !chunked_out && !matches!(framing, Framing::Length(_));
        if kind == Kind::RegistryTruncated && ends_with_close {
            inbound.transport.socket().reset_on_close();
        }
        Error::new(Stage::Stream, kind)
    })
}

/// Answers what never reaches a registry: the bare `/v2/`, for the caller's token is good, and the
/// token service, whose token would open the registry without us.
pub(super) async fn own(
    inbound: &mut Inbound,
    ahead: &Ahead,
    record: &mut Record,
    core: &Core,
) -> Next {
    let close = ahead.close || core.is_draining();
    let head_only = record.method == "HEAD";
    let bytes = match record.route {
        Route::Token => reply::token(SystemTime::now(), head_only, close),
        _ => reply::ping(head_only, close),
    };
    record.status = 200;
    record.end = Some(say(inbound, bytes, core).await);
    after(close)
}

/// Tells the caller what went wrong.
pub(super) async fn refuse(
    inbound: &mut Inbound,
    error: Error,
    close: bool,
    record: &mut Record,
    core: &Core,
) -> Next {
    let bytes = reply::refusal(error.kind, record, close);
    if say(inbound, bytes, core).await.is_ok() {
        record.status = reply::status(error.kind, record);
    }
    record.end = Some(Err(error));
    if close { Next::Linger } else { Next::Another }
}

/// Sends the caller `bytes`, an answer that is whole.
pub(super) async fn say(inbound: &mut Inbound, bytes: Vec<u8>, core: &Core) -> Result<(), Error> {
    let wait = core.limits.body_progress_wait;
    let said = inbound.transport.send(Wiped::new(bytes), wait).await;
    said.map_err(|_| Error::new(Stage::Stream, Kind::CallerGone))
}

fn after(close: bool) -> Next {
    if close { Next::Close } else { Next::Another }
}
