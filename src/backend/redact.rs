//! Words of codex without what they quote: where codex does not take a config.toml, it shows the value that it stumbled
//! over (0.44 – 0.169), which may be a secret. What stays is the key, the line and what was expected.

/// `text` without the values that it quotes and without excerpts of a file.
pub fn redacted(text: &str) -> String {
    let lines: Vec<&str> = text.lines().filter(|line| !is_excerpt(line)).collect();
    let (text, mut out) = (lines.join("\n"), String::new());
    let mut rest = text.as_str();
    while let Some(at) = rest.find(['"', '`']) {
        let (before, quoted) = rest.split_at(at);
        out.push_str(before);
        let (quote, quoted) = quoted.split_at(1);
        let end = match quote {
            "\"" => end_of_string(quoted),
            // A value may hold one itself.
            _ if !is_name(&out) => quoted.find("`, expected").or_else(|| quoted.find('`')),
            _ => quoted.find('`'),
        };
        let (value, after) = quoted.split_at(end.unwrap_or(quoted.len()));
        let shown = if quote == "`" && is_name(&out) { value } else { "…" };
        let close = if end.is_some() { quote } else { "" };
        out.extend([quote, shown, close]);
        rest = &after[close.len()..];
    }
    out + rest
}

/// The same on one line, and of paths and addresses only the last name, for clients.
pub fn for_clients(text: &str) -> String {
    let word = |word: &str| match word.find('/') {
        Some(_) if word.contains("://") => "…".to_owned(),
        Some(at) if !word[..at].ends_with(char::is_alphanumeric) => {
            format!("{}{}", &word[..at], word.rsplit('/').next().unwrap_or_default())
        }
        _ => word.to_owned(),
    };
    redacted(text).split_ascii_whitespace().map(word).collect::<Vec<_>>().join(" ")
}

/// `3 | key = "value"`, or the marks below it.
fn is_excerpt(line: &str) -> bool {
    line.trim_start().trim_start_matches(|c: char| c.is_ascii_digit()).trim_start().starts_with('|')
}

/// Where a string in the manner of Rust's `{:?}` ends.
fn end_of_string(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.find(|c| {
        let end = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        end
    })
}

/// Whether what follows `before` in backticks is a name and no value: a key, or what was expected.
fn is_name(before: &str) -> bool {
    let line = before.lines().last().unwrap_or_default();
    ["in ", "field ", "key ", "provider "].iter().any(|word| line.ends_with(word))
        || line.contains(", expected ")
        || line.starts_with("expected ")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_codex_says_of_a_configuration_stays_without_its_values() {
        for (text, shown) in [
            (
                "invalid configuration: invalid type: string \"Bearer sk-x\\\" y\", expected a map\nin `model_providers.gw.http_headers`\n",
                "invalid configuration: invalid type: string \"…\", expected a map in `model_providers.gw.http_headers`",
            ),
            (
                "/home/me/config.toml:3:12: unknown variant `sk-`x`, expected `responses` or `chat`",
                "config.toml:3:12: unknown variant `…`, expected `responses` or `chat`",
            ),
            (
                "invalid value: integer `-123`, expected u64 in `model_providers.gw.stream_max_retries`",
                "invalid value: integer `…`, expected u64 in `model_providers.gw.stream_max_retries`",
            ),
            (
                "Error: error loading config: TOML parse error at line 1, column 8\n  |\n1 | wire = sk-x\n  |        ^^^^\nstring values must be quoted",
                "Error: error loading config: TOML parse error at line 1, column 8 string values must be quoted",
            ),
            (
                "config.toml:1:15: invalid basic string, expected `\"`",
                "config.toml:1:15: invalid basic string, expected `\"`",
            ),
            ("unexpected value `sk-x`\nexpected `]`", "unexpected value `…` expected `]`"),
            ("Model provider `gw` not found", "Model provider `gw` not found"),
            ("unknown field `bas_url`, expected `base_url`", "unknown field `bas_url`, expected `base_url`"),
            ("a \"string without end", "a \"…"),
            (
                "cannot reach https://me:pw@h/v1?key=x (see /a/b), and/or config/read",
                "cannot reach … (see b), and/or config/read",
            ),
        ] {
            assert_eq!(for_clients(text), shown);
        }
    }
}
