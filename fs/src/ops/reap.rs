//! Removing inodes that have no name and that nobody refers to any more.
//!
//! # Crash consistency
//! The mark of an orphan goes with the last of its records. Opening a volume removes the orphans that a mount
//! left which could not, and those that it has from the snapshot it began with.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, Instant};

use super::node::Gone;
use super::unlinked::Forgetting;
use super::{Tree, VolumeFs};
use crate::attr::FileKind;
use crate::error::FsError;
use crate::failpoint;
use crate::ids::Ino;
use crate::request::Answer;
use crate::store::record::{GROUP_SIZE, Group, Inode, Usage, Xattr};
use crate::store::{Beneath, Head, META, Prefix, Txn, meta};

/// Groups that are removed in one transaction.
const BATCH: usize = 1024;
/// Inodes that are removed in one transaction.
const TOGETHER: usize = 64;
/// Size from which on a file's groups are removed in transactions of their own: one that is smaller has no more than `BATCH`.
const LARGE: u64 = (BATCH * GROUP_SIZE) as u64;
/// How often, and how long each time, an operation waits for the kernel to forget what was just unlinked.
const ROOM_TRIES: u32 = 20;
/// The same where it was some time ago that something was unlinked: it may have been closed just now.
const HELD_TRIES: u32 = 1;
const SETTLE_TRIES: u32 = 5;
const ROOM_WAIT: Duration = Duration::from_millis(1);
/// How long room is waited for that is being given back while none comes, and in all.
const STILL: Duration = Duration::from_millis(300);
const IN_ALL: Duration = Duration::from_secs(3);
/// Inodes that may wait to be removed: the background gets to them within a second.
pub(super) const PATIENCE: usize = TOGETHER - 1;

/// An inode to be removed.
struct Dead {
    ino: Ino,
    /// It and its groups, where they need not be read.
    known: Option<(Inode, Vec<(u64, Group)>)>,
}

/// The groups of an inode that is removed.
#[derive(Clone, Copy)]
enum Groups<'a> {
    /// These.
    Known(&'a [(u64, Group)]),
    /// Whatever is stored from this one on.
    From(u64),
}

/// Who may still see an inode that is removed.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Departs {
    /// Nobody sees it, or it has names there.
    Unseen,
    /// The end of an older epoch, without a name.
    AsOrphan,
}

/// How long somebody waits for room.
struct Patience {
    begun: Instant,
    /// When some came last.
    came: Instant,
    tried: u32,
}

impl Patience {
    fn new() -> Patience {
        let now = Instant::now();
        Patience { begun: now, came: now, tried: 0 }
    }

    /// Tells whether to wait on, for room that is surely on its way.
    fn lasts(&self) -> bool {
        self.came.elapsed() < STILL && self.begun.elapsed() < IN_ALL
    }

    /// The same, after some came.
    fn lasts_after_some(&mut self) -> bool {
        self.came = Instant::now();
        self.lasts()
    }

    /// Counts a try. Returns whether it is one of those that may be expected to help.
    fn tries(&mut self, expected: Forgetting) -> bool {
        let most = match expected {
            Forgetting::Nothing => 0,
            Forgetting::Someday => HELD_TRIES,
            Forgetting::Soon => ROOM_TRIES,
        };
        self.tried += 1;
        self.tried <= most
    }
}

impl VolumeFs {
    /// Removes what died since, if more than `patience` inodes wait.
    pub(super) fn reap_dead(&self, patience: usize) {
        let (_reaping, dead) = {
            let mut dead = self.nodes.dead.lock();
            if dead.len() <= patience {
                return;
            }
            // Whoever finds none of them here finds somebody at work.
            (self.reaping.read_recursive(), std::mem::take(&mut *dead))
        };
        let mut dead = dead;
        {
            // The kernel may come to hold these again.
            let kept = self.kept.lock();
            dead.retain(|gone| !kept.contains(&gone.ino));
        }
        failpoint::hit("reap.begun");
        for chunk in dead.chunk_by(|a, b| Arc::ptr_eq(&a.tree, &b.tree)) {
            let Some(tree) = chunk.first().map(|gone| &gone.tree) else { continue };
            let dead: Vec<Dead> = chunk.iter().map(|gone| self.last_seen(gone)).collect();
            for dead in dead.chunks(TOGETHER) {
                let reaped = self.reap(tree, dead);
                if !matches!(reaped, Err(FsError::Retired)) {
                    self.unlinked.remove(dead.iter().map(|dead| dead.ino));
                }
                match reaped {
                    Ok(()) => {}
                    // They went with the head that a rollback took away.
                    Err(FsError::Retired) => {}
                    // Their marks stay: the next mount tries again.
                    Err(error) => {
                        let inos: Vec<Ino> = dead.iter().map(|dead| dead.ino).collect();
                        tracing::warn!(%error, ?inos, volume = %self.volume, "unlinked inodes could not be removed");
                    }
                }
            }
        }
    }

