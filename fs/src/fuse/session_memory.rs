//! What of a mount outlives the process that serves it, beside the descriptor of its device.
//!
//! # Overview
//! A memfd that the supervisor keeps, and hands to the next worker together with the device:
//!
//! | at | what |
//! |---|---|
//! | word 0 | magic |
//! | word 1 | version of this layout |
//! | word 2 | number of the session |
//! | word 3 | phase |
//! | word 4 | device of the mount: major, minor |
//! | words 5 to 7 | what the kernel offered at INIT: protocol version, flags, readahead |
//! | words 8 and 9 | begin and end of the journal, as offsets in the file |
//! | word 10 | length of the description |
//! | word 11 | branch that was written when it was mounted, 0 for a snapshot |
//! | word 12 | how many requests were answered from the store |
//! | from word 64 | one slot for each thread: the request it executes |
//! | from word 4672 | requests that were executed when a worker died, and how that counts |
//! | byte 64 KiB | description: opaque here, at most 64 KiB |
//! | from byte 1 MiB | journal: [facts](crate::ops::Fact), one after the other |
//!
//! Integers are in the machine's own order; the memory never leaves it. A host crash takes it away together with the mount.
//!
//! # Invariants
//! - The journal lies between begin and end. Facts are written first, then the end moves; a rewrite appends what is kept,
//!   moves the end, then the begin, then gives the space back.
//! - A slot's number of the request is stored last when it begins and first when it ends.
//!
//! # Crash consistency
//! The death of the process leaves all stores that were made. A death between the two steps of a rewrite leaves facts twice.

use std::fs::File;
use std::io;
use std::num::NonZeroUsize;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::os::unix::fs::FileExt;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use nix::fcntl::{FallocateFlags, fallocate};
use nix::sys::memfd::{MFdFlags, memfd_create};
use parking_lot::Mutex;

use super::mount_table::DeviceId;
use super::words::Words;
use crate::ids::{BranchId, SessionId};
use crate::ops::{Fact, NodeJournal};
use crate::request;

/// The version of the layout. A worker that finds another one cannot go on with the mount.
pub const SESSION_MEMORY_VERSION: u32 = 2;

const MAGIC: u64 = u64::from_ne_bytes(*b"durdirSM");
const DESCRIPTION: u64 = 64 << 10;
const DESCRIPTION_MAX: usize = 64 << 10;
const JOURNAL: u64 = 1 << 20;
/// A journal is rewritten when it is this long, and twice as long as after the last time.
const JOURNAL_WORTH: u64 = 1 << 20;

const AT_MAGIC: usize = 0;
const AT_VERSION: usize = 1;
const AT_SESSION: usize = 2;
const AT_PHASE: usize = 3;
const AT_DEVICE: usize = 4;
const AT_PROTOCOL: usize = 5;
const AT_FLAGS: usize = 6;
const AT_READAHEAD: usize = 7;
const AT_JOURNAL_BEGIN: usize = 8;
const AT_JOURNAL_END: usize = 9;
const AT_DESCRIPTION: usize = 10;
const AT_BRANCH: usize = 11;
const AT_REPLAYED: usize = 12;
const SLOTS: usize = 64;
const SLOT_WORDS: usize = 48;
const SUSPECTS: usize = SLOTS + SLOT_WORDS * request::THREADS as usize;
const SUSPECT_COUNT: usize = request::THREADS as usize;
const WORDS: usize = SUSPECTS + 2 * SUSPECT_COUNT;
/// Words of a slot before the arguments.
const SLOT_HEAD: usize = 6;
/// Words of a slot behind the arguments: whether the request is done that no batch says so, how many runs of pages the thread was
/// handed, and up to three of them.
const SLOT_TAIL: usize = 8;
const ARGUMENTS_MAX: usize = (SLOT_WORDS - SLOT_HEAD - SLOT_TAIL) * 8;

/// How far a mount has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Phase {
    /// Being made: nobody was told of it.
    Mounting,
    /// Served.
    Serving,
    /// Being taken away.
    Unmounting,
}

