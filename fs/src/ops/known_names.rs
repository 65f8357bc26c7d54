//! Names by which an inode in memory was found.
//!
//! The record of an inode keeps one of its names, for diffs and messages. When that name goes and others stay, the next change of the inode
//! stores one that is known here instead.
//!
//! # Invariants
//! - A name is learned while the directory is locked in which it was found, and forgotten by whoever removes it. A transaction that
//!   fails may leave too few or too many: whoever reads a recorded name checks where it leads
//!   ([`Merged::reaches`](crate::overlay::merged::Merged::reaches)).

use parking_lot::Mutex;

use super::node::{Node, NodeState};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::Ino;
use crate::overlay::merged::lower_directory;
use crate::store::record::Inode;

/// More names of one file than are worth remembering.
const MOST: usize = 8;

/// A name that leads to an inode.
#[derive(Clone, PartialEq, Eq, Debug)]
struct KnownName {
    dir: Ino,
    name: Box<[u8]>,
    /// Where the lowers have it, if the directory has no record: then it is what tells where the directory is.
    lower_path: Option<Box<[u8]>>,
}

/// The names of one inode; empty where its record keeps the only one.
#[derive(Default)]
pub(crate) struct KnownNames {
    names: Mutex<Vec<KnownName>>,
}

impl KnownNames {
    fn learn(&self, known: KnownName) {
        let mut names = self.names.lock();
        if names.iter().any(|other| other.dir == known.dir && other.name == known.name) {
            return;
        }
        if names.len() >= MOST {
            names.remove(0);
        }
        names.push(known);
    }

    fn forget(&self, dir: Ino, name: &[u8]) {
        self.names.lock().retain(|known| known.dir != dir || *known.name != *name);
    }

    /// Returns the inode as it is to be stored, if the name it keeps is not among those that are known.
    pub(super) fn renamed(&self, inode: &Inode) -> Option<Inode> {
        let names = self.names.lock();
        let last = names.last()?;
        if names.iter().any(|known| known.dir == inode.parent && known.name == inode.name) {
            return None;
        }
        let mut inode = inode.clone();
        (inode.parent, inode.name) = (last.dir, last.name.clone());
        if let (Some(path), Some(lower)) = (&last.lower_path, &mut inode.lower) {
            lower.path.clone_from(path);
        }
        Some(inode)
    }
}

/// Tells whether a name that was looked up is worth remembering: the record may keep another, or one that others outlive.
pub(super) fn is_one_of_several(inode: &Inode, dir: Ino, name: &[u8]) -> bool {
    inode.kind != FileKind::Directory && (inode.nlink > 1 || inode.parent != dir || *inode.name != *name)
}

impl Node {
    /// Remembers a name that leads here, in a directory that is locked.
    pub(super) fn learn_name(&self, dir: Ino, dir_state: &NodeState, name: &[u8]) -> Result<(), FsError> {
        let lower = match dir_state.version {
            Some(_) => None,
            None => lower_directory(&dir_state.inode)?,
        };
        let lower_path = lower.map(|(path, _)| path.join(name).as_bytes().into());
        self.known_names.learn(KnownName { dir, name: name.into(), lower_path });
        Ok(())
    }

    /// Remembers a name that leads here from now on, beside the one that the record keeps.
    pub(super) fn learn_link(&self, inode: &Inode, dir: Ino, name: &[u8]) {
        if self.known_names.names.lock().is_empty() {
            self.known_names.learn(KnownName {
                dir: inode.parent,
                name: inode.name.clone(),
                lower_path: None,
            });
        }
        self.known_names.learn(KnownName { dir, name: name.into(), lower_path: None });
    }

    /// Forgets a name that is about to go.
    pub(super) fn forget_name(&self, dir: Ino, name: &[u8]) {
        self.known_names.forget(dir, name);
    }

    /// Takes over that a name became another.
    pub(super) fn move_name(&self, (dir, name): (Ino, &[u8]), (to_dir, to_name): (Ino, &[u8])) {
        let known = !self.known_names.names.lock().is_empty();
        if known {
            self.known_names.forget(dir, name);
            self.known_names.learn(KnownName { dir: to_dir, name: to_name.into(), lower_path: None });
        }
    }
}
