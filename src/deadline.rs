//! How long a thread may wait, under which name, and what can wake it before that.

use std::hash::{BuildHasher, RandomState};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use crossbeam_channel::{Receiver, Sender, bounded};

use crate::turn::{TurnError, TurnErrorKind};

/// A point in time with the name of the setting that put it there, so that an error can say which limit fired.
#[derive(Clone, Copy, Debug)]
pub struct Deadline {
    /// The setting.
    pub name: &'static str,
    /// The length of the wait.
    pub limit: Duration,
    /// When it is over.
    pub at: Instant,
}

impl Deadline {
    /// A wait of `limit`, a week at most, that begins now.
    pub fn after(name: &'static str, limit: Duration) -> Self {
        Self { name, limit, at: Instant::now() + limit }
    }

    /// Whether the time is over.
    pub fn passed(&self) -> bool {
        Instant::now() >= self.at
    }

    /// What is left, zero when nothing is.
    pub fn left(&self) -> Duration {
        self.at.saturating_duration_since(Instant::now())
    }

    /// `NAME (1500 ms)`, for errors.
    pub fn describe(&self) -> String {
        format!("{} ({} ms)", self.name, self.limit.as_millis())
    }
}

/// A wait between three and five quarters as long, so that those who wait do not come back together.
pub fn jittered(wait: Duration) -> Duration {
    wait.mul_f64(0.75 + (RandomState::new().hash_one(0) % 50) as f64 / 100.0)
}

/// Why a running request is to stop.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum CancelCause {
    /// Its client has left.
    ClientGone,
    /// The grace after a signal is over.
    ShuttingDown,
    /// Its client leaves more of the answer unread than may be kept for it.
    SlowReader,
}

impl CancelCause {
    /// The end that a turn cancelled so has.
    pub fn error(self) -> TurnError {
        let (kind, message) = match self {
            Self::ClientGone => (TurnErrorKind::ClientGone, "the client closed the connection"),
            Self::ShuttingDown => {
                (TurnErrorKind::ShuttingDown, "the server is being stopped and its grace period is over")
            }
            Self::SlowReader => {
                (TurnErrorKind::SlowReader, "the client reads too slowly, and its backlog grew too large")
            }
        };
        TurnError::new(kind, message)
    }
}

/// How a request is told to stop; clones are of the same request. Every wait of a request begins with [`Cancel::cause`]
/// and selects on [`Cancel::wake`].
#[derive(Clone, Debug)]
pub struct Cancel {
    cause: Arc<OnceLock<CancelCause>>,
    tell: Sender<()>,
    wake: Receiver<()>,
}

impl Default for Cancel {
    /// A request that nobody has told to stop yet.
    fn default() -> Self {
        let (tell, wake) = bounded(1);
        Self { cause: Arc::default(), tell, wake }
    }
}

impl Cancel {
    /// Tells the request to stop. Only the first cause counts.
    pub fn cancel(&self, cause: CancelCause) {
        if self.cause.set(cause).is_ok() {
            // One place is enough: whoever missed the message reads the cause before the next wait.
            let _ = self.tell.try_send(());
        }
    }

    /// Why to stop, if so.
    pub fn cause(&self) -> Option<CancelCause> {
        self.cause.get().copied()
    }

    /// Becomes ready once, when a cause appears.
    pub fn wake(&self) -> &Receiver<()> {
        &self.wake
    }
}
