//! Truncating a large file, and punching a large hole, step by step: neither the batch nor what is in memory grows with the file.
//!
//! # Invariants
//! - Whatever may be refused is in the first step, which is refused as a whole: what asks for a new page, a quota or the disk. Those that follow
//!   only let go of whole groups. All records that they let go of were read before, so that one that cannot be read refuses the request
//!   while nothing has changed.
//! - Each step leaves the inode with the attributes that the whole change gives it: whoever sees a part of the change sees a file that was
//!   changed, and without the set-id bits that the change takes.
//! - A step begins where the one before it ended, and looks at nothing beyond its own groups.
//!
//! # Crash consistency
//! Each step is a batch that leaves the file as smaller requests would have: a longer file that is cut off, or the two ends of a hole and some of what
//! is between. Nobody sees that but a snapshot of that moment, and whoever comes after a loss of power. A worker that dies between two steps leaves
//! the rest to the next, which is sent the request again.

use std::ops::Range;

use super::{Fill, Staged, signed, split};
use crate::error::FsError;
use crate::failpoint;
use crate::ops::VolumeFs;
use crate::ops::attr::put_inode;
use crate::ops::node::{NodeRef, NodeState};
use crate::request::Answer;
use crate::store::record::{GROUP_SIZE, Group, Inode, Usage};
use crate::store::{Head, Txn};

/// How many groups are changed at a time.
const STEP: u64 = 4096;

const GROUP: u64 = GROUP_SIZE as u64;

/// What the record of a group takes that is all hole, with its key and its place in the index: bytes.
const HOLE_RECORD: u64 = 128;

