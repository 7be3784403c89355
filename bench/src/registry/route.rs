//! What a path of the distribution API names.
//!
//! A decoded path in, a [`Route`] out; pure. Source: OCI distribution 1.1, "Endpoints".

/// One endpoint and the names in it.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Route<'a> {
    /// Harbor's own sign of life, `/api/v2.0/ping`.
    Ping,
    /// `/v2/`.
    Base,
    /// `/v2/_catalog`.
    Catalog,
    /// A repository's tags.
    Tags(&'a str),
    /// A manifest: repository, tag or digest.
    Manifest(&'a str, &'a str),
    /// A blob: repository, digest.
    Blob(&'a str, &'a str),
    /// Where uploads into a repository begin.
    Uploads(&'a str),
    /// An upload under way: repository, identifier.
    Upload(&'a str, &'a str),
    /// What refers to a manifest: repository, digest.
    Referrers(&'a str, &'a str),
    /// An endpoint of a repository whose name breaks the grammar.
    BadName,
    /// Nothing that this registry knows.
    Unknown,
}

impl<'a> Route<'a> {
    /// The endpoint that `path` names. Names may themselves hold `manifests` or `blobs`, so the
    /// path is read from its end.
    pub(crate) fn of(path: &'a str) -> Self {
        if path == "/api/v2.0/ping" {
            return Self::Ping;
        }
        let Some(rest) = path.strip_prefix("/v2/") else {
            return Self::Unknown;
        };
        if let "" | "_catalog" = rest {
            return if rest.is_empty() { Self::Base } else { Self::Catalog };
        }
        let Some((before, last)) = rest.rsplit_once('/') else {
            return Self::Unknown;
        };
        let Some((name, word)) = before.rsplit_once('/') else {
            return Self::Unknown;
        };
        let blobs = name.strip_suffix("/blobs");
        let (name, route) = match (word, blobs) {
            ("uploads", Some(name)) if last.is_empty() => (name, Self::Uploads(name)),
            ("uploads", Some(name)) => (name, Self::Upload(name, last)),
            ("tags", _) if last == "list" => (name, Self::Tags(name)),
            ("manifests", _) => (name, Self::Manifest(name, last)),
            ("blobs", _) if last == "uploads" => (name, Self::Uploads(name)),
            ("blobs", _) => (name, Self::Blob(name, last)),
            ("referrers", _) => (name, Self::Referrers(name, last)),
            _ => return Self::Unknown,
        };
        if is_name(name) { route } else { Self::BadName }
    }
}

/// Whether `text` is a repository's name by the specification's grammar.
pub(crate) fn is_name(text: &str) -> bool {
    text.len() <= 255 && text.split('/').all(is_component)
}

/// Runs of `a-z 0-9`, joined by one `.`, one or two `_`, or any number of `-`.
fn is_component(text: &str) -> bool {
    let plain = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    let known = text.chars().all(|c| plain(c) || matches!(c, '.' | '_' | '-'));
    let edged = text.starts_with(plain) && text.ends_with(plain);
    let mut joints = text.split(plain).filter(|joint| !joint.is_empty());
    let joined =
        |joint: &str| matches!(joint, "." | "_" | "__") || joint.bytes().all(|b| b == b'-');
    known && edged && joints.all(joined)
}

/// Whether `text` is a tag by the specification's grammar.
pub(crate) fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    (1..=128).contains(&text.len())
        && text.bytes().next().is_some_and(word)
        && text.bytes().all(|byte| word(byte) || matches!(byte, b'.' | b'-'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_path_is_read_from_its_end() {
        let check =
            |path: &str, expected: Route<'_>| assert_eq!(Route::of(path), expected, "{path}");
        check("/v2/", Route::Base);
        check("/v2", Route::Unknown);
        check("/v2/_catalog", Route::Catalog);
        check("/api/v2.0/ping", Route::Ping);
        check("/v2/a/tags/list", Route::Tags("a"));
        check("/v2/a/b/manifests/v1", Route::Manifest("a/b", "v1"));
        check("/v2/manifests/blobs/manifests/v1", Route::Manifest("manifests/blobs", "v1"));
        check("/v2/a/blobs/sha256:0", Route::Blob("a", "sha256:0"));
        check("/v2/a/blobs/uploads/", Route::Uploads("a"));
        check("/v2/a/blobs/uploads", Route::Uploads("a"));
        check("/v2/a/blobs/uploads/id", Route::Upload("a", "id"));
        check("/v2/a/referrers/sha256:0", Route::Referrers("a", "sha256:0"));
        check("/v2/a/../b/manifests/v1", Route::BadName);
        check("/v2/A/manifests/v1", Route::BadName);
        check("/v2/a/nothing", Route::Unknown);
    }

    #[test]
    fn names_and_tags_follow_the_grammar() {
        for good in ["a", "a/b", "a.b", "a_b", "a__b", "a---b", "0"] {
            assert!(is_name(good), "{good}");
        }
        for bad in ["", "/", "a/", "a..b", "a___b", "-a", "a-", "a._b", "a b"] {
            assert!(!is_name(bad), "{bad}");
        }
        assert!(is_tag("v1.0-rc_1") && !is_tag(".v1") && !is_tag("") && !is_tag(&"a".repeat(129)));
    }
}
