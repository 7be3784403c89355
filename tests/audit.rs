//! The audit: a line for every pull and push, and for every one that was refused; never a secret.
//!
//! The schema is docs/reference/audit.md; `guides` holds the two against each other.

use std::fs;
use std::io::{Read as _, Write as _};
use std::net::TcpListener;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};
use tempfile::TempDir;

use crate::forward::{job_behind, lacks_clients, proxy_for};
use crate::support::caller::{listing, proxied, request, upload};
use crate::support::image::Layout;
use crate::support::programs::{Job, lacking};
use crate::support::{
    Cluster, DockerRegistry, FakeRegistry, Harbor, Manifests, PREFIX, Proxy, STRANGER_TOKEN, TOKEN,
    answer, digest_of, docker_registry, eventually, leak, netns,
};

/// The keys of a line, in their order.
pub(crate) const KEYS: [&str; 24] = [
    "time",
    "target",
    "action",
    "object",
    "decision",
    "why",
    "user",
    "namespace",
    "service_account",
    "pod",
    "peer",
    "connector",
    "host",
    "repository",
    "tag",
    "digest",
    "method",
    "status",
    "registry_status",
    "bytes_up",
    "bytes_down",
    "duration_ms",
    "request_id",
    "lines",
];

const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";

/// A file that a proxy audits into. Dropping it searches it for secrets.
struct Journal(TempDir);

impl Journal {
    fn new() -> Self {
        Self(TempDir::new().expect("a folder"))
    }

    fn path(&self) -> PathBuf {
        self.0.path().join("audit.log")
    }

    /// The flags that make a proxy write it.
    fn flags(&self) -> [String; 2] {
        ["--audit".to_owned(), self.path().display().to_string()]
    }

    fn lines(&self) -> Vec<Value> {
        let text = fs::read_to_string(self.path()).unwrap_or_default();
        let whole = text.split_inclusive('\n').filter(|line| line.ends_with('\n'));
        whole.map(|line| serde_json::from_str(line).expect("a line of JSON")).collect()
    }

    /// The lines once there are `count` of them.
    #[track_caller]
    fn await_lines(&self, count: usize) -> Vec<Value> {
        eventually(&format!("{count} lines of the audit"), || {
            let lines = self.lines();
            assert!(lines.len() <= count, "more than {count}: {lines:#?}");
            (lines.len() == count).then_some(lines)
        })
    }

    /// The only line so far.
    #[track_caller]
    fn only_line(&self) -> Value {
        self.await_lines(1).remove(0)
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        let text = fs::read(self.path()).unwrap_or_default();
        leak::assert_absent(&leak::everything(), &text, "the audit");
    }
}

fn start(journal: &Journal, manifests: &Manifests, more: &[&str]) -> Proxy {
    let flags = journal.flags();
    let flags: Vec<&str> = flags.iter().map(String::as_str).chain(more.iter().copied()).collect();
    Proxy::start(manifests, &flags)
}

#[track_caller]
fn assert_says(line: &Value, expected: &Value) {
    for (key, value) in expected.as_object().expect("an object") {
        assert_eq!(line.get(key), Some(value), "{key} in {line:#}");
    }
}

