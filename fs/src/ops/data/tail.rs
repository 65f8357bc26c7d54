//! What lies behind the end of a file in its last page.
//!
//! It is zero, but for one case: a write went behind the end in place, and its record, which would have moved the end, was lost with
//! the process or with the power, or could not be stored. Nobody sees such bytes until the file grows over them: without writing
//! there, or by a write of which the record is kept and the bytes are lost, as the first time the other way round.

use super::{Fill, split};
use crate::error::FsError;
use crate::ops::VolumeFs;
use crate::ops::node::{NodeRef, NodeState};
use crate::request::Answer;
use crate::store::record::{Group, PAGE_SIZE, Page};
use crate::store::{Head, Txn};

impl VolumeFs {
    /// Makes sure that the rest of the last page is zero, before the end of the file moves over it. This takes a look at the page
    /// the first time since the node is known.
    ///
    /// # Crash consistency
    /// A batch of its own, ahead of the one that moves the end: nobody sees a difference. The zeros are on the disk before that one, or they
    /// could be lost, and it not.
    pub(in crate::ops) fn wipe_tail(
        &self,
        node: &NodeRef<'_>,
        head: &Head,
        state: &mut NodeState,
    ) -> Result<(), FsError> {
        if state.tail_is_zero {
            return Ok(());
        }
        let size = state.inode.size;
        let (index, skip) = split(size);
        let mut page = [0; PAGE_SIZE];
        let Some(tail) = page.get_mut(skip % PAGE_SIZE..).filter(|tail| tail.len() < PAGE_SIZE) else {
            state.tail_is_zero = true;
            return Ok(());
        };
        let is_stored = match &self.group(node, state, index)?.group {
            Group::Pages(pages) => matches!(pages.get(skip / PAGE_SIZE), Some(Page::Data(_))),
            Group::Removed | Group::Inline(_) => false,
        };
        if is_stored && self.read_data(node, state, size, tail).is_err() {
            // For those to know who read it.
            return Ok(());
        }
        if tail.iter().all(|&byte| byte == 0) {
            state.tail_is_zero = true;
            return Ok(());
        }
        tail.fill(0);
        let mut inode = state.inode.clone();
        let mut txn = Txn::begin_housekeeping(&self.store, head)?;
        let mut staged = self.stage_fill(&mut txn, node, state, &mut inode, size, Fill::Bytes(tail))?;
        self.rewrite(&mut txn, node.ino, state, &mut staged, tail)?;
        let admission = txn.commit(Answer::Done)?;
        staged.apply(state);
        drop(admission);
        self.store.sync_data(&head.appender)?;
        state.tail_is_zero = true;
        Ok(())
    }
}
