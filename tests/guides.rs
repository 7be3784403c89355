//! The guides in docs/ are true: commands run, manifests are valid, references are complete.
//!
//! A block of commands says in its info string what it is: `sh test` is run here, by a shell in a
//! job that has a connector's volume at /run/connector; `sh cluster` needs a cluster, a daemon or a
//! node, and only the manifests in it are looked at. `UPDATE=1` rewrites what is generated.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::CommandFactory as _;
use controlplane::config::CommandLine;
use serde_json::Value;
use tempfile::TempDir;

use crate::audit;
use crate::support::cluster::documents;
use crate::support::controller::Controller;
use crate::support::deployment::{self, Deployment, INSTALLATIONS, containers};
use crate::support::kubelet::{Driver, Volume, outcome};
use crate::support::manifests::{ca_secret, connector, secret};
use crate::support::programs::{Job, lacking};
use crate::support::{
    Cluster, FakeRegistry, HOST, Harbor, PASSWORD, Proxy, TOKEN, docker_registry, netns,
};

const NAME: &str = "harbor.example.com";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// A text of the repository.
pub(crate) fn read(path: &str) -> String {
    fs::read_to_string(root().join(path)).unwrap_or_else(|cause| panic!("{path}: {cause}"))
}

/// The pages, by their path from the root.
fn pages() -> Vec<(String, String)> {
    let mut found = Vec::new();
    for folder in ["docs", "docs/reference"] {
        for entry in fs::read_dir(root().join(folder)).expect("a folder").flatten() {
            let name = format!("{folder}/{}", entry.file_name().to_string_lossy());
            if name.ends_with(".md") {
                found.push((name.clone(), read(&name)));
            }
        }
    }
    found.sort();
    assert!(found.len() >= 10, "{found:?}");
    found
}

/// A fenced block of a page.
pub(crate) struct Block {
    /// The page and the line it begins in.
    place: String,
    info: String,
    /// What stands in it.
    pub(crate) text: String,
}

/// The blocks of a page.
pub(crate) fn blocks(page: &str, text: &str) -> Vec<Block> {
    let mut found: Vec<Block> = Vec::new();
    let mut inside = false;
    for (number, line) in text.lines().enumerate() {
        match (inside, line.strip_prefix("```")) {
            (false, Some(info)) => {
                let place = format!("{page}:{}", number + 1);
                found.push(Block { place, info: info.to_owned(), text: String::new() });
                inside = true;
            }
            (true, Some(_)) => inside = false,
            (true, None) => {
                let block = found.last_mut().expect("a block has begun");
                block.text.push_str(line);
                block.text.push('\n');
            }
            (false, None) => {}
        }
    }
    assert!(!inside, "{page}: a block has no end");
    found
}

fn all_blocks() -> Vec<Block> {
    pages().iter().flat_map(|(page, text)| blocks(page, text)).collect()
}

#[test]
fn every_block_says_what_it_is_and_pastes_as_it_stands() {
    let known =
        ["sh test", "sh cluster", "sh provider", "yaml", "yaml part", "toml", "json", "text"];
    let mut tested = 0;
    for Block { place, info, text } in all_blocks() {
        assert!(known.contains(&info.as_str()), "{place}: `{info}` is none of {known:?}");
        assert!(!text.contains('\t'), "{place}: a tab is completed when it is pasted");
        tested += usize::from(info == "sh test");
        for (_, after) in text.match_indices("<<EOF").map(|(at, _)| text.split_at(at)) {
            // The shell that it is pasted into reads these before anybody else does.
            let body = after.split("\nEOF\n").next().unwrap_or_default();
            assert!(!body.contains("$(") && !body.contains('`'), "{place}: quote 'EOF'");
        }
    }
    assert!(tested >= 12, "only {tested} blocks are run");
}

