//! Every tree that can be seen: the head of each volume, each snapshot, and where forks began.
//!
//! # Overview
//! All trees of a family are visited along its history. The first is read as a whole; from one to the next only what
//! was written between the two is looked at, and going back from a fork to where it began is the same the other way round. So the cost
//! follows what is stored, not the number of snapshots.
//!
//! # Invariants
//! - [`State`] says what the tree that was reached last shows.

use std::collections::BTreeSet;

use hashbrown::HashSet;
use rocksdb::DBRawIterator;

use super::history::{HEAD, History};
use super::namespace::{Affected, State};
use super::{Check, usage};
use crate::error::FsError;
use crate::ids::{BranchId, Epoch, TreeId};
use crate::store::record::{Dentry, Group, Inode, Record, Xattr};
use crate::store::{
    Family, Frozen, Prefix, PrefixOf, StoreError, TOUCHED, VersionedKey, View, parse_touched, touched_start,
};

/// What a tree shows of a record.
pub(super) enum Seen<T> {
    Nothing,
    /// Something that does not parse, which was told already.
    Unreadable,
    /// The branch that wrote it, and what it says.
    Record(BranchId, T),
}

/// A way through the trees of a family, in the order in which it is taken.
enum Move {
    /// Everything of a branch that can be seen.
    Enter(BranchId),
    /// From a retained epoch of a branch, or where it began, to the next.
    Step { branch: BranchId, from: Option<Epoch>, to: Epoch },
    /// From the last retained epoch of a branch to where it began.
    Leave { branch: BranchId, from: Epoch },
}

/// One tree that can be seen.
pub(super) struct Stop {
    pub(super) branch: BranchId,
    pub(super) epoch: Epoch,
    pub(super) view: View,
}

/// Checks all trees of a family.
pub(super) fn check(check: &mut Check<'_>, history: &History, tree: TreeId) -> Result<(), FsError> {
    for root in history.roots(tree) {
        let mut state = State::default();
        let mut moves = vec![Move::Enter(root)];
        while let Some(next) = moves.pop() {
            match next {
                Move::Enter(branch) => enter(history, branch, &mut moves),
                Move::Step { branch, from, to } => {
                    let stop = Stop { branch, epoch: to, view: history.view(branch, to) };
                    let affected = match start_of(history, branch, from) {
                        None => load(check, &mut state, &stop)?,
                        Some(before) => {
                            let range = (from.unwrap_or(Epoch(0)), to);
                            travel(check, &mut state, branch, range, &before, &stop)?
                        }
                    };
                    state.verify(check, history, &stop, affected)?;
                    usage::check(check, history, &state, &stop)?;
                }
                // Where nothing follows nobody needs to be back.
                Move::Leave { .. } if moves.is_empty() => {}
                Move::Leave { branch, from } => {
                    let before = history.view(branch, from);
                    if let Some(view) = start_of(history, branch, None) {
                        let stop = Stop { branch, epoch: from, view };
                        travel(check, &mut state, branch, (Epoch(0), from), &before, &stop)?;
                    }
                }
            }
        }
    }
    Ok(())
}

/// Plans the way through a branch and all that left it.
fn enter(history: &History, branch: BranchId, moves: &mut Vec<Move>) {
    let mut way = Vec::new();
    let mut from = None;
    for to in history.retained(branch) {
        way.push(Move::Step { branch, from, to });
        way.extend(history.forks_at(branch, to).iter().map(|&child| Move::Enter(child)));
        from = Some(to);
    }
    if let Some(from) = from {
        way.push(Move::Leave { branch, from });
    }
    moves.extend(way.into_iter().rev());
}

/// Returns what is seen before a step; `None` before the first of all.
fn start_of(history: &History, branch: BranchId, from: Option<Epoch>) -> Option<View> {
    match from {
        Some(from) => Some(history.view(branch, from)),
        None => history.branch(branch)?.parent.map(|(parent, epoch)| history.view(parent, epoch)),
    }
}

/// Reads a whole tree.
fn load(check: &mut Check<'_>, state: &mut State, stop: &Stop) -> Result<Affected, StoreError> {
    let (frozen, hasher) = (&check.frozen, &check.store.hasher);
    each_visible::<Option<Inode>>(frozen, &stop.view, Family::Inode, |of, seen| {
        if let PrefixOf::Inode { ino } = of {
            state.set_inode(hasher, ino, &seen);
        }
    })?;
    let mut affected = Affected::everything();
    each_visible::<Dentry>(frozen, &stop.view, Family::Dentry, |of, seen| {
        if let PrefixOf::Dentry { dir, hash, .. } = of {
            affected.note_entry(state.set_entry(dir, hash, &Seen::Nothing, &seen));
        }
    })?;
    each_visible::<Xattr>(frozen, &stop.view, Family::Xattr, |of, seen| {
        if let PrefixOf::Xattr { ino, .. } = of {
            affected.note(ino, 0, state.judge_xattr(ino, &seen));
        }
    })?;
    each_visible::<Group>(frozen, &stop.view, Family::Extent, |of, seen| {
        if let PrefixOf::Extent { ino, group } = of {
            affected.note(ino, group, state.set_group(ino, group, &Seen::Nothing, &seen));
        }
    })?;
    Ok(affected)
}

