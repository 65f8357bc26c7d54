//! Opening volumes and snapshots, and turning an open volume to another point of its history.

use std::any::Any;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock, Weak};

use parking_lot::{Mutex, RwLock};

use super::node::NodeTable;
use super::snapshots_dir::unview;
use super::{Tree, TreeKey, VolumeFs};
use crate::error::FsError;
use crate::failpoint;
use crate::ids::{BranchId, Epoch, Ino, NodeId};
use crate::overlay::lowers::Lowers;
use crate::overlay::merged::Merged;
use crate::store::{Head, LiveHead, Receipt, Store, VolumeInfo};

impl Store {
    /// Opens the head of a volume. While it is open, a second call returns the same.
    pub fn open_head(self: &Arc<Self>, volume: &str) -> Result<Arc<VolumeFs>, FsError> {
        self.open_head_for(volume, None, false)
    }

    /// Opens the head of a volume to go on with a mount of it, which began when the volume wrote `branch`. What
    /// the kernel may still refer to stays: see [`VolumeFs::adopt`].
    pub fn reopen_head(self: &Arc<Self>, volume: &str, branch: BranchId) -> Result<Arc<VolumeFs>, FsError> {
        self.open_head_for(volume, Some(branch), false)
    }

    /// `keeps`: see [`Store::open_head_with_orphans`].
    pub(super) fn open_head_for(
        self: &Arc<Self>,
        volume: &str,
        mounted: Option<BranchId>,
        keeps: bool,
    ) -> Result<Arc<VolumeFs>, FsError> {
        let head = self.head_of_volume(volume)?;
        // Two openers at once get one file system: whoever comes second finds it here.
        let _opening = head.opening.lock();
        let record = self.registry.read().volume(volume)?.1.clone();
        if record.branch != head.branch {
            // Rolled back since it was looked up.
            return Err(FsError::Retired);
        }
        if let Some(live) = head.live() {
            return live
                .into_any()
                .downcast()
                .map_err(|_| FsError::VolumeMounted { name: volume.to_owned() });
        }
        let merged = Merged {
            store: self.clone(),
            view: self.head_view(&head)?,
            lowers: Arc::new(Lowers::open(self, record.tree, &record.lowers)?),
        };
        let key = match mounted {
            Some(branch) if branch != head.branch => TreeKey::RolledBack(head.branch),
            Some(_) | None => TreeKey::Mounted,
        };
        let tree = Arc::new(Tree { key, merged, head: Some(head.clone()) });
        let fs = Arc::new(VolumeFs::new(self, volume, tree.clone()));
        fs.keep_root()?;
        match mounted {
            None if keeps => fs.keep_orphans()?,
            None => fs.reap_orphans(&tree)?,
            Some(_) => {}
        }
        let live: Weak<dyn LiveHead> = Arc::<VolumeFs>::downgrade(&fs) as Weak<dyn LiveHead>;
        head.set_live(live);
        Ok(fs)
    }

    /// Opens a snapshot, read-only. It cannot be removed while it is open.
    pub fn open_snapshot(self: &Arc<Self>, snapshot: &str) -> Result<Arc<VolumeFs>, FsError> {
        let (key, view, record) = {
            let mut registry = self.registry.write();
            let (branch, epoch, found) = registry.snapshot(snapshot)?;
            let volume = found.volume;
            let record = registry.volumes.get(&volume).cloned();
            let record = record.ok_or_else(|| FsError::SnapshotNotFound { name: snapshot.to_owned() })?;
            let view = registry.view(branch, epoch)?;
            *registry.viewed.entry((branch, epoch)).or_default() += 1;
            ((branch, epoch), view, record)
        };
        let lowers = Lowers::open(self, record.tree, &record.lowers);
        let lowers = lowers.inspect_err(|_| unview(&mut self.registry.write().viewed, key))?;
        let merged = Merged { store: self.clone(), view, lowers: Arc::new(lowers) };
        let mut fs =
            VolumeFs::new(self, snapshot, Arc::new(Tree { key: TreeKey::Mounted, merged, head: None }));
        fs.pinned = Some(key);
        fs.keep_root()?;
        Ok(Arc::new(fs))
    }

