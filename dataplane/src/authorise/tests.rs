//! Rows for what counts as a token, and a walk through the memory of verdicts.

use std::net::Ipv4Addr;
use std::time::Duration;

use super::*;
use crate::parse;

fn limits() -> Limits {
    Limits {
        token_bytes_max: 1024,
        verdict_age_max: Duration::from_secs(60),
        denial_age_max: Duration::from_secs(5),
        rejection_age_max: Duration::from_secs(10),
        verdicts_max: 8,
        ..crate::fuzzing::limits()
    }
}

fn check(fields: &str, expected: Result<&str, Kind>) {
    let head = format!("GET /v2/ HTTP/1.1\r\nHost: p\r\n{fields}\r\n");
    let (head, _) = parse::request(head.as_bytes(), &limits()).unwrap().unwrap();
    let found = token(&head.fields, limits().token_bytes_max);
    let found = found.map(|token| String::from_utf8(token.as_bytes().to_vec()).unwrap());
    assert_eq!(found, expected.map(str::to_owned), "{fields}");
}

#[test]
fn a_token_is_a_bearers_or_the_password_of_basic_with_any_user() {
    check("Authorization: Bearer abc.def\r\n", Ok("abc.def"));
    check("authorization: bearer abc.def\r\n", Ok("abc.def"));
    // "pod:abc", ":abc" and "a:b:c".
    check("Authorization: Basic cG9kOmFiYw==\r\n", Ok("abc"));
    check("Authorization: basic OmFiYw==\r\n", Ok("abc"));
    check("Authorization: Basic YTpiOmM=\r\n", Ok("b:c"));
}

#[test]
fn what_is_no_token_is_missing_or_rejected() {
    check("", Err(Kind::TokenMissing));
    check("Authorization: Bearer\r\n", Err(Kind::TokenMissing));
    // "pod:" and "pod".
    check("Authorization: Basic cG9kOg==\r\n", Err(Kind::TokenMissing));
    check("Authorization: Basic cG9k\r\n", Err(Kind::TokenRejected));
    check("Authorization: Basic ???\r\n", Err(Kind::TokenRejected));
    check("Authorization: Harbor-Secret x\r\n", Err(Kind::TokenRejected));
    let long = format!("Authorization: Bearer {}\r\n", "x".repeat(1025));
    check(&long, Err(Kind::TokenRejected));
    let twice = "Authorization: Bearer a\r\nAuthorization: Bearer a\r\n";
    check(twice, Err(Kind::Malformed("more than one Authorization field")));
}

#[test]
fn a_verdict_is_remembered_for_its_own_time_and_under_its_own_rights() {
    let (limits, start) = (limits(), Instant::now());
    let mut memory = Memory::default();
    let put = |memory: &mut Memory, number: u8, verdict| {
        memory.put([number; 32], Answer { verdict, at: start, rights: 7 }, limits.verdicts_max);
    };
    put(&mut memory, 1, Verdict::Allowed(Arc::default()));
    put(&mut memory, 2, Verdict::Denied(Arc::default()));
    let known = |number: u8, rights, seconds| {
        let now = start + Duration::from_secs(seconds);
        memory.get(&[number; 32], rights, now, &limits).is_some()
    };
    assert!(known(1, 7, 59) && !known(1, 7, 60));
    assert!(known(2, 7, 4) && !known(2, 7, 5));
    assert!(!known(1, 8, 0), "other rights, other verdicts");
    assert!(!known(3, 7, 0));
}

#[test]
fn the_memory_of_verdicts_is_bounded_and_keeps_the_newest() {
    let limits = limits();
    let mut memory = Memory::default();
    for number in 0..100 {
        let answer = Answer { verdict: Verdict::Unauthenticated, at: Instant::now(), rights: 0 };
        memory.put([number; 32], answer, limits.verdicts_max);
        assert!(memory.young.len() + memory.old.len() <= limits.verdicts_max);
    }
    assert!(memory.get(&[99; 32], 0, Instant::now(), &limits).is_some());
    assert!(memory.get(&[1; 32], 0, Instant::now(), &limits).is_none());
}

#[test]
fn one_question_is_asked_however_many_want_its_answer() {
    let limits = limits();
    let (postbox, _inbox) = crate::mailbox::mailbox().unwrap();
    let (questions, asked) = crossbeam::channel::bounded(1);
    let verdicts = Verdicts::new(questions, postbox, Arc::default());
    let connector = ConnectorRef::new("ci", "harbor");
    let ask = |text: &str, rights| {
        let token = Token::new(text.as_bytes().to_vec());
        let key = key(&token, Some(&connector));
        let source = Ipv4Addr::LOCALHOST.into();
        verdicts.ask(key, token, Some(&connector), Asker { rights, source }, &limits)
    };
    let mut waiting: Vec<_> = (0..3).map(|_| ask("a", 1).unwrap()).collect();
    assert_eq!(asked.len(), 1);
    // The queue is full: whoever comes with another question is told so at once.
    assert_eq!(ask("b", 1).err(), Some(Kind::Overloaded));
    let first = asked.recv().unwrap();
    assert_eq!(first.token.as_bytes(), b"a");
    // Under new rights the old answer would be the wrong one.
    waiting.push(ask("a", 2).unwrap());
    assert_eq!(asked.len(), 1);
    verdicts.deliver(first.number, &Verdict::Unauthenticated, &limits);
    let verdict = Verdict::Allowed(Arc::default());
    verdicts.deliver(asked.recv().unwrap().number, &verdict, &limits);
    for mut answer in waiting {
        assert!(answer.try_recv().unwrap().is_some(), "everybody is answered");
    }
    let token = Token::new(b"a".to_vec());
    let key = key(&token, Some(&connector));
    let remembered = verdicts.state.borrow().memory.get(&key, 2, Instant::now(), &limits);
    assert_eq!(remembered, Some(verdict));
}
