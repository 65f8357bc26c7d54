//! What a line of descent sees of the versioned records.
//!
//! A view is a list of (branch, last epoch it sees), the newest branch first. Children have larger branch
//! numbers than their ancestors and keys order versions by descending branch and epoch, so the answer for a
//! record is the first version at or below some (branch, epoch) of the list. One seek finds it
//! unless other branches wrote the record too, and then each further seek skips a whole branch: depth of
//! ancestry alone costs nothing.

use std::ops::Range;

use rocksdb::DBRawIterator;

use super::db::{Database, successor};
use super::error::StoreError;
use super::keys::{Family, Prefix, directory_prefix, push_version, split_version};
use super::record::{Dentry, Group, Inode, Record, Xattr};
use crate::ids::{BranchId, Epoch, Ino, TreeId};

/// A line of descent.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    tree: TreeId,
    lineage: Vec<(BranchId, Epoch)>,
}

/// A version of a record, and which it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Versioned<T> {
    /// The branch that wrote it.
    pub branch: BranchId,
    /// The epoch that wrote it.
    pub epoch: Epoch,
    /// What it says.
    pub record: T,
}

impl View {
    /// Makes the view of `lineage`, newest branch first, each with the last epoch that is seen.
    pub fn new(tree: TreeId, lineage: Vec<(BranchId, Epoch)>) -> View {
        debug_assert!(lineage.is_sorted_by(|a, b| a.0 > b.0), "ancestors have smaller numbers");
        View { tree, lineage }
    }

    /// The family of volumes it belongs to.
    pub fn tree(&self) -> TreeId {
        self.tree
    }

    /// The branches and the last epoch that is seen of each, newest first.
    pub fn lineage(&self) -> &[(BranchId, Epoch)] {
        &self.lineage
    }

    /// Tells whether a version can be seen, whether or not a newer one hides it.
    pub fn sees(&self, branch: BranchId, epoch: Epoch) -> bool {
        self.lineage.iter().any(|&(own, last)| own == branch && epoch <= last)
    }

    /// Loads an inode. A removed one is `Some(None)`: nothing below shows through.
    pub(crate) fn inode(
        &self,
        db: &Database,
        ino: Ino,
    ) -> Result<Option<Versioned<Option<Inode>>>, StoreError> {
        self.load(db, &Prefix::inode(self.tree, ino))
    }

    /// Loads what the store says of a name.
    pub(crate) fn dentry(
        &self,
        db: &Database,
        dir: Ino,
        hash: u64,
        name: &[u8],
    ) -> Result<Option<Versioned<Dentry>>, StoreError> {
        self.load(db, &Prefix::dentry(self.tree, dir, hash, name))
    }

    /// Loads an extended attribute.
    pub(crate) fn xattr(
        &self,
        db: &Database,
        ino: Ino,
        name: &[u8],
    ) -> Result<Option<Versioned<Xattr>>, StoreError> {
        self.load(db, &Prefix::xattr(self.tree, ino, name))
    }

    /// Loads a group of pages.
    pub(crate) fn group(
        &self,
        db: &Database,
        ino: Ino,
        group: u64,
    ) -> Result<Option<Versioned<Group>>, StoreError> {
        self.load(db, &Prefix::extent(self.tree, ino, group))
    }

    /// Loads the newest version that can be seen of any record.
    pub(crate) fn load<T: Record>(
        &self,
        db: &Database,
        prefix: &Prefix,
    ) -> Result<Option<Versioned<T>>, StoreError> {
        let mut iter = db.seeker(prefix.family);
        match self.seek(&mut iter, prefix.as_bytes(), 0)? {
            None => Ok(None),
            Some((branch, epoch)) => {
                Ok(Some(Versioned { branch, epoch, record: decode(&iter, prefix.family)? }))
            }
        }
    }

