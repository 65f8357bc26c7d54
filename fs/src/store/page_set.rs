//! Sets of pages of segments: one bit for each.

use hashbrown::HashMap;

/// A set of pages.
#[derive(Default)]
pub(crate) struct PageSet {
    bits: HashMap<u32, Vec<u64>>,
    count: u64,
}

impl PageSet {
    /// Adds a page. `false` if it was there.
    pub(crate) fn insert(&mut self, segment: u32, page: u32) -> bool {
        let words = self.bits.entry(segment).or_default();
        let (word, bit) = (page as usize / 64, 1 << (page % 64));
        if words.len() <= word {
            words.resize(word + 1, 0);
        }
        match words.get_mut(word) {
            Some(word) if *word & bit == 0 => {
                *word |= bit;
                self.count += 1;
                true
            }
            _ => false,
        }
    }

    /// Tells whether a page is in it.
    pub(crate) fn contains(&self, segment: u32, page: u32) -> bool {
        let word = self.bits.get(&segment).and_then(|words| words.get(page as usize / 64));
        word.is_some_and(|word| word & (1 << (page % 64)) != 0)
    }

    /// Returns how many pages are in it.
    pub(crate) fn len(&self) -> u64 {
        self.count
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_are_in_it_once() {
        let mut pages = PageSet::default();
        assert!(pages.insert(1, 0) && pages.insert(1, 64) && pages.insert(2, 0));
        assert!(!pages.insert(1, 64));
        assert_eq!(pages.len(), 3);
        assert!(pages.contains(1, 64) && !pages.contains(1, 1) && !pages.contains(3, 0));
    }
}