#[test]
fn the_installation_that_the_quick_start_writes_renders_with_its_image() {
    if lacking(&deployment::NEEDED) {
        return;
    }
    let blocks = blocks("docs/quick-start.md", &read("docs/quick-start.md"));
    let step = |word: &str| {
        let block = blocks.iter().find(|block| block.text.contains(word));
        &block.unwrap_or_else(|| panic!("no block with {word}")).text
    };
    // Its lines as they stand, up to the first that needs a cluster.
    let image = step("deploy/image").lines().next().expect("the image's name");
    let (written, _) = step("my-install/").split_once("\nkubectl ").expect("commands");
    let name = image.strip_prefix("IMAGE=").expect("a name");
    for overlay in INSTALLATIONS {
        let checkout = TempDir::new().expect("a folder");
        symlink(root().join("deploy"), checkout.path().join("deploy")).expect("a link");
        let line = written.replace("deploy/base", &format!("deploy/{overlay}"));
        let shell = Command::new("bash")
            .current_dir(&checkout)
            .args(["-euc", &format!("{image}\n{line}")])
            .status();
        assert!(shell.expect("a shell").success(), "{line}");
        let installed = Deployment::render_folder(&checkout.path().join("my-install"));
        let wanted = format!("{name}:{}", env!("CARGO_PKG_VERSION"));
        for workload in installed.workloads() {
            for container in containers(workload) {
                assert_eq!(container["image"], wanted.as_str(), "{overlay}");
            }
        }
    }
}

#[test]
fn an_installation_is_applied_so_that_older_clusters_take_it() {
    let mut found = 0;
    let comment = ("deploy/base/kustomization.yaml".into(), read("deploy/base/kustomization.yaml"));
    let readme = ("README.md".to_owned(), read("README.md"));
    for (page, text) in pages().into_iter().chain([readme, comment]) {
        for line in text.lines().filter(|line| line.contains("kubectl apply")) {
            if line.contains("deploy/base") || line.contains("my-install") {
                assert!(line.contains(" --validate=warn "), "{page}: {line}");
                found += 1;
            }
        }
    }
    assert!(found >= 3, "{found}");
}

/// The manifests in the block: all of it, or what it hands to a program.
fn manifests(block: &Block) -> Vec<String> {
    if block.info == "yaml" {
        return vec![block.text.clone()];
    }
    let begins = |line: &str| line.contains("<<EOF") || line.contains("<<'EOF'");
    let mut found = Vec::new();
    let mut lines = block.text.lines();
    while let Some(line) = lines.next() {
        if begins(line) {
            let body: Vec<_> = lines.by_ref().take_while(|line| *line != "EOF").collect();
            found.push(body.join("\n") + "\n");
        }
    }
    found
}

#[test]
fn the_manifests_of_the_guides_are_valid() {
    let kinds = ["Connector", "ConnectorClass", "Secret", "Role", "RoleBinding", "ClusterRole"];
    for (page, text) in pages() {
        let folder = TempDir::new().expect("a folder");
        // What the guides make by `kubectl create secret`.
        let known = secret("ci", "harbor-robot", PASSWORD);
        fs::write(folder.path().join("secret.yaml"), known).expect("a file");
        for (number, block) in blocks(&page, &text).iter().enumerate() {
            let place = &block.place;
            match block.info.as_str() {
                "toml" => assert!(toml::from_str::<toml::Table>(&block.text).is_ok(), "{place}"),
                "json" => assert!(serde_json::from_str::<Value>(&block.text).is_ok(), "{place}"),
                "yaml part" => assert!(!documents(&block.text).is_empty(), "{place}"),
                _ => {}
            }
            let filled = |text: String| {
                text.replace("$HARBOR", "https://harbor.example.com").replace("$IMAGE", "x/y")
            };
            for (part, text) in manifests(block).into_iter().map(filled).enumerate() {
                let objects = documents(&text);
                assert!(!objects.is_empty(), "{place}: no manifest");
                for object in &objects {
                    assert!(object["apiVersion"].is_string(), "{place}: {object}");
                    check_volumes(object, place);
                }
                let ours = |object: &&Value| {
                    object["kind"].as_str().is_some_and(|kind| kinds.contains(&kind))
                };
                let ours: Vec<_> = objects.iter().filter(ours).map(Value::to_string).collect();
                let file = folder.path().join(format!("{number}-{part}.yaml"));
                fs::write(file, ours.join("\n---\n")).expect("a file");
            }
        }
        let folder = folder.path().to_str().expect("a plain path");
        let (code, said, errors) = crate::support::proxy::run(&["check", folder]);
        assert_eq!((code, errors.as_str()), (Some(0), ""), "{page}: {said}");
    }
}

