//! What the file system asks of its transport when something changed that the kernel did not ask for.

use std::ffi::OsStr;

use crate::ids::NodeId;

/// Makes a transport's caches forget. Never called from a thread that serves requests.
pub trait Invalidate: Send + Sync {
    /// A name may lead elsewhere.
    fn entry(&self, parent: NodeId, name: &OsStr);
    /// Attributes and data of a node may differ.
    fn inode(&self, node: NodeId);
    /// Every name may lead elsewhere.
    fn all_entries(&self);
    /// Tells whether a node is held. If that cannot be found out it is. May wait for requests in flight that write its data.
    fn holds(&self, node: NodeId) -> bool;
}
