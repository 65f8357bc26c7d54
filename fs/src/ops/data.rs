//! The bytes of a regular file: where they are read from, and how a change of them is staged.
//!
//! A change is planned against the file's groups, writes whole new pages into the head's segment, stages the new groups in the
//! transaction, and rewrites in place what may be. All data is where it belongs before the commit makes it visible.
//!
//! # Invariants
//! - Only a page that the current epoch allocated is rewritten in place, only with bytes that a program wrote, and only after a record without its checksum
//!   is in the log. Whoever dies in between leaves old bytes or new ones, never a page that fails its checksum.
//! - Bytes of a page beyond the end of the file are zero, and so are those of an inline group.
//! - A freed page was seen by nobody but this head: it was allocated after the newest retained epoch.

use std::borrow::Cow;
use std::ops::Range;

use super::VolumeFs;
use super::group_cache::{Cached, FEW};
use super::node::{Node, NodeRef, NodeState};
use crate::error::FsError;
use crate::failpoint;
use crate::ids::{BranchId, Epoch, Ino};
use crate::store::record::{GROUP_SIZE, Group, Inode, PAGE_SIZE, PAGES_PER_GROUP, Page, PageRef, Usage};
use crate::store::{Beneath, Erased, Head, Prefix, StoreError, Touch, Txn, Versioned};

/// A file of up to this many bytes lies in its record.
pub(super) const INLINE_MAX: u64 = 2048;
/// Pages that are handed out at once.
const RUN_MAX: usize = 256;

/// What a change leaves to be done after its commit.
#[derive(Default)]
pub(super) struct Staged {
    groups: Vec<(u64, Cached)>,
    forget_all: bool,
    /// Groups as they are, but for the checksums of pages that are rewritten in place.
    ahead: Vec<(u64, Cached)>,
    rewrites: Vec<InPlace>,
}

/// Bytes of the request that go into a page in place, or into several that lie side by side.
struct InPlace {
    page: PageRef,
    skip: usize,
    bytes: Range<usize>,
}

/// What a range of a file is to become.
#[derive(Clone, Copy)]
pub(super) enum Fill<'a> {
    /// These bytes.
    Bytes(&'a [u8]),
    /// Zeros that take no space where whole pages are covered.
    Zeros(u64),
}

impl Fill<'_> {
    fn len(&self) -> u64 {
        match *self {
            Fill::Bytes(bytes) => bytes.len() as u64,
            Fill::Zeros(len) => len,
        }
    }
}

impl Staged {
    /// Tells whether records have to be in the log before anything is rewritten in place.
    pub(super) fn has_ahead(&self) -> bool {
        !self.ahead.is_empty()
    }

    /// Takes the new groups into memory, once they are committed.
    pub(super) fn apply(self, state: &mut NodeState) {
        let cache = state.groups.get_mut().get_or_insert_default();
        if self.forget_all {
            cache.clear();
        }
        for (index, cached) in self.groups {
            cache.insert(index, cached);
        }
    }
}

impl VolumeFs {
    /// Returns a group, from memory or the store.
    fn group(&self, node: &NodeRef<'_>, state: &NodeState, index: u64) -> Result<Cached, FsError> {
        let mut cache = state.groups.lock();
        let cache = cache.get_or_insert_default();
        if let Some(cached) = cache.get(index) {
            return Ok(cached.clone());
        }
        let merged = &node.tree.merged;
        let found = match state.is_blank(node) {
            true => None,
            false => merged.view.group(&merged.store.db, node.ino, index)?,
        };
        let cached = match found {
            None => Cached { group: Group::base(), version: None, born: 0 },
            Some(Versioned { record: Group::Removed, branch, epoch }) => {
                Cached { group: Group::base(), version: Some((branch, epoch)), born: 0 }
            }
            Some(Versioned { record, branch, epoch }) => {
                Cached { group: record, version: Some((branch, epoch)), born: 0 }
            }
        };
        cache.insert(index, cached.clone());
        Ok(cached)
    }

