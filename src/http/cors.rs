//! Which browsers of other origins may read answers. Off unless it is switched on; then a preflight needs no key, and
//! every answer to a request that could be read, an error too, carries the headers.

use tiny_http::Method;

use super::{Head, Header, Response};
use crate::config::Config;

/// Headers of an answer that scripts may read.
const EXPOSED: &str = "x-request-id, openai-processing-ms, retry-after, x-should-retry";
/// What may be sent where a preflight does not ask.
const USUAL: &str = "authorization, content-type, x-api-key";

/// The headers that every answer to this request carries.
pub(super) fn headers(config: &Config, head: &Head) -> Vec<Header> {
    let allow = |origin: &str| {
        [("access-control-allow-origin", origin.to_owned()), ("access-control-expose-headers", EXPOSED.to_owned())]
    };
    if !config.cors {
        return Vec::new();
    }
    if config.cors_origins.iter().any(|origin| origin == "*") {
        return allow("*").into();
    }
    let allowed = head.header("origin").filter(|asked| config.cors_origins.iter().any(|origin| origin == asked));
    // Another origin would get another answer.
    [("vary", "origin".to_owned())].into_iter().chain(allowed.into_iter().flat_map(allow)).collect()
}

/// The answer to a preflight, if this is one and CORS is on.
pub(super) fn preflight(config: &Config, head: &Head) -> Option<Response> {
    let asked = head.header("access-control-request-headers").unwrap_or(USUAL);
    (config.cors && head.method == Method::Options).then(|| {
        Response::new(204)
            .header("access-control-allow-methods", "GET, HEAD, POST, DELETE, OPTIONS")
            .header("access-control-allow-headers", asked)
            .header("access-control-max-age", "600")
    })
}
