//! F38: replicas are replaced one after the other under load, and no caller notices.
//!
//! The callers here repeat nothing: one refused or reset connection, one answer that is not the
//! expected one, and the story fails.

use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::support::balancer::{self, Balancer};
use crate::support::caller::{Caller, request};
use crate::support::programs::lacking;
use crate::support::{
    Cluster, FakeRegistry, Gate, Manifests, PATIENCE, PREFIX, Proxy, answer, digest_of, eventually,
    noise,
};

/// A registry that takes every upload, and stops in the middle of a blob until the gate opens.
fn registry(gate: &Gate) -> FakeRegistry {
    let gate = gate.clone();
    let blob = noise(38, BLOB_BYTES);
    FakeRegistry::scripted(move |visit| {
        while let Some(mut request) = visit.head() {
            if request.target.contains("/blobs/sha256:") {
                let bytes = answer(200, "", &blob);
                visit.send(&bytes[..BLOB_BYTES / 2]);
                gate.wait();
                visit.send(&bytes[BLOB_BYTES / 2..]);
            } else if request.method == "PUT" {
                if !visit.body(&mut request) {
                    return;
                }
                visit.send(answer(201, &format!("X-Bytes: {}\r\n", request.body.len()), b""));
            } else {
                visit.send(answer(200, "", b"{}"));
            }
        }
    })
}

/// Asks one small thing after the other, on connections that are kept as long as they may be.
/// How many were answered.
fn ask_until(stop: &AtomicBool, address: SocketAddr) -> u64 {
    let target = format!("{PREFIX}/team/app/manifests/v1");
    let mut asked = 0;
    while !stop.load(Ordering::Relaxed) {
        let mut caller = Caller::connect(address);
        loop {
            let reply = caller.ask(&request("GET", &target, ""));
            assert_eq!(reply.status, 200, "{reply}");
            asked += 1;
            if reply.field("connection") == Some("close") || stop.load(Ordering::Relaxed) {
                break;
            }
        }
    }
    asked
}

/// Downloads a blob; `begun` counts who has its first half.
fn download(address: SocketAddr, begun: &AtomicU64) {
    let blob = noise(38, BLOB_BYTES);
    let mut caller = Caller::connect(address);
    caller.send(request("GET", &format!("{PREFIX}/team/app/blobs/{}", digest_of(&blob)), ""));
    let head = caller.head().expect("a head");
    begun.fetch_add(1, Ordering::Relaxed);
    let body = caller.body("GET", &head).expect("the whole blob");
    assert!(head.status == 200 && body == blob);
}

/// Uploads a blob, whose second half waits for the gate.
fn upload(address: SocketAddr, gate: &Gate, begun: &AtomicU64) {
    let blob = noise(39, BLOB_BYTES);
    let mut caller = Caller::connect(address);
    let target = format!("{PREFIX}/team/app/blobs/uploads/1?digest={}", digest_of(&blob));
    caller.send(request("PUT", &target, &format!("Content-Length: {BLOB_BYTES}\r\n")));
    caller.send(&blob[..BLOB_BYTES / 2]);
    begun.fetch_add(1, Ordering::Relaxed);
    gate.wait();
    caller.send(&blob[BLOB_BYTES / 2..]);
    let reply = caller.answer().expect("an answer");
    assert_eq!((reply.status, reply.field("x-bytes")), (201, Some("4000000")), "{reply}");
}

