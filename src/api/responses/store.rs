//! Answers by id: bounded in bytes and time, each only for the key that asked for it.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use super::Record;
use crate::api::error::ApiError;
use crate::api::prompt;
use crate::api::write::brief;
use crate::turn::Item;

/// Who may see a record: a number that stands for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub usize);

/// Keeps the youngest records. Times are those of any clock that never goes back.
#[derive(Debug)]
pub struct Store {
    max_bytes: usize,
    max_age: Duration,
    bytes: usize,
    /// Oldest first. They are thousands at most: one is found by looking at all.
    entries: VecDeque<Entry>,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    since: Duration,
    record: Arc<Record>,
}

impl Store {
    /// An empty store (`PROXY_RESPONSE_STORE_MB`, `PROXY_RESPONSE_STORE_HOURS`).
    pub fn new(max_bytes: usize, max_age: Duration) -> Self {
        Self { max_bytes, max_age, bytes: 0, entries: VecDeque::new() }
    }

    /// Keeps a record, at the cost of older ones. One that is too large for the store is not kept.
    pub fn put(&mut self, owner: Owner, record: Record, now: Duration) {
        let bytes = size(&record);
        self.forget(now, self.max_bytes.saturating_sub(bytes));
        if bytes <= self.max_bytes {
            self.bytes += bytes;
            self.entries.push_back(Entry { owner, since: now, record: Arc::new(record) });
        }
    }

    /// A record of this owner.
    pub fn get(&mut self, owner: Owner, id: &str, now: Duration) -> Option<Arc<Record>> {
        self.place(owner, id, now).and_then(|place| self.entries.get(place)).map(|entry| Arc::clone(&entry.record))
    }

    /// Deletes a record of this owner. Returns the JSON of the answer.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn delete(&mut self, owner: Owner, id: &str, now: Duration) -> Result<String, ApiError> {
        let place = self.place(owner, id, now).ok_or_else(|| not_found(id))?;
        self.bytes -= self.entries.remove(place).map_or(0, |entry| size(&entry.record));
        // It is an id of ours, with nothing to escape.
        Ok(format!(r#"{{"id":"{id}","object":"response","deleted":true}}"#))
    }

    /// Bytes kept, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    fn place(&mut self, owner: Owner, id: &str, now: Duration) -> Option<usize> {
        self.forget(now, self.max_bytes);
        self.entries.iter().position(|entry| entry.owner == owner && entry.record.id == id)
    }

    /// Drops what is too old, and the oldest until the rest fits.
    fn forget(&mut self, now: Duration, max_bytes: usize) {
        let is_old = |entry: &Entry| now.saturating_sub(entry.since) >= self.max_age;
        while self.entries.front().is_some_and(|entry| self.bytes > max_bytes || is_old(entry)) {
            self.bytes -= self.entries.pop_front().map_or(0, |entry| size(&entry.record));
        }
    }
}

/// 404 for an id that is not, or no more, in the store.
pub fn not_found(id: &str) -> ApiError {
    let message =
        format!("Response with id `{}` not found: it was not stored here for this key, or is too old.", brief(id));
    ApiError { param: Some("id".to_owned()), ..ApiError::http(404, "response_not_found", message) }
}

/// Bytes that a record takes, about.
fn size(record: &Record) -> usize {
    let items = record.history.iter().chain(record.output.iter().flatten());
    size_of::<Entry>() + record.id.len() + record.json.len() + items.map(weight).sum::<usize>()
}

/// Bytes that an item takes, about.
pub(super) fn weight(item: &Item) -> usize {
    2 * size_of::<Item>() + prompt::bytes(item, str::len)
}
