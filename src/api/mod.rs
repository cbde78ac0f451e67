//! The OpenAI side: requests in, answers out. Pure: no I/O, no clock and no ids of its own, so that every byte of an
//! answer can be tested.

use crate::turn::TurnEvent;

pub mod chat;
pub mod error;
pub mod models;
pub mod prompt;

/// What an answer carries that comes from outside: who is answered, when, and under which name of the model.
#[derive(Clone, Debug)]
pub struct Stamp {
    /// Unique part of the answer's id, such as `8f3a…` in `chatcmpl-8f3a…`.
    pub id: String,
    /// Seconds since 1970.
    pub created: u64,
    /// The model, by the name that the client used.
    pub model: String,
}

/// Writes the events of the turns of one request as one front end's answer. A streaming encoder appends frames to `out`
/// at once; a whole one collects and appends everything in [`Encoder::finish`]. There is one loop for both.
pub trait Encoder {
    /// Called once, before the first event and as late as an error may still become a plain HTTP error.
    fn open(&mut self, out: &mut Vec<u8>);
    /// One event of the turn for choice `index`. After its [`TurnEvent::End`] an index gets no more; an end with an
    /// error is not passed in here but to [`Encoder::fail`].
    fn event(&mut self, index: u32, event: &TurnEvent, out: &mut Vec<u8>);
    /// Called while the model is silent.
    fn keepalive(&mut self, out: &mut Vec<u8>);
    /// All turns have ended well: the rest of the answer.
    fn finish(&mut self, out: &mut Vec<u8>);
    /// The answer ends here with an error. Streaming encoders only: a whole answer becomes a plain HTTP error.
    fn fail(&mut self, error: &error::ApiError, out: &mut Vec<u8>);
}
