//! Listing and removing snapshots, and the log of cuts and forks.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use rocksdb::WriteBatch;

use super::appearance::{LogEntry, SnapshotInfo};
use super::record::{PAGE_SIZE, Snapshot};
use super::registry::Registry;
use super::volumes::check_not_viewed;
use super::{
    Family, Head, LiveHead, META, PrefixOf, Receipt, Store, TOUCHED, meta, parse_touched, touched_start,
};
use crate::error::FsError;
use crate::failpoint;
use crate::ids::{BranchId, Epoch};

impl Store {
    /// Lists the snapshots of one volume or of all, oldest first. Sizes take time that follows what changed
    /// between the snapshots.
    pub fn snapshots(&self, volume: Option<&str>) -> Result<Vec<SnapshotInfo>, FsError> {
        let listed: Vec<_> = {
            let registry = self.registry.read();
            let only = volume.map(|name| registry.volume(name).map(|(id, _)| id)).transpose()?;
            registry
                .volumes
                .keys()
                .filter(|&&id| only.is_none_or(|only| only == id))
                .flat_map(|&id| registry.snapshots_of(id))
                .map(|(branch, epoch, snapshot)| (branch, epoch, snapshot.clone()))
                .collect()
        };
        for live in self.loaded_heads().into_iter().filter_map(|head| head.live()) {
            live.settle();
        }
        let mut described = Vec::with_capacity(listed.len());
        for (branch, epoch, snapshot) in listed {
            let one = self.describe(branch, epoch, &snapshot);
            // Others may have removed it meanwhile.
            if self.registry.read().snapshots.contains_key(&(branch, epoch)) {
                described.push(one?);
            }
        }
        Ok(described)
    }

    /// Describes one snapshot, called `VOLUME@NAME` or `VOLUME@EPOCH`.
    pub fn find_snapshot(&self, called: &str) -> Result<SnapshotInfo, FsError> {
        let (branch, epoch, snapshot) = {
            let registry = self.registry.read();
            let (branch, epoch, snapshot) = registry.snapshot(called)?;
            (branch, epoch, snapshot.clone())
        };
        self.describe(branch, epoch, &snapshot)
    }

    fn describe(&self, branch: BranchId, epoch: Epoch, snapshot: &Snapshot) -> Result<SnapshotInfo, FsError> {
        let exclusive_bytes = self.exclusive_pages(branch, epoch)? * PAGE_SIZE as u64;
        let registry = self.registry.read();
        let volume =
            registry.volumes.get(&snapshot.volume).map(|volume| volume.name.clone()).unwrap_or_default();
        let total = u64::try_from(snapshot.usage.bytes).unwrap_or(0);
        let tree = registry.branch(branch)?.tree;
        let since = registry.pinned_up_to(branch, Epoch(epoch.0.saturating_sub(1))).unwrap_or(Epoch(0));
        let mut files = hashbrown::HashSet::new();
        self.db.scan(TOUCHED, &branch.0.to_be_bytes(), &touched_start(branch, since.next()), |key, _| {
            let Some((_, at, prefix)) = parse_touched(tree, key) else { return Ok(true) };
            if at > epoch {
                return Ok(false);
            }
            if let (Family::Inode, Some(PrefixOf::Inode { ino })) = (prefix.family, prefix.parse()) {
                files.insert(ino);
            }
            Ok(true)
        })?;
        Ok(SnapshotInfo {
            snapshot: format!("{volume}@{epoch}"),
            volume,
            name: snapshot.name.clone(),
            epoch,
            created: snapshot.created,
            exclusive_bytes,
            shared_bytes: total.saturating_sub(exclusive_bytes),
            files_changed: files.len() as u64,
        })
    }

