//! `spec.address`, read strictly: one text, one meaning, whoever reads it.
//!
//! A text in, an [`Origin`] and a base path out. What two parsers could take for different hosts is
//! refused rather than repaired: the credential goes to exactly this place.

use std::net::{Ipv4Addr, Ipv6Addr};

use dataplane::vocabulary::{Origin, Scheme};

/// Why an address is refused, and what to write instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[rustfmt::skip]
pub enum Refusal {
    /// Neither http nor https.
    #[error("is not an http or https URL: write one such as https://harbor.example.com")]
    Scheme,
    /// Bytes that a URL cannot have.
    #[error("has a space, a backslash, a control or non-ASCII character in it: write a host name in its ASCII form (xn--…)")]
    Character,
    /// `user:password@`.
    #[error("has a user or password in it: put them into the Secret")]
    Userinfo,
    /// `?…` or `#…`.
    #[error("has a query or fragment: remove it")]
    Query,
    /// Not a DNS name, dotted IPv4 address or bracketed IPv6 address.
    #[error("has a host that is no plain DNS name or IP address: write it in full, without a trailing dot")]
    Host,
    /// An IPv6 zone.
    #[error("has an IPv6 zone: write an address that every node can reach")]
    Zone,
    /// A bad port.
    #[error("has a port that is not a number from 1 to 65535 without leading zeros")]
    Port,
    /// A bad path.
    #[error("has a path with empty, dotted or percent-encoded parts: write it plainly, such as /prefix")]
    Path,
}

/// The origin of an address, and its path without a trailing slash (empty, or `/prefix`).
pub fn parse(address: &str) -> Result<(Origin, String), Refusal> {
    let (scheme, rest) = address.split_once("://").ok_or(Refusal::Scheme)?;
    let scheme = match scheme.to_ascii_lowercase().as_str() {
        "http" => Scheme::Http,
        "https" => Scheme::Https,
        _ => return Err(Refusal::Scheme),
    };
    if rest.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'\\') {
        return Err(Refusal::Character);
    }
    if rest.contains(['?', '#']) {
        return Err(Refusal::Query);
    }
    let (authority, path) = match rest.split_once('/') {
        Some((authority, path)) => (authority, path),
        None => (rest, ""),
    };
    if authority.contains('@') {
        return Err(Refusal::Userinfo);
    }
    let (host, port) = host_and_port(authority)?;
    let port = match port {
        Some(port) => number(port)?,
        None => scheme.default_port(),
    };
    Ok((Origin { scheme, host: host.into(), port }, base_path(path)?))
}

/// A host alone, with a port or without one, in the form that [`Origin`] has it.
pub fn host(text: &str) -> Result<(String, Option<u16>), Refusal> {
    if text.bytes().any(|byte| !byte.is_ascii_graphic() || byte == b'\\') {
        return Err(Refusal::Character);
    }
    let (host, port) = host_and_port(text)?;
    Ok((host, port.map(number).transpose()?))
}

/// What of an address may be shown in a message: nothing, if a user, password or query may be in
/// it.
pub(super) fn shown(address: &str) -> &str {
    if address.contains(['@', '?', '#']) { "" } else { address }
}

/// Splits the authority, and brings the host into its one form.
fn host_and_port(authority: &str) -> Result<(String, Option<&str>), Refusal> {
    let Some(bracketed) = authority.strip_prefix('[') else {
        let (host, port) = match authority.split_once(':') {
            Some((host, port)) => (host, Some(port)),
            None => (authority, None),
        };
        return Ok((plain_host(host)?, port));
    };
    let (host, rest) = bracketed.split_once(']').ok_or(Refusal::Host)?;
    if host.contains('%') {
        return Err(Refusal::Zone);
    }
    let host: Ipv6Addr = host.parse().map_err(|_| Refusal::Host)?;
    let port = match rest.strip_prefix(':') {
        Some(port) => Some(port),
        None if rest.is_empty() => None,
        None => return Err(Refusal::Host),
    };
    Ok((host.to_string(), port))
}

/// A DNS name in lower case, or a dotted IPv4 address.
fn plain_host(host: &str) -> Result<String, Refusal> {
    let host = host.to_ascii_lowercase();
    // What ends in a number is an IPv4 address to some parsers, in forms such as 0x7f.1 or
    // 2130706433 (WHATWG URL, "ends in a number"): only the form that all read alike may stand.
    let last = host.rsplit('.').next().unwrap_or_default();
    let hexadecimal = last
        .strip_prefix("0x")
        .is_some_and(|digits| digits.bytes().all(|byte| byte.is_ascii_hexdigit()));
    if hexadecimal || (!last.is_empty() && last.bytes().all(|byte| byte.is_ascii_digit())) {
        let address: Ipv4Addr = host.parse().map_err(|_| Refusal::Host)?;
        return Ok(address.to_string());
    }
    let labels_good = host.split('.').all(dataplane::vocabulary::is_dns_label);
    if host.len() > HOST_BYTES_MAX || !labels_good {
        return Err(Refusal::Host);
    }
    Ok(host)
}

