//! An OpenAI-compatible API over one persistent, logged-in `codex app-server`.
//!
//! # What happens to a request
//! ```text
//! accept ─ connection thread: head, route, key, body ─ api: JSON -> ApiRequest ─ Permit ─ Supervisor: the current
//!   generation ─ dialect: thread, history, turn ─ codex-stdin thread ─ pipe ─ codex
//! codex ─ pipe ─ codex-stdout thread: router ─ mailbox of the request ─ connection thread: dialect -> TurnEvent ─
//!   encoder -> frames ─ one write for each wake-up ─ socket
//! ```
//! The thread of a connection serves its request from head to last byte. Streams and whole answers are folds of the same
//! events in the same loop (`http::serve_turn`).
//!
//! # Layers
//! [`turn`] is the one vocabulary between [`api`] (OpenAI's words, pure) and [`backend`] (codex's words, one process).
//! `http` uses all three, and nothing uses `http`; `tests/repository.rs` enforces it.
//!
//! # Reading order
//! [`turn`], [`deadline`], [`backend`] (its own order is there), [`api`], [`permits`], [`http`], [`server`], [`config`].
//!
//! # Threads
//! All but the last are started by [`threads::spawn`].
//!
//! | name | how many | what it does | ends |
//! |---|---|---|---|
//! | `main` | 1 | starts everything, waits for a signal, ends everything in the order of [`server`] | last |
//! | `http-accept` | 1 | accepts connections | when draining begins |
//! | `http-conn` | one for each connection, at most `PROXY_MAX_CONNECTIONS`, and 64 for refused ones | serves it, lets it linger | with the connection |
//! | `http-watch` | 1 | sees clients leave | with the server |
//! | `supervisor` | 1 | decides which codex serves; never waits for codex | when the last codex is gone |
//! | `codex-start` | 1 at most | brings up the next codex | when it is ready or has failed |
//! | `codex-stdin`, `codex-stdout`, `codex-stderr` | one each for each codex process | write, read and route, drain | with the process |
//! | `codex-once` | 1 for each such process | reads what `codex --version` and `codex debug models` print | when nobody holds its stdout any more |
//! | `log` | 1 | writes what was logged to stderr, so that nobody else waits for it | with the program |
//! | `ctrl-c` | 1 | turns signals into messages (a thread of `ctrlc`) | with the program |
//!
//! # What must hold
//! - The reader of codex's stdout blocks on nothing but `read`: it never waits for a client, never writes to stdin.
//! - A waiter is registered before its request is written; once a connection has ended nobody can register.
//! - Each turn has exactly one end, which comes last. No delta is dropped; a client that does not read is cut off.
//! - Whatever ends a request, its turn is stopped at codex before its permit is given to another; one whose start codex
//!   has not answered yet, as soon as it does.
//! - Every wait has a deadline, whose name stands in its error; every wait of a request also ends when its client leaves.
//! - The model gets the client's words, the tools that the client offers and the fixed lines of [`api::prompt`].
//! - Codex never outlives the program: its stdin closes with it.

pub mod api;
pub mod backend;
pub mod cli;
pub mod config;
pub mod deadline;
pub mod exit;
pub mod http;
pub mod keys;
pub mod logs;
pub mod metrics;
pub mod permits;
pub mod server;
pub mod shutdown;
pub mod threads;
pub mod turn;
