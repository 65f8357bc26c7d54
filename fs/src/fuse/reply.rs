//! How the result of an operation is reported: logged once, counted once, answered once.
//!
//! # Overview
//! An [`Op`] lives from the decoding of a request to its answer. [`Op::finish`] is the only way
//! out: it runs the operation, writes the one log line a failure gets, adds to the statistics, and
//! sends what the kernel waits for. How a value becomes a message is [`Respond`], one
//! implementation per kind of reply.
//!
//! # Invariants
//! - Every request is answered, also one whose operation panicked: that is a bug, logged as such. Where a successor goes
//!   on with the mount the process ends, and the request is executed again; else it costs its caller an EIO and everybody
//!   else nothing.
//! - What a request of a session with a successor executes is noted until its answer was sent.
//! - A request is counted before its answer leaves.

use std::os::unix::ffi::OsStrExt;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use fuser::{
    Errno, FileAttr, FileType, Generation, INodeNo, ReplyAttr, ReplyData, ReplyDirectory, ReplyDirectoryPlus,
    ReplyEmpty, ReplyEntry, ReplyLseek, ReplyStatfs, ReplyWrite, ReplyXattr, Request,
};
use tracing::Level;

use super::errno::{errno, severity};
use super::handover::{self, Admitted, Condemned, Handover};
use super::session_memory::Begun;
use super::stats::{OpKind, OpStats, Outcome};
use super::wire::{BLOCK_SIZE, Device, Payload, TimeToLive};
use crate::attr::{Attr, FileKind};
use crate::ids::NodeId;
use crate::ops::{Caller, DirEntry, Entry, FromAnswer, Sink, StatFs, VolumeFs};
use crate::{FsError, failpoint, request};

/// An operation that did not succeed.
pub(super) enum Failure {
    /// It was refused or failed, for a reason that has a name.
    Fs(FsError),
    /// The program has a bug. The panic hook has logged where.
    Panicked,
    /// Workers died over it: it is not executed again.
    Condemned,
}

/// What every request of a session passes through.
pub(super) struct Requests {
    stats: Arc<OpStats>,
    /// What a successor is told; `None` where the mount ends with its process.
    handover: Option<Handover>,
}

impl Requests {
    pub(super) fn new(stats: Arc<OpStats>, handover: Option<Handover>) -> Self {
        Self { stats, handover }
    }

    /// Counts bytes that were read or written.
    pub(super) fn count_bytes(&self, kind: OpKind, bytes: usize) {
        self.stats.count_bytes(kind, bytes);
    }

    /// Returns how many requests were answered from the store.
    pub(super) fn replayed(&self) -> u64 {
        self.handover.as_ref().map_or(0, Handover::replayed)
    }
}

/// One request on its way.
pub(super) struct Op<'a> {
    asked: Asked,
    requests: &'a Requests,
    admitted: Option<Result<Admitted<'a>, Condemned>>,
}

/// What is asked, by whom and since when: a request that may go to another thread.
#[derive(Clone, Copy)]
pub(super) struct Asked {
    kind: OpKind,
    node: NodeId,
    caller: Caller,
    unique: u64,
    since: Instant,
}

impl Asked {
    pub(super) fn of(kind: OpKind, request: &Request, node: INodeNo) -> Self {
        let caller = Caller { uid: request.uid(), gid: request.gid(), pid: request.pid() };
        Self { kind, node: NodeId(node.0), caller, unique: request.unique().0, since: Instant::now() }
    }

    pub(super) fn node(&self) -> NodeId {
        self.node
    }
}

impl<'a> Op<'a> {
    /// Begins to execute a request. `arguments` are noted for the case that the worker dies over it.
    pub(super) fn begin(asked: Asked, requests: &'a Requests, arguments: &[&[u8]]) -> Self {
        let begun = Begun {
            unique: asked.unique,
            kind: asked.kind as usize,
            node: asked.node.0,
            uid: asked.caller.uid,
            pid: asked.caller.pid,
            arguments,
        };
        let admitted = requests.handover.as_ref().map(|handover| handover.admit(begun));
        Self { asked, requests, admitted }
    }

    pub(super) fn caller(&self) -> Caller {
        self.asked.caller
    }

    pub(super) fn node(&self) -> NodeId {
        self.asked.node
    }

