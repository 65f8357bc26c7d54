//! What became of requests of the control plane: each is done once, however often its client has to send it.
//!
//! # Overview
//! A client gives every request an id and sends it again if the daemon dies before it answers. Whoever answers asks
//! [`Store::reply_to`] first. A change of the store takes a [`Receipt`], which [`Store::commit_change`] puts into the batch of
//! the change: there is no other way to write one. What has effects outside the store is noted with [`Store::keep_reply`].
//!
//! # Invariants
//! - A record of what was done is there exactly if the effect is.
//! - An id stands for one request: the fingerprint tells another one.
//! - At most [`KEPT_MOST`] records, none older than [`KEPT_FOR`], but for those of the last moments, and of a store that was opened just now.
//!
//! # Crash consistency
//! A record of its own is not synced. After a loss of power nobody asks for it: clients are processes of this host.
//!
//! # Concurrency
//! The index is told of a record before the record is written, and trimming holds the index over its batch: a
//! record that is just written anew is not taken for the old one.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use hashbrown::HashMap;
use parking_lot::Mutex;
use rocksdb::WriteBatch;

use super::db::{Database, META};
use super::quarantine::Quarantine;
use super::record::{OutcomeV1, Record, Reply};
use super::{Store, StoreError, meta};
use crate::attr::Timestamp;
use crate::error::FsError;
use crate::failpoint;
use crate::ids::RequestId;

/// How long an outcome is kept: longer than any client tries.
pub const KEPT_FOR: i64 = 3600;
/// How long nothing is too old, once a store is open: the host may have been off, and whoever goes on with what was in hand asks first.
const SETTLING: Duration = Duration::from_secs(600);
/// How many outcomes are kept.
pub const KEPT_MOST: usize = 10_000;

/// Separates these hashes from all others of the project.
const FINGERPRINT_CONTEXT: &str = "durdir 2026-01 fingerprint of a request";

/// A request, told from every other.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RequestKey {
    /// What its client calls it.
    pub id: RequestId,
    /// What it asks for.
    fingerprint: [u8; 32],
}

impl RequestKey {
    /// Returns the key of a request for `method` with these bytes.
    pub fn new(id: RequestId, method: &str, request: &[u8]) -> RequestKey {
        let mut hasher = blake3::Hasher::new_derive_key(FINGERPRINT_CONTEXT);
        // No method has a NUL in its name: where it ends is never in doubt.
        hasher.update(method.as_bytes()).update(&[0]).update(request);
        RequestKey { id, fingerprint: hasher.finalize().into() }
    }
}

/// What the store knows of a request.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Known {
    /// Nothing: it did not come before, or was killed before it had any effect.
    Nothing,
    /// What became of it.
    Outcome(OutcomeV1),
    /// The id was given to another request.
    Other,
}

/// What is to be stored with a change: the outcome of the request that asked for it.
pub struct Receipt<'a, T>(Option<Kept<'a, T>>);

struct Kept<'a, T> {
    key: RequestKey,
    outcome: Box<dyn FnOnce(&T) -> OutcomeV1 + 'a>,
}

impl<'a, T> Receipt<'a, T> {
    /// Nobody asked for the change under an id.
    pub fn none() -> Receipt<'a, T> {
        Receipt(None)
    }

    /// `outcome` is told what the change comes to before it is written.
    pub fn new(key: RequestKey, outcome: impl FnOnce(&T) -> OutcomeV1 + 'a) -> Receipt<'a, T> {
        Receipt(Some(Kept { key, outcome: Box::new(outcome) }))
    }

    /// Returns the receipt of a change that comes to `effect`, whatever it is told.
    pub fn of<U>(self, effect: T) -> Receipt<'a, U>
    where
        T: 'a,
    {
        let kept = self.0.map(|Kept { key, outcome }| Kept {
            key,
            outcome: Box::new(move |_: &U| outcome(&effect)) as Box<dyn FnOnce(&U) -> OutcomeV1 + 'a>,
        });
        Receipt(kept)
    }
}

/// Which records there are, oldest first.
pub(crate) struct Replies {
    index: Mutex<Index>,
    opened: Instant,
}

#[derive(Default)]
struct Index {
    by_age: BTreeSet<(Timestamp, RequestId)>,
    stored: HashMap<RequestId, Timestamp>,
}

impl Index {
    fn put(&mut self, id: RequestId, stored: Timestamp) {
        if let Some(before) = self.stored.insert(id, stored) {
            self.by_age.remove(&(before, id));
        }
        self.by_age.insert((stored, id));
    }

