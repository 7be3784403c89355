//! The chunked coding (RFC 9112 §7.1), one byte after the other.
//!
//! Input in pieces in, [`Step`]s out. Extensions and trailers are checked and dropped; it never
//! keeps a byte of them.

use super::{ChunkPlace, Step};

/// Where in the coding the next byte stands.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Chunks {
    place: Place,
    /// The size of the chunk under way: being read, or what is left of it.
    size: u64,
    /// Digits of the size, or bytes of the extension, read so far.
    count: u32,
    /// Bytes of extensions and trailers in this body so far.
    dropped: u32,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Place {
    #[default]
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    TrailerName,
    TrailerValue,
    TrailerLf,
    LastLf,
    Done,
}

impl Chunks {
    /// What the front of `input` is. Those bytes count as seen.
    pub(super) fn step(&mut self, input: &[u8]) -> Result<Step, &'static str> {
        let mut skipped = 0;
        for byte in input {
            if matches!(self.place, Place::Data | Place::Done) {
                break;
            }
            self.framing(*byte)?;
            skipped += 1;
        }
        match self.place {
            _ if skipped > 0 => Ok(Step::Skip(skipped)),
            Place::Done => Ok(Step::End),
            Place::Data if !input.is_empty() => {
                let fits = usize::try_from(self.size).unwrap_or(usize::MAX);
                let count = fits.min(input.len());
                self.advance(count as u64);
                Ok(Step::Payload(count))
            }
            _ => Ok(Step::More),
        }
    }

    /// So many bytes of the chunk under way went by.
    pub(super) fn advance(&mut self, count: u64) {
        debug_assert!(self.place == Place::Data && count <= self.size, "more than the chunk has");
        self.size = self.size.saturating_sub(count);
        if self.size == 0 && self.place == Place::Data {
            self.place = Place::DataCr;
        }
    }

    /// See [`ChunkPlace`].
    pub(super) fn place(&self) -> ChunkPlace {
        match self.place {
            Place::Size if self.count == 0 => ChunkPlace::Head,
            Place::Data => ChunkPlace::Data(self.size),
            Place::DataCr => ChunkPlace::AfterData,
            _ => ChunkPlace::Elsewhere,
        }
    }

    /// Whether the last byte of the trailer section was seen.
    pub(super) fn is_done(&self) -> bool {
        self.place == Place::Done
    }

    /// One byte that is not payload.
    fn framing(&mut self, byte: u8) -> Result<(), &'static str> {
        self.place = match (self.place, byte) {
            (Place::Size, _) => self.size_byte(byte)?,
            (Place::Extension, b'\r') => Place::SizeLf,
            (Place::Extension, _) => {
                self.count += 1;
                if self.count > EXTENSION_BYTES_MAX || !is_text(byte) {
                    return Err("a chunk's extension is too long or not text");
                }
                self.drop_one()?;
                Place::Extension
            }
            (Place::SizeLf, b'\n') => {
                self.count = 0;
                if self.size == 0 { Place::TrailerStart } else { Place::Data }
            }
            (Place::DataCr, b'\r') => Place::DataLf,
            (Place::DataLf, b'\n') => Place::Size,
            (Place::TrailerStart, b'\r') => Place::LastLf,
            (Place::TrailerStart, _) if is_token(byte) => Place::TrailerName,
            (Place::TrailerName, b':') => Place::TrailerValue,
            (Place::TrailerName, _) if is_token(byte) => Place::TrailerName,
            (Place::TrailerValue, b'\r') => Place::TrailerLf,
            (Place::TrailerValue, _) if is_text(byte) => Place::TrailerValue,
            (Place::TrailerLf, b'\n') => Place::TrailerStart,
            (Place::LastLf, b'\n') => Place::Done,
            (Place::TrailerStart | Place::TrailerName | Place::TrailerValue, _) => {
                return Err("a trailer is malformed");
            }
            _ => return Err("a chunk must end with CR LF"),
        };
        if matches!(self.place, Place::TrailerName | Place::TrailerValue) {
            self.drop_one()?;
        }
        Ok(())
    }

    /// One byte of a chunk's size: 1 to 16 hexadecimal digits, nothing else, and no more than a
    /// signed number holds, for that is what others read it into.
    fn size_byte(&mut self, byte: u8) -> Result<Place, &'static str> {
        let digit = char::from(byte).to_digit(16);
        match (digit, byte) {
            (Some(digit), _) if self.count < SIZE_DIGITS_MAX => {
                self.size = (self.size << 4) | u64::from(digit);
                self.count += 1;
                if i64::try_from(self.size).is_err() {
                    return Err("a chunk's size is beyond all sizes");
                }
                Ok(Place::Size)
            }
            (None, b'\r') if self.count > 0 => Ok(Place::SizeLf),
            (None, b';') if self.count > 0 => {
                self.count = 0;
                Ok(Place::Extension)
            }
            _ => Err("a chunk's size is not a size"),
        }
    }

    /// Counts a byte that is dropped: a body of nothing but extensions would cost us for ever.
    fn drop_one(&mut self) -> Result<(), &'static str> {
        self.dropped += 1;
        if self.dropped > DROPPED_BYTES_MAX {
            return Err("the body has too many chunk extensions or trailers");
        }
        Ok(())
    }
}

/// RFC 9110 §5.6.2.
fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

/// What a field's value or a quoted string may hold.
fn is_text(byte: u8) -> bool {
    byte == b'\t' || (byte >= b' ' && byte != 0x7f)
}

const SIZE_DIGITS_MAX: u32 = 16;
/// The extensions of one chunk.
const EXTENSION_BYTES_MAX: u32 = 256;
/// All extensions and trailers of one body.
const DROPPED_BYTES_MAX: u32 = 16 * 1024;
