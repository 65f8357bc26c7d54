//! The records that are not versioned: each parses.

use std::collections::BTreeMap;

use hashbrown::{HashMap, HashSet};

use super::{Check, Issue, Repair, repair};
use crate::ids::{BranchId, CaptureId, Epoch, Ino, TreeId, VolumeId};
use crate::store::record::{
    Actor, Answered, Branch, Capture, Flag, FreeList, LowerSlot, PageRun, Record, Reply, SegmentMark,
    Snapshot, Usage, Volume, WriterState,
};
use crate::store::{META, Settled, StoreError, hex, meta};

/// A group of a file.
pub(super) type Place = (TreeId, Ino, u64);

/// What is stored under a key of `meta`.
#[derive(Default)]
pub(super) struct Meta {
    pub(super) counters: HashMap<u8, u64>,
    pub(super) volumes: BTreeMap<VolumeId, Volume>,
    pub(super) branches: BTreeMap<BranchId, Branch>,
    pub(super) snapshots: BTreeMap<(BranchId, Epoch), Snapshot>,
    pub(super) slots: BTreeMap<TreeId, Vec<u8>>,
    pub(super) usage: BTreeMap<BranchId, Usage>,
    pub(super) orphans: BTreeMap<BranchId, HashSet<Ino>>,
    /// Orphans that were removed and that snapshots show.
    pub(super) departed: Vec<(BranchId, Ino)>,
    /// From where up to where epochs are settled.
    pub(super) settled: BTreeMap<(BranchId, Epoch), Epoch>,
    /// Epochs that are to be sealed.
    pub(super) unsealed: HashSet<(BranchId, Epoch)>,
    pub(super) free: Vec<PageRun>,
    /// Pages that were let go of and may be needed by others.
    pub(super) doubted: Vec<(u32, u32)>,
    /// Groups that share pages with others.
    pub(super) tied: HashSet<Place>,
    pub(super) last_segment: Option<u32>,
    /// Which volumes an actor calls its own.
    pub(super) actors: Vec<(String, Vec<VolumeId>)>,
    /// Which ends of epochs a capture holds.
    pub(super) captures: Vec<(CaptureId, Vec<(VolumeId, Epoch)>)>,
    /// Whether every free list parses: else nobody knows which pages nothing refers to.
    pub(super) free_readable: bool,
}

/// A key that parses.
enum Key {
    Hash,
    Counter(u8),
    Volume(VolumeId),
    Branch(BranchId),
    Snapshot(BranchId, Epoch),
    LowerSlot(TreeId, u8),
    Usage(BranchId),
    Orphan(BranchId, Ino),
    Sweep,
    Free,
    Segment(u32),
    Tie(Place, Place),
    Doubt(u32, u32),
    Answered,
    Flag,
    Settled(BranchId, Epoch),
    Seal(BranchId, Epoch),
    Departed(BranchId, Ino),
    Reply,
    Actor(String),
    Capture(CaptureId),
    /// What cannot be read, where it was put.
    Aside,
}

/// Reads all of them.
pub(super) fn read(check: &mut Check<'_>) -> Result<Meta, StoreError> {
    let mut all = Meta { free_readable: true, ..Meta::default() };
    let Check { store, frozen, repair, findings } = check;
    frozen.scan(META, &[], &[], |key, value| {
        findings.report.records += 1;
        let Some(parsed) = parse(key) else {
            findings.add(Issue::UnreadableKey { family: META, key: hex(key) });
            return Ok(true);
        };
        if let Key::Tie(one, other) = parsed {
            let back = meta::tie(other, one);
            if !frozen.contains(META, &back)? {
                let repaired = *repair == Repair::Yes && repair::tie_back(store, key, &back)?;
                let (tree, inode, group) = (one.0.0, one.1.0, one.2);
                findings.add(Issue::OneSidedTie { tree, inode, group, repaired });
            }
        }
        if let Key::Aside = parsed {
            // Forgotten at the end, when what it stood for was counted anew.
            let (key, repaired) = (hex(key.get(1..).unwrap_or_default()), *repair == Repair::Yes);
            findings.add(Issue::RecordMovedAside { key, repaired });
            return Ok(true);
        }
        let is_free = matches!(parsed, Key::Free);
        if all.take(parsed, value).is_none() {
            all.free_readable &= !is_free;
            findings.add(Issue::UnreadableRecord { family: META, key: hex(key) });
        }
        Ok(true)
    })?;
    Ok(all)
}

