//! Where the data of a file is: `lseek` with `SEEK_DATA` and `SEEK_HOLE`.
//!
//! The groups that are stored are walked in order, past the cache. Between them the lower answers, and holds to what it said as long as that
//! lies ahead: the time this takes follows what is stored, not the size of a file or its holes.

use super::VolumeFs;
use super::data::split;
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::NodeId;
use crate::overlay::lower::SeekTo;
use crate::store::record::{GROUP_SIZE, Group, PAGE_SIZE, Page};

/// What `lseek` looks for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Whence {
    /// `SEEK_DATA`
    Data,
    /// `SEEK_HOLE`
    Hole,
}

impl VolumeFs {
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
        let merged = &node.tree.merged;
        let lower = state.inode.lower.as_ref();
        let to = if whence == Whence::Data { SeekTo::Data } else { SeekTo::Hole };
        let ask = |from| -> Result<Option<u64>, FsError> {
            let Some(lower) = lower else { return Ok(None) };
            let (source, path, stamp) = merged.lowers.source(lower)?;
            Ok(source.seek(&path, &stamp, from, to)?)
        };
        let readable = lower.map_or(0, |lower| lower.readable);
        let mut search = Search { whence, at: offset, size, readable, ask, answer: None };
        let mut found = Ok(None);
        if !state.is_blank(&node) {
            let groups = split(offset).0..u64::MAX;
            merged.view.groups(&merged.store.db, node.ino, groups, |index, versioned| {
                found = search.group(index, &versioned.record);
                Ok(matches!(found, Ok(None)) && search.at < size)
            })?;
        }
        match (found?.map_or_else(|| search.unstored(size), |found| Ok(Some(found)))?, whence) {
            (Some(found), _) => Ok(found),
            (None, Whence::Data) => Err(FsError::NoData),
            // The end of the file is a hole.
            (None, Whence::Hole) => Ok(size),
        }
    }
}

/// A walk through a file, from where it begins to what it is for.
struct Search<Ask> {
    whence: Whence,
    /// What lies before is not it.
    at: u64,
    size: u64,
    /// Up to where the lower shows where nothing is stored. Zeros follow it.
    readable: u64,
    /// Asks the lower for what is looked for, from an offset on.
    ask: Ask,
    /// What it said last.
    answer: Option<Option<u64>>,
}

impl<Ask: FnMut(u64) -> Result<Option<u64>, FsError>> Search<Ask> {
    /// Goes on through a group that is stored, and what lies before it. Returns where the search ends, if it does.
    fn group(&mut self, index: u64, group: &Group) -> Result<Option<u64>, FsError> {
        let start = index * GROUP_SIZE as u64;
        match group {
            Group::Removed => self.unstored(start),
            Group::Inline(bytes) => {
                let found = self.unstored(start)?.or_else(|| self.data(start + bytes.len() as u64));
                Ok(found.or_else(|| self.hole(start + GROUP_SIZE as u64)))
            }
            Group::Pages(pages) => {
                for (page, start) in pages.iter().zip((start..).step_by(PAGE_SIZE)) {
                    let end = start + PAGE_SIZE as u64;
                    let found = match page {
                        Page::Base => None,
                        Page::Data(_) => self.unstored(start)?.or_else(|| self.data(end)),
                        Page::Hole => self.unstored(start)?.or_else(|| self.hole(end)),
                    };
                    if found.is_some() {
                        return Ok(found);
                    }
                }
                Ok(None)
            }
        }
    }

    /// Goes on to `to`; nothing is stored on the way.
    fn unstored(&mut self, to: u64) -> Result<Option<u64>, FsError> {
        let below = to.min(self.size).min(self.readable);
        if self.at < below {
            if let Some(found) = self.in_lower()?.filter(|&found| found < below) {
                return Ok(Some(found));
            }
            self.at = below;
        }
        Ok(self.hole(to))
    }

    /// Goes on to `to` through data.
    fn data(&mut self, to: u64) -> Option<u64> {
        self.pass(to, Whence::Data)
    }

    /// Goes on to `to` through a hole.
    fn hole(&mut self, to: u64) -> Option<u64> {
        self.pass(to, Whence::Hole)
    }

    fn pass(&mut self, to: u64, what: Whence) -> Option<u64> {
        let to = to.min(self.size);
        if self.at >= to {
            return None;
        }
        if what == self.whence {
            return Some(self.at);
        }
        self.at = to;
        None
    }

