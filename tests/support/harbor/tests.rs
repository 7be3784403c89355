//! The stand-in itself, asked directly: each of these says what Harbor does, not what we do.

use std::time::{Duration, Instant, SystemTime};

use serde_json::Value;

use super::*;
use crate::support::docker_registry::NEEDED;
use crate::support::image::Layout;
use crate::support::programs::{Job, lacking};
use crate::support::{Answer, Caller, base64, digest_of, noise};

/// One request to `harbor` with an `Authorization`, or with none when that is empty.
#[track_caller]
fn ask(harbor: &Harbor, authorization: &str, request: &str, more: &str) -> Answer {
    let authorization = match authorization {
        "" => String::new(),
        value => format!("Authorization: {value}\r\n"),
    };
    let request =
        format!("{request} HTTP/1.1\r\nHost: harbor.test:8080\r\n{authorization}{more}\r\n");
    Caller::connect(harbor.address()).ask(&request)
}

fn basic(name: &str, password: &str) -> String {
    format!("Basic {}", base64(format!("{name}:{password}")))
}

fn robot() -> String {
    basic(USER, PASSWORD)
}

fn body(answer: &Answer) -> Value {
    serde_json::from_slice(&answer.body).unwrap_or_else(|cause| panic!("{cause}: {answer}"))
}

/// A token for `scope`, with `authorization`.
#[track_caller]
fn token(harbor: &Harbor, authorization: &str, scope: &str) -> String {
    let target = format!("GET /service/token?service=harbor-registry&scope={scope}");
    let answer = ask(harbor, authorization, &target, "");
    assert_eq!(answer.status, 200, "{answer}");
    let token = body(&answer)["token"].as_str().expect("a token").to_owned();
    format!("Bearer {token}")
}

/// Uploads `blob` in one PUT and returns its digest.
#[track_caller]
fn upload(harbor: &Harbor, repository: &str, blob: &[u8]) -> String {
    let digest = digest_of(blob);
    let stored = put(harbor, repository, blob);
    assert_eq!(stored.status, 201, "{stored}");
    digest
}

fn put(harbor: &Harbor, repository: &str, blob: &[u8]) -> Answer {
    let begin = format!("POST /v2/{repository}/blobs/uploads/");
    let opened = ask(harbor, &robot(), &begin, "Content-Length: 0\r\n");
    assert_eq!(opened.status, 202, "{opened}");
    let location = path_of(opened.field("location").expect("a location")).to_owned();
    let mut caller = Caller::connect(harbor.address());
    caller.send(format!(
        "PUT {location}&digest={} HTTP/1.1\r\nHost: harbor.test\r\nAuthorization: {}\r\n\
         Content-Type: application/octet-stream\r\nContent-Length: {}\r\n\r\n",
        digest_of(blob),
        robot(),
        blob.len()
    ));
    caller.send_if_taken(blob);
    caller.answer().expect("an answer")
}

/// The path and query of an absolute address.
fn path_of(location: &str) -> &str {
    let (_, rest) = location.split_once("://").expect("an absolute address");
    &rest[rest.find('/').expect("a path")..]
}

const MANIFEST: &str = "Content-Type: application/vnd.oci.image.manifest.v1+json\r\n";

fn put_manifest(harbor: &Harbor, repository: &str, tag: &str) -> Answer {
    let config = b"{}";
    let digest = upload(harbor, repository, config);
    let text = format!(
        "{{\"schemaVersion\":2,\"mediaType\":\"application/vnd.oci.image.manifest.v1+json\",\
         \"config\":{{\"mediaType\":\"application/vnd.oci.image.config.v1+json\",\
         \"digest\":\"{digest}\",\"size\":2}},\"layers\":[]}}"
    );
    tag_as(harbor, repository, tag, &text)
}

fn tag_as(harbor: &Harbor, repository: &str, tag: &str, text: &str) -> Answer {
    let request = format!(
        "PUT /v2/{repository}/manifests/{tag} HTTP/1.1\r\nHost: harbor.test\r\n\
         Authorization: {}\r\n{MANIFEST}Content-Length: {}\r\n\r\n{text}",
        robot(),
        text.len()
    );
    Caller::connect(harbor.address()).ask(&request)
}

