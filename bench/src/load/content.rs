//! What is pushed and pulled: blobs of seeded noise and the images made of them.
//!
//! A size and a seed in; bodies that the kernel can send, and their digests, out. A blob is one
//! stretch of noise, repeated as often as it takes, and a tail of its own: so each has a digest of
//! its own, which costs hashing the tail alone.

use std::fs::File;
use std::io::{self, Write as _};

use ring::digest::{Context as Hash, SHA256};
use serde_json::json;

use crate::memory::{self, Noise, Pages};
use crate::registry::store::{digest_of, spelled};

/// The stretch of noise, as it is and in chunks, and the hash of everything but a tail.
pub(crate) struct Content {
    plain: File,
    chunked: File,
    chunk: u64,
    repeated: u64,
    body: u64,
    hash: Hash,
    seed: u64,
}

/// One blob.
#[derive(Clone)]
pub(crate) struct Blob {
    /// Its digest.
    pub(crate) digest: String,
    /// How many bytes.
    pub(crate) length: u64,
    tail: [u8; TAIL_BYTES],
}

/// An image of blobs.
pub(crate) struct Image {
    /// The config's bytes.
    pub(crate) config: Vec<u8>,
    /// The config's digest.
    pub(crate) config_digest: String,
    /// The manifest's bytes.
    pub(crate) manifest: Vec<u8>,
    /// The manifest's digest.
    pub(crate) digest: String,
    /// The layers.
    pub(crate) layers: Vec<Blob>,
}

/// A piece of a body.
pub(crate) enum Piece<'a> {
    /// So many bytes of a file, from an offset on.
    File(&'a File, u64, u64),
    /// These bytes.
    Bytes(Vec<u8>),
}

impl Content {
    /// Blobs of `size` bytes, to be pushed in chunks of `chunk` bytes if `chunked`.
    ///
    /// # Errors
    /// When memory runs out.
    pub(crate) fn make(size: u64, seed: u64, chunk: Option<u64>) -> io::Result<Self> {
        let body = size.saturating_sub(TAIL_BYTES as u64);
        let step = chunk.unwrap_or(1).clamp(1, body.max(1));
        // Whole chunks, so that the framed stretch can be repeated too.
        let repeated = (REPEATED_BYTES.max(step) / step * step).min(body.max(1));
        let plain = noise_file(seed, repeated)?;
        let chunked = memory::file("chunks")?;
        if chunk.is_some() {
            frame(&plain, &chunked, repeated / step, step)?;
        }
        let hash = hash_of(&plain, repeated, body)?;
        Ok(Self { plain, chunked, chunk: step, repeated, body, hash, seed })
    }

    /// The blob of this number: the same for the same seed, and unlike that of any other number.
    pub(crate) fn blob(&self, number: u64) -> Blob {
        let mut tail = [0; TAIL_BYTES];
        let (drawn, counted) = tail.split_at_mut(TAIL_BYTES / 2);
        Noise::new(self.seed).fill(drawn);
        counted.copy_from_slice(&number.to_be_bytes());
        let mut hash = self.hash.clone();
        hash.update(&tail);
        let digest = spelled("sha256", hash.finish().as_ref());
        Blob { digest, length: self.body + TAIL_BYTES as u64, tail }
    }

    /// The blob's bytes.
    pub(crate) fn plain(&self, blob: &Blob) -> Vec<Piece<'_>> {
        let mut pieces = Vec::new();
        let mut left = self.body;
        while left > 0 {
            let count = left.min(self.repeated);
            pieces.push(Piece::File(&self.plain, 0, count));
            left -= count;
        }
        pieces.push(Piece::Bytes(blob.tail.to_vec()));
        pieces
    }

    /// The blob's bytes in chunks (RFC 9112 §7.1), the last of them included.
    pub(crate) fn chunked(&self, blob: &Blob) -> Vec<Piece<'_>> {
        let head = format!("{:x}\r\n", self.chunk).len() as u64;
        let framed = head + self.chunk + 2;
        let mut pieces = Vec::new();
        let mut left = self.body;
        while left >= self.chunk {
            let chunks = left.min(self.repeated) / self.chunk;
            pieces.push(Piece::File(&self.chunked, 0, chunks * framed));
            left -= chunks * self.chunk;
        }
        let mut end = Vec::new();
        if left > 0 {
            pieces.push(Piece::Bytes(format!("{left:x}\r\n").into_bytes()));
            pieces.push(Piece::File(&self.plain, (self.body - left) % self.repeated, left));
            end.extend_from_slice(b"\r\n");
        }
        end.extend_from_slice(format!("{TAIL_BYTES:x}\r\n").as_bytes());
        end.extend_from_slice(&blob.tail);
        end.extend_from_slice(b"\r\n0\r\n\r\n");
        pieces.push(Piece::Bytes(end));
        pieces
    }

    /// The image whose layers have the numbers from `first` on.
    pub(crate) fn image(&self, first: u64, layers: usize) -> Image {
        let layers: Vec<_> = (first..).take(layers).map(|number| self.blob(number)).collect();
        let digests: Vec<_> = layers.iter().map(|layer| layer.digest.as_str()).collect();
        let config = json!({
            "architecture": "amd64",
            "os": "linux",
            "rootfs": { "type": "layers", "diff_ids": digests },
        });
        let config = config.to_string().into_bytes();
        let config_digest = digest_of(&config, "");
        let kind = |kind: &str| format!("application/vnd.oci.image.{kind}");
        let layer = |blob: &Blob| json!({ "mediaType": kind("layer.v1.tar"), "digest": blob.digest, "size": blob.length });
        let manifest = json!({
            "schemaVersion": 2,
            "mediaType": MANIFEST_KIND,
            "config": {
                "mediaType": kind("config.v1+json"),
                "digest": config_digest,
                "size": config.len(),
            },
            "layers": layers.iter().map(layer).collect::<Vec<_>>(),
        });
        let manifest = manifest.to_string().into_bytes();
        let digest = digest_of(&manifest, "");
        Image { config, config_digest, manifest, digest, layers }
    }
}

