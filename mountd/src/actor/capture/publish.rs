//! Committed captures: to where they outlive their actor, and back from there.

use durdir_fs::ids::CaptureId;
use durdir_fs::store::{Durability, Receipt};
use durdir_snapshot::{Publication, read_small};

use crate::actor::directory::failed;
use crate::actor::driver::Driver;
use crate::actor::error::ActorError;
use crate::actor::manifest::Manifest;
use crate::actor::record::captured;
use crate::actor::state::{CaptureKind, Capturing, Held};
use crate::api::ApiError;
use crate::template::Scope;

impl Driver<'_> {
    /// Brings a bound capture to its permanent place. Safe to be done again.
    pub(super) fn publish(&mut self, capturing: &Capturing) -> Result<(), ApiError> {
        let id = capturing.id;
        let mut capture = self.actors.capture(id).ok_or(ActorError::NoCommit { id: id.to_string() })?;
        if capturing.scope == Scope::None || capture.is_committed() {
            return Ok(());
        }
        let location = self.actor.recipe.location.clone();
        let target = self.actors.world.target(&location)?;
        let directory = self.actors.directory.of(&self.actor.id).capture(id);
        let path = directory.manifest();
        let manifest = read_small(&path).map_err(|error| failed("read", &path, error))?;
        let files = Manifest::decode(id, &manifest, &capture.document.manifest)?.files;
        let bytes = files.iter().map(|file| file.bytes).sum();
        let names: Vec<String> = files.into_iter().map(|file| file.name).collect();
        let published = self.publish_volumes(capturing)?;
        self.actors.world.step("actor.volumes-published");
        let (called, files) = (id.to_string(), directory.image());
        self.actors.at_place(id, bytes, move || {
            target.publish(Publication { id: &called, manifest: &manifest, files: &files, names: &names })
        })?;
        capture.document.location = Some(location);
        capture.snapshots = match capturing.kind {
            // It is what the actor goes on from, too.
            CaptureKind::Suspend => captured(capturing.cut.iter().chain(&published)),
            CaptureKind::Pause | CaptureKind::Commit | CaptureKind::Birth => captured(&published),
        };
        if capturing.kind != CaptureKind::Suspend {
            capture.document.dropping = capturing.cut.clone();
        }
        capture.document.published = published;
        self.change(vec![(id, Some(capture))], Durability::Disk, Receipt::none(), |_| {})
    }

    /// Makes the volumes that stand for a committed capture, and outlive its actor. O(1) each.
    fn publish_volumes(&self, capturing: &Capturing) -> Result<Vec<Held>, ApiError> {
        let store = &self.actors.store;
        let mut volumes = Vec::new();
        for held in &capturing.cut {
            let name = published_name(capturing.id, &held.name);
            if store.volume(&name).is_err() {
                let snapshot = store.snapshot_at(held.volume, held.epoch);
                let snapshot = snapshot.ok_or_else(|| ActorError::Damaged {
                    id: capturing.id,
                    what: format!("volume {} has no snapshot at epoch {}", held.name, held.epoch),
                })?;
                store.fork(&snapshot, &name, Receipt::none())?;
            }
            volumes.push((held.name.clone(), name));
        }
        if volumes.is_empty() {
            return Ok(Vec::new());
        }
        // Again after a death: nothing was written since, so that the snapshots are the same.
        let mut published = self.cut(published_cut(capturing.id), &volumes)?;
        published.iter_mut().for_each(|held| held.owned = true);
        Ok(published)
    }
}

/// Returns the store's name of the volume that stands for one of a committed capture. No actor's volume has such a name: an
/// underscore is not in a DNS label.
pub(in crate::actor) fn published_name(id: CaptureId, volume: &str) -> String {
    let hex: String = id.0.iter().map(|byte| format!("{byte:02x}")).collect();
    format!("_commit.{hex}.{volume}")
}

/// Returns the id in the name of a volume that is called so.
pub(in crate::actor) fn capture_in_name(volume: &str) -> Option<CaptureId> {
    let (hex, _) = volume.strip_prefix("_commit.")?.split_once('.')?;
    uuid::Uuid::try_parse(hex).ok().map(|id| CaptureId(id.into_bytes()))
}

/// Returns an id for the cut of the published volumes: another one than for that of the actor's.
fn published_cut(id: CaptureId) -> CaptureId {
    let mut bytes = id.0;
    bytes.iter_mut().for_each(|byte| *byte = !*byte);
    CaptureId(bytes)
}
