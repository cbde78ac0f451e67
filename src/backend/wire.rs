//! Lines of JSON-RPC as codex speaks it: one object per `\n`, no `jsonrpc` member (0.44 – 0.169).

use std::borrow::Cow;

use serde::{Deserialize, Serialize};
use serde_json::json;
use serde_json::value::RawValue;

/// What one pass over a line tells the router. Absent strings are empty.
#[derive(Debug, Deserialize)]
pub struct Probe<'a> {
    /// Of a request or a response; a number or, in principle, a string.
    #[serde(default, borrow)]
    pub id: Option<&'a RawValue>,
    /// Of a request or a notification.
    #[serde(default, borrow)]
    pub method: Cow<'a, str>,
    /// Only the part that routes.
    #[serde(default, borrow)]
    pub params: ProbeParams<'a>,
}

/// The routing part of `params`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ProbeParams<'a> {
    /// The thread that a message belongs to.
    #[serde(default, borrow)]
    pub thread_id: Cow<'a, str>,
    /// The same in the v1 protocol.
    #[serde(default, borrow)]
    pub conversation_id: Cow<'a, str>,
}

/// An error as codex answers it.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub struct RpcError {
    /// `-32001`: its queue is full. `-32600`: wrong method, params or state.
    pub code: i64,
    /// For people.
    #[serde(default)]
    pub message: String,
}

impl RpcError {
    /// Whether codex only asks to come back later.
    pub fn is_overload(&self) -> bool {
        self.code == -32001
    }

    /// Whether codex does not have the method that was called; up to 0.50 it says no more than that something is wrong.
    pub fn is_unknown_method(&self) -> bool {
        self.code == -32600 && (self.message == "Invalid request" || self.message.contains("unknown variant"))
    }
}

#[derive(Deserialize)]
struct Response<'a> {
    #[serde(default, borrow)]
    result: Option<&'a RawValue>,
    #[serde(default)]
    error: Option<RpcError>,
}

/// Splits a response into what codex gave: the JSON text of the result, or its error.
pub fn response(line: &[u8]) -> Result<&str, RpcError> {
    let broken = |message: String| RpcError { code: -32700, message };
    let text = std::str::from_utf8(line).map_err(|e| broken(e.to_string()))?;
    let response: Response<'_> = serde_json::from_str(text).map_err(|e| broken(e.to_string()))?;
    match (response.error, response.result) {
        (Some(error), _) => Err(error),
        (None, result) => Ok(result.map_or("null", RawValue::get)),
    }
}

#[derive(Serialize)]
struct Request<'a, P: Serialize> {
    id: u64,
    method: &'a str,
    params: P,
}

/// The line of a request.
pub fn request(id: u64, method: &str, params: impl Serialize) -> Vec<u8> {
    line(&Request { id, method, params })
}

/// The line of a notification without params.
pub fn notification(method: &str) -> Vec<u8> {
    line(&json!({ "method": method }))
}

/// One value as one line. Our own values always serialise; should one not, codex ignores the empty line.
pub fn line(value: &impl Serialize) -> Vec<u8> {
    let mut bytes = serde_json::to_vec(value).unwrap_or_default();
    bytes.push(b'\n');
    bytes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_probe_reads_what_routes_and_nothing_else() {
        let line = br#"{"method":"item/agentMessage/delta","params":{"threadId":"t1","delta":"x"},"emittedAtMs":1}"#;
        let probe: Probe<'_> = serde_json::from_slice(line).unwrap();
        assert_eq!((&*probe.method, &*probe.params.thread_id), ("item/agentMessage/delta", "t1"));
        assert!(probe.id.is_none() && matches!(probe.method, Cow::Borrowed(_)));
        let probe: Probe<'_> = serde_json::from_slice(br#"{"id":"s-1","result":{}}"#).unwrap();
        assert_eq!(probe.id.map(RawValue::get), Some("\"s-1\""));
    }

    #[test]
    fn responses_split_into_result_and_error() {
        assert_eq!(response(br#"{"id":1,"result":{"a":1}}"#), Ok(r#"{"a":1}"#));
        assert_eq!(response(br#"{"id":1,"result":null}"#), Ok("null"));
        let error = response(br#"{"error":{"code":-32001,"message":"later"},"id":3}"#).unwrap_err();
        assert!(error.is_overload());
        assert_eq!(response(b"{").unwrap_err().code, -32700);
    }

    #[test]
    fn lines_are_exact() {
        assert_eq!(
            request(7, "a/b", serde_json::json!({"x": "\u{2028}"})),
            "{\"id\":7,\"method\":\"a/b\",\"params\":{\"x\":\"\u{2028}\"}}\n".as_bytes()
        );
        assert_eq!(notification("initialized"), b"{\"method\":\"initialized\"}\n");
    }
}
