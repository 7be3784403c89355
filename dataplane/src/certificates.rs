//! With which certificate do we meet a caller? Asked of the control plane, remembered per core.
//!
//! A [`Subject`] in, a TLS configuration that proves it out. Keys of a CA are never here: a core
//! asks over a bounded channel (seam 2) and is answered by mail, once however many connections
//! wait. What cannot be had is remembered for a moment, so that a flood of wrong names asks little.

use std::cell::RefCell;
use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use crossbeam::channel::Sender;
use futures_channel::oneshot;
use rustls::ServerConfig;
use rustls::server::{NoServerSessionStorage, ProducesTickets};
use rustls::sign::{CertifiedKey, SingleCertAndKey};

use crate::counters::Counters;
use crate::error::Kind;
use crate::io::within;
use crate::limits::Limits;
use crate::mailbox::{Mail, Postbox};

/// Whom a caller wants to meet. Names are lower-case, without a trailing dot.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Subject {
    /// A registry, in whose stead we end the TLS of a CONNECT: a DNS name or an IP address.
    Registry(Box<str>),
    /// This proxy, under the name that the caller's TLS asked for.
    Service(Box<str>),
    /// This proxy, under the address that the caller has connected to.
    Address(IpAddr),
}

/// A certificate with its chain and key.
#[derive(Clone, Debug)]
pub struct Certificate {
    /// What a handshake is made with.
    pub key: Arc<CertifiedKey>,
    /// How long it may be used for new handshakes.
    pub fresh_for: Duration,
}

/// A core's wish for a certificate: seam 2, like [`crate::Question`].
#[derive(Debug)]
pub struct Commission {
    /// For whom.
    pub subject: Subject,
    pub(crate) number: u64,
    pub(crate) postbox: Postbox,
}

impl Commission {
    /// Answers; `None` says that there is none for this subject. A commission that is dropped
    /// instead is answered by the asking core's deadline.
    pub fn answer(self, certificate: Option<Certificate>) {
        self.postbox.send(Mail::Certificate(self.number, certificate));
    }
}

/// What one core remembers of certificates, and the commissions it has under way.
pub(crate) struct Certificates {
    commissions: Sender<Commission>,
    postbox: Postbox,
    counters: Arc<Counters>,
    tickets: Arc<dyn ProducesTickets>,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<Subject, Known>,
    pending: HashMap<Subject, Pending>,
    asked: HashMap<u64, Subject>,
    next_number: u64,
}

/// A configuration, or that there is none, and until when that holds.
struct Known {
    config: Option<Arc<ServerConfig>>,
    until: Instant,
}

struct Pending {
    number: u64,
    asked_at: Instant,
    waiting: Vec<oneshot::Sender<Option<Arc<ServerConfig>>>>,
}

impl Certificates {
    /// Remembers nothing yet; answers come to `postbox`. `tickets` are the process's, so that a
    /// caller may resume a session on another core.
    pub(crate) fn new(
        commissions: Sender<Commission>,
        postbox: Postbox,
        counters: Arc<Counters>,
        tickets: Arc<dyn ProducesTickets>,
    ) -> Self {
        Self { commissions, postbox, counters, tickets, state: RefCell::default() }
    }

    /// The configuration that proves `subject`. Fails with [`Kind::CertificateMissing`].
    pub(crate) async fn of(
        &self,
        subject: &Subject,
        limits: &Limits,
    ) -> Result<Arc<ServerConfig>, Kind> {
        if let Some(known) = self.state.borrow().known.get(subject)
            && known.until > Instant::now()
        {
            return known.config.clone().ok_or(Kind::CertificateMissing);
        }
        let answer = self.ask(subject, limits)?;
        match within(limits.certificate_wait, answer).await {
            Some(Ok(Some(config))) => Ok(config),
            _ => Err(Kind::CertificateMissing),
        }
    }

    /// Joins the commission that is under way for `subject`, or gives one.
    fn ask(
        &self,
        subject: &Subject,
        limits: &Limits,
    ) -> Result<oneshot::Receiver<Option<Arc<ServerConfig>>>, Kind> {
        let (sender, answer) = oneshot::channel();
        let mut state = self.state.borrow_mut();
        if let Entry::Occupied(mut pending) = state.pending.entry(subject.clone()) {
            let pending = pending.get_mut();
            if pending.asked_at.elapsed() < limits.certificate_wait {
                pending.waiting.push(sender);
                return Ok(answer);
            }
        }
        state.next_number += 1;
        let number = state.next_number;
        let commission =
            Commission { subject: subject.clone(), number, postbox: self.postbox.clone() };
        self.commissions.try_send(commission).map_err(|_| Kind::Overloaded)?;
        self.counters.certificates_asked.add(1);
        let pending = Pending { number, asked_at: Instant::now(), waiting: vec![sender] };
        if let Some(unanswered) = state.pending.insert(subject.clone(), pending)
            && let Some(pending) = state.pending.get_mut(subject)
        {
            // Nobody answered in time: the new answer is for all.
            pending.waiting.extend(unanswered.waiting);
        }
        state.asked.insert(number, subject.clone());
        Ok(answer)
    }

