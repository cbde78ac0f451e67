//! JSON of a request, read piece by piece: only what is asked for is built, so that a body costs little more memory
//! than its bytes whatever it holds, and every piece knows its place, so that every error can name it.

use std::borrow::Cow;
use std::fmt;
use std::ops::RangeInclusive;

use serde_json::value::RawValue;

use super::error::ApiError;
use super::write::brief;

/// Deepest nesting of a request. What is passed on goes into a few more levels, and codex reads 127.
const MAX_DEPTH: usize = 100;

/// A value of a request that has not been read yet. Its text is well-formed.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    text: &'a str,
    /// Where it stands, such as `messages[2].role`. Empty for the body itself.
    pub(crate) path: String,
}

impl<'a> Node<'a> {
    /// The whole body, which has to be an object.
    pub(crate) fn body(body: &'a [u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(body)
            .map_err(|e| ApiError::bad_request(format!("The body is not UTF-8 (at byte {}).", e.valid_up_to())))?;
        let raw: &RawValue = serde_json::from_str(text)
            .map_err(|e| ApiError::bad_request(format!("The body could not be parsed as JSON: {e}.")))?;
        let node = Self { text: raw.get(), path: String::new() };
        if depth(node.text) > MAX_DEPTH {
            return Err(ApiError::bad_request(format!("The body is nested deeper than {MAX_DEPTH} levels.")));
        }
        if node.kind() == "an object" {
            return Ok(node);
        }
        Err(ApiError::bad_request(format!("The body must be a JSON object, got {}.", node.kind())))
    }

    /// The JSON text without line breaks, which would end a line or an event of what it is put into. Inside strings
    /// there are none.
    pub(crate) fn line(&self) -> String {
        self.text.replace(['\n', '\r'], "")
    }

    /// Bytes of its text.
    pub(crate) fn len(&self) -> usize {
        self.text.len()
    }

    /// Whether it is `word`: `null`, `false`, `"object"` …
    pub(crate) fn is(&self, word: &str) -> bool {
        self.text == word
    }

