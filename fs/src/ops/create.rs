//! Making files, directories and everything else that gets a name and an inode at once.

use std::ffi::OsStr;
use std::sync::atomic::Ordering;

use super::acl::{self, Inherited};
use super::attr::put_inode;
use super::locks::Locked;
use super::names::Names;
use super::snapshots_dir::is_snapshots_dir;
use super::{Caller, Entry, VolumeFs, check_name};
use crate::attr::{FileKind, Timestamp};
use crate::error::FsError;
use crate::ids::{Ino, NodeId};
use crate::overlay::merged::Looked;
use crate::request::Answer;
use crate::store::record::{Dentry, Inode, Usage, Xattr};
use crate::store::{Prefix, Touch, Txn};

const S_ISGID: u16 = 0o2000;
/// The longest target of a symlink, in bytes, as on ext4.
const TARGET_MAX: usize = 4095;

/// What a new inode is, beside what it inherits.
struct New<'a> {
    kind: FileKind,
    perm: u16,
    umask: u32,
    rdev: u32,
    target: Option<&'a [u8]>,
}

impl VolumeFs {
    /// Makes a regular file. Counts one reference.
    pub fn create(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<Entry, FsError> {
        self.make(
            caller,
            parent,
            name,
            &New { kind: FileKind::Regular, perm: perm(mode), umask, rdev: 0, target: None },
        )
    }

    /// Makes a file of any kind but directories and symlinks. Counts one reference.
    pub fn mknod(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
    ) -> Result<Entry, FsError> {
        let kind = match FileKind::from_mode(mode) {
            Some(FileKind::Directory | FileKind::Symlink) | None => {
                return Err(FsError::Invalid { what: "mknod of this type" });
            }
            Some(kind) => kind,
        };
        let rdev = if matches!(kind, FileKind::CharDevice | FileKind::BlockDevice) { rdev } else { 0 };
        self.make(caller, parent, name, &New { kind, perm: perm(mode), umask, rdev, target: None })
    }

    /// Makes a directory. Counts one reference.
    pub fn mkdir(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        mode: u32,
        umask: u32,
    ) -> Result<Entry, FsError> {
        self.make(
            caller,
            parent,
            name,
            &New { kind: FileKind::Directory, perm: perm(mode), umask, rdev: 0, target: None },
        )
    }

    /// Makes a symlink. Counts one reference.
    pub fn symlink(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        target: &[u8],
    ) -> Result<Entry, FsError> {
        if target.len() > TARGET_MAX {
            return Err(FsError::NameTooLong { length: target.len() });
        }
        if target.is_empty() {
            return Err(FsError::NotFound);
        }
        self.make(
            caller,
            parent,
            name,
            &New { kind: FileKind::Symlink, perm: 0o777, umask: 0, rdev: 0, target: Some(target) },
        )
    }

    /// Returns where a symlink points.
    pub fn readlink(&self, node: NodeId) -> Result<Vec<u8>, FsError> {
        let node = self.node(node)?;
        let state = node.state.read();
        if state.inode.kind != FileKind::Symlink {
            return Err(FsError::Invalid { what: "not a symlink" });
        }
        node.tree.merged.target(node.ino, &state.inode)
    }

    fn make(&self, caller: &Caller, parent: NodeId, name: &OsStr, new: &New<'_>) -> Result<Entry, FsError> {
        self.with_room(|| self.make_once(caller, parent, name, new))
    }

    fn make_once(
        &self,
        caller: &Caller,
        parent: NodeId,
        name: &OsStr,
        new: &New<'_>,
    ) -> Result<Entry, FsError> {
        let dir = self.node(parent)?;
        let head = self.writable(&dir)?;
        let bytes = check_name(name)?;
        if is_snapshots_dir(&dir, bytes) {
            return Err(FsError::Exists);
        }
        let ino = self.store.counters.next_ino(&self.store.db)?;
        let mut locked = loop {
            let seen = dir.state.read().names_changed();
            if self.find_child(&dir, name)?.is_some() {
                return Err(FsError::Exists);
            }
            let mut locked = Locked::all(&[&dir]);
            if locked.get(dir.ino).names_changed() == seen {
                break locked;
            }
        };
        let state = locked.get(dir.ino);
        if state.inode.nlink == 0 {
            // Removed, and somebody still stands in it.
            return Err(FsError::NotFound);
        }
        let now = Timestamp::now();
        let mut inode = new_inode(caller, new, &state.inode, dir.ino, bytes, now);
        let inherited = self.inherit(&dir, &state.inode, new, &mut inode)?;
        let mut dir_inode = state.inode.clone();
        (dir_inode.mtime, dir_inode.ctime) = (now, now);
        if new.kind == FileKind::Directory {
            dir_inode.add_subdirectory()?;
        }

        let mut txn = Txn::begin(&self.store, head)?;
        txn.charge(Usage { bytes: 0, inodes: 1 })?;
        txn.put(&self.dentry(&dir, bytes), &Dentry::Entry { ino, kind: new.kind }, Touch::First);
        for (name, value) in inherited.xattrs() {
            inode.has_xattrs = true;
            txn.put(&Prefix::xattr(head.tree, ino, name), &Xattr::Value(value), Touch::First);
        }
        txn.put(&Prefix::inode(head.tree, ino), &Some(inode.clone()), Touch::First);
        put_inode(&mut txn, &dir, state, &dir_inode)?;
        let version = (head.branch, txn.epoch());
        txn.commit(Answer::Inode(ino))?;

        state.accept(dir_inode, version);
        state.bind_name(bytes, ino);
        let looked = Looked { ino, inode, version: Some(version) };
        let node = self.nodes.insert(&dir.tree, looked, self.nodes.evictions())?;
        // Its number is new: whoever served the mount before cannot have told the kernel of it.
        node.inherited.store(false, Ordering::SeqCst);
        if let Some(children) = &mut node.state.write().children {
            // Nobody can have looked into it yet: its own directory is still locked.
            *children.names.get_mut() = Names::of_new_directory();
        }
        self.entry(&node)
    }

    fn inherit(
        &self,
        dir: &super::node::NodeRef<'_>,
        dir_inode: &Inode,
        new: &New<'_>,
        inode: &mut Inode,
    ) -> Result<Inherited, FsError> {
        let masked = |perm: u16| perm & !perm_mask(new.umask);
        if new.kind == FileKind::Symlink {
            return Ok(Inherited::default());
        }
        let default = if dir_inode.has_xattrs || dir_inode.lower.is_some() {
            dir.tree.merged.xattr(dir.ino, dir_inode, acl::DEFAULT)?
        } else {
            None
        };
        match default {
            None => {
                inode.perm = masked(inode.perm);
                Ok(Inherited::default())
            }
            Some(default) => {
                let (inherited, perm) = acl::inherit(&default, inode.perm, new.kind)?;
                inode.perm = perm;
                Ok(inherited)
            }
        }
    }

    /// The record of a name in a directory.
    pub(super) fn dentry(&self, dir: &super::node::NodeRef<'_>, name: &[u8]) -> Prefix {
        Prefix::dentry(dir.tree.merged.view.tree(), dir.ino, self.store.hasher.hash(name), name)
    }
}

fn perm(mode: u32) -> u16 {
    u16::try_from(mode & 0o7777).unwrap_or(0)
}

fn perm_mask(umask: u32) -> u16 {
    u16::try_from(umask & 0o777).unwrap_or(0)
}

fn new_inode(
    caller: &Caller,
    new: &New<'_>,
    dir: &Inode,
    dir_ino: Ino,
    name: &[u8],
    now: Timestamp,
) -> Inode {
    // In a set-group-ID directory everything gets the directory's group, and directories the bit.
    let inherits_group = dir.perm & S_ISGID != 0;
    let mut perm = new.perm;
    if inherits_group && new.kind == FileKind::Directory {
        perm |= S_ISGID;
    }
    Inode {
        kind: new.kind,
        perm,
        nlink: if new.kind == FileKind::Directory { 2 } else { 1 },
        uid: caller.uid,
        gid: if inherits_group { dir.gid } else { caller.gid },
        rdev: new.rdev,
        size: new.target.map_or(0, |target| target.len() as u64),
        stored: 0,
        atime: now,
        mtime: now,
        ctime: now,
        btime: now,
        has_xattrs: false,
        parent: dir_ino,
        name: name.into(),
        lower: None,
        target: new.target.map(Into::into),
    }
}

/// Most names an inode can have; ext4's limit, so that programs that know one know ours.
pub(super) const LINK_MAX: u32 = 65_000;

impl Inode {
    /// Counts a subdirectory, where they are counted.
    pub(super) fn add_subdirectory(&mut self) -> Result<(), FsError> {
        if self.nlink >= 2 {
            // More subdirectories than that are not counted any more, as ext4 does: 1 means "many".
            self.nlink = if self.nlink >= LINK_MAX { 1 } else { self.nlink + 1 };
        }
        Ok(())
    }

    /// Counts one less.
    pub(super) fn remove_subdirectory(&mut self) {
        if self.nlink > 2 {
            self.nlink -= 1;
        }
    }
}
