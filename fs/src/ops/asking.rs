//! Asking the kernel whether it still holds an inode that has no name.
//!
//! In a session that a predecessor began, the kernel may hold more references than were counted here. It gives all of them back when
//! it drops an inode; if those are as many as were counted, or a predecessor was told and died of it, nobody knows whether that was
//! all. For an inode that has a name this does not matter: it is found again. One without would stay until the mount ends.
//!
//! In any session the kernel forgets an inode before the call returns that let go of it, and tells so in a request that may be read long after
//! the next one of the same program. Who lacks room asks, and need not wait for that.
//!
//! # Concurrency
//! The kernel answers out of its table of inodes, and waits for no request but those that write out what is dirty of an inode that it is just
//! dropping. A thread that serves requests may be the only one that could answer those, so it has another one ask, and waits for that one
//! shortly. An inode without a name that the kernel does not hold can never come to be held again: whoever looks a name up holds its directory
//! until the answer has arrived, and the name cannot be removed meanwhile.

use std::sync::atomic::Ordering;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::VolumeFs;
use super::node::Gone;
use crate::ids::{Ino, NodeId};

/// How long an answer of the kernel is waited for. It takes some microseconds.
const ANSWER: Duration = Duration::from_millis(300);

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

    /// Asks about all inodes that lost their last name before `until`, and lets go of those that the kernel holds no more. Returns whether there are any:
    /// their room is on its way then.
    pub(super) fn let_go_of_forgotten(&self, until: Instant) -> bool {
        let unlinked = self.unlinked.before(until);
        if unlinked.is_empty() {
            return false;
        }
        let Some(kernel) = self.invalidator.read().clone() else { return false };
        let tree = self.root.read().clone();
        let called: Vec<(Ino, Option<NodeId>)> =
            unlinked.into_iter().map(|ino| (ino, self.nodes.existing_id(&tree, ino))).collect();
        let (answer, answered) = mpsc::channel();
        let turn = self.asking.clone();
        let asker = std::thread::Builder::new().name("durdir-asking".into()).spawn(move || {
            // One at a time: who asks holds the inode for that moment, as the next one would find.
            let Some(_turn) = turn.try_lock_for(ANSWER) else { return };
            let is_gone = |id: &Option<NodeId>| id.is_none_or(|id| !kernel.holds(id));
            let gone: Vec<(Ino, Option<NodeId>)> = called.into_iter().filter(|(_, id)| is_gone(id)).collect();
            // Whoever asked may have given up.
            answer.send(gone).ok();
        });
        if let Err(error) = asker {
            tracing::warn!(%error, volume = %self.volume, "cannot ask the kernel what it holds");
            return false;
        }
        let Ok(gone) = answered.recv_timeout(ANSWER) else { return false };
        for &(ino, id) in &gone {
            let adopted = self.adopted.get();
            match self.nodes.find_live(&tree, ino) {
                Some(node) if node.state.read().inode.nlink == 0 => {
                    node.let_go();
                    if let Some(adopted) = adopted {
                        adopted.inherited.write().forget(node.id);
                        adopted.is_over(node.id);
                    }
                }
                Some(_) => {}
                None => {
                    let inherited = adopted.filter(|adopted| adopted.is_of(&tree)).zip(id);
                    if inherited.is_some_and(|(adopted, id)| adopted.is_over(id).is_some()) {
                        self.nodes.dead.lock().push(Gone { tree: tree.clone(), ino, node: None });
                    }
                }
            }
        }
        !gone.is_empty()
    }
}
