//! Which volumes, branches and snapshots there are, and what each may see.
//!
//! # Invariants
//! - What is here is what the `meta` family says: a change is written first, then made here, under the same lock.
//! - An epoch of a branch is *retained* while a snapshot or a fork ends at it, or while the branch is the head of a
//!   volume and the epoch is its current one. A version is reachable exactly if a retained epoch sees it.
//! - An epoch that a cut is ending is retained from the moment that the next one exists: its snapshot is not recorded yet.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Bound;

use hashbrown::HashMap;

use super::db::{Database, META};
use super::error::StoreError;
use super::keys::meta;
use super::record::{Branch, LowerSlot, Record, Snapshot, Volume};
use super::view::View;
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, TreeId, VolumeId};

/// Volumes, branches and snapshots.
#[derive(Default)]
pub(crate) struct Registry {
    pub(crate) volumes: BTreeMap<VolumeId, Volume>,
    names: HashMap<String, VolumeId>,
    pub(crate) branches: BTreeMap<BranchId, Branch>,
    pub(crate) snapshots: BTreeMap<(BranchId, Epoch), Snapshot>,
    /// Epochs that are being ended by cuts, whose snapshots are not recorded yet.
    ending: BTreeSet<(BranchId, Epoch)>,
    /// The branches that each volume made.
    made_by: BTreeSet<(VolumeId, BranchId)>,
    /// Snapshots that have a name beside their epoch.
    named: HashMap<VolumeId, HashMap<String, (BranchId, Epoch)>>,
    /// (parent, epoch, child) of every fork.
    forks: BTreeSet<(BranchId, Epoch, BranchId)>,
    /// Snapshots that are in use by a view, and how often.
    pub(crate) viewed: HashMap<(BranchId, Epoch), usize>,
    pub(crate) slots: HashMap<TreeId, Vec<LowerSlot>>,
    unreadable: Unreadable,
}

/// What records stand for that cannot be read: it is there, and nothing is known of it.
#[derive(Default)]
struct Unreadable {
    volumes: BTreeSet<VolumeId>,
    branches: BTreeSet<BranchId>,
    snapshots: BTreeSet<(BranchId, Epoch)>,
    /// Trees of which a lower slot cannot be read.
    trees: BTreeSet<TreeId>,
}

impl Registry {
    /// Loads everything. What cannot be read is known by its key.
    pub(crate) fn load(db: &Database) -> Result<Registry, StoreError> {
        let mut registry = Registry::default();
        db.scan(META, &[meta::VOLUME], &[], |key, value| {
            let Some(id) = meta::tail_u32(key).map(VolumeId) else { return Ok(true) };
            match Volume::decode(value) {
                Some(volume) => registry.insert_volume(id, volume),
                None => drop(registry.unreadable.volumes.insert(id)),
            }
            Ok(true)
        })?;
        db.scan(META, &[meta::BRANCH], &[], |key, value| {
            let Some(id) = meta::tail_u32(key).map(BranchId) else { return Ok(true) };
            match Branch::decode(value) {
                Some(branch) => registry.insert_branch(id, branch),
                None => drop(registry.unreadable.branches.insert(id)),
            }
            Ok(true)
        })?;
        db.scan(META, &[meta::SNAPSHOT], &[], |key, value| {
            let Some((branch, epoch)) = meta::tail_u32_u64(key) else { return Ok(true) };
            let at = (BranchId(branch), Epoch(epoch));
            match Snapshot::decode(value) {
                Some(snapshot) => registry.insert_snapshot(at, snapshot),
                None => drop(registry.unreadable.snapshots.insert(at)),
            }
            Ok(true)
        })?;
        db.scan(META, &[meta::LOWER_SLOT], &[], |key, value| {
            let Some(tree) = meta::tail_u32(key).map(TreeId) else { return Ok(true) };
            match LowerSlot::decode(value) {
                Some(slot) => registry.slots.entry(tree).or_default().push(slot),
                None => drop(registry.unreadable.trees.insert(tree)),
            }
            Ok(true)
        })?;
        Ok(registry)
    }

