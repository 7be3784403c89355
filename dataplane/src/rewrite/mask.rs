//! Harbor's accounts without the secret that logs them in.
//!
//! A JSON text in, the same text out with asterisks where secrets were; in place, so that no length
//! changes. Harbor shows the CLI secret of an OIDC account under `oidc_user_meta.secret` to whoever
//! may read the account (src/server/v2.0/handler/model/user.go). The grammar is that of RFC 8259,
//! and what breaks it is not passed on.

/// The text is no JSON, or is nested too deeply to be looked through.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct NotJson;

/// Overwrites every string below the member `secret` of a member `oidc_user_meta`, wherever that
/// stands in `text`.
pub(crate) fn user_secrets(text: &mut [u8]) -> Result<(), NotJson> {
    let mut walk = Walk { text, place: 0 };
    walk.value(Inside::Anything, DEPTH_MAX)?;
    walk.space();
    if walk.peek().is_none() { Ok(()) } else { Err(NotJson) }
}

/// Where in the text a value stands.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Inside {
    Anything,
    /// In `oidc_user_meta`.
    Meta,
    /// In its `secret`.
    Secret,
}

impl Inside {
    /// Where the value of a member called `key` stands. Go matches names in any case.
    fn member(self, key: &[u8]) -> Self {
        match self {
            Self::Secret => Self::Secret,
            _ if is_written(key, b"oidc_user_meta") => Self::Meta,
            Self::Meta if is_written(key, b"secret") => Self::Secret,
            outer => outer,
        }
    }
}

struct Walk<'a> {
    text: &'a mut [u8],
    place: usize,
}

impl Walk<'_> {
    fn value(&mut self, inside: Inside, depth: usize) -> Result<(), NotJson> {
        let deeper = depth.checked_sub(1).ok_or(NotJson)?;
        self.space();
        match self.peek().ok_or(NotJson)? {
            b'{' => self.object(inside, deeper),
            b'[' => self.array(inside, deeper),
            b'"' => {
                let (start, end) = self.string()?;
                if inside == Inside::Secret {
                    self.text.get_mut(start..end).unwrap_or_default().fill(b'*');
                }
                Ok(())
            }
            b't' => self.word(b"true"),
            b'f' => self.word(b"false"),
            b'n' => self.word(b"null"),
            _ => self.number(),
        }
    }

    fn object(&mut self, inside: Inside, depth: usize) -> Result<(), NotJson> {
        self.word(b"{")?;
        self.space();
        if self.peek() == Some(b'}') {
            return self.word(b"}");
        }
        loop {
            self.space();
            let (start, end) = self.string()?;
            let member = inside.member(self.text.get(start..end).unwrap_or_default());
            self.space();
            self.word(b":")?;
            self.value(member, depth)?;
            if self.ends(b"}")? {
                return Ok(());
            }
        }
    }

    fn array(&mut self, inside: Inside, depth: usize) -> Result<(), NotJson> {
        self.word(b"[")?;
        self.space();
        if self.peek() == Some(b']') {
            return self.word(b"]");
        }
        loop {
            self.value(inside, depth)?;
            if self.ends(b"]")? {
                return Ok(());
            }
        }
    }

    /// Takes `end`, or the comma after which there is more.
    fn ends(&mut self, end: &[u8]) -> Result<bool, NotJson> {
        self.space();
        if self.peek() == Some(b',') {
            return self.word(b",").map(|()| false);
        }
        self.word(end).map(|()| true)
    }

    /// Takes a string, and says where its inside begins and ends.
    fn string(&mut self) -> Result<(usize, usize), NotJson> {
        self.word(b"\"")?;
        let start = self.place;
        loop {
            let byte = self.peek().ok_or(NotJson)?;
            self.place += 1;
            match byte {
                b'"' => return Ok((start, self.place - 1)),
                b'\\' => self.escape()?,
                0..=0x1f => return Err(NotJson),
                _ => {}
            }
        }
    }

    fn escape(&mut self) -> Result<(), NotJson> {
        let byte = self.peek().ok_or(NotJson)?;
        self.place += 1;
        match byte {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => Ok(()),
            b'u' => {
                let digits = self.text.get(self.place..self.place + 4).ok_or(NotJson)?;
                self.place += 4;
                let good = digits.iter().all(u8::is_ascii_hexdigit);
                if good { Ok(()) } else { Err(NotJson) }
            }
            _ => Err(NotJson),
        }
    }

    fn number(&mut self) -> Result<(), NotJson> {
        if self.peek() == Some(b'-') {
            self.place += 1;
        }
        let begins_with_0 = self.peek() == Some(b'0');
        let whole = self.digits()?;
        if begins_with_0 && whole > 1 {
            return Err(NotJson);
        }
        if self.peek() == Some(b'.') {
            self.place += 1;
            self.digits()?;
        }
        if matches!(self.peek(), Some(b'e' | b'E')) {
            self.place += 1;
            if matches!(self.peek(), Some(b'+' | b'-')) {
                self.place += 1;
            }
            self.digits()?;
        }
        Ok(())
    }

    /// Takes digits, at least one, and says how many.
    fn digits(&mut self) -> Result<usize, NotJson> {
        let rest = self.text.get(self.place..).unwrap_or_default();
        let count = rest.iter().take_while(|byte| byte.is_ascii_digit()).count();
        self.place += count;
        if count > 0 { Ok(count) } else { Err(NotJson) }
    }

    fn word(&mut self, word: &[u8]) -> Result<(), NotJson> {
        let rest = self.text.get(self.place..).unwrap_or_default();
        if !rest.starts_with(word) {
            return Err(NotJson);
        }
        self.place += word.len();
        Ok(())
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\r' | b'\n')) {
            self.place += 1;
        }
    }

    fn peek(&self) -> Option<u8> {
        self.text.get(self.place).copied()
    }
}

