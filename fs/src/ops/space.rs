//! Space inside files: holes, preallocation, and where the data is.

use super::attr::{MAX_FILE_SIZE, kill_set_ids, put_inode};
use super::data::{Fill, split};
use super::locks::Locked;
use super::node::{NodeRef, NodeState};
use super::{Caller, VolumeFs};
use crate::attr::{FileKind, Timestamp};
use crate::error::FsError;
use crate::ids::NodeId;
use crate::overlay::lower::SeekTo;
use crate::request::Answer;
use crate::store::Txn;
use crate::store::record::{GROUP_SIZE, Group, PAGE_SIZE, Page, Usage};

/// What `lseek` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

impl VolumeFs {
    /// `fallocate(2)`: allocate, keep size, punch a hole, zero a range.
    ///
    /// Allocation checks the quota and the disk but reserves nothing: pages are stored when they are written.
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
        let offset = match zeros && offset < inside {
            true => self.zero_in_steps(&node, head, state, offset, inside)?,
            false => offset,
        };
        let mut inode = state.inode.clone();
        let mut txn = Txn::begin(&self.store, head)?;
        let mut staged = None;
        if zeros {
            let fill = Fill::Zeros(inside.saturating_sub(offset));
            staged = Some(self.stage_fill(&mut txn, &node, state, &mut inode, offset, fill)?);
        } else {
            let grown = end.saturating_sub(inode.size.max(offset));
            self.store.space.check(grown)?;
            head.check_room(Usage { bytes: i64::try_from(grown).unwrap_or(i64::MAX), inodes: 0 })?;
        }
        if !keep_size {
            inode.size = inode.size.max(end);
        }
        let now = Timestamp::now();
        (inode.mtime, inode.ctime) = (now, now);
        if caller.uid != 0 {
            kill_set_ids(&mut inode);
        }
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

    /// `lseek(2)` with `SEEK_DATA` or `SEEK_HOLE`.
    pub fn seek(&self, node: NodeId, offset: u64, whence: Whence) -> Result<u64, FsError> {
        let node = self.node(node)?;
        let state = node.state.read();
        if state.inode.kind != FileKind::Regular {
            return Err(FsError::Invalid { what: "not a regular file" });
        }
        let size = state.inode.size;
        if offset >= size {
            return Err(FsError::NoData);
        }
        let mut at = offset;
        while at < size {
            let (index, skip) = split(at);
            let end = match self.pages_of(&node, &state, index)? {
                Group::Inline(bytes) => {
                    let data_end = (index * GROUP_SIZE as u64 + bytes.len() as u64).min(size);
                    match whence {
                        Whence::Data if at < data_end => return Ok(at),
                        Whence::Hole if at >= data_end => return Ok(at),
                        Whence::Hole => return Ok(data_end),
                        Whence::Data => (index + 1) * GROUP_SIZE as u64,
                    }
                }
                Group::Removed => (index + 1) * GROUP_SIZE as u64,
                Group::Pages(pages) => {
                    let position = skip / PAGE_SIZE;
                    let page_end = index * GROUP_SIZE as u64 + ((position + 1) * PAGE_SIZE) as u64;
                    match pages.get(position).copied().unwrap_or_default() {
                        Page::Data(_) if whence == Whence::Data => return Ok(at),
                        Page::Data(_) => page_end,
                        Page::Hole if whence == Whence::Hole => return Ok(at),
                        Page::Hole => page_end,
                        Page::Base => {
                            // As far as all is base the lower, or the next group, decides.
                            let run =
                                pages.iter().skip(position).take_while(|page| **page == Page::Base).count();
                            let run_end = index * GROUP_SIZE as u64 + ((position + run) * PAGE_SIZE) as u64;
                            match self.seek_lower(&node, &state, at, run_end.min(size), whence)? {
                                Some(found) => return Ok(found),
                                // Nothing is below: the next group that exists decides.
                                None if whence == Whence::Data
                                    && position + run == pages.len()
                                    && !self.reads_lower(&state, run_end) =>
                                {
                                    match self.next_group(&node, index + 1)? {
                                        Some(next) => next * GROUP_SIZE as u64,
                                        None => size,
                                    }
                                }
                                None => run_end,
                            }
                        }
                    }
                }
            };
            at = end;
        }
        match whence {
            Whence::Data => Err(FsError::NoData),
            // The end of the file is a hole.
            Whence::Hole => Ok(size),
        }
    }

    fn reads_lower(&self, state: &NodeState, offset: u64) -> bool {
        state.inode.lower.as_ref().is_some_and(|lower| lower.readable > offset)
    }

    /// Looks between `from` and `to`, where the lower answers, and zeros follow it.
    fn seek_lower(
        &self,
        node: &NodeRef<'_>,
        state: &NodeState,
        from: u64,
        to: u64,
        whence: Whence,
    ) -> Result<Option<u64>, FsError> {
        let readable = state.inode.lower.as_ref().map_or(0, |lower| lower.readable);
        let Some(lower) = state.inode.lower.as_ref().filter(|_| from < readable) else {
            return Ok((whence == Whence::Hole).then_some(from));
        };
        let (source, path, stamp) = node.tree.merged.lowers.source(lower)?;
        let seek = if whence == Whence::Data { SeekTo::Data } else { SeekTo::Hole };
        let found = source.seek(&path, &stamp, from, seek)?;
        let end = to.min(readable);
        match (found, whence) {
            (Some(found), _) if found < end => Ok(Some(found)),
            // Behind what may be read of the lower there are zeros.
            (_, Whence::Hole) if readable < to => Ok(Some(readable)),
            _ => Ok(None),
        }
    }
}
