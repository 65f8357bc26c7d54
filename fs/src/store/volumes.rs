//! Making, listing, renaming and removing volumes.

use std::path::{Path, PathBuf};

use rocksdb::WriteBatch;

use super::appearance::{VolumeInfo, VolumeSpec};
use super::counters::Counter;
use super::head::FIRST_EPOCH;
use super::record::{Branch, Flag, Inode, Record, Usage, Volume};
use super::registry::Registry;
use super::{META, Prefix, Receipt, Store, meta};
use crate::attr::{FileKind, Timestamp};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, Ino, TreeId, VolumeId};
use crate::overlay::stack::MAX_LOWERS;

/// Whether what was removed just before goes first.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Settle {
    Yes,
    No,
}

impl Store {
    /// Makes a volume. Durable on return.
    pub fn create_volume(
        &self,
        name: &str,
        spec: &VolumeSpec,
        receipt: Receipt<'_, VolumeInfo>,
    ) -> Result<VolumeInfo, FsError> {
        let lowers = check_lowers(spec)?;
        let mut registry = self.registry.write();
        let mut batch = WriteBatch::default();
        let made = self.put_new_volume(&mut batch, &registry, name, spec, lowers)?;
        self.commit_change(batch, receipt, &made.info)?;
        Ok(made.register(&mut registry))
    }

    /// Adds an empty volume to a batch. `lowers`: those that `spec` names, as [`check_lowers`] found them.
    pub(super) fn put_new_volume(
        &self,
        batch: &mut WriteBatch,
        registry: &Registry,
        name: &str,
        spec: &VolumeSpec,
        lowers: Vec<PathBuf>,
    ) -> Result<NewVolume, FsError> {
        registry.check_new_volume(name)?;
        let tree = TreeId(self.number(Counter::Tree)?);
        let branch = BranchId(self.number(Counter::Branch)?);
        let id = VolumeId(self.number(Counter::Volume)?);
        let volume = Volume {
            name: name.to_owned(),
            tree,
            branch,
            created: Timestamp::now(),
            quota_bytes: spec.quota_bytes,
            quota_inodes: spec.quota_inodes,
            lowers,
            parent: None,
        };
        let branch_record = Branch { tree, volume: id, parent: None, epoch: FIRST_EPOCH };
        batch.put_cf(self.db.family(META), meta::volume(id), volume.encode());
        batch.put_cf(self.db.family(META), meta::branch(branch), branch_record.encode());
        if volume.lowers.is_empty() {
            // Epoch 0 belongs to nobody's snapshot: the root is there from the start.
            let root = Prefix::inode(tree, Ino::ROOT);
            let record = Some(empty_root(volume.created));
            batch.put_cf(self.db.family(root.family.name()), root.version(branch, Epoch(0)), record.encode());
        }
        let info = volume.describe(id, None, branch_record.epoch, Usage::default());
        Ok(NewVolume { id, volume, branch, branch_record, info })
    }

    /// Lists all volumes by name.
    pub fn volumes(&self) -> Result<Vec<VolumeInfo>, FsError> {
        self.list(Settle::Yes)
    }

    /// As [`Store::volumes`], but what was removed just before may still be counted: nothing is removed, or waited for, for this.
    pub fn volumes_at_once(&self) -> Result<Vec<VolumeInfo>, FsError> {
        self.list(Settle::No)
    }

    fn list(&self, settle: Settle) -> Result<Vec<VolumeInfo>, FsError> {
        let ids: Vec<VolumeId> = self.registry.read().volumes.keys().copied().collect();
        let mut listed = Vec::with_capacity(ids.len());
        for id in ids {
            listed.extend(self.listed_unless_gone(id, settle)?);
        }
        listed.sort_by(|one, other| one.name.cmp(&other.name));
        Ok(listed)
    }

