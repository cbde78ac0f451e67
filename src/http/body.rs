//! The body of a request: decoding that keeps no I/O of its own, and the count of bytes that all bodies hold together.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::head::Framing;
use crate::api::error::ApiError;

/// Bytes that the lines between the chunks of one body may have beyond the sizes: extensions and trailers.
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
    pub(super) fn decode(&mut self, decoder: &mut Decoder, input: &[u8], max_total: usize) -> Result<usize, ApiError> {
        let used = decoder.decode(input, &mut self.bytes)?;
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
pub(super) struct Decoder {
    next: Next,
    /// Bytes that the body may have.
    max: usize,
    /// Bytes of extensions and trailers so far.
    extras: usize,
}

/// What comes next in a body.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Next {
    /// So many bytes, the last of all.
    Rest(u64),
    /// The line with the size of a chunk.
    Size,
    /// So many bytes of a chunk.
    Chunk(u64),
    /// The line end after a chunk.
    ChunkEnd,
    /// A line after the last chunk.
    Trailer,
}

const DONE: Next = Next::Rest(0);

impl Decoder {
    /// Refuses a body that is announced to be larger than `max` bytes.
    pub(super) fn new(framing: Framing, max: usize) -> Result<Self, ApiError> {
        let next = match framing {
            Framing::Length(length) if length > max as u64 => return Err(too_large(max)),
            Framing::Length(length) => Next::Rest(length),
            Framing::Chunked => Next::Size,
        };
        Ok(Self { next, max, extras: 0 })
    }

    /// Whether the last byte of the body was seen.
    pub(super) fn is_done(&self) -> bool {
        self.next == DONE
    }

    /// Appends what `input` has of the body to `out`, and tells how much was used: a line that is not complete stays.
    fn decode(&mut self, input: &[u8], out: &mut Vec<u8>) -> Result<usize, ApiError> {
        let mut rest = input;
        while !self.is_done() {
            self.next = match (self.next, rest) {
                (_, []) | (Next::ChunkEnd, [b'\r']) => break,
                (Next::Rest(left), _) => Next::Rest(take(left, &mut rest, out)),
                (Next::Chunk(left), _) => match take(left, &mut rest, out) {
                    0 => Next::ChunkEnd,
                    left => Next::Chunk(left),
                },
                (Next::ChunkEnd, [b'\r', b'\n', tail @ ..]) => {
                    rest = tail;
                    Next::Size
                }
                (Next::ChunkEnd, _) => return Err(malformed()),
                (Next::Size, _) => match self.line(&mut rest)?.map(|line| self.size(line)).transpose()? {
                    None => break,
                    Some(0) => Next::Trailer,
                    Some(size) if size > self.max.saturating_sub(out.len()) as u64 => return Err(too_large(self.max)),
                    Some(size) => Next::Chunk(size),
                },
                (Next::Trailer, _) => match self.line(&mut rest)? {
                    None => break,
                    Some([]) => DONE,
                    Some([b' ' | b'\t' | b':', ..]) => return Err(malformed()),
                    Some(line) => {
                        self.extras += line.len();
                        Next::Trailer
                    }
                },
            };
        }
        Ok(input.len() - rest.len())
    }

    /// Takes a line without its end, once it is complete.
    fn line<'i>(&self, rest: &mut &'i [u8]) -> Result<Option<&'i [u8]>, ApiError> {
        let end = rest.windows(2).position(|two| two == b"\r\n");
        let (line, tail) = rest.split_at(end.unwrap_or(rest.len()));
        // The last byte so far may be the CR of its end.
        let text = line.strip_suffix(b"\r").filter(|_| end.is_none()).unwrap_or(line);
        let odd = text.iter().any(|byte| *byte != b'\t' && byte.is_ascii_control());
        if odd || self.extras + text.len() > MAX_CHUNK_EXTRAS {
            return Err(malformed());
        }
        *rest = tail.get(2..).unwrap_or(rest);
        Ok(end.map(|_| text))
    }

    /// The size that a line gives, whatever stands behind it.
    fn size(&mut self, line: &[u8]) -> Result<u64, ApiError> {
        let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
        let (digits, extension) = line.split_at(digits);
        self.extras += extension.len();
        match (str::from_utf8(digits), extension.first()) {
            (Ok(digits), None | Some(b';')) if digits.len() <= 16 => {
                u64::from_str_radix(digits, 16).map_err(|_| malformed())
            }
            _ => Err(malformed()),
        }
    }
}

fn too_large(max: usize) -> ApiError {
    ApiError::http(413, "body_too_large", format!("The body is larger than PROXY_MAX_BODY_BYTES ({max} bytes)."))
}

fn malformed() -> ApiError {
    ApiError::bad_request("The chunked body is malformed, or its chunk extensions or trailers are too long.")
}

/// Moves up to `left` bytes, and tells how many are left then.
fn take(left: u64, rest: &mut &[u8], out: &mut Vec<u8>) -> u64 {
    let count = usize::try_from(left).unwrap_or(usize::MAX).min(rest.len());
    let (head, tail) = rest.split_at(count);
    out.extend_from_slice(head);
    *rest = tail;
    left - count as u64
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
            left.extend_from_slice(piece);
            let used = decoder.decode(&left, &mut out).map_err(|error| error.status)?;
            left.drain(..used);
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
        assert_eq!(decoder.decode(b"ab", &mut out), Ok(2));
        assert!(!decoder.is_done());
        assert_eq!(decoder.decode(b"cGET", &mut out), Ok(1));
        assert!(decoder.is_done());
        assert_eq!(out, b"abc");
    }

    #[test]
    fn all_bodies_together_are_bounded() {
        let total = Arc::new(AtomicUsize::new(0));
        let decoder = || Decoder::new(Framing::Length(6), MAX).unwrap();
        let fill = |body: &mut Body| body.decode(&mut decoder(), b"sixsix", 10).map_err(|e| e.status);
        let (mut first, mut second) = (Body::new(Arc::clone(&total)), Body::new(Arc::clone(&total)));
        assert_eq!(fill(&mut first), Ok(6));
        assert_eq!(fill(&mut second), Err(503));
        drop((first, second));
        assert_eq!(total.load(Ordering::Relaxed), 0);
        assert_eq!(fill(&mut Body::new(total)), Ok(6));
    }
}