/// What the kernel offered when the session began.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Offered {
    pub(super) major: u32,
    pub(super) minor: u32,
    /// The two words of flags of `struct fuse_init_in`, the first one low.
    pub(super) flags: u64,
    pub(super) max_readahead: u32,
}

/// A request that a thread executes, as far as a post-mortem wants to know.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct InFlight {
    /// The kernel's number, without the mark of one sent again.
    pub unique: u64,
    /// Index into [`OpKind::ALL`](super::OpKind::ALL).
    pub kind: usize,
    /// The node it names first.
    pub node: u64,
    /// Who asked.
    pub uid: u32,
    /// For which process.
    pub pid: u32,
    /// Its other arguments as bytes, cut to what fits.
    pub arguments: Vec<u8>,
    /// Pages that the thread was handed and had not committed: segment, first page, count.
    pub pages: Vec<(u32, u32, u32)>,
    /// How many bytes it has written, if it is done and no batch says so.
    pub written: Option<u64>,
}

/// Memory of a session that cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum SessionMemoryError {
    /// It cannot be read.
    #[error("read the memory of a session")]
    Io(#[from] io::Error),
    /// It is something else.
    #[error("a descriptor that was kept is not the memory of a session")]
    NotOne,
    /// Another version of durdir wrote it.
    #[error("the memory of a session has layout {found}, this durdir knows {SESSION_MEMORY_VERSION}")]
    OtherVersion {
        /// Its version.
        found: u64,
    },
}

/// The memory of one session.
pub struct SessionMemory {
    file: File,
    words: Words,
    journal: Mutex<Journal>,
    rewriting: AtomicBool,
    worth_rewriting: AtomicU64,
}

/// Writing to the journal.
#[derive(Default)]
struct Journal {
    buffer: Vec<u8>,
}