    /// Runs an operation that a quota may refuse. What was removed before counts until it is found that the kernel forgot it, and its
    /// records are gone: where room is on its way, it is waited for, shortly.
    pub(super) fn with_room<T>(&self, operation: impl Fn() -> Result<T, FsError>) -> Result<T, FsError> {
        let mut patience = Patience::new();
        loop {
            let reaped = self.reaped.load(Ordering::SeqCst);
            let result = operation();
            if !matches!(result, Err(FsError::QuotaExceeded { .. }))
                || !self.room_comes(reaped, &mut patience)
            {
                return result;
            }
        }
    }

    /// Removes what was unlinked before, as far as the kernel forgot it or does so within a few milliseconds: what is counted
    /// next should not count it. What others unlink meanwhile is not waited for.
    pub(super) fn settle(&self) {
        let begun = Instant::now();
        let mut reaped = self.reaped.load(Ordering::SeqCst);
        self.reap_dead(0);
        while self.let_go_of_forgotten(begun) && begun.elapsed() < STILL {
            self.reap_dead(0);
            let now = self.reaped.load(Ordering::SeqCst);
            if std::mem::replace(&mut reaped, now) == now {
                self.wait_a_moment();
            }
        }
        for _ in 0..SETTLE_TRIES {
            if self.unlinked.forgetting() != Forgetting::Soon {
                return;
            }
            std::thread::sleep(ROOM_WAIT);
            self.reap_dead(0);
        }
    }

    /// Removes what can be removed, or waits a moment for it. Returns whether there may be more room than when `reaped` was counted, and
    /// whoever needs it should try again.
    fn room_comes(&self, reaped: u64, patience: &mut Patience) -> bool {
        let has_come = || self.reaped.load(Ordering::SeqCst) != reaped;
        self.reap_dead(0);
        if has_come() {
            return patience.lasts_after_some();
        }
        if self.let_go_of_forgotten(Instant::now()) || self.reaping.is_locked() {
            self.reap_dead(0);
            if has_come() {
                return patience.lasts_after_some();
            }
            self.wait_a_moment();
            return patience.lasts();
        }
        if !patience.tries(self.unlinked.forgetting()) {
            return false;
        }
        self.wait_a_moment();
        true
    }

    fn wait_a_moment(&self) {
        match self.reaping.is_locked() {
            true => drop(self.reaping.try_write_for(ROOM_WAIT)),
            false => std::thread::sleep(ROOM_WAIT),
        }
    }

    /// Takes note of an inode if it lost its last name, before the change that took it is let go of: a rollback has to find it.
    pub(super) fn note_unlinked(&self, ino: Ino, inode: &Inode) {
        if inode.nlink == 0 {
            self.unlinked.add(ino);
        }
    }

    /// Removes all orphans of the head: the transport is gone, and its references with it.
    pub(super) fn reap_all(&mut self) {
        self.nodes.clear();
        self.nodes.dead.get_mut().clear();
        let tree = self.root.get_mut().clone();
        let Some(head) = &tree.head else { return };
        // Whoever opens the head right now does the same, and must not do it beside us.
        let Some(_opening) = head.opening.try_lock() else { return };
        if head.is_live() {
            return;
        }
        match self.reap_orphans(&tree) {
            Ok(()) | Err(FsError::Retired) => {}
            // Their marks stay: the next mount tries again.
            Err(error) => {
                tracing::warn!(%error, volume = %self.volume, "unlinked inodes could not be removed")
            }
        }
    }

