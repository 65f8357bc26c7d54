//! Copying between files of one volume: whole pages that lie in segments are shared, holes stay holes, nothing else is copied than what
//! must be. Pages that were rewritten in place and not sealed since are copied.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::sync::Arc;

use super::attr::{MAX_FILE_SIZE, kill_set_ids, put_inode};
use super::data::{Lent, Shared, split};
use super::io::KillSuid;
use super::locks::Locked;
use super::node::NodeRef;
use super::{Caller, VolumeFs};
use crate::attr::{FileKind, Timestamp};
use crate::error::FsError;
use crate::ids::NodeId;
use crate::request::Answer;
use crate::store::Txn;
use crate::store::record::{PAGE_SIZE, Usage};

/// Bytes that are copied in one transaction where bytes have to be.
const STEP: u64 = 1 << 20;
/// Pages that are shared in one transaction: 64 MiB.
const SHARE: u64 = 16_384;
const PAGE: u64 = PAGE_SIZE as u64;

impl VolumeFs {
    /// `copy_file_range(2)`. Returns how much was copied, less than `len` only at the end of the source.
    ///
    /// Each step stores how much was copied with it: of a worker that dies in between, the successor answers that much.
    pub fn copy_file_range(
        &self,
        caller: &Caller,
        from: NodeId,
        from_offset: u64,
        to: NodeId,
        to_offset: u64,
        len: u64,
    ) -> Result<u64, FsError> {
        let (source, target) = (self.node(from)?, self.node(to)?);
        self.check_copy(&source, &target, from_offset, to_offset, len)?;
        let kill = if caller.uid == 0 { KillSuid::No } else { KillSuid::Yes };
        let left = source.state.read().inode.size.saturating_sub(from_offset);
        let len = len.min(left);
        let mut done = 0;
        let mut buffer = Vec::new();
        while done < len {
            let (at, into) = (from_offset + done, to_offset + done);
            if at % PAGE == 0 && into % PAGE == 0 && len - done >= PAGE {
                let pages = ((len - done) / PAGE).min(SHARE);
                let shared = self
                    .with_room(|| self.share(&source, at / PAGE, &target, into / PAGE, pages, kill, done))?;
                if shared > 0 {
                    done += shared * PAGE;
                    continue;
                }
            }
            // Up to where pages may be shared again.
            let to_page = PAGE - at % PAGE;
            let step = if at % PAGE == into % PAGE && to_page < PAGE { to_page } else { STEP };
            buffer.clear();
            let step = usize::try_from((len - done).min(step)).unwrap_or(PAGE_SIZE);
            self.read(from, at, step, &mut buffer)?;
            if buffer.is_empty() {
                break;
            }
            let copied = done + buffer.len() as u64;
            self.write_answering(to, into, &buffer, kill, Answer::Count(copied))?;
            done = copied;
        }
        Ok(done)
    }

    fn check_copy(
        &self,
        source: &NodeRef<'_>,
        target: &NodeRef<'_>,
        from_offset: u64,
        to_offset: u64,
        len: u64,
    ) -> Result<(), FsError> {
        if !Arc::ptr_eq(&source.tree, &target.tree) {
            return Err(FsError::CrossVolume);
        }
        for node in [source, target] {
            match node.state.read().inode.kind {
                FileKind::Regular => {}
                FileKind::Directory => return Err(FsError::IsDirectory { ino: node.ino }),
                _ => return Err(FsError::Invalid { what: "not a regular file" }),
            }
        }
        let overlaps =
            from_offset < to_offset.saturating_add(len) && to_offset < from_offset.saturating_add(len);
        if source.ino == target.ino && overlaps {
            return Err(FsError::Invalid { what: "source and target overlap" });
        }
        if to_offset.checked_add(len).is_none_or(|end| end > MAX_FILE_SIZE) {
            return Err(FsError::FileTooBig);
        }
        Ok(())
    }

    /// Makes pages of the target the same as pages of the source, as far as those lie in segments or nowhere. Returns how many.
    /// `copied` is how many bytes the request has copied before.
    #[expect(clippy::too_many_arguments, reason = "from where, to where, and what for")]
    fn share(
        &self,
        source: &NodeRef<'_>,
        from: u64,
        target: &NodeRef<'_>,
        to: u64,
        pages: u64,
        kill: KillSuid,
        copied: u64,
    ) -> Result<u64, FsError> {
        let head = self.writable(target)?;
        let mut locked = Locked::all(&[source, target]);
        if to * PAGE > locked.get(target.ino).inode.size {
            self.wipe_tail(target, head, locked.get(target.ino))?;
        }
        let mut txn = Txn::begin(&self.store, head)?;
        let mut changes: BTreeMap<(crate::ids::Ino, u64), Shared> = BTreeMap::new();
        let mut done = 0;
        // Up to where a lower shows through.
        let [source_end, target_end] = [source, target]
            .map(|node| locked.get(node.ino).inode.lower.as_ref().map_or(0, |lower| lower.readable));
        while done < pages {
            let (from_group, skip) = split((from + done) * PAGE);
            let (to_group, into) = split((to + done) * PAGE);
            let (from_key, to_key) = ((source.ino, from_group), (target.ino, to_group));
            for (key, node) in [(from_key, source), (to_key, target)] {
                if let Entry::Vacant(vacant) = changes.entry(key) {
                    vacant.insert(self.shared_group(node, locked.get(node.ino), key.1)?);
                }
            }
            // Inline content has no pages to share, nor to put some among.
            let below = (from + done) * PAGE < source_end;
            let lender = changes.get_mut(&from_key);
            let suspect = |page| self.is_suspect(page);
            let Some(lent) = lender.and_then(|group| group.lend(skip / PAGE_SIZE, below, suspect)) else {
                break;
            };
            let Some(borrower) = changes.get_mut(&to_key).filter(|group| group.has_pages()) else { break };
            let below = (to + done) * PAGE < target_end;
            let old = borrower.borrow(into / PAGE_SIZE, lent, below);
            self.release(&mut txn, target.ino, to_group, old);
            if matches!(lent, Lent::Page(_)) {
                txn.put_tie((head.tree, source.ino, from_group), (head.tree, target.ino, to_group));
            }
            done += 1;
        }
        if done == 0 {
            return Ok(0);
        }
        let mut inode = locked.get(target.ino).inode.clone();
        let before = inode.stored;
        let mut staged = Vec::new();
        for ((ino, index), planned) in changes {
            if ino == target.ino {
                inode.stored = inode.stored.saturating_add_signed(planned.growth());
            }
            staged.push((ino, index, self.stage_shared(&mut txn, ino, index, planned)?));
        }
        let signed = |bytes: u64| i64::try_from(bytes).unwrap_or(i64::MAX);
        txn.charge(Usage { bytes: signed(inode.stored) - signed(before), inodes: 0 })?;
        inode.size = inode.size.max((to + done) * PAGE);
        let now = Timestamp::now();
        (inode.mtime, inode.ctime) = (now, now);
        if kill == KillSuid::Yes {
            kill_set_ids(&mut inode);
        }
        put_inode(&mut txn, target, locked.get(target.ino), &inode)?;
        let version = (head.branch, txn.epoch());
        txn.commit(Answer::Count(copied + done * PAGE))?;
        for (ino, index, group) in staged {
            locked.get(ino).cache_group(index, group);
        }
        locked.get(target.ino).accept(inode, version);
        Ok(done)
    }
}
