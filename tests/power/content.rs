//! The bytes a write writes: every 16 of them tell the writer, the step and the place in the file.
//!
//! `scripts/power-loss.d/model.py` makes the same bytes.

const CELL: u64 = 16;

/// Returns what step `step` of a writer writes at `offset`.
pub(crate) fn content(tag: u32, step: u64, offset: u64, length: u64) -> Vec<u8> {
    let first = offset / CELL;
    let last = (offset + length).div_ceil(CELL);
    let mut bytes = Vec::with_capacity(((last - first) * CELL) as usize);
    for cell in first..last {
        bytes.extend(tag.to_le_bytes());
        bytes.extend((step as u32).to_le_bytes());
        bytes.extend(cell.to_le_bytes());
    }
    let skip = (offset - first * CELL) as usize;
    bytes.drain(..skip);
    bytes.truncate(length as usize);
    bytes
}
