//! Names to addresses, off the cores, and the addresses that are never dialled.
//!
//! A core asks over a bounded queue and is answered by mail; two helper threads of the process do
//! the blocking look-ups. What was found serves for `resolve_age_max`, and while the resolver fails
//! for `resolve_stale_max`. Whoever dials asks [`is_forbidden`] about each address first.

mod public;

use std::cell::RefCell;
use std::collections::HashMap;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, ToSocketAddrs};
use std::time::{Duration, Instant};

use crossbeam::channel::{Receiver, Sender, bounded};
use futures_channel::oneshot;

use crate::error::Kind;
use crate::io::within;
use crate::limits::Limits;
use crate::mailbox::{Mail, Postbox};

pub(crate) use public::is_public;

/// One name to look up, and who wants to know.
#[derive(Debug)]
pub(crate) struct Lookup {
    host: Box<str>,
    port: u16,
    number: u64,
    postbox: Postbox,
}

/// Starts the helper threads; they end when the last sender is gone.
#[expect(clippy::disallowed_methods, reason = "threads of their own, which exist to block here")]
pub(crate) fn start_helpers() -> io::Result<Sender<Lookup>> {
    let (sender, lookups) = bounded(LOOKUPS_WAITING_MAX);
    for number in 0..HELPERS {
        let lookups: Receiver<Lookup> = lookups.clone();
        std::thread::Builder::new().name(format!("resolve-{number}")).spawn(move || {
            for Lookup { host, port, number, postbox } in lookups {
                let found = (&*host, port).to_socket_addrs().map(Iterator::collect);
                postbox.send(Mail::Addresses(number, found));
            }
        })?;
    }
    Ok(sender)
}

/// What one core knows about names.
pub(crate) struct Names {
    lookups: Sender<Lookup>,
    postbox: Postbox,
    state: RefCell<State>,
}

#[derive(Default)]
struct State {
    known: HashMap<(Box<str>, u16), Known>,
    asked: HashMap<u64, (Box<str>, u16)>,
    next_number: u64,
}

#[derive(Default)]
struct Known {
    addresses: Vec<SocketAddr>,
    found_at: Option<Instant>,
    asked_at: Option<Instant>,
    waiting: Vec<oneshot::Sender<()>>,
}

impl Names {
    /// Knows nothing yet; answers to its look-ups come to `postbox`.
    pub(crate) fn new(lookups: Sender<Lookup>, postbox: Postbox) -> Self {
        Self { lookups, postbox, state: RefCell::default() }
    }

    /// The addresses of `host`, with `port`; never an empty list.
    pub(crate) async fn addresses(
        &self,
        host: &str,
        port: u16,
        limits: &Limits,
    ) -> Result<Vec<SocketAddr>, Kind> {
        if let Ok(address) = host.parse::<IpAddr>() {
            return Ok(vec![SocketAddr::new(address, port)]);
        }
        let key = (Box::from(host), port);
        if let Some(fresh) = self.known(&key, limits.resolve_age_max) {
            return Ok(fresh);
        }
        let answered = self.ask(&key, limits.resolve_wait)?;
        // However the wait ends, what is known by then decides.
        let _ = within(limits.resolve_wait, answered).await;
        self.known(&key, limits.resolve_stale_max).ok_or(Kind::RegistryUnresolved)
    }

    /// Takes the answer to look-up `number`.
    pub(crate) fn deliver(&self, number: u64, found: io::Result<Vec<SocketAddr>>, now: Instant) {
        let mut state = self.state.borrow_mut();
        let Some(key) = state.asked.remove(&number) else {
            return;
        };
        let Some(known) = state.known.get_mut(&key) else {
            return;
        };
        known.asked_at = None;
        match found {
            Ok(addresses) if !addresses.is_empty() => {
                known.addresses = addresses;
                known.found_at = Some(now);
            }
            Ok(_) => known.found_at = None,
            Err(error) => {
                tracing::warn!(host = %key.0, %error, "a registry's name cannot be resolved");
                if says_no_such_name(&error) {
                    known.found_at = None;
                }
            }
        }
        for waiting in known.waiting.drain(..) {
            // Whoever no longer waits needs no answer.
            let _ = waiting.send(());
        }
    }