impl SessionMemory {
    /// Makes the memory of a session that begins. `description` is for whoever goes on with it.
    pub fn create(branch: Option<BranchId>, description: &[u8]) -> io::Result<SessionMemory> {
        if description.len() > DESCRIPTION_MAX {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "the description of a session is too long",
            ));
        }
        let file = File::from(memfd_create(c"durdir-session", MFdFlags::MFD_CLOEXEC)?);
        file.set_len(JOURNAL)?;
        file.write_all_at(description, DESCRIPTION)?;
        let memory = SessionMemory::map(file)?;
        let mut session = [0; 8];
        io::Read::read_exact(&mut File::open("/dev/urandom")?, &mut session)?;
        for (at, value) in [
            (AT_VERSION, u64::from(SESSION_MEMORY_VERSION)),
            (AT_SESSION, u64::from_ne_bytes(session)),
            (AT_JOURNAL_BEGIN, JOURNAL),
            (AT_JOURNAL_END, JOURNAL),
            (AT_DESCRIPTION, description.len() as u64),
            (AT_BRANCH, branch.map_or(0, |branch| u64::from(branch.0))),
            (AT_MAGIC, MAGIC),
        ] {
            memory.store(at, value);
        }
        Ok(memory)
    }

    /// Takes over what a predecessor left.
    pub fn open(memory: OwnedFd) -> Result<SessionMemory, SessionMemoryError> {
        let memory = SessionMemory::map(File::from(memory)).map_err(|error| match error.kind() {
            io::ErrorKind::UnexpectedEof => SessionMemoryError::NotOne,
            _ => SessionMemoryError::Io(error),
        })?;
        if memory.load(AT_MAGIC) != MAGIC {
            return Err(SessionMemoryError::NotOne);
        }
        let found = memory.load(AT_VERSION);
        if found != u64::from(SESSION_MEMORY_VERSION) {
            return Err(SessionMemoryError::OtherVersion { found });
        }
        Ok(memory)
    }

    fn map(file: File) -> io::Result<SessionMemory> {
        let words = Words::map(&file, NonZeroUsize::new(WORDS).ok_or(io::ErrorKind::InvalidInput)?)?;
        Ok(SessionMemory {
            file,
            words,
            journal: Mutex::default(),
            rewriting: AtomicBool::new(false),
            worth_rewriting: AtomicU64::new(JOURNAL_WORTH),
        })
    }

    /// Returns the number of the session.
    pub fn session(&self) -> SessionId {
        SessionId(self.load(AT_SESSION))
    }

    /// Returns the branch that was written when the mount was made; `None` for a snapshot.
    pub fn branch(&self) -> Option<BranchId> {
        u32::try_from(self.load(AT_BRANCH)).ok().filter(|&branch| branch != 0).map(BranchId)
    }

    /// Returns what [`SessionMemory::create`] was given.
    pub fn description(&self) -> io::Result<Vec<u8>> {
        let length = usize::try_from(self.load(AT_DESCRIPTION)).unwrap_or(usize::MAX).min(DESCRIPTION_MAX);
        let mut description = vec![0; length];
        self.file.read_exact_at(&mut description, DESCRIPTION)?;
        Ok(description)
    }

    /// Returns how far the mount had come.
    pub fn phase(&self) -> Phase {
        match self.load(AT_PHASE) {
            1 => Phase::Serving,
            2 => Phase::Unmounting,
            _ => Phase::Mounting,
        }
    }

    /// Notes how far the mount has come.
    pub fn set_phase(&self, phase: Phase) {
        let value = match phase {
            Phase::Mounting => 0,
            Phase::Serving => 1,
            Phase::Unmounting => 2,
        };
        self.store(AT_PHASE, value);
    }

    /// Returns the device of the mount, once it is attached.
    pub fn device(&self) -> Option<DeviceId> {
        let word = self.load(AT_DEVICE);
        // The halves of a word.
        let device = DeviceId { major: (word >> 32) as u32, minor: word as u32 };
        (word != 0).then_some(device)
    }

    pub(super) fn set_device(&self, device: DeviceId) {
        self.store(AT_DEVICE, (u64::from(device.major) << 32) | u64::from(device.minor));
    }

    pub(super) fn offered(&self) -> Offered {
        let protocol = self.load(AT_PROTOCOL);
        Offered {
            // The halves of a word.
            major: (protocol >> 32) as u32,
            minor: protocol as u32,
            flags: self.load(AT_FLAGS),
            max_readahead: self.load(AT_READAHEAD) as u32,
        }
    }

    pub(super) fn set_offered(&self, offered: Offered) {
        self.store(AT_PROTOCOL, (u64::from(offered.major) << 32) | u64::from(offered.minor));
        self.store(AT_FLAGS, offered.flags);
        self.store(AT_READAHEAD, u64::from(offered.max_readahead));
    }

    /// Returns all facts of the journal.
    pub fn facts(&self) -> io::Result<Vec<u8>> {
        let (begin, end) = (self.load(AT_JOURNAL_BEGIN), self.load(AT_JOURNAL_END));
        let length = end.checked_sub(begin).and_then(|length| usize::try_from(length).ok());
        // What is broken may say anything.
        let length = length.filter(|_| self.file.metadata().is_ok_and(|file| end <= file.len()));
        let length = length.ok_or(io::ErrorKind::InvalidData)?;
        let mut facts = vec![0; length];
        self.file.read_exact_at(&mut facts, begin)?;
        Ok(facts)
    }

    /// Notes that a thread begins to execute a request.
    pub(super) fn begin(&self, thread: u16, request: &Begun<'_>) {
        let Some(slot) = self.slot(thread) else { return };
        let Some((head, arguments)) = slot.split_at_checked(SLOT_HEAD) else { return };
        let mut bytes = request.arguments.iter().flat_map(|part| part.iter().copied());
        let length: usize = request.arguments.iter().map(|part| part.len()).sum::<usize>().min(ARGUMENTS_MAX);
        for word in arguments.iter().take(length.div_ceil(8)) {
            let mut packed = [0; 8];
            for (byte, value) in packed.iter_mut().zip(&mut bytes) {
                *byte = value;
            }
            word.store(u64::from_ne_bytes(packed), Ordering::Relaxed);
        }
        let fields = [
            request.kind as u64,
            request.node,
            u64::from(request.uid),
            u64::from(request.pid),
            length as u64,
        ];
        if let Some((unique, rest)) = head.split_first() {
            for (word, value) in rest.iter().zip(fields) {
                word.store(value, Ordering::Relaxed);
            }
            unique.store(request.unique, Ordering::Release);
        }
    }

    /// Notes that a thread has answered its request.
    pub(super) fn end(&self, thread: u16) {
        if let Some(unique) = self.slot(thread).and_then(<[AtomicU64]>::first) {
            unique.store(0, Ordering::Release);
        }
        request::Ledger::pages_settled(self, thread);
        if let Some(Tail { written, .. }) = self.tail(thread) {
            written.store(0, Ordering::Release);
        }
    }

    /// Returns the requests that are executed: of a process that died, those it died over.
    pub fn in_flight(&self) -> Vec<InFlight> {
        let load = |word: &AtomicU64| word.load(Ordering::Acquire);
        let slots = (0..request::THREADS).filter_map(|thread| self.slot(thread));
        slots
            .filter_map(|slot| {
                let (head, rest) = slot.split_first_chunk::<SLOT_HEAD>()?;
                let [unique, kind, node, uid, pid, length] = head.each_ref().map(load);
                let length = usize::try_from(length).unwrap_or(0).min(ARGUMENTS_MAX);
                let mut arguments: Vec<u8> =
                    rest.iter().take(length.div_ceil(8)).flat_map(|word| load(word).to_ne_bytes()).collect();
                arguments.truncate(length);
                let narrow = |value: u64| u32::try_from(value).unwrap_or(u32::MAX);
                let kind = usize::try_from(kind).unwrap_or(usize::MAX);
                let runs = slot.last_chunk::<SLOT_TAIL>().map(|tail| tail.each_ref().map(load));
                let [written, taken, runs @ ..] = runs?;
                let runs = runs.as_chunks::<2>().0.iter().take(usize::try_from(taken).unwrap_or(usize::MAX));
                // The halves of a word.
                let pages = runs.map(|[place, count]| ((place >> 32) as u32, *place as u32, narrow(*count)));
                (unique != 0).then(|| InFlight {
                    pages: pages.collect(),
                    // Stored one too large, since a slot is empty when it is all zeros.
                    written: written.checked_sub(1),
                    unique,
                    kind,
                    node,
                    uid: narrow(uid),
                    pid: narrow(pid),
                    arguments,
                })
            })
            .collect()
    }

    /// Empties all slots: whoever executed what they say is dead.
    pub(super) fn clear_slots(&self) {
        (0..request::THREADS).for_each(|thread| self.end(thread));
    }

    /// Returns the requests that workers died over, and how that counts.
    pub(super) fn suspects(&self) -> Vec<(u64, u64)> {
        let table = self.words.get(SUSPECTS..SUSPECTS + 2 * SUSPECT_COUNT).unwrap_or_default();
        let entries = table.as_chunks::<2>().0.iter();
        entries
            .map(|[unique, weight]| (unique.load(Ordering::Acquire), weight.load(Ordering::Acquire)))
            .filter(|&(unique, _)| unique != 0)
            .collect()
    }

    /// Replaces what [`SessionMemory::suspects`] returns; of too many the first are kept.
    pub(super) fn set_suspects(&self, suspects: &[(u64, u64)]) {
        let table = self.words.get(SUSPECTS..SUSPECTS + 2 * SUSPECT_COUNT).unwrap_or_default();
        let padded = suspects.iter().copied().chain(std::iter::repeat((0, 0)));
        for ([unique, weight], (new_unique, new_weight)) in table.as_chunks::<2>().0.iter().zip(padded) {
            weight.store(new_weight, Ordering::Relaxed);
            unique.store(new_unique, Ordering::Release);
        }
    }

    /// Returns how many requests were answered from the store since the session began.
    pub(super) fn replayed(&self) -> u64 {
        self.load(AT_REPLAYED)
    }

    pub(super) fn count_replayed(&self) {
        if let Some(word) = self.words.get(AT_REPLAYED) {
            word.fetch_add(1, Ordering::Relaxed);
        }
    }

    fn slot(&self, thread: u16) -> Option<&[AtomicU64]> {
        let start = SLOTS + SLOT_WORDS * usize::from(thread);
        self.words.get(start..start + SLOT_WORDS).filter(|_| thread < request::THREADS)
    }

    fn tail(&self, thread: u16) -> Option<Tail<'_>> {
        let [written, taken, runs @ ..] = self.slot(thread)?.last_chunk::<SLOT_TAIL>()?;
        Some(Tail { written, taken, runs })
    }

    fn load(&self, at: usize) -> u64 {
        self.words.get(at).map_or(0, |word| word.load(Ordering::Acquire))
    }

    fn store(&self, at: usize, value: u64) {
        if let Some(word) = self.words.get(at) {
            word.store(value, Ordering::Release);
        }
    }
}