    /// Removes the orphans of the head that nobody refers to.
    pub(super) fn reap_orphans(&self, tree: &Tree) -> Result<(), FsError> {
        let Some(head) = &tree.head else { return Ok(()) };
        let mut orphans = self.orphans_of(head)?;
        orphans.retain(|&ino| self.nodes.find(tree, ino).is_none());
        self.reap_unseen(tree, orphans)?;
        self.reap_inherited(tree)
    }

    /// Lists the inodes that the head has marked as being without a name.
    pub(super) fn orphans_of(&self, head: &Head) -> Result<Vec<Ino>, FsError> {
        let mut orphans = Vec::new();
        self.store.db.scan(META, &meta::orphans_of(head.branch), &[], |key, _| {
            match meta::tail_u32_u64(key) {
                Some((_, ino)) => orphans.push(Ino(ino)),
                None => self.store.quarantine.add("orphan", key),
            }
            Ok(true)
        })?;
        Ok(orphans)
    }

    /// Removes what was an orphan in the snapshot that the tree began with: nobody can have it open here.
    pub(super) fn reap_inherited(&self, tree: &Tree) -> Result<(), FsError> {
        self.reap_unseen(tree, self.store.inherited_orphans(&tree.merged.view)?)
    }

    /// Removes inodes of which nothing is in memory.
    fn reap_unseen(&self, tree: &Tree, inos: Vec<Ino>) -> Result<(), FsError> {
        let _reaping = self.reaping.read_recursive();
        let dead: Vec<Dead> = inos.into_iter().map(|ino| Dead { ino, known: None }).collect();
        for dead in dead.chunks(TOGETHER) {
            self.reap(tree, dead)?;
        }
        Ok(())
    }

    /// Returns what memory still has of an inode that went out of it, where that is all there is.
    fn last_seen(&self, gone: &Gone) -> Dead {
        let Some(node) = &gone.node else { return Dead { ino: gone.ino, known: None } };
        let is_new = node.tree.head.as_ref().is_some_and(|head| head.is_new(node.ino));
        // Somebody who asks for the parent of a removed directory may have loaded it again.
        let alone = self.nodes.find(&node.tree, node.ino).is_none();
        let state = node.state.read();
        let known = (is_new && alone && state.inode.lower.is_none())
            .then(|| Some((state.inode.clone(), state.all_groups()?)))
            .flatten();
        Dead { ino: node.ino, known }
    }

    /// Removes inodes that have no name. One of which a record cannot be read stays, with its mark: what it refers to is not
    /// known.
    fn reap(&self, tree: &Tree, dead: &[Dead]) -> Result<(), FsError> {
        match self.reap_together(tree, dead) {
            Err(error) if error.is_corruption() => {}
            done => return done,
        }
        for one in dead {
            match self.reap_together(tree, std::slice::from_ref(one)) {
                Err(error) if error.is_corruption() => {
                    let prefix = Prefix::inode(tree.merged.view.tree(), one.ino);
                    self.store.quarantine.add(prefix.family.name(), prefix.as_bytes());
                }
                done => done?,
            }
        }
        Ok(())
    }

    /// Removes inodes that have no name, in one transaction but for large files.
    fn reap_together(&self, tree: &Tree, dead: &[Dead]) -> Result<(), FsError> {
        let Some(head) = &tree.head else { return Ok(()) };
        let view = &tree.merged.view;
        let mut found = Vec::new();
        for Dead { ino, known } in dead {
            if let Some((inode, groups)) = known {
                found.push((*ino, Some(inode.clone()), Groups::Known(groups)));
                continue;
            }
            let inode = view.inode(&self.store.db, *ino)?.and_then(|versioned| versioned.record);
            let large = inode.as_ref().is_some_and(|inode| inode.nlink == 0 && inode.size > LARGE);
            // Each begins where the one before it ended: what is removed stays in the way of a search until it is compacted.
            let mut from = Some(0).filter(|_| large);
            let mut rest = 0;
            while let Some(next) = from {
                rest = next;
                from = self.reap_some_groups(head, tree, *ino, next)?;
            }
            found.push((*ino, inode, Groups::From(rest)));
        }
        let mut txn = Txn::begin_housekeeping(&self.store, head)?;
        for (ino, inode, groups) in found {
            // A fork's name for what died elsewhere keeps an inode alive.
            if let Some(inode) = inode.filter(|inode| inode.nlink == 0)
                && self.stage_reap(&mut txn, tree, ino, &inode, groups)? == Departs::AsOrphan
            {
                txn.put_departed(ino);
            }
            txn.delete_orphan(ino);
        }
        txn.commit(Answer::Done)?;
        self.reaped.fetch_add(1, Ordering::SeqCst);
        Ok(())
    }

