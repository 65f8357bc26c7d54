//! Records of the `meta` column family: volumes, branches, snapshots, and the store's own book-keeping.

use std::path::PathBuf;

use super::Record;
use super::codec::{Reader, Writer};
use crate::attr::Timestamp;
use crate::ids::{BranchId, Epoch, Ino, SessionId, TreeId, VolumeId};
use crate::request::{Answer, KernelRequest};

/// The newest version.
pub type Volume = VolumeV1;
/// The newest version.
pub type Branch = BranchV1;
/// The newest version.
pub type Snapshot = SnapshotV1;
/// The newest version.
pub type Usage = UsageV1;
/// The newest version.
pub type WriterState = WriterStateV1;
/// The newest version.
pub type Answered = AnsweredV1;
/// The newest version.
pub type Flag = FlagV1;
/// The newest version.
pub type LowerSlot = LowerSlotV1;
/// The newest version.
pub type FreeList = FreeListV2;
/// The newest version.
pub type SegmentMark = SegmentMarkV2;

/// A volume: a name for the head of a branch.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct VolumeV1 {
    /// Its name.
    pub name: String,
    /// The family whose keys it shares.
    pub tree: TreeId,
    /// The branch that is written.
    pub branch: BranchId,
    /// When it was made.
    pub created: Timestamp,
    /// Most bytes its head may store.
    pub quota_bytes: Option<u64>,
    /// Most inodes its head may store.
    pub quota_inodes: Option<u64>,
    /// Host directories, top first.
    pub lowers: Vec<PathBuf>,
    /// The snapshot it was forked from, as it was called then. What it is called now follows from its branches.
    pub parent: Option<String>,
}

impl Record for VolumeV1 {
    fn encode(&self) -> Vec<u8> {
        use std::os::unix::ffi::OsStrExt;
        let mut writer = Writer::version(1);
        writer
            .string(self.name.as_bytes())
            .u32(self.tree.0)
            .u32(self.branch.0)
            .time(self.created)
            .u64(self.quota_bytes.unwrap_or(u64::MAX))
            .u64(self.quota_inodes.unwrap_or(u64::MAX))
            .string(self.parent.as_deref().unwrap_or_default().as_bytes());
        for lower in &self.lowers {
            writer.string(lower.as_os_str().as_bytes());
        }
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        use std::os::unix::ffi::OsStrExt;
        let mut reader = Reader::version(bytes, 1)?;
        let limit = |value: u64| (value != u64::MAX).then_some(value);
        let mut volume = VolumeV1 {
            name: String::from_utf8(reader.string()?.to_vec()).ok()?,
            tree: TreeId(reader.u32()?),
            branch: BranchId(reader.u32()?),
            created: reader.time()?,
            quota_bytes: limit(reader.u64()?),
            quota_inodes: limit(reader.u64()?),
            parent: Some(String::from_utf8(reader.string()?.to_vec()).ok()?).filter(|name| !name.is_empty()),
            lowers: Vec::new(),
        };
        while reader.end(()).is_none() {
            volume.lowers.push(PathBuf::from(std::ffi::OsStr::from_bytes(reader.string()?)));
        }
        Some(volume)
    }
}

/// A line of epochs.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct BranchV1 {
    /// The family it belongs to.
    pub tree: TreeId,
    /// The volume that made it.
    pub volume: VolumeId,
    /// Where it left its parent: it sees that branch up to and with this epoch.
    pub parent: Option<(BranchId, Epoch)>,
    /// The epoch that is written, or is about to be: a cut announces the next one before it begins.
    pub epoch: Epoch,
}

impl Record for BranchV1 {
    fn encode(&self) -> Vec<u8> {
        let (parent, at) = self.parent.unwrap_or((BranchId(0), Epoch(0)));
        Writer::version(1)
            .u32(self.tree.0)
            .u32(self.volume.0)
            .u32(parent.0)
            .u64(at.0)
            .u64(self.epoch.0)
            .finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        let (tree, volume) = (TreeId(reader.u32()?), VolumeId(reader.u32()?));
        let (parent, at) = (BranchId(reader.u32()?), Epoch(reader.u64()?));
        let epoch = Epoch(reader.u64()?);
        reader.end(BranchV1 { tree, volume, parent: (parent.0 != 0).then_some((parent, at)), epoch })
    }
}

/// A snapshot: the end of an epoch that stays visible.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SnapshotV1 {
    /// The volume it is of.
    pub volume: VolumeId,
    /// A name beside its epoch.
    pub name: Option<String>,
    /// When it was cut.
    pub created: Timestamp,
    /// The cut, the same for all volumes that were cut at once.
    pub cut: u64,
    /// What the head stored at that moment.
    pub usage: UsageV1,
}

