//! The container image, run as a cluster runs it: what it may not do costs it io_uring at most.

use std::fs::{self, Permissions};
use std::os::unix::fs::PermissionsExt as _;
use std::time::Duration;

use tempfile::TempDir;

use crate::push::upload_blob;
use crate::support::cluster::CONTROLLER;
use crate::support::container::{self, Image, Seccomp};
use crate::support::programs::lacking;
use crate::support::{
    Cluster, DockerRegistry, Manifests, PREFIX, deployment, digest_of, docker_registry, noise,
};

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
fn every_other_verb_runs_in_the_image() {
    if lacking(&container::NEEDED) {
        return;
    }
    let image = Image::build();
    controller_serves(&image);
    driver_serves(&image);
    installer_installs(&image);
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
    let (ok, text) = image.run(&Seccomp::Default, &["check", "/nowhere"]);
    assert!(!ok && text.contains("/nowhere"), "{text}");
}

fn controller_serves(image: &Image) {
    let cluster = Cluster::new();
    let kubeconfig = cluster.kubeconfig_of(CONTROLLER);
    let mount = format!("{}:/kubeconfig:ro", kubeconfig.display());
    let more = ["--volume", &mount, "--env", "KUBECONFIG=/kubeconfig"];
    let verb = ["controller", "--admin", "127.0.0.1:0"];
    let (ok, text) = image.serve(&Seccomp::NotPermitted, &more, &verb).end();
    assert!(ok && text.contains("taking part in the election"), "{text}");
}

/// In a cluster it is root, because it mounts; it needs no more to serve plain folders.
fn driver_serves(image: &Image) {
    let scratch = TempDir::new().expect("a temporary folder");
    let work = scratch.path();
    for folder in ["kubelet/pods", "manifests"] {
        fs::create_dir_all(work.join(folder)).expect("a folder");
    }
    for (name, text) in Manifests::for_registry("http://127.0.0.1:1").files() {
        fs::write(work.join("manifests").join(name), text).expect("a manifest");
    }
    // The user of the image has nothing else on this machine.
    for folder in [work.to_owned(), work.join("kubelet/pods")] {
        fs::set_permissions(folder, Permissions::from_mode(0o777)).expect("an open folder");
    }
    let mount = format!("{}:/driver", work.display());
    let (more, socket) = (["--volume", &mount], "unix:///driver/csi/csi.sock");
    let files =
        ["--kubelet-dir", "/driver/kubelet", "--volumes", "folder", "--file", "/driver/manifests"];
    let verb = [&["csi", "--node-id", "n", "--endpoint", socket], files.as_slice()].concat();
    let driver = image.serve(&Seccomp::NotPermitted, &more, &verb);
    let probe = ["csi", "--probe", "--node-id", "n", "--endpoint", socket];
    let (ok, text) = image.run_with(&Seccomp::NotPermitted, &more, &probe);
    assert!(ok, "{text}");
    let (ok, text) = driver.end();
    assert!(ok, "{text}");
    let (ok, text) = image.run_with(&Seccomp::NotPermitted, &more, &probe);
    assert!(!ok, "nobody serves, and the probe is content: {text}");
    let (ok, text) = image.run_with(&Seccomp::NotPermitted, &more, &["check", "/driver/manifests"]);
    assert!(ok, "{text}");
}

/// As the overlay `io-uring` runs it: root, but without a capability.
fn installer_installs(image: &Image) {
    let profiles = TempDir::new().expect("a temporary folder");
    let mount = format!("{}:/profiles", profiles.path().display());
    let more = ["--user", "0:0", "--volume", &mount];
    let verb = ["seccomp", "--install", "/profiles/io-uring.json"];
    let (ok, text) = image.run_with(&Seccomp::NotPermitted, &more, &verb);
    assert!(ok, "{text}");
    let kept = fs::read_to_string(deployment::folder().join("io-uring/seccomp.json"));
    let installed = fs::read_to_string(profiles.path().join("io-uring.json"));
    assert_eq!(installed.expect("a profile"), kept.expect("a profile"));
}
