//! The codex side: one `codex app-server` at a time, its wire, its versions, its deaths.
