//! Carries the data plane's commissions to the authority, and the changes of both sides to it.
//!
//! Commissions in, each answered exactly once. One thread signs for all cores, so there is one
//! signature for a name however many ask. Before it signs it looks whether the connectors, or the
//! files of the CA, have changed; a change of the CA has every core forget what it was given.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::thread;
use std::time::Duration;

use crossbeam::channel::{Receiver, RecvTimeoutError, Sender, bounded};
use dataplane::courtesy::cores_first;
use dataplane::snapshot::{Publisher, Snapshot};
use dataplane::vocabulary::{Connector, Scheme};
use dataplane::{Commission, Cores, Own};
use time::OffsetDateTime;

use super::cluster::Roots;
use super::folder::{Folder, Seen};
use super::{Authority, Root};

/// What the thread works with.
pub struct Workshop {
    /// Where the CA is kept.
    pub keeper: Keeper,
    /// What signs; nothing until a root is known.
    pub authority: Option<Authority>,
    /// Whose hosts may be vouched for.
    pub snapshots: Publisher,
    /// Under which other names, and at which addresses, callers reach this proxy.
    pub own: Own,
    /// Makes the cores forget.
    pub cores: Cores,
}

/// Where the CA is kept.
pub enum Keeper {
    /// In a folder that looked like this when its root was read.
    Folder(Folder, Seen),
    /// In a cluster, where it has this name.
    Cluster(Roots, String),
}

impl Keeper {
    /// Where callers find what they must trust, for people.
    pub fn bundle(&self) -> String {
        match self {
            Self::Folder(folder, _) => folder.bundle().display().to_string(),
            Self::Cluster(_, name) => name.clone(),
        }
    }

    /// The root that signs from now on, if it may be another one.
    fn news(&mut self) -> Option<Root> {
        match self {
            Self::Cluster(roots, _) => roots.take(),
            Self::Folder(folder, seen) => {
                let now = folder.seen();
                if now == *seen {
                    return None;
                }
                *seen = now;
                // A file may be missing for a moment; what signs goes on signing.
                let read = folder.root(OffsetDateTime::now_utc());
                read.inspect_err(|cause| tracing::warn!(%cause, "the CA's files cannot be read"))
                    .ok()
            }
        }
    }
}

/// The channel for commissions: the data plane gets the sending end, [`answer`] the other.
pub fn channel() -> (Sender<Commission>, Receiver<Commission>) {
    bounded(COMMISSIONS_MAX)
}

/// Answers commissions on a thread of its own until the data plane is gone. Without a workshop
/// there is no certificate for anybody.
pub fn answer(commissions: Receiver<Commission>, workshop: Option<Workshop>) -> io::Result<()> {
    let name = thread::Builder::new().name("authority".to_owned());
    name.spawn(move || match workshop {
        Some(workshop) => work(&commissions, workshop),
        None => commissions.iter().for_each(|commission| commission.answer(None)),
    })?;
    Ok(())
}

fn work(commissions: &Receiver<Commission>, mut workshop: Workshop) {
    let mut snapshot = workshop.snapshots.current();
    workshop.permit(&snapshot);
    loop {
        let commission = commissions.recv_timeout(LOOK);
        workshop.follow(&snapshot);
        let now = workshop.snapshots.current();
        if !Arc::ptr_eq(&now, &snapshot) {
            snapshot = now;
            workshop.permit(&snapshot);
        }
        match commission {
            Ok(commission) => workshop.make(commission),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Workshop {
    fn permit(&mut self, snapshot: &Snapshot) {
        if let Some(authority) = &mut self.authority {
            authority.permit(permitted(&self.own, snapshot));
        }
    }

    fn make(&mut self, commission: Commission) {
        let Some(authority) = &mut self.authority else {
            tracing::warn!(subject = ?commission.subject, "no certificate: there is no CA yet");
            return commission.answer(None);
        };
        let made = authority.certificate(&commission.subject, OffsetDateTime::now_utc());
        if let Err(cause) = &made {
            tracing::warn!(subject = ?commission.subject, %cause, "no certificate");
        }
        commission.answer(made.ok());
    }

    /// Goes on with another root where the CA has changed.
    fn follow(&mut self, snapshot: &Snapshot) {
        let Some(root) = self.keeper.news() else {
            return;
        };
        let ca = self.keeper.bundle();
        if let Some(authority) = &mut self.authority {
            if !authority.succeed(root) {
                return;
            }
            tracing::info!(ca, "another root signs");
        } else {
            match Authority::new(root) {
                Ok(authority) => self.authority = Some(authority),
                Err(cause) => return tracing::warn!(%cause, "the CA's root cannot be used"),
            }
            self.permit(snapshot);
            tracing::info!(ca, "callers can be met with TLS");
        }
        self.cores.forget_certificates();
    }
}

/// Every name that may be vouched for while `snapshot` holds.
fn permitted(own: &Own, snapshot: &Snapshot) -> Vec<Box<str>> {
    let mut names = own.names.clone();
    for connector in snapshot.connectors() {
        cores_first();
        names.extend(hosts(connector));
        let (name, namespace) = (connector.reference.name(), connector.reference.namespace());
        let service = format!("c-{name}.{namespace}");
        names.push(format!("{service}.svc.{}", own.cluster_domain).into());
        names.push(format!("{service}.svc").into());
        names.push(service.into());
    }
    let fixed = own.addresses.iter().map(SocketAddr::ip).filter(|ip| !ip.is_unspecified());
    names.extend(fixed.map(|ip| ip.to_canonical().to_string().into()));
    names
}

/// The hosts under which callers reach a connector's registry over https.
fn hosts(connector: &Connector) -> impl Iterator<Item = Box<str>> {
    let origins = std::iter::once(&connector.origin).chain(&connector.aliases);
    origins.filter(|origin| origin.scheme == Scheme::Https).map(|origin| origin.host.clone())
}

/// Commissions that may wait.
const COMMISSIONS_MAX: usize = 1024;
/// How often the files are looked at while nobody asks for anything.
const LOOK: Duration = Duration::from_secs(1);
