//! Harbor's own ways, through the proxy: what it does to an upload's address, its cookies, the
//! names of its robots, and the refusals that only Harbor knows.

use std::time::{Duration, Instant};

use crate::push::{forms, push_with_each_client, upload_blob};
use crate::support::caller::request;
use crate::support::harbor::{Account, Authorization, Right, Seen, Settings, Visibility};
use crate::support::image::Layout;
use crate::support::manifests::{NEXT_PASSWORD, connector, encoded_secret, secret};
use crate::support::programs::{Job, lacking};
use crate::support::{
    Answer, Caller, HOST, Harbor, PASSWORD, PREFIX, Proxy, TOKEN, USER, base64, digest_of,
    docker_registry, eventually, noise,
};

const ALL: [Right; 3] = [Right::Pull, Right::Push, Right::Delete];

fn proxy(harbor: &Harbor) -> Proxy {
    Proxy::start(&harbor.manifests(), &[])
}

/// The same request at Harbor itself, as the connector's robot.
fn directly(harbor: &Harbor, method: &str, target: &str) -> Answer {
    let credential = base64(format!("{USER}:{PASSWORD}"));
    let request = format!(
        "{method} {target} HTTP/1.1\r\nHost: harbor\r\nAuthorization: Basic {credential}\r\n\
         Content-Length: 0\r\n\r\n"
    );
    Caller::connect(harbor.address()).ask(&request)
}

/// What callers asked for: the proxy may look by itself whether a credential is good.
fn asked(harbor: &Harbor) -> Vec<Seen> {
    harbor.requests().into_iter().filter(|seen| seen.target != "/v2/").collect()
}

/// Which of the robot's passwords came with each request of a caller, in order.
fn passwords_seen(harbor: &Harbor) -> Vec<Option<usize>> {
    let seen = asked(harbor).into_iter();
    seen.map(|seen| match seen.authorization {
        Authorization::Basic { password, .. } => password,
        other => panic!("{other:?} from the proxy"),
    })
    .collect()
}

#[test]
fn every_request_is_the_robots_and_no_cookie_goes_either_way() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let proxy = proxy(&harbor);
    let blob = noise(70, 200_000);
    upload_blob(&proxy, "team/app", &blob);
    let digest = digest_of(&blob);
    assert!(harbor.registry().holds("team/app", &digest));

    // Harbor offers a session with every answer; neither its own nor one that the caller made up
    // may come back, because with one Harbor asks for a CSRF token.
    let cookie = "Cookie: sid=0123; _gorilla_csrf=x\r\nContent-Length: 0\r\n";
    let mut caller = proxy.caller();
    for (method, target, status) in [
        ("GET", format!("{PREFIX}/team/app/blobs/{digest}"), 200),
        ("HEAD", format!("{PREFIX}/team/app/blobs/{digest}"), 200),
        ("POST", format!("{PREFIX}/team/app/blobs/uploads/"), 202),
        ("GET", format!("{PREFIX}/team/app/manifests/none"), 404),
        ("POST", format!("{PREFIX}/other/app/blobs/uploads/"), 403),
    ] {
        let answer = caller.ask(&request(method, &target, cookie));
        assert_eq!(answer.status, status, "{method} {target}: {answer}");
        assert!(!answer.has("set-cookie") && !answer.has("x-harbor-csrf-token"), "{answer}");
        assert!(!answer.has("www-authenticate"), "{answer}");
    }
    let robots = Authorization::Basic { principal: USER.to_owned(), password: Some(0) };
    for seen in harbor.requests() {
        assert!(seen.authorization == robots && !seen.cookies, "{seen}");
        assert_eq!(seen.field("host"), Some(harbor.authority().as_str()));
    }
}

#[test]
fn robots_of_every_spelling_log_in() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    for (prefix, name) in [
        ("robot$", "robot$team+ci"),
        ("robot$", "robot$ci$+$+"),
        ("robot_", "robot_team+ci"),
        ("robot@", "robot@team+ci build"),
        ("roböt%", "roböt%24team+ci"),
    ] {
        let harbor = Harbor::start(Settings {
            robot_prefix: prefix,
            accounts: vec![Account::robot(name, PASSWORD, &[("team", &ALL)])],
            ..Settings::default()
        });
        // Once as people write it, once as `kubectl get -o yaml` does.
        let plain = secret("ci", "harbor", PASSWORD).replace(USER, name);
        let encoded =
            encoded_secret("ci", "harbor", PASSWORD).replace(&base64(USER), &base64(name));
        for text in [plain, encoded] {
            let manifests = harbor.manifests().with("secret.yaml", &text);
            let proxy = Proxy::start(&manifests, &[]);
            let answer = proxy.get(&format!("{PREFIX}/team/app/tags/list"));
            // The repository is empty, and Harbor says so only to those who may read it.
            assert_eq!(answer.status, 404, "{name}: {answer}");
        }
        assert!(harbor.logins().iter().all(|login| login == name), "{:?}", harbor.logins());
    }
}

