//! The error shape of the API and the one map from what went wrong to a status.

use std::fmt;
use std::time::Duration;

use super::write::{brief, member};
use crate::turn::{TurnError, TurnErrorKind};

/// An answer that is an error: a status, headers that tell SDKs whether to try again, and
/// `{"error":{message,type,param,code}}`.
#[derive(Clone, Debug, PartialEq)]
pub struct ApiError {
    /// HTTP status.
    pub status: u16,
    /// `error.type`.
    pub kind: &'static str,
    /// `error.code`.
    pub code: Option<&'static str>,
    /// `error.param`: the place in the request, such as `messages[2].role`.
    pub param: Option<String>,
    /// `error.message`: what failed, which limit, what to do. Holds no URL, path or prompt.
    pub message: String,
    /// Sent as `Retry-After`, in whole seconds, at least one.
    pub retry_after: Option<Duration>,
    /// `Some(false)` keeps SDKs from trying again by themselves (`x-should-retry`).
    pub should_retry: Option<bool>,
}

impl ApiError {
    fn new(status: u16, kind: &'static str, code: Option<&'static str>, message: impl Into<String>) -> Self {
        Self { status, kind, code, param: None, message: message.into(), retry_after: None, should_retry: None }
    }

    /// 400 about one place of the request.
    pub fn invalid(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { param: Some(param.into()), ..Self::bad_request(message) }
    }

    /// 400 for a field that changes the meaning of the request and cannot be served.
    pub fn unsupported(param: impl Into<String>, message: impl Into<String>) -> Self {
        Self { code: Some("unsupported_parameter"), ..Self::invalid(param, message) }
    }

    /// 400 about the request as a whole: its framing, or a body that is not JSON.
    pub fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "invalid_request_error", None, message)
    }

    /// Any status that concerns HTTP itself (405, 408, 413, 417, 431, 505 …).
    pub fn http(status: u16, code: &'static str, message: impl Into<String>) -> Self {
        Self::new(status, "invalid_request_error", Some(code), message)
    }

    /// 401: no key or a wrong one.
    pub fn wrong_key() -> Self {
        let words = "This server needs one of its own API keys (PROXY_API_KEY), as `Authorization: Bearer KEY` or `x-api-key: KEY`.";
        Self::http(401, "invalid_api_key", words)
    }

    /// 404 for a path that is no route.
    pub fn unknown_route(method: &str, path: &str) -> Self {
        let path: String = path.chars().take(200).collect();
        Self::http(404, "unknown_url", format!("Unknown request URL: {method} {path}."))
    }

    /// 404 for a model that this codex does not have.
    pub fn model_not_found(model: &str) -> Self {
        let words = format!("The model `{}` does not exist here; GET /v1/models lists those that do.", brief(model));
        Self { param: Some("model".to_owned()), ..Self::http(404, "model_not_found", words) }
    }

    /// 503 that is worth another try after `retry_after`.
    pub fn busy(code: &'static str, message: impl Into<String>, retry_after: Duration) -> Self {
        Self { retry_after: Some(retry_after), ..Self::new(503, "server_error", Some(code), message) }
    }

    /// The JSON text of the error.
    pub fn to_json(&self) -> String {
        let mut json = b"{\"error\":{".to_vec();
        member(&mut json, "message", &self.message);
        member(&mut json, "type", self.kind);
        member(&mut json, "param", &self.param);
        member(&mut json, "code", &self.code);
        json.extend_from_slice(b"}}");
        // It was written from text.
        String::from_utf8(json).unwrap_or_default()
    }

    /// Whole seconds for `Retry-After`.
    pub fn retry_after_secs(&self) -> Option<u64> {
        self.retry_after.map(|wait| wait.as_secs() + u64::from(wait.subsec_nanos() > 0)).map(|secs| secs.max(1))
    }
}

impl fmt::Display for ApiError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.status, self.message)
    }
}

impl std::error::Error for ApiError {}

impl From<&TurnError> for ApiError {
    fn from(error: &TurnError) -> Self {
        use TurnErrorKind as Kind;
        let (status, kind, code) = match error.kind {
            Kind::BadRequest => (400, "invalid_request_error", None),
            Kind::ContextLength => (400, "invalid_request_error", Some("context_length_exceeded")),
            Kind::Unsupported => (400, "invalid_request_error", Some("unsupported_parameter")),
            Kind::ModelNotFound => (404, "invalid_request_error", Some("model_not_found")),
            Kind::Unauthorized => (401, "authentication_error", Some("upstream_unauthorized")),
            Kind::RateLimited => (429, "rate_limit_error", Some("rate_limit_exceeded")),
            Kind::QuotaExhausted => (429, "insufficient_quota", Some("insufficient_quota")),
            Kind::TooManyTurns => (429, "rate_limit_error", Some("too_many_turns")),
            Kind::Overloaded => (503, "server_error", Some("upstream_overloaded")),
            Kind::Upstream => (502, "server_error", Some("upstream_error")),
            Kind::Unavailable | Kind::ShuttingDown => (503, "server_error", Some("backend_unavailable")),
            Kind::Timeout => (504, "server_error", Some("timeout")),
            // Nobody reads these two; they appear in the log.
            Kind::ClientGone => (499, "server_error", Some("client_gone")),
            Kind::SlowReader => (500, "server_error", Some("slow_reader")),
        };
        let should_retry = match error.kind {
            Kind::QuotaExhausted | Kind::Timeout | Kind::Unauthorized => Some(false),
            _ => None,
        };
        let retry_after = match error.kind {
            Kind::TooManyTurns | Kind::Overloaded | Kind::Unavailable | Kind::ShuttingDown => {
                Some(error.retry_after.unwrap_or(Duration::from_secs(1)))
            }
            _ => error.retry_after,
        };
        Self { retry_after, should_retry, ..Self::new(status, kind, code, error.message.clone()) }
    }
}
