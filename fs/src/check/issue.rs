//! What can be wrong with a store: one variant per invariant of `docs/on-disk.md`.

use std::fmt;

use crate::attr::FileKind;
use crate::ids::CaptureId;

/// An inode in one of the trees that can be seen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The first tree in which it shows: `VOLUME` for a head, `VOLUME@EPOCH` for a snapshot or where a fork began.
    pub tree: String,
    /// The inode.
    pub inode: u64,
    /// Its path there, as far as it can be told.
    pub path: Option<Vec<u8>>,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: inode {}", self.tree, self.inode)?;
        match &self.path {
            Some(path) => write!(f, " (/{})", String::from_utf8_lossy(path)),
            None => Ok(()),
        }
    }
}

/// One broken invariant.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are what the documentation of the variant speaks of")]
pub enum Issue {
    /// A key does not parse.
    UnreadableKey { family: &'static str, key: String },
    /// A record does not parse, or has a version this durdir does not know.
    UnreadableRecord { family: &'static str, key: String },
    /// A record that could not be read was moved aside when the store was opened, and what it said is missing.
    RecordMovedAside { key: String, repaired: bool },
    /// A name does not stand where its hash puts it: no look-up finds it.
    MisplacedName { key: String },
    /// A version was written by a branch that does not exist.
    VersionWithoutBranch { family: &'static str, key: String, branch: u32 },
    /// A version was written by a branch of another tree.
    VersionOfOtherTree { family: &'static str, key: String, branch: u32 },
    /// A version is of an epoch that its branch has not come to.
    VersionOfFuture { family: &'static str, key: String, branch: u32, epoch: u64 },
    /// A version of an epoch is not in the list of what the epoch touched.
    UntouchedVersion { family: &'static str, key: String, repaired: bool },
    /// A record has another, newer version in epochs that count as settled: no sweep would come to it.
    UnsettledVersion { family: &'static str, key: String, repaired: bool },
    /// The list of what an epoch touched belongs to a branch that does not exist.
    TouchedWithoutBranch { branch: u32 },

    /// A branch left a branch that does not exist.
    BranchWithoutParent { branch: u32, parent: u32 },
    /// A branch has a smaller number than the one it left.
    BranchBeforeParent { branch: u32, parent: u32 },
    /// A branch left its parent at an epoch that the parent has not come to, or belongs to another tree.
    BranchOffParent { branch: u32, parent: u32, epoch: u64 },
    /// A volume's head is no branch of its own.
    VolumeWithoutHead { volume: String, branch: u32 },
    /// Two volumes have the same name.
    VolumeNamedTwice { volume: String },
    /// A snapshot is of a branch that does not exist.
    SnapshotWithoutBranch { branch: u32, epoch: u64 },
    /// A snapshot is of an epoch that has not ended.
    SnapshotOfFuture { branch: u32, epoch: u64 },
    /// A snapshot says it is of another volume than its branch.
    SnapshotOfOtherVolume { branch: u32, epoch: u64, volume: u32 },
    /// A volume of an actor does not exist.
    ActorWithoutVolume { actor: String, volume: u32 },
    /// A snapshot that a capture of an actor holds does not exist.
    CaptureWithoutSnapshot { capture: CaptureId, volume: u32, epoch: u64 },
    /// A number is in use that is yet to be handed out.
    CounterBehind { counter: &'static str, next: u64, used: u64 },
    /// The spaces of inode numbers of a tree's lowers are not numbered from 0 on.
    LowerSlotMissing { tree: u32, slot: u8 },

    /// A tree without lowers has no root.
    MissingRoot { at: Place },
    /// A name leads to an inode that does not exist.
    EntryWithoutInode { at: Place },
    /// Names stand in what is no directory, or was removed.
    EntryWithoutDirectory { at: Place, names: u32 },
    /// A name says its inode is of another kind.
    EntryOfOtherKind { at: Place, entry: FileKind, inode: FileKind },
    /// The link count of a file is not the number of its names.
    WrongLinkCount { at: Place, counted: u32, names: u32 },
    /// The link count of a directory is not two more than the number of its subdirectories.
    WrongSubdirectoryCount { at: Place, counted: u32, subdirectories: u32 },
    /// An inode has links but no name.
    InodeWithoutName { at: Place },
    /// A directory has more than one name.
    DirectoryNamedTwice { at: Place, names: u32 },
    /// A directory says it has another name, or is in another directory.
    WrongParent { at: Place, parent: u64 },
    /// A directory is its own ancestor.
    UnreachableDirectory { at: Place },
    /// An inode without links is not marked to be removed.
    OrphanWithoutMark { at: Place, repaired: bool },
    /// The mark of an orphan is of an inode that is gone.
    StaleOrphanMark { volume: String, inode: u64, repaired: bool },
    /// The mark of an orphan is of an inode that has links.
    LinkedOrphan { at: Place, repaired: bool },
    /// The mark of an orphan is of a branch that does not exist.
    OrphanMarkWithoutBranch { branch: u32, inode: u64 },
    /// An extended attribute is of an inode that does not exist.
    XattrWithoutInode { at: Place },
    /// An inode says it has no extended attributes, so that nobody looks for the one it has.
    HiddenXattr { at: Place },

    /// What an inode says its content takes is not the sum of its groups.
    WrongStoredBytes { at: Place, counted: u64, sum: u64 },
    /// There is data beyond the end of a file.
    DataBeyondEnd { at: Place, group: u64, size: u64 },
    /// A group other than the first holds its bytes itself.
    InlineNotFirst { at: Place, group: u64 },
    /// There is data for an inode that is no file.
    DataWithoutFile { at: Place },
    /// A page lies in a segment that does not exist.
    MissingSegment { at: Place, segment: u32 },
    /// A page lies beyond the end of its segment.
    PageBeyondSegment { at: Place, segment: u32, page: u32 },
    /// A page belongs to two places that are not tied to each other: whoever lets go of it frees it for both.
    SharedPage { at: Place, segment: u32, page: u32 },
    /// A page was allocated in a later epoch than that of the version that refers to it, and might be rewritten in place.
    PageOfFuture { at: Place, segment: u32, page: u32 },
    /// The bytes of a page do not match its checksum.
    WrongChecksum { at: Place, segment: u32, page: u32 },
    /// A page has no checksum although its epoch ended and is not waiting to be sealed.
    PageWithoutChecksum { at: Place, segment: u32, page: u32, repaired: bool },
    /// A page that can be seen is about to be given back.
    FreedPageInUse { segment: u32, page: u32 },
    /// Of two groups that share pages one does not know of the other.
    OneSidedTie { tree: u32, inode: u64, group: u64, repaired: bool },
    /// Pages that nothing refers to take space.
    LeakedPages { segment: u32, pages: u64, repaired: bool },

    /// What a volume counts is not what its head stores.
    WrongUsage { volume: String, bytes: (i64, i64), inodes: (i64, i64), repaired: bool },
    /// What a snapshot counts is not what it stores.
    WrongSnapshotUsage { snapshot: String, bytes: (i64, i64), inodes: (i64, i64), repaired: bool },
    /// Usage is counted for a branch that does not exist.
    UsageWithoutBranch { branch: u32 },
}

impl Issue {
    /// The name of the kind, stable for scripts.
    pub fn kind(&self) -> &'static str {
        match self {
            Issue::UnreadableKey { .. } => "unreadable-key",
            Issue::UnreadableRecord { .. } => "unreadable-record",
            Issue::RecordMovedAside { .. } => "record-moved-aside",
            Issue::MisplacedName { .. } => "misplaced-name",
            Issue::VersionWithoutBranch { .. } => "version-without-branch",
            Issue::VersionOfOtherTree { .. } => "version-of-other-tree",
            Issue::VersionOfFuture { .. } => "version-of-future",
            Issue::UntouchedVersion { .. } => "untouched-version",
            Issue::UnsettledVersion { .. } => "unsettled-version",
            Issue::TouchedWithoutBranch { .. } => "touched-without-branch",
            Issue::BranchWithoutParent { .. } => "branch-without-parent",
            Issue::BranchBeforeParent { .. } => "branch-before-parent",
            Issue::BranchOffParent { .. } => "branch-off-parent",
            Issue::VolumeWithoutHead { .. } => "volume-without-head",
            Issue::VolumeNamedTwice { .. } => "volume-named-twice",
            Issue::SnapshotWithoutBranch { .. } => "snapshot-without-branch",
            Issue::SnapshotOfFuture { .. } => "snapshot-of-future",
            Issue::SnapshotOfOtherVolume { .. } => "snapshot-of-other-volume",
            Issue::ActorWithoutVolume { .. } => "actor-without-volume",
            Issue::CaptureWithoutSnapshot { .. } => "capture-without-snapshot",
            Issue::CounterBehind { .. } => "counter-behind",
            Issue::LowerSlotMissing { .. } => "lower-slot-missing",
            Issue::MissingRoot { .. } => "missing-root",
            Issue::EntryWithoutInode { .. } => "entry-without-inode",
            Issue::EntryWithoutDirectory { .. } => "entry-without-directory",
            Issue::EntryOfOtherKind { .. } => "entry-of-other-kind",
            Issue::WrongLinkCount { .. } => "wrong-link-count",
            Issue::WrongSubdirectoryCount { .. } => "wrong-subdirectory-count",
            Issue::InodeWithoutName { .. } => "inode-without-name",
            Issue::DirectoryNamedTwice { .. } => "directory-named-twice",
            Issue::WrongParent { .. } => "wrong-parent",
            Issue::UnreachableDirectory { .. } => "unreachable-directory",
            Issue::OrphanWithoutMark { .. } => "orphan-without-mark",
            Issue::StaleOrphanMark { .. } => "stale-orphan-mark",
            Issue::LinkedOrphan { .. } => "linked-orphan",
            Issue::OrphanMarkWithoutBranch { .. } => "orphan-mark-without-branch",
            Issue::XattrWithoutInode { .. } => "xattr-without-inode",
            Issue::HiddenXattr { .. } => "hidden-xattr",
            Issue::WrongStoredBytes { .. } => "wrong-stored-bytes",
            Issue::DataBeyondEnd { .. } => "data-beyond-end",
            Issue::InlineNotFirst { .. } => "inline-not-first",
            Issue::DataWithoutFile { .. } => "data-without-file",
            Issue::MissingSegment { .. } => "missing-segment",
            Issue::PageBeyondSegment { .. } => "page-beyond-segment",
            Issue::SharedPage { .. } => "shared-page",
            Issue::PageOfFuture { .. } => "page-of-future",
            Issue::WrongChecksum { .. } => "wrong-checksum",
            Issue::PageWithoutChecksum { .. } => "page-without-checksum",
            Issue::FreedPageInUse { .. } => "freed-page-in-use",
            Issue::OneSidedTie { .. } => "one-sided-tie",
            Issue::LeakedPages { .. } => "leaked-pages",
            Issue::WrongUsage { .. } => "wrong-usage",
            Issue::WrongSnapshotUsage { .. } => "wrong-snapshot-usage",
            Issue::UsageWithoutBranch { .. } => "usage-without-branch",
        }
    }

    /// The volume it is about.
    pub fn volume(&self) -> Option<String> {
        let called = match self {
            Issue::VolumeWithoutHead { volume, .. }
            | Issue::VolumeNamedTwice { volume }
            | Issue::StaleOrphanMark { volume, .. }
            | Issue::WrongUsage { volume, .. } => volume,
            Issue::WrongSnapshotUsage { snapshot, .. } => snapshot,
            _ => &self.place()?.tree,
        };
        Some(called.split_once('@').map_or(called.as_str(), |(volume, _)| volume).to_owned())
    }

    /// The inode it is about.
    pub fn inode(&self) -> Option<u64> {
        match self {
            Issue::StaleOrphanMark { inode, .. } | Issue::OrphanMarkWithoutBranch { inode, .. } => {
                Some(*inode)
            }
            _ => self.place().map(|at| at.inode),
        }
    }

    /// The path it is about.
    pub fn path(&self) -> Option<Vec<u8>> {
        self.place().and_then(|at| at.path.clone())
    }

    /// Whether it was mended.
    pub fn repaired(&self) -> bool {
        self.repair() == Some(true)
    }

    /// Whether a repair may mend it.
    pub fn is_repairable(&self) -> bool {
        self.repair().is_some()
    }

    /// Whether it was mended; `None` where that cannot be.
    fn repair(&self) -> Option<bool> {
        match self {
            Issue::UntouchedVersion { repaired, .. }
            | Issue::UnsettledVersion { repaired, .. }
            | Issue::RecordMovedAside { repaired, .. }
            | Issue::OrphanWithoutMark { repaired, .. }
            | Issue::StaleOrphanMark { repaired, .. }
            | Issue::LinkedOrphan { repaired, .. }
            | Issue::PageWithoutChecksum { repaired, .. }
            | Issue::OneSidedTie { repaired, .. }
            | Issue::LeakedPages { repaired, .. }
            | Issue::WrongUsage { repaired, .. }
            | Issue::WrongSnapshotUsage { repaired, .. } => Some(*repaired),
            _ => None,
        }
    }

    /// The inode it is about, where that is in a tree.
    pub fn place(&self) -> Option<&Place> {
        match self {
            Issue::MissingRoot { at }
            | Issue::EntryWithoutInode { at }
            | Issue::EntryWithoutDirectory { at, .. }
            | Issue::EntryOfOtherKind { at, .. }
            | Issue::WrongLinkCount { at, .. }
            | Issue::WrongSubdirectoryCount { at, .. }
            | Issue::InodeWithoutName { at }
            | Issue::DirectoryNamedTwice { at, .. }
            | Issue::WrongParent { at, .. }
            | Issue::UnreachableDirectory { at }
            | Issue::OrphanWithoutMark { at, .. }
            | Issue::LinkedOrphan { at, .. }
            | Issue::XattrWithoutInode { at }
            | Issue::HiddenXattr { at }
            | Issue::WrongStoredBytes { at, .. }
            | Issue::DataBeyondEnd { at, .. }
            | Issue::InlineNotFirst { at, .. }
            | Issue::DataWithoutFile { at }
            | Issue::MissingSegment { at, .. }
            | Issue::PageBeyondSegment { at, .. }
            | Issue::SharedPage { at, .. }
            | Issue::PageOfFuture { at, .. }
            | Issue::WrongChecksum { at, .. }
            | Issue::PageWithoutChecksum { at, .. } => Some(at),
            _ => None,
        }
    }
}

impl fmt::Display for Issue {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Issue::UnreadableKey { family, key } => write!(f, "{family}: key {key} does not parse"),
            Issue::UnreadableRecord { family, key } => {
                write!(f, "{family}: record at key {key} does not parse")
            }
            Issue::RecordMovedAside { key, .. } => {
                write!(f, "meta: the record at key {key} could not be read and was moved aside")
            }
            Issue::MisplacedName { key } => write!(f, "dentry: the name of key {key} has another hash"),
            Issue::VersionWithoutBranch { family, key, branch } => {
                write!(f, "{family}: key {key} is of branch {branch}, which does not exist")
            }
            Issue::VersionOfOtherTree { family, key, branch } => {
                write!(f, "{family}: key {key} is of branch {branch}, which belongs to another tree")
            }
            Issue::VersionOfFuture { family, key, branch, epoch } => {
                write!(f, "{family}: key {key} is of epoch {epoch}, which branch {branch} has not come to")
            }
            Issue::UntouchedVersion { family, key, .. } => {
                write!(f, "{family}: key {key} is not listed as touched by its epoch")
            }
            Issue::UnsettledVersion { family, key, .. } => {
                write!(f, "{family}: key {key} has a newer version, and counts as the only one of its epochs")
            }
            Issue::TouchedWithoutBranch { branch } => {
                write!(f, "records are listed as touched by branch {branch}, which does not exist")
            }
            Issue::BranchWithoutParent { branch, parent } => {
                write!(f, "branch {branch} left branch {parent}, which does not exist")
            }
            Issue::BranchBeforeParent { branch, parent } => {
                write!(f, "branch {branch} left branch {parent}, which is younger")
            }
            Issue::BranchOffParent { branch, parent, epoch } => {
                write!(
                    f,
                    "branch {branch} left branch {parent} at epoch {epoch}, which is not in its history"
                )
            }
            Issue::VolumeWithoutHead { volume, branch } => {
                write!(f, "volume {volume}: its head, branch {branch}, does not exist or is not its own")
            }
            Issue::VolumeNamedTwice { volume } => write!(f, "two volumes have the name {volume}"),
            Issue::SnapshotWithoutBranch { branch, epoch } => {
                write!(f, "snapshot of epoch {epoch}: its branch {branch} does not exist")
            }
            Issue::SnapshotOfFuture { branch, epoch } => {
                write!(f, "snapshot of epoch {epoch} of branch {branch}, which has not ended")
            }
            Issue::SnapshotOfOtherVolume { branch, epoch, volume } => {
                write!(
                    f,
                    "snapshot of epoch {epoch} of branch {branch}: volume {volume} does not own that branch"
                )
            }
            Issue::ActorWithoutVolume { actor, volume } => {
                write!(f, "actor {actor}: its volume {volume} does not exist")
            }
            Issue::CaptureWithoutSnapshot { capture, volume, epoch } => {
                write!(f, "capture {capture}: there is no snapshot of volume {volume} at epoch {epoch}")
            }
            Issue::CounterBehind { counter, next, used } => {
                write!(f, "{counter} {used} is in use, but {next} is the next that would be handed out")
            }
            Issue::LowerSlotMissing { tree, slot } => write!(f, "tree {tree}: lower slot {slot} is missing"),
            Issue::MissingRoot { at } => write!(f, "{at}: the root is missing"),
            Issue::EntryWithoutInode { at } => write!(f, "{at}: it has a name but does not exist"),
            Issue::EntryWithoutDirectory { at, names } => {
                write!(f, "{at}: {names} names are in it, but it is not, or no longer, a directory")
            }
            Issue::EntryOfOtherKind { at, entry, inode } => {
                write!(f, "{at}: its name says {entry:?}, but it is {inode:?}")
            }
            Issue::WrongLinkCount { at, counted, names } => {
                write!(f, "{at}: its link count is {counted}, but it has {names} names")
            }
            Issue::WrongSubdirectoryCount { at, counted, subdirectories } => {
                write!(f, "{at}: its link count is {counted}, but it has {subdirectories} subdirectories")
            }
            Issue::InodeWithoutName { at } => write!(f, "{at}: it has links but no name"),
            Issue::DirectoryNamedTwice { at, names } => write!(f, "{at}: the directory has {names} names"),
            Issue::WrongParent { at, parent } => {
                write!(f, "{at}: it says it is in directory {parent} under another name than it has")
            }
            Issue::UnreachableDirectory { at } => write!(f, "{at}: the directory is its own ancestor"),
            Issue::OrphanWithoutMark { at, .. } => {
                write!(f, "{at}: it has no links and is not marked to be removed")
            }
            Issue::StaleOrphanMark { volume, inode, .. } => {
                write!(f, "{volume}: inode {inode} is marked to be removed, but is gone")
            }
            Issue::LinkedOrphan { at, .. } => write!(f, "{at}: it is marked to be removed, but has links"),
            Issue::OrphanMarkWithoutBranch { branch, inode } => {
                write!(f, "inode {inode} is marked to be removed from branch {branch}, which does not exist")
            }
            Issue::XattrWithoutInode { at } => {
                write!(f, "{at}: it has extended attributes but does not exist")
            }
            Issue::HiddenXattr { at } => {
                write!(f, "{at}: it has extended attributes but says it has none")
            }
            Issue::WrongStoredBytes { at, counted, sum } => {
                write!(f, "{at}: it says {counted} bytes are stored, but it is {sum}")
            }
            Issue::DataBeyondEnd { at, group, size } => {
                write!(f, "{at}: group {group} holds data beyond the end of the file at {size}")
            }
            Issue::InlineNotFirst { at, group } => write!(f, "{at}: group {group} holds its bytes itself"),
            Issue::DataWithoutFile { at } => write!(f, "{at}: data is stored for it, but it is no file"),
            Issue::MissingSegment { at, segment } => {
                write!(f, "{at}: its data is in segment {segment:08x}, which does not exist")
            }
            Issue::PageBeyondSegment { at, segment, page } => {
                write!(f, "{at}: page {page} lies beyond the end of segment {segment:08x}")
            }
            Issue::SharedPage { at, segment, page } => {
                write!(f, "{at}: page {page} of segment {segment:08x} belongs to something else too")
            }
            Issue::PageOfFuture { at, segment, page } => {
                write!(
                    f,
                    "{at}: page {page} of segment {segment:08x} is of a later epoch than what refers to it"
                )
            }
            Issue::WrongChecksum { at, segment, page } => {
                write!(f, "{at}: page {page} of segment {segment:08x} does not match its checksum")
            }
            Issue::PageWithoutChecksum { at, segment, page, .. } => {
                write!(f, "{at}: page {page} of segment {segment:08x} never got its checksum back")
            }
            Issue::FreedPageInUse { segment, page } => {
                write!(f, "page {page} of segment {segment:08x} is about to be given back, but is in use")
            }
            Issue::OneSidedTie { tree, inode, group, .. } => {
                write!(
                    f,
                    "tree {tree}: group {group} of inode {inode} shares pages with one that does not know it"
                )
            }
            Issue::LeakedPages { segment, pages, .. } => {
                write!(f, "segment {segment:08x}: nothing refers to {pages} pages that take space")
            }
            Issue::WrongUsage { volume: called, bytes, inodes, .. }
            | Issue::WrongSnapshotUsage { snapshot: called, bytes, inodes, .. } => write!(
                f,
                "{called}: counted as {} bytes in {} inodes, but it is {} bytes in {} inodes",
                bytes.0, inodes.0, bytes.1, inodes.1
            ),
            Issue::UsageWithoutBranch { branch } => {
                write!(f, "usage is counted for branch {branch}, which does not exist")
            }
        }
    }
}
