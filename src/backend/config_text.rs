//! Reads a person's config.toml where codex does not tell what it says (`config/read` is missing, 0.44 – 0.65). Codex has
//! read the same file before, so this is about the values, not about telling right TOML from wrong: what a model and a
//! provider need is read exactly; dates, arrays of tables and escapes in strings of several lines are not.

use serde_json::{Map, Value};

/// The tables and values of a file. `None`: it is written in a way that is not understood here.
pub fn read(text: &str) -> Option<Value> {
    let mut reader = Reader { rest: text.trim_start_matches('\u{feff}') };
    let mut root = Map::new();
    let mut table: Vec<String> = Vec::new();
    loop {
        reader.skip(true);
        if reader.rest.is_empty() {
            return Some(Value::Object(root));
        }
        if reader.take("[[") {
            // Several under one name: kept apart from every single one.
            table = reader.path()?;
            table.insert(0, "[[]]".to_owned());
            reader.expect("]]")?;
        } else if reader.take("[") {
            table = reader.path()?;
            reader.expect("]")?;
            insert(&mut root, &table, Value::Object(Map::new()));
        } else {
            let mut path = table.clone();
            path.append(&mut reader.path()?);
            reader.expect("=")?;
            insert(&mut root, &path, reader.value()?);
        }
    }
}

/// Puts a value at a path, unless something is there already.
fn insert(map: &mut Map<String, Value>, path: &[String], value: Value) {
    match path {
        [] => {}
        [name] => drop(map.entry(name).or_insert(value)),
        [name, rest @ ..] => {
            if let Value::Object(map) = map.entry(name).or_insert_with(|| Value::Object(Map::new())) {
                insert(map, rest, value);
            }
        }
    }
}

struct Reader<'a> {
    rest: &'a str,
}

impl<'a> Reader<'a> {
    /// Skips blanks and comments; line ends too where they mean nothing.
    fn skip(&mut self, lines: bool) {
        let blank = |c: char| c == ' ' || c == '\t' || lines && (c == '\n' || c == '\r');
        self.rest = self.rest.trim_start_matches(blank);
        while lines && self.rest.starts_with('#') {
            self.rest = self.rest.find('\n').map_or("", |end| &self.rest[end..]).trim_start_matches(blank);
        }
    }

    fn take(&mut self, text: &str) -> bool {
        self.skip(false);
        self.rest.strip_prefix(text).map(|rest| self.rest = rest).is_some()
    }

    fn expect(&mut self, text: &str) -> Option<()> {
        self.take(text).then_some(())
    }

    /// Everything up to `end`, which is taken too.
    fn until(&mut self, end: &str) -> Option<&'a str> {
        let (text, rest) = self.rest.split_once(end)?;
        self.rest = rest;
        Some(text)
    }

    fn path(&mut self) -> Option<Vec<String>> {
        let mut path = Vec::new();
        loop {
            self.skip(false);
            path.push(if self.rest.starts_with(['"', '\'']) {
                self.value()?.as_str()?.to_owned()
            } else {
                self.word(|c| c.is_ascii_alphanumeric() || c == '_' || c == '-')?.to_owned()
            });
            if !self.take(".") {
                return Some(path);
            }
        }
    }

    fn word(&mut self, fits: impl Fn(char) -> bool) -> Option<&'a str> {
        let end = self.rest.find(|c| !fits(c)).unwrap_or(self.rest.len());
        let (word, rest) = self.rest.split_at(end);
        self.rest = rest;
        (!word.is_empty()).then_some(word)
    }

    fn value(&mut self) -> Option<Value> {
        for quotes in ["\"\"\"", "'''"] {
            if self.take(quotes) {
                let text = self.until(quotes)?;
                return Some(Value::from(text.strip_prefix('\n').unwrap_or(text)));
            }
        }
        if self.take("'") {
            return self.until("'").map(Value::from);
        }
        if self.rest.starts_with('"') {
            let mut escaped = false;
            let end = self.rest.char_indices().skip(1).find(|(_, c)| {
                let ends = *c == '"' && !escaped;
                escaped = *c == '\\' && !escaped;
                ends
            })?;
            let (text, rest) = self.rest.split_at(end.0 + 1);
            self.rest = rest;
            // TOML's escapes are JSON's but for a few that nobody writes here.
            return serde_json::from_str(text).ok();
        }
        if self.take("[") {
            let mut values = Vec::new();
            while {
                self.skip(true);
                !self.take("]")
            } {
                values.push(self.value()?);
                self.skip(true);
                self.take(",");
            }
            return Some(Value::Array(values));
        }
        if self.take("{") {
            let mut map = Map::new();
            while {
                self.skip(true);
                !self.take("}")
            } {
                let path = self.path()?;
                self.expect("=")?;
                insert(&mut map, &path, self.value()?);
                self.skip(true);
                self.take(",");
            }
            return Some(Value::Object(map));
        }
        let word = self.word(|c| !matches!(c, ',' | ']' | '}' | '#' | '\n' | '\r'))?.trim_end();
        Some(serde_json::from_str(&word.replace('_', "")).unwrap_or_else(|_| Value::from(word)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_person_s_file_is_read() {
        let text = "\u{feff}# mine\nmodel = \"gpt-5\" # the best\n  notify = [\n  'x', # a\n  \"]\",\n]\ninstructions = \"\"\"\n\
            [model_providers.fake]\nname = 'no'\n\"\"\"\r\n[model_providers.\"my.own\"]\nname='C:\\dir'\nretries = 1_0\n\
            http_headers = { a = \"x\\\"#\", \"b.c\" = 'y' }\n[[hooks.stop]]\ncommand = 'x'\n[[hooks.stop]]\ncommand = 'y'\n\
            [model_providers.\"my.own\".query_params]\nv = \"\\u00e9\" \n[tools]\nweb.search = false\nat = 2020-01-01";
        let value = read(text).unwrap();
        assert_eq!(value["model"], "gpt-5");
        assert_eq!(value["notify"], json!(["x", "]"]));
        assert_eq!(
            value["model_providers"],
            json!({"my.own": {"name": "C:\\dir", "retries": 10, "http_headers": {"a": "x\"#", "b.c": "y"},
                "query_params": {"v": "é"}}})
        );
        assert_eq!(value["tools"]["web"]["search"], false);
        assert_eq!(value["tools"]["at"], "2020-01-01");
        assert_eq!(read(""), Some(json!({})));
    }

    #[test]
    fn what_is_not_understood_is_no_panic() {
        for odd in ["[", "a", "a =", "a = \"x", "a = [1", "[a]]\n", "a = {b", "= 1", "a = \"\\x\"", "a = '''x"] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }
}
