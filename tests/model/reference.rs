//! The reference filesystem: what POSIX says a tree of files does, in the plainest data structures.
//!
//! Written from the man pages and the kernel's VFS, never from the product, so that the two agree only
//! if both are right. It knows no layers: the merged view of the lowers is where it starts.
//!
//! # Invariants
//! - A node is in `nodes` while a directory names it or the executor holds a reference to it.
//! - `links` counts the directory entries of a node.
//! - Cloning is cheap: nodes are shared until written, so a snapshot of the model is a clone.

use std::collections::BTreeMap;
use std::sync::Arc;

use crate::clock::{Clock, Time};
use crate::content::Content;
use crate::wire::{Owner, ROOT, Renaming, Set, SetTime, XattrMode};

/// A node of the model; the same number is its slot in the executor.
pub(crate) type Id = u32;
/// A file name or xattr name.
pub(crate) type Name = Vec<u8>;
/// An errno.
pub(crate) type Errno = i32;

const NAME_MAX: usize = 255;

/// What a node is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Body {
    File(Content),
    Dir(BTreeMap<Name, Id>),
    Symlink(Vec<u8>),
    /// FIFO, socket or device: the `S_IFMT` bits and the device number.
    Special {
        kind: u32,
        rdev: u32,
    },
}

/// A file, directory, symlink or special file.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) body: Body,
    pub(crate) perm: u16,
    pub(crate) uid: u32,
    pub(crate) gid: u32,
    /// Directory entries that name it.
    pub(crate) links: u32,
    /// Links of a lower file that the merged view does not show.
    pub(crate) hidden_links: u32,
    /// A directory merged from several lowers: it shows one link, as nobody counts its subdirectories.
    pub(crate) merged: bool,
    pub(crate) atime: Time,
    pub(crate) mtime: Time,
    pub(crate) ctime: Time,
    pub(crate) xattrs: BTreeMap<Name, Vec<u8>>,
}

impl Node {
    /// Returns the `S_IFMT` bits.
    pub(crate) fn kind(&self) -> u32 {
        match &self.body {
            Body::File(_) => libc::S_IFREG,
            Body::Dir(_) => libc::S_IFDIR,
            Body::Symlink(_) => libc::S_IFLNK,
            Body::Special { kind, .. } => *kind,
        }
    }

    /// Says whether it is a directory.
    pub(crate) fn is_dir(&self) -> bool {
        matches!(self.body, Body::Dir(_))
    }

    fn stamp(&mut self, clock: &mut Clock) {
        self.mtime = clock.now();
        self.ctime = clock.now();
    }
}

/// A tree of nodes.
#[derive(Clone, Debug)]
pub(crate) struct Fs {
    pub(crate) nodes: BTreeMap<Id, Arc<Node>>,
}

/// How an operation changed the tree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Effect {
    Nothing,
    /// Whether it counts as a change is the filesystem's choice.
    Unclear,
    Changed,
}

type Outcome = Result<Effect, Errno>;

impl Fs {
    /// Returns the node, which is there.
    pub(crate) fn node(&self, id: Id) -> &Node {
        &self.nodes[&id]
    }

    fn edit(&mut self, id: Id) -> &mut Node {
        Arc::make_mut(self.nodes.get_mut(&id).unwrap())
    }

    /// Returns the entries of a directory.
    pub(crate) fn entries(&self, id: Id) -> &BTreeMap<Name, Id> {
        match &self.node(id).body {
            Body::Dir(entries) => entries,
            other => panic!("node {id} is no directory but {other:?}"),
        }
    }

    fn entries_mut(&mut self, id: Id) -> &mut BTreeMap<Name, Id> {
        match &mut self.edit(id).body {
            Body::Dir(entries) => entries,
            other => panic!("node {id} is no directory but {other:?}"),
        }
    }

    /// Returns the bytes of a regular file.
    pub(crate) fn content(&self, id: Id) -> &Content {
        match &self.node(id).body {
            Body::File(content) => content,
            other => panic!("node {id} is no file but {other:?}"),
        }
    }

    pub(crate) fn content_mut(&mut self, id: Id) -> &mut Content {
        match &mut self.edit(id).body {
            Body::File(content) => content,
            other => panic!("node {id} is no file but {other:?}"),
        }
    }

