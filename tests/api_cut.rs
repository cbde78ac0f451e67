//! Where answers are cut.

use codex_completions::api::cut::{CutRules, Cutter};
use codex_completions::turn::{Finish, ToolCall, TurnEvent, TurnOutcome};

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
