//! Truncating a large file, and punching a large hole, step by step: neither the batch nor what is in memory grows with the file.
//!
//! # Crash consistency
//! Each step is a batch that leaves the file as a smaller request would have: a longer file that is cut off, or the beginning of a hole. Nobody
//! sees that but a snapshot of that moment, and whoever comes after a loss of power. A worker that dies between two steps leaves the rest to the
//! next, which is sent the request again.

use super::{Fill, Staged, split};
use crate::error::FsError;
use crate::failpoint;
use crate::ops::VolumeFs;
use crate::ops::attr::put_inode;
use crate::ops::node::{NodeRef, NodeState};
use crate::request::Answer;
use crate::store::record::{GROUP_SIZE, Group, Inode};
use crate::store::{Head, Txn};

/// How many groups are changed at a time.
const STEP: u64 = 4096;

const GROUP: u64 = GROUP_SIZE as u64;

impl VolumeFs {
    /// Cuts a file off until little more than `size` is left of it.
    pub(in crate::ops) fn shorten_in_steps(
        &self,
        node: &NodeRef<'_>,
        head: &Head,
        state: &mut NodeState,
        size: u64,
    ) -> Result<(), FsError> {
        let first = size.div_ceil(GROUP);
        if state.inode.size.div_ceil(GROUP).saturating_sub(first) <= STEP {
            return Ok(());
        }
        let (mut counted, mut starts, merged) = (0, Vec::new(), &node.tree.merged);
        merged.view.groups(&merged.store.db, node.ino, first, |index, versioned| {
            if versioned.record != Group::Removed {
                if counted % STEP == 0 {
                    starts.push(index);
                }
                counted += 1;
            }
            Ok(true)
        })?;
        // The first goes with the size that was asked for.
        for start in starts.into_iter().skip(1).rev() {
            self.step(node, head, state, |txn, state, inode| {
                self.stage_truncate(txn, node, state, inode, start * GROUP)
            })?;
        }
        Ok(())
    }

    /// Makes zeros of a range, but for an end of it. Returns where that begins.
    pub(in crate::ops) fn zero_in_steps(
        &self,
        node: &NodeRef<'_>,
        head: &Head,
        state: &mut NodeState,
        offset: u64,
        end: u64,
    ) -> Result<u64, FsError> {
        let mut at = offset;
        let ((first, _), (last, _)) = (split(offset), split(end.max(1) - 1));
        if last.saturating_sub(first) <= STEP {
            return Ok(at);
        }
        let readable = |inode: &Inode| inode.lower.as_ref().map_or(0, |lower| lower.readable);
        if (offset..=end).contains(&readable(&state.inode)) {
            // All that the lower has from there on.
            self.step(node, head, state, |_, _, inode| {
                inode.lower.iter_mut().for_each(|lower| lower.readable = offset);
                Ok(Staged::default())
            })?;
        }
        loop {
            let first = split(at).0;
            let next = match readable(&state.inode) > at {
                true => first,
                false => self.stored_group_from(node, first)?.unwrap_or(last),
            };
            let (from, to) = (at.max(next * GROUP), ((next + STEP) * GROUP).min(last * GROUP));
            if to <= from {
                return Ok(at.max(last * GROUP));
            }
            self.step(node, head, state, |txn, state, inode| {
                self.stage_fill(txn, node, state, inode, from, Fill::Zeros(to - from))
            })?;
            at = to;
        }
    }

    /// Returns the first group that is stored at or behind `first`.
    fn stored_group_from(&self, node: &NodeRef<'_>, first: u64) -> Result<Option<u64>, FsError> {
        let (mut found, merged) = (None, &node.tree.merged);
        merged.view.groups(&merged.store.db, node.ino, first, |index, versioned| {
            let is_stored = versioned.record != Group::Removed;
            found = is_stored.then_some(index);
            Ok(!is_stored)
        })?;
        Ok(found)
    }

    fn step(
        &self,
        node: &NodeRef<'_>,
        head: &Head,
        state: &mut NodeState,
        stage: impl FnOnce(&mut Txn<'_>, &NodeState, &mut Inode) -> Result<Staged, FsError>,
    ) -> Result<(), FsError> {
        let mut inode = state.inode.clone();
        let mut txn = Txn::begin_step(&self.store, head)?;
        let staged = stage(&mut txn, state, &mut inode)?;
        put_inode(&mut txn, node, state, &inode)?;
        let epoch = txn.epoch();
        let admission = txn.commit(Answer::Done)?;
        staged.apply(state);
        drop(admission);
        state.accept(inode, (head.branch, epoch));
        failpoint::hit("data.step");
        Ok(())
    }
}
