//! From codex's words about a failure to the kinds of [`TurnErrorKind`](crate::turn::TurnErrorKind). Older versions
//! (0.142.5, 0.146.0) say `other` where newer ones have a name, so their text is read too.

use serde::Deserialize;
use serde_json::Value;

use crate::turn::{Finish, TurnError, TurnErrorKind as Kind};

/// The error object of `error` and `turn/completed`.
#[derive(Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct CodexError {
    #[serde(default)]
    message: String,
    #[serde(default, alias = "codex_error_info")]
    codex_error_info: Value,
    #[serde(default, alias = "additional_details")]
    additional_details: Option<String>,
}

/// What of the lean profile a service may refuse; a generation without it takes over then.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Refusal {
    /// Custom base instructions (seen with ChatGPT credentials).
    Instructions,
    /// A form of the request that the derived catalog chose.
    Catalog,
}

/// What a failure means for the answer.
#[derive(Debug, PartialEq)]
pub(super) enum Meaning {
    /// No failure for the client: the answer was cut.
    Cut(Finish),
    /// The service does not take what the lean profile asks of it.
    Refused(Refusal),
    /// A failure.
    Failed(TurnError),
}

/// What a service's refusal names if it is about a choice of the derived catalog and not about the client's request.
const CATALOG_WORDS: [&str; 4] = ["responses_lite", "code_mode", "parallel_tool_calls", "tool_mode"];

impl CodexError {
    fn text(&self) -> (&str, &str) {
        (&self.message, self.additional_details.as_deref().unwrap_or_default())
    }

    /// Whether the model's response was cut: also told in the notice of a retry, and not worth one.
    pub(super) fn cut(&self) -> Option<Finish> {
        let (message, details) = self.text();
        let reason =
            [message, details].iter().find_map(|text| text.split_once("Incomplete response returned, reason: "))?.1;
        match reason.split(|c: char| !(c.is_ascii_alphanumeric() || c == '_')).next()? {
            "max_output_tokens" => Some(Finish::Length),
            "content_filter" => Some(Finish::ContentFilter),
            _ => None,
        }
    }

    /// What it means.
    pub(super) fn meaning(&self) -> Meaning {
        if let Some(finish) = self.cut() {
            return Meaning::Cut(finish);
        }
        let (message, details) = self.text();
        if ["Instructions are not valid", "Instructions are required"].iter().any(|words| message.contains(words)) {
            return Meaning::Refused(Refusal::Instructions);
        }
        if upstream_error(message).is_some() && CATALOG_WORDS.iter().any(|word| message.contains(word)) {
            return Meaning::Refused(Refusal::Catalog);
        }
        let kind = self.named().or_else(|| from_text(message)).or_else(|| from_text(details)).unwrap_or(Kind::Upstream);
        Meaning::Failed(TurnError::new(kind, self.words(kind)))
    }

    /// By codex's own name for it, where that says enough.
    fn named(&self) -> Option<Kind> {
        let name = match &self.codex_error_info {
            Value::String(name) => camel_case(name),
            Value::Object(map) => {
                let details = map.values().next()?;
                return from_status(details.get("httpStatusCode").or(details.get("http_status_code"))?.as_u64()?);
            }
            _ => return None,
        };
        Some(match name.as_str() {
            "contextWindowExceeded" => Kind::ContextLength,
            "usageLimitExceeded" | "sessionBudgetExceeded" => Kind::QuotaExhausted,
            "rateLimitExceeded" => Kind::RateLimited,
            "serverOverloaded" | "flexUnavailable" | "policyCapacityUnavailable" => Kind::Overloaded,
            "modelNotFound" => Kind::ModelNotFound,
            "unauthorized" => Kind::Unauthorized,
            "badRequest" | "cyberPolicy" | "misalignmentPolicyViolation" | "inferenceHookDenied" => Kind::BadRequest,
            _ => return None,
        })
    }

    /// Fixed words where they say more than the service's; its own, cleaned, where only they help.
    fn words(&self, kind: Kind) -> String {
        let fixed = match kind {
            Kind::ContextLength => {
                "The conversation is longer than the model's context window; send fewer or shorter messages."
            }
            Kind::QuotaExhausted => "The plan or quota of the account behind codex is used up.",
            Kind::RateLimited => "The model's service limits the rate of requests; try again later.",
            Kind::Overloaded => "The model's service is overloaded; try again later.",
            Kind::ModelNotFound => "The model's service does not know this model.",
            Kind::Unauthorized => {
                "The model's service does not accept codex's credentials: run `codex login`, or check the key of the provider."
            }
            _ => {
                let detail = clean(&upstream_message(&self.message));
                return match kind {
                    Kind::BadRequest => format!("The model's service refused the request: {detail}"),
                    _ => format!("The model's service failed: {detail}"),
                };
            }
        };
        fixed.to_owned()
    }
}

/// The v1 protocol has the same names in snake case.
fn camel_case(name: &str) -> String {
    let mut words = name.split('_');
    let first = words.next().unwrap_or_default().to_owned();
    words.fold(first, |name, word| {
        let (head, tail) = word.split_at_checked(1).unwrap_or((word, ""));
        name + &head.to_ascii_uppercase() + tail
    })
}

fn from_status(status: u64) -> Option<Kind> {
    Some(match status {
        400 | 413 | 422 => Kind::BadRequest,
        401 | 403 => Kind::Unauthorized,
        404 => Kind::ModelNotFound,
        429 => Kind::RateLimited,
        503 | 529 => Kind::Overloaded,
        _ => return None,
    })
}

/// The error inside a JSON body that codex passes on whole.
fn upstream_error(text: &str) -> Option<Value> {
    let body: Value = serde_json::from_str(text.get(text.find('{')?..)?).ok()?;
    Some(body.get("error").unwrap_or(&body).clone())
}