    /// Says whether a node is in the tree no longer.
    pub(crate) fn is_dead(&self, id: Id) -> bool {
        id != ROOT && self.node(id).links == 0
    }

    /// Returns `st_nlink`.
    pub(crate) fn nlink(&self, id: Id) -> u32 {
        let node = self.node(id);
        match &node.body {
            Body::Dir(_) if self.is_dead(id) => 0,
            Body::Dir(_) if node.merged => 1,
            Body::Dir(entries) => {
                2 + u32::try_from(entries.values().filter(|&&child| self.node(child).is_dir()).count())
                    .unwrap()
            }
            _ => node.links + node.hidden_links,
        }
    }

    /// Returns the way from the root to a node: (directory, name, node) at each step.
    pub(crate) fn path_to(&self, wanted: Id) -> Option<Vec<(Id, Name, Id)>> {
        if wanted == ROOT {
            return Some(Vec::new());
        }
        let (&parent, name) = self.nodes.iter().find_map(|(id, node)| match &node.body {
            Body::Dir(entries) => {
                entries.iter().find(|&(_, &child)| child == wanted).map(|(name, _)| (id, name.clone()))
            }
            _ => None,
        })?;
        let mut path = self.path_to(parent)?;
        path.push((parent, name, wanted));
        Some(path)
    }

    fn is_inside(&self, id: Id, ancestor: Id) -> bool {
        id == ancestor
            || self.path_to(id).is_some_and(|path| path.iter().any(|&(parent, _, _)| parent == ancestor))
    }

    /// Finds a name.
    pub(crate) fn lookup(&self, parent: Id, name: &[u8]) -> Result<Id, Errno> {
        if !self.node(parent).is_dir() {
            return Err(libc::ENOTDIR);
        }
        if name.len() > NAME_MAX {
            return Err(libc::ENAMETOOLONG);
        }
        self.entries(parent).get(name).copied().ok_or(libc::ENOENT)
    }

    fn vacant(&self, parent: Id, name: &[u8]) -> Result<(), Errno> {
        match self.lookup(parent, name) {
            Ok(_) => Err(libc::EEXIST),
            Err(libc::ENOENT) if !self.is_dead(parent) => Ok(()),
            Err(errno) => Err(errno),
        }
    }

    /// Creates a file of any kind under a number that the caller chose.
    pub(crate) fn make(
        &mut self,
        id: Id,
        (parent, name): (Id, &[u8]),
        body: Body,
        perm: u16,
        owner: Owner,
        clock: &mut Clock,
    ) -> Outcome {
        self.vacant(parent, name)?;
        let above = self.node(parent);
        let (mut perm, mut gid) = (perm, owner.gid);
        // A set-group-ID directory hands down its group, and the bit itself to directories.
        if u32::from(above.perm) & libc::S_ISGID != 0 {
            gid = above.gid;
            if matches!(body, Body::Dir(_)) {
                perm |= libc::S_ISGID as u16;
            }
        }
        let node = Node {
            body,
            perm,
            uid: owner.uid,
            gid,
            links: 1,
            hidden_links: 0,
            merged: false,
            atime: clock.now(),
            mtime: clock.now(),
            ctime: clock.now(),
            xattrs: BTreeMap::new(),
        };
        self.nodes.insert(id, Arc::new(node));
        self.entries_mut(parent).insert(name.to_vec(), id);
        self.edit(parent).stamp(clock);
        Ok(Effect::Changed)
    }

    /// Gives a node another name.
    pub(crate) fn link(&mut self, id: Id, parent: Id, name: &[u8], clock: &mut Clock) -> Outcome {
        self.vacant(parent, name)?;
        if self.node(id).is_dir() {
            return Err(libc::EPERM);
        }
        if self.nlink(id) == 0 {
            return Err(libc::ENOENT);
        }
        self.entries_mut(parent).insert(name.to_vec(), id);
        self.edit(parent).stamp(clock);
        let node = self.edit(id);
        node.links += 1;
        node.ctime = clock.now();
        Ok(Effect::Changed)
    }

    /// Removes a name of something that is not a directory.
    pub(crate) fn unlink(&mut self, parent: Id, name: &[u8], clock: &mut Clock) -> Outcome {
        let id = self.lookup(parent, name)?;
        if self.node(id).is_dir() {
            return Err(libc::EISDIR);
        }
        self.entries_mut(parent).remove(name);
        self.edit(parent).stamp(clock);
        self.drop_link(id, clock);
        Ok(Effect::Changed)
    }

