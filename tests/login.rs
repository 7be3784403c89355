//! How the proxy logs in: tokens where they are wanted, nothing where there is nothing to show, and
//! a password that is refused tried twice and then put aside.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread;
use std::time::{Duration, Instant};

use crate::push::upload_blob;
use crate::support::caller::request;
use crate::support::fake_registry::robots_authorization;
use crate::support::harbor::TokenService as Behaviour;
use crate::support::harbor::{Account, ExpiresIn, Right, Settings};
use crate::support::image::Layout;
use crate::support::manifests::{NEXT_PASSWORD, anonymous_connector, ca_secret, connector, secret};
use crate::support::programs::{Job, lacking};
use crate::support::token_service::TokenService;
use crate::support::{
    DockerRegistry, FakeRegistry, Harbor, Manifests, PASSWORD, PREFIX, Proxy, TOKEN, TlsStorage,
    answer, digest_of, docker_registry, eventually, noise, within,
};

/// The path of a repository through the connector `ci/<name>`.
fn through(name: &str) -> String {
    format!("/v2/namespaces/ci/connectors/{name}")
}

/// Harbor with a blob in the public project, the usual connector, and some without a credential.
fn with_anonymous(names: &[&str]) -> (Harbor, Proxy, String) {
    let harbor = Harbor::http();
    let mut manifests = Manifests::for_registry(&harbor.url());
    for name in names {
        let text = anonymous_connector("ci", name, &harbor.url());
        manifests = manifests.with(&format!("{name}.yaml"), &text);
    }
    let proxy = Proxy::start(&manifests, &[]);
    let blob = noise(90, 100_000);
    upload_blob(&proxy, "library/app", &blob);
    (harbor, proxy, format!("library/app/blobs/{}", digest_of(&blob)))
}

#[test]
fn a_connector_without_a_credential_pulls_from_public_projects_with_one_token() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let (harbor, proxy, blob) = with_anonymous(&["open"]);
    let open = through("open");
    for _ in 0..3 {
        assert_eq!(proxy.get(&format!("{open}/{blob}")).status, 200);
    }
    assert_eq!(harbor.tokens().len(), 1, "one token for all of them");

    let arrived = harbor.requests().len();
    let start = format!("{open}/library/app/blobs/uploads/");
    let refused = proxy.ask(&request("POST", &start, "Content-Length: 0\r\n"));
    assert_eq!((refused.status, refused.code().as_str()), (403, "DENIED"), "{refused}");
    assert!(refused.text().contains("ci/open") && refused.text().contains("spec.auth"));
    assert_eq!(harbor.requests().len(), arrived, "and Harbor is not even asked");

    let private = proxy.get(&format!("{open}/team/app/tags/list"));
    assert_eq!((private.status, private.code().as_str()), (403, "DENIED"), "{private}");
    assert!(!private.has("www-authenticate"), "{private}");
}

