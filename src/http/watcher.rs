//! A running server: the table of open connections, the thread that looks at their sockets while nobody reads them, and
//! how all of it ends.
//!
//! A client has left when its side of the connection is closed (`RDHUP`); bytes that it sends ahead are not looked at.

use std::collections::HashMap;
use std::io;
use std::net::SocketAddr;
use std::os::fd::OwnedFd;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender, bounded};
use rustix::event::epoll::{self, CreateFlags, EventData, EventFlags};
use rustix::event::{EventfdFlags, eventfd};
use rustix::io::Errno;
use rustix::net::Shutdown;

use super::Limits;
use crate::deadline::{Cancel, CancelCause};
use crate::threads;

/// Connections above the limit that are let to read their refusal at once.
const MAX_REFUSED: usize = 64;
/// The number of no connection: [`Shared::watch`] is to end.
const STOP: u64 = 0;

/// What all threads of a server have in common.
pub(super) struct Shared {
    pub(super) limits: Limits,
    /// Bytes of all requests that are read or wait.
    pub(super) bodies: Arc<AtomicUsize>,
    /// Readable from the begin of draining on, and never read.
    pub(super) drain: OwnedFd,
    /// Readable when [`Shared::watch`] is to end.
    stop: OwnedFd,
    epoll: OwnedFd,
    state: Mutex<State>,
}

struct State {
    open: HashMap<u64, Place>,
    last: u64,
    draining: bool,
    /// Dropped with the last connection after draining has begun.
    ended: Option<Sender<()>>,
}

/// What is known of a connection.
#[derive(Clone)]
pub(super) struct Place {
    id: u64,
    pub(super) socket: Arc<OwnedFd>,
    /// Whether it is above the limit.
    pub(super) refused: bool,
    /// Tells each of its requests to stop.
    pub(super) cancel: Cancel,
}

impl State {
    fn admitted(&self) -> usize {
        self.open.values().filter(|place| !place.refused).count()
    }

    fn note_end(&mut self) {
        if self.draining && self.open.is_empty() {
            self.ended = None;
        }
    }
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a socket its place in the table. `None`: there are too many, even of those to be refused.
    pub(super) fn admit(&self, socket: &Arc<OwnedFd>) -> Option<Place> {
        let mut state = self.state();
        let admitted = state.admitted();
        let refused = admitted >= self.limits.max_connections;
        if refused && state.open.len() - admitted >= MAX_REFUSED {
            return None;
        }
        state.last += 1;
        let place = Place { id: state.last, socket: Arc::clone(socket), refused, cancel: Cancel::default() };
        state.open.insert(place.id, place.clone());
        // Once is enough: a client does not come back.
        let flags = EventFlags::RDHUP | EventFlags::ONESHOT;
        if let Err(error) = epoll::add(&self.epoll, socket, EventData::new_u64(place.id), flags) {
            log::warn!("a connection has no watch over its client: {error}");
        }
        Some(place)
    }

    /// A connection has ended.
    pub(super) fn remove(&self, place: &Place) {
        let mut state = self.state();
        state.open.remove(&place.id);
        state.note_end();
    }

    pub(super) fn is_draining(&self) -> bool {
        self.state().draining
    }

    /// The thread: tells requests that their client has left, until it is stopped.
    pub(super) fn watch(&self) {
        let mut events = Vec::with_capacity(64);
        loop {
            events.clear();
            match epoll::wait(&self.epoll, rustix::buffer::spare_capacity(&mut events), None) {
                Ok(_) | Err(Errno::INTR) => {}
                // Only a broken program comes here, and without this thread it would not see a client leave.
                Err(error) => return log::error!("cannot watch connections: {error}"),
            }
            for event in &events {
                match event.data.u64() {
                    STOP => return,
                    id => {
                        if let Some(place) = self.state().open.get(&id) {
                            place.cancel.cancel(CancelCause::ClientGone);
                        }
                    }
                }
            }
        }
    }
}

/// A running server. Dropping it closes everything.
pub struct Server {
    pub(super) shared: Arc<Shared>,
    pub(super) accepting: Option<JoinHandle<()>>,
    watching: Option<JoinHandle<()>>,
    address: SocketAddr,
    ended: Receiver<()>,
}

impl Server {
    /// A server without a connection that does not accept any yet.
    pub(super) fn new(address: SocketAddr, limits: Limits) -> io::Result<Self> {
        let (sender, ended) = bounded(0);
        let event = || eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK);
        let state = State { open: HashMap::new(), last: STOP, draining: false, ended: Some(sender) };
        let shared = Arc::new(Shared {
            limits,
            bodies: Arc::default(),
            drain: event()?,
            stop: event()?,
            epoll: epoll::create(CreateFlags::CLOEXEC)?,
            state: Mutex::new(state),
        });
        epoll::add(&shared.epoll, &shared.stop, EventData::new_u64(STOP), EventFlags::IN)?;
        let watched = Arc::clone(&shared);
        let watching = Some(threads::spawn("http-watch", move || watched.watch())?);
        Ok(Self { shared, accepting: None, watching, address, ended })
    }

    /// The address that is served, with the port that the system has chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are open now, without those that were refused.
    pub fn connections(&self) -> usize {
        self.shared.state().admitted()
    }

    /// Stops accepting and closes connections without a request. Running requests go on; their answers say
    /// `Connection: close`. A request whose head is complete only now gets a 503.
    pub fn drain(&mut self) {
        let mut state = self.shared.state();
        state.draining = true;
        state.note_end();
        drop(state);
        signal(&self.shared.drain);
        join(&mut self.accepting);
    }

    /// Disconnected once no connection is left after [`Server::drain`].
    pub fn ended(&self) -> &Receiver<()> {
        &self.ended
    }

    /// Tells running requests that watch their clients, and later ones on the connections that are open, to stop.
    pub fn cancel_all(&self, cause: CancelCause) {
        self.shared.state().open.values().for_each(|place| place.cancel.cancel(cause));
    }

    /// Ends everything: cuts off the connections that are left, waits up to a second for their threads and stops
    /// watching. Gives how many of them do not react.
    pub fn close(&mut self) -> usize {
        self.drain();
        for place in self.shared.state().open.values() {
            let _ = rustix::net::shutdown(&place.socket, Shutdown::Both);
        }
        let _ = self.ended.recv_timeout(Duration::from_secs(1));
        signal(&self.shared.stop);
        join(&mut self.watching);
        self.connections()
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

fn join(thread: &mut Option<JoinHandle<()>>) {
    if thread.take().is_some_and(|thread| thread.join().is_err()) {
        log::error!("a thread of the HTTP server has panicked");
    }
}

/// Makes `event` readable for ever.
fn signal(event: &OwnedFd) {
    // The counter never overflows.
    let _ = rustix::io::write(event, &1_u64.to_ne_bytes());
}
