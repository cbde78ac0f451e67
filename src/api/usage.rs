//! What the turns of one request cost together.

use serde_json::{Value, json};

use crate::turn::Usage;

/// Bytes that count as one token where codex gives no count.
pub const BYTES_PER_TOKEN: u64 = 4;

/// What a request has cost.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent {
    /// Tokens of all its turns.
    pub usage: Usage,
    /// Whether any of it is an estimate.
    pub estimated: bool,
}

/// Adds up the turns of a request: each prompt counts once, however many answers it gets; answers add up.
#[derive(Clone, Debug)]
pub(crate) struct Tally {
    prompts: Vec<Prompt>,
    /// Answers to each prompt.
    n: u32,
    output: Usage,
    estimated: bool,
}

#[derive(Clone, Debug)]
struct Prompt {
    bytes: u64,
    counted: Option<Usage>,
    answered: bool,
}

impl Tally {
    /// For prompts of so many bytes with `n` answers each.
    pub(crate) fn new(prompts: Vec<u64>, n: u32) -> Self {
        let prompt = |bytes| Prompt { bytes, counted: None, answered: false };
        Self {
            prompts: prompts.into_iter().map(prompt).collect(),
            n: n.max(1),
            output: Usage::default(),
            estimated: false,
        }
    }

    /// Adds the turn of choice `index`, which brought `bytes` of answer.
    pub(crate) fn add(&mut self, index: u32, usage: Option<Usage>, bytes: u64) {
        self.estimated |= usage.is_none();
        let output = usage.map_or(bytes.div_ceil(BYTES_PER_TOKEN), |usage| usage.output);
        self.output.output += output;
        self.output.reasoning += usage.map_or(0, |usage| usage.reasoning);
        if let Some(prompt) = self.prompts.get_mut((index / self.n) as usize) {
            prompt.answered = true;
            prompt.counted = prompt.counted.or(usage);
        }
    }

    pub(crate) fn spent(&self) -> Spent {
        let mut usage = self.output;
        for prompt in self.prompts.iter().filter(|prompt| prompt.answered) {
            usage.input += prompt.counted.map_or(prompt.bytes.div_ceil(BYTES_PER_TOKEN), |counted| counted.input);
            usage.cached += prompt.counted.map_or(0, |counted| counted.cached);
        }
        Spent { usage, estimated: self.estimated }
    }
}

/// `usage` of chat and text completions.
pub(crate) fn of_completion(usage: Usage) -> Value {
    json!({
        "prompt_tokens": usage.input,
        "completion_tokens": usage.output,
        "total_tokens": usage.input + usage.output,
        "prompt_tokens_details": {"cached_tokens": usage.cached, "audio_tokens": 0},
        "completion_tokens_details": {
            "reasoning_tokens": usage.reasoning,
            "audio_tokens": 0,
            "accepted_prediction_tokens": 0,
            "rejected_prediction_tokens": 0,
        },
    })
}

/// `usage` of a response.
pub(crate) fn of_response(usage: Usage) -> Value {
    json!({
        "input_tokens": usage.input,
        "input_tokens_details": {"cached_tokens": usage.cached, "cache_write_tokens": 0},
        "output_tokens": usage.output,
        "output_tokens_details": {"reasoning_tokens": usage.reasoning},
        "total_tokens": usage.input + usage.output,
    })
}