    /// Reads `out.len()` bytes from `offset` on; the file is at least that long.
    pub(super) fn read_data(
        &self,
        node: &NodeRef<'_>,
        state: &NodeState,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), FsError> {
        let mut done = 0;
        while let Some(rest) = out.get_mut(done..).filter(|rest| !rest.is_empty()) {
            let at = offset + done as u64;
            let (index, skip) = split(at);
            let length = rest.len().min(GROUP_SIZE - skip);
            let Some(piece) = rest.get_mut(..length) else { break };
            let cached = self.group(node, state, index)?;
            match &cached.group {
                Group::Inline(bytes) => {
                    piece.fill(0);
                    if let Some(source) = bytes.get(skip..) {
                        let length = source.len().min(piece.len());
                        copy(piece, 0, source.get(..length).unwrap_or_default());
                    }
                }
                Group::Removed => piece.fill(0),
                Group::Pages(pages) => {
                    self.read_pages(node, state, index, pages, cached.version, skip, piece)?
                }
            }
            done += length;
        }
        Ok(())
    }

    #[expect(clippy::too_many_arguments, reason = "a group, where in it, and where to")]
    fn read_pages(
        &self,
        node: &NodeRef<'_>,
        state: &NodeState,
        index: u64,
        pages: &[Page; PAGES_PER_GROUP],
        version: Option<(BranchId, Epoch)>,
        skip: usize,
        out: &mut [u8],
    ) -> Result<(), FsError> {
        let end = skip + out.len();
        let (first, last) = (skip / PAGE_SIZE, (end - 1) / PAGE_SIZE);
        let mut at = first;
        while at <= last {
            // As far as the pages lie side by side.
            let mut stop = at + 1;
            while stop <= last && adjacent(pages, at, stop) {
                stop += 1;
            }
            let (from, to) = ((at * PAGE_SIZE).max(skip), (stop * PAGE_SIZE).min(end));
            let piece = out.get_mut(from - skip..to - skip).unwrap_or_default();
            match pages.get(at).copied().unwrap_or_default() {
                Page::Hole => piece.fill(0),
                Page::Base => {
                    let offset = index * GROUP_SIZE as u64 + from as u64;
                    self.read_lower(node, &state.inode, offset, piece)?;
                }
                Page::Data(data) => {
                    let segment = self.store.segments.get(data.segment)?;
                    let whole = from == at * PAGE_SIZE && to == stop * PAGE_SIZE;
                    let mut buffer = if whole {
                        Cow::Borrowed(&[][..])
                    } else {
                        Cow::Owned(vec![0; (stop - at) * PAGE_SIZE])
                    };
                    let target: &mut [u8] = match &mut buffer {
                        Cow::Owned(bytes) => bytes.as_mut_slice(),
                        Cow::Borrowed(_) => piece,
                    };
                    segment.read(data.page, 0, target)?;
                    let places = pages.iter().enumerate().skip(at);
                    for ((position, page), bytes) in places.zip(target.chunks_mut(PAGE_SIZE)) {
                        if let Page::Data(data) = page {
                            self.verify(node, state, (index, position), *data, version, bytes)?;
                        }
                    }
                    if let Cow::Owned(bytes) = &buffer {
                        let start = from - at * PAGE_SIZE;
                        copy(piece, 0, bytes.get(start..start + (to - from)).unwrap_or_default());
                    }
                }
            }
            at = stop;
        }
        Ok(())
    }

    /// Tells whether a page may have been lost with the host's power.
    fn is_suspect(&self, page: PageRef) -> bool {
        self.store.segments.is_suspect(page.segment, page.page)
    }

    /// Compares a page with its checksum. A page that went with the host's power is replaced by what was there before it.
    fn verify(
        &self,
        node: &NodeRef<'_>,
        state: &NodeState,
        place: (u64, usize),
        page: PageRef,
        version: Option<(BranchId, Epoch)>,
        bytes: &mut [u8],
    ) -> Result<(), FsError> {
        let suspect = || self.is_suspect(page);
        let crc = match page.crc {
            Some(crc) => Some(crc),
            None => self.sealed_crc(node, state, place, page, version)?,
        };
        let lost = match crc {
            Some(crc) if crc32c::crc32c(bytes) == crc => return Ok(()),
            Some(_) if suspect() => true,
            // On the disk before, and rewritten in place: the record that says so went with the power.
            Some(_) if self.store.segments.is_loose(page.segment, page.epoch) => return Ok(()),
            Some(_) => false,
            // Rewritten in place, and not sealed yet: if it never reached the disk it is all zeros.
            None => bytes.iter().all(|&byte| byte == 0) && suspect(),
        };
        if lost {
            return self.read_older(node, state, place, page, version, bytes);
        }
        if crc.is_none() {
            return Ok(());
        }
        let path = node.tree.merged.path(node.ino, &state.inode).unwrap_or_default();
        Err(StoreError::Corrupt {
            what: format!(
                "data of inode {} ({}): page {} of segment {:08x} does not match its checksum",
                node.ino,
                String::from_utf8_lossy(&path),
                page.page,
                page.segment
            ),
        }
        .into())
    }

