//! Hosts that are no listed connector's: refused, or let through unseen, as the operator decided.
//!
//! An origin in, yes, no or a connection out; then bytes both ways, spliced, until both sides have
//! ended or neither has said anything for long. It never looks inside, never adds a credential,
//! and checks every address at the moment it is dialled.

use std::cell::Cell;
use std::io;
use std::net::IpAddr;
use std::pin::pin;
use std::time::{Duration, Instant};

use futures_util::future::try_join;

use crate::buffer::{Block, Buffer};
use crate::error::Kind;
use crate::io::{Socket, within};
use crate::pipes::Pipe;
use crate::resolve::{is_forbidden, is_public};
use crate::target::forward::is_odd_number;
use crate::vocabulary::Origin;
use crate::worker::Core;

/// What becomes of a CONNECT to a host that is no listed connector's.
#[derive(Clone, Debug, Default)]
pub struct Passthrough {
    /// Which hosts may be reached.
    pub hosts: Hosts,
    /// At which ports.
    pub ports: Vec<u16>,
}

/// Which hosts may be reached through a tunnel.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum Hosts {
    /// None.
    #[default]
    Nobody,
    /// These names, in lower case; one that begins with a dot stands for all names below it. Their
    /// addresses may be private: who wrote the list knows them.
    Listed(Vec<Box<str>>),
    /// Every host with a public address.
    Public,
}

impl Passthrough {
    /// Whether `origin` may be reached, as far as its name says.
    pub(crate) fn check(&self, origin: &Origin, cluster_domain: &str) -> Result<(), Kind> {
        let host = &*origin.host;
        let below = |zone: &str| host.strip_suffix(zone).is_some_and(|rest| rest.ends_with('.'));
        let listed = match &self.hosts {
            Hosts::Nobody => return Err(Kind::HostDenied),
            Hosts::Listed(names) => names.iter().any(|name| match name.strip_prefix('.') {
                Some(zone) => below(zone),
                None => **name == *host,
            }),
            Hosts::Public => true,
        };
        if !listed || !self.ports.contains(&origin.port) {
            return Err(Kind::HostDenied);
        }
        if host == "localhost" || below("localhost") || is_odd_number(host) {
            return Err(Kind::HostForbidden);
        }
        let is_clusters = below("svc") || below(cluster_domain);
        if self.hosts == Hosts::Public && is_clusters {
            return Err(Kind::HostForbidden);
        }
        Ok(())
    }

    /// Whether the address of a host that may be reached may be dialled.
    fn permits(&self, address: IpAddr) -> bool {
        !is_forbidden(address, false) && (self.hosts != Hosts::Public || is_public(address))
    }
}

/// A connection to `origin`, which [`Passthrough::check`] lets pass.
pub(crate) async fn dial(origin: &Origin, core: &Core) -> Result<Socket, Kind> {
    // A name may have any number of addresses.
    let reached = pin!(first_reachable(origin, core));
    let dialled = within(core.limits.connect_total_wait, reached).await;
    dialled.unwrap_or(Err(Kind::HostUnreachable))
}

async fn first_reachable(origin: &Origin, core: &Core) -> Result<Socket, Kind> {
    let found = core.names.addresses(&origin.host, origin.port, &core.limits).await;
    let addresses = found.map_err(|kind| match kind {
        Kind::RegistryUnresolved => Kind::HostUnreachable,
        other => other,
    })?;
    let mut failure = Kind::HostUnreachable;
    for address in addresses {
        if !core.passthrough.permits(address.ip()) || core.own.is_loop(None, address) {
            failure = Kind::HostForbidden;
            continue;
        }
        match Socket::connect(address, core.limits.connect_wait).await {
            Ok(socket) if core.own.is_loop(socket.local_address().ok(), address) => {
                failure = Kind::HostForbidden;
            }
            Ok(socket) => return Ok(socket),
            Err(error) => {
                tracing::debug!(%address, %error, "a host cannot be reached");
                failure = Kind::HostUnreachable;
            }
        }
    }
    Err(failure)
}

/// Moves bytes both ways until both sides have ended. `first` is what the caller has sent already.
/// Fails with whoever broke it, or with nobody's having said anything.
pub(crate) async fn run(
    caller: &Socket,
    first: &mut Buffer,
    host: &Socket,
    moved: (&Cell<u64>, &Cell<u64>),
    core: &Core,
) -> Result<(), Kind> {
    let idle = Idle { wait: core.limits.tunnel_idle_wait, since: Cell::new(Instant::now()) };
    let (caller, host) = (Side(caller, Kind::CallerGone), Side(host, Kind::HostGone));
    idle.send(&host, first.filled()).await?;
    moved.0.set(moved.0.get() + u64::try_from(first.filled().len()).unwrap_or_default());
    first.consume(first.filled().len());
    first.release();
    let up = idle.one_way(&caller, &host, moved.0, core);
    let down = idle.one_way(&host, &caller, moved.1, core);
    try_join(up, down).await.map(|_| ())
}

/// One end of a tunnel, and what it is if that end breaks.
struct Side<'a>(&'a Socket, Kind);

/// The patience of one tunnel: with both directions together.
struct Idle {
    wait: Duration,
    since: Cell<Instant>,
}