#[test]
fn a_pull_leaves_one_line_with_every_key() {
    let manifest = br#"{"schemaVersion":2}"#;
    let digest = digest_of(manifest);
    let field = format!("Docker-Content-Digest: {digest}\r\n");
    let registry = FakeRegistry::answering(move |_| answer(200, &field, manifest));
    let journal = Journal::new();
    let proxy = start(&journal, &Manifests::for_registry(&registry.url()), &[]);
    proxy.get("/v2/");
    proxy.ask(&request("HEAD", &format!("{PREFIX}/team/app/manifests/v1"), ""));
    proxy.get(&format!("{PREFIX}/team/app/tags/list"));
    proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));
    let line = journal.only_line();
    assert_says(
        &line,
        &json!({
            "target": "audit", "action": "pull", "object": "manifest", "decision": "allowed",
            "why": null, "user": "system:serviceaccount:ci:builder", "namespace": "ci",
            "service_account": "builder", "pod": null, "connector": "ci/harbor", "host": null,
            "repository": "team/app", "tag": "v1", "digest": digest, "method": "GET",
            "status": 200, "registry_status": 200, "bytes_up": 0, "bytes_down": 19,
        }),
    );
    let text = fs::read_to_string(journal.path()).expect("the audit");
    let places: Vec<_> = KEYS.iter().map(|key| text.find(&format!("\"{key}\":"))).collect();
    let present: Vec<_> = places.iter().flatten().collect();
    assert_eq!(present.len(), KEYS.len() - 1, "all but `lines`: {text}");
    assert!(present.is_sorted(), "the order is that of the document: {text}");
    assert!(line["peer"].as_str().is_some_and(|peer| peer.starts_with("127.0.0.1:")));
    let seen = registry.requests().pop().expect("a request");
    assert_eq!(line["request_id"].as_str(), seen.field("x-request-id"));
    let time = line["time"].as_str().unwrap_or_default();
    assert!(time.len() == 27 && time.ends_with('Z'), "{time}");
    assert_eq!(proxy.metric("audit_lines_total"), Some(1.0));
    assert_eq!(proxy.metric("audit_lines_lost_total"), Some(0.0));
    // The log goes on beside it, with every request.
    for words in [["HEAD", "manifest"], ["GET", "tags"], ["GET", "manifest"], ["GET", "ping"]] {
        proxy.logged(&[&["access"], &words[..]].concat());
    }
}

#[test]
fn skopeo_pushes_and_pulls_and_each_layer_has_its_lines() {
    if lacking(&[docker_registry::NEEDED.as_slice(), &["skopeo", "curl"]].concat()) {
        return;
    }
    let harbor = Harbor::http();
    let journal = Journal::new();
    let proxy = start(&journal, &harbor.manifests(), &[]);
    let job = Job::new(&proxy.listen.to_string(), "pod", TOKEN);
    let layout = Layout::image(&job.path("image"), 2, 41);
    let image = format!("docker://{}/namespaces/ci/connectors/harbor/team/app:v1", proxy.listen);
    let source = layout.source();
    job.run(&format!("skopeo copy --preserve-digests --dest-tls-verify=false {source} {image}"));
    // Three blobs, each a PATCH that carries it and a PUT that names it, and the manifest.
    let lines = journal.await_lines(7);
    assert!(lines.iter().all(|line| line["action"] == "push" && line["decision"] == "allowed"));
    let of = |method: &str, object: &str| -> Vec<&Value> {
        let wanted = |line: &&Value| line["method"] == method && line["object"] == object;
        lines.iter().filter(wanted).collect()
    };
    for layer in &layout.layers {
        let ended = |line: &&&Value| line["digest"] == **layer;
        let blobs = of("PUT", "blob");
        let line = blobs.iter().find(ended).expect("the layer's line");
        assert_says(line, &json!({"repository": "team/app", "tag": null, "status": 201}));
    }
    let sent: u64 = of("PATCH", "upload").iter().filter_map(|line| line["bytes_up"].as_u64()).sum();
    assert!(sent > 200_000, "the layers' bytes: {sent}");
    let manifest = of("PUT", "manifest");
    assert_says(manifest[0], &json!({"tag": "v1", "digest": layout.digest}));

    let place = job.path("pulled").display().to_string();
    job.run(&format!("skopeo copy --src-tls-verify=false {image} dir:{place}"));
    let lines = journal.await_lines(11).split_off(7);
    assert!(lines.iter().all(|line| line["action"] == "pull" && line["status"] == 200));
    for digest in layout.layers.iter().chain([&layout.digest]) {
        assert!(lines.iter().any(|line| line["digest"] == **digest), "{digest} in {lines:#?}");
    }
    let manifest = format!("http://{}{PREFIX}/team/app/manifests/missing", proxy.listen);
    job.run(&format!("curl -s -o /dev/null -u pod:{TOKEN} {manifest}"));
    let line = journal.await_lines(12).remove(11);
    assert_says(&line, &json!({"decision": "allowed", "status": 404, "registry_status": 404}));
}

