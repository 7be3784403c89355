//! Two long transfers never share a core while another core idles.

use crate::support::caller::request;
use crate::support::{
    Caller, FakeRegistry, Gate, Manifests, PREFIX, Proxy, answer, digest_of, eventually, noise,
};

const SIZE: usize = 8 << 20;

fn per_core(proxy: &Proxy) -> Vec<u64> {
    ["0", "1"]
        .iter()
        .map(|core| proxy.metric(&format!("transfers{{core=\"{core}\"}}")))
        .map(|value| value.expect("the series is there") as u64)
        .collect()
}

#[test]
fn two_long_downloads_run_on_two_cores() {
    for _round in 0..4 {
        let gate = Gate::default();
        let waiting = gate.clone();
        let registry = FakeRegistry::scripted(move |visit| {
            while visit.head().is_some() {
                let bytes = answer(200, "", &noise(4, SIZE));
                visit.send(&bytes[..SIZE / 2]);
                waiting.wait();
                visit.send(&bytes[SIZE / 2..]);
            }
        });
        let manifests = Manifests::for_registry(&registry.url());
        let proxy = Proxy::start(&manifests, &["--cores", "2"]);
        let blob = format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x"));
        let mut callers: Vec<(Caller, _)> = (0..2)
            .map(|_| {
                let mut caller = proxy.caller();
                caller.send(request("GET", &blob, ""));
                let head = caller.head().expect("a head");
                (caller, head)
            })
            .collect();
        eventually("one transfer on each core", || (per_core(&proxy) == [1, 1]).then_some(()));
        gate.open();
        for (caller, head) in &mut callers {
            assert!(caller.body("GET", head).expect("a body") == noise(4, SIZE));
        }
        eventually("no transfer", || (per_core(&proxy) == [0, 0]).then_some(()));
    }
}

#[test]
fn two_long_uploads_run_on_two_cores() {
    for framing in ["Content-Length: 8388608\r\n", "Transfer-Encoding: chunked\r\n"] {
        let registry = FakeRegistry::answering(|_| answer(202, "", b""));
        let manifests = Manifests::for_registry(&registry.url());
        let proxy = Proxy::start(&manifests, &["--cores", "2"]);
        let target = format!("{PREFIX}/team/app/blobs/uploads/1");
        let mut callers: Vec<Caller> = (0..2)
            .map(|_| {
                let mut caller = proxy.caller();
                caller.send(request("PATCH", &target, framing));
                caller
            })
            .collect();
        eventually("one transfer on each core", || (per_core(&proxy) == [1, 1]).then_some(()));
        let body = noise(6, SIZE);
        for caller in &mut callers {
            if framing.contains("chunked") {
                caller.send("800000\r\n");
                caller.send(&body);
                caller.send("\r\n0\r\n\r\n");
            } else {
                caller.send(&body);
            }
            assert_eq!(caller.answer().expect("an answer").status, 202);
        }
        eventually("no transfer", || (per_core(&proxy) == [0, 0]).then_some(()));
        let whole = |seen: &crate::support::fake_registry::Received| seen.complete;
        assert!(registry.requests().iter().all(whole));
    }
}

#[test]
fn short_exchanges_are_answered_while_both_cores_are_busy() {
    let gate = Gate::default();
    let waiting = gate.clone();
    let registry = FakeRegistry::scripted(move |visit| {
        while let Some(request) = visit.head() {
            let size = if request.target.contains("/blobs/") { SIZE } else { 10 };
            let bytes = answer(200, "", &noise(4, size));
            if size == SIZE {
                visit.send(&bytes[..SIZE / 2]);
                waiting.wait();
                visit.send(&bytes[SIZE / 2..]);
            } else {
                visit.send(bytes);
            }
        }
    });
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &["--cores", "2"]);
    let blob = format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x"));
    let _long: Vec<Caller> = (0..4)
        .map(|_| {
            let mut caller = proxy.caller();
            caller.send(request("GET", &blob, ""));
            caller.head().expect("a head");
            caller
        })
        .collect();
    eventually("two transfers on each core", || (per_core(&proxy) == [2, 2]).then_some(()));
    for _ in 0..20 {
        assert_eq!(proxy.get(&format!("{PREFIX}/team/app/manifests/v1")).status, 200);
    }
    gate.open();
}
