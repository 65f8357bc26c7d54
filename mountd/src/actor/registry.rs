//! The actors of a node, and who may work on which.
//!
//! # Invariants
//! - Whoever works on an actor has its [`Turn`]; there is one. Everybody else sees it as it was stored last.
//! - What is here is what the store says: a change is written first, then made here.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use durdir_fs::ids::{CaptureId, Epoch, VolumeId};
use durdir_fs::store::{Listed, Store};
use parking_lot::{Condvar, Mutex};

use super::captures::Captures;
use super::directory::ActorsDirectory;
use super::error::ActorError;
use super::names;
use super::queue::{InHand, Verdict, decide};
use super::record::{Actor, Capture};
use super::state::{Held, OperationKind, Standing};
use super::world::World;
use crate::api::ApiError;
use crate::exit::one_line;
use crate::template::Scope;

/// The actors of a node.
pub(crate) struct Actors {
    pub(super) store: Arc<Store>,
    pub(super) world: Box<dyn World>,
    pub(super) directory: ActorsDirectory,
    slots: Mutex<BTreeMap<String, Arc<Slot>>>,
    captures: Mutex<Captures>,
    /// Records that could not be read: their names stay taken.
    unreadable: BTreeSet<String>,
    /// Held while an actor is made.
    pub(super) creating: Mutex<()>,
    /// Whether mountd is about to end.
    closed: AtomicBool,
}

struct Slot {
    inner: Mutex<Inner>,
    ended: Condvar,
}

struct Inner {
    actor: Actor,
    in_hand: Option<InHand>,
    removed: bool,
    settled: Settled,
}

/// Whether an actor is where its record says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Settled {
    /// As far as anybody knows.
    Yes,
    /// Something is left to be taken away, or to go on.
    No,
}

/// An actor that something may have to be done about.
pub(super) struct Attended {
    pub(super) actor: Actor,
    pub(super) settled: Settled,
    /// Whether somebody works on it.
    pub(super) busy: bool,
}

impl Inner {
    fn new(actor: Actor, in_hand: Option<InHand>) -> Inner {
        Inner { actor, in_hand, removed: false, settled: Settled::Yes }
    }
}

/// In which way a turn is taken.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Claim {
    /// For a request that comes the first time.
    First,
    /// For one that came before: what was in hand then is waited for, whoever goes on with it.
    Again,
    /// By mountd, when it ends. It waits, too.
    AtTheEnd,
}

/// The right to work on an actor.
pub(crate) struct Turn(Arc<Slot>);

impl Turn {
    pub(super) fn actor(&self) -> Actor {
        self.0.inner.lock().actor.clone()
    }

    /// Shows the actor as it was just stored.
    pub(super) fn show(&self, actor: &Actor) {
        self.0.inner.lock().actor = actor.clone();
    }

    /// Makes the turn one of mountd's own, to take away what was left behind: whoever asks for something waits for that.
    pub(super) fn keep_to_tidy(&self) {
        let mut inner = self.0.inner.lock();
        inner.in_hand = Some(InHand::Own);
        inner.settled = Settled::No;
    }

    /// Takes note of whether anything is left to be done that the record does not tell.
    pub(super) fn settle(&self, settled: Settled) {
        self.0.inner.lock().settled = settled;
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        self.0.inner.lock().in_hand = None;
        self.0.ended.notify_all();
    }
}

impl Actors {
    /// Reads all actors. One that cannot be read is reported, and harms no other.
    pub(crate) fn load(store: Arc<Store>, world: Box<dyn World>) -> Result<Actors, ApiError> {
        let Listed { records, unreadable } = store.actors()?;
        let mut slots = BTreeMap::new();
        let mut unreadable: BTreeSet<String> = unreadable.into_iter().collect();
        for (id, record) in records {
            match Actor::decode(&id, &record) {
                Ok(actor) => {
                    let inner = Mutex::new(Inner::new(actor, None));
                    slots.insert(id, Arc::new(Slot { inner, ended: Condvar::new() }));
                }
                Err(error) => {
                    tracing::error!(
                        actor = id,
                        error = one_line(&error),
                        "what is stored of an actor cannot be read"
                    );
                    unreadable.insert(id);
                }
            }
        }
        let Listed { records, unreadable: damaged } = store.captures()?;
        let mut captures = Captures::default();
        damaged.into_iter().for_each(|id| captures.insert_unreadable(id, Vec::new()));
        for (id, record) in records {
            match Capture::decode(id, &record) {
                Ok(capture) => captures.insert(capture),
                Err(error) => {
                    tracing::error!(capture = %id, error = one_line(&error), "what is stored of a capture cannot be read");
                    captures.insert_unreadable(id, record.snapshots);
                }
            }
        }
        let directory = ActorsDirectory::of_store(store.dir());
        Ok(Actors {
            store,
            world,
            directory,
            slots: Mutex::new(slots),
            captures: Mutex::new(captures),
            unreadable,
            creating: Mutex::new(()),
            closed: AtomicBool::new(false),
        })
    }

