//! What `deploy/` installs: valid, without privileges, and what the program expects of it.
//!
//! Every overlay is rendered by kubectl and judged as a cluster would judge it; where the manifests
//! speak of the program (flags, ports, times, rights) the program itself is asked.

use std::collections::BTreeMap;
use std::fs;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::Value;

use crate::csi;
use crate::support::controller::Controller;
use crate::support::deployment::{
    Deployment, INSTALLATIONS, NEEDED, OVERLAYS, containers, folder, variables,
};
use crate::support::pod_security::violations;
use crate::support::programs::lacking;
use crate::support::{
    Caller, Cluster, DockerRegistry, FakeRegistry, PATIENCE, Proxy, base64, docker_registry,
    eventually, proxy,
};

#[test]
fn every_overlay_renders_into_what_kubernetes_takes() {
    if lacking(&NEEDED) {
        return;
    }
    for overlay in OVERLAYS {
        let deployment = Deployment::render(overlay);
        assert_eq!(deployment.complaints(NEWEST, true), "", "{overlay}");
        // An older one drops fields that it does not know, if it is told to (--validate=warn).
        assert_eq!(deployment.complaints(OLDEST, false), "", "{overlay}");
        let complaints = deployment.complaints(OLDEST, true);
        let known = complaints.lines().all(|line| line.contains("serviceAccountTokenInSecrets"));
        assert!(known, "{overlay}: {complaints}");
    }
}

#[test]
fn objects_of_our_own_kinds_keep_to_our_own_definitions() {
    if lacking(&NEEDED) {
        return;
    }
    let cluster = Cluster::new();
    for overlay in ["base", "demo"] {
        let deployment = Deployment::render(overlay);
        let namespaces: Vec<&Value> = deployment.of_kind("Namespace").collect();
        let ours = deployment.objects.iter().filter(|object| {
            object["apiVersion"].as_str().is_some_and(|version| version.starts_with("connectors."))
        });
        let objects: Vec<&Value> = namespaces.into_iter().chain(ours).collect();
        assert!(objects.len() > 1, "{overlay}");
        for object in objects {
            let (status, answer) = cluster.try_apply(object);
            assert!((200..300).contains(&status), "{overlay}: {status} {answer}");
        }
    }
}

#[test]
fn the_definitions_are_those_that_the_program_prints() {
    let (_, printed, _) = proxy::run(&["crds"]);
    let kept = fs::read_to_string(folder().join("crds/crds.yaml")).expect("a manifest");
    assert!(kept == printed, "run: harbor-connector crds >deploy/crds/crds.yaml");
}

#[test]
fn the_seccomp_profile_is_the_one_that_the_program_installs() {
    let (_, printed, _) = proxy::run(&["seccomp"]);
    let kept = fs::read_to_string(folder().join("io-uring/seccomp.json")).expect("a profile");
    assert!(kept == printed);
    if lacking(&NEEDED) {
        return;
    }
    // The file that the installer writes is the one that the proxy's Pods name.
    let deployment = Deployment::render("io-uring");
    let pod = &deployment.one("DaemonSet", "harbor-connector-proxy")["spec"]["template"]["spec"];
    assert_eq!(
        pod["securityContext"]["seccompProfile"]["localhostProfile"],
        "harbor-connector/io-uring.json"
    );
    let driver = deployment.one("DaemonSet", "harbor-connector-csi");
    let installer = containers(driver).next().expect("an installer");
    let arguments = ["seccomp", "--install", "/profiles/io-uring.json"].map(Value::from);
    assert_eq!(installer["args"], Value::from(arguments.to_vec()));
    let volumes = driver["spec"]["template"]["spec"]["volumes"].as_array().expect("volumes");
    let folder = volumes.iter().find(|volume| volume["name"] == "profiles").expect("a volume");
    assert_eq!(folder["hostPath"]["path"], "/var/lib/kubelet/seccomp/harbor-connector");
}

