//! The inodes that are in memory: those the kernel refers to, and those an operation is using.
//!
//! # Invariants
//! - There is at most one node per (tree, inode) at any time, and while there is one, nobody changes the stored inode but through it.
//! - A node stays while the kernel has a reference or somebody holds a [`NodeRef`].

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::{Mutex, MutexGuard, RwLock};

use super::group_cache::GroupCache;
use super::known_names::KnownNames;
use super::names::{Children, Names};
use super::{Tree, TreeKey};
use crate::attr::{Attr, FileKind};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, Ino, NodeId};
use crate::overlay::merged::Looked;
use crate::store::record::Inode;

const SHARDS: usize = 64;

/// An inode in memory.
pub(crate) struct Node {
    /// What the transport calls it.
    pub(crate) id: NodeId,
    pub(crate) ino: Ino,
    pub(crate) tree: Arc<Tree>,
    /// References the kernel was given by this process.
    lookups: AtomicU64,
    /// The kernel may hold more, from a process that served the mount before.
    pub(super) inherited: AtomicBool,
    pub(super) known_names: KnownNames,
    pub(crate) state: RwLock<NodeState>,
}

/// What is known of an inode.
pub(crate) struct NodeState {
    pub(crate) inode: Inode,
    /// The version of the stored record; `None` for what is in a lower only.
    pub(crate) version: Option<(BranchId, Epoch)>,
    /// Of a directory alone. There are a million files for some thousand of these.
    pub(crate) children: Option<Box<Children>>,
    pub(crate) groups: Mutex<Option<Box<GroupCache>>>,
    /// Whether it is known that a file's last page is zero behind the end.
    pub(super) tail_is_zero: bool,
}

/// A node that is in use.
pub(crate) struct NodeRef<'t> {
    node: Arc<Node>,
    table: &'t NodeTable,
}

/// An inode without a name that nobody refers to any more.
pub(crate) struct Gone {
    pub(crate) tree: Arc<Tree>,
    pub(crate) ino: Ino,
    /// What memory had of it last.
    pub(crate) node: Option<Arc<Node>>,
}

/// All nodes of a mount.
pub(crate) struct NodeTable {
    shards: Vec<Mutex<HashMap<NodeId, Arc<Node>>>>,
    /// Nodes whose number is not their inode's: those of snapshots, and of timelines after a rollback.
    pub(super) dynamic: Mutex<HashMap<(TreeKey, Ino), NodeId>>,
    /// The next of those that are handed out one after the other.
    pub(super) next_dynamic: AtomicU64,
    /// Another process served the mount before.
    pub(super) inherited: AtomicBool,
    /// The first number in sequence that this process hands out: smaller ones are of those before.
    pub(super) first_own: AtomicU64,
    evictions: AtomicU64,
    /// Inodes without a name that nobody refers to any more, to be reaped.
    pub(crate) dead: Mutex<Vec<Gone>>,
    /// Nodes of which the kernel gave back all that was counted here, and may hold more: to be asked about.
    pub(super) doubted: Mutex<Vec<NodeId>>,
}

impl NodeState {
    fn new(looked: Looked) -> NodeState {
        let is_directory = looked.inode.kind == FileKind::Directory;
        NodeState {
            inode: looked.inode,
            version: looked.version,
            children: is_directory.then(Box::default),
            groups: Mutex::default(),
            tail_is_zero: false,
        }
    }

    /// Notes that the directory has a new name, or one that leads elsewhere.
    pub(crate) fn bind_name(&mut self, name: &[u8], ino: Ino) {
        self.change_names(|names| names.bind(name, ino));
    }

    /// Notes that a name of the directory is gone.
    pub(crate) fn unbind_name(&mut self, name: &[u8]) {
        self.change_names(|names| names.unbind(name));
    }

    fn change_names(&mut self, change: impl FnOnce(&mut Names)) {
        if let Some(children) = &mut self.children {
            children.changes += 1;
            change(children.names.get_mut());
        }
    }

    /// Counts changes of the directory's names.
    pub(crate) fn names_changed(&self) -> u64 {
        self.children.as_ref().map_or(0, |children| children.changes)
    }