#[test]
fn whoever_shows_nothing_is_sent_to_the_token_service_of_the_host_that_was_asked() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let realm =
        "Bearer realm=\"http://harbor.test:8080/service/token\",service=\"harbor-registry\"";
    for (request, scope) in [
        ("GET /v2/", ""),
        // Also where everybody may pull.
        ("GET /v2/library/app/manifests/v1", "repository:library/app:pull"),
        ("HEAD /v2/library/app/manifests/v1", "repository:library/app:pull"),
        ("GET /v2/team/app/tags/list", "repository:team/app:pull"),
        ("POST /v2/team/app/blobs/uploads/", "repository:team/app:pull,push"),
        ("DELETE /v2/team/app/manifests/v1", "repository:team/app:delete"),
        (
            "POST /v2/team/app/blobs/uploads/?mount=sha256:0&from=other/app",
            "repository:team/app:pull,push repository:other/app:pull",
        ),
    ] {
        let answer = ask(&harbor, "", request, "Content-Length: 0\r\n");
        assert_eq!(answer.status, 401, "{request}");
        let scope = if scope.is_empty() { String::new() } else { format!(",scope=\"{scope}\"") };
        assert_eq!(answer.field("www-authenticate"), Some(format!("{realm}{scope}").as_str()));
        assert_eq!(answer.field("docker-distribution-api-version"), Some("registry/2.0"));
    }
    harbor.switch(|switches| switches.realm = Some("https://elsewhere.test/token".to_owned()));
    let answer = ask(&harbor, "", "GET /v2/", "");
    let challenge = answer.field("www-authenticate").expect("a challenge");
    assert!(challenge.starts_with("Bearer realm=\"https://elsewhere.test/token\","), "{challenge}");
    assert!(harbor.logins().is_empty());
}

#[test]
fn every_refusal_below_v2_is_401_whatever_its_reason() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let wrong = basic(USER, "not it");
    let basic_challenge = Some("Basic realm=\"harbor\"");
    for (authorization, request, challenge) in [
        (wrong.as_str(), "GET /v2/", basic_challenge),
        (robot().as_str(), "GET /v2/other/app/manifests/v1", basic_challenge),
        ("Bearer nonsense", "GET /v2/team/app/tags/list", basic_challenge),
        ("", "GET /v2/_catalog", basic_challenge),
        (robot().as_str(), "GET /v2/_catalog", basic_challenge),
        // Neither a project that does not exist nor a path that means nothing is told apart.
        (robot().as_str(), "GET /v2/nowhere/app/manifests/v1", Some("")),
        (robot().as_str(), "GET /v2/team/app/nothing", Some("")),
    ] {
        let answer = ask(&harbor, authorization, request, "");
        assert_eq!((answer.status, answer.code().as_str()), (401, "UNAUTHORIZED"), "{request}");
        assert_eq!(answer.field("www-authenticate"), challenge, "{request}");
    }
    assert_eq!(ask(&harbor, &robot(), "GET /v2/", "").status, 200);
}

#[test]
fn robots_and_users_come_with_basic_and_a_bad_credential_still_pulls_what_is_public() {
    if lacking(&NEEDED) {
        return;
    }
    let pull: &[Right] = &[Right::Pull];
    let push: &[Right] = &[Right::Push];
    let settings = Settings {
        robot_prefix: "robot_",
        accounts: vec![
            Account::robot("robot_team+ci", "secret", &[("team", push)]),
            Account::robot("robot$team+ci", "secret", &[("team", push)]),
            Account::user("dev", "password", &[("team", pull)]),
            Account::administrator("admin", "Harbor12345"),
        ],
        ..Settings::default()
    };
    let harbor = Harbor::start(settings);
    let tags = "GET /v2/team/app/tags/list";
    let begin = "POST /v2/team/app/blobs/uploads/";
    let ci = basic("robot_team+ci", "secret");
    let status = |authorization: &str, request: &str| {
        ask(&harbor, authorization, request, "Content-Length: 0\r\n").status
    };
    // A robot that may push may pull. 404: the repository is still empty.
    assert_eq!((status(&ci, tags), status(&ci, begin)), (404, 202));
    let dev = basic("dev", "password");
    assert_eq!((status(&dev, tags), status(&dev, begin)), (404, 401));
    assert_eq!(status(&basic("admin", "Harbor12345"), "GET /v2/_catalog"), 200);
    // Another prefix is configured, so this is no robot.
    assert_eq!(status(&basic("robot$team+ci", "secret"), tags), 401);
    assert_eq!(status(&basic("dev", "expired"), "GET /v2/library/app/tags/list"), 404);

    harbor.change_account("robot_team+ci", |robot| robot.disabled = true);
    assert_eq!(status(&ci, tags), 401);
    let over = Some(SystemTime::now() - Duration::from_secs(1));
    harbor.change_account("robot_team+ci", |robot| {
        (robot.disabled, robot.expires) = (false, over);
    });
    assert_eq!(status(&ci, tags), 401);
    let logins = harbor.logins();
    assert_eq!(logins.iter().filter(|name| *name == "robot_team+ci").count(), 4);
}