    /// Tells whether what a branch holds must stay because nobody knows who needs it: its volume cannot be read, or some
    /// branch, which may have left any other one.
    pub(crate) fn is_held(&self, branch: BranchId) -> bool {
        let volume = self.branches.get(&branch).map(|branch| branch.volume);
        !self.unreadable.branches.is_empty()
            || volume.is_some_and(|volume| self.unreadable.volumes.contains(&volume))
    }

    /// Returns the spaces of inode numbers of a tree's lowers.
    ///
    /// # Errors
    /// One of them cannot be read: the numbers of the others would be off.
    pub(crate) fn lower_slots(&self, tree: TreeId) -> Result<Vec<LowerSlot>, StoreError> {
        if self.unreadable.trees.contains(&tree) {
            return Err(StoreError::Corrupt { what: format!("lower slots of tree {}", tree.0) });
        }
        Ok(self.slots.get(&tree).cloned().unwrap_or_default())
    }

    /// Takes out the snapshots of some branches whose records cannot be read.
    pub(crate) fn take_unreadable_snapshots(&mut self, branches: &[BranchId]) {
        self.unreadable.snapshots.retain(|(branch, _)| !branches.contains(branch));
    }

    /// Returns the snapshots of some branches whose records cannot be read.
    pub(crate) fn unreadable_snapshots(&self, branches: &[BranchId]) -> Vec<(BranchId, Epoch)> {
        let all = self.unreadable.snapshots.iter();
        all.filter(|(branch, _)| branches.contains(branch)).copied().collect()
    }

    /// Returns the largest number of a tree, a branch, a volume and a cut that is in use.
    pub(crate) fn largest_numbers(&self) -> [u64; 4] {
        let tree = self.branches.values().map(|branch| branch.tree.0).max();
        let branch = self.branches.keys().chain(&self.unreadable.branches).map(|id| id.0).max();
        let volume = self.volumes.keys().chain(&self.unreadable.volumes).map(|id| id.0).max();
        let cut = self.snapshots.values().map(|snapshot| snapshot.cut).max();
        let number = |id: Option<u32>| id.map_or(0, u64::from);
        [number(tree), number(branch), number(volume), cut.unwrap_or(0)]
    }

    pub(crate) fn insert_volume(&mut self, id: VolumeId, volume: Volume) {
        if let Some(before) = self.volumes.get(&id) {
            self.names.remove(&before.name);
        }
        self.names.insert(volume.name.clone(), id);
        self.volumes.insert(id, volume);
    }

    pub(crate) fn remove_volume(&mut self, id: VolumeId) {
        if let Some(volume) = self.volumes.remove(&id) {
            self.names.remove(&volume.name);
        }
    }

    pub(crate) fn insert_branch(&mut self, id: BranchId, branch: Branch) {
        if let Some((parent, epoch)) = branch.parent {
            self.forks.insert((parent, epoch, id));
        }
        self.made_by.insert((branch.volume, id));
        self.branches.insert(id, branch);
    }

    pub(crate) fn remove_branch(&mut self, id: BranchId) {
        let Some(Branch { parent, volume, .. }) = self.branches.remove(&id) else { return };
        self.made_by.remove(&(volume, id));
        if let Some((parent, epoch)) = parent {
            self.forks.remove(&(parent, epoch, id));
        }
    }

    pub(crate) fn insert_snapshot(&mut self, key: (BranchId, Epoch), snapshot: Snapshot) {
        self.remove_snapshot(key);
        if let Some(name) = &snapshot.name {
            self.named.entry(snapshot.volume).or_default().insert(name.clone(), key);
        }
        self.snapshots.insert(key, snapshot);
    }

    pub(crate) fn remove_snapshot(&mut self, key: (BranchId, Epoch)) {
        if let Some(Snapshot { volume, name: Some(name), .. }) = self.snapshots.remove(&key)
            && let Some(names) = self.named.get_mut(&volume)
        {
            names.remove(&name);
            if names.is_empty() {
                self.named.remove(&volume);
            }
        }
    }

    /// Finds a volume by name.
    pub(crate) fn volume(&self, name: &str) -> Result<(VolumeId, &Volume), FsError> {
        let id = self.names.get(name).copied();
        id.and_then(|id| Some((id, self.volumes.get(&id)?)))
            .ok_or_else(|| FsError::VolumeNotFound { name: name.to_owned() })
    }

