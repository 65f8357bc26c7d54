//! Staging that a range of a file becomes bytes or zeros.

use super::plan::Plan;
use super::{Fill, INLINE_MAX, Staged, copy, signed, split};
use crate::error::FsError;
use crate::failpoint;
use crate::ids::Ino;
use crate::ops::VolumeFs;
use crate::ops::node::{NodeRef, NodeState};
use crate::store::record::{GROUP_SIZE, Group, Inode, Usage};
use crate::store::{Prefix, Txn};

impl VolumeFs {
    /// Stages that a range of the file becomes `fill`. The inode's stored bytes are adjusted; its size is the caller's.
    pub(in crate::ops) fn stage_fill(
        &self,
        txn: &mut Txn<'_>,
        node: &NodeRef<'_>,
        state: &NodeState,
        inode: &mut Inode,
        offset: u64,
        fill: Fill<'_>,
    ) -> Result<Staged, FsError> {
        let stored_before = inode.stored;
        let staged = self.stage_uncharged(txn, node, state, inode, offset, fill)?;
        txn.charge(Usage { bytes: signed(inode.stored) - signed(stored_before), inodes: 0 })?;
        Ok(staged)
    }

    /// As [`VolumeFs::stage_fill`]; what it takes is not counted yet.
    pub(super) fn stage_uncharged(
        &self,
        txn: &mut Txn<'_>,
        node: &NodeRef<'_>,
        state: &NodeState,
        inode: &mut Inode,
        offset: u64,
        fill: Fill<'_>,
    ) -> Result<Staged, FsError> {
        let mut staged = Staged::default();
        let end = offset + fill.len();
        if fill.len() == 0 {
            return Ok(staged);
        }
        if !self.stage_inline(txn, node, state, inode, offset, fill, &mut staged)? {
            let mut plan = Plan::of(fill);
            for index in self.groups_to_fill(node, inode, offset, end, fill)? {
                let start = index * GROUP_SIZE as u64;
                let range = (offset.max(start) - start) as usize
                    ..(end.min(start + GROUP_SIZE as u64) - start) as usize;
                let piece = match fill {
                    Fill::Bytes(bytes) => {
                        plan.piece = (start + range.start as u64 - offset) as usize;
                        let piece = plan.piece..plan.piece + range.len();
                        Fill::Bytes(bytes.get(piece).unwrap_or_default())
                    }
                    Fill::Zeros(_) => Fill::Zeros(range.len() as u64),
                };
                self.plan_group(txn, node, state, inode, index, range.start, piece, &mut plan)?;
            }
            plan.write(txn)?;
            for planned in plan.groups {
                let before = planned.before.group.stored();
                inode.stored = (inode.stored + planned.group.stored()).saturating_sub(before);
                let cached = self.stage_group(
                    txn,
                    node.ino,
                    planned.index,
                    planned.before,
                    planned.group,
                    planned.changed,
                )?;
                staged.groups.push((planned.index, cached));
            }
            (staged.ahead, staged.rewrites) = (plan.ahead, plan.in_place);
        }
        Ok(staged)
    }

    /// Lists the groups that a change concerns. Zeros leave alone what is zero already.
    fn groups_to_fill(
        &self,
        node: &NodeRef<'_>,
        inode: &mut Inode,
        offset: u64,
        end: u64,
        fill: Fill<'_>,
    ) -> Result<Vec<u64>, FsError> {
        let ((first, _), (last, _)) = (split(offset), split(end - 1));
        if let (Fill::Zeros(_), Some(lower)) = (fill, &mut inode.lower)
            && (offset..=end).contains(&lower.readable)
        {
            // Zeros up to the end of what the lower has: it is simply not read any more from there on.
            lower.readable = offset;
        }
        let below = inode.lower.as_ref().is_some_and(|lower| lower.readable > offset);
        if below || matches!(fill, Fill::Bytes(_)) {
            return Ok((first..=last).collect());
        }
        let merged = &node.tree.merged;
        let mut groups = Vec::new();
        merged.view.groups(&merged.store.db, node.ino, first..last + 1, |index, versioned| {
            // Where one was removed there is nothing.
            if versioned.record != Group::Removed {
                groups.push(index);
            }
            Ok(true)
        })?;
        Ok(groups)
    }