/// What a slot says of a request beside which one it is.
struct Tail<'a> {
    /// One more than the bytes that were written, or 0.
    written: &'a AtomicU64,
    /// How many runs of pages the thread was handed.
    taken: &'a AtomicU64,
    runs: &'a [AtomicU64],
}

/// A request that begins, in borrowed parts.
pub(super) struct Begun<'a> {
    pub(super) unique: u64,
    pub(super) kind: usize,
    pub(super) node: u64,
    pub(super) uid: u32,
    pub(super) pid: u32,
    pub(super) arguments: &'a [&'a [u8]],
}

impl request::Ledger for SessionMemory {
    fn written(&self, thread: u16, count: u64) {
        if let Some(Tail { written, .. }) = self.tail(thread) {
            written.store(count + 1, Ordering::Release);
        }
    }

    fn pages_taken(&self, thread: u16, segment: u32, page: u32, count: u32) {
        let Some(Tail { taken, runs, .. }) = self.tail(thread) else { return };
        let number = taken.load(Ordering::Relaxed);
        let free = usize::try_from(number).ok().and_then(|number| runs.as_chunks::<2>().0.get(number));
        let Some([place, length]) = free else { return };
        place.store((u64::from(segment) << 32) | u64::from(page), Ordering::Relaxed);
        length.store(u64::from(count), Ordering::Relaxed);
        taken.store(number + 1, Ordering::Release);
    }

