//! The store of a node: volumes and their history, in one RocksDB and a directory of segments.
//!
//! ```text
//! DIR/FORMAT        the version of everything below
//! DIR/LOCK.durdir   who has it open
//! DIR/db/           RocksDB: records, see keys.rs and record/
//! DIR/segments/     file data that is too large for a record
//! ```
//!
//! # Overview
//! A volume's history is a line of epochs on a branch. Every record that belongs to a volume is versioned by (branch,
//! epoch); [`view`] finds what a line of descent sees. An operation is one [`transaction`]; a [`cut`] ends the epoch
//! of one or several volumes; [`fork`] starts a branch at a snapshot; [`reclaim`] gives back what nobody sees any more.
//!
//! # Invariants
//! - Bytes that a snapshot can see are never overwritten.
//! - Nothing but the commit of a transaction, a cut, or a change of the registry writes to RocksDB, and
//!   each is one batch.

mod actors;
mod answers;
mod appearance;
mod changes;
mod counters;
mod cut;
mod db;
mod error;
mod flags;
mod fork;
mod format;
mod freer;
mod frozen;
mod gate;
mod group_sync;
mod head;
mod history;
mod host;
mod keys;
mod kinds;
mod lock;
mod mark;
mod name_hash;
mod orphans;
mod page_set;
mod peek;
mod preview;
mod quarantine;
mod reclaim;
pub mod record;
mod recovery;
mod registry;
mod replies;
mod seal;
mod segment;
mod sharing;
mod space;
mod sweep;
mod swept;
mod transaction;
mod view;
mod volumes;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashMap;
use parking_lot::{Mutex, RwLock};
use rocksdb::WriteBatch;

pub use actors::{ActorChange, Durability, Listed, VolumeOrigin};
pub use appearance::{Change, ChangeKind, LogEntry, SnapshotInfo, StoreUsage, VolumeInfo, VolumeSpec};
pub use cut::{CutReport, CutSnapshot};
pub use db::MemoryBudget;
pub use error::{Shortage, StoreError};
pub use format::{FORMAT_VERSION, check_existing as check_format};
pub use keys::{Family, Prefix, PrefixOf, VersionedKey};
pub use lock::{StoreLock, lock_file};
pub use mark::{NoMark, StoreMark};
pub use peek::{
    ActorRecords, RecordCount, actor_records, count_records, unknown_records, unreadable_records,
};
pub use preview::RemovalPreview;
pub use quarantine::Quarantined;
pub use reclaim::ReclaimReport;
pub use replies::{KEPT_FOR, KEPT_MOST, Known, Receipt, RequestKey};
pub use view::{Versioned, View};

#[cfg(test)]
pub(crate) use db::skipped;
pub(crate) use db::{META, TOUCHED};
pub(crate) use frozen::Frozen;
pub(crate) use head::{Head, LiveHead};
pub(crate) use keys::{meta, parse_touched, touched_start};
pub(crate) use name_hash::NameHasher;
pub(crate) use page_set::PageSet;
pub(crate) use segment::Appender;
pub(crate) use swept::Settled;
pub(crate) use transaction::{Beneath, Erased, TIDIED, Touch, Txn};
pub(crate) use view::hex;

use counters::Counters;
use db::Database;
use freer::Freer;
use quarantine::Quarantine;
use reclaim::Reclaimer;
use record::{Record, SegmentMark, WriterState};
use registry::Registry;
use replies::Replies;
use segment::Segments;
use sharing::Sharing;
use space::Space;

use crate::error::FsError;
use crate::ids::{BranchId, Epoch};

/// How a store is opened.
#[derive(Clone, Debug)]
pub struct StoreOptions {
    /// What RocksDB may take.
    pub memory: MemoryBudget,
    /// Whether space is given back in the background, or only when asked.
    pub background: bool,
}

impl Default for StoreOptions {
    fn default() -> Self {
        StoreOptions { memory: MemoryBudget::default(), background: true }
    }
}