    /// What it is, as messages say it.
    pub(crate) fn kind(&self) -> &'static str {
        match self.text.as_bytes().first() {
            Some(b'{') => "an object",
            Some(b'[') => "an array",
            Some(b'"') => "a string",
            Some(b't' | b'f') => "a boolean",
            Some(b'n') => "null",
            _ => "a number",
        }
    }

    /// A 400 about this place.
    pub(crate) fn invalid(&self, message: impl fmt::Display) -> ApiError {
        ApiError::invalid(&*self.path, format!("`{}` {message}.", self.path))
    }

    /// A 400 about this place: it means something that cannot be served.
    pub(crate) fn unsupported(&self, message: impl fmt::Display) -> ApiError {
        ApiError::unsupported(&*self.path, format!("`{}` {message}.", self.path))
    }

    /// A 400 about a value of the wrong type.
    pub(crate) fn not(&self, expected: impl fmt::Display) -> ApiError {
        self.invalid(format_args!("must be {expected}, got {}", self.kind()))
    }

    /// A 400 about a member that has to be there.
    pub(crate) fn missing(&self, name: &str) -> ApiError {
        let path = self.join(name);
        ApiError::invalid(&*path, format!("`{path}` is missing."))
    }

    /// The member `name`, if it is there.
    pub(crate) fn get(&self, name: &str) -> Result<Option<Node<'a>>, ApiError> {
        self.fields([name]).map(|[found]| found)
    }

    /// The member `name`, which has to be there.
    pub(crate) fn need(&self, name: &str) -> Result<Node<'a>, ApiError> {
        self.get(name)?.ok_or_else(|| self.missing(name))
    }

    pub(crate) fn string(&self) -> Result<String, ApiError> {
        if self.kind() != "a string" {
            return Err(self.not("a string"));
        }
        // It is well-formed: only an escape such as `\ud800` without its other half can be wrong with it.
        serde_json::from_str(self.text).map_err(|_| self.invalid("holds half of a surrogate pair, which is not text"))
    }

    pub(crate) fn boolean(&self) -> Result<bool, ApiError> {
        match self.text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.not("a boolean")),
        }
    }

    pub(crate) fn number(&self) -> Result<f64, ApiError> {
        self.text.parse().map_err(|_| self.not("a number"))
    }

    /// An integer within `range`; `3.0` is one too.
    pub(crate) fn integer(&self, range: RangeInclusive<u64>) -> Result<u64, ApiError> {
        let number = self.number()?;
        let integer = self.text.parse().ok().or((number.fract() == 0.0 && number >= 0.0).then_some(number as u64));
        integer.filter(|integer| range.contains(integer)).ok_or_else(|| match *range.end() {
            u64::MAX => self.invalid(format_args!("must be an integer of at least {}", range.start())),
            end => self.invalid(format_args!("must be an integer from {} to {end}", range.start())),
        })
    }

    /// One of some words.
    pub(crate) fn one_of(&self, words: &[&'static str]) -> Result<&'static str, ApiError> {
        let got = self.string()?;
        let word = words.iter().find(|word| **word == got);
        let message = || self.invalid(format_args!("must be one of {}, got `{}`", words.join(", "), brief(&got)));
        word.copied().ok_or_else(message)
    }

    /// The members called `names`; a null counts as absent, and of two with one name the last counts.
    pub(crate) fn fields<const N: usize>(&self, names: [&str; N]) -> Result<[Option<Node<'a>>; N], ApiError> {
        let mut found = [const { None }; N];
        self.find(&names, &mut found)?;
        Ok(found)
    }

    /// The same, into a list as long as the names.
    pub(crate) fn find(&self, names: &[&str], found: &mut [Option<Node<'a>>]) -> Result<(), ApiError> {
        for (key, text) in self.members()? {
            let key = unescape(key);
            let wanted = names.iter().zip(&mut *found).find(|(name, _)| key.as_deref() == Some(**name));
            if let Some((name, slot)) = wanted {
                *slot = (text != "null").then(|| Node { text, path: self.join(name) });
            }
        }
        Ok(())
    }

    /// Whether there is a member called `name`, be it null.
    pub(crate) fn has(&self, name: &str) -> bool {
        self.members().is_ok_and(|mut members| members.any(|(key, _)| unescape(key).as_deref() == Some(name)))
    }

    /// Every member in its order.
    pub(crate) fn entries(&self) -> Result<impl Iterator<Item = Result<(String, Node<'a>), ApiError>>, ApiError> {
        Ok(self.members()?.map(|(key, text)| {
            let key = Node { text: key, path: self.path.clone() }.string()?;
            let path = self.join(&key);
            Ok((key, Node { text, path }))
        }))
    }

    /// Every element in its order.
    pub(crate) fn elements(&self) -> Result<impl Iterator<Item = Node<'a>> + use<'a>, ApiError> {
        if self.kind() != "an array" {
            return Err(self.not("an array"));
        }
        let children = Children { rest: self.text.get(1..).unwrap_or_default(), is_object: false };
        let path = self.path.clone();
        Ok(children.enumerate().map(move |(at, (_, text))| Node { text, path: format!("{path}[{at}]") }))
    }

    fn members(&self) -> Result<Children<'a>, ApiError> {
        if self.kind() != "an object" {
            return Err(self.not("an object"));
        }
        Ok(Children { rest: self.text.get(1..).unwrap_or_default(), is_object: true })
    }

    fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }
}

/// The elements of an array that may be absent.
pub(crate) fn each(node: Option<Node<'_>>) -> Result<impl Iterator<Item = Node<'_>>, ApiError> {
    Ok(node.map(|node| node.elements()).transpose()?.into_iter().flatten())
}

/// The members of an object or the elements of an array: the text of the key, if any, and of the value.
struct Children<'a> {
    rest: &'a str,
    is_object: bool,
}

impl<'a> Iterator for Children<'a> {
    type Item = (&'a str, &'a str);

