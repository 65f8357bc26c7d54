//! The one codec of RocksDB keys. `docs/on-disk.md` has the same tables.
//!
//! Every mutable record is *versioned*: its key is a prefix that says which record it is, followed
//! by twelve bytes that say which version.
//!
//! | column family | prefix | then |
//! |---|---|---|
//! | `inode`  | tree u32, ino u64                                      | !branch u32, !epoch u64 |
//! | `dentry` | tree u32, directory u64, name hash u64, name, 0x00     | !branch u32, !epoch u64 |
//! | `xattr`  | tree u32, ino u64, name, 0x00                          | !branch u32, !epoch u64 |
//! | `extent` | tree u32, ino u64, group u64                           | !branch u32, !epoch u64 |
//! | `touched`| branch u32, epoch u64, tag of the column family u8, prefix of the record without its tree | |
//!
//! All integers are big-endian and branch and epoch are stored inverted, so that the versions of one
//! record stand newest first: children have larger branch numbers than their ancestors, hence one seek to
//! (prefix, !branch, !epoch) lands on the version a view may see, or on one written beside its
//! line of descent, from which one more seek leads on. See [`super::view`].
//!
//! # Invariants
//! - Names contain no NUL byte, so a prefix ends where its 0x00 stands and no prefix is the beginning of another.
//! - Parsing is total: bytes that are not a key give `None`, never a panic.

use crate::ids::{BranchId, Epoch, Ino, TreeId};

/// Length of the part that tells versions apart.
pub(crate) const VERSION_LEN: usize = 12;

/// A column family of versioned records.
#[derive(Clone, Copy, PartialEq, Eq, Debug, PartialOrd, Ord, Hash)]
pub enum Family {
    /// Attributes of inodes.
    Inode,
    /// Names in directories.
    Dentry,
    /// Extended attributes.
    Xattr,
    /// Where file data lies.
    Extent,
}

impl Family {
    /// All of them.
    pub const ALL: [Family; 4] = [Family::Inode, Family::Dentry, Family::Xattr, Family::Extent];

    /// The name of the column family in RocksDB.
    pub fn name(self) -> &'static str {
        match self {
            Family::Inode => "inode",
            Family::Dentry => "dentry",
            Family::Xattr => "xattr",
            Family::Extent => "extent",
        }
    }

    /// The byte that stands for it in `touched`.
    pub fn tag(self) -> u8 {
        match self {
            Family::Inode => 0,
            Family::Dentry => 1,
            Family::Xattr => 2,
            Family::Extent => 3,
        }
    }

    fn from_tag(tag: u8) -> Option<Family> {
        Family::ALL.into_iter().find(|family| family.tag() == tag)
    }
}

/// The prefix of a versioned record: which record, not which version.
#[derive(Clone, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct Prefix {
    /// Where the record lives.
    pub family: Family,
    bytes: Vec<u8>,
}

impl Prefix {
    /// An inode's attributes.
    pub fn inode(tree: TreeId, ino: Ino) -> Prefix {
        let mut bytes = Vec::with_capacity(12 + VERSION_LEN);
        bytes.extend_from_slice(&tree.0.to_be_bytes());
        bytes.extend_from_slice(&ino.0.to_be_bytes());
        Prefix { family: Family::Inode, bytes }
    }

    /// A name in a directory. `hash` is [`super::name_hash::NameHasher::hash`] of the name.
    pub fn dentry(tree: TreeId, dir: Ino, hash: u64, name: &[u8]) -> Prefix {
        let mut bytes = Vec::with_capacity(21 + name.len() + VERSION_LEN);
        bytes.extend_from_slice(&tree.0.to_be_bytes());
        bytes.extend_from_slice(&dir.0.to_be_bytes());
        bytes.extend_from_slice(&hash.to_be_bytes());
        bytes.extend_from_slice(name);
        bytes.push(0);
        Prefix { family: Family::Dentry, bytes }
    }

    /// An extended attribute.
    pub fn xattr(tree: TreeId, ino: Ino, name: &[u8]) -> Prefix {
        let mut bytes = Vec::with_capacity(13 + name.len() + VERSION_LEN);
        bytes.extend_from_slice(&tree.0.to_be_bytes());
        bytes.extend_from_slice(&ino.0.to_be_bytes());
        bytes.extend_from_slice(name);
        bytes.push(0);
        Prefix { family: Family::Xattr, bytes }
    }

