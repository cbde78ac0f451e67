//! The HTTP engine through real sockets, with a small service behind it.
#![allow(clippy::unwrap_used, clippy::expect_used)]

mod ends;
mod framing;
mod limits;
mod support;
