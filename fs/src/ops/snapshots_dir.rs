//! `.snapshots`: the snapshots of a volume, to be looked into from inside its mount.
//!
//! The directory is in no listing of the root, so that `tar` and `rm -r` do not find it; it is there for whoever names it.
//! Its files have numbers of their own, or they would be taken for hard links of the live ones: [`NodeId::in_snapshot`].

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use hashbrown::HashMap;

use super::node::Node;
use super::{DirEntry, Entry, Sink, Tree, TreeKey, VolumeFs};
use crate::attr::{Attr, FileKind, Timestamp};
use crate::error::FsError;
use crate::failpoint;
use crate::ids::{BranchId, Epoch, Ino, NodeId};
use crate::overlay::merged::Merged;

const NAME: &str = ".snapshots";
pub(super) const NODE: NodeId = NodeId(NodeId::FIRST_DYNAMIC);

/// How many snapshots are listed at once.
const LISTED: usize = 1024;
/// How many milliseconds the removal of a snapshot waits for operations in it.
const RELEASE_TRIES: u32 = 200;

type SnapshotKey = (BranchId, Epoch);

/// The snapshots that are looked into. Each tree is one use of its snapshot.
#[derive(Default)]
pub(super) struct Browsed {
    shown: HashMap<SnapshotKey, Arc<Tree>>,
    /// No look-up leads there any more, and operations may still be under way.
    left: Vec<(SnapshotKey, Arc<Tree>)>,
}

impl VolumeFs {
    /// Answers a look-up of `.snapshots`, or of a snapshot in it.
    pub(super) fn lookup_snapshots_dir(
        &self,
        parent: NodeId,
        name: &OsStr,
    ) -> Result<Option<Entry>, FsError> {
        if parent == NodeId::ROOT && name == NAME && !self.is_read_only() {
            return Ok(Some(Entry { node: NODE, generation: 0, attr: self.snapshots_attr() }));
        }
        if parent != NODE {
            return Ok(None);
        }
        if name == "." || name == ".." {
            let node = if name == "." { NODE } else { NodeId::ROOT };
            return Ok(Some(Entry { node, generation: 0, attr: self.getattr(node)? }));
        }
        let (branch, epoch) = self.shown_snapshot(name).ok_or(FsError::NotFound)?;
        failpoint::hit("snapshots.found");
        // Removed since.
        let tree = self.browse(branch, epoch)?.ok_or(FsError::NotFound)?;
        let evictions = self.nodes.evictions();
        let root = tree.merged.stored(Ino::ROOT)?.ok_or(FsError::NotFound)?;
        let root = self.nodes.insert(&tree, root, evictions)?;
        self.entry(&root).map(Some)
    }

    /// Returns the attributes of `.snapshots`, `None` for any other node.
    pub(super) fn snapshots_dir_attr(&self, node: NodeId) -> Result<Option<Attr>, FsError> {
        Ok((node == NODE).then(|| self.snapshots_attr()))
    }

    fn snapshots_attr(&self) -> Attr {
        let time = self.newest_snapshot().unwrap_or_default();
        Attr {
            ino: Ino(NODE.0),
            kind: FileKind::Directory,
            perm: 0o555,
            nlink: 1,
            uid: 0,
            gid: 0,
            rdev: 0,
            size: 4096,
            blocks: 0,
            atime: time,
            mtime: time,
            ctime: time,
            btime: time,
        }
    }