#[test]
fn whoever_is_refused_has_a_line_even_before_anything_would_move() {
    if lacking(&["skopeo"]) {
        return;
    }
    let registry = FakeRegistry::obliging();
    let journal = Journal::new();
    let proxy = start(&journal, &Manifests::for_registry(&registry.url()), &[]);
    let job = Job::new(&proxy.listen.to_string(), "pod", STRANGER_TOKEN);
    let layout = Layout::image(&job.path("image"), 1, 42);
    let image = format!("docker://{}/namespaces/ci/connectors/harbor/team/app:v1", proxy.listen);
    let source = layout.source();
    let (ok, ..) = job.try_run(&format!("skopeo copy --dest-tls-verify=false {source} {image}"));
    assert!(!ok);
    let line = eventually("a line", || journal.lines().into_iter().next());
    assert_says(
        &line,
        &json!({
            "decision": "denied", "why": "denied", "namespace": "ops",
            "service_account": "stranger", "connector": "ci/harbor", "repository": "team/app",
            "status": 403, "registry_status": null, "bytes_up": 0,
        }),
    );
    assert!(journal.lines().iter().all(|line| line["decision"] == "denied"));
    assert!(registry.is_untouched());
}

#[test]
fn a_bad_token_is_named_as_such_and_a_challenge_is_no_event() {
    let registry = FakeRegistry::obliging();
    let journal = Journal::new();
    let proxy = start(&journal, &Manifests::for_registry(&registry.url()), &[]);
    let target = format!("{PREFIX}/team/app/manifests/v1");
    proxy.ask(&format!("GET {target} HTTP/1.1\r\nHost: proxy\r\n\r\n"));
    proxy.ask(&format!("GET {PREFIX}/team/../v1 HTTP/1.1\r\nHost: proxy\r\n\r\n"));
    proxy.get_as("made-up", &target);
    assert_says(
        &journal.only_line(),
        &json!({"decision": "unauthenticated", "why": "token-rejected", "user": null,
            "status": 401, "tag": "v1"}),
    );
}

