//! All knowledge of versions: one table of what a codex can do since and until when, read by the version in its
//! `initialize` reply and corrected by its answers. Measured on the versions that are named here; what lies between two
//! of them counts from the later one.

use std::fmt;

use super::Dialect;
use super::tool_names::CodexTools;
use crate::backend::wire::RpcError;
use crate::config::{PromptMode, ProtocolChoice, names};
use crate::turn::{TurnError, TurnErrorKind};

/// A version of codex.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Version(pub u32, pub u32, pub u32);

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}.{}", self.0, self.1, self.2)
    }
}

impl Version {
    /// Reads `NAME/0.169.0 (…)`, the `userAgent` of 0.44 – 0.169. Anything behind the third number is left out.
    pub fn from_user_agent(agent: &str) -> Option<Self> {
        let version = agent.split_ascii_whitespace().next()?.rsplit_once('/')?.1;
        let mut parts = version.splitn(3, '.');
        let mut number = || {
            let part = parts.next()?;
            let digits = part.len() - part.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            part.get(..digits)?.parse().ok()
        };
        Some(Self(number()?, number()?, number()?))
    }
}

/// The oldest codex that is served.
pub const OLDEST: Version = Version(0, 44, 0);
/// The newest codex whose behaviour was measured; a later one is taken to be like it.
pub const NEWEST: Version = Version(0, 169, 0);

/// What one row of the table says of a feature. An empty cost is no cost.
struct Row {
    since: Version,
    /// The first version without it.
    until: Option<Version>,
    /// Whether only the v2 protocol has it.
    v2: bool,
    /// A call that exists where the feature does.
    method: Option<&'static str>,
    /// What its lack costs.
    cost: &'static str,
}

const fn since(minor: u32) -> Row {
    Row { since: Version(0, minor, 0), until: None, v2: false, method: None, cost: "" }
}

impl Row {
    const fn until(self, minor: u32) -> Self {
        Self { until: Some(Version(0, minor, 0)), ..self }
    }

    const fn v2(self) -> Self {
        Self { v2: true, ..self }
    }

    const fn method(self, method: &'static str) -> Self {
        Self { method: Some(method), ..self }
    }

    const fn cost(self, cost: &'static str) -> Self {
        Self { cost, ..self }
    }

    fn covers(&self, version: Version) -> bool {
        version >= self.since && self.until.is_none_or(|until| version < until)
    }
}

