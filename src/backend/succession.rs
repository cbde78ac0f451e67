//! Which generation comes next, and when. One mechanism for a codex that died, no longer answers, has grown, or was made
//! from files that have changed: the next one is brought up beside it and takes over; the old one finishes its turns and
//! goes. The thread decides and never waits for codex; starts run on a thread of their own.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, RecvTimeoutError};
use serde_json::json;

use super::generation::Generation;
use super::home::is_full;
use super::late::Late;
use super::router::{Cause, Reply};
use super::shared::{Event, Lease, Shared};
use super::sources::{Sources, Stamp};
use super::start;
use crate::deadline::jittered;
use crate::threads;

/// Time between pings while turns run, and otherwise.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(60));
/// How long a call may wait for its answer before a ping looks whether there will be one.
const DOUBT: Duration = Duration::from_secs(1);
/// How long a ping may take.
const PONG: Duration = Duration::from_secs(5);
/// Time between looks at the files.
const LOOK: Duration = Duration::from_millis(500);
/// The same between looks at processes that end, at calls that were given up and at waits of less than a second.
const SOON: Duration = Duration::from_millis(50);
/// Least time between two measurements of memory.
const MEASURE: Duration = Duration::from_millis(250);
/// How long a retired process gets after each of: EOF, TERM.
const FAREWELL: Duration = Duration::from_secs(1);
/// A process that lived this long after it was ready did not die in a row.
const STEADY: Duration = Duration::from_secs(10);
/// First and longest wait before a start after repeated failures.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));
/// When to try again with files that another codex, still in service, could not be replaced from.
const RECONSIDER: Duration = Duration::from_secs(30);
/// Bytes of databases that count as growth.
const DISK: u64 = 64 * 1024 * 1024;

/// Why a planned change is due that does not wait for another.
const CHANGED: &str = "credentials, configuration or binary changed";

#[derive(Clone, Copy, Debug, PartialEq)]
enum Leaving {
    WhenDone,
    Eof(Instant),
    Term(Instant),
    Killed,
}

/// A generation as the supervisor sees it.
#[derive(Debug)]
struct Tracked {
    generation: Arc<Generation>,
    ready_at: Instant,
    baseline: Option<u64>,
    last_ping: Instant,
    pong: Option<(Receiver<Reply>, Instant)>,
    leaving: Option<Leaving>,
}

impl Tracked {
    fn new(generation: Generation, leaving: Option<Leaving>) -> Self {
        let now = Instant::now();
        Self { generation: Arc::new(generation), ready_at: now, baseline: None, last_ping: now, pong: None, leaving }
    }

    /// After a long silence, a turn that begins is followed by a ping at once; so is, once a second, a call that waits for its answer.
    fn wants_ping(&self, now: Instant) -> bool {
        let since = now.duration_since(self.last_ping);
        let waits = self.generation.connection().router.waiting_since();
        waits.is_some_and(|waits| now.duration_since(waits) >= DOUBT) && since >= DOUBT
            || since >= if self.generation.running() > 0 { PING.0 } else { PING.1 }
    }
}

/// A start in vain.
struct Failure {
    /// The files that no codex could be started from.
    sources: Sources,
    /// What was logged of it.
    words: String,
    /// When to try again with the very same files while another codex serves.
    again: Instant,
    /// Whether the disk was full.
    full: bool,
}

/// What only the supervisor's thread touches.
pub(super) struct Task {
    shared: Arc<Shared>,
    /// Oldest first; the last one serves, unless it is leaving.
    tracked: Vec<Tracked>,
    /// Calls that were given up.
    left: Vec<(Late, Lease)>,
    starting: bool,
    number: u64,
    /// Deaths and starts in vain in a row.
    failures: u32,
    not_before: Instant,
    next_look: Instant,
    next_measure: Instant,
    /// Whether something happened that may have made it grow.
    measure: bool,
    /// What a fresh one of this binary takes in memory.
    fresh: Option<(Option<Stamp>, u64)>,
    /// Why the one in service is to be replaced.
    want: Option<&'static str>,
    failed: Option<Failure>,
    stopping: bool,
}