/// An open store.
pub struct Store {
    dir: PathBuf,
    pub(crate) db: Database,
    pub(crate) segments: Segments,
    pub(crate) hasher: NameHasher,
    pub(crate) counters: Counters,
    pub(crate) registry: RwLock<Registry>,
    heads: Mutex<HashMap<BranchId, Arc<Head>>>,
    pub(crate) space: Space,
    pub(crate) freer: Freer,
    pub(crate) sharing: Sharing,
    pub(crate) replies: Replies,
    pub(crate) quarantine: Quarantine,
    /// Bytes that were copied out of lowers.
    copied_up: AtomicU64,
    reclaimer: Reclaimer,
    // Last, so that it is released when everything else is closed.
    _lock: StoreLock,
}

impl Store {
    /// Opens the store in `dir`, or makes one.
    ///
    /// # Errors
    /// [`StoreError::Locked`] if another process has it, [`StoreError::NewerFormat`] if a newer durdir wrote it.
    pub fn open(dir: &Path, options: &StoreOptions) -> Result<Arc<Store>, FsError> {
        let io = |action, source| StoreError::Io { action, path: dir.to_owned(), source };
        std::fs::create_dir_all(dir).map_err(|source| io("create", source))?;
        std::fs::set_permissions(dir, std::os::unix::fs::PermissionsExt::from_mode(0o700))
            .map_err(|source| io("chmod", source))?;
        let lock = StoreLock::take(dir)?;
        format::check(dir)?;
        let db = Database::open(&dir.join("db"), options.memory)?;
        let quarantine = Quarantine::find(&db)?;
        let registry = Registry::load(&db)?;
        let hasher = load_hasher(&db)?;
        let pages = dir.join("segments");
        std::fs::create_dir_all(&pages).map_err(|source| io("create", source))?;
        let boot = boot_id()?;
        let segments = Segments::open(pages, boot, host::flush_of(dir), &load_marks(&db)?)?;
        let store = Arc::new(Store {
            dir: dir.to_owned(),
            counters: Counters::load(&db, &registry)?,
            registry: RwLock::new(registry),
            heads: Mutex::default(),
            space: Space::new(dir.to_owned()),
            freer: Freer::load(&db, boot)?,
            sharing: Sharing::default(),
            replies: Replies::load(&db, &quarantine)?,
            quarantine,
            copied_up: AtomicU64::new(0),
            reclaimer: Reclaimer::default(),
            db,
            segments,
            hasher,
            _lock: lock,
        });
        store.reclaimer.load_ended(store.stored_to_be_sealed()?);
        store.loosen_segments()?;
        if options.background {
            store.reclaimer.start(&store)?;
        }
        Ok(store)
    }

    /// Ends background work and makes everything durable. Dropping a store without this loses nothing that
    /// was acknowledged; it only leaves more of the log to be replayed.
    pub fn close(&self) -> Result<(), FsError> {
        self.reclaimer.stop();
        self.sync_all()?;
        self.db.flush()?;
        Ok(())
    }

    /// Writes out what is only in the log and in memory, so that whoever opens the store next has little of the log to
    /// replay. Returns how many bytes of memory that was.
    pub fn write_out(&self) -> Result<u64, FsError> {
        let bytes = self.db.memtable_bytes();
        self.db.flush()?;
        Ok(bytes)
    }

    /// Returns the directory of the store.
    pub fn dir(&self) -> &Path {
        &self.dir
    }

    /// Returns what tells the store from the others of this machine.
    ///
    /// # Errors
    /// Its directory cannot be looked at.
    pub fn mark(&self) -> Result<StoreMark, FsError> {
        let io = |source| StoreError::Io { action: "stat", path: self.dir.clone(), source };
        Ok(StoreMark::of(&self.dir).map_err(io)?)
    }

