//! Pages that several files refer to, after a copy that copied no data.
//!
//! A page that was shared once carries a mark in every reference to it, and is never freed by whoever lets go of it: that only
//! raises a *doubt*. The background settles doubts: it follows the stored *ties* between groups that ever shared pages and frees the page if
//! no version of any group that can be reached refers to it.
//!
//! # Invariants
//! - A reference to a shared page is copied only from a group that has it, in the batch that stores the tie. So once no version of
//!   a connected set of groups refers to a page, none ever will; the set is read at one instant of the database.
//! - A doubt is stored in the batch that lets go of the reference: nothing is forgotten when the process dies.
//! - Ties and doubts are removed only if none was stored since they were looked at: the same ones may have been stored again.
//!
//! # Concurrency
//! A batch with ties or doubts is written under the reading side of [`Sharing`]'s lock; what settles removes under the writing side. Last of
//! all locks but RocksDB's.

use std::sync::atomic::{AtomicU64, Ordering};

use hashbrown::HashSet;
use parking_lot::{RwLock, RwLockReadGuard};
use rocksdb::WriteBatch;

use super::frozen::Frozen;
use super::record::{FreeList, Group, PageRef, PageRun, Record};
use super::{META, Prefix, Store, StoreError, meta};
use crate::error::FsError;
use crate::ids::{Ino, TreeId};

/// Tells whether ties or doubts were stored since some moment.
#[derive(Debug, Default)]
pub(crate) struct Sharing {
    writing: RwLock<()>,
    written: AtomicU64,
}

/// Held while a batch with ties or doubts is written.
pub(crate) struct Sharer<'a> {
    sharing: &'a Sharing,
    _writing: RwLockReadGuard<'a, ()>,
}

impl Sharing {
    /// Begins to write ties or doubts.
    pub(crate) fn begin(&self) -> Sharer<'_> {
        Sharer { sharing: self, _writing: self.writing.read() }
    }
}

impl Drop for Sharer<'_> {
    fn drop(&mut self) {
        // Before the lock goes, after the batch was written: whoever has the lock then counts it.
        self.sharing.written.fetch_add(1, Ordering::SeqCst);
    }
}

/// A group of a file.
pub(crate) type Place = (TreeId, Ino, u64);

/// Doubts about the pages of one group that are settled together.
struct Doubts {
    place: Place,
    pages: Vec<(u32, u32)>,
}

/// What the pages of a group are needed for, at one moment.
struct Found {
    /// How many batches had stored ties or doubts before.
    written: u64,
    /// The groups that are connected with it.
    reached: HashSet<Place>,
    /// The pages that any version of those refers to.
    needed: HashSet<(u32, u32)>,
    /// Whether any of them is shared.
    any_shared: bool,
    /// The keys of the ties between the groups.
    ties: Vec<Vec<u8>>,
}

impl Store {
    /// Stages a tie between two groups that will share pages.
    pub(crate) fn put_tie(&self, batch: &mut WriteBatch, one: Place, other: Place) {
        if one != other {
            batch.put_cf(self.db.family(META), meta::tie(one, other), []);
            batch.put_cf(self.db.family(META), meta::tie(other, one), []);
        }
    }

    /// Stages a doubt whether a shared page is still needed.
    pub(crate) fn put_doubt(&self, batch: &mut WriteBatch, place: Place, page: PageRef) {
        batch.put_cf(self.db.family(META), meta::doubt(place, page.segment, page.page), []);
    }

    /// Tells whether a group ever shared pages with another.
    pub(crate) fn has_ties(&self, place: Place) -> Result<bool, StoreError> {
        let mut any = false;
        self.db.scan(META, &meta::ties_of(place), &[], |_, _| {
            any = true;
            Ok(false)
        })?;
        Ok(any)
    }

