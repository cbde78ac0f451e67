//! Sockets that accept, the table of what they have accepted, and how all of it ends.
//!
//! Accepting never ends because of an error, and never waits for a client: who is above the limit is answered and
//! handed to the watcher in the same moment.

use std::collections::HashMap;
use std::fs::{self, File, Permissions};
use std::io;
use std::net::{SocketAddr, TcpListener, ToSocketAddrs};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError, Weak};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rustix::event::{EventfdFlags, PollFd, PollFlags, Timespec, eventfd, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, Shutdown, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, getrlimit};

use super::connection::{Connection, Wake, wait};
use super::watcher::Watcher;
use super::{Limits, Response, Service, fresh_id};
use crate::api::error::ApiError;
use crate::deadline::CancelCause;
use crate::threads;

/// Connections that the system keeps for us until they are accepted.
const BACKLOG: i32 = 1024;
/// Descriptors left to codex, files, listeners and refused connections.
const OTHER_FILES: usize = 160;
/// How long accepting pauses after an error, at most.
const MAX_BACKOFF: Duration = Duration::from_secs(1);

/// Sockets that are bound but serve nobody yet.
pub struct Listener {
    tcp: OwnedFd,
    address: SocketAddr,
    unix: Option<UnixFile>,
    limits: Limits,
}

/// A running server. Dropping it closes everything.
pub struct Server {
    shared: Arc<Shared>,
    address: SocketAddr,
    accepting: Mutex<Option<JoinHandle<()>>>,
    watching: Mutex<Option<JoinHandle<()>>>,
}

/// What all threads of a server have in common.
pub(super) struct Shared {
    pub(super) limits: Limits,
    pub(super) watcher: Arc<Watcher>,
    /// Bytes of all bodies that exist.
    pub(super) bodies: Arc<AtomicUsize>,
    /// Readable from the begin of draining on, and never read.
    pub(super) drain: OwnedFd,
    table: Arc<Table>,
}

/// The open connections.
#[derive(Default)]
struct Table {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    open: HashMap<u64, Weak<Peer>>,
    last: u64,
    draining: bool,
}

/// An accepted connection. It counts as open until its last holder, a connection thread or the watcher, drops it.
pub(super) struct Peer {
    pub(super) socket: OwnedFd,
    /// `None`: it was refused and counts nowhere.
    place: Option<(u64, Arc<Table>)>,
}

impl Peer {
    pub(super) fn is_refused(&self) -> bool {
        self.place.is_none()
    }
}

impl Drop for Peer {
    fn drop(&mut self) {
        if let Some((id, table)) = &self.place {
            table.state().open.remove(id);
            table.changed.notify_all();
        }
    }
}

impl Table {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Waits until no connection is open; gives how many are left at `deadline`.
    fn wait_empty(&self, deadline: Instant) -> usize {
        let mut state = self.state();
        loop {
            let left = deadline.saturating_duration_since(Instant::now());
            if state.open.is_empty() || left.is_zero() {
                return state.open.len();
            }
            state = self.changed.wait_timeout(state, left).unwrap_or_else(PoisonError::into_inner).0;
        }
    }
}

impl Shared {
    pub(super) fn is_draining(&self) -> bool {
        self.table.state().draining
    }

    /// Makes a connection an open one, or a refused one when there are enough.
    fn admit(&self, socket: OwnedFd) -> Arc<Peer> {
        let mut state = self.table.state();
        if state.open.len() >= self.limits.max_connections {
            return Arc::new(Peer { socket, place: None });
        }
        state.last += 1;
        let id = state.last;
        let peer = Arc::new(Peer { socket, place: Some((id, Arc::clone(&self.table))) });
        state.open.insert(id, Arc::downgrade(&peer));
        peer
    }

    /// Says no, at once.
    fn refuse(&self, peer: Arc<Peer>, message: String) {
        let error = ApiError::busy("too_many_connections", message, Duration::from_secs(1));
        let id = fresh_id();
        log::debug!("request={id} status={} refused: {}", error.status, error.message);
        if let Ok(answer) = Response::error(&error).render(&id, Some("close"), false)
            && rustix::net::send(&peer.socket, &answer, SendFlags::NOSIGNAL).is_ok()
        {
            self.watcher.linger(peer);
        }
    }
}