    /// Returns the head of a branch, loaded if nobody used it since the store was opened.
    pub(crate) fn head(&self, branch: BranchId) -> Result<Arc<Head>, FsError> {
        let registry = self.registry.read();
        let mut heads = self.heads.lock();
        if let Some(head) = heads.get(&branch) {
            return Ok(head.clone());
        }
        let record = registry.branch(branch)?;
        let (volume, volume_record) = registry.head_of(branch).ok_or_else(|| StoreError::Corrupt {
            what: format!("branch {branch}: it is the head of no volume"),
        })?;
        let forked_at = record.parent.map_or(Epoch(0), |(_, epoch)| epoch);
        let retained = registry.pinned_up_to(branch, Epoch(u64::MAX)).unwrap_or(forked_at).max(forked_at);
        let parent = record.parent.map(|(parent, _)| parent);
        let head = Head::new(volume, record.tree, branch, parent, record.epoch, retained);
        head.set_quota(volume_record.quota_bytes, volume_record.quota_inodes);
        head.set_first_new_ino(self.counters.peek_ino());
        self.db.scan(META, &meta::usage_of(branch), &[], |key, value| {
            match (meta::tail_writer(key), WriterState::decode(value)) {
                (Some(writer), Some(state)) => head.load_writer(usize::from(writer), state),
                // What it counted is missing from the sum until `fsck --repair` counts anew.
                _ => self.quarantine.add("usage", key),
            }
            Ok(true)
        })?;
        let mut changed = false;
        let unseen = touched_start(branch, retained.next());
        self.db.scan(TOUCHED, &branch.0.to_be_bytes(), &unseen, |_, value| {
            changed = value != TIDIED;
            Ok(!changed)
        })?;
        if changed {
            head.mark_written(record.epoch);
        }
        // What an earlier process wrote, or what the volume was forked from, and is not on the disk yet.
        self.segments.note_dirty(&head.appender);
        let head = Arc::new(head);
        heads.insert(branch, head.clone());
        Ok(head)
    }

    /// Returns the head of a volume.
    pub(crate) fn head_of_volume(&self, name: &str) -> Result<Arc<Head>, FsError> {
        let branch = self.registry.read().volume(name)?.1.branch;
        self.head(branch)
    }

    /// Returns the head if it is loaded.
    pub(crate) fn loaded_head(&self, branch: BranchId) -> Option<Arc<Head>> {
        self.heads.lock().get(&branch).cloned()
    }

    /// Returns all heads that are loaded.
    pub(crate) fn loaded_heads(&self) -> Vec<Arc<Head>> {
        self.heads.lock().values().cloned().collect()
    }

    /// Forgets a head that was replaced or removed.
    pub(crate) fn unload_head(&self, branch: BranchId) {
        if let Some(head) = self.heads.lock().remove(&branch) {
            head.appender.retire();
        }
    }

    /// Returns what a head sees.
    pub(crate) fn head_view(&self, head: &Head) -> Result<View, FsError> {
        self.registry.read().view(head.branch, Epoch(u64::MAX))
    }

    /// Makes durable what a head wrote so far: file data first, then the log.
    pub(crate) fn sync_head(&self, head: &Head) -> Result<(), FsError> {
        self.db.note_sync();
        let behind =
            self.segments.sync_ahead_of_log(&head.appender).map_err(|error| self.db.poison(error))?;
        self.store_marks(&behind)?;
        Ok(self.db.sync_log()?)
    }

    /// Makes durable what an appender wrote, but not the records.
    pub(crate) fn sync_data(&self, appender: &Appender) -> Result<(), FsError> {
        let behind = self.segments.sync(appender).map_err(|error| self.db.poison(error))?;
        Ok(self.store_marks(&behind)?)
    }

    /// Refuses if so many bytes more on the disk of the store would leave too little for deletes to succeed.
    ///
    /// # Errors
    /// [`FsError::NoSpace`]
    pub fn check_room(&self, bytes: u64) -> Result<(), FsError> {
        let (_, available) = self.space.available()?;
        if available > bytes { Ok(()) } else { Err(FsError::NoSpace) }
    }

    /// Makes everything durable.
    pub(crate) fn sync_all(&self) -> Result<(), FsError> {
        self.db.note_sync();
        let behind = self.segments.sync_all().map_err(|error| self.db.poison(error))?;
        self.store_marks(&behind)?;
        Ok(self.db.sync_log()?)
    }

    /// Returns the number of a new segment. Its mark is stored before any record can refer to it: in another boot its
    /// pages are suspect until they were synced in this one.
    pub(crate) fn new_segment(&self, branch: BranchId, at_least: u32) -> Result<u32, StoreError> {
        let segment = self.counters.next_segment(&self.db, at_least)?;
        let mark = SegmentMark { synced_pages: 0, branch, loose_from: None, boot: self.segments.boot() };
        self.write_marks(&[(segment, mark)])?;
        Ok(segment)
    }

