//! The inodes that are in memory: those the kernel refers to, and those an operation is using.
//!
//! # Invariants
//! - There is at most one node per (tree, inode) at any time, and while there is one, nobody changes the stored inode but through it.
//! - A node stays while the kernel has a reference or somebody holds a [`NodeRef`].

use std::ops::Deref;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};

use super::Tree;
use super::data::GroupCache;
use super::known_names::KnownNames;
use crate::attr::{Attr, FileKind};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, Ino, NodeId};
use crate::overlay::merged::{Looked, MergedEntry};
use crate::store::record::Inode;

const SHARDS: usize = 64;

/// An inode in memory.
pub(crate) struct Node {
    /// What the transport calls it.
    pub(crate) id: NodeId,
    pub(crate) ino: Ino,
    pub(crate) tree: Arc<Tree>,
    /// References the kernel holds.
    lookups: AtomicU64,
    pub(super) known_names: KnownNames,
    pub(crate) state: RwLock<NodeState>,
}

/// What is known of an inode.
pub(crate) struct NodeState {
    pub(crate) inode: Inode,
    /// The version of the stored record; `None` for what is in a lower only.
    pub(crate) version: Option<(BranchId, Epoch)>,
    /// Counts changes of a directory's names.
    pub(crate) names_changed: u64,
    /// A name that was looked for and not there, valid until a name of the directory changes: `create` asks right after `lookup`.
    pub(crate) absent: Mutex<Option<Box<[u8]>>>,
    /// What the lowers have in a directory; they do not change.
    pub(crate) below: Mutex<Option<Arc<Vec<MergedEntry>>>>,
    pub(crate) groups: Mutex<Option<Box<GroupCache>>>,
}

/// A node that is in use.
pub(crate) struct NodeRef<'t> {
    node: Arc<Node>,
    table: &'t NodeTable,
}

/// All nodes of a mount.
pub(crate) struct NodeTable {
    shards: Vec<Mutex<HashMap<NodeId, Arc<Node>>>>,
    /// Nodes whose number is not their inode's: those of snapshots, and of timelines after a rollback.
    dynamic: Mutex<HashMap<(u64, Ino), NodeId>>,
    next_dynamic: AtomicU64,
    evictions: AtomicU64,
    /// Inodes without a name that nobody refers to any more, to be reaped.
    pub(crate) dead: Mutex<Vec<(Arc<Tree>, Ino)>>,
}

impl NodeState {
    fn new(looked: Looked) -> NodeState {
        NodeState {
            inode: looked.inode,
            version: looked.version,
            names_changed: 0,
            absent: Mutex::default(),
            below: Mutex::default(),
            groups: Mutex::default(),
        }
    }

    /// Notes that a name of the directory changed.
    pub(crate) fn names_changed(&mut self) {
        self.names_changed += 1;
        *self.absent.get_mut() = None;
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
    /// Returns how many references the kernel holds.
    pub(crate) fn lookups(&self) -> u64 {
        self.lookups.load(Ordering::SeqCst)
    }

    /// Counts a reference of the kernel.
    pub(crate) fn count_lookup(&self) {
        self.lookups.fetch_add(1, Ordering::SeqCst);
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
            evictions: AtomicU64::new(0),
            dead: Mutex::default(),
        }
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

    fn existing_id(&self, tree: &Tree, ino: Ino) -> Option<NodeId> {
        match tree.id {
            0 => Some(NodeId(ino.0)),
            _ if ino == Ino::ROOT && tree.head.is_some() => Some(NodeId::ROOT),
            id => self.dynamic.lock().get(&(id, ino)).copied(),
        }
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
        let id = match tree.id {
            0 => NodeId(ino.0),
            _ if ino == Ino::ROOT && tree.head.is_some() => NodeId::ROOT,
            tree_id => *self
                .dynamic
                .lock()
                .entry((tree_id, ino))
                .or_insert_with(|| NodeId(self.next_dynamic.fetch_add(1, Ordering::SeqCst))),
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
            known_names: KnownNames::default(),
            state: RwLock::new(NodeState::new(looked)),
        });
        shard.insert(id, node.clone());
        Ok(NodeRef { node, table: self })
    }

    /// Takes back references of the kernel.
    pub(crate) fn forget(&self, id: NodeId, count: u64) {
        if let Some(node) = self.get(id) {
            // The kernel forgets what it looked up, but a takeover may have lost count: never below zero.
            let forgotten = node.lookups.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |lookups| {
                Some(lookups.saturating_sub(count))
            });
            debug_assert!(forgotten.is_ok(), "the closure always gives a number");
        }
    }

    /// Removes a node that nobody refers to.
    fn evict(&self, node: &Arc<Node>) {
        let mut shard = self.shard(node.id).lock();
        // The table's and the caller's.
        if Arc::strong_count(node) > 2 || node.lookups() > 0 {
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
        if node.id.0 >= NodeId::FIRST_DYNAMIC {
            self.dynamic.lock().remove(&(node.tree.id, node.ino));
        }
        if dead {
            self.dead.lock().push((node.tree.clone(), node.ino));
        }
    }

    /// Forgets the nodes of a tree whose numbers are its own.
    pub(crate) fn remove_tree(&self, tree: &Tree) {
        let mut dynamic = self.dynamic.lock();
        let ids: Vec<NodeId> =
            dynamic.iter().filter(|((id, _), _)| *id == tree.id).map(|(_, &node)| node).collect();
        dynamic.retain(|(id, _), _| *id != tree.id);
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