impl Listener {
    /// Binds an address, and a Unix socket beside it if asked to. From then on connections wait in the backlog.
    ///
    /// # Errors
    /// An address is in use or not ours. `unix` that nobody listens on any more is replaced; any other file is not.
    pub fn bind(address: impl ToSocketAddrs, unix: Option<&Path>, mut limits: Limits) -> io::Result<Self> {
        let tcp = TcpListener::bind(address)?;
        let address = tcp.local_addr()?;
        tcp.set_nonblocking(true)?;
        // The standard library asks for a backlog of 128.
        rustix::net::listen(&tcp, BACKLOG)?;
        let unix = unix.map(UnixFile::bind).transpose()?;
        let files = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| files as usize);
        let room = files.saturating_sub(OTHER_FILES).max(files / 4).max(1);
        if room < limits.max_connections {
            log::warn!("at most {room} connections: the process may open {files} files (RLIMIT_NOFILE)");
            limits.max_connections = room;
        }
        Ok(Self { tcp: tcp.into(), address, unix, limits })
    }

    /// The address, with the port that the system has chosen.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Serves connections with `service` until [`Server::drain`].
    ///
    /// # Errors
    /// The system has no thread or descriptor to give.
    pub fn start(self, service: Arc<dyn Service>) -> io::Result<Server> {
        let watcher = Arc::new(Watcher::new()?);
        let shared = Arc::new(Shared {
            limits: self.limits.clone(),
            watcher: Arc::clone(&watcher),
            bodies: Arc::default(),
            drain: eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?,
            table: Arc::default(),
        });
        // Complete from the first thread on, so that an error below ends what runs.
        let server = Server {
            shared: Arc::clone(&shared),
            address: self.address,
            accepting: Mutex::default(),
            watching: Mutex::default(),
        };
        *lock(&server.watching) = Some(threads::spawn("http-watch", move || watcher.run())?);
        *lock(&server.accepting) = Some(threads::spawn("http-accept", move || self.accept(&shared, &service))?);
        Ok(server)
    }

    fn accept(self, shared: &Arc<Shared>, service: &Arc<dyn Service>) {
        let mut backoff = Duration::ZERO;
        let sockets: Vec<&OwnedFd> =
            [Some(&self.tcp), self.unix.as_ref().map(|unix| &unix.socket)].into_iter().flatten().collect();
        loop {
            let mut fds: Vec<PollFd<'_>> = sockets.iter().map(|fd| PollFd::new(*fd, PollFlags::IN)).collect();
            fds.push(PollFd::new(&shared.drain, PollFlags::IN));
            let mut result = poll(&mut fds, None::<&Timespec>).map(drop);
            let ready: Vec<bool> = fds.iter().map(|fd| !fd.revents().is_empty()).collect();
            if shared.is_draining() {
                return;
            }
            for (socket, _) in sockets.iter().zip(ready).filter(|(_, ready)| *ready) {
                match rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
                    Ok(accepted) => serve(accepted, shared, service),
                    Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => {}
                    Err(error) => result = Err(error),
                }
            }
            match result {
                Ok(()) | Err(Errno::INTR) => backoff = Duration::ZERO,
                Err(error) => {
                    if backoff.is_zero() {
                        log::error!("cannot accept connections, will go on trying: {error}");
                    }
                    backoff = (backoff * 2).clamp(Duration::from_millis(10), MAX_BACKOFF);
                    // Sleeps unless draining begins.
                    let _: io::Result<Wake> = wait(&shared.drain, PollFlags::IN, backoff, None);
                }
            }
        }
    }
}

