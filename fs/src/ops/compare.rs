//! What differs between two trees, whether they have a history in common or not.
//!
//! Where they have one, the store knows what was written since they parted. Where they have none, both are walked side by side, by path, and
//! regular files are read, but for their holes: the cost follows what there is. What neither wrote, and both have from the same file of a lower, is not read.

use std::cmp::Ordering;
use std::sync::Arc;

use hashbrown::HashMap;

use super::node::NodeRef;
use super::seek::Whence;
use super::{Tree, VolumeFs};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::Ino;
use crate::overlay::diff::shows_difference;
use crate::overlay::lower::Xattrs;
use crate::overlay::merged::{Looked, MergedEntry};
use crate::store::record::PAGE_SIZE;
use crate::store::{Change, ChangeKind, Store};

/// How much of two files is compared at once; a multiple of the page size.
const PIECE: usize = 1 << 20;

impl Store {
    /// Compares a snapshot with another one, or with the head of a volume: that of its own one if `to` is `None`. Sorted by path.
    ///
    /// Takes time that follows the changes, if one is an ancestor of the other or both have one in common. Any other two snapshots are walked and
    /// read, and nothing counts as renamed: without a history, a name is all that tells which file is which.
    ///
    /// # Errors
    /// [`FsError::UnrelatedHead`] for the head of a volume that has no ancestor in common with the snapshot: it would change while it is read.
    pub fn diff(self: &Arc<Self>, from: &str, to: Option<&str>) -> Result<Vec<Change>, FsError> {
        let own_volume = from.rsplit_once('@').map_or(from, |(volume, _)| volume);
        let to = to.unwrap_or(own_volume);
        if let Some(changes) = self.diff_since_parted(from, to)? {
            return Ok(changes);
        }
        if !to.contains('@') {
            return Err(FsError::UnrelatedHead { from: from.to_owned(), to: to.to_owned() });
        }
        let (old, new) = (self.open_snapshot(from)?, self.open_snapshot(to)?);
        let (old, new) = (Side::of(&old), Side::of(&new));
        Comparison { old, new, left: Vec::new(), linked: HashMap::new(), changes: Vec::new() }.run()
    }
}

/// One of two snapshots that have no history in common.
struct Side<'f> {
    fs: &'f VolumeFs,
    tree: Arc<Tree>,
}

impl<'f> Side<'f> {
    fn of(fs: &'f VolumeFs) -> Side<'f> {
        Side { fs, tree: fs.root.read().clone() }
    }

    fn root(&self) -> Result<Option<Looked>, FsError> {
        self.tree.merged.stored(Ino::ROOT)
    }

    /// Lists a directory in the order of hashes, which is the same in every tree of a store.
    fn entries(&self, dir: &Looked) -> Result<Vec<MergedEntry>, FsError> {
        let below = self.tree.merged.lower_entries(&dir.inode)?;
        let mut entries = Vec::new();
        self.tree.merged.entries(dir.ino, &below, 0, |entry| {
            entries.push(entry.clone());
            Ok(true)
        })?;
        Ok(entries)
    }

    fn lookup(&self, dir: &Looked, name: &[u8]) -> Result<Looked, FsError> {
        let found = self.tree.merged.lookup(dir.ino, &dir.inode, name)?;
        found.ok_or(FsError::NotFound)
    }

    fn node(&self, looked: &Looked) -> Result<NodeRef<'_>, FsError> {
        self.fs.nodes.insert(&self.tree, looked.clone(), self.fs.nodes.evictions())
    }

