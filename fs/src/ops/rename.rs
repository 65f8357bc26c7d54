//! Renaming.
//!
//! A directory that comes from a lower is moved like any other: its inode keeps saying where the lowers have it, which makes the
//! new name a redirect.
//!
//! # Crash consistency
//! Both names, both directories and what was replaced are one transaction. Data of a file that replaces another goes to the disk
//! first: after a loss of power the name leads to the old content or to the new, as it does on ext4.

use std::ffi::OsStr;

use super::attr::put_inode;
use super::data::INLINE_MAX;
use super::locks::Locked;
use super::node::NodeRef;
use super::snapshots_dir::is_snapshots_dir;
use super::{Caller, VolumeFs, check_name};
use crate::attr::{FileKind, Timestamp};
use crate::error::FsError;
use crate::ids::{Ino, NodeId};
use crate::request::Answer;
use crate::store::record::Dentry;
use crate::store::{Touch, Txn};

/// What `renameat2` does about an existing target.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RenameMode {
    /// It is replaced.
    Replace,
    /// It is an error.
    NoReplace,
    /// The two change places.
    Exchange,
}

impl VolumeFs {
    /// Renames.
    pub fn rename(
        &self,
        _caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        new_parent: NodeId,
        new_name: &OsStr,
        mode: RenameMode,
    ) -> Result<(), FsError> {
        self.with_room(|| self.rename_once(parent, name, new_parent, new_name, mode))
    }