impl Task {
    /// Nothing runs yet; the first start is due at once.
    pub(super) fn new(shared: Arc<Shared>) -> Self {
        let now = Instant::now();
        Self {
            shared,
            tracked: Vec::new(),
            left: Vec::new(),
            starting: false,
            number: 0,
            failures: 0,
            not_before: now,
            next_look: now + LOOK,
            next_measure: now,
            measure: false,
            fresh: None,
            want: None,
            failed: None,
            stopping: false,
        }
    }

    /// Works until everything is stopped.
    pub(super) fn run(mut self, inbox: &Receiver<Event>) {
        loop {
            let now = Instant::now();
            let moved = now.duration_since(self.shared.began).as_millis();
            self.shared.moved.store(u64::try_from(moved).unwrap_or(u64::MAX), Ordering::Relaxed);
            let pace = self.tick(now);
            if self.stopping && self.tracked.is_empty() && !self.starting {
                return;
            }
            match inbox.recv_timeout(pace) {
                Ok(event) => {
                    self.take_in(event);
                    // Several at once cost one look.
                    inbox.try_iter().for_each(|event| self.take_in(event));
                }
                Err(RecvTimeoutError::Timeout) => {}
                Err(RecvTimeoutError::Disconnected) => return,
            }
        }
    }

    fn current(&self) -> Option<&Arc<Generation>> {
        self.tracked.last().filter(|tracked| tracked.leaving.is_none()).map(|tracked| &tracked.generation)
    }

    fn take_in(&mut self, event: Event) {
        match event {
            Event::Ended(number, cause) => self.ended(number, &cause),
            Event::Started(outcome) => {
                let (result, sources) = *outcome;
                let ran = self.shared.starting.clear();
                self.started(result, sources);
                if !ran {
                    // Without a place for a home, say. To look whether there is one now costs little.
                    self.not_before = self.not_before.min(Instant::now() + LOOK);
                }
            }
            Event::Suspect(number, why) => self.give_up(number, why),
            Event::Missing(number, method) => {
                let tracked = self.tracked.iter().find(|tracked| tracked.generation.number == number);
                tracked.iter().for_each(|tracked| self.shared.knowledge().lacks(&tracked.generation.sources, method));
                self.give_up(number, "it is another version than it says");
            }
            Event::Left(late, lease) => self.left.push((late, lease)),
            Event::TurnEnded => self.measure = true,
            Event::Look => self.next_look = Instant::now(),
            Event::Refused(refusal) => {
                let mut knowledge = self.shared.knowledge();
                if !knowledge.refusals.contains(&refusal) {
                    log::warn!(
                        "the model's service refuses a part of the lean profile ({refusal:?}); doing without it from now on"
                    );
                    knowledge.refusals.push(refusal);
                    self.want = Some("the service refuses a part of the lean profile");
                }
            }
            Event::Stop => {
                self.stopping = true;
                self.retire_all();
                self.shared.starting.stop();
            }
        }
    }

    /// Ends one that does not do what it is told.
    fn give_up(&mut self, number: u64, why: &str) {
        let Some(at) = self.tracked.iter().position(|tracked| tracked.generation.number == number) else { return };
        let tracked = &mut self.tracked[at];
        log::error!("app-server {number} is ended: {why}");
        let cause = Cause::new(format!("the app-server was ended: {why}"));
        tracked.generation.connection().router.close(cause.clone());
        tracked.generation.connection().group.kill();
        // The next one does not wait for its end, which somebody who holds its pipes may delay for ever.
        let before = tracked.leaving.replace(Leaving::Killed);
        let steady = tracked.ready_at.elapsed() >= STEADY;
        if before.is_none() && !self.stopping {
            self.died(steady, cause.to_string());
        }
    }

    fn ended(&mut self, number: u64, cause: &Cause) {
        // An attempt of the same start may have ended before the one that succeeded.
        let gone = |tracked: &Tracked| tracked.generation.number == number && !tracked.generation.is_alive();
        let Some(at) = self.tracked.iter().position(gone) else { return };
        let tracked = self.tracked.remove(at);
        let connection = tracked.generation.connection();
        let (ignored, broken) = connection.router.counts();
        let counts = format!("{ignored} of its lines concerned no turn, {broken} could not be read");
        match tracked.leaving {
            None | Some(Leaving::WhenDone) => {
                log::error!("{cause} (number {number}, pid {}); {counts}", connection.group.pid());
            }
            Some(_) => log::info!("app-server {number} has gone; {counts}"),
        }
        if tracked.leaving.is_none() {
            self.died(tracked.ready_at.elapsed() >= STEADY, cause.to_string());
        }
        let mut state = self.shared.state();
        if state.current.as_ref().is_some_and(|current| current.number == number) {
            state.current = None;
        }
    }

