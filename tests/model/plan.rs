//! Turning an operation into calls with the answers they must get.
//!
//! # Invariants
//! - An operation for which there is nothing to do it to is left out: every subsequence of a sequence can be planned.
//! - Nothing is planned that a kernel would not ask for: a name is looked up before it is used, and what is wrong in two
//!   ways at once, where only the kernel says which is told, is left out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::clock::Clock;
use crate::differences::differences;
use crate::expect::Expect;
use crate::op::{At, Op, Pick, When, pool_name, xattr_name};
use crate::reference::{Body, Effect, Errno, Fs, Id, Name, Node};
use crate::walk::shown;
use crate::wire::{Bytes, Call, Fill, Other, Owner, ROOT, Set, SetTime, Stamp, View};
use crate::world::{Cursor, Snapshot, Step, Volume, World, push};

const KEEP_ALL: Set = Set { perm: None, uid: None, gid: None, size: None, atime: None, mtime: None };

/// More than this of either and the comparison of everything takes longer than the operations.
const MAX_VOLUMES: usize = 5;
const MAX_SNAPSHOTS: usize = 10;

impl World {
    /// Carries an operation out on the model and appends the calls that do the same.
    pub(crate) fn plan(&mut self, op: &Op, steps: &mut Vec<Step>) {
        let mut plan = Plan { world: self, steps };
        // `None`: there is nothing the operation could be done to.
        let _: Option<()> = plan.op(op);
        self.track_cursors();
    }
}

/// The planning of one operation.
struct Plan<'a> {
    world: &'a mut World,
    steps: &'a mut Vec<Step>,
}

