//! Everything on disk that a generation is made from. A change of any of it is seen by what the files look like.

use std::fs::{self, Metadata};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use super::binary::{self, Binary};
use crate::config::Config;

/// What a file looked like: a change of any of these is a change.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(super) struct Stamp {
    modified: (i64, i64),
    len: u64,
    inode: u64,
}

impl Stamp {
    pub(super) fn of(path: &Path) -> Option<Self> {
        let of =
            |meta: Metadata| Self { modified: (meta.mtime(), meta.mtime_nsec()), len: meta.len(), inode: meta.ino() };
        fs::metadata(path).ok().map(of)
    }
}

/// Everything on disk that a generation was made from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Sources {
    pub(super) binary: Result<Binary, String>,
    pub(super) binary_stamp: Option<Stamp>,
    pub(super) auth: Option<Stamp>,
    pub(super) config: Option<Stamp>,
}

impl Sources {
    /// Looks at the disk. A few system calls.
    pub fn look(config: &Config) -> Self {
        let binary = binary::resolve(&config.codex_bin, std::env::var_os("PATH").as_deref());
        let home = &config.codex_home.path;
        Self {
            binary_stamp: binary.as_ref().ok().and_then(|binary| Stamp::of(&binary.path)),
            binary,
            auth: Stamp::of(&home.join("auth.json")),
            config: Stamp::of(&home.join("config.toml")),
        }
    }
}
