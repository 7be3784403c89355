//! Rows of heads: what is taken, and what each odd one is refused with.

use super::*;
use crate::fuzzing::{self, Dice, limits};

fn check(head: &str, expected: Result<&str, &str>) {
    let described = request(head.as_bytes(), &limits())
        .map(|parsed| match parsed {
            Some((parsed, length)) => {
                assert_eq!(length, head.len(), "{head:?}");
                format!("{} {} {}", parsed.method.as_str(), parsed.target(), parsed.host())
            }
            None => "more".to_owned(),
        })
        .map_err(word);
    assert_eq!(described, expected.map(str::to_owned).map_err(str::to_owned), "{head:?}");
}

fn word(kind: Kind) -> String {
    kind.facts().word.to_owned()
}

/// A GET of `/v2/` whose fields are `fields`, after a Host.
fn with(fields: &str) -> String {
    format!("GET /v2/ HTTP/1.1\r\nHost: h\r\n{fields}\r\n")
}

#[test]
fn a_plain_head_is_read() {
    check("GET /v2/ HTTP/1.1\r\nHost: c-h.ci:80\r\n\r\n", Ok("GET /v2/ c-h.ci:80"));
    check("DELETE /v2/a?b=c HTTP/1.1\r\nhost:[::1]\r\n\r\n", Ok("DELETE /v2/a?b=c [::1]"));
    check("\r\nPUT / HTTP/1.1\r\nHost: h\r\n\r\n", Ok("PUT / h"));
    check("HEAD / HTTP/1.0\r\n\r\n", Ok("HEAD / "));
}

#[test]
fn an_incomplete_head_waits_for_more() {
    let head = "\r\nPATCH /v2/a/b/blobs/uploads/u HTTP/1.1\r\nHost: h\r\nA: b\r\n\r\n";
    for cut in 0..head.len() {
        check(head.get(..cut).unwrap(), Ok("more"));
    }
    let twice = [head, "GET"].concat();
    let (_, length) = request(twice.as_bytes(), &limits()).unwrap().unwrap();
    assert_eq!(length, head.len(), "what follows is the next request");
}

#[test]
fn garbage_fails_at_once() {
    for front in ["\x16\x03\x01", "\0", " ", "get ", "\r\n\r\n", "\n", "GET\r\n", "(", "1"] {
        check(front, Err("malformed"));
    }
    check(&"A".repeat(1024), Err("malformed"));
    check("GET /a\x7f", Err("malformed"));
    check("GET /\u{e9}", Err("malformed"));
    check("GET / HTTP/1.1\r\nHost: h\n", Err("malformed"));
}

#[test]
fn other_methods_are_told_from_garbage() {
    for method in ["TRACE", "OPTIONS", "PRI", "MKCOL"] {
        check(&format!("{method} / HTTP/1.1\r\nHost: h\r\n\r\n"), Err("method-not-allowed"));
    }
    check("PRI * HTTP/2.0\r\n\r\n", Err("method-not-allowed"));
    check("gET / HTTP/1.1\r\nHost: h\r\n\r\n", Err("malformed"));
}

#[test]
fn a_line_that_two_parsers_read_differently_is_refused() {
    let heads = [
        "A: b\nC: d\r\n",
        "A: b\n\r\n",
        "\nA: b\r\n",
        "A: b\rC: d\r\n",
        "A: b\0c\r\n",
        "A: b\x0bc\r\n",
        "A: b\x7f\r\n",
        "A : b\r\n",
        "A\t: b\r\n",
        " A: b\r\n",
        "A: b\r\n c\r\n",
        "A: b\r\n\tc\r\n",
        ": b\r\n",
        "A\u{e9}: b\r\n",
        "A b: c\r\n",
        "A\r\n",
        "(A): b\r\n",
        "Content_Length: 4\r\n",
        "X_Forwarded_For: ::1\r\n",
        "Transfer-Encoding : chunked\r\n",
        "Transfer-Encoding: \x0bchunked\r\n",
    ];
    for fields in heads {
        check(&with(fields), Err("malformed"));
    }
    for line in [
        "GET  / HTTP/1.1",
        "GET / HTTP/1.1 ",
        "GET / HTTP/1.2",
        "GET / HTTP/2.0",
        "GET / http/1.1",
        "GET /",
        "GET / x HTTP/1.1",
        "GET\t/ HTTP/1.1",
        "GET  HTTP/1.1",
    ] {
        check(&format!("{line}\r\nHost: h\r\n\r\n"), Err("malformed"));
    }
    check("\r\n\r\nGET / HTTP/1.1\r\nHost: h\r\n\r\n", Err("malformed"));
}

