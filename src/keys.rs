//! The keys that clients of this server need. They never appear in a log, and how long a comparison takes tells nothing
//! about them but their number.

use std::hint::black_box;

use crate::config::Secret;

/// Whether a request with these two header values may pass: `Authorization: Bearer KEY`, the word in any case, or
/// `x-api-key: KEY`. Gives the number of the key, or 0 where there are no `keys`, of which none is empty.
pub fn accept(keys: &[Secret], authorization: Option<&str>, x_api_key: Option<&str>) -> Option<usize> {
    if keys.is_empty() {
        return Some(0);
    }
    let bearer = authorization
        .and_then(|value| value.trim().split_once(' '))
        .filter(|(scheme, _)| scheme.eq_ignore_ascii_case("bearer"))
        .map(|(_, key)| key.trim());
    // No short cuts: all keys are compared with all that was presented.
    let mut accepted = None;
    for presented in [bearer, x_api_key.map(str::trim)].into_iter().flatten() {
        for (number, key) in keys.iter().enumerate() {
            let fits = equal(presented.as_bytes(), key.reveal().as_bytes());
            accepted = if fits { Some(number) } else { accepted };
        }
    }
    accepted
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

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Vec<Secret> {
        ["first", "second", "aa"].map(Secret::new).into()
    }

    #[test]
    fn without_keys_everybody_may_pass() {
        assert_eq!(accept(&[], None, None), Some(0));
        assert_eq!(accept(&[], Some("Bearer any"), None), Some(0));
    }

    #[test]
    fn every_key_is_accepted_in_both_headers() {
        for (number, key) in ["first", "second"].into_iter().enumerate() {
            for (authorization, x_api_key) in [
                (Some(format!("Bearer {key}")), None),
                (Some(format!("bEARER  {key} ")), None),
                (None, Some(key)),
                (Some("Bearer sk-of-the-sdk".to_owned()), Some(key)),
            ] {
                assert_eq!(accept(&keys(), authorization.as_deref(), x_api_key), Some(number), "{authorization:?}");
            }
        }
    }

    #[test]
    fn anything_else_is_not() {
        for wrong in ["", "firs", "firstfirst", "first second", "a", "aaa", "aaaa", "First"] {
            assert!(accept(&keys(), Some(&format!("Bearer {wrong}")), None).is_none(), "{wrong}");
            assert!(accept(&keys(), None, Some(wrong)).is_none(), "{wrong}");
        }
        for wrong in [None, Some("first"), Some("Basic first"), Some("Bearer")] {
            assert!(accept(&keys(), wrong, None).is_none(), "{wrong:?}");
        }
    }
}
