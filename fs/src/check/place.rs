//! What an inode is called, for people.

use super::history::History;
use super::trees::{Stop, each_visible, look};
use super::{Check, Issue, Place};
use crate::error::FsError;
use crate::ids::Ino;
use crate::store::record::{Dentry, Inode};
use crate::store::{Family, Frozen, Prefix, PrefixOf, StoreError, View};

/// More names than that are in no path: each takes two bytes of it.
const DEEPEST: usize = 1 << 16;
/// Issues after which nobody searches a tree for the name of an inode that is gone.
const SEARCHES: usize = 16;

/// Tells what is wrong with the inodes of one tree.
pub(super) struct Teller<'t, 'a> {
    pub(super) check: &'t mut Check<'a>,
    pub(super) stop: &'t Stop,
    label: String,
}

impl<'t, 'a> Teller<'t, 'a> {
    pub(super) fn new(check: &'t mut Check<'a>, history: &History, stop: &'t Stop) -> Teller<'t, 'a> {
        Teller { check, stop, label: history.label(stop.branch, stop.epoch) }
    }

    /// Tells an issue of an inode, unless it was told of another tree.
    pub(super) fn tell(&mut self, ino: Ino, issue: impl FnOnce(Place) -> Issue) -> Result<(), FsError> {
        let place = self.place(ino)?;
        self.check.findings.add_once(self.stop.view.tree(), issue(place));
        Ok(())
    }

    fn place(&self, ino: Ino) -> Result<Place, FsError> {
        let (frozen, view) = (&self.check.frozen, &self.stop.view);
        let mut path = path(frozen, view, ino)?;
        if path.is_none() && self.check.findings.report.issues.len() < SEARCHES {
            path = search(frozen, view, ino)?;
        }
        Ok(Place { tree: self.label.clone(), inode: ino.0, path })
    }
}

/// Returns the path of an inode by what inodes say of their parents.
pub(super) fn path(frozen: &Frozen<'_>, view: &View, ino: Ino) -> Result<Option<Vec<u8>>, StoreError> {
    let mut names: Vec<Box<[u8]>> = Vec::new();
    let mut at = ino;
    let mut below: Option<Inode> = None;
    while at != Ino::ROOT {
        let inode = look::<Option<Inode>>(frozen, view, &Prefix::inode(view.tree(), at))?.flatten();
        let Some(inode) = inode else {
            // A directory that only the lowers have: nothing on the way to it was ever renamed.
            let Some(lower) = below.and_then(|inode| inode.lower) else { return Ok(None) };
            names.pop();
            names.push(lower.path);
            break;
        };
        if names.len() > DEEPEST {
            return Ok(None);
        }
        names.push(inode.name.clone());
        at = inode.parent;
        below = Some(inode);
    }
    names.reverse();
    Ok(Some(names.join(&b'/')))
}

/// Returns the path by which an inode is found.
fn search(frozen: &Frozen<'_>, view: &View, wanted: Ino) -> Result<Option<Vec<u8>>, StoreError> {
    let mut found: Option<(Ino, Vec<u8>)> = None;
    each_visible::<Dentry>(frozen, view, Family::Dentry, |of, seen| {
        if let (PrefixOf::Dentry { dir, name, .. }, super::trees::Seen::Record(_, Dentry::Entry { ino, .. })) =
            (of, seen)
            && ino == wanted
        {
            found = Some((dir, name.to_vec()));
        }
    })?;
    let Some((dir, name)) = found else { return Ok(None) };
    let Some(mut path) = path(frozen, view, dir)? else { return Ok(None) };
    if !path.is_empty() {
        path.push(b'/');
    }
    path.extend_from_slice(&name);
    Ok(Some(path))
}
