//! Comparing a whole tree: every entry, attribute and byte of it.

use std::collections::BTreeSet;

use crate::expect::{Expect, Shown};
use crate::reference::{Body, Fs, Id, Node};
use crate::wire::{Bytes, Call, ROOT, Slot, View};
use crate::world::{Step, Volume, push};

/// A tree to be walked through a view.
pub(crate) struct Walk<'a> {
    view: View,
    /// Whose inode numbers it shows; `None` where files have numbers of another kind.
    lineage: Option<View>,
    /// Added to the number of a node for its slot.
    base: Slot,
    fs: &'a Fs,
    /// Nodes that are held before the walk and stay so.
    bound: BTreeSet<Id>,
}

impl<'a> Walk<'a> {
    /// The tree of a volume.
    pub(crate) fn head(volume: &'a Volume) -> Walk<'a> {
        let (view, bound) = (volume.view, volume.bound.clone());
        Walk { view, lineage: Some(view), base: 0, fs: &volume.fs, bound }
    }

    /// A snapshot of the head `of`, opened as `view`.
    pub(crate) fn snapshot(view: View, of: View, fs: &'a Fs) -> Walk<'a> {
        Walk { view, lineage: Some(of), base: 0, fs, bound: BTreeSet::from([ROOT]) }
    }

    /// A snapshot below a directory of the head `view`. Its root is held in the slot `base + ROOT`.
    pub(crate) fn browse(view: View, base: Slot, fs: &'a Fs) -> Walk<'a> {
        Walk { view, lineage: None, base, fs, bound: BTreeSet::from([ROOT]) }
    }

    /// Plans the walk, which ends with the references it began with.
    pub(crate) fn plan(&self, steps: &mut Vec<Step>) {
        let view = self.view;
        push(steps, Call::Getattr { view, node: self.slot(ROOT) }, self.stat(ROOT));
        let mut seen = BTreeSet::from([ROOT]);
        let mut left = vec![ROOT];
        while let Some(id) = left.pop() {
            self.plan_content(id, steps);
            let Body::Dir(entries) = &self.fs.node(id).body else { continue };
            for (name, &child) in entries {
                let (parent, bind) = (self.slot(id), self.slot(child));
                push(
                    steps,
                    Call::Lookup { view, parent, name: Bytes::from(&name[..]), bind },
                    self.stat(child),
                );
                if seen.insert(child) {
                    left.push(child);
                }
            }
        }
        // Files that are only held: their names are gone, their content is not.
        for &id in self.bound.difference(&seen) {
            push(steps, Call::Getattr { view, node: self.slot(id) }, self.stat(id));
            if !self.fs.node(id).is_dir() {
                self.plan_content(id, steps);
            }
        }
        for &id in seen.difference(&self.bound) {
            push(steps, Call::Forget { view, node: self.slot(id) }, Expect::Done);
        }
    }

    fn plan_content(&self, id: Id, steps: &mut Vec<Step>) {
        let (view, slot, node) = (self.view, self.slot(id), self.fs.node(id));
        self.plan_xattrs(slot, node, steps);
        match &node.body {
            Body::Dir(entries) => {
                let entries = entries.iter().map(|(name, &id)| (name.clone(), self.shown(id))).collect();
                let chunk = [1000, 3, 1][id as usize % 3];
                let call = Call::Readdir { view, node: slot, chunk, plus: id.is_multiple_of(2) };
                push(steps, call, Expect::Listing { dir: self.shown(id), entries });
            }
            Body::File(content) => {
                for (from, to) in content.interesting_ranges() {
                    let call = Call::Read { view, node: slot, at: from, len: (to - from) as u32 };
                    push(steps, call, Expect::Data(content.read(from, to - from)));
                }
            }
            Body::Symlink(target) => {
                push(steps, Call::Readlink { view, node: slot }, Expect::Data(target.clone()));
            }
            Body::Special { .. } => {}
        }
    }

    fn plan_xattrs(&self, slot: Slot, node: &Node, steps: &mut Vec<Step>) {
        let view = self.view;
        let names = node.xattrs.keys().map(|name| Bytes::from(&name[..])).collect();
        push(steps, Call::Listxattr { view, node: slot }, Expect::Names(names));
        for (name, value) in &node.xattrs {
            let call = Call::Getxattr { view, node: slot, name: Bytes::from(&name[..]) };
            push(steps, call, Expect::Data(value.clone()));
        }
    }

    fn slot(&self, id: Id) -> Slot {
        self.base + id
    }

    fn shown(&self, id: Id) -> Shown {
        shown(self.lineage, self.fs, id)
    }

    fn stat(&self, id: Id) -> Expect {
        Expect::Stat(self.shown(id))
    }
}

/// Describes what `stat` shows of a node.
pub(crate) fn shown(lineage: Option<View>, fs: &Fs, id: Id) -> Shown {
    let node = fs.node(id);
    Shown {
        lineage,
        id,
        mode: node.kind() | u32::from(node.perm),
        nlink: fs.nlink(id),
        uid: node.uid,
        gid: node.gid,
        rdev: match node.body {
            Body::Special { rdev, .. } => rdev,
            _ => 0,
        },
        size: match &node.body {
            Body::File(content) => Some(content.size()),
            Body::Symlink(target) => Some(target.len() as u64),
            Body::Special { .. } => Some(0),
            Body::Dir(_) => None,
        },
        atime: node.atime,
        mtime: node.mtime,
        ctime: node.ctime,
    }
}
