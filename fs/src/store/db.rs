//! RocksDB: opening, reading one record, writing one batch, syncing the log.
//!
//! # Crash consistency
//! A batch is in the write-ahead log when [`Database::write`] returns, which survives the death of the
//! process. It survives the death of the host after the next [`Database::sync_log`]. A
//! failed write or sync poisons the database: what the disk holds is no longer known, and nothing is
//! written until it is opened anew.

use std::path::Path;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

use rocksdb::{
    BlockBasedIndexType, BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB,
    DBCompressionType, DBRawIterator, InfoLogger, LogLevel, Options, ReadOptions, SliceTransform, Snapshot,
    WriteBatch, WriteOptions,
};

use super::error::StoreError;
use super::group_sync::GroupSync;
use super::keys::{Family, VERSION_LEN};
use crate::failpoint;

/// Column family of the index of what each epoch changed.
pub(crate) const TOUCHED: &str = "touched";
/// Column family of everything that is not versioned.
pub(crate) const META: &str = "meta";

/// The column family that RocksDB insists on.
const EMPTY: &str = "default";

/// Syncs from which on it is worth to make log files to be overwritten.
const OFTEN: u64 = 64;
/// How long they are made: about as long as a log becomes before a memtable is full.
pub(crate) const LOG_BYTES: usize = 8 << 20;
/// In pieces, or others would wait.
const LOG_PIECE: usize = 256 << 10;

/// Memory that RocksDB may take.
#[derive(Clone, Copy, Debug)]
pub struct MemoryBudget {
    /// Cache of blocks read from tables, in bytes.
    pub block_cache: usize,
    /// All memtables together, in bytes.
    pub write_buffers: usize,
}

impl Default for MemoryBudget {
    fn default() -> Self {
        MemoryBudget { block_cache: 64 << 20, write_buffers: 64 << 20 }
    }
}

/// An open RocksDB.
pub(crate) struct Database {
    db: DB,
    poison: OnceLock<String>,
    log_sync: GroupSync,
    /// Syncs that began, of data or the log.
    syncs: AtomicU64,
    /// Those of the log.
    log_syncs: AtomicU64,
    /// Whether there are log files to be overwritten.
    prepared: AtomicBool,
}

impl Database {
    /// Opens or makes the database in `dir`.
    pub(crate) fn open(dir: &Path, memory: MemoryBudget) -> Result<Database, StoreError> {
        Ok(Database::of(DB::open_cf_descriptors(&database_options(memory), dir, families(memory))?))
    }

    fn of(db: DB) -> Database {
        Database {
            db,
            poison: OnceLock::new(),
            log_sync: GroupSync::default(),
            syncs: AtomicU64::new(1),
            log_syncs: AtomicU64::new(0),
            prepared: AtomicBool::new(false),
        }
    }

    /// Opens the database in `dir` to look at it, beside a process that may have it open.
    pub(crate) fn open_read_only(dir: &Path) -> Result<Database, StoreError> {
        let memory = MemoryBudget::default();
        let mut options = database_options(memory);
        options.create_if_missing(false);
        // RocksDB would begin a log of its own beside that of its owner.
        options.set_info_logger(InfoLogger::new_callback_logger(LogLevel::Fatal, |_, _| {}));
        Ok(Database::of(DB::open_cf_descriptors_read_only(&options, dir, families(memory), false)?))
    }

    pub(crate) fn family(&self, name: &str) -> &ColumnFamily {
        self.db.cf_handle(name).expect("every column family is made at open")
    }

    /// Writes a batch to the log and the memtables: all of it or nothing.
    pub(crate) fn write(&self, batch: WriteBatch) -> Result<(), StoreError> {
        self.alive()?;
        self.attempt("log.write", "write the log in", || self.db.write_opt(batch, &WriteOptions::default()))?;
        // A write that failed may be in the log all the same.
        self.attempt("log.written", "write the log in", || Ok(()))
    }

    /// Makes everything written so far durable. Concurrent callers share one sync.
    pub(crate) fn sync_log(&self) -> Result<(), StoreError> {
        self.alive()?;
        self.note_sync();
        self.log_syncs.fetch_add(1, Ordering::Relaxed);
        self.attempt("log.sync", "sync the log in", || self.log_sync.run(|| self.db.flush_wal(true)))?;
        // What somebody else has failed to write meanwhile may be what this caller waits for.
        self.alive()
    }