#[test]
fn a_token_that_was_revoked_is_replaced_and_the_caller_never_knows() {
    let issued = Arc::new(AtomicU64::new(0));
    let good = Arc::new(AtomicU64::new(1));
    let (issuing, taking) = (Arc::clone(&issued), Arc::clone(&good));
    let registry = FakeRegistry::scripted_with_probes(move |visit| {
        visit.serve(|request| {
            if request.target.starts_with("/token") {
                let token = issuing.fetch_add(1, Ordering::Relaxed) + 1;
                return answer(200, "", format!(r#"{{"access_token": "t{token}"}}"#).as_bytes());
            }
            let wanted = format!("Bearer t{}", taking.load(Ordering::Relaxed));
            if request.field("authorization") == Some(&wanted) {
                return answer(200, "Content-Type: text/plain\r\n", b"here");
            }
            let host = request.field("host").unwrap_or_default();
            let realm = format!("Bearer realm=\"http://{host}/token\",service=\"s\"");
            answer(401, &format!("WWW-Authenticate: {realm}\r\n"), b"")
        });
    });
    let text = anonymous_connector("ci", "harbor", &registry.url());
    let manifests = Manifests::for_registry(&registry.url()).with("connector.yaml", &text);
    // One core, or each would find out for itself.
    let proxy = Proxy::start(&manifests, &["--cores", "1"]);
    let target = format!("{PREFIX}/team/app/manifests/v1");
    assert_eq!(proxy.get(&target).status, 200);
    assert_eq!(proxy.get(&target).status, 200);
    good.store(2, Ordering::Relaxed);
    let arrived = registry.requests().len();
    assert_eq!(proxy.get(&target).status, 200);
    assert_eq!(registry.requests().len(), arrived + 3, "refused, a new token, and once more");
    // A token that gives no right is no reason to ask for another.
    good.store(0, Ordering::Relaxed);
    for _ in 0..5 {
        assert_eq!(proxy.get(&target).status, 403);
    }
    assert_eq!(issued.load(Ordering::Relaxed), 3);
    assert_eq!(proxy.metric("logins_repeated_total"), Some(2.0));
}

/// F27.
#[test]
fn a_stale_password_is_tried_twice_in_half_a_minute_and_harms_no_other_connector() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let all = [Right::Pull, Right::Push];
    let mut settings = Settings::default();
    settings.accounts.push(Account::user("dev", PASSWORD, &[("team", &all)]));
    let harbor = Harbor::start(settings);
    let stale = secret("ci", "stale", NEXT_PASSWORD).replace("robot$ci", "dev");
    let text = format!("{}---\n{stale}", connector("ci", "stale", &harbor.url(), ""));
    let proxy =
        Proxy::start(&Manifests::for_registry(&harbor.url()).with("stale.yaml", &text), &[]);
    let target = format!("{}/team/app/tags/list", through("stale"));
    let good = format!("{PREFIX}/team/app/tags/list");

    let started = Instant::now();
    thread::scope(|scope| {
        for _ in 0..100 {
            scope.spawn(|| {
                let answer = proxy.get(&target);
                assert_eq!((answer.status, answer.code().as_str()), (403, "DENIED"), "{answer}");
                assert!(answer.text().contains("ci/stale"), "{answer}");
            });
        }
        // An empty repository is 404 to those who may read it.
        assert_eq!(proxy.get(&good).status, 404);
        assert!(started.elapsed() < Duration::from_millis(1400), "{:?}", started.elapsed());
    });
    eventually("the second probe", || {
        (proxy.metric("login_standings_refused_total") == Some(1.0)).then_some(())
    });
    for _ in 0..20 {
        assert_eq!(proxy.get(&target).status, 403);
    }
    let tried = harbor.logins().iter().filter(|name| *name == "dev").count();
    assert_eq!(tried, 2);
    assert_eq!(proxy.get(&good).status, 404);

    let mended = secret("ci", "stale", PASSWORD).replace("robot$ci", "dev");
    let text = format!("{}---\n{mended}", connector("ci", "stale", &harbor.url(), ""));
    proxy.write("stale.yaml", &text);
    within(Duration::from_secs(2), "the mended password", || {
        (proxy.get(&target).status == 404).then_some(())
    });
}

#[test]
fn a_right_that_is_missing_is_no_stale_password() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let proxy = Proxy::start(&Manifests::for_registry(&harbor.url()), &[]);
    for _ in 0..5 {
        assert_eq!(proxy.get(&format!("{PREFIX}/other/app/tags/list")).status, 403);
        assert_eq!(proxy.get(&format!("{PREFIX}/team/app/tags/list")).status, 404);
    }
    assert_eq!(proxy.metric("login_probes_total"), Some(1.0));
}

/// F55.
#[test]
fn a_token_service_in_trouble_is_503_and_is_not_hammered() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let troubles = [
        Behaviour::Down,
        Behaviour::Failing,
        Behaviour::Malformed,
        Behaviour::Huge,
        Behaviour::Slow(Duration::from_secs(20)),
    ];
    let names = ["down", "failing", "malformed", "huge", "slow"];
    let (harbor, proxy, blob) = with_anonymous(&names);
    for (name, trouble) in names.into_iter().zip(troubles) {
        harbor.switch(|switches| switches.token_service = trouble);
        let target = format!("{}/{blob}", through(name));
        thread::scope(|scope| {
            for _ in 0..10 {
                scope.spawn(|| {
                    let answer = proxy.get(&target);
                    let said = (answer.status, answer.code());
                    assert_eq!(said, (503, "UNAVAILABLE".to_owned()), "{name}: {answer}");
                    assert!(answer.has("retry-after"), "{name}: {answer}");
                });
            }
        });
    }
    assert_eq!(proxy.metric("token_fetches_total"), Some(5.0), "one each, however many want it");
    assert_eq!(proxy.metric("token_failures_total"), Some(5.0));
    harbor.switch(|switches| switches.token_service = Behaviour::Works);
    let target = format!("{}/{blob}", through("slow"));
    eventually("its recovery", || (proxy.get(&target).status == 200).then_some(()));
}

