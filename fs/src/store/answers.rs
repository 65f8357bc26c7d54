//! What requests were answered with, for when they are sent again.
//!
//! # Overview
//! Each thread of a session stores the answer of its last change in the record of its writer, in the batch of the change
//! ([`Txn::commit`](super::Txn::commit)). When the worker dies, the kernel sends every request again that has no answer; the
//! successor looks here whether it was executed.
//!
//! What was written in place, with everything else ahead of it, has no batch to be stored in: that it is done was noted beside the
//! store ([`request`](crate::request)).
//!
//! # Crash consistency
//! The successor's own threads overwrite those records. So before they begin, what was found there is stored by request, in
//! one batch, and stays until the request is answered or the session ends: whichever worker comes to answer it finds it.

use hashbrown::HashMap;
use rocksdb::WriteBatch;

use super::record::{Answered, Record, WriterState};
use super::{META, Store, meta};
use crate::error::FsError;
use crate::ids::{BranchId, SessionId};
use crate::request::{Answer, KernelRequest};

impl Store {
    /// Returns the answers of a session that may be asked for again, by the kernel's numbers of the requests; `None` for one
    /// that cannot be read. `branch` is what the session writes, `written` how many bytes which requests are known to have written.
    pub(crate) fn recover_answers(
        &self,
        session: SessionId,
        branch: BranchId,
        written: impl Iterator<Item = (u64, u64)>,
    ) -> Result<HashMap<u64, Option<Answer>>, FsError> {
        let mut answers = HashMap::new();
        let mut batch = WriteBatch::default();
        self.db.scan(META, &meta::usage_of(branch), &[], |key, value| {
            let Some(state) = WriterState::decode(value) else {
                self.quarantine.add("usage", key);
                return Ok(true);
            };
            if let Some(answered) = state.answered.filter(|answered| answered.request.session == session) {
                answers.insert(answered.request.unique, Some(answered.answer));
                batch.put_cf(self.db.family(META), meta::answered(answered.request), answered.encode());
            }
            Ok(true)
        })?;
        self.db.scan(META, &meta::answered_in(session), &[], |key, value| {
            match (Answered::decode(value), meta::tail_answered(key)) {
                (Some(Answered { request, answer }), _) => drop(answers.insert(request.unique, Some(answer))),
                // It was executed, and nobody knows what came of it.
                (None, Some(unique)) => drop(answers.insert(unique, None)),
                (None, None) => {}
            }
            Ok(true)
        })?;
        for (unique, count) in written {
            // Of a request in several steps, the last one that was done says the most.
            let known = match answers.get(&unique) {
                Some(Some(Answer::Count(known))) => *known,
                _ => 0,
            };
            let answer = Answer::Count(count.max(known));
            let request = KernelRequest { session, unique };
            answers.insert(unique, Some(answer));
            batch.put_cf(
                self.db.family(META),
                meta::answered(request),
                Answered { request, answer }.encode(),
            );
        }
        self.db.write(batch)?;
        Ok(answers)
    }

    /// Forgets an answer that was sent.
    pub(crate) fn forget_answer(&self, request: KernelRequest) -> Result<(), FsError> {
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.db.family(META), meta::answered(request));
        Ok(self.db.write(batch)?)
    }

    /// Forgets all answers of a session that has ended.
    pub fn forget_session(&self, session: SessionId) -> Result<(), FsError> {
        let mut batch = WriteBatch::default();
        self.db.scan(META, &meta::answered_in(session), &[], |key, _| {
            batch.delete_cf(self.db.family(META), key);
            Ok(true)
        })?;
        Ok(self.db.write(batch)?)
    }
}
