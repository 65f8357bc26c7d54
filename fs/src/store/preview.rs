//! What a removal would give back, told without removing anything.
//!
//! # Overview
//! Two sets of pages are gathered in one pass over the records of the trees concerned: those that something shows now, and those that
//! something would show afterwards. The difference comes back. It takes time that follows the number of records of these trees, since
//! several removals at once give back more than each of them alone.
//!
//! # Concurrency
//! The records and the history are those of one moment. What is written while it works is not in the answer.

use std::collections::{BTreeMap, BTreeSet};

use super::page_set::PageSet;
use super::record::{Group, PAGE_SIZE, Record};
use super::registry::Registry;
use super::volumes::check_not_viewed;
use super::{Family, Frozen, Prefix, Store, VersionedKey};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, TreeId, VolumeId};

/// The last epoch there can be: a head sees all of its branch.
const HEAD: Epoch = Epoch(u64::MAX);

/// What a removal would do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RemovalPreview {
    /// The snapshots that would go, `VOLUME@EPOCH`, oldest first.
    pub snapshots: Vec<String>,
    /// Bytes of file data that nothing would refer to any more.
    pub bytes: u64,
}

/// What is to go.
#[derive(Default)]
struct Doomed {
    snapshots: BTreeSet<(BranchId, Epoch)>,
    /// Volumes whose heads go.
    heads: BTreeSet<VolumeId>,
    trees: BTreeSet<TreeId>,
}

/// The epochs of each branch of which something sees the end.
struct Seen(BTreeMap<BranchId, BTreeSet<Epoch>>);

impl Seen {
    /// Returns what is seen once this is gone.
    fn without(registry: &Registry, doomed: &Doomed) -> Seen {
        let mut seen: BTreeMap<BranchId, BTreeSet<Epoch>> = BTreeMap::new();
        for (_, volume) in registry.volumes.iter().filter(|(id, _)| !doomed.heads.contains(*id)) {
            seen.entry(volume.branch).or_default().insert(HEAD);
        }
        for &(branch, epoch) in registry.snapshots.keys().filter(|key| !doomed.snapshots.contains(*key)) {
            seen.entry(branch).or_default().insert(epoch);
        }
        // Children have larger numbers than their ancestors: a branch that is seen at all needs the end of what it left.
        for (id, branch) in registry.branches.iter().rev() {
            if let (true, Some((parent, epoch))) = (seen.contains_key(id), branch.parent) {
                seen.entry(parent).or_default().insert(epoch);
            }
        }
        Seen(seen)
    }

    /// Tells whether something sees the version that `epoch` wrote, the next one of the branch being that of `newer`.
    fn sees(&self, branch: BranchId, epoch: Epoch, newer: Option<Epoch>) -> bool {
        let end = self.0.get(&branch).and_then(|ends| ends.range(epoch..).next());
        end.is_some_and(|end| newer.is_none_or(|newer| *end < newer))
    }
}

impl Store {
    /// Tells what [`Store::remove_volume`] would do.
    ///
    /// # Errors
    /// As [`Store::remove_volume`].
    pub fn preview_remove_volume(&self, name: &str) -> Result<RemovalPreview, FsError> {
        self.preview(|registry| {
            let (id, volume) = registry.volume(name)?;
            self.check_not_live(volume.branch, name)?;
            let snapshots: Vec<_> =
                registry.snapshots_of(id).map(|(branch, epoch, _)| (branch, epoch)).collect();
            check_not_viewed(registry, &snapshots)?;
            // Its ancestors are of the same tree.
            let trees = BTreeSet::from([volume.tree]);
            Ok(Doomed { snapshots: snapshots.into_iter().collect(), heads: BTreeSet::from([id]), trees })
        })
    }

    /// Tells what [`Store::remove_snapshots`] would do.
    ///
    /// # Errors
    /// As [`Store::remove_snapshots`].
    pub fn preview_remove_snapshots(&self, called: &[&str]) -> Result<RemovalPreview, FsError> {
        self.preview(|registry| {
            let mut doomed = Doomed::default();
            for called in called {
                let (branch, epoch, _) = registry.snapshot(called)?;
                doomed.snapshots.insert((branch, epoch));
                doomed.trees.insert(registry.branch(branch)?.tree);
            }
            let keys: Vec<_> = doomed.snapshots.iter().copied().collect();
            check_not_viewed(registry, &keys)?;
            Ok(doomed)
        })
    }