    /// Notes what may have been rewritten in place before the host lost its power, before anything is sealed in this boot.
    fn loosen_segments(&self) -> Result<(), StoreError> {
        let registry = self.registry.read();
        let sealed = |branch| registry.pinned_up_to(branch, Epoch(u64::MAX)).unwrap_or(Epoch(0));
        let marks = self.segments.loosen(sealed);
        drop(registry);
        self.write_marks(&marks)
    }

    /// Has the marks of segments in the log that were synced. On return they are, whoever has written them.
    fn store_marks(&self, segments: &[u32]) -> Result<(), StoreError> {
        if segments.is_empty() {
            return Ok(());
        }
        let _one_at_a_time = self.segments.marking.lock();
        self.write_marks(&self.segments.unstored_marks(segments))
    }

    fn write_marks(&self, marks: &[(u32, SegmentMark)]) -> Result<(), StoreError> {
        if marks.is_empty() {
            return Ok(());
        }
        let mut batch = WriteBatch::default();
        for (segment, mark) in marks {
            batch.put_cf(self.db.family(META), meta::segment(*segment), mark.encode());
        }
        self.db.write(batch)?;
        self.segments.marks_are_stored(marks);
        Ok(())
    }

    /// Counts bytes that were copied out of a lower.
    pub(crate) fn count_copied_up(&self, bytes: u64) {
        self.copied_up.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Returns how many bytes were copied out of lowers since the store was opened.
    pub fn copied_up(&self) -> u64 {
        self.copied_up.load(Ordering::Relaxed)
    }

    /// Returns how large the store is and what its disk has left.
    pub fn usage(&self) -> Result<StoreUsage, FsError> {
        let (disk_bytes, disk_available) = self.space.available()?;
        Ok(StoreUsage {
            segment_bytes: self.segments.bytes(),
            table_bytes: self.db.table_bytes(),
            cache_bytes: self.db.cache_bytes(),
            memtable_bytes: self.db.memtable_bytes(),
            quarantined: self.quarantined(),
            disk_bytes,
            disk_available,
            sweeps_left: self.sweeps()?.len() as u64,
        })
    }
}

impl Drop for Store {
    fn drop(&mut self) {
        self.reclaimer.stop();
    }
}

fn load_hasher(db: &Database) -> Result<NameHasher, FsError> {
    if let Some(bytes) = db.get_meta(meta::HASH_KEY)? {
        let key = bytes.try_into().map_err(|_| StoreError::Corrupt { what: "hash key record".into() })?;
        return Ok(NameHasher::new(key));
    }
    let path = PathBuf::from("/dev/urandom");
    let mut key = [0; 16];
    std::fs::File::open(&path)
        .and_then(|mut file| std::io::Read::read_exact(&mut file, &mut key))
        .map_err(|source| StoreError::Io { action: "read", path, source })?;
    let mut batch = WriteBatch::default();
    batch.put_cf(db.family(META), meta::HASH_KEY, key);
    db.write(batch)?;
    Ok(NameHasher::new(key))
}

fn load_marks(db: &Database) -> Result<HashMap<u32, SegmentMark>, StoreError> {
    let mut marks = HashMap::new();
    db.scan(META, &[meta::SEGMENT], &[], |key, value| {
        if let Some(id) = meta::tail_u32(key) {
            // Of which boot it was cannot be told, nor what was synced: what does not match its checksum is damage.
            marks.insert(id, SegmentMark::decode(value).unwrap_or(SegmentMark::UNREADABLE));
        }
        Ok(true)
    })?;
    Ok(marks)
}

/// Identifies this boot of the host: what was written in another boot may have been lost with its power.
fn boot_id() -> Result<u128, StoreError> {
    let path = PathBuf::from("/proc/sys/kernel/random/boot_id");
    let text =
        std::fs::read_to_string(&path).map_err(|source| StoreError::Io { action: "read", path, source })?;
    u128::from_str_radix(&text.trim().replace('-', ""), 16)
        .map_err(|_| StoreError::Corrupt { what: format!("boot id {text:?}") })
}
