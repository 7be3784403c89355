//! Pushing with the clients of real CI jobs, to a real registry, in both forms and over both
//! schemes: what is stored is what was sent, to the last byte.

use crate::support::caller::{basic, request, upload};
use crate::support::image::Layout;
use crate::support::manifests::{NEXT_PASSWORD, ca_secret, connector, secret};
use crate::support::programs::{Job, lacking};
use crate::support::{
    DockerRegistry, FakeRegistry, HOST, Manifests, PASSWORD, PREFIX, Proxy, TOKEN, USER, answer,
    digest_of, docker_registry, eventually, noise,
};

/// The two naming forms: the registry as a client writes it, the repository's prefix, and the name
/// that has to resolve.
pub(crate) fn forms(proxy: &Proxy) -> [(String, &'static str, Option<&'static str>); 2] {
    [
        (proxy.listen.to_string(), "namespaces/ci/connectors/harbor/", None),
        (format!("{HOST}:{}", proxy.listen.port()), "", Some(HOST)),
    ]
}

/// Uploads `blob` as one POST, one PATCH and one PUT, and returns the last answer's `Location`.
#[track_caller]
pub(crate) fn upload_blob(proxy: &Proxy, repository: &str, blob: &[u8]) -> String {
    let mut caller = proxy.caller();
    let start = format!("{PREFIX}/{repository}/blobs/uploads/");
    let opened = caller.ask(&request("POST", &start, "Content-Length: 0\r\n"));
    assert_eq!(opened.status, 202, "{opened}");
    let location = opened.field("location").expect("a location").to_owned();
    let more =
        format!("Content-Type: application/octet-stream\r\nContent-Length: {}\r\n", blob.len());
    caller.send(request("PATCH", &location, &more));
    caller.send(blob);
    let sent = caller.answer().expect("an answer");
    assert_eq!(sent.status, 202, "{sent}");
    let location = sent.field("location").expect("a location");
    let target = format!("{location}&digest={}", digest_of(blob).replace(':', "%3A"));
    let stored = caller.ask(&request("PUT", &target, "Content-Length: 0\r\n"));
    assert_eq!(stored.status, 201, "{stored}");
    stored.field("location").expect("a location").to_owned()
}

/// Manifests for a real registry, its CA included when it has one.
fn manifests_for(registry: &DockerRegistry) -> Manifests {
    let manifests = Manifests::for_registry(&registry.url());
    if registry.ca().is_empty() {
        return manifests;
    }
    let more = "  caCertSecretRef: {name: harbor-ca}\n";
    manifests
        .with("connector.yaml", &connector("ci", "harbor", &registry.url(), more))
        .with("ca.yaml", &ca_secret("ci", "harbor-ca", registry.ca()))
}

#[test]
fn skopeo_buildah_and_podman_push_images_and_indexes_over_http() {
    push_everything(DockerRegistry::http);
}

#[test]
fn skopeo_buildah_and_podman_push_images_and_indexes_over_https_with_an_own_ca() {
    push_everything(DockerRegistry::https);
}

fn push_everything(start: fn() -> DockerRegistry) {
    let needed = ["skopeo", "buildah", "podman", "mount namespaces"];
    if lacking(&[docker_registry::NEEDED.as_slice(), &needed].concat()) {
        return;
    }
    let registry = start();
    let proxy = Proxy::start(&manifests_for(&registry), &[]);
    for (number, (host, prefix, resolves)) in (0_u64..).zip(forms(&proxy)) {
        let mut job = Job::new(&host, "pod", TOKEN);
        if let Some(name) = resolves {
            job = job.resolving(name);
        }
        push_with_each_client(&registry, &job, &format!("{host}/{prefix}"), number);
    }
}

#[test]
fn what_the_clients_do_through_the_proxy_they_do_without_it() {
    let needed = ["skopeo", "buildah", "podman"];
    if lacking(&[docker_registry::NEEDED.as_slice(), &needed].concat()) {
        return;
    }
    // When this fails, the other stories of this file say nothing about the proxy.
    let registry = DockerRegistry::http();
    let job = Job::new(&registry.authority(), USER, PASSWORD);
    push_with_each_client(&registry, &job, &format!("{}/", registry.authority()), 9);
}

