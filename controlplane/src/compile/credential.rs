//! A Secret of type `kubernetes.io/basic-auth` becomes the field value that the registry is sent.
//!
//! A Secret in, a [`Credential`] out. What could break out of the field, or is a classic slip, is
//! refused with a word about it; a value is never repaired and never printed.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use dataplane::vocabulary::{Credential, Secret};
use ring::digest;
use zeroize::Zeroizing;

use crate::source::SecretObject;

/// Why a Secret holds no usable credential.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[rustfmt::skip]
pub enum Defect {
    /// A Secret that could not even be decoded.
    #[error("cannot be decoded: mend the Secret first")]
    Undecoded,
    /// Another type.
    #[error("is not of type kubernetes.io/basic-auth: create it anew with that type")]
    Type,
    /// A key that is not there.
    #[error("has no key {0:?}: add it")]
    Missing(&'static str),
    /// A key without a value.
    #[error("has an empty {0}: fill it in")]
    Empty(&'static str),
    /// A value with a line end after it.
    #[error("has a line end after its {0}, as `echo … | base64` leaves one: encode it with `echo -n`, or use stringData")]
    LineEnd(&'static str),
    /// A value that cannot be sent.
    #[error("has a NUL or line end within its {0}, which cannot be sent: remove it")]
    Control(&'static str),
    /// A user name that Basic cannot carry (RFC 7617 §2).
    #[error("has a colon in its username, which Basic authentication cannot carry: use another account")]
    Colon,
    /// A value beyond all reason.
    #[error("has a {0} of more than 4 KiB: is it the right file?")]
    Large(&'static str),
}

/// The credential of a Secret.
pub(super) fn basic(secret: &SecretObject) -> Result<Credential, Defect> {
    if secret.defect.is_some() {
        return Err(Defect::Undecoded);
    }
    if secret.secret_type != "kubernetes.io/basic-auth" {
        return Err(Defect::Type);
    }
    let username = value(secret, "username")?;
    let password = value(secret, "password")?;
    if username.contains(&b':') {
        return Err(Defect::Colon);
    }
    // Every buffer has its full size from the start: one that grows leaves a copy behind.
    let mut pair = Zeroizing::new(Vec::with_capacity(username.len() + 1 + password.len()));
    pair.extend_from_slice(username);
    pair.push(b':');
    pair.extend_from_slice(password);
    let mut authorization = SCHEME.to_vec();
    authorization.resize(SCHEME.len() + pair.len().div_ceil(3) * 4, 0);
    let encoded = authorization.get_mut(SCHEME.len()..).unwrap_or_default();
    // The size was computed for exactly this input, so the encoding cannot fail.
    let _ = STANDARD.encode_slice(&*pair, encoded);
    let version = version(secret, &pair);
    Ok(Credential { authorization: Secret::new(authorization), version })
}

/// A value that can stand in a field.
fn value<'a>(secret: &'a SecretObject, key: &'static str) -> Result<&'a [u8], Defect> {
    let value = secret.values.get(key).ok_or(Defect::Missing(key))?.as_slice();
    if value.is_empty() {
        return Err(Defect::Empty(key));
    }
    if value.len() > VALUE_BYTES_MAX {
        return Err(Defect::Large(key));
    }
    let control = |byte: &u8| matches!(byte, b'\0' | b'\r' | b'\n');
    match value.iter().position(control) {
        None => Ok(value),
        Some(first) if value.iter().skip(first).all(|byte| matches!(byte, b'\r' | b'\n')) => {
            Err(Defect::LineEnd(key))
        }
        Some(_) => Err(Defect::Control(key)),
    }
}

/// A word that differs whenever the credential does. The resourceVersion alone would not do: a
/// manifest saved from a cluster keeps it while someone edits the password.
fn version(secret: &SecretObject, pair: &[u8]) -> Box<str> {
    let mut sum = digest::Context::new(&digest::SHA256);
    for part in [&secret.metadata.uid, &secret.metadata.resource_version] {
        let part = part.as_deref().unwrap_or_default();
        sum.update(part.as_bytes());
        sum.update(b"\0");
    }
    sum.update(pair);
    let hex = sum.finish().as_ref().iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    hex.into()
}

const SCHEME: &[u8] = b"Basic ";

/// One value of a Secret.
const VALUE_BYTES_MAX: usize = 4 << 10;

#[cfg(test)]
mod tests {
    use super::*;

    fn secret(username: &str, password: &str) -> SecretObject {
        let values = [("username", username), ("password", password)]
            .into_iter()
            .map(|(key, value)| (key.to_owned(), value.as_bytes().to_vec().into()))
            .collect();
        let secret_type = "kubernetes.io/basic-auth".to_owned();
        SecretObject { metadata: Default::default(), secret_type, values, defect: None }
    }

    #[test]
    fn the_field_value_is_that_of_rfc_7617() {
        let credential = basic(&secret("Aladdin", "open sesame")).unwrap();
        assert_eq!(credential.authorization.expose(), b"Basic QWxhZGRpbjpvcGVuIHNlc2FtZQ==");
        let credential = basic(&secret("robot$ci+push", "pä:ss")).unwrap();
        assert_eq!(credential.authorization.expose(), b"Basic cm9ib3QkY2krcHVzaDpww6Q6c3M=");
    }

    #[test]
    fn another_password_is_another_version() {
        let version = |password| basic(&secret("u", password)).unwrap().version;
        assert_eq!(version("a"), version("a"));
        assert_ne!(version("a"), version("b"));
    }

    #[test]
    fn what_cannot_stand_in_a_field_is_refused() {
        let large = "x".repeat(VALUE_BYTES_MAX + 1);
        for (username, password, why) in [
            ("", "p", Defect::Empty("username")),
            ("u", "", Defect::Empty("password")),
            ("u\n", "p", Defect::LineEnd("username")),
            ("u", "p\r\n", Defect::LineEnd("password")),
            ("u", "p\nX-Evil: 1", Defect::Control("password")),
            ("u\0", "p", Defect::Control("username")),
            ("u:v", "p", Defect::Colon),
            ("u", &large, Defect::Large("password")),
        ] {
            assert_eq!(basic(&secret(username, password)).err(), Some(why));
        }
    }

    #[test]
    fn a_secret_without_its_keys_or_type_is_refused() {
        let mut lacking = secret("u", "p");
        lacking.values.remove("password");
        assert_eq!(basic(&lacking).err(), Some(Defect::Missing("password")));
        lacking.secret_type = "Opaque".to_owned();
        assert_eq!(basic(&lacking).err(), Some(Defect::Type));
    }
}
