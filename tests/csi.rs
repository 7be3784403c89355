//! The CSI driver, told by a kubelet's calls: what a Pod finds in its volume, that it is right at
//! every moment, and that nobody gets what is not his.

use std::collections::BTreeMap;
use std::fs;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread;
use std::time::Duration;

use rustix::process::Signal;

use crate::forward::{clients_work_with, lacks_clients};
use crate::support;
use crate::support::image::Layout;
use crate::support::kubelet::{Driver, PAUSE, Volume, is_cut_off, outcome, register};
use crate::support::manifests::{ca_secret, connector, right};
use crate::support::programs::{Job, lacking};
use crate::support::{
    Cluster, DockerRegistry, HOST, Manifests, Proxy, STRANGER_TOKEN, TOKEN, docker_registry,
    eventually,
};

const CONNECTOR: (&str, &str) = ("connector.name", "harbor");

/// The usual manifests, for a registry that nobody asks.
fn manifests() -> Manifests {
    Manifests::for_registry("https://harbor.example.com")
}

/// What a Pod reads: names that do not begin with two dots, and what they hold.
fn seen(path: &Path) -> BTreeMap<String, String> {
    let names = fs::read_dir(path).into_iter().flatten();
    let names = names.filter_map(|entry| entry.ok()?.file_name().into_string().ok());
    let visible = names.filter(|name| !name.starts_with(".."));
    visible
        .filter_map(|name| fs::read_to_string(path.join(&name)).ok().map(|text| (name, text)))
        .collect()
}

/// `count` tokens of `ci/builder`, and the manifests that make them good.
fn many_tokens(count: usize) -> (Vec<String>, String) {
    let tokens: Vec<_> = (0..count).map(|number| format!("eyJh.token-{number:06}.c2ln")).collect();
    let secrets = tokens.iter().enumerate().map(|(number, token)| {
        format!(
            "---\napiVersion: v1\nkind: Secret\nmetadata:\n  name: builder-{number}\n  \
             namespace: ci\n  annotations: {{kubernetes.io/service-account.name: builder}}\n\
             type: kubernetes.io/service-account-token\nstringData: {{token: {token}}}\n"
        )
    });
    let secrets = secrets.collect();
    (tokens, secrets)
}

#[test]
fn a_pod_pushes_and_pulls_with_the_files_of_its_volume_as_they_are() {
    let needed = ["skopeo", "buildah", "mount namespaces"];
    if lacking(&[&docker_registry::NEEDED[..], &needed].concat()) {
        return;
    }
    let registry = DockerRegistry::http();
    let manifests = Manifests::for_registry(&registry.url());
    let proxy = Proxy::start(&manifests, &[]);
    let host = format!("{HOST}:{}", proxy.listen.port());
    // In a cluster the controller writes this.
    let status = format!("status: {{proxy: {{httpAddress: {{url: 'http://{host}'}}}}}}\n");
    let connector = manifests.files().find(|(name, _)| *name == "connector.yaml");
    let connector = format!("{}{status}", connector.expect("a connector").1);
    let driver = Driver::start(&manifests.with("connector.yaml", &connector), &[]);
    let kubelet = driver.kubelet();
    let volume = Volume::of("pod-1", &[CONNECTOR, ("configuration.names", "config,buildkitd")]);
    assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
    let files = volume.path(&driver.kubelet_folder());

    let proxy_url = format!("http://ci%2Fharbor:{TOKEN}@{host}");
    assert_eq!(seen(&files)["http.proxy"], proxy_url);
    assert_eq!(seen(&files)["connector.status.proxyAddress"], format!("http://{host}"));
    assert!(
        seen(&files)["buildkitd.toml"].contains(&format!("[registry.\"{host}\"]\nhttp = true"))
    );

    // The job has a login of its own, which is good for nothing here.
    let job = Job::new("nowhere.example", "nobody", "nothing").resolving(HOST);
    let login = format!("--authfile {}", files.join("config.json").display());
    let image = Layout::image(&job.path("image"), 2, 81);
    for (number, prefix) in ["", "namespaces/ci/connectors/harbor/"].iter().enumerate() {
        let name = format!("docker://{host}/{prefix}team/app-{number}:v1");
        job.run(&format!(
            "skopeo copy {login} --preserve-digests --dest-tls-verify=false {} {name}",
            image.source()
        ));
        job.run(&format!(
            "skopeo copy {login} --src-tls-verify=false {name} dir:{}",
            job.path(&format!("by-skopeo-{number}")).display()
        ));
        let plain = name.trim_start_matches("docker://");
        job.run(&format!("buildah pull {login} --tls-verify=false {plain}"));
        job.run(&format!("buildah push {login} --tls-verify=false {plain} {name}-again"));
        let without = format!("skopeo inspect --tls-verify=false {name}");
        assert!(!job.try_run(&without).0, "without the volume's login nobody gets in");
    }
    assert_eq!(outcome(&kubelet.unpublish(&volume)), "OK");
    assert!(!files.exists());
}