    /// Returns all actors, as they were stored last.
    pub(crate) fn all(&self) -> Vec<Actor> {
        self.select(|_| true)
    }

    /// Returns the names of those whose records could not be read.
    pub(crate) fn unreadable(&self) -> impl Iterator<Item = &str> {
        self.unreadable.iter().map(String::as_str)
    }

    /// Returns those for which `wanted` holds.
    pub(super) fn select(&self, wanted: impl Fn(&Actor) -> bool) -> Vec<Actor> {
        self.select_slots(|inner| wanted(&inner.actor).then(|| inner.actor.clone()))
    }

    fn select_slots<T>(&self, wanted: impl Fn(&Inner) -> Option<T>) -> Vec<T> {
        let slots: Vec<_> = self.slots.lock().values().cloned().collect();
        slots.iter().filter_map(|slot| wanted(&slot.inner.lock())).collect()
    }

    /// Returns those that something may have to be done about, though nobody asks.
    pub(super) fn to_be_looked_after(&self) -> Vec<Attended> {
        self.select_slots(|Inner { actor, settled, in_hand, .. }| {
            let busy = in_hand.is_some();
            let wanted = *settled == Settled::No
                || busy
                || actor.document.operation.is_some()
                || actor.document.standing == Standing::Running;
            wanted.then(|| Attended { actor: actor.clone(), settled: *settled, busy })
        })
    }

    /// Returns one.
    pub(crate) fn get(&self, id: &str) -> Result<Actor, ActorError> {
        Ok(self.slot(id)?.inner.lock().actor.clone())
    }

    /// Tells whether any actor runs, or something is being done with one.
    pub(crate) fn any_at_work(&self) -> bool {
        let at_work = self.select(|actor| {
            actor.document.operation.is_some() || actor.document.standing == Standing::Running
        });
        !at_work.is_empty()
    }

    /// Refuses while something is being done with an actor.
    pub(crate) fn check_idle(&self, id: &str) -> Result<(), ActorError> {
        match self.get(id)?.document.operation {
            None => Ok(()),
            Some(operation) => Err(ActorError::Busy { id: id.to_owned(), doing: operation.kind() }),
        }
    }

    /// Returns the actor that a volume belongs to.
    pub(crate) fn owner_of_volume(&self, volume: VolumeId) -> Option<String> {
        self.select(|actor| actor.volumes.contains(&volume)).pop().map(|actor| actor.id)
    }

    /// Returns the actor that a capture with this snapshot is of.
    pub(crate) fn owner_of_snapshot(&self, volume: VolumeId, epoch: Epoch) -> Option<String> {
        let captures = self.captures.lock();
        captures.holding((volume, epoch)).next().map(|capture| capture.document.actor.clone())
    }

    /// Tells whether a capture that cannot be read needs a snapshot.
    pub(crate) fn is_held_by_unreadable(&self, volume: VolumeId, epoch: Epoch) -> bool {
        self.captures.lock().is_held_by_unreadable((volume, epoch))
    }

    /// Tells whether a volume stands for a committed capture, or is going to.
    pub(crate) fn is_published(&self, name: &str, volume: VolumeId) -> bool {
        self.captures.lock().is_published(name, volume)
    }

    /// Returns the process that stands for an actor's sandbox, if it runs.
    pub(crate) fn pid_of(&self, actor: &Actor) -> Option<u32> {
        let runs = matches!(actor.document.standing, Standing::Running);
        let runtime = self.world.runtime(actor.recipe.runtime).ok().filter(|_| runs)?;
        runtime.pid(&self.sandbox_of(actor)).ok().flatten()
    }