#[test]
fn a_failed_login_takes_a_while_and_locks_a_users_name_even_for_the_right_password() {
    if lacking(&NEEDED) {
        return;
    }
    let settings = Settings {
        accounts: vec![
            Account::user("dev", "password", &[]),
            Account::robot("robot$ci", "secret", &[]),
        ],
        ..Settings::default()
    };
    let harbor = Harbor::start(settings);
    let started = Instant::now();
    for name in ["dev", "robot$ci"] {
        let refused = Caller::connect(harbor.address());
        let mut refused = refused;
        let wrong = basic(name, "wrong");
        refused
            .send(format!("GET /v2/ HTTP/1.1\r\nHost: harbor\r\nAuthorization: {wrong}\r\n\r\n"));
        crate::support::eventually("the login begins", || {
            harbor.logins().contains(&name.to_owned()).then_some(())
        });
        let right = if name == "dev" { "password" } else { "secret" };
        let meanwhile = ask(&harbor, &basic(name, right), "GET /v2/", "");
        // A robot's secret is compared before anybody asks for locks.
        assert_eq!(meanwhile.status, if name == "dev" { 401 } else { 200 });
        assert_eq!(refused.answer().expect("an answer").status, 401);
        assert_eq!(ask(&harbor, &basic(name, right), "GET /v2/", "").status, 200);
    }
    assert!(started.elapsed() >= Duration::from_secs(3), "{:?}", started.elapsed());
    let seen = harbor.requests();
    let first = Authorization::Basic { principal: "dev".to_owned(), password: None };
    assert_eq!(seen[0].authorization, first);
    let second = Authorization::Basic { principal: "dev".to_owned(), password: Some(0) };
    assert_eq!((&seen[1].authorization, seen[1].status), (&second, 401));
}

#[test]
fn the_token_service_gives_whoever_asks_with_get_all_that_they_may_do() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let base = "/service/token?service=harbor-registry";
    let scope = "&scope=repository:library/app:pull,push";
    let status = |authorization: &str, request: &str| {
        ask(&harbor, authorization, request, "Content-Length: 0\r\n").status
    };
    assert_eq!(status("", &format!("GET {base}")), 401);
    assert_eq!(status(&robot(), &format!("GET {base}")), 200);
    assert_eq!(status(&robot(), &format!("POST {base}")), 405);
    assert_eq!(status(&robot(), "GET /service/token?service=registry"), 400);

    let answer = ask(&harbor, &robot(), &format!("GET {base}{scope}"), "");
    let said = body(&answer);
    assert_eq!(
        (said["expires_in"].as_u64(), said["access_token"].as_str()),
        (Some(1800), Some(""))
    );
    assert!(said["issued_at"].as_str().is_some_and(|date| date.starts_with("20")), "{said}");
    assert_eq!(harbor.tokens().last().map(String::as_str), said["token"].as_str());

    // What was asked for is replaced by what the account may do; a token opens its project.
    let mine = token(&harbor, &robot(), "repository:team/app:pull");
    assert_eq!(status(&mine, "POST /v2/team/another/blobs/uploads/"), 202);
    assert_eq!(status(&mine, "GET /v2/library/app/tags/list"), 401);
    assert_eq!(status(&mine, "GET /api/v2.0/users/current"), 401);
    // An anonymous token pulls what is public, and is nobody's.
    let anybodys = token(&harbor, "", "repository:library/app:pull,push");
    assert_eq!(status(&anybodys, "GET /v2/library/app/tags/list"), 404);
    assert_eq!(status(&anybodys, "POST /v2/library/app/blobs/uploads/"), 401);
    assert_eq!(status(&anybodys, "GET /v2/"), 401);
    // A wrong password gets one as well.
    assert_eq!(status(&basic("nobody", "x"), &format!("GET {base}{scope}")), 200);
    // Both forms of several scopes.
    for scopes in [
        "repository:team/a:pull&scope=repository:library/b:pull",
        "repository:team/a:pull%20repository:library/b:pull",
    ] {
        let both = token(&harbor, &robot(), scopes);
        assert_eq!(status(&both, "GET /v2/team/a/tags/list"), 404);
        assert_eq!(status(&both, "GET /v2/library/b/tags/list"), 404);
    }
}