    /// Tells whether a version older than (`branch`, `epoch`) can be seen, and which.
    pub(crate) fn older(
        &self,
        db: &Database,
        prefix: &Prefix,
        branch: BranchId,
        epoch: Epoch,
    ) -> Result<Option<(BranchId, Epoch)>, StoreError> {
        self.before(branch, epoch).version(db, prefix)
    }

    /// Returns the newest version that can be seen, without its record.
    pub(crate) fn version(
        &self,
        db: &Database,
        prefix: &Prefix,
    ) -> Result<Option<(BranchId, Epoch)>, StoreError> {
        self.seek(&mut db.seeker(prefix.family), prefix.as_bytes(), 0)
    }

    /// Returns the view of everything before `epoch` of its own newest branch.
    pub(crate) fn before(&self, branch: BranchId, epoch: Epoch) -> View {
        let mut lineage: Vec<_> = self.lineage.iter().copied().skip_while(|&(own, _)| own > branch).collect();
        match (lineage.first_mut(), epoch.0.checked_sub(1)) {
            (Some(first), Some(previous)) if first.0 == branch => first.1 = first.1.min(Epoch(previous)),
            (Some(first), None) if first.0 == branch => {
                lineage.remove(0);
            }
            _ => {}
        }
        View { tree: self.tree, lineage }
    }

    /// Moves `iter` to the newest version of `prefix` that can be seen.
    pub(crate) fn seek(
        &self,
        iter: &mut DBRawIterator<'_>,
        prefix: &[u8],
        from: usize,
    ) -> Result<Option<(BranchId, Epoch)>, StoreError> {
        let mut candidates = self.lineage.get(from..).unwrap_or_default();
        let mut key = Vec::with_capacity(prefix.len() + super::keys::VERSION_LEN);
        while let Some(&(branch, last)) = candidates.first() {
            key.clear();
            key.extend_from_slice(prefix);
            push_version(&mut key, branch, last);
            iter.seek(&key);
            let Some((found, found_branch, found_epoch)) = iter.key().and_then(split_version) else {
                iter.status()?;
                return Ok(None);
            };
            if found != prefix {
                return Ok(None);
            }
            candidates = skip_newer(candidates, found_branch);
            match candidates.first() {
                Some(&(own, last)) if own == found_branch && found_epoch <= last => {
                    return Ok(Some((found_branch, found_epoch)));
                }
                _ => {}
            }
        }
        Ok(None)
    }

