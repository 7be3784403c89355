//! The registry over real sockets: what the specification promises and what Harbor adds.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{Shutdown, TcpStream};
use std::process::Command;

use serde_json::{Value, json};

mod ways_tests;

use super::store::digest_of;
use super::{Registry, Settings};
use crate::caller::{Answer, Caller, Content};

const ROBOT: (&str, &str) = ("robot$demo", "right");

fn registry(discard: bool, marker: Option<&str>) -> Registry {
    Registry::start(Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        login: Some((ROBOT.0.to_owned(), ROBOT.1.to_owned())),
        discard,
        log_accounts: false,
        markers: marker.map(str::to_owned).into_iter().collect(),
    })
    .unwrap()
}

/// One caller and the few things the tests do with it.
struct Robot(Caller);

impl Robot {
    fn of(registry: &Registry) -> Self {
        Self(Caller::new(registry.address(), Some(ROBOT)))
    }

    fn ask(&mut self, method: &str, target: &str, content: &Content<'_>) -> (Answer, Vec<u8>) {
        self.0.ask(method, target, content, &mut |_| {}).unwrap()
    }

    fn status(&mut self, method: &str, target: &str) -> u16 {
        self.ask(method, target, &Content::Empty).0.status
    }

    fn open(&mut self, name: &str) -> String {
        let (answer, _) = self.ask("POST", &format!("/v2/{name}/blobs/uploads/"), &Content::Empty);
        assert_eq!(answer.status, 202);
        assert_eq!(answer.fields.first("range"), Some("0-0"));
        location(&answer)
    }

    fn patch(&mut self, target: &str, bytes: &[u8]) -> Answer {
        self.ask("PATCH", target, &Content::Bytes("application/octet-stream", bytes)).0
    }

    fn push(&mut self, name: &str, bytes: &[u8]) -> String {
        let digest = digest_of(bytes, "");
        let target = format!("{}&digest={digest}", self.open(name));
        let content = Content::Bytes("application/octet-stream", bytes);
        assert_eq!(self.ask("PUT", &target, &content).0.status, 201);
        digest
    }

    fn put_manifest(&mut self, name: &str, reference: &str, manifest: &Value) -> (Answer, Vec<u8>) {
        let kind = manifest["mediaType"].as_str().unwrap().to_owned();
        let bytes = manifest.to_string().into_bytes();
        let target = format!("/v2/{name}/manifests/{reference}");
        self.ask("PUT", &target, &Content::Bytes(&kind, &bytes))
    }
}

/// The path and query of an absolute `Location` built from the Host that was sent.
fn location(answer: &Answer) -> String {
    let url = answer.fields.first("location").unwrap();
    let rest = url.strip_prefix("http://").unwrap();
    rest[rest.find('/').unwrap()..].to_owned()
}

fn code(body: &[u8]) -> String {
    let value: Value = serde_json::from_slice(body).unwrap();
    value["errors"][0]["code"].as_str().unwrap().to_owned()
}

fn image(config: &str, layer: &str) -> Value {
    let descriptor = |kind: &str, digest: &str, size: u64| {
        let kind = format!("application/vnd.oci.image.{kind}");
        json!({ "mediaType": kind, "digest": digest, "size": size })
    };
    json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": descriptor("config.v1+json", config, 2),
        "layers": [descriptor("layer.v1.tar", layer, 5)],
    })
}