    /// Removes an empty directory.
    pub(crate) fn rmdir(&mut self, parent: Id, name: &[u8], clock: &mut Clock) -> Outcome {
        let id = self.lookup(parent, name)?;
        if !self.node(id).is_dir() {
            return Err(libc::ENOTDIR);
        }
        if !self.entries(id).is_empty() {
            return Err(libc::ENOTEMPTY);
        }
        self.entries_mut(parent).remove(name);
        self.edit(parent).stamp(clock);
        self.drop_link(id, clock);
        Ok(Effect::Changed)
    }

    fn drop_link(&mut self, id: Id, clock: &mut Clock) {
        let node = self.edit(id);
        node.links -= 1;
        node.ctime = match node.body {
            // Filesystems differ in whether a removed directory is stamped.
            Body::Dir(_) => clock.maybe(node.ctime),
            _ => clock.now(),
        };
    }

    /// Renames; the checks come in the order in which the kernel makes them.
    pub(crate) fn rename(
        &mut self,
        (parent, name): (Id, &[u8]),
        (to_parent, to_name): (Id, &[u8]),
        how: Renaming,
        clock: &mut Clock,
    ) -> Outcome {
        for directory in [parent, to_parent] {
            if !self.node(directory).is_dir() {
                return Err(libc::ENOTDIR);
            }
        }
        let id = self.lookup(parent, name)?;
        let target = match self.lookup(to_parent, to_name) {
            Ok(target) => Some(target),
            Err(libc::ENOENT) => None,
            Err(errno) => return Err(errno),
        };
        match how {
            Renaming::NoReplace {} if target.is_some() => return Err(libc::EEXIST),
            Renaming::Exchange {} if target.is_none() => return Err(libc::ENOENT),
            _ => {}
        }
        if self.is_inside(to_parent, id) {
            return Err(libc::EINVAL);
        }
        if let Some(target) = target
            && self.is_inside(parent, target)
        {
            return Err(if how == (Renaming::Exchange {}) { libc::EINVAL } else { libc::ENOTEMPTY });
        }
        if target == Some(id) {
            return Ok(Effect::Nothing);
        }
        if self.is_dead(to_parent) {
            return Err(libc::ENOENT);
        }
        if how == (Renaming::Exchange {}) {
            let target = target.unwrap();
            self.entries_mut(parent).insert(name.to_vec(), target);
            self.entries_mut(to_parent).insert(to_name.to_vec(), id);
            self.edit(target).ctime = clock.now();
        } else {
            if let Some(target) = target {
                match (self.node(id).is_dir(), self.node(target).is_dir()) {
                    (true, false) => return Err(libc::ENOTDIR),
                    (false, true) => return Err(libc::EISDIR),
                    (true, true) if !self.entries(target).is_empty() => return Err(libc::ENOTEMPTY),
                    _ => {}
                }
                self.drop_link(target, clock);
            }
            self.entries_mut(parent).remove(name);
            self.entries_mut(to_parent).insert(to_name.to_vec(), id);
        }
        self.edit(parent).stamp(clock);
        self.edit(to_parent).stamp(clock);
        self.edit(id).ctime = clock.now();
        Ok(Effect::Changed)
    }

    /// Writes to a regular file.
    pub(crate) fn write(
        &mut self,
        id: Id,
        at: u64,
        data: &[u8],
        kill_suid: bool,
        clock: &mut Clock,
    ) -> Outcome {
        if data.is_empty() {
            return Ok(Effect::Nothing);
        }
        self.content_mut(id).write(at, data);
        let node = self.edit(id);
        if kill_suid {
            node.perm = without_suid(node.perm);
        }
        node.stamp(clock);
        Ok(Effect::Changed)
    }

    /// Allocates, punches or zeroes.
    pub(crate) fn fallocate(&mut self, id: Id, mode: i32, at: u64, len: u64, clock: &mut Clock) -> Outcome {
        let keep = mode & libc::FALLOC_FL_KEEP_SIZE != 0;
        let content = self.content_mut(id);
        let before = content.size();
        if mode & (libc::FALLOC_FL_PUNCH_HOLE | libc::FALLOC_FL_ZERO_RANGE) != 0 {
            content.zero(at, len);
        }
        if !keep && at + len > content.size() {
            content.truncate(at + len);
        }
        let grew = content.size() != before;
        let node = self.edit(id);
        if grew {
            node.stamp(clock);
            return Ok(Effect::Changed);
        }
        // Whether giving or taking space that shows in no byte is a modification is up to the filesystem.
        node.mtime = clock.maybe(node.mtime);
        node.ctime = clock.maybe(node.ctime);
        Ok(Effect::Unclear)
    }

