//! What fuser calls: every method decodes a request, calls the filesystem, and answers.
//!
//! # Overview
//! No method decides anything. Where one is not the same few lines as the others, a comment says
//! what the protocol asks for.
//!
//! Not here, because fuser 0.18 does not know them and answers `ENOSYS`, on which the kernel falls
//! back: `TMPFILE` (open(2) gives EOPNOTSUPP), `STATX` (no birth time), `SYNCFS`.
//!
//! # Concurrency
//! Called by all threads of a session at once. An operation is answered on the thread that read it.

use std::cell::RefCell;
use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use fuser::{
    AccessFlags, BsdFileFlags, CopyFileRangeFlags, Errno, FileHandle, Filesystem, INodeNo, InitFlags,
    IoctlFlags, KernelConfig, LockOwner, OpenFlags, PollEvents, PollFlags, PollNotifier, RenameFlags,
    ReplyAttr, ReplyBmap, ReplyCreate, ReplyData, ReplyDirectory, ReplyDirectoryPlus, ReplyEmpty, ReplyEntry,
    ReplyIoctl, ReplyLseek, ReplyOpen, ReplyPoll, ReplyStatfs, ReplyWrite, ReplyXattr, Request, TimeOrNow,
    Version, WriteFlags,
};

use super::affinity::{CpuDealer, Cpus};
use super::reply::{Asked, AttrReply, EntryReply, Listing, ListingPlus, Missing, Op, Requests, XattrReply};
use super::session_memory::{Offered, SessionMemory};
use super::stats::OpKind;
use super::sync_pool::SyncPool;
use super::transport::CacheMode;
use super::wire::{Device, TimeToLive};
use crate::FsError;
use crate::attr::{SetAttr, TimeSet, Timestamp};
use crate::ids::NodeId;
use crate::ops::{Datasync, KillSuid, RenameMode, SetXattr, VolumeFs, Whence};

/// The largest write in one request. More than this gains nothing and costs memory per thread.
pub(super) const MAX_WRITE: u32 = 1 << 20;

/// The readahead that a successor is told the kernel offers. fuser does not say what it did; nothing depends on it after the
/// first INIT, which the kernel has answered for good.
const MAX_READAHEAD: u32 = 128 << 10;

/// How many requests the kernel keeps in flight for readahead and writeback.
const MAX_BACKGROUND: u16 = 128;

/// We are the only writer, and say so when something changes: see `invalidate.rs`.
const LIVE: TimeToLive = TimeToLive { entry: Duration::from_secs(3600), attr: Duration::from_secs(3600) };

/// Kernels before 6.16 cannot be told that every entry is stale; they ask again by themselves.
const CAUTIOUS: TimeToLive = TimeToLive { entry: Duration::from_secs(1), attr: Duration::from_secs(1) };

/// The first protocol version with `NOTIFY_INC_EPOCH`.
const KNOWS_EPOCHS: Version = Version(7, 44);

/// What is asked of the kernel, as far as it offers it.
///
/// Left out on purpose: `ATOMIC_O_TRUNC` (without OPEN messages a truncation would be lost),
/// `POSIX_LOCKS` and `FLOCK_LOCKS` (locks stay with the kernel), `AUTO_INVAL_DATA` (nobody else
/// writes), `SETXATTR_EXT` (fuser 0.18 panics at the first setxattr).
const WANTED: InitFlags = InitFlags::FUSE_ASYNC_READ
    .union(InitFlags::FUSE_BIG_WRITES)
    .union(InitFlags::FUSE_MAX_PAGES)
    .union(InitFlags::FUSE_PARALLEL_DIROPS)
    .union(InitFlags::FUSE_CACHE_SYMLINKS)
    .union(InitFlags::FUSE_DO_READDIRPLUS)
    .union(InitFlags::FUSE_READDIRPLUS_AUTO)
    .union(InitFlags::FUSE_HANDLE_KILLPRIV_V2)
    .union(InitFlags::FUSE_NO_OPEN_SUPPORT)
    .union(InitFlags::FUSE_NO_OPENDIR_SUPPORT)
    .union(InitFlags::FUSE_POSIX_ACL)
    .union(InitFlags::FUSE_DONT_MASK)
    // Handles of files that another mount of the volume gave are good for this one: numbers are those of inodes.
    .union(InitFlags::FUSE_EXPORT_SUPPORT);