/// F56.
#[test]
fn a_token_service_on_a_foreign_host_sees_nothing_unless_it_is_listed() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let foreign = FakeRegistry::scripted_on("127.0.0.3:0", |visit| {
        visit.serve(|_| answer(200, "", br#"{"token": "stolen"}"#));
    });
    let (harbor, proxy, blob) = with_anonymous(&["open"]);
    harbor.switch(|switches| switches.realm = Some(format!("{}/token", foreign.url())));
    let target = format!("{}/{blob}", through("open"));
    let answer = proxy.get(&target);
    assert_eq!((answer.status, answer.code().as_str()), (503, "UNAVAILABLE"), "{answer}");
    assert!(answer.text().contains("ci/open") && answer.text().contains("tokenHosts"), "{answer}");
    proxy.logged(&["WARN", "ci/open", "127.0.0.3"]);
    assert!(foreign.is_untouched());

    let listed = anonymous_connector("ci", "listed", &harbor.url());
    let listed = listed.replace(
        "connectorClassName: harbor",
        "connectorClassName: harbor, params: [{name: tokenHosts, value: 127.0.0.3}]",
    );
    proxy.write("listed.yaml", &listed);
    let target = format!("{}/{blob}", through("listed"));
    eventually("the listed host is asked", || {
        proxy.get(&target);
        (!foreign.is_untouched()).then_some(())
    });
}

/// F57.
#[test]
fn a_lifetime_that_is_missing_or_nonsense_is_bounded_and_the_token_used() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let names = ["missing", "zero", "negative", "huge"];
    let (harbor, proxy, blob) = with_anonymous(&names);
    let said =
        [ExpiresIn::Missing, ExpiresIn::Said(0), ExpiresIn::Said(-1), ExpiresIn::Said(i64::MAX)];
    for (number, (name, said)) in (1..).zip(names.into_iter().zip(said)) {
        harbor.switch(|switches| switches.expires_in = said);
        for _ in 0..3 {
            assert_eq!(proxy.get(&format!("{}/{blob}", through(name))).status, 200, "{name}");
        }
        assert_eq!(harbor.tokens().len(), number, "{name}: one token for three pulls");
    }
}

#[test]
fn pushes_and_pulls_go_on_where_a_registry_takes_nothing_but_tokens() {
    if lacking(&[docker_registry::NEEDED.as_slice(), &["skopeo"]].concat()) {
        return;
    }
    let service = TokenService::start();
    let registry = DockerRegistry::with_tokens(&service.realm(), &service.certificate);
    let open = anonymous_connector("ci", "open", &registry.url());
    let manifests = Manifests::for_registry(&registry.url()).with("open.yaml", &open);
    let proxy = Proxy::start(&manifests, &[]);
    let job = Job::new(&proxy.listen.to_string(), "pod", TOKEN);
    let layout = Layout::image(&job.path("image"), 2, 91);
    let host = proxy.listen;
    let image = |name: &str, repository: &str| {
        format!("docker://{host}/namespaces/ci/connectors/{name}/{repository}:v1")
    };
    for repository in ["library/app", "team/app"] {
        job.run(&format!(
            "skopeo copy --preserve-digests --dest-tls-verify=false {} {}",
            layout.source(),
            image("harbor", repository)
        ));
        assert_eq!(registry.digest(repository, "v1").as_ref(), Some(&layout.digest));
    }
    let both = ["repository:team/app:pull,push", "repository:library/app:pull"];
    assert!(service.asked().iter().any(|asked| asked[..] == both), "{:?}", service.asked());

    let place = job.path("pulled").display().to_string();
    let pull = |name: &str, repository: &str| {
        let image = image(name, repository);
        job.try_run(&format!("skopeo copy --src-tls-verify=false {image} dir:{place}")).0
    };
    assert!(pull("harbor", "team/app"));
    assert!(pull("open", "library/app"));
    assert!(!pull("open", "team/app"));
}

