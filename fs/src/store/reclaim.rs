//! Giving back what nobody sees any more, in the background.
//!
//! One thread for a store: it seals epochs that ended ([`super::seal`]), sweeps versions that nobody sees any more ([`super::sweep`]), punches
//! pages out that nothing refers to ([`super::freer`]), and does what else mounted heads and the log put off.
//!
//! # Crash consistency
//! Everything it has to do is stored with the change that made it necessary: the next process goes on with it.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Weak};
use std::thread::JoinHandle;
use std::time::Duration;

use parking_lot::{Condvar, Mutex};
use rocksdb::WriteBatch;

use super::db::LOG_BYTES;
use super::seal::Ended;
use super::{META, Store, StoreError, meta};
use crate::error::FsError;

/// How long the background waits when nobody wakes it: frees of ordinary deletes are done then.
const IDLE: Duration = Duration::from_secs(1);

/// What a sweep gave back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct ReclaimReport {
    /// Records that were looked at.
    pub looked_at: u64,
    /// Versions of records that were dropped.
    pub versions: u64,
    /// Bytes of file data that were freed.
    pub bytes: u64,
    /// Segments that were unlinked.
    pub segments: u64,
}

impl std::ops::AddAssign for ReclaimReport {
    fn add_assign(&mut self, other: ReclaimReport) {
        self.looked_at += other.looked_at;
        self.versions += other.versions;
        self.bytes += other.bytes;
        self.segments += other.segments;
    }
}

/// The thread that works in the background.
#[derive(Default)]
pub(crate) struct Reclaimer {
    thread: Mutex<Option<JoinHandle<()>>>,
    signal: Arc<Signal>,
    /// One thread seals, and whoever wants all sealed waits for it.
    pub(super) sealing: Mutex<()>,
    /// One sweep at a time, be it the background's or somebody's who cannot wait.
    pub(super) working: Mutex<()>,
    /// Held while a mounted head is kept alive by a sweep alone: who asks whether it is mounted must not be misled.
    pub(crate) borrowing: Mutex<()>,
    /// Bytes of file data that were given back to the disk.
    freed: AtomicU64,
}

#[derive(Default)]
struct Signal {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    work: bool,
    stop: bool,
    /// Epochs that a cut ended: their data is to be on the disk, and sealed.
    ended: Vec<Ended>,
}

impl Reclaimer {
    /// Starts the thread.
    pub(crate) fn start(&self, store: &Arc<Store>) -> Result<(), FsError> {
        let (weak, signal) = (Arc::downgrade(store), self.signal.clone());
        let thread =
            std::thread::Builder::new().name("reclaim".into()).spawn(move || background(&weak, &signal));
        let thread = thread.map_err(|source| StoreError::Io {
            action: "start a thread for",
            path: store.dir.clone(),
            source,
        })?;
        *self.thread.lock() = Some(thread);
        Ok(())
    }

    /// Ends the thread after the batch it is at.
    pub(crate) fn stop(&self) {
        self.signal.state.lock().stop = true;
        self.signal.changed.notify_all();
        let thread = self.thread.lock().take();
        if let Some(thread) = thread
            // The thread itself may be the last to let go of the store.
            && thread.thread().id() != std::thread::current().id()
            && thread.join().is_err()
        {
            tracing::error!("the reclaim thread panicked");
        }
    }

    /// Takes over what an earlier process left to be sealed.
    pub(crate) fn load_ended(&self, ended: Vec<Ended>) {
        self.signal.state.lock().ended.extend(ended);
    }

    pub(super) fn is_stopping(&self) -> bool {
        self.signal.state.lock().stop
    }
}

