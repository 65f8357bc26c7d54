//! The model of everything a sequence can reach: volumes, their snapshots, and the references held.
//!
//! Operations are planned in `plan.rs`; what is planned here are the comparisons of whole trees.
//!
//! # Invariants
//! - Planning depends on nothing but the operations before: not on answers, not on time. So a
//!   world can be cloned, put aside, and taken up again where a kill cut the sequence.
//! - At most one call of an operation changes anything, and it is marked [`Step::main`].

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

use crate::clock::Clock;
use crate::content::Content;
use crate::expect::Expect;
use crate::reference::{Effect, Fs, Id, Name};
use crate::walk::Walk;
use crate::wire::{Bytes, Call, Owner, ROOT, View};

/// One call and what its answer must be.
#[derive(Clone, Debug)]
pub(crate) struct Step {
    pub(crate) call: Call,
    pub(crate) expect: Expect,
    /// The call that carries out the operation; the others only prepare and look.
    pub(crate) main: bool,
}

/// A volume and what is open of it.
#[derive(Clone)]
pub(crate) struct Volume {
    pub(crate) view: View,
    pub(crate) name: String,
    pub(crate) fs: Fs,
    /// Nodes that the executor holds references to.
    pub(crate) bound: BTreeSet<Id>,
    /// What happened since the last cut.
    pub(crate) effect: Effect,
    /// Something lost its last name at some time: what changed of it counts as a change as long as it is there, and after a remount it is not.
    pub(crate) had_orphans: bool,
}

/// A snapshot.
#[derive(Clone)]
pub(crate) struct Snapshot {
    /// The volume it was made of.
    pub(crate) volume: usize,
    pub(crate) name: String,
    pub(crate) fs: Fs,
}

/// A listing that is under way.
#[derive(Clone)]
pub(crate) struct Cursor {
    pub(crate) number: u32,
    pub(crate) volume: usize,
    pub(crate) dir: Id,
    /// What was there when it opened and has not been touched since.
    pub(crate) must: BTreeMap<Name, Id>,
    /// All that was there at any time since.
    pub(crate) may: BTreeSet<Name>,
}

/// Everything the model knows.
#[derive(Clone)]
pub(crate) struct World {
    pub(crate) prefix: String,
    pub(crate) volumes: Vec<Volume>,
    pub(crate) snapshots: Vec<Snapshot>,
    pub(crate) clock: Clock,
    /// The volume that operations go to.
    pub(crate) current: usize,
    pub(crate) cursors: Vec<Cursor>,
    pub(crate) next_id: Id,
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