/// Stages what a change makes of an inode beside its bytes. Called for each step, always with the same outcome.
pub(in crate::ops) type Attributes<'a> =
    dyn Fn(&mut Txn<'_>, &NodeState, &mut Inode) -> Result<(), FsError> + 'a;

/// The groups that are stored in a part of a file.
struct Stored {
    /// The first of each step.
    starts: Vec<u64>,
    /// The bytes that they take.
    bytes: u64,
}

impl VolumeFs {
    /// Cuts a file off until little more than `size` is left of it, and what is left asks for nothing that could be refused.
    pub(in crate::ops) fn shorten_in_steps(
        &self,
        node: &NodeRef<'_>,
        head: &Head,
        state: &mut NodeState,
        size: u64,
        attributes: &Attributes<'_>,
    ) -> Result<(), FsError> {
        let gone = size.div_ceil(GROUP)..state.inode.size.div_ceil(GROUP);
        if gone.end.saturating_sub(gone.start) <= STEP {
            return Ok(());
        }
        let Stored { starts, .. } = self.stored_groups(node, gone)?;
        if starts.len() <= 1 {
            return Ok(());
        }
        let (last, cut) = split(size);
        if cut > 0 && self.group(node, state, last)?.group.refs().next().is_some() {
            // What is left of the last page is written anew.
            self.step(node, head, state, attributes, |txn, state, inode| {
                inode.lower.iter_mut().for_each(|lower| lower.readable = lower.readable.min(size));
                let rest = Fill::Zeros((GROUP_SIZE - cut) as u64);
                self.stage_fill(txn, node, state, inode, size, rest)
            })?;
        }
        // The first goes with the size that was asked for.
        for start in starts.into_iter().skip(1).rev() {
            self.step(node, head, state, attributes, |txn, state, inode| {
                self.stage_truncate(txn, node, state, inode, start * GROUP)
            })?;
        }
        Ok(())
    }

    /// Makes zeros of a range, but for a part of it that asks for nothing that could be refused. Returns that part.
    pub(in crate::ops) fn zero_in_steps(
        &self,
        node: &NodeRef<'_>,
        head: &Head,
        state: &mut NodeState,
        range: Range<u64>,
        attributes: &Attributes<'_>,
    ) -> Result<Range<u64>, FsError> {
        let whole = range.start.div_ceil(GROUP)..range.end / GROUP;
        if whole.end.saturating_sub(whole.start) <= STEP {
            return Ok(range);
        }
        let stored = self.stored_groups(node, whole.clone())?;
        let readable = state.inode.lower.as_ref().map_or(0, |lower| lower.readable);
        let is_below = readable > range.end;
        if !is_below && stored.starts.len() <= 1 {
            return Ok(range);
        }
        let to = whole.end * GROUP;
        let ends = [range.start..whole.start * GROUP, to..range.end];
        let has_ends = ends.iter().any(|end| !end.is_empty());
        if is_below {
            // Each group hides the lower, stored before or not.
            self.store.space.check((whole.end - whole.start).saturating_mul(HOLE_RECORD))?;
        }
        if has_ends || (range.start..=range.end).contains(&readable) {
            self.step(node, head, state, attributes, |txn, state, inode| {
                if !is_below {
                    // All that the lower has from there on.
                    inode.lower.iter_mut().for_each(|lower| lower.readable = lower.readable.min(range.start));
                }
                let before = inode.stored;
                let mut staged = Staged::default();
                for end in ends.iter().filter(|end| !end.is_empty()) {
                    let zeros = Fill::Zeros(end.end - end.start);
                    staged.join(self.stage_uncharged(txn, node, state, inode, end.start, zeros)?);
                }
                charge_ends(txn, signed(inode.stored) - signed(before), signed(stored.bytes))?;
                Ok(staged)
            })?;
        }
        let mut at = whole.start;
        let mut until = |group: u64| {
            let from = std::mem::replace(&mut at, group);
            self.step(node, head, state, attributes, |txn, state, inode| {
                let zeros = Fill::Zeros((group - from) * GROUP);
                self.stage_fill(txn, node, state, inode, from * GROUP, zeros)
            })
        };
        if is_below {
            let mut next = whole.start + STEP;
            while next < whole.end {
                until(next)?;
                next += STEP;
            }
        } else {
            stored.starts.into_iter().skip(1).try_for_each(&mut until)?;
        }
        Ok(at * GROUP..to)
    }

    /// Reads all groups of a part of a file.
    fn stored_groups(&self, node: &NodeRef<'_>, groups: Range<u64>) -> Result<Stored, FsError> {
        let (mut stored, mut counted, merged) =
            (Stored { starts: Vec::new(), bytes: 0 }, 0, &node.tree.merged);
        merged.view.groups(&merged.store.db, node.ino, groups, |index, versioned| {
            if versioned.record != Group::Removed {
                if counted % STEP == 0 {
                    stored.starts.push(index);
                }
                counted += 1;
                stored.bytes += versioned.record.stored();
            }
            Ok(true)
        })?;
        Ok(stored)
    }

    fn step(
        &self,
        node: &NodeRef<'_>,
        head: &Head,
        state: &mut NodeState,
        attributes: &Attributes<'_>,
        stage: impl FnOnce(&mut Txn<'_>, &NodeState, &mut Inode) -> Result<Staged, FsError>,
    ) -> Result<(), FsError> {
        let mut inode = state.inode.clone();
        let mut txn = Txn::begin_step(&self.store, head)?;
        let staged = stage(&mut txn, state, &mut inode)?;
        attributes(&mut txn, state, &mut inode)?;
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

/// Counts what the ends of a hole take, of which `freed` comes back with its whole groups: the quota may refuse only what the hole as a whole takes
/// more.
fn charge_ends(txn: &mut Txn<'_>, growth: i64, freed: i64) -> Result<(), FsError> {
    let bytes = growth.saturating_sub(freed.max(0)).max(0).min(growth);
    txn.charge(Usage { bytes, inodes: 0 })?;
    txn.charge_regardless(Usage { bytes: growth - bytes, inodes: 0 });
    Ok(())
}

#[cfg(test)]
mod tests;
