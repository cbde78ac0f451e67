//! Signals that ask the program to end: SIGINT, SIGTERM and SIGHUP. The first one means drain, the second at once.

use std::io;

use crossbeam_channel::{Receiver, bounded};

/// Catches the signals from now on; each becomes a message, and more than two are not needed. Works once in a process.
/// Runs on a thread of `ctrlc`, called `ctrl-c`, that ends with the process.
///
/// # Errors
/// The system refuses, or it was called before.
pub fn install() -> io::Result<Receiver<()>> {
    let (sender, signals) = bounded(2);
    let handler = move || {
        let _ = sender.try_send(());
    };
    ctrlc::set_handler(handler).map_err(io::Error::other)?;
    Ok(signals)
}
