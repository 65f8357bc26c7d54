//! Listing directories.
//!
//! Entries come in the order of the hashes of their names, and an entry's offset is its hash: it stays valid whatever is made or
//! removed meanwhile, and needs no record of its own. Two names of a directory have the same hash once in about 10^6 directories of
//! a million names each; the hash is keyed, so nobody can arrange it.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::sync::Arc;

use super::node::{NodeRef, NodeState};
use super::snapshots_dir::{self, is_snapshots_dir};
use super::{Entry, TreeKey, VolumeFs};
use crate::attr::{Attr, FileKind};
use crate::error::FsError;
use crate::ids::{Ino, NodeId};
use crate::overlay::merged::MergedEntry;

/// An entry of a directory.
#[derive(Clone, Copy, Debug)]
pub struct DirEntry<'a> {
    /// The number to show.
    pub node: NodeId,
    /// Where to go on after this entry.
    pub next_offset: u64,
    /// The kind to show.
    pub kind: FileKind,
    /// The name.
    pub name: &'a OsStr,
}

/// What a reader of a directory says to an entry.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Sink {
    /// It took the entry.
    Continue,
    /// It did not, and wants no more.
    Full,
}

/// `.` and `..` have the offsets 0 and 1; the first hash is larger.
const DOT: u64 = 0;
const DOT_DOT: u64 = 1;
const FIRST: u64 = 2;

impl VolumeFs {
    /// Lists a directory from an offset on: 0, or the `next_offset` of an entry.
    pub fn readdir(
        &self,
        node: NodeId,
        offset: u64,
        sink: &mut dyn FnMut(DirEntry<'_>) -> Sink,
    ) -> Result<(), FsError> {
        if let Some(done) = self.read_snapshots_dir(node, offset, sink) {
            return done;
        }
        let dir = self.node(node)?;
        self.list(&dir, offset, |entry, _| Ok(sink(entry)))
    }

    /// Lists a directory with the attributes of its entries, and counts a reference to each that was taken, but for `.` and `..`.
    pub fn readdirplus(
        &self,
        node: NodeId,
        offset: u64,
        sink: &mut dyn FnMut(DirEntry<'_>, &Entry) -> Sink,
    ) -> Result<(), FsError> {
        if let Some(done) = self.read_snapshots_dir_plus(node, offset, sink) {
            return done;
        }
        let dir = self.node(node)?;
        self.list(&dir, offset, |shown, merged| {
            let child = match merged {
                None => None,
                Some(_) => match self.find_child(&dir, shown.name) {
                    Ok(Some(child)) => Some(child),
                    // Removed since it was listed.
                    Ok(None) => return Ok(Sink::Continue),
                    // It is listed like the others; whoever looks at it is told what is wrong with it.
                    Err(error) if error.is_corruption() => return Ok(sink(shown, &unknown(&shown, &dir))),
                    Err(error) => return Err(error),
                },
            };
            let node = child.as_ref().unwrap_or(&dir);
            let mut entry = Entry { node: node.id, generation: 0, attr: node.attr() };
            if child.is_none() {
                // Of `.` and `..` only the number is shown.
                entry.attr.ino = Ino(shown.node.0);
            }
            // Counted before the reader has it, so that whatever must be noted of it is.
            if let Some(child) = &child {
                self.refer(child)?;
            }
            let answer = sink(shown, &entry);
            if let (Sink::Full, Some(child)) = (answer, &child) {
                child.uncount_lookup();
            }
            Ok(answer)
        })
    }

    /// Shows entries until the reader is full. The second argument is `None` for `.` and `..`.
    fn list(
        &self,
        dir: &NodeRef<'_>,
        offset: u64,
        mut show: impl FnMut(DirEntry<'_>, Option<&MergedEntry>) -> Result<Sink, FsError>,
    ) -> Result<(), FsError> {
        // Looked at without the lock, so that showing an entry may take it.
        let (below, parent) = {
            let state = dir.state.read();
            if state.inode.kind != FileKind::Directory {
                return Err(FsError::NotDirectory { ino: dir.ino });
            }
            if state.inode.nlink == 0 {
                return Ok(());
            }
            (self.below(dir, &state)?, state.inode.parent)
        };
        let key = dir.tree.key;
        let number = |ino: Ino| match key {
            TreeKey::Snapshot(..) => self.nodes.number(key, ino),
            TreeKey::Mounted | TreeKey::RolledBack(_) => NodeId(ino.0),
        };
        let above = match key {
            TreeKey::Snapshot(..) if dir.ino == Ino::ROOT => snapshots_dir::NODE,
            _ => number(parent),
        };
        for (at, node, name) in [(DOT, number(dir.ino), "."), (DOT_DOT, above, "..")] {
            let entry =
                DirEntry { node, next_offset: at + 1, kind: FileKind::Directory, name: OsStr::new(name) };
            if offset <= at && show(entry, None)? == Sink::Full {
                return Ok(());
            }
        }
        dir.tree.merged.entries(dir.ino, &below, offset.max(FIRST), |entry| {
            if is_snapshots_dir(dir, &entry.name) {
                return Ok(true);
            }
            let shown = DirEntry {
                node: number(entry.ino),
                next_offset: entry.hash + 1,
                kind: entry.kind,
                name: OsStr::from_bytes(&entry.name),
            };
            Ok(show(shown, Some(entry))? == Sink::Continue)
        })
    }

    /// Returns what the lowers have in a directory; they are asked once.
    pub(super) fn below(
        &self,
        dir: &NodeRef<'_>,
        state: &NodeState,
    ) -> Result<Arc<Vec<MergedEntry>>, FsError> {
        let children = state.children.as_ref().ok_or(FsError::NotDirectory { ino: dir.ino })?;
        let mut below = children.below.lock();
        if let Some(known) = &*below {
            return Ok(known.clone());
        }
        let listed = Arc::new(dir.tree.merged.lower_entries(&state.inode)?);
        if state.inode.lower.is_some() {
            *below = Some(listed.clone());
        }
        Ok(listed)
    }
}

/// An entry of which only the name is known: the kernel looks it up when somebody wants more.
fn unknown(shown: &DirEntry<'_>, dir: &NodeRef<'_>) -> Entry {
    let attr = Attr { ino: Ino(shown.node.0), kind: shown.kind, ..dir.attr() };
    Entry { node: NodeId(0), generation: 0, attr }
}