#[test]
fn an_absolute_upload_address_leads_back_through_the_proxy_with_its_state_untouched() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    for harbor in [Harbor::http(), Harbor::https()] {
        let proxy = proxy(&harbor);
        for (host, prefix) in [("proxy", PREFIX), (HOST, "/v2")] {
            let at_host = |method: &str, target: &str| {
                let request = request(method, target, "Content-Length: 0\r\n");
                proxy.ask(&request.replace("Host: proxy", &format!("Host: {host}")))
            };
            let opened = at_host("POST", &format!("{prefix}/team/app/blobs/uploads/"));
            assert_eq!(opened.status, 202, "{opened}");
            let location = opened.field("location").expect("a location").to_owned();
            let start = format!("{prefix}/team/app/blobs/uploads/");
            assert!(location.starts_with(&start), "{location}");
            let (_, query) = location.split_once('?').expect("a query");
            assert!(query.starts_with("_state=") && query.len() > 40, "{query}");

            let sent = at_host("PATCH", &location);
            assert_eq!(sent.status, 202, "{sent}");
            let arrived = asked(&harbor).pop().expect("a request").target;
            assert_eq!(arrived.split_once('?').map(|(_, query)| query), Some(query));
        }
    }
}

#[test]
fn skopeo_buildah_and_podman_push_and_pull_with_a_robot_over_http() {
    clients_with_a_robot(false);
}

#[test]
fn skopeo_buildah_and_podman_push_and_pull_with_a_robot_over_https() {
    clients_with_a_robot(true);
}

fn clients_with_a_robot(tls: bool) {
    let needed = ["skopeo", "buildah", "podman", "mount namespaces"];
    if lacking(&[docker_registry::NEEDED.as_slice(), &needed].concat()) {
        return;
    }
    let names = ["skopeo0", "buildah0", "podman0", "skopeo1", "buildah1", "podman1"];
    let rights: Vec<(&str, &[Right])> = names.iter().map(|name| (*name, ALL.as_slice())).collect();
    let harbor = Harbor::start(Settings {
        tls,
        projects: names.map(|name| (name, Visibility::Private)).to_vec(),
        accounts: vec![Account::robot(USER, PASSWORD, &rights)],
        ..Settings::default()
    });
    let proxy = proxy(&harbor);
    for (number, (host, prefix, resolves)) in (0_u64..).zip(forms(&proxy)) {
        let mut job = Job::new(&host, "pod", TOKEN);
        if let Some(name) = resolves {
            job = job.resolving(name);
        }
        push_with_each_client(harbor.registry(), &job, &format!("{host}/{prefix}"), number);
        // Each compares what it pulls with its digest.
        let image = format!("docker://{host}/{prefix}skopeo{number}/app:v1");
        let place = job.path("pulled").display().to_string();
        job.run(&format!("skopeo copy --src-tls-verify=false {image} dir:{place}"));
        for client in ["buildah", "podman"] {
            let image = format!("{host}/{prefix}{client}{number}/app:v1");
            job.run(&format!("{client} pull --tls-verify=false {image}"));
        }
    }
    // The proxy never let Harbor send anybody to its token service.
    assert!(harbor.requests().iter().all(|seen| !seen.target.starts_with("/service/")));
    assert!(harbor.tokens().is_empty());
    let seen = harbor.requests();
    assert!(seen.iter().all(|seen| seen.status != 401 && !seen.cookies), "{seen:?}");
}

