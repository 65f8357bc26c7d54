//! The lowers of one tree, and the inode numbers of what is in them.
//!
//! # Invariants
//! - The number of a lower inode depends on nothing but the lower's place in the stack and the host's number:
//!   it is the same after every mount, and nothing is stored for files that are only read.

use std::path::PathBuf;
use std::sync::Arc;

use parking_lot::RwLock;
use rocksdb::WriteBatch;

use super::host::HostLower;
use super::lower::{Lower, LowerError, LowerInode, LowerPath, LowerStamp};
use super::resolve::LayerSays;
use super::stack::{LayerSet, LowerStack};
use crate::error::FsError;
use crate::ids::{Ino, TreeId};
use crate::store::record::{Inode, LowerRef, LowerSlot, Record};
use crate::store::{META, Store, meta};

/// The lowers of a tree.
pub struct Lowers {
    tree: TreeId,
    /// Asked for names and bytes.
    pub stack: LowerStack,
    roots: Vec<LowerInode>,
    slots: RwLock<Vec<LowerSlot>>,
}

impl Lowers {
    /// Opens the lowers of a volume.
    pub(crate) fn open(store: &Store, tree: TreeId, dirs: &[PathBuf]) -> Result<Lowers, FsError> {
        let mut lowers: Vec<Arc<dyn Lower>> = Vec::new();
        let mut roots = Vec::new();
        for dir in dirs {
            let bad = |why: String| FsError::BadLower { path: dir.clone(), why };
            let lower = HostLower::open(dir).map_err(|error| match &error {
                LowerError::Open { source, .. } if source.kind() == std::io::ErrorKind::NotFound => {
                    FsError::LowerMissing { path: dir.clone() }
                }
                LowerError::Open { source, .. } => bad(source.to_string()),
                other => bad(other.to_string()),
            })?;
            match lower.lookup(&LowerPath::root())? {
                LayerSays::Directory { inode, .. } => roots.push(inode),
                _ => return Err(bad("not a directory".into())),
            }
            lowers.push(Arc::new(lower));
        }
        let stack = LowerStack::new(lowers).map_err(|error| FsError::BadLower {
            path: dirs.first().cloned().unwrap_or_default(),
            why: error.to_string(),
        })?;
        let slots = store.registry.read().lower_slots(tree)?;
        Ok(Lowers { tree, stack, roots, slots: RwLock::new(slots) })
    }

    /// Tells whether there is nothing below.
    pub fn is_empty(&self) -> bool {
        self.roots.is_empty()
    }

    /// Returns the number of an inode of `layer`.
    pub(crate) fn ino(
        &self,
        store: &Store,
        layer: usize,
        device: u64,
        host_ino: u64,
    ) -> Result<Ino, FsError> {
        let root_device = self.roots.get(layer).map_or(0, |root| root.host_dev);
        let slot = LowerSlot {
            lower: u8::try_from(layer).map_err(|_| FsError::Invalid { what: "too many lowers" })?,
            device: if device == root_device { 0 } else { device },
            high_bits: Ino::lower_high_bits(host_ino),
        };
        let known = self.slots.read().iter().position(|known| *known == slot);
        let index = match known {
            Some(index) => index,
            None => self.add_slot(store, slot)?,
        };
        let index = u8::try_from(index).ok().filter(|&index| index < Ino::LOWER_SLOTS);
        index
            .map(|index| Ino::of_lower(index, host_ino))
            .ok_or(FsError::Unsupported { what: "lowers with more than 255 spaces of inode numbers" })
    }

    /// The device to assume of an entry that was listed but not looked at.
    pub(crate) fn root_device(&self, layer: usize) -> u64 {
        self.roots.get(layer).map_or(0, |root| root.host_dev)
    }

    fn add_slot(&self, store: &Store, slot: LowerSlot) -> Result<usize, FsError> {
        let mut registry = store.registry.write();
        // Another volume of the tree may have added it meanwhile.
        let stored = registry.slots.entry(self.tree).or_default();
        let index = match stored.iter().position(|known| *known == slot) {
            Some(index) => index,
            None => {
                let index = u8::try_from(stored.len()).map_err(|_| FsError::Unsupported {
                    what: "lowers with more than 255 spaces of inode numbers",
                })?;
                let mut batch = WriteBatch::default();
                batch.put_cf(store.db.family(META), meta::lower_slot(self.tree, index), slot.encode());
                store.db.write(batch)?;
                stored.push(slot);
                usize::from(index)
            }
        };
        *self.slots.write() = stored.clone();
        Ok(index)
    }

    /// Returns the root that all lowers show together.
    pub(crate) fn root(&self) -> Option<Inode> {
        let inode = self.roots.first()?;
        Some(self.inode(&LowerPath::root(), self.stack.all(), inode, Ino::ROOT, b""))
    }

    /// Returns what the store would say of an inode that is in a lower only.
    pub(crate) fn inode(
        &self,
        path: &LowerPath,
        layers: LayerSet,
        inode: &LowerInode,
        parent: Ino,
        name: &[u8],
    ) -> Inode {
        Inode {
            kind: inode.kind,
            perm: inode.perm,
            // Nobody counted the subdirectories of a merged directory.
            nlink: if layers.len() > 1 { 1 } else { inode.nlink },
            uid: inode.uid,
            gid: inode.gid,
            rdev: inode.rdev,
            size: if inode.kind == crate::attr::FileKind::Directory { 0 } else { inode.size },
            stored: 0,
            atime: inode.atime,
            mtime: inode.mtime,
            ctime: inode.ctime,
            btime: inode.btime,
            has_xattrs: false,
            parent,
            name: name.into(),
            lower: Some(Box::new(LowerRef {
                path: path.as_bytes().into(),
                layers: layers.bits(),
                readable: if inode.kind == crate::attr::FileKind::Regular { inode.size } else { 0 },
                blocks: inode.blocks,
                host_ino: inode.stamp.host_ino,
                host_size: inode.stamp.size,
                host_mtime: inode.stamp.mtime,
                host_ctime: inode.stamp.ctime,
            })),
            target: None,
        }
    }

    /// The lower that has a file's bytes.
    pub(crate) fn source(
        &self,
        lower: &LowerRef,
    ) -> Result<(&Arc<dyn Lower>, LowerPath, LowerStamp), FsError> {
        let layer = LayerSet::from_bits(lower.layers).first().and_then(|layer| self.stack.lower(layer));
        let path = LowerPath::parse(&lower.path);
        let (Some(layer), Some(path)) = (layer, path) else {
            let what = format!("reference to a lower: {:?}", String::from_utf8_lossy(&lower.path));
            return Err(crate::store::StoreError::Corrupt { what }.into());
        };
        let stamp = LowerStamp {
            host_ino: lower.host_ino,
            size: lower.host_size,
            mtime: lower.host_mtime,
            ctime: lower.host_ctime,
        };
        Ok((layer, path, stamp))
    }
}
