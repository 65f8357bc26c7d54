//! Finding names, and counting what the kernel refers to.

use std::ffi::OsStr;

use super::known_names::is_one_of_several;
use super::names::Known;
use super::node::NodeRef;
use super::{Caller, Entry, VolumeFs, check_name};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::NodeId;

impl VolumeFs {
    /// Looks a name up and counts one reference to what it leads to.
    pub fn lookup(&self, _caller: &Caller, parent: NodeId, name: &OsStr) -> Result<Entry, FsError> {
        if let Some(found) = self.lookup_snapshots_dir(parent, name)? {
            return Ok(found);
        }
        let dir = self.node(parent)?;
        if name == "." {
            return self.lookup_itself(&dir);
        }
        match self.find_child(&dir, name)? {
            Some(child) => self.entry(&child),
            None => Err(FsError::NotFound),
        }
    }

    /// Takes back `count` references.
    pub fn forget(&self, node: NodeId, count: u64) {
        self.forget_node(node, count);
        self.tidy_journal();
        self.reap_dead(super::reap::PATIENCE);
    }

    /// Counts a reference and describes the node.
    pub(super) fn entry(&self, node: &NodeRef<'_>) -> Result<Entry, FsError> {
        self.refer(node)?;
        Ok(Entry { node: node.id, generation: 0, attr: node.attr() })
    }

    /// Finds the node that a name leads to, without counting a reference.
    pub(super) fn find_child(&self, dir: &NodeRef<'_>, name: &OsStr) -> Result<Option<NodeRef<'_>>, FsError> {
        let state = dir.state.read();
        if state.inode.kind != FileKind::Directory {
            return Err(FsError::NotDirectory { ino: dir.ino });
        }
        let name = match name.as_encoded_bytes() {
            b"." => return Ok(Some(dir_again(self, dir)?)),
            b".." => {
                let parent = state.inode.parent;
                drop(state);
                return self.find_inode(dir, parent).map(Some);
            }
            _ => check_name(name)?,
        };
        if state.inode.nlink == 0 {
            return Ok(None);
        }
        let known = state.names().map_or(Known::Unknown, |names| names.get(name));
        let evictions = self.nodes.evictions();
        let looked = match known {
            Known::Absent => return Ok(None),
            Known::Bound(ino) => match self.nodes.find_live(&dir.tree, ino) {
                Some(child) => {
                    // Whoever has it locked may wait for this directory. A name too many does no harm.
                    let several = match child.state.try_read() {
                        Some(child) => is_one_of_several(&child.inode, dir.ino, name),
                        None => true,
                    };
                    if several {
                        child.learn_name(dir.ino, &state, name)?;
                    }
                    return Ok(Some(child));
                }
                // Without a record it is in a lower only, which is asked by path.
                None => dir.tree.merged.stored(ino)?,
            },
            Known::Unknown => None,
        };
        let looked = match looked {
            Some(looked) => Some(looked),
            None => dir.tree.merged.lookup(dir.ino, &state.inode, name)?,
        };
        match looked {
            Some(looked) => {
                if let Some(mut names) = state.names() {
                    names.bind(name, looked.ino);
                }
                let several = is_one_of_several(&looked.inode, dir.ino, name);
                let node = self.nodes.insert(&dir.tree, looked, evictions)?;
                if several {
                    node.learn_name(dir.ino, &state, name)?;
                }
                Ok(Some(node))
            }
            None => {
                if let Some(mut names) = state.names() {
                    names.unbind(name);
                }
                Ok(None)
            }
        }
    }

    /// Finds the node of an inode in the tree of `beside`.
    pub(super) fn find_inode(
        &self,
        beside: &NodeRef<'_>,
        ino: crate::ids::Ino,
    ) -> Result<NodeRef<'_>, FsError> {
        if let Some(node) = self.nodes.find(&beside.tree, ino) {
            return Ok(node);
        }
        let evictions = self.nodes.evictions();
        let looked = match beside.tree.merged.stored(ino)? {
            Some(looked) => looked,
            None => beside
                .tree
                .merged
                .lower_parent_of(ino, &beside.state.read().inode)?
                .ok_or(FsError::NotFound)?,
        };
        self.nodes.insert(&beside.tree, looked, evictions)
    }
}

fn dir_again<'t>(fs: &'t VolumeFs, dir: &NodeRef<'_>) -> Result<NodeRef<'t>, FsError> {
    fs.nodes.get(dir.id).ok_or(FsError::Stale { node: dir.id })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::KillSuid;
    use crate::store::{Receipt, Store, StoreOptions, VolumeSpec};

    #[test]
    fn a_name_that_is_in_memory_is_stored_when_the_recorded_one_goes() {
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path(), &StoreOptions::default()).unwrap();
        store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
        let fs = store.open_head("v").unwrap();
        let caller = Caller { uid: 0, gid: 0, pid: 1 };
        let [first, second] = ["first", "second"].map(OsStr::new);
        let made = fs.create(&caller, NodeId::ROOT, first, 0o644, 0).unwrap();
        fs.link(made.node, NodeId::ROOT, second).unwrap();
        // The file goes from memory, its names stay.
        fs.forget(made.node, 2);
        assert!(fs.nodes.get(made.node).is_none());
        for name in [first, second] {
            fs.lookup(&caller, NodeId::ROOT, name).unwrap();
        }
        fs.unlink(&caller, NodeId::ROOT, first).unwrap();
        fs.write(made.node, 0, b"changed", KillSuid::No).unwrap();
        let node = fs.node(made.node).unwrap();
        let stored = node.tree.merged.stored(node.ino).unwrap().unwrap();
        assert_eq!(&*stored.inode.name, b"second");
    }
}
