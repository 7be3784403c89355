//! What must hold for any input: one function per pure module, each panicking where it does not.
//!
//! Bytes in, out whether they got all the way. The fuzz targets in `tests/fuzz` and the seeded
//! tests of the modules call these; the program never does (feature `fuzzing`, off by default).

mod forward;

use std::sync::Arc;
use std::time::Duration;

use self::forward::check_origin;
pub use self::forward::forward;
use crate::body::{self, Decoder, Framing, Step};
use crate::follow::Place;
use crate::limits::Limits;
use crate::login::Presented;
use crate::parse::{self, Fields};
use crate::rewrite::{self, Mount, Outbound, Reply};
use crate::route::Routed;
use crate::snapshot::Served;
use crate::target::{self, Form, Resource, Target};
use crate::vocabulary::{
    Access, ApiPolicy, Connector, ConnectorRef, Credential, Origin, RedirectPolicy, Redirects,
    Scheme, Secret, Trust,
};

/// Numbers that look random and follow from their seed (xorshift64*).
#[derive(Debug)]
pub struct Dice(u64);

impl Dice {
    /// Dice that fall the same way for the same `seed`.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }

    /// A number below `bound`, which is not 0.
    pub fn below(&mut self, bound: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        let high = self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 33;
        usize::try_from(high).unwrap_or_default() % bound.max(1)
    }

    /// One of `choices`.
    pub fn pick<'a>(&mut self, choices: &[&'a str]) -> &'a str {
        choices.get(self.below(choices.len())).copied().unwrap_or_default()
    }
}

/// Bounds to test under: those of heads are as settled, the others do not matter here.
pub fn limits() -> Limits {
    let wait = Duration::from_secs(1);
    Limits {
        head_bytes_max: 64 * 1024,
        head_fields_max: 128,
        target_bytes_max: 8 * 1024,
        head_wait: wait,
        idle_caller_wait: wait,
        body_progress_wait: wait,
        upload_answer_wait: wait,
        answer_wait: wait,
        connect_wait: wait,
        connect_total_wait: wait,
        handshake_wait: wait,
        hello_bytes_max: 64 * 1024,
        certificate_wait: wait,
        certificates_max: 8,
        listed_connectors_max: 16,
        interception_age_max: wait,
        tunnel_idle_wait: wait,
        resolve_wait: wait,
        resolve_age_max: wait,
        resolve_stale_max: wait,
        idle_registry_wait: wait,
        idle_registry_max: 1,
        surplus_registry_wait: wait,
        burst_registry_max: 1,
        linger_wait: wait,
        linger_bytes_max: 1,
        manifest_bytes_max: 8 * 1024 * 1024,
        error_body_bytes_max: 64 * 1024,
        accounts_bytes_max: 1024 * 1024,
        interim_answers_max: 32,
        connections_max: 1,
        token_bytes_max: 64 * 1024,
        verdict_age_max: wait,
        denial_age_max: wait,
        rejection_age_max: wait,
        verdicts_max: 1,
        verdict_wait: wait,
        login_wait: wait,
        registry_tokens_max: 8,
        body_buffer_bytes: 64 * 1024,
        splice_bytes_min: 64 * 1024,
        pipe_bytes: 1024 * 1024,
        pipe_bytes_per_core: 4 * 1024 * 1024,
        long_transfer_bytes: 1,
    }
}

/// The connector `reference` in front of `https://harbor.example.com`, with a credential.
pub fn connector(reference: ConnectorRef) -> Connector {
    let host = |host: &str| Origin { scheme: Scheme::Https, host: host.into(), port: 443 };
    Connector {
        reference,
        uid: "u1".into(),
        origin: host("harbor.example.com"),
        base_path: "".into(),
        aliases: vec![host("registry.example.com")],
        access: Access::Credential(Arc::new(Credential {
            authorization: Secret::new(CREDENTIAL.to_vec()),
            version: "1".into(),
        })),
        trust: Arc::new(Trust { id: 0, anchors: Vec::new() }),
        api: ApiPolicy::Full,
        redirects: Redirects { policy: RedirectPolicy::Pass, hosts: Vec::new() },
        token_hosts: Vec::new(),
    }
}