    fn pages_settled(&self, thread: u16) {
        if let Some(Tail { taken, .. }) = self.tail(thread) {
            taken.store(0, Ordering::Release);
        }
    }
}

impl AsFd for SessionMemory {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.file.as_fd()
    }
}

impl NodeJournal for Arc<SessionMemory> {
    fn append(&self, fact: &Fact<'_>) -> io::Result<()> {
        let mut journal = self.journal.lock();
        journal.buffer.clear();
        fact.encode(&mut journal.buffer);
        let end = self.load(AT_JOURNAL_END);
        self.file.write_all_at(&journal.buffer, end)?;
        self.store(AT_JOURNAL_END, end + journal.buffer.len() as u64);
        Ok(())
    }

    fn has_grown(&self) -> Option<u64> {
        let (begin, end) = (self.load(AT_JOURNAL_BEGIN), self.load(AT_JOURNAL_END));
        let grown = end.saturating_sub(begin) >= self.worth_rewriting.load(Ordering::Relaxed);
        (grown && !self.rewriting.swap(true, Ordering::SeqCst)).then_some(end)
    }

    fn rewrite(&self, before: u64, facts: &[u8]) -> io::Result<()> {
        let result = self.rewrite_journal(before, facts);
        // After a failure not before it is twice as long either.
        let length = self.load(AT_JOURNAL_END).saturating_sub(self.load(AT_JOURNAL_BEGIN));
        self.worth_rewriting.store((2 * length).max(JOURNAL_WORTH), Ordering::Relaxed);
        self.rewriting.store(false, Ordering::SeqCst);
        result
    }
}