    /// Returns the checksum that a page got since its epoch ended, if it did: it stands in the version of the epoch that rewrote it.
    fn sealed_crc(
        &self,
        node: &NodeRef<'_>,
        state: &NodeState,
        (index, position): (u64, usize),
        page: PageRef,
        version: Option<(BranchId, Epoch)>,
    ) -> Result<Option<u32>, FsError> {
        let merged = &node.tree.merged;
        let live = node.tree.head.as_ref().is_some_and(|head| head.gate.epoch() == page.epoch);
        let Some((branch, epoch)) = version.filter(|_| !live) else { return Ok(None) };
        let mut view = merged.view.before(branch, epoch.next());
        while let Some(found) = view.group(&self.store.db, node.ino, index)? {
            let Group::Pages(pages) = &found.record else { break };
            match pages.get(position) {
                Some(Page::Data(data)) if data.is_at(page) => {
                    if let Some(crc) = data.crc {
                        state.cache_crc(index, position, version, *data);
                        return Ok(Some(crc));
                    }
                }
                _ => break,
            }
            if found.epoch <= page.epoch {
                break;
            }
            view = merged.view.before(found.branch, found.epoch);
        }
        Ok(None)
    }

    /// Fills a page from the newest version of its group in which it was another one.
    fn read_older(
        &self,
        node: &NodeRef<'_>,
        state: &NodeState,
        (index, position): (u64, usize),
        lost: PageRef,
        version: Option<(BranchId, Epoch)>,
        bytes: &mut [u8],
    ) -> Result<(), FsError> {
        let merged = &node.tree.merged;
        let mut before = version;
        while let Some((branch, epoch)) = before {
            let older = merged.view.before(branch, epoch).group(&self.store.db, node.ino, index)?;
            let Some(older) = older else { break };
            before = Some((older.branch, older.epoch));
            match older.record {
                Group::Pages(pages) => match pages.get(position).copied().unwrap_or_default() {
                    Page::Data(data) if (data.segment, data.page) == (lost.segment, lost.page) => {}
                    Page::Data(data) => {
                        self.store.segments.get(data.segment)?.read(data.page, 0, bytes)?;
                        return self.verify(node, state, (index, position), data, before, bytes);
                    }
                    Page::Hole => {
                        bytes.fill(0);
                        return Ok(());
                    }
                    Page::Base => break,
                },
                Group::Inline(inline) => {
                    bytes.fill(0);
                    if position == 0 {
                        copy(bytes, 0, &inline);
                    }
                    return Ok(());
                }
                Group::Removed => break,
            }
        }
        let offset = index * GROUP_SIZE as u64 + (position * PAGE_SIZE) as u64;
        self.read_lower(node, &state.inode, offset, bytes)
    }

    /// Reads what the lower still has of a file; zeros beyond.
    fn read_lower(
        &self,
        node: &NodeRef<'_>,
        inode: &Inode,
        offset: u64,
        out: &mut [u8],
    ) -> Result<(), FsError> {
        let readable = inode.lower.as_ref().map_or(0, |lower| lower.readable);
        let length = usize::try_from(readable.saturating_sub(offset)).unwrap_or(usize::MAX).min(out.len());
        let (from_lower, beyond) = out.split_at_mut(length);
        beyond.fill(0);
        if let (Some(lower), false) = (&inode.lower, from_lower.is_empty()) {
            let (source, path, stamp) = node.tree.merged.lowers.source(lower)?;
            let got = source.read_at(&path, &stamp, offset, from_lower)?;
            if let Some(missing) = from_lower.get_mut(got..) {
                missing.fill(0);
            }
        }
        Ok(())
    }

