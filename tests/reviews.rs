//! Who may use a connector is asked of the API server: once, not too often, and soon enough again.
//!
//! Counts of reviews need the stand-in; what a caller sees is told to a real cluster too.

use std::net::Ipv4Addr;
use std::thread;
use std::time::{Duration, Instant};

use serde_json::json;

use crate::support::caller::basic;
use crate::support::{Caller, Cluster, FakeRegistry, Proxy, eventually, within};

const TOKEN_REVIEWS: &str = "POST /apis/authentication.k8s.io/v1/tokenreviews";
const ACCESS_REVIEWS: &str = "POST /apis/authorization.k8s.io/v1/subjectaccessreviews";

/// A registry, a cluster with a connector to it, the proxy with `flags`, and the target.
fn scene(flags: &[&str]) -> (FakeRegistry, Cluster, Proxy, String) {
    let registry = FakeRegistry::obliging();
    let cluster = Cluster::new();
    cluster.connect("harbor", &registry.url());
    let proxy = Proxy::in_cluster(&cluster, flags);
    let target =
        format!("/v2/namespaces/{}/connectors/harbor/team/app/manifests/v1", cluster.namespace);
    (registry, cluster, proxy, target)
}

fn get(token: &str, target: &str) -> String {
    format!("GET {target} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {}\r\n\r\n", basic(token))
}

#[test]
fn two_thousand_requests_with_one_fresh_token_cost_one_of_each_review() {
    let (_registry, mut cluster, proxy, target) = scene(&[]);
    let request = get(&cluster.token("builder"), &target);
    if let Some(server) = cluster.stand_in() {
        // Long enough for all of them to ask while the first one's review is under way.
        server.delay(TOKEN_REVIEWS, Duration::from_secs(1));
    }
    let mut callers: Vec<Caller> = (0..2000).map(|_| proxy.caller()).collect();
    for caller in &mut callers {
        caller.send(&request);
    }
    for caller in &mut callers {
        assert_eq!(caller.answer().expect("an answer").status, 200);
    }
    if let Some(server) = cluster.stand_in() {
        assert_eq!((server.count(TOKEN_REVIEWS), server.count(ACCESS_REVIEWS)), (1, 1));
    }
}

#[test]
fn what_cannot_be_a_token_for_us_costs_no_review() {
    let (registry, mut cluster, proxy, target) = scene(&[]);
    let api_token =
        cluster.token_for(&cluster.namespace, "builder", &json!({"expirationSeconds": 600}));
    for token in ["x", "a.b.c", "e30.e30.e30", "robot$ci", &api_token] {
        let answer = proxy.get_as(token, &target);
        assert_eq!((answer.status, answer.code().as_str()), (401, "UNAUTHORIZED"), "{token}");
    }
    assert!(registry.is_untouched());
    if let Some(server) = cluster.stand_in() {
        assert_eq!(server.count(TOKEN_REVIEWS), 0);
    }
}

#[test]
fn tokens_for_the_api_server_are_taken_where_that_is_switched_on() {
    let (_registry, cluster, proxy, target) = scene(&["--accept-api-audience"]);
    let spec = json!({"expirationSeconds": 600});
    let api_token = cluster.token_for(&cluster.namespace, "builder", &spec);
    assert_eq!(proxy.get_as(&api_token, &target).status, 200);
    assert_eq!(proxy.get_as(&cluster.token("builder"), &target).status, 200);
}

#[test]
fn a_forged_token_is_refused_and_asked_about_once() {
    let (registry, mut cluster, proxy, target) = scene(&[]);
    let good = cluster.token("builder");
    let (signed, _) = good.rsplit_once('.').expect("three parts");
    let forged = format!("{signed}.Zm9yZ2Vk");
    for _ in 0..20 {
        assert_eq!(proxy.get_as(&forged, &target).status, 401);
    }
    assert!(registry.is_untouched());
    if let Some(server) = cluster.stand_in() {
        assert_eq!((server.count(TOKEN_REVIEWS), server.count(ACCESS_REVIEWS)), (1, 0));
    }
}

#[test]
fn the_right_to_the_proxy_can_be_asked_for_instead_of_get() {
    let (_registry, cluster, proxy, target) = scene(&["--require-proxy-right"]);
    let token = cluster.token("builder");
    assert_eq!(proxy.get_as(&token, &target).status, 403, "to get it is not enough");
    cluster.apply(&format!(
        "apiVersion: rbac.authorization.k8s.io/v1\nkind: Role\n\
         metadata: {{name: use-connectors, namespace: {0}}}\n\
         rules: [{{apiGroups: [connectors.alauda.io], resources: [connectors/proxy], verbs: ['*']}}]\n",
        cluster.namespace
    ));
    // What the README says of a right that was just given.
    within(Duration::from_secs(7), "the new right", || {
        (proxy.get_as(&token, &target).status == 200).then_some(())
    });
}