    /// Returns where the lower has what is looked for. An answer holds up to the place that it names.
    fn in_lower(&mut self) -> Result<Option<u64>, FsError> {
        match self.answer {
            Some(answer) if answer.is_none_or(|found| found >= self.at) => Ok(answer),
            _ => {
                let answer = (self.ask)(self.at)?;
                self.answer = Some(answer);
                Ok(answer)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::collection::vec;
    use proptest::prelude::*;

    use super::*;
    use crate::ids::Epoch;
    use crate::store::record::{PAGES_PER_GROUP, PageRef};

    const PAGE: u64 = PAGE_SIZE as u64;

    /// Searches, and returns with what was found how often the lower was asked.
    fn search(
        whence: Whence,
        offset: u64,
        (size, readable): (u64, u64),
        groups: &[(u64, Group)],
        lower: impl Fn(u64) -> Option<u64>,
    ) -> (Option<u64>, u32) {
        let mut asked = 0;
        let ask = |from| {
            asked += 1;
            Ok(lower(from))
        };
        let mut search = Search { whence, at: offset, size, readable, ask, answer: None };
        let mut found = None;
        for (index, group) in groups.iter().filter(|(index, _)| *index >= split(offset).0) {
            found = search.group(*index, group).unwrap();
            if found.is_some() {
                break;
            }
        }
        let found = found.or_else(|| search.unstored(size).unwrap());
        (found, asked)
    }

    fn data() -> Page {
        Page::Data(PageRef { epoch: Epoch(1), segment: 1, page: 1, crc: None, shared: false })
    }

    #[test]
    fn hole_of_a_huge_lower_is_crossed_in_one_step() {
        const SIZE: u64 = 1 << 40;
        // A page at either end is data.
        let lower = |whence| {
            move |from: u64| match (whence, from) {
                (Whence::Data, PAGE..) => (from < SIZE).then_some(from.max(SIZE - PAGE)),
                (Whence::Hole, 0..PAGE) => Some(PAGE),
                (Whence::Hole, from) if from >= SIZE - PAGE => Some(SIZE),
                (_, from) => Some(from),
            }
        };
        let mut pages = Box::new([Page::Base; PAGES_PER_GROUP]);
        pages[3] = data();
        let middle = SIZE / 2 / GROUP_SIZE as u64;
        let there = SIZE / 2 + 3 * PAGE;
        let stored = [(middle, Group::Pages(pages))];
        let both = |whence, offset, groups: &[(u64, Group)]| {
            search(whence, offset, (SIZE, SIZE), groups, lower(whence))
        };
        assert_eq!(both(Whence::Data, PAGE, &[]), (Some(SIZE - PAGE), 1));
        assert_eq!(both(Whence::Data, PAGE, &stored), (Some(there), 1));
        assert_eq!(both(Whence::Data, there + PAGE, &stored), (Some(SIZE - PAGE), 1));
        assert_eq!(both(Whence::Hole, there, &stored), (Some(there + PAGE), 1));
        assert_eq!(both(Whence::Hole, SIZE - PAGE, &stored), (None, 1));
        // What hides the lower's data is passed, and it is asked again behind it.
        let hidden = || Group::Pages(Box::new([Page::Hole; PAGES_PER_GROUP]));
        assert_eq!(both(Whence::Data, 0, &[(0, hidden())]), (Some(SIZE - PAGE), 1));
        assert_eq!(both(Whence::Hole, SIZE - PAGE, &[(0, hidden())]), (None, 1));
        // Its answer holds beyond what is stored on the way.
        let scattered: Vec<(u64, Group)> = (1..1000).map(|number| (number * 1000, hidden())).collect();
        assert_eq!(both(Whence::Data, PAGE, &scattered), (Some(SIZE - PAGE), 1));
    }

    const GROUPS: usize = 3;
    const PAGES: usize = GROUPS * PAGES_PER_GROUP;

    /// A file in pages: what the store has of it, where a group may be missing, and what is data in the lower.
    fn layout() -> impl Strategy<Value = (Vec<Option<Vec<Page>>>, Vec<bool>)> {
        let page = prop_oneof![3 => Just(Page::Base), 1 => Just(Page::Hole), 1 => Just(data())];
        let group = prop_oneof![
            Just(None),
            vec(page.clone(), PAGES_PER_GROUP).prop_map(Some),
            page.prop_map(|page| Some(vec![page; PAGES_PER_GROUP])),
        ];
        (
            vec(group, GROUPS),
            prop_oneof![vec(any::<bool>(), PAGES), any::<bool>().prop_map(|data| vec![data; PAGES])],
        )
    }

    proptest! {
        #[test]
        fn what_is_found_is_what_a_look_at_every_page_finds(
            (stored, lower) in layout(),
            (offset, size, readable) in (0..PAGES as u64, 1..=PAGES as u64, 0..=PAGES as u64),
            skip in 0..PAGE,
        ) {
            let readable = readable.min(size);
            let offset = (offset * PAGE + skip).min(size * PAGE - 1);
            let groups: Vec<(u64, Group)> = (0..).zip(&stored).filter_map(|(index, pages)| {
                let pages: [Page; PAGES_PER_GROUP] = pages.clone()?.try_into().unwrap();
                Some((index, Group::Pages(Box::new(pages))))
            }).collect();
            let is_data = |page: u64| {
                let (page, group) = (page as usize, page as usize / PAGES_PER_GROUP);
                match stored[group].as_ref().map_or(Page::Base, |pages| pages[page % PAGES_PER_GROUP]) {
                    Page::Data(_) => true,
                    Page::Hole => false,
                    Page::Base => (page as u64) < readable && lower[page],
                }
            };
            for whence in [Whence::Data, Whence::Hole] {
                let wanted = whence == Whence::Data;
                let first = |from: u64, size: u64, is: &dyn Fn(u64) -> bool| {
                    (from / PAGE..size).find(|&page| is(page) == wanted).map(|page| from.max(page * PAGE))
                };
                let below = |from: u64| match first(from, PAGES as u64, &|page| lower[page as usize]) {
                    None if !wanted => Some(PAGES as u64 * PAGE),
                    found => found,
                };
                let (found, _) = search(whence, offset, (size * PAGE, readable * PAGE), &groups, below);
                prop_assert_eq!(found, first(offset, size, &is_data), "{:?}", whence);
            }
        }
    }
}
