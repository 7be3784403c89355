//! The interception CA: who callers trust when TLS to a registry, or to ourselves, ends here.
//!
//! A [`Root`] and the names that may be vouched for in, certificates for single names out. The root
//! signs intermediates, each of them constrained to a few names; those sign leaves. Time is an
//! argument, no file or socket is touched. It never signs for a name that is not permitted.

pub mod cluster;
pub mod commission;
pub mod folder;
mod renewal;
mod root;
mod rotation;
pub mod secret;
mod verb;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::mem;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::sync::Arc;
use std::time::Duration;

use dataplane::courtesy::{cores_first, let_go};
use dataplane::{Certificate, Subject};
use rcgen::{
    BasicConstraints, CertificateParams, CidrSubnet, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, GeneralSubtree, IsCa, Issuer, KeyPair, KeyUsagePurpose,
    NameConstraints, SerialNumber,
};
use ring::rand::{SecureRandom, SystemRandom};
use rustls::sign::CertifiedKey;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use time::OffsetDateTime;

pub use self::root::Root;
pub use self::verb::{VerbError, step};

/// Why there is no certificate, or no CA.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// A name that is neither a connector's nor ours.
    #[error("{0} is neither the host of an https connector nor a name of this proxy")]
    NotPermitted(String),
    /// The root's time has passed, or has not come.
    #[error("the root certificate is not valid now: check the clock, or rotate the CA")]
    RootNotValid,
    /// The library or the source of randomness failed.
    #[error("cannot sign: {0}")]
    Signing(String),
    /// A certificate or key that cannot be a CA's.
    #[error("{0}")]
    Unusable(String),
    /// A step that does not follow from what there is.
    #[error("{0}")]
    Step(&'static str),
}

impl From<rcgen::Error> for Error {
    fn from(cause: rcgen::Error) -> Self {
        Self::Signing(cause.to_string())
    }
}

/// A root, and what has been signed under it.
pub struct Authority {
    root: Root,
    /// One key for all leaves of this process: a new leaf costs one signature.
    leaf_pair: KeyPair,
    leaf_key: Arc<dyn rustls::sign::SigningKey>,
    /// The names that may be asked for, in order: their groups share an intermediate.
    names: Vec<Box<str>>,
    intermediates: HashMap<String, Intermediate>,
    leaves: HashMap<Box<str>, Leaf>,
}

struct Intermediate {
    issuer: Issuer<'static, KeyPair>,
    der: CertificateDer<'static>,
    from: OffsetDateTime,
    until: OffsetDateTime,
}

struct Leaf {
    certificate: Arc<CertifiedKey>,
    from: OffsetDateTime,
    until: OffsetDateTime,
}

