//! How the program starts, and how it says that it cannot.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use crate::support::caller::request;
use crate::support::manifests::connector;
use crate::support::proxy::run;
use crate::support::{Caller, FakeRegistry, Manifests, PREFIX, Proxy};

#[test]
fn the_line_of_json_says_where_it_listens_and_what_it_runs_on() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &["--cores", "2"]);

    let ready = &proxy.ready;
    assert_ne!(proxy.listen.port(), 0);
    assert_ne!(proxy.admin.port(), proxy.listen.port());
    assert_eq!((&ready["cores"], &ready["connectors"]), (&2.into(), &1.into()), "{ready}");
    let io = ready["io"].as_str().unwrap_or_default();
    let expected = match std::env::var("HARBOR_CONNECTOR_IO").as_deref() {
        Ok("uring") => ["io_uring"].as_slice(),
        Ok("epoll") => ["epoll"].as_slice(),
        _ => ["io_uring", "epoll"].as_slice(),
    };
    assert!(expected.contains(&io), "{ready}");
}

#[test]
fn the_driver_that_was_asked_for_is_the_one_that_serves() {
    let registry = FakeRegistry::obliging();
    for (flag, named) in [("epoll", "epoll"), ("uring", "io_uring")] {
        let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &["--io", flag]);
        assert_eq!(proxy.ready["io"], named);
        assert_eq!(proxy.get(&format!("{PREFIX}/team/app/manifests/v1")).status, 200);
    }
}

#[test]
fn one_core_is_enough() {
    let registry = FakeRegistry::obliging();
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &["--cores", "1"]);
    assert_eq!(proxy.ready["cores"], 1);
    assert_eq!(proxy.get("/v2/").status, 200);
}

#[test]
fn callers_of_both_families_are_served_and_named_by_the_address_they_have() {
    let registry = FakeRegistry::obliging();
    // As the manifests listen. Which port is free nobody knows before.
    let everywhere = ["--listen", "[::]:0"];
    let proxy = Proxy::start(&Manifests::for_registry(&registry.url()), &everywhere);
    let said = proxy.logged(&["serving", "[::]:"]);
    let port = said.split("[::]:").nth(1).and_then(|rest| rest.split(']').next()).expect("a port");
    let port: u16 = port.parse().expect("a number");
    let target = format!("{PREFIX}/team/app/manifests/v1");
    let addresses: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
    for address in addresses {
        let here = SocketAddr::new(address, port);
        // At its own address it is no forward proxy, however it is named.
        for target in [target.clone(), format!("http://{here}/v2/")] {
            let reply = Caller::connect(here).ask(&request("GET", &target, ""));
            assert_eq!(reply.status, 200, "{here}: {reply}");
        }
        proxy.logged(&["access", SocketAddr::new(address, 0).to_string().trim_end_matches('0')]);
    }
    assert!(!proxy.log().contains("::ffff:"), "{}", proxy.log());
}

#[test]
fn a_wrong_flag_is_a_usage_error() {
    for arguments in [&["proxy", "--no-such-flag"][..], &["proxy", "--io", "kqueue"], &["dance"]] {
        let (code, stdout, stderr) = run(arguments);
        assert_eq!(code, Some(2), "{arguments:?}: {stderr}");
        assert_eq!(stdout, "", "{arguments:?}");
        assert_ne!(stderr, "", "{arguments:?}");
    }
}

#[test]
fn a_folder_that_is_missing_is_named_and_ends_the_start() {
    let (code, stdout, stderr) =
        run(&["proxy", "--file", "no/such/folder", "--listen", "127.0.0.1:0"]);
    assert_eq!(code, Some(1), "{stderr}");
    assert_eq!(stdout, "");
    assert!(stderr.contains("no/such/folder"), "{stderr}");
}

#[test]
fn an_address_that_is_taken_ends_the_start() {
    let taken = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let address = taken.local_addr().expect("bound").to_string();
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    let folder = folder.path().to_str().expect("a plain path");
    for flag in ["--listen", "--admin"] {
        let other = if flag == "--listen" { "--admin" } else { "--listen" };
        let (code, stdout, stderr) =
            run(&["proxy", "--file", folder, flag, &address, other, "127.0.0.1:0"]);
        assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
        assert!(stderr.contains(&address), "{stderr}");
    }
}

#[test]
fn a_manifest_with_a_problem_costs_only_what_it_describes() {
    let registry = FakeRegistry::obliging();
    let manifests = Manifests::for_registry(&registry.url())
        .with("odd.yaml", &connector("ci", "odd", "ftp://127.0.0.1", ""));
    let proxy = Proxy::start(&manifests, &[]);
    proxy.logged(&["odd.yaml", "ftp"]);
    assert_eq!(proxy.get(&format!("{PREFIX}/team/app/manifests/v1")).status, 200);
}

#[test]
fn a_file_that_is_no_yaml_ends_the_start_because_there_is_no_last_good_state_yet() {
    let folder = tempfile::TempDir::new().expect("a temporary folder");
    std::fs::write(folder.path().join("broken.yaml"), "kind: Connector\nmetadata: {name: [}\n")
        .expect("a manifest");
    let folder = folder.path().to_str().expect("a plain path");
    let (code, stdout, stderr) =
        run(&["proxy", "--file", folder, "--listen", "127.0.0.1:0", "--admin", "127.0.0.1:0"]);
    assert_eq!((code, stdout.as_str()), (Some(1), ""), "{stderr}");
    assert!(stderr.contains("broken.yaml"), "{stderr}");
}
