//! Frames of a completion stream, chat or text. What all chunks begin with is made once; a delta costs its own escaping
//! and no allocation.

use std::io::Write;

use super::Stamp;
use super::error::ApiError;
use super::json::{begin, member, quote};
use super::usage::{self, Tally};

/// Writes chunks and counts what they cost.
pub(crate) struct Chunks {
    /// From `data:` to the choice.
    head: Vec<u8>,
    include_usage: bool,
    pub(crate) tally: Tally,
}

impl Chunks {
    pub(crate) fn new(id: &str, object: &str, stamp: &Stamp, include_usage: bool, tally: Tally) -> Self {
        let mut head = b"data: {\"id\":".to_vec();
        quote(&mut head, id);
        let _ = write!(head, ",\"object\":\"{object}\",\"created\":{},\"model\":", stamp.created);
        quote(&mut head, &stamp.model);
        head.extend_from_slice(b",\"choices\":[");
        Self { head, include_usage, tally }
    }

    /// One chunk; `choice` writes the members of its choice between the index and the reason for the end.
    pub(crate) fn chunk(&self, index: u32, finish: Option<&str>, out: &mut Vec<u8>, choice: impl FnOnce(&mut Vec<u8>)) {
        out.extend_from_slice(&self.head);
        let _ = write!(out, "{{\"index\":{index},");
        choice(out);
        out.extend_from_slice(b",\"logprobs\":null,\"finish_reason\":");
        match finish {
            Some(reason) => quote(out, reason),
            None => out.extend_from_slice(b"null"),
        }
        out.extend_from_slice(if self.include_usage { b"}],\"usage\":null}\n\n" } else { b"}]}\n\n" });
    }

    /// The good end of the stream.
    pub(crate) fn finish(&self, out: &mut Vec<u8>) {
        if self.include_usage {
            out.extend_from_slice(&self.head);
            out.extend_from_slice(b"],\"usage\":");
            // Numbers always serialise.
            let _ = serde_json::to_writer(&mut *out, &usage::of_completion(self.tally.spent().usage));
            out.extend_from_slice(b"}\n\n");
        }
        out.extend_from_slice(b"data: [DONE]\n\n");
    }
}

/// A whole completion, of choices whose members after the index `write` writes.
pub(crate) fn whole<C>(
    out: &mut Vec<u8>,
    id: &str,
    object: &str,
    stamp: &Stamp,
    tally: &Tally,
    choices: impl Iterator<Item = C>,
    write: impl Fn(C, &mut Vec<u8>),
) {
    out.push(b'{');
    member(out, "id", id);
    member(out, "object", object);
    member(out, "created", &stamp.created);
    member(out, "model", &stamp.model);
    begin(out, "choices");
    out.push(b'[');
    for (index, choice) in choices.enumerate() {
        out.extend_from_slice(if index == 0 { b"{" } else { b",{" });
        member(out, "index", &index);
        write(choice, out);
        out.push(b'}');
    }
    out.push(b']');
    member(out, "usage", &usage::of_completion(tally.spent().usage));
    member(out, "system_fingerprint", &());
    out.push(b'}');
}

/// The bad end of a stream.
pub(crate) fn fail(error: &ApiError, out: &mut Vec<u8>) {
    let _ = write!(out, "data: {}\n\ndata: [DONE]\n\n", error.to_json());
}

/// A sign of life that no parser takes for an event.
pub(crate) fn comment(out: &mut Vec<u8>) {
    out.extend_from_slice(b": keepalive\n\n");
}

/// The entry `index` of a list that grows with the choices seen.
pub(crate) fn at<T: Default>(list: &mut Vec<T>, index: u32) -> &mut T {
    let index = index as usize;
    if list.len() <= index {
        list.resize_with(index + 1, T::default);
    }
    &mut list[index]
}