impl Authority {
    /// An authority under `root` that vouches for nothing yet.
    pub fn new(root: Root) -> Result<Self, Error> {
        let leaf_pair = KeyPair::generate()?;
        let der = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(leaf_pair.serialize_der()));
        let leaf_key = rustls::crypto::ring::sign::any_ecdsa_type(&der)
            .map_err(|cause| Error::Signing(cause.to_string()))?;
        let (names, intermediates) = (Vec::new(), HashMap::new());
        Ok(Self { root, leaf_pair, leaf_key, names, intermediates, leaves: HashMap::new() })
    }

    /// Replaces the set of names that may be vouched for; host names in lower case, IP addresses
    /// without brackets. Groups that change get another intermediate when next needed.
    pub fn permit(&mut self, names: impl IntoIterator<Item = Box<str>>) {
        // Sorted as they come, because sorting a hundred thousand is one long piece of work.
        let mut sorted = BTreeSet::new();
        for name in names {
            sorted.insert(name);
            cores_first();
        }
        let names = sorted.into_iter().inspect(|_| cores_first()).collect();
        let_go(mem::replace(&mut self.names, names));
        let groups = self.names.chunks(GROUP_NAMES_MAX).inspect(|_| cores_first());
        let groups: HashSet<String> = groups.map(group_key).collect();
        self.intermediates.retain(|key, _| groups.contains(key));
        let names = &self.names;
        self.leaves.retain(|name, _| names.binary_search(name).is_ok());
    }

    /// Signs under another root from now on; nothing signed under the old one is given out again.
    /// `false`: it is the same one.
    pub fn succeed(&mut self, root: Root) -> bool {
        if root.certificate_pem() == self.root.certificate_pem() {
            return false;
        }
        self.root = root;
        self.intermediates.clear();
        self.leaves.clear();
        true
    }

    /// A certificate for `subject`, with the intermediate behind it. One made before serves for
    /// half of its time.
    pub fn certificate(
        &mut self,
        subject: &Subject,
        now: OffsetDateTime,
    ) -> Result<Certificate, Error> {
        let name: Box<str> = match subject {
            Subject::Registry(name) | Subject::Service(name) => name.clone(),
            // The address that a caller of ours has connected to: a core has seen it.
            Subject::Address(address) => address.to_canonical().to_string().into(),
        };
        if let Some(leaf) = self.leaves.get(&name)
            && let Some(fresh_for) = leaf.fresh_for(now)
        {
            return Ok(Certificate { key: Arc::clone(&leaf.certificate), fresh_for });
        }
        let group = self.group(&name, matches!(subject, Subject::Address(_)))?;
        let leaf = self.sign(&name, &group, now)?;
        let fresh_for = leaf.fresh_for(now).unwrap_or_default();
        let key = Arc::clone(&leaf.certificate);
        if self.leaves.len() >= LEAVES_MAX {
            self.leaves.retain(|_, leaf| leaf.fresh_for(now).is_some());
        }
        if self.leaves.len() >= LEAVES_MAX {
            self.leaves.clear();
        }
        self.leaves.insert(name, leaf);
        Ok(Certificate { key, fresh_for })
    }

    /// The names whose intermediate signs for `name`.
    fn group(&self, name: &str, is_own_address: bool) -> Result<Vec<Box<str>>, Error> {
        match self.names.binary_search_by(|known| (**known).cmp(name)) {
            Ok(place) => {
                let group = self.names.chunks(GROUP_NAMES_MAX).nth(place / GROUP_NAMES_MAX);
                Ok(group.unwrap_or_default().to_vec())
            }
            Err(_) if is_own_address => Ok(vec![name.into()]),
            Err(_) => Err(Error::NotPermitted(name.to_owned())),
        }
    }

    fn sign(&mut self, name: &str, group: &[Box<str>], now: OffsetDateTime) -> Result<Leaf, Error> {
        let key = group_key(group);
        let usable = self.intermediates.get(&key).is_some_and(|known| now + LEAF_AGE < known.until);
        if !usable {
            if self.intermediates.len() >= INTERMEDIATES_MAX {
                self.intermediates.clear();
            }
            let intermediate = self.root.intermediate(group, now)?;
            self.intermediates.insert(key.clone(), intermediate);
        }
        let failed = || Error::Signing("no intermediate".to_owned());
        let intermediate = self.intermediates.get(&key).ok_or_else(failed)?;
        let (from, until) = within(now, LEAF_AGE, intermediate.from, intermediate.until)?;
        let mut params = CertificateParams::new(vec![name.to_owned()])?;
        // The name stands in the SAN alone: some verifiers check a common name by other rules.
        params.distinguished_name = DistinguishedName::new();
        (params.not_before, params.not_after) = (from, until);
        params.serial_number = Some(serial()?);
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.use_authority_key_identifier_extension = true;
        let leaf = params.signed_by(&self.leaf_pair, &intermediate.issuer)?;
        let chain = vec![leaf.der().clone(), intermediate.der.clone()];
        let certificate = Arc::new(CertifiedKey::new(chain, Arc::clone(&self.leaf_key)));
        Ok(Leaf { certificate, from, until })
    }
}

impl Leaf {
    /// For how long it may still be given out: half of its time, so that a clock that is off, or a
    /// long handshake, never meets its end.
    fn fresh_for(&self, now: OffsetDateTime) -> Option<Duration> {
        let half = self.from + (self.until - self.from) / 2;
        Duration::try_from(half - now).ok().filter(|left| !left.is_zero())
    }
}

/// Parameters of a CA certificate that signs other certificates.
fn ca_params(common_name: &str, path_length: BasicConstraints) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::new(Vec::new())?;
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "harbor-connector");
    params.distinguished_name.push(DnType::CommonName, common_name);
    params.is_ca = IsCa::Ca(path_length);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params.serial_number = Some(serial()?);
    Ok(params)
}

