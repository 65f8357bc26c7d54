//! The kinds of records of the `meta` family: what each is called, and whether bytes are one of it.
//!
//! For whoever looks at all of them: what cannot be read is [quarantined](super::quarantine), and a version that would not
//! understand a store finds out before it takes over.

use super::Settled;
use super::keys::meta;
use super::record::{
    Actor, Answered, Branch, Capture, Flag, FreeList, LowerSlot, Record, Reply, SegmentMark, Snapshot,
    Volume, WriterState,
};

/// A kind of record.
pub(super) struct Kind {
    /// What its keys begin with.
    pub(super) byte: u8,
    pub(super) name: &'static str,
    /// The newest version that is known, where the value says which it has.
    newest: Option<u8>,
    readable: fn(&[u8]) -> bool,
}

impl Kind {
    const fn versioned(byte: u8, name: &'static str, newest: u8, readable: fn(&[u8]) -> bool) -> Kind {
        Kind { byte, name, newest: Some(newest), readable }
    }

    const fn plain(byte: u8, name: &'static str, readable: fn(&[u8]) -> bool) -> Kind {
        Kind { byte, name, newest: None, readable }
    }

    /// Tells whether a value can be read.
    pub(super) fn is_readable(&self, value: &[u8]) -> bool {
        (self.readable)(value)
    }

    /// Returns the version of a value and the newest that is known, if a newer durdir wrote it.
    pub(super) fn is_newer(&self, value: &[u8]) -> Option<(u8, u8)> {
        let (&found, newest) = (value.first()?, self.newest?);
        (found > newest).then_some((found, newest))
    }

    /// Finds the kind of a record by its key.
    pub(super) fn of(key: &[u8]) -> Option<&'static Kind> {
        let byte = key.first()?;
        KINDS.iter().find(|kind| kind.byte == *byte)
    }
}

fn is_record<T: Record>(value: &[u8]) -> bool {
    T::decode(value).is_some()
}

fn is_number(value: &[u8]) -> bool {
    value.len() == 8
}

/// All of them, by key.
pub(super) static KINDS: [Kind; 21] = [
    Kind::plain(meta::HASH, "hash key", |value| value.len() == 16),
    Kind::plain(meta::COUNTER, "counter", is_number),
    Kind::versioned(meta::VOLUME, "volume", 1, is_record::<Volume>),
    Kind::versioned(meta::BRANCH, "branch", 1, is_record::<Branch>),
    Kind::versioned(meta::SNAPSHOT, "snapshot", 1, is_record::<Snapshot>),
    Kind::versioned(meta::LOWER_SLOT, "lower slot", 1, is_record::<LowerSlot>),
    Kind::versioned(meta::USAGE, "usage", 1, is_record::<WriterState>),
    Kind::plain(meta::ORPHAN, "orphan", <[u8]>::is_empty),
    Kind::plain(meta::SWEEP, "sweep", is_number),
    Kind::versioned(meta::FREE, "free list", 2, is_record::<FreeList>),
    Kind::versioned(meta::SEGMENT, "segment", 2, is_record::<SegmentMark>),
    Kind::plain(meta::TIE, "tie", <[u8]>::is_empty),
    Kind::plain(meta::DOUBT, "doubt", <[u8]>::is_empty),
    Kind::plain(meta::SEAL, "epoch to be sealed", <[u8]>::is_empty),
    Kind::plain(meta::DEPARTED, "departed orphan", is_number),
    Kind::versioned(meta::ANSWERED, "answer", 1, is_record::<Answered>),
    Kind::versioned(meta::FLAG, "flag", 1, is_record::<Flag>),
    Kind::plain(meta::SETTLED, "settled epochs", |value| Settled::decode(value).is_some()),
    Kind::versioned(meta::REPLY, "reply", 1, is_record::<Reply>),
    Kind::versioned(meta::ACTOR, "actor", 1, is_record::<Actor>),
    Kind::versioned(meta::CAPTURE, "capture", 1, is_record::<Capture>),
];

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::{BranchId, TreeId, VolumeId};

    #[test]
    fn the_newest_version_is_the_one_that_is_written() {
        let branch =
            Branch { tree: TreeId(1), volume: VolumeId(1), parent: None, epoch: crate::ids::Epoch(1) };
        let mark = SegmentMark { synced_pages: 0, branch: BranchId(1), loose_from: None, boot: 1 };
        for (byte, value) in [
            (meta::BRANCH, branch.encode()),
            (meta::SEGMENT, mark.encode()),
            (meta::USAGE, WriterState::default().encode()),
            (meta::FREE, FreeList::default().encode()),
        ] {
            let kind = Kind::of(&[byte]).unwrap();
            assert_eq!(Some(value[0]), kind.newest, "{}", kind.name);
            assert!(kind.is_readable(&value) && kind.is_newer(&value).is_none(), "{}", kind.name);
            let newer = [value[0] + 1];
            assert_eq!(kind.is_newer(&newer), Some((value[0] + 1, value[0])), "{}", kind.name);
        }
    }

    #[test]
    fn every_kind_stands_once_and_what_has_no_version_is_never_newer() {
        for (at, kind) in KINDS.iter().enumerate() {
            assert!(KINDS.iter().skip(at + 1).all(|other| other.byte != kind.byte), "{}", kind.name);
            assert!(!kind.is_readable(&[0xff; 3]), "{}", kind.name);
        }
        assert!(Kind::of(&[meta::SWEEP]).unwrap().is_newer(&[9; 8]).is_none());
        assert!(Kind::of(&[0xee]).is_none() && Kind::of(&[]).is_none());
    }
}
