//! Telling the kernel what it may no longer believe.
//!
//! The kernel caches entries and attributes for an hour, because nothing changes except through it.
//! A rollback, or a snapshot that appears in `.snapshots`, is an exception, and says so here.
//!
//! # Concurrency
//! The kernel takes locks of the directories concerned, which a request in flight may hold. So
//! nothing here may be called while answering a request, or with the gate closed.

use std::ffi::OsStr;
use std::sync::{Arc, Weak};

use nix::errno::Errno;

use super::wire::Device;
use crate::ids::NodeId;
use crate::ops::Invalidate;

/// The kernel's caches for one mount. Does nothing once the mount has ended.
pub(super) struct KernelCaches(Weak<Device>);

impl KernelCaches {
    pub(super) fn of(device: &Arc<Device>) -> Self {
        // Weak: a volume that keeps its invalidator must not keep the device of an ended session
        // open.
        Self(Arc::downgrade(device))
    }

    fn notify(&self, what: &str, send: impl FnOnce(&Device) -> Result<(), Errno>) {
        if let Some(device) = self.0.upgrade()
            && let Err(errno) = send(&device)
        {
            tracing::warn!(what, %errno, "cannot invalidate the kernel's caches");
        }
    }
}

impl Invalidate for KernelCaches {
    fn entry(&self, parent: NodeId, name: &OsStr) {
        self.notify("entry", |device| device.invalidate_entry(parent, name));
    }

    fn inode(&self, node: NodeId) {
        self.notify("inode", |device| device.invalidate_inode(node));
    }

    fn holds(&self, node: NodeId) -> bool {
        self.0.upgrade().is_none_or(|device| match device.holds_inode(node) {
            Ok(holds) => holds,
            Err(errno) => {
                tracing::warn!(%node, %errno, "cannot ask the kernel whether it holds an inode");
                true
            }
        })
    }

    fn all_entries(&self) {
        self.notify("all entries", |device| {
            match device.invalidate_all_entries() {
                // Kernels before 6.16: there the adapter lets entries live for a second only, and
                // the root's attributes and listing are dropped below.
                Err(Errno::EINVAL | Errno::ENOSYS) => Ok(()),
                result => result,
            }
        });
        // The root keeps its node id for ever, and has no entry that could become stale.
        self.inode(NodeId::ROOT);
    }
}