    pub(super) fn unique(&self) -> u64 {
        self.asked.unique
    }

    /// Runs `work`, reports how it went, and answers.
    pub(super) fn finish<T, R: Respond<T>>(self, reply: R, work: impl FnOnce() -> Result<T, FsError>) {
        let result = self.run(work);
        failpoint::hit(self.asked.kind.after_it());
        match result {
            Ok(value) => reply.respond(value),
            Err(failure) => reply.refuse(&failure),
        }
    }

    /// As [`finish`](Self::finish), for an operation that changes something: it takes effect once, however often the
    /// kernel sends the request.
    pub(super) fn finish_once<T: FromAnswer, R: Respond<T>>(
        self,
        fs: &VolumeFs,
        reply: R,
        work: impl FnOnce() -> Result<T, FsError>,
    ) {
        let Asked { unique, node, .. } = self.asked;
        let Some(handover) = &self.requests.handover else { return self.finish(reply, work) };
        let first = handover::first_sent(unique);
        if handover::is_resent(unique)
            && let Some(answer) = fs.replay(first, node)
        {
            handover.count_replayed();
            self.finish(reply, || answer);
            // The kernel has it: it will not ask again.
            return fs.replayed(first);
        }
        match handover.executing(unique) {
            Some(executing) => {
                let ledger = handover.ledger();
                self.finish(reply, || request::execute(executing, ledger, work));
            }
            None => self.finish(reply, work),
        }
    }

    /// Runs `work` and reports how it went; the caller answers.
    pub(super) fn run<T>(&self, work: impl FnOnce() -> Result<T, FsError>) -> Result<T, Failure> {
        let Asked { kind, since, .. } = self.asked;
        let busy = self.requests.stats.in_flight().enter(kind, since);
        let result = match &self.admitted {
            Some(Err(Condemned)) => Err(Failure::Condemned),
            Some(Ok(_)) | None => match catch_unwind(AssertUnwindSafe(|| {
                failpoint::hit(kind.before_it());
                work()
            })) {
                Ok(result) => result.map_err(Failure::Fs),
                Err(_) => Err(Failure::Panicked),
            },
        };
        let outcome = match &result {
            Ok(_) => Outcome::Done,
            Err(failure) => self.log(failure),
        };
        if let (Err(Failure::Panicked), Some(_)) = (&result, &self.requests.handover) {
            // What the panic left half-done in memory is nobody's to guess. A successor begins from what is stored,
            // and executes the request again: the caller sees a pause.
            std::process::abort();
        }
        self.requests.stats.count(kind, since.elapsed(), outcome);
        drop(busy);
        result
    }

    fn log(&self, failure: &Failure) -> Outcome {
        let Asked { kind, node, caller, unique, .. } = self.asked;
        // A level is part of a log statement's identity, so each needs its own.
        macro_rules! log_at {
            ($level:ident, $($message:tt)+) => {
                tracing::$level!(
                    op = kind.name(), request = unique, node = node.0,
                    uid = caller.uid, pid = caller.pid, $($message)+
                )
            };
        }
        let error = match failure {
            Failure::Fs(error) => error,
            Failure::Panicked => {
                log_at!(error, "operation panicked");
                return Outcome::Failed;
            }
            Failure::Condemned => {
                log_at!(error, "request that workers died over, answered with EIO");
                return Outcome::Failed;
            }
        };
        let level = severity(error);
        if level == Level::ERROR {
            log_at!(error, "{}", Chain(error));
        } else if level == Level::WARN {
            log_at!(warn, "{}", Chain(error));
        } else if level == Level::INFO {
            log_at!(info, "{}", Chain(error));
        } else {
            log_at!(debug, "{}", Chain(error));
            return Outcome::Done;
        }
        Outcome::Failed
    }
}

impl Failure {
    fn errno(&self) -> Errno {
        match self {
            Failure::Fs(error) => errno(error),
            Failure::Panicked | Failure::Condemned => Errno::EIO,
        }
    }
}

/// An error followed by its causes, on one line.
struct Chain<'a>(&'a dyn std::error::Error);

impl std::fmt::Display for Chain<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}", self.0)?;
        let mut cause = self.0.source();
        while let Some(error) = cause {
            write!(f, ": {error}")?;
            cause = error.source();
        }
        Ok(())
    }
}

