//! One operation, one transaction, one RocksDB batch.
//!
//! # Crash consistency
//! Everything an operation changes is in one batch: records, the index of what the epoch touched, usage, orphans and
//! the list of pages to be freed. Pages it wrote before the commit belong to nobody until then; a transaction that is
//! dropped gives them back, and after a crash `fsck` finds them.

use rocksdb::WriteBatch;

use super::Store;
use super::db::{META, TOUCHED};
use super::gate::Admission;
use super::head::Head;
use super::keys::{Prefix, meta};
use super::record::{Answered, FreeList, PageRef, PageRun, Record, Usage};
use super::segment::Allocated;
use super::sharing::Place;
use crate::error::FsError;
use crate::failpoint;
use crate::ids::{Epoch, Ino};
use crate::request::{self, Answer, Executing};

/// Whether the epoch's index has to learn of a record.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Touch {
    /// First write of this record in this epoch, or unknown.
    First,
    /// The record has a version of this epoch already.
    Again,
}

/// The value of an entry of `touched` that only says what was tidied up: by it alone an epoch is not changed.
pub(crate) const TIDIED: &[u8] = &[1];

/// A batch that is being put together.
pub(crate) struct Txn<'a> {
    store: &'a Store,
    head: &'a Head,
    admission: Admission<'a>,
    batch: WriteBatch,
    /// What goes into the log before the batch does.
    ahead: Option<WriteBatch>,
    charged: Usage,
    freed: Vec<PageRun>,
    /// As `freed`; a version of an older epoch refers to them, and stays.
    replaced: Vec<PageRun>,
    allocated: Vec<Allocated>,
    committed: bool,
    purpose: Purpose,
    /// Whether the request that the thread executes is done with this.
    answers: bool,
    doubts: bool,
    ties: bool,
    data_first: bool,
}

/// What a transaction is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Purpose {
    /// Somebody wants it.
    Change,
    /// It only tidies up: nobody sees a difference, and a snapshot after it says the same as one before.
    Housekeeping,
}