/// Pushes an image and an index with skopeo, buildah and podman, and compares what `registry` then
/// holds with what was sent. `prefix` is what stands before the repository in a reference.
pub(crate) fn push_with_each_client(
    registry: &DockerRegistry,
    job: &Job,
    prefix: &str,
    number: u64,
) {
    let image = Layout::image(&job.path("image"), 3, 20 + number);
    let index = Layout::index(&job.path("index"), 30 + number);
    for (layout, name) in [(&image, "app"), (&index, "multi")] {
        let repository = format!("skopeo{number}/{name}");
        job.run(&format!(
            "skopeo copy --all --preserve-digests --dest-tls-verify=false {} \
             docker://{prefix}{repository}:v1",
            layout.source()
        ));
        assert_eq!(registry.digest(&repository, "v1").as_ref(), Some(&layout.digest));
        for layer in &layout.layers {
            let bytes = registry.blob(layer).expect("the layer is stored");
            assert_eq!(digest_of(&bytes), *layer);
        }
    }
    for client in ["buildah", "podman"] {
        let repository = format!("{client}{number}/app");
        // buildah and podman share their storage: each pulls, pushes and removes.
        job.run(&format!("{client} pull {}", image.source()));
        let id = job.run(&format!("{client} images --quiet --no-trunc"));
        let id = id.lines().next().expect("an image").to_owned();
        let digests = job.path("digest").display().to_string();
        job.run(&format!(
            "{client} push --tls-verify=false --digestfile {digests} {id} \
             docker://{prefix}{repository}:v1"
        ));
        let pushed = std::fs::read_to_string(&digests).expect("a digest");
        assert_eq!(registry.digest(&repository, "v1"), Some(pushed.trim().to_owned()));

        let repository = format!("{client}{number}/multi");
        let list = format!("{client}-list");
        job.run(&format!("{client} manifest create {list}"));
        job.run(&format!("{client} manifest add --all {list} {}", index.source()));
        job.run(&format!(
            "{client} manifest push --all --tls-verify=false {list} \
             docker://{prefix}{repository}:v1"
        ));
        let stored = registry.digest(&repository, "v1").expect("the index is stored");
        let bytes = registry.blob(&stored).expect("its bytes");
        assert_eq!(digest_of(&bytes), stored);
        let stored: serde_json::Value = serde_json::from_slice(&bytes).expect("JSON");
        assert_eq!(stored["manifests"].as_array().map(Vec::len), Some(2), "{stored}");
        job.run(&format!("{client} rmi --all --force"));
    }
}

#[test]
fn a_layer_of_more_than_a_gibibyte_goes_up_and_down_in_the_path_form_over_http() {
    big_layer(DockerRegistry::http, 0);
}

#[test]
fn a_layer_of_more_than_a_gibibyte_goes_up_and_down_in_the_host_form_over_https() {
    big_layer(DockerRegistry::https, 1);
}

fn big_layer(start: fn() -> DockerRegistry, form: usize) {
    let needed = ["skopeo", "mount namespaces"];
    if lacking(&[docker_registry::NEEDED.as_slice(), &needed].concat()) {
        return;
    }
    let registry = start();
    let proxy = Proxy::start(&manifests_for(&registry), &[]);
    let (host, prefix, resolves) = forms(&proxy)[form].clone();
    let mut job = Job::new(&host, "pod", TOKEN);
    if let Some(name) = resolves {
        job = job.resolving(name);
    }
    let layout = Layout::big(&job.path("image"), 40 + form as u64);
    let image = format!("docker://{host}/{prefix}big/app:v1");
    job.run(&format!(
        "skopeo copy --preserve-digests --dest-tls-verify=false {} {image}",
        layout.source()
    ));
    assert_eq!(registry.digest("big/app", "v1").as_ref(), Some(&layout.digest));
    std::fs::remove_dir_all(job.path("image")).expect("the layout is no longer needed");
    // skopeo compares each blob it reads with its digest.
    let place = job.path("pulled").display().to_string();
    job.run(&format!("skopeo copy --src-tls-verify=false {image} dir:{place}"));
    let layer = layout.layers[0].trim_start_matches("sha256:").to_owned();
    let pulled = std::fs::metadata(format!("{place}/{layer}")).expect("the layer");
    assert!(pulled.len() > 1 << 30);
    assert!(proxy.memory_peak() < 128 << 20, "{} bytes", proxy.memory_peak());
}