    /// Returns a capture.
    pub(super) fn capture(&self, id: CaptureId) -> Option<Capture> {
        self.captures.lock().get(id).cloned()
    }

    /// Returns a capture by its name.
    pub(super) fn capture_called(&self, id: &str) -> Result<Capture, ActorError> {
        let found = names::parse_capture_id(id).and_then(|id| self.capture(id));
        found.ok_or_else(|| ActorError::NoCommit { id: id.to_owned() })
    }

    /// Tells whether the files of a capture are in its actor's directory, as far as its record tells.
    pub(super) fn has_files(&self, id: CaptureId) -> bool {
        // One of nothing was not brought anywhere.
        let here = |capture: &Capture| !capture.is_committed() || capture.document.scope == Scope::None;
        let captures = self.captures.lock();
        captures.is_unreadable(id) || captures.get(id).is_some_and(here)
    }

    /// Returns the captures of an actor for which `wanted` holds.
    pub(super) fn captures_of(&self, actor: &str, wanted: impl Fn(&Capture) -> bool) -> Vec<Capture> {
        self.captures.lock().of(actor).filter(|capture| wanted(capture)).cloned().collect()
    }

    /// Returns all captures.
    #[cfg(test)]
    pub(super) fn all_captures(&self) -> Vec<Capture> {
        self.captures.lock().all().cloned().collect()
    }

    /// Tells whether a capture beside `but` needs a snapshot.
    pub(super) fn is_held(&self, held: &Held, but: Option<CaptureId>) -> bool {
        let (end, captures) = ((held.volume, held.epoch), self.captures.lock());
        captures.is_held_by_unreadable(end) || captures.holding(end).any(|capture| Some(capture.id) != but)
    }

    /// Tells whether a snapshot was made for captures.
    pub(super) fn is_owned_by_captures(&self, volume: VolumeId, epoch: Epoch) -> bool {
        let captures = self.captures.lock();
        let mut held = captures.holding((volume, epoch)).flat_map(|capture| &capture.snapshots);
        held.any(|held| held.volume == volume && held.epoch == epoch && held.owned)
    }

    /// Shows a capture as it was just stored.
    pub(super) fn show_capture(&self, id: CaptureId, capture: Option<Capture>) {
        let mut captures = self.captures.lock();
        match capture {
            Some(capture) => captures.insert(capture),
            None => captures.remove(id),
        }
    }