const NAME: &str = "harbor.example.com";

#[test]
fn a_pod_keeps_image_names_with_the_forward_proxy_of_its_volume() {
    if lacks_clients() {
        return;
    }
    let registry = DockerRegistry::https_called(NAME);
    let more = "  caCertSecretRef: {name: harbor-ca}\n";
    let text = connector("ci", "harbor", &registry.url(), more);
    let manifests = Manifests::for_registry(&registry.url())
        .with("connector.yaml", &text)
        .with("ca.yaml", &ca_secret("ci", "harbor-ca", registry.ca()));
    let hosts = format!("127.0.0.1 localhost {NAME}\n");
    let proxy = Proxy::start_with_hosts(&manifests, &[], Some(&hosts));
    // In a cluster the controller writes this.
    let status =
        format!("status: {{proxy: {{httpAddress: {{url: 'http://{}'}}}}}}\n", proxy.listen);
    let manifests = manifests.with("connector.yaml", &(text + &status));
    let authority = proxy.ca_path().display().to_string();
    let driver = Driver::start(&manifests, &["--ca-file", &authority]);
    let kubelet = driver.kubelet();
    let volume = Volume::of("pod-1", &[CONNECTOR]);
    assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
    let files = volume.path(&driver.kubelet_folder());

    // The page's way: a URL from each file, under the names that programs read; and the other,
    // where `.env` sets them all.
    let url = seen(&files)["http.proxy"].clone();
    let bundle = files.join("ca-bundle.crt").display().to_string();
    let with = |no_proxy: &str| {
        let job = Job::new("nowhere.example", "nobody", "nothing")
            .with("SSL_CERT_FILE", &bundle)
            .with("CURL_CA_BUNDLE", &bundle);
        let job = [("http_proxy", "http.proxy"), ("https_proxy", "https.proxy")]
            .into_iter()
            .map(|(name, file)| (name, seen(&files)[file].clone()))
            .fold(job, |job, (name, url)| job.with(name, &url).with(&name.to_uppercase(), &url));
        job.with("no_proxy", no_proxy).with("NO_PROXY", no_proxy)
    };
    clients_work_with(&registry, &with("localhost,127.0.0.1"), "true");
    let env = seen(&files)[".env"].clone();
    let listed = env.lines().find_map(|line| line.strip_prefix("no_proxy=")).expect("a list");
    let job = with(listed);
    let image = Layout::image(&job.path("image"), 2, 83);
    let name = format!("docker://{}/team/app-2:v1", registry.authority());
    job.run(&format!("skopeo copy --preserve-digests {} {name}", image.source()));
    assert_eq!(registry.digest("team/app-2", "v1").as_ref(), Some(&image.digest));
    let job = Job::new("nowhere.example", "nobody", "nothing");
    let tags = format!("{}/v2/team/app/tags/list", registry.url());
    let ours = files.join("ca.crt").display().to_string();
    let asked = job.run(&format!("curl -sS --fail --cacert {ours} --proxy {url} {tags}"));
    assert!(asked.contains("\"v1\""), "{asked}");
}