#[test]
fn a_mount_inside_one_connector_is_a_mount() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let registry = DockerRegistry::http();
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &[]);
    let blob = noise(50, 50_000);
    let digest = digest_of(&blob);
    upload_blob(&proxy, "team/app", &blob);

    let query = format!(
        "mount={}&from=namespaces%2Fci%2Fconnectors%2Fharbor%2Fteam%2Fapp",
        digest.replace(':', "%3A")
    );
    let target = format!("{PREFIX}/team/other/blobs/uploads/?{query}");
    let answer = proxy.ask(&request("POST", &target, "Content-Length: 0\r\n"));

    assert_eq!(answer.status, 201, "{answer}");
    let location = format!("{PREFIX}/team/other/blobs/{digest}");
    assert_eq!(answer.field("location"), Some(location.as_str()));
    assert!(registry.holds("team/other", &digest));
}

#[test]
fn skopeo_mounts_between_repositories_of_one_connector() {
    let needed = ["skopeo", "mount namespaces"];
    if lacking(&[docker_registry::NEEDED.as_slice(), &needed].concat()) {
        return;
    }
    let registry = DockerRegistry::http();
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &[]);
    for (number, (host, prefix, resolves)) in (0_u64..).zip(forms(&proxy)) {
        let mut job = Job::new(&host, "pod", TOKEN);
        if let Some(name) = resolves {
            job = job.resolving(name);
        }
        let layout = Layout::image(&job.path("image"), 2, 60 + number);
        for repository in ["first", "second"] {
            job.run(&format!(
                "skopeo copy --preserve-digests --dest-tls-verify=false {} \
                 docker://{host}/{prefix}mount{number}/{repository}:v1",
                layout.source()
            ));
        }
        let stored = registry.digest(&format!("mount{number}/second"), "v1");
        assert_eq!(stored, Some(layout.digest));
        let log = registry.log();
        let mounted = log.lines().any(|line| {
            line.contains(&format!("/v2/mount{number}/second/blobs/uploads/?from=mount{number}%2F"))
                && line.contains("http.response.status=201")
        });
        assert!(mounted, "the registry saw no mount");
    }
}

#[test]
fn a_mount_from_another_connector_is_an_ordinary_upload() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let registry = DockerRegistry::http();
    let manifests =
        Manifests::for_registry(&registry.url()).with_connector("ci", "second", &registry.url());
    let proxy = Proxy::start(&manifests, &[]);
    let blob = noise(51, 50_000);
    let digest = digest_of(&blob);
    upload_blob(&proxy, "team/app", &blob);

    // Both connectors lead to one registry, so that a mount that passed would succeed.
    let start = "/v2/namespaces/ci/connectors/second/team/other/blobs/uploads/";
    let query = format!("mount={digest}&from=namespaces/ci/connectors/harbor/team/app");
    let answer = proxy.ask(&request("POST", &format!("{start}?{query}"), "Content-Length: 0\r\n"));

    assert_eq!(answer.status, 202, "{answer}");
    let location = answer.field("location").expect("a location");
    assert!(location.starts_with(start), "{location}");
    assert!(!registry.holds("team/other", &digest));
}

#[test]
fn a_mount_that_the_registry_refuses_becomes_an_ordinary_upload() {
    for status in [400, 401, 403, 404] {
        let registry = FakeRegistry::answering(move |seen| {
            if seen.target.contains("mount=") {
                return answer(status, "", b"no");
            }
            answer(202, "Location: /v2/team/other/blobs/uploads/1\r\n", b"")
        });
        let proxy = Proxy::in_front_of(&registry);
        let digest = digest_of(b"x");
        let query = format!("mount={digest}&from=namespaces/ci/connectors/harbor/team/app");
        let target = format!("{PREFIX}/team/other/blobs/uploads/?{query}");
        let reply = proxy.ask(&request("POST", &target, "Content-Length: 0\r\n"));
        assert_eq!(reply.status, 202, "{status}: {reply}");
        assert_eq!(registry.arrivals().len(), 2);
    }
}

