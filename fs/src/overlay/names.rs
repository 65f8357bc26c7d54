//! Finding a name that leads to an inode.
//!
//! An inode's record keeps one name, which is enough while that one is there. A hard link may outlive it: then the other
//! names are known to nobody but the directories they are in.

use std::collections::{BTreeMap, BTreeSet};

use super::merged::Merged;
use super::sides::Name;
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::Ino;
use crate::store::StoreError;
use crate::store::record::Inode;

impl Merged {
    /// Tells whether the name that a record keeps leads to its inode, from the root on.
    pub(crate) fn reaches(&self, ino: Ino, inode: &Inode) -> Result<bool, FsError> {
        let (mut ino, mut inode) = (ino, inode.clone());
        // As in `path`: no path is deeper.
        for _ in 0..1 << 16 {
            if ino == Ino::ROOT {
                return Ok(true);
            }
            let record = self.view.inode(&self.store.db, inode.parent)?.map(|found| found.record);
            let (parent, stored) = match record {
                Some(Some(parent)) => (parent, true),
                Some(None) => return Ok(false),
                None if inode.parent == Ino::ROOT => match self.lowers.root() {
                    Some(root) => (root, false),
                    None => return Ok(false),
                },
                None => match self.lower_parent_of(inode.parent, &inode)? {
                    Some(looked) => (looked.inode, false),
                    None => return Ok(false),
                },
            };
            if parent.kind != FileKind::Directory || parent.nlink == 0 {
                return Ok(false);
            }
            let leads_to = self.lookup(inode.parent, &parent, &inode.name)?.map(|looked| looked.ino);
            if leads_to != Some(ino) {
                return Ok(false);
            }
            if stored {
                // A directory with a record has its one name as long as it has links, and is empty before it loses them.
                return Ok(true);
            }
            (ino, inode) = (inode.parent, parent);
        }
        Err(StoreError::Corrupt { what: format!("inode {ino}: its parents form a loop") }.into())
    }

    /// Returns a path of each of these inodes that has one, but for some names. Walks the whole tree.
    pub(crate) fn search(
        &self,
        mut wanted: BTreeSet<Ino>,
        but: &BTreeSet<Name>,
    ) -> Result<BTreeMap<Ino, Vec<u8>>, FsError> {
        let mut found = BTreeMap::new();
        let Some(root) = self.stored(Ino::ROOT)? else { return Ok(found) };
        let mut left = vec![(root, Vec::new())];
        while let Some((dir, path)) = left.pop() {
            if wanted.is_empty() {
                break;
            }
            let below = self.lower_entries(&dir.inode)?;
            let mut subdirectories = Vec::new();
            let join = |name: &[u8]| {
                let separator: &[u8] = if path.is_empty() { b"" } else { b"/" };
                [&path, separator, name].concat()
            };
            self.entries(dir.ino, &below, 0, |entry| {
                if entry.kind == FileKind::Directory {
                    subdirectories.push(entry.name.clone());
                } else if wanted.contains(&entry.ino) && !but.contains(&(dir.ino, entry.name.to_vec())) {
                    wanted.remove(&entry.ino);
                    found.insert(entry.ino, join(&entry.name));
                }
                Ok(true)
            })?;
            for name in subdirectories {
                if let Some(looked) = self.lookup(dir.ino, &dir.inode, &name)? {
                    left.push((looked, join(&name)));
                }
            }
        }
        Ok(found)
    }
}
