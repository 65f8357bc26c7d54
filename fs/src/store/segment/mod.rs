//! Segment files: where the data of files lies that is too large for a record.
//!
//! A segment is a sparse file of 4 KiB pages. Pages are handed out in order and never twice; a page that nothing
//! refers to any more is punched out, and a segment without pages is unlinked. Each head appends to a
//! segment of its own, so that one volume's sync does not wait for another's data.
//!
//! # Crash consistency
//! After the death of the process every page that was written is in the page cache. After the death of the
//! host a page at or above the segment's synced mark may hold zeros: [`Segments::is_suspect`]. One below it may
//! have been rewritten in place by an operation whose record was lost: [`Segments::is_loose`].

mod allocation;
mod file;

use std::fs::File;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::sync::{Arc, OnceLock};

use hashbrown::HashMap;
use parking_lot::{Condvar, Mutex, RwLock};

pub(crate) use self::allocation::Allocated;
use self::allocation::{Allocation, Underway};
pub(crate) use self::file::Segment;
use self::file::io;
use super::error::StoreError;
use super::group_sync::GroupSync;
use super::record::{PAGE_SIZE, PageRun, SegmentMark};
use crate::ids::{BranchId, Epoch};

/// Pages of a full segment: 1 GiB.
const SEGMENT_PAGES: u32 = 1 << 18;

/// The boot of a segment without a mark.
const NO_BOOT: u128 = 0;

/// All segments of a store.
pub(crate) struct Segments {
    dir: PathBuf,
    /// The directory itself: whoever syncs it must not need a descriptor for that.
    entries: File,
    boot: u128,
    flush: Flush,
    open: RwLock<HashMap<u32, Arc<Segment>>>,
    /// Larger than the number of every segment file that was found.
    after_found: u32,
    /// Held while marks are written, so that an older one never follows a newer.
    pub(crate) marking: Mutex<()>,
}

/// What makes durable what the host has written to the disk.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Flush {
    /// A sync of the segment.
    Own,
    /// Also one of the log, if no page was handed out since the segment was synced: both lie on one filesystem that rewrites
    /// blocks where they are.
    Shared,
}

/// The place where one head appends, and what it wrote since its last sync.
#[derive(Default)]
pub(crate) struct Appender {
    current: Mutex<Option<Arc<Segment>>>,
    dirty: Mutex<Vec<Arc<Segment>>>,
}

impl Segments {
    /// Opens the directory. `marks` are the stored sync marks by segment. Where the file of one of an earlier boot is missing, its
    /// making was lost: an empty one takes its place, in which every page is lost.
    pub(crate) fn open(
        dir: PathBuf,
        boot: u128,
        flush: Flush,
        marks: &HashMap<u32, SegmentMark>,
    ) -> Result<Segments, StoreError> {
        std::fs::create_dir_all(&dir).map_err(|source| io("create", &dir, source))?;
        for (id, _) in marks.iter().filter(|(_, mark)| mark.boot != boot) {
            let path = dir.join(format!("{id:08x}.seg"));
            File::options()
                .write(true)
                .create(true)
                .truncate(false)
                .open(&path)
                .map_err(|source| io("create", &path, source))?;
        }
        let mut open = HashMap::new();
        let mut after_found = marks.keys().max().map_or(1, |last| last + 1);
        for entry in std::fs::read_dir(&dir).map_err(|source| io("list", &dir, source))? {
            let entry = entry.map_err(|source| io("list", &dir, source))?;
            let Some(id) = segment_id(&entry.file_name()) else { continue };
            after_found = after_found.max(id + 1);
            let path = entry.path();
            let file = File::options()
                .read(true)
                .write(true)
                .open(&path)
                .map_err(|source| io("open", &path, source))?;
            let length = file.metadata().map_err(|source| io("stat", &path, source))?.len();
            let pages = u32::try_from(length.div_ceil(PAGE_SIZE as u64)).unwrap_or(u32::MAX);
            // A segment without a mark was made by a process that died before its first record: of no boot we know.
            let unknown =
                SegmentMark { synced_pages: 0, branch: BranchId(0), loose_from: None, boot: NO_BOOT };
            let mark = marks.get(&id).copied().unwrap_or(unknown);
            let synced_pages = mark.synced_pages;
            let segment = Segment {
                id,
                path,
                file,
                // Pages that were synced once may have been rewritten in place since.
                dirty: AtomicBool::new(true),
                syncing: AtomicBool::new(false),
                failed: AtomicBool::new(false),
                sync: GroupSync::default(),
                writing_out: GroupSync::default(),
                stored_mark: AtomicU32::new(synced_pages),
                linked: AtomicBool::new(synced_pages > 0),
                synced_pages: AtomicU32::new(synced_pages),
                boot: mark.boot,
                branch: mark.branch,
                loose_from: mark.loose_from.map_or_else(OnceLock::new, OnceLock::from),
                active: AtomicBool::new(false),
                allocation: Mutex::new(Allocation { next: pages, underway: Vec::new() }),
                written: Condvar::new(),
            };
            open.insert(id, Arc::new(segment));
        }
        let entries = File::open(&dir).map_err(|source| io("open", &dir, source))?;
        Ok(Segments {
            dir,
            entries,
            boot,
            flush,
            open: RwLock::new(open),
            after_found,
            marking: Mutex::default(),
        })
    }

