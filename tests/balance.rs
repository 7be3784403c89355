//! Two long transfers never share a core while another core idles.

use crate::support::caller::{Hello, request};
use crate::support::{
    Caller, FakeRegistry, Gate, HOST, Manifests, PREFIX, Proxy, answer, digest_of, eventually,
    noise,
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
fn callers_are_accepted_where_no_long_transfer_inside_tls_runs() {
    let registry = FakeRegistry::answering(|_| answer(202, "", b""));
    let manifests = Manifests::for_registry(&registry.url());
    for _round in 0..3 {
        let proxy = Proxy::start(&manifests, &["--cores", "2"]);
        let target = format!("{PREFIX}/team/app/blobs/uploads/1");
        let sealed = proxy.caller().with_tls(&Hello::to(HOST, &proxy.ca()));
        let mut sealed = sealed.expect("TLS on our own address");
        sealed.send(request("PATCH", &target, &format!("Content-Length: {SIZE}\r\n")));
        eventually("a transfer", || (per_core(&proxy).iter().sum::<u64>() == 1).then_some(()));
        // A TLS session stays where it began, so it is the others that keep away from it.
        let busy = per_core(&proxy).iter().position(|count| *count == 1).expect("a core");
        let _others: Vec<Caller> = (0..6).map(|_| proxy.caller()).collect();
        let connections = |core: usize| proxy.metric(&format!("connections{{core=\"{core}\"}}"));
        eventually("all of them on the other core", || {
            (connections(1 - busy) >= Some(6.0) && connections(busy) == Some(1.0)).then_some(())
        });
        sealed.send(noise(6, SIZE));
        assert_eq!(sealed.answer().expect("an answer").status, 202);
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
