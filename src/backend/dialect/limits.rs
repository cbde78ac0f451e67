//! What codex tells of the account's limits: each of two windows, how much of it is used and when it begins anew.

use std::time::Duration;

use serde_json::Value;

/// The notification that tells it (0.66 – 0.169), on its own and so to be kept until somebody asks.
pub const METHOD: &str = "account/rateLimits/updated";

/// How long after `now` (since 1970) the used-up windows of that notification begin anew. `None`: there is none.
pub fn wait(line: &[u8], now: Duration) -> Option<Duration> {
    let line: Value = serde_json::from_slice(line).ok()?;
    let windows = ["primary", "secondary"].map(|name| &line["params"]["rateLimits"][name]);
    let used_up = windows.into_iter().filter(|window| window["usedPercent"].as_f64() >= Some(100.0));
    // In seconds since 1970.
    let resets_at = used_up.filter_map(|window| window["resetsAt"].as_u64()).max()?;
    Duration::from_secs(resets_at).checked_sub(now).filter(|wait| !wait.is_zero())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_window_that_is_used_up_counts() {
        let window = |percent: f64, at: u64| serde_json::json!({"usedPercent": percent, "windowDurationMins": 300, "resetsAt": at});
        let line = |primary, secondary| serde_json::json!({"method": METHOD, "params": {"rateLimits": {"limitId": "codex", "primary": primary, "secondary": secondary}}});
        let null = serde_json::Value::Null;
        for (line, expected) in [
            (line(window(100.0, 1060), window(40.0, 9000)), Some(60)),
            (line(window(100.0, 1060), window(100.0, 9000)), Some(8000)),
            (line(null.clone(), window(101.5, 1001)), Some(1)),
            (line(window(99.9, 1060), null.clone()), None),
            (line(window(100.0, 999), null.clone()), None),
            (line(serde_json::json!({"usedPercent": 100, "resetsAt": null}), null.clone()), None),
            (line(null.clone(), null), None),
            (serde_json::json!({"method": METHOD, "params": {"rateLimits": null}}), None),
        ] {
            assert_eq!(
                wait(line.to_string().as_bytes(), Duration::from_secs(1000)),
                expected.map(Duration::from_secs),
                "{line}"
            );
        }
    }
}
