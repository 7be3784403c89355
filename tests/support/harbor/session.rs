//! Cookies: the session that Harbor offers to everybody, and what it costs to accept it.
//!
//! A request in, a refusal or two more fields of its answer out.

use hyper::header::COOKIE;

use super::listen::{Refused, Request, set};
use super::rights::refusal;

/// Whether a request carries Harbor's session (src/server/middleware/session).
fn carries_session(request: &Request) -> bool {
    let all = request.headers().get_all(COOKIE).iter();
    let mut pairs = all.filter_map(|value| value.to_str().ok()).flat_map(|value| value.split(';'));
    pairs.any(|pair| pair.trim().starts_with("sid="))
}

/// Refuses a request that carries a session, would change something, and has no CSRF token. The
/// paths of programs are excused only as long as no session comes along
/// (src/server/middleware/csrf; its gorilla/csrf lets GET, HEAD, OPTIONS and TRACE pass).
pub(super) fn check(request: &Request) -> Result<(), Refused> {
    let is_safe = matches!(request.method().as_str(), "GET" | "HEAD" | "OPTIONS" | "TRACE");
    if is_safe || !carries_session(request) {
        return Ok(());
    }
    let mut answer = refusal(403, "FORBIDDEN", "CSRF token not found in request");
    set(&mut answer, "x-harbor-csrf-token", &chance());
    Err(Box::new(answer))
}

/// The cookie to offer with an answer: beego starts a session for whoever has none.
pub(super) fn offer(request: &Request) -> Option<String> {
    (!carries_session(request)).then(cookie)
}

/// A fresh session as a `Set-Cookie`.
pub(super) fn cookie() -> String {
    format!("sid={}; Path=/; HttpOnly", chance())
}

/// Thirty-two digits that nobody can guess.
pub(super) fn chance() -> String {
    let mut bytes = [0; 16];
    let random = ring::rand::SystemRandom::new();
    ring::rand::SecureRandom::fill(&random, &mut bytes).expect("chance");
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}