impl<'a> Txn<'a> {
    /// Begins; to be called while the locks of all inodes concerned are held.
    ///
    /// # Errors
    /// [`FsError::Retired`] if a rollback or a removal took the head away.
    pub(crate) fn begin(store: &'a Store, head: &'a Head) -> Result<Txn<'a>, FsError> {
        Ok(Txn {
            store,
            head,
            admission: head.gate.enter().ok_or(FsError::Retired)?,
            batch: WriteBatch::default(),
            ahead: None,
            charged: Usage::default(),
            freed: Vec::new(),
            replaced: Vec::new(),
            allocated: Vec::new(),
            committed: false,
            purpose: Purpose::Change,
            answers: true,
            doubts: false,
            ties: false,
            data_first: false,
        })
    }

    /// Begins one that removes what nobody sees any more.
    pub(crate) fn begin_housekeeping(store: &'a Store, head: &'a Head) -> Result<Txn<'a>, FsError> {
        let mut txn = Txn::begin(store, head)?;
        txn.purpose = Purpose::Housekeeping;
        Ok(txn)
    }

    /// Begins one of several of a request, and not the last. Pages that it is handed stay until `fsck --repair` if the process dies before it
    /// is committed.
    pub(crate) fn begin_step(store: &'a Store, head: &'a Head) -> Result<Txn<'a>, FsError> {
        let mut txn = Txn::begin(store, head)?;
        txn.answers = false;
        Ok(txn)
    }

    /// Tells whether its batch says that the request is done which the thread executes. Where it does not, a successor would take pages for
    /// given back that the batch refers to, so none are noted.
    fn is_answer(&self) -> bool {
        self.purpose == Purpose::Change && self.answers
    }

    pub(crate) fn head(&self) -> &'a Head {
        self.head
    }

    pub(crate) fn epoch(&self) -> Epoch {
        self.admission.epoch()
    }

    /// Writes this epoch's version of a record.
    pub(crate) fn put(&mut self, prefix: &Prefix, record: &impl Record, touch: Touch) {
        self.put_bytes(prefix, &record.encode(), touch);
    }

    fn put_bytes(&mut self, prefix: &Prefix, bytes: &[u8], touch: Touch) {
        let epoch = self.epoch();
        let db = &self.store.db;
        self.batch.put_cf(db.family(prefix.family.name()), prefix.version(self.head.branch, epoch), bytes);
        if touch == Touch::First {
            let value: &[u8] = match self.purpose {
                Purpose::Change => &[],
                Purpose::Housekeeping => TIDIED,
            };
            self.batch.put_cf(db.family(TOUCHED), prefix.touched(self.head.branch, epoch), value);
        }
    }

    /// Adds a record that has a version of this epoch to what [`Txn::write_ahead`] writes.
    pub(crate) fn put_ahead(&mut self, prefix: &Prefix, record: &impl Record) {
        let family = self.store.db.family(prefix.family.name());
        let key = prefix.version(self.head.branch, self.epoch());
        self.ahead.get_or_insert_default().put_cf(family, key, record.encode());
    }

    /// Writes what was put ahead, at once and whatever becomes of the transaction.
    pub(crate) fn write_ahead(&mut self) -> Result<(), FsError> {
        let Some(batch) = self.ahead.take() else { return Ok(()) };
        self.head.mark_written(self.epoch());
        Ok(self.store.db.write(batch)?)
    }

    /// Removes a record from view: deletes this epoch's version, and writes `marker` where something older would show through.
    pub(crate) fn erase(
        &mut self,
        prefix: &Prefix,
        marker: &impl Record,
        beneath: Beneath,
    ) -> Result<Erased, FsError> {
        let shows_through = match beneath {
            Beneath::Nothing => false,
            Beneath::Something => true,
            // The root is never erased.
            Beneath::Unknown if self.head.is_first(self.epoch()) => false,
            Beneath::Unknown => {
                let view = self.store.head_view(self.head)?;
                view.older(&self.store.db, prefix, self.head.branch, self.epoch())?.is_some()
            }
        };
        if shows_through {
            self.put_bytes(prefix, &marker.encode(), Touch::First);
            return Ok(Erased::Marked);
        }
        let (branch, epoch, db) = (self.head.branch, self.epoch(), &self.store.db);
        self.batch.delete_cf(db.family(prefix.family.name()), prefix.version(branch, epoch));
        // Where files are made and removed for ever without a snapshot, the index must not grow for ever.
        self.batch.delete_cf(db.family(TOUCHED), prefix.touched(branch, epoch));
        Ok(Erased::Entirely)
    }

    /// Remembers that an inode has no name but is still referred to.
    pub(crate) fn put_orphan(&mut self, ino: Ino) {
        self.batch.put_cf(self.store.db.family(META), meta::orphan(self.head.branch, ino), []);
    }

    /// Forgets an orphan.
    pub(crate) fn delete_orphan(&mut self, ino: Ino) {
        self.batch.delete_cf(self.store.db.family(META), meta::orphan(self.head.branch, ino));
    }

    /// Remembers an orphan that is removed now although it was one at the end of an older epoch, which forks may see.
    pub(crate) fn put_departed(&mut self, ino: Ino) {
        let key = meta::departed(self.head.branch, ino);
        self.batch.put_cf(self.store.db.family(META), key, self.epoch().0.to_le_bytes());
    }

    /// Counts bytes and inodes, now; refuses what a quota or the disk does not allow.
    pub(crate) fn charge(&mut self, delta: Usage) -> Result<(), FsError> {
        if delta.bytes > 0 || delta.inodes > 0 {
            // A record or two come with every byte.
            self.store.space.check(u64::try_from(delta.bytes.max(0)).unwrap_or(0) + 4096)?;
        }
        self.head.reserve(delta)?;
        self.charged += delta;
        Ok(())
    }

    /// Counts what comes with a removal, which nothing refuses: more is given back by it than it takes.
    pub(crate) fn charge_regardless(&mut self, delta: Usage) {
        self.head.reserve_regardless(delta);
        self.charged += delta;
    }

    /// Hands out pages in this head's segment. They are given back if the transaction is not committed.
    pub(crate) fn allocate(&mut self, count: u32) -> Result<&Allocated, FsError> {
        let store = self.store;
        let branch = self.head.branch;
        let number = |at_least| store.new_segment(branch, at_least);
        let allocated = store.segments.allocate(&self.head.appender, branch, count, number)?;
        let PageRun { segment, page, count } = allocated.run;
        if self.is_answer() {
            request::note_pages(segment, page, count);
        }
        self.allocated.push(allocated);
        Ok(self.allocated.last().expect("something was pushed just now"))
    }

    /// Tells whether only this head sees what was allocated in `epoch`: this very epoch, or one after the newest
    /// that is retained.
    fn is_own(&self, epoch: Epoch) -> bool {
        epoch == self.epoch() || epoch > self.head.retained()
    }

    /// Stores that two groups will share pages.
    pub(crate) fn put_tie(&mut self, one: Place, other: Place) {
        self.store.put_tie(&mut self.batch, one, other);
        self.ties = true;
    }

    /// Lets go of a page of a group. A shared one is looked into later; what a snapshot sees stays.
    pub(crate) fn release(&mut self, ino: Ino, group: u64, page: PageRef) {
        if page.shared {
            self.store.put_doubt(&mut self.batch, (self.head.tree, ino, group), page);
            self.doubts = true;
        } else if self.is_own(page.epoch) {
            // Given back after the commit is durable.
            let freed = if page.epoch == self.epoch() { &mut self.freed } else { &mut self.replaced };
            match freed.last_mut() {
                Some(last) if last.segment == page.segment && last.page + last.count == page.page => {
                    last.count += 1;
                }
                _ => freed.push(PageRun { segment: page.segment, page: page.page, count: 1 }),
            }
        }
    }

    /// Has the commit wait until the data is on the disk: the records take the place of some without which nobody could fall
    /// back to what was there before.
    pub(crate) fn data_first(&mut self) {
        self.data_first = true;
    }

    /// Writes everything, and with it what the request is answered with that the thread executes, if it is one. The
    /// records survive the death of the process from here on.
    ///
    /// The epoch is held open until the admission that is returned goes: pages of the epoch may be rewritten in place meanwhile.
    pub(crate) fn commit(mut self, answer: Answer) -> Result<Admission<'a>, FsError> {
        let (store, head, epoch) = (self.store, self.head, self.epoch());
        if self.data_first {
            store.sync_data(&head.appender)?;
        }
        let mut batch = std::mem::take(&mut self.batch);
        let mut freed = Vec::new();
        for (boot, runs) in [(0, &mut self.freed), (store.segments.boot(), &mut self.replaced)] {
            if !runs.is_empty() {
                let (number, list) = (store.freer.number(), FreeList { boot, runs: std::mem::take(runs) });
                batch.put_cf(store.db.family(META), meta::free(number), list.encode());
                freed.push((number, list.runs));
            }
        }
        let sharing = (self.ties || self.doubts).then(|| store.sharing.begin());
        // Before the write: a cut that finds nothing written must not overlook a batch on its way.
        if self.purpose == Purpose::Change {
            head.mark_written(epoch);
        }
        // A failed write stops the store, but may be in the log: pages it refers to stay.
        self.committed = true;
        // What only tidies up may run within a request, but answers nothing.
        let executing = request::executing().filter(|_| self.is_answer());
        let written = match answer {
            Answer::Count(count) => Some(count),
            Answer::Done | Answer::Inode(_) => None,
        };
        if batch.is_empty() && self.charged == Usage::default() && (executing.is_none() || written.is_some())
        {
            // Everything went ahead, or there was nothing.
            if let Some(count) = written {
                request::note_written(count);
            }
        } else if self.charged == Usage::default() && executing.is_none() {
            store.db.write(batch)?;
        } else {
            let (index, mut writer) = head.writer(executing.map(|executing| executing.thread));
            let mut state = *writer;
            state.usage += self.charged;
            if let Some(Executing { request, .. }) = executing {
                state.answered = Some(Answered { request, answer });
            }
            batch.put_cf(store.db.family(META), meta::usage(head.branch, index), state.encode());
            store.db.write(batch)?;
            *writer = state;
        }
        drop(sharing);
        if !self.allocated.is_empty() && self.purpose == Purpose::Change {
            failpoint::hit("txn.written");
            if self.is_answer() {
                request::note_settled();
            }
        }
        head.commit_usage(epoch, self.charged);
        for (number, runs) in freed {
            store.freer.push(number, runs);
        }
        if self.doubts {
            store.wake_reclaimer();
        }
        Ok(self.admission.clone())
    }
}

/// What is left of a record that was erased.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Erased {
    /// Nothing: the epoch has no version of it, and its index does not list it.
    Entirely,
    /// The epoch's version says that it is gone.
    Marked,
}

/// What an erased record would uncover.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Beneath {
    /// Neither an older version nor a lower has it.
    Nothing,
    /// A lower, or an older version, has it.
    Something,
    /// No lower has it; an older version may.
    Unknown,
}

impl Drop for Txn<'_> {
    fn drop(&mut self) {
        if self.committed {
            return;
        }
        self.head.release(self.charged);
        for allocated in self.allocated.drain(..) {
            let run = allocated.run;
            drop(allocated);
            if let Err(error) = self.store.segments.punch(run) {
                tracing::warn!(%error, ?run, "pages of a failed operation stay behind until fsck --repair");
            }
        }
        if self.is_answer() {
            request::note_settled();
        }
    }
}