#[test]
fn a_mount_that_harbor_refuses_is_an_ordinary_upload_and_the_push_goes_on() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let proxy = proxy(&harbor);
    let blob = noise(71, 50_000);
    let digest = digest_of(&blob);
    upload_blob(&proxy, "library/app", &blob);
    let ours = "namespaces/ci/connectors/harbor/";
    for (from, statuses) in [
        (format!("{ours}library/app"), vec![201]),
        // A project that the robot may not read, and one that does not exist.
        (format!("{ours}other/app"), vec![401, 202]),
        (format!("{ours}nowhere/app"), vec![401, 202]),
        // Harbor has 400 for a source without a project: such a mount is not even tried.
        (format!("{ours}app"), vec![202]),
    ] {
        let before = asked(&harbor).len();
        let target = format!("{PREFIX}/team/app/blobs/uploads/?mount={digest}&from={from}");
        let answer = proxy.ask(&request("POST", &target, "Content-Length: 0\r\n"));
        let seen: Vec<_> = asked(&harbor)[before..].iter().map(|seen| seen.status).collect();
        assert_eq!(seen, statuses, "{from}");
        assert_eq!(Some(&answer.status), statuses.last(), "{from}: {answer}");
        if answer.status == 201 {
            assert!(harbor.registry().holds("team/app", &digest));
            continue;
        }
        let location = answer.field("location").expect("a location");
        let target = format!("{location}&digest={digest}");
        let mut caller = proxy.caller();
        caller.send(request("PUT", &target, &format!("Content-Length: {}\r\n", blob.len())));
        caller.send(&blob);
        assert_eq!(caller.answer().expect("an answer").status, 201);
    }
}

#[test]
fn skopeo_goes_on_when_it_may_no_longer_read_what_it_would_mount() {
    if lacking(&[docker_registry::NEEDED.as_slice(), &["skopeo"]].concat()) {
        return;
    }
    let harbor = Harbor::http();
    let proxy = proxy(&harbor);
    let job = Job::new(&proxy.listen.to_string(), "pod", TOKEN);
    let layout = Layout::image(&job.path("image"), 2, 72);
    let push = |repository: &str| {
        job.run(&format!(
            "skopeo copy --preserve-digests --dest-tls-verify=false {} \
             docker://{}/namespaces/ci/connectors/harbor/{repository}:v1",
            layout.source(),
            proxy.listen
        ));
        assert_eq!(harbor.registry().digest(repository, "v1").as_ref(), Some(&layout.digest));
    };
    let mounts = |status: u16| {
        let seen = harbor.requests();
        seen.iter().filter(|seen| seen.target.contains("mount=") && seen.status == status).count()
    };
    harbor.change_account(USER, |robot| {
        robot.rights = ["team", "other"].map(|name| (name.to_owned(), ALL.to_vec())).to_vec();
    });
    push("team/app");
    push("team/mounted");
    assert!(mounts(201) > 0, "skopeo mounts what it remembers");
    // It remembers both repositories, asks for their blobs before it mounts, and may read neither
    // of them any more.
    harbor.change_account(USER, |robot| robot.rights.retain(|(name, _)| name == "other"));
    push("other/app");
    let seen = harbor.requests();
    let refused =
        |path: &str| seen.iter().any(|seen| seen.status == 401 && seen.target.starts_with(path));
    assert!(refused("/v2/team/app/blobs/") || refused("/v2/team/mounted/blobs/"), "{seen:?}");
    assert!(harbor.registry().holds("other/app", &layout.layers[0]));
}

#[test]
fn what_harbor_forbids_is_passed_on_in_its_own_words() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let proxy = proxy(&harbor);
    let blob = noise(73, 100_000);
    upload_blob(&proxy, "team/app", &blob);
    let config = upload_blob(&proxy, "team/app", b"{}");
    assert!(config.contains("sha256:"), "{config}");
    let digest = digest_of(b"{}");
    let manifest = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "config": {
            "mediaType": "application/vnd.oci.image.config.v1+json",
            "digest": digest,
            "size": 2,
        },
        "layers": [],
    });
    let put = |target: &str| {
        let text = manifest.to_string();
        let more = format!(
            "Content-Type: application/vnd.oci.image.manifest.v1+json\r\nContent-Length: {}\r\n",
            text.len()
        );
        proxy.ask(&format!("{}{text}", request("PUT", target, &more)))
    };
    assert_eq!(put(&format!("{PREFIX}/team/app/manifests/v1")).status, 201);

    let begin = "/team/app/blobs/uploads/";
    let same = |status: u16, code: &str| {
        let through = request("POST", &format!("{PREFIX}{begin}"), "Content-Length: 0\r\n");
        let through = proxy.ask(&through);
        assert_eq!((through.status, through.code().as_str()), (status, code), "{through}");
        assert_eq!(through.body, directly(&harbor, "POST", &format!("/v2{begin}")).body);
        through
    };
    harbor.switch(|switches| switches.read_only = true);
    same(403, "DENIED");
    harbor.switch(|switches| {
        switches.read_only = false;
        switches.proxy_caches = vec!["team".to_owned()];
    });
    same(403, "DENIED");
    harbor.switch(|switches| {
        switches.proxy_caches.clear();
        switches.too_many = Some(17);
    });
    let before = asked(&harbor).len();
    let answer = same(429, "TOO_MANY_REQUEST");
    assert_eq!(answer.field("retry-after"), Some("17"));
    assert_eq!(asked(&harbor).len(), before + 2, "one of them ours, and not repeated");
    harbor.switch(|switches| {
        switches.too_many = None;
        switches.immutable = vec!["team/app:v1".to_owned()];
    });
    let answer = put(&format!("{PREFIX}/team/app/manifests/v1"));
    assert_eq!((answer.status, answer.code().as_str()), (412, "PRECONDITION"), "{answer}");
    assert!(answer.text().contains("'app:v1' configured as immutable"), "{answer}");
    assert_eq!(put(&format!("{PREFIX}/team/app/manifests/v2")).status, 201);
}