    /// Reads a piece of a file, and zeros beyond its end.
    fn read(&self, node: &NodeRef<'_>, offset: u64, piece: &mut [u8]) -> Result<(), FsError> {
        let state = node.state.read();
        let left = usize::try_from(state.inode.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let (inside, beyond) = piece.split_at_mut(left.min(piece.len()));
        beyond.fill(0);
        self.fs.read_data(node, &state, offset, inside)
    }

    /// Returns where the next data of a file begins; its end if there is none.
    fn next_data(&self, node: &NodeRef<'_>, offset: u64) -> Result<u64, FsError> {
        match self.fs.seek(node.id, offset, Whence::Data) {
            Err(FsError::NoData) => Ok(u64::MAX),
            found => found,
        }
    }

    fn xattrs(&self, looked: &Looked) -> Result<Xattrs, FsError> {
        let merged = &self.tree.merged;
        let mut xattrs = Xattrs::new();
        for name in merged.xattr_names(looked.ino, &looked.inode)? {
            if let Some(value) = merged.xattr(looked.ino, &looked.inode, &name)? {
                xattrs.push((name, value));
            }
        }
        Ok(xattrs)
    }
}

/// A walk through two trees side by side.
struct Comparison<'f> {
    old: Side<'f>,
    new: Side<'f>,
    /// Directories that are still to be entered, as each tree has them.
    left: Vec<(Vec<u8>, Option<Looked>, Option<Looked>)>,
    /// Bytes that differ between files that were compared under one of several names.
    linked: HashMap<(Ino, Ino), u64>,
    changes: Vec<Change>,
}