    /// Removes and returns the oldest if it is not to be kept. Without `now`, none is too old.
    fn take_expired(&mut self, now: Option<Timestamp>) -> Option<RequestId> {
        let &(stored, id) = self.by_age.first()?;
        let is_old = now.is_some_and(|now| now.secs.saturating_sub(stored.secs) > KEPT_FOR);
        let expired = is_old || self.by_age.len() > KEPT_MOST;
        if expired {
            self.by_age.pop_first();
            self.stored.remove(&id);
        }
        expired.then_some(id)
    }
}

impl Replies {
    /// Looks for all records. One that does not parse stays, and harms nobody but who asks for it.
    pub(crate) fn load(db: &Database, quarantine: &Quarantine) -> Result<Replies, StoreError> {
        let mut index = Index::default();
        db.scan(META, &[meta::REPLY], &[], |key, value| {
            match (meta::parse_reply(key), Reply::decode(value)) {
                (Some(id), Some(reply)) => index.put(id, reply.stored),
                _ => quarantine.add("reply", key),
            }
            Ok(true)
        })?;
        Ok(Replies { index: Mutex::new(index), opened: Instant::now() })
    }
}

impl Store {
    /// Writes a change of volumes or snapshots, and what is kept of the request that asked for it. Durable on return.
    pub(crate) fn commit_change<T>(
        &self,
        batch: WriteBatch,
        receipt: Receipt<'_, T>,
        effect: &T,
    ) -> Result<(), StoreError> {
        self.write_change(batch, receipt, effect)?;
        self.db.sync_log()
    }

    /// As [`Self::commit_change`], but for the sync.
    pub(crate) fn write_change<T>(
        &self,
        mut batch: WriteBatch,
        receipt: Receipt<'_, T>,
        effect: &T,
    ) -> Result<(), StoreError> {
        if let Receipt(Some(Kept { key, outcome })) = receipt {
            self.put_reply(&mut batch, key, outcome(effect));
        }
        failpoint::hit("change.before-batch");
        self.db.write(batch)?;
        failpoint::hit("change.after-batch");
        Ok(())
    }

    /// Notes what became of a request whose effect, or a part of it, lies outside the store.
    pub fn keep_reply(&self, key: RequestKey, outcome: OutcomeV1) -> Result<(), FsError> {
        let mut batch = WriteBatch::default();
        self.put_reply(&mut batch, key, outcome);
        Ok(self.db.write(batch)?)
    }

    /// Returns what became of a request that came before.
    pub fn reply_to(&self, key: RequestKey) -> Result<Known, FsError> {
        let Some(bytes) = self.db.get_meta(&meta::reply(key.id))? else { return Ok(Known::Nothing) };
        let reply = Reply::decode(&bytes)
            .ok_or_else(|| StoreError::Corrupt { what: format!("record of request {}", key.id) })?;
        if reply.fingerprint != key.fingerprint {
            return Ok(Known::Other);
        }
        Ok(Known::Outcome(reply.outcome))
    }

    /// Returns how many outcomes are kept.
    pub fn replies(&self) -> usize {
        self.replies.index.lock().by_age.len()
    }

    /// Forgets what is too old or too much.
    pub(crate) fn trim_replies(&self) -> Result<(), StoreError> {
        self.trim_replies_older((self.replies.opened.elapsed() >= SETTLING).then(Timestamp::now))
    }

    fn trim_replies_older(&self, now: Option<Timestamp>) -> Result<(), StoreError> {
        let mut index = self.replies.index.lock();
        let mut batch = WriteBatch::default();
        while let Some(id) = index.take_expired(now) {
            batch.delete_cf(self.db.family(META), meta::reply(id));
        }
        if batch.is_empty() { Ok(()) } else { self.db.write(batch) }
    }