    /// Returns the names of the directory that are known; `None` if it is none.
    pub(crate) fn names(&self) -> Option<MutexGuard<'_, Names>> {
        self.children.as_ref().map(|children| children.names.lock())
    }

    pub(crate) fn attr(&self, shown: Ino) -> Attr {
        let inode = &self.inode;
        // What the lower still shows, at most what fits between the stored pages.
        let below = inode.lower.as_ref().map_or(0, |lower| lower.blocks.min(lower.readable.div_ceil(512)));
        let whole = inode.size.div_ceil(4096) * 8;
        let stored = inode.stored.div_ceil(512);
        Attr {
            ino: shown,
            kind: inode.kind,
            perm: inode.perm,
            nlink: inode.nlink,
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            size: if inode.kind == FileKind::Directory { 4096 } else { inode.size },
            blocks: if inode.kind == FileKind::Directory {
                8
            } else {
                stored + below.min(whole.saturating_sub(stored))
            },
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            btime: inode.btime,
        }
    }
}

impl Node {
    /// Returns how many references this process gave to the kernel.
    pub(crate) fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::SeqCst)
    }

    /// Counts a reference of the kernel, and returns how many there were before.
    pub(crate) fn count_lookup(&self) -> u64 {
        self.lookups.fetch_add(1, Ordering::SeqCst)
    }

    /// Takes back a reference that the kernel was not given after all.
    pub(crate) fn uncount_lookup(&self) {
        self.lookups.fetch_sub(1, Ordering::SeqCst);
    }

    /// Takes back all references: the kernel is known to hold none.
    pub(super) fn let_go(&self) {
        self.lookups.store(0, Ordering::SeqCst);
        self.inherited.store(false, Ordering::SeqCst);
    }

    /// Tells whether the kernel may hold it: by a reference from here, or, where it could not come back by its name, by one
    /// of a process that served the mount before.
    fn is_referred(&self) -> bool {
        self.lookups() > 0 || (self.inherited.load(Ordering::SeqCst) && self.state.read().inode.nlink == 0)
    }

    /// The number that programs see: files of other trees must not be taken for hard links of the live ones.
    pub(crate) fn shown_ino(&self) -> Ino {
        if self.tree.head.is_some() || self.id.0 < NodeId::FIRST_DYNAMIC { self.ino } else { Ino(self.id.0) }
    }

    pub(crate) fn attr(&self) -> Attr {
        self.state.read().attr(self.shown_ino())
    }
}

impl Default for NodeTable {
    fn default() -> Self {
        NodeTable {
            shards: (0..SHARDS).map(|_| Mutex::default()).collect(),
            dynamic: Mutex::default(),
            // The first is the `.snapshots` directory.
            next_dynamic: AtomicU64::new(NodeId::FIRST_DYNAMIC + 1),
            inherited: AtomicBool::new(false),
            first_own: AtomicU64::new(NodeId::FIRST_DYNAMIC),
            evictions: AtomicU64::new(0),
            dead: Mutex::default(),
            doubted: Mutex::default(),
        }
    }
}

/// What is left of a node after the kernel gave references back.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Left {
    /// It holds others, or may do so.
    References,
    /// It holds none of this node, which is in memory.
    Nothing,
    /// It holds none, and the node was not in memory.
    NothingAtAll,
}

impl Left {
    pub(crate) fn is_for_good(self) -> bool {
        self != Left::References
    }

    pub(crate) fn was_in_memory(self) -> bool {
        self != Left::NothingAtAll
    }
}

impl NodeTable {
    fn shard(&self, id: NodeId) -> &Mutex<HashMap<NodeId, Arc<Node>>> {
        // Numbers are handed out in order: the low bits spread them.
        let index = usize::try_from(id.0 % SHARDS as u64).unwrap_or(0);
        self.shards.get(index).expect("the index is taken modulo the length")
    }