impl Plan<'_> {
    fn volume(&mut self) -> &mut Volume {
        &mut self.world.volumes[self.world.current]
    }

    fn fs(&self) -> &Fs {
        &self.world.volumes[self.world.current].fs
    }

    fn view(&self) -> View {
        self.world.volumes[self.world.current].view
    }

    /// Lets the model do something, with its clock.
    fn model<T>(&mut self, act: impl FnOnce(&mut Fs, &mut Clock) -> T) -> T {
        let world = &mut *self.world;
        act(&mut world.volumes[world.current].fs, &mut world.clock)
    }

    fn nth(&self, n: u16, wanted: impl Fn(&Node) -> bool) -> Option<Id> {
        let matching: Vec<Id> =
            self.fs().nodes.iter().filter(|(_, node)| wanted(node)).map(|(&id, _)| id).collect();
        (!matching.is_empty()).then(|| matching[usize::from(n) % matching.len()])
    }

    fn dir(&mut self, n: u16) -> Option<Id> {
        let id = self.nth(n, Node::is_dir)?;
        self.hold(id);
        Some(id)
    }

    fn file(&mut self, n: u16) -> Option<Id> {
        let id = self.nth(n, |node| matches!(node.body, Body::File(_)))?;
        self.hold(id);
        Some(id)
    }

    fn any(&mut self, n: u16) -> Option<Id> {
        let id = self.nth(n, |_| true)?;
        self.hold(id);
        Some(id)
    }

    /// Looks up what is on the way to a node and not held yet.
    fn hold(&mut self, id: Id) {
        if self.volume().bound.contains(&id) {
            return;
        }
        let path = self.fs().path_to(id).expect("what has no path is held");
        let view = self.view();
        for (parent, name, child) in path {
            if self.volume().bound.insert(child) {
                let expect = Expect::Stat(shown(Some(view), self.fs(), child));
                push(self.steps, Call::Lookup { view, parent, name: Bytes(name), bind: child }, expect);
            }
        }
    }

    fn name(&self, dir: Id, pick: Pick) -> Name {
        let entries = self.fs().entries(dir);
        let name = match pick {
            Pick::Live(n) if !entries.is_empty() => {
                entries.keys().nth(usize::from(n) % entries.len()).expect("modulo the length").clone()
            }
            Pick::Live(n) => pool_name(n as u8),
            Pick::Pool(n) => pool_name(n),
        };
        // In a directory that is gone the kernel looks no name up, so nobody says whether it is too long.
        if self.fs().is_dead(dir) { pool_name(0) } else { name }
    }

    fn offset(&self, file: Id, at: At) -> u64 {
        match at {
            At::Abs(offset) => offset,
            At::End(distance) => self.fs().content(file).size().saturating_add_signed(distance),
        }
    }

    fn main(&mut self, call: Call, expect: Expect) {
        self.steps.push(Step { call, expect, main: true });
    }

    /// Adds the call of an operation whose outcome on the model is known, and what to expect of it.
    fn outcome(&mut self, call: Call, outcome: Result<Effect, Errno>, expect: impl FnOnce(&Self) -> Expect) {
        let expect = match outcome {
            Ok(effect) => {
                self.effect(effect);
                expect(self)
            }
            Err(errno) => Expect::Fails(errno),
        };
        self.main(call, expect);
    }

    fn effect(&mut self, effect: Effect) {
        let volume = self.volume();
        volume.effect = match (volume.effect, effect) {
            (Effect::Changed, _) | (_, Effect::Changed) => Effect::Changed,
            (Effect::Unclear, _) | (_, Effect::Unclear) => Effect::Unclear,
            _ => Effect::Nothing,
        };
    }

    fn stat(&self, id: Id) -> Expect {
        Expect::Stat(shown(Some(self.view()), self.fs(), id))
    }

    /// Looks at the nodes that an operation may have touched, as far as they are held.
    fn observe(&mut self, ids: &[Id]) {
        let view = self.view();
        for (index, &id) in ids.iter().enumerate() {
            if self.volume().bound.contains(&id) && !ids[..index].contains(&id) {
                let expect = self.stat(id);
                push(self.steps, Call::Getattr { view, node: id }, expect);
            }
        }
    }

    fn drop_unheld(&mut self) {
        let volume = self.volume();
        let bound = &volume.bound;
        volume.had_orphans |= volume.fs.drop_unheld(|id| bound.contains(&id));
    }

    fn op(&mut self, op: &Op) -> Option<()> {
        let view = self.view();
        match *op {
            Op::Create { dir, name, perm, owner } => {
                self.make(dir, name, perm, owner, Body::File(Default::default()))?;
            }
            Op::Mkdir { dir, name, perm, owner } => {
                self.make(dir, name, perm & 0o1777, owner, Body::Dir(BTreeMap::new()))?;
            }
            Op::Mknod { dir, name, kind, perm } => {
                let (kind, rdev) = match kind {
                    0 => (libc::S_IFIFO, 0),
                    1 => (libc::S_IFSOCK, 0),
                    2 => (libc::S_IFCHR, libc::makedev(1, 3) as u32),
                    _ => (libc::S_IFBLK, libc::makedev(7, 0) as u32),
                };
                self.make(dir, name, perm, 0, Body::Special { kind, rdev })?;
            }
            Op::Symlink { dir, name, len } => {
                let target = (0..len).map(|index| b'a' + (index % 26) as u8).collect();
                self.make(dir, name, 0o777, 0, Body::Symlink(target))?;
            }
            Op::Link { node, dir, name } => {
                let (dir, node) = (self.dir(dir)?, self.any(node)?);
                if self.fs().is_dead(dir) && self.fs().node(node).is_dir() {
                    // Wrong in two ways: which one is told is the kernel's choice, which asks nobody.
                    return None;
                }
                let name = self.name(dir, name);
                let outcome = self.model(|fs, clock| fs.link(node, dir, &name, clock));
                let call = Call::Link { view, node, parent: dir, name: Bytes(name) };
                self.outcome(call, outcome, |plan| plan.stat(node));
                self.observe(&[dir, node]);
            }
            Op::Unlink { dir, name } => {
                let dir = self.dir(dir)?;
                let name = self.name(dir, name);
                let target = self.fs().lookup(dir, &name).unwrap_or(dir);
                let outcome = self.model(|fs, clock| fs.unlink(dir, &name, clock));
                self.outcome(Call::Unlink { view, parent: dir, name: Bytes(name) }, outcome, |_| {
                    Expect::Done
                });
                self.observe(&[dir, target]);
                self.drop_unheld();
            }
            Op::Rmdir { dir, name } => {
                let dir = self.dir(dir)?;
                let name = self.name(dir, name);
                let target = self.fs().lookup(dir, &name).unwrap_or(dir);
                let outcome = self.model(|fs, clock| fs.rmdir(dir, &name, clock));
                self.outcome(Call::Rmdir { view, parent: dir, name: Bytes(name) }, outcome, |_| Expect::Done);
                self.observe(&[dir, target]);
                self.forget_cursors(target);
                self.drop_unheld();
            }
            Op::Rename { dir, name, to_dir, to_name, how } => {
                let (dir, to_dir) = (self.dir(dir)?, self.dir(to_dir)?);
                let (name, mut to_name) = (self.name(dir, name), self.name(to_dir, to_name));
                if self.fs().lookup(dir, &name).is_err() {
                    // Of two names that are wrong, the kernel has looked up and refused the first.
                    to_name = pool_name(0);
                }
                let node = self.fs().lookup(dir, &name).unwrap_or(dir);
                let target = self.fs().lookup(to_dir, &to_name).unwrap_or(dir);
                let outcome = self.model(|fs, clock| fs.rename((dir, &name), (to_dir, &to_name), how, clock));
                let (name, to_name) = (Bytes(name), Bytes(to_name));
                let call = Call::Rename { view, parent: dir, name, to_parent: to_dir, to_name, how };
                match outcome {
                    // A file over a directory that it is in: the kernel refuses before it asks.
                    Err(libc::ENOTEMPTY) if !self.fs().node(node).is_dir() => {
                        self.main(call, Expect::FailsEither(libc::ENOTEMPTY, libc::EISDIR));
                    }
                    // Into a directory that is gone, and may have been below the one that moves.
                    Err(libc::ENOENT) if self.fs().is_dead(to_dir) => {
                        self.main(call, Expect::FailsEither(libc::ENOENT, libc::EINVAL));
                    }
                    _ => self.outcome(call, outcome, |_| Expect::Done),
                }
                self.observe(&[dir, to_dir, node, target]);
                self.forget_cursors(target);
                self.drop_unheld();
            }
            Op::Write { file, at, len, seed, kill_suid } => {
                let node = self.file(file)?;
                let at = self.offset(node, at);
                let fill = Fill { seed, len };
                let outcome = self.model(|fs, clock| fs.write(node, at, &fill.bytes(), kill_suid, clock));
                self.outcome(Call::Write { view, node, at, fill, kill_suid }, outcome, |_| Expect::Done);
                self.observe(&[node]);
            }
            Op::Truncate { file, to } => {
                let node = self.file(file)?;
                let size = Some(self.offset(node, to));
                self.setattr(node, Set { size, ..KEEP_ALL });
            }
            Op::Fallocate { file, mode, at, len } => {
                let node = self.file(file)?;
                let at = self.offset(node, at);
                let outcome = self.model(|fs, clock| fs.fallocate(node, mode, at, len, clock));
                self.outcome(Call::Fallocate { view, node, mode, at, len }, outcome, |_| Expect::Done);
                self.observe(&[node]);
            }
            Op::CopyRange { from, from_at, to, to_at, len } => {
                let (from, to) = (self.file(from)?, self.file(to)?);
                let (from_at, to_at) = (self.offset(from, from_at), self.offset(to, to_at));
                // The kernel shortens a copy to the end of its source, and asks nobody about one of nothing.
                let len = len.min(self.fs().content(from).size().saturating_sub(from_at));
                if len == 0 {
                    return None;
                }
                let outcome = self.model(|fs, clock| fs.copy_range((from, from_at), (to, to_at), len, clock));
                let call = Call::CopyRange { view, from, from_at, to, to_at, len };
                self.outcome(call, outcome, |_| Expect::Count(len));
                self.observe(&[to, from]);
            }
            Op::Chmod { node, perm } => {
                let node = self.any(node)?;
                if matches!(self.fs().node(node).body, Body::Symlink(_)) {
                    return None;
                }
                self.setattr(node, Set { perm: Some(perm), ..KEEP_ALL });
            }
            Op::Chown { node, uid, gid } => {
                let node = self.any(node)?;
                if uid.is_none() && gid.is_none() {
                    return None;
                }
                self.setattr(node, Set { uid, gid, ..KEEP_ALL });
            }
            Op::Utimens { node, atime, mtime } => {
                let node = self.any(node)?;
                let time = |when| match when {
                    When::Keep => None,
                    When::Now => Some(SetTime::Now {}),
                    When::At(secs, nanos) => Some(SetTime::At { stamp: Stamp { secs, nanos } }),
                };
                let (atime, mtime) = (time(atime), time(mtime));
                if atime.is_none() && mtime.is_none() {
                    return None;
                }
                self.setattr(node, Set { atime, mtime, ..KEEP_ALL });
            }
            Op::Setxattr { node, name, len, seed, how } => {
                let node = self.any(node)?;
                let name = self.xattr_name(node, name);
                let value = Fill { seed, len };
                let outcome = self.model(|fs, clock| fs.setxattr(node, &name, value.bytes(), how, clock));
                let call = Call::Setxattr { view, node, name: Bytes(name), value, how };
                self.outcome(call, outcome, |_| Expect::Done);
                self.observe(&[node]);
            }
            Op::Removexattr { node, name } => {
                let node = self.any(node)?;
                let name = self.xattr_name(node, name);
                let outcome = self.model(|fs, clock| fs.removexattr(node, &name, clock));
                self.outcome(Call::Removexattr { view, node, name: Bytes(name) }, outcome, |_| Expect::Done);
                self.observe(&[node]);
            }
            Op::Fsync { node } => {
                let node = self.file(node)?;
                self.main(Call::Fsync { view, node }, Expect::Done);
            }
            Op::Forget { node } => self.forget(node)?,
            _ => return self.look(op).or_else(|| self.control(op)),
        }
        Some(())
    }

    /// Plans an operation that changes nothing.
    fn look(&mut self, op: &Op) -> Option<()> {
        let view = self.view();
        let (call, expect) = match *op {
            Op::Getxattr { node, name } => {
                let node = self.any(node)?;
                let name = self.xattr_name(node, name);
                let expect = match self.fs().node(node).xattrs.get(&name) {
                    Some(value) => Expect::Data(value.clone()),
                    None => Expect::Fails(libc::ENODATA),
                };
                (Call::Getxattr { view, node, name: Bytes(name) }, expect)
            }
            Op::Listxattr { node } => {
                let node = self.any(node)?;
                let names = self.fs().node(node).xattrs.keys().map(|name| Bytes::from(&name[..])).collect();
                (Call::Listxattr { view, node }, Expect::Names(names))
            }
            Op::Read { file, at, len } => {
                let node = self.file(file)?;
                let at = self.offset(node, at);
                let data = self.fs().content(node).read(at, u64::from(len));
                (Call::Read { view, node, at, len }, Expect::Data(data))
            }
            Op::Readdir { dir, chunk, plus } => {
                let node = self.dir(dir)?;
                if self.fs().is_dead(node) {
                    return Some(());
                }
                let entries = self.fs().entries(node);
                let entries = entries
                    .iter()
                    .map(|(name, &id)| (name.clone(), shown(Some(view), self.fs(), id)))
                    .collect();
                let expect = Expect::Listing { dir: shown(Some(view), self.fs(), node), entries };
                (Call::Readdir { view, node, chunk, plus }, expect)
            }
            Op::CursorOpen { dir } => {
                let node = self.dir(dir)?;
                if self.fs().is_dead(node) {
                    return Some(());
                }
                let number = self.world.number();
                let must = self.fs().entries(node).clone();
                let may = must.keys().cloned().collect();
                self.world.cursors.push(Cursor { number, volume: self.world.current, dir: node, must, may });
                (Call::CursorOpen { cursor: number, view, node }, Expect::Done)
            }
            Op::CursorStep { cursor, count } => {
                let cursors = &self.world.cursors;
                if cursors.is_empty() {
                    return Some(());
                }
                (
                    Call::CursorStep { cursor: cursors[usize::from(cursor) % cursors.len()].number, count },
                    Expect::Done,
                )
            }
            Op::CursorFinish { cursor } => {
                if self.world.cursors.is_empty() {
                    return Some(());
                }
                let index = usize::from(cursor) % self.world.cursors.len();
                let Cursor { number, must, may, .. } = self.world.cursors.remove(index);
                let must = must.into_keys().collect();
                (Call::CursorFinish { cursor: number }, Expect::Passed { must, may })
            }
            Op::Stat { node } => {
                let node = self.any(node)?;
                (Call::Getattr { view, node }, self.stat(node))
            }
            Op::Lookup { dir, name } => {
                let parent = self.dir(dir)?;
                let name = self.name(parent, name);
                let found = self.fs().lookup(parent, &name);
                let expect = match found {
                    Ok(id) => self.stat(id),
                    Err(errno) => Expect::Fails(errno),
                };
                self.volume().bound.extend(found.ok());
                (Call::Lookup { view, parent, name: Bytes(name), bind: found.unwrap_or(0) }, expect)
            }
            Op::Readlink { node } => {
                let node = self.nth(node, |node| matches!(node.body, Body::Symlink(_)))?;
                self.hold(node);
                let Body::Symlink(target) = &self.fs().node(node).body else { return None };
                let expect = Expect::Data(target.clone());
                (Call::Readlink { view, node }, expect)
            }
            Op::Seek { file, at, hole } => {
                let node = self.file(file)?;
                let at = self.offset(node, at);
                let content = self.fs().content(node);
                let size = content.size();
                let expect = if at >= size {
                    Expect::Fails(libc::ENXIO)
                } else if !hole && content.is_zero(at, size) {
                    // What is left may be a hole, or zeros that were written.
                    Expect::Anything
                } else {
                    Expect::Seek { node: Arc::clone(&self.fs().nodes[&node]), at, hole }
                };
                (Call::Seek { view, node, at, hole }, expect)
            }
            _ => return None,
        };
        self.main(call, expect);
        Some(())
    }

    fn make(&mut self, dir: u16, name: Pick, perm: u16, owner: u8, body: Body) -> Option<()> {
        let view = self.view();
        let parent = self.dir(dir)?;
        let name = self.name(parent, name);
        let (owner, umask) = match owner {
            0 => (Owner { uid: 0, gid: 0 }, 0),
            1 => (Owner { uid: 1000, gid: 1000 }, 0o022),
            _ => (Owner { uid: 70_000, gid: 5 }, 0o077),
        };
        // What an ordinary user may not set is taken away by the kernel before it asks.
        let perm = if owner.uid == 0 { perm } else { perm & 0o1777 };
        let shown_perm = match body {
            Body::Symlink(_) => 0o777,
            _ => perm & !(umask as u16),
        };
        self.world.next_id += 1;
        let bind = self.world.next_id;
        let outcome =
            self.model(|fs, clock| fs.make(bind, (parent, &name), body.clone(), shown_perm, owner, clock));
        if outcome.is_ok() {
            self.volume().bound.insert(bind);
        }
        let (name, perm) = (Bytes(name), u32::from(perm));
        let call = match body {
            Body::Dir(_) => {
                Call::Mkdir { view, parent, name, mode: libc::S_IFDIR | perm, umask, owner, bind }
            }
            Body::Symlink(target) => Call::Symlink { view, parent, name, target: Bytes(target), owner, bind },
            Body::File(_) => {
                Call::Make { view, parent, name, mode: libc::S_IFREG | perm, umask, rdev: 0, owner, bind }
            }
            Body::Special { kind, rdev } => {
                Call::Make { view, parent, name, mode: kind | perm, umask, rdev, owner, bind }
            }
        };
        self.outcome(call, outcome, |plan| plan.stat(bind));
        self.observe(&[parent]);
        Some(())
    }

    fn setattr(&mut self, node: Id, set: Set) {
        let view = self.view();
        let outcome = self.model(|fs, clock| fs.setattr(node, &set, clock));
        self.outcome(Call::Setattr { view, node, set }, outcome, |plan| plan.stat(node));
    }

    fn xattr_name(&self, node: Id, index: u8) -> Name {
        xattr_name(index, matches!(self.fs().node(node).body, Body::File(_) | Body::Dir(_)))
    }

    /// Gives back a held node and, as a kernel would before a directory, everything held below it.
    fn forget(&mut self, n: u16) -> Option<()> {
        let view = self.view();
        let held: Vec<Id> = self.volume().bound.iter().copied().filter(|&id| id != ROOT).collect();
        if held.is_empty() {
            return None;
        }
        let id = held[usize::from(n) % held.len()];
        let below: Vec<Id> = held
            .into_iter()
            .filter(|&other| {
                other == id
                    || self
                        .fs()
                        .path_to(other)
                        .is_some_and(|path| path.iter().any(|&(parent, _, _)| parent == id))
            })
            .collect();
        for &node in below.iter().rev() {
            self.volume().bound.remove(&node);
            self.forget_cursors(node);
            self.main(Call::Forget { view, node }, Expect::Done);
        }
        self.drop_unheld();
        Some(())
    }

    /// Lets cursors in a directory go that is no longer there or no longer held.
    fn forget_cursors(&mut self, dir: Id) {
        let world = &mut *self.world;
        let volume = &world.volumes[world.current];
        world.cursors.retain(|cursor| {
            cursor.volume != world.current
                || cursor.dir != dir
                || (volume.bound.contains(&dir) && !volume.fs.is_dead(dir))
        });
    }

    fn control(&mut self, op: &Op) -> Option<()> {
        let view = self.view();
        match *op {
            Op::Snapshot { volumes } => {
                let count = usize::from(volumes).min(self.world.volumes.len());
                if self.world.snapshots.len() + count > MAX_SNAPSHOTS {
                    return None;
                }
                let name = format!("s{}", self.world.number());
                let (mut views, mut effects) = (Vec::new(), Vec::new());
                for offset in 0..count {
                    let index = (self.world.current + offset) % self.world.volumes.len();
                    let volume = &mut self.world.volumes[index];
                    views.push(volume.view);
                    effects.push(volume.effect);
                    volume.effect = Effect::Nothing;
                    let mut fs = volume.fs.clone();
                    fs.drop_unheld(|_| false);
                    self.world.snapshots.push(Snapshot { volume: index, name: name.clone(), fs });
                }
                self.main(Call::Snapshot { views, name }, Expect::Cut(effects));
            }
            Op::RemoveSnapshot { snapshot } => {
                let index = self.snapshot(snapshot, |_| true)?;
                let snapshot = self.world.snapshots.remove(index);
                let volume = &mut self.world.volumes[snapshot.volume];
                // What the next cut is compared with may be gone.
                volume.effect = match volume.effect {
                    Effect::Nothing => Effect::Unclear,
                    effect => effect,
                };
                let view = volume.view;
                self.main(Call::RemoveSnapshot { view, name: snapshot.name }, Expect::Done);
            }
            Op::CheckSnapshot { snapshot } => {
                let index = self.snapshot(snapshot, |_| true)?;
                self.world.plan_check_snapshot(index, self.steps);
            }
            Op::Browse { snapshot } => {
                let index = self.snapshot(snapshot, |_| true)?;
                self.world.plan_browse(index, self.steps);
            }
            Op::RemoveVolume { volume } => self.remove_volume(volume)?,
            Op::Fork { snapshot } => {
                if self.world.volumes.len() >= MAX_VOLUMES {
                    return None;
                }
                let index = self.snapshot(snapshot, |_| true)?;
                let new_view = self.world.number();
                let Snapshot { volume, name, fs } = self.world.snapshots[index].clone();
                let new_name = format!("{}-{new_view}", self.world.prefix);
                let bound = BTreeSet::from([ROOT]);
                let view = self.world.volumes[volume].view;
                self.world.current = self.world.volumes.len();
                let effect = Effect::Unclear;
                self.world.volumes.push(Volume {
                    view: new_view,
                    name: new_name.clone(),
                    fs,
                    bound,
                    effect,
                    had_orphans: false,
                });
                self.main(Call::Fork { view, name, new_view, new_name }, Expect::Done);
            }
            Op::Switch { volume } => self.world.current = usize::from(volume) % self.world.volumes.len(),
            Op::Rollback { snapshot } => {
                let current = self.world.current;
                let index = self.snapshot(snapshot, |snapshot| snapshot.volume == current)?;
                let Snapshot { name, fs, .. } = self.world.snapshots[index].clone();
                self.world.unmount(current);
                let volume = self.volume();
                volume.fs = fs;
                volume.effect = Effect::Unclear;
                self.main(Call::Rollback { view, name }, Expect::Done);
            }
            Op::Diff { snapshot, with } => {
                let from = self.snapshot(snapshot, |_| true)?;
                let from = &self.world.snapshots[from];
                let volume = &self.world.volumes[from.volume];
                let (to, fs) = if with % 2 == 0 {
                    (Other::Head {}, &volume.fs)
                } else {
                    let to = &self.world.snapshots[self.snapshot(with / 2, |_| true)?];
                    let view = self.world.volumes[to.volume].view;
                    (Other::Snapshot { view, name: to.name.clone() }, &to.fs)
                };
                let expect = Expect::Diff(differences(&from.fs, fs));
                let call = Call::Diff { view: volume.view, name: from.name.clone(), to };
                self.main(call, expect);
            }
            Op::Remount | Op::Kill { .. } => {
                self.world.unmount_all();
                self.main(Call::Remount {}, Expect::Done);
            }
            Op::Reclaim => self.main(Call::Reclaim {}, Expect::Done),
            _ => return None,
        }
        Some(())
    }

    /// Removes a volume that is not the current one, with its snapshots; what was forked from them stays.
    fn remove_volume(&mut self, n: u16) -> Option<()> {
        let world = &mut *self.world;
        let count = world.volumes.len();
        let index = usize::from(n) % count;
        if index == world.current {
            return None;
        }
        let view = world.volumes.remove(index).view;
        let after = |volume: &mut usize| *volume -= usize::from(*volume > index);
        after(&mut world.current);
        world.snapshots.retain(|snapshot| snapshot.volume != index);
        world.snapshots.iter_mut().for_each(|snapshot| after(&mut snapshot.volume));
        world.cursors.retain(|cursor| cursor.volume != index);
        world.cursors.iter_mut().for_each(|cursor| after(&mut cursor.volume));
        self.main(Call::RemoveVolume { view }, Expect::Done);
        Some(())
    }

    fn snapshot(&self, n: u16, wanted: impl Fn(&Snapshot) -> bool) -> Option<usize> {
        let snapshots = &self.world.snapshots;
        let matching: Vec<usize> = (0..snapshots.len()).filter(|&index| wanted(&snapshots[index])).collect();
        (!matching.is_empty()).then(|| matching[usize::from(n) % matching.len()])
    }
}
