//! Inodes without a name that a cut took along, and that are opened again where it is gone on from.
//!
//! A machine holds files of a volume through a server of its own, which ends with it. When the machine goes on, its server opens them again by
//! handle, which for the kernel is a look-up of `.` in them, and what a program had removed and kept open has no other place to be found at. So
//! a volume that is opened for memory to go on with keeps what its snapshot has of these, until that was opened or will not be.
//!
//! # Invariants
//! - An inode without a name can be looked up only while it is kept, and is not removed meanwhile, whatever the kernel forgets. The kernel never
//!   comes to hold one again after that.
//!
//! # Crash consistency
//! What is kept is marked as an orphan of the head: whoever opens the volume next removes it.

use std::sync::Arc;

use super::node::Gone;
use super::{Entry, TreeKey, VolumeFs};
use crate::error::FsError;
use crate::ids::{Epoch, Ino, NodeId};
use crate::ops::node::NodeRef;
use crate::request::Answer;
use crate::store::{Store, Txn};

impl Store {
    /// As [`Store::open_head`], for a sandbox to go on with what it had open: inodes without a name stay, until [`Store::let_go_of_orphans`] says
    /// that it has opened those that it had.
    pub fn open_head_with_orphans(self: &Arc<Self>, volume: &str) -> Result<Arc<VolumeFs>, FsError> {
        self.open_head_for(volume, None, true)
    }

    /// Tells whether the head of a volume lacks an inode without a name that its snapshot at the end of an epoch has: it was removed since.
    /// The head is at that snapshot otherwise: see [`Store::is_at`].
    pub fn lacks_orphans(&self, volume: &str, epoch: Epoch) -> Result<bool, FsError> {
        let head = self.head_of_volume(volume)?;
        let then = self.registry.read().view(head.branch, epoch)?;
        let now = self.orphans(&self.head_view(&head)?)?;
        Ok(self.orphans(&then)?.iter().any(|ino| !now.contains(ino)))
    }

    /// Removes what nobody has opened of the inodes without a name that an open volume keeps. The rest goes as soon as it is closed.
    pub fn let_go_of_orphans(&self, volume: &str) -> Result<(), FsError> {
        let live = self.head_of_volume(volume)?.live();
        if let Some(fs) = live.and_then(|live| live.into_any().downcast::<VolumeFs>().ok()) {
            fs.let_go_of_kept();
        }
        Ok(())
    }
}

impl VolumeFs {
    /// Keeps the inodes without a name that the volume has.
    pub(super) fn keep_orphans(&self) -> Result<(), FsError> {
        let tree = self.root.read().clone();
        let Some(head) = &tree.head else { return Ok(()) };
        let orphans = self.store.orphans(&tree.merged.view)?;
        if orphans.is_empty() {
            return Ok(());
        }
        let mut txn = Txn::begin_housekeeping(&self.store, head)?;
        for &ino in &orphans {
            txn.put_orphan(ino);
        }
        txn.commit(Answer::Done)?;
        self.kept.lock().extend(orphans);
        Ok(())
    }

    /// Finds a node by what the kernel calls it, for a handle: it looks `.` up.
    pub(super) fn lookup_itself(&self, node: &NodeRef<'_>) -> Result<Entry, FsError> {
        // Before the last question whether it is kept, so that it is not taken for one that nobody opened.
        let entry = self.entry(node)?;
        if node.state.read().inode.nlink == 0 && !self.kept.lock().contains(&node.ino) {
            node.uncount_lookup();
            return Err(FsError::NotFound);
        }
        Ok(entry)
    }

    fn let_go_of_kept(&self) {
        let kept: Vec<Ino> = self.kept.lock().drain().collect();
        let (tree, invalidator) = (self.root.read().clone(), self.invalidator.read().clone());
        if tree.key != TreeKey::Mounted {
            return;
        }
        for ino in kept {
            self.unlinked.add(ino);
            if invalidator.as_ref().is_some_and(|kernel| kernel.holds(NodeId(ino.0))) {
                continue;
            }
            match self.nodes.find(&tree, ino) {
                // What is on its way to the kernel is counted, and is asked about again.
                Some(_) => {}
                None => self.nodes.dead.lock().push(Gone { tree: tree.clone(), ino, node: None }),
            }
        }
        self.reap_dead(0);
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;

    use super::*;
    use crate::attr::SetAttr;
    use crate::ops::{Caller, KillSuid};
    use crate::store::{Receipt, StoreOptions, VolumeInfo, VolumeSpec};

    const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1 };

    fn itself(fs: &VolumeFs, node: NodeId) -> Result<Entry, FsError> {
        fs.lookup(&ROOT, node, OsStr::new("."))
    }

    fn content(fs: &VolumeFs, node: NodeId) -> Vec<u8> {
        let mut bytes = Vec::new();
        fs.read(node, 0, 100, &mut bytes).unwrap();
        bytes
    }

