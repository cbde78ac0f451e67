//! How the lines of one turn become its events, whatever the protocol: text that a retry repeats is told once, the end
//! comes exactly once and last, and silence is an end where a version gives no better one.

use std::borrow::Cow;
use std::time::Duration;

use serde::Deserialize;
use serde_json::value::RawValue;

use super::Dialect;
use super::capabilities::{Capabilities, Feature};
use super::errors::{CodexError, Meaning, Refusal};
use super::tool_names::ToolNames;
use super::{v1, v2};
use crate::turn::{Finish, TurnError, TurnErrorKind, TurnEvent, TurnOutcome, Usage};

/// How long after a tool call the next one of the same response may come, where nothing marks the response's end (0.131 –
/// 0.145), and where something does that may be missing after all.
const NEXT_CALL: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(30));
/// How long after a finished message with its usage a turn is taken to be over that says nothing more (0.104).
const NO_END: Duration = Duration::from_secs(1);
/// How long after the end of a turn its usage may come.
const LATE_USAGE: Duration = Duration::from_millis(100);

/// Text that arrived so far, to tell what a retry repeats: after one, the model begins again (0.44 – 0.169).
#[derive(Debug, Default)]
pub(super) struct Transcript {
    sent: String,
    seen: usize,
}

impl Transcript {
    /// Takes in a delta; returns what of it is new, or `None` when it contradicts what was sent.
    fn feed<'a>(&mut self, delta: &'a str) -> Option<&'a str> {
        let known = (self.sent.len() - self.seen).min(delta.len());
        if self.sent.as_bytes()[self.seen..self.seen + known] != delta.as_bytes()[..known] {
            return None;
        }
        // Equal bytes end at a border of characters in both, or in neither.
        let fresh = delta.get(known..)?;
        self.seen += delta.len();
        self.sent.push_str(fresh);
        Some(fresh)
    }
}

/// What the last line said, where silence after it means something.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Pause {
    /// Nothing of the kind.
    None,
    /// A message is complete.
    Message,
    /// So is the usage of the response that it belongs to.
    Usage,
}

/// Turns the lines of one thread into the events of its turn.
#[derive(Debug)]
pub struct Decoder {
    dialect: Dialect,
    capabilities: Capabilities,
    turn: String,
    pub(super) names: ToolNames,
    text: Transcript,
    message_start: usize,
    reasoning: Transcript,
    reasoning_part: Option<(String, u64)>,
    /// Sealed pieces of reasoning that were told, and those of this try.
    sealed: (usize, usize),
    /// Parts of a summary so far, where they have no names.
    pub(super) sections: u64,
    /// Calls of the client's tools so far.
    pub(super) calls: usize,
    pub(super) usage: Option<Usage>,
    pub(super) pause: Pause,
    /// A good end that waits for its usage.
    late: Option<Finish>,
    /// Whether codex still works on the turn.
    pub running: bool,
    /// Whether [`TurnEvent::End`] was given out.
    pub ended: bool,
    /// What the service refused of what this program makes codex send.
    pub refusal: Option<Refusal>,
}

impl Decoder {
    /// For a turn that was started; v1 gives turns no id.
    pub fn new(dialect: Dialect, capabilities: Capabilities, turn: String, names: ToolNames) -> Self {
        Self {
            dialect,
            capabilities,
            turn,
            names,
            text: Transcript::default(),
            message_start: 0,
            reasoning: Transcript::default(),
            reasoning_part: None,
            sealed: (0, 0),
            sections: 0,
            calls: 0,
            usage: None,
            pause: Pause::None,
            late: None,
            running: true,
            ended: false,
            refusal: None,
        }
    }

    /// The id of the turn.
    pub fn turn(&self) -> &str {
        &self.turn
    }

    /// Whether the end of a response is marked.
    pub(super) fn ends_responses(&self) -> bool {
        self.capabilities.has(Feature::EndsResponses)
    }

    /// Takes in one line. Whether it belongs to the turn, and so is a sign of life.
    pub fn decode(&mut self, line: &[u8], out: &mut Vec<TurnEvent>) -> bool {
        match self.dialect {
            Dialect::V1 => v1::decode(self, line, out),
            Dialect::V2 => v2::decode(self, line, out),
        }
    }

    /// How long silence has to last before [`Decoder::settle`] makes something of it.
    pub fn settle_time(&self) -> Option<Duration> {
        if self.ended {
            None
        } else if self.late.is_some() {
            Some(LATE_USAGE)
        } else if self.calls > 0 {
            let marked = self.ends_responses() || self.capabilities.has(Feature::CountsCalls);
            Some(if marked { NEXT_CALL.1 } else { NEXT_CALL.0 })
        } else {
            (self.pause == Pause::Usage && !self.capabilities.has(Feature::EndsTurns)).then_some(NO_END)
        }
    }

    /// Nothing came for that long: no further call, no usage any more, or an end that codex owes.
    pub fn settle(&mut self, out: &mut Vec<TurnEvent>) {
        if self.calls > 0 {
            return self.end(Ok(Finish::ToolCalls), out);
        }
        // It will not answer an interrupt either.
        self.running &= self.pause != Pause::Usage;
        self.end(Ok(self.late.unwrap_or(Finish::Stop)), out);
    }

