//! Counts of what was served, in Prometheus' text format. Labels come from fixed lists, so their number is bounded.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use crate::turn::Usage;

/// The counters.
#[derive(Debug, Default)]
pub struct Metrics(Mutex<Counts>);

#[derive(Debug, Default)]
struct Counts {
    requests: BTreeMap<(&'static str, u16), u64>,
    seconds: BTreeMap<&'static str, (f64, u64)>,
    first: (f64, u64),
    tokens: Usage,
}

/// A value of this moment: name, type, help.
pub type Reading = (&'static str, &'static str, &'static str, f64);

impl Metrics {
    /// Counts one request.
    pub fn count(&self, route: &'static str, status: u16, took: Duration, first: Option<Duration>, tokens: Usage) {
        let mut counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        *counts.requests.entry((route, status)).or_default() += 1;
        let seconds = counts.seconds.entry(route).or_default();
        *seconds = (seconds.0 + took.as_secs_f64(), seconds.1 + 1);
        if let Some(first) = first {
            counts.first = (counts.first.0 + first.as_secs_f64(), counts.first.1 + 1);
        }
        counts.tokens.input += tokens.input;
        counts.tokens.cached += tokens.cached;
        counts.tokens.output += tokens.output;
        counts.tokens.reasoning += tokens.reasoning;
    }

    /// All of it as text, with what else is so at the moment.
    pub fn render(&self, now: &[Reading]) -> String {
        let counts = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut page = Page(String::new());
        let labelled =
            |(&(route, status), n): (_, &u64)| (format!("{{route=\"{route}\",status=\"{status}\"}}"), *n as f64);
        page.family("requests_total", "counter", "Requests answered.", counts.requests.iter().map(labelled));
        let seconds = counts.seconds.iter();
        let seconds = seconds.flat_map(|(route, taken)| summary(&format!("{{route=\"{route}\"}}"), *taken));
        page.family("request_seconds", "summary", "Time from head to last byte.", seconds);
        let first = summary("", counts.first);
        page.family("first_output_seconds", "summary", "Time from head to the model's first output.", first);
        let Usage { input, cached, output, reasoning } = counts.tokens;
        let kinds = [("input", input), ("cached", cached), ("output", output), ("reasoning", reasoning)];
        let kinds = kinds.map(|(kind, n)| (format!("{{kind=\"{kind}\"}}"), n as f64));
        page.family("tokens_total", "counter", "Tokens; cached ones are part of input, reasoning of output.", kinds);
        for (name, kind, help, value) in now {
            page.family(name, kind, help, [(String::new(), *value)]);
        }
        page.0
    }
}

fn summary(labels: &str, (sum, count): (f64, u64)) -> [(String, f64); 2] {
    [(format!("_sum{labels}"), sum), (format!("_count{labels}"), count as f64)]
}

struct Page(String);

impl Page {
    fn family(&mut self, name: &str, kind: &str, help: &str, samples: impl IntoIterator<Item = (String, f64)>) {
        // Writing to a string does not fail.
        let _ = writeln!(self.0, "# HELP codex_completions_{name} {help}\n# TYPE codex_completions_{name} {kind}");
        for (rest, value) in samples {
            let _ = writeln!(self.0, "codex_completions_{name}{rest} {value}");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counts_appear_under_their_labels() {
        let metrics = Metrics::default();
        let usage = Usage { input: 10, cached: 4, output: 3, reasoning: 1 };
        let ms = Duration::from_millis;
        metrics.count("chat_completions", 200, ms(500), Some(ms(250)), usage);
        metrics.count("chat_completions", 200, ms(500), None, Usage::default());
        metrics.count("models", 401, ms(0), None, Usage::default());
        let text = metrics.render(&[("turns_running", "gauge", "Turns that run.", 2.0)]);
        for line in [
            "codex_completions_requests_total{route=\"chat_completions\",status=\"200\"} 2",
            "codex_completions_requests_total{route=\"models\",status=\"401\"} 1",
            "codex_completions_request_seconds_sum{route=\"chat_completions\"} 1",
            "codex_completions_first_output_seconds_count 1",
            "codex_completions_tokens_total{kind=\"input\"} 10",
            "codex_completions_turns_running 2",
            "# TYPE codex_completions_turns_running gauge",
        ] {
            assert!(text.lines().any(|found| found == line), "{line} in\n{text}");
        }
    }
}
