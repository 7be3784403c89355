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
use dataplane::snapshot::{Publisher, Snapshot};
use dataplane::vocabulary::{Connector, Scheme};
use dataplane::{Commission, Cores, Own};
use time::OffsetDateTime;

use super::Authority;
use super::folder::{Folder, Seen};

/// What the thread works with.
pub struct Workshop {
    /// Where the CA is kept.
    pub folder: Folder,
    /// What signs.
    pub authority: Authority,
    /// Whose hosts may be vouched for.
    pub snapshots: Publisher,
    /// Under which other names, and at which addresses, callers reach this proxy.
    pub own: Own,
    /// Makes the cores forget.
    pub cores: Cores,
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
    let mut seen = workshop.folder.seen();
    let mut snapshot = workshop.snapshots.current();
    workshop.authority.permit(permitted(&workshop.own, &snapshot));
    loop {
        let commission = commissions.recv_timeout(LOOK);
        workshop.follow(&mut seen);
        let now = workshop.snapshots.current();
        if !Arc::ptr_eq(&now, &snapshot) {
            snapshot = now;
            workshop.authority.permit(permitted(&workshop.own, &snapshot));
        }
        match commission {
            Ok(commission) => workshop.make(commission),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return,
        }
    }
}

impl Workshop {
    fn make(&mut self, commission: Commission) {
        let made = self.authority.certificate(&commission.subject, OffsetDateTime::now_utc());
        if let Err(cause) = &made {
            tracing::warn!(subject = ?commission.subject, %cause, "no certificate");
        }
        commission.answer(made.ok());
    }

    /// Takes over the files of the CA where they have changed.
    fn follow(&mut self, seen: &mut Seen) {
        let now = self.folder.seen();
        if now == *seen {
            return;
        }
        *seen = now;
        match self.folder.root(OffsetDateTime::now_utc()) {
            Ok(root) => {
                if !self.authority.succeed(root) {
                    return;
                }
                self.cores.forget_certificates();
                tracing::info!(ca = %self.folder.bundle().display(), "another root signs");
            }
            // A file may be missing for a moment; what signs goes on signing.
            Err(cause) => tracing::warn!(%cause, "the CA's files cannot be read"),
        }
    }
}

/// Every name that may be vouched for while `snapshot` holds.
fn permitted(own: &Own, snapshot: &Snapshot) -> Vec<Box<str>> {
    let mut names = own.names.clone();
    for connector in snapshot.connectors() {
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
