//! Answers that are looked through before a byte of them goes on: errors, which may show what the
//! registry was asked with, and Harbor's accounts, which hold secrets.
//!
//! The registry's head in, and its body read into memory within a bound; out comes what the caller
//! gets. What is too long to be looked through, or breaks off, is replaced by an answer of ours.

use super::response;
use crate::accept::Inbound;
use crate::account::Record;
use crate::body::Framing;
use crate::connect::Outlet;
use crate::error::{Error, Kind, Stage};
use crate::login::{self, Shown};
use crate::parse::{ResponseHead, Version};
use crate::reply;
use crate::rewrite::{self, Held, ReturnPath};
use crate::stream;
use crate::worker::Core;

/// What is known of an answer that is held.
pub(super) struct Answer<'a> {
    pub(super) head: &'a ResponseHead,
    pub(super) framing: Framing,
    pub(super) back: &'a ReturnPath,
    /// Why it is held.
    pub(super) held: Held,
    /// What the registry was shown.
    pub(super) shown: &'a Shown,
    /// Whether the caller's connection ends with it.
    pub(super) close: bool,
    /// The version that the caller speaks.
    pub(super) version: Version,
}

/// Looks `answer` through and brings the caller what may pass. `true`: its body was read to its
/// end, and `outlet` may be used again.
///
/// Fails with [`Kind::RegistryMalformed`] where accounts cannot be read.
pub(super) async fn look_through(
    inbound: &mut Inbound,
    outlet: &mut Outlet,
    answer: Answer<'_>,
    record: &mut Record,
    core: &Core,
) -> Result<bool, Error> {
    let unreadable = |why| Error::new(Stage::Rewrite, Kind::RegistryMalformed(why));
    let bytes_max = match answer.held {
        Held::Error => core.limits.error_body_bytes_max,
        Held::Accounts => core.limits.accounts_bytes_max,
    };
    let body = stream::gather(outlet, answer.framing, bytes_max, &core.limits).await;
    let whole = body.is_some();
    let passing = match (answer.held, body) {
        (Held::Error, Some(body)) => {
            let presented = login::recalled(&outlet.key, answer.shown, core);
            // Where the credential has changed meanwhile, nobody can tell what the old one was.
            let may_show =
                presented.is_none_or(|shown| rewrite::reveals(answer.head, &body, &shown));
            if may_show {
                tracing::warn!(
                    connector = record.connector.as_ref().map(tracing::field::display),
                    "an error of the registry is not passed on: it may show the credential"
                );
                None
            } else {
                Some(body)
            }
        }
        (Held::Error, None) => None,
        (Held::Accounts, Some(mut body)) => {
            rewrite::mask_accounts(answer.head, &mut body).map_err(unreadable)?;
            Some(body)
        }
        (Held::Accounts, None) => {
            return Err(unreadable("the registry's accounts are too long to be looked through"));
        }
    };
    let status = answer.head.status;
    let bytes = match passing {
        Some(body) => {
            let Answer { head, back, close, version, .. } = answer;
            record.bytes_down = u64::try_from(body.len()).unwrap_or(u64::MAX);
            let mut bytes = rewrite::looked_through(head, body.len(), back, !close, version)
                .map_err(|kind| Error::new(Stage::Rewrite, kind))?;
            bytes.extend_from_slice(&body);
            bytes
        }
        None => {
            let retry_after = rewrite::retry_after(answer.head);
            reply::unreadable(status, retry_after.as_deref(), record, answer.close)
        }
    };
    record.status = status;
    record.end = Some(response::say(inbound, bytes, core).await);
    Ok(whole)
}
