//! What is kept of a CA, wherever that is, and the steps of its rotation.
//!
//! [`Kept`] in, changed in place or refused with a word on what to do. Pure: time is an argument,
//! and whoever keeps it writes what differs. Keys are wiped, and never appear in an error.

use rustls_pki_types::CertificateDer;
use rustls_pki_types::pem::PemObject as _;
use time::OffsetDateTime;
use zeroize::Zeroizing;

use super::root::{described, pem};
use super::{Error, Root};
use crate::config::CaStep;

/// Keys and certificates in PEM. Callers trust the whole bundle: the root that signs, and during a
/// rotation the one before or after it.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct Kept {
    /// The key that signs.
    pub key: Option<Zeroizing<String>>,
    /// The key that signs next.
    pub next_key: Option<Zeroizing<String>>,
    /// What callers are to trust.
    pub bundle: Option<Vec<u8>>,
}

/// How far a rotation has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// None is under way.
    Settled,
    /// The next root is published and does not sign yet.
    Published,
    /// It signs, and the one before is still trusted.
    Succeeded,
}

impl Kept {
    /// Whether nothing is kept, so that a CA may be made.
    pub fn is_empty(&self) -> bool {
        let bundle = self.bundle.as_ref().is_none_or(Vec::is_empty);
        bundle && self.key.is_none() && self.next_key.is_none()
    }

    /// Makes what is missing: a whole CA, or the certificate of a key that is alone. Whether
    /// something was. A key that is lost cannot be made again.
    pub fn complete(&mut self, now: OffsetDateTime) -> Result<bool, Error> {
        let root = match (&self.key, &self.bundle) {
            (Some(_), Some(_)) => return Ok(false),
            (None, Some(_)) => {
                return Err(Error::Step(
                    "ca.crt is there and ca.key is not: restore the key, or remove ca.crt to start \
                     with another CA",
                ));
            }
            (Some(key), None) => Root::renew(key, now)?,
            (None, None) => Root::make(now)?,
        };
        self.key = Some(root.key_pem());
        self.bundle = Some(root.certificate_pem().into_bytes());
        Ok(true)
    }

    /// The root that signs.
    pub fn root(&self) -> Result<Root, Error> {
        let key = self.key.as_ref().ok_or(NOTHING)?;
        let found = Root::read(self.trusted()?, key)?;
        found.ok_or(Error::Step("ca.crt does not hold the certificate of ca.key"))
    }

    /// What callers are to trust.
    pub fn trusted(&self) -> Result<&[u8], Error> {
        self.bundle.as_deref().ok_or(NOTHING)
    }

    /// The certificates that callers are to trust, and nothing else that may stand beside them.
    pub fn certificates(&self) -> Result<String, Error> {
        let found = CertificateDer::pem_slice_iter(self.trusted()?).filter_map(Result::ok);
        Ok(found.map(|der| pem("CERTIFICATE", &der)).collect())
    }

    /// How far a rotation has come.
    pub fn phase(&self) -> Result<Phase, Error> {
        let bundle = self.trusted()?;
        if self.next_key.is_some() {
            return Ok(Phase::Published);
        }
        match CertificateDer::pem_slice_iter(bundle).count() {
            0 | 1 => Ok(Phase::Settled),
            _ => Ok(Phase::Succeeded),
        }
    }

    /// Takes one step.
    pub fn take(&mut self, step: CaStep, now: OffsetDateTime) -> Result<(), Error> {
        match step {
            CaStep::Show => Ok(()),
            CaStep::PublishNext => self.publish_next(now),
            CaStep::SignWithNext => self.sign_with_next(),
            CaStep::RetireOld => self.retire_old(),
        }
    }

    /// Begins a rotation: makes the next root and adds it to the bundle, so that callers learn to
    /// trust it before it signs.
    fn publish_next(&mut self, now: OffsetDateTime) -> Result<(), Error> {
        let bundle = self.trusted()?;
        let next = match &self.next_key {
            None => Root::make(now)?,
            Some(key) => {
                if Root::read(bundle, key)?.is_some() {
                    return Err(Error::Step("the next root is published already"));
                }
                // A process ended between the key and the certificate.
                Root::renew(key, now)?
            }
        };
        self.bundle = Some([bundle, next.certificate_pem().as_bytes()].concat());
        self.next_key = Some(next.key_pem());
        Ok(())
    }