#[test]
fn in_an_hour_of_repetitions_no_reader_sees_half_a_file_or_an_old_token() {
    const ROUNDS: usize = 100;
    let (tokens, secrets) = many_tokens(ROUNDS);
    let mut driver = Driver::start(&manifests().with("tokens.yaml", &secrets), &[]);
    driver.tokens.clone_from(&tokens);
    let kubelet = driver.kubelet();
    let volume = Volume::of("pod-1", &[CONNECTOR, ("configuration.names", "config")]);
    let path = volume.path(&driver.kubelet_folder());
    assert_eq!(outcome(&kubelet.publish(&volume.with_token(&tokens[0]))), "OK");

    // The token with this number is there, and the one with that number may be there already.
    let (there, begun) = (AtomicUsize::new(0), AtomicUsize::new(0));
    let (ended, reads) = (AtomicBool::new(false), AtomicUsize::new(0));
    thread::scope(|scope| {
        for _ in 0..3 {
            scope.spawn(|| {
                while !ended.load(Ordering::SeqCst) {
                    for name in ["context.token", "http.proxy", "config.json", "..data/.env"] {
                        let least = there.load(Ordering::SeqCst);
                        let text = fs::read_to_string(path.join(name)).expect(name);
                        let most = begun.load(Ordering::SeqCst);
                        let good = (least..=most).any(|number| holds(name, &text, &tokens[number]));
                        assert!(good, "{name} holds none of the tokens {least} to {most}");
                    }
                    reads.fetch_add(1, Ordering::SeqCst);
                }
            });
        }
        for number in 1..ROUNDS {
            // Six minutes between tokens: some repetitions, two of them within a second.
            let before = fs::read_link(path.join("..data")).expect("a link");
            for _ in 0..3 {
                let same = volume.with_token(&tokens[number - 1]);
                assert_eq!(outcome(&kubelet.publish(&same)), "OK");
                thread::sleep(PAUSE);
            }
            assert_eq!(fs::read_link(path.join("..data")).expect("a link"), before, "a write");
            begun.store(number, Ordering::SeqCst);
            let next = volume.with_token(&tokens[number]);
            for ended in kubelet.publish_all(&[next.clone(), next]) {
                assert_eq!(outcome(&ended), "OK");
            }
            there.store(number, Ordering::SeqCst);
            let before = reads.load(Ordering::SeqCst);
            eventually("the readers go on", || {
                (reads.load(Ordering::SeqCst) > before).then_some(())
            });
        }
        ended.store(true, Ordering::SeqCst);
    });
    assert!(reads.load(Ordering::SeqCst) >= ROUNDS);
    let made = driver.log().lines().filter(|line| line.contains("published")).count();
    assert_eq!(made, ROUNDS, "every token is written once, and nothing else is");
}

/// Whether the file is whole, and of this token.
fn holds(name: &str, text: &str, token: &str) -> bool {
    match name {
        "context.token" => text == token,
        "http.proxy" => {
            text == format!("http://ci%2Fharbor:{token}@c-harbor.ci.svc.cluster.local:80")
        }
        "..data/.env" => {
            text.contains(&format!(":{token}@")) && text.ends_with("cluster.local\n")
                || text.contains(&format!(":{token}@")) && text.contains("no_proxy=localhost")
        }
        _ => {
            let login = support::base64(format!("connector:{token}"));
            let read: serde_json::Value = serde_json::from_str(text).expect("whole JSON");
            read["auths"]["c-harbor.ci.svc.cluster.local"]["auth"] == login
        }
    }
}

