//! Staging that a file ends somewhere else.

use super::plan::Plan;
use super::{Fill, Staged, signed, split};
use crate::error::FsError;
use crate::ops::VolumeFs;
use crate::ops::group_cache::{Cached, FEW};
use crate::ops::node::{NodeRef, NodeState};
use crate::store::record::{GROUP_SIZE, Group, Inode, PAGE_SIZE, Page, Usage};
use crate::store::{Txn, Versioned};

impl VolumeFs {
    /// Stages that the file ends at `size`.
    pub(in crate::ops) fn stage_truncate(
        &self,
        txn: &mut Txn<'_>,
        node: &NodeRef<'_>,
        state: &NodeState,
        inode: &mut Inode,
        size: u64,
    ) -> Result<Staged, FsError> {
        let mut staged = Staged::default();
        let old = inode.size;
        if size < old {
            let merged = &node.tree.merged;
            let stored_before = inode.stored;
            if let Some(lower) = &mut inode.lower {
                lower.readable = lower.readable.min(size);
            }
            // Whole groups beyond the end go.
            let (first_gone, behind) = (size.div_ceil(GROUP_SIZE as u64), old.div_ceil(GROUP_SIZE as u64));
            let mut gone = Vec::new();
            // Behind the end are only marks of what went before.
            merged.view.groups(&merged.store.db, node.ino, first_gone..behind, |index, versioned| {
                if versioned.record != Group::Removed {
                    gone.push((index, versioned));
                }
                Ok(true)
            })?;
            for (index, Versioned { branch, epoch, record }) in gone {
                for page in record.refs() {
                    self.release(txn, node.ino, index, Page::Data(page));
                }
                inode.stored = inode.stored.saturating_sub(record.stored());
                let before = Cached { group: record, version: Some((branch, epoch)), born: 0 };
                let cached = self.stage_group(txn, node.ino, index, before, Group::base(), true)?;
                // Whoever writes the file anew will want to know that its zeros are new.
                if staged.groups.len() < FEW / 2 {
                    staged.groups.push((index, cached));
                }
            }
            staged.forget_all = true;
            // Within the last group pages go, and the rest of the last page becomes zeros.
            let (last, cut) = split(size);
            if cut > 0 {
                let rest = (GROUP_SIZE - cut) as u64;
                let before = self.group(node, state, last)?;
                if let Group::Inline(bytes) = &before.group {
                    let kept: Box<[u8]> = bytes.get(..cut.min(bytes.len())).unwrap_or_default().into();
                    inode.stored = (inode.stored + kept.len() as u64).saturating_sub(bytes.len() as u64);
                    let cached = self.stage_group(txn, node.ino, last, before, Group::Inline(kept), true)?;
                    staged.groups.push((last, cached));
                } else if before.group.refs().next().is_some() || before.group != Group::base() {
                    let mut plan = Plan::of(Fill::Zeros(rest));
                    self.plan_group(txn, node, state, inode, last, cut, Fill::Zeros(rest), &mut plan)?;
                    plan.write(txn)?;
                    for mut planned in plan.groups {
                        if planned.changed {
                            drop_holes_beyond(&mut planned.group, cut);
                        }
                        inode.stored = (inode.stored + planned.group.stored())
                            .saturating_sub(planned.before.group.stored());
                        let cached = self.stage_group(
                            txn,
                            node.ino,
                            last,
                            planned.before,
                            planned.group,
                            planned.changed,
                        )?;
                        staged.groups.push((last, cached));
                    }
                }
            }
            txn.charge(Usage { bytes: signed(inode.stored) - signed(stored_before), inodes: 0 })?;
        }
        inode.size = size;
        Ok(staged)
    }
}

/// Turns holes behind the end of a file back into base: there is nothing to be hidden.
fn drop_holes_beyond(group: &mut Group, cut: usize) {
    if let Group::Pages(pages) = group {
        for page in pages.iter_mut().skip(cut.div_ceil(PAGE_SIZE)) {
            if *page == Page::Hole {
                *page = Page::Base;
            }
        }
    }
}
