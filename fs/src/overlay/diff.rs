//! What differs between two trees of one history.
//!
//! The store knows which records the two sides wrote since they parted; each is turned here into what a person calls it. The cost
//! follows what was written, not what there is, with one exception: a file that changed, and whose recorded name was removed while
//! another stayed that the mount did not come across since, is looked for in the whole tree.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::lowers::Lowers;
use super::merged::{Looked, Merged};
use super::sides::{Name, Side};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::ids::{Epoch, Ino};
use crate::store::record::{GROUP_SIZE, Group, Inode, PAGE_SIZE, PAGES_PER_GROUP, Page};
use crate::store::{Change, ChangeKind, PrefixOf, Store};

/// What was found out about one inode.
#[derive(Default)]
struct Found {
    names_gone: BTreeSet<Name>,
    names_new: BTreeSet<Name>,
    attributes: bool,
    bytes: u64,
}

impl Store {
    /// Compares a snapshot with another one, or with the head of a volume. Sorted by path; `None` if they have no history in common.
    pub(crate) fn diff_since_parted(
        self: &Arc<Self>,
        from: &str,
        to: &str,
    ) -> Result<Option<Vec<Change>>, FsError> {
        let (old, new) = (self.tree_called(from)?, self.tree_called(to)?);
        let Some(records) = self.changed_records(&old.view, &new.view)? else { return Ok(None) };
        let mut inodes: BTreeMap<Ino, Found> = BTreeMap::new();
        let (mut before, mut after) = (Side::new(&old, &new), Side::new(&new, &old));
        let names = records.iter().filter_map(|prefix| match prefix.parse() {
            Some(PrefixOf::Dentry { dir, name, .. }) => Some((dir, name.to_vec())),
            _ => None,
        });
        let names: Vec<Name> = names.collect();
        let (led, leads) = (before.bound(&names)?, after.bound(&names)?);
        for (name, (led, leads)) in names.into_iter().zip(led.into_iter().zip(leads)) {
            if led == leads {
                continue;
            }
            if let Some(ino) = led {
                inodes.entry(ino).or_default().names_gone.insert(name.clone());
            }
            if let Some(ino) = leads {
                inodes.entry(ino).or_default().names_new.insert(name);
            }
        }
        for prefix in &records {
            match prefix.parse() {
                Some(PrefixOf::Inode { ino } | PrefixOf::Xattr { ino, .. }) => {
                    let found = inodes.entry(ino).or_default();
                    found.attributes = true;
                }
                Some(PrefixOf::Extent { ino, group }) => {
                    inodes.entry(ino).or_default().bytes += group_difference(&old, &new, ino, group)?;
                }
                Some(PrefixOf::Dentry { .. }) | None => {}
            }
        }
        let xattrs: BTreeSet<Ino> = records
            .iter()
            .filter_map(|prefix| match prefix.parse() {
                Some(PrefixOf::Xattr { ino, .. }) => Some(ino),
                _ => None,
            })
            .collect();
        let mut changes = Vec::new();
        // Of what changed under a name that nobody knows: its change, but for the path.
        let mut nameless: BTreeMap<Ino, Change> = BTreeMap::new();
        for (ino, found) in inodes {
            let changed = describe(&before, &after, ino, &found, xattrs.contains(&ino), &mut changes)?;
            let Some((inode, mut change)) = changed else { continue };
            if inode.kind == FileKind::Directory || new.reaches(ino, &inode)? {
                change.path = new.path(ino, &inode)?;
                changes.push(change);
            } else {
                nameless.insert(ino, change);
            }
        }
        if !nameless.is_empty() {
            for (ino, path) in new.search(nameless.keys().copied().collect())? {
                changes.extend(nameless.remove(&ino).map(|change| Change { path, ..change }));
            }
        }
        changes.sort_by(|a, b| (&a.path, a.change).cmp(&(&b.path, b.change)));
        Ok(Some(changes))
    }

    /// Returns the tree of `VOLUME`, `VOLUME@NAME` or `VOLUME@EPOCH`.
    fn tree_called(self: &Arc<Self>, called: &str) -> Result<Merged, FsError> {
        let (view, volume) = {
            let registry = self.registry.read();
            match called.contains('@') {
                true => {
                    let (branch, epoch, snapshot) = registry.snapshot(called)?;
                    (registry.view(branch, epoch)?, registry.volumes.get(&snapshot.volume).cloned())
                }
                false => {
                    let (_, volume) = registry.volume(called)?;
                    (registry.view(volume.branch, Epoch(u64::MAX))?, Some(volume.clone()))
                }
            }
        };
        let volume = volume.ok_or_else(|| FsError::SnapshotNotFound { name: called.to_owned() })?;
        let lowers = Arc::new(Lowers::open(self, volume.tree, &volume.lowers)?);
        Ok(Merged { store: self.clone(), view, lowers })
    }
}

