//! What a change comes to: for each group, which pages are new, which are rewritten in place, which go.

use std::ops::Range;

use super::{Fill, copy};
use crate::error::FsError;
use crate::ops::VolumeFs;
use crate::ops::group_cache::Cached;
use crate::ops::node::{NodeRef, NodeState};
use crate::store::Txn;
use crate::store::record::{GROUP_SIZE, Group, Inode, PAGE_SIZE, PAGES_PER_GROUP, Page, PageRef};

/// Pages that are handed out at once.
const RUN_MAX: usize = 256;

impl VolumeFs {
    /// Plans the change of one group: which pages are new, which are rewritten in place, which go.
    #[expect(clippy::too_many_arguments, reason = "a group, where in it, and what for")]
    pub(super) fn plan_group<'d>(
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
                            // Sent again, or behind a step that did this: it asks for nothing.
                            if let (Fill::Zeros(_), Page::Data(data)) = (fill, old)
                                && !self.is_suspect(data)
                                && content.get(from - start..to - start).is_some_and(is_zero)
                            {
                                continue;
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
}

/// New pages and changed groups of one operation.
pub(super) struct Plan<'d> {
    /// What the request brings.
    request: &'d [u8],
    /// Where in it the bytes for the group that is being planned begin.
    pub(super) piece: usize,
    pub(super) groups: Vec<Planned>,
    new: Vec<NewPage>,
    pub(super) in_place: Vec<InPlace>,
    pub(super) ahead: Vec<(u64, Cached)>,
}

/// Bytes of the request that go into a page in place, or into several that lie side by side.
pub(super) struct InPlace {
    pub(super) page: PageRef,
    pub(super) skip: usize,
    pub(super) bytes: Range<usize>,
}

pub(super) struct Planned {
    pub(super) index: u64,
    pub(super) before: Cached,
    pub(super) group: Group,
    pub(super) changed: bool,
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
    pub(super) fn of(fill: Fill<'d>) -> Plan<'d> {
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
    pub(super) fn write(&mut self, txn: &mut Txn<'_>) -> Result<(), FsError> {
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

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|&byte| byte == 0)
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
