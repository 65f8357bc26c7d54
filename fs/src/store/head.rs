//! The writable end of a branch, as it lives in memory while the store is open.

use std::any::Any;
use std::sync::atomic::{AtomicI64, AtomicU16, AtomicU64, Ordering};
use std::sync::{Arc, Weak};

use parking_lot::{Mutex, MutexGuard, RwLock};

use super::gate::Gate;
use super::record::{Usage, WriterState};
use super::segment::Appender;
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, Ino, TreeId, VolumeId};
use crate::request;

/// Writers that threads share which belong to no session: the background, fsck, tests.
const SHARED_WRITERS: u16 = 16;
/// All writers: each thread of a session has its own, for what it answered last.
const WRITERS: u16 = SHARED_WRITERS + request::THREADS;

/// The epoch in which a volume begins that is no fork.
pub(crate) const FIRST_EPOCH: Epoch = Epoch(1);

/// The writable end of a branch.
pub(crate) struct Head {
    pub(crate) volume: VolumeId,
    pub(crate) tree: TreeId,
    pub(crate) branch: BranchId,
    /// What it was forked from.
    parent: Option<BranchId>,
    pub(crate) gate: Gate,
    pub(crate) appender: Appender,
    /// One cut at a time.
    pub(crate) cutting: Mutex<()>,
    /// The newest epoch that something other than this head can see: its last snapshot, or where
    /// it was forked. What was allocated later is this head's alone.
    retained: AtomicU64,
    /// The newest epoch in which something was written.
    written: AtomicU64,
    /// Inodes from here on were made in the current epoch.
    first_new_ino: AtomicU64,
    usage: HeadUsage,
    quota: Quota,
    live: RwLock<Option<Weak<dyn LiveHead>>>,
    /// Held while the head is being opened by the layer above.
    pub(crate) opening: Mutex<()>,
}

/// What a mounted head offers to the store's background work.
pub(crate) trait LiveHead: Any + Send + Sync {
    /// Runs `work` while nobody can use what is cached of an inode, and forgets what is cached of its data.
    fn exclusively(&self, ino: Ino, work: &mut dyn FnMut());
    /// Called after snapshots of the volume came or went that are shown by these names.
    fn snapshots_changed(&self, names: &[String]);
    /// Stops showing a snapshot through `.snapshots`: whoever still looks into it finds it stale. It stays in use if an
    /// operation on it does not end soon.
    fn release_snapshot(&self, branch: BranchId, epoch: Epoch);
    /// Called before something is counted.
    fn settle(&self);
    /// Called about once a second from the background.
    fn tick(&self);
    /// For the layer above, which knows the type.
    fn into_any(self: Arc<Self>) -> Arc<dyn Any + Send + Sync>;
}

struct HeadUsage {
    /// Committed and reserved.
    bytes: AtomicI64,
    inodes: AtomicI64,
    /// Committed up to the end of the last epoch that was cut.
    settled: Mutex<Usage>,
    /// Committed since, by parity of epoch.
    epoch_bytes: [AtomicI64; 2],
    epoch_inodes: [AtomicI64; 2],
    /// What each writer's stored record says.
    writers: Box<[Mutex<WriterState>]>,
}

#[derive(Default)]
struct Quota {
    /// `i64::MAX` where there is none.
    bytes: AtomicI64,
    inodes: AtomicI64,
}

impl Head {
    pub(crate) fn new(
        volume: VolumeId,
        tree: TreeId,
        branch: BranchId,
        parent: Option<BranchId>,
        epoch: Epoch,
        retained: Epoch,
    ) -> Head {
        let quota = Quota { bytes: AtomicI64::new(i64::MAX), inodes: AtomicI64::new(i64::MAX) };
        Head {
            volume,
            tree,
            branch,
            parent,
            gate: Gate::new(epoch),
            appender: Appender::default(),
            cutting: Mutex::default(),
            retained: AtomicU64::new(retained.0),
            written: AtomicU64::new(0),
            first_new_ino: AtomicU64::new(u64::MAX),
            usage: HeadUsage::new(),
            quota,
            live: RwLock::default(),
            opening: Mutex::default(),
        }
    }

    pub(crate) fn set_quota(&self, bytes: Option<u64>, inodes: Option<u64>) {
        let limit =
            |value: Option<u64>| value.and_then(|value| i64::try_from(value).ok()).unwrap_or(i64::MAX);
        self.quota.bytes.store(limit(bytes), Ordering::SeqCst);
        self.quota.inodes.store(limit(inodes), Ordering::SeqCst);
    }

    /// Returns the quotas of bytes and inodes.
    pub(crate) fn quota(&self) -> (Option<u64>, Option<u64>) {
        let limit = |value: i64| u64::try_from(value).ok().filter(|_| value != i64::MAX);
        (limit(self.quota.bytes.load(Ordering::SeqCst)), limit(self.quota.inodes.load(Ordering::SeqCst)))
    }

    pub(crate) fn retained(&self) -> Epoch {
        Epoch(self.retained.load(Ordering::SeqCst))
    }

