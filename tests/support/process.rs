//! Processes that end with their test, and what /proc says about them.

use std::collections::HashMap;
use std::io::{BufRead, BufReader, Read};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use codex_completions::threads;
use rustix::process::{Pid, Signal, kill_process};

use super::wait::{eventually, until};

/// A running program with its stdin held open and its stderr kept. Killed, with all its descendants, when dropped.
pub struct Process {
    child: Child,
    stderr: Arc<Mutex<Vec<u8>>>,
    stdout: BufReader<std::process::ChildStdout>,
}

impl Process {
    pub fn start(command: &mut Command) -> Self {
        let mut child =
            command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap_or_else(
                |error| {
                    panic!("{command:?}: {error} (examples are built by `cargo build --examples`)");
                },
            );
        let stdout = BufReader::new(child.stdout.take().unwrap());
        let stderr = Arc::new(Mutex::new(Vec::new()));
        let (mut pipe, kept) = (child.stderr.take().unwrap(), Arc::clone(&stderr));
        threads::spawn("test-stderr", move || {
            let mut buffer = [0; 8192];
            while let Ok(count @ 1..) = pipe.read(&mut buffer) {
                kept.lock().unwrap().extend_from_slice(&buffer[..count]);
            }
        })
        .unwrap();
        Self { child, stderr, stdout }
    }

    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The next line of stdout; panics with stderr when there is none.
    #[track_caller]
    pub fn line(&mut self) -> String {
        let mut line = String::new();
        let count = self.stdout.read_line(&mut line).unwrap();
        assert!(count > 0, "no line on stdout; stderr:\n{}", self.stderr());
        line.trim_end().to_owned()
    }

    /// Everything that is left on stdout, after the end.
    pub fn rest_of_stdout(&mut self) -> String {
        let mut rest = String::new();
        self.stdout.read_to_string(&mut rest).unwrap();
        rest
    }

    pub fn stderr(&self) -> String {
        String::from_utf8_lossy(&self.stderr.lock().unwrap()).into_owned()
    }

    /// What is kept of stderr: nothing more is read while it is locked.
    pub fn stderr_reader(&self) -> Arc<Mutex<Vec<u8>>> {
        Arc::clone(&self.stderr)
    }

    pub fn signal(&self, signal: Signal) {
        send(self.pid(), signal);
    }

    /// How it ended; panics when it has not within `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> ExitStatus {
        eventually("the process ends", limit, || self.child.try_wait().unwrap())
    }

    pub fn running(&mut self) -> bool {
        self.child.try_wait().unwrap().is_none()
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        let family = descendants(self.pid());
        let _ = self.child.kill();
        let _ = self.child.wait();
        for process in family {
            process.kill();
        }
    }
}

/// Sends a signal; a process that is gone is no error.
pub fn send(pid: u32, signal: Signal) {
    if let Some(pid) = Pid::from_raw(pid.cast_signed()) {
        let _ = kill_process(pid, signal);
    }
}

/// A process as /proc shows it, safe against the number being used again.
#[derive(Clone, Debug)]
pub struct Seen {
    pub pid: u32,
    pub parent: u32,
    pub state: char,
    /// Ticks since boot.
    started: u64,
}

impl PartialEq for Seen {
    /// The same process, whatever it does now.
    fn eq(&self, other: &Self) -> bool {
        (self.pid, self.started) == (other.pid, other.started)
    }
}

impl Seen {
    pub fn read(pid: u32) -> Option<Self> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // The name is in brackets and may hold anything.
        let fields: Vec<&str> = stat.rsplit_once(") ")?.1.split(' ').collect();
        Some(Self {
            pid,
            parent: fields.get(1)?.parse().ok()?,
            state: fields.first()?.chars().next()?,
            started: fields.get(19)?.parse().ok()?,
        })
    }

    /// Whether this very process still runs; one that waits to be collected does not.
    pub fn alive(&self) -> bool {
        Self::read(self.pid).is_some_and(|now| now.started == self.started && now.state != 'Z')
    }

    pub fn kill(&self) {
        if self.alive() {
            send(self.pid, Signal::KILL);
        }
    }

    /// The arguments that it was started with.
    pub fn arguments(&self) -> Vec<String> {
        let bytes = std::fs::read(format!("/proc/{}/cmdline", self.pid)).unwrap_or_default();
        bytes.split(|byte| *byte == 0).map(|word| String::from_utf8_lossy(word).into_owned()).collect()
    }

    /// Resident memory in KB.
    pub fn rss(&self) -> u64 {
        memory(self.pid, "VmRSS:")
    }

    /// CPU time so far.
    pub fn cpu(&self) -> Duration {
        let stat = std::fs::read_to_string(format!("/proc/{}/stat", self.pid)).unwrap_or_default();
        let fields: Vec<&str> = stat.rsplit_once(") ").map_or("", |(_, rest)| rest).split(' ').collect();
        let ticks: u64 = fields.iter().skip(11).take(2).filter_map(|field| field.parse::<u64>().ok()).sum();
        Duration::from_millis(ticks * 10)
    }
}

/// A line of /proc/PID/status in KB; 0 when the process is gone.
pub fn memory(pid: u32, field: &str) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let line = status.lines().find(|line| line.starts_with(field)).unwrap_or_default();
    line.split_whitespace().nth(1).and_then(|number| number.parse().ok()).unwrap_or(0)
}

/// How many descriptors a process has open.
pub fn descriptors(pid: u32) -> usize {
    std::fs::read_dir(format!("/proc/{pid}/fd")).map_or(0, Iterator::count)
}

/// The names of a process's threads.
pub fn thread_names(pid: u32) -> Vec<String> {
    let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { return Vec::new() };
    let comm = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    tasks.flatten().filter_map(comm).map(|name| name.trim_end().to_owned()).collect()
}

/// Children, their children and so on, nearest first.
pub fn descendants(pid: u32) -> Vec<Seen> {
    let mut children: HashMap<u32, Vec<Seen>> = HashMap::new();
    for entry in std::fs::read_dir("/proc").unwrap().flatten() {
        let seen = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Seen::read);
        if let Some(seen) = seen {
            children.entry(seen.parent).or_default().push(seen);
        }
    }
    let mut found: Vec<Seen> = Vec::new();
    let mut next = vec![pid];
    while let Some(parent) = next.pop() {
        for child in children.remove(&parent).unwrap_or_default() {
            next.push(child.pid);
            found.push(child);
        }
    }
    found
}

/// Waits until none of these runs any more.
#[track_caller]
pub fn wait_until_gone(processes: &[Seen], limit: Duration) {
    until("the processes are gone", limit, || !processes.iter().any(Seen::alive));
}
