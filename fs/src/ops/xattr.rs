//! Extended attributes.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;

use super::acl;
use super::attr::put_inode;
use super::locks::Locked;
use super::{Caller, NAME_MAX, VolumeFs};
use crate::attr::Timestamp;
use crate::error::FsError;
use crate::ids::NodeId;
use crate::request::Answer;
use crate::store::record::Xattr;
use crate::store::{Prefix, Touch, Txn};

/// The largest value, `XATTR_SIZE_MAX`.
const VALUE_MAX: usize = 65_536;

/// What `setxattr` does about an attribute that exists or does not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum SetXattr {
    /// It is set.
    Any,
    /// It must not exist.
    Create,
    /// It must exist.
    Replace,
}

impl VolumeFs {
    /// Returns the value of an attribute.
    pub fn getxattr(&self, node: NodeId, name: &OsStr) -> Result<Vec<u8>, FsError> {
        if self.snapshots_dir_attr(node)?.is_some() {
            return Err(FsError::NoXattr);
        }
        let node = self.node(node)?;
        let state = node.state.read();
        node.tree.merged.xattr(node.ino, &state.inode, name.as_bytes())?.ok_or(FsError::NoXattr)
    }

    /// Returns the names of all attributes, each with a NUL behind it; those of `trusted.` only to root.
    pub fn listxattr(&self, caller: &Caller, node: NodeId) -> Result<Vec<u8>, FsError> {
        if self.snapshots_dir_attr(node)?.is_some() {
            return Ok(Vec::new());
        }
        let node = self.node(node)?;
        let state = node.state.read();
        let names = node.tree.merged.xattr_names(node.ino, &state.inode)?;
        let shown = names.into_iter().filter(|name| caller.uid == 0 || !name.starts_with(b"trusted."));
        Ok(shown.flat_map(|name| name.into_iter().chain([0])).collect())
    }

    /// Sets an attribute. An access ACL also sets the permission bits it stands for.
    pub fn setxattr(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &OsStr,
        value: &[u8],
        how: SetXattr,
    ) -> Result<(), FsError> {
        self.with_room(|| self.setxattr_once(caller, node, name, value, how))
    }

    fn setxattr_once(
        &self,
        caller: &Caller,
        node: NodeId,
        name: &OsStr,
        value: &[u8],
        how: SetXattr,
    ) -> Result<(), FsError> {
        let name = name.as_bytes();
        if name.is_empty() || name.len() > NAME_MAX || name.contains(&0) {
            return Err(FsError::Invalid { what: "name of an extended attribute" });
        }
        check_namespace(name)?;
        if value.len() > VALUE_MAX {
            return Err(FsError::XattrTooBig);
        }
        let node = self.node(node)?;
        let head = self.writable(&node)?;
        let mut locked = Locked::all(&[&node]);
        let state = locked.get(node.ino);
        if how != SetXattr::Any {
            match (node.tree.merged.xattr(node.ino, &state.inode, name)?, how) {
                (Some(_), SetXattr::Create) => return Err(FsError::Exists),
                (None, SetXattr::Replace) => return Err(FsError::NoXattr),
                _ => {}
            }
        }
        let mut inode = state.inode.clone();
        inode.ctime = Timestamp::now();
        let mut record = Xattr::Value(value.to_vec());
        if name == acl::ACCESS && acl::set_access(caller, &mut inode, value)? == acl::Stands::InModeAlone {
            record = Xattr::Removed;
        }
        if record != Xattr::Removed {
            inode.has_xattrs = true;
            self.store.space.check(value.len() as u64 + 4096)?;
        }
        let mut txn = Txn::begin(&self.store, head)?;
        if record != Xattr::Removed || inode.has_xattrs || inode.lower.is_some() {
            inode.has_xattrs = true;
            txn.put(&Prefix::xattr(head.tree, node.ino, name), &record, Touch::First);
        }
        put_inode(&mut txn, &node, state, &inode)?;
        let version = (head.branch, txn.epoch());
        txn.commit(Answer::Done)?;
        state.accept(inode, version);
        Ok(())
    }

    /// Removes an attribute.
    pub fn removexattr(&self, _caller: &Caller, node: NodeId, name: &OsStr) -> Result<(), FsError> {
        self.with_room(|| self.removexattr_once(node, name))
    }

    fn removexattr_once(&self, node: NodeId, name: &OsStr) -> Result<(), FsError> {
        let name = name.as_bytes();
        check_namespace(name)?;
        let node = self.node(node)?;
        let head = self.writable(&node)?;
        let mut locked = Locked::all(&[&node]);
        let state = locked.get(node.ino);
        node.tree.merged.xattr(node.ino, &state.inode, name)?.ok_or(FsError::NoXattr)?;
        let mut inode = state.inode.clone();
        inode.ctime = Timestamp::now();
        // A lower's attribute is hidden by the mark of the removal.
        inode.has_xattrs = true;
        let mut txn = Txn::begin(&self.store, head)?;
        txn.put(&Prefix::xattr(head.tree, node.ino, name), &Xattr::Removed, Touch::First);
        put_inode(&mut txn, &node, state, &inode)?;
        let version = (head.branch, txn.epoch());
        txn.commit(Answer::Done)?;
        state.accept(inode, version);
        Ok(())
    }
}

/// Refuses names that are in none of the namespaces of xattr(7). The kernel leaves that to the file system.
fn check_namespace(name: &[u8]) -> Result<(), FsError> {
    let known = [&b"user."[..], b"trusted.", b"security."]
        .iter()
        .any(|space| name.starts_with(space) && name.len() > space.len());
    if known || name == acl::ACCESS || name == acl::DEFAULT {
        return Ok(());
    }
    Err(FsError::Unsupported { what: "an extended attribute outside user, trusted, security and POSIX ACLs" })
}