fn parse(key: &[u8]) -> Option<Key> {
    let (&kind, rest) = key.split_first()?;
    let branch = || meta::tail_u32(key).map(BranchId);
    let long = || meta::tail_u32_u64(key).map(|(branch, number)| (BranchId(branch), number));
    Some(match (kind, rest.len()) {
        (0x02, 0) => Key::Hash,
        (meta::COUNTER, 1) => Key::Counter(*rest.first()?),
        (meta::VOLUME, 4) => Key::Volume(VolumeId(meta::tail_u32(key)?)),
        (meta::BRANCH, 4) => Key::Branch(branch()?),
        (meta::SNAPSHOT, 12) => long().map(|(branch, epoch)| Key::Snapshot(branch, Epoch(epoch)))?,
        (meta::LOWER_SLOT, 5) => Key::LowerSlot(TreeId(meta::tail_u32(key)?), *rest.last()?),
        (meta::USAGE, 6) => Key::Usage(branch()?),
        (meta::ORPHAN, 12) => long().map(|(branch, ino)| Key::Orphan(branch, Ino(ino)))?,
        (meta::SWEEP, 12) => Key::Sweep,
        (meta::FREE, 8) => Key::Free,
        (meta::SEGMENT, 4) => Key::Segment(meta::tail_u32(key)?),
        (meta::TIE, 36) => {
            let (tree, ino) = meta::tail_u32_u64(key)?;
            let group = u64::from_be_bytes(key.get(13..21)?.try_into().ok()?);
            Key::Tie((TreeId(tree), Ino(ino), group), meta::parse_tie(key)?)
        }
        (meta::DOUBT, 28) => meta::parse_doubt(key).map(|(_, segment, page)| Key::Doubt(segment, page))?,
        (meta::ANSWERED, 16) => Key::Answered,
        (meta::FLAG, 4) => Key::Flag,
        (meta::SETTLED, 12) => long().map(|(branch, after)| Key::Settled(branch, Epoch(after)))?,
        (meta::SEAL, 12) => long().map(|(branch, epoch)| Key::Seal(branch, Epoch(epoch)))?,
        (meta::DEPARTED, 12) => long().map(|(branch, ino)| Key::Departed(branch, Ino(ino)))?,
        (meta::REPLY, 16) => Key::Reply,
        (meta::ACTOR, _) => Key::Actor(meta::parse_actor(key)?.to_owned()),
        (meta::CAPTURE, 16) => Key::Capture(meta::parse_capture(key)?),
        (meta::ASIDE, 1..) => Key::Aside,
        _ => return None,
    })
}

impl Meta {
    /// Takes a record over, `None` if it does not parse.
    fn take(&mut self, key: Key, value: &[u8]) -> Option<()> {
        let number = || value.try_into().ok().map(u64::from_le_bytes);
        match key {
            Key::Hash => return (value.len() == 16).then_some(()),
            Key::Counter(which) => {
                self.counters.insert(which, number()?);
            }
            Key::Volume(id) => {
                self.volumes.insert(id, Volume::decode(value)?);
            }
            Key::Branch(id) => {
                self.branches.insert(id, Branch::decode(value)?);
            }
            Key::Snapshot(branch, epoch) => {
                self.snapshots.insert((branch, epoch), Snapshot::decode(value)?);
            }
            Key::LowerSlot(tree, slot) => {
                LowerSlot::decode(value)?;
                self.slots.entry(tree).or_default().push(slot);
            }
            Key::Usage(branch) => {
                *self.usage.entry(branch).or_default() += WriterState::decode(value)?.usage;
            }
            Key::Answered => return Answered::decode(value).map(drop),
            Key::Flag => return Flag::decode(value).map(drop),
            Key::Orphan(branch, ino) => {
                self.orphans.entry(branch).or_default().insert(ino);
                return value.is_empty().then_some(());
            }
            Key::Sweep => return number().map(drop),
            Key::Free => self.free.extend(FreeList::decode(value)?.runs),
            Key::Segment(id) => {
                self.last_segment = self.last_segment.max(Some(id));
                SegmentMark::decode(value)?;
            }
            Key::Tie(one, _) => {
                self.tied.insert(one);
                return value.is_empty().then_some(());
            }
            Key::Settled(branch, after) => {
                self.settled.insert((branch, after), Settled::decode(value)?.through);
            }
            Key::Seal(branch, epoch) => {
                self.unsealed.insert((branch, epoch));
                return value.is_empty().then_some(());
            }
            Key::Departed(branch, ino) => {
                self.departed.push((branch, ino));
                return number().map(drop);
            }
            Key::Reply => return Reply::decode(value).map(drop),
            Key::Actor(id) => self.actors.push((id, Actor::decode(value)?.volumes)),
            Key::Capture(id) => {
                let captured = Capture::decode(value)?.snapshots;
                let ends = captured.iter().map(|snapshot| (snapshot.volume, snapshot.epoch));
                self.captures.push((id, ends.collect()));
            }
            Key::Aside => return None,
            Key::Doubt(segment, page) => {
                self.doubted.push((segment, page));
                return value.is_empty().then_some(());
            }
        }
        Some(())
    }
}
