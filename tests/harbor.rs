//! Harbor's own ways, through the proxy: what it does to an upload's address, its cookies, the
//! names of its robots, and the refusals that only Harbor knows.

use crate::push::upload_blob;
use crate::support::harbor::Authorization;
use crate::support::programs::lacking;
use crate::support::{Harbor, Manifests, Proxy, USER, digest_of, docker_registry, noise};

#[test]
fn every_request_is_the_robots_and_no_cookie_goes_either_way() {
    if lacking(&docker_registry::NEEDED) {
        return;
    }
    let harbor = Harbor::http();
    let proxy = Proxy::start(&Manifests::for_registry(&harbor.url()), &[]);
    let blob = noise(70, 200_000);

    upload_blob(&proxy, "team/app", &blob);

    assert!(harbor.registry().holds("team/app", &digest_of(&blob)));
    let robots = Authorization::Basic { principal: USER.to_owned(), password: Some(0) };
    for seen in harbor.requests() {
        assert!(seen.authorization == robots && !seen.cookies, "{seen}");
    }
    assert_eq!(harbor.logins().len(), 4, "one of them the proxy's own probe");
}
