//! What a view of the store and a stack of lowers show together, by inode.
//!
//! # Invariants
//! - The store's word on a name goes before any lower's: an entry that the store has is complete in itself, and what of it
//!   is still in the lowers stands in its inode ([`LowerRef`](crate::store::record::LowerRef)). So a directory that was made anew over a whiteout shows nothing
//!   of the old one, and one that was renamed finds its lowers under its old path.
//! - A lower inode has one number whichever of its names is looked up, and the store's inode of
//!   that number, if there is one, is its copy-up.

use std::sync::Arc;

use super::lower::{LowerInode, LowerPath};
use super::lowers::Lowers;
use super::resolve::{LayerSays, Resolved, resolve};
use super::stack::LayerSet;
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, Ino};
use crate::store::record::{Dentry, Inode, Xattr};
use crate::store::{Store, StoreError, Versioned, View};

/// A merged tree.
#[derive(Clone)]
pub struct Merged {
    pub(crate) store: Arc<Store>,
    /// What it sees of the store.
    pub view: View,
    /// What lies below.
    pub lowers: Arc<Lowers>,
}

/// An inode, and the version of its record, if it has one.
#[derive(Clone, Debug)]
pub struct Looked {
    /// Its number.
    pub ino: Ino,
    /// Its attributes.
    pub inode: Inode,
    /// Which version the store has of it; `None` for what is in a lower only.
    pub version: Option<(BranchId, Epoch)>,
}

/// What one layer knows of a name: the store an inode's number, a lower all of it.
enum Says {
    Upper(Ino),
    Lower(LowerInode),
}

/// An entry of a merged directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct MergedEntry {
    /// What orders it; also its offset in the directory.
    pub hash: u64,
    /// Its name.
    pub name: Box<[u8]>,
    /// The inode it leads to; [`Ino::UNREADABLE`] if that cannot be told.
    pub ino: Ino,
    /// That inode's kind.
    pub kind: FileKind,
}

impl Merged {
    /// Loads an inode that the store has, or the root.
    ///
    /// `None` for one that is in a lower only, or was removed, or never was.
    pub fn stored(&self, ino: Ino) -> Result<Option<Looked>, FsError> {
        match self.view.inode(&self.store.db, ino)? {
            Some(Versioned { record: Some(inode), branch, epoch }) => {
                Ok(Some(Looked { ino, inode, version: Some((branch, epoch)) }))
            }
            Some(Versioned { record: None, .. }) => Ok(None),
            None if ino == Ino::ROOT => {
                Ok(self.lowers.root().map(|inode| Looked { ino, inode, version: None }))
            }
            None => Ok(None),
        }
    }

    /// Looks a name up. `None` if there is no such entry.
    pub fn lookup(&self, dir_ino: Ino, dir: &Inode, name: &[u8]) -> Result<Option<Looked>, FsError> {
        let hash = self.store.hasher.hash(name);
        let upper = match self.view.dentry(&self.store.db, dir_ino, hash, name)?.map(|found| found.record) {
            None => LayerSays::Absent,
            Some(Dentry::Whiteout) => LayerSays::Whiteout,
            Some(Dentry::Entry { ino, kind: FileKind::Directory }) => {
                LayerSays::Directory { inode: Says::Upper(ino), opaque: true }
            }
            Some(Dentry::Entry { ino, .. }) => LayerSays::File(Says::Upper(ino)),
        };
        let (path, among) = match lower_directory(dir)? {
            Some((path, among)) => (path.join(name), among),
            None => (LowerPath::root(), LayerSet::EMPTY),
        };
        let below = self.lowers.stack.ask(&path, among).map(|says| says.map(|says| says.map(Says::Lower)));
        let (layers, says) = match resolve(std::iter::once(Ok(upper)).chain(below))? {
            Resolved::Absent => return Ok(None),
            Resolved::File { layer, inode } => (LayerSet::only(layer), inode),
            Resolved::Directory { layers, inode } => (layers, inode),
        };
        match says {
            Says::Upper(ino) => match self.stored(ino)? {
                Some(looked) => Ok(Some(looked)),
                None => {
                    let what =
                        format!("directory {dir_ino}: an entry leads to inode {ino}, which is missing");
                    Err(StoreError::Corrupt { what }.into())
                }
            },
            Says::Lower(inode) => {
                // The upper is layer 0 of the set.
                let layers = layers.beneath_first();
                let top = layers.first().unwrap_or(0);
                let ino = self.lowers.ino(&self.store, top, inode.host_dev, inode.stamp.host_ino)?;
                self.lower_inode(ino, &path, layers, &inode, dir_ino, name).map(Some)
            }
        }
    }

