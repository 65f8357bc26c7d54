//! Volumes, branches and snapshots: what they say of each other, and which trees can be seen.

use std::collections::{BTreeMap, BTreeSet};

use hashbrown::HashSet;

use super::meta::Meta;
use super::{Check, Issue};
use crate::ids::{BranchId, Epoch, TreeId};
use crate::store::View;
use crate::store::record::{Branch, Volume};

/// The last epoch there can be: a head sees all of its branch.
pub(super) const HEAD: Epoch = Epoch(u64::MAX);

/// The history of all volumes, as far as it makes sense.
pub(super) struct History {
    pub(super) meta: Meta,
    /// The epochs of each branch that something sees the end of, [`HEAD`] for the head of a volume.
    retained: BTreeMap<BranchId, BTreeSet<Epoch>>,
    forks: BTreeMap<(BranchId, Epoch), Vec<BranchId>>,
    heads: BTreeMap<BranchId, Volume>,
}

impl History {
    /// Checks it. What makes no sense is left out from here on.
    pub(super) fn check(check: &mut Check<'_>, meta: Meta) -> History {
        let mut history =
            History { meta, retained: BTreeMap::new(), forks: BTreeMap::new(), heads: BTreeMap::new() };
        let sound = history.check_branches(check);
        history.check_volumes(check, &sound);
        history.check_snapshots(check, &sound);
        history.check_actors(check);
        history.check_marks(check);
        history
    }

    /// Returns after which epoch those of a branch count as settled among which are two.
    pub(super) fn settled(&self, branch: BranchId, older: Epoch, newer: Epoch) -> Option<Epoch> {
        let (&(_, after), &last) =
            self.meta.settled.range((branch, Epoch(0))..(branch, older)).next_back()?;
        (newer <= last).then_some(after)
    }

    /// Returns the branches whose whole ancestry makes sense.
    fn check_branches(&mut self, check: &mut Check<'_>) -> HashSet<BranchId> {
        let mut sound = HashSet::new();
        // In the order of numbers: ancestors come first.
        for (&id, branch) in &self.meta.branches {
            let Some((parent, epoch)) = branch.parent else {
                sound.insert(id);
                continue;
            };
            let issue = match self.meta.branches.get(&parent) {
                None => Issue::BranchWithoutParent { branch: id.0, parent: parent.0 },
                Some(_) if parent >= id => Issue::BranchBeforeParent { branch: id.0, parent: parent.0 },
                Some(found) if found.tree != branch.tree || epoch >= found.epoch => {
                    Issue::BranchOffParent { branch: id.0, parent: parent.0, epoch: epoch.0 }
                }
                Some(_) => {
                    if sound.contains(&parent) {
                        sound.insert(id);
                        self.forks.entry((parent, epoch)).or_default().push(id);
                        self.retained.entry(parent).or_default().insert(epoch);
                    }
                    continue;
                }
            };
            check.findings.add(issue);
        }
        sound
    }

    fn check_volumes(&mut self, check: &mut Check<'_>, sound: &HashSet<BranchId>) {
        let mut names = HashSet::new();
        for (&id, volume) in &self.meta.volumes {
            if !names.insert(&volume.name) {
                check.findings.add(Issue::VolumeNamedTwice { volume: volume.name.clone() });
            }
            match self.meta.branches.get(&volume.branch) {
                Some(branch) if branch.tree == volume.tree && branch.volume == id => {
                    if sound.contains(&volume.branch) {
                        self.heads.insert(volume.branch, volume.clone());
                        self.retained.entry(volume.branch).or_default().insert(HEAD);
                    }
                }
                Some(_) | None => check
                    .findings
                    .add(Issue::VolumeWithoutHead { volume: volume.name.clone(), branch: volume.branch.0 }),
            }
        }
    }

    fn check_snapshots(&mut self, check: &mut Check<'_>, sound: &HashSet<BranchId>) {
        for (&(branch, epoch), snapshot) in &self.meta.snapshots {
            let issue = match self.meta.branches.get(&branch) {
                None => Issue::SnapshotWithoutBranch { branch: branch.0, epoch: epoch.0 },
                Some(found) if epoch >= found.epoch => {
                    Issue::SnapshotOfFuture { branch: branch.0, epoch: epoch.0 }
                }
                Some(found) if found.volume != snapshot.volume => Issue::SnapshotOfOtherVolume {
                    branch: branch.0,
                    epoch: epoch.0,
                    volume: snapshot.volume.0,
                },
                Some(_) => {
                    if sound.contains(&branch) {
                        self.retained.entry(branch).or_default().insert(epoch);
                    }
                    continue;
                }
            };
            check.findings.add(issue);
        }
    }

    fn check_actors(&self, check: &mut Check<'_>) {
        for (actor, volumes) in &self.meta.actors {
            for volume in volumes.iter().filter(|id| !self.meta.volumes.contains_key(id)) {
                check.findings.add(Issue::ActorWithoutVolume { actor: actor.clone(), volume: volume.0 });
            }
        }
        if self.meta.captures.is_empty() {
            return;
        }
        let snapshots = self.meta.snapshots.iter();
        let ends: HashSet<_> = snapshots.map(|(&(_, epoch), snapshot)| (snapshot.volume, epoch)).collect();
        for (capture, held) in &self.meta.captures {
            for (volume, epoch) in held.iter().filter(|end| !ends.contains(*end)) {
                let (volume, epoch) = (volume.0, epoch.0);
                check.findings.add(Issue::CaptureWithoutSnapshot { capture: *capture, volume, epoch });
            }
        }
    }

