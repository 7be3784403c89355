//! The pure stages one by one, each done again and again on one fixed input, to be counted.
//!
//! The name of a stage and a number in, nothing out but the work done. `bench counts` runs this
//! under a tool that counts instructions; the program never does (feature `counting`, off by
//! default). Inputs are what a pull and a push really send; changing one changes the figures.

use std::hint::black_box;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::Arc;

use crate::accept::Parsed;
use crate::account::Record;
use crate::authorise::counting as authorise;
use crate::body::{self, Decoder, Framing, Step};
use crate::counters::Counters;
use crate::fuzzing::{connector, limits};
use crate::login::Presented;
use crate::parse::{self, RequestHead};
use crate::rewrite::{self, Mount};
use crate::route::{self, Routed};
use crate::snapshot::{Served, Snapshot};
use crate::target::{self, Target};
use crate::vocabulary::ConnectorRef;

/// The stages that [`repeat`] knows, in the order in which a request meets them.
pub const STAGES: [&str; 7] = [
    "head-parse",
    "target",
    "authorise-hit",
    "route",
    "rewrite-request",
    "rewrite-response",
    "framing-chunked",
];

/// Does `stage` `times` times.
///
/// # Errors
/// For an unknown stage, and where a stage refuses its fixed input: then it is not what it was.
pub fn repeat(stage: &str, times: u64) -> Result<(), &'static str> {
    let done = match stage {
        "head-parse" => head_parse(times),
        "target" => find_target(times),
        "authorise-hit" => parsed(PULL).and_then(|parsed| authorise::hit(times, &parsed.head)),
        "route" => find_route(times),
        "rewrite-request" => rewrite_request(times),
        "rewrite-response" => rewrite_response(times),
        "framing-chunked" => framing_chunked(times),
        _ => return Err("there is no such stage"),
    };
    done.ok_or("the stage refuses its input")
}

fn head_parse(times: u64) -> Option<()> {
    let limits = limits();
    for _ in 0..times {
        let parsed = parse::request(black_box(PULL), &limits).ok()??;
        black_box(&parsed);
    }
    Some(())
}

fn find_target(times: u64) -> Option<()> {
    let (limits, head) = (limits(), head(PULL)?);
    for _ in 0..times {
        black_box(target::of(black_box(&head), "cluster.local", &limits).ok()?);
    }
    Some(())
}

fn find_route(times: u64) -> Option<()> {
    let counters = Arc::new(Counters::default());
    let mut record = Record::open(&counters, SocketAddr::from((Ipv4Addr::LOCALHOST, 0)));
    let named = |number: usize| connector(ConnectorRef::new("team", &format!("harbor{number}")));
    let snapshot = Snapshot::new((0..1000).map(named), 1);
    let mut asked = Box::new(parsed(PULL)?);
    for _ in 0..times {
        let allowed = authorise::allowed(black_box(asked));
        let Routed { head, target, framing, .. } =
            *route::find(allowed, &snapshot, &mut record).ok()?;
        asked = Box::new(of_parts(head, target, framing, 0));
    }
    record.discard();
    Some(())
}

fn rewrite_request(times: u64) -> Option<()> {
    let routed = routed(PULL)?;
    let presented = Presented::own(&routed.connector.access).ok()?;
    for _ in 0..times {
        let routed = black_box(&routed);
        black_box(rewrite::request(routed, &presented, Mount::Keep, REQUEST_ID).ok()?);
    }
    Some(())
}

fn rewrite_response(times: u64) -> Option<()> {
    let routed = routed(PUSH)?;
    let presented = Presented::own(&routed.connector.access).ok()?;
    let outbound = rewrite::request(&routed, &presented, Mount::Keep, REQUEST_ID).ok()?;
    let (answer, _) = parse::response(ACCEPTED, &limits()).ok()??;
    let framing = body::of_response(routed.head.method, &answer).ok()?;
    let (back, version) = (&outbound.return_path, routed.head.version);
    for _ in 0..times {
        let reply = rewrite::response(black_box(&answer), framing, back, true, version);
        black_box(reply.ok()?);
    }
    Some(())
}