    /// Describes a volume that others may rename or remove meanwhile.
    fn listed_unless_gone(&self, id: VolumeId, settle: Settle) -> Result<Option<VolumeInfo>, FsError> {
        let called = || self.registry.read().volumes.get(&id).map(|volume| volume.name.clone());
        while let Some(name) = called() {
            match self.listed(&name, settle) {
                Ok(info) if info.id == id => return Ok(Some(info)),
                Err(error) if called().as_ref() == Some(&name) => return Err(error),
                // It is called otherwise by now, or gone.
                Ok(_) | Err(_) => {}
            }
        }
        Ok(None)
    }

    /// Describes a volume also if what it descends from cannot be read: then that is what its flag says.
    fn listed(&self, name: &str, settle: Settle) -> Result<VolumeInfo, FsError> {
        match self.described(name, settle) {
            Err(FsError::Store(error)) if error.is_corruption() => {
                let registry = self.registry.read();
                let (id, volume) = registry.volume(name)?;
                let what = format!("it cannot be used: {error}");
                let flag = Some(Flag { since: Timestamp::default(), count: 1, what });
                Ok(VolumeInfo {
                    flag,
                    ..volume.describe(id, registry.origin(id), Epoch(0), Usage::default())
                })
            }
            described => described,
        }
    }

    /// Describes one volume.
    pub fn volume(&self, name: &str) -> Result<VolumeInfo, FsError> {
        self.described(name, Settle::Yes)
    }

    fn described(&self, name: &str, settle: Settle) -> Result<VolumeInfo, FsError> {
        let (id, volume, parent) = {
            let registry = self.registry.read();
            let (id, volume) = registry.volume(name)?;
            (id, volume.clone(), registry.origin(id))
        };
        let head = self.head(volume.branch)?;
        if let Some(live) = head.live().filter(|_| settle == Settle::Yes) {
            live.settle();
        }
        let flag = self.volume_flag(id)?;
        Ok(VolumeInfo { flag, ..volume.describe(id, parent, head.gate.epoch(), head.usage()) })
    }

    /// Refuses while somebody looks at a snapshot of a volume, by which it could not be removed.
    ///
    /// # Errors
    /// [`FsError::SnapshotMounted`]
    pub fn check_snapshots_unused(&self, volume: &str) -> Result<(), FsError> {
        let registry = self.registry.read();
        let (id, _) = registry.volume(volume)?;
        let snapshots: Vec<_> = registry.snapshots_of(id).map(|(branch, epoch, _)| (branch, epoch)).collect();
        check_not_viewed(&registry, &snapshots)
    }

