//! What the claimed version can do, as probed on 0.44.0, 0.50.0, 0.58.0, 0.66.0, 0.77.0, 0.92.0, 0.104.0, 0.107.0, 0.121.0
//! and 0.169.0; what lies between two of them counts from the later one.

/// Methods with the first minor version that has them, and the first that has not any more.
const METHODS: &[(&str, u32, u32)] = &[
    ("newConversation", 44, 107),
    ("addConversationListener", 44, 107),
    ("sendUserMessage", 44, 107),
    ("sendUserTurn", 44, 107),
    ("interruptConversation", 44, 107),
    ("removeConversationListener", 44, 107),
    ("archiveConversation", 44, 107),
    ("getUserAgent", 44, 107),
    ("getAuthStatus", 44, u32::MAX),
    ("model/list", 50, u32::MAX),
    ("account/read", 58, u32::MAX),
    ("thread/start", 58, u32::MAX),
    ("thread/resume", 58, u32::MAX),
    ("thread/archive", 58, u32::MAX),
    ("turn/start", 58, u32::MAX),
    ("turn/interrupt", 58, u32::MAX),
    ("config/read", 66, u32::MAX),
    ("thread/loaded/list", 92, u32::MAX),
    ("thread/unsubscribe", 107, u32::MAX),
    ("thread/inject_items", 121, u32::MAX),
];

/// The minor version; a major one is newer than all.
#[derive(Clone, Copy)]
pub(crate) struct Age(u32);

impl Age {
    pub(crate) fn of(version: &str) -> Self {
        let mut numbers = version.split('.').map(|number| number.parse().unwrap_or(0));
        Self(if numbers.next() == Some(0) { numbers.next().unwrap_or(0) } else { u32::MAX - 1 })
    }

    pub(crate) fn knows(self, method: &str) -> bool {
        METHODS.iter().any(|(name, since, until)| *name == method && (*since..*until).contains(&self.0))
    }

    /// How a method is refused that does not exist.
    pub(crate) fn unknown(self, method: &str) -> String {
        match self.0 {
            ..58 => "Invalid request".to_owned(),
            _ => format!("Invalid request: unknown variant `{method}`, expected one of `initialize`, `model/list`"),
        }
    }

    /// Whether turns are told in the words of v2, and whether those of v1 come beside them.
    pub(crate) fn families(self) -> (bool, bool) {
        (self.0 >= 58, self.0 < 115)
    }

    /// Whether turns of different threads have different ids.
    pub(crate) fn names_turns(self) -> bool {
        self.0 >= 92
    }

    pub(crate) fn has_ephemeral_threads(self) -> bool {
        self.0 >= 92
    }

    pub(crate) fn can_mute(self) -> bool {
        self.0 >= 104
    }

    /// Whether it tells that a thread is busy.
    pub(crate) fn tells_status(self) -> bool {
        self.0 >= 142
    }

    /// Whether a turn may begin without input.
    pub(crate) fn takes_empty_input(self) -> bool {
        self.0 >= 142
    }
}
