//! The quick start, followed to its end: its own commands make the objects, its own job pushes.
//!
//! A cluster's API, the proxy, the controller, a node's driver and a Harbor are there. The commands
//! of the page are run by a shell, as they are pasted; what `kubectl` would create or apply it
//! writes, and the story brings that to the API.

use std::fs;
use std::io::Write as _;
use std::path::Path;
use std::process::{Command, Stdio};

use serde_json::{Value, json};

use crate::guides::{self, blocks};
use crate::support::cluster::documents;
use crate::support::controller::Controller;
use crate::support::deployment::{self, Deployment};
use crate::support::image::Layout;
use crate::support::kubelet::{Driver, Volume};
use crate::support::programs::{Job, lacking};
use crate::support::{Cluster, Harbor, PASSWORD, Proxy, USER, docker_registry, eventually, netns};
use crate::{controller, manifests};

#[test]
fn whoever_follows_the_quick_start_ends_with_a_push() {
    if lacking(&needed()) {
        return;
    }
    // Port 80 is free where nobody else is.
    netns::apart(&[], || {
        let harbor = Harbor::http();
        let installed = Installed::new();
        let (jobs, objects) = split(pasted(&harbor.url()));
        installed.apply(&objects);
        eventually("condition Ready", || {
            (installed.standing("ci", "Ready") == "True").then_some(())
        });
        let said = installed.run(&jobs, "ci");
        assert!(said.contains("Writing manifest to image destination"), "{said}");
        assert!(harbor.registry().digest("team/busybox", "first").is_some());
        assert!(harbor.logins().iter().all(|user| user == USER), "{:?}", harbor.logins());
    });
}

#[test]
fn the_demo_pushes_where_there_is_no_harbor() {
    if lacking(&needed()) {
        return;
    }
    netns::apart(&[], || {
        let demo = Deployment::render("demo");
        let registry = manifests::registry_of(&demo);
        let installed = Installed::new();
        let (jobs, mut objects) = split(demo.objects);
        for object in objects.iter_mut().filter(|object| object["kind"] == "Connector") {
            object["spec"]["address"] = registry.url().into();
        }
        // What runs the registry is not for the stand-in.
        objects.retain(|object| object["kind"] != "Deployment");
        installed.apply(&objects);
        installed.run(&jobs, "demo");
        assert!(registry.digest("team/busybox", "v1").is_some());
        // As the page says.
        eventually("LivenessReady", || {
            (installed.standing("demo", "LivenessReady") == "False").then_some(())
        });
        assert_ne!(installed.standing("demo", "Ready"), "True");
    });
}

fn needed() -> Vec<&'static str> {
    let programs = ["skopeo", "unshare", "ip", "mount namespaces"];
    [&deployment::NEEDED[..], &docker_registry::NEEDED, &programs].concat()
}

/// The one job, and the rest.
fn split(objects: Vec<Value>) -> (Value, Vec<Value>) {
    let (mut jobs, rest): (Vec<Value>, _) =
        objects.into_iter().partition(|object| object["kind"] == "Job");
    assert_eq!(jobs.len(), 1, "{jobs:?}");
    (jobs.remove(0), rest)
}

/// A cluster after the second step of the page.
struct Installed {
    cluster: Cluster,
    _proxy: Proxy,
    _controller: Controller,
}

impl Installed {
    fn new() -> Self {
        let cluster = controller::cluster();
        let flags = ["--listen", "127.0.0.1:80", "--probe-seconds", "60"];
        let (_proxy, _controller) =
            (Proxy::in_cluster(&cluster, &flags), Controller::elected(&cluster, &[]));
        Self { cluster, _proxy, _controller }
    }

    fn apply(&self, objects: &[Value]) {
        for object in objects {
            self.cluster.apply(&object.to_string());
        }
    }

    /// The status of a condition of the connector `harbor`.
    fn standing(&self, namespace: &str, condition: &str) -> String {
        let group = "/apis/connectors.alauda.io/v1alpha1";
        let path = format!("{group}/namespaces/{namespace}/connectors/harbor");
        let (_, connector) = self.cluster.ask("GET", &path, None);
        let mut conditions = connector["status"]["conditions"].as_array().into_iter().flatten();
        let found = conditions.find(|one| one["type"] == condition);
        found.and_then(|one| one["status"].as_str()).unwrap_or_default().to_owned()
    }

