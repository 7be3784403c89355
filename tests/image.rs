//! The container image, run as a cluster runs it: what it may not do costs it io_uring at most.

use std::time::Duration;

use crate::push::upload_blob;
use crate::support::container::{self, Image, Seccomp};
use crate::support::programs::lacking;
use crate::support::{DockerRegistry, Manifests, PREFIX, digest_of, docker_registry, noise};

#[test]
fn the_image_pushes_and_pulls_on_epoll_by_default_and_on_io_uring_with_our_profile() {
    if lacking(&[container::NEEDED.as_slice(), &docker_registry::NEEDED].concat()) {
        return;
    }
    let registry = DockerRegistry::http();
    let image = Image::build();
    let rows = [
        (Seccomp::Default, "epoll"),
        (Seccomp::NotPermitted, "epoll"),
        (Seccomp::Ours, "io_uring"),
    ];
    for (number, (seccomp, io)) in rows.into_iter().enumerate() {
        let mut proxy = image.start(&seccomp, &Manifests::for_registry(&registry.url()));
        assert_eq!(proxy.ready["io"], io);
        let blob = noise(number as u64, 5_000_000);
        upload_blob(&proxy, "image/app", &blob);
        let pulled = proxy.get(&format!("{PREFIX}/image/app/blobs/{}", digest_of(&blob)));
        assert_eq!((pulled.status, digest_of(&pulled.body)), (200, digest_of(&blob)));
        proxy.terminate();
        assert!(proxy.exit(Duration::from_secs(30)).success(), "{}", proxy.log());
    }
}

#[test]
fn every_other_verb_starts_in_the_image() {
    if lacking(&container::NEEDED) {
        return;
    }
    let image = Image::build();
    let (ok, text) = image.run(&Seccomp::Default, &["crds"]);
    assert!(ok && text.contains("connectors.connectors.alauda.io"), "{text}");
    let (ok, text) = image.run(&Seccomp::Default, &["seccomp"]);
    assert!(ok && text.contains("io_uring_setup"), "{text}");
    let (ok, text) = image.run(&Seccomp::Ours, &["--version"]);
    assert!(ok && text.contains(env!("CARGO_PKG_VERSION")), "{text}");
    let (ok, text) = image.run(&Seccomp::Default, &["controller"]);
    assert!(!ok && text.matches("set KUBECONFIG").count() == 1, "{text}");
    let (ok, text) = image.run(&Seccomp::Default, &["ca", "show", "--ca-dir", "/nowhere"]);
    assert!(!ok && text.contains("there is no CA here yet"), "{text}");
    let driver = ["csi", "--node-id", "n", "--endpoint", "unix:///tmp/s", "--file", "/nowhere"];
    let (ok, text) = image.run(&Seccomp::Default, &driver);
    assert!(!ok && text.contains("/nowhere"), "{text}");
    let (ok, text) = image.run(&Seccomp::Default, &["check", "/nowhere"]);
    assert!(!ok && text.contains("/nowhere"), "{text}");
}