    fn stage_reap(
        &self,
        txn: &mut Txn<'_>,
        tree: &Tree,
        ino: Ino,
        inode: &Inode,
        groups: Groups<'_>,
    ) -> Result<Departs, FsError> {
        let head = txn.head();
        let view = &tree.merged.view;
        let beneath = if head.is_new(ino) { Beneath::Nothing } else { Beneath::Unknown };
        let older = match beneath {
            Beneath::Nothing => None,
            _ => view.before(head.branch, txn.epoch()).inode(&self.store.db, ino)?,
        };
        match (inode.kind, groups) {
            (FileKind::Regular, Groups::From(first)) => {
                self.stage_reap_groups(txn, tree, ino, first, beneath)?;
            }
            (FileKind::Regular, Groups::Known(groups)) => stage_erase(txn, ino, groups, beneath)?,
            _ => {}
        }
        if inode.has_xattrs {
            let mut names = Vec::new();
            view.xattrs(&self.store.db, ino, |name, _| {
                names.push(name.to_vec());
                Ok(true)
            })?;
            for name in names {
                txn.erase(&Prefix::xattr(head.tree, ino, &name), &Xattr::Removed, beneath)?;
            }
        }
        let marker = if older.is_some() { Beneath::Something } else { Beneath::Nothing };
        txn.erase(&Prefix::inode(head.tree, ino), &None::<Inode>, marker)?;
        txn.charge(Usage { bytes: -i64::try_from(inode.stored).unwrap_or(0), inodes: -1 })?;
        // What the branch began with is marked where it died.
        let shown = older.filter(|older| older.branch == head.branch && older.epoch <= head.retained());
        Ok(match shown.and_then(|older| older.record) {
            Some(inode) if inode.nlink == 0 => Departs::AsOrphan,
            _ => Departs::Unseen,
        })
    }

    /// Removes some groups of a large file from `first` on. Returns where those begin that are left, if there may be some.
    fn reap_some_groups(
        &self,
        head: &Head,
        tree: &Tree,
        ino: Ino,
        first: u64,
    ) -> Result<Option<u64>, FsError> {
        let mut txn = Txn::begin_housekeeping(&self.store, head)?;
        let beneath = if head.is_new(ino) { Beneath::Nothing } else { Beneath::Unknown };
        let next = self.stage_reap_groups(&mut txn, tree, ino, first, beneath)?;
        txn.commit(Answer::Done)?;
        self.reaped.fetch_add(1, Ordering::SeqCst);
        Ok(next)
    }

    fn stage_reap_groups(
        &self,
        txn: &mut Txn<'_>,
        tree: &Tree,
        ino: Ino,
        first: u64,
        beneath: Beneath,
    ) -> Result<Option<u64>, FsError> {
        let mut groups = Vec::new();
        tree.merged.view.groups(&self.store.db, ino, first..u64::MAX, |index, versioned| {
            if versioned.record != Group::Removed {
                groups.push((index, versioned.record));
            }
            Ok(groups.len() < BATCH)
        })?;
        stage_erase(txn, ino, &groups, beneath)?;
        Ok(groups.last().filter(|_| groups.len() == BATCH).map(|(last, _)| last + 1))
    }
}

/// Stages that groups of a file go, and their pages with them.
fn stage_erase(
    txn: &mut Txn<'_>,
    ino: Ino,
    groups: &[(u64, Group)],
    beneath: Beneath,
) -> Result<(), FsError> {
    let tree = txn.head().tree;
    for (index, group) in groups {
        for page in group.refs() {
            txn.release(ino, *index, page);
        }
        txn.erase(&Prefix::extent(tree, ino, *index), &Group::Removed, beneath)?;
    }
    Ok(())
}

#[cfg(test)]
mod tests;
