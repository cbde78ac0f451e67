//! An OpenAI-compatible API over one persistent, logged-in `codex app-server`.

pub mod api;
pub mod backend;
pub mod deadline;
pub mod http;
pub mod threads;
pub mod turn;
