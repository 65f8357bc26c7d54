//! Asking the kernel whether it still holds an inode that has no name.
//!
//! In a session that a predecessor began, the kernel may hold more references than were counted here. It gives all of them back when
//! it drops an inode; if those are as many as were counted, or a predecessor was told and died of it, nobody knows whether that was
//! all. For an inode that has a name this does not matter: it is found again. One without would stay until the mount ends.
//!
//! # Concurrency
//! The kernel answers out of its table of inodes, and waits for no request. An inode without a name that it does not hold can never come
//! to be held again.

use std::sync::atomic::Ordering;

use super::VolumeFs;
use super::node::Gone;

impl VolumeFs {
    /// Lets go of inodes without names that the kernel holds no more.
    pub(super) fn ask_about_unnamed(&self) {
        let Some(adopted) = self.adopted.get() else { return };
        let invalidator = self.invalidator.read();
        let Some(kernel) = invalidator.as_ref() else { return };
        let orphans = adopted.take_unasked();
        let doubted = std::mem::take(&mut *self.nodes.doubted.lock());
        if orphans.is_empty() && doubted.is_empty() {
            return;
        }
        let tree = self.root.read().clone();
        for (node, ino) in orphans {
            // A rollback took the tree away that they are of.
            let is_shown = adopted.is_of(&tree);
            // One that is in memory again is told of in the ordinary way.
            if is_shown
                && self.nodes.get(node).is_none()
                && !kernel.holds(node)
                && adopted.is_over(node).is_some()
            {
                self.nodes.dead.lock().push(Gone { tree: tree.clone(), ino, node: None });
            }
        }
        for id in doubted {
            let Some(node) = self.nodes.get(id) else { continue };
            let is_doubtful = node.inherited.load(Ordering::SeqCst)
                && node.lookups() == 0
                && node.state.read().inode.nlink == 0;
            if is_doubtful && !kernel.holds(id) {
                // With this, the last one lets go of it.
                node.inherited.store(false, Ordering::SeqCst);
                adopted.inherited.write().forget(id);
                adopted.is_over(id);
            }
        }
    }
}
