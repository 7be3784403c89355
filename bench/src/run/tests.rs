//! The verb as people use it, up to what becomes of its exit code: an error is 1.

use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::Ordering;

use clap::Parser;

use super::*;
use crate::registry::{Registry, Settings};
use crate::results::Line as Record;

#[derive(Parser)]
struct Line {
    #[command(flatten)]
    flags: Flags,
}

fn run_line(line: &str) -> anyhow::Result<Ending> {
    let words = ["run"].into_iter().chain(line.split_whitespace());
    carry_out(Line::try_parse_from(words)?.flags, &AtomicBool::new(false))
}

fn registry() -> SocketAddr {
    let settings = Settings {
        listen: "127.0.0.1:0".parse().unwrap(),
        login: None,
        discard: false,
        log_accounts: false,
        markers: Vec::new(),
    };
    Registry::start(settings).unwrap().address()
}

#[test]
fn a_run_appends_the_machine_and_the_load_to_its_results() {
    let folder = tempfile::tempdir().unwrap();
    let (plan, json) = (folder.path().join("plan.toml"), folder.path().join("run.jsonl"));
    std::fs::write(&plan, "scenario = 'push'\nsize = '8KiB'\nrequests = 5\n").unwrap();
    let line = format!(
        "--target http://{} --plan {} --json {} --requests 7",
        registry(),
        plan.display(),
        json.display()
    );
    assert_eq!(run_line(&line).unwrap(), Ending::Whole);
    assert_eq!(run_line(&line).unwrap(), Ending::Whole);
    let lines = results::read(&json).unwrap();
    let [Record::Machine(machine), Record::Load(load), Record::Machine(_), Record::Load(_)] =
        lines.as_slice()
    else {
        panic!("{lines:?}");
    };
    assert!(machine.cpus > 0);
    assert_eq!((load.requests, load.bytes_up, load.case.as_str()), (7, 7 * 8192, "push"));
}

#[test]
fn failed_requests_make_the_exit_code_1_unless_they_are_allowed() {
    let closed = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
    let line = format!("--target http://{closed} --scenario push --requests 4");
    assert_eq!(run_line(&line).unwrap_err().to_string(), "4 requests failed, 0 may");
    assert_eq!(run_line(&format!("{line} --allow-failures 4")).unwrap(), Ending::Whole);
}

#[test]
fn what_was_set_up_once_need_not_be_set_up_again() {
    let line = format!("--target http://{} --size 4KiB --requests 3", registry());
    let refused = run_line(&format!("{line} --no-set-up")).unwrap_err();
    assert_eq!(refused.to_string(), "3 requests failed, 0 may");
    assert_eq!(run_line(&format!("{line} --only-set-up")).unwrap(), Ending::Whole);
    assert_eq!(run_line(&format!("{line} --no-set-up")).unwrap(), Ending::Whole);
}

#[test]
fn an_interrupted_run_is_told_from_a_whole_one() {
    let words = ["run", "--target", &format!("http://{}", registry()), "--duration", "1h"];
    let stop = AtomicBool::new(false);
    let flags = Line::try_parse_from(words).unwrap().flags;
    std::thread::scope(|scope| {
        scope.spawn(|| {
            std::thread::sleep(std::time::Duration::from_millis(300));
            stop.store(true, Ordering::Relaxed);
        });
        assert_eq!(carry_out(flags, &stop).unwrap(), Ending::Interrupted);
    });
}