    /// Stages that a range of the file becomes `fill`. The inode's stored bytes are adjusted; its size is the caller's.
    pub(super) fn stage_fill(
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
        let stored_before = inode.stored;
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
        txn.charge(Usage { bytes: signed(inode.stored) - signed(stored_before), inodes: 0 })?;
        Ok(staged)
    }

    /// Rewrites pages in place with bytes of `data`, before the commit: what it makes visible is there by then. The
    /// records lose the checksums first.
    pub(super) fn rewrite(
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
        merged.view.groups(&merged.store.db, node.ino, first, |index, _| {
            if index <= last {
                groups.push(index);
            }
            Ok(index < last)
        })?;
        Ok(groups)
    }

    /// Returns the first group from `first` on that the store has.
    pub(super) fn next_group(&self, node: &NodeRef<'_>, first: u64) -> Result<Option<u64>, FsError> {
        let merged = &node.tree.merged;
        let mut found = None;
        merged.view.groups(&merged.store.db, node.ino, first, |index, versioned| {
            if versioned.record != Group::Removed {
                found = Some(index);
            }
            Ok(found.is_none())
        })?;
        Ok(found)
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
        if let Some(lower) = &mut inode.lower {
            lower.readable = 0;
        }
        let group = Group::Inline(bytes.into());
        inode.stored = (inode.stored + group.stored()).saturating_sub(before.group.stored());
        let cached = self.stage_group(txn, node.ino, 0, before, group, true)?;
        staged.groups.push((0, cached));
        Ok(true)
    }

