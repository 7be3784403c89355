//! Rules about the code itself: each is one that a reviewer would otherwise have to remember.
//!
//! Sources in, complaints out. Comments, strings and test modules are blanked out first, so that a
//! rule speaks of code only; the line numbers stay.

use std::fs;
use std::path::{Path, PathBuf};

/// A source file: its path from the root, its text, and what of it is code outside tests.
struct Source {
    path: String,
    text: String,
    code: String,
}

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

/// Every file below `folder` (from the root) with one of `endings`.
fn files(folder: &str, endings: &[&str]) -> Vec<(String, PathBuf)> {
    let mut found = Vec::new();
    let mut open = vec![root().join(folder)];
    while let Some(folder) = open.pop() {
        for entry in fs::read_dir(folder).into_iter().flatten().flatten() {
            let (path, name) = (entry.path(), entry.file_name());
            let name = name.to_string_lossy().into_owned();
            if path.is_dir() && !["target", ".git", "corpus"].contains(&name.as_str()) {
                open.push(path);
            } else if endings.iter().any(|ending| name.ends_with(ending)) {
                let shown = path.strip_prefix(root()).expect("below the root");
                found.push((shown.display().to_string(), path));
            }
        }
    }
    found.sort();
    found
}

/// The Rust sources below `folder`.
fn sources(folder: &str) -> Vec<Source> {
    files(folder, &[".rs"])
        .into_iter()
        .map(|(path, file)| {
            let text = fs::read_to_string(file).expect("a source is UTF-8");
            let code = without_tests(&blanked(&text));
            Source { path, text, code }
        })
        .collect()
}

/// The data plane's sources that run on a core.
fn dataplane() -> Vec<Source> {
    let is_test = |source: &Source| source.path.ends_with("tests.rs");
    sources("dataplane/src").into_iter().filter(|source| !is_test(source)).collect()
}

/// `text` with comments and the insides of strings and characters as spaces.
fn blanked(text: &str) -> String {
    let bytes = text.as_bytes();
    let mut out = bytes.to_vec();
    let at = |place: usize| bytes.get(place).copied().unwrap_or(0);
    let mut place = 0;
    while place < bytes.len() {
        let end = match (at(place), at(place + 1)) {
            (b'/', b'/') => place + line_length(&bytes[place..]),
            (b'/', b'*') => end_of(bytes, place + 2, b"*/"),
            (b'r', b'"' | b'#') if !is_word(at(place.wrapping_sub(1))) => raw_string(bytes, place),
            (b'b', b'r') if !is_word(at(place.wrapping_sub(1))) => raw_string(bytes, place + 1),
            (b'"', _) => string(bytes, place),
            (b'\'', b'\\') => end_of(bytes, place + 3, b"'"),
            (b'\'', _) if at(place + 2) == b'\'' => place + 3,
            _ => place,
        };
        for byte in &mut out[place..end] {
            if *byte != b'\n' {
                *byte = b' ';
            }
        }
        place = end.max(place + 1);
    }
    String::from_utf8_lossy(&out).into_owned()
}

fn is_word(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || byte == b'_'
}

fn line_length(bytes: &[u8]) -> usize {
    bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len())
}

/// The place after the next `end` at or after `from`.
fn end_of(bytes: &[u8], from: usize, end: &[u8]) -> usize {
    let rest = bytes.get(from..).unwrap_or_default();
    let found = rest.windows(end.len()).position(|window| window == end);
    found.map_or(bytes.len(), |place| from + place + end.len())
}

fn raw_string(bytes: &[u8], start: usize) -> usize {
    let hashes = bytes[start + 1..].iter().take_while(|byte| **byte == b'#').count();
    if bytes.get(start + 1 + hashes) != Some(&b'"') {
        return start;
    }
    let end = [b"\"".to_vec(), vec![b'#'; hashes]].concat();
    end_of(bytes, start + 2 + hashes, &end)
}