    /// Goes on with it: from now on the published root signs. The old one stays in the bundle.
    fn sign_with_next(&mut self) -> Result<(), Error> {
        let missing = Error::Step("no next root is published: publish it, and let callers see it");
        let key = self.next_key.as_ref().ok_or(missing)?;
        if Root::read(self.trusted()?, key)?.is_none() {
            return Err(Error::Step("the next root is not in ca.crt: publish it first"));
        }
        self.key = self.next_key.take();
        Ok(())
    }

    /// Ends it: the bundle holds the root that signs and no other.
    fn retire_old(&mut self) -> Result<(), Error> {
        if self.next_key.is_some() {
            return Err(Error::Step("the next root does not sign yet: the old one is needed"));
        }
        self.bundle = Some(self.root()?.certificate_pem().into_bytes());
        Ok(())
    }

    /// A line about each certificate of the bundle, and about the state of a rotation.
    pub fn described(&self) -> Result<Vec<String>, Error> {
        let bundle = self.trusted()?;
        let der_of = |key: &Option<Zeroizing<String>>| -> Result<Option<String>, Error> {
            let Some(key) = key else { return Ok(None) };
            Ok(Root::read(bundle, key)?.map(|root| root.certificate_pem()))
        };
        let (signing, next) = (der_of(&self.key)?, der_of(&self.next_key)?);
        let is = |known: &Option<String>, der: &CertificateDer<'_>| {
            let own =
                known.as_ref().and_then(|pem| CertificateDer::from_pem_slice(pem.as_bytes()).ok());
            own.is_some_and(|own| own == *der)
        };
        let mut lines = Vec::new();
        for der in CertificateDer::pem_slice_iter(bundle).filter_map(Result::ok) {
            let (name, until) = described(&der)?;
            let role = match () {
                () if is(&signing, &der) => "signs",
                () if is(&next, &der) => "is published and does not sign yet",
                () => "signed before and is still trusted",
            };
            lines.push(format!("{name}: {role}; valid until {}", until.date()));
        }
        Ok(lines)
    }
}

const NOTHING: Error = Error::Step("there is no CA here yet");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_are_taken_in_their_order_and_in_no_other() {
        let now = OffsetDateTime::now_utc();
        let mut kept = Kept::default();
        assert!(kept.is_empty() && kept.root().is_err() && kept.phase().is_err());
        assert!(kept.complete(now).unwrap() && !kept.complete(now).unwrap());
        let old = kept.root().unwrap().certificate_pem();
        assert_eq!(kept.phase().unwrap(), Phase::Settled);
        assert!(kept.take(CaStep::SignWithNext, now).is_err(), "nothing is published");
        kept.take(CaStep::PublishNext, now).unwrap();
        assert_eq!(kept.phase().unwrap(), Phase::Published);
        assert_eq!(kept.root().unwrap().certificate_pem(), old, "the old one signs");
        for early in [CaStep::PublishNext, CaStep::RetireOld] {
            assert!(kept.take(early, now).is_err());
        }
        kept.take(CaStep::SignWithNext, now).unwrap();
        assert_eq!(kept.phase().unwrap(), Phase::Succeeded);
        let new = kept.root().unwrap().certificate_pem();
        assert_ne!(new, old);
        let lines = kept.described().unwrap();
        assert!(lines[0].contains("signed before") && lines[1].contains(": signs"), "{lines:?}");
        kept.take(CaStep::RetireOld, now).unwrap();
        assert_eq!(kept.trusted().unwrap(), new.as_bytes());
        assert_eq!(kept.phase().unwrap(), Phase::Settled);
    }

    #[test]
    fn what_is_missing_is_made_and_what_is_lost_is_said() {
        let now = OffsetDateTime::now_utc();
        let mut kept = Kept::default();
        kept.complete(now).unwrap();
        let key = kept.key.clone();
        kept.bundle = None;
        assert!(kept.complete(now).unwrap());
        assert_eq!(kept.key, key);
        kept.key = None;
        let error = kept.complete(now).unwrap_err().to_string();
        assert!(error.contains("ca.key"), "{error}");
    }
}
