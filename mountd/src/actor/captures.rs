//! The captures of a node, and who holds what: found at once, however many there are. A cut asks while programs stand still.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use durdir_fs::ids::{CaptureId, Epoch, VolumeId};
use durdir_fs::store::record::CapturedV1;

use super::capture::published_name;
use super::record::Capture;

/// The end of an epoch of a volume.
type End = (VolumeId, Epoch);

/// Captures by what they are asked for.
#[derive(Default)]
pub(super) struct Captures {
    all: BTreeMap<CaptureId, Capture>,
    of_actors: HashMap<String, BTreeSet<CaptureId>>,
    holders: HashMap<End, BTreeSet<CaptureId>>,
    /// The volumes that stand for committed ones.
    published: HashMap<VolumeId, CaptureId>,
    /// Those whose records could not be read, and the snapshots that they need as far as that is known: they are left alone.
    unreadable: HashMap<CaptureId, Vec<CapturedV1>>,
}

impl Captures {
    /// Takes a capture in as it was just stored, in the place of what it was.
    pub(super) fn insert(&mut self, capture: Capture) {
        let id = capture.id;
        self.remove(id);
        self.of_actors.entry(capture.document.actor.clone()).or_default().insert(id);
        for held in &capture.snapshots {
            self.holders.entry((held.volume, held.epoch)).or_default().insert(id);
        }
        self.published.extend(capture.document.published.iter().map(|held| (held.volume, id)));
        self.all.insert(id, capture);
    }

    /// Forgets one that is not stored any more.
    pub(super) fn remove(&mut self, id: CaptureId) {
        let Some(capture) = self.all.remove(&id) else { return };
        forget(&mut self.of_actors, &capture.document.actor, id);
        for held in &capture.snapshots {
            forget(&mut self.holders, &(held.volume, held.epoch), id);
        }
        for held in &capture.document.published {
            self.published.remove(&held.volume);
        }
    }

    /// Takes note of one that cannot be read.
    pub(super) fn insert_unreadable(&mut self, id: CaptureId, snapshots: Vec<CapturedV1>) {
        self.unreadable.insert(id, snapshots);
    }

    pub(super) fn get(&self, id: CaptureId) -> Option<&Capture> {
        self.all.get(&id)
    }

    pub(super) fn is_unreadable(&self, id: CaptureId) -> bool {
        self.unreadable.contains_key(&id)
    }

    /// Returns those of an actor, which may be gone.
    pub(super) fn of(&self, actor: &str) -> impl Iterator<Item = &Capture> {
        self.of_actors.get(actor).into_iter().flatten().filter_map(|id| self.all.get(id))
    }

    /// Returns those that need the end of an epoch.
    pub(super) fn holding(&self, end: End) -> impl Iterator<Item = &Capture> {
        self.holders.get(&end).into_iter().flatten().filter_map(|id| self.all.get(id))
    }

    /// Tells whether one that cannot be read needs the end of an epoch.
    pub(super) fn is_held_by_unreadable(&self, (volume, epoch): End) -> bool {
        self.unreadable.values().flatten().any(|held| held.volume == volume && held.epoch == epoch)
    }

    /// Tells whether a volume stands for a committed capture, or is going to.
    pub(super) fn is_published(&self, name: &str, volume: VolumeId) -> bool {
        let becomes = |capture: &Capture| {
            let document = &capture.document;
            document.kind.is_committed() && !document.replaced && document.location.is_none()
        };
        self.published.contains_key(&volume) || self.named_in(name).is_some_and(becomes)
    }

    /// Returns the capture that the name of a volume is made of.
    fn named_in(&self, volume: &str) -> Option<&Capture> {
        let id = super::capture::capture_in_name(volume)?;
        self.all.get(&id).filter(|_| volume.starts_with(&published_name(id, "")))
    }

    #[cfg(test)]
    pub(super) fn all(&self) -> impl Iterator<Item = &Capture> {
        self.all.values()
    }
}

fn forget<K: std::hash::Hash + Eq>(ids: &mut HashMap<K, BTreeSet<CaptureId>>, key: &K, id: CaptureId) {
    if let Some(of_key) = ids.get_mut(key) {
        of_key.remove(&id);
        if of_key.is_empty() {
            ids.remove(key);
        }
    }
}

#[cfg(test)]
mod tests {
    use durdir_fs::attr::Timestamp;

    use super::*;
    use crate::actor::record::CaptureDocument;
    use crate::actor::state::{CaptureKind, Held};
    use crate::template::Scope;

    fn capture(id: u8, actor: &str, ends: &[u64]) -> Capture {
        let document = CaptureDocument::of(actor, CaptureKind::Suspend, Scope::Data);
        let held = |&epoch: &u64| CapturedV1 { volume: VolumeId(1), epoch: Epoch(epoch), owned: true };
        let snapshots = ends.iter().map(held).collect();
        Capture { id: CaptureId([id; 16]), created: Timestamp::default(), snapshots, document }
    }

    #[test]
    fn what_is_stored_again_is_found_by_what_it_is_now() {
        let mut captures = Captures::default();
        captures.insert(capture(1, "a", &[4, 5]));
        captures.insert(capture(2, "b", &[5]));
        let holding = |captures: &Captures, epoch| {
            captures.holding((VolumeId(1), Epoch(epoch))).map(|capture| capture.id.0[0]).collect::<Vec<_>>()
        };
        assert_eq!((holding(&captures, 4), holding(&captures, 5)), (vec![1], vec![1, 2]));
        captures.insert(capture(1, "a", &[6]));
        assert_eq!(
            (holding(&captures, 4), holding(&captures, 5), holding(&captures, 6)),
            (vec![], vec![2], vec![1])
        );
        assert_eq!(captures.of("a").count(), 1);
        captures.remove(CaptureId([1; 16]));
        assert_eq!((captures.of("a").count(), holding(&captures, 6).len()), (0, 0));
        captures.remove(CaptureId([2; 16]));
        assert!(captures.holders.is_empty() && captures.of_actors.is_empty());
    }

    #[test]
    fn a_volume_stands_for_a_capture_from_its_name_on() {
        let mut captures = Captures::default();
        let mut own = capture(1, "a", &[]);
        let name = published_name(own.id, "home");
        assert!(!captures.is_published(&name, VolumeId(9)));
        captures.insert(own.clone());
        assert!(captures.is_published(&name, VolumeId(9)) && !captures.is_published("home", VolumeId(9)));
        own.document.location = Some("file:///x".to_owned());
        own.document.published =
            vec![Held { name: "home".to_owned(), volume: VolumeId(9), epoch: Epoch(1), owned: true }];
        captures.insert(own.clone());
        assert!(captures.is_published("renamed", VolumeId(9)) && !captures.is_published(&name, VolumeId(8)));
        captures.remove(own.id);
        assert!(!captures.is_published(&name, VolumeId(9)));
    }
}