/// Sends `text` as it is and returns everything that comes back until the registry closes.
fn raw(registry: &Registry, text: &str) -> String {
    let mut stream = TcpStream::connect(registry.address()).unwrap();
    stream.write_all(text.as_bytes()).unwrap();
    stream.shutdown(Shutdown::Write).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

const BASIC: &str = "Authorization: Basic cm9ib3QkZGVtbzpyaWdodA==";

#[test]
fn a_wrong_or_missing_password_is_answered_as_harbor_does() {
    let registry = registry(false, None);
    for login in [Some(("robot$demo", "wrong")), Some(("robot", "right")), None] {
        let mut caller = Caller::new(registry.address(), login);
        let (answer, body) = caller.ask("GET", "/v2/", &Content::Empty, &mut |_| {}).unwrap();
        assert_eq!(answer.status, 401);
        assert_eq!(answer.fields.first("www-authenticate"), Some("Basic realm=\"harbor\""));
        assert_eq!(code(&body), "UNAUTHORIZED");
        let pong = caller.ask("GET", "/api/v2.0/ping", &Content::Empty, &mut |_| {}).unwrap();
        assert_eq!((pong.0.status, pong.1.as_slice()), (200, b"Pong".as_slice()));
    }
    let (answer, _) = Robot::of(&registry).ask("GET", "/v2/", &Content::Empty);
    assert_eq!(answer.status, 200);
    assert_eq!(answer.fields.first("docker-distribution-api-version"), Some("registry/2.0"));
}

#[test]
fn a_blob_comes_back_whole_and_in_parts() {
    let registry = registry(false, None);
    let mut robot = Robot::of(&registry);
    let digest = robot.push("team/app", b"0123456789");
    let target = format!("/v2/team/app/blobs/{digest}");

    let (answer, body) = robot.ask("GET", &target, &Content::Empty);
    assert_eq!((answer.status, body.as_slice()), (200, b"0123456789".as_slice()));
    assert_eq!(answer.fields.first("docker-content-digest"), Some(digest.as_str()));
    let (answer, body) = robot.ask("HEAD", &target, &Content::Empty);
    assert_eq!((answer.status, answer.fields.first("content-length")), (200, Some("10")));
    assert!(body.is_empty());
    assert_eq!(robot.status("GET", &format!("/v2/other/blobs/{digest}")), 404);

    let ranged = |range: &str| {
        let head = format!("GET {target} HTTP/1.1\r\nHost: h\r\n{BASIC}\r\nRange: {range}\r\n\r\n");
        raw(&registry, &head)
    };
    let part = ranged("bytes=2-4");
    assert!(part.starts_with("HTTP/1.1 206 ") && part.ends_with("\r\n\r\n234"), "{part}");
    assert!(part.contains("Content-Range: bytes 2-4/10\r\n"), "{part}");
    let beyond = ranged("bytes=10-");
    assert!(beyond.starts_with("HTTP/1.1 416 "), "{beyond}");
    assert!(beyond.contains("Content-Range: bytes */10\r\n"), "{beyond}");

    assert_eq!(robot.status("DELETE", &target), 202);
    assert_eq!(robot.status("GET", &target), 404);
}

#[test]
fn an_upload_is_patched_asked_about_and_closed() {
    let registry = registry(false, None);
    let mut robot = Robot::of(&registry);
    let first = robot.open("team/app");
    let answer = robot.patch(&first, b"hello ");
    assert_eq!((answer.status, answer.fields.first("range")), (202, Some("0-5")));
    let second = location(&answer);
    let (answer, _) = robot.ask("GET", &second, &Content::Empty);
    assert_eq!((answer.status, answer.fields.first("range")), (204, Some("0-5")));
    let third = location(&robot.patch(&location(&answer), b"world"));
    let digest = digest_of(b"hello world", "");
    let (answer, _) = robot.ask("PUT", &format!("{third}&digest={digest}"), &Content::Empty);
    assert_eq!(answer.status, 201);
    assert_eq!(location(&answer), format!("/v2/team/app/blobs/{digest}"));
    assert_eq!(robot.ask("GET", &location(&answer), &Content::Empty).1, b"hello world");
}

#[test]
fn a_chunked_upload_and_a_location_under_the_senders_own_host() {
    let registry = registry(false, None);
    let head =
        format!("POST /v2/a/blobs/uploads/ HTTP/1.1\r\nHost: somewhere:81\r\n{BASIC}\r\n\r\n");
    let answer = raw(&registry, &head);
    let at = answer.find("Location: http://somewhere:81/v2/a/blobs/uploads/").unwrap();
    let target = answer[at..].lines().next().unwrap().split(":81").nth(1).unwrap();
    let mut patch = format!("PATCH {target} HTTP/1.1\r\nHost: h\r\n{BASIC}\r\n");
    patch.push_str("Transfer-Encoding: chunked\r\n\r\n");
    for piece in ["abc", "0123456789abcdef0", "z"] {
        write!(patch, "{:x}\r\n{piece}\r\n", piece.len()).unwrap();
    }
    patch.push_str("0\r\nTrailer: dropped\r\n\r\n");
    let answer = raw(&registry, &patch);
    assert!(answer.starts_with("HTTP/1.1 202 ") && answer.contains("Range: 0-20\r\n"), "{answer}");
}

#[test]
fn a_state_that_was_touched_or_is_old_ends_the_upload() {
    let registry = registry(false, None);
    let mut robot = Robot::of(&registry);
    let spoil: [fn(&str) -> String; 3] = [
        |target| target.replacen("_state=", "_state=A", 1),
        |target| target.split('?').next().unwrap().to_owned(),
        |target| target.replacen("/v2/a/", "/v2/b/", 1),
    ];
    for (index, spoil) in spoil.into_iter().enumerate() {
        let target = robot.open("a");
        let (answer, body) = robot.ask("PATCH", &spoil(&target), &Content::Empty);
        assert_eq!(answer.status, 404);
        // Under another repository there is no such upload at all, and nothing to cancel.
        let foreign = index == 2;
        assert_eq!(code(&body) == "BLOB_UPLOAD_UNKNOWN", foreign);
        assert_eq!(robot.status("GET", &target) == 204, foreign);
    }
    let old = robot.open("a");
    let new = location(&robot.patch(&old, b"x"));
    assert_eq!(robot.patch(&old, b"x").status, 404);
    assert_eq!(robot.status("GET", &new), 404);
}

#[test]
fn an_upload_is_refused_out_of_order_with_a_wrong_digest_and_after_its_end() {
    let registry = registry(false, None);
    let mut robot = Robot::of(&registry);
    let target = robot.open("a");
    let head = format!(
        "PATCH {target} HTTP/1.1\r\nHost: h\r\n{BASIC}\r\nContent-Range: 5-6\r\n\
         Content-Length: 2\r\n\r\nxx"
    );
    let answer = raw(&registry, &head);
    assert!(answer.starts_with("HTTP/1.1 416 ") && answer.contains("Range: 0-0"), "{answer}");
    let wrong = format!("{target}&digest={}", digest_of(b"other", ""));
    let (answer, body) = robot.ask("PUT", &wrong, &Content::Empty);
    assert_eq!((answer.status, code(&body).as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(robot.status("GET", &target), 404);
    let target = robot.open("a");
    assert_eq!(robot.status("DELETE", &target), 204);
    assert_eq!(robot.status("GET", &target), 404);
}

#[test]
fn a_blob_is_pushed_with_one_post_with_sha512_or_mounted() {
    let registry = registry(false, None);
    let mut robot = Robot::of(&registry);
    let octets = Content::Bytes("application/octet-stream", b"whole");
    let digest = digest_of(b"whole", &format!("sha512:{}", "0".repeat(128)));
    let target = format!("/v2/a/blobs/uploads/?digest={}", digest.replace(':', "%3A"));
    assert_eq!(robot.ask("POST", &target, &octets).0.status, 201);
    let mount = format!("/v2/b/c/blobs/uploads/?mount={digest}&from=");
    assert_eq!(robot.status("POST", &format!("{mount}nowhere")), 202);
    assert_eq!(robot.status("POST", &format!("{mount}a")), 201);
    assert_eq!(robot.ask("GET", &format!("/v2/b/c/blobs/{digest}"), &Content::Empty).1, b"whole");
}

#[test]
fn a_manifest_needs_its_blobs_and_comes_back_byte_for_byte() {
    let registry = registry(false, None);
    let mut robot = Robot::of(&registry);
    let config = robot.push("a", b"{}");
    let manifest = image(&config, &digest_of(b"layer", ""));
    let (answer, body) = robot.put_manifest("a", "v1", &manifest);
    assert_eq!((answer.status, code(&body).as_str()), (400, "MANIFEST_BLOB_UNKNOWN"));
    robot.push("a", b"layer");
    let (answer, _) = robot.put_manifest("a", "v1", &manifest);
    assert_eq!(answer.status, 201);
    let digest = answer.fields.first("docker-content-digest").unwrap().to_owned();
    for reference in ["v1", digest.as_str()] {
        let target = format!("/v2/a/manifests/{reference}");
        let (answer, body) = robot.ask("GET", &target, &Content::Empty);
        assert_eq!(answer.fields.first("content-type"), manifest["mediaType"].as_str());
        assert_eq!(body, manifest.to_string().into_bytes());
    }
    let (answer, body) = robot.put_manifest("a", &digest_of(b"other", ""), &manifest);
    assert_eq!((answer.status, code(&body).as_str()), (400, "DIGEST_INVALID"));
    assert_eq!(robot.status("DELETE", "/v2/a/manifests/v1"), 400);
    assert_eq!(robot.status("DELETE", &format!("/v2/a/manifests/{digest}")), 202);
    assert_eq!(robot.status("GET", "/v2/a/manifests/v1"), 404);
}

#[test]
fn tags_and_the_catalogue_are_listed_page_by_page() {
    let registry = registry(false, None);
    let mut robot = Robot::of(&registry);
    let manifest = image(&robot.push("a/b", b"{}"), &robot.push("a/b", b"layer"));
    for tag in ["c", "a", "b"] {
        assert_eq!(robot.put_manifest("a/b", tag, &manifest).0.status, 201);
    }
    let (answer, body) = robot.ask("GET", "/v2/a/b/tags/list?n=2", &Content::Empty);
    assert_eq!(body, json!({ "name": "a/b", "tags": ["a", "b"] }).to_string().into_bytes());
    let link = answer.fields.first("link").unwrap();
    assert_eq!(link, "</v2/a/b/tags/list?last=b&n=2>; rel=\"next\"");
    let (answer, body) = robot.ask("GET", "/v2/a/b/tags/list?last=b&n=2", &Content::Empty);
    assert_eq!(body, json!({ "name": "a/b", "tags": ["c"] }).to_string().into_bytes());
    assert!(answer.fields.first("link").is_none());
    let (_, body) = robot.ask("GET", "/v2/_catalog", &Content::Empty);
    assert_eq!(body, json!({ "repositories": ["a/b"] }).to_string().into_bytes());
    assert_eq!(robot.status("GET", "/v2/nobody/tags/list"), 404);
}

#[test]
fn referrers_are_found_by_their_subject_and_kind() {
    let registry = registry(false, None);
    let mut robot = Robot::of(&registry);
    let mut manifest = image(&robot.push("a", b"{}"), &robot.push("a", b"layer"));
    let subject = digest_of(b"subject", "");
    manifest["subject"] = json!({ "mediaType": "x/y", "digest": subject, "size": 1 });
    manifest["artifactType"] = "x/signature".into();
    let (answer, _) = robot.put_manifest("a", "signature", &manifest);
    assert_eq!(answer.fields.first("oci-subject"), Some(subject.as_str()));
    for (query, count) in [("", 1), ("?artifactType=x%2Fsignature", 1), ("?artifactType=x", 0)] {
        let target = format!("/v2/a/referrers/{subject}{query}");
        let (answer, body) = robot.ask("GET", &target, &Content::Empty);
        let index: Value = serde_json::from_slice(&body).unwrap();
        assert_eq!(index["manifests"].as_array().unwrap().len(), count, "{query}");
        assert_eq!(answer.fields.first("oci-filters-applied").is_some(), !query.is_empty());
    }
}

#[test]
fn what_two_parsers_could_read_differently_is_refused() {
    let registry = registry(false, None);
    let bad = [
        "Host: h\r\nContent-Length: 1\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        "Host: h\r\nContent-Length: 1\r\nContent-Length: 1\r\n\r\nx",
        "Host: h\r\nContent-Length: +1\r\n\r\nx",
        "Host: h\r\nTransfer-Encoding: gzip, chunked\r\n\r\n0\r\n\r\n",
        "Host: h\r\nHost: h\r\n\r\n",
        "X: y\r\n\r\n",
        "Host : h\r\n\r\n",
    ];
    for fields in bad {
        let answer = raw(&registry, &format!("POST /v2/a/blobs/uploads/ HTTP/1.1\r\n{fields}"));
        assert!(answer.starts_with("HTTP/1.1 400 "), "{fields}: {answer}");
        assert!(answer.contains("Connection: close\r\n"), "{fields}: {answer}");
    }
}

#[test]
fn an_early_refusal_reaches_a_caller_that_is_still_sending() {
    let registry = registry(false, None);
    let mut caller = Caller::new(registry.address(), Some(("robot$demo", "wrong")));
    let body = vec![7; 16 << 20];
    let content = Content::Bytes("application/octet-stream", &body);
    let (answer, _) = caller.ask("PUT", "/v2/a/manifests/v1", &content, &mut |_| {}).unwrap();
    assert_eq!(answer.status, 401);
}

#[test]
fn a_store_that_discards_keeps_sizes_and_serves_the_same_noise_twice() {
    let registry = registry(true, None);
    let mut robot = Robot::of(&registry);
    let body = vec![7; 3 << 20];
    let digest = robot.push("a", &body);
    let target = format!("/v2/a/blobs/{digest}");
    let (_, first) = robot.ask("GET", &target, &Content::Empty);
    let (_, second) = robot.ask("GET", &target, &Content::Empty);
    assert_eq!(first.len(), body.len());
    assert!(first == second && first != body);
}

#[test]
fn what_was_seen_is_counted_by_user_and_the_marker_is_found_inside_base64() {
    let registry = registry(false, Some("pod-token"));
    let mut robot = Robot::of(&registry);
    robot.status("GET", "/v2/");
    let seen = registry.seen();
    assert_eq!((seen.requests, seen.refused, seen.foreign, seen.marked), (1, 0, 0, 0));
    assert_eq!(seen.users["robot$demo"], 1);

    let mut pod = Caller::new(registry.address(), Some(("pod", "pod-token")));
    pod.ask("GET", "/v2/", &Content::Empty, &mut |_| {}).unwrap();
    robot.status("GET", "/v2/?token=pod%2Dtoken");
    raw(&registry, &format!("GET /v2/ HTTP/1.1\r\nHost: h\r\n{BASIC}\r\nCookie: sid=1\r\n\r\n"));
    raw(&registry, "GET /v2/ HTTP/1.1\r\nHost: h\r\nAuthorization: Bearer pod-token\r\n\r\n");
    let seen = registry.seen();
    assert_eq!((seen.requests, seen.refused, seen.foreign, seen.marked), (5, 2, 2, 3));
    assert_eq!(seen.users["pod"], 1);
}

/// Whether skopeo is there; says so where `test` has to do without.
fn has_skopeo(test: &str) -> bool {
    let found = Command::new("skopeo").arg("--version").output().is_ok();
    if !found {
        eprintln!("SKIPPED {test}: skopeo is not installed");
    }
    found
}

/// Pushes an image with skopeo and pulls it again; `flags` follow `--dest-` and then `--src-`.
fn round_trip(registry: &Registry, flags: &[&str]) {
    let folder = tempfile::tempdir().unwrap();
    let (here, there) = (folder.path().join("here"), folder.path().join("there"));
    std::fs::create_dir(&here).unwrap();
    let layer = vec![9; 3 << 20];
    let config = json!({
        "architecture": "amd64",
        "os": "linux",
        "rootfs": { "type": "layers", "diff_ids": [digest_of(&layer, "")] },
    })
    .to_string();
    let config_digest = digest_of(config.as_bytes(), "");
    let mut manifest = image(&config_digest, &digest_of(&layer, ""));
    manifest["config"]["size"] = config.len().into();
    manifest["layers"][0]["size"] = layer.len().into();
    let name = |digest: &str| digest.split_once(':').unwrap().1.to_owned();
    std::fs::write(here.join("version"), "Directory Transport Version: 1.1\n").unwrap();
    std::fs::write(here.join("manifest.json"), manifest.to_string()).unwrap();
    std::fs::write(here.join(name(&config_digest)), &config).unwrap();
    std::fs::write(here.join(name(&digest_of(&layer, ""))), &layer).unwrap();

    let image = format!("docker://{}/team/app:v1", registry.address());
    let copy = |side: &str, from: &str, to: &str| {
        let mut command = Command::new("skopeo");
        command.args(["--insecure-policy", "copy", "--preserve-digests"]);
        command.args(flags.iter().map(|flag| format!("--{side}-{flag}")));
        let output = command.args([from, to]).env("HOME", folder.path()).output().unwrap();
        assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    };
    let directory = |path: &std::path::Path| format!("dir:{}", path.display());
    copy("dest", &directory(&here), &image);
    copy("src", &image, &directory(&there));

    assert_eq!(std::fs::read(there.join(name(&digest_of(&layer, "")))).unwrap(), layer);
    assert_eq!(std::fs::read_to_string(there.join("manifest.json")).unwrap(), manifest.to_string());
}

#[test]
fn skopeo_pushes_and_pulls_an_image() {
    if has_skopeo("skopeo_pushes_and_pulls_an_image") {
        round_trip(&registry(false, None), &["tls-verify=false", "creds=robot$demo:right"]);
    }
}
