//! Directories that codex runs in: one private home for each generation, so that nothing of a person's desk (AGENTS.md,
//! MCP servers, notifier, skills, `.env`) reaches a model and nothing of a prompt stays on disk.
//!
//! A home is locked while its proxy lives and removed with its generation. Homes that nobody locks were left by a proxy
//! that was killed; they are removed when the next one is made. Several proxies may share one `CODEX_HOME`, so making,
//! locking and sweeping happen under one lock.

use std::fs::{self, DirBuilder, File, OpenOptions, TryLockError};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt, symlink};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

/// Name of the proxy's directory in `CODEX_HOME`.
pub const OWN_DIR: &str = "codex-completions";
/// Longest wait for another proxy that is making or sweeping homes.
const LOCK_WAIT: Duration = Duration::from_secs(5);

/// The directory that all homes of a `CODEX_HOME` lie in.
#[derive(Clone, Debug)]
pub struct Base {
    dir: PathBuf,
    /// What it costs that `CODEX_HOME` cannot be written.
    pub temporary: Option<String>,
}

/// A home of one generation. Dropping it removes it.
#[derive(Debug)]
pub struct Home {
    dir: PathBuf,
    lock: File,
}

fn private_dir(dir: &Path) -> io::Result<()> {
    DirBuilder::new().recursive(true).mode(0o700).create(dir)
}

/// Writes a file that only its owner can read, whole or not at all.
///
/// # Errors
/// Those of the file system.
pub fn write_private(path: &Path, content: &[u8]) -> io::Result<()> {
    let part = path.with_extension(format!("part-{}", std::process::id()));
    let _ = fs::remove_file(&part);
    let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&part)?;
    let written = file.write_all(content).and_then(|()| fs::rename(&part, path));
    if written.is_err() {
        let _ = fs::remove_file(&part);
    }
    written
}

/// Whether less than a megabyte is left on the disk of `dir`.
pub fn is_full(dir: &Path) -> bool {
    rustix::fs::statvfs(dir).is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < 1024 * 1024)
}

/// Links `path` to a file, there or not: a later login goes through it.
///
/// # Errors
/// Those of the file system.
pub fn link(file: &Path, path: &Path) -> io::Result<()> {
    symlink(std::path::absolute(file)?, path)
}

impl Base {
    /// The proxy's directory in `codex_home`, which is made (0700) when it is missing; where that cannot be written, one
    /// in the system's temporary directory.
    ///
    /// # Errors
    /// Words for a person: neither can be used.
    pub fn open(codex_home: &Path) -> Result<Self, String> {
        let dir = codex_home.join(OWN_DIR);
        let Err(refused) = private_dir(&dir).and_then(|()| probe(&dir)) else {
            // Codex and its links need an absolute path.
            let dir = dir.canonicalize().map_err(|e| format!("CODEX_HOME: {e}"))?;
            return Ok(Self { dir, temporary: None });
        };
        let uid = rustix::process::getuid().as_raw();
        let dir = std::env::temp_dir().join(format!("{OWN_DIR}-{uid}"));
        let usable = private_dir(&dir).and_then(|()| {
            let meta = fs::symlink_metadata(&dir)?;
            let ours = meta.is_dir() && meta.uid() == uid && meta.mode() & 0o077 == 0;
            if ours { probe(&dir) } else { Err(io::Error::other("it belongs to somebody else")) }
        });
        usable.map_err(|e| {
            format!("neither CODEX_HOME ({refused}) nor the temporary directory ({e}) can be written; make one of them writable")
        })?;
        let words = format!(
            "CODEX_HOME cannot be written ({refused}): codex works in a temporary directory, \
             and a login token that it renews may not be saved"
        );
        Ok(Self { dir, temporary: Some(words) })
    }

    /// Where a file of the proxy that outlives its generations is kept.
    pub fn file(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// Removes the files whose names begin so.
    pub fn forget_files(&self, prefix: &str) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            if entry.file_name().to_string_lossy().starts_with(prefix) {
                let _ = fs::remove_file(entry.path());
            }
        }
    }

    /// Removes the homes that other proxies left, and makes a new one.
    ///
    /// # Errors
    /// Words for a person: the disk is full, or another proxy holds the lock for too long.
    pub fn create_home(&self) -> Result<Home, String> {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let failed = |e: io::Error| format!("a home for codex cannot be made: {e}");
        private_dir(&self.dir).map_err(failed)?;
        let _guard = lock_within(&self.file("lock"), LOCK_WAIT).map_err(failed)?;
        self.sweep();
        // A proxy in another container may have the same process id.
        let dir = loop {
            let dir = self.dir.join(format!("home-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed)));
            match DirBuilder::new().mode(0o700).create(&dir) {
                Ok(()) => break dir,
                Err(e) if e.kind() == io::ErrorKind::AlreadyExists => {}
                Err(e) => return Err(failed(e)),
            }
        };
        // What fails from here on leaves a home that is dropped, or swept by the next start.
        let home = Home { lock: open_lock(&dir.join("lock")).map_err(failed)?, dir };
        home.lock.try_lock().map_err(|e| failed(e.into()))?;
        for dir in [home.scratch(), home.sqlite()] {
            DirBuilder::new().mode(0o700).create(dir).map_err(failed)?;
        }
        Ok(home)
    }

    /// Removes what a killed proxy left behind.
    fn sweep(&self) {
        for entry in fs::read_dir(&self.dir).into_iter().flatten().flatten() {
            let path = entry.path();
            if !entry.file_name().to_string_lossy().starts_with("home-") {
                continue;
            }
            let free = open_lock(&path.join("lock")).is_ok_and(|lock| lock.try_lock().is_ok());
            if free && fs::remove_dir_all(&path).is_err() {
                log::warn!("a directory that an earlier run left in CODEX_HOME/{OWN_DIR} cannot be removed");
            }
        }
    }
}

fn probe(dir: &Path) -> io::Result<()> {
    open_lock(&dir.join("lock")).map(drop)
}

fn open_lock(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(path)
}

fn lock_within(path: &Path, wait: Duration) -> io::Result<File> {
    let file = open_lock(path)?;
    let end = Instant::now() + wait;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                crossbeam_channel::never::<()>().recv_timeout(Duration::from_millis(10)).ok();
            }
            Err(e) => return Err(e.into()),
        }
    }
}

