//! Identities: one newtype for everything that has a number.
//!
//! # Invariants
//! - An [`Ino`] is never reused within a store, and is the same over remount, fork and resume.
//! - [`Epoch`]s of one branch only grow.

use std::fmt;
use std::hash::Hasher;

use siphasher::sip::SipHasher24;

macro_rules! identity {
    ($(#[$doc:meta])* $name:ident($inner:ty)) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
        pub struct $name(pub $inner);

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                self.0.fmt(f)
            }
        }
    };
}

identity! {
    /// The number of an inode, shown to programs as `st_ino`.
    ///
    /// Numbers below 2^48 were handed out by the store. Bit 62 marks an inode that comes from a
    /// lower: see [`Ino::of_lower`].
    Ino(u64)
}
identity! {
    /// What a transport calls an inode. Equals the [`Ino`] of a live file. Files of a timeline that
    /// began with a rollback under a live mount get numbers of their own from 2^63 up, one after
    /// the other; files seen through `.snapshots` have one each from 2^63 + 2^61 up, which follows
    /// from what they are: [`NodeId::in_snapshot`].
    NodeId(u64)
}
identity! {
    /// A family of volumes that share history: a volume and everything ever forked from it.
    TreeId(u32)
}
identity! {
    /// One line of epochs. Children have larger numbers than their ancestors.
    BranchId(u32)
}
identity! {
    /// The numbered interval between two cuts.
    Epoch(u64)
}
identity! {
    /// One volume of a store, whatever it is named.
    VolumeId(u32)
}
identity! {
    /// One mount, from the moment it is made until it is gone, whichever processes serve it. Random.
    SessionId(u64)
}

/// What a client calls one of its requests: a UUID.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub [u8; 16]);

impl fmt::Display for RequestId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(&self.0, f)
    }
}

/// One capture of an actor: a UUID, so that it means the same on every node.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct CaptureId(pub [u8; 16]);

impl fmt::Display for CaptureId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write_uuid(&self.0, f)
    }
}

fn write_uuid(bytes: &[u8; 16], f: &mut fmt::Formatter<'_>) -> fmt::Result {
    for (at, byte) in bytes.iter().enumerate() {
        if matches!(at, 4 | 6 | 8 | 10) {
            f.write_str("-")?;
        }
        write!(f, "{byte:02x}")?;
    }
    Ok(())
}

impl Ino {
    /// The root directory of every volume.
    pub const ROOT: Ino = Ino(1);
    /// What is listed where a name's record cannot be read. No inode has it.
    pub const UNREADABLE: Ino = Ino(2);
    /// The first number the store hands out.
    pub const FIRST_ALLOCATED: Ino = Ino(16);

    const LOWER: u64 = 1 << 62;
    const SLOT_SHIFT: u32 = 54;
    /// Largest number of distinct inode number spaces the lowers of one tree may have.
    pub const LOWER_SLOTS: u8 = 255;

    /// Returns the number of a lower inode: the host's own number in its low 54 bits, so that it is
    /// the same after every mount without anything being stored, and `slot` above them.
    ///
    /// A slot stands for one (lower, device, high bits of the host's number) and is remembered by
    /// the store, see `docs/on-disk.md#lower-slot`.
    pub fn of_lower(slot: u8, host_ino: u64) -> Ino {
        Ino(Self::LOWER | (u64::from(slot) << Self::SLOT_SHIFT) | (host_ino & ((1 << Self::SLOT_SHIFT) - 1)))
    }

    /// Returns the bits of a host's inode number that do not fit beside a slot.
    pub fn lower_high_bits(host_ino: u64) -> u16 {
        // Ten bits are left after the shift.
        u16::try_from(host_ino >> Self::SLOT_SHIFT).unwrap_or(u16::MAX)
    }

    /// Tells whether the number was derived from a lower.
    pub fn is_lower(self) -> bool {
        self.0 & Self::LOWER != 0
    }
}

impl NodeId {
    /// The root of a mount.
    pub const ROOT: NodeId = NodeId(1);
    /// From here up numbers are handed out by the mount, not taken from an [`Ino`].
    pub const FIRST_DYNAMIC: u64 = 1 << 63;
    /// From here up, and as many numbers as there are in [`NodeId::SNAPSHOT_MASK`], are those of files of snapshots.
    pub const FIRST_IN_SNAPSHOT: u64 = Self::FIRST_DYNAMIC | (1 << 61);
    const SNAPSHOT_MASK: u64 = (1 << 61) - 1;

    /// Returns the number of an inode as it is seen through `.snapshots`, also as its `st_ino`. It is the same in every
    /// process, so that nothing has to be remembered: a hash. Of a hundred million files two have the same number with a chance of
    /// one to five hundred; a `salt` other than 0 gives others, where two meet.
    pub fn in_snapshot(branch: BranchId, epoch: Epoch, ino: Ino, salt: u64) -> NodeId {
        let mut hasher = SipHasher24::new_with_keys(0x6475_7264_6972, salt);
        for field in [u64::from(branch.0), epoch.0, ino.0] {
            hasher.write(&field.to_le_bytes());
        }
        NodeId(Self::FIRST_IN_SNAPSHOT | (hasher.finish() & Self::SNAPSHOT_MASK))
    }

    /// Tells whether it is one of those that are handed out one after the other.
    pub fn is_in_sequence(self) -> bool {
        (Self::FIRST_DYNAMIC..Self::FIRST_IN_SNAPSHOT).contains(&self.0)
    }
}

impl Epoch {
    /// The epoch after this one.
    pub fn next(self) -> Epoch {
        Epoch(self.0 + 1)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lower_numbers_of_two_slots_never_meet() {
        let a = Ino::of_lower(0, 12345);
        let b = Ino::of_lower(1, 12345);
        assert_ne!(a, b);
        assert!(a.is_lower() && b.is_lower());
        assert!(!Ino(1 << 47).is_lower());
        assert!(Ino::of_lower(254, u64::MAX).0 < NodeId::FIRST_DYNAMIC);
    }

    #[test]
    fn numbers_in_snapshots_are_the_same_for_ever() {
        let number =
            |branch, epoch, ino, salt| NodeId::in_snapshot(BranchId(branch), Epoch(epoch), ino, salt).0;
        assert_eq!(number(1, 1, Ino::ROOT, 0), 13_703_681_846_677_138_472);
        assert_eq!(number(7, 300, Ino::of_lower(2, 12345), 0), 12_175_873_598_771_504_738);
        let mut all: Vec<u64> = (0..1000)
            .flat_map(|number| [(1, 1, number, 0), (2, 1, number, 0), (1, 2, number, 0), (1, 1, number, 1)])
            .map(|(branch, epoch, ino, salt)| number(branch, epoch, Ino(ino), salt))
            .collect();
        all.sort_unstable();
        all.dedup();
        assert_eq!(all.len(), 4000);
        assert!(all.iter().all(|number| (NodeId::FIRST_IN_SNAPSHOT..3 << 62).contains(number)));
    }
}