#[test]
fn what_a_pod_must_not_ask_for_is_refused_by_name_and_leaves_nothing() {
    let driver = Driver::start(&manifests(), &["--log-filter", "trace"]);
    let kubelet = driver.kubelet();
    let large = format!("{{\"config\": {{\"x\": \"{}\"}}}}", "x".repeat(1 << 20));
    #[rustfmt::skip]
    let rows: &[(&[(&str, &str)], &str)] = &[
        (&[], "InvalidArgument: no connector is named"),
        (&[("connector.name", "../../etc")], "InvalidArgument: \"../../etc\" is no connector's name"),
        (&[("connectors", "a\nb")], "InvalidArgument: \"a\\nb\" is no connector's name"),
        (&[("connectors", "{{ .context.token }}")], "InvalidArgument: \"{{ .context.token }}\" is no"),
        (&[CONNECTOR, ("configuration.names", "")], "InvalidArgument: the volume attribute configuration.names is empty"),
        (&[CONNECTOR, ("configuration.names", "../x")], "InvalidArgument: \"../x\" in configuration.names"),
        (&[CONNECTOR, ("configuration.names", "confg")], "InvalidArgument: unknown configuration \"confg\""),
        (&[CONNECTOR, ("configuration.names", "config"), ("configuration.params", &large)], "InvalidArgument: the volume attribute configuration.params is too long"),
        (&[CONNECTOR, ("tokens.expiration", "1h")], "InvalidArgument: unknown volume attribute \"tokens.expiration\""),
        (&[CONNECTOR, ("token.expiration", "soon")], "InvalidArgument: token.expiration \"soon\" is no duration"),
        (&[("connector.name", "nothing")], "NotFound: connector \"nothing\" not found"),
        (&[("connectors", "ops/harbor")], "PermissionDenied: the ServiceAccount ci/builder may not use connector \"ops/harbor\": give it get on connectors.connectors.alauda.io in the namespace ops"),
    ];
    for (number, (attributes, expected)) in rows.iter().enumerate() {
        let volume = Volume::of(&format!("pod-{number}"), attributes);
        let ended = outcome(&kubelet.publish(&volume));
        assert!(ended.starts_with(expected), "{attributes:.99?}\n{ended}");
        assert!(!volume.path(&driver.kubelet_folder()).exists(), "{expected}");
    }
    let good = Volume::of("pod", &[CONNECTOR]);
    let stranger = Volume {
        namespace: "ops".to_owned(),
        account: "stranger",
        ..good.with_token(STRANGER_TOKEN)
    };
    let stranger =
        Volume { attributes: vec![("connectors".into(), "ci/harbor".into())], ..stranger };
    let root = driver.kubelet_folder();
    let target = |path: &str| Volume {
        target: Some(
            path.replace('~', root.to_str().expect("text")).replace("csi/", "kubernetes.io~csi/"),
        ),
        ..good.clone()
    };
    fs::create_dir_all(root.join("pods/pod/volumes/kubernetes.io~csi")).expect("a folder");
    fs::create_dir_all(driver.path("outside")).expect("a folder");
    symlink(driver.path("outside"), root.join("pods/pod/volumes/kubernetes.io~csi/link"))
        .expect("a link");
    #[rustfmt::skip]
    let rows: [(Volume, &str); 11] = [
        (stranger, "PermissionDenied: the ServiceAccount ops/stranger may not use connector \"ci/harbor\""),
        (good.with_token(""), "InvalidArgument: no token for the audience \"connectors-proxy\""),
        (good.with_token("of.nobody.known"), "Unauthenticated: the Pod's token is not known"),
        (Volume { read_only: false, ..good.clone() }, "InvalidArgument: write readOnly: true"),
        (Volume { block: true, ..good.clone() }, "InvalidArgument: a block device"),
        (Volume { group: "staff".into(), ..good.clone() }, "InvalidArgument: fsGroup"),
        (Volume { attributes: vec![("csi.storage.k8s.io/ephemeral".into(), "false".into())], ..good.clone() }, "InvalidArgument: only inline volumes"),
        (target("/etc"), "InvalidArgument: the target path \"/etc\""),
        (target("~/pods/other/volumes/csi/v/mount"), "InvalidArgument: the target path"),
        (target("~/pods/pod/volumes/csi/link/mount"), "InvalidArgument: the target path"),
        (target("~/pods/pod/volumes/csi/../mount"), "InvalidArgument: the target path"),
    ];
    for (volume, expected) in rows {
        let ended = outcome(&kubelet.publish(&volume));
        assert!(ended.starts_with(expected), "{ended}");
    }
    assert!(!good.path(&root).exists());
    assert_eq!(fs::read_dir(driver.path("outside")).expect("a folder").count(), 0);
}

#[test]
fn repeated_and_unknown_volumes_are_no_errors_and_racing_calls_follow_each_other() {
    let driver = Driver::start(&manifests(), &[]);
    let kubelet = driver.kubelet();
    let volume = Volume::of("pod-1", &[CONNECTOR]);
    let path = volume.path(&driver.kubelet_folder());
    assert_eq!(outcome(&kubelet.unpublish(&volume)), "OK");
    let of_context = Volume { in_secrets: false, ..volume.clone() };
    for again in [&volume, &volume, &of_context] {
        assert_eq!(outcome(&kubelet.publish(again)), "OK");
    }
    assert_eq!(seen(&path)["context.token"], TOKEN);
    for _ in 0..2 {
        assert_eq!(outcome(&kubelet.unpublish(&volume)), "OK");
        assert!(!path.exists());
    }
    for _ in 0..5 {
        for ended in kubelet.race(&volume, 40) {
            assert_eq!(outcome(&ended), "OK");
        }
        let files = seen(&path);
        assert!(files.is_empty() || files["context.token"] == TOKEN);
    }
    assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
    assert_eq!(seen(&path).len(), 6);
    assert_eq!(outcome(&kubelet.unpublish(&volume)), "OK");
    let empty = Volume { target: Some(String::new()), ..volume };
    assert!(outcome(&kubelet.unpublish(&empty)).starts_with("InvalidArgument"));
}