    fn died(&mut self, steady: bool, reason: String) {
        if steady {
            self.failures = 0;
        }
        self.fail(reason);
    }

    /// Counts a death or a start in vain. The first in a row is followed by a start at once.
    fn fail(&mut self, reason: String) {
        let pause = match self.failures {
            0 => Duration::ZERO,
            steps => jittered(BACKOFF.0.saturating_mul(1 << (steps - 1).min(10)).min(BACKOFF.1)),
        };
        self.failures += 1;
        self.not_before = Instant::now() + pause;
        self.shared.state().reason = reason;
    }

    fn started(&mut self, result: Result<Generation, String>, sources: Sources) {
        self.starting = false;
        match result {
            // It may have died between its last answer and now; then its end has been told already.
            Ok(generation) if !generation.is_alive() => self.fail("the app-server ended while it started".to_owned()),
            // What was read may have been half written.
            Ok(generation) if self.current().is_some() && Sources::look(&self.shared.config) != generation.sources => {
                log::info!("app-server {} is left out: its files changed while it started", generation.number);
                self.tracked.insert(0, Tracked::new(generation, Some(Leaving::WhenDone)));
            }
            Ok(generation) => {
                (self.failed, self.want) = (None, None);
                self.retire_all();
                let tracked = Tracked::new(generation, self.stopping.then_some(Leaving::WhenDone));
                let mut state = self.shared.state();
                state.models = Some(Arc::clone(&tracked.generation.models));
                state.current = Some(Arc::clone(&tracked.generation));
                Shared::wake_waiting(&mut state);
                self.tracked.push(tracked);
            }
            Err(words) => {
                // The same failure with the same files is told once.
                let same = |failed: &Failure| failed.sources == sources && failed.words == words;
                if !self.failed.as_ref().is_some_and(same) {
                    let what = match self.current() {
                        Some(_) => "the next app-server cannot take over, the old one stays",
                        None => "no app-server",
                    };
                    log::error!("{what}: {words}");
                }
                self.want = None;
                let (again, full) = (Instant::now() + RECONSIDER, is_full(&self.shared.config.codex_home.path));
                self.failed = Some(Failure { sources, words: words.clone(), again, full });
                self.fail(words);
            }
        }
    }

    /// Does what is due and returns when to come back. Level-triggered: it looks at how things are.
    fn tick(&mut self, now: Instant) -> Duration {
        self.ping(now);
        self.left.retain(|(late, lease)| !late.settle(lease, now));
        self.retire(now);
        if !self.stopping {
            self.look(now);
            self.measure(now);
            self.start_if_wanted(now);
        }
        let ends = |tracked: &Tracked| matches!(tracked.leaving, Some(Leaving::Eof(_) | Leaving::Term(_)));
        let soon = self.measure || !self.left.is_empty() || self.not_before > now || self.tracked.iter().any(ends);
        if soon { SOON } else { LOOK }
    }

    fn ping(&mut self, now: Instant) {
        let mut silent = Vec::new();
        for tracked in &mut self.tracked {
            if let Some((pong, limit)) = &tracked.pong {
                if pong.try_recv().is_ok() {
                    tracked.pong = None;
                    // Before the first answer there is nothing to compare with.
                    self.measure |= tracked.baseline.is_some();
                } else if now >= *limit {
                    tracked.pong = None;
                    silent.push(tracked.generation.number);
                }
            }
            let works = matches!(tracked.leaving, None | Some(Leaving::WhenDone));
            if tracked.pong.is_none() && works && tracked.wants_ping(now) {
                tracked.last_ping = now;
                let asked = tracked.generation.connection().ask(tracked.generation.session.dialect.ping(), json!({}));
                tracked.pong = asked.ok().map(|pong| (pong, now + PONG));
            }
        }
        for number in silent {
            self.give_up(number, "it does not answer");
        }
    }

