//! Where the directories of two trees of one history are, so that the names in them can be told.
//!
//! A directory that neither tree has a record of is as the lowers have it in one of them, and in the other gone with everything that was
//! known of it. Then the one lead to it is its own name, which is among the names that differ: so what is in it is told after that.

use hashbrown::HashMap;

use super::merged::{Looked, Merged};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::Ino;

/// A name: a directory and what it is called there.
pub(super) type Name = (Ino, Vec<u8>);

/// One of two trees that are compared.
pub(super) struct Side<'a> {
    pub(super) tree: &'a Merged,
    other: &'a Merged,
    /// Directories that names led to, and the tree has no record of.
    found: HashMap<Ino, Looked>,
}

impl<'a> Side<'a> {
    pub(super) fn new(tree: &'a Merged, other: &'a Merged) -> Side<'a> {
        Side { tree, other, found: HashMap::new() }
    }

    /// Returns a directory as it is in this tree; `None` if it is not there, or not found yet.
    pub(super) fn directory(&self, dir: Ino) -> Result<Option<Looked>, FsError> {
        if let Some(looked) = self.tree.stored(dir)? {
            return Ok(Some(looked));
        }
        if let Some(looked) = self.found.get(&dir) {
            return Ok(Some(looked.clone()));
        }
        // Without a record here it was not there yet, or was as the lowers have it: the other tree's record says where.
        match self.other.stored(dir)? {
            Some(looked) if dir.is_lower() => self.tree.as_in_lower(&looked),
            _ => Ok(None),
        }
    }

    /// Returns what names lead to, in their order.
    pub(super) fn bound(&mut self, names: &[Name]) -> Result<Vec<Option<Ino>>, FsError> {
        let mut bound = vec![None; names.len()];
        // Names in directories that nothing has led to so far.
        let mut waiting: HashMap<Ino, Vec<usize>> = HashMap::new();
        let mut next: Vec<usize> = (0..names.len()).rev().collect();
        while let Some(at) = next.pop() {
            let Some((dir, name)) = names.get(at) else { continue };
            let Some(looked) = self.directory(*dir)? else {
                waiting.entry(*dir).or_default().push(at);
                continue;
            };
            let Some(found) = self.tree.lookup(*dir, &looked.inode, name)? else { continue };
            if let Some(bound) = bound.get_mut(at) {
                *bound = Some(found.ino);
            }
            if found.version.is_none() && found.inode.kind == FileKind::Directory {
                next.extend(waiting.remove(&found.ino).into_iter().flatten());
                self.found.insert(found.ino, found);
            }
        }
        Ok(bound)
    }

    /// Returns what a name leads to.
    pub(super) fn look(&self, (dir, name): &Name) -> Result<Option<Looked>, FsError> {
        match self.directory(*dir)? {
            Some(looked) => self.tree.lookup(*dir, &looked.inode, name),
            None => Ok(None),
        }
    }

    /// Returns the path of a name that leads somewhere in this tree.
    pub(super) fn path(&self, (dir, name): &Name) -> Result<Vec<u8>, FsError> {
        let mut path = match (self.directory(*dir)?, self.other.stored(*dir)?) {
            (Some(looked), _) => self.tree.path(*dir, &looked.inode)?,
            (None, Some(looked)) => self.other.path(*dir, &looked.inode)?,
            (None, None) => Vec::new(),
        };
        if !path.is_empty() {
            path.push(b'/');
        }
        path.extend_from_slice(name);
        Ok(path)
    }
}
