//! What is kept of a request of the control plane, so that it is done once however often it is sent.

use super::Record;
use super::codec::{Reader, Writer};
use crate::attr::Timestamp;

/// The newest version.
pub type Reply = ReplyV1;

/// How far a request came.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ReplyV1 {
    /// When this was stored.
    pub stored: Timestamp,
    /// Tells requests apart that came with the same id.
    pub fingerprint: [u8; 32],
    /// What became of it.
    pub outcome: OutcomeV1,
}

/// What became of a request. The bytes are those of whoever answers it; the store does not look into them.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum OutcomeV1 {
    /// It was begun, and a part of its effect lies outside the store: what it takes to go on.
    Begun(Vec<u8>),
    /// It was done: its answer.
    Done(Vec<u8>),
    /// It was not done, and will not be: the error.
    Refused(Vec<u8>),
}

impl Record for ReplyV1 {
    fn encode(&self) -> Vec<u8> {
        let (kind, bytes) = match &self.outcome {
            OutcomeV1::Begun(bytes) => (1, bytes),
            OutcomeV1::Done(bytes) => (2, bytes),
            OutcomeV1::Refused(bytes) => (3, bytes),
        };
        Writer::version(1).u8(kind).time(self.stored).rest(&self.fingerprint).rest(bytes).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        let (kind, stored) = (reader.u8()?, reader.time()?);
        let (&fingerprint, bytes) = reader.rest().split_first_chunk()?;
        let bytes = bytes.to_vec();
        let outcome = match kind {
            1 => OutcomeV1::Begun(bytes),
            2 => OutcomeV1::Done(bytes),
            3 => OutcomeV1::Refused(bytes),
            _ => return None,
        };
        Some(ReplyV1 { stored, fingerprint, outcome })
    }
}