/// Calls `visit` with the version that a view sees of each record of a family.
pub(super) fn each_visible<T: Record>(
    frozen: &Frozen<'_>,
    view: &View,
    family: Family,
    mut visit: impl FnMut(PrefixOf<'_>, Seen<T>),
) -> Result<(), StoreError> {
    let mut last: Option<Prefix> = None;
    frozen.scan(family.name(), &view.tree().0.to_be_bytes(), &[], |key, value| {
        let Some(parsed) = VersionedKey::parse(family, key) else { return Ok(true) };
        // Newest first: the first that is seen hides the others.
        if last.as_ref() == Some(&parsed.prefix) || !view.sees(parsed.branch, parsed.epoch) {
            return Ok(true);
        }
        if let Some(of) = parsed.prefix.parse() {
            let seen =
                T::decode(value).map_or(Seen::Unreadable, |record| Seen::Record(parsed.branch, record));
            visit(of, seen);
        }
        last = Some(parsed.prefix);
        Ok(true)
    })
}

/// Goes from one tree to another that differs from it by what `branch` wrote after one epoch and up to another.
fn travel(
    check: &Check<'_>,
    state: &mut State,
    branch: BranchId,
    (after, last): (Epoch, Epoch),
    before: &View,
    stop: &Stop,
) -> Result<Affected, StoreError> {
    let (frozen, hasher) = (&check.frozen, &check.store.hasher);
    let mut touched = HashSet::new();
    frozen.scan(TOUCHED, &branch.0.to_be_bytes(), &touched_start(branch, after.next()), |key, _| {
        match parse_touched(stop.view.tree(), key) {
            Some((_, epoch, _)) if epoch > last && last != HEAD => return Ok(false),
            Some((_, _, prefix)) => {
                touched.insert(prefix);
            }
            None => {}
        }
        Ok(true)
    })?;
    // Inodes first: what is said of names and groups depends on them.
    let mut touched: Vec<Prefix> = touched.into_iter().collect();
    touched.sort_unstable();
    let mut seekers: Vec<(Family, DBRawIterator<'_>)> = Vec::new();
    let mut affected = Affected::default();
    for prefix in &touched {
        if seekers.last().is_none_or(|(family, _)| *family != prefix.family) {
            seekers.push((prefix.family, frozen.seeker(prefix.family)));
        }
        let Some((of, (_, iter))) = prefix.parse().zip(seekers.last_mut()) else { continue };
        match of {
            PrefixOf::Inode { ino } => {
                state.set_inode(hasher, ino, &seen(iter, &stop.view, prefix)?);
                affected.note_inode(ino);
            }
            PrefixOf::Dentry { dir, hash, .. } => {
                let (old, new) = (seen(iter, before, prefix)?, seen(iter, &stop.view, prefix)?);
                if let Seen::Record(_, Dentry::Entry { ino, .. }) = old {
                    affected.note_inode(ino);
                }
                affected.note_entry(state.set_entry(dir, hash, &old, &new));
                affected.note_inode(dir);
            }
            PrefixOf::Xattr { ino, .. } => {
                affected.note(ino, 0, state.judge_xattr(ino, &seen(iter, &stop.view, prefix)?));
            }
            PrefixOf::Extent { ino, group } => {
                let (old, new) = (seen(iter, before, prefix)?, seen(iter, &stop.view, prefix)?);
                affected.note(ino, group, state.set_group(ino, group, &old, &new));
                affected.note_inode(ino);
            }
        }
    }
    Ok(affected)
}

/// Returns what a view sees of a record.
fn seen<T: Record>(
    iter: &mut DBRawIterator<'_>,
    view: &View,
    prefix: &Prefix,
) -> Result<Seen<T>, StoreError> {
    Ok(match view.seek(iter, prefix.as_bytes(), 0)? {
        None => Seen::Nothing,
        Some((branch, _)) => match iter.value().and_then(T::decode) {
            Some(record) => Seen::Record(branch, record),
            None => Seen::Unreadable,
        },
    })
}

/// Returns what a view sees of one record, for those that are looked at one by one.
pub(super) fn look<T: Record>(
    frozen: &Frozen<'_>,
    view: &View,
    prefix: &Prefix,
) -> Result<Option<T>, StoreError> {
    match seen(&mut frozen.seeker(prefix.family), view, prefix)? {
        Seen::Record(_, record) => Ok(Some(record)),
        Seen::Nothing | Seen::Unreadable => Ok(None),
    }
}

/// Returns the groups from `first` on that a view sees data in.
pub(super) fn groups_from(
    frozen: &Frozen<'_>,
    view: &View,
    ino: crate::ids::Ino,
    first: u64,
) -> Result<BTreeSet<u64>, StoreError> {
    let start = Prefix::extent(view.tree(), ino, first);
    let file = start.as_bytes().get(..12).unwrap_or_default().to_vec();
    let mut groups = BTreeSet::new();
    let mut last: Option<Prefix> = None;
    frozen.scan(Family::Extent.name(), &file, start.as_bytes(), |key, value| {
        let Some(parsed) = VersionedKey::parse(Family::Extent, key) else { return Ok(true) };
        if last.as_ref() == Some(&parsed.prefix) || !view.sees(parsed.branch, parsed.epoch) {
            return Ok(true);
        }
        if let (Some(PrefixOf::Extent { group, .. }), Some(Group::Inline(_) | Group::Pages(_))) =
            (parsed.prefix.parse(), Group::decode(value))
        {
            groups.insert(group);
        }
        last = Some(parsed.prefix);
        Ok(true)
    })?;
    Ok(groups)
}