/// Gives a connection its thread.
fn serve(socket: OwnedFd, shared: &Arc<Shared>, service: &Arc<dyn Service>) {
    // Fails on a Unix socket, which does not need it.
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    let peer = shared.admit(socket);
    if peer.is_refused() {
        let limit = shared.limits.max_connections;
        return shared.refuse(peer, format!("{limit} connections are open (PROXY_MAX_CONNECTIONS)."));
    }
    let connection = Connection::new(Arc::clone(&peer), Arc::clone(shared));
    let service = Arc::clone(service);
    if let Err(error) = threads::spawn("http-conn", move || connection.run(&*service)) {
        log::error!("no thread for a connection: {error}");
        shared.refuse(peer, "The system has no thread for this connection.".to_owned());
    }
}

impl Server {
    /// The address that is served.
    pub fn local_addr(&self) -> SocketAddr {
        self.address
    }

    /// Connections that are open now.
    pub fn connections(&self) -> usize {
        self.shared.table.state().open.len()
    }

    /// Stops accepting and closes connections without a request. Running requests go on; their answers say
    /// `Connection: close`. A request whose head is complete only now gets a 503.
    pub fn drain(&self) {
        self.shared.table.state().draining = true;
        // The counter never overflows.
        let _ = rustix::io::write(&self.shared.drain, &1_u64.to_ne_bytes());
        join(&self.accepting);
    }

    /// Tells running requests that watch their clients, and all that come later, to stop.
    pub fn cancel_all(&self, cause: CancelCause) {
        self.shared.watcher.cancel_all(cause);
    }

    /// After [`Server::drain`]: waits for connections to end; gives how many are still open at `deadline`.
    pub fn join(&self, deadline: Instant) -> usize {
        self.shared.table.wait_empty(deadline)
    }

    /// Ends everything: cuts off the connections that are left, waits up to a second for their threads and stops
    /// watching. Gives how many of them do not react.
    pub fn close(&self) -> usize {
        self.drain();
        // Peers must not be dropped under the lock: that takes it again.
        let open: Vec<Arc<Peer>> = self.shared.table.state().open.values().filter_map(Weak::upgrade).collect();
        for peer in open {
            let _ = rustix::net::shutdown(&peer.socket, Shutdown::Both);
        }
        let left = self.join(Instant::now() + Duration::from_secs(1));
        self.shared.watcher.stop();
        join(&self.watching);
        left
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.close();
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn join(thread: &Mutex<Option<JoinHandle<()>>>) {
    if let Some(thread) = lock(thread).take()
        && thread.join().is_err()
    {
        log::error!("a thread of the HTTP server has panicked");
    }
}

/// A Unix socket that listens, and the file that leads to it; removed when it is dropped.
struct UnixFile {
    socket: OwnedFd,
    path: PathBuf,
    inode: (u64, u64),
}

impl UnixFile {
    fn bind(path: &Path) -> io::Result<Self> {
        let address = SocketAddrUnix::new(path)?;
        let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
        let new = || rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None);
        // The mode of the socket becomes that of the file, so there is no moment in which others may connect.
        let socket = File::from(new()?);
        socket.set_permissions(Permissions::from_mode(0o600))?;
        let socket = OwnedFd::from(socket);
        if let Err(error) = rustix::net::bind(&socket, &address) {
            let dead = error == Errno::ADDRINUSE
                && fs::symlink_metadata(path)?.file_type().is_socket()
                && rustix::net::connect(new()?, &address) == Err(Errno::CONNREFUSED);
            if !dead {
                return Err(error.into());
            }
            fs::remove_file(path)?;
            rustix::net::bind(&socket, &address)?;
        }
        rustix::net::listen(&socket, BACKLOG)?;
        let metadata = fs::symlink_metadata(path)?;
        Ok(Self { socket, path: path.to_owned(), inode: (metadata.dev(), metadata.ino()) })
    }
}

impl Drop for UnixFile {
    fn drop(&mut self) {
        let ours = |metadata: fs::Metadata| (metadata.dev(), metadata.ino()) == self.inode;
        if fs::symlink_metadata(&self.path).is_ok_and(ours) {
            let _ = fs::remove_file(&self.path);
        }
    }
}
