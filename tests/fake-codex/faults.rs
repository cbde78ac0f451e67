//! Faults of the whole process: words of `$FAKE_CODEX_DIR/faults` (read at start), or else of `FAKE_CODEX_FAULTS`.
//!
//! | word | what goes wrong |
//! |---|---|
//! | `exit-at-start` | ends at once with status 1 and a line on stderr, or what `$FAKE_CODEX_DIR/complaint` says |
//! | `debug-hangs`, `debug-fails`, `debug-heir` | `codex debug models` never ends; fails; leaves an `heir` |
//! | `exit-after=N` | ends after N lines were read |
//! | `deaf-after=N` | reads nothing more after N lines |
//! | `stderr=BYTES` | so many bytes on stderr at start |
//! | `ballast=MB` | so much memory is taken from the start |
//! | `ignore-eof`, `ignore-term` | does not end when it should |
//! | `heir` | starts a program that keeps stdout open until `$FAKE_CODEX_DIR` goes |
//! | `garbage` | lines that are no messages before every reply |
//! | `mute=METHOD[:N]` | no reply (to the first N calls only) |
//! | `late=METHOD:MS` | the reply comes late |
//! | `twice=METHOD` | the reply comes twice |
//! | `error=METHOD:CODE[:N]` | the reply is an error, with the words of `complaint` |
//! | `overloaded=METHOD:N` | the first N calls are answered -32001 |
//! | `die=METHOD` | the process ends instead of a reply |

use std::collections::HashMap;
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, Stdio};

/// What a test keeps for its fake: `faults` to read; `starts` and, where it exists, `seen` to write.
pub(crate) fn directory() -> Option<PathBuf> {
    std::env::var_os("FAKE_CODEX_DIR").map(PathBuf::from)
}

/// What it is to say of a failure, with the place of its home for `$CODEX_HOME`.
pub(crate) fn complaint() -> Option<String> {
    let words = std::fs::read_to_string(directory()?.join("complaint")).ok()?;
    Some(words.replace("$CODEX_HOME", &std::env::var("CODEX_HOME").ok()?))
}

/// A program in a group of its own that holds our stdout.
pub(crate) fn leave_an_heir() -> std::io::Result<()> {
    let mut command = Command::new("sh");
    command.args(["-c", "while [ -e \"$FAKE_CODEX_DIR/faults\" ]; do sleep 0.1; done"]);
    command.stdin(Stdio::null()).stderr(Stdio::null()).process_group(0).spawn().map(drop)
}

#[derive(Default)]
pub(crate) struct Faults {
    words: Vec<(String, String)>,
    calls: HashMap<String, u64>,
}

/// What becomes of one call.
#[derive(Debug, PartialEq)]
pub(crate) enum Fate {
    Answer,
    Mute,
    Late(u64),
    Twice,
    Die,
    Error(i64, String),
}

impl Faults {
    pub(crate) fn read() -> Self {
        let text = directory().and_then(|directory| std::fs::read_to_string(directory.join("faults")).ok());
        Self::parse(&text.or_else(|| std::env::var("FAKE_CODEX_FAULTS").ok()).unwrap_or_default())
    }

    fn parse(text: &str) -> Self {
        let words = text.split_whitespace().map(|word| word.split_once('=').unwrap_or((word, "")));
        let words = words.map(|(name, value)| (name.to_owned(), value.to_owned())).collect();
        Self { words, calls: HashMap::new() }
    }

    pub(crate) fn has(&self, name: &str) -> bool {
        self.words.iter().any(|(word, _)| word == name)
    }

    pub(crate) fn number(&self, name: &str) -> Option<u64> {
        self.words.iter().find(|(word, _)| word == name)?.1.parse().ok()
    }

    /// What becomes of the next call of `method`.
    pub(crate) fn fate(&mut self, method: &str) -> Fate {
        let calls = self.calls.entry(method.to_owned()).or_default();
        *calls += 1;
        for (name, value) in &self.words {
            let mut parts = value.split(':');
            if parts.next() != Some(method) {
                continue;
            }
            let numbers: Vec<i64> = parts.filter_map(|part| part.parse().ok()).collect();
            let within =
                |place: usize| numbers.get(place).is_none_or(|limit| i64::try_from(*calls).unwrap_or(0) <= *limit);
            match name.as_str() {
                "mute" if within(0) => return Fate::Mute,
                "late" => return Fate::Late(numbers.first().copied().unwrap_or(0).unsigned_abs()),
                "twice" => return Fate::Twice,
                "die" => return Fate::Die,
                "error" if within(1) => {
                    return Fate::Error(
                        numbers.first().copied().unwrap_or(-32603),
                        complaint().unwrap_or_else(|| format!("scripted error of {method}")),
                    );
                }
                "overloaded" if within(0) => return Fate::Error(-32001, "Server overloaded; retry later.".to_owned()),
                _ => {}
            }
        }
        Fate::Answer
    }
}