impl Idle {
    /// Moves what comes from one side to the other, and its end, which is not the other side's.
    async fn one_way(
        &self,
        from: &Side<'_>,
        to: &Side<'_>,
        moved: &Cell<u64>,
        core: &Core,
    ) -> Result<(), Kind> {
        let mut block: Option<Block> = None;
        loop {
            // A tunnel that says nothing holds no pipe.
            self.readable(from).await?;
            let count = match core.pipes.borrow() {
                Some(mut pipe) => self.spliced(from, to, &mut pipe).await?,
                None => {
                    let block = block.get_or_insert_with(|| Block::new(COPIED_BYTES));
                    match from.0.try_recv(block.front_mut(COPIED_BYTES)) {
                        Ok(count) => {
                            self.send(to, block.front(count)).await?;
                            Some(count as u64)
                        }
                        Err(error) if is_blocked(&error) => None,
                        Err(_) => return Err(from.1),
                    }
                }
            };
            match count {
                Some(0) => {
                    to.0.finish();
                    return Ok(());
                }
                Some(count) => moved.set(moved.get() + count),
                None => {}
            }
        }
    }

    /// Moves what there is through the empty `pipe`. 0 is the end, `None` nothing just now.
    async fn spliced(
        &self,
        from: &Side<'_>,
        to: &Side<'_>,
        pipe: &mut Pipe,
    ) -> Result<Option<u64>, Kind> {
        let count = match from.0.try_splice_in(pipe, u64::MAX) {
            Ok(count) => count,
            Err(error) if is_blocked(&error) => return Ok(None),
            Err(_) => return Err(from.1),
        };
        self.touch();
        while pipe.held > 0 {
            match to.0.try_splice_out(pipe, usize::MAX, false) {
                Ok(_) => {
                    self.touch();
                    to.0.fairly().await;
                }
                Err(error) if is_blocked(&error) => self.writable(to).await?,
                Err(_) => return Err(to.1),
            }
        }
        Ok(Some(count))
    }

    async fn send(&self, to: &Side<'_>, mut bytes: &[u8]) -> Result<(), Kind> {
        while !bytes.is_empty() {
            match to.0.try_send(&[io::IoSlice::new(bytes)]) {
                Ok(count) => {
                    self.touch();
                    bytes = bytes.get(count..).unwrap_or_default();
                    to.0.fairly().await;
                }
                Err(error) if is_blocked(&error) => self.writable(to).await?,
                Err(_) => return Err(to.1),
            }
        }
        Ok(())
    }

    async fn readable(&self, side: &Side<'_>) -> Result<(), Kind> {
        loop {
            match side.0.readable(self.left()?).await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                done => return done.map_err(|_| side.1),
            }
        }
    }

    async fn writable(&self, side: &Side<'_>) -> Result<(), Kind> {
        loop {
            match side.0.writable(self.left()?).await {
                Err(error) if error.kind() == io::ErrorKind::TimedOut => {}
                done => return done.map_err(|_| side.1),
            }
        }
    }

    fn touch(&self) {
        self.since.set(Instant::now());
    }

    /// How long the tunnel may still be idle. Fails once it has been for too long.
    fn left(&self) -> Result<Duration, Kind> {
        let left = self.wait.saturating_sub(self.since.get().elapsed());
        if left.is_zero() { Err(Kind::TunnelIdle) } else { Ok(left) }
    }
}

fn is_blocked(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

const COPIED_BYTES: usize = 64 << 10;

#[cfg(test)]
mod tests {
    use std::net::SocketAddr;

    use super::*;
    use crate::vocabulary::Scheme;

    fn check(hosts: &Hosts, host: &str, port: u16) -> Result<(), Kind> {
        let passthrough = Passthrough { hosts: hosts.clone(), ports: vec![443] };
        let origin = Origin { scheme: Scheme::Https, host: host.into(), port };
        passthrough.check(&origin, "cluster.local")
    }

    #[test]
    fn a_host_passes_only_as_the_operator_said() {
        let listed = Hosts::Listed(vec!["mirror.example.com".into(), ".example.org".into()]);
        assert_eq!(check(&Hosts::Nobody, "example.com", 443), Err(Kind::HostDenied));
        for good in ["mirror.example.com", "a.example.org", "a.b.example.org"] {
            assert_eq!(check(&listed, good, 443), Ok(()), "{good}");
        }
        for bad in ["example.org", "evilexample.org", "x.mirror.example.com", "example.com"] {
            assert_eq!(check(&listed, bad, 443), Err(Kind::HostDenied), "{bad}");
        }
        assert_eq!(check(&listed, "a.example.org", 22), Err(Kind::HostDenied));
        assert_eq!(check(&Hosts::Public, "example.com", 443), Ok(()));
        assert_eq!(check(&Hosts::Public, "8.8.8.8", 443), Ok(()));
        for bad in [
            "localhost",
            "a.localhost",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
            "0x7f000001",
            "2130706433",
            "127.1",
        ] {
            assert_eq!(check(&Hosts::Public, bad, 443), Err(Kind::HostForbidden), "{bad}");
        }
    }

    #[test]
    fn an_address_is_dialled_only_if_nothing_private_can_be_there() {
        let public = Passthrough { hosts: Hosts::Public, ports: Vec::new() };
        let listed = Passthrough { hosts: Hosts::Listed(Vec::new()), ports: Vec::new() };
        let ip = |text: &str| text.parse::<SocketAddr>().unwrap().ip();
        for private in
            ["10.0.0.1:1", "192.168.1.1:1", "172.16.0.1:1", "100.64.0.1:1", "[fd00::1]:1"]
        {
            assert!(!public.permits(ip(private)) && listed.permits(ip(private)), "{private}");
        }
        for never in ["127.0.0.1:1", "169.254.169.254:1", "[::1]:1", "[::ffff:127.0.0.1]:1"] {
            assert!(!public.permits(ip(never)) && !listed.permits(ip(never)), "{never}");
        }
        assert!(public.permits(ip("8.8.8.8:1")) && public.permits(ip("[2606:4700::1]:1")));
    }
}
