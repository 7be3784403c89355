//! SIGTERM: nobody new, nobody cut off, exit code 0.

use std::time::{Duration, Instant};

use crate::support::caller::request;
use crate::support::{
    Broken, FakeRegistry, Gate, Manifests, PATIENCE, PREFIX, Proxy, answer, digest_of, eventually,
    noise,
};

const TARGET: &str = "/v2/namespaces/ci/connectors/harbor/team/app/manifests/v1";

/// A registry whose blobs stop in the middle until the gate opens.
fn gated(gate: &Gate) -> (FakeRegistry, Vec<u8>) {
    let waiting = gate.clone();
    let body = noise(3, 4_000_000);
    let sent = body.clone();
    let registry = FakeRegistry::scripted(move |visit| {
        while let Some(request) = visit.head() {
            if request.target.contains("/blobs/") {
                let bytes = answer(200, "", &sent);
                visit.send(&bytes[..2_000_000]);
                waiting.wait();
                visit.send(&bytes[2_000_000..]);
            } else {
                visit.send(answer(200, "", b"{}"));
            }
        }
    });
    (registry, body)
}

fn start(registry: &FakeRegistry, flags: &[&str]) -> Proxy {
    Proxy::start(&Manifests::for_registry(&registry.url()), flags)
}

#[test]
fn a_transfer_that_runs_is_finished_and_the_exit_code_is_zero() {
    let gate = Gate::default();
    let (registry, body) = gated(&gate);
    let mut proxy = start(&registry, &["--drain-seconds", "30", "--drain-grace-seconds", "0.5"]);
    let blob = format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x"));
    let mut running = proxy.caller();
    running.send(request("GET", &blob, ""));
    let head = running.head().expect("a head");
    let mut idle = proxy.caller();
    assert_eq!(idle.ask(&request("GET", TARGET, "")).status, 200);

    proxy.terminate();

    eventually("not ready", || (proxy.admin("/readyz").status == 503).then_some(()));
    assert_eq!(proxy.admin("/healthz").status, 200, "it is alive, it only takes nobody new");
    // An idle connection is either closed, or one of its next answers says that it is the last:
    // the cores hear of the end a moment later than whoever asks whether the proxy is ready.
    eventually("the end of an idle connection", || {
        idle.send_if_taken(request("GET", TARGET, ""));
        match idle.answer() {
            Ok(reply) => {
                assert_eq!(reply.status, 200, "{reply}");
                reply
                    .has("connection")
                    .then(|| assert_eq!(reply.field("connection"), Some("close")))
            }
            Err(broken) => {
                assert!(matches!(broken, Broken::Ended | Broken::Reset), "{broken:?}");
                Some(())
            }
        }
    });

    gate.open();
    let received = running.body("GET", &head).expect("the whole body");
    assert!(received == body);
    assert_eq!(proxy.exit(PATIENCE).code(), Some(0));
}

#[test]
fn an_answer_during_the_grace_says_that_the_connection_ends() {
    let registry = FakeRegistry::obliging();
    let mut proxy = start(&registry, &["--drain-seconds", "10", "--drain-grace-seconds", "3"]);
    let mut kept = proxy.caller();
    assert_eq!(kept.ask(&request("GET", TARGET, "")).field("connection"), None);
    proxy.terminate();
    eventually("not ready", || (proxy.admin("/readyz").status == 503).then_some(()));
    // Who has not yet heard that we go is still served: nobody sees a refused connection.
    eventually("an answer that says so", || {
        let reply = proxy.get(TARGET);
        assert_eq!(reply.status, 200, "{reply}");
        (reply.field("connection") == Some("close")).then_some(())
    });
    assert_eq!(proxy.exit(PATIENCE).code(), Some(0));
}

#[test]
fn an_idle_proxy_stops_at_once() {
    let registry = FakeRegistry::obliging();
    let mut proxy = start(&registry, &["--drain-seconds", "60", "--drain-grace-seconds", "0"]);
    let _idle = proxy.caller();
    let mut used = proxy.caller();
    assert_eq!(used.ask(&request("GET", TARGET, "")).status, 200);
    let asked = Instant::now();
    proxy.terminate();
    assert_eq!(proxy.exit(Duration::from_secs(10)).code(), Some(0));
    assert!(asked.elapsed() < Duration::from_secs(8), "{:?}", asked.elapsed());
}

#[test]
fn what_does_not_finish_in_time_is_cut_off_and_not_ended_cleanly() {
    let gate = Gate::default();
    let (registry, _) = gated(&gate);
    let mut proxy = start(&registry, &["--drain-seconds", "1", "--drain-grace-seconds", "0"]);
    let blob = format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x"));
    let mut running = proxy.caller();
    running.send(request("GET", &blob, ""));
    let head = running.head().expect("a head");
    proxy.terminate();
    proxy.exit(PATIENCE);
    let (broken, received) = running.body("GET", &head).expect_err("it was cut off");
    assert!(matches!(broken, Broken::Ended | Broken::Reset), "{broken:?}");
    assert!(received.len() < 4_000_000);
    gate.open();
}
