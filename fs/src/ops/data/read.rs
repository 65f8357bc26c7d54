//! Reading: from which page, which older version or which lower the bytes come, and whether they are what was written.

use std::borrow::Cow;

use super::{copy, split};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch};
use crate::ops::VolumeFs;
use crate::ops::node::{NodeRef, NodeState};
use crate::store::StoreError;
use crate::store::record::{GROUP_SIZE, Group, Inode, PAGE_SIZE, PAGES_PER_GROUP, Page, PageRef};

impl VolumeFs {
    /// Reads `out.len()` bytes from `offset` on; the file is at least that long.
    pub(in crate::ops) fn read_data(
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
            let cached = self.group_to_read(node, state, index)?;
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
    pub(in crate::ops) fn is_suspect(&self, page: PageRef) -> bool {
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
    pub(super) fn read_lower(
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