#[test]
fn tokens_end_and_may_be_forgotten() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let tags = "GET /v2/team/app/tags/list";
    let status = |token: &str| ask(&harbor, token, tags, "").status;
    harbor.switch(|switches| switches.token_lifetime = Some(Duration::ZERO));
    let mine = token(&harbor, &robot(), "repository:team/app:pull");
    assert_eq!(status(&mine), 404, "a minute of leeway");
    harbor.switch(|switches| switches.token_leeway = Some(Duration::ZERO));
    crate::support::eventually("the token's end", || (status(&mine) == 401).then_some(()));
    harbor.switch(|switches| *switches = Switches::default());
    let mine = token(&harbor, &robot(), "repository:team/app:pull");
    assert_eq!(status(&mine), 404);
    harbor.forget_tokens();
    assert_eq!(status(&mine), 401);
    assert!(harbor.requests().iter().any(|seen| seen.authorization == Authorization::Bearer));
}

#[test]
fn the_token_service_fails_in_every_way_a_story_wants() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let request = "GET /service/token?service=harbor-registry";
    let with = |service: TokenService, expires_in: ExpiresIn| {
        harbor.switch(|switches| {
            (switches.token_service, switches.expires_in) = (service, expires_in);
        });
        ask(&harbor, &robot(), request, "")
    };
    assert_eq!(with(TokenService::Failing, ExpiresIn::True).status, 500);
    let malformed = with(TokenService::Malformed, ExpiresIn::True);
    assert!(serde_json::from_slice::<Value>(&malformed.body).is_err());
    assert!(with(TokenService::Huge, ExpiresIn::True).body.len() > 10 << 20);
    let said = |expires_in| body(&with(TokenService::Works, expires_in))["expires_in"].clone();
    assert_eq!(said(ExpiresIn::Missing), Value::Null);
    assert_eq!(said(ExpiresIn::Said(0)), 0);
    assert_eq!(said(ExpiresIn::Said(1 << 40)), 1_i64 << 40);
    let started = Instant::now();
    let slow = with(TokenService::Slow(Duration::from_millis(200)), ExpiresIn::True);
    assert_eq!(slow.status, 200);
    assert!(started.elapsed() >= Duration::from_millis(200));
    harbor.switch(|switches| switches.token_service = TokenService::Down);
    let mut caller = Caller::connect(harbor.address());
    caller.send(format!("{request} HTTP/1.1\r\nHost: harbor\r\n\r\n"));
    assert!(caller.answer().is_err());
    // Everything else goes on.
    assert_eq!(ask(&harbor, &robot(), "GET /v2/", "").status, 200);
}

#[test]
fn a_mount_needs_a_source_that_may_be_read() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let digest = upload(&harbor, "library/app", b"a layer");
    for (from, status) in [
        ("library/app", 201),
        ("other/app", 401),
        ("nowhere/app", 401),
        // Refused before anybody asks who it is.
        ("app", 400),
    ] {
        let request = format!("POST /v2/team/app/blobs/uploads/?mount={digest}&from={from}");
        let answer = ask(&harbor, &robot(), &request, "Content-Length: 0\r\n");
        assert_eq!(answer.status, status, "{from}: {answer}");
    }
    assert!(harbor.registry().holds("team/app", &digest));
}

