//! The answers we give ourselves: refusals, the ping, an error in the registry's stead.
//!
//! A refusal is OCI error JSON (distribution-spec v1.1 §"Error Codes") whose message names the
//! connector and says what to do; a HEAD's answer has no body and says it in a field. Nothing here
//! depends on whether a connector exists: a forbidden and an unknown one get the same bytes.

use std::time::SystemTime;

use crate::account::Record;
use crate::error::{Facts, Kind};

/// The status of the answer to a request that failed as `kind`: where a forward proxy is spoken to,
/// what is missing is its own credential (RFC 9110 §15.5.8).
pub(crate) fn status(kind: Kind, record: &Record) -> u16 {
    match kind.facts().status {
        401 if record.proxied => 407,
        status => status,
    }
}

/// The answer to a request that failed as `kind`.
pub(crate) fn refusal(kind: Kind, record: &Record, close: bool) -> Vec<u8> {
    let facts = Facts { status: status(kind, record), ..kind.facts() };
    let mut message = String::new();
    if let Some(connector) = &record.connector {
        message.push_str("connector ");
        message.push_str(connector.as_str());
        message.push_str(": ");
    }
    message.push_str(facts.message);
    if let (Kind::HostDenied | Kind::HostForbidden | Kind::HostUnreachable, Some(host)) =
        (kind, &record.host)
    {
        message.push_str(" (");
        message.push_str(host);
        message.push(')');
    }
    if let Some(detail) = &record.detail {
        message.push_str(" (");
        message.push_str(detail);
        message.push(')');
    }
    let retry_after = facts.retry_after.map(|seconds| seconds.to_string());
    error(&facts, retry_after.as_deref(), &message, record, close)
}

/// The answer in place of a registry's error that no registry client could read (HTML from
/// whatever stands in front of it): the status is kept.
pub(crate) fn unreadable(
    status: u16,
    retry_after: Option<&str>,
    record: &Record,
    close: bool,
) -> Vec<u8> {
    let code = match status {
        403 => "DENIED",
        404 => "NAME_UNKNOWN",
        413 => "SIZE_INVALID",
        429 => "TOOMANYREQUESTS",
        500.. => "UNAVAILABLE",
        _ => "UNKNOWN",
    };
    let facts = Facts { status, code, ..Kind::RegistryClosed.facts() };
    let mut message =
        format!("the registry, or a proxy before it, answered {status} without saying why");
    if let Some(detail) = &record.detail {
        message.push_str(&format!(" ({detail})"));
    }
    error(&facts, retry_after, &message, record, close)
}

/// The answer to a bare `/v2/` with a good token: this is a distribution API (end-1).
pub(crate) fn ping(head_only: bool, close: bool) -> Vec<u8> {
    let mut answer = Answer::start(200);
    answer.field("Docker-Distribution-Api-Version", "registry/2.0");
    answer.end("application/json", "{}", head_only, close)
}

/// The answer to HTTP on a port where TLS alone is spoken: clients that may fall back to http go by
/// its status.
pub(crate) const TLS_WANTED: &[u8] = b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\n\
    Content-Length: 41\r\nConnection: close\r\n\r\nthis port speaks TLS: write https:// here";
/// The answer of a token service (distribution's token authentication specification), at `now`, to
/// a caller that was allowed. Its token opens nothing: the caller goes on with its own, and the
/// registry's stays here.
pub(crate) fn token(now: SystemTime, head_only: bool, close: bool) -> Vec<u8> {
    let mut answer = Answer::start(200);
    answer.field("Cache-Control", "no-store");
    let body = format!(
        "{{\"token\":\"connector\",\"access_token\":\"connector\",\"expires_in\":1800,\"issued_at\":\"{}\"}}\n",
        date(now)
    );
    answer.end("application/json", &body, head_only, close)
}

/// A moment as RFC 3339 writes it, in UTC and to the second.
fn date(moment: SystemTime) -> String {
    let since = moment.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs();
    let (days, second) = (since / 86_400, since % 86_400);
    // Years begin in March here, so that a leap day is their last; an era has 400 of them.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day = day - (153 * month + 2) / 5 + 1;
    let (month, turned) = if month < 10 { (month + 3, 0) } else { (month - 9, 1) };
    let year = era * 400 + year + turned;
    let (hour, minute, second) = (second / 3600, second / 60 % 60, second % 60);
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}Z")
}