#[test]
fn a_right_that_is_taken_away_ends_within_the_promise_on_an_open_connection() {
    let promise = Duration::from_secs(6);
    let (_registry, cluster, proxy, target) = scene(&["--revocation-seconds", "6"]);
    let request = get(&cluster.token("builder"), &target);
    let mut caller = proxy.caller();
    // The right is remembered for as long as it can be when it is taken away.
    assert_eq!(caller.ask(&request).status, 200);
    cluster.forbid();
    let taken = Instant::now();
    while caller.ask(&request).status == 200 {
        assert!(taken.elapsed() < promise, "still allowed after {:?}", taken.elapsed());
        thread::sleep(Duration::from_millis(50));
    }
    assert_eq!(caller.ask(&request).status, 403);
    println!("denied after {:?}", taken.elapsed());

    cluster.allow();
    within(Duration::from_secs(7), "the right", || {
        (caller.ask(&request).status == 200).then_some(())
    });
}

#[test]
fn a_token_ends_with_its_pod_within_the_promise() {
    let (_registry, cluster, proxy, target) = scene(&["--revocation-seconds", "6"]);
    let own = &cluster.namespace;
    // No node is such a node, so the Pod is never more than an object.
    cluster.apply(&format!(
        "{{apiVersion: v1, kind: Pod, metadata: {{name: job, namespace: {own}}}, \
         spec: {{serviceAccountName: builder, nodeSelector: {{stories: {own}}}, \
         containers: [{{name: a, image: a}}]}}}}"
    ));
    let bound = json!({
        "audiences": ["connectors-proxy"], "expirationSeconds": 3600,
        "boundObjectRef": {"apiVersion": "v1", "kind": "Pod", "name": "job"},
    });
    let request = get(&cluster.token_for(own, "builder", &bound), &target);
    let mut caller = proxy.caller();
    assert_eq!(caller.ask(&request).status, 200);
    proxy.logged(&["access", "/job"]);
    cluster.delete("v1", "Pod", "job");
    // A real API server remembers a good token by itself. Of sixty seconds this is allowed for.
    let remembered = Duration::from_secs(if cluster.is_real() { 10 } else { 0 });
    within(Duration::from_secs(6) + remembered, "the refusal", || {
        (caller.ask(&request).status == 401).then_some(())
    });
}

#[test]
fn an_upload_outlives_its_token_and_the_next_request_does_not() {
    let (registry, mut cluster, proxy, target) = scene(&["--revocation-seconds", "1"]);
    let own = cluster.namespace.clone();
    let Some(server) = cluster.stand_in() else {
        // A real one makes no token that ends within a story.
        return;
    };
    let token = server.brief_token(&own, "builder", 3);
    let issued = Instant::now();
    let upload = target.replace("manifests/v1", "blobs/uploads/a-1?_state=x");
    let mut caller = proxy.caller();
    caller.send(format!(
        "PATCH {upload} HTTP/1.1\r\nHost: proxy\r\nAuthorization: {}\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: 10\r\n\r\nhello",
        basic(&token)
    ));
    // The token is over while the registry has half of the body.
    thread::sleep(Duration::from_secs(4).saturating_sub(issued.elapsed()));
    caller.send("world");
    let answer = caller.answer().expect("an answer");
    assert!(answer.status < 300, "{answer}");
    assert_eq!(registry.only_request().body, b"helloworld");
    assert_eq!(caller.ask(&get(&token, &target)).status, 401);
    assert_eq!(caller.ask(&get(&cluster.token("builder"), &target)).status, 200);
}

#[test]
fn a_slow_api_server_delays_only_those_it_does_not_know() {
    let (_registry, mut cluster, proxy, target) = scene(&["--revocation-seconds", "4"]);
    if cluster.is_real() {
        return;
    }
    let (known, new) = (cluster.token("builder"), cluster.token("builder"));
    assert_eq!(proxy.get_as(&known, &target).status, 200);
    let server = cluster.stand_in().expect("the stand-in");
    server.delay(TOKEN_REVIEWS, Duration::from_secs(8));
    let before = server.count(TOKEN_REVIEWS);
    let started = Instant::now();
    let answer = proxy.get_as(&new, &target);
    let waited = started.elapsed();
    assert_eq!(answer.status, 503, "{answer}");
    assert!(answer.has("retry-after"), "{answer}");
    assert!(waited > Duration::from_secs(4) && waited < Duration::from_secs(7), "{waited:?}");
    // By now what is remembered of the known one is old.
    let started = Instant::now();
    for _ in 0..20 {
        assert_eq!(proxy.get_as(&known, &target).status, 200);
    }
    assert!(started.elapsed() < Duration::from_secs(4), "{:?}", started.elapsed());
    // The review that came too late for its request is there for the next one.
    within(Duration::from_secs(10), "the new one", || {
        (proxy.get_as(&new, &target).status == 200).then_some(())
    });
    let server = cluster.stand_in().expect("the stand-in");
    assert!(server.count(TOKEN_REVIEWS) - before <= 3, "one review at a time for each token");
}

