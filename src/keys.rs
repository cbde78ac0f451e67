//! The keys that clients of this server need. They never appear in a log, and how long a comparison takes tells nothing
//! about them but their number.

use std::fmt;
use std::hint::black_box;

/// The configured keys; with none of them every request is accepted.
#[derive(Clone, Default)]
pub struct Keys(Vec<String>);

impl Keys {
    /// Takes the keys without the white space around them; empty ones are left out.
    pub fn new<S: AsRef<str>>(keys: impl IntoIterator<Item = S>) -> Self {
        let keys = keys.into_iter().map(|key| key.as_ref().trim().to_owned());
        Self(keys.filter(|key| !key.is_empty()).collect())
    }

    /// Whether no key is configured.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Whether a request with these two header values may pass: `Authorization: Bearer KEY`, the word in any case, or
    /// `x-api-key: KEY`. Gives the number of the key, or 0 where none is needed.
    pub fn accept(&self, authorization: Option<&str>, x_api_key: Option<&str>) -> Option<usize> {
        if self.0.is_empty() {
            return Some(0);
        }
        let bearer = authorization
            .and_then(|value| value.trim().split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim());
        // No short cuts: all keys are compared with all that was presented.
        let mut accepted = None;
        for presented in [bearer, x_api_key.map(str::trim)].into_iter().flatten() {
            for (number, key) in self.0.iter().enumerate() {
                accepted = if equal(presented.as_bytes(), key.as_bytes()) { Some(number) } else { accepted };
            }
        }
        accepted
    }
}

/// Compares in a time that depends on the length of `presented` only. `key` is not empty.
fn equal(presented: &[u8], key: &[u8]) -> bool {
    let mut difference = presented.len() ^ key.len();
    for (byte, expected) in presented.iter().zip(key.iter().cycle()) {
        difference |= usize::from(byte ^ expected);
        difference = black_box(difference);
    }
    difference == 0
}

impl fmt::Debug for Keys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn without_keys_everybody_may_pass() {
        assert_eq!(Keys::new(["", "  "]).accept(None, None), Some(0));
        assert!(Keys::default().is_empty());
    }

    #[test]
    fn every_key_is_accepted_in_both_headers() {
        let keys = Keys::new(["first", " second "]);
        for key in ["first", "second"] {
            assert!(keys.accept(Some(&format!("Bearer {key}")), None).is_some());
            assert!(keys.accept(Some(&format!("bEARER  {key} ")), None).is_some());
            assert!(keys.accept(None, Some(key)).is_some());
            assert!(keys.accept(Some("Bearer sk-of-the-sdk"), Some(key)).is_some());
        }
    }

    #[test]
    fn anything_else_is_not() {
        let keys = Keys::new(["first", "aa"]);
        for wrong in ["", "firs", "firstfirst", "first second", "a", "aaa", "aaaa", "First"] {
            assert!(keys.accept(Some(&format!("Bearer {wrong}")), None).is_none(), "{wrong}");
            assert!(keys.accept(None, Some(wrong)).is_none(), "{wrong}");
        }
        assert!(keys.accept(None, None).is_none());
        assert!(keys.accept(Some("first"), None).is_none());
        assert!(keys.accept(Some("Basic first"), None).is_none());
        assert!(keys.accept(Some("Bearer"), None).is_none());
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", Keys::new(["hidden"])), "***");
    }
}
