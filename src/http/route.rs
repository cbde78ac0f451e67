//! Which paths exist, with which verbs, and which of them need a key.

use tiny_http::Method;

use super::Response;
use crate::api::error::ApiError;

/// A path that exists.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Route {
    /// `/v1/chat/completions`
    ChatCompletions,
    /// `/v1/completions`
    Completions,
    /// `/v1/responses`
    Responses,
    /// `/v1/responses/{id}`
    Response(String),
    /// `/v1/models`
    Models,
    /// `/v1/models/{id}`, the id decoded.
    Model(String),
    /// `/metrics`: counts for Prometheus.
    Metrics,
    /// `/healthz`: the process is up.
    Healthz,
    /// `/livez`: the supervisor moves.
    Livez,
    /// `/readyz`: requests can be served.
    Readyz,
}

impl Route {
    /// The route of a path, `/v1` or not.
    pub fn of(path: &str) -> Option<Self> {
        match path {
            "/healthz" => return Some(Self::Healthz),
            "/livez" => return Some(Self::Livez),
            "/readyz" => return Some(Self::Readyz),
            "/metrics" => return Some(Self::Metrics),
            _ => {}
        }
        match path.strip_prefix("/v1/").or_else(|| path.strip_prefix('/'))? {
            "chat/completions" => Some(Self::ChatCompletions),
            "completions" => Some(Self::Completions),
            "responses" => Some(Self::Responses),
            "models" => Some(Self::Models),
            short => match short.split_once('/')? {
                (_, "") => None,
                ("models", id) => Some(Self::Model(percent_decode(id))),
                ("responses", id) => Some(Self::Response(percent_decode(id))),
                _ => None,
            },
        }
    }

    /// Its name in `/metrics`, and its verbs, as an `Allow` header names them.
    pub(super) fn facts(&self) -> (&'static str, &'static str) {
        match self {
            Self::ChatCompletions => ("chat_completions", "POST"),
            Self::Completions => ("completions", "POST"),
            Self::Responses => ("responses", "POST"),
            Self::Response(_) => ("responses", "GET, HEAD, DELETE"),
            Self::Models | Self::Model(_) => ("models", "GET, HEAD"),
            Self::Metrics => ("metrics", "GET, HEAD"),
            Self::Healthz | Self::Livez | Self::Readyz => ("health", "GET, HEAD"),
        }
    }

    /// Whether a request may only be served with a key, once one is configured.
    pub fn needs_key(&self) -> bool {
        !matches!(self, Self::Healthz | Self::Livez | Self::Readyz)
    }

    /// The route of a request.
    ///
    /// # Errors
    /// The answer to give instead: 404, or 405 with `Allow`.
    pub fn find(method: &Method, path: &str) -> Result<Self, Response> {
        let Some(route) = Self::of(path) else {
            return Err(Response::error(&ApiError::unknown_route(method.as_str(), path)));
        };
        let allow = route.facts().1;
        if allow.split(", ").any(|verb| verb == method.as_str()) {
            return Ok(route);
        }
        let message = format!("This URL takes {allow} and not {method}.");
        Err(Response::error(&ApiError::http(405, "method_not_allowed", message)).header("allow", allow))
    }
}

/// Decodes `%XX`. What cannot be decoded stays as it is.
fn percent_decode(text: &str) -> String {
    let (mut bytes, mut rest) = (Vec::with_capacity(text.len()), text.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        let escaped = tail.get(..2).filter(|hex| byte == b'%' && hex.iter().all(u8::is_ascii_hexdigit));
        let decoded = escaped.and_then(|hex| u8::from_str_radix(str::from_utf8(hex).ok()?, 16).ok());
        bytes.push(decoded.unwrap_or(byte));
        rest = if decoded.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_with_and_without_v1() {
        for prefix in ["", "/v1"] {
            assert_eq!(Route::of(&format!("{prefix}/chat/completions")), Some(Route::ChatCompletions));
            assert_eq!(Route::of(&format!("{prefix}/models")), Some(Route::Models));
            assert_eq!(Route::of(&format!("{prefix}/models/a/b")), Some(Route::Model("a/b".to_owned())));
        }
        assert_eq!(Route::of("/v1/models/a%2Fb%3a1%zz%"), Some(Route::Model("a/b:1%zz%".to_owned())));
        assert_eq!(Route::of("/v1/models/%ff"), Some(Route::Model("%ff".to_owned())));
        for path in ["/", "*", "/v1", "/v1/", "/v1/healthz", "/v1/models/", "/v1models", "/V1/models", "/v1/v1/models"]
        {
            assert_eq!(Route::of(path), None, "{path}");
        }
    }

    #[test]
    fn verbs() {
        assert_eq!(Route::find(&Method::Head, "/readyz"), Ok(Route::Readyz));
        assert_eq!(Route::find(&Method::Post, "/v1/chat/completions"), Ok(Route::ChatCompletions));
        let wrong = Route::find(&Method::Get, "/v1/chat/completions").unwrap_err();
        assert_eq!(wrong.status, 405);
        assert!(wrong.headers.contains(&("allow", "POST".to_owned())));
        assert_eq!(Route::find(&Method::Delete, "/v1/models").unwrap_err().status, 405);
        assert_eq!(Route::find(&Method::Get, "/nothing").unwrap_err().status, 404);
    }

    #[test]
    fn only_health_is_free() {
        assert!(!Route::Healthz.needs_key() && !Route::Livez.needs_key() && !Route::Readyz.needs_key());
        assert!(
            Route::Models.needs_key() && Route::ChatCompletions.needs_key() && Route::Model(String::new()).needs_key()
        );
    }
}
