//! Tunnels to hosts that are no connector's: how long they last, and who is said to end them.
//!
//! Each story has a network of its own, because addresses of this machine are never tunnelled to.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::time::{Duration, Instant};

use crate::faults::BlackHole;
use crate::support::caller::{Hello, listing, reset_on_close};
use crate::support::manifests::{connector, secret};
use crate::support::programs::lacking;
use crate::support::{
    Broken, Caller, Cluster, FakeRegistry, Manifests, PASSWORD, Proxy, netns, within,
};

const NEEDED: [&str; 3] = ["unshare", "ip", "mount namespaces"];
const ADDRESS: &str = "8.8.4.4";

/// A host in the story's network.
struct Host(TcpListener);

impl Host {
    fn listen() -> Self {
        Self(TcpListener::bind((ADDRESS, 0)).expect("a host"))
    }

    fn authority(&self) -> String {
        self.0.local_addr().expect("its address").to_string()
    }

    /// What lets tunnels to it through.
    fn flags(&self) -> Vec<String> {
        let port = self.0.local_addr().expect("its address").port().to_string();
        ["--passthrough", "public", "--passthrough-ports", &port].map(str::to_owned).into()
    }

    /// A tunnel of `caller`'s, which stands, and its far end.
    fn reached(&self, mut caller: Caller, token: &str, connector: &str) -> (Caller, TcpStream) {
        let (at, listed) = (self.authority(), listing(connector, token));
        caller.send(format!(
            "CONNECT {at} HTTP/1.1\r\nHost: {at}\r\nProxy-Authorization: {listed}\r\n\r\n"
        ));
        assert_eq!(caller.head().expect("an answer").status, 200);
        let (mut far, _) = self.0.accept().expect("the tunnel's end");
        caller.send("through");
        let mut seen = [0; 7];
        far.read_exact(&mut seen).expect("what was sent");
        (caller, far)
    }
}

/// A proxy that lets tunnels to `host` through.
fn proxy(registry: &FakeRegistry, host: &Host, more: &[&str]) -> Proxy {
    let own = host.flags();
    let flags: Vec<&str> = own.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Proxy::start(&Manifests::for_registry(&registry.url()), &flags)
}

/// Fails unless the tunnel is cut, both ways.
fn is_cut(caller: &mut Caller, far: &mut TcpStream) {
    caller.patience(Duration::from_secs(10));
    assert_eq!(caller.end(), Broken::Reset, "what came is not the whole");
    far.set_read_timeout(Some(Duration::from_secs(10))).expect("patience");
    let rest = far.read(&mut [0; 16]);
    assert!(rest.is_err_and(|error| error.kind() == std::io::ErrorKind::ConnectionReset));
}

#[test]
fn a_tunnel_ends_soon_after_its_callers_right_does() {
    if lacking(&NEEDED) {
        return;
    }
    netns::apart(&[ADDRESS], || {
        let (registry, host) = (FakeRegistry::obliging(), Host::listen());
        let proxy = proxy(&registry, &host, &["--revocation-seconds", "2"]);
        let token = crate::support::TOKEN;
        let (mut caller, mut far) = host.reached(proxy.caller(), token, "ci/harbor");
        // Being asked about again disturbs nothing.
        std::thread::sleep(Duration::from_millis(2500));
        far.write_all(b"still there").expect("the tunnel stands");
        let mut seen = Vec::new();
        caller.take(11, &mut seen).expect("the tunnel stands");

        proxy.remove("rights.yaml");
        is_cut(&mut caller, &mut far);
        let line = proxy.logged(&["CONNECT", "why=\"denied\""]);
        assert!(line.contains("bytes_up=7 bytes_down=11"), "{line}");
        for core in ["0", "1"] {
            let open = format!("tunnels_open{{core=\"{core}\"}}");
            assert!(proxy.metric(&open).is_none_or(|count| count == 0.0), "{core}");
        }
    });
}

#[test]
fn a_tunnel_does_not_outlive_the_token_it_was_opened_with() {
    if lacking(&NEEDED) || std::env::var_os("HARBOR_CONNECTOR_TEST_CLUSTER").is_some() {
        return;
    }
    netns::apart(&[ADDRESS], || {
        let (registry, host) = (FakeRegistry::obliging(), Host::listen());
        let mut cluster = Cluster::new();
        cluster.connect("harbor", &registry.url());
        let own = host.flags();
        let mut flags: Vec<&str> = own.iter().map(String::as_str).collect();
        flags.extend(["--revocation-seconds", "2"]);
        let proxy = Proxy::in_cluster(&cluster, &flags);
        let namespace = cluster.namespace.clone();
        let connector = format!("{namespace}/harbor");
        let server = cluster.stand_in().expect("the stand-in");
        let token = server.brief_token(&namespace, "builder", 3);
        let (mut caller, mut far) = host.reached(proxy.caller(), &token, &connector);
        is_cut(&mut caller, &mut far);
        proxy.logged(&["CONNECT", "why=\"token-rejected\""]);
    });
}

