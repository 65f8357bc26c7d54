//! File content that can be told apart: bytes that depend on a seed and on their offset, so that a
//! block in the wrong place, or of the wrong file, never compares equal.

use std::fs::File;
use std::os::unix::fs::FileExt;

/// Returns `len` bytes of the endless stream number `seed`, beginning at `offset`.
/// They do not compress.
pub fn noise(seed: u64, offset: u64, len: usize) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(len + 16);
    let mut word = offset / 8;
    let skip = usize::try_from(offset % 8).expect("less than 8");
    while bytes.len() < len + skip {
        bytes.extend(mix(seed, word).to_le_bytes());
        word += 1;
    }
    bytes.drain(..skip);
    bytes.truncate(len);
    bytes
}

/// Asserts that `file` holds the stream number `seed` at `offset..offset + len`.
pub fn read_noise_at(file: &File, seed: u64, offset: u64, len: usize) {
    let mut seen = vec![0; len];
    file.read_exact_at(&mut seen, offset).unwrap();
    let wanted = noise(seed, offset, len);
    if let Some(at) = (0..len).find(|&at| seen[at] != wanted[at]) {
        panic!(
            "wrong byte at offset {}: {:#04x} instead of {:#04x}",
            offset + at as u64,
            seen[at],
            wanted[at]
        );
    }
}

/// One word of a stream (the finalizer of SplitMix64 over seed and position).
fn mix(seed: u64, position: u64) -> u64 {
    let mut word = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ position.wrapping_mul(0xd1b5_4a32_d192_ed03);
    word = (word ^ (word >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    word = (word ^ (word >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    word ^ (word >> 31)
}