/// Every volume of ours below `object` has attributes that there are, and is read-only.
fn check_volumes(object: &Value, place: &str) {
    if object["driver"] == "connectors-csi" && object["volumeAttributes"].is_object() {
        assert_eq!(object["readOnly"], true, "{place}: {object}");
        let known = [
            "connectors",
            "connector.name",
            "connector.namespace",
            "configuration.names",
            "configuration.params",
            "token.expiration",
        ];
        let attributes = object["volumeAttributes"].as_object().expect("an object");
        for (key, value) in attributes {
            assert!(known.contains(&key.as_str()) && value.is_string(), "{place}: {key}: {value}");
        }
    }
    match object {
        Value::Array(all) => all.iter().for_each(|one| check_volumes(one, place)),
        Value::Object(all) => all.values().for_each(|one| check_volumes(one, place)),
        _ => {}
    }
}

#[test]
fn the_commands_of_the_guides_do_what_they_say() {
    let needed = ["skopeo", "buildah", "podman", "curl", "unshare", "ip", "mount namespaces"];
    if lacking(&[&docker_registry::NEEDED[..], &needed].concat()) {
        return;
    }
    // Ports 80 and 443 are free where nobody else is.
    netns::apart(&[], || {
        for (page, text) in pages() {
            let mut tested = blocks(&page, &text);
            tested.retain(|block| block.info == "sh test");
            if !tested.is_empty() {
                run_all(&tested);
            }
        }
    });
}

/// Runs the blocks of one page, one after another in one folder, each by a shell of its own.
fn run_all(blocks: &[Block]) {
    let harbor = Harbor::https();
    let more = format!(
        "  caCertSecretRef: {{name: harbor-ca}}\n  addressExtensions:\n  \
         - {{name: public, value: \"https://{NAME}\"}}\n"
    );
    let served = connector("ci", "harbor", &harbor.url(), &more);
    let manifests = harbor
        .manifests()
        .with("ca.yaml", &ca_secret("ci", "harbor-ca", harbor.ca()))
        .with("connector.yaml", &served);
    let flags = ["--listen", "127.0.0.1:80", "--listen-tls", "127.0.0.1:443"];
    let proxy = Proxy::start(&manifests, &flags);
    // In a cluster the controller writes this.
    let status = format!("status: {{proxy: {{httpAddress: {{url: 'http://{HOST}'}}}}}}\n");
    let manifests = manifests.with("connector.yaml", &(served + &status));
    let ca = proxy.ca_path().display().to_string();
    let driver = Driver::start(&manifests, &["--ca-file", &ca]);
    let attributes = [("connectors", "harbor"), ("configuration.names", "config,buildkitd")];
    let volume = Volume::of("pod-1", &attributes);
    assert_eq!(outcome(&driver.kubelet().publish(&volume)), "OK");
    let files = volume.path(&driver.kubelet_folder()).display().to_string();

    // The job has a login of its own, which is good for nothing here.
    let job = Job::new("nowhere.example", "nobody", "nothing").resolving(HOST);
    fs::create_dir(job.path("work")).expect("a folder");
    fs::write(job.path("enter"), ENTER).expect("a script");
    let job = job.with("BUILDAH_ISOLATION", "chroot").with("FILES", &files);
    for (number, Block { place, text, .. }) in blocks.iter().enumerate() {
        let script = job.path(&format!("{number}.sh"));
        fs::write(&script, text).expect("a script");
        let (enter, script, work) = (job.path("enter"), script.display(), job.path("work"));
        let line = format!("bash {} {script} {}", enter.display(), work.display());
        let (ok, said, why) = job.try_run(&line);
        assert!(ok, "{place}\n{text}\n{said}{why}");
    }
}

/// Makes the volume appear where the guides mount it, for one shell.
const ENTER: &str = "set -eu\n\
    mount -t tmpfs none /run\n\
    mkdir /run/connector\n\
    mount --bind \"$FILES\" /run/connector\n\
    cd \"$2\"\n\
    exec bash -euo pipefail \"$1\"\n";

