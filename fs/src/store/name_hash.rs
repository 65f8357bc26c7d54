//! The order of names in a directory, and with it the offsets that `readdir` hands out.
//!
//! # Invariants
//! - The hash of a name never changes during the life of a store: its key is stored.
//! - It is at least `FIRST` and below 2^62 + `FIRST`: offsets 0 to 2 are taken by the start, `.` and `..`, and an
//!   offset is a positive `loff_t`.

use std::hash::Hasher;

use siphasher::sip::SipHasher13;

/// Hashes names with a key that only the store knows, so that nobody can make names collide on purpose.
#[derive(Clone, Debug)]
pub(crate) struct NameHasher {
    key: [u8; 16],
}

impl NameHasher {
    /// The smallest hash.
    pub(crate) const FIRST: u64 = 16;

    /// Makes the hasher of a store.
    pub(crate) fn new(key: [u8; 16]) -> NameHasher {
        NameHasher { key }
    }

    /// Returns the place of a name in its directory.
    pub(crate) fn hash(&self, name: &[u8]) -> u64 {
        let mut hasher = SipHasher13::new_with_key(&self.key);
        hasher.write(name);
        (hasher.finish() >> 2) + Self::FIRST
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_a_name_is_part_of_the_format() {
        let hasher = NameHasher::new(*b"0123456789abcdef");
        // Changing it would reorder every directory and break open offsets.
        assert_eq!(hasher.hash(b"hello"), 1326920404425080038);
        assert!(hasher.hash(b"") >= NameHasher::FIRST);
    }
}
