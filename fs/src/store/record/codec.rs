//! Reading and writing the bytes of records: little-endian integers of fixed width and byte strings
//! behind their length.
//!
//! # Invariants
//! - Reading is total: short, long or odd bytes give `None`.
//! - A record ends where its last field ends: left-over bytes are refused by [`Reader::end`].

use crate::attr::Timestamp;

/// Builds the bytes of a record.
#[derive(Default)]
pub(crate) struct Writer {
    bytes: Vec<u8>,
}

impl Writer {
    /// Begins a record of `version`.
    pub(crate) fn version(version: u8) -> Writer {
        let mut bytes = Vec::with_capacity(160);
        bytes.push(version);
        Writer { bytes }
    }
    pub(crate) fn u8(&mut self, value: u8) -> &mut Self {
        self.bytes.push(value);
        self
    }
    pub(crate) fn u16(&mut self, value: u16) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub(crate) fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub(crate) fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub(crate) fn u128(&mut self, value: u128) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub(crate) fn i64(&mut self, value: i64) -> &mut Self {
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }
    pub(crate) fn time(&mut self, time: Timestamp) -> &mut Self {
        self.i64(time.secs).u32(time.nanos)
    }
    /// A byte string of at most 64 KiB − 1; the codec's users keep within that.
    pub(crate) fn string(&mut self, bytes: &[u8]) -> &mut Self {
        let length = u16::try_from(bytes.len()).expect("names, paths and targets are shorter than 64 KiB");
        self.u16(length);
        self.bytes.extend_from_slice(bytes);
        self
    }
    /// A byte string that reaches to the end of the record.
    pub(crate) fn rest(&mut self, bytes: &[u8]) -> &mut Self {
        self.bytes.extend_from_slice(bytes);
        self
    }
    pub(crate) fn finish(&mut self) -> Vec<u8> {
        std::mem::take(&mut self.bytes)
    }
}

/// Takes the bytes of a record apart.
pub(crate) struct Reader<'a> {
    bytes: &'a [u8],
}

impl<'a> Reader<'a> {
    /// Begins a record that must have `version`.
    pub(crate) fn version(bytes: &'a [u8], version: u8) -> Option<Reader<'a>> {
        let mut reader = Reader { bytes };
        (reader.u8()? == version).then_some(reader)
    }
    fn take<const N: usize>(&mut self) -> Option<[u8; N]> {
        let (head, rest) = self.bytes.split_at_checked(N)?;
        self.bytes = rest;
        head.try_into().ok()
    }
    pub(crate) fn u8(&mut self) -> Option<u8> {
        self.take::<1>().map(|[byte]| byte)
    }
    pub(crate) fn u16(&mut self) -> Option<u16> {
        self.take().map(u16::from_le_bytes)
    }
    pub(crate) fn u32(&mut self) -> Option<u32> {
        self.take().map(u32::from_le_bytes)
    }
    pub(crate) fn u64(&mut self) -> Option<u64> {
        self.take().map(u64::from_le_bytes)
    }
    pub(crate) fn u128(&mut self) -> Option<u128> {
        self.take().map(u128::from_le_bytes)
    }
    pub(crate) fn i64(&mut self) -> Option<i64> {
        self.take().map(i64::from_le_bytes)
    }
    pub(crate) fn time(&mut self) -> Option<Timestamp> {
        let time = Timestamp { secs: self.i64()?, nanos: self.u32()? };
        (time.nanos < 1_000_000_000).then_some(time)
    }
    pub(crate) fn string(&mut self) -> Option<&'a [u8]> {
        let length = usize::from(self.u16()?);
        let (head, rest) = self.bytes.split_at_checked(length)?;
        self.bytes = rest;
        Some(head)
    }
    pub(crate) fn rest(&mut self) -> &'a [u8] {
        std::mem::take(&mut self.bytes)
    }
    /// Returns `value` if the record ends here.
    pub(crate) fn end<T>(&self, value: T) -> Option<T> {
        self.bytes.is_empty().then_some(value)
    }
}