#[test]
fn a_group_reads_what_others_do_not() {
    let driver = Driver::start(&manifests(), &[]);
    let kubelet = driver.kubelet();
    let own = rustix::process::getgid().as_raw();
    let volume = Volume { group: own.to_string(), ..Volume::of("pod-1", &[CONNECTOR]) };
    assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
    let file = volume.path(&driver.kubelet_folder()).join("context.token");
    let found = fs::metadata(file).expect("a file");
    assert_eq!((found.permissions().mode() & 0o777, found.gid()), (0o440, own));
}

#[test]
fn in_production_a_volume_lies_in_memory_and_outlives_its_driver() {
    if lacking(&["mount namespaces"]) {
        return;
    }
    let mut driver = Driver::start(&manifests(), &["--volumes", "memory"]);
    let kubelet = driver.kubelet();
    let volume = Volume::of("pod-1", &[CONNECTOR]);
    let path = volume.path(&driver.kubelet_folder());
    let mounts = || {
        let all = fs::read_to_string("/proc/self/mountinfo").expect("the mounts");
        let here = path.to_str().expect("text");
        all.lines().filter(|line| line.contains(here)).map(str::to_owned).collect::<Vec<_>>()
    };
    assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
    let link = fs::read_link(path.join("..data")).expect("a link");
    driver.signal(Signal::KILL);
    driver.exit();
    assert_eq!(seen(&path)["context.token"], TOKEN, "the Pod notices nothing");
    driver.restart();
    let kubelet = driver.kubelet();
    assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
    assert_eq!(fs::read_link(path.join("..data")).expect("a link"), link, "nothing was written");
    let mounted = mounts();
    assert_eq!(mounted.len(), 1, "{mounted:?}");
    for option in ["nosuid", "nodev", "noexec", "- tmpfs"] {
        assert!(mounted[0].contains(option), "{option}: {}", mounted[0]);
    }
    assert_eq!(outcome(&kubelet.unpublish(&volume)), "OK");
    assert!(mounts().is_empty() && !path.exists());
}

#[test]
fn two_hundred_volumes_at_once_are_all_right_and_all_gone_afterwards() {
    let driver = Driver::start(&manifests(), &[]);
    let kubelet = driver.kubelet();
    let attributes = [CONNECTOR, ("configuration.names", "config,buildkitd")];
    let volumes: Vec<_> =
        (0..200).map(|number| Volume::of(&format!("pod-{number}"), &attributes)).collect();
    for ended in kubelet.publish_all(&volumes) {
        assert_eq!(outcome(&ended), "OK");
    }
    let root = driver.kubelet_folder();
    let expected = seen(&volumes[0].path(&root));
    assert_eq!(expected.len(), 8);
    for volume in &volumes {
        assert!(seen(&volume.path(&root)) == expected, "{}", volume.uid);
        assert_eq!(outcome(&kubelet.unpublish(volume)), "OK");
        assert!(!volume.path(&root).exists());
    }
}

#[test]
fn a_driver_that_is_killed_at_any_moment_leaves_nothing_that_the_next_cannot_use() {
    const KILLS: usize = 25;
    let (tokens, secrets) = many_tokens(8);
    let mut driver = Driver::start(&manifests().with("tokens.yaml", &secrets), &[]);
    driver.tokens.clone_from(&tokens);
    let root = driver.kubelet_folder();
    let volumes: Vec<_> = (0..8)
        .map(|number| {
            Volume::of(&format!("pod-{number}"), &[CONNECTOR, ("configuration.names", "config")])
        })
        .collect();
    for kill in 0..KILLS {
        let kubelet = driver.kubelet();
        let calls = thread::scope(|scope| {
            let calls = scope.spawn(|| {
                let mut ended = Vec::new();
                for token in &tokens {
                    let with: Vec<_> = volumes.iter().map(|one| one.with_token(token)).collect();
                    ended.extend(kubelet.publish_all(&with));
                }
                ended
            });
            // At another moment each time: the story is long enough to meet many.
            thread::sleep(Duration::from_millis(1 + (kill as u64 * 7) % 40));
            driver.signal(Signal::KILL);
            calls.join().expect("no panic")
        });
        assert!(calls.iter().all(|ended| ended.is_ok() || is_cut_off(ended)), "{calls:?}");
        driver.exit();
        for volume in &volumes {
            assert_whole(&volume.path(&root), &tokens);
        }
        driver.restart();
    }
    let kubelet = driver.kubelet();
    for volume in &volumes {
        assert_eq!(outcome(&kubelet.publish(volume)), "OK");
        let path = volume.path(&root);
        assert_eq!(seen(&path)["context.token"], TOKEN);
        let names = fs::read_dir(&path).expect("a folder").count();
        assert!(names <= seen(&path).len() + 3, "the dead left something behind");
        assert_eq!(outcome(&kubelet.unpublish(volume)), "OK");
        assert!(!path.exists());
    }
}