thread_local! {
    /// What a read is gathered in: as large as this thread's largest read so far, 1 MiB at most.
    static READ_BUFFER: RefCell<Vec<u8>> = const { RefCell::new(Vec::new()) };
}

/// A volume as fuser sees it.
pub(super) struct Adapter {
    fs: Arc<VolumeFs>,
    device: Arc<Device>,
    requests: Arc<Requests>,
    cpus: CpuDealer,
    syncs: SyncPool,
    cache: CacheMode,
    ttl: TimeToLive,
    /// Where a successor finds what the kernel offers.
    memory: Option<Arc<SessionMemory>>,
}

impl Adapter {
    pub(super) fn new(
        fs: Arc<VolumeFs>,
        device: Arc<Device>,
        requests: Arc<Requests>,
        memory: Option<Arc<SessionMemory>>,
        threads: usize,
        cache: CacheMode,
    ) -> Self {
        let cpus = Cpus::of_this_process();
        let syncs = SyncPool::new(threads, cpus.clone());
        let cpus = CpuDealer::of(cpus);
        Self { fs, device, requests, cpus, syncs, cache, ttl: LIVE, memory }
    }

    /// Runs `work`, which waits for the disk, where no other request has to wait with it.
    fn wait_for_disk(
        &self,
        asked: Asked,
        reply: ReplyEmpty,
        work: impl FnOnce(&VolumeFs, NodeId) -> Result<(), FsError> + Send + 'static,
    ) {
        self.cpus.place_this_thread();
        let (fs, requests) = (Arc::clone(&self.fs), Arc::clone(&self.requests));
        self.syncs.run(move || Op::begin(asked, &requests, &[]).finish(reply, || work(&fs, asked.node())));
    }

    /// Begins to execute a request; `arguments` are what it has beside its first node.
    fn begin(&self, kind: OpKind, request: &Request, node: INodeNo, arguments: &[&[u8]]) -> Op<'_> {
        self.cpus.place_this_thread();
        Op::begin(Asked::of(kind, request, node), &self.requests, arguments)
    }

    fn entry(&self, op: &Op<'_>, reply: ReplyEntry) -> EntryReply<'_> {
        EntryReply {
            reply,
            device: &self.device,
            unique: op.unique(),
            ttl: self.ttl,
            missing: Missing::Error,
        }
    }
}

impl Filesystem for Adapter {
    fn init(&mut self, _request: &Request, config: &mut KernelConfig) -> io::Result<()> {
        let mut wanted = WANTED;
        if self.cache == CacheMode::Writeback {
            wanted |= InitFlags::FUSE_WRITEBACK_CACHE;
        }
        if let Some(memory) = &self.memory {
            let Version(major, minor) = config.kernel_abi();
            let flags = config.capabilities().bits();
            memory.set_offered(Offered { major, minor, flags, max_readahead: MAX_READAHEAD });
        }
        let refused = |what| move |limit| io::Error::other(format!("{what} refused, the limit is {limit:?}"));
        let offered = wanted & config.capabilities();
        config.add_capabilities(offered).map_err(|flags| refused("capabilities")(flags.bits()))?;
        config.set_max_write(MAX_WRITE).map_err(|limit| refused("max_write")(limit.into()))?;
        config.set_max_background(MAX_BACKGROUND).map_err(|limit| refused("max_background")(limit.into()))?;
        if config.kernel_abi() < KNOWS_EPOCHS {
            self.ttl = CAUTIOUS;
        }
        Ok(())
    }

    fn lookup(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEntry) {
        let op = self.begin(OpKind::Lookup, request, parent, &[name.as_bytes()]);
        let reply = EntryReply { missing: Missing::Remembered, ..self.entry(&op, reply) };
        let (caller, node) = (op.caller(), op.node());
        op.finish(reply, || self.fs.lookup(&caller, node, name));
    }

    fn forget(&self, request: &Request, ino: INodeNo, nlookup: u64) {
        let op = self.begin(OpKind::Forget, request, ino, &[]);
        let node = op.node();
        // Nobody waits for an answer to this one, and a failure has been logged.
        op.run(|| {
            self.fs.forget(node, nlookup);
            Ok(())
        })
        .ok();
    }

    fn getattr(&self, request: &Request, ino: INodeNo, _fh: Option<FileHandle>, reply: ReplyAttr) {
        let op = self.begin(OpKind::Getattr, request, ino, &[]);
        let node = op.node();
        op.finish(AttrReply { reply, ttl: self.ttl }, || self.fs.getattr(node));
    }