    /// Copies bytes that the source has between files.
    pub(crate) fn copy_range(
        &mut self,
        (from, from_at): (Id, u64),
        (to, to_at): (Id, u64),
        len: u64,
        clock: &mut Clock,
    ) -> Outcome {
        if from == to && from_at < to_at + len && to_at < from_at + len {
            return Err(libc::EINVAL);
        }
        let bytes = self.content(from).read(from_at, len);
        self.content_mut(to).write(to_at, &bytes);
        self.edit(to).stamp(clock);
        Ok(Effect::Changed)
    }

    /// Changes attributes.
    pub(crate) fn setattr(&mut self, id: Id, set: &Set, clock: &mut Clock) -> Outcome {
        let mut effect = Effect::Unclear;
        if let Some(size) = set.size {
            let content = self.content_mut(id);
            let same = content.size() == size;
            content.truncate(size);
            let node = self.edit(id);
            if same {
                node.mtime = clock.maybe(node.mtime);
                node.ctime = clock.maybe(node.ctime);
            } else {
                node.stamp(clock);
                effect = Effect::Changed;
            }
        }
        let node = self.edit(id);
        if set.uid.is_some() || set.gid.is_some() {
            // Changing the owner takes set-ID bits away, whoever does it.
            if !node.is_dir() {
                node.perm = without_suid(node.perm);
            }
            node.uid = set.uid.unwrap_or(node.uid);
            node.gid = set.gid.unwrap_or(node.gid);
            node.ctime = clock.now();
        }
        if let Some(perm) = set.perm {
            node.perm = perm;
            node.ctime = clock.now();
        }
        for (time, value) in [(&mut node.atime, &set.atime), (&mut node.mtime, &set.mtime)] {
            match value {
                None => continue,
                Some(SetTime::Now {}) => *time = clock.now(),
                Some(SetTime::At { stamp }) => *time = Time::Exact(*stamp),
            }
            node.ctime = clock.now();
        }
        Ok(effect)
    }

    /// Sets an extended attribute.
    pub(crate) fn setxattr(
        &mut self,
        id: Id,
        name: &[u8],
        value: Vec<u8>,
        how: XattrMode,
        clock: &mut Clock,
    ) -> Outcome {
        let node = self.edit(id);
        let old = node.xattrs.get(name);
        match how {
            XattrMode::Create {} if old.is_some() => return Err(libc::EEXIST),
            XattrMode::Replace {} if old.is_none() => return Err(libc::ENODATA),
            _ => {}
        }
        if old == Some(&value) {
            node.ctime = clock.maybe(node.ctime);
            return Ok(Effect::Unclear);
        }
        node.xattrs.insert(name.to_vec(), value);
        node.ctime = clock.now();
        Ok(Effect::Changed)
    }

    /// Removes an extended attribute.
    pub(crate) fn removexattr(&mut self, id: Id, name: &[u8], clock: &mut Clock) -> Outcome {
        let node = self.edit(id);
        if node.xattrs.remove(name).is_none() {
            return Err(libc::ENODATA);
        }
        node.ctime = clock.now();
        Ok(Effect::Changed)
    }

    /// Forgets every node that neither a directory nor `held` keeps; says whether there was one.
    pub(crate) fn drop_unheld(&mut self, held: impl Fn(Id) -> bool) -> bool {
        let dead: Vec<Id> = self.nodes.keys().copied().filter(|&id| self.is_dead(id) && !held(id)).collect();
        for id in &dead {
            self.nodes.remove(id);
        }
        !dead.is_empty()
    }
}

/// The set-user-ID bit always goes; set-group-ID only where it means that (the group may execute).
fn without_suid(perm: u16) -> u16 {
    let perm = perm & !(libc::S_ISUID as u16);
    if u32::from(perm) & libc::S_IXGRP != 0 { perm & !(libc::S_ISGID as u16) } else { perm }
}