    /// Calls `visit` with each name of a directory that the store has a say about, in the order of hashes from
    /// `first_hash` on, until it returns `false`. What it says of a name is `None` if that cannot be read.
    pub(crate) fn dentries(
        &self,
        db: &Database,
        dir: Ino,
        first_hash: u64,
        mut visit: impl FnMut(u64, &[u8], Option<Dentry>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let directory = directory_prefix(self.tree, dir);
        let mut start = directory.clone();
        start.extend_from_slice(&first_hash.to_be_bytes());
        self.records(
            db,
            Family::Dentry,
            successor(&directory),
            &start,
            |prefix, versioned: Versioned<Option<Dentry>>| {
                let hash = prefix.get(12..20).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
                let name = prefix.get(20..).and_then(|name| name.strip_suffix(&[0]));
                let (Some(hash), Some(name)) = (hash, name) else {
                    return Err(StoreError::Corrupt { what: format!("dentry key in directory {dir}") });
                };
                visit(hash, name, versioned.record)
            },
        )
    }

    /// Calls `visit` with each extended attribute of an inode that the store has a say about; `None` if that cannot be read.
    pub(crate) fn xattrs(
        &self,
        db: &Database,
        ino: Ino,
        mut visit: impl FnMut(&[u8], Option<Xattr>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let all = directory_prefix(self.tree, ino);
        self.records(
            db,
            Family::Xattr,
            successor(&all),
            &all,
            |prefix, versioned: Versioned<Option<Xattr>>| {
                let name = prefix.get(12..).and_then(|name| name.strip_suffix(&[0])).unwrap_or_default();
                visit(name, versioned.record)
            },
        )
    }

    /// Calls `visit` with each group of a file that is among `groups`, until it returns `false`. Looks at nothing beyond them: what was
    /// removed there, and is not compacted yet, costs nothing.
    pub(crate) fn groups(
        &self,
        db: &Database,
        ino: Ino,
        groups: Range<u64>,
        mut visit: impl FnMut(u64, Versioned<Group>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let all = directory_prefix(self.tree, ino);
        let place = |group: u64| [all.as_slice(), &group.to_be_bytes()].concat();
        let (start, end) = (place(groups.start), Some(place(groups.end)));
        self.records(db, Family::Extent, end, &start, |prefix, versioned: Versioned<Option<Group>>| {
            let group = prefix.get(12..20).and_then(|bytes| bytes.try_into().ok()).map(u64::from_be_bytes);
            let Some(group) = group else {
                return Err(StoreError::Corrupt { what: format!("extent key of inode {ino}") });
            };
            let Versioned { branch, epoch, record } = versioned;
            let record = record.ok_or_else(|| unreadable(Family::Extent, prefix))?;
            visit(group, Versioned { branch, epoch, record })
        })
    }

    /// Walks the newest visible version of each record from `start` on and before `end`; `None` for one that cannot be
    /// read.
    fn records<T: Record>(
        &self,
        db: &Database,
        family: Family,
        end: Option<Vec<u8>>,
        start: &[u8],
        mut visit: impl FnMut(&[u8], Versioned<Option<T>>) -> Result<bool, StoreError>,
    ) -> Result<(), StoreError> {
        let mut iter = db.walker(family, end);
        iter.seek(start);
        let mut prefix = Vec::new();
        loop {
            let Some((found, branch, epoch)) = iter.key().and_then(split_version) else {
                return Ok(iter.status()?);
            };
            prefix.clear();
            prefix.extend_from_slice(found);
            let visible = match skip_newer(&self.lineage, branch).first() {
                Some(&(own, last)) if own == branch && epoch <= last => Some((branch, epoch)),
                // Somebody else's version, or one after our last epoch: look past it within the prefix.
                Some(_) => self.seek(&mut iter, &prefix, 0)?,
                None => None,
            };
            if let Some((branch, epoch)) = visible {
                let record = iter.value().and_then(T::decode);
                if !visit(&prefix, Versioned { branch, epoch, record })? {
                    return Ok(());
                }
            }
            skip_prefix(&mut iter, &prefix);
        }
    }
}

/// Moves past all versions of `prefix`.
fn skip_prefix(iter: &mut DBRawIterator<'_>, prefix: &[u8]) {
    // Most records have one or two versions: stepping is cheaper than a seek.
    for _ in 0..4 {
        match iter.key() {
            Some(key) if split_version(key).is_some_and(|(found, ..)| found == prefix) => iter.next(),
            Some(_) => return,
            None => return,
        }
    }
    let mut end = prefix.to_vec();
    end.extend_from_slice(&[0xff; super::keys::VERSION_LEN + 1]);
    if iter.key().is_some_and(|key| key < end.as_slice()) {
        iter.seek(&end);
    }
}

fn skip_newer(lineage: &[(BranchId, Epoch)], branch: BranchId) -> &[(BranchId, Epoch)] {
    let at = lineage.iter().position(|&(own, _)| own <= branch).unwrap_or(lineage.len());
    lineage.get(at..).unwrap_or_default()
}

fn decode<T: Record>(iter: &DBRawIterator<'_>, family: Family) -> Result<T, StoreError> {
    iter.value().and_then(T::decode).ok_or_else(|| unreadable(family, iter.key().unwrap_or_default()))
}

fn unreadable(family: Family, key: &[u8]) -> StoreError {
    StoreError::Corrupt { what: format!("{} record at key {}", family.name(), hex(key)) }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    use std::fmt::Write as _;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing into a string cannot fail.
        write!(text, "{byte:02x}").expect("a string takes everything");
        text
    })
}
