//! The new version of a group, and what a loss of power must find beside it.
//!
//! # Crash consistency
//! A lost page is read as the next older version of its group says. Where there is none that says the same, the data goes to the disk
//! before the record goes into the log.

use crate::error::FsError;
use crate::ids::{Epoch, Ino};
use crate::ops::VolumeFs;
use crate::ops::group_cache::Cached;
use crate::store::record::{Group, Page, PageRef};
use crate::store::{Beneath, Erased, Head, Prefix, Touch, Txn};

impl VolumeFs {
    /// Stages the new version of a group.
    pub(super) fn stage_group(
        &self,
        txn: &mut Txn<'_>,
        ino: Ino,
        index: u64,
        before: Cached,
        group: Group,
        changed: bool,
    ) -> Result<Cached, FsError> {
        if !changed {
            // But for checksums that are gone from the log already.
            return Ok(Cached { group, ..before });
        }
        let head = txn.head();
        let prefix = Prefix::extent(head.tree, ino, index);
        let current = (head.branch, txn.epoch());
        let syncs = self.store.db.syncs();
        let fresh = before.version.is_none() || group == Group::base();
        let born = if fresh { syncs } else { before.born };
        if before.version == Some(current) && before.born != syncs {
            self.keep_fallback(txn, ino, index, &before, &group)?;
        }
        if group == Group::base() {
            let beneath = match before.version {
                None => Beneath::Nothing,
                Some(version) if version != current => Beneath::Something,
                Some(_) if head.is_new(ino) => Beneath::Nothing,
                Some(_) => Beneath::Unknown,
            };
            let version = match txn.erase(&prefix, &Group::Removed, beneath)? {
                Erased::Entirely => None,
                Erased::Marked => Some(current),
            };
            return Ok(Cached { group, version, born });
        }
        let touch = if before.version == Some(current) { Touch::Again } else { Touch::First };
        txn.put(&prefix, &group, touch);
        Ok(Cached { group, version: Some(current), born })
    }

    /// Looks whether a reader that finds a new page lost would still come upon what was there before it. The record of that
    /// is about to be replaced, so that only versions of older epochs are left. If it would not, the new page goes to the disk first.
    fn keep_fallback(
        &self,
        txn: &mut Txn<'_>,
        ino: Ino,
        index: u64,
        before: &Cached,
        group: &Group,
    ) -> Result<(), FsError> {
        let Group::Pages(pages) = group else { return Ok(()) };
        let (head, place) = (txn.head(), |data: &PageRef| (data.segment, data.page));
        let mut older: Option<Option<Group>> = None;
        for (position, page) in pages.iter().enumerate() {
            let Page::Data(new) = page else { continue };
            let found = match &before.group {
                Group::Pages(pages) => pages.get(position).copied().unwrap_or_default(),
                Group::Inline(bytes) if position == 0 && !bytes.is_empty() => {
                    txn.data_first();
                    return Ok(());
                }
                Group::Inline(_) | Group::Removed => Page::Base,
            };
            match found {
                Page::Data(old) if place(&old) == place(new) => {}
                // A snapshot has it too, and a version of its own. Not one of this very epoch, which a cut may be ending just now.
                Page::Data(old) if !old.shared && old.epoch <= head.retained() && old.epoch < txn.epoch() => {
                }
                Page::Data(_) => {
                    txn.data_first();
                    return Ok(());
                }
                // Zeros, or the lower: an older version must not shine through.
                Page::Hole | Page::Base if head.is_new(ino) => {}
                Page::Hole | Page::Base => {
                    let older = match &mut older {
                        Some(older) => older,
                        none => none.insert(self.group_before(head, ino, index, txn.epoch())?),
                    };
                    let same = match older {
                        None | Some(Group::Removed) => found == Page::Base,
                        Some(Group::Pages(pages)) => pages.get(position) == Some(&found),
                        Some(Group::Inline(bytes)) => position > 0 || bytes.is_empty(),
                    };
                    if !same {
                        txn.data_first();
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    /// Returns the group as a head saw it before an epoch began.
    fn group_before(
        &self,
        head: &Head,
        ino: Ino,
        index: u64,
        epoch: Epoch,
    ) -> Result<Option<Group>, FsError> {
        let view = self.store.head_view(head)?.before(head.branch, epoch);
        Ok(view.group(&self.store.db, ino, index)?.map(|found| found.record))
    }
}