fn upstream_message(text: &str) -> String {
    let message = upstream_error(text).and_then(|error| Some(error.get("message")?.as_str()?.to_owned()));
    message.unwrap_or_else(|| text.to_owned())
}

fn from_text(text: &str) -> Option<Kind> {
    if let Some(error) = upstream_error(text) {
        let code = error.get("code").or_else(|| error.get("type")).and_then(Value::as_str).unwrap_or_default();
        return Some(match code {
            "context_length_exceeded" => Kind::ContextLength,
            "insufficient_quota" | "usage_limit_reached" | "usage_not_included" => Kind::QuotaExhausted,
            "rate_limit_exceeded" => Kind::RateLimited,
            "model_not_found" => Kind::ModelNotFound,
            "invalid_api_key" => Kind::Unauthorized,
            "server_is_overloaded" | "slow_down" => Kind::Overloaded,
            // Codex passes whole bodies on for 400 only.
            _ => Kind::BadRequest,
        });
    }
    let lower = text.to_ascii_lowercase();
    let has = |needle: &str| lower.contains(needle);
    if has("context window") || has("context_length_exceeded") {
        Some(Kind::ContextLength)
    } else if has("usage limit") || has("quota") {
        Some(Kind::QuotaExhausted)
    } else if has("rate limit") || has("rate_limit") {
        Some(Kind::RateLimited)
    } else if has("missing environment variable") {
        Some(Kind::Unauthorized)
    } else if has("at capacity") || has("overloaded") {
        Some(Kind::Overloaded)
    } else {
        let status = ["unexpected status ", "last status: "].iter().find_map(|lead| text.split_once(lead))?.1;
        from_status(status.get(..3)?.parse().ok()?)
    }
}

/// Takes URLs and paths out of words that a client will read, and bounds their length.
fn clean(text: &str) -> String {
    let text = text.split(", url: ").next().unwrap_or_default();
    let hidden = |word: &str| word.contains("://") || word.trim_start_matches(['"', '\'', '(', '`']).starts_with('/');
    let words = text.split_whitespace().filter(|word| !hidden(word)).collect::<Vec<_>>().join(" ");
    words.chars().take(500).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn meaning(message: &str, info: Value) -> Meaning {
        let error = serde_json::json!({"message": message, "codexErrorInfo": info, "additionalDetails": null});
        serde_json::from_value::<CodexError>(error).unwrap().meaning()
    }

    fn kind(message: &str, info: Value) -> Kind {
        match meaning(message, info) {
            Meaning::Failed(error) => error.kind,
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn every_wording_that_was_seen_has_its_kind() {
        let other = Value::from("other");
        let status = |name: &str, status: u64| serde_json::json!({name: {"httpStatusCode": status}});
        let body = |code: &str| format!(r#"{{"error": {{"message": "m", "type": "t", "code": "{code}"}}}}"#);
        for (message, info, expected) in [
            // 0.169.0
            ("x", Value::from("contextWindowExceeded"), Kind::ContextLength),
            ("x", Value::from("usageLimitExceeded"), Kind::QuotaExhausted),
            ("rate limit exceeded: m", Value::from("rateLimitExceeded"), Kind::RateLimited),
            ("x", Value::from("modelNotFound"), Kind::ModelNotFound),
            (
                "exceeded retry limit, last status: 429 Too Many Requests",
                status("responseTooManyFailedAttempts", 429),
                Kind::RateLimited,
            ),
            (
                "unexpected status 401 Unauthorized: x, url: http://h/v1",
                status("httpConnectionFailed", 401),
                Kind::Unauthorized,
            ),
            ("We’re currently experiencing high demand", Value::from("internalServerError"), Kind::Upstream),
            // 0.146.0 and 0.142.5
            (
                "unexpected status 401 Unauthorized: invalid_api_key, url: http://h/v1",
                other.clone(),
                Kind::Unauthorized,
            ),
            ("stream disconnected before completion: mock rate_limit_exceeded", other.clone(), Kind::RateLimited),
            (&body("context_length_exceeded"), other.clone(), Kind::ContextLength),
            (&body("insufficient_quota"), other.clone(), Kind::QuotaExhausted),
            (&body("invalid_value"), other.clone(), Kind::BadRequest),
            ("Missing environment variable: `MOCK_KEY`.", other.clone(), Kind::Unauthorized),
            ("stream disconnected before completion: eof", other.clone(), Kind::Upstream),
        ] {
            assert_eq!(kind(message, info), expected, "{message}");
        }
    }

    #[test]
    fn cuts_are_no_failures() {
        for message in [
            "Incomplete response returned, reason: max_output_tokens",
            "stream disconnected before completion: Incomplete response returned, reason: max_output_tokens",
        ] {
            assert_eq!(meaning(message, Value::from("other")), Meaning::Cut(Finish::Length));
        }
        assert_eq!(
            meaning("Incomplete response returned, reason: content_filter", Value::Null),
            Meaning::Cut(Finish::ContentFilter)
        );
        assert_eq!(
            meaning(r#"{"detail":"Instructions are not valid"}"#, Value::from("other")),
            Meaning::Refused(Refusal::Instructions)
        );
        let catalog = r#"{"error":{"message":"Unsupported parameter: parallel_tool_calls"}}"#;
        assert_eq!(meaning(catalog, Value::from("other")), Meaning::Refused(Refusal::Catalog));
    }

    #[test]
    fn clients_see_no_url_and_no_path() {
        let Meaning::Failed(error) =
            meaning("failed at http://10.0.0.1/v1 in /home/me/x, url: http://h/v1", Value::Null)
        else {
            panic!()
        };
        assert_eq!(error.message, "The model's service failed: failed at in");
    }
}