#[test]
fn two_replicas_are_replaced_under_load_and_no_request_fails() {
    if lacking(&balancer::NEEDED) {
        return;
    }
    let gate = Gate::default();
    let registry = registry(&gate);
    let balancer = Balancer::start();
    let replica = |name: &str| {
        let drain = ["--drain-seconds", "60", "--drain-grace-seconds", "1"];
        let flags = [&["--cores", "2"], drain.as_slice()].concat();
        let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &flags);
        balancer.add(name, &proxy);
        proxy
    };
    let mut old = [("a", replica("a")), ("b", replica("b"))];
    let (stop, begun) = (AtomicBool::new(false), AtomicU64::new(0));
    let asked = thread::scope(|scope| {
        let stop_at_the_end = StopOnDrop(&stop, &gate);
        let callers: Vec<_> =
            (0..4).map(|_| scope.spawn(|| ask_until(&stop, balancer.address))).collect();
        for _ in 0..TRANSFERS {
            scope.spawn(|| download(balancer.address, &begun));
            scope.spawn(|| upload(balancer.address, &gate, &begun));
        }
        eventually("all transfers", || {
            (begun.load(Ordering::Relaxed) == 2 * TRANSFERS).then_some(())
        });
        let mut new = Vec::new();
        for (name, proxy) in &mut old {
            new.push(replica(&format!("after-{name}")));
            proxy.terminate();
            // The endpoint goes while its connections stay.
            eventually("nobody new", || (!balancer.is_up(name)).then_some(()));
        }
        eventually("only transfers", || {
            let left: f64 = old.iter().map(|(_, proxy)| connections(proxy)).sum();
            (left == 2.0 * TRANSFERS as f64).then_some(())
        });
        gate.open();
        for (_, proxy) in &mut old {
            assert_eq!(proxy.exit(PATIENCE).code(), Some(0));
        }
        drop(stop_at_the_end);
        callers.into_iter().map(|caller| caller.join().expect("no failure")).sum::<u64>()
    });
    assert!(asked > 100, "there was hardly any load: {asked}");
}

/// Callers' connections to both of its cores.
fn connections(proxy: &Proxy) -> f64 {
    ["0", "1"]
        .map(|core| proxy.metric(&format!("connections{{core=\"{core}\"}}")))
        .iter()
        .flatten()
        .sum()
}

/// Ends the callers, also when the story fails: the scope waits for them.
struct StopOnDrop<'a>(&'a AtomicBool, &'a Gate);

impl Drop for StopOnDrop<'_> {
    fn drop(&mut self) {
        self.0.store(true, Ordering::Relaxed);
        self.1.open();
    }
}

#[test]
fn from_start_to_first_push_takes_less_than_two_seconds() {
    let gate = Gate::default();
    gate.open();
    let registry = registry(&gate);
    let manifests = Manifests::for_registry(&registry.url());
    let started = Instant::now();
    let proxy = Proxy::start(&manifests, &[]);
    assert_eq!(proxy.admin("/readyz").status, 200);
    upload(proxy.listen, &gate, &AtomicU64::new(0));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn in_a_cluster_the_first_push_comes_as_soon() {
    let gate = Gate::default();
    gate.open();
    let registry = registry(&gate);
    let cluster = Cluster::new();
    cluster.connect("harbor", &registry.url());
    let token = cluster.token("builder");
    let path = format!("/v2/namespaces/{}/connectors/harbor/team/app", cluster.namespace);
    let started = Instant::now();
    // Its connectors, Secrets and CA come from the API server; who calls is asked there.
    let proxy = Proxy::in_cluster(&cluster, &[]);
    assert_eq!(proxy.admin("/readyz").status, 200);
    let push = format!(
        "PUT {path}/blobs/uploads/1?digest={} HTTP/1.1\r\nHost: proxy\r\n\
         Authorization: Bearer {token}\r\nContent-Length: 4\r\n\r\nblob",
        digest_of(b"blob")
    );
    assert_eq!(proxy.ask(&push).status, 201);
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
}

#[test]
fn a_proxy_that_is_killed_is_back_on_its_port_at_once() {
    let gate = Gate::default();
    gate.open();
    let registry = registry(&gate);
    let manifests = Manifests::for_registry(&registry.url());
    let mut first = Proxy::start(&manifests, &[]);
    let mut callers: Vec<Caller> = (0..20).map(|_| first.caller()).collect();
    for caller in &mut callers {
        let reply = caller.ask(&request("GET", &format!("{PREFIX}/team/app/manifests/v1"), ""));
        assert_eq!(reply.status, 200);
    }
    let address = first.listen;
    first.kill();
    // Not even waited for: the kernel may still be closing what it had.
    let started = Instant::now();
    let _second = Proxy::start(&manifests, &["--listen", &address.to_string()]);
    upload(address, &gate, &AtomicU64::new(0));
    assert!(started.elapsed() < Duration::from_secs(2), "{:?}", started.elapsed());
    assert!(!first.exit(PATIENCE).success());
    drop(callers);
}

/// Uploads, and as many downloads, that the end of their replicas must not disturb.
const TRANSFERS: u64 = 20;
const BLOB_BYTES: usize = 4_000_000;
