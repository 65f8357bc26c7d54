//! Hard links.

use std::ffi::OsStr;

use super::attr::put_inode;
use super::create::LINK_MAX;
use super::locks::Locked;
use super::snapshots_dir::is_snapshots_dir;
use super::{Entry, VolumeFs, check_name};
use crate::attr::{FileKind, Timestamp};
use crate::error::FsError;
use crate::ids::NodeId;
use crate::request::Answer;
use crate::store::record::Dentry;
use crate::store::{Touch, Txn};

impl VolumeFs {
    /// Gives an inode another name. Counts one reference.
    pub fn link(&self, node: NodeId, parent: NodeId, name: &OsStr) -> Result<Entry, FsError> {
        self.with_room(|| self.link_once(node, parent, name))
    }

    fn link_once(&self, node: NodeId, parent: NodeId, name: &OsStr) -> Result<Entry, FsError> {
        let (node, dir) = (self.node(node)?, self.node(parent)?);
        let head = self.writable(&dir)?;
        self.writable(&node)?;
        let bytes = check_name(name)?;
        if is_snapshots_dir(&dir, bytes) {
            return Err(FsError::Exists);
        }
        let mut locked = loop {
            let seen = dir.state.read().names_changed();
            if self.find_child(&dir, name)?.is_some() {
                return Err(FsError::Exists);
            }
            let mut locked = Locked::all(&[&dir, &node]);
            if locked.get(dir.ino).names_changed() == seen {
                break locked;
            }
        };
        let now = Timestamp::now();
        let mut inode = locked.get(node.ino).inode.clone();
        match (inode.kind, inode.nlink) {
            (FileKind::Directory, _) => {
                return Err(FsError::NotPermitted { what: "a hard link to a directory" });
            }
            (_, 0) => return Err(FsError::NotFound),
            (_, LINK_MAX..) => return Err(FsError::TooManyLinks),
            _ => {}
        }
        inode.nlink += 1;
        inode.ctime = now;
        let mut dir_inode = locked.get(dir.ino).inode.clone();
        if dir_inode.nlink == 0 {
            return Err(FsError::NotFound);
        }
        (dir_inode.mtime, dir_inode.ctime) = (now, now);

        let mut txn = Txn::begin(&self.store, head)?;
        txn.put(&self.dentry(&dir, bytes), &Dentry::Entry { ino: node.ino, kind: inode.kind }, Touch::First);
        node.learn_link(&inode, dir.ino, bytes);
        put_inode(&mut txn, &node, locked.get(node.ino), &inode)?;
        put_inode(&mut txn, &dir, locked.get(dir.ino), &dir_inode)?;
        let version = (head.branch, txn.epoch());
        txn.commit(Answer::Inode(node.ino))?;

        locked.get(node.ino).accept(inode, version);
        let state = locked.get(dir.ino);
        state.accept(dir_inode, version);
        state.bind_name(bytes, node.ino);
        drop(locked);
        self.entry(&node)
    }
}