#[test]
fn an_upload_with_chunks_stays_chunked_and_one_with_a_length_keeps_it() {
    let registry = FakeRegistry::answering(|_| {
        answer(202, "Location: /v2/team/app/blobs/uploads/1?_state=a\r\nRange: 0-9\r\n", b"")
    });
    let proxy = Proxy::in_front_of(&registry);
    let target = format!("{PREFIX}/team/app/blobs/uploads/1?_state=a");
    let mut caller = proxy.caller();

    let mut chunked = request("PATCH", &target, "Transfer-Encoding: chunked\r\n").into_bytes();
    chunked.extend_from_slice(b"5\r\nhello\r\n6\r\n world\r\n0\r\n\r\n");
    caller.send(chunked);
    let reply = caller.answer().expect("an answer");
    assert_eq!((reply.status, reply.field("range")), (202, Some("0-9")));
    assert_eq!(caller.ask(&upload("PATCH", &target, "hello")).status, 202);

    let seen = registry.requests();
    assert_eq!(seen[0].body, b"hello world");
    assert_eq!(seen[0].field("transfer-encoding"), Some("chunked"));
    assert!(!seen[0].has("content-length"));
    assert_eq!(
        (seen[1].field("content-length"), seen[1].body.as_slice()),
        (Some("5"), &b"hello"[..])
    );
    assert!(!seen[1].has("transfer-encoding"));
}

#[test]
fn chunks_of_every_size_and_spelling_arrive_byte_for_byte() {
    let registry = FakeRegistry::answering(|_| {
        answer(202, "Location: /v2/team/app/blobs/uploads/1?_state=a\r\nRange: 0-9\r\n", b"")
    });
    let proxy = Proxy::in_front_of(&registry);
    let target = format!("{PREFIX}/team/app/blobs/uploads/1?_state=a");
    let mut caller = proxy.caller();
    // Small ones and large ones in every order, heads that may pass as they are and heads that may
    // not, and requests cut at places that have nothing to do with either.
    let sizes = [1, 16_384, 32_768, 3, 100_000, 16_383, 70_000, 70_000, 2, 200_000, 32_768, 9];
    let spellings: [fn(usize) -> String; 4] = [
        |size| format!("{size:x}\r\n"),
        |size| format!("{size:X};ext=\"1\"\r\n"),
        |size| format!("000{size:x}\r\n"),
        |size| format!("{size:x}\r\n"),
    ];
    for round in 0..8_usize {
        let mut body = Vec::new();
        let mut bytes = request("PATCH", &target, "Transfer-Encoding: chunked\r\n").into_bytes();
        for (number, size) in sizes.iter().cycle().skip(round).take(60).enumerate() {
            let data = noise(round as u64 * 100 + number as u64, *size);
            let spelling = spellings[if round < 2 { 0 } else { (number * 7 + round) % 4 }];
            bytes.extend_from_slice(spelling(*size).as_bytes());
            bytes.extend_from_slice(&data);
            bytes.extend_from_slice(b"\r\n");
            body.extend_from_slice(&data);
        }
        bytes.extend_from_slice(b"0\r\nX-Trailer: dropped\r\n\r\n");
        let piece = [1 << 20, 65_536, 9_973, 32_770, 1_461, 200_003, 777_777, 16_384][round];
        for piece in bytes.chunks(piece) {
            caller.send(piece);
        }
        assert_eq!(caller.answer().expect("an answer").status, 202);
        let seen = registry.requests().pop().expect("a request");
        assert!(seen.complete && seen.body == body, "round {round}: {} bytes", seen.body.len());
    }
}