#[test]
fn an_uploads_address_is_absolute_and_its_state_must_come_back_untouched() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let begin = "POST /v2/team/app/blobs/uploads/";
    let opened = ask(&harbor, &robot(), begin, "Content-Length: 0\r\n");
    let location = opened.field("location").expect("a location");
    let start = "http://harbor.test:8080/v2/team/app/blobs/uploads/";
    assert!(location.starts_with(start) && location.contains("_state="), "{location}");
    let behind_tls = "Content-Length: 0\r\nX-Forwarded-Proto: https\r\n";
    let opened = ask(&harbor, &robot(), begin, behind_tls);
    let location = opened.field("location").expect("a location");
    assert!(location.starts_with("https://harbor.test:8080/v2/"), "{location}");
    let target = path_of(location).replace("_state=", "_state=A");
    let changed = ask(&harbor, &robot(), &format!("PATCH {target}"), "Content-Length: 0\r\n");
    assert_eq!(changed.status, 404, "{changed}");
}

#[test]
fn every_answer_offers_a_session_and_whoever_takes_it_needs_a_csrf_token() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let first = ask(&harbor, &robot(), "GET /v2/", "");
    let cookie = first.field("set-cookie").expect("a cookie").to_owned();
    assert!(cookie.starts_with("sid=") && cookie.ends_with("; Path=/; HttpOnly"), "{cookie}");
    assert!(first.field("x-request-id").is_some());
    let pair = cookie.split(';').next().unwrap_or_default();
    let more = format!("Cookie: a=b; {pair}\r\nContent-Length: 0\r\n");
    for (request, status) in [
        ("GET /v2/", 200),
        ("POST /v2/team/app/blobs/uploads/", 403),
        ("POST /service/token", 403),
        ("POST /api/v2.0/robots", 403),
    ] {
        let answer = ask(&harbor, &robot(), request, &more);
        assert_eq!(answer.status, status, "{request}: {answer}");
        assert!(!answer.has("set-cookie"), "it has one already");
    }
    let seen = harbor.requests();
    assert_eq!(
        seen.iter().map(|seen| seen.cookies).collect::<Vec<_>>(),
        [false, true, true, true, true]
    );
}

#[test]
fn what_rules_forbid_is_said_in_harbors_words() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let begin = "POST /v2/team/app/blobs/uploads/";
    let refused = |answer: Answer, status: u16, code: &str, words: &str| {
        assert_eq!((answer.status, answer.code().as_str()), (status, code), "{answer}");
        assert!(answer.text().contains(words), "{answer}");
        answer
    };
    let post = || ask(&harbor, &robot(), begin, "Content-Length: 0\r\n");
    assert_eq!(put_manifest(&harbor, "team/app", "v1").status, 201);

    harbor.switch(|switches| switches.read_only = true);
    refused(post(), 403, "DENIED", "The system is in read only mode.");
    assert_eq!(ask(&harbor, "", "POST /service/token", "Content-Length: 0\r\n").status, 405);
    harbor.switch(|switches| {
        switches.read_only = false;
        switches.proxy_caches = vec!["team".to_owned()];
    });
    refused(post(), 403, "DENIED", "can not push artifact to a proxy project: team");
    harbor.switch(|switches| {
        switches.proxy_caches.clear();
        switches.immutable = vec!["team/app:v1".to_owned()];
    });
    let text = "'app:v1' configured as immutable";
    refused(tag_as(&harbor, "team/app", "v1", "{}"), 412, "PRECONDITION", text);
    assert_eq!(put_manifest(&harbor, "team/app", "v2").status, 201);
    harbor.switch(|switches| switches.too_many = Some(7));
    let answer = refused(post(), 429, "TOO_MANY_REQUEST", "too many requests");
    assert_eq!(answer.field("retry-after"), Some("7"));
    harbor.switch(|switches| {
        switches.too_many = None;
        switches.quotas.insert("team".to_owned(), 2 << 20);
    });
    assert_eq!(put(&harbor, "team/app", &noise(1, 1 << 20)).status, 201);
    let text = "adding 1.5 MiB of storage resource, which when updated to current usage of 1.0 MiB \
                will exceed the configured upper limit of 2.0 MiB.";
    refused(put(&harbor, "team/app", &noise(2, 3 << 19)), 403, "DENIED", text);
    let missing = ask(&harbor, &robot(), "GET /v2/team/app/manifests/v9", "");
    refused(missing, 404, "NOT_FOUND", "artifact team/app:v9 not found");
    let tag = ask(&harbor, &robot(), "DELETE /v2/team/app/manifests/v1", "");
    refused(tag, 400, "UNSUPPORTED", "unsupported digest v1");
}

