//! Actors and their captures: records of the control plane that name volumes and snapshots.
//!
//! # Overview
//! The store keeps for each actor which volumes are its own, and for each capture which ends of epochs it holds; everything else is
//! a document of the control plane. It does not guard them: whoever removes a volume or a snapshot asks the control plane first.
//!
//! # Crash consistency
//! An actor and its volumes are one batch, and so is whatever else changes together. What is journaled of an operation need not
//! outlive the host: no sandbox does.

use rocksdb::WriteBatch;

use super::appearance::{VolumeInfo, VolumeSpec};
use super::db::META;
use super::record::{Actor, Capture, Record};
use super::volumes::check_lowers;
use super::{Receipt, Store, meta};
use crate::error::FsError;
use crate::ids::{CaptureId, Epoch, VolumeId};

/// What an actor's new volume begins with.
#[derive(Clone, Debug)]
pub enum VolumeOrigin {
    /// Nothing, or lowers.
    New(VolumeSpec),
    /// What a snapshot holds, `VOLUME@EPOCH`.
    Snapshot(String),
}

/// Records of actors that change together.
#[derive(Clone, Debug, Default)]
pub struct ActorChange<'a> {
    /// Actors to be stored, or to be forgotten.
    pub actors: Vec<(&'a str, Option<&'a Actor>)>,
    /// Captures to be stored, or to be forgotten.
    pub captures: Vec<(CaptureId, Option<&'a Capture>)>,
}

/// Whether a change has to outlive the host's power.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Durability {
    /// It outlives this process.
    Process,
    /// It is on the disk on return.
    Disk,
}

/// Records of one kind.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Listed<I, T> {
    /// Those that can be read, by what they are called.
    pub records: Vec<(I, T)>,
    /// What those are called that cannot.
    pub unreadable: Vec<I>,
}

impl Store {
    /// Lists all actors. One that cannot be read harms no other.
    pub fn actors(&self) -> Result<Listed<String, Actor>, FsError> {
        self.listed_records(meta::ACTOR, "actor", |key| meta::parse_actor(key).map(str::to_owned))
    }

    /// Lists all captures. One that cannot be read harms no other.
    pub fn captures(&self) -> Result<Listed<CaptureId, Capture>, FsError> {
        self.listed_records(meta::CAPTURE, "capture", meta::parse_capture)
    }

    fn listed_records<I, T: Record>(
        &self,
        kind: u8,
        name: &'static str,
        id_of: impl Fn(&[u8]) -> Option<I>,
    ) -> Result<Listed<I, T>, FsError> {
        let mut listed = Listed { records: Vec::new(), unreadable: Vec::new() };
        self.db.scan(META, &[kind], &[], |key, value| {
            match (id_of(key), T::decode(value)) {
                (Some(id), Some(record)) => listed.records.push((id, record)),
                (id, _) => {
                    self.quarantine.add(name, key);
                    listed.unreadable.extend(id);
                }
            }
            Ok(true)
        })?;
        Ok(listed)
    }

    /// Stores a change of actors and captures, in one batch with what is kept of the request that asked for it.
    pub fn change_actors<T>(
        &self,
        change: &ActorChange<'_>,
        durability: Durability,
        receipt: Receipt<'_, T>,
        effect: &T,
    ) -> Result<(), FsError> {
        let mut batch = WriteBatch::default();
        self.put_actors(&mut batch, change);
        match durability {
            Durability::Process => self.write_change(batch, receipt, effect)?,
            Durability::Disk => self.commit_change(batch, receipt, effect)?,
        }
        Ok(())
    }

    /// Makes volumes and the actor that they are for, in one batch: `describe` is told of the volumes, in their order. Durable on
    /// return.
    pub fn create_actor(
        &self,
        id: &str,
        volumes: &[(String, VolumeOrigin)],
        describe: impl FnOnce(&[VolumeInfo]) -> Actor,
        receipt: Receipt<'_, Actor>,
    ) -> Result<Vec<VolumeInfo>, FsError> {
        let lowers = volumes.iter().map(|(_, origin)| match origin {
            VolumeOrigin::New(spec) => check_lowers(spec),
            VolumeOrigin::Snapshot(_) => Ok(Vec::new()),
        });
        let lowers = lowers.collect::<Result<Vec<_>, _>>()?;
        let mut registry = self.registry.write();
        let mut batch = WriteBatch::default();
        let mut made = Vec::new();
        for (at, (volume, lowers)) in volumes.iter().zip(lowers).enumerate() {
            let (name, origin) = volume;
            if volumes.iter().take(at).any(|(before, _)| before == name) {
                return Err(FsError::VolumeExists { name: name.clone() });
            }
            made.push(match origin {
                VolumeOrigin::New(spec) => self.put_new_volume(&mut batch, &registry, name, spec, lowers)?,
                VolumeOrigin::Snapshot(snapshot) => self.put_fork(&mut batch, &registry, snapshot, name)?,
            });
        }
        let infos: Vec<_> = made.iter().map(|volume| volume.info.clone()).collect();
        let actor = describe(&infos);
        self.put_actors(&mut batch, &ActorChange { actors: vec![(id, Some(&actor))], captures: Vec::new() });
        self.commit_change(batch, receipt, &actor)?;
        Ok(made.into_iter().map(|volume| volume.register(&mut registry)).collect())
    }

    /// Tells whether the head of a volume is where one of its snapshots is: nothing was written since.
    pub fn is_at(&self, volume: &str, epoch: Epoch) -> Result<bool, FsError> {
        let head = self.head_of_volume(volume)?;
        let is_newest = self.registry.read().snapshots.contains_key(&(head.branch, epoch));
        Ok(is_newest && epoch >= head.retained() && !head.is_changed() && head.last_written() <= epoch)
    }