    /// Returns how many bytes of file data nothing would refer to any more if a volume was rolled back to a snapshot of its own.
    ///
    /// # Errors
    /// [`FsError::OfAnotherVolume`] for the snapshot of another volume.
    pub fn preview_rollback(&self, volume: &str, snapshot: &str) -> Result<u64, FsError> {
        let preview = self.preview(|registry| {
            let (id, record) = registry.volume(volume)?;
            let (_, _, target) = registry.snapshot(snapshot)?;
            if target.volume != id {
                return Err(FsError::OfAnotherVolume {
                    volume: volume.to_owned(),
                    snapshot: snapshot.to_owned(),
                });
            }
            // The new head begins at the snapshot, which stays and is seen anyway.
            let trees = BTreeSet::from([record.tree]);
            Ok(Doomed { snapshots: BTreeSet::new(), heads: BTreeSet::from([id]), trees })
        })?;
        Ok(preview.bytes)
    }

    fn preview(
        &self,
        what: impl FnOnce(&Registry) -> Result<Doomed, FsError>,
    ) -> Result<RemovalPreview, FsError> {
        for live in self.loaded_heads().into_iter().filter_map(|head| head.live()) {
            live.settle();
        }
        let (frozen, doomed, now, then, snapshots) = {
            let registry = self.registry.read();
            let doomed = what(&registry)?;
            let (now, then) =
                (Seen::without(&registry, &Doomed::default()), Seen::without(&registry, &doomed));
            let labels =
                doomed.snapshots.iter().map(|&(branch, epoch)| registry.snapshot_label(branch, epoch));
            let labels = labels.collect();
            // A change of the history is written while the registry is locked.
            (Frozen::new(&self.db), doomed, now, then, labels)
        };
        let (mut shown, mut kept) = (PageSet::default(), PageSet::default());
        for tree in doomed.trees {
            let mut last: Option<(Prefix, BranchId, Epoch)> = None;
            frozen.scan(Family::Extent.name(), &tree.0.to_be_bytes(), &[], |key, value| {
                let Some(VersionedKey { prefix, branch, epoch }) = VersionedKey::parse(Family::Extent, key)
                else {
                    return Ok(true);
                };
                // Newest first: on its branch a version is hidden from the next one on.
                let newer = last.take().filter(|(of, on, _)| *of == prefix && *on == branch);
                let newer = newer.map(|(_, _, epoch)| epoch);
                if now.sees(branch, epoch, newer)
                    && let Some(group) = Group::decode(value)
                {
                    let stays = then.sees(branch, epoch, newer);
                    for page in group.refs() {
                        shown.insert(page.segment, page.page);
                        if stays {
                            kept.insert(page.segment, page.page);
                        }
                    }
                }
                last = Some((prefix, branch, epoch));
                Ok(true)
            })?;
        }
        Ok(RemovalPreview { snapshots, bytes: (shown.len() - kept.len()) * PAGE_SIZE as u64 })
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::sync::Arc;

    use tempfile::TempDir;

    use super::*;
    use crate::VolumeFs;
    use crate::ids::NodeId;
    use crate::ops::{Caller, KillSuid};
    use crate::store::{Receipt, StoreOptions, VolumeSpec};

    const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1 };

    /// A store whose background does not work.
    fn store() -> (Arc<Store>, TempDir) {
        let dir = tempfile::tempdir().unwrap();
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open(&dir.path().join("store"), &options).unwrap();
        store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
        (store, dir)
    }

    fn write(fs: &VolumeFs, name: &str, pages: usize) {
        let entry = match fs.lookup(&ROOT, NodeId::ROOT, OsStr::new(name)) {
            Ok(entry) => entry,
            Err(_) => fs.create(&ROOT, NodeId::ROOT, OsStr::new(name), 0o100_644, 0).unwrap(),
        };
        fs.write(entry.node, 0, &vec![7; pages * PAGE_SIZE], KillSuid::No).unwrap();
        fs.forget(entry.node, 1);
    }

    /// Writes into a volume and takes a snapshot of it.
    fn cut(store: &Arc<Store>, volume: &str, snapshot: &str, files: &[(&str, usize)]) {
        let fs = store.open_head(volume).unwrap();
        for (name, pages) in files {
            write(&fs, name, *pages);
        }
        drop(fs);
        store.snapshot(&[volume], Some(snapshot), Receipt::none()).unwrap();
        store.reclaim().unwrap();
    }