#[test]
fn blobs_are_pulled_from_another_host_that_wants_no_authorization() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let blob = noise(3, 100_000);
    let digest = upload(&harbor, "team/app", &blob);
    harbor.switch(|switches| switches.blobs = Blobs::InStorage);
    let target = format!("GET /v2/team/app/blobs/{digest}");
    let redirected = || {
        let answer = ask(&harbor, &robot(), &target, "");
        assert_eq!(answer.status, 307, "{answer}");
        answer.field("location").expect("a location").to_owned()
    };
    let location = redirected();
    assert!(location.starts_with(&harbor.storage_url()), "{location}");
    let storage = harbor.storage_url().replace("http://", "").parse().expect("an address");
    let fetch = |method: &str, target: &str, more: &str| {
        let head = format!("{method} {target} HTTP/1.1\r\nHost: storage\r\n{more}\r\n");
        let mut caller = Caller::connect(storage);
        caller.send(head);
        caller.answer_to(method)
    };
    let get = |more: &str| fetch("GET", path_of(&location), more).expect("an answer");
    assert_eq!(get("").body, blob);
    let part = get("Range: bytes=99990-\r\n");
    assert_eq!((part.status, part.body.as_slice()), (206, &blob[99_990..]));
    assert_eq!(part.field("content-range"), Some("bytes 99990-99999/100000"));
    assert_eq!(get("Range: bytes=5-5\r\n").body, &blob[5..6]);
    assert_eq!(get("Range: bytes=-7\r\n").body, &blob[99_993..]);
    assert_eq!(get("Range: bytes=100000-\r\n").status, 416);
    assert_eq!(get("Range: bytes=5-5\r\nIf-Range: \"another\"\r\n").body.len(), 100_000);
    assert_eq!(get("Authorization: Basic eDp5\r\n").status, 403);
    // The signature is for this method and this object.
    assert_eq!(fetch("HEAD", path_of(&location), "").expect("an answer").status, 403);
    let head = ask(&harbor, &robot(), &target.replace("GET", "HEAD"), "");
    let head = fetch("HEAD", path_of(head.field("location").expect("a location")), "");
    assert_eq!(head.expect("an answer").field("content-length"), Some("100000"));

    harbor.switch(|switches| switches.storage_ignores_ranges = true);
    assert_eq!(get("Range: bytes=5-5\r\n").status, 200);
    harbor.switch(|switches| switches.storage_cut = Some(1000));
    assert!(fetch("GET", path_of(&location), "").is_err());
    harbor.switch(|switches| (switches.storage_cut, switches.storage_hops) = (None, 1));
    let hop = get("").field("location").expect("a location").to_owned();
    assert_eq!(fetch("GET", &hop, "").expect("an answer").body, blob);
    harbor.switch(|switches| switches.blobs = Blobs::At("http://192.0.2.1/x".to_owned()));
    assert_eq!(redirected(), "http://192.0.2.1/x");
    let seen = harbor.storage_requests();
    let with: Vec<_> =
        seen.iter().filter(|seen| seen.authorization != Authorization::None).collect();
    assert_eq!((with.len(), with[0].status), (1, 403));
    assert_eq!(seen[1].field("range"), Some("bytes=99990-"));
}