    /// Takes a volume back to one of its snapshots. What was written since its newest snapshot is lost. An open file
    /// system turns to the new head: open files of the old one are stale from then on.
    pub fn rollback(
        self: &Arc<Self>,
        volume: &str,
        snapshot: &str,
        receipt: Receipt<'_, VolumeInfo>,
    ) -> Result<VolumeInfo, FsError> {
        let old = self.head_of_volume(volume)?;
        let live: Option<Arc<VolumeFs>> = old.live().and_then(|live| live.into_any().downcast().ok());
        let info = {
            // No cut, and nobody who opens the volume, may find the old head still in its place.
            let (_cutting, _opening) = (old.cutting.lock(), old.opening.lock());
            if self.registry.read().volume(volume)?.1.branch != old.branch {
                return Err(FsError::Retired);
            }
            // Operations under way end in the old head, which nobody sees again; none follows.
            let epoch = old.gate.retire();
            self.turn(volume, snapshot, receipt, live.as_ref()).inspect_err(|_| old.gate.reinstate(epoch))?
        };
        failpoint::hit("rollback.turned");
        if let Some(fs) = live {
            fs.keep_root()?;
            fs.distrust_kernel();
            let tree = fs.root.read().clone();
            match fs.reap_inherited(&tree) {
                Ok(()) | Err(FsError::Retired) => {}
                // They are found again when the volume is opened next.
                Err(error) => {
                    tracing::warn!(%error, volume, "unlinked inodes of a snapshot could not be removed")
                }
            }
        }
        Ok(info)
    }

    fn turn(
        self: &Arc<Self>,
        volume: &str,
        snapshot: &str,
        receipt: Receipt<'_, VolumeInfo>,
        live: Option<&Arc<VolumeFs>>,
    ) -> Result<VolumeInfo, FsError> {
        let Some(fs) = live else { return self.rollback_head(volume, snapshot, receipt, |_, _| {}) };
        let mut root = fs.root.write();
        let lowers = root.merged.lowers.clone();
        let info = self.rollback_head(volume, snapshot, receipt, |head, view| {
            let merged = Merged { store: self.clone(), view, lowers };
            *root =
                Arc::new(Tree { key: TreeKey::RolledBack(head.branch), merged, head: Some(head.clone()) });
            head.set_live(Arc::<VolumeFs>::downgrade(fs) as Weak<dyn LiveHead>);
        })?;
        fs.nodes.clear();
        fs.unlinked.clear();
        if let Some(adopted) = fs.adopted.get() {
            adopted.roll_back();
        }
        Ok(info)
    }
}

impl VolumeFs {
    fn new(store: &Arc<Store>, name: &str, tree: Arc<Tree>) -> VolumeFs {
        VolumeFs {
            store: store.clone(),
            volume: name.to_owned(),
            root: RwLock::new(tree),
            nodes: NodeTable::default(),
            browsed: Mutex::default(),
            pinned: None,
            invalidator: RwLock::default(),
            journal: OnceLock::new(),
            adopted: OnceLock::new(),
            unlinked: Default::default(),
            kept: Mutex::default(),
            reaping: RwLock::default(),
            reaped: AtomicU64::new(0),
            asking: Arc::default(),
        }
    }

    /// Counts the reference to the root that the kernel has without ever looking it up.
    fn keep_root(&self) -> Result<(), FsError> {
        self.node(NodeId::ROOT)?.count_lookup();
        Ok(())
    }

    /// Returns the newest epoch of the head and whether there is one.
    pub fn epoch(&self) -> Option<Epoch> {
        self.root.read().head.as_ref().map(|head: &Arc<Head>| head.gate.epoch())
    }
}

impl LiveHead for VolumeFs {
    fn exclusively(&self, ino: Ino, work: &mut dyn FnMut()) {
        let tree = self.root.read().clone();
        match self.nodes.find(&tree, ino) {
            Some(node) => {
                let mut state = node.state.write();
                work();
                self.forget_groups(&mut state);
            }
            // Not in memory: nobody has it cached, and whoever loads it now sees what the work leaves.
            None => work(),
        }
    }

    fn snapshots_changed(&self, names: &[String]) {
        self.forget_snapshots_dir(names);
    }

    fn release_snapshot(&self, branch: BranchId, epoch: Epoch) {
        self.stop_browsing((branch, epoch));
    }

    fn settle(&self) {
        VolumeFs::settle(self);
    }

    fn tick(&self) {
        self.ask_about_unnamed();
        self.reap_dead(0);
        self.release_browsed();
    }

    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync> {
        self
    }
}
