//! Removing names.
//!
//! # Crash consistency
//! The name, the inode's link count and the mark of an orphan are one transaction. An inode without a name stays until the
//! kernel forgets it; its mark makes the next mount of the volume remove it if that never happened.

use std::ffi::OsStr;

use super::attr::put_inode_for_removal;
use super::locks::Locked;
use super::node::{NodeRef, NodeState};
use super::snapshots_dir::is_snapshots_dir;
use super::{Caller, VolumeFs, check_name};
use crate::attr::{FileKind, Timestamp};
use crate::error::FsError;
use crate::ids::NodeId;
use crate::request::Answer;
use crate::store::record::{Dentry, Inode};
use crate::store::{Beneath, Txn};

impl VolumeFs {
    /// Removes a name of anything but a directory.
    pub fn unlink(&self, _caller: &Caller, parent: NodeId, name: &OsStr) -> Result<(), FsError> {
        self.remove(parent, name, |node, inode| match inode.kind {
            FileKind::Directory => Err(FsError::IsDirectory { ino: node.ino }),
            _ => Ok(()),
        })
    }

    /// Removes an empty directory.
    pub fn rmdir(&self, _caller: &Caller, parent: NodeId, name: &OsStr) -> Result<(), FsError> {
        if name == "." {
            return Err(FsError::Invalid { what: "rmdir of '.'" });
        }
        self.remove(parent, name, |node, inode| match inode.kind {
            FileKind::Directory => Ok(()),
            _ => Err(FsError::NotDirectory { ino: node.ino }),
        })
    }

    fn remove(
        &self,
        parent: NodeId,
        name: &OsStr,
        check: impl Fn(&NodeRef<'_>, &Inode) -> Result<(), FsError>,
    ) -> Result<(), FsError> {
        let dir = self.node(parent)?;
        let head = self.writable(&dir)?;
        let bytes = check_name(name)?;
        if is_snapshots_dir(&dir, bytes) {
            return Err(FsError::Busy);
        }
        let seen = dir.state.read().names_changed();
        let child = self.find_child(&dir, name)?.ok_or(FsError::NotFound)?;
        let mut locked = Locked::all(&[&dir, &child]);
        if locked.get(dir.ino).names_changed() != seen {
            // Somebody changed the directory in between: the name may lead elsewhere.
            drop(locked);
            return self.remove(parent, name, check);
        }
        check(&child, &locked.get(child.ino).inode)?;
        if locked.get(child.ino).inode.kind == FileKind::Directory {
            self.check_empty(&child, locked.get(child.ino))?;
        }
        let now = Timestamp::now();
        let mut dir_inode = locked.get(dir.ino).inode.clone();
        (dir_inode.mtime, dir_inode.ctime) = (now, now);

        let mut txn = Txn::begin(&self.store, head)?;
        let beneath = self.beneath_name(&dir, locked.get(dir.ino), bytes)?;
        txn.erase(&self.dentry(&dir, bytes), &Dentry::Whiteout, beneath)?;
        child.forget_name(dir.ino, bytes);
        let inode = self.stage_unlink(&mut txn, &child, locked.get(child.ino), now);
        if inode.kind == FileKind::Directory {
            dir_inode.remove_subdirectory();
        }
        put_inode_for_removal(&mut txn, &dir, locked.get(dir.ino), &dir_inode);
        let version = (head.branch, txn.epoch());
        let admission = txn.commit(Answer::Done)?;
        self.note_unlinked(child.ino, &inode);
        drop(admission);

        locked.get(child.ino).accept(inode, version);
        let state = locked.get(dir.ino);
        state.accept(dir_inode, version);
        state.unbind_name(bytes);
        drop(locked);
        drop(child);
        self.reap_dead(super::reap::PATIENCE);
        Ok(())
    }

    /// Stages that an inode has one name less; without names it becomes an orphan. One that is only in a lower gets a record by
    /// that: the kernel may go on with it, and other names lead to it.
    pub(super) fn stage_unlink(
        &self,
        txn: &mut Txn<'_>,
        node: &NodeRef<'_>,
        state: &NodeState,
        now: Timestamp,
    ) -> Inode {
        let mut inode = state.inode.clone();
        inode.nlink = if inode.kind == FileKind::Directory { 0 } else { inode.nlink.saturating_sub(1) };
        inode.ctime = now;
        if inode.nlink == 0 {
            txn.put_orphan(node.ino);
        }
        put_inode_for_removal(txn, node, state, &inode);
        inode
    }

    /// Refuses a directory that still has names.
    pub(super) fn check_empty(&self, dir: &NodeRef<'_>, state: &NodeState) -> Result<(), FsError> {
        if let Some(empty) = state.names().and_then(|names| names.is_empty()) {
            return if empty { Ok(()) } else { Err(FsError::NotEmpty { ino: dir.ino }) };
        }
        let below = self.below(dir, state)?;
        let mut empty = true;
        dir.tree.merged.entries(dir.ino, &below, 0, |_| {
            empty = false;
            Ok(false)
        })?;
        if empty { Ok(()) } else { Err(FsError::NotEmpty { ino: dir.ino }) }
    }

    /// Tells what would show if a name of a directory were simply deleted.
    pub(super) fn beneath_name(
        &self,
        dir: &NodeRef<'_>,
        state: &NodeState,
        name: &[u8],
    ) -> Result<Beneath, FsError> {
        if dir.tree.merged.lower_has(&state.inode, name)? {
            return Ok(Beneath::Something);
        }
        let new = dir.tree.head.as_ref().is_some_and(|head| head.is_new(dir.ino));
        Ok(if new { Beneath::Nothing } else { Beneath::Unknown })
    }
}
