//! JSON of an answer, written piece by piece. Nothing is escaped that need not be.

use serde::Serialize;

/// As much of a client's word as a message may repeat.
pub(crate) fn brief(word: &str) -> String {
    let mut brief: String = word.chars().take(64).collect();
    if brief.len() < word.len() {
        brief.push('…');
    }
    brief
}

/// Begins a member of the object that `out` ends in.
pub(crate) fn begin(out: &mut Vec<u8>, name: &str) {
    if out.last() != Some(&b'{') {
        out.push(b',');
    }
    // Names are ours, or strings, which always serialise.
    let _ = serde_json::to_writer(&mut *out, name);
    out.push(b':');
}

/// Appends a member to the object that `out` ends in.
pub(crate) fn member(out: &mut Vec<u8>, name: &str, value: &(impl Serialize + ?Sized)) {
    begin(out, name);
    // Strings, numbers and lists of them always serialise.
    let _ = serde_json::to_writer(out, value);
}
