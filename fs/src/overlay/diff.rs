//! What differs between two trees of one history.
//!
//! The store knows which records the two sides wrote since they parted; each is turned here into what a person calls it. The cost
//! follows what was written, not what there is, with one exception: a file that changed, and whose recorded name was removed while
//! another stayed that the mount did not come across since, is looked for in the whole tree. Links of a lower's file that the lower does not show count as names
//! that stayed.

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
        let mut names = NameChanges::default();
        let mut changes = Vec::new();
        // Of what changed under a name that nobody knows: its change, but for the path; and names that others were told of already.
        let mut nameless: BTreeMap<Ino, Change> = BTreeMap::new();
        let mut told = BTreeSet::new();
        for (ino, found) in inodes {
            let changed = describe(&before, &after, ino, &found, xattrs.contains(&ino), &mut names)?;
            let Some(changed) = changed else { continue };
            match kept_path(&new, ino, &changed, &found)? {
                Some(path) => changes.push(Change { path, ..changed.change }),
                None => {
                    nameless.insert(ino, changed.change);
                    told.extend(found.names_new);
                }
            }
        }
        if !nameless.is_empty() {
            for (ino, path) in new.search(nameless.keys().copied().collect(), &told)? {
                changes.extend(nameless.remove(&ino).map(|change| Change { path, ..change }));
            }
        }
        changes.extend(names.into_changes());
        // What goes makes room for what comes to its place.
        let rank = |change: ChangeKind| (change != ChangeKind::Removed, change);
        changes.sort_by(|a, b| (&a.path, rank(a.change)).cmp(&(&b.path, rank(b.change))));
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

/// What a name led to.
struct Gone {
    looked: Option<Looked>,
    /// Whether the path is still that of the same place: its directory may have another by now.
    in_place: bool,
}

/// What names led to and do not any more, what they lead to now, and what has another name.
#[derive(Default)]
struct NameChanges {
    gone: BTreeMap<Vec<u8>, Gone>,
    added: BTreeMap<Vec<u8>, Option<Looked>>,
    renamed: Vec<Change>,
}

impl NameChanges {
    /// Returns what to call that: what took the place of another of its kind is that one, changed.
    fn into_changes(mut self) -> Vec<Change> {
        let size = |looked: &Option<Looked>| looked.as_ref().map_or(0, |looked| looked.inode.size);
        let mut changes = self.renamed;
        for (path, now) in self.added {
            let change =
                |change, bytes_changed| Change { path: path.clone(), change, from: None, bytes_changed };
            let gone = self.gone.get(&path).filter(|gone| gone.in_place);
            let was = gone.and_then(|gone| gone.looked.clone()).zip(now.clone());
            match was.filter(|(was, now)| was.inode.kind == now.inode.kind) {
                // What is in it is told by itself.
                Some((was, now)) if now.inode.kind == FileKind::Directory => {
                    self.gone.remove(&path);
                    if shows_difference(&was.inode, &now.inode) {
                        changes.push(change(ChangeKind::Metadata, 0));
                    }
                }
                Some((was, now)) => {
                    self.gone.remove(&path);
                    changes.push(change(ChangeKind::Modified, was.inode.size.max(now.inode.size)));
                }
                None => changes.push(change(ChangeKind::Added, size(&now))),
            }
        }
        changes.extend(self.gone.into_iter().map(|(path, gone)| Change {
            path,
            change: ChangeKind::Removed,
            from: None,
            bytes_changed: size(&gone.looked),
        }));
        changes
    }
}

/// An inode that is not as it was, and what differs; without a path yet.
struct Changed {
    old_inode: Inode,
    new_inode: Inode,
    change: Change,
}

/// Returns the path of a name that an inode had before and has still, if one is on record.
fn kept_path(new: &Merged, ino: Ino, changed: &Changed, found: &Found) -> Result<Option<Vec<u8>>, FsError> {
    for inode in [&changed.new_inode, &changed.old_inode] {
        let is_new = found.names_new.contains(&(inode.parent, inode.name.to_vec()));
        if !is_new && (inode.kind == FileKind::Directory || new.reaches(ino, inode)?) {
            return new.path(ino, inode).map(Some);
        }
    }
    Ok(None)
}

/// Adds what became of the names of an inode. If one of them stayed but the inode is not as it was, returns that.
fn describe(
    old_side: &Side<'_>,
    new_side: &Side<'_>,
    ino: Ino,
    found: &Found,
    xattrs_differ: bool,
    changes: &mut NameChanges,
) -> Result<Option<Changed>, FsError> {
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
    // Nothing is on record of what a lower has and nobody changed before it went; its name leads to it.
    let by_name = |side: &Side<'_>, names: &BTreeSet<Name>| -> Result<Option<Looked>, FsError> {
        names.first().map_or(Ok(None), |name| side.look(name))
    };
    let before = before.map_or_else(|| by_name(old_side, &found.names_gone), |looked| Ok(Some(looked)))?;
    let after = after.map_or_else(|| by_name(new_side, &found.names_new), |looked| Ok(Some(looked)))?;
    let (mut gone, mut added) = (found.names_gone.iter(), found.names_new.iter());
    for (from, to) in std::iter::zip(gone.by_ref().take(found.names_new.len()), added.by_ref()) {
        changes.renamed.push(Change {
            path: new_side.path(to)?,
            change: ChangeKind::Renamed,
            from: Some(old_side.path(from)?),
            bytes_changed: found.bytes,
        });
    }
    for name in added {
        changes.added.insert(new_side.path(name)?, after.clone());
    }
    for name in gone {
        let path = old_side.path(name)?;
        // A directory that is gone as well had it to the end.
        let in_place = match new_side.directory(name.0)? {
            Some(dir) if dir.inode.nlink > 0 => new_side.path(name)? == path,
            _ => true,
        };
        changes.gone.insert(path, Gone { looked: before.clone(), in_place });
    }
    let (Some(before), Some(after)) = (before, after) else { return Ok(None) };
    // A directory has one name. What has no other than those that came and went was told of.
    let names_stayed = match before.inode.kind {
        FileKind::Directory => found.names_gone.is_empty() && found.names_new.is_empty(),
        _ => before.inode.nlink as usize > found.names_gone.len(),
    };
    if !names_stayed || after.inode.nlink == 0 {
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
    Ok(Some(Changed { old_inode: before.inode, new_inode: after.inode, change }))
}

/// Tells whether anything differs that was set on purpose. Times of a directory follow from its names.
pub(crate) fn shows_difference(before: &Inode, after: &Inode) -> bool {
    let owner = |inode: &Inode| (inode.perm, inode.uid, inode.gid, inode.rdev);
    owner(before) != owner(after) || (before.kind != FileKind::Directory && before.mtime != after.mtime)
}