    /// Lets the cursors know what their directories hold now.
    pub(crate) fn track_cursors(&mut self) {
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

    /// Forgets every reference to one volume.
    pub(crate) fn unmount(&mut self, index: usize) {
        let volume = &mut self.volumes[index];
        volume.bound = BTreeSet::from([ROOT]);
        volume.had_orphans |= volume.fs.drop_unheld(|_| false);
        if volume.had_orphans && volume.effect == Effect::Changed {
            volume.effect = Effect::Unclear;
        }
        self.cursors.retain(|cursor| cursor.volume != index);
    }

    /// Takes over what another course of the same events leaves in doubt.
    pub(crate) fn doubt(&mut self, other: &World) {
        for volume in &mut self.volumes {
            let other = other.volumes.iter().find(|other| other.view == volume.view);
            if other.is_none_or(|other| other.effect != volume.effect) {
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
            Walk::head(volume).plan(steps);
        }
    }

    /// Plans a comparison of the one volume there is where nothing but files can be asked for.
    pub(crate) fn plan_check_files(&self, steps: &mut Vec<Step>) {
        Walk::head(&self.volumes[0]).plan(steps);
    }

    /// Plans a comparison of every snapshot.
    pub(crate) fn plan_check_snapshots(&mut self, steps: &mut Vec<Step>) {
        for index in 0..self.snapshots.len() {
            self.plan_check_snapshot(index, steps);
        }
    }

    /// Plans a comparison of one snapshot, opened as a view of its own.
    pub(crate) fn plan_check_snapshot(&mut self, index: usize, steps: &mut Vec<Step>) {
        let view = self.number();
        let snapshot = &self.snapshots[index];
        let of = self.volumes[snapshot.volume].view;
        push(steps, Call::OpenSnapshot { view, of, name: snapshot.name.clone() }, Expect::Done);
        Walk::snapshot(view, of, &snapshot.fs).plan(steps);
        push(steps, make_a_file(view, ROOT), Expect::Fails(libc::EROFS));
        push(steps, Call::CloseView { view }, Expect::Done);
    }

    /// Plans a comparison of one snapshot as it shows in the hidden directory of its volume's mount.
    pub(crate) fn plan_browse(&mut self, index: usize, steps: &mut Vec<Step>) {
        let Snapshot { volume, name, fs } = &self.snapshots[index];
        let view = self.volumes[*volume].view;
        let hidden = Call::Lookup { view, parent: ROOT, name: Bytes::from(".snapshots"), bind: HIDDEN };
        push(steps, hidden, Expect::Anything);
        let root = BROWSED + ROOT;
        let lookup = Call::Lookup { view, parent: HIDDEN, name: Bytes::from(name.as_str()), bind: root };
        push(steps, lookup, Expect::Anything);
        Walk::browse(view, BROWSED, fs).plan(steps);
        push(steps, make_a_file(view, root), Expect::Fails(libc::EROFS));
        for node in [root, HIDDEN] {
            push(steps, Call::Forget { view, node }, Expect::Done);
        }
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
        let (view, node, at, len, inode) = match *call {
            Call::Write { view, node, at, ref fill, .. } => {
                (view, node, at, u64::from(fill.len), InodeOfTorn::Times)
            }
            Call::Fallocate { view, node, at, len, .. } => (view, node, at, len, InodeOfTorn::Untouched),
            Call::CopyRange { view, to, to_at, len, .. } => (view, to, to_at, len, InodeOfTorn::Steps),
            _ => return None,
        };
        let volume = self.volumes.iter().position(|volume| volume.view == view)?;
        let path = self.volumes[volume].fs.path_to(node)?;
        for (parent, name, child) in path {
            push(steps, Call::Lookup { view, parent, name: Bytes(name), bind: child }, Expect::Anything);
        }
        push(steps, Call::Read { view, node, at, len: len as u32 }, Expect::Anything);
        Some(Torn { volume, node, at, inode })
    }

    /// Returns the worlds that an interrupted write between this one and `after` may have left, if each byte that is there is what
    /// it was or what `after` has.
    pub(crate) fn torn_towards(&self, after: &World, torn: &Torn, bytes: &[u8]) -> Vec<World> {
        let (before_file, after_file) = (self.file_of(torn), after.file_of(torn));
        let length = bytes.len() as u64;
        let (old, new) = (before_file.read(torn.at, length), after_file.read(torn.at, length));
        let fits = bytes
            .iter()
            .enumerate()
            .all(|(index, byte)| old.get(index) == Some(byte) || new.get(index) == Some(byte));
        let (before_size, after_size) = (before_file.size(), after_file.size());
        let size = if bytes.is_empty() { before_size } else { before_size.max(torn.at + length) };
        let inode_too = size <= after_size
            && match torn.inode {
                InodeOfTorn::Untouched => false,
                InodeOfTorn::Times => before_size == after_size,
                InodeOfTorn::Steps => true,
            };
        let untouched = size == before_size;
        let worlds = untouched.then_some(self).into_iter().chain(inode_too.then_some(after));
        let with_bytes = |world: &World| {
            let mut world = world.clone();
            let file = world.volumes[torn.volume].fs.content_mut(torn.node);
            file.truncate(size);
            file.write(torn.at, bytes);
            world
        };
        if fits { worlds.map(with_bytes).collect() } else { Vec::new() }
    }

    fn file_of(&self, torn: &Torn) -> &Content {
        self.volumes[torn.volume].fs.content(torn.node)
    }

    /// Returns a number that was not used yet.
    pub(crate) fn number(&mut self) -> u32 {
        self.next_number += 1;
        self.next_number
    }
}

/// Slots of what is looked at below `.snapshots`, beyond those of any sequence.
const HIDDEN: Id = 1 << 30;
const BROWSED: Id = HIDDEN + 1;

fn make_a_file(view: View, parent: Id) -> Call {
    let (mode, name) = (libc::S_IFREG | 0o644, Bytes::from("new in a snapshot"));
    let owner = Owner { uid: 0, gid: 0 };
    Call::Make { view, parent, name, mode, umask: 0, rdev: 0, owner, bind: BROWSED }
}

/// Where an interrupted write may have left old and new bytes side by side.
pub(crate) struct Torn {
    volume: usize,
    node: Id,
    at: u64,
    inode: InodeOfTorn,
}

/// What an interrupted write may have changed of the inode, beside bytes.
enum InodeOfTorn {
    /// Nothing.
    Untouched,
    /// Where it leaves the size as it is, the inode's record is written before the bytes.
    Times,
    /// It is made of steps, each of which counts.
    Steps,
}

/// Appends a call that only prepares or looks.
pub(crate) fn push(steps: &mut Vec<Step>, call: Call, expect: Expect) {
    steps.push(Step { call, expect, main: false });
}