    /// Settles all doubts there are. Returns how many pages are freed.
    pub(crate) fn settle_doubts(&self) -> Result<u64, FsError> {
        let mut freed = 0;
        for doubts in self.doubts()? {
            match self.settle(&doubts) {
                // Who else refers to the pages is not known: they stay, and the doubt with them.
                Err(FsError::Store(error)) if error.is_corruption() => {
                    let (tree, ino, group) = doubts.place;
                    let prefix = Prefix::extent(tree, ino, group);
                    self.quarantine.add(prefix.family.name(), prefix.as_bytes());
                }
                settled => freed += settled?,
            }
        }
        Ok(freed)
    }

    /// Returns all doubts there are.
    fn doubts(&self) -> Result<Vec<Doubts>, StoreError> {
        let mut all: Vec<Doubts> = Vec::new();
        self.db.scan(META, &[meta::DOUBT], &[], |key, _| {
            let Some((place, segment, page)) = meta::parse_doubt(key) else {
                self.quarantine.add("doubt", key);
                return Ok(true);
            };
            match all.last_mut() {
                Some(last) if last.place == place => last.pages.push((segment, page)),
                _ => all.push(Doubts { place, pages: vec![(segment, page)] }),
            }
            Ok(true)
        })?;
        Ok(all)
    }

    fn has_other_doubts(&self, places: &HashSet<Place>, settled: Place) -> Result<bool, StoreError> {
        let mut any = false;
        for &place in places.iter().filter(|&&place| place != settled) {
            self.db.scan(META, &meta::doubts_of(place), &[], |_, _| {
                any = true;
                Ok(false)
            })?;
        }
        Ok(any)
    }

    fn settle(&self, doubts: &Doubts) -> Result<u64, FsError> {
        let found = self.look_into(doubts)?;
        self.conclude(doubts, found)
    }

    /// Finds out what the pages of a group are needed for, at one moment.
    fn look_into(&self, doubts: &Doubts) -> Result<Found, StoreError> {
        let written = self.sharing.written.load(Ordering::SeqCst);
        let frozen = Frozen::new(&self.db);
        let mut reached: HashSet<Place> = HashSet::from([doubts.place]);
        let mut queue = vec![doubts.place];
        let mut needed: HashSet<(u32, u32)> = HashSet::new();
        let mut any_shared = false;
        let mut ties = Vec::new();
        while let Some(place) = queue.pop() {
            frozen.scan(META, &meta::ties_of(place), &[], |key, _| {
                let Some(other) = meta::parse_tie(key) else {
                    return Err(StoreError::Corrupt { what: "tie record".into() });
                };
                ties.push(key.to_vec());
                if reached.insert(other) {
                    queue.push(other);
                }
                Ok(true)
            })?;
            let prefix = Prefix::extent(place.0, place.1, place.2);
            frozen.scan(prefix.family.name(), prefix.as_bytes(), &[], |_, value| {
                let group = Group::decode(value).ok_or_else(|| StoreError::Corrupt {
                    what: format!("extent record of inode {}", place.1),
                })?;
                for page in group.refs() {
                    needed.insert((page.segment, page.page));
                    any_shared |= page.shared;
                }
                Ok(true)
            })?;
        }
        Ok(Found { written, reached, needed, any_shared, ties })
    }

    /// Stores what was found out, or what is found out now, if anything was shared or let go of since.
    fn conclude(&self, doubts: &Doubts, mut found: Found) -> Result<u64, FsError> {
        let _nobody_shares = self.sharing.writing.write();
        if self.sharing.written.load(Ordering::SeqCst) != found.written {
            found = self.look_into(doubts)?;
        }
        let Found { reached, needed, any_shared, ties, .. } = found;
        let mut batch = WriteBatch::default();
        let mut runs = Vec::new();
        for &(segment, page) in &doubts.pages {
            batch.delete_cf(self.db.family(META), meta::doubt(doubts.place, segment, page));
            if !needed.contains(&(segment, page)) {
                runs.push(PageRun { segment, page, count: 1 });
            }
        }
        // Whoever still has to be asked finds the others by the ties: the last doubt takes them away.
        if !any_shared && !self.has_other_doubts(&reached, doubts.place)? {
            for tie in ties {
                batch.delete_cf(self.db.family(META), tie);
            }
        }
        let freed = runs.len() as u64;
        let number = (freed > 0).then(|| self.freer.number());
        if let Some(number) = number {
            batch.put_cf(
                self.db.family(META),
                meta::free(number),
                FreeList { boot: 0, runs: runs.clone() }.encode(),
            );
        }
        self.db.write(batch)?;
        if let Some(number) = number {
            self.freer.push(number, runs);
        }
        Ok(freed)
    }
}

