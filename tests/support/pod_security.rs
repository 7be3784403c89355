//! The Pod Security Standard *restricted*, as the admission of a cluster would judge a Pod.
//!
//! A Pod's specification in, what it does against the standard out. Each rule is one control of
//! Kubernetes, "Pod Security Standards": those of *baseline* come first, then what *restricted*
//! adds. The namespace's label decides whether they hold; that is the story's to look at.

use serde_json::Value;

/// What a Pod must not do, each as the path of a field and its value.
pub(crate) fn violations(pod: &Value) -> Vec<String> {
    let mut found = Vec::new();
    baseline(pod, &mut found);
    restricted(pod, &mut found);
    found.sort();
    found.dedup();
    found
}

fn baseline(pod: &Value, found: &mut Vec<String>) {
    for namespace in ["hostNetwork", "hostPID", "hostIPC"] {
        forbid(found, namespace, &pod[namespace], is_unset);
    }
    // Some are allowed; none is needed here.
    forbid(found, "sysctls", &pod["securityContext"]["sysctls"], is_unset);
    for volume in list(&pod["volumes"]) {
        forbid(found, &format!("volumes.{}.hostPath", name(volume)), &volume["hostPath"], is_unset);
    }
    let annotations = pod["securityContext"]["appArmorProfile"]["type"].clone();
    forbid(found, "appArmorProfile", &annotations, is_profile);
    labels(found, "", &pod["securityContext"]["seLinuxOptions"]);
    forbid(
        found,
        "windowsOptions",
        &pod["securityContext"]["windowsOptions"]["hostProcess"],
        is_unset,
    );
    for (at, container) in containers(pod) {
        let security = &container["securityContext"];
        forbid(found, &format!("{at}.privileged"), &security["privileged"], is_unset);
        forbid(found, &format!("{at}.procMount"), &security["procMount"], |value| {
            value.is_null() || value == "Default"
        });
        forbid(
            found,
            &format!("{at}.appArmorProfile"),
            &security["appArmorProfile"]["type"],
            is_profile,
        );
        forbid(
            found,
            &format!("{at}.windowsOptions"),
            &security["windowsOptions"]["hostProcess"],
            is_unset,
        );
        labels(found, &at, &security["seLinuxOptions"]);
        for port in list(&container["ports"]) {
            forbid(found, &format!("{at}.hostPort"), &port["hostPort"], |value| {
                value.is_null() || value == 0
            });
        }
        // Since 1.34: a probe must not be sent from the node to wherever the Pod says.
        for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
            for way in ["httpGet", "tcpSocket"] {
                let host = &container[probe][way]["host"];
                forbid(found, &format!("{at}.{probe}.host"), host, is_unset);
            }
        }
        for moment in ["postStart", "preStop"] {
            let host = &container["lifecycle"][moment]["httpGet"]["host"];
            forbid(found, &format!("{at}.{moment}.host"), host, is_unset);
        }
    }
}

fn restricted(pod: &Value, found: &mut Vec<String>) {
    for volume in list(&pod["volumes"]) {
        let is_known = VOLUMES.iter().any(|kind| !volume[kind].is_null());
        forbid(found, &format!("volumes.{}", name(volume)), volume, |_| is_known);
    }
    let common = &pod["securityContext"];
    forbid(found, "runAsUser", &common["runAsUser"], |user| *user != 0);
    for (at, container) in containers(pod) {
        let own = &container["securityContext"];
        let effective =
            |field: &str| if own[field].is_null() { &common[field] } else { &own[field] };
        let escalation = &own["allowPrivilegeEscalation"];
        forbid(found, &format!("{at}.allowPrivilegeEscalation"), escalation, |value| {
            *value == false
        });
        let non_root = effective("runAsNonRoot");
        forbid(found, &format!("{at}.runAsNonRoot"), non_root, |value| *value == true);
        forbid(found, &format!("{at}.runAsUser"), &own["runAsUser"], |user| *user != 0);
        let seccomp = &effective("seccompProfile")["type"];
        forbid(found, &format!("{at}.seccompProfile"), seccomp, |value| {
            value == "RuntimeDefault" || value == "Localhost"
        });
        let dropped = &own["capabilities"]["drop"];
        forbid(found, &format!("{at}.capabilities.drop"), dropped, |value| {
            list(value).any(|capability| capability == "ALL")
        });
        for added in list(&own["capabilities"]["add"]) {
            forbid(found, &format!("{at}.capabilities.add"), added, |value| {
                value == "NET_BIND_SERVICE"
            });
        }
    }
}

fn forbid(found: &mut Vec<String>, at: &str, value: &Value, is_allowed: impl Fn(&Value) -> bool) {
    if !is_allowed(value) {
        let shown = if value.is_object() { "…".to_owned() } else { value.to_string() };
        found.push(format!("{at}: {shown}"));
    }
}

fn labels(found: &mut Vec<String>, at: &str, options: &Value) {
    let kinds = ["", "container_t", "container_init_t", "container_kvm_t", "container_engine_t"];
    forbid(found, &format!("{at}.seLinuxOptions.type"), &options["type"], |value| {
        value.as_str().is_none_or(|kind| kinds.contains(&kind))
    });
    for field in ["user", "role"] {
        forbid(found, &format!("{at}.seLinuxOptions.{field}"), &options[field], is_unset);
    }
}

/// Every container with its name.
fn containers(pod: &Value) -> Vec<(String, &Value)> {
    ["initContainers", "containers", "ephemeralContainers"]
        .into_iter()
        .flat_map(|field| list(&pod[field]))
        .map(|container| (name(container), container))
        .collect()
}

fn list(value: &Value) -> impl Iterator<Item = &Value> {
    value.as_array().into_iter().flatten()
}

fn name(value: &Value) -> String {
    value["name"].as_str().unwrap_or_default().to_owned()
}

/// The field is absent, false or empty.
fn is_unset(value: &Value) -> bool {
    value.is_null() || *value == false || value == ""
}

fn is_profile(value: &Value) -> bool {
    value.is_null() || value == "RuntimeDefault" || value == "Localhost"
}

const VOLUMES: [&str; 8] = [
    "configMap",
    "csi",
    "downwardAPI",
    "emptyDir",
    "ephemeral",
    "persistentVolumeClaim",
    "projected",
    "secret",
];