fn string(bytes: &[u8], start: usize) -> usize {
    let mut place = start + 1;
    while let Some(byte) = bytes.get(place) {
        match byte {
            b'\\' => place += 2,
            b'"' => return place + 1,
            _ => place += 1,
        }
    }
    bytes.len()
}

/// `code` without the items that follow `#[cfg(test)]`; lines stay where they are.
fn without_tests(code: &str) -> String {
    let mut out = code.to_owned();
    while let Some(start) = out.find("#[cfg(test)]") {
        let end = item_end(&out, start);
        let blank: String =
            out[start..end].chars().map(|c| if c == '\n' { '\n' } else { ' ' }).collect();
        out.replace_range(start..end, &blank);
    }
    out
}

/// The place after the item that starts at or after `start`: its closing brace, or its semicolon.
fn item_end(code: &str, start: usize) -> usize {
    let mut depth = 0_i32;
    for (place, byte) in code.bytes().enumerate().skip(start) {
        match byte {
            b'{' => depth += 1,
            b'}' if depth == 1 => return place + 1,
            b'}' => depth -= 1,
            b';' if depth == 0 => return place + 1,
            _ => {}
        }
    }
    code.len()
}

/// Each place where `word` stands as a word of its own, as line numbers.
fn lines_with_word(code: &str, word: &str) -> Vec<usize> {
    let mut found = Vec::new();
    for (number, line) in code.lines().enumerate() {
        let hit = line.match_indices(word).any(|(place, _)| {
            let before = line[..place].bytes().last().unwrap_or(b' ');
            let after = line[place + word.len()..].bytes().next().unwrap_or(b' ');
            let word_ends = word.bytes().last().is_some_and(is_word);
            !(is_word(before) || word_ends && is_word(after))
        });
        if hit {
            found.push(number + 1);
        }
    }
    found
}

/// Fails with all complaints at once.
#[track_caller]
fn assert_none(complaints: &[String]) {
    assert!(complaints.is_empty(), "\n{}\n", complaints.join("\n"));
}

const STAGES: [&str; 9] =
    ["parse", "target", "authorise", "route", "login", "rewrite", "connect", "stream", "account"];

#[test]
fn the_data_plane_names_neither_kubernetes_nor_tokio_nor_serde() {
    let mut complaints = Vec::new();
    for source in sources("dataplane/src") {
        for word in ["kube", "k8s_openapi", "tokio", "serde", "serde_json", "hyper"] {
            for line in lines_with_word(&blanked(&source.text), word) {
                complaints
                    .push(format!("{}:{line}: `{word}` belongs in controlplane", source.path));
            }
        }
    }
    let manifest = fs::read_to_string(root().join("dataplane/Cargo.toml")).expect("a manifest");
    for word in ["kube", "k8s-openapi", "tokio", "serde", "hyper"] {
        if manifest.lines().any(|line| line.starts_with(word)) {
            complaints.push(format!("dataplane/Cargo.toml: `{word}` belongs in controlplane"));
        }
    }
    assert_none(&complaints);
}