/// A body of eight chunks of 32 KiB, framing and all, as one piece.
fn framing_chunked(times: u64) -> Option<()> {
    let chunk = [b"8000\r\n".as_slice(), &[b'x'; 32 << 10], b"\r\n"].concat();
    let input = [chunk.repeat(8), b"0\r\n\r\n".to_vec()].concat();
    for _ in 0..times {
        let mut decoder = Decoder::new(Framing::Chunked);
        let mut rest = black_box(input.as_slice());
        loop {
            match decoder.step(rest).ok()? {
                Step::End => break,
                Step::More => return None,
                Step::Skip(count) | Step::Payload(count) => rest = rest.get(count..)?,
            }
        }
        black_box(rest);
    }
    Some(())
}

fn head(bytes: &[u8]) -> Option<RequestHead> {
    Some(parse::request(bytes, &limits()).ok()??.0)
}

fn parsed(bytes: &[u8]) -> Option<Parsed> {
    let head = head(bytes)?;
    let target = target::of(&head, "cluster.local", &limits()).ok()?;
    let framing = body::of_request(&head).ok()?;
    Some(of_parts(head, target, framing, bytes.len()))
}

fn of_parts(head: RequestHead, target: Target, framing: Framing, length: usize) -> Parsed {
    Parsed { head, target, framing, expects_continue: false, length, interception: None }
}

fn routed(bytes: &[u8]) -> Option<Routed> {
    let Parsed { head, target, framing, .. } = parsed(bytes)?;
    let served = Served::of(connector(target.connector()?.clone()));
    Some(Routed::new(head, target, framing, served, 1))
}

const REQUEST_ID: &str = "0123456789abcdef";
/// A manifest, as containerd asks for it. The token is made up.
const PULL: &[u8] =
    b"GET /v2/namespaces/team/connectors/harbor7/app/api/manifests/v1.2.3 HTTP/1.1\r\n\
    Host: c-harbor7.team.svc.cluster.local\r\n\
    User-Agent: containerd/2.1.4\r\n\
    Accept: application/vnd.docker.distribution.manifest.v2+json, \
    application/vnd.docker.distribution.manifest.list.v2+json, \
    application/vnd.oci.image.manifest.v1+json, application/vnd.oci.image.index.v1+json, */*\r\n\
    Authorization: Basic cG9kOmV5SmhiR2NpT2lKU1V6STFOaUo5LmV5SnBjM01pT2\
    lKcmRXSmxjbTVsZEdWekluMC5zaWc=\r\n\
    Accept-Encoding: gzip\r\n\r\n";
/// A chunk of an upload.
const PUSH: &[u8] = b"PATCH /v2/namespaces/team/connectors/harbor7/app/api/blobs/uploads/\
    6f1c8a52-6f0e-4dbb-9d3c-0c5a1c8a2f11?_state=c29tZS1vcGFxdWUtc3RhdGU%3D HTTP/1.1\r\n\
    Host: c-harbor7.team.svc.cluster.local\r\n\
    User-Agent: buildkit/v0.24\r\n\
    Content-Type: application/octet-stream\r\n\
    Authorization: Basic cG9kOmV5SmhiR2NpT2lKU1V6STFOaUo5LmV5SnBjM01pT2\
    lKcmRXSmxjbTVsZEdWekluMC5zaWc=\r\n\
    Transfer-Encoding: chunked\r\n\
    Accept-Encoding: gzip\r\n\r\n";
/// What the registry answers it.
const ACCEPTED: &[u8] = b"HTTP/1.1 202 Accepted\r\n\
    Server: nginx\r\n\
    Date: Mon, 23 Nov 2026 20:00:00 GMT\r\n\
    Content-Length: 0\r\n\
    Docker-Distribution-Api-Version: registry/2.0\r\n\
    Docker-Upload-Uuid: 6f1c8a52-6f0e-4dbb-9d3c-0c5a1c8a2f11\r\n\
    Location: https://harbor.example.com/v2/app/api/blobs/uploads/\
    6f1c8a52-6f0e-4dbb-9d3c-0c5a1c8a2f11?_state=bmV4dC1vcGFxdWUtc3RhdGU%3D\r\n\
    Range: 0-1048575\r\n\
    Set-Cookie: sid=0123456789abcdef; Path=/; HttpOnly\r\n\
    X-Request-Id: 0b0c4bb2\r\n\r\n";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_stage_takes_its_own_input() {
        for stage in STAGES {
            assert_eq!(repeat(stage, 3), Ok(()), "{stage}");
        }
        assert!(repeat("other", 1).is_err());
    }
}