/// Tells the caller to send its body (RFC 9110 §15.2.1).
pub(crate) const CONTINUE: &[u8] = b"HTTP/1.1 100 Continue\r\n\r\n";

fn error(
    facts: &Facts,
    retry_after: Option<&str>,
    message: &str,
    record: &Record,
    close: bool,
) -> Vec<u8> {
    // Clients show the reason phrase of a proxy's refusal, and nothing else of it.
    let mut answer = match record.proxied {
        true => Answer::start_because(facts.status, message),
        false => Answer::start(facts.status),
    };
    answer.field("Docker-Distribution-Api-Version", "registry/2.0");
    if facts.status == 407 {
        answer.field("Proxy-Authenticate", "Basic realm=\"connectors\"");
    }
    if facts.status == 401 {
        // Basic and nothing else: a realm would send the caller, with its token, elsewhere.
        answer.field("WWW-Authenticate", "Basic realm=\"connectors\"");
    }
    if facts.status == 405 {
        answer.field("Allow", "GET, HEAD, POST, PUT, PATCH, DELETE");
    }
    if let Some(retry_after) = retry_after {
        answer.field("Retry-After", retry_after);
    }
    let head_only = record.method == "HEAD";
    if head_only {
        answer.field("X-Connector-Error", message);
        answer.field("Warning", &["299 - \"", message, "\""].concat());
    }
    let body = [
        "{\"errors\":[{\"code\":\"",
        facts.code,
        "\",\"message\":\"",
        message,
        "\",\"detail\":{\"reason\":\"",
        facts.word,
        "\"}}]}\n",
    ]
    .concat();
    answer.end("application/json; charset=utf-8", &body, head_only, close)
}

/// An answer being written. Our own texts and names of Kubernetes objects are all that goes in, so
/// nothing needs escaping; `Answer::field` would drop a line break all the same.
struct Answer(String);

impl Answer {
    fn start(status: u16) -> Self {
        Self(format!("HTTP/1.1 {status} {}\r\n", reason(status)))
    }

    fn start_because(status: u16, why: &str) -> Self {
        let why: String = why.chars().filter(|letter| !letter.is_control()).collect();
        Self(format!("HTTP/1.1 {status} {why}\r\n"))
    }

    fn field(&mut self, name: &str, value: &str) {
        self.0.push_str(name);
        self.0.push_str(": ");
        self.0.extend(value.chars().filter(|letter| !letter.is_control()));
        self.0.push_str("\r\n");
    }

    fn end(mut self, content_type: &str, body: &str, head_only: bool, close: bool) -> Vec<u8> {
        self.field("Content-Type", content_type);
        self.field("Content-Length", &body.len().to_string());
        // Said either way: a caller that speaks HTTP/1.0 would otherwise wait for the close.
        self.field("Connection", if close { "close" } else { "keep-alive" });
        self.0.push_str("\r\n");
        if !head_only {
            self.0.push_str(body);
        }
        self.0.into_bytes()
    }
}

/// The reason phrase of a status (RFC 9110 §15).
fn reason(status: u16) -> &'static str {
    match status {
        200 => "OK",
        400 => "Bad Request",
        401 => "Unauthorized",
        403 => "Forbidden",
        404 => "Not Found",
        405 => "Method Not Allowed",
        407 => "Proxy Authentication Required",
        408 => "Request Timeout",
        413 => "Content Too Large",
        414 => "URI Too Long",
        415 => "Unsupported Media Type",
        417 => "Expectation Failed",
        421 => "Misdirected Request",
        429 => "Too Many Requests",
        431 => "Request Header Fields Too Large",
        500 => "Internal Server Error",
        501 => "Not Implemented",
        502 => "Bad Gateway",
        503 => "Service Unavailable",
        504 => "Gateway Timeout",
        508 => "Loop Detected",
        _ => "Error",
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn a_moment_is_written_as_others_write_it() {
        for (seconds, expected) in [
            (0, "1970-01-01T00:00:00Z"),
            (951_782_399, "2000-02-28T23:59:59Z"),
            (951_782_400, "2000-02-29T00:00:00Z"),
            (951_868_800, "2000-03-01T00:00:00Z"),
            (1_767_225_599, "2025-12-31T23:59:59Z"),
            (1_767_225_600, "2026-01-01T00:00:00Z"),
            (4_107_542_400, "2100-03-01T00:00:00Z"),
        ] {
            assert_eq!(date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), expected);
        }
    }
}
