//! What must hold for what callers of the forward proxy write.
//!
//! Like its parent: bytes in, out whether they got all the way, a panic where a rule is broken.

use crate::authorise::listed;
use crate::target;
use crate::vocabulary::{Origin, Scheme, is_dns_label};

/// A host has one form, and it is read back as itself.
pub(super) fn check_origin(origin: &Origin) {
    assert!(origin.port > 0 && !origin.host.is_empty() && !origin.host.ends_with('.'));
    assert!(
        !origin.host.bytes().any(|byte| byte.is_ascii_uppercase() || b"@/%[] ".contains(&byte))
    );
    let again = target::forward::authority(&origin.to_host_and_port());
    assert_eq!(again, Some((origin.host.clone(), Some(origin.port))));
}

/// What callers of the forward proxy write: the value of `Proxy-Authorization`, a NUL byte and an
/// authority.
pub fn forward(bytes: &[u8]) -> bool {
    let mut parts = bytes.splitn(2, |byte| *byte == 0);
    let (value, text) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
    let limits = super::limits();
    let listed = listed::parse(value, &limits);
    if let Ok((listed, token)) = &listed {
        assert!((1..=limits.listed_connectors_max).contains(&listed.len()));
        assert!((1..=limits.token_bytes_max).contains(&token.as_bytes().len()));
        for one in listed {
            assert!(is_dns_label(one.namespace()) && is_dns_label(one.name()), "{one}");
            assert_eq!(listed.iter().filter(|other| *other == one).count(), 1, "{one}");
        }
    }
    let found = str::from_utf8(text).ok().and_then(target::forward::authority);
    if let Some((host, port)) = &found {
        let port = port.unwrap_or(443);
        check_origin(&Origin { scheme: Scheme::Https, host: host.clone(), port });
    }
    listed.is_ok() || found.is_some()
}
