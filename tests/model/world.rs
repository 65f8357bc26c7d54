//! The model of everything a sequence can reach: volumes, their snapshots, the references held, and the plan
//! that turns an operation into calls with the answers they must get.
//!
//! # Invariants
//! - Planning depends on nothing but the operations before: not on answers, not on time. So a
//!   world can be cloned, put aside, and taken up again where a kill cut the sequence.
//! - At most one call of an operation changes anything, and it is marked [`Step::main`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

use crate::clock::Clock;
use crate::expect::{Differences, Expect, Shown};
use crate::op::{At, Op, Pick, When, pool_name, xattr_name};
use crate::reference::{Body, Effect, Errno, Fs, Id, Name, Node};
use crate::wire::{Bytes, Call, DeltaKind, Fill, Other, Owner, ROOT, Set, SetTime, Stamp, View};

/// One call and what its answer must be.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) call: Call,
    pub(crate) expect: Expect,
    /// The call that carries out the operation; the others only prepare and look.
    pub(crate) main: bool,
}

const KEEP_ALL: Set = Set { perm: None, uid: None, gid: None, size: None, atime: None, mtime: None };

/// More than this of either and the comparison of everything takes longer than the operations.
const MAX_VOLUMES: usize = 5;
const MAX_SNAPSHOTS: usize = 10;

#[derive(Clone)]
pub(crate) struct Volume {
    pub(crate) view: View,
    pub(crate) name: String,
    pub(crate) fs: Fs,
    /// Nodes that the executor holds references to.
    bound: BTreeSet<Id>,
    /// What happened since the last cut.
    effect: Effect,
    /// Something lost its last name at some time: removing it later may count as a change after a remount.
    had_orphans: bool,
}

#[derive(Clone)]
pub(crate) struct Snapshot {
    /// The volume it was made of.
    volume: usize,
    name: String,
    fs: Fs,
}

#[derive(Clone)]
struct Cursor {
    number: u32,
    volume: usize,
    dir: Id,
    /// What was there when it opened and has not been touched since.
    must: BTreeMap<Name, Id>,
    /// All that was there at any time since.
    may: BTreeSet<Name>,
}

/// Everything the model knows.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) prefix: String,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) clock: Clock,
    current: usize,
    cursors: Vec<Cursor>,
    next_id: Id,
    next_number: u32,
}

impl World {
    /// Starts with one volume that shows `load`; plans its creation.
    pub(crate) fn new(
        prefix: &str,
        lowers: &[PathBuf],
        load: impl FnOnce(&mut Clock, &mut Id) -> Fs,
        steps: &mut Vec<Step>,
    ) -> World {
        let mut clock = Clock::default();
        let mut next_id = ROOT + 1;
        let fs = load(&mut clock, &mut next_id);
        let volume = Volume {
            view: 1,
            name: format!("{prefix}-0"),
            fs,
            bound: BTreeSet::from([ROOT]),
            effect: Effect::Unclear,
            had_orphans: false,
        };
        let lowers = lowers.iter().map(|path| Bytes::from(path.as_os_str().as_encoded_bytes())).collect();
        let call = Call::CreateVolume { view: volume.view, name: volume.name.clone(), lowers };
        steps.push(Step { call, expect: Expect::Done, main: true });
        World {
            prefix: prefix.to_owned(),
            volumes: vec![volume],
            snapshots: Vec::new(),
            clock,
            current: 0,
            cursors: Vec::new(),
            next_id,
            next_number: 100,
        }
    }

    /// Carries an operation out on the model and appends the calls that do the same.
    pub(crate) fn plan(&mut self, op: &Op, steps: &mut Vec<Step>) {
        let mut plan = Plan { world: self, steps };
        // `None`: there is nothing the operation could be done to.
        let _: Option<()> = plan.op(op);
        self.track_cursors();
    }

    fn track_cursors(&mut self) {
        for cursor in &mut self.cursors {
            let fs = &self.volumes[cursor.volume].fs;
            let now = fs.entries(cursor.dir);
            cursor.must.retain(|name, id| now.get(name) == Some(id));
            cursor.may.extend(now.keys().cloned());
        }
    }

    /// Forgets every reference, as an unmount does, and so every orphan.
    pub(crate) fn unmount_all(&mut self) {
        for index in 0..self.volumes.len() {
            self.unmount(index);
        }
    }

    fn unmount(&mut self, index: usize) {
        let volume = &mut self.volumes[index];
        volume.bound = BTreeSet::from([ROOT]);
        volume.had_orphans |= volume.fs.drop_unheld(|_| false);
        if volume.had_orphans && volume.effect == Effect::Nothing {
            volume.effect = Effect::Unclear;
        }
        self.cursors.retain(|cursor| cursor.volume != index);
    }

    /// Takes over what another course of the same events leaves in doubt.
    pub(crate) fn doubt(&mut self, other: &World) {
        for (volume, other) in self.volumes.iter_mut().zip(&other.volumes) {
            if volume.effect != other.effect {
                volume.effect = Effect::Unclear;
            }
        }
    }

