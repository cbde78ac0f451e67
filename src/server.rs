//! The program from its first line to its last: start in order, serve, end in order.

use std::io::Write;
use std::sync::Arc;
use std::time::Duration;

use crate::backend::supervisor::Supervisor;
use crate::config::table::BODIES_BYTES;
use crate::config::{Config, Notice};
use crate::deadline::CancelCause;
use crate::exit::Exit;
use crate::http::service::App;
use crate::http::{Limits, Listener};
use crate::{logs, shutdown};

/// How long requests that were cut off may take to say so.
const FAREWELL: Duration = Duration::from_secs(3);
/// How long the app-servers may take to end: EOF, TERM and KILL with a second each, and a little.
const CODEX_END: Duration = Duration::from_secs(4);

/// Serves until a signal comes.
pub fn run(config: Config, warnings: &[Notice]) -> Exit {
    let _log = logs::init(config.log_format, &config.log_filter);
    warnings.iter().for_each(|warning| log::warn!("{warning}"));
    match serve(Arc::new(config)) {
        Ok(()) => Exit::Done,
        Err(problem) => {
            log::error!("{problem}");
            Exit::Bind
        }
    }
}

fn serve(config: Arc<Config>) -> Result<(), String> {
    let listener = Listener::bind((config.host, config.port).into(), config.unix_socket.as_deref(), limits(&config))
        .map_err(|e| format!("cannot listen: {e}"))?;
    let signals = shutdown::install().map_err(|e| format!("signals cannot be caught: {e}"))?;
    log::info!("CODEX_HOME is {}: {}", config.codex_home.path.display(), config.codex_home.reason);
    let (supervisor, codex) = Supervisor::start(Arc::clone(&config)).map_err(|e| format!("no thread to start: {e}"))?;
    let app = App::new(Arc::clone(&config), supervisor.clone());
    let mut server = listener.start(Arc::new(app)).map_err(|e| format!("no thread to listen: {e}"))?;
    let mut stdout = std::io::stdout();
    let line = writeln!(stdout, "listening on http://{}/v1", server.local_addr());
    if line.and_then(|()| stdout.flush()).is_err() {
        log::warn!("nobody reads stdout");
    }

    let _ = signals.recv();
    log::info!("stopping: requests that run get {} ms", config.shutdown_grace.as_millis());
    supervisor.stop_accepting();
    server.drain();
    // A second signal ends the grace at once.
    crossbeam_channel::select! {
        recv(server.ended()) -> _ => {}
        recv(signals) -> _ => log::info!("stopping at once"),
        default(config.shutdown_grace) => {}
    }
    server.cancel_all(CancelCause::ShuttingDown);
    let _ = server.ended().recv_timeout(FAREWELL);
    match server.close() {
        0 => {}
        left => log::warn!("{left} connections do not react"),
    }
    codex.stop(CODEX_END);
    log::info!("stopped");
    Ok(())
}

fn limits(config: &Config) -> Limits {
    Limits {
        max_connections: config.max_connections,
        max_body_bytes: config.max_body_bytes,
        bodies_total_bytes: BODIES_BYTES,
        head: config.head_timeout,
        body: config.body_timeout,
        write: config.write_timeout,
        idle: config.keepalive_idle,
    }
}