    /// Returns how the snapshot of a volume at the end of an epoch is called, `VOLUME@EPOCH`; `None` if there is none.
    pub fn snapshot_at(&self, volume: VolumeId, epoch: Epoch) -> Option<String> {
        let registry = self.registry.read();
        let mut of_volume = registry.snapshots_of(volume);
        let (branch, epoch, _) = of_volume.find(|&(_, found, _)| found == epoch)?;
        Some(registry.snapshot_label(branch, epoch))
    }

    /// Tells whether the snapshot of a volume at the end of an epoch was given a name.
    pub fn has_name(&self, volume: VolumeId, epoch: Epoch) -> bool {
        let registry = self.registry.read();
        let mut of_volume = registry.snapshots_of(volume);
        of_volume.any(|(_, found, snapshot)| found == epoch && snapshot.name.is_some())
    }

    fn put_actors(&self, batch: &mut WriteBatch, change: &ActorChange<'_>) {
        let family = self.db.family(META);
        for (id, actor) in &change.actors {
            match actor {
                Some(actor) => batch.put_cf(family, meta::actor(id), actor.encode()),
                None => batch.delete_cf(family, meta::actor(id)),
            }
        }
        for (id, capture) in &change.captures {
            match capture {
                Some(capture) => batch.put_cf(family, meta::capture(*id), capture.encode()),
                None => batch.delete_cf(family, meta::capture(*id)),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::sync::Arc;

    use super::*;
    use crate::attr::Timestamp;
    use crate::ids::{NodeId, RequestId};
    use crate::ops::Caller;
    use crate::store::record::OutcomeV1;
    use crate::store::{Known, RequestKey, StoreOptions};

    fn open(dir: &std::path::Path) -> Arc<Store> {
        Store::open(dir, &StoreOptions { background: false, ..StoreOptions::default() }).unwrap()
    }

    fn new(name: &str) -> (String, VolumeOrigin) {
        (name.to_owned(), VolumeOrigin::New(VolumeSpec::default()))
    }

    fn described(volumes: &[VolumeInfo]) -> Actor {
        let volumes = volumes.iter().map(|volume| volume.id).collect();
        Actor { created: Timestamp { secs: 1, nanos: 0 }, volumes, document: b"{}".to_vec() }
    }

    #[test]
    fn an_actor_comes_with_its_volumes_and_its_answer() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        let key = RequestKey::new(RequestId([1; 16]), "actor create", b"");
        let receipt = Receipt::new(key, |actor: &Actor| OutcomeV1::Done(actor.document.clone()));
        let volumes = ["a.x", "a.y"].map(new);
        let made = store.create_actor("a", &volumes, described, receipt).unwrap();
        store.close().unwrap();
        drop(store);
        let store = open(dir.path());
        let Listed { records, unreadable } = store.actors().unwrap();
        assert!(unreadable.is_empty());
        assert_eq!(records, [("a".to_owned(), described(&made))]);
        assert_eq!(store.reply_to(key).unwrap(), Known::Outcome(OutcomeV1::Done(b"{}".to_vec())));
        assert_eq!(store.volume("a.y").unwrap().id, made[1].id);
    }

    #[test]
    fn all_volumes_are_made_or_none() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.create_volume("a.y", &VolumeSpec::default(), Receipt::none()).unwrap();
        for twice in ["a.x", "a.y"] {
            let volumes = ["a.x", twice].map(new);
            let refused = store.create_actor("a", &volumes, described, Receipt::none()).unwrap_err();
            assert!(matches!(refused, FsError::VolumeExists { .. }), "{refused}");
        }
        assert!(store.volume("a.x").is_err());
        assert!(store.actors().unwrap().records.is_empty());
    }

    #[test]
    fn a_record_that_cannot_be_read_harms_no_other() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.create_actor("a", &[], described, Receipt::none()).unwrap();
        let mut batch = WriteBatch::default();
        batch.put_cf(store.db.family(META), meta::actor("b"), [9]);
        store.db.write(batch).unwrap();
        let Listed { records, unreadable } = store.actors().unwrap();
        assert_eq!((records.len(), unreadable), (1, vec!["b".to_owned()]));
    }

    #[test]
    fn a_head_is_at_its_snapshot_until_something_is_written() {
        let dir = tempfile::tempdir().unwrap();
        let store = open(dir.path());
        store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
        let write = |name: &str| {
            let fs = store.open_head("v").unwrap();
            let caller = Caller { uid: 0, gid: 0, pid: 1 };
            fs.mkdir(&caller, NodeId::ROOT, OsStr::new(name), 0o755, 0).unwrap();
        };
        write("one");
        let cut = store.snapshot(&["v"], None, Receipt::none()).unwrap();
        let (one, id) = (cut.snapshots[0].epoch, store.volume("v").unwrap().id);
        assert!(cut.snapshots[0].made && store.is_at("v", one).unwrap());
        assert!(!store.snapshot(&["v"], None, Receipt::none()).unwrap().snapshots[0].made);
        write("two");
        assert!(!store.is_at("v", one).unwrap());
        store.rollback("v", &store.snapshot_at(id, one).unwrap(), Receipt::none()).unwrap();
        // It has left its branch: whoever asks gets a head that says the same, which is not told from others.
        let two = store.snapshot(&["v"], None, Receipt::none()).unwrap().snapshots[0].epoch;
        assert!(store.is_at("v", two).unwrap() && !store.is_at("v", one).unwrap());
        assert_eq!(store.snapshot_at(id, Epoch(999)), None);
    }
}