impl SessionMemory {
    fn rewrite_journal(&self, before: u64, facts: &[u8]) -> io::Result<()> {
        let _journal = self.journal.lock();
        let (old, end) = (self.load(AT_JOURNAL_BEGIN), self.load(AT_JOURNAL_END));
        let mut appended = vec![0; usize::try_from(end.saturating_sub(before)).unwrap_or(0)];
        self.file.read_exact_at(&mut appended, before)?;
        self.file.write_all_at(facts, end)?;
        self.file.write_all_at(&appended, end + facts.len() as u64)?;
        self.store(AT_JOURNAL_END, end + (facts.len() + appended.len()) as u64);
        self.store(AT_JOURNAL_BEGIN, end);
        let punch = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let signed = |offset: u64| i64::try_from(offset).map_err(|_| io::ErrorKind::InvalidData);
        Ok(fallocate(&self.file, punch, signed(old)?, signed(end - old)?)?)
    }
}

impl std::fmt::Debug for SessionMemory {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("SessionMemory")
            .field("session", &self.session())
            .field("phase", &self.phase())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::ids::Ino;

    fn successor_of(memory: &SessionMemory) -> SessionMemory {
        SessionMemory::open(memory.as_fd().try_clone_to_owned().unwrap()).unwrap()
    }