#[test]
fn a_stage_calls_no_stage_only_exchange_does() {
    let mut complaints = Vec::new();
    for source in dataplane() {
        let own = source.path.trim_start_matches("dataplane/src/");
        let own = own.split(['/', '.']).next().unwrap_or_default();
        if !STAGES.contains(&own) {
            continue;
        }
        for stage in STAGES.iter().filter(|stage| **stage != own) {
            let call = format!("{stage}::");
            for (number, line) in source.code.lines().enumerate() {
                let calls = line.match_indices(&call).any(|(place, _)| {
                    let rest = &line[place + call.len()..];
                    let name: String = rest.chars().take_while(|c| is_word(*c as u8)).collect();
                    let is_function = name.starts_with(|c: char| c.is_ascii_lowercase());
                    // The head of an answer is read where answers arrive, by the same pure parser.
                    let is_excused = own == "stream" && *stage == "parse" && name == "response";
                    is_function && !is_excused && rest[name.len()..].starts_with('(')
                });
                if calls {
                    complaints.push(format!(
                        "{}:{}: a stage calls the stage `{stage}`; let `exchange` do it",
                        source.path,
                        number + 1
                    ));
                }
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn only_authorise_can_make_an_allowed() {
    let mut complaints = Vec::new();
    let mut defined = false;
    for source in dataplane() {
        if let Some(place) = source.code.find("struct Allowed") {
            defined = true;
            if !source.path.contains("/authorise") {
                complaints.push(format!("{}: `Allowed` belongs in authorise", source.path));
            }
            let body = &source.code[place..item_end(&source.code, place)];
            let fields = body.lines().skip(1).filter(|line| line.contains(':'));
            if !fields.into_iter().any(|line| !line.trim_start().starts_with("pub")) {
                complaints.push(format!(
                    "{}: every field of `Allowed` is public, so anyone can make one",
                    source.path
                ));
            }
        }
    }
    if !defined {
        complaints.push("dataplane/src/authorise.rs: there is no `struct Allowed`".to_owned());
    }
    assert_none(&complaints);
}

#[test]
fn only_rewrite_and_login_read_a_credentials_bytes() {
    let mut complaints = Vec::new();
    for source in dataplane() {
        let name = source.path.trim_start_matches("dataplane/src/");
        if name.starts_with("rewrite") || name.starts_with("login") {
            continue;
        }
        for line in lines_with_word(&source.code, "expose()") {
            complaints.push(format!("{}:{line}: `expose()` belongs in rewrite", source.path));
        }
    }
    assert_none(&complaints);
}

#[test]
fn a_core_has_nothing_that_panics() {
    let mut complaints = Vec::new();
    for source in dataplane() {
        for (number, line) in source.code.lines().enumerate() {
            let mut complain = |what: &str| {
                complaints.push(format!("{}:{}: {what}", source.path, number + 1));
            };
            for call in [".unwrap()", ".expect(", "panic!(", "unreachable!(", ".unwrap_err()"] {
                if line.contains(call) {
                    complain(&format!("`{call}` ends every connection of a core"));
                }
            }
            let bytes = line.as_bytes();
            let indexes = bytes.windows(2).any(|pair| {
                pair[1] == b'[' && (is_word(pair[0]) || pair[0] == b')' || pair[0] == b']')
            });
            if indexes {
                complain("indexing can panic: use `get`");
            }
        }
    }
    for source in sources("controlplane/src").iter().chain(&sources("bench/src")) {
        if source.path.ends_with("tests.rs") {
            continue;
        }
        for call in [".unwrap()", ".expect("] {
            for (number, line) in source.code.lines().enumerate() {
                if line.contains(call) {
                    complaints.push(format!("{}:{}: `{call}`", source.path, number + 1));
                }
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn unsafe_code_stays_alone_in_one_module_with_its_proof() {
    let mut places = Vec::new();
    let mut complaints = Vec::new();
    for folder in ["dataplane/src", "controlplane/src", "bench/src"] {
        for source in sources(folder) {
            let lines = lines_with_word(&source.code, "unsafe");
            if !lines.is_empty() && !source.text.contains("// SAFETY:") {
                complaints.push(format!("{}: unsafe code without its proof", source.path));
            }
            places.extend(lines.iter().map(|line| format!("{}:{line}", source.path)));
        }
    }
    if places.len() > 1 || places.iter().any(|place| !place.starts_with("dataplane/")) {
        complaints.push(format!("more than the one place there may be: {places:?}"));
    }
    assert_none(&complaints);
}

#[test]
fn functions_fit_on_a_screen_and_files_in_a_head() {
    let mut complaints = Vec::new();
    for folder in ["dataplane/src", "controlplane/src", "bench/src", "tests"] {
        for source in sources(folder) {
            let is_test = folder == "tests" || source.path.ends_with("tests.rs");
            let length = source.code.trim_end().lines().count();
            if length > 400 && !is_test {
                complaints.push(format!("{}: {length} lines without tests", source.path));
            }
            for (place, _) in source.code.match_indices("fn ") {
                let before = source.code[..place].bytes().last().unwrap_or(b' ');
                let line = source.code[..place].lines().count();
                let excused = source
                    .text
                    .lines()
                    .take(line)
                    .collect::<Vec<_>>()
                    .iter()
                    .rev()
                    .take(4)
                    .any(|line| line.contains("expect(clippy::too_many_lines"));
                let end = item_end(&source.code, place);
                let body = &source.code[place..end];
                let lines = body.lines().filter(|line| !line.trim().is_empty()).count();
                // A story that is one table is as long as its table.
                if !is_word(before) && !excused && !is_test && lines > 72 {
                    complaints.push(format!("{}:{line}: a function of {lines} lines", source.path));
                }
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn every_file_opens_with_what_it_is_and_keeps_its_lines_short() {
    let mut complaints = Vec::new();
    for folder in ["dataplane/src", "controlplane/src", "bench/src", "tests"] {
        for source in sources(folder) {
            let first = source.text.lines().next().unwrap_or_default();
            let is_test = source.path.ends_with("tests.rs") && source.path != "tests.rs";
            if !first.starts_with("//! ") && !is_test && !first.starts_with("#![no_main]") {
                complaints.push(format!("{}:1: no paragraph says what the file is", source.path));
            }
            let tables = source.text.contains("#[rustfmt::skip]");
            let code = blanked(&source.text);
            for (number, (line, code)) in source.text.lines().zip(code.lines()).enumerate() {
                // rustfmt does not break strings, and what it skips is a table.
                let width =
                    if line.trim_start().starts_with("//") { line } else { code.trim_end() };
                if width.chars().count() > 100 && !tables && !line.contains('"') {
                    complaints.push(format!("{}:{}: a long line", source.path, number + 1));
                }
                for word in ["TODO", "FIXME", "XXX"] {
                    if line.contains(word) && source.path != "tests/tidy.rs" {
                        complaints.push(format!("{}:{}: {word}", source.path, number + 1));
                    }
                }
            }
            for line in lines_with_word(&source.code, "#[allow(") {
                complaints.push(format!("{}:{line}: use `expect` with a reason", source.path));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn no_file_is_named_after_nothing() {
    let banned =
        ["util.rs", "utils.rs", "common.rs", "helpers.rs", "types.rs", "prelude.rs", "mod.rs"];
    let named = |path: &str| path.rsplit('/').next().is_some_and(|name| banned.contains(&name));
    let complaints: Vec<_> = files(".", &[".rs"])
        .into_iter()
        .filter(|(path, _)| named(path))
        .map(|(path, _)| format!("{path}: name it after what it does"))
        .collect();
    assert_none(&complaints);
}

#[test]
fn every_number_that_is_counted_is_shown() {
    let read = |path: &str| fs::read_to_string(root().join(path)).unwrap_or_default();
    let counters = blanked(&read("dataplane/src/counters.rs"));
    let shown: String = sources("controlplane/src")
        .into_iter()
        .filter(|source| source.path.contains("/admin"))
        .map(|source| source.code)
        .collect();
    let start = counters.find("struct Counters").expect("the counters");
    let fields = &counters[start..item_end(&counters, start)];
    let mut complaints = Vec::new();
    for line in fields.lines().skip(1) {
        let name = line.trim().trim_start_matches("pub ").split(':').next().unwrap_or_default();
        if line.contains(':') && !name.is_empty() && lines_with_word(&shown, name).is_empty() {
            complaints
                .push(format!("dataplane/src/counters.rs: `{name}` is counted and not shown"));
        }
    }
    assert_none(&complaints);
}

#[test]
fn every_bound_is_chosen_and_used() {
    let text = fs::read_to_string(root().join("dataplane/src/limits.rs")).expect("the bounds");
    let limits = blanked(&text);
    let start = limits.find("struct Limits").expect("the bounds");
    let fields = &limits[start..item_end(&limits, start)];
    let using: String = dataplane()
        .into_iter()
        .filter(|source| source.path != "dataplane/src/limits.rs")
        .map(|source| source.code)
        .collect();
    let chosen: String =
        sources("controlplane/src").into_iter().map(|source| source.code).collect();
    let mut complaints = Vec::new();
    for line in fields.lines().filter(|line| line.trim_start().starts_with("pub ")).skip(1) {
        let name = line.trim().trim_start_matches("pub ").split(':').next().unwrap_or_default();
        if lines_with_word(&using, name).is_empty() {
            complaints.push(format!("dataplane/src/limits.rs: `{name}` bounds nothing"));
        }
        if lines_with_word(&chosen, name).is_empty() {
            complaints.push(format!("dataplane/src/limits.rs: nobody chooses `{name}`"));
        }
    }
    assert_none(&complaints);
}

#[test]
fn nothing_speaks_of_one_machine_or_of_a_public_registry() {
    let paths = ["/work", "/root/", "/home/"].map(|path| format!("{path}{}", ""));
    let hosts = ["docker.io", "quay.io", "ghcr.io", "gcr.io", "registry.k8s.io"];
    let endings = [".rs", ".toml", ".md", ".yaml", ".yml", "run", ".sh", "Containerfile"];
    let mut complaints = Vec::new();
    for (path, file) in files(".", &endings) {
        let Ok(text) = fs::read_to_string(file) else {
            continue;
        };
        // Where images come from that a cluster pulls is no secret, and no story pulls them.
        let is_pulled = path.starts_with("deploy/demo/registry/");
        if path == "tests/tidy.rs" || path.ends_with("/tests.rs") || is_pulled {
            continue;
        }
        for (number, line) in text.lines().enumerate() {
            // The Debian package has the name of the registry.
            let line = &line.replace("[dockerd]=docker.io", "");
            let machine = paths.iter().any(|place| {
                line.match_indices(place.as_str()).any(|(at, _)| {
                    !is_word(line[..at].bytes().last().unwrap_or(b' '))
                        && !line.contains("workspace")
                })
            });
            // The guides name images that a reader's cluster pulls; no story pulls them.
            let is_for_readers = path.starts_with("docs/");
            let host = hosts.iter().any(|host| {
                line.match_indices(host)
                    .any(|(at, _)| !is_word(line[..at].bytes().last().unwrap_or(b' ')))
            });
            if machine || host && !is_for_readers {
                complaints.push(format!("{path}:{}: {}", number + 1, line.trim()));
            }
        }
    }
    assert_none(&complaints);
}

#[test]
fn there_is_one_rustls_and_no_other_tls() {
    let lock = fs::read_to_string(root().join("Cargo.lock")).expect("the lock file is committed");
    let count = |name: &str| lock.matches(&format!("\nname = \"{name}\"\n")).count();
    assert_eq!(count("rustls"), 1);
    for name in ["aws-lc-rs", "aws-lc-sys", "openssl", "openssl-sys", "native-tls", "monoio-rustls"]
    {
        assert_eq!(count(name), 0, "{name}");
    }
    for name in ["monoio", "httparse", "ring"] {
        assert_eq!(count(name), 1, "{name}");
    }
}

mod of_the_rules {
    use super::*;

    #[test]
    fn comments_strings_and_tests_are_no_code() {
        let text = "let a = \"x[0].unwrap()\"; // b[1]\nlet c = 'x'; let d: &'static str = r#\"e[2]\"#;\n\
                    /* f[3] */ let g = b'\\''; h[4];\n#[cfg(test)]\nmod tests { fn i() { j[5]; } }\nk();\n";
        let code = without_tests(&blanked(text));
        assert_eq!(code.lines().count(), text.lines().count());
        for gone in ["[0]", "[1]", "[2]", "[3]", "[5]", "unwrap"] {
            assert!(!code.contains(gone), "{gone}: {code}");
        }
        for kept in ["let a", "let d: &'static str", "h[4]", "k();"] {
            assert!(code.contains(kept), "{kept}: {code}");
        }
    }

    #[test]
    fn a_word_is_found_only_on_its_own() {
        assert_eq!(lines_with_word("a kube::b\nkubelet\nmy_kube\n", "kube"), [1]);
    }
}