    /// Refuses a name that a volume or snapshot must not have, or that is taken by a volume.
    pub(crate) fn check_new_volume(&self, name: &str) -> Result<(), FsError> {
        check_name(name)?;
        if self.names.contains_key(name) {
            return Err(FsError::VolumeExists { name: name.to_owned() });
        }
        Ok(())
    }

    /// Finds a snapshot as people call it, `VOLUME@NAME` or `VOLUME@EPOCH`.
    pub(crate) fn snapshot(&self, called: &str) -> Result<(BranchId, Epoch, &Snapshot), FsError> {
        let not_found = || FsError::SnapshotNotFound { name: called.to_owned() };
        let (volume, name) = called.rsplit_once('@').ok_or_else(not_found)?;
        let (id, _) = self.volume(volume)?;
        let epoch = name.parse().ok().map(Epoch);
        let at_epoch = || self.snapshot_at(id, epoch?);
        let is_it = |&(branch, at): &(BranchId, Epoch)| {
            Some(at) == epoch && self.branches.get(&branch).is_some_and(|branch| branch.volume == id)
        };
        match self.snapshot_named(id, name).or_else(at_epoch) {
            Some(found) => Ok(found),
            None if self.unreadable.snapshots.iter().any(is_it) => {
                Err(StoreError::Corrupt { what: format!("snapshot record of {called}") }.into())
            }
            None => Err(not_found()),
        }
    }

    /// Finds a snapshot of a volume by the name it was given.
    pub(crate) fn snapshot_named(
        &self,
        volume: VolumeId,
        name: &str,
    ) -> Option<(BranchId, Epoch, &Snapshot)> {
        let &(branch, epoch) = self.named.get(&volume)?.get(name)?;
        self.snapshots.get(&(branch, epoch)).map(|snapshot| (branch, epoch, snapshot))
    }

    /// Finds a snapshot of a volume by its epoch.
    pub(crate) fn snapshot_at(&self, volume: VolumeId, epoch: Epoch) -> Option<(BranchId, Epoch, &Snapshot)> {
        self.branches_of(volume)
            .find_map(|branch| self.snapshots.get(&(branch, epoch)).map(|snapshot| (branch, epoch, snapshot)))
    }

    /// Returns the newest snapshot of each branch that the volume made.
    pub(crate) fn newest_snapshots(&self, volume: VolumeId) -> impl Iterator<Item = &Snapshot> {
        self.branches_of(volume).filter_map(|branch| {
            let all = self.snapshots.range((branch, Epoch(0))..=(branch, Epoch(u64::MAX)));
            all.last().map(|(_, snapshot)| snapshot)
        })
    }

    /// The branches that a volume made, oldest first.
    pub(crate) fn branches_of(&self, volume: VolumeId) -> impl Iterator<Item = BranchId> {
        let range = (volume, BranchId(0))..=(volume, BranchId(u32::MAX));
        self.made_by.range(range).map(|&(_, branch)| branch)
    }

    /// All snapshots of a volume, oldest branch first.
    pub(crate) fn snapshots_of(
        &self,
        volume: VolumeId,
    ) -> impl Iterator<Item = (BranchId, Epoch, &Snapshot)> {
        self.branches_of(volume).flat_map(move |branch| {
            self.snapshots
                .range((branch, Epoch(0))..=(branch, Epoch(u64::MAX)))
                .map(|(&(branch, epoch), snapshot)| (branch, epoch, snapshot))
        })
    }

    /// How a snapshot is called, `VOLUME@EPOCH`.
    pub(crate) fn snapshot_label(&self, branch: BranchId, epoch: Epoch) -> String {
        let volume = self.branches.get(&branch).and_then(|branch| self.volumes.get(&branch.volume));
        format!("{}@{epoch}", volume.map_or("(removed)", |volume| &volume.name))
    }