    /// Removes snapshots, all or none. Costs the same whatever they hold, durable on return; the space comes back in the
    /// background.
    ///
    /// # Errors
    /// [`FsError::SnapshotMounted`] while one is in use.
    pub fn remove_snapshots(&self, called: &[&str], receipt: Receipt<'_, ()>) -> Result<(), FsError> {
        // The same one may be called by its name and by its epoch. In order, so that two calls never wait for each other.
        let mut doomed = BTreeMap::new();
        {
            let registry = self.registry.read();
            for called in called {
                let (branch, epoch, snapshot) = registry.snapshot(called)?;
                let shown_by = registry.volumes.get(&snapshot.volume).map(|volume| volume.branch);
                doomed.insert((branch, epoch), (*called, shown_by));
            }
        }
        for (&(branch, epoch), (_, shown_by)) in &doomed {
            if let Some(live) = shown_by.and_then(|head| self.live_head(head)) {
                live.release_snapshot(branch, epoch);
            }
        }
        let branches: BTreeSet<BranchId> = doomed.keys().map(|&(branch, _)| branch).collect();
        let gone = loop {
            let loaded: Vec<_> = branches.iter().filter_map(|&branch| self.loaded_head(branch)).collect();
            // A cut under way has raised what is retained and is not in the registry yet.
            let _cutting: Vec<_> = loaded.iter().map(|head| head.cutting.lock()).collect();
            failpoint::hit("snapshots.cuts-held");
            let mut registry = self.registry.write();
            // Nor is one of a head that was loaded meanwhile. From here on none is.
            let now = branches.iter().filter(|&&branch| self.loaded_head(branch).is_some());
            if now.copied().eq(loaded.iter().map(|head| head.branch)) {
                break self.remove_from(&mut registry, &doomed, &loaded, receipt)?;
            }
        };
        let mut shown_by: Vec<_> = doomed.values().filter_map(|(_, shown_by)| *shown_by).collect();
        shown_by.sort_unstable();
        shown_by.dedup();
        for live in shown_by.into_iter().filter_map(|head| self.live_head(head)) {
            live.snapshots_changed(&gone);
        }
        self.wake_reclaimer();
        Ok(())
    }

    /// Removes snapshots from the registry, while no cut is under way of what they belong to. Returns how they were shown.
    fn remove_from(
        &self,
        registry: &mut Registry,
        doomed: &BTreeMap<(BranchId, Epoch), (&str, Option<BranchId>)>,
        loaded: &[Arc<Head>],
        receipt: Receipt<'_, ()>,
    ) -> Result<Vec<String>, FsError> {
        for (&key, (called, _)) in doomed {
            let (branch, epoch, _) = registry.snapshot(called)?;
            if (branch, epoch) != key {
                return Err(FsError::SnapshotNotFound { name: (*called).to_owned() });
            }
        }
        let keys: Vec<_> = doomed.keys().copied().collect();
        check_not_viewed(registry, &keys)?;
        let mut batch = WriteBatch::default();
        for &(branch, epoch) in &keys {
            batch.delete_cf(self.db.family(META), meta::snapshot(branch, epoch));
            // It begins at the snapshot before, which may go as well: a sweep asks again what is retained.
            self.put_sweep(&mut batch, registry, branch, epoch)?;
        }
        self.commit_change(batch, receipt, &())?;
        let mut gone = Vec::new();
        for &key in &keys {
            gone.extend(registry.snapshots.get(&key).map(|snapshot| snapshot.shown_as(key.1)));
            registry.remove_snapshot(key);
        }
        for head in loaded {
            head.set_retained(self.retained_below_head(registry, head.branch)?);
        }
        Ok(gone)
    }

    fn live_head(&self, branch: BranchId) -> Option<Arc<dyn LiveHead>> {
        self.loaded_head(branch).and_then(|head| head.live())
    }

    /// Returns the newest epoch of a branch, or of its ancestry, that something beside its head can see.
    fn retained_below_head(&self, registry: &Registry, branch: BranchId) -> Result<Epoch, FsError> {
        let forked_at = registry.branch(branch)?.parent.map_or(Epoch(0), |(_, epoch)| epoch);
        Ok(registry.pinned_up_to(branch, Epoch(u64::MAX)).unwrap_or(forked_at).max(forked_at))
    }

    /// Returns the history of one volume and of all it was forked from, or of all volumes; newest first.
    pub fn log(&self, volume: Option<&str>) -> Result<Vec<LogEntry>, FsError> {
        let registry = self.registry.read();
        let wanted: Option<Vec<(BranchId, Epoch)>> = match volume {
            None => None,
            Some(name) => {
                let (_, record) = registry.volume(name)?;
                Some(registry.view(record.branch, Epoch(u64::MAX))?.lineage().to_vec())
            }
        };
        let mut entries = Vec::new();
        for (&(branch, epoch), snapshot) in &registry.snapshots {
            if let Some(lineage) = &wanted
                && !lineage.iter().any(|&(own, last)| own == branch && epoch <= last)
            {
                continue;
            }
            let Some(of) = registry.volumes.get(&snapshot.volume) else { continue };
            let view = registry.view(branch, epoch)?;
            let parent = before(&registry, view.lineage());
            let forks = registry
                .forks_at(branch, epoch)
                .filter_map(|child| registry.branches.get(&child))
                .filter(|child| child.volume != snapshot.volume)
                .filter_map(|child| Some(registry.volumes.get(&child.volume)?.name.clone()))
                .collect();
            entries.push(LogEntry {
                volume: of.name.clone(),
                snapshot: registry.snapshot_label(branch, epoch),
                name: snapshot.name.clone(),
                epoch,
                created: snapshot.created,
                parent: parent.map(|(branch, epoch)| registry.snapshot_label(branch, epoch)),
                forks,
                head_of: head_after(&registry, branch, epoch),
            });
        }
        entries.sort_by_key(|entry| std::cmp::Reverse((entry.created, entry.epoch)));
        Ok(entries)
    }
}

