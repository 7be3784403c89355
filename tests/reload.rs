//! A change in the folder is live within two seconds, and a broken one changes nothing.

use std::time::{Duration, Instant};

use crate::support::caller::request;
use crate::support::fake_registry::robots_authorization;
use crate::support::manifests::{NEXT_PASSWORD, connector, encoded_secret, right, secret};
use crate::support::{
    FakeRegistry, Gate, PASSWORD, PREFIX, Proxy, answer, digest_of, eventually, within,
};

const TARGET: &str = "/v2/namespaces/ci/connectors/harbor/team/app/manifests/v1";

/// What the issue promises, and no more of the machine's slowness than it needs.
const LIVE: Duration = Duration::from_secs(2);

#[test]
fn a_new_connector_is_live_within_two_seconds_and_a_removed_one_is_gone() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let target = "/v2/namespaces/ci/connectors/second/team/app/manifests/v1";
    assert_eq!(proxy.get(target).status, 403);

    let text = format!(
        "{}---\n{}",
        connector("ci", "second", &registry.url(), ""),
        secret("ci", "second", PASSWORD)
    );
    proxy.write("second.yaml", &text);
    within(LIVE, "the new connector", || (proxy.get(target).status == 200).then_some(()));

    proxy.remove("second.yaml");
    within(LIVE, "its end", || (proxy.get(target).status == 403).then_some(()));
    assert_eq!(proxy.get(TARGET).status, 200, "and the other one never noticed");
}

#[test]
fn a_right_that_is_taken_away_ends_within_two_seconds_even_on_an_open_connection() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let mut caller = proxy.caller();
    assert_eq!(caller.ask(&request("GET", TARGET, "")).status, 200);

    proxy.remove("rights.yaml");
    within(LIVE, "the denial", || {
        (caller.ask(&request("GET", TARGET, "")).status == 403).then_some(())
    });
    proxy.write("rights.yaml", &right("ci"));
    within(LIVE, "the right", || {
        (caller.ask(&request("GET", TARGET, "")).status == 200).then_some(())
    });
}

#[test]
fn a_token_that_is_taken_away_is_no_longer_good() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    assert_eq!(proxy.get(TARGET).status, 200);
    proxy.remove("callers.yaml");
    within(LIVE, "the refusal", || (proxy.get(TARGET).status == 401).then_some(()));
}

#[test]
fn a_new_password_is_used_within_two_seconds_and_no_old_connection_with_it() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    assert_eq!(proxy.get(TARGET).status, 200);

    proxy.write("secret.yaml", &encoded_secret("ci", "harbor", NEXT_PASSWORD));
    let next = robots_authorization(NEXT_PASSWORD);
    let first = within(LIVE, "the new password", || {
        assert_eq!(proxy.get(TARGET).status, 200);
        let requests = registry.requests();
        requests.into_iter().find(|seen| seen.field("authorization") == Some(next.as_str()))
    });
    let before = registry.requests().into_iter().filter(|seen| seen.is_the_robots());
    for old in before {
        assert_ne!(old.connection, first.connection, "one login per connection");
    }
}

