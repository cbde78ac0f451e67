//! `POST /v1/chat/completions`.

pub mod encode;
pub mod request;

/// What the answer has to know of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Form {
    /// Whether a stream ends with its usage.
    pub include_usage: bool,
    /// Whether the request used `functions`: calls then take the older form, too.
    pub functions: bool,
}