    pub(crate) fn get(&self, id: NodeId) -> Option<NodeRef<'_>> {
        let node = self.shard(id).lock().get(&id).cloned()?;
        Some(NodeRef { node, table: self })
    }

    pub(crate) fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// A number that differs if a node was evicted in between: what was read from the store meanwhile may be outdated.
    pub(crate) fn evictions(&self) -> u64 {
        self.evictions.load(Ordering::SeqCst)
    }

    /// Returns the node of an inode if it is in memory.
    pub(crate) fn find(&self, tree: &Tree, ino: Ino) -> Option<NodeRef<'_>> {
        self.get(self.existing_id(tree, ino)?)
    }

    /// Returns the node of an inode if it is in memory and of this very tree.
    pub(crate) fn find_live(&self, tree: &Arc<Tree>, ino: Ino) -> Option<NodeRef<'_>> {
        self.find(tree, ino).filter(|node| Arc::ptr_eq(&node.tree, tree))
    }

    /// Returns what an inode is called, if it may be in memory.
    pub(super) fn existing_id(&self, tree: &Tree, ino: Ino) -> Option<NodeId> {
        match tree.key {
            TreeKey::Mounted => Some(NodeId(ino.0)),
            TreeKey::RolledBack(_) if ino == Ino::ROOT => Some(NodeId::ROOT),
            key => self.dynamic.lock().get(&(key, ino)).copied(),
        }
    }

    /// Returns the number that an inode has, or will have, in a tree whose nodes have numbers of their own. Those of a snapshot are not
    /// handed out, so that they take no room, and are the same ones whenever somebody looks.
    pub(crate) fn number(&self, tree: TreeKey, ino: Ino) -> NodeId {
        match self.dynamic.lock().get(&(tree, ino)) {
            Some(&node) => node,
            None => self.new_number(tree, ino),
        }
    }

    fn new_number(&self, tree: TreeKey, ino: Ino) -> NodeId {
        let TreeKey::Snapshot(branch, epoch) = tree else {
            return NodeId(self.next_dynamic.fetch_add(1, Ordering::SeqCst));
        };
        let numbers = (0..).map(|salt| NodeId::in_snapshot(branch, epoch, ino, salt));
        let is_free = |id: &NodeId| {
            let shard = self.shard(*id).lock();
            shard.get(id).is_none_or(|node| (node.tree.key, node.ino) == (tree, ino))
        };
        numbers.into_iter().find(is_free).expect("the salts do not end")
    }

    /// Returns the node of an inode, which is put into the table if it is not there.
    ///
    /// `evictions` is what [`NodeTable::evictions`] said before `looked` was read.
    pub(crate) fn insert(
        &self,
        tree: &Arc<Tree>,
        looked: Looked,
        evictions: u64,
    ) -> Result<NodeRef<'_>, FsError> {
        let ino = looked.ino;
        let id = match tree.key {
            TreeKey::Mounted => NodeId(ino.0),
            TreeKey::RolledBack(_) if ino == Ino::ROOT => NodeId::ROOT,
            key => *self.dynamic.lock().entry((key, ino)).or_insert_with(|| self.new_number(key, ino)),
        };
        let mut shard = self.shard(id).lock();
        if let Some(node) = shard.get(&id)
            && Arc::ptr_eq(&node.tree, tree)
        {
            return Ok(NodeRef { node: node.clone(), table: self });
        }
        let looked = if self.evictions() == evictions {
            looked
        } else {
            // Somebody may have changed it and gone: look again, while nobody can load it.
            match tree.merged.stored(ino)? {
                Some(again) => again,
                None => looked,
            }
        };
        let node = Arc::new(Node {
            id,
            ino,
            tree: tree.clone(),
            lookups: AtomicU64::new(0),
            inherited: AtomicBool::new(self.inherited.load(Ordering::SeqCst)),
            known_names: KnownNames::default(),
            state: RwLock::new(NodeState::new(looked)),
        });
        shard.insert(id, node.clone());
        Ok(NodeRef { node, table: self })
    }

    /// Takes back references of the kernel.
    ///
    /// The kernel takes single ones back that it could not use, and all of a node at once when it drops it. In a session
    /// that another process began it may hold more than were counted here: more than those come back only at the end.
    pub(crate) fn forget(&self, id: NodeId, count: u64) -> Left {
        let Some(node) = self.get(id) else { return Left::NothingAtAll };
        let taken = node
            .lookups
            .fetch_update(Ordering::SeqCst, Ordering::SeqCst, |lookups| Some(lookups.saturating_sub(count)));
        let before = taken.unwrap_or_else(|before| before);
        let inherited = node.inherited.load(Ordering::SeqCst);
        let all = if inherited { count > before } else { count >= before };
        if !all {
            let has_name = || node.state.try_read().is_some_and(|state| state.inode.nlink > 0);
            if inherited && count == before && node.tree.head.is_some() && !has_name() {
                self.doubted.lock().push(id);
            }
            return Left::References;
        }
        node.inherited.store(false, Ordering::SeqCst);
        Left::Nothing
    }

    /// Calls `visit` with every node that the kernel was given a reference to.
    pub(crate) fn each_referred(&self, mut visit: impl FnMut(&Node)) {
        for shard in &self.shards {
            // Looked at without the lock: whoever holds a node's state may be about to take a shard.
            let nodes: Vec<Arc<Node>> = shard.lock().values().cloned().collect();
            for node in nodes.iter().filter(|node| node.lookups() > 0) {
                visit(node);
            }
        }
    }

    /// Removes a node that nobody refers to.
    fn evict(&self, node: &Arc<Node>) {
        let mut shard = self.shard(node.id).lock();
        // The table's and the caller's.
        if Arc::strong_count(node) > 2 || node.is_referred() {
            return;
        }
        match shard.get(&node.id) {
            Some(known) if Arc::ptr_eq(known, node) => {}
            _ => return,
        }
        shard.remove(&node.id);
        self.evictions.fetch_add(1, Ordering::SeqCst);
        let dead = node.tree.head.is_some() && node.state.read().inode.nlink == 0;
        drop(shard);
        // What the kernel may have from a predecessor is called by its number until the kernel forgets it.
        let is_called = node.inherited.load(Ordering::SeqCst) && self.is_of_predecessor(node.id);
        if node.id.0 >= NodeId::FIRST_DYNAMIC && !is_called {
            let mut dynamic = self.dynamic.lock();
            // The snapshot may have been closed and looked into again since.
            if dynamic.get(&(node.tree.key, node.ino)) == Some(&node.id) {
                dynamic.remove(&(node.tree.key, node.ino));
            }
        }
        if dead {
            self.dead.lock().push(Gone { tree: node.tree.clone(), ino: node.ino, node: Some(node.clone()) });
        }
    }

    /// Tells whether a number is none that this process would give.
    fn is_of_predecessor(&self, id: NodeId) -> bool {
        id.is_in_sequence() && id.0 < self.first_own.load(Ordering::SeqCst)
    }

    /// Forgets the nodes of a tree whose numbers are its own.
    pub(crate) fn remove_tree(&self, tree: TreeKey) {
        let mut dynamic = self.dynamic.lock();
        let ids: Vec<NodeId> =
            dynamic.iter().filter(|((key, _), _)| *key == tree).map(|(_, &node)| node).collect();
        dynamic.retain(|(key, _), _| *key != tree);
        drop(dynamic);
        for id in ids {
            // Dropped outside the lock of the shard.
            let _gone = self.shard(id).lock().remove(&id);
        }
        self.evictions.fetch_add(1, Ordering::SeqCst);
    }

    /// Forgets all nodes, as after a rollback. Those in use go when their last user is done.
    pub(crate) fn clear(&self) {
        for shard in &self.shards {
            shard.lock().clear();
        }
        self.dynamic.lock().clear();
        self.evictions.fetch_add(1, Ordering::SeqCst);
    }
}

impl Deref for NodeRef<'_> {
    type Target = Node;

    fn deref(&self) -> &Node {
        &self.node
    }
}

impl Clone for NodeRef<'_> {
    fn clone(&self) -> Self {
        NodeRef { node: self.node.clone(), table: self.table }
    }
}

impl Drop for NodeRef<'_> {
    fn drop(&mut self) {
        if self.node.lookups() == 0 {
            self.table.evict(&self.node);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_million_files_that_the_kernel_knows_fit_into_memory() {
        // As it is allocated: with the counts of an Arc, in the next size that jemalloc has.
        assert!(size_of::<Node>() + 16 <= 320, "{}", size_of::<Node>());
    }
}