    /// Refuses an id that no actor can have, or that is taken.
    pub(super) fn check_new(&self, id: &str) -> Result<(), ActorError> {
        let is_edge =
            |byte: Option<u8>| byte.is_some_and(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
        let bytes = id.as_bytes();
        let is_label = (1..=63).contains(&bytes.len())
            && is_edge(bytes.first().copied())
            && is_edge(bytes.last().copied())
            && bytes.iter().all(|byte| *byte == b'-' || is_edge(Some(*byte)));
        if !is_label {
            let why = "it must be a DNS label: 1 to 63 lower-case letters, digits and '-', beginning and ending with a letter or digit";
            return Err(ActorError::BadId { id: id.to_owned(), why });
        }
        if self.slots.lock().contains_key(id) || self.unreadable.contains(id) {
            return Err(ActorError::Exists { id: id.to_owned() });
        }
        Ok(())
    }

    /// Makes an actor known that was just stored. Whoever made it works on it.
    pub(super) fn insert(&self, actor: Actor) -> Turn {
        let id = actor.id.clone();
        let inner = Mutex::new(Inner::new(actor, Some(InHand::Asked(OperationKind::Create))));
        let slot = Arc::new(Slot { inner, ended: Condvar::new() });
        self.slots.lock().insert(id, Arc::clone(&slot));
        Turn(slot)
    }

    /// Forgets an actor that is not stored any more.
    pub(super) fn forget(&self, turn: &Turn) {
        let mut inner = turn.0.inner.lock();
        inner.removed = true;
        self.slots.lock().remove(&inner.actor.id);
    }

    /// Nobody gets a turn from now on, but for [`Claim::AtTheEnd`].
    pub(super) fn close(&self) {
        self.closed.store(true, Ordering::SeqCst);
    }

    /// Takes the turn for what was asked for, if that makes sense now.
    pub(super) fn take(&self, id: &str, asked: OperationKind, claim: Claim) -> Result<Turn, ApiError> {
        let slot = self.slot(id)?;
        let again = claim != Claim::First;
        let mut inner = slot.inner.lock();
        loop {
            // Looked at under the lock: who is past this is seen to have the turn.
            if self.closed.load(Ordering::SeqCst) && claim != Claim::AtTheEnd {
                return Err(ApiError::ShuttingDown);
            }
            if inner.removed {
                return Err(ActorError::NotFound { id: id.to_owned() }.into());
            }
            let wait = match decide(&inner.actor.document.standing, inner.in_hand, asked) {
                Verdict::Do => break,
                Verdict::Wait => true,
                Verdict::Busy(_) if again => true,
                Verdict::Busy(doing) => return Err(ActorError::Busy { id: id.to_owned(), doing }.into()),
                // What the actor is now may be what the request has made of it.
                Verdict::Misplaced(_) if again => break,
                Verdict::Misplaced(remedy) => {
                    let state = inner.actor.state();
                    return Err(ActorError::Misplaced { id: id.to_owned(), state, remedy }.into());
                }
            };
            if wait {
                slot.ended.wait(&mut inner);
            }
        }
        inner.in_hand = Some(InHand::Asked(asked));
        drop(inner);
        Ok(Turn(slot))
    }

    /// Takes the turns of all actors that volumes belong to: while they are held nobody captures any of them.
    pub(crate) fn hold_owners(&self, volumes: &[VolumeId]) -> Result<Vec<Turn>, ActorError> {
        let owners: BTreeSet<String> = volumes.iter().filter_map(|id| self.owner_of_volume(*id)).collect();
        // In the order of their names: two of these never wait for each other.
        owners.iter().map(|id| self.hold(id)).collect()
    }

    /// Takes the turn of an actor as soon as mountd does nothing of itself with it.
    pub(super) fn hold(&self, id: &str) -> Result<Turn, ActorError> {
        let slot = self.slot(id)?;
        let mut inner = slot.inner.lock();
        loop {
            match inner.in_hand {
                _ if inner.removed => return Err(ActorError::NotFound { id: id.to_owned() }),
                None => break,
                Some(InHand::Own) => slot.ended.wait(&mut inner),
                Some(InHand::Asked(doing)) => return Err(ActorError::Busy { id: id.to_owned(), doing }),
            }
        }
        inner.in_hand = Some(InHand::Own);
        drop(inner);
        Ok(Turn(slot))
    }

    /// Waits until what the actor of a volume has left mounted is taken away, if it was brought to rest. Returns whether it was.
    pub(crate) fn await_tidied(&self, volume: VolumeId) -> bool {
        let slot = self.owner_of_volume(volume).and_then(|id| self.slot(&id).ok());
        let Some(slot) = slot else { return false };
        let mut inner = slot.inner.lock();
        loop {
            let document = &inner.actor.document;
            // What else mountd does of itself may take as long as a runtime does.
            if document.standing == Standing::Running || document.operation.is_some() {
                return false;
            }
            if inner.removed || inner.in_hand != Some(InHand::Own) {
                return true;
            }
            slot.ended.wait(&mut inner);
        }
    }

    /// Takes the turn for what mountd does of itself, unless somebody has it.
    pub(super) fn try_take_own(&self, id: &str) -> Option<Turn> {
        let slot = self.slot(id).ok()?;
        let mut inner = slot.inner.lock();
        if inner.removed || inner.in_hand.is_some() {
            return None;
        }
        inner.in_hand = Some(InHand::Own);
        drop(inner);
        Some(Turn(slot))
    }

    fn slot(&self, id: &str) -> Result<Arc<Slot>, ActorError> {
        match self.slots.lock().get(id) {
            Some(slot) => Ok(Arc::clone(slot)),
            None if self.unreadable.contains(id) => Err(ActorError::Unreadable { id: id.to_owned() }),
            None => Err(ActorError::NotFound { id: id.to_owned() }),
        }
    }
}
