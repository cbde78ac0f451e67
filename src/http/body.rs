//! The body of a request: decoding that keeps no I/O of its own, and the count of bytes that all bodies hold together.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::head::Framing;
use crate::api::error::ApiError;

/// Bytes that the chunk extensions and trailers of one body may have.
const MAX_CHUNK_EXTRAS: usize = 4096;

/// A whole body. It counts towards [`Limits::bodies_total_bytes`](super::Limits::bodies_total_bytes) as long as it
/// lives: drop it once it is parsed.
#[derive(Debug)]
pub struct Body {
    bytes: Vec<u8>,
    counted: usize,
    total: Arc<AtomicUsize>,
}

impl Body {
    pub(super) fn new(total: Arc<AtomicUsize>) -> Self {
        Self { bytes: Vec::new(), counted: 0, total }
    }

    /// Decodes `input`, at most to the end of the body, and tells how much of it was used.
    pub(super) fn decode(
        &mut self,
        decoder: &mut Decoder,
        input: &[u8],
        max: usize,
        max_total: usize,
    ) -> Result<usize, ApiError> {
        let used = decoder.decode(input, &mut self.bytes, max)?;
        let new = self.bytes.len() - self.counted;
        self.counted += new;
        if self.total.fetch_add(new, Ordering::Relaxed) + new > max_total {
            let message = format!("Bodies of other requests hold the {max_total} bytes that all may have together.");
            return Err(ApiError::busy("bodies_too_large", message, Duration::from_secs(1)));
        }
        Ok(used)
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

impl Drop for Body {
    fn drop(&mut self) {
        self.total.fetch_sub(self.counted, Ordering::Relaxed);
    }
}

/// Finds the end of a body.
#[derive(Debug)]
pub(super) enum Decoder {
    /// So many bytes are left.
    Length(u64),
    /// Chunks, and where in them we are.
    Chunked { state: Chunk, size: u64, digits: u32, extras: usize },
}

/// What comes next in a chunked body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Chunk {
    Size,
    Extension,
    SizeLf,
    Data,
    DataCr,
    DataLf,
    TrailerStart,
    Trailer,
    TrailerLf,
    EndLf,
    Done,
}

pub(super) fn too_large(max: usize) -> ApiError {
    ApiError::http(413, "body_too_large", format!("The body is larger than PROXY_MAX_BODY_BYTES ({max} bytes)."))
}

impl Decoder {
    /// Refuses a body that is announced to be larger than `max`.
    pub(super) fn new(framing: Framing, max: usize) -> Result<Self, ApiError> {
        match framing {
            Framing::Length(length) if length > max as u64 => Err(too_large(max)),
            Framing::Length(length) => Ok(Self::Length(length)),
            Framing::Chunked => Ok(Self::Chunked { state: Chunk::Size, size: 0, digits: 0, extras: 0 }),
        }
    }

    /// Whether the last byte of the body was seen.
    pub(super) fn is_done(&self) -> bool {
        matches!(self, Self::Length(0) | Self::Chunked { state: Chunk::Done, .. })
    }

    fn decode(&mut self, input: &[u8], out: &mut Vec<u8>, max: usize) -> Result<usize, ApiError> {
        let mut rest = input;
        match self {
            Self::Length(left) => take(left, &mut rest, out),
            Self::Chunked { state, size, digits, extras } => {
                while *state != Chunk::Done {
                    if *state == Chunk::Data {
                        take(size, &mut rest, out);
                        if *size > 0 {
                            break;
                        }
                        *state = Chunk::DataCr;
                    }
                    let Some((&byte, tail)) = rest.split_first() else { break };
                    rest = tail;
                    *state = match (*state, byte) {
                        (Chunk::Size, b'\r') if *digits > 0 => Chunk::SizeLf,
                        (Chunk::Size, b';') if *digits > 0 => Chunk::Extension,
                        (Chunk::Size, _) if *digits < 16 => {
                            let digit = char::from(byte).to_digit(16).ok_or_else(malformed)?;
                            *digits += 1;
                            *size = *size << 4 | u64::from(digit);
                            Chunk::Size
                        }
                        (Chunk::SizeLf, b'\n') if *size == 0 => Chunk::TrailerStart,
                        (Chunk::SizeLf, b'\n') if *size > max.saturating_sub(out.len()) as u64 => {
                            return Err(too_large(max));
                        }
                        (Chunk::SizeLf, b'\n') => Chunk::Data,
                        (Chunk::DataCr, b'\r') => Chunk::DataLf,
                        (Chunk::DataLf, b'\n') => {
                            *digits = 0;
                            Chunk::Size
                        }
                        (Chunk::TrailerStart, b'\r') => Chunk::EndLf,
                        (Chunk::TrailerLf, b'\n') => Chunk::TrailerStart,
                        (Chunk::EndLf, b'\n') => Chunk::Done,
                        (Chunk::Extension, b'\r') => Chunk::SizeLf,
                        (Chunk::Trailer, b'\r') => Chunk::TrailerLf,
                        (Chunk::TrailerStart, b' ' | b'\t' | b':') => return Err(malformed()),
                        (Chunk::Extension | Chunk::TrailerStart | Chunk::Trailer, _)
                            if *extras < MAX_CHUNK_EXTRAS && (byte == b'\t' || !byte.is_ascii_control()) =>
                        {
                            *extras += 1;
                            if *state == Chunk::Extension { Chunk::Extension } else { Chunk::Trailer }
                        }
                        _ => return Err(malformed()),
                    };
                }
            }
        }
        Ok(input.len() - rest.len())
    }
}

fn malformed() -> ApiError {
    ApiError::bad_request("The chunked body is malformed, or its chunk extensions or trailers are too long.")
}

/// Moves up to `left` bytes.
fn take(left: &mut u64, rest: &mut &[u8], out: &mut Vec<u8>) {
    let count = usize::try_from(*left).unwrap_or(usize::MAX).min(rest.len());
    let (head, tail) = rest.split_at(count);
    out.extend_from_slice(head);
    *rest = tail;
    *left -= count as u64;
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 64;

    /// Feeds `pieces` one after the other; gives the body and what was left over.
    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<u8>, Vec<u8>), u16> {
        let mut decoder = Decoder::new(Framing::Chunked, MAX).unwrap();
        let (mut out, mut left) = (Vec::new(), Vec::new());
        for piece in pieces {
            let used = decoder.decode(piece, &mut out, MAX).map_err(|error| error.status)?;
            left.extend_from_slice(&piece[used..]);
        }
        if decoder.is_done() { Ok((out, left)) } else { Err(0) }
    }

