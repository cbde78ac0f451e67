//! Which browsers of other origins may read answers. Off unless it is switched on; then a preflight needs no key, and
//! every answer, an error too, carries the headers.

use tiny_http::Method;

use super::{Head, Response};

/// Headers of an answer that scripts may read.
const EXPOSED: &str = "x-request-id, openai-processing-ms, retry-after, x-should-retry";
/// What may be sent where a preflight does not ask.
const USUAL: &str = "authorization, content-type, x-api-key";

/// The rules.
#[derive(Clone, Debug, Default)]
pub struct Cors {
    /// `None`: off.
    origins: Option<Vec<String>>,
}

impl Cors {
    /// `origins` may read answers; `*` stands for all.
    pub fn new(enabled: bool, origins: &[String]) -> Self {
        Self { origins: enabled.then(|| origins.to_vec()) }
    }

    /// The headers that every answer to this request carries.
    pub fn headers(&self, head: &Head) -> Vec<(&'static str, String)> {
        let Some(origins) = &self.origins else { return Vec::new() };
        if origins.iter().any(|origin| origin == "*") {
            return allow("*".to_owned()).into();
        }
        // Another origin would get another answer.
        let mut headers = vec![("vary", "origin".to_owned())];
        if let Some(origin) = head.header("origin").filter(|asked| origins.iter().any(|origin| origin == asked)) {
            headers.extend(allow(origin.to_owned()));
        }
        headers
    }

    /// The answer to a preflight, if this is one and CORS is on.
    pub fn preflight(&self, head: &Head) -> Option<Response> {
        self.origins.as_ref().filter(|_| head.method == Method::Options)?;
        let asked = head.header("access-control-request-headers").unwrap_or(USUAL);
        Some(
            Response::new(204)
                .header("access-control-allow-methods", "GET, HEAD, POST, DELETE, OPTIONS")
                .header("access-control-allow-headers", asked)
                .header("access-control-max-age", "600"),
        )
    }
}

fn allow(origin: String) -> [(&'static str, String); 2] {
    [("access-control-allow-origin", origin), ("access-control-expose-headers", EXPOSED.to_owned())]
}
