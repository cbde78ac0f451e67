//! Sockets that accept.
//!
//! Accepting never ends because of an error, and never waits for a client: who is above the limit is answered at once.

use std::fs::{self, File, Permissions};
use std::io;
use std::iter::once;
use std::net::{SocketAddr, TcpListener};
use std::os::fd::OwnedFd;
use std::os::unix::fs::{FileTypeExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SendFlags, SocketAddrUnix, SocketFlags, SocketType, sockopt};
use rustix::process::{Resource, getrlimit};

use super::connection::{Connection, wait};
use super::respond::refusal;
use super::watcher::{Server, Shared};
use super::{Limits, Service};
use crate::api::error::ApiError;
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

impl Listener {
    /// Binds an address, and a Unix socket beside it if asked to. From then on connections wait in the backlog.
    ///
    /// # Errors
    /// An address, which is named, is in use or not ours. `unix` that nobody listens on any more is replaced; any other file is not.
    pub fn bind(address: SocketAddr, unix: Option<&Path>, mut limits: Limits) -> io::Result<Self> {
        let named = |what: String| move |error: io::Error| io::Error::new(error.kind(), format!("{what}: {error}"));
        let tcp = TcpListener::bind(address).map_err(named(address.to_string()))?;
        let address = tcp.local_addr()?;
        tcp.set_nonblocking(true)?;
        // The standard library asks for a backlog of 128.
        rustix::net::listen(&tcp, BACKLOG)?;
        let unix = unix.map(|path| UnixFile::bind(path).map_err(named(path.display().to_string()))).transpose()?;
        let files = getrlimit(Resource::Nofile).current.map_or(usize::MAX, |files| files as usize);
        let room = files.saturating_sub(OTHER_FILES).max(files / 4).max(1);
        if room < limits.max_connections {
            log::warn!("at most {room} connections: the process may open {files} files (RLIMIT_NOFILE)");
            limits.max_connections = room;
        }
        Ok(Self { tcp: tcp.into(), address, unix, limits })
    }

    /// Serves connections with `service` until [`Server::drain`].
    ///
    /// # Errors
    /// The system has no thread or descriptor to give.
    pub fn start(self, service: Arc<dyn Service>) -> io::Result<Server> {
        let mut server = Server::new(self.address, self.limits.clone())?;
        let shared = Arc::clone(&server.shared);
        server.accepting = Some(threads::spawn("http-accept", move || self.accept(&shared, &service))?);
        Ok(server)
    }

    fn accept(self, shared: &Arc<Shared>, service: &Arc<dyn Service>) {
        let sockets: Vec<&OwnedFd> = once(&self.tcp).chain(self.unix.as_ref().map(|unix| &unix.socket)).collect();
        let mut backoff = Duration::ZERO;
        while !shared.is_draining() {
            let awaited = sockets.iter().copied().chain(once(&shared.drain));
            let mut awaited: Vec<PollFd<'_>> = awaited.map(|fd| PollFd::new(fd, PollFlags::IN)).collect();
            let accept =
                |socket: &&OwnedFd| rustix::net::accept_with(socket, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK);
            let accepted = poll(&mut awaited, None).and_then(|_| {
                sockets.iter().try_for_each(|socket| match accept(socket) {
                    Err(Errno::AGAIN | Errno::INTR | Errno::CONNABORTED) => Ok(()),
                    accepted => accepted.map(|socket| serve(Arc::new(socket), shared, service)),
                })
            });
            match accepted {
                Ok(()) | Err(Errno::INTR) => backoff = Duration::ZERO,
                Err(error) => {
                    if backoff.is_zero() {
                        log::error!("cannot accept connections, will go on trying: {error}");
                    }
                    backoff = (backoff * 2).clamp(Duration::from_millis(10), MAX_BACKOFF);
                    // Sleeps unless draining begins.
                    let _ = wait(&shared.drain, PollFlags::IN, backoff, None);
                }
            }
        }
    }
}

/// Gives a connection its thread.
fn serve(socket: Arc<OwnedFd>, shared: &Arc<Shared>, service: &Arc<dyn Service>) {
    // Fails on a Unix socket, which does not need it.
    let _ = sockopt::set_tcp_nodelay(&socket, true);
    let refuse = |message: String| {
        let error = ApiError::busy("too_many_connections", message, Duration::from_secs(1));
        let _ = rustix::net::send(&socket, &refusal(&error, log::Level::Debug), SendFlags::NOSIGNAL);
    };
    let place = shared.admit(&socket);
    let refused = place.as_ref().is_none_or(|place| place.refused);
    if refused {
        refuse(format!("{} connections are open (PROXY_MAX_CONNECTIONS).", shared.limits.max_connections));
    }
    let Some(place) = place else { return };
    let connection = Connection::new(Arc::clone(shared), place);
    let service = Arc::clone(service);
    if let Err(error) = threads::spawn("http-conn", move || connection.run(&*service)) {
        log::error!("no thread for a connection: {error}");
        if !refused {
            refuse("The system has no thread for this connection.".to_owned());
        }
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