    #[test]
    fn chunks_split_at_every_byte() {
        let text = b"5;a=\"b\"\r\nhello\r\n00C\r\n, wide\r\nworl\r\n1\r\nd\r\n0\r\nX: y\r\n\r\nGET";
        for split in 0..=text.len() {
            let (first, second) = text.split_at(split);
            let (body, left) = decode([first, second]).unwrap();
            assert_eq!((body.as_slice(), left.as_slice()), (&b"hello, wide\r\nworld"[..], &b"GET"[..]), "{split}");
        }
        assert_eq!(decode(text.chunks(1)).unwrap().0, b"hello, wide\r\nworld");
    }

    #[test]
    fn malformed_chunks() {
        for text in [
            "\r\n",
            ";a\r\n",
            " 5\r\nhello",
            "5 \r\nhello",
            "+5\r\nhello",
            "0x5\r\nhello",
            "5\nhello",
            "5\r\rhello",
            "5;a\nhello",
            "5;a\u{0}\r\nhello",
            "5\r\nhelloX",
            "5\r\nhello\n",
            "5\r\nhello\rX",
            "G\r\n",
            "00000000000000005\r\nhello",
            "0\r\n\n",
            "0\r\nX: y\n",
            "0\r\n x: y\r\n",
            "0\r\n\rX",
            "-1\r\n",
        ] {
            assert_eq!(decode([text.as_bytes()]), Err(400), "{text:?}");
        }
        assert_eq!(decode([format!("1;{}\r\n", "a".repeat(5000)).as_bytes()]), Err(400));
        assert_eq!(decode([format!("0\r\nX: {}\r\n", "a".repeat(5000)).as_bytes()]), Err(400));
        assert_eq!(decode([&b"5\r\nhel"[..]]), Err(0));
    }

    #[test]
    fn chunks_are_bounded_before_they_arrive() {
        assert_eq!(decode([&b"41\r\n"[..]]), Err(413));
        assert_eq!(decode([&b"ffffffffffffffff\r\n"[..]]), Err(413));
        assert_eq!(decode([format!("20\r\n{}\r\n21\r\n", "a".repeat(32)).as_bytes()]), Err(413));
        assert_eq!(decode([format!("40\r\n{}\r\n0\r\n\r\n", "a".repeat(64)).as_bytes()]).unwrap().0.len(), 64);
    }

    #[test]
    fn lengths() {
        assert_eq!(Decoder::new(Framing::Length(1_000_000_000_000), MAX).unwrap_err().status, 413);
        let mut decoder = Decoder::new(Framing::Length(3), MAX).unwrap();
        let mut out = Vec::new();
        assert_eq!(decoder.decode(b"ab", &mut out, MAX), Ok(2));
        assert!(!decoder.is_done());
        assert_eq!(decoder.decode(b"cGET", &mut out, MAX), Ok(1));
        assert!(decoder.is_done());
        assert_eq!(out, b"abc");
    }

    #[test]
    fn all_bodies_together_are_bounded() {
        let total = Arc::new(AtomicUsize::new(0));
        let fill = |body: &mut Body| body.decode(&mut Decoder::Length(6), b"sixsix", MAX, 10).map_err(|e| e.status);
        let (mut first, mut second) = (Body::new(Arc::clone(&total)), Body::new(Arc::clone(&total)));
        assert_eq!(fill(&mut first), Ok(6));
        assert_eq!(fill(&mut second), Err(503));
        drop((first, second));
        assert_eq!(total.load(Ordering::Relaxed), 0);
        assert_eq!(fill(&mut Body::new(total)), Ok(6));
    }
}
