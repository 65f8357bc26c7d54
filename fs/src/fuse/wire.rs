//! The few messages of the FUSE protocol that fuser 0.18 cannot send, written by ourselves.
//!
//! # Overview
//! - Replies in which the node id differs from `st_ino`: fuser puts `attr.ino` into both. Files
//!   seen through `.snapshots` and files of a timeline after a rollback need them apart.
//! - `NOTIFY_INC_EPOCH`, which makes every cached entry stale in one message.
//! - The other notifications as well, so that nothing outside the session holds fuser's descriptor.
//!
//! The layouts are those of `include/uapi/linux/fuse.h`; all integers are in the machine's own
//! order.
//!
//! # Invariants
//! - A request answered here is never answered by fuser too: its reply object is given to
//!   [`Device::disown`]. Each one that was keeps fuser's descriptor open for ever, so that
//!   [`Device::close_disowned`] must close it by number when the session is over.

use std::ffi::OsStr;
use std::io;
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use nix::errno::Errno;

use super::session_memory::Offered;
use crate::attr::Attr;
use crate::ids::NodeId;
use crate::ops::Entry;

const NOTIFY_INVAL_INODE: i32 = 2;
const NOTIFY_INVAL_ENTRY: i32 = 3;
const NOTIFY_RESEND: i32 = 7;
const NOTIFY_INC_EPOCH: i32 = 8;

const HEADER_LEN: usize = 16;
/// `sizeof(struct fuse_entry_out) + sizeof(struct fuse_dirent)`
const DIRENTPLUS_LEN: usize = 128 + 24;

/// The smallest buffer the kernel offers for a directory listing. fuser does not tell the real
/// size.
const LISTING_CAPACITY: usize = 4096;

/// The preferred I/O size shown in `st_blksize`.
pub(super) const BLOCK_SIZE: u32 = 4096;

/// How long the kernel may answer from its caches.
#[derive(Clone, Copy, Debug)]
pub(super) struct TimeToLive {
    pub(super) entry: Duration,
    pub(super) attr: Duration,
}

/// Our own descriptor of the session's `/dev/fuse`.
pub(super) struct Device {
    /// Shares the open file with fuser's descriptor: notifications and replies may use either.
    ours: OwnedFd,
    fusers: RawFd,
    disowned: AtomicBool,
}

impl Device {
    /// Takes a second descriptor of the device that `session_fd`, soon to be fuser's, is one of.
    pub(super) fn beside(session_fd: &OwnedFd) -> io::Result<Self> {
        Self::behind(session_fd, session_fd)
    }

    /// Takes a second descriptor of `device`, which will take the place of `session_fd`.
    pub(super) fn behind(device: &OwnedFd, session_fd: &OwnedFd) -> io::Result<Self> {
        Ok(Self {
            ours: device.try_clone()?,
            fusers: session_fd.as_raw_fd(),
            disowned: AtomicBool::new(false),
        })
    }

    /// Answers the request `unique` with `payload`.
    pub(super) fn reply(&self, unique: u64, payload: &Payload) {
        match self.send(0, unique, payload) {
            // ENOENT: the caller was killed and does not wait for the answer any more.
            Ok(()) | Err(Errno::ENOENT) => {}
            Err(errno) => tracing::error!(unique, %errno, "cannot send a reply to the kernel"),
        }
    }

    /// Makes sure that fuser never answers the request that `reply` belongs to.
    ///
    /// Dropping a reply makes fuser send EIO; forgetting it only keeps the device open.
    pub(super) fn disown<R>(&self, reply: R) {
        self.disowned.store(true, Ordering::Relaxed);
        std::mem::forget(reply);
    }

    /// Closes fuser's descriptor if a disowned reply still holds it.
    ///
    /// To be called once, when the session and all its threads are gone.
    pub(super) fn close_disowned(&self) {
        if self.disowned.swap(false, Ordering::Relaxed) {
            // A forgotten reply holds a count of the descriptor that is never given back, so
            // nothing else can close it or have closed it.
            if let Err(errno) = nix::unistd::close(self.fusers) {
                tracing::warn!(%errno, "cannot close the device of an ended session");
            }
        }
    }