#[test]
fn the_kubelets_provider_makes_a_login_that_the_proxy_takes() {
    let page = read("docs/kubelet.md");
    let blocks = blocks("docs/kubelet.md", &page);
    let script = blocks.iter().find(|block| block.info == "sh provider").expect("the provider");
    let folder = TempDir::new().expect("a folder");
    let file = folder.path().join("connectors");
    fs::write(&file, &script.text).expect("a script");
    // Kubernetes, "Kubelet CredentialProvider (v1)": one line of JSON on stdin.
    let request = serde_json::json!({
        "kind": "CredentialProviderRequest",
        "apiVersion": "credentialprovider.kubelet.k8s.io/v1",
        "image": "connectors.example.com/namespaces/ci/connectors/harbor/team/app:v1",
        "serviceAccountToken": TOKEN,
        "serviceAccountAnnotations": {},
    });
    let ask = |request: &Value| {
        let input = folder.path().join("request");
        fs::write(&input, format!("{request}\n")).expect("a request");
        let input = fs::File::open(input).expect("a request");
        Command::new("sh").arg(&file).stdin(input).output().expect("a shell")
    };
    let answer = ask(&request);
    assert!(answer.status.success(), "{answer:?}");
    let answer: Value = serde_json::from_slice(&answer.stdout).expect("JSON");
    assert_eq!(answer["kind"], "CredentialProviderResponse");
    assert_eq!(answer["apiVersion"], request["apiVersion"]);
    let login = &answer["auth"]["connectors.example.com"];
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::in_front_of(&registry);
    let password = login["password"].as_str().expect("a password");
    let image = "/v2/namespaces/ci/connectors/harbor/team/app/manifests/v1";
    assert_eq!(proxy.get_as(password, image).status, 200);
    assert!(!ask(&serde_json::json!({"image": "x"})).status.success(), "no token, no login");
}

#[test]
fn every_link_leads_somewhere() {
    let readme = ("README.md".to_owned(), read("README.md"));
    for (page, text) in pages().into_iter().chain([readme]) {
        let folder = Path::new(&page).parent().unwrap_or(Path::new("")).to_owned();
        for link in text.split("](").skip(1).filter_map(|rest| rest.split(')').next()) {
            if link.starts_with("http") {
                continue;
            }
            let (file, anchor) = link.split_once('#').unwrap_or((link, ""));
            let target = if file.is_empty() { PathBuf::from(&page) } else { folder.join(file) };
            let found = root().join(&target);
            assert!(found.exists(), "{page}: {link} leads nowhere");
            if !anchor.is_empty() {
                let text = fs::read_to_string(&found).expect("a page");
                assert!(anchors(&text).contains(anchor), "{page}: no heading for {link}");
            }
        }
    }
}

/// The anchors of a page's headings: small letters, dashes for spaces, no marks.
fn anchors(text: &str) -> BTreeSet<String> {
    let headings = text.lines().filter(|line| line.starts_with('#'));
    let anchor = |line: &str| {
        let title = line.trim_start_matches('#').trim().to_lowercase();
        let kept = title.chars().filter(|c| c.is_alphanumeric() || matches!(c, '-' | '_' | ' '));
        kept.map(|c| if c == ' ' { '-' } else { c }).collect()
    };
    headings.map(anchor).collect()
}

