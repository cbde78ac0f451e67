//! One thread that looks after sockets on which nobody reads: those of running requests, whose client may leave, and
//! those that were answered and closed, whose client may still be sending.
//!
//! A client has left when its side of the connection is closed (`RDHUP`); bytes that it sends ahead are not looked at.
//! An answered connection is not closed at once: unread bytes would turn the close into a reset, and a reset takes the
//! answer out of the client's hands. What the client still sends is thrown away until it closes, at most
//! [`LINGER_BYTES`] and [`LINGER_TIME`].

use std::collections::HashMap;
use std::io;
use std::os::fd::OwnedFd;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, Timespec, eventfd};
use rustix::io::Errno;
use rustix::net::Shutdown;

use super::listener::Peer;
use crate::deadline::{Cancel, CancelCause, Canceller};

/// Bytes read from a connection after its last answer.
const LINGER_BYTES: usize = 256 * 1024;
/// How long a connection stays open after its last answer for the client to close it.
const LINGER_TIME: Duration = Duration::from_secs(2);
/// Refused connections, which count nowhere else, that may linger at once.
const MAX_REFUSED: usize = 64;
/// Token of the wake-up descriptor.
const WAKE: u64 = 0;

pub(super) struct Watcher {
    epoll: OwnedFd,
    wake: OwnedFd,
    table: Mutex<Table>,
}

#[derive(Default)]
struct Table {
    last: u64,
    running: HashMap<u64, Canceller>,
    lingering: HashMap<u64, Lingering>,
    cancelled: Option<CancelCause>,
    stopped: bool,
}

struct Lingering {
    peer: Arc<Peer>,
    until: Instant,
    left: usize,
}

/// Ends the watch over a request when it is dropped.
pub(super) struct Watch {
    watcher: Arc<Watcher>,
    peer: Arc<Peer>,
    token: u64,
}

impl Watcher {
    pub(super) fn new() -> io::Result<Self> {
        let watcher = Self {
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            wake: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            table: Mutex::default(),
        };
        epoll::add(&watcher.epoll, &watcher.wake, EventData::new_u64(WAKE), EventFlags::IN)?;
        Ok(watcher)
    }

    fn table(&self) -> MutexGuard<'_, Table> {
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// From now on the request on `peer` is told when its client leaves.
    pub(super) fn watch(self: &Arc<Self>, peer: &Arc<Peer>) -> (Watch, Cancel) {
        let (canceller, cancel) = Cancel::new();
        let mut table = self.table();
        if let Some(cause) = table.cancelled {
            canceller.cancel(cause);
        }
        table.last += 1;
        let token = table.last;
        table.running.insert(token, canceller);
        drop(table);
        // Once is enough: a client does not come back.
        let flags = EventFlags::RDHUP | EventFlags::ONESHOT;
        if let Err(error) = epoll::add(&self.epoll, &peer.socket, EventData::new_u64(token), flags) {
            log::warn!("a request runs without a watch over its client: {error}");
        }
        (Watch { watcher: Arc::clone(self), peer: Arc::clone(peer), token }, cancel)
    }

    /// Tells all running requests, and those that still come, to stop.
    pub(super) fn cancel_all(&self, cause: CancelCause) {
        let mut table = self.table();
        table.cancelled.get_or_insert(cause);
        table.running.values().for_each(|canceller| canceller.cancel(cause));
    }

    /// Says to the client that nothing more comes, and closes the connection when it has seen that.
    pub(super) fn linger(&self, peer: Arc<Peer>) {
        if rustix::net::shutdown(&peer.socket, Shutdown::Write).is_err() {
            return;
        }
        let mut table = self.table();
        let refused = table.lingering.values().filter(|one| one.peer.is_refused()).count();
        if table.stopped || (peer.is_refused() && refused >= MAX_REFUSED) {
            return;
        }
        table.last += 1;
        let token = table.last;
        if epoll::add(&self.epoll, &peer.socket, EventData::new_u64(token), EventFlags::IN).is_ok() {
            let until = Instant::now() + LINGER_TIME;
            table.lingering.insert(token, Lingering { peer, until, left: LINGER_BYTES });
            drop(table);
            self.wake();
        }
    }

    fn wake(&self) {
        // It fails only when a wake-up is already on its way.
        let _ = rustix::io::write(&self.wake, &1_u64.to_ne_bytes());
    }

    /// Makes [`Watcher::run`] return.
    pub(super) fn stop(&self) {
        self.table().stopped = true;
        self.wake();
    }

    /// The thread.
    pub(super) fn run(&self) {
        let mut events = Vec::with_capacity(64);
        let mut scratch = vec![0; 64 * 1024];
        loop {
            let mut table = self.table();
            if table.stopped {
                table.lingering.clear();
                return;
            }
            let now = Instant::now();
            table.lingering.retain(|_, one| one.until > now);
            let next = table.lingering.values().map(|one| one.until.saturating_duration_since(now)).min();
            drop(table);
            let timeout = next.and_then(|wait| Timespec::try_from(wait).ok());
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), timeout.as_ref()) {
                Ok(_) | Err(Errno::INTR) => {}
                // Only a broken program comes here, and without this thread it would not see a client leave.
                Err(error) => return log::error!("cannot watch connections: {error}"),
            }
            for event in &events {
                match event.data.u64() {
                    WAKE => {
                        let _ = rustix::io::read(&self.wake, &mut [0; 8]);
                    }
                    token => self.table().event(token, &mut scratch),
                }
            }
        }
    }
}

impl Table {
    fn event(&mut self, token: u64, scratch: &mut [u8]) {
        if let Some(canceller) = self.running.get(&token) {
            canceller.cancel(CancelCause::ClientGone);
        } else if let Some(one) = self.lingering.get_mut(&token) {
            let read = rustix::io::read(&one.peer.socket, &mut *scratch);
            one.left = match read {
                Ok(count) if count > 0 => one.left.saturating_sub(count),
                Err(Errno::AGAIN | Errno::INTR) => one.left,
                _ => 0,
            };
            if one.left == 0 {
                self.lingering.remove(&token);
            }
        }
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        // Fails where adding has failed.
        let _ = epoll::delete(&self.watcher.epoll, &self.peer.socket);
        self.watcher.table().running.remove(&self.token);
    }
}
