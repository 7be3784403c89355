//! The object storage that blobs are redirected to: another listener, pre-signed URLs, no accounts.
//!
//! Blobs' names in, signed URLs out; signed requests in, blobs out. Like S3 it refuses a signed URL
//! that comes with an Authorization as well, so a caller that carries a credential across hosts is
//! found out, and it refuses a URL that has expired or was signed for another method.

use base64::prelude::{BASE64_URL_SAFE_NO_PAD, Engine};
use ring::hmac;
use ring::rand::SystemRandom;

use super::blobs;
use super::http::{Head, Reply};
use super::store::Store;

/// What signs the URLs and checks them.
pub(crate) struct Storage {
    /// Scheme, host and port, without a slash at the end.
    base: String,
    key: hmac::Key,
}

impl Storage {
    /// A storage that is reached under `base`.
    ///
    /// # Errors
    /// When the system has no randomness.
    pub(crate) fn new(base: &str) -> Result<Self, ring::error::Unspecified> {
        Ok(Self {
            base: base.trim_end_matches('/').to_owned(),
            key: hmac::Key::generate(hmac::HMAC_SHA256, &SystemRandom::new())?,
        })
    }

    /// Sends a GET or HEAD of a blob to its place in the storage.
    pub(crate) fn redirect(&self, method: &str, name: &str, digest: &str, now: u64) -> Reply {
        let path = format!("{BUCKET}{name}/{digest}");
        let expires = now + LIFETIME_SECONDS;
        let signature = self.signature(method, &path, expires);
        let url = format!("{}{path}?expires={expires}&signature={signature}", self.base);
        Reply::empty(307).with("Location", url)
    }

    fn signature(&self, method: &str, path: &str, expires: u64) -> String {
        let signed = format!("{method}\n{path}\n{expires}");
        BASE64_URL_SAFE_NO_PAD.encode(hmac::sign(&self.key, signed.as_bytes()))
    }

    /// Answers a request to the storage.
    pub(crate) fn answer(&self, store: &Store, head: &Head, now: u64) -> Reply {
        match self.asked(head, now) {
            Ok((name, digest)) => match store.blob(name, digest) {
                Some(blob) => blobs::content(head, blob, digest),
                None => refusal(404, "NoSuchKey"),
            },
            Err(reply) => reply,
        }
    }

    /// The repository and digest that a properly signed request asks for.
    fn asked<'a>(&self, head: &'a Head, now: u64) -> Result<(&'a str, &'a str), Reply> {
        if head.fields.first("authorization").is_some() {
            return Err(refusal(400, "InvalidArgument"));
        }
        if !matches!(head.method.as_str(), "GET" | "HEAD") {
            return Err(refusal(405, "MethodNotAllowed"));
        }
        let denied = || refusal(403, "AccessDenied");
        let expires = head.parameter("expires").and_then(|text| text.parse::<u64>().ok());
        let expires = expires.filter(|expires| now <= *expires).ok_or_else(denied)?;
        let shown = head.parameter("signature").unwrap_or_default();
        let shown = BASE64_URL_SAFE_NO_PAD.decode(shown).map_err(|_| denied())?;
        let signed = format!("{}\n{}\n{expires}", head.method, head.path);
        hmac::verify(&self.key, signed.as_bytes(), &shown).map_err(|_| denied())?;
        let key = head.path.strip_prefix(BUCKET).and_then(|rest| rest.rsplit_once('/'));
        key.ok_or_else(denied)
    }
}

/// A refusal in S3's form, XML.
fn refusal(status: u16, code: &str) -> Reply {
    let body = format!("<?xml version=\"1.0\"?>\n<Error><Code>{code}</Code></Error>\n");
    Reply::bytes(status, "application/xml", body.into_bytes())
}

const BUCKET: &str = "/blobs/";
/// As long as docker/distribution signs for.
const LIFETIME_SECONDS: u64 = 20 * 60;