fn group_difference(old: &Merged, new: &Merged, ino: Ino, group: u64) -> Result<u64, FsError> {
    let pages = |tree: &Merged| -> Result<Group, FsError> {
        let found = tree.view.group(&tree.store.db, ino, group)?;
        // Nothing is the same as the lower's bytes: a hole that hides some of them differs.
        Ok(match found.map(|found| found.record) {
            None | Some(Group::Removed) => Group::base(),
            Some(group) => group,
        })
    };
    Ok(match (pages(old)?, pages(new)?) {
        (Group::Pages(a), Group::Pages(b)) => {
            let place = |page: &Page| match page {
                Page::Data(data) => Some((data.segment, data.page)),
                Page::Base | Page::Hole => None,
            };
            let differ = a.iter().zip(b.iter()).filter(|(a, b)| match (place(a), place(b)) {
                (None, None) => a != b,
                (a, b) => a != b,
            });
            (differ.count() * PAGE_SIZE) as u64
        }
        (Group::Inline(a), Group::Inline(b)) if a == b => 0,
        (Group::Inline(_), Group::Inline(_)) => PAGE_SIZE as u64,
        (a, b) => a
            .stored()
            .max(b.stored())
            .next_multiple_of(PAGE_SIZE as u64)
            .min((PAGES_PER_GROUP * PAGE_SIZE) as u64),
    }
    .min(GROUP_SIZE as u64))
}

/// Adds what became of the names of an inode. If they are as they were but the inode is not, returns it with its change, to
/// which the path is to be added.
fn describe(
    old_side: &Side<'_>,
    new_side: &Side<'_>,
    ino: Ino,
    found: &Found,
    xattrs_differ: bool,
    changes: &mut Vec<Change>,
) -> Result<Option<(Inode, Change)>, FsError> {
    let (old, new) = (old_side.tree, new_side.tree);
    let (before, after) = match (old.stored(ino)?, new.stored(ino)?) {
        // Copied up on one side only: on the other it is as the lower has it.
        (None, Some(after)) if ino.is_lower() => (old.as_in_lower(&after)?, Some(after)),
        (Some(before), None) if ino.is_lower() => {
            let after = new.as_in_lower(&before)?;
            (Some(before), after)
        }
        both => both,
    };
    let paths = |side: &Side<'_>, names: &BTreeSet<Name>| -> Result<Vec<Vec<u8>>, FsError> {
        names.iter().map(|name| side.path(name)).collect()
    };
    let mut gone = paths(old_side, &found.names_gone)?;
    let mut added = paths(new_side, &found.names_new)?;
    while !gone.is_empty() && !added.is_empty() {
        let (from, path) = (gone.remove(0), added.remove(0));
        changes.push(Change {
            path,
            change: ChangeKind::Renamed,
            from: Some(from),
            bytes_changed: found.bytes,
        });
    }
    let size = |looked: &Option<Looked>| looked.as_ref().map_or(0, |looked| looked.inode.size);
    for path in added {
        changes.push(Change { path, change: ChangeKind::Added, from: None, bytes_changed: size(&after) });
    }
    for path in gone {
        changes.push(Change { path, change: ChangeKind::Removed, from: None, bytes_changed: size(&before) });
    }
    let (Some(before), Some(after)) = (before, after) else { return Ok(None) };
    if !found.names_gone.is_empty() || !found.names_new.is_empty() || after.inode.nlink == 0 {
        return Ok(None);
    }
    // A tail that was cut off, or made zeros, of what the lower has leaves no other trace.
    let readable = |inode: &Inode| inode.lower.as_ref().map_or(0, |lower| lower.readable);
    let content = before.inode.kind == FileKind::Regular
        && (found.bytes > 0
            || before.inode.size != after.inode.size
            || readable(&before.inode) != readable(&after.inode));
    let change = if content {
        ChangeKind::Modified
    } else if xattrs_differ || (found.attributes && shows_difference(&before.inode, &after.inode)) {
        ChangeKind::Metadata
    } else {
        return Ok(None);
    };
    let change = Change { path: Vec::new(), change, from: None, bytes_changed: found.bytes };
    Ok(Some((after.inode, change)))
}

/// Tells whether anything differs that was set on purpose. Times of a directory follow from its names.
pub(crate) fn shows_difference(before: &Inode, after: &Inode) -> bool {
    let owner = |inode: &Inode| (inode.perm, inode.uid, inode.gid, inode.rdev);
    owner(before) != owner(after) || (before.kind != FileKind::Directory && before.mtime != after.mtime)
}