impl Comparison<'_> {
    fn run(mut self) -> Result<Vec<Change>, FsError> {
        self.pair(Vec::new(), self.old.root()?, self.new.root()?)?;
        while let Some((path, old, new)) = self.left.pop() {
            self.enter(&path, old.as_ref(), new.as_ref())?;
        }
        self.changes.sort_by(|a, b| (&a.path, a.change).cmp(&(&b.path, b.change)));
        Ok(self.changes)
    }

    /// Compares the entries of a directory that is in one tree or in both.
    fn enter(&mut self, path: &[u8], old: Option<&Looked>, new: Option<&Looked>) -> Result<(), FsError> {
        let before = old.map(|dir| self.old.entries(dir)).transpose()?.unwrap_or_default();
        let after = new.map(|dir| self.new.entries(dir)).transpose()?.unwrap_or_default();
        let (mut before, mut after) = (before.into_iter().peekable(), after.into_iter().peekable());
        loop {
            let order = match (before.peek(), after.peek()) {
                (None, None) => return Ok(()),
                (Some(_), None) => Ordering::Less,
                (None, Some(_)) => Ordering::Greater,
                (Some(a), Some(b)) => (a.hash, &a.name).cmp(&(b.hash, &b.name)),
            };
            let gone = before.next_if(|_| order.is_le());
            let added = after.next_if(|_| order.is_ge());
            let name = gone.as_ref().or(added.as_ref()).map(|entry| entry.name.clone()).unwrap_or_default();
            let find = |side: &Side<'_>, dir: Option<&Looked>, entry: Option<MergedEntry>| {
                dir.zip(entry).map(|(dir, entry)| side.lookup(dir, &entry.name)).transpose()
            };
            let (gone, added) = (find(&self.old, old, gone)?, find(&self.new, new, added)?);
            let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
            self.pair([path, separator, &name].concat(), gone, added)?;
        }
    }

    /// Compares what a path leads to.
    fn pair(&mut self, path: Vec<u8>, old: Option<Looked>, new: Option<Looked>) -> Result<(), FsError> {
        match (old, new) {
            (Some(old), Some(new)) if old.inode.kind == new.inode.kind => self.both(path, old, new),
            (old, new) => {
                if let Some(old) = old {
                    self.one(path.clone(), old, ChangeKind::Removed);
                }
                if let Some(new) = new {
                    self.one(path, new, ChangeKind::Added);
                }
                Ok(())
            }
        }
    }

    /// Takes down what is in one tree only, and what is below it.
    fn one(&mut self, path: Vec<u8>, looked: Looked, change: ChangeKind) {
        self.note(path.clone(), change, looked.inode.size);
        if looked.inode.kind == FileKind::Directory {
            self.left.push(match change {
                ChangeKind::Removed => (path, Some(looked), None),
                _ => (path, None, Some(looked)),
            });
        }
    }

    /// Compares what has one path and is of one kind in both trees.
    fn both(&mut self, path: Vec<u8>, old: Looked, new: Looked) -> Result<(), FsError> {
        let (sizes_differ, bytes) = match new.inode.kind {
            FileKind::Regular => (old.inode.size != new.inode.size, self.bytes_that_differ(&old, &new)?),
            FileKind::Symlink => {
                let target =
                    |side: &Side<'_>, looked: &Looked| side.tree.merged.target(looked.ino, &looked.inode);
                (target(&self.old, &old)? != target(&self.new, &new)?, 0)
            }
            _ => (false, 0),
        };
        if sizes_differ || bytes > 0 {
            self.note(path.clone(), ChangeKind::Modified, bytes);
        } else if shows_difference(&old.inode, &new.inode)
            || self.old.xattrs(&old)? != self.new.xattrs(&new)?
        {
            self.note(path.clone(), ChangeKind::Metadata, 0);
        }
        if new.inode.kind == FileKind::Directory {
            self.left.push((path, Some(old), Some(new)));
        }
        Ok(())
    }

    fn note(&mut self, path: Vec<u8>, change: ChangeKind, bytes_changed: u64) {
        self.changes.push(Change { path, change, from: None, bytes_changed });
    }

    /// Returns how many bytes of two files differ, in whole pages.
    fn bytes_that_differ(&mut self, old: &Looked, new: &Looked) -> Result<u64, FsError> {
        if self.is_of_one_lower(old, new)? {
            return Ok(0);
        }
        let key = (old.ino, new.ino);
        if let Some(&bytes) = self.linked.get(&key) {
            return Ok(bytes);
        }
        let bytes = self.read_both(old, new)?;
        if old.inode.nlink.min(new.inode.nlink) > 1 {
            self.linked.insert(key, bytes);
        }
        Ok(bytes)
    }

    /// Tells whether neither tree has written to a file that both have from one file of a lower.
    fn is_of_one_lower(&self, old: &Looked, new: &Looked) -> Result<bool, FsError> {
        let (None, None, Some(before), Some(after)) =
            (old.version, new.version, &old.inode.lower, &new.inode.lower)
        else {
            return Ok(false);
        };
        let (one, path, stamp) = self.old.tree.merged.lowers.source(before)?;
        let (other, other_path, other_stamp) = self.new.tree.merged.lowers.source(after)?;
        Ok((one.identity(), path, stamp) == (other.identity(), other_path, other_stamp))
    }

    fn read_both(&self, old: &Looked, new: &Looked) -> Result<u64, FsError> {
        let (before, after) = (self.old.node(old)?, self.new.node(new)?);
        let end = old.inode.size.max(new.inode.size);
        let (mut one, mut other) = (vec![0; PIECE], vec![0; PIECE]);
        let (mut at, mut bytes) = (0, 0);
        while at < end {
            let data = self.old.next_data(&before, at)?.min(self.new.next_data(&after, at)?);
            // From the start of its page on: pages are what is counted.
            at = at.max(data - data % PAGE_SIZE as u64);
            let length = usize::try_from(end.saturating_sub(at)).unwrap_or(PIECE).min(PIECE);
            let (one, other) = (one.get_mut(..length), other.get_mut(..length));
            let (Some(one), Some(other)) = (one, other) else { break };
            self.old.read(&before, at, one)?;
            self.new.read(&after, at, other)?;
            let pages = one.chunks(PAGE_SIZE).zip(other.chunks(PAGE_SIZE));
            bytes += (pages.filter(|(a, b)| a != b).count() * PAGE_SIZE) as u64;
            at = at.saturating_add(PIECE as u64);
        }
        Ok(bytes)
    }
}