/// Whatever is to be seen is of one token, and whole.
fn assert_whole(path: &Path, tokens: &[String]) {
    let read = |name: &str| fs::read_to_string(path.join("..data").join(name)).ok();
    let Some(token) = read("context.token") else {
        return;
    };
    assert!(tokens.contains(&token), "half a token");
    for name in ["http.proxy", "config.json"] {
        assert!(holds(name, &read(name).expect(name), &token), "{name} is of another token");
    }
}

#[test]
fn a_changed_connector_and_a_changed_right_reach_a_volume_that_is_there() {
    let driver = Driver::start(&manifests(), &[]);
    let kubelet = driver.kubelet();
    let volume = Volume::of("pod-1", &[CONNECTOR]);
    let path = volume.path(&driver.kubelet_folder());
    assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
    let connector = fs::read_to_string(driver.manifests().join("connector.yaml")).expect("a file");
    let status = "status: {proxy: {httpAddress: {url: 'http://10.0.0.7:31567'}}}\n";
    fs::write(driver.manifests().join("connector.yaml"), connector + status).expect("a file");
    eventually("the new address", || {
        assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
        (seen(&path)["connector.status.proxyAddress"] == "http://10.0.0.7:31567").then_some(())
    });
    fs::write(driver.manifests().join("rights.yaml"), right("ops")).expect("a file");
    eventually("the refusal", || {
        outcome(&kubelet.publish(&volume)).starts_with("PermissionDenied").then_some(())
    });
    assert_eq!(seen(&path)["context.token"], TOKEN, "a running Pod keeps what it has");
}

