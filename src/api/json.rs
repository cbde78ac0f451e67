//! JSON of a request, read piece by piece: only what is asked for is built, so that a body costs little more memory
//! than its bytes whatever it holds, and every piece knows its place, so that every error can name it.

use std::fmt;
use std::ops::RangeInclusive;

use serde::de::{DeserializeSeed, Deserializer, Error, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::value::RawValue;

use super::error::ApiError;

/// Deepest nesting of a request. What is passed on goes into a few more levels, and codex reads 127.
const MAX_DEPTH: usize = 100;

/// A value of a request that has not been read yet.
#[derive(Clone, Debug)]
pub(crate) struct Node<'a> {
    text: &'a str,
    /// Where it stands, such as `messages[2].role`. Empty for the body itself.
    pub(crate) path: String,
}

impl<'a> Node<'a> {
    /// The whole body, which has to be well-formed JSON.
    pub(crate) fn body(body: &'a [u8]) -> Result<Self, ApiError> {
        let text = std::str::from_utf8(body)
            .map_err(|e| ApiError::bad_request(format!("The body is not UTF-8 (at byte {}).", e.valid_up_to())))?;
        if too_deep(text) {
            return Err(ApiError::bad_request(format!("The body is nested deeper than {MAX_DEPTH} levels.")));
        }
        let raw: &RawValue = serde_json::from_str(text)
            .map_err(|e| ApiError::bad_request(format!("The body could not be parsed as JSON: {e}.")))?;
        let node = Self { text: raw.get(), path: String::new() };
        if node.is_object() {
            return Ok(node);
        }
        Err(ApiError::bad_request(format!("The body must be a JSON object, got {}.", node.kind())))
    }

    /// The JSON text without line breaks, which would end a line or an event of what it is put into. Inside strings
    /// there are none.
    pub(crate) fn line(&self) -> String {
        self.text.replace(['\n', '\r'], "")
    }

    /// Whether it is `word`: `null`, `false`, `"object"` …
    pub(crate) fn is(&self, word: &str) -> bool {
        self.text == word
    }

    /// What it is, for messages.
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

    pub(crate) fn is_object(&self) -> bool {
        self.text.starts_with('{')
    }

    pub(crate) fn is_array(&self) -> bool {
        self.text.starts_with('[')
    }