    fn put_reply(&self, batch: &mut WriteBatch, key: RequestKey, outcome: OutcomeV1) {
        let stored = Timestamp::now();
        self.replies.index.lock().put(key.id, stored);
        let reply = Reply { stored, fingerprint: key.fingerprint, outcome };
        batch.put_cf(self.db.family(META), meta::reply(key.id), reply.encode());
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::store::{StoreOptions, VolumeSpec};

    fn key(id: u8, request: &str) -> RequestKey {
        RequestKey::new(RequestId([id; 16]), "volume create", request.as_bytes())
    }

    fn at(secs: i64) -> Timestamp {
        Timestamp { secs, nanos: 0 }
    }

    fn open(dir: &std::path::Path) -> std::sync::Arc<Store> {
        Store::open(dir, &StoreOptions { background: false, ..StoreOptions::default() }).unwrap()
    }

    #[test]
    fn the_outcome_is_in_the_batch_of_the_change() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let receipt = Receipt::new(key(1, "v"), |info: &crate::store::VolumeInfo| {
            OutcomeV1::Done(info.name.clone().into_bytes())
        });
        store.create_volume("v", &VolumeSpec::default(), receipt).unwrap();
        let done = Known::Outcome(OutcomeV1::Done(b"v".to_vec()));
        assert_eq!(store.reply_to(key(1, "v")).unwrap(), done);
        // A change that was refused leaves no outcome.
        let receipt = Receipt::new(key(2, "v"), |_: &crate::store::VolumeInfo| OutcomeV1::Done(Vec::new()));
        store.create_volume("v", &VolumeSpec::default(), receipt).unwrap_err();
        assert_eq!(store.reply_to(key(2, "v")).unwrap(), Known::Nothing);
        store.close().unwrap();
        drop(store);
        let store = open(dir.path());
        assert_eq!((store.reply_to(key(1, "v")).unwrap(), store.replies()), (done, 1));
    }

    #[test]
    fn an_id_stands_for_one_request() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.keep_reply(key(1, "v"), OutcomeV1::Begun(Vec::new())).unwrap();
        assert_eq!(store.reply_to(key(1, "w")).unwrap(), Known::Other);
        let method = RequestKey::new(RequestId([1; 16]), "volume rm", b"v");
        assert_eq!(store.reply_to(method).unwrap(), Known::Other);
        store.keep_reply(key(1, "v"), OutcomeV1::Done(b"x".to_vec())).unwrap();
        assert_eq!(store.reply_to(key(1, "v")).unwrap(), Known::Outcome(OutcomeV1::Done(b"x".to_vec())));
        assert_eq!(store.replies(), 1);
    }

    #[test]
    fn old_outcomes_are_forgotten_and_young_ones_kept() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let (old, young) = (key(1, "v"), key(2, "v"));
        for key in [old, young] {
            store.keep_reply(key, OutcomeV1::Done(Vec::new())).unwrap();
        }
        store.replies.index.lock().put(old.id, at(Timestamp::now().secs - KEPT_FOR - 1));
        store.trim_replies_older(Some(Timestamp::now())).unwrap();
        assert_eq!(store.reply_to(old).unwrap(), Known::Nothing);
        assert_eq!(store.reply_to(young).unwrap(), Known::Outcome(OutcomeV1::Done(Vec::new())));
    }

    #[test]
    fn the_oldest_of_too_many_go() {
        let mut index = Index::default();
        let id = |number: usize| RequestId((number as u128).to_be_bytes());
        for number in 0..KEPT_MOST + 2 {
            index.put(id(number), at(number as i64));
        }
        // Stored anew: it is young again.
        index.put(id(0), at(1_000_000));
        for now in [None, Some(at(0))] {
            assert!(index.take_expired(now).is_some_and(|taken| [id(1), id(2)].contains(&taken)));
        }
        assert_eq!((index.take_expired(None), index.take_expired(Some(at(0)))), (None, None));
    }

    #[test]
    fn what_is_old_goes_once_the_store_has_been_open_for_a_while() {
        let mut index = Index::default();
        index.put(RequestId([1; 16]), at(5));
        assert_eq!(index.take_expired(None), None);
        assert_eq!(index.take_expired(Some(at(KEPT_FOR + 5))), None);
        assert_eq!(index.take_expired(Some(at(KEPT_FOR + 6))), Some(RequestId([1; 16])));
        assert_eq!(index.take_expired(Some(at(KEPT_FOR + 6))), None);
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.replies.index.lock().put(key(1, "v").id, at(5));
        store.trim_replies().unwrap();
        assert_eq!(store.replies.index.lock().by_age.len(), 1, "the store was opened just now");
    }

    #[test]
    fn a_record_that_cannot_be_read_harms_nobody_else() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.keep_reply(key(1, "v"), OutcomeV1::Done(Vec::new())).unwrap();
        let mut batch = WriteBatch::default();
        batch.put_cf(store.db.family(META), meta::reply(key(2, "v").id), [9]);
        store.db.write(batch).unwrap();
        store.close().unwrap();
        drop(store);
        let store = open(dir.path());
        assert!(matches!(store.reply_to(key(2, "v")), Err(FsError::Store(StoreError::Corrupt { .. }))));
        assert!(matches!(store.reply_to(key(1, "v")).unwrap(), Known::Outcome(_)));
    }
}
