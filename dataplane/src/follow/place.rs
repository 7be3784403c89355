//! Where a redirection leads, read strictly: one text, one meaning, whoever reads it.
//!
//! A `Location` and the origin it came from in, an origin and a request-target out; no I/O. What
//! two parsers could take for different hosts is refused: user information, numbers in odd forms,
//! backslashes, anything that is not printable ASCII.

use std::net::{Ipv4Addr, Ipv6Addr};

use crate::rewrite::location::{is_reference_byte, scheme_of, split_authority};
use crate::vocabulary::Origin;

/// A place that a redirection leads to. It has no `Debug`: its target may be a pre-signed URL's.
pub(crate) struct Place {
    origin: Origin,
    target: Box<str>,
}

impl Place {
    /// The place that `reference` means in an answer of `base`: an http or https URL, or a path of
    /// `base` itself. `None` for everything else.
    pub(crate) fn of(reference: &[u8], base: &Origin) -> Option<Self> {
        let text = str::from_utf8(reference).ok()?;
        if !text.bytes().all(is_reference_byte) {
            return None;
        }
        if text.starts_with('/') {
            // Two slashes would begin an authority.
            let is_path = !text.starts_with("//");
            return is_path.then(|| Self { origin: base.clone(), target: text.into() });
        }
        let (scheme, rest) = text.split_once("://")?;
        let scheme = scheme_of(scheme)?;
        let (authority, rest) = rest.split_at(rest.find(['/', '?']).unwrap_or(rest.len()));
        let (host, port) = split_authority(authority)?;
        let port = port.unwrap_or(scheme.default_port());
        let origin = Origin { scheme, host: host_of(host)?, port };
        let slash = if rest.starts_with('/') { "" } else { "/" };
        Some(Self { origin, target: [slash, rest].concat().into_boxed_str() })
    }

    /// Where it is.
    pub(crate) fn origin(&self) -> &Origin {
        &self.origin
    }

    /// Where it is, when nothing more is wanted of it.
    pub(crate) fn into_origin(self) -> Origin {
        self.origin
    }

    /// Its path and query, as written.
    pub(crate) fn target(&self) -> &str {
        &self.target
    }
}

/// A host in its one form; see [`Origin::host`].
fn host_of(host: &str) -> Option<Box<str>> {
    if host.contains(':') {
        return host.parse::<Ipv6Addr>().ok().map(|address| address.to_string().into());
    }
    let host = host.strip_suffix('.').unwrap_or(host).to_ascii_lowercase();
    // What ends in a number is an IPv4 address to some parsers, in forms such as 0x7f.1 or
    // 2130706433 (WHATWG URL, "ends in a number"): only the form that all read alike may stand.
    let last = host.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last
        .strip_prefix("0x")
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if hexadecimal || last.bytes().all(|byte| byte.is_ascii_digit()) {
        return host.parse::<Ipv4Addr>().ok().map(|address| address.to_string().into());
    }
    let is_label = |label: &str| {
        // Buckets' names stand in hosts, and some have an underscore.
        let inner = |byte: u8| byte.is_ascii_alphanumeric() || b"-_".contains(&byte);
        (1..=LABEL_BYTES_MAX).contains(&label.len())
            && label.bytes().all(inner)
            && !label.starts_with('-')
            && !label.ends_with('-')
    };
    let good = host.len() <= HOST_BYTES_MAX && host.split('.').all(is_label);
    good.then(|| host.into_boxed_str())
}

/// A DNS name's length, and that of its labels (RFC 1035 §2.3.4).
const HOST_BYTES_MAX: usize = 253;
const LABEL_BYTES_MAX: usize = 63;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::{self, Dice};
    use crate::vocabulary::Scheme;

    fn base() -> Origin {
        Origin { scheme: Scheme::Https, host: "harbor.example.com".into(), port: 8443 }
    }

    #[test]
    fn good_references_have_one_meaning() {
        for (reference, expected) in [
            ("https://s3.example/b/k?X-Sig=a%2Fb", "https://s3.example /b/k?X-Sig=a%2Fb"),
            ("HTTPS://S3.Example.:9000", "https://s3.example:9000 /"),
            ("http://minio?x=/y", "http://minio /?x=/y"),
            ("https://bucket_1.s3.example/", "https://bucket_1.s3.example /"),
            ("https://10.0.0.7:443/a", "https://10.0.0.7 /a"),
            ("https://[FD00:0::1]:81/a", "https://[fd00::1]:81 /a"),
            ("https://[::0:1]/a", "https://[::1] /a"),
            ("/storage/a?b", "https://harbor.example.com:8443 /storage/a?b"),
        ] {
            let place = Place::of(reference.as_bytes(), &base()).expect(reference);
            assert_eq!(format!("{} {}", place.origin(), place.target()), expected);
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for reference in [
            "",
            "//evil/",
            "http:evil",
            "http:/evil",
            "https:///path",
            "ftp://h/",
            "file:///etc/passwd",
            "a/b",
            "../b",
            "?x",
            "https://",
            "https://user@h/",
            "https://user:pass@h/",
            "https://harbor.example.com@evil/",
            "https://harbor.example.com:80%40evil/",
            "https://h\\@evil/",
            "\\\\evil",
            "https://h/a b",
            "https://h/a\r\nX: y",
            "https://h/#f",
            "https://h/\u{fc}",
            "https://b\u{fc}cher.example/",
            "https://h:0/",
            "https://h:/",
            "https://h:080/",
            "https://h:+80/",
            "https://h:65536/",
            "https://h:80:80/",
            "https://[::1]:0/",
            "https://[::1]:080/",
            "https://[::1/",
            "https://[::1]x/",
            "https://[fe80::1%25eth0]/",
            "https://fe80::1/",
            "https://h..example/",
            "https://-h/",
            "https://./",
            "http://0x7f.1/",
            "http://0x7f000001/",
            "http://127.1/",
            "http://2130706433/",
            "http://0177.0.0.1/",
            "http://127.0.0.1.5/",
            "http://256.1.1.1/",
            "http://127.0.0.0x1/",
        ] {
            assert!(Place::of(reference.as_bytes(), &base()).is_none(), "{reference}");
        }
        let long = format!("https://{}/", vec!["a".repeat(60); 5].join("."));
        assert!(Place::of(long.as_bytes(), &base()).is_none());
    }

    #[test]
    fn any_place_that_is_taken_has_one_meaning() {
        let mut dice = Dice::new(7);
        let parts = [
            "http",
            "https",
            "://",
            ":",
            "/",
            "//",
            "@",
            "[",
            "]",
            "::1",
            "0x7f",
            "1",
            "127",
            ".",
            "a",
            "A",
            "-",
            "_",
            "?",
            "#",
            "%40",
            "\\",
            " ",
            "80",
            "0",
            "\u{e9}",
            "s3.example",
        ];
        let mut taken = 0;
        for _ in 0..50_000 {
            let reference: String = ["https://", "", "/"][dice.below(3)].to_owned()
                + &(0..dice.below(9)).map(|_| dice.pick(&parts)).collect::<String>();
            taken += usize::from(fuzzing::redirect(reference.as_bytes()));
        }
        assert!(taken > 1_000, "only {taken} were taken");
    }
}
