//! What `crate::counting` cannot reach from outside: a remembered verdict, and an [`Allowed`].
//!
//! Heads in, work done out. Compiled for tests and the feature `counting` only, so the program has
//! no second way to an [`Allowed`].

use std::hint::black_box;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Instant;

use crossbeam::channel::bounded;
use futures_util::FutureExt as _;

use super::{Allowed, Asker, Verdicts, token};
use crate::accept::Parsed;
use crate::counters::Counters;
use crate::fuzzing::limits;
use crate::limits::Limits;
use crate::mailbox::mailbox;
use crate::parse::RequestHead;
use crate::vocabulary::{Caller, ConnectorRef, Verdict};

/// A request that nobody authorised.
pub(crate) fn allowed(parsed: Box<Parsed>) -> Allowed {
    Allowed { parsed, token: None, listed: Vec::new() }
}

/// Takes the token from `head` and finds its verdict in the memory, `times` times.
pub(crate) fn hit(times: u64, head: &RequestHead) -> Option<()> {
    let limits = Limits { verdicts_max: 8, ..limits() };
    let limits = Limits { verdict_age_max: std::time::Duration::from_secs(3600), ..limits };
    let connector = ConnectorRef::new("team", "harbor7");
    let (questions, asked) = bounded(1);
    let (postbox, _inbox) = mailbox().ok()?;
    let verdicts = Verdicts::new(questions, postbox, Arc::new(Counters::default()));

    let token_of = || token(&black_box(head).fields, limits.token_bytes_max).ok();
    let first = token_of()?;
    let key = super::key(&first, Some(&connector));
    let asker = Asker { rights: 1, source: Ipv4Addr::LOCALHOST.into() };
    let _answer = verdicts.ask(key, first, Some(&connector), asker, &limits).ok()?;
    let caller = Arc::new(Caller { user: "system:serviceaccount:team:ci".into(), pod: None });
    verdicts.deliver(asked.try_recv().ok()?.number, &Verdict::Allowed(caller), &limits);

    for _ in 0..times {
        let found = verdicts.of(token_of()?, Some(&connector), asker, Instant::now(), &limits);
        let verdict = found.now_or_never()?;
        black_box(verdict.ok()?);
    }
    Some(())
}