    /// Does what must not fail: the database is poisoned if it does. `place` is where a test may have it fail.
    fn attempt(
        &self,
        place: &str,
        action: &'static str,
        work: impl FnOnce() -> Result<(), rocksdb::Error>,
    ) -> Result<(), StoreError> {
        let refused = |source| StoreError::Io { action, path: self.db.path().to_owned(), source };
        let done = failpoint::fail(place).map_err(refused).and_then(|()| Ok(work()?));
        done.map_err(|error| self.poison(error))
    }

    /// Once somebody syncs often, makes log files to be overwritten: while a log grows, each of its syncs commits the journal
    /// of the host, which costs several times what writing it does. RocksDB overwrites old log files by itself,
    /// but only those that this process has filled.
    pub(crate) fn prepare_log(&self) -> Result<(), StoreError> {
        if self.log_syncs.load(Ordering::Relaxed) < OFTEN || self.prepared.swap(true, Ordering::Relaxed) {
            return Ok(());
        }
        // The first file is the one that is written now; it is free once all that it holds is in tables. The second follows it.
        for _ in 0..2 {
            for _ in 0..LOG_BYTES / LOG_PIECE {
                let mut batch = WriteBatch::default();
                batch.put_log_data(vec![0; LOG_PIECE]);
                // A record that is not there: the family stays empty.
                batch.delete_cf(self.family(EMPTY), []);
                self.write(batch)?;
            }
            self.sync_log()?;
            self.flush()?;
            self.db.flush_cf(self.family(EMPTY))?;
        }
        Ok(())
    }

    /// Counts a sync that is about to begin: what was written before may be on the disk from now on.
    pub(crate) fn note_sync(&self) {
        self.syncs.fetch_add(1, Ordering::SeqCst);
    }

    /// Returns how many syncs began so far: never 0, and more than before as soon as something may have become durable.
    pub(crate) fn syncs(&self) -> u64 {
        self.syncs.load(Ordering::SeqCst)
    }

    /// Returns the value of an unversioned key.
    pub(crate) fn get_meta(&self, key: &[u8]) -> Result<Option<Vec<u8>>, StoreError> {
        Ok(self.db.get_cf(self.family(META), key)?)
    }

    /// Calls `visit` with each key of `family` that begins with `prefix` and is at or after `start`, in order, until
    /// it returns `false`.
    pub(crate) fn scan(
        &self,
        family: &str,
        prefix: &[u8],
        start: &[u8],
        mut visit: impl FnMut(&[u8], &[u8]) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        if let Some(end) = successor(prefix) {
            options.set_iterate_upper_bound(end);
        }
        let mut iter = self.db.raw_iterator_cf_opt(self.family(family), options);
        iter.seek(if start > prefix { start } else { prefix });
        while let Some((key, value)) = iter.item() {
            if !visit(key, value)? {
                return Ok(());
            }
            iter.next();
        }
        Ok(iter.status()?)
    }