/// Whether the inside of a string means `name`, in any case and with any letter escaped.
fn is_written(string: &[u8], name: &[u8]) -> bool {
    let mut rest = string;
    for letter in name {
        let (meant, after) = match rest.split_at_checked(6) {
            Some((escape, after)) if escape.starts_with(b"\\u") => {
                let digits = escape.get(2..).and_then(|digits| str::from_utf8(digits).ok());
                let number = digits.and_then(|digits| u32::from_str_radix(digits, 16).ok());
                (number.and_then(|number| u8::try_from(number).ok()), after)
            }
            _ => match rest.split_first() {
                Some((byte, after)) => (Some(*byte), after),
                None => return false,
            },
        };
        if meant.is_none_or(|meant| !meant.eq_ignore_ascii_case(letter)) {
            return false;
        }
        rest = after;
    }
    rest.is_empty()
}

/// Harbor's accounts are three deep.
const DEPTH_MAX: usize = 64;

#[cfg(test)]
mod tests {
    use super::*;
    use crate::fuzzing::{self, Dice};

    fn masked(text: &str) -> Result<String, NotJson> {
        let mut bytes = text.as_bytes().to_vec();
        user_secrets(&mut bytes)?;
        Ok(String::from_utf8(bytes).unwrap())
    }

    #[test]
    fn a_secret_of_an_account_is_overwritten_and_nothing_else_changes() {
        for (text, expected) in [
            (
                r#"{"user_id":3,"oidc_user_meta":{"id":1,"secret":"s3cret","subiss":"a"},"x":1}"#,
                r#"{"user_id":3,"oidc_user_meta":{"id":1,"secret":"******","subiss":"a"},"x":1}"#,
            ),
            (
                r#"[ {"oidc_user_meta" : {"secret" : "a\"b\u0041" } }, {"secret":"kept"} ]"#,
                r#"[ {"oidc_user_meta" : {"secret" : "**********" } }, {"secret":"kept"} ]"#,
            ),
            (
                r#"{"OIDC_user\u005fmeta":{"\u0073ecreT":"a","secret":["b",{"c":"d"}]}}"#,
                r#"{"OIDC_user\u005fmeta":{"\u0073ecreT":"*","secret":["*",{"c":"*"}]}}"#,
            ),
            (
                r#"{"oidc_user_meta":{"x":{"secret":"a"}},"oidc_user_meta":{"secret":"b"}}"#,
                r#"{"oidc_user_meta":{"x":{"secret":"*"}},"oidc_user_meta":{"secret":"*"}}"#,
            ),
            (
                r#"{"oidc_user_meta":null,"secret":"kept","n":[-0,1.5,2e9,-1E-2,true,false]}"#,
                r#"{"oidc_user_meta":null,"secret":"kept","n":[-0,1.5,2e9,-1E-2,true,false]}"#,
            ),
            (
                r#"{"oidc_user_metas":{"secret":"kept"}}"#,
                r#"{"oidc_user_metas":{"secret":"kept"}}"#,
            ),
            ("[]", "[]"),
            (" {} \n", " {} \n"),
            ("\"x\"", "\"x\""),
        ] {
            assert_eq!(masked(text).as_deref(), Ok(expected), "{text}");
        }
    }

    #[test]
    fn what_is_no_json_is_refused() {
        for text in [
            "",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{a:1}",
            "{\"a\" 1}",
            "[1 2]",
            "[1]]",
            "{}{}",
            "01",
            "1.",
            "1e",
            "-",
            "+1",
            "tru",
            "nulll",
            "'a'",
            "\"a",
            "\"\\x\"",
            "\"\\u12g4\"",
            "\"\\u12",
            "\"a\nb\"",
            "\u{feff}{}",
            "<html>",
        ] {
            assert_eq!(masked(text), Err(NotJson), "{text}");
        }
        let deep = |depth| "[".repeat(depth) + &"]".repeat(depth);
        assert!(masked(&deep(DEPTH_MAX)).is_ok());
        assert_eq!(masked(&deep(DEPTH_MAX + 1)), Err(NotJson));
        assert_eq!(masked(&"[".repeat(1_000_000)), Err(NotJson));
    }

    #[test]
    fn any_text_keeps_its_length_and_its_form() {
        let mut dice = Dice::new(3);
        let parts = [
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "\"oidc_user_meta\"",
            "\"secret\"",
            "\"s\\u0041\"",
            "1",
            "-0.5e3",
            "null",
            " ",
            "\"",
            "\\",
            "\\u0073",
        ];
        let mut taken = 0;
        for _ in 0..100_000 {
            let text: String = (0..dice.below(9)).map(|_| dice.pick(&parts)).collect();
            taken += usize::from(fuzzing::mask(text.as_bytes()));
        }
        assert!(taken > 1_000, "only {taken} were taken");
    }
}
