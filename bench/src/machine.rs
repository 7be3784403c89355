//! The machine that a measurement was made on, as results keep it.
//!
//! Files of /proc in, a [`Machine`] out. What cannot be read stays empty.

use std::collections::BTreeMap;
use std::fs;
use std::time::SystemTime;

use crate::results::Machine;

/// This machine, this program and its command line. Flags name files for secrets, so the line
/// holds none but for the userinfo that a URL may have; that is left out.
pub(crate) fn describe() -> Machine {
    let read = |path: &str| fs::read_to_string(path).unwrap_or_default().trim().to_owned();
    let field = |path: &str, name: &str| {
        let text = read(path);
        let line = text.lines().find_map(|line| line.strip_prefix(name));
        line.and_then(|line| line.split_once(':')).map(|(_, value)| value.trim().to_owned())
    };
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let memory = field("/proc/meminfo", "MemTotal").unwrap_or_default();
    let memory: Option<u64> = memory.split(' ').next().and_then(|kib| kib.parse().ok());
    Machine {
        unix_time: since.as_secs(),
        cpu: field("/proc/cpuinfo", "model name").unwrap_or_default(),
        cpus: std::thread::available_parallelism().map_or(0, std::num::NonZero::get),
        kernel: read("/proc/sys/kernel/osrelease"),
        memory_mib: memory.unwrap_or_default() / 1024,
        congestion_control: read("/proc/sys/net/ipv4/tcp_congestion_control"),
        own_namespace: false,
        versions: BTreeMap::from([("bench".to_owned(), env!("CARGO_PKG_VERSION").to_owned())]),
        command: command(|_| true),
    }
}

/// The command line without credentials and with the program by its name alone, of the words that
/// `is_kept` keeps.
pub(crate) fn command(is_kept: impl Fn(&str) -> bool) -> String {
    let given = std::env::args().skip(1).filter(|part| is_kept(part));
    let words = std::iter::once("bench".to_owned()).chain(given.map(|part| without_login(&part)));
    words.collect::<Vec<_>>().join(" ")
}

fn without_login(part: &str) -> String {
    let Some((scheme, rest)) = part.split_once("://") else {
        return part.to_owned();
    };
    let authority = rest.split('/').next().unwrap_or_default();
    match authority.rsplit_once('@') {
        Some((login, _)) => {
            format!("{scheme}://{}", rest.get(login.len() + 1..).unwrap_or_default())
        }
        None => part.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_machine_has_a_kernel_and_memory_and_no_password() {
        let machine = describe();
        assert!(!machine.kernel.is_empty() && machine.memory_mib > 0 && machine.cpus > 0);
        assert_eq!(without_login("--proxy=http://pod:token@h:1/x"), "--proxy=http://h:1/x");
        assert_eq!(without_login("http://h/a@b"), "http://h/a@b");
    }
}
