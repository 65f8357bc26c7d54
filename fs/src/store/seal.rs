//! Sealing: giving pages that were rewritten in place their checksums back, once their epoch has ended.
//!
//! A page loses its checksum when the epoch that allocated it rewrites it. When that epoch ends nobody writes to the page any more: the
//! background reads it once and stores the checksum in the version of its group. A later version that took the page over
//! before that is sealed when its own epoch ends; until then readers find the checksum in the older version.
//!
//! # Crash consistency
//! That an epoch is to be sealed is stored with the announcement of the next, and deleted when it is done: doing it again finds
//! checksums everywhere. Pages go to the disk before their checksums are stored, else a loss of power could leave older bytes
//! under a newer checksum. What is suspect stays without one: its bytes may not be what was written.
//!
//! # Concurrency
//! Of an epoch that ended, versions are deleted by sweeps alone, and none runs while a batch of checksums is put together.

use std::sync::Arc;
use std::time::Instant;

use rocksdb::WriteBatch;

use super::head::Head;
use super::record::{Group, PAGE_SIZE, PAGES_PER_GROUP, Page, PageRef, Record};
use super::view::View;
use super::{Family, META, Prefix, Store, StoreError, TOUCHED, meta, parse_touched, touched_start};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, TreeId};

/// Groups that one batch looks at: sweeps wait meanwhile.
const BATCH: usize = 256;

/// An epoch that ended and is to be sealed.
#[derive(Clone)]
pub(crate) struct Ended {
    branch: BranchId,
    epoch: Epoch,
    /// Whose data is to be synced first; `None`: everybody's, after a restart.
    head: Option<Arc<Head>>,
    /// Whether that was begun, ahead of its turn.
    pushed: bool,
}

impl Ended {
    pub(crate) fn new(head: &Arc<Head>, epoch: Epoch) -> Ended {
        Ended { branch: head.branch, epoch, head: Some(head.clone()), pushed: false }
    }

    /// Returns the head whose data is to go to the disk, once.
    pub(super) fn take_to_push(&mut self) -> Option<Arc<Head>> {
        self.head.clone().filter(|_| !std::mem::replace(&mut self.pushed, true))
    }
}

impl Store {
    /// Returns what was stored to be sealed.
    pub(super) fn stored_to_be_sealed(&self) -> Result<Vec<Ended>, StoreError> {
        let mut ended = Vec::new();
        self.db.scan(META, &[meta::SEAL], &[], |key, _| {
            match meta::tail_u32_u64(key) {
                Some((branch, epoch)) => {
                    let (branch, epoch) = (BranchId(branch), Epoch(epoch));
                    ended.push(Ended { branch, epoch, head: None, pushed: false });
                }
                None => self.quarantine.add("epoch to be sealed", key),
            }
            Ok(true)
        })?;
        Ok(ended)
    }

    /// Stores that an epoch, which has ended, is to be sealed, and seals it.
    pub(crate) fn seal_again(&self, branch: BranchId, epoch: Epoch) -> Result<(), FsError> {
        let mut batch = WriteBatch::default();
        batch.put_cf(self.db.family(META), meta::seal(branch, epoch), []);
        self.db.write(batch)?;
        let _sealing = self.reclaimer.sealing.lock();
        self.sync_and_seal(&[Ended { branch, epoch, head: None, pushed: false }])
    }

    /// Pushes the data of ended epochs to the disk and seals them. One that cannot be sealed stays stored, and keeps no other.
    pub(super) fn sync_and_seal(&self, ended: &[Ended]) -> Result<(), FsError> {
        let mut all = Ok(());
        for ended in ended {
            let synced = match &ended.head {
                Some(head) => self.sync_data(&head.appender),
                None => self.sync_all(),
            };
            all = all.and(synced.and_then(|()| self.seal(ended.branch, ended.epoch)));
        }
        all
    }

