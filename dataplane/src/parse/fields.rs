//! The fields of one head, kept as the bytes that came and the places in them.
//!
//! It never changes or decodes a value, and its bytes are wiped when it is dropped: a caller's
//! token is among them.

use std::fmt;

use memchr::memchr;

use crate::wiped::Wiped;

/// A place in a text that somebody else owns.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Span {
    start: u32,
    end: u32,
}

impl Span {
    /// Where `part`, a slice of `whole`, lies in it.
    pub(crate) fn of(whole: &[u8], part: &[u8]) -> Self {
        let start = part.as_ptr().addr().wrapping_sub(whole.as_ptr().addr());
        // An empty part may lie anywhere.
        let start = if start <= whole.len() { start } else { 0 };
        let end = (start + part.len()).min(whole.len());
        // A head is far below 4 GiB; were it not, the span would be empty, never wrong.
        match (u32::try_from(start), u32::try_from(end)) {
            (Ok(start), Ok(end)) => Self { start, end },
            _ => Self::default(),
        }
    }

    fn len(self) -> usize {
        self.end.saturating_sub(self.start) as usize
    }

    /// What lies there in a text; empty if it is cut out of the middle of a character.
    pub(crate) fn text(self, whole: &str) -> &str {
        whole.get(self.start as usize..self.end as usize).unwrap_or_default()
    }

    /// What lies there.
    pub(crate) fn get(self, whole: &[u8]) -> &[u8] {
        let (start, end) = (self.start as usize, self.end as usize);
        whole.get(start..end).unwrap_or_default()
    }
}

/// One line of a head.
#[derive(Clone, Copy)]
pub(crate) struct Line<'a> {
    /// The name, as written.
    pub(crate) name: &'a [u8],
    /// The value, without the white space around it.
    pub(crate) value: &'a [u8],
    /// All of it, its end included, if it has nothing but these two, a colon and one space.
    pub(crate) plain: Option<&'a [u8]>,
}

/// The fields of a head, in the order they came.
pub(crate) struct Fields {
    bytes: Wiped,
    spans: Vec<(Span, Span)>,
    /// A bit for each length that a name has: most that are looked for are not there.
    lengths: u64,
}

impl Fields {
    /// Takes over `bytes`, a copy of the `head` that `parsed` points into.
    pub(super) fn new(bytes: Wiped, head: &[u8], parsed: &[httparse::Header<'_>]) -> Self {
        let span = |field: &httparse::Header<'_>| {
            (Span::of(head, field.name.as_bytes()), Span::of(head, field.value))
        };
        let spans: Vec<_> = parsed.iter().map(span).collect();
        let lengths = spans.iter().fold(0, |all, (name, _)| all | length_bit(name.len()));
        Self { bytes, spans, lengths }
    }

    /// Names as written, and values without the white space around them.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.spans.iter().map(|(name, value)| (name.get(&self.bytes), value.get(&self.bytes)))
    }

    /// The same, each with its whole line.
    pub(crate) fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        self.spans.iter().map(|(name, value)| {
            let plain = name.end.checked_add(2) == Some(value.start)
                && Span { start: name.end, end: value.start }.get(&self.bytes) == b": ";
            let line = Span { start: name.start, end: value.end.saturating_add(2) };
            let line = line.get(&self.bytes);
            Line {
                name: name.get(&self.bytes),
                value: value.get(&self.bytes),
                plain: (plain && line.ends_with(b"\r\n")).then_some(line),
            }
        })
    }

    /// The first field of that name, in any case.
    pub(crate) fn get(&self, name: &str) -> Option<&[u8]> {
        let (_, value) = self.of_length(name).iter().find(|(known, _)| self.is(*known, name))?;
        Some(value.get(&self.bytes))
    }

    /// All fields of that name, in any case, each a value of its own.
    pub(crate) fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        let named = self.of_length(name).iter().filter(|(known, _)| self.is(*known, name));
        named.map(|(_, value)| value.get(&self.bytes))
    }

    /// All fields, if one of them has a name as long as this one.
    fn of_length(&self, name: &str) -> &[(Span, Span)] {
        let known = self.lengths & length_bit(name.len()) != 0;
        if known { &self.spans } else { &[] }
    }

    fn is(&self, known: Span, name: &str) -> bool {
        known.len() == name.len() && known.get(&self.bytes).eq_ignore_ascii_case(name.as_bytes())
    }

    /// Whether `token`, in any case, is among the comma-separated values of all fields of `name`.
    pub(crate) fn has_token(&self, name: &str, token: &[u8]) -> bool {
        self.tokens(name).any(|known| known.eq_ignore_ascii_case(token))
    }

    /// The comma-separated values of all fields of that name.
    pub(crate) fn tokens<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a [u8]> {
        self.all(name)
            .flat_map(|value| value.split(|byte| *byte == b','))
            .map(<[u8]>::trim_ascii)
            .filter(|token| !token.is_empty())
    }

    /// Whether `byte` is anywhere in the head.
    pub(super) fn has_byte(&self, byte: u8) -> bool {
        memchr(byte, &self.bytes).is_some()
    }

    /// How many bytes the head had.
    pub(crate) fn head_bytes(&self) -> usize {
        self.bytes.len()
    }

    /// The text at `span` of the head; empty if it is not ASCII or UTF-8.
    pub(super) fn text(&self, span: Span) -> &str {
        str::from_utf8(span.get(&self.bytes)).unwrap_or_default()
    }
}

/// The bit that stands for names of `length` bytes; long ones share one.
fn length_bit(length: usize) -> u64 {
    1 << length.min(63)
}

impl fmt::Debug for Fields {
    // The values may be tokens.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} fields]", self.spans.len())
    }
}