fn number(port: &str) -> Result<u16, Refusal> {
    let digits = !port.is_empty() && port.bytes().all(|byte| byte.is_ascii_digit());
    if !digits || port.starts_with('0') {
        return Err(Refusal::Port);
    }
    port.parse().map_err(|_| Refusal::Port)
}

/// The path after the first slash, without a trailing slash, as a base path.
fn base_path(path: &str) -> Result<String, Refusal> {
    if path.is_empty() {
        return Ok(String::new());
    }
    let path = path.strip_suffix('/').unwrap_or(path);
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || b"-._~!$&'()*+,;=:@".contains(&byte);
    for segment in path.split('/') {
        if matches!(segment, "" | "." | "..") || !segment.bytes().all(plain) {
            return Err(Refusal::Path);
        }
    }
    Ok(format!("/{path}"))
}

/// The length of a DNS name (RFC 1035 §2.3.4, as text without the trailing dot).
const HOST_BYTES_MAX: usize = 253;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_addresses_have_one_meaning() {
        for (address, expected) in [
            ("https://harbor.example.com", "https://harbor.example.com"),
            ("HTTPS://Harbor.Example.COM/", "https://harbor.example.com"),
            ("http://harbor:8080/prefix/", "http://harbor:8080 /prefix"),
            ("https://h.example:443/a/b", "https://h.example /a/b"),
            ("http://127.0.0.1:5000", "http://127.0.0.1:5000"),
            ("http://[FD00:0::1]:81", "http://[fd00::1]:81"),
            ("https://[::1]", "https://[::1]"),
            ("https://xn--bcher-kva.example", "https://xn--bcher-kva.example"),
        ] {
            let (origin, path) = parse(address).unwrap_or_else(|why| panic!("{address}: {why}"));
            assert_eq!(format!("{origin} {path}").trim_end(), expected, "{address}");
        }
    }

    #[test]
    fn what_could_be_read_in_two_ways_is_refused() {
        for (address, why) in [
            ("", Refusal::Scheme),
            ("harbor.example.com", Refusal::Scheme),
            ("file:///etc/passwd", Refusal::Scheme),
            ("ftp://h", Refusal::Scheme),
            ("https:/h", Refusal::Scheme),
            ("https://", Refusal::Host),
            ("https:///path", Refusal::Host),
            ("https://user:pass@h", Refusal::Userinfo),
            ("https://user@h", Refusal::Userinfo),
            ("https://h?x", Refusal::Query),
            ("https://h/#x", Refusal::Query),
            ("https://h:0", Refusal::Port),
            ("https://h:", Refusal::Port),
            ("https://h:65536", Refusal::Port),
            ("https://h:080", Refusal::Port),
            ("https://h:+80", Refusal::Port),
            ("https://h:80:80", Refusal::Port),
            ("https://h.", Refusal::Host),
            ("https://h..example", Refusal::Host),
            ("https://-h", Refusal::Host),
            ("https://h_x", Refusal::Host),
            ("https://h%2e", Refusal::Host),
            ("https://bücher.example", Refusal::Character),
            ("https://h\\@evil", Refusal::Character),
            ("https://h\r\nx", Refusal::Character),
            ("https://h /", Refusal::Character),
            ("http://0x7f.1", Refusal::Host),
            ("http://0x7f000001", Refusal::Host),
            ("http://127.1", Refusal::Host),
            ("http://2130706433", Refusal::Host),
            ("http://0177.0.0.1", Refusal::Host),
            ("http://1.2.3.4.5", Refusal::Host),
            ("http://256.1.1.1", Refusal::Host),
            ("https://[fe80::1%25eth0]", Refusal::Zone),
            ("https://[fe80::1%eth0]", Refusal::Zone),
            ("https://[::1", Refusal::Host),
            ("https://[::1]x", Refusal::Host),
            ("https://[h]", Refusal::Host),
            ("https://fe80::1", Refusal::Port),
            ("https://h/a//b", Refusal::Path),
            ("https://h//", Refusal::Path),
            ("https://h/../a", Refusal::Path),
            ("https://h/./a", Refusal::Path),
            ("https://h/a%2fb", Refusal::Path),
        ] {
            assert_eq!(parse(address).map(|(origin, _)| origin), Err(why), "{address}");
        }
        let long = format!("https://{}", vec!["a".repeat(60); 5].join("."));
        assert_eq!(parse(&long).map(|(origin, _)| origin), Err(Refusal::Host));
    }
}