    /// Runs the Pod of `job` as a node does: its volume, then its container. What it printed.
    fn run(&self, job: &Value, namespace: &str) -> String {
        let pod = &job["spec"]["template"]["spec"];
        assert_eq!(pod["serviceAccountName"], "builder");
        let mut driver = Driver::in_cluster(&self.cluster.kubeconfig_of_driver(), &[]);
        // What the CSIDriver object has the kubelet bring.
        let spec = json!({"audiences": ["connectors-proxy"], "expirationSeconds": 43200});
        let token = self.cluster.token_for(namespace, "builder", &spec);
        driver.tokens.push(token.clone());
        let mut volumes = pod["volumes"].as_array().expect("volumes").iter();
        let volume = volumes.find(|volume| volume["name"] == "connector").expect("a volume");
        let volume = Volume {
            namespace: namespace.to_owned(),
            token,
            ..Volume::of("pod", &attributes(volume))
        };
        // The kubelet asks again, too, while the controller has not reported the address.
        eventually("the volume", || driver.kubelet().publish(&volume).ok());
        let host = format!("c-harbor.{namespace}.svc.cluster.local");
        run(&pod["containers"][0], &volume.path(&driver.kubelet_folder()), &host)
    }
}

/// The objects that the page's steps from the connector to the push make, for a Harbor of ours.
fn pasted(harbor: &str) -> Vec<Value> {
    let page = guides::read("docs/quick-start.md");
    let (_, steps) = page.split_once("\n## 3. A connector\n").expect("its third step");
    let (steps, _) = steps.split_once("\n## No Harbor at hand?\n").expect("its last step");
    let steps = blocks("docs/quick-start.md", steps);
    let commands: String = steps.iter().map(|block| block.text.as_str()).collect();
    // Both are the reader's to change; the robot of the page is that of the stories.
    let line = format!("HARBOR=https://harbor.example.com ROBOT='{USER}'\n");
    assert!(commands.contains(&line), "{commands}");
    let commands = commands.replace("https://harbor.example.com", harbor);
    let mut shell = Command::new("bash")
        .args(["-euc", &format!("{KUBECTL}{commands}")])
        .env_remove("KUBECONFIG")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()
        .expect("a shell");
    writeln!(shell.stdin.take().expect("a pipe"), "{PASSWORD}").expect("the secret is read");
    let output = shell.wait_with_output().expect("it ends");
    assert!(output.status.success(), "{commands}");
    let mut objects = documents(&String::from_utf8(output.stdout).expect("YAML is UTF-8"));
    // The first document is the page's question for the secret.
    objects.retain(|object| object["apiVersion"].is_string());
    assert_eq!(objects.len(), 7, "{objects:?}");
    objects
}

fn attributes(volume: &Value) -> Vec<(&str, &str)> {
    let attributes = volume["csi"]["volumeAttributes"].as_object().expect("attributes");
    attributes.iter().map(|(k, v)| (k.as_str(), v.as_str().expect("text"))).collect()
}

/// Runs the container where `host` is this machine; what it printed. The image that it copies is
/// one of ours, and `volume` is where it lies instead of where the container mounts it.
fn run(container: &Value, volume: &Path, host: &str) -> String {
    let job = Job::new("nowhere.example", "nobody", "nothing").resolving(host);
    let image = Layout::image(&job.path("image"), 2, 90);
    let text = |value: &Value| value.as_str().expect("text").to_owned();
    let list = |name: &str| container[name].as_array().into_iter().flatten();
    // The job has a home of its own here.
    let variables = list("env")
        .filter(|entry| entry["name"] != "HOME")
        .map(|entry| format!("export {}={}\n", text(&entry["name"]), text(&entry["value"])));
    let mut words: Vec<String> = list("command").chain(list("args")).map(text).collect();
    let source = words.iter_mut().find(|word| word.starts_with("docker://")).expect("an image");
    *source = image.source();
    let script = variables.collect::<String>() + &words.join(" ");
    let mount = list("volumeMounts").find(|mount| mount["name"] == "connector").expect("a mount");
    let mount = format!("{}/", text(&mount["mountPath"]));
    assert!(script.contains(&mount), "{script}");
    let script = script.replace(&mount, &format!("{}/", volume.display()));
    fs::write(job.path("push.sh"), &script).expect("a script");
    let (ok, said, why) = job.try_run(&format!("bash -e {}", job.path("push.sh").display()));
    assert!(ok, "{script}\n{said}{why}");
    said + &why
}

/// A `kubectl` that writes what it would create or apply, and waits for nothing.
const KUBECTL: &str = r#"
kubectl() {
  case " $* " in
    *" apply -f - "*) printf '\n---\n'; cat ;;
    *" create "*) printf '\n---\n'; command kubectl "$@" --dry-run=client -o yaml ;;
  esac
}
"#;
