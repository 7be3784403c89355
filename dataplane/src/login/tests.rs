//! Which scopes are asked for, and what a core remembers of standings and tokens.

use std::sync::Arc;

use crossbeam::channel::{Receiver, bounded};

use super::*;
use crate::body;
use crate::fuzzing::{connector, limits};
use crate::mailbox::mailbox;
use crate::parse;
use crate::snapshot::Served;
use crate::target;
use crate::vocabulary::ConnectorRef;

const P: &str = "/v2/namespaces/ci/connectors/h/team/app";

fn routed(line: &str) -> Routed {
    let head = format!("{line} HTTP/1.1\r\nHost: proxy\r\n\r\n");
    let (head, _) = parse::request(head.as_bytes(), &limits()).unwrap().unwrap();
    let target = target::of(&head, "cluster.local", &limits()).unwrap();
    let framing = body::of_request(&head).unwrap();
    let served = Served::of(connector(ConnectorRef::new("ci", "h")));
    Routed::new(head, target, framing, served, 1)
}

#[test]
fn scopes_name_the_registrys_own_repository_and_what_the_method_needs() {
    let digest = format!("sha256:{}", "a".repeat(64));
    for (line, source, expected) in [
        (format!("GET {P}/manifests/v1"), None, "repository:team/app:pull"),
        (format!("HEAD {P}/blobs/{digest}"), None, "repository:team/app:pull"),
        (format!("GET {P}/tags/list"), None, "repository:team/app:pull"),
        (format!("POST {P}/blobs/uploads/"), None, "repository:team/app:pull,push"),
        (format!("PATCH {P}/blobs/uploads/u"), None, "repository:team/app:pull,push"),
        (format!("PUT {P}/manifests/v1"), None, "repository:team/app:pull,push"),
        (format!("DELETE {P}/manifests/v1"), None, "repository:team/app:delete"),
        (format!("DELETE {P}/blobs/uploads/u"), None, "repository:team/app:pull,push,delete"),
        (
            format!("POST {P}/blobs/uploads/?mount={digest}&from=x"),
            Some("team/base"),
            "repository:team/app:pull,push repository:team/base:pull",
        ),
    ] {
        assert_eq!(&*scopes(&routed(&line), source), expected, "{line}");
    }
}

fn logins() -> (Logins, Receiver<LoginQuestion>, Arc<Key>) {
    let (postbox, _inbox) = mailbox().unwrap();
    let (questions, asked) = bounded(2);
    let logins = Logins::new(questions, postbox, Arc::default());
    (logins, asked, Arc::new(Key::of(&connector(ConnectorRef::new("ci", "h")))))
}

fn wide() -> Limits {
    Limits { login_wait: Duration::from_secs(60), ..limits() }
}

/// What is known of the standing; nothing where a request would have to wait.
fn known(logins: &Logins, account: &Arc<Key>) -> Option<Standing> {
    match logins.look(account, Instant::now(), &wide()).unwrap() {
        Look::Known(standing) => Some(standing),
        Look::Wait(_) => None,
    }
}

#[test]
fn a_standing_is_asked_for_once_and_remembered_until_told_otherwise() {
    let (logins, asked, account) = logins();
    let Look::Wait(mut first) = logins.look(&account, Instant::now(), &wide()).unwrap() else {
        panic!("nothing is known yet");
    };
    assert_eq!(known(&logins, &account), None);
    assert_eq!(asked.len(), 1, "one question for all");
    let minute = Duration::from_secs(60);
    logins.told(Arc::clone(&account), Standing::Basic, minute);
    assert_eq!(first.try_recv(), Ok(Some(Standing::Basic)));
    assert_eq!(known(&logins, &account), Some(Standing::Basic));
    logins.told(Arc::clone(&account), Standing::Suspect, Duration::ZERO);
    assert_eq!(known(&logins, &account), None, "requests wait until the suspicion has ended");
    assert_eq!(asked.len(), 1, "and nobody asks for what will be told anyway");
    logins.told(Arc::clone(&account), Standing::Refused, minute);
    assert_eq!(known(&logins, &account), Some(Standing::Refused));
    let away = Standing::Unavailable(Kind::RegistryUnreachable);
    logins.told(Arc::clone(&account), away, Duration::ZERO);
    assert_eq!(known(&logins, &account), None, "what may not be remembered is asked for anew");
    assert_eq!(asked.len(), 2);
}

#[test]
fn whoever_waits_for_an_account_that_is_retired_is_let_go() {
    let (logins, _asked, account) = logins();
    let Look::Wait(mut told) = logins.look(&account, Instant::now(), &wide()).unwrap() else {
        panic!("nothing is known yet");
    };
    logins.expire(|_| false, &wide());
    assert!(told.try_recv().is_err());
}

fn token(serial: u64) -> Granted {
    let authorization = Secret::new(b"Bearer x".to_vec());
    let scopes = "repository:a:pull".into();
    Ok((Arc::new(RegistryToken { authorization, scopes, serial }), Duration::from_secs(60)))
}

#[test]
fn a_token_that_was_taken_once_and_then_refused_is_replaced_and_a_weak_one_is_not() {
    let (mut tokens, limits, start) = (Tokens::default(), wide(), Instant::now());
    let (_, _, account) = logins();
    let name = (account, Box::from("repository:a:pull"));
    assert!(matches!(tokens.want(&name, start, &limits), Wanted::Ask(_, None)));
    let Wanted::Asked(mut second) = tokens.want(&name, start, &limits) else {
        panic!("one question for all");
    };
    tokens.given(name.clone(), token(1), start, &limits);
    assert!(second.try_recv().unwrap().is_some(), "everybody is answered");
    assert!(matches!(tokens.want(&name, start, &limits), Wanted::Held(_)));

    assert!(!tokens.spend(&name, 1, start), "fresh and never taken: there is no right");
    assert!(matches!(tokens.want(&name, start, &limits), Wanted::Held(_)));
    tokens.prove(&name, 1);
    assert!(tokens.spend(&name, 1, start), "it was taken before: it has been revoked");
    assert!(matches!(tokens.want(&name, start, &limits), Wanted::Ask(_, Some(1))));
    tokens.given(name.clone(), token(2), start, &limits);
    assert!(!tokens.spend(&name, 2, start));
    assert!(tokens.spend(&name, 2, start + UNPROVEN), "in time it is worth another try");
    assert!(tokens.spend(&name, 1, start), "somebody else has replaced it already");
}

const UNPROVEN: Duration = Duration::from_secs(5);

#[test]
fn tokens_are_bounded_and_end_with_their_account() {
    let limits = Limits { registry_tokens_max: 10, ..wide() };
    let (mut tokens, now) = (Tokens::default(), Instant::now());
    let (_, _, account) = logins();
    for number in 0..100 {
        let name = (Arc::clone(&account), format!("repository:a{number}:pull").into());
        tokens.given(name, token(number), now, &limits);
        assert!(tokens.len() <= 10);
    }
    tokens.expire(|_| false, now, &limits);
    assert_eq!(tokens.len(), 0);
}