impl Home {
    /// The `CODEX_HOME` of the generation.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// An empty working directory.
    pub fn scratch(&self) -> PathBuf {
        self.dir.join("scratch")
    }

    /// Where codex keeps its databases; 0.142.5 and 0.146.0 write whole prompts into them.
    pub fn sqlite(&self) -> PathBuf {
        self.dir.join("sqlite")
    }

    /// Whether everything that codex reads again for each thread is still there: directories for temporary files get
    /// tidied.
    pub fn is_whole(&self) -> bool {
        self.dir.join("config.toml").exists() && self.scratch().exists()
    }

    /// Bytes that codex has on disk here (its log grows by about 30 KB a completion from 0.142 on).
    pub fn disk(&self) -> u64 {
        let files = fs::read_dir(self.sqlite()).into_iter().flatten().flatten();
        files.filter_map(|file| Some(file.metadata().ok()?.len())).sum()
    }
}

impl Drop for Home {
    fn drop(&mut self) {
        // Codex may still be closing its files; what cannot go now goes with the next sweep.
        if fs::remove_dir_all(&self.dir).or_else(|_| fs::remove_dir_all(&self.dir)).is_err() && self.dir.exists() {
            log::warn!("a home of codex could not be removed yet; the next start removes it");
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn temp(name: &str) -> PathBuf {
        let dir = std::env::temp_dir().join(format!("codex-completions-home-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&dir);
        dir
    }

    #[test]
    fn homes_are_private_removed_when_dropped_and_swept_when_nobody_locks_them() {
        let codex_home = temp("sweep");
        let base = Base::open(&codex_home).unwrap();
        assert!(base.temporary.is_none());
        let kept = base.create_home().unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().mode() & 0o777;
        assert_eq!((mode(&codex_home), mode(kept.dir()), mode(&kept.sqlite())), (0o700, 0o700, 0o700));
        let left = codex_home.join(OWN_DIR).join("home-999-1");
        fs::create_dir(&left).unwrap();
        fs::write(left.join("logs_2.sqlite"), "a prompt").unwrap();
        let second = base.create_home().unwrap();
        assert!(!left.exists() && kept.dir().exists());
        let dir = second.dir().to_owned();
        drop(second);
        assert!(!dir.exists());
        drop(kept);
        fs::remove_dir_all(&codex_home).unwrap();
    }

    #[test]
    fn a_name_that_is_taken_is_left_to_whom_it_belongs() {
        let codex_home = temp("taken");
        let base = Base::open(&codex_home).unwrap();
        let first = base.create_home().unwrap();
        let number: u32 = first.dir().to_str().unwrap().rsplit('-').next().unwrap().parse().unwrap();
        // Other tests of this process count too.
        let others: Vec<_> = (1..100)
            .map(|next| {
                let dir = codex_home.join(OWN_DIR).join(format!("home-{}-{}", std::process::id(), number + next));
                fs::create_dir(&dir).unwrap();
                let lock = open_lock(&dir.join("lock")).unwrap();
                lock.try_lock().unwrap();
                (dir, lock)
            })
            .collect();
        let second = base.create_home().unwrap();
        assert!(others.iter().all(|(dir, _)| dir.join("lock").exists() && dir != second.dir()));
        drop((first, second));
        fs::remove_dir_all(&codex_home).unwrap();
    }

    #[test]
    fn private_files_appear_whole_and_links_may_point_to_nothing() {
        let codex_home = temp("files");
        let home = Base::open(&codex_home).unwrap().create_home().unwrap();
        let file = home.dir().join("config.toml");
        write_private(&file, b"a").unwrap();
        write_private(&file, b"model = 1").unwrap();
        assert_eq!(fs::read(&file).unwrap(), b"model = 1");
        assert_eq!(fs::metadata(&file).unwrap().mode() & 0o777, 0o600);
        link(&codex_home.join("auth.json"), &home.dir().join("auth.json")).unwrap();
        assert!(!home.dir().join("auth.json").exists());
        fs::write(codex_home.join("auth.json"), "{}").unwrap();
        assert_eq!(fs::read(home.dir().join("auth.json")).unwrap(), b"{}");
        drop(home);
        assert!(codex_home.join("auth.json").exists());
        fs::remove_dir_all(&codex_home).unwrap();
    }
}
