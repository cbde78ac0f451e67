//! Which browsers of other origins may read answers. Off unless it is switched on; then a preflight needs no key, and
//! every answer to a request that could be read, an error too, carries the headers. And which pages may ask at all where
//! no key keeps them out.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use tiny_http::Method;

use super::{Head, Header, Response};
use crate::api::error::ApiError;
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

/// Where no key is needed, keeps out pages of the web that a browser on this machine shows. Browsers name the origin of
/// whatever makes a turn, and that of such a page is `http`, `https` or `null`: programs have schemes of their own. A
/// name that a stranger has made lead here (DNS rebinding) shows in `Host`; those of one word or of the local network are
/// nobody's to register.
///
/// # Errors
/// 403 with what to do.
pub(super) fn keep_pages_out(config: &Config, head: &Head) -> Result<(), ApiError> {
    let refuse = |code, words: &str| Err(ApiError::http(403, code, format!("Without a key (PROXY_API_KEY) {words}.")));
    if head.header("host").is_some_and(|host| address(host).is_none() && !is_local_name(host)) {
        let words = "this server has no public name: use localhost or an IP address as its host";
        return refuse("host_not_allowed", words);
    }
    let is_local = |origin: &str| match origin.split_once("://") {
        Some(("http" | "https", host)) => address(host).is_some_and(|address| address.is_loopback()),
        scheme => scheme.is_some(),
    };
    let may_read = || headers(config, head).iter().any(|(name, _)| *name == "access-control-allow-origin");
    if head.header("origin").is_some_and(|origin| !is_local(origin)) && !may_read() {
        let words =
            "this server answers only those web pages that PROXY_ENABLE_CORS and PROXY_CORS_ALLOWED_ORIGINS allow";
        return refuse("origin_not_allowed", words);
    }
    Ok(())
}

/// Whether no public name can look like this.
fn is_local_name(host: &str) -> bool {
    let name = host.split(':').next().unwrap_or_default().to_ascii_lowercase();
    !name.is_empty() && !name.contains('.')
        || [".localhost", ".local", ".internal"].iter().any(|end| name.ends_with(end))
}

/// The address that a host, with a port or without, is by itself. Of names only `localhost` is one.
fn address(host: &str) -> Option<IpAddr> {
    if host.split(':').next().is_some_and(|name| name.eq_ignore_ascii_case("localhost")) {
        return Some(Ipv4Addr::LOCALHOST.into());
    }
    host.parse().map(|address: SocketAddr| address.ip()).or_else(|_| host.trim_matches(['[', ']']).parse()).ok()
}