    /// Removes a volume with its snapshots. What forks of it need stays. Durable on return; the space
    /// comes back in the background.
    ///
    /// # Errors
    /// [`FsError::VolumeMounted`] and [`FsError::SnapshotMounted`] while it, or a snapshot of it, is in use.
    pub fn remove_volume(&self, name: &str, receipt: Receipt<'_, ()>) -> Result<(), FsError> {
        let _borrowing = self.reclaimer.borrowing.lock();
        let loaded = self.head_of_volume(name)?;
        // Neither a cut nor somebody who opens it may find it half removed.
        let (_cutting, _opening) = (loaded.cutting.lock(), loaded.opening.lock());
        let mut registry = self.registry.write();
        let (id, volume) = registry.volume(name)?;
        let head = volume.branch;
        if head != loaded.branch {
            return Err(FsError::Retired);
        }
        self.check_not_live(head, name)?;
        let snapshots: Vec<_> = registry.snapshots_of(id).map(|(branch, epoch, _)| (branch, epoch)).collect();
        check_not_viewed(&registry, &snapshots)?;
        let branches: Vec<_> = registry.branches_of(id).collect();
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.db.family(META), meta::volume(id));
        batch.delete_cf(self.db.family(META), meta::flag(id));
        let unreadable = registry.unreadable_snapshots(&branches);
        for &(branch, epoch) in snapshots.iter().chain(&unreadable) {
            batch.delete_cf(self.db.family(META), meta::snapshot(branch, epoch));
        }
        for &branch in &branches {
            self.put_sweep_of_branch(&mut batch, &registry, branch)?;
        }
        self.commit_change(batch, receipt, &())?;
        registry.remove_volume(id);
        for &key in &snapshots {
            registry.remove_snapshot(key);
        }
        registry.take_unreadable_snapshots(&branches);
        drop(registry);
        loaded.gate.retire();
        self.unload_head(head);
        self.wake_reclaimer();
        Ok(())
    }

    /// Gives a volume another name. Durable on return.
    pub fn rename_volume(
        &self,
        old: &str,
        new: &str,
        receipt: Receipt<'_, VolumeInfo>,
    ) -> Result<VolumeInfo, FsError> {
        self.change_volume(old, receipt, |registry, volume| {
            registry.check_new_volume(new)?;
            volume.name = new.to_owned();
            Ok(())
        })
    }

    /// Changes the quotas of a volume. What is stored already stays, also above a new quota. Durable on return.
    pub fn set_quota(
        &self,
        name: &str,
        bytes: Option<u64>,
        inodes: Option<u64>,
        receipt: Receipt<'_, VolumeInfo>,
    ) -> Result<VolumeInfo, FsError> {
        let info = self.change_volume(name, receipt, |_, volume| {
            volume.quota_bytes = bytes;
            volume.quota_inodes = inodes;
            Ok(())
        })?;
        let branch = self.registry.read().volume(name)?.1.branch;
        self.head(branch)?.set_quota(bytes, inodes);
        Ok(info)
    }

    fn change_volume(
        &self,
        name: &str,
        receipt: Receipt<'_, VolumeInfo>,
        change: impl FnOnce(&Registry, &mut Volume) -> Result<(), FsError>,
    ) -> Result<VolumeInfo, FsError> {
        // Loading a head asks the registry, so before it is locked. A cut meanwhile shows in the answer or not.
        let head = self.head_of_volume(name)?;
        if let Some(live) = head.live() {
            live.settle();
        }
        let mut registry = self.registry.write();
        let (id, volume) = registry.volume(name)?;
        if volume.branch != head.branch {
            return Err(FsError::Retired);
        }
        let mut volume = volume.clone();
        change(&registry, &mut volume)?;
        let mut batch = WriteBatch::default();
        batch.put_cf(self.db.family(META), meta::volume(id), volume.encode());
        let info = volume.describe(id, registry.origin(id), head.gate.epoch(), head.usage());
        self.commit_change(batch, receipt, &info)?;
        registry.insert_volume(id, volume);
        Ok(info)
    }

    /// Refuses what must not happen to a mounted head.
    pub(crate) fn check_not_live(&self, branch: BranchId, name: &str) -> Result<(), FsError> {
        match self.loaded_head(branch).is_some_and(|head| head.is_live()) {
            true => Err(FsError::VolumeMounted { name: name.to_owned() }),
            false => Ok(()),
        }
    }

    /// Returns the next tree, branch, volume or cut number.
    pub(crate) fn number(&self, counter: Counter) -> Result<u32, FsError> {
        let number = self.counters.next(&self.db, counter)?;
        u32::try_from(number).map_err(|_| FsError::NoSpace)
    }
}

/// A volume whose records are in a batch.
pub(super) struct NewVolume {
    pub(super) id: VolumeId,
    pub(super) volume: Volume,
    pub(super) branch: BranchId,
    pub(super) branch_record: Branch,
    pub(super) info: VolumeInfo,
}

impl NewVolume {
    /// Makes it known, once its batch is written.
    pub(super) fn register(self, registry: &mut Registry) -> VolumeInfo {
        registry.insert_volume(self.id, self.volume);
        registry.insert_branch(self.branch, self.branch_record);
        self.info
    }
}

