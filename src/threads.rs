//! The one place that starts threads: each has a name and a stack of a known size.

use std::io;
use std::thread::{Builder, JoinHandle};

/// Bytes of stack of a thread that parses JSON of others (126 nested arrays overflow less than this).
pub const JSON_STACK: usize = if cfg!(debug_assertions) { 512 * 1024 } else { 256 * 1024 };

/// Starts a thread called `name` (15 bytes are visible in `ps`) with [`JSON_STACK`] bytes of stack.
///
/// # Errors
/// The system has no thread to give.
pub fn spawn<T: Send + 'static>(name: &str, body: impl FnOnce() -> T + Send + 'static) -> io::Result<JoinHandle<T>> {
    Builder::new().name(name.to_owned()).stack_size(JSON_STACK).spawn(body)
}