    /// All that are there leave once their turns are done; at a stop, at once.
    fn retire_all(&mut self) {
        for tracked in &mut self.tracked {
            tracked.leaving.get_or_insert(Leaving::WhenDone);
        }
    }

    fn retire(&mut self, now: Instant) {
        for tracked in &mut self.tracked {
            let connection = tracked.generation.connection();
            tracked.leaving = match tracked.leaving {
                Some(Leaving::WhenDone) if tracked.generation.running() > 0 && !self.stopping => continue,
                Some(Leaving::WhenDone) => {
                    connection.close_stdin();
                    Some(Leaving::Eof(now + FAREWELL))
                }
                Some(Leaving::Eof(at)) if now >= at => {
                    connection.group.terminate();
                    Some(Leaving::Term(now + FAREWELL))
                }
                Some(Leaving::Term(at)) if now >= at => {
                    connection.group.kill();
                    Some(Leaving::Killed)
                }
                leaving => leaving,
            };
        }
    }

    fn look(&mut self, now: Instant) {
        if now < self.next_look {
            return;
        }
        self.next_look = now + LOOK;
        let sources = Sources::look(&self.shared.config);
        // What failed is not what is there now.
        let is_over = |failed: &Failure| {
            failed.sources != sources || failed.full && !is_full(&self.shared.config.codex_home.path)
        };
        if self.failed.as_ref().is_some_and(is_over) {
            (self.failed, self.failures, self.not_before) = (None, 0, now);
        }
        let Some(current) = self.current() else { return };
        if sources != current.sources && self.failed.as_ref().is_none_or(|failed| now >= failed.again) {
            self.want = Some(CHANGED);
        } else if !current.home.is_whole() {
            self.want = Some("its home was removed");
        }
    }

    fn measure(&mut self, now: Instant) {
        if !self.measure || now < self.next_measure {
            return;
        }
        self.measure = false;
        self.next_measure = now + MEASURE;
        let limit = self.shared.config.app_server_growth_mb.saturating_mul(1024 * 1024);
        let Some(tracked) = self.tracked.last_mut().filter(|tracked| tracked.leaving.is_none()) else { return };
        let Some(resident) = tracked.generation.connection().group.resident() else { return };
        // A later one may be measured only when it is busy already; the smallest of all that were made from the same
        // binary is what a fresh one takes.
        let binary = &tracked.generation.sources.binary_stamp;
        let smallest = self.fresh.as_ref().filter(|(of, _)| of == binary).map_or(resident, |(_, bytes)| *bytes);
        let fresh = *tracked.baseline.get_or_insert(resident.min(smallest));
        self.fresh = Some((binary.clone(), fresh));
        log::debug!("app-server {}: {} MB", tracked.generation.number, resident >> 20);
        if resident > fresh.saturating_add(limit) {
            self.want = Some("its memory has grown");
        } else if tracked.generation.home.disk() > DISK {
            self.want = Some("its log on disk has grown");
        }
    }

    fn start_if_wanted(&mut self, now: Instant) {
        if self.starting || now < self.not_before {
            return;
        }
        let there = self.tracked.iter().filter(|tracked| tracked.leaving != Some(Leaving::Killed)).count();
        match (self.current(), self.want) {
            (Some(_), None) => return,
            // One planned change at a time; only what somebody has changed does not wait for one long stream.
            (Some(_), Some(why)) if there > if why == CHANGED { 2 } else { 1 } => return,
            (Some(current), Some(why)) => log::info!("app-server {} is replaced: {why}", current.number),
            (None, _) => {}
        }
        self.number += 1;
        self.starting = true;
        self.shared.started.fetch_add(1, Ordering::Relaxed);
        let (shared, number) = (Arc::clone(&self.shared), self.number);
        let begun = threads::spawn("codex-start", move || {
            let sources = Sources::look(&shared.config);
            let events = shared.events.clone();
            let on_end = move |cause| drop(events.send(Event::Ended(number, cause)));
            let made = catch_unwind(AssertUnwindSafe(|| start::start(&shared, number, sources.clone(), on_end)));
            let result = made.unwrap_or_else(|_| Err("an error in this program; the log says where".to_owned()));
            let _ = shared.events.send(Event::Started(Box::new((result, sources))));
        });
        if let Err(e) = begun {
            self.starting = false;
            self.fail(format!("no thread to start codex: {e}"));
        }
    }
}