    /// Takes the answer to commission `number`.
    pub(crate) fn deliver(&self, number: u64, made: Option<Certificate>, limits: &Limits) {
        let mut state = self.state.borrow_mut();
        let Some(subject) = state.asked.remove(&number) else { return };
        let Entry::Occupied(pending) = state.pending.entry(subject.clone()) else { return };
        if pending.get().number != number {
            return;
        }
        let pending = pending.remove();
        let now = Instant::now();
        let fresh_for = made.as_ref().map_or(FAILURE_AGE_MAX, |made| made.fresh_for);
        let config = made.and_then(|made| self.config(made.key).map(Arc::new).ok());
        if state.known.len() >= limits.certificates_max {
            state.known.retain(|_, known| known.until > now && known.config.is_some());
        }
        if state.known.len() >= limits.certificates_max {
            // Whatever is still needed is soon back.
            state.known.clear();
        }
        state.known.insert(subject, Known { config: config.clone(), until: now + fresh_for });
        for waiting in pending.waiting {
            // Whoever gave up waiting needs no answer.
            let _ = waiting.send(config.clone());
        }
    }

    /// Forgets all of them: the CA has changed. Handshakes under way keep what they have.
    pub(crate) fn forget(&self) {
        self.state.borrow_mut().known.clear();
    }

    /// Forgets what is too old, and commissions that nobody answered in time.
    pub(crate) fn expire(&self, now: Instant, limits: &Limits) {
        let mut state = self.state.borrow_mut();
        state.known.retain(|_, known| known.until > now);
        state.pending.retain(|_, pending| pending.asked_at.elapsed() < limits.certificate_wait * 2);
        let State { pending, asked, .. } = &mut *state;
        asked.retain(|_, subject| pending.contains_key(subject));
    }

    /// TLS 1.2 and 1.3, HTTP/1.1 and nothing else inside (RFC 7301), sessions resumed by tickets
    /// under a key of this process, no early data.
    fn config(&self, key: Arc<CertifiedKey>) -> Result<ServerConfig, rustls::Error> {
        let provider = Arc::new(rustls::crypto::ring::default_provider());
        let mut config = ServerConfig::builder_with_provider(provider)
            .with_safe_default_protocol_versions()?
            .with_no_client_auth()
            .with_cert_resolver(Arc::new(SingleCertAndKey::from(key)));
        config.alpn_protocols = vec![b"http/1.1".to_vec()];
        config.session_storage = Arc::new(NoServerSessionStorage {});
        config.ticketer = Arc::clone(&self.tickets);
        Ok(config)
    }
}

/// How long it is remembered that there is no certificate.
const FAILURE_AGE_MAX: Duration = Duration::from_secs(2);

#[cfg(test)]
mod tests {
    use crossbeam::channel::bounded;
    use futures_util::FutureExt as _;

    use super::*;
    use crate::mailbox::mailbox;

    fn certificate() -> Certificate {
        let made = rcgen::generate_simple_self_signed(["r.example".to_owned()]).unwrap();
        let key = rustls_pki_types::PrivateKeyDer::try_from(made.signing_key.serialize_der());
        let key = rustls::crypto::ring::sign::any_ecdsa_type(&key.unwrap()).unwrap();
        let key = Arc::new(CertifiedKey::new(vec![made.cert.der().clone()], key));
        Certificate { key, fresh_for: Duration::from_secs(60) }
    }

    #[test]
    fn one_commission_serves_all_who_wait_and_is_remembered_until_the_ca_changes() {
        let limits = Limits {
            certificates_max: 2,
            certificate_wait: FAILURE_AGE_MAX,
            ..crate::fuzzing::limits()
        };
        let (commissions, wanted) = bounded(8);
        let (postbox, _inbox) = mailbox().unwrap();
        let tickets = rustls::crypto::ring::Ticketer::new().unwrap();
        let memory = Certificates::new(commissions, postbox, Arc::default(), tickets);
        let subject = |name: &str| Subject::Registry(name.into());
        let first = memory.ask(&subject("a"), &limits).unwrap();
        let second = memory.ask(&subject("a"), &limits).unwrap();
        let commission = wanted.try_recv().unwrap();
        assert!(wanted.try_recv().is_err(), "one commission for both");
        memory.deliver(commission.number, Some(certificate()), &limits);
        assert!(first.now_or_never().unwrap().unwrap().is_some());
        assert!(second.now_or_never().unwrap().unwrap().is_some());
        assert!(memory.of(&subject("a"), &limits).now_or_never().unwrap().is_ok());

        let none = memory.ask(&subject("b"), &limits).unwrap();
        memory.deliver(wanted.try_recv().unwrap().number, None, &limits);
        assert!(none.now_or_never().unwrap().unwrap().is_none());
        let remembered = memory.of(&subject("b"), &limits).now_or_never().unwrap();
        assert_eq!(remembered.err(), Some(Kind::CertificateMissing));
        assert!(wanted.try_recv().is_err(), "a failure is remembered too");

        let _third = memory.ask(&subject("c"), &limits).unwrap();
        memory.deliver(wanted.try_recv().unwrap().number, Some(certificate()), &limits);
        assert!(memory.state.borrow().known.len() <= 2, "bounded");
        memory.forget();
        assert!(memory.state.borrow().known.is_empty());
    }
}
