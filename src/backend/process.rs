//! One codex process: started in a process group of its own, its stderr drained into the log, measured and ended as a
//! group. It never outlives its pipes: codex exits within 50 ms of EOF on stdin (0.44 – 0.169).

use std::collections::VecDeque;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use crossbeam_channel::{Receiver, RecvTimeoutError, bounded};
use rustix::process::{Pid, Signal, kill_process_group};

use super::binary::Binary;
use super::redact::redacted;
use crate::threads;

/// How much of a line on stderr is kept, in bytes.
const STDERR_LINE: u64 = 4096;
/// How many of the last stderr lines are kept to explain an early end.
const STDERR_TAIL: usize = 30;

/// Longest wait for the end of a process's stderr, which comes with its own.
const LAST_WORDS: Duration = Duration::from_millis(500);
/// Variables that are the proxy's, or that would move codex's databases out of its home.
const OWN_VARIABLES: [&str; 7] =
    ["PORT", "RUST_LOG", "CODEX_BIN", "CODEX_HOME", "CODEX_MODEL", "CODEX_FORCE_PROVIDER", "CODEX_SQLITE_HOME"];

/// What a codex process is started with.
#[derive(Debug)]
pub struct Launch<'a> {
    /// The program.
    pub binary: &'a Binary,
    /// Its arguments; no secret is among them, as they can be seen by everybody on the host.
    pub args: &'a [String],
    /// Its `CODEX_HOME`.
    pub home: &'a Path,
    /// Whether that is its `HOME` too, so that it does not look into the person's.
    pub bare: bool,
    /// Its empty working directory.
    pub cwd: PathBuf,
    /// How its lines are tagged in the log.
    pub tag: String,
}

/// The group of a running process, and the last words on its stderr.
#[derive(Clone, Debug)]
pub struct Group {
    pid: Pid,
    launcher: bool,
    last_words: Arc<Mutex<VecDeque<String>>>,
    // Disconnected once stderr has been read to its end.
    stderr_open: Receiver<()>,
}

/// The process that is being started, so that a shutdown finds it.
#[derive(Debug, Default)]
pub struct Starting(Mutex<(bool, Option<Group>)>);

impl Starting {
    fn slot(&self) -> MutexGuard<'_, (bool, Option<Group>)> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Remembers a process; ends it if everything is being stopped.
    fn set(&self, group: &Group) {
        let mut slot = self.slot();
        if slot.0 {
            group.kill();
        }
        slot.1 = Some(group.clone());
    }

    /// The start is over. Whether there was a process.
    pub fn clear(&self) -> bool {
        self.slot().1.take().is_some()
    }

    /// Ends what is being started, now and from now on.
    pub fn stop(&self) {
        let mut slot = self.slot();
        slot.0 = true;
        if let Some(group) = slot.1.take() {
            group.kill();
        }
    }
}

/// The leader of a group. Dropped without having been waited for, it is ended with its group and leaves no zombie.
#[derive(Debug)]
pub struct Leader {
    child: Child,
    waited: bool,
}

impl Leader {
    /// Waits for its end.
    ///
    /// # Errors
    /// The system knows no such process.
    pub fn wait(mut self) -> io::Result<ExitStatus> {
        self.waited = true;
        self.child.wait()
    }
}

impl Drop for Leader {
    fn drop(&mut self) {
        if !self.waited {
            let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
            let _ = self.child.wait();
        }
    }
}

/// A process that has just been started.
#[derive(Debug)]
pub struct Started {
    /// To be waited for by whoever reads its stdout to the end.
    pub leader: Leader,
    /// Requests go in here.
    pub stdin: ChildStdin,
    /// Responses and notifications come out here.
    pub stdout: ChildStdout,
    /// For measuring and ending it.
    pub group: Group,
}

fn command(launch: &Launch<'_>) -> Command {
    let mut command = Command::new(&launch.binary.path);
    command.args(launch.args).current_dir(&launch.cwd).process_group(0);
    for (name, _) in std::env::vars_os() {
        // The proxy's own settings and secrets are none of codex's business; its RUST_LOG would put prompts on stderr.
        let text = name.to_string_lossy();
        if text.starts_with("PROXY_") || OWN_VARIABLES.contains(&&*text) {
            command.env_remove(&name);
        }
    }
    if launch.bare {
        command.env("HOME", launch.home);
    }
    command.env("CODEX_HOME", launch.home).env("NO_COLOR", "1");
    command
}

/// Starts codex with pipes on all three streams and a thread that drains stderr. From then on a shutdown finds it in
/// `starting`.
///
/// # Errors
/// The program cannot be started.
pub fn start(launch: &Launch<'_>, starting: &Starting) -> io::Result<Started> {
    let mut child = command(launch).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let (open, stderr_open) = bounded::<()>(0);
    let last_words = Arc::default();
    let group = Group { pid: Pid::from_child(&child), launcher: launch.binary.launcher, last_words, stderr_open };
    let pipes = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    let leader = Leader { child, waited: false };
    let (Some(stdin), Some(stdout), Some(stderr)) = pipes else {
        return Err(io::Error::other("the pipes of codex are missing"));
    };
    let (tag, words) = (launch.tag.clone(), Arc::clone(&group.last_words));
    threads::spawn("codex-stderr", move || {
        drain_stderr(stderr, &tag, &words);
        drop(open);
    })?;
    starting.set(&group);
    Ok(Started { leader, stdin, stdout, group })
}