#[test]
fn a_registry_that_refuses_the_account_or_is_away_is_told_from_a_refused_caller() {
    let registry = FakeRegistry::answering(|seen| match seen.target.ends_with("/stays") {
        true => answer(403, "", br#"{"errors":[{"code":"DENIED","message":"no push"}]}"#),
        false => answer(404, "", b"{}"),
    });
    let journal = Journal::new();
    let manifests =
        Manifests::for_registry(&registry.url()).with_connector("ci", "away", "http://127.0.0.1:1");
    let proxy = start(&journal, &manifests, &[]);
    proxy.ask(&request("HEAD", &format!("{PREFIX}/team/app/manifests/gone"), ""));
    proxy.ask(&request("HEAD", &format!("{PREFIX}/team/app/manifests/stays"), ""));
    assert_says(
        &journal.only_line(),
        &json!({"decision": "allowed", "status": 403, "registry_status": 403, "method": "HEAD"}),
    );
    let away = PREFIX.replace("harbor", "away");
    proxy.get(&format!("{away}/team/app/blobs/{}", digest_of(b"x")));
    assert_says(
        &journal.await_lines(2)[1],
        &json!({"decision": "allowed", "why": "registry-unreachable", "status": 503,
            "registry_status": null, "digest": digest_of(b"x"), "tag": null}),
    );
}

#[test]
fn a_mount_and_a_deletion_are_events_and_the_start_of_an_upload_is_none() {
    let registry = FakeRegistry::answering(|seen| match seen.method.as_str() {
        "POST" if seen.target.contains("mount=") => answer(201, "Location: /v2/a/blobs/x\r\n", b""),
        "POST" => answer(202, "Location: /v2/team/app/blobs/uploads/4f\r\n", b""),
        "DELETE" => answer(202, "", b""),
        _ => answer(201, "", b""),
    });
    let journal = Journal::new();
    let proxy = start(&journal, &Manifests::for_registry(&registry.url()), &[]);
    let uploads = format!("{PREFIX}/team/app/blobs/uploads/");
    proxy.ask(&upload("POST", &uploads, ""));
    let digest = digest_of(b"mounted");
    let escaped = digest.replace(':', "%3A");
    let from = "namespaces/ci/connectors/harbor/team/base";
    let mounted = proxy.ask(&upload("POST", &format!("{uploads}?mount={escaped}&from={from}"), ""));
    assert_eq!(mounted.status, 201, "{mounted}");
    proxy.ask(&request("DELETE", &format!("{uploads}4f"), ""));
    proxy.ask(&request("DELETE", &format!("{PREFIX}/team/app/manifests/{digest}"), ""));
    let lines = journal.await_lines(2);
    assert_says(&lines[0], &json!({"action": "push", "object": "blob", "digest": digest}));
    assert_says(&lines[1], &json!({"action": "delete", "object": "manifest", "status": 202}));
}

#[test]
fn what_comes_through_the_forward_proxy_names_host_and_connector() {
    if lacks_clients() {
        return;
    }
    let registry = DockerRegistry::https_called("harbor.example.com");
    let proxy = proxy_for(&[("harbor", &registry)], &["--audit", "stderr"]);
    let job = job_behind(&proxy, "ci/harbor");
    let layout = Layout::image(&job.path("image"), 1, 43);
    let at = registry.authority();
    job.run(&format!("skopeo copy {} docker://{at}/team/app:v1", layout.source()));
    job.run(&format!(
        "curl -sS --fail -o /dev/null -H Accept:{MANIFEST} https://{at}/v2/team/app/manifests/v1"
    ));
    let line = |words: &[&str]| -> Value {
        serde_json::from_str(&proxy.logged(words)).expect("a line of JSON")
    };
    for (method, action) in [("PUT", "push"), ("GET", "pull")] {
        let method = format!("\"method\":\"{method}\"");
        let line = line(&["\"target\":\"audit\"", "\"object\":\"manifest\"", &method]);
        assert_says(
            &line,
            &json!({"action": action, "connector": "ci/harbor", "host": at, "tag": "v1",
                "service_account": "builder", "decision": "allowed"}),
        );
    }
    let refused = listing("ci/harbor", STRANGER_TOKEN);
    let tunnel = format!("CONNECT {at} HTTP/1.1\r\nHost: {at}\r\n");
    proxy.ask(&format!("{tunnel}Proxy-Authorization: {refused}\r\n\r\n"));
    let line = line(&["\"action\":\"tunnel\""]);
    assert_says(&line, &json!({"decision": "denied", "host": at, "service_account": "stranger"}));
}

#[test]
fn a_tunnel_to_another_host_is_a_line_with_its_bytes() {
    if lacking(&["unshare", "ip", "mount namespaces", "curl"]) {
        return;
    }
    netns::apart(&["10.9.8.7"], || {
        let registry = FakeRegistry::obliging();
        let host = TcpListener::bind("0.0.0.0:0").expect("a host");
        let port = host.local_addr().expect("its address").port();
        let far = std::thread::spawn(move || {
            let (mut socket, _) = host.accept().expect("the tunnel's end");
            let mut head = [0; 4096];
            let count = socket.read(&mut head).expect("a request");
            let body = "HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
            socket.write_all(body.as_bytes()).expect("its answer");
            (count, body.len())
        });
        let hosts = "127.0.0.1 localhost\n10.9.8.7 mirror.example.org\n";
        let journal = Journal::new();
        let flags = journal.flags();
        let port_text = port.to_string();
        let flags = [
            &*flags[0],
            &*flags[1],
            "--passthrough",
            "list",
            "--passthrough-hosts",
            "mirror.example.org",
            "--passthrough-ports",
            &port_text,
        ];
        let manifests = Manifests::for_registry(&registry.url());
        let proxy = Proxy::start_with_hosts(&manifests, &flags, Some(hosts));
        let job = Job::new("nowhere.example", "nobody", "nothing");
        let url = format!("http://mirror.example.org:{port}/");
        let through = format!("http://ci%2Fharbor:{TOKEN}@{}", proxy.listen);
        assert_eq!(job.run(&format!("curl -sS -p -x {through} {url}")), "hello");
        let (up, down) = far.join().expect("the far end");
        let line = journal.only_line();
        let at = format!("mirror.example.org:{port}");
        assert_says(
            &line,
            &json!({"action": "tunnel", "object": "host", "host": at, "connector": null,
                "decision": "allowed", "service_account": "builder", "bytes_up": up,
                "bytes_down": down, "registry_status": null}),
        );
        let other = proxy.ask(&proxied("GET", "http://other.example.org/", "ci/harbor", ""));
        assert_eq!(other.status, 403);
        let denied = proxy.caller().connect_to("other.example.org:443", "ci/harbor");
        assert_eq!(denied.status, 403);
        assert_says(
            &journal.await_lines(2)[1],
            &json!({"decision": "denied", "why": "host-denied", "host": "other.example.org:443"}),
        );
    });
}

#[test]
fn a_token_that_is_bound_to_a_pod_names_the_pod() {
    let cluster = Cluster::new();
    if cluster.is_real() {
        // A Pod there would have to be scheduled, with an image.
        return;
    }
    let registry = FakeRegistry::obliging();
    let own = &cluster.namespace;
    cluster.connect("harbor", &registry.url());
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: build-1, namespace: {own}}}, \
         spec: {{serviceAccountName: builder, containers: [{{name: a, image: a}}]}}}}"
    ));
    let bound = json!({
        "audiences": ["connectors-proxy"], "expirationSeconds": 3600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "build-1"},
    });
    let journal = Journal::new();
    let flags = journal.flags();
    let proxy = Proxy::in_cluster(&cluster, &[&flags[0], &flags[1]]);
    let target = format!("/v2/namespaces/{own}/connectors/harbor/team/app/manifests/v1");
    let token = cluster.token_for(own, "builder", &bound);
    assert_eq!(proxy.get_as(&token, &target).status, 200);
    let line = journal.only_line();
    assert_says(&line, &json!({"namespace": own, "service_account": "builder", "pod": "build-1"}));
    assert!(!line.to_string().contains(&token));
}

