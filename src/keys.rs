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
    /// `x-api-key: KEY`.
    pub fn accept(&self, authorization: Option<&str>, x_api_key: Option<&str>) -> bool {
        if self.0.is_empty() {
            return true;
        }
        let bearer = authorization
            .and_then(|value| value.trim().split_once(' '))
            .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
            .map(|(_, key)| key.trim());
        // No short cuts: all keys are compared with all that was presented.
        let mut accepted = false;
        for presented in [bearer, x_api_key.map(str::trim)].into_iter().flatten() {
            for key in &self.0 {
                accepted |= equal(presented.as_bytes(), key.as_bytes());
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
        assert!(Keys::new(["", "  "]).accept(None, None));
        assert!(Keys::default().is_empty());
    }

    #[test]
    fn every_key_is_accepted_in_both_headers() {
        let keys = Keys::new(["first", " second "]);
        for key in ["first", "second"] {
            assert!(keys.accept(Some(&format!("Bearer {key}")), None));
            assert!(keys.accept(Some(&format!("bEARER  {key} ")), None));
            assert!(keys.accept(None, Some(key)));
            assert!(keys.accept(Some("Bearer sk-of-the-sdk"), Some(key)));
        }
    }

    #[test]
    fn anything_else_is_not() {
        let keys = Keys::new(["first", "aa"]);
        for wrong in ["", "firs", "firstfirst", "first second", "a", "aaa", "aaaa", "First"] {
            assert!(!keys.accept(Some(&format!("Bearer {wrong}")), None), "{wrong}");
            assert!(!keys.accept(None, Some(wrong)), "{wrong}");
        }
        assert!(!keys.accept(None, None));
        assert!(!keys.accept(Some("first"), None));
        assert!(!keys.accept(Some("Basic first"), None));
        assert!(!keys.accept(Some("Bearer"), None));
    }

    #[test]
    fn a_key_is_never_printed() {
        assert_eq!(format!("{:?}", Keys::new(["hidden"])), "***");
    }
}