    /// Sixty-four KiB of a file.
    pub fn extent(tree: TreeId, ino: Ino, group: u64) -> Prefix {
        let mut bytes = Vec::with_capacity(20 + VERSION_LEN);
        bytes.extend_from_slice(&tree.0.to_be_bytes());
        bytes.extend_from_slice(&ino.0.to_be_bytes());
        bytes.extend_from_slice(&group.to_be_bytes());
        Prefix { family: Family::Extent, bytes }
    }

    /// Returns the bytes that all versions of the record begin with.
    pub fn as_bytes(&self) -> &[u8] {
        &self.bytes
    }

    /// Returns the key of one version.
    pub fn version(&self, branch: BranchId, epoch: Epoch) -> Vec<u8> {
        let mut key = Vec::with_capacity(self.bytes.len() + VERSION_LEN);
        key.extend_from_slice(&self.bytes);
        push_version(&mut key, branch, epoch);
        key
    }

    /// Returns the key under which `touched` lists the record.
    pub fn touched(&self, branch: BranchId, epoch: Epoch) -> Vec<u8> {
        let tail = self.bytes.get(4..).unwrap_or_default();
        let mut key = Vec::with_capacity(13 + tail.len());
        key.extend_from_slice(&branch.0.to_be_bytes());
        key.extend_from_slice(&epoch.0.to_be_bytes());
        key.push(self.family.tag());
        key.extend_from_slice(tail);
        key
    }

    /// Returns what the prefix stands for.
    pub fn parse(&self) -> Option<PrefixOf<'_>> {
        let (ino, rest) = split_u64(self.bytes.get(4..)?)?;
        let ino = Ino(ino);
        match self.family {
            Family::Inode => rest.is_empty().then_some(PrefixOf::Inode { ino }),
            Family::Extent => match split_u64(rest)? {
                (group, []) => Some(PrefixOf::Extent { ino, group }),
                _ => None,
            },
            Family::Xattr => Some(PrefixOf::Xattr { ino, name: terminated(rest)? }),
            Family::Dentry => {
                let (hash, rest) = split_u64(rest)?;
                Some(PrefixOf::Dentry { dir: ino, hash, name: terminated(rest)? })
            }
        }
    }
}

/// What a [`Prefix`] says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum PrefixOf<'a> {
    /// Attributes of an inode.
    Inode {
        /// The inode.
        ino: Ino,
    },
    /// A name in a directory.
    Dentry {
        /// The directory.
        dir: Ino,
        /// The hash that orders it.
        hash: u64,
        /// The name.
        name: &'a [u8],
    },
    /// An extended attribute.
    Xattr {
        /// The inode.
        ino: Ino,
        /// Its name.
        name: &'a [u8],
    },
    /// A group of sixteen pages.
    Extent {
        /// The file.
        ino: Ino,
        /// Which group.
        group: u64,
    },
}

impl PrefixOf<'_> {
    /// Returns the inode whose lock guards the record: a name belongs to its directory.
    pub fn guardian(&self) -> Ino {
        match *self {
            PrefixOf::Inode { ino } | PrefixOf::Xattr { ino, .. } | PrefixOf::Extent { ino, .. } => ino,
            PrefixOf::Dentry { dir, .. } => dir,
        }
    }
}

/// A parsed key of a versioned record.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VersionedKey {
    /// Which record.
    pub prefix: Prefix,
    /// The branch that wrote this version.
    pub branch: BranchId,
    /// The epoch that wrote this version.
    pub epoch: Epoch,
}

impl VersionedKey {
    /// Parses a key of `family`.
    pub fn parse(family: Family, key: &[u8]) -> Option<VersionedKey> {
        let (prefix, branch, epoch) = split_version(key)?;
        let prefix = Prefix { family, bytes: prefix.to_vec() };
        prefix.parse()?;
        Some(VersionedKey { prefix, branch, epoch })
    }

    /// Returns the tree the record belongs to.
    pub fn tree(&self) -> TreeId {
        let mut bytes = [0; 4];
        bytes.copy_from_slice(self.prefix.bytes.get(..4).unwrap_or(&[0; 4]));
        TreeId(u32::from_be_bytes(bytes))
    }
}