    /// Lists `.snapshots`; `None` if the node is another one.
    pub(super) fn read_snapshots_dir(
        &self,
        node: NodeId,
        offset: u64,
        sink: &mut dyn FnMut(DirEntry<'_>) -> Sink,
    ) -> Option<Result<(), FsError>> {
        if node != NODE {
            return None;
        }
        let mut at = offset;
        loop {
            let names = self.list_snapshots(usize::try_from(at).unwrap_or(usize::MAX));
            if names.is_empty() {
                return Some(Ok(()));
            }
            for (name, node) in names {
                at += 1;
                let entry = DirEntry {
                    node,
                    next_offset: at,
                    kind: FileKind::Directory,
                    name: OsStr::from_bytes(name.as_bytes()),
                };
                if sink(entry) == Sink::Full {
                    return Some(Ok(()));
                }
            }
        }
    }

    /// Lists `.snapshots` with attributes; `None` if the node is another one.
    pub(super) fn read_snapshots_dir_plus(
        &self,
        node: NodeId,
        offset: u64,
        sink: &mut dyn FnMut(DirEntry<'_>, &Entry) -> Sink,
    ) -> Option<Result<(), FsError>> {
        let mut failed = None;
        let done = self.read_snapshots_dir(node, offset, &mut |shown| {
            if shown.name == "." || shown.name == ".." {
                // Only the number is shown.
                let attr = Attr { ino: Ino(shown.node.0), ..self.snapshots_attr() };
                return sink(shown, &Entry { node: shown.node, generation: 0, attr });
            }
            match self.lookup_snapshots_dir(NODE, shown.name) {
                Ok(Some(entry)) => {
                    let answer = sink(shown, &entry);
                    if answer == Sink::Full {
                        self.forget(entry.node, 1);
                    }
                    answer
                }
                Ok(None) | Err(FsError::NotFound) => Sink::Continue,
                Err(error) => {
                    failed = Some(error);
                    Sink::Full
                }
            }
        })?;
        Some(match failed {
            Some(error) => Err(error),
            None => done,
        })
    }

    /// Makes the kernel forget what it knows of `.snapshots`, and of these names in it.
    pub(super) fn forget_snapshots_dir(&self, names: &[String]) {
        if let Some(invalidator) = &*self.invalidator.read() {
            invalidator.inode(NODE);
            for name in names {
                invalidator.entry(NODE, OsStr::new(name));
            }
        }
    }

    /// Returns the next few names in `.snapshots` after so many, with the numbers of what they lead to.
    fn list_snapshots(&self, skip: usize) -> Vec<(String, NodeId)> {
        let root = self.root.read().clone();
        let registry = self.store.registry.read();
        let shown = root.head.iter().flat_map(|head| registry.snapshots_of(head.volume));
        let shown = shown.skip(skip.saturating_sub(2)).map(|(branch, epoch, snapshot)| {
            let number = self.nodes.number(TreeKey::Snapshot(branch, epoch), Ino::ROOT);
            (snapshot.shown_as(epoch), number)
        });
        let own = [(".", NODE), ("..", NodeId::ROOT)].into_iter().skip(skip);
        let own = own.map(|(name, node)| (name.to_owned(), node));
        own.chain(shown).take(LISTED).collect()
    }

    /// Finds a snapshot by the name it is listed under.
    fn shown_snapshot(&self, name: &OsStr) -> Option<(BranchId, Epoch)> {
        let name = name.to_str()?;
        let root = self.root.read().clone();
        let volume = root.head.as_ref()?.volume;
        let registry = self.store.registry.read();
        let nameless = || {
            let epoch = name.parse().ok().map(Epoch)?;
            registry.snapshot_at(volume, epoch).filter(|(_, _, snapshot)| snapshot.shown_as(epoch) == name)
        };
        let (branch, epoch, _) = registry.snapshot_named(volume, name).or_else(nameless)?;
        Some((branch, epoch))
    }

    /// Returns when the newest snapshot was cut.
    fn newest_snapshot(&self) -> Option<Timestamp> {
        let root = self.root.read().clone();
        let volume = root.head.as_ref()?.volume;
        self.store.registry.read().newest_snapshots(volume).map(|snapshot| snapshot.created).max()
    }

    /// Returns the tree of a snapshot, which cannot be removed from now on until nobody looks at it; `None` if it was removed.
    pub(super) fn browse(&self, branch: BranchId, epoch: Epoch) -> Result<Option<Arc<Tree>>, FsError> {
        let mut browsed = self.browsed.lock();
        if let Some(tree) = browsed.shown.get(&(branch, epoch)) {
            return Ok(Some(tree.clone()));
        }
        let lowers = self.root.read().merged.lowers.clone();
        let mut registry = self.store.registry.write();
        // Of a removed one the view would show what other epochs left.
        if !registry.snapshots.contains_key(&(branch, epoch)) {
            return Ok(None);
        }
        let view = registry.view(branch, epoch)?;
        *registry.viewed.entry((branch, epoch)).or_default() += 1;
        drop(registry);
        let tree = Arc::new(Tree {
            key: TreeKey::Snapshot(branch, epoch),
            merged: Merged { store: self.store.clone(), view, lowers },
            head: None,
        });
        browsed.shown.insert((branch, epoch), tree.clone());
        Ok(Some(tree))
    }

    /// Lets go of snapshots that nobody looks into any more.
    pub fn release_browsed(&self) {
        let mut browsed = self.browsed.lock();
        let mut unused = Vec::new();
        let mut is_used = |key: SnapshotKey, tree: &Arc<Tree>| {
            // Every node of a tree holds it, and every operation its node.
            let used = Arc::strong_count(tree) > 1;
            if !used {
                unused.push(key);
            }
            used
        };
        browsed.shown.retain(|&key, tree| is_used(key, tree));
        browsed.left.retain(|(key, tree)| is_used(*key, tree));
        if unused.is_empty() {
            return;
        }
        let mut registry = self.store.registry.write();
        for key in unused {
            unview(&mut registry.viewed, key);
        }
    }

    /// Forgets a snapshot that was looked into, and waits for operations under way in it.
    pub(super) fn stop_browsing(&self, key: SnapshotKey) {
        let tree = TreeKey::Snapshot(key.0, key.1);
        if !self.browsed.lock().leave(key) {
            return;
        }
        self.nodes.remove_tree(tree);
        failpoint::hit("snapshots.leaving");
        for _ in 0..RELEASE_TRIES {
            self.release_browsed();
            if !self.browsed.lock().has_left(key) {
                return;
            }
            std::thread::sleep(std::time::Duration::from_millis(1));
        }
    }

    /// Lets go of everything that keeps snapshots from being removed.
    pub(super) fn release_pins(&mut self) {
        let Browsed { shown, left } = std::mem::take(self.browsed.get_mut());
        let mut registry = self.store.registry.write();
        for key in shown.into_keys().chain(left.into_iter().map(|(key, _)| key)) {
            unview(&mut registry.viewed, key);
        }
        if let Some(key) = self.pinned {
            unview(&mut registry.viewed, key);
        }
    }
}

impl Browsed {
    /// Has no look-up lead into a snapshot any more. Returns whether somebody may be in it.
    fn leave(&mut self, key: SnapshotKey) -> bool {
        self.left.extend(self.shown.remove(&key).map(|tree| (key, tree)));
        self.has_left(key)
    }

    fn has_left(&self, key: SnapshotKey) -> bool {
        self.left.iter().any(|(left, _)| *left == key)
    }
}

/// Tells whether a name in a directory leads to `.snapshots`. What a lower has there cannot be reached.
pub(super) fn is_snapshots_dir(dir: &Node, name: &[u8]) -> bool {
    dir.id == NodeId::ROOT && dir.tree.head.is_some() && name == NAME.as_bytes()
}

/// Counts one use of a snapshot less.
pub(super) fn unview(viewed: &mut HashMap<SnapshotKey, usize>, key: SnapshotKey) {
    match viewed.get_mut(&key) {
        Some(count) if *count > 1 => *count -= 1,
        _ => {
            viewed.remove(&key);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::SessionId;
    use crate::ops::{Caller, Fact, KillSuid, RenameMode};
    use crate::store::{Receipt, Store, StoreOptions, VolumeSpec};

    const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1 };

    /// A volume `v` with one file, `file`, which every snapshot has with its own name as the content.
    fn volume_with_snapshots(names: &[&str]) -> (tempfile::TempDir, Arc<Store>, Arc<VolumeFs>) {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &StoreOptions::default()).unwrap();
        store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
        let fs = store.open_head("v").unwrap();
        let file = fs.create(&ROOT, NodeId::ROOT, OsStr::new("file"), 0o644, 0).unwrap().node;
        for name in names {
            fs.write(file, 0, name.as_bytes(), KillSuid::No).unwrap();
            store.snapshot(&["v"], Some(name), Receipt::none()).unwrap();
        }
        (dir, store, fs)
    }

    #[test]
    fn a_snapshot_that_goes_while_it_is_looked_up_is_not_found() {
        let (_dir, store, fs) = volume_with_snapshots(&["one", "two"]);
        let removal = store.clone();
        failpoint::meanwhile::at("snapshots.found", move || {
            removal.remove_snapshots(&["v@two"], Receipt::none()).unwrap();
        });
        let looked = fs.lookup(&ROOT, NODE, OsStr::new("two"));
        assert!(matches!(looked, Err(FsError::NotFound)), "{looked:?}");
        assert!(store.registry.read().viewed.is_empty());
    }

    #[test]
    fn a_snapshot_that_is_looked_into_again_while_it_is_let_go_is_in_use_once_for_each() {
        let (_dir, store, fs) = volume_with_snapshots(&["one"]);
        let first = fs.lookup(&ROOT, NODE, OsStr::new("one")).unwrap();
        // It does not end before the removal gives up.
        let operation = fs.node(first.node).unwrap();
        let (again, told) = std::sync::mpsc::channel();
        let kernel = fs.clone();
        failpoint::meanwhile::at("snapshots.leaving", move || {
            again.send(kernel.lookup(&ROOT, NODE, OsStr::new("one")).unwrap()).unwrap();
        });
        let refused = store.remove_snapshots(&["v@one"], Receipt::none());
        assert!(matches!(refused, Err(FsError::SnapshotMounted { .. })), "{refused:?}");
        let used = || store.registry.read().viewed.values().copied().collect::<Vec<_>>();
        fs.forget(told.recv().unwrap().node, 1);
        fs.release_browsed();
        assert_eq!(used(), [1], "the operation is still in it");
        drop(operation);
        fs.release_browsed();
        assert!(used().is_empty(), "{:?}", used());
        store.remove_snapshots(&["v@one"], Receipt::none()).unwrap();
    }

    #[test]
    fn a_snapshot_that_somebody_fails_to_open_stays_in_use_by_others() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(&dir.path().join("store"), &StoreOptions::default()).unwrap();
        let lower = dir.path().join("lower");
        std::fs::create_dir(&lower).unwrap();
        let spec = VolumeSpec { lowers: vec![lower.clone()], ..VolumeSpec::default() };
        store.create_volume("v", &spec, Receipt::none()).unwrap();
        store.snapshot(&["v"], Some("one"), Receipt::none()).unwrap();
        let open = store.open_snapshot("v@one").unwrap();
        std::fs::remove_dir(&lower).unwrap();
        assert!(store.open_snapshot("v@one").is_err());
        let refused = store.remove_snapshots(&["v@one"], Receipt::none());
        assert!(matches!(refused, Err(FsError::SnapshotMounted { .. })), "{refused:?}");
        drop(open);
        store.remove_snapshots(&["v@one"], Receipt::none()).unwrap();
    }

    #[test]
    fn nobody_takes_the_name_of_the_directory() {
        let (_dir, _store, fs) = volume_with_snapshots(&[]);
        let (name, other) = (OsStr::new(NAME), OsStr::new("dir"));
        let file = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("file")).unwrap().node;
        let dir = fs.mkdir(&ROOT, NodeId::ROOT, other, 0o755, 0).unwrap().node;
        let made = [
            fs.create(&ROOT, NodeId::ROOT, name, 0o644, 0),
            fs.mkdir(&ROOT, NodeId::ROOT, name, 0o755, 0),
            fs.mknod(&ROOT, NodeId::ROOT, name, libc::S_IFIFO | 0o644, 0, 0),
            fs.symlink(&ROOT, NodeId::ROOT, name, b"target"),
            fs.link(file, NodeId::ROOT, name),
        ];
        assert!(made.iter().all(|made| matches!(made, Err(FsError::Exists))), "{made:?}");
        for mode in [RenameMode::Replace, RenameMode::NoReplace, RenameMode::Exchange] {
            for (from, to) in [(other, name), (name, other)] {
                let moved = fs.rename(&ROOT, NodeId::ROOT, from, NodeId::ROOT, to, mode);
                assert!(matches!(moved, Err(FsError::Busy)), "{mode:?} {moved:?}");
            }
        }
        for removed in [fs.rmdir(&ROOT, NodeId::ROOT, name), fs.unlink(&ROOT, NodeId::ROOT, name)] {
            assert!(matches!(removed, Err(FsError::Busy)), "{removed:?}");
        }
        // Anywhere else it is a name like others.
        fs.rename(&ROOT, NodeId::ROOT, OsStr::new("file"), dir, name, RenameMode::Replace).unwrap();
        fs.unlink(&ROOT, dir, name).unwrap();
    }