#[test]
fn no_pod_has_privileges_but_the_csi_drivers() {
    if lacking(&NEEDED) {
        return;
    }
    for overlay in [INSTALLATIONS.as_slice(), &["demo"]].concat() {
        let deployment = Deployment::render(overlay);
        for workload in deployment.workloads() {
            let name = &workload["metadata"]["name"];
            let namespace = workload["metadata"]["namespace"].as_str().expect("a namespace");
            let labels = &deployment.one("Namespace", namespace)["metadata"]["labels"];
            let enforced = &labels["pod-security.kubernetes.io/enforce"];
            let found = violations(&workload["spec"]["template"]["spec"]);
            if namespace != "harbor-connector-csi" {
                assert_eq!(enforced, "restricted", "{overlay}: {namespace}");
                assert_eq!(found, Vec::<String>::new(), "{overlay}: {name}");
                continue;
            }
            assert_eq!(
                (name.as_str(), enforced.as_str()),
                (Some("harbor-connector-csi"), Some("privileged"))
            );
            let installer = if overlay == "io-uring" { INSTALLER } else { &[] };
            let mut expected: Vec<&str> = [DRIVER, installer].concat();
            expected.sort_unstable();
            assert_eq!(found, expected, "{overlay}: {name}");
        }
    }
}

#[test]
fn every_pod_says_what_it_needs_and_writes_nowhere() {
    if lacking(&NEEDED) {
        return;
    }
    for overlay in INSTALLATIONS {
        for workload in Deployment::render(overlay).workloads() {
            for container in containers(workload) {
                let name = format!("{overlay}: {}", container["name"]);
                let resources = &container["resources"];
                assert!(resources["requests"]["cpu"].is_string(), "{name}");
                assert!(resources["requests"]["memory"].is_string(), "{name}");
                assert!(resources["limits"]["memory"].is_string(), "{name}");
                assert_eq!(container["securityContext"]["readOnlyRootFilesystem"], true, "{name}");
            }
        }
    }
}

#[test]
fn the_demos_registry_takes_the_demos_account_and_nobody_else() {
    if lacking(&[NEEDED.as_slice(), &docker_registry::NEEDED].concat()) {
        return;
    }
    let demo = Deployment::render("demo");
    let registry = registry_of(&demo);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let account = &demo.one("Secret", "harbor-robot")["stringData"];
    let ask = |user: &str, password: &str| {
        let login = base64(format!("{user}:{password}"));
        let mut caller = Caller::connect(registry.authority().parse().expect("an address"));
        let head = "GET /v2/ HTTP/1.1\r\nHost: registry\r\nAuthorization: Basic";
        caller.ask(&format!("{head} {login}\r\n\r\n")).status
    };
    assert_eq!(ask(&text(&account["username"]), &text(&account["password"])), 200);
    assert_eq!(ask(&text(&account["username"]), "guessed"), 401);
}

/// A docker-registry that is told what the demo's is told.
pub(crate) fn registry_of(demo: &Deployment) -> DockerRegistry {
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let container = containers(demo.one("Deployment", "registry")).next().expect("a container");
    let mounts = container["volumeMounts"].as_array().expect("mounts");
    let mount = mounts.iter().find(|mount| mount["name"] == "accounts").expect("the accounts");
    let known = text(&demo.one("Secret", "registry-accounts")["stringData"]["htpasswd"]);
    let told: Vec<_> =
        variables(container).filter_map(|(name, value)| Some((name, value.as_str()?))).collect();
    DockerRegistry::told_by(&told, &text(&mount["mountPath"]), &known)
}

#[test]
fn the_image_and_its_tag_stand_in_one_place() {
    let tag = env!("CARGO_PKG_VERSION");
    let kept = fs::read_to_string(folder().join("base/kustomization.yaml")).expect("a manifest");
    assert!(kept.contains(&format!("- name: harbor-connector\n  newTag: {tag}\n")), "{kept}");
    if lacking(&NEEDED) {
        return;
    }
    for overlay in INSTALLATIONS {
        for workload in Deployment::render(overlay).workloads() {
            for container in containers(workload) {
                assert_eq!(container["image"], format!("harbor-connector:{tag}"), "{overlay}");
            }
        }
    }
}

