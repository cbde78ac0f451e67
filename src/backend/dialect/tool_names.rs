//! Names of tools on their way to codex and back. Codex takes `^[a-zA-Z0-9_-]+$`, refuses `mcp` and `mcp__…`, and a tool
//! that is called like one of its own vanishes without a word or is served by codex, so such names travel under an alias.
//! Every other name reaches the model as the client wrote it.

use std::collections::{HashMap, HashSet};

use crate::turn::{Item, TurnRequest};

/// Names that vanish (0.169.0) even where codex offers no tool of its own.
const SHELLS: [&str; 2] = ["exec_command", "shell_command"];

/// Names that codex uses for tools of its own, in any version.
const RESERVED: &str = "apply_patch close_agent create_goal exec followup_task get_goal image_generation interrupt_agent \
    list_agents list_mcp_resource_templates list_mcp_resources local_shell multi_agent_v1 multi_tool_use \
    read_mcp_resource request_user_input resume_agent send_input send_message shell spawn_agent tool_search unified_exec \
    update_goal update_plan view_image wait wait_agent web_search write_stdin";

/// Which tools codex offers to the model beside the client's.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum CodexTools {
    /// None (lean, from 0.146 on).
    #[default]
    None,
    /// `update_plan`, which nothing removes (lean, from 0.142 on and before 0.146).
    UpdatePlan,
    /// Some, which nothing removes (lean, before 0.142).
    Some,
    /// All that the version has.
    All,
}

impl CodexTools {
    /// Whether a call by this name is one of codex's own.
    fn has(self, name: &str) -> bool {
        match self {
            Self::None => false,
            Self::UpdatePlan => name == "update_plan",
            Self::Some | Self::All => {
                RESERVED.split(' ').any(|own| own == name) || SHELLS.contains(&name) || name.starts_with("mcp__")
            }
        }
    }

    /// Whether codex takes a tool of this name and passes it on.
    fn leaves(self, name: &str) -> bool {
        let is_sound = !name.is_empty() && name.chars().all(allowed);
        is_sound && name != "mcp" && !name.starts_with("mcp__") && !SHELLS.contains(&name) && !self.has(name)
    }
}

/// The aliases of one request.
#[derive(Clone, Debug, Default)]
pub struct ToolNames {
    /// Codex's name by the client's.
    aliases: HashMap<String, String>,
    codex: CodexTools,
}

impl ToolNames {
    /// Finds an alias of at most 64 characters for each name of the request that needs one, in time that grows with their
    /// number and no faster: a history may hold any names, chosen to collide.
    pub fn of(request: &TurnRequest, codex: CodexTools) -> Self {
        let in_history = request.history.iter().filter_map(|item| match item {
            Item::ToolCall(call) => Some(&call.name),
            _ => None,
        });
        let names: Vec<&String> = request.tools.iter().map(|tool| &tool.name).chain(in_history).collect();
        let mut taken: HashSet<String> = names.iter().copied().cloned().collect();
        let mut aliases = HashMap::new();
        // Never goes back, so that no name is tried twice.
        let mut number = 0;
        for name in names {
            if codex.leaves(name) || aliases.contains_key(name) {
                continue;
            }
            let safe = |most| name.chars().take(most).map(|c| if allowed(c) { c } else { '_' }).collect::<String>();
            let mut alias = format!("client_{}", safe(56));
            while !taken.insert(alias.clone()) {
                number += 1;
                alias = format!("client_{}_{number}", safe(48));
            }
            aliases.insert(name.clone(), alias);
        }
        Self { aliases, codex }
    }

    /// The name that codex gets.
    pub fn outward<'a>(&'a self, name: &'a str) -> &'a str {
        self.aliases.get(name).map_or(name, String::as_str)
    }

    /// Whether a call by this name is codex's own to serve. The client's tools never travel under such a name.
    pub fn is_codex_own(&self, name: &str) -> bool {
        self.codex.has(name)
    }

    /// Whether codex works as it comes, with all that it does of its own accord.
    pub fn codex_as_it_comes(&self) -> bool {
        self.codex == CodexTools::All
    }

    /// The name that the client knows.
    pub fn inward<'a>(&'a self, name: &'a str) -> &'a str {
        self.aliases.iter().find(|(_, alias)| *alias == name).map_or(name, |(own, _)| own)
    }
}

fn allowed(c: char) -> bool {
    c.is_ascii_alphanumeric() || c == '_' || c == '-'
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, Instant};

    use super::*;
    use crate::turn::{Tool, ToolCall};

    #[test]
    fn reserved_names_travel_under_an_alias_that_collides_with_nothing() {
        let tool = |name: &str| Tool { name: name.into(), description: String::new(), parameters: "{}".into() };
        let names =
            ["get_weather", "exec_command", "client_exec_command", "mcp", "mcp__x", "a.b", "a b", "update_plan"];
        let request = TurnRequest { tools: names.iter().map(|name| tool(name)).collect(), ..TurnRequest::default() };
        let map = ToolNames::of(&request, CodexTools::UpdatePlan);
        assert_eq!(map.outward("get_weather"), "get_weather");
        assert_eq!(map.outward("exec_command"), "client_exec_command_1");
        let outward: std::collections::BTreeSet<&str> = names.iter().map(|name| map.outward(name)).collect();
        assert_eq!(outward.len(), names.len());
        for name in names {
            assert!(CodexTools::UpdatePlan.leaves(map.outward(name)));
            assert_eq!(map.inward(map.outward(name)), name);
        }
        assert_eq!(map.inward("never_offered"), "never_offered");
        assert!(map.is_codex_own("update_plan") && !map.is_codex_own("exec_command"));
        let free = ToolNames::of(&request, CodexTools::None);
        assert_eq!((free.outward("update_plan"), free.outward("web_search")), ("update_plan", "web_search"));
    }

    #[test]
    fn hostile_names_of_a_history_cost_time_by_their_number_only() {
        // Without room for a number, taken by other aliases, and taken by names that look like aliases.
        let stem = "x".repeat(56);
        let name = |n: usize| match n % 3 {
            0 => format!("{stem}.{n}"),
            1 => format!("{}.{n}", &stem[..n % 7]),
            _ => format!("client_{}_{n}", &stem[..48]),
        };
        let call = |n| Item::ToolCall(ToolCall { id: String::new(), name: name(n), arguments: String::new() });
        let request = TurnRequest { history: (0..20_000).map(call).collect(), ..TurnRequest::default() };
        let begun = Instant::now();
        let map = ToolNames::of(&request, CodexTools::None);
        let outward: HashSet<String> = (0..20_000).map(|n| map.outward(&name(n)).to_owned()).collect();
        // In cubic time it were hours.
        assert!(begun.elapsed() < Duration::from_secs(10), "{:?}", begun.elapsed());
        assert_eq!(outward.len(), 20_000);
        assert!(outward.iter().all(|name| name.len() <= 64 && CodexTools::None.leaves(name)));
    }
}