    fn lower(ino: u64, path: &[u8]) -> Fact<'_> {
        Fact::Lower { ino: Ino(ino), parent: Ino(1), layers: 1, path }
    }

    fn read(facts: &[u8]) -> Vec<Fact<'_>> {
        let (mut rest, mut read) = (facts, Vec::new());
        while let Some((fact, after)) = Fact::decode(rest) {
            read.push(fact);
            rest = after;
        }
        read
    }

    #[test]
    fn a_successor_finds_what_was_stored() {
        let memory = SessionMemory::create(Some(BranchId(7)), b"what it is").unwrap();
        let offered = Offered { major: 7, minor: 45, flags: 0x7fd_73ff_fffb, max_readahead: 131_072 };
        memory.set_offered(offered);
        memory.set_device(DeviceId { major: 0, minor: 51 });
        memory.set_phase(Phase::Serving);
        let next = successor_of(&memory);
        assert_eq!(next.session(), memory.session());
        assert_eq!(next.description().unwrap(), b"what it is");
        assert_eq!(
            (next.branch(), next.phase(), next.offered()),
            (Some(BranchId(7)), Phase::Serving, offered)
        );
        assert_eq!(next.device(), Some(DeviceId { major: 0, minor: 51 }));
    }

    #[test]
    fn other_memory_and_other_versions_are_refused() {
        let file = File::from(memfd_create(c"other", MFdFlags::MFD_CLOEXEC).unwrap());
        assert!(matches!(
            SessionMemory::open(file.try_clone().unwrap().into()),
            Err(SessionMemoryError::NotOne)
        ));
        file.set_len(JOURNAL).unwrap();
        assert!(matches!(SessionMemory::open(file.into()), Err(SessionMemoryError::NotOne)));
        let memory = SessionMemory::create(None, b"").unwrap();
        memory.store(AT_VERSION, u64::from(SESSION_MEMORY_VERSION) + 1);
        let refused = SessionMemory::open(memory.as_fd().try_clone_to_owned().unwrap());
        assert!(matches!(refused, Err(SessionMemoryError::OtherVersion { found: 3 })));
    }

    #[test]
    fn a_request_is_in_flight_from_its_begin_to_its_end() {
        let memory = SessionMemory::create(None, b"").unwrap();
        let name = [b'n'; 255];
        let long = [0xff; 200];
        memory.begin(3, &Begun { unique: 42, kind: 9, node: 5, uid: 1, pid: 2, arguments: &[&name, &long] });
        for (segment, page, count) in [(7, 8, 9), (7, 20, 1), (8, 0, 256), (9, 9, 9)] {
            request::Ledger::pages_taken(&memory, 3, segment, page, count);
        }
        request::Ledger::written(&memory, 3, 0);
        memory.begin(95, &Begun { unique: 44, kind: 8, node: 6, uid: 1, pid: 2, arguments: &[] });
        let [first, second] = &successor_of(&memory).in_flight()[..] else { panic!("two are in flight") };
        assert_eq!(first.pages, [(7, 8, 9), (7, 20, 1), (8, 0, 256)]);
        assert_eq!((first.unique, first.kind, first.node, first.uid, first.pid), (42, 9, 5, 1, 2));
        assert_eq!(first.arguments, [&name[..], &long[..ARGUMENTS_MAX - 255]].concat());
        assert_eq!((second.unique, second.arguments.len()), (44, 0));
        assert_eq!((first.written, second.written), (Some(0), None));
        memory.end(3);
        assert_eq!(memory.in_flight().len(), 1);
        memory.clear_slots();
        assert_eq!(memory.in_flight(), []);
    }

    #[test]
    fn suspects_are_kept() {
        let memory = SessionMemory::create(None, b"").unwrap();
        memory.set_suspects(&[(4, 3), (6, 1)]);
        assert_eq!(successor_of(&memory).suspects(), [(4, 3), (6, 1)]);
        memory.set_suspects(&[]);
        assert_eq!(memory.suspects(), []);
    }

    #[test]
    fn a_rewritten_journal_has_what_is_kept_and_what_came_meanwhile() {
        let memory = Arc::new(SessionMemory::create(None, b"").unwrap());
        assert_eq!(memory.has_grown(), None);
        let path = [b'p'; 1000];
        let mut end = None;
        for ino in 0..2000 {
            memory.append(&lower(ino, &path)).unwrap();
            end = end.or_else(|| memory.has_grown());
        }
        let end = end.expect("a journal of two megabytes has grown");
        assert_eq!(memory.has_grown(), None, "one rewrites at a time");
        let after = read(&memory.facts().unwrap()).len();
        let mut kept = Vec::new();
        lower(1, b"kept").encode(&mut kept);
        let length = memory.load(AT_JOURNAL_END);
        memory.rewrite(end, &kept).unwrap();
        let facts = successor_of(&memory).facts().unwrap();
        let facts = read(&facts);
        assert_eq!(facts.first(), Some(&lower(1, b"kept")));
        assert_eq!(facts.last(), Some(&lower(1999, &path)));
        let before = (end - JOURNAL) / (length - JOURNAL).div_ceil(2000);
        assert_eq!(facts.len(), 1 + after - usize::try_from(before).unwrap());
    }

    proptest! {
        /// A predecessor may have died in the middle of anything.
        #[test]
        fn whatever_a_predecessor_left_is_read_or_refused(
            words in proptest::collection::vec((0..WORDS / 8, any::<u64>()), 0..40),
        ) {
            let memory = SessionMemory::create(Some(BranchId(7)), b"what it is").unwrap();
            for (at, value) in words {
                memory.file.write_all_at(&value.to_ne_bytes(), at as u64 * 8).unwrap();
            }
            if let Ok(next) = SessionMemory::open(memory.as_fd().try_clone_to_owned().unwrap()) {
                prop_assert!(next.description().is_ok_and(|read| read.len() <= DESCRIPTION_MAX));
                if let Ok(facts) = next.facts() {
                    drop(facts);
                }
                prop_assert!(next.branch() != Some(BranchId(0)) && next.device().is_none_or(|device| device.minor > 0 || device.major > 0));
                drop(crate::fuse::handover::left_unanswered(&next));
            }
        }

        #[test]
        fn no_facts_make_it_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            drop(read(&bytes));
        }
    }
}
