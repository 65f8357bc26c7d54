//! The values RocksDB holds. Every record begins with its version; `docs/on-disk.md` lists the bytes.
//!
//! A type is named with its version and an alias names the newest, so that a change to a stored
//! struct shows as a new type and never as a silent edit of an old one.

mod actor;
pub(crate) mod codec;
mod dentry;
mod group;
mod inode;
mod meta;
mod reply;
mod xattr;

pub use actor::{Actor, ActorV1, Capture, CaptureV1, CapturedV1};
pub use dentry::{Dentry, DentryV1};
pub use group::{GROUP_SIZE, Group, GroupV1, PAGE_SIZE, PAGES_PER_GROUP, Page, PageRef};
pub use inode::{Inode, InodeV1, LowerRef, LowerRefV1};
pub use meta::{
    Answered, AnsweredV1, Branch, BranchV1, Flag, FlagV1, FreeList, FreeListV1, FreeListV2, LowerSlot,
    LowerSlotV1, PageRun, SegmentMark, SegmentMarkV1, SegmentMarkV2, Snapshot, SnapshotV1, Usage, UsageV1,
    Volume, VolumeV1, WriterState, WriterStateV1,
};
pub use reply::{OutcomeV1, Reply, ReplyV1};
pub use xattr::{Xattr, XattrV1};

/// A record that RocksDB stores.
pub trait Record: Sized {
    /// Returns the stored bytes.
    fn encode(&self) -> Vec<u8>;
    /// Parses stored bytes, `None` if they are not a record of a known version.
    fn decode(bytes: &[u8]) -> Option<Self>;
}

#[cfg(test)]
mod tests;