#[test]
fn the_api_is_read_by_whoever_may_and_knows_what_was_pushed() {
    if lacking(&NEEDED) {
        return;
    }
    let mut oidc = Account::user("someone", "password", &[]);
    oidc.oidc_secret = Some("cli-secret".to_owned());
    let mut settings = Settings::default();
    settings.accounts.extend([oidc, Account::administrator("admin", "Harbor12345")]);
    let harbor = Harbor::start(settings);
    let get = |authorization: &str, path: &str| {
        ask(&harbor, authorization, &format!("GET /api/v2.0/{path}"), "")
    };
    assert_eq!(get("", "ping").text(), "Pong");
    assert_eq!(body(&get("", "health"))["status"], "healthy");
    assert_eq!(body(&get("", "systeminfo"))["harbor_version"], Value::Null);
    assert!(body(&get(&robot(), "systeminfo"))["harbor_version"].is_string());
    assert_eq!(get("", "users/current").status, 401);
    assert_eq!(get(&robot(), "users/current").status, 412);
    assert_eq!(get(&robot(), "users/current/permissions").status, 200);
    let secret = |answer: Answer| body(&answer)["oidc_user_meta"]["secret"].clone();
    assert_eq!(secret(get(&basic("someone", "password"), "users/current")), "cli-secret");
    let admin = basic("admin", "Harbor12345");
    assert_eq!(secret(get(&admin, "users/1")), "cli-secret");
    assert_eq!(get(&robot(), "users/1").status, 403);
    // The CLI secret is good for images, and not for everything.
    assert_eq!(ask(&harbor, &basic("someone", "cli-secret"), "GET /v2/", "").status, 200);

    assert_eq!(put_manifest(&harbor, "team/deep/app", "v1").status, 201);
    let names = |answer: Answer| -> Vec<String> {
        let all = body(&answer);
        let all = all.as_array().expect("a list").iter();
        all.map(|one| one["name"].as_str().unwrap_or_default().to_owned()).collect()
    };
    assert_eq!(names(get("", "projects")), ["library"]);
    assert_eq!(names(get(&robot(), "projects")), ["library", "team"]);
    assert_eq!(names(get(&robot(), "projects/team/repositories")), ["team/deep/app"]);
    let artifacts = get(&robot(), "projects/team/repositories/deep%252Fapp/artifacts");
    assert_eq!(artifacts.field("x-total-count"), Some("1"));
    let digest = harbor.registry().digest("team/deep/app", "v1").expect("it was pushed");
    assert_eq!(body(&artifacts)[0]["digest"], digest.as_str());
    let one = get(&robot(), "projects/team/repositories/deep%252Fapp/artifacts/v1");
    assert_eq!(body(&one)["tags"][0]["name"], "v1");
    assert_eq!(get(&robot(), "projects/other").status, 403);
    assert_eq!(get("", "projects/team/repositories").status, 401);

    let text = "{\"name\": \"new\"}";
    let request = format!(
        "POST /api/v2.0/robots HTTP/1.1\r\nHost: harbor\r\nAuthorization: {admin}\
         \r\nContent-Length: {}\r\n\r\n{text}",
        text.len()
    );
    let made = body(&Caller::connect(harbor.address()).ask(&request));
    let made = basic("robot$new", made["secret"].as_str().expect("a secret"));
    assert_eq!(ask(&harbor, &made, "GET /v2/", "").status, 200);
    let form = "principal=admin&password=Harbor12345";
    let request = format!(
        "POST /c/login HTTP/1.1\r\nHost: harbor\r\n\
         Content-Length: {}\r\n\r\n{form}",
        form.len()
    );
    let begun = Caller::connect(harbor.address()).ask(&request);
    assert!(begun.status == 200 && begun.has("set-cookie"), "{begun}");
}

#[test]
fn what_refers_to_a_manifest_is_known() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    assert_eq!(put_manifest(&harbor, "team/app", "v1").status, 201);
    let subject = harbor.registry().digest("team/app", "v1").expect("it was pushed");
    let digest = digest_of(b"{}");
    let signature = serde_json::json!({
        "schemaVersion": 2,
        "mediaType": "application/vnd.oci.image.manifest.v1+json",
        "artifactType": "application/vnd.example.signature",
        "config": {"mediaType": "application/vnd.oci.empty.v1+json", "digest": digest, "size": 2},
        "layers": [],
        "subject": {
            "mediaType": "application/vnd.oci.image.manifest.v1+json",
            "digest": subject,
            "size": 2,
        },
    });
    assert_eq!(tag_as(&harbor, "team/app", "sig", &signature.to_string()).status, 201);
    let stored = harbor.registry().digest("team/app", "sig").expect("it was pushed");
    for (kind, expected) in [
        ("", Some(&stored)),
        ("?artifactType=application/vnd.example.signature", Some(&stored)),
        ("?artifactType=another", None),
    ] {
        let request = format!("GET /v2/team/app/referrers/{subject}{kind}");
        let answer = ask(&harbor, &robot(), &request, "");
        assert_eq!((answer.status, answer.has("oci-filters-applied")), (200, !kind.is_empty()));
        assert_eq!(body(&answer)["manifests"][0]["digest"].as_str(), expected.map(String::as_str));
    }
    assert_eq!(ask(&harbor, "", "GET /v2/team/app/referrers/x", "").status, 401);
    assert_eq!(ask(&harbor, &robot(), "GET /v2/team/app/referrers/x", "").status, 400);
}