    fn seal(&self, branch: BranchId, epoch: Epoch) -> Result<(), FsError> {
        let begun = Instant::now();
        let mut pages = 0;
        // A branch that is gone has nothing to be sealed.
        let tree = self.registry.read().branches.get(&branch).map(|branch| branch.tree);
        if let Some(tree) = tree {
            let mut extents = touched_start(branch, epoch);
            extents.push(Family::Extent.tag());
            let mut start = extents.clone();
            loop {
                let mut groups = Vec::with_capacity(BATCH);
                let mut next = None;
                self.db.scan(TOUCHED, &extents, &start, |key, _| {
                    let Some((_, _, prefix)) = parse_touched(tree, key) else {
                        self.quarantine.add("touched", key);
                        return Ok(true);
                    };
                    if groups.len() == BATCH {
                        next = Some(key.to_vec());
                        return Ok(false);
                    }
                    groups.push(prefix);
                    Ok(true)
                })?;
                pages += self.seal_groups(tree, branch, epoch, &groups)?;
                match next {
                    // What is left is stored, and done after the next start.
                    Some(_) if self.reclaimer.is_stopping() => return Ok(()),
                    Some(key) => start = key,
                    None => break,
                }
            }
        }
        let mut batch = WriteBatch::default();
        batch.delete_cf(self.db.family(META), meta::seal(branch, epoch));
        self.db.write(batch)?;
        if pages > 0 {
            tracing::debug!(%branch, %epoch, pages, micros = begun.elapsed().as_micros(), "epoch sealed");
        }
        Ok(())
    }

    /// Stores the checksums that are missing in the epoch's versions of some groups. Returns how many.
    fn seal_groups(
        &self,
        tree: TreeId,
        branch: BranchId,
        epoch: Epoch,
        groups: &[Prefix],
    ) -> Result<u64, FsError> {
        let _working = self.reclaimer.working.lock();
        let exact = View::new(tree, vec![(branch, epoch)]);
        let mut batch = WriteBatch::default();
        let mut count = 0;
        for prefix in groups {
            let found = match exact.load::<Group>(&self.db, prefix) {
                // Whoever reads it is told. The others are sealed all the same.
                Err(error) if error.is_corruption() => continue,
                found => found?,
            };
            let Some(mut found) = found.filter(|found| found.epoch == epoch) else { continue };
            let Group::Pages(pages) = &mut found.record else { continue };
            let sealed = self.seal_pages(pages)?;
            if sealed > 0 {
                let family = self.db.family(prefix.family.name());
                batch.put_cf(family, prefix.version(branch, epoch), found.record.encode());
                count += sealed;
            }
        }
        if !batch.is_empty() {
            self.db.write(batch)?;
        }
        Ok(count)
    }

    fn seal_pages(&self, pages: &mut [Page; PAGES_PER_GROUP]) -> Result<u64, StoreError> {
        let bare: Vec<(usize, PageRef)> = (0..)
            .zip(pages.iter())
            .filter_map(|(position, page)| match page {
                Page::Data(data) if data.crc.is_none() => Some((position, *data)),
                _ => None,
            })
            .filter(|(_, data)| !self.segments.is_suspect(data.segment, data.page))
            .collect();
        let mut bytes = Vec::new();
        let side_by_side = |a: &(usize, PageRef), b: &(usize, PageRef)| {
            a.1.segment == b.1.segment && a.1.page + 1 == b.1.page
        };
        for run in bare.chunk_by(side_by_side) {
            let Some(&(_, first)) = run.first() else { continue };
            bytes.resize(run.len() * PAGE_SIZE, 0);
            self.segments.get(first.segment)?.read(first.page, 0, &mut bytes)?;
            for (&(position, _), content) in run.iter().zip(bytes.chunks(PAGE_SIZE)) {
                if let Some(Page::Data(data)) = pages.get_mut(position) {
                    data.crc = Some(crc32c::crc32c(content));
                }
            }
        }
        Ok(bare.len() as u64)
    }
}