fn background(store: &Weak<Store>, signal: &Signal) {
    loop {
        {
            let mut state = signal.state.lock();
            if !state.stop && !state.work && state.ended.is_empty() {
                signal.changed.wait_for(&mut state, IDLE);
            }
            if state.stop {
                return;
            }
            state.work = false;
        }
        let Some(store) = store.upgrade() else { return };
        if store.db.poisoned().is_some() {
            // Whoever opens it next does what is left.
            continue;
        }
        if let Err(error) = store.seal_ended() {
            tracing::error!(%error, "data of a snapshot could not be synced or sealed; it will be tried again at the next start");
        }
        store.tick_heads();
        // It takes room, and of a disk that is nearly full what is left is for deletes.
        let has_room = store.space.available().is_ok_and(|(_, spare)| spare >= 4 * LOG_BYTES as u64);
        if has_room && let Err(error) = store.db.prepare_log() {
            tracing::error!(%error, "no log files to be overwritten could be made");
        }
        if let Err(error) = store.trim_replies() {
            tracing::error!(%error, "old outcomes of requests could not be removed; it will be tried again");
        }
        if let Err(error) = store.reclaim_until_stopped() {
            tracing::error!(%error, "space could not be given back; it will be tried again");
        }
    }
}

impl Store {
    /// Wakes the background.
    pub(crate) fn wake_reclaimer(&self) {
        self.reclaimer.signal.state.lock().work = true;
        self.reclaimer.signal.changed.notify_all();
    }

    /// Lets mounted heads do what they put off.
    fn tick_heads(&self) {
        for head in self.loaded_heads() {
            let _borrowing = self.reclaimer.borrowing.lock();
            if let Some(live) = head.live() {
                live.tick();
            }
        }
    }

    /// Has the data of epochs that ended pushed to the disk and sealed soon.
    pub(crate) fn seal_later(&self, ended: impl Iterator<Item = Ended>) {
        self.reclaimer.signal.state.lock().ended.extend(ended);
        self.reclaimer.signal.changed.notify_all();
    }

    /// Pushes the data of all epochs that ended to the disk, and seals them.
    fn seal_ended(&self) -> Result<(), FsError> {
        let _sealing = self.reclaimer.sealing.lock();
        let ended = std::mem::take(&mut self.reclaimer.signal.state.lock().ended);
        self.sync_and_seal(&ended)
    }

    /// Pushes the data of epochs that have ended to the disk, in the middle of something that takes long: they are sealed after that.
    pub(super) fn push_ended(&self) -> Result<(), FsError> {
        let heads: Vec<_> = {
            let mut state = self.reclaimer.signal.state.lock();
            state.ended.iter_mut().filter_map(Ended::take_to_push).collect()
        };
        heads.iter().try_for_each(|head| self.sync_data(&head.appender))
    }

    /// Has the background stop after its next batch, and everybody who does its work.
    #[cfg(test)]
    pub(crate) fn stop_reclaimer(&self) {
        self.reclaimer.stop();
    }

    /// Gives back everything that nobody sees any more, and returns when it is done. What waits to be sealed is sealed first.
    pub fn reclaim(&self) -> Result<ReclaimReport, FsError> {
        self.seal_ended()?;
        let mut report = self.reclaim_until_stopped()?;
        // What the sweeps freed, and what ordinary deletes left waiting.
        report += self.free_pages()?;
        Ok(report)
    }

    /// Returns how many bytes of file data were given back to the disk since the store was opened, by whatever removed them.
    pub fn reclaimed(&self) -> u64 {
        self.reclaimer.freed.load(Ordering::Relaxed)
    }

    fn reclaim_until_stopped(&self) -> Result<ReclaimReport, FsError> {
        let _working = self.reclaimer.working.lock();
        let mut report = ReclaimReport::default();
        while let Some(sweep) = self.next_sweep()? {
            report += self.sweep(&sweep)?;
            if self.reclaimer.is_stopping() {
                return Ok(report);
            }
        }
        self.settle_doubts()?;
        if !self.freer.is_empty() {
            report += self.free_pages()?;
        }
        Ok(report)
    }

    fn free_pages(&self) -> Result<ReclaimReport, FsError> {
        let bytes = self.freer.run(&self.db, &self.segments, || self.sync_all())?;
        self.reclaimer.freed.fetch_add(bytes, Ordering::Relaxed);
        let unlinked = self.segments.unlink_empty()?;
        if !unlinked.is_empty() {
            let mut batch = WriteBatch::default();
            for &segment in &unlinked {
                batch.delete_cf(self.db.family(META), meta::segment(segment));
            }
            self.db.write(batch)?;
        }
        Ok(ReclaimReport { bytes, segments: unlinked.len() as u64, ..ReclaimReport::default() })
    }
}
