//! Pulling: bytes and their framing come through unchanged, in every form a client asks for them.

use crate::support::caller::request;
use crate::support::image::Layout;
use crate::support::programs::{Job, lacking};
use crate::support::{
    Broken, DockerRegistry, FakeRegistry, Manifests, PASSWORD, PREFIX, Proxy, TOKEN, USER, answer,
    digest_of, docker_registry, noise,
};

#[test]
fn a_pod_pulls_with_its_own_token_and_the_registry_sees_the_robot() {
    let manifest = br#"{"schemaVersion":2}"#;
    let digest = digest_of(manifest);
    let fields = format!(
        "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n\
         Docker-Content-Digest: {digest}\r\n"
    );
    let registry = FakeRegistry::answering(move |_| answer(200, &fields, manifest));
    let proxy = Proxy::in_front_of(&registry);

    let reply = proxy.get(&format!("{PREFIX}/team/app/manifests/v1"));

    assert_eq!((reply.status, reply.body.as_slice()), (200, manifest.as_slice()));
    assert_eq!(reply.field("docker-content-digest"), Some(digest.as_str()));
    assert_eq!(reply.field("content-length"), Some("19"), "a length stays a length");
    assert!(registry.only_request().is_the_robots());
}

#[test]
fn bodies_of_every_size_and_framing_arrive_byte_for_byte() {
    let registry = FakeRegistry::answering(|seen| {
        let size = seen.target.rsplit('/').next().and_then(|tag| tag.parse().ok()).unwrap_or(0);
        let body = noise(size as u64, size);
        if seen.target.contains("/chunked/") {
            let mut bytes = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
            for piece in body.chunks(7000) {
                bytes.extend_from_slice(format!("{:X}\r\n", piece.len()).as_bytes());
                bytes.extend_from_slice(piece);
                bytes.extend_from_slice(b"\r\n");
            }
            bytes.extend_from_slice(b"0\r\n\r\n");
            return bytes;
        }
        answer(200, "", &body)
    });
    let proxy = Proxy::in_front_of(&registry);
    let mut caller = proxy.caller();
    for size in [0, 1, 4095, 16_384, 65_535, 65_536, 65_537, 300_000, 3_000_001] {
        for framing in ["sized", "chunked"] {
            let target = format!("{PREFIX}/team/{framing}/manifests/{size}");
            let reply = caller.ask(&request("GET", &target, ""));
            assert!(reply.body == noise(size as u64, size), "{framing} {size}");
            let length = reply.field("content-length").and_then(|length| length.parse().ok());
            assert_eq!(length, (framing == "sized").then_some(size), "{framing} {size}");
        }
    }
    assert_eq!(registry.connections(), 1, "one connection served them all");
}

#[test]
fn a_head_request_keeps_the_length_and_has_no_body() {
    let registry = FakeRegistry::answering(|_| {
        b"HTTP/1.1 200 OK\r\nContent-Length: 1073741824\r\nDocker-Content-Digest: sha256:x\r\n\r\n"
            .to_vec()
    });
    let proxy = Proxy::in_front_of(&registry);
    let mut caller = proxy.caller();
    let blob = format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x"));
    for _ in 0..2 {
        let reply = caller.ask(&request("HEAD", &blob, ""));
        assert_eq!((reply.status, reply.field("content-length")), (200, Some("1073741824")));
    }
    assert_eq!(registry.connections(), 1);
}

#[test]
fn ranges_and_conditions_pass_in_both_directions() {
    let registry = FakeRegistry::answering(|seen| match seen.field("if-none-match") {
        Some(_) => b"HTTP/1.1 304 Not Modified\r\nEtag: \"e\"\r\n\r\n".to_vec(),
        None => answer(206, "Content-Range: bytes 3-5/10\r\nAccept-Ranges: bytes\r\n", b"345"),
    });
    let proxy = Proxy::in_front_of(&registry);
    let blob = format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x"));
    let mut caller = proxy.caller();

    let reply = caller.ask(&request("GET", &blob, "Range: bytes=3-5\r\n"));
    assert_eq!((reply.status, reply.field("content-range")), (206, Some("bytes 3-5/10")));
    let reply = caller.ask(&request("GET", &blob, "If-None-Match: \"e\"\r\n"));
    assert_eq!((reply.status, reply.field("etag")), (304, Some("\"e\"")));

    let seen = registry.requests();
    assert_eq!(seen[0].field("range"), Some("bytes=3-5"));
    assert_eq!(seen[1].field("if-none-match"), Some("\"e\""));
    assert_eq!(registry.connections(), 1);
}

#[test]
fn many_ranges_in_one_field_pass_as_they_are() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let range = format!("bytes=-1,0-0{}", ",5-9".repeat(1000));
    let blob = format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x"));
    proxy.ask(&request("GET", &blob, &format!("Range: {range}\r\n")));
    assert_eq!(registry.only_request().field("range"), Some(range.as_str()));
}