    /// Stages a small file as a whole. Returns `false` if it is not one, or no longer.
    #[expect(clippy::too_many_arguments, reason = "the same as stage_fill's, and its result")]
    fn stage_inline(
        &self,
        txn: &mut Txn<'_>,
        node: &NodeRef<'_>,
        state: &NodeState,
        inode: &mut Inode,
        offset: u64,
        fill: Fill<'_>,
        staged: &mut Staged,
    ) -> Result<bool, FsError> {
        let size = inode.size.max(offset + fill.len());
        if size > INLINE_MAX {
            return Ok(false);
        }
        let before = self.group(node, state, 0)?;
        // A file that was larger once may have pages: it keeps them.
        if before.group.refs().next().is_some() {
            return Ok(false);
        }
        let mut bytes = vec![0; usize::try_from(size).unwrap_or(0)];
        let old = usize::try_from(state.inode.size.min(size)).unwrap_or(0);
        if let Some(kept) = bytes.get_mut(..old) {
            self.count_copied_up(state, (0, 0), 0, old);
            self.read_data(node, state, 0, kept)?;
        }
        let at = usize::try_from(offset).unwrap_or(0);
        match fill {
            Fill::Bytes(new) => copy(&mut bytes, at, new),
            Fill::Zeros(len) => {
                if let Some(zeroed) = bytes.get_mut(at..at + usize::try_from(len).unwrap_or(0)) {
                    zeroed.fill(0);
                }
            }
        }
        let below = inode.lower.as_mut().is_some_and(|lower| std::mem::take(&mut lower.readable) > 0);
        let group = Group::Inline(bytes.into());
        inode.stored = (inode.stored + group.stored()).saturating_sub(before.group.stored());
        let mut cached = self.stage_group(txn, node.ino, 0, before, group, true)?;
        if below {
            // Nothing of it is shown by the lower any more, which everybody could rely on.
            cached.born = 0;
        }
        staged.groups.push((0, cached));
        Ok(true)
    }

    /// Rewrites pages in place with bytes of `data`, before the commit: what it makes visible is there by then. The
    /// records lose the checksums first.
    pub(in crate::ops) fn rewrite(
        &self,
        txn: &mut Txn<'_>,
        ino: Ino,
        state: &NodeState,
        staged: &mut Staged,
        data: &[u8],
    ) -> Result<(), FsError> {
        let head = txn.head();
        for (index, cached) in &staged.ahead {
            txn.put_ahead(&Prefix::extent(head.tree, ino, *index), &cached.group);
        }
        txn.write_ahead()?;
        if staged.has_ahead() {
            let mut cache = state.groups.lock();
            let cache = cache.get_or_insert_default();
            for (index, cached) in staged.ahead.drain(..) {
                cache.insert(index, cached);
            }
        }
        let rewritten = !staged.rewrites.is_empty();
        for write in staged.rewrites.drain(..) {
            let (segment, page) = (write.page.segment, write.page.page);
            let bytes = data.get(write.bytes).unwrap_or_default();
            self.store.segments.rewrite(&head.appender, segment, page, write.skip, bytes)?;
        }
        if rewritten {
            failpoint::hit("data.rewritten");
        }
        Ok(())
    }

    /// Counts what is about to be copied out of the lower, because a page of it is to be stored from now on.
    pub(super) fn count_copied_up(
        &self,
        state: &NodeState,
        (index, position): (u64, usize),
        offset: u64,
        length: usize,
    ) {
        let readable = state.inode.lower.as_ref().map_or(0, |lower| lower.readable);
        let below = readable.saturating_sub(offset).min(length as u64);
        if below > 0 && state.is_below(index, position) {
            self.store.count_copied_up(below);
        }
    }
}