/// Appends the version part to the bytes of a prefix.
pub(crate) fn push_version(key: &mut Vec<u8>, branch: BranchId, epoch: Epoch) {
    key.extend_from_slice(&(!branch.0).to_be_bytes());
    key.extend_from_slice(&(!epoch.0).to_be_bytes());
}

/// Splits a key into prefix, branch and epoch.
pub(crate) fn split_version(key: &[u8]) -> Option<(&[u8], BranchId, Epoch)> {
    let at = key.len().checked_sub(VERSION_LEN)?;
    let (prefix, version) = key.split_at_checked(at)?;
    let (branch, epoch) = version.split_at_checked(4)?;
    let branch = u32::from_be_bytes(branch.try_into().ok()?);
    let epoch = u64::from_be_bytes(epoch.try_into().ok()?);
    Some((prefix, BranchId(!branch), Epoch(!epoch)))
}

/// The bytes that all names of a directory begin with.
pub(crate) fn directory_prefix(tree: TreeId, dir: Ino) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(12);
    bytes.extend_from_slice(&tree.0.to_be_bytes());
    bytes.extend_from_slice(&dir.0.to_be_bytes());
    bytes
}

/// Parses a key of `touched`. The record belongs to `tree`, which the branch knows.
pub(crate) fn parse_touched(tree: TreeId, key: &[u8]) -> Option<(BranchId, Epoch, Prefix)> {
    let (branch, rest) = key.split_at_checked(4)?;
    let (epoch, rest) = split_u64(rest)?;
    let (&tag, tail) = rest.split_first()?;
    let mut bytes = tree.0.to_be_bytes().to_vec();
    bytes.extend_from_slice(tail);
    let prefix = Prefix { family: Family::from_tag(tag)?, bytes };
    prefix.parse()?;
    Some((BranchId(u32::from_be_bytes(branch.try_into().ok()?)), Epoch(epoch), prefix))
}

/// The first key of `touched` that belongs to an epoch.
pub(crate) fn touched_start(branch: BranchId, epoch: Epoch) -> Vec<u8> {
    let mut key = branch.0.to_be_bytes().to_vec();
    key.extend_from_slice(&epoch.0.to_be_bytes());
    key
}

/// Returns the epoch in a key of `touched`, whatever else is in it.
pub(crate) fn touched_epoch(key: &[u8]) -> Option<Epoch> {
    let (epoch, _) = split_u64(key.get(4..)?)?;
    Some(Epoch(epoch))
}

fn split_u64(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (number, rest) = bytes.split_at_checked(8)?;
    Some((u64::from_be_bytes(number.try_into().ok()?), rest))
}

fn terminated(bytes: &[u8]) -> Option<&[u8]> {
    match bytes.split_last()? {
        (0, name) if !name.is_empty() && !name.contains(&0) => Some(name),
        _ => None,
    }
}

/// Keys of the `meta` column family: a kind byte, then what identifies the record.
///
/// | kind | record | rest of the key |
/// |---|---|---|
/// | 0x02 | hash key of directory order | |
/// | 0x03 | next tree, branch, volume, cut, inode and segment numbers | which u8 |
/// | 0x10 | volume | volume u32 |
/// | 0x11 | branch | branch u32 |
/// | 0x12 | snapshot | branch u32, epoch u64 |
/// | 0x13 | lower slot | tree u32, slot u8 |
/// | 0x20 | usage of a branch as counted by one writer | branch u32, writer u16 |
/// | 0x21 | orphan | branch u32, ino u64 |
/// | 0x22 | sweep to be done | branch u32, from epoch u64 |
/// | 0x23 | pages to be freed | number u64 |
/// | 0x24 | segment | segment u32 |
/// | 0x26 | tie of two groups that share pages | tree u32, ino u64, group u64, other ino u64, other group u64 |
/// | 0x27 | doubt whether a shared page is needed | tree u32, ino u64, group u64, segment u32, page u32 |
/// | 0x28 | epoch to be sealed | branch u32, epoch u64 |
/// | 0x29 | orphan that was removed, and that snapshots show | branch u32, ino u64 |
/// | 0x2a | answer to a request of the kernel | session u64, unique u64 |
/// | 0x2b | flag of a volume | volume u32 |
/// | 0x2c | how far epochs are settled | branch u32, after epoch u64 |
/// | 0x30 | reply to a request of the control plane | id [u8; 16] |
/// | 0x31 | actor | its id, 1 to 63 bytes |
/// | 0x32 | capture of an actor | id [u8; 16] |
/// | 0x7e | record that could not be read, moved aside | its key |
pub(crate) mod meta {
    use crate::ids::{BranchId, CaptureId, Epoch, Ino, RequestId, SessionId, TreeId, VolumeId};
    use crate::request::KernelRequest;