/// Turns the result of an operation into the message that answers it.
pub(super) trait Respond<T>: Sized {
    fn respond(self, value: T);
    fn refuse(self, failure: &Failure);
}

macro_rules! respond {
    ($reply:ty, $value:ty, |$self:ident, $result:ident| $body:expr) => {
        impl Respond<$value> for $reply {
            fn respond($self, $result: $value) {
                $body
            }
            fn refuse(self, failure: &Failure) {
                self.error(failure.errno());
            }
        }
    };
}

respond!(ReplyEmpty, (), |self, _done| self.ok());
respond!(ReplyData, Vec<u8>, |self, bytes| self.data(&bytes));
respond!(ReplyData, &[u8], |self, bytes| self.data(bytes));
respond!(ReplyWrite, u32, |self, length| self.written(length));
respond!(ReplyLseek, i64, |self, offset| self.offset(offset));
respond!(ReplyStatfs, StatFs, |self, fs| self.statfs(
    fs.blocks,
    fs.free,
    fs.available,
    fs.files,
    fs.files_free,
    fs.block_size,
    fs.name_max,
    fs.block_size,
));

/// Answers with attributes.
pub(super) struct AttrReply {
    pub(super) reply: ReplyAttr,
    pub(super) ttl: TimeToLive,
}

impl Respond<Attr> for AttrReply {
    fn respond(self, attr: Attr) {
        self.reply.attr(&self.ttl.attr, &file_attr(&attr));
    }

    fn refuse(self, failure: &Failure) {
        self.reply.error(failure.errno());
    }
}

/// What is answered when a name does not exist.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Missing {
    /// The errno alone.
    Error,
    /// An entry without an inode, which the kernel remembers.
    Remembered,
}

/// Answers with an entry.
pub(super) struct EntryReply<'a> {
    pub(super) reply: ReplyEntry,
    pub(super) device: &'a Device,
    pub(super) unique: u64,
    pub(super) ttl: TimeToLive,
    pub(super) missing: Missing,
}

impl Respond<Entry> for EntryReply<'_> {
    fn respond(self, entry: Entry) {
        if is_plain(&entry) {
            let generation = Generation(entry.generation);
            self.reply.entry_with_ttls(&self.ttl.attr, &self.ttl.entry, &file_attr(&entry.attr), generation);
        } else {
            self.device.reply(self.unique, &Payload::entry(&entry, self.ttl));
            self.device.disown(self.reply);
        }
    }

    fn refuse(self, failure: &Failure) {
        match failure {
            Failure::Fs(FsError::NotFound) if self.missing == Missing::Remembered => {
                self.reply.entry_with_ttls(&Duration::ZERO, &self.ttl.entry, &NO_INODE, Generation(0));
            }
            failure => self.reply.error(failure.errno()),
        }
    }
}

/// Answers with the value of an extended attribute or a list of names, or with its length if the
/// caller's buffer has no room at all.
pub(super) struct XattrReply {
    pub(super) reply: ReplyXattr,
    pub(super) room: u32,
}

impl Respond<Vec<u8>> for XattrReply {
    fn respond(self, value: Vec<u8>) {
        match (u32::try_from(value.len()), self.room) {
            (Ok(length), 0) => self.reply.size(length),
            (Ok(length), room) if length <= room => self.reply.data(&value),
            // Not a failure of the operation: the caller asks again with a larger buffer.
            _ => self.reply.error(Errno::ERANGE),
        }
    }

    fn refuse(self, failure: &Failure) {
        self.reply.error(failure.errno());
    }
}

/// A directory listing that fills up.
pub(super) struct Listing {
    reply: ReplyDirectory,
    taken: usize,
}

impl Listing {
    pub(super) fn new(reply: ReplyDirectory) -> Self {
        Self { reply, taken: 0 }
    }

    pub(super) fn take(&mut self, entry: &DirEntry<'_>) -> Sink {
        let kind = file_type(entry.kind);
        if self.reply.add(INodeNo(entry.node.0), entry.next_offset, kind, entry.name) {
            return Sink::Full;
        }
        self.taken += 1;
        Sink::Continue
    }