/// `text` with every run of white space as one space, so that texts may be broken into lines.
fn flowing(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The literal texts in `source`, with their escapes undone.
fn literals(source: &str) -> Vec<String> {
    let pieces: Vec<_> = source.split('"').collect();
    pieces.chunks(2).filter_map(|pair| pair.get(1)).map(|text| (*text).to_owned()).collect()
}

#[test]
fn every_error_has_an_entry_with_its_status_and_its_texts() {
    let page = read("docs/troubleshooting.md");
    let source = read("dataplane/src/error.rs");
    let between = |from: &str, to: &str| -> String {
        let rest = source.split_once(from).unwrap_or_else(|| panic!("no {from}")).1;
        rest.split_once(to).map_or(rest, |(found, _)| found).to_owned()
    };
    let mut rows = 0;
    for line in between("fn row(", "/// What the caller is told").lines() {
        let Some((_, row)) = line.split_once("=> (") else {
            continue;
        };
        rows += 1;
        let status = row.split(',').next().expect("a status");
        let word = &literals(row)[1];
        let entry = page.split_once(&format!("\n### `{word}`\n"));
        let entry = entry.unwrap_or_else(|| panic!("docs/troubleshooting.md: no ### `{word}`")).1;
        let entry = entry.split("\n#").next().unwrap_or_default();
        assert!(entry.contains(status), "{word}: the status is {status}");
    }
    assert!(rows > 40, "{rows} rows");
    let page = flowing(&page);
    let mut texts = literals(&between("fn message(", "/// A failed exchange"));
    for source in sources(&root().join("dataplane/src")) {
        texts.extend(varying(&source));
    }
    for text in texts {
        assert!(page.contains(&text), "docs/troubleshooting.md does not have: {text}");
    }
}

#[test]
fn the_lines_of_the_log_that_the_page_explains_are_written() {
    let page = read("docs/troubleshooting.md");
    let (_, section) = page.split_once("\n## The installation itself\n").expect("a section");
    let section = section.split("\n## ").next().unwrap_or_default();
    let log: String = sources(&root().join("controlplane/src")).concat();
    // What kubectl, the API server and the runtime say, they say.
    let theirs = ["no matches for", "unknown field", "exec format error", "cannot load seccomp"];
    let mut found = 0;
    for row in section.lines().filter_map(|line| line.strip_prefix("| ")) {
        let texts = row.split(" | ").next().unwrap_or_default().split('`').skip(1).step_by(2);
        for text in texts.filter(|text| text.contains(' ')) {
            if !theirs.iter().any(|begin| text.starts_with(begin)) {
                assert!(log.contains(&format!("{text}\"")), "nobody writes: {text}");
                found += 1;
            }
        }
    }
    assert!(found >= 5, "{found}");
}

/// The sources below `folder`, without their tests.
fn sources(folder: &Path) -> Vec<String> {
    let mut found = Vec::new();
    for entry in fs::read_dir(folder).expect("a folder").flatten() {
        let path = entry.path();
        if path.is_dir() {
            found.extend(sources(&path));
        } else if !path.ends_with("tests.rs") && !path.ends_with("fuzzing.rs") {
            let text = fs::read_to_string(&path).expect("a source");
            found.push(text.split("#[cfg(test)]").next().unwrap_or_default().to_owned());
        }
    }
    found
}

/// The texts of the errors in `source` whose message is not always the same.
fn varying(source: &str) -> Vec<String> {
    let kinds = [
        "Kind::Malformed(",
        "Kind::NameInvalid(",
        "Kind::QueryInvalid(",
        "Kind::PolicyDenied(",
        "Kind::RegistryMalformed(",
        "Kind::RedirectRefused(",
        "Kind::StorageUnreachable(",
    ];
    let calls = kinds.iter().flat_map(|kind| source.split(*kind).skip(1));
    let first = |rest: &str| {
        let text = rest.trim_start().strip_prefix('"')?;
        text.split('"').next().map(str::to_owned)
    };
    calls.filter_map(first).collect()
}

/// Compares what follows the mark in `path` with `generated`, or writes it.
fn assert_generated(path: &str, generated: &str) {
    let text = read(path);
    let (before, after) = text.split_once(MARK).unwrap_or_else(|| panic!("{path}: no {MARK}"));
    let generated = format!("\n\n{}\n", generated.trim());
    if std::env::var_os("UPDATE").is_some() {
        let page = format!("{before}{MARK}{generated}");
        fs::write(root().join(path), page).expect("the page is written");
    } else {
        assert_eq!(after, generated, "{path}: UPDATE=1 writes it anew");
    }
}

const MARK: &str = "<!-- generated: UPDATE=1 cargo test -p controlplane --test stories guides -->";

#[test]
fn the_reference_of_flags_is_that_of_the_program() {
    let mut page = String::new();
    let mut command = CommandLine::command();
    command.build();
    for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help") {
        let about = verb.get_about().map(ToString::to_string).unwrap_or_default();
        page += &format!("## `harbor-connector {}`\n\n{about}.\n\n", verb.get_name());
        let rows: Vec<_> = verb.get_arguments().filter_map(flag_row).collect();
        if !rows.is_empty() {
            page += "| flag | default | meaning |\n|---|---|---|\n";
            page += &rows.concat();
            page.push('\n');
        }
    }
    assert_generated("docs/reference/flags.md", &page.replace("..\n", ".\n"));
}

/// One line of the table. Whoever looks for help knows the word.
fn flag_row(flag: &clap::Arg) -> Option<String> {
    let values = flag.get_value_names().unwrap_or_default().join(" ");
    let name = match flag.get_long() {
        Some("help" | "version") => return None,
        Some(long) if flag.get_action().takes_values() => format!("--{long} {values}"),
        Some(long) => format!("--{long}"),
        None => values,
    };
    let defaults = flag.get_default_values().iter().map(|value| value.to_string_lossy());
    let default: Vec<_> = defaults.map(|value| format!("`{value}`")).collect();
    let help = flag.get_long_help().or(flag.get_help()).map(ToString::to_string);
    let mut help = flowing(&help.unwrap_or_default());
    let choices = flag.get_possible_values();
    if flag.get_action().takes_values() && !choices.is_empty() {
        let names: Vec<_> = choices.iter().map(|value| format!("`{}`", value.get_name())).collect();
        help = format!("{}. One of {}", help.trim_end_matches('.'), names.join(", "));
    }
    // A bar, a star or an angle bracket is none of Markdown's here.
    let help = format!("{}.", help.trim_end_matches('.'))
        .replace('|', "\\|")
        .replace('<', "&lt;")
        .replace('*', "\\*");
    Some(format!("| `{name}` | {} | {help} |\n", default.join(", ")))
}