    pub(crate) const HASH: u8 = 0x02;
    pub(crate) const HASH_KEY: &[u8] = &[HASH];
    pub(crate) const COUNTER: u8 = 0x03;
    pub(crate) const VOLUME: u8 = 0x10;
    pub(crate) const BRANCH: u8 = 0x11;
    pub(crate) const SNAPSHOT: u8 = 0x12;
    pub(crate) const LOWER_SLOT: u8 = 0x13;
    pub(crate) const USAGE: u8 = 0x20;
    pub(crate) const ORPHAN: u8 = 0x21;
    pub(crate) const SWEEP: u8 = 0x22;
    pub(crate) const FREE: u8 = 0x23;
    pub(crate) const SEGMENT: u8 = 0x24;
    pub(crate) const TIE: u8 = 0x26;
    pub(crate) const DOUBT: u8 = 0x27;
    pub(crate) const ANSWERED: u8 = 0x2a;
    pub(crate) const FLAG: u8 = 0x2b;
    pub(crate) const SETTLED: u8 = 0x2c;
    pub(crate) const SEAL: u8 = 0x28;
    pub(crate) const DEPARTED: u8 = 0x29;
    pub(crate) const REPLY: u8 = 0x30;
    pub(crate) const ACTOR: u8 = 0x31;
    pub(crate) const CAPTURE: u8 = 0x32;
    pub(crate) const ASIDE: u8 = 0x7e;

    fn key(kind: u8, parts: &[&[u8]]) -> Vec<u8> {
        let mut key = vec![kind];
        for part in parts {
            key.extend_from_slice(part);
        }
        key
    }

    pub(crate) fn counter(which: u8) -> Vec<u8> {
        vec![COUNTER, which]
    }
    pub(crate) fn volume(id: VolumeId) -> Vec<u8> {
        key(VOLUME, &[&id.0.to_be_bytes()])
    }
    pub(crate) fn branch(id: BranchId) -> Vec<u8> {
        key(BRANCH, &[&id.0.to_be_bytes()])
    }
    pub(crate) fn snapshot(branch: BranchId, epoch: Epoch) -> Vec<u8> {
        key(SNAPSHOT, &[&branch.0.to_be_bytes(), &epoch.0.to_be_bytes()])
    }
    pub(crate) fn lower_slot(tree: TreeId, slot: u8) -> Vec<u8> {
        key(LOWER_SLOT, &[&tree.0.to_be_bytes(), &[slot]])
    }
    pub(crate) fn usage(branch: BranchId, writer: u16) -> Vec<u8> {
        key(USAGE, &[&branch.0.to_be_bytes(), &writer.to_be_bytes()])
    }
    pub(crate) fn usage_of(branch: BranchId) -> Vec<u8> {
        key(USAGE, &[&branch.0.to_be_bytes()])
    }
    pub(crate) fn orphan(branch: BranchId, ino: Ino) -> Vec<u8> {
        key(ORPHAN, &[&branch.0.to_be_bytes(), &ino.0.to_be_bytes()])
    }
    pub(crate) fn orphans_of(branch: BranchId) -> Vec<u8> {
        key(ORPHAN, &[&branch.0.to_be_bytes()])
    }
    pub(crate) fn departed(branch: BranchId, ino: Ino) -> Vec<u8> {
        key(DEPARTED, &[&branch.0.to_be_bytes(), &ino.0.to_be_bytes()])
    }
    pub(crate) fn departed_of(branch: BranchId) -> Vec<u8> {
        key(DEPARTED, &[&branch.0.to_be_bytes()])
    }
    pub(crate) fn sweep(branch: BranchId, after: Epoch) -> Vec<u8> {
        key(SWEEP, &[&branch.0.to_be_bytes(), &after.0.to_be_bytes()])
    }
    pub(crate) fn settled(branch: BranchId, after: Epoch) -> Vec<u8> {
        key(SETTLED, &[&branch.0.to_be_bytes(), &after.0.to_be_bytes()])
    }
    pub(crate) fn settled_of(branch: BranchId) -> Vec<u8> {
        key(SETTLED, &[&branch.0.to_be_bytes()])
    }
    pub(crate) fn seal(branch: BranchId, epoch: Epoch) -> Vec<u8> {
        key(SEAL, &[&branch.0.to_be_bytes(), &epoch.0.to_be_bytes()])
    }
    pub(crate) fn seals_of(branch: BranchId) -> Vec<u8> {
        key(SEAL, &[&branch.0.to_be_bytes()])
    }
    pub(crate) fn free(number: u64) -> Vec<u8> {
        key(FREE, &[&number.to_be_bytes()])
    }
    pub(crate) fn segment(id: u32) -> Vec<u8> {
        key(SEGMENT, &[&id.to_be_bytes()])
    }
    pub(crate) fn flag(volume: VolumeId) -> Vec<u8> {
        key(FLAG, &[&volume.0.to_be_bytes()])
    }
    pub(crate) fn answered(request: KernelRequest) -> Vec<u8> {
        key(ANSWERED, &[&request.session.0.to_be_bytes(), &request.unique.to_be_bytes()])
    }
    pub(crate) fn answered_in(session: SessionId) -> Vec<u8> {
        key(ANSWERED, &[&session.0.to_be_bytes()])
    }

