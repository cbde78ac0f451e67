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
            TurnEvent::Reasoning(_) => {
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

#[cfg(test)]
mod tests {
    use super::*;
    use crate::turn::{ToolCall, TurnOutcome};

    fn end() -> TurnEvent {
        TurnEvent::End(TurnOutcome { result: Ok(Finish::Stop), usage: None })
    }

    fn call() -> TurnEvent {
        TurnEvent::ToolCall(ToolCall { id: "c".into(), name: "f".into(), arguments: "{}".into() })
    }

    /// Text that came through, the number of other events, and how it was cut.
    fn run(rules: &CutRules, events: impl IntoIterator<Item = TurnEvent>) -> (String, usize, Option<Finish>) {
        let (mut text, mut others, mut cut) = (String::new(), 0, None);
        let mut cutter = Cutter::new(rules.clone());
        for event in events {
            let pass = |event| match event {
                TurnEvent::Text(more) => text.push_str(&more),
                _ => others += 1,
            };
            cut = cutter.filter(event, pass).or(cut);
        }
        (text, others, cut)
    }

    #[test]
    fn a_stop_string_cuts_at_the_same_place_however_the_text_is_split() {
        let cases: [(&[&str], &str, &str, bool); 9] = [
            (&["END"], "one END two", "one ", true),
            (&["END"], "one EN", "one EN", false),
            (&["END"], "ENENDEND", "EN", true),
            (&["abc", "b"], "xabc", "xa", true),
            (&["bc", "abc"], "xabc", "x", true),
            (&["aab"], "aaab", "a", true),
            (&["€x"], "5 € or 6 €x", "5 € or 6 ", true),
            (&["\n\n", "\nQ:"], "a\nb\nQ: c", "a\nb", true),
            (&["zzz"], "nothing of it", "nothing of it", false),
        ];
        for (stop, text, expected, is_cut) in cases {
            let rules = CutRules { stop: stop.iter().map(|s| (*s).to_owned()).collect(), ..CutRules::default() };
            let chars: Vec<char> = text.chars().collect();
            for size in 1..=chars.len() {
                let deltas = chars.chunks(size).map(|chunk| TurnEvent::Text(chunk.iter().collect()));
                let (got, others, cut) = run(&rules, deltas.chain([end()]));
                assert_eq!((got.as_str(), cut.is_some()), (expected, is_cut), "{stop:?} in {text:?} by {size}");
                assert_eq!(others, usize::from(!is_cut), "the turn's own end passes only where nothing was cut");
            }
        }
    }

    #[test]
    fn only_what_may_begin_a_stop_string_is_held_back() {
        let mut cutter = Cutter::new(CutRules { stop: vec!["</end>".into()], ..CutRules::default() });
        let mut seen = Vec::new();
        for text in ["a <", "/e", "m> b </", "x"] {
            let _ = cutter.filter(TurnEvent::Text(text.into()), |event| seen.push(event));
        }
        let text = |text: &str| TurnEvent::Text(text.into());
        assert_eq!(seen, [text("a "), text("</em> b "), text("</x")]);
    }

    #[test]
    fn a_limit_cuts_between_characters_and_only_when_there_is_more() {
        let rules = CutRules { max_tokens: Some(2), ..CutRules::default() };
        let texts = |texts: &[&str]| texts.iter().map(|text| TurnEvent::Text((*text).to_owned())).collect::<Vec<_>>();
        assert_eq!(run(&rules, texts(&["12345", "678", "9"])), ("12345678".into(), 0, Some(Finish::Length)));
        assert_eq!(run(&rules, texts(&["123456", "€"])), ("123456".into(), 0, Some(Finish::Length)));
        let whole = texts(&["1234", "5678"]).into_iter().chain([call(), end()]);
        assert_eq!(run(&rules, whole), ("12345678".into(), 2, None));
        let rules = CutRules { stop: vec!["9!".into()], max_tokens: Some(2), ..CutRules::default() };
        let held = texts(&["12345678", "9"]).into_iter().chain([end()]);
        assert_eq!(run(&rules, held), ("12345678".into(), 0, Some(Finish::Length)));
        assert_eq!(run(&rules, texts(&["12345678", "9", "!"])), ("12345678".into(), 0, Some(Finish::Stop)));
    }

    #[test]
    fn the_first_call_ends_an_answer_that_may_have_only_one() {
        let rules = CutRules { single_call: true, ..CutRules::default() };
        let events = [TurnEvent::Text("a".into()), call(), call(), end()];
        assert_eq!(run(&rules, events.clone()), ("a".into(), 1, Some(Finish::ToolCalls)));
        assert_eq!(run(&CutRules::default(), events), ("a".into(), 3, None));
    }
}