    pub(crate) fn set_retained(&self, epoch: Epoch) {
        self.retained.store(epoch.0, Ordering::SeqCst);
    }

    /// Tells whether anything was written in the epoch that runs now.
    pub(crate) fn is_changed(&self) -> bool {
        self.written.load(Ordering::SeqCst) >= self.gate.epoch().0
    }

    /// The newest epoch in which something was written.
    pub(crate) fn last_written(&self) -> Epoch {
        Epoch(self.written.load(Ordering::SeqCst))
    }

    pub(crate) fn mark_written(&self, epoch: Epoch) {
        self.written.fetch_max(epoch.0, Ordering::SeqCst);
    }

    /// Declares that inodes from `ino` on belong to the epoch that begins now.
    pub(crate) fn set_first_new_ino(&self, ino: Ino) {
        self.first_new_ino.store(ino.0, Ordering::SeqCst);
    }

    /// Tells whether an inode was surely made in the current epoch: no older version of any of its records exists.
    pub(crate) fn is_new(&self, ino: Ino) -> bool {
        !ino.is_lower() && ino.0 >= self.first_new_ino.load(Ordering::SeqCst)
    }

    /// Tells whether nothing was stored before `epoch` but the root.
    pub(crate) fn is_first(&self, epoch: Epoch) -> bool {
        self.parent.is_none() && epoch == FIRST_EPOCH
    }

    /// Refuses what would not fit, and counts nothing.
    pub(crate) fn check_room(&self, delta: Usage) -> Result<(), FsError> {
        let Quota { bytes, inodes } = &self.quota;
        fits(self.usage.bytes.load(Ordering::SeqCst), delta.bytes, bytes, "bytes")?;
        fits(self.usage.inodes.load(Ordering::SeqCst), delta.inodes, inodes, "inodes")?;
        Ok(())
    }

    /// Counts what a transaction is about to store, or refuses it.
    pub(crate) fn reserve(&self, delta: Usage) -> Result<(), FsError> {
        // What is refused must not be counted for a moment: others would be refused for it.
        self.check_room(delta)?;
        take(&self.usage.bytes, delta.bytes, &self.quota.bytes, "bytes")?;
        take(&self.usage.inodes, delta.inodes, &self.quota.inodes, "inodes").inspect_err(|_| {
            self.usage.bytes.fetch_sub(delta.bytes, Ordering::SeqCst);
        })
    }

    /// Counts what a transaction is about to store, also above the quota.
    pub(crate) fn reserve_regardless(&self, delta: Usage) {
        self.usage.bytes.fetch_add(delta.bytes, Ordering::SeqCst);
        self.usage.inodes.fetch_add(delta.inodes, Ordering::SeqCst);
    }

    /// Takes a reservation back.
    pub(crate) fn release(&self, delta: Usage) {
        self.usage.bytes.fetch_sub(delta.bytes, Ordering::SeqCst);
        self.usage.inodes.fetch_sub(delta.inodes, Ordering::SeqCst);
    }

    /// Locks the record of a writer, which is stored in the same batch as what it counts: that of `thread`, a
    /// session's, or one that the calling thread shares with others.
    pub(crate) fn writer(&self, thread: Option<u16>) -> (u16, MutexGuard<'_, WriterState>) {
        static NEXT: AtomicU16 = AtomicU16::new(0);
        thread_local! {
            static SHARED: u16 = NEXT.fetch_add(1, Ordering::Relaxed) % SHARED_WRITERS;
        }
        let index = match thread {
            Some(thread) => SHARED_WRITERS + thread % request::THREADS,
            None => SHARED.with(|shared| *shared),
        };
        let writer = self.usage.writers.get(usize::from(index));
        (index, writer.expect("both kinds of index are below the number of writers").lock())
    }

    /// Counts what was committed in `epoch`.
    pub(crate) fn commit_usage(&self, epoch: Epoch, delta: Usage) {
        let parity = usize::from(!epoch.0.is_multiple_of(2));
        if let (Some(bytes), Some(inodes)) =
            (self.usage.epoch_bytes.get(parity), self.usage.epoch_inodes.get(parity))
        {
            bytes.fetch_add(delta.bytes, Ordering::SeqCst);
            inodes.fetch_add(delta.inodes, Ordering::SeqCst);
        }
    }

    /// Returns what the head stored at the end of `epoch`, whose operations are all done.
    pub(crate) fn settle(&self, epoch: Epoch) -> Usage {
        let parity = usize::from(!epoch.0.is_multiple_of(2));
        let mut settled = self.usage.settled.lock();
        if let (Some(bytes), Some(inodes)) =
            (self.usage.epoch_bytes.get(parity), self.usage.epoch_inodes.get(parity))
        {
            *settled +=
                Usage { bytes: bytes.swap(0, Ordering::SeqCst), inodes: inodes.swap(0, Ordering::SeqCst) };
        }
        *settled
    }

    /// Takes over the stored record of a writer at open.
    pub(crate) fn load_writer(&self, writer: usize, state: WriterState) {
        let usage = state.usage;
        if let Some(slot) = self.usage.writers.get(writer) {
            *slot.lock() = state;
        }
        *self.usage.settled.lock() += usage;
        self.usage.bytes.fetch_add(usage.bytes, Ordering::SeqCst);
        self.usage.inodes.fetch_add(usage.inodes, Ordering::SeqCst);
    }