#[test]
fn a_refused_range_whose_body_is_shorter_than_its_length_ends_the_connection_at_once() {
    // docker-registry 2.8 answers so: the blob's length, a few bytes of JSON, then it closes.
    let registry = FakeRegistry::scripted(|visit| {
        while visit.head().is_some() {
            visit.send("HTTP/1.1 416 Range Not Satisfiable\r\nContent-Length: 1000000\r\n\r\n{}");
            visit.finish();
        }
    });
    let proxy = Proxy::in_front_of(&registry);
    let mut caller = proxy.caller();
    let blob = format!("{PREFIX}/team/app/blobs/{}", digest_of(b"x"));
    caller.send(request("GET", &blob, "Range: bytes=2000000-\r\n"));
    let started = std::time::Instant::now();
    match caller.head() {
        Ok(head) => {
            assert!([416, 502].contains(&head.status), "{head}");
            match caller.body("GET", &head) {
                // A body that is no error of a registry is replaced by one that is whole.
                Ok(body) => assert!(body.starts_with(b"{\"errors\""), "{head}"),
                Err((broken, _)) => {
                    assert!(matches!(broken, Broken::Ended | Broken::Reset), "{broken:?}");
                }
            }
        }
        Err(broken) => assert!(matches!(broken, Broken::Ended | Broken::Reset), "{broken:?}"),
    }
    assert!(started.elapsed().as_secs() < 5);
}

#[test]
fn an_unsatisfiable_range_at_docker_registry_does_not_hang_the_caller() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let registry = DockerRegistry::http();
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &[]);
    let blob = noise(5, 100_000);
    let digest = digest_of(&blob);
    crate::push::upload_blob(&proxy, "team/app", &blob);
    let mut caller = proxy.caller();
    let target = format!("{PREFIX}/team/app/blobs/{digest}");
    let reply = caller.ask(&request("GET", &target, "Range: bytes=99990-99999\r\n"));
    assert_eq!((reply.status, reply.body.as_slice()), (206, &blob[99_990..]));

    caller.send(request("GET", &target, "Range: bytes=200000-\r\n"));
    let head = caller.head().expect("an answer");
    assert_eq!(head.status, 416);
    match caller.body("GET", &head) {
        // Either the body was replaced by a whole one and the connection goes on, or both end.
        Ok(body) => {
            assert!(body.starts_with(b"{\"errors\""), "{head}");
            assert_eq!(caller.ask(&request("GET", &target, "")).status, 200);
        }
        Err((broken, _)) => {
            assert!(matches!(broken, Broken::Ended | Broken::Reset), "{broken:?}");
        }
    }
}

#[test]
fn a_connector_without_auth_sends_no_credential() {
    let registry = FakeRegistry::obliging();
    let text = crate::support::manifests::anonymous_connector("ci", "harbor", &registry.url());
    let manifests = Manifests::for_registry(&registry.url()).with("connector.yaml", &text);
    let proxy = Proxy::start(&manifests, &[]);
    assert_eq!(proxy.get(&format!("{PREFIX}/team/app/manifests/v1")).status, 200);
    assert!(!registry.only_request().has("authorization"));
}

/// Pulls `image` in each of `clients`' ways and compares what arrives with `layout`.
#[track_caller]
fn pull_with(job: &Job, client: &str, image: &str, layout: &Layout) {
    match client {
        "skopeo" => {
            let place = job.path("pulled-by-skopeo").display().to_string();
            job.run(&format!(
                "skopeo copy --all --preserve-digests --src-tls-verify=false docker://{image}:v1 \
                 dir:{place}"
            ));
            let manifest = std::fs::read(format!("{place}/manifest.json")).expect("a manifest");
            assert_eq!(digest_of(&manifest), layout.digest);
        }
        other => {
            job.run(&format!("{other} pull --tls-verify=false {image}@{}", layout.digest));
        }
    }
}

#[test]
fn skopeo_buildah_and_podman_pull_images_and_indexes_in_both_forms() {
    let needed = ["skopeo", "buildah", "podman", "mount namespaces"];
    if lacking(&[docker_registry::NEEDED.as_slice(), &needed].concat()) {
        return;
    }
    let registry = DockerRegistry::http();
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &[]);
    let direct = Job::new(&registry.authority(), USER, PASSWORD);
    let image = Layout::image(&direct.path("image"), 3, 11);
    let index = Layout::index(&direct.path("index"), 12);
    for (layout, name) in [(&image, "app"), (&index, "multi")] {
        let to = format!("docker://{}/team/{name}:v1", registry.authority());
        let source = layout.source();
        direct.run(&format!(
            "skopeo copy --all --preserve-digests --dest-tls-verify=false {source} {to}"
        ));
    }
    for (host, prefix, resolves) in crate::push::forms(&proxy) {
        for client in ["skopeo", "buildah", "podman"] {
            let mut job = Job::new(&host, "pod", TOKEN);
            if let Some(name) = resolves {
                job = job.resolving(name);
            }
            pull_with(&job, client, &format!("{host}/{prefix}team/app"), &image);
            if client == "skopeo" {
                let place = job.path("pulled-by-skopeo");
                std::fs::remove_dir_all(place).expect("a folder");
            }
            pull_with(&job, client, &format!("{host}/{prefix}team/multi"), &index);
        }
    }
}
