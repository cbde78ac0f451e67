//! What ends an answer before the model does: a stop string, a limit of tokens, a first call where only one may come.
//!
//! The cut does not depend on how the text was split into deltas, and no more is held back than may begin a stop string.

use crate::turn::{Finish, TurnEvent};

use super::usage::BYTES_PER_TOKEN;

/// What ends an answer early.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CutRules {
    /// Strings that end the text and are not part of it. None of them is empty.
    pub stop: Vec<String>,
    /// Tokens of text at most, as well as bytes can tell; calls of tools are always handed out whole.
    pub max_tokens: Option<u64>,
    /// Whether the first call of a tool ends the answer.
    pub single_call: bool,
}

/// Applies the rules to the events of one turn.
#[derive(Debug)]
pub struct Cutter {
    rules: CutRules,
    /// The end of the text so far, if a stop string may begin there.
    held: String,
    /// Bytes of text that may still go out.
    left: u64,
    done: bool,
}

impl Cutter {
    /// For one turn.
    pub fn new(rules: CutRules) -> Self {
        let left = rules.max_tokens.map_or(u64::MAX, |tokens| tokens.saturating_mul(BYTES_PER_TOKEN));
        Self { rules, held: String::new(), left, done: false }
    }

    /// Gives `pass` what the client may see of `event`. Returns how the answer ends if it ends here: the turn is then to
    /// be interrupted, and nothing passes any more, its own end included.
    pub fn filter(&mut self, event: TurnEvent, mut pass: impl FnMut(TurnEvent)) -> Option<Finish> {
        if self.done {
            return None;
        }
        let finish = match event {
            TurnEvent::Text(text) => self.text(text, &mut pass),
            TurnEvent::Reasoning(_) | TurnEvent::Sealed(_) => {
                pass(event);
                None
            }
            TurnEvent::ToolCall(_) => self.flush(&mut pass).or_else(|| {
                pass(event);
                self.rules.single_call.then_some(Finish::ToolCalls)
            }),
            TurnEvent::End(_) => self.flush(&mut pass).or_else(|| {
                pass(event);
                None
            }),
        };
        self.done = finish.is_some();
        finish
    }

    fn text(&mut self, text: String, pass: &mut impl FnMut(TurnEvent)) -> Option<Finish> {
        if self.rules.stop.is_empty() {
            return self.spend(text, pass);
        }
        let mut text = if self.held.is_empty() { text } else { std::mem::take(&mut self.held) + &text };
        // The one that is complete first counts; of two that end together, the longer.
        let found = self.rules.stop.iter().filter_map(|stop| text.find(stop.as_str()).map(|at| (at + stop.len(), at)));
        if let Some((_, at)) = found.min() {
            text.truncate(at);
            return self.spend(text, pass).or(Some(Finish::Stop));
        }
        self.held = text.split_off(text.len() - self.may_begin(&text));
        self.spend(text, pass)
    }

    /// Bytes at the end of `text` with which a stop string may begin.
    fn may_begin(&self, text: &str) -> usize {
        let longest = |stop: &String| {
            // A stop string's first byte begins a character, so what is found does too.
            (1..stop.len().min(text.len() + 1)).rev().find(|n| text.as_bytes().ends_with(&stop.as_bytes()[..*n]))
        };
        self.rules.stop.iter().filter_map(longest).max().unwrap_or(0)
    }

    fn flush(&mut self, pass: &mut impl FnMut(TurnEvent)) -> Option<Finish> {
        let held = std::mem::take(&mut self.held);
        self.spend(held, pass)
    }

    fn spend(&mut self, mut text: String, pass: &mut impl FnMut(TurnEvent)) -> Option<Finish> {
        let whole = text.len() as u64 <= self.left;
        if !whole {
            let left = self.left as usize;
            text.truncate((0..=left).rev().find(|at| text.is_char_boundary(*at)).unwrap_or(0));
        }
        self.left -= text.len() as u64;
        if !text.is_empty() {
            pass(TurnEvent::Text(text));
        }
        (!whole).then_some(Finish::Length)
    }
}