    #[test]
    fn a_file_of_a_snapshot_has_one_number_whoever_looks() {
        let (_dir, store, fs) = volume_with_snapshots(&["one", "two"]);
        let number = |fs: &VolumeFs, snapshot: &str| {
            let root = fs.lookup(&ROOT, NODE, OsStr::new(snapshot)).unwrap().node;
            let mut listed = None;
            let list = |entry: DirEntry<'_>| {
                listed = (entry.name == "file").then_some(entry.node).or(listed);
                Sink::Continue
            };
            let mut list = list;
            fs.readdir(root, 0, &mut list).unwrap();
            let file = fs.lookup(&ROOT, root, OsStr::new("file")).unwrap();
            assert_eq!((listed, file.attr.ino), (Some(file.node), Ino(file.node.0)));
            fs.forget(file.node, 1);
            fs.forget(root, 1);
            file.node
        };
        let first = ["one", "two"].map(|snapshot| number(&fs, snapshot));
        assert_ne!(first[0], first[1]);
        for _ in 0..2 {
            assert_eq!(["two", "one"].map(|snapshot| number(&fs, snapshot)), [first[1], first[0]]);
            fs.release_browsed();
        }
        drop(fs);
        let again = store.open_head("v").unwrap();
        assert_eq!(number(&again, "two"), first[1]);
    }

    #[test]
    fn numbers_that_meet_are_told_apart() {
        let (_dir, store, fs) = volume_with_snapshots(&["one"]);
        let (branch, epoch, _) = store.registry.read().snapshot("v@one").unwrap();
        let root = fs.lookup(&ROOT, NODE, OsStr::new("one")).unwrap().node;
        let ino = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("file")).unwrap().attr.ino;
        // Another node has the number that the file would have.
        let tree = fs.browse(branch, epoch).unwrap().unwrap();
        let evictions = fs.nodes.evictions();
        let wanted = NodeId::in_snapshot(branch, epoch, ino, 0);
        fs.nodes.dynamic.lock().insert((TreeKey::Snapshot(branch, epoch), Ino(99)), wanted);
        let mut other = tree.merged.stored(ino).unwrap().unwrap();
        other.ino = Ino(99);
        let _other = fs.nodes.insert(&tree, other, evictions).unwrap();
        let file = fs.lookup(&ROOT, root, OsStr::new("file")).unwrap();
        assert_eq!(file.node, NodeId::in_snapshot(branch, epoch, ino, 1));
    }

    /// Has the volume adopt a session in which the kernel was given a node for the file in a snapshot.
    fn inherit_file(store: &Store, fs: &VolumeFs, snapshot: &str) -> NodeId {
        let ino = fs.lookup(&ROOT, NodeId::ROOT, OsStr::new("file")).unwrap().attr.ino;
        let registry = store.registry.read();
        let (branch, epoch, _) = registry.snapshot(snapshot).unwrap();
        let node = NodeId(NodeId::FIRST_DYNAMIC + 7);
        let mut facts = Vec::new();
        Fact::Called { node, tree: TreeKey::Snapshot(branch, epoch), ino }.encode(&mut facts);
        fs.adopt(SessionId(1), facts, &[]).unwrap();
        node
    }

    #[test]
    fn a_file_of_a_snapshot_that_went_before_the_successor_was_asked_is_stale() {
        let (_dir, store, fs) = volume_with_snapshots(&["one", "two"]);
        let node = inherit_file(&store, &fs, "v@two");
        store.remove_snapshots(&["v@two"], Receipt::none()).unwrap();
        let asked = fs.getattr(node);
        assert!(matches!(asked, Err(FsError::Stale { .. })), "{asked:?}");
    }

    #[test]
    fn a_file_of_a_snapshot_keeps_its_number_over_a_takeover() {
        let (_dir, store, fs) = volume_with_snapshots(&["one"]);
        let node = inherit_file(&store, &fs, "v@one");
        for _ in 0..3 {
            assert_eq!(fs.getattr(node).unwrap().ino, Ino(node.0));
        }
        let known = || fs.nodes.dynamic.lock().values().any(|&known| known == node);
        assert!(known());
        fs.forget(node, 1);
        assert!(!known(), "the kernel has forgotten it");
    }
}
