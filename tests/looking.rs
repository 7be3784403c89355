//! What a person on duty sees: one line per exchange, health, numbers; and never a secret.

use std::collections::BTreeMap;

use crate::support::caller::{request, upload};
use crate::support::{
    FakeRegistry, HOST, Manifests, PREFIX, Proxy, STRANGER_TOKEN, answer, digest_of, eventually,
};

/// The fields of each access line so far. Lines are JSON or `key=value` text.
fn access_lines(proxy: &Proxy) -> Vec<BTreeMap<String, String>> {
    proxy.log().lines().filter(|line| line.contains("access")).map(fields_of).collect()
}

fn fields_of(line: &str) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    if let Ok(serde_json::Value::Object(object)) = serde_json::from_str(line) {
        let inner = object.get("fields").and_then(|fields| fields.as_object());
        for (key, value) in inner.unwrap_or(&object) {
            let text = value.as_str().map_or_else(|| value.to_string(), str::to_owned);
            fields.insert(key.clone(), text);
        }
        return fields;
    }
    for word in line.split_whitespace() {
        if let Some((key, value)) = word.split_once('=') {
            fields.insert(key.to_owned(), value.trim_matches('"').to_owned());
        }
    }
    fields
}

/// The one access line that appears after the story's exchange.
#[track_caller]
fn only_line(proxy: &Proxy) -> BTreeMap<String, String> {
    let mut lines = eventually("an access line", || {
        let lines = access_lines(proxy);
        (!lines.is_empty()).then_some(lines)
    });
    assert_eq!(lines.len(), 1, "{lines:?}");
    lines.remove(0)
}

#[track_caller]
fn assert_fields(line: &BTreeMap<String, String>, expected: &[(&str, &str)]) {
    for (key, value) in expected {
        assert_eq!(line.get(*key).map(String::as_str), Some(*value), "{key} in {line:?}");
    }
}

#[test]
fn a_pull_leaves_one_line_that_says_who_what_and_how_it_ended() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));
    let line = only_line(&proxy);
    assert_fields(
        &line,
        &[
            ("connector", "ci/harbor"),
            ("caller", "system:serviceaccount:ci:builder"),
            ("method", "GET"),
            ("route", "manifest"),
            ("repository", "team/app"),
            ("reference", "v1"),
            ("status", "200"),
            ("bytes_up", "0"),
            ("bytes_down", "8"),
            ("end", "nobody/done"),
        ],
    );
}

#[test]
fn a_push_counts_its_bytes_up() {
    let registry = FakeRegistry::answering(|_| answer(201, "", b""));
    let proxy = Proxy::in_front_of(&registry);
    let digest = digest_of(b"hello");
    proxy.ask(&upload("PUT", &format!("{PREFIX}/team/app/manifests/{digest}"), "hello"));
    let line = only_line(&proxy);
    assert_fields(
        &line,
        &[
            ("method", "PUT"),
            ("reference", &digest),
            ("status", "201"),
            ("bytes_up", "5"),
            ("bytes_down", "0"),
        ],
    );
}

#[test]
fn a_refusal_says_who_must_act_and_in_which_stage_it_ended() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let target = format!("{PREFIX}/team/app/manifests/v1");
    proxy.get_as(STRANGER_TOKEN, &target);
    assert_fields(
        &only_line(&proxy),
        &[
            ("end", "caller/authorise"),
            ("status", "403"),
            ("caller", "system:serviceaccount:ops:stranger"),
        ],
    );

    proxy.get(&format!("{PREFIX}/team/APP/manifests/v1"));
    let line = eventually("a second line", || access_lines(&proxy).get(1).cloned());
    assert_fields(&line, &[("end", "caller/parse"), ("status", "400")]);
}

#[test]
fn a_registry_that_is_away_is_named_as_the_one_to_act() {
    let registry = FakeRegistry::obliging();
    let manifests = Manifests::for_registry("http://127.0.0.1:1");
    let proxy = Proxy::start(&manifests, &[]);
    assert_eq!(proxy.get(&format!("{PREFIX}/team/app/manifests/v1")).status, 503);
    assert_fields(&only_line(&proxy), &[("end", "registry/connect"), ("status", "503")]);
    assert!(registry.is_untouched());
}