    /// Plans a comparison of every volume and of the lists of snapshots.
    pub(crate) fn plan_check_heads(&self, steps: &mut Vec<Step>) {
        let names = self.volumes.iter().map(|volume| Bytes::from(volume.name.as_str())).collect();
        push(steps, Call::Volumes { prefix: format!("{}-", self.prefix) }, Expect::Names(names));
        for (index, volume) in self.volumes.iter().enumerate() {
            let names = self
                .snapshots
                .iter()
                .filter(|snapshot| snapshot.volume == index)
                .map(|snapshot| Bytes::from(snapshot.name.as_str()))
                .collect();
            push(steps, Call::Snapshots { view: volume.view }, Expect::Names(names));
            self.plan_check_tree(volume.view, volume.view, &volume.fs, &volume.bound, steps);
        }
    }

    /// Plans a comparison of the one volume there is where nothing but files can be asked for.
    pub(crate) fn plan_check_files(&self, steps: &mut Vec<Step>) {
        let volume = &self.volumes[0];
        self.plan_check_tree(volume.view, volume.view, &volume.fs, &volume.bound, steps);
    }

    /// Plans a comparison of every snapshot.
    pub(crate) fn plan_check_snapshots(&mut self, steps: &mut Vec<Step>) {
        for index in 0..self.snapshots.len() {
            self.plan_check_snapshot(index, steps);
        }
    }

    fn plan_check_snapshot(&mut self, index: usize, steps: &mut Vec<Step>) {
        let view = self.number();
        let snapshot = &self.snapshots[index];
        let of = self.volumes[snapshot.volume].view;
        push(steps, Call::OpenSnapshot { view, of, name: snapshot.name.clone() }, Expect::Done);
        self.plan_check_tree(view, of, &snapshot.fs, &BTreeSet::from([ROOT]), steps);
        let owner = Owner { uid: 0, gid: 0 };
        let (mode, name) = (libc::S_IFREG | 0o644, Bytes::from("new in a snapshot"));
        let make = Call::Make { view, parent: ROOT, name, mode, umask: 0, rdev: 0, owner, bind: 2 };
        push(steps, make, Expect::Fails(libc::EROFS));
        push(steps, Call::CloseView { view }, Expect::Done);
    }

    /// Plans the removal of everything, snapshots before volumes for one half of them.
    pub(crate) fn plan_cleanup(&mut self, steps: &mut Vec<Step>) {
        for (index, snapshot) in self.snapshots.drain(..).enumerate() {
            if index % 2 == 0 {
                let view = self.volumes[snapshot.volume].view;
                push(steps, Call::RemoveSnapshot { view, name: snapshot.name }, Expect::Done);
            }
        }
        for volume in self.volumes.drain(..) {
            push(steps, Call::RemoveVolume { view: volume.view }, Expect::Done);
        }
        push(steps, Call::Volumes { prefix: format!("{}-", self.prefix) }, Expect::Names(BTreeSet::new()));
    }

    /// Plans what reads back the bytes that an interrupted call may have left half-written.
    pub(crate) fn plan_torn(&self, call: &Call, steps: &mut Vec<Step>) -> Option<Torn> {
        let (view, node, at, len) = match *call {
            Call::Write { view, node, at, ref fill, .. } => (view, node, at, u64::from(fill.len)),
            Call::Fallocate { view, node, at, len, .. } => (view, node, at, len),
            Call::CopyRange { view, to, to_at, len, .. } => (view, to, to_at, len),
            _ => return None,
        };
        let volume = self.volumes.iter().position(|volume| volume.view == view)?;
        let path = self.volumes[volume].fs.path_to(node)?;
        for (parent, name, child) in path {
            push(steps, Call::Lookup { view, parent, name: Bytes(name), bind: child }, Expect::Anything);
        }
        push(steps, Call::Read { view, node, at, len: len as u32 }, Expect::Anything);
        Some(Torn { volume, node, at })
    }

    /// Takes the bytes that are there, if each is what it was or what `after` has.
    pub(crate) fn adopt_torn(&mut self, torn: &Torn, after: &World, bytes: &[u8]) -> bool {
        let old = self.volumes[torn.volume].fs.content(torn.node).read(torn.at, bytes.len() as u64);
        let new = after.volumes[torn.volume].fs.content(torn.node).read(torn.at, bytes.len() as u64);
        let fits = old.len() == bytes.len()
            && bytes
                .iter()
                .enumerate()
                .all(|(index, byte)| *byte == old[index] || new.get(index) == Some(byte));
        if fits {
            self.volumes[torn.volume].fs.content_mut(torn.node).write(torn.at, bytes);
        }
        fits
    }

    fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }
}

/// Where an interrupted write may have left old and new bytes side by side.
pub(crate) struct Torn {
    volume: usize,
    node: Id,
    at: u64,
}

pub(crate) fn push(steps: &mut Vec<Step>, call: Call, expect: Expect) {
    steps.push(Step { call, expect, main: false });
}
