//! A network of a story's own: addresses that would belong to others can be had there.
//!
//! A story in, run on a thread in a new network namespace; what it starts is in there as well.
//! Nothing of it can be reached from outside, and nothing outside from there. Root is needed.

use std::fs::File;
use std::os::fd::AsFd as _;
use std::process::{Child, Command, Stdio};
use std::thread;

use rustix::thread::{LinkNameSpaceType, move_into_link_name_space};

use super::eventually;

/// Keeps the namespace open until it is dropped.
struct Holder(Child);

impl Drop for Holder {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs `story` where this machine has `addresses`, beside its loopback ones, and no other network.
pub(crate) fn apart(addresses: &[&str], story: impl FnOnce() + Send) {
    let setup: String =
        addresses.iter().map(|ip| format!("ip addr add {ip}/32 dev lo; ")).collect();
    let script = format!("ip link set lo up; {setup} echo ready; exec sleep 600");
    let mut command = Command::new("unshare");
    let child = command.args(["-n", "sh", "-ec", &script]).stdin(Stdio::null());
    let mut holder = Holder(child.stdout(Stdio::piped()).spawn().expect("unshare starts"));
    let mut line = String::new();
    let out = holder.0.stdout.take().expect("its output");
    std::io::BufRead::read_line(&mut std::io::BufReader::new(out), &mut line).expect("a line");
    assert_eq!(line, "ready\n");
    let path = format!("/proc/{}/ns/net", holder.0.id());
    let namespace = eventually("the namespace", || File::open(&path).ok());
    let story = move || {
        let kind = Some(LinkNameSpaceType::Network);
        move_into_link_name_space(namespace.as_fd(), kind).expect("a network of our own");
        story();
    };
    let told = thread::scope(|scope| scope.spawn(story).join());
    if let Err(failure) = told {
        std::panic::resume_unwind(failure);
    }
}