    /// Plans the change of one group: which pages are new, which are rewritten in place, which go.
    #[expect(clippy::too_many_arguments, reason = "a group, where in it, and what for")]
    fn plan_group<'d>(
        &self,
        txn: &mut Txn<'_>,
        node: &NodeRef<'_>,
        state: &NodeState,
        inode: &mut Inode,
        index: u64,
        skip: usize,
        fill: Fill<'d>,
        plan: &mut Plan<'d>,
    ) -> Result<(), FsError> {
        let piece = plan.piece;
        let before = self.group(node, state, index)?;
        let mut ahead: Option<Group> = None;
        let mut changed = false;
        let mut pages = match &before.group {
            Group::Pages(pages) => pages.clone(),
            Group::Removed | Group::Inline(_) => Box::new([Page::Base; PAGES_PER_GROUP]),
        };
        let planned = plan.groups.len();
        let end = skip + usize::try_from(fill.len()).unwrap_or(0);
        // What was inline becomes the first page, if this change does not cover it anyway.
        if let Group::Inline(bytes) = &before.group {
            changed = true;
            if let Some(lower) = &mut inode.lower {
                lower.readable = 0;
            }
            if (skip > 0 || end < PAGE_SIZE) && !bytes.is_empty() {
                let mut content = vec![0; PAGE_SIZE];
                copy(&mut content, 0, bytes);
                if skip < PAGE_SIZE {
                    overlay(&mut content, skip, fill, 0, end.min(PAGE_SIZE) - skip);
                }
                plan.add(planned, 0, Content::Own(content));
                // Marks the page as taken: the loop below leaves it alone.
                if let Some(first) = pages.first_mut() {
                    *first = Page::Hole;
                }
            }
        }
        let inline_done = matches!(plan.new.last(), Some(new) if new.group == planned);
        for position in skip / PAGE_SIZE..=(end - 1) / PAGE_SIZE {
            if inline_done && position == 0 {
                continue;
            }
            let start = position * PAGE_SIZE;
            let (from, to) = (skip.max(start), end.min(start + PAGE_SIZE));
            let whole = to - from == PAGE_SIZE;
            let page = pages.get(position).copied().unwrap_or_default();
            let offset = index * GROUP_SIZE as u64 + start as u64;
            let below =
                inode.lower.as_ref().is_some_and(|lower| lower.readable > offset + (from - start) as u64);
            match (fill, page) {
                (Fill::Zeros(_), Page::Hole) => {}
                (Fill::Zeros(_), Page::Base) if !below => {}
                (Fill::Zeros(_), old) if whole => {
                    self.release(txn, node.ino, index, old);
                    changed = true;
                    if let Some(page) = pages.get_mut(position) {
                        *page = if below { Page::Hole } else { Page::Base };
                    }
                }
                (Fill::Bytes(_), Page::Data(data))
                    if data.epoch == txn.epoch() && !data.shared && !self.is_suspect(data) =>
                {
                    let bytes = piece + from - skip..piece + to - skip;
                    plan.rewrite(InPlace { page: data, skip: from - start, bytes });
                    if data.crc.is_some() {
                        // If nothing else of the group changes, this is all there is to be stored of it.
                        ahead.get_or_insert_with(|| before.group.clone()).forget_crc(position);
                        if let Some(Page::Data(data)) = pages.get_mut(position) {
                            data.crc = None;
                        }
                    }
                }
                (_, old) => {
                    let content = match fill {
                        Fill::Bytes(_) if whole => Content::Request(piece + from - skip..piece + to - skip),
                        _ => {
                            let mut content = vec![0; PAGE_SIZE];
                            if !whole {
                                self.read_old_page(node, state, inode, index, position, &mut content)?;
                            }
                            overlay(&mut content, from - start, fill, from - skip, to - from);
                            Content::Own(content)
                        }
                    };
                    self.release(txn, node.ino, index, old);
                    changed = true;
                    plan.add(planned, position, content);
                }
            }
        }
        plan.ahead.extend(ahead.map(|group| (index, Cached { group, ..before.clone() })));
        plan.groups.push(Planned { index, before, group: Group::Pages(pages), changed });
        Ok(())
    }

    /// Reads a page as it was before the change, zeros beyond the old end of the file.
    fn read_old_page(
        &self,
        node: &NodeRef<'_>,
        state: &NodeState,
        inode: &Inode,
        index: u64,
        position: usize,
        content: &mut [u8],
    ) -> Result<(), FsError> {
        let offset = index * GROUP_SIZE as u64 + (position * PAGE_SIZE) as u64;
        let length = usize::try_from(state.inode.size.min(inode.size).saturating_sub(offset))
            .unwrap_or(usize::MAX)
            .min(PAGE_SIZE);
        match content.get_mut(..length) {
            Some(old) => {
                self.count_copied_up(state, (index, position), offset, length);
                self.read_data(node, state, offset, old)
            }
            None => Ok(()),
        }
    }

    /// Counts what is about to be copied out of the lower, because a page of it is to be stored from now on.
    fn count_copied_up(
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

    /// Lets go of a page.
    pub(super) fn release(&self, txn: &mut Txn<'_>, ino: Ino, index: u64, page: Page) {
        if let Page::Data(data) = page {
            txn.release(ino, index, data);
        }
    }

    /// Returns a group to be changed by sharing.
    pub(super) fn shared_group(
        &self,
        node: &NodeRef<'_>,
        state: &NodeState,
        index: u64,
    ) -> Result<Shared, FsError> {
        let before = self.group(node, state, index)?;
        Ok(Shared { group: before.group.clone(), before, changed: false })
    }

    /// Stages a group that was changed by sharing.
    pub(super) fn stage_shared(
        &self,
        txn: &mut Txn<'_>,
        ino: Ino,
        index: u64,
        shared: Shared,
    ) -> Result<Cached, FsError> {
        self.stage_group(txn, ino, index, shared.before, shared.group, shared.changed)
    }

    /// Stages the new version of a group.
    fn stage_group(
        &self,
        txn: &mut Txn<'_>,
        ino: Ino,
        index: u64,
        before: Cached,
        group: Group,
        changed: bool,
    ) -> Result<Cached, FsError> {
        if !changed {
            // But for checksums that are gone from the log already.
            return Ok(Cached { group, ..before });
        }
        let head = txn.head();
        let prefix = Prefix::extent(head.tree, ino, index);
        let current = (head.branch, txn.epoch());
        let syncs = self.store.db.syncs();
        let fresh = before.version.is_none() || group == Group::base();
        let born = if fresh { syncs } else { before.born };
        if before.version == Some(current) && before.born != syncs {
            self.keep_fallback(txn, ino, index, &before, &group)?;
        }
        if group == Group::base() {
            let beneath = match before.version {
                None => Beneath::Nothing,
                Some(version) if version != current => Beneath::Something,
                Some(_) if head.is_new(ino) => Beneath::Nothing,
                Some(_) => Beneath::Unknown,
            };
            let version = match txn.erase(&prefix, &Group::Removed, beneath)? {
                Erased::Entirely => None,
                Erased::Marked => Some(current),
            };
            return Ok(Cached { group, version, born });
        }
        let touch = if before.version == Some(current) { Touch::Again } else { Touch::First };
        txn.put(&prefix, &group, touch);
        Ok(Cached { group, version: Some(current), born })
    }

    /// Looks whether a reader that finds a new page lost would still come upon what was there before it. The record of that
    /// is about to be replaced, so that only versions of older epochs are left. If it would not, the new page goes to the disk first.
    fn keep_fallback(
        &self,
        txn: &mut Txn<'_>,
        ino: Ino,
        index: u64,
        before: &Cached,
        group: &Group,
    ) -> Result<(), FsError> {
        let Group::Pages(pages) = group else { return Ok(()) };
        let (head, place) = (txn.head(), |data: &PageRef| (data.segment, data.page));
        let mut older: Option<Option<Group>> = None;
        for (position, page) in pages.iter().enumerate() {
            let Page::Data(new) = page else { continue };
            let found = match &before.group {
                Group::Pages(pages) => pages.get(position).copied().unwrap_or_default(),
                Group::Inline(bytes) if position == 0 && !bytes.is_empty() => {
                    txn.data_first();
                    return Ok(());
                }
                Group::Inline(_) | Group::Removed => Page::Base,
            };
            match found {
                Page::Data(old) if place(&old) == place(new) => {}
                // A snapshot has it too.
                Page::Data(old) if !old.shared && old.epoch <= head.retained() => {}
                Page::Data(_) => {
                    txn.data_first();
                    return Ok(());
                }
                // Zeros, or the lower: an older version must not shine through.
                Page::Hole | Page::Base if head.is_new(ino) => {}
                Page::Hole | Page::Base => {
                    let older = match &mut older {
                        Some(older) => older,
                        none => none.insert(self.group_before(head, ino, index, txn.epoch())?),
                    };
                    let same = match older {
                        None | Some(Group::Removed) => found == Page::Base,
                        Some(Group::Pages(pages)) => pages.get(position) == Some(&found),
                        Some(Group::Inline(bytes)) => position > 0 || bytes.is_empty(),
                    };
                    if !same {
                        txn.data_first();
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the group as a head saw it before an epoch began.
    fn group_before(
        &self,
        head: &Head,
        ino: Ino,
        index: u64,
        epoch: Epoch,
    ) -> Result<Option<Group>, FsError> {
        let view = self.store.head_view(head)?.before(head.branch, epoch);
        Ok(view.group(&self.store.db, ino, index)?.map(|found| found.record))
    }

    /// Stages that the file ends at `size`.
    pub(super) fn stage_truncate(
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
            let first_gone = size.div_ceil(GROUP_SIZE as u64);
            let mut gone = Vec::new();
            merged.view.groups(&merged.store.db, node.ino, first_gone, |index, versioned| {
                gone.push((index, versioned));
                Ok(true)
            })?;
            for (index, Versioned { branch, epoch, record }) in gone {
                if record == Group::Removed {
                    continue;
                }
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

    /// Forgets what is cached of a file's groups.
    pub(super) fn forget_groups(&self, state: &mut NodeState) {
        *state.groups.get_mut() = None;
    }

    /// Tells whether any byte of a group is stored, for `SEEK_DATA`: per page.
    pub(super) fn pages_of(
        &self,
        node: &NodeRef<'_>,
        state: &NodeState,
        index: u64,
    ) -> Result<Group, FsError> {
        Ok(self.group(node, state, index)?.group)
    }
}

/// A group that lends pages to another file, or borrows some.
pub(super) struct Shared {
    before: Cached,
    group: Group,
    changed: bool,
}

impl Shared {
    /// Marks a page as shared and returns it; `None` if it is not in a segment.
    pub(super) fn lend(&mut self, position: usize) -> Option<PageRef> {
        let Group::Pages(pages) = &mut self.group else { return None };
        match pages.get_mut(position) {
            Some(Page::Data(data)) => {
                self.changed |= !data.shared;
                data.shared = true;
                Some(*data)
            }
            _ => None,
        }
    }

    /// Tells whether the group consists of pages.
    pub(super) fn has_pages(&self) -> bool {
        matches!(self.group, Group::Pages(_))
    }

    /// Takes a page of another group in. Returns the one it replaces.
    pub(super) fn borrow(&mut self, position: usize, page: PageRef) -> Page {
        let Group::Pages(pages) = &mut self.group else { return Page::Base };
        self.changed = true;
        pages.get_mut(position).map_or(Page::Base, |old| std::mem::replace(old, Page::Data(page)))
    }

    /// Returns by how many stored bytes the group grows.
    pub(super) fn growth(&self) -> i64 {
        signed(self.group.stored()) - signed(self.before.group.stored())
    }
}

impl NodeState {
    /// Tells whether the page of a group that was just looked at is not stored, so that a lower shows through.
    fn is_below(&self, index: u64, position: usize) -> bool {
        let mut cache = self.groups.lock();
        match cache.as_mut().and_then(|cache| cache.get_mut(index)).map(|cached| &cached.group) {
            Some(Group::Pages(pages)) => pages.get(position) == Some(&Page::Base),
            Some(Group::Inline(_)) => false,
            Some(Group::Removed) | None => true,
        }
    }

    /// Tells whether a file surely has no group stored: it was made in this epoch and holds nothing.
    fn is_blank(&self, node: &Node) -> bool {
        let is_new = node.tree.head.as_ref().is_some_and(|head| head.is_new(node.ino));
        self.inode.stored == 0 && is_new
    }

    /// Returns all groups of a file that was made in this epoch, if they are in memory: what they store is what the inode
    /// says. Without a lower there are no holes, so that no group stores nothing.
    pub(super) fn all_groups(&self) -> Option<Vec<(u64, Group)>> {
        let cache = self.groups.lock();
        let cached = cache.iter().flat_map(|cache| cache.iter());
        let groups: Vec<(u64, Group)> = cached
            .filter(|(_, cached)| cached.group.stored() > 0)
            .map(|(index, cached)| (index, cached.group.clone()))
            .collect();
        let stored: u64 = groups.iter().map(|(_, group)| group.stored()).sum();
        (stored == self.inode.stored).then_some(groups)
    }

    /// Adds a checksum that was found to a group in memory.
    fn cache_crc(&self, index: u64, position: usize, version: Option<(BranchId, Epoch)>, sealed: PageRef) {
        if let Some(cached) = self.groups.lock().as_mut().and_then(|cache| cache.get_mut(index))
            && cached.version == version
            && let Group::Pages(pages) = &mut cached.group
            && let Some(Page::Data(data)) = pages.get_mut(position)
            && data.is_at(sealed)
        {
            data.crc = sealed.crc;
        }
    }

    /// Takes a group into memory that was committed.
    pub(super) fn cache_group(&mut self, index: u64, group: Cached) {
        self.groups.get_mut().get_or_insert_default().insert(index, group);
    }
}

/// New pages and changed groups of one operation.
struct Plan<'d> {
    /// What the request brings.
    request: &'d [u8],
    /// Where in it the bytes for the group that is being planned begin.
    piece: usize,
    groups: Vec<Planned>,
    new: Vec<NewPage>,
    in_place: Vec<InPlace>,
    ahead: Vec<(u64, Cached)>,
}

struct Planned {
    index: u64,
    before: Cached,
    group: Group,
    changed: bool,
}

struct NewPage {
    group: usize,
    position: usize,
    content: Content,
}

/// The bytes of a new page.
enum Content {
    /// These of the request.
    Request(Range<usize>),
    /// A page that was put together.
    Own(Vec<u8>),
}

impl<'d> Plan<'d> {
    fn of(fill: Fill<'d>) -> Plan<'d> {
        let request = match fill {
            Fill::Bytes(bytes) => bytes,
            Fill::Zeros(_) => &[],
        };
        Plan {
            request,
            piece: 0,
            groups: Vec::new(),
            new: Vec::new(),
            in_place: Vec::new(),
            ahead: Vec::new(),
        }
    }

    fn add(&mut self, group: usize, position: usize, content: Content) {
        self.new.push(NewPage { group, position, content });
    }

    /// Adds bytes to be rewritten in place, in one go with those before them where they touch.
    fn rewrite(&mut self, next: InPlace) {
        let place = |write: &InPlace| u64::from(write.page.page) * PAGE_SIZE as u64 + write.skip as u64;
        match self.in_place.last_mut() {
            Some(last)
                if last.page.segment == next.page.segment
                    && last.bytes.end == next.bytes.start
                    && place(last) + last.bytes.len() as u64 == place(&next) =>
            {
                last.bytes.end = next.bytes.end;
            }
            _ => self.in_place.push(next),
        }
    }

    /// Writes the new pages, in runs, and points the groups at them.
    fn write(&mut self, txn: &mut Txn<'_>) -> Result<(), FsError> {
        let epoch = txn.epoch();
        for run in std::mem::take(&mut self.new).chunks(RUN_MAX) {
            let count = u32::try_from(run.len()).unwrap_or(u32::MAX);
            let allocated = txn.allocate(count)?;
            let start = allocated.run;
            allocated.write(slices(self.request, run))?;
            for (page, number) in run.iter().zip(start.page..) {
                let crc = Some(crc32c::crc32c(page.content.bytes(self.request)));
                let data =
                    Page::Data(PageRef { epoch, segment: start.segment, page: number, crc, shared: false });
                if let Some(Planned { group: Group::Pages(pages), changed, .. }) =
                    self.groups.get_mut(page.group)
                    && let Some(target) = pages.get_mut(page.position)
                {
                    *target = data;
                    *changed = true;
                }
            }
        }
        Ok(())
    }
}

impl Content {
    fn bytes<'b>(&'b self, request: &'b [u8]) -> &'b [u8] {
        match self {
            Content::Request(range) => request.get(range.clone()).unwrap_or_default(),
            Content::Own(bytes) => bytes,
        }
    }
}

/// Returns the bytes of new pages, in as few pieces as they lie in.
fn slices<'b>(request: &'b [u8], pages: &'b [NewPage]) -> Vec<&'b [u8]> {
    let together = |a: &NewPage, b: &NewPage| match (&a.content, &b.content) {
        (Content::Request(a), Content::Request(b)) => a.end == b.start,
        _ => false,
    };
    let piece = |pages: &'b [NewPage]| match pages {
        [
            NewPage { content: Content::Request(first), .. },
            ..,
            NewPage { content: Content::Request(last), .. },
        ] => request.get(first.start..last.end).unwrap_or_default(),
        [page, ..] => page.content.bytes(request),
        [] => &[],
    };
    pages.chunk_by(together).map(piece).collect()
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

/// Splits an offset into a group and the offset in it.
pub(super) fn split(offset: u64) -> (u64, usize) {
    let size = GROUP_SIZE as u64;
    (offset / size, usize::try_from(offset % size).unwrap_or(0))
}

fn signed(bytes: u64) -> i64 {
    i64::try_from(bytes).unwrap_or(i64::MAX)
}

/// Copies `source` into `target` at `at`, as far as it fits.
fn copy(target: &mut [u8], at: usize, source: &[u8]) {
    if let Some(target) = target.get_mut(at..).map(|rest| {
        let length = rest.len().min(source.len());
        &mut rest[..length]
    }) {
        target.copy_from_slice(&source[..target.len()]);
    }
}

/// Puts `length` bytes of `fill`, from `skip` on, into `target` at `at`.
fn overlay(target: &mut [u8], at: usize, fill: Fill<'_>, skip: usize, length: usize) {
    match fill {
        Fill::Bytes(bytes) => copy(target, at, bytes.get(skip..skip + length).unwrap_or_default()),
        Fill::Zeros(_) => {
            if let Some(target) = target.get_mut(at..at + length) {
                target.fill(0);
            }
        }
    }
}

fn adjacent(pages: &[Page; PAGES_PER_GROUP], first: usize, next: usize) -> bool {
    match (pages.get(first), pages.get(next)) {
        (Some(Page::Hole), Some(Page::Hole)) | (Some(Page::Base), Some(Page::Base)) => true,
        (Some(Page::Data(a)), Some(Page::Data(b))) => {
            a.segment == b.segment && a.page as usize + (next - first) == b.page as usize
        }
        _ => false,
    }
}