impl SnapshotV1 {
    /// Returns the name that stands for it in listings: its own, or its epoch.
    pub fn shown_as(&self, epoch: Epoch) -> String {
        self.name.clone().unwrap_or_else(|| epoch.to_string())
    }
}

impl Record for SnapshotV1 {
    fn encode(&self) -> Vec<u8> {
        Writer::version(1)
            .u32(self.volume.0)
            .string(self.name.as_deref().unwrap_or_default().as_bytes())
            .time(self.created)
            .u64(self.cut)
            .i64(self.usage.bytes)
            .i64(self.usage.inodes)
            .finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        let snapshot = SnapshotV1 {
            volume: VolumeId(reader.u32()?),
            name: Some(String::from_utf8(reader.string()?.to_vec()).ok()?).filter(|name| !name.is_empty()),
            created: reader.time()?,
            cut: reader.u64()?,
            usage: UsageV1 { bytes: reader.i64()?, inodes: reader.i64()? },
        };
        reader.end(snapshot)
    }
}

/// What the head of a branch stores.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct UsageV1 {
    /// Bytes of file data, whole pages and inline bytes.
    pub bytes: i64,
    /// Inodes.
    pub inodes: i64,
}

impl std::ops::AddAssign for UsageV1 {
    fn add_assign(&mut self, other: UsageV1) {
        self.bytes += other.bytes;
        self.inodes += other.inodes;
    }
}

/// What one writer of a branch, a thread, added and took away, and what it answered last.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct WriterStateV1 {
    /// The sum of what it added and took away.
    pub usage: UsageV1,
    /// Its last change that was asked for by a request which may be sent again.
    pub answered: Option<AnsweredV1>,
}

/// A request and what it is answered with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct AnsweredV1 {
    /// The request.
    pub request: KernelRequest,
    /// Its answer.
    pub answer: Answer,
}

impl Record for WriterStateV1 {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::version(1);
        writer.i64(self.usage.bytes).i64(self.usage.inodes);
        if let Some(answered) = &self.answered {
            answered.put(&mut writer);
        }
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        let usage = UsageV1 { bytes: reader.i64()?, inodes: reader.i64()? };
        let answered = match reader.end(()) {
            Some(()) => None,
            None => Some(AnsweredV1::take(&mut reader)?),
        };
        reader.end(WriterStateV1 { usage, answered })
    }
}

impl AnsweredV1 {
    fn put(&self, writer: &mut Writer) {
        let (kind, value) = match self.answer {
            Answer::Done => (0, 0),
            Answer::Inode(ino) => (1, ino.0),
            Answer::Count(count) => (2, count),
        };
        writer.u64(self.request.session.0).u64(self.request.unique).u8(kind).u64(value);
    }

    fn take(reader: &mut Reader<'_>) -> Option<AnsweredV1> {
        let request = KernelRequest { session: SessionId(reader.u64()?), unique: reader.u64()? };
        let answer = match (reader.u8()?, reader.u64()?) {
            (0, 0) => Answer::Done,
            (1, ino) => Answer::Inode(Ino(ino)),
            (2, count) => Answer::Count(count),
            _ => return None,
        };
        Some(AnsweredV1 { request, answer })
    }
}

impl Record for AnsweredV1 {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::version(1);
        self.put(&mut writer);
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        let answered = AnsweredV1::take(&mut reader)?;
        reader.end(answered)
    }
}

/// Something that happened to a volume and that a person should know of.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct FlagV1 {
    /// When it happened last.
    pub since: Timestamp,
    /// How often.
    pub count: u32,
    /// What happened last.
    pub what: String,
}

impl Record for FlagV1 {
    fn encode(&self) -> Vec<u8> {
        Writer::version(1).time(self.since).u32(self.count).string(self.what.as_bytes()).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        let (since, count) = (reader.time()?, reader.u32()?);
        let what = String::from_utf8(reader.string()?.to_vec()).ok()?;
        reader.end(FlagV1 { since, count, what })
    }
}

/// One space of inode numbers among a tree's lowers, see [`crate::ids::Ino::of_lower`].
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash)]
pub struct LowerSlotV1 {
    /// Which lower.
    pub lower: u8,
    /// 0 for the device of the lower's root, else the `st_dev` of a file system inside it.
    pub device: u64,
    /// The bits of the host's inode numbers that do not fit beside the slot.
    pub high_bits: u16,
}

impl Record for LowerSlotV1 {
    fn encode(&self) -> Vec<u8> {
        Writer::version(1).u8(self.lower).u64(self.device).u16(self.high_bits).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        let slot = LowerSlotV1 { lower: reader.u8()?, device: reader.u64()?, high_bits: reader.u16()? };
        reader.end(slot)
    }
}

/// Pages of a segment, side by side.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Hash, PartialOrd, Ord)]
pub struct PageRun {
    /// Which segment.
    pub segment: u32,
    /// The first page.
    pub page: u32,
    /// How many.
    pub count: u32,
}

