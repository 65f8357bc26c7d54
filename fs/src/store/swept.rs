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
//! That epochs are settled is stored with the end of the sweep that settled them, and that a mark had to stay with the batch that took what it hid. Without such a
//! record the first epoch of a gap that touched anything counts as settled, by itself.
//!
//! In a fork, a mark that hid a mark of its parent may stay when that goes.

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

/// What is stored of how far epochs are settled.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Settled {
    pub(crate) through: Epoch,
    /// Whether something was left behind that, for lists of what was touched, only those of epochs after `through` are sure to have.
    pub(crate) has_left: bool,
}

/// A stored [`Settled`], and after which epoch it begins.
type Mark = (Epoch, Settled);

impl Settled {
    pub(crate) fn encode(self) -> [u8; 9] {
        let mut bytes = [0; 9];
        let (through, has_left) = bytes.split_at_mut(8);
        through.copy_from_slice(&self.through.0.to_le_bytes());
        has_left.fill(u8::from(self.has_left));
        bytes
    }

    /// `None` if it does not parse.
    pub(crate) fn decode(bytes: &[u8]) -> Option<Settled> {
        let (through, has_left) = bytes.split_at_checked(8)?;
        let has_left = match has_left {
            [0] => false,
            [1] => true,
            _ => return None,
        };
        Some(Settled { through: Epoch(u64::from_le_bytes(through.try_into().ok()?)), has_left })
    }
}

impl Gap {
    /// Returns up to where it is settled when all of it was gone through.
    pub(super) fn fixed(self) -> Epoch {
        if self.live { Epoch(self.keep.0.saturating_sub(1)) } else { self.keep }
    }
}

impl Store {
    /// Calls `walk` with epochs of a gap until it was with all those together that touched a record which has two versions in the gap, or
    /// one that only says that something is gone. Each time they are the fewest records that join more epochs with those that are settled. Ends early when a call
    /// returns `false`.
    pub(super) fn settle_gap(
        &self,
        gap: Gap,
        mut walk: impl FnMut(Epochs) -> Result<bool, FsError>,
    ) -> Result<(), FsError> {
        let Gap { branch, after, keep, .. } = gap;
        let marks = self.marks(gap)?;
        // From there on each epoch has to be looked at by itself.
        let sound = marks
            .iter()
            .filter(|(_, mark)| mark.has_left)
            .map(|(_, mark)| mark.through)
            .min()
            .unwrap_or(keep)
            .min(keep);
        let mut settled = self.settled(gap, &marks)?;
        while settled < sound {
            let next = self.next_settled(branch, settled, &marks)?.min(sound);
            let (joined, joining) = (Epochs { after, last: settled }, Epochs { after: settled, last: next });
            if !walk(self.shorter(branch, joining, joined)?)? {
                return Ok(());
            }
            settled = next;
        }
        if sound < keep {
            walk(Epochs { after: sound, last: keep })?;
        }
        Ok(())
    }

    /// Returns those among which are all that touched a record with a version in `gone`, which is a part of the gap, that nobody sees.
    pub(super) fn side(&self, gap: Gap, gone: Epochs) -> Result<Epochs, StoreError> {
        let settled = self.settled(gap, &self.marks(gap)?)?.min(gap.keep);
        self.shorter(gap.branch, Epochs { after: settled, last: gap.keep }, gone)
    }

    /// Returns what is stored of a gap, and of those that became parts of it.
    fn marks(&self, gap: Gap) -> Result<Vec<Mark>, StoreError> {
        let mut marks = Vec::new();
        let (first, end) = (meta::settled(gap.branch, gap.after), meta::settled(gap.branch, gap.keep));
        self.db.scan(META, &meta::settled_of(gap.branch), &first, |key, value| {
            if key >= end.as_slice() {
                return Ok(false);
            }
            // What cannot be read was moved aside.
            if let (Some((_, after)), Some(mark)) = (meta::tail_u32_u64(key), Settled::decode(value)) {
                marks.push((Epoch(after), mark));
            }
            Ok(true)
        })?;
        Ok(marks)
    }

    /// Returns up to where a gap is settled.
    fn settled(&self, gap: Gap, marks: &[Mark]) -> Result<Epoch, StoreError> {
        match marks.first() {
            Some(&(after, mark)) if after == gap.after => Ok(mark.through),
            _ => self.next_settled(gap.branch, gap.after, &[]),
        }
    }

    /// Returns up to where epochs after `after` are settled among themselves.
    fn next_settled(&self, branch: BranchId, after: Epoch, marks: &[Mark]) -> Result<Epoch, StoreError> {
        let first = self.first_touched(branch, after)?;
        let own = marks.iter().filter(|&&(from, _)| (after..first).contains(&from));
        Ok(own.map(|(_, mark)| mark.through).fold(first, Epoch::max))
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

    /// Adds to a batch how far a gap is settled.
    pub(super) fn put_settled(
        &self,
        batch: &mut WriteBatch,
        gap: Gap,
        settled: Settled,
    ) -> Result<(), StoreError> {
        let family = self.db.family(META);
        // What was known of gaps that are parts of this one.
        for (after, _) in self.marks(gap)? {
            batch.delete_cf(family, meta::settled(gap.branch, after));
        }
        batch.put_cf(family, meta::settled(gap.branch, gap.after), settled.encode());
        Ok(())
    }

    /// Adds to a batch that it leaves something behind in a gap, whatever becomes of the sweep.
    pub(super) fn put_left(&self, batch: &mut WriteBatch, gap: Gap) -> Result<(), StoreError> {
        let stored = self.db.get_meta(&meta::settled(gap.branch, gap.after))?;
        let through = stored.and_then(|bytes| Settled::decode(&bytes)).map_or(gap.after, |mark| mark.through);
        let mark = Settled { through, has_left: true };
        batch.put_cf(self.db.family(META), meta::settled(gap.branch, gap.after), mark.encode());
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
