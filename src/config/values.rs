//! How single values are read: every one that is wrong is noted and reading goes on, so that all problems come together.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::ops::RangeInclusive;
use std::time::Duration;

/// The environment.
pub type Env = BTreeMap<OsString, OsString>;

/// One setting, an environment variable.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// The name of the variable.
    pub name: &'static str,
    /// What is used when it is unset or empty, as a person would write it. Empty: nothing, or as the help says.
    pub default: &'static str,
    /// What it does, in one line.
    pub help: &'static str,
}

/// The longest time that a setting takes: a week.
const LONGEST_MS: u64 = 7 * 24 * 3_600_000;

/// Text that must not be seen: it prints as `***`.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Hides `text`.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself.
    pub fn reveal(&self) -> &str {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// Something that a person should know about one variable: a problem or a warning.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Notice {
    /// The variable.
    pub name: String,
    /// What is the matter and what to do. Holds no secret.
    pub text: String,
}

impl fmt::Display for Notice {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.name, self.text)
    }
}

// Settings with a few named values, the default first.
macro_rules! choices {
    ($($(#[$doc:meta])* $name:ident { $first:ident = $first_text:literal $(, $more:ident = $more_text:literal)* })*) => {$(
        $(#[$doc])*
        #[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
        pub enum $name {
            #[default]
            #[doc = concat!("`", $first_text, "`")]
            $first
            $(, #[doc = concat!("`", $more_text, "`")] $more)*
        }

        impl $name {
            /// The values with the names that people write.
            pub(super) const ALL: &'static [(&'static str, Self)] =
                &[($first_text, Self::$first) $(, ($more_text, Self::$more))*];

            /// The name that people, and codex where it has the word, write.
            pub fn as_str(self) -> &'static str {
                match self { Self::$first => $first_text $(, Self::$more => $more_text)* }
            }
        }
    )*};
}

choices! {
    /// What codex adds to a client's words: as little as the version allows, or whatever it comes with.
    Profile { Lean = "lean", Codex = "codex" }
    /// How a conversation reaches the model: every message as an item of its own, all as one text, or (auto) the first
    /// where the app-server can.
    PromptMode { Auto = "auto", Native = "native", Joined = "joined" }
    /// Which protocol is spoken with the app-server: the newest that both sides know, `newConversation` and its kin, or
    /// `thread/start` and its kin.
    ProtocolChoice { Auto = "auto", V1 = "v1", V2 = "v2" }
    /// What programs that codex runs may do: read files, write in the working directory too, or anything.
    Sandbox { ReadOnly = "read-only", WorkspaceWrite = "workspace-write", DangerFullAccess = "danger-full-access" }
    /// What a silent stream carries as a sign of life: an SSE comment, a chunk with an empty delta, or nothing.
    KeepaliveForm { Comment = "comment", Chunk = "chunk", Off = "off" }
    /// What a line of the log looks like: time, level, target and message, or a JSON object with these.
    LogFormat { Text = "text", Json = "json" }
}

/// Reads values and collects what is wrong with them.
pub(super) struct Reader<'a> {
    pub(super) settings: &'static [Setting],
    pub(super) env: &'a Env,
    pub(super) problems: Vec<Notice>,
    pub(super) warnings: Vec<Notice>,
}

impl<'a> Reader<'a> {
    pub(super) fn problem(&mut self, name: &str, text: impl Into<String>) {
        let notice = Notice { name: name.to_owned(), text: text.into() };
        // Some values are looked at from two sides.
        if !self.problems.contains(&notice) {
            self.problems.push(notice);
        }
    }

    pub(super) fn warning(&mut self, name: &str, text: impl Into<String>) {
        self.warnings.push(Notice { name: name.to_owned(), text: text.into() });
    }

    /// The value, without white space around it, unless nothing is left then.
    pub(super) fn given(&mut self, name: &str) -> Option<&'a str> {
        match self.env.get(OsStr::new(name))?.to_str() {
            Some(text) => Some(text.trim()).filter(|text| !text.is_empty()),
            None => {
                self.problem(name, "is not valid UTF-8: write it in UTF-8 or unset it");
                None
            }
        }
    }

    /// The value or else the default.
    pub(super) fn text(&mut self, name: &str) -> &'a str {
        let default =
            || self.settings.iter().find(|setting| setting.name == name).map_or("", |setting| setting.default);
        self.given(name).unwrap_or_else(default)
    }

    /// The value or else the default, as `parse` understands it. A value that it does not understand is a problem, and
    /// what is returned then stands in only until the problems are shown.
    pub(super) fn parsed<T: Default>(&mut self, name: &str, wanted: &str, parse: impl Fn(&str) -> Option<T>) -> T {
        let text = self.text(name);
        parse(text).unwrap_or_else(|| {
            self.problem(name, format!("`{}` is not valid: give {wanted}", shown(text)));
            T::default()
        })
    }

    pub(super) fn number<T: TryFrom<u64> + Default>(&mut self, name: &str, range: RangeInclusive<u64>) -> T {
        let wanted = format!("a whole number from {} to {}", range.start(), range.end());
        let parse = |text: &str| text.parse().ok().filter(|number| range.contains(number));
        self.parsed(name, &wanted, |text| T::try_from(parse(text)?).ok())
    }

    pub(super) fn millis(&mut self, name: &str, least: u64) -> Duration {
        Duration::from_millis(self.number(name, least..=LONGEST_MS))
    }

    pub(super) fn flag(&mut self, name: &'static str) -> bool {
        self.parsed(name, "1, true, yes or on, or 0, false, no or off", truth)
    }

    pub(super) fn choice<T: Copy + Default>(&mut self, name: &str, all: &[(&str, T)]) -> T {
        let wanted = all.iter().map(|(text, _)| *text).collect::<Vec<_>>().join(" or ");
        let parse = |text: &str| all.iter().find(|(known, _)| known.eq_ignore_ascii_case(text));
        self.parsed(name, &wanted, |text| parse(text).map(|(_, value)| *value))
    }
}

/// What a word says about yes or no.
pub(super) fn truth(word: &str) -> Option<bool> {
    match word.to_ascii_lowercase().as_str() {
        "1" | "true" | "yes" | "on" => Some(true),
        "0" | "false" | "no" | "off" => Some(false),
        _ => None,
    }
}

/// `value` fit for a message or a table: on one line, and not longer than a line.
pub fn shown(value: &str) -> String {
    let mut line: String = value.chars().take(200).flat_map(escaped).collect();
    if value.chars().nth(200).is_some() {
        line.push('…');
    }
    line
}

/// The character, or its escape if it could start another line or move the cursor of a terminal.
pub(crate) fn escaped(character: char) -> impl Iterator<Item = char> {
    let separator = matches!(character, '\u{2028}' | '\u{2029}');
    let escape = (character.is_control() || separator).then(|| character.escape_default());
    let plain = escape.is_none().then_some(character);
    escape.into_iter().flatten().chain(plain)
}
