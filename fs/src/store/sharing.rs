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

use hashbrown::HashSet;
use rocksdb::WriteBatch;

use super::frozen::Frozen;
use super::record::{FreeList, Group, PageRef, PageRun, Record};
use super::{META, Prefix, Store, StoreError, meta};
use crate::error::FsError;
use crate::ids::{Ino, TreeId};

/// A group of a file.
pub(crate) type Place = (TreeId, Ino, u64);

/// Doubts about the pages of one group that are settled together.
struct Doubts {
    place: Place,
    pages: Vec<(u32, u32)>,
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
        let mut freed = 0;
        for doubts in all {
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
            batch.put_cf(self.db.family(META), meta::free(number), FreeList { runs: runs.clone() }.encode());
        }
        self.db.write(batch)?;
        if let Some(number) = number {
            self.freer.push(number, runs);
        }
        Ok(freed)
    }
}
