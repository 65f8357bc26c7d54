//! What of a range of a file is not allocated.
//!
//! Counted in whole pages, as they are stored: a page is allocated if the volume has it stored, or if there is data of a lower in it that shows.
//! A file that is small enough to lie in its record counts its bytes.

use super::VolumeFs;
use super::data::{INLINE_MAX, split};
use super::node::{NodeRef, NodeState};
use crate::error::FsError;
use crate::overlay::lower::SeekTo;
use crate::store::record::{GROUP_SIZE, Group, PAGE_SIZE, Page};

const PAGE: u64 = PAGE_SIZE as u64;

impl VolumeFs {
    /// Returns how many bytes there are to be stored for a range of a file to be allocated. `end` is behind `offset`.
    pub(super) fn unallocated(
        &self,
        node: &NodeRef<'_>,
        state: &NodeState,
        offset: u64,
        end: u64,
    ) -> Result<u64, FsError> {
        let (merged, lower) = (&node.tree.merged, state.inode.lower.as_ref());
        let ask = |from, to| -> Result<Option<u64>, FsError> {
            let Some(lower) = lower else { return Ok(None) };
            let (source, path, stamp) = merged.lowers.source(lower)?;
            Ok(source.seek(&path, &stamp, from, to)?)
        };
        let readable = lower.map_or(0, |lower| lower.readable.min(state.inode.size));
        let mut count = Count::of(offset, end, readable, ask);
        if !state.is_blank(node) {
            let mut walked = Ok(());
            merged.view.groups(
                &merged.store.db,
                node.ino,
                split(offset).0..split(end).0 + 1,
                |index, versioned| {
                    walked = count.group(index, &versioned.record);
                    Ok(walked.is_ok() && count.at < count.end)
                },
            )?;
            walked?;
        }
        let size = state.inode.size.max(end);
        count.finish().map(|counted| match counted {
            Counted { has_pages: false, inline, .. } if size <= INLINE_MAX => {
                size - inline.max(readable).min(size)
            }
            Counted { missing, inline, .. } => missing.saturating_sub(if offset < PAGE { inline } else { 0 }),
        })
    }
}

/// A walk through a range.
struct Count<Ask> {
    /// What lies before is counted.
    at: u64,
    end: u64,
    /// Up to where the lower shows where nothing is stored.
    readable: u64,
    /// Asks the lower where data or a hole begins, from an offset on.
    ask: Ask,
    /// Where the lower's next data begins, as it said last.
    next: Option<Option<u64>>,
    counted: Counted,
}

#[derive(Default)]
struct Counted {
    /// Bytes of the pages that are not allocated, and of the first one where it is in the record.
    missing: u64,
    /// Bytes that are in the record.
    inline: u64,
    has_pages: bool,
}

impl<Ask: FnMut(u64, SeekTo) -> Result<Option<u64>, FsError>> Count<Ask> {
    fn of(offset: u64, end: u64, readable: u64, ask: Ask) -> Count<Ask> {
        let (at, end) = (offset / PAGE * PAGE, end.div_ceil(PAGE) * PAGE);
        Count { at, end, readable, ask, next: None, counted: Counted::default() }
    }

    /// Goes on through a group that is stored, and what lies before it.
    fn group(&mut self, index: u64, group: &Group) -> Result<(), FsError> {
        let start = index * GROUP_SIZE as u64;
        match group {
            Group::Removed => {}
            Group::Inline(bytes) => {
                self.unstored(start)?;
                self.counted.inline = bytes.len() as u64;
                self.hole(start + GROUP_SIZE as u64);
            }
            Group::Pages(pages) => {
                for (page, start) in pages.iter().zip((start..).step_by(PAGE_SIZE)) {
                    match page {
                        Page::Base => {}
                        Page::Data(_) => {
                            self.counted.has_pages = true;
                            self.unstored(start)?;
                            self.data(start + PAGE);
                        }
                        Page::Hole => {
                            self.unstored(start)?;
                            self.hole(start + PAGE);
                        }
                    }
                }
            }
        }
        Ok(())
    }

    /// Goes on to `to`; nothing is stored on the way.
    fn unstored(&mut self, to: u64) -> Result<(), FsError> {
        let below = to.min(self.end).min(self.readable);
        while self.at < below {
            let Some(data) = self.next_data()?.filter(|&data| data < below) else { break };
            self.hole(data / PAGE * PAGE);
            let hole = (self.ask)(data, SeekTo::Hole)?.unwrap_or(below);
            // What lies in a page with data is allocated with it.
            self.data(hole.clamp(data + 1, below).div_ceil(PAGE) * PAGE);
        }
        self.hole(to);
        Ok(())
    }

    /// Returns where the lower's next data begins. An answer holds up to the place that it names.
    fn next_data(&mut self) -> Result<Option<u64>, FsError> {
        match self.next {
            Some(next) if next.is_none_or(|data| data >= self.at) => Ok(next),
            _ => {
                let next = (self.ask)(self.at, SeekTo::Data)?;
                self.next = Some(next);
                Ok(next)
            }
        }
    }

    fn hole(&mut self, to: u64) {
        let to = to.min(self.end);
        self.counted.missing += to.saturating_sub(self.at);
        self.at = self.at.max(to);
    }

    fn data(&mut self, to: u64) {
        self.at = self.at.max(to.min(self.end));
    }

    fn finish(mut self) -> Result<Counted, FsError> {
        self.unstored(self.end)?;
        Ok(self.counted)
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::ids::Epoch;
    use crate::store::record::{PAGES_PER_GROUP, PageRef};

    const PAGES: usize = 2 * PAGES_PER_GROUP;

    proptest! {
        #[test]
        fn what_is_counted_is_what_a_look_at_every_page_counts(
            stored in vec(proptest::option::of(vec(0..3usize, PAGES_PER_GROUP)), 2),
            lower in vec(any::<bool>(), PAGES),
            (offset, len, readable) in (0..PAGES as u64 * PAGE, 1..PAGES as u64 * PAGE, 0..=PAGES as u64),
        ) {
            let data = PageRef { epoch: Epoch(1), segment: 1, page: 1, crc: None, shared: false };
            let kinds = [Page::Base, Page::Hole, Page::Data(data)];
            let end = offset + len;
            let ask = |from: u64, to: SeekTo| {
                let wanted = matches!(to, SeekTo::Data);
                let found = (from / PAGE..PAGES as u64).find(|&page| lower[page as usize] == wanted);
                Ok(found.map(|page| from.max(page * PAGE)))
            };
            let mut count = Count::of(offset, end, readable * PAGE, ask);
            for (index, group) in (0..).zip(&stored).skip(split(offset).0 as usize) {
                let Some(pages) = group else { continue };
                let pages: Vec<Page> = pages.iter().map(|&kind| kinds[kind]).collect();
                count.group(index, &Group::Pages(Box::new(pages.try_into().unwrap()))).unwrap();
            }
            let is_missing = |page: &u64| {
                let at = *page as usize;
                let group = stored.get(at / PAGES_PER_GROUP).and_then(Option::as_ref);
                match group.map_or(0, |pages| pages[at % PAGES_PER_GROUP]) {
                    0 => *page >= readable || !lower[at],
                    kind => kind == 1,
                }
            };
            let missing = (offset / PAGE..end.div_ceil(PAGE)).filter(is_missing).count() as u64;
            prop_assert_eq!(count.finish().unwrap().missing, missing * PAGE);
        }
    }
}
