//! The values in a plan that have a spelling of their own: sizes, spans of time, shares.
//!
//! Text in, numbers out; pure. Flags and TOML files read them alike; in TOML a plain number is a
//! number of bytes or of seconds.

use std::str::FromStr;
use std::time::Duration;

use serde::Deserialize;

/// A number of bytes, spelled `1GiB`, `64MiB`, `8KiB` or in plain digits.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "Spelled")]
pub(crate) struct Size(pub(crate) u64);

impl FromStr for Size {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("GiB", 30), ("MiB", 20), ("KiB", 10), ("B", 0)];
        let unit = units.iter().find_map(|(unit, bits)| Some((text.strip_suffix(unit)?, *bits)));
        let (digits, bits) = unit.unwrap_or((text, 0));
        let count: Option<u64> = digits.trim().parse().ok();
        count
            .and_then(|count| count.checked_mul(1 << bits))
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no size such as 1GiB, 64MiB, 8KiB or 4096"))
    }
}

/// A number of bytes as a flag has it; never 0.
pub(crate) fn bytes(text: &str) -> Result<u64, String> {
    let Size(bytes) = text.parse()?;
    if bytes > 0 { Ok(bytes) } else { Err("a size of nothing is nothing to move".to_owned()) }
}

/// A span of time, spelled `500ms`, `30s`, `5m`, `1h` or as plain seconds.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "Spelled")]
pub(crate) struct Span(pub(crate) Duration);

impl FromStr for Span {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let units = [("ms", 0.001), ("s", 1.0), ("m", 60.0), ("h", 3600.0)];
        let unit = units.iter().find_map(|(unit, each)| Some((text.strip_suffix(unit)?, *each)));
        let (digits, each) = unit.unwrap_or((text, 1.0));
        let count: Option<f64> = digits.trim().parse().ok();
        count
            .and_then(|count| Duration::try_from_secs_f64(count * each).ok())
            .filter(|span| *span <= SPAN_MAX)
            .map(Self)
            .ok_or_else(|| format!("{text:?} is no time such as 500ms, 30s, 5m or 1h"))
    }
}

/// Shares of image pushes, image pulls and manifest HEADs, spelled `push=10,pull=60,head=30`.
#[derive(Clone, Copy, Debug, Deserialize, PartialEq, Eq)]
#[serde(try_from = "String")]
pub(crate) struct Shares {
    /// Image pushes.
    pub(crate) push: u32,
    /// Image pulls.
    pub(crate) pull: u32,
    /// Manifest HEADs.
    pub(crate) head: u32,
}

impl Default for Shares {
    fn default() -> Self {
        Self { push: 10, pull: 60, head: 30 }
    }
}

impl FromStr for Shares {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is no list of shares such as push=10,pull=60,head=30");
        let mut shares = Self { push: 0, pull: 0, head: 0 };
        for pair in text.split(',') {
            let (name, share) = pair.split_once('=').ok_or_else(wrong)?;
            let share: u16 = share.trim().parse().map_err(|_| wrong())?;
            match name.trim() {
                "push" => shares.push = share.into(),
                "pull" => shares.pull = share.into(),
                "head" => shares.head = share.into(),
                _ => return Err(wrong()),
            }
        }
        if shares.push + shares.pull + shares.head == 0 { Err(wrong()) } else { Ok(shares) }
    }
}

impl TryFrom<String> for Shares {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// A value in a file: a number in the smallest whole unit, or text with a unit.
#[derive(Deserialize)]
#[serde(untagged)]
enum Spelled {
    Number(u64),
    Text(String),
}

impl TryFrom<Spelled> for Size {
    type Error = String;

    fn try_from(spelled: Spelled) -> Result<Self, String> {
        match spelled {
            Spelled::Number(bytes) => Ok(Self(bytes)),
            Spelled::Text(text) => text.parse(),
        }
    }
}

impl TryFrom<Spelled> for Span {
    type Error = String;

    fn try_from(spelled: Spelled) -> Result<Self, String> {
        match spelled {
            Spelled::Number(seconds) => seconds.to_string().parse(),
            Spelled::Text(text) => text.parse(),
        }
    }
}

/// A year: longer is a slip of the pen.
const SPAN_MAX: Duration = Duration::from_secs(365 * 24 * 3600);