    struct Fixture {
        store: Arc<Store>,
        _dir: tempfile::TempDir,
    }

    impl Fixture {
        fn new() -> Fixture {
            let dir = tempfile::tempdir().unwrap();
            let options = StoreOptions { background: false, ..StoreOptions::default() };
            let store = Store::open(dir.path(), &options).unwrap();
            store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
            Fixture { store, _dir: dir }
        }

        /// Returns the epoch of a new snapshot.
        fn cut(&self) -> Epoch {
            self.store.cut(&["v"], None, Receipt::none()).unwrap().snapshots[0].epoch
        }

        /// Goes back to a snapshot as a restore does, and opens the volume.
        fn go_on_from(&self, epoch: Epoch) -> Arc<VolumeFs> {
            let is_there =
                self.store.is_at("v", epoch).unwrap() && !self.store.lacks_orphans("v", epoch).unwrap();
            if !is_there {
                let snapshot = self.store.snapshot_at(self.volume().id, epoch).unwrap();
                self.store.rollback("v", &snapshot, Receipt::none()).unwrap();
            }
            self.store.open_head_with_orphans("v").unwrap()
        }

        fn volume(&self) -> VolumeInfo {
            self.store.volume("v").unwrap()
        }
    }

    fn unlinked(fs: &VolumeFs, name: &str) -> NodeId {
        let node = fs.create(&ROOT, NodeId::ROOT, OsStr::new(name), 0o100_644, 0).unwrap().node;
        fs.write(node, 0, b"before", KillSuid::No).unwrap();
        fs.unlink(&ROOT, NodeId::ROOT, OsStr::new(name)).unwrap();
        fs.setattr(&ROOT, node, &SetAttr { size: Some(0), ..SetAttr::default() }).unwrap();
        fs.write(node, 0, name.as_bytes(), KillSuid::No).unwrap();
        node
    }

    #[test]
    fn what_was_open_without_a_name_is_opened_again_as_often_as_one_goes_on() {
        let fixture = Fixture::new();
        let fs = fixture.store.open_head("v").unwrap();
        let (held, closed) = (unlinked(&fs, "held"), unlinked(&fs, "closed"));
        let mut epoch = fixture.cut();
        drop(fs);
        let empty = 0;
        assert_eq!(fixture.volume().used_inodes, empty);
        for (round, wanted) in ["held", "0eld", "01ld", "012d"].into_iter().enumerate() {
            // Once more if it did not work, and once nothing is written before the next cut.
            for cut in [false, true, false] {
                let fs = fixture.go_on_from(epoch);
                assert_eq!(content(&fs, itself(&fs, held).unwrap().node), wanted.as_bytes());
                if cut {
                    epoch = fixture.cut();
                }
                drop(fs);
            }
            let fs = fixture.go_on_from(epoch);
            // Whoever opens it may close it for a moment before it opens it for good.
            itself(&fs, held).unwrap();
            fs.forget(held, 1);
            fs.reap_dead(0);
            itself(&fs, held).unwrap();
            fixture.store.let_go_of_orphans("v").unwrap();
            let gone = itself(&fs, closed);
            assert!(matches!(gone, Err(FsError::Stale { .. })), "{gone:?}");
            assert!(matches!(itself(&fs, held), Err(FsError::NotFound)), "it is not kept any more");
            assert_eq!(fixture.volume().used_inodes, empty + 1);
            fs.write(held, round as u64, round.to_string().as_bytes(), KillSuid::No).unwrap();
            epoch = fixture.cut();
            drop(fs);
        }
        // Who goes on without memory has none of it.
        assert_eq!(fixture.volume().used_inodes, empty);
        let fs = fixture.go_on_from(epoch);
        itself(&fs, held).unwrap();
        fixture.store.let_go_of_orphans("v").unwrap();
        fs.forget(held, 1);
        fs.settle();
        assert_eq!(fixture.volume().used_inodes, empty);
    }

    #[test]
    fn a_volume_that_is_opened_as_usual_has_no_inode_without_a_name() {
        let fixture = Fixture::new();
        let fs = fixture.store.open_head("v").unwrap();
        let held = unlinked(&fs, "held");
        let epoch = fixture.cut();
        drop(fs);
        drop(fixture.go_on_from(epoch));
        let fs = fixture.store.open_head("v").unwrap();
        assert!(itself(&fs, held).is_err());
        assert_eq!(fixture.volume().used_inodes, 0);
        let named = fs.create(&ROOT, NodeId::ROOT, OsStr::new("named"), 0o100_644, 0).unwrap().node;
        assert_eq!(itself(&fs, named).unwrap().node, named);
        assert_eq!(itself(&fs, NodeId::ROOT).unwrap().node, NodeId::ROOT);
    }
}