    /// Hands out `count` pages in a row, at most 256, to the head of `branch`. A new segment gets the number that `number`
    /// returns, or a larger one.
    pub(crate) fn allocate(
        &self,
        appender: &Appender,
        branch: BranchId,
        count: u32,
        number: impl Fn(u32) -> Result<u32, StoreError>,
    ) -> Result<Allocated, StoreError> {
        let mut current = appender.current.lock();
        loop {
            if let Some(segment) = current.as_ref() {
                let mut allocation = segment.allocation.lock();
                if allocation.next.saturating_add(count) <= SEGMENT_PAGES {
                    let run = PageRun { segment: segment.id, page: allocation.next, count };
                    allocation.next += count;
                    allocation.underway.push(Underway { page: run.page, written: false });
                    drop(allocation);
                    appender.note(segment);
                    return Ok(Allocated { segment: segment.clone(), run });
                }
                segment.active.store(false, Ordering::SeqCst);
            }
            *current = Some(self.create(number(self.after_found)?, branch)?);
        }
    }

    fn create(&self, id: u32, branch: BranchId) -> Result<Arc<Segment>, StoreError> {
        let path = self.dir.join(format!("{id:08x}.seg"));
        let file = File::options()
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)
            .map_err(|source| io("create", &path, source))?;
        let segment = Arc::new(Segment {
            id,
            path,
            file,
            dirty: AtomicBool::new(false),
            syncing: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            sync: GroupSync::default(),
            writing_out: GroupSync::default(),
            stored_mark: AtomicU32::new(0),
            linked: AtomicBool::new(false),
            synced_pages: AtomicU32::new(0),
            boot: self.boot,
            branch,
            loose_from: OnceLock::new(),
            active: AtomicBool::new(true),
            allocation: Mutex::default(),
            written: Condvar::new(),
        });
        self.open.write().insert(id, segment.clone());
        Ok(segment)
    }

    /// Identifies the boot of the host that runs now.
    pub(crate) fn boot(&self) -> u128 {
        self.boot
    }

    /// Returns the segment, if it exists.
    pub(crate) fn get(&self, id: u32) -> Result<Arc<Segment>, StoreError> {
        self.open
            .read()
            .get(&id)
            .cloned()
            .ok_or_else(|| StoreError::Corrupt { what: format!("segment {id:08x}: missing") })
    }

    /// Tells whether the host may have lost the page with its power: it was not synced in
    /// the boot that wrote it.
    pub(crate) fn is_suspect(&self, segment: u32, page: u32) -> bool {
        self.open.read().get(&segment).is_some_and(|segment| {
            segment.boot != self.boot && page >= segment.synced_pages.load(Ordering::SeqCst)
        })
    }

    /// Tells whether the page is beyond the reach of a loss of power.
    pub(crate) fn is_safe(&self, segment: u32, page: u32) -> bool {
        self.open
            .read()
            .get(&segment)
            .is_none_or(|segment| page < segment.synced_pages.load(Ordering::SeqCst))
    }

    /// Tells whether the checksum of a page may be that of bytes that were rewritten in place since: its epoch was not sealed
    /// when the boot ended that wrote it.
    pub(crate) fn is_loose(&self, segment: u32, epoch: Epoch) -> bool {
        let open = self.open.read();
        open.get(&segment).and_then(|segment| segment.loose_from.get()).is_some_and(|&from| epoch >= from)
    }

    /// Notes for each segment of an earlier boot which epochs were not sealed when that boot ended, unless it was noted by a boot
    /// before this one. `sealed` returns the newest sealed epoch of a branch. Returns the marks that became true.
    pub(crate) fn loosen(&self, sealed: impl Fn(BranchId) -> Epoch) -> Vec<(u32, SegmentMark)> {
        let mut marks = Vec::new();
        // Nothing refers to a segment that has no mark: its number may be behind the counter, and it gets none.
        let earlier = |segment: &&Arc<Segment>| segment.boot != self.boot && segment.boot != NO_BOOT;
        for segment in self.open.read().values().filter(earlier) {
            if segment.loose_from.set(sealed(segment.branch).next()).is_ok() {
                marks.push((segment.id, segment.mark()));
            }
        }
        marks
    }

    /// Syncs what was written through an appender. Returns the segments whose stored marks are behind that, whoever moved them on.
    pub(crate) fn sync(&self, appender: &Appender) -> Result<Vec<u32>, StoreError> {
        let dirty = appender.dirty.lock().clone();
        let mut behind = Vec::new();
        for segment in &dirty {
            behind.extend(self.sync_segment(segment)?);
        }
        // Only what cannot be written any more through this appender without being noted again.
        appender.dirty.lock().retain(|segment| {
            segment.active.load(Ordering::SeqCst)
                || !segment.is_clean()
                || !segment.allocation.lock().underway.is_empty()
        });
        Ok(behind)
    }

    /// As [`Segments::sync`], for who syncs the log next: what was only rewritten in place is written to the disk, and
    /// durable with the flush that the log's sync ends with.
    pub(crate) fn sync_ahead_of_log(&self, appender: &Appender) -> Result<Vec<u32>, StoreError> {
        if self.flush == Flush::Own {
            return self.sync(appender);
        }
        let dirty = appender.dirty.lock().clone();
        for segment in &dirty {
            if !segment.is_settled() {
                return self.sync(appender);
            }
            segment.write_out()?;
        }
        // They stay dirty: who does not sync the log has the flush to do.
        Ok(Vec::new())
    }

    /// Makes an appender answer for all that is not on the disk yet, whoever wrote it.
    pub(crate) fn note_dirty(&self, appender: &Appender) {
        for segment in self.open.read().values().filter(|segment| !segment.is_clean()) {
            appender.note(segment);
        }
    }

    /// Rewrites bytes of a page in place.
    pub(crate) fn rewrite(
        &self,
        appender: &Appender,
        segment: u32,
        page: u32,
        skip: usize,
        bytes: &[u8],
    ) -> Result<(), StoreError> {
        let segment = self.get(segment)?;
        segment.write(page, skip, bytes)?;
        appender.note(&segment);
        Ok(())
    }

    /// Syncs every segment that was written since its last sync. Returns what [`Segments::sync`] does.
    pub(crate) fn sync_all(&self) -> Result<Vec<u32>, StoreError> {
        let all: Vec<_> = self.open.read().values().cloned().collect();
        let mut behind = Vec::new();
        for segment in all {
            behind.extend(self.sync_segment(&segment)?);
        }
        Ok(behind)
    }

    /// Returns the marks of those of `segments` that are to be stored.
    pub(crate) fn unstored_marks(&self, segments: &[u32]) -> Vec<(u32, SegmentMark)> {
        let open = self.open.read();
        let found = segments.iter().filter_map(|id| open.get(id));
        found.filter(|segment| segment.is_behind()).map(|segment| (segment.id, segment.mark())).collect()
    }

    /// Takes note that marks are in the log.
    pub(crate) fn marks_are_stored(&self, marks: &[(u32, SegmentMark)]) {
        let open = self.open.read();
        for (segment, mark) in marks {
            if let Some(segment) = open.get(segment) {
                segment.stored_mark.fetch_max(mark.synced_pages, Ordering::SeqCst);
            }
        }
    }

    /// Syncs one segment if it is dirty. Concurrent callers share a sync. Returns it if its stored mark is behind.
    fn sync_segment(&self, segment: &Segment) -> Result<Option<u32>, StoreError> {
        segment.sync.run::<StoreError>(|| {
            let _under_way = UnderWay::begin(segment);
            if !segment.dirty.swap(false, Ordering::SeqCst) {
                return Ok(());
            }
            let safe = segment.await_written();
            segment
                .attempt("sync", || segment.file.sync_data())
                .inspect_err(|_| segment.dirty.store(true, Ordering::SeqCst))?;
            if !segment.linked.load(Ordering::SeqCst) {
                self.entries
                    .sync_all()
                    .inspect_err(|_| segment.dirty.store(true, Ordering::SeqCst))
                    .map_err(|source| io("sync", &self.dir, source))?;
                segment.linked.store(true, Ordering::SeqCst);
            }
            // What an earlier boot lost does not come back by a sync of this one.
            if segment.boot == self.boot {
                segment.synced_pages.fetch_max(safe, Ordering::SeqCst);
            }
            Ok(())
        })?;
        Ok(segment.is_behind().then_some(segment.id))
    }

    /// Gives the pages of a run back to the host. Doing it twice is harmless: pages are never handed out again.
    pub(crate) fn punch(&self, run: PageRun) -> Result<(), StoreError> {
        let Some(segment) = self.open.read().get(&run.segment).cloned() else { return Ok(()) };
        use nix::fcntl::{FallocateFlags, fallocate};
        let flags = FallocateFlags::FALLOC_FL_PUNCH_HOLE | FallocateFlags::FALLOC_FL_KEEP_SIZE;
        let offset = i64::from(run.page) * PAGE_SIZE as i64;
        fallocate(&segment.file, flags, offset, i64::from(run.count) * PAGE_SIZE as i64)
            .map_err(|errno| io("punch a hole into", &segment.path, errno.into()))
    }

    /// Unlinks segments that nobody appends to and that hold no page. Returns which.
    pub(crate) fn unlink_empty(&self) -> Result<Vec<u32>, StoreError> {
        use std::os::unix::fs::MetadataExt;
        // One of an earlier boot may be empty because its pages were lost. Records refer to them, and readers find out by it.
        let known = |segment: &Segment| segment.boot == self.boot || segment.boot == NO_BOOT;
        let candidates: Vec<_> = self
            .open
            .read()
            .values()
            .filter(|segment| !segment.active.load(Ordering::SeqCst) && known(segment))
            .cloned()
            .collect();
        let mut unlinked = Vec::new();
        for segment in candidates {
            let metadata = segment.file.metadata().map_err(|source| io("stat", &segment.path, source))?;
            if metadata.blocks() == 0 && segment.allocation.lock().underway.is_empty() {
                self.open.write().remove(&segment.id);
                std::fs::remove_file(&segment.path).map_err(|source| io("unlink", &segment.path, source))?;
                unlinked.push(segment.id);
            }
        }
        Ok(unlinked)
    }

    /// Returns the bytes of all segments as the host counts them.
    pub(crate) fn bytes(&self) -> u64 {
        use std::os::unix::fs::MetadataExt;
        let all: Vec<_> = self.open.read().values().cloned().collect();
        // A segment that cannot be asked is not worth failing a statistic for.
        all.iter()
            .filter_map(|segment| segment.file.metadata().ok())
            .map(|metadata| metadata.blocks() * 512)
            .sum()
    }

    /// Returns id and allocated pages of each segment.
    pub(crate) fn list(&self) -> Vec<(u32, u32)> {
        self.open.read().values().map(|segment| (segment.id, segment.allocation.lock().next)).collect()
    }
}

impl Appender {
    fn note(&self, segment: &Arc<Segment>) {
        let mut dirty = self.dirty.lock();
        if !dirty.iter().any(|noted| Arc::ptr_eq(noted, segment)) {
            dirty.push(segment.clone());
        }
    }

    /// Stops appending: the segment may be unlinked once it is empty.
    pub(crate) fn retire(&self) {
        if let Some(segment) = self.current.lock().take() {
            segment.active.store(false, Ordering::SeqCst);
        }
    }
}

/// A sync of a segment, until it is over.
struct UnderWay<'a>(&'a Segment);

impl<'a> UnderWay<'a> {
    fn begin(segment: &'a Segment) -> UnderWay<'a> {
        segment.syncing.store(true, Ordering::SeqCst);
        UnderWay(segment)
    }
}

impl Drop for UnderWay<'_> {
    fn drop(&mut self) {
        self.0.syncing.store(false, Ordering::SeqCst);
    }
}

fn segment_id(name: &std::ffi::OsStr) -> Option<u32> {
    u32::from_str_radix(name.to_str()?.strip_suffix(".seg")?, 16).ok()
}

#[cfg(test)]
mod tests;
