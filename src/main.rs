//! The program; everything it does is in the library.

use std::process::ExitCode;

use codex_completions::{cli, server};

fn main() -> ExitCode {
    let args: Vec<_> = std::env::args_os().skip(1).collect();
    let env = std::env::vars_os().collect();
    let exit = match cli::run(&args, &env, &mut std::io::stdout(), &mut std::io::stderr()) {
        Ok((config, warnings)) => server::run(config, &warnings),
        Err(exit) => exit,
    };
    ExitCode::from(exit as u8)
}