    /// Forgets names that nobody has asked for in a long time.
    pub(crate) fn expire(&self, now: Instant, age_max: Duration) {
        self.state.borrow_mut().known.retain(|_, known| {
            let found = known.found_at.is_some_and(|at| now.duration_since(at) < age_max);
            found || known.asked_at.is_some_and(|at| now.duration_since(at) < age_max)
        });
    }

    fn known(&self, key: &(Box<str>, u16), age_max: Duration) -> Option<Vec<SocketAddr>> {
        let state = self.state.borrow();
        let known = state.known.get(key)?;
        (known.found_at?.elapsed() < age_max).then(|| known.addresses.clone())
    }

    /// Joins the look-up of `key` that is under way, or starts one.
    fn ask(&self, key: &(Box<str>, u16), wait: Duration) -> Result<oneshot::Receiver<()>, Kind> {
        let mut state = self.state.borrow_mut();
        state.next_number += 1;
        let number = state.next_number;
        let known = state.known.entry(key.clone()).or_default();
        let (sender, answered) = oneshot::channel();
        known.waiting.push(sender);
        if known.asked_at.is_some_and(|at| at.elapsed() < wait) {
            return Ok(answered);
        }
        let lookup =
            Lookup { host: key.0.clone(), port: key.1, number, postbox: self.postbox.clone() };
        self.lookups.try_send(lookup).map_err(|_| Kind::Overloaded)?;
        known.asked_at = Some(Instant::now());
        state.asked.insert(number, key.clone());
        Ok(answered)
    }
}

/// Whether no connector may lead to `address`: it is this machine's own, a link's, a cloud's
/// metadata service, or no unicast address at all. Private ranges are allowed, for Harbor often is
/// in the cluster; loopback only where `loopback_allowed`.
pub fn is_forbidden(address: IpAddr, loopback_allowed: bool) -> bool {
    let address = unwrapped(address);
    if address.is_loopback() {
        return !loopback_allowed;
    }
    match address {
        IpAddr::V4(v4) => {
            let [first, ..] = v4.octets();
            first == 0 || first >= 224 || v4.is_link_local() || METADATA_V4.contains(&v4)
        }
        IpAddr::V6(v6) => {
            let inner = embedded(v6).map(IpAddr::V4);
            v6.is_unspecified()
                || v6.is_multicast()
                || v6.is_unicast_link_local()
                || METADATA_V6.contains(&v6)
                || inner.is_some_and(|inner| is_forbidden(inner, false))
        }
    }
}

/// The IPv4 address that some routers would find in an IPv6 one which is none of the common kinds:
/// behind a network's own NAT64 prefix (RFC 8215; all 96 bits of it, as is usual), compatible
/// (RFC 4291 §2.5.5.1, deprecated) and translated (RFC 2765 §2.1, obsolete) ones.
fn embedded(v6: Ipv6Addr) -> Option<Ipv4Addr> {
    match v6.segments() {
        [0x64, 0xff9b, 1, ..] | [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => {
            let [.., a, b, c, d] = v6.octets();
            Some(Ipv4Addr::new(a, b, c, d))
        }
        _ => None,
    }
}

/// Whether `address` belongs to no public network: private and shared ranges (RFC 1918, RFC 6598,
/// RFC 4193), loopback, and what is set apart for protocols and measurements (RFC 6890).
pub(crate) fn is_private(address: IpAddr) -> bool {
    let address = unwrapped(address);
    match address {
        IpAddr::V4(v4) => match v4.octets() {
            [100, second, ..] => (64..128).contains(&second),
            [192, 0, 0, _] | [198, 18 | 19, ..] => true,
            _ => v4.is_private() || v4.is_loopback(),
        },
        IpAddr::V6(v6) => {
            let [first, second, third, ..] = v6.segments();
            // A network's own NAT64 prefix (RFC 8215) leads into that network.
            let nat64 = (first, second, third) == (0x64, 0xff9b, 1);
            // fec0::/10 was site-local once (RFC 3879), and still is to some routers.
            v6.is_loopback() || v6.is_unique_local() || first & 0xffc0 == 0xfec0 || nat64
        }
    }
}

/// The IPv4 address inside an IPv6 one: mapped (RFC 4291 §2.5.5.2), NAT64 (RFC 6052 §2.1) and
/// 6to4 (RFC 3056 §2) addresses lead to it.
fn unwrapped(address: IpAddr) -> IpAddr {
    let IpAddr::V6(v6) = address else {
        return address;
    };
    if let Some(v4) = v6.to_ipv4_mapped() {
        return IpAddr::V4(v4);
    }
    let v4 = |high: u16, low: u16| {
        IpAddr::V4(Ipv4Addr::from_bits(u32::from(high) << 16 | u32::from(low)))
    };
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] | [0x2002, high, low, ..] => v4(high, low),
        _ => address,
    }
}