    fn check_marks(&self, check: &mut Check<'_>) {
        for (tree, slots) in &self.meta.slots {
            for (slot, found) in (0..).zip(slots) {
                if slot != *found {
                    check.findings.add(Issue::LowerSlotMissing { tree: tree.0, slot });
                    break;
                }
            }
        }
        for branch in self.meta.usage.keys().filter(|branch| !self.meta.branches.contains_key(*branch)) {
            check.findings.add(Issue::UsageWithoutBranch { branch: branch.0 });
        }
        let orphans =
            self.meta.orphans.iter().flat_map(|(&branch, all)| all.iter().map(move |&ino| (branch, ino)));
        for (branch, ino) in orphans.chain(self.meta.departed.iter().copied()) {
            if !self.meta.branches.contains_key(&branch) {
                check.findings.add(Issue::OrphanMarkWithoutBranch { branch: branch.0, inode: ino.0 });
            }
        }
    }

    /// Checks that no number is in use that is yet to be handed out.
    pub(super) fn check_counters(&self, check: &mut Check<'_>, last_inode: u64) {
        let meta = &self.meta;
        let used = [
            ("tree", meta.branches.values().map(|branch| u64::from(branch.tree.0)).max()),
            ("branch", meta.branches.keys().map(|branch| u64::from(branch.0)).max()),
            ("volume", meta.volumes.keys().map(|volume| u64::from(volume.0)).max()),
            ("cut", meta.snapshots.values().map(|snapshot| snapshot.cut).max()),
            ("inode", Some(last_inode).filter(|&last| last >= crate::ids::Ino::FIRST_ALLOCATED.0)),
            ("segment", meta.last_segment.map(u64::from)),
        ];
        for (which, (counter, used)) in (0u8..).zip(used) {
            let next = meta.counters.get(&which).copied().unwrap_or(0);
            if let Some(used) = used.filter(|&used| used >= next) {
                check.findings.add(Issue::CounterBehind { counter, next, used });
            }
        }
    }

    /// Returns a branch, also one that makes no sense.
    pub(super) fn branch(&self, id: BranchId) -> Option<&Branch> {
        self.meta.branches.get(&id)
    }

    /// Returns the families that have a tree that can be seen.
    pub(super) fn trees(&self) -> Vec<TreeId> {
        let trees: BTreeSet<_> = self.retained.keys().filter_map(|&id| Some(self.branch(id)?.tree)).collect();
        trees.into_iter().collect()
    }

    /// Returns the branches of a tree that left no other.
    pub(super) fn roots(&self, tree: TreeId) -> impl Iterator<Item = BranchId> {
        let of_tree = self.meta.branches.iter().filter(move |(_, branch)| branch.tree == tree);
        of_tree.filter(|(_, branch)| branch.parent.is_none()).map(|(&id, _)| id)
    }

    /// Returns the epochs of a branch of which something sees the end, oldest first.
    pub(super) fn retained(&self, branch: BranchId) -> impl Iterator<Item = Epoch> {
        self.retained.get(&branch).into_iter().flatten().copied()
    }

    /// Returns the first epoch from `first` up to and without `end` of which something sees the end.
    pub(super) fn retained_between(
        &self,
        branch: BranchId,
        first: Epoch,
        end: Option<Epoch>,
    ) -> Option<Epoch> {
        let found = self.retained.get(&branch)?.range(first..).next().copied()?;
        end.is_none_or(|end| found < end).then_some(found)
    }

    /// Tells whether an epoch has ended, and every page should have a checksum by now.
    pub(super) fn is_sealed(&self, branch: BranchId, epoch: Epoch) -> bool {
        self.branch(branch).is_some_and(|branch| epoch < branch.epoch)
            && !self.meta.unsealed.contains(&(branch, epoch))
    }

    /// Returns the branches that left `branch` at the end of an epoch.
    pub(super) fn forks_at(&self, branch: BranchId, epoch: Epoch) -> &[BranchId] {
        self.forks.get(&(branch, epoch)).map(Vec::as_slice).unwrap_or_default()
    }

    /// Returns the volume whose head a branch is.
    pub(super) fn head_of(&self, branch: BranchId) -> Option<&Volume> {
        self.heads.get(&branch)
    }

    /// Returns what the end of an epoch of a branch sees. The branch must be one of those that make sense.
    pub(super) fn view(&self, branch: BranchId, epoch: Epoch) -> View {
        let mut lineage = vec![(branch, epoch)];
        let mut at = self.branch(branch);
        let tree = at.map_or(TreeId(0), |branch| branch.tree);
        while let Some((parent, epoch)) = at.and_then(|branch| branch.parent) {
            lineage.push((parent, epoch));
            at = self.branch(parent);
        }
        View::new(tree, lineage)
    }

    /// How a tree is called: `VOLUME` or `VOLUME@EPOCH`.
    pub(super) fn label(&self, branch: BranchId, epoch: Epoch) -> String {
        let volume = self.branch(branch).and_then(|branch| self.meta.volumes.get(&branch.volume));
        let name = volume.map_or("(removed)", |volume| volume.name.as_str());
        if epoch == HEAD { name.to_owned() } else { format!("{name}@{epoch}") }
    }
}