#[test]
fn a_quota_is_charged_with_the_length_that_the_caller_sent_and_its_end_is_said() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let proxy = proxy(&harbor);
    harbor.switch(|switches| {
        switches.quotas.insert("team".to_owned(), 1 << 20);
    });
    let put = |seed: u64| {
        let blob = noise(seed, 600_000);
        let mut caller = proxy.caller();
        let start = format!("{PREFIX}/team/app/blobs/uploads/");
        let opened = caller.ask(&request("POST", &start, "Content-Length: 0\r\n"));
        let location = opened.field("location").expect("a location").to_owned();
        let target = format!("{location}&digest={}", digest_of(&blob));
        caller.send(request("PUT", &target, &format!("Content-Length: {}\r\n", blob.len())));
        caller.send_if_taken(&blob);
        caller.answer().expect("an answer")
    };
    assert_eq!(put(74).status, 201);
    let answer = put(75);
    assert_eq!((answer.status, answer.code().as_str()), (403, "DENIED"), "{answer}");
    let words = "will exceed the configured upper limit of 1.0 MiB.";
    assert!(answer.text().contains(words), "{answer}");
}

#[test]
fn skopeo_shows_why_harbor_refuses() {
    if lacking(&[docker_registry::NEEDED.as_slice(), &["skopeo"]].concat()) {
        return;
    }
    let harbor = Harbor::http();
    let proxy = proxy(&harbor);
    let job = Job::new(&proxy.listen.to_string(), "pod", TOKEN);
    let layout = Layout::image(&job.path("image"), 1, 76);
    harbor.switch(|switches| switches.read_only = true);
    let (ok, _, said) = job.try_run(&format!(
        "skopeo copy --retry-times 0 --dest-tls-verify=false {} \
         docker://{}/namespaces/ci/connectors/harbor/team/app:v1",
        layout.source(),
        proxy.listen
    ));
    assert!(!ok && said.contains("The system is in read only mode"), "{said}");
}

#[test]
fn a_right_that_harbor_does_not_give_is_the_connectors_fault_and_not_the_callers() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let proxy = proxy(&harbor);
    // Harbor does not tell these apart either: for both it says 401.
    for target in ["other/app/manifests/v1", "nowhere/app/manifests/v1"] {
        let answer = proxy.get(&format!("{PREFIX}/{target}"));
        assert_eq!((answer.status, answer.code().as_str()), (403, "DENIED"), "{answer}");
        assert!(answer.text().contains("ci/harbor"), "{answer}");
        assert!(!answer.has("www-authenticate"), "{answer}");
    }
    assert!(asked(&harbor).iter().all(|seen| seen.status == 401));
}

#[test]
fn a_password_with_a_line_end_is_named_as_the_problem_and_never_tried() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    for end in ["\n", "\r\n"] {
        let text = encoded_secret("ci", "harbor", &format!("{PASSWORD}{end}"));
        let proxy = Proxy::start(&harbor.manifests().with("secret.yaml", &text), &[]);
        proxy.logged(&["line end after its password", "echo -n"]);
        let answer = proxy.get(&format!("{PREFIX}/team/app/tags/list"));
        assert_eq!((answer.status, answer.code().as_str()), (503, "UNAVAILABLE"), "{answer}");
        assert!(answer.text().contains("InvalidSecret"), "{answer}");
        proxy.write("secret.yaml", &secret("ci", "harbor", PASSWORD));
        eventually("the mended Secret", || {
            let answer = proxy.get(&format!("{PREFIX}/team/app/tags/list"));
            (answer.status == 404).then_some(())
        });
    }
    assert!(passwords_seen(&harbor).iter().all(|password| *password == Some(0)));
}

