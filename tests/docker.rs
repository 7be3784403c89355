//! Pushing and pulling with dockerd, whose graph drivers bring a client of their own: it learns the
//! scheme from a ping, sends a layer as one chunked PATCH and reads `Docker-Upload-UUID` and
//! `Range` (protocol of docker/distribution, registry/client/blob_writer.go).

use crate::push::forms;
use crate::support::dockerd::{self, Dockerd, Surroundings};
use crate::support::programs::lacking;
use crate::support::{DockerRegistry, Manifests, Proxy, STRANGER_TOKEN, TOKEN, docker_registry};

#[test]
fn dockerd_pushes_and_pulls_in_both_forms() {
    if lacking(
        &[docker_registry::NEEDED.as_slice(), &dockerd::NEEDED, &["mount namespaces"]].concat(),
    ) {
        return;
    }
    let registry = DockerRegistry::http();
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &[]);
    for (seed, (host, prefix, resolving)) in (70..).zip(forms(&proxy)) {
        let surroundings = Surroundings { insecure: &[&host], resolving, ..Default::default() };
        let docker = Dockerd::start(&surroundings);
        docker.log_in(&host, "pod", TOKEN);
        let name = format!("{host}/{prefix}docker{seed}/app:v1");
        docker.make(&name, seed);
        let made = docker.content(&name);
        docker.run(&["push", &name]);
        let digest = registry.digest(&format!("docker{seed}/app"), "v1");
        assert!(digest.is_some(), "the registry has the tag");
        docker.run(&["rmi", &name]);
        docker.run(&["pull", &name]);
        assert_eq!(docker.content(&name), made);
    }
}

#[test]
fn dockerd_is_told_why_it_may_not_push() {
    if lacking(&[docker_registry::NEEDED.as_slice(), &dockerd::NEEDED].concat()) {
        return;
    }
    let registry = DockerRegistry::http();
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &[]);
    let docker = Dockerd::start(&Surroundings::default());
    let host = proxy.listen.to_string();
    docker.log_in(&host, "pod", STRANGER_TOKEN);
    let name = format!("{host}/namespaces/ci/connectors/harbor/docker/denied:v1");
    docker.make(&name, 79);
    let (ok, stdout, stderr) = docker.try_run(&["push", &name]);
    assert!(!ok, "{stdout}{stderr}");
    assert!(stderr.contains("denied"), "{stderr}");
}