#[test]
fn what_follows_a_body_of_chunks_at_once_is_the_next_request() {
    let registry = FakeRegistry::answering(|_| {
        answer(202, "Location: /v2/team/app/blobs/uploads/1?_state=a\r\nRange: 0-9\r\n", b"")
    });
    let proxy = Proxy::in_front_of(&registry);
    let target = format!("{PREFIX}/team/app/blobs/uploads/1?_state=a");
    let mut caller = proxy.caller();
    let data = noise(5, 32 << 10);
    let mut bytes = Vec::new();
    // More than sockets and pipes take at once, so that some of each lies behind the one before.
    for chunks in [1, 40, 120, 3] {
        bytes.extend(request("PATCH", &target, "Transfer-Encoding: chunked\r\n").into_bytes());
        for _ in 0..chunks {
            bytes.extend([b"8000\r\n", data.as_slice(), b"\r\n"].concat());
        }
        bytes.extend(b"0\r\n\r\n");
        bytes.extend(upload("PATCH", &target, "with a length").as_bytes());
    }
    caller.send(bytes);
    for _ in 0..8 {
        assert_eq!(caller.answer().expect("an answer").status, 202);
    }
    let lengths: Vec<usize> = registry.requests().iter().map(|seen| seen.body.len()).collect();
    assert_eq!(lengths, [1, 40, 120, 3].map(|chunks| [chunks << 15, 13]).concat());
    assert!(registry.requests().iter().all(|seen| seen.complete));
}

#[test]
fn a_caller_that_waits_for_100_continue_gets_it_once_and_only_when_it_may_go_on() {
    let registry = FakeRegistry::answering(|_| answer(201, "", b""));
    let proxy = Proxy::in_front_of(&registry);
    let target = format!("{PREFIX}/team/app/manifests/v1");
    let head = request("PUT", &target, "Expect: 100-continue\r\nContent-Length: 5\r\n");

    let mut caller = proxy.caller();
    caller.send(&head);
    let mut interim = Vec::new();
    caller.take(25, &mut interim).expect("an interim answer");
    assert_eq!(interim, b"HTTP/1.1 100 Continue\r\n\r\n");
    caller.send("hello");
    let reply = caller.answer().expect("an answer");
    assert_eq!((reply.status, reply.interim.len()), (201, 0));
    assert!(!registry.only_request().has("expect"));

    let denied = head.replace(&basic(TOKEN), &basic("wrong"));
    let reply = proxy.ask(&denied);
    assert_eq!((reply.status, reply.interim.len()), (401, 0));
    let unknown = head.replace("100-continue", "miracles");
    assert_eq!(proxy.ask(&unknown).status, 417);
}

#[test]
fn the_password_may_change_between_the_post_and_the_put_of_one_upload() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let registry = DockerRegistry::http();
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &[]);
    let blob = noise(52, 200_000);
    let mut caller = proxy.caller();
    let start = format!("{PREFIX}/team/app/blobs/uploads/");
    let opened = caller.ask(&request("POST", &start, "Content-Length: 0\r\n"));
    assert_eq!(opened.status, 202, "{opened}");
    let location = opened.field("location").expect("a location").to_owned();

    registry.change_password(NEXT_PASSWORD);
    proxy.write("secret.yaml", &secret("ci", "harbor", NEXT_PASSWORD));
    eventually("the new password is used", || {
        let answer = caller.ask(&request("GET", &format!("{PREFIX}/team/app/tags/list"), ""));
        (answer.status == 404).then_some(())
    });

    let more = format!("Content-Length: {}\r\n", blob.len());
    let target = format!("{location}&digest={}", digest_of(&blob));
    caller.send(request("PUT", &target, &more));
    caller.send(&blob);
    let stored = caller.answer().expect("an answer");
    assert_eq!(stored.status, 201, "{stored}");
    assert_eq!(registry.blob(&digest_of(&blob)), Some(blob));
}

#[test]
fn an_answer_that_meets_the_end_of_a_body_leaves_the_connection_open() {
    let registry = FakeRegistry::answering(|_| answer(202, "", b""));
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &["--cores", "1"]);
    let blob = noise(53, 10_000);
    // A body gives way to others after some hundred kilobytes of its connections', and where that
    // falls on its last byte the answer can be there first.
    std::thread::scope(|scope| {
        for _ in 0..16 {
            scope.spawn(|| {
                let mut caller = proxy.caller();
                let target = format!("{PREFIX}/team/app/blobs/uploads/u");
                let head = request("PATCH", &target, "Content-Length: 10000\r\n");
                for _ in 0..100 {
                    caller.send(&head);
                    caller.send(&blob);
                    let sent = caller.answer().expect("an answer");
                    assert_eq!((sent.status, sent.field("connection")), (202, None), "{sent}");
                }
            });
        }
    });
}