#[test]
fn the_password_may_change_between_the_post_the_patch_and_the_put_of_one_upload() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let proxy = proxy(&harbor);
    let blob = noise(77, 300_000);
    let mut caller = proxy.caller();
    let rotate = |password: &str| {
        harbor.replace_password(USER, password);
        proxy.write("secret.yaml", &secret("ci", "harbor", password));
        eventually("the new password is used", || {
            let answer = proxy.get(&format!("{PREFIX}/team/app/tags/list"));
            (answer.status == 404).then_some(())
        });
        asked(&harbor).len()
    };
    let opened = format!("{PREFIX}/team/app/blobs/uploads/");
    let opened = caller.ask(&request("POST", &opened, "Content-Length: 0\r\n"));
    assert_eq!(opened.status, 202, "{opened}");
    let location = opened.field("location").expect("a location").to_owned();

    let first = rotate(NEXT_PASSWORD);
    caller.send(request("PATCH", &location, &format!("Content-Length: {}\r\n", blob.len())));
    caller.send(&blob);
    let sent = caller.answer().expect("an answer");
    assert_eq!(sent.status, 202, "{sent}");
    let location = sent.field("location").expect("a location").to_owned();
    assert_eq!(passwords_seen(&harbor)[first..], [Some(1)]);

    let second = rotate(PASSWORD);
    let target = format!("{location}&digest={}", digest_of(&blob));
    let stored = caller.ask(&request("PUT", &target, "Content-Length: 0\r\n"));
    assert_eq!(stored.status, 201, "{stored}");
    assert_eq!(passwords_seen(&harbor)[second..], [Some(2)]);
    assert_eq!(harbor.registry().blob(&digest_of(&blob)), Some(blob));
}

#[test]
fn a_secret_that_is_removed_lets_a_running_upload_end_and_stops_the_next_request() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let proxy = proxy(&harbor);
    let blob = noise(78, 2_000_000);
    let mut caller = proxy.caller();
    let opened = format!("{PREFIX}/team/app/blobs/uploads/");
    let opened = caller.ask(&request("POST", &opened, "Content-Length: 0\r\n"));
    let location = opened.field("location").expect("a location").to_owned();
    let target = format!("{location}&digest={}", digest_of(&blob));
    caller.send(request("PUT", &target, &format!("Content-Length: {}\r\n", blob.len())));
    caller.send(&blob[..1_000_000]);
    eventually("the upload begins", || {
        harbor.requests().iter().any(|seen| seen.method == "PUT").then_some(())
    });

    proxy.remove("secret.yaml");
    let tags = format!("{PREFIX}/team/app/tags/list");
    let refused = eventually("the refusal", || {
        let answer = proxy.get(&tags);
        (answer.status != 404).then_some(answer)
    });
    assert_eq!((refused.status, refused.code().as_str()), (503, "UNAVAILABLE"), "{refused}");
    assert!(refused.text().contains("SecretNotFound"), "{refused}");

    caller.send(&blob[1_000_000..]);
    assert_eq!(caller.answer().expect("an answer").status, 201);
    assert!(harbor.registry().holds("team/app", &digest_of(&blob)));
}

#[test]
fn a_locked_name_delays_its_own_connector_and_no_other() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let mut settings = Settings::default();
    settings.accounts.push(Account::user("dev", NEXT_PASSWORD, &[("team", &ALL)]));
    let harbor = Harbor::start(settings);
    let devs = secret("ci", "second", PASSWORD).replace(USER, "dev");
    let text = format!("{}---\n{devs}", connector("ci", "second", &harbor.url(), ""));
    let proxy = Proxy::start(&harbor.manifests().with("second.yaml", &text), &[]);
    let mut stale = proxy.caller();
    let second = "/v2/namespaces/ci/connectors/second/team/app/tags/list";
    stale.send(request("GET", second, ""));
    eventually("the stale login", || harbor.logins().contains(&"dev".to_owned()).then_some(()));

    let started = Instant::now();
    let answer = proxy.get(&format!("{PREFIX}/team/app/tags/list"));
    assert_eq!(answer.status, 404, "{answer}");
    assert!(started.elapsed() < Duration::from_millis(1400), "{:?}", started.elapsed());
    let answer = stale.answer().expect("an answer");
    assert_eq!((answer.status, answer.code().as_str()), (403, "DENIED"), "{answer}");
    assert!(answer.text().contains("ci/second"), "{answer}");
}