    fn next(&mut self) -> Option<Self::Item> {
        let mut next = || {
            let begin = self.rest.trim_start_matches([',', ':', ' ', '\t', '\n', '\r']);
            let (value, rest) = begin.split_at_checked(value_len(begin))?;
            self.rest = rest;
            (!value.is_empty()).then_some(value)
        };
        let key = if self.is_object { next()? } else { "" };
        Some((key, next()?))
    }
}

/// What well-formed `text` is made of, byte by byte, but of each string only its first quote; with the place behind it.
fn marks(text: &str) -> impl Iterator<Item = (u8, usize)> + '_ {
    let mut at = 0;
    std::iter::from_fn(move || {
        let mark = *text.as_bytes().get(at)?;
        at += 1;
        let mut inside = mark == b'"';
        while inside {
            let (piece, _) = text.get(at..)?.split_once('"')?;
            at += piece.len() + 1;
            // Behind an odd number of backslashes the quote is part of the string.
            inside = piece.bytes().rev().take_while(|byte| *byte == b'\\').count() % 2 == 1;
        }
        Some((mark, at))
    })
}

/// Bytes of the value that well-formed `text` begins with, none at the end of an object or array.
fn value_len(text: &str) -> usize {
    let mut depth = 0_usize;
    for (mark, end) in marks(text) {
        match mark {
            b'{' | b'[' => depth += 1,
            b'}' | b']' if depth > 1 => depth -= 1,
            b'}' | b']' if depth == 1 => return end,
            b'"' if depth == 0 => return end,
            b'}' | b']' | b',' | b' ' | b'\t' | b'\n' | b'\r' if depth == 0 => return end - 1,
            _ => {}
        }
    }
    text.len()
}

/// How deeply objects and arrays are nested in well-formed `text`.
fn depth(text: &str) -> usize {
    let (mut depth, mut deepest) = (0_usize, 0);
    for (mark, _) in marks(text) {
        match mark {
            b'{' | b'[' => depth += 1,
            b'}' | b']' => depth = depth.saturating_sub(1),
            _ => {}
        }
        deepest = deepest.max(depth);
    }
    deepest
}

/// The key that `text` writes.
fn unescape(text: &str) -> Option<Cow<'_, str>> {
    match text.trim_matches('"') {
        plain if !plain.contains('\\') => Some(Cow::Borrowed(plain)),
        _ => serde_json::from_str(text).ok().map(Cow::Owned),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Map, Value};

    use super::*;

    /// What the pieces make up.
    fn whole(node: &Node<'_>) -> Value {
        match node.kind() {
            "an object" => Value::Object(
                node.entries().unwrap().map(Result::unwrap).map(|(k, v)| (k, whole(&v))).collect::<Map<_, _>>(),
            ),
            "an array" => node.elements().unwrap().map(|element| whole(&element)).collect(),
            "a string" => Value::String(node.string().unwrap()),
            _ => serde_json::from_str(&node.line()).unwrap(),
        }
    }

    #[test]
    fn pieces_make_up_the_whole() {
        let seeds = [
            r#" { "a" : [ 1 , -2.5e3 , "x\"]}\\" , { } , [ ] , [[],{"":""}] , null , true ] , "b\u0022," : { "c" : "d" } } "#,
            "{\"k\":\"\\\\\",\"l\":[\"[\",\"{,:\"],\r\n\t\"m\" :\n{\"é\\n😀\":false}}",
            "{}",
            "{\"a\":{\"a\":{\"a\":[0,[1,[2,[3]]],{\"x\":[{}]}]}},\"a\":1}",
        ];
        for seed in seeds {
            let node = Node::body(seed.as_bytes()).unwrap();
            assert_eq!(whole(&node), serde_json::from_str::<Value>(seed).unwrap(), "{seed}");
            // Whatever is still JSON after a change is still read in the same way; nothing else is let in.
            for at in 0..seed.len() {
                for byte in b"{}[]\",:\\ 0eu\n" {
                    let mut changed = seed.as_bytes().to_vec();
                    changed[at] = *byte;
                    if let (Ok(node), Ok(value)) = (Node::body(&changed), serde_json::from_slice::<Value>(&changed)) {
                        assert_eq!(whole(&node), value);
                    }
                }
            }
        }
    }
}
