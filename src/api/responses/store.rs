//! Answers by id: bounded in bytes and time, each only for the key that asked for it.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use serde::Serialize;

use super::Record;
use crate::api::error::ApiError;
use crate::turn::{Item, Part};

/// Who may see a record: a number that stands for one key.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Owner(pub usize);

/// Keeps the youngest records. Times are those of any clock that never goes back.
#[derive(Debug)]
pub struct Store {
    max_bytes: usize,
    max_age: Duration,
    bytes: usize,
    records: HashMap<String, Entry>,
    /// Ids by age, oldest first. Those of deleted records stay until their turn comes.
    order: VecDeque<(Duration, String)>,
}

#[derive(Debug)]
struct Entry {
    owner: Owner,
    bytes: usize,
    record: Record,
}

#[derive(Serialize)]
struct Deleted<'a> {
    id: &'a str,
    object: &'static str,
    deleted: bool,
}

impl Store {
    /// An empty store (`PROXY_RESPONSE_STORE_MB`, `PROXY_RESPONSE_STORE_HOURS`).
    pub fn new(max_bytes: usize, max_age: Duration) -> Self {
        Self { max_bytes, max_age, bytes: 0, records: HashMap::new(), order: VecDeque::new() }
    }

    /// Keeps a record, at the cost of older ones. One that is too large for the store is not kept.
    pub fn put(&mut self, owner: Owner, record: Record, now: Duration) {
        let bytes = size(&record);
        self.forget(now, self.max_bytes.saturating_sub(bytes));
        if bytes <= self.max_bytes {
            self.bytes += bytes;
            self.order.push_back((now, record.id.clone()));
            self.records.insert(record.id.clone(), Entry { owner, bytes, record });
        }
    }

    /// A record of this owner.
    pub fn get(&mut self, owner: Owner, id: &str, now: Duration) -> Option<&Record> {
        self.forget(now, self.max_bytes);
        self.records.get(id).filter(|entry| entry.owner == owner).map(|entry| &entry.record)
    }

    /// Deletes a record of this owner. Returns the JSON of the answer.
    ///
    /// # Errors
    /// 404 if there is none.
    pub fn delete(&mut self, owner: Owner, id: &str, now: Duration) -> Result<String, ApiError> {
        self.get(owner, id, now).ok_or_else(|| not_found(id))?;
        self.remove(id);
        // Strings always serialise.
        Ok(serde_json::to_string(&Deleted { id, object: "response", deleted: true }).unwrap_or_default())
    }

    /// Bytes kept, about.
    pub fn bytes(&self) -> usize {
        self.bytes
    }

    /// Drops what is too old, and the oldest until the rest fits.
    fn forget(&mut self, now: Duration, max_bytes: usize) {
        while let Some((since, id)) = self.order.front() {
            if self.bytes <= max_bytes && now.saturating_sub(*since) < self.max_age && self.records.contains_key(id) {
                return;
            }
            if let Some((_, id)) = self.order.pop_front() {
                self.remove(&id);
            }
        }
    }

    fn remove(&mut self, id: &str) {
        self.bytes -= self.records.remove(id).map_or(0, |entry| entry.bytes);
    }
}

/// 404 for an id that is not, or no more, in the store.
pub fn not_found(id: &str) -> ApiError {
    let id: String = id.chars().take(100).collect();
    let message =
        format!("Response with id `{id}` not found: it was not stored here for this key, or is too old by now.");
    ApiError { param: Some("id".to_owned()), ..ApiError::http(404, "response_not_found", message) }
}

/// Bytes that a record takes, about.
fn size(record: &Record) -> usize {
    let part = |part: &Part| match part {
        Part::Text(text) => text.len(),
        Part::Image { url, .. } => url.len(),
    };
    let item = |item: &Item| {
        size_of::<Item>()
            + match item {
                Item::Message { content, .. } => content.iter().map(|it| size_of::<Part>() + part(it)).sum(),
                Item::ToolCall(call) => call.id.len() + call.name.len() + call.arguments.len(),
                Item::ToolOutput { id, output } => id.len() + output.len(),
                Item::Reasoning { summary, sealed } => summary.iter().map(String::len).sum::<usize>() + sealed.len(),
            }
    };
    let items = record.history.iter().chain(record.output.iter().flatten());
    size_of::<Entry>() + 2 * record.id.len() + record.json.len() + items.map(item).sum::<usize>()
}
