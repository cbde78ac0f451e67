//! The body of a request, and the count of bytes that all bodies hold together.

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use super::Limits;
use super::head::Framing;
use crate::api::error::ApiError;

/// Bytes that the lines between the chunks of one body may have beside the sizes: extensions and trailers.
const MAX_CHUNK_EXTRAS: usize = 4096;
/// Digits of the size of a chunk.
const MAX_SIZE_DIGITS: usize = 16;

/// Where the bytes of a body come from.
pub(super) trait Source {
    /// What came and was not used yet.
    fn unused(&self) -> &[u8];

    /// So many bytes of it are used now.
    fn advance(&mut self, count: usize);

    /// Waits until there is more of it.
    fn more(&mut self) -> Result<(), ApiError>;
}

/// A whole body: drop it once it is parsed, but for its share.
#[derive(Debug)]
pub struct Body {
    bytes: Vec<u8>,
    share: Share,
}

/// What a request holds of [`Limits::bodies_total_bytes`], until it is dropped.
#[derive(Debug)]
pub struct Share {
    bytes: usize,
    total: Arc<AtomicUsize>,
    max_total: usize,
}

impl Share {
    fn take(&mut self, count: usize) -> Result<(), ApiError> {
        self.bytes += count;
        if self.total.fetch_add(count, Ordering::Relaxed) + count > self.max_total {
            let message =
                format!("Bodies of other requests hold the {} bytes that all may have together.", self.max_total);
            return Err(ApiError::busy("bodies_too_large", message, Duration::from_secs(1)));
        }
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.total.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

impl Body {
    /// Reads a body to its end, and not a byte further.
    pub(super) fn read(
        source: &mut impl Source,
        framing: Framing,
        limits: &Limits,
        total: Arc<AtomicUsize>,
    ) -> Result<Self, ApiError> {
        let share = Share { bytes: 0, total, max_total: limits.bodies_total_bytes };
        let mut body = Self { bytes: Vec::new(), share };
        if let Framing::Length(length) = framing {
            body.take(source, length, limits)?;
            return Ok(body);
        }
        let mut extras = MAX_CHUNK_EXTRAS;
        loop {
            let line = take_line(source, extras + MAX_SIZE_DIGITS)?;
            let digits = line.iter().take_while(|byte| byte.is_ascii_hexdigit()).count();
            let (digits, extension) = line.split_at(digits);
            let sound = digits.len() <= MAX_SIZE_DIGITS && (extension.is_empty() || extension.starts_with(b";"));
            extras = extras.checked_sub(extension.len()).filter(|_| sound).ok_or_else(malformed)?;
            let size = str::from_utf8(digits).ok().and_then(|digits| u64::from_str_radix(digits, 16).ok());
            match size.ok_or_else(malformed)? {
                0 => break,
                size => body.take(source, size, limits)?,
            }
            take_line(source, 0)?;
        }
        loop {
            let trailer = take_line(source, extras)?;
            extras -= trailer.len();
            match trailer.as_slice() {
                [] => return Ok(body),
                [b' ' | b'\t' | b':', ..] => return Err(malformed()),
                _ => {}
            }
        }
    }

    /// Takes `left` bytes as they come.
    fn take(&mut self, source: &mut impl Source, mut left: u64, limits: &Limits) -> Result<(), ApiError> {
        let max = limits.max_body_bytes;
        if left > (max - self.bytes.len()) as u64 {
            let message = format!("The body is larger than PROXY_MAX_BODY_BYTES ({max} bytes).");
            return Err(ApiError::http(413, "body_too_large", message));
        }
        while left > 0 {
            if source.unused().is_empty() {
                source.more()?;
            }
            let unused = source.unused();
            let count = unused.len().min(usize::try_from(left).unwrap_or(usize::MAX));
            self.bytes.extend_from_slice(unused.get(..count).unwrap_or_default());
            source.advance(count);
            left -= count as u64;
            self.share.take(count)?;
        }
        Ok(())
    }

    /// Lets the bytes go, as what was parsed of them is a second copy, and keeps their share for that one, which may
    /// take more.
    ///
    /// # Errors
    /// 503: all requests together would have more than they may.
    pub fn into_share(self, parsed_bytes: usize) -> Result<Share, ApiError> {
        let mut share = self.share;
        share.take(parsed_bytes.saturating_sub(share.bytes))?;
        Ok(share)
    }
}

impl Deref for Body {
    type Target = [u8];

    fn deref(&self) -> &[u8] {
        &self.bytes
    }
}

/// Takes a line of at most `max` bytes, and its end. What cannot become one is refused as soon as that is clear.
fn take_line(source: &mut impl Source, max: usize) -> Result<Vec<u8>, ApiError> {
    loop {
        let unused = source.unused();
        let end = unused.windows(2).position(|two| two == b"\r\n");
        let mut line = unused.get(..end.unwrap_or(unused.len())).unwrap_or_default().to_vec();
        line.pop_if(|last| end.is_none() && *last == b'\r');
        if line.len() > max || line.iter().any(|byte| *byte != b'\t' && byte.is_ascii_control()) {
            return Err(malformed());
        }
        if let Some(end) = end {
            source.advance(end + 2);
            return Ok(line);
        }
        source.more()?;
    }
}

fn malformed() -> ApiError {
    ApiError::bad_request("The chunked body is malformed, or its chunk extensions or trailers are too long.")
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: usize = 64;

    /// Pieces that come one after the other.
    struct Pieces<I> {
        unused: Vec<u8>,
        rest: I,
    }

    impl<'a, I: Iterator<Item = &'a [u8]>> Source for Pieces<I> {
        fn unused(&self) -> &[u8] {
            &self.unused
        }

        fn advance(&mut self, count: usize) {
            self.unused.drain(..count);
        }

        fn more(&mut self) -> Result<(), ApiError> {
            let piece = self.rest.next().ok_or_else(|| ApiError::http(0, "no_more", ""))?;
            self.unused.extend_from_slice(piece);
            Ok(())
        }
    }

    fn limits() -> Limits {
        let wait = Duration::ZERO;
        let (max_body_bytes, bodies_total_bytes) = (MAX, 2 * MAX);
        Limits {
            max_connections: 1,
            max_body_bytes,
            bodies_total_bytes,
            head: wait,
            body: wait,
            write: wait,
            idle: wait,
        }
    }

    /// Reads a body that comes in `pieces`; gives it and what was left over, or a status; 0 where it has no end.
    fn read<'a>(framing: Framing, pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<u8>, Vec<u8>), u16> {
        let mut source = Pieces { unused: Vec::new(), rest: pieces.into_iter() };
        let body = Body::read(&mut source, framing, &limits(), Arc::default()).map_err(|error| error.status)?;
        let left = source.unused.into_iter().chain(source.rest.flatten().copied()).collect();
        Ok((body.to_vec(), left))
    }

    fn decode<'a>(pieces: impl IntoIterator<Item = &'a [u8]>) -> Result<(Vec<u8>, Vec<u8>), u16> {
        read(Framing::Chunked, pieces)
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
        assert_eq!(read(Framing::Length(1_000_000_000_000), []), Err(413));
        assert_eq!(read(Framing::Length(3), [&b"ab"[..]]), Err(0));
        assert_eq!(read(Framing::Length(3), [&b"ab"[..], b"cGET"]), Ok((b"abc".to_vec(), b"GET".to_vec())));
        assert_eq!(read(Framing::Length(0), [&b"GET"[..]]), Ok((Vec::new(), b"GET".to_vec())));
    }

    #[test]
    fn all_bodies_together_are_bounded() {
        let total = Arc::new(AtomicUsize::new(0));
        let fill = || {
            let mut source = Pieces { unused: vec![b'x'; MAX], rest: std::iter::empty() };
            Body::read(&mut source, Framing::Length(MAX as u64), &limits(), Arc::clone(&total))
        };
        let bodies = (fill().unwrap(), fill().unwrap());
        assert_eq!(fill().unwrap_err().status, 503);
        // What was parsed counts for as much as the body, and for more where it is more.
        drop(bodies.0);
        let share = bodies.1.into_share(MAX / 2).unwrap();
        assert_eq!(total.load(Ordering::Relaxed), MAX);
        assert_eq!(fill().unwrap().into_share(MAX + 1).unwrap_err().status, 503);
        drop(share);
        assert_eq!(total.load(Ordering::Relaxed), 0);
        assert!(fill().unwrap().into_share(2 * MAX).is_ok());
    }
}
