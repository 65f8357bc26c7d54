//! Space inside files: holes and preallocation.

use super::attr::{MAX_FILE_SIZE, kill_set_ids, put_inode};
use super::data::Fill;
use super::locks::Locked;
use super::node::NodeState;
use super::{Caller, VolumeFs};
use crate::attr::{FileKind, Timestamp};
use crate::error::FsError;
use crate::ids::NodeId;
use crate::request::Answer;
use crate::store::Txn;
use crate::store::record::{Inode, Usage};

impl VolumeFs {
    /// `fallocate(2)`: allocate, keep size, punch a hole, zero a range.
    ///
    /// Allocation is refused where the quota or the disk has no room for what of the range is not allocated. It reserves nothing: pages are
    /// stored when they are written.
    pub fn fallocate(
        &self,
        caller: &Caller,
        node: NodeId,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result<(), FsError> {
        self.with_room(|| self.fallocate_once(caller, node, mode, offset, len))
    }

    fn fallocate_once(
        &self,
        caller: &Caller,
        node: NodeId,
        mode: i32,
        offset: u64,
        len: u64,
    ) -> Result<(), FsError> {
        let node = self.node(node)?;
        let head = self.writable(&node)?;
        let end = offset.checked_add(len).filter(|&end| end <= MAX_FILE_SIZE).ok_or(FsError::FileTooBig)?;
        if len == 0 {
            return Err(FsError::Invalid { what: "a length of zero" });
        }
        let keep_size = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let zeros = match mode & !libc::FALLOC_FL_KEEP_SIZE {
            0 => false,
            libc::FALLOC_FL_PUNCH_HOLE if keep_size => true,
            libc::FALLOC_FL_ZERO_RANGE => true,
            _ => return Err(FsError::Unsupported { what: "this mode of fallocate" }),
        };
        let mut locked = Locked::all(&[&node]);
        let state = locked.get(node.ino);
        match state.inode.kind {
            FileKind::Regular => {}
            FileKind::Directory => return Err(FsError::IsDirectory { ino: node.ino }),
            _ => return Err(FsError::Unsupported { what: "fallocate of what is not a regular file" }),
        }
        if !keep_size && end > state.inode.size {
            self.wipe_tail(&node, head, state)?;
        }
        let inside = end.min(state.inode.size);
        let now = Timestamp::now();
        let attributes = |_: &mut Txn<'_>, _: &NodeState, inode: &mut Inode| {
            (inode.mtime, inode.ctime) = (now, now);
            if caller.uid != 0 {
                kill_set_ids(inode);
            }
            Ok(())
        };
        let left = match zeros && offset < inside {
            true => self.zero_in_steps(&node, head, state, offset..inside, &attributes)?,
            false => offset..offset,
        };
        let missing = match zeros {
            true => 0,
            false => self.unallocated(&node, state, offset, end)?,
        };
        let mut inode = state.inode.clone();
        let mut txn = Txn::begin(&self.store, head)?;
        let mut staged = None;
        if zeros {
            let fill = Fill::Zeros(left.end - left.start);
            staged = Some(self.stage_fill(&mut txn, &node, state, &mut inode, left.start, fill)?);
        } else {
            self.store.space.check(missing)?;
            head.check_room(Usage { bytes: i64::try_from(missing).unwrap_or(i64::MAX), inodes: 0 })?;
        }
        if !keep_size {
            inode.size = inode.size.max(end);
        }
        attributes(&mut txn, state, &mut inode)?;
        put_inode(&mut txn, &node, state, &inode)?;
        let epoch = txn.epoch();
        let admission = txn.commit(Answer::Done)?;
        if let Some(staged) = staged {
            staged.apply(state);
        }
        drop(admission);
        state.accept(inode, (head.branch, epoch));
        Ok(())
    }
}