fn noise_file(seed: u64, length: u64) -> io::Result<File> {
    let mut file = memory::file("noise")?;
    let mut noise = Noise::new(seed);
    let mut pages = Pages::new(STEP_BYTES);
    let mut left = length;
    while left > 0 {
        let count = usize::try_from(left).unwrap_or(usize::MAX).min(STEP_BYTES);
        let piece = pages.bytes().get_mut(..count).unwrap_or_default();
        noise.fill(piece);
        file.write_all(piece)?;
        left -= count as u64;
    }
    Ok(file)
}

/// Writes the first `chunks` chunks of `size` bytes of `plain`, framed.
fn frame(plain: &File, mut framed: &File, chunks: u64, size: u64) -> io::Result<()> {
    let mut chunk = vec![0; usize::try_from(size).map_err(io::Error::other)?];
    for number in 0..chunks {
        std::os::unix::fs::FileExt::read_exact_at(plain, &mut chunk, number * size)?;
        let framed_chunk = [format!("{size:x}\r\n").as_bytes(), &chunk, b"\r\n"].concat();
        framed.write_all(&framed_chunk)?;
    }
    Ok(())
}

/// The hash of `length` bytes that repeat the first `repeated` bytes of `file`.
fn hash_of(file: &File, repeated: u64, length: u64) -> io::Result<Hash> {
    let mut hash = Hash::new(&SHA256);
    let mut pages = Pages::new(STEP_BYTES);
    let mut at = 0;
    while at < length {
        let within = at % repeated;
        let most = (repeated - within).min(length - at).min(STEP_BYTES as u64);
        let most = usize::try_from(most).unwrap_or(STEP_BYTES);
        let piece = pages.bytes().get_mut(..most).unwrap_or_default();
        std::os::unix::fs::FileExt::read_exact_at(file, piece, within)?;
        hash.update(piece);
        at += most as u64;
    }
    Ok(hash)
}

/// The media type of an image's manifest.
pub(crate) const MANIFEST_KIND: &str = "application/vnd.oci.image.manifest.v1+json";
const TAIL_BYTES: usize = 16;
/// Enough that no cache of a processor holds it, little enough for any machine's memory.
const REPEATED_BYTES: u64 = 16 << 20;
const STEP_BYTES: usize = 1 << 20;

#[cfg(test)]
mod tests {
    use std::os::unix::fs::FileExt as _;

    use super::*;

    fn bytes(pieces: &[Piece<'_>]) -> Vec<u8> {
        let mut all = Vec::new();
        for piece in pieces {
            match piece {
                Piece::Bytes(bytes) => all.extend_from_slice(bytes),
                Piece::File(file, from, count) => {
                    let mut part = vec![0; usize::try_from(*count).unwrap()];
                    file.read_exact_at(&mut part, *from).unwrap();
                    all.extend_from_slice(&part);
                }
            }
        }
        all
    }

    #[test]
    fn a_blob_has_its_size_and_its_digest_and_is_like_no_other() {
        for size in [32, 33, 4096, (16 << 20) + 99, (33 << 20) + 5] {
            let content = Content::make(size, 7, None).unwrap();
            let blob = content.blob(3);
            let plain = bytes(&content.plain(&blob));
            assert_eq!(plain.len() as u64, size);
            assert_eq!(blob.length, size);
            assert_eq!(digest_of(&plain, ""), blob.digest);
            assert_ne!(content.blob(4).digest, blob.digest);
        }
    }

    #[test]
    fn chunks_hold_the_same_bytes() {
        for (size, chunk) in [(100, 7), (100, 1000), (64, 48), (1 << 20, 4096), (17 << 20, 65536)] {
            let content = Content::make(size, 7, Some(chunk)).unwrap();
            let blob = content.blob(1);
            let mut framed = bytes(&content.chunked(&blob));
            let mut plain = Vec::new();
            loop {
                let end = framed.windows(2).position(|pair| pair == b"\r\n").unwrap();
                let size = std::str::from_utf8(&framed[..end]).unwrap();
                let size = usize::from_str_radix(size, 16).unwrap();
                plain.extend_from_slice(&framed[end + 2..end + 2 + size]);
                assert_eq!(&framed[end + 2 + size..][..2], b"\r\n");
                framed.drain(..end + 4 + size);
                if size == 0 {
                    break;
                }
            }
            assert!(framed.is_empty());
            assert_eq!(digest_of(&plain, ""), blob.digest, "{size} {chunk}");
        }
    }
}
