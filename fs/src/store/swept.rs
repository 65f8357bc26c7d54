//! How far sweeps have come: what the next one need not look at again.
//!
//! A *gap* is what lies between a retained epoch and the next one. Its epochs are *settled* up to one of them if no record has two versions there, nor one
//! that only says that something is gone which nothing shows. For a sweep they are like one epoch.
//!
//! # Overview
//! ```text
//!        after            gone             keep          gone goes: what had a version on both sides has one too many
//!   ───────●───────────────○────────────────●─────▶
//!          │◀─ settled ──▶ │◀─ settled ───▶ │            so it is enough to look at one side: whichever touched less
//!          │◀────────────── settled ───────▶│            then
//! ```
//! So snapshots that follow each other and go, as those of pauses do, cost what was written between them, whatever the volume holds.
//!
//! # Crash consistency
//! That epochs are settled is stored with the end of the sweep that settled them; after one that had to leave something, that none is. Without such a record the first
//! epoch of a gap that touched anything counts as settled, by itself. Whatever makes it untrue would have to write versions of epochs that have ended, and nobody does.

use rocksdb::WriteBatch;

use super::keys::touched_epoch;
use super::{META, Store, StoreError, TOUCHED, meta, touched_start};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch};

/// How many entries of two lists are counted at first, to find the shorter one.
const GLANCE: usize = 256;

/// Those after `after` up to and with `last`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Epochs {
    pub(super) after: Epoch,
    pub(super) last: Epoch,
}

/// What lies between a retained epoch of a branch and the next one.
#[derive(Clone, Copy, Debug)]
pub(super) struct Gap {
    pub(super) branch: BranchId,
    pub(super) after: Epoch,
    pub(super) keep: Epoch,
    /// Whether operations may still write into `keep`.
    pub(super) live: bool,
}

impl Gap {
    /// Returns up to where it is settled when all of it was gone through.
    pub(super) fn fixed(self) -> Epoch {
        if self.live { Epoch(self.keep.0.saturating_sub(1)) } else { self.keep }
    }
}

impl Store {
    /// Calls `walk` with epochs of a gap until it was with all those together that touched a record which has two versions in the gap, or
    /// one that only says that something is gone. Each time they are the fewest records that join one more epoch with those that are settled. Ends early when a call
    /// returns `false`.
    pub(super) fn settle_gap(
        &self,
        gap: Gap,
        mut walk: impl FnMut(Epochs) -> Result<bool, FsError>,
    ) -> Result<(), FsError> {
        let Gap { branch, after, keep, .. } = gap;
        let Some(mut settled) = self.settled(gap)? else {
            return walk(Epochs { after, last: keep }).map(drop);
        };
        while settled < keep {
            let next = self.first_touched(branch, settled)?.min(keep);
            let (joined, joining) = (Epochs { after, last: settled }, Epochs { after: settled, last: next });
            if !walk(self.shorter(branch, joining, joined)?)? {
                return Ok(());
            }
            settled = next;
        }
        Ok(())
    }

    /// Returns those among which are all that touched a record with a version in `gone`, which is a part of the gap, that nobody sees.
    pub(super) fn side(&self, gap: Gap, gone: Epochs) -> Result<Epochs, StoreError> {
        let settled = self.settled(gap)?.unwrap_or(gap.after).min(gap.keep);
        self.shorter(gap.branch, Epochs { after: settled, last: gap.keep }, gone)
    }

    /// Returns up to where a gap is settled; `None` if some sweep had to leave something in it.
    fn settled(&self, gap: Gap) -> Result<Option<Epoch>, StoreError> {
        let Gap { branch, after, keep, .. } = gap;
        let (mut stored, mut has_left) = (None, false);
        let (first, end) = (meta::settled(branch, after), meta::settled(branch, keep));
        self.db.scan(META, &meta::settled_of(branch), &first, |key, value| {
            if key >= end.as_slice() {
                return Ok(false);
            }
            // What cannot be read was moved aside.
            if let (Some((_, from)), Ok(through)) =
                (meta::tail_u32_u64(key), value.try_into().map(u64::from_le_bytes))
            {
                has_left |= through <= from;
                if Epoch(from) == after {
                    stored = Some(Epoch(through));
                }
            }
            Ok(true)
        })?;
        match stored {
            _ if has_left => Ok(None),
            Some(through) => Ok(Some(through)),
            None => self.first_touched(branch, after).map(Some),
        }
    }

    /// Returns the first epoch after `after` that touched anything, which is settled by itself.
    fn first_touched(&self, branch: BranchId, after: Epoch) -> Result<Epoch, StoreError> {
        let mut first = Epoch(u64::MAX);
        self.db.scan(TOUCHED, &branch.0.to_be_bytes(), &touched_start(branch, after.next()), |key, _| {
            // Whoever walks takes note of a key that cannot be read.
            first = touched_epoch(key).unwrap_or(first);
            Ok(first == Epoch(u64::MAX))
        })?;
        Ok(first)
    }

    /// Adds to a batch that the epochs of a gap are settled, up to `settled.last`; `keep` is the retained one that follows.
    pub(super) fn put_settled(
        &self,
        batch: &mut WriteBatch,
        branch: BranchId,
        settled: Epochs,
        keep: Epoch,
    ) -> Result<(), StoreError> {
        let family = self.db.family(META);
        let key = meta::settled(branch, settled.after);
        let end = meta::settled(branch, keep);
        // What was known of gaps that are parts of this one.
        self.db.scan(META, &meta::settled_of(branch), &key, |other, _| {
            let is_within = other < end.as_slice();
            if is_within {
                batch.delete_cf(family, other);
            }
            Ok(is_within)
        })?;
        batch.put_cf(family, key, settled.last.0.to_le_bytes());
        Ok(())
    }

    /// Returns the epochs that touched fewer records. That takes as long as it takes to count those.
    fn shorter(&self, branch: BranchId, one: Epochs, other: Epochs) -> Result<Epochs, StoreError> {
        let mut glance = GLANCE;
        loop {
            let (of_one, of_other) =
                (self.touched(branch, one, glance)?, self.touched(branch, other, glance)?);
            if of_one.min(of_other) < glance {
                return Ok(if of_one <= of_other { one } else { other });
            }
            glance *= 4;
        }
    }

    /// Counts the records that some epochs touched, up to `most`.
    fn touched(&self, branch: BranchId, epochs: Epochs, most: usize) -> Result<usize, StoreError> {
        let mut count = 0;
        let start = touched_start(branch, epochs.after.next());
        self.db.scan(TOUCHED, &branch.0.to_be_bytes(), &start, |key, _| {
            let is_of_them = touched_epoch(key).is_some_and(|epoch| epoch <= epochs.last);
            count += usize::from(is_of_them);
            Ok(is_of_them && count < most)
        })?;
        Ok(count)
    }
}
