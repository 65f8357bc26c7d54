//! Records that cannot be read: they are passed over, told of, and harm nobody but what they are about.
//!
//! # Overview
//! | record | what becomes of it | what is lost |
//! |---|---|---|
//! | volume | stays | the volume cannot be used; what its branches hold is not swept |
//! | branch | stays | volumes that descend from it cannot be used; nothing of the store is swept |
//! | snapshot | stays | the snapshot cannot be used; its epoch stays retained until its volume is removed |
//! | lower slot | stays | volumes of its tree that have lowers cannot be used |
//! | segment | stays | nothing, until the host loses its power: pages that do not match are damage |
//! | usage | moved aside | volume and quota count less than there is, until `fsck --repair` |
//! | counter | moved aside | nothing: numbers begin after all that are in use |
//! | free list, sweep | moved aside | space, until `fsck --repair` |
//! | departed orphan, flag | moved aside | an inode that nobody sees, a note |
//! | actor | stays | the actor cannot be used, nor its id be taken; its volumes can |
//! | capture | stays | nobody goes on from the capture |
//! | answer, reply | stays | whoever asks for it gets an error: nobody knows whether it was done |
//! | hash key of names | stays | the store cannot be opened: no name would be found |
//! | names, inodes, attributes, groups of pages | stay | whoever reads one gets EIO; its name is listed |
//!
//! What the store can do without is moved aside, because the place is written again. What stands for something that is there
//! stays: its key alone says what must be kept.
//!
//! # Invariants
//! - Nothing is deleted: what was moved aside stands, as it was found, under a key of its own.
//! - Nothing that an unreadable record may refer to is freed.
//!
//! # Crash consistency
//! Records are moved one batch at a time when the store is opened; one that was not moved is found again.

use std::collections::BTreeMap;

use parking_lot::Mutex;
use rocksdb::WriteBatch;

use super::db::{Database, META};
use super::error::StoreError;
use super::keys::meta;
use super::kinds::{KINDS, Kind};
use super::{Store, hex};

/// What was found.
#[derive(Default)]
pub(crate) struct Quarantine {
    found: Mutex<BTreeMap<Vec<u8>, &'static str>>,
}

/// A record that cannot be read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Quarantined {
    /// What it should be.
    pub kind: &'static str,
    /// Its key, in hexadecimal digits, where it stood.
    pub key: String,
}

impl Quarantine {
    /// Looks at the records of the `meta` family, and moves aside what the store can do without.
    pub(super) fn find(db: &Database) -> Result<Quarantine, StoreError> {
        let quarantine = Quarantine::default();
        for kind in KINDS.iter().filter(|kind| !is_looked_at_elsewhere(kind)) {
            let mut aside = Vec::new();
            db.scan(META, &[kind.byte], &[], |key, value| {
                if !kind.is_readable(value) {
                    quarantine.add(kind.name, key);
                    if is_moved_aside(kind) {
                        aside.push((key.to_vec(), value.to_vec()));
                    }
                }
                Ok(true)
            })?;
            for (key, value) in aside {
                let mut batch = WriteBatch::default();
                batch.delete_cf(db.family(META), &key);
                batch.put_cf(db.family(META), meta::aside(&key), value);
                db.write(batch)?;
            }
        }
        db.scan(META, &[meta::ASIDE], &[], |key, _| {
            let original = key.get(1..).unwrap_or_default();
            quarantine.add(Kind::of(original).map_or("record", |kind| kind.name), original);
            Ok(true)
        })?;
        Ok(quarantine)
    }

    /// Takes note of a record that is passed over.
    pub(crate) fn add(&self, kind: &'static str, key: &[u8]) {
        if self.found.lock().insert(key.to_vec(), kind).is_none() {
            tracing::error!(kind, key = hex(key), "a record cannot be read and is passed over");
        }
    }

    fn count(&self) -> u64 {
        self.found.lock().len() as u64
    }
}

impl Store {
    /// Returns how many records are known that cannot be read.
    pub fn quarantined(&self) -> u64 {
        self.quarantine.count()
    }

    /// Lists the records of the `meta` family that cannot be read.
    pub fn list_quarantined(&self) -> Vec<Quarantined> {
        let found = self.quarantine.found.lock();
        found.iter().map(|(key, &kind)| Quarantined { kind, key: hex(key) }).collect()
    }

    /// Forgets what was moved aside. To be called when what it stood for was counted anew.
    pub(crate) fn forget_moved_aside(&self) -> Result<(), StoreError> {
        let mut batch = WriteBatch::default();
        let mut forgotten = Vec::new();
        self.db.scan(META, &[meta::ASIDE], &[], |key, _| {
            batch.delete_cf(self.db.family(META), key);
            forgotten.push(key.get(1..).unwrap_or_default().to_vec());
            Ok(true)
        })?;
        if !batch.is_empty() {
            self.db.write(batch)?;
        }
        let mut found = self.quarantine.found.lock();
        for key in forgotten {
            found.remove(&key);
        }
        Ok(())
    }
}

/// Of some all that counts is in the key, and of replies there may be many: whoever loads them tells.
fn is_looked_at_elsewhere(kind: &Kind) -> bool {
    [meta::ORPHAN, meta::TIE, meta::DOUBT, meta::SEAL, meta::REPLY].contains(&kind.byte)
}

fn is_moved_aside(kind: &Kind) -> bool {
    [meta::COUNTER, meta::USAGE, meta::SWEEP, meta::SETTLED, meta::FREE, meta::DEPARTED, meta::FLAG]
        .contains(&kind.byte)
}