    pub(super) fn feed_text(&mut self, delta: &str, out: &mut Vec<TurnEvent>) {
        match self.text.feed(delta) {
            Some("") => {}
            Some(fresh) => out.push(TurnEvent::Text(fresh.to_owned())),
            None => {
                let words = "The model's service broke off, and the second answer differs from what was sent already; ask again.";
                self.end(Err(TurnError::new(TurnErrorKind::Upstream, words)), out);
            }
        }
    }

    pub(super) fn feed_reasoning(&mut self, part: (String, u64), delta: &str, out: &mut Vec<TurnEvent>) {
        let gap = if self.reasoning_part.as_ref().is_some_and(|last| *last != part) { "\n\n" } else { "" };
        self.reasoning_part = Some(part);
        // A summary that differs after a retry is left out: it is no part of the answer.
        for delta in [gap, delta] {
            match self.reasoning.feed(delta) {
                Some("") | None => {}
                Some(fresh) => out.push(TurnEvent::Reasoning(fresh.to_owned())),
            }
        }
    }

    pub(super) fn feed_sealed(&mut self, sealed: String, out: &mut Vec<TurnEvent>) {
        let (told, seen) = &mut self.sealed;
        *seen += 1;
        // A retry seals its own, which stands for what was told already.
        if *seen > *told {
            *told = *seen;
            out.push(TurnEvent::Sealed(sealed));
        }
    }

    pub(super) fn begin_message(&mut self) {
        self.message_start = self.text.seen;
    }

    /// A message may come whole, or with more than its deltas told.
    pub(super) fn complete_message(&mut self, text: &str, out: &mut Vec<TurnEvent>) {
        let told = self.text.sent.get(self.message_start..self.text.seen).unwrap_or_default();
        if let Some(rest) = text.strip_prefix(told)
            && !rest.is_empty()
        {
            let rest = rest.to_owned();
            self.feed_text(&rest, out);
        }
        self.begin_message();
        self.pause = Pause::Message;
    }

    pub(super) fn take_usage(&mut self, usage: Option<Usage>, out: &mut Vec<TurnEvent>) {
        self.usage = usage.or(self.usage);
        if let Some(finish) = self.late.filter(|_| usage.is_some()) {
            self.end(Ok(finish), out);
        }
    }

    /// Codex tries again, from the start of the answer.
    pub(super) fn retry(&mut self, error: &CodexError, out: &mut Vec<TurnEvent>) {
        if let Some(finish) = error.cut() {
            // Another try would be cut as well, and need not say the same.
            return self.end(Ok(finish), out);
        }
        log::debug!("codex tries a turn again");
        self.text.seen = 0;
        self.reasoning.seen = 0;
        self.reasoning_part = None;
        self.sealed.1 = 0;
        self.message_start = 0;
    }

    pub(super) fn fail(&mut self, error: &CodexError, out: &mut Vec<TurnEvent>) {
        let result = match error.meaning() {
            Meaning::Cut(finish) => Ok(finish),
            Meaning::Failed(error) => Err(error),
            Meaning::Refused(refusal) => {
                self.refusal = Some(refusal);
                let words = "The model's service refused what the lean profile asks of it; codex is started without that. Try again.";
                Err(TurnError::new(TurnErrorKind::Unavailable, words))
            }
        };
        self.end(result, out);
    }

    /// Codex says that the turn is complete.
    pub(super) fn complete(&mut self, out: &mut Vec<TurnEvent>) {
        let finish = if self.calls > 0 { Finish::ToolCalls } else { Finish::Stop };
        if self.usage.is_none() && !self.capabilities.has(Feature::UsageFirst) {
            self.late = Some(finish);
        } else {
            self.end(Ok(finish), out);
        }
    }

    pub(super) fn interrupted(&mut self, out: &mut Vec<TurnEvent>) {
        let words = "Codex interrupted the turn without being asked to; ask again.";
        self.end(Err(TurnError::new(TurnErrorKind::Upstream, words)), out);
    }

    /// Ends the turn, unless it has an end.
    pub fn end(&mut self, result: Result<Finish, TurnError>, out: &mut Vec<TurnEvent>) {
        if !self.ended {
            self.ended = true;
            out.push(TurnEvent::End(TurnOutcome { result, usage: self.usage }));
        }
    }
}

/// A notification of a turn, with what its protocol has for it.
#[derive(Deserialize)]
pub(super) struct Line<'a, P: Default> {
    #[serde(default, borrow)]
    pub(super) method: Cow<'a, str>,
    #[serde(default)]
    pub(super) params: P,
}

/// Counts as both protocols tell them, in their own spelling.
#[derive(Deserialize)]
pub(super) struct Tokens {
    #[serde(default, alias = "inputTokens")]
    input_tokens: u64,
    #[serde(default, alias = "cachedInputTokens")]
    cached_input_tokens: u64,
    #[serde(default, alias = "outputTokens")]
    output_tokens: u64,
    #[serde(default, alias = "reasoningOutputTokens")]
    reasoning_output_tokens: u64,
}

impl Tokens {
    /// A usage without input is a placeholder (0.169 reports a full window so), not a count.
    pub(super) fn counted(self) -> Option<Usage> {
        (self.input_tokens > 0).then_some(Usage {
            input: self.input_tokens,
            cached: self.cached_input_tokens,
            output: self.output_tokens,
            reasoning: self.reasoning_output_tokens,
        })
    }
}

pub(super) fn raw<'a, T: Deserialize<'a>>(value: Option<&'a RawValue>) -> Option<T> {
    serde_json::from_str(value?.get()).ok()
}
