//! The log on stderr: one record, one line, whatever stands in it. What clients send can neither start a line of its
//! own nor move the cursor of a terminal.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use log::Record;
use rustix::event::{PollFd, PollFlags, Timespec, poll};

use crate::config::{LogFormat, escaped};
use crate::threads;

/// Bytes of lines that may wait for whoever reads stderr; what comes then is counted and lost.
const WAITING: usize = 4 * 1024 * 1024;
/// Bytes that a pipe takes at once if it takes any (`PIPE_BUF`).
const AT_ONCE: usize = 4096;
/// How long the last lines may take.
const LAST: Duration = Duration::from_secs(1);

/// The log while the program runs. Dropping it waits, for a second at most, until the last line is written.
pub struct Log {
    queue: Option<Sender<Entry>>,
}

enum Entry {
    Line(Vec<u8>),
    /// Answered when all before it is written.
    Flush(Sender<()>),
}

/// Where lines wait: a thread that logs never waits for stderr, or a reader that stops would stop everything.
struct Queue {
    sender: Sender<Entry>,
    waiting: Arc<AtomicUsize>,
    lost: Arc<AtomicUsize>,
}

/// Sends the log to stderr from now on, in `format`, as far as `filter` (in the form of `RUST_LOG`) lets it. Only the
/// first call of a process counts.
pub fn init(format: LogFormat, filter: &str) -> Log {
    let mut builder = env_logger::Builder::new();
    builder.parse_filters(filter);
    builder.format(move |out, record| writeln!(out, "{}", line(format, SystemTime::now(), record)));
    let (sender, lines) = unbounded();
    let (waiting, lost) = (Arc::default(), Arc::default());
    let queue = Queue { sender: sender.clone(), waiting: Arc::clone(&waiting), lost: Arc::clone(&lost) };
    // Without a thread it goes to stderr at once.
    let writing = threads::spawn("log", move || write_out(&lines, &waiting, &lost)).is_ok();
    if writing {
        builder.target(env_logger::Target::Pipe(Box::new(queue)));
    }
    let _ = builder.try_init();
    Log { queue: writing.then_some(sender) }
}

impl Write for Queue {
    /// Takes one whole record, one thread at a time.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        let waiting = self.waiting.load(Ordering::Relaxed);
        let stderr = io::stderr();
        // Spares the thread a wake-up for each request.
        if waiting == 0 && line.len() <= AT_ONCE && takes_more(&stderr) {
            return stderr.lock().write(line);
        }
        if waiting > 0 && waiting + line.len() > WAITING {
            self.lost.fetch_add(1, Ordering::Relaxed);
        } else {
            self.waiting.fetch_add(line.len(), Ordering::Relaxed);
            let _ = self.sender.send(Entry::Line(line.to_vec()));
        }
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Whether a short line can be written without a wait.
fn takes_more(stderr: &io::Stderr) -> bool {
    let mut ready = [PollFd::new(stderr, PollFlags::OUT)];
    poll(&mut ready, Some(&Timespec::default())).is_ok_and(|count| count > 0)
}

/// The thread: nothing can be done about a stderr that takes no more.
fn write_out(lines: &Receiver<Entry>, waiting: &AtomicUsize, lost: &AtomicUsize) {
    let mut stderr = io::stderr();
    for entry in lines {
        match entry {
            Entry::Line(line) => {
                let _ = stderr.write_all(&line);
                waiting.fetch_sub(line.len(), Ordering::Relaxed);
                let lost = lost.swap(0, Ordering::Relaxed);
                if lost > 0 {
                    log::warn!("{lost} lines of the log were lost, as nobody read stderr");
                }
            }
            Entry::Flush(done) => drop(done),
        }
    }
}

impl Drop for Log {
    fn drop(&mut self) {
        let (done, written) = bounded::<()>(0);
        if self.queue.as_ref().is_some_and(|queue| queue.send(Entry::Flush(done)).is_ok()) {
            let _ = written.recv_timeout(LAST);
        }
    }
}

/// The line of `record`, without its end.
pub fn line(format: LogFormat, now: SystemTime, record: &Record<'_>) -> String {
    let (ts, level, target) = (timestamp(now), record.level().as_str(), record.target());
    let msg = record.args().to_string();
    match format {
        LogFormat::Text => format!("{ts} {level:5} {target}: {msg}").chars().flat_map(escaped).collect(),
        LogFormat::Json => {
            // Strings always serialise.
            let [target, msg] = [target, &msg].map(|text| serde_json::to_string(text).unwrap_or_default());
            format!(r#"{{"ts":"{ts}","level":"{level}","target":{target},"msg":{msg}}}"#)
        }
    }
}

/// RFC 3339 in UTC with milliseconds: `2026-11-21T10:49:52.123Z`. A clock before 1970 counts as 1970.
pub fn timestamp(now: SystemTime) -> String {
    let since = now.duration_since(UNIX_EPOCH).unwrap_or(Duration::ZERO);
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    // Days are counted from 1 March of year 0, so that a leap day is the last of its year: eras of 400 years have
    // 146,097 days, and months from March on have 153 days in five.
    let days = days + 719_468;
    let (era, day) = (days / 146_097, days % 146_097);
    let year_of_era = (day - day / 1_460 + day / 36_524 - day / 146_096) / 365;
    let day_of_year = day - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * from_march + 2) / 5 + 1;
    let month = if from_march < 10 { from_march + 3 } else { from_march - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    let (hour, minute, second, millis) = (second / 3_600, second / 60 % 60, second % 60, since.subsec_millis());
    format!("{year:04}-{month:02}-{day:02}T{hour:02}:{minute:02}:{second:02}.{millis:03}Z")
}
