//! The way of a request through nginx and Harbor's middlewares, in their order.
//!
//! A request in, an answer out (src/core/middlewares/middlewares.go): the target is read and a
//! mount's source checked, then the session, then who it is, then read-only mode, and only then
//! what they may do. So read-only mode answers also those who may do nothing.

use std::sync::Arc;

use hyper::header::{AUTHORIZATION, LOCATION};

use super::listen::{Answer, Cause, Request, reply, set};
use super::rights::refusal;
use super::{Shared, accounts, api, policy, session, target, token, v2};

/// Answers one request.
pub(super) async fn answer(shared: Arc<Shared>, request: Request) -> Result<Answer, Cause> {
    let number = shared.record.at_front(&shared, &request);
    let cookie = session::offer(&request);
    let name = request.headers().get("x-request-id").and_then(|name| name.to_str().ok());
    let name = name.map_or_else(session::chance, str::to_owned);
    let mut answer = inside(&shared, request).await?;
    // src/server/middleware/requestid.
    set(&mut answer, "x-request-id", &name);
    if shared.settings.tls {
        // make/photon/prepare/templates/nginx/nginx.https.conf.jinja.
        let value = "max-age=31536000; includeSubdomains; preload";
        set(&mut answer, "strict-transport-security", value);
    }
    if let Some(cookie) = cookie.filter(|_| !answer.headers().contains_key("set-cookie")) {
        set(&mut answer, "set-cookie", &cookie);
    }
    shared.record.answered(number, answer.status().as_u16());
    Ok(answer)
}

async fn inside(shared: &Shared, request: Request) -> Result<Answer, Cause> {
    let Some(path) = target::normalised(request.uri().path()) else {
        return Ok(reply(400, "text/html", BAD_REQUEST));
    };
    if path == "/v2" {
        let mut answer = reply(301, "text/html", "");
        answer.headers_mut().insert(LOCATION, "/v2/".parse()?);
        return Ok(answer);
    }
    if path == "/v1" || path.starts_with("/v1/") {
        return Ok(reply(404, "text/html", "<html><title>404 Not Found</title></html>"));
    }
    let Some(query) = target::pairs(request.uri().query().unwrap_or_default()) else {
        return Ok(refusal(400, "BAD_REQUEST", "invalid semicolon separator in query"));
    };
    if let Err(answer) = session::check(&request) {
        return Ok(*answer);
    }
    let wanted = match target::read(&path, &query) {
        Ok(wanted) => wanted,
        Err(answer) => return Ok(*answer),
    };
    let authorization = request.headers().get(AUTHORIZATION).and_then(|one| one.to_str().ok());
    let who = accounts::who(shared, &path, authorization).await;
    if let Err(answer) = policy::read_only(shared, &request, &path) {
        return Ok(*answer);
    }
    if path.starts_with("/v2/") {
        return v2::answer(shared, &who, request, &path, &wanted, &query).await;
    }
    if path == "/service/token" {
        return token::answer(shared, request.method().as_str(), &query, &who).await;
    }
    api::answer(shared, &who, request, &path).await
}

const BAD_REQUEST: &str = "<html><title>400 Bad Request</title></html>";