    fn pages(preview: &RemovalPreview) -> u64 {
        preview.bytes / PAGE_SIZE as u64
    }

    #[test]
    fn several_snapshots_give_back_more_than_each_alone() {
        let (store, _dir) = store();
        cut(&store, "v", "one", &[("a", 20)]);
        cut(&store, "v", "two", &[("b", 3)]);
        cut(&store, "v", "three", &[("a", 20), ("b", 3)]);
        let preview = |called: &[&str]| store.preview_remove_snapshots(called).unwrap();
        assert_eq!(pages(&preview(&["v@one"])), 0, "two shows all of it");
        assert_eq!(pages(&preview(&["v@two"])), 3);
        let both = preview(&["v@one", "v@two", "v@1"]);
        assert_eq!(both, RemovalPreview { snapshots: vec!["v@1".into(), "v@2".into()], bytes: 23 * 4096 });
        assert_eq!(pages(&preview(&["v@three"])), 0, "the head shows it");
        store.remove_snapshots(&["v@one", "v@two"], Receipt::none()).unwrap();
        assert_eq!(store.reclaim().unwrap().bytes, both.bytes);
    }

    #[test]
    fn what_a_fork_shows_stays() {
        let (store, _dir) = store();
        cut(&store, "v", "one", &[("a", 20)]);
        cut(&store, "v", "two", &[("a", 5), ("b", 3)]);
        store.fork("v@one", "w", Receipt::none()).unwrap();
        cut(&store, "w", "own", &[("c", 7)]);
        assert_eq!(pages(&store.preview_remove_snapshots(&["v@one"]).unwrap()), 0);
        let removal = store.preview_remove_volume("v").unwrap();
        assert_eq!((pages(&removal), removal.snapshots.len()), (8, 2));
        store.remove_volume("v", Receipt::none()).unwrap();
        assert_eq!(store.reclaim().unwrap().bytes, removal.bytes);
        // With the last who needs it the rest of the removed volume goes too.
        let removal = store.preview_remove_volume("w").unwrap();
        assert_eq!(pages(&removal), 27);
        store.remove_volume("w", Receipt::none()).unwrap();
        assert_eq!(store.reclaim().unwrap().bytes, removal.bytes);
    }

    #[test]
    fn a_rollback_gives_back_what_only_the_head_shows() {
        let (store, _dir) = store();
        cut(&store, "v", "one", &[("a", 20)]);
        cut(&store, "v", "two", &[("a", 4)]);
        assert_eq!(store.preview_rollback("v", "v@one").unwrap(), 0, "two keeps it");
        let fs = store.open_head("v").unwrap();
        write(&fs, "a", 2);
        write(&fs, "b", 9);
        let bytes = store.preview_rollback("v", "v@one").unwrap();
        assert_eq!(bytes, 11 * 4096, "also of a head that is open");
        drop(fs);
        store.fork("v@one", "w", Receipt::none()).unwrap();
        assert!(matches!(store.preview_rollback("w", "v@one"), Err(FsError::OfAnotherVolume { .. })));
        store.rollback("v", "v@one", Receipt::none()).unwrap();
        assert_eq!(store.reclaim().unwrap().bytes, bytes);
    }

    #[test]
    fn what_would_be_refused_is_refused() {
        let (store, _dir) = store();
        cut(&store, "v", "one", &[("a", 1)]);
        let fs = store.open_head("v").unwrap();
        assert!(matches!(store.preview_remove_volume("v"), Err(FsError::VolumeMounted { .. })));
        drop(fs);
        let fs = store.open_snapshot("v@one").unwrap();
        assert!(matches!(store.preview_remove_volume("v"), Err(FsError::SnapshotMounted { .. })));
        assert!(matches!(store.preview_remove_snapshots(&["v@one"]), Err(FsError::SnapshotMounted { .. })));
        drop(fs);
        assert!(matches!(store.preview_remove_volume("w"), Err(FsError::VolumeNotFound { .. })));
        assert!(matches!(store.preview_remove_snapshots(&["v@2"]), Err(FsError::SnapshotNotFound { .. })));
    }
}
