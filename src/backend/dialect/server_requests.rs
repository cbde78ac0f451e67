//! Answers to what codex asks of its client. An unanswered request hangs its turn for ever, so each gets one: a refusal of
//! the right shape (schemas of 0.142.5, 0.146.0 and 0.169.0 agree on these), or "unknown method".

/// The line that refuses request `id` (JSON text) of `method`; `now` is in seconds since 1970.
pub fn refusal(id: &str, method: &str, now: u64) -> Vec<u8> {
    let time;
    let result = match method {
        "item/commandExecution/requestApproval" | "item/fileChange/requestApproval" => r#"{"decision":"decline"}"#,
        "applyPatchApproval" | "execCommandApproval" => r#"{"decision":"denied"}"#,
        "item/permissions/requestApproval" => r#"{"permissions":{}}"#,
        "item/tool/requestUserInput" => r#"{"answers":{}}"#,
        "mcpServer/elicitation/request" => r#"{"action":"decline"}"#,
        // A call that comes after its turn has ended.
        "item/tool/call" => r#"{"contentItems":[],"success":false}"#,
        "currentTime/read" => {
            time = format!(r#"{{"currentTimeAt":{now}}}"#);
            &time
        }
        _ => {
            let error = r#"{"code":-32601,"message":"codex-completions does not serve this method"}"#;
            return format!("{{\"id\":{id},\"error\":{error}}}\n").into_bytes();
        }
    };
    format!("{{\"id\":{id},\"result\":{result}}}\n").into_bytes()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_gets_a_line_with_its_own_id() {
        let text = |id, method| String::from_utf8(refusal(id, method, 17)).unwrap();
        assert_eq!(text("3", "execCommandApproval"), "{\"id\":3,\"result\":{\"decision\":\"denied\"}}\n");
        assert_eq!(text("\"a\"", "currentTime/read"), "{\"id\":\"a\",\"result\":{\"currentTimeAt\":17}}\n");
        for method in [
            "item/commandExecution/requestApproval",
            "item/fileChange/requestApproval",
            "item/tool/requestUserInput",
            "mcpServer/elicitation/request",
            "item/permissions/requestApproval",
            "item/tool/call",
            "account/chatgptAuthTokens/refresh",
            "attestation/generate",
            "applyPatchApproval",
            "some/novelty",
        ] {
            let value: serde_json::Value = serde_json::from_str(&text("9", method)).unwrap();
            assert_eq!(value["id"], 9);
            assert!(value["result"].is_object() ^ value["error"].is_object(), "{method}");
        }
    }
}