    /// Makes the kernel drop what it knows about `name` in `parent`, also that it does not exist.
    pub(super) fn invalidate_entry(&self, parent: NodeId, name: &OsStr) -> Result<(), Errno> {
        let length = u32::try_from(name.len()).map_err(|_| Errno::ENAMETOOLONG)?;
        let mut payload = Payload::default();
        payload.u64(parent.0).u32(length).u32(0).bytes(name.as_bytes()).bytes(&[0]);
        self.notify(NOTIFY_INVAL_ENTRY, &payload)
    }

    /// Makes the kernel drop the attributes and all cached pages of `node`.
    pub(super) fn invalidate_inode(&self, node: NodeId) -> Result<(), Errno> {
        let mut payload = Payload::default();
        payload.u64(node.0).u64(0).u64(0);
        self.notify(NOTIFY_INVAL_INODE, &payload)
    }

    /// Asks whether the kernel has `node` in its table of inodes, and has it drop the attributes if so. It waits for no request.
    pub(super) fn holds_inode(&self, node: NodeId) -> Result<bool, Errno> {
        let mut payload = Payload::default();
        // From a negative offset on: the pages stay.
        payload.u64(node.0).u64(u64::MAX).u64(0);
        match self.send(NOTIFY_INVAL_INODE, 0, &payload) {
            Ok(()) => Ok(true),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno),
        }
    }

    /// Makes the kernel look every name up again. Linux 6.16 and later.
    pub(super) fn invalidate_all_entries(&self) -> Result<(), Errno> {
        self.notify(NOTIFY_INC_EPOCH, &Payload::default())
    }

    /// Makes the kernel send every request again that was read and not answered, marked in its number.
    ///
    /// To be called while nobody reads from the device: a request that somebody has just read would be sent twice.
    pub(super) fn resend(&self) -> Result<(), Errno> {
        self.notify(NOTIFY_RESEND, &Payload::default())
    }

    fn notify(&self, code: i32, payload: &Payload) -> Result<(), Errno> {
        match self.send(code, 0, payload) {
            // The kernel has nothing cached under that name or number.
            Err(Errno::ENOENT) => Ok(()),
            result => result,
        }
    }

    fn send(&self, code: i32, unique: u64, payload: &Payload) -> Result<(), Errno> {
        let message = payload.message(code, unique);
        // The device takes a message whole or not at all.
        nix::unistd::write(&self.ours, &message).map(drop)
    }
}

/// Returns an INIT request as the kernel once sent it: `struct fuse_in_header` and `struct fuse_init_in`.
pub(super) fn init(offered: Offered) -> Vec<u8> {
    const INIT: u32 = 26;
    /// The second word of flags counts.
    const INIT_EXT: u64 = 1 << 30;
    const LENGTH: usize = 40 + 64;
    let mut message = Payload::default();
    message.u32(LENGTH as u32).u32(INIT).u64(1);
    // Node, uid, gid, pid, extensions: of nobody.
    message.u64(0).u64(0).u64(0);
    let flags = offered.flags | INIT_EXT;
    message.u32(offered.major).u32(offered.minor).u32(offered.max_readahead);
    // The two words of flags, the low one first.
    message.u32(flags as u32).u32((flags >> 32) as u32);
    message.0.resize(LENGTH, 0);
    message.0
}

/// The body of a message under construction.
#[derive(Default)]
pub(super) struct Payload(Vec<u8>);

impl Payload {
    /// Returns a `struct fuse_entry_out`.
    pub(super) fn entry(entry: &Entry, ttl: TimeToLive) -> Self {
        let mut payload = Self::default();
        payload.push_entry(entry, ttl);
        payload
    }

    /// Appends a `struct fuse_direntplus`; `false` if there is no room for it.
    pub(super) fn push_direntplus(
        &mut self,
        next_offset: u64,
        name: &OsStr,
        entry: &Entry,
        ttl: TimeToLive,
    ) -> bool {
        let length = (DIRENTPLUS_LEN + name.len()).next_multiple_of(8);
        let (Ok(name_len), true) = (u32::try_from(name.len()), self.0.len() + length <= LISTING_CAPACITY)
        else {
            return false;
        };
        let end = self.0.len() + length;
        self.push_entry(entry, ttl);
        self.u64(entry.attr.ino.0).u64(next_offset).u32(name_len).u32(entry.attr.kind.type_bits() >> 12);
        self.bytes(name.as_bytes());
        self.0.resize(end, 0);
        true
    }