#[test]
fn no_token_and_no_secret_is_in_any_log_however_much_is_logged() {
    let (_registry, mut cluster, proxy, target) =
        scene(&["--log-filter", "trace", "--revocation-seconds", "1"]);
    let (good, late) = (cluster.token("builder"), cluster.token("builder"));
    let forged = format!("{}x", cluster.token("stranger"));
    let api_token =
        cluster.token_for(&cluster.namespace, "builder", &json!({"expirationSeconds": 600}));
    assert_eq!(proxy.get_as(&good, &target).status, 200);
    assert_eq!(proxy.get_as(&forged, &target).status, 401);
    assert_eq!(proxy.get_as(&api_token, &target).status, 401);
    if let Some(server) = cluster.stand_in() {
        server.stop();
        assert_eq!(proxy.get_as(&late, &target).status, 503);
        server.resume();
    }
    // The proxy's own token, with which it reads Secrets, is a secret too.
    let kubeconfig = std::fs::read_to_string(&cluster.kubeconfig).expect("a kubeconfig");
    let config: serde_json::Value = serde_json::from_str(&kubeconfig).expect("JSON");
    let own = config["users"][0]["user"]["token"].as_str().expect("a token").to_owned();
    let log = proxy.log();
    assert!(log.contains("TRACE"), "everything is logged");
    for token in [good, late, forged, api_token, own] {
        let signature = token.rsplit('.').next().unwrap_or_default();
        assert!(!log.contains(signature), "a token is in the log");
        assert!(!log.contains(&crate::support::base64(format!("pod:{token}"))), "or encoded");
    }
}

#[test]
fn random_tokens_do_not_use_up_the_reviews_of_known_callers() {
    let (registry, mut cluster, proxy, target) =
        scene(&["--review-rate", "10", "--revocation-seconds", "2"]);
    let known = get(&cluster.token("builder"), &target);
    let mut caller = proxy.caller();
    assert_eq!(caller.ask(&known).status, 200);
    let good = cluster.token("stranger");
    let (signed, _) = good.rsplit_once('.').expect("three parts");
    let mut refused = 0;
    let started = Instant::now();
    for round in 0..4 {
        let mut strangers: Vec<Caller> = (0..40).map(|_| proxy.caller()).collect();
        for (number, stranger) in strangers.iter_mut().enumerate() {
            let signature = crate::support::base64(format!("{round:015}{number:015}"));
            stranger.send(get(&format!("{signed}.{signature}"), &target));
        }
        for _ in 0..10 {
            assert_eq!(caller.ask(&known).status, 200);
            thread::sleep(Duration::from_millis(150));
        }
        for stranger in &mut strangers {
            let status = stranger.answer().expect("an answer").status;
            assert!([401, 503].contains(&status), "{status}");
            refused += u32::from(status == 503);
        }
    }
    assert!(refused > 100, "only {refused} were told to come later");
    assert!(registry.requests().len() > 1);
    if let Some(server) = cluster.stand_in() {
        let asked = server.count(TOKEN_REVIEWS);
        let most = 5.0 * (started.elapsed().as_secs_f64() + 2.0) + 10.0;
        assert!((asked as f64) < most, "{asked} reviews");
    }
}

#[test]
fn who_sprays_bad_tokens_keeps_no_new_caller_of_another_address_waiting() {
    let (_registry, mut cluster, proxy, target) = scene(&["--review-rate", "10"]);
    let tokens: Vec<String> = (0..6).map(|_| cluster.token("builder")).collect();
    let good = cluster.token("stranger");
    let (signed, _) = good.rsplit_once('.').expect("three parts");
    let spray = |round: u32| {
        let source = Ipv4Addr::new(127, 0, 0, 2);
        let mut callers: Vec<_> =
            (0..40).map(|_| Caller::connect_from(source, proxy.listen)).collect();
        for (number, caller) in callers.iter_mut().enumerate() {
            let signature = crate::support::base64(format!("{round:015}{number:015}"));
            caller.send(get(&format!("{signed}.{signature}"), &target));
        }
        let answers = callers.iter_mut().map(|caller| caller.answer().expect("an answer").status);
        answers.filter(|status| *status == 503).count()
    };
    // Until all that may be asked about from there has been.
    let mut round = 0;
    eventually("the limit", || {
        round += 1;
        (spray(round) >= 38).then_some(())
    });
    thread::scope(|scope| {
        let (over, is_over) = std::sync::mpsc::channel::<()>();
        let spraying = scope.spawn(move || {
            while is_over.try_recv() == Err(std::sync::mpsc::TryRecvError::Empty) {
                round += 1;
                spray(round);
            }
        });
        // What the first of them took, before anything was known of them, comes back in a second.
        let (first, others) = tokens.split_first().expect("some");
        eventually("the first", || (proxy.get_as(first, &target).status == 200).then_some(()));
        for token in others {
            let answer = proxy.get_as(token, &target);
            assert_eq!(answer.status, 200, "{answer}");
            thread::sleep(Duration::from_millis(300));
        }
        drop(over);
        spraying.join().expect("no panic");
    });
    if let Some(server) = cluster.stand_in() {
        let asked = server.count(TOKEN_REVIEWS);
        assert!(asked < 20 + 60, "{asked} reviews");
    }
}