    fn setattr(
        &self,
        request: &Request,
        ino: INodeNo,
        mode: Option<u32>,
        uid: Option<u32>,
        gid: Option<u32>,
        size: Option<u64>,
        atime: Option<TimeOrNow>,
        mtime: Option<TimeOrNow>,
        ctime: Option<SystemTime>,
        _fh: Option<FileHandle>,
        _crtime: Option<SystemTime>,
        _chgtime: Option<SystemTime>,
        _bkuptime: Option<SystemTime>,
        _flags: Option<BsdFileFlags>,
        reply: ReplyAttr,
    ) {
        let op = self.begin(
            OpKind::Setattr,
            request,
            ino,
            &[&size.unwrap_or(u64::MAX).to_ne_bytes(), &mode.unwrap_or(u32::MAX).to_ne_bytes()],
        );
        let (caller, node) = (op.caller(), op.node());
        let set = SetAttr {
            // Masked to 12 bits first.
            perm: mode.map(|mode| (mode & 0o7777) as u16),
            uid,
            gid,
            size,
            atime: atime.map(time_set),
            mtime: mtime.map(time_set),
            ctime: ctime.map(timestamp),
        };
        op.finish_once(&self.fs, AttrReply { reply, ttl: self.ttl }, || self.fs.setattr(&caller, node, &set));
    }

    fn readlink(&self, request: &Request, ino: INodeNo, reply: ReplyData) {
        let op = self.begin(OpKind::Readlink, request, ino, &[]);
        let node = op.node();
        op.finish(reply, || self.fs.readlink(node));
    }

    fn mknod(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        rdev: u32,
        reply: ReplyEntry,
    ) {
        // This is also how open(2) makes a file, see `create`.
        let regular = mode & libc::S_IFMT == libc::S_IFREG;
        let kind = if regular { OpKind::Create } else { OpKind::Mknod };
        let op = self.begin(kind, request, parent, &[name.as_bytes()]);
        let (caller, node, reply) = (op.caller(), op.node(), self.entry(&op, reply));
        op.finish_once(&self.fs, reply, || self.fs.mknod(&caller, node, name, mode, umask, rdev));
    }

    fn mkdir(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        mode: u32,
        umask: u32,
        reply: ReplyEntry,
    ) {
        let op = self.begin(OpKind::Mkdir, request, parent, &[name.as_bytes()]);
        let (caller, node, reply) = (op.caller(), op.node(), self.entry(&op, reply));
        op.finish_once(&self.fs, reply, || self.fs.mkdir(&caller, node, name, mode, umask));
    }

    fn unlink(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let op = self.begin(OpKind::Unlink, request, parent, &[name.as_bytes()]);
        let (caller, node) = (op.caller(), op.node());
        op.finish_once(&self.fs, reply, || self.fs.unlink(&caller, node, name));
    }

    fn rmdir(&self, request: &Request, parent: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let op = self.begin(OpKind::Rmdir, request, parent, &[name.as_bytes()]);
        let (caller, node) = (op.caller(), op.node());
        op.finish_once(&self.fs, reply, || self.fs.rmdir(&caller, node, name));
    }

    fn symlink(&self, request: &Request, parent: INodeNo, name: &OsStr, target: &Path, reply: ReplyEntry) {
        let op =
            self.begin(OpKind::Symlink, request, parent, &[name.as_bytes(), target.as_os_str().as_bytes()]);
        let (caller, node, reply) = (op.caller(), op.node(), self.entry(&op, reply));
        op.finish_once(&self.fs, reply, || {
            self.fs.symlink(&caller, node, name, target.as_os_str().as_bytes())
        });
    }

    fn rename(
        &self,
        request: &Request,
        parent: INodeNo,
        name: &OsStr,
        newparent: INodeNo,
        newname: &OsStr,
        flags: RenameFlags,
        reply: ReplyEmpty,
    ) {
        let op = self.begin(
            OpKind::Rename,
            request,
            parent,
            &[name.as_bytes(), &newparent.0.to_ne_bytes(), newname.as_bytes()],
        );
        let (caller, node) = (op.caller(), op.node());
        op.finish_once(&self.fs, reply, || {
            let mode = rename_mode(flags)?;
            self.fs.rename(&caller, node, name, NodeId(newparent.0), newname, mode)
        });
    }