    fn push_entry(&mut self, entry: &Entry, ttl: TimeToLive) {
        self.u64(entry.node.0).u64(entry.generation);
        self.u64(ttl.entry.as_secs()).u64(ttl.attr.as_secs());
        self.u32(ttl.entry.subsec_nanos()).u32(ttl.attr.subsec_nanos());
        self.push_attr(&entry.attr);
    }

    /// `struct fuse_attr`
    fn push_attr(&mut self, attr: &Attr) {
        self.u64(attr.ino.0).u64(attr.size).u64(attr.blocks);
        for time in [attr.atime, attr.mtime, attr.ctime] {
            self.u64(time.secs.cast_unsigned());
        }
        for time in [attr.atime, attr.mtime, attr.ctime] {
            self.u32(time.nanos);
        }
        self.u32(attr.kind.type_bits() | u32::from(attr.perm)).u32(attr.nlink);
        self.u32(attr.uid).u32(attr.gid).u32(attr.rdev).u32(BLOCK_SIZE).u32(0);
    }

    fn u64(&mut self, value: u64) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn u32(&mut self, value: u32) -> &mut Self {
        self.bytes(&value.to_ne_bytes())
    }

    fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    /// Returns the whole message with its `struct fuse_out_header`.
    fn message(&self, code: i32, unique: u64) -> Vec<u8> {
        let length = HEADER_LEN + self.0.len();
        let mut message = Vec::with_capacity(length);
        // At most a listing of one page, or a name: never near 4 GiB.
        message.extend_from_slice(&(length as u32).to_ne_bytes());
        message.extend_from_slice(&code.to_ne_bytes());
        message.extend_from_slice(&unique.to_ne_bytes());
        message.extend_from_slice(&self.0);
        message
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::attr::{FileKind, Timestamp};
    use crate::ids::Ino;

    fn entry() -> Entry {
        let time = |secs| Timestamp { secs, nanos: 7 };
        let attr = Attr {
            ino: Ino(42),
            kind: FileKind::Regular,
            perm: 0o644,
            nlink: 1,
            uid: 2,
            gid: 3,
            rdev: 0,
            size: 5,
            blocks: 8,
            atime: time(-1),
            mtime: time(10),
            ctime: time(11),
            btime: time(12),
        };
        Entry { node: NodeId(99), generation: 0, attr }
    }

    fn ttl() -> TimeToLive {
        TimeToLive { entry: Duration::from_secs(1), attr: Duration::from_secs(2) }
    }

    #[test]
    fn messages_have_the_sizes_of_the_kernel_structures() {
        assert_eq!(Payload::entry(&entry(), ttl()).0.len(), 128);
        let epoch = Payload::default().message(NOTIFY_INC_EPOCH, 0);
        assert_eq!(epoch, [16u32.to_ne_bytes(), 8u32.to_ne_bytes(), [0; 4], [0; 4]].concat());
    }

    #[test]
    fn an_init_request_has_its_flags_in_two_words() {
        let offered = Offered { major: 7, minor: 45, flags: 0x1_0000_0004, max_readahead: 131_072 };
        let message = init(offered);
        assert_eq!(
            (message.len(), &message[..8]),
            (104, &[104u32.to_ne_bytes(), 26u32.to_ne_bytes()].concat()[..])
        );
        let words: Vec<u32> =
            message[40..60].chunks(4).map(|word| u32::from_ne_bytes(word.try_into().unwrap())).collect();
        assert_eq!(words, [7, 45, 131_072, 0x4000_0004, 1]);
    }

    #[test]
    fn node_and_inode_number_are_kept_apart() {
        let payload = Payload::entry(&entry(), ttl()).0;
        assert_eq!(payload[..8], 99u64.to_ne_bytes());
        assert_eq!(payload[40..48], 42u64.to_ne_bytes());
    }

    #[test]
    fn a_listing_ends_before_its_buffer_does() {
        let mut listing = Payload::default();
        let mut taken = 0;
        while listing.push_direntplus(taken + 1, OsStr::new("nine char"), &entry(), ttl()) {
            taken += 1;
        }
        // 152 + 9 bytes, rounded up to 168.
        assert_eq!(taken, 4096 / 168);
        assert_eq!(listing.0.len() as u64, taken * 168);
    }
}