/// Returns the snapshot before the end of a lineage.
fn before(registry: &Registry, lineage: &[(BranchId, Epoch)]) -> Option<(BranchId, Epoch)> {
    lineage.iter().enumerate().find_map(|(depth, &(branch, last))| {
        let newest = if depth == 0 { Epoch(last.0.checked_sub(1)?) } else { last };
        registry.snapshots.range((branch, Epoch(0))..=(branch, newest)).next_back().map(|(&key, _)| key)
    })
}

/// Returns the volume whose head has this snapshot as its newest.
fn head_after(registry: &Registry, branch: BranchId, epoch: Epoch) -> Option<String> {
    let own = registry.head_of(branch).filter(|_| {
        registry.snapshots.range((branch, epoch.next())..=(branch, Epoch(u64::MAX))).next().is_none()
    });
    let volume = own.or_else(|| {
        registry
            .forks_at(branch, epoch)
            .filter(|&child| {
                registry.snapshots.range((child, Epoch(0))..=(child, Epoch(u64::MAX))).next().is_none()
            })
            .find_map(|child| {
                registry.head_of(child).filter(|(id, _)| {
                    registry.branches.get(&branch).is_some_and(|parent| parent.volume == *id)
                })
            })
    });
    volume.map(|(_, volume)| volume.name.clone())
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::sync::mpsc;
    use std::time::Duration;

    use super::*;
    use crate::ids::NodeId;
    use crate::ops::{Caller, KillSuid, VolumeFs};
    use crate::store::{StoreOptions, VolumeSpec};

    const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1 };
    /// Of so many bytes that they are in pages.
    const LEN: usize = 4 * PAGE_SIZE;
    /// How long a cut lasts while a removal waits for it.
    const CUT: Duration = Duration::from_millis(300);

    fn open(dir: &tempfile::TempDir) -> Arc<Store> {
        Store::open(dir.path(), &StoreOptions { background: false, ..StoreOptions::default() }).unwrap()
    }

    fn file(fs: &VolumeFs) -> NodeId {
        fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("file")).unwrap().node
    }

    fn read(fs: &VolumeFs) -> Vec<u8> {
        let mut bytes = Vec::new();
        fs.read(file(fs), 0, LEN, &mut bytes).unwrap();
        bytes
    }

    #[test]
    fn a_cut_of_a_head_that_was_loaded_meanwhile_keeps_its_pages() {
        let dir = tempfile::tempdir().unwrap();
        {
            let store = open(&dir);
            store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
            let fs = store.open_head("v").unwrap();
            let file = fs.create(&ROOT, NodeId::ROOT, OsStr::new("file"), 0o644, 0).unwrap().node;
            fs.write(file, 0, &[1; LEN], KillSuid::No).unwrap();
            store.snapshot(&["v"], Some("one"), Receipt::none()).unwrap();
            fs.write(file, 0, &[2; LEN], KillSuid::No).unwrap();
        }
        let store = open(&dir);
        let (removed, is_removed) = mpsc::channel::<()>();
        let (cut, is_cut) = mpsc::channel();
        let cutter = store.clone();
        failpoint::meanwhile::at("snapshots.cuts-held", move || {
            let (flipped, is_flipped) = mpsc::channel();
            std::thread::spawn(move || {
                failpoint::meanwhile::at("cut.flipped", move || {
                    flipped.send(()).unwrap();
                    // A removal that does not wait for the cut goes first.
                    is_removed.recv_timeout(CUT).unwrap_err();
                });
                cut.send(cutter.snapshot(&["v"], Some("two"), Receipt::none()).map(drop)).unwrap();
            });
            is_flipped.recv().unwrap();
        });
        store.remove_snapshots(&["v@one"], Receipt::none()).unwrap();
        drop(removed);
        is_cut.recv().unwrap().unwrap();
        let fs = store.open_head("v").unwrap();
        fs.write(file(&fs), 0, &[3; LEN], KillSuid::No).unwrap();
        // What the head alone had is punched out.
        store.reclaim().unwrap();
        assert!(read(&store.open_snapshot("v@two").unwrap()) == [2; LEN]);
        assert!(read(&fs) == [3; LEN]);
    }
}
