//! Attributes.

use super::acl;
use super::locks::Locked;
use super::node::{Node, NodeRef, NodeState};
use super::{Caller, VolumeFs};
use crate::attr::{Attr, FileKind, SetAttr, Timestamp};
use crate::error::FsError;
use crate::ids::NodeId;
use crate::request::Answer;
use crate::store::record::{Inode, Usage};
use crate::store::{Prefix, Touch, Txn};

/// Largest size and offset a file can have.
pub(super) const MAX_FILE_SIZE: u64 = i64::MAX as u64;

/// What an inode counts that has a record.
const ONE_INODE: Usage = Usage { bytes: 0, inodes: 1 };

const S_ISUID: u16 = 0o4000;
const S_ISGID: u16 = 0o2000;
const S_IXGRP: u16 = 0o0010;

impl VolumeFs {
    /// Returns the attributes of a node.
    pub fn getattr(&self, node: NodeId) -> Result<Attr, FsError> {
        if let Some(attr) = self.snapshots_dir_attr(node)? {
            return Ok(attr);
        }
        Ok(self.node(node)?.attr())
    }

    /// Changes attributes. A change of owner or size clears the set-id bits as Linux does.
    pub fn setattr(&self, caller: &Caller, node: NodeId, set: &SetAttr) -> Result<Attr, FsError> {
        self.with_room(|| self.setattr_once(caller, node, set))
    }

    fn setattr_once(&self, caller: &Caller, node: NodeId, set: &SetAttr) -> Result<Attr, FsError> {
        let node = self.node(node)?;
        let head = self.writable(&node)?;
        let mut locked = Locked::all(&[&node]);
        let state = locked.get(node.ino);
        let now = Timestamp::now();
        let attributes = |txn: &mut Txn<'_>, state: &NodeState, inode: &mut Inode| {
            stage_attributes(caller, set, now, txn, &node, state, inode)
        };
        if state.inode.kind == FileKind::Regular && set.size.is_some_and(|size| size > state.inode.size) {
            self.wipe_tail(&node, head, state)?;
        }
        if state.inode.kind == FileKind::Regular
            && let Some(size) = set.size
        {
            if size > MAX_FILE_SIZE {
                return Err(FsError::FileTooBig);
            }
            self.shorten_in_steps(&node, head, state, size, &attributes)?;
        }
        let mut inode = state.inode.clone();
        let mut txn = Txn::begin(&self.store, head)?;

        let mut truncated = None;
        if let Some(size) = set.size {
            match inode.kind {
                FileKind::Regular => {}
                FileKind::Directory => return Err(FsError::IsDirectory { ino: node.ino }),
                _ => return Err(FsError::Invalid { what: "only regular files have a size to set" }),
            }
            if size != inode.size {
                truncated = Some(self.stage_truncate(&mut txn, &node, state, &mut inode, size)?);
            }
        }
        attributes(&mut txn, state, &mut inode)?;
        put_inode(&mut txn, &node, state, &inode)?;
        let epoch = txn.epoch();
        let admission = txn.commit(Answer::Done)?;
        if let Some(truncated) = truncated {
            truncated.apply(state);
        }
        drop(admission);
        state.accept(inode, (head.branch, epoch));
        Ok(state.attr(node.shown_ino()))
    }
}

/// Stages what is to become of an inode beside its size. Of a change in several steps each does it, with the same outcome.
fn stage_attributes(
    caller: &Caller,
    set: &SetAttr,
    now: Timestamp,
    txn: &mut Txn<'_>,
    node: &NodeRef<'_>,
    state: &NodeState,
    inode: &mut Inode,
) -> Result<(), FsError> {
    if set.size.is_some() {
        inode.mtime = now;
        // The kernel asks for this unless the caller may keep them (CAP_FSETID); fuser does not pass it on.
        if caller.uid != 0 {
            kill_set_ids(inode);
        }
    }
    if set.uid.is_some() || set.gid.is_some() {
        inode.uid = set.uid.unwrap_or(inode.uid);
        inode.gid = set.gid.unwrap_or(inode.gid);
        if inode.kind != FileKind::Directory && set.perm.is_none() {
            kill_set_ids(inode);
        }
    }
    if let Some(perm) = set.perm {
        inode.perm = perm & 0o7777;
        acl::chmod(txn, node, state, inode)?;
    }
    if let Some(atime) = set.atime {
        inode.atime = atime.resolve(now);
    }
    if let Some(mtime) = set.mtime {
        inode.mtime = mtime.resolve(now);
    }
    inode.ctime = set.ctime.unwrap_or(now);
    Ok(())
}

/// Clears set-user-ID, and set-group-ID where it means that and not mandatory locking.
pub(super) fn kill_set_ids(inode: &mut Inode) {
    if inode.kind == FileKind::Directory {
        return;
    }
    inode.perm &= !S_ISUID;
    if inode.perm & S_IXGRP != 0 {
        inode.perm &= !S_ISGID;
    }
}

/// Stages the new version of an inode. A lower's inode is copied up by that: its attributes only.
pub(super) fn put_inode(
    txn: &mut Txn<'_>,
    node: &Node,
    state: &NodeState,
    inode: &Inode,
) -> Result<(), FsError> {
    if state.version.is_none() {
        txn.charge(ONE_INODE)?;
    }
    stage_inode(txn, node, state, inode);
    Ok(())
}

/// As [`put_inode`], where a name is removed: it counts, but neither a quota nor a full disk is in the way.
pub(super) fn put_inode_for_removal(txn: &mut Txn<'_>, node: &Node, state: &NodeState, inode: &Inode) {
    if state.version.is_none() {
        txn.charge_regardless(ONE_INODE);
    }
    stage_inode(txn, node, state, inode);
}

fn stage_inode(txn: &mut Txn<'_>, node: &Node, state: &NodeState, inode: &Inode) {
    let current = (txn.head().branch, txn.epoch());
    let touch = if state.version == Some(current) { Touch::Again } else { Touch::First };
    let stored = node.known_names.renamed(inode).unwrap_or_else(|| inode.clone());
    txn.put(&Prefix::inode(txn.head().tree, node.ino), &Some(stored), touch);
}

impl NodeState {
    /// Takes over what a commit made true.
    pub(super) fn accept(&mut self, inode: Inode, version: (crate::ids::BranchId, crate::ids::Epoch)) {
        self.inode = inode;
        self.version = Some(version);
    }
}
