//! The operations of a mounted volume, in POSIX terms. No transport's types appear here.
//!
//! [`VolumeFs`] is the merged tree of a volume's head, or of a snapshot; each file of this directory adds one family of
//! operations to it.
//!
//! # Concurrency
//! An operation locks the inodes it will change in ascending order of their numbers ([`locks`]), then passes the gate of the
//! head, writes one transaction, and only then changes what memory holds. Names that were looked up before the
//! locks were taken are looked up again if the directory changed in between.
//!
//! # Permissions
//! The kernel checks them (`default_permissions`), with the caller's supplementary groups, from the attributes it is given. What
//! is left here is what a change of a file does to its mode.

mod acl;
mod adopt;
mod allocation;
mod asking;
mod attr;
mod compare;
mod copy;
mod create;
mod data;
mod dir;
mod group_cache;
mod invalidate;
mod io;
mod journal;
mod kept;
mod known_names;
mod link;
mod locks;
mod lookup;
mod names;
mod node;
mod open;
mod reap;
mod remove;
mod rename;
mod seek;
mod snapshots_dir;
mod space;
mod sync;
mod unlinked;
mod xattr;

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::AtomicU64;
use std::sync::{Arc, OnceLock};

use hashbrown::HashSet;
use parking_lot::{Mutex, RwLock};

pub use adopt::{FromAnswer, Unanswered};
pub use dir::{DirEntry, Sink};
pub use invalidate::Invalidate;
pub use io::KillSuid;
pub use journal::{Fact, NodeJournal};
pub use rename::RenameMode;
pub use seek::Whence;
pub use sync::{Datasync, StatFs};
pub use xattr::SetXattr;

use crate::attr::Attr;
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, Ino, NodeId};
use crate::overlay::merged::Merged;
use crate::store::{Head, Store};
use adopt::Adopted;
use node::{NodeRef, NodeTable};
use snapshots_dir::Browsed;
use unlinked::Unlinked;

/// Who asks.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Caller {
    /// Effective user.
    pub uid: u32,
    /// Effective group.
    pub gid: u32,
    /// Process, 0 if unknown.
    pub pid: u32,
}

/// What a look-up found.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Entry {
    /// What the transport calls it from now on.
    pub node: NodeId,
    /// Always 0: numbers are never reused.
    pub generation: u64,
    /// Its attributes.
    pub attr: Attr,
}

/// The longest name, in bytes.
pub const NAME_MAX: usize = 255;

/// Tells the trees of one mount apart, also for a successor.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum TreeKey {
    /// What was mounted. The transport calls its nodes by their inode numbers.
    Mounted,
    /// The head that a rollback under the mount began, by its branch.
    RolledBack(BranchId),
    /// A snapshot that was looked into through `.snapshots`.
    Snapshot(BranchId, Epoch),
}

/// One merged tree: the head as of some timeline, or a snapshot.
pub(crate) struct Tree {
    key: TreeKey,
    merged: Merged,
    /// Where it is written; `None` for a snapshot.
    head: Option<Arc<Head>>,
}

/// The merged tree of a volume's head or of a snapshot, with all operations.
pub struct VolumeFs {
    store: Arc<Store>,
    volume: String,
    /// The tree that the root shows: another one after a rollback.
    root: RwLock<Arc<Tree>>,
    nodes: NodeTable,
    /// Snapshots that were looked into through `.snapshots`.
    browsed: Mutex<Browsed>,
    /// The snapshot that this is a view of, which must not be removed meanwhile.
    pinned: Option<(BranchId, Epoch)>,
    invalidator: RwLock<Option<Arc<dyn Invalidate>>>,
    /// Where a successor finds what the store does not know, if the mount may have one.
    journal: OnceLock<Box<dyn NodeJournal>>,
    /// What a predecessor left, if there was one.
    adopted: OnceLock<Adopted>,
    /// Inodes that lost their last name and are not removed yet; a hint for [`VolumeFs::with_room`].
    unlinked: Unlinked,
    /// Inodes without a name that can be looked up by their number.
    kept: Mutex<HashSet<Ino>>,
    /// Shared by whoever removes inodes without names right now: their room is being given back.
    reaping: RwLock<()>,
    /// How often room was given back.
    reaped: AtomicU64,
    /// Held while the kernel is asked what it holds.
    asking: Arc<Mutex<()>>,
}

