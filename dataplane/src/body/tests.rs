//! Rows of framings and of chunks, and a decoder that is shown the same bytes in pieces.

use super::*;
use crate::fuzzing::{self, Dice, limits};
use crate::parse;

fn framing(line: &str, fields: &str) -> Result<Framing, &'static str> {
    let head = format!("{line}\r\nHost: h\r\n{fields}\r\n");
    let (head, _) = parse::request(head.as_bytes(), &limits()).unwrap().unwrap();
    of_request(&head).map_err(|kind| kind.facts().word)
}

#[test]
fn a_request_says_one_way_where_its_body_ends() {
    let put = |fields: &str| framing("PUT / HTTP/1.1", fields);
    assert_eq!(put(""), Ok(Framing::None));
    assert_eq!(put("Content-Length: 0\r\n"), Ok(Framing::Length(0)));
    assert_eq!(put("Content-Length: 007\r\n"), Ok(Framing::Length(7)));
    let most = "Content-Length: 9223372036854775807\r\n";
    assert_eq!(put(most), Ok(Framing::Length(i64::MAX as u64)));
    assert_eq!(put("transfer-encoding: Chunked\r\n"), Ok(Framing::Chunked));
    for length in ["+4", "0x4", "-1", "4, 4", "4,5", "", "4 4", "9223372036854775808", "4."] {
        assert_eq!(put(&format!("Content-Length: {length}\r\n")), Err("malformed"), "{length}");
    }
    assert_eq!(put("Content-Length: 00000000000000000004\r\n"), Err("malformed"));
    assert_eq!(put("Content-Length: 4\r\nContent-Length: 4\r\n"), Err("malformed"));
    assert_eq!(put("Content-Length: 4\r\nContent-Length: 5\r\n"), Err("malformed"));
    assert_eq!(put("Transfer-Encoding: chunked\r\nContent-Length: 4\r\n"), Err("malformed"));
    assert_eq!(put("Content-Length: 4\r\nTransfer-Encoding: gzip\r\n"), Err("malformed"));
}

#[test]
fn chunked_is_the_only_coding() {
    let coded =
        |coding: &str| framing("PATCH / HTTP/1.1", &format!("Transfer-Encoding: {coding}\r\n"));
    for coding in ["gzip, chunked", "Deflate,chunked"] {
        assert_eq!(coded(coding), Err("coding-unknown"), "{coding}");
    }
    for coding in
        ["xchunked", "chunked, identity", "chunked, chunked", "identity", "gzip", "", "chunked;a=b"]
    {
        assert_eq!(coded(coding), Err("malformed"), "{coding}");
    }
    assert_eq!(coded("chunked\r\nTransfer-Encoding: chunked"), Err("malformed"));
    let old = framing("PUT / HTTP/1.0", "Transfer-Encoding: chunked\r\n");
    assert_eq!(old, Err("malformed"));
}

#[test]
fn reading_and_deleting_have_no_body() {
    for method in ["GET", "HEAD", "DELETE"] {
        let line = format!("{method} / HTTP/1.1");
        assert_eq!(framing(&line, ""), Ok(Framing::None));
        assert_eq!(framing(&line, "Content-Length: 0\r\n"), Ok(Framing::None));
        assert_eq!(framing(&line, "Content-Length: 1\r\n"), Err("malformed"));
        assert_eq!(framing(&line, "Transfer-Encoding: chunked\r\n"), Err("malformed"));
    }
}

#[test]
fn an_answers_end_follows_from_method_and_status_first() {
    let framing = |method, status: &str, fields: &str| {
        let head = format!("HTTP/1.1 {status} x\r\n{fields}\r\n");
        let (head, _) = parse::response(head.as_bytes(), &limits()).unwrap().unwrap();
        of_response(method, &head).map_err(|kind| kind.facts().word)
    };
    let (get, chunked, length) =
        (Method::Get, "Transfer-Encoding: chunked\r\n", "Content-Length: 5\r\n");
    assert_eq!(framing(get, "200", length), Ok(Framing::Length(5)));
    assert_eq!(framing(get, "200", chunked), Ok(Framing::Chunked));
    assert_eq!(framing(get, "200", ""), Ok(Framing::UntilClose));
    for status in ["100", "204", "304"] {
        assert_eq!(framing(get, status, length), Ok(Framing::None), "{status}");
    }
    assert_eq!(framing(Method::Head, "200", length), Ok(Framing::None));
    let both = [chunked, length].concat();
    let lengths = length.repeat(2);
    for fields in [both.as_str(), &lengths, "Content-Length: -1\r\n", "Transfer-Encoding: gzip\r\n"]
    {
        assert_eq!(framing(get, "200", fields), Err("registry-malformed"), "{fields}");
        assert_eq!(framing(Method::Head, "200", fields), Err("registry-malformed"), "{fields}");
    }
}

#[test]
fn an_old_registry_has_no_chunks() {
    let head = b"HTTP/1.0 200 x\r\nTransfer-Encoding: chunked\r\n\r\n";
    let (head, _) = parse::response(head, &limits()).unwrap().unwrap();
    assert!(of_response(Method::Get, &head).is_err());
}

