//! Answers that are written piece by piece.

use std::io::Write as _;

/// Headers of a stream of server-sent events. No proxy on the way may keep it back or store it.
pub(super) const EVENT_STREAM: [(&str, &str); 3] =
    [("content-type", "text/event-stream"), ("cache-control", "no-cache"), ("x-accel-buffering", "no")];

/// How the pieces of a stream are put on the wire.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Transfer {
    /// HTTP/1.1.
    Chunked,
    /// HTTP/1.0: the end of the connection is the end of the answer.
    UntilClose,
    /// HEAD: there is nothing but the head.
    HeadOnly,
}

impl Transfer {
    /// Appends one piece. An empty one is nothing: as a chunk it would be the end.
    pub(super) fn frame(self, piece: &[u8], out: &mut Vec<u8>) {
        match self {
            _ if piece.is_empty() => {}
            Self::Chunked => {
                // Writing to a vector does not fail.
                let _ = write!(out, "{:x}\r\n", piece.len());
                out.extend_from_slice(piece);
                out.extend_from_slice(b"\r\n");
            }
            Self::UntilClose => out.extend_from_slice(piece),
            Self::HeadOnly => {}
        }
    }

    /// Appends the end.
    pub(super) fn end(self, out: &mut Vec<u8>) {
        if self == Self::Chunked {
            out.extend_from_slice(b"0\r\n\r\n");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(transfer: Transfer) -> Vec<u8> {
        let mut out = Vec::new();
        transfer.frame(b"sixteen bytes ..", &mut out);
        transfer.frame(b"", &mut out);
        transfer.end(&mut out);
        out
    }

    #[test]
    fn pieces_on_the_wire() {
        assert_eq!(wire(Transfer::Chunked), b"10\r\nsixteen bytes ..\r\n0\r\n\r\n");
        assert_eq!(wire(Transfer::UntilClose), b"sixteen bytes ..");
        assert_eq!(wire(Transfer::HeadOnly), b"");
    }
}