    /// Returns what the head stores now.
    pub(crate) fn usage(&self) -> Usage {
        Usage {
            bytes: self.usage.bytes.load(Ordering::SeqCst),
            inodes: self.usage.inodes.load(Ordering::SeqCst),
        }
    }

    /// Returns the mounted file system over this head.
    pub(crate) fn live(&self) -> Option<Arc<dyn LiveHead>> {
        self.live.read().as_ref().and_then(Weak::upgrade)
    }

    /// Tells whether the head is mounted.
    pub(crate) fn is_live(&self) -> bool {
        self.live.read().as_ref().is_some_and(|live| live.strong_count() > 0)
    }

    pub(crate) fn set_live(&self, live: Weak<dyn LiveHead>) {
        *self.live.write() = Some(live);
    }
}

impl HeadUsage {
    fn new() -> HeadUsage {
        HeadUsage {
            bytes: AtomicI64::default(),
            inodes: AtomicI64::default(),
            settled: Mutex::default(),
            epoch_bytes: Default::default(),
            epoch_inodes: Default::default(),
            writers: (0..WRITERS).map(|_| Mutex::default()).collect(),
        }
    }
}

fn take(counter: &AtomicI64, delta: i64, limit: &AtomicI64, what: &'static str) -> Result<(), FsError> {
    let mut before = counter.load(Ordering::SeqCst);
    loop {
        let after = fits(before, delta, limit, what)?;
        match counter.compare_exchange_weak(before, after, Ordering::SeqCst, Ordering::SeqCst) {
            Ok(_) => return Ok(()),
            Err(other) => before = other,
        }
    }
}

/// Returns what `before` becomes. What takes away always succeeds, also above a quota that was lowered.
fn fits(before: i64, delta: i64, limit: &AtomicI64, what: &'static str) -> Result<i64, FsError> {
    let after = before.saturating_add(delta);
    if delta > 0 && after > limit.load(Ordering::SeqCst) {
        return Err(FsError::QuotaExceeded { what });
    }
    Ok(after)
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::AtomicBool;

    use super::*;

    fn head() -> Head {
        Head::new(VolumeId(1), TreeId(1), BranchId(1), None, Epoch(1), Epoch(0))
    }

    #[test]
    fn a_quota_is_exact_and_what_takes_away_is_always_allowed() {
        let head = head();
        head.set_quota(Some(10), Some(2));
        head.reserve(Usage { bytes: 10, inodes: 1 }).unwrap();
        assert!(head.reserve(Usage { bytes: 1, inodes: 0 }).is_err());
        assert!(head.reserve(Usage { bytes: 0, inodes: 2 }).is_err());
        assert_eq!(head.usage(), Usage { bytes: 10, inodes: 1 });
        head.set_quota(Some(5), None);
        head.reserve(Usage { bytes: -1, inodes: 0 }).unwrap();
        assert!(head.reserve(Usage { bytes: 1, inodes: 0 }).is_err());
    }

    /// Runs something that does not fit again and again while a byte comes and goes that does.
    fn beside(head: &Head, refused: impl Fn(&Head) -> Result<(), FsError> + Sync) {
        let (begun, done) = (AtomicBool::new(false), AtomicBool::new(false));
        let failed = std::thread::scope(|scope| {
            let others = scope.spawn(|| {
                while !done.load(Ordering::SeqCst) {
                    assert!(refused(head).is_err());
                    begun.store(true, Ordering::SeqCst);
                }
            });
            while !begun.load(Ordering::SeqCst) && !others.is_finished() {
                std::thread::yield_now();
            }
            let byte = Usage { bytes: 1, inodes: 0 };
            let failed =
                (0..500_000).filter(|_| head.reserve(byte).map(|()| head.release(byte)).is_err()).count();
            done.store(true, Ordering::SeqCst);
            others.join().unwrap();
            failed
        });
        assert_eq!(failed, 0);
    }

    #[test]
    fn what_is_refused_is_in_nobodys_way() {
        let head = head();
        head.set_quota(Some(1000), Some(1));
        beside(&head, |head| head.reserve(Usage { bytes: 1 << 40, inodes: 0 }));
        beside(&head, |head| head.reserve(Usage { bytes: 1000, inodes: 2 }));
        beside(&head, |head| head.check_room(Usage { bytes: 1001, inodes: 0 }));
        assert_eq!(head.usage(), Usage::default());
    }

    #[test]
    fn usage_of_the_next_epoch_is_not_in_the_cut() {
        let head = head();
        head.commit_usage(Epoch(1), Usage { bytes: 5, inodes: 1 });
        head.commit_usage(Epoch(2), Usage { bytes: 7, inodes: 1 });
        assert_eq!(head.settle(Epoch(1)), Usage { bytes: 5, inodes: 1 });
        assert_eq!(head.settle(Epoch(2)), Usage { bytes: 12, inodes: 2 });
    }
}