#[test]
fn a_query_is_never_logged() {
    let registry = FakeRegistry::answering(|_| {
        answer(202, "Location: /v2/team/app/blobs/uploads/1?_state=signed-answer\r\n", b"")
    });
    let proxy = Proxy::in_front_of(&registry);
    let target = format!("{PREFIX}/team/app/blobs/uploads/1?_state=signed-request");
    proxy.ask(&upload("PATCH", &target, "hello"));
    proxy.get_at(HOST, "/v2/team/app/tags/list?last=signed-query");
    proxy.get(&format!("{PREFIX}/team/app/blobs/nonsense?X-Amz-Signature=signed-refused"));
    eventually("three lines", || (access_lines(&proxy).len() == 3).then_some(()));
    for word in ["signed-request", "signed-answer", "signed-query", "signed-refused"] {
        assert!(!proxy.log().contains(word), "{word}");
    }
}

#[test]
fn input_cannot_write_lines_of_its_own_into_the_log() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let target = format!("{PREFIX}/team/app/manifests/v1");
    let agent = "User-Agent: x\u{1b}[31m\\nend=nobody/done\r\n";
    let mut caller = proxy.caller();
    caller.send(request("GET", &target, agent));
    let _ = caller.answer();
    proxy.get("/v2/%0aend=x/%1b[31m");
    eventually("two lines", || (access_lines(&proxy).len() == 2).then_some(()));
    assert!(!proxy.log().contains('\u{1b}'), "no terminal codes");
}

#[test]
fn health_and_readiness_are_told_apart() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    assert_eq!(proxy.admin("/healthz").status, 200);
    assert_eq!(proxy.admin("/readyz").status, 200);
    assert_eq!(proxy.admin("/nothing").status, 404);
    let answer = proxy.get("/metrics");
    assert_ne!(answer.status, 200, "the callers' address has no metrics: {answer}");
}

#[test]
fn the_numbers_are_prometheus_text_with_closed_labels() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &["--cores", "2"]);
    for number in 0..30 {
        let target = format!("{PREFIX}/team/app{number}/manifests/v{number}");
        assert_eq!(proxy.get(&target).status, 200);
    }
    let reply = eventually("thirty exchanges", || {
        let reply = proxy.admin("/metrics");
        let wanted = "route=\"manifest\"";
        let counted: f64 = reply
            .text()
            .lines()
            .filter(|line| line.starts_with("harbor_connector_exchanges") && line.contains(wanted))
            .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
            .sum();
        (counted >= 30.0).then_some(reply)
    });
    let kind = reply.field("content-type").unwrap_or_default();
    assert!(kind.starts_with("text/plain") || kind.starts_with("application/openmetrics-text"));
    let text = reply.text();
    assert!(!text.contains("app7"), "a repository is no label");
    for line in text.lines().filter(|line| !line.starts_with('#')) {
        assert!(line.starts_with("harbor_connector_"), "{line}");
        let value = line.rsplit(' ').next().unwrap_or_default();
        assert!(value.parse::<f64>().is_ok(), "{line}");
    }
    assert!(text.lines().count() < 600, "{} lines", text.lines().count());
}

#[test]
fn exchanges_in_flight_return_to_zero() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &["--cores", "2"]);
    for _ in 0..10 {
        proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));
        proxy.get("/v2/nothing");
    }
    eventually("nothing in flight", || (in_flight(&proxy) == 0.0).then_some(()));
}

/// Exchanges under way, over all cores.
pub(crate) fn in_flight(proxy: &Proxy) -> f64 {
    let text = proxy.admin("/metrics").text();
    text.lines()
        .filter(|line| line.starts_with("harbor_connector_") && line.contains("in_flight"))
        .filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok())
        .sum()
}