impl VolumeFs {
    /// Tells whether nothing can be written: it is a snapshot.
    pub fn is_read_only(&self) -> bool {
        self.root.read().head.is_none()
    }

    /// Returns the name the volume had when it was opened.
    pub fn volume_name(&self) -> &str {
        &self.volume
    }

    /// Takes what makes a transport's caches forget.
    pub fn set_invalidator(&self, invalidator: Arc<dyn Invalidate>) {
        *self.invalidator.write() = Some(invalidator);
    }

    /// Has the kernel ask again for every name and its attributes: what it was told of some of them may not be so. Not to be
    /// called by a thread that answers requests.
    pub fn distrust_kernel(&self) {
        if let Some(invalidator) = &*self.invalidator.read() {
            invalidator.all_entries();
            invalidator.inode(NodeId::ROOT);
        }
    }

    /// Tells whether the volume was rolled back since it was mounted. Whoever did that may have died before the kernel was told.
    pub fn was_rolled_back(&self) -> bool {
        matches!(self.root.read().key, TreeKey::RolledBack(_))
    }

    /// Takes the journal in which a successor will find what the store does not know. To be called before the first
    /// request.
    pub fn set_journal(&self, journal: Box<dyn NodeJournal>) {
        let first = self.journal.set(journal).is_ok();
        debug_assert!(first, "a mount has one journal");
    }

    /// Returns the branch that is written; `None` for a snapshot.
    pub fn branch(&self) -> Option<BranchId> {
        self.root.read().head.as_ref().map(|head| head.branch)
    }

    /// Returns how many inodes are held in memory.
    pub fn cached_inodes(&self) -> usize {
        self.nodes.len()
    }

    /// Finds a node that the transport knows.
    fn node(&self, id: NodeId) -> Result<NodeRef<'_>, FsError> {
        if id == snapshots_dir::NODE {
            // What may be asked of it was answered before: the rest would write.
            return Err(FsError::ReadOnly);
        }
        let node = match self.nodes.get(id) {
            Some(node) => node,
            None => self.load_node(id)?,
        };
        if node.tree.head.is_some() && !Arc::ptr_eq(&node.tree, &self.root.read()) {
            // Of a timeline that a rollback ended.
            return Err(FsError::Stale { node: id });
        }
        Ok(node)
    }

    /// Loads the root, or an inode of the live tree that nobody looked up since the volume was opened.
    fn load_node(&self, id: NodeId) -> Result<NodeRef<'_>, FsError> {
        let tree = self.root.read().clone();
        let stale = FsError::Stale { node: id };
        if id == NodeId::ROOT || (tree.key == TreeKey::Mounted && id.0 < NodeId::FIRST_DYNAMIC) {
            let ino = Ino(id.0);
            let evictions = self.nodes.evictions();
            if let Some(looked) = tree.merged.stored(ino)? {
                return self.nodes.insert(&tree, looked, evictions);
            }
        }
        self.load_inherited(id)?.ok_or(stale)
    }

    /// Returns the head that the node belongs to, or refuses to write a snapshot.
    fn writable<'n>(&self, node: &'n NodeRef<'_>) -> Result<&'n Head, FsError> {
        node.tree.head.as_deref().ok_or(FsError::ReadOnly)
    }
}

/// Refuses what cannot be a name.
fn check_name(name: &OsStr) -> Result<&[u8], FsError> {
    let bytes = name.as_bytes();
    if bytes.len() > NAME_MAX {
        return Err(FsError::NameTooLong { length: bytes.len() });
    }
    if bytes.is_empty() || bytes.contains(&0) || bytes.contains(&b'/') || bytes == b"." || bytes == b".." {
        return Err(FsError::Invalid { what: "a name is empty, '.', '..', or has a slash or NUL in it" });
    }
    Ok(bytes)
}

impl Drop for VolumeFs {
    fn drop(&mut self) {
        self.reap_all();
        self.release_pins();
    }
}