#[test]
fn a_proxys_pod_lives_as_long_as_its_drain_may_take() {
    if lacking(&NEEDED) {
        return;
    }
    let (_, help, _) = proxy::run(&["proxy", "--help"]);
    let flag = help.split("--drain-seconds <SECONDS>").nth(1).expect("the flag");
    let default = flag.split("[default: ").nth(1).and_then(|rest| rest.split(']').next());
    let drain: u64 = default.and_then(|text| text.parse().ok()).expect("its default");
    for overlay in INSTALLATIONS {
        let deployment = Deployment::render(overlay);
        let proxy = proxy_of(&deployment, overlay);
        let told = variables(containers(proxy).next().expect("a container"))
            .any(|(name, _)| name == "HARBOR_CONNECTOR_DRAIN_SECONDS");
        let grace = proxy["spec"]["template"]["spec"]["terminationGracePeriodSeconds"].as_u64();
        assert!(!told && grace.is_some_and(|grace| grace >= drain + 15), "{overlay}: {grace:?}");
        // The new one is there before the old one goes.
        let spec = &proxy["spec"];
        let rolling = [&spec["updateStrategy"], &spec["strategy"]]
            .into_iter()
            .find_map(|strategy| strategy["rollingUpdate"].as_object())
            .expect("a rolling update");
        assert_eq!(rolling["maxUnavailable"], 0, "{overlay}");
    }
}

#[test]
fn names_of_flags_and_ports_are_those_of_the_program() {
    if lacking(&NEEDED) {
        return;
    }
    for overlay in INSTALLATIONS {
        let deployment = Deployment::render(overlay);
        for workload in deployment.workloads() {
            for container in containers(workload) {
                let verb = container["args"][0].as_str().expect("a verb");
                let (_, help, said) = proxy::run(&[verb, "--help"]);
                for (name, value) in variables(container) {
                    assert!(help.contains(&format!("[env: {name}=")), "{verb}: {name} {said}");
                    // Whether the ports are those of the container.
                    let port = value.as_str().and_then(|value| value.strip_prefix("[::]:"));
                    let declared = container["ports"].as_array().into_iter().flatten();
                    let mut declared = declared.map(|entry| entry["containerPort"].to_string());
                    assert!(port.is_none_or(|port| declared.any(|known| known == port)), "{name}");
                }
                for probe in ["livenessProbe", "readinessProbe"] {
                    let port = &container[probe]["httpGet"]["port"];
                    assert!(port.is_null() || port == "admin", "{verb}: {probe}");
                }
            }
        }
        let service = deployment.one("Service", "harbor-connector-proxy");
        let ports = service["spec"]["ports"].as_array().expect("ports");
        let ports: Vec<_> = ports.iter().map(|port| (&port["port"], &port["targetPort"])).collect();
        assert_eq!(ports, [(&80.into(), &"http".into()), (&443.into(), &"https".into())]);
        let local = if overlay == "gateway" { "Cluster" } else { "Local" };
        assert_eq!(service["spec"]["internalTrafficPolicy"], local);
        let proxy = proxy_of(&deployment, overlay);
        assert_eq!(service["spec"]["selector"], proxy["spec"]["selector"]["matchLabels"]);
    }
}

#[test]
fn the_kubelets_folder_may_be_another_everywhere_at_once() {
    if lacking(&NEEDED) {
        return;
    }
    // By the command of docs/troubleshooting.md: what the driver is told, and what it is given.
    for overlay in INSTALLATIONS {
        let deployment = Deployment::render(overlay);
        let pod = &deployment.one("DaemonSet", "harbor-connector-csi")["spec"]["template"]["spec"];
        let volumes = pod["volumes"].as_array().expect("volumes");
        let driver = pod["containers"].as_array().and_then(|all| all.first()).expect("a driver");
        let mounts = driver["volumeMounts"].as_array().expect("mounts");
        let kubelet = variables(driver).find(|(name, _)| name.ends_with("_KUBELET_DIR"));
        let kubelet = kubelet.and_then(|(_, value)| value.as_str()).expect("its folder");
        let below = |path: &Value| path.as_str().is_some_and(|path| path.starts_with(kubelet));
        assert!(volumes.iter().all(|volume| below(&volume["hostPath"]["path"])), "{volumes:?}");
        assert!(mounts.iter().all(|mount| below(&mount["mountPath"])), "{mounts:?}");
        let told = ["_ENDPOINT", "_PLUGINS_REGISTRY"];
        for (name, value) in
            variables(driver).filter(|(name, _)| told.iter().any(|end| name.ends_with(end)))
        {
            let path = value.as_str().map(|path| path.trim_start_matches("unix://"));
            assert!(path.is_some_and(|path| path.starts_with(kubelet)), "{name}");
        }
    }
}