    /// Returns the records as they are now, whatever is written later.
    pub(crate) fn snapshot(&self) -> Snapshot<'_> {
        self.db.snapshot()
    }

    /// Returns an iterator for seeks within one prefix at a time: bloom filters skip what cannot hold it.
    pub(crate) fn seeker(&self, family: Family) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_prefix_same_as_start(true);
        self.db.raw_iterator_cf_opt(self.family(family.name()), options)
    }

    /// Returns an iterator over all of a family, up to and without `end`.
    pub(crate) fn walker(&self, family: Family, end: Option<Vec<u8>>) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_total_order_seek(true);
        if let Some(end) = end {
            options.set_iterate_upper_bound(end);
        }
        self.db.raw_iterator_cf_opt(self.family(family.name()), options)
    }

    /// Writes memtables out, so that a reopen has little log to replay.
    pub(crate) fn flush(&self) -> Result<(), StoreError> {
        self.alive()?;
        for name in Family::ALL.iter().map(|family| family.name()).chain([TOUCHED, META]) {
            self.db.flush_cf(self.family(name))?;
        }
        Ok(())
    }

    /// Returns about how many records a family has: what was overwritten and not compacted yet counts as well.
    pub(crate) fn estimated_records(&self, family: &str) -> Result<u64, StoreError> {
        Ok(self.db.property_int_value_cf(self.family(family), "rocksdb.estimate-num-keys")?.unwrap_or(0))
    }

    /// Returns what the block cache holds, in bytes.
    pub(crate) fn cache_bytes(&self) -> u64 {
        // All families share one.
        let held = self.db.property_int_value_cf(self.family(META), "rocksdb.block-cache-usage");
        held.ok().flatten().unwrap_or(0)
    }

    /// Returns what the memtables hold, in bytes.
    pub(crate) fn memtable_bytes(&self) -> u64 {
        Family::ALL
            .iter()
            .map(|family| family.name())
            .chain([TOUCHED, META])
            .filter_map(|name| {
                self.db
                    .property_int_value_cf(self.family(name), "rocksdb.cur-size-all-mem-tables")
                    .ok()
                    .flatten()
            })
            .sum()
    }

    /// Returns the bytes of live tables.
    pub(crate) fn table_bytes(&self) -> u64 {
        Family::ALL
            .iter()
            .map(|family| family.name())
            .chain([TOUCHED, META])
            .filter_map(|name| {
                self.db.property_int_value_cf(self.family(name), "rocksdb.live-sst-files-size").ok().flatten()
            })
            .sum()
    }

    /// Refuses every write from now on. Returns `error`.
    pub(crate) fn poison(&self, error: StoreError) -> StoreError {
        if self.poison.set(error.to_string()).is_ok() {
            tracing::error!(%error, "store stops: a write or sync failed");
        }
        error
    }

    /// Returns the failure after which nothing is written any more, if there was one.
    pub(crate) fn poisoned(&self) -> Option<&str> {
        self.poison.get().map(String::as_str)
    }

    fn alive(&self) -> Result<(), StoreError> {
        match self.poison.get() {
            None => Ok(()),
            Some(first) => Err(StoreError::Poisoned { first: first.clone() }),
        }
    }
}

/// Returns how many records that were removed and not compacted yet the calling thread comes upon in `work`.
#[cfg(test)]
pub(crate) fn skipped(work: impl FnOnce()) -> u64 {
    use rocksdb::perf::{PerfContext, PerfMetric, PerfStatsLevel, set_perf_stats};
    set_perf_stats(PerfStatsLevel::EnableCount);
    let mut context = PerfContext::default();
    context.reset();
    work();
    let skipped = context.metric(PerfMetric::InternalDeleteSkippedCount);
    set_perf_stats(PerfStatsLevel::Disable);
    skipped
}

fn families(memory: MemoryBudget) -> impl Iterator<Item = ColumnFamilyDescriptor> {
    let cache = Cache::new_lru_cache(memory.block_cache);
    Family::ALL
        .into_iter()
        .map(|family| (family.name(), versioned_options(&cache, memory)))
        .chain([(TOUCHED, plain_options(&cache, memory)), (META, plain_options(&cache, memory))])
        // Empty, and always there. RocksDB reserves as much disk for a log as the largest memtable may have.
        .chain([(EMPTY, plain_options(&cache, memory))])
        .map(|(name, options)| ColumnFamilyDescriptor::new(name, options))
        .collect::<Vec<_>>()
        .into_iter()
}

/// The smallest key after all keys that begin with `prefix`; `None` if there is no such key.
pub(crate) fn successor(prefix: &[u8]) -> Option<Vec<u8>> {
    let last = prefix.iter().rposition(|&byte| byte != 0xff)?;
    let mut end = prefix.get(..=last)?.to_vec();
    *end.last_mut()? += 1;
    Some(end)
}

fn database_options(memory: MemoryBudget) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    options.set_db_write_buffer_size(memory.write_buffers);
    options.set_max_total_wal_size(memory.write_buffers as u64 * 2);
    // Overwriting old log files spares a journal commit per sync: their size does not change.
    options.set_recycle_log_file_num(2);
    options.set_manifest_preallocation_size(64 << 10);
    // A sync in the middle of heavy writing must not have hundreds of megabytes to push out.
    options.set_wal_bytes_per_sync(512 << 10);
    options.set_bytes_per_sync(1 << 20);
    options.set_max_background_jobs(2);
    options.set_max_open_files(512);
    options.set_keep_log_file_num(2);
    options.set_max_log_file_size(4 << 20);
    options.set_stats_dump_period_sec(0);
    options.set_stats_persist_period_sec(0);
    options.set_avoid_unnecessary_blocking_io(true);
    options.set_skip_stats_update_on_db_open(true);
    options
}