    pub(crate) fn is_string(&self) -> bool {
        self.text.starts_with('"')
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

    pub(crate) fn string(&self) -> Result<String, ApiError> {
        if !self.is_string() {
            return Err(self.not("a string"));
        }
        serde_json::from_str(self.text).map_err(|_| self.broken())
    }

    pub(crate) fn boolean(&self) -> Result<bool, ApiError> {
        match self.text {
            "true" => Ok(true),
            "false" => Ok(false),
            _ => Err(self.not("a boolean")),
        }
    }

    pub(crate) fn number(&self) -> Result<f64, ApiError> {
        match self.text.parse() {
            Ok(number) if self.kind() == "a number" => Ok(number),
            _ => Err(self.not("a number")),
        }
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
        words
            .iter()
            .find(|word| **word == got)
            .copied()
            .ok_or_else(|| self.invalid(format_args!("must be one of {}, got `{}`", words.join(", "), brief(&got))))
    }

    /// The members called `names`; a null counts as absent, and of two with one name the last counts.
    pub(crate) fn fields<const N: usize>(&self, names: [&str; N]) -> Result<[Option<Node<'a>>; N], ApiError> {
        let mut found = [const { None }; N];
        self.members(
            |key| names.iter().position(|name| *name == key),
            |at, value| {
                if let (Some(slot), Some(name)) = (found.get_mut(at), names.get(at)) {
                    *slot = Some(Node { text: value, path: self.join(name) }).filter(|node| !node.is("null"));
                }
                Ok(())
            },
        )?;
        Ok(found)
    }

    /// Whether there is a member called `name`, be it null.
    pub(crate) fn has(&self, name: &str) -> bool {
        let mut found = false;
        let read = self.members(
            |key| (key == name).then_some(()),
            |(), _| {
                found = true;
                Ok(())
            },
        );
        read.is_ok() && found
    }

    /// Every member in its order.
    pub(crate) fn entries(
        &self,
        mut each: impl FnMut(String, Node<'a>) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        self.members(
            |key| Some(key.to_owned()),
            |key, value| {
                let path = self.join(&key);
                each(key, Node { text: value, path })
            },
        )
    }

    /// Every element in its order.
    pub(crate) fn elements(
        &self,
        mut each: impl FnMut(usize, Node<'a>) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        if !self.is_array() {
            return Err(self.not("an array"));
        }
        let mut at = 0;
        self.walk(Elements(|text| {
            let node = Node { text, path: format!("{}[{at}]", self.path) };
            at += 1;
            each(at - 1, node)
        }))
    }

    fn members<K>(
        &self,
        pick: impl Fn(&str) -> Option<K>,
        each: impl FnMut(K, &'a str) -> Result<(), ApiError>,
    ) -> Result<(), ApiError> {
        if !self.is_object() {
            return Err(self.not("an object"));
        }
        self.walk(Members(pick, each))
    }

    /// Runs a visitor whose callbacks may stop it with an error of their own.
    fn walk(&self, visitor: impl Visitor<'a, Value = Result<(), ApiError>>) -> Result<(), ApiError> {
        let mut json = serde_json::Deserializer::from_str(self.text);
        json.deserialize_any(visitor).unwrap_or_else(|_| Err(self.broken()))
    }

    fn join(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    /// The body is well-formed: all that can be left is an escape such as `\ud800` without its other half.
    fn broken(&self) -> ApiError {
        self.invalid("holds half of a surrogate pair, which is not text")
    }
}

/// Walks an object. A callback's error comes out as the value of an otherwise good walk, the rest skipped.
struct Members<P, F>(P, F);

impl<'de, K, P: Fn(&str) -> Option<K>, F: FnMut(K, &'de str) -> Result<(), ApiError>> Visitor<'de> for Members<P, F> {
    type Value = Result<(), ApiError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(mut self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut result = Ok(());
        while let Some(key) = map.next_key_seed(Key(&self.0))? {
            match key {
                Some(key) if result.is_ok() => result = (self.1)(key, map.next_value::<&'de RawValue>()?.get()),
                _ => drop(map.next_value::<IgnoredAny>()?),
            }
        }
        Ok(result)
    }
}

/// Reads a key without keeping it.
struct Key<'p, P>(&'p P);

impl<'de, K, P: Fn(&str) -> Option<K>> DeserializeSeed<'de> for Key<'_, P> {
    type Value = Option<K>;

    fn deserialize<D: Deserializer<'de>>(self, key: D) -> Result<Self::Value, D::Error> {
        key.deserialize_str(self)
    }
}

impl<K, P: Fn(&str) -> Option<K>> Visitor<'_> for Key<'_, P> {
    type Value = Option<K>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a key")
    }

    fn visit_str<E: Error>(self, key: &str) -> Result<Self::Value, E> {
        Ok((self.0)(key))
    }
}

/// Walks an array, in the same way.
struct Elements<F>(F);

impl<'de, F: FnMut(&'de str) -> Result<(), ApiError>> Visitor<'de> for Elements<F> {
    type Value = Result<(), ApiError>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut seq: A) -> Result<Self::Value, A::Error> {
        let mut result = Ok(());
        while let Some(element) = seq.next_element::<&'de RawValue>()? {
            if result.is_ok() {
                result = (self.0)(element.get());
            }
        }
        Ok(result)
    }
}

/// Whether brackets outside strings go deeper than [`MAX_DEPTH`].
fn too_deep(text: &str) -> bool {
    let (mut depth, mut in_string, mut escaped) = (0_usize, false, false);
    for byte in text.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_string,
            b'"' => in_string = !in_string,
            b'{' | b'[' if !in_string => depth += 1,
            b'}' | b']' if !in_string => depth = depth.saturating_sub(1),
            _ => {}
        }
        if depth > MAX_DEPTH {
            return true;
        }
    }
    false
}

/// As much of a client's word as a message may repeat.
pub(crate) fn brief(word: &str) -> String {
    let mut brief: String = word.chars().take(64).collect();
    if brief.len() < word.len() {
        brief.push('…');
    }
    brief
}

/// Appends `text` as a JSON string. Nothing is escaped that need not be.
pub(crate) fn quote(out: &mut Vec<u8>, text: &str) {
    // Writing a string to memory cannot fail.
    let _ = serde_json::to_writer(out, text);
}