#[cfg(test)]
mod tests {
    use std::ffi::OsStr;
    use std::sync::Arc;

    use super::*;
    use crate::attr::SetAttr;
    use crate::check::{Repair, check};
    use crate::ids::NodeId;
    use crate::ops::{Caller, KillSuid, VolumeFs};
    use crate::store::{Receipt, StoreOptions, VolumeSpec};

    const ROOT: Caller = Caller { uid: 0, gid: 0, pid: 1 };
    const LENGTH: usize = 64 << 10;

    fn store(dir: &std::path::Path) -> Arc<Store> {
        let options = StoreOptions { background: false, ..StoreOptions::default() };
        let store = Store::open(&dir.join("store"), &options).unwrap();
        store.create_volume("v", &VolumeSpec::default(), Receipt::none()).unwrap();
        store
    }

    /// Makes a file anew, in place.
    fn rewrite(fs: &VolumeFs, node: NodeId, byte: u8) {
        empty(fs, node);
        fs.write(node, 0, &[byte; LENGTH], KillSuid::No).unwrap();
    }

    fn empty(fs: &VolumeFs, node: NodeId) {
        fs.setattr(&ROOT, node, &SetAttr { size: Some(0), ..SetAttr::default() }).unwrap();
    }

    fn copy(fs: &VolumeFs, from: NodeId, to: NodeId) {
        assert_eq!(fs.copy_file_range(&ROOT, from, 0, to, 0, LENGTH as u64).unwrap(), LENGTH as u64);
    }

    #[test]
    fn what_is_shared_again_while_a_doubt_is_settled_stays_tied() {
        let dir = tempfile::tempdir().unwrap();
        let store = store(dir.path());
        let fs = store.open_head("v").unwrap();
        let [a, b] =
            ["a", "b"].map(|name| fs.create(&ROOT, NodeId::ROOT, OsStr::new(name), 0o644, 0).unwrap().node);
        rewrite(&fs, a, 1);
        copy(&fs, a, b);
        rewrite(&fs, a, 2);
        store.settle_doubts().unwrap();
        empty(&fs, b);
        let doubts = store.doubts().unwrap();
        assert_eq!(doubts.len(), 1);
        let found = store.look_into(&doubts[0]).unwrap();
        assert!(!found.any_shared && !found.ties.is_empty());
        copy(&fs, a, b);
        assert_eq!(store.conclude(&doubts[0], found).unwrap(), (LENGTH / 4096) as u64);
        rewrite(&fs, a, 3);
        assert_eq!(store.settle_doubts().unwrap(), 0, "the copy has these pages");
        let mut bytes = Vec::new();
        fs.read(b, 0, LENGTH, &mut bytes).unwrap();
        assert!(bytes == [2; LENGTH]);
        empty(&fs, b);
        assert_eq!(store.settle_doubts().unwrap(), (LENGTH / 4096) as u64);
        let mut ties = 0;
        store
            .db
            .scan(META, &[meta::TIE], &[], |_, _| {
                ties += 1;
                Ok(true)
            })
            .unwrap();
        assert_eq!(ties, 0);
        drop(fs);
        let report = check(&store, Repair::No).unwrap();
        assert!(report.issues.is_empty(), "{:?}", report.issues);
    }
}