impl Root {
    /// An intermediate that can vouch for `names` and nothing else (RFC 5280 §4.2.1.10). The
    /// constraints stand here and not in the root: verifiers need not look at those of an anchor.
    fn intermediate(&self, names: &[Box<str>], now: OffsetDateTime) -> Result<Intermediate, Error> {
        let (from, until) = within(now, INTERMEDIATE_AGE, self.from, self.until)?;
        let serial = serial()?;
        let number: String =
            serial.to_bytes().iter().take(4).map(|byte| format!("{byte:02x}")).collect();
        let common_name = format!("harbor-connector intermediate {number}");
        let mut params = ca_params(&common_name, BasicConstraints::Constrained(0))?;
        params.serial_number = Some(serial);
        (params.not_before, params.not_after) = (from, until);
        params.use_authority_key_identifier_extension = true;
        params.extended_key_usages = vec![ExtendedKeyUsagePurpose::ServerAuth];
        params.name_constraints = Some(constraints(names));
        let pair = KeyPair::generate()?;
        let der = params.signed_by(&pair, &self.issuer)?.der().clone();
        Ok(Intermediate { issuer: Issuer::new(params, pair), der, from, until })
    }
}

/// `names` and nothing else. A kind of name that is not constrained would be free, so the kind that
/// does not occur is closed.
fn constraints(names: &[Box<str>]) -> NameConstraints {
    let mut permitted = Vec::with_capacity(names.len());
    let (mut hosts, mut addresses) = (0, 0);
    for name in names {
        permitted.push(match name.parse::<IpAddr>() {
            Ok(address) => {
                addresses += 1;
                let bits = if address.is_ipv4() { 32 } else { 128 };
                GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(address, bits))
            }
            Err(_) => {
                hosts += 1;
                GeneralSubtree::DnsName(name.to_string())
            }
        });
    }
    let mut excluded = Vec::new();
    if hosts == 0 {
        // A name that is nobody's (RFC 2606 §2).
        permitted.push(GeneralSubtree::DnsName("invalid".to_owned()));
    }
    if addresses == 0 {
        for all in [IpAddr::V4(Ipv4Addr::UNSPECIFIED), IpAddr::V6(Ipv6Addr::UNSPECIFIED)] {
            excluded.push(GeneralSubtree::IpAddress(CidrSubnet::from_addr_prefix(all, 0)));
        }
    }
    NameConstraints { permitted_subtrees: permitted, excluded_subtrees: excluded }
}

/// From an hour ago (callers' clocks differ) until `age` from now, within the issuer's own time.
fn within(
    now: OffsetDateTime,
    age: Duration,
    issuer_from: OffsetDateTime,
    issuer_until: OffsetDateTime,
) -> Result<(OffsetDateTime, OffsetDateTime), Error> {
    if now < issuer_from || now >= issuer_until {
        return Err(Error::RootNotValid);
    }
    Ok(((now - CLOCK_SKEW).max(issuer_from), (now + age).min(issuer_until)))
}

/// 128 random bits (CA/Browser Forum Baseline Requirements §7.1 ask for 64).
fn serial() -> Result<SerialNumber, Error> {
    let mut bytes = [0; 16];
    let random = SystemRandom::new().fill(&mut bytes);
    random.map_err(|_| Error::Signing("no randomness".to_owned()))?;
    Ok(SerialNumber::from_slice(&bytes))
}

fn group_key(names: &[Box<str>]) -> String {
    names.join("\n")
}

/// Names one intermediate is constrained to: it travels in every handshake, so it stays small.
const GROUP_NAMES_MAX: usize = 32;
/// Intermediates kept.
const INTERMEDIATES_MAX: usize = 1024;
/// Leaves kept.
const LEAVES_MAX: usize = 4096;
/// How long a leaf is valid.
const LEAF_AGE: Duration = Duration::from_secs(3 * DAY);
/// How long an intermediate is valid.
const INTERMEDIATE_AGE: Duration = Duration::from_secs(365 * DAY);
/// How long a root is valid.
const ROOT_AGE: Duration = Duration::from_secs(10 * 365 * DAY);
/// By how much a caller's clock may be behind ours.
const CLOCK_SKEW: Duration = Duration::from_secs(3600);
const DAY: u64 = 24 * 3600;

#[cfg(test)]
mod tests;
