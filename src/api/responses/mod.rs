//! `POST /v1/responses`, and what is kept of its answers.

use std::ops::Range;

use crate::turn::Item;

pub mod encode;
pub mod request;
pub mod store;

/// What the answer has to know of the request.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Form {
    /// Members of the response object that only repeat the request, as JSON text.
    echo: String,
    /// Which of the items are the conversation, and not instructions or lines of ours. `None`: it is not to be stored.
    conversation: Option<Range<usize>>,
    /// Whether the answer shows the sealed content of reasoning.
    includes_sealed: bool,
}

/// An answer that may be asked for later.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Such as `resp_…`.
    pub id: String,
    /// The response object.
    pub json: String,
    /// The conversation before this answer.
    pub history: Vec<Item>,
    /// The items of this answer, by their place in it. `None`: nothing that a model could read.
    pub output: Vec<Option<Item>>,
}

impl Record {
    /// The conversation up to and with this answer, or only the item of it at `index`.
    pub fn items(&self, index: Option<usize>) -> Option<Vec<&Item>> {
        match index {
            Some(index) => self.output.get(index).map(|item| item.iter().collect()),
            None => Some(self.history.iter().chain(self.output.iter().flatten()).collect()),
        }
    }
}
