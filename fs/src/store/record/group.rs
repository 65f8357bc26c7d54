//! Where sixteen pages of a file lie.
//!
//! A file's data is mapped on a fixed grid of 64 KiB: one record holds the whole mapping of its group, so
//! that a view finds the bytes of any offset with one look-up however many epochs wrote them, and so
//! that changed groups are the chunks of a commit.
//!
//! # Invariants
//! - A page that is neither hole nor data is *base*: the lower's bytes as far as the inode may still
//!   read them, zeros beyond.
//! - A page's `epoch` is the epoch that allocated it. Only that epoch may rewrite it in place.
//! - `crc` is that of the whole page; it is absent once the page was rewritten in place, until
//!   the epoch is sealed.

use super::Record;
use super::codec::{Reader, Writer};
use crate::ids::Epoch;

/// Bytes of a page: the unit of allocation and of checksums.
pub const PAGE_SIZE: usize = 4096;
/// Pages of a group.
pub const PAGES_PER_GROUP: usize = 16;
/// Bytes of a group: the unit of the extent map, and of chunks.
pub const GROUP_SIZE: usize = PAGE_SIZE * PAGES_PER_GROUP;

/// The newest version.
pub type Group = GroupV1;

/// A group's content.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum GroupV1 {
    /// `[1] [0]`: nothing here any more; the file was removed or cut shorter.
    Removed,
    /// `[1] [1] bytes…`: a file that fits into one page, in the record itself. Zeros follow it.
    Inline(Box<[u8]>),
    /// `[1] [2] runs`: see [`Page`].
    Pages(Box<[Page; PAGES_PER_GROUP]>),
}

/// One page of a group.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub enum Page {
    /// The lower's bytes, or zeros.
    #[default]
    Base,
    /// Zeros, whatever the lower has.
    Hole,
    /// Bytes in a segment.
    Data(PageRef),
}

/// Bytes in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct PageRef {
    /// The epoch that allocated the page.
    pub epoch: Epoch,
    /// Which segment.
    pub segment: u32,
    /// Which page of the segment.
    pub page: u32,
    /// CRC-32C of its bytes, unless it was rewritten in place since.
    pub crc: Option<u32>,
    /// Other files may refer to the page too: it is neither rewritten in place nor freed without asking them.
    pub shared: bool,
}

impl PageRef {
    /// Tells whether both lie at the same place.
    pub(crate) fn is_at(&self, other: PageRef) -> bool {
        (self.segment, self.page) == (other.segment, other.page)
    }
}

impl GroupV1 {
    /// A group that is all base.
    pub fn base() -> GroupV1 {
        GroupV1::Pages(Box::new([Page::Base; PAGES_PER_GROUP]))
    }

    /// Returns the pages that lie in segments.
    pub fn refs(&self) -> impl Iterator<Item = PageRef> + '_ {
        let pages: &[Page] = match self {
            GroupV1::Pages(pages) => pages.as_slice(),
            GroupV1::Removed | GroupV1::Inline(_) => &[],
        };
        pages.iter().filter_map(|page| match page {
            Page::Data(data) => Some(*data),
            Page::Base | Page::Hole => None,
        })
    }

    /// Takes the checksum of a page away: it is about to be rewritten in place.
    pub(crate) fn forget_crc(&mut self, position: usize) {
        if let GroupV1::Pages(pages) = self
            && let Some(Page::Data(data)) = pages.get_mut(position)
        {
            data.crc = None;
        }
    }

    /// Returns the bytes of the store that the group takes, as quotas count them.
    pub fn stored(&self) -> u64 {
        match self {
            GroupV1::Removed => 0,
            GroupV1::Inline(bytes) => bytes.len() as u64,
            GroupV1::Pages(_) => self.refs().count() as u64 * PAGE_SIZE as u64,
        }
    }
}

const HOLE: u8 = 1;
const DATA: u8 = 2;
const HAS_CRC: u8 = 1;
const SHARED: u8 = 2;

impl Record for GroupV1 {
    /// Runs of alike pages: `first u8, count u8, kind u8`, and for data `segment u32, page u32, epoch u64`
    /// and per page `flags u8, crc u32`: flag 1 that the checksum counts, 2 that the page is shared. Pages in no run are base.
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::version(1);
        match self {
            GroupV1::Removed => {
                writer.u8(0);
            }
            GroupV1::Inline(bytes) => {
                writer.u8(1).rest(bytes);
            }
            GroupV1::Pages(pages) => {
                writer.u8(2);
                let mut at = 0;
                while let Some(&first) = pages.get(at) {
                    let mut end = at + 1;
                    while pages.get(end).is_some_and(|&page| continues(first, page, end - at)) {
                        end += 1;
                    }
                    let run = pages.get(at..end).unwrap_or_default();
                    // At most sixteen pages: both fit a byte.
                    let (start, count) = (at as u8, run.len() as u8);
                    match first {
                        Page::Base => {}
                        Page::Hole => {
                            writer.u8(start).u8(count).u8(HOLE);
                        }
                        Page::Data(data) => {
                            writer
                                .u8(start)
                                .u8(count)
                                .u8(DATA)
                                .u32(data.segment)
                                .u32(data.page)
                                .u64(data.epoch.0);
                            for page in run {
                                if let Page::Data(PageRef { crc, shared, .. }) = page {
                                    let flags =
                                        u8::from(crc.is_some()) * HAS_CRC + u8::from(*shared) * SHARED;
                                    writer.u8(flags).u32(crc.unwrap_or(0));
                                }
                            }
                        }
                    }
                    at = end;
                }
            }
        }
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        match reader.u8()? {
            0 => reader.end(GroupV1::Removed),
            1 => {
                let bytes = reader.rest();
                (bytes.len() <= PAGE_SIZE).then(|| GroupV1::Inline(bytes.into()))
            }
            2 => {
                let mut pages = Box::new([Page::Base; PAGES_PER_GROUP]);
                while let Some(first) = reader.u8() {
                    let (count, kind) = (reader.u8()?, reader.u8()?);
                    let run = pages
                        .get_mut(usize::from(first)..usize::from(first).checked_add(usize::from(count))?)?;
                    match kind {
                        HOLE => run.fill(Page::Hole),
                        DATA => {
                            let (segment, start, epoch) =
                                (reader.u32()?, reader.u32()?, Epoch(reader.u64()?));
                            for (page, offset) in run.iter_mut().zip(0u32..) {
                                let (flags, crc) = (reader.u8()?, reader.u32()?);
                                if flags & !(HAS_CRC | SHARED) != 0 {
                                    return None;
                                }
                                let crc = (flags & HAS_CRC != 0).then_some(crc);
                                let (page_number, shared) = (start.checked_add(offset)?, flags & SHARED != 0);
                                *page =
                                    Page::Data(PageRef { epoch, segment, page: page_number, crc, shared });
                            }
                        }
                        _ => return None,
                    }
                }
                reader.end(GroupV1::Pages(pages))
            }
            _ => None,
        }
    }
}

/// Tells whether `page`, `distance` pages after `first`, belongs to the same run.
fn continues(first: Page, page: Page, distance: usize) -> bool {
    match (first, page) {
        (Page::Base, Page::Base) | (Page::Hole, Page::Hole) => true,
        (Page::Data(a), Page::Data(b)) => {
            a.segment == b.segment
                && a.epoch == b.epoch
                && u64::from(a.page) + distance as u64 == u64::from(b.page)
        }
        _ => false,
    }
}
