//! An extended attribute: its value, or that it was removed.

use super::Record;
use super::codec::{Reader, Writer};

/// The newest version.
pub type Xattr = XattrV1;

/// `[1] [0]` for a removed attribute, `[1] [1] value…` for one that is set.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum XattrV1 {
    /// Removed: a lower's attribute of this name does not show through.
    Removed,
    /// Set.
    Value(Vec<u8>),
}

impl Record for XattrV1 {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::version(1);
        match self {
            XattrV1::Removed => writer.u8(0),
            XattrV1::Value(value) => writer.u8(1).rest(value),
        };
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        match reader.u8()? {
            0 => reader.end(XattrV1::Removed),
            1 => Some(XattrV1::Value(reader.rest().to_vec())),
            _ => None,
        }
    }
}