/// Makes the enumeration of features and the table of them, in the same order.
macro_rules! features {
    ($($(#[$doc:meta])* $name:ident = $row:expr;)*) => {
        /// Something that not every codex can do.
        #[derive(Clone, Copy, Debug, PartialEq, Eq)]
        pub enum Feature { $($(#[$doc])* $name,)* }

        const TABLE: &[(Feature, Row)] = &[$((Feature::$name, $row),)*];
    };
}

features! {
    /// `newConversation` and its kind.
    V1 = since(44).until(107).method("newConversation");
    /// `thread/*` and `turn/*`, with usage and errors.
    V2 = since(66).method("thread/start");
    /// A summary of reasoning need not be asked for; before, codex passes `none` on as it is.
    NoSummary = since(77).cost("is always asked for a summary of the reasoning: a few more tokens of output");
    /// `thread/resume` takes a history, and a thread made from one gets no texts of codex's own.
    BareResume = since(66).until(81).v2();
    /// `model/list` asks the network, for seconds where it is out of reach.
    SlowModelList = since(77).until(104);
    /// `turn/start.outputSchema`.
    OutputSchema = since(80).v2()
        .cost("takes no JSON schema for the answer: response_format json_schema is refused");
    /// `--config` at start reaches threads; before, only the `config` of each thread does.
    StartConfig = since(80);
    /// Threads that are not written to disk.
    Ephemeral = since(92).v2()
        .cost("writes each conversation to disk: the file is removed when its turn has ended");
    /// `dynamicTools`.
    Tools = since(92).v2().cost("takes no tools: a request whose tools may be called is refused");
    /// Usage is told while the calls of a response wait for their answers, and so marks its end.
    CountsCalls = since(92).until(131).v2();
    /// What cut an answer is told.
    CutReason = since(104)
        .cost("does not tell that an answer was cut by the output limit or a filter: that is an upstream error");
    /// Notifications can be switched off by name.
    OptOut = since(104).v2();
    /// Notifications of the v1 protocol come beside those of v2.
    OldEvents = since(44).until(115);
    /// Every turn has an end.
    EndsTurns = since(107).v2()
        .cost("may leave a turn without an end when many run at once: its answer is then complete a second late");
    /// `thread/unsubscribe`.
    Unsubscribe = since(107).v2();
    /// `thread/inject_items`.
    Inject = since(121).v2().method("thread/inject_items")
        .cost("takes no history: the model sees the conversation as one text (prompt mode joined), and reasoning of \
            earlier turns is lost");
    /// `codex debug models`, and a catalog that is taken instead.
    Catalog = since(125);
    /// A turn may start without input after an injected history.
    EmptyInput = since(142).v2()
        .cost("wants a message of the user last: a conversation that ends otherwise goes to the model as one text");
    /// Schemas of tools keep enumerations, references and alternatives.
    Schemas = since(142).v2();
    /// Skills are kept out by settings; before, by a home that has no place for them.
    SkillSettings = since(142);
    /// Usage is told before the turn ends.
    UsageFirst = since(142).v2();
    /// `agents.enabled` is a switch; before, it is refused (0.104 may hang over that).
    AgentsSwitch = since(146);
    /// No tool of codex's own is left in a lean request.
    NoOwnTools = since(146);
    /// `rawResponse/completed` marks the end of a model's response.
    EndsResponses = since(146).v2()
        .cost("does not tell when the model has made all its calls: one more than 250 ms after another is lost, and \
            what they cost is an estimate");
    /// An interrupt drops the connection of a silent model.
    DropsSilentModel = since(151)
        .cost("keeps the connection of an interrupted turn open while the model is silent");
    /// Its log on disk is without conversations.
    QuietLog = since(151)
        .cost("may write conversations into its log while it runs: in a directory of the proxy's own (0700), removed \
            with it");
    /// `thread/unsubscribe` unloads a thread (`thread_unload_delay_secs`).
    Unloads = since(156).v2().cost("does not unload threads: its memory grows and it is replaced more often");
}

/// What a lean request holds beside the client's words and the base instructions, since which version, newest first:
/// measured with a model that is listed. No key was found that removes it.
const HARNESS: &[(Version, &str)] = &[
    (Version(0, 142, 0), "its update_plan tool (about 800 bytes)"),
    (Version(0, 125, 0), "its update_plan and request_user_input tools (about 2,000 bytes)"),
    (Version(0, 121, 0), "tools for plans, questions, patches and images (about 3,600 bytes)"),
    (
        Version(0, 107, 0),
        "tools for plans, questions, patches and images, and words about its sandbox (about 4,000 bytes)",
    ),
    (Version(0, 104, 0), "tools for plans, patches and images, and words about its sandbox (about 2,600 bytes)"),
    (Version(0, 81, 0), "tools for plans, patches, images and MCP, and words about its sandbox (about 5,100 bytes)"),
    (Version(0, 66, 0), "tools for plans, patches and MCP (about 3,700 bytes)"),
    (
        Version(0, 50, 0),
        "a shell that reads this machine's files, tools for plans and MCP, and words about its sandbox (about 3,800 bytes)",
    ),
    (OLDEST, "a shell that reads this machine's files, and words about its sandbox (about 1,200 bytes)"),
];

/// Those of the v1 protocol that come often, without `codex/event/`.
const OLD_EVENTS: &str = "agent_message agent_message_content_delta agent_message_delta agent_reasoning \
    agent_reasoning_delta item_completed item_started raw_response_item reasoning_content_delta task_complete \
    task_started token_count user_message";

/// What one codex can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The version; `None`: its reply could not be read, so it is taken for the newest known.
    pub version: Option<Version>,
    present: u32,
}

impl Capabilities {
    /// Looks a version up.
    ///
    /// # Errors
    /// Words for a person: the version is too old.
    pub fn of(user_agent: &str) -> Result<Self, String> {
        // Built from its sources, it calls itself 0.0.0.
        let version = Version::from_user_agent(user_agent).filter(|version| *version != Version(0, 0, 0));
        let known = version.unwrap_or(NEWEST);
        if known < OLDEST {
            return Err(format!("codex {known} is older than {OLDEST}, the oldest that is served; update codex"));
        }
        let mut found = Self { version, present: 0 };
        TABLE.iter().for_each(|(feature, row)| found.set(*feature, row.covers(known)));
        Ok(found)
    }

    fn known(&self) -> Version {
        self.version.unwrap_or(NEWEST)
    }

    /// Whether this codex has it.
    pub fn has(&self, feature: Feature) -> bool {
        self.present & (1 << feature as u32) != 0
    }

    fn set(&mut self, feature: Feature, present: bool) {
        self.present = self.present & !(1 << feature as u32) | u32::from(present) << feature as u32;
    }

    /// The method that a refusal is about, if codex does not have it and can be served without. Up to 0.50 it only says
    /// that something is wrong, which the calls made here never are.
    pub fn missing(refusal: &RpcError, dialect: Dialect) -> Option<&'static str> {
        let first = if dialect == Dialect::V1 { "newConversation" } else { "thread/start" };
        let named = |method: &&str| refusal.message.contains(&format!("unknown variant `{method}`"));
        let unknown = refusal.is_unknown_method();
        let bare = unknown && !refusal.message.contains('`');
        let mut methods = TABLE.iter().filter_map(|(_, row)| row.method).filter(|_| unknown);
        methods.find(|method| named(method) || bare && *method == first)
    }

    /// Corrects the table: codex has refused this method as one that it does not have.
    pub fn correct(&mut self, method: &str) {
        if let Some((feature, _)) = TABLE.iter().find(|(_, row)| row.method == Some(method)) {
            self.set(*feature, false);
            // There was no codex without either: it is older than it says.
            self.set(Feature::V1, self.has(Feature::V1) || *feature == Feature::V2);
        }
    }

    /// Notifications that are not wanted, as they say what others say too.
    pub fn muted(&self, protocol: ProtocolChoice) -> Vec<String> {
        let both = self.has(Feature::OptOut) && self.has(Feature::OldEvents) && protocol != ProtocolChoice::V1;
        OLD_EVENTS.split(' ').filter(|_| both).map(|event| format!("codex/event/{event}")).collect()
    }

    /// The protocol to speak, and whether conversations go in as one text. What only the other protocol has is gone then.
    ///
    /// # Errors
    /// Words for a person: this codex lacks what the settings pin.
    pub fn choose(&mut self, protocol: ProtocolChoice, prompt: PromptMode) -> Result<(Dialect, bool), String> {
        let lacks = |setting: &str, value: &str, feature| {
            let need = range(feature);
            format!("{setting}={value}: codex {} cannot do that, {need} can; change the setting or codex", self.known())
        };
        let dialect = match protocol {
            ProtocolChoice::V1 if !self.has(Feature::V1) => return Err(lacks(names::PROTOCOL, "v1", Feature::V1)),
            ProtocolChoice::V2 if !self.has(Feature::V2) => return Err(lacks(names::PROTOCOL, "v2", Feature::V2)),
            ProtocolChoice::V1 => Dialect::V1,
            ProtocolChoice::V2 | ProtocolChoice::Auto if self.has(Feature::V2) => Dialect::V2,
            _ if self.has(Feature::V1) => Dialect::V1,
            _ => return Err(format!("codex {} speaks no protocol that is known here", self.known())),
        };
        let native = dialect == Dialect::V2 && self.has(Feature::Inject);
        if prompt == PromptMode::Native && !(native && self.has(Feature::EmptyInput)) {
            return Err(lacks(names::PROMPT_MODE, "native", Feature::EmptyInput));
        }
        if dialect == Dialect::V1 {
            TABLE.iter().filter(|(_, row)| row.v2).for_each(|(feature, _)| self.set(*feature, false));
        }
        Ok((dialect, !native || prompt == PromptMode::Joined))
    }

    /// What a client is told that asks for what this codex does not have.
    pub fn lacking(&self, what: &str, feature: Feature) -> TurnError {
        let known = self.known();
        let why = if TABLE[feature as usize].1.covers(known) {
            "the v2 protocol, which PROXY_APP_SERVER_PROTOCOL rules out".to_owned()
        } else {
            format!("codex {}; this is codex {known}", range(feature))
        };
        TurnError::new(TurnErrorKind::Unsupported, format!("{what} need {why}."))
    }

    /// What codex offers the model of its own.
    pub fn codex_tools(&self, lean: bool) -> CodexTools {
        match lean {
            false => CodexTools::All,
            true if self.has(Feature::NoOwnTools) => CodexTools::None,
            true if self.known() >= HARNESS[0].0 => CodexTools::UpdatePlan,
            true => CodexTools::Some,
        }
    }

    /// What to log once about a version that nobody has measured.
    pub fn remark(&self) -> Option<String> {
        match self.version {
            None => Some(format!("this codex does not tell its version; it is treated as {NEWEST}")),
            Some(version) if version > NEWEST => Some(format!(
                "codex {version} is newer than {NEWEST}, the newest that was tested; it is treated as {NEWEST}"
            )),
            Some(_) => None,
        }
    }

    /// What this codex cannot do under its profile and protocol, and what that costs.
    pub fn degraded(&self, lean: bool) -> Vec<String> {
        let name = format!("codex {}", self.known());
        let lacking = TABLE.iter().filter(|(feature, row)| !row.cost.is_empty() && !self.has(*feature));
        let lacking = lacking.filter(|(feature, _)| match feature {
            // Without a history, how it ends does not matter, nor without tools, when all were called.
            Feature::EmptyInput => self.has(Feature::Inject),
            Feature::EndsResponses => self.has(Feature::Tools) && !self.has(Feature::CountsCalls),
            _ => true,
        });
        let mut degraded: Vec<String> = lacking.map(|(_, row)| format!("{name} {}", row.cost)).collect();
        if lean && !self.has(Feature::NoOwnTools) {
            let own = HARNESS.iter().find(|(since, _)| self.known() >= *since);
            degraded.extend(own.map(|(_, what)| format!("{name} adds to each request {what}")));
        }
        degraded
    }
}

/// The versions that have a feature, in words.
fn range(feature: Feature) -> String {
    let Row { since, until, .. } = TABLE[feature as usize].1;
    until.map_or(format!("{since} or newer"), |until| format!("{since} or newer and before {until}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_read_from_user_agents() {
        let read = Version::from_user_agent;
        assert_eq!(read("probe/0.169.0 (Debian 12.0.0; x86_64) xterm (probe; 0.1.0)"), Some(Version(0, 169, 0)));
        assert_eq!(read("a/b/0.142.5-alpha.3 (x)"), Some(Version(0, 142, 5)));
        for odd in ["", "x", "x/", "x/1.2", "x/a.b.c"] {
            assert_eq!(read(odd), None, "{odd}");
        }
    }

    #[test]
    fn the_table_is_in_the_order_of_the_features() {
        assert!(TABLE.iter().enumerate().all(|(at, (feature, _))| *feature as usize == at) && TABLE.len() <= 32);
    }

    #[test]
    fn too_old_versions_are_refused_and_unknown_ones_are_like_the_newest() {
        assert!(Capabilities::of("x/0.43.0 (y)").unwrap_err().contains("0.43.0"));
        let newest = Capabilities::of("x/0.169.0").unwrap();
        assert!(newest.degraded(true).is_empty() && newest.remark().is_none());
        let mut future = Capabilities::of("x/9.9.9").unwrap();
        assert!(future.degraded(true).is_empty() && future.remark().is_some());
        assert_eq!(future.choose(ProtocolChoice::Auto, PromptMode::Auto), Ok((Dialect::V2, false)));
        assert!(Capabilities::of("nonsense").unwrap().remark().is_some());
        let old = Capabilities::of("x/0.142.5").unwrap().degraded(true);
        assert!(old.iter().any(|line| line.contains("update_plan")), "{old:?}");
        for (version, is_told) in [("0.80.0", false), ("0.104.0", false), ("0.142.5", true), ("0.146.0", false)] {
            let lines = Capabilities::of(&format!("x/{version}")).unwrap().degraded(true);
            assert_eq!(lines.iter().any(|line| line.contains("all its calls")), is_told, "{lines:?}");
        }
    }

    #[test]
    fn the_choice_follows_version_pins_and_answers() {
        use {PromptMode as Prompt, ProtocolChoice as Protocol};
        let of = |version: &str| Capabilities::of(&format!("x/{version}")).unwrap();
        for (version, expected) in [
            ("0.44.0", (Dialect::V1, true)),
            ("0.65.0", (Dialect::V1, true)),
            ("0.66.0", (Dialect::V2, true)),
            ("0.121.0", (Dialect::V2, false)),
        ] {
            assert_eq!(of(version).choose(Protocol::Auto, Prompt::Auto), Ok(expected), "{version}");
        }
        let mut pinned = of("0.104.0");
        assert_eq!(pinned.choose(Protocol::V1, Prompt::Auto), Ok((Dialect::V1, true)));
        assert!(pinned.lacking("Tools", Feature::Tools).message.contains("PROXY_APP_SERVER_PROTOCOL"));
        assert!(of("0.77.0").lacking("Tools", Feature::Tools).message.contains("0.92.0"));
        for (version, protocol, prompt, words) in [
            ("0.107.0", Protocol::V1, Prompt::Auto, "PROXY_APP_SERVER_PROTOCOL=v1"),
            ("0.50.0", Protocol::V2, Prompt::Auto, "0.66.0 or newer"),
            ("0.121.0", Protocol::Auto, Prompt::Native, "PROXY_PROMPT_MODE=native"),
        ] {
            let error = of(version).choose(protocol, prompt).unwrap_err();
            assert!(error.contains(words), "{error}");
        }
        let mut odd = of("9.9.9");
        odd.correct("thread/inject_items");
        assert_eq!(odd.choose(Protocol::Auto, Prompt::Auto), Ok((Dialect::V2, true)));
        odd.correct("thread/start");
        assert_eq!(odd.choose(Protocol::Auto, Prompt::Auto), Ok((Dialect::V1, true)));
        odd.correct("newConversation");
        assert!(odd.choose(Protocol::Auto, Prompt::Auto).is_err());
        let refusal = |message: &str| RpcError { code: -32600, message: message.to_owned() };
        for (message, missing) in [
            (
                "Invalid request: unknown variant `thread/inject_items`, expected one of `a`",
                Some("thread/inject_items"),
            ),
            ("Invalid request: unknown variant `read-only`, expected one of `readOnly`", None),
            ("Invalid request: missing field `threadId`", None),
            ("Invalid request", Some("thread/start")),
        ] {
            assert_eq!(Capabilities::missing(&refusal(message), Dialect::V2), missing, "{message}");
        }
        let mut unknown = of("0.0.0");
        unknown.correct("thread/start");
        assert_eq!(unknown.choose(Protocol::Auto, Prompt::Auto), Ok((Dialect::V1, true)));
    }
}