impl Volume {
    /// Returns what is shown of a volume that was forked from `parent`, and whose head is at `epoch` and stores this much, but
    /// for its flag.
    pub(crate) fn describe(
        &self,
        id: VolumeId,
        parent: Option<String>,
        epoch: Epoch,
        usage: Usage,
    ) -> VolumeInfo {
        let Volume { name, created, quota_bytes, quota_inodes, lowers, parent: _, tree: _, branch: _ } =
            self.clone();
        VolumeInfo {
            name,
            id,
            epoch,
            parent,
            lowers,
            used_bytes: u64::try_from(usage.bytes).unwrap_or(0),
            used_inodes: u64::try_from(usage.inodes).unwrap_or(0),
            quota_bytes,
            quota_inodes,
            created,
            flag: None,
        }
    }
}

/// Refuses while a view of any of the snapshots is open.
pub(crate) fn check_not_viewed(registry: &Registry, snapshots: &[(BranchId, Epoch)]) -> Result<(), FsError> {
    match snapshots.iter().find(|key| registry.viewed.contains_key(*key)) {
        Some(&(branch, epoch)) => {
            Err(FsError::SnapshotMounted { name: registry.snapshot_label(branch, epoch) })
        }
        None => Ok(()),
    }
}

/// Returns the lowers of a volume without symbolic links. One may be on a file system that hangs: nothing that others wait for is held here.
pub(super) fn check_lowers(spec: &VolumeSpec) -> Result<Vec<PathBuf>, FsError> {
    let lowers = spec.lowers.iter().map(|path| check_lower(path)).collect::<Result<Vec<_>, _>>()?;
    if lowers.len() > MAX_LOWERS {
        let path = spec.lowers.last().cloned().unwrap_or_default();
        return Err(FsError::BadLower { path, why: format!("a volume has at most {MAX_LOWERS} lowers") });
    }
    Ok(lowers)
}

fn check_lower(path: &Path) -> Result<PathBuf, FsError> {
    let bad = |why: String| FsError::BadLower { path: path.to_owned(), why };
    let canonical = path.canonicalize().map_err(|error| match error.kind() {
        std::io::ErrorKind::NotFound => FsError::LowerMissing { path: path.to_owned() },
        _ => bad(error.to_string()),
    })?;
    if !canonical.is_dir() {
        return Err(bad("not a directory".into()));
    }
    Ok(canonical)
}

fn empty_root(now: Timestamp) -> Inode {
    Inode {
        kind: FileKind::Directory,
        perm: 0o755,
        nlink: 2,
        uid: nix::unistd::geteuid().as_raw(),
        gid: nix::unistd::getegid().as_raw(),
        rdev: 0,
        size: 0,
        stored: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        has_xattrs: false,
        parent: Ino::ROOT,
        name: Box::default(),
        lower: None,
        target: None,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};

    use super::*;
    use crate::store::StoreOptions;

    #[test]
    fn a_list_of_volumes_that_others_rename_and_remove_has_no_error() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &StoreOptions::default()).unwrap();
        let create = |name: &str| store.create_volume(name, &VolumeSpec::default(), Receipt::none()).unwrap();
        create("stays");
        let done = AtomicBool::new(false);
        std::thread::scope(|scope| {
            scope.spawn(|| {
                for _ in 0..300 {
                    create("comes");
                    store.cut(&["comes"], None, Receipt::none()).unwrap();
                    store.rename_volume("comes", "goes", Receipt::none()).unwrap();
                    store.remove_volume("goes", Receipt::none()).unwrap();
                }
                done.store(true, Ordering::SeqCst);
            });
            let mut seen = 0;
            while !done.load(Ordering::SeqCst) {
                let listed = store.volumes_at_once().unwrap();
                assert_eq!(listed.iter().filter(|volume| volume.name == "stays").count(), 1);
                assert!(listed.len() <= 2, "{listed:?}");
                let snapshots = store.snapshots(None).unwrap();
                assert!(snapshots.iter().all(|snapshot| !snapshot.volume.is_empty()), "{snapshots:?}");
                seen += usize::from(listed.len() == 2);
            }
            assert!(seen > 0, "it was never there");
        });
    }
}
