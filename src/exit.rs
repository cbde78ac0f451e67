//! What the program tells the shell when it ends.

/// The ways to end, with the status that the shell sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: it was stopped by a signal, or printed what it was asked for. A codex that fails never ends the program.
    Done = 0,
    /// 1: an address to listen on could not be bound.
    Bind = 1,
    /// 2: a setting or an argument is wrong.
    Config = 2,
}
