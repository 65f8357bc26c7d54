//! The attributes of an inode, and what of it still lies in a lower.

use super::Record;
use super::codec::{Reader, Writer};
use crate::attr::{FileKind, Timestamp};
use crate::ids::Ino;

/// The newest version.
pub type Inode = InodeV1;
/// The newest version.
pub type LowerRef = LowerRefV1;

/// An inode. A removed inode is stored as `[1] [0]`, any other as `[1] [1]` and the fields in
/// the order in which they stand here.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InodeV1 {
    /// What it is.
    pub kind: FileKind,
    /// Permission bits, `0o7777` at most.
    pub perm: u16,
    /// Names that lead here. A directory has 2 plus its subdirectories, or always 1 if it is
    /// merged from several lowers, where nobody counted.
    pub nlink: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Device number of a device node.
    pub rdev: u32,
    /// Bytes of a file, length of a symlink's target, 0 for anything else.
    pub size: u64,
    /// Bytes of the store that the newest version of the content takes; what quotas count.
    pub stored: u64,
    /// Last access as far as it was set.
    pub atime: Timestamp,
    /// Last change of the content.
    pub mtime: Timestamp,
    /// Last change of anything.
    pub ctime: Timestamp,
    /// Birth.
    pub btime: Timestamp,
    /// Whether any attribute was ever set here, so that most `getxattr` need not look.
    pub has_xattrs: bool,
    /// The directory that has, or had last, a name for this inode: for paths in messages and diffs.
    pub parent: Ino,
    /// That name; empty for the root.
    pub name: Box<[u8]>,
    /// What lies below.
    pub lower: Option<Box<LowerRef>>,
    /// Where a symlink points, if the store has it and not the lower.
    pub target: Option<Box<[u8]>>,
}

/// Where in the lowers an inode began.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LowerRefV1 {
    /// Path below the lowers' roots, the same in each; differs from the path in the volume after a
    /// rename, which is what makes it a redirect.
    pub path: Box<[u8]>,
    /// The lowers that are merged: bit n stands for the n-th. One bit for anything but a directory.
    pub layers: u64,
    /// Bytes of a file that may still be read from the lower. Shrinks with truncate, never grows.
    pub readable: u64,
    /// The lower's `st_blocks`, in units of 512 bytes.
    pub blocks: u64,
    /// The host's inode number, size and times at copy-up, to notice that the lower changed.
    pub host_ino: u64,
    /// See `host_ino`.
    pub host_size: u64,
    /// See `host_ino`.
    pub host_mtime: Timestamp,
    /// See `host_ino`.
    pub host_ctime: Timestamp,
}

impl InodeV1 {
    /// The bytes of a removed inode's last version.
    pub const REMOVED: &'static [u8] = &[1, 0];
}

impl Record for Option<InodeV1> {
    fn encode(&self) -> Vec<u8> {
        let Some(inode) = self else { return InodeV1::REMOVED.to_vec() };
        let mut writer = Writer::version(1);
        writer
            .u8(1)
            .u32(inode.kind.type_bits() | u32::from(inode.perm))
            .u32(inode.nlink)
            .u32(inode.uid)
            .u32(inode.gid)
            .u32(inode.rdev)
            .u64(inode.size)
            .u64(inode.stored)
            .time(inode.atime)
            .time(inode.mtime)
            .time(inode.ctime)
            .time(inode.btime)
            .u8(u8::from(inode.has_xattrs))
            .u64(inode.parent.0)
            .string(&inode.name);
        match &inode.lower {
            None => writer.u8(0),
            Some(lower) => writer
                .u8(1)
                .string(&lower.path)
                .u64(lower.layers)
                .u64(lower.readable)
                .u64(lower.blocks)
                .u64(lower.host_ino)
                .u64(lower.host_size)
                .time(lower.host_mtime)
                .time(lower.host_ctime),
        };
        match &inode.target {
            None => writer.u8(0),
            Some(target) => writer.u8(1).string(target),
        };
        writer.finish()
    }

    fn decode(bytes: &[u8]) -> Option<Self> {
        let mut reader = Reader::version(bytes, 1)?;
        match reader.u8()? {
            0 => return reader.end(None),
            1 => {}
            _ => return None,
        }
        let mode = reader.u32()?;
        let inode = InodeV1 {
            kind: FileKind::from_mode(mode)?,
            perm: u16::try_from(mode & 0o7777).ok()?,
            nlink: reader.u32()?,
            uid: reader.u32()?,
            gid: reader.u32()?,
            rdev: reader.u32()?,
            size: reader.u64()?,
            stored: reader.u64()?,
            atime: reader.time()?,
            mtime: reader.time()?,
            ctime: reader.time()?,
            btime: reader.time()?,
            has_xattrs: flag(reader.u8()?)?,
            parent: Ino(reader.u64()?),
            name: reader.string()?.into(),
            lower: match flag(reader.u8()?)? {
                false => None,
                true => Some(Box::new(LowerRefV1 {
                    path: reader.string()?.into(),
                    layers: reader.u64()?,
                    readable: reader.u64()?,
                    blocks: reader.u64()?,
                    host_ino: reader.u64()?,
                    host_size: reader.u64()?,
                    host_mtime: reader.time()?,
                    host_ctime: reader.time()?,
                })),
            },
            target: match flag(reader.u8()?)? {
                false => None,
                true => Some(reader.string()?.into()),
            },
        };
        reader.end(Some(inode))
    }
}

fn flag(byte: u8) -> Option<bool> {
    match byte {
        0 => Some(false),
        1 => Some(true),
        _ => None,
    }
}
