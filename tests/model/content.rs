//! The bytes of one file in the reference model: a size and the pages that are not zero.
//!
//! # Invariants
//! - No byte at or past `size` is anything but zero, so growing a file never shows old bytes.
//! - Pages are shared between clones: a snapshot of the model costs no copy of data.

use std::collections::BTreeMap;
use std::sync::Arc;

const PAGE: u64 = 4096;
type Page = [u8; PAGE as usize];

/// A sparse file.
#[derive(Clone, Default, Debug)]
pub(crate) struct Content {
    size: u64,
    pages: BTreeMap<u64, Arc<Page>>,
}

impl PartialEq for Content {
    /// The same bytes, whether zeros are kept as a page or not.
    fn eq(&self, other: &Content) -> bool {
        let in_both = |one: &Content, other: &Content| {
            one.pages.iter().all(|(index, page)| match other.pages.get(index) {
                Some(same) => Arc::ptr_eq(page, same) || page == same,
                None => page.iter().all(|&byte| byte == 0),
            })
        };
        self.size == other.size && in_both(self, other) && in_both(other, self)
    }
}

impl Eq for Content {}

impl Content {
    /// Returns the size in bytes.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }

    /// Writes, growing the file when needed.
    pub(crate) fn write(&mut self, at: u64, data: &[u8]) {
        if data.is_empty() {
            return;
        }
        let mut done = 0;
        while done < data.len() {
            let offset = at + done as u64;
            let within = (offset % PAGE) as usize;
            let take = (PAGE as usize - within).min(data.len() - done);
            let part = &data[done..done + take];
            let page = self.pages.entry(offset / PAGE).or_insert_with(|| Arc::new([0; PAGE as usize]));
            Arc::make_mut(page)[within..within + take].copy_from_slice(part);
            done += take;
        }
        self.size = self.size.max(at + data.len() as u64);
    }

    /// Sets the size; bytes that come into being are zero.
    pub(crate) fn truncate(&mut self, size: u64) {
        if size < self.size {
            let end = self.size;
            self.zero(size, end - size);
        }
        self.size = size;
    }

    /// Makes a range zero without changing the size.
    pub(crate) fn zero(&mut self, at: u64, len: u64) {
        let end = at.saturating_add(len);
        let touched: Vec<u64> =
            self.pages.range(at / PAGE..end.div_ceil(PAGE)).map(|(&index, _)| index).collect();
        for index in touched {
            let start = index * PAGE;
            let from = at.max(start) - start;
            let to = end.min(start + PAGE) - start;
            if from == 0 && to == PAGE {
                self.pages.remove(&index);
            } else {
                Arc::make_mut(self.pages.get_mut(&index).unwrap())[from as usize..to as usize].fill(0);
            }
        }
    }

    /// Returns up to `len` bytes; less only at the end of the file.
    pub(crate) fn read(&self, at: u64, len: u64) -> Vec<u8> {
        let end = at.saturating_add(len).min(self.size);
        if at >= end {
            return Vec::new();
        }
        let mut out = vec![0; (end - at) as usize];
        for (&index, page) in self.pages.range(at / PAGE..end.div_ceil(PAGE)) {
            let start = index * PAGE;
            let from = at.max(start);
            let to = end.min(start + PAGE);
            out[(from - at) as usize..(to - at) as usize]
                .copy_from_slice(&page[(from - start) as usize..(to - start) as usize]);
        }
        out
    }

    /// Says whether a range holds only zeros.
    pub(crate) fn is_zero(&self, at: u64, end: u64) -> bool {
        self.pages.range(at / PAGE..end.div_ceil(PAGE)).all(|(&index, page)| {
            let start = index * PAGE;
            let (from, to) = (at.max(start), end.min(start + PAGE));
            from >= to || page[(from - start) as usize..(to - start) as usize].iter().all(|&byte| byte == 0)
        })
    }

    /// Returns ranges that together cover every byte that may be non-zero, with a page of margin on each
    /// side, and the end of the file.
    pub(crate) fn interesting_ranges(&self) -> Vec<(u64, u64)> {
        const WHOLE: u64 = 1 << 20;
        if self.size <= WHOLE {
            return vec![(0, self.size + PAGE)];
        }
        let mut ranges: Vec<(u64, u64)> = vec![(0, PAGE)];
        for &index in self.pages.keys() {
            let (from, to) = (index.saturating_sub(1) * PAGE, (index + 2) * PAGE);
            match ranges.last_mut() {
                Some(last) if from <= last.1 => last.1 = last.1.max(to),
                _ => ranges.push((from, to)),
            }
        }
        ranges.push((self.size - self.size.min(2 * PAGE), self.size + PAGE));
        ranges
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn truncating_and_growing_again_shows_zeros() {
        let mut content = Content::default();
        content.write(4000, &[7; 5000]);
        content.truncate(4100);
        content.truncate(9000);
        assert_eq!(content.read(4000, 100), vec![7; 100]);
        assert!(content.is_zero(4100, 9000));
        assert_eq!(content.read(8990, 100).len(), 10);
    }

    #[test]
    fn zeros_are_equal_however_they_came_to_be() {
        let (mut written, mut grown) = (Content::default(), Content::default());
        written.write(5000, &[7; 100]);
        written.zero(5000, 100);
        grown.truncate(5100);
        assert_eq!(written, grown);
        assert_eq!(grown, written);
        written.write(5000, &[7]);
        assert_ne!(written, grown);
        assert_ne!(grown, written);
    }

    #[test]
    fn zeroing_keeps_the_size_and_the_neighbours() {
        let mut content = Content::default();
        content.write(0, &[1; 20_000]);
        content.zero(4097, 8192);
        assert_eq!(content.size(), 20_000);
        assert_eq!(content.read(4096, 2), vec![1, 0]);
        assert_eq!(content.read(4097 + 8192, 1), vec![1]);
    }

    #[test]
    fn interesting_ranges_cover_the_data_of_a_sparse_file() {
        let mut content = Content::default();
        content.write(1 << 40, &[9; 10]);
        let ranges = content.interesting_ranges();
        assert!(ranges.iter().any(|&(from, to)| from <= 1 << 40 && to >= (1 << 40) + 10));
        assert!(ranges.iter().map(|(from, to)| to - from).sum::<u64>() < 100_000);
    }
}
