//! Every real client against every way that a connector logs in: as a robot of Harbor, without an
//! account, and at a registry that takes nothing but tokens. The client shows its Pod's token and
//! knows nothing of all that.

use crate::push::push_with_each_client;
use crate::support::dockerd::{self, Dockerd, Surroundings};
use crate::support::harbor::{Account, Authorization, Right, Settings, Visibility};
use crate::support::image::Layout;
use crate::support::manifests::anonymous_connector;
use crate::support::programs::{Job, lacking};
use crate::support::token_service::TokenService;
use crate::support::{
    DockerRegistry, Harbor, Manifests, PASSWORD, Proxy, TOKEN, USER, docker_registry,
};

#[test]
fn dockerd_pushes_and_pulls_with_a_robot_of_harbor() {
    if lacking(&[docker_registry::NEEDED.as_slice(), &dockerd::NEEDED].concat()) {
        return;
    }
    let harbor = Harbor::http();
    let proxy = Proxy::start(&harbor.manifests(), &[]);
    push_and_pull_with_dockerd(harbor.registry(), &proxy, "team/docker", 81);
    let robots = Authorization::Basic { principal: USER.to_owned(), password: Some(0) };
    assert!(harbor.requests().iter().all(|seen| seen.authorization == robots && !seen.cookies));
}

#[test]
fn every_client_pulls_a_public_project_through_a_connector_without_an_account() {
    let needed = ["skopeo", "buildah", "podman"];
    let needed = [docker_registry::NEEDED.as_slice(), &dockerd::NEEDED, &needed].concat();
    if lacking(&needed) {
        return;
    }
    let rights: &[(&str, &[Right])] = &[("library", &[Right::Pull, Right::Push])];
    let harbor = Harbor::start(Settings {
        projects: vec![("library", Visibility::Public)],
        accounts: vec![Account::robot(USER, PASSWORD, rights)],
        ..Settings::default()
    });
    let open = anonymous_connector("ci", "open", &harbor.url());
    let proxy = Proxy::start(&harbor.manifests().with("open.yaml", &open), &[]);
    let host = proxy.listen;
    let image = |name: &str| format!("{host}/namespaces/ci/connectors/{name}/library/app:v1");
    let job = Job::new(&host.to_string(), "pod", TOKEN);
    let layout = Layout::image(&job.path("image"), 2, 82);
    job.run(&format!(
        "skopeo copy --preserve-digests --dest-tls-verify=false {} docker://{}",
        layout.source(),
        image("harbor")
    ));

    let place = job.path("pulled").display().to_string();
    let (open, theirs) = (image("open"), harbor.logins().len());
    job.run(&format!("skopeo copy --src-tls-verify=false docker://{open} dir:{place}"));
    for client in ["buildah", "podman"] {
        job.run(&format!("{client} pull --tls-verify=false {open}"));
        job.run(&format!("{client} rmi --all --force"));
    }
    let docker = Dockerd::start(&Surroundings::default());
    docker.log_in(&host.to_string(), "pod", TOKEN);
    docker.run(&["pull", &open]);
    assert_eq!(harbor.logins().len(), theirs, "nobody logged in");
    // What it may not do it is told, and Harbor never hears of it.
    docker.run(&["tag", &open, &image("open").replace(":v1", ":v2")]);
    let (ok, _, said) = docker.try_run(&["push", &image("open").replace(":v1", ":v2")]);
    assert!(!ok && said.contains("denied"), "{said}");
}

#[test]
fn every_client_pushes_and_pulls_where_the_registry_takes_nothing_but_tokens() {
    let needed = ["skopeo", "buildah", "podman"];
    let needed = [docker_registry::NEEDED.as_slice(), &dockerd::NEEDED, &needed].concat();
    if lacking(&needed) {
        return;
    }
    let service = TokenService::start();
    let registry = DockerRegistry::with_tokens(&service.realm(), &service.certificate);
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &[]);
    let host = proxy.listen.to_string();
    let job = Job::new(&host, "pod", TOKEN);
    let prefix = format!("{host}/namespaces/ci/connectors/harbor/");
    push_with_each_client(&registry, &job, &prefix, 7);
    for client in ["buildah", "podman"] {
        job.run(&format!("{client} pull --tls-verify=false {prefix}{client}7/app:v1"));
        job.run(&format!("{client} rmi --all --force"));
    }
    push_and_pull_with_dockerd(&registry, &proxy, "docker7/app", 83);
}

/// Pushes an image to `repository` with dockerd, and pulls it again.
fn push_and_pull_with_dockerd(
    registry: &DockerRegistry,
    proxy: &Proxy,
    repository: &str,
    seed: u64,
) {
    let host = proxy.listen.to_string();
    let docker = Dockerd::start(&Surroundings::default());
    docker.log_in(&host, "pod", TOKEN);
    let name = format!("{host}/namespaces/ci/connectors/harbor/{repository}:v1");
    docker.make(&name, seed);
    let made = docker.content(&name);
    docker.run(&["push", &name]);
    assert!(registry.digest(repository, "v1").is_some(), "the registry has the tag");
    docker.run(&["rmi", &name]);
    docker.run(&["pull", &name]);
    assert_eq!(docker.content(&name), made);
}
