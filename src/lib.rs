//! An OpenAI-compatible API over one persistent, logged-in `codex app-server`.

pub mod api;
pub mod backend;
pub mod cli;
pub mod config;
pub mod deadline;
pub mod exit;
pub mod http;
pub mod keys;
pub mod logs;
pub mod permits;
pub mod server;
pub mod shutdown;
pub mod threads;
pub mod turn;