#[test]
fn a_connector_that_moves_takes_new_requests_along_and_lets_running_ones_finish() {
    let gate = Gate::default();
    let waiting = gate.clone();
    let body = crate::support::noise(1, 3_000_000);
    let expected = body.clone();
    let old = FakeRegistry::scripted(move |visit| {
        while visit.head().is_some() {
            let bytes = answer(200, "", &body);
            visit.send(&bytes[..1_000_000]);
            waiting.wait();
            visit.send(&bytes[1_000_000..]);
        }
    });
    let new = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&old);
    let mut running = proxy.caller();
    running.send(request("GET", &format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x")), ""));
    let head = running.head().expect("a head");

    proxy.write("connector.yaml", &connector("ci", "harbor", &new.url(), ""));
    within(LIVE, "the new address", || {
        let reply = (!new.is_untouched()).then_some(());
        if reply.is_none() && old.requests().len() < 50 {
            let mut caller = proxy.caller();
            caller.patience(Duration::from_millis(100));
            caller.send(request("GET", TARGET, ""));
            let _ = caller.answer();
        }
        reply
    });
    gate.open();
    let body = running.body("GET", &head).expect("the whole body");
    assert!(body == expected);
}

#[test]
fn a_secret_that_is_removed_makes_the_connector_unready_and_says_why() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    proxy.remove("secret.yaml");
    let reply = within(LIVE, "the refusal", || {
        let reply = proxy.get(TARGET);
        (reply.status != 200).then_some(reply)
    });
    assert_eq!((reply.status, reply.code().as_str()), (503, "UNAVAILABLE"), "{reply}");
    assert!(reply.has("retry-after"), "{reply}");
    assert!(reply.text().contains("SecretNotFound"), "{reply}");
    proxy.write("secret.yaml", &secret("ci", "harbor", PASSWORD));
    within(LIVE, "its return", || (proxy.get(TARGET).status == 200).then_some(()));
}

#[test]
fn a_broken_edit_keeps_the_last_good_state_and_names_the_file_and_the_document() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let good = connector("ci", "harbor", &registry.url(), "");
    proxy.write("connector.yaml", &format!("{}---\nkind: [\n", secret("ci", "other", PASSWORD)));

    let line = proxy.logged(&["connector.yaml", "document"]);
    assert!(line.contains('2'), "the second document is the broken one: {line}");
    assert_eq!(proxy.get(TARGET).status, 200, "the last good state serves");

    proxy.write("connector.yaml", &good);
    let other = "/v2/namespaces/ci/connectors/third/team/app/manifests/v1";
    let third = format!("{good}---\n{}", connector("ci", "third", &registry.url(), ""));
    proxy.write(
        "connector.yaml",
        &third.replace("secretRef: {name: third}", "secretRef: {name: harbor}"),
    );
    eventually("an edit after the broken one", || (proxy.get(other).status == 200).then_some(()));
}

#[test]
fn a_change_touches_no_request_in_flight() {
    let gate = Gate::default();
    let waiting = gate.clone();
    let registry = FakeRegistry::scripted(move |visit| {
        while let Some(mut request) = visit.head() {
            if request.method == "PUT" {
                visit.take(&mut request, 1_000_000);
                waiting.wait();
                visit.take(&mut request, 1_000_000);
                visit.send(answer(201, "", b""));
            } else {
                visit.send(answer(200, "", b""));
            }
        }
    });
    let proxy = Proxy::in_front_of(&registry);
    let mut running = proxy.caller();
    let digest = digest_of(b"x");
    let target = format!("{PREFIX}/team/app/blobs/uploads/1?digest={digest}");
    running.send(request("PUT", &target, "Content-Length: 2000000\r\n"));
    running.send(vec![7; 1_000_000]);

    proxy.remove("rights.yaml");
    proxy.remove("connector.yaml");
    within(LIVE, "the removal", || (proxy.get(TARGET).status == 403).then_some(()));

    gate.open();
    running.send(vec![7; 1_000_000]);
    assert_eq!(running.answer().expect("an answer").status, 201);
}

#[test]
fn many_edits_in_a_row_end_in_the_last_one() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    for number in 0..50 {
        let name = format!("c{number}");
        let text = connector("ci", &name, &registry.url(), "")
            .replace(&format!("secretRef: {{name: {name}}}"), "secretRef: {name: harbor}");
        proxy.write("moving.yaml", &text);
    }
    let written = Instant::now();
    let target =
        |number: usize| format!("/v2/namespaces/ci/connectors/c{number}/team/app/manifests/v1");
    within(LIVE, "the last edit", || (proxy.get(&target(49)).status == 200).then_some(()));
    assert_eq!(proxy.get(&target(48)).status, 403, "after {:?}", written.elapsed());
}