#[test]
fn a_path_is_decoded_before_anybody_looks_at_it() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let text = |request: &str| ask(&harbor, "", request, "");
    assert_eq!(text("GET /v2/%2e%2e/api/v2.0/ping").text(), "Pong");
    assert_eq!(text("GET /v2/x/..%2f..%2fapi//v2.0/ping").text(), "Pong");
    assert_eq!(text("GET /v2").field("location"), Some("/v2/"));
    assert_eq!(text("GET /v1/search").status, 404);
    assert_eq!(text("GET /v2/?a;b").status, 400);
    assert_eq!(text("GET /%zz").status, 400);
}

#[test]
fn a_replaced_password_is_told_from_the_one_before() {
    if lacking(&NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    harbor.replace_password(USER, "next");
    assert_eq!(ask(&harbor, &basic(USER, "next"), "GET /v2/", "").status, 200);
    assert_eq!(ask(&harbor, &robot(), "GET /v2/", "").status, 401);
    let which = harbor.requests().into_iter().map(|seen| match seen.authorization {
        Authorization::Basic { password, .. } => password,
        _ => None,
    });
    assert_eq!(which.collect::<Vec<_>>(), [Some(1), Some(0)]);
}

#[test]
fn skopeo_logs_in_pushes_mounts_and_pulls_by_itself() {
    if lacking(&[NEEDED.as_slice(), &["skopeo"]].concat()) {
        return;
    }
    for harbor in [Harbor::http(), Harbor::https()] {
        let authority = harbor.authority();
        let job = Job::new(&authority, USER, PASSWORD);
        let certificates = job.path("certificates");
        std::fs::create_dir(&certificates).expect("a folder");
        std::fs::write(certificates.join("ca.crt"), harbor.ca()).expect("a certificate");
        let trust = match harbor.url().starts_with("https") {
            true => format!("cert-dir={}", certificates.display()),
            false => "tls-verify=false".to_owned(),
        };
        let layout = Layout::image(&job.path("image"), 2, 60);
        let source = layout.source();
        let image = format!("docker://{authority}/team/app:v1");
        job.run(&format!("skopeo copy --preserve-digests --dest-{trust} {source} {image}"));
        assert_eq!(harbor.registry().digest("team/app", "v1").as_ref(), Some(&layout.digest));
        // Its storage is elsewhere, and skopeo goes there without its token.
        harbor.switch(|switches| switches.blobs = Blobs::InStorage);
        let place = job.path("pulled").display().to_string();
        job.run(&format!("skopeo copy --src-{trust} {image} dir:{place}"));
        for layer in &layout.layers {
            let bytes = std::fs::read(job.path("pulled").join(&layer[7..])).expect("a layer");
            assert_eq!(digest_of(&bytes), *layer);
        }
        let there = harbor.storage_requests();
        assert!(
            there.iter().all(|seen| seen.authorization == Authorization::None && !seen.cookies)
        );
        assert!(there.iter().filter(|seen| seen.status == 200).count() >= 3, "{there:?}");
        let seen = harbor.requests();
        // Sent to the token service, it comes with Basic there and with a token everywhere else.
        let logins =
            seen.iter().filter(|seen| matches!(seen.authorization, Authorization::Basic { .. }));
        assert!(logins.clone().count() > 0);
        assert!(logins.clone().all(|seen| seen.target.starts_with("/service/token")), "{seen:?}");
        assert_eq!(harbor.logins().len(), logins.count());
        assert!(!harbor.tokens().is_empty());
    }
}