#[test]
fn the_proxy_serves_in_a_cluster_with_the_environment_of_its_manifest() {
    if lacking(&NEEDED) {
        return;
    }
    let registry = FakeRegistry::obliging();
    let cluster = Cluster::new();
    cluster.connect("harbor", &registry.url());
    let deployment = Deployment::render("base");
    let daemon = proxy_of(&deployment, "base");
    let container = containers(daemon).next().expect("a container");
    // Where it listens and keeps files is this machine's.
    let elsewhere = ["LISTEN", "LISTEN_TLS", "ADMIN", "CA_DIR"];
    let variables: BTreeMap<&str, &str> = variables(container)
        .filter(|(name, _)| !elsewhere.contains(&name.trim_start_matches("HARBOR_CONNECTOR_")))
        .filter_map(|(name, value)| Some((name, value.as_str()?)))
        .collect();
    let proxy = Proxy::in_cluster_with(&cluster, &variables);
    assert_eq!(proxy.ready["cores"], 2);
    let target = format!("/v2/namespaces/{}/connectors/harbor/app/manifests/v1", cluster.namespace);
    assert_eq!(proxy.get_as(&cluster.token("builder"), &target).status, 200);
    proxy.logged(&["\"level\":\"INFO\"", "serving"]);
}

#[test]
fn what_is_allowed_and_denied_by_the_network_leaves_out_nobody() {
    if lacking(&NEEDED) {
        return;
    }
    for overlay in INSTALLATIONS {
        let deployment = Deployment::render(overlay);
        for workload in deployment.workloads() {
            let labels = workload["spec"]["template"]["metadata"]["labels"].as_object();
            let labels = labels.expect("labels");
            let selects = |policy: &&Value| {
                let wanted = policy["spec"]["podSelector"]["matchLabels"].as_object();
                policy["metadata"]["namespace"] == workload["metadata"]["namespace"]
                    && wanted
                        .into_iter()
                        .flatten()
                        .all(|(name, value)| labels.get(name) == Some(value))
            };
            let name = &workload["metadata"]["name"];
            let policies: Vec<_> = deployment.of_kind("NetworkPolicy").filter(selects).collect();
            let both = Value::from(vec!["Ingress", "Egress"]);
            assert!(policies.iter().any(|policy| policy["spec"]["policyTypes"] == both), "{name}");
            // To wherever it is: no range of addresses means the API server everywhere.
            let outwards = policies.iter().flat_map(|policy| rules(policy, "egress"));
            let anywhere: Vec<_> = outwards.filter(|rule| rule["to"].is_null()).collect();
            let open = |port: u16, protocol: &str| {
                let mut opened = anywhere.iter().flat_map(|rule| ports(rule));
                opened.any(|(known, of)| *known == port && of == protocol)
            };
            for port in [443, 6443, 8443, 16443] {
                assert!(open(port, "TCP"), "{name} could not ask an API server on {port}");
            }
            assert!(open(53, "UDP") && open(53, "TCP"), "{name} could not ask for a name");
            assert!(!open(80, "TCP"), "{name} may ask who hands out a cloud's credentials");
        }
    }
}

#[test]
fn callers_come_from_everywhere_and_metrics_are_for_who_collects_them() {
    if lacking(&NEEDED) {
        return;
    }
    for overlay in INSTALLATIONS {
        let deployment = Deployment::render(overlay);
        for component in ["proxy", "controller", "csi"] {
            let name = format!("harbor-connector-{component}");
            let policy = deployment.one("NetworkPolicy", &name);
            let mut opened = Vec::new();
            for rule in rules(policy, "ingress") {
                let from = match rule["from"].as_array() {
                    None => "everybody".to_owned(),
                    Some(peers) => peers[0]["podSelector"]["matchLabels"].to_string(),
                };
                opened.extend(ports(rule).map(|(port, _)| format!("{from}: {port}")));
            }
            let callers = ["everybody: \"http\"", "everybody: \"https\""];
            let collectors = ["{\"app.kubernetes.io/name\":\"prometheus\"}: \"admin\""];
            let expected = match component {
                "proxy" => [callers.as_slice(), &collectors].concat(),
                "controller" => collectors.to_vec(),
                _ => Vec::new(),
            };
            assert_eq!(opened, expected, "{overlay}: {name}");
        }
    }
}

/// The rules of a NetworkPolicy for one direction.
fn rules<'a>(policy: &'a Value, direction: &str) -> impl Iterator<Item = &'a Value> {
    policy["spec"][direction].as_array().into_iter().flatten()
}