#[test]
fn requests_inside_an_intercepted_tunnel_end_with_the_token_it_was_opened_with() {
    if std::env::var_os("HARBOR_CONNECTOR_TEST_CLUSTER").is_some() {
        return;
    }
    let registry = FakeRegistry::obliging();
    let name = "harbor.example.com";
    let mut cluster = Cluster::new();
    let own = cluster.namespace.clone();
    cluster.apply(&secret(&own, "harbor", PASSWORD));
    let more = format!("  addressExtensions:\n  - {{name: public, value: \"https://{name}\"}}\n");
    cluster.apply(&connector(&own, "harbor", &registry.url(), &more));
    let [flag, namespace] = cluster.own_ca();
    let proxy = Proxy::in_cluster(&cluster, &[flag, namespace, "--revocation-seconds", "2"]);
    let ca = crate::rotation::ca(&cluster);
    let token = cluster.stand_in().expect("the stand-in").brief_token(&own, "builder", 3);
    let listed = listing(&format!("{own}/harbor"), &token);
    let mut caller = proxy.caller();
    caller.send(format!(
        "CONNECT {name}:443 HTTP/1.1\r\nHost: {name}\r\nProxy-Authorization: {listed}\r\n\r\n"
    ));
    assert_eq!(caller.head().expect("an answer").status, 200);
    let mut caller = caller.with_tls(&Hello::to(name, &ca)).expect("TLS in the registry's name");
    let ask = format!("GET /v2/team/app/manifests/v1 HTTP/1.1\r\nHost: {name}\r\n\r\n");
    assert_eq!(caller.ask(&ask).status, 200);
    let last = within(Duration::from_secs(10), "the end of the token", || {
        let answer = caller.ask(&ask);
        (answer.status != 200).then_some(answer)
    });
    assert_eq!((last.status, last.field("connection")), (401, Some("close")), "{last}");
}

#[test]
fn a_host_with_many_dead_addresses_is_given_up_in_time() {
    if lacking(&NEEDED) {
        return;
    }
    let addresses: Vec<String> = (1..=40).map(|last| format!("8.8.8.{last}")).collect();
    let own: Vec<&str> = addresses.iter().map(String::as_str).collect();
    netns::apart(&own, || {
        let hole = BlackHole::new("0.0.0.0");
        let (_, port) = hole.address.rsplit_once(':').expect("a port");
        let lines = addresses.iter().map(|address| format!("{address} far.example.org\n"));
        let hosts = format!("127.0.0.1 localhost\n{}", lines.collect::<String>());
        let flags = ["--passthrough", "public", "--passthrough-ports", port];
        let flags = [&flags[..], &["--connect-seconds", "0.4"]].concat();
        let manifests = Manifests::for_registry("http://harbor.example.com");
        let proxy = Proxy::start_with_hosts(&manifests, &flags, Some(&hosts));
        let started = Instant::now();
        let answer = proxy.caller().connect_to(&format!("far.example.org:{port}"), "ci/harbor");
        assert_eq!(answer.status, 503, "{answer}");
        let took = started.elapsed();
        // Three times what one address may take, and not forty times.
        assert!(took > Duration::from_secs(1) && took < Duration::from_secs(5), "{took:?}");
    });
}

#[test]
fn the_log_says_which_side_broke_a_tunnel_or_that_neither_said_anything() {
    if lacking(&NEEDED) {
        return;
    }
    netns::apart(&[ADDRESS], || {
        let (registry, host) = (FakeRegistry::obliging(), Host::listen());
        let proxy = proxy(&registry, &host, &["--tunnel-idle-seconds", "2"]);
        let token = crate::support::TOKEN;
        let (mut caller, far) = host.reached(proxy.caller(), token, "ci/harbor");
        reset_on_close(&far);
        drop(far);
        assert_eq!(caller.end(), Broken::Reset);
        proxy.logged(&["CONNECT", "end=registry/stream", "why=\"host-gone\""]);

        let (caller, mut far) = host.reached(proxy.caller(), token, "ci/harbor");
        caller.reset();
        let ended =
            within(Duration::from_secs(10), "the far side's end", || far.read(&mut [0; 16]).err());
        assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
        proxy.logged(&["CONNECT", "end=caller/stream", "why=\"caller-gone\""]);

        let (mut caller, mut far) = host.reached(proxy.caller(), token, "ci/harbor");
        is_cut(&mut caller, &mut far);
        proxy.logged(&["CONNECT", "why=\"tunnel-idle\""]);
    });
}
