//! All knowledge of versions: what a codex can do, from the version in its `initialize` reply.

use std::fmt;

use super::tool_names::CodexTools;

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
pub const OLDEST: Version = Version(0, 142, 0);
/// The newest codex whose behaviour was measured; a later one is taken to be like it.
pub const NEWEST: Version = Version(0, 169, 0);

/// The first version with `thread/unsubscribe` that unloads a thread (`thread_unload_delay_secs`).
const UNLOADS: Version = Version(0, 156, 0);
/// The first version that needs no tool of its own left in a lean request.
const DROPS_UPDATE_PLAN: Version = Version(0, 146, 0);
/// From here on a silent model's connection is dropped by an interrupt.
const DROPS_SILENT_MODEL: Version = Version(0, 151, 0);
/// The first version with `rawResponse/completed`.
const ENDS_RESPONSES: Version = Version(0, 146, 0);

/// What one codex can do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Capabilities {
    /// The version; `None`: its reply could not be read, so it is taken for the newest known.
    pub version: Option<Version>,
    /// Whether `rawResponse/completed` marks the end of a model's response.
    pub ends_responses: bool,
}

impl Capabilities {
    /// Looks a version up.
    ///
    /// # Errors
    /// Words for a person: the version is too old.
    pub fn of(user_agent: &str) -> Result<Self, String> {
        let version = Version::from_user_agent(user_agent);
        let known = version.unwrap_or(NEWEST);
        if known < OLDEST {
            return Err(format!("codex {known} is older than {OLDEST}, the oldest that is served; update codex"));
        }
        Ok(Self { version, ends_responses: known >= ENDS_RESPONSES })
    }

    fn known(&self) -> Version {
        self.version.unwrap_or(NEWEST)
    }

    /// What codex offers the model of its own.
    pub fn codex_tools(&self, lean: bool) -> CodexTools {
        match lean {
            false => CodexTools::All,
            true if self.known() < DROPS_UPDATE_PLAN => CodexTools::UpdatePlan,
            true => CodexTools::None,
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

    /// What this version cannot do under the lean profile, and what that costs.
    pub fn degraded(&self, lean: bool) -> Vec<String> {
        let mut degraded = Vec::new();
        let version = self.known();
        if self.codex_tools(lean) == CodexTools::UpdatePlan {
            degraded.push(format!(
                "codex before {DROPS_UPDATE_PLAN} always offers the model its own update_plan tool: about 800 bytes in each request"
            ));
        }
        if version < DROPS_SILENT_MODEL {
            degraded.push(format!(
                "codex before {DROPS_SILENT_MODEL} keeps the connection of an interrupted turn open while the model is silent"
            ));
        }
        if version < UNLOADS {
            degraded.push(format!(
                "codex before {UNLOADS} does not unload threads: its memory grows and it is replaced more often"
            ));
        }
        degraded
    }
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
    fn old_versions_are_refused_and_unknown_ones_are_like_the_newest() {
        assert!(Capabilities::of("x/0.50.0 (y)").unwrap_err().contains("0.50.0"));
        let newest = Capabilities::of("x/0.169.0").unwrap();
        assert!(newest.degraded(true).is_empty() && newest.remark().is_none());
        let future = Capabilities::of("x/9.9.9").unwrap();
        assert!(future.degraded(true).is_empty() && future.remark().is_some());
        assert!(Capabilities::of("nonsense").unwrap().remark().is_some());
        let old = Capabilities::of("x/0.142.5").unwrap().degraded(true);
        assert!(old.iter().any(|line| line.contains("update_plan")), "{old:?}");
    }
}