fn drain_stderr(stderr: impl Read, tag: &str, words: &Mutex<VecDeque<String>>) {
    let mut reader = BufReader::new(stderr);
    let mut line = Vec::new();
    loop {
        let whole = line.is_empty() || line.ends_with(b"\n");
        line.clear();
        match reader.by_ref().take(STDERR_LINE).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {}
        }
        let text = redacted(String::from_utf8_lossy(&line).trim_end());
        if text.is_empty() || !whole {
            continue;
        }
        log::debug!(target: "codex", "[{tag}] {text}");
        let mut words = words.lock().unwrap_or_else(PoisonError::into_inner);
        if words.len() == STDERR_TAIL {
            words.pop_front();
        }
        words.push_back(text);
    }
}

impl Group {
    /// Process id of the leader.
    pub fn pid(&self) -> i32 {
        self.pid.as_raw_nonzero().get()
    }

    /// Asks the group to end.
    pub fn terminate(&self) {
        let _ = kill_process_group(self.pid, Signal::TERM);
    }

    /// Ends the group of a process that does not end within half a second although its stdin is closed; returns the last
    /// lines on stderr, oldest first.
    pub fn end(&self) -> Vec<String> {
        if self.stderr_open.recv_timeout(LAST_WORDS) == Err(RecvTimeoutError::Timeout) {
            self.kill();
        }
        self.last_words.lock().unwrap_or_else(PoisonError::into_inner).iter().cloned().collect()
    }

    /// Ends the group. To be called only before its leader has been waited for.
    pub fn kill(&self) {
        let _ = kill_process_group(self.pid, Signal::KILL);
    }

    /// Resident memory in bytes; of the whole group where a script leads it. `None`: it is gone.
    pub fn resident(&self) -> Option<u64> {
        if !self.launcher {
            return resident_of(self.pid());
        }
        let pgrp = self.pid().to_string();
        let members = fs::read_dir("/proc").ok()?.flatten().filter_map(|entry| {
            let pid: i32 = entry.file_name().to_str()?.parse().ok()?;
            let stat = fs::read_to_string(entry.path().join("stat")).ok()?;
            // After the name in brackets: state, parent, group.
            let group = stat.rsplit_once(')')?.1.split_ascii_whitespace().nth(2)?;
            (group == pgrp).then(|| resident_of(pid)).flatten()
        });
        Some(members.sum()).filter(|bytes| *bytes > 0)
    }
}

fn resident_of(pid: i32) -> Option<u64> {
    let statm = fs::read_to_string(format!("/proc/{pid}/statm")).ok()?;
    let pages: u64 = statm.split_ascii_whitespace().nth(1)?.parse().ok()?;
    Some(pages * rustix::param::page_size() as u64)
}

/// Runs codex once with stdin closed and returns its stdout.
///
/// # Errors
/// Words for a person: it cannot be started, is not done within `limit`, fails, or prints more than `max` bytes.
pub fn run_once(launch: &Launch<'_>, starting: &Starting, limit: Duration, max: u64) -> Result<Vec<u8>, String> {
    let started = start(launch, starting).map_err(|e| format!("cannot be started: {e}"))?;
    let Started { leader, stdin, stdout, group } = started;
    drop(stdin);
    let (sender, output) = bounded(1);
    // Never joined: a program that codex left behind may keep its stdout open for ever.
    let reader = threads::spawn("codex-once", move || {
        let mut bytes = Vec::new();
        let read = stdout.take(max + 1).read_to_end(&mut bytes).map(|_| bytes);
        let _ = sender.send((read, leader.wait()));
    });
    reader.map_err(|e| format!("cannot be read: {e}"))?;
    let output = output.recv_timeout(limit);
    if output.is_err() {
        group.kill();
    }
    let (output, status) = output.map_err(|_| format!("was not done after {} ms", limit.as_millis()))?;
    let output = output.map_err(|e| format!("gave nothing that can be read: {e}"))?;
    match status {
        Ok(_) if output.len() as u64 > max => Err(format!("printed more than {max} bytes")),
        Ok(status) if status.success() => Ok(output),
        Ok(status) => Err(format!("failed ({status})")),
        Err(e) => Err(format!("cannot be waited for: {e}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_nobody_takes_over_is_ended_and_leaves_no_zombie() {
        let child = Command::new("sleep").arg("1000").process_group(0).spawn().unwrap();
        let proc = format!("/proc/{}", child.id());
        assert!(Path::new(&proc).exists());
        drop(Leader { child, waited: false });
        assert!(!Path::new(&proc).exists());
    }
}