    fn link(&self, request: &Request, ino: INodeNo, newparent: INodeNo, newname: &OsStr, reply: ReplyEntry) {
        let op = self.begin(OpKind::Link, request, ino, &[&newparent.0.to_ne_bytes(), newname.as_bytes()]);
        let (node, reply) = (op.node(), self.entry(&op, reply));
        op.finish_once(&self.fs, reply, || self.fs.link(node, NodeId(newparent.0), newname));
    }

    // A file that CREATE made is open, and its RELEASE is a message of its own, with an answer. From the first ENOSYS on the
    // kernel makes files with MKNOD and opens them as it does all others: one message less for each new file.
    fn create(
        &self,
        _request: &Request,
        _parent: INodeNo,
        _name: &OsStr,
        _mode: u32,
        _umask: u32,
        _flags: i32,
        reply: ReplyCreate,
    ) {
        reply.error(Errno::ENOSYS);
    }

    // ENOSYS means that there is nothing to be said about opening: from the first answer on, the
    // kernel opens files and directories by itself, keeps their pages, and sends neither OPEN nor
    // RELEASE.
    fn open(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    fn opendir(&self, _request: &Request, _ino: INodeNo, _flags: OpenFlags, reply: ReplyOpen) {
        reply.error(Errno::ENOSYS);
    }

    // Nothing is buffered between write and close: the kernel need not announce a close.
    fn flush(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _owner: LockOwner,
        reply: ReplyEmpty,
    ) {
        reply.error(Errno::ENOSYS);
    }

    // The kernel checks permissions itself, see `default_permissions` in `mountpoint.rs`.
    fn access(&self, _request: &Request, _ino: INodeNo, _mask: AccessFlags, reply: ReplyEmpty) {
        reply.error(Errno::ENOSYS);
    }

    fn read(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        size: u32,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyData,
    ) {
        let op = self.begin(OpKind::Read, request, ino, &[&offset.to_ne_bytes(), &size.to_ne_bytes()]);
        let node = op.node();
        READ_BUFFER.with_borrow_mut(|buffer| {
            buffer.clear();
            op.finish(reply, move || {
                self.fs.read(node, offset, size as usize, buffer)?;
                self.requests.count_bytes(OpKind::Read, buffer.len());
                Ok(buffer.as_slice())
            });
        });
    }

    fn write(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        data: &[u8],
        write_flags: WriteFlags,
        _flags: OpenFlags,
        _owner: Option<LockOwner>,
        reply: ReplyWrite,
    ) {
        let op = self.begin(
            OpKind::Write,
            request,
            ino,
            &[&offset.to_ne_bytes(), &(data.len() as u64).to_ne_bytes(), data.get(..64).unwrap_or(data)],
        );
        let node = op.node();
        let kill = match write_flags.contains(WriteFlags::FUSE_WRITE_KILL_SUIDGID) {
            true => KillSuid::Yes,
            false => KillSuid::No,
        };
        op.finish_once(&self.fs, reply, || {
            self.fs.write(node, offset, data, kill)?;
            self.requests.count_bytes(OpKind::Write, data.len());
            // One request carries `MAX_WRITE` bytes at most.
            Ok(data.len() as u32)
        });
    }

    fn fallocate(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        length: u64,
        mode: i32,
        reply: ReplyEmpty,
    ) {
        let op = self.begin(
            OpKind::Fallocate,
            request,
            ino,
            &[&mode.to_ne_bytes(), &offset.to_ne_bytes(), &length.to_ne_bytes()],
        );
        let (caller, node) = (op.caller(), op.node());
        op.finish_once(&self.fs, reply, || self.fs.fallocate(&caller, node, mode, offset, length));
    }

    fn lseek(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: i64,
        whence: i32,
        reply: ReplyLseek,
    ) {
        let op = self.begin(OpKind::Lseek, request, ino, &[&offset.to_ne_bytes(), &whence.to_ne_bytes()]);
        let node = op.node();
        op.finish(reply, || {
            let whence = match whence {
                libc::SEEK_DATA => Whence::Data,
                libc::SEEK_HOLE => Whence::Hole,
                _ => {
                    return Err(FsError::Invalid { what: "whence of lseek" });
                }
            };
            // There is neither data nor a hole before the beginning: ENXIO, as on other
            // filesystems.
            let offset = u64::try_from(offset).map_err(|_| FsError::NoData)?;
            let found = self.fs.seek(node, offset, whence)?;
            i64::try_from(found).map_err(|_| FsError::FileTooBig)
        });
    }

    fn copy_file_range(
        &self,
        request: &Request,
        ino_in: INodeNo,
        _fh_in: FileHandle,
        offset_in: u64,
        ino_out: INodeNo,
        _fh_out: FileHandle,
        offset_out: u64,
        len: u64,
        flags: CopyFileRangeFlags,
        reply: ReplyWrite,
    ) {
        let op = self.begin(
            OpKind::CopyFileRange,
            request,
            ino_in,
            &[
                &offset_in.to_ne_bytes(),
                &ino_out.0.to_ne_bytes(),
                &offset_out.to_ne_bytes(),
                &len.to_ne_bytes(),
            ],
        );
        let (caller, node) = (op.caller(), op.node());
        op.finish_once(&self.fs, reply, || {
            if !flags.is_empty() {
                return Err(FsError::Invalid { what: "flags of copy_file_range" });
            }
            // The answer has 32 bits for a length; callers go on where a short copy ended.
            let length = len.min(0xffff_f000);
            let copied =
                self.fs.copy_file_range(&caller, node, offset_in, NodeId(ino_out.0), offset_out, length)?;
            Ok(copied.min(length) as u32)
        });
    }

    fn fsync(&self, request: &Request, ino: INodeNo, _fh: FileHandle, datasync: bool, reply: ReplyEmpty) {
        let asked = Asked::of(OpKind::Fsync, request, ino);
        let datasync = if datasync { Datasync::Yes } else { Datasync::No };
        self.wait_for_disk(asked, reply, move |fs, node| fs.fsync(node, datasync));
    }

    fn fsyncdir(&self, request: &Request, ino: INodeNo, _fh: FileHandle, _datasync: bool, reply: ReplyEmpty) {
        self.wait_for_disk(Asked::of(OpKind::Fsyncdir, request, ino), reply, VolumeFs::fsyncdir);
    }

    // A listing that fails half-way is answered as far as it got: see `Listing::answer`.
    fn readdir(&self, request: &Request, ino: INodeNo, _fh: FileHandle, offset: u64, reply: ReplyDirectory) {
        let op = self.begin(OpKind::Readdir, request, ino, &[&offset.to_ne_bytes()]);
        let node = op.node();
        let mut listing = Listing::new(reply);
        let result = op.run(|| self.fs.readdir(node, offset, &mut |entry| listing.take(&entry)));
        listing.answer(result);
    }

    fn readdirplus(
        &self,
        request: &Request,
        ino: INodeNo,
        _fh: FileHandle,
        offset: u64,
        reply: ReplyDirectoryPlus,
    ) {
        let op = self.begin(OpKind::Readdirplus, request, ino, &[&offset.to_ne_bytes()]);
        let node = op.node();
        let mut listing = ListingPlus::new(reply, &self.device, op.unique(), self.ttl);
        let result =
            op.run(|| self.fs.readdirplus(node, offset, &mut |listed, entry| listing.take(&listed, entry)));
        listing.answer(result);
    }

    fn statfs(&self, request: &Request, ino: INodeNo, reply: ReplyStatfs) {
        let op = self.begin(OpKind::Statfs, request, ino, &[]);
        op.finish(reply, || self.fs.statfs());
    }

    fn setxattr(
        &self,
        request: &Request,
        ino: INodeNo,
        name: &OsStr,
        value: &[u8],
        flags: i32,
        _position: u32,
        reply: ReplyEmpty,
    ) {
        let op = self.begin(OpKind::Setxattr, request, ino, &[name.as_bytes(), value]);
        let (caller, node) = (op.caller(), op.node());
        op.finish_once(&self.fs, reply, || {
            let mode = match flags {
                0 => SetXattr::Any,
                libc::XATTR_CREATE => SetXattr::Create,
                libc::XATTR_REPLACE => SetXattr::Replace,
                _ => {
                    return Err(FsError::Invalid { what: "flags of setxattr" });
                }
            };
            self.fs.setxattr(&caller, node, name, value, mode)
        });
    }

    fn getxattr(&self, request: &Request, ino: INodeNo, name: &OsStr, size: u32, reply: ReplyXattr) {
        let op = self.begin(OpKind::Getxattr, request, ino, &[name.as_bytes()]);
        let node = op.node();
        op.finish(XattrReply { reply, room: size }, || self.fs.getxattr(node, name));
    }

    fn listxattr(&self, request: &Request, ino: INodeNo, size: u32, reply: ReplyXattr) {
        let op = self.begin(OpKind::Listxattr, request, ino, &[]);
        let (caller, node) = (op.caller(), op.node());
        op.finish(XattrReply { reply, room: size }, || self.fs.listxattr(&caller, node));
    }

    fn removexattr(&self, request: &Request, ino: INodeNo, name: &OsStr, reply: ReplyEmpty) {
        let op = self.begin(OpKind::Removexattr, request, ino, &[name.as_bytes()]);
        let (caller, node) = (op.caller(), op.node());
        op.finish_once(&self.fs, reply, || self.fs.removexattr(&caller, node, name));
    }

    // No file here has blocks on a device, reports readiness, or knows a control command. ENOTTY
    // for the latter: ENOSYS is not what programs that probe for FS_IOC_GETFLAGS expect.
    fn bmap(&self, _request: &Request, _ino: INodeNo, _blocksize: u32, _index: u64, reply: ReplyBmap) {
        reply.error(Errno::ENOSYS);
    }

    fn poll(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _notifier: PollNotifier,
        _events: PollEvents,
        _flags: PollFlags,
        reply: ReplyPoll,
    ) {
        reply.error(Errno::ENOSYS);
    }

    fn ioctl(
        &self,
        _request: &Request,
        _ino: INodeNo,
        _fh: FileHandle,
        _flags: IoctlFlags,
        _command: u32,
        _input: &[u8],
        _room: u32,
        reply: ReplyIoctl,
    ) {
        reply.error(Errno::ENOTTY);
    }
}

fn rename_mode(flags: RenameFlags) -> Result<RenameMode, FsError> {
    if flags.is_empty() {
        Ok(RenameMode::Replace)
    } else if flags == RenameFlags::RENAME_NOREPLACE {
        Ok(RenameMode::NoReplace)
    } else if flags == RenameFlags::RENAME_EXCHANGE {
        Ok(RenameMode::Exchange)
    } else {
        // RENAME_WHITEOUT: an overlayfs on top sees that it must do without.
        Err(FsError::Invalid { what: "flags of renameat2" })
    }
}

fn time_set(time: TimeOrNow) -> TimeSet {
    match time {
        TimeOrNow::Now => TimeSet::Now,
        TimeOrNow::SpecificTime(time) => TimeSet::At(timestamp(time)),
    }
}

/// Returns the time that the kernel sent.
///
/// Before 1970, fuser 0.18 counts the nanoseconds backwards too: (-5 s, 3 ns) reaches us as 5 s and
/// 3 ns *before* 1970, not as 4.999,999,997 s. This undoes it.
fn timestamp(time: SystemTime) -> Timestamp {
    match time.duration_since(SystemTime::UNIX_EPOCH) {
        Ok(_) => time.into(),
        Err(before) => {
            let before = before.duration();
            Timestamp {
                secs: i64::try_from(before.as_secs()).map_or(i64::MIN, |secs| -secs),
                nanos: before.subsec_nanos(),
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_before_1970_are_what_the_kernel_sent() {
        let sent = |secs: u64, nanos| SystemTime::UNIX_EPOCH - Duration::new(secs, nanos);
        assert_eq!(timestamp(sent(5, 3)), Timestamp { secs: -5, nanos: 3 });
        assert_eq!(timestamp(sent(5, 0)), Timestamp { secs: -5, nanos: 0 });
        let after = SystemTime::UNIX_EPOCH + Duration::new(7, 8);
        assert_eq!(timestamp(after), Timestamp { secs: 7, nanos: 8 });
    }

    #[test]
    fn a_rename_has_one_mode_or_is_invalid() {
        assert!(matches!(rename_mode(RenameFlags::empty()), Ok(RenameMode::Replace)));
        assert!(matches!(rename_mode(RenameFlags::RENAME_NOREPLACE), Ok(RenameMode::NoReplace)));
        assert!(matches!(rename_mode(RenameFlags::RENAME_EXCHANGE), Ok(RenameMode::Exchange)));
        for flags in
            [RenameFlags::RENAME_WHITEOUT, RenameFlags::RENAME_NOREPLACE | RenameFlags::RENAME_EXCHANGE]
        {
            assert!(matches!(rename_mode(flags), Err(FsError::Invalid { .. })));
        }
    }
}