    /// Returns what the snapshot is called that a volume was forked from: as it was called then, if it still is; `None` if the volume was not
    /// forked, or if that is gone.
    pub(crate) fn origin(&self, volume: VolumeId) -> Option<String> {
        let record = self.volumes.get(&volume)?;
        let (called, mut branch) = (&record.parent, record.branch);
        let mut forked_at = None;
        // Rollbacks have made branches of its own.
        loop {
            let record = self.branches.get(&branch)?;
            if record.volume != volume {
                break;
            }
            forked_at = Some(record.parent?);
            branch = record.parent?.0;
        }
        let (branch, epoch) = forked_at?;
        self.snapshots.get(&(branch, epoch))?;
        let is_it =
            |called: &String| self.snapshot(called).is_ok_and(|found| (found.0, found.1) == (branch, epoch));
        Some(called.clone().filter(is_it).unwrap_or_else(|| self.snapshot_label(branch, epoch)))
    }

    /// Returns the volume whose head the branch is.
    pub(crate) fn head_of(&self, branch: BranchId) -> Option<(VolumeId, &Volume)> {
        let volume = self.branches.get(&branch)?.volume;
        let record = self.volumes.get(&volume)?;
        (record.branch == branch).then_some((volume, record))
    }

    /// Returns what the end of `epoch` sees.
    pub(crate) fn view(&self, branch: BranchId, epoch: Epoch) -> Result<View, FsError> {
        let mut lineage = vec![(branch, epoch)];
        let mut at = self.branch(branch)?;
        let tree = at.tree;
        while let Some((parent, epoch)) = at.parent {
            lineage.push((parent, epoch));
            at = self.branch(parent)?;
        }
        Ok(View::new(tree, lineage))
    }

    pub(crate) fn branch(&self, id: BranchId) -> Result<&Branch, FsError> {
        self.branches
            .get(&id)
            .ok_or_else(|| StoreError::Corrupt { what: format!("branch {id}: its record is missing") }.into())
    }

    /// Tells whether a snapshot, readable or not, or a fork ends at the epoch.
    pub(crate) fn is_pinned(&self, branch: BranchId, epoch: Epoch) -> bool {
        self.snapshots.contains_key(&(branch, epoch))
            || self.unreadable.snapshots.contains(&(branch, epoch))
            || self.forks_at(branch, epoch).next().is_some()
    }

    /// The branches that leave `branch` at the end of `epoch`.
    pub(crate) fn forks_at(&self, branch: BranchId, epoch: Epoch) -> impl Iterator<Item = BranchId> {
        self.forks
            .range((branch, epoch, BranchId(0))..=(branch, epoch, BranchId(u32::MAX)))
            .map(|&(_, _, child)| child)
    }

    /// The epochs of `branch` at which other branches leave it.
    pub(crate) fn fork_points(&self, branch: BranchId) -> impl Iterator<Item = Epoch> {
        let range = (branch, Epoch(0), BranchId(0))..=(branch, Epoch(u64::MAX), BranchId(u32::MAX));
        self.forks.range(range).map(|&(_, epoch, _)| epoch)
    }

    /// Returns the newest epoch up to and with `epoch` at which a snapshot or a fork ends.
    pub(crate) fn pinned_up_to(&self, branch: BranchId, epoch: Epoch) -> Option<Epoch> {
        let snapshot = self
            .snapshots
            .range((branch, Epoch(0))..=(branch, epoch))
            .next_back()
            .map(|(&(_, epoch), _)| epoch);
        let fork = self
            .forks
            .range((branch, Epoch(0), BranchId(0))..=(branch, epoch, BranchId(u32::MAX)))
            .next_back()
            .map(|&(_, epoch, _)| epoch);
        let unreadable = self.unreadable.snapshots.range((branch, Epoch(0))..=(branch, epoch)).next_back();
        snapshot.max(fork).max(unreadable.map(|&(_, epoch)| epoch))
    }

    /// Takes note that a cut is ending an epoch, together with the branch that says so.
    pub(crate) fn begin_end(&mut self, branch: BranchId, epoch: Epoch) {
        self.ending.insert((branch, epoch));
    }

    /// Takes note that the snapshot of an epoch that was being ended is recorded, or that there will be none.
    pub(crate) fn finish_end(&mut self, branch: BranchId, epoch: Epoch) {
        self.ending.remove(&(branch, epoch));
    }