/// F25, under load.
#[test]
fn a_password_that_is_replaced_during_twenty_pushes_is_never_used_again() {
    let registry = FakeRegistry::answering(|request| {
        let location = "Location: /v2/team/app/blobs/uploads/u?_state=s\r\n";
        match request.method.as_str() {
            "PUT" => answer(201, "Location: /v2/team/app/blobs/x\r\n", b""),
            _ => answer(202, location, b""),
        }
    });
    let proxy = Proxy::in_front_of(&registry);
    let over = AtomicBool::new(false);
    let pushes: [AtomicU64; 20] = Default::default();
    thread::scope(|scope| {
        for (seed, pushes) in (0..).zip(&pushes) {
            let (proxy, over) = (&proxy, &over);
            scope.spawn(move || {
                while !over.load(Ordering::Relaxed) {
                    upload_blob(proxy, "team/app", &noise(seed, 10_000));
                    pushes.fetch_add(1, Ordering::Relaxed);
                }
            });
        }
        let count = |password: &str| {
            let wanted = robots_authorization(password);
            let seen = registry.requests().into_iter();
            seen.filter(|seen| seen.field("authorization") == Some(&wanted)).count()
        };
        eventually("pushes", || (count(PASSWORD) > 40).then_some(()));
        proxy.write("secret.yaml", &secret("ci", "harbor", NEXT_PASSWORD));
        proxy.logged(&["published", "generation=2"]);
        // What was on its way then has arrived when each has pushed once more.
        let before = pushes.each_ref().map(|pushes| pushes.load(Ordering::Relaxed));
        eventually("a push of each", || {
            let mut both = pushes.iter().zip(before);
            both.all(|(pushes, before)| pushes.load(Ordering::Relaxed) > before + 1).then_some(())
        });
        let changed = registry.requests().len();
        let so_far = count(NEXT_PASSWORD);
        eventually("pushes with the new one", || {
            (count(NEXT_PASSWORD) > so_far + 40).then_some(())
        });
        over.store(true, Ordering::Relaxed);
        let old = robots_authorization(PASSWORD);
        for seen in &registry.requests()[changed..] {
            assert_ne!(seen.field("authorization"), Some(old.as_str()), "{}", seen.target);
        }
    });
    let probes = registry.probes();
    assert_eq!(probes.len(), 2, "one for each password");
}

#[test]
fn a_registry_that_changes_its_ca_is_trusted_as_soon_as_the_secret_says_so() {
    // F24. What runs goes on over the connection that was trusted when it began.
    let body = noise(92, 6_000_000);
    let sent = body.clone();
    let reply = move |head: &str| {
        let body = if head.contains("/blobs/") { sent.as_slice() } else { b"{}" };
        answer(200, "", body)
    };
    let mut registry = TlsStorage::answering(reply).taken_for_a_registry();
    let connector =
        connector("ci", "harbor", &registry.url(), "  caCertSecretRef: {name: harbor-ca}\n");
    let manifests = Manifests::for_registry(&registry.url())
        .with("connector.yaml", &connector)
        .with("ca.yaml", &ca_secret("ci", "harbor-ca", &registry.ca));
    let proxy = Proxy::start(&manifests, &[]);
    let manifest = format!("{PREFIX}/team/app/manifests/v1");
    assert_eq!(proxy.get(&manifest).status, 200);
    let mut running = proxy.caller();
    running.send(request("GET", &format!("{PREFIX}/team/app/blobs/{}", digest_of(&body)), ""));
    eventually("the blob is asked for", || {
        registry.heads().iter().any(|head| head.contains("/blobs/")).then_some(())
    });

    registry.renew();
    let changed = Instant::now();
    proxy.write("ca.yaml", &ca_secret("ci", "harbor-ca", &registry.ca));
    proxy.logged(&["published", "generation=2"]);
    assert_eq!(proxy.get(&manifest).status, 200, "a handshake with the new CA");
    assert!(changed.elapsed() < Duration::from_secs(5), "{:?}", changed.elapsed());
    let pulled = running.answer().expect("an answer");
    assert_eq!(digest_of(&pulled.body), digest_of(&body));
}