#[test]
fn a_request_has_one_host() {
    check("GET / HTTP/1.1\r\n\r\n", Err("malformed"));
    check(&with("Host: h\r\n"), Err("malformed"));
    for host in ["", "a b", "u@h", "h/p", "h:", "h:x", "h:99999", "%68", "[::1", "[x]", "a,b"] {
        check(&format!("GET / HTTP/1.1\r\nHost: {host}\r\n\r\n"), Err("malformed"));
    }
}

#[test]
fn a_head_has_bounds() {
    let long = |target: usize| format!("GET /{}", "a".repeat(target));
    check(&long(8 * 1024), Err("target-too-long"));
    check(&[&long(8 * 1024 - 1), " HTTP/1.1\r\nHost: h\r\n"].concat(), Ok("more"));
    check(&with(&"A: b\r\n".repeat(127)), Ok("GET /v2/ h"));
    check(&with(&"A: b\r\n".repeat(128)), Err("head-too-large"));
    check(&with(&format!("A: {}\r\n", "b".repeat(64 * 1024))), Err("head-too-large"));
    let partial = format!("GET / HTTP/1.1\r\nHost: h\r\nA: {}", "b".repeat(64 * 1024));
    check(&partial, Err("head-too-large"));
    check(partial.get(..64 * 1024 - 1).unwrap(), Ok("more"));
}

#[test]
fn a_connection_is_kept_as_its_version_says() {
    let kept = |version: &str, fields: &str| {
        let head = format!("GET / {version}\r\nHost: h\r\n{fields}\r\n");
        request(head.as_bytes(), &limits()).unwrap().unwrap().0.keep_alive()
    };
    assert!(kept("HTTP/1.1", ""));
    assert!(!kept("HTTP/1.1", "Connection: x, Close\r\n"));
    assert!(!kept("HTTP/1.0", ""));
    assert!(kept("HTTP/1.0", "Connection: Keep-Alive\r\n"));
    assert!(!kept("HTTP/1.0", "Connection: keep-alive\r\nConnection: close\r\n"));
}

#[test]
fn only_one_expectation_is_known() {
    let expects = |version: &str, fields: &str| {
        let head = format!("PUT / {version}\r\nHost: h\r\n{fields}\r\n");
        request(head.as_bytes(), &limits()).unwrap().unwrap().0.expects_continue()
    };
    assert_eq!(expects("HTTP/1.1", ""), Ok(false));
    assert_eq!(expects("HTTP/1.1", "Expect: 100-Continue\r\n"), Ok(true));
    assert_eq!(expects("HTTP/1.0", "Expect: 100-continue\r\n"), Ok(false));
    assert_eq!(expects("HTTP/1.1", "Expect: foo\r\n"), Err(Kind::ExpectationUnknown));
}

#[test]
fn fields_are_found_in_any_case_and_never_printed() {
    let head = with("Accept: a\r\nACCEPT:  b \r\nAuthorization: Bearer hunter2\r\nEmpty:\r\n");
    let (head, _) = request(head.as_bytes(), &limits()).unwrap().unwrap();
    assert_eq!(head.fields.get("accept"), Some(&b"a"[..]));
    assert!(head.fields.all("Accept").eq([b"a", b"b"]));
    assert_eq!(head.fields.get("empty"), Some(&b""[..]));
    assert_eq!(head.fields.get("absent"), None);
    assert!(!format!("{head:?}").contains("hunter2"));
}

