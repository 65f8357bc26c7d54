//! What can be wrong with a store.

use std::fmt;

/// One broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Issue {
    /// A key of a record does not parse.
    UnreadableKey {
        /// The column family.
        family: &'static str,
        /// The key, in hex.
        key: String,
    },
    /// A record does not parse, or has a version this durdir does not know.
    UnreadableRecord {
        /// The column family.
        family: &'static str,
        /// Its key, in hex.
        key: String,
    },
}

impl Issue {
    /// The name of the kind, stable for scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Issue::UnreadableKey { .. } => "unreadable-key",
            Issue::UnreadableRecord { .. } => "unreadable-record",
        }
    }

    /// The volume it is about.
    pub fn volume(&self) -> Option<String> {
        None
    }

    /// The inode it is about.
    pub fn inode(&self) -> Option<u64> {
        None
    }

    /// The path it is about.
    pub fn path(&self) -> Option<Vec<u8>> {
        None
    }

    /// Whether it was mended.
    pub fn repaired(&self) -> bool {
        false
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Issue::UnreadableKey { family, key } => write!(f, "{family}: key {key} does not parse"),
            Issue::UnreadableRecord { family, key } => {
                write!(f, "{family}: record at key {key} does not parse")
            }
        }
    }
}