    /// Returns the kernel's number of the request that an answer is to.
    pub(crate) fn tail_answered(key: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(key.get(9..17)?.try_into().ok()?))
    }

    pub(crate) fn ties_of((tree, ino, group): (TreeId, Ino, u64)) -> Vec<u8> {
        key(TIE, &[&tree.0.to_be_bytes(), &ino.0.to_be_bytes(), &group.to_be_bytes()])
    }
    pub(crate) fn tie(one: (TreeId, Ino, u64), (_, ino, group): (TreeId, Ino, u64)) -> Vec<u8> {
        let mut key = ties_of(one);
        key.extend_from_slice(&ino.0.to_be_bytes());
        key.extend_from_slice(&group.to_be_bytes());
        key
    }
    /// Returns the other end of a tie.
    pub(crate) fn parse_tie(key: &[u8]) -> Option<(TreeId, Ino, u64)> {
        let ino = u64::from_be_bytes(key.get(21..29)?.try_into().ok()?);
        let group = u64::from_be_bytes(key.get(29..37)?.try_into().ok()?);
        Some((TreeId(tail_u32(key)?), Ino(ino), group))
    }
    pub(crate) fn doubts_of((tree, ino, group): (TreeId, Ino, u64)) -> Vec<u8> {
        key(DOUBT, &[&tree.0.to_be_bytes(), &ino.0.to_be_bytes(), &group.to_be_bytes()])
    }
    pub(crate) fn doubt(place: (TreeId, Ino, u64), segment: u32, page: u32) -> Vec<u8> {
        let mut key = doubts_of(place);
        key.extend_from_slice(&segment.to_be_bytes());
        key.extend_from_slice(&page.to_be_bytes());
        key
    }
    pub(crate) fn parse_doubt(key: &[u8]) -> Option<((TreeId, Ino, u64), u32, u32)> {
        let (tree, ino) = tail_u32_u64(key)?;
        let group = u64::from_be_bytes(key.get(13..21)?.try_into().ok()?);
        let segment = u32::from_be_bytes(key.get(21..25)?.try_into().ok()?);
        let page = u32::from_be_bytes(key.get(25..29)?.try_into().ok()?);
        Some(((TreeId(tree), Ino(ino), group), segment, page))
    }

    pub(crate) fn aside(original: &[u8]) -> Vec<u8> {
        key(ASIDE, &[original])
    }

    pub(crate) fn reply(id: RequestId) -> Vec<u8> {
        key(REPLY, &[&id.0])
    }
    pub(crate) fn parse_reply(key: &[u8]) -> Option<RequestId> {
        Some(RequestId(key.get(1..)?.try_into().ok()?))
    }

    pub(crate) fn actor(id: &str) -> Vec<u8> {
        key(ACTOR, &[id.as_bytes()])
    }
    pub(crate) fn parse_actor(key: &[u8]) -> Option<&str> {
        let id = std::str::from_utf8(key.get(1..)?).ok()?;
        (1..=63).contains(&id.len()).then_some(id)
    }
    pub(crate) fn capture(id: CaptureId) -> Vec<u8> {
        key(CAPTURE, &[&id.0])
    }
    pub(crate) fn parse_capture(key: &[u8]) -> Option<CaptureId> {
        Some(CaptureId(key.get(1..)?.try_into().ok()?))
    }

    pub(crate) fn tail_u32(key: &[u8]) -> Option<u32> {
        Some(u32::from_be_bytes(key.get(1..5)?.try_into().ok()?))
    }
    pub(crate) fn tail_u32_u64(key: &[u8]) -> Option<(u32, u64)> {
        Some((tail_u32(key)?, u64::from_be_bytes(key.get(5..13)?.try_into().ok()?)))
    }
    pub(crate) fn tail_writer(key: &[u8]) -> Option<u16> {
        Some(u16::from_be_bytes(key.get(5..7)?.try_into().ok()?))
    }
    pub(crate) fn tail_u64(key: &[u8]) -> Option<u64> {
        Some(u64::from_be_bytes(key.get(1..9)?.try_into().ok()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn name() -> impl Strategy<Value = Vec<u8>> {
        proptest::collection::vec(1u8..=255, 1..255)
    }

    proptest! {
        #[test]
        fn dentry_keys_survive_the_round_trip(tree: u32, dir: u64, hash: u64, name in name(), branch: u32, epoch: u64) {
            let prefix = Prefix::dentry(TreeId(tree), Ino(dir), hash, &name);
            let key = VersionedKey::parse(Family::Dentry, &prefix.version(BranchId(branch), Epoch(epoch))).unwrap();
            prop_assert_eq!(key.tree(), TreeId(tree));
            prop_assert_eq!((key.branch, key.epoch), (BranchId(branch), Epoch(epoch)));
            prop_assert_eq!(key.prefix.parse(), Some(PrefixOf::Dentry { dir: Ino(dir), hash, name: &name }));
            prop_assert_eq!(key.prefix, prefix);
        }

        #[test]
        fn touched_keys_survive_the_round_trip(tree: u32, ino: u64, group: u64, name in name(), branch: u32, epoch: u64) {
            for prefix in [
                Prefix::inode(TreeId(tree), Ino(ino)),
                Prefix::xattr(TreeId(tree), Ino(ino), &name),
                Prefix::extent(TreeId(tree), Ino(ino), group),
                Prefix::dentry(TreeId(tree), Ino(ino), group, &name),
            ] {
                let key = prefix.touched(BranchId(branch), Epoch(epoch));
                prop_assert_eq!(parse_touched(TreeId(tree), &key), Some((BranchId(branch), Epoch(epoch), prefix)));
            }
        }

        #[test]
        fn newer_versions_stand_first(ino: u64, a: (u32, u64), b: (u32, u64)) {
            let prefix = Prefix::inode(TreeId(7), Ino(ino));
            let newer = prefix.version(BranchId(a.0), Epoch(a.1)) < prefix.version(BranchId(b.0), Epoch(b.1));
            prop_assert_eq!(newer, a > b);
        }

        #[test]
        fn versions_of_two_names_never_interleave(x in name(), y in name(), v: (u32, u64), w: (u32, u64)) {
            let (p, q) = (Prefix::xattr(TreeId(1), Ino(5), &x), Prefix::xattr(TreeId(1), Ino(5), &y));
            if p.as_bytes() < q.as_bytes() {
                prop_assert!(p.version(BranchId(v.0), Epoch(v.1)) < q.version(BranchId(w.0), Epoch(w.1)));
            }
        }

        #[test]
        fn any_bytes_are_parsed_or_refused(bytes: Vec<u8>) {
            for family in Family::ALL {
                VersionedKey::parse(family, &bytes);
            }
            parse_touched(TreeId(1), &bytes);
        }
    }
}
