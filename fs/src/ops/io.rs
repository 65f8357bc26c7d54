//! Reading and writing.

use super::VolumeFs;
use super::attr::{MAX_FILE_SIZE, kill_set_ids, put_inode};
use super::data::Fill;
use super::locks::Locked;
use crate::attr::{FileKind, Timestamp};
use crate::error::FsError;
use crate::ids::NodeId;
use crate::request::Answer;
use crate::store::{Prefix, Txn};

/// Whether a write takes the set-id bits away.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KillSuid {
    /// It does not.
    No,
    /// It does: the writer has no right to keep them.
    Yes,
}

impl VolumeFs {
    /// Appends up to `size` bytes from `offset` on to `out`; fewer only at the end of the file.
    ///
    /// # Errors
    /// A page that does not match its checksum is an error, never other bytes.
    pub fn read(&self, node: NodeId, offset: u64, size: usize, out: &mut Vec<u8>) -> Result<(), FsError> {
        let node = self.node(node)?;
        let state = node.state.read();
        match state.inode.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(FsError::IsDirectory { ino: node.ino }),
            _ => return Err(FsError::Invalid { what: "not a regular file" }),
        }
        let left = usize::try_from(state.inode.size.saturating_sub(offset)).unwrap_or(usize::MAX);
        let length = left.min(size);
        let start = out.len();
        out.resize(start + length, 0);
        match out.get_mut(start..) {
            Some(target) => {
                self.read_data(&node, &state, offset, target).inspect_err(|_| out.truncate(start))
            }
            None => Ok(()),
        }
    }

    /// Writes all of `data`, or nothing.
    pub fn write(&self, node: NodeId, offset: u64, data: &[u8], kill: KillSuid) -> Result<(), FsError> {
        self.write_answering(node, offset, data, kill, Answer::Count(data.len() as u64))
    }

    /// Writes all of `data`, or nothing, as all or a part of a request that is answered with `answer`.
    pub(super) fn write_answering(
        &self,
        node: NodeId,
        offset: u64,
        data: &[u8],
        kill: KillSuid,
        answer: Answer,
    ) -> Result<(), FsError> {
        self.with_room(|| self.write_once(node, offset, data, kill, answer))
    }

    fn write_once(
        &self,
        node: NodeId,
        offset: u64,
        data: &[u8],
        kill: KillSuid,
        answer: Answer,
    ) -> Result<(), FsError> {
        let node = self.node(node)?;
        let head = self.writable(&node)?;
        let end = offset
            .checked_add(data.len() as u64)
            .filter(|&end| end <= MAX_FILE_SIZE)
            .ok_or(FsError::FileTooBig)?;
        let mut locked = Locked::all(&[&node]);
        let state = locked.get(node.ino);
        match state.inode.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(FsError::IsDirectory { ino: node.ino }),
            _ => return Err(FsError::Invalid { what: "not a regular file" }),
        }
        if data.is_empty() {
            return Ok(());
        }
        if end > state.inode.size {
            self.wipe_tail(&node, head, state)?;
        }
        let mut inode = state.inode.clone();
        let mut txn = Txn::begin(&self.store, head)?;
        let mut staged = self.stage_fill(&mut txn, &node, state, &mut inode, offset, Fill::Bytes(data))?;
        inode.size = inode.size.max(end);
        let now = Timestamp::now();
        (inode.mtime, inode.ctime) = (now, now);
        if kill == KillSuid::Yes {
            kill_set_ids(&mut inode);
        }
        let current = (head.branch, txn.epoch());
        // It shows no byte that is not there yet, and counts none: one batch instead of two.
        let only_times = end <= state.inode.size && inode.stored == state.inode.stored;
        if staged.has_ahead() && only_times && state.version == Some(current) {
            let stored = node.known_names.renamed(&inode).unwrap_or_else(|| inode.clone());
            txn.put_ahead(&Prefix::inode(head.tree, node.ino), &Some(stored));
        } else {
            put_inode(&mut txn, &node, state, &inode)?;
        }
        let tail_is_zero = std::mem::take(&mut state.tail_is_zero);
        self.rewrite(&mut txn, node.ino, state, &mut staged, data)?;
        let epoch = txn.epoch();
        let admission = txn.commit(answer)?;
        state.tail_is_zero = tail_is_zero;
        staged.apply(state);
        drop(admission);
        state.accept(inode, (head.branch, epoch));
        Ok(())
    }
}