/// The payload of a chunked body, or why it has none; and what is left after it.
fn unchunk(mut input: &[u8]) -> Result<(String, &[u8]), &'static str> {
    let mut decoder = Decoder::new(Framing::Chunked);
    let mut payload = Vec::new();
    loop {
        let count = match decoder.step(input)? {
            Step::Skip(count) => count,
            Step::Payload(count) => {
                payload.extend_from_slice(&input[..count]);
                count
            }
            Step::More => {
                decoder.end_of_stream()?;
                panic!("a body that wants more is not done");
            }
            Step::End => return Ok((String::from_utf8(payload).unwrap(), input)),
        };
        input = &input[count..];
    }
}

#[test]
fn chunks_are_joined_and_what_follows_is_left() {
    let good = [
        ("0\r\n\r\nGET", ""),
        ("5\r\nhello\r\n0\r\n\r\nGET", "hello"),
        ("5;a=\"b c\";d\r\nhello\r\n0;x\r\n\r\nGET", "hello"),
        ("0000000000000005\r\nhello\r\n00\r\n\r\nGET", "hello"),
        ("1\r\na\r\nA\r\n0123456789\r\n0\r\nA: b\r\nContent-Length: 9\r\n\r\nGET", "a0123456789"),
        ("2\r\n\r\n\r\n0\r\n\r\nGET", "\r\n"),
    ];
    for (input, payload) in good {
        assert_eq!(unchunk(input.as_bytes()), Ok((payload.to_owned(), &b"GET"[..])), "{input:?}");
    }
}

#[test]
fn a_chunk_that_two_parsers_read_differently_is_refused() {
    let long = format!("1;{}\r\na\r\n0\r\n\r\n", "x".repeat(257));
    let many = "1;".to_owned() + &"x".repeat(255) + "\r\na\r\n";
    let many = many.repeat(65) + "0\r\n\r\n";
    let trailers = format!("0\r\nA: {}\r\n\r\n", "x".repeat(16 * 1024));
    let bad = [
        "",
        "0",
        "0\r\n",
        "0\r\n\r",
        "5\r\nhel",
        "5\r\nhello",
        "\r\n\r\n",
        ";a\r\n",
        "0x5\r\nhello",
        "+5\r\nhello",
        "-1\r\n",
        " 5\r\nhello",
        "5 \r\nhello",
        "5 ;a\r\nhello",
        "00000000000000005\r\nhello\r\n0\r\n\r\n",
        "10000000000000000\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhello!\r\n",
        "5\r\nhello0\r\n\r\n",
        "5;a\nb\r\nhello\r\n",
        "5;a\0\r\nhello\r\n",
        "5;\r\r\nhello",
        "0\r\n\n",
        "0\r\nA\r\n\r\n",
        "0\r\n: b\r\n\r\n",
        "0\r\n A: b\r\n\r\n",
        "0\r\nA : b\r\n\r\n",
        "0\r\nA: b\n\r\n",
        "0\r\nA: \0\r\n\r\n",
        "g\r\n",
        &long,
        &many,
        &trailers,
    ];
    for input in bad {
        assert!(unchunk(input.as_bytes()).is_err(), "{input:?}");
    }
}

#[test]
fn a_decoder_that_failed_fails_for_good() {
    let mut decoder = Decoder::new(Framing::Chunked);
    assert!(decoder.step(b"x").is_err());
    assert!(decoder.step(b"0\r\n\r\n").is_err());
    assert!(decoder.end_of_stream().is_err());
    assert!(!decoder.is_done());
}

#[test]
fn a_length_counts_what_was_shown() {
    let mut decoder = Decoder::new(Framing::Length(10));
    assert_eq!(decoder.step(b""), Ok(Step::More));
    assert_eq!(decoder.step(b"abc"), Ok(Step::Payload(3)));
    assert_eq!(decoder.step(b"defgh"), Ok(Step::Payload(5)));
    assert_eq!(decoder.remaining(), Some(2));
    assert!(decoder.end_of_stream().is_err());
    assert_eq!(decoder.step(b"xyz"), Ok(Step::Payload(2)));
    assert!(decoder.is_done());
    assert_eq!(decoder.step(b"z"), Ok(Step::End));
    assert_eq!(decoder.end_of_stream(), Ok(()));
}

#[test]
fn a_body_without_an_end_ends_with_its_connection() {
    let mut decoder = Decoder::new(Framing::UntilClose);
    assert_eq!(decoder.step(b"abc"), Ok(Step::Payload(3)));
    assert_eq!((decoder.is_done(), decoder.remaining()), (false, None));
    assert_eq!(decoder.end_of_stream(), Ok(()));
    assert!(decoder.is_done());
    assert_eq!(Decoder::new(Framing::None).step(b"GET"), Ok(Step::End));
}

#[test]
fn a_body_in_pieces_is_the_body_as_a_whole() {
    for seed in 0..4000 {
        let mut dice = Dice::new(seed);
        let mut body = vec![3, dice.below(256) as u8];
        for _ in 0..dice.below(12) {
            let size = dice.below(40);
            let extension = dice.pick(&["", "", "", ";a=b", ";", " "]);
            body.extend_from_slice(format!("{size:x}{extension}\r\n").as_bytes());
            body.extend(std::iter::repeat_n(b'p', size));
            let end = dice.pick(&["\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\r\n", "\n", ""]);
            body.extend_from_slice(end.as_bytes());
        }
        let end = dice.pick(&["0\r\n\r\n", "0\r\nA: b\r\n\r\nGET", "0\r\n", "", "x"]);
        body.extend_from_slice(end.as_bytes());
        println!("seed {seed}");
        fuzzing::body(&body);
    }
}
