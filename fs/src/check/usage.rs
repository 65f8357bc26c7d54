//! What a tree is said to store, and which of its inodes are to be removed.

use super::history::{HEAD, History};
use super::namespace::State;
use super::place::Teller;
use super::trees::Stop;
use super::{Check, Issue, Repair, repair};
use crate::error::FsError;
use crate::ids::Ino;
use crate::store::record::Usage;

/// Checks the tree that was reached.
pub(super) fn check(
    check: &mut Check<'_>,
    history: &History,
    state: &State,
    stop: &Stop,
) -> Result<(), FsError> {
    if stop.epoch == HEAD {
        check_orphans(check, history, state, stop)?;
    }
    // Nobody knows how much it is that does not parse.
    if state.unreadable > 0 {
        return Ok(());
    }
    let is = Usage { bytes: state.bytes, inodes: state.inodes - i64::from(state.has_uncounted_root()) };
    if stop.epoch == HEAD {
        let Some(volume) = history.head_of(stop.branch) else { return Ok(()) };
        let counted = history.meta.usage.get(&stop.branch).copied().unwrap_or_default();
        if counted != is {
            let delta = Usage { bytes: is.bytes - counted.bytes, inodes: is.inodes - counted.inodes };
            let repaired = check.repair == Repair::Yes && repair::usage(check.store, stop.branch, delta)?;
            check.findings.add(Issue::WrongUsage {
                volume: volume.name.clone(),
                bytes: (counted.bytes, is.bytes),
                inodes: (counted.inodes, is.inodes),
                repaired,
            });
        }
    } else if let Some(snapshot) = history.meta.snapshots.get(&(stop.branch, stop.epoch))
        && snapshot.usage != is
    {
        let repaired = check.repair == Repair::Yes
            && repair::snapshot_usage(check.store, (stop.branch, stop.epoch), is)?;
        check.findings.add(Issue::WrongSnapshotUsage {
            snapshot: history.label(stop.branch, stop.epoch),
            bytes: (snapshot.usage.bytes, is.bytes),
            inodes: (snapshot.usage.inodes, is.inodes),
            repaired,
        });
    }
    Ok(())
}

fn check_orphans(
    check: &mut Check<'_>,
    history: &History,
    state: &State,
    stop: &Stop,
) -> Result<(), FsError> {
    let none = hashbrown::HashSet::new();
    let marks = history.meta.orphans.get(&stop.branch).unwrap_or(&none);
    let mut marked: Vec<Ino> = marks.iter().copied().collect();
    marked.sort_unstable();
    let mend = check.repair == Repair::Yes;
    for ino in marked {
        match state.links(ino) {
            Some(0) => {}
            Some(_) => {
                let repaired = mend && repair::orphan_mark(check.store, stop.branch, ino)?;
                Teller::new(check, history, stop).tell(ino, |at| Issue::LinkedOrphan { at, repaired })?;
            }
            None => {
                let repaired = mend && repair::orphan_mark(check.store, stop.branch, ino)?;
                let volume = history.label(stop.branch, HEAD);
                check.findings.add(Issue::StaleOrphanMark { volume, inode: ino.0, repaired });
            }
        }
    }
    // Those that a fork inherited are marked nowhere: they died elsewhere.
    let mut unmarked: Vec<Ino> = state
        .unlinked
        .iter()
        .filter(|&(ino, branch)| *branch == stop.branch && !marks.contains(ino))
        .map(|(&ino, _)| ino)
        .collect();
    unmarked.sort_unstable();
    for ino in unmarked {
        let repaired = mend && repair::orphan_mark(check.store, stop.branch, ino)?;
        Teller::new(check, history, stop).tell(ino, |at| Issue::OrphanWithoutMark { at, repaired })?;
    }
    Ok(())
}