    fn rename_once(
        &self,
        parent: NodeId,
        name: &OsStr,
        new_parent: NodeId,
        new_name: &OsStr,
        mode: RenameMode,
    ) -> Result<(), FsError> {
        let (from, to) = (self.node(parent)?, self.node(new_parent)?);
        let head = self.writable(&from)?;
        self.writable(&to)?;
        let (old_bytes, new_bytes) = (check_name(name)?, check_name(new_name)?);
        if is_snapshots_dir(&from, old_bytes) || is_snapshots_dir(&to, new_bytes) {
            return Err(FsError::Busy);
        }
        let seen = (from.state.read().names_changed(), to.state.read().names_changed());
        let moved = self.find_child(&from, name)?.ok_or(FsError::NotFound)?;
        let target = self.find_child(&to, new_name)?;
        match (mode, &target) {
            (RenameMode::NoReplace, Some(_)) => return Err(FsError::Exists),
            (RenameMode::Exchange, None) => return Err(FsError::NotFound),
            // Two names of one file: POSIX has it that nothing happens.
            (_, Some(target)) if target.ino == moved.ino => return Ok(()),
            _ => {}
        }
        if from.ino != to.ino {
            self.check_no_loop(&moved, &to)?;
            if let (RenameMode::Exchange, Some(target)) = (mode, &target) {
                self.check_no_loop(target, &from)?;
            }
        }
        if mode == RenameMode::Replace && target.is_some() && moved.state.read().inode.stored > INLINE_MAX {
            self.store.sync_data(&head.appender)?;
        }
        if mode == RenameMode::Replace && target.is_some() {
            // From here on the content counts as durable.
            self.store.db.note_sync();
        }
        let all: Vec<&NodeRef<'_>> = [&from, &to, &moved].into_iter().chain(target.as_ref()).collect();
        let mut locked = Locked::all(&all);
        if (locked.get(from.ino).names_changed(), locked.get(to.ino).names_changed()) != seen {
            drop(locked);
            return self.rename_once(parent, name, new_parent, new_name, mode);
        }
        if locked.get(to.ino).inode.nlink == 0 {
            return Err(FsError::NotFound);
        }
        let now = Timestamp::now();
        let mut inode = locked.get(moved.ino).inode.clone();
        let (mut from_inode, mut to_inode) =
            (locked.get(from.ino).inode.clone(), locked.get(to.ino).inode.clone());
        (from_inode.mtime, from_inode.ctime) = (now, now);
        (to_inode.mtime, to_inode.ctime) = (now, now);
        let same_dir = from.ino == to.ino;

        let mut txn = Txn::begin(&self.store, head)?;
        let mut target_inode = None;
        match (&target, mode) {
            (Some(target), RenameMode::Exchange) => {
                let mut other = locked.get(target.ino).inode.clone();
                (other.parent, other.name, other.ctime) = (from.ino, old_bytes.into(), now);
                match (inode.kind == FileKind::Directory, other.kind == FileKind::Directory) {
                    (true, false) if !same_dir => {
                        to_inode.add_subdirectory()?;
                        from_inode.remove_subdirectory();
                    }
                    (false, true) if !same_dir => {
                        from_inode.add_subdirectory()?;
                        to_inode.remove_subdirectory();
                    }
                    _ => {}
                }
                txn.put(
                    &self.dentry(&from, old_bytes),
                    &Dentry::Entry { ino: target.ino, kind: other.kind },
                    Touch::First,
                );
                target.move_name((to.ino, new_bytes), (from.ino, old_bytes));
                put_inode(&mut txn, target, locked.get(target.ino), &other)?;
                target_inode = Some(other);
            }
            (target, _) => {
                if let Some(target) = target {
                    let replaced = locked.get(target.ino);
                    match (inode.kind, replaced.inode.kind) {
                        (FileKind::Directory, FileKind::Directory) => {
                            self.check_empty(target, replaced)?;
                            to_inode.remove_subdirectory();
                        }
                        (FileKind::Directory, _) => return Err(FsError::NotDirectory { ino: target.ino }),
                        (_, FileKind::Directory) => return Err(FsError::IsDirectory { ino: target.ino }),
                        _ => {}
                    }
                    target.forget_name(to.ino, new_bytes);
                    target_inode = Some(self.stage_unlink(&mut txn, target, replaced, now));
                }
                let beneath = self.beneath_name(&from, locked.get(from.ino), old_bytes)?;
                txn.erase(&self.dentry(&from, old_bytes), &Dentry::Whiteout, beneath)?;
                if inode.kind == FileKind::Directory && !same_dir {
                    to_inode.add_subdirectory()?;
                    from_inode.remove_subdirectory();
                }
            }
        }
        (inode.parent, inode.name, inode.ctime) = (to.ino, new_bytes.into(), now);
        txn.put(
            &self.dentry(&to, new_bytes),
            &Dentry::Entry { ino: moved.ino, kind: inode.kind },
            Touch::First,
        );
        moved.move_name((from.ino, old_bytes), (to.ino, new_bytes));
        put_inode(&mut txn, &moved, locked.get(moved.ino), &inode)?;
        put_inode(&mut txn, &to, locked.get(to.ino), &to_inode)?;
        if !same_dir {
            put_inode(&mut txn, &from, locked.get(from.ino), &from_inode)?;
        }
        let version = (head.branch, txn.epoch());
        let admission = txn.commit(Answer::Done)?;
        if let (Some(target), Some(inode)) = (&target, &target_inode) {
            self.note_unlinked(target.ino, inode);
        }
        drop(admission);

        locked.get(moved.ino).accept(inode, version);
        if let (Some(target), Some(inode)) = (&target, target_inode) {
            locked.get(target.ino).accept(inode, version);
        }
        locked.get(to.ino).accept(to_inode, version);
        if !same_dir {
            locked.get(from.ino).accept(from_inode, version);
        }
        match (&target, mode) {
            (Some(target), RenameMode::Exchange) => locked.get(from.ino).bind_name(old_bytes, target.ino),
            _ => locked.get(from.ino).unbind_name(old_bytes),
        }
        locked.get(to.ino).bind_name(new_bytes, moved.ino);
        drop(locked);
        drop((moved, target));
        self.reap_dead(super::reap::PATIENCE);
        Ok(())
    }

    /// Refuses to move a directory into itself or below.
    fn check_no_loop(&self, moved: &NodeRef<'_>, into: &NodeRef<'_>) -> Result<(), FsError> {
        if moved.state.read().inode.kind != FileKind::Directory {
            return Ok(());
        }
        let mut at = into.clone();
        while at.ino != Ino::ROOT {
            if at.ino == moved.ino {
                return Err(FsError::Invalid { what: "a directory cannot be moved into itself" });
            }
            let parent = at.state.read().inode.parent;
            at = self.find_inode(&at, parent)?;
        }
        Ok(())
    }
}