/// The ports of a rule, each with its protocol.
fn ports(rule: &Value) -> impl Iterator<Item = (&Value, &str)> {
    let ports = rule["ports"].as_array().into_iter().flatten();
    ports.map(|entry| (&entry["port"], entry["protocol"].as_str().unwrap_or("TCP")))
}

#[test]
fn an_account_has_every_right_that_its_program_asks_for_and_no_other() {
    if lacking(&NEEDED) {
        return;
    }
    // What is missing is refused, and fails here and in the other stories of a cluster.
    let (mut cluster, mut driver) = csi::in_cluster();
    let Some(_) = cluster.stand_in() else {
        return;
    };
    let registry = FakeRegistry::obliging();
    cluster.connect("harbor", &registry.url());
    // Connectors' Services lead to this one, and are made once it is there.
    let deployment = Deployment::render("base");
    let (status, answer) = cluster.try_apply(deployment.one("Service", "harbor-connector-proxy"));
    assert!((200..300).contains(&status), "{answer}");
    let proxy = Proxy::in_cluster(&cluster, &["--probe-seconds", "60"]);
    let _controller = Controller::elected(&cluster, &[]);
    let service = format!("/api/v1/namespaces/{}/services/c-harbor", cluster.namespace);
    eventually("its Service", || (cluster.ask("GET", &service, None).0 == 200).then_some(()));
    cluster.apply(
        "{apiVersion: v1, kind: Service, metadata: {name: c-harbor}, \
         spec: {type: ExternalName, externalName: elsewhere.example}}",
    );
    let target = format!("/v2/namespaces/{}/connectors/harbor/app/manifests/v1", cluster.namespace);
    assert_eq!(proxy.get_as(&cluster.token("builder"), &target).status, 200);
    csi::report_address(&cluster);
    let volume = csi::volume_in(&cluster, "builder", &[("connectors", "harbor")]);
    driver.tokens.push(volume.token.clone());
    driver.kubelet().publish(&volume).expect("a volume");
    for (namespace, account) in [
        ("harbor-connector-system", "harbor-connector-proxy"),
        ("harbor-connector-system", "harbor-connector-controller"),
        ("harbor-connector-csi", "harbor-connector-csi"),
    ] {
        let user = format!("system:serviceaccount:{namespace}:{account}");
        let mut granted = deployment.rights(account);
        assert!(!granted.is_empty(), "{account}");
        // Asked for by an admission plugin that the stand-in does not have.
        granted.remove("update connectors.alauda.io/connectors/finalizers");
        let server = cluster.stand_in().expect("it is there");
        let mut left = Vec::new();
        let deadline = Instant::now() + PATIENCE;
        while Instant::now() < deadline {
            let used = server.rights_used(&user);
            left = granted.difference(&used).cloned().collect();
            if left.is_empty() {
                break;
            }
            thread::sleep(Duration::from_millis(20));
        }
        assert_eq!(left, Vec::<String>::new(), "{account} has rights that it does not use");
    }
}

/// The workload of the proxy.
fn proxy_of<'a>(deployment: &'a Deployment, overlay: &str) -> &'a Value {
    let kind = if overlay == "gateway" { "Deployment" } else { "DaemonSet" };
    deployment.one(kind, "harbor-connector-proxy")
}

/// What the driver does against the standard, and why its namespace is another: it mounts volumes
/// that the node must see, which only a privileged container may, in folders of the kubelet.
const DRIVER: &[&str] = &[
    "csi.allowPrivilegeEscalation: null",
    "csi.capabilities.drop: null",
    "csi.privileged: true",
    "csi.runAsNonRoot: null",
    "csi.runAsUser: 0",
    "csi.seccompProfile: null",
    "volumes.pods.hostPath: …",
    "volumes.pods: …",
    "volumes.registration.hostPath: …",
    "volumes.registration: …",
    "volumes.socket.hostPath: …",
    "volumes.socket: …",
];

/// What the installer of the profile does besides: it writes a file of root's on the node.
const INSTALLER: &[&str] = &[
    "seccomp.runAsNonRoot: null",
    "seccomp.runAsUser: 0",
    "volumes.profiles.hostPath: …",
    "volumes.profiles: …",
];

/// The newest Kubernetes whose schemas are known, and the oldest that has all that is needed.
const NEWEST: &str = "1.37";
const OLDEST: &str = "1.30";