/// The resolver's word for "there is no such name" (EAI_NONAME); std gives nothing but its text.
fn says_no_such_name(error: &io::Error) -> bool {
    error.to_string().contains("Name or service not known")
}

/// Metadata services outside the link-local range: Alibaba, Oracle, Azure.
const METADATA_V4: [Ipv4Addr; 3] = [
    Ipv4Addr::new(100, 100, 100, 200),
    Ipv4Addr::new(192, 0, 0, 192),
    Ipv4Addr::new(168, 63, 129, 16),
];
/// The same for IPv6: AWS, its Pod identity agent, Google.
const METADATA_V6: [Ipv6Addr; 3] = [
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254),
    Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x23),
    Ipv6Addr::new(0xfd20, 0xce, 0, 0, 0, 0, 0, 0x254),
];

const HELPERS: usize = 2;
const LOOKUPS_WAITING_MAX: usize = 1024;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_are_nobodys_registry_are_never_dialled() {
        for forbidden in [
            "0.0.0.0",
            "127.0.0.1",
            "169.254.169.254",
            "169.254.170.2",
            "100.100.100.200",
            "192.0.0.192",
            "168.63.129.16",
            "224.0.0.1",
            "255.255.255.255",
            "::",
            "::1",
            "fe80::1",
            "ff02::1",
            "fd00:ec2::254",
            "fd20:ce::254",
            "::ffff:127.0.0.1",
            "::ffff:169.254.169.254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "64:ff9b:1::7f00:1",
            "2002:a9fe:a9fe::1",
            "::169.254.169.254",
            "::127.0.0.1",
            "::2",
            "::ffff:0:169.254.169.254",
        ] {
            assert!(is_forbidden(forbidden.parse().unwrap(), false), "{forbidden}");
        }
        for allowed in [
            "10.0.0.7",
            "192.168.1.1",
            "100.64.0.1",
            "8.8.8.8",
            "fd00::7",
            "2001:db8::1",
            "64:ff9b:1::a00:7",
        ] {
            assert!(!is_forbidden(allowed.parse().unwrap(), false), "{allowed}");
        }
    }

    #[test]
    fn private_addresses_are_told_from_public_ones() {
        for private in [
            "10.0.0.7",
            "172.16.0.1",
            "172.31.255.255",
            "192.168.1.1",
            "100.64.0.1",
            "100.127.255.255",
            "127.0.0.1",
            "198.18.0.1",
            "192.0.0.8",
            "fd00::7",
            "fc00::1",
            "fec0::1",
            "::1",
            "::ffff:10.0.0.1",
            "64:ff9b::c0a8:101",
        ] {
            assert!(is_private(private.parse().unwrap()), "{private}");
        }
        for public in ["8.8.8.8", "100.63.0.1", "100.128.0.1", "172.32.0.1", "2001:db8::1"] {
            assert!(!is_private(public.parse().unwrap()), "{public}");
        }
    }

    #[test]
    fn loopback_is_a_registry_only_where_the_folders_owner_says_so() {
        assert!(!is_forbidden("127.0.0.1".parse().unwrap(), true));
        assert!(!is_forbidden("::1".parse().unwrap(), true));
        assert!(is_forbidden("::127.0.0.1".parse().unwrap(), true), "nobody writes it so");
        assert!(is_forbidden("169.254.169.254".parse().unwrap(), true), "metadata stays forbidden");
    }
}
