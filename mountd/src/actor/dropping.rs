//! Letting go of captures that nobody needs any more.
//!
//! # Crash consistency
//! In the batch that makes a capture needless its snapshots move to its list of what is dropped; they go after that, and the record
//! or the list with the last of them. What a death leaves is dropped at the next start.

use durdir_fs::ids::CaptureId;
use durdir_fs::store::{ActorChange, Durability, Receipt};

use super::capture::published_name;
use super::driver::Driver;
use super::record::{Capture, Checkpoint, captured};
use super::registry::Actors;
use super::restore::gone_is_fine;
use super::state::{CaptureKind, Held};
use crate::api::ApiError;
use crate::exit::one_line;

impl Driver<'_> {
    /// Returns what becomes of the capture of a checkpoint that is replaced: it is dropped, or, if it is committed, the
    /// part that only this actor goes on from.
    pub(super) fn released(
        &self,
        replaced: &Checkpoint,
        by: CaptureId,
    ) -> Option<(CaptureId, Option<Capture>)> {
        let mut capture = self.actors.capture(replaced.capture)?;
        let is_own = capture.document.actor == self.actor.id;
        if !is_own || capture.id == by || capture.document.kind == CaptureKind::Birth {
            return None;
        }
        capture.document.replaced = true;
        capture.document.dropping = replaced.volumes.clone();
        capture.snapshots = captured(&capture.document.published);
        Some((capture.id, Some(capture)))
    }

    /// Removes the snapshots and files that are to be dropped. What cannot go now goes later.
    pub(super) fn finish_dropping(&mut self, reach: Reach) {
        let id = self.actor.id.clone();
        if let Err(error) = self.actors.finish_dropping_of(&id, reach) {
            tracing::warn!(actor = id, error = one_line(&error), "a capture that nobody needs stays for now");
        }
    }
}

/// How far whoever drops something goes for it.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Reach {
    /// What is on this node.
    Node,
    /// To the places that commits go to as well, which may be slow to answer.
    Places,
}

impl Actors {
    /// Drops what is to be dropped of an actor's captures.
    pub(super) fn finish_dropping_of(&self, actor: &str, reach: Reach) -> Result<(), ApiError> {
        let ending = self.captures_of(actor, is_ending);
        let mut failed = None;
        for capture in ending {
            // One that somebody looks at keeps no other.
            failed = self.finish_dropping_one(actor, capture, reach).err().or(failed);
        }
        failed.map_or(Ok(()), Err)
    }

    /// Tells whether anything of an actor's captures is to be dropped.
    pub(super) fn has_to_drop(&self, actor: &str) -> bool {
        !self.captures_of(actor, is_ending).is_empty()
    }

    fn finish_dropping_one(&self, actor: &str, mut capture: Capture, reach: Reach) -> Result<(), ApiError> {
        let (id, over) = (capture.id, is_over(&capture));
        if over && capture.document.kind.is_committed() {
            // It was to be published.
            self.drop_published(id, capture.document.dropping.iter().map(|held| held.name.as_str()))?;
        }
        self.drop_snapshots(&capture.document.dropping, Some(id))?;
        capture.document.dropping.clear();
        if over {
            // A host that loses power must not remember an actor that still stands on it.
            self.store.sync_records()?;
            self.directory.of(actor).capture(id).remove()?;
        }
        let mut failed = None;
        if reach == Reach::Places
            && let Some(place) = capture.document.withdrawing.take()
            && let Err(error) = self.withdraw(id, &place)
        {
            capture.document.withdrawing = Some(place);
            failed = Some(error);
        }
        let is_gone = over && capture.document.withdrawing.is_none();
        let left = (!is_gone).then_some(capture);
        let record = left.as_ref().map(Capture::encode);
        let change = ActorChange { actors: Vec::new(), captures: vec![(id, record.as_ref())] };
        self.store.change_actors(&change, Durability::Process, Receipt::none(), &())?;
        self.show_capture(id, left);
        failed.map_or(Ok(()), Err)
    }

    /// Takes away what was brought to a place.
    fn withdraw(&self, id: CaptureId, place: &str) -> Result<(), ApiError> {
        let target = self.world.target(place)?;
        Ok(self.at_place(id, 0, move || target.withdraw(&id.to_string()))?)
    }

    /// Removes the volumes that were to stand for a capture once it is committed.
    pub(super) fn drop_published<'a>(
        &self,
        id: CaptureId,
        volumes: impl Iterator<Item = &'a str>,
    ) -> Result<(), ApiError> {
        for volume in volumes {
            gone_is_fine(self.store.remove_volume(&published_name(id, volume), Receipt::none()))?;
        }
        Ok(())
    }

    /// Removes snapshots that were made for captures, unless another capture than `but` has them too.
    fn drop_snapshots(&self, held: &[Held], but: Option<CaptureId>) -> Result<(), ApiError> {
        for held in held.iter().filter(|held| held.owned && !self.is_held(held, but)) {
            let Some(snapshot) = self.store.snapshot_at(held.volume, held.epoch) else { continue };
            // Somebody has given it a name since: nothing had changed, and so it is what was asked for.
            if self.store.has_name(held.volume, held.epoch) {
                continue;
            }
            gone_is_fine(self.store.remove_snapshots(&[&snapshot], Receipt::none()))?;
        }
        Ok(())
    }

    /// Removes directories of captures that no record knows, and those of which everything is where commits go.
    pub(super) fn sweep_captures_of(&self, actor: &str) -> Result<(), ApiError> {
        let directory = self.directory.of(actor);
        for name in directory.list_captures()? {
            let id = super::names::parse_capture_id(&name);
            if let Some(id) = id.filter(|id| !self.has_files(*id)) {
                tracing::info!(actor, capture = name, "removed what was left of a capture");
                directory.capture(id).remove()?;
            }
        }
        Ok(())
    }
}

/// Tells whether anything of a capture is to be dropped.
fn is_ending(capture: &Capture) -> bool {
    !capture.document.dropping.is_empty() || is_over(capture)
}

/// Tells whether nothing is left of a capture that was replaced.
fn is_over(capture: &Capture) -> bool {
    capture.document.replaced && !capture.is_committed()
}
