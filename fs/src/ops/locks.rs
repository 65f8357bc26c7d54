//! Locking several inodes at once.
//!
//! # Invariants
//! - Inodes are locked in ascending order of their numbers, all that an operation changes before it changes any, so that no two
//!   operations wait for each other.

use parking_lot::RwLockWriteGuard;

use super::node::{NodeRef, NodeState};
use crate::ids::Ino;

/// Most inodes that one operation changes: a rename with two directories, what it moves and what it replaces.
const MOST: usize = 4;

/// The locks of some inodes.
pub(crate) struct Locked<'n> {
    guards: Vec<(Ino, RwLockWriteGuard<'n, NodeState>)>,
}

impl<'n> Locked<'n> {
    /// Locks the inodes, each once however often it is named.
    pub(crate) fn all<'t: 'n>(nodes: &[&'n NodeRef<'t>]) -> Locked<'n> {
        debug_assert!(nodes.len() <= MOST);
        let mut order: Vec<&'n NodeRef<'t>> = nodes.to_vec();
        order.sort_unstable_by_key(|node| node.ino);
        order.dedup_by_key(|node| node.ino);
        Locked { guards: order.into_iter().map(|node| (node.ino, node.state.write())).collect() }
    }

    /// Returns the state of an inode that was locked.
    pub(crate) fn get(&mut self, ino: Ino) -> &mut NodeState {
        let found = self.guards.iter_mut().find(|(locked, _)| *locked == ino);
        &mut found.expect("an operation asks only for inodes it locked").1
    }
}