#[test]
fn without_the_flag_there_is_no_audit_and_never_one_in_the_log() {
    let registry = FakeRegistry::obliging();
    let manifests = Manifests::for_registry(&registry.url());
    let proxy = Proxy::start(&manifests, &["--log-filter", "trace,audit=trace"]);
    proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));
    proxy.logged(&["access", "status=200"]);
    assert!(!proxy.log().contains("decision"), "{}", proxy.log());
    assert_eq!(proxy.metric("audit_lines_total"), None);

    let journal = Journal::new();
    let proxy = start(&journal, &manifests, &["--log-filter", "off,audit=info"]);
    proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));
    journal.only_line();
    assert!(!proxy.log().contains("decision"), "{}", proxy.log());
}

#[test]
fn lines_that_cannot_be_written_are_counted_and_complained_about() {
    let registry = FakeRegistry::obliging();
    let manifests = Manifests::for_registry(&registry.url());
    let proxy = Proxy::start(&manifests, &["--audit", "/dev/full"]);
    proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));
    eventually("the loss", || (proxy.metric("audit_lines_lost_total") == Some(1.0)).then_some(()));
    proxy.logged(&["the audit cannot be written"]);
    assert_eq!(proxy.metric("audit_lines_total"), Some(0.0));
    let (code, _, why) =
        crate::support::proxy::run(&["proxy", "--file", "/", "--audit", "/nowhere/audit.log"]);
    assert!(code == Some(1) && why.contains("--audit"), "{why}");
    let (code, _, why) = crate::support::proxy::run(&["proxy", "--audit", "sdtout"]);
    assert!(code == Some(2) && why.contains("a path with a slash"), "{why}");
}

#[test]
fn a_file_that_is_moved_away_is_begun_anew_and_the_last_lines_are_written_at_the_end() {
    let registry = FakeRegistry::obliging();
    let journal = Journal::new();
    let mut proxy = start(&journal, &Manifests::for_registry(&registry.url()), &[]);
    let target = format!("{PREFIX}/team/app/manifests/v1");
    proxy.get(&target);
    journal.only_line();
    let old = journal.path().with_extension("1");
    fs::rename(journal.path(), &old).expect("a rotation");
    eventually("a line in the new file", || {
        proxy.get(&target);
        (!journal.lines().is_empty()).then_some(())
    });
    let before = proxy.metric("audit_lines_total");
    proxy.get(&target);
    proxy.terminate();
    assert!(proxy.exit(Duration::from_secs(20)).success());
    let old = fs::read_to_string(old).expect("the old file").lines().count();
    let all = u32::try_from(journal.lines().len() + old).map(f64::from).expect("few lines");
    assert!(before.is_some_and(|before| all > before), "{before:?} and one more: {all}");
}