#[test]
fn only_a_line_with_nothing_odd_in_it_is_plain() {
    let lines = [
        "A: b\r\n",
        "C:d\r\n",
        "E:  f\r\n",
        "G: h \r\n",
        "I:\tj\r\n",
        "K:\r\n",
        "L: \r\n",
        "M: n: o\r\n",
    ];
    let head = with(&lines.concat());
    let (head, _) = request(head.as_bytes(), &limits()).unwrap().unwrap();
    let plain: Vec<_> = head.fields.lines().filter_map(|line| line.plain).collect();
    let plain: Vec<_> = plain.into_iter().map(|line| str::from_utf8(line).unwrap()).collect();
    assert_eq!(plain, ["Host: h\r\n", "A: b\r\n", "L: \r\n", "M: n: o\r\n"]);
    let values: Vec<_> = head.fields.lines().map(|line| line.value).collect();
    assert_eq!(values, [b"h" as &[u8], b"b", b"d", b"f", b"h", b"j", b"", b"", b"n: o"]);
}

#[test]
fn a_field_is_found_however_long_its_name_is() {
    for length in [1, 13, 62, 63, 64, 100] {
        let name = "x".repeat(length);
        let head = with(&format!("{name}: a\r\n{name}y: b\r\n"));
        let (head, _) = request(head.as_bytes(), &limits()).unwrap().unwrap();
        assert_eq!(head.fields.get(&name), Some(&b"a"[..]), "{length}");
        assert!(head.fields.all(&format!("{name}Y")).eq([b"b"]), "{length}");
        assert_eq!(head.fields.get(&format!("{name}yy")), None, "{length}");
    }
}

#[test]
fn an_answer_is_read_as_strictly() {
    let check = |head: &str, expected: Result<&str, ()>| {
        let described = response(head.as_bytes(), &limits())
            .map(|parsed| match parsed {
                Some((head, length)) => format!("{} {:?} {length}", head.status, head.reason()),
                None => "more".to_owned(),
            })
            .map_err(|kind| assert!(matches!(kind, Kind::RegistryMalformed(_)), "{kind:?}"));
        assert_eq!(described, expected.map(str::to_owned), "{head:?}");
    };
    check("HTTP/1.1 200 OK\r\n\r\nbody", Ok("200 \"OK\" 19"));
    check("HTTP/1.0 404 Not Found\r\nA: b\r\n\r\n", Ok("404 \"Not Found\" 32"));
    check("HTTP/1.1 200\r\n\r\n", Ok("200 \"\" 16"));
    check("HTTP/1.1 200 Sch\u{f6}n\r\n\r\n", Ok("200 \"\" 23"));
    check("", Ok("more"));
    check("HTTP/1.1 200 OK\r\n", Ok("more"));
    for head in [
        "\r\nHTTP/1.1 200 OK\r\n\r\n",
        "HTTP/2.0 200 OK\r\n\r\n",
        "SSH-2.0",
        "HTTP/1.1 99 x\r\n\r\n",
        "HTTP/1.1 000 x\r\n\r\n",
        "HTTP/1.1 600 x\r\n\r\n",
        "HTTP/1.1 2000 x\r\n\r\n",
        "HTTP/1.1 200 OK\nA: b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA : b\r\n\r\n",
        "HTTP/1.1 200 OK\r\nA: b\r\n c\r\n\r\n",
    ] {
        check(head, Err(()));
    }
    check(&format!("HTTP/1.1 200 OK\r\n{}\r\n", "A: b\r\n".repeat(129)), Err(()));
    check(&format!("HTTP/1.1 200 OK\r\nA: {}", "b".repeat(64 * 1024)), Err(()));
}

#[test]
fn any_bytes_leave_the_parser_in_order() {
    for seed in 0..3000 {
        let mut dice = Dice::new(seed);
        let mut text = String::new();
        for _ in 0..dice.below(24) {
            text.push_str(dice.pick(&[
                "GET ",
                "/v2/",
                " HTTP/1.1\r\n",
                "Host: h\r\n",
                "\r\n",
                "\n",
                "\r",
                "A: b",
                ":",
                " ",
                "\0",
                "HTTP/1.1 200 OK\r\n",
                "Content-Length: 1\r\n",
                "\u{e9}",
                "\t",
                "_",
            ]));
        }
        println!("seed {seed}");
        fuzzing::parse(text.as_bytes());
    }
}
