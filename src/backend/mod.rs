//! The codex side: one `codex app-server` at a time, its wire, its versions, its deaths.
//!
//! Reading order: [`wire`], [`router`], [`mailbox`], [`connection`] (one process and its lines), [`late`], [`dialect`] (what the
//! lines mean), [`home`], [`inherit`], [`sources`], [`start`], [`generation`]
//! (a process with all that belongs to it), [`shared`],
//! [`succession`] (which generation comes next), [`supervisor`] (the app-server as requests see it), [`turns`] (the turns
//! of one request).

pub mod binary;
pub mod config_text;
pub mod connection;
pub mod dialect;
pub mod generation;
pub mod home;
pub mod inherit;
pub mod late;
pub mod mailbox;
pub mod process;
pub mod redact;
pub mod router;
pub mod shared;
pub mod sources;
pub mod start;
pub mod succession;
pub mod supervisor;
pub mod turns;
pub mod wire;