/// The credential of [`connector`].
pub const CREDENTIAL: &[u8] = b"Basic cm9ib3Q6czNjcmV0";

/// Heads: what is taken is taken whole, wherever the input was cut, and has no line breaks inside.
pub fn parse(bytes: &[u8]) {
    let limits = limits();
    if let Ok(Some((head, length))) = parse::request(bytes, &limits) {
        assert!(length <= bytes.len() && length <= limits.head_bytes_max + 2);
        assert!(head.target().bytes().all(|byte| byte.is_ascii_graphic()));
        assert!(!head.target().is_empty() && head.target().len() <= limits.target_bytes_max);
        assert!(!head.host().contains(['@', '/', ' ', '%']));
        check_fields(&head.fields);
        for cut in [length - 1, length / 2, length / 3] {
            let front = bytes.get(..cut).unwrap_or_default();
            assert!(matches!(parse::request(front, &limits), Ok(None)), "cut at {cut}");
        }
    }
    if let Ok(Some((head, length))) = parse::response(bytes, &limits) {
        assert!(length <= bytes.len() && length <= limits.head_bytes_max);
        assert!((100..=599).contains(&head.status));
        assert!(!head.reason().contains(['\r', '\n', '\0']));
        check_fields(&head.fields);
    }
}

fn check_fields(fields: &Fields) {
    for (name, value) in fields.iter() {
        assert!(!name.is_empty() && !name.iter().any(|byte| b": \r\n\0".contains(byte)));
        assert!(!value.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        assert_eq!(value, value.trim_ascii());
    }
}

/// Bodies: the payload and the end are the same however the input is cut. The first byte chooses
/// the framing, the second how the rest is cut.
pub fn body(bytes: &[u8]) {
    let Some(([kind, seed], input)) = bytes.split_first_chunk::<2>() else {
        return;
    };
    let framing = match kind % 4 {
        0 => Framing::Length(u64::from(*seed)),
        1 => Framing::UntilClose,
        2 => Framing::None,
        _ => Framing::Chunked,
    };
    let whole = decode(framing, input, &mut |left| left);
    let mut dice = Dice::new(u64::from(*seed));
    let pieces = decode(framing, input, &mut |left| 1 + dice.below(left.min(9)));
    assert_eq!(whole, pieces);
    let bytes = decode(framing, input, &mut |_| 1);
    assert_eq!(whole, bytes);
    assert!(whole.0.len() <= input.len());
}

/// The payload of `input` and how it ended, shown to the decoder in pieces that `cut` chooses.
fn decode(
    framing: Framing,
    input: &[u8],
    cut: &mut dyn FnMut(usize) -> usize,
) -> (Vec<u8>, Result<usize, &'static str>) {
    let mut decoder = Decoder::new(framing);
    let (mut payload, mut seen, mut shown) = (Vec::new(), 0, 0);
    loop {
        let front = input.get(seen..shown).unwrap_or_default();
        match decoder.step(front) {
            Err(why) => return (payload, Err(why)),
            Ok(Step::End) => {
                assert!(decoder.is_done());
                return (payload, Ok(seen));
            }
            Ok(Step::Skip(count)) => seen += count,
            Ok(Step::Payload(count)) => {
                assert!(count > 0);
                payload.extend_from_slice(front.get(..count).unwrap_or_default());
                seen += count;
            }
            Ok(Step::More) if shown == input.len() => {
                return (payload, decoder.end_of_stream().map(|()| seen));
            }
            Ok(Step::More) => {
                assert!(seen == shown, "the decoder keeps no bytes");
                shown += cut(input.len() - shown).clamp(1, input.len() - shown);
            }
        }
        assert!(seen <= shown);
    }
}

/// Targets: what is taken has a path that no registry normalises into another.
pub fn target(bytes: &[u8]) -> bool {
    let limits = limits();
    let Ok(Some((head, _))) = parse::request(bytes, &limits) else {
        return false;
    };
    let Ok(target) = target::of(&head, "cluster.local", &limits) else {
        return false;
    };
    if let Some(origin) = target.origin() {
        check_origin(origin);
        // What CONNECT leads to is said inside, and what is foreign goes nowhere.
        if matches!(target.resource(), Resource::Tunnel | Resource::Foreign(_)) {
            return true;
        }
    }
    check_path(&target);
    let forward = target.form() == Form::Forward;
    assert_eq!(target.connector().is_none(), forward || *target.resource() == Resource::Ping);
    let path = head.target().split('?').next().unwrap_or_default();
    let rest = target.rest().strip_prefix("/v2/").unwrap_or(target.rest());
    assert!(path.ends_with(rest), "the rest is byte for byte the caller's");
    assert!(target.rest().contains(target.repository()));
    assert!(target.rest().ends_with(target.asked().reference()));
    true
}

fn check_path(target: &Target) {
    let rest = target.rest();
    let begins = ["/v2/", "/api/v2.0/"].iter().any(|root| rest.starts_with(root));
    assert!(begins || matches!(rest, "/v2" | "/service/token"), "{rest}");
    assert!(!rest.split('/').any(|segment| matches!(segment, "." | "..")), "{rest}");
    assert!(!rest.contains("//") && !rest.contains("%2e") && !rest.contains("%2f"), "{rest}");
}

/// Rewrites: a request, a NUL byte and an answer. What leaves for the registry carries its
/// credential and nothing of the caller's identity; what comes back leads nowhere else.
pub fn rewrite(bytes: &[u8]) -> bool {
    let limits = limits();
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (asked, answered) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let Ok(Some((head, _))) = parse::request(asked, &limits) else {
        return false;
    };
    let Ok(target) = target::of(&head, "cluster.local", &limits) else {
        return false;
    };
    let Ok(framing) = body::of_request(&head) else {
        return false;
    };
    let mut target = target;
    let goes_on = !matches!(target.resource(), Resource::Tunnel | Resource::Foreign(_));
    if target.form() == Form::Forward && goes_on {
        target.serve_by(ConnectorRef::new("ci", "h"));
    }
    let Some(reference) = target.connector().cloned() else {
        return false;
    };
    let routed = Routed::new(head, target, framing, Served::of(connector(reference)), 1);
    let presented = Presented::own(&routed.connector.access);
    let Ok(outbound) =
        presented.and_then(|presented| rewrite::request(&routed, &presented, Mount::Keep, "id-1"))
    else {
        return false;
    };
    check_outbound(&routed, &outbound);
    check_answer(&routed, &outbound, answered)
}

fn check_outbound(routed: &Routed, outbound: &Outbound) {
    let parsed = parse::request(&outbound.head, &wide());
    assert!(matches!(parsed, Ok(Some(_))), "our own head is not one");
    let Ok(Some((sent, length))) = parsed else { return };
    assert_eq!(length, outbound.head.len());
    assert_eq!(sent.method, routed.head.method);
    assert_eq!(sent.host(), "harbor.example.com");
    assert_eq!(sent.target().split('?').next(), Some(routed.target.rest()));
    assert!(sent.fields.all("authorization").eq([CREDENTIAL]));
    for gone in ["cookie", "connection", "te", "expect", "forwarded", "x-forwarded-host"] {
        assert!(sent.fields.get(gone).is_none(), "{gone}");
    }
    let framing = match routed.framing {
        Framing::None if sent.fields.get("content-length").is_some() => Framing::Length(0),
        framing => framing,
    };
    assert_eq!(body::of_request(&sent), Ok(framing));
    let query = sent.target().split_once('?').map(|(_, query)| query).unwrap_or_default();
    if *routed.target.resource() != Resource::Api {
        assert!(!query.split('&').any(|pair| pair.starts_with("ns=")));
        let from = query.split('&').find_map(|pair| pair.strip_prefix("from="));
        assert!(from.is_none_or(|from| target::name::is_repository(&from.replace("%2F", "/"))));
    }
}

fn check_answer(routed: &Routed, outbound: &Outbound, answered: &[u8]) -> bool {
    let Ok(Some((head, _))) = parse::response(answered, &limits()) else {
        return false;
    };
    let method = routed.head.method;
    let Ok(framing) = body::of_response(method, &head) else {
        return false;
    };
    let version = routed.head.version;
    let reply = rewrite::response(&head, framing, &outbound.return_path, true, version);
    let Ok(Reply::Relay(answer)) = reply else {
        return false;
    };
    let parsed = parse::response(&answer.head, &wide());
    assert!(matches!(parsed, Ok(Some(_))), "our own head is not one");
    let Ok(Some((sent, length))) = parsed else { return false };
    assert_eq!(length, answer.head.len());
    assert_eq!((sent.status, answer.status), (head.status, head.status));
    for gone in ["set-cookie", "www-authenticate", "alt-svc", "strict-transport-security"] {
        assert!(sent.fields.get(gone).is_none(), "{gone}");
    }
    let redirects =
        (300..400).contains(&head.status) && routed.target.asked().reference().contains(':');
    for location in sent.fields.all("location") {
        let stays = location.starts_with(b"/") && !location.starts_with(b"//");
        assert!(stays || redirects, "{}", String::from_utf8_lossy(location));
    }
    for link in sent.fields.all("link") {
        assert!(!String::from_utf8_lossy(link).contains("<h"), "a Link leads elsewhere");
    }
    let delimited = match (framing, version) {
        (Framing::Chunked, parse::Version::Http10) => Framing::UntilClose,
        (framing, _) => framing,
    };
    assert_eq!(body::of_response(method, &sent), Ok(delimited));
    assert_eq!(sent.keep_alive(), delimited != Framing::UntilClose);
    true
}

/// Accounts: what is taken keeps its length and loses nothing but the insides of strings, and what
/// was masked once has no more to mask.
pub fn mask(bytes: &[u8]) -> bool {
    let mut masked = bytes.to_vec();
    if rewrite::mask::user_secrets(&mut masked).is_err() {
        return false;
    }
    let mut changed = bytes.iter().zip(&masked).filter(|(was, is)| was != is);
    assert!(changed.all(|(was, is)| *is == b'*' && *was >= b' '));
    assert_eq!(masked.len(), bytes.len());
    let mut again = masked.clone();
    assert!(rewrite::mask::user_secrets(&mut again).is_ok() && again == masked);
    true
}

/// Redirections: a place has one host, which no parser reads as another, and a target that ends
/// where its line does.
pub fn redirect(bytes: &[u8]) -> bool {
    let base = Origin { scheme: Scheme::Https, host: "harbor.example.com".into(), port: 443 };
    let Some(place) = Place::of(bytes, &base) else {
        return false;
    };
    let (origin, target) = (place.origin(), place.target());
    assert!(target.starts_with('/') && target.bytes().all(|byte| byte.is_ascii_graphic()));
    assert!(origin.port > 0 && !origin.host.is_empty());
    assert!(
        !origin.host.bytes().any(|byte| byte.is_ascii_uppercase() || b"@/\\%[]".contains(&byte))
    );
    // Written out and read again, it is the same place; from another base as well.
    let written = format!("{origin}{target}");
    let elsewhere = Origin { scheme: Scheme::Http, host: "other".into(), port: 80 };
    let again = Place::of(written.as_bytes(), &elsewhere).map(|place| {
        assert_eq!(place.target(), target);
        place.into_origin()
    });
    assert_eq!(again.as_ref(), Some(origin));
    let is_number = |label: &str| label.bytes().all(|byte| byte.is_ascii_digit());
    if origin.host.rsplit('.').next().is_some_and(is_number) && !origin.host.contains(':') {
        assert!(origin.host.parse::<std::net::Ipv4Addr>().is_ok(), "{}", origin.host);
    }
    true
}

/// Bounds for a head of ours, which may be a little longer than the one that it was made of.
fn wide() -> Limits {
    let limits = limits();
    Limits {
        head_bytes_max: limits.head_bytes_max * 2,
        head_fields_max: limits.head_fields_max * 2,
        target_bytes_max: limits.target_bytes_max * 2,
        ..limits
    }
}