    pub(super) fn answer(self, result: Result<(), Failure>) {
        match result {
            // What was listed before the failure is answered; the next call meets the failure
            // again.
            Err(failure) if self.taken == 0 => self.reply.error(failure.errno()),
            _ => self.reply.ok(),
        }
    }
}

/// A directory listing with attributes that fills up.
pub(super) struct ListingPlus<'a> {
    reply: ReplyDirectoryPlus,
    device: &'a Device,
    unique: u64,
    ttl: TimeToLive,
    taken: usize,
    /// `Some` if the listing holds entries that fuser cannot express; fuser's own stays empty then.
    apart: Option<Payload>,
}

impl<'a> ListingPlus<'a> {
    pub(super) fn new(reply: ReplyDirectoryPlus, device: &'a Device, unique: u64, ttl: TimeToLive) -> Self {
        Self { reply, device, unique, ttl, taken: 0, apart: None }
    }

    pub(super) fn take(&mut self, listed: &DirEntry<'_>, entry: &Entry) -> Sink {
        // The kernel takes neither a reference nor the attributes of these two.
        let dot = matches!(listed.name.as_bytes(), b"." | b"..");
        let plain = dot || is_plain(entry);
        if !plain && self.apart.is_none() {
            if self.taken > 0 {
                // One listing is built by one side. This one ends here, the next begins apart.
                return Sink::Full;
            }
            self.apart = Some(Payload::default());
        }
        let full = match &mut self.apart {
            Some(payload) => !payload.push_direntplus(listed.next_offset, listed.name, entry, self.ttl),
            None => {
                let (ttl, attr) = (self.ttl.attr.min(self.ttl.entry), file_attr(&entry.attr));
                let generation = Generation(entry.generation);
                self.reply.add(
                    INodeNo(entry.node.0),
                    listed.next_offset,
                    listed.name,
                    &ttl,
                    &attr,
                    generation,
                )
            }
        };
        if full {
            return Sink::Full;
        }
        self.taken += 1;
        Sink::Continue
    }

    pub(super) fn answer(self, result: Result<(), Failure>) {
        match (result, self.apart) {
            // The entries taken hold references that only an answer gives to the kernel, so what
            // was listed before the failure is answered; the next call meets the failure again.
            (Err(failure), _) if self.taken == 0 => self.reply.error(failure.errno()),
            (_, Some(payload)) => {
                self.device.reply(self.unique, &payload);
                self.device.disown(self.reply);
            }
            (_, None) => self.reply.ok(),
        }
    }
}

/// Tells whether fuser can express the entry: it takes `st_ino` for the node id.
fn is_plain(entry: &Entry) -> bool {
    entry.node.0 == entry.attr.ino.0
}

/// What a name that does not exist is bound to: node id 0.
const NO_INODE: FileAttr = FileAttr {
    ino: INodeNo(0),
    size: 0,
    blocks: 0,
    atime: SystemTime::UNIX_EPOCH,
    mtime: SystemTime::UNIX_EPOCH,
    ctime: SystemTime::UNIX_EPOCH,
    crtime: SystemTime::UNIX_EPOCH,
    kind: FileType::RegularFile,
    perm: 0,
    nlink: 0,
    uid: 0,
    gid: 0,
    rdev: 0,
    blksize: BLOCK_SIZE,
    flags: 0,
};

fn file_attr(attr: &Attr) -> FileAttr {
    FileAttr {
        ino: INodeNo(attr.ino.0),
        size: attr.size,
        blocks: attr.blocks,
        atime: attr.atime.into(),
        mtime: attr.mtime.into(),
        ctime: attr.ctime.into(),
        crtime: attr.btime.into(),
        kind: file_type(attr.kind),
        perm: attr.perm,
        nlink: attr.nlink,
        uid: attr.uid,
        gid: attr.gid,
        rdev: attr.rdev,
        blksize: BLOCK_SIZE,
        flags: 0,
    }
}

fn file_type(kind: FileKind) -> FileType {
    match kind {
        FileKind::Regular => FileType::RegularFile,
        FileKind::Directory => FileType::Directory,
        FileKind::Symlink => FileType::Symlink,
        FileKind::Fifo => FileType::NamedPipe,
        FileKind::Socket => FileType::Socket,
        FileKind::CharDevice => FileType::CharDevice,
        FileKind::BlockDevice => FileType::BlockDevice,
    }
}