#[test]
fn the_reference_of_metrics_is_that_of_the_program() {
    let cluster = Cluster::new();
    let proxy = Proxy::in_cluster(&cluster, &["--audit", "/dev/null", "--probe-seconds", "60"]);
    let controller = Controller::elected(&cluster, &[]);
    let mut page = String::new();
    for (program, text) in [
        ("proxy", proxy.admin("/metrics").text()),
        ("controller", controller.admin("/metrics").text()),
    ] {
        page += &format!("## The {program}\n\n{}\n", tables(&text));
    }
    assert_generated("docs/reference/metrics.md", &page);
    for (name, text) in pages() {
        for rest in text.split("harbor_connector_").skip(1) {
            let end = rest.find(|c: char| !(c.is_ascii_lowercase() || c == '_'));
            let metric = format!("`harbor_connector_{}`", &rest[..end.unwrap_or(rest.len())]);
            assert!(page.contains(&metric), "{name}: there is no metric {metric}");
        }
    }
}

/// The metrics of a page that was scraped, and the values of their labels.
fn tables(text: &str) -> String {
    let mut page = "| metric | type | labels | meaning |\n|---|---|---|---|\n".to_owned();
    let mut values = BTreeMap::<String, BTreeSet<String>>::new();
    let kinds: BTreeMap<_, _> = text.lines().filter_map(|line| described(line, "TYPE")).collect();
    for (name, help) in text.lines().filter_map(|line| described(line, "HELP")) {
        let kind = kinds[&name].as_str();
        let shown = match kind {
            "counter" => format!("{name}_total"),
            "info" => format!("{name}_info"),
            _ => name.clone(),
        };
        let mut labels = BTreeSet::new();
        let series = text.lines().filter_map(|line| line.strip_prefix(&shown));
        for pair in series.filter_map(|line| line.strip_prefix('{')?.split('}').next()) {
            for (label, value) in pair.split(',').filter_map(|pair| pair.split_once('=')) {
                labels.insert(label.to_owned());
                if !["core", "version", "io", "le"].contains(&label) {
                    values.entry(label.to_owned()).or_default().insert(value.replace('"', ""));
                }
            }
        }
        let labels: Vec<_> = labels.iter().map(|label| format!("`{label}`")).collect();
        page += &format!("| `{shown}` | {kind} | {} | {help} |\n", labels.join(", "));
    }
    page += "\n| label | its values |\n|---|---|\n";
    for (label, values) in values {
        let values: Vec<_> = values.iter().map(|value| format!("`{value}`")).collect();
        page += &format!("| `{label}` | {} |\n", values.join(", "));
    }
    page
}

/// Name and text of a line of metadata (OpenMetrics 1.0, "Metadata").
fn described(line: &str, what: &str) -> Option<(String, String)> {
    let rest = line.strip_prefix(&format!("# {what} "))?;
    rest.split_once(' ').map(|(name, rest)| (name.to_owned(), rest.to_owned()))
}

#[test]
fn the_reference_of_the_audit_has_every_key_in_its_order() {
    let page = read("docs/reference/audit.md");
    let (_, table) = page.split_once("## The keys\n").expect("a section");
    let table = table.split("\n#").next().unwrap_or_default();
    let rows = table.lines().filter_map(|line| line.strip_prefix("| `")?.split('`').next());
    assert_eq!(rows.collect::<Vec<_>>(), audit::KEYS);
    let example = blocks("docs/reference/audit.md", &page);
    let example = example.iter().find(|block| block.info == "json").expect("an example");
    let places = audit::KEYS.iter().map(|key| example.text.find(&format!("\"{key}\":")));
    assert!(places.collect::<Vec<_>>()[..23].is_sorted(), "the keys of the example");
}
