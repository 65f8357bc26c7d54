//! Starting a branch at a snapshot: forks, and rollbacks, which are forks of oneself.
//!
//! # Crash consistency
//! Both are one batch and one sync. What a rollback abandons is swept in the background.

use std::sync::Arc;

use rocksdb::WriteBatch;

use super::appearance::VolumeInfo;
use super::counters::Counter;
use super::head::Head;
use super::record::{Branch, Record, Usage, Volume, WriterState};
use super::registry::Registry;
use super::view::View;
use super::volumes::NewVolume;
use super::{META, Receipt, Store, meta};
use crate::attr::Timestamp;
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, TreeId, VolumeId};

impl Store {
    /// Makes a volume whose content is that of a snapshot. O(1), durable on return.
    pub fn fork(
        &self,
        snapshot: &str,
        new_volume: &str,
        receipt: Receipt<'_, VolumeInfo>,
    ) -> Result<VolumeInfo, FsError> {
        let mut registry = self.registry.write();
        let mut batch = WriteBatch::default();
        let made = self.put_fork(&mut batch, &registry, snapshot, new_volume)?;
        self.commit_change(batch, receipt, &made.info)?;
        Ok(made.register(&mut registry))
    }

    /// Adds a fork of a snapshot to a batch.
    pub(super) fn put_fork(
        &self,
        batch: &mut WriteBatch,
        registry: &Registry,
        snapshot: &str,
        new_volume: &str,
    ) -> Result<NewVolume, FsError> {
        registry.check_new_volume(new_volume)?;
        let (parent, epoch, record) = registry.snapshot(snapshot)?;
        let (usage, source) = (record.usage, record.volume);
        let tree = registry.branch(parent)?.tree;
        let (lowers, quota_bytes, quota_inodes) = match registry.volumes.get(&source) {
            Some(volume) => (volume.lowers.clone(), volume.quota_bytes, volume.quota_inodes),
            None => return Err(FsError::SnapshotNotFound { name: snapshot.to_owned() }),
        };
        let branch = BranchId(self.number(Counter::Branch)?);
        let id = VolumeId(self.number(Counter::Volume)?);
        let volume = Volume {
            name: new_volume.to_owned(),
            tree,
            branch,
            created: Timestamp::now(),
            quota_bytes,
            quota_inodes,
            lowers,
            parent: Some(snapshot.to_owned()),
        };
        let branch_record = self.put_branch(batch, tree, id, (parent, epoch), branch, epoch.next(), usage);
        batch.put_cf(self.db.family(META), meta::volume(id), volume.encode());
        let info = volume.describe(id, volume.parent.clone(), branch_record.epoch, usage);
        Ok(NewVolume { id, volume, branch, branch_record, info })
    }

    /// Points a volume at a snapshot of its own; what was written since the newest snapshot is given up. O(1), durable on
    /// return.
    ///
    /// Returns the head that is written from now on and what it sees. Whoever has the old head open must turn to the new one:
    /// `switch` is called with it while nobody can open the volume.
    pub(crate) fn rollback_head(
        &self,
        volume: &str,
        snapshot: &str,
        receipt: Receipt<'_, VolumeInfo>,
        switch: impl FnOnce(Arc<Head>, View),
    ) -> Result<VolumeInfo, FsError> {
        let mut registry = self.registry.write();
        let (id, record) = registry.volume(volume)?;
        let (old, mut record) = (record.branch, record.clone());
        let (parent, epoch, target) = registry.snapshot(snapshot)?;
        if target.volume != id {
            return Err(FsError::OfAnotherVolume {
                volume: volume.to_owned(),
                snapshot: snapshot.to_owned(),
            });
        }
        let usage = target.usage;
        let branch = BranchId(self.number(Counter::Branch)?);
        let first = registry.last_epoch(id).next();
        record.branch = branch;
        let mut batch = WriteBatch::default();
        let branch_record =
            self.put_branch(&mut batch, record.tree, id, (parent, epoch), branch, first, usage);
        batch.put_cf(self.db.family(META), meta::volume(id), record.encode());
        // The old head is nobody's any more: what only it could see goes.
        let kept = registry.pinned_up_to(old, Epoch(u64::MAX)).unwrap_or(Epoch(0));
        self.put_sweep_after(&mut batch, old, kept, Epoch(u64::MAX))?;
        let info = record.describe(id, registry.origin(id), first, usage);
        self.commit_change(batch, receipt, &info)?;
        registry.insert_volume(id, record);
        registry.insert_branch(branch, branch_record);
        let view = registry.view(branch, Epoch(u64::MAX))?;
        drop(registry);
        self.unload_head(old);
        switch(self.head(branch)?, view);
        self.wake_reclaimer();
        Ok(info)
    }

    #[expect(clippy::too_many_arguments, reason = "each is one field of what is stored")]
    fn put_branch(
        &self,
        batch: &mut WriteBatch,
        tree: TreeId,
        volume: VolumeId,
        parent: (BranchId, Epoch),
        branch: BranchId,
        epoch: Epoch,
        usage: Usage,
    ) -> Branch {
        let record = Branch { tree, volume, parent: Some(parent), epoch };
        batch.put_cf(self.db.family(META), meta::branch(branch), record.encode());
        batch.put_cf(
            self.db.family(META),
            meta::usage(branch, 0),
            WriterState { usage, answered: None }.encode(),
        );
        record
    }
}