    /// Returns the copy-up of a lower inode, or what the lower has.
    fn lower_inode(
        &self,
        ino: Ino,
        path: &LowerPath,
        layers: LayerSet,
        inode: &LowerInode,
        parent: Ino,
        name: &[u8],
    ) -> Result<Looked, FsError> {
        match self.view.inode(&self.store.db, ino)? {
            Some(Versioned { record: Some(inode), branch, epoch }) => {
                Ok(Looked { ino, inode, version: Some((branch, epoch)) })
            }
            Some(Versioned { record: None, .. }) | None => {
                Ok(Looked { ino, inode: self.lowers.inode(path, layers, inode, parent, name), version: None })
            }
        }
    }

    /// Calls `visit` with each entry from the offset `first` on, in the order of hashes, until it returns `false`.
    ///
    /// `below` is what [`Merged::lower_entries`] returned for the directory.
    pub fn entries(
        &self,
        dir_ino: Ino,
        below: &[MergedEntry],
        first: u64,
        mut visit: impl FnMut(&MergedEntry) -> Result<bool, FsError>,
    ) -> Result<(), FsError> {
        let start = below.partition_point(|entry| entry.hash < first);
        let mut below = below.get(start..).unwrap_or_default().iter().peekable();
        let mut failed = None;
        let mut full = false;
        self.view.dentries(&self.store.db, dir_ino, first, |hash, name, dentry| {
            let key = (hash, name);
            let mut step = || -> Result<bool, FsError> {
                while let Some(entry) = below.next_if(|entry| (entry.hash, &*entry.name) < key) {
                    if !visit(entry)? {
                        return Ok(false);
                    }
                }
                below.next_if(|entry| (entry.hash, &*entry.name) == key);
                let (ino, kind) = match dentry {
                    Some(Dentry::Whiteout) => return Ok(true),
                    Some(Dentry::Entry { ino, kind }) => (ino, kind),
                    // Perhaps a name, perhaps the removal of one: whoever looks it up is told.
                    None => (Ino::UNREADABLE, FileKind::Regular),
                };
                visit(&MergedEntry { hash, name: name.into(), ino, kind })
            };
            match step() {
                Ok(more) => {
                    full = !more;
                    Ok(more)
                }
                Err(error) => {
                    failed = Some(error);
                    Ok(false)
                }
            }
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        if !full {
            for entry in below {
                if !visit(entry)? {
                    return Ok(());
                }
            }
        }
        Ok(())
    }

    /// Lists what the lowers have in a directory, in the order of hashes.
    pub fn lower_entries(&self, dir: &Inode) -> Result<Vec<MergedEntry>, FsError> {
        let Some((path, layers)) = lower_directory(dir)? else { return Ok(Vec::new()) };
        let mut entries = Vec::new();
        let mut failed = None;
        self.lowers.stack.entries(&path, layers, &mut |entry| match self.lowers.ino(
            &self.store,
            entry.layer,
            self.lowers.root_device(entry.layer),
            entry.host_ino,
        ) {
            Ok(ino) => entries.push(MergedEntry {
                hash: self.store.hasher.hash(entry.name),
                name: entry.name.into(),
                ino,
                kind: entry.kind,
            }),
            Err(error) => failed = Some(error),
        })?;
        if let Some(error) = failed {
            return Err(error);
        }
        entries.sort_unstable_by(|a, b| (a.hash, &a.name).cmp(&(b.hash, &b.name)));
        Ok(entries)
    }

    /// Tells whether the lowers have an entry of this name in the directory.
    pub fn lower_has(&self, dir: &Inode, name: &[u8]) -> Result<bool, FsError> {
        let Some((path, among)) = lower_directory(dir)? else { return Ok(false) };
        Ok(!matches!(self.lowers.stack.lookup(&path.join(name), among)?, Resolved::Absent))
    }

    /// Returns an extended attribute.
    pub fn xattr(&self, ino: Ino, inode: &Inode, name: &[u8]) -> Result<Option<Vec<u8>>, FsError> {
        if inode.has_xattrs {
            match self.view.xattr(&self.store.db, ino, name)?.map(|found| found.record) {
                Some(Xattr::Value(value)) => return Ok(Some(value)),
                Some(Xattr::Removed) => return Ok(None),
                None => {}
            }
        }
        match &inode.lower {
            Some(lower) => {
                let (source, path, _) = self.lowers.source(lower)?;
                Ok(source.xattr(&path, name)?)
            }
            None => Ok(None),
        }
    }

    /// Lists the names of all extended attributes, sorted.
    pub fn xattr_names(&self, ino: Ino, inode: &Inode) -> Result<Vec<Vec<u8>>, FsError> {
        let mut names = std::collections::BTreeSet::new();
        if let Some(lower) = &inode.lower {
            let (source, path, _) = self.lowers.source(lower)?;
            names.extend(source.xattrs(&path)?.into_iter().map(|(name, _)| name));
        }
        if inode.has_xattrs {
            self.view.xattrs(&self.store.db, ino, |name, record| {
                match record {
                    // Whoever wants the value of one that cannot be read is told.
                    Some(Xattr::Value(_)) | None => names.insert(name.to_vec()),
                    Some(Xattr::Removed) => names.remove(name),
                };
                Ok(true)
            })?;
        }
        Ok(names.into_iter().collect())
    }

    /// Returns where a symlink points.
    pub fn target(&self, ino: Ino, inode: &Inode) -> Result<Vec<u8>, FsError> {
        match (&inode.target, &inode.lower) {
            (Some(target), _) => Ok(target.to_vec()),
            (None, Some(lower)) => {
                let (source, path, _) = self.lowers.source(lower)?;
                Ok(source.readlink(&path)?)
            }
            (None, None) => Err(StoreError::Corrupt { what: format!("symlink {ino} has no target") }.into()),
        }
    }

    /// Returns the path of an inode, without a leading slash; a removed one's last path.
    ///
    /// Every directory that has changed is in the store. One that is not was never renamed, nor was anything above it
    /// that is not in the store either, so its path in the lower tells its parent.
    pub fn path(&self, ino: Ino, inode: &Inode) -> Result<Vec<u8>, FsError> {
        let mut names: Vec<Box<[u8]>> = Vec::new();
        let (mut ino, mut inode) = (ino, inode.clone());
        // No path is deeper than this: each name takes a byte and a slash of PATH_MAX, and more would be a loop.
        for _ in 0..1 << 16 {
            if ino == Ino::ROOT {
                names.reverse();
                return Ok(names.join(&b'/'));
            }
            names.push(inode.name.clone());
            let parent = inode.parent;
            inode = match self.stored(parent)? {
                Some(looked) => looked.inode,
                None => match self.lower_parent(&inode)? {
                    Some(found) => found,
                    None => {
                        let what = format!("inode {ino}: its parent {parent} is missing");
                        return Err(StoreError::Corrupt { what }.into());
                    }
                },
            };
            ino = parent;
        }
        Err(StoreError::Corrupt { what: format!("inode {ino}: its parents form a loop") }.into())
    }

    /// Returns the inode that was copied up to `after` as the lower has it.
    pub(crate) fn as_in_lower(&self, after: &Looked) -> Result<Option<Looked>, FsError> {
        let path = after.inode.lower.as_ref().and_then(|lower| LowerPath::parse(&lower.path));
        let Some(path) = path else { return Ok(None) };
        let (layers, inode) = match self.resolve_lower(&path)? {
            Resolved::Absent => return Ok(None),
            Resolved::File { layer, inode } => (LayerSet::only(layer), inode),
            Resolved::Directory { layers, inode } => (layers, inode),
        };
        // It was renamed since, perhaps: there it has the place that the lower gives it.
        let Some(parent) = self.lower_parent_ino(&path)? else { return Ok(None) };
        let inode = self.lowers.inode(&path, layers, &inode, parent, path.name().unwrap_or_default());
        Ok(Some(Looked { ino: after.ino, inode, version: None }))
    }

    /// Returns an inode that the store has no record of, which was found at `path` before; `None` if something else is
    /// there now.
    pub(crate) fn at_in_lower(
        &self,
        ino: Ino,
        parent: Ino,
        path: &LowerPath,
        among: LayerSet,
    ) -> Result<Option<Looked>, FsError> {
        let (layers, inode) = match self.lowers.stack.lookup(path, among)? {
            Resolved::Absent => return Ok(None),
            Resolved::File { layer, inode } => (LayerSet::only(layer), inode),
            Resolved::Directory { layers, inode } => (layers, inode),
        };
        let top = layers.first().unwrap_or(0);
        if self.lowers.ino(&self.store, top, inode.host_dev, inode.stamp.host_ino)? != ino {
            return Ok(None);
        }
        let name = path.name().unwrap_or_default();
        let inode = self.lowers.inode(path, layers, &inode, parent, name);
        Ok(Some(Looked { ino, inode, version: None }))
    }

    /// Returns the parent `parent` of an inode that never moved, from the lowers.
    pub fn lower_parent_of(&self, parent: Ino, inode: &Inode) -> Result<Option<Looked>, FsError> {
        let found = self.lower_parent(inode)?;
        Ok(found.map(|inode| Looked { ino: parent, inode, version: None }))
    }

    /// Returns the parent of an inode that never moved, from the lowers.
    fn lower_parent(&self, inode: &Inode) -> Result<Option<Inode>, FsError> {
        let path = inode.lower.as_ref().and_then(|lower| LowerPath::parse(&lower.path));
        let Some(parent) = path.and_then(|path| path.parent()) else { return Ok(None) };
        let Resolved::Directory { layers, inode } = self.resolve_lower(&parent)? else {
            return Ok(None);
        };
        let Some(grandparent) = self.lower_parent_ino(&parent)? else { return Ok(None) };
        let name = parent.name().unwrap_or_default().to_vec();
        Ok(Some(self.lowers.inode(&parent, layers, &inode, grandparent, &name)))
    }

    /// Looks a path up in the lowers, from the root on: at each step only those take part that the directory above is merged from.
    fn resolve_lower(&self, path: &LowerPath) -> Result<Resolved<LowerInode>, FsError> {
        let mut above: Vec<LowerPath> =
            std::iter::successors(path.parent(), LowerPath::parent).filter(|path| !path.is_root()).collect();
        above.reverse();
        let mut among = self.lowers.stack.all();
        for directory in &above {
            match self.lowers.stack.lookup(directory, among)? {
                Resolved::Directory { layers, .. } => among = layers,
                Resolved::Absent | Resolved::File { .. } => return Ok(Resolved::Absent),
            }
        }
        Ok(self.lowers.stack.lookup(path, among)?)
    }

    /// Returns the number of the directory in which the lowers have a path.
    fn lower_parent_ino(&self, path: &LowerPath) -> Result<Option<Ino>, FsError> {
        let Some(parent) = path.parent().filter(|parent| !parent.is_root()) else {
            return Ok(Some(Ino::ROOT));
        };
        match self.resolve_lower(&parent)? {
            Resolved::Directory { layers, inode } => {
                let top = layers.first().unwrap_or(0);
                self.lowers.ino(&self.store, top, inode.host_dev, inode.stamp.host_ino).map(Some)
            }
            Resolved::Absent | Resolved::File { .. } => Ok(None),
        }
    }
}

/// Where the lowers have a directory.
pub(crate) fn lower_directory(dir: &Inode) -> Result<Option<(LowerPath, LayerSet)>, FsError> {
    let Some(lower) = &dir.lower else { return Ok(None) };
    match LowerPath::parse(&lower.path) {
        Some(path) => Ok(Some((path, LayerSet::from_bits(lower.layers)))),
        None => Err(StoreError::Corrupt {
            what: format!("reference to a lower: {:?}", String::from_utf8_lossy(&lower.path)),
        }
        .into()),
    }
}