    /// Returns the first retained epoch after `epoch`, and whether operations may still write into it.
    pub(crate) fn retained_after(&self, branch: BranchId, epoch: Epoch) -> Option<(Epoch, bool)> {
        let after = (Bound::Excluded((branch, epoch)), Bound::Included((branch, Epoch(u64::MAX))));
        let snapshot = self.snapshots.range(after).next().map(|(&(_, epoch), _)| epoch);
        let after = (
            Bound::Excluded((branch, epoch, BranchId(u32::MAX))),
            Bound::Included((branch, Epoch(u64::MAX), BranchId(u32::MAX))),
        );
        let fork = self.forks.range(after).next().map(|&(_, epoch, _)| epoch);
        let after = (Bound::Excluded((branch, epoch)), Bound::Included((branch, Epoch(u64::MAX))));
        let unreadable = self.unreadable.snapshots.range(after).next().map(|&(_, epoch)| epoch);
        let ending = self.ending.range(after).next().map(|&(_, epoch)| epoch);
        match ([snapshot, fork, unreadable].into_iter().flatten().min(), ending) {
            (Some(epoch), ending) if ending.is_none_or(|ending| epoch < ending) => Some((epoch, false)),
            (_, Some(ending)) => Some((ending, true)),
            _ => self.head_of(branch).and_then(|_| Some((self.branches.get(&branch)?.epoch, true))),
        }
    }

    /// Returns the largest epoch that any branch of the volume has seen.
    pub(crate) fn last_epoch(&self, volume: VolumeId) -> Epoch {
        let of_volume = self.branches_of(volume).filter_map(|id| self.branches.get(&id));
        of_volume.map(|branch| branch.epoch).max().unwrap_or(Epoch(0))
    }
}

/// Names are shown in paths, lists and URLs: letters, digits, `.`, `_`, `-`, at most 128 of them.
pub(crate) fn check_name(name: &str) -> Result<(), FsError> {
    let why = if name.is_empty() {
        "it is empty"
    } else if name.len() > 128 {
        "it is longer than 128 characters"
    } else if !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte)) {
        "only letters, digits, '.', '_' and '-' may be in it"
    } else if name.starts_with(['.', '-']) {
        "it must not begin with '.' or '-'"
    } else {
        return Ok(());
    };
    Err(FsError::BadName { name: name.to_owned(), why })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::Timestamp;
    use crate::store::record::Usage;

    #[test]
    fn an_epoch_is_retained_while_a_cut_ends_it() {
        let (branch, volume) = (BranchId(1), VolumeId(1));
        let at = |epoch| Branch { tree: TreeId(1), volume, parent: None, epoch: Epoch(epoch) };
        let mut registry = Registry::default();
        registry.insert_volume(
            volume,
            Volume {
                name: "v".into(),
                tree: TreeId(1),
                branch,
                created: Timestamp::now(),
                quota_bytes: None,
                quota_inodes: None,
                lowers: Vec::new(),
                parent: None,
            },
        );
        registry.insert_branch(branch, at(2));
        assert_eq!(registry.retained_after(branch, Epoch(0)), Some((Epoch(2), true)));
        registry.begin_end(branch, Epoch(2));
        registry.insert_branch(branch, at(3));
        assert_eq!(registry.retained_after(branch, Epoch(0)), Some((Epoch(2), true)));
        assert_eq!(registry.retained_after(branch, Epoch(2)), Some((Epoch(3), true)));
        let snapshot =
            Snapshot { volume, name: None, created: Timestamp::now(), cut: 1, usage: Usage::default() };
        registry.insert_snapshot((branch, Epoch(2)), snapshot);
        registry.finish_end(branch, Epoch(2));
        assert_eq!(registry.retained_after(branch, Epoch(0)), Some((Epoch(2), false)));
        registry.begin_end(branch, Epoch(3));
        registry.insert_branch(branch, at(4));
        registry.finish_end(branch, Epoch(3));
        assert_eq!(registry.retained_after(branch, Epoch(2)), Some((Epoch(4), true)));
    }

    #[test]
    fn names_that_could_be_taken_for_something_else_are_refused() {
        for good in ["a", "web-3", "A.b_c", "0"] {
            check_name(good).unwrap();
        }
        for bad in ["", ".", "..", ".x", "-x", "a/b", "a@1", "a b", "ä", &"x".repeat(129)] {
            assert!(check_name(bad).is_err(), "{bad:?}");
        }
    }
}