/// Pages that nobody sees any more and that are to be punched out of their segments.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FreeListV2 {
    /// The boot of the host in which they may be punched out: after another one a version of an older epoch, which nobody sees, may have to stand
    /// in with them for a newer one that was lost. 0: in every boot.
    pub boot: u128,
    /// Which.
    pub runs: Vec<PageRun>,
}

impl Record for FreeListV2 {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::version(2);
        writer.u128(self.boot);
        for run in &self.runs {
            writer.u32(run.segment).u32(run.page).u32(run.count);
        }
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.first() == Some(&1) {
            return FreeListV1::decode(bytes).map(FreeListV2::from);
        }
        let mut reader = Reader::version(bytes, 2)?;
        let boot = reader.u128()?;
        let mut runs = Vec::new();
        while let Some(segment) = reader.u32() {
            runs.push(PageRun { segment, page: reader.u32()?, count: reader.u32()? });
        }
        reader.end(FreeListV2 { boot, runs })
    }
}

/// A list as it was before it was bound to a boot.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct FreeListV1 {
    /// As in [`FreeListV2`].
    pub runs: Vec<PageRun>,
}

impl From<FreeListV1> for FreeListV2 {
    fn from(old: FreeListV1) -> FreeListV2 {
        FreeListV2 { boot: 0, runs: old.runs }
    }
}

impl Record for FreeListV1 {
    fn encode(&self) -> Vec<u8> {
        let mut writer = Writer::version(1);
        for run in &self.runs {
            writer.u32(run.segment).u32(run.page).u32(run.count);
        }
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        let mut runs = Vec::new();
        while let Some(segment) = reader.u32() {
            runs.push(PageRun { segment, page: reader.u32()?, count: reader.u32()? });
        }
        reader.end(FreeListV1 { runs })
    }
}

/// How much of a segment is known to be on the disk, and how far its checksums are to be believed.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentMarkV2 {
    /// Pages below this one were synced at least once since they were allocated.
    pub synced_pages: u32,
    /// The branch whose head appends to the segment.
    pub branch: BranchId,
    /// The first epoch that was not sealed when a boot of the host ended. Pages of it and of later ones may have been rewritten in
    /// place by an operation whose record, which takes the checksum away, was lost with the power.
    pub loose_from: Option<Epoch>,
    /// The boot of the host that wrote the segment: in another boot, what lies above
    /// `synced_pages` may have been lost with the power.
    pub boot: u128,
}

impl SegmentMarkV2 {
    /// What takes the place of a mark that cannot be read: everything was synced, in a boot that nobody knows.
    pub const UNREADABLE: SegmentMarkV2 =
        SegmentMarkV2 { synced_pages: u32::MAX, branch: BranchId(0), loose_from: None, boot: 0 };
}

impl Record for SegmentMarkV2 {
    fn encode(&self) -> Vec<u8> {
        Writer::version(2)
            .u32(self.synced_pages)
            .u32(self.branch.0)
            .u64(self.loose_from.map_or(u64::MAX, |epoch| epoch.0))
            .rest(&self.boot.to_le_bytes())
            .finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        if bytes.first() == Some(&1) {
            return SegmentMarkV1::decode(bytes).map(SegmentMarkV2::from);
        }
        let mut reader = Reader::version(bytes, 2)?;
        let (synced_pages, branch) = (reader.u32()?, BranchId(reader.u32()?));
        let loose_from = Some(Epoch(reader.u64()?)).filter(|epoch| epoch.0 != u64::MAX);
        let boot = u128::from_le_bytes(reader.rest().try_into().ok()?);
        Some(SegmentMarkV2 { synced_pages, branch, loose_from, boot })
    }
}

/// A mark as it was before power was taken away in tests.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SegmentMarkV1 {
    /// As in [`SegmentMarkV2`].
    pub synced_pages: u32,
    /// As in [`SegmentMarkV2`].
    pub boot: u128,
}

/// Nobody knows whose the segment was and what was sealed when: every one of its checksums may be out of date.
impl From<SegmentMarkV1> for SegmentMarkV2 {
    fn from(old: SegmentMarkV1) -> SegmentMarkV2 {
        let (synced_pages, boot) = (old.synced_pages, old.boot);
        SegmentMarkV2 { synced_pages, branch: BranchId(0), loose_from: Some(Epoch(0)), boot }
    }
}

impl Record for SegmentMarkV1 {
    fn encode(&self) -> Vec<u8> {
        Writer::version(1).u32(self.synced_pages).rest(&self.boot.to_le_bytes()).finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        let synced_pages = reader.u32()?;
        let boot = u128::from_le_bytes(reader.rest().try_into().ok()?);
        Some(SegmentMarkV1 { synced_pages, boot })
    }
}