#[test]
fn the_driver_registers_itself_and_ends_when_it_is_refused() {
    let folder = tempfile::tempdir().expect("a folder");
    let link = folder.path().join("registry");
    let flags =
        ["--plugins-registry", link.to_str().expect("text"), "--kubelet-endpoint", "/k/csi.sock"];
    fs::create_dir(&link).expect("a folder");
    let mut driver = Driver::start(&manifests(), &flags);
    fs::remove_dir(driver.kubelet_folder().join("plugins_registry")).expect("a folder");
    symlink(&link, driver.kubelet_folder().join("plugins_registry")).expect("a link");
    let about = register(&driver, true);
    assert_eq!((&*about.r#type, &*about.name), ("CSIPlugin", "connectors-csi"));
    assert_eq!(
        (&*about.endpoint, about.supported_versions),
        ("/k/csi.sock", vec!["1.0.0".to_owned()])
    );
    driver.kubelet();
    register(&driver, false);
    assert_eq!(driver.exit().code(), Some(1));
    assert_eq!(fs::read_dir(&link).expect("a folder").count(), 0, "the socket is gone");
    driver.restart();
    driver.signal(Signal::TERM);
    assert_eq!(driver.exit().code(), Some(0));
}

#[test]
fn a_driver_is_well_while_it_answers_through_its_socket() {
    let mut driver = Driver::start(&manifests(), &[]);
    let endpoint = format!("unix://{}", driver.socket().display());
    let ask =
        || support::proxy::run(&["csi", "--probe", "--node-id", "node-1", "--endpoint", &endpoint]);
    assert_eq!(ask(), (Some(0), String::new(), String::new()));
    // Its socket still takes connections.
    driver.signal(Signal::STOP);
    let (code, _, said) = ask();
    assert_eq!(code, Some(1), "{said}");
    assert!(said.contains("does not answer within 5 s"), "{said}");
    driver.signal(Signal::CONT);
    assert_eq!(ask().0, Some(0));
    driver.signal(Signal::TERM);
    assert_eq!(driver.exit().code(), Some(0));
    let (code, _, said) = ask();
    assert!(code == Some(1) && said.contains("cannot be reached"), "{said}");
}

/// A cluster with the connector `harbor`, and a driver in it with the rights of its manifest.
pub(crate) fn in_cluster() -> (Cluster, Driver) {
    let cluster = Cluster::new();
    cluster.connect("harbor", "https://harbor.example.com");
    let driver = Driver::in_cluster(&cluster.kubeconfig_of_driver(), &[]);
    (cluster, driver)
}

/// A volume of the service account `account`, with a token of its own.
pub(crate) fn volume_in(
    cluster: &Cluster,
    account: &'static str,
    attributes: &[(&str, &str)],
) -> Volume {
    let (namespace, token) = (cluster.namespace.clone(), cluster.token(account));
    Volume { namespace, account, token, ..Volume::of(account, attributes) }
}

/// Writes what a controller reports about `harbor`; the address.
pub(crate) fn report_address(cluster: &Cluster) -> String {
    let own = &cluster.namespace;
    let url = format!("http://c-harbor.{own}.svc.cluster.local");
    let group = "/apis/connectors.alauda.io/v1alpha1";
    let path = format!("{group}/namespaces/{own}/connectors/harbor/status");
    let status = serde_json::json!({"status": {"proxy": {"httpAddress": {"url": url}}}});
    let patch = Some(("application/merge-patch+json", &status));
    assert_eq!(cluster.ask("PATCH", &path, patch).0, 200);
    url
}

#[test]
fn in_a_cluster_a_pod_gets_what_its_own_account_may_use() {
    let (cluster, mut driver) = in_cluster();
    let own = cluster.namespace.clone();
    let builder = volume_in(&cluster, "builder", &[CONNECTOR]);
    driver.tokens.push(builder.token.clone());
    let kubelet = driver.kubelet();
    assert_eq!(
        outcome(&kubelet.publish(&builder)),
        format!(
            "FailedPrecondition: connector \"{own}/harbor\" has no proxy address yet \
             (status.proxy.httpAddress.url): is its controller running?"
        )
    );
    let url = report_address(&cluster);
    #[rustfmt::skip]
    let rows = [
        ("stranger", CONNECTOR, format!("PermissionDenied: the ServiceAccount {own}/stranger may not use connector \"{own}/harbor\"")),
        ("builder", ("connector.name", "nothing"), "NotFound: connector \"nothing\" not found".to_owned()),
        ("builder", ("connectors", "elsewhere/nothing"), "PermissionDenied".to_owned()),
    ];
    for (account, attribute, expected) in rows {
        let volume = volume_in(&cluster, account, &[attribute]);
        let ended = outcome(&kubelet.publish(&volume));
        assert!(ended.starts_with(&expected), "{ended}");
        assert!(!volume.path(&driver.kubelet_folder()).exists(), "{expected}");
        driver.tokens.push(volume.token);
    }
    assert_eq!(outcome(&kubelet.publish(&builder)), "OK");
    let files = seen(&builder.path(&driver.kubelet_folder()));
    assert_eq!(files["connector.status.proxyAddress"], url);
    assert_eq!(files["context.token"], builder.token);
}

#[test]
fn in_a_cluster_nobody_is_asked_while_nothing_changes() {
    let (mut cluster, mut driver) = in_cluster();
    report_address(&cluster);
    let volume = volume_in(&cluster, "builder", &[CONNECTOR]);
    let later = volume.with_token(&cluster.token("builder"));
    driver.tokens.extend([volume.token.clone(), later.token.clone()]);
    let kubelet = driver.kubelet();
    let files = volume.path(&driver.kubelet_folder());
    assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
    let Some(server) = cluster.stand_in() else {
        return;
    };
    let reads = "GET /apis/connectors.alauda.io";
    let reviews = "POST /apis/authorization.k8s.io/v1/subjectaccessreviews";
    let before = (server.count(reads), server.count(reviews));
    for _ in 0..10 {
        assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
    }
    assert_eq!((server.count(reads), server.count(reviews)), before);
    server.stop();
    assert_eq!(outcome(&kubelet.publish(&volume)), "OK");
    let ended = outcome(&kubelet.publish(&later));
    assert!(ended.starts_with("Unavailable: could not get connector"), "{ended}");
    assert_eq!(seen(&files)["context.token"], volume.token, "a running Pod keeps what it has");
    server.resume();
    eventually("the new token", || kubelet.publish(&later).is_ok().then_some(()));
    assert_eq!(seen(&files)["context.token"], later.token);
}