fn common_options(memory: MemoryBudget) -> Options {
    let mut options = Options::default();
    options.set_write_buffer_size(memory.write_buffers / 8);
    options.set_max_write_buffer_number(4);
    options.set_level_zero_file_num_compaction_trigger(4);
    options.set_level_zero_slowdown_writes_trigger(40);
    options.set_level_zero_stop_writes_trigger(80);
    options.set_compression_type(DBCompressionType::Lz4);
    options.set_level_compaction_dynamic_level_bytes(true);
    options
}

/// For the families whose reads are seeks to a prefix.
fn versioned_options(cache: &Cache, memory: MemoryBudget) -> Options {
    let mut options = common_options(memory);
    options.set_prefix_extractor(SliceTransform::create(
        "durdir.before-version",
        |key| key.get(..key.len().saturating_sub(VERSION_LEN)).unwrap_or_default(),
        Some(|key| key.len() > VERSION_LEN),
    ));
    // Some 25 bits for each record that fits: a larger one only makes every write and read miss the processor's caches.
    options.set_memtable_prefix_bloom_ratio(0.02);
    let mut table = table_options(cache);
    // Nobody asks for a whole key: a filter of prefixes is half the size.
    table.set_whole_key_filtering(false);
    options.set_block_based_table_factory(&table);
    options
}

fn plain_options(cache: &Cache, memory: MemoryBudget) -> Options {
    let mut options = common_options(memory);
    options.set_block_based_table_factory(&table_options(cache));
    options
}

fn table_options(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_bloom_filter(10.0, false);
    table.set_cache_index_and_filter_blocks(true);
    // In parts of a block's size: the filter of a table with a million keys is larger than a shard of the cache, and would be read
    // anew by every look-up.
    table.set_index_type(BlockBasedIndexType::TwoLevelIndexSearch);
    table.set_partition_filters(true);
    table.set_metadata_block_size(4 << 10);
    table.set_pin_top_level_index_and_filter(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_block_size(8 << 10);
    table.set_format_version(5);
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_log_that_is_synced_often_overwrites_a_file_and_keeps_everything() {
        let dir = tempfile::tempdir().unwrap();
        let open = || Database::open(dir.path(), MemoryBudget::default()).unwrap();
        let put = |db: &Database, key: &[u8]| {
            let mut batch = WriteBatch::default();
            batch.put_cf(db.family(META), key, b"value");
            db.write(batch).unwrap();
        };
        let newest_log = || {
            let logs = std::fs::read_dir(dir.path()).unwrap().map(|entry| entry.unwrap().path());
            let newest = logs.filter(|path| path.extension().is_some_and(|found| found == "log")).max();
            newest.unwrap().metadata().unwrap().len()
        };
        {
            let db = open();
            put(&db, b"before");
            for _ in 1..OFTEN {
                db.sync_log().unwrap();
            }
            db.prepare_log().unwrap();
            assert!(newest_log() < LOG_BYTES as u64, "too early");
            db.sync_log().unwrap();
            db.prepare_log().unwrap();
            assert!(newest_log() >= LOG_BYTES as u64);
            put(&db, b"after");
            db.sync_log().unwrap();
        }
        let db = open();
        for key in [&b"before"[..], b"after"] {
            assert_eq!(db.get_meta(key).unwrap().as_deref(), Some(&b"value"[..]));
        }
        let mut left = db.db.raw_iterator_cf(db.family(EMPTY));
        left.seek_to_first();
        assert!(!left.valid());
    }

    #[test]
    fn the_successor_follows_every_key_with_the_prefix() {
        assert_eq!(successor(b"ab"), Some(b"ac".to_vec()));
        assert_eq!(successor(b"a\xff"), Some(b"b".to_vec()));
        assert_eq!(successor(b"\xff\xff"), None);
    }
}
